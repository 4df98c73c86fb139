#![allow(clippy::unwrap_used, clippy::expect_used)]

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const SECOND: i64 = 90_000;

fn avcc() -> VideoConfig {
    let sps = "6764002aacd940780227e5c05a808080a0000007d20001d4c11e30632c";
    let mut stream = vec![0, 0, 1];
    stream.extend(data_encoding::HEXLOWER.decode(sps.as_bytes()).unwrap());
    stream.extend([0, 0, 1, 0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0]);
    VideoConfig {
        avcc: avc::ParameterSets::from_annex_b(&stream)
            .and_then(|sets| sets.record())
            .unwrap(),
    }
}

fn other_avcc() -> VideoConfig {
    let mut record = avcc().avcc.to_vec();
    record.push(0);
    VideoConfig {
        avcc: record.into(),
    }
}

fn aac(rate: u32) -> AudioConfig {
    let asc: &[u8] = match rate {
        48_000 => &[0x11, 0x90],
        _ => &[0x12, 0x10],
    };
    AudioConfig {
        asc: Bytes::copy_from_slice(asc),
        sample_rate: rate,
        channels: 2,
        is_lc: true,
    }
}

fn ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap())
}

/// A stretch of an encoder's output: 30 frames a second with an IDR each two seconds, 48 kHz sound, all on one clock.
#[derive(Clone)]
struct Encoder {
    fps: (i64, i64),
    /// Added to all stamps, milliseconds.
    base: i64,
    /// Added to the stamps of sound only.
    audio_base: i64,
    /// Arrival of stamp 0, milliseconds.
    arrival: i64,
    /// Presentation minus decoding time of every frame.
    offset_ms: i32,
    audio: bool,
    idr_every: i64,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            fps: (30, 1),
            base: 0,
            audio_base: 0,
            arrival: 0,
            offset_ms: 0,
            audio: true,
            idr_every: 60,
        }
    }
}

impl Encoder {
    /// Everything with stamps from `from` to `to`, milliseconds of the encoder's clock, in order.
    fn between(&self, from: i64, to: i64) -> Vec<Received> {
        let (num, den) = self.fps;
        let mut out = Vec::new();
        let frame = |k: i64| (k * den * 1_000 + num / 2) / num;
        for k in (from * num / den / 1_000).max(1) - 1.. {
            let at = frame(k);
            if at >= to {
                break;
            }
            if at >= from {
                out.push((at, self.video(at, k % self.idr_every == 0)));
            }
        }
        if self.audio {
            for k in (from * 48 / 1_024).max(1) - 1.. {
                let at = (k * 1_024 + 24) / 48;
                if at >= to {
                    break;
                }
                if at >= from {
                    out.push((at, self.audio(at)));
                }
            }
        }
        out.sort_by_key(|(at, _)| *at);
        out.into_iter().map(|(_, received)| received).collect()
    }

    fn video(&self, at: i64, idr: bool) -> Received {
        Received {
            at: ms(self.arrival + at),
            event: IngestEvent::Video {
                timestamp_ms: (at + self.base) as u32,
                composition_offset_ms: self.offset_ms,
                idr,
                data: Bytes::from_static(b"v"),
            },
        }
    }

    fn audio(&self, at: i64) -> Received {
        Received {
            at: ms(self.arrival + at),
            event: IngestEvent::Audio {
                timestamp_ms: (at + self.base + self.audio_base) as u32,
                data: Bytes::from_static(b"a"),
            },
        }
    }
}

fn event(at: i64, event: IngestEvent) -> Received {
    Received { at: ms(at), event }
}

fn metadata(fps: f64) -> IngestEvent {
    IngestEvent::Metadata(Metadata {
        frame_rate: Some(fps),
        ..Metadata::default()
    })
}

/// Runs events through a repair that was told both configurations and a claim of 30 frames a second.
fn run(events: impl IntoIterator<Item = Received>) -> Vec<Repaired> {
    run_with(&mut configured(30.0, true), events)
}

