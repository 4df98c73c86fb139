//! Which address is what, and the headers of its answer: shared by both adapters.
//!
//! [`parse`] turns method, path and query into a [`Route`] or a [`Problem`]. [`headers`] gives what every answer of a class carries:
//! `Cache-Control` above all, CORS, and for pages the security headers. Every answer that is not 2xx is `no-store`, but for 304, which
//! repeats what its 200 said (RFC 9110 section 15.4.5).

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use protocol::{
    names::{BroadcastId, StreamName, TrackName},
    object_key::ObjectKey,
    token::Tag,
};

use crate::{live::Directives, playlist::PUBLIC, signaling, webhooks::event::EventId};

mod problem;
#[cfg(test)]
mod tests;

pub(crate) use problem::Body as ProblemBody;
pub use problem::{Kind, PROBLEM_TYPE, Problem};

/// The longest path and the longest query that are looked at, bytes.
pub const MAX_TARGET_BYTES: usize = 2_048;

/// A page; the bundle has it under [`Page::asset`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// `/`: what is live.
    Home,
    /// `/watch/{stream}`.
    Watch,
    /// `/embed/{stream}`: may be framed by other sites.
    Embed,
    /// `/studio/{stream}`.
    Studio,
}

impl Page {
    /// Its path in the bundle.
    pub fn asset(self) -> &'static str {
        match self {
            Self::Home => "index.html",
            Self::Watch => "watch.html",
            Self::Embed => "embed.html",
            Self::Studio => "studio.html",
        }
    }
}

/// The pattern of a [`Session`].
pub(crate) const SESSION: &str = "^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,511}$";

/// The name of a playback session in a path: `-` for a public stream, else 1 to 512 characters of `[A-Za-z0-9_.-]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Session(String);

impl Session {
    /// The session of every viewer of a public stream.
    pub fn public() -> Self {
        Self(PUBLIC.to_owned())
    }

    /// The path segment.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is that of every viewer of a public stream.
    pub fn is_public(&self) -> bool {
        self.0 == PUBLIC
    }

    /// Reads one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        let ok =
            (1..=512).contains(&text.len()) && text.bytes().all(safe) && !text.starts_with('.');
        ok.then(|| Self(text.to_owned()))
    }
}

/// What a viewer shows to be let in: a token at first, and with the MPD that is fetched again the session that it got.
#[derive(Clone, PartialEq, Eq)]
pub enum Pass {
    /// A token: `Authorization: Bearer`, or `?token=` where a player can set no header.
    Token(String),
    /// `?session=`.
    Session(Session),
}

impl Pass {
    /// What a request for a multivariant playlist or an MPD shows, if anything. The header goes first.
    ///
    /// # Errors
    /// 400 for a session that can be none.
    pub fn of(query: Option<&str>, bearer: Option<&str>) -> Result<Option<Self>, Problem> {
        if let Some(token) = bearer {
            return Ok(Some(Self::Token(token.to_owned())));
        }
        let value = |wanted: &str| pairs(query).find(|(name, _)| *name == wanted);
        if let Some((_, session)) = value("session") {
            let session = Session::parse(session);
            let malformed = || Problem::token(&protocol::token::Refusal::Malformed);
            return Ok(Some(Self::Session(session.ok_or_else(malformed)?)));
        }
        Ok(value("token").map(|(_, token)| Self::Token(token.to_owned())))
    }

    /// What a query shows, whatever that is.
    pub fn shown(query: Option<&str>) -> Option<&str> {
        let mut shown = pairs(query).filter(|(name, _)| matches!(*name, "token" | "session"));
        shown.next().map(|(_, value)| value)
    }

    /// The token, if it is one.
    pub fn token(&self) -> Option<&str> {
        match self {
            Self::Token(token) => Some(token),
            Self::Session(_) => None,
        }
    }
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Pass::Token(…)",
            Self::Session(_) => "Pass::Session(…)",
        })
    }
}

/// What of a broadcast is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackAddress {
    /// The stream.
    pub stream: StreamName,
    /// The broadcast.
    pub broadcast: BroadcastId,
    /// The playback session.
    pub session: Session,
    /// The track.
    pub track: TrackName,
}

