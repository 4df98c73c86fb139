//! `ghost-live up`, `media-core`, `edge`: starts the parts, joins them, and ends them cleanly.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use edge_worker::{
    directory::{OldKey, Stream, StreamEntry, seal::Seal, settings::Change},
    guard::Proxies,
    native as web,
    streams::MAX_OVERLAP_S,
};
use media_core::{
    broadcast::{Environment, Hub},
    edge::{Edge, EdgeError, Link},
    ingest::{Protocol, Server},
    publish::{RemoteEdge, Store, StudioKey, store},
    tls::{self, Certificates, acme::Issuer},
    transcode,
    webrtc::Webrtc,
};
use protocol::{
    internal::{Admission, Admit, Open, OpenAnswer},
    link_auth::LinkSecret,
    names::{BroadcastId, StreamName},
    stream_key::StreamKey,
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    Files, assets,
    config::{Certificate, Config},
    demo,
    panel::{self, Panel},
    streams::{self, Keeper},
};

/// Publishers that wait to be taken by the hub: more than that at one moment are refused and come again.
const PUBLISHERS: usize = 16;

/// How long viewers who wait for a part are still answered after the broadcasts were closed: they learn of the end.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// How long the start waits for a remote edge to take the streams; after that it goes on trying beside the rest.
const EDGE_ANSWERS: Duration = Duration::from_secs(10);

/// How often a bucket is swept of what a crash left behind.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// When the store deletes objects by itself, days: a broadcast's headers are written once, so no broadcast lasts longer.
const EXPIRE_DAYS: u32 = 30;

/// Open files beside viewers: publishers, uploads, the spool.
const OTHER_FILES: usize = 1_000;

/// Random characters of a link secret.
const SECRET_BYTES: usize = 32;

/// Which parts run in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parts {
    /// Everything, and perhaps a test picture.
    All {
        /// Whether the test picture is published.
        demo: bool,
    },
    /// Ingest, transcode and publish, for a remote edge.
    MediaCore,
    /// Playlists, media and pages.
    Edge,
}

/// Runs parts until Ctrl-C or `SIGTERM`.
///
/// # Errors
/// When something cannot start; a sentence for the operator.
pub(crate) async fn up(files: &Files, parts: Parts) -> anyhow::Result<()> {
    let config = Config::load(files)?;
    config.validate()?;
    make_data_folder(&config.data)?;
    raise_file_limit(config.web.max_connections);
    let mut running = JoinSet::new();
    // Two steps, so that viewers still hear of the end when the broadcasts have closed.
    let (stop_media, stop_web) = (CancellationToken::new(), CancellationToken::new());

    let mut identity = identity(&config, &mut running, &stop_web)?;
    let trusted = identity.trusted;
    let edge = match parts {
        Parts::MediaCore => None,
        Parts::All { .. } if config.edge.url.is_some() => None,
        _ => Some(start_edge(&config, parts, &identity, &mut running, &stop_web).await?),
    };
    if let Some(issuer) = identity.issuer.take() {
        let stop = stop_web.clone();
        let offered = match parts {
            Parts::Edge => None,
            _ => rtmps(&config, true),
        };
        let say = move || {
            if let Some((address, host)) = offered {
                let port = address.port();
                tracing::info!("encoders can now use rtmps://{host}:{port}/live as well");
            }
        };
        running.spawn(async move {
            stop.run_until_cancelled(issuer.run(say)).await;
            Ok(())
        });
    }
    let mut media = None;
    if parts != Parts::Edge {
        let demo = parts == Parts::All { demo: true };
        let remote = match edge {
            Some(_) => None,
            None => Some(remote_edge(&config)?),
        };
        if let Some(remote) = &remote {
            give_streams(&config, remote, demo, &mut running, &stop_web).await?;
        }
        let (hub, addresses) = start_media(
            &config,
            edge,
            remote,
            &identity.certificates,
            &mut running,
            &stop_media,
        )
        .await?;
        media = Some(hub);
        let database = web::Database::open(&edge_folder(&config))?;
        let kept = |name: &StreamName| kept(&database, name);
        let streams = config.streams();
        let first = streams.keys().next().context("there is no stream")?;
        print_panel(
            &config,
            &kept(first)?,
            database.seal(),
            &addresses,
            trusted,
            demo,
        )?;
        if demo {
            let key = kept(&demo::STREAM.parse()?)?.key(database.seal())?;
            start_demo(&key, &addresses, &mut running, &stop_media)?;
        }
    }
    tokio::select! {
        () = interrupted() => tracing::info!("ending: broadcasts are closed and uploads finish"),
        Some(ended) = running.join_next() => {
            ended.context("a part ended by a defect")??;
            bail!("a part ended by itself");
        }
    }
    stop_media.cancel();
    if let Some(media) = media {
        media.await.context("the broadcasts ended by a defect")?;
        tokio::time::sleep(LAST_ANSWERS).await;
    }
    stop_web.cancel();
    while let Some(ended) = running.join_next().await {
        ended.context("a part ended by a defect")??;
    }
    Ok(())
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signals) => {
                signals.recv().await;
            }
            Err(error) => {
                tracing::warn!(%error, "SIGTERM cannot be caught: use Ctrl-C");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

/// The data folder, for its owner alone: it has keys. One that is there already is left as its owner made it.
fn make_data_folder(folder: &Path) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .and_then(|()| fs::metadata(folder));
    let made = made.with_context(|| format!("making the data folder {}", folder.display()))?;
    if made.permissions().mode() & 0o077 != 0 {
        tracing::warn!(folder = %folder.display(), "others on this machine can look into the data folder: chmod 700");
    }
    Ok(())
}

