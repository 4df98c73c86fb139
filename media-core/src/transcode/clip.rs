//! H.264 out of a file, as a publisher would send it: for benchmarks and tests, which have no live source.

use std::path::Path;

use bytes::Bytes;
use ffmpeg_next::{Error as AvError, codec, format, media};

use super::av;
use crate::media::{VIDEO_TIMESCALE, VideoConfig, VideoPacket, rescale};

/// Why a file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClipError {
    /// It is not there, or nothing that FFmpeg knows.
    #[error("the file cannot be read: {0}")]
    Read(String),
    /// No H.264 with out-of-band parameter sets, as MP4, FLV and Matroska carry it.
    #[error("the file has no H.264 as MP4 carries it")]
    Unsuitable,
}

impl From<AvError> for ClipError {
    fn from(error: AvError) -> Self {
        Self::Read(error.to_string())
    }
}

/// The video of a file.
#[derive(Debug, Clone)]
pub struct Clip {
    /// Its parameter sets.
    pub config: VideoConfig,
    /// All its packets, in decoding order.
    pub packets: Vec<VideoPacket>,
}

impl Clip {
    /// Reads all of it into memory.
    pub fn read(path: &Path) -> Result<Self, ClipError> {
        av::init();
        let mut file = format::input(path)?;
        let stream = file
            .streams()
            .best(media::Type::Video)
            .ok_or(ClipError::Unsuitable)?;
        let index = stream.index();
        let base = stream.time_base();
        let context = codec::Context::from_parameters(stream.parameters())?;
        let avcc = Bytes::copy_from_slice(av::extradata(&context));
        let ticks_a_second = u32::try_from(base.denominator()).unwrap_or_default();
        if context.id() != codec::Id::H264
            || avcc.first() != Some(&1)
            || base.numerator() != 1
            || ticks_a_second == 0
        {
            return Err(ClipError::Unsuitable);
        }
        let ticks = |ticks: i64| rescale(ticks, ticks_a_second, VIDEO_TIMESCALE);
        let packets = file
            .packets()
            .filter(|(stream, _)| stream.index() == index)
            .filter_map(|(_, packet)| {
                Some(VideoPacket {
                    pts: ticks(packet.pts()?),
                    dts: ticks(packet.dts()?),
                    idr: packet.is_key(),
                    data: Bytes::copy_from_slice(packet.data()?),
                })
            })
            .collect();
        Ok(Self {
            config: VideoConfig { avcc },
            packets,
        })
    }
}