/// A playback session by WebRTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhepAddress {
    /// The stream.
    pub stream: StreamName,
    /// The broadcast.
    pub broadcast: BroadcastId,
    /// The playback session.
    pub session: Session,
}

/// What a request asks for. Each is described in [`crate::openapi`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(strum::EnumDiscriminants))]
#[cfg_attr(test, strum_discriminants(derive(strum::EnumIter, Hash)))]
pub enum Route {
    /// A page.
    Page(Page, Option<StreamName>),
    /// A file of the bundle, path without the leading slash.
    Asset(String),
    /// `GET /live/{stream}/index.m3u8`.
    Multivariant(StreamName),
    /// `GET /live/{stream}/manifest.mpd`.
    Dash(StreamName),
    /// `GET /live/{stream}/{broadcast}/{session}/{track}/index.m3u8`.
    Media(TrackAddress, Directives),
    /// `GET /live/{stream}/{broadcast}/{session}/{track}/{msn}.m4s`.
    Segment(TrackAddress, u64),
    /// `GET /media/{key}`.
    Object(ObjectKey),
    /// `POST /whep/{stream}`: an offer.
    Whep(StreamName),
    /// `PATCH /whep/{stream}/{broadcast}/{session}`: candidates, or an ICE restart.
    WhepPatch(WhepAddress),
    /// `DELETE /whep/{stream}/{broadcast}/{session}`: the viewer leaves.
    WhepLeave(WhepAddress),
    /// `GET /api/streams`.
    Streams,
    /// `GET /api/streams/{stream}`.
    Stream(StreamName),
    /// `POST /api/streams`.
    CreateStream,
    /// `PATCH /api/streams/{stream}`.
    ChangeStream(StreamName),
    /// `DELETE /api/streams/{stream}`.
    DeleteStream(StreamName),
    /// `POST /api/streams/{stream}/keys`.
    NewKey(StreamName),
    /// `POST /api/streams/{stream}/beacon`.
    Beacon(StreamName),
    /// `GET /api/time`, with `?iso` as text instead of JSON.
    Time {
        /// As ISO 8601 text.
        iso: bool,
    },
    /// `GET /api/studio/{stream}`.
    Studio(StreamName),
    /// `POST /api/studio/{stream}/rotate-key`.
    RotateKey(StreamName),
    /// `POST /api/studio/{stream}/log-out`.
    LogOut(StreamName),
    /// `POST /api/tokens`.
    Tokens,
    /// `POST /api/revocations`.
    Revocations,
    /// `GET /api/streams/{stream}/sessions`.
    Sessions(StreamName),
    /// `DELETE /api/streams/{stream}/sessions/{id}`.
    EndSession(StreamName, Tag),
    /// `GET` and `POST /api/streams/{stream}/links`.
    Links(StreamName),
    /// `DELETE /api/streams/{stream}/links/{jti}`.
    DeleteLink(StreamName, String),
    /// `GET /api/webhooks/dead`.
    DeadLetters,
    /// `POST /api/webhooks/dead/{id}/resend`, and `POST /api/webhooks/dead/resend` for all of them.
    Resend(Option<EventId>),
    /// `GET /.well-known/jwks.json`.
    Jwks,
    /// `GET /api/openapi.json`: what all of these take and answer ([`crate::openapi`]).
    OpenApi,
    /// `GET /healthz`.
    Health,
    /// `GET /readyz`.
    Ready,
    /// `POST /internal/admit`.
    Admit,
    /// `POST /internal/broadcasts`.
    Open,
    /// `GET /internal/link/{broadcast}`, a WebSocket.
    Link(BroadcastId),
    /// `PUT /internal/media/{key}`.
    Put(ObjectKey),
    /// `PUT /internal/streams/{stream}`.
    PutStream(StreamName),
    /// `PUT /internal/streams/{stream}/settings`.
    Configure(StreamName),
    /// `DELETE /internal/media/{key}`.
    Delete(ObjectKey),
    /// `OPTIONS` of any public address: a CORS preflight.
    Preflight {
        /// Scripts of other sites may ask there.
        shared: bool,
        /// It is an address of WebRTC signaling.
        whep: bool,
    },
}

