//! One monotonic timeline out of whatever an encoder sends.
//!
//! Takes a publisher's events with their arrival times ([`Received`]) and gives packets on the broadcast's timeline: pictures with
//! strictly increasing decoding times in ticks of 1/90,000 s, sound as frames that follow each other without holes, in samples.
//! There is no clock here: time is an argument, so that a run can be replayed.
//!
//! - **Opening.** Nothing comes out before the first IDR, nor until the frame rate is known and it is known whether there is sound
//!   (at most [`OPEN_WITHIN`]): the set of tracks is fixed then. [`Repaired::Opened`] is the first output.
//! - **Anchor.** The first IDR lies at its arrival time; from there on the encoder's stamps count, so that jitter of the network moves nothing.
//!   After a jump of the stamps of over [`JUMP`] that neither the arrival clock nor the other track confirms, or any step back of the
//!   picture's over [`STEP_BACK`], the next frame again lies at its arrival time or right behind everything given out, whichever is later,
//!   and [`Repaired::Discontinuity`] comes before it.
//! - **Reconnect.** [`Repair::reconnect`]: a publisher came back with stamps of its own. The same timeline goes on with its first IDR.
//! - **Frame rate.** Stamps that keep a rate get exact times (`rate.rs`).
//! - **Sound** is kept without holes (`sound.rs`); [`Repaired::Silence`] is where the pipeline encodes silence.

mod rate;
mod sound;
mod stamps;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

use crate::{
    codec::{aac, avc},
    media::{
        AudioConfig, AudioPacket, FrameRate, IngestEvent, Metadata, Received, VIDEO_TIMESCALE,
        VideoConfig, VideoPacket, rescale,
    },
};
use rate::Grid;
use sound::Sound;
use stamps::{Stamps, Step};

/// Stamps of one track this far apart, or this far from the other track's, need an explanation.
pub const JUMP: Duration = Duration::from_millis(1_000);

/// A step back of the picture's decoding stamps that is a new beginning and not jitter.
pub const STEP_BACK: Duration = Duration::from_millis(100);

/// The broadcast opens at most so long after the first IDR, by arrival or by stamps, whichever is first.
pub const OPEN_WITHIN: Duration = Duration::from_millis(1_000);

/// Decoding stamps that are enough to believe a claimed rate. As long as a part at 30 frames a second, so it delays nothing.
const CLAIM_FRAMES: usize = 10;

/// Events held back while opening or waiting for an IDR: more than [`OPEN_WITHIN`] of 120 frames a second with sound. Past that it opens.
const MOST_HELD: usize = 400;

/// Bytes held back while opening. Past that it opens.
const MOST_HELD_BYTES: usize = 32 << 20;

/// A composition offset beyond this is garbage and is taken as 0, milliseconds.
const MOST_OFFSET_MS: i32 = 5_000;

/// More ticks than a composition offset loses on the grid: 2.5 ms.
const GRID_SLACK: i64 = 225;

/// Sample rate of the silence where there is no sound to tell one, Hz.
const DEFAULT_AUDIO_RATE: u32 = 48_000;

/// What a broadcast's timeline starts from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// A time of the clock that [`Received::at`] is of.
    pub anchor_at: Duration,
    /// Media time at the anchor, which everything lies at or after: 0, or a time past the end of what an interrupted broadcast already has.
    pub anchor_media: Duration,
    /// Hz of the audio track where it is fixed already (an interrupted broadcast); else the first configuration tells, or 48 kHz.
    pub audio_rate: Option<u32>,
}

/// What is known when a broadcast opens.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    /// The picture's configuration.
    pub video: VideoConfig,
    /// The sound's; `None` where none has come yet.
    pub audio: Option<AudioConfig>,
    /// Ticks a second of every [`AudioPacket`] and [`Repaired::Silence`] to come, Hz.
    pub audio_rate: u32,
    /// The rate that the picture's stamps were seen to keep.
    pub frame_rate: Option<FrameRate>,
    /// What the encoder said of itself.
    pub metadata: Metadata,
}

/// Why what follows does not continue what came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Another connection; the next picture is an IDR.
    Reconnected,
    /// The encoder's stamps jumped.
    Jump,
    /// The picture has another configuration; it holds from the next IDR on.
    Reconfigured,
}

