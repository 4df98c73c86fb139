//! H.264 as files and links carry it: the decoder configuration record and access units (ISO/IEC 14496-15 section 5).

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    bits::Bits,
    nal,
    sps::{self, Sps},
};

/// The longest parameter set that is taken, bytes. Real ones have under 200.
pub const MAX_PARAMETER_SET_BYTES: usize = 2_048;

/// The most parameter sets of a kind that are kept.
pub const MAX_PARAMETER_SETS: usize = 8;

/// Why bytes are not H.264 that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not version 1, or cut short.
    #[error("the H.264 configuration record is malformed")]
    Record,
    /// A parameter set that cannot be read, is too long, or is one too many.
    #[error("an H.264 parameter set is malformed or too long")]
    ParameterSet,
    /// There is no sequence parameter set, or no picture parameter set.
    #[error("the H.264 configuration has no {0} parameter set")]
    Missing(&'static str),
    /// The sequence parameter set cannot be read.
    #[error(transparent)]
    Sps(#[from] sps::Error),
    /// A NAL unit's length points beyond the access unit.
    #[error(transparent)]
    AccessUnit(#[from] nal::BadLength),
}

/// The parameter sets of a stream, by id, and the length size of its packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSets {
    /// Bytes of a NAL unit's length prefix: 1, 2 or 4.
    length_size: usize,
    sps: Vec<(u32, Bytes)>,
    pps: Vec<(u32, Bytes)>,
    /// Extensions of sequence parameter sets (NAL units of type 13), as the record had them.
    sps_extensions: Vec<Bytes>,
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
    fn none(length_size: usize) -> Self {
        Self {
            length_size,
            sps: Vec::new(),
            pps: Vec::new(),
            sps_extensions: Vec::new(),
        }
    }

    /// Reads an `AVCDecoderConfigurationRecord` (section 5.3.3.1). Without parameter sets it is taken: they may come in band.
    ///
    /// # Errors
    /// [`Error`] when it is malformed.
    pub fn from_record(record: &[u8]) -> Result<Self, Error> {
        let mut rest = record;
        let head = take(&mut rest, 6).ok_or(Error::Record)?;
        if head[0] != 1 {
            return Err(Error::Record);
        }
        let length_size = match head[4] & 3 {
            0 => 1,
            1 => 2,
            3 => 4,
            _ => return Err(Error::Record),
        };
        let mut sets = Self::none(length_size);
        let mut count = head[5] & 0x1f;
        for of in [nal::SPS, nal::PPS] {
            if of == nal::PPS {
                count = take(&mut rest, 1).ok_or(Error::Record)?[0];
            }
            for _ in 0..count {
                let set = take_set(&mut rest).ok_or(Error::Record)?;
                // An empty parameter set is written by some encoders that then send them in band.
                if !set.is_empty() {
                    sets.keep(set)?;
                }
            }
        }
        // What the record repeats of the sequence parameter set is written anew from it; some encoders leave it out, or cut it short.
        sets.sps_extensions = extensions(rest).unwrap_or_default();
        Ok(sets)
    }

    /// The parameter sets in an Annex B byte stream: an encoder's extradata, or an access unit.
    ///
    /// # Errors
    /// [`Error`] when one is malformed.
    pub fn from_annex_b(stream: &[u8]) -> Result<Self, Error> {
        let mut sets = Self::none(4);
        for unit in nal::annex_b(stream) {
            if matches!(nal::unit_type(unit), nal::SPS | nal::PPS) {
                sets.keep(unit)?;
            }
        }
        Ok(sets)
    }

    /// Whether there is what a decoder needs.
    pub fn is_complete(&self) -> bool {
        !self.sps.is_empty() && !self.pps.is_empty()
    }

    /// All of them, sequence parameter sets first.
    pub fn units(&self) -> impl Iterator<Item = &Bytes> {
        self.sps.iter().chain(&self.pps).map(|(_, unit)| unit)
    }

    /// The first sequence parameter set, as it came.
    ///
    /// # Errors
    /// [`Error::Missing`] where not [complete](Self::is_complete).
    pub fn first_sps(&self) -> Result<&Bytes, Error> {
        let (_, first) = self.sps.first().ok_or(Error::Missing("sequence"))?;
        match self.pps.is_empty() {
            false => Ok(first),
            true => Err(Error::Missing("picture")),
        }
    }

    /// The record of these parameter sets, for packets with four bytes of length.
    ///
    /// # Errors
    /// [`Error::Missing`] where not [complete](Self::is_complete).
    pub fn record(&self) -> Result<Bytes, Error> {
        let first = self.first_sps()?;
        let head = sps::parse_head(first)?;
        let mut record = BytesMut::new();
        record.put_u8(1);
        // Profile, compatibility and level.
        record.put_slice(first.get(1..4).ok_or(Error::ParameterSet)?);
        record.put_slice(&[0xff, 0xe0 | self.sps.len() as u8]);
        for (_, set) in &self.sps {
            put_set(&mut record, set);
        }
        record.put_u8(self.pps.len() as u8);
        for (_, set) in &self.pps {
            put_set(&mut record, set);
        }
        if head.high {
            record.put_slice(&[
                0xfc | head.chroma_format_idc,
                0xf8 | (head.bit_depth_luma - 8),
                0xf8 | (head.bit_depth_chroma - 8),
                self.sps_extensions.len() as u8,
            ]);
            for set in &self.sps_extensions {
                put_set(&mut record, set);
            }
        }
        Ok(record.freeze())
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
        let mut as_it_is = self.length_size == 4;
        let mut kept = Vec::new();
        for nal in nal::with_lengths(data, self.length_size) {
            let nal = nal?;
            match nal::unit_type(nal) {
                nal::SPS | nal::PPS => {
                    unit.new_parameter_sets |= self.keep(nal)?;
                    as_it_is = false;
                }
                // Parameter sets belong into the sample description of `avc1`; filler is padding of a constant bit rate, of no use here.
                _ if nal.is_empty() => as_it_is = false,
                nal::SPS_EXTENSION | nal::FILLER => as_it_is = false,
                kind => {
                    unit.idr |= kind == nal::IDR_SLICE;
                    kept.push(nal);
                }
            }
        }
        unit.data = match as_it_is {
            true => data.clone(),
            false => nal::to_length_prefixed(kept.into_iter()),
        };
        Ok(unit)
    }

    /// Keeps a parameter set in place of the one with its id; whether that changes anything.
    fn keep(&mut self, set: &[u8]) -> Result<bool, Error> {
        if set.len() > MAX_PARAMETER_SET_BYTES {
            return Err(Error::ParameterSet);
        }
        let (sets, id) = match nal::unit_type(set) {
            nal::SPS => (&mut self.sps, sps::parse_head(set).ok().map(|head| head.id)),
            nal::PPS => (&mut self.pps, pps_id(set)),
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
        // What extended the old ones may not fit the new.
        self.sps_extensions.clear();
        Ok(true)
    }
}

/// Reads a record and the first sequence parameter set in it.
///
/// # Errors
/// [`Error`] when it is malformed or lacks a parameter set.
pub fn first_sps(record: &[u8]) -> Result<Sps, Error> {
    Ok(sps::parse(
        ParameterSets::from_record(record)?.first_sps()?,
    )?)
}

/// An access unit of an encoder's byte stream with four bytes of length, and whether it is an IDR. Parameter sets, delimiters and filler
/// are left out.
pub fn access_unit_of_annex_b(stream: &[u8]) -> (Bytes, bool) {
    let mut idr = false;
    let mut data = BytesMut::with_capacity(stream.len() + 16);
    for unit in nal::annex_b(stream) {
        match nal::unit_type(unit) {
            nal::SPS | nal::PPS | nal::ACCESS_UNIT_DELIMITER | nal::FILLER => continue,
            kind => idr |= kind == nal::IDR_SLICE,
        }
        nal::put_length_prefixed(&mut data, unit);
    }
    (data.freeze(), idr)
}

/// The id of a picture parameter set, at most 255. Emulation prevention cannot come before it is read.
fn pps_id(set: &[u8]) -> Option<u32> {
    Bits::new(set.get(1..)?).ue().filter(|id| *id <= 255)
}

/// The extensions of sequence parameter sets at the end of a record of the high profiles, behind chroma format and bit depths.
fn extensions(mut rest: &[u8]) -> Option<Vec<Bytes>> {
    let count = take(&mut rest, 4)?[3];
    (0..count)
        .map(|_| {
            let set = take_set(&mut rest)?;
            let taken = !set.is_empty() && set.len() <= MAX_PARAMETER_SET_BYTES;
            taken.then(|| Bytes::copy_from_slice(set))
        })
        .collect::<Option<Vec<_>>>()
        .filter(|sets| sets.len() <= MAX_PARAMETER_SETS)
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, later) = rest.split_at_checked(count)?;
    *rest = later;
    Some(taken)
}

/// A parameter set behind its two bytes of length.
fn take_set<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take(rest, 2)?;
    take(
        rest,
        usize::from(u16::from_be_bytes([length[0], length[1]])),
    )
}

