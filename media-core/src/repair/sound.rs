//! Sound without holes: frames one behind the other, whatever their stamps, with silence where nothing came.
//!
//! A frame's place is where the last one ended. Its stamp only tells whether that is still right: a deviation under one and a half frames
//! is rounding or jitter; one that stays is drift, mended by a frame of silence or by leaving a frame out; a large one is a gap or an
//! overlap, mended at once.

use bytes::Bytes;

use super::Repaired;
use crate::media::{AAC_FRAME_SAMPLES, AudioPacket, VIDEO_TIMESCALE, rescale};

/// Frames in a row that must deviate alike before it counts as drift: encoders that send frames in bunches give a whole bunch one stamp.
const DRIFT_FRAMES: u32 = 8;

/// A deviation that needs no second look, milliseconds: a gap or an overlap.
const GAP_MS: i64 = 120;

/// Sound never lags behind the picture by more: then silence is put in, milliseconds.
const LAG_MS: i64 = 500;

/// An encoder whose sound always comes later than that gets more time, up to this, milliseconds.
const MOST_LAG_MS: i64 = 1_500;

/// What a late encoder gets beyond the lag that was seen, milliseconds.
const LAG_MARGIN_MS: i64 = 250;

/// A longer hole is not filled: sound begins anew behind a discontinuity, milliseconds.
pub(super) const MOST_FILL_MS: i64 = 5_000;

/// The grid of the sound.
#[derive(Debug)]
pub(super) struct Sound {
    /// Hz of the broadcast.
    rate: u32,
    /// Samples of a source frame and the rate that they are counted in.
    frame: (u32, u32),
    place: Place,
    /// Frames in a row that lie early (negative) or late.
    off: i32,
    /// Samples that sound may lag now.
    lag: i64,
    /// Latest picture, samples.
    frontier: i64,
    /// Whether the end was last moved by silence for want of frames.
    filled: bool,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// Nothing may come before this, samples; nothing has come yet.
    From(i64),
    /// `base` plus so many source frames is where the next frame begins.
    After { base: i64, frames: i64 },
}

impl Sound {
    pub(super) fn new(rate: u32) -> Self {
        let mut sound = Self {
            rate,
            frame: (AAC_FRAME_SAMPLES, rate),
            place: Place::From(0),
            off: 0,
            lag: 0,
            frontier: 0,
            filled: false,
        };
        sound.lag = sound.samples(LAG_MS);
        sound
    }

    /// Hz of the broadcast.
    pub(super) fn rate(&self) -> u32 {
        self.rate
    }

    fn samples(&self, ms: i64) -> i64 {
        ms * i64::from(self.rate) / 1_000
    }

    /// Source frames have so many samples of so many Hz from here on.
    pub(super) fn configure(&mut self, frame_samples: u32, sample_rate: u32) {
        if let Place::After { .. } = self.place {
            self.move_to(self.end());
        }
        self.frame = (frame_samples.max(1), sample_rate.max(1));
    }

    /// Where the next frame begins, samples.
    pub(super) fn end(&self) -> i64 {
        match self.place {
            Place::From(start) => start,
            Place::After { base, frames } => {
                let (samples, rate) = self.frame;
                base + rescale(frames * i64::from(samples), rate, self.rate)
            }
        }
    }

    /// Samples of a source frame at the broadcast's rate, rounded.
    fn frame_samples(&self) -> i64 {
        rescale(i64::from(self.frame.0), self.frame.1, self.rate).max(1)
    }

    fn move_to(&mut self, base: i64) {
        self.place = Place::After { base, frames: 0 };
    }

    /// Sound begins anew, not before this time of the picture (ticks of [`VIDEO_TIMESCALE`]), nor before its own end.
    pub(super) fn restart(&mut self, video: i64) {
        let from = self.video(video).max(self.end());
        self.place = Place::From(from);
        self.frontier = from;
        self.off = 0;
        self.filled = false;
    }

