//! The hand-over from a publisher's socket to the pipeline: bounded, and never in the way of the socket.
//!
//! **What happens when the pipeline does not keep up.** At [`Limit::events`] events or [`Limit::bytes`] bytes waiting, the queue drops
//! video up to the next IDR that finds room, and audio for as long as there is none. What the decoder cannot do without (the newest
//! configurations) and the newest metadata are kept and sent ahead of the next packet that fits. Nothing waits, so a slow pipeline never blocks the socket.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::mpsc;

use crate::media::{IngestEvent, PublisherEnd, Received};

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Events, over 4.
    pub events: usize,
    /// Payload bytes.
    pub bytes: usize,
}

impl Default for Limit {
    /// About ten seconds of 60 frames a second with audio, and 16 MiB.
    fn default() -> Self {
        Self {
            events: 1_024,
            bytes: 16 << 20,
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    bytes: AtomicUsize,
    unpublished: AtomicBool,
}

/// A queue for one publisher.
pub fn channel(limit: Limit) -> (Sender, Events) {
    let (tx, rx) = mpsc::channel(limit.events.max(4));
    let shared = Arc::new(Shared::default());
    let sender = Sender {
        tx,
        shared: shared.clone(),
        max_bytes: limit.bytes,
        pending: Default::default(),
        waits_for_idr: false,
        dropped: Dropped::default(),
    };
    (sender, Events { rx, shared })
}

/// What was dropped since the last time it was asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Video frames.
    pub video: u64,
    /// Audio frames.
    pub audio: u64,
}

/// The pipeline no longer listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pipeline ended")]
pub struct Closed;

/// The socket's end. Dropping it ends the events with [`PublisherEnd::Cut`].
#[derive(Debug)]
pub struct Sender {
    tx: mpsc::Sender<Received>,
    shared: Arc<Shared>,
    max_bytes: usize,
    /// The newest metadata, video and audio configuration that did not fit but must not be lost.
    pending: [Option<Received>; 3],
    waits_for_idr: bool,
    dropped: Dropped,
}

impl Sender {
    /// Hands an event over, or drops by the policy of the module; never waits.
    ///
    /// # Errors
    /// [`Closed`] when the pipeline dropped its end.
    pub fn send(&mut self, received: Received) -> Result<(), Closed> {
        if self.tx.is_closed() {
            return Err(Closed);
        }
        match received.event {
            IngestEvent::Metadata(_) => self.pending[0] = Some(received),
            IngestEvent::VideoConfig(_) => self.pending[1] = Some(received),
            IngestEvent::AudioConfig(_) => self.pending[2] = Some(received),
            IngestEvent::Video { idr, .. } => {
                if (self.waits_for_idr && !idr) || !self.try_packet(received) {
                    self.waits_for_idr = true;
                    self.dropped.video += 1;
                } else {
                    self.waits_for_idr = false;
                }
                return Ok(());
            }
            IngestEvent::Audio { .. } => {
                if !self.try_packet(received) {
                    self.dropped.audio += 1;
                }
                return Ok(());
            }
        }
        // Configurations and metadata go at once where there is room, so that order is kept.
        self.try_pending();
        Ok(())
    }

    /// What was dropped since the last call; `None` when nothing was.
    pub fn take_dropped(&mut self) -> Option<Dropped> {
        let dropped = std::mem::take(&mut self.dropped);
        (dropped != Dropped::default()).then_some(dropped)
    }

    /// Ends the events with [`PublisherEnd::Unpublished`].
    pub fn unpublished(self) {
        self.shared.unpublished.store(true, Ordering::Release);
    }

    /// Resolves when the pipeline dropped its end.
    pub async fn closed(&self) {
        self.tx.closed().await;
    }

    fn try_packet(&mut self, received: Received) -> bool {
        let bytes = payload_bytes(&received.event);
        let waiting = self.shared.bytes.load(Ordering::Acquire);
        waiting.saturating_add(bytes) <= self.max_bytes
            && self.try_pending()
            && self.push(received).is_ok()
    }

    fn try_pending(&mut self) -> bool {
        for slot in 0..self.pending.len() {
            if let Some(received) = self.pending[slot].take()
                && let Err(back) = self.push(received)
            {
                self.pending[slot] = Some(back);
                return false;
            }
        }
        true
    }