/// The repaired stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Repaired {
    /// The broadcast can open. Once, before everything else.
    Opened(Opened),
    /// What follows does not continue what came: all tracks cut at the next IDR.
    Discontinuity(Cause),
    /// Another configuration of the picture, behind its [`Repaired::Discontinuity`].
    VideoConfig(VideoConfig),
    /// The sound's configuration came late, or is another one.
    AudioConfig(AudioConfig),
    /// A frame, in decoding order.
    Video(VideoPacket),
    /// A frame. Its time is where the frame or silence before it ended, but behind a discontinuity.
    Audio(AudioPacket),
    /// No sound here: so many AAC frames of silence.
    Silence {
        /// Where they begin, samples.
        pts: i64,
        /// How many frames of 1,024 samples.
        frames: u32,
    },
}

/// The state of repair. Feed it a publisher's events in order.
#[derive(Debug)]
pub struct Repair {
    options: Options,
    phase: Phase,
    metadata: Metadata,
    video_config: Option<VideoConfig>,
    audio_config: Option<AudioConfig>,
    /// The configurations that were given out.
    video_told: Option<VideoConfig>,
    audio_told: Option<AudioConfig>,
    video: Stamps,
    audio: Stamps,
    grid: Grid,
    sound: Sound,
    last_dts: Option<i64>,
    max_pts: Option<i64>,
}

#[derive(Debug)]
enum Phase {
    /// Before [`Repaired::Opened`].
    Opening(Held),
    /// After a reconnect, before the first IDR.
    Waiting(Held),
    Running,
}

/// Events that cannot be placed yet.
#[derive(Debug, Default)]
struct Held {
    events: VecDeque<Received>,
    bytes: usize,
    /// Arrival of the first IDR; it and all pictures after it are held.
    idr_at: Option<Duration>,
    /// Decoding stamps of the held pictures, milliseconds since the first.
    stamps: Vec<i64>,
    first_stamp: u32,
}

