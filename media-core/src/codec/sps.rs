//! H.264 sequence parameter sets, ITU-T H.264 sections 7.3.2.1.1 and E.1.1: picture size, shape, colour and timing.

use super::bits::Bits;
use crate::media::FrameRate;

/// Why a sequence parameter set was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another type of NAL unit.
    #[error("the NAL unit is of type {0}, not a sequence parameter set (7)")]
    NotSps(u8),
    /// It ends too early.
    #[error("the sequence parameter set is cut short or has a code that is too long")]
    Short,
    /// A field is out of the range that the specification allows.
    #[error("the sequence parameter set has {field} {value}, which H.264 does not allow")]
    Range {
        /// The field's name in the specification.
        field: &'static str,
        /// What it says.
        value: u32,
    },
}

/// Colour description of the VUI (ITU-T H.273 code points).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Colour {
    /// `colour_primaries`.
    pub primaries: u8,
    /// `transfer_characteristics`.
    pub transfer: u8,
    /// `matrix_coefficients`.
    pub matrix: u8,
    /// `video_full_range_flag`.
    pub full_range: bool,
}

/// What a sequence parameter set says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sps {
    /// `profile_idc`.
    pub profile_idc: u8,
    /// The constraint flags, as the byte after `profile_idc`.
    pub constraints: u8,
    /// `level_idc`.
    pub level_idc: u8,
    /// `chroma_format_idc`: 0 is monochrome, 1 is 4:2:0.
    pub chroma_format_idc: u8,
    /// Bits of a luma sample.
    pub bit_depth_luma: u8,
    /// Bits of a chroma sample.
    pub bit_depth_chroma: u8,
    /// Pixels, cropped.
    pub width: u32,
    /// Pixels, cropped.
    pub height: u32,
    /// Whether frames only are coded (no fields, no interlacing).
    pub progressive: bool,
    /// Width and height of a pixel, where it says; `(1, 1)` is square.
    pub sample_aspect_ratio: Option<(u16, u16)>,
    /// Colour, where it says.
    pub colour: Option<Colour>,
    /// Frames a second, where it says. Only a claim: encoders write their time base here, too.
    pub frame_rate: Option<FrameRate>,
    /// `fixed_frame_rate_flag`.
    pub fixed_frame_rate: bool,
    /// `max_num_reorder_frames`, where it says.
    pub max_reorder_frames: Option<u32>,
}

/// Table E-1, from `aspect_ratio_idc` 1.
const SAMPLE_ASPECT_RATIOS: [(u16, u16); 16] = [
    (1, 1),
    (12, 11),
    (10, 11),
    (16, 11),
    (40, 33),
    (24, 11),
    (20, 11),
    (32, 11),
    (80, 33),
    (18, 11),
    (15, 11),
    (64, 33),
    (160, 99),
    (4, 3),
    (3, 2),
    (2, 1),
];

/// Profiles with the fields of the high profiles.
const HIGH_PROFILES: [u8; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];

/// Wider or higher than any level allows (level 6.2: 139,264 macroblocks, a side at most sqrt(8 × that)).
const MAX_SIDE: u64 = 16_888;

/// What a coded picture may hold, cropped or not: level 5.2, such as 4096 × 2304. Sixteen pictures of a higher level are gigabytes that a
/// publisher of a few kilobytes a second would make a decoder hold.
pub const MAX_MACROBLOCKS: u64 = 36_864;

/// Reads a sequence parameter set: a NAL unit with its header, without start code or length.
///
/// # Errors
/// [`Error`] where it is cut short or out of range.
pub fn parse(unit: &[u8]) -> Result<Sps, Error> {
    let payload = payload(unit)?;
    let mut bits = Bits::new(&payload);
    let head = head(&mut bits)?;
    read(&mut bits, &head)
}

/// Reads the beginning of a sequence parameter set, which is what a configuration record repeats.
pub(super) fn parse_head(unit: &[u8]) -> Result<Head, Error> {
    head(&mut Bits::new(&payload(unit)?))
}

