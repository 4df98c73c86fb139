#![allow(clippy::unwrap_used, clippy::expect_used)]
//! The timeline from outside: link messages in, playlists out, each read by the linter.

use std::collections::BTreeMap;

use proptest::prelude::*;
use protocol::{
    link::{CloseReason, Numbered, Opened, Part, Segment, ToEdge, Track, TrackKind},
    names::{BroadcastId, Tag},
    object_key::ObjectKey,
};

use super::{
    source::{EPOCH, Source},
    *,
};
use crate::playlist::{Text, lint, render};

/// Applies messages as an adapter does, storing at once.
fn apply_all(broadcast: &mut Option<Broadcast>, messages: &[Numbered], now: i64) {
    for message in messages {
        let applied = match broadcast {
            None => {
                let (new, applied) = Broadcast::begin(message, now).unwrap();
                *broadcast = Some(new);
                applied
            }
            Some(broadcast) => {
                assert!(
                    !broadcast.needs_store_before(&message.message),
                    "{message:?} waits for the store"
                );
                broadcast
                    .apply(message, now)
                    .unwrap_or_else(|e| panic!("{message:?}: {e}"))
            }
        };
        if applied.store {
            let broadcast = broadcast.as_mut().unwrap();
            broadcast.stored(broadcast.seq(), broadcast.reserved_msn());
        }
    }
}

fn playlists(broadcast: &Broadcast) -> BTreeMap<String, String> {
    let tracks = broadcast.tracks().iter().enumerate();
    let text = |track| render(broadcast, Text::Media { track, skip: false });
    tracks
        .map(|(i, t)| (t.name().to_string(), text(i)))
        .collect()
}

/// Every text of the broadcast is sound.
fn assert_sound(broadcast: &Broadcast) {
    let texts = playlists(broadcast);
    for text in texts.values() {
        assert_eq!(lint::media(text), Vec::<String>::new(), "\n{text}");
    }
    for index in 0..broadcast.tracks().len() {
        let full = render(
            broadcast,
            Text::Media {
                track: index,
                skip: false,
            },
        );
        let delta = render(
            broadcast,
            Text::Media {
                track: index,
                skip: true,
            },
        );
        if delta != full {
            assert_eq!(
                lint::delta(&full, &delta),
                Vec::<String>::new(),
                "\n{full}\n{delta}"
            );
        }
    }
    assert_eq!(lint::renditions(&texts), Vec::<String>::new(), "{texts:#?}");
    if !broadcast.tracks().is_empty() {
        let text = render(broadcast, Text::Multivariant);
        assert_eq!(lint::multivariant(&text), Vec::<String>::new(), "\n{text}");
    }
    let mpd = render(broadcast, Text::Dash);
    assert_mpd(broadcast, &mpd);
}

/// In the MPD every number stands for the segment with that media sequence number, at its time.
fn assert_mpd(broadcast: &Broadcast, mpd: &str) {
    let attribute = |line: &str, name: &str| -> Option<String> {
        let from = line.find(&format!(" {name}=\""))? + name.len() + 3;
        Some(line[from..].split('"').next()?.to_owned())
    };
    let mut last_period_end = 0.0_f64;
    let (mut track, mut number, mut time, mut timescale): (Option<&LiveTrack>, u64, i64, u32) =
        (None, 0, 0, 1);
    for line in mpd.lines() {
        if line.contains("<Period ") {
            let seconds = |name| {
                attribute(line, name)
                    .map(|v| v.trim_matches(['P', 'T', 'S']).parse::<f64>().unwrap())
            };
            let start = seconds("start").unwrap();
            assert!(
                start + 0.001 >= last_period_end - 0.5,
                "Periods overlap: {line}"
            );
            last_period_end = start + seconds("duration").unwrap_or(0.0);
        }
        if line.contains("<Representation ") {
            let name = attribute(line, "id").unwrap().parse().unwrap();
            track = broadcast.track(&name).map(|(_, t)| t);
        }
        if line.contains("<SegmentTemplate ") {
            number = attribute(line, "startNumber").unwrap().parse().unwrap();
            timescale = attribute(line, "timescale").unwrap().parse().unwrap();
        }
        if line.contains("<S ") {
            let track = track.unwrap();
            let d: i64 = attribute(line, "d").unwrap().parse().unwrap();
            let r: i64 = attribute(line, "r").map_or(0, |r| r.parse().unwrap());
            time = attribute(line, "t").map_or(time, |t| t.parse().unwrap());
            for _ in 0..=r {
                match track.segment(number) {
                    Some(segment) => assert_eq!(
                        (
                            segment.start.max(0),
                            segment.duration as i64,
                            segment.timescale
                        ),
                        (time, d, timescale),
                        "number {number} of {}\n{mpd}",
                        track.name()
                    ),
                    None => assert_eq!(
                        number,
                        track.next_msn(),
                        "number {number} is no segment\n{mpd}"
                    ),
                }
                number += 1;
                time += d;
            }
        }
    }
}