/// Sets are at most [`MAX_PARAMETER_SET_BYTES`] long.
fn put_set(record: &mut BytesMut, set: &[u8]) {
    record.put_u16(set.len() as u16);
    record.put_slice(set);
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
    fn a_record_keeps_its_sps_extensions_and_loses_a_broken_tail() {
        let mut with_extension = record(4, [&[SPS], &[PPS]]).to_vec();
        with_extension.extend_from_slice(&[0xfd, 0xf8, 0xf8, 1, 0, 2, 0x6d, 0x80]);
        let sets = ParameterSets::from_record(&with_extension).unwrap();
        assert_eq!(sets.record().unwrap(), with_extension);
        let mut broken = record(4, [&[SPS], &[PPS]]).to_vec();
        broken.extend_from_slice(&[0xfd, 0xf8, 0xf8, 3, 0, 9]);
        let mended = ParameterSets::from_record(&broken).unwrap().record();
        assert_eq!(mended.unwrap()[broken.len() - 6..], [0xfd, 0xf8, 0xf8, 0]);
    }

    #[test]
    fn a_byte_stream_s_parameter_sets_make_a_record() {
        let sps = data_encoding::HEXLOWER
            .decode(b"6764002aacd940780227e5c05a808080a0000007d20001d4c11e30632c")
            .unwrap();
        let mut stream = vec![0, 0, 0, 1];
        stream.extend(&sps);
        stream.extend([0, 0, 0, 1, 0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0]);
        let sets = ParameterSets::from_annex_b(&stream).unwrap();
        let record = sets.record().unwrap();
        assert_eq!(record[..5], [1, 0x64, 0, 0x2a, 0xff]);
        assert_eq!(record[record.len() - 4..], [0xfd, 0xf8, 0xf8, 0]);
        assert_eq!(sets.first_sps(), Ok(&Bytes::from(sps)));
        assert_eq!(ParameterSets::from_record(&record), Ok(sets));
        assert_eq!(first_sps(&record).unwrap().width, 1920);
        let of = |stream: &[u8]| ParameterSets::from_annex_b(stream).unwrap().record();
        let (no_sps, no_pps) = ([0, 0, 1, 0x68, 0xc0], [0, 0, 1, 0x67, 66, 0, 30, 0xe0]);
        assert_eq!(of(&no_sps), Err(Error::Missing("sequence")));
        assert_eq!(of(&no_pps), Err(Error::Missing("picture")));
    }

    #[test]
    fn an_encoder_s_access_unit_keeps_slices_and_says_whether_it_is_an_idr() {
        let stream = [
            0, 0, 0, 1, 9, 0x10, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x65, 0, 0, 3, 1, 0, 0, 1, 0x65, 7,
        ];
        let (data, idr) = access_unit_of_annex_b(&stream);
        assert!(idr);
        assert_eq!(
            data[..],
            [0, 0, 0, 5, 0x65, 0, 0, 3, 1, 0, 0, 0, 2, 0x65, 7]
        );
        assert!(!access_unit_of_annex_b(&[0, 0, 1, 0x41, 9]).1);
    }

    #[test]
    fn the_chroma_of_a_record_is_read_behind_emulation_prevention() {
        // The level of 0 is none, but its two zero bytes make the encoder escape what follows: id 0, 4:2:0, 10 and 8 bits.
        let sps = [0x67, 110, 0, 0, 3, 0b1010_0111];
        let sets = ParameterSets::from_record(&record(4, [&[&sps], &[PPS]])).unwrap();
        let written = sets.record().unwrap();
        assert_eq!(written[written.len() - 4..], [0xfd, 0xf8 | 2, 0xf8, 0]);
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
        assert_eq!(sets.record(), Err(Error::Missing("sequence")));
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
            let _ = first_sps(&record);
            let _ = access_unit_of_annex_b(&unit);
            if let Ok(sets) = ParameterSets::from_annex_b(&unit) {
                prop_assert_eq!(sets.record().is_ok(), sets.is_complete());
            }
            if let Ok(mut sets) = ParameterSets::from_record(&record) {
                let _ = sets.access_unit(&unit.into());
                if let Ok(record) = sets.record() {
                    let read_back = ParameterSets::from_record(&record).and_then(|sets| sets.record());
                    prop_assert_eq!(read_back, Ok(record));
                }
            }
        }
    }
}
