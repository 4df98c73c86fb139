//! H.264 encoders behind one trait, and the probe that finds which of them this machine really has.

use std::fmt;

use bytes::Bytes;
use ffmpeg_next::{
    Dictionary, Error as AvError, Rational,
    codec::{self, packet},
    color, encoder,
    format::Pixel,
    frame, picture,
};

use super::{
    Profile, av,
    config::{EncoderChoice, Preset},
};
use crate::{
    codec::avc,
    media::{FrameRate, VIDEO_TIMESCALE, VideoConfig, VideoPacket},
};

/// The peak over a second may be this much over the average: a playlist's BANDWIDTH stays near AVERAGE-BANDWIDTH.
const PEAK: f64 = 1.1;

/// A GOP is as long as a segment: each key frame is asked for. This many frames without one mean that somebody forgot.
const LONGEST_GOP: u32 = 1_200;

/// Why there is no encoder, or no packet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncoderError {
    /// This build of FFmpeg does not have it.
    #[error("this build of FFmpeg has no encoder named {0}")]
    Missing(&'static str),
    /// It does not start: no such hardware, no driver, no free session.
    #[error("{name} does not start: {reason}")]
    Open {
        /// FFmpeg's name of the encoder.
        name: &'static str,
        /// In FFmpeg's words.
        reason: String,
    },
    /// It gave no parameter sets, or none that can be read.
    #[error("{0} gave no parameter sets")]
    NoParameterSets(&'static str),
    /// It failed at a frame.
    #[error("{name} failed: {reason}")]
    Encode {
        /// FFmpeg's name of the encoder.
        name: &'static str,
        /// In FFmpeg's words.
        reason: String,
    },
}

/// What an encoder is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Pixels, even.
    pub width: u32,
    /// Pixels, even.
    pub height: u32,
    /// Sample aspect ratio.
    pub sar: (u32, u32),
    /// Nominal frames a second.
    pub rate: FrameRate,
    /// Bits a second on average.
    pub bitrate_bps: u32,
    /// H.264 profile.
    pub profile: Profile,
    /// libx264's preset; hardware encoders have their own fastest.
    pub preset: Preset,
    /// Matrix, primaries, transfer and range, carried from the source.
    pub colour: Colour,
}

impl Settings {
    /// The peak over a second, bits a second.
    pub fn peak_bps(&self) -> u32 {
        (f64::from(self.bitrate_bps) * PEAK) as u32
    }
}

/// What the numbers of a picture mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Colour {
    matrix: color::Space,
    primaries: color::Primaries,
    transfer: color::TransferCharacteristic,
    full_range: bool,
}

impl Colour {
    /// Nothing known: decoders guess.
    pub const UNKNOWN: Self = Self {
        matrix: color::Space::Unspecified,
        primaries: color::Primaries::Unspecified,
        transfer: color::TransferCharacteristic::Unspecified,
        full_range: false,
    };

    /// As a decoded frame says; RGB is converted on its way.
    pub fn of(frame: &frame::Video) -> Self {
        let rgb = frame.color_space() == color::Space::RGB;
        Self {
            matrix: if rgb {
                color::Space::BT709
            } else {
                frame.color_space()
            },
            primaries: frame.color_primaries(),
            transfer: frame.color_transfer_characteristic(),
            full_range: !rgb && av::full_range(frame),
        }
    }

    /// Luma of black.
    pub(super) fn black(self) -> u8 {
        if self.full_range { 0 } else { 16 }
    }
}

/// One encoder of one rung. Frames go in in order of presentation and packets come out in the same order: no encoder here makes B-frames.
pub trait VideoEncoder: Send {
    /// FFmpeg's name of it.
    fn name(&self) -> &'static str;

    /// The pixel format that frames must have.
    fn format(&self) -> Pixel;

    /// The configuration record that all its packets are decoded with.
    fn config(&self) -> VideoConfig;

    /// Takes a frame, presented at `pts` ticks of [`VIDEO_TIMESCALE`]; encodes it as an IDR where that is asked for.
    fn send(
        &mut self,
        frame: &mut frame::Video,
        pts: i64,
        force_idr: bool,
    ) -> Result<(), EncoderError>;

    /// The next packet; `None` until there is one.
    fn receive(&mut self) -> Result<Option<VideoPacket>, EncoderError>;

    /// No frame comes any more: what is held back can be received.
    fn finish(&mut self);
}

/// The encoders that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// On the CPU.
    Libx264,
    /// NVIDIA.
    Nvenc,
    /// Linux's interface to AMD and Intel graphics.
    Vaapi,
    /// Intel Quick Sync Video.
    Qsv,
}

impl Kind {
    /// In hardware, in the order in which `auto` tries them.
    pub const HARDWARE: [Self; 3] = [Self::Nvenc, Self::Vaapi, Self::Qsv];

