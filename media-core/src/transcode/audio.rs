//! Audio that is not AAC-LC in the track's fixed format (HE-AAC, another rate, other channels) decoded, resampled and encoded to it; and encoded silence for where
//! there is none.

use std::collections::VecDeque;

use bytes::Bytes;
use ffmpeg_next::{
    ChannelLayout, Dictionary, Error as AvError, Rational, codec, decoder, encoder,
    format::{Sample, sample::Type},
    frame, packet,
    software::resampling,
};

use super::av;
use crate::media::{AAC_FRAME_SAMPLES, AudioConfig, AudioPacket};

const FRAME: usize = AAC_FRAME_SAMPLES as usize;
const FLOAT_PLANES: Sample = Sample::F32(Type::Planar);

/// A packet this far from where the samples before it end is believed to be there; anything less is the rounding and the jitter of its time. Milliseconds.
const JITTER_MS: i64 = 40;

/// Gaps up to this long are filled with silence; a longer one begins anew behind it. Milliseconds.
const FILLED_MS: i64 = 1_000;

/// Why audio cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AudioError {
    /// The configuration is none that can be decoded.
    #[error("the audio cannot be decoded: {0}")]
    Decoder(String),
    /// FFmpeg has no libopus, or it does not start.
    #[error("sound cannot be encoded as Opus: {0}")]
    Opus(String),
    /// AAC has no such rate or number of channels, or this build of FFmpeg no encoder.
    #[error("AAC-LC of {sample_rate} Hz and {channels} channels cannot be encoded: {reason}")]
    Encoder {
        /// Hz.
        sample_rate: u32,
        /// Count.
        channels: u32,
        /// In FFmpeg's words.
        reason: String,
    },
}

/// From any AAC to AAC-LC in one fixed format. Called where audio is packaged: it costs some two per cent of a core.
pub struct AudioTranscoder {
    decoder: decoder::Audio,
    resampler: Option<resampling::Context>,
    /// One queue a channel, of what is resampled and not encoded yet.
    waiting: Vec<VecDeque<f32>>,
    /// Time of the first sample that waits, or that comes next; `None` before the first.
    at: Option<i64>,
    /// Every frame begins a whole number of frames from here.
    grid: i64,
    encoder: Encoder,
    decode_errors: u64,
}

impl AudioTranscoder {
    /// From `input` to a track of this format. Its frames begin whole frames (1,024 samples) before or after `grid`, ticks of `sample_rate`: give it the end
    /// of the track's last frame where it goes on.
    pub fn new(
        input: &AudioConfig,
        sample_rate: u32,
        channels: u32,
        bitrate_bps: u32,
        grid: i64,
    ) -> Result<Self, AudioError> {
        let encoder = Encoder::open(sample_rate, channels, bitrate_bps)?;
        Ok(Self {
            decoder: open_decoder(input)?,
            resampler: None,
            waiting: vec![VecDeque::new(); channels as usize],
            at: None,
            grid,
            encoder,
            decode_errors: 0,
        })
    }

    /// The configuration of the packets that come out.
    pub fn config(&self) -> &AudioConfig {
        &self.encoder.config
    }

    /// Packets that could not be decoded so far.
    pub fn decode_errors(&self) -> u64 {
        self.decode_errors
    }

    /// The packets that follow are configured like this.
    pub fn set_input(&mut self, input: &AudioConfig) -> Result<(), AudioError> {
        self.decoder = open_decoder(input)?;
        self.resampler = None;
        Ok(())
    }

