//! `AudioSpecificConfig` (ISO/IEC 14496-3 section 1.6.2.1).

use bytes::Bytes;

use super::bits::Bits;
use crate::media::{AAC_FRAME_SAMPLES, AudioConfig};

/// The longest configuration that is taken, bytes. Real ones have under 40.
pub const MAX_BYTES: usize = 256;

/// Why bytes are not a configuration that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Cut short or with reserved values.
    #[error("the AAC configuration is malformed")]
    Malformed,
    /// Another codec in MPEG-4's clothes.
    #[error(
        "audio of MPEG-4 object type {0} is not supported; set the encoder's audio codec to AAC"
    )]
    ObjectType(u32),
}

const RATES_HZ: [u32; 13] = [
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000,
    7_350,
];

/// Audio object types (table 1.17).
mod object {
    pub(super) const LC: u32 = 2;
    pub(super) const SBR: u32 = 5;
    pub(super) const PS: u32 = 29;
}

/// What a configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Audio object type of the core: 2 is AAC-LC.
    pub object_type: u32,
    /// Whether spectral band replication is signalled (HE-AAC), before the core or behind it. A configuration without it may still be
    /// followed by frames with it (implicit signalling, section 1.6.5.3): those are AAC-LC to whoever reads the configuration.
    pub sbr: bool,
    /// Whether parametric stereo is signalled (HE-AAC version 2).
    pub parametric_stereo: bool,
    /// Hz of the core coder.
    pub core_rate: u32,
    /// Hz that are played: with SBR the core's or twice that.
    pub sample_rate: u32,
    /// Count of the channels that are played.
    pub channels: u32,
    /// Samples of a frame at [`Config::sample_rate`].
    pub frame_samples: u32,
}

impl Config {
    /// Whether frames can be passed untouched as AAC-LC: no SBR, 1,024 samples a frame.
    pub fn is_lc(&self) -> bool {
        self.object_type == object::LC && !self.sbr && self.frame_samples == AAC_FRAME_SAMPLES
    }

    /// The audio object type of a codec string (RFC 6381): 29 or 5 where parametric stereo or SBR are signalled, else the core's.
    pub fn codec_type(&self) -> u32 {
        match (self.parametric_stereo, self.sbr) {
            (true, _) => object::PS,
            (false, true) => object::SBR,
            (false, false) => self.object_type,
        }
    }
}

/// Reads a configuration.
///
/// # Errors
/// [`Error`] when it is malformed or not AAC.
pub fn parse(asc: &[u8]) -> Result<Config, Error> {
    if asc.len() > MAX_BYTES {
        return Err(Error::Malformed);
    }
    let mut bits = Bits::new(asc);
    let bits = &mut bits;
    let mut object = object_type(bits).ok_or(Error::Malformed)?;
    let core_rate = rate(bits).ok_or(Error::Malformed)?;
    let channel_configuration = bits.u(4).ok_or(Error::Malformed)?;
    let mut parametric_stereo = object == object::PS;
    // Hierarchical signalling: SBR before the core.
    let mut played_rate = None;
    if object == object::SBR || object == object::PS {
        played_rate = Some(rate(bits).ok_or(Error::Malformed)?);
        object = object_type(bits).ok_or(Error::Malformed)?;
    }
    // GASpecificConfig (section 4.4.1) is what AAC's object types have: Main, LC, SSR, LTP.
    if !(1..=4).contains(&object) {
        return Err(Error::ObjectType(object));
    }
    let short_frames = bits.bit().ok_or(Error::Malformed)?;
    if bits.bit().ok_or(Error::Malformed)? {
        bits.u(14).ok_or(Error::Malformed)?;
    }
    bits.bit().ok_or(Error::Malformed)?;
    let mut channels = match channel_configuration {
        0 => program_channels(bits).ok_or(Error::Malformed)?,
        count @ 1..=6 => count,
        7 | 12 | 14 => 8,
        11 => 7,
        _ => return Err(Error::Malformed),
    };
    // Section 1.6.5.2, backward-compatible signalling: SBR and parametric stereo behind what an LC decoder reads.
    if played_rate.is_none() && bits.left() >= 16 {
        let mut extension = bits.clone();
        if extension.u(11) == Some(0x2b7)
            && object_type(&mut extension) == Some(object::SBR)
            && extension.bit() == Some(true)
        {
            played_rate = Some(rate(&mut extension).ok_or(Error::Malformed)?);
            parametric_stereo = extension.u(11) == Some(0x548) && extension.bit() == Some(true);
        }
    }
    if parametric_stereo && channels == 1 {
        channels = 2;
    }
    let core_frame = if short_frames { 960 } else { AAC_FRAME_SAMPLES };
    let doubled = match played_rate {
        None => 1,
        Some(rate) if rate == core_rate => 1,
        Some(rate) if rate == 2 * core_rate => 2,
        Some(_) => return Err(Error::Malformed),
    };
    Ok(Config {
        object_type: object,
        sbr: played_rate.is_some(),
        parametric_stereo,
        core_rate,
        sample_rate: core_rate * doubled,
        channels,
        frame_samples: core_frame * doubled,
    })
}

