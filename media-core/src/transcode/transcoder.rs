//! The threads: one decodes, one a rung encodes. See [`super`] for the rules.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ffmpeg_next::frame;
use protocol::names::TrackName;
use tokio::sync::mpsc;

use super::{
    DrainMark, Error, Event, Source, Stats,
    config::Config,
    cuts::Cuts,
    decoder::{Decoder, believable, picture},
    encoder::{Colour, Kind, probe, resolve},
    ladder::{self, Picture},
    machine::Share,
    overload::Overload,
    pace::SourceRate,
    queue::{Input, Queue},
    rung::{Rung, Work, thread_cpu_time},
};
use crate::media::{Boundary, FrameRate, VIDEO_TIMESCALE, VideoConfig, VideoPacket};

/// Events that may wait for the packager: about two seconds of a full ladder. Past that the rungs wait, the source's packets pile up, and
/// the costliest rung is shed.
const WAITING_EVENTS: usize = 256;

/// An encode of the source is begun only while all threads together would stay under this part of the machine.
const AFFORDABLE: f64 = 0.75;

/// The least that the source is encoded with, bits a second, however little it says of itself.
const LEAST_SOURCE_BPS: u32 = 500_000;

/// What the decoder's thread and the handle share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    queue: Queue,
    /// Rungs that are to end at the next boundary that is decided.
    condemned: Mutex<Vec<TrackName>>,
    decoded: AtomicU64,
    decode_errors: AtomicU64,
    dropped: AtomicU64,
    interlaced: AtomicBool,
    load: Mutex<Load>,
    share: Share,
}

/// What the threads have cost.
#[derive(Debug, Default, Clone, Copy)]
struct Load {
    /// Seconds of media that it was measured over.
    media: f64,
    /// CPU seconds of all threads.
    all: f64,
    /// CPU seconds of the rungs' threads.
    rungs: f64,
    /// Pixels a second that the rungs encode.
    pixels: f64,
    /// Pixels a second of the source.
    source_pixels: f64,
    /// Cores of an encode of the source that was begun, until so many seconds of media were measured: by then it is in `all`.
    promised: Option<(f64, f64)>,
}

/// What an encode costs shows in what was measured after so many seconds.
const SETTLES_S: f64 = 5.0;

/// A running transcoder. Nothing here waits (but [`Self::wait_for_room`]); dropping it drops what was not encoded yet.
#[derive(Debug)]
pub struct Transcoder {
    pub(super) shared: Arc<Shared>,
    source_bitrate_bps: u32,
}

impl Transcoder {
    /// Starts the decoder's thread. The rungs start with the first frame of the first segment ([`Event::Opened`]).
    ///
    /// `encoder` is what [`resolve`] made of the configuration and the probe.
    pub fn start(
        config: &Config,
        encoder: Kind,
        source: Source,
    ) -> Result<(Self, mpsc::Receiver<Event>), Error> {
        Self::start_bounded(config, encoder, source, WAITING_EVENTS)
    }

    /// [`Self::start`] with another bound for the events that wait.
    pub(super) fn start_bounded(
        config: &Config,
        encoder: Kind,
        source: Source,
        waiting_events: usize,
    ) -> Result<(Self, mpsc::Receiver<Event>), Error> {
        let (output, events) = mpsc::channel(waiting_events);
        let decoder =
            Decoder::open(source.config).map_err(|error| Error::Decoder(error.to_string()))?;
        let shared = Arc::new(Shared::default());
        let worker = Worker {
            shared: Arc::clone(&shared),
            config: config.clone(),
            kind: encoder,
            decoder: Some(decoder),
            claimed: source.frame_rate.filter(|rate| believable(*rate)),
            output,
            stage: Stage::default(),
            overload: Overload::new(Duration::from_millis(u64::from(config.shed_after_ms))),
            started: Instant::now(),
        };
        // Its lines name the broadcast that they are of.
        let span = tracing::Span::current();
        thread::Builder::new()
            .name("decode".to_owned())
            .spawn(move || span.in_scope(|| worker.run()))
            .map_err(|error| Error::Thread(error.to_string()))?;
        let transcoder = Self {
            shared,
            source_bitrate_bps: config.source_bitrate_bps,
        };
        Ok((transcoder, events))
    }

    /// Gives it the next packet in decoding order, with the boundary where a segment begins at this IDR.
    pub fn push(&self, packet: VideoPacket, boundary: Option<Boundary>) {
        self.shared.queue.push(packet, boundary);
    }

