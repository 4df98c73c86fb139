//! The boxes of a CMAF track, ISO/IEC 23000-19 and 14496-12: a header (`ftyp` `moov`) and chunks (`moof` `mdat`).
//!
//! One track a file. Chunks have `tfdt` version 1, `trun` version 1 with signed composition offsets and no edit list, so that the media
//! time of a sample is its presentation time; `default-base-is-moof`; no `sidx`. The first chunk of a segment has a `styp` before it, the
//! others have none: a segment is byte for byte its chunks.

use bytes::Bytes;
use mp4_atom::{
    Atom, Audio, Avc1, Avcc, Codec, Colr, Dinf, Dref, DrefEntry, Encode, Esds, FixedPoint, FourCC,
    Ftyp, Hdlr, Mdhd, Mdia, Mfhd, Minf, Moof, Moov, Mp4a, Mvex, Mvhd, Pasp, Smhd, Stbl, Stco, Stsd,
    Styp, Tfdt, Tfhd, Tkhd, Traf, Trak, Trex, Trun, TrunEntry, TrunSamples, Url, Visual, Vmhd,
    esds,
};

use super::PackageError;
use crate::{
    codec::{aac, avc, sps},
    media::VIDEO_TIMESCALE,
};

/// `track_ID` of the only track in a file.
const TRACK_ID: u32 = 1;

/// `sample_depends_on` 2: on no other; a sync sample.
const FLAGS_SYNC: u32 = 0x0200_0000;

/// `sample_depends_on` 1 and `sample_is_non_sync_sample`.
const FLAGS_NON_SYNC: u32 = 0x0101_0000;

/// `sample_is_depended_on` 2: no other sample needs this one.
const FLAG_DISPOSABLE: u32 = 0x0080_0000;

/// A sample as it stands in a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Decoding time, ticks, not negative.
    pub dts: i64,
    /// Ticks.
    pub duration: u32,
    /// Presentation minus decoding time, ticks.
    pub composition_offset: i32,
    /// Whether decoding can begin here.
    pub sync: bool,
    /// Whether no other sample needs it.
    pub disposable: bool,
    /// The access unit.
    pub data: Bytes,
}

/// The header of an H.264 track: `avc1` with the parameter sets, shape and colour where they are known.
pub fn video_header(record: &[u8]) -> Result<Bytes, PackageError> {
    let sets = avc::ParameterSets::from_record(record)?;
    let sps = sps::parse(sets.first_sps()?).map_err(avc::Error::from)?;
    // Written anew: packets have four-byte lengths here, whatever the encoder's container had.
    let avcc = Avcc::decode_body(&mut &sets.record()?[..])
        .map_err(|error| PackageError::Boxes(error.to_string()))?;
    let (width, height) = (to_u16(sps.width), to_u16(sps.height));
    let (sar_width, sar_height) = sps.sample_aspect_ratio.unwrap_or((1, 1));
    let sample_entry = Avc1 {
        visual: Visual {
            data_reference_index: 1,
            width,
            height,
            ..Visual::default()
        },
        avcc,
        colr: sps.colour.map(|colour| Colr::Nclx {
            colour_primaries: colour.primaries.into(),
            transfer_characteristics: colour.transfer.into(),
            matrix_coefficients: colour.matrix.into(),
            full_range_flag: colour.full_range,
        }),
        pasp: sps.sample_aspect_ratio.map(|(width, height)| Pasp {
            h_spacing: width.into(),
            v_spacing: height.into(),
        }),
        ..Avc1::default()
    };
    // The track's size is that of display: pixels made square.
    let display_width = u32::from(width) * u32::from(sar_width) / u32::from(sar_height.max(1));
    let header = Header {
        timescale: VIDEO_TIMESCALE,
        handler: b"vide",
        name: "Video",
        tkhd: Tkhd {
            width: FixedPoint::new(to_u16(display_width), 0),
            height: FixedPoint::new(height, 0),
            ..Tkhd::default()
        },
        minf: Minf {
            vmhd: Some(Vmhd::default()),
            ..Minf::default()
        },
        sample_entry: Codec::Avc1(sample_entry),
    };
    header.write()
}

