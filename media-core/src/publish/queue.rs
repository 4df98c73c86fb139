//! The decisions of publishing one broadcast, without I/O and without a clock.
//!
//! Takes tracks, parts and segments in the order of each track; gives jobs (puts, spool writes, deletions) and, once what they speak of
//! is readable, messages for the edge. What it promises:
//!
//! - A message is given only when its own object is in the store and all earlier messages of its track were given. No part of a segment
//!   before the one ahead of it is complete, no part at all before every track is announced, nothing of a segment behind a discontinuity
//!   before the discontinuity.
//! - No key is put twice. An attempt that may have written its object is repeated under a new key, and the old one is deleted later.
//! - Bytes in memory stay under [`Limits::memory_mib`] (and one segment that is being read back), bytes on disk under
//!   [`Limits::spool_mib`], and so many segments wait at most. Beyond that the oldest are given up whole and announced as gaps.
//! - An object is deleted two windows after it left the last playlist.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use protocol::{
    link::{CloseReason, Opened, Part, Segment, TARGET_DURATION_S, ToEdge, Track, TrackKind},
    names::{Tag, TrackName},
    object_key::{ObjectKey, ObjectKind},
};
use serde::{Deserialize, Serialize};

mod jobs;
mod messages;
mod room;
#[cfg(test)]
mod tests;

pub use jobs::{Job, Put, Source, SpoolFile};
use messages::{Event, Message};

/// `[publish]` of the configuration: what one broadcast may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes held in memory, MiB: the running segments of all tracks, and what waits for the store.
    pub memory_mib: u32,
    /// Bytes that wait on disk while the store is slow or down, MiB. Beyond it the oldest segments are lost.
    pub spool_mib: u32,
    /// Puts under way at once; at least a third of them are kept for parts.
    pub parallel_puts: usize,
    /// Deletions under way at once.
    pub parallel_deletes: usize,
    /// Whether objects are kept for replay, so never deleted.
    pub keep: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_mib: 32,
            spool_mib: 4096,
            parallel_puts: 12,
            parallel_deletes: 2,
            keep: false,
        }
    }
}

/// What the pipeline did wrong. Nothing of the call took effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Not announced.
    #[error("track {0} was not announced")]
    UnknownTrack(TrackName),
    /// A hole or a repetition.
    #[error("track {track}: part {msn}.{part} came where {expected_msn}.{expected_part} was due")]
    Part {
        /// The track.
        track: TrackName,
        /// What came.
        msn: u64,
        /// What came.
        part: u32,
        /// What was due.
        expected_msn: u64,
        /// What was due.
        expected_part: u32,
    },
    /// Not the running segment.
    #[error("track {track}: segment {msn} was ended while {running} was running")]
    Segment {
        /// The track.
        track: TrackName,
        /// What came.
        msn: u64,
        /// What runs.
        running: u64,
    },
    /// A track goes on from a number that is past already.
    #[error("track {track} cannot go on from segment {msn}: {next} is the next one")]
    From {
        /// The track.
        track: TrackName,
        /// What came.
        msn: u64,
        /// The earliest possible.
        next: u64,
    },
    /// The objects to go on with are no longer at hand, or belong to a track that itself goes on with another's.
    #[error("track {track} cannot go on with the objects of {of} from segment {msn}")]
    Alias {
        /// The track.
        track: TrackName,
        /// The other.
        of: TrackName,
        /// From here.
        msn: u64,
    },
    /// Too late.
    #[error("segment {0} was announced already: it cannot continue behind a discontinuity")]
    Discontinuity(u64),
    /// After the end.
    #[error("the broadcast is closed")]
    Closed,
}

/// A track, from `from_msn` on; again for the same name when its header changes.
#[derive(Debug, Clone, PartialEq)]
pub struct TrackAnnouncement {
    /// Its name.
    pub name: TrackName,
    /// Picture or sound.
    pub kind: TrackKind,
    /// RFC 6381 codec string.
    pub codecs: String,
    /// Ticks a second.
    pub timescale: u32,
    /// The longest a part may be, ticks.
    pub part_target: u64,
    /// What the encoder was told, bits a second.
    pub nominal_bps: u64,
    /// The CMAF header.
    pub init: Bytes,
    /// Media sequence number of the first segment that this holds for.
    pub from_msn: u64,
}

