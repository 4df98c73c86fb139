//! Frames as RTP payloads, made once for all viewers: H.264 as RFC 6184 in packetization mode 1, Opus as RFC 7587.

use std::sync::Arc;

use bytes::Bytes;

use crate::codec::nal;

/// The longest payload, bytes: with RTP header, extensions, the SRTP tag, UDP and IPv6 it stays under 1,280, which every path carries.
pub(super) const MAX_PAYLOAD: usize = 1_140;

/// NAL unit types of RFC 6184 section 5.2.
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// A frame, ready to be sent to any number of viewers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    /// Presentation time, ticks of the payload's clock (90,000 a second for H.264, 48,000 for Opus) on the broadcast's timeline.
    pub(super) pts: i64,
    /// Whether decoding can begin here.
    pub(super) idr: bool,
    /// In order; the marker bit belongs to the last of a picture.
    pub(super) payloads: Vec<Arc<[u8]>>,
    /// Bytes of all of them.
    pub(super) bytes: usize,
}

impl Frame {
    fn new(pts: i64, idr: bool, payloads: Vec<Arc<[u8]>>) -> Self {
        let bytes = payloads.iter().map(|payload| payload.len()).sum();
        Self {
            pts,
            idr,
            payloads,
            bytes,
        }
    }

    /// A packet of Opus.
    pub(super) fn opus(pts: i64, data: &[u8]) -> Self {
        Self::new(pts, true, vec![Arc::from(data)])
    }

    /// A picture of H.264: `data` with four bytes of length before each NAL unit; an IDR gets the parameter sets before it, so that every one of them
    /// can be the first.
    pub(super) fn h264(pts: i64, idr: bool, data: &[u8], parameter_sets: &[Bytes]) -> Self {
        let mut payloads = Vec::with_capacity(data.len() / MAX_PAYLOAD + 2);
        if idr {
            aggregate(parameter_sets, &mut payloads);
        }
        let sent = |unit: &&[u8]| {
            let kind = nal::unit_type(unit);
            !unit.is_empty() && kind != nal::ACCESS_UNIT_DELIMITER && kind != nal::FILLER
        };
        for unit in nal::length_prefixed(data).filter(sent) {
            fragment(unit, &mut payloads);
        }
        Self::new(pts, idr, payloads)
    }
}

/// Parameter sets in one packet (STAP-A, section 5.7.1) where they fit.
fn aggregate(sets: &[Bytes], payloads: &mut Vec<Arc<[u8]>>) {
    let length = 1 + sets.iter().map(|set| 2 + set.len()).sum::<usize>();
    if sets.len() < 2 || length > MAX_PAYLOAD {
        for set in sets {
            fragment(set, payloads);
        }
        return;
    }
    let most_important = sets.iter().filter_map(|set| set.first()).map(|b| b & 0x60);
    let mut payload = Vec::with_capacity(length);
    payload.push(most_important.max().unwrap_or(0x60) | STAP_A);
    for set in sets {
        // It fits, so each is shorter than 64 KiB.
        payload.extend((set.len() as u16).to_be_bytes());
        payload.extend(set);
    }
    payloads.push(payload.into());
}

/// A NAL unit by itself (section 5.6), or in fragments of the same length but the last (FU-A, section 5.8).
fn fragment(unit: &[u8], payloads: &mut Vec<Arc<[u8]>>) {
    let Some((header, rest)) = unit.split_first() else {
        return;
    };
    if unit.len() <= MAX_PAYLOAD {
        payloads.push(unit.into());
        return;
    }
    let pieces = rest.chunks(MAX_PAYLOAD - 2);
    let last = pieces.len() - 1;
    for (index, piece) in pieces.enumerate() {
        let mut payload = Vec::with_capacity(piece.len() + 2);
        payload.push(header & 0xe0 | FU_A);
        let (start, end) = (u8::from(index == 0) << 7, u8::from(index == last) << 6);
        payload.push(start | end | header & 0x1f);
        payload.extend(piece);
        payloads.push(payload.into());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// What a receiver makes of the packets.
    fn units(frame: &Frame) -> Vec<Vec<u8>> {
        let mut units: Vec<Vec<u8>> = Vec::new();
        for payload in &frame.payloads {
            assert!(payload.len() <= MAX_PAYLOAD);
            match payload[0] & 0x1f {
                STAP_A => {
                    let mut rest = &payload[1..];
                    while let Some((length, after)) = rest.split_first_chunk::<2>() {
                        let (unit, after) =
                            after.split_at(usize::from(u16::from_be_bytes(*length)));
                        units.push(unit.to_vec());
                        rest = after;
                    }
                    assert!(rest.is_empty());
                }
                FU_A => {
                    if payload[1] & 0x80 != 0 {
                        units.push(vec![payload[0] & 0xe0 | payload[1] & 0x1f]);
                    }
                    units.last_mut().unwrap().extend(&payload[2..]);
                }
                _ => units.push(payload.to_vec()),
            }
        }
        units
    }

    #[test]
    fn an_idr_brings_its_parameter_sets_and_leaves_out_what_no_decoder_needs() {
        let sets = [
            Bytes::from_static(&[0x67, 1, 2]),
            Bytes::from_static(&[0x68, 3]),
        ];
        let data = nal::to_length_prefixed(
            [&[0x09, 0x10][..], &[0x65, 7, 8, 9], &[0x0c, 0xff, 0x80]].into_iter(),
        );
        let frame = Frame::h264(90, true, &data, &sets);
        assert_eq!(
            units(&frame),
            [vec![0x67, 1, 2], vec![0x68, 3], vec![0x65, 7, 8, 9]]
        );
        assert_eq!(frame.payloads.len(), 2, "the sets are one packet");
        let frame = Frame::h264(90, false, &data, &sets);
        assert_eq!(units(&frame), [vec![0x65, 7, 8, 9]]);
    }

    proptest! {
        #[test]
        fn whatever_the_lengths_a_receiver_gets_the_same_units(
            lengths in proptest::collection::vec(1_usize..6_000, 1..6),
        ) {
            let sent: Vec<Vec<u8>> = lengths
                .iter()
                .enumerate()
                .map(|(n, length)| {
                    let mut unit = vec![0x61];
                    unit.extend((1..*length).map(|at| (at * (n + 3)) as u8));
                    unit
                })
                .collect();
            let data = nal::to_length_prefixed(sent.iter().map(Vec::as_slice));
            let frame = Frame::h264(0, false, &data, &[]);
            prop_assert_eq!(units(&frame), sent);
        }
    }
}
