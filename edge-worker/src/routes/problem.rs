//! What goes wrong, as `application/problem+json` (RFC 9457).

use std::{borrow::Cow, time::Duration};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use protocol::{link_auth, token};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Caching, Route, headers};
use crate::{limits::Full, sessions::NotOneMore};

/// When to come again where all places are taken, seconds: about as long as it takes a silent session to make room.
const FULL_RETRY_S: u32 = 10;
/// When to offer again where nothing is live, seconds.
const OFF_AIR_RETRY_S: u32 = 5;

/// `Content-Type` of a problem.
pub const PROBLEM_TYPE: &str = "application/problem+json";

/// What may be wrong: the last part of a problem's `type`. They are stable: clients tell problems apart by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(test, derive(strum::EnumIter))]
pub enum Kind {
    /// There is nothing at this address, or what it named is gone.
    NotFound,
    /// The stream is not known.
    NoStream,
    /// The event is no dead letter.
    NoDeadLetter,
    /// The stream is known, and cannot be played now.
    NotLive,
    /// A delivery directive that no player sends.
    BadDirective,
    /// The body is not what the address takes.
    BadBody,
    /// The address does not take this method: `Allow` says which.
    Method,
    /// No address here is that long.
    UriTooLong,
    /// The body is larger than the address takes.
    TooLarge,
    /// The body did not come in time.
    Slow,
    /// The range lies outside the object.
    Range,
    /// The secret is missing or wrong.
    Unauthorized,
    /// The stream needs a token to be watched.
    TokenNeeded,
    /// A publisher may not publish.
    Refused,
    /// The network address is not let in.
    Address,
    /// Too many requests, or too many wrong keys.
    TooOften,
    /// It is a good token, for something else.
    Forbidden,
    /// The token or the session was taken back.
    Revoked,
    /// The time of the token or the session is over.
    Expired,
    /// It is no good token.
    Token,
    /// A webhook does not let somebody watch.
    Denied,
    /// Playing begins at the multivariant playlist or the MPD.
    SessionNeeded,
    /// As many watch as may.
    Full,
    /// The token plays on as many devices as it is for.
    InUse,
    /// This edge has no keys to sign tokens with.
    NoTokenKeys,
    /// The stream has as many watch links as it can have.
    TooManyLinks,
    /// An object is never written twice.
    Exists,
    /// There is a stream of that name.
    StreamExists,
    /// Nothing new came in time.
    Timeout,
    /// This cannot be answered right now.
    Unavailable,
    /// Something went wrong here.
    Internal,
    /// A broadcast link is a WebSocket.
    Upgrade,
    /// The token that is asked for would be too long.
    TokenTooLong,
    /// A page of another site sent it.
    OtherSite,
    /// There are as many streams, or revocations, as there may be.
    TooMany,
    /// The body is of a type that the address does not take.
    MediaType,
    /// There is no codec that viewer and server both have.
    NoCommonCodec,
    /// This cannot be watched by WebRTC.
    NoWebrtc,
    /// There is no such session by WebRTC any more.
    NoSession,
    /// The box did not answer in time.
    NoAnswer,
    /// The ICE session that the request is about is not the one that there is.
    Precondition,
    /// An ICE restart without a precondition.
    PreconditionNeeded,
}

impl Kind {
    /// As it is written.
    pub fn slug(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::NoStream => "no-stream",
            Self::NoDeadLetter => "no-dead-letter",
            Self::NotLive => "not-live",
            Self::BadDirective => "bad-directive",
            Self::BadBody => "bad-body",
            Self::Method => "method",
            Self::UriTooLong => "uri-too-long",
            Self::TooLarge => "too-large",
            Self::Slow => "slow",
            Self::Range => "range",
            Self::Unauthorized => "unauthorized",
            Self::TokenNeeded => "token-needed",
            Self::Refused => "refused",
            Self::Address => "address",
            Self::TooOften => "too-often",
            Self::Forbidden => "forbidden",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Token => "token",
            Self::Denied => "denied",
            Self::SessionNeeded => "session-needed",
            Self::Full => "full",
            Self::InUse => "in-use",
            Self::NoTokenKeys => "no-token-keys",
            Self::TooManyLinks => "too-many-links",
            Self::Exists => "exists",
            Self::StreamExists => "stream-exists",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
            Self::Upgrade => "upgrade",
            Self::TokenTooLong => "token-too-long",
            Self::OtherSite => "other-site",
            Self::TooMany => "too-many",
            Self::MediaType => "media-type",
            Self::NoCommonCodec => "no-common-codec",
            Self::NoWebrtc => "no-webrtc",
            Self::NoSession => "no-session",
            Self::NoAnswer => "no-answer",
            Self::Precondition => "precondition",
            Self::PreconditionNeeded => "precondition-needed",
        }
    }

    /// The `type` of a problem: a name, not an address.
    pub fn name(self) -> String {
        format!("urn:ghost-live:problem:{}", self.slug())
    }
}