impl Repair {
    /// A timeline with nothing on it.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            phase: Phase::Opening(Held::default()),
            metadata: Metadata::default(),
            video_config: None,
            audio_config: None,
            video_told: None,
            audio_told: None,
            video: Stamps::default(),
            audio: Stamps::default(),
            grid: Grid::new(Vec::new()),
            sound: Sound::new(options.audio_rate.unwrap_or(DEFAULT_AUDIO_RATE)),
            last_dts: None,
            max_pts: None,
        }
    }

    /// The rate that the picture keeps now.
    pub fn frame_rate(&self) -> Option<FrameRate> {
        self.grid.rate()
    }

    /// Media time that everything given out so far lies before.
    pub fn end(&self) -> Duration {
        let ticks = self.max_pts.map_or(0, |pts| pts + self.frame_ticks());
        let picture = Duration::from_micros(u64::try_from(ticks).unwrap_or(0) * 100 / 9);
        picture.max(self.options.anchor_media)
    }

    /// The publisher was cut off and has come back. What it sends next has stamps of its own and begins with an IDR.
    pub fn reconnect(&mut self) {
        if let Phase::Running = self.phase {
            self.phase = Phase::Waiting(Held::default());
        } else if let Phase::Opening(held) | Phase::Waiting(held) = &mut self.phase {
            *held = Held::default();
        }
    }

    /// Time passes without an event: a broadcast that waits only for sound or for certainty opens.
    pub fn tick(&mut self, now: Duration) -> Vec<Repaired> {
        let mut out = Vec::new();
        self.begin_if_ready(now, &mut out);
        out
    }

    /// The next event.
    pub fn push(&mut self, received: Received) -> Vec<Repaired> {
        let mut out = Vec::new();
        let at = received.at;
        match &mut self.phase {
            Phase::Running => self.take(received, &mut out),
            Phase::Opening(held) | Phase::Waiting(held) => {
                if let Some(received) = held.hold(received) {
                    self.configure(received.event, &mut out);
                }
                self.begin_if_ready(at, &mut out);
            }
        }
        out
    }

    /// Configuration that comes before the first IDR.
    fn configure(&mut self, event: IngestEvent, out: &mut Vec<Repaired>) {
        match event {
            IngestEvent::Metadata(metadata) => {
                self.metadata = metadata;
                self.renew_claims();
            }
            IngestEvent::VideoConfig(config) => self.configure_video(config, out),
            IngestEvent::AudioConfig(config) => self.configure_audio(config, out),
            IngestEvent::Video { .. } | IngestEvent::Audio { .. } => {}
        }
    }

    fn configure_video(&mut self, config: VideoConfig, out: &mut Vec<Repaired>) {
        if self.video_config.as_ref() == Some(&config) {
            return;
        }
        self.video_config = Some(config);
        self.renew_claims();
        // While an IDR is awaited the configuration is told with it.
        if let Phase::Running = self.phase {
            out.push(Repaired::Discontinuity(Cause::Reconfigured));
            self.tell_video(out);
        }
    }

    fn tell_video(&mut self, out: &mut Vec<Repaired>) {
        if self.video_told != self.video_config {
            self.video_told = self.video_config.clone();
            out.extend(self.video_config.clone().map(Repaired::VideoConfig));
        }
    }

    fn configure_audio(&mut self, config: AudioConfig, out: &mut Vec<Repaired>) {
        if self.audio_config.as_ref() == Some(&config) {
            return;
        }
        let (samples, rate) = match aac::parse(&config.asc) {
            Ok(aac) => (aac.frame_samples, aac.sample_rate),
            Err(_) => (crate::media::AAC_FRAME_SAMPLES, config.sample_rate),
        };
        self.audio_config = Some(config);
        if let Phase::Running = self.phase {
            self.tell_audio(out);
        }
        self.sound.configure(samples, rate);
    }

    fn tell_audio(&mut self, out: &mut Vec<Repaired>) {
        if self.audio_told != self.audio_config {
            self.audio_told = self.audio_config.clone();
            out.extend(self.audio_config.clone().map(Repaired::AudioConfig));
        }
    }

    fn renew_claims(&mut self) {
        self.grid.claim(self.claims());
    }

    fn claims(&self) -> Vec<FrameRate> {
        let config = self.video_config.as_ref();
        let sps = config.and_then(|config| avc::first_sps(&config.avcc).ok());
        rate::claims(sps.and_then(|sps| sps.frame_rate), &self.metadata)
    }

    /// Leaves opening or waiting once all that is needed has come, or time is up.
    fn begin_if_ready(&mut self, now: Duration, out: &mut Vec<Repaired>) {
        let (held, opening) = match &self.phase {
            Phase::Opening(held) => (held, true),
            Phase::Waiting(held) => (held, false),
            Phase::Running => return,
        };
        let (Some(idr_at), Some(video)) = (held.idr_at, self.video_config.clone()) else {
            return;
        };
        if opening {
            let over = now.saturating_sub(idr_at) >= OPEN_WITHIN
                || held.span_ms() >= OPEN_WITHIN.as_millis() as i64
                || held.is_full();
            let claims = self.claims();
            let claim_kept = held.stamps.len() >= CLAIM_FRAMES
                && rate::find(&held.stamps, &claims).is_some_and(|rate| claims.contains(&rate));
            let configured = self.audio_config.is_some() || held.has_audio_config();
            if !(over || claim_kept && configured) {
                return;
            }
        }
        let (Phase::Opening(held) | Phase::Waiting(held)) =
            std::mem::replace(&mut self.phase, Phase::Running)
        else {
            return;
        };
        // Of two equal claims to a rate the one kept before the reconnect comes first.
        let mut claims = self.claims();
        claims.splice(0..0, self.grid.rate());
        let found = rate::find(&held.stamps, &claims);
        let frame_rate = if opening {
            found
        } else {
            found.or(self.grid.rate())
        };
        if opening {
            // A configuration behind the first IDR still tells the track's rate.
            for event in &held.events {
                if let IngestEvent::AudioConfig(config) = &event.event
                    && self.audio_config.is_none()
                {
                    self.configure_audio(config.clone(), &mut Vec::new());
                }
            }
            let told = self.audio_config.as_ref().map(|config| config.sample_rate);
            let usable = told.filter(|rate| (7_350..=96_000).contains(rate));
            let audio_rate = self
                .options
                .audio_rate
                .or(usable)
                .unwrap_or(DEFAULT_AUDIO_RATE);
            self.sound = Sound::new(audio_rate);
            if let Some(config) = self.audio_config.take() {
                self.configure_audio(config, &mut Vec::new());
            }
            self.video_told = Some(video.clone());
            self.audio_told = self.audio_config.clone();
            out.push(Repaired::Opened(Opened {
                video,
                audio: self.audio_config.clone(),
                audio_rate,
                frame_rate,
                metadata: self.metadata.clone(),
            }));
        } else {
            out.push(Repaired::Discontinuity(Cause::Reconnected));
            self.tell_video(out);
            self.tell_audio(out);
        }
        self.anchor_at_first_idr(&held, frame_rate);
        for received in held.events {
            self.take(received, out);
        }
    }

    /// Places the first held picture, and sound with it.
    fn anchor_at_first_idr(&mut self, held: &Held, frame_rate: Option<FrameRate>) {
        self.video.forget();
        self.audio.forget();
        let first = held
            .events
            .iter()
            .find_map(|received| match received.event {
                IngestEvent::Video {
                    timestamp_ms,
                    composition_offset_ms,
                    ..
                } => Some((received.at, timestamp_ms, sane(composition_offset_ms))),
                _ => None,
            });
        let Some((at, stamp, offset_ms)) = first else {
            return;
        };
        // On the grid a rounded offset may become a little shorter, and the IDR must still not lie before its place.
        let shorter = if offset_ms == 0 { 0 } else { GRID_SLACK };
        let offset = i64::from(offset_ms) * 90 - shorter;
        let earliest = self.next_free().unwrap_or(i64::MIN);
        let dts = self.arrival(at).max(self.after()) - offset;
        let dts = dts.max(earliest.max(earliest.saturating_sub(offset)));
        let ms = self.video.anchor(stamp, at, dts);
        self.grid.restart(frame_rate, ms, dts);
        self.sound.restart(dts + i64::from(offset_ms) * 90);
    }

    /// The time of an arrival on the timeline, ticks.
    fn arrival(&self, at: Duration) -> i64 {
        to_ticks(at) - to_ticks(self.options.anchor_at) + self.after()
    }

    fn after(&self) -> i64 {
        to_ticks(self.options.anchor_media)
    }

    fn frame_ticks(&self) -> i64 {
        let rate = self.grid.rate().unwrap_or(FrameRate { num: 30, den: 1 });
        rate.ticks(1, VIDEO_TIMESCALE)
    }

    /// First time behind all pictures given out, ticks.
    fn next_free(&self) -> Option<i64> {
        let latest = self.max_pts.into_iter().chain(self.last_dts).max()?;
        Some(latest + self.frame_ticks())
    }

    fn take(&mut self, received: Received, out: &mut Vec<Repaired>) {
        let at = received.at;
        match received.event {
            IngestEvent::Video {
                timestamp_ms,
                composition_offset_ms,
                idr,
                data,
            } => {
                let offset_ms = sane(composition_offset_ms);
                let before = out.len();
                let (ms, raw) = self.place_video(timestamp_ms, at, out);
                let broken = out.len() > before;
                let times = self.grid.times(ms, offset_ms, raw, idr);
                // Equal stamps, and small steps back: one behind the other, and what is presented moves along.
                let late = self
                    .last_dts
                    .map_or(0, |last| (last + 1 - times.dts).max(0));
                let (dts, pts) = (times.dts + late, times.pts + late);
                self.last_dts = Some(dts);
                self.max_pts = Some(self.max_pts.map_or(pts, |max| max.max(pts)));
                out.push(Repaired::Video(VideoPacket {
                    pts,
                    dts,
                    idr,
                    data,
                }));
                self.sound.video_frontier(pts, broken, out);
            }
            IngestEvent::Audio { timestamp_ms, data } => {
                if self.audio_config.is_none() {
                    return;
                }
                let stamp = self.place_audio(timestamp_ms, at);
                let before = out.len();
                if self.sound.frame(stamp, data, out) {
                    out.insert(before, Repaired::Discontinuity(Cause::Jump));
                }
            }
            other => self.configure(other, out),
        }
    }

    /// The unwrapped stamp of a picture and its time on the timeline, ticks.
    fn place_video(&mut self, stamp: u32, at: Duration, out: &mut Vec<Repaired>) -> (i64, i64) {
        let back = STEP_BACK.as_millis() as i64;
        let before = self.video.ticks();
        match self.video.step(stamp, at, back, &self.audio) {
            Step::Continues => {
                let (ms, raw) = (self.video.ms(), self.video.ticks());
                if raw.saturating_sub(before) > sound::MOST_FILL_MS * 90 {
                    // So long a hole that the segment cannot last through it, though the stamps are right.
                    out.push(Repaired::Discontinuity(Cause::Jump));
                }
                return (ms, raw);
            }
            Step::Joins => {
                // The sound has jumped before and was given a place; the picture goes along unless that place is taken.
                if self
                    .next_free()
                    .is_none_or(|free| self.video.ticks() >= free)
                {
                    return self.jumped(out);
                }
            }
            Step::Jumps => {}
        }
        let at_least = self.next_free().unwrap_or(i64::MIN);
        let dts = self.arrival(at).max(self.after()).max(at_least);
        self.video.anchor(stamp, at, dts);
        self.audio.follow(&self.video);
        self.jumped(out)
    }

    fn jumped(&mut self, out: &mut Vec<Repaired>) -> (i64, i64) {
        out.push(Repaired::Discontinuity(Cause::Jump));
        let (ms, ticks) = (self.video.ms(), self.video.ticks());
        let rate = self.grid.rate();
        self.grid.restart(rate, ms, ticks);
        (ms, ticks)
    }

    /// Where a frame of sound belongs by its stamp, samples.
    fn place_audio(&mut self, stamp: u32, at: Duration) -> i64 {
        let back = JUMP.as_millis() as i64;
        if let Step::Jumps = self.audio.step(stamp, at, back, &self.video) {
            let end = rescale(self.sound.end(), self.sound.rate(), VIDEO_TIMESCALE);
            self.audio.anchor(stamp, at, self.arrival(at).max(end));
        }
        rescale(self.audio.ticks(), VIDEO_TIMESCALE, self.sound.rate())
    }
}

