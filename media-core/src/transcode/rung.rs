//! One rung's thread: scales and encodes the frames that its pace takes.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use ffmpeg_next::{Error as AvError, format::Pixel, frame};
use tokio::sync::mpsc as output;

use super::{
    DrainMark, Encoded, Event, Rendition, av,
    config::Preset,
    decoder::picture,
    encoder::{Colour, EncoderError, Kind, Settings, VideoEncoder},
    ladder::{Plan, letterbox},
    pace::Pace,
};
use crate::media::Boundary;

/// Decoded frames that wait for a rung. A full queue holds the decoder back, so that what waits is the source's packets, a hundredth of the size.
const WAITING_FRAMES: usize = 8;

/// A thread's CPU time is read once in so many frames.
const FRAMES_A_READING: u64 = 16;

pub(super) enum Work {
    Frame {
        picture: Arc<frame::Video>,
        pts: i64,
        boundary: Option<Boundary>,
        /// Always with a boundary.
        idr: bool,
    },
    Drain(Arc<DrainMark>),
}

/// A rung that runs, as the decoder's thread holds it. Dropping it lets the thread finish what waits and end.
pub(super) struct Rung {
    pub(super) plan: Plan,
    pub(super) pace: Pace,
    /// The segment from which on it gets nothing any more.
    pub(super) ends_from: Option<u64>,
    /// Its next frame is to be an IDR.
    pub(super) key_frame_wanted: bool,
    /// CPU time of its thread, nanoseconds.
    pub(super) cpu_ns: Arc<AtomicU64>,
    work: mpsc::SyncSender<Work>,
}

impl Rung {
    /// Opens the encoder and starts the thread. A hardware encoder that does not start (any more) is replaced by libx264.
    pub(super) fn start(
        plan: Plan,
        kind: Kind,
        preset: Preset,
        colour: Colour,
        output: output::Sender<Event>,
    ) -> Result<(Self, Rendition), EncoderError> {
        let settings = Settings {
            width: plan.width,
            height: plan.height,
            sar: plan.sar,
            rate: plan.rate,
            bitrate_bps: plan.bitrate_bps,
            profile: plan.profile,
            preset,
            colour,
        };
        let encoder = match kind.open(&settings) {
            Err(error) if kind != Kind::Libx264 => {
                tracing::warn!(rung = %plan.name, %error, "encoding with libx264 instead");
                Kind::Libx264.open(&settings)?
            }
            opened => opened?,
        };
        let rendition = Rendition {
            name: plan.name.clone(),
            width: plan.width,
            height: plan.height,
            sar: plan.sar,
            frame_rate: plan.rate,
            bitrate_bps: plan.bitrate_bps,
            peak_bps: settings.peak_bps(),
            encoder: encoder.name(),
            config: encoder.config(),
        };
        let (work, waiting) = mpsc::sync_channel(WAITING_FRAMES);
        let cpu_ns = Arc::new(AtomicU64::new(0));
        let worker = Worker {
            plan: plan.clone(),
            encoder,
            scaling: None,
            begins: VecDeque::new(),
            output,
        };
        let measured = Arc::clone(&cpu_ns);
        let span = tracing::Span::current();
        thread::Builder::new()
            .name(plan.name.to_string())
            .spawn(move || span.in_scope(|| worker.run(&waiting, &measured)))
            .map_err(|error| EncoderError::Open {
                name: rendition.encoder,
                reason: format!("no thread for it: {error}"),
            })?;
        let rung = Self {
            pace: Pace::new(plan.max_fps),
            plan,
            ends_from: None,
            key_frame_wanted: false,
            cpu_ns,
            work,
        };
        Ok((rung, rendition))
    }

    /// Hands it work; waits while its queue is full. False where its thread has ended.
    pub(super) fn give(&self, work: Work) -> bool {
        self.work.send(work).is_ok()
    }
}

/// A scaler and the frame that it fills, for pictures of one shape.
struct Scaling {
    shape: Shape,
    scaler: av::Scaler,
    scaled: frame::Video,
    /// Where `scaled` lies in the output, and the output, where it does not fill it.
    bars: Option<(u32, u32, frame::Video)>,
}

#[derive(PartialEq)]
struct Shape {
    format: Pixel,
    width: u32,
    height: u32,
    sar: (u32, u32),
    colour: Colour,
}

impl Shape {
    fn of(frame: &frame::Video, plan: &Plan) -> Self {
        Self {
            format: frame.format(),
            width: frame.width(),
            height: frame.height(),
            sar: picture(frame, plan.rate).sar,
            colour: Colour::of(frame),
        }
    }
}

struct Worker {
    plan: Plan,
    encoder: Box<dyn VideoEncoder>,
    scaling: Option<Scaling>,
    /// Boundaries of frames whose packets have not come out yet.
    begins: VecDeque<(i64, Boundary)>,
    output: output::Sender<Event>,
}

/// Why a rung's thread ended early.
enum Ended {
    /// Nobody listens any more.
    Unheard,
    Failed(EncoderError),
}

impl From<EncoderError> for Ended {
    fn from(error: EncoderError) -> Self {
        Self::Failed(error)
    }
}