    /// FFmpeg's name of it.
    pub fn codec_name(self) -> &'static str {
        match self {
            Self::Libx264 => "libx264",
            Self::Nvenc => "h264_nvenc",
            Self::Vaapi => "h264_vaapi",
            Self::Qsv => "h264_qsv",
        }
    }

    fn format(self) -> Pixel {
        match self {
            Self::Libx264 | Self::Nvenc => Pixel::YUV420P,
            Self::Vaapi | Self::Qsv => Pixel::NV12,
        }
    }

    /// Opens an encoder of this kind.
    pub fn open(self, settings: &Settings) -> Result<Box<dyn VideoEncoder>, EncoderError> {
        Ok(Box::new(AvEncoder::open(self, settings)?))
    }

    fn options(self, settings: &Settings) -> Dictionary<'static> {
        let mut options = Dictionary::new();
        options.set("threads", "1");
        let baseline = settings.profile == Profile::ConstrainedBaseline;
        match self {
            Self::Libx264 => {
                options.set("preset", settings.preset.as_str());
                // No lookahead, no B-frames, no frame threads: a packet for each frame at once.
                options.set("tune", "zerolatency");
                options.set("profile", if baseline { "baseline" } else { "high" });
                options.set("forced-idr", "1");
                // Key frames stand where segments begin and nowhere else.
                options.set("sc_threshold", "0");
            }
            Self::Nvenc => {
                options.set("preset", "p3");
                options.set("tune", "ull");
                options.set("rc", "vbr");
                options.set("zerolatency", "1");
                options.set("delay", "0");
                options.set("forced-idr", "1");
                options.set("no-scenecut", "1");
                options.set("profile", if baseline { "baseline" } else { "high" });
            }
            Self::Vaapi => {
                options.set("rc_mode", "VBR");
                options.set("async_depth", "1");
                options.set(
                    "profile",
                    if baseline {
                        "constrained_baseline"
                    } else {
                        "high"
                    },
                );
            }
            Self::Qsv => {
                options.set("preset", "veryfast");
                options.set("async_depth", "1");
                options.set("look_ahead", "0");
                options.set("forced_idr", "1");
                options.set("profile", if baseline { "baseline" } else { "high" });
            }
        }
        options
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Libx264 => "libx264",
            Self::Nvenc => "NVENC",
            Self::Vaapi => "VAAPI",
            Self::Qsv => "QSV",
        })
    }
}

struct AvEncoder {
    kind: Kind,
    /// Where pictures must lie on the device (VAAPI).
    uploader: Option<av::Uploader>,
    encoder: encoder::video::Encoder,
    config: VideoConfig,
    packet: packet::Packet,
}

impl AvEncoder {
    fn open(kind: Kind, settings: &Settings) -> Result<Self, EncoderError> {
        av::init();
        let name = kind.codec_name();
        let failed = |error: AvError| EncoderError::Open {
            name,
            reason: av::last_error().unwrap_or_else(|| error.to_string()),
        };
        av::last_error();
        let found = encoder::find_by_name(name).ok_or(EncoderError::Missing(name))?;
        let mut context = codec::Context::new_with_codec(found);
        context.set_flags(codec::Flags::GLOBAL_HEADER | codec::Flags::CLOSED_GOP);
        context.set_time_base(Rational(1, VIDEO_TIMESCALE as i32));
        let rate = settings.rate;
        context.set_frame_rate(Some(Rational(rate.num as i32, rate.den as i32)));
        let uploader = match kind {
            Kind::Vaapi => Some(
                av::Uploader::vaapi(&mut context, settings.width, settings.height)
                    .map_err(failed)?,
            ),
            _ => None,
        };
        let mut video = context.encoder().video().map_err(failed)?;
        video.set_width(settings.width);
        video.set_height(settings.height);
        video.set_format(if uploader.is_some() {
            Pixel::VAAPI
        } else {
            kind.format()
        });
        video.set_aspect_ratio(Rational(settings.sar.0 as i32, settings.sar.1 as i32));
        video.set_colorspace(settings.colour.matrix);
        video.set_color_primaries(settings.colour.primaries);
        video.set_color_transfer_characteristic(settings.colour.transfer);
        video.set_color_range(if settings.colour.full_range {
            color::Range::JPEG
        } else {
            color::Range::MPEG
        });
        video.set_gop(LONGEST_GOP);
        video.set_max_b_frames(0);
        video.set_bit_rate(settings.bitrate_bps as usize);
        video.set_max_bit_rate(settings.peak_bps() as usize);
        let mut options = kind.options(settings);
        options.set("bufsize", &settings.bitrate_bps.to_string());
        let encoder = video.open_as_with(found, options).map_err(failed)?;
        let avcc = avc::ParameterSets::from_annex_b(av::extradata(&encoder))
            .and_then(|sets| sets.record())
            .map_err(|_| EncoderError::NoParameterSets(name))?;
        Ok(Self {
            kind,
            uploader,
            encoder,
            config: VideoConfig { avcc },
            packet: packet::Packet::empty(),
        })
    }

    fn failed(&self, error: AvError) -> EncoderError {
        EncoderError::Encode {
            name: self.kind.codec_name(),
            reason: av::last_error().unwrap_or_else(|| error.to_string()),
        }
    }
}