fn configured(fps: f64, audio: bool) -> Repair {
    let mut repair = Repair::new(Options::default());
    repair.push(event(0, metadata(fps)));
    repair.push(event(0, IngestEvent::VideoConfig(avcc())));
    if audio {
        repair.push(event(0, IngestEvent::AudioConfig(aac(48_000))));
    }
    repair
}

fn run_with(repair: &mut Repair, events: impl IntoIterator<Item = Received>) -> Vec<Repaired> {
    let mut out: Vec<Repaired> = Vec::new();
    for received in events {
        out.extend(repair.push(received));
    }
    check(&out);
    out
}

/// What holds of every output: pictures in strictly increasing decoding order, sound without holes or overlaps but behind a discontinuity.
fn check(out: &[Repaired]) {
    let mut dts = i64::MIN;
    let mut end: Option<i64> = None;
    let mut broken = true;
    for repaired in out {
        match repaired {
            Repaired::Video(packet) => {
                assert!(packet.dts > dts, "{} after {dts}", packet.dts);
                assert!((packet.pts - packet.dts).abs() <= 5 * SECOND + 1_000);
                dts = packet.dts;
            }
            Repaired::Audio(AudioPacket { pts, .. }) | Repaired::Silence { pts, .. } => {
                match end {
                    Some(end) if broken => assert!(*pts >= end, "{pts} before {end}"),
                    Some(end) => assert_eq!(*pts, end),
                    None => {}
                }
                broken = false;
                let frames = match repaired {
                    Repaired::Silence { frames, .. } => i64::from(*frames),
                    _ => 1,
                };
                end = Some(pts + frames * 1_024);
            }
            Repaired::Discontinuity(_) | Repaired::Opened(_) => broken = true,
            Repaired::VideoConfig(_) | Repaired::AudioConfig(_) => {}
        }
    }
}

fn videos(out: &[Repaired]) -> Vec<&VideoPacket> {
    let mut packets = Vec::new();
    for repaired in out {
        if let Repaired::Video(packet) = repaired {
            packets.push(packet);
        }
    }
    packets
}

fn dts(out: &[Repaired]) -> Vec<i64> {
    videos(out).iter().map(|packet| packet.dts).collect()
}

fn causes(out: &[Repaired]) -> Vec<Cause> {
    let cause = |repaired: &Repaired| match repaired {
        Repaired::Discontinuity(cause) => Some(*cause),
        _ => None,
    };
    out.iter().filter_map(cause).collect()
}

/// (frames that came, frames of silence), samples where it all ends.
fn sound(out: &[Repaired]) -> (u32, u32, i64) {
    let (mut real, mut silent, mut end) = (0, 0, 0);
    for repaired in out {
        match repaired {
            Repaired::Audio(packet) => {
                real += 1;
                end = packet.pts + 1_024;
            }
            Repaired::Silence { pts, frames } => {
                silent += frames;
                end = pts + i64::from(*frames) * 1_024;
            }
            _ => {}
        }
    }
    (real, silent, end)
}

fn opened(out: &[Repaired]) -> &Opened {
    match out.first() {
        Some(Repaired::Opened(opened)) => opened,
        other => panic!("{other:?}"),
    }
}

#[test]
fn frames_get_the_exact_times_of_every_common_rate() {
    for (num, den) in [
        (24_000, 1_001),
        (24, 1),
        (25, 1),
        (30_000, 1_001),
        (30, 1),
        (48, 1),
        (50, 1),
        (60_000, 1_001),
        (60, 1),
    ] {
        for claimed in [true, false] {
            let encoder = Encoder {
                fps: (num, den),
                ..Encoder::default()
            };
            let fps = if claimed {
                num as f64 / den as f64
            } else {
                0.0
            };
            let mut repair = configured(fps, true);
            if !claimed {
                // The parameter sets of the other tests claim 25 or so; those that cannot be read claim nothing.
                let avcc = Bytes::from_static(b"?");
                repair.push(event(0, IngestEvent::VideoConfig(VideoConfig { avcc })));
            }
            let out = run_with(&mut repair, encoder.between(0, 20_000));
            let rate = FrameRate {
                num: num as u32,
                den: den as u32,
            };
            assert_eq!(opened(&out).frame_rate, Some(rate), "claimed: {claimed}");
            assert_eq!(causes(&out), []);
            for (k, dts) in dts(&out).into_iter().enumerate() {
                assert_eq!(dts, k as i64 * SECOND * den / num, "{num}/{den} frame {k}");
            }
        }
    }
}

