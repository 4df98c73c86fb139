//! What an encoder's connection is read by. The targets stand beside the code, whose insides they reach.

pub use media_core::ingest::fuzz::{flv, rtmp, values_and_headers};
