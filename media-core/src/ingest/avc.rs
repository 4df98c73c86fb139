//! H.264 in length-prefixed form: the decoder configuration record and access units (ISO/IEC 14496-15 section 5).

use bytes::{BufMut, Bytes, BytesMut};

use super::bits::Bits;

/// The longest parameter set that is taken, bytes. Real ones have under 200.
pub const MAX_PARAMETER_SET_BYTES: usize = 2_048;

/// The most parameter sets of a kind that are kept.
pub const MAX_PARAMETER_SETS: usize = 8;

/// Why bytes are not H.264 as FLV carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not version 1, or cut short.
    #[error("the H.264 configuration record is malformed")]
    Record,
    /// A parameter set that cannot be read, is too long, or is one too many.
    #[error("an H.264 parameter set is malformed or too long")]
    ParameterSet,
    /// A NAL unit's length points beyond the access unit.
    #[error(
        "an H.264 access unit is malformed: a NAL unit of {length} bytes begins with {left} bytes left"
    )]
    AccessUnit {
        /// What the prefix says, bytes.
        length: usize,
        /// What there is, bytes.
        left: usize,
    },
}

/// `nal_unit_type` (ISO/IEC 14496-10 table 7-1).
mod nal {
    pub(super) const IDR: u8 = 5;
    pub(super) const SPS: u8 = 7;
    pub(super) const PPS: u8 = 8;
    pub(super) const FILLER: u8 = 12;
    pub(super) const SPS_EXTENSION: u8 = 13;
}

/// The parameter sets of a stream, by id, and the length size of its packets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParameterSets {
    /// Bytes of a NAL unit's length prefix: 1, 2 or 4.
    length_size: usize,
    sps: Vec<(u32, Bytes)>,
    pps: Vec<(u32, Bytes)>,
    /// The last bytes of the record of the high profiles, as they came: chroma format, bit depths, SPS extensions.
    record_end: Bytes,
}

/// An access unit as the steps after this one take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessUnit {
    /// NAL units with four bytes of length; no parameter sets and no filler. Empty when nothing else was there.
    pub data: Bytes,
    /// Whether it is an IDR.
    pub idr: bool,
    /// Whether parameter sets in it changed those that hold.
    pub new_parameter_sets: bool,
}

impl ParameterSets {
    /// Reads an `AVCDecoderConfigurationRecord` (section 5.3.3.1). Without parameter sets it is taken: they may come in band.
    ///
    /// # Errors
    /// [`Error`] when it is malformed.
    pub fn from_record(record: &Bytes) -> Result<Self, Error> {
        let mut rest = record.clone();
        let mut take = |count: usize| match rest.len() >= count {
            true => Ok(rest.split_to(count)),
            false => Err(Error::Record),
        };
        let head = take(6)?;
        if head[0] != 1 {
            return Err(Error::Record);
        }
        let length_size = match head[4] & 3 {
            0 => 1,
            1 => 2,
            3 => 4,
            _ => return Err(Error::Record),
        };
        let mut sets = Self {
            length_size,
            ..Self::default()
        };
        let mut counts = [head[5] & 0x1f, 0];
        for of in 0..2 {
            if of == 1 {
                counts[1] = take(1)?[0];
            }
            for _ in 0..counts[of] {
                let length = take(2)?;
                let set = take(usize::from(u16::from_be_bytes([length[0], length[1]])))?;
                // An empty parameter set is written by some encoders that then send them in band.
                if !set.is_empty() {
                    sets.keep(&set)?;
                }
            }
        }
        if rest.len() <= MAX_PARAMETER_SET_BYTES {
            sets.record_end = rest;
        }
        Ok(sets)
    }

    /// Whether there is what a decoder needs.
    pub fn is_complete(&self) -> bool {
        !self.sps.is_empty() && !self.pps.is_empty()
    }

    /// The record of these parameter sets, for packets with four bytes of length; `None` while one is missing.
    pub fn record(&self) -> Option<Bytes> {
        let (_, first) = self.sps.first()?;
        if self.pps.is_empty() {
            return None;
        }
        // Kept are only sequence parameter sets of at least four bytes.
        let [profile, compatibility, level] = *first[1..].first_chunk()?;
        let mut record = BytesMut::new();
        record.put_slice(&[
            1,
            profile,
            compatibility,
            level,
            0xff,
            0xe0 | self.sps.len() as u8,
        ]);
        for (of, sets) in [&self.sps, &self.pps].into_iter().enumerate() {
            if of == 1 {
                record.put_u8(sets.len() as u8);
            }
            for (_, set) in sets {
                record.put_u16(set.len() as u16);
                record.put_slice(set);
            }
        }
        if matches!(profile, 100 | 110 | 122 | 144) {
            match (&self.record_end[..], chroma(first)) {
                ([], Some([format, luma, chroma])) => {
                    record.put_slice(&[0xfc | format, 0xf8 | luma, 0xf8 | chroma, 0])
                }
                (end, _) => record.put_slice(end),
            }
        }
        Some(record.freeze())
    }

