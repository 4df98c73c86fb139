//! A server on free ports with an edge that knows two keys, and what its log says.

use std::{
    fmt::Write,
    net::SocketAddr,
    process::{Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use futures::{FutureExt, future::BoxFuture};
use ghost_live_media_core::{
    edge::{Edge, EdgeError, Link},
    ingest::{Config, Listen, Protocol, Publisher, Server},
    media::{IngestEvent, PublisherEnd},
    tls,
};
use protocol::{
    internal::{Admission, Admit, Open, OpenAnswer},
    limits::Limits,
    names::BroadcastId,
};
use tokio::{
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Publishes as stream `demo`.
pub(super) const KEY: &str = "main_abcdefghijklmnopqrstuvwxyz";

/// As [`KEY`], for so long.
pub(super) const SHORT_KEY: &str = "short_abcdefghijklmnopqrstuvwxyz";
pub(super) const SHORT: Duration = Duration::from_millis(1_500);

/// The edge does not answer about this one.
pub(super) const UNANSWERED_KEY: &str = "slow_abcdefghijklmnopqrstuvwxyz";

/// What no step of a test takes longer than.
pub(super) const PATIENCE: Duration = Duration::from_secs(40);

/// Admits [`KEY`] and notes whom it was asked about.
#[derive(Default)]
pub(super) struct TestEdge {
    pub(super) asked: Mutex<Vec<Admit>>,
    /// What it lets publishers send.
    pub(super) limits: Mutex<Limits>,
}

impl Edge for TestEdge {
    fn admit(&self, question: Admit) -> BoxFuture<'_, Result<Admission, EdgeError>> {
        async move {
            let key = question.key.clone();
            let stream = question.stream.clone();
            self.asked.lock().unwrap().push(question);
            match key.as_str() {
                KEY | SHORT_KEY => Ok(Admission {
                    limits: *self.limits.lock().unwrap(),
                    ends_unix_ms: (key == SHORT_KEY).then(|| unix_ms(SystemTime::now() + SHORT)),
                    ..Admission::of(stream.unwrap_or_else(|| "demo".parse().unwrap()))
                }),
                UNANSWERED_KEY => std::future::pending().await,
                _ => Err(EdgeError::Refused("The stream key is wrong.".into())),
            }
        }
        .boxed()
    }

    fn open(&self, _: Open) -> BoxFuture<'_, Result<OpenAnswer, EdgeError>> {
        async { Err(EdgeError::Unreachable("ingest opens no broadcast".into())) }.boxed()
    }

    fn connect(&self, _: BroadcastId) -> BoxFuture<'_, Result<Link, EdgeError>> {
        async { Err(EdgeError::Unreachable("ingest connects no link".into())) }.boxed()
    }
}

