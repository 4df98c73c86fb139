//! Puts the steps together for one go-live: from a publisher's events to objects and link messages.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`hub`] | which publisher belongs to which broadcast; one task a broadcast |
//! | `session` | one broadcast's life: opening, running, waiting for an encoder that was cut off, closing |
//! | `pipeline` | its media: cut, package, transcode, publish |
//! | `sound` | its sound: untouched AAC-LC, or anything else encoded to it, or silence |

pub mod hub;
mod pipeline;
mod session;
mod sound;

use serde::{Deserialize, Serialize};

pub use hub::{Environment, Hub};

/// `[broadcast]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a connection that was cut has to come back, seconds, 0 to 300.
    pub reconnect_s: u32,
    /// How much of the past playlists list, seconds, 20 to 86400 (DVR).
    pub window_s: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            reconnect_s: 30,
            window_s: 60,
        }
    }
}
