//! The transcoder against real H.264, made and checked by the `ffmpeg` and `ffprobe` commands.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeMap, path::Path, process::Command};

use bytes::Bytes;
use ffmpeg_next::{codec, format, media};
use tokio::sync::mpsc::Receiver;

use super::*;
use crate::media::rescale;

/// What a publisher would send.
struct Clip {
    config: VideoConfig,
    packets: Vec<VideoPacket>,
}

impl Clip {
    /// Encodes a moving test picture with these options of `ffmpeg`'s after its input.
    fn make(size: &str, rate: &str, seconds: u32, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("source.mp4");
        let input = format!("testsrc2=size={size}:rate={rate}:duration={seconds}");
        let status = Command::new("ffmpeg")
            .args(["-v", "error", "-f", "lavfi", "-i", &input])
            .args(["-c:v", "libx264", "-preset", "ultrafast"])
            .args(options)
            .args(["-video_track_timescale", "90000"])
            .arg(&path)
            .status()
            .unwrap();
        assert!(status.success());
        Self::read(&path)
    }

    fn read(path: &Path) -> Self {
        let mut file = format::input(path).unwrap();
        let stream = file.streams().best(media::Type::Video).unwrap();
        let index = stream.index();
        let base = stream.time_base();
        let context = codec::Context::from_parameters(stream.parameters()).unwrap();
        let avcc = Bytes::copy_from_slice(av::extradata(&context));
        assert_eq!(base.numerator(), 1);
        let ticks = |ticks: i64| rescale(ticks, base.denominator() as u32, 90_000);
        let mut packets = Vec::new();
        for (stream, packet) in file.packets() {
            if stream.index() != index {
                continue;
            }
            packets.push(VideoPacket {
                pts: ticks(packet.pts().unwrap()),
                dts: ticks(packet.dts().unwrap()),
                idr: packet.is_key(),
                data: Bytes::copy_from_slice(packet.data().unwrap()),
            });
        }
        assert!(!packets.is_empty());
        Self {
            config: VideoConfig { avcc },
            packets,
        }
    }

    fn source(&self) -> Source {
        Source {
            config: self.config.clone(),
            frame_rate: None,
        }
    }

    fn pts_in_order(&self) -> Vec<i64> {
        let mut pts: Vec<i64> = self.packets.iter().map(|packet| packet.pts).collect();
        pts.sort_unstable();
        pts
    }

    fn start(&self, config: &Config) -> (Transcoder, Receiver<Event>) {
        Transcoder::start(config, Kind::Libx264, self.source()).unwrap()
    }

    /// Pushes all of it, with a boundary at each IDR from `msn` on, at a pace that the machine keeps.
    fn push(&self, transcoder: &Transcoder, msn: u64) -> Vec<Boundary> {
        let mut boundaries = Vec::new();
        for packet in &self.packets {
            let boundary = packet.idr.then(|| Boundary {
                msn: msn + boundaries.len() as u64,
                pts: packet.pts,
                discontinuity: false,
            });
            boundaries.extend(boundary);
            transcoder.wait_for_room();
            transcoder.push(packet.clone(), boundary);
        }
        boundaries
    }
}

/// What came out.
#[derive(Default)]
struct Heard {
    renditions: Vec<Rendition>,
    packets: BTreeMap<String, Vec<Encoded>>,
    ended: std::collections::BTreeSet<String>,
    others: Vec<Event>,
}

impl Heard {
    fn add(&mut self, event: Event) {
        match event {
            Event::Opened(renditions) => self.renditions.extend(renditions),
            Event::Added(rendition) => self.renditions.push(rendition),
            Event::Encoded(encoded) => {
                let of_rung = self.packets.entry(encoded.rung.to_string()).or_default();
                of_rung.push(encoded);
            }
            // Each rung ends with its last packet.
            Event::Ended { rung } => assert!(self.ended.insert(rung.to_string())),
            other => self.others.push(other),
        }
    }

    fn names(&self) -> Vec<&str> {
        let names = self.renditions.iter();
        names.map(|rendition| rendition.name.as_str()).collect()
    }

    fn rung(&self, name: &str) -> &[Encoded] {
        self.packets.get(name).unwrap()
    }

    fn pts(&self, name: &str) -> Vec<i64> {
        self.rung(name)
            .iter()
            .map(|encoded| encoded.packet.pts)
            .collect()
    }

    fn boundaries(&self, name: &str) -> Vec<Boundary> {
        self.rung(name)
            .iter()
            .filter_map(|encoded| encoded.boundary)
            .collect()
    }

