//! Static stream keys: `{id}_{26 characters of base32}`, found by id and kept as SHA-256.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::names::BroadcastId;

/// Why a text is not a stream key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not a stream key: it has the form name_secret, as the studio page shows it")]
pub struct MalformedKey;

/// A key as the encoder gives it. Its `Debug` hides the secret, and its memory is overwritten when it goes.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamKey {
    id: String,
    secret: Zeroizing<String>,
}

impl StreamKey {
    /// A new key of 16 random bytes. `id` is what it is found by: `[a-z0-9-]{1,32}`.
    ///
    /// # Errors
    /// [`MalformedKey`] when the id has another form.
    pub fn from_random(id: &str, random: [u8; 16]) -> Result<Self, MalformedKey> {
        // The same alphabet and length as a broadcast id: 128 bits of lower-case base32.
        let secret = BroadcastId::from_random(random);
        format!("{id}_{secret}").parse()
    }

    /// What the key is found by; not secret.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The whole key, to show to its owner.
    pub fn reveal(&self) -> String {
        format!("{}_{}", self.id, *self.secret)
    }

    /// SHA-256 of the whole key in lower-case hexadecimal: what is kept.
    pub fn digest(&self) -> String {
        HEXLOWER.encode(&Sha256::digest(Zeroizing::new(self.reveal()).as_bytes()))
    }

    /// Whether this is the key with that digest, in constant time.
    pub fn matches(&self, digest: &str) -> bool {
        self.digest().as_bytes().ct_eq(digest.as_bytes()).into()
    }
}

impl FromStr for StreamKey {
    type Err = MalformedKey;
    fn from_str(text: &str) -> Result<Self, MalformedKey> {
        let (id, secret) = text.rsplit_once('_').ok_or(MalformedKey)?;
        let id_ok = (1..=32).contains(&id.len())
            && id
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !id_ok || secret.parse::<BroadcastId>().is_err() {
            return Err(MalformedKey);
        }
        Ok(Self {
            id: id.to_owned(),
            secret: Zeroizing::new(secret.to_owned()),
        })
    }
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_…", self.id)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_matches_its_own_digest_only_and_never_prints_its_secret() {
        let key = StreamKey::from_random("main", [3; 16]).unwrap();
        let other = StreamKey::from_random("main", [4; 16]).unwrap();
        assert!(key.matches(&key.digest()));
        assert!(!key.matches(&other.digest()));
        assert_eq!(key.reveal().parse::<StreamKey>().unwrap(), key);
        assert_eq!(format!("{key:?}"), "main_…");
    }

    #[test]
    fn other_texts_are_not_keys() {
        for bad in [
            "",
            "_",
            "main",
            "main_short",
            "Main_aaaaaaaaaaaaaaaaaaaaaaaaaa",
        ] {
            assert!(bad.parse::<StreamKey>().is_err(), "{bad:?} was accepted");
        }
    }
}
