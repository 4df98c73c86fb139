//! What `/api/…` and `/internal/…` say and take: the JSON of both adapters, and what they tell of a broadcast.
//!
//! The box's questions and their answers are in [`protocol::internal`], problems in [`crate::routes::Problem`].

use protocol::{
    link::TrackKind,
    names::{StreamName, TrackName},
    stream_key::StreamKey,
};
use serde::{Deserialize, Serialize};

use crate::{
    access::Link,
    audience::Beacon,
    directory::{
        StreamEntry,
        settings::{Change, Title, Visibility},
    },
    live::{Broadcast, LiveTrack},
    playlist::{iso8601, multivariant::bandwidth},
    routes::Problem,
    sessions::Listed,
    streams::Managed,
};

mod strict;

use strict::{Strict, Unique};

/// The largest question of a box, bytes.
pub const MAX_QUESTION_BYTES: usize = 16 * 1024;
/// The largest object that is put through an edge, bytes.
pub const MAX_OBJECT_BYTES: usize = 64 << 20;

/// `GET /api/streams/{stream}/sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SessionList {
    /// Who watches with a token, newest first.
    pub sessions: Vec<Listed>,
}

/// `GET /api/streams/{stream}/links`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LinkList {
    /// The stream's watch links, newest first.
    pub links: Vec<Link>,
}

/// Picture or sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MediaKind {
    /// Picture.
    Video,
    /// Sound.
    Audio,
}

/// A track, as the API tells of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TrackSummary {
    /// Its name.
    pub name: TrackName,
    /// Picture or sound.
    pub kind: MediaKind,
    /// Pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Frames a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame_rate: Option<f64>,
    /// RFC 6381.
    pub codecs: String,
    /// Peak bit rate, bits a second.
    pub bandwidth: u64,
}

impl TrackSummary {
    fn of(track: &LiveTrack) -> Self {
        let config = track.config();
        let (kind, size, frame_rate) = match config.kind {
            TrackKind::Video {
                width,
                height,
                frame_rate,
            } => (MediaKind::Video, Some((width, height)), frame_rate),
            TrackKind::Audio { .. } => (MediaKind::Audio, None, None),
        };
        Self {
            name: config.name.clone(),
            kind,
            width: size.map(|(width, _)| width),
            height: size.map(|(_, height)| height),
            frame_rate: frame_rate.map(|(num, den)| f64::from(num) / f64::from(den)),
            codecs: config.codecs.clone(),
            bandwidth: bandwidth(track).0,
        }
    }
}

/// What is told of a broadcast that can be played.
#[derive(Debug, Clone, PartialEq)]
pub struct OnAir {
    /// When it began, Unix milliseconds.
    pub since_unix_ms: i64,
    /// Its tracks.
    pub tracks: Vec<TrackSummary>,
}

impl OnAir {
    /// `None` before every track can be played. One that has ended can be played to its end.
    pub fn of(broadcast: &Broadcast) -> Option<Self> {
        broadcast.is_playable().then(|| Self {
            since_unix_ms: broadcast.since_unix_ms(),
            tracks: broadcast.tracks().iter().map(TrackSummary::of).collect(),
        })
    }

    /// As [`Self::of`], and `None` once it has ended.
    pub fn now(broadcast: &Broadcast) -> Option<Self> {
        Self::of(broadcast).filter(|_| broadcast.ended().is_none())
    }
}

/// A stream, as the API tells of it: `GET /api/streams/{stream}`.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct StreamSummary {
    /// Its name.
    pub name: StreamName,
    /// What it is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<Title>,
    /// Whether it can be watched now.
    pub live: bool,
    /// Since when, ISO 8601.
    pub since: Option<String>,
    /// How many watch.
    pub viewers: u64,
    /// What it is live in.
    pub tracks: Vec<TrackSummary>,
    /// For those who manage it.
    #[serde(flatten)]
    pub managed: Option<Managed>,
}

impl StreamSummary {
    /// `on_air` is what is watched now, and `viewers` how many were counted lately: nobody watches what is not live.
    pub fn new(
        name: StreamName,
        title: Option<Title>,
        on_air: Option<OnAir>,
        viewers: u64,
    ) -> Self {
        let live = on_air.is_some();
        Self {
            name,
            title,
            live,
            since: on_air.as_ref().map(|now| iso8601(now.since_unix_ms)),
            viewers: if live { viewers } else { 0 },
            tracks: on_air.map(|now| now.tracks).unwrap_or_default(),
            managed: None,
        }
    }
}

