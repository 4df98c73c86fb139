//! Bodies of FLV tags to packets (FLV 10.1, annex E.4), as RTMP's audio, video and data messages carry them.
//!
//! H.264 and AAC in the legacy form, and in the Enhanced RTMP v2 form (`avc1`, `mp4a`, one track). Any other codec is an error that says
//! what to set in the encoder.

use bytes::Bytes;

use super::rtmp::amf::{self, Value};
use crate::{
    codec::{aac, avc},
    media::{AudioConfig, IngestEvent, Metadata, VideoConfig},
};

/// Why a tag is not taken: a sentence for the encoder's user and the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not H.264.
    #[error(
        "the encoder sends {0} video, and this server takes H.264: choose H.264 (x264, NVENC H.264, QuickSync H.264, …) as the encoder's video codec"
    )]
    Video(String),
    /// Not AAC.
    #[error(
        "the encoder sends {0} audio, and this server takes AAC: choose AAC as the encoder's audio codec"
    )]
    Audio(String),
    /// Enhanced RTMP multitrack.
    #[error(
        "the encoder sends several tracks in one stream, and this server takes one of each: turn multitrack off in the encoder"
    )]
    Multitrack,
    /// A tag that ends within its header.
    #[error("an FLV tag is cut short")]
    Short,
    /// H.264.
    #[error("{0}")]
    Avc(#[from] avc::Error),
    /// AAC.
    #[error("{0}")]
    Aac(#[from] aac::Error),
}

/// Tags of one publisher to events.
#[derive(Debug, Default)]
pub struct Demuxer {
    parameter_sets: Option<avc::ParameterSets>,
    video: Option<VideoConfig>,
    audio: Option<AudioConfig>,
}

/// What a video tag turned out to be.
enum VideoTag {
    Config(Bytes),
    Frame(i32, Bytes),
    Nothing,
}

impl Demuxer {
    /// Takes the body of a video tag and appends what it gives: at most a configuration and a frame. Frames before a configuration
    /// is known are dropped.
    ///
    /// # Errors
    /// [`Error`] when it cannot be taken.
    pub fn video(
        &mut self,
        timestamp_ms: u32,
        body: &Bytes,
        out: &mut Vec<IngestEvent>,
    ) -> Result<(), Error> {
        match video_tag(body)? {
            VideoTag::Nothing => {}
            VideoTag::Config(record) => {
                let sets = self
                    .parameter_sets
                    .insert(avc::ParameterSets::from_record(&record)?);
                let config = sets.record().ok();
                self.video_config(config, out);
            }
            VideoTag::Frame(composition_offset_ms, data) => {
                let Some(sets) = &mut self.parameter_sets else {
                    return Ok(());
                };
                let unit = sets.access_unit(&data)?;
                if unit.new_parameter_sets {
                    let config = sets.record().ok();
                    self.video_config(config, out);
                }
                if self.video.is_some() && !unit.data.is_empty() {
                    out.push(IngestEvent::Video {
                        timestamp_ms,
                        composition_offset_ms,
                        idr: unit.idr,
                        data: unit.data,
                    });
                }
            }
        }
        Ok(())
    }

    /// Takes the body of an audio tag and appends what it gives. Frames before the configuration are dropped.
    ///
    /// # Errors
    /// [`Error`] when it cannot be taken.
    pub fn audio(
        &mut self,
        timestamp_ms: u32,
        body: &Bytes,
        out: &mut Vec<IngestEvent>,
    ) -> Result<(), Error> {
        const AAC: u8 = 10;
        const EXTENDED: u8 = 9;
        let Some(first) = body.first() else {
            // Sent by some as a sign of life.
            return Ok(());
        };
        let (is_config, data) = match first >> 4 {
            AAC => match *body.get(1).ok_or(Error::Short)? {
                0 => (true, body.slice(2..)),
                1 => (false, body.slice(2..)),
                _ => return Ok(()),
            },
            EXTENDED => match extended(body, b"mp4a", Error::Audio)? {
                (0, data) => (true, data),
                (1, data) => (false, data),
                _ => return Ok(()),
            },
            other => return Err(Error::Audio(sound_format(other).into())),
        };
        if is_config {
            let config = aac::audio_config(&data)?;
            if self.audio.as_ref() != Some(&config) {
                self.audio = Some(config.clone());
                out.push(IngestEvent::AudioConfig(config));
            }
        } else if self.audio.is_some() && !data.is_empty() {
            out.push(IngestEvent::Audio { timestamp_ms, data });
        }
        Ok(())
    }

    /// Takes the body of a script tag and appends its metadata, if that is what it is. One that cannot be read is passed over: metadata
    /// is only a claim.
    pub fn script(&mut self, body: &Bytes, out: &mut Vec<IngestEvent>) {
        let Ok(values) = amf::read_all(body) else {
            return;
        };
        let arguments = match values.first().and_then(Value::as_str) {
            Some("@setDataFrame") => &values[1..],
            _ => &values[..],
        };
        if let [name, object, ..] = arguments
            && name.as_str() == Some("onMetaData")
        {
            out.push(IngestEvent::Metadata(metadata(object)));
        }
    }

    fn video_config(&mut self, record: Option<Bytes>, out: &mut Vec<IngestEvent>) {
        let Some(avcc) = record else {
            return;
        };
        let config = VideoConfig { avcc };
        if self.video.as_ref() != Some(&config) {
            self.video = Some(config.clone());
            out.push(IngestEvent::VideoConfig(config));
        }
    }
}

fn video_tag(body: &Bytes) -> Result<VideoTag, Error> {
    const AVC: u8 = 7;
    const COMMAND_FRAME: u8 = 5;
    let Some(&first) = body.first() else {
        return Ok(VideoTag::Nothing);
    };
    if first >> 4 & 7 == COMMAND_FRAME {
        return Ok(VideoTag::Nothing);
    }
    if first & 0x80 != 0 {
        return Ok(match extended(body, b"avc1", Error::Video)? {
            (0, record) => VideoTag::Config(record),
            // Coded frames with a composition offset, and without one.
            (1, data) => {
                let offset = composition_offset(&data)?;
                VideoTag::Frame(offset, data.slice(3..))
            }
            (3, data) => VideoTag::Frame(0, data),
            _ => VideoTag::Nothing,
        });
    }
    match first & 0x0f {
        AVC => {}
        other => return Err(Error::Video(video_codec(other).into())),
    }
    Ok(match *body.get(1).ok_or(Error::Short)? {
        packet @ (0 | 1) => {
            let offset = composition_offset(&body[2..])?;
            let data = body.slice(5..);
            match packet {
                0 => VideoTag::Config(data),
                _ => VideoTag::Frame(offset, data),
            }
        }
        // End of sequence.
        _ => VideoTag::Nothing,
    })
}

/// 24 bits with sign, milliseconds.
fn composition_offset(bytes: &[u8]) -> Result<i32, Error> {
    let [a, b, c] = *bytes.first_chunk().ok_or(Error::Short)?;
    Ok(i32::from_be_bytes([a, b, c, 0]) >> 8)
}

/// The packet type and data of an Enhanced RTMP tag of the codec `four_cc`.
fn extended(
    body: &Bytes,
    four_cc: &[u8; 4],
    other: fn(String) -> Error,
) -> Result<(u8, Bytes), Error> {
    let mut packet_type = body[0] & 0x0f;
    let mut rest = body.slice(1..);
    // Audio and video agree in these packet types: multitrack 5 (audio) and 6 (video), modifier 7.
    let multitrack = if four_cc == b"mp4a" { 5 } else { 6 };
    while packet_type == 7 {
        // A modifier of at least one byte, its own type, then the packet type that it modifies.
        let size = match rest.first() {
            Some(255) => {
                let size = rest.get(1..3).ok_or(Error::Short)?;
                let size = 1 + usize::from(u16::from_be_bytes([size[0], size[1]]));
                rest = rest.slice(3..);
                size
            }
            Some(size) => {
                let size = 1 + usize::from(*size);
                rest = rest.slice(1..);
                size
            }
            None => return Err(Error::Short),
        };
        packet_type = *rest.get(size).ok_or(Error::Short)? & 0x0f;
        rest = rest.slice(size + 1..);
    }
    if packet_type == multitrack {
        return Err(Error::Multitrack);
    }
    let codec = rest.first_chunk::<4>().ok_or(Error::Short)?;
    if codec != four_cc {
        return Err(other(four_cc_name(codec)));
    }
    Ok((packet_type, rest.slice(4..)))
}

fn four_cc_name(code: &[u8; 4]) -> String {
    match code {
        b"hvc1" => "HEVC (H.265)".into(),
        b"av01" => "AV1".into(),
        b"vp09" => "VP9".into(),
        b"vp08" => "VP8".into(),
        b"vvc1" => "VVC (H.266)".into(),
        b"Opus" => "Opus".into(),
        b"fLaC" => "FLAC".into(),
        b"ac-3" => "AC-3".into(),
        b"ec-3" => "E-AC-3".into(),
        b".mp3" => "MP3".into(),
        other => other.escape_ascii().to_string(),
    }
}

fn video_codec(id: u8) -> &'static str {
    match id {
        2 => "Sorenson H.263",
        3 => "screen",
        4 | 5 => "VP6",
        6 => "screen version 2",
        12 => "HEVC (H.265)",
        13 => "AV1",
        _ => "unknown",
    }
}

