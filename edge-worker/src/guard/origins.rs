//! Which other sites may embed the player, and read with scripts what is public.
//!
//! Bodies are the same for all, and shared caches keep them: only the headers differ, and [`Origins::apply`] sets them on the way out, behind
//! every cache of ours. Caches of others are told by `Vary: origin`.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::{Deserialize, Serialize};

/// Why a text is not an origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an origin: write https://site.example, with the port where it is another than usual, or \"*\" alone for all"
)]
pub struct OriginError(String);

/// The sites: all of them, or those that are listed. This one always may.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub enum Origins {
    /// Every site.
    #[default]
    Any,
    /// These, as browsers write them in `Origin` (RFC 6454 section 6.1). None, where it is empty.
    Listed(Vec<String>),
}

const FRAMED_BY_ALL: &str = "frame-ancestors *";

impl Origins {
    /// Makes the headers of an answer those for the site that asks: the value of `Origin`.
    pub fn apply(&self, origin: Option<&str>, headers: &mut HeaderMap) {
        let Self::Listed(listed) = self else {
            return;
        };
        if headers
            .remove(header::ACCESS_CONTROL_ALLOW_ORIGIN)
            .is_some()
        {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
            let timing = HeaderName::from_static("timing-allow-origin");
            headers.remove(&timing);
            let asks = origin.and_then(|origin| listed.iter().find(|known| *known == origin));
            if let Some(Ok(origin)) = asks.map(|origin| HeaderValue::from_str(origin)) {
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
                headers.insert(timing, origin);
            }
        }
        let policy = headers.get(header::CONTENT_SECURITY_POLICY);
        let framed = policy
            .and_then(|policy| policy.to_str().ok())
            .and_then(|policy| policy.strip_suffix(FRAMED_BY_ALL));
        if let Some(rest) = framed {
            let policy = format!("{rest}frame-ancestors 'self' {}", listed.join(" "));
            if let Ok(policy) = HeaderValue::from_str(policy.trim_end()) {
                headers.insert(header::CONTENT_SECURITY_POLICY, policy);
            }
        }
    }
}

impl TryFrom<Vec<String>> for Origins {
    type Error = OriginError;
    fn try_from(texts: Vec<String>) -> Result<Self, OriginError> {
        if texts.len() == 1 && texts[0] == "*" {
            return Ok(Self::Any);
        }
        let origins = texts.into_iter().map(|text| match origin(&text) {
            Some(origin) => Ok(origin),
            None => Err(OriginError(text)),
        });
        origins.collect::<Result<_, _>>().map(Self::Listed)
    }
}

impl From<Origins> for Vec<String> {
    fn from(origins: Origins) -> Self {
        match origins {
            Origins::Any => vec!["*".to_owned()],
            Origins::Listed(listed) => listed,
        }
    }
}

