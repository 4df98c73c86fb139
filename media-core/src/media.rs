//! What passes between the steps: encoded packets and their configuration.
//!
//! Times are ticks of a timescale, counted from the zero of the broadcast's timeline: 90,000 a second for video, the sample rate for
//! audio. Payloads are reference-counted [`Bytes`] from the socket to every output.

use std::time::Duration;

use bytes::Bytes;

/// Ticks a second of every video track.
pub const VIDEO_TIMESCALE: u32 = 90_000;

/// Samples of an AAC-LC frame.
pub const AAC_FRAME_SAMPLES: u32 = 1_024;

/// Converts ticks from one timescale to another, rounded to the nearest (halves up), without overflow for any timeline under 30,000 years.
pub fn rescale(ticks: i64, from: u32, to: u32) -> i64 {
    let (from, to) = (i128::from(from.max(1)), i128::from(to));
    let scaled = (i128::from(ticks) * to * 2 + from).div_euclid(from * 2);
    scaled.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

/// Frames a second as a fraction, such as 30000/1001.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameRate {
    /// Frames, over 0.
    pub num: u32,
    /// In so many seconds, over 0.
    pub den: u32,
}

impl FrameRate {
    /// The fraction in lowest terms; `None` where it is not over 0 or does not fit.
    pub fn reduced(num: u64, den: u64) -> Option<Self> {
        let (mut a, mut b) = (num, den);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        let (num, den) = (num.checked_div(a)?, den.checked_div(a)?);
        let (num, den) = (u32::try_from(num).ok()?, u32::try_from(den).ok()?);
        (num > 0 && den > 0).then_some(Self { num, den })
    }

    /// Ticks of `timescale` that so many frames last, rounded up.
    pub fn ticks(self, frames: u32, timescale: u32) -> i64 {
        let ticks = u128::from(frames) * u128::from(timescale) * u128::from(self.den);
        i64::try_from(ticks.div_ceil(u128::from(self.num.max(1)))).unwrap_or(i64::MAX)
    }

    /// Frames a second.
    pub fn fps(self) -> f64 {
        f64::from(self.num) / f64::from(self.den)
    }
}

/// H.264 as the encoder configured it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoConfig {
    /// `AVCDecoderConfigurationRecord` (ISO/IEC 14496-15 section 5.3.3): parameter sets and the length size of the packets.
    pub avcc: Bytes,
}

/// AAC as the encoder configured it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioConfig {
    /// `AudioSpecificConfig` (ISO/IEC 14496-3 section 1.6.2.1).
    pub asc: Bytes,
    /// Hz, as read from it: the rate that is played (after SBR, where there is any).
    pub sample_rate: u32,
    /// Count, as read from it.
    pub channels: u32,
    /// Whether it is plain AAC-LC, which is passed untouched; anything else is encoded to it.
    pub is_lc: bool,
}

/// What the encoder says of itself (`onMetaData`); every field is only a claim.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    /// Pixels.
    pub width: Option<u32>,
    /// Pixels.
    pub height: Option<u32>,
    /// Frames a second.
    pub frame_rate: Option<f64>,
    /// Bits a second.
    pub video_bps: Option<u64>,
    /// Bits a second.
    pub audio_bps: Option<u64>,
    /// Name and version of the encoder, at most 128 characters.
    pub encoder: Option<String>,
}

/// One thing that came from a publisher, with the encoder's own times.
#[derive(Debug, Clone, PartialEq)]
pub enum IngestEvent {
    /// `onMetaData`.
    Metadata(Metadata),
    /// Parameter sets; again when they change.
    VideoConfig(VideoConfig),
    /// Again when it changes.
    AudioConfig(AudioConfig),
    /// One access unit, NAL units length-prefixed with four bytes.
    Video {
        /// Decoding time as RTMP carries it: milliseconds modulo 2^32.
        timestamp_ms: u32,
        /// Presentation minus decoding time, milliseconds.
        composition_offset_ms: i32,
        /// Whether the access unit is an IDR (looked up in its NAL units, not taken from the FLV header).
        idr: bool,
        /// The NAL units.
        data: Bytes,
    },
    /// One raw AAC frame.
    Audio {
        /// Milliseconds modulo 2^32.
        timestamp_ms: u32,
        /// The frame.
        data: Bytes,
    },
}

/// An event of a publisher with the time since the process started, of a monotonic clock, at which it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// When.
    pub at: Duration,
    /// What.
    pub event: IngestEvent,
}

/// How a publisher's connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublisherEnd {
    /// The encoder unpublished, or its time is over: the broadcast ends at once.
    Unpublished,
    /// The connection was cut: the broadcast waits for it to come back.
    Cut,
}

/// An encoded video frame on the broadcast's timeline, in decoding order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoPacket {
    /// Presentation time, ticks of [`VIDEO_TIMESCALE`].
    pub pts: i64,
    /// Decoding time, never after `pts` by more than the stream's reordering, strictly increasing.
    pub dts: i64,
    /// Whether decoding can begin here.
    pub idr: bool,
    /// The access unit, NAL units length-prefixed with four bytes.
    pub data: Bytes,
}

/// An encoded audio frame on the broadcast's timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioPacket {
    /// Presentation time, ticks of the track's sample rate; each frame begins where the last one ended, but behind a discontinuity.
    pub pts: i64,
    /// The raw frame.
    pub data: Bytes,
}

/// Where a segment begins, in all tracks alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary {
    /// Media sequence number of the segment that begins.
    pub msn: u64,
    /// Presentation time of its first video frame, ticks of [`VIDEO_TIMESCALE`].
    pub pts: i64,
    /// Whether the segment continues behind a discontinuity.
    pub discontinuity: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rescaling_rounds_to_the_nearest_and_survives_extremes() {
        assert_eq!(rescale(1_001, 1_000, 90_000), 90_090);
        assert_eq!(rescale(1, 3, 2), 1);
        assert_eq!(rescale(-1, 2, 1), 0);
        assert_eq!(rescale(-3, 2, 1), -1);
        assert_eq!(rescale(i64::MAX, 1, u32::MAX), i64::MAX);
        assert_eq!(rescale(5, 0, 1), 5);
    }
}