fn live(segments: usize) -> (Source, Broadcast) {
    let mut source = Source::new();
    let mut broadcast = None;
    apply_all(&mut broadcast, &source.open(), EPOCH);
    for _ in 0..segments {
        let messages = source.segment(6, 0, false);
        apply_all(&mut broadcast, &messages, EPOCH + source.at_ms);
    }
    (source, broadcast.unwrap())
}

#[test]
fn a_broadcast_of_many_windows_stays_sound_and_small() {
    let mut source = Source::new();
    let mut broadcast = None;
    apply_all(&mut broadcast, &source.open(), EPOCH);
    for n in 0..100 {
        if n % 17 == 5 {
            let messages = source.discontinuity(700);
            apply_all(&mut broadcast, &messages, EPOCH + source.at_ms);
        }
        let before = playlists(broadcast.as_ref().unwrap());
        let messages = source.segment(5 + n % 3, u64::from(n) % 200, n % 23 == 9);
        for message in &messages {
            apply_all(
                &mut broadcast,
                std::slice::from_ref(message),
                EPOCH + source.at_ms,
            );
        }
        let broadcast = broadcast.as_ref().unwrap();
        for (name, after) in playlists(broadcast) {
            assert_eq!(
                lint::update(&before[&name], &after),
                Vec::<String>::new(),
                "\n{}\n{after}",
                before[&name]
            );
        }
        assert_sound(broadcast);
    }
    let broadcast = broadcast.unwrap();
    let window: i64 = broadcast.tracks()[0]
        .segments()
        .map(ListedSegment::duration_us)
        .sum();
    assert!(
        (60_000_000..65_000_000).contains(&window),
        "{window} µs are listed"
    );
    assert!(broadcast.snapshot().unwrap().len() < 120_000);
    assert_eq!(
        Broadcast::restore(&broadcast.snapshot().unwrap(), 0)
            .unwrap()
            .snapshot()
            .unwrap()
            .len(),
        broadcast.snapshot().unwrap().len()
    );
}

#[test]
fn a_replay_changes_nothing() {
    let mut source = Source::new();
    let mut messages = source.open();
    for _ in 0..5 {
        messages.extend(source.segment(6, 100, false));
    }
    let mut broadcast = None;
    apply_all(&mut broadcast, &messages, EPOCH);
    let once = broadcast.clone().unwrap();
    let broadcast = broadcast.as_mut().unwrap();
    for message in &messages {
        assert_eq!(
            broadcast.apply(message, EPOCH + 9).unwrap(),
            Applied::NOTHING
        );
    }
    assert_eq!(*broadcast, once);
}