/// A shell's usual limit is 1,024 open files, and each viewer is one; without files left, uploads and publishers fail with them.
fn raise_file_limit(viewers: usize) {
    let needed = viewers.saturating_add(OTHER_FILES) as u64;
    match rlimit::increase_nofile_limit(needed) {
        Ok(limit) if limit < needed => tracing::warn!(
            limit,
            needed,
            "fewer files may be open than web.max_connections has viewers: raise the hard limit (ulimit -Hn, LimitNOFILE)"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files could not be raised"),
    }
}

/// The certificates of RTMPS and HTTPS.
struct Identity {
    certificates: Certificates,
    /// Whether somebody vouches for the one that is served now.
    trusted: bool,
    /// Orders and renews them, once there is a web server for the certificate authority to ask.
    issuer: Option<Issuer>,
}

fn identity(
    config: &Config,
    running: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<Identity> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let source = config.tls.certificate()?;
    let files = match &source {
        Certificate::Files(files) => files.clone(),
        // Until a certificate is issued, connections of this machine's own still need one.
        Certificate::SelfSigned | Certificate::Acme(_) => tls::self_signed(&config.data, &names)?,
    };
    let certificates = Certificates::from_files(&files)?;
    let issuer = match &source {
        Certificate::Acme(acme) => Some(Issuer::new(
            (*acme).clone(),
            &config.data,
            certificates.clone(),
        )?),
        Certificate::Files(_) | Certificate::SelfSigned => {
            let (watched, stop) = (certificates.clone(), stop.clone());
            running.spawn(async move {
                // The watch itself never ends.
                stop.run_until_cancelled(watched.watch(files, tls::WATCH_INTERVAL))
                    .await;
                Ok(())
            });
            None
        }
    };
    Ok(Identity {
        certificates,
        trusted: match &issuer {
            Some(issuer) => issuer.is_issued(),
            None => config.tls.is_trusted(),
        },
        issuer,
    })
}

async fn listen(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    media_core::ingest::listen(address).await.with_context(|| {
        format!("cannot listen on {address}: set {key} to another address and port, or to \"off\"")
    })
}

fn server(url: String) -> web::Server {
    let note = String::new();
    web::Server { url, note }
}

/// Where this machine takes publishers.
fn own_servers(config: &Config, trusted: bool) -> Vec<web::Server> {
    panel::servers(config.ingest.rtmp.0, rtmps(config, trusted).as_ref())
        .into_iter()
        .map(|(url, note)| web::Server {
            note: note.to_owned(),
            ..server(url)
        })
        .collect()
}

async fn start_edge(
    config: &Config,
    parts: Parts,
    identity: &Identity,
    running: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<web::Edge> {
    let Some(store) = Store::open(&config.store, &config.data, None)?.object_store() else {
        bail!(
            "store.kind is \"edge\", which is for a box whose edge is elsewhere: use \"local\" or \"s3\""
        );
    };
    let settings = web::Config {
        data: edge_folder(config),
        servers: match config.web.ingest_servers.as_slice() {
            // The ingest is another machine's, and nobody said where.
            [] if matches!(parts, Parts::Edge) => Vec::new(),
            [] => own_servers(config, identity.trusted),
            said => said.iter().cloned().map(server).collect(),
        },
        link_secret: match parts {
            Parts::Edge => Some(link_secret(config, true)?),
            _ => None,
        },
        cache_bytes: usize::try_from(config.web.cache_mib).unwrap_or(usize::MAX >> 20) << 20,
        max_connections: config.web.max_connections,
        sweep: !config.publish.keep,
        access: config.access.clone(),
        tenants: (config.tenants.clone()).with_issuers(&config.access.issuers),
        proxies: Proxies {
            from: config.web.proxy_from.clone(),
            header: config.web.proxy_header,
        },
        webhooks: config.hooks()?,
        embed_origins: config.web.embed_origins.clone(),
        ice_servers: config.web.ice_servers.clone(),
        hsts_s: config.web.hsts_s,
        ..web::Config::default()
    };
    let edge = web::Edge::start(settings, store, Arc::new(assets::get))?;
    if let Parts::All { demo } = parts {
        // An edge alone is given its streams by the boxes.
        for (stream, configured) in streams_of(config, demo)? {
            edge.ensure_stream(&stream, &configured).await?;
        }
    }
    let plain = match config.web.listen.0 {
        Some(address) => Some(listen(address, "web.listen").await?),
        None => None,
    };
    // HTTPS only with a certificate that browsers accept; nobody clicks through a warning to watch. One that is still to be issued by ACME
    // may be asked for here.
    let encrypted = match config.web.tls_listen.0.filter(|_| config.tls.is_trusted()) {
        Some(address) => Some(listen(address, "web.tls_listen").await?),
        None => None,
    };
    let tls = tls::server_config(&identity.certificates, &[b"h2".as_slice(), b"http/1.1"])?;
    let tls: web::Tls = Arc::new(move || Arc::clone(&tls));
    let http01 = identity.issuer.as_ref().map(|issuer| -> web::Http01 {
        let answers = issuer.http01();
        Arc::new(move |token: &str| answers.answer(token))
    });
    for (listener, tls, http01) in plain
        .map(|plain| (plain, None, http01))
        .into_iter()
        .chain(encrypted.map(|encrypted| (encrypted, Some(tls), None)))
    {
        let (edge, stop) = (edge.clone(), stop.clone());
        running.spawn(async move {
            web::serve(listener, edge, tls, http01, stop).await;
            Ok(())
        });
    }
    let (runs, stop) = (edge.clone(), stop.clone());
    running.spawn(async move {
        runs.run(stop).await;
        Ok(())
    });
    Ok(edge)
}

/// RTMPS as it is offered to encoders: with a certificate that they accept, under the name that it holds for.
fn rtmps(config: &Config, trusted: bool) -> Option<(SocketAddr, String)> {
    let address = config.ingest.rtmps.0.filter(|_| trusted)?;
    Some((
        address,
        config
            .rtmps_host()
            .unwrap_or_else(|| address.ip().to_string()),
    ))
}

/// The wall clock, Unix milliseconds.
pub(crate) fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

pub(crate) fn edge_folder(config: &Config) -> PathBuf {
    config.data.join("edge")
}

/// The streams of the configuration, and the test picture's.
fn streams_of(config: &Config, demo: bool) -> anyhow::Result<BTreeMap<StreamName, Change>> {
    let mut streams = config.streams();
    if demo {
        streams.entry(demo::STREAM.parse()?).or_default();
    }
    Ok(streams)
}

/// The edge that the configuration names.
fn remote_edge(config: &Config) -> anyhow::Result<RemoteEdge> {
    let Some(url) = &config.edge.url else {
        bail!("there is no edge: set edge.url to where it is");
    };
    let secret = LinkSecret::new(link_secret(config, false)?);
    RemoteEdge::new(url, secret).context("edge.url")
}

/// Makes the box's streams and gives them to the remote edge.
async fn give_streams(
    config: &Config,
    remote: &RemoteEdge,
    demo: bool,
    running: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let folder = edge_folder(config);
    let database = streams::ensure(&folder, &streams_of(config, demo)?)?;
    let mut keeper = Keeper::new(remote.clone(), database);
    // The panel should show the key that the edge has; but an edge that is away must not keep the box from starting.
    if tokio::time::timeout(EDGE_ANSWERS, keeper.give_until_answered())
        .await
        .is_err()
    {
        tracing::warn!("the edge does not answer: the box starts without it and goes on trying");
    }
    let stop = stop.clone();
    running.spawn(async move {
        keeper.run(stop).await;
        Ok(())
    });
    Ok(())
}

/// Deletes from a bucket whose edge is elsewhere what a crash left behind; an edge with the store in its own process does it itself.
async fn sweep(store: Store, min_age: Duration, stop: CancellationToken) -> anyhow::Result<()> {
    let work = async {
        loop {
            match store.sweep(min_age, |_| false).await {
                Ok(0) => {}
                Ok(broadcasts) => {
                    tracing::info!(broadcasts, "what they had left in the store is deleted");
                }
                Err(error) => tracing::warn!(%error, "the store could not be swept"),
            }
            tokio::time::sleep(SWEEP_EVERY).await;
        }
    };
    stop.run_until_cancelled(work).await;
    Ok(())
}

/// Where encoders connect.
struct Addresses {
    rtmp: Option<SocketAddr>,
    rtmps: Option<SocketAddr>,
}

async fn start_media(
    config: &Config,
    local: Option<web::Edge>,
    remote: Option<RemoteEdge>,
    certificates: &Certificates,
    running: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<(tokio::task::JoinHandle<()>, Addresses)> {
    let edge: Arc<dyn Edge> = match (local, &remote) {
        (Some(edge), _) => Arc::new(InProcess(edge)),
        (None, Some(remote)) => Arc::new(remote.clone()),
        (None, None) => bail!("there is no edge: set edge.url to where it is"),
    };
    let store = Store::open(&config.store, &config.data, remote.as_ref())?;
    // What a crash left there belongs to broadcasts that go on without it.
    let spool = config.data.join("spool");
    media_core::publish::clean_spool(&spool);
    if let (Some(_), false) = (&remote, config.publish.keep) {
        // Objects of a broadcast that is over are still asked for during two windows.
        let min_age = SWEEP_EVERY + Duration::from_secs(2 * u64::from(config.broadcast.window_s));
        running.spawn(sweep(store.clone(), min_age, stop.clone()));
    }
    let started = Instant::now();
    let transcode = config.transcode.clone();
    let encoder =
        tokio::task::spawn_blocking(move || transcode::choose_encoder(&transcode)).await?;
    let (accept, publishers) = mpsc::channel(PUBLISHERS);
    let rtmps = tls::server_config(certificates, &[])?;
    let server = Server::bind(
        config.ingest.clone(),
        Some(rtmps),
        Arc::clone(&edge),
        Arc::new(accept),
        started,
    )
    .await?;
    let addresses = Addresses {
        rtmp: server.address(Protocol::Rtmp),
        rtmps: server.address(Protocol::Rtmps),
    };
    let webrtc = Webrtc::start(&config.webrtc)?;
    if let Some(webrtc) = &webrtc {
        let at: Vec<String> = webrtc.addresses().iter().map(|at| at.to_string()).collect();
        tracing::info!(
            at = at.join(" "),
            "WebRTC viewers are told to send here (UDP)"
        );
    }
    let environment = Environment {
        webrtc,
        edge,
        store,
        broadcast: config.broadcast.clone(),
        transcode: config.transcode.clone(),
        encoder,
        publish: config.publish.clone(),
        spool,
        started,
    };
    let ingest_stop = stop.clone();
    running.spawn(async move {
        server.run(ingest_stop).await;
        Ok(())
    });
    let hub = tokio::spawn(Hub::new(environment).run(publishers, stop.clone()));
    Ok((hub, addresses))
}

/// The edge of the same process.
struct InProcess(web::Edge);

impl Edge for InProcess {
    fn admit(
        &self,
        question: Admit,
    ) -> futures::future::BoxFuture<'_, Result<Admission, EdgeError>> {
        Box::pin(async move {
            self.0.admit(&question).await.map_err(|error| match error {
                web::EdgeError::Refused(refusal) => EdgeError::Refused(refusal.to_string()),
                web::EdgeError::Token(refusal) => EdgeError::Refused(refusal.to_string()),
                web::EdgeError::Full(full) => EdgeError::Refused(full.to_string()),
                web::EdgeError::Webhook(denied) => EdgeError::Refused(denied.to_string()),
                error => EdgeError::Unreachable(error.to_string()),
            })
        })
    }

    fn open(
        &self,
        question: Open,
    ) -> futures::future::BoxFuture<'_, Result<OpenAnswer, EdgeError>> {
        Box::pin(async move {
            self.0
                .open(&question)
                .await
                .map_err(|error| EdgeError::Unreachable(error.to_string()))
        })
    }

    fn connect(
        &self,
        broadcast: BroadcastId,
    ) -> futures::future::BoxFuture<'_, Result<Link, EdgeError>> {
        let web::Link { to_edge, from_edge } = self.0.connect(broadcast);
        Box::pin(std::future::ready(Ok(Link { to_edge, from_edge })))
    }
}

