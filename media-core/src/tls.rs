//! TLS of RTMPS and of the web: certificates that are swapped while the servers run.
//!
//! A [`Certificates`] is the one holder: [`server_config`] makes any number of server configurations of it, each with its own ALPN, and
//! what [`Certificates::install`] puts in is served from the next handshake on. It is filled from files that are watched
//! ([`Certificates::watch`]), from a self-signed certificate ([`self_signed`]), or by ACME ([`acme`]).

pub mod acme;

use std::{
    collections::HashMap,
    fmt, fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tracing::{info, warn};

/// The ALPN protocol of ACME's challenge (RFC 8737 section 4).
pub const ACME_TLS_ALPN: &[u8] = b"acme-tls/1";

/// How often certificate files are looked at.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Not PEM, or without what it should hold.
    #[error("{path} holds no {what} in PEM form: {error}")]
    Pem {
        /// Which file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
        /// What is wrong.
        error: rustls::pki_types::pem::Error,
    },
    /// A certificate without its key, or a key that is not supported.
    #[error("the certificate in {certificate} cannot be used with the key in {key}: {error}")]
    Pair {
        /// Which file.
        certificate: PathBuf,
        /// Which file.
        key: PathBuf,
        /// What is wrong.
        error: rustls::Error,
    },
    /// A self-signed certificate could not be made.
    #[error("a self-signed certificate cannot be made for these names: {0}")]
    SelfSigned(#[from] rcgen::Error),
    /// The TLS library.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// A certificate chain and its key, PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The server's certificate, then the intermediate ones.
    pub certificate: PathBuf,
    /// The private key: PKCS #8, PKCS #1 or SEC1.
    pub key: PathBuf,
}

/// The certificate that is served now. Clones share it.
#[derive(Clone, Default)]
pub struct Certificates(Arc<Served>);

#[derive(Default)]
struct Served {
    current: RwLock<Option<Arc<CertifiedKey>>>,
    /// By domain, while ACME validates it.
    challenges: RwLock<HashMap<String, Arc<CertifiedKey>>>,
}

impl Certificates {
    /// Certificates that are read from files; [`Certificates::watch`] then keeps them.
    ///
    /// # Errors
    /// [`Error`] when they cannot be read or do not belong together.
    pub fn from_files(files: &Files) -> Result<Self, Error> {
        let certificates = Self::default();
        certificates.install(load(files)?);
        Ok(certificates)
    }

    /// Serves this certificate from the next handshake on.
    pub fn install(&self, certificate: CertifiedKey) {
        *self
            .0
            .current
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certificate));
    }

    /// Whether there is one to serve.
    pub fn is_ready(&self) -> bool {
        self.current().is_some()
    }

    /// Looks at the files every `interval` and serves what is in them when they have changed. What cannot be read, or does not belong
    /// together yet (they are two files), is left aside with a log line; the certificate before stays. Runs until it is dropped.
    pub async fn watch(self, files: Files, interval: Duration) {
        let mut seen = stamps(&files);
        let mut failed = None;
        loop {
            tokio::time::sleep(interval).await;
            let now = stamps(&files);
            if now == seen {
                continue;
            }
            // Two small files, read on the runtime once in a change.
            match load(&files) {
                Ok(certificate) => {
                    self.install(certificate);
                    info!(certificate = %files.certificate.display(), "certificate reloaded");
                    (seen, failed) = (now, None);
                }
                // Tried again each interval, and told once.
                Err(error) if failed.as_ref() != Some(&now) => {
                    warn!(%error, "the changed certificate is not used; the one before stays");
                    failed = Some(now);
                }
                Err(_) => {}
            }
        }
    }

    fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.0
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Answers ACME's TLS-ALPN-01 challenge for a domain; `None` ends it.
    fn challenge(&self, domain: &str, answer: Option<CertifiedKey>) {
        let mut challenges = self
            .0
            .challenges
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match answer {
            Some(answer) => challenges.insert(domain.to_owned(), Arc::new(answer)),
            None => challenges.remove(domain),
        };
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates")
            .field("ready", &self.is_ready())
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asks_for_challenge = hello
            .alpn()
            .is_some_and(|mut names| names.any(|name| name == ACME_TLS_ALPN));
        if asks_for_challenge {
            let challenges = self
                .0
                .challenges
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            return challenges
                .get(&hello.server_name()?.to_ascii_lowercase())
                .cloned();
        }
        self.current()
    }
}

/// A server's configuration: these certificates, and ALPN as the server wants it (`h2`, `http/1.1`; nothing for RTMPS). The challenge of
/// ACME is answered beside it where there is ALPN.
///
/// # Errors
/// [`Error::Tls`] when the TLS library is built without what is needed.
pub fn server_config(
    certificates: &Certificates,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, Error> {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let mut config = builder
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates.clone()));
    if !alpn.is_empty() {
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        // A client that offers only this one is the validating server; with no protocol in common it would be refused.
        config.alpn_protocols.push(ACME_TLS_ALPN.to_vec());
    }
    Ok(Arc::new(config))
}

