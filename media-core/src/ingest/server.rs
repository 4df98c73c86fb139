//! The listeners.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::per_address::PerAddress;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{
    Accept, Config, Protocol,
    connection::{self, Admitting},
    live::Live,
};
use crate::edge::Edge;

/// How long connections have to end by themselves when the server stops.
const STOP_DEADLINE: Duration = Duration::from_secs(3);

/// Why the server could not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken or not there.
    #[error(
        "{protocol} cannot listen on {address}: {error}; set ingest.{protocol} to another address and port, or to \"off\""
    )]
    Listen {
        /// RTMP or RTMPS.
        protocol: Protocol,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// RTMPS needs a certificate.
    #[error("RTMPS is on (ingest.rtmps), and there is no certificate for it")]
    NoCertificate,
}

/// Takes publishers on RTMP and RTMPS.
pub struct Server {
    listeners: Vec<(TcpListener, Protocol)>,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
}

/// What the connections share.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) edge: Arc<dyn Edge>,
    pub(super) accept: Arc<dyn Accept>,
    pub(super) live: Live,
    pub(super) started: Instant,
    pub(super) stop: CancellationToken,
    pub(super) per_address: PerAddress,
    pub(super) unadmitted_per_address: PerAddress,
    unadmitted: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

impl Server {
    /// Listens where the configuration says. `started` is the zero of [`Received::at`](crate::media::Received::at); `tls` serves RTMPS.
    ///
    /// # Errors
    /// [`BindError`] when an address cannot be listened on, or RTMPS is on without `tls`.
    pub async fn bind(
        config: Config,
        tls: Option<Arc<rustls::ServerConfig>>,
        edge: Arc<dyn Edge>,
        accept: Arc<dyn Accept>,
        started: Instant,
    ) -> Result<Self, BindError> {
        let mut listeners = Vec::new();
        for (listen, protocol) in [
            (config.rtmp, Protocol::Rtmp),
            (config.rtmps, Protocol::Rtmps),
        ] {
            let Some(address) = listen.0 else {
                continue;
            };
            if protocol == Protocol::Rtmps && tls.is_none() {
                return Err(BindError::NoCertificate);
            }
            let listener = self::listen(address)
                .await
                .map_err(|error| BindError::Listen {
                    protocol,
                    address,
                    error,
                })?;
            listeners.push((listener, protocol));
        }
        let shared = Shared {
            edge,
            accept,
            live: Live::default(),
            started,
            stop: CancellationToken::new(),
            per_address: PerAddress::default(),
            unadmitted_per_address: PerAddress::default(),
            unadmitted: Arc::new(Semaphore::new(config.max_unadmitted)),
            connections: Arc::new(Semaphore::new(config.max_connections)),
            config,
        };
        Ok(Self {
            listeners,
            tls: tls.map(TlsAcceptor::from),
            shared: Arc::new(shared),
        })
    }

    /// Where a protocol is listened on, with the port that the system chose for 0; `None` when it is off.
    pub fn address(&self, protocol: Protocol) -> Option<SocketAddr> {
        let (listener, _) = self.listeners.iter().find(|(_, of)| *of == protocol)?;
        listener.local_addr().ok()
    }

    /// Who publishes which stream.
    pub fn live(&self) -> Live {
        self.shared.live.clone()
    }

    /// Takes connections until `stop`, then ends them: their [`Events`](super::queue::Events) end with a cut.
    pub async fn run(self, stop: CancellationToken) {
        let mut accepting = JoinSet::new();
        for (listener, protocol) in self.listeners {
            let tls = self.tls.clone().filter(|_| protocol == Protocol::Rtmps);
            accepting.spawn(take_connections(
                listener,
                protocol,
                tls,
                self.shared.clone(),
            ));
        }
        stop.cancelled().await;
        self.shared.stop.cancel();
        while let Some(ended) = accepting.join_next().await {
            if let Err(error) = ended {
                error!(%error, "a listener ended badly");
            }
        }
    }
}

/// Listens on an address. On a machine without IPv6, `[::]` is all of IPv4.
///
/// # Errors
/// Of the system, of the address as it was asked for.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error)
            if address.ip() == Ipv6Addr::UNSPECIFIED
                && error.kind() != io::ErrorKind::AddrInUse =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
                .await
                .map_err(|_| error)
        }
        result => result,
    }
}

async fn take_connections(
    listener: TcpListener,
    protocol: Protocol,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended {
                    error!(%error, "a connection's task ended badly");
                }
            }
            taken = listener.accept() => match taken {
                Ok((tcp, peer)) => take(&mut connections, tcp, peer, protocol, tls.clone(), &shared),
                Err(error) => {
                    // Most often no file descriptors are left; those that end give theirs back.
                    warn!(%protocol, %error, "a connection could not be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_DEADLINE, all).await.is_err() {
        debug!(%protocol, "connections that did not end in time are dropped");
    }
}

fn take(
    connections: &mut JoinSet<()>,
    tcp: TcpStream,
    peer: SocketAddr,
    protocol: Protocol,
    tls: Option<TlsAcceptor>,
    shared: &Arc<Shared>,
) {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let Ok(connection) = shared.connections.clone().try_acquire_owned() else {
        warn!(%peer, %protocol, reason = "the server has max_connections connections", "connection cut off");
        return;
    };
    let Ok(unadmitted) = shared.unadmitted.clone().try_acquire_owned() else {
        warn!(%peer, %protocol, reason = "the server has max_unadmitted connections without a publisher", "connection cut off");
        return;
    };
    let admitting = Admitting {
        peer,
        protocol,
        tls,
        unadmitted: Some(unadmitted),
        unadmitted_of_address: None,
        shared: shared.clone(),
    };
    connections.spawn(async move {
        connection::serve(tcp, admitting).await;
        drop(connection);
    });
}
