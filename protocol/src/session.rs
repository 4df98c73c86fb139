//! Playback sessions: a viewer's place in a broadcast, as a signed segment of the addresses that it asks for.
//!
//! A token is checked once, when playing begins; from then on every address carries the session, which is checked without asking anybody:
//! no cookie, no header, so that it works in every player. It says who stands behind it ([`Holder`]), so that a revocation finds it, and
//! repeats what of the token holds on: where it may be used from, on how many devices, and when it ends.
//!
//! The text is base64url of `version, id, token, subject, issued, begun, ends, max, networks, MAC`; the MAC is HMAC-SHA256, cut to 128
//! bits, over the stream's name and all before it, under a key derived from a token key's seed. It is not encrypted: whoever has it has had
//! the token too.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU32,
};

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, Mac};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{
    names::StreamName,
    token::{Grant, Holder, Refusal, Seconds, Tag},
};

/// The longest a session runs, milliseconds: a week. Then the player begins a new one, if its token still lets it.
pub const MAX_SESSION_MS: i64 = 7 * 24 * 3_600 * 1_000;
/// The longest text of a session that is looked at, bytes.
pub const MAX_SESSION_BYTES: usize = 512;

const VERSION: u8 = 1;
const MAC_BYTES: usize = 16;

/// A viewer who plays a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its own id.
    pub id: Tag,
    /// Whose it is.
    pub holder: Holder,
    /// When it began, Unix milliseconds.
    pub begun_unix_ms: i64,
    /// When it ends by itself, Unix milliseconds.
    pub ends_unix_ms: i64,
    /// How many sessions of its token there may be at a time.
    pub max: Option<NonZeroU32>,
    /// Where it may be used from; anywhere when empty.
    pub ip: Vec<IpNet>,
}

impl Session {
    /// A session that this token begins now, called by 96 random bits.
    pub fn begin(grant: &Grant, random: [u8; 12], now_unix_ms: i64) -> Self {
        let longest = now_unix_ms.saturating_add(MAX_SESSION_MS);
        let claims = grant.claims();
        Self {
            id: Tag::from_bytes(random),
            holder: grant.holder(),
            begun_unix_ms: now_unix_ms,
            ends_unix_ms: (grant.session_ends_unix_ms()).map_or(longest, |at| at.min(longest)),
            max: claims.max,
            ip: claims.ip.clone(),
        }
    }

    /// A session of somebody without a token, who was let in by a webhook's word: nothing but itself stands behind it.
    pub fn anonymous(random: [u8; 12], now_unix_ms: i64) -> Self {
        let id = Tag::from_bytes(random);
        Self {
            id,
            holder: Holder {
                token: id,
                subject: id,
                issued: Some(Seconds::of_unix_ms(now_unix_ms)),
            },
            begun_unix_ms: now_unix_ms,
            ends_unix_ms: now_unix_ms.saturating_add(MAX_SESSION_MS),
            max: None,
            ip: Vec::new(),
        }
    }

