//! When to give up a rung. The measure is media time: how far what is being decoded lies behind what arrived. A burst after a network stall is far behind
//! too, but catches up by itself, and costs no rung.

use std::time::Duration;

/// How long the encoders may stay over the bound without catching up.
const PATIENCE: Duration = Duration::from_secs(1);

/// How much of the lag must go in that time to count as catching up.
const PROGRESS: Duration = Duration::from_millis(100);

/// Watches the lag; time is an argument.
#[derive(Debug)]
pub(super) struct Overload {
    bound: Duration,
    /// Since when over the bound without progress, and how far behind it was then.
    since: Option<(Duration, Duration)>,
}

impl Overload {
    pub(super) fn new(bound: Duration) -> Self {
        Self { bound, since: None }
    }

    /// Takes the lag at a time of a monotonic clock; true where a rung has to go. It counts anew from there, so that the next one goes only if this was
    /// not enough.
    pub(super) fn observe(&mut self, now: Duration, lag: Duration) -> bool {
        if lag <= self.bound {
            self.since = None;
            return false;
        }
        let Some((since, lag_then)) = self.since else {
            self.since = Some((now, lag));
            return false;
        };
        if now.saturating_sub(since) < PATIENCE {
            return false;
        }
        self.since = Some((now, lag));
        lag + PROGRESS > lag_then
    }

    /// Starts to count anew: a rung that goes was shed just now.
    pub(super) fn relieved(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_lag_under_the_bound_costs_nothing() {
        let mut overload = Overload::new(ms(1_000));
        assert!((0..1_000).all(|n| !overload.observe(ms(n * 33), ms(990))));
    }

    #[test]
    fn a_growing_lag_sheds_after_a_second() {
        let mut overload = Overload::new(ms(1_000));
        let shed: Vec<u64> = (0..100)
            .map(|n| n * 50)
            .filter(|at| overload.observe(ms(*at), ms(at / 2)))
            .collect();
        assert_eq!(shed, [3_050, 4_050]);
    }

    #[test]
    fn a_burst_that_is_worked_off_sheds_nothing() {
        let mut overload = Overload::new(ms(1_000));
        let shed = (0..200_u64).any(|n| {
            let lag = 6_000_u64.saturating_sub(n * 30);
            overload.observe(ms(n * 50), ms(lag))
        });
        assert!(!shed);
    }
}
