//! One broadcast with those who wait for it.
//!
//! Each track has a feed: its latest [`View`] in a watch channel. A part's event makes a new view and wakes those who wait; the first of
//! them renders the text, all others share it. Snapshots are written by a task of their own; the newest replaces one that still waits.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, Weak},
    time::Duration,
};

use protocol::{
    link::{CloseReason, Numbered, Resume, ToCore, ToEdge},
    names::{BroadcastId, StreamName, TrackName},
    object_key::ObjectKey,
    signaling::Outcome,
};
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{files, lock, text::Text};
use crate::{
    live::{Applied, ApplyError, Broadcast, Head, MAX_TRACKS, ObjectAnswer, SegmentAnswer, Wake},
    playlist::{self, Cache},
    signaling::desk::Desk,
    webhooks::event::{self, Event},
};

/// What those who wait for a track see of it.
#[derive(Debug, Default)]
pub(super) struct View {
    /// How far its playlist reaches; `None` while there is no such track.
    pub(super) head: Option<Head>,
    /// The edge is going down: nobody waits any more.
    pub(super) closing: bool,
    full: OnceLock<Arc<Text>>,
    delta: OnceLock<Arc<Text>>,
}

/// A snapshot to be written.
#[derive(Debug, Clone)]
struct Snapshot {
    /// How many were made before it.
    number: u64,
    seq: u64,
    reserved_msn: u64,
    bytes: Arc<Vec<u8>>,
}

#[derive(Debug)]
struct State {
    broadcast: Broadcast,
    /// How many snapshots were made.
    snapshots: u64,
    cache: Cache,
    /// Where the window began when the views were made.
    base_msn: u64,
    texts_version: u64,
    multivariant: Option<Arc<Text>>,
    dash: Option<Arc<Text>>,
}

/// One broadcast.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) stream: StreamName,
    pub(super) id: BroadcastId,
    state: Mutex<State>,
    feeds: Vec<watch::Sender<Arc<View>>>,
    /// The snapshot to write next. A newer one replaces it: only the newest is worth writing.
    snapshots: watch::Sender<Option<Snapshot>>,
    /// Number of the last message that is stored.
    stored: watch::Sender<u64>,
    /// How many snapshots are written, or were replaced by one that is.
    written: watch::Sender<u64>,
    /// Ends the connection that carries the link now.
    link: Mutex<Option<CancellationToken>>,
    /// Why no link is taken any more, for the box's operator.
    refusal: OnceLock<String>,
    /// WebRTC signaling.
    desk: Mutex<Desk<oneshot::Sender<Outcome>>>,
    /// Something is to be said down the link.
    said: Notify,
}

/// A playlist is in one of these forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Full,
    Delta,
}

/// A segment asked for by number.
#[derive(Debug, Clone)]
pub(super) enum SegmentSource {
    Complete(ObjectKey),
    /// The part with the index asked for, if it is there.
    Running(Option<ObjectKey>),
    /// Complete since: what is left of its parts.
    Rest(Vec<ObjectKey>),
    Next,
    Unknown,
}

impl Live {
    /// Takes a broadcast up; the returned future writes its snapshots until the broadcast is dropped.
    pub(super) fn new(
        broadcast: Broadcast,
        folder: PathBuf,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let (snapshots, requests) = watch::channel(None);
        let live = Arc::new(Self {
            stream: broadcast.stream().clone(),
            id: broadcast.id().clone(),
            feeds: (0..MAX_TRACKS).map(|_| watch::Sender::default()).collect(),
            snapshots,
            stored: watch::Sender::new(broadcast.stored_seq()),
            written: watch::Sender::new(0),
            link: Mutex::default(),
            refusal: OnceLock::new(),
            desk: Mutex::new(Desk::new(0)),
            said: Notify::new(),
            state: Mutex::new(State {
                broadcast,
                snapshots: 0,
                cache: Cache::default(),
                base_msn: 0,
                texts_version: 0,
                multivariant: None,
                dash: None,
            }),
        });
        live.show(Wake::All);
        let path = files::snapshot_path(&folder, &live.id);
        let writer = write_snapshots(Arc::downgrade(&live), requests, path);
        (live, writer)
    }