fn print_panel(
    config: &Config,
    stream: &Stream,
    seal: &Seal,
    addresses: &Addresses,
    trusted: bool,
    demo: bool,
) -> anyhow::Result<()> {
    let key = stream.key(seal).map(|key| key.reveal());
    let studio_secret = stream.studio_secret(seal);
    let panel = Panel {
        rtmp: addresses.rtmp,
        rtmps: rtmps(config, trusted),
        web: config.public_url(),
        stream: stream.name.as_str(),
        key: key.as_deref().ok(),
        studio_secret: studio_secret.as_ref().ok().map(|secret| secret.as_str()),
        data: &config.data,
        demo,
    };
    let mut out = std::io::stdout().lock();
    out.write_all(panel.render().as_bytes())?;
    out.flush()?;
    Ok(())
}

fn start_demo(
    key: &StreamKey,
    addresses: &Addresses,
    running: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let Some(rtmps) = addresses.rtmps else {
        bail!("the demo publishes over RTMPS, and ingest.rtmps is off");
    };
    let url = format!("rtmps://127.0.0.1:{}/live/{}", rtmps.port(), key.reveal());
    running.spawn(demo::publish(url, stop.clone()));
    Ok(())
}

/// The secret that box and edge share; `ghost-live edge` makes it.
fn link_secret(config: &Config, make: bool) -> anyhow::Result<String> {
    let path = config
        .edge
        .link_secret_file
        .clone()
        .unwrap_or_else(|| config.data.join("link-secret"));
    if make && !path.exists() {
        let mut random = [0; SECRET_BYTES];
        getrandom::fill(&mut random).context("the system gives no random bits")?;
        let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("writing the link secret {}", path.display()))?;
        file.write_all(text.as_bytes())?;
    }
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "reading the link secret {} (edge.link_secret_file)",
            path.display()
        )
    })?;
    let secret = text.trim().to_owned();
    if secret.len() < 32 {
        bail!(
            "the link secret in {} is too short: 32 characters or more",
            path.display()
        );
    }
    Ok(secret)
}

