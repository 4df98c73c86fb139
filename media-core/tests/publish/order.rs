//! Nothing lost, nothing early, nothing twice.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use ghost_live_media_core::publish::Store;
use protocol::link::CloseReason;

use crate::{
    FakeEdge, MINUTE, PARTS, announced, announcement, begin, broadcast, bytes, edge::Listed,
    faults::FaultyStore, options, publish_segment,
};

const TRACKS: [&str; 3] = ["v-source", "v-480p30", "a-aac-128k"];

async fn all_announced(edge: &FakeEdge, segments: usize) {
    for track in TRACKS {
        announced(edge, track, segments).await;
    }
}

/// Every part and segment, with its bytes.
fn assert_complete(listed: &Listed, track: &str, msns: std::ops::Range<u64>, size: usize) {
    let expected: Vec<_> = msns
        .clone()
        .flat_map(|msn| (0..PARTS).map(move |part| (msn, part, bytes(track, msn, part, size))))
        .collect();
    assert!(
        listed.parts == expected,
        "{track}: parts are missing or wrong"
    );
    let gaps = listed.segments.iter().filter(|segment| segment.1.is_none());
    assert_eq!(gaps.count(), 0, "{track}");
    assert_eq!(listed.segments.len() as u64, msns.end - msns.start);
}

#[tokio::test]
async fn a_broadcast_to_a_folder_is_announced_whole_and_ends_clean() {
    let folder = tempfile::tempdir().unwrap();
    let media = folder.path().join("media");
    let store = Store::local(&media).unwrap();
    let root = media.clone();
    let edge = FakeEdge::new(move |key| {
        std::fs::read(root.join(key.to_string()))
            .ok()
            .map(Into::into)
    });
    let (publisher, driver) = begin(options(store.clone(), &edge, folder.path()));
    for track in TRACKS {
        publisher.track(announcement(track, 0)).unwrap();
    }
    for msn in 0..5 {
        for part in 0..PARTS {
            for track in TRACKS {
                publisher
                    .part(crate::chunk(track, msn, part, 20_000))
                    .unwrap();
            }
        }
        for track in TRACKS {
            crate::end_segment(&publisher, track, msn).unwrap();
        }
    }
    publisher
        .close(CloseReason::Unpublished, MINUTE)
        .await
        .unwrap();
    {
        let state = edge.state();
        assert!(state.closed);
        for track in TRACKS {
            let listed = &state.tracks[track];
            assert_complete(listed, track, 0..5, 20_000);
            assert_eq!(
                listed.false_hints, 0,
                "{track}: a preload hint did not come true"
            );
        }
    }
    driver.abort();
    // What the broadcast left is old enough for a sweep at once; one that is kept stays.
    assert_eq!(
        store
            .sweep(Duration::ZERO, |id| *id == broadcast())
            .await
            .unwrap(),
        0
    );
    assert_eq!(store.sweep(MINUTE, |_| false).await.unwrap(), 0);
    assert_eq!(store.sweep(Duration::ZERO, |_| false).await.unwrap(), 1);
    assert_eq!(
        std::fs::read_dir(&media).unwrap().count(),
        0,
        "folders are left"
    );
}

#[tokio::test]
async fn a_store_that_is_down_in_mid_stream_loses_nothing_and_the_playlists_stay_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let faulty = FaultyStore::new();
    let reader = faulty.clone();
    let edge = FakeEdge::new(move |key| reader.read(&key.to_string()));
    let (publisher, _driver) = begin(options(
        Store::with_object_store(faulty.clone()),
        &edge,
        folder.path(),
    ));
    for track in TRACKS {
        publisher.track(announcement(track, 0)).unwrap();
    }
    for msn in 0..12 {
        if msn == 3 {
            all_announced(&edge, 3).await;
        }
        faulty.faults.down.store((3..8).contains(&msn), Relaxed);
        publish_segment(&publisher, &TRACKS, msn, 2_000).await;
        if msn == 7 {
            let announced = edge.state().tracks["v-source"].segments.len();
            assert!(
                announced <= 3,
                "{announced} segments were announced with the store down"
            );
        }
    }
    publisher
        .close(CloseReason::Unpublished, MINUTE)
        .await
        .unwrap();
    let state = edge.state();
    for track in TRACKS {
        assert_complete(&state.tracks[track], track, 0..12, 2_000);
    }
    assert_eq!(faulty.twice_written(), Vec::<String>::new());
    assert!(faulty.most_in_flight.load(Relaxed) <= 12);
}

