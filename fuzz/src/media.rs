//! Parameter sets, timestamp repair, and the cut rule.

use std::time::Duration;

use bytes::Bytes;
use media_core::{
    codec::{aac, avc, nal, sps},
    media::{
        AAC_FRAME_SAMPLES, AudioConfig, FrameRate, IngestEvent, Metadata, Received,
        VIDEO_TIMESCALE, VideoConfig, rescale,
    },
    package::{Cut, Cutter, ForcedCut, cmaf, cut::MAX_SEGMENT},
    repair::{Options, Repair, Repaired},
};

use crate::bytes_in::BytesIn;

/// H.264 and AAC configuration and access units, each reader over the same bytes.
pub fn parameter_sets(bytes: &[u8]) {
    if let Ok(sps) = sps::parse(bytes) {
        assert!(sps.width > 0 && sps.height > 0);
        assert!(
            sps.frame_rate
                .is_none_or(|rate| rate.num > 0 && rate.den > 0)
        );
    }
    let _ = avc::first_sps(bytes);
    if let Ok(sets) = avc::ParameterSets::from_annex_b(bytes) {
        check_record(&sets);
    }
    if let Ok(aac) = aac::parse(bytes) {
        assert!(aac.frame_samples > 0 && aac.sample_rate > 0 && aac.channels > 0);
        assert!(
            cmaf::audio_header(bytes, aac.sample_rate).is_ok(),
            "a configuration that was read cannot be packaged"
        );
    }
    let units: Vec<&[u8]> = nal::annex_b(bytes).collect();
    let wrapped = nal::to_length_prefixed(units.iter().copied());
    assert!(nal::length_prefixed(&wrapped).eq(units));
    for length_size in 1..=4 {
        let _ = nal::with_lengths(bytes, length_size).count();
    }

    // A record with its length in front, and an access unit behind it.
    let mut rest = BytesIn(bytes);
    let length = rest.u8().unwrap_or(0);
    let record = rest.take(length.into());
    if let Ok(mut sets) = avc::ParameterSets::from_record(record) {
        check_record(&sets);
        if let Ok(unit) = sets.access_unit(&Bytes::copy_from_slice(rest.0)) {
            let units: usize = nal::length_prefixed(&unit.data).map(|u| 4 + u.len()).sum();
            assert_eq!(
                units,
                unit.data.len(),
                "an access unit is not of whole NAL units"
            );
        }
        check_record(&sets);
    }
}

/// What is written of parameter sets reads back, and can be packaged where its first one can be read.
fn check_record(sets: &avc::ParameterSets) {
    let record = sets.record();
    assert_eq!(record.is_ok(), sets.is_complete());
    let Ok(record) = record else {
        return;
    };
    let again = avc::ParameterSets::from_record(&record).and_then(|sets| sets.record());
    assert_eq!(
        again.as_ref(),
        Ok(&record),
        "what was written reads otherwise"
    );
    assert_eq!(
        cmaf::video_header(&record).is_ok(),
        avc::first_sps(&record).is_ok()
    );
}

/// A configuration as ingest gives it out.
fn video_config(record: &[u8]) -> Option<VideoConfig> {
    let sets = avc::ParameterSets::from_record(record).and_then(|sets| sets.record());
    sets.ok().map(|avcc| VideoConfig { avcc })
}

