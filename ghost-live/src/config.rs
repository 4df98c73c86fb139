//! `ghost-live.toml`: one file for all parts, every key optional.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use edge_worker::{
    directory::settings::Change,
    guard::{Origins, ProxyHeader},
    limits::Tenants,
    native as web,
    signaling::ice::IceServers,
    webhooks::{Hook, Hooks, signature::Secret},
};
use media_core::{
    broadcast,
    ingest::{self, Listen},
    publish,
    tls::{self, acme},
    transcode, webrtc,
};
use protocol::{cidr::Cidr, names::StreamName};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

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
    /// WebRTC viewers.
    pub(crate) webrtc: webrtc::Config,
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
    /// Whose tokens are good.
    pub(crate) access: web::AccessConfig,
    /// Who decides beside the keys and tokens, and who hears what happens.
    pub(crate) webhooks: Vec<Hook>,
    /// What tenants may take.
    pub(crate) tenants: Tenants,
    /// The streams.
    pub(crate) streams: BTreeMap<StreamName, Change>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: "./data".into(),
            web: Default::default(),
            ingest: Default::default(),
            webrtc: Default::default(),
            tls: Default::default(),
            broadcast: Default::default(),
            transcode: Default::default(),
            store: Default::default(),
            publish: Default::default(),
            edge: Default::default(),
            access: Default::default(),
            webhooks: Vec::new(),
            tenants: Default::default(),
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
    /// Addresses that the studio page gives for the encoder, best first. Default: this machine's, where it takes publishers.
    pub(crate) ingest_servers: Vec<String>,
    /// Memory for recent media, MiB.
    pub(crate) cache_mib: u32,
    /// Connections at one time; more wait.
    pub(crate) max_connections: usize,
    /// Ranges of addresses of reverse proxies whose word is taken for whom they ask.
    pub(crate) proxy_from: Vec<Cidr>,
    /// The header in which they say it.
    pub(crate) proxy_header: ProxyHeader,
    /// Other sites that may embed the player.
    pub(crate) embed_origins: Origins,
    /// ICE servers that WebRTC viewers are told of.
    pub(crate) ice_servers: IceServers,
    /// How long browsers that came over HTTPS keep to it, seconds.
    pub(crate) hsts_s: u32,
}