pub(super) fn unix_ms(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// A running server.
pub(super) struct Fixture {
    pub(super) rtmp: SocketAddr,
    pub(super) rtmps: SocketAddr,
    pub(super) publishers: mpsc::Receiver<Publisher>,
    pub(super) edge: Arc<TestEdge>,
    stop: CancellationToken,
    _data: tempfile::TempDir,
}

impl Fixture {
    pub(super) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(super) async fn with(configure: impl FnOnce(&mut Config)) -> Self {
        Log::install();
        let free = Listen(Some(([127, 0, 0, 1], 0).into()));
        let mut config = Config {
            rtmp: free,
            rtmps: free,
            ..Config::default()
        };
        configure(&mut config);
        let data = tempfile::tempdir().unwrap();
        let files =
            tls::self_signed(data.path(), &["localhost".into(), "127.0.0.1".into()]).unwrap();
        let certificates = tls::Certificates::from_files(&files).unwrap();
        let tls = tls::server_config(&certificates, &[]).unwrap();
        let edge = Arc::new(TestEdge::default());
        let (accept, publishers) = mpsc::channel(4);
        let server = Server::bind(
            config,
            Some(tls),
            edge.clone(),
            Arc::new(accept),
            Instant::now(),
        );
        let server = server.await.unwrap();
        let stop = CancellationToken::new();
        let (rtmp, rtmps) = (
            server.address(Protocol::Rtmp).unwrap(),
            server.address(Protocol::Rtmps).unwrap(),
        );
        tokio::spawn(server.run(stop.clone()));
        Self {
            rtmp,
            rtmps,
            publishers,
            edge,
            stop,
            _data: data,
        }
    }

    /// The next admitted publisher.
    pub(super) async fn publisher(&mut self) -> Publisher {
        let next = timeout(PATIENCE, self.publishers.recv()).await;
        next.expect("a publisher in time").unwrap()
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Everything up to the end, and the end.
pub(super) async fn all(publisher: &mut Publisher) -> (Vec<IngestEvent>, PublisherEnd) {
    let mut events = Vec::new();
    let read = async {
        while let Some(received) = publisher.events.recv().await {
            events.push(received.event);
        }
    };
    timeout(PATIENCE, read).await.expect("the end in time");
    (events, publisher.events.end())
}

/// Reads on until the condition holds for an event.
pub(super) async fn until(publisher: &mut Publisher, condition: impl Fn(&IngestEvent) -> bool) {
    let read = async {
        while let Some(received) = publisher.events.recv().await {
            if condition(&received.event) {
                return true;
            }
        }
        false
    };
    assert!(
        timeout(PATIENCE, read).await.expect("the event in time"),
        "the publisher ended before the event"
    );
}

pub(super) fn is_idr(event: &IngestEvent) -> bool {
    matches!(event, IngestEvent::Video { idr: true, .. })
}

/// Starts a peer of which a missing one fails the test. It ends with the value.
pub(super) fn spawn(program: &str, arguments: &[&str]) -> Child {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{program} is needed for this test and cannot be started: {error}")
        })
}

/// FFmpeg that publishes a test picture and a tone for so many seconds, in real time.
pub(super) fn ffmpeg(seconds: u32, output: &[&str]) -> Child {
    let (video, audio) = (
        format!("testsrc2=size=320x180:rate=30:duration={seconds}"),
        format!("sine=frequency=440:sample_rate=48000:duration={seconds}"),
    );
    let input = [
        "-hide_banner",
        "-loglevel",
        "warning",
        "-re",
        "-f",
        "lavfi",
        "-i",
        &video,
        "-re",
        "-f",
        "lavfi",
        "-i",
        &audio,
    ];
    let encoders = [
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-pix_fmt",
        "yuv420p",
        "-g",
        "30",
        "-bf",
        "2",
        "-c:a",
        "aac",
        "-ac",
        "2",
    ];
    spawn(
        "ffmpeg",
        &[&input[..], &encoders, &["-f", "flv"], output].concat(),
    )
}

pub(super) async fn finish(child: Child) -> Output {
    timeout(PATIENCE, child.wait_with_output())
        .await
        .expect("the peer ends in time")
        .unwrap()
}

/// The log of the process, which under nextest is the test's: a line an event, `message field=value …`.
pub(super) struct Log;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Log {
    fn install() {
        // A second fixture of the same test finds it installed.
        let _ = tracing::subscriber::set_global_default(Self);
    }

    pub(super) fn text() -> String {
        LINES.lock().unwrap().join("\n")
    }

    /// Waits for a line that has all of these, and fails when none comes.
    pub(super) async fn line(parts: &[&str]) {
        let began = Instant::now();
        loop {
            let text = Self::text();
            if text
                .lines()
                .any(|line| parts.iter().all(|part| line.contains(part)))
            {
                return;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "no line with {parts:?} in:\n{text}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(format!(
            "{} {}",
            event.metadata().level(),
            event.metadata().target()
        ));
        event.record(&mut line);
        LINES.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

struct Line(String);

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}
