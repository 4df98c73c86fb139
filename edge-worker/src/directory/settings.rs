//! What a stream is to viewers and what it may take: its visibility, its title and its limits, and how they are changed.
//!
//! The configuration and the API change them by the same [`Change`]. What the configuration says is remembered beside them, and said
//! again (at each start, by each box) it changes nothing: so what the API changed since stays until the configuration says something
//! else.

use std::{fmt, str::FromStr};

#[cfg(doc)]
use protocol::limits::Limits;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// The most characters of a title.
pub const MAX_TITLE_CHARS: usize = 120;

/// The pattern of [`is_line`], but for the length. The characters that it leaves out are spelled out: not all readers of patterns mean the
/// same by `\s`.
pub(crate) const LINE: &str = r"^[^\u0000-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\u202a-\u202e\u2066-\u2069](?:[^\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]*[^\u0000-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\u202a-\u202e\u2066-\u2069])?$";

/// Whether it is 1 to `most` characters, shown as they are written ([`is_plain`]), and no spaces around them.
pub(crate) fn is_line(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.chars().count()) && text.trim() == text && is_plain(text)
}

/// Who may watch a stream.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Anybody, and it is listed.
    #[default]
    Public,
    /// Anybody who knows its address: it is not listed.
    Unlisted,
    /// Whoever has a token that lets them watch it.
    Token,
}

impl Visibility {
    /// As it is kept and said.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Unlisted => "unlisted",
            Self::Token => "token",
        }
    }

    /// Whether nobody watches, or is told of what is live, without a token.
    pub fn needs_token(self) -> bool {
        self == Self::Token
    }
}

impl fmt::Display for Visibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What somebody wrote for a setting and cannot be one. The text is for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// No such visibility.
    #[error("visibility is {0:?}: use public, unlisted or token")]
    Visibility(String),
    /// Not a title.
    #[error(
        "a title has 1 to {MAX_TITLE_CHARS} characters, no control characters, and no spaces around it"
    )]
    Title,
    /// A limit that is none.
    #[error("{key} is {value}: use {low} to {high}")]
    Range {
        /// Its name.
        key: &'static str,
        /// What it is.
        value: u64,
        /// The least.
        low: u64,
        /// The most.
        high: u64,
    },
}

impl FromStr for Visibility {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Public, Self::Unlisted, Self::Token]
            .into_iter()
            .find(|one| one.as_str() == text)
            .ok_or_else(|| SettingsError::Visibility(text.to_owned()))
    }
}

/// What a stream is called to people: 1 to [`MAX_TITLE_CHARS`] characters, no control characters, no spaces around them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Title(String);

impl Title {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a text is shown as it is written: no control characters, and none that turn the direction of what comes after it (Unicode
/// Standard Annex 9).
pub fn is_plain(text: &str) -> bool {
    let turns = |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !text.chars().any(|c| c.is_control() || turns(c))
}

impl FromStr for Title {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match is_line(text, MAX_TITLE_CHARS) {
            true => Ok(Self(text.to_owned())),
            false => Err(SettingsError::Title),
        }
    }
}

impl schemars::JsonSchema for Title {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Title".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_TITLE_CHARS,
            "pattern": LINE,
            "description": "What a stream is called to people: no control characters, no spaces around it.",
        })
    }
}

impl<'de> Deserialize<'de> for Title {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// A change of settings: what is not named stays, and `null` takes a title or a limit away. A JSON merge patch (RFC 7396) of an object
/// that has nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Change {
    /// Who may watch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub visibility: Option<Visibility>,
    /// What it is called.
    #[serde(deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub title: Option<Option<Title>>,
    /// What it may take.
    #[serde(skip_serializing_if = "LimitsChange::is_empty")]
    pub limits: LimitsChange,
}

/// A change of limits, as [`Change`].
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = LimitsChange::describe)]
pub struct LimitsChange {
    /// As in [`Limits`].
    #[serde(deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub max_bitrate_bps: Option<Option<u64>>,
    /// As in [`Limits`].
    #[serde(deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub max_height: Option<Option<u32>>,
    /// As in [`Limits`].
    #[serde(deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub max_fps: Option<Option<u32>>,
    /// As in [`Limits`].
    #[serde(deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub max_duration_s: Option<Option<u64>>,
    /// As in [`Limits`].
    #[serde(deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub max_viewers: Option<Option<u32>>,
}

/// Tells `null` from what is not there.
fn named<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

