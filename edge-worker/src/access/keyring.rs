//! The keys that sign this installation's own tokens: one in use, and those before it until they retire.
//!
//! Kept as JSON, natively in a file of mode 0600 and in the Worker as a secret: `{"keys": [{"seed", "since_unix_ms", "retires_unix_ms"}]}`,
//! newest first, seeds in base64url.

use data_encoding::BASE64URL_NOPAD;
use protocol::{
    session::SessionKey,
    token::{KeyError, SigningKey, VerifyingKey},
};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// The most keys that are kept: one in use, and rotations whose overlap goes on.
const MAX_KEYS: usize = 8;

/// Why a text is no keyring. It does not say what was in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// Not the JSON of one.
    #[error(
        "the token keys are not readable as such: put back what was there, or remove them and every token becomes void"
    )]
    Malformed,
    /// No key, or more than eight.
    #[error(
        "there are {0} token keys, and there can be 1 to {MAX_KEYS}: wait until an old one has retired"
    )]
    Count(usize),
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    seed: String,
    since_unix_ms: i64,
    #[serde(default)]
    retires_unix_ms: Option<i64>,
}

impl Drop for Key {
    fn drop(&mut self) {
        self.seed.zeroize();
    }
}

impl Key {
    fn new(seed: &[u8; 32], since_unix_ms: i64) -> Self {
        Self {
            seed: BASE64URL_NOPAD.encode(seed),
            since_unix_ms,
            retires_unix_ms: None,
        }
    }

    fn bytes(&self) -> Option<Zeroizing<[u8; 32]>> {
        let bytes = Zeroizing::new(BASE64URL_NOPAD.decode(self.seed.as_bytes()).ok()?);
        Some(Zeroizing::new(bytes.as_slice().try_into().ok()?))
    }
}

/// The keys, newest first; at least one. Its `Debug` shows no seed.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Keyring {
    keys: Vec<Key>,
}

impl Keyring {
    /// One new key of 32 random bytes.
    pub fn new(seed: &[u8; 32], now_unix_ms: i64) -> Self {
        Self {
            keys: vec![Key::new(seed, now_unix_ms)],
        }
    }

    /// Reads what [`Self::to_json`] gave.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub fn from_json(text: &str) -> Result<Self, KeyringError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Kept {
            keys: Vec<Key>,
        }
        let Kept { keys } = serde_json::from_str(text).map_err(|_| KeyringError::Malformed)?;
        if !(1..=MAX_KEYS).contains(&keys.len()) {
            return Err(KeyringError::Count(keys.len()));
        }
        if keys.iter().any(|key| key.bytes().is_none()) {
            return Err(KeyringError::Malformed);
        }
        Ok(Self { keys })
    }

    /// To be kept as a secret.
    pub fn to_json(&self) -> Zeroizing<String> {
        let text = serde_json::to_string_pretty(self);
        Zeroizing::new(text.unwrap_or_else(|_| unreachable!("texts and numbers are JSON")))
    }

    /// Signs with a new key from now on. Tokens of the keys before it are good until `overlap_ms` have passed; those that retired already
    /// are forgotten.
    ///
    /// # Errors
    /// [`KeyringError::Count`] when there would be too many.
    pub fn rotate(
        &mut self,
        seed: &[u8; 32],
        overlap_ms: i64,
        now_unix_ms: i64,
    ) -> Result<(), KeyringError> {
        let at = now_unix_ms.saturating_add(overlap_ms);
        let mut keys = vec![Key::new(seed, now_unix_ms)];
        for key in &self.keys {
            let retires = key.retires_unix_ms.map_or(at, |before| before.min(at));
            if retires > now_unix_ms {
                let mut older = key.clone();
                older.retires_unix_ms = Some(retires);
                keys.push(older);
            }
        }
        if keys.len() > MAX_KEYS {
            return Err(KeyringError::Count(keys.len()));
        }
        self.keys = keys;
        Ok(())
    }

    /// Signs for this issuer.
    pub(super) fn signer(&self, issuer: &str) -> SigningKey {
        let key = self.keys.first().and_then(Key::bytes);
        key.and_then(|seed| SigningKey::from_seed(issuer, &seed).ok())
            .unwrap_or_else(|| unreachable!("a keyring has a key, and `Access` an issuer"))
    }

    /// What signs playback sessions, and when it retires (Unix milliseconds): one a key, the one in use first.
    pub(super) fn sessions(&self) -> Vec<(SessionKey, Option<i64>)> {
        let keys = self.keys.iter();
        keys.filter_map(|key| Some((SessionKey::derive(&*key.bytes()?), key.retires_unix_ms)))
            .collect()
    }

    /// Since when each key signs, and when it retires (Unix milliseconds), newest first.
    pub(super) fn times(&self) -> Vec<(i64, Option<i64>)> {
        let keys = self.keys.iter();
        keys.map(|key| (key.since_unix_ms, key.retires_unix_ms))
            .collect()
    }

    /// What checks the tokens of this issuer, all streams'.
    pub(super) fn trusted(&self, issuer: &str) -> Result<Vec<VerifyingKey>, KeyError> {
        let mut trusted = Vec::with_capacity(self.keys.len());
        for key in &self.keys {
            let Some(seed) = key.bytes() else { continue };
            let signer = SigningKey::from_seed(issuer, &seed)?;
            trusted.push(signer.verifying("", key.retires_unix_ms)?);
        }
        Ok(trusted)
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyring({} keys)", self.keys.len())
    }
}
