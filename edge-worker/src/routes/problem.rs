//! What goes wrong, as `application/problem+json` (RFC 9457).

use std::{borrow::Cow, time::Duration};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use protocol::{link_auth, token};
use serde::Serialize;

use super::{Caching, Route, headers};
use crate::{limits::Full, sessions::NotOneMore};

/// `Content-Type` of a problem.
pub const PROBLEM_TYPE: &str = "application/problem+json";

/// An error over HTTP: a stable `type`, a sentence for a person, no internals. Build one with the functions here, so that there is one
/// list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The status.
    pub status: StatusCode,
    /// `Allow` of a 405.
    pub allow: Option<&'static str>,
    /// `Retry-After` of a 429 or a 503, seconds.
    pub retry_after_s: Option<u32>,
    slug: &'static str,
    title: &'static str,
    detail: Cow<'static, str>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

impl Problem {
    fn new(
        status: StatusCode,
        slug: &'static str,
        title: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            allow: None,
            retry_after_s: None,
            slug,
            title,
            detail: detail.into(),
        }
    }

    /// 404: no such address, or what it named is gone.
    pub fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "Not found",
            "There is nothing at this address.",
        )
    }

    /// 404: the stream is not known.
    pub fn no_stream() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "no-stream",
            "No such stream",
            "This server has no stream of that name.",
        )
    }

    /// 404: the stream is known, but nothing can be played now.
    pub fn not_live() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not-live",
            "Not live",
            "The stream is not live now.",
        )
    }

    /// 400: a delivery directive that no player sends. `detail` says which.
    pub fn directive(detail: &'static str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "bad-directive",
            "Bad delivery directive",
            detail,
        )
    }

    /// 400: delivery directives that no player sends who has seen the playlist.
    pub fn absurd_directive() -> Self {
        Self::directive("the playlist is nowhere near that segment or part")
    }

    /// 400: a body that is not what the address takes.
    pub fn body(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "bad-body",
            "Bad request body",
            detail,
        )
    }

    /// 405 with the methods that are allowed.
    pub fn method(allow: &'static str) -> Self {
        let mut problem = Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method",
            "Method not allowed",
            format!("This address takes {allow}."),
        );
        problem.allow = Some(allow);
        problem
    }

    /// 414.
    pub fn uri_too_long() -> Self {
        Self::new(
            StatusCode::URI_TOO_LONG,
            "uri-too-long",
            "Address too long",
            "No address here is that long.",
        )
    }

    /// 413.
    pub fn too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "Too large",
            "The body is larger than this address takes.",
        )
    }

    /// 408: the body did not come in time.
    pub fn slow() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "slow",
            "Too slow",
            "The body did not come in time.",
        )
    }

    /// 416.
    pub fn range() -> Self {
        Self::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "range",
            "Range not satisfiable",
            "The range lies outside the object.",
        )
    }

    /// 401: the studio's secret, or the box's proof, is missing or wrong.
    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "Not authorized",
            "The secret is missing or wrong.",
        )
    }

    /// 401: the stream is there, and needs a token to be watched.
    pub fn token_needed() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "token-needed",
            "Token needed",
            "This stream can only be watched with a link that its owner has given out.",
        )
    }

    /// 403: a publisher may not publish. The text is for the encoder's user.
    pub fn refused(detail: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, "refused", "Refused", detail)
    }

    /// 403: the address is not let in.
    pub fn address() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "address",
            "Not from this address",
            "This is not open to your network address.",
        )
    }

    /// 403: a page of another site sent it.
    pub fn other_site() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "other-site",
            "Not from another site",
            "A page of another site made your browser send this; it is open to this server's own pages, and to programs.",
        )
    }

    /// 429: too many requests, or too many wrong keys, of one address, token or session.
    pub fn too_often(wait: Duration) -> Self {
        let mut problem = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too-often",
            "Too many requests",
            "Too many requests came from here; wait as long as Retry-After says.",
        );
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        problem.retry_after_s = Some(u32::try_from(seconds.max(1)).unwrap_or(u32::MAX));
        problem
    }

    /// 401 or 403: a token does not let its bearer in.
    pub fn token(refusal: &token::Refusal) -> Self {
        use token::Refusal::{Action, Address, Expired, Revoked, Stream};
        let (status, slug, title) = match refusal {
            // It is a good token, for something else.
            Stream | Action(_) | Address => (StatusCode::FORBIDDEN, "forbidden", "Not allowed"),
            // These two a player says in words of its own.
            Revoked => (StatusCode::FORBIDDEN, "revoked", "Taken back"),
            Expired => (StatusCode::UNAUTHORIZED, "expired", "Expired"),
            _ => (StatusCode::UNAUTHORIZED, "token", "Not a valid token"),
        };
        Self::new(status, slug, title, refusal.to_string())
    }

    /// 403: a webhook does not let somebody watch. The text is for them.
    pub fn denied(detail: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, "denied", "Not allowed", detail)
    }

    /// 401: all who watch this stream have a session, which begins at the multivariant playlist or the MPD.
    pub fn session_needed() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "session-needed",
            "A session is needed",
            "Playing this stream begins at its multivariant playlist or its MPD.",
        )
    }

    /// 503: a stream or its tenant has as many viewers as it may have.
    pub fn full(detail: String) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "full", "Full", detail)
    }

    /// 403 or 503: a token plays on as many devices as it is for, or a stream has as many viewers as it may have.
    pub fn not_one_more(refused: &NotOneMore) -> Self {
        let (status, slug, title) = match refused {
            NotOneMore::InUse(_) => (StatusCode::FORBIDDEN, "in-use", "In use elsewhere"),
            NotOneMore::Full => (StatusCode::SERVICE_UNAVAILABLE, "full", "Full"),
        };
        Self::new(status, slug, title, refused.to_string())
    }

    /// 503: this edge has no keys to sign tokens with.
    pub fn no_token_keys() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no-token-keys",
            "No token keys",
            "This edge has no keys to sign tokens with: set TOKEN_KEYS.",
        )
    }

    /// 403: the studio link of a stream does not change its limits.
    pub fn studio_limits() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "Not allowed",
            "The studio link changes title and visibility; limits take a token that manages the stream.",
        )
    }

    /// 409: a stream has as many watch links as it can have.
    pub fn too_many_links(most: usize) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "too-many-links",
            "Too many links",
            format!("A stream has {most} watch links at the most: delete one that is not needed."),
        )
    }

    /// 409: there are as many streams, or revocations, as there may be.
    pub fn too_many(full: &Full) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "too-many",
            "Too many",
            full.to_string(),
        )
    }

    /// 400: a token that would be no good one.
    pub fn mint(error: &token::MintError) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "bad-body",
            "Bad request body",
            error.to_string(),
        )
    }

    /// 409: an object is never written twice.
    pub fn exists() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "exists",
            "Exists already",
            "An object is never written twice.",
        )
    }

    /// 409: a stream of that name is there.
    pub fn stream_exists() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "stream-exists",
            "Exists already",
            "There is a stream of that name already.",
        )
    }

    /// 503: a blocked request waited for three target durations.
    pub fn timeout() -> Self {
        let mut problem = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "timeout",
            "Nothing new yet",
            "Nothing new came in time; ask again.",
        );
        problem.retry_after_s = Some(1);
        problem
    }

    /// 503: the store or the directory does not answer.
    pub fn unavailable() -> Self {
        let mut problem = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "Unavailable",
            "This cannot be answered right now; try again in a moment.",
        );
        problem.retry_after_s = Some(2);
        problem
    }

    /// 500.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Internal error",
            "Something went wrong here.",
        )
    }

    /// The `type`: a name, not an address.
    pub fn kind(&self) -> String {
        format!("urn:ghost-live:problem:{}", self.slug)
    }

    /// The headers of its answer to a route, but for the length.
    pub fn headers(&self, route: Option<&Route>) -> HeaderMap {
        let mut map = headers(route, self.status, Caching::Never);
        map.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_TYPE));
        if let Some(allow) = self.allow {
            map.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(seconds) = self.retry_after_s {
            map.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = match route.is_some_and(Route::is_internal) {
                true => link_auth::SCHEME,
                false => "Bearer",
            };
            map.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        }
        map
    }

    /// The body, JSON.
    pub fn body_json(&self) -> String {
        let body = Body {
            r#type: self.kind(),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
        };
        serde_json::to_string(&body).unwrap_or_default()
    }
}
