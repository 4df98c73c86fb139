//! NAL units in their two wrappings: Annex B start codes (ITU-T H.264) and four-byte lengths (ISO/IEC 14496-15).

use bytes::{BufMut, Bytes, BytesMut};

/// `nal_unit_type` of a slice of a picture that is not an IDR.
pub const SLICE: u8 = 1;
/// `nal_unit_type` of a slice of an IDR picture.
pub const IDR_SLICE: u8 = 5;
/// `nal_unit_type` of a sequence parameter set.
pub const SPS: u8 = 7;
/// `nal_unit_type` of a picture parameter set.
pub const PPS: u8 = 8;
/// `nal_unit_type` of an access unit delimiter.
pub const ACCESS_UNIT_DELIMITER: u8 = 9;
/// `nal_unit_type` of filler.
pub const FILLER: u8 = 12;
/// `nal_unit_type` of the extension of a sequence parameter set.
pub const SPS_EXTENSION: u8 = 13;

/// `nal_unit_type` of a NAL unit; 0 (unspecified) for an empty one.
pub fn unit_type(unit: &[u8]) -> u8 {
    unit.first().map_or(0, |header| header & 0x1f)
}

/// The NAL units of an Annex B byte stream, without start codes and without the zero bytes between them: no NAL unit ends with one.
pub fn annex_b(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = after_start_code(stream);
    std::iter::from_fn(move || {
        loop {
            let now = rest?;
            let end = find(now, |byte| byte <= 1).unwrap_or(now.len());
            let (unit, tail) = now.split_at(end);
            rest = after_start_code(tail);
            if let Some(last) = unit.iter().rposition(|byte| *byte != 0) {
                return unit.get(..=last);
            }
        }
    })
}

/// What follows the next start code.
fn after_start_code(stream: &[u8]) -> Option<&[u8]> {
    stream.get(find(stream, |byte| byte == 1)? + 3..)
}

/// Where two zero bytes stand before one that is `wanted`.
fn find(bytes: &[u8], wanted: impl Fn(u8) -> bool) -> Option<usize> {
    let mut at = 0;
    while let Some(&[first, second, third]) = bytes.get(at..).and_then(|b| b.first_chunk()) {
        if first == 0 && second == 0 && wanted(third) {
            return Some(at);
        }
        // Only a zero byte can stand first or second.
        at += if third == 0 { 1 } else { 3 };
    }
    None
}

/// A NAL unit's length points beyond the access unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an H.264 access unit is malformed: a NAL unit of {length} bytes begins with {left} bytes left"
)]
pub struct BadLength {
    /// What the prefix says, bytes.
    pub length: usize,
    /// What there is, bytes.
    pub left: usize,
}

/// The NAL units of an access unit, each behind its length of `length_size` bytes (1 to 4). Ends at the first length that does not fit.
pub fn with_lengths(
    access_unit: &[u8],
    length_size: usize,
) -> impl Iterator<Item = Result<&[u8], BadLength>> {
    let length_size = length_size.clamp(1, 4);
    let mut rest = access_unit;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (prefix, tail) = rest.split_at(length_size.min(rest.len()));
        let length = prefix
            .iter()
            .fold(0, |length, byte| length << 8 | usize::from(*byte));
        if prefix.len() < length_size || length > tail.len() {
            rest = &[];
            let left = tail.len();
            return Some(Err(BadLength { length, left }));
        }
        let (unit, tail) = tail.split_at(length);
        rest = tail;
        Some(Ok(unit))
    })
}

/// The NAL units of an access unit with four-byte lengths. Ends at the first length that does not fit.
pub fn length_prefixed(access_unit: &[u8]) -> impl Iterator<Item = &[u8]> {
    with_lengths(access_unit, 4).map_while(Result::ok)
}

/// Wraps NAL units with four-byte lengths.
pub fn to_length_prefixed<'a>(units: impl Iterator<Item = &'a [u8]>) -> Bytes {
    let mut out = BytesMut::new();
    units.for_each(|unit| put_length_prefixed(&mut out, unit));
    out.freeze()
}

pub(super) fn put_length_prefixed(out: &mut BytesMut, unit: &[u8]) {
    out.put_u32(u32::try_from(unit.len()).unwrap_or(u32::MAX));
    out.put_slice(unit);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn start_codes_of_both_lengths_and_trailing_zeros_are_taken_off() {
        let stream = [
            0, 0, 0, 1, 0x67, 1, 2, 0, 0, 0, 1, 0x68, 3, 0, 0, 1, 0x65, 4, 0, 0,
        ];
        let units: Vec<&[u8]> = annex_b(&stream).collect();
        let expected: [&[u8]; 3] = [&[0x67, 1, 2], &[0x68, 3], &[0x65, 4]];
        assert_eq!(units, expected);
        assert_eq!(
            units.iter().map(|u| unit_type(u)).collect::<Vec<_>>(),
            [SPS, PPS, IDR_SLICE]
        );
    }

    #[test]
    fn zeros_and_emulation_prevention_fall_on_the_right_side_of_a_unit_s_end() {
        for stream in [&[][..], &[1, 2, 3], &[0, 0, 1], &[0, 0, 0, 1, 0, 0, 1]] {
            assert_eq!(annex_b(stream).count(), 0, "{stream:?}");
        }
        let seven = [0, 0, 0, 0, 1, 7, 0, 0, 0];
        assert_eq!(annex_b(&seven).collect::<Vec<_>>(), [[7]]);
        // Three zeros end a unit, and what follows them before a start code belongs to none.
        let between = [0, 0, 1, 7, 0, 0, 0, 9, 0, 0, 1, 8];
        assert_eq!(annex_b(&between).collect::<Vec<_>>(), [[7], [8]]);
        let escaped = [0, 0, 1, 0x65, 0, 0, 3, 1, 0, 0, 1, 8];
        let expected: [&[u8]; 2] = [&[0x65, 0, 0, 3, 1], &[8]];
        assert_eq!(annex_b(&escaped).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_length_past_the_end_ends_the_access_unit() {
        assert_eq!(length_prefixed(&[0, 0, 0, 1, 9, 0, 0, 0, 5, 1]).count(), 1);
        let mut units = with_lengths(&[0, 1, 9, 0, 5, 1], 2);
        assert_eq!(units.next(), Some(Ok(&[9][..])));
        let bad = BadLength { length: 5, left: 1 };
        assert_eq!(units.next(), Some(Err(bad)));
        assert_eq!(units.next(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_walked(bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(1u8), any::<u8>()], 0..200)) {
            let walked: usize = annex_b(&bytes).map(<[u8]>::len).sum();
            prop_assert!(walked <= bytes.len());
            let walked: usize = length_prefixed(&bytes).map(<[u8]>::len).sum();
            prop_assert!(walked <= bytes.len());
        }

        #[test]
        fn units_of_a_byte_stream_hold_no_start_code(bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(1u8), any::<u8>()], 0..200)) {
            for unit in annex_b(&bytes) {
                prop_assert!(!unit.windows(3).any(|three| three[..2] == [0, 0] && three[2] <= 1));
                prop_assert!(unit.last().is_some_and(|last| *last != 0));
            }
        }

        #[test]
        fn what_was_wrapped_is_unwrapped(units in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..8)) {
            let wrapped = to_length_prefixed(units.iter().map(Vec::as_slice));
            let back: Vec<Vec<u8>> = length_prefixed(&wrapped).map(<[u8]>::to_vec).collect();
            prop_assert_eq!(back, units);
        }
    }
}
