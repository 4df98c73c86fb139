//! What a stream may take: kept by the edge's directory, given to media-core when it admits a publisher.

use serde::{Deserialize, Serialize};

/// The limits of one stream; what is not named has none. Unknown ones are left aside, so that an older part reads what a newer one wrote.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(default)]
pub struct Limits {
    /// What a publisher may send, averaged over ten seconds, bits a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bitrate_bps: Option<u64>,
    /// The shorter side of the picture that a publisher sends, pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_height: Option<u32>,
    /// The frames that a publisher sends, a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_fps: Option<u32>,
    /// How long a broadcast lasts, reconnects included, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_duration_s: Option<u64>,
    /// How many watch at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_viewers: Option<u32>,
}

impl Limits {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Both: of each the lower.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        fn lower<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            match (one, other) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            }
        }
        Self {
            max_bitrate_bps: lower(self.max_bitrate_bps, other.max_bitrate_bps),
            max_height: lower(self.max_height, other.max_height),
            max_fps: lower(self.max_fps, other.max_fps),
            max_duration_s: lower(self.max_duration_s, other.max_duration_s),
            max_viewers: lower(self.max_viewers, other.max_viewers),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn of_two_limits_the_lower_holds_and_none_is_no_limit() {
        let one = Limits {
            max_bitrate_bps: Some(5),
            max_fps: Some(30),
            ..Limits::default()
        };
        let other = Limits {
            max_bitrate_bps: Some(4),
            max_viewers: Some(0),
            ..Limits::default()
        };
        let both = Limits {
            max_bitrate_bps: Some(4),
            max_fps: Some(30),
            max_viewers: Some(0),
            ..Limits::default()
        };
        assert_eq!((one.and(other), other.and(one)), (both, both));
        assert!(Limits::default().is_empty() && !one.is_empty());
    }

    #[test]
    fn a_limit_of_a_newer_version_is_left_aside() {
        let read: Limits = serde_json::from_str(r#"{"max_fps": 30, "max_smell": 1}"#).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), r#"{"max_fps":30}"#);
    }
}
