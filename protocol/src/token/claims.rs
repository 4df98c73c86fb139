//! What a token says, as it lies in its JSON.

use std::{fmt, num::NonZeroU32, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::names::StreamName;

/// What a token lets its bearer do.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Send a stream.
    Publish,
    /// Watch a stream.
    Watch,
    /// Write in a stream's chat.
    Chat,
    /// Delete messages, time out and ban in a stream's chat.
    Moderate,
    /// Change a stream, mint tokens for it, see and end its sessions. For `*`: the administrator.
    Manage,
}

impl Action {
    /// Every action there is.
    pub const ALL: [Self; 5] = [
        Self::Publish,
        Self::Watch,
        Self::Chat,
        Self::Moderate,
        Self::Manage,
    ];

    /// As it is written in a token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Watch => "watch",
            Self::Chat => "chat",
            Self::Moderate => "moderate",
            Self::Manage => "manage",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Action {
    type Err = UnknownAction;
    fn from_str(text: &str) -> Result<Self, UnknownAction> {
        let known = Self::ALL.into_iter().find(|action| action.as_str() == text);
        known.ok_or_else(|| UnknownAction(text.chars().take(40).collect()))
    }
}

/// Not an action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an action: use publish, watch, chat, moderate or manage")]
pub struct UnknownAction(String);

/// At least one action: in JSON one name, or a list of names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Actions(u8);

impl Actions {
    /// These actions; `None` when there are none.
    pub fn new(actions: impl IntoIterator<Item = Action>) -> Option<Self> {
        let bits = actions.into_iter().fold(0, |bits, a| bits | a.bit());
        (bits != 0).then_some(Self(bits))
    }

    /// Whether the action is one of them.
    pub fn contains(self, action: Action) -> bool {
        self.0 & action.bit() != 0
    }

    /// They, in a fixed order.
    pub fn iter(self) -> impl Iterator<Item = Action> {
        (Action::ALL.into_iter()).filter(move |action| self.contains(*action))
    }
}

impl From<Action> for Actions {
    fn from(action: Action) -> Self {
        Self(action.bit())
    }
}

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Serialize for Actions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut actions = self.iter();
        match (actions.next(), actions.next()) {
            (Some(one), None) => one.serialize(serializer),
            _ => serializer.collect_seq(self.iter()),
        }
    }
}

impl<'de> Deserialize<'de> for Actions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum OneOrMany {
            One(Action),
            Many(Vec<Action>),
        }
        match OneOrMany::deserialize(deserializer)? {
            OneOrMany::One(action) => Ok(action.into()),
            OneOrMany::Many(actions) => {
                Self::new(actions).ok_or_else(|| de::Error::custom("no action"))
            }
        }
    }
}

/// Whom a token is for: in JSON one text, or a list of them (RFC 7519 section 4.1.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Audience {
    /// One installation.
    One(String),
    /// Any of these.
    Many(Vec<String>),
}

impl Audience {
    /// Whether it is for this installation.
    pub fn has(&self, installation: &str) -> bool {
        match self {
            Self::One(one) => one == installation,
            Self::Many(many) => many.iter().any(|one| one == installation),
        }
    }
}

/// Seconds since the Unix epoch, `0..=253_402_300_799` (the year 9999). A fraction, which RFC 7519 allows, is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Seconds(i64);

impl Seconds {
    const LAST: i64 = 253_402_300_799;

    /// The second that this time, Unix milliseconds, lies in; the nearest that there is.
    pub fn of_unix_ms(unix_ms: i64) -> Self {
        Self(unix_ms.div_euclid(1_000).clamp(0, Self::LAST))
    }

    /// Unix milliseconds.
    pub fn unix_ms(self) -> i64 {
        self.0 * 1_000
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Whole numbers up to here are exact as floating point.
        let seconds = f64::deserialize(deserializer)?.trunc();
        if (0.0..=Self::LAST as f64).contains(&seconds) {
            Ok(Self(seconds as i64))
        } else {
            Err(de::Error::custom("not a time"))
        }
    }
}

/// Not a pattern of stream names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no streams: use a stream's name, or the beginning of names and then '*' (a-z, 0-9, '_' and '-'), or '*' for all"
)]
pub struct MalformedPattern(String);

/// Which streams: one by its name, or those whose names begin so (`acme-*`; `*` is all).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StreamPattern(String);

impl StreamPattern {
    /// Whether it is this stream, or one of those.
    pub fn covers(&self, stream: &StreamName) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => stream.as_str().starts_with(prefix),
            None => self.0 == stream.as_str(),
        }
    }

    /// Whether it covers every stream that there can be.
    pub fn is_all(&self) -> bool {
        self.0 == "*"
    }

    /// The one stream that it names; `None` where it may be several.
    pub fn name(&self) -> Option<StreamName> {
        self.0.parse().ok()
    }

    /// The name, or what the names begin with.
    pub(super) fn beginning(&self) -> &str {
        self.0.strip_suffix('*').unwrap_or(&self.0)
    }

    /// Whether it covers whatever the other one covers.
    pub fn covers_all(&self, other: &Self) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => other.within(prefix),
            None => self == other,
        }
    }

    /// Whether every stream that it covers has a name that begins so.
    pub fn within(&self, prefix: &str) -> bool {
        self.0
            .strip_suffix('*')
            .unwrap_or(&self.0)
            .starts_with(prefix)
    }
}

impl FromStr for StreamPattern {
    type Err = MalformedPattern;
    fn from_str(text: &str) -> Result<Self, MalformedPattern> {
        let name = match text.strip_suffix('*') {
            Some("") => return Ok(Self(text.to_owned())),
            Some(prefix) => prefix,
            None => text,
        };
        // The beginning of a name is one itself.
        match name.parse::<StreamName>() {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(MalformedPattern(text.chars().take(80).collect())),
        }
    }
}

impl From<StreamName> for StreamPattern {
    fn from(name: StreamName) -> Self {
        Self(name.into())
    }
}

impl TryFrom<String> for StreamPattern {
    type Error = MalformedPattern;
    fn try_from(text: String) -> Result<Self, MalformedPattern> {
        text.parse()
    }
}

impl From<StreamPattern> for String {
    fn from(pattern: StreamPattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for StreamPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a token says: see the table in [`crate::token`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who signed it.
    pub iss: String,
    /// The installation it is for.
    pub aud: Audience,
    /// Whom it was given to.
    pub sub: String,
    /// Which streams.
    pub stream: StreamPattern,
    /// What may be done with them.
    pub act: Actions,
    /// No session before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<Seconds>,
    /// When it was issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<Seconds>,
    /// No new session from then on.
    pub exp: Seconds,
    /// A running session ends then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sess_exp: Option<Seconds>,
    /// Where it may be used from; from anywhere when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip: Vec<IpNet>,
    /// On how many devices at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<NonZeroU32>,
    /// Its own id.
    pub jti: String,
}
