//! `AVCDecoderConfigurationRecord`, ISO/IEC 14496-15 section 5.3.3: read, and made from what an encoder gives.

use bytes::Bytes;
use mp4_atom::{Atom, Avcc, AvccExt};

use super::{nal, sps};

/// Why a configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AvccError {
    /// The record cannot be read.
    #[error("the H.264 configuration record cannot be read: {0}")]
    Record(String),
    /// There is no sequence parameter set, or no picture parameter set.
    #[error("the H.264 configuration has no {0} parameter set")]
    Missing(&'static str),
    /// The first sequence parameter set cannot be read.
    #[error(transparent)]
    Sps(#[from] sps::SpsError),
}

/// The parameter sets of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSets {
    /// NAL units of type 7, at least one.
    pub sps: Vec<Bytes>,
    /// NAL units of type 8, at least one.
    pub pps: Vec<Bytes>,
}

/// Reads a record.
pub fn parse(record: &[u8]) -> Result<ParameterSets, AvccError> {
    let avcc = decode(record)?;
    let owned = |sets: Vec<Vec<u8>>| sets.into_iter().map(Bytes::from).collect();
    Ok(ParameterSets {
        sps: owned(avcc.sequence_parameter_sets),
        pps: owned(avcc.picture_parameter_sets),
    })
}

/// Reads a record and the first sequence parameter set in it.
pub fn parse_sps(record: &[u8]) -> Result<sps::Sps, AvccError> {
    let sets = parse(record)?;
    let first = sets.sps.first().ok_or(AvccError::Missing("sequence"))?;
    Ok(sps::parse(first)?)
}

/// Makes a record of NAL units of types 7 and 8.
pub fn build(sets: &ParameterSets) -> Result<Bytes, AvccError> {
    let first = sets.sps.first().ok_or(AvccError::Missing("sequence"))?;
    if sets.pps.is_empty() {
        return Err(AvccError::Missing("picture"));
    }
    let sps = sps::parse(first)?;
    let copied = |sets: &[Bytes]| sets.iter().map(|set| set.to_vec()).collect::<Vec<_>>();
    let record = Avcc {
        configuration_version: 1,
        avc_profile_indication: sps.profile_idc,
        profile_compatibility: sps.constraints,
        avc_level_indication: sps.level_idc,
        length_size: 4,
        // The counts have 5 and 8 bits.
        sequence_parameter_sets: copied(sets.sps.get(..31).unwrap_or(&sets.sps)),
        picture_parameter_sets: copied(sets.pps.get(..255).unwrap_or(&sets.pps)),
        ext: matches!(sps.profile_idc, 100 | 110 | 122 | 144 | 244).then(|| AvccExt {
            chroma_format: sps.chroma_format_idc,
            bit_depth_luma: sps.bit_depth_luma,
            bit_depth_chroma: sps.bit_depth_chroma,
            sequence_parameter_sets_ext: Vec::new(),
        }),
    };
    let mut out = Vec::new();
    let written = record.encode_body(&mut out);
    written.map_err(|e| AvccError::Record(e.to_string()))?;
    Ok(Bytes::from(out))
}

/// Makes a record of the parameter sets in an Annex B byte stream (an encoder's extradata, or an access unit).
pub fn from_annex_b(stream: &[u8]) -> Result<Bytes, AvccError> {
    let of_type = |wanted| {
        let units = nal::annex_b(stream).filter(move |unit| nal::unit_type(unit) == wanted);
        units.map(Bytes::copy_from_slice).collect()
    };
    build(&ParameterSets {
        sps: of_type(nal::SPS),
        pps: of_type(nal::PPS),
    })
}

/// The record as the box writer wants it. Bounded: at most 31 and 255 sets of 65,535 bytes, each within the input.
pub(super) fn decode(record: &[u8]) -> Result<Avcc, AvccError> {
    let mut buf = record;
    let mut avcc = Avcc::decode_body(&mut buf).map_err(|e| AvccError::Record(e.to_string()))?;
    if avcc.sequence_parameter_sets.is_empty() {
        return Err(AvccError::Missing("sequence"));
    }
    if avcc.picture_parameter_sets.is_empty() {
        return Err(AvccError::Missing("picture"));
    }
    // Packets have four-byte lengths here, whatever the encoder's container had.
    avcc.length_size = 4;
    Ok(avcc)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_made_of_annex_b_reads_back_with_its_parameter_sets() {
        let sps = data_encoding::HEXLOWER
            .decode(b"6764002aacd940780227e5c05a808080a0000007d20001d4c11e30632c")
            .unwrap();
        let mut stream = vec![0, 0, 0, 1];
        stream.extend(&sps);
        stream.extend([0, 0, 0, 1, 0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0]);
        let record = from_annex_b(&stream).unwrap();
        assert_eq!(record.get(..5).unwrap(), [1, 0x64, 0, 0x2a, 0xff]);
        assert_eq!(parse(&record).unwrap().sps, [Bytes::from(sps)]);
        assert_eq!(parse_sps(&record).unwrap().width, 1920);
        assert_eq!(
            from_annex_b(&[0, 0, 1, 0x68, 1]),
            Err(AvccError::Missing("sequence"))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_sps(&bytes);
            let mut record = vec![1, 100, 0, 42, 0xff, 0xe1];
            record.extend(bytes);
            let _ = parse_sps(&record);
        }
    }
}