/// An encoder's events with any stamps and arrival times: a byte for the kind of each, then its numbers.
pub fn repair(bytes: &[u8]) {
    let mut bytes = BytesIn(bytes);
    let (Some(choice), Some(anchor_ms)) = (bytes.u8(), bytes.u16()) else {
        return;
    };
    let rates = [None, Some(48_000), Some(44_100), Some(32_000)];
    let mut repair = Repair::new(Options {
        anchor_at: Duration::ZERO,
        anchor_media: Duration::from_millis(anchor_ms.into()),
        audio_rate: rates[usize::from(choice) % rates.len()],
    });
    let mut timeline = Timeline::default();
    let mut at = Duration::ZERO;
    let (mut video, mut audio) = (0u32, 0u32);
    while let Some(kind) = bytes.u8() {
        let mut next = |wait_ms: u8| {
            at += Duration::from_millis(u64::from(wait_ms));
            at
        };
        let stamp_after = |last: u32, by: u16| last.wrapping_add_signed(i32::from(by as i16));
        let event = match kind & 0x0f {
            0..=5 => {
                let (Some(by), Some(offset), Some(wait)) = (bytes.u16(), bytes.u16(), bytes.u8())
                else {
                    break;
                };
                video = stamp_after(video, by);
                next(wait);
                Some(IngestEvent::Video {
                    timestamp_ms: video,
                    composition_offset_ms: i32::from(offset as i16),
                    idr: kind & 0x80 != 0,
                    data: Bytes::from_static(b"v"),
                })
            }
            6..=9 => {
                let (Some(by), Some(wait)) = (bytes.u16(), bytes.u8()) else {
                    break;
                };
                audio = stamp_after(audio, by);
                next(wait);
                Some(IngestEvent::Audio {
                    timestamp_ms: audio,
                    data: Bytes::from_static(b"a"),
                })
            }
            10 => {
                let Some(by) = bytes.u32() else { break };
                if kind & 0x80 == 0 {
                    video = video.wrapping_add(by);
                }
                if kind & 0x40 == 0 {
                    audio = audio.wrapping_add(by);
                }
                None
            }
            11 => {
                let length = bytes.u8().unwrap_or(0);
                video_config(bytes.take(length.into())).map(IngestEvent::VideoConfig)
            }
            12 => {
                let length = bytes.u8().unwrap_or(0);
                let asc = Bytes::copy_from_slice(bytes.take(length.into()));
                aac::audio_config(&asc).ok().map(IngestEvent::AudioConfig)
            }
            13 => Some(IngestEvent::Metadata(Metadata {
                frame_rate: bytes.u32().map(|bits| f32::from_bits(bits).into()),
                ..Metadata::default()
            })),
            14 => {
                repair.reconnect();
                None
            }
            _ => {
                let now = next(255);
                timeline.take(repair.tick(now));
                None
            }
        };
        if let Some(event) = event {
            timeline.take(repair.push(Received { at, event }));
        }
        assert!(repair.end() >= Duration::from_millis(anchor_ms.into()));
    }
}

/// What holds of everything that repair gives out.
#[derive(Default)]
struct Timeline {
    opened: bool,
    audio_rate: u32,
    /// Samples of a source frame and the rate they are counted in.
    frame: (u32, u32),
    dts: Option<i64>,
    /// Where sound ended, and the samples by which a sum of rounded frames may be off.
    end: Option<(i64, i64)>,
    broken: bool,
}

impl Timeline {
    fn configure(&mut self, config: &AudioConfig) {
        self.frame = match aac::parse(&config.asc) {
            Ok(asc) => (asc.frame_samples, asc.sample_rate),
            Err(_) => (AAC_FRAME_SAMPLES, config.sample_rate),
        };
    }

    fn take(&mut self, given: Vec<Repaired>) {
        // What one event lets out is what was held, each with a piece of silence and a discontinuity at most.
        assert!(given.len() < 2_000, "{} at once", given.len());
        for repaired in given {
            assert_eq!(
                self.opened,
                !matches!(repaired, Repaired::Opened(_)),
                "opened first, and once"
            );
            match repaired {
                Repaired::Opened(opened) => {
                    self.opened = true;
                    self.audio_rate = opened.audio_rate;
                    if let Some(config) = &opened.audio {
                        self.configure(config);
                    }
                }
                Repaired::Discontinuity(_) => self.broken = true,
                Repaired::VideoConfig(_) => {}
                Repaired::AudioConfig(config) => self.configure(&config),
                Repaired::Video(packet) => {
                    assert!(
                        self.dts.is_none_or(|dts| packet.dts > dts),
                        "decoding times go back"
                    );
                    assert!((packet.pts - packet.dts).abs() <= 6 * i64::from(VIDEO_TIMESCALE));
                    self.dts = Some(packet.dts);
                }
                Repaired::Audio(packet) => {
                    let (samples, rate) = self.frame;
                    let length = rescale(samples.into(), rate, self.audio_rate);
                    self.sound(packet.pts, length, i64::from(rate != self.audio_rate));
                }
                Repaired::Silence { pts, frames } => {
                    assert!(frames > 0);
                    self.sound(pts, i64::from(frames) * i64::from(AAC_FRAME_SAMPLES), 0);
                }
            }
        }
    }

