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
//!   [`Limits::spool_mib`]. Beyond both, the oldest segments are given up whole and announced as gaps.
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

/// A put that failed this often while so many others succeeded is given up: the fault is the object's, not the store's.
const HOPELESS_FAILURES: u32 = 10;
const HOPELESS_SUCCESSES: u64 = 30;
/// How often a deletion is tried; the sweep at the next start finds the rest.
const DELETE_ATTEMPTS: u32 = 5;
/// Deletions waiting, above which an object that was perhaps written by a failed attempt is left to the sweep: an outage of hours has many.
const MAX_ORPHANS: usize = 16 * 1024;
const DELETE_AGAIN_AFTER: Duration = Duration::from_secs(30);

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

/// What a job's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In memory.
    Memory(Bytes),
    /// In the segment's spool file.
    Spooled {
        /// The file.
        file: SpoolFile,
        /// Where in it.
        offset: u64,
        /// Bytes.
        len: usize,
    },
}

/// Names the spool file of one segment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpoolFile {
    /// Media sequence number.
    pub msn: u64,
    /// The track.
    pub track: TrackName,
}

/// Something to do; the outcome is told by the method that each variant names.
#[derive(Debug, PartialEq, Eq)]
pub enum Job {
    /// Put an object: [`Queue::put_done`] or [`Queue::put_failed`] and then [`Queue::put_again`].
    Put(Put),
    /// Write into a spool file: [`Queue::spooled`] or [`Queue::spool_failed`]. Spool jobs are done one after the other.
    Spool {
        /// Which file; made if absent.
        file: SpoolFile,
        /// Where.
        offset: u64,
        /// What.
        data: Bytes,
        /// Index of the part, for the outcome.
        part: usize,
    },
    /// Remove a spool file: [`Queue::unspooled`].
    Unspool(SpoolFile),
    /// Delete an object: [`Queue::deleted`].
    Delete {
        /// Which.
        key: ObjectKey,
        /// Attempts that failed.
        failures: u32,
    },
}

/// One attempt at a put.
#[derive(Debug, PartialEq, Eq)]
pub struct Put {
    /// For the outcome.
    pub id: u64,
    /// Where to.
    pub key: ObjectKey,
    /// What, in order.
    pub sources: Vec<Source>,
    /// Bytes in all.
    pub size: u64,
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
enum Message {
    Track(Box<TrackMessage>),
    Part {
        next: u64,
        msn: u64,
        part: u32,
        start: i64,
        duration: u64,
        independent: bool,
        size: u64,
    },
    Segment {
        msn: u64,
        start: i64,
        duration: u64,
        size: u64,
        timescale: u32,
    },
}

#[derive(Debug, Clone)]
struct TrackMessage {
    announcement: Announced,
    from_msn: u64,
    first_part: u64,
    first_time: bool,
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
struct Event {
    /// The object that must be readable; `None` for a segment that is lost.
    object: Option<u64>,
    message: Message,
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

    // ---- what the packagers give ----

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

    // ---- jobs and their outcomes ----

    /// The next thing to do, if anything can be begun now. `now` is the time since the broadcast was opened here.
    pub fn next_job(&mut self, now: Duration) -> Option<Job> {
        self.next_spool_job()
            .or_else(|| self.next_put().map(Job::Put))
            .or_else(|| self.next_deletion(now))
    }

    /// When the next deletion is due.
    pub fn next_due(&self) -> Option<Duration> {
        match self.deletes_in_flight < self.limits.parallel_deletes.max(1) {
            true => self.deletions.front().map(|(due, _, _)| *due),
            false => None,
        }
    }

    /// The object is in the store.
    pub fn put_done(&mut self, id: u64, now: Duration) {
        self.stats.puts += 1;
        let Some((content, key, state)) = self.landed(id) else {
            return;
        };
        if state == State::Lost {
            // Nobody will hear of it.
            self.delete_at(now + self.two_windows(), key);
            self.release(id);
            return;
        }
        if let Some(object) = self.objects.get_mut(&id) {
            object.state = State::Done;
        }
        match content {
            Some(Content::Part(segment, _)) => self.put_landed(&segment, key, true),
            Some(Content::Segment(segment)) => self.put_landed(&segment, key, false),
            // A header is listed for deletion when another one takes its place, or at the end.
            Some(Content::Init(_)) | None => {}
        }
        self.release(id);
    }

    /// The attempt failed; `maybe_written` unless it is certain that nothing was written. The put stays under way: after a pause,
    /// [`Queue::put_again`] gives the next attempt.
    pub fn put_failed(&mut self, id: u64, maybe_written: bool, now: Duration) {
        self.stats.failures += 1;
        let puts = self.stats.puts;
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        self.loaded -= object.loaded;
        object.loaded = 0;
        if object.failures == 0 {
            object.successes_at_failure = puts;
        }
        object.failures += 1;
        let hopeless = object.failures >= HOPELESS_FAILURES
            && puts - object.successes_at_failure >= HOPELESS_SUCCESSES;
        let state = object.state;
        let segment = match &object.content {
            Some(Content::Part(segment, _) | Content::Segment(segment)) => Some(segment.clone()),
            _ => None,
        };
        if maybe_written {
            let old = object.key.clone();
            object.key.tag = (self.tag)();
            if self.deletions.len() < MAX_ORPHANS {
                self.delete_at(now + self.two_windows(), old);
            }
        }
        if hopeless
            && state == State::InFlight
            && let Some(segment) = segment
        {
            self.lose(&segment);
        }
    }

