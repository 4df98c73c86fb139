//! The link: each message once and in order, however often it is cut.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use ghost_live_media_core::publish::{Store, link::LinkError, publisher::PublishError};
use protocol::link::CloseReason;

use crate::{
    FakeEdge, MINUTE, announcement, begin, edge::FakeEdge as Edge, faults::FaultyStore, opened,
    options, publish_segment,
};
use std::sync::Arc;

fn setup() -> (Arc<FaultyStore>, Arc<Edge>, tempfile::TempDir) {
    let faulty = FaultyStore::new();
    let reader = faulty.clone();
    let edge = FakeEdge::new(move |key| reader.read(&key.to_string()));
    (faulty, edge, tempfile::tempdir().unwrap())
}

#[tokio::test]
async fn a_link_that_is_cut_every_few_messages_delivers_each_one_once_in_order() {
    let (faulty, edge, folder) = setup();
    edge.cut_after.store(17, Relaxed);
    let (publisher, _driver) = begin(options(
        Store::with_object_store(faulty),
        &edge,
        folder.path(),
    ));
    for track in ["v-source", "a-aac-128k"] {
        publisher.track(announcement(track, 0)).unwrap();
    }
    for msn in 0..20 {
        publish_segment(&publisher, &["v-source", "a-aac-128k"], msn, 10).await;
    }
    publisher
        .close(CloseReason::Unpublished, MINUTE)
        .await
        .unwrap();
    let state = edge.state();
    // Opened, two tracks, ten messages a segment, closed; the fake checked that there is no hole.
    assert_eq!(state.messages.len(), 1 + 2 + 20 * 10 + 1);
    assert!(edge.connects.load(Relaxed) > 10, "the link was hardly cut");
    assert!(
        state.replayed > 0,
        "nothing was ever replayed: the test shows nothing"
    );
}

#[tokio::test]
async fn an_edge_that_is_away_for_a_while_hears_everything_when_it_is_back_and_uploads_go_on_meanwhile()
 {
    let (faulty, edge, folder) = setup();
    let (publisher, _driver) = begin(options(
        Store::with_object_store(faulty.clone()),
        &edge,
        folder.path(),
    ));
    publisher.track(announcement("v-source", 0)).unwrap();
    publish_segment(&publisher, &["v-source"], 0, 10).await;
    crate::announced(&edge, "v-source", 1).await;
    edge.away.store(true, Relaxed);
    for msn in 1..16 {
        publish_segment(&publisher, &["v-source"], msn, 10).await;
    }
    assert_eq!(edge.state().tracks["v-source"].segments.len(), 1);
    assert!(faulty.keys().len() > 15 * 5);
    edge.away.store(false, Relaxed);
    crate::announced(&edge, "v-source", 16).await;
    publisher
        .close(CloseReason::Unpublished, MINUTE)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_heartbeat_comes_every_two_seconds() {
    let (faulty, edge, folder) = setup();
    let (publisher, _driver) = begin(options(
        Store::with_object_store(faulty),
        &edge,
        folder.path(),
    ));
    tokio::time::sleep(Duration::from_millis(5_500)).await;
    let heartbeats = edge.state().heartbeats;
    assert!((2..=3).contains(&heartbeats), "{heartbeats}");
    drop(publisher);
}

#[tokio::test]
async fn a_broadcast_that_goes_on_after_a_restart_goes_on_with_the_next_number() {
    let (faulty, edge, folder) = setup();
    let edge = edge.with_stored(41);
    let mut options = options(Store::with_object_store(faulty), &edge, folder.path());
    options.opened = opened(9);
    options.first_seq = 42;
    let (publisher, _driver) = begin(options);
    publisher.track(announcement("v-source", 9)).unwrap();
    publisher.discontinuity(9).unwrap();
    publish_segment(&publisher, &["v-source"], 9, 10).await;
    publisher
        .close(CloseReason::Unpublished, MINUTE)
        .await
        .unwrap();
    let state = edge.state();
    assert_eq!(state.messages[0].seq, 42);
    assert_eq!(state.discontinuities, [9]);
}

#[tokio::test]
async fn an_edge_that_refuses_ends_the_broadcast_with_its_reason() {
    let (faulty, edge, folder) = setup();
    edge.refuse.store(true, Relaxed);
    let (publisher, _driver) = begin(options(
        Store::with_object_store(faulty),
        &edge,
        folder.path(),
    ));
    let error = publisher.failed().await;
    let expected = LinkError::Refused("a newer broadcast is live".into());
    assert_eq!(error, PublishError::Link(expected));
    assert!(publisher.track(announcement("v-source", 0)).is_err());
}

#[tokio::test]
async fn an_edge_that_never_confirms_makes_the_close_fail_at_its_deadline() {
    let (faulty, edge, folder) = setup();
    edge.never_ack.store(true, Relaxed);
    let (publisher, _driver) = begin(options(
        Store::with_object_store(faulty),
        &edge,
        folder.path(),
    ));
    publisher.track(announcement("v-source", 0)).unwrap();
    publish_segment(&publisher, &["v-source"], 0, 10).await;
    let result = publisher
        .close(CloseReason::Unpublished, Duration::from_secs(1))
        .await;
    assert!(
        matches!(result, Err(PublishError::Undelivered(_))),
        "{result:?}"
    );
}
