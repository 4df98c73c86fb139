//! One viewer: its peer connection, which layer it is sent, and how.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use protocol::{
    names::{BroadcastId, TrackName},
    signaling::{Refusal, Viewer as Watching},
};
use str0m::{
    Candidate, Event, IceConnectionState, IceCreds, Input, Output, Rtc,
    bwe::{Bitrate, BweKind},
    change::SdpOffer,
    config::{CryptoProvider, DtlsCert},
    format::Codec,
    media::{MediaKind, MediaTime, Mid, Pt},
    net::{Protocol, Receive},
    rtp::{AbsCaptureTime, Extension, ExtensionMap, ExtensionValues, RtpWrite, SeqNo},
};

use super::{
    Zero,
    feed::{LayerInfo, Profile},
    rtp::Frame,
    socket::{Batch, Socket},
};
use crate::{media::VIDEO_TIMESCALE, transcode::OPUS_RATE};

/// What a viewer's network is believed to carry before it was measured, bits a second.
const FIRST_ESTIMATE_BPS: u64 = 3_000_000;
/// Part of the estimate that media may take; the rest is for what is sent again, and for sound.
const USABLE: f64 = 0.85;
/// A better layer is taken after the estimate has carried it with so much to spare, for so long.
const BETTER: f64 = 1.15;
const BETTER_FOR: Duration = Duration::from_secs(3);
/// Receivers show a picture as soon as they have it, and hold it back by no more than this (the playout-delay extension).
const MOST_DELAY: Duration = Duration::from_millis(300);
/// A viewer that comes in gets the running group of pictures up to so many bytes: more would take longer than the next IDR does.
const JOIN_BYTES: usize = 400_000;
/// Between the frames of that group, ticks: they are shown at once, up to the newest.
const JOIN_STEP: i64 = VIDEO_TIMESCALE as i64 / 1_000;
/// Packets that can be sent again, for a second.
const RESENT_PACKETS: usize = 1_024;
const RESENT_FOR: Duration = Duration::from_secs(1);
/// Candidates of a viewer that are looked at: it is ICE-lite's peer, which checks by itself.
const MAX_CANDIDATES: usize = 32;
/// Until the connection stands.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// After so long without a datagram the viewer is gone: browsers ask for consent every five seconds (RFC 7675).
const SILENCE: Duration = Duration::from_secs(18);

/// What all viewers' connections have in common.
pub(super) struct Common {
    pub(super) crypto: Arc<CryptoProvider>,
    pub(super) certificate: DtlsCert,
    /// Where the box is reached.
    pub(super) addresses: Vec<SocketAddr>,
}

/// What is to be done for a viewer after its connection was driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Todo {
    /// Its connection stands: it can be sent to.
    Joined,
    /// It lost its references.
    KeyFrame,
    /// It may have room for another layer.
    Estimated,
    /// It is gone.
    Gone,
}

#[derive(Debug)]
struct Picture {
    mid: Mid,
    /// Which payload type carries which profile.
    payloads: Vec<(Profile, Pt)>,
    seq: u64,
    offset: u32,
    /// What it is sent; `None` until the first IDR.
    current: Option<TrackName>,
    /// What it is sent from that layer's next IDR on.
    wanted: Option<TrackName>,
}

#[derive(Debug)]
struct Sound {
    mid: Mid,
    payload: Pt,
    seq: u64,
    offset: u32,
}

/// One viewer.
pub(super) struct Viewer {
    pub(super) watching: Watching,
    pub(super) broadcast: BroadcastId,
    /// When its connection is to be driven, whatever happens.
    pub(super) deadline: Instant,
    /// The deadline that the engine's timer knows.
    pub(super) armed: Option<Instant>,
    /// What the box is called in the connectivity checks that belong to this viewer.
    pub(super) ufrag: String,
    /// Addresses that its datagrams came from.
    pub(super) sources: Vec<SocketAddr>,
    rtc: Rtc,
    batch: Batch,
    picture: Option<Picture>,
    sound: Option<Sound>,
    begun: Instant,
    heard: Instant,
    connected: bool,
    estimate_bps: u64,
    better_since: Option<Instant>,
    candidates: usize,
    /// What it is called in connectivity checks.
    remote_ufrag: String,
}

