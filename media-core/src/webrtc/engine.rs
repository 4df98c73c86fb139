//! The thread that has the socket, and all viewers of all broadcasts.
//!
//! What comes in is found its viewer by the name in a connectivity check, and after that by the address that it came from: whatever else comes
//! costs one look into a table and is not answered.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use protocol::{
    link::ToEdge,
    names::{BroadcastId, TrackName},
    signaling::{
        MAX_IDS, MAX_WATCHING, Outcome, Refusal, STILL_WATCHING_S, Signal, Viewer as Watching,
    },
    token::Tag,
};
use str0m::ice::StunMessage;
use tokio::sync::mpsc;

use super::{
    Config, StartError, Zero,
    feed::LayerInfo,
    rtp::Frame,
    socket::{self, Socket},
    viewer::{self, Common, Todo, Viewer},
};

/// An IDR of one layer is asked for no more often than this, by however many viewers.
const KEY_FRAME_EVERY: Duration = Duration::from_millis(500);
/// Frames and bytes of a group of pictures that are kept for those who come: beyond, they wait for the next IDR.
const MAX_GROUP: usize = 600;
const MAX_GROUP_BYTES: usize = 4 << 20;
/// Commands that are done before the socket is looked at again.
const COMMANDS_AT_ONCE: usize = 128;
/// How often sessions that are over are looked for.
const SWEEP: Duration = Duration::from_millis(500);
/// Addresses of one viewer: each interface and NAT binding that its checks came from.
const MAX_SOURCES: usize = 8;

/// What the engine is told.
#[derive(Debug)]
pub(super) enum Command {
    Begin {
        broadcast: BroadcastId,
        zero: Zero,
        key_frames: mpsc::Sender<TrackName>,
        to_edge: mpsc::Sender<ToEdge>,
        heard: Arc<AtomicBool>,
    },
    Layer {
        broadcast: BroadcastId,
        info: LayerInfo,
    },
    NoLayer {
        broadcast: BroadcastId,
        name: TrackName,
    },
    Video {
        broadcast: BroadcastId,
        name: TrackName,
        frame: Arc<Frame>,
    },
    Audio {
        broadcast: BroadcastId,
        frame: Arc<Frame>,
    },
    Ended {
        broadcast: BroadcastId,
    },
    Connected {
        broadcast: BroadcastId,
    },
    Signal {
        broadcast: BroadcastId,
        request: u64,
        signal: Signal,
    },
    End {
        broadcast: BroadcastId,
        sessions: Vec<Tag>,
    },
}

struct Layer {
    info: LayerInfo,
    /// The running group of pictures; empty where it is too long, or began before anything came.
    group: Vec<Arc<Frame>>,
    group_bytes: usize,
    asked: Option<Instant>,
}

struct Broadcast {
    zero: Zero,
    key_frames: mpsc::Sender<TrackName>,
    to_edge: mpsc::Sender<ToEdge>,
    heard: Arc<AtomicBool>,
    layers: BTreeMap<TrackName, Layer>,
    viewers: Vec<Tag>,
}

impl Broadcast {
    fn infos(&self) -> Vec<LayerInfo> {
        let layers = self.layers.values();
        layers.map(|layer| layer.info.clone()).collect()
    }

    /// Asks for an IDR of a layer, unless that was just done.
    fn ask_key_frame(&mut self, name: &TrackName, now: Instant) {
        let Some(layer) = self.layers.get_mut(name) else {
            return;
        };
        let lately = layer
            .asked
            .is_some_and(|at| now.duration_since(at) < KEY_FRAME_EVERY);
        if layer.info.on_demand && !lately {
            layer.asked = Some(now);
            // Full: one is under way.
            let _ = self.key_frames.try_send(name.clone());
        }
    }

    fn tell(&self, message: ToEdge) {
        if self.to_edge.try_send(message).is_err() {
            tracing::debug!("the broadcast link is too slow for what its viewers say");
        }
    }
}

