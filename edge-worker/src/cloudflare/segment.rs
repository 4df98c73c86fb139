//! DASH segments: a complete one from the store, a running one part by part as the parts come.

use std::collections::VecDeque;

use futures::stream;
use http::StatusCode;
use protocol::object_key::ObjectKey;
use worker::{Context, Env, Headers, Request, Response, ResponseBuilder, Result};

use super::{
    answer::{self, problem},
    leaf::{self, SegmentParts},
    media,
    watch::{self, Viewer},
};
use crate::routes::{self, Caching, Problem, Route, TrackAddress};

/// `GET /live/{stream}/{broadcast}/{session}/{track}/{msn}.m4s`.
pub(super) async fn get(
    route: &Route,
    address: &TrackAddress,
    msn: u64,
    viewer: Viewer,
    request: Request,
    env: Env,
    context: Context,
) -> Result<Response> {
    // The bytes are the same for every session.
    let origin = request.url()?.origin().ascii_serialization();
    let TrackAddress {
        stream,
        broadcast,
        track,
        ..
    } = address;
    let target = request.path();
    let cache_url = format!("{origin}/live/{stream}/{broadcast}/-/{track}/{msn}.m4s");
    if let Some(cached) = media::cached(&cache_url, None).await? {
        let still = watch::still_now(&env, stream, broadcast, &viewer, &target).await?;
        return match still {
            Ok(()) => Ok(cached),
            Err(found) => problem(Some(route), &found),
        };
    }
    let mut said = leaf::ask(&env, &target, broadcast, Some(0)).await?;
    if let Err(found) = watch::still(&env, stream, &viewer, &said).await? {
        return problem(Some(route), &found);
    }
    if said.status_code() != 200 {
        return watch::without_revoked(said);
    }
    let known: SegmentParts = said.json().await?;
    if let Some(whole) = &known.whole {
        let Some(found) = media::read(&env, whole, None).await? else {
            return problem(Some(route), &Problem::not_found());
        };
        let response = answer::with_headers(Some(route), Caching::Immutable, found)?;
        return media::keep(response, cache_url, &context);
    }
    // What is still growing is kept by nobody: the next who asks gets the whole one.
    let mut map = routes::headers(Some(route), StatusCode::OK, Caching::Never);
    let kind = if track.is_video() {
        "video/mp4"
    } else {
        "audio/mp4"
    };
    map.insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static(kind),
    );
    let growing = Growing {
        env,
        context,
        origin,
        target,
        viewer,
        address: address.clone(),
        sent: 0,
        waiting: known.parts.into(),
        complete: false,
    };
    let body = stream::try_unfold(growing, Growing::next);
    ResponseBuilder::new()
        .with_headers(Headers::from(map))
        .from_stream(Box::pin(body))
}

struct Growing {
    env: Env,
    context: Context,
    /// Where this Worker is reached: part of what the cache knows an object by.
    origin: String,
    /// What the leaf is asked for.
    target: String,
    viewer: Viewer,
    address: TrackAddress,
    /// Parts sent so far.
    sent: usize,
    /// Parts that are known and not yet sent.
    waiting: VecDeque<ObjectKey>,
    /// Whether the segment is complete, so that no part comes after those.
    complete: bool,
}

impl Growing {
    async fn next(mut self) -> Result<Option<(Vec<u8>, Self)>> {
        loop {
            if let Some(key) = self.waiting.pop_front() {
                let part = media::part(&key, &self.origin, &self.env, &self.context).await?;
                let Some(bytes) = part else {
                    return Err("a part of a running segment is not in the store".into());
                };
                self.sent += 1;
                return Ok(Some((bytes, self)));
            }
            if self.complete {
                return Ok(None);
            }
            let mut said = leaf::ask(
                &self.env,
                &self.target,
                &self.address.broadcast,
                Some(self.sent),
            )
            .await?;
            // A session that ended gets no part that came after.
            if watch::still(&self.env, &self.address.stream, &self.viewer, &said)
                .await?
                .is_err()
            {
                return Err("the session is over".into());
            }
            if said.status_code() != 200 {
                // Cut off in the open, so that nobody takes a torso for the segment.
                return Err("the running segment was lost".into());
            }
            let known: SegmentParts = said.json().await?;
            self.complete = known.whole.is_some();
            self.waiting = known.parts.into();
        }
    }
}
