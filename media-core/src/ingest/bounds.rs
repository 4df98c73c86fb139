//! What a publisher may send, by the limits that its admission came with: resolution and frame rate as it says them and as they come.

use std::time::Duration;

use protocol::limits::Limits;

use super::bitrate::Ceiling;
use crate::{codec::avc, media::IngestEvent};

/// A rate that is over its limit by no more than this is within it: 59.94 is called 60, and clocks waver.
const RATE_TOLERANCE: f64 = 1.05;

/// What is more than the stream may have. The text is for the encoder's user.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum Exceeded {
    /// The picture.
    #[error(
        "the picture is {width}x{height}, and this stream may have {max} lines at the most: lower the output resolution in the encoder"
    )]
    Size {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
        /// Pixels of the shorter side.
        max: u32,
    },
    /// The frame rate.
    #[error(
        "the encoder sends more than the {max} frames a second that this stream may have: lower the frame rate in the encoder"
    )]
    Rate {
        /// Frames a second.
        max: u32,
    },
}

/// Looks at each event of a publisher.
#[derive(Debug)]
pub(super) struct Bounds {
    limits: Limits,
    frames: Option<Ceiling>,
}

impl Bounds {
    pub(super) fn new(limits: Limits, now: Duration) -> Self {
        let rate = limits.max_fps.map(|fps| f64::from(fps) * RATE_TOLERANCE);
        Self {
            limits,
            frames: rate.map(|rate| Ceiling::of(rate, now)),
        }
    }

    /// Whether an event that came is within the limits.
    pub(super) fn look(&mut self, event: &IngestEvent, now: Duration) -> Result<(), Exceeded> {
        match event {
            IngestEvent::VideoConfig(config) => {
                // What cannot be read is not for this to say.
                let Ok(sps) = avc::first_sps(&config.avcc) else {
                    return Ok(());
                };
                if let Some(max) = self.limits.max_height
                    && sps.width.min(sps.height) > max
                {
                    let (width, height) = (sps.width, sps.height);
                    return Err(Exceeded::Size { width, height, max });
                }
                let said = sps.frame_rate.filter(|_| sps.fixed_frame_rate);
                self.claims(said.map(|rate| rate.fps()))
            }
            // An encoder that claims less is still counted.
            IngestEvent::Metadata(metadata) => self.claims(metadata.frame_rate),
            IngestEvent::Video { .. } => {
                let counted = self.frames.as_mut().zip(self.limits.max_fps);
                match counted.map(|(frames, max)| (frames.take(1, now), max)) {
                    Some((false, max)) => Err(Exceeded::Rate { max }),
                    _ => Ok(()),
                }
            }
            IngestEvent::AudioConfig(_) | IngestEvent::Audio { .. } => Ok(()),
        }
    }

    fn claims(&self, fps: Option<f64>) -> Result<(), Exceeded> {
        match (fps, self.limits.max_fps) {
            (Some(fps), Some(max)) if fps > f64::from(max) * RATE_TOLERANCE => {
                Err(Exceeded::Rate { max })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;

    use super::*;
    use crate::media::Metadata;

    fn frame() -> IngestEvent {
        IngestEvent::Video {
            timestamp_ms: 0,
            composition_offset_ms: 0,
            idr: false,
            data: Bytes::new(),
        }
    }

    fn bounds(fps: u32) -> Bounds {
        let limits = Limits {
            max_fps: Some(fps),
            ..Limits::default()
        };
        Bounds::new(limits, Duration::ZERO)
    }

    #[test]
    fn frames_are_counted_whatever_the_encoder_claims() {
        let (mut ours, mut fast) = (bounds(30), bounds(30));
        for n in 0..3_000_u32 {
            let at = Duration::from_secs(1) * n / 30;
            assert_eq!(ours.look(&frame(), at), Ok(()), "{at:?}");
        }
        let cut = (0..3_000_u32)
            .map(|n| Duration::from_secs(1) * n / 60)
            .find(|at| fast.look(&frame(), *at).is_err());
        // Over the window of ten seconds that the bit rate has too.
        let cut = cut.unwrap().as_secs();
        assert!((9..14).contains(&cut), "{cut}");
    }

    #[test]
    fn what_an_encoder_says_of_itself_is_believed_when_it_is_too_much() {
        let claim = |frame_rate| {
            let metadata = Metadata {
                frame_rate: Some(frame_rate),
                ..Metadata::default()
            };
            bounds(30).look(&IngestEvent::Metadata(metadata), Duration::ZERO)
        };
        assert_eq!((claim(30.0), claim(29.97)), (Ok(()), Ok(())));
        assert_eq!(claim(60.0), Err(Exceeded::Rate { max: 30 }));
        let unbounded = Metadata {
            frame_rate: Some(1_000.0),
            ..Metadata::default()
        };
        let mut none = Bounds::new(Limits::default(), Duration::ZERO);
        assert_eq!(
            none.look(&IngestEvent::Metadata(unbounded), Duration::ZERO),
            Ok(())
        );
    }
}