impl Viewer {
    /// Answers an offer.
    ///
    /// # Errors
    /// [`Refusal::Malformed`], [`Refusal::NoCommonCodec`].
    pub(super) fn answer(
        watching: Watching,
        broadcast: BroadcastId,
        sdp: &str,
        layers: &[LayerInfo],
        common: &Common,
        now: Instant,
    ) -> Result<(Self, String), Refusal> {
        let offer = SdpOffer::from_sdp_string(sdp).map_err(malformed)?;
        let mut rtc = build(layers, common, now);
        for address in &common.addresses {
            let candidate = Candidate::host(*address, "udp").map_err(malformed)?;
            rtc.add_local_candidate(candidate);
        }
        let answer = rtc.sdp_api().accept_offer(offer).map_err(malformed)?;
        let mut viewer = Self {
            watching,
            broadcast,
            deadline: now,
            armed: None,
            ufrag: rtc.direct_api().local_ice_credentials().ufrag,
            sources: Vec::new(),
            rtc,
            batch: Batch::default(),
            picture: None,
            sound: None,
            begun: now,
            heard: now,
            connected: false,
            estimate_bps: FIRST_ESTIMATE_BPS,
            better_since: None,
            candidates: 0,
            remote_ufrag: line_of(sdp, "a=ice-ufrag:").unwrap_or_default().to_owned(),
        };
        let answer = answer.to_sdp_string();
        viewer.negotiated(&answer, layers);
        if viewer.picture.is_none() && viewer.sound.is_none() {
            return Err(Refusal::NoCommonCodec);
        }
        Ok((viewer, answer))
    }

    /// Looks at what was agreed on. (str0m tells of it only once the connection stands.)
    fn negotiated(&mut self, answer: &str, layers: &[LayerInfo]) {
        let mids = answer
            .lines()
            .filter_map(|line| line.strip_prefix("a=mid:"));
        for mid in mids.map(|mid| Mid::from(mid.trim())) {
            let Some(media) = self.rtc.media(mid).filter(|m| m.direction().is_sending()) else {
                continue;
            };
            let (kind, agreed) = (media.kind(), media.remote_pts().to_vec());
            let params = self.rtc.codec_config().params().iter();
            let params = params.filter(|params| agreed.contains(&params.pt()));
            match kind {
                MediaKind::Video if self.picture.is_none() => {
                    let payloads: Vec<(Profile, Pt)> = params
                        .filter(|params| params.spec().codec == Codec::H264)
                        .filter_map(|params| {
                            let named = params.spec().format.profile_level_id?;
                            Some((Profile::named(named)?, params.pt()))
                        })
                        .collect();
                    if layers
                        .iter()
                        .any(|layer| payload_of(&payloads, layer).is_some())
                    {
                        self.picture = Some(Picture {
                            mid,
                            payloads,
                            seq: first_seq(),
                            offset: random(),
                            current: None,
                            wanted: None,
                        });
                    }
                }
                MediaKind::Audio if self.sound.is_none() => {
                    let mut opus = params.filter(|params| params.spec().codec == Codec::Opus);
                    self.sound = opus.next().map(|params| Sound {
                        mid,
                        payload: params.pt(),
                        seq: first_seq(),
                        offset: random(),
                    });
                }
                _ => {}
            }
        }
        if let Some(picture) = &self.picture {
            let mut direct = self.rtc.direct_api();
            if let Some(stream) = direct.stream_tx_by_mid(picture.mid, None) {
                stream.set_rtx_cache(RESENT_PACKETS, RESENT_FOR, Some(0.3));
            }
        }
    }

    /// Candidates of the viewer, or an ICE restart: then what the box is called from then on, as a fragment (RFC 8840 section 9).
    ///
    /// # Errors
    /// [`Refusal::Malformed`].
    pub(super) fn patch(
        &mut self,
        fragment: &str,
        common: &Common,
    ) -> Result<Option<String>, Refusal> {
        let given = line_of(fragment, "a=ice-ufrag:").zip(line_of(fragment, "a=ice-pwd:"));
        let mut answer = None;
        if let Some((ufrag, pass)) = given {
            // RFC 8839 section 5.4.
            if !(4..=256).contains(&ufrag.len()) || !(22..=256).contains(&pass.len()) {
                return Err(Refusal::Malformed);
            }
            // The same generation has only new candidates.
            if ufrag != self.remote_ufrag {
                self.remote_ufrag = ufrag.to_owned();
                let (ufrag, pass) = (ufrag.to_owned(), pass.to_owned());
                let local = IceCreds::new();
                let mut direct = self.rtc.direct_api();
                direct.set_remote_ice_credentials(IceCreds { ufrag, pass });
                direct.set_local_ice_credentials(local.clone());
                self.ufrag.clone_from(&local.ufrag);
                answer = Some(restarted(&local, common));
            }
        }
        for line in fragment.lines().map(str::trim) {
            let Some(candidate) = line.strip_prefix("a=candidate:") else {
                continue;
            };
            self.candidates += 1;
            // Names of mDNS, which nobody else can resolve, and TCP are passed over: the viewer's own checks find the way.
            if self.candidates <= MAX_CANDIDATES
                && let Ok(candidate) = Candidate::from_sdp_string(&format!("candidate:{candidate}"))
            {
                self.rtc.add_remote_candidate(candidate);
            }
        }
        Ok(answer)
    }