    /// The next frame of a rung that is decoded is encoded as an IDR: a viewer lost its references, or comes in. No segment begins with it.
    pub fn force_key_frame(&self, rung: TrackName) {
        self.shared.queue.command(Input::KeyFrame(rung));
    }

    /// A segment begins at the first frame that is presented after `after_pts` and was not decoded yet: every rung encodes an IDR there, and
    /// [`Event::Resolved`] says where that is.
    pub fn force_boundary(&self, msn: u64, after_pts: i64, discontinuity: bool) {
        self.shared.queue.command(Input::After {
            msn,
            after_pts,
            discontinuity,
        });
    }

    /// The rungs that have to end where segment `msn` begins, because the machine cannot keep up or their encoder failed. Ask before each boundary, forced
    /// or not, is decided: it has to be a discontinuity where there are any. Each rung is named once.
    pub fn sheds_at(&self, msn: u64) -> Vec<TrackName> {
        let rungs = std::mem::take(
            &mut *self
                .shared
                .condemned
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        if !rungs.is_empty() {
            self.shared.queue.command(Input::End {
                rungs: rungs.clone(),
                from_msn: msn,
            });
        }
        rungs
    }

    /// Whether the machine has room for an encode of the source at its own size beside what runs in this process, of other broadcasts too, as far as it
    /// was measured.
    pub fn affords_source(&self) -> bool {
        let load = *self.shared.load();
        let cores = thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        load.affords_source(cores - self.shared.share.others() / AFFORDABLE)
    }

    /// From segment `from_msn` on the source is encoded too, as the rung `v-source` at its own size, with its own bit rate or the configuration's where that
    /// is less. [`Event::Added`] comes before its first packet. Say so before the boundary itself.
    pub fn add_source(&self, from_msn: u64) {
        let mut load = self.shared.load();
        if let Some(more) = load.source_cores() {
            // Others that ask before it can be measured have to count it too.
            load.promised = Some((more, load.media + SETTLES_S));
            self.shared.share.set(load.cores());
        }
        drop(load);
        let own = self
            .shared
            .queue
            .source_bps()
            .unwrap_or(self.source_bitrate_bps);
        self.shared.queue.command(Input::AddSource {
            from_msn,
            bitrate_bps: own.min(self.source_bitrate_bps).max(LEAST_SOURCE_BPS),
        });
    }

    /// The packets that follow have these parameter sets. The rungs keep their sizes; another aspect ratio gets bars.
    pub fn set_config(&self, config: VideoConfig) {
        self.shared.queue.command(Input::Config(config));
    }

    /// Encodes everything that was pushed, also what the decoder holds back for reordering; then comes [`Event::Drained`]. For a publisher who is cut off;
    /// the next packet must be an IDR.
    pub fn drain(&self) {
        self.shared.queue.command(Input::Drain);
    }

    /// Encodes everything that was pushed and ends: the channel of events closes after the last one.
    pub fn finish(self) {
        self.shared.queue.command(Input::Drain);
        self.shared.queue.close(false);
    }

    /// Source that waits to be decoded, in media time.
    pub fn backlog(&self) -> Duration {
        self.shared.queue.backlog()
    }

    /// Waits until under half a second of media waits. For callers that read a file, never for a live source.
    pub fn wait_for_room(&self) {
        self.shared.queue.wait_for_room();
    }

    /// Counts so far.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }
}

impl Shared {
    fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            decoded: self.decoded.load(Ordering::Relaxed),
            decode_errors: self.decode_errors.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            interlaced: self.interlaced.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Transcoder {
    fn drop(&mut self) {
        // After `finish` the drain mark is behind everything, and closing again changes nothing.
        self.shared.queue.close(false);
    }
}

/// Finds the encoder that the configuration means on this machine, and logs what was found. Takes up to a second where there is hardware; once a process.
pub fn choose_encoder(config: &Config) -> Kind {
    let found = match config.encoder {
        super::EncoderChoice::Auto => probe(),
        _ => Vec::new(),
    };
    for finding in &found {
        tracing::info!("{finding}");
    }
    let kind = resolve(config.encoder, &found);
    tracing::info!(encoder = %kind, "H.264 encoder");
    kind
}

impl Load {
    fn affords_source(&self, cores: f64) -> bool {
        // Nothing measured yet, or a system that does not tell: try it, and shed it where that was wrong.
        self.source_cores()
            .is_none_or(|more| self.cores() + more <= AFFORDABLE * cores)
    }