    /// Splits an access unit, takes its parameter sets in, and gives the rest. `data` is shared, not copied, where nothing is left out.
    ///
    /// # Errors
    /// [`Error`] when a length points beyond the end, or a parameter set is malformed.
    pub fn access_unit(&mut self, data: &Bytes) -> Result<AccessUnit, Error> {
        let mut unit = AccessUnit {
            data: Bytes::new(),
            idr: false,
            new_parameter_sets: false,
        };
        let length_size = self.length_size;
        let mut as_it_is = length_size == 4;
        let mut kept_bytes = 0;
        for nal in nal_units(data, length_size) {
            let nal = nal?;
            match nal.first().map(|first| first & 0x1f) {
                Some(nal::SPS | nal::PPS) => {
                    unit.new_parameter_sets |= self.keep(&nal)?;
                    as_it_is = false;
                }
                None | Some(nal::SPS_EXTENSION | nal::FILLER) => as_it_is = false,
                Some(kind) => {
                    unit.idr |= kind == nal::IDR;
                    kept_bytes += 4 + nal.len();
                }
            }
        }
        if as_it_is {
            unit.data = data.clone();
            return Ok(unit);
        }
        let mut kept = BytesMut::with_capacity(kept_bytes);
        for nal in nal_units(data, length_size) {
            let nal = nal?;
            // Parameter sets belong into the sample description of `avc1`; filler is padding of a constant bit rate, of no use here.
            if !matches!(
                nal.first().map(|first| first & 0x1f),
                None | Some(nal::SPS | nal::PPS | nal::SPS_EXTENSION | nal::FILLER)
            ) {
                kept.put_u32(nal.len() as u32);
                kept.put_slice(&nal);
            }
        }
        unit.data = kept.freeze();
        Ok(unit)
    }

    /// Keeps a parameter set in place of the one with its id; whether that changes anything.
    fn keep(&mut self, set: &Bytes) -> Result<bool, Error> {
        if set.len() > MAX_PARAMETER_SET_BYTES {
            return Err(Error::ParameterSet);
        }
        let (sets, id) = match set.first().map(|first| first & 0x1f) {
            Some(nal::SPS) if set.len() >= 4 => (&mut self.sps, id_after(set, 4)),
            Some(nal::PPS) => (&mut self.pps, id_after(set, 1)),
            _ => return Err(Error::ParameterSet),
        };
        let id = id.ok_or(Error::ParameterSet)?;
        // Copied, so that a few bytes do not keep a whole message alive.
        let copy = || Bytes::copy_from_slice(set);
        match sets.iter().position(|(known, _)| *known == id) {
            Some(index) if sets[index].1 == *set => return Ok(false),
            Some(index) => sets[index].1 = copy(),
            None if sets.len() < MAX_PARAMETER_SETS => sets.push((id, copy())),
            None => return Err(Error::ParameterSet),
        }
        // What the record said of the old ones may be wrong of the new.
        self.record_end = Bytes::new();
        Ok(true)
    }
}

/// The id of a parameter set, which follows `skip` bytes of it. Emulation prevention cannot come before it is read: of the bytes
/// before it none can be part of a run of zeros but a level of 0, which is no level.
fn id_after(set: &[u8], skip: usize) -> Option<u32> {
    Bits::new(set.get(skip..)?).ue()
}

/// `chroma_format_idc`, `bit_depth_luma_minus8` and `bit_depth_chroma_minus8` of a sequence parameter set of a high profile
/// (ISO/IEC 14496-10 section 7.3.2.1.1).
fn chroma(sps: &[u8]) -> Option<[u8; 3]> {
    let mut bits = Bits::new(sps.get(4..)?);
    bits.ue()?;
    let format = bits.ue().filter(|format| *format <= 3)?;
    if format == 3 {
        bits.bit()?;
    }
    let luma = bits.ue().filter(|depth| *depth <= 6)?;
    let chroma = bits.ue().filter(|depth| *depth <= 6)?;
    Some([format as u8, luma as u8, chroma as u8])
}