/// The header of an AAC track: `mp4a` with the `AudioSpecificConfig`. `timescale` is the sample rate that is played.
pub fn audio_header(config: &[u8], timescale: u32) -> Result<Bytes, PackageError> {
    let aac = aac::parse(config)?;
    let sample_entry = Mp4a {
        audio: Audio {
            data_reference_index: 1,
            channel_count: to_u16(aac.channels),
            sample_size: 16,
            // 16 bits; a higher rate is 0 here, and the timescale tells it (14496-12 section 12.2.3.1).
            sample_rate: FixedPoint::new(u16::try_from(aac.sample_rate).unwrap_or(0), 0),
        },
        esds: Esds {
            es_desc: esds::EsDescriptor {
                es_id: TRACK_ID as u16,
                dec_config: esds::DecoderConfig {
                    object_type_indication: 0x40, // Audio ISO/IEC 14496-3
                    stream_type: 5,               // AudioStream
                    dec_specific: Some(esds::DecoderSpecific {
                        raw: config.to_vec(),
                        ..esds::DecoderSpecific::default()
                    }),
                    ..esds::DecoderConfig::default()
                },
                ..esds::EsDescriptor::default()
            },
        },
        btrt: None,
        taic: None,
    };
    let header = Header {
        timescale,
        handler: b"soun",
        name: "Audio",
        tkhd: Tkhd {
            volume: FixedPoint::new(1, 0),
            ..Tkhd::default()
        },
        minf: Minf {
            smhd: Some(Smhd::default()),
            ..Minf::default()
        },
        sample_entry: Codec::Mp4a(sample_entry),
    };
    header.write()
}

/// What differs between the headers of sound and picture.
struct Header {
    timescale: u32,
    handler: &'static [u8; 4],
    name: &'static str,
    tkhd: Tkhd,
    minf: Minf,
    sample_entry: Codec,
}

impl Header {
    fn write(self) -> Result<Bytes, PackageError> {
        let ftyp = Ftyp {
            major_brand: FourCC::new(b"cmfc"),
            minor_version: 0,
            compatible_brands: [b"cmfc", b"cmf2", b"iso6", b"dash"].map(FourCC::new).into(),
        };
        let moov = Moov {
            mvhd: Mvhd {
                timescale: self.timescale,
                rate: FixedPoint::new(1, 0),
                volume: FixedPoint::new(1, 0),
                next_track_id: TRACK_ID + 1,
                ..Mvhd::default()
            },
            mvex: Some(Mvex {
                mehd: None,
                trex: vec![Trex {
                    track_id: TRACK_ID,
                    default_sample_description_index: 1,
                    ..Trex::default()
                }],
            }),
            trak: vec![Trak {
                tkhd: Tkhd {
                    track_id: TRACK_ID,
                    enabled: true,
                    in_movie: true,
                    ..self.tkhd
                },
                mdia: Mdia {
                    mdhd: Mdhd {
                        timescale: self.timescale,
                        language: "und".to_owned(),
                        ..Mdhd::default()
                    },
                    hdlr: Hdlr {
                        handler: FourCC::new(self.handler),
                        name: self.name.to_owned(),
                    },
                    minf: Minf {
                        dinf: Dinf {
                            dref: Dref {
                                entries: vec![DrefEntry::Url(Url::default())],
                            },
                        },
                        stbl: Stbl {
                            stsd: Stsd {
                                codecs: vec![self.sample_entry],
                            },
                            stco: Some(Stco::default()),
                            ..Stbl::default()
                        },
                        ..self.minf
                    },
                },
                ..Trak::default()
            }],
            ..Moov::default()
        };
        let mut out = Vec::new();
        write(&ftyp, &mut out)?;
        write(&moov, &mut out)?;
        Ok(out.into())
    }
}

fn write(atom: &impl Encode, out: &mut Vec<u8>) -> Result<(), PackageError> {
    let written = atom.encode(out);
    written.map_err(|error| PackageError::Boxes(error.to_string()))
}

fn to_u16(value: u32) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

