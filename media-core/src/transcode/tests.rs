//! The transcoder against real H.264, made and checked by the `ffmpeg` and `ffprobe` commands.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeMap, process::Command};

use bytes::Bytes;
use tokio::sync::mpsc::Receiver;

use super::*;

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
        Self::read(&path).unwrap()
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

#[test]
fn sixty_frames_become_thirty_and_no_boundary_frame_is_lost() {
    // An odd number of frames a GOP: every other boundary falls on a frame that an even grid would drop.
    let clip = Clip::make(
        "640x480",
        "60",
        3,
        &["-g", "45", "-sc_threshold", "0", "-bf", "2"],
    );
    let (heard, boundaries) = transcode(&clip, &Config::default());
    assert_eq!(heard.names(), ["v-480p30", "v-360p30"]);
    assert_eq!(boundaries.len(), 4);
    heard.assert_segments(&boundaries);
    let source = clip.pts_in_order();
    // Each GOP keeps its first frame and every second one after it: 23 of 45.
    let expected: Vec<i64> = source
        .chunks(45)
        .flat_map(|gop| gop.iter().step_by(2).copied())
        .collect();
    for name in heard.names() {
        assert_eq!(heard.pts(name), expected);
    }
    assert_eq!(heard.renditions[0].frame_rate.fps(), 30.0);
    assert!(!heard.probe("v-480p30").types.contains(&"B".to_owned()));
}

#[test]
fn a_rung_that_says_sixty_keeps_sixty() {
    let clip = Clip::make("640x480", "60", 1, &["-g", "60", "-bf", "0"]);
    let mut config = Config::default();
    config.ladder.truncate(1);
    config.ladder[0].height = 240;
    config.ladder[0].fps = 60;
    let (heard, _) = transcode(&clip, &config);
    assert_eq!(heard.names(), ["v-240p60"]);
    assert_eq!(heard.pts("v-240p60"), clip.pts_in_order());
}

#[test]
fn a_forced_boundary_is_the_same_frame_in_every_rung_and_is_told_before_it() {
    // One GOP with B-frames, as OBS sends to a custom server: 250 frames and no other key frame.
    let clip = Clip::make(
        "640x480",
        "60",
        4,
        &["-g", "250", "-sc_threshold", "0", "-bf", "3"],
    );
    let (transcoder, events) = clip.start(&Config::default());
    let listening = listen(events);
    let start = clip.pts_in_order()[0];
    transcoder.force_boundary(8, start + 90_000, false);
    transcoder.force_boundary(9, start + 225_001, true);
    let first = clip.push(&transcoder, 7);
    transcoder.finish();
    let heard = listening.join().unwrap();
    assert_eq!(first.len(), 1);

    let after = |pts: i64| clip.pts_in_order().into_iter().find(|frame| *frame > pts);
    let forced = [
        Boundary {
            msn: 8,
            pts: after(start + 90_000).unwrap(),
            discontinuity: false,
        },
        Boundary {
            msn: 9,
            pts: after(start + 225_001).unwrap(),
            discontinuity: true,
        },
    ];
    let resolved = forced.map(Event::Resolved);
    assert_eq!(heard.others[..2], resolved);
    heard.assert_segments(&[first[0], forced[0], forced[1]]);
    assert_eq!(
        heard
            .probe("v-360p30")
            .types
            .iter()
            .filter(|kind| *kind == "I")
            .count(),
        3
    );
}

#[test]
fn an_interlaced_source_is_noticed() {
    let fields = ["-flags", "+ilme+ildct", "-x264-params", "tff=1"];
    for (options, interlaced) in [(&fields[..], true), (&[], false)] {
        let clip = Clip::make("320x240", "25", 1, options);
        let (transcoder, events) = clip.start(&Config::default());
        let listening = listen(events);
        clip.push(&transcoder, 0);
        let shared = std::sync::Arc::clone(&transcoder.shared);
        transcoder.finish();
        listening.join().unwrap();
        assert_eq!(shared.stats().interlaced, interlaced, "{options:?}");
    }
}

#[test]
fn the_source_is_encoded_from_a_forced_boundary_on() {
    let clip = Clip::make(
        "640x480",
        "30",
        3,
        &["-g", "250", "-sc_threshold", "0", "-bf", "2"],
    );
    let (transcoder, mut events) = clip.start(&Config::default());
    let start = clip.pts_in_order()[0];
    assert!(transcoder.affords_source());
    transcoder.add_source(1);
    transcoder.force_boundary(1, start + 90_000, true);
    clip.push(&transcoder, 0);
    transcoder.finish();
    let mut order = Vec::new();
    let mut heard = Heard::default();
    while let Some(event) = events.blocking_recv() {
        match &event {
            Event::Added(_) => order.push("added"),
            Event::Resolved(_) => order.push("resolved"),
            Event::Encoded(encoded) if encoded.rung.as_str() == "v-source" => order.push("packet"),
            _ => {}
        }
        heard.add(event);
    }
    assert_eq!(order[..3], ["resolved", "added", "packet"]);
    assert_eq!(heard.names(), ["v-360p30", "v-source"]);
    let first = heard.boundaries("v-source")[0];
    assert_eq!((first.msn, first.discontinuity), (1, true));
    let later: Vec<i64> = clip
        .pts_in_order()
        .into_iter()
        .filter(|pts| *pts >= first.pts)
        .collect();
    assert_eq!(heard.pts("v-source"), later);
    let probed = heard.probe("v-source");
    assert_eq!(probed.types.len(), later.len());
    assert_eq!(
        (&probed.stream["width"], &probed.stream["height"]),
        (&640.into(), &480.into())
    );
}

