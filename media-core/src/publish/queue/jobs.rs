//! What is to be done with the store and the disk, and how it went.

use super::*;

/// A put that failed this often while so many others succeeded is given up: the fault is the object's, not the store's.
const HOPELESS_FAILURES: u32 = 10;
const HOPELESS_SUCCESSES: u64 = 30;
/// How often a deletion is tried; the sweep at the next start finds the rest.
const DELETE_ATTEMPTS: u32 = 5;
/// Deletions waiting, above which an object that was perhaps written by a failed attempt is left to the sweep: an outage of hours has many.
const MAX_ORPHANS: usize = 16 * 1024;
const DELETE_AGAIN_AFTER: Duration = Duration::from_secs(30);

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

impl Queue {
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

    /// The next attempt of a put that failed, or `None` when it was given up meanwhile, or has to wait for memory: then it comes once
    /// more by [`Queue::next_job`]. When a store is back, all that failed are tried again at once, and each would read its segment back.
    pub fn put_again(&mut self, id: u64) -> Option<Put> {
        if self.objects.get(&id).map(|object| object.state) == Some(State::InFlight) {
            if !self.may_load(id) {
                self.wait_again(id);
                return None;
            }
            if let Some(put) = self.attempt(id) {
                return Some(put);
            }
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

    /// The bytes have come. The put holds the object until it is over.
    pub(super) fn enqueue_put(&mut self, id: u64, content: Content) {
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

    /// A put that is under way gives its place up and waits, by its age.
    fn wait_again(&mut self, id: u64) {
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        object.state = State::Waiting;
        let large = matches!(object.content, Some(Content::Segment(_)));
        self.in_flight -= 1;
        self.large_in_flight -= usize::from(large);
        let waiting = match large {
            true => &mut self.large,
            false => &mut self.small,
        };
        let at = waiting.iter().position(|other| *other > id);
        waiting.insert(at.unwrap_or(waiting.len()), id);
    }

    pub(super) fn put_landed(&mut self, id: &SegmentId, key: ObjectKey, is_part: bool) {
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
    pub(super) fn landed(&mut self, id: u64) -> Option<(Option<Content>, ObjectKey, State)> {
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

    pub(super) fn next_put(&mut self) -> Option<Put> {
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

    pub(super) fn next_waiting(&mut self) -> Option<u64> {
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
    pub(super) fn may_load(&self, id: u64) -> bool {
        let need = self.to_load(id);
        need == 0 || self.loaded == 0 || self.loaded + need <= self.memory_for_reading()
    }

    pub(super) fn to_load(&self, id: u64) -> usize {
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

    pub(super) fn attempt(&mut self, id: u64) -> Option<Put> {
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

    pub(super) fn next_spool_job(&mut self) -> Option<Job> {
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

    pub(super) fn next_deletion(&mut self, now: Duration) -> Option<Job> {
        if self.deletes_in_flight >= self.limits.parallel_deletes.max(1)
            || self.deletions.front().is_none_or(|(due, _, _)| *due > now)
        {
            return None;
        }
        let (_, key, failures) = self.deletions.pop_front()?;
        self.deletes_in_flight += 1;
        Some(Job::Delete { key, failures })
    }

    pub(super) fn delete_at(&mut self, due: Duration, key: ObjectKey) {
        if !self.limits.keep {
            let at = self
                .deletions
                .partition_point(|(other, _, _)| *other <= due);
            self.deletions.insert(at, (due, key, 0));
        }
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
