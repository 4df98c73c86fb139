//! One broadcast's media: repaired packets in, chunks for the publisher out. Knows no socket and no clock.
//!
//! The source goes two ways: untouched into its own track, and through the transcoder into the rungs. The cut rule decides where segments
//! begin while the source passes; the rungs and the sound learn of it and cut there too. What leaves here goes to the [`Publisher`].

use std::collections::{BTreeMap, VecDeque};

use protocol::{link::TrackKind, names::TrackName};

use crate::{
    media::{
        AudioConfig, AudioPacket, Boundary, FrameRate, VIDEO_TIMESCALE, VideoConfig, VideoPacket,
    },
    package::{AudioPackager, Chunk, Cut, Cutter, ForcedCut, PackageError, VideoPackager},
    publish::{
        Publisher,
        publisher::PublishError,
        queue::{PartChunk, TrackAnnouncement},
    },
    transcode::{Event, Rendition, Transcoder},
    webrtc::{Feed, Layer},
};

/// Why a pipeline cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum PipelineError {
    /// What came cannot be packaged.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The decoder shows nothing, and what came is held back no longer.
    #[error("no picture could be decoded of what the encoder sends")]
    Undecodable,
    /// What came cannot be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A resumed broadcast had other tracks.
    #[error("the broadcast had other tracks before")]
    OtherTracks,
}

/// How `v-source` comes about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum SourceTrack {
    /// The publisher's own packets.
    Untouched,
    /// A cut was forced: it becomes an encode, or follows a rung, as soon as the first frame of that segment is decoded.
    Ending {
        /// The segment that the publisher's own packets do not reach any more.
        from_msn: u64,
        /// Whether an encode was asked for.
        encode: bool,
    },
    /// An encode at its own size.
    Encoded,
    /// Another track's objects.
    Aliased,
}

/// Chunks of source and sound that wait for the first decoded picture: over a minute of them, against a second that it takes.
const MOST_EARLY: usize = 512;

/// Bytes of them.
const MOST_EARLY_BYTES: usize = 64 << 20;

/// A track being packaged.
#[derive(Debug)]
struct VideoTrack {
    packager: VideoPackager,
    frame_rate: Option<FrameRate>,
    nominal_bps: u64,
}

/// What a broadcast opens with.
#[derive(Debug)]
pub(super) struct Plan {
    /// The source's parameter sets.
    pub(super) video: VideoConfig,
    /// The source's rate, where it keeps one.
    pub(super) frame_rate: Option<FrameRate>,
    /// What the source claims or was measured at, bits a second.
    pub(super) video_bps: u64,
    /// The sound track's configuration.
    pub(super) audio: AudioConfig,
    /// The sound track's name.
    pub(super) audio_name: TrackName,
    /// Bits a second of the sound.
    pub(super) audio_bps: u64,
    /// Media sequence number of the first segment.
    pub(super) first_msn: u64,
    /// The tracks of the broadcast that this goes on with, if any: the set must be the same.
    pub(super) resumed_tracks: Option<Vec<TrackName>>,
}

/// The name of the source's track.
pub(super) fn source_name() -> TrackName {
    // A constant of the right form: parsing it cannot fail, and if the form ever changes the first test does.
    #[allow(clippy::expect_used)]
    "v-source".parse().expect("v-source is a track name")
}

/// The name of the sound's track.
pub(super) fn audio_name() -> TrackName {
    #[allow(clippy::expect_used)]
    "a-aac".parse().expect("a-aac is a track name")
}

