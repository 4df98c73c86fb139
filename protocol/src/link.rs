//! The messages of a broadcast link: what media-core tells the edge of one broadcast, and what the edge answers.
//!
//! JSON, one message a WebSocket text frame (inside one process the same values over a channel). Messages to the edge carry a
//! sequence number that starts at 1 with the broadcast and never goes back; the edge ignores one that it has already applied, so
//! that a replay after a reconnect is harmless. The edge acknowledges what it has *stored*, not what it has seen: after a crash of
//! the edge everything since the last acknowledgement is sent again.

use serde::{Deserialize, Serialize};

use crate::{
    names::{BroadcastId, StreamName, TrackName},
    object_key::ObjectKey,
    signaling::{Outcome, Signal, Viewer},
    token::{Credential, Tag},
};

/// `EXT-X-TARGETDURATION` of every playlist, seconds.
pub const TARGET_DURATION_S: u32 = 4;

/// The longest link message that is read, bytes.
pub const MAX_MESSAGE_BYTES: usize = 48 * 1024;

/// A message with its place in the order of the broadcast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Numbered {
    /// From 1, one more each message. 0 marks a message outside the order ([`ToEdge::is_ordered`]).
    pub seq: u64,
    /// The message.
    #[serde(flatten)]
    pub message: ToEdge,
}

/// What media-core tells the edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToEdge {
    /// The broadcast begins, or (with `first_msn` > 0) goes on after media-core itself was restarted.
    Opened(Opened),
    /// A track begins, or goes on with another init from a segment on. The set of tracks is complete before the first part.
    Track(Track),
    /// A part can be read from the object store.
    Part(Part),
    /// A segment is complete and can be read from the object store, or is lost (`gap`).
    Segment(Segment),
    /// The segment with this number and those after it continue behind a discontinuity, in every track.
    Discontinuity {
        /// Media sequence number of the first segment after the discontinuity.
        msn: u64,
    },
    /// The broadcast ended; everything announced stays valid.
    Closed {
        /// Why.
        reason: CloseReason,
    },
    /// The box's clock and who publishes, once in two seconds and when another one does; outside the order (`seq` 0).
    Heartbeat {
        /// Unix time, milliseconds.
        clock_unix_ms: i64,
        /// What the publisher was let in with: the edge ends the broadcast when that is taken back.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        publisher: Option<Credential>,
    },
    /// The answer to [`ToCore::Signal`]; outside the order.
    Signaled {
        /// As in the question.
        request: u64,
        /// What came of it.
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// These watch by WebRTC: said of all when the link is connected, at most [`crate::signaling::MAX_WATCHING`] a message; outside the order.
    Watching {
        /// Who.
        viewers: Vec<Viewer>,
    },
    /// These still watch: said of all every [`crate::signaling::STILL_WATCHING_S`]; outside the order.
    StillWatching {
        /// Ids of their sessions, at most [`crate::signaling::MAX_IDS`].
        sessions: Vec<Tag>,
    },
    /// These do not watch any more; outside the order.
    Gone {
        /// Ids of their sessions, at most [`crate::signaling::MAX_IDS`].
        sessions: Vec<Tag>,
    },
}

impl ToEdge {
    /// Whether it has a number and is replayed. What is not is about this moment, and a later one makes up for it.
    pub fn is_ordered(&self) -> bool {
        !matches!(
            self,
            Self::Heartbeat { .. }
                | Self::Signaled { .. }
                | Self::Watching { .. }
                | Self::StillWatching { .. }
                | Self::Gone { .. }
        )
    }
}

/// The first message of a broadcast link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// The stream.
    pub stream: StreamName,
    /// The broadcast.
    pub broadcast: BroadcastId,
    /// Unix time of the timeline's zero, milliseconds: program date time = this + media time, exactly, for the whole broadcast.
    pub epoch_unix_ms: i64,
    /// Media sequence number of the first segment to come.
    pub first_msn: u64,
    /// How much of the past a playlist lists, seconds.
    pub window_s: u32,
}

/// A track, from `from_msn` on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Track {
    /// Its name.
    pub name: TrackName,
    /// Picture or sound, with what a playlist says of it.
    pub kind: TrackKind,
    /// RFC 6381 codec string, computed from the parameter sets.
    pub codecs: String,
    /// Ticks a second of this track's times.
    pub timescale: u32,
    /// The longest a part may be, ticks (`PART-TARGET`).
    pub part_target: u64,
    /// What the encoder was told, bits a second: what is said until enough was measured.
    pub nominal_bps: u64,
    /// The CMAF header.
    pub init: ObjectKey,
    /// Media sequence number of the first segment that this holds for.
    pub from_msn: u64,
    /// Key that the first part of `from_msn` will have (preload hint).
    pub first_part: ObjectKey,
}

/// Picture or sound.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TrackKind {
    /// H.264.
    Video {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
        /// Nominal frames a second as a fraction; `None` where the source does not keep a rate.
        frame_rate: Option<(u32, u32)>,
    },
    /// AAC.
    Audio {
        /// Hz.
        sample_rate: u32,
        /// Count.
        channels: u32,
    },
}