/// What stands at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    profile_idc: u8,
    constraints: u8,
    level_idc: u8,
    /// `seq_parameter_set_id`, at most 31.
    pub(super) id: u32,
    /// Whether chroma format and bit depths are written at all.
    pub(super) high: bool,
    /// `chroma_format_idc`.
    pub(super) chroma_format_idc: u8,
    separate_planes: bool,
    /// Bits of a luma sample.
    pub(super) bit_depth_luma: u8,
    /// Bits of a chroma sample.
    pub(super) bit_depth_chroma: u8,
}

fn payload(unit: &[u8]) -> Result<Vec<u8>, Error> {
    let unit_type = super::nal::unit_type(unit);
    if unit_type != super::nal::SPS {
        return Err(Error::NotSps(unit_type));
    }
    Ok(without_emulation_prevention(
        unit.get(1..).unwrap_or_default(),
    ))
}

/// Takes out each 3 of `0 0 3` (section 7.4.1).
fn without_emulation_prevention(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut zeros = 0;
    for &byte in bytes {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

fn at_most(field: &'static str, value: u32, most: u32) -> Result<u32, Error> {
    if value <= most {
        Ok(value)
    } else {
        Err(Error::Range { field, value })
    }
}

fn head(bits: &mut Bits<'_>) -> Result<Head, Error> {
    let short = Error::Short;
    let mut fixed = || Some([bits.u(8)?, bits.u(8)?, bits.u(8)?]);
    let [profile_idc, constraints, level_idc] = fixed().ok_or(short)?.map(|b| b as u8);
    let id = at_most("seq_parameter_set_id", bits.ue().ok_or(short)?, 31)?;
    let mut head = Head {
        profile_idc,
        constraints,
        level_idc,
        id,
        high: HIGH_PROFILES.contains(&profile_idc),
        chroma_format_idc: 1,
        separate_planes: false,
        bit_depth_luma: 8,
        bit_depth_chroma: 8,
    };
    if head.high {
        let format = at_most("chroma_format_idc", bits.ue().ok_or(short)?, 3)?;
        head.chroma_format_idc = format as u8;
        if format == 3 {
            head.separate_planes = bits.bit().ok_or(short)?;
        }
        let luma = bits.ue().ok_or(short)?;
        head.bit_depth_luma = 8 + at_most("bit_depth_luma_minus8", luma, 6)? as u8;
        let chroma = bits.ue().ok_or(short)?;
        head.bit_depth_chroma = 8 + at_most("bit_depth_chroma_minus8", chroma, 6)? as u8;
    }
    Ok(head)
}

fn read(bits: &mut Bits<'_>, head: &Head) -> Result<Sps, Error> {
    let short = Error::Short;
    if head.high {
        scaling_lists(bits, head.chroma_format_idc).ok_or(short)?;
    }

    let log2 = bits.ue().ok_or(short)?;
    at_most("log2_max_frame_num_minus4", log2, 12)?;
    let order_count_type = bits.ue().ok_or(short)?;
    match at_most("pic_order_cnt_type", order_count_type, 2)? {
        0 => {
            let log2 = bits.ue().ok_or(short)?;
            at_most("log2_max_pic_order_cnt_lsb_minus4", log2, 12)?;
        }
        1 => {
            let mut offsets = || Some((bits.bit()?, bits.se()?, bits.se()?, bits.ue()?));
            let (_, _, _, count) = offsets().ok_or(short)?;
            let count = at_most("num_ref_frames_in_pic_order_cnt_cycle", count, 255)?;
            for _ in 0..count {
                bits.se().ok_or(short)?;
            }
        }
        _ => {}
    }

    let mut size = || Some((bits.ue()?, bits.bit()?, bits.ue()?, bits.ue()?, bits.bit()?));
    let (_, _, width_in_mbs, height_in_units, progressive) = size().ok_or(short)?;
    if !progressive {
        bits.bit().ok_or(short)?;
    }
    let mut crop = || {
        bits.bit()?; // direct_8x8_inference_flag
        Some(if bits.bit()? {
            [bits.ue()?, bits.ue()?, bits.ue()?, bits.ue()?]
        } else {
            [0; 4]
        })
    };
    let [left, right, top, bottom] = crop().ok_or(short)?.map(u64::from);

    let fields = if progressive { 1 } else { 2 };
    let chroma_array_type = if head.separate_planes {
        0
    } else {
        head.chroma_format_idc
    };
    let crop_x = if matches!(chroma_array_type, 1 | 2) {
        2
    } else {
        1
    };
    let crop_y = if chroma_array_type == 1 { 2 } else { 1 } * fields;
    let side = |field, coded: u64, cropped: u64| match coded.checked_sub(cropped) {
        Some(side @ 1..=MAX_SIDE) => Ok(side as u32),
        _ => Err(Error::Range {
            field,
            value: u32::try_from(coded).unwrap_or(u32::MAX),
        }),
    };
    let coded_width = (u64::from(width_in_mbs) + 1) * 16;
    let width = side("a width of", coded_width, (left + right) * crop_x)?;
    let coded_height = (u64::from(height_in_units) + 1) * 16 * fields;
    let height = side("a height of", coded_height, (top + bottom) * crop_y)?;

    let macroblocks = coded_width / 16 * (coded_height / 16);
    if macroblocks > MAX_MACROBLOCKS {
        return Err(Error::Range {
            field: "a picture of macroblocks",
            value: u32::try_from(macroblocks).unwrap_or(u32::MAX),
        });
    }

    let mut sps = Sps {
        profile_idc: head.profile_idc,
        constraints: head.constraints,
        level_idc: head.level_idc,
        chroma_format_idc: head.chroma_format_idc,
        bit_depth_luma: head.bit_depth_luma,
        bit_depth_chroma: head.bit_depth_chroma,
        width,
        height,
        progressive,
        sample_aspect_ratio: None,
        colour: None,
        frame_rate: None,
        fixed_frame_rate: false,
        max_reorder_frames: None,
    };
    // Some encoders cut the VUI short; what was read of it holds, and the picture size is what matters.
    let _ = vui(bits, &mut sps);
    Ok(sps)
}

/// Skips the scaling lists (section 7.3.2.1.1.1) with the two flags before them.
fn scaling_lists(bits: &mut Bits<'_>, chroma_format_idc: u8) -> Option<()> {
    bits.bit()?; // qpprime_y_zero_transform_bypass_flag
    if !bits.bit()? {
        return Some(());
    }
    let lists = if chroma_format_idc == 3 { 12 } else { 8 };
    for list in 0..lists {
        if !bits.bit()? {
            continue;
        }
        let (mut last, mut next) = (8i32, 8i32);
        for _ in 0..if list < 6 { 16 } else { 64 } {
            if next != 0 {
                next = last.wrapping_add(bits.se()?).rem_euclid(256);
            }
            last = if next == 0 { last } else { next };
        }
    }
    Some(())
}

/// Section E.1.1. `None` where it ends too early; fields read up to there are set.
fn vui(bits: &mut Bits<'_>, sps: &mut Sps) -> Option<()> {
    if !bits.bit()? {
        return Some(());
    }
    if bits.bit()? {
        sps.sample_aspect_ratio = match bits.u(8)? {
            255 => {
                let (width, height) = (bits.u(16)? as u16, bits.u(16)? as u16);
                (width > 0 && height > 0).then_some((width, height))
            }
            0 => None,
            index => SAMPLE_ASPECT_RATIOS.get(index as usize - 1).copied(),
        };
    }
    if bits.bit()? {
        bits.bit()?; // overscan_appropriate_flag
    }
    if bits.bit()? {
        bits.u(3)?; // video_format
        let full_range = bits.bit()?;
        if bits.bit()? {
            let mut code = || bits.u(8).map(|code| code as u8);
            sps.colour = Some(Colour {
                primaries: code()?,
                transfer: code()?,
                matrix: code()?,
                full_range,
            });
        }
    }
    if bits.bit()? {
        bits.ue()?; // chroma_sample_loc_type_top_field
        bits.ue()?; // chroma_sample_loc_type_bottom_field
    }
    if bits.bit()? {
        let (units, scale) = (bits.u(32)?, bits.u(32)?);
        sps.fixed_frame_rate = bits.bit()?;
        // A frame lasts two ticks.
        sps.frame_rate = FrameRate::reduced(u64::from(scale), u64::from(units) * 2);
    }
    let nal_hrd = bits.bit()?;
    if nal_hrd {
        hrd(bits)?;
    }
    let vcl_hrd = bits.bit()?;
    if vcl_hrd {
        hrd(bits)?;
    }
    if nal_hrd || vcl_hrd {
        bits.bit()?; // low_delay_hrd_flag
    }
    bits.bit()?; // pic_struct_present_flag
    if bits.bit()? {
        bits.bit()?; // motion_vectors_over_pic_boundaries_flag
        for _ in 0..4 {
            bits.ue()?;
        }
        sps.max_reorder_frames = bits.ue().filter(|frames| *frames <= 16);
    }
    Some(())
}

/// Skips `hrd_parameters()`, section E.1.2.
fn hrd(bits: &mut Bits<'_>) -> Option<()> {
    let count = bits.ue()?;
    if count > 31 {
        return None;
    }
    bits.u(8)?;
    for _ in 0..=count {
        bits.ue()?;
        bits.ue()?;
        bits.bit()?;
    }
    bits.u(20).map(|_| ())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// x264, High, 1920×1080 (coded 1088), 30000/1001, BT.709.
    const X264_1080: &str = "6764002aacd940780227e5c05a808080a0000007d20001d4c11e30632c";

    #[test]
    fn cropping_gives_1080_lines_of_1088() {
        let sps = parse(&hex(X264_1080)).unwrap();
        assert_eq!((sps.width, sps.height), (1920, 1080));
        assert_eq!((sps.profile_idc, sps.level_idc), (100, 42));
        assert!(sps.progressive);
    }

    fn hex(text: &str) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    /// A baseline parameter set with these bits behind profile, constraints and level.
    fn baseline(bits: &str) -> Vec<u8> {
        let mut bytes = vec![0x67, 66, 0, 10];
        let bits: Vec<u8> = bits
            .bytes()
            .filter(|b| *b != b' ')
            .map(|b| b - b'0')
            .collect();
        for chunk in bits.chunks(8) {
            let byte = chunk.iter().fold(0, |byte, bit| byte << 1 | bit);
            bytes.push(byte << (8 - chunk.len()));
        }
        bytes
    }

    #[test]
    fn a_crop_wider_than_the_picture_is_refused() {
        // 16×16, cropped by 9 chroma samples on the left: ue 0, 0, 2 (poc type), 0, flag 0, sides 0, 0, flags 1, 0, crop 1, 9 0 0 0
        let bytes = baseline("1 1 011 1 0 1 1 1 0 1 0001010 1 1 1 0 1000");
        assert!(matches!(
            parse(&bytes),
            Err(Error::Range {
                field: "a width of",
                ..
            })
        ));
    }

    #[test]
    fn a_picture_is_as_large_as_it_is_coded_however_little_of_it_is_shown() {
        let ue = |value: u32| {
            let bits = format!("{:b}", value + 1);
            format!("{}{bits}", "0".repeat(bits.len() - 1))
        };
        // Square, cropped on the right and at the bottom to 1280×1280.
        let parse_square = |macroblocks: u32| {
            let (side, crop) = (ue(macroblocks - 1), ue((macroblocks * 16 - 1_280) / 2));
            parse(&baseline(&format!(
                "1 1 011 1 0 {side} {side} 1 0 1 1 {crop} 1 {crop} 0 1000"
            )))
        };
        let large = parse_square(192).unwrap();
        assert_eq!((large.width, large.height), (1_280, 1_280));
        for macroblocks in [193, 1_000] {
            assert_eq!(
                parse_square(macroblocks),
                Err(Error::Range {
                    field: "a picture of macroblocks",
                    value: macroblocks * macroblocks,
                })
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..120), high in any::<bool>()) {
            let mut unit = vec![0x67, if high { 100 } else { 66 }];
            unit.extend(bytes);
            if let Ok(sps) = parse(&unit) {
                prop_assert!(sps.width > 0 && sps.height > 0);
            }
        }

        #[test]
        fn a_parameter_set_with_flipped_bits_is_read_or_refused(flips in proptest::collection::vec(0usize..29 * 8, 1..6), length in 0usize..30) {
            let mut unit = hex(X264_1080);
            for flip in flips {
                if let Some(byte) = unit.get_mut(flip / 8) {
                    *byte ^= 1 << (flip % 8);
                }
            }
            unit.truncate(length);
            let _ = parse(&unit);
        }
    }
}