    /// Looks at the broadcast.
    pub(super) fn with<T>(&self, look: impl FnOnce(&Broadcast) -> T) -> T {
        look(&lock(&self.state).broadcast)
    }

    /// Applies a message, wakes whom it concerns, and asks for a snapshot where one is due.
    pub(super) fn apply(&self, message: &Numbered, now_unix_ms: i64) -> Result<(), ApplyError> {
        let applied = lock(&self.state).broadcast.apply(message, now_unix_ms)?;
        self.act(applied);
        Ok(())
    }

    /// Ends the broadcast if nobody took it up in time; gives whether it can be forgotten.
    pub(super) fn tick(&self, now_unix_ms: i64) -> bool {
        let (applied, expired) = {
            let mut state = lock(&self.state);
            let applied = state.broadcast.tick(now_unix_ms);
            (applied, state.broadcast.is_expired(now_unix_ms))
        };
        if applied.store {
            tracing::warn!(stream = %self.stream, broadcast = %self.id, "nobody took the broadcast up again: it has ended");
        }
        self.act(applied);
        expired
    }

    /// Ends the broadcast.
    pub(super) fn end(&self, reason: CloseReason, now_unix_ms: i64) {
        let applied = lock(&self.state).broadcast.end(reason, now_unix_ms);
        self.act(applied);
    }

    /// Whether it has not ended.
    pub(super) fn goes_on(&self) -> bool {
        self.with(|b| b.ended().is_none())
    }

    /// Looks at it for what webhooks are to be told, while so many watch.
    pub(super) fn look(&self, viewers: u64, now_unix_ms: i64) -> Vec<Event> {
        event::look(&mut lock(&self.state).broadcast, viewers, now_unix_ms)
    }

    /// These are in the table: asks for that to be stored, beside what is stored once a segment.
    pub(super) fn kept(&self, events: &[Event]) {
        let mut state = lock(&self.state);
        for one in events {
            event::kept(&mut state.broadcast, one);
        }
        drop(state);
        self.store();
    }

    pub(super) fn resume(&self, now_unix_ms: i64) -> Option<Resume> {
        self.with(|b| b.resume(now_unix_ms))
    }

    fn act(&self, applied: Applied) {
        self.show(applied.wake);
        if applied.store {
            self.store();
        }
    }

    /// Makes new views; wakes whom it concerns. When the window has moved, the other tracks' views are made anew too, but nobody is woken.
    fn show(&self, wake: Wake) {
        if wake == Wake::None {
            return;
        }
        let (heads, moved) = {
            let mut state = lock(&self.state);
            let base = state.broadcast.base_msn();
            let moved = std::mem::replace(&mut state.base_msn, base) != base;
            let tracks = 0..state.broadcast.tracks().len();
            let heads: Vec<Option<Head>> =
                tracks.map(|track| state.broadcast.head(track)).collect();
            (heads, moved)
        };
        for (index, (feed, head)) in self.feeds.iter().zip(heads).enumerate() {
            let woken = wake == Wake::All || wake == Wake::Track(index);
            if woken || moved {
                let new = Arc::new(View {
                    head,
                    ..View::default()
                });
                feed.send_if_modified(|view| {
                    *view = new;
                    woken
                });
            }
        }
    }