/// What the thread has.
pub(super) struct Engine {
    commands: mpsc::Receiver<Command>,
    port: std::net::UdpSocket,
    common: Common,
    max_viewers: usize,
}

impl Engine {
    /// Opens the port. Gives the addresses that viewers are told.
    pub(super) fn open(
        listen: SocketAddr,
        config: &Config,
        commands: mpsc::Receiver<Command>,
    ) -> Result<(Self, Vec<SocketAddr>), StartError> {
        let (port, bound) = Socket::open(listen).map_err(|e| StartError::Port(listen, e))?;
        let addresses = socket::addresses(&config.addresses, bound);
        let crypto = Arc::new(str0m::crypto::from_feature_flags());
        let certificate = crypto.dtls_provider.generate_certificate();
        let common = Common {
            certificate: certificate.ok_or(StartError::Certificate)?,
            crypto,
            addresses: addresses.clone(),
        };
        let engine = Self {
            commands,
            port,
            common,
            max_viewers: config.max_viewers,
        };
        Ok((engine, addresses))
    }

    /// Serves until nobody holds the other end any more.
    pub(super) fn run(self) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let result = runtime.and_then(|runtime| {
            runtime.block_on(async {
                let socket = Socket::new(self.port)?;
                let running = Running {
                    socket,
                    common: self.common,
                    max_viewers: self.max_viewers,
                    broadcasts: HashMap::new(),
                    viewers: HashMap::new(),
                    by_ufrag: HashMap::new(),
                    by_source: HashMap::new(),
                    timers: BinaryHeap::new(),
                };
                running.serve(self.commands).await;
                Ok(())
            })
        });
        if let Err(error) = result {
            tracing::error!(%error, "WebRTC ended");
        }
    }
}

struct Running {
    socket: Socket,
    common: Common,
    max_viewers: usize,
    broadcasts: HashMap<BroadcastId, Broadcast>,
    viewers: HashMap<Tag, Viewer>,
    /// Who is called so in connectivity checks.
    by_ufrag: HashMap<String, Tag>,
    /// Whose datagrams come from there.
    by_source: HashMap<SocketAddr, Tag>,
    timers: BinaryHeap<Reverse<(Instant, Tag)>>,
}

