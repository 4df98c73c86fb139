//! The cut rule: where segments begin, one list for all tracks, decided from the source's video packets in decoding order.
//!
//! A segment begins at the first source IDR that comes 2 s or more after the last boundary. Where none has come by 4.4 s, the cut is
//! forced, and every encoder makes an IDR of the frame there. So a segment is 2 to 4.4 s long and `EXT-X-TARGETDURATION` 4 always
//! holds (4.49 s would still round to 4). Two exceptions: a discontinuity cuts at the next IDR at once, and a source that shows no frame
//! for so long that the segment would pass 4.49 s gets a discontinuity where it goes on, since there is no frame to cut at.
//!
//! "2 s" is met within half a frame, at most 20 ms, so that a GOP of exactly 2 s whose stamps were rounded to 1.999 s is cut at each IDR.
//!
//! A forced cut must not tear reordered frames apart: it is decided at a packet that is presented after all before it (a new maximum
//! of PTS), and the segment then begins with the first frame *presented* after everything that came before that packet. Which one that
//! is, the decoder's output order tells ([`Cutter::resolve`]).

use std::{collections::VecDeque, time::Duration};

use crate::media::{Boundary, FrameRate, VIDEO_TIMESCALE, VideoPacket};

/// No source IDR begins a segment earlier than this after the last boundary.
pub const MIN_SEGMENT: Duration = Duration::from_secs(2);

/// Where no IDR has come by then, the cut is forced.
pub const FORCE_AFTER: Duration = Duration::from_millis(4_400);

/// No segment is longer.
pub const MAX_SEGMENT: Duration = Duration::from_millis(4_490);

/// A forced cut whose frame the decoder has not shown so much later is passed without it. Longer than packets wait to be decoded.
pub const RESOLVE_WITHIN: Duration = Duration::from_secs(10);

const MIN_TICKS: i64 = ticks(MIN_SEGMENT);
const FORCE_TICKS: i64 = ticks(FORCE_AFTER);
/// [`MAX_SEGMENT`] in ticks.
pub(super) const MAX_TICKS: i64 = ticks(MAX_SEGMENT);

/// Half a frame, but no more than this, is forgiven in "2 s", ticks.
const MOST_TOLERANCE: i64 = VIDEO_TIMESCALE as i64 / 50;

/// Forgiven in "2 s" where the source keeps no rate: two roundings to the millisecond and one more.
const VARIABLE_TOLERANCE: i64 = 3 * VIDEO_TIMESCALE as i64 / 1_000;

/// Of a source that keeps no rate, the longest of so many frames is expected next.
const RECENT_FRAMES: usize = 30;

const fn ticks(duration: Duration) -> i64 {
    (duration.as_millis() as i64) * (VIDEO_TIMESCALE as i64) / 1_000
}

/// What to do with a source packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nothing can be decoded yet: no IDR has come.
    Drop,
    /// The packet belongs to the running segment.
    Continue,
    /// A segment begins with this packet.
    AtIdr(Boundary),
    /// A segment begins with the first frame presented after [`ForcedCut::after_pts`], this one or one still to be decoded before it is
    /// presented. The packet itself is to be decoded as any other.
    Forced(ForcedCut),
}

/// A forced cut of which the first frame is not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForcedCut {
    /// Media sequence number of the segment that begins.
    pub msn: u64,
    /// The last presentation time of the segment that ends, ticks of [`VIDEO_TIMESCALE`].
    pub after_pts: i64,
    /// Whether a discontinuity was waiting for a boundary.
    pub discontinuity: bool,
    /// Where the ending segment began.
    start: i64,
}

/// The state of the cut rule. Feed it every source packet in decoding order.
#[derive(Debug, Clone)]
pub struct Cutter {
    /// Ticks of a frame where the source keeps a rate.
    frame: Option<i64>,
    next_msn: u64,
    discontinuity: bool,
    running: Option<Running>,
}

/// The running segment.
#[derive(Debug, Clone)]
struct Running {
    /// Its first frame's PTS; of an unresolved forced cut the earliest that it can be.
    start: i64,
    /// Latest PTS so far, of the whole broadcast.
    max_pts: i64,
    /// A forced cut that was not resolved yet.
    unresolved: Option<ForcedCut>,
    /// PTS of the first IDR that has begun a segment since [`Running::unresolved`] was decided (the decoder is far behind, or a
    /// discontinuity came).
    superseded: Option<i64>,
    /// Distances between the latest successive maxima divided by the packets between them: what a frame lasts here.
    recent: VecDeque<i64>,
    /// Packets since `max_pts`.
    since_max: i64,
}

impl Cutter {
    /// The first segment gets `first_msn`. `discontinuity`: whether it continues a broadcast that was interrupted.
    pub fn new(first_msn: u64, frame_rate: Option<FrameRate>, discontinuity: bool) -> Self {
        Self {
            frame: frame_rate.map(|rate| rate.ticks(1, VIDEO_TIMESCALE)),
            next_msn: first_msn,
            discontinuity,
            running: None,
        }
    }

    /// From here on the source keeps another rate, or none.
    pub fn set_frame_rate(&mut self, frame_rate: Option<FrameRate>) {
        self.frame = frame_rate.map(|rate| rate.ticks(1, VIDEO_TIMESCALE));
    }

