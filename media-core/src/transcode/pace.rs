//! Which frames a rung encodes: all of them, or one in so many where the source is faster than the rung may be. A frame that begins a segment is never left
//! out, and the grid starts anew there, so that all rungs agree on it.

use crate::media::{FrameRate, VIDEO_TIMESCALE};

/// Over this much the measured rate must exceed the rung's before frames are left out: RTMP's milliseconds and encoders' rounding are noise.
const TOLERANCE: f64 = 1.04;

/// How many intervals between frames the measured rate is taken from.
const MEASURED_INTERVALS: usize = 24;

/// One frame in how many is encoded of a source this fast by a rung that may have `max_fps`.
pub(super) fn divisor(source_fps: f64, max_fps: u32) -> u32 {
    let exact = source_fps / (f64::from(max_fps.max(1)) * TOLERANCE);
    exact.ceil().clamp(1.0, 60.0) as u32
}

/// The source's frame rate: what was claimed, until enough frames were seen to measure it.
#[derive(Debug)]
pub(super) struct SourceRate {
    claimed: f64,
    recent: std::collections::VecDeque<i64>,
}

impl SourceRate {
    pub(super) fn new(claimed: FrameRate) -> Self {
        Self {
            claimed: claimed.fps(),
            recent: std::collections::VecDeque::with_capacity(MEASURED_INTERVALS + 1),
        }
    }

    /// Takes the presentation time of the next frame in order and gives frames a second.
    pub(super) fn observe(&mut self, pts: i64) -> f64 {
        if self.recent.len() > MEASURED_INTERVALS {
            self.recent.pop_front();
        }
        self.recent.push_back(pts);
        let (Some(first), Some(last)) = (self.recent.front(), self.recent.back()) else {
            return self.claimed;
        };
        let ticks = last - first;
        if self.recent.len() <= MEASURED_INTERVALS || ticks <= 0 {
            return self.claimed;
        }
        (self.recent.len() - 1) as f64 * f64::from(VIDEO_TIMESCALE) / ticks as f64
    }
}

/// A rung's choice of frames.
#[derive(Debug)]
pub(super) struct Pace {
    max_fps: u32,
    /// Ticks at which the next frame is due, as a fraction: an interval of 1001/60000 s is no whole number of ticks twice over.
    due: Option<f64>,
}

impl Pace {
    pub(super) fn new(max_fps: u32) -> Self {
        Self { max_fps, due: None }
    }

    /// Whether the rung encodes the frame presented at `pts`. `begins_segment` frames always are.
    pub(super) fn takes(&mut self, pts: i64, begins_segment: bool, source_fps: f64) -> bool {
        let divisor = divisor(source_fps, self.max_fps);
        let source_interval = f64::from(VIDEO_TIMESCALE) / source_fps.max(1.0);
        let interval = source_interval * f64::from(divisor);
        let at = pts as f64;
        // Half an interval of tolerance: a frame counts for the grid point that is nearest to it.
        let due = self.due.unwrap_or(at);
        if divisor > 1 && !begins_segment && at < due - source_interval / 2.0 {
            return false;
        }
        // On the grid while the source keeps it; from this frame on after a pause, a jump or a boundary.
        let on_grid = !begins_segment && (at - due).abs() < source_interval;
        self.due = Some(if on_grid { due } else { at } + interval);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pace: &mut Pace, times: &[i64], boundaries: &[i64], fps: f64) -> Vec<i64> {
        times
            .iter()
            .copied()
            .filter(|pts| pace.takes(*pts, boundaries.contains(pts), fps))
            .collect()
    }

    #[test]
    fn the_divisor_halves_fifty_and_sixty_and_leaves_thirty() {
        let divisors = [
            23.976, 25.0, 29.97, 30.0, 31.0, 48.0, 50.0, 59.94, 60.0, 62.0, 90.0, 120.0,
        ]
        .map(|fps| divisor(fps, 30));
        assert_eq!(divisors, [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 4]);
        assert_eq!(divisor(60.0, 60), 1);
        assert_eq!(divisor(f64::INFINITY, 30), 60);
    }

    #[test]
    fn sixty_becomes_thirty_on_a_regular_grid_in_spite_of_millisecond_times() {
        let times: Vec<i64> = (0..600).map(|n| (n * 1000 + 30) / 60 * 90).collect();
        let mut pace = Pace::new(30);
        let kept = taken(&mut pace, &times, &[], 60.0);
        let every_other: Vec<i64> = times.iter().copied().step_by(2).collect();
        assert_eq!(kept, every_other);
    }

    #[test]
    fn a_boundary_frame_is_kept_and_the_grid_starts_anew_there() {
        let times: Vec<i64> = (0..40).map(|n| n * 1_500).collect();
        let mut pace = Pace::new(30);
        let kept = taken(&mut pace, &times, &[0, 21 * 1_500], 60.0);
        let expected: Vec<i64> = (0..21)
            .step_by(2)
            .chain((21..40).step_by(2))
            .map(|n| n * 1_500)
            .collect();
        assert_eq!(kept, expected);
    }

    #[test]
    fn a_variable_rate_source_loses_only_what_is_over_the_rate() {
        // Two frames close together, then a pause of a second, again and again.
        let times: Vec<i64> = (0..10)
            .flat_map(|n| [n * 90_000, n * 90_000 + 1_500])
            .collect();
        let mut pace = Pace::new(30);
        let kept = taken(&mut pace, &times, &[0], 60.0);
        assert_eq!(kept, (0..10).map(|n| n * 90_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_source_slower_than_it_claims_is_not_thinned() {
        let times: Vec<i64> = (0..60).map(|n| n * 3_000).collect();
        let mut pace = Pace::new(30);
        assert_eq!(taken(&mut pace, &times, &[0], 60.0), times);
    }

    #[test]
    fn the_measured_rate_replaces_a_wrong_claim() {
        let mut rate = SourceRate::new(FrameRate { num: 30, den: 1 });
        assert_eq!(rate.observe(0), 30.0);
        let measured = (1..40).map(|n| rate.observe(n * 1_500)).last();
        assert!(measured.is_some_and(|fps| (fps - 60.0).abs() < 0.01));
    }
}
