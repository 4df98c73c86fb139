//! From encoded frames to CMAF: where segments begin, what a part is, and the boxes.
//!
//! | module | what it decides or writes | specification |
//! | --- | --- | --- |
//! | [`cut`] | the cut rule: one list of segment boundaries for all tracks | DESIGN.md |
//! | [`video`], [`audio`] | one track's samples into parts and segments | ISO/IEC 23000-19, draft-pantos-hls-rfc8216bis |
//! | [`part`] | what comes out of a track: parts and segments | |
//! | [`cmaf`] | `ftyp` `moov`, and `styp` `moof` `mdat` | ISO/IEC 14496-12, 23000-19 |
//! | [`codec_string`] | the CODECS of a playlist | RFC 6381 |
//! | [`nal`], [`avcc`], [`sps`] | H.264 byte streams and parameter sets | ITU-T H.264, ISO/IEC 14496-15 |
//! | [`asc`] | `AudioSpecificConfig` | ISO/IEC 14496-3 |
//!
//! Nothing here does I/O or knows a clock. Every parser is total: arbitrary bytes give a value or an error and never a panic
//! ([`avcc::parse`], [`sps::parse`], [`asc::parse`], [`nal::annex_b`], [`nal::length_prefixed`] are the entries for fuzzing).

pub mod asc;
pub mod audio;
pub mod avcc;
mod bits;
pub mod cmaf;
pub mod codec_string;
pub mod cut;
pub mod nal;
pub mod part;
pub mod sps;
pub mod video;

pub use audio::AudioPackager;
pub use cut::{Cut, Cutter, ForcedCut};
pub use part::{Chunk, Part, Segment};
pub use video::{VideoPackager, VideoSample};

/// Why a track cannot be packaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackageError {
    /// The H.264 configuration cannot be read.
    #[error(transparent)]
    Avcc(#[from] avcc::AvccError),
    /// The sequence parameter set cannot be read.
    #[error(transparent)]
    Sps(#[from] sps::SpsError),
    /// The AAC configuration cannot be read.
    #[error(transparent)]
    Asc(#[from] asc::AscError),
    /// A box could not be written.
    #[error("the boxes of the track could not be written: {0}")]
    Boxes(String),
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tracks_tests;
