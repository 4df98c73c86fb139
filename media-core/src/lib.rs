//! From an encoder's packets to CMAF objects and link messages.
//!
//! | module | step | specification |
//! | --- | --- | --- |
//! | [`ingest`] | a publisher's connection: who it is, and its packets | RTMP 1.0, FLV 10.1 |
//! | [`repair`] | one monotonic timeline out of whatever came | |
//! | [`transcode`] | decode once, encode each rung | |
//! | [`package`] | the cut rule, parts and segments | ISO/IEC 14496-12, 23000-19 |
//! | [`publish`] | objects to the store, then messages to the edge | draft-pantos-hls-rfc8216bis |
//! | [`webrtc`] | the same packets to WebRTC viewers | RFC 8825, RFC 6184, the WHEP draft |
//! | [`broadcast`] | puts the steps together for one go-live | |
//!
//! [`codec`] reads H.264 and AAC for all of them, [`media`] has the types that pass between the steps, [`edge`] what a box needs of the edge and [`retry`] how anything is tried again.

pub mod broadcast;
pub mod codec;
pub mod edge;
pub mod ingest;
pub mod media;
pub mod package;
pub mod publish;
pub mod repair;
pub mod retry;
pub mod tls;
pub mod transcode;
pub mod webrtc;