/// One broadcast's media.
pub(super) struct Pipeline {
    publisher: Publisher,
    /// `None` once it was told to end.
    transcoder: Option<Transcoder>,
    /// Where the same packets go to WebRTC viewers; `None` where that is off.
    webrtc: Option<Feed>,
    cutter: Cutter,
    source_name: TrackName,
    source: VideoTrack,
    source_track: SourceTrack,
    /// The rungs, best first once they are known.
    ladder: Vec<TrackName>,
    rungs: BTreeMap<TrackName, VideoTrack>,
    /// Rungs that end, with the segment from which they are listed with another's objects.
    shed: BTreeMap<TrackName, u64>,
    audio_name: TrackName,
    audio: AudioPackager,
    audio_bps: u64,
    first_msn: u64,
    resumed_tracks: Option<Vec<TrackName>>,
    /// Chunks of source and sound from before all tracks were announced.
    early: Option<Vec<(TrackName, Chunk)>>,
    early_bytes: usize,
    /// The configuration that holds from the next boundary on.
    next_config: Option<VideoConfig>,
    /// Forced cuts whose frames are still to be decoded, oldest first.
    forced: VecDeque<ForcedCut>,
}

impl Pipeline {
    /// A broadcast with these tracks. The transcoder must have been started with the same source.
    ///
    /// # Errors
    /// [`PipelineError::Package`] when the parameter sets cannot be packaged.
    pub(super) fn new(
        plan: Plan,
        transcoder: Transcoder,
        publisher: Publisher,
        mut webrtc: Option<Feed>,
    ) -> Result<Self, PipelineError> {
        let packager = VideoPackager::new(&plan.video.avcc, plan.frame_rate)?;
        if let Some(webrtc) = &mut webrtc {
            webrtc.layer(Layer {
                name: source_name(),
                config: plan.video.clone(),
                bps: plan.video_bps,
                on_demand: false,
            });
            webrtc.audio_config(plan.audio.clone());
        }
        let resumed = plan.resumed_tracks.is_some();
        if resumed {
            publisher.discontinuity(plan.first_msn)?;
        }
        Ok(Self {
            publisher,
            transcoder: Some(transcoder),
            webrtc,
            cutter: Cutter::new(plan.first_msn, plan.frame_rate, resumed),
            source_name: source_name(),
            source: VideoTrack {
                packager,
                frame_rate: plan.frame_rate,
                nominal_bps: plan.video_bps,
            },
            source_track: SourceTrack::Untouched,
            ladder: Vec::new(),
            rungs: BTreeMap::new(),
            shed: BTreeMap::new(),
            audio: AudioPackager::new(&plan.audio.asc)?,
            audio_name: plan.audio_name,
            audio_bps: plan.audio_bps,
            first_msn: plan.first_msn,
            resumed_tracks: plan.resumed_tracks,
            early: Some(Vec::new()),
            early_bytes: 0,
            next_config: None,
            forced: VecDeque::new(),
        })
    }

    /// The next packet of the source in decoding order.
    ///
    /// # Errors
    /// [`PipelineError`], which ends the broadcast.
    pub(super) fn video(&mut self, packet: VideoPacket) -> Result<(), PipelineError> {
        if packet.idr
            && let Some(config) = self.next_config.take()
        {
            self.reconfigure(config)?;
        }
        match self.cutter.push(&packet) {
            Cut::Drop => return Ok(()),
            Cut::Continue => {
                self.transcode(&packet, None);
                self.untouched(packet, None)?;
            }
            Cut::AtIdr(mut boundary) => {
                boundary.discontinuity |= self.shed_at(boundary.msn);
                self.begin(boundary)?;
                self.transcode(&packet, Some(boundary));
                self.untouched(packet, Some(boundary))?;
            }
            Cut::Forced(forced) => {
                let mut discontinuity = forced.discontinuity | self.shed_at(forced.msn);
                self.forced.push_back(forced);
                if self.source_track == SourceTrack::Untouched {
                    // The source has no key frame here, so it cannot begin a segment as it is.
                    let affordable = self
                        .transcoder
                        .as_ref()
                        .is_some_and(Transcoder::affords_source);
                    let encode = self.rungs.is_empty() || affordable;
                    if let (true, Some(transcoder)) = (encode, &self.transcoder) {
                        transcoder.add_source(forced.msn);
                    }
                    self.source_track = SourceTrack::Ending {
                        from_msn: forced.msn,
                        encode,
                    };
                    discontinuity = true;
                }
                if let Some(transcoder) = &self.transcoder {
                    transcoder.force_boundary(forced.msn, forced.after_pts, discontinuity);
                }
                self.transcode(&packet, None);
            }
        }
        if let Some((forced, pts)) = self.cutter.overdue() {
            tracing::warn!(
                msn = forced.msn,
                "the decoder shows no picture any more: a segment is passed without it"
            );
            self.resolved(Boundary {
                msn: forced.msn,
                pts,
                discontinuity: false,
            })?;
        }
        self.let_go_of_sound()
    }

