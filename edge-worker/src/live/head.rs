//! When a blocked playlist request is answered: draft-pantos-hls-rfc8216bis-16 section 6.2.5.2.

use protocol::link::TARGET_DURATION_S;
use serde::{Deserialize, Serialize};

/// The delivery directives of a playlist request, as numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Directives {
    /// `_HLS_msn`.
    pub msn: Option<u64>,
    /// `_HLS_part`; only with `msn`.
    pub part: Option<u64>,
    /// `_HLS_skip`: a delta update is wanted.
    pub skip: bool,
}

/// How far a playlist reaches: all that decides whether a blocked request is answered, small enough to hand to whoever holds waiters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Number of the running segment, one more than the last complete one.
    pub next_msn: u64,
    /// Parts of the running segment so far.
    pub parts: u32,
    /// Parts of the last complete segment.
    pub last_parts: u32,
    /// Advance Part Limit: how many parts ahead one may ask.
    pub advance_parts: u32,
    /// Whether the playlist has its `EXT-X-ENDLIST`.
    pub ended: bool,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Answer with the playlist as it is.
    Ready,
    /// Wait for the track, at most [`Head::DEADLINE_MS`], then 503.
    Wait,
    /// 400: no player that has seen the playlist asks this.
    Absurd,
}

impl Head {
    /// A blocked request is given up after three target durations, milliseconds.
    pub const DEADLINE_MS: u64 = 3_000 * TARGET_DURATION_S as u64;

    /// The Advance Part Limit: three parts, or as many as three seconds have when they are shorter than a second.
    pub fn advance_parts(part_target_us: i64) -> u32 {
        let in_three_seconds = (3_000_000 + part_target_us.max(1) - 1) / part_target_us.max(1);
        in_three_seconds.clamp(3, 1_000) as u32
    }

    /// What becomes of a request with these directives.
    pub fn verdict(&self, directives: &Directives) -> Verdict {
        let (Some(msn), part) = (directives.msn, directives.part) else {
            // `_HLS_part` without `_HLS_msn` is refused before it comes here; total all the same.
            return match directives.part {
                Some(_) => Verdict::Absurd,
                None => Verdict::Ready,
            };
        };
        if self.ended {
            return Verdict::Ready;
        }
        // More than two segments beyond the last complete one.
        if msn > self.next_msn + 1 {
            return Verdict::Absurd;
        }
        let ready = |ready| if ready { Verdict::Ready } else { Verdict::Wait };
        let Some(part) = part else {
            return ready(msn < self.next_msn);
        };
        let advance = u64::from(self.advance_parts);
        let parts = u64::from(self.parts);
        if msn == self.next_msn {
            if part >= parts + advance {
                return Verdict::Absurd;
            }
            return ready(part < parts);
        }
        if msn > self.next_msn {
            return if part >= advance {
                Verdict::Absurd
            } else {
                Verdict::Wait
            };
        }
        let last_parts = u64::from(self.last_parts);
        if msn + 1 < self.next_msn || part < last_parts {
            return Verdict::Ready;
        }
        // Past the last part of the last complete segment: the first part of the next one is meant.
        if part >= last_parts + advance {
            return Verdict::Absurd;
        }
        ready(parts > 0)
    }

    /// Whether an answer to these directives stays true for those who ask the same a moment later: the request was for the end of the
    /// playlist, or beyond what it had.
    pub fn is_at_the_end(&self, directives: &Directives) -> bool {
        (directives.msn).is_some_and(|msn| msn.saturating_add(1) >= self.next_msn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head = Head {
        next_msn: 10,
        parts: 2,
        last_parts: 6,
        advance_parts: 9,
        ended: false,
    };

    fn ask(msn: u64, part: Option<u64>) -> Verdict {
        HEAD.verdict(&Directives {
            msn: Some(msn),
            part,
            skip: false,
        })
    }

    #[test]
    fn a_request_is_answered_waits_or_is_refused_as_the_draft_says() {
        use Verdict::{Absurd, Ready, Wait};
        for (msn, part, verdict) in [
            (0, None, Ready),
            (9, None, Ready),
            (10, None, Wait),
            (11, None, Wait),
            (12, None, Absurd),
            (u64::MAX, None, Absurd),
            (10, Some(0), Ready),
            (10, Some(1), Ready),
            (10, Some(2), Wait),
            (10, Some(10), Wait),
            (10, Some(11), Absurd),
            (10, Some(u64::MAX), Absurd),
            (11, Some(0), Wait),
            (11, Some(8), Wait),
            (11, Some(9), Absurd),
            (12, Some(0), Absurd),
            (9, Some(5), Ready),
            // One past the last part of segment 9: the first part of segment 10, which is there.
            (9, Some(6), Ready),
            (9, Some(15), Absurd),
            (3, Some(99), Ready),
        ] {
            assert_eq!(
                ask(msn, part),
                verdict,
                "_HLS_msn={msn}, _HLS_part={part:?}"
            );
        }
    }

    #[test]
    fn one_past_the_last_part_waits_while_the_next_segment_has_none() {
        let head = Head { parts: 0, ..HEAD };
        let past = Directives {
            msn: Some(9),
            part: Some(6),
            skip: false,
        };
        assert_eq!(head.verdict(&past), Verdict::Wait);
    }

    #[test]
    fn a_plain_request_and_one_of_an_ended_playlist_never_wait() {
        assert_eq!(HEAD.verdict(&Directives::default()), Verdict::Ready);
        let ended = Head {
            ended: true,
            ..HEAD
        };
        let far = Directives {
            msn: Some(99),
            part: Some(3),
            skip: false,
        };
        assert_eq!(ended.verdict(&far), Verdict::Ready);
    }

    #[test]
    fn the_advance_part_limit_is_three_seconds_of_parts_and_at_least_three() {
        for (part_us, limit) in [
            (333_334, 9),
            (200_000, 15),
            (1_000_000, 3),
            (3_000_000, 3),
            (1, 1_000),
        ] {
            assert_eq!(Head::advance_parts(part_us), limit, "{part_us} µs");
        }
    }
}
