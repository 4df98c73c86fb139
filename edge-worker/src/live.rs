//! The state of one broadcast: link messages and the time in, answers and whom to wake out.
//!
//! [`Broadcast::apply`] takes each numbered message once (a replay is ignored) and refuses what cannot be, leaving the state as it was.
//! A [`Broadcast`] serialises to its own snapshot. The rules of storing it:
//!
//! 1. When an answer says [`Applied::store`], begin to write the snapshot, after waking whom it names; the newest snapshot replaces any
//!    that waits to be written. When it is durable, call [`Broadcast::stored`] with the number it was taken at ([`Broadcast::seq`]) and
//!    send that number as `ack`.
//! 2. Before a message for which [`Broadcast::needs_store_before`] is true, finish that write. It is true only when a segment's first part
//!    is about to be announced and no durable snapshot says yet that the segment may have begun. The snapshot that says so is asked for
//!    when the segment before it is complete in the first track, one part's time earlier, so this never waits while the store is well.
//!
//! So a snapshot is stored once a segment, and never between a part's event and its wake-up; and whatever was announced before a crash,
//! [`Broadcast::resume`] never gives out a media sequence number twice.
//!
//! Memory is bounded whatever arrives: tracks, parts a segment, segments a window and the lead of one track over another have limits.

use std::collections::VecDeque;

use protocol::{
    link::{CloseReason, Numbered, Opened, Part, Resume, Segment, ToEdge, Track, TrackKind},
    names::{BroadcastId, StreamName, TrackName},
    object_key::{ObjectKey, ObjectKind},
    token::Credential,
};
use serde::{Deserialize, Serialize};

use crate::webhooks::event::Told;

mod head;
mod rate;
#[cfg(test)]
pub(crate) mod source;
#[cfg(test)]
mod tests;

pub use head::{Directives, Head, Verdict};
pub use rate::Rate;

/// `EXT-X-TARGETDURATION`, microseconds.
pub const TARGET_DURATION_US: i64 = protocol::link::TARGET_DURATION_S as i64 * 1_000_000;
/// How long a cut or restarted broadcast can be taken up again, milliseconds.
pub const RESUME_MS: i64 = 30_000;
/// How much longer the edge itself waits before it ends a broadcast whose link is gone: the box decides first, milliseconds.
pub const RESUME_MARGIN_MS: i64 = 5_000;
/// Parts are listed for so long before the end of a playlist, microseconds (three target durations).
pub const PARTS_LISTED_US: i64 = 3 * TARGET_DURATION_US;
/// A segment is shorter than this, microseconds: rounded to a whole second it is not over the target duration.
pub const SEGMENT_LIMIT_US: i64 = TARGET_DURATION_US + 500_000;
/// What the texts' rounding to the nearest 10 µs may add to a duration, microseconds: 4.499999 s is written as 4.50000.
const WRITTEN_ROUNDING_US: i64 = 5;

/// Tracks of a broadcast at most.
pub const MAX_TRACKS: usize = 16;
/// Parts of a segment at most.
pub const MAX_PARTS: usize = 128;
/// How many segments a track may be ahead of the slowest one.
pub const MAX_LEAD: u64 = 16;
/// Window at least, seconds: three target durations.
pub const MIN_WINDOW_S: u32 = 12;
/// Window at most, seconds.
pub const MAX_WINDOW_S: u32 = 3_600;
/// Most segments that a crash may cost; see [`Broadcast::resume`].
const MAX_LOST_SEGMENTS: u64 = 4;
/// Largest part, bytes.
const MAX_PART_BYTES: u64 = 64 << 20;
/// Largest media sequence number: what a JavaScript player can count.
const MAX_MSN: u64 = 1 << 53;
/// Latest media time, microseconds: a hundred years.
const MAX_TIME_US: i128 = 100 * 366 * 86_400 * 1_000_000;

/// Why a message was refused. The state is as it was before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The first message is another one.
    #[error("a broadcast begins with `opened`")]
    NotOpened,
    /// Messages are missing.
    #[error("message {got} came after {known}: messages are missing")]
    SeqHole {
        /// The last one that is known.
        known: u64,
        /// The one that came.
        got: u64,
    },
    /// What is in the order has a number.
    #[error("a message of the broadcast's order has no number")]
    Unnumbered,
    /// Another broadcast's message.
    #[error("the message belongs to another stream, broadcast or timeline")]
    OtherBroadcast,
    /// The broadcast is over.
    #[error("the broadcast has ended")]
    Ended,
    /// `opened` would use numbers again or leave too large a hole.
    #[error("the broadcast cannot go on at segment {got}: the next one is {expected}")]
    FirstMsn {
        /// The first number never announced.
        expected: u64,
        /// What came.
        got: u64,
    },
    /// The window has a length that is not served.
    #[error("a window of {0} s is not served: it must be from {MIN_WINDOW_S} to {MAX_WINDOW_S} s")]
    Window(u32),
    /// A time or an epoch outside a hundred years.
    #[error("a time is out of range")]
    Time,
    /// Not a track of this broadcast, or not (again) announced.
    #[error("track {0} was not announced")]
    UnknownTrack(TrackName),
    /// Tracks come before the first part only.
    #[error("track {0} came after the first part: the set of tracks is complete before it")]
    LateTrack(TrackName),
    /// Too many tracks.
    #[error("more than {MAX_TRACKS} tracks")]
    TooManyTracks,
    /// A track says something impossible of itself.
    #[error("track {track}: {what}")]
    Track {
        /// The track.
        track: TrackName,
        /// What is wrong, a sentence's end.
        what: &'static str,
    },
    /// A part or segment out of its place.
    #[error("track {track}: segment {msn} came where segment {expected} was expected")]
    Msn {
        /// The track.
        track: TrackName,
        /// What came.
        msn: u64,
        /// What should have come.
        expected: u64,
    },
    /// A part out of its place.
    #[error("track {track}: part {part} of segment {msn} came where part {expected} was expected")]
    PartIndex {
        /// The track.
        track: TrackName,
        /// The segment.
        msn: u64,
        /// What came.
        part: u32,
        /// What should have come.
        expected: usize,
    },
    /// A part or segment says something impossible of itself.
    #[error("track {track}, segment {msn}: {what}")]
    Media {
        /// The track.
        track: TrackName,
        /// The segment.
        msn: u64,
        /// What is wrong, a sentence's end.
        what: &'static str,
    },
    /// One track runs away from the others.
    #[error("track {0} is more than {MAX_LEAD} segments ahead of another")]
    Lead(TrackName),
    /// A discontinuity at a segment that some track has begun, or far ahead.
    #[error("a discontinuity at segment {0} cannot be: it has begun, or is too far ahead")]
    Discontinuity(u64),
}