/// One CMAF chunk of samples that follow each other without a gap. `first`: it begins a segment, so a `styp` comes before it.
pub(super) fn chunk(first: bool, sequence_number: u32, samples: &[Sample]) -> Bytes {
    let payload: usize = samples.iter().map(|sample| sample.data.len()).sum();
    let mut out = Vec::with_capacity(payload + 256 + samples.len() * 16);
    if first {
        let styp = Styp {
            major_brand: FourCC::new(b"cmfs"),
            minor_version: 0,
            compatible_brands: [b"cmfs", b"cmff", b"msdh"].map(FourCC::new).into(),
        };
        // Writing into memory does not fail, and these boxes have no field that could be out of range.
        let _ = styp.encode(&mut out);
    }
    let mut moof = moof(sequence_number, samples);
    let mut header = Vec::new();
    let _ = moof.encode(&mut header);
    // The length of a moof does not depend on the offset written in it.
    let offset = i32::try_from(header.len() + MDAT_HEADER).unwrap_or(i32::MAX);
    for run in moof.traf.iter_mut().flat_map(|traf| &mut traf.trun) {
        run.data_offset = Some(offset);
    }
    let _ = moof.encode(&mut out);
    // A part is a third of a second: far below the 4 GiB at which the size would not fit.
    let size = u32::try_from(payload + MDAT_HEADER).unwrap_or(u32::MAX);
    out.extend(size.to_be_bytes());
    out.extend(b"mdat");
    for sample in samples {
        out.extend_from_slice(&sample.data);
    }
    out.into()
}

/// Bytes of a `mdat`'s size and type.
const MDAT_HEADER: usize = 8;

fn moof(sequence_number: u32, samples: &[Sample]) -> Moof {
    let flags = |sample: &Sample| match (sample.sync, sample.disposable) {
        (true, _) => FLAGS_SYNC,
        (false, true) => FLAGS_NON_SYNC | FLAG_DISPOSABLE,
        (false, false) => FLAGS_NON_SYNC,
    };
    let first = samples.first();
    let default_duration = first.map_or(0, |sample| sample.duration);
    // The second sample stands for the others: the first one often is the IDR and has its own flags.
    let default_flags = samples.get(1).or(first).map_or(0, flags);
    let same_duration = samples.iter().all(|s| s.duration == default_duration);
    let rest_same_flags = samples.iter().skip(1).all(|s| flags(s) == default_flags);
    let all_same_flags = rest_same_flags && first.is_none_or(|s| flags(s) == default_flags);
    let offsets = samples.iter().any(|s| s.composition_offset != 0);
    let entries = samples.iter().enumerate().map(|(index, sample)| TrunEntry {
        duration: (!same_duration).then_some(sample.duration),
        size: Some(u32::try_from(sample.data.len()).unwrap_or(u32::MAX)),
        flags: (!all_same_flags && (index == 0 || !rest_same_flags)).then(|| flags(sample)),
        cts: offsets.then_some(sample.composition_offset.into()),
    });
    Moof {
        mfhd: Mfhd { sequence_number },
        traf: vec![Traf {
            tfhd: Tfhd {
                track_id: TRACK_ID,
                default_sample_duration: Some(default_duration),
                default_sample_flags: Some(default_flags),
                default_base_is_moof: true,
                ..Tfhd::default()
            },
            tfdt: Some(Tfdt {
                base_media_decode_time: first.map_or(0, |s| u64::try_from(s.dts).unwrap_or(0)),
            }),
            trun: vec![Trun {
                data_offset: Some(0),
                samples: TrunSamples::Explicit(entries.collect()),
            }],
            ..Traf::default()
        }],
    }
}

/// The kinds and sizes of the boxes at the top level of a file; for tests and for the doctor. Ends at the first that does not fit.
pub fn top_level_boxes(file: &[u8]) -> Vec<(FourCC, usize)> {
    let mut rest = file;
    let mut out = Vec::new();
    while let Some((head, _)) = rest.split_first_chunk::<8>() {
        let [a, b, c, d, kind @ ..] = *head;
        let size = u32::from_be_bytes([a, b, c, d]) as usize;
        let Some(tail) = rest.get(size.max(8)..) else {
            break;
        };
        out.push((FourCC::from(kind), size));
        rest = tail;
    }
    out
}
