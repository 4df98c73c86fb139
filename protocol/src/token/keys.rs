//! The keys that sign tokens, and those that are trusted to have signed one.

use std::{collections::BTreeMap, fmt};

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::SECRET_KEY_LENGTH;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    AHEAD_MS, Action, Claims, Grant, MAX_BYTES, MAX_PUBLISH_BYTES, Refusal, Seconds, Tag, ed25519,
};

/// How long a key's id is: so many characters of the key's thumbprint.
const KID_CHARS: usize = 8;
/// The longest `sub`, `jti`, `kid` and issuer, characters.
pub const MAX_TEXT_CHARS: usize = 128;

/// Why a key is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 32 bytes of base64url that are a point of the curve.
    #[error(
        "{0:?} is not an Ed25519 public key: give its 32 bytes in base64url, as the \"x\" of its JSON Web Key"
    )]
    Public(String),
    /// A key's id or its issuer is empty or too long.
    #[error("{0:?} cannot be a key's id or issuer: use 1 to {MAX_TEXT_CHARS} characters")]
    Name(String),
    /// The tenant is not the beginning of stream names.
    #[error("{0:?} is not the beginning of stream names: use a-z, 0-9, '_' and '-'")]
    Tenant(String),
    /// Somebody else would sign in this installation's own name.
    #[error("{0:?} is this installation's own name: give the issuer another")]
    Own(String),
    /// Two keys have one id.
    #[error("two keys have the id {0:?}: give one of them another")]
    Twice(String),
}

/// Why a token is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// How long it would be, and how long it may be: [`MAX_PUBLISH_BYTES`] or [`MAX_BYTES`].
    #[error(
        "the token would have {0} characters and may have {1}: shorten its subject, or name fewer networks"
    )]
    TooLong(usize, usize),
    /// The claims name another issuer than the key's.
    #[error("the claims name the issuer {0:?}, which this key does not sign for")]
    Issuer(String),
    /// A claim that each token has is empty or too long.
    #[error("a token needs a subject and an id of 1 to {MAX_TEXT_CHARS} characters")]
    Text,
}

/// A text that somebody is called by: there, and not too long.
fn is_name(text: &str) -> bool {
    (1..=MAX_TEXT_CHARS).contains(&text.chars().count())
}

/// A key that signs tokens. Its seed is wiped when it is dropped, and never printed.
pub struct SigningKey {
    issuer: String,
    key: ed25519_dalek::SigningKey,
}

impl SigningKey {
    /// The key of these 32 random bytes, for an issuer.
    ///
    /// # Errors
    /// [`KeyError::Name`].
    pub fn from_seed(issuer: &str, seed: &[u8; SECRET_KEY_LENGTH]) -> Result<Self, KeyError> {
        if !is_name(issuer) {
            return Err(KeyError::Name(issuer.to_owned()));
        }
        Ok(Self {
            issuer: issuer.to_owned(),
            key: ed25519_dalek::SigningKey::from_bytes(seed),
        })
    }

    /// Whom it signs for.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Its id: the beginning of its thumbprint (RFC 7638, RFC 8037 appendix A.3).
    pub fn kid(&self) -> String {
        kid(self.key.verifying_key().as_bytes())
    }

    /// What checks its signatures, for all streams whose names begin with `tenant`, until `retires_unix_ms`.
    ///
    /// # Errors
    /// [`KeyError::Tenant`].
    pub fn verifying(
        &self,
        tenant: &str,
        retires_unix_ms: Option<i64>,
    ) -> Result<VerifyingKey, KeyError> {
        let x = BASE64URL_NOPAD.encode(self.key.verifying_key().as_bytes());
        VerifyingKey::new(&self.issuer, tenant, &x, None, retires_unix_ms)
    }

