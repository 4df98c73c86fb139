//! Link messages, the live timeline and its texts, and addresses.

use std::{collections::BTreeMap, fmt::Debug};

use edge_worker::{
    live::{Broadcast, Directives, Head, Verdict},
    playlist::{Text, lint, render},
    routes::{self, Route},
};
use protocol::{
    link::{
        CloseReason, MAX_MESSAGE_BYTES, Numbered, Opened, Part, Resume, Segment, ToCore, ToEdge,
        Track, TrackKind,
    },
    names::{BroadcastId, NameError, StreamName, Tag, TrackName},
    object_key::{ObjectKey, ObjectKind},
    stream_key::StreamKey,
};
use serde_json::{from_slice, from_str, to_vec};

use crate::bytes_in::BytesIn;

/// Link messages: what is read is written and read again as the same.
pub fn messages(bytes: &[u8]) {
    fn again<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
        if let Ok(message) = from_slice::<T>(bytes) {
            let written = to_vec(&message);
            assert!(written.is_ok(), "what was read cannot be written");
            let read = written.and_then(|written| from_slice(&written));
            assert_eq!(read.ok(), Some(message));
        }
    }
    let bytes = bytes.get(..MAX_MESSAGE_BYTES).unwrap_or(bytes);
    again::<Numbered>(bytes);
    again::<ToCore>(bytes);
    again::<Resume>(bytes);
    let _ = Broadcast::restore(bytes, 0);
}

/// Media keys, names and stream keys: each has one text.
pub fn keys(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    if let Ok(key) = text.parse::<ObjectKey>() {
        assert_eq!(key.to_string(), text);
    }
    if let Ok(name) = text.parse::<StreamName>() {
        assert_eq!(name.as_str(), text);
    }
    if let Ok(name) = text.parse::<TrackName>() {
        assert_eq!(name.as_str(), text);
        let _ = name.is_video();
    }
    if let Ok(key) = text.parse::<StreamKey>() {
        assert_eq!(key.reveal(), text);
        assert!(key.matches(&key.digest()));
    }
}

/// A method by its first byte, then a path with its query, as a viewer sends them.
pub fn requests(bytes: &[u8]) {
    let Some((&choice, target)) = bytes.split_first() else {
        return;
    };
    let methods = [
        http::Method::GET,
        http::Method::HEAD,
        http::Method::OPTIONS,
        http::Method::POST,
        http::Method::PUT,
        http::Method::DELETE,
    ];
    let method = &methods[usize::from(choice) % methods.len()];
    let target = String::from_utf8_lossy(target);
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&*target, None),
    };
    let caching = routes::Caching::Immutable;
    match routes::parse(method, path, query) {
        Ok(route) => {
            let _ = routes::headers(Some(&route), http::StatusCode::OK, caching);
            if let Route::Media(_, directives) = &route {
                verdicts(directives);
            }
            if let Route::Asset(path) = &route {
                assert!(!path.contains("..") || !path.split('/').any(|s| s.starts_with('.')));
                assert!(
                    !path.starts_with('/') && !path.contains('\\'),
                    "{path} may lie elsewhere"
                );
                let _ = routes::asset_caching(path);
            }
        }
        Err(problem) => assert!(problem.status.is_client_error()),
    }
}

fn verdicts(directives: &Directives) {
    for (next_msn, parts, last_parts) in [
        (0, 0, 0),
        (7, 0, 6),
        (7, 3, 6),
        (1 << 53, 128, 128),
        (u64::MAX - 1, 1, 1),
    ] {
        for ended in [false, true] {
            let head = Head {
                next_msn,
                parts,
                last_parts,
                advance_parts: 9,
                ended,
            };
            let verdict = head.verdict(directives);
            let _ = head.is_at_the_end(directives);
            assert!(!ended || directives.msn.is_none() || verdict == Verdict::Ready);
        }
    }
}