/// A part as the packager gives it.
#[derive(Debug, Clone, PartialEq)]
pub struct PartChunk {
    /// The track.
    pub track: TrackName,
    /// Media sequence number of its segment.
    pub msn: u64,
    /// Index in the segment, from 0, without holes.
    pub part: u32,
    /// Media time of its first sample, ticks of the track.
    pub start: i64,
    /// Ticks of the track, over 0.
    pub duration: u64,
    /// Whether it begins with an IDR (always true for sound).
    pub independent: bool,
    /// Whether the segment is known to end with it: then the preload hint names the next segment's first part. A wrong `false` costs
    /// a hint that does not come true, no more.
    pub last_of_segment: bool,
    /// The bytes.
    pub data: Bytes,
}

/// Counters for the studio page and the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes in memory.
    pub memory: usize,
    /// Those among them that wait to be written to disk.
    pub writing: usize,
    /// Bytes on disk, or on their way there.
    pub spooled: u64,
    /// Objects that wait for the store.
    pub waiting: usize,
    /// Objects put.
    pub puts: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Segments given up.
    pub lost_segments: u64,
    /// Objects deleted.
    pub deleted: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its key was named, its bytes have not come.
    Expected,
    Waiting,
    InFlight,
    Done,
    /// Given up; an attempt may still be under way.
    Lost,
}

#[derive(Debug, Clone)]
enum Content {
    Init(Bytes),
    Part(SegmentId, usize),
    Segment(SegmentId),
}

type SegmentId = SpoolFile;

/// An object from the moment its key is named until nothing speaks of it any more.
#[derive(Debug)]
struct Object {
    key: ObjectKey,
    state: State,
    content: Option<Content>,
    /// Who still needs to look at it: the put, messages not yet given, the track whose next part or header it is.
    refs: u32,
    failures: u32,
    /// Successful puts of the broadcast when it first failed.
    successes_at_failure: u64,
    /// Bytes read back from the spool for the attempt under way.
    loaded: usize,
}

#[derive(Debug)]
enum Piece {
    Memory(Bytes),
    /// On its way to disk; still usable from memory.
    Writing(Bytes, u64),
    Spooled(u64),
    /// Given up.
    Gone,
}

#[derive(Debug)]
struct Chunk {
    piece: Piece,
    len: usize,
    object: u64,
    next: u64,
    start: i64,
    duration: u64,
    independent: bool,
}

#[derive(Debug, Default)]
struct SegmentState {
    chunks: Vec<Chunk>,
    /// Puts that are not done, the segment's own included once it is complete.
    unput: usize,
    complete: Option<u64>,
    lost: bool,
    spool_len: u64,
}

#[derive(Debug, Clone)]
struct Announced {
    kind: TrackKind,
    codecs: String,
    timescale: u32,
    part_target: u64,
    nominal_bps: u64,
}

#[derive(Debug)]
struct TrackState {
    announced: Announced,
    init: u64,
    inits: u32,
    /// What its own packager gives next.
    next_msn: u64,
    next_part: u32,
    /// Keys named ahead.
    expected: BTreeMap<(u64, u32), u64>,
    /// Messages not yet given, by segment and then by arrival.
    events: BTreeMap<(u64, u64), Event>,
    /// The segment whose messages may be given.
    open_msn: u64,
    /// Whether a part of it was given.
    open_begun: bool,
    /// Objects of its own that were written and whose segment is not yet announced: (key, whether it is a part).
    written: BTreeMap<u64, Vec<(ObjectKey, bool)>>,
    /// Announced segments with objects of its own, and the media time at their end.
    listed: VecDeque<Listed>,
    /// Media time announced so far.
    announced_time: Duration,
}

#[derive(Debug)]
struct Listed {
    end: Duration,
    parts: Vec<ObjectKey>,
    others: Vec<ObjectKey>,
}

/// `track` is listed with the objects of `of`.
#[derive(Debug, Clone)]
struct Alias {
    track: TrackName,
    of: TrackName,
    from_msn: u64,
    /// The first segment of its own again.
    until_msn: u64,
}

