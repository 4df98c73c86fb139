//! Media objects: from the R2 bucket that is bound to the Worker, or from an S3 origin over HTTP; in front of both the Cache API.

use std::{pin::pin, time::Duration};

use futures::future::{Either, select};
use http::StatusCode;
use protocol::{
    names::{BroadcastId, StreamName},
    object_key::{ObjectKey, ObjectKind},
};
use worker::{
    AbortController, CacheMode, Context, Delay, Env, Fetch, Headers, Method, Range, Request,
    RequestInit, Response, ResponseBuilder, Result,
};

use super::{
    answer::{self, answer, nothing, problem},
    binding, leaf, watch,
};
use crate::{
    api::MAX_OBJECT_BYTES,
    routes::{Caching, Problem, Route},
};

/// A media origin that has not begun to answer by then is as good as down: players ask again after ten seconds.
const ORIGIN_DEADLINE: Duration = Duration::from_secs(8);
/// How many pages of a thousand objects one sweep goes through; the next one goes on.
const SWEEP_PAGES: usize = 5;

fn content_type(key: &ObjectKey) -> &'static str {
    if key.track.is_video() {
        "video/mp4"
    } else {
        "audio/mp4"
    }
}

/// `PUT /internal/media/{key}`: for a box that has no keys of a bucket. Sent again after a lost answer it is the same object.
pub(super) async fn put(
    route: &Route,
    key: &ObjectKey,
    request: Request,
    env: &Env,
) -> Result<Response> {
    let length = request
        .headers()
        .get("content-length")?
        .and_then(|length| length.parse::<u64>().ok());
    if length.is_none_or(|length| length > MAX_OBJECT_BYTES as u64) {
        return problem(Some(route), &Problem::too_large());
    }
    let body = request.inner().body().filter(|_| length != Some(0));
    let Some(body) = body else {
        return problem(Some(route), &Problem::empty_object());
    };
    let metadata = worker::HttpMetadata {
        content_type: Some(content_type(key).to_owned()),
        cache_control: Some(Caching::Immutable.value().to_owned()),
        ..Default::default()
    };
    env.bucket(binding::MEDIA)?
        .put(key.to_string(), body)
        .http_metadata(metadata)
        .execute()
        .await?;
    answer(
        Some(route),
        StatusCode::CREATED,
        Caching::Never,
        None,
        Vec::new(),
    )
}

/// `DELETE /internal/media/{key}`: caches may keep it, nobody is told of it any more.
pub(super) async fn delete(route: &Route, key: &ObjectKey, env: &Env) -> Result<Response> {
    env.bucket(binding::MEDIA)?.delete(key.to_string()).await?;
    nothing(Some(route))
}

/// Deletes from the bucket what belongs to the stream and to none of these broadcasts. Gives how many objects it found; there may be
/// more. Nothing where media has an origin of its own, which deletes by its own rules.
pub(super) async fn sweep(env: &Env, stream: &StreamName, known: &[BroadcastId]) -> Result<usize> {
    let Ok(bucket) = env.bucket(binding::MEDIA) else {
        return Ok(0);
    };
    let (mut found, mut cursor) = (0, None);
    for _ in 0..SWEEP_PAGES {
        let mut list = bucket.list().prefix(format!("{stream}/"));
        if let Some(cursor) = cursor.take() {
            list = list.cursor(cursor);
        }
        let page = list.execute().await?;
        let unknown = page.objects().into_iter().map(|object| object.key());
        let unknown: Vec<String> = unknown
            .filter(|key| {
                let broadcast = key.split('/').nth(1).and_then(|id| id.parse().ok());
                broadcast.is_some_and(|id: BroadcastId| !known.contains(&id))
            })
            .collect();
        if !unknown.is_empty() {
            found += unknown.len();
            bucket.delete_multiple(unknown).await?;
        }
        cursor = page.cursor().filter(|_| page.truncated());
        if cursor.is_none() {
            break;
        }
    }
    Ok(found)
}

