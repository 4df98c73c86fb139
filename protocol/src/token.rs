//! Capability tokens: what lets somebody publish, watch, chat, moderate or manage, on every protocol.
//!
//! A token is a JWT (RFC 7519) signed with Ed25519 (`alg` `EdDSA`, RFC 8037). Whoever checks it takes three things in turn:
//!
//! 1. [`KeySet::verify`]: one of the known keys signed it, it is meant for this installation, and it may be used now;
//! 2. [`Revocations::refuse`]: it was not taken back;
//! 3. [`Grant::allows`]: it allows this action, on this stream, from this address.
//!
//! The signature is checked by the `jsonwebtoken` crate with the algorithm pinned. Times and claims are compared here, against the time
//! that is passed in. Nothing that a token says is believed before its signature was: the key is found by the header's `kid` alone, and
//! issuer and tenant are the key's.
//!
//! | claim | | what it says |
//! | --- | --- | --- |
//! | `iss` | required | who signed: the issuer of the key |
//! | `aud` | required | the installation it is for; a text, or a list that has it |
//! | `sub` | required | whom it was given to |
//! | `jti` | required | its own id, by which it is taken back and devices are counted |
//! | `stream` | required | a stream's name, or a prefix and `*`; inside the issuer's tenant |
//! | `act` | required | one or a list of `publish`, `watch`, `chat`, `moderate`, `manage` |
//! | `exp` | required | no new session from then on |
//! | `nbf` | | no session before |
//! | `iat` | | when it was issued; without it a revocation of its subject or stream is always later |
//! | `sess_exp` | | a running session ends then |
//! | `ip` | | networks (CIDR) that it may be used from |
//! | `max` | | how many devices at a time |
//!
//! Times are whole seconds since the Unix epoch. Other claims are not looked at.

mod claims;
mod ed25519;
mod holder;
mod keys;
mod revocations;

use std::net::IpAddr;

pub use claims::{Action, Actions, Audience, Claims, MalformedPattern, Seconds, StreamPattern};
pub use holder::{Credential, Holder, MalformedTag, Tag};
pub use keys::{Jwk, Jwks, KeyError, KeySet, MAX_TEXT_CHARS, MintError, SigningKey, VerifyingKey};
pub use revocations::{Revocation, Revocations, Revoked};

use crate::names::StreamName;

/// The longest token that is minted for publishing, bytes: an SRT stream id has room for 512 and says more than the token.
pub const MAX_PUBLISH_BYTES: usize = 400;

/// The longest token that is minted or looked at, bytes.
pub const MAX_BYTES: usize = 1_024;

/// How far an issuer's clock may be ahead, milliseconds: a token whose `nbf` is the moment it was made can be used at once.
pub const AHEAD_MS: i64 = 10_000;

/// Why a token does not let its bearer in. The text is for that person; it says nothing of what exists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Longer than [`MAX_BYTES`].
    #[error("the token has {0} characters: no token has more than {MAX_BYTES}")]
    TooLong(usize),
    /// Not three parts of base64url with JSON in the first two, or without a claim that each has.
    #[error("this is not a token: copy it again, whole")]
    Malformed,
    /// Signed by a method other than Ed25519, or by a key that is not known or not used any more.
    #[error("the token is signed with a key that is not known here")]
    Key,
    /// The signature is not the key's, or the token names an issuer other than the key's.
    #[error("the token's signature is wrong")]
    Signature,
    /// `aud` names another installation.
    #[error("the token is for another installation")]
    Audience,
    /// `nbf` or `iat` is to come.
    #[error("the token is not valid yet")]
    NotYet,
    /// `exp` or `sess_exp` has passed.
    #[error("the token has expired: ask for a new one")]
    Expired,
    /// Taken back, by its id, its subject or its stream.
    #[error("the token has been revoked")]
    Revoked,
    /// For other streams, or for streams outside the issuer's tenant.
    #[error("the token is for another stream")]
    Stream,
    /// For other actions.
    #[error("the token does not allow to {0}")]
    Action(Action),
    /// Not from this address.
    #[error("the token cannot be used from this address")]
    Address,
}

/// What somebody wants to do with a token.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// What is to be done.
    pub action: Action,
    /// With which stream.
    pub stream: &'a StreamName,
    /// From where.
    pub address: IpAddr,
}

/// A token whose signature, installation and times are right. What it allows has still to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    claims: Claims,
    /// When it was issued at the earliest: what is taken back later takes it back.
    issued: Option<Seconds>,
    signer: Tag,
    key_retires_unix_ms: Option<i64>,
}

impl Grant {
    /// What the token says.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Whether the token allows this.
    ///
    /// # Errors
    /// [`Refusal::Stream`], [`Refusal::Action`], [`Refusal::Address`], in this order.
    pub fn allows(&self, ask: &Ask<'_>) -> Result<(), Refusal> {
        if !self.claims.stream.covers(ask.stream) {
            return Err(Refusal::Stream);
        }
        self.allows_action(ask.action, ask.address)
    }

    /// As [`Self::allows`], of every stream that a pattern covers.
    ///
    /// # Errors
    /// As [`Self::allows`].
    pub fn allows_all(
        &self,
        action: Action,
        streams: &StreamPattern,
        address: IpAddr,
    ) -> Result<(), Refusal> {
        if !self.claims.stream.covers_all(streams) {
            return Err(Refusal::Stream);
        }
        self.allows_action(action, address)
    }

    fn allows_action(&self, action: Action, address: IpAddr) -> Result<(), Refusal> {
        let Claims { act, ip, .. } = &self.claims;
        if !act.contains(action) {
            return Err(Refusal::Action(action));
        }
        let address = address.to_canonical();
        if !ip.is_empty() && !ip.iter().any(|net| net.contains(&address)) {
            return Err(Refusal::Address);
        }
        Ok(())
    }

    /// What of it stays with a session that it begins.
    pub fn holder(&self) -> Holder {
        Holder {
            issued: self.issued,
            ..Holder::of(&self.claims)
        }
    }

    /// What of it stays with a publisher that it lets in.
    pub fn credential(&self) -> Credential {
        Credential {
            holder: self.holder(),
            signer: Some(self.signer),
            asked: None,
        }
    }

    /// When the key that signed it retires, if that is known, Unix milliseconds: what is made on its word ends no later.
    pub fn key_retires_unix_ms(&self) -> Option<i64> {
        self.key_retires_unix_ms
    }

    /// When a session that it began ends by itself, Unix milliseconds: by its `sess_exp`, or with the key that signed it.
    pub fn session_ends_unix_ms(&self) -> Option<i64> {
        let said = self.claims.sess_exp.map(Seconds::unix_ms);
        [said, self.key_retires_unix_ms].into_iter().flatten().min()
    }

    /// Whether it may begin a session at this time.
    fn timely(&self, now_unix_ms: i64) -> Result<(), Refusal> {
        let Claims {
            nbf,
            iat,
            exp,
            sess_exp,
            ..
        } = &self.claims;
        let to_come = |at: Seconds| at.unix_ms() > now_unix_ms.saturating_add(AHEAD_MS);
        // One that says that it was issued in the future would outlast every revocation of its subject.
        if nbf.is_some_and(to_come) || iat.is_some_and(to_come) {
            return Err(Refusal::NotYet);
        }
        let over = |at: Seconds| at.unix_ms() <= now_unix_ms;
        if over(*exp) || sess_exp.is_some_and(over) {
            return Err(Refusal::Expired);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
