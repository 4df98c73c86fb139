//! From encoded frames to CMAF: where segments begin, what a part is, and the boxes.
//!
//! | module | what it decides or writes | specification |
//! | --- | --- | --- |
//! | [`cut`] | the cut rule: one list of segment boundaries for all tracks | DESIGN.md |
//! | [`video`], [`audio`] | one track's samples into parts and segments | ISO/IEC 23000-19, draft-pantos-hls-rfc8216bis |
//! | [`part`] | what comes out of a track: parts and segments | |
//! | [`cmaf`] | `ftyp` `moov`, and `styp` `moof` `mdat` | ISO/IEC 14496-12, 23000-19 |
//! | [`codec_string`] | the CODECS of a playlist | RFC 6381 |
//!
//! Nothing here does I/O or knows a clock. What the frames are is read by [`codec`](crate::codec).

pub mod audio;
pub mod cmaf;
pub mod codec_string;
pub mod cut;
pub mod part;
pub mod video;

pub use audio::AudioPackager;
pub use cut::{Cut, Cutter, ForcedCut};
pub use part::{Chunk, Part, Segment};
pub use video::{VideoPackager, VideoSample};

use crate::codec::{aac, avc};

/// Why a track cannot be packaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackageError {
    /// The H.264 configuration cannot be read.
    #[error(transparent)]
    Avc(#[from] avc::Error),
    /// The AAC configuration cannot be read.
    #[error(transparent)]
    Aac(#[from] aac::Error),
    /// A box could not be written.
    #[error("the boxes of the track could not be written: {0}")]
    Boxes(String),
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tracks_tests;
