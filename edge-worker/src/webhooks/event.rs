//! What webhooks are told: a broadcast went live, it ended, and how many watched at the most. And when what did not arrive is told again.

use std::{fmt, str::FromStr};

use protocol::{
    link::CloseReason,
    names::{BroadcastId, StreamName},
};
use serde::{Deserialize, Serialize};

use crate::live::Broadcast;

/// A stream's peak is told so often at the most, milliseconds; and once more at the end.
pub const PEAK_EVERY_MS: i64 = 60_000;
/// An event is sent for so long at the most, milliseconds, before it is a dead letter.
pub const TRIED_FOR_MS: i64 = 3_600_000;
/// Two attempts are never further apart, milliseconds, however they are spread.
const LONGEST_MS: i64 = 15 * 60_000;
/// Where viewers are asked about now and then, those from before a broadcast's end are asked about for so long after it, milliseconds.
const COUNTED_AFTER_MS: i64 = 5_000;
/// How long a webhook may take to take an event, milliseconds: nobody waits for it.
pub const TELL_DEADLINE_MS: u64 = 10_000;

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

/// The id of an event: `{broadcast}.live`, `{broadcast}.ended` or `{broadcast}.peak-{viewers}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct EventId(String);

/// Not the id of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no id of an event")]
pub struct MalformedEventId;

impl EventId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for EventId {
    type Err = MalformedEventId;

    fn from_str(text: &str) -> Result<Self, MalformedEventId> {
        let (broadcast, kind) = text.split_once('.').ok_or(MalformedEventId)?;
        let number = |viewers: &str| {
            viewers
                .parse::<u64>()
                .is_ok_and(|n| n.to_string() == viewers)
        };
        let known =
            matches!(kind, "live" | "ended") || kind.strip_prefix("peak-").is_some_and(number);
        match known && broadcast.parse::<BroadcastId>().is_ok() {
            true => Ok(Self(text.to_owned())),
            false => Err(MalformedEventId),
        }
    }
}

impl Event {
    /// Its id: the same whenever the same event is noticed, so that a restart makes no second one.
    pub fn id(&self) -> EventId {
        EventId(match self.what {
            What::Live => format!("{}.live", self.broadcast),
            What::Ended { .. } => format!("{}.ended", self.broadcast),
            What::Peak { viewers } => format!("{}.peak-{viewers}", self.broadcast),
        })
    }

