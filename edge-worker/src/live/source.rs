#![allow(clippy::unwrap_used)]
//! A media-core for tests: it says what a sound one says.

use protocol::{
    link::{CloseReason, Numbered, Opened, Part, Segment, ToEdge, Track, TrackKind},
    names::{BroadcastId, Tag, TrackName},
    object_key::{ObjectKey, ObjectKind},
};

/// Unix time of its timeline's zero, milliseconds.
pub(crate) const EPOCH: i64 = 1_790_000_000_000;

/// A media-core that says what a sound one says.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) seq: u64,
    tags: u64,
    inits: u32,
    tracks: Vec<TrackName>,
    hints: Vec<ObjectKey>,
    pub(crate) msn: u64,
    /// Media time of the next segment, milliseconds.
    pub(crate) at_ms: i64,
}

pub(crate) const PART_MS: u64 = 333;

impl Source {
    pub(crate) fn new() -> Self {
        Self {
            seq: 0,
            tags: 0,
            inits: 0,
            tracks: ["v-720p30", "v-360p30", "a-aac-128k"]
                .iter()
                .map(|n| n.parse().unwrap())
                .collect(),
            hints: Vec::new(),
            msn: 0,
            at_ms: 0,
        }
    }

    fn number(&mut self, message: ToEdge) -> Numbered {
        self.seq += 1;
        Numbered {
            seq: self.seq,
            message,
        }
    }

    fn key(&mut self, track: &TrackName, kind: ObjectKind) -> ObjectKey {
        self.tags += 1;
        let mut random = [0; 12];
        random[..8].copy_from_slice(&self.tags.to_le_bytes());
        ObjectKey {
            stream: "demo".parse().unwrap(),
            broadcast: BroadcastId::from_random([1; 16]),
            track: track.clone(),
            kind,
            tag: Tag::from_random(random),
        }
    }

    fn timescale(track: &TrackName) -> u32 {
        if track.is_video() { 90_000 } else { 48_000 }
    }

    fn ticks(track: &TrackName, ms: i64) -> i64 {
        ms * i64::from(Self::timescale(track)) / 1_000
    }

    pub(crate) fn open(&mut self) -> Vec<Numbered> {
        let opened = ToEdge::Opened(Opened {
            stream: "demo".parse().unwrap(),
            broadcast: BroadcastId::from_random([1; 16]),
            epoch_unix_ms: EPOCH,
            first_msn: self.msn,
            window_s: 60,
        });
        let mut messages = vec![self.number(opened)];
        messages.extend(self.announce());
        messages
    }

    /// All tracks with a new init from the next segment on.
    pub(crate) fn announce(&mut self) -> Vec<Numbered> {
        self.hints.clear();
        let n = self.inits;
        self.inits += 1;
        let mut messages = Vec::new();
        for name in self.tracks.clone() {
            let first_part = self.key(
                &name,
                ObjectKind::Part {
                    msn: self.msn,
                    part: 0,
                },
            );
            self.hints.push(first_part.clone());
            let kind = match name.is_video() {
                true => TrackKind::Video {
                    width: if name.as_str().contains("720") {
                        1_280
                    } else {
                        640
                    },
                    height: if name.as_str().contains("720") {
                        720
                    } else {
                        360
                    },
                    frame_rate: Some((30, 1)),
                },
                false => TrackKind::Audio {
                    sample_rate: 48_000,
                    channels: 2,
                },
            };
            let track = Track {
                codecs: if name.is_video() {
                    "avc1.64001f".into()
                } else {
                    "mp4a.40.2".into()
                },
                timescale: Self::timescale(&name),
                part_target: Self::ticks(&name, PART_MS as i64) as u64,
                nominal_bps: 1_000_000,
                init: self.key(&name, ObjectKind::Init { n }),
                from_msn: self.msn,
                first_part,
                kind,
                name,
            };
            messages.push(self.number(ToEdge::Track(track)));
        }
        messages
    }

    pub(crate) fn discontinuity(&mut self, gap_ms: i64) -> Vec<Numbered> {
        self.at_ms += gap_ms;
        let msn = self.msn;
        let mut messages = vec![self.number(ToEdge::Discontinuity { msn })];
        messages.extend(self.announce());
        messages
    }

    /// One segment of `parts` whole parts and a last one of `last_ms`, in all tracks, part by part; `lost` without a key.
    pub(crate) fn segment(&mut self, parts: u32, last_ms: u64, lost: bool) -> Vec<Numbered> {
        let mut messages = Vec::new();
        let durations: Vec<u64> = (0..parts)
            .map(|_| PART_MS)
            .chain((last_ms > 0).then_some(last_ms))
            .collect();
        let mut starts = vec![self.at_ms; self.tracks.len()];
        for (index, ms) in durations.iter().enumerate() {
            for (t, start) in starts.iter_mut().enumerate() {
                let last = index + 1 == durations.len();
                messages.push(self.part(t, index as u32, start, *ms, last));
            }
        }
        let total: u64 = durations.iter().sum();
        for name in self.tracks.clone() {
            let key = self.key(&name, ObjectKind::Segment { msn: self.msn });
            let duration: i64 = durations
                .iter()
                .map(|ms| Self::ticks(&name, *ms as i64))
                .sum();
            let segment = Segment {
                track: name.clone(),
                msn: self.msn,
                key: (!lost).then_some(key),
                start: Self::ticks(&name, self.at_ms),
                duration: duration as u64,
                size: if lost {
                    0
                } else {
                    40_000 * durations.len() as u64
                },
            };
            messages.push(self.number(ToEdge::Segment(segment)));
        }
        self.msn += 1;
        self.at_ms += total as i64;
        messages
    }

    fn part(&mut self, t: usize, part: u32, start_ms: &mut i64, ms: u64, last: bool) -> Numbered {
        let name = self.tracks[t].clone();
        let kind = match last {
            true => ObjectKind::Part {
                msn: self.msn + 1,
                part: 0,
            },
            false => ObjectKind::Part {
                msn: self.msn,
                part: part + 1,
            },
        };
        let next = self.key(&name, kind);
        let key = std::mem::replace(&mut self.hints[t], next.clone());
        let message = ToEdge::Part(Part {
            track: name.clone(),
            msn: self.msn,
            part,
            key,
            start: Self::ticks(&name, *start_ms),
            duration: Self::ticks(&name, ms as i64) as u64,
            independent: part == 0 || !name.is_video(),
            size: 40_000,
            next,
        });
        *start_ms += ms as i64;
        self.number(message)
    }

    pub(crate) fn close(&mut self) -> Numbered {
        self.number(ToEdge::Closed {
            reason: CloseReason::Unpublished,
        })
    }
}