#[test]
fn opening_waits_for_a_claim_to_be_kept_and_for_sound_but_not_for_long() {
    let encoder = Encoder {
        audio: false,
        ..Encoder::default()
    };
    let first_out = |repair: &mut Repair| {
        let events = encoder.between(0, 3_000);
        events
            .into_iter()
            .position(|received| !repair.push(received).is_empty())
    };
    assert_eq!(
        first_out(&mut configured(30.0, true)),
        Some(9),
        "ten frames keep the claim"
    );
    assert_eq!(
        first_out(&mut configured(30.0, false)),
        Some(30),
        "a second without sound"
    );
    let mut repair = configured(30.0, false);
    for received in encoder.between(0, 500) {
        assert_eq!(repair.push(received), []);
    }
    assert_eq!(repair.tick(ms(900)), []);
    let out = repair.tick(ms(1_000));
    assert_eq!(opened(&out).audio, None);
    assert_eq!(opened(&out).audio_rate, 48_000);
    assert_eq!(videos(&out).len(), 15);
}

#[test]
fn nothing_before_the_first_idr_comes_out() {
    let encoder = Encoder::default();
    let out = run(encoder.between(500, 5_000));
    assert!(videos(&out).first().unwrap().idr);
    assert_eq!(
        dts(&out).first(),
        Some(&(2 * SECOND)),
        "at its arrival time"
    );
    let first_sound = out.iter().find_map(|r| match r {
        Repaired::Audio(p) => Some(p.pts),
        _ => None,
    });
    assert!(
        (96_000..97_024).contains(&first_sound.unwrap()),
        "{first_sound:?}"
    );
}

#[test]
fn the_stamp_wraps_and_nothing_moves() {
    let encoder = Encoder {
        base: (1i64 << 32) - 5_000,
        ..Encoder::default()
    };
    let out = run(encoder.between(0, 12_000));
    assert_eq!(causes(&out), []);
    assert_eq!(dts(&out), (0..360).map(|k| k * 3_000).collect::<Vec<_>>());
    assert_eq!(sound(&out).1, 0);
}

#[test]
fn jumps_of_the_stamps_are_anchored_to_arrival_behind_one_discontinuity() {
    let before = Encoder::default().between(0, 4_000);
    // (name, base of the stamps after four seconds, seconds of pause)
    for (name, base, pause) in [
        ("back to nought", -4_000, 0),
        ("back to nought after a pause", -4_000, 7_000),
        ("far forward", 3_600_000, 0),
        ("forward by two seconds", 2_000, 0),
        ("back by two seconds", -2_000, 0),
        ("back by half a second", -500, 0),
        ("across the wrap", (1i64 << 32) - 6_000, 0),
    ] {
        let after = Encoder {
            base,
            arrival: pause,
            ..Encoder::default()
        };
        let events = before.iter().cloned().chain(after.between(4_000, 8_000));
        let out = run(events);
        assert_eq!(causes(&out), [Cause::Jump], "{name}");
        let dts = dts(&out);
        assert_eq!(dts.len(), 240, "{name}");
        // Behind the jump the same distances, at the arrival time.
        let expected = (4_000 + pause) * 90;
        assert!(
            (dts[120] - expected).abs() <= 4_500,
            "{name}: {} for {expected}",
            dts[120]
        );
        assert_eq!(dts[239] - dts[120], 119 * 3_000, "{name}");
        // Sound stays beside the picture.
        let end = sound(&out).2 * 90_000 / 48_000;
        assert!(
            (end - dts[239]).abs() < 90 * 150,
            "{name}: sound ends {end}, picture {}",
            dts[239]
        );
    }
}

