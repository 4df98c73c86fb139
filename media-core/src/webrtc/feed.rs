//! What a broadcast gives to WebRTC.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use protocol::{
    link::ToEdge,
    names::{BroadcastId, TrackName},
};
use tokio::sync::mpsc;

use super::{Zero, engine::Command, rtp::Frame};
use crate::{
    codec::{avc, sps},
    media::{AudioConfig, AudioPacket, VideoConfig, VideoPacket},
    transcode::OpusTranscoder,
};

/// A track that can be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its track.
    pub name: TrackName,
    /// Its parameter sets.
    pub config: VideoConfig,
    /// Bits a second that it takes.
    pub bps: u64,
    /// Whether an IDR can be asked for: not of the publisher's own packets.
    pub on_demand: bool,
}

/// Which tools of H.264 a layer uses or a receiver has, where neither is interlaced nor has B-frames (RFC 6184 section 8.1, table 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Profile {
    ConstrainedBaseline,
    Baseline,
    Main,
    High,
}

impl Profile {
    /// What answers may name, as `profile-level-id`. Level 3.1 in each: browsers offer no higher one, whatever they decode.
    pub(super) const NAMES: [u32; 5] = [0x42e01f, 0x42001f, 0x4d001f, 0x64001f, 0x640c1f];

    /// By `profile_idc` and the constraint flags of a sequence parameter set or of a `profile-level-id`.
    pub(super) fn of(idc: u8, constraints: u8) -> Option<Self> {
        let (set_0, set_1) = (constraints & 0x80 != 0, constraints & 0x40 != 0);
        match idc {
            0x42 if set_1 => Some(Self::ConstrainedBaseline),
            0x42 => Some(Self::Baseline),
            0x4d if set_0 => Some(Self::ConstrainedBaseline),
            0x4d => Some(Self::Main),
            0x64 => Some(Self::High),
            _ => None,
        }
    }

    /// By a `profile-level-id`.
    pub(super) fn named(id: u32) -> Option<Self> {
        Self::of((id >> 16) as u8, (id >> 8) as u8)
    }

    /// Whether a receiver of this profile decodes a layer.
    pub(super) fn decodes(self, layer: Self) -> bool {
        match layer {
            Self::ConstrainedBaseline => true,
            Self::Baseline => self == Self::Baseline,
            Self::Main => matches!(self, Self::Main | Self::High),
            Self::High => self == Self::High,
        }
    }
}

/// What the engine knows of a layer.
#[derive(Debug, Clone)]
pub(super) struct LayerInfo {
    pub(super) name: TrackName,
    pub(super) profile: Profile,
    pub(super) height: u32,
    pub(super) bps: u64,
    pub(super) on_demand: bool,
}

/// What a broadcast gives to WebRTC: called where its packets pass. Nothing here waits. Dropping it ends its viewers.
#[derive(Debug)]
pub struct Feed {
    commands: mpsc::Sender<Command>,
    broadcast: BroadcastId,
    /// The parameter sets of each layer that is sent.
    layers: BTreeMap<TrackName, Vec<Bytes>>,
    /// Layers of which a frame was lost on the way to the engine: nothing of them until their next IDR.
    broken: Vec<TrackName>,
    /// Somebody hears it.
    heard: Arc<AtomicBool>,
    audio: Option<AudioConfig>,
    opus: Option<Opus>,
}

struct Opus(OpusTranscoder);

impl std::fmt::Debug for Opus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opus")
    }
}

impl Feed {
    pub(super) fn begin(
        commands: mpsc::Sender<Command>,
        broadcast: BroadcastId,
        zero: Zero,
        key_frames: mpsc::Sender<TrackName>,
        to_edge: mpsc::Sender<ToEdge>,
    ) -> Self {
        let heard = Arc::new(AtomicBool::new(false));
        let begin = Command::Begin {
            broadcast: broadcast.clone(),
            zero,
            key_frames,
            to_edge,
            heard: Arc::clone(&heard),
        };
        if commands.try_send(begin).is_err() {
            tracing::warn!(%broadcast, "WebRTC is overloaded: this broadcast is not on it");
        }
        Self {
            commands,
            broadcast,
            layers: BTreeMap::new(),
            broken: Vec::new(),
            heard,
            audio: None,
            opus: None,
        }
    }

