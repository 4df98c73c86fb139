//! Answers with the headers that the routes say, as the platform wants them.

use std::{cell::RefCell, collections::VecDeque};

use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use worker::{Headers, Response, ResponseBuilder, Result};

use super::watch::REVOKED_HEADER;
use crate::routes::{self, Caching, Problem, Route};

/// An answer to a route. `caching` is what a 2xx would have.
pub(super) fn answer(
    route: Option<&Route>,
    status: StatusCode,
    caching: Caching,
    content_type: Option<&'static str>,
    body: Vec<u8>,
) -> Result<Response> {
    let mut map = routes::headers(route, status, caching);
    if let Some(content_type) = content_type {
        map.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    let builder = ResponseBuilder::new()
        .with_status(status.as_u16())
        .with_headers(Headers::from(map));
    // The platform refuses a body, an empty one too, where HTTP has none.
    let bodiless = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    Ok(if bodiless {
        builder.empty()
    } else {
        builder.fixed(body)
    })
}

/// 204.
pub(super) fn nothing(route: Option<&Route>) -> Result<Response> {
    answer(
        route,
        StatusCode::NO_CONTENT,
        Caching::Never,
        None,
        Vec::new(),
    )
}

/// JSON.
pub(super) fn json(
    route: Option<&Route>,
    status: StatusCode,
    caching: Caching,
    value: &impl Serialize,
) -> Result<Response> {
    answer(
        route,
        status,
        caching,
        Some("application/json"),
        serde_json::to_vec(value)?,
    )
}

/// What went wrong, RFC 9457.
pub(super) fn problem(route: Option<&Route>, problem: &Problem) -> Result<Response> {
    Ok(ResponseBuilder::new()
        .with_status(problem.status.as_u16())
        .with_headers(Headers::from(problem.headers(route)))
        .fixed(problem.body_json().into_bytes()))
}

/// The body and status of a response with the headers of the route; `Content-Type`, `ETag` and what says which bytes these are stay.
pub(super) fn with_headers(
    route: Option<&Route>,
    caching: Caching,
    response: Response,
) -> Result<Response> {
    let status =
        StatusCode::from_u16(response.status_code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut map = routes::headers(route, status, caching);
    for name in [
        header::CONTENT_TYPE,
        header::ETAG,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::ACCEPT_RANGES,
        header::CONTENT_ENCODING,
    ] {
        if let Some(value) = response.headers().get(name.as_str())? {
            let value = HeaderValue::from_str(&value).map_err(|error| error.to_string())?;
            map.insert::<HeaderName>(name, value);
        }
    }
    Ok(response.with_headers(Headers::from(map)))
}

/// A cached response, or a leaf's, as an answer: the headers of such a one cannot be changed in place.
pub(super) fn from_cache(response: Response) -> Result<Response> {
    let headers = Headers::new();
    for (name, value) in response.headers().entries() {
        // How the cache fared, and what is said inside the edge, is nobody's business.
        if name != "cf-cache-status" && name != REVOKED_HEADER {
            headers.append(&name, &value)?;
        }
    }
    Ok(response.with_headers(headers))
}

/// Whether this isolate has not put that key into the cache lately: a thousand waiters get one body, and one of them is enough to put it.
pub(super) fn first_put(key: &str) -> bool {
    const REMEMBERED: usize = 256;
    thread_local! {
        static PUT: RefCell<VecDeque<String>> = const { RefCell::new(VecDeque::new()) };
    }
    PUT.with_borrow_mut(|put| {
        if put.iter().rev().any(|known| known == key) {
            return false;
        }
        if put.len() >= REMEMBERED {
            put.pop_front();
        }
        put.push_back(key.to_owned());
        true
    })
}