#[test]
fn a_hole_that_the_clock_confirms_is_kept_and_is_no_discontinuity() {
    let encoder = Encoder::default();
    let out = run(encoder
        .between(0, 4_000)
        .into_iter()
        .chain(encoder.between(6_000, 8_000)));
    assert_eq!(causes(&out), []);
    assert_eq!(dts(&out)[120], 6 * SECOND);
    let (real, silent, _) = sound(&out);
    assert!(
        (93..=95).contains(&silent),
        "two seconds of silence, not {silent}"
    );
    assert!(real > 270);
}

#[test]
fn a_hole_longer_than_a_segment_is_a_discontinuity() {
    let encoder = Encoder::default();
    let out = run(encoder
        .between(0, 4_000)
        .into_iter()
        .chain(encoder.between(24_000, 26_000)));
    assert_eq!(causes(&out).first(), Some(&Cause::Jump));
    assert_eq!(dts(&out)[120], 24 * SECOND);
    assert!(sound(&out).1 < 30, "no twenty seconds of silence");
}

#[test]
fn frames_that_are_reordered_keep_exact_offsets_and_negative_ones_too() {
    for offset_ms in [67, 33, -33, -67] {
        let encoder = Encoder {
            offset_ms,
            ..Encoder::default()
        };
        let out = run(encoder.between(0, 4_000));
        for packet in videos(&out) {
            let frames = (f64::from(offset_ms) * 30.0 / 1_000.0).round() as i64;
            assert_eq!(packet.pts - packet.dts, frames * 3_000, "{offset_ms}");
            assert!(packet.pts >= 0);
        }
    }
}

#[test]
fn an_absurd_composition_offset_is_no_offset() {
    let encoder = Encoder {
        offset_ms: i32::MIN,
        ..Encoder::default()
    };
    let out = run(encoder.between(0, 2_000));
    assert!(videos(&out).iter().all(|packet| packet.pts == packet.dts));
}

#[test]
fn equal_and_slightly_receding_stamps_still_increase() {
    let encoder = Encoder::default();
    let events = [
        0, 33, 67, 67, 67, 100, 90, 133, 167, 200, 233, 267, 300, 333, 367,
    ];
    let out = run(events
        .iter()
        .map(|at| {
            let mut received = encoder.video(*at, *at == 0);
            received.at = ms(500);
            received
        })
        .chain(encoder.between(1_501, 1_600)));
    assert_eq!(causes(&out), []);
    assert!(videos(&out).len() >= events.len());
}

#[test]
fn without_any_sound_there_is_silence_half_a_second_behind_the_picture() {
    let encoder = Encoder {
        audio: false,
        ..Encoder::default()
    };
    let out = run_with(&mut configured(30.0, false), encoder.between(0, 10_000));
    let (real, silent, end) = sound(&out);
    assert_eq!(real, 0);
    assert_eq!(i64::from(silent) * 1_024, end);
    let lag = dts(&out).last().unwrap() * 48 / 90 - end;
    assert!((23_000..=24_000).contains(&lag), "{lag} samples");
}

#[test]
fn sound_that_comes_late_is_announced_and_takes_over_from_silence_in_its_place() {
    let encoder = Encoder {
        audio: false,
        ..Encoder::default()
    };
    let with = Encoder::default();
    let mut repair = configured(30.0, false);
    let mut out = run_with(&mut repair, encoder.between(0, 5_000));
    out.extend(repair.push(event(5_000, IngestEvent::AudioConfig(aac(48_000)))));
    for received in with.between(5_000, 8_000) {
        out.extend(repair.push(received));
    }
    check(&out);
    assert!(out.contains(&Repaired::AudioConfig(aac(48_000))));
    let first = out.iter().find_map(|r| match r {
        Repaired::Audio(p) => Some(p.pts),
        _ => None,
    });
    assert!((first.unwrap() - 240_000).abs() <= 1_536, "{first:?}");
}

