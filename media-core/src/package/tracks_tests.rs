//! Picture and sound beside each other, with made-up frames: numbers, gaps and what is dropped.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::media::{AudioPacket, Boundary, FrameRate, VideoPacket};

const AAC_48: &[u8] = &[0x11, 0x90];

fn record(width_in_mbs: u8) -> Bytes {
    // Baseline: profile, level, then ue: id 0, frame num 0, order count type 2, references 0, no gaps, width, height 1 macroblock.
    let width = match width_in_mbs {
        1 => "1",
        _ => "010",
    };
    let bits = format!("1 1 011 1 0 {width} 1 1 0 0 0 1");
    let mut sps = vec![0x67, 66, 0xc0, 10];
    let bits: Vec<u8> = bits
        .bytes()
        .filter(|b| *b != b' ')
        .map(|b| b - b'0')
        .collect();
    for chunk in bits.chunks(8) {
        let byte = chunk.iter().fold(0, |byte, bit| byte << 1 | bit);
        sps.push(byte << (8 - chunk.len()));
    }
    let stream = [&[0, 0, 1][..], &sps, &[0, 0, 1, 0x68, 0xc0]].concat();
    let sets = avc::ParameterSets::from_annex_b(&stream).unwrap();
    sets.record().unwrap()
}

fn picture(frame_rate: Option<(u32, u32)>) -> VideoPackager {
    let rate = frame_rate.map(|(num, den)| FrameRate { num, den });
    VideoPackager::new(&record(1), rate).unwrap()
}

fn frame(pts: i64, idr: bool) -> VideoPacket {
    let data = Bytes::from_static(&[0, 0, 0, 1, 0x41]);
    VideoPacket {
        pts,
        dts: pts,
        idr,
        data,
    }
}

fn boundary(msn: u64, pts: i64, discontinuity: bool) -> Boundary {
    Boundary {
        msn,
        pts,
        discontinuity,
    }
}

fn aac(frame: i64) -> AudioPacket {
    AudioPacket {
        pts: frame * 1_024,
        data: Bytes::from_static(b"a"),
    }
}

/// (msn, start, duration) of segments and gaps; a gap has no bytes.
fn segments(chunks: &[Chunk]) -> Vec<(u64, i64, u64, bool)> {
    let mut out = Vec::new();
    for chunk in chunks {
        match chunk {
            Chunk::Part(_) => {}
            Chunk::Segment(s) => out.push((s.msn, s.start, s.duration, true)),
            Chunk::Gap {
                msn,
                start,
                duration,
            } => out.push((*msn, *start, *duration, false)),
        }
    }
    out
}

#[test]
fn sound_is_held_until_the_picture_has_passed_it() {
    let mut sound = AudioPackager::new(AAC_48).unwrap();
    let mut out = sound.boundary(boundary(0, 0, false));
    for k in 0..200 {
        out.extend(sound.push(aac(k)));
    }
    assert_eq!(out, [], "the picture has not come so far");
    out.extend(sound.video_frontier(90_000));
    // 47 frames start within the first second; 16 make a part, and one waits.
    assert_eq!(out.len(), 2);
    out.extend(sound.boundary(boundary(1, 100_000, false)));
    out.extend(sound.video_frontier(200_000));
    assert_eq!(segments(&out), [(0, 0, 53 * 1_024, true)]);
    let ends: Vec<bool> = out
        .iter()
        .filter_map(|c| match c {
            Chunk::Part(part) => Some(part.ends_segment),
            _ => None,
        })
        .collect();
    assert_eq!(ends, [false, false, false, true, false, false, false]);
}

#[test]
fn a_segment_without_any_sound_keeps_its_number() {
    let mut sound = AudioPackager::new(AAC_48).unwrap();
    let mut out = Vec::new();
    for (msn, pts) in [(4, 0), (5, 180_000), (6, 360_000), (7, 540_000)] {
        out.extend(sound.boundary(boundary(msn, pts, false)));
    }
    for k in (0..94).chain(290..300) {
        out.extend(sound.push(aac(k)));
    }
    out.extend(sound.video_frontier(700_000));
    out.extend(sound.finish());
    assert_eq!(
        segments(&out),
        [
            (4, 0, 94 * 1_024, true),
            (5, 96_000, 96_000, false),
            (6, 192_000, 96_000, false),
            (7, 290 * 1_024, 10 * 1_024, true),
        ]
    );
}

#[test]
fn sound_before_the_first_boundary_is_dropped() {
    let mut sound = AudioPackager::new(AAC_48).unwrap();
    let mut out = Vec::new();
    for k in 0..100 {
        out.extend(sound.push(aac(k)));
    }
    out.extend(sound.boundary(boundary(0, 90_000, false)));
    out.extend(sound.video_frontier(900_000));
    out.extend(sound.finish());
    assert_eq!(sound.dropped(), 47);
    assert_eq!(segments(&out), [(0, 47 * 1_024, 53 * 1_024, true)]);
}