    /// Cores that an encode of the source would take; `None` before anything was measured.
    fn source_cores(&self) -> Option<f64> {
        let measured = self.media >= 1.0 && self.pixels > 0.0 && self.all > 0.0;
        measured.then(|| self.rungs / self.media * self.source_pixels / self.pixels)
    }

    /// Cores of all threads.
    fn cores(&self) -> f64 {
        let promised = self.promised.map_or(0.0, |(cores, _)| cores);
        self.all / self.media.max(1.0) + promised
    }
}

/// What the first frame settles.
#[derive(Default)]
struct Stage {
    opened: bool,
    picture: Option<(Picture, Colour)>,
    rate: Option<SourceRate>,
    cuts: Cuts,
    rungs: Vec<Rung>,
    last_pts: Option<i64>,
    first_pts: i64,
    last_msn: Option<u64>,
    add_source: Option<(u64, u32)>,
    /// A rung was condemned and has not gone yet.
    shedding: bool,
    /// CPU nanoseconds of rungs that have ended.
    past_cpu_ns: u64,
    measured_at: i64,
}

struct Worker {
    shared: Arc<Shared>,
    config: Config,
    kind: Kind,
    decoder: Option<Decoder>,
    claimed: Option<FrameRate>,
    output: mpsc::Sender<Event>,
    stage: Stage,
    overload: Overload,
    started: Instant,
}

/// Nobody receives events any more.
struct Unheard;

impl Worker {
    fn run(mut self) {
        while let Some((input, lag)) = self.shared.queue.pop() {
            if self.take(input, lag).is_err() {
                self.shared.queue.close(true);
                return;
            }
        }
    }

    fn send(&self, event: Event) -> Result<(), Unheard> {
        self.output.blocking_send(event).map_err(|_| Unheard)
    }

    fn take(&mut self, input: Input, lag: Duration) -> Result<(), Unheard> {
        match input {
            Input::Packet(packet) => {
                self.watch(lag)?;
                self.decode(&packet)
            }
            Input::At(boundary) => {
                self.stage.cuts.at(boundary);
                Ok(())
            }
            Input::After {
                msn,
                after_pts,
                discontinuity,
            } => {
                self.stage.cuts.after(msn, after_pts, discontinuity);
                Ok(())
            }
            Input::AddSource {
                from_msn,
                bitrate_bps,
            } => {
                self.stage.add_source = Some((from_msn, bitrate_bps));
                Ok(())
            }
            Input::End { rungs, from_msn } => {
                for rung in &mut self.stage.rungs {
                    if rungs.contains(&rung.plan.name) {
                        rung.ends_from = Some(from_msn);
                    }
                }
                Ok(())
            }
            Input::Config(config) => self.reconfigure(config),
            Input::KeyFrame(name) => {
                let rungs = self.stage.rungs.iter_mut();
                for rung in rungs.filter(|rung| rung.plan.name == name) {
                    rung.key_frame_wanted = true;
                }
                Ok(())
            }
            Input::Dropped(packets) => {
                self.shared
                    .dropped
                    .fetch_add(packets as u64, Ordering::Relaxed);
                tracing::warn!(
                    packets,
                    "decoding cannot keep up with the source: dropped to the next key frame"
                );
                self.send(Event::Dropped { packets })
            }
            Input::Drain => {
                self.drain()?;
                let mark = Arc::new(DrainMark::new(self.output.clone()));
                for rung in &self.stage.rungs {
                    rung.give(Work::Drain(Arc::clone(&mark)));
                }
                Ok(())
            }
        }
    }

    fn reconfigure(&mut self, config: VideoConfig) -> Result<(), Unheard> {
        // Some encoders repeat themselves. The references of the running GOP must not go for that.
        if self.decoder.as_ref().map(Decoder::config) == Some(&config) {
            return Ok(());
        }
        self.drain()?;
        self.decoder = match Decoder::open(config) {
            Ok(decoder) => Some(decoder),
            Err(error) => {
                tracing::warn!(%error, "these parameter sets cannot be decoded; waiting for others");
                self.shared.decode_errors.fetch_add(1, Ordering::Relaxed);
                None
            }
        };
        Ok(())
    }

