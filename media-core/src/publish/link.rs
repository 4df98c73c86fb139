//! The broadcast link's driver: messages get their numbers, are kept until the edge has stored them and are sent again after a reconnect.
//!
//! [`Outbox`] decides, without I/O; [`run`] connects, sends, listens and connects again.

use std::{collections::VecDeque, future::pending, sync::Arc, time::Duration};

use protocol::{
    link::{Numbered, ToCore, ToEdge},
    names::BroadcastId,
    token::Credential,
};
use tokio::{
    sync::{mpsc, watch},
    time,
};

use crate::{
    edge::{Edge, EdgeError, Link},
    retry::Backoff,
    webrtc::Signaling,
};

/// How often the edge hears the box's clock.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long a connect, and then the edge's first message, may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long the edge may say nothing while a segment waits for its acknowledgement.
const SILENCE: Duration = Duration::from_secs(20);
/// Messages kept for a replay: half an hour of five tracks with the edge away, about 16 MiB. Beyond it the broadcast ends: its
/// playlists have long stood still, and a new broadcast starts clean.
pub const MAX_KEPT: usize = 32 * 1024;

/// Gives the Unix time of the broadcast's timeline, milliseconds: its epoch plus what a monotonic clock counted since.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// What every heartbeat says.
pub struct Beat {
    /// The time.
    pub clock: Clock,
    /// What the publisher was let in with. A change is said at once.
    pub publisher: watch::Receiver<Option<Credential>>,
}

/// Why the link will not be connected again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The edge said so.
    #[error("the edge ended the broadcast: {0}")]
    Refused(String),
    /// The edge lost what it had acknowledged.
    #[error(
        "the edge knows the broadcast up to message {edge}, but everything up to {acknowledged} was stored there once"
    )]
    Forgotten {
        /// What it knows.
        edge: u64,
        /// What it said it had stored.
        acknowledged: u64,
    },
    /// Another process published the same broadcast.
    #[error(
        "the edge knows message {edge} of the broadcast, but only {sent} were sent from here: another process publishes it too"
    )]
    Ahead {
        /// What it knows.
        edge: u64,
        /// What there is.
        sent: u64,
    },
    /// The edge was away for too long.
    #[error("the edge was away for so long that {MAX_KEPT} messages wait for it")]
    Overflow,
}

/// Messages that the edge has not stored yet.
#[derive(Debug)]
pub struct Outbox {
    /// Number of the first message kept.
    first: u64,
    kept: VecDeque<ToEdge>,
    /// Number of the last message sent on this connection.
    sent: u64,
    /// Number of the last one among them that makes the edge store.
    stores: u64,
}

impl Outbox {
    /// `first_seq` is 1 for a new broadcast, one more than [`protocol::link::Resume::seq`] for one that goes on.
    pub fn new(first_seq: u64) -> Self {
        Self {
            first: first_seq,
            kept: VecDeque::new(),
            sent: first_seq - 1,
            stores: 0,
        }
    }

    /// Takes a message.
    ///
    /// # Errors
    /// [`LinkError::Overflow`] when [`MAX_KEPT`] are kept already.
    pub fn push(&mut self, message: ToEdge) -> Result<(), LinkError> {
        if self.kept.len() >= MAX_KEPT {
            return Err(LinkError::Overflow);
        }
        self.kept.push_back(message);
        Ok(())
    }

    /// A connection begins: the edge has stored everything up to `seq`.
    ///
    /// # Errors
    /// [`LinkError`] when the replay cannot be without a hole.
    pub fn welcome(&mut self, seq: u64) -> Result<(), LinkError> {
        if seq + 1 < self.first {
            return Err(LinkError::Forgotten {
                edge: seq,
                acknowledged: self.first - 1,
            });
        }
        self.ack(seq)?;
        self.sent = seq;
        self.stores = 0;
        Ok(())
    }

    /// The edge has stored everything up to `seq`.
    ///
    /// # Errors
    /// [`LinkError::Ahead`] when so much was never sent.
    pub fn ack(&mut self, seq: u64) -> Result<(), LinkError> {
        let last = self.first + self.kept.len() as u64 - 1;
        if seq > last {
            return Err(LinkError::Ahead {
                edge: seq,
                sent: last,
            });
        }
        while self.first <= seq && self.kept.pop_front().is_some() {
            self.first += 1;
        }
        Ok(())
    }

    /// The next message to send on this connection. [`Outbox::sent`] is told once it was.
    pub fn next(&self) -> Option<Numbered> {
        let seq = self.sent + 1;
        let at = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        Some(Numbered {
            seq,
            message: self.kept.get(at)?.clone(),
        })
    }

    /// The message that [`Outbox::next`] gave is on its way.
    pub fn sent(&mut self, message: &ToEdge) {
        self.sent += 1;
        if matches!(message, ToEdge::Segment(_) | ToEdge::Closed { .. }) {
            self.stores = self.sent;
        }
    }

    /// Whether the edge has stored everything.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Whether something was sent that the edge stores, and thus acknowledges, soon. It stores once a segment: parts alone may wait for
    /// as long as the object store is down.
    pub fn awaits_ack(&self) -> bool {
        self.stores >= self.first
    }
}