#[test]
fn neither_track_lasts_through_a_hole_of_the_picture() {
    let (mut video, mut sound) = (picture(Some((30, 1))), AudioPackager::new(AAC_48).unwrap());
    let mut out = video.push(frame(0, true), Some(boundary(0, 0, false)));
    for k in 1..90 {
        out.extend(video.push(frame(k * 3_000, false), None));
    }
    // The next picture comes seven seconds later.
    let next = boundary(1, 900_000, true);
    out.extend(video.push(frame(900_000, true), Some(next)));
    assert_eq!(segments(&out), [(0, 0, 90 * 3_000, true)]);

    let mut out = sound.boundary(boundary(0, 0, false));
    out.extend(sound.boundary(next));
    for k in 0..600 {
        out.extend(sound.push(aac(k)));
    }
    out.extend(sound.video_frontier(1_200_000));
    let first = segments(&out)[0];
    assert!(first.2 as i64 * 90_000 / 48_000 <= 404_100, "{first:?}");
    assert!(sound.dropped() > 200);
}

#[test]
fn sound_with_a_hole_in_it_begins_another_part_at_the_right_time() {
    let mut sound = AudioPackager::new(AAC_48).unwrap();
    let mut out = sound.boundary(boundary(0, 0, false));
    for k in (0..5).chain(8..20) {
        out.extend(sound.push(aac(k)));
    }
    out.extend(sound.video_frontier(90_000));
    out.extend(sound.finish());
    let parts: Vec<(i64, u64)> = out
        .iter()
        .filter_map(|c| match c {
            Chunk::Part(part) => Some((part.start, part.duration)),
            _ => None,
        })
        .collect();
    assert_eq!(parts, [(0, 5 * 1_024), (8 * 1_024, 12 * 1_024)]);
}

#[test]
fn another_configuration_holds_from_the_next_boundary_on() {
    let mut video = picture(Some((30, 1)));
    let first = video.init();
    let mut out = video.push(frame(0, true), Some(boundary(0, 0, false)));
    for k in 1..60 {
        out.extend(video.push(frame(k * 3_000, false), None));
    }
    let second = video
        .reconfigure(&record(2), Some(FrameRate { num: 60, den: 1 }))
        .unwrap();
    assert_ne!(first, second);
    assert_eq!((video.size(), video.part_target()), ((32, 16), 30_000));
    out.extend(video.push(frame(180_000, true), Some(boundary(1, 180_000, true))));
    for k in 1..60 {
        out.extend(video.push(frame(180_000 + k * 1_500, false), None));
    }
    out.extend(video.finish());
    let parts: Vec<(u64, u32, u64, bool)> = out
        .iter()
        .filter_map(|c| match c {
            Chunk::Part(part) => Some((part.msn, part.part, part.duration, part.discontinuity)),
            _ => None,
        })
        .collect();
    let mut expected: Vec<_> = (0..6).map(|n| (0, n, 30_000, false)).collect();
    expected.extend((0..3).map(|n| (1, n, 30_000, true)));
    assert_eq!(parts, expected);
}

#[test]
fn two_boundaries_at_one_frame_leave_an_empty_segment_its_number() {
    let mut video = picture(None);
    let mut out = video.push(frame(0, true), Some(boundary(0, 0, false)));
    out.extend(video.push(frame(180_000, true), Some(boundary(2, 180_000, true))));
    out.extend(video.finish());
    let numbers: Vec<(u64, bool)> = segments(&out).into_iter().map(|s| (s.0, s.3)).collect();
    assert_eq!(numbers, [(0, true), (1, false), (2, true)]);
}

proptest! {
    #[test]
    fn parts_of_a_varying_rate_never_pass_the_target_and_times_follow(
        gaps in proptest::collection::vec(90i64..29_000, 1..400),
        keys in proptest::collection::vec(any::<bool>(), 400),
        reorder in proptest::collection::vec(0i64..20_000, 400),
    ) {
        let mut video = picture(None);
        let (mut out, mut dts, mut msn, mut since) = (Vec::new(), 0, 0, 0);
        let mut highest = 0;
        for (k, gap) in gaps.iter().enumerate() {
            dts += gap;
            since += gap;
            let key = k == 0 || (keys[k] && since > 100_000);
            // As in a closed GOP: an IDR is presented after all before it.
            let pts = if key { (dts + reorder[k]).max(highest + 900) } else { dts + reorder[k] };
            highest = highest.max(pts);
            let boundary = key.then(|| {
                msn += 1;
                since = 0;
                Boundary { msn, pts, discontinuity: false }
            });
            let packet = VideoPacket { pts, dts, idr: key, data: Bytes::from_static(b"frame") };
            out.extend(video.push(packet, boundary));
        }
        out.extend(video.finish());
        let mut expected: Option<(u64, u32, i64)> = None;
        for chunk in &out {
            match chunk {
                Chunk::Part(part) => {
                    if let Some(expected) = expected {
                        prop_assert_eq!((part.msn, part.part, part.start), expected);
                    }
                    prop_assert!(part.duration > 0);
                    prop_assert!(part.part > 0 || part.independent);
                    let end = part.start + part.duration as i64;
                    expected = Some(if part.ends_segment { (part.msn + 1, 0, end) } else { (part.msn, part.part + 1, end) });
                }
                Chunk::Segment(segment) => prop_assert!(segment.duration > 0 && segment.size() > 0),
                Chunk::Gap { .. } => prop_assert!(false, "no gap"),
            }
        }
        prop_assert_eq!(segments(&out).len() as u64, msn);
    }
}