    /// A layer begins, or goes on with other parameter sets. One that WebRTC cannot carry (B-frames, more than 4:2:0 of eight bits) is left out.
    pub fn layer(&mut self, layer: Layer) {
        let found = avc::ParameterSets::from_record(&layer.config.avcc).ok();
        let read = found.and_then(|sets| {
            let first = sps::parse(sets.first_sps().ok()?).ok()?;
            Some((sets, first))
        });
        let sendable = read.filter(|(_, sps)| is_sendable(sps));
        let sendable = sendable.and_then(|(sets, sps)| {
            Some((sets, Profile::of(sps.profile_idc, sps.constraints)?, sps))
        });
        let Some((sets, profile, sps)) = sendable else {
            self.drop_layer(&layer.name);
            return;
        };
        let info = LayerInfo {
            name: layer.name.clone(),
            profile,
            height: sps.width.min(sps.height),
            bps: layer.bps,
            on_demand: layer.on_demand,
        };
        self.layers
            .insert(layer.name.clone(), sets.units().cloned().collect());
        self.broken.retain(|name| *name != layer.name);
        let broadcast = self.broadcast.clone();
        if !self.send(Command::Layer { broadcast, info }) {
            self.drop_layer(&layer.name);
        }
    }

    /// A layer ends.
    pub fn drop_layer(&mut self, name: &TrackName) {
        if self.layers.remove(name).is_some() {
            let (broadcast, name) = (self.broadcast.clone(), name.clone());
            self.send(Command::NoLayer { broadcast, name });
        }
    }

    /// The next packet of a track, in decoding order.
    pub fn video(&mut self, name: &TrackName, packet: &VideoPacket) {
        let Some(sets) = self.layers.get(name) else {
            return;
        };
        if packet.idr {
            self.broken.retain(|broken| broken != name);
        } else if self.broken.contains(name) {
            return;
        }
        let frame = Frame::h264(packet.pts, packet.idr, &packet.data, sets);
        let command = Command::Video {
            broadcast: self.broadcast.clone(),
            name: name.clone(),
            frame: Arc::new(frame),
        };
        if !self.send(command) {
            self.broken.push(name.clone());
        }
    }

    /// How the sound is configured from here on.
    pub fn audio_config(&mut self, config: AudioConfig) {
        self.audio = Some(config);
        self.opus = None;
    }

    /// The next frame of sound: encoded as Opus, but only while somebody hears it.
    pub fn audio(&mut self, packet: &AudioPacket) {
        if !self.heard.load(Ordering::Relaxed) {
            self.opus = None;
            return;
        }
        let Some(config) = &self.audio else {
            return;
        };
        let opus = match &mut self.opus {
            Some(opus) => opus,
            None => match OpusTranscoder::new(config) {
                Ok(opus) => self.opus.insert(Opus(opus)),
                Err(error) => {
                    tracing::error!(%error, "WebRTC has no sound");
                    self.audio = None;
                    return;
                }
            },
        };
        for packet in opus.0.push(packet) {
            let frame = Arc::new(Frame::opus(packet.pts, &packet.data));
            let broadcast = self.broadcast.clone();
            self.send(Command::Audio { broadcast, frame });
        }
    }

    fn send(&self, command: Command) -> bool {
        self.commands.try_send(command).is_ok()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let ended = Command::Ended {
            broadcast: self.broadcast.clone(),
        };
        if let Err(mpsc::error::TrySendError::Full(ended)) = self.commands.try_send(ended) {
            // It must be heard, and there is no waiting here.
            let commands = self.commands.clone();
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { commands.send(ended).await });
            }
        }
    }
}

/// Whether browsers decode it as it comes: no B-frames, 4:2:0, eight bits.
fn is_sendable(sps: &sps::Sps) -> bool {
    let baseline = sps.profile_idc == 66;
    let in_order = baseline || sps.max_reorder_frames == Some(0);
    in_order && sps.chroma_format_idc == 1 && sps.bit_depth_luma == 8 && sps.bit_depth_chroma == 8
}
