//! AAC to Opus for WebRTC: decoded, resampled to 48 kHz stereo, encoded in packets of 20 ms by libopus.

use std::collections::VecDeque;

use bytes::Bytes;
use ffmpeg_next::{
    ChannelLayout, Dictionary, Error as AvError, Rational, codec, encoder,
    format::{Sample, sample::Type},
    frame, packet,
    software::resampling,
};

use super::{
    audio::{AudioError, open_decoder},
    av,
};
use crate::media::{AudioConfig, AudioPacket, rescale};

/// Opus's clock, Hz (RFC 7587 section 4.1).
pub const OPUS_RATE: u32 = 48_000;
/// Samples of a packet: 20 ms.
const FRAME: usize = 960;
const CHANNELS: usize = 2;
/// Bits a second.
const BITRATE_BPS: usize = 128_000;
const PACKED: Sample = Sample::F32(Type::Packed);
/// A packet this far from where the samples before it end begins anew, milliseconds; anything less is the jitter of its time.
const JITTER_MS: i64 = 40;

/// From one AAC format to Opus. It costs some two per cent of a core.
pub struct OpusTranscoder {
    decoder: ffmpeg_next::decoder::Audio,
    input_rate: u32,
    resampler: Option<resampling::Context>,
    /// What is resampled and not encoded yet, both channels in turn.
    waiting: VecDeque<f32>,
    /// Time of the first sample that waits, ticks of [`OPUS_RATE`]; `None` before the first.
    at: Option<i64>,
    encoder: encoder::audio::Encoder,
    frame: frame::Audio,
}

impl OpusTranscoder {
    /// From `input`, whose packets have their times in ticks of its rate.
    ///
    /// # Errors
    /// [`AudioError`] when it cannot be decoded, or FFmpeg has no libopus.
    pub fn new(input: &AudioConfig) -> Result<Self, AudioError> {
        av::init();
        av::last_error();
        let layout = ChannelLayout::default(CHANNELS as i32);
        let open = || {
            let found = encoder::find_by_name("libopus").ok_or(AvError::EncoderNotFound)?;
            let mut context = codec::Context::new_with_codec(found);
            context.set_time_base(Rational(1, OPUS_RATE as i32));
            let mut audio = context.encoder().audio()?;
            audio.set_rate(OPUS_RATE as i32);
            audio.set_format(PACKED);
            audio.set_channel_layout(layout);
            audio.set_bit_rate(BITRATE_BPS);
            let mut options = Dictionary::new();
            options.set("frame_duration", "20");
            audio.open_as_with(found, options)
        };
        let encoder = open().map_err(|error| {
            AudioError::Opus(av::last_error().unwrap_or_else(|| error.to_string()))
        })?;
        let mut frame = frame::Audio::new(PACKED, FRAME, layout);
        frame.set_rate(OPUS_RATE);
        Ok(Self {
            decoder: open_decoder(input)?,
            input_rate: input.sample_rate,
            resampler: None,
            waiting: VecDeque::new(),
            at: None,
            encoder,
            frame,
        })
    }

    /// Takes a frame of AAC and gives the packets that are complete, their times in ticks of [`OPUS_RATE`]. Damage is left out.
    pub fn push(&mut self, packet: &AudioPacket) -> Vec<AudioPacket> {
        let mut encoded = Vec::new();
        if packet.data.is_empty() {
            return encoded;
        }
        let mut input = packet::Packet::copy(&packet.data);
        input.set_pts(Some(packet.pts));
        input.set_dts(Some(packet.pts));
        if self.decoder.send_packet(&input).is_err() {
            return encoded;
        }
        let mut decoded = frame::Audio::empty();
        while self.decoder.receive_frame(&mut decoded).is_ok() {
            let pts = decoded.pts().unwrap_or(packet.pts);
            let pts = rescale(pts, self.input_rate, OPUS_RATE);
            if let Err(error) = self.resample(pts, &mut decoded) {
                tracing::debug!(%error, "a frame of sound is left out of WebRTC");
            }
        }
        while self.waiting.len() >= FRAME * CHANNELS {
            self.encode(&mut encoded);
        }
        encoded
    }