    /// The next frame of sound.
    ///
    /// # Errors
    /// As [`Pipeline::video`].
    pub(super) fn audio(&mut self, packet: AudioPacket) -> Result<(), PipelineError> {
        if let Some(webrtc) = &mut self.webrtc {
            webrtc.audio(&packet);
        }
        let chunks = self.audio.push(packet);
        self.give(&self.audio_name.clone(), chunks)?;
        self.let_go_of_sound()
    }

    /// Other parameter sets hold from the next IDR on.
    pub(super) fn video_config(&mut self, config: VideoConfig) {
        self.next_config = Some(config);
    }

    /// What follows does not continue what came.
    pub(super) fn discontinuity(&mut self) {
        self.cutter.discontinuity();
    }

    /// The publisher was cut off: what the decoder still holds is encoded.
    pub(super) fn publisher_cut(&mut self) {
        if let Some(transcoder) = &self.transcoder {
            transcoder.drain();
        }
    }

    /// Something that the transcoder says.
    ///
    /// # Errors
    /// As [`Pipeline::video`].
    pub(super) fn transcoded(&mut self, event: Event) -> Result<(), PipelineError> {
        match event {
            Event::Opened(renditions) => self.open(renditions),
            Event::Added(rendition) => self.source_is_encoded(&rendition),
            Event::Resolved(boundary) => self.resolved(boundary),
            Event::Encoded(encoded) => {
                self.encoded(&encoded.rung, encoded.packet, encoded.boundary)
            }
            Event::Ended { rung } => self.ended(&rung),
            Event::Failed { rung, error } => {
                tracing::error!(%rung, %error, "an encoder failed; the next rung takes its place");
                self.encoder_failed(&rung)
            }
            // The transcoder has logged these; the ladder changes at `sheds_at`.
            Event::Overloaded { .. } | Event::Dropped { .. } | Event::Drained => Ok(()),
        }
    }

    /// No more packets come: the transcoder encodes what it has, and then its events end.
    pub(super) fn end(&mut self) {
        if let Some(transcoder) = self.transcoder.take() {
            transcoder.finish();
        }
    }

    /// After [`Pipeline::end`] and the transcoder's last event: what waits for another frame comes out. Gives the publisher back, to be closed.
    pub(super) fn finish(mut self) -> Publisher {
        if let Err(error) = self.finish_all() {
            tracing::warn!(%error, "the last parts of the broadcast are lost");
        }
        self.publisher
    }

    /// Where it publishes to.
    pub(super) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    fn finish_all(&mut self) -> Result<(), PipelineError> {
        let names: Vec<TrackName> = self
            .rungs
            .keys()
            .filter(|name| !self.shed.contains_key(name))
            .cloned()
            .collect();
        for name in names {
            let chunks = self
                .rungs
                .get_mut(&name)
                .map(|rung| rung.packager.finish())
                .unwrap_or_default();
            self.give(&name, chunks)?;
        }
        if self.source_track != SourceTrack::Aliased {
            let chunks = self.source.packager.finish();
            self.give(&self.source_name.clone(), chunks)?;
        }
        let chunks = self.audio.finish();
        self.give(&self.audio_name.clone(), chunks)
    }