/// An origin as browsers write it: lower case, without the scheme's usual port and without a slash at the end.
fn origin(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let (scheme, rest) = text.split_once("://")?;
    let usual = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => return None,
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let rest = rest.strip_suffix(usual).unwrap_or(rest);
    let (host, port) = match rest.strip_prefix('[') {
        Some(v6) => {
            let (v6, port) = v6.split_once(']')?;
            v6.parse::<std::net::Ipv6Addr>().ok()?;
            (format!("[{v6}]"), port)
        }
        None => {
            let (host, port) = rest.split_at(rest.find(':').unwrap_or(rest.len()));
            let label = |label: &str| {
                !label.is_empty()
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            };
            if !host.split('.').all(label) {
                return None;
            }
            (host.to_owned(), port)
        }
    };
    if let Some(number) = port.strip_prefix(':') {
        number.parse::<u16>().ok()?;
    } else if !port.is_empty() {
        return None;
    }
    Some(format!("{scheme}://{host}{port}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::StatusCode;

    use super::*;
    use crate::routes::{self, Caching, Page, Route};

    fn listed(texts: &[&str]) -> Origins {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        Origins::try_from(texts).unwrap()
    }

    fn headers(route: &Route) -> HeaderMap {
        routes::headers(Some(route), StatusCode::OK, Caching::Live)
    }

    #[test]
    fn origins_are_read_as_browsers_write_them_and_nothing_else_is_one() {
        for (text, origin) in [
            ("https://Site.Example", "https://site.example"),
            ("https://site.example/", "https://site.example"),
            ("https://site.example:443", "https://site.example"),
            ("https://site.example:8443", "https://site.example:8443"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://192.0.2.1:80", "http://192.0.2.1"),
            ("https://[2001:db8::1]:444", "https://[2001:db8::1]:444"),
        ] {
            assert_eq!(Vec::from(listed(&[text])), [origin], "{text}");
        }
        for text in [
            "",
            "*.example",
            "site.example",
            "https://",
            "https://*",
            "https://*.site.example",
            "https://site.example/path",
            "https://a b",
            "https://site.example; script-src *",
            "https://site.example:x",
            "https://site.example:99999",
            "ftp://site.example",
            "null",
            "https://u@site.example",
            "https://site..example",
            "https://[x]",
        ] {
            assert!(Origins::try_from(vec![text.to_owned()]).is_err(), "{text}");
        }
        assert_eq!(listed(&["*"]), Origins::Any);
        assert!(Origins::try_from(vec!["*".into(), "https://a.example".into()]).is_err());
    }

    #[test]
    fn a_listed_site_is_named_another_is_not_and_caches_are_told() {
        let origins = listed(&["https://a.example", "https://b.example"]);
        let route = Route::Streams;
        for (origin, allowed) in [
            (Some("https://a.example"), Some("https://a.example")),
            (Some("https://b.example"), Some("https://b.example")),
            (Some("https://c.example"), None),
            (Some("https://a.example.evil.example"), None),
            (Some("null"), None),
            (None, None),
        ] {
            let mut map = headers(&route);
            origins.apply(origin, &mut map);
            for name in ["access-control-allow-origin", "timing-allow-origin"] {
                let value = map.get(name).map(|value| value.to_str().unwrap());
                assert_eq!(value, allowed, "{name} for {origin:?}");
            }
            assert_eq!(map["vary"], "origin");
        }
    }

    #[test]
    fn what_a_cache_kept_for_one_site_is_right_for_the_next() {
        let origins = listed(&["https://a.example", "https://b.example"]);
        let mut map = headers(&Route::Streams);
        map.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        origins.apply(Some("https://a.example"), &mut map);
        let vary: Vec<_> = map.get_all(header::VARY).iter().collect();
        assert_eq!(vary, ["accept-encoding", "origin"]);
        origins.apply(Some("https://b.example"), &mut map);
        assert_eq!(
            map[header::ACCESS_CONTROL_ALLOW_ORIGIN],
            "https://b.example"
        );
    }

    #[test]
    fn the_embed_page_is_framed_by_the_listed_sites_and_by_this_one() {
        let policy = |origins: &Origins, page| {
            let mut map = headers(&Route::Page(page, None));
            origins.apply(None, &mut map);
            map[header::CONTENT_SECURITY_POLICY]
                .to_str()
                .unwrap()
                .to_owned()
        };
        let origins = listed(&["https://a.example", "https://b.example"]);
        assert!(
            policy(&origins, Page::Embed)
                .ends_with("frame-ancestors 'self' https://a.example https://b.example")
        );
        assert!(policy(&listed(&[]), Page::Embed).ends_with("frame-ancestors 'self'"));
        assert!(policy(&Origins::Any, Page::Embed).ends_with("frame-ancestors *"));
        for page in [Page::Home, Page::Watch, Page::Studio] {
            assert!(policy(&origins, page).ends_with("frame-ancestors 'none'"));
        }
    }

    #[test]
    fn with_every_site_allowed_nothing_changes() {
        let mut map = headers(&Route::Streams);
        Origins::Any.apply(Some("https://a.example"), &mut map);
        assert_eq!(map, headers(&Route::Streams));
    }
}