    fn decode(&mut self, packet: &VideoPacket) -> Result<(), Unheard> {
        let Some(decoder) = &mut self.decoder else {
            return Ok(());
        };
        let mut frames = Vec::new();
        let errors = decoder.decode(packet, |frame| frames.push(frame));
        if errors > 0 {
            self.shared
                .decode_errors
                .fetch_add(errors, Ordering::Relaxed);
        }
        self.present(frames)
    }

    fn drain(&mut self) -> Result<(), Unheard> {
        let mut frames = Vec::new();
        if let Some(decoder) = &mut self.decoder {
            decoder.drain(|frame| frames.push(frame));
        }
        self.present(frames)
    }

    fn present(&mut self, frames: Vec<frame::Video>) -> Result<(), Unheard> {
        frames.into_iter().try_for_each(|frame| self.frame(frame))
    }

    /// One frame in order of presentation.
    fn frame(&mut self, frame: frame::Video) -> Result<(), Unheard> {
        let Some(pts) = frame.pts().or_else(|| frame.timestamp()) else {
            return Ok(());
        };
        // Damage can repeat or reorder frames; encoders want time to advance.
        if self.stage.last_pts.is_some_and(|last| pts <= last) || frame.width() == 0 {
            self.shared.decode_errors.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        self.stage.last_pts = Some(pts);
        if frame.is_interlaced() && !self.shared.interlaced.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the source is interlaced, and its rungs will show combs where it moves: send progressive frames"
            );
        }
        self.shared.decoded.fetch_add(1, Ordering::Relaxed);
        let rate = self.rate();
        let fps = self
            .stage
            .rate
            .get_or_insert_with(|| SourceRate::new(rate))
            .observe(pts);
        self.stage.picture = Some((picture(&frame, rate), Colour::of(&frame)));

        let met = self.stage.cuts.meet(pts);
        let boundary = met.map(|met| met.boundary);
        if let Some(met) = met {
            if !self.stage.opened {
                self.open(pts)?;
            }
            if met.forced {
                self.send(Event::Resolved(met.boundary))?;
            }
            self.begin_segment(met.boundary.msn)?;
        }
        if !self.stage.opened {
            return Ok(());
        }
        self.measure(pts, fps);
        let picture = Arc::new(frame);
        let mut gone = Vec::new();
        for rung in &mut self.stage.rungs {
            if !rung.pace.takes(pts, boundary.is_some(), fps) {
                continue;
            }
            let work = Work::Frame {
                picture: Arc::clone(&picture),
                pts,
                boundary,
                idr: std::mem::take(&mut rung.key_frame_wanted) || boundary.is_some(),
            };
            if !rung.give(work) {
                gone.push(rung.plan.name.clone());
            }
        }
        if !gone.is_empty() {
            // The thread has said why. What is left to do is to give its place in the ladder to the next one, at a boundary.
            self.remove(|rung| gone.contains(&rung.plan.name));
            self.condemn(gone);
        }
        Ok(())
    }

    /// Nominal frame rate of the source: the stream's own word, else the publisher's, else 30.
    fn rate(&self) -> FrameRate {
        let own = self.decoder.as_ref().and_then(Decoder::frame_rate);
        own.or(self.claimed)
            .unwrap_or(FrameRate { num: 30, den: 1 })
    }

    /// The first frame of the first segment: the ladder is settled.
    fn open(&mut self, pts: i64) -> Result<(), Unheard> {
        let Some((picture, colour)) = self.stage.picture else {
            return Ok(());
        };
        self.stage.opened = true;
        self.stage.first_pts = pts;
        self.stage.measured_at = pts;
        let mut renditions = Vec::new();
        for plan in ladder::plan(&self.config, &picture) {
            let name = plan.name.clone();
            match self.start(plan, colour) {
                Ok((rung, rendition)) => {
                    self.stage.rungs.push(rung);
                    renditions.push(rendition);
                }
                Err(error) => {
                    tracing::error!(rung = %name, %error, "the rung is left out");
                    self.send(Event::Failed { rung: name, error })?;
                }
            }
        }
        self.send(Event::Opened(renditions))
    }

    fn start(
        &self,
        plan: ladder::Plan,
        colour: Colour,
    ) -> Result<(Rung, super::Rendition), super::EncoderError> {
        Rung::start(
            plan,
            self.kind,
            self.config.preset,
            colour,
            self.output.clone(),
        )
    }