    /// Whether rungs have to go where segment `msn` begins.
    fn shed_at(&mut self, msn: u64) -> bool {
        let names = self
            .transcoder
            .as_ref()
            .map(|transcoder| transcoder.sheds_at(msn))
            .unwrap_or_default();
        let any = !names.is_empty();
        self.shed.extend(names.into_iter().map(|name| (name, msn)));
        any
    }

    /// A segment begins whose time is known.
    fn begin(&mut self, boundary: Boundary) -> Result<(), PipelineError> {
        // A resumed broadcast's first discontinuity was told when it opened.
        if boundary.discontinuity && boundary.msn > self.first_msn {
            self.publisher.discontinuity(boundary.msn)?;
        }
        let chunks = self.audio.boundary(boundary);
        self.give(&self.audio_name.clone(), chunks)
    }

    fn let_go_of_sound(&mut self) -> Result<(), PipelineError> {
        let Some(frontier) = self.cutter.frontier() else {
            return Ok(());
        };
        let chunks = self.audio.video_frontier(frontier);
        self.give(&self.audio_name.clone(), chunks)
    }

    fn transcode(&self, packet: &VideoPacket, boundary: Option<Boundary>) {
        if let Some(transcoder) = &self.transcoder {
            transcoder.push(packet.clone(), boundary);
        }
    }

    /// A packet of the publisher's own for the source's track.
    fn untouched(
        &mut self,
        packet: VideoPacket,
        boundary: Option<Boundary>,
    ) -> Result<(), PipelineError> {
        if self.source_track != SourceTrack::Untouched {
            return Ok(());
        }
        if let Some(webrtc) = &mut self.webrtc {
            webrtc.video(&self.source_name, &packet);
        }
        let chunks = self.source.packager.push(packet, boundary);
        self.give(&self.source_name.clone(), chunks)
    }

    /// A forced boundary has found its frame.
    fn resolved(&mut self, boundary: Boundary) -> Result<(), PipelineError> {
        let is_it = |forced: &ForcedCut| forced.msn == boundary.msn;
        let Some(forced) = self.forced.iter().position(is_it) else {
            // It was passed without the decoder, which comes too late.
            return Ok(());
        };
        let mut boundary = boundary;
        for forced in self.forced.drain(..=forced) {
            boundary.discontinuity |=
                is_it(&forced) && self.cutter.resolve(forced, boundary.pts).discontinuity;
        }
        self.begin(boundary)?;
        if let SourceTrack::Ending { from_msn, encode } = self.source_track
            && boundary.msn >= from_msn
        {
            // The publisher's own packets end here. An encode goes on with `Added`, which comes next.
            let chunks = self.source.packager.finish();
            self.give(&self.source_name.clone(), chunks)?;
            if let Some(webrtc) = &mut self.webrtc {
                webrtc.drop_layer(&self.source_name);
            }
            if !encode {
                tracing::info!(
                    "the source has no key frames and the machine no room for another encode: the best rung stands in for it"
                );
                self.follow_best(&self.source_name.clone(), from_msn)?;
            }
        }
        self.let_go_of_sound()
    }

    fn encoded(
        &mut self,
        name: &TrackName,
        packet: VideoPacket,
        boundary: Option<Boundary>,
    ) -> Result<(), PipelineError> {
        let track = match *name == self.source_name {
            true => Some(&mut self.source),
            false => self.rungs.get_mut(name),
        };
        let Some(track) = track else {
            return Ok(());
        };
        if let Some(webrtc) = &mut self.webrtc {
            webrtc.video(name, &packet);
        }
        let chunks = track.packager.push(packet, boundary);
        self.give(name, chunks)
    }

    /// A WebRTC viewer needs an IDR of a track.
    pub(super) fn key_frame(&self, name: TrackName) {
        if let Some(transcoder) = &self.transcoder {
            transcoder.force_key_frame(name);
        }
    }

