//! One audio track: AAC frames into parts and segments that begin with the video's.
//!
//! A segment begins with the first frame that starts at or after the video's boundary. Sound comes before the picture it belongs to, so
//! frames are held until the video's frontier has passed them: then no boundary can come before them any more.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    PackageError,
    cmaf::{self, Sample},
    codec_string,
    cut::MAX_SEGMENT,
    part::{Assembly, Chunk, PartRule},
};
use crate::{
    codec::aac,
    media::{AudioPacket, Boundary, VIDEO_TIMESCALE, rescale},
};

/// Frames held back at most: 20 s at 48 kHz. Past that the oldest are let go as if the frontier had passed them: the picture has stopped.
const MOST_HELD: usize = 1_024;

/// Boundaries held back at most: more than the held frames can reach over.
const MOST_BOUNDARIES: usize = 64;

/// One audio track. Feed it all frames in order, the video's boundaries and its frontier.
#[derive(Debug)]
pub struct AudioPackager {
    init: Bytes,
    codecs: String,
    sample_rate: u32,
    channels: u32,
    frame_samples: u32,
    assembly: Assembly,
    held: VecDeque<AudioPacket>,
    boundaries: VecDeque<Boundary>,
    /// The frame that waits for the next one, to know whether it ends a part's segment.
    waiting: Option<AudioPacket>,
    /// Boundary of the running segment, once there is one.
    current: Option<Boundary>,
    /// Frames dropped: before the first boundary, or in a gap of the picture.
    dropped: u64,
}

impl AudioPackager {
    /// A track of AAC frames with this `AudioSpecificConfig`. Times are samples of the rate that is played.
    pub fn new(config: &[u8]) -> Result<Self, PackageError> {
        let asc = aac::parse(config)?;
        Ok(Self {
            init: cmaf::audio_header(config, asc.sample_rate)?,
            codecs: codec_string::mp4a(config)?,
            sample_rate: asc.sample_rate,
            channels: asc.channels,
            frame_samples: asc.frame_samples,
            assembly: Assembly::new(PartRule::constant(
                asc.sample_rate,
                asc.frame_samples.into(),
                1,
            )),
            held: VecDeque::new(),
            boundaries: VecDeque::new(),
            waiting: None,
            current: None,
            dropped: 0,
        })
    }

    /// The CMAF header.
    pub fn init(&self) -> Bytes {
        self.init.clone()
    }

    /// RFC 6381 codec string.
    pub fn codecs(&self) -> &str {
        &self.codecs
    }

    /// Hz, which is the track's timescale.
    pub fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    /// Count.
    pub fn channels(&self) -> u32 {
        self.channels
    }

    /// The longest a part may be, samples (`PART-TARGET`).
    pub fn part_target(&self) -> u64 {
        self.assembly.rule.target
    }

    /// From the next boundary on the frames have another configuration of the same sample rate; gives the new CMAF header.
    pub fn reconfigure(&mut self, config: &[u8]) -> Result<Bytes, PackageError> {
        let asc = aac::parse(config)?;
        self.init = cmaf::audio_header(config, self.sample_rate)?;
        self.codecs = codec_string::mp4a(config)?;
        self.channels = asc.channels;
        Ok(self.init())
    }

    /// Frames dropped so far, because no segment had begun or because the picture had a gap there.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The next frame. It comes out when the video's frontier has passed it.
    pub fn push(&mut self, packet: AudioPacket) -> Vec<Chunk> {
        self.held.push_back(packet);
        let mut out = Vec::new();
        while self.held.len() > MOST_HELD {
            self.release(&mut out);
        }
        out
    }

    /// A segment begins at this boundary. One that was forced may be told after the next one; frames past it are held back until then
    /// ([`AudioPackager::video_frontier`]). One that comes even later is passed over: its number has become a gap.
    pub fn boundary(&mut self, boundary: Boundary) -> Vec<Chunk> {
        let mut out = Vec::new();
        if self
            .current
            .is_some_and(|current| boundary.msn <= current.msn)
        {
            return out;
        }
        let place = self
            .boundaries
            .partition_point(|earlier| earlier.msn < boundary.msn);
        self.boundaries.insert(place, boundary);
        while self.boundaries.len() > MOST_BOUNDARIES {
            self.enter_next(&mut out);
        }
        out
    }

