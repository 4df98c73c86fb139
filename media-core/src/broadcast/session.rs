//! One broadcast's life: opening, running, waiting for an encoder that was cut off, closing.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use protocol::{
    internal::Open,
    link::{CloseReason, Opened as LinkOpened, Resume, TrackKind},
    names::{BroadcastId, StreamName, TrackName},
    token::Credential,
};
use tokio::{
    sync::{mpsc, watch},
    time::{self, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{
    hub::Environment,
    pipeline::{Pipeline, PipelineError, Plan, audio_name},
    sound::Sound,
};
use crate::{
    ingest::Publisher,
    media::{IngestEvent, PublisherEnd, Received},
    publish::{self, publisher::Options},
    repair::{self, Opened, Repair, Repaired},
    transcode::{self, Event, Transcoder},
    webrtc::{Signaling, Zero},
};

/// How often what depends on time alone is looked at: sound that stopped.
const TICK: Duration = Duration::from_millis(200);

/// A publisher that shows no picture for so long gets no broadcast.
const NO_VIDEO: Duration = Duration::from_secs(15);

/// What the uploads and the edge's confirmation may take at the end of a broadcast.
const CLOSE: Duration = Duration::from_secs(10);

/// What the edge may take to say whether a broadcast goes on.
const ASK_EDGE: Duration = Duration::from_secs(3);

/// Key frames that wait to be asked for: one a layer.
const KEY_FRAMES: usize = 16;

/// Bits a second of video that claims nothing: only said until enough was measured.
const UNKNOWN_BPS: u64 = 4_000_000;

/// Runs a broadcast from its first publisher to its end. `returning` brings publishers that come back.
pub(super) async fn run(
    environment: Environment,
    mut publisher: Publisher,
    mut returning: mpsc::Receiver<Publisher>,
    shutdown: CancellationToken,
) {
    let (peer, protocol) = (publisher.peer, publisher.protocol);
    tracing::info!(%peer, %protocol, "an encoder publishes");
    let mut known = None;
    loop {
        match broadcast(
            &environment,
            publisher,
            known.take(),
            &mut returning,
            &shutdown,
        )
        .await
        {
            Ended::Over => return,
            Ended::Anew(back, opened) => {
                publisher = back;
                known = Some(*opened);
            }
        }
    }
}

enum Ended {
    Over,
    /// The publisher goes on with a new broadcast; what it is configured to has been said already.
    Anew(Publisher, Box<Opened>),
}

enum End {
    Closed(CloseReason),
    Anew,
}

/// One broadcast.
async fn broadcast(
    environment: &Environment,
    mut publisher: Publisher,
    known: Option<Opened>,
    returning: &mut mpsc::Receiver<Publisher>,
    shutdown: &CancellationToken,
) -> Ended {
    let resume = ask_edge(environment, &publisher.stream).await;
    let timeline = Timeline::new(environment.started, resume.as_ref());
    let mut repair = Repair::new(timeline.repair(resume.as_ref()));
    let opened = tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        opened = open(&mut repair, &mut publisher, known, timeline.anchor_at, environment.started) => opened,
    };
    let Some((opened, first)) = opened else {
        tracing::warn!(peer = %publisher.peer, "the encoder ended, or showed no picture for 15 s: no broadcast");
        return Ended::Over;
    };
    let credential = watch::Sender::new(publisher.credential.clone());
    let (session, events) = match begin(
        environment,
        &publisher.stream,
        credential.subscribe(),
        &timeline,
        resume,
        &opened,
        repair,
    ) {
        Ok(begun) => begun,
        Err(error) => {
            tracing::error!(%error, "this cannot be broadcast");
            return Ended::Over;
        }
    };
    let running = Running {
        session,
        events,
        publisher: Some(publisher),
        credential,
    };
    match running.run(environment, first, returning, shutdown).await {
        Some(publisher) => Ended::Anew(publisher, Box::new(opened)),
        None => Ended::Over,
    }
}

async fn ask_edge(environment: &Environment, stream: &StreamName) -> Option<Resume> {
    let Ok(broadcast) = new_broadcast() else {
        return None;
    };
    let question = Open {
        stream: stream.clone(),
        broadcast,
    };
    match time::timeout(ASK_EDGE, environment.edge.open(question)).await {
        Ok(Ok(answer)) => answer.resume,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the edge could not be asked for an unfinished broadcast: a new one begins");
            None
        }
        Err(_) => {
            tracing::warn!(
                "the edge did not say in time whether a broadcast is unfinished: a new one begins"
            );
            None
        }
    }
}

