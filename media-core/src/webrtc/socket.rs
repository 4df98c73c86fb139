//! The UDP port: datagrams in and out in batches, and the addresses that it is reached at.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdSocket},
};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use tokio::net::UdpSocket;

/// What the system may hold of datagrams in either direction, bytes: a second of 200 viewers.
const BUFFER_BYTES: usize = 8 << 20;
/// The longest datagram that is looked at, bytes; with GRO a buffer has many.
const RECEIVE_BYTES: usize = 64 * 1024;
/// The longest batch that one system call takes, bytes.
const MAX_BATCH_BYTES: usize = 60_000;

/// The port.
pub(super) struct Socket {
    inner: UdpSocket,
    state: UdpSocketState,
    mapped: bool,
    buffers: Vec<Vec<u8>>,
    /// Datagrams that the system did not take.
    pub(super) dropped: u64,
}

impl Socket {
    pub(super) fn open(listen: SocketAddr) -> io::Result<(StdSocket, SocketAddr)> {
        let opened = match StdSocket::bind(listen) {
            // A machine without IPv6.
            Err(error) if listen.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
                StdSocket::bind((Ipv4Addr::UNSPECIFIED, listen.port())).map_err(|_| error)
            }
            opened => opened,
        }?;
        opened.set_nonblocking(true)?;
        let at = opened.local_addr()?;
        Ok((opened, at))
    }

    /// Within the runtime that will drive it.
    pub(super) fn new(socket: StdSocket) -> io::Result<Self> {
        let mapped = socket.local_addr()?.is_ipv6();
        let inner = UdpSocket::from_std(socket)?;
        let state = UdpSocketState::new(UdpSockRef::from(&inner))?;
        // As much as the system gives; it may be less.
        let _ = state.set_send_buffer_size(UdpSockRef::from(&inner), BUFFER_BYTES);
        let _ = state.set_recv_buffer_size(UdpSockRef::from(&inner), BUFFER_BYTES);
        let buffers = vec![vec![0; RECEIVE_BYTES]; BATCH_SIZE];
        Ok(Self {
            inner,
            state,
            mapped,
            buffers,
            dropped: 0,
        })
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        self.inner.readable().await
    }

    /// Gives each datagram that is there to `take`: where from, to which of the machine's addresses, and what. One batch.
    pub(super) fn receive(&mut self, mut take: impl FnMut(SocketAddr, Option<IpAddr>, &[u8])) {
        let mut meta = [RecvMeta::default(); BATCH_SIZE];
        let (inner, state) = (&self.inner, &self.state);
        let mut slices: Vec<IoSliceMut<'_>> = self
            .buffers
            .iter_mut()
            .map(|b| IoSliceMut::new(b))
            .collect();
        let read = inner.try_io(tokio::io::Interest::READABLE, || {
            state.recv(UdpSockRef::from(inner), &mut slices, &mut meta)
        });
        drop(slices);
        // Nothing there after all, or an earlier datagram's ICMP error.
        let Ok(count) = read else { return };
        for (meta, buffer) in meta.iter().zip(&self.buffers).take(count) {
            let source = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
            let to = meta.dst_ip.map(|ip| ip.to_canonical());
            for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                take(source, to, datagram);
            }
        }
    }

    /// How many datagrams of one length one call sends.
    pub(super) fn segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Sends datagrams that lie behind each other, each `segment` bytes long but the last.
    pub(super) fn send(&mut self, destination: SocketAddr, contents: &[u8], segment: usize) {
        let ip = match (destination.ip(), self.mapped) {
            (IpAddr::V4(v4), true) => IpAddr::V6(v4.to_ipv6_mapped()),
            (ip, _) => ip,
        };
        let transmit = Transmit {
            destination: SocketAddr::new(ip, destination.port()),
            ecn: None,
            contents,
            segment_size: (contents.len() > segment).then_some(segment),
            src_ip: None,
        };
        let (inner, state) = (&self.inner, &self.state);
        let sent = inner.try_io(tokio::io::Interest::WRITABLE, || {
            state.try_send(UdpSockRef::from(inner), &transmit)
        });
        if sent.is_err() {
            // A full buffer, or nobody there: as if the network had lost them, and mended the same way.
            self.dropped += contents.len().div_ceil(segment.max(1)) as u64;
        }
    }
}

/// Datagrams of one viewer that wait to be sent with one call.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    segment: usize,
    /// A shorter one ends a batch.
    ended: bool,
    destination: Option<SocketAddr>,
}

impl Batch {
    /// Takes a datagram, and sends what cannot go with it.
    pub(super) fn push(&mut self, destination: SocketAddr, datagram: &[u8], socket: &mut Socket) {
        let fits = self.destination == Some(destination)
            && !self.ended
            && datagram.len() <= self.segment
            && self.bytes.len() + datagram.len() <= MAX_BATCH_BYTES
            && self.bytes.len() < self.segment * socket.segments();
        if !fits {
            self.flush(socket);
            self.segment = datagram.len();
            self.destination = Some(destination);
        }
        self.ended = datagram.len() < self.segment;
        self.bytes.extend_from_slice(datagram);
    }

    pub(super) fn flush(&mut self, socket: &mut Socket) {
        if let (Some(destination), false) = (self.destination, self.bytes.is_empty()) {
            socket.send(destination, &self.bytes, self.segment);
        }
        self.bytes.clear();
        self.ended = false;
        self.destination = None;
    }
}

/// The addresses that viewers are told: those of the configuration, else the one that was bound, else those that this machine reaches the world from.
pub(super) fn addresses(configured: &[IpAddr], bound: SocketAddr) -> Vec<SocketAddr> {
    let port = bound.port();
    let all: Vec<IpAddr> = match (configured, bound.ip()) {
        ([], ip) if !ip.is_unspecified() => vec![ip],
        ([], ip) => {
            let mut found = vec![outward(Ipv4Addr::UNSPECIFIED.into(), [192, 0, 2, 1].into())];
            if ip.is_ipv6() {
                // Documentation addresses (RFC 5737, RFC 3849): nothing is sent, the system only says which way it would go.
                let there = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
                found.push(outward(ip, there.into()));
            }
            let mut found: Vec<IpAddr> = found.into_iter().flatten().collect();
            if found.is_empty() {
                found.push(Ipv4Addr::LOCALHOST.into());
            }
            found
        }
        (configured, _) => configured.to_vec(),
    };
    all.into_iter()
        .map(|ip| SocketAddr::new(ip, port))
        .collect()
}

/// From which address this machine would send there.
fn outward(from: IpAddr, there: IpAddr) -> Option<IpAddr> {
    let socket = StdSocket::bind((from, 0)).ok()?;
    socket.connect((there, 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}