impl VideoEncoder for AvEncoder {
    fn name(&self) -> &'static str {
        self.kind.codec_name()
    }

    fn format(&self) -> Pixel {
        self.kind.format()
    }

    fn config(&self) -> VideoConfig {
        self.config.clone()
    }

    fn send(
        &mut self,
        frame: &mut frame::Video,
        pts: i64,
        force_idr: bool,
    ) -> Result<(), EncoderError> {
        frame.set_pts(Some(pts));
        frame.set_kind(if force_idr {
            picture::Type::I
        } else {
            picture::Type::None
        });
        let sent = match &mut self.uploader {
            Some(uploader) => uploader
                .upload(frame)
                .and_then(|uploaded| self.encoder.send_frame(&uploaded)),
            None => self.encoder.send_frame(frame),
        };
        sent.map_err(|error| self.failed(error))
    }

    fn receive(&mut self) -> Result<Option<VideoPacket>, EncoderError> {
        match self.encoder.receive_packet(&mut self.packet) {
            Ok(()) => {}
            Err(AvError::Eof) => return Ok(None),
            Err(AvError::Other { errno }) if errno == ffmpeg_next::error::EAGAIN => {
                return Ok(None);
            }
            Err(error) => return Err(self.failed(error)),
        }
        let (data, idr) = avc::access_unit_of_annex_b(self.packet.data().unwrap_or_default());
        let pts = self.packet.pts().unwrap_or_default();
        Ok(Some(VideoPacket {
            pts,
            dts: pts,
            idr,
            data,
        }))
    }

    fn finish(&mut self) {
        // Fails only where it was called before.
        let _ = self.encoder.send_eof();
    }
}

/// What a probe found out of one encoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFinding {
    /// Which.
    pub kind: Kind,
    /// Whether it encoded a frame, else why not.
    pub result: Result<(), EncoderError>,
}

impl ProbeFinding {
    /// Whether it encoded a frame.
    pub fn works(&self) -> bool {
        self.result.is_ok()
    }
}

impl fmt::Display for ProbeFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.result {
            Ok(()) => write!(f, "{} works: it encoded a frame", self.kind),
            Err(error) => write!(f, "{} cannot be used: {error}", self.kind),
        }
    }
}

/// Tries every encoder by really encoding a frame: hardware first, in the order in which `auto` takes them, then libx264. Takes up to a second where there
/// is hardware.
pub fn probe() -> Vec<ProbeFinding> {
    Kind::HARDWARE
        .into_iter()
        .chain([Kind::Libx264])
        .map(|kind| ProbeFinding {
            kind,
            result: try_one(kind),
        })
        .collect()
}

/// The encoder that a choice means on this machine: the chosen one, or for `auto` the first that a probe found to work.
pub fn resolve(choice: EncoderChoice, found: &[ProbeFinding]) -> Kind {
    match choice {
        EncoderChoice::Libx264 => Kind::Libx264,
        EncoderChoice::Nvenc => Kind::Nvenc,
        EncoderChoice::Vaapi => Kind::Vaapi,
        EncoderChoice::Qsv => Kind::Qsv,
        EncoderChoice::Auto => found
            .iter()
            .find(|finding| finding.works())
            .map_or(Kind::Libx264, |finding| finding.kind),
    }
}

fn try_one(kind: Kind) -> Result<(), EncoderError> {
    let settings = Settings {
        width: 640,
        height: 360,
        sar: (1, 1),
        rate: FrameRate { num: 30, den: 1 },
        bitrate_bps: 800_000,
        profile: Profile::High,
        preset: Preset::Superfast,
        colour: Colour::UNKNOWN,
    };
    let mut encoder = kind.open(&settings)?;
    let mut picture = frame::Video::new(encoder.format(), settings.width, settings.height);
    for plane in 0..picture.planes() {
        picture.data_mut(plane).fill(128);
    }
    encoder.send(&mut picture, 0, true)?;
    encoder.finish();
    match encoder.receive()? {
        Some(packet) if packet.idr && !packet.data.is_empty() => Ok(()),
        _ => Err(EncoderError::Encode {
            name: kind.codec_name(),
            reason: "it gave no key frame for a frame".to_owned(),
        }),
    }
}

/// The bytes of a configuration record with the length size set to the four bytes that packets here have.
pub(super) fn with_four_byte_lengths(avcc: &Bytes) -> Vec<u8> {
    let mut record = avcc.to_vec();
    if let Some(lengths) = record.get_mut(4) {
        *lengths |= 3;
    }
    record
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_probe_finds_libx264_and_says_of_the_others_why_not() {
        let found = probe();
        assert_eq!(found.len(), 4);
        let x264 = found.last().unwrap();
        assert_eq!(x264.to_string(), "libx264 works: it encoded a frame");
        for finding in &found {
            assert!(finding.works() || finding.to_string().contains("cannot be used: "));
        }
        assert!(found.iter().any(
            |finding| finding.kind == resolve(EncoderChoice::Auto, &found) && finding.works()
        ));
        assert_eq!(resolve(EncoderChoice::Nvenc, &found), Kind::Nvenc);
        assert_eq!(resolve(EncoderChoice::Auto, &[]), Kind::Libx264);
    }
}
