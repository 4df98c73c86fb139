//! `AudioSpecificConfig` (ISO/IEC 14496-3 section 1.6.2.1).

use bytes::Bytes;

use super::bits::Bits;
use crate::media::AudioConfig;

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

/// Reads a configuration.
///
/// # Errors
/// [`Error`] when it is malformed or not AAC.
pub fn parse(asc: &Bytes) -> Result<AudioConfig, Error> {
    if asc.len() > MAX_BYTES {
        return Err(Error::Malformed);
    }
    let parsed = Config::parse(&mut Bits::new(asc))?;
    Ok(AudioConfig {
        asc: Bytes::copy_from_slice(asc),
        sample_rate: parsed.sample_rate,
        channels: parsed.channels,
        is_lc: parsed.is_lc,
    })
}

struct Config {
    sample_rate: u32,
    channels: u32,
    is_lc: bool,
}

impl Config {
    fn parse(bits: &mut Bits<'_>) -> Result<Self, Error> {
        let mut object = object_type(bits).ok_or(Error::Malformed)?;
        let mut sample_rate = rate(bits).ok_or(Error::Malformed)?;
        let channel_configuration = bits.read(4).ok_or(Error::Malformed)?;
        let explicit_sbr = object == object::SBR || object == object::PS;
        let mut parametric_stereo = object == object::PS;
        let mut sbr = explicit_sbr;
        if explicit_sbr {
            sample_rate = rate(bits).ok_or(Error::Malformed)?;
            object = object_type(bits).ok_or(Error::Malformed)?;
        }
        // GASpecificConfig (section 4.4.1) is what AAC's object types have: Main, LC, SSR, LTP.
        if !(1..=4).contains(&object) {
            return Err(Error::ObjectType(object));
        }
        let short_frames = bits.bit().ok_or(Error::Malformed)?;
        if bits.bit().ok_or(Error::Malformed)? {
            bits.read(14).ok_or(Error::Malformed)?;
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
        if !explicit_sbr && bits.left() >= 16 {
            let mut extension = bits.clone();
            if extension.read(11) == Some(0x2b7)
                && object_type(&mut extension) == Some(object::SBR)
                && extension.bit() == Some(true)
            {
                sbr = true;
                sample_rate = rate(&mut extension).ok_or(Error::Malformed)?;
                parametric_stereo =
                    extension.read(11) == Some(0x548) && extension.bit() == Some(true);
            }
        }
        if parametric_stereo && channels == 1 {
            channels = 2;
        }
        Ok(Self {
            sample_rate,
            channels,
            is_lc: object == object::LC && !sbr && !short_frames,
        })
    }
}

fn object_type(bits: &mut Bits<'_>) -> Option<u32> {
    match bits.read(5)? {
        31 => Some(32 + bits.read(6)?),
        object => Some(object),
    }
}

/// Hz, within what AAC is used with.
fn rate(bits: &mut Bits<'_>) -> Option<u32> {
    let rate = match bits.read(4)? {
        15 => bits.read(24)?,
        index => *RATES_HZ.get(index as usize)?,
    };
    (7_350..=96_000).contains(&rate).then_some(rate)
}

/// Channels of a `program_config_element` (section 4.4.1.1); the bits are left behind it.
fn program_channels(bits: &mut Bits<'_>) -> Option<u32> {
    bits.read(4 + 2 + 4)?;
    let [front, side, back, lfe] = [bits.read(4)?, bits.read(4)?, bits.read(4)?, bits.read(2)?];
    let [associated, coupling] = [bits.read(3)?, bits.read(4)?];
    for mixdown_bits in [4, 4, 3] {
        if bits.bit()? {
            bits.read(mixdown_bits)?;
        }
    }
    let mut channels = lfe;
    for _ in 0..front + side + back {
        channels += 1 + u32::from(bits.bit()?);
        bits.read(4)?;
    }
    for _ in 0..lfe + associated {
        bits.read(4)?;
    }
    for _ in 0..coupling {
        bits.read(5)?;
    }
    // Byte alignment, then a comment.
    bits.read(bits.left() % 8)?;
    let comment = bits.read(8)?;
    for _ in 0..comment {
        bits.read(8)?;
    }
    (1..=48).contains(&channels).then_some(channels)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn read(asc: &[u8]) -> Result<(u32, u32, bool), Error> {
        let config = parse(&Bytes::copy_from_slice(asc))?;
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
        assert_eq!(read(&[0x16, 0x90]), Err(Error::Malformed));
        // Layer 3 is object type 34.
        assert_eq!(read(&[0xf8, 0x46, 0x40]), Err(Error::ObjectType(34)));
        assert_eq!(read(&[0x11, 0x90].repeat(200)), Err(Error::Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok((rate, channels, _)) = read(&bytes) {
                prop_assert!((7_350..=96_000).contains(&rate));
                prop_assert!((1..=48).contains(&channels));
            }
        }
    }
}