/// Carries the messages of one broadcast to the edge until the sender of `messages` is dropped and the edge has stored all of them.
///
/// `messages` is drained also while the edge is away, into the [`Outbox`]; its bound is the only one that a publisher feels.
///
/// # Errors
/// [`LinkError`] when the edge will not go on with the broadcast.
pub async fn run(
    edge: &dyn Edge,
    broadcast: BroadcastId,
    first_seq: u64,
    mut beat: Beat,
    mut signaling: Signaling,
    mut messages: mpsc::Receiver<ToEdge>,
) -> Result<(), LinkError> {
    let mut outbox = Outbox::new(first_seq);
    let mut backoff = Backoff::live();
    // The pause after a failure is part of the attempt, so that messages are taken during both.
    let mut pause = Duration::ZERO;
    loop {
        let attempt = async {
            time::sleep(pause).await;
            match time::timeout(CONNECT_DEADLINE, connect(edge, broadcast.clone())).await {
                Ok(result) => result,
                Err(_) => Err(EdgeError::Unreachable(format!(
                    "no answer within {CONNECT_DEADLINE:?}"
                ))),
            }
        };
        let (mut link, seq) = tokio::select! {
            connected = attempt => match connected {
                Ok(connected) => connected,
                Err(EdgeError::Refused(reason)) => return Err(LinkError::Refused(reason)),
                Err(error) => {
                    if backoff.failures() == 0 {
                        tracing::warn!(%broadcast, %error, "the broadcast link is down; trying again until it is back");
                    }
                    pause = backoff.delay();
                    continue;
                }
            },
            overflow = absorb(&mut outbox, &mut messages) => return Err(overflow),
        };
        outbox.welcome(seq)?;
        if backoff.failures() > 0 {
            tracing::info!(%broadcast, seq, "the broadcast link is back");
        }
        backoff.reset();
        if carry(
            &mut outbox,
            &mut messages,
            &mut link,
            &mut beat,
            &mut signaling,
        )
        .await?
        {
            return Ok(());
        }
        tracing::warn!(%broadcast, "the broadcast link was cut");
        pause = backoff.delay();
    }
}

async fn connect(edge: &dyn Edge, broadcast: BroadcastId) -> Result<(Link, u64), EdgeError> {
    let mut link = edge.connect(broadcast).await?;
    match link.from_edge.recv().await {
        Some(ToCore::Welcome { seq }) => Ok((link, seq)),
        Some(ToCore::Refused { reason }) => Err(EdgeError::Refused(reason)),
        Some(_) => Err(EdgeError::Unreachable(
            "its first message was no welcome".into(),
        )),
        None => Err(EdgeError::Unreachable(
            "the link was cut before its welcome".into(),
        )),
    }
}

/// Takes messages while there is no connection. Ends only when too many are kept.
async fn absorb(outbox: &mut Outbox, messages: &mut mpsc::Receiver<ToEdge>) -> LinkError {
    while let Some(message) = messages.recv().await {
        if let Err(error) = outbox.push(message) {
            return error;
        }
    }
    pending().await
}

/// Serves one connection. True when everything is delivered and nothing more will come; false when the link was cut.
async fn carry(
    outbox: &mut Outbox,
    messages: &mut mpsc::Receiver<ToEdge>,
    link: &mut Link,
    beat: &mut Beat,
    signaling: &mut Signaling,
) -> Result<bool, LinkError> {
    signaling.connected();
    let mut heartbeat = time::interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut heard = time::Instant::now();
    let mut open = true;
    loop {
        if !open && outbox.is_empty() {
            return Ok(true);
        }
        let next = outbox.next();
        if !outbox.awaits_ack() {
            heard = time::Instant::now();
        }
        tokio::select! {
            answer = link.from_edge.recv() => {
                heard = time::Instant::now();
                match answer {
                    Some(ToCore::Ack { seq }) => outbox.ack(seq)?,
                    Some(ToCore::Welcome { seq }) => outbox.welcome(seq)?,
                    Some(ToCore::Refused { reason }) => return Err(LinkError::Refused(reason)),
                    Some(ToCore::Signal { request, signal }) => signaling.signal(request, signal),
                    Some(ToCore::End { sessions }) => signaling.end(sessions).await,
                    None => return Ok(false),
                }
            }
            permit = link.to_edge.reserve(), if next.is_some() => match (permit, next) {
                (Ok(permit), Some(message)) => {
                    outbox.sent(&message.message);
                    permit.send(message);
                }
                _ => return Ok(false),
            },
            message = messages.recv(), if open => match message {
                Some(message) => outbox.push(message)?,
                None => open = false,
            },
            _ = heartbeat.tick() => {
                let publisher = beat.publisher.borrow_and_update().clone();
                let message = ToEdge::Heartbeat { clock_unix_ms: (beat.clock)(), publisher };
                let beat = Numbered { seq: 0, message };
                // Dropped when the channel is full: the next one is worth more.
                if let Err(mpsc::error::TrySendError::Closed(_)) = link.to_edge.try_send(beat) {
                    return Ok(false);
                }
            }
            Some(message) = signaling.recv() => {
                // Dropped when the channel is full: who asked asks again.
                let message = Numbered { seq: 0, message };
                if let Err(mpsc::error::TrySendError::Closed(_)) = link.to_edge.try_send(message) {
                    return Ok(false);
                }
            }
            Ok(()) = beat.publisher.changed() => heartbeat.reset_immediately(),
            () = time::sleep_until(heard + SILENCE) => return Ok(false),
        }
    }
}