impl LimitsChange {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Writes the ranges into the schema.
    fn describe(schema: &mut schemars::Schema) {
        for (key, _, low, high) in Self::default().ranges() {
            let limit = schema.pointer_mut(&format!("/properties/{key}"));
            if let Some(limit) = limit.and_then(serde_json::Value::as_object_mut) {
                limit.insert("minimum".to_owned(), low.into());
                limit.insert("maximum".to_owned(), high.into());
            }
        }
    }

    fn ranges(&self) -> [(&'static str, Option<u64>, u64, u64); 5] {
        let number = |value: Option<Option<u32>>| value.flatten().map(u64::from);
        [
            (
                "max_bitrate_bps",
                self.max_bitrate_bps.flatten(),
                100_000,
                1_000_000_000,
            ),
            ("max_height", number(self.max_height), 64, 8_640),
            ("max_fps", number(self.max_fps), 1, 240),
            (
                "max_duration_s",
                self.max_duration_s.flatten(),
                1,
                31_536_000,
            ),
            ("max_viewers", number(self.max_viewers), 0, 10_000_000),
        ]
    }

    /// Looks for a limit that is beyond its range.
    ///
    /// # Errors
    /// [`SettingsError::Range`].
    pub fn check(&self) -> Result<(), SettingsError> {
        for (key, value, low, high) in self.ranges() {
            if let Some(value) = value.filter(|value| !(low..=high).contains(value)) {
                return Err(SettingsError::Range {
                    key,
                    value,
                    low,
                    high,
                });
            }
        }
        Ok(())
    }
}

impl Change {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Looks for what can be read and yet is beyond its range.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn check(&self) -> Result<(), SettingsError> {
        self.limits.check()
    }

    /// As it is remembered of a configuration: the same change has the same text. `None` where it says nothing.
    pub fn remembered(&self) -> Option<String> {
        match self.is_empty() {
            true => None,
            false => serde_json::to_string(self).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn change(text: &str) -> Change {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn null_takes_away_and_what_is_not_named_stays() {
        let changed = change(r#"{"title": null, "limits": {"max_fps": null, "max_height": 720}}"#);
        assert_eq!(changed.title, Some(None));
        assert_eq!(changed.visibility, None);
        assert_eq!(changed.limits.max_fps, Some(None));
        assert_eq!(changed.limits.max_height, Some(Some(720)));
        assert_eq!(changed.limits.max_viewers, None);
        // As a merge patch again.
        let text = serde_json::to_string(&changed.limits).unwrap();
        assert_eq!(text, r#"{"max_height":720,"max_fps":null}"#);
        assert!(change("{}").is_empty() && change(r#"{"limits": {}}"#).is_empty());
    }

    #[test]
    fn what_cannot_be_a_setting_is_refused() {
        for bad in [
            r#"{"visibility": "secret"}"#,
            r#"{"visibility": null, "name": "x"}"#,
            r#"{"title": ""}"#,
            r#"{"title": " x"}"#,
            "{\"title\": \"a\\nb\"}",
            r#"{"limits": {"max_smell": 1}}"#,
            r#"{"limits": {"max_fps": -1}}"#,
            r#"{"limits": {"max_fps": 4294967296}}"#,
            r#"{"limits": 5}"#,
        ] {
            assert!(serde_json::from_str::<Change>(bad).is_err(), "{bad}");
        }
        let long = "x".repeat(MAX_TITLE_CHARS + 1);
        assert_eq!(long.parse::<Title>(), Err(SettingsError::Title));
        assert!("é".repeat(MAX_TITLE_CHARS).parse::<Title>().is_ok());
        for (key, low, high) in [
            ("max_bitrate_bps", 99_999, 1_000_000_001_u64),
            ("max_height", 63, 8_641),
            ("max_fps", 0, 241),
        ] {
            for value in [low, high] {
                let changed = change(&format!(r#"{{"limits": {{"{key}": {value}}}}}"#));
                let refused = changed.check().unwrap_err().to_string();
                assert!(
                    refused.starts_with(&format!("{key} is {value}")),
                    "{refused}"
                );
            }
        }
        assert_eq!(change(r#"{"limits": {"max_viewers": 0}}"#).check(), Ok(()));
    }

    proptest::proptest! {
        #[test]
        fn what_has_the_form_that_is_told_is_a_title(text in LINE.trim_start_matches('^').trim_end_matches('$')) {
            let length = text.chars().count();
            proptest::prop_assert_eq!(text.parse::<Title>().is_ok(), length <= MAX_TITLE_CHARS);
        }
    }

    #[test]
    fn a_visibility_is_read_as_it_is_said() {
        for one in [Visibility::Public, Visibility::Unlisted, Visibility::Token] {
            assert_eq!(one.to_string().parse(), Ok(one));
            assert_eq!(serde_json::to_value(one).unwrap(), one.as_str());
        }
    }
}
