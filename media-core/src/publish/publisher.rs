//! One broadcast's publishing: [`Publisher`] is the handle that the pipeline feeds, [`start`] gives with it the future that does the I/O.
//!
//! No call of the handle waits for the store, the disk or the edge: what cannot be kept within the limits is given up, oldest first. The
//! future holds no handle; dropping the handle without [`Publisher::close`] ends the broadcast.

use std::{
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use protocol::{
    link::{CloseReason, Opened, ToEdge},
    names::{Tag, TrackName},
    object_key::ObjectKey,
    token::Credential,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{self, Instant},
};

use super::{
    link::{self, Clock, LinkError},
    queue::{
        Job, Limits, OrderError, PartChunk, Put, Queue, Source, SpoolFile, Stats, TrackAnnouncement,
    },
    spool::Spool,
    store::{Store, StoreError},
};
use crate::{edge::Edge, retry::Backoff, webrtc::Signaling};

/// Messages between the order of the broadcast and the link's own keeping; a full channel only leaves them where they are.
const LINK_CHANNEL: usize = 64;
/// What a first attempt at a put may take, and how much longer for each MiB. Twice that for each failure, because a slow line must not
/// be filled with attempts that are all cut off.
const PUT_DEADLINE: Duration = Duration::from_secs(4);
const PUT_DEADLINE_PER_MIB: Duration = Duration::from_secs(4);
const PUT_DEADLINE_MAX: Duration = Duration::from_secs(60);
const DELETE_DEADLINE: Duration = Duration::from_secs(10);
/// What the edge has to acknowledge the end after the uploads were given up.
const LAST_WORD: Duration = Duration::from_secs(2);

/// What publishing one broadcast needs.
pub struct Options {
    /// Where objects go.
    pub store: Store,
    /// Who hears of them.
    pub edge: Arc<dyn Edge>,
    /// The broadcast.
    pub opened: Opened,
    /// Number of the first link message: 1, or one more than `seq` of the [`protocol::link::Resume`] that this goes on from.
    pub first_seq: u64,
    /// The clock of the broadcast's timeline.
    pub clock: Clock,
    /// What the publisher was let in with, as it changes.
    pub credential: watch::Receiver<Option<Credential>>,
    /// What WebRTC viewers and the edge say to each other on the way.
    pub signaling: Signaling,
    /// What it may take.
    pub limits: Limits,
    /// Folder of all spools, such as `{data}/spool`.
    pub spool: PathBuf,
}

/// Why publishing ended, or could not be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The caller's mistake.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// The edge will not go on with the broadcast.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The end was not delivered in time.
    #[error("the broadcast was closed, but {0} before the deadline")]
    Undelivered(&'static str),
    /// The driver future was dropped.
    #[error("publishing was stopped")]
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Running,
    Delivered,
    Failed(PublishError),
}

struct Shared {
    queue: Mutex<Queue>,
    /// Something was put into the queue.
    work: Notify,
    close_by: Mutex<Option<Instant>>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // No code panics while it holds the lock half-way through a change, and the other tracks must go on in any case.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handle of one broadcast's publishing. Calls are in order per track and never wait.
pub struct Publisher {
    shared: Arc<Shared>,
    phase: watch::Receiver<Phase>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.shared.queue().fmt(f)
    }
}

/// Begins publishing a broadcast. The future does all the work: it ends with the last deletion that is due after the close (three
/// windows later), or with an error when the edge will not go on; it may be dropped at any time, and a later [`Store::sweep`] deletes
/// what then is left.
pub fn start(
    options: Options,
) -> (
    Publisher,
    impl Future<Output = Result<(), PublishError>> + Send,
) {
    let limits = options.limits.clone();
    let shared = Arc::new(Shared {
        queue: Mutex::new(Queue::new(
            options.opened.clone(),
            limits,
            Box::new(random_tag),
        )),
        work: Notify::new(),
        close_by: Mutex::new(None),
    });
    let (phase_sender, phase) = watch::channel(Phase::Running);
    let publisher = Publisher {
        shared: Arc::clone(&shared),
        phase,
    };
    (publisher, drive(shared, options, phase_sender))
}

/// 96 random bits. A system without randomness cannot publish under unguessable keys; there is none that this runs on.
fn random_tag() -> Tag {
    let mut bytes = [0; 12];
    if let Err(error) = getrandom::fill(&mut bytes) {
        tracing::error!(%error, "the system gives no random bits");
    }
    Tag::from_random(bytes)
}

impl Publisher {
    /// A track begins, or goes on with another header from a segment on.
    ///
    /// # Errors
    /// [`PublishError`] when it cannot, or publishing has ended.
    pub fn track(&self, track: TrackAnnouncement) -> Result<(), PublishError> {
        self.give(|queue| queue.track(track))
    }

    /// A part.
    ///
    /// # Errors
    /// [`PublishError`] when it is not the one that is due, or publishing has ended.
    pub fn part(&self, chunk: PartChunk) -> Result<(), PublishError> {
        self.give(|queue| queue.part(chunk))
    }

    /// The running segment of a track is complete.
    ///
    /// # Errors
    /// [`PublishError`] when another one is running, or publishing has ended.
    pub fn segment(
        &self,
        track: &TrackName,
        msn: u64,
        start: i64,
        duration: u64,
    ) -> Result<(), PublishError> {
        self.give(|queue| queue.segment(track, msn, start, duration))
    }

    /// The running segment of a track, or the next one, cannot be completed: it becomes a gap.
    ///
    /// # Errors
    /// As [`Publisher::segment`].
    pub fn lost(
        &self,
        track: &TrackName,
        msn: u64,
        start: i64,
        duration: u64,
    ) -> Result<(), PublishError> {
        self.give(|queue| queue.lost(track, msn, start, duration))
    }

    /// The segments from this number on continue behind a discontinuity, in every track. To be told before their first part.
    ///
    /// # Errors
    /// [`PublishError`] when it is too late, or publishing has ended.
    pub fn discontinuity(&self, msn: u64) -> Result<(), PublishError> {
        self.give(|queue| queue.discontinuity(msn))
    }

    /// From a segment on, `track` is listed with the objects of `of` (tell the discontinuity first), until [`Publisher::track`]
    /// announces objects of its own again. All segments of its own before that one must still be completed, or told as lost.
    ///
    /// # Errors
    /// [`PublishError`] when that is not possible from this segment on, or publishing has ended.
    pub fn alias(
        &self,
        track: &TrackName,
        of: &TrackName,
        from_msn: u64,
    ) -> Result<(), PublishError> {
        self.give(|queue| queue.alias(track, of, from_msn))
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.shared.queue().stats()
    }

    /// Ends when publishing failed, with the reason: the broadcast cannot go on.
    pub async fn failed(&self) -> PublishError {
        let mut phase = self.phase.clone();
        match phase
            .wait_for(|phase| matches!(phase, Phase::Failed(_)))
            .await
        {
            Ok(phase) => match &*phase {
                Phase::Failed(error) => error.clone(),
                _ => PublishError::Stopped,
            },
            Err(_) => PublishError::Stopped,
        }
    }

    /// Ends the broadcast: running segments are completed with the parts they have, uploads finish, the edge hears the end and stores it.
    /// What is not uploaded at the deadline is announced as gaps.
    ///
    /// # Errors
    /// [`PublishError::Undelivered`] when the edge did not confirm the end in time; it then ends the broadcast by itself, later.
    pub async fn close(self, reason: CloseReason, deadline: Duration) -> Result<(), PublishError> {
        self.end(reason, Some(deadline));
        let mut phase = self.phase.clone();
        match phase.wait_for(|phase| *phase != Phase::Running).await {
            Ok(phase) => match &*phase {
                Phase::Failed(error) => Err(error.clone()),
                _ => Ok(()),
            },
            Err(_) => Err(PublishError::Stopped),
        }
    }

    fn end(&self, reason: CloseReason, deadline: Option<Duration>) {
        self.shared.queue().close(reason);
        if let Some(deadline) = deadline {
            *self
                .shared
                .close_by
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + deadline);
        }
        self.shared.work.notify_one();
    }

    fn give(
        &self,
        call: impl FnOnce(&mut Queue) -> Result<(), OrderError>,
    ) -> Result<(), PublishError> {
        if let Phase::Failed(error) = &*self.phase.borrow() {
            return Err(error.clone());
        }
        let result = call(&mut self.shared.queue());
        self.shared.work.notify_one();
        result.map_err(PublishError::from)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // After a close this does nothing.
        self.end(CloseReason::Stopped, None);
    }
}