    /// Asks for a snapshot of now to be written.
    pub(super) fn store(&self) {
        let snapshot = {
            let mut state = lock(&self.state);
            let bytes = state.broadcast.snapshot();
            let number = state.snapshots;
            state.snapshots += 1;
            bytes.map(|bytes| Snapshot {
                number,
                seq: state.broadcast.seq(),
                reserved_msn: state.broadcast.reserved_msn(),
                bytes: Arc::new(bytes),
            })
        };
        match snapshot {
            Ok(snapshot) => {
                // Of two that are made at once the newer one is written.
                self.snapshots.send_if_modified(|known| {
                    let newer = known
                        .as_ref()
                        .is_none_or(|known| known.number < snapshot.number);
                    if newer {
                        *known = Some(snapshot);
                    }
                    newer
                });
            }
            Err(error) => {
                tracing::error!(broadcast = %self.id, %error, "the broadcast makes no snapshot")
            }
        }
    }

    /// Waits until the last snapshot that was asked for is durable. False when that takes longer than `deadline`.
    pub(super) async fn durable(&self, deadline: Duration) -> bool {
        let asked = (self.snapshots.borrow().as_ref()).map_or(0, |s| s.number + 1);
        let mut written = self.written.subscribe();
        let done = written.wait_for(|written| *written >= asked);
        tokio::time::timeout(deadline, done)
            .await
            .is_ok_and(|done| done.is_ok())
    }

    /// Whether the last snapshot must be durable before the message.
    pub(super) fn needs_store_before(&self, message: &ToEdge) -> bool {
        self.with(|b| b.needs_store_before(message))
    }

    /// Numbers of what is stored, as it grows.
    pub(super) fn stored(&self) -> watch::Receiver<u64> {
        self.stored.subscribe()
    }

    /// Looks at the signaling, or changes it: what is to be said down the link then is.
    pub(super) fn signal<T>(
        &self,
        change: impl FnOnce(&mut Desk<oneshot::Sender<Outcome>>) -> T,
    ) -> T {
        let mut desk = lock(&self.desk);
        let done = change(&mut desk);
        if desk.has_next() {
            self.said.notify_one();
        }
        done
    }

    /// What is to be said down the link next.
    pub(super) fn next_said(&self) -> Option<ToCore> {
        lock(&self.desk).next_said()
    }

    /// Whether something is to be said.
    pub(super) fn has_said(&self) -> bool {
        lock(&self.desk).has_next()
    }

    /// Waits until something is to be said.
    pub(super) async fn said(&self) {
        self.said.notified().await;
    }

    /// A link is connected; the one before, if any, is ended. The token ends this one.
    pub(super) fn link_connected(&self, now_unix_ms: i64) -> CancellationToken {
        let token = CancellationToken::new();
        if let Some(older) = lock(&self.link).replace(token.clone()) {
            older.cancel();
        }
        lock(&self.state).broadcast.link_connected();
        self.signal(|desk| desk.linked(now_unix_ms));
        token
    }

    /// The link of this token is gone.
    pub(super) fn link_gone(&self, token: &CancellationToken, now_unix_ms: i64) {
        // One that was replaced says nothing of the new one.
        if !token.is_cancelled() {
            token.cancel();
            lock(&self.state).broadcast.link_gone(now_unix_ms);
            self.signal(|desk| desk.unlinked(now_unix_ms));
        }
    }

    /// Ends the broadcast for good, and the connection of its link, if there is one, with a sentence for the box.
    pub(super) fn refuse(&self, reason: &str, now_unix_ms: i64) {
        self.refusal.get_or_init(|| reason.to_owned());
        self.end(CloseReason::Stopped, now_unix_ms);
        if let Some(token) = lock(&self.link).take() {
            token.cancel();
            self.signal(|desk| desk.unlinked(now_unix_ms));
        }
    }

