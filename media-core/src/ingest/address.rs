//! Key and stream out of what the encoder was given as server and stream key.
//!
//! | server | stream key | |
//! | --- | --- | --- |
//! | `rtmp://host/live` | `{key}` | the key says which stream |
//! | `rtmp://host/live` | `{stream}?key={key}` | |
//! | `rtmp://host/live?key={key}` | `{stream}`, or nothing | |
//!
//! The application (`live`) can be any.

use std::fmt;

use protocol::names::{NameError, StreamName};

use super::rtmp::PublishRequest;

/// The longest key that is asked about, bytes. An access token has under 400.
pub const MAX_KEY_BYTES: usize = 1_024;

/// What an encoder publishes with. Its `Debug` hides the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The key.
    pub key: String,
    /// The stream that the address names beside the key.
    pub stream: Option<StreamName>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

/// Why there is nothing to ask the edge about: a sentence for the encoder's user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("There is no stream key: paste the one of the studio page into the encoder.")]
    NoKey,
    /// Over [`MAX_KEY_BYTES`].
    #[error("The stream key is too long: paste the one of the studio page into the encoder.")]
    LongKey,
    /// The text beside the key is not a stream's name.
    #[error("{0}")]
    Stream(#[from] NameError),
}

/// Reads a request to publish.
///
/// # Errors
/// [`Error`] when there is no key, or what stands beside it is no stream's name.
pub fn credentials(request: &PublishRequest) -> Result<Credentials, Error> {
    let (name, name_query) = split(&request.name);
    let (_, app_query) = split(&request.app);
    let credentials = match key_in(name_query).or_else(|| key_in(app_query)) {
        Some(key) => Credentials {
            key,
            stream: match name {
                "" => None,
                name => Some(name.parse()?),
            },
        },
        None => Credentials {
            key: decoded(name),
            stream: None,
        },
    };
    match credentials.key.len() {
        0 => Err(Error::NoKey),
        1..=MAX_KEY_BYTES => Ok(credentials),
        _ => Err(Error::LongKey),
    }
}

/// The path without blanks and slashes around it, which are pasted along, and the query.
fn split(text: &str) -> (&str, &str) {
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    (path.trim().trim_matches('/'), query.trim())
}

fn key_in(query: &str) -> Option<String> {
    let value = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("key="))?;
    Some(decoded(value))
}

/// Undoes percent-encoding. Keys and tokens have no character that needs it, but tools encode them all the same.
fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, later)) = rest.split_first() {
        let hex = |byte: u8| char::from(byte).to_digit(16);
        match later {
            [high, low, later @ ..]
                if first == b'%' && hex(*high).is_some() && hex(*low).is_some() =>
            {
                let value = hex(*high).unwrap_or(0) << 4 | hex(*low).unwrap_or(0);
                out.push(value as u8);
                rest = later;
            }
            _ => {
                out.push(first);
                rest = later;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn read(app: &str, name: &str) -> Result<(String, Option<String>), Error> {
        let request = PublishRequest {
            app: app.into(),
            name: name.into(),
            encoder: None,
        };
        credentials(&request).map(|found| (found.key, found.stream.map(String::from)))
    }

    #[test]
    fn the_key_is_the_name_or_in_a_query() {
        let key = || "main_k3y".to_owned();
        let demo = || Some("demo".to_owned());
        assert_eq!(read("live", "main_k3y"), Ok((key(), None)));
        assert_eq!(read("live", " main_k3y/ "), Ok((key(), None)));
        assert_eq!(read("live", "demo?key=main_k3y"), Ok((key(), demo())));
        assert_eq!(
            read("live", "demo?a=b&key=main%5Fk3y&c"),
            Ok((key(), demo()))
        );
        assert_eq!(read("live?key=main_k3y", "demo"), Ok((key(), demo())));
        assert_eq!(read("live?key=main_k3y", ""), Ok((key(), None)));
        assert_eq!(read("live", "main_k3y?utm=x"), Ok((key(), None)));
    }

    #[test]
    fn what_is_no_key_and_no_stream_is_refused() {
        assert_eq!(read("live", ""), Err(Error::NoKey));
        assert_eq!(read("live", "demo?key="), Err(Error::NoKey));
        assert_eq!(read("live", &"x".repeat(1_025)), Err(Error::LongKey));
        assert!(matches!(read("live", "De mo?key=x"), Err(Error::Stream(_))));
        let shown = format!(
            "{:?}",
            Credentials {
                key: "secret".into(),
                stream: None
            }
        );
        assert!(!shown.contains("secret"), "{shown}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(app in ".{0,40}", name in ".{0,40}") {
            let _ = read(&app, &name);
        }
    }
}