impl Route {
    /// Whether the link secret is needed, the box's proof against the edge.
    pub fn is_internal(&self) -> bool {
        matches!(
            self,
            Self::Admit
                | Self::Open
                | Self::Link(_)
                | Self::Put(_)
                | Self::Delete(_)
                | Self::PutStream(_)
                | Self::Configure(_)
        )
    }

    /// Whether it is WebRTC signaling.
    pub fn is_whep(&self) -> bool {
        matches!(
            self,
            Self::Whep(_)
                | Self::WhepPatch(_)
                | Self::WhepLeave(_)
                | Self::Preflight { whep: true, .. }
        )
    }

    /// Whether scripts of other sites may read the answer.
    pub fn is_shared(&self) -> bool {
        match self {
            Self::Multivariant(_)
            | Self::Dash(_)
            | Self::Media(..)
            | Self::Segment(..)
            | Self::Object(_)
            | Self::Whep(_)
            | Self::WhepPatch(_)
            | Self::WhepLeave(_) => true,
            Self::Streams
            | Self::Stream(_)
            | Self::Beacon(_)
            | Self::Time { .. }
            | Self::Jwks
            | Self::OpenApi
            | Self::Preflight { shared: true, .. } => true,
            // An embedded player's files are loaded as modules, which asks for CORS.
            Self::Asset(_) => true,
            _ => false,
        }
    }
}

/// What an address of WebRTC signaling takes by `POST` (W3C Linked Data Platform 1.0 section 7.1, named by RFC 9725 section 4.2).
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");

/// How long an answer may be kept, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caching {
    /// Never changes: an object by its key, a complete segment by its number, a file with a digest in its name.
    Immutable,
    /// The answer to a blocked playlist request at the end of the playlist: all who ask the same want the same; six target durations.
    Blocked,
    /// Changes with every part: shared caches may spare the origin for a second, browsers ask.
    Live,
    /// Asked for again each time.
    Revalidate,
    /// Kept by nobody.
    Never,
}

impl Caching {
    /// The value of `Cache-Control`.
    pub fn value(self) -> &'static str {
        match self {
            Self::Immutable => "public, max-age=31536000, immutable",
            Self::Blocked => "public, max-age=24",
            Self::Live => "public, max-age=0, s-maxage=1",
            Self::Revalidate => "no-cache",
            Self::Never => "no-store",
        }
    }
}

/// How an asset of the bundle may be kept: what the bundler put a digest into lies under `assets/` and never changes.
pub fn asset_caching(path: &str) -> Caching {
    match path.starts_with("assets/") {
        true => Caching::Immutable,
        false => Caching::Revalidate,
    }
}

/// What a page may do: load from this server only. Players need blob URLs for media and workers.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; \
     media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; manifest-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors ";