#[test]
fn sound_that_stops_and_comes_back_leaves_silence_of_that_length() {
    let with = Encoder::default();
    let without = Encoder {
        audio: false,
        ..Encoder::default()
    };
    let events = with
        .between(0, 4_000)
        .into_iter()
        .chain(without.between(4_000, 7_000))
        .chain(with.between(7_000, 10_000));
    let out = run(events);
    assert_eq!(causes(&out), []);
    let (real, silent, end) = sound(&out);
    assert!((139..=142).contains(&silent), "{silent}");
    assert!((326..=330).contains(&real), "{real}");
    assert!((end - 480_000).abs() < 2_048, "{end}");
}

#[test]
fn an_encoder_whose_sound_comes_800_ms_late_is_given_the_time() {
    let encoder = Encoder::default();
    let mut events = encoder.between(0, 20_000);
    let place = |received: &Received| match received.event {
        IngestEvent::Audio { timestamp_ms, .. } => i64::from(timestamp_ms) + 800,
        IngestEvent::Video { timestamp_ms, .. } => i64::from(timestamp_ms),
        _ => 0,
    };
    events.sort_by_key(place);
    for received in &mut events {
        received.at = ms(place(received));
    }
    let out = run(events);
    let (real, silent, _) = sound(&out);
    assert!(real > 850, "{real} frames came through");
    assert!(silent < 60, "{silent} frames of silence");
}

#[test]
fn jitter_and_bunches_of_sound_leave_the_grid_alone() {
    let encoder = Encoder::default();
    let mut events = encoder.between(0, 30_000);
    for (n, received) in events.iter_mut().enumerate() {
        if let IngestEvent::Audio { timestamp_ms, .. } = &mut received.event {
            *timestamp_ms = *timestamp_ms / 85 * 85 + (n as u32 * 7) % 5;
        }
    }
    let out = run(events);
    assert_eq!(sound(&out).1, 0);
    assert!(sound(&out).0 >= 1_400);
}

#[test]
fn drift_of_sound_is_mended_a_frame_at_a_time() {
    // A sound card that is 0.1 % slow or fast against the picture: in 100 s that is 100 ms, about five frames.
    for (factor, silence) in [(1.001, true), (0.999, false)] {
        let encoder = Encoder {
            audio: false,
            ..Encoder::default()
        };
        let mut events: Vec<(i64, Received)> = encoder
            .between(0, 100_000)
            .into_iter()
            .map(|r| (r.at.as_millis() as i64, r))
            .collect();
        let mut frames = 0u32;
        for k in 0.. {
            let at = (f64::from(k) * 1_024.0 / 48.0 * factor).round() as i64;
            if at >= 100_000 {
                break;
            }
            frames += 1;
            events.push((at, encoder.audio(at)));
        }
        events.sort_by_key(|(at, _)| *at);
        let out = run(events.into_iter().map(|(_, received)| received));
        let (real, silent, end) = sound(&out);
        assert!((end - 4_800_000).abs() < 3 * 1_024, "{end}");
        if silence {
            assert!((3..=5).contains(&silent), "{silent}");
        } else {
            assert_eq!(silent, 0);
            assert!((3..=6).contains(&(frames - real)), "{frames} {real}");
        }
    }
}

#[test]
fn sound_and_picture_with_clocks_of_their_own_are_both_placed_by_arrival() {
    let encoder = Encoder {
        audio_base: 500_000,
        ..Encoder::default()
    };
    let out = run(encoder.between(0, 6_000));
    assert_eq!(causes(&out), []);
    let (_, silent, end) = sound(&out);
    assert!(silent < 3, "{silent}");
    assert!((end - 288_000).abs() < 4_096, "{end}");
}