    /// What follows does not continue what came: the next IDR begins a segment behind a discontinuity, however short the running one is.
    pub fn discontinuity(&mut self) {
        self.discontinuity = self.running.is_some() || self.discontinuity;
    }

    /// Media sequence number of the next segment to begin.
    pub fn next_msn(&self) -> u64 {
        self.next_msn
    }

    /// Every boundary still to be told lies after this PTS, ticks of [`VIDEO_TIMESCALE`]; `None` before the first packet. A forced cut
    /// counts as told when it is resolved. This is what lets go of sound that is held back ([`super::AudioPackager::video_frontier`]).
    pub fn frontier(&self) -> Option<i64> {
        let running = self.running.as_ref()?;
        Some(match running.unresolved {
            Some(forced) => forced.after_pts,
            None => running.max_pts,
        })
    }

    /// The next source packet in decoding order.
    pub fn push(&mut self, packet: &VideoPacket) -> Cut {
        self.decide(packet.pts, packet.idr)
    }

    /// As [`Cutter::push`], of the two things that matter.
    pub fn decide(&mut self, pts: i64, idr: bool) -> Cut {
        let Some(running) = &mut self.running else {
            if !idr {
                return Cut::Drop;
            }
            self.running = Some(Running::new(pts));
            return Cut::AtIdr(self.boundary(pts, false));
        };
        running.since_max += 1;
        if pts <= running.max_pts {
            return Cut::Continue;
        }
        let previous_max = running.advance(pts);
        let elapsed = pts.saturating_sub(running.start);
        if idr && (self.discontinuity || elapsed >= MIN_TICKS - tolerance(self.frame)) {
            running.start = pts;
            running.superseded.get_or_insert(pts);
            return Cut::AtIdr(self.boundary(pts, elapsed > MAX_TICKS));
        }
        let frame = self.frame.unwrap_or_else(|| running.longest_recent());
        if running.unresolved.is_none() && elapsed.saturating_add(frame) > FORCE_TICKS {
            let forced = ForcedCut {
                msn: self.next_msn,
                after_pts: previous_max,
                discontinuity: self.discontinuity,
                start: running.start,
            };
            running.unresolved = Some(forced);
            running.superseded = None;
            running.start = previous_max.saturating_add(frame).min(pts);
            self.next_msn += 1;
            self.discontinuity = false;
            return Cut::Forced(forced);
        }
        Cut::Continue
    }

    /// The decoder's output has shown the first frame presented after [`ForcedCut::after_pts`]: the boundary lies there. To be called
    /// once for each [`Cut::Forced`]: no other cut is forced and no sound goes on ([`Cutter::frontier`]) until then. Where the decoder
    /// fails, the PTS of the next IDR does ([`Cutter::overdue`]).
    pub fn resolve(&mut self, forced: ForcedCut, first_pts: i64) -> Boundary {
        if let Some(running) = &mut self.running
            && running.unresolved == Some(forced)
        {
            running.unresolved = None;
            if running.superseded.is_none() {
                running.start = first_pts;
            }
        }
        Boundary {
            msn: forced.msn,
            pts: first_pts,
            discontinuity: forced.discontinuity
                || first_pts.saturating_sub(forced.start) > MAX_TICKS,
        }
    }

    /// The forced cut that the decoder should long have shown the first frame of ([`RESOLVE_WITHIN`]), and the PTS of the IDR that began
    /// the segment after it: what is left to resolve it with. `None` while there is none, or no such IDR yet.
    pub fn overdue(&self) -> Option<(ForcedCut, i64)> {
        let running = self.running.as_ref()?;
        let (forced, idr) = (running.unresolved?, running.superseded?);
        let waited = running.max_pts.saturating_sub(forced.after_pts);
        (waited > ticks(RESOLVE_WITHIN)).then_some((forced, idr))
    }

    fn boundary(&mut self, pts: i64, gap: bool) -> Boundary {
        let boundary = Boundary {
            msn: self.next_msn,
            pts,
            discontinuity: self.discontinuity || gap,
        };
        self.next_msn += 1;
        self.discontinuity = false;
        boundary
    }
}

fn tolerance(frame: Option<i64>) -> i64 {
    frame.map_or(VARIABLE_TOLERANCE, |frame| (frame / 2).min(MOST_TOLERANCE))
}

impl Running {
    fn new(pts: i64) -> Self {
        Self {
            start: pts,
            max_pts: pts,
            unresolved: None,
            superseded: None,
            recent: VecDeque::with_capacity(RECENT_FRAMES),
            since_max: 0,
        }
    }

    /// Takes a new maximum and gives the one before.
    fn advance(&mut self, pts: i64) -> i64 {
        let previous = std::mem::replace(&mut self.max_pts, pts);
        if self.recent.len() == RECENT_FRAMES {
            self.recent.pop_front();
        }
        let each = pts.saturating_sub(previous) / self.since_max.max(1);
        self.recent.push_back(each);
        self.since_max = 0;
        previous
    }

    /// What the next frame may last where the rate varies: the longest of the recent ones within bounds. A shorter hole than 0.1 s must
    /// not come unexpected, and one that was longer than a quarter of a second says nothing about the next one.
    fn longest_recent(&self) -> i64 {
        let longest = self.recent.iter().max().copied().unwrap_or(0);
        longest.clamp(
            i64::from(VIDEO_TIMESCALE) / 10,
            i64::from(VIDEO_TIMESCALE) / 4,
        )
    }
}

#[cfg(test)]
mod tests;