#[tokio::test]
async fn puts_that_fail_at_random_are_repeated_under_new_keys_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let faulty = FaultyStore::new();
    faulty.faults.errors.store(30, Relaxed);
    faulty.faults.delay_ms.store(15, Relaxed);
    let reader = faulty.clone();
    let edge = FakeEdge::new(move |key| reader.read(&key.to_string()));
    let mut options = options(
        Store::with_object_store(faulty.clone()),
        &edge,
        folder.path(),
    );
    options.opened.window_s = 2;
    let (publisher, driver) = begin(options);
    for track in TRACKS {
        publisher.track(announcement(track, 0)).unwrap();
    }
    for msn in 0..20 {
        publish_segment(&publisher, &TRACKS, msn, 500).await;
    }
    let failures = publisher.stats().failures;
    publisher
        .close(CloseReason::Unpublished, MINUTE)
        .await
        .unwrap();
    for track in TRACKS {
        assert_complete(&edge.state().tracks[track], track, 0..20, 500);
    }
    assert!(
        failures > 50,
        "only {failures} puts failed: the test shows nothing"
    );
    assert_eq!(faulty.twice_written(), Vec::<String>::new());
    // The driver goes on until the last deletion: also what failed attempts may have written goes.
    driver.await.unwrap().unwrap();
    assert_eq!(faulty.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn memory_stays_in_its_bound_and_the_spool_holds_what_waits_for_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let faulty = FaultyStore::new();
    let reader = faulty.clone();
    let edge = FakeEdge::new(move |key| reader.read(&key.to_string()));
    let mut options = options(
        Store::with_object_store(faulty.clone()),
        &edge,
        folder.path(),
    );
    options.limits.memory_mib = 2;
    options.opened.window_s = 2;
    let (publisher, driver) = begin(options);
    let spool = folder.path().join(broadcast().as_str());
    for track in TRACKS {
        publisher.track(announcement(track, 0)).unwrap();
    }
    // 12 MiB of objects with 2 MiB of memory.
    let size = 64 * 1024;
    let mut most = 0;
    let mut most_spooled = 0;
    for msn in 0..16 {
        if msn == 2 {
            all_announced(&edge, 2).await;
        }
        faulty.faults.down.store((2..14).contains(&msn), Relaxed);
        publish_segment(&publisher, &TRACKS, msn, size).await;
        let stats = publisher.stats();
        most = most.max(stats.memory);
        most_spooled = most_spooled.max(stats.spooled);
        assert_eq!(stats.lost_segments, 0);
    }
    // And one segment that is read back.
    assert!(most <= 2 * 1024 * 1024 + 4 * size, "{most} bytes in memory");
    assert!(
        most_spooled > 6 * 1024 * 1024,
        "only {most_spooled} bytes were spooled"
    );
    publisher
        .close(CloseReason::Unpublished, MINUTE)
        .await
        .unwrap();
    for track in TRACKS {
        assert_complete(&edge.state().tracks[track], track, 0..16, size);
    }
    driver.await.unwrap().unwrap();
    assert!(!spool.exists(), "spool files are left");
}