impl Default for Web {
    fn default() -> Self {
        let any = |port| Listen(Some((Ipv6Addr::UNSPECIFIED, port).into()));
        Self {
            listen: any(8080),
            tls_listen: any(8443),
            public_url: None,
            ingest_servers: Vec::new(),
            cache_mib: 256,
            max_connections: 20_000,
            proxy_from: Vec::new(),
            proxy_header: ProxyHeader::default(),
            embed_origins: Origins::default(),
            ice_servers: IceServers::default(),
            hsts_s: web::HSTS_S,
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
    /// A certificate authority that gives certificates by itself.
    pub(crate) acme: acme::Config,
}

/// Where the certificate comes from.
#[derive(Debug)]
pub(crate) enum Certificate<'a> {
    /// Made at the first start; encoders and browsers do not trust it.
    SelfSigned,
    /// From files.
    Files(tls::Files),
    /// From a certificate authority, by ACME.
    Acme(&'a acme::Config),
}

impl Tls {
    /// Where the certificate comes from.
    ///
    /// # Errors
    /// A sentence with the key that contradicts another, or is missing.
    pub(crate) fn certificate(&self) -> anyhow::Result<Certificate<'_>> {
        let by_acme = !self.acme.domains.is_empty();
        match (&self.cert, &self.key) {
            (Some(_), Some(_)) if by_acme => bail!(
                "tls.cert and tls.acme.domains are both set: use either files or a certificate authority"
            ),
            (Some(certificate), Some(key)) => Ok(Certificate::Files(tls::Files {
                certificate: certificate.clone(),
                key: key.clone(),
            })),
            (Some(_), None) => {
                bail!("tls.cert is set and tls.key is not: a certificate needs its key")
            }
            (None, Some(_)) => {
                bail!("tls.key is set and tls.cert is not: a key needs its certificate")
            }
            (None, None) if by_acme => Ok(Certificate::Acme(&self.acme)),
            (None, None) => Ok(Certificate::SelfSigned),
        }
    }

    /// Whether encoders and browsers accept the certificate, once there is one.
    pub(crate) fn is_trusted(&self) -> bool {
        !matches!(self.certificate(), Ok(Certificate::SelfSigned) | Err(_))
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

/// A number that works only within a range.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    /// Its key with its table.
    pub(crate) key: &'static str,
    /// What it is.
    pub(crate) value: u64,
    /// The least.
    pub(crate) low: u64,
    /// The most.
    pub(crate) high: u64,
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

    /// Looks for what can be read and yet cannot work.
    ///
    /// # Errors
    /// A sentence with the key.
    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        self.transcode.validate()?;
        for tenant in &self.tenants.0 {
            (tenant.check()).with_context(|| format!("[[tenants]] {:?}", tenant.prefix))?;
        }
        for (name, stream) in &self.streams {
            (stream.check()).with_context(|| format!("[streams.{name}]"))?;
        }
        for limit in self.limits() {
            if !(limit.low..=limit.high).contains(&limit.value) {
                bail!(
                    "{} is {}: use {} to {}",
                    limit.key,
                    limit.value,
                    limit.low,
                    limit.high
                );
            }
        }
        if self.ingest.queue_bytes < self.ingest.max_message_bytes {
            bail!(
                "ingest.queue_bytes is {}, less than ingest.max_message_bytes ({}): one message must fit",
                self.ingest.queue_bytes,
                self.ingest.max_message_bytes
            );
        }
        for (key, url) in [
            ("web.public_url", &self.web.public_url),
            ("edge.url", &self.edge.url),
        ] {
            if let Some(url) = url
                && !url.starts_with("http://")
                && !url.starts_with("https://")
            {
                bail!("{key} is {url:?}: begin it with https:// or http://");
            }
        }
        for url in &self.web.ingest_servers {
            if !url.starts_with("rtmp://") && !url.starts_with("rtmps://") {
                bail!("web.ingest_servers has {url:?}: begin it with rtmps:// or rtmp://");
            }
        }
        for hook in &self.webhooks {
            hook.check()?;
            if hook.deadline_ms >= self.ingest.admission_deadline_ms {
                bail!(
                    "webhooks.{}: deadline_ms is {}, and ingest.admission_deadline_ms ({}) has to be longer: nobody would wait for the answer",
                    hook.name,
                    hook.deadline_ms,
                    self.ingest.admission_deadline_ms
                );
            }
        }
        match self.tls.certificate()? {
            Certificate::Acme(acme) => self.validate_acme(acme),
            Certificate::Files(_) | Certificate::SelfSigned => Ok(()),
        }
    }

    /// The webhooks with the secrets from their files.
    ///
    /// # Errors
    /// A sentence with the webhook, when its configuration or its file is wrong.
    pub(crate) fn hooks(&self) -> anyhow::Result<Hooks> {
        let mut hooks = Vec::new();
        for hook in &self.webhooks {
            let file = hook.secret_file.as_ref().with_context(|| {
                format!(
                    "webhooks.{}: secret_file is not set: name a file with the secret that its requests are signed with",
                    hook.name
                )
            })?;
            let text = fs::read_to_string(file)
                .map(Zeroizing::new)
                .with_context(|| format!("webhooks.{}: reading secret_file {file}", hook.name))?;
            hooks.push((hook.clone(), Secret::new(&text)));
        }
        Ok(Hooks::new(hooks)?)
    }

    fn validate_acme(&self, acme: &acme::Config) -> anyhow::Result<()> {
        for domain in &acme.domains {
            if domain.starts_with('*') {
                bail!(
                    "tls.acme.domains has {domain:?}: a wildcard is validated by DNS alone; name each domain"
                );
            }
            let is_label = |label: &str| {
                !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            };
            if domain.parse::<IpAddr>().is_ok() || !domain.split('.').all(is_label) {
                bail!(
                    "tls.acme.domains has {domain:?}, which is not a domain such as live.example.org"
                );
            }
        }
        if let Some(contact) = &acme.contact
            && !contact.starts_with("mailto:")
        {
            bail!("tls.acme.contact is {contact:?}: write it as \"mailto:operator@example.org\"");
        }
        if !acme.directory.starts_with("https://") {
            bail!(
                "tls.acme.directory is {:?}: begin it with https://",
                acme.directory
            );
        }
        if self.edge.url.is_some() {
            bail!(
                "tls.acme.domains is set, and with edge.url there is no web server here that the certificate authority could ask: \
                 use tls.cert and tls.key"
            );
        }
        match acme.challenge {
            acme::Challenge::TlsAlpn01 if self.web.tls_listen.0.is_none() => bail!(
                "tls.acme.challenge is \"tls-alpn-01\", which web.tls_listen answers, and that is off: switch it on, or use \"http-01\""
            ),
            acme::Challenge::Http01 if self.web.listen.0.is_none() => bail!(
                "tls.acme.challenge is \"http-01\", which web.listen answers, and that is off: switch it on, or use \"tls-alpn-01\""
            ),
            acme::Challenge::TlsAlpn01 | acme::Challenge::Http01 => Ok(()),
        }
    }

    /// The numbers that have a range; those of `[transcode]` check themselves.
    pub(crate) fn limits(&self) -> Vec<Limit> {
        let (web, ingest, broadcast, publish) =
            (&self.web, &self.ingest, &self.broadcast, &self.publish);
        let limit = |key, value, low, high| Limit {
            key,
            value,
            low,
            high,
        };
        // A count that is beyond u64 does not exist.
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        vec![
            limit("web.cache_mib", web.cache_mib.into(), 1, 1 << 20),
            limit(
                "web.max_connections",
                count(web.max_connections),
                1,
                1_000_000,
            ),
            limit(
                "ingest.handshake_deadline_ms",
                ingest.handshake_deadline_ms,
                500,
                60_000,
            ),
            limit(
                "ingest.admission_deadline_ms",
                ingest.admission_deadline_ms,
                500,
                60_000,
            ),
            limit("ingest.silence_ms", ingest.silence_ms, 1_000, 300_000),
            limit(
                "ingest.max_message_bytes",
                count(ingest.max_message_bytes),
                1 << 16,
                0xff_ffff,
            ),
            limit(
                "ingest.max_bitrate_bps",
                ingest.max_bitrate_bps,
                100_000,
                1_000_000_000,
            ),
            limit(
                "ingest.max_connections",
                count(ingest.max_connections),
                1,
                100_000,
            ),
            limit(
                "ingest.max_connections_per_address",
                count(ingest.max_connections_per_address),
                1,
                100_000,
            ),
            limit(
                "ingest.max_unadmitted",
                count(ingest.max_unadmitted),
                1,
                100_000,
            ),
            limit(
                "ingest.queue_events",
                count(ingest.queue_events),
                64,
                65_536,
            ),
            limit(
                "ingest.queue_bytes",
                count(ingest.queue_bytes),
                1 << 20,
                1 << 30,
            ),
            limit(
                "broadcast.reconnect_s",
                broadcast.reconnect_s.into(),
                0,
                300,
            ),
            limit("broadcast.window_s", broadcast.window_s.into(), 20, 86_400),
            limit("publish.memory_mib", publish.memory_mib.into(), 8, 65_536),
            limit("publish.spool_mib", publish.spool_mib.into(), 0, 1 << 24),
            limit(
                "publish.parallel_puts",
                count(publish.parallel_puts),
                3,
                256,
            ),
            limit(
                "publish.parallel_deletes",
                count(publish.parallel_deletes),
                1,
                64,
            ),
        ]
    }

    /// The address that viewers use, without a slash at the end.
    pub(crate) fn public_url(&self) -> String {
        if let Some(url) = &self.web.public_url {
            return url.trim_end_matches('/').to_owned();
        }
        if let Some(url) = &self.edge.url {
            // The edge serves the viewers.
            return url.trim_end_matches('/').to_owned();
        }
        if let (Some(domain), Some(https)) = (self.tls.acme.domains.first(), self.web.tls_listen.0)
        {
            // TLS-ALPN-01 works only where port 443 leads here, whatever the port is called on this machine.
            return match (self.tls.acme.challenge, https.port()) {
                (acme::Challenge::TlsAlpn01, _) | (_, 443) => format!("https://{domain}"),
                (acme::Challenge::Http01, port) => format!("https://{domain}:{port}"),
            };
        }
        let address = self.web.listen.0.or(self.web.tls_listen.0);
        match address.and_then(|address| panel::reachable(address).last().copied()) {
            Some(address) => format!("http://{address}"),
            None => "http://127.0.0.1".to_owned(),
        }
    }

    /// The name under which encoders find a trusted certificate: of the public address, or the first that the certificate is for.
    pub(crate) fn rtmps_host(&self) -> Option<String> {
        let (domains, host) = (&self.tls.acme.domains, self.public_host());
        match domains.first() {
            Some(first) => Some(
                host.filter(|host| domains.contains(host))
                    .unwrap_or_else(|| first.clone()),
            ),
            None => host,
        }
    }

    /// Host name of the public address.
    fn public_host(&self) -> Option<String> {
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
    pub(crate) fn streams(&self) -> BTreeMap<StreamName, Change> {
        let main = || {
            let name = "main".parse().ok()?;
            Some((name, Change::default()))
        };
        match self.streams.is_empty() {
            true => main().into_iter().collect(),
            false => self.streams.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use edge_worker::directory::settings::LimitsChange;

    use super::*;

    /// The reference, checked here against the code.
    const REFERENCE: &str = include_str!("../../docs/configuration.md");

    fn parse(text: &str) -> Result<Config, explain::Problem> {
        Config::parse(Path::new("ghost-live.toml"), text)
    }

    fn refusal(text: &str) -> String {
        parse(text).unwrap().validate().unwrap_err().to_string()
    }

    /// A row of the reference.
    #[derive(Debug)]
    struct Row {
        key: String,
        default: String,
        meaning: String,
    }

    /// The sections of the reference that document a table: its heading, such as `[web]`, and its rows.
    fn sections() -> Vec<(&'static str, Vec<Row>)> {
        let sections = REFERENCE.split("\n## ").skip(1);
        sections
            .map(|section| {
                let (heading, body) = section.split_once('\n').unwrap();
                let rows = body.lines().filter(|line| line.starts_with("| `"));
                let rows = rows.map(|line| {
                    let cells: Vec<_> =
                        line.trim_matches('|').split(" | ").map(str::trim).collect();
                    let [key, default, meaning] = cells[..] else {
                        panic!("not three cells: {line}");
                    };
                    Row {
                        key: key.trim_matches('`').to_owned(),
                        default: default.trim_matches('`').to_owned(),
                        meaning: meaning.to_owned(),
                    }
                });
                (heading, rows.collect())
            })
            .collect()
    }

    /// Dotted path of a table by its heading; empty for the top level.
    fn table_path(heading: &str) -> String {
        match heading {
            "Top level" => String::new(),
            table => table.replace(['[', ']'], ""),
        }
    }

    /// The keys that the code takes in a table: those that the parser lists when it meets one that there is not.
    fn keys_of(heading: &str) -> Vec<String> {
        let header = match heading {
            "Top level" => "",
            table => table,
        };
        let text = format!("{}\nno_such_key = 1\n", header.replace("NAME", "main"));
        let error = toml::from_str::<Config>(&text).unwrap_err();
        let message = error.message();
        assert!(
            message.contains("unknown field `no_such_key`"),
            "{heading}: {message}"
        );
        let keys = explain::expected(message);
        keys.into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn the_reference_has_every_key_of_the_code_and_no_other() {
        let headings: Vec<_> = sections()
            .iter()
            .map(|(heading, _)| table_path(heading))
            .collect();
        for (heading, rows) in sections() {
            let path = table_path(heading);
            let child = |key: &str| match path.as_str() {
                "" => key.to_owned(),
                path => format!("{path}.{key}"),
            };
            let in_code: std::collections::BTreeSet<_> = keys_of(heading).into_iter().collect();
            let tables = headings.iter().filter_map(|other| {
                let (parent, key) = other.rsplit_once('.').unwrap_or(("", other));
                (parent == path && !key.is_empty() && key != "NAME").then(|| key.to_owned())
            });
            // `streams` is documented by the table of one stream.
            let streams = (path.is_empty() && headings.iter().any(|other| other == "streams.NAME"))
                .then(|| "streams".to_owned());
            let keys = rows.iter().map(|row| row.key.clone());
            let documented: std::collections::BTreeSet<_> =
                keys.chain(tables).chain(streams).collect();
            assert_eq!(documented, in_code, "{heading}");
            for row in &rows {
                assert!(!row.meaning.is_empty(), "{}", child(&row.key));
            }
        }
    }

    #[test]
    fn the_reference_has_the_defaults_of_the_code() {
        let defaults = toml::Value::try_from(Config::default()).unwrap();
        for (heading, rows) in sections() {
            let path = table_path(heading);
            let parts = path.split('.').filter(|part| !part.is_empty());
            let table = match heading {
                // One of several: what the code gives a rung, or a stream, of which only the necessary is said.
                "[[transcode.ladder]]" => {
                    let text = "[[transcode.ladder]]\nheight = 720\nbitrate_bps = 1_000_000\n";
                    let rung = parse(text).unwrap().transcode.ladder.remove(0);
                    let mut rung = toml::Value::try_from(rung).unwrap();
                    for given in ["height", "bitrate_bps"] {
                        rung.as_table_mut().unwrap().remove(given).unwrap();
                    }
                    rung
                }
                "[streams.NAME]" => toml::Value::try_from(Change::default()).unwrap(),
                "[streams.NAME.limits]" => toml::Value::try_from(LimitsChange::default()).unwrap(),
                "[[webhooks]]" => {
                    let text = "[[webhooks]]\nname = \"a\"\nurl = \"https://a.example/\"\non = [\"publish\"]\n";
                    let hook = parse(text).unwrap().webhooks.remove(0);
                    let mut hook = toml::Value::try_from(hook).unwrap();
                    for given in ["name", "url", "on"] {
                        hook.as_table_mut().unwrap().remove(given).unwrap();
                    }
                    hook
                }
                _ => parts.fold(defaults.clone(), |table, part| table[part].clone()),
            };
            for row in rows {
                let documented = match row.default.as_str() {
                    "–" => None,
                    value => {
                        let text = format!("value = {value}");
                        Some(text.parse::<toml::Table>().unwrap()["value"].clone())
                    }
                };
                assert_eq!(
                    documented.as_ref(),
                    table.get(&row.key),
                    "{heading} {}",
                    row.key
                );
            }
        }
    }

    fn with_commas(value: u64) -> String {
        let digits = value.to_string();
        let mut text = String::new();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        text
    }

    #[test]
    fn the_reference_has_the_ranges_of_the_code() {
        let sections = sections();
        for limit in Config::default().limits() {
            let (table, key) = limit.key.rsplit_once('.').unwrap();
            let (_, rows) = sections
                .iter()
                .find(|(heading, _)| table_path(heading) == table)
                .unwrap();
            let row = rows.iter().find(|row| row.key == key).unwrap();
            let range = format!("{} to {}", with_commas(limit.low), with_commas(limit.high));
            assert!(row.meaning.contains(&range), "{}: {range}", limit.key);
        }
    }

    #[test]
    fn the_example_of_the_reference_works() {
        let example = REFERENCE.split("```toml\n").nth(1).unwrap();
        let example = example.split("```").next().unwrap();
        let config = parse(example).unwrap_or_else(|problem| panic!("{problem}"));
        config.validate().unwrap();
        assert_eq!(config.public_url(), "https://live.example.org");
        assert_eq!(config.transcode.ladder.len(), 2);
    }

    #[test]
    fn defaults_are_valid_and_a_number_out_of_its_range_is_named() {
        Config::default().validate().unwrap();
        for limit in Config::default().limits() {
            let (table, key) = limit.key.rsplit_once('.').unwrap();
            let set = |value: u64| format!("[{table}]\n{key} = {value}\n");
            assert_eq!(
                refusal(&set(limit.high + 1)),
                format!(
                    "{} is {}: use {} to {}",
                    limit.key,
                    limit.high + 1,
                    limit.low,
                    limit.high
                )
            );
            if let Some(below) = limit.low.checked_sub(1) {
                assert!(refusal(&set(below)).starts_with(limit.key));
            }
        }
        assert_eq!(
            refusal("[broadcast]\nwindow_s = 19\n"),
            "broadcast.window_s is 19: use 20 to 86400"
        );
    }

    #[test]
    fn keys_that_contradict_each_other_are_refused_by_name() {
        for (text, keys) in [
            ("[tls]\ncert = \"a.pem\"\n", ["tls.cert", "tls.key"]),
            ("[tls]\nkey = \"a.pem\"\n", ["tls.key", "tls.cert"]),
            (
                "[tls]\ncert = \"a.pem\"\nkey = \"b.pem\"\nacme.domains = [\"a.example\"]\n",
                ["tls.cert", "tls.acme.domains"],
            ),
            (
                "[tls.acme]\ndomains = [\"a.example\"]\n[web]\ntls_listen = \"off\"\n",
                ["tls.acme.challenge", "web.tls_listen"],
            ),
            (
                "[tls.acme]\ndomains = [\"a.example\"]\nchallenge = \"http-01\"\n[web]\nlisten = \"off\"\n",
                ["tls.acme.challenge", "web.listen"],
            ),
            (
                "[tls.acme]\ndomains = [\"a.example\"]\n[edge]\nurl = \"https://b.example\"\n",
                ["tls.acme.domains", "edge.url"],
            ),
            (
                "[tls.acme]\ndomains = [\"*.example\"]\n",
                ["tls.acme.domains", "wildcard"],
            ),
            (
                "[tls.acme]\ndomains = [\"192.0.2.1\"]\n",
                ["tls.acme.domains", "192.0.2.1"],
            ),
            (
                "[tls.acme]\ndomains = [\"a.example\"]\ncontact = \"me@a.example\"\n",
                ["tls.acme.contact", "mailto:"],
            ),
            (
                "[web]\npublic_url = \"live.example.org\"\n",
                ["web.public_url", "https://"],
            ),
            (
                "[web]\ningest_servers = [\"live.example.org\"]\n",
                ["web.ingest_servers", "rtmps://"],
            ),
            (
                "[ingest]\nadmission_deadline_ms = 2_000\n[[webhooks]]\nname = \"a\"\nurl = \"https://a.example/\"\non = [\"publish\"]\n",
                ["webhooks.a: deadline_ms", "ingest.admission_deadline_ms"],
            ),
            (
                "[[webhooks]]\nname = \"a\"\nurl = \"http://169.254.169.254/\"\non = [\"publish\"]\n",
                ["webhooks.a", "allow_networks"],
            ),
            (
                "[ingest]\nqueue_bytes = 2_000_000\n",
                ["ingest.queue_bytes", "ingest.max_message_bytes"],
            ),
        ] {
            let refusal = refusal(text);
            assert!(
                keys.iter().all(|key| refusal.contains(key)),
                "{text}: {refusal}"
            );
        }
    }

    #[test]
    fn a_turn_server_without_its_secret_is_refused_where_it_stands() {
        let text = |more| {
            format!("[web]\nice_servers = [{{ urls = [\"turn:turn.example.org\"]{more} }}]\n")
        };
        let refused = parse(&text("")).unwrap_err();
        assert!(
            format!("{refused:?}").contains("web.ice_servers"),
            "{refused:?}"
        );
        assert!(parse(&text(", secret = \"as in coturn\"")).is_ok());
    }

    #[test]
    fn a_domain_is_what_viewers_and_encoders_are_given() {
        let acme = "[tls.acme]\ndomains = [\"live.example.org\", \"tv.example.org\"]\n";
        let config = parse(acme).unwrap();
        assert!(config.tls.is_trusted());
        assert_eq!(config.public_url(), "https://live.example.org");
        assert_eq!(config.rtmps_host().unwrap(), "live.example.org");
        let config = parse(&format!("{acme}challenge = \"http-01\"\n")).unwrap();
        assert_eq!(config.public_url(), "https://live.example.org:8443");
        for (public, host) in [
            ("tv.example.org", "tv.example.org"),
            // In front of another name there is a proxy, and RTMPS does not go through it.
            ("cdn.example.org", "live.example.org"),
        ] {
            let text = format!("{acme}[web]\npublic_url = \"https://{public}/\"\n");
            let config = parse(&text).unwrap();
            assert_eq!(config.public_url(), format!("https://{public}"));
            assert_eq!(config.rtmps_host().unwrap(), host);
        }
        assert!(!Config::default().tls.is_trusted());
    }
}