/// What any other answer may do that a browser shows by itself: nothing.
const OTHER_POLICY: &str =
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What every answer to the route carries; `caching` is what a 2xx would have.
pub fn headers(route: Option<&Route>, status: StatusCode, caching: Caching) -> HeaderMap {
    // Room for all that an answer gets: a map that grows is what a woken viewer would pay for.
    let mut map = HeaderMap::with_capacity(12);
    let mut set = |name: HeaderName, value: &'static str| {
        map.insert(name, HeaderValue::from_static(value));
    };
    let kept = status.is_success() || status == StatusCode::NOT_MODIFIED;
    let caching = if kept { caching } else { Caching::Never };
    set(header::CACHE_CONTROL, caching.value());
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    // Addresses carry session names, and the first one of a native player a token.
    set(header::REFERRER_POLICY, "no-referrer");
    if route.is_none_or(Route::is_shared) {
        set(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
        let exposed = match route.is_some_and(Route::is_whep) {
            true => "location, link, etag, accept-patch, accept-post, retry-after",
            false => "content-length, content-range, date, etag, retry-after",
        };
        set(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        set(HeaderName::from_static("timing-allow-origin"), "*");
        set(
            HeaderName::from_static("cross-origin-resource-policy"),
            "cross-origin",
        );
    } else if !matches!(route, Some(Route::Page(Page::Embed, _))) {
        set(
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        );
    }
    match route {
        Some(Route::Preflight { shared: true, whep }) => {
            let (methods, fields) = match whep {
                true => (
                    "POST, PATCH, DELETE, OPTIONS",
                    "authorization, content-type, if-match",
                ),
                false => (
                    "GET, HEAD, POST, OPTIONS",
                    "authorization, content-type, range",
                ),
            };
            set(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
            set(header::ACCESS_CONTROL_ALLOW_HEADERS, fields);
            if *whep {
                set(ACCEPT_POST, signaling::SDP);
            }
            set(header::ACCESS_CONTROL_MAX_AGE, "86400");
        }
        Some(Route::Page(page, _)) => {
            let framed = *page == Page::Embed;
            let ancestors = if framed { "*" } else { "'none'" };
            if let Ok(policy) = HeaderValue::from_str(&format!("{PAGE_POLICY}{ancestors}")) {
                map.insert(header::CONTENT_SECURITY_POLICY, policy);
            }
            let mut set = |name: HeaderName, value: &'static str| {
                map.insert(name, HeaderValue::from_static(value));
            };
            set(
                HeaderName::from_static("permissions-policy"),
                "autoplay=(self), fullscreen=(self), picture-in-picture=(self), camera=(), microphone=(), geolocation=()",
            );
            if !framed {
                set(header::X_FRAME_OPTIONS, "DENY");
                set(
                    HeaderName::from_static("cross-origin-opener-policy"),
                    "same-origin",
                );
            }
        }
        // What no browser shows is spared the bytes. A script's own policy is its workers', and the player's demuxes in one.
        Some(Route::Media(..) | Route::Segment(..) | Route::Object(_)) if kept => {}
        Some(Route::Asset(path)) if kept && (path.ends_with(".js") || path.ends_with(".mjs")) => {}
        _ => set(header::CONTENT_SECURITY_POLICY, OTHER_POLICY),
    }
    map
}

/// A path as a log line may have it: without the name of a playback session and without the random part of a media key, which let their
/// bearer watch. A query, which may have a token, is not given to it; where there is one in the text, it goes.
pub fn redacted(path: &str) -> String {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut segments: Vec<&str> = path.split('/').take(16).collect();
    let hidden = match segments.as_slice() {
        ["", "live", _, _, session, _, ..] if *session != "-" => Some(4),
        ["", "whep", _, _, session, ..] if *session != "-" => Some(4),
        ["", "media", ..] | ["", "internal", "media", ..] => segments.len().checked_sub(1),
        _ => None,
    };
    if let Some(segment) = hidden.and_then(|at| segments.get_mut(at)) {
        *segment = "…";
    }
    // No control characters, and no more than an address here has.
    let shown = segments.join("/");
    let shown = shown.chars().filter(|c| !c.is_control());
    shown.take(MAX_TARGET_BYTES).collect()
}

/// What a request asks for. `HEAD` is taken as `GET`; the adapter leaves out the body.
///
/// # Errors
/// A [`Problem`]: 400, 404 or 405.
pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Route, Problem> {
    if path.len() > MAX_TARGET_BYTES || query.is_some_and(|q| q.len() > MAX_TARGET_BYTES) {
        return Err(Problem::uri_too_long());
    }
    let internal = path.starts_with("/internal/");
    if method == Method::OPTIONS && !internal {
        let asked = find(path, query);
        let (shared, whep) = match &asked {
            Ok(route) => (route.is_shared(), route.is_whep()),
            Err(_) => (true, false),
        };
        return Ok(Route::Preflight { shared, whep });
    }
    let mut route = find(path, query)?;
    route = match (route, method) {
        (Route::Put(key), &Method::DELETE) => Route::Delete(key),
        (Route::WhepPatch(address), &Method::DELETE) => Route::WhepLeave(address),
        (Route::Streams, &Method::POST) => Route::CreateStream,
        (Route::Stream(name), &Method::PATCH) => Route::ChangeStream(name),
        (Route::Stream(name), &Method::DELETE) => Route::DeleteStream(name),
        (route, _) => route,
    };
    let allowed: &'static str = match &route {
        Route::Whep(_)
        | Route::Beacon(_)
        | Route::RotateKey(_)
        | Route::NewKey(_)
        | Route::LogOut(_)
        | Route::Tokens
        | Route::Revocations
        | Route::Resend(_) => "POST, OPTIONS",
        Route::WhepPatch(_) | Route::WhepLeave(_) => "PATCH, DELETE, OPTIONS",
        Route::Admit | Route::Open => "POST",
        Route::Links(_) | Route::Streams | Route::CreateStream => "GET, HEAD, POST, OPTIONS",
        Route::EndSession(..) | Route::DeleteLink(..) => "DELETE, OPTIONS",
        Route::Stream(_) | Route::ChangeStream(_) | Route::DeleteStream(_) => {
            "GET, HEAD, PATCH, DELETE, OPTIONS"
        }
        Route::PutStream(_) | Route::Configure(_) => "PUT",
        Route::Put(_) | Route::Delete(_) => "PUT, DELETE",
        // Boxes are no browsers: nothing internal answers a preflight.
        Route::Link(_) => "GET",
        _ => "GET, HEAD, OPTIONS",
    };
    let read = method == Method::HEAD && allowed.starts_with("GET");
    match read || allowed.split(", ").any(|name| name == method.as_str()) {
        true => Ok(route),
        false => Err(Problem::method(allowed)),
    }
}