/// Any messages, one a line as JSON; `!gone`, `!back`, `!tick` and `!restart` are what else may happen, and `!next` before a message gives it
/// the number that is due, so that one changed line does not end the broadcast. Whatever is accepted renders, and keeps the rules that
/// do not depend on the box; whatever is refused changes nothing.
pub fn timeline(bytes: &[u8]) {
    let mut now = 1_790_000_000_000;
    let mut state: Option<Broadcast> = None;
    for line in bytes.split(|byte| *byte == b'\n').take(400) {
        now += 100;
        let (due, line) = match line.strip_prefix(b"!next") {
            Some(line) => (true, line),
            None => (false, line),
        };
        if let (Some(broadcast), Some(b'!')) = (&mut state, line.first()) {
            match line {
                b"!gone" => {
                    broadcast.link_gone(now);
                    let _ = broadcast.resume(now);
                }
                b"!back" => broadcast.link_connected(),
                b"!tick" => {
                    now += 30_000;
                    let _ = broadcast.tick(now);
                }
                b"!restart" => {
                    let restored = broadcast
                        .snapshot()
                        .and_then(|text| Broadcast::restore(&text, now));
                    assert!(restored.is_ok(), "its own snapshot is not restored");
                    state = restored.ok();
                }
                _ => {}
            }
            continue;
        }
        let Ok(mut numbered) = from_slice::<Numbered>(line) else {
            continue;
        };
        let Some(broadcast) = &mut state else {
            state = Broadcast::begin(&numbered, now)
                .ok()
                .map(|(broadcast, _)| broadcast);
            continue;
        };
        if due {
            numbered.seq = broadcast.seq().saturating_add(1);
        }
        let before = broadcast.clone();
        let heads: Vec<u64> = heads(broadcast);
        match broadcast.apply(&numbered, now) {
            Ok(applied) => {
                assert!(
                    heads
                        .iter()
                        .zip(self::heads(broadcast))
                        .all(|(old, new)| *old <= new)
                );
                if applied.store {
                    broadcast.stored(broadcast.seq(), broadcast.reserved_msn());
                }
            }
            Err(_) => assert_eq!(*broadcast, before, "a refused message changed something"),
        }
    }
    if let Some(broadcast) = &state {
        let _ = render(broadcast, Text::Dash);
        let _ = render(broadcast, Text::Multivariant);
        for (full, delta) in texts(broadcast).values() {
            box_independent(full, lint::media(full));
            if delta != full {
                box_independent(delta, lint::delta(full, delta));
            }
        }
    }
}

/// Number of the running segment, track by track.
fn heads(broadcast: &Broadcast) -> Vec<u64> {
    broadcast
        .tracks()
        .iter()
        .map(|track| track.next_msn())
        .collect()
}

/// Each track's playlist and delta update.
fn texts(broadcast: &Broadcast) -> BTreeMap<String, (String, String)> {
    let tracks = broadcast.tracks().iter().enumerate();
    let text = |track, skip| render(broadcast, Text::Media { track, skip });
    tracks
        .map(|(track, live)| {
            (
                live.name().to_string(),
                (text(track, false), text(track, true)),
            )
        })
        .collect()
}

/// Findings that a box can bring about by what it says, however carefully the edge writes it down.
const OF_THE_BOX: [&str; 8] = [
    "is shorter than 85 %",
    "changes its EXT-X-MAP without a discontinuity",
    "is listed twice",
    "the preload hint is a listed part",
    "the date of segment",
    "is empty",
    // An empty part, and a date of a time before the epoch, are of the same kind.
    "is no date",
    "lists no parts",
];

fn box_independent(text: &str, findings: lint::Findings) {
    let ours: Vec<&String> = findings
        .iter()
        .filter(|finding| !OF_THE_BOX.iter().any(|theirs| finding.contains(theirs)))
        .collect();
    assert!(ours.is_empty(), "{ours:#?}\n{text}");
}

/// What a sound box says, with any lengths, losses, discontinuities, replays and restarts: every text keeps every rule at every step.
pub fn playlists(bytes: &[u8]) {
    let mut bytes = BytesIn(bytes);
    let mut edge = Edge::default();
    let mut source = Source::default();
    edge.hear(source.open());
    for _ in 0..60 {
        let Some(step) = bytes.u8() else { break };
        match step & 7 {
            0..=4 => {
                let (Some(parts), Some(last)) = (bytes.u8(), bytes.u16()) else {
                    break;
                };
                // At most 12 parts of 333 ms and 332 ms more: 4.33 s.
                edge.hear(source.segment(
                    1 + u64::from(parts) % 12,
                    u64::from(last) % 333,
                    step & 0xf8 == 0xf8,
                ));
            }
            5 => {
                let Some(gap_ms) = bytes.u16() else { break };
                edge.hear(source.discontinuity(gap_ms.into()));
            }
            6 => edge.replay(),
            _ => edge.restart(),
        }
        edge.check();
    }
    let seq = source.seq + 1;
    let message = ToEdge::Closed {
        reason: CloseReason::Unpublished,
    };
    edge.hear(vec![Numbered { seq, message }]);
    edge.check();
}

