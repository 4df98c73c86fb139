//! From what encoders write (ITU-T H.264 Annex B byte streams) to what files and links carry: NAL units length-prefixed with four bytes, and the
//! `AVCDecoderConfigurationRecord` (ISO/IEC 14496-15 section 5.3.3).

use bytes::{BufMut, Bytes, BytesMut};

const SLICE_IDR: u8 = 5;
const SPS: u8 = 7;
const PPS: u8 = 8;
const ACCESS_UNIT_DELIMITER: u8 = 9;
const FILLER: u8 = 12;

/// The NAL units of a byte stream, without start codes and trailing zeroes.
pub(super) fn units(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = after_start_code(stream).map(|(_, from)| &stream[from..]);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let (unit, next) = match after_start_code(bytes) {
            Some((end, from)) => (&bytes[..end], Some(&bytes[from..])),
            None => (bytes, None),
        };
        rest = next;
        let length = unit
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        Some(&unit[..length])
    })
    .filter(|unit| !unit.is_empty())
}

/// Where the next start code begins and where it ends.
fn after_start_code(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut at = 0;
    while at + 2 < bytes.len() {
        match bytes[at + 2] {
            1 if bytes[at] == 0 && bytes[at + 1] == 0 => return Some((at, at + 3)),
            // A start code could still begin at one of the next two bytes only where this byte is zero.
            0 => at += 1,
            _ => at += 3,
        }
    }
    None
}

/// An access unit, and what was found in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AccessUnit {
    /// NAL units with four bytes of length; parameter sets, delimiters and filler are left out.
    pub(super) data: Bytes,
    /// Whether it is an IDR.
    pub(super) idr: bool,
}

/// Rewrites an access unit of a byte stream.
pub(super) fn access_unit(stream: &[u8]) -> AccessUnit {
    let mut data = BytesMut::with_capacity(stream.len() + 16);
    let mut idr = false;
    for unit in units(stream) {
        let kind = unit[0] & 0x1f;
        if matches!(kind, SPS | PPS | ACCESS_UNIT_DELIMITER | FILLER) {
            continue;
        }
        idr |= kind == SLICE_IDR;
        data.put_u32(unit.len() as u32);
        data.put_slice(unit);
    }
    AccessUnit {
        data: data.freeze(),
        idr,
    }
}

/// The configuration record of the parameter sets in a byte stream; `None` where a set is missing or too short to be one.
pub(super) fn avcc(stream: &[u8]) -> Option<Bytes> {
    let sets = |kind: u8| {
        let mut found: Vec<&[u8]> = Vec::new();
        for unit in units(stream).filter(|unit| unit[0] & 0x1f == kind) {
            if unit.len() <= usize::from(u16::MAX) && !found.contains(&unit) && found.len() < 31 {
                found.push(unit);
            }
        }
        found
    };
    let (sps, pps) = (sets(SPS), sets(PPS));
    let first = *sps.first().filter(|sps| sps.len() >= 4)?;
    if pps.is_empty() {
        return None;
    }
    let mut record = BytesMut::with_capacity(stream.len() + 16);
    record.put_u8(1);
    record.put_slice(&first[1..4]);
    record.put_u8(0xfc | 3);
    record.put_u8(0xe0 | sps.len() as u8);
    for unit in &sps {
        record.put_u16(unit.len() as u16);
        record.put_slice(unit);
    }
    record.put_u8(pps.len() as u8);
    for unit in &pps {
        record.put_u16(unit.len() as u16);
        record.put_slice(unit);
    }
    // The High profiles say chroma format and bit depths again. Every encoder here writes 4:2:0 of eight bits.
    if matches!(first[1], 100 | 110 | 122 | 144) {
        record.put_slice(&[0xfc | 1, 0xf8, 0xf8, 0]);
    }
    Some(record.freeze())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SETS: &[u8] = &[
        0, 0, 0, 1, 0x67, 100, 0, 31, 9, 0, 0, 1, 0x68, 1, 2, 0, 0, 1, 0x06, 5,
    ];

    #[test]
    fn start_codes_of_three_and_four_bytes_separate_units() {
        let found: Vec<_> = units(SETS).collect();
        assert_eq!(
            found,
            [&[0x67, 100, 0, 31, 9][..], &[0x68, 1, 2], &[0x06, 5]]
        );
        assert_eq!(units(&[]).count(), 0);
        assert_eq!(units(&[1, 2, 3]).count(), 0);
        assert_eq!(units(&[0, 0, 1]).count(), 0);
        assert_eq!(
            units(&[0, 0, 0, 0, 1, 7, 0, 0, 0]).collect::<Vec<_>>(),
            [[7]]
        );
    }

    #[test]
    fn an_access_unit_keeps_slices_and_says_whether_it_is_an_idr() {
        let stream = [
            0, 0, 0, 1, 9, 0x10, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x65, 0, 0, 3, 1, 0, 0, 1, 0x65, 7,
        ];
        let unit = access_unit(&stream);
        assert!(unit.idr);
        assert_eq!(
            unit.data[..],
            [0, 0, 0, 5, 0x65, 0, 0, 3, 1, 0, 0, 0, 2, 0x65, 7]
        );
        assert!(!access_unit(&[0, 0, 1, 0x41, 9]).idr);
    }

    #[test]
    fn the_record_lists_the_parameter_sets_and_needs_both() {
        let record = avcc(SETS).unwrap();
        assert_eq!(
            record[..],
            [
                1, 100, 0, 31, 0xff, 0xe1, 0, 5, 0x67, 100, 0, 31, 9, 1, 0, 3, 0x68, 1, 2, 0xfd,
                0xf8, 0xf8, 0
            ]
        );
        assert_eq!(avcc(&[0, 0, 1, 0x67, 66, 0, 30]), None);
        assert_eq!(avcc(&[0, 0, 1, 0x67, 66, 0, 0, 1, 0x68, 1]), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let total: usize = units(&bytes).map(<[u8]>::len).sum();
            assert!(total <= bytes.len());
            access_unit(&bytes);
            avcc(&bytes);
        }
    }
}