/// Whom to wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// Nobody.
    None,
    /// Those that wait for this track (index in [`Broadcast::tracks`]).
    Track(usize),
    /// Everybody.
    All,
}

/// What a message changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Applied {
    /// Whom to wake, at once.
    pub wake: Wake,
    /// Whether a snapshot is to be stored, after the wake-up.
    pub store: bool,
}

impl Applied {
    const NOTHING: Self = Self {
        wake: Wake::None,
        store: false,
    };
}

/// A part as it is listed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListedPart {
    /// Where it lies.
    pub key: ObjectKey,
    /// Media time of its first sample, ticks.
    pub start: i64,
    /// Ticks.
    pub duration: u64,
    /// Whether it begins with an IDR.
    pub independent: bool,
    /// Bytes.
    pub size: u64,
}

/// A complete segment as it is listed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListedSegment {
    /// Media sequence number.
    pub msn: u64,
    /// Where it lies; `None` when it is lost.
    pub key: Option<ObjectKey>,
    /// Ticks a second of `start` and `duration`, here and in `parts`.
    pub timescale: u32,
    /// Media time of its first sample, ticks.
    pub start: i64,
    /// Ticks.
    pub duration: u64,
    /// Bytes.
    pub size: u64,
    /// Its parts; empty when it is lost or older than any playlist lists parts.
    pub parts: Vec<ListedPart>,
}

impl ListedSegment {
    /// Media time of its first sample, microseconds.
    pub fn start_us(&self) -> i64 {
        to_us(self.start, self.timescale)
    }

    /// Microseconds.
    pub fn duration_us(&self) -> i64 {
        to_us(self.duration as i64, self.timescale)
    }
}

/// One track of a broadcast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveTrack {
    /// What it said of itself, oldest first: each holds from its `from_msn` on. Never empty.
    configs: VecDeque<Track>,
    /// Complete segments of the window.
    segments: VecDeque<ListedSegment>,
    /// The segment that is running.
    next_msn: u64,
    /// Its parts so far.
    parts: Vec<ListedPart>,
    /// Key of the part to come.
    hint: Option<ObjectKey>,
    /// Measured.
    rate: Rate,
    /// After media-core was restarted: the track must be announced again before its parts.
    awaited: bool,
}

impl LiveTrack {
    /// Its name.
    pub fn name(&self) -> &TrackName {
        &self.config().name
    }

    /// What it says of itself at the end of the playlist.
    pub fn config(&self) -> &Track {
        self.config_at(self.next_msn)
    }

    /// What it said of itself at a segment.
    pub fn config_at(&self, msn: u64) -> &Track {
        let index = self.configs.partition_point(|c| c.from_msn <= msn);
        &self.configs[index.saturating_sub(1)]
    }

    /// All that it said of itself within the window and of segments to come, oldest first.
    pub fn configs(&self) -> impl Iterator<Item = &Track> {
        self.configs.iter()
    }

    /// The complete segments of the window.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &ListedSegment> + ExactSizeIterator {
        self.segments.iter()
    }

    /// The complete segment with that number, if the window has it.
    pub fn segment(&self, msn: u64) -> Option<&ListedSegment> {
        let first = self.segments.front()?.msn;
        self.segments
            .get(usize::try_from(msn.checked_sub(first)?).ok()?)
    }

    /// The parts of the running segment.
    pub fn parts(&self) -> &[ListedPart] {
        &self.parts
    }

    /// Number of the running segment: one more than the last complete one.
    pub fn next_msn(&self) -> u64 {
        self.next_msn
    }

    /// Key of the part to come (`EXT-X-PRELOAD-HINT`).
    pub fn hint(&self) -> Option<&ObjectKey> {
        self.hint.as_ref()
    }

    /// Measured bit rate.
    pub fn rate(&self) -> &Rate {
        &self.rate
    }

    /// Whether it is picture.
    pub fn is_video(&self) -> bool {
        matches!(self.config().kind, TrackKind::Video { .. })
    }

    /// Longest part of those in the window, microseconds, rounded up.
    pub fn part_target_us(&self) -> i64 {
        let longest = self.configs.iter().map(|c| {
            let ticks = i128::from(c.part_target) * 1_000_000;
            let scale = i128::from(c.timescale);
            ((ticks + scale - 1) / scale) as i64
        });
        longest.max().unwrap_or(TARGET_DURATION_US)
    }

    /// Media time of the end of everything listed, microseconds.
    pub fn end_us(&self) -> Option<i64> {
        if let Some(part) = self.parts.last() {
            let scale = self.config().timescale;
            return Some(to_us(
                part.start.saturating_add(part.duration as i64),
                scale,
            ));
        }
        let last = self.segments.back()?;
        Some(last.start_us() + last.duration_us())
    }

    /// Media time of the first sample of a segment of the window or of the running one, microseconds.
    pub fn start_of_us(&self, msn: u64) -> Option<i64> {
        if msn == self.next_msn {
            let scale = self.config_at(msn).timescale;
            return Some(to_us(self.parts.first()?.start, scale));
        }
        Some(self.segment(msn)?.start_us())
    }

    fn parts_ticks(&self) -> u64 {
        self.parts.iter().map(|p| p.duration).sum()
    }
}

/// How a broadcast ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Why.
    pub reason: CloseReason,
    /// When, Unix milliseconds.
    pub at_unix_ms: i64,
}

/// A Period of the MPD: begins at a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Period {
    /// Its first segment's number.
    pub msn: u64,
    /// Where it begins, microseconds of media time.
    pub start_us: i64,
}

