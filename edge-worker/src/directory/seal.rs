//! The seal: secrets that are shown again to their owner, encrypted for the time that they lie in the database.
//!
//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03, RFC 8439), whose nonce of 192 bits may be random however often something is sealed.
//! Its key is HMAC-SHA256 over a fixed label, under a secret that lies outside the database, so that a copy of the database alone shows
//! nothing. The associated data names the column and the stream: what was moved to another row or column does not open.

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, Mac};
use protocol::names::StreamName;
use sha2::Sha256;
use zeroize::Zeroizing;

/// What the key is derived with; another one for another use of the same secret.
const LABEL: &[u8] = b"ghost-live directory seal 1";

/// Random bytes, new for each text that is sealed.
pub type Nonce = [u8; NONCE_BYTES];
const NONCE_BYTES: usize = 24;

/// What a sealed text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// A stream key.
    Key,
    /// What a studio link carries.
    Studio,
}

impl Column {
    /// As the table names it.
    fn name(self) -> &'static str {
        match self {
            Self::Key => "key_sealed",
            Self::Studio => "studio_sealed",
        }
    }
}

impl std::fmt::Display for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Studio => "studio link",
        })
    }
}

/// A secret cannot be shown. It goes on to be recognized by its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the {column} of stream {stream} cannot be shown: the secret that it is sealed with is another one now"
)]
pub struct Closed {
    /// What.
    pub column: Column,
    /// Whose.
    pub stream: StreamName,
}

/// Seals and opens. Cheap to clone; its `Debug` shows nothing, and its key is zeroized when it is dropped.
#[derive(Clone)]
pub struct Seal(XChaCha20Poly1305);

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal(…)")
    }
}

impl Seal {
    /// From a secret of 32 random bytes or more, in any writing.
    pub fn derive(secret: &[u8]) -> Self {
        // HMAC takes a key of any length, so this cannot fail; the fallback keeps the function total.
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(secret)
            .unwrap_or_else(|_| <Hmac<Sha256> as Mac>::new(&Default::default()));
        mac.update(LABEL);
        let derived: Zeroizing<[u8; 32]> = Zeroizing::new(mac.finalize().into_bytes().into());
        Self(XChaCha20Poly1305::new((&*derived).into()))
    }

    /// The text, sealed for this column of this stream: base64url of nonce and ciphertext. `None` for one of 256 GiB or more, which the
    /// cipher does not take.
    pub fn close(
        &self,
        column: Column,
        stream: &StreamName,
        nonce: Nonce,
        text: &str,
    ) -> Option<String> {
        let bound = bound_to(column, stream);
        let payload = Payload {
            msg: text.as_bytes(),
            aad: bound.as_bytes(),
        };
        let sealed = self.0.encrypt(&XNonce::from(nonce), payload).ok()?;
        Some(BASE64URL_NOPAD.encode(&[nonce.as_slice(), &sealed].concat()))
    }

    /// What [`Self::close`] was given for the same column and stream under the same secret.
    ///
    /// # Errors
    /// [`Closed`] for anything else.
    pub fn open(
        &self,
        column: Column,
        stream: &StreamName,
        sealed: &str,
    ) -> Result<Zeroizing<String>, Closed> {
        self.decrypt(column, stream, sealed).ok_or_else(|| Closed {
            column,
            stream: stream.clone(),
        })
    }

    fn decrypt(
        &self,
        column: Column,
        stream: &StreamName,
        sealed: &str,
    ) -> Option<Zeroizing<String>> {
        let bytes = BASE64URL_NOPAD.decode(sealed.as_bytes()).ok()?;
        let (nonce, msg) = bytes.split_first_chunk::<NONCE_BYTES>()?;
        let bound = bound_to(column, stream);
        let aad = bound.as_bytes();
        let opened = self
            .0
            .decrypt(&XNonce::from(*nonce), Payload { msg, aad })
            .ok()?;
        match String::from_utf8(opened) {
            Ok(text) => Some(Zeroizing::new(text)),
            Err(error) => {
                drop(Zeroizing::new(error.into_bytes()));
                None
            }
        }
    }
}

/// No name has a NUL, so no two pairs give the same text.
fn bound_to(column: Column, stream: &StreamName) -> String {
    format!("{}\0{stream}", column.name())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NONCE: Nonce = [7; NONCE_BYTES];

    fn name(text: &str) -> StreamName {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_sealed_opens_in_its_own_place_only() {
        let seal = Seal::derive(b"a secret of thirty-two characters");
        let sealed = seal
            .close(Column::Key, &name("live"), NONCE, "live_secret")
            .unwrap();
        assert!(!sealed.contains("secret"));
        let open = |seal: &Seal, column, stream, sealed: &str| {
            seal.open(column, &name(stream), sealed)
                .map(|text| text.to_string())
        };
        assert_eq!(
            open(&seal, Column::Key, "live", &sealed).as_deref(),
            Ok("live_secret")
        );
        // The same secret always gives the same seal.
        let again = Seal::derive(b"a secret of thirty-two characters");
        assert!(open(&again, Column::Key, "live", &sealed).is_ok());

        let closed = Closed {
            column: Column::Key,
            stream: name("demo"),
        };
        assert_eq!(open(&seal, Column::Key, "demo", &sealed), Err(closed));
        assert!(open(&seal, Column::Studio, "live", &sealed).is_err());
        let other = Seal::derive(b"A secret of thirty-two characters");
        assert!(open(&other, Column::Key, "live", &sealed).is_err());
    }

    #[test]
    fn a_sealed_text_with_any_bit_changed_does_not_open() {
        let seal = Seal::derive(b"a secret of thirty-two characters");
        let sealed = seal
            .close(Column::Studio, &name("live"), NONCE, "x")
            .unwrap();
        let bytes = BASE64URL_NOPAD.decode(sealed.as_bytes()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let changed = BASE64URL_NOPAD.encode(&bytes);
            assert!(
                seal.open(Column::Studio, &name("live"), &changed).is_err(),
                "bit {bit}"
            );
        }
        for text in ["", "x", "*", &sealed[..30], &format!("{sealed}A")] {
            assert!(
                seal.open(Column::Studio, &name("live"), text).is_err(),
                "{text}"
            );
        }
    }
}
