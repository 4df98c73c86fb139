//! Routes to answers.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    BoxError,
    body::{Body, HttpBody},
    extract::{FromRequestParts, ws::WebSocketUpgrade},
    http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use http_body_util::{Either, Full};
use protocol::{
    internal::{Admit, Open},
    link_auth,
    names::{Protocol, StreamName},
    object_key::ObjectKey,
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Edge, EdgeError,
    live::{Form, Live, SegmentSource},
    objects::{ObjectError, content_type},
    text::{Coding, Text},
    watch::{self, Entered, Entry, Viewer},
};
use crate::{
    access::{NotMinted, TakeBack, Wanted, WantedLink},
    api::{self, LinkList, MAX_OBJECT_BYTES, MAX_QUESTION_BYTES, SessionList, StreamList, Time},
    audience::MAX_BEACON_BYTES,
    directory::{Directory, bearer},
    guard::{Client, Origins, Shown},
    live::{Directives, Head, ObjectAnswer, Verdict},
    openapi,
    playlist::{self, DASH_TYPE, HLS_TYPE, iso8601},
    routes::{self, Caching, PROBLEM_TYPE, Page, Pass, Problem, Route, TrackAddress},
    signaling::Said,
    streams::{self, Bearer, Create, Created, Rotate, Rotated, Sight},
    webhooks::dead::{self, Resend, Resent},
};

/// How long a blocked request waits.
const PATIENCE: Duration = Duration::from_millis(Head::DEADLINE_MS);
/// A question or a beacon is a few kilobytes: its body must have come by then.
pub(super) const QUESTION: Duration = Duration::from_secs(10);
/// An object is megabytes, and comes over a box's uplink next to its other objects.
const UPLOAD: Duration = Duration::from_secs(60);

/// Gives the answer to a token of ACME's HTTP-01 challenge while it is being validated (RFC 8555 section 8.3).
pub type Http01 = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The body of an answer: bytes that are at hand, without a box around them, or what comes piece by piece.
pub(super) type Payload = Either<Full<Bytes>, Body>;

/// What one listener serves: all addresses of the edge, and those of ACME's challenge where port 80 reaches it.
#[derive(Clone)]
pub(super) struct Site {
    pub(super) edge: Edge,
    pub(super) http01: Option<Http01>,
    /// The other end of the connection.
    pub(super) peer: IpAddr,
    /// `Strict-Transport-Security`, where the connection is encrypted.
    pub(super) hsts: Option<HeaderValue>,
}

impl Site {
    /// Answers a request. What may wait keeps as little of it as it can, and the rest is boxed, so that a waiter does not pay for its size.
    pub(super) async fn answer<B>(self, request: Request<B>) -> Response<Payload>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let head = request.method() == Method::HEAD;
        let path = request.uri().path();
        if let Some(response) = self.challenge(path) {
            return response;
        }
        let route = routes::parse(request.method(), path, request.uri().query());
        let edge = self.edge;
        let client = edge.guard().client(self.peer, request.headers());
        let entered = edge.guard().enter(
            route.as_ref().ok(),
            client,
            &shown(request.uri(), request.headers()),
            edge.uptime(),
        );
        // With every site allowed nobody is asked who it is.
        let origin = match edge.config().embed_origins {
            Origins::Any => None,
            Origins::Listed(_) => {
                Some((edge.clone(), request.headers().get(header::ORIGIN).cloned()))
            }
        };
        let answer = match (entered, &route) {
            (Err(problem), _) => Err(problem),
            (Ok(()), Ok(Route::Media(address, directives))) => {
                let coding = Coding::negotiate(request.headers());
                drop(request);
                edge.media(address, directives, client.address, coding, PATIENCE)
                    .await
            }
            (Ok(()), Ok(Route::Object(key))) => {
                let conditions = Conditions::read(request.headers());
                drop(request);
                edge.object(key, &conditions).await
            }
            (Ok(()), Ok(route)) => Box::pin(edge.rest(route, client, request.map(Body::new))).await,
            (Ok(()), Err(problem)) => Err(problem.clone()),
        };
        let route = route.as_ref().ok();
        let mut response = match answer {
            Ok(answer) => answer.response(route),
            Err(problem) => problem_response(route, &problem),
        };
        if let Some((edge, origin)) = &origin {
            let origin = origin.as_ref().and_then(|origin| origin.to_str().ok());
            let origins = &edge.config().embed_origins;
            origins.apply(origin, response.headers_mut());
        }
        // Said once it is remembered: what comes three times a second is spared the bytes.
        if let Some(hsts) = self.hsts
            && !matches!(route, Some(Route::Media(..) | Route::Object(_)))
        {
            let headers = response.headers_mut();
            headers.insert(header::STRICT_TRANSPORT_SECURITY, hsts);
        }
        if head {
            *response.body_mut() = Payload::Left(Full::default());
        }
        response
    }

    fn challenge(&self, path: &str) -> Option<Response<Payload>> {
        let http01 = self.http01.as_ref()?;
        let token = path.strip_prefix("/.well-known/acme-challenge/")?;
        let mut response = Response::new(Payload::Left(Full::default()));
        match http01(token) {
            Some(answer) => *response.body_mut() = Payload::Left(Full::from(answer)),
            None => *response.status_mut() = StatusCode::NOT_FOUND,
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        Some(response)
    }
}

