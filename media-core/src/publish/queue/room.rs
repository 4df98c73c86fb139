//! Bounds on memory and disk, and what is given up beyond them.

use super::*;

/// Segments that wait, of all tracks together: what is kept of each beside its bytes is some kilobytes, which a low bit rate would pile up
/// in memory long before the disk is full. Five tracks of 2 s segments reach it in 3.6 hours.
pub(super) const MAX_SEGMENTS: usize = 32 * 1024;

impl Queue {
    /// Half of the memory is for pieces that stay in it, a quarter for those on their way to disk, a quarter for reading back. The shares
    /// are apart, so that together they keep the limit whatever order things come in.
    pub(super) fn memory_for_pieces(&self) -> usize {
        self.memory_limit() / 2
    }

    pub(super) fn memory_for_writing(&self) -> usize {
        self.memory_limit() / 4
    }

    pub(super) fn memory_for_reading(&self) -> usize {
        self.memory_limit() / 4
    }

    pub(super) fn memory_limit(&self) -> usize {
        self.limits.memory_mib.max(1) as usize * 1024 * 1024
    }

    pub(super) fn spool_limit(&self) -> u64 {
        u64::from(self.limits.spool_mib) * 1024 * 1024
    }

    /// Makes room for `len` bytes by giving up the oldest segments. False when that does not help.
    pub(super) fn make_room(&mut self, len: usize, newest: &SegmentId) -> bool {
        loop {
            let in_memory = self.memory + len <= self.memory_for_pieces();
            // A disk slower than the ingest must not take the memory either.
            let on_disk = self.spooled + len as u64 <= self.spool_limit()
                && self.writing + len <= self.memory_for_writing();
            if self.segments.len() <= MAX_SEGMENTS && (in_memory || on_disk) {
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
    pub(super) fn lose(&mut self, id: &SegmentId) {
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
    pub(super) fn free_pieces(&mut self, id: &SegmentId) {
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
    pub(super) fn forget_if_finished(&mut self, id: &SegmentId) {
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
}
