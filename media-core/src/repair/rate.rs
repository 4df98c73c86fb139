//! The frame rate, found in stamps that were rounded to the millisecond, and the exact grid behind them.
//!
//! A source that keeps a rate gives frames at `origin + k × duration`; RTMP rounds each to a millisecond. While the stamps stay within
//! rounding of such a grid, frames get the grid's exact times. The grid follows a source whose clock is slightly off by small steps at
//! key frames, so it never drifts from the stamps. When the stamps leave the grid for good, they are taken as they are.

use std::collections::VecDeque;

use crate::media::{FrameRate, Metadata, VIDEO_TIMESCALE};

/// Rates that encoders keep.
const COMMON: [(u32, u32); 9] = [
    (24_000, 1_001),
    (24, 1),
    (25, 1),
    (30_000, 1_001),
    (30, 1),
    (48, 1),
    (50, 1),
    (60_000, 1_001),
    (60, 1),
];

/// Microseconds that a stamp may be off the grid: both it and the origin were rounded to 1,000, and 600 may have drifted.
const TOLERANCE_US: i64 = 2_000;

/// Microseconds between the lowest and the highest deviation of stamps that were rounded from one grid: under 1,000, and some more
/// for encoders that round twice.
const SPREAD_US: i64 = 1_500;

/// Microseconds of steady deviation from which on the grid is moved. Rounding alone gives up to 500.
const SLIP_US: i64 = 600;

/// Frames off the grid among the last [`RECENT`] that end the snapping.
const MOST_STRIKES: u32 = 5;

/// Stamps that are kept to find a rate in: enough to tell 60 from 59.94 frames a second.
const RECENT: usize = 96;

/// Frames that must agree before snapping begins again.
const ENOUGH: usize = 32;

/// What the encoder claims, as fractions: its parameter sets first, then its metadata.
pub(super) fn claims(parameter_sets: Option<FrameRate>, metadata: &Metadata) -> Vec<FrameRate> {
    let metadata = metadata
        .frame_rate
        .filter(|fps| (1.0..=240.0).contains(fps));
    let metadata =
        metadata.and_then(|fps| FrameRate::reduced((fps * 1_000.0).round() as u64, 1_000));
    let mut claims = Vec::new();
    for claim in parameter_sets.into_iter().chain(metadata) {
        if (1.0..=240.0).contains(&claim.fps()) {
            let near = |rate: &FrameRate| (rate.fps() / claim.fps() - 1.0).abs() < 3e-4;
            let claim = common().find(near).unwrap_or(claim);
            if !claims.contains(&claim) {
                claims.push(claim);
            }
        }
    }
    claims
}

fn common() -> impl Iterator<Item = FrameRate> {
    COMMON.into_iter().map(|(num, den)| FrameRate { num, den })
}

/// The rate that these decoding times (milliseconds, in order) keep: the first claim that agrees, else the common rate that fits best.
pub(super) fn find(stamps: &[i64], claims: &[FrameRate]) -> Option<FrameRate> {
    if let Some(claim) = claims.iter().find(|rate| spread(stamps, **rate).is_some()) {
        return Some(*claim);
    }
    let fitting = common().filter_map(|rate| Some((spread(stamps, rate)?, rate)));
    fitting
        .min_by_key(|(spread, _)| *spread)
        .map(|(_, rate)| rate)
}

/// How far the stamps' deviations from the rate's grid lie apart, microseconds; `None` where they do not keep the rate. Nine steps in
/// ten are of one frame: the stamps of 30 frames a second would fit on a grid of 60 as well.
fn spread(stamps: &[i64], rate: FrameRate) -> Option<i64> {
    let (first, rest) = stamps.split_first()?;
    if rest.len() < 2 {
        return None;
    }
    let (mut low, mut high, mut before, mut single) = (0, 0, 0, 0);
    for stamp in rest {
        let (index, deviation) = nearest(stamp.saturating_sub(*first).saturating_mul(1_000), rate);
        if index <= before {
            return None;
        }
        single += usize::from(index == before + 1);
        before = index;
        low = low.min(deviation);
        high = high.max(deviation);
    }
    (high - low <= SPREAD_US && single * 10 >= rest.len() * 9).then_some(high - low)
}

/// The grid's frame nearest to a time, and how far the time lies behind it, microseconds.
fn nearest(time_us: i64, rate: FrameRate) -> (i64, i64) {
    let (num, den) = (i128::from(rate.num), i128::from(rate.den) * 1_000_000);
    let time = i128::from(time_us);
    let index = (2 * time * num + den).div_euclid(2 * den);
    let deviation = time - (index * den + num / 2).div_euclid(num);
    (index as i64, deviation as i64)
}

/// While the source keeps no rate, one is looked for every so many frames.
const LOOK_EVERY: u32 = 8;

/// Gives frames their exact times while the source keeps a rate.
#[derive(Debug)]
pub(super) struct Grid {
    claims: Vec<FrameRate>,
    recent: VecDeque<i64>,
    snapping: Option<Snapping>,
    /// Frames since a rate was last looked for in vain.
    since_look: u32,
}