/// The state of publishing one broadcast. See the module.
pub struct Queue {
    opened: Opened,
    limits: Limits,
    tag: Box<dyn FnMut() -> Tag + Send>,
    tracks: BTreeMap<TrackName, TrackState>,
    aliases: Vec<Alias>,
    segments: BTreeMap<SegmentId, SegmentState>,
    objects: HashMap<u64, Object>,
    next_id: u64,
    order: u64,
    small: VecDeque<u64>,
    large: VecDeque<u64>,
    in_flight: usize,
    large_in_flight: usize,
    spool_jobs: VecDeque<(SegmentId, Option<usize>)>,
    spool_busy: bool,
    memory: usize,
    writing: usize,
    loaded: usize,
    spooled: u64,
    opened_given: bool,
    unannounced: usize,
    discontinuities: BTreeSet<u64>,
    closed: Option<CloseReason>,
    closed_given: bool,
    deletions: VecDeque<(Duration, ObjectKey, u32)>,
    deletes_in_flight: usize,
    stats: Stats,
    lost_now: Vec<(TrackName, u64)>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("broadcast", &self.opened.broadcast)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Queue {
    /// For one broadcast. `tag` gives a new random tag at each call.
    pub fn new(opened: Opened, limits: Limits, tag: Box<dyn FnMut() -> Tag + Send>) -> Self {
        Self {
            opened,
            limits,
            tag,
            tracks: BTreeMap::new(),
            aliases: Vec::new(),
            segments: BTreeMap::new(),
            objects: HashMap::new(),
            next_id: 0,
            order: 0,
            small: VecDeque::new(),
            large: VecDeque::new(),
            in_flight: 0,
            large_in_flight: 0,
            spool_jobs: VecDeque::new(),
            spool_busy: false,
            memory: 0,
            writing: 0,
            loaded: 0,
            spooled: 0,
            opened_given: false,
            unannounced: 0,
            discontinuities: BTreeSet::new(),
            closed: None,
            closed_given: false,
            deletions: VecDeque::new(),
            deletes_in_flight: 0,
            stats: Stats::default(),
            lost_now: Vec::new(),
        }
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        Stats {
            memory: self.memory + self.writing + self.loaded,
            writing: self.writing,
            spooled: self.spooled,
            waiting: self.small.len() + self.large.len() + self.in_flight,
            ..self.stats
        }
    }

    /// Segments given up since the last call, for the log.
    pub fn take_lost(&mut self) -> Vec<(TrackName, u64)> {
        std::mem::take(&mut self.lost_now)
    }

    /// A track begins, or goes on with another header (and, if it went on with another's objects, with its own again).
    ///
    /// # Errors
    /// [`OrderError`] when `from_msn` is past.
    pub fn track(&mut self, track: TrackAnnouncement) -> Result<(), OrderError> {
        self.check_open()?;
        let name = track.name.clone();
        let follows = self
            .aliases
            .iter()
            .any(|alias| alias.track == name && alias.until_msn == u64::MAX);
        let first_time = match self.tracks.get(&name) {
            None => true,
            Some(state) => {
                let next = match follows {
                    true => state.open_msn + u64::from(state.open_begun),
                    false => state.next_msn + u64::from(state.next_part > 0),
                };
                if track.from_msn < next || (!follows && track.from_msn > next) {
                    return Err(OrderError::From {
                        track: name,
                        msn: track.from_msn,
                        next,
                    });
                }
                false
            }
        };
        if follows {
            self.unfollow(&name, track.from_msn);
        }
        let announced = Announced {
            kind: track.kind,
            codecs: track.codecs,
            timescale: track.timescale.max(1),
            part_target: track.part_target,
            nominal_bps: track.nominal_bps,
        };
        let n = self.tracks.get(&name).map_or(0, |state| state.inits);
        let init = self.object(&name, ObjectKind::Init { n });
        if first_time {
            self.tracks.insert(
                name.clone(),
                TrackState {
                    announced: announced.clone(),
                    init,
                    inits: 1,
                    next_msn: track.from_msn,
                    next_part: 0,
                    expected: BTreeMap::new(),
                    events: BTreeMap::new(),
                    open_msn: track.from_msn,
                    open_begun: false,
                    written: BTreeMap::new(),
                    listed: VecDeque::new(),
                    announced_time: Duration::ZERO,
                },
            );
            self.unannounced += 1;
        } else if let Some(state) = self.tracks.get_mut(&name) {
            let old = std::mem::replace(&mut state.init, init);
            state.inits += 1;
            state.announced = announced.clone();
            if follows {
                state.next_msn = track.from_msn;
                state.next_part = 0;
            }
            // The old header goes with the first segment that does not need it.
            let old_key = self.objects.get(&old).map(|object| object.key.clone());
            if let (Some(key), Some(state)) = (old_key, self.tracks.get_mut(&name)) {
                state
                    .written
                    .entry(track.from_msn)
                    .or_default()
                    .push((key, false));
            }
            self.release(old);
        }
        self.enqueue_put(init, Content::Init(track.init));
        let followers: Vec<(TrackName, bool)> = std::iter::once((name.clone(), first_time))
            .chain(
                self.followers(&name, track.from_msn)
                    .into_iter()
                    .map(|track| (track, false)),
            )
            .collect();
        for (listed, first_time) in followers {
            self.announce(&listed, &name, track.from_msn, first_time);
        }
        Ok(())
    }

    /// A part. Never waits; beyond the limits the oldest segments are given up.
    ///
    /// # Errors
    /// [`OrderError`] when it is not the one that is due.
    pub fn part(&mut self, chunk: PartChunk) -> Result<(), OrderError> {
        self.check_open()?;
        let name = chunk.track.clone();
        let Some(state) = self.tracks.get(&name) else {
            return Err(OrderError::UnknownTrack(name));
        };
        if (chunk.msn, chunk.part) != (state.next_msn, state.next_part) {
            return Err(OrderError::Part {
                track: name,
                msn: chunk.msn,
                part: chunk.part,
                expected_msn: state.next_msn,
                expected_part: state.next_part,
            });
        }
        let id = SegmentId {
            msn: chunk.msn,
            track: name.clone(),
        };
        if let Some(alias) = self.followed(&name, chunk.msn) {
            return Err(OrderError::Alias {
                of: alias.of.clone(),
                track: name,
                msn: chunk.msn,
            });
        }
        let object = self.expect(&name, chunk.msn, chunk.part);
        let following = match chunk.last_of_segment {
            true => (chunk.msn + 1, 0),
            false => (chunk.msn, chunk.part + 1),
        };
        let next = self.expect(&name, following.0, following.1);
        if let Some(state) = self.tracks.get_mut(&name) {
            state.expected.remove(&(chunk.msn, chunk.part));
            state.next_part = chunk.part + 1;
        }
        let len = chunk.data.len();
        let lost =
            self.segments.get(&id).is_some_and(|segment| segment.lost) || !self.make_room(len, &id);
        self.hold(next);
        let record = Chunk {
            piece: Piece::Gone,
            len,
            // The reference that `expected` had goes to the segment.
            object,
            next,
            start: chunk.start,
            duration: chunk.duration,
            independent: chunk.independent,
        };
        let to_memory = self.memory + len <= self.memory_for_pieces();
        let segment = self.segments.entry(id.clone()).or_default();
        segment.chunks.push(record);
        let index = segment.chunks.len() - 1;
        if lost {
            if !segment.lost {
                self.lose(&id);
            }
            if let Some(object) = self.objects.get_mut(&object) {
                object.state = State::Lost;
            }
            return Ok(());
        }
        segment.unput += 1;
        let piece = if to_memory {
            self.memory += len;
            Piece::Memory(chunk.data)
        } else {
            let offset = segment.spool_len;
            segment.spool_len += len as u64;
            self.spooled += len as u64;
            self.writing += len;
            self.spool_jobs.push_back((id.clone(), Some(index)));
            Piece::Writing(chunk.data, offset)
        };
        if let Some(record) = segment.chunks.last_mut() {
            record.piece = piece;
        }
        self.enqueue_put(object, Content::Part(id.clone(), index));
        self.announce_chunk(&name, &id, index);
        for follower in self.followers(&name, chunk.msn) {
            self.announce_chunk(&follower, &id, index);
        }
        Ok(())
    }

    /// The running segment of a track is complete: its object is its parts in order.
    ///
    /// # Errors
    /// [`OrderError`] when another one is running, or none.
    pub fn segment(
        &mut self,
        track: &TrackName,
        msn: u64,
        start: i64,
        duration: u64,
    ) -> Result<(), OrderError> {
        self.check_open()?;
        self.end_segment(track, msn, start, duration, false)
    }

    /// The running segment of a track, or the next one, cannot be completed (an encoder was stopped in the middle of it): it becomes a gap.
    ///
    /// # Errors
    /// As [`Queue::segment`].
    pub fn lost(
        &mut self,
        track: &TrackName,
        msn: u64,
        start: i64,
        duration: u64,
    ) -> Result<(), OrderError> {
        self.check_open()?;
        self.end_segment(track, msn, start, duration, true)
    }

    fn end_segment(
        &mut self,
        name: &TrackName,
        msn: u64,
        start: i64,
        duration: u64,
        lost: bool,
    ) -> Result<(), OrderError> {
        let Some(state) = self.tracks.get(name) else {
            return Err(OrderError::UnknownTrack(name.clone()));
        };
        if msn != state.next_msn || (state.next_part == 0 && !lost) {
            return Err(OrderError::Segment {
                track: name.clone(),
                msn,
                running: state.next_msn,
            });
        }
        let timescale = state.announced.timescale;
        let wrong_hint = (msn, state.next_part);
        let id = SegmentId {
            msn,
            track: name.clone(),
        };
        self.segments.entry(id.clone()).or_default();
        if lost {
            self.lose(&id);
        }
        let next = self.expect(name, msn + 1, 0);
        self.correct_hint(name, msn, wrong_hint, next);
        if let Some(state) = self.tracks.get_mut(name) {
            state.next_msn = msn + 1;
            state.next_part = 0;
            if let Some(stale) = state.expected.remove(&wrong_hint) {
                self.release(stale);
            }
        }
        let Some(segment) = self.segments.get_mut(&id) else {
            return Ok(());
        };
        let (object, size) = if segment.lost {
            (None, 0)
        } else {
            segment.unput += 1;
            let size = segment.chunks.iter().map(|chunk| chunk.len as u64).sum();
            let object = self.object(name, ObjectKind::Segment { msn });
            self.enqueue_put(object, Content::Segment(id.clone()));
            (Some(object), size)
        };
        if let Some(segment) = self.segments.get_mut(&id) {
            // Kept also when lost, so that followers that join later find it: the object 0 names none.
            segment.complete = Some(object.unwrap_or(0));
        }
        let message = Message::Segment {
            msn,
            start,
            duration,
            size,
            timescale,
        };
        let listed = std::iter::once(name.clone()).chain(self.followers(name, msn));
        for track in listed.collect::<Vec<_>>() {
            self.event(&track, msn, object, message.clone());
        }
        self.forget_if_finished(&id);
        Ok(())
    }

    /// The segments from this number on continue behind a discontinuity. To be told before their first part.
    ///
    /// # Errors
    /// [`OrderError`] when something of such a segment was announced already.
    pub fn discontinuity(&mut self, msn: u64) -> Result<(), OrderError> {
        self.check_open()?;
        let begun = self
            .tracks
            .values()
            .any(|state| state.open_msn > msn || (state.open_msn == msn && state.open_begun));
        if begun {
            return Err(OrderError::Discontinuity(msn));
        }
        self.discontinuities.insert(msn);
        Ok(())
    }

    /// From a segment on, `track` is listed with the objects of `of`, until [`Queue::track`] announces objects of its own again. What
    /// followed `track` so far follows `of`.
    ///
    /// # Errors
    /// [`OrderError`] when that is not possible from this segment on.
    pub fn alias(
        &mut self,
        track: &TrackName,
        of: &TrackName,
        from_msn: u64,
    ) -> Result<(), OrderError> {
        self.check_open()?;
        let refused = || OrderError::Alias {
            track: track.clone(),
            of: of.clone(),
            msn: from_msn,
        };
        let Some(state) = self.tracks.get(track) else {
            return Err(OrderError::UnknownTrack(track.clone()));
        };
        let Some(other) = self.tracks.get(of) else {
            return Err(OrderError::UnknownTrack(of.clone()));
        };
        let follows = |name: &TrackName| self.followed(name, from_msn).is_some();
        let own_next = state.next_msn + u64::from(state.next_part > 0);
        let at_hand = (from_msn..other.next_msn).all(|msn| {
            self.segments
                .get(&SegmentId {
                    msn,
                    track: of.clone(),
                })
                .is_some_and(|segment| segment.complete.is_none() || !segment.lost)
        });
        if track == of || follows(of) || (!follows(track) && from_msn < own_next) || !at_hand {
            return Err(refused());
        }
        let followers: Vec<TrackName> = std::iter::once(track.clone())
            .chain(self.followers(track, from_msn))
            .collect();
        self.aliases
            .retain(|alias| alias.from_msn < from_msn || !followers.contains(&alias.track));
        for alias in &mut self.aliases {
            if followers.contains(&alias.track) {
                alias.until_msn = alias.until_msn.min(from_msn);
            }
        }
        for follower in followers {
            self.aliases.push(Alias {
                track: follower.clone(),
                of: of.clone(),
                from_msn,
                until_msn: u64::MAX,
            });
            self.announce(&follower, of, from_msn, false);
            self.repeat_for(&follower, of, from_msn);
        }
        Ok(())
    }

    /// What `of` has already given of the segments from `from_msn` on, for a track that begins to follow it.
    fn repeat_for(&mut self, follower: &TrackName, of: &TrackName, from_msn: u64) {
        let ids: Vec<SegmentId> = self
            .segments
            .keys()
            .filter(|id| id.track == *of && id.msn >= from_msn)
            .cloned()
            .collect();
        for id in ids {
            let (count, complete) = match self.segments.get(&id) {
                // Its end, when it comes, announces the gap.
                Some(segment) if !segment.lost => (segment.chunks.len(), segment.complete),
                _ => continue,
            };
            for index in 0..count {
                self.announce_chunk(follower, &id, index);
            }
            // Its own segment message is still waiting, or its put is not done: either way it can be copied.
            let message = complete.and_then(|_| self.segment_message(&id));
            if let Some(message) = message {
                self.event(follower, id.msn, complete, message);
            }
        }
    }

    fn segment_message(&self, id: &SegmentId) -> Option<Message> {
        let segment = self.segments.get(id)?;
        let timescale = self.tracks.get(&id.track)?.announced.timescale;
        Some(Message::Segment {
            msn: id.msn,
            start: segment.chunks.first()?.start,
            duration: segment.chunks.iter().map(|chunk| chunk.duration).sum(),
            size: segment.chunks.iter().map(|chunk| chunk.len as u64).sum(),
            timescale,
        })
    }

    /// The broadcast ends. Running segments are completed with the parts they have.
    pub fn close(&mut self, reason: CloseReason) {
        if self.closed.is_some() {
            return;
        }
        let running: Vec<(TrackName, u64)> = self
            .tracks
            .iter()
            .filter(|(_, state)| state.next_part > 0)
            .map(|(name, state)| (name.clone(), state.next_msn))
            .collect();
        for (track, msn) in running {
            let id = SegmentId {
                msn,
                track: track.clone(),
            };
            let Some(segment) = self.segments.get(&id) else {
                continue;
            };
            let start = segment.chunks.first().map_or(0, |chunk| chunk.start);
            let duration = segment.chunks.iter().map(|chunk| chunk.duration).sum();
            if let Err(error) = self.end_segment(&track, msn, start, duration, false) {
                tracing::error!(%track, msn, %error, "a running segment was not completed");
            }
        }
        self.closed = Some(reason);
    }

    /// Time is up: what is not yet in the store becomes gaps, so that the end can be announced.
    pub fn give_up(&mut self) {
        let unfinished: Vec<SegmentId> = self
            .segments
            .iter()
            .filter(|(_, segment)| !segment.lost && segment.unput > 0)
            .map(|(id, _)| id.clone())
            .collect();
        for id in unfinished {
            self.lose(&id);
        }
        // A header that never arrived takes with it what needs it, as does a segment that never came.
        let mut stuck = Vec::new();
        for state in self.tracks.values_mut() {
            let mut open = state.open_msn;
            let first = state.events.iter().find(|(at, event)| {
                let readable = event.object.is_none_or(|id| {
                    self.objects
                        .get(&id)
                        .is_some_and(|object| object.state == State::Done)
                });
                let in_order = at.0 == open;
                open += u64::from(matches!(event.message, Message::Segment { .. }));
                !readable || !in_order
            });
            if let Some(from) = first.map(|(at, _)| *at) {
                stuck.extend(state.events.split_off(&from).into_values());
            }
        }
        for event in stuck {
            if let Message::Track(track) = &event.message
                && track.first_time
            {
                self.unannounced = self.unannounced.saturating_sub(1);
            }
            self.drop_event(event);
        }
        let waiting: Vec<u64> = self.small.drain(..).chain(self.large.drain(..)).collect();
        for id in waiting {
            self.release(id);
        }
        for object in self.objects.values_mut() {
            if object.state == State::InFlight {
                object.state = State::Lost;
            }
        }
    }

    /// Whether the end was announced.
    pub fn is_closed(&self) -> bool {
        self.closed_given
    }

    /// Whether nothing is left to do, deletions included.
    pub fn is_finished(&self) -> bool {
        self.closed_given
            && self.deletions.is_empty()
            && self.deletes_in_flight == 0
            && self.in_flight == 0
            && self.spool_jobs.is_empty()
            && !self.spool_busy
    }

    fn check_open(&self) -> Result<(), OrderError> {
        match self.closed {
            Some(_) => Err(OrderError::Closed),
            None => Ok(()),
        }
    }

    fn window(&self) -> Duration {
        Duration::from_secs(u64::from(self.opened.window_s))
    }

    fn two_windows(&self) -> Duration {
        self.window() * 2
    }

    /// A new object of a track, with one reference for the caller.
    fn object(&mut self, track: &TrackName, kind: ObjectKind) -> u64 {
        self.next_id += 1;
        let key = ObjectKey {
            stream: self.opened.stream.clone(),
            broadcast: self.opened.broadcast.clone(),
            track: track.clone(),
            kind,
            tag: (self.tag)(),
        };
        self.objects.insert(
            self.next_id,
            Object {
                key,
                state: State::Expected,
                content: None,
                refs: 1,
                failures: 0,
                successes_at_failure: 0,
                loaded: 0,
            },
        );
        self.next_id
    }

    fn hold(&mut self, id: u64) {
        if let Some(object) = self.objects.get_mut(&id) {
            object.refs += 1;
        }
    }

    fn release(&mut self, id: u64) {
        if let Some(object) = self.objects.get_mut(&id) {
            object.refs -= 1;
            if object.refs == 0 {
                self.objects.remove(&id);
            }
        }
    }

    /// The object that a part will be, named ahead. The track holds it.
    fn expect(&mut self, track: &TrackName, msn: u64, part: u32) -> u64 {
        let known = self
            .tracks
            .get(track)
            .and_then(|state| state.expected.get(&(msn, part)));
        if let Some(id) = known {
            return *id;
        }
        let id = self.object(track, ObjectKind::Part { msn, part });
        if let Some(state) = self.tracks.get_mut(track) {
            state.expected.insert((msn, part), id);
        }
        id
    }

    /// Whose objects a track is listed with in this segment, if not its own.
    fn followed(&self, track: &TrackName, msn: u64) -> Option<&Alias> {
        self.aliases
            .iter()
            .find(|alias| alias.track == *track && alias.from_msn <= msn && msn < alias.until_msn)
    }

    /// A track has objects of its own again from a segment on, of which nothing was given yet.
    fn unfollow(&mut self, track: &TrackName, from_msn: u64) {
        for alias in &mut self.aliases {
            if alias.track == *track {
                alias.until_msn = alias.until_msn.min(from_msn);
            }
        }
        let Some(state) = self.tracks.get_mut(track) else {
            return;
        };
        let others = state.events.split_off(&(from_msn, 0));
        let later = state.expected.split_off(&(from_msn, 0));
        let stale = std::mem::replace(&mut state.expected, later);
        for event in others.into_values() {
            self.drop_event(event);
        }
        for object in stale.into_values() {
            self.release(object);
        }
    }

    /// Who is listed with the objects of `of` in this segment.
    fn followers(&self, of: &TrackName, msn: u64) -> Vec<TrackName> {
        self.aliases
            .iter()
            .filter(|alias| alias.of == *of && alias.from_msn <= msn && msn < alias.until_msn)
            .map(|alias| alias.track.clone())
            .collect()
    }

    fn key_of(&self, id: u64) -> Option<ObjectKey> {
        self.objects.get(&id).map(|object| object.key.clone())
    }
}
