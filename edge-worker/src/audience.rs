//! How many watch: counted by the player's beacons, one every 15 s, each with an id that the player made up for the page.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::routes::{SESSION, Session};

/// A viewer counts for so long after a beacon, milliseconds: three beacons may be lost.
pub const EXPIRY_MS: i64 = 45_000;
/// A stream's viewers are counted up to here.
pub const MAX_VIEWERS: usize = 200_000;

/// What a player posts to `/api/streams/{stream}/beacon`, as JSON, every 15 s and when it leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Beacon {
    /// Random, new each time the page is opened.
    #[schemars(length(min = VIEWER.0, max = VIEWER.1))]
    pub viewer: String,
    /// The page is being left.
    #[serde(default)]
    pub left: bool,
    /// The playback session of somebody who watches with a token: counted by its requests, and over when the page is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = SESSION))]
    pub session: Option<String>,
}

/// The fewest and the most characters of a viewer's id.
const VIEWER: (usize, usize) = (8, 64);

impl Beacon {
    /// Whether it is as a player sends it.
    pub fn is_good(&self) -> bool {
        (VIEWER.0..=VIEWER.1).contains(&self.viewer.chars().count())
            && (self.session.as_deref()).is_none_or(|text| Session::parse(text).is_some())
    }
}

/// The longest beacon that is read, bytes.
pub const MAX_BEACON_BYTES: usize = 2 * 1_024;

/// The viewers of one stream. About 40 bytes each.
#[derive(Debug, Clone, Default)]
pub struct Audience {
    seen: HashMap<u64, i64>,
    swept_unix_ms: i64,
}

impl Audience {
    /// Takes a beacon. Beyond [`MAX_VIEWERS`] newcomers are not counted.
    pub fn beacon(&mut self, beacon: &Beacon, now_unix_ms: i64) {
        let digest = Sha256::digest(beacon.viewer.as_bytes());
        let id = digest
            .iter()
            .take(8)
            .fold(0, |id, b| id << 8 | u64::from(*b));
        if beacon.left {
            self.seen.remove(&id);
            return;
        }
        if self.seen.len() >= MAX_VIEWERS && !self.seen.contains_key(&id) {
            self.sweep(now_unix_ms);
            if self.seen.len() >= MAX_VIEWERS {
                return;
            }
        }
        self.seen.insert(id, now_unix_ms);
    }

    /// How many watch now.
    pub fn count(&mut self, now_unix_ms: i64) -> usize {
        self.sweep(now_unix_ms);
        self.seen.len()
    }

    fn sweep(&mut self, now_unix_ms: i64) {
        // Once a second at most: a full sweep is some milliseconds with very many viewers.
        if (now_unix_ms - 1_000..=now_unix_ms).contains(&self.swept_unix_ms) {
            return;
        }
        self.swept_unix_ms = now_unix_ms;
        (self.seen).retain(|_, seen| now_unix_ms.saturating_sub(*seen) <= EXPIRY_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beacon(viewer: &str, left: bool) -> Beacon {
        Beacon {
            viewer: viewer.to_owned(),
            left,
            session: None,
        }
    }

    #[test]
    fn a_viewer_counts_once_until_it_leaves_or_falls_silent() {
        let mut audience = Audience::default();
        audience.beacon(&beacon("viewer-one", false), 0);
        audience.beacon(&beacon("viewer-one", false), 15_000);
        audience.beacon(&beacon("viewer-two", false), 15_000);
        assert_eq!(audience.count(16_000), 2);
        audience.beacon(&beacon("viewer-two", true), 17_000);
        assert_eq!(audience.count(18_000), 1);
        assert_eq!(audience.count(60_000), 1);
        assert_eq!(audience.count(60_001 + 1_000), 0);
    }

    #[test]
    fn a_beacon_of_another_form_is_none() {
        for id in ["", "short12", &"x".repeat(65)] {
            assert!(!beacon(id, false).is_good(), "{id}");
        }
        let mut good = beacon("a viewer", false);
        assert!(good.is_good());
        good.session = Some("-".to_owned());
        assert!(good.is_good());
        good.session = Some("a/b".to_owned());
        assert!(!good.is_good());
    }
}