const EPOCH_MS: i64 = 1_790_000_000_000;
const PART_MS: u64 = 333;

/// The edge with what it has stored, and the texts that viewers have seen.
#[derive(Default)]
struct Edge {
    broadcast: Option<Broadcast>,
    snapshot: Vec<u8>,
    /// What the box keeps for a replay.
    unstored: Vec<Numbered>,
    seen: BTreeMap<String, (String, String)>,
}

impl Edge {
    fn hear(&mut self, messages: Vec<Numbered>) {
        for message in messages {
            self.unstored.push(message.clone());
            self.apply(&message);
        }
    }

    fn apply(&mut self, message: &Numbered) {
        let applied = match &mut self.broadcast {
            None => Broadcast::begin(message, EPOCH_MS).map(|(new, applied)| {
                self.broadcast = Some(new);
                applied
            }),
            Some(broadcast) => {
                assert!(
                    !broadcast.needs_store_before(&message.message),
                    "{message:?} waits"
                );
                broadcast.apply(message, EPOCH_MS)
            }
        };
        assert!(applied.is_ok(), "{message:?}: {applied:?}");
        if let Some(broadcast) = &mut self.broadcast
            && applied.is_ok_and(|applied| applied.store)
        {
            self.snapshot = broadcast.snapshot().unwrap_or_default();
            broadcast.stored(broadcast.seq(), broadcast.reserved_msn());
            let stored = broadcast.stored_seq();
            self.unstored.retain(|message| message.seq > stored);
        }
    }

    fn replay(&mut self) {
        let before = self.broadcast.clone();
        for message in self.unstored.clone() {
            self.apply(&message);
        }
        assert_eq!(self.broadcast, before, "a replay changed something");
    }

    fn restart(&mut self) {
        let restored = Broadcast::restore(&self.snapshot, EPOCH_MS);
        assert!(restored.is_ok(), "its own snapshot is not restored");
        self.broadcast = restored.ok();
        for message in self.unstored.clone() {
            self.apply(&message);
        }
    }

    fn check(&mut self) {
        let Some(broadcast) = self.broadcast.as_ref().filter(|b| b.is_playable()) else {
            return;
        };
        let sound = |findings: lint::Findings, text: &str| {
            assert!(findings.is_empty(), "{findings:#?}\n{text}")
        };
        let texts = texts(broadcast);
        for (name, (full, delta)) in &texts {
            sound(lint::media(full), full);
            if delta != full {
                sound(lint::delta(full, delta), delta);
            }
            if let Some((before, _)) = self.seen.get(name) {
                sound(lint::update(before, full), &format!("{before}\n{full}"));
            }
        }
        let full = texts
            .iter()
            .map(|(name, (full, _))| (name.clone(), full.clone()));
        sound(lint::renditions(&full.collect()), "");
        let multivariant = render(broadcast, Text::Multivariant);
        sound(lint::multivariant(&multivariant), &multivariant);
        let _ = render(broadcast, Text::Dash);
        self.seen = texts;
    }
}

/// A box with one picture and one sound.
#[derive(Default)]
struct Source {
    seq: u64,
    tags: u64,
    inits: u32,
    msn: u64,
    /// Media time of the next segment, milliseconds.
    at_ms: u64,
    /// Keys of the parts to come.
    hints: Vec<ObjectKey>,
}

/// Name and ticks a second of each track.
const TRACKS: [(&str, u32); 2] = [("v-720p30", 90_000), ("a-aac-128k", 48_000)];

fn name<T: std::str::FromStr<Err = NameError>>(text: &str) -> T {
    match text.parse() {
        Ok(name) => name,
        Err(error) => panic!("{text}: {error}"),
    }
}

fn ticks(ms: u64, timescale: u32) -> u64 {
    ms * u64::from(timescale) / 1_000
}

impl Source {
    fn number(&mut self, message: ToEdge) -> Numbered {
        self.seq += 1;
        Numbered {
            seq: self.seq,
            message,
        }
    }

