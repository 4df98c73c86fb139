//! The questions a box asks the edge: plain HTTP with JSON, authenticated as in [`crate::link_auth`]; in one process the same values by
//! a call.
//!
//! | request | body → answer |
//! | --- | --- |
//! | `POST /internal/admit` | [`Admit`] → [`Admission`] or a problem with status 403 |
//! | `POST /internal/broadcasts` | [`Open`] → [`OpenAnswer`] |
//! | `GET /internal/link/{broadcast}` | WebSocket of [`crate::link`] messages |
//! | `PUT /internal/media/{key}` | an object, where the box has no bucket of its own → 201 |
//! | `DELETE /internal/media/{key}` | an object whose time is over → 204; 405 where the bucket deletes by its own rules |
//! | `PUT /internal/streams/{stream}` | the stream's entry in the directory, made or replaced → 204 |
//! | `PUT /internal/streams/{stream}/settings` | what the box's configuration says of a stream that there is → 204 |

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    limits::Limits,
    link::Resume,
    names::{BroadcastId, Protocol, StreamName},
    token::Credential,
};

/// May this publisher publish, and as what? Its `Debug` hides the key.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admit {
    /// The key as the encoder gave it.
    pub key: String,
    /// The stream that the address names beside the key, if it names one.
    pub stream: Option<StreamName>,
    /// The publisher's address (real, behind a trusted proxy).
    pub peer: String,
    /// What it speaks; `None` from a box of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Only whether the key is good is wanted: nobody publishes on the answer, so no webhook is asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probe: bool,
}

impl fmt::Debug for Admit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admit")
            .field("stream", &self.stream)
            .field("peer", &self.peer)
            .field("protocol", &self.protocol)
            .field("probe", &self.probe)
            .finish_non_exhaustive()
    }
}

/// The publisher may publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Admission {
    /// As this stream.
    pub stream: StreamName,
    /// When the session ends whatever it does, Unix milliseconds; never when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_unix_ms: Option<i64>,
    /// What it was let in with; the edge is told again over the broadcast's link ([`crate::link::ToEdge::Heartbeat`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Credential>,
    /// What the publisher may send at the most; a box of before leaves that aside.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
}

impl Admission {
    /// As this stream, for as long as it lasts.
    pub fn of(stream: StreamName) -> Self {
        Self {
            stream,
            ends_unix_ms: None,
            credential: None,
            limits: Limits::default(),
        }
    }
}

/// A publisher of this stream has come: which broadcast is it?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// The stream.
    pub stream: StreamName,
    /// The id of the broadcast if it is a new one.
    pub broadcast: BroadcastId,
}

/// A new broadcast, or one that goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct OpenAnswer {
    /// Present when an unfinished broadcast of the stream is young enough to go on.
    pub resume: Option<Resume>,
}