    /// The next attempt of a put that failed, or `None` when it was given up meanwhile.
    pub fn put_again(&mut self, id: u64) -> Option<Put> {
        if self.objects.get(&id).map(|object| object.state) == Some(State::InFlight)
            && let Some(put) = self.attempt(id)
        {
            return Some(put);
        }
        self.landed(id);
        self.release(id);
        None
    }

    /// A piece is on disk.
    pub fn spooled(&mut self, file: &SpoolFile, part: usize) {
        self.spool_busy = false;
        if let Some(chunk) = self
            .segments
            .get_mut(file)
            .and_then(|segment| segment.chunks.get_mut(part))
            && let Piece::Writing(_, offset) = chunk.piece
        {
            self.writing -= chunk.len;
            chunk.piece = Piece::Spooled(offset);
        }
    }

    /// A piece could not be written to disk: its segment is lost.
    pub fn spool_failed(&mut self, file: &SpoolFile) {
        self.spool_busy = false;
        self.lose(file);
    }

    /// A spool file could not be read back: its segment is lost, and the attempt is over.
    pub fn unreadable(&mut self, id: u64) {
        let segment = match self.objects.get(&id).and_then(|o| o.content.as_ref()) {
            Some(Content::Part(segment, _) | Content::Segment(segment)) => Some(segment.clone()),
            _ => None,
        };
        if let Some(segment) = segment {
            self.lose(&segment);
        }
        self.landed(id);
        self.release(id);
    }

    /// A spool file was removed.
    pub fn unspooled(&mut self) {
        self.spool_busy = false;
    }

    /// An object was deleted, or not.
    pub fn deleted(&mut self, key: ObjectKey, failures: u32, gone: bool, now: Duration) {
        self.deletes_in_flight -= 1;
        if gone {
            self.stats.deleted += 1;
        } else if failures + 1 < DELETE_ATTEMPTS {
            // The order of the queue is that of the due times, so this one goes in where it belongs.
            let due = now + DELETE_AGAIN_AFTER;
            let at = self
                .deletions
                .partition_point(|(other, _, _)| *other <= due);
            self.deletions.insert(at, (due, key, failures + 1));
        }
    }

    /// The store does not delete, as the deletion under way found: none is to be tried any more.
    pub fn forget_deletions(&mut self) {
        self.limits.keep = true;
        self.deletions.clear();
        self.deletes_in_flight -= 1;
    }

    // ---- messages ----