/// A part that can be read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The track whose playlist lists it.
    pub track: TrackName,
    /// Media sequence number of its segment.
    pub msn: u64,
    /// Index in the segment, from 0, without holes.
    pub part: u32,
    /// Where it lies (for a shed rung: under another track's name).
    pub key: ObjectKey,
    /// Media time of its first sample, ticks of the track.
    pub start: i64,
    /// Ticks of the track, over 0.
    pub duration: u64,
    /// Whether it begins with an IDR (always true for sound).
    pub independent: bool,
    /// Bytes.
    pub size: u64,
    /// Key of the part that comes next (preload hint): of this segment, or part 0 of the next one when this part ends it.
    pub next: ObjectKey,
}

/// A segment that is complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// The track whose playlist lists it.
    pub track: TrackName,
    /// Media sequence number; without holes.
    pub msn: u64,
    /// Where it lies; `None` when the segment is lost (`EXT-X-GAP`).
    pub key: Option<ObjectKey>,
    /// Media time of its first sample, ticks of the track.
    pub start: i64,
    /// Ticks of the track, over 0.
    pub duration: u64,
    /// Bytes; 0 when lost.
    pub size: u64,
}

/// Why a broadcast ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// The encoder said so.
    Unpublished,
    /// The connection was cut and nobody came back in time.
    Lost,
    /// The box is going down.
    Shutdown,
    /// An operator or a limit ended it.
    Stopped,
}

/// What the edge tells media-core.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToCore {
    /// First message on every connection: everything up to `seq` is known; send what comes after.
    Welcome {
        /// Number of the last message applied and stored; 0 when there is none.
        seq: u64,
    },
    /// Everything up to `seq` is stored and need not be kept for a replay.
    Ack {
        /// Number of the message.
        seq: u64,
    },
    /// The edge will not go on with this broadcast (it knows a newer one of the stream, or refuses the messages).
    Refused {
        /// A sentence for the operator's log.
        reason: String,
    },
    /// A WebRTC viewer says something. Answered by [`ToEdge::Signaled`].
    Signal {
        /// Comes back with the answer; one is not used twice on a connection.
        request: u64,
        /// What.
        #[serde(flatten)]
        signal: Signal,
    },
    /// These sessions were ended or taken back: media-core sends them nothing any more. Not answered.
    End {
        /// Their ids, at most [`crate::signaling::MAX_IDS`].
        sessions: Vec<Tag>,
    },
}

/// What the edge knows of a broadcast that was not closed, for a media-core that was restarted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Resume {
    /// The broadcast that goes on.
    pub broadcast: BroadcastId,
    /// As in [`Opened`]: the timeline goes on.
    pub epoch_unix_ms: i64,
    /// First media sequence number that was never announced, in any track: the next segment.
    pub next_msn: u64,
    /// Where the timeline must be past, milliseconds of media time.
    pub end_ms: i64,
    /// Number of the last link message applied and stored.
    pub seq: u64,
    /// The tracks; a broadcast goes on only with the same set.
    pub tracks: Vec<Track>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_message_is_flat_json_with_its_number_and_type() {
        let message = Numbered {
            seq: 7,
            message: ToEdge::Discontinuity { msn: 3 },
        };
        let text = serde_json::to_string(&message).unwrap();
        assert_eq!(text, r#"{"seq":7,"type":"discontinuity","msn":3}"#);
        assert_eq!(serde_json::from_str::<Numbered>(&text).unwrap(), message);
    }

    #[test]
    fn signaling_is_flat_too_and_has_no_place_in_the_order() {
        let tag = Tag::from_bytes([7; 12]);
        for signal in [
            Signal::Offer {
                viewer: Box::new(Viewer {
                    session: crate::session::Session::anonymous([7; 12], 1_000),
                    address: [192, 0, 2, 1].into(),
                }),
                sdp: "v=0\r\n".into(),
            },
            Signal::Patch {
                session: tag,
                fragment: "a=end-of-candidates".into(),
            },
            Signal::Leave { session: tag },
        ] {
            let asked = ToCore::Signal { request: 7, signal };
            let text = serde_json::to_string(&asked).unwrap();
            assert!(
                text.starts_with(r#"{"type":"signal","request":7,"signal":"#),
                "{text}"
            );
            assert_eq!(serde_json::from_str::<ToCore>(&text).unwrap(), asked);
        }
        let reason = crate::signaling::Refusal::NoCommonCodec;
        let message = ToEdge::Signaled {
            request: 7,
            outcome: Outcome::Refused { reason },
        };
        assert!(!message.is_ordered());
        let answer = Numbered { seq: 0, message };
        let text = serde_json::to_string(&answer).unwrap();
        let flat = r#"{"seq":0,"type":"signaled","request":7,"outcome":"refused","reason":"no_common_codec"}"#;
        assert_eq!(text, flat);
        assert_eq!(serde_json::from_str::<Numbered>(&text).unwrap(), answer);
    }
}