    /// Why no link is taken any more.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.refusal.get().map(String::as_str)
    }

    /// Nobody waits any more.
    pub(super) fn close(&self) {
        for feed in &self.feeds {
            let head = feed.borrow().head;
            feed.send_replace(Arc::new(View {
                head,
                closing: true,
                ..View::default()
            }));
        }
    }

    /// What those who wait for a track watch.
    pub(super) fn feed(&self, track: usize) -> Option<watch::Receiver<Arc<View>>> {
        Some(self.feeds.get(track)?.subscribe())
    }

    pub(super) fn track(&self, name: &TrackName) -> Option<usize> {
        self.with(|b| b.track(name).map(|(index, _)| index))
    }

    pub(super) fn object(&self, key: &ObjectKey) -> ObjectAnswer {
        self.with(|b| b.object(key))
    }

    /// The media playlist of a view: rendered once, for whoever asks first.
    pub(super) fn media(&self, view: &View, track: usize, form: Form) -> Arc<Text> {
        let (cell, skip) = match form {
            Form::Full => (&view.full, false),
            Form::Delta => (&view.delta, true),
        };
        cell.get_or_init(|| {
            let mut state = lock(&self.state);
            let State {
                broadcast, cache, ..
            } = &mut *state;
            let text = playlist::Text::Media { track, skip };
            Arc::new(Text::new(cache.get(broadcast, text)))
        })
        .clone()
    }

    /// The multivariant playlist, once every track can be played.
    pub(super) fn multivariant(&self) -> Option<Arc<Text>> {
        self.broadcast_text(playlist::Text::Multivariant, |state| {
            &mut state.multivariant
        })
    }

    /// The MPD, once every track can be played.
    pub(super) fn dash(&self) -> Option<Arc<Text>> {
        self.broadcast_text(playlist::Text::Dash, |state| &mut state.dash)
    }

    fn broadcast_text(
        &self,
        text: playlist::Text,
        slot: fn(&mut State) -> &mut Option<Arc<Text>>,
    ) -> Option<Arc<Text>> {
        let mut state = lock(&self.state);
        if !state.broadcast.is_playable() {
            return None;
        }
        if state.texts_version != state.broadcast.version() {
            state.texts_version = state.broadcast.version();
            (state.multivariant, state.dash) = (None, None);
        }
        if let Some(known) = slot(&mut state) {
            return Some(known.clone());
        }
        let rendered = playlist::render(&state.broadcast, text);
        let rendered = Arc::new(Text::new(rendered.into()));
        *slot(&mut state) = Some(rendered.clone());
        Some(rendered)
    }

    /// A segment by number, for somebody who has its first `have` parts.
    pub(super) fn segment(&self, track: usize, msn: u64, have: usize) -> SegmentSource {
        self.with(|b| match b.segment(track, msn) {
            SegmentAnswer::Complete(segment) if have == 0 => match &segment.key {
                Some(key) => SegmentSource::Complete(key.clone()),
                None => SegmentSource::Unknown,
            },
            SegmentAnswer::Complete(segment) => SegmentSource::Rest(
                segment
                    .parts
                    .iter()
                    .skip(have)
                    .map(|p| p.key.clone())
                    .collect(),
            ),
            SegmentAnswer::Running(parts) => {
                SegmentSource::Running(parts.get(have).map(|p| p.key.clone()))
            }
            SegmentAnswer::Next => SegmentSource::Next,
            SegmentAnswer::Unknown => SegmentSource::Unknown,
        })
    }
}

/// Writes each snapshot that is asked for, tries again while the disk does not take it, and ends when the broadcast is dropped.
async fn write_snapshots(
    live: Weak<Live>,
    mut requests: watch::Receiver<Option<Snapshot>>,
    path: PathBuf,
) {
    while requests.changed().await.is_ok() {
        let Some(snapshot) = requests.borrow_and_update().clone() else {
            continue;
        };
        let (bytes, at) = (snapshot.bytes.clone(), path.clone());
        let written = tokio::task::spawn_blocking(move || files::write(&at, &bytes)).await;
        let error = match written {
            Ok(Ok(())) => {
                let Some(live) = live.upgrade() else { return };
                lock(&live.state)
                    .broadcast
                    .stored(snapshot.seq, snapshot.reserved_msn);
                live.stored.send_replace(snapshot.seq);
                live.written.send_replace(snapshot.number + 1);
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(%error, "a broadcast's snapshot could not be stored; trying again");
        requests.mark_changed();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