/// The stream as the data folder has it.
fn kept(database: &web::Database, stream: &StreamName) -> anyhow::Result<Stream> {
    let kept = database.known().stream(stream).cloned();
    kept.with_context(|| no_stream(stream))
}

fn no_stream(stream: &StreamName) -> String {
    format!("there is no stream {stream} yet: name it in the configuration and start once")
}

/// The directory in the data folder; looking does not make one.
fn directory(config: &Config, stream: &StreamName) -> anyhow::Result<web::Database> {
    web::Database::find(&edge_folder(config))?.with_context(|| no_stream(stream))
}

/// Prints the key of a stream.
///
/// # Errors
/// When there is no such stream yet, or its key cannot be shown.
pub(crate) async fn show_key(files: &Files, stream: &StreamName) -> anyhow::Result<()> {
    let config = Config::load(files)?;
    let database = directory(&config, stream)?;
    let kept = kept(&database, stream)?;
    let say = || format!("`ghost-live key rotate {stream}` gives it a new one");
    let key = if config.edge.url.is_some() {
        let mut entry = kept.open(database.seal()).with_context(say)?;
        // The studio page of the edge may have given it another.
        match (remote_edge(&config)?.stream_key(stream, &entry.studio_secret)).await {
            Ok(StudioKey::Shown(key)) => {
                entry.adopt_key(&key);
            }
            Ok(StudioKey::Hidden) => {
                tracing::warn!(
                    "the edge cannot show the key: this is the one that was in force last"
                )
            }
            Ok(StudioKey::Unknown) => tracing::warn!("the edge does not know the stream yet"),
            Err(error) => tracing::warn!(%error, "this is the key that was in force last"),
        }
        entry.key
    } else {
        kept.key(database.seal()).with_context(say)?
    };
    println!("{}", key.reveal());
    Ok(())
}

