//! What webhooks are told: a broadcast went live, it ended, and how many watched at the most. And when what did not arrive is told again.

use std::collections::{HashMap, HashSet};

use protocol::{
    link::CloseReason,
    names::{BroadcastId, StreamName},
};
use serde::Serialize;

use crate::live::Broadcast;

/// A stream's peak is told so often at the most, milliseconds; and once more at the end.
pub const PEAK_EVERY_MS: i64 = 60_000;
/// An event is sent so often at the most, before it is a dead letter.
pub const ATTEMPTS: u32 = 8;
/// And for so long, milliseconds.
pub const TRIED_FOR_MS: i64 = 3_600_000;
/// How long after the first attempt the second one is, milliseconds; each next one four times as long, up to [`LONGEST_MS`].
const FIRST_MS: i64 = 2_000;
const LONGEST_MS: i64 = 15 * 60_000;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "type")]
pub enum What {
    /// Every track can be played.
    #[serde(rename = "broadcast.live")]
    Live,
    /// The broadcast is over.
    #[serde(rename = "broadcast.ended")]
    Ended {
        /// Why.
        reason: CloseReason,
        /// When, Unix milliseconds.
        ended_unix_ms: i64,
        /// How many watched at one time at the most.
        peak_viewers: u64,
    },
    /// More watch than ever in this broadcast.
    #[serde(rename = "viewers.peak")]
    Peak {
        /// How many.
        viewers: u64,
    },
}

/// Something that webhooks are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Of which stream.
    pub stream: StreamName,
    /// Of which broadcast.
    pub broadcast: BroadcastId,
    /// Since when it goes on, Unix milliseconds.
    pub since_unix_ms: i64,
    /// When it was noticed, Unix milliseconds.
    pub time_unix_ms: i64,
    /// What.
    pub what: What,
}

#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    time_unix_ms: i64,
    stream: &'a StreamName,
    broadcast: &'a BroadcastId,
    since_unix_ms: i64,
    #[serde(flatten)]
    what: What,
}

impl Event {
    /// Its id: the same whenever the same event is noticed, so that a restart makes no second one.
    pub fn id(&self) -> String {
        match self.what {
            What::Live => format!("{}.live", self.broadcast),
            What::Ended { .. } => format!("{}.ended", self.broadcast),
            What::Peak { viewers } => format!("{}.peak-{viewers}", self.broadcast),
        }
    }

    /// What is sent.
    pub fn body(&self) -> String {
        let body = Body {
            id: &self.id(),
            time_unix_ms: self.time_unix_ms,
            stream: &self.stream,
            broadcast: &self.broadcast,
            since_unix_ms: self.since_unix_ms,
            what: self.what,
        };
        // A struct of texts and numbers has no way not to be JSON.
        serde_json::to_string(&body).unwrap_or_default()
    }
}

/// What was noticed of a broadcast.
#[derive(Debug, Default)]
struct Seen {
    live: bool,
    ended: bool,
    peak: u64,
    told_peak: u64,
    told_unix_ms: Option<i64>,
}

/// Notices what is to be told, by looking at the broadcasts now and then.
#[derive(Debug, Default)]
pub struct Watcher(HashMap<BroadcastId, Seen>);

impl Watcher {
    /// Looks at a broadcast that so many watch. One that was never playable never happened.
    pub fn look(&mut self, broadcast: &Broadcast, viewers: u64, now_unix_ms: i64) -> Vec<Event> {
        let mut events = Vec::new();
        if !broadcast.is_playable() {
            return events;
        }
        if !self.0.contains_key(broadcast.id()) {
            self.0.insert(broadcast.id().clone(), Seen::default());
        }
        let Some(seen) = self.0.get_mut(broadcast.id()) else {
            return events;
        };
        let mut tell = |what| {
            events.push(Event {
                stream: broadcast.stream().clone(),
                broadcast: broadcast.id().clone(),
                since_unix_ms: broadcast.since_unix_ms(),
                time_unix_ms: now_unix_ms,
                what,
            });
        };
        if !std::mem::replace(&mut seen.live, true) {
            tell(What::Live);
        }
        if seen.ended {
            return events;
        }
        let ended = broadcast.ended();
        // Who watches the rest of one that has ended makes no peak.
        if ended.is_none() {
            seen.peak = seen.peak.max(viewers);
        }
        let due = seen
            .told_unix_ms
            .is_none_or(|told| now_unix_ms.saturating_sub(told) >= PEAK_EVERY_MS);
        if seen.peak > seen.told_peak && (due || ended.is_some()) {
            seen.told_peak = seen.peak;
            seen.told_unix_ms = Some(now_unix_ms);
            tell(What::Peak { viewers: seen.peak });
        }
        if let Some(ended) = ended {
            seen.ended = true;
            tell(What::Ended {
                reason: ended.reason,
                ended_unix_ms: ended.at_unix_ms,
                peak_viewers: seen.peak,
            });
        }
        events
    }