impl Running {
    async fn serve(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut still = tokio::time::interval(Duration::from_secs(STILL_WATCHING_S));
        still.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let next = self.timers.peek().map(|Reverse((at, _))| *at);
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                command = commands.recv() => {
                    let Some(command) = command else { break };
                    self.command(command);
                    for _ in 1..COMMANDS_AT_ONCE {
                        let Ok(command) = commands.try_recv() else { break };
                        self.command(command);
                    }
                }
                Ok(()) = self.socket.readable() => self.receive(),
                () = due => {}
                _ = sweep.tick() => self.sweep(),
                _ = still.tick() => self.still_watching(),
            }
            self.timers();
        }
        for viewer in self.viewers.values_mut() {
            viewer.close(&mut self.socket);
        }
    }

    // ---- datagrams and time

    fn receive(&mut self) {
        let now = Instant::now();
        let mut driven: Vec<Tag> = Vec::new();
        let Self {
            socket,
            common,
            viewers,
            by_ufrag,
            by_source,
            ..
        } = self;
        socket.receive(|source, to, datagram| {
            // RFC 7983: connectivity checks begin with 0 to 3.
            let check = datagram.first().is_some_and(|first| *first < 4);
            let known = by_source.get(&source).copied();
            let called = || {
                let message = StunMessage::parse(datagram).ok()?;
                let (local, _) = message.split_username()?;
                by_ufrag.get(local).copied()
            };
            let found = if check { called().or(known) } else { known };
            let Some((id, viewer)) = found.and_then(|id| Some((id, viewers.get_mut(&id)?))) else {
                return;
            };
            let destination = viewer::destination(common, to, source);
            // Refused where the check is not signed with the viewer's password.
            if !viewer.receive(source, destination, datagram, now) {
                return;
            }
            if known != Some(id) && viewer.sources.len() < MAX_SOURCES {
                by_source.insert(source, id);
                viewer.sources.push(source);
            }
            if driven.last() != Some(&id) && !driven.contains(&id) {
                driven.push(id);
            }
        });
        for id in driven {
            self.drive(id, now);
        }
    }

    fn timers(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, id))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            let Some(viewer) = self.viewers.get_mut(&id) else {
                continue;
            };
            // Another one was set since.
            if viewer.armed != Some(at) {
                continue;
            }
            viewer.armed = None;
            match viewer.deadline <= now {
                true => self.drive(id, now),
                false => self.arm(id),
            }
        }
    }

    fn arm(&mut self, id: Tag) {
        if let Some(viewer) = self.viewers.get_mut(&id)
            && viewer.armed.is_none_or(|armed| viewer.deadline < armed)
        {
            viewer.armed = Some(viewer.deadline);
            self.timers.push(Reverse((viewer.deadline, id)));
        }
    }

    /// Lets a viewer's connection do what is due, and does what follows from that.
    fn drive(&mut self, id: Tag, now: Instant) {
        let mut todo = Vec::new();
        // What is written in answer is sent in the next round; it comes to an end because no answer asks for another.
        for _ in 0..4 {
            let Some(viewer) = self.viewers.get_mut(&id) else {
                return;
            };
            viewer.drive(now, &mut self.socket, &mut todo);
            if todo.is_empty() {
                break;
            }
            for what in std::mem::take(&mut todo) {
                self.after(id, what, now);
            }
        }
        self.arm(id);
    }

    fn after(&mut self, id: Tag, what: Todo, now: Instant) {
        let Some(viewer) = self.viewers.get_mut(&id) else {
            return;
        };
        let Some(broadcast) = self.broadcasts.get_mut(&viewer.broadcast) else {
            return;
        };
        match what {
            Todo::Joined => {
                broadcast.heard.store(true, Ordering::Relaxed);
                let chosen = viewer.choose(&broadcast.infos(), now);
                let layer = chosen.as_ref().and_then(|name| broadcast.layers.get(name));
                let joined = layer
                    .is_some_and(|layer| viewer.join(&layer.info, &layer.group, &broadcast.zero));
                if let (Some(name), false) = (chosen, joined) {
                    broadcast.ask_key_frame(&name, now);
                }
            }
            Todo::KeyFrame => {
                if let Some(name) = viewer.layer().cloned() {
                    broadcast.ask_key_frame(&name, now);
                }
            }
            Todo::Estimated => {
                if let Some(name) = viewer.choose(&broadcast.infos(), now) {
                    broadcast.ask_key_frame(&name, now);
                }
            }
            Todo::Gone => self.remove(id, true),
        }
    }

    // ---- commands

    fn command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Begin {
                broadcast,
                zero,
                key_frames,
                to_edge,
                heard,
            } => {
                let begun = Broadcast {
                    zero,
                    key_frames,
                    to_edge,
                    heard,
                    layers: BTreeMap::new(),
                    viewers: Vec::new(),
                };
                self.broadcasts.insert(broadcast, begun);
            }
            Command::Layer { broadcast, info } => {
                if let Some(broadcast) = self.broadcasts.get_mut(&broadcast) {
                    let layer = Layer {
                        info: info.clone(),
                        group: Vec::new(),
                        group_bytes: 0,
                        asked: None,
                    };
                    broadcast.layers.insert(info.name, layer);
                }
            }
            Command::NoLayer { broadcast, name } => self.no_layer(&broadcast, &name, now),
            Command::Video {
                broadcast,
                name,
                frame,
            } => self.video(&broadcast, &name, frame, now),
            Command::Audio { broadcast, frame } => {
                let ids = self.viewers_of(&broadcast);
                let Some(of) = self.broadcasts.get(&broadcast) else {
                    return;
                };
                let zero = of.zero;
                for id in ids {
                    let viewer = self.viewers.get_mut(&id);
                    if viewer.is_some_and(|viewer| viewer.audio(&frame, &zero)) {
                        self.drive(id, now);
                    }
                }
            }
            Command::Ended { broadcast } => {
                for id in self.viewers_of(&broadcast) {
                    self.remove(id, true);
                }
                self.broadcasts.remove(&broadcast);
            }
            Command::Connected { broadcast } => self.watching(&broadcast),
            Command::Signal {
                broadcast,
                request,
                signal,
            } => self.signal(&broadcast, request, signal, now),
            Command::End {
                broadcast,
                sessions,
            } => {
                for id in sessions.into_iter().take(MAX_IDS) {
                    if self.is_of(id, &broadcast) {
                        self.remove(id, false);
                    }
                }
            }
        }
    }

    fn viewers_of(&self, broadcast: &BroadcastId) -> Vec<Tag> {
        let found = self.broadcasts.get(broadcast);
        found.map_or_else(Vec::new, |broadcast| broadcast.viewers.clone())
    }

    fn is_of(&self, id: Tag, broadcast: &BroadcastId) -> bool {
        let viewer = self.viewers.get(&id);
        viewer.is_some_and(|viewer| viewer.broadcast == *broadcast)
    }

    fn no_layer(&mut self, broadcast: &BroadcastId, name: &TrackName, now: Instant) {
        let ids = self.viewers_of(broadcast);
        let Some(of) = self.broadcasts.get_mut(broadcast) else {
            return;
        };
        of.layers.remove(name);
        let infos = of.infos();
        for id in ids {
            let Some(viewer) = self.viewers.get_mut(&id) else {
                continue;
            };
            viewer.lose(name);
            if let Some(other) = viewer.choose(&infos, now) {
                of.ask_key_frame(&other, now);
            }
        }
    }

    fn video(
        &mut self,
        broadcast: &BroadcastId,
        name: &TrackName,
        frame: Arc<Frame>,
        now: Instant,
    ) {
        let ids = self.viewers_of(broadcast);
        let Some(of) = self.broadcasts.get_mut(broadcast) else {
            return;
        };
        let Some(layer) = of.layers.get_mut(name) else {
            return;
        };
        layer.keep(&frame);
        let (info, zero) = (layer.info.clone(), of.zero);
        for id in ids {
            let viewer = self.viewers.get_mut(&id);
            if viewer.is_some_and(|viewer| viewer.video(&info, &frame, &zero)) {
                self.drive(id, now);
            }
        }
    }

    // ---- viewers

    fn signal(&mut self, broadcast: &BroadcastId, request: u64, signal: Signal, now: Instant) {
        let outcome = match signal {
            Signal::Offer { viewer, sdp } => self
                .offer(broadcast, *viewer, &sdp, now)
                .map(|sdp| Outcome::Answer { sdp }),
            Signal::Patch { session, fragment } => self
                .patch(broadcast, session, &fragment)
                .map(|fragment| Outcome::Patched { fragment }),
            Signal::Leave { session } => {
                if self.is_of(session, broadcast) {
                    self.remove(session, false);
                }
                Ok(Outcome::Left)
            }
        };
        let outcome = outcome.unwrap_or_else(|reason| Outcome::Refused { reason });
        if let Some(broadcast) = self.broadcasts.get(broadcast) {
            broadcast.tell(ToEdge::Signaled { request, outcome });
        }
    }

    fn offer(
        &mut self,
        broadcast: &BroadcastId,
        watching: Watching,
        sdp: &str,
        now: Instant,
    ) -> Result<String, Refusal> {
        let infos = match self.broadcasts.get(broadcast) {
            Some(broadcast) if !broadcast.layers.is_empty() => broadcast.infos(),
            _ => return Err(Refusal::Unavailable),
        };
        let id = watching.session.id;
        // Somebody who begins anew with the same session has left the old connection behind.
        self.remove(id, false);
        if self.viewers.len() >= self.max_viewers {
            return Err(Refusal::Full);
        }
        let (viewer, answer) =
            Viewer::answer(watching, broadcast.clone(), sdp, &infos, &self.common, now)?;
        self.by_ufrag.insert(viewer.ufrag.clone(), id);
        self.viewers.insert(id, viewer);
        if let Some(broadcast) = self.broadcasts.get_mut(broadcast) {
            broadcast.viewers.push(id);
        }
        self.arm(id);
        Ok(answer)
    }

    fn patch(
        &mut self,
        broadcast: &BroadcastId,
        session: Tag,
        fragment: &str,
    ) -> Result<Option<String>, Refusal> {
        if !self.is_of(session, broadcast) {
            return Err(Refusal::NoSession);
        }
        let viewer = self.viewers.get_mut(&session).ok_or(Refusal::NoSession)?;
        let before = viewer.ufrag.clone();
        let answer = viewer.patch(fragment, &self.common)?;
        if answer.is_some() {
            self.by_ufrag.remove(&before);
            self.by_ufrag.insert(viewer.ufrag.clone(), session);
        }
        Ok(answer)
    }

    /// Lets a viewer go; `tell` the edge, where it did not say so itself.
    fn remove(&mut self, id: Tag, tell: bool) {
        let Some(mut viewer) = self.viewers.remove(&id) else {
            return;
        };
        viewer.close(&mut self.socket);
        self.by_ufrag.remove(&viewer.ufrag);
        for source in &viewer.sources {
            if self.by_source.get(source) == Some(&id) {
                self.by_source.remove(source);
            }
        }
        let Some(broadcast) = self.broadcasts.get_mut(&viewer.broadcast) else {
            return;
        };
        broadcast.viewers.retain(|of| *of != id);
        if tell {
            broadcast.tell(ToEdge::Gone { sessions: vec![id] });
        }
        let viewers = &self.viewers;
        let mut ids = broadcast.viewers.iter();
        let heard = ids.any(|id| viewers.get(id).is_some_and(Viewer::hears));
        broadcast.heard.store(heard, Ordering::Relaxed);
    }

    fn sweep(&mut self) {
        let now = Instant::now();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix_ms = unix.map_or(0, |since| since.as_millis() as i64);
        let over = self.viewers.iter();
        let over = over.filter(|(_, viewer)| viewer.is_over(now, unix_ms));
        let over: Vec<Tag> = over.map(|(id, _)| *id).collect();
        for id in over {
            self.remove(id, true);
        }
        let dropped = std::mem::take(&mut self.socket.dropped);
        if dropped > 0 {
            tracing::debug!(dropped, "the system did not take these datagrams");
        }
    }

    // ---- what the edge hears

    fn watching(&self, broadcast: &BroadcastId) {
        let Some(of) = self.broadcasts.get(broadcast) else {
            return;
        };
        for ids in of.viewers.chunks(MAX_WATCHING) {
            let viewers = ids.iter().filter_map(|id| self.viewers.get(id));
            let viewers = viewers.map(|viewer| viewer.watching.clone()).collect();
            of.tell(ToEdge::Watching { viewers });
        }
    }

    fn still_watching(&self) {
        for of in self.broadcasts.values() {
            for ids in of.viewers.chunks(MAX_IDS) {
                of.tell(ToEdge::StillWatching {
                    sessions: ids.to_vec(),
                });
            }
        }
    }
}

impl Layer {
    /// Keeps a frame for those who come.
    fn keep(&mut self, frame: &Arc<Frame>) {
        if frame.idr {
            self.group.clear();
            self.group_bytes = 0;
        } else if self.group.is_empty() {
            return;
        }
        self.group.push(Arc::clone(frame));
        self.group_bytes += frame.bytes;
        if self.group.len() > MAX_GROUP || self.group_bytes > MAX_GROUP_BYTES {
            self.group.clear();
            self.group_bytes = 0;
        }
    }
}