#[tokio::test]
async fn beyond_the_spool_the_oldest_segments_become_gaps_and_the_rest_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let faulty = FaultyStore::new();
    let reader = faulty.clone();
    let edge = FakeEdge::new(move |key| reader.read(&key.to_string()));
    let mut options = options(
        Store::with_object_store(faulty.clone()),
        &edge,
        folder.path(),
    );
    options.limits.memory_mib = 1;
    options.limits.spool_mib = 2;
    let (publisher, _driver) = begin(options);
    for track in TRACKS {
        publisher.track(announcement(track, 0)).unwrap();
    }
    let size = 32 * 1024;
    for msn in 0..24 {
        if msn == 2 {
            all_announced(&edge, 2).await;
        }
        faulty.faults.down.store((2..22).contains(&msn), Relaxed);
        publish_segment(&publisher, &TRACKS, msn, size).await;
        let stats = publisher.stats();
        assert!(stats.memory <= 1024 * 1024 + 4 * size && stats.spooled <= 2 * 1024 * 1024);
    }
    publisher
        .close(CloseReason::Unpublished, MINUTE)
        .await
        .unwrap();
    let state = edge.state();
    for track in TRACKS {
        let listed = &state.tracks[track];
        let msns: Vec<u64> = listed.segments.iter().map(|segment| segment.0).collect();
        assert_eq!(msns, (0..24).collect::<Vec<_>>(), "{track}");
        let gaps: Vec<u64> = listed
            .segments
            .iter()
            .filter(|segment| segment.1.is_none())
            .map(|segment| segment.0)
            .collect();
        // Six to seven segments of all tracks fit; the oldest of the outage are gone, without a hole between them.
        assert!((8..=16).contains(&gaps.len()), "{track}: {gaps:?}");
        assert_eq!(
            gaps,
            (gaps[0]..gaps[0] + gaps.len() as u64).collect::<Vec<_>>()
        );
        assert!(gaps[0] >= 2 && gaps[0] <= 3, "{track}: {gaps:?}");
    }
}

#[tokio::test]
async fn a_slow_store_delays_its_own_track_order_but_no_call_of_the_handle() {
    let folder = tempfile::tempdir().unwrap();
    let faulty = FaultyStore::new();
    faulty.faults.delay_ms.store(700, Relaxed);
    let reader = faulty.clone();
    let edge = FakeEdge::new(move |key| reader.read(&key.to_string()));
    let (publisher, _driver) = begin(options(
        Store::with_object_store(faulty.clone()),
        &edge,
        folder.path(),
    ));
    for track in TRACKS {
        publisher.track(announcement(track, 0)).unwrap();
    }
    for msn in 0..6 {
        publish_segment(&publisher, &TRACKS, msn, 1_000).await;
    }
    // Two puts of 700 ms, one after the other, lie between a header and the first segment: nothing waited for them.
    assert!(publisher.stats().puts < 40, "the store was not slow");
    publisher
        .close(CloseReason::Unpublished, MINUTE)
        .await
        .unwrap();
    for track in TRACKS {
        assert_complete(&edge.state().tracks[track], track, 0..6, 1_000);
    }
}

#[tokio::test]
async fn a_kept_broadcast_is_never_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let faulty = FaultyStore::new();
    let reader = faulty.clone();
    let edge = FakeEdge::new(move |key| reader.read(&key.to_string()));
    let mut options = options(
        Store::with_object_store(faulty.clone()),
        &edge,
        folder.path(),
    );
    options.limits.keep = true;
    options.opened.window_s = 2;
    let (publisher, driver) = begin(options);
    publisher.track(announcement("v-source", 0)).unwrap();
    for msn in 0..80 {
        publish_segment(&publisher, &["v-source"], msn, 100).await;
    }
    publisher
        .close(CloseReason::Unpublished, MINUTE)
        .await
        .unwrap();
    driver.await.unwrap().unwrap();
    assert_eq!(faulty.keys().len(), 80 * 5 + 1);
}