/// What a request for an object says of it.
#[derive(Debug, Default)]
struct Conditions {
    if_none_match: Option<HeaderValue>,
    if_range: Option<HeaderValue>,
    range: Option<HeaderValue>,
}

impl Conditions {
    fn read(headers: &HeaderMap) -> Self {
        let field = |name| headers.get(name).cloned();
        Self {
            if_none_match: field(header::IF_NONE_MATCH),
            if_range: field(header::IF_RANGE),
            range: field(header::RANGE),
        }
    }
}

/// What a 2xx is made of.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    caching: Caching,
    content_type: &'static str,
    headers: HeaderMap,
    /// How the body is coded, where that was negotiated.
    coding: Option<Coding>,
    body: Payload,
    /// Bytes, if known.
    size: Option<u64>,
}

impl Answer {
    fn new(caching: Caching, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let body: Bytes = body.into();
        Self {
            status: StatusCode::OK,
            caching,
            content_type,
            headers: HeaderMap::new(),
            coding: None,
            size: Some(body.len() as u64),
            body: Payload::Left(Full::new(body)),
        }
    }

    /// What signaling says.
    pub(super) fn said(said: Said) -> Self {
        let mut headers = HeaderMap::new();
        for (name, value) in said.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.append(name, value);
            }
        }
        Self {
            status: said.status,
            headers,
            size: (said.status != StatusCode::NO_CONTENT).then_some(said.body.len() as u64),
            ..Self::new(Caching::Never, said.content_type, said.body)
        }
    }

    fn empty(status: StatusCode) -> Self {
        Self {
            status,
            size: None,
            ..Self::new(Caching::Never, "", Bytes::new())
        }
    }

    fn json(value: &impl serde::Serialize) -> Result<Self, Problem> {
        let body = serde_json::to_vec(value).map_err(|_| Problem::internal())?;
        Ok(Self::new(Caching::Never, "application/json", body))
    }

    fn text(text: &Text, caching: Caching, content_type: &'static str, accepted: Coding) -> Self {
        let (body, coding) = text.coded(accepted);
        Self {
            coding: Some(coding),
            ..Self::new(caching, content_type, body)
        }
    }

    fn response(self, route: Option<&Route>) -> Response<Payload> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        *headers = routes::headers(route, self.status, self.caching);
        headers.extend(self.headers);
        if let Some(coding) = self.coding {
            headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
            if let Some(name) = coding.name() {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
            }
        }
        if !self.content_type.is_empty() {
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static(self.content_type),
            );
        }
        if let Some(size) = self.size {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
        }
        response
    }
}

fn problem_response(route: Option<&Route>, problem: &Problem) -> Response<Payload> {
    let body = Bytes::from(problem.body_json());
    let mut response = Response::new(Payload::Left(Full::new(body.clone())));
    *response.status_mut() = problem.status;
    let headers = response.headers_mut();
    *headers = problem.headers(route);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    response
}

/// Why a stream was not made, changed or deleted.
fn managing_problem(error: EdgeError) -> Problem {
    match error {
        EdgeError::Refused(refusal) => streams::unkept(&refusal),
        EdgeError::Full(full) => Problem::too_many(&full),
        error => {
            tracing::error!(%error, "a stream could not be made, changed or deleted");
            Problem::unavailable()
        }
    }
}

fn object_problem(error: ObjectError) -> Problem {
    match error {
        ObjectError::Absent => Problem::not_found(),
        ObjectError::Exists => Problem::exists(),
        ObjectError::Store(error) => {
            tracing::error!(%error, "the object store failed");
            Problem::unavailable()
        }
    }
}

/// Reads a body of at most `limit` bytes that has come whole within `patience`: a slow one would hold its connection.
pub(super) async fn read(body: Body, limit: usize, patience: Duration) -> Result<Bytes, Problem> {
    if body.size_hint().lower() > limit as u64 {
        return Err(Problem::too_large());
    }
    let whole = async {
        let mut read = BytesMut::new();
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| Problem::body("The body was cut off."))?;
            if read.len() + chunk.len() > limit {
                return Err(Problem::too_large());
            }
            read.extend_from_slice(&chunk);
        }
        Ok(read.freeze())
    };
    timeout(patience, whole)
        .await
        .unwrap_or_else(|_| Err(Problem::slow()))
}

async fn read_json<T: DeserializeOwned>(body: Body, limit: usize) -> Result<T, Problem> {
    api::read(&read(body, limit, QUESTION).await?)
}

fn asset_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "wasm" => "application/wasm",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

impl Edge {
    // ---- playlists and media

