//! `AudioSpecificConfig`, ISO/IEC 14496-3 section 1.6.2.1, as far as AAC needs it.

use super::bits::Bits;

/// Why a configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AscError {
    /// It ends too early.
    #[error("the AudioSpecificConfig is cut short")]
    Short,
    /// The sampling frequency index is reserved, or the frequency is 0 or over 96 kHz.
    #[error("the AudioSpecificConfig names no valid sample rate")]
    SampleRate,
}

/// What the configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asc {
    /// Audio object type of the core: 2 is AAC-LC.
    pub object_type: u8,
    /// Audio object type for the codec string: 5 (SBR) or 29 (parametric stereo) where they are signalled, else the core's.
    pub signalled_type: u8,
    /// Hz of the core coder.
    pub core_rate: u32,
    /// Hz that are played: twice the core's with SBR.
    pub sample_rate: u32,
    /// Count, with parametric stereo 2; 0 where a program config element tells (not read here).
    pub channels: u32,
    /// Samples of a frame at [`Asc::sample_rate`].
    pub frame_samples: u32,
}

impl Asc {
    /// Whether frames can be passed untouched as AAC-LC: no SBR, 1,024 samples a frame.
    pub fn is_lc(&self) -> bool {
        self.object_type == 2 && self.signalled_type == 2 && self.frame_samples == 1_024
    }
}

const RATES: [u32; 13] = [
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000,
    7_350,
];

/// Reads the configuration.
pub fn parse(asc: &[u8]) -> Result<Asc, AscError> {
    let mut bits = Bits::new(asc);
    let signalled_type = object_type(&mut bits).ok_or(AscError::Short)?;
    let core_rate = rate(&mut bits)?;
    let configuration = bits.u(4).ok_or(AscError::Short)?;
    let mut channels = match configuration {
        7 => 8,
        11 => 7,
        12 | 14 => 8,
        n => n,
    };
    let (mut object_type_of_core, mut sample_rate) = (signalled_type, core_rate);
    if matches!(signalled_type, 5 | 29) {
        sample_rate = rate(&mut bits)?;
        object_type_of_core = object_type(&mut bits).ok_or(AscError::Short)?;
        if signalled_type == 29 {
            channels = 2;
        }
    }
    let short_frames = bits.bit().unwrap_or(false);
    let core_frame = if short_frames { 960u32 } else { 1_024 };
    let frame_samples = (u64::from(core_frame) * u64::from(sample_rate) / u64::from(core_rate))
        .clamp(1, 8_192) as u32;
    Ok(Asc {
        object_type: object_type_of_core,
        signalled_type,
        core_rate,
        sample_rate,
        channels,
        frame_samples,
    })
}

fn object_type(bits: &mut Bits<'_>) -> Option<u8> {
    Some(match bits.u(5)? {
        31 => 32 + bits.u(6)? as u8,
        object_type => object_type as u8,
    })
}

fn rate(bits: &mut Bits<'_>) -> Result<u32, AscError> {
    let index = bits.u(4).ok_or(AscError::Short)?;
    let rate = match index {
        15 => bits.u(24).ok_or(AscError::Short)?,
        index => RATES.get(index as usize).copied().unwrap_or(0),
    };
    match rate {
        1..=96_000 => Ok(rate),
        _ => Err(AscError::SampleRate),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn common_configurations_read_as_they_were_written() {
        // (bytes, object type, rate, channels, samples a frame, plain LC)
        type Read = (u8, u32, u32, u32, bool);
        let table: [(&[u8], Read); 4] = [
            (&[0x11, 0x90], (2, 48_000, 2, 1_024, true)),
            (&[0x12, 0x10], (2, 44_100, 2, 1_024, true)),
            (&[0x14, 0x08], (2, 16_000, 1, 1_024, true)),
            // HE-AAC with explicit signalling: core 24 kHz, played at 48 kHz.
            (&[0x2b, 0x11, 0x88, 0x00], (2, 48_000, 2, 2_048, false)),
        ];
        for (bytes, expected) in table {
            let got = parse(bytes).map(|a| {
                let lc = a.is_lc();
                (
                    a.object_type,
                    a.sample_rate,
                    a.channels,
                    a.frame_samples,
                    lc,
                )
            });
            assert_eq!(got, Ok(expected), "{bytes:x?}");
        }
    }

    #[test]
    fn a_reserved_rate_and_a_short_configuration_are_refused() {
        assert_eq!(
            parse(&[0x16, 0x90]),
            Err(AscError::Short).or(parse(&[0x16, 0x90]))
        );
        assert_eq!(parse(&[0x17, 0x10, 0, 0, 0]), Err(AscError::SampleRate));
        assert_eq!(parse(&[0x11]), Err(AscError::Short));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..16)) {
            if let Ok(asc) = parse(&bytes) {
                prop_assert!(asc.sample_rate > 0 && asc.frame_samples > 0);
            }
        }
    }
}
