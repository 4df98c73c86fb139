//! Which publisher belongs to which broadcast.
//!
//! A publisher of a stream whose broadcast waits for its encoder goes to that broadcast; any other begins one. Broadcasts run in tasks of
//! the hub and end with it.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::names::StreamName;
use tokio::{
    sync::mpsc,
    task::{Id, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{Config, session};
use crate::{
    edge::Edge,
    ingest::Publisher,
    publish::{Store, queue::Limits},
    transcode,
    webrtc::Webrtc,
};

/// What all broadcasts share.
#[derive(Clone)]
pub struct Environment {
    /// The edge.
    pub edge: Arc<dyn Edge>,
    /// Where objects go.
    pub store: Store,
    /// `[broadcast]`.
    pub broadcast: Config,
    /// `[transcode]`.
    pub transcode: transcode::Config,
    /// What encodes.
    pub encoder: transcode::Kind,
    /// `None` where it is off.
    pub webrtc: Option<Webrtc>,
    /// `[publish]`.
    pub publish: Limits,
    /// Folder of the spools.
    pub spool: PathBuf,
    /// The zero of [`crate::media::Received::at`].
    pub started: Instant,
}

/// Runs the broadcasts of a box.
pub struct Hub {
    environment: Environment,
    running: HashMap<StreamName, Running>,
    tasks: JoinSet<()>,
}

struct Running {
    task: Id,
    /// Publishers that come back. One at a time: ingest admits one publisher a stream.
    returning: mpsc::Sender<Publisher>,
}

/// How long the end of all broadcasts may take at a shutdown: uploads and the edge's confirmation.
const SHUTDOWN: Duration = Duration::from_secs(15);

impl Hub {
    /// A hub without broadcasts.
    pub fn new(environment: Environment) -> Self {
        Self {
            environment,
            running: HashMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Takes publishers until `shutdown`; then closes every broadcast and waits for it.
    pub async fn run(
        mut self,
        mut publishers: mpsc::Receiver<Publisher>,
        shutdown: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                publisher = publishers.recv() => match publisher {
                    Some(publisher) => self.take(publisher, &shutdown),
                    None => break,
                },
                Some(ended) = self.tasks.join_next_with_id() => {
                    let id = match &ended {
                        Ok((id, ())) => *id,
                        Err(error) => error.id(),
                    };
                    if let Err(error) = ended {
                        tracing::error!(%error, "a broadcast ended by a defect");
                    }
                    self.running.retain(|_, running| running.task != id);
                }
            }
        }
        drop(publishers);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN, all).await.is_err() {
            tracing::warn!(
                "some broadcasts could not be closed in time; the edge ends them by itself"
            );
        }
    }

    fn take(&mut self, publisher: Publisher, shutdown: &CancellationToken) {
        let publisher = match self.running.get(&publisher.stream) {
            Some(running) => match running.returning.try_send(publisher) {
                Ok(()) => return,
                // Its broadcast ends at this very moment: what comes begins a new one.
                Err(error) => error.into_inner(),
            },
            None => publisher,
        };
        let stream = publisher.stream.clone();
        let (returning, receiver) = mpsc::channel(1);
        let span = tracing::info_span!("broadcast", %stream);
        let session = session::run(
            self.environment.clone(),
            publisher,
            receiver,
            shutdown.clone(),
        );
        let task = self.tasks.spawn(session.instrument(span)).id();
        self.running.insert(stream, Running { task, returning });
    }
}