#[test]
fn nonsense_is_refused_and_leaves_the_state_as_it_was() {
    let (source, broadcast) = live(3);
    let good = {
        let mut source = source.clone();
        source.segment(6, 0, false)
    };
    let ToEdge::Part(part) = good[0].message.clone() else {
        panic!("a part comes first")
    };
    let ToEdge::Segment(segment) = good
        .iter()
        .find_map(|m| match &m.message {
            ToEdge::Segment(_) => Some(m.message.clone()),
            _ => None,
        })
        .unwrap()
    else {
        panic!("there is a segment")
    };
    let ToEdge::Track(track) = source.clone().announce()[0].message.clone() else {
        panic!("a track comes first")
    };
    let foreign = |mut key: ObjectKey| {
        key.broadcast = BroadcastId::from_random([9; 16]);
        key
    };
    let nonsense = vec![
        ToEdge::Part(Part {
            track: "v-nobody".parse().unwrap(),
            ..part.clone()
        }),
        ToEdge::Part(Part {
            msn: part.msn + 1,
            ..part.clone()
        }),
        ToEdge::Part(Part {
            msn: part.msn - 1,
            ..part.clone()
        }),
        ToEdge::Part(Part {
            msn: u64::MAX,
            ..part.clone()
        }),
        ToEdge::Part(Part {
            part: 1,
            ..part.clone()
        }),
        ToEdge::Part(Part {
            part: u32::MAX,
            ..part.clone()
        }),
        ToEdge::Part(Part {
            duration: 0,
            ..part.clone()
        }),
        ToEdge::Part(Part {
            duration: 90_000,
            ..part.clone()
        }),
        ToEdge::Part(Part {
            duration: u64::MAX,
            ..part.clone()
        }),
        ToEdge::Part(Part {
            start: i64::MAX,
            ..part.clone()
        }),
        ToEdge::Part(Part {
            start: i64::MIN,
            ..part.clone()
        }),
        ToEdge::Part(Part {
            size: 0,
            ..part.clone()
        }),
        ToEdge::Part(Part {
            size: u64::MAX,
            ..part.clone()
        }),
        ToEdge::Part(Part {
            key: foreign(part.key.clone()),
            ..part.clone()
        }),
        ToEdge::Part(Part {
            next: foreign(part.next.clone()),
            ..part.clone()
        }),
        ToEdge::Part(Part {
            next: part.key.clone(),
            ..part.clone()
        }),
        ToEdge::Segment(Segment {
            duration: u64::MAX,
            key: None,
            ..segment.clone()
        }),
        ToEdge::Segment(Segment {
            duration: 0,
            key: None,
            ..segment.clone()
        }),
        // Complete without a part.
        ToEdge::Segment(segment.clone()),
        ToEdge::Track(Track {
            timescale: 0,
            ..track.clone()
        }),
        ToEdge::Track(Track {
            part_target: 0,
            ..track.clone()
        }),
        ToEdge::Track(Track {
            part_target: u64::MAX,
            ..track.clone()
        }),
        ToEdge::Track(Track {
            codecs: "a\"\n#EXT".into(),
            ..track.clone()
        }),
        ToEdge::Track(Track {
            from_msn: 0,
            ..track.clone()
        }),
        ToEdge::Track(Track {
            from_msn: 99,
            ..track.clone()
        }),
        ToEdge::Track(Track {
            name: "v-late".parse().unwrap(),
            ..track.clone()
        }),
        ToEdge::Track(Track {
            init: foreign(track.init.clone()),
            ..track.clone()
        }),
        ToEdge::Track(Track {
            kind: TrackKind::Audio {
                sample_rate: 1,
                channels: 1,
            },
            ..track.clone()
        }),
        ToEdge::Discontinuity { msn: 1 },
        ToEdge::Discontinuity { msn: u64::MAX },
        ToEdge::Opened(Opened {
            stream: "demo".parse().unwrap(),
            broadcast: broadcast.id().clone(),
            epoch_unix_ms: EPOCH,
            first_msn: 0,
            window_s: 60,
        }),
        ToEdge::Opened(Opened {
            stream: "demo".parse().unwrap(),
            broadcast: broadcast.id().clone(),
            epoch_unix_ms: EPOCH,
            first_msn: 99,
            window_s: 60,
        }),
        ToEdge::Opened(Opened {
            stream: "other".parse().unwrap(),
            broadcast: broadcast.id().clone(),
            epoch_unix_ms: EPOCH,
            first_msn: 3,
            window_s: 60,
        }),
        ToEdge::Opened(Opened {
            stream: "demo".parse().unwrap(),
            broadcast: broadcast.id().clone(),
            epoch_unix_ms: EPOCH,
            first_msn: 3,
            window_s: 0,
        }),
    ];
    for message in nonsense {
        let mut after = broadcast.clone();
        let numbered = Numbered {
            seq: source.seq + 1,
            message,
        };
        let refused = after.apply(&numbered, EPOCH);
        assert!(refused.is_err(), "{numbered:?} was accepted");
        assert_eq!(after, broadcast, "{numbered:?} changed the state");
    }
    let hole = Numbered {
        seq: source.seq + 2,
        message: good[0].message.clone(),
    };
    assert!(matches!(
        broadcast.clone().apply(&hole, EPOCH),
        Err(ApplyError::SeqHole { .. })
    ));
    let unnumbered = Numbered {
        seq: 0,
        message: good[0].message.clone(),
    };
    assert_eq!(
        broadcast.clone().apply(&unnumbered, EPOCH),
        Err(ApplyError::Unnumbered)
    );
}