    /// Takes a frame, its time in ticks of the track's own rate, and gives those that are complete. Damage is left out and filled with silence.
    pub fn push(&mut self, packet: &AudioPacket) -> Vec<AudioPacket> {
        let mut encoded = Vec::new();
        if packet.data.is_empty() {
            return encoded;
        }
        let mut input = packet::Packet::copy(&packet.data);
        input.set_pts(Some(packet.pts));
        input.set_dts(Some(packet.pts));
        if self.decoder.send_packet(&input).is_err() {
            self.decode_errors += 1;
            return encoded;
        }
        let mut frame = frame::Audio::empty();
        while self.decoder.receive_frame(&mut frame).is_ok() {
            let pts = frame.pts().unwrap_or(packet.pts);
            match self.resample(&mut frame) {
                Ok(planes) => self.take(pts, planes, &mut encoded),
                Err(_) => self.decode_errors += 1,
            }
        }
        self.encode(&mut encoded);
        encoded
    }

    /// Fills the last frame with silence and gives everything that is left.
    pub fn finish(mut self) -> Vec<AudioPacket> {
        let mut encoded = Vec::new();
        self.pad();
        self.encode(&mut encoded);
        self.encoder.finish(&mut encoded);
        encoded
    }

    fn resample(&mut self, frame: &mut frame::Audio) -> Result<Vec<Vec<f32>>, AvError> {
        if frame.channel_layout().is_empty() {
            frame.set_channel_layout(ChannelLayout::default(i32::from(frame.channels())));
        }
        let config = &self.encoder.config;
        // One microphone is heard on both sides as loud as it was. (The resampler would keep its power, three decibels less on each.)
        let doubled = frame.channels() == 1 && config.channels == 2;
        let output_layout =
            ChannelLayout::default(if doubled { 1 } else { config.channels as i32 });
        let (format, layout, rate) = (frame.format(), frame.channel_layout(), frame.rate());
        let same = |resampler: &resampling::Context| {
            let input = resampler.input();
            (input.format, input.channel_layout, input.rate) == (format, layout, rate)
        };
        if rate == 0 {
            return Err(AvError::InvalidData);
        }
        let resampler = match self.resampler.take().filter(same) {
            Some(resampler) => self.resampler.insert(resampler),
            None => self.resampler.insert(resampling::Context::get(
                format,
                layout,
                rate,
                FLOAT_PLANES,
                output_layout,
                config.sample_rate,
            )?),
        };
        let most = frame.samples() as u64 * u64::from(config.sample_rate) / u64::from(rate) + 256;
        let mut output = frame::Audio::new(FLOAT_PLANES, most as usize, output_layout);
        resampler.run(frame, &mut output)?;
        if output.samples() == 0 {
            return Ok(vec![Vec::new(); self.waiting.len()]);
        }
        Ok((0..self.waiting.len())
            .map(|channel| {
                let plane = if doubled { 0 } else { channel };
                output.plane::<f32>(plane).to_vec()
            })
            .collect())
    }

    /// Puts decoded samples at their place in time.
    fn take(&mut self, pts: i64, mut planes: Vec<Vec<f32>>, encoded: &mut Vec<AudioPacket>) {
        let rate = i64::from(self.encoder.config.sample_rate);
        let held = self.waiting.first().map_or(0, VecDeque::len) as i64;
        let off = match self.at {
            Some(at) => pts.saturating_sub(at.saturating_add(held)),
            None => i64::MAX,
        };
        if off > rate * FILLED_MS / 1_000 {
            // The first samples, or those behind a long gap: begin at the frame of the grid that they fall into.
            self.pad();
            self.encode(encoded);
            let into_frame = pts.saturating_sub(self.grid).rem_euclid(FRAME as i64);
            self.at = Some(pts - into_frame);
            self.silence(into_frame as usize);
        } else if off > rate * JITTER_MS / 1_000 {
            self.silence(off as usize);
        } else if off < -rate * JITTER_MS / 1_000 {
            // Samples for a time that is taken: leave out as many.
            let over = usize::try_from(-off).unwrap_or(usize::MAX);
            for plane in &mut planes {
                plane.drain(..over.min(plane.len()));
            }
        }
        for (waiting, plane) in self.waiting.iter_mut().zip(planes) {
            waiting.extend(plane);
        }
    }