/// What a job came to.
enum Outcome {
    Put(u64, Result<(), StoreError>, ObjectKey),
    /// The pause after a failure is over.
    Again(u64),
    Unreadable(u64, std::io::Error),
    Spooled(SpoolFile, usize, std::io::Result<()>),
    Unspooled(SpoolFile, std::io::Result<()>),
    Deleted(ObjectKey, u32, Result<(), StoreError>),
}

/// The driver's own state.
struct Driver {
    shared: Arc<Shared>,
    store: Store,
    spool: Spool,
    started: Instant,
    jobs: FuturesUnordered<BoxFuture<'static, Outcome>>,
    backoffs: std::collections::HashMap<u64, Backoff>,
    /// Wakes all pauses when one put succeeds: the store is back.
    store_back: Arc<Notify>,
    store_down: Option<Instant>,
}

async fn drive(
    shared: Arc<Shared>,
    options: Options,
    phase: watch::Sender<Phase>,
) -> Result<(), PublishError> {
    let broadcast = options.opened.broadcast.clone();
    let spool = Spool::new(&options.spool, &broadcast);
    let mut driver = Driver {
        shared: Arc::clone(&shared),
        store: options.store,
        spool: spool.clone(),
        started: Instant::now(),
        jobs: FuturesUnordered::new(),
        backoffs: std::collections::HashMap::new(),
        store_back: Arc::new(Notify::new()),
        store_down: None,
    };
    let edge = options.edge;
    let (to_link, from_driver) = mpsc::channel(LINK_CHANNEL);
    let mut link = std::pin::pin!(link::run(
        &*edge,
        broadcast.clone(),
        options.first_seq,
        link::Beat {
            clock: options.clock,
            publisher: options.credential,
        },
        options.signaling,
        from_driver,
    ));
    let result = driver.publish(to_link, link.as_mut(), &phase).await;
    let result = match result {
        Ok(()) => {
            phase.send_replace(Phase::Delivered);
            Ok(())
        }
        Err(error) => {
            phase.send_replace(Phase::Failed(error.clone()));
            let mut queue = shared.queue();
            queue.close(CloseReason::Stopped);
            queue.give_up();
            Err(error)
        }
    };
    driver.clean_up().await;
    spool.clear();
    result
}

