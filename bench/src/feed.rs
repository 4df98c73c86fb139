//! A box that says what a sound one says, without media: tracks, parts and segments of a broadcast of full ladder.

use anyhow::Result;
use protocol::{
    link::{Numbered, Opened, Part, Segment, ToEdge, Track, TrackKind},
    names::{BroadcastId, StreamName, Tag, TrackName},
    object_key::{ObjectKey, ObjectKind},
};

/// A part, milliseconds.
const PART_MS: i64 = 333;
/// Parts of a segment.
const PARTS: u32 = 6;
/// What a playlist lists, seconds.
const WINDOW_S: u32 = 60;
/// Segments that fill the window.
const SEGMENTS: u32 = 30;

/// What is live: name, and pixels of a picture.
const TRACKS: [(&str, Option<(u32, u32)>); 5] = [
    ("v-source", Some((1920, 1080))),
    ("v-720p30", Some((1280, 720))),
    ("v-480p30", Some((854, 480))),
    ("v-360p30", Some((640, 360))),
    ("a-aac-128k", None),
];

/// The track that is asked for, its place in [`TRACKS`].
const ASKED: usize = 1;

/// One broadcast.
pub(crate) struct Feed {
    stream: StreamName,
    broadcast: BroadcastId,
    epoch_unix_ms: i64,
    seq: u64,
    tags: u64,
    tracks: Vec<TrackName>,
    hints: Vec<ObjectKey>,
    msn: u64,
    part: u32,
    /// Media time of the part to come, milliseconds.
    at_ms: i64,
    segment_ms: i64,
}

impl Feed {
    /// A broadcast of `stream`, one of several by its number, that has been on for as long as the window, at this Unix time.
    pub(crate) fn new(stream: StreamName, number: u8, now_unix_ms: i64) -> Result<Self> {
        let tracks: Result<Vec<TrackName>, _> =
            TRACKS.iter().map(|(name, _)| name.parse()).collect();
        Ok(Self {
            stream,
            broadcast: BroadcastId::from_random([number; 16]),
            epoch_unix_ms: now_unix_ms - i64::from(WINDOW_S) * 1_000,
            seq: 0,
            tags: 0,
            tracks: tracks?,
            hints: Vec::new(),
            msn: 0,
            part: 0,
            at_ms: 0,
            segment_ms: 0,
        })
    }

    pub(crate) fn broadcast(&self) -> BroadcastId {
        self.broadcast.clone()
    }

    /// Path of the media playlist that is asked for.
    pub(crate) fn path(&self) -> String {
        let track = TRACKS.get(ASKED).map_or("", |(name, _)| name);
        format!(
            "/live/{}/{}/-/{track}/index.m3u8",
            self.stream, self.broadcast
        )
    }

    /// The same with the directives that wait for the part to come.
    pub(crate) fn next_path(&self) -> String {
        format!(
            "{}?_HLS_msn={}&_HLS_part={}",
            self.path(),
            self.msn,
            self.part
        )
    }

    /// Everything up to a full window.
    pub(crate) fn begin(&mut self) -> Vec<Numbered> {
        let opened = ToEdge::Opened(Opened {
            stream: self.stream.clone(),
            broadcast: self.broadcast.clone(),
            epoch_unix_ms: self.epoch_unix_ms,
            first_msn: 0,
            window_s: WINDOW_S,
        });
        let mut messages = vec![self.number(opened)];
        for (index, (_, picture)) in TRACKS.iter().enumerate() {
            let kind = match *picture {
                Some((width, height)) => TrackKind::Video {
                    width,
                    height,
                    frame_rate: Some((30, 1)),
                },
                None => TrackKind::Audio {
                    sample_rate: 48_000,
                    channels: 2,
                },
            };
            let first_part = self.key(index, ObjectKind::Part { msn: 0, part: 0 });
            self.hints.push(first_part.clone());
            let track = Track {
                name: self.name(index),
                kind,
                codecs: if picture.is_some() {
                    "avc1.64001f"
                } else {
                    "mp4a.40.2"
                }
                .into(),
                timescale: timescale(index),
                part_target: ticks(index, PART_MS),
                nominal_bps: 1_000_000,
                init: self.key(index, ObjectKind::Init { n: 0 }),
                from_msn: 0,
                first_part,
            };
            messages.push(self.number(ToEdge::Track(track)));
        }
        for _ in 0..SEGMENTS * PARTS {
            let (asked, rest) = self.step();
            messages.push(asked);
            messages.extend(rest);
        }
        messages
    }

    /// The next part in all tracks: the one of the track that is asked for, then the rest, with the segments that end.
    pub(crate) fn step(&mut self) -> (Numbered, Vec<Numbered>) {
        let last = self.part + 1 == PARTS;
        let asked = self.part_message(ASKED, last);
        let others = (0..TRACKS.len()).filter(|index| *index != ASKED);
        let mut rest: Vec<Numbered> = others.map(|index| self.part_message(index, last)).collect();
        self.at_ms += PART_MS;
        self.segment_ms += PART_MS;
        self.part += 1;
        if last {
            let start = self.at_ms - self.segment_ms;
            for index in 0..TRACKS.len() {
                let segment = Segment {
                    track: self.name(index),
                    msn: self.msn,
                    key: Some(self.key(index, ObjectKind::Segment { msn: self.msn })),
                    start: ticks(index, start).cast_signed(),
                    duration: ticks(index, PART_MS) * u64::from(PARTS),
                    size: 40_000 * u64::from(PARTS),
                };
                rest.push(self.number(ToEdge::Segment(segment)));
            }
            (self.msn, self.part, self.segment_ms) = (self.msn + 1, 0, 0);
        }
        (asked, rest)
    }

    fn part_message(&mut self, index: usize, last: bool) -> Numbered {
        let (msn, part) = if last {
            (self.msn + 1, 0)
        } else {
            (self.msn, self.part + 1)
        };
        let next = self.key(index, ObjectKind::Part { msn, part });
        let key = match self.hints.get_mut(index) {
            Some(hint) => std::mem::replace(hint, next.clone()),
            None => next.clone(),
        };
        let message = ToEdge::Part(Part {
            track: self.name(index),
            msn: self.msn,
            part: self.part,
            key,
            start: ticks(index, self.at_ms).cast_signed(),
            duration: ticks(index, PART_MS),
            independent: self.part == 0 || !self.name(index).is_video(),
            size: 40_000,
            next,
        });
        self.number(message)
    }

    fn number(&mut self, message: ToEdge) -> Numbered {
        self.seq += 1;
        Numbered {
            seq: self.seq,
            message,
        }
    }

    fn name(&self, index: usize) -> TrackName {
        self.tracks[index].clone()
    }

    fn key(&mut self, index: usize, kind: ObjectKind) -> ObjectKey {
        self.tags += 1;
        let mut random = [0; 12];
        for (to, from) in random.iter_mut().zip(self.tags.to_le_bytes()) {
            *to = from;
        }
        ObjectKey {
            stream: self.stream.clone(),
            broadcast: self.broadcast.clone(),
            track: self.name(index),
            kind,
            tag: Tag::from_random(random),
        }
    }
}

fn timescale(index: usize) -> u32 {
    match TRACKS.get(index) {
        Some((_, None)) => 48_000,
        _ => 90_000,
    }
}

fn ticks(index: usize, ms: i64) -> u64 {
    ms.unsigned_abs() * u64::from(timescale(index)) / 1_000
}
