//! How many questions a webhook has at one time, and whether it is asked at all: a bound and a circuit breaker.
//!
//! **Overflow policy**: nothing waits for a place. A question beyond the bound is answered at once as if the webhook had failed, because
//! one that waits would wait behind a server that is slow already, and hold its publisher's or viewer's connection meanwhile. One address
//! has an eighth of the places, so that it takes few of the others'.

use std::{collections::HashMap, net::IpAddr};

use protocol::per_address::{is_near, subscriber};

/// So many failures in a row open the circuit.
pub const FAILURES: u32 = 5;
/// How long it is open the first time, milliseconds; twice as long each time that it does not hold, up to [`LONGEST_MS`].
pub const FIRST_MS: i64 = 2_000;
/// How long it is open at the most, milliseconds.
pub const LONGEST_MS: i64 = 60_000;

/// Why a webhook is not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Shut {
    /// It failed time and again, and is left alone for a while.
    #[error("it failed {FAILURES} times in a row, and is left alone for a while")]
    Open,
    /// It has as many questions as it may have.
    #[error("it has {0} questions to answer already")]
    Full(usize),
    /// As many of them are about this address as may be.
    #[error("it has {0} questions about this network address to answer already")]
    OfAddress(usize),
}

/// How a question to a webhook came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered, whatever it said.
    Answered,
    /// It did not answer, or what it said is no answer.
    Failed,
    /// Whoever waited for the answer went away.
    Abandoned,
}

/// A place that a question has: give it back with [`Gate::leave`].
#[derive(Debug, PartialEq, Eq)]
pub struct Place(u64);

/// The gate before a webhook.
#[derive(Debug)]
pub struct Gate {
    max: usize,
    next: u64,
    /// Whom each question is about.
    inside: HashMap<u64, Option<IpAddr>>,
    /// Failures in a row.
    failures: u32,
    /// Until when it is shut, Unix milliseconds, and how long that was.
    open: Option<(i64, i64)>,
    /// The one question that is let through a circuit that was open long enough.
    probe: Option<u64>,
}

