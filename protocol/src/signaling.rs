//! WebRTC signaling over a broadcast link: the edge passes on what a viewer's browser says ([`Signal`]), media-core answers ([`Outcome`]).
//!
//! media-core opens no port for it. Signals and their answers are outside the order of the link (`seq` 0) and are not replayed: a viewer whose
//! request was lost with the link asks again. A session that is up needs no link: media-core goes on sending, and says who watches
//! ([`crate::link::ToEdge::Watching`]) when there is one again.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{session::Session, token::Tag};

/// The longest offer, answer or fragment, bytes.
pub const MAX_SDP_BYTES: usize = 16 * 1024;
/// Viewers that one [`crate::link::ToEdge::Watching`] tells of at the most.
pub const MAX_WATCHING: usize = 32;
/// Ids in one [`crate::link::ToEdge::StillWatching`], [`crate::link::ToEdge::Gone`] or [`crate::link::ToCore::End`] at the most.
pub const MAX_IDS: usize = 512;
/// How often media-core says who watches, seconds: well within the time after which a silent session counts no more.
pub const STILL_WATCHING_S: u64 = 5;
/// How long the edge waits for media-core's answer, seconds; then 504.
pub const ANSWER_S: u64 = 5;

/// Who watches by WebRTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Viewer {
    /// The playback session. media-core ends it at [`Session::ends_unix_ms`] by itself.
    pub session: Session,
    /// Where it was begun from.
    pub address: IpAddr,
}

/// What the edge passes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "signal", rename_all = "snake_case")]
pub enum Signal {
    /// A viewer offers. Answered with [`Outcome::Answer`] or [`Outcome::Refused`].
    Offer {
        /// Whose.
        viewer: Box<Viewer>,
        /// The offer, at most [`MAX_SDP_BYTES`].
        sdp: String,
    },
    /// Candidates, or an ICE restart where the fragment has other credentials (RFC 8840 section 9). Answered with [`Outcome::Patched`].
    Patch {
        /// Whose.
        session: Tag,
        /// The fragment, at most [`MAX_SDP_BYTES`].
        fragment: String,
    },
    /// A viewer leaves. Answered with [`Outcome::Left`].
    Leave {
        /// Who.
        session: Tag,
    },
}

/// What media-core answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// To an offer.
    Answer {
        /// The answer, with all candidates.
        sdp: String,
    },
    /// To a patch.
    Patched {
        /// After an ICE restart media-core's new credentials and candidates.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fragment: Option<String>,
    },
    /// The viewer is gone.
    Left,
    /// It cannot be.
    Refused {
        /// Why.
        reason: Refusal,
    },
}

/// Why media-core does not do what a viewer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// 400.
    #[error("that is no offer, or no fragment, that can be read")]
    Malformed,
    /// 406.
    #[error("there is no codec that both can use: H.264 for the picture, Opus for the sound")]
    NoCommonCodec,
    /// 503.
    #[error("as many are watching by WebRTC as this server serves: play HLS, or try again later")]
    Full,
    /// 404.
    #[error("there is no such session any more")]
    NoSession,
    /// 503: WebRTC is off, or nothing can be sent yet.
    #[error("this broadcast cannot be watched by WebRTC (yet): play HLS")]
    Unavailable,
}