#[test]
fn one_track_cannot_run_away_from_the_others() {
    let (source, broadcast) = live(2);
    let mut broadcast = broadcast;
    let mut seq = source.seq;
    let mut source = source.clone();
    let mut refused = None;
    for _ in 0..30 {
        for message in source.segment(6, 0, false) {
            let name = match &message.message {
                ToEdge::Part(p) => &p.track,
                ToEdge::Segment(s) => &s.track,
                _ => continue,
            };
            if name.as_str() != "v-720p30" || refused.is_some() {
                continue;
            }
            seq += 1;
            refused = broadcast
                .apply(
                    &Numbered {
                        seq,
                        message: message.message.clone(),
                    },
                    EPOCH,
                )
                .err();
        }
    }
    assert!(matches!(refused, Some(ApplyError::Lead(_))), "{refused:?}");
    assert!(broadcast.tracks()[0].segments().len() <= 20);
}

#[test]
fn a_first_part_waits_for_the_snapshot_that_reserves_its_segment() {
    let mut source = Source::new();
    let messages = source.open();
    let (mut broadcast, applied) = Broadcast::begin(&messages[0], EPOCH).unwrap();
    assert!(applied.store);
    for message in &messages[1..] {
        assert!(broadcast.apply(message, EPOCH).unwrap().store);
    }
    let segment = source.segment(3, 0, false);
    assert!(
        broadcast.needs_store_before(&segment[0].message),
        "no snapshot has the tracks"
    );
    broadcast.stored(broadcast.seq(), broadcast.reserved_msn());
    let mut stores = 0;
    for message in &segment {
        assert!(!broadcast.needs_store_before(&message.message));
        let applied = broadcast.apply(message, EPOCH).unwrap();
        // Never between a part's event and its wake-up.
        assert!(!(applied.store && matches!(message.message, ToEdge::Part(_))));
        stores += usize::from(applied.store);
    }
    assert_eq!(stores, 1, "a segment is stored once");
    let next = source.segment(3, 0, false);
    assert!(broadcast.needs_store_before(&next[0].message));
    broadcast.stored(broadcast.seq(), broadcast.reserved_msn());
    assert!(!broadcast.needs_store_before(&next[0].message));
}

/// Where the crash comes, and what the playlist must say of it.
#[test]
fn after_a_crash_the_unfinished_segment_is_a_gap_and_no_number_comes_back() {
    // (parts of the running segment applied, whether the edge crashes too, gaps, next number)
    for (parts, edge_too, gaps, next) in [
        (0, false, 0, 3),
        (7, false, 1, 4),
        (0, true, 1, 4),
        (7, true, 1, 4),
    ] {
        let (mut source, broadcast) = live(3);
        let mut stored = broadcast.snapshot().unwrap();
        let mut state = Some(broadcast);
        let running = source.clone().segment(6, 0, false);
        for message in &running[..parts] {
            apply_all(&mut state, std::slice::from_ref(message), EPOCH);
        }
        let mut broadcast = state.unwrap();
        let before = playlists(&broadcast);
        broadcast.link_gone(EPOCH);
        if edge_too {
            // What the store has is from the end of the last segment: see `live`, which stores whenever it is asked to.
            stored = {
                let (_, at_end) = live(3);
                drop(stored);
                at_end.snapshot().unwrap()
            };
            broadcast = Broadcast::restore(&stored, EPOCH).unwrap();
        }
        let resume = broadcast
            .resume(EPOCH + 29_000)
            .expect("it is not too late");
        assert_eq!(resume.next_msn, next, "parts {parts}, edge too {edge_too}");
        assert!(broadcast.resume(EPOCH + 30_001).is_none(), "it is too late");

        source.seq = resume.seq;
        source.msn = resume.next_msn;
        source.at_ms = resume.end_ms + 12_000;
        broadcast.link_connected();
        assert!(broadcast.resume(EPOCH).is_none(), "its link is connected");
        let mut state = Some(broadcast);
        let messages = source.open();
        apply_all(&mut state, &messages, EPOCH);
        let messages = source.segment(6, 0, false);
        apply_all(&mut state, &messages, EPOCH);
        let broadcast = state.unwrap();
        assert_sound(&broadcast);
        for (name, text) in playlists(&broadcast) {
            assert_eq!(
                text.matches("#EXT-X-GAP\n").count(),
                gaps,
                "{name}, parts {parts}, edge too {edge_too}\n{text}"
            );
            assert_eq!(text.matches("#EXT-X-DISCONTINUITY\n").count(), 1, "{text}");
            if parts == 0 || !edge_too {
                assert_eq!(lint::update(&before[&name], &text), Vec::<String>::new());
            }
        }
        let mpd = render(&broadcast, Text::Dash);
        assert_eq!(mpd.matches("<Period ").count(), 2, "{mpd}");
        assert!(mpd.contains(&format!("<Period id=\"p{next}\"")), "{mpd}");
    }
}

