//! The broadcasts and streams there are, and what a box, a viewer or a streamer asks of them.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use object_store::ObjectStore;
use protocol::{
    internal::{Admission, Admit, Open, OpenAnswer},
    link::{CloseReason, Numbered, ToEdge},
    link_auth::LinkSecret,
    names::{BroadcastId, StreamName},
    object_key::ObjectKey,
    token::StreamPattern,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    AccessError, Assets, Clock, Config,
    database::{Database, DatabaseError, Shared},
    events::Events,
    files::{self, FileError},
    live::Live,
    lock,
    objects::Objects,
    text::Text,
    webhooks::Webhooks,
};
use crate::{
    access::{self, Access},
    api::{LoggedOut, OnAir, StreamSummary, Studio},
    audience::{Audience, Beacon},
    directory::{Directory, Refusal, Stream, StreamEntry, bearer, seal::Seal, settings::Change},
    guard::{Guard, Rules},
    limits::{self, Full},
    live::Broadcast,
    sessions::Sessions,
    streams::{Bearer, Managed, Sight},
    webhooks::{Allowed, Ask, Denied, On},
};

/// A broadcast's objects are left alone for so long after the last one was written, however unknown it is, milliseconds.
const SWEEP_AFTER_MS: i64 = 10 * 60_000;
/// A deleted stream is looked after for so long at the least, milliseconds: a box that was away may still bring objects.
const DELETED_FOR_MS: i64 = 24 * 3_600_000;
/// How often the directory is looked at for what another process changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the store is looked through for what nobody knows any more.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// Addresses, tokens and sessions whose rate is known at one time: 2 MiB.
const GUARDED: usize = 1 << 17;