    /// The track of an address, and who asks for it, if they may.
    fn find(
        &self,
        address: &TrackAddress,
        peer: IpAddr,
    ) -> Result<(Arc<Live>, usize, Viewer), Problem> {
        let live = (self.live(&address.broadcast))
            .filter(|live| live.stream == address.stream)
            .ok_or_else(Problem::not_found)?;
        let track = live.track(&address.track).ok_or_else(Problem::not_found)?;
        let viewer = self.viewer(&address.stream, &address.session, peer)?;
        Ok((live, track, viewer))
    }

    pub(super) async fn media(
        &self,
        address: &TrackAddress,
        directives: &Directives,
        peer: IpAddr,
        coding: Coding,
        patience: Duration,
    ) -> Result<Answer, Problem> {
        let (live, track, viewer) = self.find(address, peer)?;
        let mut feed = live.feed(track).ok_or_else(Problem::not_found)?;
        let deadline = Instant::now() + patience;
        let view = loop {
            let view = feed.borrow_and_update().clone();
            let head = view.head.ok_or_else(Problem::not_found)?;
            match head.verdict(directives) {
                Verdict::Ready => break view,
                Verdict::Absurd => {
                    return Err(Problem::absurd_directive());
                }
                Verdict::Wait if view.closing => return Err(Problem::unavailable()),
                Verdict::Wait => match timeout_at(deadline, feed.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Err(Problem::not_found()),
                    Err(_) => return Err(Problem::timeout()),
                },
            }
        };
        self.still(&address.stream, &viewer)?;
        let caching = match view.head {
            Some(head) if head.is_at_the_end(directives) && !head.ended => Caching::Blocked,
            _ => Caching::Live,
        };
        let form = if directives.skip {
            Form::Delta
        } else {
            Form::Full
        };
        let text = live.media(&view, track, form);
        Ok(Answer::text(&text, caching, HLS_TYPE, coding))
    }

    async fn object(&self, key: &ObjectKey, asked: &Conditions) -> Result<Answer, Problem> {
        let live = self.live(&key.broadcast).ok_or_else(Problem::not_found)?;
        if let ObjectAnswer::Hinted(track) = live.object(key) {
            let mut feed = live.feed(track).ok_or_else(Problem::not_found)?;
            let deadline = Instant::now() + PATIENCE;
            loop {
                let closing = feed.borrow_and_update().closing;
                match live.object(key) {
                    ObjectAnswer::Hinted(_) if closing => return Err(Problem::unavailable()),
                    ObjectAnswer::Hinted(_) => {}
                    _ => break,
                }
                match timeout_at(deadline, feed.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Err(Problem::not_found()),
                    Err(_) => return Err(Problem::timeout()),
                }
            }
        }
        if live.object(key) != ObjectAnswer::Announced {
            return Err(Problem::not_found());
        }
        let etag = format!("\"{}\"", key.tag);
        if matches_etag(asked.if_none_match.as_ref(), &etag) {
            return Ok(tagged(
                Answer {
                    caching: Caching::Immutable,
                    ..Answer::empty(StatusCode::NOT_MODIFIED)
                },
                &etag,
            ));
        }
        let bytes = self.objects().get(key).await.map_err(object_problem)?;
        let range = asked
            .range
            .as_ref()
            .filter(|_| asked.if_range.is_none() || matches_etag(asked.if_range.as_ref(), &etag));
        let mut answer = match range.map_or(Range::Whole, |value| Range::read(value, bytes.len())) {
            Range::Whole => Answer::new(Caching::Immutable, content_type(key), bytes),
            Range::Some(from, to) => {
                let said = format!("bytes {from}-{}/{}", to - 1, bytes.len());
                let mut answer =
                    Answer::new(Caching::Immutable, content_type(key), bytes.slice(from..to));
                answer.status = StatusCode::PARTIAL_CONTENT;
                insert(&mut answer.headers, header::CONTENT_RANGE, &said);
                answer
            }
            Range::Outside => return Err(Problem::range()),
        };
        answer
            .headers
            .insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        Ok(tagged(answer, &etag))
    }

