//! The whole way from an encoder's FLV to CMAF files, read back by FFmpeg.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bytes::Bytes;
use mp4_atom::{Atom, Decode};
use tempfile::TempDir;

use super::*;
use crate::{
    codec::{nal, sps},
    media::{Boundary, FrameRate, IngestEvent, Metadata, Received, VideoConfig, VideoPacket},
    repair::{Opened, Options, Repair, Repaired},
};

fn ffmpeg(arguments: &[&str]) -> String {
    let output = Command::new("ffmpeg")
        .args(["-hide_banner", "-nostdin", "-v", "error", "-y"])
        .args(arguments)
        .output()
        .expect("ffmpeg is installed for the tests");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && errors.is_empty(),
        "ffmpeg {arguments:?}: {errors}"
    );
    String::from_utf8(output.stdout).unwrap()
}

fn ffprobe(arguments: &[&str]) -> String {
    let output = Command::new("ffprobe")
        .args(["-hide_banner", "-v", "error", "-of", "csv=p=0"])
        .args(arguments)
        .output()
        .expect("ffprobe is installed for the tests");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && errors.is_empty(),
        "ffprobe {arguments:?}: {errors}"
    );
    String::from_utf8(output.stdout).unwrap()
}

fn is_idr(access_unit: &[u8]) -> bool {
    nal::length_prefixed(access_unit).any(|unit| nal::unit_type(unit) == nal::IDR_SLICE)
}

/// What an RTMP publisher would send: the tags of an FLV file.
fn read_flv(path: &Path) -> Vec<Received> {
    let file = Bytes::from(fs::read(path).unwrap());
    let mut out = Vec::new();
    let mut at = 9 + 4;
    while at + 11 <= file.len() {
        let tag = &file[at..at + 11];
        let size = u32::from_be_bytes([0, tag[1], tag[2], tag[3]]) as usize;
        let timestamp_ms = u32::from_be_bytes([tag[7], tag[4], tag[5], tag[6]]);
        let body = file.slice(at + 11..at + 11 + size);
        at += 11 + size + 4;
        let event = match (tag[0], body.get(1)) {
            (9, Some(0)) => IngestEvent::VideoConfig(VideoConfig {
                avcc: body.slice(5..),
            }),
            (9, Some(1)) => {
                let data = body.slice(5..);
                IngestEvent::Video {
                    timestamp_ms,
                    composition_offset_ms: i32::from_be_bytes([body[2], body[3], body[4], 0]) >> 8,
                    idr: is_idr(&data),
                    data,
                }
            }
            (8, Some(0)) => {
                let asc = body.slice(2..);
                IngestEvent::AudioConfig(aac::audio_config(&asc).unwrap())
            }
            (8, Some(1)) => IngestEvent::Audio {
                timestamp_ms,
                data: body.slice(2..),
            },
            _ => continue,
        };
        out.push(Received {
            at: Duration::from_millis(timestamp_ms.into()),
            event,
        });
    }
    // FFmpeg may end the sound before the picture; what then follows is not what is tested here.
    out.retain(|received| received.at < Duration::from_millis(7_900));
    out
}

/// One track's files.
#[derive(Default)]
struct Files {
    init: Bytes,
    parts: Vec<Part>,
    segments: Vec<Segment>,
    gaps: u32,
}

impl Files {
    fn take(&mut self, chunks: Vec<Chunk>) {
        for chunk in chunks {
            match chunk {
                Chunk::Part(part) => self.parts.push(part),
                Chunk::Segment(segment) => self.segments.push(segment),
                Chunk::Gap { .. } => self.gaps += 1,
            }
        }
    }

    /// Header and segments as one file.
    fn write(&self, path: PathBuf, segments: &[Segment]) -> PathBuf {
        let mut file = self.init.to_vec();
        for segment in segments {
            for part in &segment.parts {
                file.extend_from_slice(part);
            }
        }
        fs::write(&path, file).unwrap();
        path
    }
}

struct Packaged {
    dir: TempDir,
    source: PathBuf,
    opened: Opened,
    video: Files,
    audio: Files,
    boundaries: Vec<Boundary>,
    packets: Vec<VideoPacket>,
    part_targets: (u64, u64),
}