/// Why the edge could not do it.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// A file of the edge's folder.
    #[error(transparent)]
    File(#[from] FileError),
    /// The token keys.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A publisher's token does not let it in. The text is for a person.
    #[error(transparent)]
    Token(#[from] protocol::token::Refusal),
    /// Not admitted, or no such stream. The text is for a person.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// One more is one too many. The text is for a person.
    #[error(transparent)]
    Full(#[from] Full),
    /// The snapshot that a resumed broadcast needs was not stored in time.
    #[error("the edge's disk is too slow to take the broadcast up again")]
    Slow,
    /// A webhook does not let the publisher in. The text is for a person.
    #[error(transparent)]
    Webhook(#[from] Denied),
    /// The webhooks.
    #[error(transparent)]
    Webhooks(#[from] super::webhooks::SetupError),
    /// The directory.
    #[error(transparent)]
    Directory(DatabaseError),
    /// The link secret is too short.
    #[error("link_secret has {0} characters: it needs 32 or more")]
    Secret(usize),
}

impl From<DatabaseError> for EdgeError {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Refused(refusal) => Self::Refused(refusal),
            DatabaseError::Full(full) => Self::Full(full),
            error => Self::Directory(error),
        }
    }
}

#[derive(Debug, Default)]
struct Broadcasts {
    by_id: HashMap<BroadcastId, Arc<Live>>,
    /// The latest of each stream.
    current: HashMap<StreamName, BroadcastId>,
}

struct Inner {
    config: Config,
    clock: Clock,
    secret: Option<LinkSecret>,
    /// What viewers are answered from: as it was read or changed last.
    directory: Mutex<Arc<Directory>>,
    database: Shared,
    seal: Seal,
    tokens: super::access::Keeper,
    guard: Guard,
    started: Instant,
    webhooks: Webhooks,
    events: Events,
    broadcasts: Mutex<Broadcasts>,
    /// Held while a broadcast begins.
    beginning: Mutex<()>,
    audience: Mutex<HashMap<StreamName, Audience>>,
    sessions: Mutex<HashMap<StreamName, Sessions>>,
    objects: Objects,
    assets: Assets,
    /// The bundle's files with their compressed forms.
    texts: Mutex<HashMap<String, Arc<Text>>>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

/// The edge: a handle that is cheap to clone.
#[derive(Clone)]
pub struct Edge(Arc<Inner>);

impl std::fmt::Debug for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edge")
            .field("data", &self.0.config.data)
            .finish_non_exhaustive()
    }
}

impl Edge {
    /// Starts the edge: reads the directory and the snapshots of broadcasts that may be taken up again. Call it within a Tokio runtime,
    /// and keep [`Edge::run`] running.
    ///
    /// # Errors
    /// [`EdgeError`] when the folder cannot be used or the link secret is too short.
    pub fn start(
        config: Config,
        store: Arc<dyn ObjectStore>,
        assets: Assets,
    ) -> Result<Self, EdgeError> {
        if let Some(secret) = config.link_secret.as_ref().filter(|s| s.len() < 32) {
            return Err(EdgeError::Secret(secret.len()));
        }
        files::make_folder(&config.data)?;
        let database = Database::open(&config.data)?;
        let tokens = super::access::Keeper::open(&config.data, config.access.clone())?;
        let guard = {
            let access = config.access.clone();
            let rules = Rules {
                publish: access.publish,
                watch: access.watch,
                manage: access.manage,
            };
            let seed = super::database::random()?;
            Guard::new(config.proxies.clone(), rules, access.rates, GUARDED, seed)
        };
        let clock = Clock::start();
        let webhooks = Webhooks::new(config.webhooks.clone(), move || clock.now_unix_ms())?;
        let edge = Self(Arc::new(Inner {
            tokens,
            guard,
            webhooks,
            events: Events::default(),
            started: Instant::now(),
            clock,
            secret: config
                .link_secret
                .as_ref()
                .map(|s| LinkSecret::new(s.as_bytes())),
            directory: Mutex::new(database.known()),
            seal: database.seal().clone(),
            database: Shared::new(database),
            broadcasts: Mutex::default(),
            beginning: Mutex::default(),
            audience: Mutex::default(),
            sessions: Mutex::default(),
            objects: Objects::new(store, config.cache_bytes),
            assets,
            texts: Mutex::default(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            config,
        }));
        edge.restore()?;
        Ok(edge)
    }

    fn restore(&self) -> Result<(), EdgeError> {
        let mut found = Vec::new();
        for (path, bytes) in files::load_snapshots(&self.0.config.data)? {
            match Broadcast::restore(&bytes, self.now_unix_ms()) {
                Ok(broadcast) => found.push(broadcast),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a broadcast's snapshot is unreadable: it is left aside");
                }
            }
        }
        // The latest of a stream comes last and stays its current one.
        found.sort_by_key(Broadcast::since_unix_ms);
        for broadcast in found {
            self.take_up(broadcast);
        }
        // The stream may have been deleted meanwhile.
        self.end_deleted();
        Ok(())
    }

    fn take_up(&self, broadcast: Broadcast) -> Arc<Live> {
        let (live, writer) = Live::new(broadcast, self.0.config.data.clone());
        self.0.tasks.spawn(writer);
        let mut broadcasts = lock(&self.0.broadcasts);
        broadcasts
            .current
            .insert(live.stream.clone(), live.id.clone());
        broadcasts.by_id.insert(live.id.clone(), live.clone());
        live
    }

    /// Runs what is to be done from time to time, until `shutdown`; then lets those who wait go, and finishes what is being written.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        self.start_events();
        let looks = async {
            loop {
                // What viewers are answered from is no older than this, whoever changed it.
                self.reload().await;
                self.enforce();
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::pin!(looks);
        loop {
            tokio::select! {
                _ = tick.tick() => self.tick(),
                () = &mut looks => {}
                _ = sweep.tick() => {
                    let edge = self.clone();
                    self.0.tasks.spawn(async move { edge.sweep().await });
                }
                () = shutdown.cancelled() => break,
            }
        }
        self.close().await;
    }

    fn tick(&self) {
        let now = self.now_unix_ms();
        for live in self.broadcasts() {
            if !live.tick(now) {
                continue;
            }
            self.forget(&live, self.0.config.sweep);
        }
        self.end_deleted();
    }

    /// Deletes from the store what belongs to broadcasts that nobody knows: left behind by a crash, or of streams that were deleted.
    async fn sweep(&self) {
        let before = super::wall_unix_ms().saturating_sub(SWEEP_AFTER_MS);
        self.sweep_deleted(before).await;
        if self.0.config.sweep {
            for stream in self.names() {
                self.sweep_stream(&stream, before).await;
            }
        }
    }

    /// Deletes what is left of streams that were deleted, where the last was written before then, Unix milliseconds.
    pub(super) async fn sweep_deleted(&self, before_unix_ms: i64) {
        let deleted = self.change(|database| database.deleted()).await;
        for stream in deleted.unwrap_or_default() {
            if self.sweep_stream(&stream, before_unix_ms).await != Some(0) {
                continue;
            }
            let before = super::wall_unix_ms().saturating_sub(DELETED_FOR_MS);
            let forgotten = self.change(move |database| database.forget_deleted(&stream, before));
            if let Err(error) = forgotten.await {
                tracing::warn!(%error, "a deleted stream is looked after once more");
            }
        }
    }

    /// Deletes the objects of a stream's broadcasts that nobody knows, where the last was written before then, Unix milliseconds. Gives
    /// how many such broadcasts it found, as far as the store answered.
    async fn sweep_stream(&self, stream: &StreamName, before_unix_ms: i64) -> Option<usize> {
        let folders = self.0.objects.broadcasts(stream).await.ok()?;
        let mut found = 0;
        for folder in folders {
            let known = folder
                .parse()
                .map_or(true, |id: BroadcastId| self.live(&id).is_some());
            if known {
                continue;
            }
            found += 1;
            let swept = self.0.objects.sweep(stream, &folder, before_unix_ms).await;
            log_sweep(stream, &folder, swept);
        }
        Some(found)
    }

    /// Lets everybody who waits go, and finishes what is being written.
    async fn close(&self) {
        self.0.closing.cancel();
        let all: Vec<Arc<Live>> = {
            let mut broadcasts = lock(&self.0.broadcasts);
            broadcasts.current.clear();
            broadcasts.by_id.drain().map(|(_, live)| live).collect()
        };
        for live in all {
            live.close();
            // The most that watched since the last snapshot.
            if (self.0.webhooks).asks(On::Events, &live.stream) {
                self.count(&live);
                live.store();
            }
            if !live.durable(Duration::from_secs(5)).await {
                tracing::warn!(broadcast = %live.id, "the edge ends before a broadcast's last snapshot is stored");
            }
        }
        self.0.tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(5), self.0.tasks.wait()).await;
    }

    // ---- what a box asks

    /// May this publisher publish, and as what?
    ///
    /// # Errors
    /// [`EdgeError::Refused`] when not; the text is for the encoder's user.
    pub async fn admit(&self, question: &Admit) -> Result<Admission, EdgeError> {
        // Whoever runs already was let in, and is not cut off for what others of its address do.
        if question.probe {
            return self.admit_key(question).await;
        }
        self.guard().publisher(&question.peer, self.uptime())?;
        let admitted = self.admit_key(question).await;
        if let Err(EdgeError::Refused(_) | EdgeError::Token(_)) = &admitted {
            self.guard().publisher_failed(&question.peer, self.uptime());
        }
        admitted
    }

    async fn admit_key(&self, question: &Admit) -> Result<Admission, EdgeError> {
        let directory = self.reload().await;
        let exists = |stream: &StreamName| match directory.stream(stream) {
            Some(_) => Ok(()),
            None => Err(Refusal::NoStream(stream.clone())),
        };
        let (admission, token) = match access::is_token(&question.key) {
            true => {
                let revoked = directory.revocations();
                let publisher = self
                    .access()
                    .publish(question, revoked, super::wall_unix_ms());
                let (stream, grant) = publisher?;
                exists(&stream)?;
                let admission = Admission {
                    ends_unix_ms: grant.session_ends_unix_ms(),
                    credential: Some(grant.credential()),
                    ..Admission::of(stream)
                };
                (admission, Some(grant.claims().clone()))
            }
            false => (directory.admit(question, super::wall_unix_ms())?, None),
        };
        if question.probe {
            return Ok(admission);
        }
        let ask = Ask::publish(question, &admission.stream, token);
        let allowed = self.0.webhooks.ask(&ask).await?;
        exists(&allowed.stream)?;
        self.bound(&directory, allowed.narrow(admission))
    }

    /// Gives an admission the limits of its stream. A publisher who could not begin a broadcast hears so now; that none begins that may
    /// not is seen to when it does.
    fn bound(&self, directory: &Directory, admission: Admission) -> Result<Admission, EdgeError> {
        let stream = &admission.stream;
        let own = directory.stream(stream).map(|stream| stream.limits);
        let limits = self
            .0
            .config
            .tenants
            .limits(stream, own.unwrap_or_default());
        let live = self.broadcasts();
        let going_on = live.iter().filter(|live| live.goes_on());
        self.0
            .config
            .tenants
            .may_begin(stream, going_on.map(|live| &live.stream))?;
        let now = super::wall_unix_ms();
        // One that goes on has had a part of its time.
        let current = self.current(stream).filter(|live| live.goes_on());
        let began = current.map_or(now, |live| live.with(Broadcast::since_unix_ms));
        let ends = limits::ends_unix_ms(&limits, began);
        Ok(Admission {
            ends_unix_ms: [ends, admission.ends_unix_ms].into_iter().flatten().min(),
            limits,
            ..admission
        })
    }

    /// Whether one more may watch a stream: ask where a session begins.
    ///
    /// # Errors
    /// [`Full::Viewers`]; the text is for the viewer.
    pub fn may_watch(&self, stream: &StreamName) -> Result<(), Full> {
        let directory = self.directory();
        let limits = directory.stream(stream).map(|stream| stream.limits);
        let watching = |prefix: &str| {
            let names = directory.streams().map(|stream| &stream.name);
            let of_tenant = names.filter(|name| name.as_str().starts_with(prefix));
            of_tenant.map(|name| self.viewers(name)).sum()
        };
        let (tenants, own) = (&self.0.config.tenants, limits.unwrap_or_default());
        tenants.may_watch(stream, &own, self.viewers(stream), watching)
    }

    /// Whether webhooks let a viewer watch, and until when: asked once, when a playback session begins, after everything else was found
    /// good. Without a webhook for the stream the answer is there at once.
    ///
    /// # Errors
    /// [`Denied`]; the text is for the viewer.
    pub async fn admit_viewer(&self, ask: &Ask) -> Result<Allowed, Denied> {
        self.0.webhooks.ask(ask).await
    }

    /// Which broadcast is it: a new one, or one that goes on?
    ///
    /// # Errors
    /// [`EdgeError`] when there is no such stream, or the state could not be stored.
    pub async fn open(&self, question: &Open) -> Result<OpenAnswer, EdgeError> {
        if self.reload().await.stream(&question.stream).is_none() {
            return Err(Refusal::NoStream(question.stream.clone()).into());
        }
        let Some(live) = self.current(&question.stream) else {
            return Ok(OpenAnswer { resume: None });
        };
        let now = self.now_unix_ms();
        let resume = live.resume(now);
        match resume {
            Some(resume) => {
                // What is given out as known must be known after a crash too.
                live.store();
                if !live.durable(Duration::from_secs(5)).await {
                    return Err(EdgeError::Slow);
                }
                Ok(OpenAnswer {
                    resume: Some(resume),
                })
            }
            None => {
                if !live.with(Broadcast::is_linked) {
                    live.end(CloseReason::Lost, now);
                }
                Ok(OpenAnswer { resume: None })
            }
        }
    }

    /// An object that was just put into the store, so that the first viewer finds it in memory.
    pub fn warm(&self, key: &ObjectKey, bytes: Bytes) {
        self.0.objects.warm(key, bytes);
    }

    /// What decides over tokens now.
    pub(super) fn access(&self) -> Arc<Access> {
        self.0.tokens.access()
    }

    // ---- streams

    /// The stream of that name, with what the configuration says of it; made with a new key where there is none.
    ///
    /// # Errors
    /// [`EdgeError`] when it cannot be kept.
    pub async fn ensure_stream(
        &self,
        name: &StreamName,
        configured: &Change,
    ) -> Result<(), EdgeError> {
        let (name, configured, now) = (name.clone(), configured.clone(), self.now_unix_ms());
        self.change(move |database| database.ensure(&name, &configured, now))
            .await
    }

    /// Takes over what a box's configuration says of a stream.
    ///
    /// # Errors
    /// [`EdgeError`] when there is no such stream, or it cannot be kept.
    pub async fn configure_stream(
        &self,
        name: &StreamName,
        configured: Change,
    ) -> Result<(), EdgeError> {
        let name = name.clone();
        self.change(move |database| database.configure(&name, &configured))
            .await
    }

    /// Gives a stream a new key, for the owner whose request had this `Authorization`. The old key opens no new broadcast, and one that
    /// goes on with it ends.
    ///
    /// # Errors
    /// [`EdgeError`] when there is no such stream, or the key cannot be kept.
    pub async fn rotate_key(
        &self,
        name: &StreamName,
        authorization: Option<&str>,
    ) -> Result<(), EdgeError> {
        let (name, brought) = (name.clone(), self.studio_secret(name, authorization));
        let rotated = self.change(move |database| database.rotate_key(&name, brought.as_deref()));
        rotated.await?;
        self.enforce();
        Ok(())
    }

    /// What the studio link of a stream carries, where this `Authorization` has that and no token.
    pub(super) fn studio_secret(
        &self,
        name: &StreamName,
        authorization: Option<&str>,
    ) -> Option<String> {
        let opens = self.opens_studio(name, authorization);
        bearer(authorization).filter(|_| opens).map(str::to_owned)
    }

    /// Makes or replaces a stream as a box has it. The box shows its studio link; here it is only checked. One that has a link from before
    /// the stream was logged out of changes nothing, and is told the link that it has to take over.
    ///
    /// # Errors
    /// [`EdgeError`] when its key could not be told from another stream's, or it cannot be kept.
    pub async fn put_stream(&self, entry: StreamEntry) -> Result<Option<LoggedOut>, EdgeError> {
        let put = self.change(move |database| database.put(&entry, false));
        Ok(put.await?.map(|secret| LoggedOut {
            secret: secret.to_string(),
        }))
    }

    /// Makes a stream with a new key, for somebody who manages these.
    ///
    /// # Errors
    /// [`EdgeError`]; [`Refusal::Exists`] in it when there is one of that name, [`Full`] when there are too many.
    pub async fn create_stream(
        &self,
        name: &StreamName,
        settings: Change,
        manager: &StreamPattern,
    ) -> Result<StreamEntry, EdgeError> {
        let (name, now) = (name.clone(), super::wall_unix_ms());
        let (tenants, manager) = (self.0.config.tenants.clone(), manager.clone());
        self.change(move |database| {
            // Others may have taken the last place since it was looked whether there is one.
            let room = |directory: &Directory| {
                let streams = directory.streams().map(|stream| &stream.name);
                tenants.may_make(&manager, &name, streams, directory.revocations())
            };
            database.create(&name, &settings, room, now)
        })
        .await
    }

    /// Deletes a stream: its broadcast ends, and all that belongs to it goes.
    ///
    /// # Errors
    /// [`EdgeError`] when there is no such stream, or it cannot be deleted.
    pub async fn delete_stream(&self, name: &StreamName) -> Result<(), EdgeError> {
        let (deleted, now) = (name.clone(), super::wall_unix_ms());
        self.change(move |database| database.delete(&deleted, now))
            .await?;
        self.end_deleted();
        let (edge, name) = (self.clone(), name.clone());
        self.0
            .tasks
            .spawn(async move { edge.sweep_stream(&name, i64::MAX).await });
        Ok(())
    }

    /// Gives a stream a new key; the one before goes on until then, Unix milliseconds. Gives the new one.
    ///
    /// # Errors
    /// [`EdgeError`] when there is no such stream, or the key cannot be kept.
    pub async fn new_key(
        &self,
        name: &StreamName,
        old_until_unix_ms: Option<i64>,
    ) -> Result<Option<String>, EdgeError> {
        let name = name.clone();
        let key = self.change(move |database| {
            database.rotate_key_with_overlap(&name, None, old_until_unix_ms)?;
            let stream = database.known().stream(&name).cloned();
            let key = stream.and_then(|stream| stream.key(database.seal()).ok());
            Ok(key.map(|key| key.reveal()))
        });
        let key = key.await?;
        self.enforce();
        Ok(key)
    }

    /// Ends the broadcasts of streams that are there no more, here or by another process's hand, and forgets them.
    fn end_deleted(&self) {
        let (directory, now) = (self.directory(), self.now_unix_ms());
        for live in self.broadcasts() {
            if directory.stream(&live.stream).is_some() {
                continue;
            }
            tracing::info!(stream = %live.stream, broadcast = %live.id, "the stream was deleted: its broadcast ends");
            live.refuse("the stream was deleted", now);
            self.forget(&live, true);
        }
        lock(&self.0.audience).retain(|name, _| directory.stream(name).is_some());
        lock(&self.0.sessions).retain(|name, _| directory.stream(name).is_some());
    }

    /// Forgets a broadcast that nobody watches any more, with its snapshot and, where `sweep`, its objects.
    fn forget(&self, live: &Arc<Live>, sweep: bool) {
        let mut broadcasts = lock(&self.0.broadcasts);
        broadcasts.by_id.remove(&live.id);
        if broadcasts.current.get(&live.stream) == Some(&live.id) {
            broadcasts.current.remove(&live.stream);
        }
        drop(broadcasts);
        let (edge, live) = (self.clone(), Arc::clone(live));
        self.0.tasks.spawn(async move {
            // What webhooks were not told of it is kept now or never: its end, where its stream was deleted.
            edge.notice(std::slice::from_ref(&live)).await;
            // A snapshot that is still to be written would come after its removal.
            live.durable(Duration::from_secs(5)).await;
            files::remove(&files::snapshot_path(&edge.0.config.data, &live.id));
            if sweep {
                let objects = &edge.0.objects;
                let swept = objects
                    .sweep(&live.stream, live.id.as_str(), i64::MAX)
                    .await;
                log_sweep(&live.stream, live.id.as_str(), swept);
            }
        });
    }

    /// Changes what a stream is to viewers, and what it may take.
    ///
    /// # Errors
    /// [`EdgeError`] when there is no such stream, or it cannot be kept.
    pub async fn change_stream(&self, name: &StreamName, change: Change) -> Result<(), EdgeError> {
        let name = name.clone();
        self.change(move |database| database.change_settings(&name, &change))
            .await
    }

    /// Asks or changes the database; what it then has is what is decided with.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        calls: impl FnOnce(&mut Database) -> Result<T, DatabaseError> + Send + 'static,
    ) -> Result<T, EdgeError> {
        let edge = self.clone();
        // In the database's turn, so that an older directory never replaces a newer one, and that nothing is left undone when whoever
        // asked goes away.
        let calls = move |database: &mut Database| {
            let answer = calls(database);
            *lock(&edge.0.directory) = database.known();
            answer
        };
        Ok(self.0.database.with(calls).await?)
    }

    /// The directory as it is now: another process (`ghost-live key rotate`) may have changed it.
    async fn reload(&self) -> Arc<Directory> {
        if let Err(error) = self.change(|database| database.directory().map(drop)).await {
            tracing::error!(%error, "the directory cannot be read: what was read last stays in force");
        }
        self.directory()
    }

    pub(super) fn directory(&self) -> Arc<Directory> {
        Arc::clone(&lock(&self.0.directory))
    }

    fn names(&self) -> Vec<StreamName> {
        let directory = self.directory();
        directory.streams().map(|s| s.name.clone()).collect()
    }

    /// The stream of that name.
    pub fn stream(&self, name: &StreamName) -> Option<Stream> {
        self.directory().stream(name).cloned()
    }

    pub(super) fn knows(&self, name: &StreamName) -> bool {
        self.directory().stream(name).is_some()
    }

    /// Whether this `Authorization` opens the studio of a stream. One that is not there is refused like a wrong secret.
    pub(super) fn opens_studio(&self, name: &StreamName, authorization: Option<&str>) -> bool {
        let directory = self.directory();
        let stream = directory.stream(name);
        stream.is_some_and(|stream| stream.opens_studio(authorization))
    }

    /// The studio of a stream, for somebody whose request had this `Authorization`, of the studio link or a token that manages the stream;
    /// `None` for anybody else, for whom the database is not asked.
    pub async fn studio(
        &self,
        name: &StreamName,
        authorization: Option<&str>,
        address: IpAddr,
    ) -> Option<Studio> {
        let opens = || self.owns(name, authorization, address);
        opens().then_some(())?;
        let directory = self.reload().await;
        opens().then_some(())?;
        let stream = directory.stream(name)?;
        let key = stream
            .key(&self.0.seal)
            .inspect_err(|closed| tracing::warn!("{closed}"));
        let (summary, servers) = (self.summary(name), self.0.config.servers.clone());
        Some(Studio::new(key.ok(), stream.visibility, summary, servers))
    }

    /// What somebody is told of all streams.
    pub(super) fn listed(
        &self,
        directory: &Directory,
        bearer: Option<&Bearer<'_>>,
    ) -> Vec<StreamSummary> {
        let listed = directory.streams().filter_map(|stream| {
            match Bearer::listed(bearer, &stream.name, stream.visibility) {
                Sight::None => None,
                Sight::Watched => Some(self.told(stream, false)),
                Sight::Managed => Some(self.told(stream, true)),
            }
        });
        listed.collect()
    }

    /// What those are told of a stream who may watch it, or manage it.
    pub(super) fn told(&self, stream: &Stream, managed: bool) -> StreamSummary {
        let mut summary = self.summary(&stream.name);
        summary.managed =
            managed.then(|| Managed::new(stream.visibility, stream.limits, stream.created_unix_ms));
        summary
    }

    pub(super) fn summary(&self, name: &StreamName) -> StreamSummary {
        let viewers = self.viewers(name);
        let on_air = self.current(name).and_then(|live| live.with(OnAir::now));
        let title = (self.directory().stream(name)).and_then(|stream| stream.title.clone());
        StreamSummary::new(name.clone(), title, on_air, viewers)
    }

    /// How many watch a stream.
    pub(super) fn viewers(&self, name: &StreamName) -> u64 {
        let now = self.now_unix_ms();
        let beacons = match self.counts_beacons(name) {
            true => (lock(&self.0.audience).get_mut(name)).map_or(0, |a| a.count(now)),
            false => 0,
        };
        let sessions = self.session_count(name);
        (beacons + sessions) as u64
    }

    /// Whether beacons say who watches a stream: not where each has a session, for they are of the same people and anybody can make them
    /// up.
    pub(super) fn counts_beacons(&self, name: &StreamName) -> bool {
        let directory = self.directory();
        let stream = directory.stream(name);
        let needs_token = stream.is_some_and(|stream| stream.visibility.needs_token());
        !needs_token && !self.needs_session(&directory, name)
    }

    pub(super) fn beacon(&self, stream: &StreamName, beacon: &Beacon) {
        let now = self.now_unix_ms();
        lock(&self.0.audience)
            .entry(stream.clone())
            .or_default()
            .beacon(beacon, now);
    }

    // ---- broadcasts

    pub(super) fn live(&self, id: &BroadcastId) -> Option<Arc<Live>> {
        lock(&self.0.broadcasts).by_id.get(id).cloned()
    }

    pub(super) fn current(&self, stream: &StreamName) -> Option<Arc<Live>> {
        let broadcasts = lock(&self.0.broadcasts);
        broadcasts
            .by_id
            .get(broadcasts.current.get(stream)?)
            .cloned()
    }

    pub(super) fn is_current(&self, live: &Live) -> bool {
        lock(&self.0.broadcasts).current.get(&live.stream) == Some(&live.id)
    }

    pub(super) fn broadcasts(&self) -> Vec<Arc<Live>> {
        lock(&self.0.broadcasts).by_id.values().cloned().collect()
    }

    /// A broadcast begins with its first message; one before it of the same stream ends. The error is for the operator's log.
    pub(super) fn begin_broadcast(
        &self,
        id: &BroadcastId,
        first: &Numbered,
    ) -> Result<Arc<Live>, String> {
        let now = self.now_unix_ms();
        let ToEdge::Opened(opened) = &first.message else {
            return Err(format!(
                "the edge does not know broadcast {id}, and it does not begin here"
            ));
        };
        if opened.broadcast != *id {
            return Err("the first message is another broadcast's".to_owned());
        }
        if !self.knows(&opened.stream) {
            return Err(Refusal::NoStream(opened.stream.clone()).to_string());
        }
        let (broadcast, _) = Broadcast::begin(first, now).map_err(|e| e.to_string())?;
        // One after the other: of two that go live at once and have one place, one does.
        let _turn = lock(&self.0.beginning);
        let live = self.broadcasts();
        let going_on = live.iter().filter(|live| live.goes_on());
        let tenants = &self.0.config.tenants;
        (tenants.may_begin(&opened.stream, going_on.map(|live| &live.stream)))
            .map_err(|full| full.to_string())?;
        if let Some(before) = self.current(&opened.stream) {
            before.refuse("the stream has a newer broadcast", now);
        }
        tracing::info!(stream = %opened.stream, broadcast = %id, "a broadcast begins");
        let live = self.take_up(broadcast);
        live.store();
        Ok(live)
    }

    // ---- for the other modules

    pub(super) fn objects(&self) -> &Objects {
        &self.0.objects
    }

    /// Who may come at all.
    pub(super) fn guard(&self) -> &Guard {
        &self.0.guard
    }

    /// How long this edge runs: the time of [`Self::guard`].
    pub(super) fn uptime(&self) -> Duration {
        self.0.started.elapsed()
    }

    pub(super) fn webhooks(&self) -> &Webhooks {
        &self.0.webhooks
    }

    pub(super) fn sessions(&self) -> &Mutex<HashMap<StreamName, Sessions>> {
        &self.0.sessions
    }

    pub(super) fn events(&self) -> &Events {
        &self.0.events
    }

    pub(super) fn database(&self) -> &Shared {
        &self.0.database
    }

    pub(super) fn secret(&self) -> Option<&LinkSecret> {
        self.0.secret.as_ref()
    }

    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    pub(super) fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    pub(super) fn config(&self) -> &Config {
        &self.0.config
    }

    pub(super) fn now_unix_ms(&self) -> i64 {
        self.0.clock.now_unix_ms()
    }

    /// The clock that the timelines run by: a box's, where one is live.
    pub(super) fn timeline_unix_ms(&self) -> i64 {
        let offset = (self.broadcasts().iter())
            .filter_map(|live| live.with(|b| b.clock_offset_ms().filter(|_| b.is_linked())))
            .next();
        super::wall_unix_ms().saturating_add(offset.unwrap_or_default())
    }

    /// A file of the bundle.
    pub(super) fn asset(&self, path: &str) -> Option<Arc<Text>> {
        if let Some(text) = lock(&self.0.texts).get(path) {
            return Some(text.clone());
        }
        // Only what the bundle has is kept, so this does not grow beyond it.
        let text = Arc::new(Text::new((self.0.assets)(path)?));
        lock(&self.0.texts).insert(path.to_owned(), text.clone());
        Some(text)
    }
}

impl Config {
    /// Where a broadcast's snapshot lies: for whoever backs up or looks after a crash.
    pub fn snapshot_path(&self, id: &BroadcastId) -> PathBuf {
        files::snapshot_path(&self.data, id)
    }
}

fn log_sweep(
    stream: &StreamName,
    broadcast: &str,
    swept: Result<usize, super::objects::ObjectError>,
) {
    match swept {
        Ok(0) => {}
        Ok(objects) => {
            tracing::info!(%stream, broadcast, objects, "what was left of a broadcast is deleted")
        }
        Err(error) => {
            tracing::warn!(%stream, broadcast, %error, "what was left of a broadcast could not be deleted")
        }
    }
}