    /// A segment by number: whole when it is complete, else part by part as they come.
    async fn segment(
        &self,
        address: &TrackAddress,
        msn: u64,
        peer: IpAddr,
    ) -> Result<Answer, Problem> {
        let (live, track, viewer) = self.find(address, peer)?;
        let mut feed = live.feed(track).ok_or_else(Problem::not_found)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let closing = feed.borrow_and_update().closing;
            match live.segment(track, msn, 0) {
                SegmentSource::Complete(key) => {
                    let bytes = self.objects().get(&key).await.map_err(object_problem)?;
                    return Ok(Answer::new(Caching::Immutable, content_type(&key), bytes));
                }
                SegmentSource::Running(_) => break,
                SegmentSource::Next if closing => return Err(Problem::unavailable()),
                SegmentSource::Next => {}
                SegmentSource::Rest(_) | SegmentSource::Unknown => return Err(Problem::not_found()),
            }
            match timeout_at(deadline, feed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Problem::not_found()),
                Err(_) => return Err(Problem::timeout()),
            }
            self.still(&address.stream, &viewer)?;
        }
        let kind = if address.track.is_video() {
            "video/mp4"
        } else {
            "audio/mp4"
        };
        let parts = self.clone().running(live, track, msn, viewer);
        Ok(Answer {
            body: Payload::Right(Body::from_stream(parts)),
            size: None,
            // Only a complete one may be kept.
            ..Answer::new(Caching::Never, kind, Bytes::new())
        })
    }

    /// The parts of a running segment as they come. An error cuts the answer off, so that nobody takes it for whole.
    pub(super) fn running(
        self,
        live: Arc<Live>,
        track: usize,
        msn: u64,
        viewer: Viewer,
    ) -> impl Stream<Item = Result<Bytes, ObjectError>> + Send {
        let feed = live.feed(track);
        stream::try_unfold(
            Some((self, live, viewer, feed, 0_usize)),
            move |more| async move {
                let Some((edge, live, viewer, mut feed, have)) = more else {
                    return Ok(None);
                };
                let Some(watched) = feed.as_mut() else {
                    return Err(ObjectError::Absent);
                };
                let deadline = Instant::now() + PATIENCE;
                loop {
                    let closing = watched.borrow_and_update().closing;
                    // A session that ended gets no part that came after.
                    if edge.still(&live.stream, &viewer).is_err() {
                        return Err(ObjectError::Absent);
                    }
                    let next = match live.segment(track, msn, have) {
                        SegmentSource::Running(next) => next,
                        // Completed before anything of it was sent.
                        SegmentSource::Complete(key) => {
                            return Ok(Some((edge.objects().get(&key).await?, None)));
                        }
                        SegmentSource::Rest(rest) if rest.is_empty() => return Ok(None),
                        SegmentSource::Rest(mut rest) => Some(rest.swap_remove(0)),
                        _ => return Err(ObjectError::Absent),
                    };
                    if let Some(key) = next {
                        let bytes = edge.objects().get(&key).await?;
                        return Ok(Some((bytes, Some((edge, live, viewer, feed, have + 1)))));
                    }
                    let more = timeout_at(deadline, watched.changed()).await;
                    if closing || !matches!(more, Ok(Ok(()))) {
                        return Err(ObjectError::Absent);
                    }
                }
            },
        )
    }

    // ---- the rest of what viewers ask

    /// What neither waits nor is asked often.
    async fn rest(
        &self,
        route: &Route,
        client: Client,
        request: Request<Body>,
    ) -> Result<Answer, Problem> {
        let (mut parts, body) = request.into_parts();
        let answer = if route.is_internal() {
            self.internal(route, &mut parts, body).await
        } else {
            self.public(route, client, &parts, body).await
        };
        if let Err(problem) = &answer {
            let (shown, now) = (shown(&parts.uri, &parts.headers), self.uptime());
            self.guard()
                .answered(route, client, &shown, problem.status, now);
        }
        answer
    }

    async fn public(
        &self,
        route: &Route,
        client: Client,
        parts: &Parts,
        body: Body,
    ) -> Result<Answer, Problem> {
        let (coding, peer) = (Coding::negotiate(&parts.headers), client.address);
        match route {
            Route::Page(page, _) => self.page(*page, &parts.headers),
            Route::Asset(path) => self.file(path, routes::asset_caching(path), &parts.headers),
            Route::Multivariant(stream) | Route::Dash(stream) => {
                let given = bearer(authorization(&parts.headers));
                let pass = Pass::of(parts.uri.query(), given)?;
                let token = pass.as_ref().and_then(Pass::token);
                let entry = self.entry(stream, pass.clone(), peer)?;
                if let Entry::Begins(..) = entry {
                    self.guard().begins(client, token, self.uptime())?;
                }
                let live = self.playable(stream)?;
                let (text, protocol, kind) = match route {
                    Route::Dash(_) => (live.dash(), Protocol::Dash, DASH_TYPE),
                    _ => (live.multivariant(), Protocol::Hls, HLS_TYPE),
                };
                let text = text.ok_or_else(Problem::not_live)?;
                match self.enter(stream, entry, protocol, peer).await? {
                    Entered::Anybody => Ok(Answer::text(&text, Caching::Live, kind, coding)),
                    Entered::Session(session) => {
                        let shared = String::from_utf8_lossy(text.plain());
                        let body = playlist::personal(&shared, &session);
                        Ok(Answer::new(Caching::Never, kind, body))
                    }
                    Entered::Elsewhere(other, session) => {
                        let location = routes::elsewhere(route, &other, &session);
                        let mut answer = Answer::empty(StatusCode::TEMPORARY_REDIRECT);
                        insert(&mut answer.headers, header::LOCATION, &location);
                        Ok(answer)
                    }
                }
            }
            Route::Whep(_) | Route::WhepPatch(_) | Route::WhepLeave(_) => self
                .whep(route, client, parts, body)
                .await
                .map(Answer::said),
            Route::Segment(address, msn) => self.segment(address, *msn, peer).await,
            Route::Streams => {
                let directory = self.directory();
                let bearer = self.bearer(&parts.headers, peer, &directory)?;
                let streams = self.listed(&directory, bearer.as_ref());
                Answer::json(&StreamList { streams })
            }
            Route::Stream(name) => {
                let given = authorization(&parts.headers);
                let directory = self.directory();
                let owner = self.opens_studio(name, given);
                // A token that is no good is told so, and counted, whether there is such a stream or not.
                let bearer = match owner {
                    true => None,
                    false => self.bearer(&parts.headers, peer, &directory)?,
                };
                let stream = directory.stream(name).ok_or_else(Problem::no_stream)?;
                if owner {
                    return Answer::json(&self.told(stream, true));
                }
                match Bearer::sight(bearer.as_ref(), name, stream.visibility) {
                    Sight::Managed => Answer::json(&self.told(stream, true)),
                    Sight::Watched => Answer::json(&self.told(stream, false)),
                    Sight::None => Err(Bearer::kept_from(bearer.as_ref(), name)),
                }
            }
            Route::CreateStream => {
                let directory = self.directory();
                let bearer = self.bearer(&parts.headers, peer, &directory)?;
                let bearer = bearer.ok_or_else(Problem::unauthorized)?;
                let create: Create = read_json(body, MAX_QUESTION_BYTES).await?;
                let tenants = &self.config().tenants;
                let streams = directory.streams().map(|stream| &stream.name);
                bearer.may_make(&create.name, tenants, streams)?;
                let (name, settings) = (&create.name, create.settings()?);
                let made = self.create_stream(name, settings, bearer.manages()).await;
                let made = made.map_err(managing_problem)?;
                Ok(Answer {
                    status: StatusCode::CREATED,
                    ..Answer::json(&Created::from(&made))?
                })
            }
            Route::ChangeStream(name) => {
                let owner = self.opens_studio(name, authorization(&parts.headers));
                if !owner {
                    self.may_change(name, &parts.headers, peer)?;
                }
                let body = read(body, MAX_QUESTION_BYTES, QUESTION).await?;
                let change = api::read_change(&body)?;
                if owner && !change.limits.is_empty() {
                    return Err(Problem::studio_limits());
                }
                let done = self.change_stream(name, change).await;
                done.map_err(managing_problem)?;
                let stream = self.stream(name).ok_or_else(Problem::no_stream)?;
                Answer::json(&self.told(&stream, true))
            }
            Route::DeleteStream(name) => {
                self.may_change(name, &parts.headers, peer)?;
                let done = self.delete_stream(name).await;
                done.map_err(managing_problem)?;
                Ok(Answer::empty(StatusCode::NO_CONTENT))
            }
            Route::NewKey(name) => {
                self.may_change(name, &parts.headers, peer)?;
                let body = read(body, MAX_QUESTION_BYTES, QUESTION).await?;
                let until = Rotate::read(&body)?.old_until_unix_ms(super::wall_unix_ms());
                let key = self.new_key(name, until).await.map_err(managing_problem)?;
                let key = key.ok_or_else(Problem::no_stream)?;
                Answer::json(&Rotated::new(key, until))
            }
            Route::Beacon(stream) => {
                if !self.knows(stream) {
                    return Err(Problem::no_stream());
                }
                let beacon = api::read_beacon(&read(body, MAX_BEACON_BYTES, QUESTION).await?)?;
                match &beacon.session {
                    // Its requests count a session.
                    Some(session) if beacon.left => self.left(stream, session, peer),
                    // Nor does one where all who watch have a session.
                    None if self.counts_beacons(stream) => self.beacon(stream, &beacon),
                    _ => {}
                }
                Ok(Answer::empty(StatusCode::NO_CONTENT))
            }
            Route::Time { iso } => {
                let now = self.timeline_unix_ms();
                match iso {
                    true => Ok(Answer::new(
                        Caching::Never,
                        "text/plain; charset=utf-8",
                        iso8601(now),
                    )),
                    false => Answer::json(&Time { unix_ms: now }),
                }
            }
            Route::Studio(stream) => {
                let given = authorization(&parts.headers);
                let studio = self.studio(stream, given, peer).await;
                Answer::json(&studio.ok_or_else(Problem::unauthorized)?)
            }
            Route::RotateKey(stream) => {
                let given = authorization(&parts.headers);
                if !self.owns(stream, given, peer) {
                    return Err(Problem::unauthorized());
                }
                if let Err(error) = self.rotate_key(stream, given).await {
                    tracing::error!(%stream, %error, "the stream key could not be changed");
                    return Err(Problem::unavailable());
                }
                let studio = self.studio(stream, given, peer).await;
                Answer::json(&studio.ok_or_else(Problem::unauthorized)?)
            }
            Route::LogOut(stream) => {
                let logged_out = self.log_out(stream, authorization(&parts.headers)).await;
                Answer::json(&logged_out?)
            }
            Route::Jwks => {
                let jwks = self.access().jwks(super::wall_unix_ms());
                Ok(Answer {
                    caching: Caching::Revalidate,
                    ..Answer::json(&jwks)?
                })
            }
            Route::OpenApi => Ok(described(&parts.headers)),
            Route::Tokens => {
                let bearer =
                    bearer(authorization(&parts.headers)).ok_or_else(Problem::unauthorized)?;
                let wanted: Wanted = read_json(body, MAX_QUESTION_BYTES).await?;
                let id = super::database::random().map_err(|_| Problem::unavailable())?;
                let (now, directory) = (super::wall_unix_ms(), self.directory());
                let revoked = directory.revocations();
                match (self.access()).mint(bearer, peer, &wanted, revoked, id, now) {
                    Ok(minted) => Answer::json(&minted),
                    Err(NotMinted::Refused(refusal)) => Err(Problem::token(&refusal)),
                    Err(NotMinted::Mint(error)) => Err(Problem::mint(&error)),
                }
            }
            Route::Revocations => {
                let given = authorization(&parts.headers);
                bearer(given).ok_or_else(Problem::unauthorized)?;
                let wanted: TakeBack = read_json(body, MAX_QUESTION_BYTES).await?;
                let manager = self.manages(&wanted.streams, given, peer)?;
                wanted.check().map_err(Problem::body)?;
                let revocation = self.revoke(wanted, &manager).await;
                let revocation = revocation.map_err(watch::kept)?;
                Answer::json(&revocation)
            }
            Route::DeadLetters => {
                self.manages(&dead::whose(), authorization(&parts.headers), peer)?;
                Answer::json(&self.dead_letters().await.map_err(watch::kept)?)
            }
            Route::Resend(id) => {
                self.manages(&dead::whose(), authorization(&parts.headers), peer)?;
                let body = read(body, MAX_QUESTION_BYTES, QUESTION).await?;
                let resend = Resend::read(&body)?;
                let resent = self.resend(id.as_ref(), &resend).await;
                Answer::json(&Resent::of(resent.map_err(watch::kept)?, id.as_ref())?)
            }
            Route::Sessions(stream) => {
                self.manages_one(stream, authorization(&parts.headers), peer)?;
                Answer::json(&SessionList {
                    sessions: self.session_list(stream),
                })
            }
            Route::EndSession(stream, id) => {
                let given = authorization(&parts.headers);
                self.manages_one(stream, given, peer)?;
                let owner = stream.clone().into();
                let ended = self.revoke(watch::ended(stream, *id), &owner).await;
                ended.map_err(watch::kept)?;
                Ok(Answer::empty(StatusCode::NO_CONTENT))
            }
            Route::Links(stream) => {
                self.manages_one(stream, authorization(&parts.headers), peer)?;
                if parts.method == Method::POST {
                    let wanted: WantedLink = read_json(body, MAX_QUESTION_BYTES).await?;
                    let link = self.add_link(stream, &wanted).await?;
                    return Ok(Answer {
                        status: StatusCode::CREATED,
                        ..Answer::json(&link)?
                    });
                }
                let links = self.links(stream).await.map_err(watch::kept)?;
                Answer::json(&LinkList { links })
            }
            Route::DeleteLink(stream, jti) => {
                self.manages_one(stream, authorization(&parts.headers), peer)?;
                self.delete_link(stream, jti).await?;
                Ok(Answer::empty(StatusCode::NO_CONTENT))
            }
            Route::Health => Ok(Answer::new(
                Caching::Never,
                "text/plain; charset=utf-8",
                "ok\n",
            )),
            Route::Ready => match self.closing().is_cancelled() {
                false => Ok(Answer::new(
                    Caching::Never,
                    "text/plain; charset=utf-8",
                    "ready\n",
                )),
                true => Err(Problem::unavailable()),
            },
            Route::Preflight { .. } => Ok(Answer::empty(StatusCode::NO_CONTENT)),
            _ => Err(Problem::not_found()),
        }
    }

    /// Who asks, if they came with a token.
    fn bearer<'a>(
        &self,
        headers: &HeaderMap,
        peer: IpAddr,
        directory: &'a Directory,
    ) -> Result<Option<Bearer<'a>>, Problem> {
        let Some(token) = bearer(authorization(headers)) else {
            return Ok(None);
        };
        let (access, now) = (self.access(), super::wall_unix_ms());
        let bearer = access.bearer(token, peer, directory.revocations(), now);
        bearer.map(Some).map_err(|refusal| Problem::token(&refusal))
    }

    /// Looks whether whoever asks may change this stream.
    fn may_change(
        &self,
        stream: &StreamName,
        headers: &HeaderMap,
        peer: IpAddr,
    ) -> Result<(), Problem> {
        let directory = self.directory();
        let bearer = self.bearer(headers, peer, &directory)?;
        let bearer = bearer.ok_or_else(Problem::unauthorized)?;
        bearer.may_change(stream, directory.stream(stream).is_some())
    }

    /// The latest broadcast of a stream.
    fn playable(&self, stream: &StreamName) -> Result<Arc<Live>, Problem> {
        let unknown = || {
            if self.knows(stream) {
                Problem::not_live()
            } else {
                Problem::no_stream()
            }
        };
        self.current(stream).ok_or_else(unknown)
    }

    fn page(&self, page: Page, headers: &HeaderMap) -> Result<Answer, Problem> {
        self.file(page.asset(), Caching::Revalidate, headers)
    }

    fn file(&self, path: &str, caching: Caching, headers: &HeaderMap) -> Result<Answer, Problem> {
        let text = self.asset(path).ok_or_else(Problem::not_found)?;
        let etag = text.etag();
        if matches_etag(headers.get(header::IF_NONE_MATCH), etag) {
            return Ok(tagged(
                Answer {
                    caching,
                    ..Answer::empty(StatusCode::NOT_MODIFIED)
                },
                etag,
            ));
        }
        let kind = asset_type(path);
        let compressible = !matches!(
            kind,
            "image/png" | "image/jpeg" | "image/webp" | "font/woff2"
        );
        let coding = match compressible {
            true => Coding::negotiate(headers),
            false => Coding::Identity,
        };
        Ok(tagged(Answer::text(&text, caching, kind, coding), etag))
    }

    // ---- what boxes ask

    async fn internal(
        &self,
        route: &Route,
        parts: &mut Parts,
        body: Body,
    ) -> Result<Answer, Problem> {
        // Without a secret there is nothing here at all.
        let secret = self.secret().ok_or_else(Problem::not_found)?;
        let given = parts
            .headers
            .get(link_auth::REQUEST_HEADER)
            .and_then(|value| value.to_str().ok());
        let now_s = super::wall_unix_ms().div_euclid(1_000);
        let proof = secret.answer(parts.method.as_str(), parts.uri.path(), given, now_s);
        let proof = proof.map_err(|error| {
            tracing::warn!(path = routes::redacted(parts.uri.path()), %error, "a box was refused");
            Problem::unauthorized()
        })?;
        let answer = self.answer_box(route, parts, body).await;
        // The edge proves itself in refusals too, or the box could not believe them.
        let mut answer = answer.unwrap_or_else(|problem| {
            let response = problem_response(Some(route), &problem);
            let (parts, body) = response.into_parts();
            Answer {
                status: parts.status,
                caching: Caching::Never,
                content_type: PROBLEM_TYPE,
                headers: parts.headers,
                coding: None,
                body,
                size: None,
            }
        });
        insert(
            &mut answer.headers,
            header::HeaderName::from_static(link_auth::RESPONSE_HEADER),
            &proof,
        );
        Ok(answer)
    }

    async fn answer_box(
        &self,
        route: &Route,
        parts: &mut Parts,
        body: Body,
    ) -> Result<Answer, Problem> {
        let edge_problem = |error: EdgeError| match error {
            EdgeError::Refused(refusal) => Problem::refused(refusal.to_string()),
            EdgeError::Token(refusal) => Problem::refused(refusal.to_string()),
            EdgeError::Full(full) => Problem::refused(full.to_string()),
            EdgeError::Webhook(denied) => Problem::refused(denied.to_string()),
            error => {
                tracing::error!(%error, "a box's question could not be answered");
                Problem::unavailable()
            }
        };
        match route {
            Route::Admit => {
                let question: Admit = read_json(body, MAX_QUESTION_BYTES).await?;
                Answer::json(&self.admit(&question).await.map_err(edge_problem)?)
            }
            Route::Open => {
                let question: Open = read_json(body, MAX_QUESTION_BYTES).await?;
                Answer::json(&self.open(&question).await.map_err(edge_problem)?)
            }
            Route::Put(key) => {
                let bytes = read(body, MAX_OBJECT_BYTES, UPLOAD).await?;
                if bytes.is_empty() {
                    return Err(Problem::empty_object());
                }
                self.objects()
                    .put(key, bytes)
                    .await
                    .map_err(object_problem)?;
                Ok(Answer::empty(StatusCode::CREATED))
            }
            Route::PutStream(name) => {
                let body = read(body, MAX_QUESTION_BYTES, QUESTION).await?;
                let entry = api::read_entry(name, &body)?;
                match self.put_stream(entry).await.map_err(edge_problem)? {
                    Some(logged_out) => Answer::json(&logged_out),
                    None => Ok(Answer::empty(StatusCode::NO_CONTENT)),
                }
            }
            Route::Configure(name) => {
                let body = read(body, MAX_QUESTION_BYTES, QUESTION).await?;
                let configured = api::read_change(&body)?;
                let done = self.configure_stream(name, configured).await;
                done.map_err(edge_problem)?;
                Ok(Answer::empty(StatusCode::NO_CONTENT))
            }
            Route::Delete(key) => {
                self.objects().delete(key).await.map_err(object_problem)?;
                Ok(Answer::empty(StatusCode::NO_CONTENT))
            }
            Route::Link(id) => {
                let upgrade = WebSocketUpgrade::from_request_parts(parts, &()).await;
                let upgrade = upgrade.map_err(|_| Problem::upgrade())?;
                let (edge, id) = (self.clone(), id.clone());
                let limit = protocol::link::MAX_MESSAGE_BYTES;
                let response = upgrade
                    .max_message_size(limit)
                    .max_frame_size(limit)
                    .on_upgrade(move |socket| edge.carry_socket(socket, id));
                let (parts, body) = response.into_parts();
                Ok(Answer {
                    status: parts.status,
                    caching: Caching::Never,
                    content_type: "",
                    headers: parts.headers,
                    coding: None,
                    body: Payload::Right(body),
                    size: None,
                })
            }
            _ => Err(Problem::not_found()),
        }
    }
}