/// The cryptography of every TLS connection. Named, because dependencies bring a second one and the process has no default.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Reads a certificate and its key.
///
/// # Errors
/// [`Error`] when they cannot be read or do not belong together.
pub fn load(files: &Files) -> Result<CertifiedKey, Error> {
    let chain_pem = read(&files.certificate)?;
    let key_pem = read(&files.key)?;
    let pem = |path: &Path, what| {
        let path = path.to_owned();
        move |error| Error::Pem { path, what, error }
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain_pem).collect();
    let chain = chain.map_err(pem(&files.certificate, "certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(&key_pem).map_err(pem(&files.key, "private key"))?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| Error::Pair {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        error,
    })
}

/// The self-signed certificate of a data folder, made for these names (or addresses) when there is none: `self-signed.crt` and
/// `self-signed.key`, readable by their owner alone. It is kept, whatever the names are later: viewers have said yes to it.
///
/// # Errors
/// [`Error`] when it cannot be made, written or read back.
pub fn self_signed(folder: &Path, names: &[String]) -> Result<Files, Error> {
    let files = Files {
        certificate: folder.join("self-signed.crt"),
        key: folder.join("self-signed.key"),
    };
    if files.certificate.exists() && files.key.exists() {
        load(&files)?;
        return Ok(files);
    }
    let mut parameters = rcgen::CertificateParams::new(names)?;
    parameters.not_before = rcgen::date_time_ymd(2025, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2049, 12, 31);
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, "Ghost Live, self-signed");
    let key = rcgen::KeyPair::generate()?;
    let certificate = parameters.self_signed(&key)?;
    // The key first: a certificate without its key is made anew at the next start.
    write_private(&files.key, key.serialize_pem().as_bytes())?;
    write_private(&files.certificate, certificate.pem().as_bytes())?;
    Ok(files)
}

/// Writes a file whole or not at all, for its owner alone.
pub(crate) fn write_private(path: &Path, contents: &[u8]) -> Result<(), Error> {
    let failed = |error| Error::File {
        path: path.to_owned(),
        error,
    };
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(failed)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| Error::File {
        path: path.to_owned(),
        error,
    })
}

/// When the files were written, and their sizes.
fn stamps(files: &Files) -> [Option<(SystemTime, u64)>; 2] {
    [&files.certificate, &files.key].map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn end_entity(certificates: &Certificates) -> CertificateDer<'static> {
        certificates.current().unwrap().cert[0].clone()
    }

    #[test]
    fn a_self_signed_certificate_is_made_once_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let files = self_signed(folder.path(), &names).unwrap();
        for path in [&files.certificate, &files.key] {
            assert_eq!(
                fs::metadata(path).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
        let first = end_entity(&Certificates::from_files(&files).unwrap());
        let again = self_signed(folder.path(), &["other.example".to_owned()]).unwrap();
        assert_eq!(
            end_entity(&Certificates::from_files(&again).unwrap()),
            first
        );
    }

    #[test]
    fn files_that_do_not_belong_together_are_refused_with_their_names() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let names = ["localhost".to_owned()];
        let (a, b) = (
            self_signed(one.path(), &names).unwrap(),
            self_signed(two.path(), &names).unwrap(),
        );
        let mixed = Files {
            certificate: a.certificate.clone(),
            key: b.key.clone(),
        };
        let error = Certificates::from_files(&mixed).unwrap_err().to_string();
        assert!(
            error.contains("self-signed.crt") && error.contains("self-signed.key"),
            "{error}"
        );
        let swapped = Files {
            certificate: a.key,
            key: a.certificate,
        };
        assert!(Certificates::from_files(&swapped).is_err());
        let missing = Files {
            certificate: one.path().join("none.crt"),
            key: b.key,
        };
        assert!(
            Certificates::from_files(&missing)
                .unwrap_err()
                .to_string()
                .contains("none.crt")
        );
    }

    #[tokio::test]
    async fn changed_files_are_served_and_half_changed_ones_are_not() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let names = ["localhost".to_owned()];
        let files = self_signed(folder.path(), &names).unwrap();
        let new = self_signed(other.path(), &names).unwrap();
        let certificates = Certificates::from_files(&files).unwrap();
        let (before, after) = (
            end_entity(&certificates),
            load(&new).unwrap().cert[0].clone(),
        );
        let watch = tokio::spawn(
            certificates
                .clone()
                .watch(files.clone(), Duration::from_millis(20)),
        );
        tokio::time::sleep(Duration::from_millis(50)).await;

        // Only the certificate, as long as the key is on its way.
        fs::copy(&new.certificate, &files.certificate).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(end_entity(&certificates), before);
        fs::copy(&new.key, &files.key).unwrap();
        let swapped = async {
            while end_entity(&certificates) != after {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), swapped)
            .await
            .expect("the new certificate is served");
        watch.abort();
    }
}