    fn silence(&mut self, samples: usize) {
        for waiting in &mut self.waiting {
            waiting.extend(std::iter::repeat_n(0.0, samples));
        }
    }

    fn pad(&mut self) {
        let held = self.waiting.first().map_or(0, VecDeque::len);
        if !held.is_multiple_of(FRAME) {
            self.silence(FRAME - held % FRAME);
        }
    }

    fn encode(&mut self, encoded: &mut Vec<AudioPacket>) {
        while self
            .waiting
            .first()
            .is_some_and(|first| first.len() >= FRAME)
        {
            let pts = self.at.unwrap_or_default();
            let samples: Vec<Vec<f32>> = self
                .waiting
                .iter_mut()
                .map(|waiting| waiting.drain(..FRAME).collect())
                .collect();
            self.at = Some(pts + FRAME as i64);
            self.encoder.encode(pts, &samples, encoded);
        }
    }
}

/// The configuration of AAC-LC that is encoded here: for a broadcast that has no audio of its own.
pub fn audio_config(sample_rate: u32, channels: u32) -> Result<AudioConfig, AudioError> {
    Ok(Encoder::open(sample_rate, channels, 64_000)?.config)
}

/// A frame of silence that fits between frames of AAC-LC of the same rate and channels, whoever encoded them.
pub fn silence(config: &AudioConfig) -> Result<Bytes, AudioError> {
    let mut encoder = Encoder::open(config.sample_rate, config.channels, 64_000)?;
    let samples = vec![vec![0.0; FRAME]; config.channels as usize];
    let mut encoded = Vec::new();
    // The third frame is one that silence comes before and after.
    for n in 0..4 {
        encoder.encode(n * FRAME as i64, &samples, &mut encoded);
    }
    encoder.finish(&mut encoded);
    let frame = encoded.into_iter().nth(2).map(|packet| packet.data);
    frame.ok_or_else(|| AudioError::Encoder {
        sample_rate: config.sample_rate,
        channels: config.channels,
        reason: "the encoder gave no frame".to_owned(),
    })
}

pub(super) fn open_decoder(config: &AudioConfig) -> Result<decoder::Audio, AudioError> {
    av::init();
    av::last_error();
    let open = || {
        let found = decoder::find(codec::Id::AAC).ok_or(AvError::DecoderNotFound)?;
        let mut context = codec::Context::new_with_codec(found);
        av::set_extradata(&mut context, &config.asc)?;
        context.decoder().audio()
    };
    open()
        .map_err(|error| AudioError::Decoder(av::last_error().unwrap_or_else(|| error.to_string())))
}

struct Encoder {
    opened: encoder::audio::Encoder,
    config: AudioConfig,
    frame: frame::Audio,
    /// The first packet that is given has this time: what comes before it only warms the encoder up.
    from: Option<i64>,
}

impl Encoder {
    fn open(sample_rate: u32, channels: u32, bitrate_bps: u32) -> Result<Self, AudioError> {
        av::init();
        av::last_error();
        let failed = |reason: String| AudioError::Encoder {
            sample_rate,
            channels,
            reason,
        };
        if !(1..=8).contains(&channels) || !(7_350..=96_000).contains(&sample_rate) {
            return Err(failed("it is out of AAC's range".to_owned()));
        }
        let layout = ChannelLayout::default(channels as i32);
        let open = || {
            let found = encoder::find_by_name("aac").ok_or(AvError::EncoderNotFound)?;
            let mut context = codec::Context::new_with_codec(found);
            context.set_flags(codec::Flags::GLOBAL_HEADER);
            context.set_time_base(Rational(1, sample_rate as i32));
            let mut audio = context.encoder().audio()?;
            audio.set_rate(sample_rate as i32);
            audio.set_format(FLOAT_PLANES);
            audio.set_channel_layout(layout);
            audio.set_bit_rate(bitrate_bps as usize);
            let mut options = Dictionary::new();
            options.set("threads", "1");
            audio.open_as_with(found, options)
        };
        let opened = open()
            .map_err(|error| failed(av::last_error().unwrap_or_else(|| error.to_string())))?;
        let asc = Bytes::copy_from_slice(av::extradata(&opened));
        if asc.is_empty() || opened.frame_size() != AAC_FRAME_SAMPLES {
            return Err(failed("the encoder gave no configuration".to_owned()));
        }
        let mut frame = frame::Audio::new(FLOAT_PLANES, FRAME, layout);
        frame.set_rate(sample_rate);
        Ok(Self {
            opened,
            config: AudioConfig {
                asc,
                sample_rate,
                channels,
                is_lc: true,
            },
            frame,
            from: None,
        })
    }