/// The description of all of this, compressed once.
fn described(headers: &HeaderMap) -> Answer {
    static TEXT: OnceLock<Text> = OnceLock::new();
    let text = TEXT.get_or_init(|| Text::new(Bytes::from_static(openapi::document().as_bytes())));
    let caching = Caching::Revalidate;
    if matches_etag(headers.get(header::IF_NONE_MATCH), openapi::etag()) {
        let unchanged = Answer {
            caching,
            ..Answer::empty(StatusCode::NOT_MODIFIED)
        };
        return tagged(unchanged, openapi::etag());
    }
    let coding = Coding::negotiate(headers);
    let text = Answer::text(text, caching, openapi::CONTENT_TYPE, coding);
    tagged(text, openapi::etag())
}

fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn shown<'a>(uri: &'a http::Uri, headers: &'a HeaderMap) -> Shown<'a> {
    let site = headers
        .get("sec-fetch-site")
        .and_then(|site| site.to_str().ok());
    Shown::of(uri.query(), authorization(headers), site)
}

pub(super) fn authorization(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()
}

fn tagged(mut answer: Answer, etag: &str) -> Answer {
    insert(&mut answer.headers, header::ETAG, etag);
    answer
}

fn matches_etag(given: Option<&HeaderValue>, etag: &str) -> bool {
    let given = given
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let bare = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    given.trim() == "*" || given.split(',').any(|tag| bare(tag) == bare(etag))
}