fn find(path: &str, query: Option<&str>) -> Result<Route, Problem> {
    let not_found = Problem::not_found;
    let stream = |text: &str| text.parse::<StreamName>().map_err(|_| not_found());
    let Some(rest) = path.strip_prefix('/') else {
        return Err(not_found());
    };
    if let Some(key) = rest.strip_prefix("media/") {
        return key.parse().map(Route::Object).map_err(|_| not_found());
    }
    if let Some(key) = rest.strip_prefix("internal/media/") {
        return key.parse().map(Route::Put).map_err(|_| not_found());
    }
    let segments: Vec<&str> = rest.splitn(8, '/').collect();
    Ok(match segments.as_slice() {
        [""] => Route::Page(Page::Home, None),
        ["watch", name] => Route::Page(Page::Watch, Some(stream(name)?)),
        ["embed", name] => Route::Page(Page::Embed, Some(stream(name)?)),
        ["studio", name] => Route::Page(Page::Studio, Some(stream(name)?)),
        ["live", name, "index.m3u8"] => Route::Multivariant(stream(name)?),
        ["live", name, "manifest.mpd"] => Route::Dash(stream(name)?),
        ["live", name, broadcast, session, track, file] => {
            let address = TrackAddress {
                stream: stream(name)?,
                broadcast: broadcast.parse().map_err(|_| not_found())?,
                session: Session::parse(session).ok_or_else(not_found)?,
                track: track.parse().map_err(|_| not_found())?,
            };
            match file.strip_suffix(".m4s") {
                Some(msn) => Route::Segment(address, number(msn).ok_or_else(not_found)?),
                None if *file == "index.m3u8" => Route::Media(address, directives(query)?),
                None => return Err(not_found()),
            }
        }
        ["whep", name] => Route::Whep(stream(name)?),
        ["whep", name, broadcast, session] => Route::WhepPatch(WhepAddress {
            stream: stream(name)?,
            broadcast: broadcast.parse().map_err(|_| not_found())?,
            session: Session::parse(session).ok_or_else(not_found)?,
        }),
        ["api", "streams"] => Route::Streams,
        ["api", "streams", name] => Route::Stream(stream(name)?),
        ["api", "streams", name, "keys"] => Route::NewKey(stream(name)?),
        ["api", "streams", name, "beacon"] => Route::Beacon(stream(name)?),
        ["api", "time"] => Route::Time {
            iso: pairs(query).any(|(name, _)| name == "iso"),
        },
        ["api", "studio", name] => Route::Studio(stream(name)?),
        ["api", "studio", name, "rotate-key"] => Route::RotateKey(stream(name)?),
        ["api", "studio", name, "log-out"] => Route::LogOut(stream(name)?),
        ["api", "streams", name, "sessions"] => Route::Sessions(stream(name)?),
        ["api", "streams", name, "sessions", id] => {
            Route::EndSession(stream(name)?, id.parse().map_err(|_| not_found())?)
        }
        ["api", "streams", name, "links"] => Route::Links(stream(name)?),
        ["api", "streams", name, "links", jti] => {
            Route::DeleteLink(stream(name)?, link_id(jti).ok_or_else(not_found)?)
        }
        ["api", "tokens"] => Route::Tokens,
        ["api", "revocations"] => Route::Revocations,
        ["api", "openapi.json"] => Route::OpenApi,
        ["api", "webhooks", "dead"] => Route::DeadLetters,
        ["api", "webhooks", "dead", "resend"] => Route::Resend(None),
        ["api", "webhooks", "dead", id, "resend"] => {
            Route::Resend(Some(id.parse().map_err(|_| not_found())?))
        }
        [".well-known", "jwks.json"] => Route::Jwks,
        ["healthz"] => Route::Health,
        ["readyz"] => Route::Ready,
        ["internal", "admit"] => Route::Admit,
        ["internal", "broadcasts"] => Route::Open,
        ["internal", "streams", name] => Route::PutStream(stream(name)?),
        ["internal", "streams", name, "settings"] => Route::Configure(stream(name)?),
        ["internal", "link", broadcast] => Route::Link(broadcast.parse().map_err(|_| not_found())?),
        [
            "api" | "internal" | "live" | "watch" | "embed" | "studio" | "whep",
            ..,
        ] => return Err(not_found()),
        _ => Route::Asset(asset(rest).ok_or_else(not_found)?),
    })
}

