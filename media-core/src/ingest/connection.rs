//! One connection, from its first byte to its end: a thin driver of [`rtmp::Session`] with deadlines.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use protocol::{
    internal::{Admission, Admit},
    limits::Limits,
    names::StreamName,
    per_address::{Full, OfAddress},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use super::{
    Protocol, Publisher, address,
    bitrate::Ceiling,
    bounds::{Bounds, Exceeded},
    flv::{self, printable},
    live::Claim,
    proxy, queue,
    rtmp::{self, Event, PublishRequest, Refusal, Session},
    server::Shared,
};
use crate::{
    edge::EdgeError,
    media::{IngestEvent, Received},
};

/// Bytes read at a time. A TLS record has at most 16 KiB.
const READ_BYTES: usize = 32 << 10;

/// How long a peer may take to read an answer.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);

/// How long a peer that was refused may take to read why and close, before it is cut.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// The most bytes that are read and thrown away of a peer that was refused.
const CLOSE_MAX_BYTES: usize = 1 << 20;

/// How long a publisher that takes over waits for the end of the one before.
const TAKE_OVER_DEADLINE: Duration = Duration::from_secs(5);

/// A connection that has no publisher yet.
pub(super) struct Admitting {
    pub(super) peer: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) unadmitted: Option<OwnedSemaphorePermit>,
    /// Its place among those of its address that are not admitted.
    pub(super) unadmitted_of_address: Option<OfAddress>,
    pub(super) shared: Arc<Shared>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("the encoder unpublished")]
    Unpublished,
    #[error("the peer closed the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Proxy(#[from] proxy::Error),
    #[error("the address is not listed in proxy_from and sent a PROXY protocol header")]
    ProxyNotListed,
    #[error("the address has max_connections_per_address connections")]
    PerAddress,
    #[error("the address holds an eighth of max_unadmitted without publishing")]
    UnadmittedPerAddress,
    #[error("{0}")]
    Rtmp(#[from] rtmp::Error),
    #[error("{0}")]
    Flv(#[from] flv::Error),
    #[error("there was no request to publish within {0:?}")]
    Handshake(Duration),
    #[error("there was no audio or video for {0:?}")]
    Silent(Duration),
    #[error("the peer did not read an answer within {0:?}")]
    NotReading(Duration),
    #[error("the bit rate is over max_bitrate_bps ({0})")]
    Bitrate(u64),
    #[error(
        "the encoder sends more than the {0} bits a second that this stream may have: lower the bit rate in the encoder"
    )]
    StreamBitrate(u64),
    #[error("{0}")]
    Bounds(#[from] Exceeded),
    #[error("refused: {0}")]
    Refused(String),
    #[error("the time for which it was admitted is over")]
    Expired,
    #[error("another publisher took over")]
    TakenOver,
    #[error("the server ended it")]
    Cut,
    #[error("the server is going down")]
    Stop,
}

/// Serves a connection and logs how it ended, in one line with peer, stream and reason.
pub(super) async fn serve(tcp: TcpStream, mut admitting: Admitting) {
    let (stream, cause) = accept(tcp, &mut admitting).await;
    let Admitting { peer, protocol, .. } = admitting;
    let stream = stream.as_ref().map(StreamName::as_str);
    match cause {
        Cause::Unpublished | Cause::Stop | Cause::Expired => {
            info!(%peer, %protocol, stream, reason = %cause, "publisher ended")
        }
        // Port scanners and health checks.
        Cause::Closed if stream.is_none() => {
            debug!(%peer, %protocol, reason = %cause, "connection ended")
        }
        cause => warn!(%peer, %protocol, stream, reason = %cause, "publisher cut off"),
    }
}