    /// The next message for the edge, if one can be given.
    pub fn next_message(&mut self, now: Duration) -> Option<ToEdge> {
        if !self.opened_given {
            self.opened_given = true;
            return Some(ToEdge::Opened(self.opened.clone()));
        }
        let mut ready = None;
        for (name, state) in &self.tracks {
            let Some((at, event)) = state.events.first_key_value() else {
                continue;
            };
            let is_track = matches!(event.message, Message::Track(_));
            let readable = event.object.is_none_or(|id| {
                self.objects
                    .get(&id)
                    .is_some_and(|object| object.state == State::Done)
            });
            if readable && at.0 == state.open_msn && (is_track || self.unannounced == 0) {
                // The earliest segment first, so that no track runs far ahead of the others in the link's order.
                if ready.as_ref().is_none_or(|(best, _)| *at < *best) {
                    ready = Some((*at, name.clone()));
                }
            }
        }
        let Some((at, name)) = ready else {
            return self.closing_message(now);
        };
        if let Some(&msn) = self.discontinuities.first()
            && msn <= at.0
        {
            self.discontinuities.remove(&msn);
            return Some(ToEdge::Discontinuity { msn });
        }
        let event = self.tracks.get_mut(&name)?.events.remove(&at)?;
        self.give(name, event, now)
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

    // ---- inside ----

    fn check_open(&self) -> Result<(), OrderError> {
        match self.closed {
            Some(_) => Err(OrderError::Closed),
            None => Ok(()),
        }
    }

    /// Half of the memory is for pieces that stay in it, a quarter for those on their way to disk, a quarter for reading back. The shares
    /// are apart, so that together they keep the limit whatever order things come in.
    fn memory_for_pieces(&self) -> usize {
        self.memory_limit() / 2
    }

    fn memory_for_writing(&self) -> usize {
        self.memory_limit() / 4
    }

    fn memory_for_reading(&self) -> usize {
        self.memory_limit() / 4
    }

    fn memory_limit(&self) -> usize {
        self.limits.memory_mib.max(1) as usize * 1024 * 1024
    }

    fn spool_limit(&self) -> u64 {
        u64::from(self.limits.spool_mib) * 1024 * 1024
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

    fn drop_event(&mut self, event: Event) {
        match &event.message {
            Message::Part { next, .. } => self.release(*next),
            Message::Track(track) => self.release(track.first_part),
            Message::Segment { .. } => {}
        }
        if let Some(object) = event.object {
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

    /// The bytes have come. The put holds the object until it is over.
    fn enqueue_put(&mut self, id: u64, content: Content) {
        let large = matches!(content, Content::Segment(_));
        if let Some(object) = self.objects.get_mut(&id) {
            object.state = State::Waiting;
            object.content = Some(content);
            object.refs += 1;
        }
        match large {
            true => self.large.push_back(id),
            false => self.small.push_back(id),
        }
    }

    fn event(&mut self, track: &TrackName, msn: u64, object: Option<u64>, message: Message) {
        if let Some(id) = object {
            self.hold(id);
        }
        if let Message::Part { next, .. } = &message {
            self.hold(*next);
        }
        if let Message::Track(track) = &message {
            self.hold(track.first_part);
        }
        self.order += 1;
        if let Some(state) = self.tracks.get_mut(track) {
            state
                .events
                .insert((msn, self.order), Event { object, message });
        }
    }

    /// The message that `listed` has, from a segment on, the header and parts of `of`.
    fn announce(&mut self, listed: &TrackName, of: &TrackName, from_msn: u64, first_time: bool) {
        let first_part = match self.segments.get(&SegmentId {
            msn: from_msn,
            track: of.clone(),
        }) {
            Some(segment) if !segment.chunks.is_empty() => segment.chunks[0].object,
            _ => self.expect(of, from_msn, 0),
        };
        let Some(state) = self.tracks.get(of) else {
            return;
        };
        let (init, announcement) = (state.init, state.announced.clone());
        self.event(
            listed,
            from_msn,
            Some(init),
            Message::Track(Box::new(TrackMessage {
                announcement,
                from_msn,
                first_part,
                first_time,
            })),
        );
    }

    fn announce_chunk(&mut self, listed: &TrackName, id: &SegmentId, index: usize) {
        let Some(chunk) = self
            .segments
            .get(id)
            .and_then(|segment| segment.chunks.get(index))
        else {
            return;
        };
        let message = Message::Part {
            next: chunk.next,
            msn: id.msn,
            part: index as u32,
            start: chunk.start,
            duration: chunk.duration,
            independent: chunk.independent,
            size: chunk.len as u64,
        };
        let object = chunk.object;
        self.event(listed, id.msn, Some(object), message);
    }

    /// The last part of a segment did not know that it was: where its message was not given yet, it names the right next part.
    fn correct_hint(&mut self, track: &TrackName, msn: u64, wrong: (u64, u32), right: u64) {
        let Some(wrong) = self
            .tracks
            .get(track)
            .and_then(|state| state.expected.get(&wrong))
            .copied()
        else {
            return;
        };
        let listed = std::iter::once(track.clone()).chain(self.followers(track, msn));
        let mut corrected = 0;
        for track in listed.collect::<Vec<_>>() {
            if let Some(state) = self.tracks.get_mut(&track) {
                for event in state.events.range_mut((msn, 0)..(msn + 1, 0)).map(|e| e.1) {
                    if let Message::Part { next, .. } = &mut event.message
                        && *next == wrong
                    {
                        *next = right;
                        corrected += 1;
                    }
                }
            }
        }
        for _ in 0..corrected {
            self.hold(right);
            self.release(wrong);
        }
    }

    /// Makes room for `len` bytes by giving up the oldest segments. False when that does not help.
    fn make_room(&mut self, len: usize, newest: &SegmentId) -> bool {
        loop {
            if self.memory + len <= self.memory_for_pieces() {
                return true;
            }
            // A disk slower than the ingest must not take the memory either.
            if self.spooled + len as u64 <= self.spool_limit()
                && self.writing + len <= self.memory_for_writing()
            {
                return true;
            }
            let oldest = self
                .segments
                .iter()
                .find(|(id, segment)| *id != newest && !segment.lost && segment.unput > 0)
                .map(|(id, _)| id.clone());
            match oldest {
                Some(id) => self.lose(&id),
                None => return false,
            }
        }
    }

    /// Gives a segment up: nothing more of it is put, its unannounced parts are forgotten and it is announced as a gap.
    fn lose(&mut self, id: &SegmentId) {
        let Some(segment) = self.segments.get_mut(id) else {
            return;
        };
        if std::mem::replace(&mut segment.lost, true) {
            return;
        }
        segment.unput = 0;
        let complete = segment.complete.filter(|object| *object != 0);
        let objects: Vec<u64> = segment
            .chunks
            .iter()
            .map(|chunk| chunk.object)
            .chain(complete)
            .collect();
        self.stats.lost_segments += 1;
        self.lost_now.push((id.track.clone(), id.msn));
        self.free_pieces(id);
        let mut waiting = BTreeSet::new();
        for object_id in objects {
            if let Some(object) = self.objects.get_mut(&object_id) {
                match object.state {
                    State::Waiting => {
                        object.state = State::Lost;
                        waiting.insert(object_id);
                    }
                    State::InFlight => object.state = State::Lost,
                    State::Expected | State::Done | State::Lost => {}
                }
            }
        }
        self.small.retain(|object| !waiting.contains(object));
        self.large.retain(|object| !waiting.contains(object));
        for object in waiting {
            self.release(object);
        }
        let listed: Vec<TrackName> = std::iter::once(id.track.clone())
            .chain(self.followers(&id.track, id.msn))
            .collect();
        for track in listed {
            let Some(state) = self.tracks.get_mut(&track) else {
                continue;
            };
            let mut released = Vec::new();
            let range = (id.msn, 0)..(id.msn + 1, 0);
            let gone: Vec<(u64, u64)> = state
                .events
                .range_mut(range)
                .filter_map(|(at, event)| match &mut event.message {
                    Message::Part { next, .. } => {
                        released.extend(event.object);
                        released.push(*next);
                        Some(*at)
                    }
                    Message::Segment { size, .. } => {
                        released.extend(event.object.take());
                        *size = 0;
                        None
                    }
                    Message::Track(_) => None,
                })
                .collect();
            for at in gone {
                state.events.remove(&at);
            }
            for object in released {
                self.release(object);
            }
        }
        self.forget_if_finished(id);
    }

    /// Frees the bytes of a segment, in memory and on disk.
    fn free_pieces(&mut self, id: &SegmentId) {
        let Some(segment) = self.segments.get_mut(id) else {
            return;
        };
        for chunk in &mut segment.chunks {
            match std::mem::replace(&mut chunk.piece, Piece::Gone) {
                Piece::Memory(_) => self.memory -= chunk.len,
                Piece::Writing(_, _) => {
                    self.writing -= chunk.len;
                    self.spooled -= chunk.len as u64;
                }
                Piece::Spooled(_) => self.spooled -= chunk.len as u64,
                Piece::Gone => {}
            }
        }
        if std::mem::take(&mut segment.spool_len) > 0 {
            self.spool_jobs
                .retain(|(file, part)| file != id || part.is_none());
            self.spool_jobs.push_back((id.clone(), None));
        }
    }

    /// Forgets a segment that is complete and has nothing left to put.
    fn forget_if_finished(&mut self, id: &SegmentId) {
        let finished = self
            .segments
            .get(id)
            .is_some_and(|segment| segment.complete.is_some() && segment.unput == 0);
        if !finished {
            return;
        }
        self.free_pieces(id);
        if let Some(segment) = self.segments.remove(id) {
            for chunk in segment.chunks {
                self.release(chunk.object);
                self.release(chunk.next);
            }
            if let Some(object) = segment.complete {
                self.release(object);
            }
        }
    }

    fn put_landed(&mut self, id: &SegmentId, key: ObjectKey, is_part: bool) {
        if let Some(state) = self.tracks.get_mut(&id.track) {
            state
                .written
                .entry(id.msn)
                .or_default()
                .push((key, is_part));
        }
        if let Some(segment) = self.segments.get_mut(id) {
            segment.unput = segment.unput.saturating_sub(1);
        }
        self.forget_if_finished(id);
    }

    /// The put is no longer under way. The caller releases it.
    fn landed(&mut self, id: u64) -> Option<(Option<Content>, ObjectKey, State)> {
        let object = self.objects.get_mut(&id)?;
        self.loaded -= object.loaded;
        object.loaded = 0;
        self.in_flight -= 1;
        let content = object.content.take();
        if matches!(content, Some(Content::Segment(_))) {
            self.large_in_flight -= 1;
        }
        Some((content, object.key.clone(), object.state))
    }

    fn next_put(&mut self) -> Option<Put> {
        while let Some(id) = self.next_waiting() {
            match self.attempt(id) {
                Some(put) => return Some(put),
                // Its bytes are gone, so it is lost; nothing waits for it.
                None => {
                    self.landed(id);
                    self.release(id);
                }
            }
        }
        None
    }

    fn next_waiting(&mut self) -> Option<u64> {
        let slots = self.limits.parallel_puts.max(2);
        if self.in_flight >= slots {
            return None;
        }
        let large_slots = (slots * 2 / 3).max(1);
        let large = self
            .large
            .front()
            .copied()
            .filter(|id| self.large_in_flight < large_slots && self.may_load(*id));
        let small = self.small.front().copied().filter(|id| self.may_load(*id));
        // Numbers were given out in the order in which objects were first named, so the lower one is the older.
        let is_large = match (small, large) {
            (Some(small), Some(large)) => large < small,
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (None, None) => return None,
        };
        let id = match is_large {
            true => self.large.pop_front(),
            false => self.small.pop_front(),
        }?;
        self.in_flight += 1;
        self.large_in_flight += usize::from(is_large);
        if let Some(object) = self.objects.get_mut(&id) {
            object.state = State::InFlight;
        }
        Some(id)
    }

    /// Whether what must be read back from disk for a put has room in memory; one put always may.
    fn may_load(&self, id: u64) -> bool {
        let need = self.to_load(id);
        need == 0 || self.loaded == 0 || self.loaded + need <= self.memory_for_reading()
    }

    fn to_load(&self, id: u64) -> usize {
        let on_disk = |chunk: &Chunk| match chunk.piece {
            Piece::Spooled(_) => chunk.len,
            _ => 0,
        };
        match self.objects.get(&id).and_then(|o| o.content.as_ref()) {
            Some(Content::Part(segment, index)) => self
                .segments
                .get(segment)
                .and_then(|segment| segment.chunks.get(*index))
                .map_or(0, on_disk),
            Some(Content::Segment(segment)) => self
                .segments
                .get(segment)
                .map_or(0, |segment| segment.chunks.iter().map(on_disk).sum()),
            _ => 0,
        }
    }

    fn attempt(&mut self, id: u64) -> Option<Put> {
        let loaded = self.to_load(id);
        let object = self.objects.get(&id)?;
        let sources: Vec<Source> = match object.content.as_ref()? {
            Content::Init(bytes) => vec![Source::Memory(bytes.clone())],
            Content::Part(segment, index) => {
                let chunks = &self.segments.get(segment)?.chunks;
                vec![source(segment, chunks.get(*index)?)?]
            }
            Content::Segment(segment) => {
                let chunks = &self.segments.get(segment)?.chunks;
                chunks
                    .iter()
                    .map(|chunk| source(segment, chunk))
                    .collect::<Option<Vec<Source>>>()?
            }
        };
        let size = sources
            .iter()
            .map(|source| match source {
                Source::Memory(bytes) => bytes.len() as u64,
                Source::Spooled { len, .. } => *len as u64,
            })
            .sum();
        let key = object.key.clone();
        self.loaded += loaded;
        if let Some(object) = self.objects.get_mut(&id) {
            object.loaded = loaded;
        }
        Some(Put {
            id,
            key,
            sources,
            size,
        })
    }

    fn next_spool_job(&mut self) -> Option<Job> {
        // One at a time: a removal must not overtake a write to the same file.
        while !self.spool_busy {
            let (file, part) = self.spool_jobs.pop_front()?;
            let Some(part) = part else {
                self.spool_busy = true;
                return Some(Job::Unspool(file));
            };
            let piece = self
                .segments
                .get(&file)
                .and_then(|segment| segment.chunks.get(part))
                .map(|chunk| &chunk.piece);
            if let Some(Piece::Writing(data, offset)) = piece {
                self.spool_busy = true;
                return Some(Job::Spool {
                    offset: *offset,
                    data: data.clone(),
                    file,
                    part,
                });
            }
        }
        None
    }

    fn next_deletion(&mut self, now: Duration) -> Option<Job> {
        if self.deletes_in_flight >= self.limits.parallel_deletes.max(1)
            || self.deletions.front().is_none_or(|(due, _, _)| *due > now)
        {
            return None;
        }
        let (_, key, failures) = self.deletions.pop_front()?;
        self.deletes_in_flight += 1;
        Some(Job::Delete { key, failures })
    }

    fn delete_at(&mut self, due: Duration, key: ObjectKey) {
        if !self.limits.keep {
            let at = self
                .deletions
                .partition_point(|(other, _, _)| *other <= due);
            self.deletions.insert(at, (due, key, 0));
        }
    }

    fn key_of(&self, id: u64) -> Option<ObjectKey> {
        self.objects.get(&id).map(|object| object.key.clone())
    }

    fn give(&mut self, track: TrackName, event: Event, now: Duration) -> Option<ToEdge> {
        let key = event.object.and_then(|id| self.key_of(id));
        let message = match event.message {
            Message::Track(message) => {
                if message.first_time {
                    self.unannounced = self.unannounced.saturating_sub(1);
                }
                let first_part = self.key_of(message.first_part);
                self.release(message.first_part);
                let announced = message.announcement;
                ToEdge::Track(Track {
                    name: track,
                    kind: announced.kind,
                    codecs: announced.codecs,
                    timescale: announced.timescale,
                    part_target: announced.part_target,
                    nominal_bps: announced.nominal_bps,
                    init: key?,
                    from_msn: message.from_msn,
                    first_part: first_part?,
                })
            }
            Message::Part {
                next,
                msn,
                part,
                start,
                duration,
                independent,
                size,
            } => {
                let next_key = self.key_of(next);
                self.release(next);
                if let Some(state) = self.tracks.get_mut(&track) {
                    state.open_begun = true;
                }
                ToEdge::Part(Part {
                    track,
                    msn,
                    part,
                    key: key?,
                    start,
                    duration,
                    independent,
                    size,
                    next: next_key?,
                })
            }
            Message::Segment {
                msn,
                start,
                duration,
                size,
                timescale,
            } => {
                self.segment_given(&track, msn, duration, timescale, now);
                ToEdge::Segment(Segment {
                    track,
                    msn,
                    key,
                    start,
                    duration,
                    size,
                })
            }
        };
        if let Some(id) = event.object {
            self.release(id);
        }
        Some(message)
    }

    /// The playlist of a track moved on by one segment: what left it is due for deletion two windows later.
    fn segment_given(
        &mut self,
        track: &TrackName,
        msn: u64,
        duration: u64,
        timescale: u32,
        now: Duration,
    ) {
        let window = self.window();
        let due = now + self.two_windows();
        let Some(state) = self.tracks.get_mut(track) else {
            return;
        };
        state.open_msn = msn + 1;
        state.open_begun = false;
        state.announced_time += Duration::from_secs_f64(duration as f64 / f64::from(timescale));
        let end = state.announced_time;
        // Of this segment and, for a track that went on with another's objects, of earlier ones that were never its own to announce.
        let later = state.written.split_off(&(msn + 1));
        let written = std::mem::replace(&mut state.written, later);
        if !written.is_empty() {
            let mut listed = Listed {
                end,
                parts: Vec::new(),
                others: Vec::new(),
            };
            for (key, is_part) in written.into_values().flatten() {
                match is_part {
                    true => listed.parts.push(key),
                    false => listed.others.push(key),
                }
            }
            state.listed.push_back(listed);
        }
        let mut gone = Vec::new();
        // A playlist lists a segment until the ones behind it fill the window by themselves; one target duration is for rounding.
        let margin = Duration::from_secs(u64::from(TARGET_DURATION_S));
        let parts_for = margin * 4;
        for listed in &mut state.listed {
            if end - listed.end >= parts_for {
                gone.append(&mut listed.parts);
            }
        }
        while let Some(first) = state.listed.front()
            && end - first.end >= window + margin
        {
            if let Some(first) = state.listed.pop_front() {
                gone.extend(first.parts);
                gone.extend(first.others);
            }
        }
        for key in gone {
            self.delete_at(due, key);
        }
    }

    fn closing_message(&mut self, now: Duration) -> Option<ToEdge> {
        let reason = self.closed?;
        let waiting = self.tracks.values().any(|state| !state.events.is_empty());
        if self.closed_given || waiting {
            return None;
        }
        self.closed_given = true;
        // The last playlist stays for one window.
        let due = now + self.window() * 3;
        let mut left = Vec::new();
        for state in self.tracks.values_mut() {
            for listed in state.listed.drain(..) {
                left.extend(listed.parts);
                left.extend(listed.others);
            }
            for (key, _) in std::mem::take(&mut state.written).into_values().flatten() {
                left.push(key);
            }
            left.extend(
                self.objects
                    .get(&state.init)
                    .filter(|init| init.state == State::Done)
                    .map(|init| init.key.clone()),
            );
        }
        for key in left {
            self.delete_at(due, key);
        }
        Some(ToEdge::Closed { reason })
    }
}

fn source(file: &SpoolFile, chunk: &Chunk) -> Option<Source> {
    match &chunk.piece {
        Piece::Memory(bytes) | Piece::Writing(bytes, _) => Some(Source::Memory(bytes.clone())),
        Piece::Spooled(offset) => Some(Source::Spooled {
            file: file.clone(),
            offset: *offset,
            len: chunk.len,
        }),
        Piece::Gone => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const PARTS: u32 = 4;

    fn queue(limits: Limits) -> Queue {
        let opened = Opened {
            stream: "demo".parse().unwrap(),
            broadcast: protocol::names::BroadcastId::from_random([1; 16]),
            epoch_unix_ms: 0,
            first_msn: 0,
            window_s: 60,
        };
        let mut n = 0u64;
        let tag = move || {
            n += 1;
            let mut bytes = [0; 12];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            Tag::from_random(bytes)
        };
        Queue::new(opened, limits, Box::new(tag))
    }

    fn announcement(track: &str, from_msn: u64) -> TrackAnnouncement {
        TrackAnnouncement {
            name: track.parse().unwrap(),
            kind: TrackKind::Audio {
                sample_rate: 48_000,
                channels: 2,
            },
            codecs: "mp4a.40.2".into(),
            timescale: 1_000,
            part_target: 1_000,
            nominal_bps: 1,
            init: Bytes::from_static(b"init"),
            from_msn,
        }
    }

    fn chunk(track: &str, msn: u64, part: u32, known_last: bool, size: usize) -> PartChunk {
        PartChunk {
            track: track.parse().unwrap(),
            msn,
            part,
            start: 0,
            duration: 1_000,
            independent: true,
            last_of_segment: known_last && part + 1 == PARTS,
            data: vec![msn as u8; size].into(),
        }
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Does every job at once and gives the messages and the keys deleted.
    fn settle(queue: &mut Queue, now: Duration) -> (Vec<ToEdge>, Vec<ObjectKey>) {
        let (mut messages, mut deleted) = (Vec::new(), Vec::new());
        loop {
            while let Some(job) = queue.next_job(now) {
                match job {
                    Job::Put(put) => queue.put_done(put.id, now),
                    Job::Spool { file, part, .. } => queue.spooled(&file, part),
                    Job::Unspool(_) => queue.unspooled(),
                    Job::Delete { key, failures } => {
                        deleted.push(key.clone());
                        queue.deleted(key, failures, true, now);
                    }
                }
            }
            match queue.next_message(now) {
                Some(message) => messages.push(message),
                None => return (messages, deleted),
            }
        }
    }

    #[test]
    fn objects_go_two_windows_after_they_left_the_playlist_parts_and_segments_each_in_their_time() {
        let mut queue = queue(Limits::default());
        queue.track(announcement("a-x", 0)).unwrap();
        let mut gone: BTreeMap<(u64, bool), u64> = BTreeMap::new();
        for second in 0..800u64 {
            let (msn, part) = (second / 4, (second % 4) as u32);
            queue.part(chunk("a-x", msn, part, true, 10)).unwrap();
            if part + 1 == PARTS {
                let track = "a-x".parse().unwrap();
                queue.segment(&track, msn, 0, 4_000).unwrap();
            }
            for key in settle(&mut queue, seconds(second)).1 {
                match key.kind {
                    ObjectKind::Part { msn, .. } => drop(gone.insert((msn, true), second)),
                    ObjectKind::Segment { msn } => drop(gone.insert((msn, false), second)),
                    ObjectKind::Init { .. } => panic!("the header is still needed"),
                }
            }
        }
        // Segment n ends at second 4n + 3. Parts are listed for 12 s more, segments for 60 s; then two windows of 60 s.
        for msn in 0..150u64 {
            let end = msn * 4 + 3;
            let part_after = gone[&(msn, true)] - end;
            let segment_after = gone[&(msn, false)] - end;
            assert!((132..=132 + 8).contains(&part_after), "{part_after}");
            assert!((180..=180 + 8).contains(&segment_after), "{segment_after}");
        }
        // A stream that stands still keeps its playlist and all that is in it, however long.
        let listed_after = gone.keys().filter(|key| !key.1).map(|key| key.0).max();
        let later = settle(&mut queue, seconds(100_000)).1;
        assert!(later.iter().all(|key| match key.kind {
            ObjectKind::Segment { msn } => msn < 200 - 15 && Some(msn) > listed_after,
            ObjectKind::Part { msn, .. } => msn < 200 - 3,
            ObjectKind::Init { .. } => false,
        }));
        queue.close(CloseReason::Unpublished);
        settle(&mut queue, seconds(100_000));
        let rest = settle(&mut queue, seconds(100_180)).1;
        assert!(rest.iter().any(|key| key.kind == ObjectKind::Init { n: 0 }));
        assert!(queue.is_finished());
    }

    #[test]
    fn the_preload_hint_comes_true_also_when_the_end_of_a_segment_was_not_foreseen() {
        let mut queue = queue(Limits::default());
        queue.track(announcement("a-x", 0)).unwrap();
        let (mut hint, mut true_hints, mut parts) = (None, 0, 0);
        for msn in 0..10 {
            for part in 0..PARTS {
                queue.part(chunk("a-x", msn, part, false, 10)).unwrap();
            }
            queue
                .segment(&"a-x".parse().unwrap(), msn, 0, 4_000)
                .unwrap();
            for message in settle(&mut queue, seconds(msn)).0 {
                match message {
                    ToEdge::Track(track) => hint = Some(track.first_part),
                    ToEdge::Part(part) => {
                        parts += 1;
                        true_hints += usize::from(hint == Some(part.key));
                        hint = Some(part.next);
                    }
                    _ => {}
                }
            }
        }
        assert_eq!((parts, true_hints), (40, 40));
    }

    #[test]
    fn one_object_that_the_store_never_takes_costs_its_segment_and_not_the_broadcast() {
        let mut queue = queue(Limits::default());
        queue.track(announcement("a-x", 0)).unwrap();
        let mut messages = Vec::new();
        let mut bad = None;
        for msn in 0..40 {
            for part in 0..PARTS {
                queue.part(chunk("a-x", msn, part, true, 10)).unwrap();
            }
            queue
                .segment(&"a-x".parse().unwrap(), msn, 0, 4_000)
                .unwrap();
            let now = seconds(msn * 4);
            if let Some(id) = bad
                && queue.put_again(id).is_some()
            {
                queue.put_failed(id, true, now);
            }
            while let Some(job) = queue.next_job(now) {
                match job {
                    Job::Put(put) if put.key.kind == (ObjectKind::Part { msn: 2, part: 1 }) => {
                        bad = Some(put.id);
                        queue.put_failed(put.id, true, now);
                    }
                    Job::Put(put) => queue.put_done(put.id, now),
                    _ => {}
                }
            }
            messages.extend(std::iter::from_fn(|| queue.next_message(now)));
        }
        let segments: Vec<(u64, bool)> = messages
            .iter()
            .filter_map(|message| match message {
                ToEdge::Segment(segment) => Some((segment.msn, segment.key.is_some())),
                _ => None,
            })
            .collect();
        let expected: Vec<(u64, bool)> = (0..40).map(|msn| (msn, msn != 2)).collect();
        assert_eq!(segments, expected);
    }

    #[derive(Debug, Clone)]
    enum Act {
        /// The next part of a track (and its segment's end behind the last one).
        Part(usize, usize),
        /// Takes up one job.
        Begin,
        /// One put that is under way succeeds, fails, or fails and may have been written.
        Land(usize, u8),
        /// One put that failed is tried again.
        Again(usize),
        Spool(bool),
        Discontinuity,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => (0..3usize, 1..100_000usize).prop_map(|(track, size)| Act::Part(track, size)),
            4 => Just(Act::Begin),
            4 => (any::<usize>(), 0..4u8).prop_map(|(which, how)| Act::Land(which, how)),
            2 => any::<usize>().prop_map(Act::Again),
            2 => prop::bool::weighted(0.9).prop_map(Act::Spool),
            1 => Just(Act::Discontinuity),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// Whatever order the store answers in: no key twice, nothing announced before it is written, no hole in any track, limits kept,
        /// and in the end nothing is left behind.
        #[test]
        fn any_order_of_answers_keeps_every_promise(acts in prop::collection::vec(act(), 1..400)) {
            let limits = Limits { memory_mib: 1, spool_mib: 2, ..Limits::default() };
            let mut queue = queue(limits);
            let names = ["a-x", "v-y", "v-z"];
            for name in names {
                queue.track(announcement(name, 0)).unwrap();
            }
            let mut at = [(0u64, 0u32); 3];
            let (mut flying, mut failed, mut spooling) = (Vec::<Put>::new(), Vec::<u64>::new(), None);
            let mut written = BTreeSet::new();
            let mut tried = BTreeSet::new();
            let mut deleted = BTreeSet::new();
            let mut messages = Vec::new();
            let mut now = Duration::ZERO;
            let mut last_discontinuity = 0;
            let finish = acts.len();
            // After the given acts everything is served until all is done.
            for step in 0..finish + 4_000 {
                now += Duration::from_millis(100);
                let act = match acts.get(step) {
                    Some(act) => act.clone(),
                    None => {
                        if step == finish {
                            queue.close(CloseReason::Unpublished);
                        }
                        if queue.is_closed() {
                            now += Duration::from_secs(60);
                        }
                        match step % 4 {
                            0 | 1 => Act::Begin,
                            2 if spooling.is_some() => Act::Spool(true),
                            2 => Act::Again(0),
                            _ => Act::Land(step, 0),
                        }
                    }
                };
                match act {
                    Act::Part(track, size) => {
                        let (msn, part) = at[track];
                        queue.part(chunk(names[track], msn, part, size % 2 == 0, size)).unwrap();
                        at[track] = (msn, part + 1);
                        if part + 1 == PARTS {
                            queue.segment(&names[track].parse().unwrap(), msn, 0, 4_000).unwrap();
                            at[track] = (msn + 1, 0);
                        }
                    }
                    Act::Discontinuity => {
                        let msn = at.iter().map(|at| at.0).max().unwrap() + 1;
                        if msn > last_discontinuity {
                            queue.discontinuity(msn).unwrap();
                            last_discontinuity = msn;
                        }
                    }
                    Act::Begin => match queue.next_job(now) {
                        Some(Job::Put(put)) => {
                            prop_assert!(tried.insert(put.key.to_string()), "{} was put twice", put.key);
                            flying.push(put);
                        }
                        Some(Job::Spool { file, part, .. }) => spooling = Some(Some((file, part))),
                        Some(Job::Unspool(_)) => spooling = Some(None),
                        Some(Job::Delete { key, failures }) => {
                            deleted.insert(key.to_string());
                            queue.deleted(key, failures, true, now);
                        }
                        None => {}
                    },
                    Act::Land(which, how) if !flying.is_empty() => {
                        let put = flying.swap_remove(which % flying.len());
                        // 0 and 1 succeed, 2 fails unwritten, 3 fails written.
                        if how != 2 {
                            written.insert(put.key.to_string());
                        }
                        match how {
                            0 | 1 => queue.put_done(put.id, now),
                            _ => {
                                if how == 2 {
                                    tried.remove(&put.key.to_string());
                                }
                                queue.put_failed(put.id, how == 3, now);
                                failed.push(put.id);
                            }
                        }
                    }
                    Act::Again(which) if !failed.is_empty() => {
                        let id = failed.swap_remove(which % failed.len());
                        if let Some(put) = queue.put_again(id) {
                            prop_assert!(tried.insert(put.key.to_string()), "{} was put twice", put.key);
                            flying.push(put);
                        }
                    }
                    Act::Spool(works) => match spooling.take() {
                        Some(Some((file, part))) if works => queue.spooled(&file, part),
                        Some(Some((file, _))) => queue.spool_failed(&file),
                        Some(None) => queue.unspooled(),
                        None => {}
                    },
                    Act::Land(..) | Act::Again(_) => {}
                }
                let stats = queue.stats();
                prop_assert!(stats.memory <= 1024 * 1024 + 4 * 100_000, "{} bytes", stats.memory);
                prop_assert!(stats.spooled <= 2 * 1024 * 1024, "{} bytes on disk", stats.spooled);
                while let Some(message) = queue.next_message(now) {
                    for key in match &message {
                        ToEdge::Track(track) => vec![&track.init],
                        ToEdge::Part(part) => vec![&part.key],
                        ToEdge::Segment(segment) => segment.key.iter().collect(),
                        _ => vec![],
                    } {
                        prop_assert!(written.contains(&key.to_string()), "{} is not written", key);
                    }
                    messages.push(message);
                }
            }
            prop_assert!(queue.is_finished(), "{:?}", queue.stats());
            let ended = matches!(messages.last(), Some(ToEdge::Closed { .. }));
            prop_assert!(ended);
            for (track, name) in names.iter().enumerate() {
                let (mut due, mut part_due) = (0, 0);
                let mut after_discontinuity = 0;
                for message in &messages {
                    match message {
                        ToEdge::Part(part) if part.track.as_str() == *name => {
                            prop_assert_eq!((part.msn, part.part), (due, part_due));
                            part_due += 1;
                        }
                        ToEdge::Segment(segment) if segment.track.as_str() == *name => {
                            prop_assert_eq!(segment.msn, due);
                            (due, part_due) = (due + 1, 0);
                        }
                        ToEdge::Discontinuity { msn } => {
                            prop_assert!(due < *msn || (due == *msn && part_due == 0));
                            prop_assert!(*msn > after_discontinuity);
                            after_discontinuity = *msn;
                        }
                        _ => {}
                    }
                }
                prop_assert_eq!(due, at[track].0 + u64::from(at[track].1 > 0));
            }
            // Everything that was written was deleted, and nothing is still held.
            prop_assert_eq!(written.difference(&deleted).count(), 0);
            let stats = queue.stats();
            prop_assert_eq!((stats.memory, stats.spooled, stats.waiting), (0, 0, 0));
            prop_assert!(queue.segments.is_empty());
            // The header and the one or two parts whose keys were named ahead, a track.
            prop_assert!(queue.objects.len() <= 9, "{} objects leaked", queue.objects.len());
        }
    }
}