    fn key(&mut self, track: &str, kind: ObjectKind) -> ObjectKey {
        self.tags += 1;
        let mut random = [0; 12];
        random[..8].copy_from_slice(&self.tags.to_le_bytes());
        ObjectKey {
            stream: name("demo"),
            broadcast: BroadcastId::from_random([1; 16]),
            track: name(track),
            kind,
            tag: Tag::from_random(random),
        }
    }

    fn open(&mut self) -> Vec<Numbered> {
        let opened = ToEdge::Opened(Opened {
            stream: name("demo"),
            broadcast: BroadcastId::from_random([1; 16]),
            epoch_unix_ms: EPOCH_MS,
            first_msn: 0,
            window_s: 12,
        });
        let mut messages = vec![self.number(opened)];
        messages.extend(self.announce());
        messages
    }

    /// Both tracks with a new init from the next segment on.
    fn announce(&mut self) -> Vec<Numbered> {
        let (n, msn) = (self.inits, self.msn);
        self.inits += 1;
        self.hints.clear();
        TRACKS
            .map(|(track, timescale)| {
                let first_part = self.key(track, ObjectKind::Part { msn, part: 0 });
                self.hints.push(first_part.clone());
                let (kind, codecs) = match timescale {
                    90_000 => {
                        let (width, height, frame_rate) = (1_280, 720, Some((30, 1)));
                        (
                            TrackKind::Video {
                                width,
                                height,
                                frame_rate,
                            },
                            "avc1.64001f",
                        )
                    }
                    sample_rate => (
                        TrackKind::Audio {
                            sample_rate,
                            channels: 2,
                        },
                        "mp4a.40.2",
                    ),
                };
                let track = Track {
                    name: name(track),
                    kind,
                    codecs: codecs.to_owned(),
                    timescale,
                    part_target: ticks(PART_MS, timescale),
                    nominal_bps: 1_000_000,
                    init: self.key(track, ObjectKind::Init { n }),
                    from_msn: msn,
                    first_part,
                };
                self.number(ToEdge::Track(track))
            })
            .to_vec()
    }

    fn discontinuity(&mut self, gap_ms: u64) -> Vec<Numbered> {
        self.at_ms += gap_ms;
        let mut messages = vec![self.number(ToEdge::Discontinuity { msn: self.msn })];
        messages.extend(self.announce());
        messages
    }

    /// So many whole parts and a last one of `last_ms`, in both tracks by turns, then the segments, without keys where `lost`.
    fn segment(&mut self, parts: u64, last_ms: u64, lost: bool) -> Vec<Numbered> {
        let mut messages = Vec::new();
        let total_ms = parts * PART_MS + last_ms;
        let count = parts + u64::from(last_ms > 0);
        let msn = self.msn;
        for part in 0..count as u32 {
            let from_ms = u64::from(part) * PART_MS;
            let ms = PART_MS.min(total_ms - from_ms);
            for (index, (track, timescale)) in TRACKS.into_iter().enumerate() {
                let kind = match u64::from(part) + 1 == count {
                    true => ObjectKind::Part {
                        msn: msn + 1,
                        part: 0,
                    },
                    false => ObjectKind::Part {
                        msn,
                        part: part + 1,
                    },
                };
                let next = self.key(track, kind);
                let key = std::mem::replace(&mut self.hints[index], next.clone());
                messages.push(self.number(ToEdge::Part(Part {
                    track: name(track),
                    msn,
                    part,
                    key,
                    start: ticks(self.at_ms + from_ms, timescale) as i64,
                    duration: ticks(ms, timescale),
                    independent: part == 0 || timescale != 90_000,
                    size: 40_000,
                    next,
                })));
            }
        }
        for (track, timescale) in TRACKS {
            let key = self.key(track, ObjectKind::Segment { msn });
            messages.push(self.number(ToEdge::Segment(Segment {
                track: name(track),
                msn,
                key: (!lost).then_some(key),
                start: ticks(self.at_ms, timescale) as i64,
                duration: ticks(total_ms, timescale),
                size: if lost { 0 } else { 40_000 * count },
            })));
        }
        self.msn += 1;
        self.at_ms += total_ms;
        messages
    }
}

/// The messages of a broadcast as [`timeline`] takes them: for its corpus.
pub fn timeline_lines(messages_json: &str) -> Vec<String> {
    let messages: Vec<Numbered> = from_str(messages_json).unwrap_or_default();
    let written = messages
        .iter()
        .filter_map(|message| serde_json::to_string(message).ok());
    written.map(|line| format!("!next{line}")).collect()
}