fn new_broadcast() -> Result<BroadcastId, getrandom::Error> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)?;
    Ok(BroadcastId::from_random(random))
}

/// Where the timeline lies: anchored to the wall clock once, and then run by the monotonic clock.
#[derive(Debug, Clone, Copy)]
struct Timeline {
    anchor: Instant,
    /// The anchor on the clock of [`Received::at`].
    anchor_at: Duration,
    /// Media time at the anchor.
    anchor_media: Duration,
    /// Unix time of the timeline's zero, milliseconds.
    epoch_unix_ms: i64,
}

impl Timeline {
    fn new(started: Instant, resume: Option<&Resume>) -> Self {
        let anchor = Instant::now();
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let unix_ms = i64::try_from(unix.as_millis()).unwrap_or(i64::MAX);
        let epoch_unix_ms = resume.map_or(unix_ms, |resume| resume.epoch_unix_ms);
        // Where the wall clock was set back since, the timeline goes on from its end.
        let end_ms = resume.map_or(0, |resume| resume.end_ms);
        let media_ms = unix_ms.saturating_sub(epoch_unix_ms).max(end_ms);
        Self {
            anchor,
            anchor_at: anchor.duration_since(started),
            anchor_media: Duration::from_millis(media_ms.unsigned_abs()),
            epoch_unix_ms,
        }
    }

    fn repair(&self, resume: Option<&Resume>) -> repair::Options {
        let audio_rate = resume.and_then(|resume| {
            resume.tracks.iter().find_map(|track| match track.kind {
                TrackKind::Audio { sample_rate, .. } => Some(sample_rate),
                TrackKind::Video { .. } => None,
            })
        });
        repair::Options {
            anchor_at: self.anchor_at,
            anchor_media: self.anchor_media,
            audio_rate,
        }
    }

    fn zero(&self) -> Zero {
        Zero {
            anchor: self.anchor,
            media_ms: i64::try_from(self.anchor_media.as_millis()).unwrap_or(i64::MAX),
            epoch_unix_ms: self.epoch_unix_ms,
        }
    }

    fn clock(self) -> publish::link::Clock {
        Arc::new(move || {
            let media = self.anchor_media + self.anchor.elapsed();
            self.epoch_unix_ms
                .saturating_add(i64::try_from(media.as_millis()).unwrap_or(i64::MAX))
        })
    }
}

/// Feeds the publisher's first events, and time, until the broadcast can open; `None` when the publisher ends before, or shows no picture.
/// `now` and [`Received::at`] count from `started`.
async fn open(
    repair: &mut Repair,
    publisher: &mut Publisher,
    known: Option<Opened>,
    now: Duration,
    started: Instant,
) -> Option<(Opened, Vec<Repaired>)> {
    let known = known.into_iter().flat_map(|known| {
        let audio = known.audio.map(IngestEvent::AudioConfig);
        [
            Some(IngestEvent::Metadata(known.metadata)),
            Some(IngestEvent::VideoConfig(known.video)),
            audio,
        ]
    });
    for event in known.flatten() {
        repair.push(Received { at: now, event });
    }
    let deadline = time::sleep(NO_VIDEO);
    tokio::pin!(deadline);
    let mut tick = time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let repaired = tokio::select! {
            () = &mut deadline => return None,
            received = publisher.events.recv() => repair.push(received?),
            // An encoder that pauses right behind its first key frame is on air all the same.
            _ = tick.tick() => repair.tick(started.elapsed()),
        };
        let mut repaired = repaired.into_iter();
        match repaired.next() {
            Some(Repaired::Opened(opened)) => return Some((opened, repaired.collect())),
            // Nothing comes before `Opened`.
            _ => continue,
        }
    }
}

