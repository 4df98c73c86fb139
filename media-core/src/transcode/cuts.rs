//! Which decoded frame begins which segment. The cut rule speaks of packets in decoding order; here its boundaries meet the frames in presentation order.

use std::collections::VecDeque;

use crate::media::Boundary;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// At the source's IDR with this time.
    At(i64),
    /// At the first frame presented after this time.
    After(i64),
}

/// A boundary that met its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Met {
    pub(super) boundary: Boundary,
    /// Whether the frame decided the boundary's time (it was forced), so that nobody knows it yet.
    pub(super) forced: bool,
}

/// Boundaries that wait for their frames, in the order of their segments.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    waiting: VecDeque<(u64, Begin, bool)>,
}

impl Cuts {
    /// A segment begins at the source's IDR.
    pub(super) fn at(&mut self, boundary: Boundary) {
        self.wait(
            boundary.msn,
            Begin::At(boundary.pts),
            boundary.discontinuity,
        );
    }

    /// A segment begins at the first frame that is presented after `after_pts` and was not decoded yet.
    pub(super) fn after(&mut self, msn: u64, after_pts: i64, discontinuity: bool) {
        self.wait(msn, Begin::After(after_pts), discontinuity);
    }

    fn wait(&mut self, msn: u64, begin: Begin, discontinuity: bool) {
        let place = self.waiting.partition_point(|(earlier, ..)| *earlier < msn);
        self.waiting.insert(place, (msn, begin, discontinuity));
    }

    /// The boundary that the frame presented at `pts` begins.
    ///
    /// Where frames were lost, so that one frame would begin two segments, it begins the first and the next frame the second:
    /// no media sequence number is left out.
    pub(super) fn meet(&mut self, pts: i64) -> Option<Met> {
        let (msn, begin, discontinuity) = *self.waiting.front()?;
        let (time, forced) = match begin {
            Begin::At(at) if pts >= at => (at, false),
            Begin::After(after) if pts > after => (pts, true),
            _ => return None,
        };
        self.waiting.pop_front();
        Some(Met {
            boundary: Boundary {
                msn,
                pts: time,
                discontinuity,
            },
            forced,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boundary(msn: u64, pts: i64) -> Boundary {
        Boundary {
            msn,
            pts,
            discontinuity: false,
        }
    }

    #[test]
    fn an_idr_boundary_waits_for_its_own_frame() {
        let mut cuts = Cuts::default();
        cuts.at(boundary(7, 9_000));
        assert_eq!(cuts.meet(6_000), None);
        let met = cuts.meet(9_000);
        assert_eq!(
            met.map(|met| (met.boundary, met.forced)),
            Some((boundary(7, 9_000), false))
        );
        assert_eq!(cuts.meet(12_000), None);
    }

    #[test]
    fn a_forced_boundary_takes_the_time_of_the_first_frame_after_it() {
        let mut cuts = Cuts::default();
        cuts.after(3, 9_000, true);
        assert_eq!(cuts.meet(9_000), None);
        let met = cuts.meet(9_001).map(|met| (met.boundary, met.forced));
        let expected = Boundary {
            discontinuity: true,
            ..boundary(3, 9_001)
        };
        assert_eq!(met, Some((expected, true)));
    }

    #[test]
    fn lost_frames_leave_no_segment_out() {
        let mut cuts = Cuts::default();
        cuts.at(boundary(1, 0));
        cuts.at(boundary(2, 3_000));
        let msns: Vec<_> = [6_000, 9_000, 12_000]
            .into_iter()
            .map(|pts| cuts.meet(pts).map(|met| met.boundary.msn))
            .collect();
        assert_eq!(msns, [Some(1), Some(2), None]);
    }
}