/// An error over HTTP: a stable `type`, a sentence for a person, no internals. Build one with the functions here, so that there is one
/// list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The status.
    pub status: StatusCode,
    /// `Allow` of a 405.
    pub allow: Option<&'static str>,
    /// `Retry-After`, seconds.
    pub retry_after_s: Option<u32>,
    kind: Kind,
    title: &'static str,
    detail: Cow<'static, str>,
}

/// The body of every answer that is no success (RFC 9457).
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(crate) struct Body<'a> {
    /// What is wrong: stable, for programs.
    r#type: String,
    /// The same in a few words.
    title: &'a str,
    /// The status of the answer.
    status: u16,
    /// A sentence for a person.
    detail: &'a str,
}

impl Problem {
    fn new(
        status: StatusCode,
        kind: Kind,
        title: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            allow: None,
            retry_after_s: None,
            kind,
            title,
            detail: detail.into(),
        }
    }

    fn again_in(self, seconds: u32) -> Self {
        Self {
            retry_after_s: Some(seconds),
            ..self
        }
    }

    /// 404: no such address, or what it named is gone.
    pub fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            Kind::NotFound,
            "Not found",
            "There is nothing at this address.",
        )
    }

    /// 404: the stream is not known.
    pub fn no_stream() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            Kind::NoStream,
            "No such stream",
            "This server has no stream of that name.",
        )
    }

    /// 404: the event is no dead letter, of the webhook that was named or of any.
    pub fn no_dead_letter() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            Kind::NoDeadLetter,
            "No such dead letter",
            "There is no event of that id that a webhook did not take: it may have been resent.",
        )
    }

    /// 404: the stream is known, but nothing can be played now.
    pub fn not_live() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            Kind::NotLive,
            "Not live",
            "The stream is not live now.",
        )
    }

    /// 404: as [`Self::not_live`], to somebody who offers, with when to come again.
    pub fn off_air() -> Self {
        Self::not_live().again_in(OFF_AIR_RETRY_S)
    }

    /// 415: the address takes bodies of that type.
    pub fn media_type(takes: &'static str) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Kind::MediaType,
            "Another type",
            format!("This address takes {takes}."),
        )
    }

    /// 406: there is no codec that viewer and server both have.
    pub fn no_common_codec(detail: String) -> Self {
        let status = StatusCode::NOT_ACCEPTABLE;
        Self::new(status, Kind::NoCommonCodec, "No common codec", detail)
    }

    /// 503: WebRTC is off, or there is nothing that it can send.
    pub fn no_webrtc(detail: String) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, Kind::NoWebrtc, "Not by WebRTC", detail).again_in(OFF_AIR_RETRY_S)
    }

    /// 503: the box cannot be asked at this moment.
    pub fn unlinked() -> Self {
        Self::unavailable().again_in(1)
    }

    /// 404: there is no such session by WebRTC any more.
    pub fn no_session() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            Kind::NoSession,
            "No such session",
            "There is no such session any more: offer anew.",
        )
    }

    /// 504: the box did not answer in time.
    pub fn no_answer() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            Kind::NoAnswer,
            "No answer",
            "The box that has this stream did not answer in time: play HLS, or try again.",
        )
        .again_in(2)
    }

    /// 412: the ICE session that the request is about is not the one that there is.
    pub fn precondition() -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            Kind::Precondition,
            "Another ICE session",
            "If-Match names another ICE session than there is now.",
        )
    }

    /// 428: an ICE restart without a precondition (RFC 6585 section 3).
    pub fn precondition_needed() -> Self {
        Self::new(
            StatusCode::PRECONDITION_REQUIRED,
            Kind::PreconditionNeeded,
            "A precondition is needed",
            "An ICE restart needs If-Match: \"*\", or the ETag of the session.",
        )
    }

    /// 400: a delivery directive that no player sends. `detail` says which.
    pub fn directive(detail: &'static str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            Kind::BadDirective,
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
            Kind::BadBody,
            "Bad request body",
            detail,
        )
    }

    /// 405 with the methods that are allowed.
    pub fn method(allow: &'static str) -> Self {
        let mut problem = Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            Kind::Method,
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
            Kind::UriTooLong,
            "Address too long",
            "No address here is that long.",
        )
    }

    /// 413.
    pub fn too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            Kind::TooLarge,
            "Too large",
            "The body is larger than this address takes.",
        )
    }

    /// 408: the body did not come in time.
    pub fn slow() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            Kind::Slow,
            "Too slow",
            "The body did not come in time.",
        )
    }

    /// 416.
    pub fn range() -> Self {
        Self::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            Kind::Range,
            "Range not satisfiable",
            "The range lies outside the object.",
        )
    }

    /// 401: the studio's secret, or the box's proof, is missing or wrong.
    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            Kind::Unauthorized,
            "Not authorized",
            "The secret is missing or wrong.",
        )
    }

    /// 401: the stream is there, and needs a token to be watched.
    pub fn token_needed() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            Kind::TokenNeeded,
            "Token needed",
            "This stream can only be watched with a link that its owner has given out.",
        )
    }

    /// 403: a publisher may not publish. The text is for the encoder's user.
    pub fn refused(detail: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, Kind::Refused, "Refused", detail)
    }

    /// 403: the address is not let in.
    pub fn address() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            Kind::Address,
            "Not from this address",
            "This is not open to your network address.",
        )
    }

    /// 403: a page of another site sent it.
    pub fn other_site() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            Kind::OtherSite,
            "Not from another site",
            "A page of another site made your browser send this; it is open to this server's own pages, and to programs.",
        )
    }

    /// 429: too many requests, or too many wrong keys, of one address, token or session.
    pub fn too_often(wait: Duration) -> Self {
        let mut problem = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            Kind::TooOften,
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
        let (status, kind, title) = match refusal {
            // It is a good token, for something else.
            Stream | Action(_) | Address => (StatusCode::FORBIDDEN, Kind::Forbidden, "Not allowed"),
            // These two a player says in words of its own.
            Revoked => (StatusCode::FORBIDDEN, Kind::Revoked, "Taken back"),
            Expired => (StatusCode::UNAUTHORIZED, Kind::Expired, "Expired"),
            _ => (StatusCode::UNAUTHORIZED, Kind::Token, "Not a valid token"),
        };
        Self::new(status, kind, title, refusal.to_string())
    }

    /// 403: a webhook does not let somebody watch. The text is for them.
    pub fn denied(detail: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, Kind::Denied, "Not allowed", detail)
    }

    /// 401: all who watch this stream have a session, which begins at the multivariant playlist or the MPD.
    pub fn session_needed() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            Kind::SessionNeeded,
            "A session is needed",
            "Playing this stream begins at its multivariant playlist or its MPD.",
        )
    }

    /// 503: a stream, its tenant or a box has as many viewers as it may have.
    pub fn full(detail: String) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Kind::Full, "Full", detail)
            .again_in(FULL_RETRY_S)
    }

    /// 403 or 503: a token plays on as many devices as it is for, or a stream has as many viewers as it may have.
    pub fn not_one_more(refused: &NotOneMore) -> Self {
        let (status, kind, title) = match refused {
            NotOneMore::InUse(_) => (StatusCode::FORBIDDEN, Kind::InUse, "In use elsewhere"),
            NotOneMore::Full => return Self::full(refused.to_string()),
        };
        Self::new(status, kind, title, refused.to_string())
    }

    /// 503: this edge has no keys to sign tokens with.
    pub fn no_token_keys() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            Kind::NoTokenKeys,
            "No token keys",
            "This edge has no keys to sign tokens with: set TOKEN_KEYS.",
        )
    }

    /// 403: the studio link of a stream does not change its limits.
    pub fn studio_limits() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            Kind::Forbidden,
            "Not allowed",
            "The studio link changes title and visibility; limits take a token that manages the stream.",
        )
    }

    /// 409: a stream has as many watch links as it can have.
    pub fn too_many_links(most: usize) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            Kind::TooManyLinks,
            "Too many links",
            format!("A stream has {most} watch links at the most: delete one that is not needed."),
        )
    }

    /// 409: there are as many streams, or revocations, as there may be.
    pub fn too_many(full: &Full) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            Kind::TooMany,
            "Too many",
            full.to_string(),
        )
    }

    /// 422: a token that would be too long; 400: one that would be no good.
    pub fn mint(error: &token::MintError) -> Self {
        match error {
            token::MintError::TooLong(..) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                Kind::TokenTooLong,
                "Token too long",
                error.to_string(),
            ),
            _ => Self::body(error.to_string()),
        }
    }

    /// 426: a broadcast link is a WebSocket.
    pub fn upgrade() -> Self {
        Self::new(
            StatusCode::UPGRADE_REQUIRED,
            Kind::Upgrade,
            "Upgrade required",
            "A broadcast link is a WebSocket.",
        )
    }

    /// 400: an object of no bytes.
    pub fn empty_object() -> Self {
        Self::body("An object has at least one byte.")
    }

    /// 409: an object is never written twice.
    pub fn exists() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            Kind::Exists,
            "Exists already",
            "An object is never written twice.",
        )
    }

    /// 409: a stream of that name is there.
    pub fn stream_exists() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            Kind::StreamExists,
            "Exists already",
            "There is a stream of that name already.",
        )
    }

    /// 503: a blocked request waited for three target durations.
    pub fn timeout() -> Self {
        let mut problem = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            Kind::Timeout,
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
            Kind::Unavailable,
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
            Kind::Internal,
            "Internal error",
            "Something went wrong here.",
        )
    }

    /// What is wrong.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What it says to a person: the description of its status in [`crate::openapi`].
    pub(crate) fn sentence(&self) -> String {
        format!("`{}`: {}", self.kind.slug(), self.detail)
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
        if self.status == StatusCode::UPGRADE_REQUIRED {
            map.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            map.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
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
            r#type: self.kind.name(),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
        };
        serde_json::to_string(&body).unwrap_or_default()
    }
}