/// What is known of an object that somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectAnswer {
    /// It was announced: read it from the store.
    Announced,
    /// It is the part that this track will announce next: wait for the track.
    Hinted(usize),
    /// Neither: 404 without asking the store.
    Unknown,
}

/// What is known of a segment that somebody asks for by number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SegmentAnswer<'a> {
    /// It is complete.
    Complete(&'a ListedSegment),
    /// It is running; these are its parts so far, at least one.
    Running(&'a [ListedPart]),
    /// It is the one that begins next: wait for the track.
    Next,
    /// It has left the window, is lost, or is far ahead.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkState {
    Connected,
    /// Since when, Unix milliseconds.
    Gone(i64),
}

impl Default for LinkState {
    fn default() -> Self {
        Self::Gone(0)
    }
}

/// A segment that left the window: still served to those who hold an older playlist.
#[derive(Debug, Clone, PartialEq)]
struct Retired {
    until_unix_ms: i64,
    key: ObjectKey,
}

/// The state of one broadcast. Serialised, it is its own snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Broadcast {
    stream: StreamName,
    id: BroadcastId,
    epoch_unix_ms: i64,
    since_unix_ms: i64,
    window_s: u32,
    /// First segment of every playlist.
    base_msn: u64,
    /// First segment that the broadcast (or this run of media-core) opened with.
    opened_msn: u64,
    /// Segments that continue behind a discontinuity, from the window on.
    discontinuities: VecDeque<u64>,
    /// Discontinuities that left the window.
    discontinuity_sequence: u64,
    periods: VecDeque<Period>,
    tracks: Vec<LiveTrack>,
    /// First number of which nothing was announced.
    unannounced_msn: u64,
    /// Segments below this may have begun, says this snapshot.
    reserved_msn: u64,
    seq: u64,
    /// Number of the last message that opened or announced a track: stored before any part behind it is announced.
    announced_seq: u64,
    ended: Option<Ended>,

    #[serde(skip)]
    stored_seq: u64,
    #[serde(skip)]
    durable_msn: u64,
    #[serde(skip)]
    link: LinkState,
    #[serde(skip)]
    retired: VecDeque<Retired>,
    #[serde(skip)]
    version: u64,
    #[serde(skip)]
    clock_offset_ms: Option<i64>,
    /// What the publisher was let in with, by the last heartbeat.
    #[serde(default)]
    publisher: Option<Credential>,
    /// How many watched, and what webhooks were told.
    #[serde(default)]
    told: Told,
}

