//! One video track: encoded frames into parts and segments.
//!
//! Decoding times are shifted so that a segment's first decoding time is its presentation time: frames that are presented before their
//! turn get negative composition offsets. A frame's duration is the distance to the next frame's decoding time, so a frame waits for the
//! one after it; that wait also tells whether a part ends its segment.

use bytes::Bytes;

use super::{
    PackageError,
    cmaf::{self, Sample},
    codec_string,
    cut::MAX_TICKS,
    part::{Assembly, Chunk, PartRule},
};
use crate::{
    codec::{avc, nal},
    media::{Boundary, FrameRate, VIDEO_TIMESCALE, VideoPacket},
};

/// A frame to be packaged; what an encoder or [`crate::repair`] gives.
pub type VideoSample = VideoPacket;

/// Where neither a rate nor a frame before tells how long a frame is.
const UNKNOWN_DURATION: i64 = VIDEO_TIMESCALE as i64 / 30;

/// One video track. Feed it all frames in decoding order.
#[derive(Debug)]
pub struct VideoPackager {
    init: Bytes,
    codecs: String,
    size: (u32, u32),
    frame: Option<i64>,
    assembly: Assembly,
    /// The frame that waits for the next one.
    waiting: Option<Waiting>,
    /// What is added to decoding times in this segment.
    shift: i64,
    /// Latest presentation time in this segment.
    max_pts: i64,
    last_duration: i64,
    /// Media sequence number of the running segment.
    msn: Option<u64>,
    /// What holds from the next boundary on: the frame's ticks and the part rule.
    next: Option<(Option<i64>, PartRule)>,
}

#[derive(Debug)]
struct Waiting {
    /// Shifted.
    dts: i64,
    packet: VideoPacket,
}

