//! WebRTC out: the packets of a broadcast's rungs to each viewer, straight from the encoder's output.
//!
//! One UDP port serves all viewers of all broadcasts; no other is opened, for what viewers and box have to say to each other before that goes over
//! the broadcast link ([`protocol::signaling`]). ICE (lite), DTLS, RTCP, retransmission and congestion control are str0m's.
//!
//! | module | what it is |
//! | --- | --- |
//! | `rtp` | frames as RTP payloads, made once for all viewers |
//! | `feed` | what a broadcast gives: its layers, their frames, its sound as Opus while somebody hears it |
//! | `engine` | the thread that has the socket, and all viewers |
//! | `viewer` | one viewer: which layer it is sent, and how |
//! | `socket` | the port: batches of datagrams, and which addresses it is reached at |

mod engine;
mod feed;
mod rtp;
mod socket;
mod viewer;

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use protocol::{
    link::ToEdge,
    names::{BroadcastId, TrackName},
    signaling::{Outcome, Refusal, Signal},
    token::Tag,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use feed::{Feed, Layer};

use crate::ingest::Listen;
use engine::{Command, Engine};

/// `[webrtc]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and UDP port for media, or `off`. `[::]` takes IPv4 as well.
    pub listen: Listen,
    /// Addresses that viewers reach this machine at, where it does not know them itself (behind a NAT). Found by themselves when empty.
    pub addresses: Vec<IpAddr>,
    /// Viewers of all broadcasts at a time, over 0; one more is told to play HLS.
    pub max_viewers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen(Some((Ipv6Addr::UNSPECIFIED, 8189).into())),
            addresses: Vec::new(),
            max_viewers: 500,
        }
    }
}

/// Why there is no WebRTC.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken, or may not be had.
    #[error("the WebRTC port {0} cannot be opened: {1}")]
    Port(SocketAddr, io::Error),
    /// The system gave no thread.
    #[error("there is no thread for WebRTC: {0}")]
    Thread(io::Error),
    /// No certificate could be made.
    #[error("there is no certificate for DTLS")]
    Certificate,
}

/// Commands that wait for the engine: some milliseconds of many broadcasts. Frames beyond are dropped, and their layer begins anew at its next IDR.
const COMMANDS: usize = 4_096;
/// Answers of a broadcast that wait for its link. Beyond, they are dropped, and the edge tells the viewer that there was none.
const ANSWERS: usize = 1_024;

/// The box's WebRTC: a handle that is cheap to clone. The engine ends with the last one.
#[derive(Debug, Clone)]
pub struct Webrtc {
    commands: mpsc::Sender<Command>,
    addresses: Arc<[SocketAddr]>,
}

/// What the broadcast link carries between the edge and the viewers of one broadcast.
#[derive(Debug)]
pub struct Signaling {
    /// `None` where WebRTC is off.
    engine: Option<(BroadcastId, mpsc::Sender<Command>)>,
    to_edge: mpsc::Sender<ToEdge>,
    answers: mpsc::Receiver<ToEdge>,
}

impl Signaling {
    /// One that knows no viewers: WebRTC is off.
    pub fn none() -> Self {
        let (to_edge, answers) = mpsc::channel(ANSWERS);
        Self {
            engine: None,
            to_edge,
            answers,
        }
    }

    /// The link is connected: the edge is to hear who watches.
    pub fn connected(&self) {
        if let Some((broadcast, commands)) = &self.engine {
            let broadcast = broadcast.clone();
            // An engine that is overloaded says soon after who still watches.
            let _ = commands.try_send(Command::Connected { broadcast });
        }
    }

    /// A viewer says something. It is answered with a refusal at once where nobody can hear it.
    pub fn signal(&self, request: u64, signal: Signal) {
        let given = self.engine.as_ref().is_some_and(|(broadcast, commands)| {
            let broadcast = broadcast.clone();
            let command = Command::Signal {
                broadcast,
                request,
                signal,
            };
            commands.try_send(command).is_ok()
        });
        if !given {
            let reason = Refusal::Unavailable;
            let outcome = Outcome::Refused { reason };
            // Full: the edge's question has its own deadline.
            let _ = self.to_edge.try_send(ToEdge::Signaled { request, outcome });
        }
    }

    /// These sessions are over.
    pub async fn end(&self, sessions: Vec<Tag>) {
        if let Some((broadcast, commands)) = &self.engine {
            let broadcast = broadcast.clone();
            let end = Command::End {
                broadcast,
                sessions,
            };
            // It must be heard. An engine that has ended has no viewers.
            let _ = commands.send(end).await;
        }
    }

    /// The next thing that the edge is to hear.
    pub async fn recv(&mut self) -> Option<ToEdge> {
        self.answers.recv().await
    }
}

impl Webrtc {
    /// Opens the port and starts the thread; `None` where it is off.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(config: &Config) -> Result<Option<Self>, StartError> {
        let Some(listen) = config.listen.0 else {
            return Ok(None);
        };
        let (commands, waiting) = mpsc::channel(COMMANDS);
        let (engine, addresses) = Engine::open(listen, config, waiting)?;
        std::thread::Builder::new()
            .name("webrtc".to_owned())
            .spawn(move || engine.run())
            .map_err(StartError::Thread)?;
        Ok(Some(Self {
            commands,
            addresses: addresses.into(),
        }))
    }

    /// Where viewers are told to send to.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A broadcast begins: what it is fed with, and what its link carries. `key_frames` hears which layers are to begin anew. The timeline's zero was at
    /// `zero` (and Unix time `epoch_unix_ms`).
    pub fn broadcast(
        &self,
        broadcast: BroadcastId,
        zero: Zero,
        key_frames: mpsc::Sender<TrackName>,
    ) -> (Feed, Signaling) {
        let (to_edge, answers) = mpsc::channel(ANSWERS);
        let signaling = Signaling {
            engine: Some((broadcast.clone(), self.commands.clone())),
            to_edge: to_edge.clone(),
            answers,
        };
        let feed = Feed::begin(self.commands.clone(), broadcast, zero, key_frames, to_edge);
        (feed, signaling)
    }
}

/// Where a broadcast's timeline lies on the clocks.
#[derive(Debug, Clone, Copy)]
pub struct Zero {
    /// An instant of the monotonic clock.
    pub anchor: Instant,
    /// Media time at that instant, milliseconds.
    pub media_ms: i64,
    /// Unix time of media time zero, milliseconds.
    pub epoch_unix_ms: i64,
}

impl Zero {
    /// When a media time is, on the monotonic clock.
    fn instant(&self, ticks: i64, rate: u32) -> Instant {
        let us =
            i128::from(ticks) * 1_000_000 / i128::from(rate) - i128::from(self.media_ms) * 1_000;
        let off = std::time::Duration::from_micros(us.unsigned_abs() as u64);
        match us < 0 {
            true => self.anchor.checked_sub(off).unwrap_or(self.anchor),
            false => self.anchor + off,
        }
    }
}
