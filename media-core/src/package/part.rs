//! Parts and segments: what comes out of a track's packager.

use bytes::Bytes;
use protocol::link;

use super::cmaf::{self, Sample};

/// What a packager gives, in order: the parts of a segment, then the segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// A part, ready to be read.
    Part(Part),
    /// A segment is complete: all its parts came before.
    Segment(Segment),
    /// A segment in which this track has nothing at all. It keeps its number, so that the tracks' numbers agree, and is announced as
    /// lost.
    Gap {
        /// Media sequence number.
        msn: u64,
        /// Where it would have begun, ticks of the track.
        start: i64,
        /// How long it would have been, ticks of the track, over 0.
        duration: u64,
    },
}

/// A part: one CMAF chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Media sequence number of its segment.
    pub msn: u64,
    /// Index in the segment, from 0, without holes.
    pub part: u32,
    /// Decoding time of its first sample, ticks of the track. At a segment's beginning this is its presentation time as well.
    pub start: i64,
    /// Ticks of the track, over 0.
    pub duration: u64,
    /// Whether it begins with an IDR; always true for sound.
    pub independent: bool,
    /// Whether the segment ends with it: then the next part is part 0 of the next segment.
    pub ends_segment: bool,
    /// Whether its segment continues behind a discontinuity.
    pub discontinuity: bool,
    /// `moof` and `mdat`, before them `styp` in part 0.
    pub data: Bytes,
}

/// A complete segment: byte for byte its parts in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Media sequence number.
    pub msn: u64,
    /// Presentation and decoding time of its first sample, ticks of the track.
    pub start: i64,
    /// Sum of its parts' durations, ticks of the track, over 0.
    pub duration: u64,
    /// The bytes of its parts, shared with them.
    pub parts: Vec<Bytes>,
}

impl Segment {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.parts.iter().map(|part| part.len() as u64).sum()
    }
}

/// How a track's parts are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartRule {
    /// A part is closed when it has so many samples; `None` where the rate varies and time alone decides.
    pub samples: Option<u32>,
    /// No part gets longer, ticks (`PART-TARGET`). One sample that alone is longer makes a part that is.
    pub target: u64,
}

impl PartRule {
    /// n samples of `num / den` ticks each, n = round(1/3 s ÷ sample), at least one.
    pub(super) fn constant(timescale: u32, num: u64, den: u64) -> Self {
        let (num, den) = (u128::from(num.max(1)), u128::from(den.max(1)));
        // round((timescale / 3) / (num / den)), in integers
        let samples = (2 * u128::from(timescale) * den + 3 * num) / (6 * num);
        let samples = samples.clamp(1, 1_000);
        Self {
            samples: u32::try_from(samples).ok(),
            target: u64::try_from((samples * num).div_ceil(den)).unwrap_or(u64::MAX),
        }
    }

    /// Cut by time, at most 1/3 s.
    pub(super) fn variable(timescale: u32) -> Self {
        Self {
            samples: None,
            target: u64::from(timescale / 3),
        }
    }
}

/// Collects samples into the parts of the running segment.
#[derive(Debug)]
pub(super) struct Assembly {
    pub(super) rule: PartRule,
    sequence_number: u32,
    segment: Option<Running>,
}

#[derive(Debug)]
struct Running {
    msn: u64,
    start: i64,
    discontinuity: bool,
    duration: u64,
    parts: Vec<Bytes>,
    /// The samples of the part that is being filled, with their durations' sum.
    samples: Vec<Sample>,
    filled: u64,
}

impl Assembly {
    pub(super) fn new(rule: PartRule) -> Self {
        Self {
            rule,
            sequence_number: 0,
            segment: None,
        }
    }

    /// Ticks of the running segment so far.
    pub(super) fn duration(&self) -> u64 {
        let segment = self.segment.as_ref();
        segment.map_or(0, |segment| segment.duration + segment.filled)
    }

    /// Begins a segment; the one before was ended.
    pub(super) fn begin(&mut self, msn: u64, start: i64, discontinuity: bool) {
        self.segment = Some(Running {
            msn,
            start,
            discontinuity,
            duration: 0,
            parts: Vec::new(),
            samples: Vec::new(),
            filled: 0,
        });
    }

