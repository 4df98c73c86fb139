//! An edge that believes nothing: it checks every message it gets against what it knows and against the store.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use ghost_live_media_core::edge::{Edge, EdgeError, Link};
use protocol::{
    internal::{Admission, Admit, Open, OpenAnswer},
    link::{Numbered, ToCore, ToEdge},
    names::BroadcastId,
    object_key::ObjectKey,
};
use tokio::sync::mpsc;

type Read = Box<dyn Fn(&ObjectKey) -> Option<Bytes> + Send + Sync>;

/// What one track's playlist holds.
#[derive(Debug, Default, Clone)]
pub struct Listed {
    pub from_msn: u64,
    pub inits: Vec<ObjectKey>,
    /// (msn, part, bytes) in order.
    pub parts: Vec<(u64, u32, Bytes)>,
    /// (msn, bytes), `None` for a gap.
    pub segments: Vec<(u64, Option<Bytes>)>,
    pub hint: Option<ObjectKey>,
    pub true_hints: usize,
    pub false_hints: usize,
}

#[derive(Debug, Default)]
pub struct State {
    pub messages: Vec<Numbered>,
    pub tracks: BTreeMap<String, Listed>,
    pub discontinuities: Vec<u64>,
    pub closed: bool,
    pub heartbeats: usize,
    pub replayed: usize,
    first_part_seen: bool,
}

pub struct FakeEdge {
    read: Read,
    pub state: Mutex<State>,
    /// Sequence number stored.
    pub stored: AtomicU64,
    pub away: AtomicBool,
    /// Cuts the link after so many messages; 0 never.
    pub cut_after: AtomicU64,
    pub never_ack: AtomicBool,
    pub refuse: AtomicBool,
    pub connects: AtomicU64,
}

impl FakeEdge {
    pub fn new(read: impl Fn(&ObjectKey) -> Option<Bytes> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            read: Box::new(read),
            state: Mutex::default(),
            stored: AtomicU64::new(0),
            away: AtomicBool::new(false),
            cut_after: AtomicU64::new(0),
            never_ack: AtomicBool::new(false),
            refuse: AtomicBool::new(false),
            connects: AtomicU64::new(0),
        })
    }

    /// The edge of a broadcast that goes on.
    pub fn with_stored(self: Arc<Self>, seq: u64) -> Arc<Self> {
        self.stored.store(seq, Relaxed);
        self
    }

    pub fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn readable(&self, key: &ObjectKey) -> Bytes {
        (self.read)(key).unwrap_or_else(|| panic!("{key} was announced but is not readable"))
    }

    /// Applies a message, or panics: the test then fails with the reason.
    fn apply(&self, numbered: Numbered) {
        let mut state = self.state.lock().unwrap();
        if let ToEdge::Heartbeat { .. } = numbered.message {
            assert_eq!(numbered.seq, 0);
            state.heartbeats += 1;
            return;
        }
        let known = self
            .stored
            .load(Relaxed)
            .max(state.messages.last().map_or(0, |last| last.seq));
        if numbered.seq <= known {
            state.replayed += 1;
            return;
        }
        assert_eq!(numbered.seq, known + 1, "a hole in the link");
        assert!(!state.closed, "a message after the end");
        match &numbered.message {
            ToEdge::Opened(_) => assert!(state.messages.is_empty()),
            ToEdge::Track(track) => {
                self.readable(&track.init);
                let new = !state.tracks.contains_key(track.name.as_str());
                assert!(
                    !(new && state.first_part_seen),
                    "a track after the first part"
                );
                let listed = state.tracks.entry(track.name.to_string()).or_default();
                if new {
                    listed.from_msn = track.from_msn;
                }
                listed.inits.push(track.init.clone());
                listed.hint = Some(track.first_part.clone());
            }
            ToEdge::Part(part) => {
                state.first_part_seen = true;
                let bytes = self.readable(&part.key);
                assert_eq!(bytes.len() as u64, part.size);
                let listed = state
                    .tracks
                    .get_mut(part.track.as_str())
                    .expect("a part of no track");
                let due = listed
                    .segments
                    .last()
                    .map_or(listed.from_msn, |last| last.0 + 1);
                let index = listed
                    .parts
                    .iter()
                    .filter(|other| other.0 == part.msn)
                    .count();
                assert_eq!((part.msn, part.part), (due, index as u32), "{}", part.track);
                match listed.hint.take() {
                    Some(hint) if hint == part.key => listed.true_hints += 1,
                    _ => listed.false_hints += 1,
                }
                listed.hint = Some(part.next.clone());
                listed.parts.push((part.msn, part.part, bytes));
            }
            ToEdge::Segment(segment) => {
                let bytes = segment.key.as_ref().map(|key| self.readable(key));
                let listed = state
                    .tracks
                    .get_mut(segment.track.as_str())
                    .expect("a segment of no track");
                let due = listed
                    .segments
                    .last()
                    .map_or(listed.from_msn, |last| last.0 + 1);
                assert_eq!(segment.msn, due, "{}", segment.track);
                if let Some(bytes) = &bytes {
                    assert_eq!(bytes.len() as u64, segment.size);
                    let parts: Vec<u8> = listed
                        .parts
                        .iter()
                        .filter(|part| part.0 == segment.msn)
                        .flat_map(|part| part.2.iter().copied())
                        .collect();
                    assert!(parts == bytes.as_ref(), "a segment is not its parts");
                }
                listed.segments.push((segment.msn, bytes));
            }
            ToEdge::Discontinuity { msn } => {
                for (name, listed) in &state.tracks {
                    assert!(
                        listed.parts.last().is_none_or(|part| part.0 < *msn),
                        "{name}: the discontinuity at {msn} came after a part of it"
                    );
                }
                state.discontinuities.push(*msn);
            }
            ToEdge::Closed { .. } => state.closed = true,
            _ => {}
        }
        state.messages.push(numbered);
    }
}