    fn resample(&mut self, pts: i64, frame: &mut frame::Audio) -> Result<(), AvError> {
        if frame.channel_layout().is_empty() {
            frame.set_channel_layout(ChannelLayout::default(i32::from(frame.channels())));
        }
        let (format, layout, rate) = (frame.format(), frame.channel_layout(), frame.rate());
        if rate == 0 {
            return Err(AvError::InvalidData);
        }
        let same = |resampler: &resampling::Context| {
            let input = resampler.input();
            (input.format, input.channel_layout, input.rate) == (format, layout, rate)
        };
        let output_layout = ChannelLayout::default(CHANNELS as i32);
        let resampler = match self.resampler.take().filter(same) {
            Some(resampler) => self.resampler.insert(resampler),
            None => self.resampler.insert(resampling::Context::get(
                format,
                layout,
                rate,
                PACKED,
                output_layout,
                OPUS_RATE,
            )?),
        };
        let most = frame.samples() as u64 * u64::from(OPUS_RATE) / u64::from(rate) + 256;
        let mut output = frame::Audio::new(PACKED, most as usize, output_layout);
        resampler.run(frame, &mut output)?;
        let held = (self.waiting.len() / CHANNELS) as i64;
        let off = self.at.map_or(i64::MAX, |at| pts.saturating_sub(at + held));
        if off.saturating_abs() > i64::from(OPUS_RATE) * JITTER_MS / 1_000 {
            self.waiting.clear();
            self.at = Some(pts);
        }
        let samples = output.samples() * CHANNELS;
        let bytes = output.data(0).chunks_exact(4).take(samples);
        let sample = |bytes: &[u8]| f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        self.waiting.extend(bytes.map(sample));
        Ok(())
    }

    fn encode(&mut self, encoded: &mut Vec<AudioPacket>) {
        let Some(at) = self.at else {
            self.waiting.clear();
            return;
        };
        self.at = Some(at + FRAME as i64);
        let samples = self.waiting.drain(..FRAME * CHANNELS);
        // The encoder may still read the frame before.
        if av::make_audio_writable(&mut self.frame).is_err() {
            return;
        }
        let room = self.frame.data_mut(0).chunks_exact_mut(4);
        for (to, sample) in room.zip(samples) {
            to.copy_from_slice(&sample.to_ne_bytes());
        }
        self.frame.set_pts(Some(at));
        if let Err(error) = self.encoder.send_frame(&self.frame) {
            tracing::warn!(%error, "a frame of sound was not encoded");
        }
        let mut packet = packet::Packet::empty();
        while self.encoder.receive_packet(&mut packet).is_ok() {
            encoded.push(AudioPacket {
                pts: packet.pts().unwrap_or(at),
                data: Bytes::copy_from_slice(packet.data().unwrap_or_default()),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::transcode::{audio_config, silence};

    #[test]
    fn sound_becomes_packets_of_20_ms_on_the_same_timeline() {
        let config = audio_config(44_100, 2).unwrap();
        let frame = silence(&config).unwrap();
        let mut opus = OpusTranscoder::new(&config).unwrap();
        let begin = 441_000;
        let packets: Vec<AudioPacket> = (0..200)
            .flat_map(|n| {
                let pts = begin + n * 1_024;
                opus.push(&AudioPacket {
                    pts,
                    data: frame.clone(),
                })
            })
            .collect();
        // 4.6 s of sound, but for what is held back to fill a packet.
        assert!((228..=233).contains(&packets.len()), "{}", packets.len());
        let first = packets[0].pts;
        let off_ms = (first - 480_000) / 48;
        assert!((-30..=30).contains(&off_ms), "{off_ms} ms");
        for (n, packet) in packets.iter().enumerate() {
            assert_eq!(packet.pts, first + 960 * n as i64);
        }
        // A gap of 10 s.
        let later = (0..4).flat_map(|n| {
            opus.push(&AudioPacket {
                pts: begin + 441_000 + (200 + n) * 1_024,
                data: frame.clone(),
            })
        });
        let later: Vec<AudioPacket> = later.collect();
        let ahead_ms = (later.last().unwrap().pts - packets.last().unwrap().pts) / 48;
        assert!((10_000..10_200).contains(&ahead_ms), "{ahead_ms} ms");
    }
}
