//! Drives a broadcast link: messages of a box in, welcome and acknowledgements out.

use std::{sync::Arc, time::Duration};

use axum::extract::ws::{Message, WebSocket};
use protocol::{
    link::{CloseReason, Numbered, ToCore, ToEdge},
    names::BroadcastId,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{Edge, live::Live, wall_unix_ms};

/// Messages that lie between the two ends. A full channel holds the sender back: a box keeps what it must send again.
const CHANNEL: usize = 64;
/// A box sends a heartbeat every two seconds; after so long without one the link is gone.
const SILENCE: Duration = Duration::from_secs(15);
/// A part waits so long for the snapshot that its segment may begin, then goes on without: viewers come before a crash that may not come.
const STORE_DEADLINE: Duration = Duration::from_secs(2);

/// The box's ends of a broadcast link. Dropping either closes it.
#[derive(Debug)]
pub struct Link {
    /// Messages to the edge.
    pub to_edge: mpsc::Sender<Numbered>,
    /// Messages from the edge; the first is [`ToCore::Welcome`]. `None` when the link is cut.
    pub from_edge: mpsc::Receiver<ToCore>,
}

/// Why a link ends, if the box is to be told.
enum End {
    /// The box went, or is silent: it may come back.
    Gone,
    /// The broadcast does not go on here.
    Refused(String),
}

impl Edge {
    /// Connects the link of a broadcast.
    pub fn connect(&self, id: BroadcastId) -> Link {
        let (to_edge, messages) = mpsc::channel(CHANNEL);
        let (answers, from_edge) = mpsc::channel(CHANNEL);
        let edge = self.clone();
        self.tasks()
            .spawn(async move { edge.drive(id, messages, answers).await });
        Link { to_edge, from_edge }
    }

    /// Runs a link until it ends.
    async fn drive(
        &self,
        id: BroadcastId,
        mut messages: mpsc::Receiver<Numbered>,
        answers: mpsc::Sender<ToCore>,
    ) {
        let end = match self.live(&id) {
            Some(live) => self.carry(&live, None, &mut messages, &answers).await,
            None => self.begin(&id, &mut messages, &answers).await,
        };
        if let End::Refused(reason) = end {
            tracing::warn!(broadcast = %id, reason, "a broadcast link was refused");
            // The box is told if it still listens; a full channel means that it does not.
            let _ = answers.try_send(ToCore::Refused { reason });
        }
    }

    /// A broadcast that is new here: it begins with its first message.
    async fn begin(
        &self,
        id: &BroadcastId,
        messages: &mut mpsc::Receiver<Numbered>,
        answers: &mpsc::Sender<ToCore>,
    ) -> End {
        if answers.send(ToCore::Welcome { seq: 0 }).await.is_err() {
            return End::Gone;
        }
        let first = loop {
            match tokio::time::timeout(SILENCE, messages.recv()).await {
                // A heartbeat may overtake the first message, and so may what is of the moment.
                Ok(Some(early)) if !early.message.is_ordered() => {}
                Ok(Some(first)) => break first,
                Ok(None) | Err(_) => return End::Gone,
            }
        };
        match self.begin_broadcast(id, &first) {
            Ok(live) => self.carry(&live, Some(first.seq), messages, answers).await,
            Err(reason) => End::Refused(reason),
        }
    }

    async fn carry(
        &self,
        live: &Arc<Live>,
        begun: Option<u64>,
        messages: &mut mpsc::Receiver<Numbered>,
        answers: &mpsc::Sender<ToCore>,
    ) -> End {
        if let Some(reason) = live.refusal() {
            return End::Refused(reason.to_owned());
        }
        if !self.is_current(live) {
            return End::Refused("the stream has a newer broadcast".to_owned());
        }
        // One that has ended is linked too: its box may want the last acknowledgement; anything new is refused.
        let token = live.link_connected(self.now_unix_ms());
        let end = tokio::select! {
            end = self.exchange(live, begun, messages, answers) => end,
            () = token.cancelled() => {
                let reason = live.refusal().unwrap_or("the broadcast has another link");
                End::Refused(reason.to_owned())
            }
            () = self.closing().cancelled() => End::Gone,
        };
        live.link_gone(&token, self.now_unix_ms());
        end
    }

    async fn exchange(
        &self,
        live: &Arc<Live>,
        begun: Option<u64>,
        messages: &mut mpsc::Receiver<Numbered>,
        answers: &mpsc::Sender<ToCore>,
    ) -> End {
        let mut stored = live.stored();
        let mut acknowledged = *stored.borrow_and_update();
        if begun.is_none()
            && answers
                .send(ToCore::Welcome { seq: acknowledged })
                .await
                .is_err()
        {
            return End::Gone;
        }
        let mut heard = Instant::now();
        // What is to be acknowledged: said when there is room, so that a box that is slow to listen is listened to.
        let mut due = None;
        loop {
            let speaks = due.is_some() || live.has_said();
            tokio::select! {
                room = answers.reserve(), if speaks => {
                    let Ok(room) = room else { return End::Gone };
                    let next = (due.take()).map(|seq| ToCore::Ack { seq });
                    if let Some(next) = next.or_else(|| live.next_said()) {
                        room.send(next);
                    }
                }
                () = live.said() => {}
                message = messages.recv() => {
                    let Some(message) = message else { return End::Gone };
                    heard = Instant::now();
                    if !self.hear(live, &message.message) {
                        tracing::warn!(broadcast = %live.id, "the box speaks of viewers that it has not told of: it is to dial again");
                        return End::Gone;
                    }
                    if live.needs_store_before(&message.message) && !live.durable(STORE_DEADLINE).await {
                        tracing::warn!(broadcast = %live.id, "the edge's disk is slow: a segment begins without its snapshot");
                    }
                    let now = match message.message {
                        // The box's clock is compared with the clock that other machines have too.
                        ToEdge::Heartbeat { .. } => {
                            // A sign of life, so that a box with nothing new to be acknowledged knows that its link stands.
                            let _ = answers.try_send(ToCore::Ack { seq: acknowledged });
                            wall_unix_ms()
                        }
                        _ => self.now_unix_ms(),
                    };
                    if let Err(error) = live.apply(&message, now) {
                        return End::Refused(error.to_string());
                    }
                    if let ToEdge::Heartbeat { .. } = message.message {
                        // It may have been taken back between its admission and its first word here.
                        self.enforce_on(live);
                    }
                    if let ToEdge::Closed { reason } = message.message {
                        let (stream, broadcast) = (&live.stream, &live.id);
                        let why = match reason {
                            CloseReason::Unpublished => "the encoder ended it",
                            CloseReason::Lost => "the encoder did not come back",
                            CloseReason::Shutdown => "the box goes down",
                            CloseReason::Stopped => "it was stopped",
                        };
                        tracing::info!(%stream, %broadcast, why, "the broadcast has ended");
                    }
                }
                changed = stored.changed() => {
                    if changed.is_err() {
                        return End::Gone;
                    }
                    acknowledged = *stored.borrow_and_update();
                    due = Some(acknowledged);
                }
                () = sleep_until(heard + SILENCE) => {
                    tracing::warn!(broadcast = %live.id, "a broadcast link is silent: it is given up");
                    return End::Gone;
                }
            }
        }
    }

    /// Carries a link over a WebSocket of text frames.
    pub(super) async fn carry_socket(self, mut socket: WebSocket, id: BroadcastId) {
        let Link {
            to_edge,
            mut from_edge,
        } = self.connect(id.clone());
        loop {
            tokio::select! {
                answer = from_edge.recv() => {
                    let Some(answer) = answer else { break };
                    let Ok(text) = serde_json::to_string(&answer) else { break };
                    if socket.send(Message::Text(text.into())).await.is_err() {
                        break;
                    }
                }
                frame = socket.recv() => match frame {
                    Some(Ok(Message::Text(text))) => match serde_json::from_str::<Numbered>(&text) {
                        Ok(message) => {
                            if to_edge.send(message).await.is_err() {
                                // The driver's last word, if it had one, lies in the channel.
                                while let Ok(answer) = from_edge.try_recv() {
                                    let Ok(text) = serde_json::to_string(&answer) else { break };
                                    let _ = socket.send(Message::Text(text.into())).await;
                                }
                                break;
                            }
                        }
                        Err(error) => {
                            tracing::warn!(broadcast = %id, %error, "a link message is unreadable");
                            break;
                        }
                    },
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Binary(_) | Message::Close(_)) | Err(_)) | None => break,
                },
            }
        }
    }
}