    /// A datagram came from there. What it calls for is done by [`Viewer::drive`].
    pub(super) fn receive(
        &mut self,
        source: SocketAddr,
        destination: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> bool {
        let Ok(contents) = datagram.try_into() else {
            return false;
        };
        let received = Receive {
            proto: Protocol::Udp,
            source,
            destination,
            contents,
        };
        let input = Input::Receive(now, received);
        if !self.rtc.accepts(&input) {
            return false;
        }
        self.heard = now;
        match self.rtc.handle_input(input) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "a datagram is not understood");
                false
            }
        }
    }

    /// Lets time pass, and sends what is due.
    pub(super) fn drive(&mut self, now: Instant, socket: &mut Socket, todo: &mut Vec<Todo>) {
        if self.rtc.handle_input(Input::Timeout(now)).is_err() {
            todo.push(Todo::Gone);
            return;
        }
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(at)) => {
                    self.deadline = at.max(now + Duration::from_micros(200));
                    break;
                }
                Ok(Output::Transmit(transmit)) => {
                    self.batch
                        .push(transmit.destination, &transmit.contents, socket);
                }
                Ok(Output::Event(event)) => self.event(&event, todo),
                Err(error) => {
                    tracing::debug!(%error, "a viewer's connection broke");
                    todo.push(Todo::Gone);
                    break;
                }
            }
        }
        self.batch.flush(socket);
        if !self.rtc.is_alive() {
            todo.push(Todo::Gone);
        }
    }

    fn event(&mut self, event: &Event, todo: &mut Vec<Todo>) {
        match event {
            Event::Connected => {
                self.connected = true;
                todo.push(Todo::Joined);
            }
            Event::KeyframeRequest(_) => todo.push(Todo::KeyFrame),
            Event::EgressBitrateEstimate(BweKind::Twcc { estimate, .. }) => {
                self.estimate_bps = estimate.as_u64();
                todo.push(Todo::Estimated);
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) | Event::Closed => {
                todo.push(Todo::Gone);
            }
            _ => {}
        }
    }

    /// Whether it is to be let go: it never came, went without a word, or its session is over.
    pub(super) fn is_over(&self, now: Instant, now_unix_ms: i64) -> bool {
        let never = !self.connected && now.duration_since(self.begun) > HANDSHAKE;
        never
            || now.duration_since(self.heard) > SILENCE
            || self.watching.session.ends_unix_ms <= now_unix_ms
    }

    /// Whether it hears the sound.
    pub(super) fn hears(&self) -> bool {
        self.connected && self.sound.is_some()
    }

    /// Says good-bye to the viewer's browser.
    pub(super) fn close(&mut self, socket: &mut Socket) {
        if self.rtc.close().is_err() {
            return;
        }
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Transmit(transmit)) => {
                    self.batch
                        .push(transmit.destination, &transmit.contents, socket);
                }
                Ok(Output::Event(_)) => {}
                Ok(Output::Timeout(_)) | Err(_) => break,
            }
        }
        self.batch.flush(socket);
    }

    // ---- which layer

    /// The layer that it is sent, or waits for.
    pub(super) fn layer(&self) -> Option<&TrackName> {
        let picture = self.picture.as_ref()?;
        picture.wanted.as_ref().or(picture.current.as_ref())
    }

    /// Chooses a layer by the estimate. Gives the one that it waits for, where that is another than before.
    pub(super) fn choose(&mut self, layers: &[LayerInfo], now: Instant) -> Option<TrackName> {
        let usable = self.estimate_bps as f64 * USABLE;
        let picture = self.picture.as_mut()?;
        let mut sendable: Vec<&LayerInfo> = layers
            .iter()
            .filter(|layer| payload_of(&picture.payloads, layer).is_some())
            .collect();
        sendable.sort_by_key(|layer| std::cmp::Reverse((layer.bps, layer.height)));
        let affordable = |layer: &&&LayerInfo| layer.bps as f64 <= usable;
        let best = *sendable.iter().find(affordable).or(sendable.last())?;
        let top = sendable.first().map_or(best.bps, |layer| layer.bps);
        let now_sent = picture.wanted.as_ref().or(picture.current.as_ref());
        let now_sent = sendable.iter().find(|layer| Some(&layer.name) == now_sent);
        let changes = match now_sent {
            None => true,
            Some(sent) if best.bps > sent.bps => {
                let roomy = best.bps as f64 * BETTER <= usable;
                let since = self.better_since.get_or_insert(now);
                if !roomy {
                    *since = now;
                }
                now.duration_since(*since) >= BETTER_FOR
            }
            Some(sent) => {
                self.better_since = None;
                best.bps < sent.bps
            }
        };
        // So much the network is tried for, and no more.
        let desired = Bitrate::bps((top as f64 / USABLE * BETTER) as u64 + 200_000);
        self.rtc.bwe().set_bitrate(Bitrate::ZERO, desired);
        if !changes {
            return None;
        }
        self.better_since = None;
        picture.wanted = Some(best.name.clone());
        picture.wanted.clone()
    }

    /// A layer is not there any more.
    pub(super) fn lose(&mut self, name: &TrackName) {
        if let Some(picture) = &mut self.picture {
            picture.wanted.take_if(|wanted| wanted == name);
            picture.current.take_if(|current| current == name);
        }
    }

    // ---- media

    /// Begins with the running group of pictures of the layer that it waits for. False when that is too long, or there is none: then it needs an IDR.
    pub(super) fn join(&mut self, layer: &LayerInfo, group: &[Arc<Frame>], zero: &Zero) -> bool {
        let bytes: usize = group.iter().map(|frame| frame.bytes).sum();
        let Some(newest) = group.last().map(|frame| frame.pts) else {
            return false;
        };
        if bytes > JOIN_BYTES || !group.first().is_some_and(|frame| frame.idr) {
            return false;
        }
        for (back, frame) in (0..group.len() as i64).rev().zip(group) {
            self.picture(layer, frame, newest - back * JOIN_STEP, zero);
        }
        true
    }

    /// A frame of a layer: sent where it is that one's turn. True when something was sent.
    pub(super) fn video(&mut self, layer: &LayerInfo, frame: &Frame, zero: &Zero) -> bool {
        let Some(picture) = &self.picture else {
            return false;
        };
        let sent = match &picture.wanted {
            Some(wanted) if *wanted == layer.name && frame.idr => true,
            _ => picture.current.as_ref() == Some(&layer.name),
        };
        sent && self.connected && self.picture(layer, frame, frame.pts, zero)
    }

    fn picture(&mut self, layer: &LayerInfo, frame: &Frame, time: i64, zero: &Zero) -> bool {
        let Some(picture) = &mut self.picture else {
            return false;
        };
        let Some(payload) = payload_of(&picture.payloads, layer) else {
            return false;
        };
        if picture.wanted.as_ref() == Some(&layer.name) {
            picture.wanted = None;
            picture.current = Some(layer.name.clone());
        }
        let mut direct = self.rtc.direct_api();
        let Some(stream) = direct.stream_tx_by_mid(picture.mid, None) else {
            return false;
        };
        let wallclock = zero.instant(time, VIDEO_TIMESCALE);
        let timestamp = (time as u32).wrapping_add(picture.offset);
        let last = frame.payloads.len().saturating_sub(1);
        for (index, data) in frame.payloads.iter().enumerate() {
            let extensions = match index {
                0 => described(zero, time, VIDEO_TIMESCALE),
                _ => ExtensionValues::default(),
            };
            let seq = SeqNo::from(picture.seq);
            picture.seq += 1;
            stream.write_rtp(
                RtpWrite::new(payload, seq, timestamp, wallclock, Arc::clone(data))
                    .marker(index == last)
                    .ext_vals(extensions)
                    .nackable(true),
            );
        }
        true
    }

    /// A packet of sound. True when it was sent.
    pub(super) fn audio(&mut self, frame: &Frame, zero: &Zero) -> bool {
        let Some(sound) = self.sound.as_mut().filter(|_| self.connected) else {
            return false;
        };
        let mut direct = self.rtc.direct_api();
        let Some(stream) = direct.stream_tx_by_mid(sound.mid, None) else {
            return false;
        };
        let wallclock = zero.instant(frame.pts, OPUS_RATE);
        let timestamp = (frame.pts as u32).wrapping_add(sound.offset);
        for data in &frame.payloads {
            let seq = SeqNo::from(sound.seq);
            sound.seq += 1;
            stream.write_rtp(
                RtpWrite::new(sound.payload, seq, timestamp, wallclock, Arc::clone(data))
                    .ext_vals(described(zero, frame.pts, OPUS_RATE)),
            );
        }
        true
    }
}

