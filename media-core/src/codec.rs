//! H.264 and AAC as they come and go: configuration, parameter sets, NAL units. The one place where codec bytes are read.
//!
//! | module | what it reads and writes | specification |
//! | --- | --- | --- |
//! | [`nal`] | NAL units behind start codes and behind lengths | ITU-T H.264 Annex B, ISO/IEC 14496-15 section 5 |
//! | [`avc`] | the configuration record, and access units without what belongs into it | ISO/IEC 14496-15 section 5.3.3 |
//! | [`sps`] | sequence parameter sets with their VUI | ITU-T H.264 sections 7.3.2.1.1 and E.1.1 |
//! | [`aac`] | `AudioSpecificConfig` | ISO/IEC 14496-3 section 1.6.2.1 |
//!
//! Every reader is total: arbitrary bytes give a value or an error and never a panic (fuzz target `parameter_sets`).

pub mod aac;
pub mod avc;
mod bits;
pub mod nal;
pub mod sps;