/// Newtype, because the trait and `Arc` are both from elsewhere.
pub struct Shared(pub Arc<FakeEdge>);

impl Edge for Shared {
    fn admit(&self, _: Admit) -> BoxFuture<'_, Result<Admission, EdgeError>> {
        async { Err(EdgeError::Unreachable("not asked here".into())) }.boxed()
    }

    fn open(&self, _: Open) -> BoxFuture<'_, Result<OpenAnswer, EdgeError>> {
        async { Err(EdgeError::Unreachable("not asked here".into())) }.boxed()
    }

    fn connect(&self, _: BroadcastId) -> BoxFuture<'_, Result<Link, EdgeError>> {
        async {
            let edge = Arc::clone(&self.0);
            edge.connects.fetch_add(1, Relaxed);
            if edge.away.load(Relaxed) {
                return Err(EdgeError::Unreachable("away".into()));
            }
            let (to_edge, mut from_core) = mpsc::channel::<Numbered>(8);
            let (to_core, from_edge) = mpsc::channel(8);
            tokio::spawn(async move {
                let welcome = match edge.refuse.load(Relaxed) {
                    true => ToCore::Refused {
                        reason: "a newer broadcast is live".into(),
                    },
                    false => ToCore::Welcome {
                        seq: edge.stored.load(Relaxed),
                    },
                };
                if to_core.send(welcome).await.is_err() {
                    return;
                }
                let mut seen = 0;
                while let Some(message) = from_core.recv().await {
                    if edge.away.load(Relaxed) {
                        return;
                    }
                    let store =
                        matches!(message.message, ToEdge::Segment(_) | ToEdge::Closed { .. });
                    let seq = message.seq;
                    edge.apply(message);
                    seen += 1;
                    let cut = edge.cut_after.load(Relaxed);
                    if cut > 0 && seen >= cut {
                        return;
                    }
                    if store && !edge.never_ack.load(Relaxed) {
                        edge.stored.fetch_max(seq, Relaxed);
                        if to_core.send(ToCore::Ack { seq }).await.is_err() {
                            return;
                        }
                    }
                }
            });
            Ok(Link { to_edge, from_edge })
        }
        .boxed()
    }
}
