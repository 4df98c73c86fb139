#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

const PARTS: u32 = 4;

fn queue(limits: Limits) -> Queue {
    let opened = Opened {
        stream: "demo".parse().unwrap(),
        broadcast: protocol::names::BroadcastId::from_random([1; 16]),
        epoch_unix_ms: 0,
        first_msn: 0,
        window_s: 60,
    };
    let mut n = 0u64;
    let tag = move || {
        n += 1;
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        Tag::from_random(bytes)
    };
    Queue::new(opened, limits, Box::new(tag))
}

fn announcement(track: &str, from_msn: u64) -> TrackAnnouncement {
    TrackAnnouncement {
        name: track.parse().unwrap(),
        kind: TrackKind::Audio {
            sample_rate: 48_000,
            channels: 2,
        },
        codecs: "mp4a.40.2".into(),
        timescale: 1_000,
        part_target: 1_000,
        nominal_bps: 1,
        init: Bytes::from_static(b"init"),
        from_msn,
    }
}

fn chunk(track: &str, msn: u64, part: u32, known_last: bool, size: usize) -> PartChunk {
    PartChunk {
        track: track.parse().unwrap(),
        msn,
        part,
        start: 0,
        duration: 1_000,
        independent: true,
        last_of_segment: known_last && part + 1 == PARTS,
        data: vec![msn as u8; size].into(),
    }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Does every job at once and gives the messages and the keys deleted.
fn settle(queue: &mut Queue, now: Duration) -> (Vec<ToEdge>, Vec<ObjectKey>) {
    let (mut messages, mut deleted) = (Vec::new(), Vec::new());
    loop {
        while let Some(job) = queue.next_job(now) {
            match job {
                Job::Put(put) => queue.put_done(put.id, now),
                Job::Spool { file, part, .. } => queue.spooled(&file, part),
                Job::Unspool(_) => queue.unspooled(),
                Job::Delete { key, failures } => {
                    deleted.push(key.clone());
                    queue.deleted(key, failures, true, now);
                }
            }
        }
        match queue.next_message(now) {
            Some(message) => messages.push(message),
            None => return (messages, deleted),
        }
    }
}

#[test]
fn objects_go_two_windows_after_they_left_the_playlist_parts_and_segments_each_in_their_time() {
    let mut queue = queue(Limits::default());
    queue.track(announcement("a-x", 0)).unwrap();
    let mut gone: BTreeMap<(u64, bool), u64> = BTreeMap::new();
    for second in 0..800u64 {
        let (msn, part) = (second / 4, (second % 4) as u32);
        queue.part(chunk("a-x", msn, part, true, 10)).unwrap();
        if part + 1 == PARTS {
            let track = "a-x".parse().unwrap();
            queue.segment(&track, msn, 0, 4_000).unwrap();
        }
        for key in settle(&mut queue, seconds(second)).1 {
            match key.kind {
                ObjectKind::Part { msn, .. } => drop(gone.insert((msn, true), second)),
                ObjectKind::Segment { msn } => drop(gone.insert((msn, false), second)),
                ObjectKind::Init { .. } => panic!("the header is still needed"),
            }
        }
    }
    // Segment n ends at second 4n + 3. Parts are listed for 12 s more, segments for 60 s; then two windows of 60 s.
    for msn in 0..150u64 {
        let end = msn * 4 + 3;
        let part_after = gone[&(msn, true)] - end;
        let segment_after = gone[&(msn, false)] - end;
        assert!((132..=132 + 8).contains(&part_after), "{part_after}");
        assert!((180..=180 + 8).contains(&segment_after), "{segment_after}");
    }
    // A stream that stands still keeps its playlist and all that is in it, however long.
    let listed_after = gone.keys().filter(|key| !key.1).map(|key| key.0).max();
    let later = settle(&mut queue, seconds(100_000)).1;
    assert!(later.iter().all(|key| match key.kind {
        ObjectKind::Segment { msn } => msn < 200 - 15 && Some(msn) > listed_after,
        ObjectKind::Part { msn, .. } => msn < 200 - 3,
        ObjectKind::Init { .. } => false,
    }));
    queue.close(CloseReason::Unpublished);
    settle(&mut queue, seconds(100_000));
    let rest = settle(&mut queue, seconds(100_180)).1;
    assert!(rest.iter().any(|key| key.kind == ObjectKind::Init { n: 0 }));
    assert!(queue.is_finished());
}

#[test]
fn the_preload_hint_comes_true_also_when_the_end_of_a_segment_was_not_foreseen() {
    let mut queue = queue(Limits::default());
    queue.track(announcement("a-x", 0)).unwrap();
    let (mut hint, mut true_hints, mut parts) = (None, 0, 0);
    for msn in 0..10 {
        for part in 0..PARTS {
            queue.part(chunk("a-x", msn, part, false, 10)).unwrap();
        }
        queue
            .segment(&"a-x".parse().unwrap(), msn, 0, 4_000)
            .unwrap();
        for message in settle(&mut queue, seconds(msn)).0 {
            match message {
                ToEdge::Track(track) => hint = Some(track.first_part),
                ToEdge::Part(part) => {
                    parts += 1;
                    true_hints += usize::from(hint == Some(part.key));
                    hint = Some(part.next);
                }
                _ => {}
            }
        }
    }
    assert_eq!((parts, true_hints), (40, 40));
}

#[test]
fn one_object_that_the_store_never_takes_costs_its_segment_and_not_the_broadcast() {
    let mut queue = queue(Limits::default());
    queue.track(announcement("a-x", 0)).unwrap();
    let mut messages = Vec::new();
    let mut bad = None;
    for msn in 0..40 {
        for part in 0..PARTS {
            queue.part(chunk("a-x", msn, part, true, 10)).unwrap();
        }
        queue
            .segment(&"a-x".parse().unwrap(), msn, 0, 4_000)
            .unwrap();
        let now = seconds(msn * 4);
        if let Some(id) = bad
            && queue.put_again(id).is_some()
        {
            queue.put_failed(id, true, now);
        }
        while let Some(job) = queue.next_job(now) {
            match job {
                Job::Put(put) if put.key.kind == (ObjectKind::Part { msn: 2, part: 1 }) => {
                    bad = Some(put.id);
                    queue.put_failed(put.id, true, now);
                }
                Job::Put(put) => queue.put_done(put.id, now),
                _ => {}
            }
        }
        messages.extend(std::iter::from_fn(|| queue.next_message(now)));
    }
    let segments: Vec<(u64, bool)> = messages
        .iter()
        .filter_map(|message| match message {
            ToEdge::Segment(segment) => Some((segment.msn, segment.key.is_some())),
            _ => None,
        })
        .collect();
    let expected: Vec<(u64, bool)> = (0..40).map(|msn| (msn, msn != 2)).collect();
    assert_eq!(segments, expected);
}

#[test]
fn small_segments_pile_up_to_a_number_while_the_store_is_down() {
    let mut queue = queue(Limits::default());
    queue.track(announcement("v-y", 0)).unwrap();
    let track = "v-y".parse().unwrap();
    let more = 100;
    for msn in 0..(room::MAX_SEGMENTS + more) as u64 {
        queue.part(chunk("v-y", msn, 0, true, 1)).unwrap();
        queue.segment(&track, msn, 0, 4_000).unwrap();
    }
    assert!(queue.segments.len() <= room::MAX_SEGMENTS + 1);
    let lost = queue.take_lost();
    assert!((more - 1..=more).contains(&lost.len()), "{}", lost.len());
    // The oldest go, in order.
    assert!(
        lost.iter()
            .enumerate()
            .all(|(n, (_, msn))| *msn == n as u64)
    );
}

#[derive(Debug, Clone)]
enum Act {
    /// The next part of a track (and its segment's end behind the last one).
    Part(usize, usize),
    /// Takes up one job.
    Begin,
    /// One put that is under way succeeds, fails, or fails and may have been written.
    Land(usize, u8),
    /// One put that failed is tried again.
    Again(usize),
    Spool(bool),
    Discontinuity,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..3usize, 1..100_000usize).prop_map(|(track, size)| Act::Part(track, size)),
        4 => Just(Act::Begin),
        4 => (any::<usize>(), 0..4u8).prop_map(|(which, how)| Act::Land(which, how)),
        2 => any::<usize>().prop_map(Act::Again),
        2 => prop::bool::weighted(0.9).prop_map(Act::Spool),
        1 => Just(Act::Discontinuity),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever order the store answers in: no key twice, nothing announced before it is written, no hole in any track, limits kept,
    /// and in the end nothing is left behind.
    #[test]
    fn any_order_of_answers_keeps_every_promise(acts in prop::collection::vec(act(), 1..400)) {
        let limits = Limits { memory_mib: 1, spool_mib: 2, ..Limits::default() };
        let mut queue = queue(limits);
        let names = ["a-x", "v-y", "v-z"];
        for name in names {
            queue.track(announcement(name, 0)).unwrap();
        }
        let mut at = [(0u64, 0u32); 3];
        let (mut flying, mut failed, mut spooling) = (Vec::<Put>::new(), Vec::<u64>::new(), None);
        let mut written = BTreeSet::new();
        let mut tried = BTreeSet::new();
        let mut deleted = BTreeSet::new();
        let mut messages = Vec::new();
        let mut now = Duration::ZERO;
        let mut last_discontinuity = 0;
        let finish = acts.len();
        // After the given acts everything is served until all is done.
        for step in 0..finish + 4_000 {
            now += Duration::from_millis(100);
            let act = match acts.get(step) {
                Some(act) => act.clone(),
                None => {
                    if step == finish {
                        queue.close(CloseReason::Unpublished);
                    }
                    if queue.is_closed() {
                        now += Duration::from_secs(60);
                    }
                    match step % 4 {
                        0 | 1 => Act::Begin,
                        2 if spooling.is_some() => Act::Spool(true),
                        2 => Act::Again(0),
                        _ => Act::Land(step, 0),
                    }
                }
            };
            match act {
                Act::Part(track, size) => {
                    let (msn, part) = at[track];
                    queue.part(chunk(names[track], msn, part, size % 2 == 0, size)).unwrap();
                    at[track] = (msn, part + 1);
                    if part + 1 == PARTS {
                        queue.segment(&names[track].parse().unwrap(), msn, 0, 4_000).unwrap();
                        at[track] = (msn + 1, 0);
                    }
                }
                Act::Discontinuity => {
                    let msn = at.iter().map(|at| at.0).max().unwrap() + 1;
                    if msn > last_discontinuity {
                        queue.discontinuity(msn).unwrap();
                        last_discontinuity = msn;
                    }
                }
                Act::Begin => match queue.next_job(now) {
                    Some(Job::Put(put)) => {
                        prop_assert!(tried.insert(put.key.to_string()), "{} was put twice", put.key);
                        flying.push(put);
                    }
                    Some(Job::Spool { file, part, .. }) => spooling = Some(Some((file, part))),
                    Some(Job::Unspool(_)) => spooling = Some(None),
                    Some(Job::Delete { key, failures }) => {
                        deleted.insert(key.to_string());
                        queue.deleted(key, failures, true, now);
                    }
                    None => {}
                },
                Act::Land(which, how) if !flying.is_empty() => {
                    let put = flying.swap_remove(which % flying.len());
                    // 0 and 1 succeed, 2 fails unwritten, 3 fails written.
                    if how != 2 {
                        written.insert(put.key.to_string());
                    }
                    match how {
                        0 | 1 => queue.put_done(put.id, now),
                        _ => {
                            if how == 2 {
                                tried.remove(&put.key.to_string());
                            }
                            queue.put_failed(put.id, how == 3, now);
                            failed.push(put.id);
                        }
                    }
                }
                Act::Again(which) if !failed.is_empty() => {
                    let id = failed.swap_remove(which % failed.len());
                    if let Some(put) = queue.put_again(id) {
                        prop_assert!(tried.insert(put.key.to_string()), "{} was put twice", put.key);
                        flying.push(put);
                    }
                }
                Act::Spool(works) => match spooling.take() {
                    Some(Some((file, part))) if works => queue.spooled(&file, part),
                    Some(Some((file, _))) => queue.spool_failed(&file),
                    Some(None) => queue.unspooled(),
                    None => {}
                },
                Act::Land(..) | Act::Again(_) => {}
            }
            let stats = queue.stats();
            prop_assert!(stats.memory <= 1024 * 1024 + 4 * 100_000, "{} bytes", stats.memory);
            prop_assert!(stats.spooled <= 2 * 1024 * 1024, "{} bytes on disk", stats.spooled);
            while let Some(message) = queue.next_message(now) {
                for key in match &message {
                    ToEdge::Track(track) => vec![&track.init],
                    ToEdge::Part(part) => vec![&part.key],
                    ToEdge::Segment(segment) => segment.key.iter().collect(),
                    _ => vec![],
                } {
                    prop_assert!(written.contains(&key.to_string()), "{} is not written", key);
                }
                messages.push(message);
            }
        }
        prop_assert!(queue.is_finished(), "{:?}", queue.stats());
        let ended = matches!(messages.last(), Some(ToEdge::Closed { .. }));
        prop_assert!(ended);
        for (track, name) in names.iter().enumerate() {
            let (mut due, mut part_due) = (0, 0);
            let mut after_discontinuity = 0;
            for message in &messages {
                match message {
                    ToEdge::Part(part) if part.track.as_str() == *name => {
                        prop_assert_eq!((part.msn, part.part), (due, part_due));
                        part_due += 1;
                    }
                    ToEdge::Segment(segment) if segment.track.as_str() == *name => {
                        prop_assert_eq!(segment.msn, due);
                        (due, part_due) = (due + 1, 0);
                    }
                    ToEdge::Discontinuity { msn } => {
                        prop_assert!(due < *msn || (due == *msn && part_due == 0));
                        prop_assert!(*msn > after_discontinuity);
                        after_discontinuity = *msn;
                    }
                    _ => {}
                }
            }
            prop_assert_eq!(due, at[track].0 + u64::from(at[track].1 > 0));
        }
        // Everything that was written was deleted, and nothing is still held.
        prop_assert_eq!(written.difference(&deleted).count(), 0);
        let stats = queue.stats();
        prop_assert_eq!((stats.memory, stats.spooled, stats.waiting), (0, 0, 0));
        prop_assert!(queue.segments.is_empty());
        // The header and the one or two parts whose keys were named ahead, a track.
        prop_assert!(queue.objects.len() <= 9, "{} objects leaked", queue.objects.len());
    }
}