    /// What is sent.
    pub fn body(&self) -> String {
        let id = self.id();
        let body = Body {
            id: id.as_str(),
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

/// What was counted of a broadcast, and what of it webhooks are told for sure. It is part of the broadcast's snapshot, so that a restart of
/// the edge neither forgets a peak nor repeats an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// How many watched at one time at the most.
    peak: u64,
    live: bool,
    ended: bool,
    told_peak: u64,
    told_unix_ms: Option<i64>,
}

/// Looks at a broadcast that so many watch, or watched at one time since the last look, and gives what is to be told of it: the same again
/// until it was [`kept`]. One that was never playable never happened.
pub fn look(broadcast: &mut Broadcast, viewers: u64, now_unix_ms: i64) -> Vec<Event> {
    let mut events = Vec::new();
    if !broadcast.is_playable() {
        return events;
    }
    let ended = broadcast.ended();
    // Who watches the rest of one that has ended makes no peak.
    if ended.is_none() {
        watched(broadcast, viewers);
    }
    let told = *broadcast.told();
    let mut tell = |what| {
        events.push(Event {
            stream: broadcast.stream().clone(),
            broadcast: broadcast.id().clone(),
            since_unix_ms: broadcast.since_unix_ms(),
            time_unix_ms: now_unix_ms,
            what,
        });
    };
    if !told.live {
        tell(What::Live);
    }
    if told.ended {
        return events;
    }
    let due = (told.told_unix_ms).is_none_or(|at| now_unix_ms.saturating_sub(at) >= PEAK_EVERY_MS);
    if told.peak > told.told_peak && (due || ended.is_some()) {
        tell(What::Peak { viewers: told.peak });
    }
    if let Some(ended) = ended {
        tell(What::Ended {
            reason: ended.reason,
            ended_unix_ms: ended.at_unix_ms,
            peak_viewers: told.peak,
        });
    }
    events
}

/// Whether who watched lately watched this broadcast: it goes on, or it ended a moment ago and that is not told yet.
pub fn counts(broadcast: &Broadcast, now_unix_ms: i64) -> bool {
    let lately = |at: i64| now_unix_ms.saturating_sub(at) < COUNTED_AFTER_MS;
    broadcast.is_playable()
        && !broadcast.told().ended
        && (broadcast.ended()).is_none_or(|ended| lately(ended.at_unix_ms))
}

/// So many watched it at one time.
pub fn watched(broadcast: &mut Broadcast, viewers: u64) {
    let told = broadcast.told_mut();
    told.peak = told.peak.max(viewers);
}

/// An event is in the table, and told from there: it is not noticed again.
pub fn kept(broadcast: &mut Broadcast, event: &Event) {
    let told = broadcast.told_mut();
    match event.what {
        What::Live => told.live = true,
        What::Ended { .. } => told.ended = true,
        What::Peak { viewers } => {
            told.told_peak = told.told_peak.max(viewers);
            told.told_unix_ms = Some(event.time_unix_ms);
        }
    }
}

/// How often an event is sent, and when: the keys `attempts` and `retry_ms` of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// How often at the most, before it is a dead letter.
    pub attempts: u32,
    /// How long after the first attempt the second one is, milliseconds; each next one four times as long, until two are a quarter of an
    /// hour apart at the most.
    pub first_ms: i64,
}

/// When an event is sent again that has failed so often and happened then; `None` when it is a dead letter. `random` spreads those that
/// failed together: half to one and a half times the wait.
pub fn again(
    retries: Retries,
    attempts: u32,
    created_unix_ms: i64,
    now_unix_ms: i64,
    random: u8,
) -> Option<i64> {
    let wait = (retries.first_ms)
        .saturating_mul(4_i64.saturating_pow(attempts.saturating_sub(1)))
        .min(LONGEST_MS / 3 * 2);
    let wait = wait / 2 + wait * i64::from(random) / 255;
    let at = now_unix_ms.saturating_add(wait);
    (attempts < retries.attempts && at.saturating_sub(created_unix_ms) <= TRIED_FOR_MS)
        .then_some(at)
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
            assert_eq!(body["id"], event.id().as_str());
            assert_eq!(event.id().as_str().parse(), Ok(event.id()));
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
        assert!(look(&mut broadcast, 5, 0).is_empty(), "nothing to see yet");
        for message in &messages[1..] {
            let _ = broadcast.apply(message, 0).unwrap();
        }
        broadcast
    }

    #[test]
    fn a_broadcast_goes_live_once_peaks_are_told_once_a_minute_and_the_end_has_the_last() {
        let mut broadcast = playable();
        let look_at = |broadcast: &mut Broadcast, viewers, s: i64| {
            let events = look(broadcast, viewers, s * 1_000);
            for event in &events {
                kept(broadcast, event);
            }
            (kinds(&events), events)
        };
        assert_eq!(look_at(&mut broadcast, 0, 1).0, ["broadcast.live"]);
        assert_eq!(look_at(&mut broadcast, 3, 2).0, ["viewers.peak 3"]);
        for s in 3..62 {
            let told = look_at(&mut broadcast, s, s.try_into().unwrap()).0;
            assert_eq!(told, [""; 0]);
        }
        assert_eq!(look_at(&mut broadcast, 10, 62).0, ["viewers.peak 61"]);
        assert_eq!(
            look_at(&mut broadcast, 61, 200).0,
            [""; 0],
            "no more than ever"
        );
        assert_eq!(look_at(&mut broadcast, 70, 201).0, ["viewers.peak 70"]);
        assert_eq!(look_at(&mut broadcast, 80, 202).0, [""; 0]);
        let _ = broadcast.end(CloseReason::Unpublished, 203_000);
        let (told, events) = look_at(&mut broadcast, 500, 204);
        assert_eq!(told, ["viewers.peak 80", "broadcast.ended"]);
        let body: Value = serde_json::from_str(&events[1].body()).unwrap();
        assert_eq!(
            body,
            json!({"id": format!("{}.ended", broadcast.id()), "time_unix_ms": 204_000, "type": "broadcast.ended",
                "stream": broadcast.stream(), "broadcast": broadcast.id(), "since_unix_ms": broadcast.since_unix_ms(),
                "reason": "unpublished", "ended_unix_ms": 203_000, "peak_viewers": 80})
        );
        assert_eq!(look_at(&mut broadcast, 500, 205).0, [""; 0]);
    }

