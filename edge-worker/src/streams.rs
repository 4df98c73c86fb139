//! Streams made, changed and deleted over HTTP by whoever has a token that manages them: what the requests and answers say, and which
//! of them is whose.
//!
//! | request | who | answer |
//! | --- | --- | --- |
//! | `GET /api/streams` | anybody; with a token | the public ones; and those that the token lets watch or manage, the latter with their settings |
//! | `GET /api/streams/{stream}` | the same | one of them |
//! | `POST /api/streams` | a manager of that name | 201 with the key, once |
//! | `PATCH /api/streams/{stream}` | its manager | the stream with its settings |
//! | `DELETE /api/streams/{stream}` | its manager | 204; the broadcast ends, its objects go |
//! | `POST /api/streams/{stream}/keys` | its manager | a new key, once |
//!
//! To whoever has a token for others, a stream that needs one and any change of it are refused exactly like one that does not exist; a new
//! one outside of what the token manages is refused whether it exists or not.

use std::net::IpAddr;

use protocol::{
    limits::Limits,
    names::StreamName,
    token::{Action, Ask, Grant, Refusal, Revocations, StreamPattern},
};
use serde::{Deserialize, Serialize};

use crate::{
    directory::{
        Refusal as Unkept, StreamEntry,
        settings::{Change, LimitsChange, Title, Visibility},
    },
    limits::Tenants,
    playlist::iso8601,
    routes::Problem,
};

/// The longest that a replaced key can go on, seconds.
pub const MAX_OVERLAP_S: u64 = 30 * 24 * 3_600;

/// Somebody who has a token, at an address.
#[derive(Debug)]
pub struct Bearer<'a> {
    grant: Grant,
    address: IpAddr,
    revoked: &'a Revocations,
}

impl<'a> Bearer<'a> {
    /// With what a token grants.
    pub fn new(grant: Grant, address: IpAddr, revoked: &'a Revocations) -> Self {
        Self {
            grant,
            address,
            revoked,
        }
    }

    fn check(&self, action: Action, stream: &StreamName) -> Result<(), Refusal> {
        let address = self.address;
        let ask = Ask {
            action,
            stream,
            address,
        };
        self.grant.allows(&ask)?;
        self.revoked.refuse_ask(&self.grant, &ask)
    }

    /// Whether they may do that with this stream.
    pub fn may(&self, action: Action, stream: &StreamName) -> bool {
        self.check(action, stream).is_ok()
    }

    /// Which streams their token is for.
    pub fn manages(&self) -> &StreamPattern {
        &self.grant.claims().stream
    }

    /// Why somebody is told nothing of a stream that needs a token to watch. To whoever comes with one for others it is not there.
    pub fn kept_from(bearer: Option<&Self>, stream: &StreamName) -> Problem {
        match bearer.and_then(|bearer| bearer.check(Action::Watch, stream).err()) {
            None => Problem::token_needed(),
            Some(Refusal::Stream) => Problem::no_stream(),
            Some(refusal) => Problem::token(&refusal),
        }
    }

    /// Whether they may make a stream of that name beside those that there are. It is the same whether there is one.
    ///
    /// # Errors
    /// A [`Problem`].
    pub fn may_make<'s>(
        &self,
        stream: &StreamName,
        tenants: &Tenants,
        streams: impl Iterator<Item = &'s StreamName> + Clone,
    ) -> Result<(), Problem> {
        let checked = self.check(Action::Manage, stream);
        checked.map_err(|refusal| Problem::token(&refusal))?;
        let room = tenants.may_make(self.manages(), stream, streams, self.revoked);
        room.map_err(|full| Problem::too_many(&full))
    }

    /// Whether they may change a stream, which is there or is not. Another's is refused like one that is not.
    ///
    /// # Errors
    /// A [`Problem`].
    pub fn may_change(&self, stream: &StreamName, is_there: bool) -> Result<(), Problem> {
        match self.check(Action::Manage, stream) {
            Ok(()) if is_there => Ok(()),
            Ok(()) | Err(Refusal::Stream) => Err(Problem::no_stream()),
            Err(refusal) => Err(Problem::token(&refusal)),
        }
    }

    /// How much of a stream they are told.
    pub fn sight(bearer: Option<&Self>, stream: &StreamName, visibility: Visibility) -> Sight {
        let may = |action| bearer.is_some_and(|bearer| bearer.may(action, stream));
        if may(Action::Manage) {
            Sight::Managed
        } else if !visibility.needs_token() || may(Action::Watch) {
            Sight::Watched
        } else {
            Sight::None
        }
    }

    /// How much of a stream the list that they are given says; `None` where the stream is not in it.
    pub fn listed(bearer: Option<&Self>, stream: &StreamName, visibility: Visibility) -> Sight {
        match (Self::sight(bearer, stream, visibility), visibility) {
            // Who knows its address watches; it is not given out.
            (Sight::Watched, Visibility::Unlisted) => Sight::None,
            (sight, _) => sight,
        }
    }
}