    /// Every rung has an IDR at each of these boundaries, and nowhere else.
    fn assert_segments(&self, boundaries: &[Boundary]) {
        assert!(!self.packets.is_empty());
        for (name, packets) in &self.packets {
            assert_eq!(self.boundaries(name), boundaries, "{name}");
            for encoded in packets {
                assert_eq!(encoded.packet.idr, encoded.boundary.is_some(), "{name}");
                assert_eq!(encoded.packet.dts, encoded.packet.pts);
                if let Some(boundary) = encoded.boundary {
                    assert_eq!(encoded.packet.pts, boundary.pts, "{name}");
                }
            }
        }
    }

    /// What `ffprobe` finds when it decodes a rung: per frame `picture type, width, height`, and the stream's profile.
    fn probe(&self, name: &str) -> Probed {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rung.h264");
        let rendition = self
            .renditions
            .iter()
            .find(|rendition| rendition.name.as_str() == name)
            .unwrap();
        let mut stream = byte_stream_of_sets(&rendition.config.avcc);
        for encoded in self.rung(name) {
            let mut rest = &encoded.packet.data[..];
            while let Some((length, after)) = rest.split_first_chunk::<4>() {
                let (unit, after) = after.split_at(u32::from_be_bytes(*length) as usize);
                stream.extend([0, 0, 0, 1]);
                stream.extend(unit);
                rest = after;
            }
        }
        std::fs::write(&path, stream).unwrap();
        let output = Command::new("ffprobe")
            .args([
                "-v",
                "error",
                "-show_frames",
                "-show_streams",
                "-of",
                "json",
            ])
            .arg(&path)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{name}");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let frames = json["frames"].as_array().unwrap();
        Probed {
            types: frames
                .iter()
                .map(|frame| frame["pict_type"].as_str().unwrap().to_owned())
                .collect(),
            stream: json["streams"][0].clone(),
        }
    }
}

struct Probed {
    types: Vec<String>,
    stream: serde_json::Value,
}

fn byte_stream_of_sets(avcc: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut at = 5;
    for mask in [0x1f, 0xff] {
        let count = avcc[at] & mask;
        at += 1;
        for _ in 0..count {
            let length = usize::from(u16::from_be_bytes([avcc[at], avcc[at + 1]]));
            stream.extend([0, 0, 0, 1]);
            stream.extend(&avcc[at + 2..at + 2 + length]);
            at += 2 + length;
        }
    }
    stream
}

/// Listens on a thread of its own until the transcoder has ended.
fn listen(mut events: Receiver<Event>) -> std::thread::JoinHandle<Heard> {
    std::thread::spawn(move || {
        let mut heard = Heard::default();
        while let Some(event) = events.blocking_recv() {
            heard.add(event);
        }
        heard
    })
}

/// The whole clip through the whole ladder.
fn transcode(clip: &Clip, config: &Config) -> (Heard, Vec<Boundary>) {
    let (transcoder, events) = clip.start(config);
    let listening = listen(events);
    let boundaries = clip.push(&transcoder, 0);
    transcoder.finish();
    (listening.join().unwrap(), boundaries)
}

const KEY_FRAME_A_SECOND: &[&str] = &["-g", "30", "-sc_threshold", "0", "-bf", "0"];

#[test]
fn each_rung_of_the_default_ladder_decodes_with_an_idr_at_every_boundary() {
    let clip = Clip::make("1280x720", "30", 3, KEY_FRAME_A_SECOND);
    let (heard, boundaries) = transcode(&clip, &Config::default());
    assert_eq!(heard.names(), ["v-480p30", "v-360p30"]);
    assert_eq!(boundaries.len(), 3);
    heard.assert_segments(&boundaries);
    for (name, width, height, profile) in [
        ("v-480p30", 854, 480, "High"),
        ("v-360p30", 640, 360, "Constrained Baseline"),
    ] {
        assert_eq!(heard.pts(name), clip.pts_in_order());
        let probed = heard.probe(name);
        assert_eq!(probed.types.len(), 90);
        assert!(!probed.types.contains(&"B".to_owned()));
        assert_eq!(probed.stream["width"], width);
        assert_eq!(probed.stream["height"], height);
        assert_eq!(probed.stream["profile"], profile);
        assert_eq!(probed.stream["pix_fmt"], "yuv420p");
    }
    assert_eq!(heard.others, [Event::Drained]);
}