fn build(layers: &[LayerInfo], common: &Common, now: Instant) -> Rtc {
    let mut extensions = ExtensionMap::empty();
    // The ids that browsers offer do not matter: an answer takes the offer's.
    extensions.set(2, Extension::AbsoluteSendTime);
    extensions.set(3, Extension::TransportSequenceNumber);
    extensions.set(4, Extension::RtpMid);
    extensions.set(5, Extension::PlayoutDelay);
    extensions.set(6, Extension::AbsoluteCaptureTime);
    let mut config = Rtc::builder()
        .set_crypto_provider(Arc::clone(&common.crypto))
        .set_dtls_cert(common.certificate.clone())
        .set_ice_lite(true)
        .set_rtp_mode(true)
        .set_extension_map(extensions)
        .set_stats_interval(None)
        .enable_bwe(Some(Bitrate::bps(FIRST_ESTIMATE_BPS)))
        .clear_codecs()
        .enable_opus(true, false);
    let useful = |name: &u32| {
        let receiver = Profile::named(*name);
        receiver.is_some_and(|receiver| layers.iter().any(|layer| receiver.decodes(layer.profile)))
    };
    for (index, name) in (0_u8..).zip(Profile::NAMES.into_iter().filter(useful)) {
        let (payload, resent) = (Pt::from(100 + 2 * index), Pt::from(101 + 2 * index));
        config
            .codec_config()
            .add_h264(payload, Some(resent), true, name);
    }
    config.build(now)
}