#[tokio::test]
async fn at_the_deadline_of_a_close_the_rest_becomes_gaps_and_the_end_is_announced() {
    let folder = tempfile::tempdir().unwrap();
    let faulty = FaultyStore::new();
    let reader = faulty.clone();
    let edge = FakeEdge::new(move |key| reader.read(&key.to_string()));
    let (publisher, _driver) = begin(options(
        Store::with_object_store(faulty.clone()),
        &edge,
        folder.path(),
    ));
    publisher.track(announcement("v-source", 0)).unwrap();
    publish_segment(&publisher, &["v-source"], 0, 100).await;
    announced(&edge, "v-source", 1).await;
    faulty.faults.down.store(true, Relaxed);
    publish_segment(&publisher, &["v-source"], 1, 100).await;
    publisher
        .close(CloseReason::Shutdown, Duration::from_secs(1))
        .await
        .unwrap();
    let state = edge.state();
    assert!(state.closed);
    let segments = &state.tracks["v-source"].segments;
    assert!(segments[0].1.is_some() && segments[1].1.is_none());
}

#[tokio::test]
async fn a_handle_that_is_dropped_ends_its_broadcast_with_the_parts_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let faulty = FaultyStore::new();
    let reader = faulty.clone();
    let edge = FakeEdge::new(move |key| reader.read(&key.to_string()));
    let mut options = options(
        Store::with_object_store(faulty.clone()),
        &edge,
        folder.path(),
    );
    options.opened.window_s = 2;
    let (publisher, driver) = begin(options);
    publisher.track(announcement("v-source", 0)).unwrap();
    publisher.part(crate::chunk("v-source", 0, 0, 10)).unwrap();
    publisher.part(crate::chunk("v-source", 0, 1, 10)).unwrap();
    drop(publisher);
    driver.await.unwrap().unwrap();
    let state = edge.state();
    assert!(state.closed);
    assert_eq!(state.tracks["v-source"].segments.len(), 1);
    assert_eq!(state.tracks["v-source"].parts.len(), 2);
}

