//! The measured bit rates of a track: draft-pantos-hls-rfc8216bis-16 section 4.4.6.2 (peak and average segment bit rate).

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::TARGET_DURATION_US;

/// Peak and average bit rate over the segments so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    bits: u64,
    us: u64,
    segments: u64,
    peak_bps: u64,
    /// Size in bits and duration in microseconds of the last segments, 1.5 target durations at most.
    recent: VecDeque<(u64, u64)>,
}

impl Rate {
    /// From so many segments on, what was measured is said instead of what the encoder was told.
    const ENOUGH_SEGMENTS: u64 = 3;

    /// Adds a segment.
    pub(super) fn add(&mut self, bytes: u64, duration_us: i64) {
        let (bits, us) = (bytes.saturating_mul(8), duration_us.max(1) as u64);
        self.bits = self.bits.saturating_add(bits);
        self.us = self.us.saturating_add(us);
        self.segments += 1;
        self.recent.push_back((bits, us));
        // The peak is the largest rate of any run of segments from half to one and a half target durations long.
        let target = TARGET_DURATION_US as u64;
        let (mut run_bits, mut run_us, mut used) = (0_u64, 0_u64, 0);
        for (bits, us) in self.recent.iter().rev() {
            run_us += us;
            run_bits = run_bits.saturating_add(*bits);
            if run_us > target * 3 / 2 {
                break;
            }
            used += 1;
            if run_us >= target / 2 {
                self.peak_bps = self.peak_bps.max(bps(run_bits, run_us));
            }
        }
        let keep = used.clamp(1, 64);
        while self.recent.len() > keep {
            self.recent.pop_front();
        }
    }

    /// Peak segment bit rate, bits a second, once enough was measured.
    pub fn peak_bps(&self) -> Option<u64> {
        (self.segments >= Self::ENOUGH_SEGMENTS && self.peak_bps > 0).then_some(self.peak_bps)
    }

    /// Average bit rate, bits a second, once enough was measured.
    pub fn average_bps(&self) -> Option<u64> {
        (self.segments >= Self::ENOUGH_SEGMENTS).then(|| bps(self.bits, self.us).max(1))
    }
}

fn bps(bits: u64, us: u64) -> u64 {
    let rate = u128::from(bits) * 1_000_000 / u128::from(us.max(1));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_and_average_are_of_whole_segments_and_come_after_three() {
        let mut rate = Rate::default();
        for bytes in [250_000, 500_000] {
            rate.add(bytes, 2_000_000);
        }
        assert_eq!((rate.peak_bps(), rate.average_bps()), (None, None));
        rate.add(250_000, 2_000_000);
        assert_eq!(rate.peak_bps(), Some(2_000_000));
        assert_eq!(rate.average_bps(), Some(1_333_333));
    }

    #[test]
    fn a_short_segment_alone_is_no_peak() {
        let mut rate = Rate::default();
        for (bytes, us) in [
            (250_000, 2_000_000),
            (250_000, 2_000_000),
            (250_000, 500_000),
        ] {
            rate.add(bytes, us);
        }
        // 500,000 bytes in 2.5 s, not 250,000 in half a second.
        assert_eq!(rate.peak_bps(), Some(1_600_000));
    }
}