/// The payload type that carries a layer.
fn payload_of(payloads: &[(Profile, Pt)], layer: &LayerInfo) -> Option<Pt> {
    let mut found = payloads
        .iter()
        .filter(|(profile, _)| profile.decodes(layer.profile));
    found.next().map(|(_, payload)| *payload)
}

/// When it was captured, and that nothing is gained by holding it back.
fn described(zero: &Zero, ticks: i64, rate: u32) -> ExtensionValues {
    let us =
        i128::from(ticks) * 1_000_000 / i128::from(rate) + i128::from(zero.epoch_unix_ms) * 1_000;
    let since_1970 = Duration::from_micros(u64::try_from(us).unwrap_or_default());
    ExtensionValues {
        abs_capture_time: Some(AbsCaptureTime {
            capture_time: SystemTime::UNIX_EPOCH + since_1970,
            clock_offset: None,
        }),
        play_delay_min: Some(MediaTime::ZERO),
        play_delay_max: Some(MediaTime::from(MOST_DELAY)),
        ..ExtensionValues::default()
    }
}

/// What follows a name at the beginning of a line, first come first served.
fn line_of<'a>(sdp: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = sdp.lines().map(str::trim);
    lines.find_map(|line| line.strip_prefix(name))
}

fn restarted(local: &IceCreds, common: &Common) -> String {
    let mut fragment = format!(
        "a=ice-lite\r\na=ice-ufrag:{}\r\na=ice-pwd:{}\r\n",
        local.ufrag, local.pass
    );
    for address in &common.addresses {
        if let Ok(candidate) = Candidate::host(*address, "udp") {
            fragment.push_str(&format!("a={}\r\n", candidate.to_sdp_string()));
        }
    }
    fragment.push_str("a=end-of-candidates\r\n");
    fragment
}

fn malformed(error: impl std::fmt::Display) -> Refusal {
    tracing::debug!(%error, "an offer is not understood");
    Refusal::Malformed
}

/// Somewhere in the lower half, so that the first rollover is far from the first packet (RFC 3711 section 3.3.1).
fn first_seq() -> u64 {
    u64::from(random() & 0x7fff)
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    // A system without random bits has given no certificate either.
    let _ = getrandom::fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}

/// Which of the box's addresses a datagram was sent to, as the viewer knows it: behind a NAT the machine has another.
pub(super) fn destination(common: &Common, to: Option<IpAddr>, source: SocketAddr) -> SocketAddr {
    let addresses = &common.addresses;
    let exact = addresses.iter().find(|address| Some(address.ip()) == to);
    let family = || {
        let mut same = addresses.iter();
        same.find(|address| address.is_ipv4() == source.is_ipv4())
    };
    exact
        .or_else(family)
        .or(addresses.first())
        .copied()
        .unwrap_or(source)
}