    /// Whether no token stands behind it.
    pub fn is_anonymous(&self) -> bool {
        self.holder.token == self.id
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        for tag in [&self.id, &self.holder.token, &self.holder.subject] {
            bytes.extend(tag.as_bytes());
        }
        let issued = self.holder.issued.map_or(i64::MIN, Seconds::unix_ms);
        for time in [issued, self.begun_unix_ms, self.ends_unix_ms] {
            bytes.extend(time.to_be_bytes());
        }
        bytes.extend(self.max.map_or(0, NonZeroU32::get).to_be_bytes());
        for net in &self.ip {
            let (family, address) = match net.network() {
                IpAddr::V4(v4) => (4, v4.octets().to_vec()),
                IpAddr::V6(v6) => (6, v6.octets().to_vec()),
            };
            bytes.extend([family, net.prefix_len()]);
            bytes.extend(&address[..usize::from(net.prefix_len().div_ceil(8))]);
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        if take::<1>(&mut rest)? != [VERSION] {
            return None;
        }
        let id = Tag::from_bytes(take(&mut rest)?);
        let token = Tag::from_bytes(take(&mut rest)?);
        let subject = Tag::from_bytes(take(&mut rest)?);
        let issued = i64::from_be_bytes(take(&mut rest)?);
        let begun_unix_ms = i64::from_be_bytes(take(&mut rest)?);
        let ends_unix_ms = i64::from_be_bytes(take(&mut rest)?);
        let max = NonZeroU32::new(u32::from_be_bytes(take(&mut rest)?));
        let mut ip = Vec::new();
        while !rest.is_empty() {
            let [family, prefix] = take(&mut rest)?;
            let (head, tail) = rest.split_at_checked(usize::from(prefix.div_ceil(8)))?;
            rest = tail;
            let mut octets = [0; 16];
            octets.get_mut(..head.len())?.copy_from_slice(head);
            let address = match family {
                4 => Ipv4Addr::from(*octets.first_chunk::<4>()?).into(),
                6 => Ipv6Addr::from(octets).into(),
                _ => return None,
            };
            ip.push(IpNet::new(address, prefix).ok()?);
        }
        Some(Self {
            id,
            holder: Holder {
                token,
                subject,
                issued: (issued != i64::MIN).then(|| Seconds::of_unix_ms(issued)),
            },
            begun_unix_ms,
            ends_unix_ms,
            max,
            ip,
        })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

/// What signs sessions: derived from the seed of a token key, so that whoever has the one has the other, and they retire together. Wiped
/// when it is dropped, and never printed.
pub struct SessionKey(Zeroizing<[u8; 32]>);

impl SessionKey {
    /// The key of sessions that belongs to a token key.
    pub fn derive(seed: &[u8; 32]) -> Self {
        let derived = mac(seed, &[b"ghost-live playback sessions"]).finalize();
        Self(Zeroizing::new(derived.into_bytes().into()))
    }

    /// The text of a session of this stream.
    ///
    /// # Errors
    /// [`Refusal::TooLong`] when its token names too many networks for an address.
    pub fn sign(&self, stream: &StreamName, session: &Session) -> Result<String, Refusal> {
        let mut bytes = session.to_bytes();
        let mac = self.mac(stream, &bytes).finalize().into_bytes();
        bytes.extend(&mac[..MAC_BYTES]);
        let text = BASE64URL_NOPAD.encode(&bytes);
        match text.len() {
            ..=MAX_SESSION_BYTES => Ok(text),
            long => Err(Refusal::TooLong(long)),
        }
    }

    /// Reads a session of this stream that this key signed. Whether it may still be used has to be asked then ([`Session::check`]).
    ///
    /// # Errors
    /// [`Refusal::Malformed`] for what is no session, [`Refusal::Signature`] for one of another stream or key.
    pub fn read(&self, stream: &StreamName, text: &str) -> Result<Session, Refusal> {
        if text.len() > MAX_SESSION_BYTES {
            return Err(Refusal::TooLong(text.len()));
        }
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok();
        let bytes = bytes.ok_or(Refusal::Malformed)?;
        let (said, mac) = bytes
            .split_last_chunk::<MAC_BYTES>()
            .ok_or(Refusal::Malformed)?;
        let right = self.mac(stream, said).verify_truncated_left(mac);
        right.map_err(|_| Refusal::Signature)?;
        Session::from_bytes(said).ok_or(Refusal::Malformed)
    }

    fn mac(&self, stream: &StreamName, said: &[u8]) -> Hmac<Sha256> {
        // A name has no zero byte: it ends there.
        mac(&self.0, &[stream.as_str().as_bytes(), &[0], said])
    }
}

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKey(…)")
    }
}

impl Session {
    /// Whether it may be used now, from here.
    ///
    /// # Errors
    /// [`Refusal::Expired`], [`Refusal::Address`].
    pub fn check(&self, address: IpAddr, now_unix_ms: i64) -> Result<(), Refusal> {
        if self.ends_unix_ms <= now_unix_ms {
            return Err(Refusal::Expired);
        }
        let address = address.to_canonical();
        match self.ip.is_empty() || self.ip.iter().any(|net| net.contains(&address)) {
            true => Ok(()),
            false => Err(Refusal::Address),
        }
    }
}

fn mac(key: &[u8; 32], fields: &[&[u8]]) -> Hmac<Sha256> {
    // HMAC takes a key of any length, so this cannot fail; the fallback keeps the function total.
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key)
        .unwrap_or_else(|_| Hmac::new(&Default::default()));
    for field in fields {
        mac.update(field);
    }
    mac
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_790_000_000_000;

