//! The JSON Schemas of what is a text or a number with a form of its own, for the description of the HTTP surface (OpenAPI 3.1, JSON
//! Schema 2020-12). Everything else derives its schema from the very attributes by which it is read and written.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{
    names::{BroadcastId, StreamName, TrackName},
    object_key::ObjectKey,
    stream_key::StreamKey,
    token::{Action, Actions, Seconds, StreamPattern, Tag},
};

/// A stream: `[a-z0-9][a-z0-9_-]{0,63}`.
pub const STREAM: &str = "^[a-z0-9][a-z0-9_-]{0,63}$";
/// A name, the beginning of names and `*`, or `*`.
pub const STREAMS: &str = r"^(?:\*|[a-z0-9][a-z0-9_-]{0,63}\*?)$";
/// A track.
pub const TRACK: &str = "^[va]-[a-z0-9_-]{1,30}$";
/// 128 bits in base32: the last character has 3 of them.
pub const BROADCAST: &str = "^[a-z2-7]{25}[aeimquy4]$";
/// The file name of an object: an init, a part or a segment, with 96 random bits in base32, of which the last character has one.
pub const OBJECT: &str = r"^(?:init-(?:0|[1-9][0-9]{0,8})\.[a-z2-7]{19}[aq]\.mp4|(?:0|[1-9][0-9]{0,17})(?:\.(?:0|[1-9][0-9]{0,8}))?\.[a-z2-7]{19}[aq]\.m4s)$";
/// 96 bits in base64url.
pub const TAG: &str = "^[A-Za-z0-9_-]{16}$";
/// A static stream key.
pub const STREAM_KEY: &str = "^[a-z0-9-]{1,32}_[a-z2-7]{25}[aeimquy4]$";

macro_rules! text {
    ($type:ty, $name:literal, $pattern:expr, $description:literal) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $description })
            }
        }
    };
}

text!(StreamName, "StreamName", STREAM, "The name of a stream.");
text!(
    StreamPattern,
    "StreamPattern",
    STREAMS,
    "One stream by its name, those whose names begin so (`acme-*`), or all (`*`)."
);
text!(
    TrackName,
    "TrackName",
    TRACK,
    "A track of a broadcast: `v-…` has the picture, `a-…` the sound."
);
text!(
    BroadcastId,
    "BroadcastId",
    BROADCAST,
    "One go-live of a stream: 128 random bits in lower-case base32."
);
text!(Tag, "Id", TAG, "96 bits in base64url.");
text!(
    StreamKey,
    "StreamKey",
    STREAM_KEY,
    "A static stream key, as an encoder gives it."
);

impl JsonSchema for ObjectKey {
    fn schema_name() -> Cow<'static, str> {
        "ObjectKey".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "Where a media object lies: `{stream}/{broadcast}/{track}/{file}`.",
        })
    }
}

impl JsonSchema for Seconds {
    fn schema_name() -> Cow<'static, str> {
        "UnixSeconds".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "integer",
            "format": "int64",
            "minimum": 0,
            "maximum": 253_402_300_799_i64,
            "description": "Seconds since 1970 in UTC.",
        })
    }
}

impl JsonSchema for Actions {
    fn schema_name() -> Cow<'static, str> {
        "Actions".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let action = generator.subschema_for::<Action>();
        json_schema!({
            "description": "One action, or a list of at least one.",
            "anyOf": [action, { "type": "array", "items": action, "minItems": 1 }],
        })
    }
}

/// A network in CIDR form.
pub fn network(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "format": "cidr",
        "description": "Addresses, v4 or v6, as `192.0.2.0/24` or `2001:db8::/32`.",
    })
}

/// Networks in CIDR form.
pub fn networks(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": network(generator) })
}

#[cfg(test)]
mod tests {
    use std::{fmt::Display, str::FromStr};

    use proptest::{prelude::*, string::string_regex};

    use super::*;

    /// Whatever has the form that is told is taken, and is written as it was read.
    fn told_as_taken<T: FromStr + Display>(pattern: &str) {
        let texts = string_regex(pattern.trim_start_matches('^').trim_end_matches('$'));
        let Ok(texts) = texts else {
            panic!("{pattern} is no pattern");
        };
        proptest!(|(text in texts)| {
            match text.parse::<T>() {
                Ok(read) => prop_assert_eq!(read.to_string(), text),
                Err(_) => prop_assert!(false, "{text:?} is refused"),
            }
        });
    }

    #[test]
    fn what_has_the_form_that_is_told_is_taken() {
        told_as_taken::<StreamName>(STREAM);
        told_as_taken::<StreamPattern>(STREAMS);
        told_as_taken::<TrackName>(TRACK);
        told_as_taken::<BroadcastId>(BROADCAST);
        told_as_taken::<Tag>(TAG);
    }

    #[test]
    fn an_object_s_file_and_a_key_are_told_as_they_are_taken() {
        let Ok(files) = string_regex(OBJECT.trim_start_matches('^').trim_end_matches('$')) else {
            panic!("no pattern");
        };
        let folder = format!("demo/{}/v-source", BroadcastId::from_random([1; 16]));
        proptest!(|(file in files)| {
            prop_assert!(format!("{folder}/{file}").parse::<ObjectKey>().is_ok(), "{file}");
        });
        let Ok(keys) = string_regex(STREAM_KEY.trim_start_matches('^').trim_end_matches('$'))
        else {
            panic!("no pattern");
        };
        proptest!(|(key in keys)| {
            prop_assert!(key.parse::<StreamKey>().is_ok(), "{key}");
        });
    }
}