/// Encodes a test picture and a tone, and takes them through repair, cut and packaging.
fn package(rate: &str, seconds: u32, encoder: &[&str]) -> Packaged {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source.flv");
    let (picture, duration) = (format!("testsrc2=s=256x144:r={rate}"), seconds.to_string());
    let mut arguments = vec![
        "-f",
        "lavfi",
        "-i",
        &picture,
        "-f",
        "lavfi",
        "-i",
        "sine=r=48000",
        "-t",
        &duration,
    ];
    arguments.extend([
        "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a",
        "96k", // Noise substitution decodes to other noise each time.
        "-aac_pns", "0",
    ]);
    arguments.extend(encoder);
    let source_name = source.to_str().unwrap().to_owned();
    arguments.extend(["-f", "flv", &source_name]);
    ffmpeg(&arguments);

    let mut repair = Repair::new(Options::default());
    let (num, den) = rate.split_once('/').unwrap_or((rate, "1"));
    let claim = num.parse::<f64>().unwrap() / den.parse::<f64>().unwrap();
    let metadata = Metadata {
        frame_rate: Some(claim),
        ..Metadata::default()
    };
    repair.push(Received {
        at: Duration::ZERO,
        event: IngestEvent::Metadata(metadata),
    });
    let mut tracks: Option<(Opened, VideoPackager, AudioPackager, Cutter)> = None;
    let (mut video, mut audio) = (Files::default(), Files::default());
    let (mut boundaries, mut packets) = (Vec::new(), Vec::new());
    for repaired in read_flv(&source)
        .into_iter()
        .flat_map(|received| repair.push(received))
    {
        if let Repaired::Opened(opened) = &repaired {
            let picture = VideoPackager::new(&opened.video.avcc, opened.frame_rate).unwrap();
            let sound = AudioPackager::new(&opened.audio.as_ref().unwrap().asc).unwrap();
            video.init = picture.init();
            audio.init = sound.init();
            let cutter = Cutter::new(3, opened.frame_rate, false);
            tracks = Some((opened.clone(), picture, sound, cutter));
            continue;
        }
        let (_, picture, sound, cutter) = tracks.as_mut().unwrap();
        match repaired {
            Repaired::Video(packet) => {
                let boundary = match cutter.push(&packet) {
                    Cut::AtIdr(boundary) => Some(boundary),
                    Cut::Continue => None,
                    other => panic!("{other:?}"),
                };
                if let Some(boundary) = boundary {
                    boundaries.push(boundary);
                    audio.take(sound.boundary(boundary));
                }
                packets.push(packet.clone());
                video.take(picture.push(packet, boundary));
                audio.take(sound.video_frontier(cutter.frontier().unwrap()));
            }
            Repaired::Audio(packet) => audio.take(sound.push(packet)),
            other => panic!("{other:?}"),
        }
    }
    let (opened, mut picture, mut sound, _) = tracks.unwrap();
    let part_targets = (picture.part_target(), sound.part_target());
    video.take(picture.finish());
    audio.take(sound.finish());
    Packaged {
        dir,
        source,
        opened,
        video,
        audio,
        boundaries,
        packets,
        part_targets,
    }
}

/// (pts, dts, key) of every packet as FFmpeg reads them, ticks.
fn packets(file: &Path) -> Vec<(i64, i64, bool)> {
    let fields = "packet=pts,dts,flags";
    let text = ffprobe(&["-show_entries", fields, file.to_str().unwrap()]);
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            let number = |index: usize| fields[index].parse().unwrap();
            (number(0), number(1), fields[2].contains('K'))
        })
        .collect()
}

/// A sample as the boxes of a chunk say it.
#[derive(Debug)]
struct Boxed {
    dts: i64,
    pts: i64,
    duration: i64,
    sync: bool,
    data: Bytes,
}