#[test]
fn a_variable_rate_source_keeps_its_times() {
    let pauses = "select='lt(mod(n,20),7)+eq(mod(n,20),15)'";
    let clip = Clip::make(
        "640x480",
        "30",
        4,
        &["-vf", pauses, "-vsync", "vfr", "-g", "20", "-bf", "2"],
    );
    let (heard, boundaries) = transcode(&clip, &Config::default());
    heard.assert_segments(&boundaries);
    assert_eq!(heard.pts("v-360p30"), clip.pts_in_order());
}

#[test]
fn damaged_packets_are_concealed_counted_and_cost_no_segment() {
    let clip = Clip::make(
        "640x480",
        "30",
        4,
        &["-g", "30", "-sc_threshold", "0", "-bf", "2"],
    );
    let mut damaged = Clip {
        config: clip.config.clone(),
        packets: clip.packets.clone(),
    };
    for (n, packet) in damaged.packets.iter_mut().enumerate() {
        let mut data = packet.data.to_vec();
        match n % 11 {
            // Bits inside slices, lengths that point nowhere, half a packet, none of it.
            3 => data
                .iter_mut()
                .skip(40)
                .step_by(29)
                .for_each(|byte| *byte ^= 0x5a),
            5 => data[..4].copy_from_slice(&[0xff, 0xff, 0xff, 0xf0]),
            7 => data.truncate(data.len() / 2),
            9 => data.clear(),
            _ => {}
        }
        packet.data = data.into();
    }
    // A segment's first frame as well: it begins where pictures come again, at the next key frame, and the next segment one frame later.
    let idrs = (0..damaged.packets.len()).filter(|n| damaged.packets[*n].idr);
    let idr = idrs.rev().nth(1).unwrap();
    damaged.packets[idr].data = Bytes::from_static(&[0, 0, 0, 2, 0x65, 0x88]);

    let (transcoder, events) = damaged.start(&Config::default());
    let listening = listen(events);
    let boundaries = damaged.push(&transcoder, 0);
    transcoder.drain();
    transcoder.wait_for_room();
    let shared = std::sync::Arc::clone(&transcoder.shared);
    transcoder.finish();
    let heard = listening.join().unwrap();
    assert!(shared.stats().decode_errors > 20);
    let msns = |boundaries: &[Boundary]| boundaries.iter().map(|b| b.msn).collect::<Vec<_>>();
    let found = heard.boundaries("v-360p30");
    assert_eq!(msns(&found), msns(&boundaries));
    for encoded in heard.rung("v-360p30") {
        assert_eq!(encoded.packet.idr, encoded.boundary.is_some());
    }
    // What is encoded is whole again, whatever the source was.
    let probed = heard.probe("v-360p30");
    assert_eq!(probed.types.len(), heard.rung("v-360p30").len());
    assert!(probed.types.len() > 60);
}