    /// A time of the picture in samples, rounded up: a frame there does not begin before it.
    fn video(&self, ticks: i64) -> i64 {
        let scaled = i128::from(ticks) * i128::from(self.rate);
        -((-scaled).div_euclid(i128::from(VIDEO_TIMESCALE))) as i64
    }

    /// A frame whose stamp says that it begins at `stamp`, samples. Gives whether sound began anew because the hole was too long to fill.
    pub(super) fn frame(&mut self, stamp: i64, data: Bytes, out: &mut Vec<Repaired>) -> bool {
        let end = self.end();
        let mut anew = false;
        match self.place {
            Place::From(from) => {
                if stamp < from {
                    return false;
                }
                let hole = stamp - from;
                let frames = if hole > self.samples(MOST_FILL_MS) {
                    0
                } else {
                    hole / i64::from(AAC_FRAME_SAMPLES)
                };
                // Exactly where the stamp says; what is left of the hole is shorter than a frame.
                silence(stamp - frames * i64::from(AAC_FRAME_SAMPLES), frames, out);
                self.move_to(stamp);
            }
            Place::After { .. } => {
                let deviation = stamp - end;
                let frame = self.frame_samples();
                if deviation.abs() * 2 <= frame * 3 {
                    self.off = 0;
                } else {
                    let sign = deviation.signum() as i32;
                    self.off = if self.off.signum() == sign {
                        self.off + sign
                    } else {
                        sign
                    };
                    let now = deviation.abs() > self.samples(GAP_MS);
                    if deviation > self.samples(MOST_FILL_MS) {
                        self.move_to(stamp);
                        anew = true;
                    } else if (now || self.off.unsigned_abs() >= DRIFT_FRAMES) && deviation > 0 {
                        self.fill((deviation + 512) / i64::from(AAC_FRAME_SAMPLES), out);
                        self.off = 0;
                    } else if now || self.off.unsigned_abs() >= DRIFT_FRAMES {
                        self.too_late(stamp);
                        return false;
                    }
                }
            }
        }
        let pts = self.end();
        out.push(Repaired::Audio(AudioPacket { pts, data }));
        if let Place::After { frames, .. } = &mut self.place {
            *frames += 1;
        }
        self.filled = false;
        anew
    }

    /// The frame's time is taken already. Where silence took it, the encoder's sound comes later than it was given time for.
    fn too_late(&mut self, stamp: i64) {
        if self.filled {
            let seen = self.frontier - stamp + self.samples(LAG_MARGIN_MS);
            self.lag = seen.clamp(self.lag, self.samples(MOST_LAG_MS));
        }
    }

    /// The picture has come to this time, ticks of [`VIDEO_TIMESCALE`]: sound must not lag far behind. `broken`: it came there behind a
    /// discontinuity. Only then may sound begin anew; a leap of presentation times alone is filled however long it is.
    pub(super) fn video_frontier(&mut self, ticks: i64, broken: bool, out: &mut Vec<Repaired>) {
        self.frontier = self.frontier.max(self.video(ticks));
        let missing = self.frontier - self.lag - self.end();
        if broken && missing > self.samples(MOST_FILL_MS) {
            self.place = Place::From(self.frontier);
        } else if missing > 0 {
            self.fill(
                (missing as u64).div_ceil(AAC_FRAME_SAMPLES.into()) as i64,
                out,
            );
            self.filled = true;
        }
    }

    fn fill(&mut self, frames: i64, out: &mut Vec<Repaired>) {
        let end = self.end();
        silence(end, frames, out);
        self.move_to(end + frames * i64::from(AAC_FRAME_SAMPLES));
    }
}

fn silence(pts: i64, frames: i64, out: &mut Vec<Repaired>) {
    if let Ok(frames @ 1..) = u32::try_from(frames) {
        out.push(Repaired::Silence { pts, frames });
    }
}