#[test]
fn another_sample_rate_in_mid_stream_is_told_and_takes_the_right_time() {
    let mut repair = configured(30.0, true);
    let mut out = run_with(&mut repair, Encoder::default().between(0, 4_000));
    out.extend(repair.push(event(4_000, IngestEvent::AudioConfig(aac(44_100)))));
    let picture = Encoder {
        audio: false,
        ..Encoder::default()
    };
    let mut events: Vec<(i64, Received)> = picture
        .between(4_000, 14_000)
        .into_iter()
        .map(|r| (r.at.as_millis() as i64, r))
        .collect();
    events.extend((0..430).map(|k| {
        let at = 4_010 + k * 1_024_000 / 44_100;
        (at, picture.audio(at))
    }));
    events.sort_by_key(|(at, _)| *at);
    let (mut real, mut last) = (0, 0);
    for (_, received) in events {
        for repaired in repair.push(received) {
            match repaired {
                Repaired::Audio(packet) => {
                    real += 1;
                    assert!(packet.pts > last);
                    last = packet.pts;
                }
                Repaired::Silence { frames, .. } => assert_eq!(frames, 0, "no silence is needed"),
                _ => {}
            }
        }
    }
    assert!(
        out.iter()
            .any(|r| matches!(r, Repaired::AudioConfig(config) if config.sample_rate == 44_100))
    );
    assert_eq!(real, 430);
    assert!((last - 14_000 * 48).abs() < 3 * 1_200, "{last}");
}

#[test]
fn another_picture_size_is_a_discontinuity_and_the_same_one_is_nothing() {
    let mut repair = configured(30.0, true);
    run_with(&mut repair, Encoder::default().between(0, 4_000));
    assert_eq!(
        repair.push(event(4_000, IngestEvent::VideoConfig(avcc()))),
        []
    );
    assert_eq!(
        repair.push(event(4_000, IngestEvent::VideoConfig(other_avcc()))),
        [
            Repaired::Discontinuity(Cause::Reconfigured),
            Repaired::VideoConfig(other_avcc())
        ]
    );
}

#[test]
fn a_publisher_that_comes_back_goes_on_at_its_arrival_with_its_first_idr() {
    let mut repair = configured(30.0, true);
    let mut out = run_with(&mut repair, Encoder::default().between(0, 4_000));
    repair.reconnect();
    // Its clock is at 1 s by then, in the middle of a GOP.
    let back = Encoder {
        arrival: 10_000,
        ..Encoder::default()
    };
    for received in back.between(1_000, 6_000) {
        out.extend(repair.push(received));
    }
    check(&out);
    assert_eq!(causes(&out), [Cause::Reconnected]);
    let first = videos(&out)[120];
    assert!(first.idr);
    assert_eq!(first.dts, 12 * SECOND);
    assert!(
        !out.iter()
            .any(|r| matches!(r, Repaired::VideoConfig(_) | Repaired::AudioConfig(_)))
    );
    let after: Vec<&Repaired> = out
        .iter()
        .skip_while(|r| !matches!(r, Repaired::Discontinuity(_)))
        .collect();
    let first_sound = after.iter().find_map(|r| match r {
        Repaired::Audio(p) => Some(p.pts),
        _ => None,
    });
    assert!(
        (576_000..577_100).contains(&first_sound.unwrap()),
        "{first_sound:?}"
    );
}

#[test]
fn a_publisher_that_is_back_at_once_is_still_placed_behind_everything() {
    let mut repair = configured(30.0, true);
    // It had sent faster than real time: four seconds in one.
    let fast = Encoder::default()
        .between(0, 4_000)
        .into_iter()
        .map(|mut received| {
            received.at /= 4;
            received
        });
    let mut out = run_with(&mut repair, fast);
    repair.reconnect();
    let back = Encoder {
        arrival: 1_100,
        offset_ms: 67,
        ..Encoder::default()
    };
    for received in back.between(0, 3_000) {
        out.extend(repair.push(received));
    }
    check(&out);
    let all = videos(&out);
    assert!(all[120].pts > all[119].pts && all[120].dts > all[119].pts);
    assert_eq!(all[120].pts - all[120].dts, 6_000);
}

