//! Codec strings, RFC 6381 section 3.3, computed from the parameter sets.

use crate::codec::{aac, avc};

/// `avc1.PPCCLL` of a configuration record: profile, constraints and level of its first sequence parameter set, which is what a
/// decoder sees; the record's own copies of them are sometimes wrong.
pub fn avc1(record: &[u8]) -> Result<String, avc::Error> {
    match avc::ParameterSets::from_record(record)?.first_sps()?[..] {
        [_, profile, constraints, level, ..] => {
            Ok(format!("avc1.{profile:02x}{constraints:02x}{level:02x}"))
        }
        _ => Err(avc::Error::ParameterSet),
    }
}

/// `mp4a.40.N` of an `AudioSpecificConfig`; 2 is AAC-LC, 5 HE-AAC, 29 its version 2.
pub fn mp4a(config: &[u8]) -> Result<String, aac::Error> {
    Ok(format!("mp4a.40.{}", aac::parse(config)?.codec_type()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_strings_come_from_the_parameter_sets() {
        let record = [
            1, 0, 0, 0, 0xff, 0xe1, 0, 5, 0x67, 0x4d, 0x40, 0x1f, 0xe0, 1, 0, 2, 0x68, 0xc0,
        ];
        assert_eq!(avc1(&record).unwrap(), "avc1.4d401f");
        assert_eq!(mp4a(&[0x11, 0x90]).unwrap(), "mp4a.40.2");
        assert_eq!(mp4a(&[0x2b, 0x11, 0x88, 0]).unwrap(), "mp4a.40.5");
        assert_eq!(mp4a(&[0xeb, 0x09, 0x88, 0]).unwrap(), "mp4a.40.29");
    }
}