fn sound_format(id: u8) -> &'static str {
    match id {
        0 | 3 => "PCM",
        1 => "ADPCM",
        2 | 14 => "MP3",
        4..=6 => "Nellymoser",
        7 | 8 => "G.711",
        11 => "Speex",
        13 => "Opus",
        _ => "unknown",
    }
}

fn metadata(object: &Value) -> Metadata {
    let number = |name| {
        let number = object.get(name).and_then(Value::as_number);
        number.filter(|number: &f64| number.is_finite() && *number > 0.0 && *number < 1e9)
    };
    let pixels = |name| number(name).map(|number| number as u32);
    // FLV has kilobits.
    let bits = |name| number(name).map(|number| (number * 1_000.0) as u64);
    let encoder = object
        .get("encoder")
        .and_then(Value::as_str)
        .map(printable)
        .filter(|text| !text.is_empty());
    Metadata {
        width: pixels("width"),
        height: pixels("height"),
        frame_rate: number("framerate"),
        video_bps: bits("videodatarate"),
        audio_bps: bits("audiodatarate"),
        encoder,
    }
}

/// Text of a peer, for people: at most 128 characters and no control characters.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const SPS: &[u8] = &[0x67, 66, 0xc0, 30, 0xe0];
    const PPS: &[u8] = &[0x68, 0xc0];

    fn record() -> Vec<u8> {
        [
            &[1, 66, 0xc0, 30, 0xff, 0xe1, 0, 5][..],
            SPS,
            &[1, 0, 2],
            PPS,
        ]
        .concat()
    }

    fn video(demuxer: &mut Demuxer, body: &[u8]) -> Result<Vec<IngestEvent>, Error> {
        let mut out = Vec::new();
        demuxer.video(7, &Bytes::copy_from_slice(body), &mut out)?;
        Ok(out)
    }

    fn audio(demuxer: &mut Demuxer, body: &[u8]) -> Result<Vec<IngestEvent>, Error> {
        let mut out = Vec::new();
        demuxer.audio(7, &Bytes::copy_from_slice(body), &mut out)?;
        Ok(out)
    }

    fn frame(composition_offset_ms: i32, idr: bool, data: &[u8]) -> IngestEvent {
        IngestEvent::Video {
            timestamp_ms: 7,
            composition_offset_ms,
            idr,
            data: Bytes::copy_from_slice(data),
        }
    }

    #[test]
    fn a_configuration_and_frames_with_signed_offsets_come_out() {
        let mut demuxer = Demuxer::default();
        let idr = [0, 0, 0, 2, 0x65, 1];
        assert_eq!(
            video(&mut demuxer, &[&[0x17, 1, 0, 0, 0][..], &idr].concat()).unwrap(),
            []
        );
        let config = [&[0x17, 0, 0, 0, 0][..], &record()].concat();
        assert!(
            matches!(&video(&mut demuxer, &config).unwrap()[..], [IngestEvent::VideoConfig(c)] if c.avcc == record())
        );
        // The same again is no news.
        assert_eq!(video(&mut demuxer, &config).unwrap(), []);
        // The frame type says inter frame, and the NAL unit says IDR.
        let body = [&[0x27, 1, 0xff, 0xff, 0xd8][..], &idr].concat();
        assert_eq!(
            video(&mut demuxer, &body).unwrap(),
            [frame(-40, true, &idr)]
        );
        assert_eq!(video(&mut demuxer, &[0x57, 0]).unwrap(), []);
        assert_eq!(video(&mut demuxer, &[0x17, 2, 0, 0, 0]).unwrap(), []);
        assert_eq!(video(&mut demuxer, &[]).unwrap(), []);
    }

    #[test]
    fn parameter_sets_in_band_make_a_configuration_ahead_of_their_frame() {
        let mut demuxer = Demuxer::default();
        let empty = [&[0x17, 0, 0, 0, 0][..], &[1, 66, 0xc0, 30, 0xff, 0xe0, 0]].concat();
        assert_eq!(video(&mut demuxer, &empty).unwrap(), []);
        let body = [
            &[0x17, 1, 0, 0, 0, 0, 0, 0, 5][..],
            SPS,
            &[0, 0, 0, 2],
            PPS,
            &[0, 0, 0, 1, 0x65],
        ]
        .concat();
        let out = video(&mut demuxer, &body).unwrap();
        assert!(
            matches!(&out[..], [IngestEvent::VideoConfig(c), frame_] if c.avcc == record() && *frame_ == frame(0, true, &[0, 0, 0, 1, 0x65]))
        );
    }

    #[test]
    fn enhanced_rtmp_is_taken_for_h264_and_aac_and_refused_in_words_for_others() {
        let mut demuxer = Demuxer::default();
        assert_eq!(
            video(&mut demuxer, &[b"\x90avc1", &record()[..]].concat())
                .unwrap()
                .len(),
            1
        );
        let idr = [0, 0, 0, 1, 0x65];
        let with_offset = [&b"\x91avc1\x00\x00\x28"[..], &idr].concat();
        assert_eq!(
            video(&mut demuxer, &with_offset).unwrap(),
            [frame(40, true, &idr)]
        );
        let without = [&b"\x93avc1"[..], &idr].concat();
        assert_eq!(
            video(&mut demuxer, &without).unwrap(),
            [frame(0, true, &idr)]
        );
        // A nanosecond offset in front.
        let modified = [&b"\x97\x02abc\x03avc1"[..], &idr].concat();
        assert_eq!(
            video(&mut demuxer, &modified).unwrap(),
            [frame(0, true, &idr)]
        );
        let error = video(&mut demuxer, b"\x90hvc1").unwrap_err().to_string();
        assert!(error.contains("HEVC") && error.contains("H.264"), "{error}");
        assert_eq!(video(&mut demuxer, b"\x96\x01avc1"), Err(Error::Multitrack));
        assert!(audio(&mut demuxer, b"\x90mp4a\x11\x90").unwrap().len() == 1);
        assert!(audio(&mut demuxer, b"\x91mp4aframe").unwrap().len() == 1);
        assert_eq!(
            audio(&mut demuxer, b"\x90Opus"),
            Err(Error::Audio("Opus".into()))
        );
        assert_eq!(
            audio(&mut demuxer, &[0x2f, 0]),
            Err(Error::Audio("MP3".into()))
        );
        assert_eq!(
            video(&mut demuxer, &[0x12, 0]),
            Err(Error::Video("Sorenson H.263".into()))
        );
    }

    #[test]
    fn audio_waits_for_its_configuration() {
        let mut demuxer = Demuxer::default();
        assert_eq!(audio(&mut demuxer, &[0xaf, 1, 1, 2]).unwrap(), []);
        assert!(
            matches!(&audio(&mut demuxer, &[0xaf, 0, 0x11, 0x90]).unwrap()[..], [IngestEvent::AudioConfig(c)] if c.sample_rate == 48_000)
        );
        assert_eq!(audio(&mut demuxer, &[0xaf, 0, 0x11, 0x90]).unwrap(), []);
        let data = Bytes::from_static(&[1, 2]);
        assert_eq!(
            audio(&mut demuxer, &[0xaf, 1, 1, 2]).unwrap(),
            [IngestEvent::Audio {
                timestamp_ms: 7,
                data
            }]
        );
        assert_eq!(audio(&mut demuxer, &[0xaf]), Err(Error::Short));
    }

    #[test]
    fn metadata_is_read_with_and_without_set_data_frame_and_its_claims_are_bounded() {
        let object = Value::Object(vec![
            ("width".into(), 1280.0.into()),
            ("height".into(), f64::NAN.into()),
            ("framerate".into(), 29.97.into()),
            ("videodatarate".into(), 2_500.0.into()),
            ("audiodatarate".into(), (-1.0).into()),
            (
                "encoder".into(),
                Value::String(format!("obs\n{}", "x".repeat(300))),
            ),
        ]);
        for names in [&["@setDataFrame", "onMetaData"][..], &["onMetaData"]] {
            let mut body = Vec::new();
            for name in names {
                amf::write(&mut body, &(*name).into());
            }
            amf::write(&mut body, &object);
            let mut out = Vec::new();
            Demuxer::default().script(&body.into(), &mut out);
            let expected = Metadata {
                width: Some(1280),
                frame_rate: Some(29.97),
                video_bps: Some(2_500_000),
                encoder: Some(format!("obs{}", "x".repeat(125))),
                ..Metadata::default()
            };
            assert_eq!(out, [IngestEvent::Metadata(expected)]);
        }
    }

    proptest! {
        #[test]
        fn any_bodies_are_taken_or_refused(
            bodies in proptest::collection::vec((0u8..3, proptest::collection::vec(any::<u8>(), 0..60)), 0..20),
        ) {
            let mut demuxer = Demuxer::default();
            let mut out = Vec::new();
            let _ = demuxer.video(0, &[&[0x17, 0, 0, 0, 0][..], &record()].concat().into(), &mut out);
            for (kind, body) in bodies {
                let body = Bytes::from(body);
                match kind {
                    0 => drop(demuxer.video(0, &body, &mut out)),
                    1 => drop(demuxer.audio(0, &body, &mut out)),
                    _ => demuxer.script(&body, &mut out),
                }
            }
        }
    }
}