fn sane(offset_ms: i32) -> i32 {
    if (-MOST_OFFSET_MS..=MOST_OFFSET_MS).contains(&offset_ms) {
        offset_ms
    } else {
        0
    }
}

fn to_ticks(time: Duration) -> i64 {
    // Exact to the tick for 3,000 years.
    i64::try_from(time.as_nanos() * 9 / 100_000).unwrap_or(i64::MAX / 4)
}

impl Held {
    /// Keeps an event; gives back what is not kept: configuration before the first IDR. Pictures before it are dropped.
    fn hold(&mut self, received: Received) -> Option<Received> {
        let bytes = match &received.event {
            IngestEvent::Video {
                idr,
                data,
                timestamp_ms,
                ..
            } => {
                if self.idr_at.is_none() {
                    if !idr {
                        return None;
                    }
                    self.idr_at = Some(received.at);
                    self.first_stamp = *timestamp_ms;
                }
                let since = timestamp_ms.wrapping_sub(self.first_stamp) as i32;
                self.stamps.push(since.into());
                data.len()
            }
            IngestEvent::Audio { data, .. } => data.len(),
            IngestEvent::Metadata(_)
            | IngestEvent::VideoConfig(_)
            | IngestEvent::AudioConfig(_) => {
                if self.idr_at.is_none() {
                    return Some(received);
                }
                0
            }
        };
        self.bytes += bytes;
        self.events.push_back(received);
        // Only sound can pile up before the first IDR, and the oldest of it is before the picture.
        while self.idr_at.is_none() && self.is_full() {
            if let Some(Received {
                event: IngestEvent::Audio { data, .. },
                ..
            }) = self.events.pop_front()
            {
                self.bytes = self.bytes.saturating_sub(data.len());
            }
        }
        None
    }

    fn is_full(&self) -> bool {
        self.events.len() >= MOST_HELD || self.bytes >= MOST_HELD_BYTES
    }

    fn span_ms(&self) -> i64 {
        self.stamps.last().copied().unwrap_or(0)
    }

    fn has_audio_config(&self) -> bool {
        let mut events = self.events.iter();
        events.any(|received| matches!(received.event, IngestEvent::AudioConfig(_)))
    }
}