    fn push(&self, received: Received) -> Result<(), Received> {
        let bytes = payload_bytes(&received.event);
        // Counted before it is sent: the receiver subtracts as soon as it has it.
        self.shared.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.tx.try_send(received).map_err(|error| {
            self.shared.bytes.fetch_sub(bytes, Ordering::AcqRel);
            error.into_inner()
        })
    }
}

/// The pipeline's end. Dropping it cuts the connection.
#[derive(Debug)]
pub struct Events {
    rx: mpsc::Receiver<Received>,
    shared: Arc<Shared>,
}

impl Events {
    /// The next event; `None` when the connection has ended, and then [`Events::end`] says how. Cancel safe.
    pub async fn recv(&mut self) -> Option<Received> {
        let received = self.rx.recv().await?;
        let bytes = payload_bytes(&received.event);
        self.shared.bytes.fetch_sub(bytes, Ordering::AcqRel);
        Some(received)
    }

    /// How the connection ended; meaningful after [`Events::recv`] has given `None`.
    pub fn end(&self) -> PublisherEnd {
        match self.shared.unpublished.load(Ordering::Acquire) {
            true => PublisherEnd::Unpublished,
            false => PublisherEnd::Cut,
        }
    }

    /// Events that wait, and their payload bytes.
    pub fn waiting(&self) -> (usize, usize) {
        (self.rx.len(), self.shared.bytes.load(Ordering::Acquire))
    }
}

fn payload_bytes(event: &IngestEvent) -> usize {
    match event {
        IngestEvent::Metadata(_) => 0,
        IngestEvent::VideoConfig(config) => config.avcc.len(),
        IngestEvent::AudioConfig(config) => config.asc.len(),
        IngestEvent::Video { data, .. } | IngestEvent::Audio { data, .. } => data.len(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::media::VideoConfig;

    fn video(timestamp_ms: u32, idr: bool) -> Received {
        at(IngestEvent::Video {
            timestamp_ms,
            composition_offset_ms: 0,
            idr,
            data: Bytes::from_static(&[0; 100]),
        })
    }

    fn at(event: IngestEvent) -> Received {
        Received {
            at: Duration::ZERO,
            event,
        }
    }

    fn config(tag: &'static [u8]) -> Received {
        at(IngestEvent::VideoConfig(VideoConfig {
            avcc: Bytes::from_static(tag),
        }))
    }

    fn drain(events: &mut Events) -> Vec<IngestEvent> {
        std::iter::from_fn(|| events.rx.try_recv().ok())
            .inspect(|received| {
                let bytes = payload_bytes(&received.event);
                events.shared.bytes.fetch_sub(bytes, Ordering::AcqRel);
            })
            .map(|received| received.event)
            .collect()
    }

    #[test]
    fn a_full_queue_drops_video_up_to_the_next_idr_and_keeps_the_newest_configuration() {
        let limit = Limit {
            events: 4,
            bytes: 1 << 20,
        };
        let (mut sender, mut events) = channel(limit);
        for n in 0..4 {
            sender.send(video(n, n == 0)).unwrap();
        }
        sender.send(video(4, false)).unwrap();
        sender.send(config(b"old")).unwrap();
        sender.send(config(b"new")).unwrap();
        assert_eq!(drain(&mut events).len(), 4);

        // There is room again, but a frame that needs what was dropped is of no use.
        sender.send(video(5, false)).unwrap();
        assert_eq!(drain(&mut events), []);
        sender.send(video(6, true)).unwrap();
        sender.send(video(7, false)).unwrap();
        let expected = [config(b"new"), video(6, true), video(7, false)].map(|r| r.event);
        assert_eq!(drain(&mut events), expected);
        assert_eq!(sender.take_dropped(), Some(Dropped { video: 2, audio: 0 }));
        assert_eq!(sender.take_dropped(), None);
    }

    #[test]
    fn bytes_bound_the_queue_as_well_as_events() {
        let limit = Limit {
            events: 1_000,
            bytes: 250,
        };
        let (mut sender, mut events) = channel(limit);
        for n in 0..10 {
            sender.send(video(n, true)).unwrap();
        }
        assert_eq!(events.waiting(), (2, 200));
        assert_eq!(drain(&mut events).len(), 2);
        assert_eq!(events.waiting(), (0, 0));
    }

    #[tokio::test]
    async fn the_end_is_a_cut_unless_the_encoder_unpublished() {
        let (sender, mut events) = channel(Limit::default());
        drop(sender);
        assert_eq!(events.recv().await, None);
        assert_eq!(events.end(), PublisherEnd::Cut);

        let (sender, mut events) = channel(Limit::default());
        sender.unpublished();
        assert_eq!(events.recv().await, None);
        assert_eq!(events.end(), PublisherEnd::Unpublished);

        let (mut sender, events) = channel(Limit::default());
        drop(events);
        assert_eq!(sender.send(video(0, true)), Err(Closed));
    }
}
