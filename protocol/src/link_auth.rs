//! How a box and the edge prove themselves to each other: HMAC-SHA256 over one shared secret.
//!
//! The box sends `Authorization: GhostLive {unix seconds}.{nonce}.{proof}`; the proof covers method, path, time and nonce. The edge
//! answers with `x-ghost-live-edge: {proof}` over the same nonce, so that a box never talks to an impostor. A proof is good for
//! [`MAX_SKEW_S`] seconds either way.

use data_encoding::HEXLOWER;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Request header that carries the box's proof, with the scheme [`SCHEME`].
pub const REQUEST_HEADER: &str = "authorization";
/// Response header that carries the edge's proof.
pub const RESPONSE_HEADER: &str = "x-ghost-live-edge";
/// Scheme in the request header.
pub const SCHEME: &str = "GhostLive";
/// How far the two clocks may differ, seconds.
pub const MAX_SKEW_S: i64 = 60;

/// Why a proof was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No header, or not of the form.
    #[error("the request carries no link proof")]
    Missing,
    /// The clocks differ too much, or an old request was sent again.
    #[error("the link proof is from another time: check both clocks")]
    Skew,
    /// Another secret, method or path.
    #[error("the link proof is wrong: box and edge must share one link secret")]
    Wrong,
}

/// The secret that box and edge share: 32 bytes or more of randomness. Wiped when it is dropped, and never printed.
#[derive(Clone)]
pub struct LinkSecret(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for LinkSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkSecret(…)")
    }
}

impl LinkSecret {
    /// The secret as the configuration has it.
    pub fn new(secret: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(secret.into()))
    }

    fn mac(&self, fields: &[&str]) -> Hmac<Sha256> {
        // HMAC takes a key of any length, so this cannot fail; the fallback keeps the function total.
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.0)
            .unwrap_or_else(|_| Hmac::new(&Default::default()));
        for field in fields {
            // The length first, so that no two lists of fields give the same bytes.
            mac.update(&(field.len() as u64).to_be_bytes());
            mac.update(field.as_bytes());
        }
        mac
    }

    fn verify(&self, fields: &[&str], proof: &str) -> bool {
        HEXLOWER
            .decode(proof.as_bytes())
            .is_ok_and(|proof| self.mac(fields).verify_slice(&proof).is_ok())
    }

    /// The box's request header value. `nonce` is random and new for each request.
    pub fn request(&self, method: &str, path: &str, now_unix_s: i64, nonce: [u8; 16]) -> String {
        let (time, nonce) = (now_unix_s.to_string(), HEXLOWER.encode(&nonce));
        let proof = self.mac(&["box", method, path, &time, &nonce]).finalize();
        let proof = HEXLOWER.encode(&proof.into_bytes());
        format!("{SCHEME} {time}.{nonce}.{proof}")
    }

    /// Checks a box's request header value and gives the edge's answer header value.
    ///
    /// # Errors
    /// [`AuthError`] when the header is absent, too old or does not prove the secret.
    pub fn answer(
        &self,
        method: &str,
        path: &str,
        header: Option<&str>,
        now_unix_s: i64,
    ) -> Result<String, AuthError> {
        let (time, nonce, proof) = split(header.unwrap_or_default()).ok_or(AuthError::Missing)?;
        let sent: i64 = time.parse().map_err(|_| AuthError::Missing)?;
        if sent.abs_diff(now_unix_s) > MAX_SKEW_S.unsigned_abs() {
            return Err(AuthError::Skew);
        }
        if !self.verify(&["box", method, path, time, nonce], proof) {
            return Err(AuthError::Wrong);
        }
        let answer = self.mac(&["edge", nonce, time]).finalize();
        Ok(HEXLOWER.encode(&answer.into_bytes()))
    }

    /// Checks the edge's answer to the request header value that the box sent.
    ///
    /// # Errors
    /// [`AuthError`] when the answer does not prove the secret.
    pub fn check_answer(&self, sent: &str, answer: Option<&str>) -> Result<(), AuthError> {
        let (time, nonce, _) = split(sent).ok_or(AuthError::Missing)?;
        let answer = answer.ok_or(AuthError::Missing)?;
        match self.verify(&["edge", nonce, time], answer) {
            true => Ok(()),
            false => Err(AuthError::Wrong),
        }
    }
}

fn split(header: &str) -> Option<(&str, &str, &str)> {
    let mut fields = header.strip_prefix(SCHEME)?.strip_prefix(' ')?.split('.');
    let all = (fields.next()?, fields.next()?, fields.next()?);
    fields.next().is_none().then_some(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn each_side_proves_the_secret_to_the_other() {
        let secret = LinkSecret::new("one secret");
        let header = secret.request("GET", "/internal/link/x", NOW, [9; 16]);
        let answer = secret
            .answer("GET", "/internal/link/x", Some(&header), NOW + 5)
            .unwrap();
        assert_eq!(secret.check_answer(&header, Some(&answer)), Ok(()));
        let impostor = LinkSecret::new("another");
        assert_eq!(
            impostor.check_answer(&header, Some(&answer)),
            Err(AuthError::Wrong)
        );
        assert_eq!(secret.check_answer(&header, None), Err(AuthError::Missing));
    }

    #[test]
    fn another_method_path_secret_or_time_is_refused() {
        let secret = LinkSecret::new("one secret");
        let header = secret.request("PUT", "/a", NOW, [9; 16]);
        let check = |secret: &LinkSecret, method, path, now| {
            secret.answer(method, path, Some(&header), now).unwrap_err()
        };
        assert_eq!(check(&secret, "GET", "/a", NOW), AuthError::Wrong);
        assert_eq!(check(&secret, "PUT", "/b", NOW), AuthError::Wrong);
        assert_eq!(
            check(&LinkSecret::new("x"), "PUT", "/a", NOW),
            AuthError::Wrong
        );
        assert_eq!(check(&secret, "PUT", "/a", NOW + 61), AuthError::Skew);
        assert_eq!(check(&secret, "PUT", "/a", NOW - 61), AuthError::Skew);
        for bad in [
            "",
            "GhostLive",
            "GhostLive 1.2",
            "GhostLive a.b.c",
            "Bearer 1.2.3",
        ] {
            assert_eq!(
                secret.answer("PUT", "/a", Some(bad), NOW),
                Err(AuthError::Missing)
            );
        }
    }
}