    /// The rungs are settled: all tracks are announced, and what came before is given.
    fn open(&mut self, renditions: Vec<Rendition>) -> Result<(), PipelineError> {
        for rendition in renditions {
            if let Some(webrtc) = &mut self.webrtc {
                webrtc.layer(encoded_layer(&rendition));
            }
            let packager = VideoPackager::new(&rendition.config.avcc, Some(rendition.frame_rate))?;
            let track = VideoTrack {
                packager,
                frame_rate: Some(rendition.frame_rate),
                nominal_bps: rendition.peak_bps.into(),
            };
            self.ladder.push(rendition.name.clone());
            self.rungs.insert(rendition.name, track);
        }
        let own = || {
            std::iter::once(&self.source_name)
                .chain(&self.ladder)
                .chain([&self.audio_name])
        };
        if let Some(resumed) = &self.resumed_tracks
            && (own().count() != resumed.len() || !own().all(|name| resumed.contains(name)))
        {
            return Err(PipelineError::OtherTracks);
        }
        let msn = self.first_msn;
        self.publisher
            .track(video_announcement(&self.source_name, &self.source, msn))?;
        for name in &self.ladder {
            if let Some(rung) = self.rungs.get(name) {
                self.publisher.track(video_announcement(name, rung, msn))?;
            }
        }
        self.publisher.track(TrackAnnouncement {
            name: self.audio_name.clone(),
            kind: TrackKind::Audio {
                sample_rate: self.audio.sample_rate(),
                channels: self.audio.channels(),
            },
            codecs: self.audio.codecs().to_owned(),
            timescale: self.audio.sample_rate(),
            part_target: self.audio.part_target(),
            nominal_bps: self.audio_bps,
            init: self.audio.init(),
            from_msn: msn,
        })?;
        for (name, chunk) in self.early.take().unwrap_or_default() {
            self.sink_chunk(&name, chunk)?;
        }
        Ok(())
    }

    /// From the boundary that was forced on, the source's track is an encode.
    fn source_is_encoded(&mut self, rendition: &Rendition) -> Result<(), PipelineError> {
        let SourceTrack::Ending { from_msn, .. } = self.source_track else {
            return Ok(());
        };
        self.source
            .packager
            .reconfigure(&rendition.config.avcc, Some(rendition.frame_rate))?;
        self.source.frame_rate = Some(rendition.frame_rate);
        self.source.nominal_bps = rendition.peak_bps.into();
        let announcement = video_announcement(&self.source_name, &self.source, from_msn);
        self.publisher.track(announcement)?;
        self.source_track = SourceTrack::Encoded;
        if let Some(webrtc) = &mut self.webrtc {
            webrtc.layer(encoded_layer(rendition));
        }
        Ok(())
    }

    /// An encoder ended before its time.
    fn encoder_failed(&mut self, name: &TrackName) -> Result<(), PipelineError> {
        match self.source_track {
            // The encode of the source never began: no `Ended` will come.
            SourceTrack::Ending { from_msn, .. } if *name == self.source_name => {
                self.follow_best(name, from_msn)
            }
            // The next boundary sheds it, and `Ended` gives its place to the next rung.
            _ => Ok(()),
        }
    }

    /// Other parameter sets begin at this IDR, in every track behind a discontinuity.
    fn reconfigure(&mut self, config: VideoConfig) -> Result<(), PipelineError> {
        if let Some(transcoder) = &self.transcoder {
            transcoder.set_config(config.clone());
        }
        self.cutter.discontinuity();
        if let (SourceTrack::Untouched, Some(webrtc)) = (&self.source_track, &mut self.webrtc) {
            webrtc.layer(Layer {
                name: self.source_name.clone(),
                config: config.clone(),
                bps: self.source.nominal_bps,
                on_demand: false,
            });
        }
        if self.source_track == SourceTrack::Untouched && self.early.is_none() {
            self.source
                .packager
                .reconfigure(&config.avcc, self.source.frame_rate)?;
            let msn = self.cutter.next_msn();
            // The running segment ends first, so that the track goes on with the one that is due.
            let chunks = self.source.packager.finish();
            self.give(&self.source_name.clone(), chunks)?;
            self.publisher
                .track(video_announcement(&self.source_name, &self.source, msn))?;
        }
        Ok(())
    }