impl Driver {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Until the edge has stored the end.
    async fn publish(
        &mut self,
        to_link: mpsc::Sender<ToEdge>,
        mut link: std::pin::Pin<&mut impl Future<Output = Result<(), LinkError>>>,
        phase: &watch::Sender<Phase>,
    ) -> Result<(), PublishError> {
        let shared = Arc::clone(&self.shared);
        let mut to_link = Some(to_link);
        let mut gave_up = false;
        loop {
            self.begin_jobs();
            let mut link_full = false;
            if let Some(sender) = &to_link {
                link_full = self.give_messages(sender);
            }
            if shared.queue().is_closed() {
                // Nothing more will come: the link ends once all is stored.
                to_link = None;
            }
            let close_by = *shared
                .close_by
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let deadline = close_by.map(|at| match gave_up {
                false => at,
                true => at + LAST_WORD,
            });
            let due = shared.queue().next_due().map(|due| self.started + due);
            let sender = to_link.clone();
            tokio::select! {
                ended = &mut link => return ended.map_err(PublishError::from),
                Some(outcome) = self.jobs.next(), if !self.jobs.is_empty() => self.settle(outcome),
                () = shared.work.notified() => {}
                () = until(due) => {}
                () = until(deadline) => {
                    if gave_up {
                        return Err(PublishError::Undelivered("the edge did not confirm its end"));
                    }
                    gave_up = true;
                    if !shared.queue().is_closed() {
                        tracing::warn!("uploads are not finished at the deadline: the rest becomes gaps");
                        shared.queue().give_up();
                    }
                }
                () = has_room(sender), if link_full => {}
            }
            debug_assert!(*phase.borrow() == Phase::Running);
        }
    }