/// Gives a stream a new key and prints it. A running server takes it up by itself.
///
/// # Errors
/// As [`show_key`]; and when the remote edge, where there is one, does not take it: then nothing has changed.
pub(crate) async fn rotate_key(
    files: &Files,
    stream: &StreamName,
    overlap: Duration,
) -> anyhow::Result<()> {
    if overlap.as_secs() > MAX_OVERLAP_S {
        bail!("the old key can go on for 30d at the most");
    }
    let overlap_ms = i64::try_from(overlap.as_millis())?;
    let old_until = (overlap_ms > 0).then(|| unix_ms().saturating_add(overlap_ms));
    let config = Config::load(files)?;
    let mut database = directory(&config, stream)?;
    let before = kept(&database, stream)?;
    let new_studio_link = if config.edge.url.is_some() {
        let opened = before.studio_secret(database.seal());
        let mut random = [[0; 16]; 2];
        for bytes in &mut random {
            getrandom::fill(bytes).context("the system gives no random bits")?;
        }
        let entry = StreamEntry::new(
            stream.clone(),
            &before.key_id,
            random,
            before.created_unix_ms,
        );
        let mut entry = entry.context("the stream's key id is none")?;
        if let Ok(secret) = &opened {
            secret.as_str().clone_into(&mut entry.studio_secret);
        }
        entry.old_key = old_until.map(|until_unix_ms| OldKey {
            sha256: before.key_sha256.clone(),
            until_unix_ms,
        });
        streams::put(&remote_edge(&config)?, &mut entry).await?;
        database.put(&entry, true)?;
        opened.is_err()
    } else {
        database.rotate_key_with_overlap(stream, None, old_until)?
    };
    if new_studio_link {
        tracing::warn!(
            "the studio link could not be shown any more, so it is new as well: the next start prints it"
        );
    }
    println!(
        "{}",
        kept(&database, stream)?.key(database.seal())?.reveal()
    );
    Ok(())
}

/// Sets up the bucket of the configuration.
///
/// # Errors
/// When no bucket is configured, or the server refuses.
pub(crate) async fn init_bucket(files: &Files, expire_days: Option<u32>) -> anyhow::Result<()> {
    let config = Config::load(files)?;
    if config.store.kind != store::Kind::S3 {
        bail!("no bucket is configured: set store.kind = \"s3\" and [store.s3]");
    }
    let expire_days = match (config.publish.keep, expire_days) {
        (true, Some(_)) => bail!(
            "publish.keep is true, and a rule that expires objects would delete what is kept: leave --expire-days out"
        ),
        (true, None) => None,
        (false, days) => Some(days.unwrap_or(EXPIRE_DAYS)),
    };
    let s3 = &config.store.s3;
    let credentials = s3.credentials()?;
    let bucket = bucket::Bucket {
        endpoint: s3.endpoint.clone(),
        region: s3.region.clone(),
        name: s3.bucket.clone(),
        path_style: s3.path_style,
        access_key_id: credentials.access_key_id,
        secret_access_key: credentials.secret_access_key,
    };
    for step in bucket.init(expire_days).await? {
        println!("{step}");
    }
    Ok(())
}
