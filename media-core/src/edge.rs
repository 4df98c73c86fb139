//! What a box needs of the edge, behind one trait: answered in the same process by `ghost-live up`, over HTTP and WebSocket otherwise
//! ([`crate::publish`] has that side).

use futures::future::BoxFuture;
use protocol::{
    internal::{Admission, Admit, Open, OpenAnswer},
    link::{Numbered, ToCore},
    names::BroadcastId,
};
use tokio::sync::mpsc;

/// Why the edge gave no answer, or said no.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// The publisher is not admitted. The text is for the encoder's user.
    #[error("{0}")]
    Refused(String),
    /// The edge could not be asked. The text is for the operator.
    #[error("the edge did not answer: {0}")]
    Unreachable(String),
}

/// The two ends of a broadcast link on media-core's side. Dropping either closes the link.
#[derive(Debug)]
pub struct Link {
    /// Messages to the edge. Bounded: a full channel holds back the link's driver, which keeps what must be sent again.
    pub to_edge: mpsc::Sender<Numbered>,
    /// Messages from the edge; `None` when the link is cut.
    pub from_edge: mpsc::Receiver<ToCore>,
}

/// The edge, as a box sees it.
pub trait Edge: Send + Sync {
    /// May this publisher publish, and as what?
    fn admit(&self, question: Admit) -> BoxFuture<'_, Result<Admission, EdgeError>>;

    /// Which broadcast is it: a new one, or one that goes on?
    fn open(&self, question: Open) -> BoxFuture<'_, Result<OpenAnswer, EdgeError>>;

    /// Connects the link of a broadcast. The edge's first message is [`ToCore::Welcome`].
    fn connect(&self, broadcast: BroadcastId) -> BoxFuture<'_, Result<Link, EdgeError>>;
}
