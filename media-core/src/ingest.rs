//! Ingest: a publisher's connection, who it is, and its packets.
//!
//! Takes connections of encoders, asks the edge whether each may publish ([`Edge::admit`]) before any media is read, and gives a
//! [`Publisher`] a go-live: a bounded queue of [`Received`] events with the encoder's own times.
//!
//! | module | what it is | specification |
//! | --- | --- | --- |
//! | [`rtmp`] | a server session that owns no socket and no clock | Adobe RTMP 1.0, Enhanced RTMP v2 (`avc1` and `mp4a` only) |
//! | [`flv`] | audio and video messages to packets | FLV 10.1 annex E |
//! | [`address`] | key and stream out of what the encoder's address says | |
//! | [`proxy`] | the real address behind a proxy | PROXY protocol versions 1 and 2 |
//! | [`queue`] | the hand-over to the pipeline, and what is dropped when it does not keep up | |
//! | [`live`] | who publishes which stream, and what becomes of a second publisher | |
//!
//! Keys never enter a log line; text of peers enters one only shortened and without control characters.

pub mod address;
mod bitrate;
mod bounds;
mod config;
mod connection;
pub mod flv;
pub mod fuzz;
pub mod live;
pub mod proxy;
pub mod queue;
pub mod rtmp;
mod server;

use std::{fmt, net::SocketAddr};

use protocol::{names::StreamName, token::Credential};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::{
    config::{Config, Listen, SecondPublisher},
    server::{BindError, Server, listen},
};
#[cfg(doc)]
use crate::{edge::Edge, media::Received};

/// What a publisher speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RTMP over TCP.
    Rtmp,
    /// RTMP over TLS.
    Rtmps,
}

impl From<Protocol> for protocol::names::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Rtmp => Self::Rtmp,
            Protocol::Rtmps => Self::Rtmps,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rtmp => "rtmp",
            Self::Rtmps => "rtmps",
        })
    }
}

/// An admitted publisher: one go-live, or one that comes back.
///
/// Dropping `events` cuts the connection. At most one publisher of a stream exists at a time: the next one of the same stream is handed
/// over only after the `events` of the one before have been closed by their sender.
#[derive(Debug)]
pub struct Publisher {
    /// The stream that the edge admitted it to.
    pub stream: StreamName,
    /// The encoder's address (the real one, behind a trusted proxy).
    pub peer: SocketAddr,
    /// What it speaks.
    pub protocol: Protocol,
    /// What it was let in with, by which it can be taken back: a token or a stream key; `None` where the directory does not say.
    pub credential: Option<Credential>,
    /// What it sends.
    pub events: queue::Events,
    /// Cancel it to end the connection; `events` then end with [`Cut`](crate::media::PublisherEnd::Cut).
    pub cut: CancellationToken,
}

/// Why an admitted publisher was not taken: a sentence for the encoder's user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAccepted(pub String);

/// Where admitted publishers go.
pub trait Accept: Send + Sync {
    /// Takes the publisher, or says why not; never blocks.
    ///
    /// # Errors
    /// [`NotAccepted`] refuses the publisher with its sentence.
    fn accept(&self, publisher: Publisher) -> Result<(), NotAccepted>;
}

impl Accept for mpsc::Sender<Publisher> {
    fn accept(&self, publisher: Publisher) -> Result<(), NotAccepted> {
        // A full channel means that the pipeline is not taking publishers: better refused now than waiting unseen.
        self.try_send(publisher).map_err(|_| {
            NotAccepted("The server takes no more streams just now; try again.".into())
        })
    }
}
