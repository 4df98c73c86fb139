//! A broadcast's sound in its one format: AAC-LC passed untouched, anything else encoded to it, silence where there is none.

use bytes::Bytes;

use crate::{
    media::{AAC_FRAME_SAMPLES, AudioConfig, AudioPacket},
    transcode::{self, AudioError, AudioTranscoder},
};

/// Channels of a track whose publisher has no sound.
const SILENT_CHANNELS: u32 = 2;

/// Turns the publisher's frames into frames of the track, one behind the other.
pub(super) struct Sound {
    /// The track's format, fixed when the broadcast opens.
    track: AudioConfig,
    silence: Bytes,
    bitrate_bps: u32,
    input: Input,
    /// Where the last frame ended that was given, samples.
    end: Option<i64>,
}

enum Input {
    /// The publisher's frames are the track's.
    Passes,
    /// They are not. The encoder starts with the first one.
    Encoded(AudioConfig, Option<Box<AudioTranscoder>>),
}

impl Sound {
    /// A track for a publisher with this sound, or none, whose times are ticks of `rate` a second.
    ///
    /// # Errors
    /// [`AudioError`] when the format cannot be encoded.
    pub(super) fn new(
        publisher: Option<&AudioConfig>,
        rate: u32,
        bitrate_bps: u32,
    ) -> Result<Self, AudioError> {
        let track = match publisher {
            Some(config) if config.is_lc && config.sample_rate == rate => config.clone(),
            Some(config) => transcode::audio_config(rate, config.channels.clamp(1, 2))?,
            None => transcode::audio_config(rate, SILENT_CHANNELS)?,
        };
        let silence = transcode::silence(&track)?;
        let mut sound = Self {
            track,
            silence,
            bitrate_bps,
            input: Input::Passes,
            end: None,
        };
        if let Some(config) = publisher {
            sound.configure(config);
        }
        Ok(sound)
    }

    /// How the track is configured.
    pub(super) fn config(&self) -> &AudioConfig {
        &self.track
    }

    /// The publisher's frames are configured like this from here on. Gives what an encoder still held.
    pub(super) fn configure(&mut self, config: &AudioConfig) -> Vec<AudioPacket> {
        let rest = self.end_encoder();
        self.input = match config.is_lc && config.asc == self.track.asc {
            true => Input::Passes,
            false => Input::Encoded(config.clone(), None),
        };
        rest
    }

    /// A frame of the publisher's.
    pub(super) fn push(&mut self, packet: AudioPacket) -> Vec<AudioPacket> {
        let packets = match &mut self.input {
            Input::Passes => vec![packet],
            Input::Encoded(config, encoder) => {
                if encoder.is_none() {
                    let grid = self.end.unwrap_or(packet.pts);
                    match AudioTranscoder::new(
                        config,
                        self.track.sample_rate,
                        self.track.channels,
                        self.bitrate_bps,
                        grid,
                    ) {
                        Ok(opened) => *encoder = Some(Box::new(opened)),
                        Err(error) => {
                            // Repair goes on filling with silence; the next configuration is tried again.
                            tracing::warn!(%error, "this sound is replaced by silence");
                            return self.silence(packet.pts, 1);
                        }
                    }
                }
                encoder
                    .as_mut()
                    .map(|encoder| encoder.push(&packet))
                    .unwrap_or_default()
            }
        };
        self.in_order(packets)
    }

    /// No sound here: so many frames of silence.
    pub(super) fn silence(&mut self, pts: i64, frames: u32) -> Vec<AudioPacket> {
        let mut packets = self.end_encoder();
        let silence = (0..frames).map(|n| AudioPacket {
            pts: pts.saturating_add(i64::from(n) * i64::from(AAC_FRAME_SAMPLES)),
            data: self.silence.clone(),
        });
        let silence = silence.collect();
        packets.extend(self.in_order(silence));
        packets
    }

    fn end_encoder(&mut self) -> Vec<AudioPacket> {
        let Input::Encoded(_, encoder) = &mut self.input else {
            return Vec::new();
        };
        let rest = encoder
            .take()
            .map(|encoder| encoder.finish())
            .unwrap_or_default();
        self.in_order(rest)
    }