    /// Signs.
    ///
    /// # Errors
    /// [`MintError`].
    pub fn mint(&self, claims: &Claims) -> Result<String, MintError> {
        if claims.iss != self.issuer {
            return Err(MintError::Issuer(claims.iss.clone()));
        }
        if !is_name(&claims.sub) || !is_name(&claims.jti) {
            return Err(MintError::Text);
        }
        ed25519::install();
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid());
        // Says what everybody knows, in bytes that SRT has not.
        header.typ = None;
        let seed = Zeroizing::new(self.key.to_bytes());
        let token = jsonwebtoken::encode(&header, claims, &EncodingKey::from_ed_der(&*seed))
            .unwrap_or_else(|_| unreachable!("claims are JSON, and 32 bytes are a key"));
        let most = if claims.act.contains(Action::Publish) {
            MAX_PUBLISH_BYTES
        } else {
            MAX_BYTES
        };
        if token.len() > most {
            return Err(MintError::TooLong(token.len(), most));
        }
        Ok(token)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("issuer", &self.issuer)
            .field("kid", &self.kid())
            .finish_non_exhaustive()
    }
}

fn kid(public: &[u8; 32]) -> String {
    let x = BASE64URL_NOPAD.encode(public);
    let thumbprint = Sha256::digest(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#));
    let mut kid = BASE64URL_NOPAD.encode(&thumbprint);
    kid.truncate(KID_CHARS);
    kid
}

/// A key that is trusted to have signed tokens for the streams of one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    issuer: String,
    tenant: String,
    kid: String,
    public: [u8; 32],
    retires_unix_ms: Option<i64>,
}

impl VerifyingKey {
    fn tag(&self) -> Tag {
        Tag::signer(&self.issuer, &self.kid)
    }

    /// The key whose 32 bytes are `x` in base64url without padding (RFC 8037). `tenant` is what the names of its streams begin with; all
    /// streams when empty. Without a `kid` it is the beginning of the key's thumbprint. From `retires_unix_ms` on it is not used any more.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn new(
        issuer: &str,
        tenant: &str,
        x: &str,
        kid: Option<&str>,
        retires_unix_ms: Option<i64>,
    ) -> Result<Self, KeyError> {
        let bytes = BASE64URL_NOPAD.decode(x.as_bytes()).ok();
        let public = (bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()))
            .filter(|public| {
                ed25519_dalek::VerifyingKey::from_bytes(public).is_ok_and(|key| !key.is_weak())
            })
            .ok_or_else(|| KeyError::Public(x.chars().take(80).collect()))?;
        let kid = kid.map_or_else(|| self::kid(&public), str::to_owned);
        if let Some(bad) = [issuer, &kid].into_iter().find(|text| !is_name(text)) {
            return Err(KeyError::Name(bad.chars().take(80).collect()));
        }
        // The beginning of a name is one itself.
        if !tenant.is_empty() && tenant.parse::<crate::names::StreamName>().is_err() {
            return Err(KeyError::Tenant(tenant.chars().take(80).collect()));
        }
        Ok(Self {
            issuer: issuer.to_owned(),
            tenant: tenant.to_owned(),
            kid,
            public,
            retires_unix_ms,
        })
    }

    /// What the header of its tokens says.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    fn retired(&self, now_unix_ms: i64) -> bool {
        self.retires_unix_ms.is_some_and(|at| at <= now_unix_ms)
    }
}

/// A public key as others read it (RFC 7517, RFC 8037).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Jwk {
    /// The key type, `OKP`.
    pub kty: String,
    /// The curve, `Ed25519`.
    pub crv: String,
    /// The key's 32 bytes in base64url without padding.
    pub x: String,
    /// The key's id.
    pub kid: String,
    /// `EdDSA`.
    pub alg: String,
    /// `sig`: it is there to check signatures.
    #[serde(rename = "use")]
    pub usage: String,
}

/// Public keys as others read them: what `/.well-known/jwks.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Jwks {
    /// The keys.
    pub keys: Vec<Jwk>,
}