/// The samples of a part, by its boxes alone.
fn samples(part: &Part) -> Vec<Boxed> {
    let mut moof_at = 0;
    for (kind, size) in cmaf::top_level_boxes(&part.data) {
        if kind == mp4_atom::Moof::KIND {
            break;
        }
        moof_at += size;
    }
    let mut rest = &part.data[moof_at..];
    let moof = mp4_atom::Moof::decode(&mut rest).unwrap();
    let [traf] = moof.traf.as_slice() else {
        panic!("one track")
    };
    let [trun] = traf.trun.as_slice() else {
        panic!("one run")
    };
    assert!(traf.tfhd.default_base_is_moof && traf.tfhd.base_data_offset.is_none());
    for kind in [b"trun", b"tfdt"] {
        let at = part.data.windows(4).position(|w| w == kind).unwrap();
        assert_eq!(part.data[at + 4], 1, "version");
    }
    let mut dts = traf.tfdt.as_ref().unwrap().base_media_decode_time as i64;
    let mut data_at = moof_at + trun.data_offset.unwrap() as usize;
    let mut out = Vec::new();
    for entry in trun.samples.iter() {
        let size = entry.size.unwrap() as usize;
        let duration = entry.duration.or(traf.tfhd.default_sample_duration);
        let duration = i64::from(duration.unwrap());
        let flags = entry.flags.or(traf.tfhd.default_sample_flags).unwrap();
        let sync = flags & 0x0001_0000 == 0;
        let depends_on = if sync { 2 } else { 1 };
        assert_eq!(flags >> 24 & 3, depends_on);
        out.push(Boxed {
            dts,
            pts: dts + entry.cts.unwrap_or(0),
            duration,
            sync,
            data: part.data.slice(data_at..data_at + size),
        });
        dts += duration;
        data_at += size;
    }
    assert_eq!(data_at, part.data.len());
    let duration: i64 = out.iter().map(|sample| sample.duration).sum();
    assert_eq!(duration, part.duration as i64);
    assert_eq!((out[0].dts, out[0].sync), (part.start, part.independent));
    out
}

/// Checksums of all decoded frames.
fn frames(file: &Path, stream: &str) -> Vec<String> {
    let text = ffmpeg(&[
        "-i",
        file.to_str().unwrap(),
        "-map",
        stream,
        "-fps_mode",
        "passthrough",
        "-f",
        "framemd5",
        "-",
    ]);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit(',').next().unwrap().trim().to_owned())
        .collect()
}

impl Packaged {
    /// What holds of every package, checked by its boxes and with FFmpeg as the reader.
    fn check(&self) {
        let boxed: Vec<Boxed> = self.video.parts.iter().flat_map(samples).collect();
        assert_eq!(boxed.len(), self.packets.len());
        for (sample, packet) in boxed.iter().zip(&self.packets) {
            assert_eq!((sample.pts, sample.sync), (packet.pts, packet.idr));
            assert_eq!(sample.data, packet.data);
            assert!(sample.duration > 0);
        }
        for pair in boxed.windows(2) {
            assert_eq!(pair[0].dts + pair[0].duration, pair[1].dts, "{pair:?}");
        }
        let path = self.dir.path().join("video.mp4");
        let all = self.video.write(path, &self.video.segments);
        let read = packets(&all);
        assert_eq!(read.len(), boxed.len());
        // FFmpeg does not know negative offsets: it moves all presentation times up by the largest of them.
        let most_negative = boxed.iter().map(|sample| sample.dts - sample.pts).max();
        let moved = most_negative.unwrap().max(0);
        for ((pts, dts, key), sample) in read.iter().zip(&boxed) {
            let expected = (sample.pts, sample.dts, sample.sync);
            assert_eq!((*pts - moved, *dts, *key), expected);
        }
        let (ours, theirs) = (frames(&all, "0:v"), frames(&self.source, "0:v"));
        // What was read of the source may end amid reordered frames.
        let ours = &ours[..ours.len() - 8];
        assert!(theirs.starts_with(ours), "the same pictures");

        let sound = self
            .audio
            .write(self.dir.path().join("audio.mp4"), &self.audio.segments);
        let read = packets(&sound);
        assert!(read.windows(2).all(|pair| pair[0].0 + 1_024 == pair[1].0));
        let boxed: Vec<Boxed> = self.audio.parts.iter().flat_map(samples).collect();
        assert!(
            boxed
                .iter()
                .all(|sample| sample.duration == 1_024 && sample.sync)
        );
        let (ours, theirs) = (frames(&sound, "0:a"), frames(&self.source, "0:a"));
        // The first frames of AAC decode alike once the decoder has warmed up.
        let ours = &ours[2..];
        assert!(
            theirs.windows(ours.len()).any(|theirs| theirs == ours),
            "the same sound"
        );

        self.check_numbers();
        self.check_segments_alone();
    }