#[test]
fn a_consumer_that_cannot_keep_up_costs_the_costliest_rung_and_no_other() {
    let clip = Clip::make("640x480", "30", 8, KEY_FRAME_A_SECOND);
    let config = Config {
        ladder: vec![
            Rung {
                name: None,
                height: 240,
                fps: 30,
                bitrate_bps: 500_000,
            },
            Rung {
                name: None,
                height: 120,
                fps: 30,
                bitrate_bps: 200_000,
            },
        ],
        shed_after_ms: 200,
        ..Config::default()
    };
    let (transcoder, mut events) =
        Transcoder::start_bounded(&config, Kind::Libx264, clip.source(), 8).unwrap();
    // Ten events a second, of the sixty that two rungs make, until the transcoder complains; then as many as there are.
    let (complaints, complained) = std::sync::mpsc::channel();
    let listening = std::thread::spawn(move || {
        let mut heard = Heard::default();
        let mut slow = true;
        while let Some(event) = events.blocking_recv() {
            if let Event::Overloaded { rung, .. } = &event {
                complaints.send(rung.clone()).unwrap();
                slow = false;
            }
            heard.add(event);
            if slow {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        heard
    });
    // A live source: a packet each 33 ms whatever comes of it. Pushing never waits.
    let started = std::time::Instant::now();
    let mut boundaries: Vec<Boundary> = Vec::new();
    let mut shed = Vec::new();
    for (n, packet) in clip.packets.iter().enumerate() {
        let due = Duration::from_millis(n as u64 * 33);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
        if packet.idr {
            let msn = boundaries.len() as u64;
            let rungs = transcoder.sheds_at(msn);
            boundaries.push(Boundary {
                msn,
                pts: packet.pts,
                discontinuity: !rungs.is_empty(),
            });
            shed.extend(rungs.into_iter().map(|rung| (msn, rung.to_string())));
        }
        let before = std::time::Instant::now();
        transcoder.push(
            packet.clone(),
            boundaries.last().copied().filter(|_| packet.idr),
        );
        assert!(
            before.elapsed() < Duration::from_millis(20),
            "the ingest had to wait"
        );
    }
    transcoder.finish();
    let heard = listening.join().unwrap();
    assert_eq!(complained.try_iter().next().unwrap().as_str(), "v-240p30");
    assert_eq!(shed.len(), 1, "{shed:?}");
    let (from, rung) = &shed[0];
    assert_eq!(rung, "v-240p30");
    // Segments are whole: the shed rung ends where the next one begins, and the other goes on.
    let from = *from as usize;
    assert_eq!(heard.boundaries("v-240p30"), boundaries[..from]);
    assert!(
        heard
            .pts("v-240p30")
            .iter()
            .all(|pts| *pts < boundaries[from].pts)
    );
    assert_eq!(heard.boundaries("v-120p30"), boundaries);
    assert_eq!(heard.pts("v-120p30"), clip.pts_in_order());
}

#[test]
fn another_size_in_mid_stream_changes_no_rung_s_size() {
    let wide = Clip::make("1280x720", "30", 1, KEY_FRAME_A_SECOND);
    let narrow = Clip::make("480x640", "30", 1, KEY_FRAME_A_SECOND);
    let (transcoder, events) = wide.start(&Config::default());
    let listening = listen(events);
    let mut boundaries = wide.push(&transcoder, 0);
    // The publisher came back with another picture.
    transcoder.drain();
    transcoder.set_config(narrow.config.clone());
    let moved = Clip {
        config: narrow.config.clone(),
        packets: narrow
            .packets
            .iter()
            .map(|packet| VideoPacket {
                pts: packet.pts + 450_000,
                dts: packet.dts + 450_000,
                ..packet.clone()
            })
            .collect(),
    };
    boundaries.extend(moved.push(&transcoder, 1));
    transcoder.finish();
    let heard = listening.join().unwrap();
    heard.assert_segments(&boundaries);
    for (name, width, height) in [("v-480p30", 854, 480), ("v-360p30", 640, 360)] {
        let probed = heard.probe(name);
        assert_eq!(probed.types.len(), 60);
        assert_eq!(
            (&probed.stream["width"], &probed.stream["height"]),
            (&width.into(), &height.into())
        );
    }
    let drained = heard
        .others
        .iter()
        .filter(|event| **event == Event::Drained);
    assert_eq!(drained.count(), 2);
}

#[test]
fn ten_bits_and_full_chroma_become_eight_bits_and_colour_is_carried() {
    let clip = Clip::make(
        "640x480",
        "30",
        1,
        &[
            "-vf",
            "format=yuv422p10le,setsar=4/3",
            "-colorspace",
            "bt709",
            "-color_primaries",
            "bt709",
            "-color_trc",
            "bt709",
            "-color_range",
            "pc",
            "-g",
            "30",
            "-bf",
            "0",
        ],
    );
    let (heard, _) = transcode(&clip, &Config::default());
    let stream = heard.probe("v-360p30").stream;
    assert_eq!(stream["pix_fmt"], "yuvj420p");
    assert_eq!(stream["color_range"], "pc");
    assert_eq!(stream["color_space"], "bt709");
    assert_eq!(stream["color_transfer"], "bt709");
    assert_eq!(stream["sample_aspect_ratio"], "4:3");
}

#[test]
fn a_source_below_every_rung_is_decoded_for_its_boundaries_alone() {
    let clip = Clip::make("320x240", "30", 2, &["-g", "250", "-bf", "0"]);
    let (transcoder, events) = clip.start(&Config::default());
    let listening = listen(events);
    let start = clip.pts_in_order()[0];
    transcoder.add_source(1);
    transcoder.force_boundary(1, start + 45_000, true);
    clip.push(&transcoder, 0);
    transcoder.finish();
    let heard = listening.join().unwrap();
    assert_eq!(heard.names(), ["v-source"]);
    assert_eq!(heard.boundaries("v-source")[0].pts, start + 48_000);
}

#[test]
fn parameter_sets_that_are_none_are_refused_or_waited_out() {
    let clip = Clip::make("640x480", "30", 1, KEY_FRAME_A_SECOND);
    let broken = VideoConfig {
        avcc: Bytes::from_static(&[1, 2, 3]),
    };
    let (transcoder, events) = clip.start(&Config::default());
    let listening = listen(events);
    transcoder.set_config(broken);
    transcoder.set_config(clip.config.clone());
    clip.push(&transcoder, 0);
    transcoder.finish();
    assert_eq!(
        listening.join().unwrap().pts("v-360p30"),
        clip.pts_in_order()
    );
}