#[test]
fn a_track_must_be_announced_again_after_a_restart() {
    let (mut source, mut broadcast) = live(2);
    broadcast.link_gone(EPOCH);
    source.seq = broadcast.seq();
    let opened = source.open().remove(0);
    let _ = broadcast.apply(&opened, EPOCH).unwrap();
    let part = source.segment(3, 0, false).remove(0);
    let early = Numbered {
        seq: broadcast.seq() + 1,
        message: part.message,
    };
    assert!(matches!(
        broadcast.apply(&early, EPOCH),
        Err(ApplyError::UnknownTrack(_))
    ));
}

#[test]
fn the_edge_ends_a_broadcast_that_nobody_takes_up() {
    let (_, mut broadcast) = live(3);
    assert_eq!(
        broadcast.tick(EPOCH + 900_000),
        Applied::NOTHING,
        "its link is connected"
    );
    broadcast.link_gone(EPOCH);
    assert_eq!(broadcast.tick(EPOCH + 35_000), Applied::NOTHING);
    assert_eq!(broadcast.tick(EPOCH + 35_001).wake, Wake::All);
    assert_eq!(broadcast.ended().unwrap().reason, CloseReason::Lost);
    assert!(
        playlists(&broadcast)
            .values()
            .all(|t| t.ends_with("#EXT-X-ENDLIST\n"))
    );
    assert!(!broadcast.is_expired(EPOCH + 35_001 + 120_000));
    assert!(broadcast.is_expired(EPOCH + 35_001 + 120_001));
}

#[test]
fn a_broadcast_closed_in_mid_segment_ends_at_its_last_whole_segment() {
    let (mut source, broadcast) = live(3);
    let mut state = Some(broadcast);
    let running = source.segment(6, 0, false);
    apply_all(&mut state, &running[..8], EPOCH);
    source.seq = state.as_ref().unwrap().seq();
    let close = source.close();
    apply_all(&mut state, &[close], EPOCH);
    let broadcast = state.unwrap();
    assert_sound(&broadcast);
    assert!(
        playlists(&broadcast)
            .values()
            .all(|t| t.ends_with("#EXT-X-ENDLIST\n") && !t.contains("PRELOAD-HINT"))
    );
    assert!(render(&broadcast, Text::Dash).contains("mediaPresentationDuration=\"PT5.994S\""));
    let late = Numbered {
        seq: broadcast.seq() + 1,
        message: running[9].message.clone(),
    };
    assert_eq!(
        broadcast.clone().apply(&late, EPOCH),
        Err(ApplyError::Ended)
    );
}