/// Why a broadcast did not begin.
#[derive(Debug, thiserror::Error)]
enum BeginError {
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    #[error(transparent)]
    Transcode(#[from] transcode::Error),
    #[error(transparent)]
    Sound(#[from] transcode::AudioError),
    #[error("the system gives no random bits: {0}")]
    Random(#[from] getrandom::Error),
}

/// Starts sound, transcoder and publishing.
fn begin(
    environment: &Environment,
    stream: &StreamName,
    credential: watch::Receiver<Option<Credential>>,
    timeline: &Timeline,
    resume: Option<Resume>,
    opened: &Opened,
    repair: Repair,
) -> Result<(Session, mpsc::Receiver<Event>), BeginError> {
    let link_opened = LinkOpened {
        stream: stream.clone(),
        broadcast: match &resume {
            Some(resume) => resume.broadcast.clone(),
            None => new_broadcast()?,
        },
        epoch_unix_ms: timeline.epoch_unix_ms,
        first_msn: resume.as_ref().map_or(0, |resume| resume.next_msn),
        window_s: environment.broadcast.window_s,
    };
    tracing::info!(broadcast = %link_opened.broadcast, resumed = resume.is_some(), "on air");
    let bps = environment.transcode.audio_bitrate_bps;
    let sound = Sound::new(opened.audio.as_ref(), opened.audio_rate, bps)?;
    let source = transcode::Source {
        config: opened.video.clone(),
        frame_rate: opened.frame_rate,
    };
    let (transcoder, events) =
        Transcoder::start(&environment.transcode, environment.encoder, source)?;
    let first_msn = link_opened.first_msn;
    let (asks, key_frames) = mpsc::channel(KEY_FRAMES);
    let (webrtc, signaling) = match &environment.webrtc {
        Some(webrtc) => {
            let id = link_opened.broadcast.clone();
            let (feed, signaling) = webrtc.broadcast(id, timeline.zero(), asks);
            (Some(feed), signaling)
        }
        None => (None, Signaling::none()),
    };
    let (publisher, driver) = publish::publisher::start(Options {
        store: environment.store.clone(),
        edge: Arc::clone(&environment.edge),
        opened: link_opened,
        first_seq: resume.as_ref().map_or(1, |resume| resume.seq + 1),
        clock: timeline.clock(),
        credential,
        signaling,
        limits: environment.publish.clone(),
        spool: environment.spool.clone(),
    });
    // It outlives the broadcast by some minutes, to delete objects when their time has come, and ends by itself.
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::warn!(%error, "publishing ended");
        }
    });
    let plan = Plan {
        video: opened.video.clone(),
        frame_rate: opened.frame_rate,
        video_bps: opened
            .metadata
            .video_bps
            .filter(|bps| *bps > 0)
            .unwrap_or(UNKNOWN_BPS),
        audio: sound.config().clone(),
        audio_name: audio_name(),
        audio_bps: opened
            .metadata
            .audio_bps
            .filter(|bps| *bps > 0)
            .unwrap_or(bps.into()),
        first_msn,
        resumed_tracks: resume
            .map(|resume| resume.tracks.into_iter().map(|track| track.name).collect()),
    };
    let pipeline = Pipeline::new(plan, transcoder, publisher, webrtc)?;
    Ok((
        Session {
            repair,
            sound,
            pipeline,
            key_frames,
        },
        events,
    ))
}