    #[test]
    fn what_was_counted_and_kept_lasts_over_a_restart_and_what_was_not_is_noticed_again() {
        let mut broadcast = playable();
        let live = look(&mut broadcast, 80, 1_000);
        assert_eq!(kinds(&live), ["broadcast.live", "viewers.peak 80"]);
        // Nothing of it was kept: it is the same again, under the same ids.
        let again = look(&mut broadcast, 7, 1_500);
        assert_eq!(kinds(&again), kinds(&live));
        for event in &again {
            kept(&mut broadcast, event);
        }
        assert_eq!(kinds(&look(&mut broadcast, 90, 2_000)), [""; 0], "not due");
        let snapshot = broadcast.snapshot().unwrap();
        let mut after = Broadcast::restore(&snapshot, 3_000).unwrap();
        // Its viewers come back one by one.
        assert_eq!(kinds(&look(&mut after, 2, 3_000)), [""; 0]);
        let told = look(&mut after, 5, 1_500 + PEAK_EVERY_MS);
        assert_eq!(kinds(&told), ["viewers.peak 90"]);
        let _ = after.end(CloseReason::Lost, 70_000);
        let told = look(&mut after, 5, 70_000);
        assert_eq!(kinds(&told), ["viewers.peak 90", "broadcast.ended"]);
        assert!(told[1].body().contains(r#""peak_viewers":90"#));
        // A snapshot from before there was any of this.
        let mut old: Value = serde_json::from_slice(&snapshot).unwrap();
        old.as_object_mut().unwrap().remove("told").unwrap();
        let mut old = Broadcast::restore(old.to_string().as_bytes(), 0).unwrap();
        assert_eq!(kinds(&look(&mut old, 0, 0)), ["broadcast.live"]);
    }

    #[test]
    fn an_id_is_one_of_a_broadcast_and_nothing_else() {
        let broadcast = playable().id().to_string();
        for good in ["live", "ended", "peak-0", "peak-18446744073709551615"] {
            let id = format!("{broadcast}.{good}");
            assert_eq!(id.parse::<EventId>().unwrap().to_string(), id);
        }
        for bad in ["", ".live", "x.live", "%.live", "resend"] {
            assert!(bad.parse::<EventId>().is_err(), "{bad}");
        }
        for bad in [
            "",
            "Live",
            "live.",
            "peak-",
            "peak-01",
            "peak-+1",
            "peak-99999999999999999999",
        ] {
            assert!(
                format!("{broadcast}.{bad}").parse::<EventId>().is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn what_fails_is_tried_less_and_less_often_and_then_no_more() {
        const RETRIES: Retries = Retries {
            attempts: 8,
            first_ms: 2_000,
        };
        for random in [0, 128, 255] {
            let (mut now, mut waits) = (0, Vec::new());
            let mut attempts = 1;
            while let Some(at) = again(RETRIES, attempts, 0, now, random) {
                waits.push(at - now);
                (now, attempts) = (at, attempts + 1);
            }
            assert!(waits.is_sorted(), "{waits:?}");
            assert!(*waits.last().unwrap() <= LONGEST_MS, "{waits:?}");
            assert!((4..8).contains(&waits.len()), "{waits:?}");
            assert!(
                now <= TRIED_FOR_MS && (1_000..=3_000).contains(&waits[0]),
                "{waits:?}"
            );
        }
        assert_eq!(again(RETRIES, 8, 0, 0, 0), None);
        assert_eq!(again(RETRIES, 1, 0, TRIED_FOR_MS, 0), None);
        assert!(again(RETRIES, u32::MAX, i64::MIN, i64::MAX, 255).is_none());
        let most = Retries {
            attempts: u32::MAX,
            first_ms: i64::MAX,
        };
        let waits = [0, 128, 255].map(|random| again(most, 40, 0, 0, random).unwrap());
        assert!(waits[0] < waits[1] && waits[1] < waits[2], "{waits:?}");
        assert_eq!(waits[2], LONGEST_MS);
        let once = Retries {
            attempts: 1,
            ..RETRIES
        };
        assert_eq!(again(once, 1, 0, 0, 0), None);
    }
}