    fn name(text: &str) -> StreamName {
        text.parse().unwrap()
    }

    fn session(ip: &[&str]) -> Session {
        Session {
            id: Tag::from_bytes([1; 12]),
            holder: Holder {
                token: Tag::token("ghost-live", "a token"),
                subject: Tag::subject("ghost-live", "anna"),
                issued: Some(Seconds::of_unix_ms(NOW)),
            },
            begun_unix_ms: NOW,
            ends_unix_ms: NOW + 10_000,
            max: NonZeroU32::new(2),
            ip: ip.iter().map(|net| net.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_session_is_read_as_it_was_signed_of_its_own_stream_and_key_only() {
        let (key, other) = (SessionKey::derive(&[1; 32]), SessionKey::derive(&[2; 32]));
        for session in [
            session(&[]),
            session(&["0.0.0.0/0", "192.0.2.128/25", "2001:db8::/33", "::1/128"]),
            Session {
                holder: Holder {
                    issued: None,
                    ..session(&[]).holder
                },
                max: None,
                ..session(&[])
            },
        ] {
            let text = key.sign(&name("main"), &session).unwrap();
            assert_eq!(key.read(&name("main"), &text), Ok(session));
            for (key, stream) in [(&key, "mai"), (&key, "other"), (&other, "main")] {
                assert_eq!(key.read(&name(stream), &text), Err(Refusal::Signature));
            }
            let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).unwrap();
            for at in 0..bytes.len() {
                let mut forged = bytes.clone();
                forged[at] ^= 1;
                let forged = BASE64URL_NOPAD.encode(&forged);
                assert_eq!(key.read(&name("main"), &forged), Err(Refusal::Signature));
            }
        }
    }

    #[test]
    fn a_session_ends_at_its_time_and_is_used_from_its_networks() {
        let (home, away) = (
            "192.0.2.200".parse().unwrap(),
            "198.51.100.1".parse().unwrap(),
        );
        let anywhere = session(&[]);
        assert_eq!(anywhere.check(away, NOW + 9_999), Ok(()));
        assert_eq!(anywhere.check(away, NOW + 10_000), Err(Refusal::Expired));
        let bound = session(&["192.0.2.128/25"]);
        assert_eq!(bound.check(home, NOW), Ok(()));
        let mapped = "::ffff:192.0.2.200".parse().unwrap();
        assert_eq!(bound.check(mapped, NOW), Ok(()));
        assert_eq!(bound.check(away, NOW), Err(Refusal::Address));
    }

    #[test]
    fn what_does_not_fit_an_address_is_not_signed() {
        let many: Vec<String> = (0..40).map(|n| format!("2001:db8:{n}::1/128")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let long = SessionKey::derive(&[1; 32]).sign(&name("main"), &session(&many));
        assert!(matches!(long, Err(Refusal::TooLong(_))), "{long:?}");
    }

    proptest! {
        #[test]
        fn whatever_comes_is_refused(text in "[A-Za-z0-9_-]{0,520}", bytes: Vec<u8>) {
            let key = SessionKey::derive(&[1; 32]);
            prop_assert!(key.read(&name("main"), &text).is_err());
            prop_assert!(key.read(&name("main"), &BASE64URL_NOPAD.encode(&bytes)).is_err());
            // What is behind the MAC is read from the same machine's own writing, and still without panic.
            let _ = Session::from_bytes(&bytes);
        }
    }
}