/// Ticks as microseconds, rounded down, saturating.
pub(crate) fn to_us(ticks: i64, timescale: u32) -> i64 {
    let us = (i128::from(ticks) * 1_000_000).div_euclid(i128::from(timescale.max(1)));
    us.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

fn from_us(us: i64, timescale: u32) -> i64 {
    let ticks = (i128::from(us) * i128::from(timescale)).div_euclid(1_000_000);
    ticks.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

fn time_in_range(ticks: i64, duration: u64, timescale: u32) -> bool {
    let end = i128::from(ticks) + i128::from(duration);
    let limit = MAX_TIME_US * i128::from(timescale) / 1_000_000;
    // Audio priming may reach a little before the timeline's zero.
    i128::from(ticks) >= -60 * i128::from(timescale) && end <= limit
}

impl Broadcast {
    /// Begins a broadcast with its first message.
    ///
    /// # Errors
    /// [`ApplyError`] when the message is not a sound `opened`.
    pub fn begin(first: &Numbered, now_unix_ms: i64) -> Result<(Self, Applied), ApplyError> {
        let ToEdge::Opened(opened) = &first.message else {
            return Err(ApplyError::NotOpened);
        };
        if first.seq == 0 {
            return Err(ApplyError::Unnumbered);
        }
        check_opened(opened)?;
        let broadcast = Self {
            stream: opened.stream.clone(),
            id: opened.broadcast.clone(),
            epoch_unix_ms: opened.epoch_unix_ms,
            since_unix_ms: now_unix_ms,
            window_s: opened.window_s,
            base_msn: opened.first_msn,
            opened_msn: opened.first_msn,
            discontinuities: VecDeque::new(),
            discontinuity_sequence: 0,
            periods: VecDeque::new(),
            tracks: Vec::new(),
            unannounced_msn: opened.first_msn,
            reserved_msn: opened.first_msn + 1,
            announced_seq: first.seq,
            seq: first.seq,
            ended: None,
            stored_seq: 0,
            durable_msn: opened.first_msn,
            link: LinkState::Connected,
            retired: VecDeque::new(),
            version: 1,
            clock_offset_ms: None,
            publisher: None,
            told: Told::default(),
        };
        Ok((
            broadcast,
            Applied {
                wake: Wake::None,
                store: true,
            },
        ))
    }

    /// A broadcast from its snapshot, after a restart of the edge: the link is gone, from now on.
    ///
    /// # Errors
    /// When the text is no snapshot of this version.
    pub fn restore(snapshot: &[u8], now_unix_ms: i64) -> Result<Self, serde_json::Error> {
        let mut broadcast: Self = serde_json::from_slice(snapshot)?;
        let sound = broadcast.tracks.len() <= MAX_TRACKS
            && (MIN_WINDOW_S..=MAX_WINDOW_S).contains(&broadcast.window_s)
            && broadcast
                .tracks
                .iter()
                .all(|t| !t.configs.is_empty() && t.configs.iter().all(|c| c.timescale > 0));
        if !sound {
            return Err(serde::de::Error::custom("not a sound broadcast"));
        }
        // What was announced after this snapshot is unknown, but it was below the reserved number.
        broadcast.unannounced_msn = broadcast.unannounced_msn.max(broadcast.reserved_msn);
        broadcast.stored_seq = broadcast.seq;
        broadcast.durable_msn = broadcast.reserved_msn;
        broadcast.link = LinkState::Gone(now_unix_ms);
        broadcast.version = 1;
        Ok(broadcast)
    }

    /// The snapshot to store: JSON, about 50 KB with six tracks and a window of 60 s.
    ///
    /// # Errors
    /// Never with sound data; the error is passed on so that this stays total.
    pub fn snapshot(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// The stream.
    pub fn stream(&self) -> &StreamName {
        &self.stream
    }

    /// The broadcast.
    pub fn id(&self) -> &BroadcastId {
        &self.id
    }

    /// Unix time of the timeline's zero, milliseconds.
    pub fn epoch_unix_ms(&self) -> i64 {
        self.epoch_unix_ms
    }

    /// When it began, Unix milliseconds.
    pub fn since_unix_ms(&self) -> i64 {
        self.since_unix_ms
    }

    /// How much of the past a playlist lists, seconds.
    pub fn window_s(&self) -> u32 {
        self.window_s
    }

    /// The tracks, in the order in which they were announced.
    pub fn tracks(&self) -> &[LiveTrack] {
        &self.tracks
    }

    /// Index and state of a track.
    pub fn track(&self, name: &TrackName) -> Option<(usize, &LiveTrack)> {
        let mut tracks = self.tracks.iter().enumerate();
        tracks.find(|(_, track)| track.name() == name)
    }

    /// The track whose segments say how far the window reaches: the first video track.
    pub fn reference(&self) -> Option<&LiveTrack> {
        let video = self.tracks.iter().find(|t| t.is_video());
        video.or(self.tracks.first())
    }

    /// Number of the first segment of every playlist.
    pub fn base_msn(&self) -> u64 {
        self.base_msn
    }

    /// `EXT-X-DISCONTINUITY-SEQUENCE` of every playlist.
    pub fn discontinuity_sequence(&self) -> u64 {
        self.discontinuity_sequence
    }

    /// Whether a segment continues behind a discontinuity.
    pub fn is_discontinuity(&self, msn: u64) -> bool {
        self.discontinuities.contains(&msn)
    }

    /// The Periods that the window touches, oldest first.
    pub fn periods(&self) -> impl Iterator<Item = &Period> {
        self.periods.iter()
    }

    /// Whether a Period begins at the segment: behind a discontinuity, and where a track changes its init.
    pub fn begins_period(&self, msn: u64) -> bool {
        self.is_discontinuity(msn)
            || (self.tracks.iter()).any(|t| t.configs().any(|c| c.from_msn == msn))
    }

    /// Number of the last message applied.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Number of the last message that a durable snapshot has: what a `welcome` says.
    pub fn stored_seq(&self) -> u64 {
        self.stored_seq
    }

    /// Counts the changes; texts rendered of the same version are the same.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How it ended, if it did.
    pub fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// Whether a player can begin: every track has a complete segment.
    pub fn is_playable(&self) -> bool {
        !self.tracks.is_empty() && self.tracks.iter().all(|t| !t.segments.is_empty())
    }

    /// Whether nothing of it needs to be kept: it ended two windows ago.
    pub fn is_expired(&self, now_unix_ms: i64) -> bool {
        let two_windows = 2_000 * i64::from(self.window_s);
        (self.ended).is_some_and(|e| now_unix_ms.saturating_sub(e.at_unix_ms) > two_windows)
    }

    /// Whether a link is connected.
    pub fn is_linked(&self) -> bool {
        self.link == LinkState::Connected
    }

    /// What the publisher was let in with; `None` where that was not heard yet.
    pub fn publisher(&self) -> Option<&Credential> {
        self.publisher.as_ref()
    }

    /// How many watched, and what webhooks were told: [`crate::webhooks::event`] says what it is. Stored with the next snapshot.
    pub fn told(&self) -> &Told {
        &self.told
    }

    pub(crate) fn told_mut(&mut self) -> &mut Told {
        &mut self.told
    }

    /// How far the box's clock is ahead of the edge's, milliseconds, as far as heartbeats show it.
    pub fn clock_offset_ms(&self) -> Option<i64> {
        self.clock_offset_ms
    }

    /// The longest part target of all tracks, microseconds.
    pub fn longest_part_us(&self) -> i64 {
        let targets = self.tracks.iter().map(LiveTrack::part_target_us);
        targets.max().unwrap_or(TARGET_DURATION_US)
    }

    /// What decides about blocked requests for a track.
    pub fn head(&self, track: usize) -> Option<Head> {
        let track = self.tracks.get(track)?;
        Some(Head {
            next_msn: track.next_msn,
            parts: track.parts.len() as u32,
            last_parts: track.segments.back().map_or(0, |s| s.parts.len() as u32),
            advance_parts: Head::advance_parts(track.part_target_us()),
            ended: self.ended.is_some(),
        })
    }

    /// What is known of an object.
    pub fn object(&self, key: &ObjectKey) -> ObjectAnswer {
        if key.stream != self.stream || key.broadcast != self.id {
            return ObjectAnswer::Unknown;
        }
        let announced = self.tracks.iter().any(|track| match key.kind {
            ObjectKind::Init { .. } => track.configs.iter().any(|c| c.init == *key),
            ObjectKind::Part { msn, .. } if msn == track.next_msn => {
                track.parts.iter().any(|p| p.key == *key)
            }
            ObjectKind::Part { msn, .. } => {
                let segment = track.segment(msn);
                segment.is_some_and(|s| s.parts.iter().any(|p| p.key == *key))
            }
            ObjectKind::Segment { msn } => {
                (track.segment(msn)).is_some_and(|s| s.key.as_ref() == Some(key))
            }
        });
        if announced || self.retired.iter().any(|r| r.key == *key) {
            return ObjectAnswer::Announced;
        }
        if self.ended.is_none()
            && let Some(index) = (self.tracks.iter()).position(|t| t.hint.as_ref() == Some(key))
        {
            return ObjectAnswer::Hinted(index);
        }
        ObjectAnswer::Unknown
    }

    /// What is known of a segment of a track.
    pub fn segment(&self, track: usize, msn: u64) -> SegmentAnswer<'_> {
        let Some(track) = self.tracks.get(track) else {
            return SegmentAnswer::Unknown;
        };
        if msn < track.next_msn {
            return match track.segment(msn) {
                Some(segment) if segment.key.is_some() => SegmentAnswer::Complete(segment),
                _ => SegmentAnswer::Unknown,
            };
        }
        let running = msn == track.next_msn;
        match (self.ended, running) {
            (Some(_), _) => SegmentAnswer::Unknown,
            (None, true) if track.parts.is_empty() => SegmentAnswer::Next,
            (None, true) => SegmentAnswer::Running(&track.parts),
            // A player may ask a moment early for the one behind the running one.
            (None, false) if msn == track.next_msn + 1 => SegmentAnswer::Next,
            (None, false) => SegmentAnswer::Unknown,
        }
    }

    /// Whether the last snapshot asked for must be durable before this message is applied: it announces the first part of a segment of
    /// which no durable snapshot says that it may have begun.
    pub fn needs_store_before(&self, message: &ToEdge) -> bool {
        let msn = match message {
            ToEdge::Part(part) => part.msn,
            ToEdge::Segment(segment) => segment.msn,
            _ => return false,
        };
        msn >= self.durable_msn || self.stored_seq < self.announced_seq
    }

    /// The snapshot taken at this number is durable.
    pub fn stored(&mut self, seq: u64, reserved_msn: u64) {
        self.stored_seq = self.stored_seq.max(seq.min(self.seq));
        self.durable_msn = self.durable_msn.max(reserved_msn.min(self.reserved_msn));
    }

    /// What goes with a snapshot into [`Self::stored`]: segments below this may have begun.
    pub fn reserved_msn(&self) -> u64 {
        self.reserved_msn
    }

    /// The link is connected.
    pub fn link_connected(&mut self) {
        self.link = LinkState::Connected;
    }

    /// The link is gone.
    pub fn link_gone(&mut self, now_unix_ms: i64) {
        if self.link == LinkState::Connected {
            self.link = LinkState::Gone(now_unix_ms);
        }
    }

    /// What a restarted media-core needs to go on with this broadcast, if its link is gone and it is not too late. Store a snapshot
    /// before giving it out, so that `seq` is stored.
    pub fn resume(&self, now_unix_ms: i64) -> Option<Resume> {
        let LinkState::Gone(since) = self.link else {
            return None;
        };
        let late = now_unix_ms.saturating_sub(since) > RESUME_MS;
        if late || self.ended.is_some() || self.tracks.is_empty() {
            return None;
        }
        let mut filled = self.clone();
        filled.lose_segments_before(self.unannounced_msn);
        let end_us = filled.tracks.iter().filter_map(LiveTrack::end_us).max();
        let end_us = end_us.unwrap_or_default();
        Some(Resume {
            broadcast: self.id.clone(),
            epoch_unix_ms: self.epoch_unix_ms,
            next_msn: self.unannounced_msn,
            end_ms: end_us.saturating_add(999).div_euclid(1_000),
            seq: self.seq,
            tracks: self.tracks.iter().map(|t| t.config().clone()).collect(),
        })
    }

    /// Ends the broadcast when its link is gone and nobody took it up in time. Call it once a second or so.
    pub fn tick(&mut self, now_unix_ms: i64) -> Applied {
        if let LinkState::Gone(since) = self.link
            && self.ended.is_none()
            && now_unix_ms.saturating_sub(since) > RESUME_MS + RESUME_MARGIN_MS
        {
            return self.end(CloseReason::Lost, now_unix_ms);
        }
        Applied::NOTHING
    }

    /// Ends the broadcast: what is unfinished goes, every playlist gets its `EXT-X-ENDLIST`. Nothing happens when it has ended.
    pub fn end(&mut self, reason: CloseReason, now_unix_ms: i64) -> Applied {
        if self.ended.is_some() {
            return Applied::NOTHING;
        }
        let complete = self.tracks.iter().map(|t| t.next_msn).max();
        self.lose_segments_before(complete.unwrap_or_default());
        for track in &mut self.tracks {
            track.parts.clear();
            track.hint = None;
        }
        self.ended = Some(Ended {
            reason,
            at_unix_ms: now_unix_ms,
        });
        self.version += 1;
        Applied {
            wake: Wake::All,
            store: true,
        }
    }

    /// Applies a message. One that was applied before changes nothing.
    ///
    /// # Errors
    /// [`ApplyError`] when the message cannot be; the state is as it was. The link should then be refused.
    pub fn apply(&mut self, numbered: &Numbered, now_unix_ms: i64) -> Result<Applied, ApplyError> {
        if let ToEdge::Heartbeat {
            clock_unix_ms,
            publisher,
        } = &numbered.message
        {
            self.heartbeat(*clock_unix_ms, now_unix_ms);
            self.publisher.clone_from(publisher);
        }
        // The others are the adapter's, and about no media.
        if !numbered.message.is_ordered() {
            return Ok(Applied::NOTHING);
        }
        match numbered.seq {
            0 => return Err(ApplyError::Unnumbered),
            seq if seq <= self.seq => return Ok(Applied::NOTHING),
            seq if seq > self.seq + 1 => {
                let (known, got) = (self.seq, seq);
                return Err(ApplyError::SeqHole { known, got });
            }
            _ if self.ended.is_some() => return Err(ApplyError::Ended),
            _ => {}
        }
        let applied = match &numbered.message {
            ToEdge::Opened(opened) => self.reopen(opened)?,
            ToEdge::Track(track) => self.announce(track)?,
            ToEdge::Part(part) => self.add_part(part)?,
            ToEdge::Segment(segment) => self.add_segment(segment, now_unix_ms)?,
            ToEdge::Discontinuity { msn } => self.discontinue(*msn)?,
            ToEdge::Closed { reason } => self.end(*reason, now_unix_ms),
            _ => Applied::NOTHING,
        };
        self.seq = numbered.seq;
        if matches!(numbered.message, ToEdge::Opened(_) | ToEdge::Track(_)) {
            self.announced_seq = numbered.seq;
        }
        self.version += 1;
        Ok(applied)
    }

    fn heartbeat(&mut self, clock_unix_ms: i64, now_unix_ms: i64) {
        let offset = clock_unix_ms.saturating_sub(now_unix_ms);
        // A message is late by its way, never early: the largest offset is the best, forgotten slowly so that drift is followed.
        self.clock_offset_ms = Some(match self.clock_offset_ms {
            Some(known) if (known - 1_000..known).contains(&offset) => known - 1,
            _ => offset,
        });
    }

    fn reopen(&mut self, opened: &Opened) -> Result<Applied, ApplyError> {
        check_opened(opened)?;
        let same = opened.stream == self.stream
            && opened.broadcast == self.id
            && opened.epoch_unix_ms == self.epoch_unix_ms;
        if !same {
            return Err(ApplyError::OtherBroadcast);
        }
        let expected = self.unannounced_msn;
        if opened.first_msn < expected || opened.first_msn > expected + MAX_LOST_SEGMENTS {
            let got = opened.first_msn;
            return Err(ApplyError::FirstMsn { expected, got });
        }
        let first_msn = opened.first_msn;
        self.lose_segments_before(first_msn);
        for track in &mut self.tracks {
            track.awaited = true;
            track.hint = None;
            // What was announced for segments that never came holds no more.
            while track.configs.len() > 1
                && track
                    .configs
                    .back()
                    .is_some_and(|c| c.from_msn >= first_msn)
            {
                track.configs.pop_back();
            }
        }
        self.discontinuities.retain(|d| *d < first_msn);
        self.periods.retain(|p| p.msn < first_msn);
        if self.tracks.iter().any(|t| !t.segments.is_empty()) {
            self.discontinuities.push_back(first_msn);
        }
        self.opened_msn = first_msn;
        self.unannounced_msn = first_msn;
        self.reserved_msn = self.reserved_msn.max(first_msn + 1);
        Ok(Applied {
            wake: Wake::All,
            store: true,
        })
    }

    fn announce(&mut self, track: &Track) -> Result<Applied, ApplyError> {
        self.check_track(track)?;
        let Some((index, known)) = self.track(&track.name) else {
            let name = track.name.clone();
            if self.unannounced_msn > self.opened_msn
                || self.tracks.iter().any(|t| !t.segments.is_empty())
            {
                return Err(ApplyError::LateTrack(name));
            }
            if self.tracks.len() >= MAX_TRACKS {
                return Err(ApplyError::TooManyTracks);
            }
            if track.from_msn != self.opened_msn {
                let (msn, expected) = (track.from_msn, self.opened_msn);
                return Err(ApplyError::Msn {
                    track: name,
                    msn,
                    expected,
                });
            }
            self.tracks.push(LiveTrack {
                configs: VecDeque::from([track.clone()]),
                segments: VecDeque::new(),
                next_msn: track.from_msn,
                parts: Vec::new(),
                hint: Some(track.first_part.clone()),
                rate: Rate::default(),
                awaited: false,
            });
            return Ok(Applied {
                wake: Wake::All,
                store: true,
            });
        };
        let begun = !known.parts.is_empty();
        let first = known.next_msn + u64::from(begun);
        if track.from_msn < first || track.from_msn > first + 2 {
            let (name, msn) = (track.name.clone(), track.from_msn);
            return Err(ApplyError::Msn {
                track: name,
                msn,
                expected: first,
            });
        }
        let known = &mut self.tracks[index];
        known.configs.retain(|c| c.from_msn < track.from_msn);
        known.configs.push_back(track.clone());
        known.awaited = false;
        if track.from_msn == known.next_msn {
            known.hint = Some(track.first_part.clone());
        }
        self.note_periods();
        Ok(Applied {
            wake: Wake::Track(index),
            store: true,
        })
    }

    fn check_track(&self, track: &Track) -> Result<(), ApplyError> {
        let wrong = |what| {
            let track = track.name.clone();
            Err(ApplyError::Track { track, what })
        };
        let ours = |key: &ObjectKey| key.stream == self.stream && key.broadcast == self.id;
        if !ours(&track.init) || !ours(&track.first_part) {
            return Err(ApplyError::OtherBroadcast);
        }
        if !matches!(track.init.kind, ObjectKind::Init { .. }) {
            return wrong("its init is not an init");
        }
        if !matches!(track.first_part.kind, ObjectKind::Part { .. }) {
            return wrong("its first part is not a part");
        }
        let codec_char = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if track.codecs.is_empty()
            || track.codecs.len() > 64
            || !track.codecs.bytes().all(codec_char)
        {
            return wrong("its codec string is not one");
        }
        if !(1..=10_000_000).contains(&track.timescale) {
            return wrong("its timescale is out of range");
        }
        if track.part_target == 0
            || track.part_target
                > u64::from(track.timescale) * u64::from(protocol::link::TARGET_DURATION_S)
        {
            return wrong("its part target is out of range");
        }
        if track.nominal_bps > 10_000_000_000 || track.from_msn > MAX_MSN {
            return wrong("a number is out of range");
        }
        let sound = match track.kind {
            TrackKind::Video {
                width,
                height,
                frame_rate,
            } => {
                track.name.is_video()
                    && (1..=16_384).contains(&width)
                    && (1..=16_384).contains(&height)
                    && frame_rate.is_none_or(|(num, den)| num > 0 && den > 0 && num / den < 1_000)
            }
            TrackKind::Audio {
                sample_rate,
                channels,
            } => {
                !track.name.is_video()
                    && (1..=768_000).contains(&sample_rate)
                    && (1..=64).contains(&channels)
            }
        };
        match sound {
            true => Ok(()),
            false => wrong(
                "its size, rate or channels are out of range, or its name is of the other kind",
            ),
        }
    }

    fn add_part(&mut self, part: &Part) -> Result<Applied, ApplyError> {
        let index = self.check_place(&part.track, part.msn)?;
        let track = &self.tracks[index];
        if part.part as usize != track.parts.len() {
            return Err(ApplyError::PartIndex {
                track: part.track.clone(),
                msn: part.msn,
                part: part.part,
                expected: track.parts.len(),
            });
        }
        let wrong = |what| {
            let (track, msn) = (part.track.clone(), part.msn);
            Err(ApplyError::Media { track, msn, what })
        };
        let is_part = |key: &ObjectKey| {
            matches!(key.kind, ObjectKind::Part { .. })
                && key.stream == self.stream
                && key.broadcast == self.id
        };
        if !is_part(&part.key) || !is_part(&part.next) || part.key == part.next {
            return wrong("a key is not a part's of this broadcast");
        }
        if track.parts.len() >= MAX_PARTS {
            return wrong("it has too many parts");
        }
        let config = track.config();
        if part.duration == 0 || part.duration > config.part_target {
            return wrong("a part is empty or longer than the part target");
        }
        if part.size == 0 || part.size > MAX_PART_BYTES {
            return wrong("a part's size is out of range");
        }
        if !time_in_range(part.start, part.duration, config.timescale) {
            return Err(ApplyError::Time);
        }
        if track
            .parts
            .last()
            .is_some_and(|last| part.start <= last.start)
        {
            return wrong("a part begins before the one before it");
        }
        let ticks = track.parts_ticks() + part.duration;
        if to_us(ticks as i64, config.timescale) >= SEGMENT_LIMIT_US - WRITTEN_ROUNDING_US {
            return wrong("it is longer than the target duration allows");
        }
        let track = &mut self.tracks[index];
        track.parts.push(ListedPart {
            key: part.key.clone(),
            start: part.start,
            duration: part.duration,
            independent: part.independent,
            size: part.size,
        });
        track.hint = Some(part.next.clone());
        self.unannounced_msn = self.unannounced_msn.max(part.msn + 1);
        if part.part == 0 {
            self.note_periods();
        }
        Ok(Applied {
            wake: Wake::Track(index),
            store: false,
        })
    }

    fn add_segment(&mut self, segment: &Segment, now_unix_ms: i64) -> Result<Applied, ApplyError> {
        let index = self.check_place(&segment.track, segment.msn)?;
        let track = &self.tracks[index];
        let wrong = |what| {
            let (track, msn) = (segment.track.clone(), segment.msn);
            Err(ApplyError::Media { track, msn, what })
        };
        let config = track.config();
        if segment.duration == 0
            || segment.duration > i64::MAX as u64
            || to_us(segment.duration as i64, config.timescale)
                >= SEGMENT_LIMIT_US - WRITTEN_ROUNDING_US
        {
            return wrong("it is empty or longer than the target duration allows");
        }
        if !time_in_range(segment.start, segment.duration, config.timescale) {
            return Err(ApplyError::Time);
        }
        if let Some(key) = &segment.key {
            let is_segment = matches!(key.kind, ObjectKind::Segment { .. });
            if !is_segment || key.stream != self.stream || key.broadcast != self.id {
                return wrong("its key is not a segment's of this broadcast");
            }
            let Some(first) = track.parts.first() else {
                return wrong("it is complete without a part");
            };
            let size: u64 = track.parts.iter().map(|p| p.size).sum();
            if segment.start != first.start
                || segment.duration != track.parts_ticks()
                || segment.size != size
            {
                return wrong(
                    "it is not its parts in order: start, duration or size differ from theirs",
                );
            }
        }
        let timescale = config.timescale;
        let first_of_its_number = self.tracks.iter().all(|t| t.next_msn <= segment.msn);
        let track = &mut self.tracks[index];
        let mut parts = std::mem::take(&mut track.parts);
        match segment.key {
            Some(_) => track
                .rate
                .add(segment.size, to_us(segment.duration as i64, timescale)),
            None => parts.clear(),
        }
        track.segments.push_back(ListedSegment {
            msn: segment.msn,
            key: segment.key.clone(),
            timescale,
            start: segment.start,
            duration: segment.duration,
            size: if segment.key.is_some() {
                segment.size
            } else {
                0
            },
            parts,
        });
        track.next_msn = segment.msn + 1;
        if let Some(config) = track.configs.iter().find(|c| c.from_msn == track.next_msn) {
            track.hint = Some(config.first_part.clone());
        }
        track.forget_old_parts();
        self.unannounced_msn = self.unannounced_msn.max(segment.msn + 1);
        if first_of_its_number {
            // The next segment begins in a part's time: said now, it is durable by then.
            self.reserved_msn = self.reserved_msn.max(segment.msn + 2);
        }
        self.note_periods();
        self.slide(now_unix_ms);
        Ok(Applied {
            wake: Wake::Track(index),
            store: first_of_its_number,
        })
    }

    /// The index of a track, if the segment is the one that it expects.
    fn check_place(&self, name: &TrackName, msn: u64) -> Result<usize, ApplyError> {
        let unknown = || ApplyError::UnknownTrack(name.clone());
        let (index, track) = self.track(name).ok_or_else(unknown)?;
        if track.awaited {
            return Err(unknown());
        }
        let expected = track.next_msn;
        if msn != expected || msn >= MAX_MSN {
            let track = name.clone();
            return Err(ApplyError::Msn {
                track,
                msn,
                expected,
            });
        }
        let slowest = self.tracks.iter().map(|t| t.next_msn).min();
        if msn > slowest.unwrap_or_default() + MAX_LEAD {
            return Err(ApplyError::Lead(name.clone()));
        }
        Ok(index)
    }

    fn discontinue(&mut self, msn: u64) -> Result<Applied, ApplyError> {
        let begun = (self.tracks.iter())
            .any(|t| t.next_msn > msn || (t.next_msn == msn && !t.parts.is_empty()));
        let latest = self.tracks.iter().map(|t| t.next_msn).max();
        if begun || msn > latest.unwrap_or(self.opened_msn) + 2 {
            return Err(ApplyError::Discontinuity(msn));
        }
        // Nothing is before the first segment of all, so nothing is discontinuous there.
        let anything_before = self
            .tracks
            .iter()
            .any(|t| t.next_msn > self.base_msn || !t.parts.is_empty());
        if !self.is_discontinuity(msn) && (anything_before || msn > self.base_msn) {
            let index = self.discontinuities.partition_point(|d| *d < msn);
            self.discontinuities.insert(index, msn);
        }
        Ok(Applied {
            wake: Wake::None,
            store: true,
        })
    }

    /// Makes every segment below `msn` that is not complete a gap, in all tracks alike.
    fn lose_segments_before(&mut self, msn: u64) {
        let first = self.tracks.iter().map(|t| t.next_msn).min();
        for lost in first.unwrap_or(msn)..msn {
            let (start_us, duration_us) = self.lost_place_us(lost);
            for track in self.tracks.iter_mut().filter(|t| t.next_msn == lost) {
                let timescale = track.config_at(lost).timescale;
                let start = match track.parts.first() {
                    Some(part) => part.start,
                    None => from_us(start_us, timescale),
                };
                // One duration for all tracks, so that what follows is at one time in all of them.
                let duration = from_us(duration_us, timescale).max(1) as u64;
                track.parts.clear();
                track.segments.push_back(ListedSegment {
                    msn: lost,
                    key: None,
                    timescale,
                    start,
                    duration,
                    size: 0,
                    parts: Vec::new(),
                });
                track.next_msn = lost + 1;
            }
        }
    }

    /// Where a lost segment is said to be and how long: as another track has it, else as much of it as was announced, else behind all
    /// tracks and as long as the one before.
    fn lost_place_us(&self, msn: u64) -> (i64, i64) {
        if let Some(complete) = self.tracks.iter().find_map(|t| t.segment(msn)) {
            let duration_us = complete.duration_us().clamp(1, TARGET_DURATION_US);
            return (complete.start_us(), duration_us);
        }
        let running = || self.tracks.iter().filter(|t| t.next_msn == msn);
        let begun = running().filter_map(|t| t.start_of_us(msn)).min();
        let behind = self.tracks.iter().filter_map(LiveTrack::end_us).max();
        let announced = running()
            .map(|t| to_us(t.parts_ticks() as i64, t.config_at(msn).timescale))
            .max();
        let before = msn.checked_sub(1);
        let before = before.and_then(|m| self.reference()?.segment(m));
        let duration_us = announced
            .filter(|us| *us > 0)
            .or(before.map(ListedSegment::duration_us))
            .unwrap_or(TARGET_DURATION_US / 2)
            .clamp(1, TARGET_DURATION_US);
        (begun.or(behind).unwrap_or_default(), duration_us)
    }

    /// Remembers where Periods begin, once the reference track has reached them.
    fn note_periods(&mut self) {
        let Some(reference) = self.reference() else {
            return;
        };
        let candidates: Vec<u64> = (self.discontinuities.iter().copied())
            .chain(
                self.tracks
                    .iter()
                    .flat_map(|t| t.configs().map(|c| c.from_msn)),
            )
            .filter(|msn| !self.periods.iter().any(|p| p.msn == *msn))
            .collect();
        let mut found: Vec<Period> = Vec::new();
        for msn in candidates {
            if let Some(start_us) = reference.start_of_us(msn)
                && !found.iter().any(|p| p.msn == msn)
            {
                // The first Period of all is the timeline's own beginning.
                let first = self.periods.is_empty() && msn == self.base_msn;
                let start_us = if first { 0 } else { start_us.max(0) };
                found.push(Period { msn, start_us });
            }
        }
        for period in found {
            let index = self.periods.partition_point(|p| p.msn < period.msn);
            self.periods.insert(index, period);
        }
    }

    /// Moves the window of all tracks, once a segment is complete in all of them.
    fn slide(&mut self, now_unix_ms: i64) {
        let complete = self.tracks.iter().map(|t| t.next_msn).min();
        let (Some(complete), Some(reference)) = (complete, self.reference()) else {
            return;
        };
        let window_us = i64::from(self.window_s) * 1_000_000;
        // However short the segments are, so many are enough.
        let most = u64::from(self.window_s) * 2;
        let (mut base, mut listed_us) = (complete, 0);
        while base > self.base_msn && listed_us < window_us && complete - base < most {
            base -= 1;
            listed_us += reference
                .segment(base)
                .map_or(0, ListedSegment::duration_us);
        }
        if base == self.base_msn {
            return;
        }
        self.base_msn = base;
        let until_unix_ms = now_unix_ms.saturating_add(2_000 * i64::from(self.window_s));
        for track in &mut self.tracks {
            while track.segments.front().is_some_and(|s| s.msn < base) {
                let key = track.segments.pop_front().and_then(|s| s.key);
                (self.retired).extend(key.map(|key| Retired { until_unix_ms, key }));
            }
            while track.configs.get(1).is_some_and(|c| c.from_msn <= base) {
                let init = track.configs.pop_front().map(|c| c.init);
                (self.retired).extend(init.map(|key| Retired { until_unix_ms, key }));
            }
        }
        let limit = self.tracks.len() * (4 * self.window_s as usize + 64);
        while self.retired.len() > limit
            || (self.retired.front()).is_some_and(|r| r.until_unix_ms < now_unix_ms)
        {
            self.retired.pop_front();
        }
        while self.discontinuities.front().is_some_and(|d| *d < base) {
            self.discontinuities.pop_front();
            self.discontinuity_sequence += 1;
        }
        while self.periods.get(1).is_some_and(|p| p.msn <= base) {
            self.periods.pop_front();
        }
    }
}

impl LiveTrack {
    /// Forgets the parts of segments that no playlist lists them for, nor one listed them a moment ago.
    fn forget_old_parts(&mut self) {
        let mut after_us = 0;
        for segment in self.segments.iter_mut().rev() {
            if after_us > 2 * PARTS_LISTED_US {
                if segment.parts.is_empty() {
                    break;
                }
                segment.parts = Vec::new();
            }
            after_us += segment.duration_us();
        }
    }
}

fn check_opened(opened: &Opened) -> Result<(), ApplyError> {
    if !(MIN_WINDOW_S..=MAX_WINDOW_S).contains(&opened.window_s) {
        return Err(ApplyError::Window(opened.window_s));
    }
    // Years 1970 to 2899, so that epoch plus media time has four digits for its year.
    let epoch_ok = (0..29_348_006_400_000).contains(&opened.epoch_unix_ms);
    if !epoch_ok || opened.first_msn > MAX_MSN {
        return Err(ApplyError::Time);
    }
    Ok(())
}