/// What is before RTMP: the PROXY header and TLS.
async fn accept(mut tcp: TcpStream, admitting: &mut Admitting) -> (Option<StreamName>, Cause) {
    let shared = admitting.shared.clone();
    let deadline = Instant::now() + shared.config.handshake_deadline();
    let begun = async {
        // Answers are small and waited for.
        tcp.set_nodelay(true)?;
        let of_address = source(&mut tcp, admitting).await?;
        Ok::<_, Cause>(of_address)
    };
    // It is held until the connection ends.
    let _of_address = match within(deadline, &shared, begun).await {
        Ok(of_address) => of_address,
        Err(cause) => return (None, cause),
    };
    match admitting.tls.clone() {
        None => publish(tcp, deadline, admitting).await,
        Some(tls) => {
            let handshake = async { Ok(tls.accept(tcp).await?) };
            match within(deadline, &shared, handshake).await {
                Ok(stream) => publish(stream, deadline, admitting).await,
                Err(cause) => (None, cause),
            }
        }
    }
}

/// A step before there is a publisher, under the handshake's deadline and the server's end.
async fn within<T>(
    deadline: Instant,
    shared: &Shared,
    step: impl Future<Output = Result<T, Cause>>,
) -> Result<T, Cause> {
    tokio::select! {
        () = shared.stop.cancelled() => Err(Cause::Stop),
        result = timeout_at(deadline, step) => {
            result.unwrap_or_else(|_| Err(Cause::Handshake(shared.config.handshake_deadline())))
        }
    }
}

/// Sets the real address and counts the connection in.
async fn source(tcp: &mut TcpStream, admitting: &mut Admitting) -> Result<OfAddress, Cause> {
    let config = &admitting.shared.config;
    let listed = config
        .proxy_from
        .iter()
        .any(|range| range.contains(admitting.peer.ip()));
    if listed {
        let mut header = Vec::new();
        let header = loop {
            match proxy::parse(&header)? {
                Ok(header) => break header,
                Err(more) => {
                    let known = header.len();
                    header.resize(known + more, 0);
                    tcp.read_exact(&mut header[known..]).await?;
                }
            }
        };
        if let Some(source) = header.source {
            admitting.peer = SocketAddr::new(source.ip().to_canonical(), source.port());
        }
    }
    let max = config.max_connections_per_address;
    let of_address = admitting
        .shared
        .per_address
        .try_add(admitting.peer.ip(), max);
    let of_address = of_address.map_err(|Full| Cause::PerAddress)?;
    let share = (config.max_unadmitted / 8).max(1);
    let places = &admitting.shared.unadmitted_per_address;
    let place = places.try_add_far(admitting.peer.ip(), share);
    admitting.unadmitted_of_address = place.map_err(|Full| Cause::UnadmittedPerAddress)?;
    if !listed {
        let mut first = [0];
        if tcp.peek(&mut first).await? == 0 {
            return Err(Cause::Closed);
        }
        if proxy::begins_with(first[0]) {
            return Err(Cause::ProxyNotListed);
        }
    }
    Ok(of_address)
}

/// A connection that speaks RTMP.
struct Connection<S> {
    io: S,
    session: Session,
    buffer: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Reads once and hands it to the session; how many bytes came. Cancel safe.
    async fn read(&mut self) -> Result<usize, Cause> {
        let count = self.io.read(&mut self.buffer).await?;
        if count == 0 {
            return Err(Cause::Closed);
        }
        self.session.receive(&self.buffer[..count])?;
        Ok(count)
    }

    /// Sends what the session has to say.
    async fn flush(&mut self) -> Result<(), Cause> {
        let output = self.session.take_output();
        if output.is_empty() {
            return Ok(());
        }
        let send = async {
            self.io.write_all(&output).await?;
            self.io.flush().await
        };
        timeout(WRITE_DEADLINE, send)
            .await
            .map_err(|_| Cause::NotReading(WRITE_DEADLINE))??;
        Ok(())
    }