impl Worker {
    fn run(mut self, waiting: &mpsc::Receiver<Work>, cpu_ns: &AtomicU64) {
        let mut frames = 0_u64;
        let ended = loop {
            let Ok(work) = waiting.recv() else {
                self.encoder.finish();
                break self.send_packets();
            };
            let done = match work {
                Work::Frame {
                    picture,
                    pts,
                    boundary,
                    idr,
                } => self.encode(&picture, pts, boundary, idr),
                // The last rung to let go of it says that all is drained.
                Work::Drain(mark) => {
                    drop(mark);
                    Ok(())
                }
            };
            if done.is_err() {
                break done;
            }
            frames += 1;
            if frames.is_multiple_of(FRAMES_A_READING)
                && let Some(spent) = thread_cpu_time()
            {
                cpu_ns.store(spent.as_nanos() as u64, Ordering::Relaxed);
            }
        };
        // Where nobody listens any more, nobody misses these.
        let rung = self.plan.name.clone();
        if let Err(Ended::Failed(error)) = ended {
            tracing::error!(%rung, %error, "the rung ends");
            let failed = Event::Failed {
                rung: rung.clone(),
                error,
            };
            let _ = self.output.blocking_send(failed);
        }
        let _ = self.output.blocking_send(Event::Ended { rung });
    }

    fn encode(
        &mut self,
        source: &frame::Video,
        pts: i64,
        boundary: Option<Boundary>,
        force_idr: bool,
    ) -> Result<(), Ended> {
        if let Some(boundary) = boundary {
            self.begins.push_back((pts, boundary));
        }
        if self.is_ready(source) {
            let mut shared = av::share(source).map_err(|error| self.failed(error))?;
            shared.set_format(self.encoder.format());
            self.encoder.send(&mut shared, pts, force_idr)?;
        } else {
            let plan = &self.plan;
            let shape = Shape::of(source, plan);
            let fits = |scaling: &Scaling| scaling.shape == shape;
            if !self.scaling.as_ref().is_some_and(fits) {
                let made = Scaling::new(source, shape, plan, self.encoder.format());
                self.scaling = Some(made.map_err(|error| self.failed(error))?);
            }
            if let Some(scaling) = &mut self.scaling {
                let scaled = scaling.scale(source);
                match scaled {
                    Ok(frame) => self.encoder.send(frame, pts, force_idr)?,
                    Err(error) => return Err(self.failed(error)),
                }
            }
        }
        self.send_packets()
    }

    fn failed(&self, error: AvError) -> Ended {
        Ended::Failed(EncoderError::Encode {
            name: self.encoder.name(),
            reason: av::last_error().unwrap_or_else(|| error.to_string()),
        })
    }

    /// Whether a frame can be encoded as it is.
    fn is_ready(&self, frame: &frame::Video) -> bool {
        let wanted = self.encoder.format();
        let same = frame.format() == wanted
            // The same pixels; the range is in the stream's VUI.
            || (wanted == Pixel::YUV420P && frame.format() == Pixel::YUVJ420P);
        same && (frame.width(), frame.height()) == (self.plan.width, self.plan.height)
    }

    fn send_packets(&mut self) -> Result<(), Ended> {
        while let Some(packet) = self.encoder.receive()? {
            let boundary = match self.begins.front() {
                Some((pts, boundary)) if *pts <= packet.pts => Some(*boundary),
                _ => None,
            };
            if boundary.is_some() {
                self.begins.pop_front();
            }
            let encoded = Event::Encoded(Encoded {
                rung: self.plan.name.clone(),
                packet,
                boundary,
            });
            // Full: the packager is behind. Waiting here holds back this rung alone, until its queue is full too.
            if self.output.blocking_send(encoded).is_err() {
                return Err(Ended::Unheard);
            }
        }
        Ok(())
    }
}

impl Scaling {
    fn new(
        source: &frame::Video,
        shape: Shape,
        plan: &Plan,
        format: Pixel,
    ) -> Result<Self, AvError> {
        let (x, y, width, height) = letterbox(&picture(source, plan.rate), plan);
        let bars = (width, height) != (plan.width, plan.height);
        let bars = bars.then(|| (x, y, black(format, plan, shape.colour)));
        Ok(Self {
            shape,
            scaler: av::Scaler::new(source, (format, width, height))?,
            scaled: frame::Video::new(format, width, height),
            bars,
        })
    }

    fn scale(&mut self, source: &frame::Video) -> Result<&mut frame::Video, AvError> {
        av::make_writable(&mut self.scaled)?;
        self.scaler.scale(source, &mut self.scaled)?;
        let Some((x, y, output)) = &mut self.bars else {
            return Ok(&mut self.scaled);
        };
        av::make_writable(output)?;
        for plane in 0..self.scaled.planes() {
            let (from, to) = (self.scaled.stride(plane), output.stride(plane));
            // NV12 has both chroma samples of a pair of pixels in one plane of full width.
            let halved = self.scaled.planes() == 3 && plane > 0;
            let shift = u32::from(halved);
            let length = (self.scaled.width() >> shift) as usize;
            let left = (*x >> shift) as usize;
            let (top, rows) = match plane {
                0 => (*y as usize, self.scaled.height() as usize),
                _ => ((*y / 2) as usize, (self.scaled.height() / 2) as usize),
            };
            let pixels = self.scaled.data(plane);
            let target = output.data_mut(plane);
            for row in 0..rows {
                let start = (top + row) * to + left;
                target[start..start + length].copy_from_slice(&pixels[row * from..][..length]);
            }
        }
        Ok(output)
    }
}

/// A black picture.
fn black(format: Pixel, plan: &Plan, colour: Colour) -> frame::Video {
    let mut frame = frame::Video::new(format, plan.width, plan.height);
    for plane in 0..frame.planes() {
        frame.data_mut(plane).fill(match plane {
            0 => colour.black(),
            _ => 128,
        });
    }
    frame
}

/// CPU time of the calling thread; `None` where the system does not say.
pub(super) fn thread_cpu_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(
        text.split_ascii_whitespace().next()?.parse().ok()?,
    ))
}