/// `GET /media/{key}`.
pub(super) async fn get(
    route: &Route,
    key: &ObjectKey,
    request: &Request,
    env: &Env,
    context: &Context,
) -> Result<Response> {
    // The tag in the key names the bytes, so it is the validator too.
    let etag = format!("\"{}\"", key.tag);
    let given = |name: &str| request.headers().get(name);
    if given("if-none-match")?.is_some_and(|tags| names(&tags, &etag)) {
        let response = answer(
            Some(route),
            StatusCode::NOT_MODIFIED,
            Caching::Immutable,
            None,
            Vec::new(),
        )?;
        response.headers().set("etag", &etag)?;
        return Ok(response);
    }
    let unchanged = given("if-range")?.is_none_or(|tags| names(&tags, &etag));
    let range = given("range")?.filter(|range| unchanged && single_range(range).is_some());
    let cache_url = format!(
        "{}/media/{key}",
        request.url()?.origin().ascii_serialization()
    );
    if let Some(cached) = cached(&cache_url, range.as_deref()).await? {
        // The cache answers this one by itself, and bare.
        return match cached.status_code() {
            416 => problem(Some(route), &Problem::range()),
            _ => Ok(cached),
        };
    }
    // Only a part can be waited for; the leaf knows which.
    if let ObjectKind::Part { .. } = key.kind {
        let said = leaf::ask(env, &request.path(), &key.broadcast, None).await?;
        if said.status_code() != 204 {
            return watch::without_revoked(said);
        }
    }
    let Some(found) = read(env, key, range.as_deref()).await? else {
        return problem(Some(route), &Problem::not_found());
    };
    if found.status_code() == 416 {
        return problem(Some(route), &Problem::range());
    }
    let response = answer::with_headers(Some(route), Caching::Immutable, found)?;
    response.headers().set("etag", &etag)?;
    keep(response, cache_url, context)
}

/// Whether a list of entity tags names this one, compared weakly.
fn names(tags: &str, etag: &str) -> bool {
    tags.trim() == "*"
        || tags
            .split(',')
            .any(|tag| tag.trim().trim_start_matches("W/") == etag)
}

/// The bytes of a part that was announced, for a segment that is put together on its way.
pub(super) async fn part(
    key: &ObjectKey,
    origin: &str,
    env: &Env,
    context: &Context,
) -> Result<Option<Vec<u8>>> {
    let url = format!("{origin}/media/{key}");
    if let Some(mut cached) = cached(&url, None).await? {
        return cached.bytes().await.map(Some);
    }
    let Some(found) = read(env, key, None).await? else {
        return Ok(None);
    };
    let route = Route::Object(key.clone());
    let response = answer::with_headers(Some(&route), Caching::Immutable, found)?;
    response
        .headers()
        .set("etag", &format!("\"{}\"", key.tag))?;
    keep(response, url, context)?.bytes().await.map(Some)
}

/// What the cache has; with a range, those bytes of it.
pub(super) async fn cached(url: &str, range: Option<&str>) -> Result<Option<Response>> {
    let headers = Headers::new();
    if let Some(range) = range {
        headers.set("range", range)?;
    }
    let mut init = RequestInit::new();
    init.with_method(Method::Get).with_headers(headers);
    let question = Request::new_with_init(url, &init)?;
    let found = worker::Cache::default().get(&question, false).await?;
    found.map(answer::from_cache).transpose()
}

/// Gives the response on, and puts a copy into the cache if it is a whole object.
pub(super) fn keep(mut response: Response, url: String, context: &Context) -> Result<Response> {
    if response.status_code() == 200 && answer::first_put(&url) {
        let copy = response.cloned()?;
        context.wait_until(async move {
            if let Err(error) = worker::Cache::default().put(url, copy).await {
                worker::console_warn!("an object could not be cached: {error}");
            }
        });
    }
    Ok(response)
}

/// An object from the store, or those bytes of it; `None` when it is not there. 200, 206 or 416.
pub(super) async fn read(
    env: &Env,
    key: &ObjectKey,
    range: Option<&str>,
) -> Result<Option<Response>> {
    let origin = env
        .var(binding::MEDIA_ORIGIN)
        .map(|origin| origin.to_string())
        .unwrap_or_default();
    match origin.trim_end_matches('/') {
        "" => read_bucket(env, key, range).await,
        origin => read_origin(origin, key, range).await,
    }
}

