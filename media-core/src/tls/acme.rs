//! Certificates by ACME (RFC 8555): an account and certificates kept in the data folder, renewed in time.
//!
//! A domain is validated by TLS-ALPN-01 (RFC 8737), which a listener of [`server_config`](super::server_config) with ALPN answers where port 443
//! reaches it, or by HTTP-01, whose answers the web server takes from [`Http01`] where port 80 reaches it.

use std::{
    collections::HashMap,
    fmt, fs,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use instant_acme::{
    Account, AccountBuilder, AccountCredentials, AuthorizationStatus, BodyWrapper, BytesResponse,
    ChallengeType, HttpClient, Identifier, NewAccount, NewOrder, OrderStatus, RetryPolicy,
};
use rustls::{
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{Certificates, Files, load, provider, write_private};

/// Let's Encrypt.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// How long the certificate authority may take over one request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// How long validation and issue may take each.
const ISSUE_DEADLINE: Duration = Duration::from_secs(120);

/// The first and the longest wait after a failure. Authorities count failures by the hour.
const RETRY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3_600));

/// How a domain is validated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Challenge {
    /// Within TLS, on port 443.
    #[default]
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// Over plain HTTP, on port 80.
    #[serde(rename = "http-01")]
    Http01,
}

/// The `tls.acme` section of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Names of the certificate. Naming one is agreeing to the authority's terms of service.
    pub domains: Vec<String>,
    /// Where the authority writes to when something is wrong, such as `mailto:operator@example.com`.
    pub contact: Option<String>,
    /// The authority's directory.
    pub directory: String,
    /// How it validates the domains: `tls-alpn-01` (port 443 must reach the web server) or `http-01` (port 80).
    pub challenge: Challenge,
    /// PEM file of the root that the directory's own certificate is checked against, for a private authority.
    pub root: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            contact: None,
            directory: LETS_ENCRYPT.into(),
            challenge: Challenge::default(),
            root: None,
        }
    }
}

/// Why there is no certificate yet.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No domain is configured.
    #[error("tls.acme.domains names no domain")]
    NoDomain,
    /// The HTTP client.
    #[error("the client for the certificate authority cannot be set up: {0}")]
    Client(#[from] reqwest::Error),
    /// The authority said no, or could not be reached.
    #[error("the certificate authority: {0}")]
    Acme(#[from] instant_acme::Error),
    /// A challenge that the authority does not offer.
    #[error(
        "the certificate authority does not offer {challenge:?} for {domain}; set tls.acme.challenge to the other one"
    )]
    NotOffered {
        /// Ours.
        challenge: Challenge,
        /// For which name.
        domain: String,
    },
    /// The authority could not reach this server.
    #[error(
        "the certificate authority could not validate the domains: {0}; port 443 (tls-alpn-01) or 80 (http-01) of each must reach this server"
    )]
    NotValidated(String),
    /// A file, or a certificate that cannot be used.
    #[error("{0}")]
    Tls(#[from] super::Error),
    /// The stored account is not readable.
    #[error("{path} is not an ACME account ({error}); delete it to make a new one")]
    Account {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        error: serde_json::Error,
    },
    /// What was issued is not a certificate.
    #[error("the certificate authority sent what is not a certificate")]
    NotACertificate,
}

/// Answers to HTTP-01: `GET /.well-known/acme-challenge/{token}` → `text/plain`. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Http01(Arc<RwLock<HashMap<String, String>>>);

impl Http01 {
    /// The body of the answer, while the token is being validated.
    pub fn answer(&self, token: &str) -> Option<String> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(token)
            .cloned()
    }

    fn set(&self, token: &str, answer: String) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(token.to_owned(), answer);
    }

    fn clear(&self) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// Gets certificates and keeps them valid.
pub struct Issuer {
    config: Config,
    files: Files,
    account: PathBuf,
    certificates: Certificates,
    http01: Http01,
    client: reqwest::Client,
}

impl Issuer {
    /// For these domains, with account and certificate in `folder`; what is there and valid is served at once.
    ///
    /// # Errors
    /// [`Error`] when no domain is named or the client cannot be set up.
    pub fn new(config: Config, folder: &Path, certificates: Certificates) -> Result<Self, Error> {
        let first = config.domains.first().ok_or(Error::NoDomain)?;
        let name: String = first
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
            .collect();
        let mut client = reqwest::Client::builder()
            .timeout(REQUEST_DEADLINE)
            .user_agent("ghost-live");
        if let Some(root) = &config.root {
            client = client.tls_certs_only([reqwest::Certificate::from_pem(&super::read(root)?)?]);
        }
        let issuer = Self {
            files: Files {
                certificate: folder.join(format!("acme-{name}.crt")),
                key: folder.join(format!("acme-{name}.key")),
            },
            account: folder.join("acme-account.json"),
            certificates,
            http01: Http01::default(),
            client: client.build()?,
            config,
        };
        if let Ok((stored, _)) = issuer.stored() {
            issuer.certificates.install(stored);
        }
        Ok(issuer)
    }