    /// No boundary will come at or before this PTS any more (ticks of [`VIDEO_TIMESCALE`]) but those told.
    pub fn video_frontier(&mut self, pts: i64) -> Vec<Chunk> {
        let mut out = Vec::new();
        while let Some(packet) = self.held.front()
            && self.compare(packet.pts, pts).is_le()
        {
            self.release(&mut out);
        }
        out
    }

    /// The track ends: everything that waits comes out.
    pub fn finish(&mut self) -> Vec<Chunk> {
        let mut out = Vec::new();
        while !self.held.is_empty() {
            self.release(&mut out);
        }
        while !self.boundaries.is_empty() {
            self.enter_next(&mut out);
        }
        match self.waiting.take() {
            Some(packet) => self.add(packet, true, &mut out),
            None => self.gap_until(None, &mut out),
        }
        self.current = None;
        out
    }

    /// A time in samples against one in ticks of the video, exactly.
    fn compare(&self, samples: i64, video: i64) -> std::cmp::Ordering {
        let samples = i128::from(samples) * i128::from(VIDEO_TIMESCALE);
        samples.cmp(&(i128::from(video) * i128::from(self.sample_rate)))
    }

    /// The oldest held frame goes into the segment it belongs to.
    fn release(&mut self, out: &mut Vec<Chunk>) {
        let Some(packet) = self.held.pop_front() else {
            return;
        };
        while let Some(boundary) = self.boundaries.front()
            && self.compare(packet.pts, boundary.pts).is_ge()
        {
            self.enter_next(out);
        }
        let Some(current) = self.current else {
            self.dropped += 1;
            return;
        };
        let most = MAX_SEGMENT.as_millis() as u64 * u64::from(self.sample_rate) / 1_000;
        let frame = u64::from(self.frame_samples);
        let waiting = if self.waiting.is_some() { frame } else { 0 };
        if self.assembly.duration() + waiting + frame > most {
            // The picture has a gap here, and its segment ends before it.
            self.dropped += 1;
            return;
        }
        match self.waiting.take() {
            Some(waiting) => {
                let follows = waiting.pts + i64::from(self.frame_samples) == packet.pts;
                self.add(waiting, false, out);
                if !follows {
                    self.assembly.split(out);
                }
            }
            None => self
                .assembly
                .begin(current.msn, packet.pts.max(0), current.discontinuity),
        }
        self.waiting = Some(packet);
    }

    /// The next segment begins.
    fn enter_next(&mut self, out: &mut Vec<Chunk>) {
        let Some(next) = self.boundaries.pop_front() else {
            return;
        };
        match self.waiting.take() {
            Some(packet) => self.add(packet, true, out),
            None => self.gap_until(Some(next), out),
        }
        if let Some(current) = self.current {
            // Never told, or too late.
            let start = rescale(next.pts, VIDEO_TIMESCALE, self.sample_rate);
            out.extend((current.msn + 1..next.msn).map(|msn| Chunk::Gap {
                msn,
                start,
                duration: 1,
            }));
        }
        self.current = Some(next);
    }

    /// The running segment got no frame at all.
    fn gap_until(&mut self, next: Option<Boundary>, out: &mut Vec<Chunk>) {
        if let Some(current) = self.current {
            let in_samples = |pts| rescale(pts, VIDEO_TIMESCALE, self.sample_rate);
            let start = in_samples(current.pts);
            let end = next.map_or(start, |next| in_samples(next.pts));
            out.push(Chunk::Gap {
                msn: current.msn,
                start,
                duration: u64::try_from(end - start).unwrap_or(0).max(1),
            });
        }
    }

    fn add(&mut self, packet: AudioPacket, last: bool, out: &mut Vec<Chunk>) {
        let sample = Sample {
            dts: packet.pts.max(0),
            duration: self.frame_samples,
            composition_offset: 0,
            sync: true,
            disposable: false,
            data: packet.data,
        };
        self.assembly.add(sample, last, out);
    }
}