#[test]
fn only_announced_objects_are_known_and_only_the_next_part_is_worth_waiting_for() {
    let (mut source, broadcast) = live(2);
    let track = &broadcast.tracks()[0];
    let hint = track.hint().unwrap().clone();
    assert_eq!(broadcast.object(&hint), ObjectAnswer::Hinted(0));
    assert_eq!(
        broadcast.object(&track.config().init),
        ObjectAnswer::Announced
    );
    let segment = track.segment(1).unwrap();
    assert_eq!(
        broadcast.object(segment.key.as_ref().unwrap()),
        ObjectAnswer::Announced
    );
    assert_eq!(
        broadcast.object(&segment.parts[3].key),
        ObjectAnswer::Announced
    );
    let mut guessed = segment.parts[3].key.clone();
    guessed.tag = Tag::from_random([0xee; 12]);
    assert_eq!(broadcast.object(&guessed), ObjectAnswer::Unknown);
    // What left the window is known for two windows more.
    let old = segment.key.clone().unwrap();
    let mut state = Some(broadcast);
    for n in 0..100 {
        let messages = source.segment(6, 0, false);
        apply_all(&mut state, &messages, EPOCH + n * 2_000);
        if n == 80 {
            assert_eq!(
                state.as_ref().unwrap().object(&old),
                ObjectAnswer::Announced
            );
        }
    }
    assert_eq!(state.unwrap().object(&old), ObjectAnswer::Unknown);
}

#[test]
fn a_segment_by_number_is_complete_running_next_or_nothing() {
    let (mut source, broadcast) = live(3);
    let mut state = Some(broadcast);
    assert!(matches!(
        state.as_ref().unwrap().segment(0, 3),
        SegmentAnswer::Next
    ));
    let running = source.segment(6, 0, false);
    apply_all(&mut state, &running[..3], EPOCH);
    let broadcast = state.unwrap();
    assert!(matches!(broadcast.segment(0, 2), SegmentAnswer::Complete(s) if s.msn == 2));
    assert!(matches!(broadcast.segment(0, 3), SegmentAnswer::Running(parts) if parts.len() == 1));
    assert!(matches!(broadcast.segment(0, 4), SegmentAnswer::Next));
    assert!(matches!(broadcast.segment(0, 5), SegmentAnswer::Unknown));
    assert!(matches!(broadcast.segment(9, 2), SegmentAnswer::Unknown));
}

#[test]
fn the_box_s_clock_is_known_from_its_heartbeats() {
    let (_, mut broadcast) = live(1);
    assert_eq!(broadcast.clock_offset_ms(), None);
    for (clock, now, offset) in [
        (1_000, 900, 100),
        (2_000, 1_950, 99),
        (3_000, 2_800, 200),
        (500_000, 2_900, 497_100),
    ] {
        let beat = Numbered {
            seq: 0,
            message: ToEdge::Heartbeat {
                clock_unix_ms: clock,
                publisher: None,
            },
        };
        assert_eq!(broadcast.apply(&beat, now).unwrap(), Applied::NOTHING);
        assert_eq!(broadcast.clock_offset_ms(), Some(offset));
    }
}

