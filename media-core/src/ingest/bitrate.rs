//! A ceiling on a publisher's bit rate, and on its frame rate.

use std::time::Duration;

/// How long a publisher may send at twice the ceiling. An encoder that was held up by its network catches up faster than in real time.
const TOLERANCE: Duration = Duration::from_secs(10);

/// A leaky bucket: it fills with what comes and drains at the ceiling.
#[derive(Debug)]
pub(super) struct Ceiling {
    per_second: f64,
    level: f64,
    at: Duration,
}

impl Ceiling {
    /// Of bytes.
    pub(super) fn new(bits_per_second: u64, now: Duration) -> Self {
        Self::of(bits_per_second as f64 / 8.0, now)
    }

    /// Of whatever is counted.
    pub(super) fn of(per_second: f64, now: Duration) -> Self {
        Self {
            per_second,
            level: 0.0,
            at: now,
        }
    }

    /// Counts what came; whether it is within the ceiling.
    pub(super) fn take(&mut self, count: usize, now: Duration) -> bool {
        let elapsed = now.saturating_sub(self.at).as_secs_f64();
        self.at = now;
        self.level = (self.level - elapsed * self.per_second).max(0.0) + count as f64;
        self.level <= self.per_second * TOLERANCE.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_pass_and_a_rate_over_the_ceiling_does_not() {
        let second = Duration::from_secs(1);
        let mut ceiling = Ceiling::new(8_000, Duration::ZERO);
        // Half a minute of network trouble caught up with at once is over it, nine seconds are not.
        assert!(ceiling.take(9_000, second));
        assert!((2..100).all(|n| ceiling.take(1_000, second * n)));
        let cut = (100..200).find(|n| !ceiling.take(1_500, second * *n));
        assert!(cut.is_some_and(|n| n < 104), "{cut:?}");
        let mut ceiling = Ceiling::new(8_000, Duration::ZERO);
        assert!(!ceiling.take(30_000, second));
    }
}
