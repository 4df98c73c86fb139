//! The signature of what is sent to a webhook: HMAC-SHA256 (RFC 2104) over `{timestamp}.{body}`, so that neither can be changed, and
//! what was sent once is not taken again later.

use data_encoding::HEXLOWER;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Header with the id of the question or event, the same as in the body. An event that is sent again has the same.
pub const ID_HEADER: &str = "x-ghost-live-id";
/// Header with the time of sending, Unix seconds.
pub const TIMESTAMP_HEADER: &str = "x-ghost-live-timestamp";
/// Header with the signature: `sha256=` and the HMAC in lower-case hexadecimal.
pub const SIGNATURE_HEADER: &str = "x-ghost-live-signature";

/// A shorter secret is warned of, characters.
pub const GOOD_SECRET: usize = 32;

/// What a webhook's requests are signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// The secret as it was configured, without blanks around it; `None` where nothing is left.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// Whether it has too few characters to be a good one.
    pub fn is_short(&self) -> bool {
        self.0.chars().count() < GOOD_SECRET
    }

    /// The value of [`SIGNATURE_HEADER`].
    pub fn sign(&self, timestamp_s: i64, body: &[u8]) -> String {
        // HMAC takes a key of any length, so this cannot fail; the fallback keeps the function total.
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(self.0.as_bytes())
            .unwrap_or_else(|_| Hmac::new(&Default::default()));
        mac.update(timestamp_s.to_string().as_bytes());
        mac.update(b".");
        mac.update(body);
        format!("sha256={}", HEXLOWER.encode(&mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_is_what_the_documented_verifiers_compute() {
        // python3 -c 'import hmac; print(hmac.new(b"a secret of thirty-two characters", b"1790000000.{}", "sha256").hexdigest())'
        let secret = Secret::new(" a secret of thirty-two characters\n").unwrap();
        assert_eq!(secret.sign(1_790_000_000, b"{}"), EXPECTED);
        assert_ne!(secret.sign(1_790_000_001, b"{}"), EXPECTED);
        assert_ne!(secret.sign(1_790_000_000, b"{ }"), EXPECTED);
        let other = Secret::new("another secret").unwrap();
        assert_ne!(other.sign(1_790_000_000, b"{}"), EXPECTED);
        assert!(other.is_short() && !secret.is_short());
        assert!(Secret::new(" \n").is_none());
        assert!(!format!("{secret:?}").contains("thirty"));
    }

    const EXPECTED: &str =
        "sha256=e348a31bdcfce748f1968684f6bae512d5110009c2dcfb7cb81a7cf33caa87b6";
}