    fn encode(&mut self, pts: i64, planes: &[Vec<f32>], encoded: &mut Vec<AudioPacket>) {
        self.from.get_or_insert(pts);
        // The encoder may still read the frame before.
        if av::make_audio_writable(&mut self.frame).is_err() {
            return;
        }
        for (channel, samples) in planes.iter().enumerate().take(self.frame.planes()) {
            self.frame
                .plane_mut::<f32>(channel)
                .copy_from_slice(samples);
        }
        self.frame.set_pts(Some(pts));
        if let Err(error) = self.opened.send_frame(&self.frame) {
            tracing::warn!(%error, "an audio frame was not encoded");
        }
        self.receive(encoded);
    }

    fn receive(&mut self, encoded: &mut Vec<AudioPacket>) {
        let mut packet = packet::Packet::empty();
        while self.opened.receive_packet(&mut packet).is_ok() {
            let pts = packet.pts().unwrap_or_default();
            if self.from.is_some_and(|from| pts >= from) {
                encoded.push(AudioPacket {
                    pts,
                    data: Bytes::copy_from_slice(packet.data().unwrap_or_default()),
                });
            }
        }
    }

    fn finish(&mut self, encoded: &mut Vec<AudioPacket>) {
        if self.opened.send_eof().is_ok() {
            self.receive(encoded);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A tone as AAC-LC, times in its own rate from 0.
    fn tone(sample_rate: u32, channels: u32, frames: usize) -> (AudioConfig, Vec<AudioPacket>) {
        let mut encoder = Encoder::open(sample_rate, channels, 96_000).unwrap();
        let mut packets = Vec::new();
        // What the encoder holds back for its own warming up is asked for on top.
        for n in 0..frames + 2 {
            let wave = |sample: usize| {
                let seconds = (n * FRAME + sample) as f32 / sample_rate as f32;
                (seconds * 440.0 * std::f32::consts::TAU).sin() * 0.5
            };
            let samples: Vec<f32> = (0..FRAME).map(wave).collect();
            let planes = vec![samples; channels as usize];
            encoder.encode((n * FRAME) as i64, &planes, &mut packets);
        }
        assert_eq!(packets.len(), frames);
        (encoder.config.clone(), packets)
    }

    /// Loudness of each decoded frame.
    fn loudness(config: &AudioConfig, packets: &[Bytes]) -> Vec<f32> {
        let mut decoder = open_decoder(config).unwrap();
        let mut loud = Vec::new();
        for data in packets {
            decoder.send_packet(&packet::Packet::copy(data)).unwrap();
            let mut frame = frame::Audio::empty();
            while decoder.receive_frame(&mut frame).is_ok() {
                assert_eq!(frame.rate(), config.sample_rate);
                assert_eq!(u32::from(frame.channels()), config.channels);
                assert_eq!(frame.samples(), FRAME);
                let samples = frame.plane::<f32>(0);
                let power: f32 = samples.iter().map(|sample| sample * sample).sum();
                loud.push((power / samples.len() as f32).sqrt());
            }
        }
        loud
    }

    fn at_rate(packets: &[AudioPacket], from: u32, to: u32, start: i64) -> Vec<AudioPacket> {
        packets
            .iter()
            .map(|packet| AudioPacket {
                pts: start + crate::media::rescale(packet.pts, from, to),
                data: packet.data.clone(),
            })
            .collect()
    }

    fn transcode(transcoder: AudioTranscoder, packets: &[AudioPacket]) -> Vec<AudioPacket> {
        let mut transcoder = transcoder;
        let mut out: Vec<_> = packets
            .iter()
            .flat_map(|packet| transcoder.push(packet))
            .collect();
        out.extend(transcoder.finish());
        out
    }

    fn assert_contiguous(packets: &[AudioPacket]) {
        for pair in packets.windows(2) {
            assert_eq!(pair[1].pts - pair[0].pts, FRAME as i64);
        }
    }

    #[test]
    fn another_rate_and_other_channels_become_the_track_s_own() {
        let (input, packets) = tone(22_050, 1, 50);
        let transcoder = AudioTranscoder::new(&input, 48_000, 2, 128_000, 480).unwrap();
        let config = transcoder.config().clone();
        assert!(config.is_lc);
        let out = transcode(transcoder, &at_rate(&packets, 22_050, 48_000, 100_000));
        assert_contiguous(&out);
        // On the track's grid, and no more than a frame before the sound.
        assert_eq!((out[0].pts - 480).rem_euclid(1_024), 0);
        assert!((0..1_024).contains(&(100_000 - out[0].pts)));
        let length = (out.len() * FRAME) as f64 / 48_000.0;
        assert!((length - packets.len() as f64 * 1_024.0 / 22_050.0).abs() < 0.06);
        let data: Vec<Bytes> = out.iter().map(|packet| packet.data.clone()).collect();
        let loud = loudness(&config, &data);
        let middle = &loud[10..loud.len() - 5];
        assert!(
            middle.iter().all(|loud| (0.3..0.4).contains(loud)),
            "{middle:?}"
        );
    }

    #[test]
    fn he_aac_is_decoded_at_the_rate_that_is_played_by_each_signalling() {
        // FFmpeg has no HE-AAC encoder, so the cores are of AAC-LC and carry no high band: lawful frames, which a decoder that was told of SBR
        // doubles to 48 kHz, and of parametric stereo to two channels.
        for (asc, core_channels) in [
            // Before the core: HE-AAC, and its version 2.
            (&[0x2b, 0x11, 0x88, 0x00][..], 2),
            (&[0xeb, 0x09, 0x88, 0x00], 1),
            // Behind it.
            (&[0x13, 0x10, 0x56, 0xe5, 0x98], 2),
            (&[0x13, 0x08, 0x56, 0xe5, 0x9d, 0x48, 0x80], 1),
        ] {
            let input = crate::codec::aac::audio_config(asc).unwrap();
            assert_eq!((input.sample_rate, input.channels), (48_000, 2));
            assert!(!input.is_lc);
            let (_, packets) = tone(24_000, core_channels, 50);
            let transcoder = AudioTranscoder::new(&input, 48_000, 2, 128_000, 0).unwrap();
            let config = transcoder.config().clone();
            assert!(config.is_lc, "{asc:02x?}");
            let out = transcode(transcoder, &at_rate(&packets, 24_000, 48_000, 0));
            assert_contiguous(&out);
            // Each frame lasts twice as long as one of AAC-LC at 48 kHz.
            let length = (out.len() * FRAME) as f64 / 48_000.0;
            assert!((length - 50.0 * 2_048.0 / 48_000.0).abs() < 0.06);
            let data: Vec<Bytes> = out.iter().map(|packet| packet.data.clone()).collect();
            let loud = loudness(&config, &data);
            let middle = &loud[10..loud.len() - 8];
            assert!(
                middle.iter().all(|loud| (0.3..0.4).contains(loud)),
                "{asc:02x?}: {middle:?}"
            );
        }
    }

    #[test]
    fn a_short_gap_is_filled_and_a_long_one_keeps_the_grid() {
        let (input, packets) = tone(48_000, 2, 60);
        let moved = |n: usize, by: i64| AudioPacket {
            pts: packets[n].pts + by,
            ..packets[n].clone()
        };
        // Ten frames are missing, then five seconds.
        let sent: Vec<AudioPacket> = (0..20)
            .chain(30..40)
            .map(|n| moved(n, 0))
            .chain((40..59).map(|n| moved(n, 240_100)))
            .collect();
        let transcoder = AudioTranscoder::new(&input, 48_000, 2, 128_000, 0).unwrap();
        let config = transcoder.config().clone();
        let out = transcode(transcoder, &sent);
        assert!(out.iter().all(|packet| packet.pts % 1_024 == 0));
        let first: Vec<AudioPacket> = out
            .iter()
            .take_while(|packet| packet.pts < 100_000)
            .cloned()
            .collect();
        assert_contiguous(&first);
        assert_eq!(first.len(), 40);
        assert_contiguous(&out[40..]);
        assert_eq!(out[40].pts, (40 * 1_024 + 240_100) / 1_024 * 1_024);
        let data: Vec<Bytes> = out.iter().map(|packet| packet.data.clone()).collect();
        let loud = loudness(&config, &data);
        assert!(loud[24] < 0.01 && loud[10] > 0.3 && loud[35] > 0.3);
    }

    #[test]
    fn jitter_of_a_millisecond_adds_and_drops_nothing() {
        let (input, packets) = tone(44_100, 2, 200);
        let jittered: Vec<AudioPacket> = packets
            .iter()
            .map(|packet| {
                let ms = crate::media::rescale(packet.pts, 44_100, 1_000);
                AudioPacket {
                    pts: crate::media::rescale(ms, 1_000, 44_100),
                    data: packet.data.clone(),
                }
            })
            .collect();
        let transcoder = AudioTranscoder::new(&input, 44_100, 2, 128_000, 0).unwrap();
        let out = transcode(transcoder, &jittered);
        assert_contiguous(&out);
        assert_eq!(out.len(), packets.len());
    }

    #[test]
    fn damage_is_counted_and_survived() {
        let (input, mut packets) = tone(48_000, 2, 40);
        packets[10].data = Bytes::from_static(&[0xff; 40]);
        packets[11].data = Bytes::new();
        packets[12].data = Bytes::from_static(&[0x21, 0, 3]);
        let mut transcoder = AudioTranscoder::new(&input, 48_000, 2, 128_000, 0).unwrap();
        let count: usize = packets
            .iter()
            .map(|packet| transcoder.push(packet).len())
            .sum();
        assert!(transcoder.decode_errors() > 0);
        assert!(count > 30);
    }

    #[test]
    fn silence_decodes_to_silence_in_every_common_format() {
        for (rate, channels) in [
            (48_000, 2),
            (44_100, 2),
            (44_100, 1),
            (22_050, 1),
            (48_000, 6),
        ] {
            let config = audio_config(rate, channels).unwrap();
            let frame = silence(&config).unwrap();
            let loud = loudness(&config, &vec![frame; 5]);
            assert_eq!(loud.len(), 5);
            assert!(loud.iter().all(|loud| *loud < 0.000_1), "{loud:?}");
        }
    }

    #[test]
    fn what_aac_cannot_do_is_refused_in_words() {
        for (rate, channels) in [(0, 2), (48_000, 0), (48_001, 2), (48_000, 9)] {
            let error = audio_config(rate, channels).unwrap_err().to_string();
            assert!(error.starts_with("AAC-LC of "), "{error}");
        }
        let broken = AudioConfig {
            asc: Bytes::from_static(&[0xff, 0xff, 0xff]),
            sample_rate: 48_000,
            channels: 2,
            is_lc: false,
        };
        assert!(AudioTranscoder::new(&broken, 48_000, 2, 128_000, 0).is_err());
    }
}
