//! Who stands behind a session that runs: what of its token a revocation can name.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Claims, Seconds};
use crate::names::StreamName;

/// 96 bits that stand for a token, a subject or a session; 16 characters of base64url in JSON and in addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag([u8; 12]);

/// Not 16 characters of base64url.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no id: it has 16 characters of a-z, A-Z, 0-9, '-' and '_'")]
pub struct MalformedTag;

impl Tag {
    /// Random bytes, or bytes that were a tag's.
    pub fn from_bytes(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 12] {
        &self.0
    }

    /// The token of this id by this issuer.
    pub fn token(iss: &str, jti: &str) -> Self {
        Self::digest(b"jti", iss, jti)
    }

    /// Whom this issuer calls so.
    pub fn subject(iss: &str, sub: &str) -> Self {
        Self::digest(b"sub", iss, sub)
    }

    /// The key of this id that signs for this issuer.
    pub fn signer(iss: &str, kid: &str) -> Self {
        Self::digest(b"kid", iss, kid)
    }

    /// The stream key with this SHA-256, lower-case hexadecimal.
    pub fn stream_key(sha256: &str) -> Self {
        Self::digest(b"key", "", sha256)
    }

    fn digest(kind: &[u8; 3], iss: &str, text: &str) -> Self {
        let mut hash = Sha256::new_with_prefix(kind);
        // The length first, so that no two pairs give the same bytes.
        hash.update((iss.len() as u64).to_be_bytes());
        hash.update(iss);
        hash.update(text);
        let mut tag = [0; 12];
        tag.copy_from_slice(&hash.finalize()[..12]);
        Self(tag)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64URL_NOPAD.encode(&self.0))
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({self})")
    }
}

impl std::str::FromStr for Tag {
    type Err = MalformedTag;
    fn from_str(text: &str) -> Result<Self, MalformedTag> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(MalformedTag)
    }
}

impl TryFrom<String> for Tag {
    type Error = MalformedTag;
    fn try_from(text: String) -> Result<Self, MalformedTag> {
        text.parse()
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> Self {
        tag.to_string()
    }
}

/// What of a token stays with a session that it began, so that a revocation finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Holder {
    /// The token.
    pub token: Tag,
    /// Whom it was given to.
    pub subject: Tag,
    /// When it was issued; `None` where it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<Seconds>,
}

impl Holder {
    /// Of a token with these claims.
    pub fn of(claims: &Claims) -> Self {
        Self {
            token: Tag::token(&claims.iss, &claims.jti),
            subject: Tag::subject(&claims.iss, &claims.sub),
            issued: claims.iat,
        }
    }
}

/// What a publisher was let in with, as far as it can be taken back while they publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Credential {
    /// The token; a stream key is one that was issued when it was shown.
    #[serde(flatten)]
    pub holder: Holder,
    /// The key that signed the token: when it is no longer trusted, nor is what it let in. `None` for a stream key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<Tag>,
    /// The stream that it is for, where a webhook led the publisher to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<StreamName>,
}

impl Credential {
    /// The stream key with this SHA-256, lower-case hexadecimal, shown at that time.
    pub fn stream_key(sha256: &str, issued: Seconds) -> Self {
        let key = Tag::stream_key(sha256);
        Self {
            holder: Holder {
                token: key,
                subject: key,
                issued: Some(issued),
            },
            signer: None,
            asked: None,
        }
    }
}