    /// Ends and begins rungs where a segment begins.
    fn begin_segment(&mut self, msn: u64) -> Result<(), Unheard> {
        self.stage.last_msn = Some(msn);
        let before = self.stage.rungs.len();
        self.remove(|rung| rung.ends_from.is_some_and(|from| msn >= from));
        if self.stage.rungs.len() < before {
            self.stage.shedding = false;
            self.overload.relieved();
        }
        let Some((from_msn, bitrate_bps)) = self.stage.add_source else {
            return Ok(());
        };
        let Some((picture, colour)) = self.stage.picture else {
            return Ok(());
        };
        if msn < from_msn {
            return Ok(());
        }
        self.stage.add_source = None;
        let plan = ladder::source(&picture, bitrate_bps);
        let rung = plan.name.clone();
        match self.start(plan, colour) {
            Ok((rung, rendition)) => {
                // Costliest first.
                self.stage.rungs.insert(0, rung);
                self.send(Event::Added(rendition))
            }
            Err(error) => {
                tracing::error!(%rung, %error, "the source cannot be encoded");
                self.condemn(vec![rung.clone()]);
                self.send(Event::Failed { rung, error })
            }
        }
    }

    fn remove(&mut self, gone: impl Fn(&Rung) -> bool) {
        let past = &mut self.stage.past_cpu_ns;
        self.stage.rungs.retain(|rung| {
            let goes = gone(rung);
            if goes {
                *past += rung.cpu_ns.load(Ordering::Relaxed);
            }
            !goes
        });
    }

    fn condemn(&self, rungs: Vec<TrackName>) {
        self.shared
            .condemned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(rungs);
    }

    /// Sheds the costliest rung where the encoders cannot keep up.
    fn watch(&mut self, lag: Duration) -> Result<(), Unheard> {
        if self.stage.shedding || !self.overload.observe(self.started.elapsed(), lag) {
            return Ok(());
        }
        let lag_ms = lag.as_millis() as u64;
        let Some(rung) = self.stage.rungs.first().map(|rung| rung.plan.name.clone()) else {
            tracing::warn!(lag_ms, "decoding alone cannot keep up with the source");
            return Ok(());
        };
        tracing::warn!(
            %rung,
            lag_ms,
            "the encoders cannot keep up: shedding the costliest rung at the next segment"
        );
        self.stage.shedding = true;
        self.condemn(vec![rung.clone()]);
        self.send(Event::Overloaded { rung, lag })
    }

    /// Writes down, once a second of media, what the threads have cost.
    fn measure(&mut self, pts: i64, fps: f64) {
        if pts - self.stage.measured_at < i64::from(VIDEO_TIMESCALE) {
            return;
        }
        self.stage.measured_at = pts;
        let Some((picture, _)) = self.stage.picture else {
            return;
        };
        let running = self.stage.rungs.iter();
        let rungs_ns = self.stage.past_cpu_ns
            + running
                .map(|rung| rung.cpu_ns.load(Ordering::Relaxed))
                .sum::<u64>();
        let rungs = rungs_ns as f64 / 1e9;
        let decoding = thread_cpu_time().map_or(0.0, |spent| spent.as_secs_f64());
        let load = Load {
            media: (pts - self.stage.first_pts) as f64 / f64::from(VIDEO_TIMESCALE),
            all: rungs + decoding,
            rungs,
            pixels: self.stage.rungs.iter().map(|rung| rung.plan.cost()).sum(),
            source_pixels: f64::from(picture.width) * f64::from(picture.height) * fps,
            promised: None,
        };
        let mut told = self.shared.load();
        let promised = told.promised.filter(|(_, until)| load.media < *until);
        *told = Load { promised, ..load };
        self.shared.share.set(told.cores());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_encode_fits_only_beside_what_all_broadcasts_use() {
        // Half a core for ten seconds, of which the rungs took four fifths; the source has as many pixels as they.
        let load = Load {
            media: 10.0,
            all: 5.0,
            rungs: 4.0,
            pixels: 1e6,
            source_pixels: 1e6,
            promised: None,
        };
        let affords = |load: &Load, others: f64| load.affords_source(2.0 - others / AFFORDABLE);
        assert!(affords(&load, 0.0) && affords(&load, 0.5));
        assert!(!affords(&load, 0.7));
        // What was just begun counts before it can be measured.
        let promised = Load {
            promised: Some((0.4, 15.0)),
            ..load
        };
        assert!((promised.cores() - 0.9).abs() < 1e-9);
        assert!(!affords(&promised, 0.3));
        assert!(Load::default().affords_source(0.0), "nothing is known yet");
    }
}
