//! Names of streams, broadcasts and tracks. A value of these types is valid by construction.

use std::{fmt, str::FromStr, sync::LazyLock};

use data_encoding::{BASE32_NOPAD, Encoding};
use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not `[a-z0-9][a-z0-9_-]{0,63}`.
    #[error(
        "{0:?} is not a stream name: use 1 to 64 of a-z, 0-9, '_' and '-', beginning with a letter or a digit"
    )]
    Stream(String),
    /// Not 26 characters of lower-case base32.
    #[error("{0:?} is not a broadcast id: it is 26 characters of a-z and 2-7")]
    Broadcast(String),
    /// Not `v-…` or `a-…`.
    #[error(
        "{0:?} is not a track name: use 'v-' or 'a-' and then 1 to 30 of a-z, 0-9, '_' and '-'"
    )]
    Track(String),
    /// Not 20 characters of lower-case base32.
    #[error("{0:?} is not an object tag: it is 20 characters of a-z and 2-7")]
    Tag(String),
}

/// Shortens what came from outside before it goes into an error or a log line.
fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

fn is_name_char(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-')
}

/// Lower-case base32 without padding: safe in URLs, object keys and HLS attribute strings.
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = BASE32_NOPAD.specification();
    specification.symbols = specification.symbols.to_ascii_lowercase();
    // The alphabet is BASE32_NOPAD's own in lower case, so the specification cannot be invalid.
    specification.encoding().unwrap_or(BASE32_NOPAD)
});

macro_rules! text_newtype {
    ($name:ident) => {
        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

/// A stream: `[a-z0-9][a-z0-9_-]{0,63}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StreamName(String);
text_newtype!(StreamName);

impl FromStr for StreamName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let bytes = text.as_bytes();
        let first_ok = bytes
            .first()
            .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if first_ok && bytes.len() <= 64 && bytes.iter().all(|b| is_name_char(*b)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Stream(excerpt(text)))
        }
    }
}

/// One go-live of a stream: 128 random bits, written as 26 characters of lower-case base32.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BroadcastId(String);
text_newtype!(BroadcastId);

impl BroadcastId {
    /// The id of 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(BASE32.encode(&bytes))
    }
}

impl FromStr for BroadcastId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.len() == 26 && BASE32.decode(text.as_bytes()).is_ok() {
            true => Ok(Self(text.to_owned())),
            false => Err(NameError::Broadcast(excerpt(text))),
        }
    }
}

/// A track of a broadcast, such as `v-source`, `v-720p30`, `a-aac-128k`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrackName(String);
text_newtype!(TrackName);

impl TrackName {
    /// Whether the name is a video track's.
    pub fn is_video(&self) -> bool {
        self.0.starts_with("v-")
    }
}

impl FromStr for TrackName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let rest = text.strip_prefix("v-").or_else(|| text.strip_prefix("a-"));
        match rest {
            Some(rest) if (1..=30).contains(&rest.len()) && rest.bytes().all(is_name_char) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(NameError::Track(excerpt(text))),
        }
    }
}

/// What makes an object key unguessable and never written twice: 96 random bits, 20 characters of lower-case base32.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);
text_newtype!(Tag);

impl Tag {
    /// The tag of 12 random bytes.
    pub fn from_random(bytes: [u8; 12]) -> Self {
        Self(BASE32.encode(&bytes))
    }
}

impl FromStr for Tag {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.len() == 20 && BASE32.decode(text.as_bytes()).is_ok() {
            true => Ok(Self(text.to_owned())),
            false => Err(NameError::Tag(excerpt(text))),
        }
    }
}

/// What a publisher or a viewer speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RTMP over TCP.
    Rtmp,
    /// RTMP over TLS.
    Rtmps,
    /// SRT.
    Srt,
    /// WebRTC in (RFC 9725).
    Whip,
    /// WebRTC out.
    Whep,
    /// HLS.
    Hls,
    /// MPEG-DASH.
    Dash,
    /// A WebSocket.
    Ws,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_stream_name_is_lower_case_and_bounded() {
        for good in ["a", "0", "demo", "a_b-c", &"x".repeat(64)] {
            assert_eq!(good.parse::<StreamName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-a",
            "_a",
            "A",
            "a/b",
            "..",
            "a.b",
            "é",
            &"x".repeat(65),
        ] {
            assert!(bad.parse::<StreamName>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn random_ids_are_lower_case_base32_and_parse_back() {
        let id = BroadcastId::from_random([0xa5; 16]);
        assert_eq!(id.as_str().len(), 26);
        assert_eq!(id.as_str().parse::<BroadcastId>().unwrap(), id);
        assert!(
            id.as_str()
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'))
        );
        let tag = Tag::from_random([7; 12]);
        assert_eq!(tag.as_str().parse::<Tag>().unwrap(), tag);
        assert!("A".repeat(26).parse::<BroadcastId>().is_err());
    }

    #[test]
    fn a_track_name_says_whether_it_is_video() {
        assert!("v-720p30".parse::<TrackName>().unwrap().is_video());
        assert!(!"a-aac-128k".parse::<TrackName>().unwrap().is_video());
        for bad in ["", "v-", "x-1", "v-A", "v-a/b", "720p"] {
            assert!(bad.parse::<TrackName>().is_err(), "{bad:?} was accepted");
        }
    }
}
