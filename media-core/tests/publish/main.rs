//! Publishing from outside: what the edge is told, against what lies in the store, with faults in both.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub
)]

mod edge;
mod faults;
mod links;
mod order;
mod remote;
mod s3;
mod servers;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use edge::{FakeEdge, Shared};
use ghost_live_media_core::{
    edge::Edge,
    publish::{
        Publisher, Store,
        publisher::{Options, PublishError, start},
        queue::{Limits, PartChunk, TrackAnnouncement},
    },
};
use protocol::{
    link::{Opened, TrackKind},
    names::{BroadcastId, TrackName},
};

pub fn broadcast() -> BroadcastId {
    BroadcastId::from_random([7; 16])
}

pub fn opened(first_msn: u64) -> Opened {
    Opened {
        stream: "demo".parse().unwrap(),
        broadcast: broadcast(),
        epoch_unix_ms: 1_800_000_000_000,
        first_msn,
        window_s: 20,
    }
}

pub fn name(text: &str) -> TrackName {
    text.parse().unwrap()
}

pub fn announcement(track: &str, from_msn: u64) -> TrackAnnouncement {
    let kind = match name(track).is_video() {
        true => TrackKind::Video {
            width: 1280,
            height: 720,
            frame_rate: Some((30, 1)),
        },
        false => TrackKind::Audio {
            sample_rate: 48_000,
            channels: 2,
        },
    };
    TrackAnnouncement {
        name: name(track),
        kind,
        codecs: "avc1.42c01f".into(),
        timescale: 90_000,
        part_target: 30_000,
        nominal_bps: 1_000_000,
        init: Bytes::from(format!("init of {track} from {from_msn}")),
        from_msn,
    }
}

/// Parts of one second, four a segment.
pub const PARTS: u32 = 4;

/// Bytes that tell where they belong, `size` of them.
pub fn bytes(track: &str, msn: u64, part: u32, size: usize) -> Bytes {
    let mut data = format!("{track} {msn} {part} ").into_bytes();
    data.resize(size.max(data.len()), b'.');
    data.into()
}

pub fn chunk(track: &str, msn: u64, part: u32, size: usize) -> PartChunk {
    PartChunk {
        track: name(track),
        msn,
        part,
        start: (msn as i64 * i64::from(PARTS) + i64::from(part)) * 90_000,
        duration: 90_000,
        independent: part == 0,
        last_of_segment: part + 1 == PARTS,
        data: bytes(track, msn, part, size),
    }
}

pub fn end_segment(publisher: &Publisher, track: &str, msn: u64) -> Result<(), PublishError> {
    let start = msn as i64 * i64::from(PARTS) * 90_000;
    publisher.segment(&name(track), msn, start, u64::from(PARTS) * 90_000)
}

/// One segment of each track, faster than life.
pub async fn publish_segment(publisher: &Publisher, tracks: &[&str], msn: u64, size: usize) {
    for part in 0..PARTS {
        tokio::time::sleep(Duration::from_millis(25)).await;
        for track in tracks {
            publisher.part(chunk(track, msn, part, size)).unwrap();
            spooled(publisher).await;
        }
    }
    for track in tracks {
        end_segment(publisher, track, msn).unwrap();
    }
}

pub fn options(store: Store, edge: &Arc<FakeEdge>, spool: &Path) -> Options {
    Options {
        store,
        edge: Arc::new(Shared(Arc::clone(edge))) as Arc<dyn Edge>,
        opened: opened(0),
        first_seq: 1,
        clock: Arc::new(|| 1_800_000_000_000),
        credential: tokio::sync::watch::Sender::new(None).subscribe(),
        signaling: ghost_live_media_core::webrtc::Signaling::none(),
        limits: Limits::default(),
        spool: spool.to_owned(),
    }
}

/// Starts publishing in a task of its own.
pub fn begin(options: Options) -> (Publisher, tokio::task::JoinHandle<Result<(), PublishError>>) {
    let (publisher, driver) = start(options);
    (publisher, tokio::spawn(driver))
}

/// Waits until the disk has taken what was spooled: the tests publish faster than life, and a disk that cannot keep up loses segments.
pub async fn spooled(publisher: &Publisher) {
    let deadline = tokio::time::Instant::now() + MINUTE;
    while publisher.stats().writing > 0 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the spool is never written"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub const MINUTE: Duration = Duration::from_secs(60);

/// Waits until the edge knows so many segments of a track.
pub async fn announced(edge: &FakeEdge, track: &str, segments: usize) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while edge
        .state()
        .tracks
        .get(track)
        .map_or(0, |listed| listed.segments.len())
        < segments
    {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{track}: {segments} segments are never announced"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