    /// After the end: deletions that are still due.
    async fn clean_up(&mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            self.begin_jobs();
            if shared.queue().is_finished()
                || (shared.queue().next_due().is_none() && self.jobs.is_empty())
            {
                return;
            }
            let due = shared.queue().next_due().map(|due| self.started + due);
            tokio::select! {
                Some(outcome) = self.jobs.next(), if !self.jobs.is_empty() => self.settle(outcome),
                () = until(due) => {}
            }
        }
    }

    /// Gives the link what can be given. True when it can take no more for now.
    fn give_messages(&self, sender: &mpsc::Sender<ToEdge>) -> bool {
        loop {
            // Room first: a message that was taken out of the queue must go somewhere.
            let Ok(permit) = sender.try_reserve() else {
                return true;
            };
            match self.shared.queue().next_message(self.now()) {
                Some(message) => permit.send(message),
                None => return false,
            }
        }
    }

    fn begin_jobs(&mut self) {
        loop {
            let job = self.shared.queue().next_job(self.now());
            match job {
                Some(Job::Put(put)) => self.jobs.push(Box::pin(attempt(
                    self.store.clone(),
                    self.spool.clone(),
                    put,
                    0,
                ))),
                Some(Job::Spool {
                    file,
                    offset,
                    data,
                    part,
                }) => {
                    let spool = self.spool.clone();
                    self.jobs.push(Box::pin(async move {
                        let result = spool.write(&file, offset, data).await;
                        Outcome::Spooled(file, part, result)
                    }));
                }
                Some(Job::Unspool(file)) => {
                    let spool = self.spool.clone();
                    self.jobs.push(Box::pin(async move {
                        let result = spool.remove(&file).await;
                        Outcome::Unspooled(file, result)
                    }));
                }
                Some(Job::Delete { key, failures }) => {
                    let store = self.store.clone();
                    self.jobs.push(Box::pin(async move {
                        let result = time::timeout(DELETE_DEADLINE, store.delete(&key))
                            .await
                            .unwrap_or(Err(StoreError::Slow(DELETE_DEADLINE)));
                        Outcome::Deleted(key, failures, result)
                    }));
                }
                None => break,
            }
        }
        for (track, msn) in self.shared.queue().take_lost() {
            tracing::error!(%track, msn, "a segment is lost: it is announced as a gap");
        }
    }

    fn settle(&mut self, outcome: Outcome) {
        let now = self.now();
        match outcome {
            Outcome::Put(id, Ok(()), _) => {
                self.backoffs.remove(&id);
                if let Some(since) = self.store_down.take() {
                    let waiting = self.shared.queue().stats().waiting;
                    tracing::info!(after = ?since.elapsed(), waiting, "the store is back");
                    self.store_back.notify_waiters();
                }
                self.shared.queue().put_done(id, now);
            }
            Outcome::Put(id, Err(error), key) => {
                if self.store_down.is_none() {
                    self.store_down = Some(Instant::now());
                    tracing::warn!(%key, %error, "a put failed; it is tried again until the store takes it");
                } else {
                    tracing::debug!(%key, %error, "a put failed");
                }
                self.shared
                    .queue()
                    .put_failed(id, !error.nothing_written(), now);
                let pause = self
                    .backoffs
                    .entry(id)
                    .or_insert_with(Backoff::live)
                    .delay();
                let back = Arc::clone(&self.store_back);
                self.jobs.push(Box::pin(async move {
                    tokio::select! {
                        () = time::sleep(pause) => {}
                        () = back.notified() => {}
                    }
                    Outcome::Again(id)
                }));
            }
            Outcome::Again(id) => {
                let failures = self.backoffs.get(&id).map_or(0, Backoff::failures);
                match self.shared.queue().put_again(id) {
                    Some(put) => self.jobs.push(Box::pin(attempt(
                        self.store.clone(),
                        self.spool.clone(),
                        put,
                        failures,
                    ))),
                    None => drop(self.backoffs.remove(&id)),
                }
            }
            Outcome::Unreadable(id, error) => {
                tracing::error!(%error, "the spool cannot be read");
                self.backoffs.remove(&id);
                self.shared.queue().unreadable(id);
            }
            Outcome::Spooled(file, part, Ok(())) => self.shared.queue().spooled(&file, part),
            Outcome::Spooled(file, _, Err(error)) => {
                tracing::error!(track = %file.track, msn = file.msn, %error, "the spool cannot be written");
                self.shared.queue().spool_failed(&file);
            }
            Outcome::Unspooled(file, result) => {
                if let Err(error) = result {
                    tracing::warn!(track = %file.track, msn = file.msn, %error, "a spool file was not removed");
                }
                self.shared.queue().unspooled();
            }
            Outcome::Deleted(_, _, Err(StoreError::NoDelete)) => {
                tracing::info!("the store deletes no objects; its own lifecycle rules must");
                self.shared.queue().forget_deletions();
            }
            Outcome::Deleted(key, failures, result) => {
                if let Err(error) = &result {
                    tracing::debug!(%key, %error, "an object was not deleted");
                }
                self.shared
                    .queue()
                    .deleted(key, failures, result.is_ok(), now);
            }
        }
    }
}

/// One attempt at a put, what was spooled read back first.
async fn attempt(store: Store, spool: Spool, put: Put, failures: u32) -> Outcome {
    let mut pieces: Vec<Bytes> = Vec::with_capacity(put.sources.len());
    for source in put.sources {
        match source {
            Source::Memory(bytes) => pieces.push(bytes),
            Source::Spooled { file, offset, len } => match spool.read(&file, offset, len).await {
                Ok(bytes) => pieces.push(bytes),
                Err(error) => return Outcome::Unreadable(put.id, error),
            },
        }
    }
    let deadline = put_deadline(put.size, failures);
    let result = time::timeout(deadline, store.put(&put.key, pieces))
        .await
        .unwrap_or(Err(StoreError::Slow(deadline)));
    Outcome::Put(put.id, result, put.key)
}

fn put_deadline(size: u64, failures: u32) -> Duration {
    let for_size = PUT_DEADLINE_PER_MIB.mul_f64(size as f64 / (1024.0 * 1024.0));
    (PUT_DEADLINE + for_size)
        .saturating_mul(1 << failures.min(8))
        .min(PUT_DEADLINE_MAX)
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Ends when the link can take a message again, or is gone.
async fn has_room(sender: Option<mpsc::Sender<ToEdge>>) {
    match sender {
        Some(sender) => drop(sender.reserve().await),
        None => std::future::pending().await,
    }
}