async fn read_bucket(env: &Env, key: &ObjectKey, range: Option<&str>) -> Result<Option<Response>> {
    let bucket = env.bucket(binding::MEDIA)?;
    let headers = Headers::new();
    headers.set("content-type", content_type(key))?;
    headers.set("accept-ranges", "bytes")?;
    let Some(range) = range.and_then(single_range) else {
        let Some(object) = bucket.get(key.to_string()).execute().await? else {
            return Ok(None);
        };
        let Some(body) = object.body() else {
            return Ok(None);
        };
        headers.set("content-length", &object.size().to_string())?;
        let body = body.response_body()?;
        return Ok(Some(
            ResponseBuilder::new().with_headers(headers).body(body),
        ));
    };
    // The size says whether the range lies inside, which the bucket would answer with an exception.
    let Some(size) = bucket
        .head(key.to_string())
        .await?
        .map(|object| object.size())
    else {
        return Ok(None);
    };
    let Some((first, last)) = range.within(size) else {
        return Ok(Some(ResponseBuilder::new().with_status(416).empty()));
    };
    let asked = Range::OffsetWithLength {
        offset: first,
        length: last - first + 1,
    };
    let Some(object) = bucket.get(key.to_string()).range(asked).execute().await? else {
        return Ok(None);
    };
    let Some(body) = object.body() else {
        return Ok(None);
    };
    headers.set("content-range", &format!("bytes {first}-{last}/{size}"))?;
    headers.set("content-length", &(last - first + 1).to_string())?;
    let body = body.response_body()?;
    Ok(Some(
        ResponseBuilder::new()
            .with_status(206)
            .with_headers(headers)
            .body(body),
    ))
}

async fn read_origin(
    origin: &str,
    key: &ObjectKey,
    range: Option<&str>,
) -> Result<Option<Response>> {
    let headers = Headers::new();
    if let Some(range) = range {
        headers.set("range", range)?;
    }
    // The Cache API in front keeps what may be kept. The platform's own cache below `fetch` would keep a 404 too, for minutes.
    let mut init = RequestInit::new();
    init.with_method(Method::Get)
        .with_headers(headers)
        .with_cache(CacheMode::NoStore);
    let asked = Fetch::Request(Request::new_with_init(&format!("{origin}/{key}"), &init)?);
    let controller = AbortController::default();
    let signal = controller.signal();
    let answer = pin!(asked.send_with_signal(&signal));
    let response = match select(answer, Delay::from(ORIGIN_DEADLINE)).await {
        Either::Left((answer, _)) => answer?,
        Either::Right(((), _)) => {
            controller.abort();
            let seconds = ORIGIN_DEADLINE.as_secs();
            return Err(format!("the media origin did not answer within {seconds} s").into());
        }
    };
    match response.status_code() {
        200 | 206 | 416 => {
            let headers = Headers::from_iter(response.headers().entries());
            headers.set("content-type", content_type(key))?;
            headers.set("accept-ranges", "bytes")?;
            Ok(Some(response.with_headers(headers)))
        }
        // Some stores say that an object may not be listed when they mean that it is not there.
        403 | 404 => Ok(None),
        status => Err(format!("the media origin answered with {status}").into()),
    }
}

/// One range of bytes as a request asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ByteRange {
    From(u64, Option<u64>),
    Last(u64),
}

impl ByteRange {
    /// First and last byte, if the range touches an object of that size.
    fn within(self, size: u64) -> Option<(u64, u64)> {
        let end = size.checked_sub(1)?;
        match self {
            Self::From(first, last) => {
                (first <= end).then(|| (first, last.unwrap_or(end).min(end)))
            }
            Self::Last(0) => None,
            Self::Last(count) => Some((size.saturating_sub(count), end)),
        }
    }
}

/// A `Range` header with one range (RFC 9110 section 14.1.2); any other is as if there were none.
fn single_range(header: &str) -> Option<ByteRange> {
    let (first, last) = header.trim().strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse::<u64>().ok(),
        false => None,
    };
    match (first, last) {
        ("", count) => Some(ByteRange::Last(number(count)?)),
        (first, "") => Some(ByteRange::From(number(first)?, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(ByteRange::From(first, Some(last)))
        }
    }
}