    /// Answers for the web server.
    pub fn http01(&self) -> Http01 {
        self.http01.clone()
    }

    /// Whether there is a certificate of the authority for these domains that holds now.
    pub fn is_issued(&self) -> bool {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.stored()
            .is_ok_and(|(_, validity)| validity.to > now && validity.from <= now)
    }

    /// Orders and renews for as long as it is polled. `issued` is called when the first certificate is there.
    pub async fn run(self, issued: impl FnOnce()) {
        let mut retry = RETRY.0;
        let mut issued = Some(issued).filter(|_| !self.is_issued());
        loop {
            let wait = match self.ensure().await {
                Ok(wait) => {
                    if let Some(issued) = issued.take() {
                        issued();
                    }
                    retry = RETRY.0;
                    wait
                }
                Err(error) => {
                    let wait = retry;
                    warn!(domains = ?self.config.domains, %error, retry_s = wait.as_secs(), "no new certificate");
                    retry = (retry * 2).min(RETRY.1);
                    wait
                }
            };
            // In steps, so that a machine that slept does not oversleep a renewal.
            tokio::time::sleep(wait.min(Duration::from_secs(6 * 3_600))).await;
        }
    }

    /// Gets a certificate if there is none, or it is for other names, or in its last third; how long until that is so.
    ///
    /// # Errors
    /// [`Error`] when it cannot be had; the one before is still served.
    pub async fn ensure(&self) -> Result<Duration, Error> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        if let Ok((_, validity)) = self.stored()
            && let Some(wait) = validity
                .renewal()
                .checked_sub(now)
                .filter(|wait| !wait.is_zero())
        {
            return Ok(wait);
        }
        let issued = self.order().await;
        self.http01.clear();
        for domain in &self.config.domains {
            self.certificates.challenge(domain, None);
        }
        let (chain, key) = issued?;
        write_private(&self.files.key, key.as_bytes())?;
        write_private(&self.files.certificate, chain.as_bytes())?;
        let (certificate, validity) = self.stored()?;
        self.certificates.install(certificate);
        info!(domains = ?self.config.domains, "certificate issued");
        Ok(validity.renewal().saturating_sub(now))
    }

    /// The certificate in the folder, if it is for the domains of the configuration.
    fn stored(&self) -> Result<(CertifiedKey, Validity), Error> {
        let certificate = load(&self.files)?;
        let leaf = certificate.cert.first().ok_or(Error::NotACertificate)?;
        let validity = Validity::of(leaf, &self.config.domains).ok_or(Error::NotACertificate)?;
        Ok((certificate, validity))
    }

    /// An order from beginning to end: the chain and its key, PEM.
    async fn order(&self) -> Result<(String, String), Error> {
        let account = self.account().await?;
        let identifiers: Vec<_> = self
            .config
            .domains
            .iter()
            .cloned()
            .map(Identifier::Dns)
            .collect();
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let domain = authorization.identifier().to_string();
            let challenge = match self.config.challenge {
                Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
                Challenge::Http01 => ChallengeType::Http01,
            };
            let mut challenge =
                authorization
                    .challenge(challenge)
                    .ok_or_else(|| Error::NotOffered {
                        challenge: self.config.challenge,
                        domain: domain.clone(),
                    })?;
            let answer = challenge.key_authorization();
            match self.config.challenge {
                Challenge::TlsAlpn01 => {
                    let certificate = challenge_certificate(&domain, answer.digest().as_ref())?;
                    self.certificates.challenge(&domain, Some(certificate));
                }
                Challenge::Http01 => self
                    .http01
                    .set(&challenge.token, answer.as_str().to_owned()),
            }
            challenge.set_ready().await?;
        }
        let patience = RetryPolicy::new().timeout(ISSUE_DEADLINE);
        match order.poll_ready(&patience).await {
            Ok(OrderStatus::Ready | OrderStatus::Valid) => {}
            Ok(status) => return Err(Error::NotValidated(format!("{status:?}"))),
            Err(error) => return Err(Error::NotValidated(error.to_string())),
        }
        let mut parameters = rcgen::CertificateParams::new(self.config.domains.clone())
            .map_err(super::Error::from)?;
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        let key = rcgen::KeyPair::generate().map_err(super::Error::from)?;
        let request = parameters
            .serialize_request(&key)
            .map_err(super::Error::from)?;
        order.finalize_csr(request.der()).await?;
        let chain = order.poll_certificate(&patience).await?;
        Ok((chain, key.serialize_pem()))
    }

    /// The account of the folder, or a new one.
    async fn account(&self) -> Result<Account, Error> {
        let builder = || -> AccountBuilder {
            Account::builder_with_http(Box::new(Client(self.client.clone())))
        };
        let unreadable = |error| Error::Account {
            path: self.account.clone(),
            error,
        };
        if let Ok(stored) = fs::read(&self.account) {
            let credentials: AccountCredentials =
                serde_json::from_slice(&stored).map_err(unreadable)?;
            return Ok(builder().from_credentials(credentials).await?);
        }
        let contact: Vec<&str> = self.config.contact.as_deref().into_iter().collect();
        let new = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let (account, credentials) = builder()
            .create(&new, self.config.directory.clone(), None)
            .await?;
        let stored = serde_json::to_vec_pretty(&credentials).map_err(unreadable)?;
        write_private(&self.account, &stored)?;
        Ok(account)
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The certificate that answers TLS-ALPN-01 (RFC 8737 section 3).
fn challenge_certificate(domain: &str, digest: &[u8]) -> Result<CertifiedKey, super::Error> {
    let mut parameters = rcgen::CertificateParams::new([domain.to_owned()])?;
    parameters.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(digest)];
    let key = rcgen::KeyPair::generate()?;
    let certificate = parameters.self_signed(&key)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    // Not by `from_der`, which reads the certificate: it does not know the critical extension that this one is all about.
    let key = provider().key_provider.load_private_key(key)?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

/// When a certificate is valid, since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Validity {
    from: Duration,
    to: Duration,
}