/// What a `Range` header asks for (RFC 9110 section 14). Several ranges, or what is no range, give the whole.
#[derive(Debug, PartialEq, Eq)]
enum Range {
    Whole,
    /// From, and behind the last byte.
    Some(usize, usize),
    Outside,
}

impl Range {
    fn read(value: &HeaderValue, size: usize) -> Self {
        let Some(range) = value.to_str().ok().and_then(|v| v.strip_prefix("bytes=")) else {
            return Self::Whole;
        };
        let Some((from, to)) = range.trim().split_once('-') else {
            return Self::Whole;
        };
        let number = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| text.parse::<usize>().unwrap_or(usize::MAX))
        };
        let (from, to) = match (from, to) {
            ("", "") => return Self::Whole,
            ("", last) => match number(last) {
                Some(last) => (size.saturating_sub(last), size),
                None => return Self::Whole,
            },
            (from, "") => match number(from) {
                Some(from) => (from, size),
                None => return Self::Whole,
            },
            (from, to) => match (number(from), number(to)) {
                (Some(from), Some(to)) if from <= to => (from, to.saturating_add(1).min(size)),
                _ => return Self::Whole,
            },
        };
        if from >= to {
            Self::Outside
        } else {
            Self::Some(from, to)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_body_must_come_whole_within_its_time() {
        let begun = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{"))]);
        let slow = Body::from_stream(begun.chain(stream::pending()));
        let read_slow = read(slow, 100, Duration::from_millis(20)).await;
        assert_eq!(
            read_slow.unwrap_err().status,
            StatusCode::REQUEST_TIMEOUT,
            "a body that stops has a deadline"
        );
        let whole = read(Body::from("{}"), 100, Duration::from_secs(10)).await;
        assert_eq!(whole.unwrap(), "{}");
    }

    #[test]
    fn ranges_are_read_as_rfc_9110_has_them() {
        for (text, range) in [
            ("bytes=0-0", Range::Some(0, 1)),
            ("bytes=0-", Range::Some(0, 100)),
            ("bytes=90-200", Range::Some(90, 100)),
            ("bytes=-10", Range::Some(90, 100)),
            ("bytes=-200", Range::Some(0, 100)),
            ("bytes=-0", Range::Outside),
            ("bytes=100-", Range::Outside),
            ("bytes=99999999999999999999999-", Range::Outside),
            ("bytes=5-2", Range::Whole),
            ("bytes=0-1,5-6", Range::Whole),
            ("bytes=a-b", Range::Whole),
            ("bytes=-", Range::Whole),
            ("items=0-1", Range::Whole),
        ] {
            assert_eq!(Range::read(&text.parse().unwrap(), 100), range, "{text}");
        }
    }
}
