//! Decode once, encode each rung of the ladder, in process through FFmpeg's libraries.
//!
//! One thread decodes and one a rung scales and encodes; decoded frames are shared by reference. [`Transcoder`] takes the source's packets in decoding
//! order with the segment boundaries of the cut rule, and gives, through one bounded channel, the packets of all rungs:
//!
//! - Every rung has an IDR at the frame that begins a segment, and its packet says so ([`Encoded::boundary`]). A boundary at a source IDR is known
//!   beforehand. A forced one ([`Transcoder::force_boundary`]) is resolved in order of presentation, which only the decoder knows; [`Event::Resolved`] tells
//!   the other tracks its time before any rung's packet of that segment.
//! - No B-frames, closed GOPs, capped variable bit rate. The lowest rung is Constrained Baseline.
//! - Nothing is upscaled. A rung's height is its shorter side, so that a telephone held upright has the same ladder. A rung as high as the source is kept
//!   only where it lowers the frame rate.
//! - A source faster than a rung's frame rate is thinned evenly; the frame that begins a segment always stays, and the grid starts anew there.
//! - The ingest never waits. What waits is bounded: eight decoded frames a rung, six seconds of packets before the decoder. Encoders that fall behind and do
//!   not catch up cost the costliest rung ([`Transcoder::sheds_at`]); a decoder that cannot keep up drops to the next IDR.
//! - Interlaced sources are not deinterlaced; a log line says so.

mod audio;
mod av;
mod clip;
mod config;
mod cuts;
mod decoder;
mod encoder;
mod ladder;
mod machine;
mod opus;
mod overload;
mod pace;
mod queue;
mod rung;
mod transcoder;

#[cfg(test)]
mod tests;

use std::time::Duration;

use protocol::names::TrackName;
use tokio::sync::mpsc;

pub use audio::{AudioError, AudioTranscoder, audio_config, silence};
pub use clip::{Clip, ClipError};
pub use config::{Config, ConfigError, EncoderChoice, Preset, Rung};
pub use encoder::{
    Colour, EncoderError, Kind, ProbeFinding, Settings, VideoEncoder, probe, resolve,
};
pub use ladder::Profile;
pub use opus::{OPUS_RATE, OpusTranscoder};
pub use transcoder::{Transcoder, choose_encoder};

use crate::media::{Boundary, FrameRate, VideoConfig, VideoPacket};

/// Why nothing can be transcoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The parameter sets are none that can be decoded.
    #[error("the video cannot be decoded: {0}")]
    Decoder(String),
    /// The system gave no thread.
    #[error("there is no thread for the decoder: {0}")]
    Thread(String),
}

/// What is to be transcoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its parameter sets.
    pub config: VideoConfig,
    /// What the publisher claims (`onMetaData`), or was measured; used where the parameter sets do not say.
    pub frame_rate: Option<FrameRate>,
}

/// A rung as it really is.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendition {
    /// Its track.
    pub name: TrackName,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Sample aspect ratio.
    pub sar: (u32, u32),
    /// Nominal, after thinning.
    pub frame_rate: FrameRate,
    /// Bits a second on average.
    pub bitrate_bps: u32,
    /// Bits a second over the worst second.
    pub peak_bps: u32,
    /// FFmpeg's name of its encoder.
    pub encoder: &'static str,
    /// The parameter sets of all its packets.
    pub config: VideoConfig,
}

/// A packet of a rung.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// Its track.
    pub rung: TrackName,
    /// `dts` is `pts`: there are no B-frames.
    pub packet: VideoPacket,
    /// The segment that begins with it; then it is an IDR. Where frames of the source were lost, `packet.pts` may lie after the boundary's.
    pub boundary: Option<Boundary>,
}

/// What a transcoder says, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The rungs of this source, costliest first; before any packet. Empty where the source is smaller than every rung.
    Opened(Vec<Rendition>),
    /// The source is encoded too, from the segment on that was asked for.
    Added(Rendition),
    /// A forced boundary met its frame.
    Resolved(Boundary),
    /// A packet.
    Encoded(Encoded),
    /// The machine cannot keep up. This rung is the next to go: [`Transcoder::sheds_at`] will name it.
    Overloaded {
        /// Which.
        rung: TrackName,
        /// How far behind the source it was.
        lag: Duration,
    },
    /// A rung's encoder failed, and there are no more packets of it; [`Transcoder::sheds_at`] will name it too, unless it never started.
    Failed {
        /// Which.
        rung: TrackName,
        /// Why.
        error: EncoderError,
    },
    /// A rung has given its last packet: it was shed, its encoder failed, or the transcoder ends.
    Ended {
        /// Which.
        rung: TrackName,
    },
    /// Decoding could not keep up: so many packets of the source are missing in every rung.
    Dropped {
        /// Count.
        packets: usize,
    },
    /// Everything that was pushed before [`Transcoder::drain`] is encoded.
    Drained,
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames decoded.
    pub decoded: u64,
    /// Packets that could not be decoded, or only with damage.
    pub decode_errors: u64,
    /// Packets that were dropped because decoding could not keep up.
    pub dropped: u64,
    /// Whether a frame was interlaced.
    pub interlaced: bool,
}

/// Says [`Event::Drained`] when the last rung has let go of it.
struct DrainMark(mpsc::Sender<Event>);

impl DrainMark {
    fn new(output: mpsc::Sender<Event>) -> Self {
        Self(output)
    }
}

impl Drop for DrainMark {
    fn drop(&mut self) {
        // Only the decoder's and the rungs' threads hold one. Nobody listening is no error.
        let _ = self.0.blocking_send(Event::Drained);
    }
}