/// The steps of one running broadcast.
struct Session {
    repair: Repair,
    sound: Sound,
    pipeline: Pipeline,
    /// Tracks of which WebRTC viewers need an IDR.
    key_frames: mpsc::Receiver<TrackName>,
}

impl Session {
    fn all(&mut self, repaired: Vec<Repaired>) -> Result<(), PipelineError> {
        repaired
            .into_iter()
            .try_for_each(|repaired| self.repaired(repaired))
    }

    fn repaired(&mut self, repaired: Repaired) -> Result<(), PipelineError> {
        match repaired {
            // Once, and before the session began.
            Repaired::Opened(_) => Ok(()),
            Repaired::Video(packet) => self.pipeline.video(packet),
            Repaired::VideoConfig(config) => {
                self.pipeline.video_config(config);
                Ok(())
            }
            Repaired::Discontinuity(cause) => {
                tracing::info!(?cause, "a discontinuity");
                self.pipeline.discontinuity();
                Ok(())
            }
            Repaired::AudioConfig(config) => {
                let packets = self.sound.configure(&config);
                packets
                    .into_iter()
                    .try_for_each(|packet| self.pipeline.audio(packet))
            }
            Repaired::Audio(packet) => {
                let packets = self.sound.push(packet);
                packets
                    .into_iter()
                    .try_for_each(|packet| self.pipeline.audio(packet))
            }
            Repaired::Silence { pts, frames } => {
                let packets = self.sound.silence(pts, frames);
                packets
                    .into_iter()
                    .try_for_each(|packet| self.pipeline.audio(packet))
            }
        }
    }
}

/// A broadcast with what feeds it.
struct Running {
    session: Session,
    events: mpsc::Receiver<Event>,
    publisher: Option<Publisher>,
    /// What it was let in with, for the edge.
    credential: watch::Sender<Option<Credential>>,
}

impl Running {
    /// Runs it to its end, and gives the publisher back where that goes on with a new one.
    async fn run(
        mut self,
        environment: &Environment,
        first: Vec<Repaired>,
        returning: &mut mpsc::Receiver<Publisher>,
        shutdown: &CancellationToken,
    ) -> Option<Publisher> {
        let end = match self.session.all(first) {
            Ok(()) => self.until_end(environment, returning, shutdown).await,
            Err(error) => failed(&error),
        };
        let publisher = self.publisher.take();
        let (reason, publisher) = match end {
            End::Closed(reason) => {
                // It cuts the connection where that is still there, at once: what is left to be encoded may take a while.
                drop(publisher);
                (reason, None)
            }
            End::Anew => (CloseReason::Lost, publisher),
        };
        tracing::info!(?reason, "closing the broadcast");
        let mut pipeline = self.session.pipeline;
        pipeline.end();
        while let Some(event) = self.events.recv().await {
            if let Err(error) = pipeline.transcoded(event) {
                tracing::warn!(%error, "the last parts of a rung are lost");
            }
        }
        if let Err(error) = pipeline.finish().close(reason, CLOSE).await {
            tracing::warn!(%error, "the broadcast's end");
        }
        publisher
    }