    /// A rung has given its last packet.
    fn ended(&mut self, name: &TrackName) -> Result<(), PipelineError> {
        let Some(from_msn) = self.shed.get(name).copied() else {
            return Ok(());
        };
        if *name == self.source_name && self.source_track == SourceTrack::Aliased {
            return Ok(());
        }
        let track = match *name == self.source_name {
            true => Some(&mut self.source),
            false => self.rungs.get_mut(name),
        };
        let chunks = track
            .map(|track| track.packager.finish())
            .unwrap_or_default();
        self.give(name, chunks)?;
        if let Some(webrtc) = &mut self.webrtc {
            webrtc.drop_layer(name);
        }
        self.follow_best(name, from_msn)
    }

    /// Lists a track with the objects of the best rung below it that still runs (or above, where none is below).
    fn follow_best(&mut self, name: &TrackName, from_msn: u64) -> Result<(), PipelineError> {
        let place = self
            .ladder
            .iter()
            .position(|rung| rung == name)
            .map_or(0, |at| at + 1);
        let runs = |rung: &&TrackName| !self.shed.contains_key(*rung);
        let next = self
            .ladder
            .iter()
            .skip(place)
            .find(runs)
            .or_else(|| self.ladder.iter().rev().find(runs));
        let next = match next {
            Some(next) => next.clone(),
            None if *name != self.source_name => self.source_name.clone(),
            None => return Ok(()),
        };
        tracing::warn!(track = %name, instead = %next, from_msn, "goes on with another track's media");
        self.publisher.alias(name, &next, from_msn)?;
        if *name == self.source_name {
            self.source_track = SourceTrack::Aliased;
        }
        Ok(())
    }

    fn give(&mut self, name: &TrackName, chunks: Vec<Chunk>) -> Result<(), PipelineError> {
        for chunk in chunks {
            match &mut self.early {
                Some(early) => {
                    if let Chunk::Part(part) = &chunk {
                        self.early_bytes += part.data.len();
                    }
                    early.push((name.clone(), chunk));
                    if early.len() > MOST_EARLY || self.early_bytes > MOST_EARLY_BYTES {
                        return Err(PipelineError::Undecodable);
                    }
                }
                None => self.sink_chunk(name, chunk)?,
            }
        }
        Ok(())
    }

    fn sink_chunk(&mut self, name: &TrackName, chunk: Chunk) -> Result<(), PipelineError> {
        match chunk {
            Chunk::Part(part) => self.publisher.part(PartChunk {
                track: name.clone(),
                msn: part.msn,
                part: part.part,
                start: part.start,
                duration: part.duration,
                independent: part.independent,
                last_of_segment: part.ends_segment,
                data: part.data,
            })?,
            Chunk::Segment(segment) => {
                self.publisher
                    .segment(name, segment.msn, segment.start, segment.duration)?
            }
            Chunk::Gap {
                msn,
                start,
                duration,
            } => self.publisher.lost(name, msn, start, duration)?,
        }
        Ok(())
    }
}

/// A rung as WebRTC has it.
fn encoded_layer(rendition: &Rendition) -> Layer {
    Layer {
        name: rendition.name.clone(),
        config: rendition.config.clone(),
        bps: rendition.peak_bps.into(),
        on_demand: true,
    }
}

fn video_announcement(name: &TrackName, track: &VideoTrack, from_msn: u64) -> TrackAnnouncement {
    let (width, height) = track.packager.size();
    TrackAnnouncement {
        name: name.clone(),
        kind: TrackKind::Video {
            width,
            height,
            frame_rate: track.frame_rate.map(|rate| (rate.num, rate.den)),
        },
        codecs: track.packager.codecs().to_owned(),
        timescale: VIDEO_TIMESCALE,
        part_target: track.packager.part_target(),
        nominal_bps: track.nominal_bps,
        init: track.packager.init(),
        from_msn,
    }
}