    /// Leaves out frames for a time that is taken: an encoder fills its last frame past the publisher's end.
    fn in_order(&mut self, mut packets: Vec<AudioPacket>) -> Vec<AudioPacket> {
        packets.retain(|packet| {
            let free = self.end.is_none_or(|end| packet.pts >= end);
            if free {
                self.end = Some(packet.pts.saturating_add(AAC_FRAME_SAMPLES.into()));
            }
            free
        });
        packets
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn plain_aac_passes_untouched_and_silence_has_its_format() {
        let config = transcode::audio_config(44_100, 2).unwrap();
        let mut sound = Sound::new(Some(&config), 44_100, 128_000).unwrap();
        assert_eq!(sound.config().asc, config.asc);
        let packet = AudioPacket {
            pts: 5_000,
            data: Bytes::from_static(b"untouched"),
        };
        assert_eq!(sound.push(packet.clone()), [packet]);
        let silence = sound.silence(5_000 + 1_024, 2);
        assert_eq!(
            silence.iter().map(|packet| packet.pts).collect::<Vec<_>>(),
            [6_024, 7_048]
        );
    }

    #[test]
    fn a_publisher_without_sound_gets_a_silent_stereo_track() {
        let mut sound = Sound::new(None, 48_000, 128_000).unwrap();
        assert_eq!(
            sound.config().asc,
            transcode::audio_config(48_000, 2).unwrap().asc
        );
        assert!(
            sound
                .silence(0, 3)
                .iter()
                .all(|packet| !packet.data.is_empty())
        );
    }

    /// What the packager announces of a publisher's sound: codecs, sample rate, channels; and whether its frames are passed untouched.
    fn announced(asc: &[u8]) -> (String, u32, u32, bool) {
        let config = crate::codec::aac::audio_config(asc).unwrap();
        let sound = Sound::new(Some(&config), config.sample_rate, 128_000).unwrap();
        let track = crate::package::AudioPackager::new(&sound.config().asc).unwrap();
        let passes = matches!(sound.input, Input::Passes);
        assert_eq!(passes, sound.config().asc == asc);
        (
            track.codecs().to_owned(),
            track.sample_rate(),
            track.channels(),
            passes,
        )
    }

    #[test]
    fn he_aac_is_announced_as_the_aac_lc_that_it_is_encoded_to() {
        for signalled in [
            &[0x2b, 0x11, 0x88, 0x00][..],
            &[0xeb, 0x09, 0x88, 0x00],
            &[0x13, 0x10, 0x56, 0xe5, 0x98],
            &[0x13, 0x08, 0x56, 0xe5, 0x9d, 0x48, 0x80],
        ] {
            let encoded = ("mp4a.40.2".to_owned(), 48_000, 2, false);
            assert_eq!(announced(signalled), encoded, "{signalled:02x?}");
        }
        // Nothing says that there may be SBR in the frames: they are AAC-LC of 24 kHz, which every player hears, and pass as that.
        let untouched = |rate| ("mp4a.40.2".to_owned(), rate, 2, true);
        assert_eq!(announced(&[0x13, 0x10]), untouched(24_000));
        assert_eq!(announced(&[0x11, 0x90]), untouched(48_000));
    }

    #[test]
    fn another_format_is_encoded_to_the_track_s_without_holes_or_overlaps() {
        let track = transcode::audio_config(48_000, 2).unwrap();
        let mut sound = Sound::new(Some(&track), 48_000, 128_000).unwrap();
        let other = transcode::audio_config(44_100, 1).unwrap();
        let frame = transcode::silence(&other).unwrap();
        let mut out = sound.silence(0, 2);
        out.extend(sound.configure(&other));
        for n in 0..100_i64 {
            out.extend(sound.push(AudioPacket {
                pts: 2_048 + n * 1_024 * 48_000 / 44_100,
                data: frame.clone(),
            }));
        }
        out.extend(sound.configure(&track));
        assert!(out.len() > 100, "{} frames", out.len());
        for pair in out.windows(2) {
            assert_eq!(pair[1].pts - pair[0].pts, 1_024);
        }
    }
}
