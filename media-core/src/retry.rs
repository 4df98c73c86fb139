//! The project's one way to try again: capped exponential backoff with jitter.

use std::time::Duration;

/// Delays between attempts: each twice the one before up to a cap, of which a random half is taken off so that many clients of one
/// server that came back do not knock at the same moment.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// For a store or an edge a live broadcast waits for: 100 ms to 2 s, so that what was held back is on its way within two seconds
    /// of its return.
    pub const fn live() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(2))
    }

    /// The first delay, and the longest.
    pub const fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap,
            failures: 0,
        }
    }

    /// The delay before the next attempt, between half of the step and all of it.
    pub fn delay(&mut self) -> Duration {
        let step = self
            .first
            .saturating_mul(1u32.checked_shl(self.failures.min(31)).unwrap_or(u32::MAX))
            .min(self.cap);
        self.failures = self.failures.saturating_add(1);
        let half = step / 2;
        half + half.mul_f64(f64::from(random_u32()) / f64::from(u32::MAX))
    }

    /// How many attempts failed since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// An attempt succeeded: the next delay is the first one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Random bits for jitter. Where the system has none to give the delay is merely without jitter.
fn random_u32() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_with_at_most_half_taken_off_and_begin_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(450));
        for step in [100, 200, 400, 450, 450] {
            let delay = backoff.delay();
            assert!(
                delay >= Duration::from_millis(step / 2) && delay <= Duration::from_millis(step),
                "{delay:?} for a step of {step} ms"
            );
        }
        assert_eq!(backoff.failures(), 5);
        backoff.reset();
        assert!(backoff.delay() <= Duration::from_millis(100));
    }

    #[test]
    fn a_thousand_failures_overflow_nothing() {
        let mut backoff = Backoff::live();
        for _ in 0..1_000 {
            assert!(backoff.delay() <= Duration::from_secs(2));
        }
    }

    #[test]
    fn two_clients_do_not_wait_equally_long() {
        let delays: std::collections::BTreeSet<Duration> = (0..16)
            .map(|_| Backoff::new(Duration::from_secs(1), Duration::from_secs(1)).delay())
            .collect();
        assert!(delays.len() > 8, "{delays:?}");
    }
}