/// All keys that are trusted, by their ids.
#[derive(Debug, Clone, Default)]
pub struct KeySet(BTreeMap<String, VerifyingKey>);

impl KeySet {
    /// Whether a key is trusted at that time, Unix milliseconds.
    pub fn trusts(&self, signer: &Tag, now_unix_ms: i64) -> bool {
        let in_use = self.0.values().filter(|key| !key.retired(now_unix_ms));
        in_use.into_iter().any(|key| key.tag() == *signer)
    }

    /// Trusts a key.
    ///
    /// # Errors
    /// [`KeyError::Twice`] when there is one of that id.
    pub fn trust(&mut self, key: VerifyingKey) -> Result<(), KeyError> {
        if self.0.contains_key(&key.kid) {
            return Err(KeyError::Twice(key.kid));
        }
        self.0.insert(key.kid.clone(), key);
        Ok(())
    }

    /// The keys of an issuer that are in use.
    pub fn jwks(&self, issuer: &str, now_unix_ms: i64) -> Jwks {
        let own = (self.0.values()).filter(|k| k.issuer == issuer && !k.retired(now_unix_ms));
        let keys = own.map(|key| Jwk {
            kty: "OKP".to_owned(),
            crv: "Ed25519".to_owned(),
            x: BASE64URL_NOPAD.encode(&key.public),
            kid: key.kid.clone(),
            alg: "EdDSA".to_owned(),
            usage: "sig".to_owned(),
        });
        Jwks {
            keys: keys.collect(),
        }
    }

    /// Checks a token's signature, that it is for this installation, and its times.
    ///
    /// # Errors
    /// [`Refusal`], none of which is about what is asked for: [`Grant::allows`] says that.
    pub fn verify(
        &self,
        token: &str,
        installation: &str,
        now_unix_ms: i64,
    ) -> Result<Grant, Refusal> {
        if token.len() > MAX_BYTES {
            return Err(Refusal::TooLong(token.len()));
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| Refusal::Malformed)?;
        // A header that says that it must be understood is not (RFC 7515 section 4.1.11).
        if header.crit.is_some() {
            return Err(Refusal::Malformed);
        }
        let key = (header.kid.as_deref())
            .filter(|_| header.alg == Algorithm::EdDSA)
            .and_then(|kid| self.0.get(kid))
            .filter(|key| !key.retired(now_unix_ms))
            .ok_or(Refusal::Key)?;

        ed25519::install();
        let mut validation = Validation::new(Algorithm::EdDSA);
        // By the system's clock and with a leeway, neither of which is there: below.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims: Claims =
            jsonwebtoken::decode(token, &DecodingKey::from_ed_der(&key.public), &validation)
                .map_err(|error| match error.kind() {
                    ErrorKind::InvalidSignature => Refusal::Signature,
                    _ => Refusal::Malformed,
                })?
                .claims;

        if claims.iss != key.issuer {
            return Err(Refusal::Signature);
        }
        if !is_name(&claims.sub) || !is_name(&claims.jti) {
            return Err(Refusal::Malformed);
        }
        if !claims.aud.has(installation) {
            return Err(Refusal::Audience);
        }
        if !claims.stream.within(&key.tenant) {
            return Err(Refusal::Stream);
        }
        // By a fast clock: what it begins must not outlast what is taken back in the seconds that come. Of our own, which are issued a
        // second ahead of a revocation of the same second, that second is believed; how fast another's clock is is not known.
        let latest = Seconds::of_unix_ms(now_unix_ms.saturating_add(1_000));
        let issued = claims.iat.map(|issued| match key.issuer == installation {
            true => issued.min(latest),
            false => Seconds::of_unix_ms(issued.unix_ms().saturating_sub(AHEAD_MS)),
        });
        let grant = Grant {
            claims,
            issued,
            signer: key.tag(),
            key_retires_unix_ms: key.retires_unix_ms,
        };
        grant.timely(now_unix_ms)?;
        Ok(grant)
    }
}