impl VideoPackager {
    /// A track with this configuration record (`avcC`) and, where it keeps one, frame rate.
    pub fn new(record: &[u8], frame_rate: Option<FrameRate>) -> Result<Self, PackageError> {
        let sps = avc::first_sps(record)?;
        Ok(Self {
            init: cmaf::video_header(record)?,
            codecs: codec_string::avc1(record)?,
            size: (sps.width, sps.height),
            frame: frame_rate.map(|rate| rate.ticks(1, VIDEO_TIMESCALE)),
            assembly: Assembly::new(rule(frame_rate)),
            waiting: None,
            shift: 0,
            max_pts: 0,
            last_duration: 0,
            msn: None,
            next: None,
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

    /// Width and height, pixels.
    pub fn size(&self) -> (u32, u32) {
        self.size
    }

    /// The longest a part may be, ticks of [`VIDEO_TIMESCALE`] (`PART-TARGET`).
    pub fn part_target(&self) -> u64 {
        self.next
            .map_or(self.assembly.rule, |(_, rule)| rule)
            .target
    }

    /// From the next boundary on the track has another configuration; gives the new CMAF header. To be called before the frame at the
    /// boundary is pushed.
    pub fn reconfigure(
        &mut self,
        record: &[u8],
        frame_rate: Option<FrameRate>,
    ) -> Result<Bytes, PackageError> {
        let sps = avc::first_sps(record)?;
        self.init = cmaf::video_header(record)?;
        self.codecs = codec_string::avc1(record)?;
        self.size = (sps.width, sps.height);
        let frame = frame_rate.map(|rate| rate.ticks(1, VIDEO_TIMESCALE));
        self.next = Some((frame, rule(frame_rate)));
        Ok(self.init())
    }

    /// The next frame in decoding order; `boundary` where a segment begins with it, which then is an IDR with the boundary's PTS. Frames
    /// before the first boundary are dropped.
    pub fn push(&mut self, packet: VideoPacket, boundary: Option<Boundary>) -> Vec<Chunk> {
        let mut out = Vec::new();
        let dts = match boundary {
            Some(boundary) => {
                let begin = packet.pts.max(0);
                self.end_segment(begin, boundary.discontinuity, &mut out);
                // Two boundaries met at one frame: the segment between them is empty, but keeps its number.
                let first_missing = self.msn.map_or(boundary.msn, |msn| msn.saturating_add(1));
                out.extend((first_missing..boundary.msn).map(|msn| Chunk::Gap {
                    msn,
                    start: begin,
                    duration: 1,
                }));
                self.msn = Some(boundary.msn);
                if let Some((frame, rule)) = self.next.take() {
                    self.frame = frame;
                    self.assembly.rule = rule;
                }
                self.assembly
                    .begin(boundary.msn, begin, boundary.discontinuity);
                self.shift = begin - packet.dts;
                self.max_pts = begin;
                begin
            }
            None => {
                let Some(waiting) = self.waiting.take() else {
                    return out;
                };
                self.max_pts = self.max_pts.max(packet.pts);
                // With a constant rate the shifted time is exact. With a varying one it can pass the latest presentation time, and
                // with that the beginning of the next segment: then frames are decoded close behind each other instead.
                let wished = (packet.dts + self.shift).min(self.max_pts);
                let dts = wished.max(waiting.dts + 1);
                let duration = dts - waiting.dts;
                self.last_duration = duration;
                self.assembly
                    .add(sample(waiting, duration), false, &mut out);
                dts
            }
        };
        self.waiting = Some(Waiting { dts, packet });
        out
    }

    /// The track ends: everything that waits comes out.
    pub fn finish(&mut self) -> Vec<Chunk> {
        let mut out = Vec::new();
        if let Some(waiting) = self.waiting.take() {
            let duration = self.usual_duration();
            self.assembly.add(sample(waiting, duration), true, &mut out);
        }
        out
    }

    /// The frame that waits is the last of its segment; the next one begins at `next`.
    fn end_segment(&mut self, next: i64, discontinuity: bool, out: &mut Vec<Chunk>) {
        let Some(waiting) = self.waiting.take() else {
            return;
        };
        let mut duration = next - waiting.dts;
        if discontinuity {
            // There may be a gap, and the frame does not last through it.
            let before = i64::try_from(self.assembly.duration()).unwrap_or(i64::MAX);
            let behind_latest = self.max_pts - waiting.dts + self.usual_duration();
            duration = duration.min(behind_latest).min(MAX_TICKS - before);
        }
        self.assembly.add(sample(waiting, duration), true, out);
    }

    fn usual_duration(&self) -> i64 {
        match (self.frame, self.last_duration) {
            (Some(frame), _) => frame,
            (None, 0) => UNKNOWN_DURATION,
            (None, last) => last,
        }
    }
}

fn rule(frame_rate: Option<FrameRate>) -> PartRule {
    match frame_rate {
        Some(rate) => {
            let ticks_in_num_frames = u64::from(VIDEO_TIMESCALE) * u64::from(rate.den);
            PartRule::constant(VIDEO_TIMESCALE, ticks_in_num_frames, rate.num.into())
        }
        None => PartRule::variable(VIDEO_TIMESCALE),
    }
}

fn sample(waiting: Waiting, duration: i64) -> Sample {
    let Waiting { dts, packet } = waiting;
    let offset = packet.pts - dts;
    Sample {
        dts,
        duration: u32::try_from(duration.max(1)).unwrap_or(u32::MAX),
        composition_offset: offset.clamp(i32::MIN.into(), i32::MAX.into()) as i32,
        sync: packet.idr,
        disposable: !packet.idr && is_disposable(&packet.data),
        data: packet.data,
    }
}

/// Whether no slice of the access unit is a reference (`nal_ref_idc` 0).
fn is_disposable(access_unit: &[u8]) -> bool {
    let mut slices = nal::length_prefixed(access_unit)
        .filter(|unit| (nal::SLICE..=nal::IDR_SLICE).contains(&nal::unit_type(unit)))
        .peekable();
    slices.peek().is_some() && slices.all(|unit| unit.first().is_some_and(|h| h & 0x60 == 0))
}