fn nal_units(data: &Bytes, length_size: usize) -> impl Iterator<Item = Result<Bytes, Error>> + '_ {
    let mut rest = data.clone();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let prefix = rest.split_to(length_size.min(rest.len()));
        let length = prefix
            .iter()
            .fold(0, |length, byte| length << 8 | usize::from(*byte));
        if prefix.len() < length_size || length > rest.len() {
            let left = rest.len();
            rest.clear();
            return Some(Err(Error::AccessUnit { length, left }));
        }
        Some(Ok(rest.split_to(length)))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    // High profile, level 3.1, id 0, 4:2:0, 8 bits.
    const SPS: &[u8] = &[0x67, 100, 0, 31, 0xac, 0xd9];
    const SPS_BASELINE: &[u8] = &[0x67, 66, 0xc0, 30, 0xe0];
    const PPS: &[u8] = &[0x68, 0xc0];
    const PPS_1: &[u8] = &[0x68, 0x50];

    fn record(length_size: u8, sets: [&[&[u8]]; 2]) -> Bytes {
        let mut out = vec![
            1,
            100,
            0,
            31,
            0xfc | (length_size - 1),
            0xe0 | sets[0].len() as u8,
        ];
        for (of, sets) in sets.iter().enumerate() {
            if of == 1 {
                out.push(sets.len() as u8);
            }
            for set in *sets {
                out.extend_from_slice(&(set.len() as u16).to_be_bytes());
                out.extend_from_slice(set);
            }
        }
        out.into()
    }

    fn unit(length_size: usize, nals: &[&[u8]]) -> Bytes {
        let mut out = Vec::new();
        for nal in nals {
            out.extend_from_slice(&(nal.len() as u32).to_be_bytes()[4 - length_size..]);
            out.extend_from_slice(nal);
        }
        out.into()
    }

    #[test]
    fn a_record_is_written_for_four_bytes_of_length_with_the_chroma_of_its_sps() {
        let sets = ParameterSets::from_record(&record(2, [&[SPS], &[PPS]])).unwrap();
        let written = sets.record().unwrap();
        let mut expected = record(4, [&[SPS], &[PPS]]).to_vec();
        expected.extend_from_slice(&[0xfd, 0xf8, 0xf8, 0]);
        assert_eq!(&written[..], expected);
        let again = ParameterSets::from_record(&written).unwrap();
        assert_eq!(again.record().unwrap(), written);
    }

    #[test]
    fn an_access_unit_that_needs_no_change_is_shared() {
        let mut sets = ParameterSets::from_record(&record(4, [&[SPS], &[PPS]])).unwrap();
        let data = unit(4, &[&[6, 5], &[0x65, 1, 2]]);
        let out = sets.access_unit(&data).unwrap();
        assert_eq!(out.data.as_ptr(), data.as_ptr());
        assert!(out.idr && !out.new_parameter_sets);
        assert!(!sets.access_unit(&unit(4, &[&[0x41, 1]])).unwrap().idr);
    }

    #[test]
    fn other_length_sizes_become_four_bytes() {
        for size in [1, 2] {
            let mut sets = ParameterSets::from_record(&record(size, [&[SPS], &[PPS]])).unwrap();
            let out = sets
                .access_unit(&unit(size.into(), &[&[9, 0x10], &[0x65, 1]]))
                .unwrap();
            assert_eq!(out.data, unit(4, &[&[9, 0x10], &[0x65, 1]]));
        }
    }

    #[test]
    fn parameter_sets_in_band_replace_those_with_their_id() {
        let mut sets = ParameterSets::from_record(&record(4, [&[], &[]])).unwrap();
        assert_eq!(sets.record(), None);
        let first = sets
            .access_unit(&unit(4, &[SPS, PPS, &[0x65, 1], &[0x0c, 0xff]]))
            .unwrap();
        assert!(first.new_parameter_sets && first.idr);
        assert_eq!(first.data, unit(4, &[&[0x65, 1]]));
        let again = sets.access_unit(&unit(4, &[SPS, PPS, &[0x65, 1]])).unwrap();
        assert!(!again.new_parameter_sets);
        let other = sets.access_unit(&unit(4, &[SPS_BASELINE, PPS_1])).unwrap();
        assert!(other.new_parameter_sets && other.data.is_empty());
        assert_eq!(sets.record().unwrap()[1], 66);
        assert_eq!((sets.sps.len(), sets.pps.len()), (1, 2));
    }

    #[test]
    fn lengths_beyond_the_end_and_bad_parameter_sets_are_refused() {
        let mut sets = ParameterSets::from_record(&record(4, [&[SPS], &[PPS]])).unwrap();
        for bad in [&[0, 0, 0, 2, 0x65][..], &[0, 0, 0], &[0xff; 8]] {
            assert!(sets.access_unit(&Bytes::copy_from_slice(bad)).is_err());
        }
        let long = [&[0x68, 0xff][..], &[1; MAX_PARAMETER_SET_BYTES]].concat();
        assert_eq!(
            sets.access_unit(&unit(4, &[&long])),
            Err(Error::ParameterSet)
        );
        for cut in 0..record(4, [&[SPS], &[PPS]]).len() {
            let short = record(4, [&[SPS], &[PPS]]).slice(..cut);
            assert!(
                ParameterSets::from_record(&short).is_err(),
                "{cut} bytes were accepted"
            );
        }
    }

    proptest! {
        #[test]
        fn any_record_and_access_unit_are_read_or_refused(
            record in proptest::collection::vec(any::<u8>(), 0..64),
            unit in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            if let Ok(mut sets) = ParameterSets::from_record(&record.into()) {
                let _ = sets.access_unit(&unit.into());
                if let Some(record) = sets.record() {
                    let read_back = ParameterSets::from_record(&record).map(|sets| sets.record());
                    prop_assert_eq!(read_back, Ok(Some(record)));
                }
            }
        }
    }
}
