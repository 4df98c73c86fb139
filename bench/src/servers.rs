//! The processes that serve playlists: the native edge, bare hyper, a bare loop. Each says its address first.

use std::{
    convert::Infallible,
    io::{self, Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use axum::body::Body;
use bytes::Bytes;
use edge_worker::native::{Config, Edge, serve};
use http::{HeaderName, HeaderValue, Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use object_store::memory::InMemory;
use protocol::{
    link::{Numbered, ToEdge},
    names::StreamName,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines, Stdin, stdin},
    net::TcpListener,
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use crate::{child::unix_ns, feed::Feed};

/// Connections wait between rounds for longer than a viewer's do.
const IDLE_S: u64 = 3_600;

/// The commands of the parent, a line each.
pub(crate) fn commands() -> Lines<BufReader<Stdin>> {
    BufReader::new(stdin()).lines()
}

/// The native edge with a broadcast that moves on by command.
///
/// `path`: the playlist; `next`: the same with the directives that wait for the part to come; `publish`: sends that part's message and says
/// when, Unix nanoseconds; `rest`: the other tracks follow.
pub(crate) async fn edge() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = Config {
        data: folder.path().join("edge"),
        max_connections: 100_000,
        header_timeout_s: IDLE_S,
        sweep: false,
        ..Config::default()
    };
    let edge = Edge::start(config, Arc::new(InMemory::new()), Arc::new(|_: &str| None))?;
    let stream: StreamName = "bench".parse()?;
    edge.ensure_stream(&stream, &Default::default()).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let shutdown = CancellationToken::new();
    tokio::spawn(serve(listener, edge.clone(), None, None, shutdown.clone()));
    let running = edge.clone();
    tokio::spawn(async move { running.run(shutdown).await });

    let now = unix_ms();
    let mut feed = Feed::new(stream, 1, now)?;
    let mut link = edge.connect(feed.broadcast());
    for message in feed.begin() {
        // The acknowledgements are of no interest here, and must not pile up.
        while link.from_edge.try_recv().is_ok() {}
        link.to_edge.send(message).await?;
    }
    let to_edge = link.to_edge.clone();
    let mut from_edge = link.from_edge;
    tokio::spawn(async move { while from_edge.recv().await.is_some() {} });
    let beating = to_edge.clone();
    tokio::spawn(async move {
        loop {
            let beat = Numbered {
                seq: 0,
                message: ToEdge::Heartbeat {
                    clock_unix_ms: unix_ms(),
                    publisher: None,
                },
            };
            if beating.send(beat).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    });

    println!("{address}");
    let mut left = Vec::new();
    let mut commands = commands();
    while let Some(command) = commands.next_line().await? {
        match command.as_str() {
            "path" => println!("{}", feed.path()),
            "next" => println!("{}", feed.next_path()),
            "publish" => {
                let (asked, rest) = feed.step();
                left = rest;
                let at = unix_ns();
                to_edge.send(asked).await?;
                println!("{at}");
            }
            "rest" => {
                for message in left.drain(..) {
                    to_edge.send(message).await?;
                }
                println!("sent");
            }
            other => bail!("the edge knows no command {other:?}"),
        }
    }
    Ok(())
}

pub(crate) fn unix_ms() -> i64 {
    i64::try_from(unix_ns() / 1_000_000).unwrap_or(i64::MAX)
}

/// An answer as it came over the wire.
#[derive(Debug, Clone)]
struct Recorded {
    head: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Recorded {
    fn read(path: &str) -> Result<Self> {
        let raw = std::fs::read(path)?;
        let end = head_end(&raw).context("the recorded answer has no end of its head")?;
        let (head, body) = raw.split_at(end);
        let head = std::str::from_utf8(head)?.lines().skip(1);
        let fields = head.filter_map(|line| line.split_once(": "));
        // The server adds these by itself.
        let fields = fields.filter(|(name, _)| !matches!(*name, "date" | "connection"));
        let head: Result<Vec<_>> = fields
            .map(|(name, value)| Ok((name.parse::<HeaderName>()?, value.parse::<HeaderValue>()?)))
            .collect();
        Ok(Self {
            head: head?,
            body: Bytes::copy_from_slice(body),
        })
    }

    fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body.clone()));
        for (name, value) in &self.head {
            response.headers_mut().insert(name, value.clone());
        }
        response
    }
}

/// Where the body begins.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map(|at| at + 4)
}

/// Bare hyper that answers with what was recorded, at once, or at `/wait` when it is published.
pub(crate) async fn hyper(recorded: &str) -> Result<()> {
    let recorded = Arc::new(Recorded::read(recorded)?);
    let published = watch::Sender::new(());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let publish = published.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (recorded, published) = (recorded.clone(), published.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let (recorded, mut published) = (recorded.clone(), published.subscribe());
                async move {
                    if request.uri().path() == "/wait" {
                        // It fails when the bench ends.
                        let _ = published.changed().await;
                    }
                    Ok::<_, Infallible>(recorded.response())
                }
            });
            tokio::spawn(async move {
                stream.set_nodelay(true)?;
                let mut builder = hyper::server::conn::http1::Builder::new();
                builder
                    .timer(TokioTimer::new())
                    .header_read_timeout(Duration::from_secs(IDLE_S))
                    .max_buf_size(16 * 1024);
                let served = builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                served.map_err(io::Error::other)
            });
        }
    });
    let mut commands = commands();
    while let Some(command) = commands.next_line().await? {
        match command.as_str() {
            "publish" => {
                let at = unix_ns();
                publish.send_replace(());
                println!("{at}");
            }
            other => bail!("hyper knows no command {other:?}"),
        }
    }
    Ok(())
}

/// Sockets of which nothing is asked: one thread writes the recorded bytes to each, one after the other.
pub(crate) fn bare_loop(recorded: &str) -> Result<()> {
    let bytes = std::fs::read(recorded)?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    let sockets: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let accepted = sockets.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream?;
            stream.set_nodelay(true)?;
            lock(&accepted).push(stream);
        }
        Ok::<_, io::Error>(())
    });
    let mut request = [0; 4_096];
    for command in io::stdin().lines() {
        match command?.as_str() {
            "publish" => {
                let mut sockets = lock(&sockets);
                let at = unix_ns();
                for socket in sockets.iter_mut() {
                    socket.write_all(&bytes)?;
                }
                println!("{at}");
                for socket in sockets.iter_mut() {
                    // The request that was waiting all the time.
                    let _ = socket.read(&mut request)?;
                }
            }
            other => bail!("the loop knows no command {other:?}"),
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