#[test]
fn an_interrupted_broadcast_goes_on_past_its_end() {
    let mut repair = Repair::new(Options {
        anchor_at: ms(0),
        anchor_media: ms(60_000),
        audio_rate: Some(44_100),
    });
    repair.push(event(0, metadata(30.0)));
    repair.push(event(0, IngestEvent::VideoConfig(avcc())));
    repair.push(event(0, IngestEvent::AudioConfig(aac(48_000))));
    let out: Vec<Repaired> = Encoder::default()
        .between(0, 3_000)
        .into_iter()
        .flat_map(|r| repair.push(r))
        .collect();
    assert_eq!(opened(&out).audio_rate, 44_100);
    assert_eq!(dts(&out).first(), Some(&(60 * SECOND)));
    assert!(repair.end() > ms(62_000));
}

#[test]
fn a_variable_rate_passes_with_the_stamps_that_it_has() {
    let encoder = Encoder::default();
    let mut at = 0;
    let stamps: Vec<i64> = (0..300)
        .map(|k| {
            at += 15 + (k * 7919) % 50;
            at
        })
        .collect();
    let out = run(stamps
        .iter()
        .enumerate()
        .map(|(k, at)| encoder.video(*at, k % 60 == 0)));
    assert_eq!(opened(&out).frame_rate, None);
    let first = stamps[0];
    let expected: Vec<i64> = stamps
        .iter()
        .map(|at| (at - first) * 90 + first * 90)
        .collect();
    assert_eq!(dts(&out), expected);
}

#[derive(Debug, Clone)]
enum Step {
    Video { by: i64, offset: i32, idr: bool },
    Audio { by: i64 },
    Jump(u32),
    VideoConfig(bool),
    AudioConfig,
    Reconnect,
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (-200i64..400, prop_oneof![-200i32..400, any::<i32>()], any::<bool>()).prop_map(|(by, offset, idr)| Step::Video { by, offset, idr }),
        20 => (25i64..45, Just(0), prop::bool::weighted(0.1)).prop_map(|(by, offset, idr)| Step::Video { by, offset, idr }),
        20 => (-100i64..200).prop_map(|by| Step::Audio { by }),
        20 => (20i64..23).prop_map(|by| Step::Audio { by }),
        2 => any::<u32>().prop_map(Step::Jump),
        1 => any::<bool>().prop_map(Step::VideoConfig),
        1 => Just(Step::AudioConfig),
        1 => Just(Step::Reconnect),
        1 => Just(Step::Tick),
    ]
}

proptest! {
    #[test]
    fn whatever_comes_the_timeline_holds_and_memory_is_bounded(
        steps in proptest::collection::vec(step(), 1..600),
        start in any::<u32>(),
        speed in 1i64..4,
    ) {
        let mut repair = configured(30.0, true);
        let (mut video, mut audio, mut now) = (start, start, 0i64);
        let mut out = Vec::new();
        let mut given = 0usize;
        for step in steps {
            let before = out.len();
            match step {
                Step::Video { by, offset, idr } => {
                    video = video.wrapping_add(by as u32);
                    now += by.max(0) / speed;
                    out.extend(repair.push(event(now, IngestEvent::Video {
                        timestamp_ms: video, composition_offset_ms: offset, idr, data: Bytes::from_static(b"v"),
                    })));
                }
                Step::Audio { by } => {
                    audio = audio.wrapping_add(by as u32);
                    out.extend(repair.push(event(now, IngestEvent::Audio { timestamp_ms: audio, data: Bytes::from_static(b"a") })));
                }
                Step::Jump(by) => { video = video.wrapping_add(by); audio = audio.wrapping_add(by); }
                Step::VideoConfig(same) => {
                    let config = if same { avcc() } else { other_avcc() };
                    out.extend(repair.push(event(now, IngestEvent::VideoConfig(config))));
                }
                // Of the same rate: with another one frames are of another length, which has its own test.
                Step::AudioConfig => out.extend(repair.push(event(now, IngestEvent::AudioConfig(aac(48_000))))),
                Step::Reconnect => repair.reconnect(),
                Step::Tick => out.extend(repair.tick(ms(now))),
            }
            given = given.max(out.len() - before);
        }
        check(&out);
        // What one event lets out is what was held, and a piece of silence for each at most.
        prop_assert!(given <= 3 * MOST_HELD + 8, "{}", given);
    }
}
