//! Keys of media objects: `{stream}/{broadcast}/{track}/…`, each written once and never again.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::names::{BroadcastId, NameError, StreamName, Tag, TrackName};

/// Why a key was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A component is not a valid name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The shape is not one of the three.
    #[error("not the key of a media object")]
    Shape,
}

/// What the object is, with the numbers in its file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// `init-{n}.{tag}.mp4`: the CMAF header (`ftyp` `moov`); `n` counts a track's headers.
    Init {
        /// Counts the headers of this track in this broadcast, from 0.
        n: u32,
    },
    /// `{msn}.{part}.{tag}.m4s`: one part of a segment.
    Part {
        /// Media sequence number of the segment.
        msn: u64,
        /// Index of the part in the segment, from 0.
        part: u32,
    },
    /// `{msn}.{tag}.m4s`: a whole segment, byte for byte its parts in order.
    Segment {
        /// Media sequence number.
        msn: u64,
    },
}

/// The key of one immutable object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectKey {
    /// The stream it belongs to.
    pub stream: StreamName,
    /// The broadcast it belongs to.
    pub broadcast: BroadcastId,
    /// The track it was made for.
    pub track: TrackName,
    /// What it is.
    pub kind: ObjectKind,
    /// 96 random bits, new at each put.
    pub tag: Tag,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/", self.stream, self.broadcast, self.track)?;
        match self.kind {
            ObjectKind::Init { n } => write!(f, "init-{n}.{}.mp4", self.tag),
            ObjectKind::Part { msn, part } => write!(f, "{msn}.{part}.{}.m4s", self.tag),
            ObjectKind::Segment { msn } => write!(f, "{msn}.{}.m4s", self.tag),
        }
    }
}

/// A decimal number in its only spelling: no sign, no leading zero, so that a key has one text.
fn number<T: FromStr>(text: &str) -> Result<T, KeyError> {
    let canonical = text == "0" || !(text.is_empty() || text.starts_with('0'));
    if canonical && text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().map_err(|_| KeyError::Shape)
    } else {
        Err(KeyError::Shape)
    }
}

impl FromStr for ObjectKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut folders = text.split('/');
        let (Some(stream), Some(broadcast), Some(track), Some(file), None) = (
            folders.next(),
            folders.next(),
            folders.next(),
            folders.next(),
            folders.next(),
        ) else {
            return Err(KeyError::Shape);
        };
        let fields: Vec<&str> = file.splitn(5, '.').collect();
        let (kind, tag) = match fields.as_slice() {
            [init, tag, "mp4"] => {
                let n = init.strip_prefix("init-").ok_or(KeyError::Shape)?;
                (ObjectKind::Init { n: number(n)? }, tag)
            }
            [msn, tag, "m4s"] => (ObjectKind::Segment { msn: number(msn)? }, tag),
            [msn, part, tag, "m4s"] => {
                let (msn, part) = (number(msn)?, number(part)?);
                (ObjectKind::Part { msn, part }, tag)
            }
            _ => return Err(KeyError::Shape),
        };
        Ok(Self {
            stream: stream.parse()?,
            broadcast: broadcast.parse()?,
            track: track.parse()?,
            kind,
            tag: tag.parse()?,
        })
    }
}

impl TryFrom<String> for ObjectKey {
    type Error = KeyError;
    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<ObjectKey> for String {
    fn from(key: ObjectKey) -> String {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn key(kind: ObjectKind) -> ObjectKey {
        ObjectKey {
            stream: "demo".parse().unwrap(),
            broadcast: BroadcastId::from_random([1; 16]),
            track: "v-720p30".parse().unwrap(),
            kind,
            tag: Tag::from_random([2; 12]),
        }
    }

    #[test]
    fn every_kind_of_key_reads_back_as_it_was_written() {
        for kind in [
            ObjectKind::Init { n: 0 },
            ObjectKind::Part { msn: 10, part: 5 },
            ObjectKind::Segment { msn: u64::MAX },
        ] {
            let key = key(kind);
            assert_eq!(key.to_string().parse::<ObjectKey>().unwrap(), key);
        }
    }

    #[test]
    fn a_key_with_another_spelling_of_a_number_is_refused() {
        let text = key(ObjectKind::Segment { msn: 7 }).to_string();
        for other in ["/07.", "/+7.", "/ 7.", "/7.."] {
            assert!(text.replace("/7.", other).parse::<ObjectKey>().is_err());
        }
        assert!(format!("{text}/x").parse::<ObjectKey>().is_err());
        assert!(format!("/{text}").parse::<ObjectKey>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_is_the_key_s_only_text(text in "[a-z0-9./-]{0,120}") {
            if let Ok(key) = text.parse::<ObjectKey>() {
                prop_assert_eq!(key.to_string(), text);
            }
        }
    }
}