impl Gate {
    /// A gate for at most `max` questions at a time.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            next: 0,
            inside: HashMap::new(),
            failures: 0,
            open: None,
            probe: None,
        }
    }

    /// Lets a question about somebody through.
    ///
    /// # Errors
    /// [`Shut`] when the webhook is not to be asked.
    pub fn enter(&mut self, about: Option<IpAddr>, now_ms: i64) -> Result<Place, Shut> {
        if self.inside.len() >= self.max {
            return Err(Shut::Full(self.max));
        }
        // A proxy or a network nearby is many peers behind one address.
        let about = about.filter(|address| !is_near(*address)).map(subscriber);
        let share = self.max.div_ceil(8);
        if about.is_some() && self.inside.values().filter(|one| **one == about).count() >= share {
            return Err(Shut::OfAddress(share));
        }
        if let Some((until, _)) = self.open
            && (now_ms < until || self.probe.is_some())
        {
            return Err(Shut::Open);
        }
        let place = self.next;
        self.next += 1;
        self.inside.insert(place, about);
        if self.open.is_some() {
            self.probe = Some(place);
        }
        Ok(Place(place))
    }

    /// Takes a place back.
    pub fn leave(&mut self, place: Place, outcome: Outcome, now_ms: i64) {
        self.inside.remove(&place.0);
        let probed = self.probe == Some(place.0);
        if probed {
            self.probe = None;
        }
        match (outcome, self.open) {
            (Outcome::Abandoned, _) => {}
            // One that was asked before the circuit opened says nothing of now.
            (_, Some(_)) if !probed => {}
            (Outcome::Answered, _) => {
                self.failures = 0;
                self.open = None;
            }
            (Outcome::Failed, Some((_, lasted))) => {
                let longer = lasted.saturating_mul(2).min(LONGEST_MS);
                self.open = Some((now_ms.saturating_add(longer), longer));
            }
            (Outcome::Failed, None) => {
                self.failures += 1;
                if self.failures >= FAILURES {
                    self.open = Some((now_ms.saturating_add(FIRST_MS), FIRST_MS));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ask(gate: &mut Gate, outcome: Outcome, now: i64) -> Result<(), Shut> {
        let place = gate.enter(None, now)?;
        gate.leave(place, outcome, now);
        Ok(())
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_question_at_a_time_looks_whether_it_holds() {
        let mut gate = Gate::new(10);
        for _ in 0..FAILURES - 1 {
            ask(&mut gate, Outcome::Failed, 0).unwrap();
        }
        // Not in a row.
        ask(&mut gate, Outcome::Answered, 0).unwrap();
        for _ in 0..FAILURES {
            ask(&mut gate, Outcome::Failed, 0).unwrap();
        }
        assert_eq!(gate.enter(None, FIRST_MS - 1), Err(Shut::Open));
        let probe = gate.enter(None, FIRST_MS).unwrap();
        assert_eq!(gate.enter(None, FIRST_MS), Err(Shut::Open));
        gate.leave(probe, Outcome::Failed, FIRST_MS);
        // Twice as long.
        assert_eq!(gate.enter(None, 3 * FIRST_MS - 1), Err(Shut::Open));
        let probe = gate.enter(None, 3 * FIRST_MS).unwrap();
        // Whoever asked went away, and the next one looks.
        gate.leave(probe, Outcome::Abandoned, 3 * FIRST_MS);
        ask(&mut gate, Outcome::Answered, 3 * FIRST_MS).unwrap();
        for _ in 0..5 {
            ask(&mut gate, Outcome::Answered, 3 * FIRST_MS).unwrap();
        }
    }

    #[test]
    fn it_is_never_open_for_longer_than_a_minute() {
        let mut gate = Gate::new(1);
        let mut now = 0;
        for _ in 0..FAILURES {
            ask(&mut gate, Outcome::Failed, now).unwrap();
        }
        for _ in 0..20 {
            now += LONGEST_MS;
            ask(&mut gate, Outcome::Failed, now).unwrap();
        }
        assert_eq!(gate.enter(None, now + LONGEST_MS - 1), Err(Shut::Open));
        ask(&mut gate, Outcome::Answered, now + LONGEST_MS).unwrap();
    }

    #[test]
    fn a_question_beyond_the_bound_does_not_wait_and_is_no_failure_of_the_webhook() {
        let mut gate = Gate::new(2);
        let (one, two) = (gate.enter(None, 0).unwrap(), gate.enter(None, 0).unwrap());
        for _ in 0..100 {
            assert_eq!(gate.enter(None, 0), Err(Shut::Full(2)));
        }
        gate.leave(one, Outcome::Answered, 0);
        ask(&mut gate, Outcome::Answered, 0).unwrap();
        gate.leave(two, Outcome::Answered, 0);
    }

    #[test]
    fn one_address_has_an_eighth_of_the_places_and_a_network_nearby_has_all() {
        let mut gate = Gate::new(16);
        let far = |last: u8| Some(IpAddr::from([192, 0, 2, last]));
        let (one, _two) = (
            gate.enter(far(1), 0).unwrap(),
            gate.enter(far(1), 0).unwrap(),
        );
        assert_eq!(gate.enter(far(1), 0), Err(Shut::OfAddress(2)));
        let _another = gate.enter(far(2), 0).unwrap();
        gate.leave(one, Outcome::Answered, 0);
        let _again = gate.enter(far(1), 0).unwrap();
        for _ in 3..16 {
            gate.enter(Some(IpAddr::from([10, 0, 0, 1])), 0).unwrap();
        }
        assert_eq!(gate.enter(far(3), 0), Err(Shut::Full(16)));
        // A small gate has a place for everybody.
        Gate::new(1).enter(far(1), 0).unwrap();
    }

    #[test]
    fn what_was_asked_before_it_opened_neither_closes_it_nor_makes_it_longer() {
        let mut gate = Gate::new(10);
        let (late, later) = (gate.enter(None, 0).unwrap(), gate.enter(None, 0).unwrap());
        for _ in 0..FAILURES {
            ask(&mut gate, Outcome::Failed, 0).unwrap();
        }
        gate.leave(late, Outcome::Failed, 100);
        gate.leave(later, Outcome::Answered, 100);
        assert_eq!(gate.enter(None, FIRST_MS - 1), Err(Shut::Open));
        gate.enter(None, FIRST_MS).unwrap();
    }
}
