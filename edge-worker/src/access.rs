//! Who may do what: the one place that decides over tokens, for every protocol and in both adapters.
//!
//! What a token is and when it is good is in [`protocol::token`]. Here are the keys of this installation ([`Keyring`]), those of others
//! that it trusts, and what is asked: a publisher who comes with a token ([`Access::publish`]), somebody who wants one
//! ([`Access::mint`]).

mod keyring;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

pub use keyring::{Keyring, KeyringError};
use protocol::{
    internal::Admit,
    names::StreamName,
    token::{
        Action, Actions, Ask, Audience, Claims, Grant, Jwks, KeyError, KeySet, MintError, Refusal,
        Seconds, StreamPattern, VerifyingKey,
    },
};
use serde::{Deserialize, Serialize};

/// What an installation is called where nobody has named it: `iss` and `aud` of its own tokens.
pub const INSTALLATION: &str = "ghost-live";

/// How long a token is good where nobody said, seconds.
const DAY_S: u64 = 24 * 3_600;
/// How long one is good at the most that somebody asked for with another, seconds: whoever gave that one to them may take it back.
const DELEGATED_S: u64 = 30 * DAY_S;

/// Somebody else who signs tokens for this installation: a team's own backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// What its tokens have as `iss`.
    pub issuer: String,
    /// Its Ed25519 public key: the `x` of its JSON Web Key, 32 bytes in base64url.
    pub public_key: String,
    /// What the header of its tokens has as `kid`; the first 8 characters of the key's thumbprint (RFC 7638) when left out.
    #[serde(default)]
    pub kid: Option<String>,
    /// What the names of its streams begin with. It can sign for those only.
    pub tenant: String,
}

/// What a token is wanted for: the body of `POST /api/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Which streams.
    pub stream: StreamPattern,
    /// What may be done with them.
    pub act: Actions,
    /// Whom it is for; whoever asks, when left out.
    #[serde(default)]
    pub sub: Option<String>,
    /// How long new sessions may begin, seconds: a day when left out, and never longer than the token of whoever asks.
    #[serde(default)]
    pub for_s: Option<u64>,
    /// When a session that it began ends, seconds from now; never, when left out.
    #[serde(default)]
    pub session_s: Option<u64>,
    /// Where it may be used from (CIDR); anywhere, when empty.
    #[serde(default)]
    pub ip: Vec<ipnet::IpNet>,
    /// On how many devices at a time; on any number, when left out.
    #[serde(default)]
    pub max: Option<std::num::NonZeroU32>,
}

/// A new token: the answer to `POST /api/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minted {
    /// The token.
    pub token: String,
    /// Its id, by which it can be revoked.
    pub jti: String,
    /// From when on it begins no new session, Unix seconds.
    pub exp: Seconds,
}

/// Why no token was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotMinted {
    /// Whoever asks has no token that allows it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It would be no good token.
    #[error(transparent)]
    Mint(#[from] MintError),
}

/// Everything that decides over a token. Cheap to ask; a change makes a new one.
#[derive(Debug)]
pub struct Access {
    installation: String,
    keys: KeySet,
    keyring: Keyring,
}

impl Access {
    /// For this installation, with its own keys and those of others that it trusts.
    ///
    /// # Errors
    /// [`KeyError`] when a key is none, or two have one id.
    pub fn new(installation: &str, keyring: Keyring, issuers: &[Issuer]) -> Result<Self, KeyError> {
        let mut keys = KeySet::default();
        for key in keyring.trusted(installation)? {
            keys.trust(key)?;
        }
        for issuer in issuers {
            let Issuer {
                issuer,
                public_key,
                kid,
                tenant,
            } = issuer;
            if issuer == installation {
                return Err(KeyError::Own(issuer.clone()));
            }
            keys.trust(VerifyingKey::new(
                issuer,
                tenant,
                public_key,
                kid.as_deref(),
                None,
            )?)?;
        }
        Ok(Self {
            installation: installation.to_owned(),
            keys,
            keyring,
        })
    }

    /// The public keys of this installation's own tokens.
    pub fn jwks(&self, now_unix_ms: i64) -> Jwks {
        self.keys.jwks(&self.installation, now_unix_ms)
    }