/// Where somebody is sent who asked for that multivariant playlist or MPD, or offered there, and is to watch another stream.
pub fn elsewhere(route: &Route, stream: &StreamName, session: &str) -> String {
    let file = match route {
        Route::Whep(_) => return format!("{stream}?session={session}"),
        Route::Dash(_) => "manifest.mpd",
        _ => "index.m3u8",
    };
    format!("../{stream}/{file}?session={session}")
}

/// The id of a watch link's token: as this installation makes them.
fn link_id(text: &str) -> Option<String> {
    Some(text.parse::<Tag>().ok()?.to_string())
}

/// A path of the bundle, if it can be one: no empty, hidden or dotted segment, no percent-encoding.
fn asset(path: &str) -> Option<String> {
    let segment_ok = |segment: &str| {
        !segment.is_empty()
            && !segment.starts_with('.')
            && (segment.bytes())
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'@'))
    };
    (path.split('/').all(segment_ok) && !path.ends_with(".html")).then(|| path.to_owned())
}

fn pairs(query: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    let pairs = query.unwrap_or_default().split('&');
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// A decimal number without sign; leading zeros are let through as the players' own spelling.
fn number(text: &str) -> Option<u64> {
    let digits = (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// The delivery directives of a query. Other parameters are nobody's business.
fn directives(query: Option<&str>) -> Result<Directives, Problem> {
    let mut found = Directives::default();
    for (name, value) in pairs(query) {
        let slot = match name {
            "_HLS_msn" => &mut found.msn,
            "_HLS_part" => &mut found.part,
            "_HLS_skip" => {
                found.skip = match value {
                    "YES" | "v2" => true,
                    _ => return Err(Problem::directive("_HLS_skip is YES or v2")),
                };
                continue;
            }
            _ => continue,
        };
        if slot.is_some() {
            return Err(Problem::directive("a delivery directive is given twice"));
        }
        *slot = Some(number(value).ok_or_else(|| {
            Problem::directive("_HLS_msn and _HLS_part are whole numbers, not negative")
        })?);
    }
    match (found.msn, found.part) {
        (None, Some(_)) => Err(Problem::directive("_HLS_part needs _HLS_msn")),
        _ => Ok(found),
    }
}