impl Validity {
    /// Of a certificate for all of these names.
    fn of(der: &[u8], domains: &[String]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        let is_for = |domain: &String| {
            let is_it = |name: &x509_parser::extensions::GeneralName<'_>| matches!(name, x509_parser::extensions::GeneralName::DNSName(name) if name.eq_ignore_ascii_case(domain));
            names.value.general_names.iter().any(is_it)
        };
        let since_1970 = |time: x509_parser::time::ASN1Time| {
            u64::try_from(time.timestamp())
                .ok()
                .map(Duration::from_secs)
        };
        domains.iter().all(is_for).then_some(())?;
        Some(Self {
            from: since_1970(certificate.validity().not_before)?,
            to: since_1970(certificate.validity().not_after)?,
        })
    }

    /// When the last third begins.
    fn renewal(self) -> Duration {
        self.to
            .saturating_sub(self.to.saturating_sub(self.from) / 3)
    }
}

/// The ACME library's requests over the project's one HTTP client.
struct Client(reqwest::Client);

impl HttpClient for Client {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move {
            let other = |error: reqwest::Error| instant_acme::Error::Other(Box::new(error));
            let request =
                reqwest::Request::try_from(request.map(reqwest::Body::wrap)).map_err(other)?;
            let response = client.execute(request).await.map_err(other)?;
            Ok(http::Response::<reqwest::Body>::from(response).into())
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_certificate_is_renewed_in_its_last_third_and_only_serves_its_own_names() {
        let names = vec!["live.example".to_owned(), "www.live.example".to_owned()];
        let mut parameters = rcgen::CertificateParams::new(names.clone()).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2026, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2026, 4, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let validity = Validity::of(certificate.der(), &names).unwrap();
        let day = Duration::from_secs(86_400);
        assert_eq!(validity.to - validity.from, day * 90);
        assert_eq!(validity.renewal() - validity.from, day * 60);
        assert_eq!(
            Validity::of(certificate.der(), &["other.example".to_owned()]),
            None
        );
        assert_eq!(Validity::of(b"not DER", &names), None);
    }

    #[test]
    fn the_configuration_names_its_challenges_as_the_field_does() {
        let config: Config =
            serde_json::from_str(r#"{"domains": ["a.example"], "challenge": "http-01"}"#).unwrap();
        assert_eq!(config.challenge, Challenge::Http01);
        assert_eq!(config.directory, LETS_ENCRYPT);
        assert!(serde_json::from_str::<Config>(r#"{"domain": "a.example"}"#).is_err());
        assert!(matches!(
            Issuer::new(Config::default(), Path::new("."), Certificates::default()),
            Err(Error::NoDomain)
        ));
    }
}
