//! Connections: HTTP/1.1, and HTTP/2 where TLS negotiated it.
//!
//! Limits: so many connections (more wait in the listener's queue) and few for one address when they run out, or that have not asked for
//! anything yet, a time for the TLS handshake, for a request's head and between requests, for a peer that does not read, and for an HTTP/2 connection at all. HTTP/2
//! without TLS is off: browsers do not speak it, and scanners do.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::HeaderValue;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use protocol::per_address::{OfAddress, PerAddress};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Edge, Http01, http::Site};

/// Gives the TLS configuration that holds now, asked for each connection, so that a renewed certificate is used at once. Its
/// `alpn_protocols` decide about HTTP/2: `h2` and `http/1.1`, in this order.
pub type Tls = Arc<dyn Fn() -> Arc<rustls::ServerConfig> + Send + Sync>;

const HANDSHAKE: Duration = Duration::from_secs(10);
/// A peer that takes nothing for so long is cut off.
const STALLED: Duration = Duration::from_secs(30);
/// An HTTP/2 connection is asked to go (GOAWAY) after so long, and its peer opens another: one that takes streams and never reads them
/// would keep old objects in memory for as long as it stays.
const MAX_AGE: Duration = Duration::from_secs(600);
/// What is under way on a connection that was asked to go gets so long: more than a blocked request waits.
const LEAVING: Duration = Duration::from_secs(30);
/// Connections of one address that have not asked for anything yet, their TLS handshakes included: many times what a browser opens ahead.
const MAX_SILENT: usize = 500;
/// What is under way at the end gets so long.
const GRACE: Duration = Duration::from_secs(5);
/// Blocked requests, segments and preloads of one page, with room for several tabs behind one proxy.
const MAX_STREAMS: u32 = 200;

/// Serves the edge on a listener until `shutdown`, then finishes what is under way. `http01` belongs to the listener that port 80 reaches.
pub async fn serve(
    listener: TcpListener,
    edge: Edge,
    tls: Option<Tls>,
    http01: Option<Http01>,
    shutdown: CancellationToken,
) {
    let max = edge.config().max_connections;
    let permits = Arc::new(Semaphore::new(max));
    let (addresses, silent) = (PerAddress::default(), PerAddress::default());
    let header_timeout = Duration::from_secs(edge.config().header_timeout_s.max(1));
    let connections = TaskTracker::new();
    let hsts = match edge.config().hsts_s {
        seconds @ 1.. if tls.is_some() => HeaderValue::from_str(&format!("max-age={seconds}")).ok(),
        _ => None,
    };
    loop {
        let permit = tokio::select! {
            permit = permits.clone().acquire_owned() => permit,
            () = shutdown.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, or the peer went already: neither ends the listener.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let scarce = permits.available_permits() < max / 4;
        let share = if scarce { max / 4 } else { max };
        // A listed proxy is many peers behind one address.
        let counted = !edge.guard().is_proxy(peer.ip());
        let count = |addresses: &PerAddress, most| {
            let counted = counted.then(|| addresses.try_add_far(peer.ip(), most));
            counted.transpose().map(Option::flatten)
        };
        let (Ok(address), Ok(silent)) = (count(&addresses, share), count(&silent, MAX_SILENT))
        else {
            tracing::debug!(peer = %peer.ip(), "a connection was refused: its address has as many, or as many that ask for nothing, as it may");
            continue;
        };
        let site = Site {
            edge: edge.clone(),
            http01: http01.clone(),
            peer: peer.ip(),
            hsts: hsts.clone(),
        };
        let (tls, shutdown) = (tls.clone(), shutdown.clone());
        connections.spawn(async move {
            let _held = (permit, address);
            // A spread, so that those who came together do not all come again together.
            let age = MAX_AGE + Duration::from_secs(u64::from(peer.port() % 256));
            let limits = Limits {
                first_request: header_timeout,
                age,
                silent: Mutex::new(silent),
            };
            if let Err(error) = connection(stream, site, tls, limits, shutdown).await {
                tracing::debug!(%error, "a connection ended badly");
            }
        });
    }
    drop(listener);
    connections.close();
    if timeout(GRACE, connections.wait()).await.is_err() {
        tracing::info!(
            left = connections.len(),
            "connections are cut off at the end"
        );
    }
}

/// How long a connection may be without a request, how long it may live where that is bounded, and what it counts in until it asks for
/// something.
#[derive(Debug)]
struct Limits {
    first_request: Duration,
    age: Duration,
    silent: Mutex<Option<OfAddress>>,
}

impl Limits {
    /// The connection asks for something.
    fn asked(&self) {
        self.silent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

async fn connection(
    stream: TcpStream,
    site: Site,
    tls: Option<Tls>,
    limits: Limits,
    shutdown: CancellationToken,
) -> io::Result<()> {
    // A part's last bytes must not wait for an acknowledgement.
    stream.set_nodelay(true)?;
    let stream = Stalling::new(stream);
    let Some(tls) = tls else {
        return http1(stream, site, limits, shutdown).await;
    };
    let stream = timeout(HANDSHAKE, TlsAcceptor::from(tls()).accept(stream)).await??;
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => http2(stream, site, limits, shutdown).await,
        // An ACME server's look at the certificate is over with the handshake.
        Some(b"acme-tls/1") => Ok(()),
        _ => http1(stream, site, limits, shutdown).await,
    }
}

async fn http1<S>(
    stream: S,
    site: Site,
    limits: Limits,
    shutdown: CancellationToken,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.first_request)
        // A head is a kilobyte or two; the bound is what a connection may cost.
        .max_buf_size(16 * 1024);
    let service = service_fn(move |request| {
        limits.asked();
        let answer = site.clone().answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = builder
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        done = connection.as_mut() => return done.map_err(io::Error::other),
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await.map_err(io::Error::other)
}

async fn http2<S>(
    stream: S,
    site: Site,
    limits: Limits,
    shutdown: CancellationToken,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(16 * 1024)
        .max_send_buf_size(256 * 1024)
        // A peer that answers no ping is gone.
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    let (asked, first_request, age) = (
        Arc::new(AtomicBool::new(false)),
        limits.first_request,
        limits.age,
    );
    let first = asked.clone();
    let service = service_fn(move |request| {
        first.store(true, Ordering::Relaxed);
        limits.asked();
        let answer = site.clone().answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let aged = async {
        // Pings begin behind the preface: until then nothing else ends a silent peer.
        sleep(first_request).await;
        if asked.load(Ordering::Relaxed) {
            sleep(age).await;
        }
    };
    tokio::select! {
        done = connection.as_mut() => return done.map_err(io::Error::other),
        () = aged => {}
        () = shutdown.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let leaving = match asked.load(Ordering::Relaxed) {
        true => LEAVING,
        // Nothing is under way; without a preface there is nobody to ask either.
        false => Duration::from_secs(1),
    };
    match timeout(leaving, connection).await {
        Ok(done) => done.map_err(io::Error::other),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// A stream that gives up on a peer that does not read: a write that makes no progress for [`STALLED`] fails.
#[derive(Debug)]
struct Stalling {
    stream: TcpStream,
    /// When the write that waits now is given up.
    until: Option<Pin<Box<Sleep>>>,
}

impl Stalling {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            until: None,
        }
    }

    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.until = None;
            return written;
        }
        let until =
            (self.until).get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + STALLED)));
        match until.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Stalling {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stalling {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