/// What a box does between two segments.
#[derive(Debug, Clone)]
enum Step {
    Segment {
        parts: u32,
        last_ms: u64,
        lost: bool,
    },
    Discontinuity {
        gap_ms: i64,
    },
    /// The link is cut and everything since the last snapshot comes again.
    Replay,
    /// The edge restarts from its snapshot, and everything since comes again.
    EdgeRestart,
    /// media-core restarts in mid-segment, the edge too or not.
    CoreRestart {
        parts: usize,
        edge_too: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1_u32..12, 0_u64..333, prop::bool::weighted(0.1)).prop_map(|(parts, last_ms, lost)| Step::Segment { parts, last_ms, lost }),
        1 => (0_i64..20_000).prop_map(|gap_ms| Step::Discontinuity { gap_ms }),
        1 => Just(Step::Replay),
        1 => Just(Step::EdgeRestart),
        1 => (0_usize..18, any::<bool>()).prop_map(|(parts, edge_too)| Step::CoreRestart { parts, edge_too }),
    ];
    prop::collection::vec(step, 1..50)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_playlists_stay_sound_and_only_grow_at_their_end(steps in steps()) {
        let mut source = Source::new();
        let mut state = None;
        let mut unstored = source.open();
        apply_all(&mut state, &unstored, EPOCH);
        let mut snapshot = state.as_ref().unwrap().snapshot().unwrap();
        let mut shown: Option<BTreeMap<String, String>> = None;
        for step in steps {
            let mut messages = Vec::new();
            match step {
                Step::Segment { parts, last_ms, lost } => messages = source.segment(parts, last_ms, lost),
                Step::Discontinuity { gap_ms } => messages = source.discontinuity(gap_ms),
                Step::Replay => {
                    let all = unstored.clone();
                    apply_all(&mut state, &all, EPOCH);
                }
                Step::EdgeRestart => {
                    state = Some(Broadcast::restore(&snapshot, EPOCH).unwrap());
                    let all = unstored.clone();
                    apply_all(&mut state, &all, EPOCH);
                }
                Step::CoreRestart { parts, edge_too } => {
                    let half = source.segment(6, 0, false);
                    let parts = parts.min(half.len());
                    apply_all(&mut state, &half[..parts], EPOCH);
                    let mut broadcast = match edge_too {
                        true => Broadcast::restore(&snapshot, EPOCH).unwrap(),
                        false => state.take().unwrap(),
                    };
                    broadcast.link_gone(EPOCH);
                    let resume = broadcast.resume(EPOCH + 1_000).unwrap();
                    prop_assert!(resume.next_msn >= source.msn - u64::from(parts == 0));
                    source.seq = resume.seq;
                    source.msn = resume.next_msn;
                    source.at_ms = source.at_ms.max(resume.end_ms) + 3_000;
                    broadcast.stored(broadcast.seq(), broadcast.reserved_msn());
                    broadcast.link_connected();
                    state = Some(broadcast);
                    unstored.clear();
                    messages = source.open();
                    if edge_too {
                        // Parts since the snapshot are gone from the texts: nothing to compare with.
                        shown = None;
                    }
                }
            }
            for message in messages {
                let stores_before = state.as_ref().unwrap().stored_seq();
                unstored.push(message.clone());
                apply_all(&mut state, &[message], EPOCH);
                let broadcast = state.as_ref().unwrap();
                if broadcast.stored_seq() != stores_before {
                    snapshot = broadcast.snapshot().unwrap();
                    unstored.retain(|m| m.seq > broadcast.stored_seq());
                }
            }
            let broadcast = state.as_ref().unwrap();
            if broadcast.is_playable() {
                assert_sound(broadcast);
                let texts = playlists(broadcast);
                if let Some(before) = &shown {
                    for (name, text) in &texts {
                        prop_assert_eq!(lint::update(&before[name], text), Vec::<String>::new(), "\n{}\n{}", before[name], text);
                    }
                }
                shown = Some(texts);
            }
        }
    }

    #[test]
    fn any_message_at_all_is_applied_or_refused_and_everything_renders(
        messages in prop::collection::vec((0_usize..9, any::<u64>(), any::<i64>(), 0_u64..8, 0_u32..8), 1..80),
    ) {
        let (source, mut broadcast) = live(2);
        let good = {
            let mut source = source.clone();
            source.segment(3, 0, false)
        };
        for (which, big, time, msn, part) in messages {
            let mut message = good[which % good.len()].message.clone();
            match &mut message {
                ToEdge::Part(p) => {
                    p.part = part;
                    p.msn = msn;
                    if big % 3 == 0 { p.duration = big; }
                    if big % 5 == 0 { p.start = time; }
                    if big % 7 == 0 { p.size = big; }
                }
                ToEdge::Segment(s) => {
                    s.msn = msn;
                    if big % 3 == 0 { s.duration = big; }
                    if big % 5 == 0 { s.start = time; }
                    if big % 2 == 0 { s.key = None; }
                }
                _ => {}
            }
            if big % 11 == 0 {
                message = ToEdge::Discontinuity { msn };
            }
            let before = broadcast.clone();
            let seq = broadcast.seq() + 1;
            if broadcast.apply(&Numbered { seq, message }, time).is_err() {
                prop_assert_eq!(&broadcast, &before);
            }
            for track in 0..broadcast.tracks().len() {
                let _ = render(&broadcast, Text::Media { track, skip: true });
            }
            let _ = render(&broadcast, Text::Multivariant);
            let _ = render(&broadcast, Text::Dash);
        }
    }

    #[test]
    fn any_snapshot_is_restored_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Broadcast::restore(&bytes, 0);
    }
}
