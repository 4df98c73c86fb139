//! One track's RTMP stamps: milliseconds modulo 2^32, unwrapped, and where they lie on the broadcast's timeline.

use std::time::Duration;

use super::JUMP;

/// A jump is explained by the other track's stamps where they are this near, milliseconds: tracks are interleaved within that.
const NEAR_MS: i64 = 1_500;

/// What a stamp is to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It continues them.
    Continues,
    /// It does not, but it lies beside the other track's latest, whose place on the timeline this track has now.
    Joins,
    /// Nothing explains it: it has to be anchored.
    Jumps,
}

/// Unwrapped stamps of one track.
#[derive(Debug, Clone, Default)]
pub(super) struct Stamps {
    latest: Option<Latest>,
}

#[derive(Debug, Clone, Copy)]
struct Latest {
    /// Unwrapped.
    ms: i64,
    at: Duration,
    /// What is added to 90 × ms to get ticks of the timeline.
    offset: i64,
}

impl Latest {
    /// The unwrapped stamp nearest to the latest.
    fn near(&self, stamp: u32) -> i64 {
        let distance = stamp.wrapping_sub(self.ms as u32) as i32;
        self.ms + i64::from(distance)
    }
}

impl Stamps {
    /// The track begins anew.
    pub(super) fn forget(&mut self) {
        self.latest = None;
    }

    /// The latest stamp, unwrapped.
    pub(super) fn ms(&self) -> i64 {
        self.latest.map_or(0, |latest| latest.ms)
    }

    /// The latest stamp's time, ticks.
    pub(super) fn ticks(&self) -> i64 {
        self.latest
            .map_or(0, |latest| latest.ms * 90 + latest.offset)
    }

    /// Puts this stamp at this time and gives it unwrapped.
    pub(super) fn anchor(&mut self, stamp: u32, at: Duration, ticks: i64) -> i64 {
        // Begins anew at the stamp itself: what was before the jump says nothing about it.
        let ms = i64::from(stamp);
        let offset = ticks - ms * 90;
        self.latest = Some(Latest { ms, at, offset });
        ms
    }

    /// The other track was anchored anew: where this track's stamps lie beside its own, it goes along.
    pub(super) fn follow(&mut self, other: &Stamps) {
        if let (Some(own), Some(other)) = (&mut self.latest, other.latest) {
            let beside = other.near(own.ms as u32);
            if (beside - other.ms).abs() < NEAR_MS {
                own.ms = beside;
                own.offset = other.offset;
            }
        }
    }

    /// The next stamp. A step back of over `back_ms` continues nothing.
    pub(super) fn step(&mut self, stamp: u32, at: Duration, back_ms: i64, other: &Stamps) -> Step {
        let jump = JUMP.as_millis() as i64;
        if let Some(latest) = &mut self.latest {
            let ms = latest.near(stamp);
            let distance = ms - latest.ms;
            let elapsed = at.saturating_sub(latest.at).as_millis() as i64;
            // A hole that the clock confirms is a hole: the encoder left something out.
            let confirmed = (elapsed - distance).abs() <= jump;
            if distance >= -back_ms && (distance <= jump || confirmed) {
                latest.ms = ms;
                latest.at = at;
                return Step::Continues;
            }
        }
        if let Some(other) = other.latest {
            let ms = other.near(stamp);
            if (ms - other.ms).abs() < NEAR_MS {
                let same = self.latest.is_some_and(|own| {
                    own.offset == other.offset && (own.ms - ms).abs() < i64::from(u32::MAX) / 2
                });
                let forward = self.latest.is_some_and(|own| ms >= own.ms);
                let offset = other.offset;
                self.latest = Some(Latest { ms, at, offset });
                // Beside a track that did not jump, this one only paused.
                return if same && forward {
                    Step::Continues
                } else {
                    Step::Joins
                };
            }
        }
        Step::Jumps
    }
}