#[derive(Debug)]
struct Snapping {
    rate: FrameRate,
    /// Stamp of frame 0, microseconds.
    origin_us: i64,
    /// Time of frame 0 on the broadcast's timeline, ticks.
    origin: i64,
    /// The last frame.
    index: Option<i64>,
    /// Lowest and highest deviation since the last key frame, and how many frames.
    deviations: (i64, i64, u32),
    strikes: u32,
    /// Frames since the last strike.
    good: u32,
}

/// Times of a frame, ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) dts: i64,
    pub(super) pts: i64,
}

impl Grid {
    pub(super) fn new(claims: Vec<FrameRate>) -> Self {
        Self {
            claims,
            recent: VecDeque::with_capacity(RECENT),
            snapping: None,
            since_look: 0,
        }
    }

    /// The rate that is kept now.
    pub(super) fn rate(&self) -> Option<FrameRate> {
        self.snapping.as_ref().map(|snapping| snapping.rate)
    }

    /// The encoder's stamps begin anew: the frame with stamp `ms` lies at `dts`, ticks. With `rate`, snapping goes on at once.
    pub(super) fn restart(&mut self, rate: Option<FrameRate>, ms: i64, dts: i64) {
        self.recent.clear();
        self.snapping = rate.map(|rate| Snapping::new(rate, ms, dts));
    }

    /// The encoder says something else now.
    pub(super) fn claim(&mut self, claims: Vec<FrameRate>) {
        self.claims = claims;
    }

    /// Times of the frame with this decoding stamp and composition offset (milliseconds); `raw` is the stamp's time on the timeline, ticks.
    pub(super) fn times(&mut self, ms: i64, offset_ms: i32, raw: i64, key: bool) -> Times {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(ms);
        let as_stamped = Times {
            dts: raw,
            pts: raw + i64::from(offset_ms) * 90,
        };
        match &mut self.snapping {
            Some(snapping) => match snapping.times(ms, offset_ms, key) {
                Some(times) => times,
                None => {
                    if snapping.strikes > MOST_STRIKES {
                        self.snapping = self.found(ms, raw);
                    }
                    as_stamped
                }
            },
            None => {
                // Once in a while only: it costs a walk over all that is kept.
                self.since_look += 1;
                if self.since_look >= LOOK_EVERY {
                    self.since_look = 0;
                    self.snapping = self.found(ms, raw);
                }
                as_stamped
            }
        }
    }

    fn found(&mut self, ms: i64, raw: i64) -> Option<Snapping> {
        let stamps = self.recent.make_contiguous();
        let latest = stamps.get(stamps.len().saturating_sub(ENOUGH)..)?;
        let enough = latest.len() >= ENOUGH;
        // All that is kept tells close rates apart; where the source has changed within it, the latest must do.
        let rate = find(stamps, &self.claims).or_else(|| find(latest, &self.claims));
        rate.filter(|_| enough)
            .map(|rate| Snapping::new(rate, ms, raw))
    }
}

impl Snapping {
    fn new(rate: FrameRate, ms: i64, origin: i64) -> Self {
        Self {
            rate,
            origin_us: ms.saturating_mul(1_000),
            origin,
            index: None,
            deviations: (0, 0, 0),
            strikes: 0,
            good: 0,
        }
    }

    fn times(&mut self, ms: i64, offset_ms: i32, key: bool) -> Option<Times> {
        if key {
            self.slip();
        }
        let (index, deviation) = nearest(ms.saturating_mul(1_000) - self.origin_us, self.rate);
        if deviation.abs() > TOLERANCE_US || self.index.is_some_and(|last| index <= last) {
            self.strikes += 1;
            self.good = 0;
            return None;
        }
        self.index = Some(index);
        self.good += 1;
        if self.good as usize >= RECENT {
            self.strikes = 0;
        }
        let (low, high, count) = self.deviations;
        self.deviations = match count {
            0 => (deviation, deviation, 1),
            _ => (low.min(deviation), high.max(deviation), count + 1),
        };
        let dts = self.at(index);
        let (frames, off) = nearest(i64::from(offset_ms) * 1_000, self.rate);
        let pts = if off.abs() <= TOLERANCE_US + 500 {
            self.at(index + frames)
        } else {
            dts + i64::from(offset_ms) * 90
        };
        Some(Times { dts, pts })
    }

    /// At a key frame nothing before refers to what follows, so here the grid follows a clock that is slightly off.
    fn slip(&mut self) {
        let (low, high, count) = std::mem::take(&mut self.deviations);
        // In steps of 0.1 ms, which are 9 ticks exactly: rounding would add up.
        let middle = (low + high) / 200 * 100;
        if count >= 8 && middle.abs() > SLIP_US {
            self.origin_us += middle;
            self.origin += middle / 100 * 9;
        }
    }