    /// Forgets the broadcasts that are not there any more.
    pub fn keep(&mut self, there: &HashSet<BroadcastId>) {
        self.0.retain(|id, _| there.contains(id));
    }
}

/// When an event is sent again that has failed so often and happened then; `None` when it is a dead letter. `random` spreads those that
/// failed together: half to one and a half times the wait.
pub fn again(attempts: u32, created_unix_ms: i64, now_unix_ms: i64, random: u8) -> Option<i64> {
    let wait = FIRST_MS
        .saturating_mul(4_i64.saturating_pow(attempts.saturating_sub(1)))
        .min(LONGEST_MS);
    let wait = wait / 2 + wait * i64::from(random) / 255;
    let at = now_unix_ms.saturating_add(wait);
    (attempts < ATTEMPTS && at.saturating_sub(created_unix_ms) <= TRIED_FOR_MS).then_some(at)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;
    use crate::live::source::Source;

    fn kinds(events: &[Event]) -> Vec<String> {
        let kind = |event: &Event| {
            let body: Value = serde_json::from_str(&event.body()).unwrap();
            assert_eq!(body["id"], event.id());
            let viewers = body.get("viewers").map(|v| format!(" {v}"));
            format!(
                "{}{}",
                body["type"].as_str().unwrap(),
                viewers.unwrap_or_default()
            )
        };
        events.iter().map(kind).collect()
    }

    fn playable() -> Broadcast {
        let mut source = Source::new();
        let mut messages = source.open();
        messages.extend(source.segment(6, 0, false));
        let (mut broadcast, _) = Broadcast::begin(&messages[0], 0).unwrap();
        let mut watcher = Watcher::default();
        assert!(
            watcher.look(&broadcast, 5, 0).is_empty(),
            "nothing to see yet"
        );
        for message in &messages[1..] {
            let _ = broadcast.apply(message, 0).unwrap();
        }
        broadcast
    }

    #[test]
    fn a_broadcast_goes_live_once_peaks_are_told_once_a_minute_and_the_end_has_the_last() {
        let mut broadcast = playable();
        let mut watcher = Watcher::default();
        let mut look = |broadcast: &Broadcast, viewers, s: i64| {
            let events = watcher.look(broadcast, viewers, s * 1_000);
            (kinds(&events), events)
        };
        assert_eq!(look(&broadcast, 0, 1).0, ["broadcast.live"]);
        assert_eq!(look(&broadcast, 3, 2).0, ["viewers.peak 3"]);
        for s in 3..62 {
            assert_eq!(look(&broadcast, s, s.try_into().unwrap()).0, [""; 0]);
        }
        assert_eq!(look(&broadcast, 10, 62).0, ["viewers.peak 61"]);
        assert_eq!(look(&broadcast, 61, 200).0, [""; 0], "no more than ever");
        assert_eq!(look(&broadcast, 70, 201).0, ["viewers.peak 70"]);
        assert_eq!(look(&broadcast, 80, 202).0, [""; 0]);
        let _ = broadcast.end(CloseReason::Unpublished, 203_000);
        let (told, events) = look(&broadcast, 500, 204);
        assert_eq!(told, ["viewers.peak 80", "broadcast.ended"]);
        let body: Value = serde_json::from_str(&events[1].body()).unwrap();
        assert_eq!(
            body,
            json!({"id": format!("{}.ended", broadcast.id()), "time_unix_ms": 204_000, "type": "broadcast.ended",
                "stream": broadcast.stream(), "broadcast": broadcast.id(), "since_unix_ms": broadcast.since_unix_ms(),
                "reason": "unpublished", "ended_unix_ms": 203_000, "peak_viewers": 80})
        );
        assert_eq!(look(&broadcast, 500, 205).0, [""; 0]);
        // After a restart the same is noticed again, under the same ids.
        let again = Watcher::default().look(&broadcast, 0, 300_000);
        assert_eq!(kinds(&again), ["broadcast.live", "broadcast.ended"]);
        assert_eq!(again[1].id(), events[1].id());
    }

    #[test]
    fn what_fails_is_tried_less_and_less_often_and_then_no_more() {
        for random in [0, 128, 255] {
            let (mut now, mut waits) = (0, Vec::new());
            let mut attempts = 1;
            while let Some(at) = again(attempts, 0, now, random) {
                waits.push(at - now);
                (now, attempts) = (at, attempts + 1);
            }
            assert!(waits.is_sorted(), "{waits:?}");
            assert!((4..ATTEMPTS as usize).contains(&waits.len()), "{waits:?}");
            assert!(
                now <= TRIED_FOR_MS && (1_000..=3_000).contains(&waits[0]),
                "{waits:?}"
            );
        }
        assert_eq!(again(ATTEMPTS, 0, 0, 0), None);
        assert_eq!(again(1, 0, TRIED_FOR_MS, 0), None);
        assert!(again(u32::MAX, i64::MIN, i64::MAX, 255).is_none());
    }
}