    fn check_numbers(&self) {
        let msns: Vec<u64> = self
            .video
            .segments
            .iter()
            .map(|segment| segment.msn)
            .collect();
        assert_eq!(msns, (3..3 + msns.len() as u64).collect::<Vec<_>>());
        assert_eq!(
            msns,
            self.audio
                .segments
                .iter()
                .map(|segment| segment.msn)
                .collect::<Vec<_>>()
        );
        assert_eq!(
            msns,
            self.boundaries
                .iter()
                .map(|boundary| boundary.msn)
                .collect::<Vec<_>>()
        );
        for (files, target) in [
            (&self.video, self.part_targets.0),
            (&self.audio, self.part_targets.1),
        ] {
            assert_eq!(files.gaps, 0);
            let mut expected = (3, 0, files.segments[0].start);
            for part in &files.parts {
                assert_eq!((part.msn, part.part, part.start), expected);
                assert!(part.duration <= target && part.duration > 0);
                assert!(part.ends_segment || part.part > 0 || part.independent);
                let end = part.start + part.duration as i64;
                expected = match part.ends_segment {
                    true => (part.msn + 1, 0, end),
                    false => (part.msn, part.part + 1, end),
                };
            }
            for segment in &files.segments {
                let parts: Vec<&Part> = files
                    .parts
                    .iter()
                    .filter(|part| part.msn == segment.msn)
                    .collect();
                assert_eq!(
                    segment.duration,
                    parts.iter().map(|part| part.duration).sum::<u64>()
                );
                assert_eq!(
                    segment.size(),
                    parts.iter().map(|part| part.data.len() as u64).sum::<u64>()
                );
                assert!(parts[0].independent && parts[0].start == segment.start);
                for part in parts {
                    let boxes = cmaf::top_level_boxes(&part.data);
                    let kinds: Vec<String> =
                        boxes.iter().map(|(kind, _)| kind.to_string()).collect();
                    let expected: &[&str] = match part.part {
                        0 => &["styp", "moof", "mdat"],
                        _ => &["moof", "mdat"],
                    };
                    assert_eq!(kinds, expected);
                    assert_eq!(
                        boxes.iter().map(|(_, size)| size).sum::<usize>(),
                        part.data.len()
                    );
                }
            }
        }
        for (segment, boundary) in self.audio.segments.iter().zip(&self.boundaries) {
            // The first frame that starts at or after the picture's boundary.
            let behind = segment.start * 90_000 - boundary.pts * 48_000;
            assert!((0..1_024 * 90_000).contains(&behind), "{behind}");
        }
    }

    /// Each segment alone behind its header: begins with a key frame at the boundary, and decodes.
    fn check_segments_alone(&self) {
        for (segment, boundary) in self.video.segments.iter().zip(&self.boundaries).take(3) {
            let path = self.dir.path().join("one.mp4");
            let one = self.video.write(path, std::slice::from_ref(segment));
            let read = packets(&one);
            let first = read.first().map(|p| (p.1, p.2));
            assert_eq!(first, Some((boundary.pts, true)));
            assert_eq!(segment.start, boundary.pts);
            assert_eq!(frames(&one, "0:v").len(), read.len());
        }
    }

    /// Of a constant rate: exact durations, and every part but a segment's last is one of n whole frames.
    fn check_constant(&self, rate: FrameRate) {
        assert_eq!(self.opened.frame_rate, Some(rate));
        let mut shown: Vec<i64> = self.packets.iter().map(|packet| packet.pts).collect();
        shown.sort_unstable();
        // As above: the end may lack reordered frames.
        shown.truncate(shown.len() - 8);
        let first = shown[0];
        for (k, pts) in shown.iter().enumerate() {
            let exact = k as i64 * 90_000 * i64::from(rate.den) / i64::from(rate.num);
            assert!((pts - first - exact).abs() <= 1, "frame {k}: {pts}");
        }
        for part in self.video.parts.iter().filter(|part| !part.ends_segment) {
            assert!(
                self.part_targets.0 - part.duration <= 1,
                "{}",
                part.duration
            );
        }
    }
}