    async fn until_end(
        &mut self,
        environment: &Environment,
        returning: &mut mpsc::Receiver<Publisher>,
        shutdown: &CancellationToken,
    ) -> End {
        let reconnect = Duration::from_secs(environment.broadcast.reconnect_s.into());
        let mut tick = time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let wait = time::sleep(Duration::ZERO);
        tokio::pin!(wait);
        loop {
            let step = tokio::select! {
                () = shutdown.cancelled() => return End::Closed(CloseReason::Shutdown),
                error = self.session.pipeline.publisher().failed() => {
                    tracing::error!(%error, "publishing failed");
                    return End::Closed(CloseReason::Stopped);
                }
                received = next(&mut self.publisher) => match received {
                    Some(received) => {
                        let repaired = self.session.repair.push(received);
                        self.session.all(repaired)
                    }
                    None => {
                        let how = self.publisher.take().map(|publisher| publisher.events.end());
                        if how == Some(PublisherEnd::Unpublished) {
                            return End::Closed(CloseReason::Unpublished);
                        }
                        tracing::info!(wait_s = reconnect.as_secs(), "the encoder was cut off; waiting for it to come back");
                        self.session.pipeline.publisher_cut();
                        wait.as_mut().reset(time::Instant::now() + reconnect);
                        Ok(())
                    }
                },
                Some(back) = returning.recv(), if self.publisher.is_none() => {
                    tracing::info!(peer = %back.peer, "the encoder is back");
                    self.session.repair.reconnect();
                    self.credential.send_replace(back.credential.clone());
                    self.publisher = Some(back);
                    Ok(())
                }
                () = &mut wait, if self.publisher.is_none() => return End::Closed(CloseReason::Lost),
                Some(event) = self.events.recv() => self.session.pipeline.transcoded(event),
                Some(track) = self.session.key_frames.recv() => {
                    self.session.pipeline.key_frame(track);
                    Ok(())
                }
                _ = tick.tick() => match self.publisher {
                    Some(_) => {
                        let repaired = self.session.repair.tick(environment.started.elapsed());
                        self.session.all(repaired)
                    }
                    None => Ok(()),
                },
            };
            if let Err(error) = step {
                return failed(&error);
            }
        }
    }
}

fn failed(error: &PipelineError) -> End {
    match error {
        PipelineError::OtherTracks => {
            tracing::info!("the unfinished broadcast had other tracks: a new one begins");
            End::Anew
        }
        error => {
            tracing::error!(%error, "the broadcast cannot go on");
            End::Closed(CloseReason::Stopped)
        }
    }
}

/// The publisher's next event; waits for ever where there is no publisher.
async fn next(publisher: &mut Option<Publisher>) -> Option<Received> {
    match publisher {
        Some(publisher) => publisher.events.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;

    use super::*;
    use crate::{
        codec::avc,
        ingest::{Protocol, queue},
        media::VideoConfig,
    };

    #[tokio::test]
    async fn a_broadcast_opens_by_time_alone_once_there_is_a_picture() {
        let started = Instant::now();
        let mut repair = Repair::new(repair::Options {
            anchor_at: Duration::ZERO,
            anchor_media: Duration::ZERO,
            audio_rate: None,
        });
        let (mut sender, events) = queue::channel(queue::Limit::default());
        let mut publisher = Publisher {
            stream: "main".parse().unwrap(),
            peer: "127.0.0.1:1".parse().unwrap(),
            protocol: Protocol::Rtmp,
            credential: None,
            events,
            cut: CancellationToken::new(),
        };
        let sets = "6764002aacd940780227e5c05a808080a0000007d20001d4c11e30632c";
        let sps = data_encoding::HEXLOWER.decode(sets.as_bytes()).unwrap();
        let stream = [&[0, 0, 1][..], &sps, &[0, 0, 1, 0x68, 0xeb, 0xe3]].concat();
        let sets = avc::ParameterSets::from_annex_b(&stream).unwrap();
        for event in [
            IngestEvent::VideoConfig(VideoConfig {
                avcc: sets.record().unwrap(),
            }),
            IngestEvent::Video {
                timestamp_ms: 0,
                composition_offset_ms: 0,
                idr: true,
                data: Bytes::from_static(&[0, 0, 0, 1, 0x65]),
            },
        ] {
            let at = started.elapsed();
            sender.send(Received { at, event }).unwrap();
        }
        // The encoder is connected and sends nothing more.
        let opened = open(&mut repair, &mut publisher, None, Duration::ZERO, started);
        let (opened, first) = time::timeout(NO_VIDEO / 2, opened).await.unwrap().unwrap();
        assert_eq!(opened.audio, None);
        assert!(matches!(first[0], Repaired::Video(_)), "{first:?}");
        drop(sender);
    }
}