#[tokio::test]
async fn a_shed_rung_goes_on_with_another_s_objects_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let faulty = FaultyStore::new();
    faulty.faults.delay_ms.store(20, Relaxed);
    faulty.faults.errors.store(15, Relaxed);
    let reader = faulty.clone();
    let edge = FakeEdge::new(move |key| reader.read(&key.to_string()));
    let mut options = options(
        Store::with_object_store(faulty.clone()),
        &edge,
        folder.path(),
    );
    options.opened.window_s = 2;
    let (publisher, driver) = begin(options);
    let all = ["v-source", "v-720p30", "v-480p30"];
    for track in all {
        publisher.track(announcement(track, 0)).unwrap();
    }
    for msn in 0..3 {
        publish_segment(&publisher, &all, msn, 100).await;
    }
    let name = crate::name;
    // 720p goes on with 480p while 480p is already two parts into the segment.
    publisher.discontinuity(3).unwrap();
    for part in 0..2 {
        publisher
            .part(crate::chunk("v-480p30", 3, part, 100))
            .unwrap();
        publisher
            .part(crate::chunk("v-source", 3, part, 100))
            .unwrap();
    }
    publisher
        .alias(&name("v-720p30"), &name("v-480p30"), 3)
        .unwrap();
    assert!(publisher.part(crate::chunk("v-720p30", 3, 0, 100)).is_err());
    for part in 2..PARTS {
        publisher
            .part(crate::chunk("v-480p30", 3, part, 100))
            .unwrap();
        publisher
            .part(crate::chunk("v-source", 3, part, 100))
            .unwrap();
    }
    for track in ["v-source", "v-480p30"] {
        crate::end_segment(&publisher, track, 3).unwrap();
    }
    publish_segment(&publisher, &["v-source", "v-480p30"], 4, 100).await;
    // Now the source sheds as well, onto 720p's stand-in: not possible, so onto 480p.
    publisher.discontinuity(5).unwrap();
    assert!(
        publisher
            .alias(&name("v-source"), &name("v-720p30"), 5)
            .is_err()
    );
    publisher
        .alias(&name("v-source"), &name("v-480p30"), 5)
        .unwrap();
    publish_segment(&publisher, &["v-480p30"], 5, 100).await;
    // 720p is back.
    publisher.discontinuity(6).unwrap();
    publisher.track(announcement("v-720p30", 6)).unwrap();
    for msn in 6..8 {
        publish_segment(&publisher, &["v-720p30", "v-480p30"], msn, 100).await;
    }
    publisher
        .close(CloseReason::Unpublished, MINUTE)
        .await
        .unwrap();
    {
        let state = edge.state();
        assert_eq!(state.discontinuities, [3, 5, 6]);
        assert_complete(&state.tracks["v-480p30"], "v-480p30", 0..8, 100);
        let whose = |track: &str, msn: u64| {
            let bytes = state.tracks[track].segments[msn as usize]
                .1
                .clone()
                .unwrap();
            String::from_utf8(bytes.to_vec())
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
                .to_owned()
        };
        for msn in 0..8 {
            let expected = match msn {
                3..=5 => "v-480p30",
                _ => "v-720p30",
            };
            assert_eq!(whose("v-720p30", msn), expected, "segment {msn}");
            let expected = match msn {
                5.. => "v-480p30",
                _ => "v-source",
            };
            assert_eq!(whose("v-source", msn), expected, "segment {msn}");
        }
        assert_eq!(state.tracks["v-720p30"].inits.len(), 3);
    }
    assert_eq!(faulty.twice_written(), Vec::<String>::new());
    driver.await.unwrap().unwrap();
    assert_eq!(faulty.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn a_segment_that_cannot_be_completed_is_a_gap_and_the_next_one_follows() {
    let folder = tempfile::tempdir().unwrap();
    let faulty = FaultyStore::new();
    let reader = faulty.clone();
    let edge = FakeEdge::new(move |key| reader.read(&key.to_string()));
    let (publisher, _driver) = begin(options(
        Store::with_object_store(faulty.clone()),
        &edge,
        folder.path(),
    ));
    publisher.track(announcement("v-source", 0)).unwrap();
    publisher.part(crate::chunk("v-source", 0, 0, 10)).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    publisher
        .lost(&crate::name("v-source"), 0, 0, 360_000)
        .unwrap();
    publish_segment(&publisher, &["v-source"], 1, 10).await;
    publisher
        .close(CloseReason::Unpublished, MINUTE)
        .await
        .unwrap();
    let state = edge.state();
    let segments = &state.tracks["v-source"].segments;
    assert!(segments[0].1.is_none() && segments[1].1.is_some());
}

#[tokio::test]
async fn a_part_out_of_order_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let faulty = FaultyStore::new();
    let reader = faulty.clone();
    let edge = FakeEdge::new(move |key| reader.read(&key.to_string()));
    let (publisher, _driver) = begin(options(
        Store::with_object_store(faulty.clone()),
        &edge,
        folder.path(),
    ));
    publisher.track(announcement("v-source", 0)).unwrap();
    for (msn, part) in [(0, 1), (1, 0), (5, 5)] {
        assert!(
            publisher
                .part(crate::chunk("v-source", msn, part, 10))
                .is_err()
        );
    }
    assert!(crate::end_segment(&publisher, "v-source", 0).is_err());
    assert!(publisher.part(crate::chunk("v-other", 0, 0, 10)).is_err());
    publish_segment(&publisher, &["v-source"], 0, 10).await;
    assert!(publisher.discontinuity(0).is_err());
    publisher
        .close(CloseReason::Unpublished, MINUTE)
        .await
        .unwrap();
    assert_complete(&edge.state().tracks["v-source"], "v-source", 0..1, 10);
}