/// Reads a configuration as the steps after ingest take it.
///
/// # Errors
/// [`Error`] when it is malformed or not AAC.
pub fn audio_config(asc: &[u8]) -> Result<AudioConfig, Error> {
    let config = parse(asc)?;
    Ok(AudioConfig {
        asc: Bytes::copy_from_slice(asc),
        sample_rate: config.sample_rate,
        channels: config.channels,
        is_lc: config.is_lc(),
    })
}

fn object_type(bits: &mut Bits<'_>) -> Option<u32> {
    match bits.u(5)? {
        31 => Some(32 + bits.u(6)?),
        object => Some(object),
    }
}

/// Hz, within what AAC is used with.
fn rate(bits: &mut Bits<'_>) -> Option<u32> {
    let rate = match bits.u(4)? {
        15 => bits.u(24)?,
        index => *RATES_HZ.get(index as usize)?,
    };
    (7_350..=96_000).contains(&rate).then_some(rate)
}

/// Channels of a `program_config_element` (section 4.4.1.1); the bits are left behind it.
fn program_channels(bits: &mut Bits<'_>) -> Option<u32> {
    bits.u(4 + 2 + 4)?;
    let [front, side, back, lfe] = [bits.u(4)?, bits.u(4)?, bits.u(4)?, bits.u(2)?];
    let [associated, coupling] = [bits.u(3)?, bits.u(4)?];
    for mixdown_bits in [4, 4, 3] {
        if bits.bit()? {
            bits.u(mixdown_bits)?;
        }
    }
    let mut channels = lfe;
    for _ in 0..front + side + back {
        channels += 1 + u32::from(bits.bit()?);
        bits.u(4)?;
    }
    for _ in 0..lfe + associated {
        bits.u(4)?;
    }
    for _ in 0..coupling {
        bits.u(5)?;
    }
    // Byte alignment, then a comment.
    bits.u(bits.left() % 8)?;
    let comment = bits.u(8)?;
    for _ in 0..comment {
        bits.u(8)?;
    }
    (1..=48).contains(&channels).then_some(channels)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn read(asc: &[u8]) -> Result<(u32, u32, bool), Error> {
        let config = audio_config(asc)?;
        Ok((config.sample_rate, config.channels, config.is_lc))
    }

    #[test]
    fn plain_lc_is_told_from_what_must_be_encoded_again() {
        for (asc, expected) in [
            // As FFmpeg, OBS and Apple write them.
            (&[0x11, 0x90][..], (48_000, 2, true)),
            (&[0x12, 0x10], (44_100, 2, true)),
            (&[0x12, 0x10, 0x56, 0xe5, 0x00], (44_100, 2, true)),
            (&[0x11, 0xb0], (48_000, 6, true)),
            (&[0x11, 0xb8], (48_000, 8, true)),
            // HE-AAC: explicit, and behind an LC configuration.
            (&[0x2b, 0x11, 0x88, 0x00], (48_000, 2, false)),
            (&[0x13, 0x10, 0x56, 0xe5, 0x98], (48_000, 2, false)),
            // HE-AAC v2: one channel that is played as two.
            (&[0xeb, 0x09, 0x88, 0x00], (48_000, 2, false)),
            // AAC Main, LTP, and LC with frames of 960 samples.
            (&[0x09, 0x90], (48_000, 2, false)),
            (&[0x21, 0x90], (48_000, 2, false)),
            (&[0x11, 0x94], (48_000, 2, false)),
        ] {
            assert_eq!(read(asc), Ok(expected), "{asc:02x?}");
        }
    }

    #[test]
    fn he_aac_is_known_by_each_signalling() {
        // (bytes, core Hz, played Hz, samples of a frame, channels, codec type)
        type Read = (u32, u32, u32, u32, u32);
        let table: [(&[u8], Read); 8] = [
            (&[0x11, 0x90], (48_000, 48_000, 1_024, 2, 2)),
            (&[0x14, 0x08], (16_000, 16_000, 1_024, 1, 2)),
            // Before the core: HE-AAC, and version 2 of one channel.
            (&[0x2b, 0x11, 0x88, 0x00], (24_000, 48_000, 2_048, 2, 5)),
            (&[0xeb, 0x09, 0x88, 0x00], (24_000, 48_000, 2_048, 2, 29)),
            // Behind it, as encoders do that want to be heard by old players.
            (
                &[0x13, 0x10, 0x56, 0xe5, 0x98],
                (24_000, 48_000, 2_048, 2, 5),
            ),
            (
                &[0x13, 0x08, 0x56, 0xe5, 0x9d, 0x48, 0x80],
                (24_000, 48_000, 2_048, 2, 29),
            ),
            // Downsampled SBR: played at the core's rate.
            (&[0x29, 0x91, 0x88, 0x00], (48_000, 48_000, 1_024, 2, 5)),
            // Not said at all: to this configuration's reader it is AAC-LC of 24 kHz.
            (&[0x13, 0x10], (24_000, 24_000, 1_024, 2, 2)),
        ];
        for (bytes, expected) in table {
            let got = parse(bytes).map(|c| {
                let rates = (c.core_rate, c.sample_rate);
                (
                    rates.0,
                    rates.1,
                    c.frame_samples,
                    c.channels,
                    c.codec_type(),
                )
            });
            assert_eq!(got, Ok(expected), "{bytes:02x?}");
            assert_eq!(parse(bytes).unwrap().is_lc(), expected.4 == 2);
        }
        // SBR cannot make 44.1 kHz of 24.
        assert_eq!(parse(&[0x2b, 0x12, 0x08, 0x00]), Err(Error::Malformed));
    }

    #[test]
    fn a_program_configuration_counts_its_channels() {
        // LC, 48 kHz, channel configuration 0; front one single and one pair, side one pair, back one pair, one LFE: 8 channels.
        let mut bits = String::from("00010" /* LC */);
        bits += "0011" /* 48 kHz */;
        bits += "0000" /* configuration 0 */;
        bits += "000" /* GASpecificConfig */;
        bits += "0000 01 0011 0010 0001 0001 01 000 0000 000";
        bits += "0 0000  1 0000  1 0001  1 0010  0000";
        let mut bits: String = bits.split_whitespace().collect();
        while !bits.len().is_multiple_of(8) {
            bits.push('0');
        }
        bits += "00000000";
        let bytes: Vec<u8> = (0..bits.len() / 8)
            .map(|n| u8::from_str_radix(&bits[8 * n..8 * n + 8], 2).unwrap())
            .collect();
        assert_eq!(read(&bytes), Ok((48_000, 8, true)));
        assert_eq!(read(&bytes[..bytes.len() - 1]), Err(Error::Malformed));
    }

    #[test]
    fn reserved_rates_other_codecs_and_short_bytes_are_refused() {
        assert_eq!(read(&[]), Err(Error::Malformed));
        assert_eq!(read(&[0x11]), Err(Error::Malformed));
        assert_eq!(read(&[0x17, 0x10, 0, 0, 0]), Err(Error::Malformed));
        assert_eq!(read(&[0x16, 0x90]), Err(Error::Malformed));
        // Layer 3 is object type 34.
        assert_eq!(read(&[0xf8, 0x46, 0x40]), Err(Error::ObjectType(34)));
        assert_eq!(read(&[0x11, 0x90].repeat(200)), Err(Error::Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok((rate, channels, _)) = read(&bytes) {
                prop_assert!(parse(&bytes).is_ok_and(|config| config.frame_samples >= 960));
                prop_assert!((7_350..=96_000).contains(&rate));
                prop_assert!((1..=48).contains(&channels));
            }
        }
    }
}
