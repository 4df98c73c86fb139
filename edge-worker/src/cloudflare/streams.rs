//! Streams made, changed and deleted by those who manage them: [`crate::streams`].

use http::StatusCode;
use protocol::names::{BroadcastId, StreamName};
use worker::{Env, Request, Response, Result};

use super::{
    access,
    answer::{json, nothing, problem},
    directory, now_unix_ms, random, stream, watch,
};
use crate::{
    access::TakeBack,
    api,
    directory::{Refusal as Unkept, Stream, StreamEntry, sql},
    routes::{Caching, Problem, Route},
    streams::{Bearer, Create, Created, Rotate, Rotated, Sight, unkept},
};

/// What happened, or what to say instead.
type Done<T> = std::result::Result<T, Problem>;

/// `POST /api/streams`, `PATCH` and `DELETE /api/streams/{stream}`, `POST /api/streams/{stream}/keys`.
pub(super) async fn manage(route: &Route, mut request: Request, env: &Env) -> Result<Response> {
    if let Route::ChangeStream(name) = route
        && (directory::studio_stream(name, &request, env).await?).is_some()
    {
        return match changed(route, name, &mut request, env, true).await? {
            Ok(response) => Ok(response),
            Err(found) => problem(Some(route), &found),
        };
    }
    let token = match access::shown(&request, env)? {
        Ok(Some(token)) => token,
        Ok(None) => return problem(Some(route), &Problem::unauthorized()),
        Err(found) => return problem(Some(route), &found),
    };
    let revoked = watch::revoked_now(env).await?;
    let bearer = token.bearer(&revoked);
    let done = match route {
        Route::CreateStream => create(route, &bearer, &mut request, env).await?,
        Route::ChangeStream(name) => change(route, name, &bearer, &mut request, env).await?,
        Route::DeleteStream(name) => delete(route, name, &bearer, env).await?,
        Route::NewKey(name) => new_key(route, name, &bearer, &mut request, env).await?,
        _ => Err(Problem::not_found()),
    };
    match done {
        Ok(response) => Ok(response),
        Err(found) => problem(Some(route), &found),
    }
}

/// The stream, if they may change it.
async fn managed(name: &StreamName, bearer: &Bearer<'_>, env: &Env) -> Result<Done<Stream>> {
    // The token first: who has none costs no read.
    if let Err(found) = bearer.may_change(name, true) {
        return Ok(Err(found));
    }
    let stream = directory::find_stream(env, sql::stream(name)).await?;
    Ok(stream.ok_or_else(Problem::no_stream))
}

/// Passes a refusal on as the answer.
macro_rules! given {
    ($done:expr) => {
        match $done {
            Ok(given) => given,
            Err(found) => return Ok(Err(found)),
        }
    };
}

async fn create(
    route: &Route,
    bearer: &Bearer<'_>,
    request: &mut Request,
    env: &Env,
) -> Result<Done<Response>> {
    let body = given!(directory::question(request).await?);
    let create: Create = given!(api::read(&body));
    let (tenants, known) = (directory::tenants(env)?, directory::read(env).await?);
    given!(bearer.may_make(&create.name, &tenants, known.names()));
    let settings = given!(create.settings());
    let (name, now, seal) = (&create.name, now_unix_ms(), directory::seal(env)?);
    let room = tenants.room(bearer.manages(), name);
    let anonymous = BroadcastId::from_random(random()?).to_string();
    // The stream's own name where a key id can be that and it is free, so that a person sees what a key is for.
    for id in [name.as_str(), anonymous.as_str()] {
        let Some(entry) = StreamEntry::new(name.clone(), id, [random()?, random()?], now) else {
            continue;
        };
        let stream = Stream::keep(&entry, &seal, random()?, Some(random()?));
        let make = sql::make_stream(&stream, &settings, &room);
        let error = match directory::batch(env, &[make]).await {
            Ok(0) => {
                // Others took the last place meanwhile.
                let known = directory::read(env).await?;
                given!(bearer.may_make(name, &tenants, known.names()));
                return Ok(Err(Problem::unavailable()));
            }
            Ok(_) => {
                directory::changed();
                let made = Created::from(&entry);
                return json(Some(route), StatusCode::CREATED, Caching::Never, &made).map(Ok);
            }
            Err(error) => error,
        };
        // The table takes a name and a key id once; which of them it was decides what is done.
        let found = directory::find_stream(env, sql::stream(name)).await?;
        if found.is_some() {
            return Ok(Err(unkept(&Unkept::Exists(name.clone()))));
        }
        let held = directory::find_stream(env, sql::stream_by_key_id(id)).await?;
        if held.is_none() {
            return Err(error);
        }
    }
    Err("no key id is free".into())
}

async fn change(
    route: &Route,
    name: &StreamName,
    bearer: &Bearer<'_>,
    request: &mut Request,
    env: &Env,
) -> Result<Done<Response>> {
    given!(managed(name, bearer, env).await?);
    changed(route, name, request, env, false).await
}

/// Changes a stream for somebody who may, or for the `owner` of its studio link, who may not change its limits.
async fn changed(
    route: &Route,
    name: &StreamName,
    request: &mut Request,
    env: &Env,
    owner: bool,
) -> Result<Done<Response>> {
    let body = given!(directory::question(request).await?);
    let change = given!(api::read_change(&body));
    if owner && !change.limits.is_empty() {
        return Ok(Err(Problem::studio_limits()));
    }
    directory::change_all(env, &[sql::change_stream(name, &change)]).await?;
    if change.visibility.is_some() {
        // Who watches by WebRTC without a token is out when one is needed, and asks for nothing by which it would be heard.
        watch::tell(env, &name.clone().into()).await?;
    }
    let read = directory::read(env).await?;
    let seen = read
        .stream(name)
        .and_then(|stream| stream.told(name, Sight::Managed));
    let seen = given!(seen.ok_or_else(Problem::no_stream));
    json(Some(route), StatusCode::OK, Caching::Never, &seen).map(Ok)
}

async fn delete(
    route: &Route,
    name: &StreamName,
    bearer: &Bearer<'_>,
    env: &Env,
) -> Result<Done<Response>> {
    let stream = given!(managed(name, bearer, env).await?);
    // This stream, and none that is made under its name from then on.
    let at = now_unix_ms().max(stream.created_unix_ms);
    // Who had a link to it has none to another stream that gets its name.
    let links = directory::links(env, name).await?;
    let revocation = TakeBack::deleted(name, links.iter(), now_unix_ms());
    watch::take_back(env, revocation).await?;
    stream::delete(env, name, at).await?;
    directory::changed();
    nothing(Some(route)).map(Ok)
}

async fn new_key(
    route: &Route,
    name: &StreamName,
    bearer: &Bearer<'_>,
    request: &mut Request,
    env: &Env,
) -> Result<Done<Response>> {
    let before = given!(managed(name, bearer, env).await?);
    let body = given!(directory::question_if_any(request).await?);
    let until = given!(Rotate::read(&body)).old_until_unix_ms(now_unix_ms());
    let seal = directory::seal(env)?;
    // Somebody else changed it in between: asked again, it is changed from what it is by then.
    let rotated = directory::new_key(env, &before, until).await?;
    let stream = given!(rotated.ok_or_else(Problem::unavailable));
    let key = stream.key(&seal).map_err(|closed| closed.to_string())?;
    let rotated = Rotated::new(key.reveal(), until);
    json(Some(route), StatusCode::OK, Caching::Never, &rotated).map(Ok)
}
