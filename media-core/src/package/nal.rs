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

/// `nal_unit_type` of a NAL unit; 0 (unspecified) for an empty one.
pub fn unit_type(unit: &[u8]) -> u8 {
    unit.first().map_or(0, |header| header & 0x1f)
}

/// The NAL units of an Annex B byte stream, without start codes and without the zero bytes between them.
pub fn annex_b(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = after_start_code(stream);
    std::iter::from_fn(move || {
        loop {
            let now = rest?;
            let end = now
                .windows(3)
                .position(|w| w == [0, 0, 1] || w == [0, 0, 0])
                .unwrap_or(now.len());
            let (unit, tail) = now.split_at(end);
            rest = after_start_code(tail);
            if !unit.is_empty() {
                return Some(unit);
            }
        }
    })
}

/// What follows the next start code.
fn after_start_code(stream: &[u8]) -> Option<&[u8]> {
    let at = stream.windows(3).position(|w| w == [0, 0, 1])?;
    stream.get(at + 3..)
}

/// The NAL units of an access unit with four-byte lengths. Ends at the first length that does not fit.
pub fn length_prefixed(access_unit: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = access_unit;
    std::iter::from_fn(move || {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let unit = tail.get(..length)?;
        rest = tail.get(length..)?;
        Some(unit)
    })
}

/// Wraps NAL units with four-byte lengths.
pub fn to_length_prefixed<'a>(units: impl Iterator<Item = &'a [u8]>) -> Bytes {
    let mut out = BytesMut::new();
    for unit in units {
        out.put_u32(u32::try_from(unit.len()).unwrap_or(u32::MAX));
        out.put_slice(unit);
    }
    out.freeze()
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
        let expected: [&[u8]; 3] = [&[0x67, 1, 2], &[0x68, 3], &[0x65, 4, 0, 0]];
        assert_eq!(units, expected);
        assert_eq!(
            units.iter().map(|u| unit_type(u)).collect::<Vec<_>>(),
            [SPS, PPS, IDR_SLICE]
        );
    }

    #[test]
    fn a_length_past_the_end_ends_the_access_unit() {
        assert_eq!(length_prefixed(&[0, 0, 0, 1, 9, 0, 0, 0, 5, 1]).count(), 1);
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
        fn what_was_wrapped_is_unwrapped(units in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..8)) {
            let wrapped = to_length_prefixed(units.iter().map(Vec::as_slice));
            let back: Vec<Vec<u8>> = length_prefixed(&wrapped).map(<[u8]>::to_vec).collect();
            prop_assert_eq!(back, units);
        }
    }
}