    /// A token that lets its bearer do this.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check(&self, token: &str, ask: &Ask<'_>, now_unix_ms: i64) -> Result<Grant, Refusal> {
        let grant = self.keys.verify(token, &self.installation, now_unix_ms)?;
        grant.allows(ask)?;
        Ok(grant)
    }

    /// The stream that somebody who came with a token in the place of a stream key may publish.
    ///
    /// # Errors
    /// [`Refusal`]; [`Refusal::Stream`] also when neither token nor address names one stream.
    pub fn publish(&self, question: &Admit, now_unix_ms: i64) -> Result<StreamName, Refusal> {
        let grant = (self.keys).verify(&question.key, &self.installation, now_unix_ms)?;
        let stream = (question.stream.clone())
            .or_else(|| grant.claims().stream.name())
            .ok_or(Refusal::Stream)?;
        grant.allows(&Ask {
            action: Action::Publish,
            stream: &stream,
            address: address(&question.peer).ok_or(Refusal::Address)?,
        })?;
        Ok(stream)
    }

    /// A token for somebody who has one that lets them manage all of those streams. `random` becomes its id. It ends with the one that it
    /// was asked for with, with the key that signed that one, and after 30 days; where it lets somebody manage, it can be used from no
    /// more networks.
    ///
    /// # Errors
    /// [`NotMinted`]; [`Refusal::Address`] also for networks that whoever asks may not use.
    pub fn mint(
        &self,
        bearer: &str,
        address: IpAddr,
        wanted: &Wanted,
        random: [u8; 12],
        now_unix_ms: i64,
    ) -> Result<Minted, NotMinted> {
        let grant = self.keys.verify(bearer, &self.installation, now_unix_ms)?;
        grant.allows_all(Action::Manage, &wanted.stream, address)?;
        let holder = grant.claims();
        let retires = grant.key_retires_unix_ms().map(Seconds::of_unix_ms);
        let longest = after(now_unix_ms, DELEGATED_S);
        let ends = [Some(holder.exp), holder.sess_exp, retires, Some(longest)];
        let mut wanted = wanted.clone();
        if wanted.act.contains(Action::Manage) && !holder.ip.is_empty() {
            if wanted.ip.is_empty() {
                wanted.ip.clone_from(&holder.ip);
            }
            let usable = |net: &ipnet::IpNet| holder.ip.iter().any(|own| own.contains(net));
            if !wanted.ip.iter().all(usable) {
                return Err(Refusal::Address.into());
            }
        }
        let bounds = Bounds {
            holder: &holder.sub,
            last: ends.into_iter().flatten().min(),
            session: holder.sess_exp,
        };
        self.sign(&wanted, &bounds, random, now_unix_ms)
    }

    /// A token, at the owner's word.
    ///
    /// # Errors
    /// [`NotMinted::Mint`].
    pub fn mint_as_owner(
        &self,
        wanted: &Wanted,
        random: [u8; 12],
        now_unix_ms: i64,
    ) -> Result<Minted, NotMinted> {
        let bounds = Bounds {
            holder: "owner",
            last: None,
            session: None,
        };
        self.sign(wanted, &bounds, random, now_unix_ms)
    }

    fn sign(
        &self,
        wanted: &Wanted,
        bounds: &Bounds<'_>,
        random: [u8; 12],
        now_unix_ms: i64,
    ) -> Result<Minted, NotMinted> {
        let ahead = |seconds: u64| {
            let at = after(now_unix_ms, seconds);
            bounds.last.map_or(at, |last| at.min(last))
        };
        let claims = Claims {
            iss: self.installation.clone(),
            aud: Audience::One(self.installation.clone()),
            sub: (wanted.sub.clone()).unwrap_or_else(|| bounds.holder.to_owned()),
            stream: wanted.stream.clone(),
            act: wanted.act,
            nbf: None,
            iat: Some(Seconds::of_unix_ms(now_unix_ms)),
            exp: ahead(wanted.for_s.unwrap_or(DAY_S)),
            sess_exp: wanted.session_s.map(ahead).or(bounds.session),
            ip: wanted.ip.clone(),
            max: wanted.max,
            jti: data_encoding::BASE64URL_NOPAD.encode(&random),
        };
        let token = self.keyring.signer(&self.installation).mint(&claims)?;
        Ok(Minted {
            token,
            jti: claims.jti,
            exp: claims.exp,
        })
    }
}

/// What a new token owes to whoever asked for it.
struct Bounds<'a> {
    /// Whom it is for where nobody is named.
    holder: &'a str,
    /// When it ends at the latest.
    last: Option<Seconds>,
    /// When its sessions end where nothing is said.
    session: Option<Seconds>,
}

/// So many seconds from now.
fn after(now_unix_ms: i64, seconds: u64) -> Seconds {
    let ms = i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX);
    Seconds::of_unix_ms(now_unix_ms.saturating_add(ms))
}

/// Whether a publisher's key is a token: a static key has no dot, and a token two.
pub fn is_token(key: &str) -> bool {
    key.contains('.')
}

/// The address of a peer, `address:port` or an address alone.
fn address(peer: &str) -> Option<IpAddr> {
    let socket = peer.parse().map(|socket: std::net::SocketAddr| socket.ip());
    socket.or_else(|_| peer.parse()).ok()
}