/// `GET /api/streams`.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct StreamList {
    /// By name.
    pub streams: Vec<StreamSummary>,
}

/// `GET /api/time`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Time {
    /// The clock that the timelines run by, Unix milliseconds.
    pub unix_ms: i64,
}

/// An address for encoders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Such as `rtmps://live.example.org:1936/live`.
    pub url: String,
    /// A word on when to use it.
    #[serde(default)]
    pub note: String,
}

/// What the studio page shows: `GET /api/studio/{stream}`. Its `Debug` hides the key.
#[derive(Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Studio {
    /// The stream.
    pub stream: StreamName,
    /// Whether it can be watched now.
    pub live: bool,
    /// Since when, ISO 8601.
    pub since: Option<String>,
    /// How many watch.
    pub viewers: u64,
    /// Addresses for the encoder.
    pub servers: Vec<Server>,
    /// The stream key; `None` when it cannot be shown because the secret that it is sealed with was lost or changed. It admits all the
    /// same, and a new one can be shown again.
    pub key: Option<String>,
    /// The tracks that are live.
    pub tracks: Vec<TrackSummary>,
    /// Who may watch.
    pub visibility: Visibility,
}

/// The answer to `POST /api/studio/{stream}/log-out`, and to a box that comes with a studio link from before.
#[derive(Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct LoggedOut {
    /// What the studio link carries from now on.
    pub secret: String,
}

impl std::fmt::Debug for Studio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Studio")
            .field("stream", &self.stream)
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}

impl Studio {
    /// Of a stream, whoever asks: check the secret first ([`crate::directory::Stream::opens_studio`]).
    pub fn new(
        key: Option<StreamKey>,
        visibility: Visibility,
        summary: StreamSummary,
        servers: Vec<Server>,
    ) -> Self {
        Self {
            visibility,
            stream: summary.name,
            live: summary.live,
            since: summary.since,
            viewers: summary.viewers,
            servers,
            key: key.map(|key| key.reveal()),
            tracks: summary.tracks,
        }
    }
}

/// A JSON body.
///
/// # Errors
/// A [`Problem`] when it is not what the address takes.
pub fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let read = serde_json::from_slice::<Unique>(body).ok();
    let read = read
        .filter(|read| read.0.is_object())
        .and_then(|read| T::deserialize(Strict(&read.0)).ok());
    read.ok_or_else(|| Problem::body("The body is not the JSON that this address takes."))
}

/// A beacon.
///
/// # Errors
/// A [`Problem`] when it is none.
pub fn read_beacon(body: &[u8]) -> Result<Beacon, Problem> {
    let beacon: Beacon = read(body)?;
    match beacon.is_good() {
        true => Ok(beacon),
        false => Err(Problem::body("The body is no beacon.")),
    }
}

/// The body of `PUT /internal/streams/{stream}`.
///
/// # Errors
/// A [`Problem`] when it is not an entry, or another stream's.
pub fn read_entry(name: &StreamName, body: &[u8]) -> Result<StreamEntry, Problem> {
    let entry: StreamEntry = read(body)?;
    if entry.name != *name {
        return Err(Problem::body(
            "The body names another stream than the address.",
        ));
    }
    Ok(entry)
}