    fn sound(&mut self, pts: i64, samples: i64, off: i64) {
        if let Some((end, off)) = self.end {
            assert!(pts >= end - off, "sound overlaps: {pts} before {end}");
            assert!(
                self.broken || pts <= end + off,
                "a hole in the sound: {pts} after {end}"
            );
        }
        self.broken = false;
        self.end = Some((pts + samples, off));
    }
}

/// Frames a second that a source may claim to keep.
const RATES: [(u32, u32); 4] = [(24_000, 1_001), (25, 1), (30, 1), (60, 1)];

/// Dense frames in order, or (bit 7 of the first byte) any times at all with cuts resolved late.
pub fn cut(bytes: &[u8]) {
    let mut bytes = BytesIn(bytes);
    let Some(choice) = bytes.u8() else { return };
    if choice & 0x80 == 0 {
        dense_frames(&mut bytes, choice);
    } else {
        any_frames(&mut bytes, choice);
    }
}

fn dense_frames(bytes: &mut BytesIn<'_>, choice: u8) {
    let rate = RATES
        .get(usize::from(choice))
        .map(|&(num, den)| FrameRate { num, den });
    let longest = MAX_SEGMENT.as_millis() as i64 * i64::from(VIDEO_TIMESCALE) / 1_000;
    let mut cutter = Cutter::new(7, rate, false);
    let (mut pts, mut begun, mut msn) = (0i64, None, 7);
    while let Some(gap) = bytes.u16() {
        // Bit 0: an IDR. The rest: up to 0.18 s to the next frame.
        let boundary = match cutter.decide(pts, gap & 1 == 1) {
            Cut::Drop => {
                assert!(begun.is_none());
                None
            }
            Cut::Continue => None,
            Cut::AtIdr(boundary) => Some(boundary),
            Cut::Forced(forced) => Some(cutter.resolve(forced, pts)),
        };
        if let Some(boundary) = boundary {
            assert_eq!((boundary.msn, boundary.pts), (msn, pts));
            msn += 1;
            begun = Some(pts);
        }
        if let Some(begun) = begun {
            assert!(pts - begun < longest, "a segment of {} ticks", pts - begun);
            assert_eq!(cutter.frontier(), Some(pts));
        }
        assert!(
            boundary.is_none_or(|boundary| !boundary.discontinuity),
            "frames were dense"
        );
        pts += rate.map_or(i64::from(gap >> 2) + 1, |rate| {
            rate.ticks(1, VIDEO_TIMESCALE)
        });
    }
}

fn any_frames(bytes: &mut BytesIn<'_>, choice: u8) {
    let mut cutter = Cutter::new(0, None, choice & 1 == 1);
    let (mut msn, mut waiting): (u64, Option<(ForcedCut, u8)>) = (0, None);
    while !bytes.is_empty() {
        let (Some(flags), Some(pts)) = (bytes.u8(), bytes.u32()) else {
            return;
        };
        if flags & 2 != 0 {
            cutter.discontinuity();
        }
        let rate = RATES
            .get(usize::from(flags >> 2 & 7))
            .map(|&(num, den)| FrameRate { num, den });
        if flags & 0x20 != 0 {
            cutter.set_frame_rate(rate);
        }
        match cutter.decide(i64::from(pts as i32), flags & 1 == 1) {
            Cut::Drop | Cut::Continue => {}
            Cut::AtIdr(boundary) => {
                assert_eq!(boundary.msn, msn, "numbers follow each other");
                msn += 1;
            }
            Cut::Forced(forced) => {
                assert!(
                    waiting.is_none(),
                    "a cut was forced before the last one was resolved"
                );
                assert_eq!(forced.msn, msn, "numbers follow each other");
                msn += 1;
                waiting = Some((forced, flags >> 6));
            }
        }
        assert_eq!(cutter.next_msn(), msn);
        waiting = match waiting {
            Some((forced, 0)) => {
                let first = forced.after_pts.saturating_add(1);
                assert_eq!(cutter.resolve(forced, first).msn, forced.msn);
                None
            }
            other => other.map(|(forced, wait)| (forced, wait - 1)),
        };
    }
}