/// How much of a stream somebody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// That a token is needed.
    None,
    /// What viewers are told.
    Watched,
    /// Its settings too.
    Managed,
}

/// What only those are told who manage the stream.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Managed {
    /// Who may watch.
    pub visibility: Visibility,
    /// What it may take.
    pub limits: Limits,
    /// When it was made, ISO 8601.
    pub created: String,
}

impl Managed {
    /// Of a stream made at that time, Unix milliseconds.
    pub fn new(visibility: Visibility, limits: Limits, created_unix_ms: i64) -> Self {
        Self {
            visibility,
            limits,
            created: iso8601(created_unix_ms),
        }
    }
}

/// The body of `POST /api/streams`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// Its name.
    pub name: StreamName,
    /// Who may watch; public when left out.
    #[serde(default)]
    visibility: Option<Visibility>,
    /// What it is called.
    #[serde(default)]
    title: Option<Title>,
    /// What it may take.
    #[serde(default)]
    limits: LimitsChange,
}

impl Create {
    /// The settings, as a change of a stream that has none.
    ///
    /// # Errors
    /// A [`Problem`] when one is beyond its range.
    pub fn settings(&self) -> Result<Change, Problem> {
        let change = Change {
            visibility: self.visibility,
            title: self.title.clone().map(Some),
            limits: self.limits,
        };
        let checked = change.check();
        checked.map_err(|error| Problem::body(error.to_string()))?;
        Ok(change)
    }
}

/// The answer to `POST /api/streams`: nobody is told of these secrets again but by the studio.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Created {
    /// The stream.
    pub name: StreamName,
    /// Its key.
    pub key: String,
    /// What its studio link carries: `/studio/{stream}#{studio_secret}`.
    pub studio_secret: String,
}

impl From<&StreamEntry> for Created {
    fn from(entry: &StreamEntry) -> Self {
        Self {
            name: entry.name.clone(),
            key: entry.key.reveal(),
            studio_secret: entry.studio_secret.clone(),
        }
    }
}

/// The body of `POST /api/streams/{stream}/keys`; an empty one says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rotate {
    /// How long the key before this one goes on, seconds; not at all when left out.
    #[schemars(range(max = MAX_OVERLAP_S))]
    overlap_s: u64,
}

impl Rotate {
    /// Reads the body.
    ///
    /// # Errors
    /// A [`Problem`].
    pub fn read(body: &[u8]) -> Result<Self, Problem> {
        let rotate: Self = match body.is_empty() {
            true => Self::default(),
            false => crate::api::read(body)?,
        };
        match rotate.overlap_s <= MAX_OVERLAP_S {
            true => Ok(rotate),
            false => Err(Problem::body(format!(
                "overlap_s is {}: use 0 to {MAX_OVERLAP_S}",
                rotate.overlap_s
            ))),
        }
    }

    /// Until when the key before goes on, Unix milliseconds.
    pub fn old_until_unix_ms(self, now_unix_ms: i64) -> Option<i64> {
        let overlap_ms = i64::try_from(self.overlap_s).ok()?.checked_mul(1_000)?;
        (overlap_ms > 0).then(|| now_unix_ms.saturating_add(overlap_ms))
    }
}

/// The answer to `POST /api/streams/{stream}/keys`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Rotated {
    /// The new key.
    pub key: String,
    /// Until when the one before goes on, ISO 8601; `None` where it ended with this.
    pub old_key_until: Option<String>,
}

impl Rotated {
    /// A new key, and until when the one before goes on, Unix milliseconds.
    pub fn new(key: String, old_until_unix_ms: Option<i64>) -> Self {
        Self {
            key,
            old_key_until: old_until_unix_ms.map(iso8601),
        }
    }
}

/// Why a stream was not made, changed or deleted, for whoever manages it.
pub fn unkept(refusal: &Unkept) -> Problem {
    match refusal {
        Unkept::Exists(_) | Unkept::KeyId(_) => Problem::stream_exists(),
        _ => Problem::no_stream(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_overlap_is_bounded_and_none_is_none() {
        assert_eq!(Rotate::read(b"").unwrap().old_until_unix_ms(5), None);
        assert_eq!(Rotate::read(b"{}").unwrap().old_until_unix_ms(5), None);
        let hour = Rotate::read(br#"{"overlap_s": 3600}"#).unwrap();
        assert_eq!(hour.old_until_unix_ms(5), Some(3_600_005));
        for bad in [
            br#"{"overlap_s": 2592001}"#.as_slice(),
            br#"{"overlap_s": -1}"#,
            br#"{"overlap": 1}"#,
            b"[",
        ] {
            assert_eq!(Rotate::read(bad).unwrap_err().status, 400);
        }
    }
}