/// A change of a stream's settings.
///
/// # Errors
/// A [`Problem`] when it is none, or beyond its range.
pub fn read_change(body: &[u8]) -> Result<Change, Problem> {
    let change: Change = read(body)?;
    change
        .check()
        .map_err(|error| Problem::body(error.to_string()))?;
    Ok(change)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use protocol::link::CloseReason;
    use serde_json::json;

    use super::*;
    use crate::access::TakeBack;
    use crate::live::source::{EPOCH, Source};

    fn on_air() -> Broadcast {
        let mut source = Source::new();
        let mut messages = source.open();
        messages.extend(source.segment(6, 0, false));
        let (mut broadcast, _) = Broadcast::begin(&messages[0], EPOCH).unwrap();
        for message in &messages[1..] {
            let _ = broadcast.apply(message, EPOCH).unwrap();
        }
        broadcast
    }

    fn entry() -> StreamEntry {
        StreamEntry::new("demo".parse().unwrap(), "demo", [[1; 16], [2; 16]], 0).unwrap()
    }

    #[test]
    fn a_stream_is_told_of_as_the_player_reads_it() {
        let mut broadcast = on_air();
        let summary = |broadcast: &Broadcast| {
            StreamSummary::new("demo".parse().unwrap(), None, OnAir::now(broadcast), 7)
        };
        let told = serde_json::to_value(summary(&broadcast)).unwrap();
        assert_eq!(told["name"], "demo");
        assert_eq!(told["live"], true);
        assert_eq!(told["since"], iso8601(EPOCH));
        assert_eq!(told["viewers"], 7);
        let video = &told["tracks"][0];
        assert_eq!(
            (&video["name"], &video["kind"], &video["width"]),
            (&json!("v-720p30"), &json!("video"), &json!(1_280))
        );
        assert_eq!(video["frame_rate"], 30.0);
        let audio = told["tracks"].as_array().unwrap().last().unwrap();
        assert_eq!(audio["kind"], "audio");
        assert!(audio.get("width").is_none() && audio.get("frame_rate").is_none());
        // What was kept as JSON in the meantime is told of in the same words.
        let kept: Vec<TrackSummary> = serde_json::from_value(told["tracks"].clone()).unwrap();
        assert_eq!(kept, OnAir::of(&broadcast).unwrap().tracks);

        let _ = broadcast.end(CloseReason::Unpublished, EPOCH);
        assert!(OnAir::of(&broadcast).is_some());
        assert_eq!(
            serde_json::to_value(summary(&broadcast)).unwrap(),
            json!({ "name": "demo", "live": false, "since": null, "viewers": 0, "tracks": [] })
        );
    }

    #[test]
    fn the_studio_shows_where_to_publish_with_which_key() {
        let broadcast = on_air();
        let studio = |on_air| {
            let summary = StreamSummary::new("demo".parse().unwrap(), None, on_air, 0);
            let server = Server {
                url: "rtmps://live.example.org:1936/live".to_owned(),
                note: String::new(),
            };
            serde_json::to_value(Studio::new(
                Some(entry().key),
                Visibility::Token,
                summary,
                vec![server],
            ))
            .unwrap()
        };
        let live = studio(OnAir::now(&broadcast));
        assert_eq!(live["stream"], "demo");
        assert_eq!(live["key"], entry().key.reveal());
        assert_eq!(
            live["servers"],
            json!([{ "url": "rtmps://live.example.org:1936/live", "note": "" }])
        );
        assert!(live.get("name").is_none());
        assert_eq!(live["live"], true);
        assert_eq!(studio(None)["live"], false);
    }

    #[test]
    fn a_list_is_never_taken_for_an_object() {
        for good in [
            r#"{"limits": {}}"#,
            r#"{"limits": {"max_fps": 30}, "title": null}"#,
        ] {
            assert!(read_change(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            "[]",
            "[null, null, {}]",
            r#"{"limits": []}"#,
            r#"{"limits": [1, 2, 3, 4, 5]}"#,
            r#"{"visibility": {"public": null}}"#,
            r#"{"title": "a", "title": "b"}"#,
            r#"{"limits": {"max_fps": 30.5}}"#,
            r#"{"limits": {"max_fps": -30.0}}"#,
        ] {
            assert_eq!(
                read_change(bad.as_bytes()).unwrap_err().status,
                400,
                "{bad}"
            );
        }
        let take_back = |what: &str| {
            read::<TakeBack>(format!(r#"{{"streams": "*", "what": {what}}}"#).as_bytes())
        };
        for good in [
            r#""all""#,
            r#"{"token": {"iss": "a", "jti": "b"}}"#,
            r#"{"session": "AAAAAAAAAAAAAAAA"}"#,
        ] {
            assert!(take_back(good).is_ok(), "{good}");
        }
        for bad in [
            r#"{"all": null}"#,
            r#""token""#,
            r#"{"token": ["a", "b"]}"#,
            r#"{"session": ["AAAAAAAAAAAAAAAA"]}"#,
            r#"{"token": {"iss": "a", "jti": "b"}, "all": null}"#,
        ] {
            assert!(take_back(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_entry_is_taken_only_under_its_own_name() {
        let body = serde_json::to_vec(&entry()).unwrap();
        assert_eq!(read_entry(&"demo".parse().unwrap(), &body), Ok(entry()));
        for (name, body) in [("other", body.as_slice()), ("demo", b"{}")] {
            let refused = read_entry(&name.parse().unwrap(), body).unwrap_err();
            assert_eq!(refused.status, 400);
        }
    }
}