    /// Says the last thing and closes so that it arrives: closing with unread input would reset the connection and lose it. A peer
    /// that has unpublished closes first if it does so in time: `rtmp2sink` takes any other end for an error.
    async fn close(mut self, peer_first: bool) {
        let closed = async {
            self.flush().await.ok()?;
            if peer_first {
                let _ = timeout(CLOSE_DEADLINE, self.drain()).await;
            }
            self.io.shutdown().await.ok()?;
            self.drain().await;
            Some(())
        };
        let _ = timeout(2 * CLOSE_DEADLINE, closed).await;
    }

    /// Reads and throws away up to the peer's end.
    async fn drain(&mut self) {
        let mut left = CLOSE_MAX_BYTES;
        while let Ok(count @ 1..) = self.io.read(&mut self.buffer).await {
            match left.checked_sub(count) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    }
}

/// RTMP from the handshake to the end.
async fn publish<S: AsyncRead + AsyncWrite + Unpin>(
    io: S,
    deadline: Instant,
    admitting: &mut Admitting,
) -> (Option<StreamName>, Cause) {
    let mut seed = [0; 8];
    // Without random bytes the handshake is as good: nothing depends on them.
    let _ = getrandom::fill(&mut seed);
    let session = Session::new(
        admitting.shared.config.session_limits(),
        u64::from_ne_bytes(seed),
    );
    let mut connection = Connection {
        io,
        session,
        buffer: vec![0; READ_BYTES],
    };
    let requested = async {
        loop {
            let event = connection.session.poll();
            connection.flush().await?;
            match event? {
                Some(Event::Publish(request)) => return Ok(request),
                Some(_) => {}
                None => {
                    connection.read().await?;
                }
            }
        }
    };
    let request = match within(deadline, &admitting.shared, requested).await {
        Ok(request) => request,
        Err(cause) => {
            connection.close(false).await;
            return (None, cause);
        }
    };
    let stop = admitting.shared.stop.clone();
    let admitted = tokio::select! {
        () = stop.cancelled() => Err(Denial::new(Refusal::Failed, "The server is going down.", None)),
        admitted = admit(&request, admitting) => admitted,
    };
    let Admitted {
        claim,
        sender,
        ends_unix_ms,
        limits,
    } = match admitted {
        Ok(admitted) => admitted,
        Err(denial) => {
            connection.session.refuse(denial.refusal, &denial.sentence);
            connection.close(false).await;
            return (denial.stream, Cause::Refused(denial.reason));
        }
    };
    connection.session.accept();
    drop(admitting.unadmitted.take());
    drop(admitting.unadmitted_of_address.take());
    let encoder = request.encoder.as_deref().map(printable);
    info!(peer = %admitting.peer, protocol = %admitting.protocol, stream = %claim.stream(), encoder, "publisher admitted");
    let expired = expired(ends_unix_ms);
    let admitted = (claim, sender, limits);
    media(connection, admitted, expired, &admitting.shared).await
}

/// How often the clock is looked at for a publisher whose time is bounded: a machine that slept, or whose clock was set, is noticed.
const EXPIRY_LOOK: Duration = Duration::from_secs(1);

/// Done once the wall clock, which whoever said when it ends goes by, is there; never where nobody said.
async fn expired(ends_unix_ms: Option<i64>) {
    let Some(ends) = ends_unix_ms else {
        return std::future::pending().await;
    };
    loop {
        let left = ends.saturating_sub(wall_unix_ms());
        match u64::try_from(left) {
            Ok(left @ 1..) => {
                tokio::time::sleep(Duration::from_millis(left).min(EXPIRY_LOOK)).await
            }
            _ => return,
        }
    }
}

fn wall_unix_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A publisher that was let in.
struct Admitted {
    claim: Claim,
    sender: queue::Sender,
    /// When it ends whatever it does.
    ends_unix_ms: Option<i64>,
    /// What it may send.
    limits: Limits,
}

/// Why a publisher is not admitted.
struct Denial {
    refusal: Refusal,
    /// For the encoder's user.
    sentence: String,
    /// For the log.
    reason: String,
    stream: Option<StreamName>,
}

impl Denial {
    fn new(refusal: Refusal, sentence: &str, stream: Option<StreamName>) -> Self {
        Self {
            refusal,
            sentence: sentence.to_owned(),
            reason: sentence.to_owned(),
            stream,
        }
    }
}

/// Asks the edge, claims the stream and hands the publisher over.
async fn admit(request: &PublishRequest, admitting: &Admitting) -> Result<Admitted, Denial> {
    let shared = &admitting.shared;
    let credentials = address::credentials(request).map_err(|error| match error {
        // What is no stream's name may be a key in the wrong field: the encoder's user may see it again, the log may not.
        address::Error::Stream(_) => Denial {
            reason: "the address names no stream".to_owned(),
            ..Denial::new(Refusal::BadName, &error.to_string(), None)
        },
        error => Denial::new(Refusal::Denied, &error.to_string(), None),
    })?;
    let question = Admit {
        key: credentials.key,
        stream: credentials.stream,
        peer: admitting.peer.ip().to_string(),
        protocol: Some(admitting.protocol.into()),
        probe: false,
    };
    let deadline = shared.config.admission_deadline();
    let unanswered = |reason: String| Denial {
        reason,
        ..Denial::new(
            Refusal::Denied,
            "The server could not check the stream key just now; try again.",
            None,
        )
    };
    let admission = match timeout(deadline, shared.edge.admit(question)).await {
        Ok(Ok(admission)) => admission,
        Ok(Err(EdgeError::Refused(sentence))) => {
            // Without the stream that the address names: a key is also a possible name, and may have been put there.
            return Err(Denial::new(Refusal::Denied, &sentence, None));
        }
        Ok(Err(error @ EdgeError::Unreachable(_))) => return Err(unanswered(error.to_string())),
        Err(_) => {
            return Err(unanswered(format!(
                "the edge did not answer within {deadline:?}"
            )));
        }
    };
    let Admission {
        stream,
        ends_unix_ms,
        credential,
        limits,
    } = admission;
    let claim = shared.live.claim(
        &stream,
        shared.config.second_publisher,
        shared.started.elapsed(),
    );
    let claim = match timeout(TAKE_OVER_DEADLINE, claim).await {
        Ok(Some(claim)) => claim,
        Ok(None) | Err(_) => {
            let sentence = "The stream is live from another encoder already.";
            return Err(Denial::new(Refusal::BadName, sentence, Some(stream)));
        }
    };
    let (sender, events) = queue::channel(shared.config.queue_limit());
    let publisher = Publisher {
        stream: stream.clone(),
        peer: admitting.peer,
        protocol: admitting.protocol,
        credential,
        events,
        cut: claim.cut().clone(),
    };
    match shared.accept.accept(publisher) {
        Ok(()) => Ok(Admitted {
            claim,
            sender,
            ends_unix_ms,
            limits,
        }),
        Err(error) => Err(Denial::new(Refusal::Failed, &error.0, Some(stream))),
    }
}

/// The publisher's media, to its end. The events end before the claim does, so that the next publisher comes after them.
async fn media<S: AsyncRead + AsyncWrite + Unpin>(
    mut connection: Connection<S>,
    (claim, mut sender, limits): (Claim, queue::Sender, Limits),
    expired: impl Future<Output = ()>,
    shared: &Shared,
) -> (Option<StreamName>, Cause) {
    let admitted = (&claim, &mut sender, limits);
    let cause = pump(&mut connection, admitted, expired, shared).await;
    let stream = claim.stream().clone();
    match &cause {
        // Whose time is over does not come back, and who sends too much goes on with it: nobody waits for them.
        Cause::Unpublished | Cause::Expired | Cause::StreamBitrate(_) | Cause::Bounds(_) => {
            sender.unpublished();
        }
        _ => drop(sender),
    }
    drop(claim);
    // What the encoder can show to its user; the other causes have no one to tell.
    match &cause {
        Cause::Flv(error) => connection
            .session
            .refuse(Refusal::Failed, &error.to_string()),
        Cause::Bitrate(_)
        | Cause::StreamBitrate(_)
        | Cause::Bounds(_)
        | Cause::Cut
        | Cause::Expired
        | Cause::Stop
        | Cause::Silent(_) => {
            connection
                .session
                .refuse(Refusal::Failed, &cause.to_string());
        }
        Cause::TakenOver => connection
            .session
            .refuse(Refusal::BadName, &cause.to_string()),
        _ => {}
    }
    connection.close(matches!(cause, Cause::Unpublished)).await;
    (Some(stream), cause)
}

async fn pump<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<S>,
    (claim, sender, limits): (&Claim, &mut queue::Sender, Limits),
    expired: impl Future<Output = ()>,
    shared: &Shared,
) -> Cause {
    let config = &shared.config;
    let mut demuxer = flv::Demuxer::default();
    let of_stream = (limits.max_bitrate_bps).filter(|max| *max < config.max_bitrate_bps);
    let max_bitrate_bps = of_stream.unwrap_or(config.max_bitrate_bps);
    let mut ceiling = Ceiling::new(max_bitrate_bps, shared.started.elapsed());
    let mut bounds = Bounds::new(limits, shared.started.elapsed());
    let mut events = Vec::new();
    let silence = tokio::time::sleep(config.silence());
    tokio::pin!(silence, expired);
    loop {
        let now = shared.started.elapsed();
        match take_events(&mut connection.session, &mut demuxer, &mut events) {
            Ok(Taken { media, unpublished }) => {
                if media {
                    claim.media_at(now);
                    silence.as_mut().reset(Instant::now() + config.silence());
                }
                for event in events.drain(..) {
                    if let Err(exceeded) = bounds.look(&event, now) {
                        return exceeded.into();
                    }
                    if sender.send(Received { at: now, event }).is_err() {
                        return Cause::Cut;
                    }
                }
                if let Some(dropped) = sender.take_dropped() {
                    let (video, audio) = (dropped.video, dropped.audio);
                    warn!(stream = %claim.stream(), video, audio, "the pipeline does not keep up: frames were dropped");
                }
                if unpublished {
                    return Cause::Unpublished;
                }
            }
            Err(cause) => return cause,
        }
        if let Err(cause) = connection.flush().await {
            return cause;
        }
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Cause::Stop,
            () = claim.cut().cancelled() => {
                return if claim.is_taken_over() { Cause::TakenOver } else { Cause::Cut };
            }
            () = sender.closed() => return Cause::Cut,
            () = &mut expired => return Cause::Expired,
            // Ahead of reading: a peer that always has something to say, and never audio or video, is silent.
            () = &mut silence => return Cause::Silent(config.silence()),
            read = connection.read() => match read {
                Ok(count) if ceiling.take(count, shared.started.elapsed()) => {}
                Ok(_) => return match of_stream {
                    Some(max) => Cause::StreamBitrate(max),
                    None => Cause::Bitrate(max_bitrate_bps),
                },
                Err(cause) => return cause,
            },
        }
    }
}

#[derive(Default)]
struct Taken {
    media: bool,
    unpublished: bool,
}

fn take_events(
    session: &mut Session,
    demuxer: &mut flv::Demuxer,
    out: &mut Vec<IngestEvent>,
) -> Result<Taken, Cause> {
    let mut taken = Taken::default();
    while let Some(event) = session.poll()? {
        match event {
            Event::Audio { timestamp, payload } => {
                taken.media = true;
                demuxer.audio(timestamp, &payload, out)?;
            }
            Event::Video { timestamp, payload } => {
                taken.media = true;
                demuxer.video(timestamp, &payload, out)?;
            }
            Event::Script(payload) => demuxer.script(&payload, out),
            Event::Unpublished => taken.unpublished = true,
            Event::Publish(_) => {}
        }
    }
    Ok(taken)
}