    /// Adds a sample of which the duration is known. `last`: no other sample follows in this segment.
    pub(super) fn add(&mut self, sample: Sample, last: bool, out: &mut Vec<Chunk>) {
        let rule = self.rule;
        let Some(segment) = &mut self.segment else {
            return;
        };
        let duration = u64::from(sample.duration);
        if !segment.samples.is_empty() && segment.filled + duration > rule.target {
            Self::close(segment, &mut self.sequence_number, false, out);
        }
        segment.filled += duration;
        segment.samples.push(sample);
        let full = rule
            .samples
            .is_some_and(|most| segment.samples.len() >= most as usize)
            || segment.filled >= rule.target;
        if full || last {
            Self::close(segment, &mut self.sequence_number, last, out);
        }
        if last {
            self.end(out);
        }
    }

    /// The next sample does not follow without a gap: a chunk cannot hold it and those before.
    pub(super) fn split(&mut self, out: &mut Vec<Chunk>) {
        if let Some(segment) = &mut self.segment {
            Self::close(segment, &mut self.sequence_number, false, out);
        }
    }

    /// Ends the running segment, if there is one with samples. Its last sample was added with `last`.
    fn end(&mut self, out: &mut Vec<Chunk>) {
        if let Some(segment) = self.segment.take() {
            out.push(Chunk::Segment(Segment {
                msn: segment.msn,
                start: segment.start,
                duration: segment.duration,
                parts: segment.parts,
            }));
        }
    }

    fn close(
        segment: &mut Running,
        sequence_number: &mut u32,
        ends_segment: bool,
        out: &mut Vec<Chunk>,
    ) {
        let samples = std::mem::take(&mut segment.samples);
        let Some(first) = samples.first() else { return };
        *sequence_number = sequence_number.wrapping_add(1);
        let part = segment.parts.len() as u32;
        let data = cmaf::chunk(part == 0, *sequence_number, &samples);
        out.push(Chunk::Part(Part {
            msn: segment.msn,
            part,
            start: first.dts,
            duration: segment.filled,
            independent: first.sync,
            ends_segment,
            discontinuity: segment.discontinuity,
            data: data.clone(),
        }));
        segment.parts.push(data);
        segment.duration += segment.filled;
        segment.filled = 0;
    }
}

impl Part {
    /// The key facts as the link says them, with the keys that the publisher chose.
    pub fn message(
        &self,
        track: protocol::names::TrackName,
        key: protocol::object_key::ObjectKey,
        next: protocol::object_key::ObjectKey,
    ) -> link::Part {
        link::Part {
            track,
            msn: self.msn,
            part: self.part,
            key,
            start: self.start,
            duration: self.duration,
            independent: self.independent,
            size: self.data.len() as u64,
            next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_a_third_of_a_second_in_whole_frames() {
        // (rate, frames a part, ticks)
        let table = [
            ((24_000, 1_001), 8, 30_030),
            ((24, 1), 8, 30_000),
            ((25, 1), 8, 28_800),
            ((30_000, 1_001), 10, 30_030),
            ((30, 1), 10, 30_000),
            ((48, 1), 16, 30_000),
            ((50, 1), 17, 30_600),
            ((60_000, 1_001), 20, 30_030),
            ((60, 1), 20, 30_000),
            ((1, 1), 1, 90_000),
        ];
        for ((num, den), samples, target) in table {
            let rule = PartRule::constant(90_000, 90_000 * den, num);
            assert_eq!(
                (rule.samples, rule.target),
                (Some(samples), target),
                "{num}/{den}"
            );
        }
        let aac = |rate| PartRule::constant(rate, 1_024, 1);
        assert_eq!(
            aac(48_000),
            PartRule {
                samples: Some(16),
                target: 16 * 1_024
            }
        );
        assert_eq!(
            aac(44_100),
            PartRule {
                samples: Some(14),
                target: 14 * 1_024
            }
        );
    }
}