    /// Time of a frame, ticks, rounded down.
    fn at(&self, index: i64) -> i64 {
        let ticks = i128::from(index) * i128::from(VIDEO_TIMESCALE) * i128::from(self.rate.den);
        self.origin + ticks.div_euclid(i128::from(self.rate.num)) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(num: u32, den: u32) -> FrameRate {
        FrameRate { num, den }
    }

    /// Stamps of a source that keeps a rate, rounded to the nearest millisecond or cut off.
    fn stamps(rate: FrameRate, frames: i64, rounded: bool) -> Vec<i64> {
        let (num, den) = (i64::from(rate.num), i64::from(rate.den));
        let half = if rounded { num / 2 } else { 0 };
        (0..frames)
            .map(|k| (k * 1_000 * den + half) / num)
            .collect()
    }

    #[test]
    fn every_common_rate_is_found_in_a_second_and_a_half_of_stamps_without_a_claim() {
        for expected in common() {
            for rounded in [true, false] {
                let stamps = stamps(expected, expected.fps() as i64 * 3 / 2, rounded);
                assert_eq!(find(&stamps, &[]), Some(expected), "{expected:?} {rounded}");
            }
        }
    }

    #[test]
    fn a_claim_that_the_stamps_belie_is_not_believed() {
        let stamps = stamps(rate(25, 1), 12, true);
        assert_eq!(
            find(&stamps, &[rate(30, 1), rate(1_000, 1)]),
            Some(rate(25, 1))
        );
        let uneven: Vec<i64> = (0..40).map(|k| k * 33 + (k * 7919 % 23)).collect();
        assert_eq!(find(&uneven, &[rate(30, 1)]), None);
    }

    #[test]
    fn an_uncommon_rate_is_believed_where_it_is_claimed_and_kept() {
        let claims = claims(
            None,
            &Metadata {
                frame_rate: Some(12.5),
                ..Metadata::default()
            },
        );
        assert_eq!(claims, [rate(25, 2)]);
        assert_eq!(
            find(&stamps(rate(25, 2), 10, true), &claims),
            Some(rate(25, 2))
        );
    }

    #[test]
    fn claims_written_with_few_digits_are_the_broadcast_rates() {
        for (claim, expected) in [
            (29.97, rate(30_000, 1_001)),
            (23.98, rate(24_000, 1_001)),
            (59.94, rate(60_000, 1_001)),
            (30.0, rate(30, 1)),
        ] {
            let metadata = Metadata {
                frame_rate: Some(claim),
                ..Metadata::default()
            };
            assert_eq!(claims(None, &metadata), [expected]);
        }
    }

    #[test]
    fn a_day_of_frames_stays_on_the_grid_and_beside_the_stamps() {
        let rate = rate(30_000, 1_001);
        let mut grid = Grid::new(vec![rate]);
        grid.restart(Some(rate), 0, 0);
        for k in 0..2_600_000i64 {
            let ms = (k * 1_001_000 + 15_000) / 30_000;
            let times = grid.times(ms, 0, ms * 90, k % 250 == 0);
            assert_eq!(times.dts, k * 3_003);
        }
    }

    #[test]
    fn a_clock_that_is_50_ppm_fast_is_followed_within_three_milliseconds() {
        let mut grid = Grid::new(vec![rate(30, 1)]);
        grid.restart(Some(rate(30, 1)), 0, 0);
        let mut last = -1;
        for k in 0..1_000_000i64 {
            let ms = (k as f64 * 1_000.0 / 30.0 * 1.000_05).round() as i64;
            let times = grid.times(ms, 0, ms * 90, k % 60 == 0);
            assert!((times.dts - ms * 90).abs() < 270, "frame {k}");
            assert!(times.dts > last);
            last = times.dts;
        }
        assert_eq!(grid.rate(), Some(rate(30, 1)));
    }

    #[test]
    fn a_source_that_turns_variable_is_taken_as_stamped_without_a_jump_and_back() {
        let mut grid = Grid::new(vec![rate(30, 1)]);
        grid.restart(Some(rate(30, 1)), 0, 0);
        let mut ms = 0;
        let mut last = -1;
        for k in 0..900i64 {
            let uneven = (300..600).contains(&k);
            ms = match uneven {
                true => ms + 20 + (k * 7919) % 40,
                false => ms + [33, 33, 34][k as usize % 3],
            };
            let times = grid.times(ms, 0, ms * 90, false);
            assert!((times.dts - ms * 90).abs() <= 270, "frame {k}");
            assert!(times.dts > last, "frame {k}");
            last = times.dts;
            match k {
                299 => assert_eq!(grid.rate(), Some(rate(30, 1))),
                599 => assert_eq!(grid.rate(), None),
                899 => assert_eq!(grid.rate(), Some(rate(30, 1))),
                _ => {}
            }
        }
    }

    #[test]
    fn frames_that_the_encoder_left_out_leave_whole_frames_of_room() {
        let mut grid = Grid::new(vec![rate(60, 1)]);
        grid.restart(Some(rate(60, 1)), 0, 0);
        for k in (0..600i64).filter(|k| k % 37 != 5) {
            let ms = (k * 1_000 + 30) / 60;
            assert_eq!(
                grid.times(ms, 33, ms * 90, false),
                Times {
                    dts: k * 1_500,
                    pts: (k + 2) * 1_500
                }
            );
        }
    }
}