#[test]
fn constant_rates_with_and_without_reordered_frames_are_read_back_frame_for_frame() {
    for (rate, fraction, b_frames, gop) in [
        ("30", (30, 1), "0", "60"),
        ("30", (30, 1), "3", "60"),
        ("24000/1001", (24_000, 1_001), "2", "48"),
        ("30000/1001", (30_000, 1_001), "2", "60"),
        ("60000/1001", (60_000, 1_001), "3", "120"),
        ("60", (60, 1), "0", "120"),
        ("25", (25, 1), "2", "80"),
    ] {
        let packaged = package(rate, 9, &["-bf", b_frames, "-g", gop, "-sc_threshold", "0"]);
        packaged.check();
        packaged.check_constant(FrameRate {
            num: fraction.0,
            den: fraction.1,
        });
        assert!(packaged.video.segments.len() >= 3);
    }
}

#[test]
fn scene_cut_key_frames_inside_a_segment_are_key_frames_in_it() {
    let keys = "0,0.5,0.7,2.3,2.4,4.6,6.1,7";
    let packaged = package(
        "30",
        9,
        &[
            "-bf",
            "2",
            "-g",
            "250",
            "-force_key_frames",
            keys,
            "-sc_threshold",
            "0",
        ],
    );
    packaged.check();
    let at: Vec<i64> = packaged
        .boundaries
        .iter()
        .map(|b| (b.pts - packaged.boundaries[0].pts) / 3_000)
        .collect();
    assert_eq!(at, [0, 69, 138, 210]);
}

#[test]
fn a_varying_rate_with_reordered_frames_is_read_back_frame_for_frame() {
    for b_frames in ["0", "3"] {
        let uneven = "settb=1/1000,setpts='PTS+mod(N*7919,23)-11*gt(mod(N,50),25)'";
        let keys = [
            "-g",
            "60",
            "-bf",
            b_frames,
            "-vf",
            uneven,
            "-fps_mode",
            "vfr",
            "-enc_time_base",
            "1/1000",
        ];
        let packaged = package("30", 9, &keys);
        assert_eq!(packaged.opened.frame_rate, None);
        packaged.check();
        assert!(packaged.video.segments.len() >= 3);
    }
}

#[test]
fn the_header_tells_readers_size_shape_colour_and_codecs() {
    let colour = [
        "-colorspace",
        "bt709",
        "-color_primaries",
        "bt709",
        "-color_trc",
        "bt709",
    ];
    let mut encoder = vec!["-profile:v", "main", "-vf", "crop=250:142,setsar=4/3"];
    encoder.extend(colour);
    let packaged = package("30", 3, &encoder);
    let file = packaged.video.write(
        packaged.dir.path().join("video.mp4"),
        &packaged.video.segments,
    );
    let fields = "stream=codec_name,profile,codec_tag_string,width,height,sample_aspect_ratio,color_space,color_transfer,color_primaries,time_base";
    let read = ffprobe(&["-show_entries", fields, file.to_str().unwrap()]);
    assert_eq!(
        read.trim(),
        "h264,Main,avc1,250,142,4:3,bt709,bt709,bt709,1/90000"
    );
    let picture = VideoPackager::new(&packaged.opened.video.avcc, None).unwrap();
    assert_eq!(picture.size(), (250, 142));
    assert!(
        picture.codecs().starts_with("avc1.4d40"),
        "{}",
        picture.codecs()
    );
    let sps = avc::first_sps(&packaged.opened.video.avcc).unwrap();
    assert_eq!(sps.sample_aspect_ratio, Some((4, 3)));
    assert_eq!(
        sps.colour,
        Some(sps::Colour {
            primaries: 1,
            transfer: 1,
            matrix: 1,
            full_range: false
        })
    );
    assert_eq!(sps.frame_rate, Some(FrameRate { num: 30, den: 1 }));
    assert!(sps.progressive && sps.max_reorder_frames.is_some());

    let file = packaged.audio.write(
        packaged.dir.path().join("audio.mp4"),
        &packaged.audio.segments,
    );
    let fields = "stream=codec_name,profile,codec_tag_string,sample_rate,channels,time_base";
    let read = ffprobe(&["-show_entries", fields, file.to_str().unwrap()]);
    assert_eq!(read.trim(), "aac,LC,mp4a,48000,1,1/48000");
}
