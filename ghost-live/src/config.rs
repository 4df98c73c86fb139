//! `ghost-live.toml`: one file for all parts, every key optional.

use std::{
    collections::BTreeMap,
    fs, io,
    net::Ipv6Addr,
    path::{Path, PathBuf},
};

use anyhow::Context;
use media_core::{
    broadcast,
    ingest::{self, Listen},
    publish, tls, transcode,
};
use protocol::names::StreamName;
use serde::{Deserialize, Serialize};

use crate::{Files, explain, panel};

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "ghost-live.toml";

/// Everything that can be configured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Where keys, certificates, the directory and (by default) media are kept.
    pub(crate) data: PathBuf,
    /// Pages, playlists and media.
    pub(crate) web: Web,
    /// RTMP and RTMPS.
    pub(crate) ingest: ingest::Config,
    /// Certificates of RTMPS and HTTPS.
    pub(crate) tls: Tls,
    /// The life of a broadcast.
    pub(crate) broadcast: broadcast::Config,
    /// The ladder and its encoder.
    pub(crate) transcode: transcode::Config,
    /// Where objects go.
    pub(crate) store: publish::store::Config,
    /// What publishing may take.
    pub(crate) publish: publish::queue::Limits,
    /// The edge, where it is not in this process.
    pub(crate) edge: RemoteEdge,
    /// The streams.
    pub(crate) streams: BTreeMap<StreamName, Stream>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: "./data".into(),
            web: Default::default(),
            ingest: Default::default(),
            tls: Default::default(),
            broadcast: Default::default(),
            transcode: Default::default(),
            store: Default::default(),
            publish: Default::default(),
            edge: Default::default(),
            streams: BTreeMap::new(),
        }
    }
}

/// `[web]`: pages, playlists and media.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Web {
    /// Address and port of HTTP, or `off`. `[::]` takes IPv4 as well.
    pub(crate) listen: Listen,
    /// Address and port of HTTPS (HTTP/2 and HTTP/1.1), or `off`. Only with a certificate under `[tls]`.
    pub(crate) tls_listen: Listen,
    /// Address that viewers use, such as `https://live.example.org`. Default: this machine's, as far as it is known.
    pub(crate) public_url: Option<String>,
    /// Memory for recent media, MiB.
    pub(crate) cache_mib: u32,
    /// Connections at one time; more wait.
    pub(crate) max_connections: usize,
}

impl Default for Web {
    fn default() -> Self {
        let any = |port| Listen(Some((Ipv6Addr::UNSPECIFIED, port).into()));
        Self {
            listen: any(8080),
            tls_listen: any(8443),
            public_url: None,
            cache_mib: 256,
            max_connections: 20_000,
        }
    }
}

/// `[tls]`: the certificate of RTMPS and HTTPS.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tls {
    /// The certificate and the intermediate ones, PEM. Read again when it changes.
    pub(crate) cert: Option<PathBuf>,
    /// Its private key, PEM.
    pub(crate) key: Option<PathBuf>,
}

impl Tls {
    /// The files, where they are configured.
    ///
    /// # Errors
    /// When only one of the two is.
    pub(crate) fn files(&self) -> anyhow::Result<Option<tls::Files>> {
        match (&self.cert, &self.key) {
            (Some(certificate), Some(key)) => Ok(Some(tls::Files {
                certificate: certificate.clone(),
                key: key.clone(),
            })),
            (None, None) => Ok(None),
            (Some(_), None) => {
                anyhow::bail!("tls.cert is set and tls.key is not: a certificate needs its key")
            }
            (None, Some(_)) => {
                anyhow::bail!("tls.key is set and tls.cert is not: a key needs its certificate")
            }
        }
    }
}

/// The edge, where it is not in this process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RemoteEdge {
    /// Its address, such as `https://live.example.org`. Without one `ghost-live up` serves viewers itself.
    pub(crate) url: Option<String>,
    /// File with the secret that box and edge share, 32 characters or more. `ghost-live edge` makes one in the data folder where there is none.
    pub(crate) link_secret_file: Option<PathBuf>,
}

/// A stream.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Stream {
    /// What the pages call it.
    pub(crate) title: Option<String>,
}

impl Config {
    /// Reads the file that the command line names, or `ghost-live.toml` where there is one, or nothing.
    ///
    /// # Errors
    /// [`explain::Problem`] for what is wrong in the file; an I/O error for a named file that cannot be read.
    pub(crate) fn load(files: &Files) -> anyhow::Result<Self> {
        let named = files.config.clone();
        let path = named.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => {
                String::new()
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let mut config = Self::parse(&path, &text)?;
        if let Some(data) = &files.data {
            config.data.clone_from(data);
        }
        Ok(config)
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// [`explain::Problem`].
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, explain::Problem> {
        toml::from_str(text).map_err(|error| explain::explain(path.to_owned(), text, &error))
    }

    /// The address that viewers use, without a slash at the end.
    pub(crate) fn public_url(&self) -> String {
        if let Some(url) = &self.web.public_url {
            return url.trim_end_matches('/').to_owned();
        }
        let address = self.web.listen.0.or(self.web.tls_listen.0);
        match address.and_then(|address| panel::reachable(address).last().copied()) {
            Some(address) => format!("http://{address}"),
            None => "http://127.0.0.1".to_owned(),
        }
    }

    /// Host name of the public address.
    pub(crate) fn public_host(&self) -> Option<String> {
        let url = self.web.public_url.as_deref()?;
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let authority = rest.split('/').next().unwrap_or_default();
        let host = match authority.strip_prefix('[') {
            Some(v6) => v6.split(']').next().map(|host| format!("[{host}]")),
            None => authority.split(':').next().map(str::to_owned),
        };
        host.filter(|host| !host.is_empty())
    }

    /// The streams that there are: those of the file, or `main` where it names none.
    pub(crate) fn stream_names(&self) -> Vec<StreamName> {
        match self.streams.is_empty() {
            true => "main".parse().into_iter().collect(),
            false => self.streams.keys().cloned().collect(),
        }
    }
}
