//! Fuzz targets: one function each, which takes arbitrary bytes, must return, and checks on the way what the code behind it promises.
//!
//! | module | targets | what outsiders reach there |
//! | --- | --- | --- |
//! | [`access`] | `tokens` | everything that takes a token |
//! | [`guard`] | `clients` | every request's header and path |
//! | [`ingest`] | `rtmp`, `flv`, `values_and_headers` | an encoder's connection, before and after its key is known |
//! | [`media`] | `parameter_sets`, `repair`, `cut` | an encoder's configuration and times |
//! | [`edge`] | `messages`, `timeline`, `playlists`, `requests`, `keys` | a box's link, a viewer's addresses |
//!
//! `tests/replay.rs` runs each target over its corpus and over mutations of it; `libfuzzer/` wraps each for runs of hours.
//! `ingest` and `media` need feature `media` (default).

#![forbid(unsafe_code)]

pub mod access;
mod bytes_in;
pub mod edge;
pub mod guard;
#[cfg(feature = "media")]
pub mod ingest;
#[cfg(feature = "media")]
pub mod media;

/// A target: takes arbitrary bytes, panics when a promise is broken.
pub type Target = fn(&[u8]);

/// Every target by the name that its corpus folder and its wrapper in `libfuzzer/fuzz_targets` have.
pub const TARGETS: &[(&str, Target)] = &[
    #[cfg(feature = "media")]
    ("rtmp", ingest::rtmp),
    #[cfg(feature = "media")]
    ("flv", ingest::flv),
    #[cfg(feature = "media")]
    ("values_and_headers", ingest::values_and_headers),
    #[cfg(feature = "media")]
    ("parameter_sets", media::parameter_sets),
    #[cfg(feature = "media")]
    ("repair", media::repair),
    #[cfg(feature = "media")]
    ("cut", media::cut),
    ("messages", edge::messages),
    ("timeline", edge::timeline),
    ("playlists", edge::playlists),
    ("requests", edge::requests),
    ("keys", edge::keys),
    ("tokens", access::tokens),
    ("clients", guard::clients),
];
