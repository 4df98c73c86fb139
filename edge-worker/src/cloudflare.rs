//! The adapter for Cloudflare Workers: it decides nothing that the native adapter does not decide by the same functions.
//!
//! | module | what it is | on the platform |
//! | --- | --- | --- |
//! | this one | every request comes here first: routes, caches, pages, media | the Worker, an isolate near the viewer |
//! | `broadcast` | holds the link of one broadcast, stores its snapshot, feeds the leaves | Durable Object by broadcast id |
//! | `leaf` | a replica of one broadcast, where viewers wait | Durable Object by `{broadcast}/{n}` |
//! | `stream` | which broadcast a stream has; counts its viewers | Durable Object by stream name |
//! | `access` | tokens | secret `TOKEN_KEYS` |
//! | `streams` | streams made, changed and deleted by their managers | |
//! | `webhooks` | asks an operator's own server | `fetch`, secret `WEBHOOK_SECRETS` |
//! | `events` | tells it what happens | D1, and a Durable Object by webhook name |
//! | `directory` | streams, keys and broadcasts; what the isolate remembers of them | D1 |
//! | `guard` | who may come at all, and how often | the isolate's memory |
//! | `whep` | WebRTC signaling, asked of the broadcast's object | variable `ICE_SERVERS` |
//! | `media` | objects | R2 binding, or any S3 origin over HTTP |
//! | `segment` | DASH segments, part by part | |
//!
//! A viewer's request reads the isolate's memory of the directory, the Cache API, and only then a leaf or the bucket. Nothing that is
//! not 2xx enters a cache. An isolate runs many requests and, in small deployments, the objects too, but a promise made in one of them
//! cannot be awaited in another: that is why viewers wait in leaf objects, and why nothing here but plain values is shared.

use http::StatusCode;
use protocol::link_auth;
use worker::{Context, Env, Headers, Method, Request, RequestInit, Response, Result, event};

use crate::{
    api,
    guard::Shown,
    live::Directives,
    openapi,
    routes::{self, Caching, Page, Problem, Route, TrackAddress},
    streams::{Bearer, Sight},
};

mod access;
mod answer;
mod broadcast;
mod directory;
mod events;
mod guard;
mod leaf;
mod media;
mod segment;
mod stream;
mod streams;
mod watch;
mod webhooks;
mod whep;

use answer::{answer, json, problem};
use watch::Viewer;

/// Names of the bindings in `wrangler.toml`.
mod binding {
    pub(super) const BROADCAST: &str = "BROADCAST";
    pub(super) const LEAF: &str = "LEAF";
    pub(super) const STREAM: &str = "STREAM";
    pub(super) const WEBHOOK: &str = "WEBHOOK";
    pub(super) const DIRECTORY: &str = "DIRECTORY";
    pub(super) const MEDIA: &str = "MEDIA";
    pub(super) const PAGES: &str = "PAGES";
    pub(super) const MEDIA_ORIGIN: &str = "MEDIA_ORIGIN";
    pub(super) const INGEST_SERVERS: &str = "INGEST_SERVERS";
    pub(super) const LEAVES: &str = "LEAVES";
    pub(super) const LINK_SECRET: &str = "LINK_SECRET";
    pub(super) const TOKEN_KEYS: &str = "TOKEN_KEYS";
    pub(super) const TENANTS: &str = "TENANTS";
    pub(super) const TOKEN_ISSUERS: &str = "TOKEN_ISSUERS";
    pub(super) const WEBHOOKS: &str = "WEBHOOKS";
    pub(super) const WEBHOOK_SECRETS: &str = "WEBHOOK_SECRETS";
    pub(super) const ADDRESS_RULES: &str = "ADDRESS_RULES";
    pub(super) const RATES: &str = "RATES";
    pub(super) const ICE_SERVERS: &str = "ICE_SERVERS";
    pub(super) const EMBED_ORIGINS: &str = "EMBED_ORIGINS";
    pub(super) const INSTALLATION: &str = "INSTALLATION";
}

/// Fewest characters of the link secret, as in the native edge.
const MIN_SECRET: usize = 32;
/// Most leaves of a broadcast.
const MAX_LEAVES: u32 = 1_000;

fn now_unix_ms() -> i64 {
    i64::try_from(worker::Date::now().as_millis()).unwrap_or(i64::MAX)
}

/// Random bytes from the platform.
fn random<const N: usize>() -> Result<[u8; N]> {
    use worker::js_sys::{Function, Reflect, Uint8Array, global};
    let crypto = Reflect::get(&global(), &"crypto".into())?;
    let fill: Function = Reflect::get(&crypto, &"getRandomValues".into())?.into();
    let array = Uint8Array::new_with_length(N as u32);
    fill.call1(&crypto, &array)?;
    let mut bytes = [0; N];
    array.copy_to(&mut bytes);
    Ok(bytes)
}

#[event(fetch)]
async fn fetch(request: Request, env: Env, context: Context) -> Result<Response> {
    let guards = match guard::guards(&env) {
        Ok(guards) => guards,
        Err(error) => {
            // Rules that cannot be read let nobody in.
            worker::console_error!("{error}");
            return problem(None, &Problem::unavailable());
        }
    };
    let method = method(&request);
    let url = request.url()?;
    let parsed = routes::parse(&method, url.path(), url.query());
    let route = parsed.as_ref().ok();
    let origin = request.headers().get("origin")?;
    let client = guard::client(&request)?;
    let authorization = request.headers().get("authorization")?;
    let site = request.headers().get("sec-fetch-site")?;
    let shown = Shown::of(url.query(), authorization.as_deref(), site.as_deref());
    let entered = guards.guard.enter(route, client, &shown, guard::now());
    let given = match (entered, &parsed) {
        (Err(found), _) => problem(route, &found),
        (Ok(()), Err(found)) => problem(None, found),
        (Ok(()), Ok(route)) => {
            let given = match route.is_internal() {
                true => internal(route, request, &env).await,
                false => public(route, request, env, context).await,
            };
            let given = given.or_else(|error| {
                // What went wrong is for the operator's log; the viewer hears that it did.
                worker::console_error!("{}: {error}", routes::redacted(url.path()));
                problem(Some(route), &Problem::unavailable())
            });
            if let Ok(response) = &given
                && let Ok(status) = StatusCode::from_u16(response.status_code())
            {
                guards
                    .guard
                    .answered(route, client, &shown, status, guard::now());
            }
            given
        }
    };
    guards.finish(route, origin.as_deref(), given?)
}

/// As it was sent: [`Request::method`] takes what it does not know for GET.
fn method(request: &Request) -> http::Method {
    let sent = request.inner().method();
    http::Method::from_bytes(sent.as_bytes()).unwrap_or(http::Method::TRACE)
}

/// The secret that is shared with the boxes, if one is set that is long enough.
fn link_secret(env: &Env) -> Option<String> {
    let secret = env.secret(binding::LINK_SECRET).ok()?.to_string();
    (secret.len() >= MIN_SECRET).then_some(secret)
}

/// What a box asks, proved both ways.
async fn internal(route: &Route, request: Request, env: &Env) -> Result<Response> {
    let Some(secret) = link_secret(env) else {
        worker::console_error!(
            "LINK_SECRET is not set, or has less than {MIN_SECRET} characters: no box can be let in"
        );
        return problem(Some(route), &Problem::not_found());
    };
    let secret = link_auth::LinkSecret::new(secret);
    let header = request.headers().get(link_auth::REQUEST_HEADER)?;
    let path = request.path();
    let now_s = now_unix_ms() / 1_000;
    let proof = match secret.answer(method(&request).as_str(), &path, header.as_deref(), now_s) {
        Ok(proof) => proof,
        Err(refused) => {
            worker::console_warn!("{}: {refused}", routes::redacted(&path));
            return problem(Some(route), &Problem::unauthorized());
        }
    };
    let response = match route {
        Route::Admit => directory::admit(route, request, env).await?,
        Route::PutStream(name) => directory::put_stream(route, name, request, env).await?,
        Route::Configure(name) => directory::configure(route, name, request, env).await?,
        Route::Open => stream::open(route, request, env).await?,
        Route::Put(key) => media::put(route, key, request, env).await?,
        Route::Delete(key) => media::delete(route, key, env).await?,
        Route::Link(_) if request.headers().get("upgrade")?.is_none() => {
            problem(Some(route), &Problem::upgrade())?
        }
        Route::Link(id) => {
            // A 101 cannot be changed on its way, so the object puts the edge's proof into it.
            let mut forwarded = RequestInit::new();
            let headers = Headers::new();
            for name in ["upgrade", "sec-websocket-version", "sec-websocket-key"] {
                if let Some(value) = request.headers().get(name)? {
                    headers.set(name, &value)?;
                }
            }
            headers.set(link_auth::RESPONSE_HEADER, &proof)?;
            headers.set(broadcast::ID_HEADER, id.as_str())?;
            forwarded.with_method(Method::Get).with_headers(headers);
            let forwarded = Request::new_with_init(
                &format!("https://broadcast/{}", broadcast::LINK),
                &forwarded,
            )?;
            let object = env
                .durable_object(binding::BROADCAST)?
                .get_by_name(id.as_str())?;
            return object.fetch_with_request(forwarded).await;
        }
        _ => problem(Some(route), &Problem::not_found())?,
    };
    response.headers().set(link_auth::RESPONSE_HEADER, &proof)?;
    Ok(response)
}

async fn public(route: &Route, request: Request, env: Env, context: Context) -> Result<Response> {
    match route {
        Route::Preflight { .. } => answer::nothing(Some(route)),
        Route::Jwks => access::jwks(route, &env),
        Route::OpenApi => described(route, &request),
        Route::Tokens => access::mint(route, request, &env).await,
        Route::Health => answer(
            Some(route),
            StatusCode::OK,
            Caching::Never,
            Some("text/plain; charset=utf-8"),
            b"ok\n".to_vec(),
        ),
        Route::Ready => match directory::known(&env, &context).await {
            Ok(_) => answer(
                Some(route),
                StatusCode::OK,
                Caching::Never,
                Some("text/plain; charset=utf-8"),
                b"ready\n".to_vec(),
            ),
            Err(error) => {
                worker::console_error!("the directory does not answer: {error}");
                problem(Some(route), &Problem::unavailable())
            }
        },
        Route::Time { iso } => {
            let known = directory::known(&env, &context).await?;
            time(route, *iso, known.clock_offset_ms())
        }
        Route::Page(page, _) => page_of(route, *page, &request, &env).await,
        Route::Asset(path) => asset(route, path, &request, &env).await,
        Route::Streams | Route::Stream(_) => {
            let mut owner = false;
            let token = match (access::shown(&request, &env)?, route) {
                (Ok(token), _) => token,
                // No token: it may be what the studio link carries.
                (Err(_), Route::Stream(name))
                    if directory::opens_studio(name, &request, &env).await? =>
                {
                    owner = true;
                    None
                }
                (Err(found), _) => return problem(Some(route), &found),
            };
            // Whoever changes streams sees them as they are, and not as this isolate remembers them: viewers, of whom there are more, do not.
            let known = match token.as_ref().is_some_and(access::Token::manages) {
                true => directory::read(&env).await?,
                false => directory::known(&env, &context).await?,
            };
            let revoked = watch::revoked();
            let bearer = token.map(|token| token.bearer(&revoked));
            if let Route::Stream(name) = route {
                let Some(stream) = directory::stream(&env, &context, name).await? else {
                    return problem(Some(route), &Problem::no_stream());
                };
                let sight = match owner {
                    true => Sight::Managed,
                    false => Bearer::sight(bearer.as_ref(), name, stream.visibility()),
                };
                return match stream.told(name, sight) {
                    Some(told) => json(Some(route), StatusCode::OK, Caching::Never, &told),
                    None => problem(Some(route), &Bearer::kept_from(bearer.as_ref(), name)),
                };
            }
            let list = known.list(bearer.as_ref());
            json(Some(route), StatusCode::OK, Caching::Never, &list)
        }
        Route::CreateStream
        | Route::ChangeStream(_)
        | Route::DeleteStream(_)
        | Route::NewKey(_) => streams::manage(route, request, &env).await,
        Route::Beacon(name) => match directory::stream(&env, &context, name).await? {
            Some(known) => {
                let counted = watch::counts_beacons(&env, name, &known)?;
                stream::beacon(route, name, counted, request, &env).await
            }
            None => problem(Some(route), &Problem::no_stream()),
        },
        // A stream that is not there is refused like a wrong secret, and before the directory is asked for its entry.
        Route::Studio(name) | Route::RotateKey(name) | Route::LogOut(name) => {
            if directory::stream(&env, &context, name).await?.is_none() {
                return problem(Some(route), &Problem::unauthorized());
            }
            match route {
                Route::RotateKey(_) => directory::rotate_key(route, name, &request, &env).await,
                Route::LogOut(_) => directory::log_out(route, name, &request, &env).await,
                _ => directory::studio(route, name, &request, &env).await,
            }
        }
        Route::Multivariant(name) | Route::Dash(name) => {
            watch::enter(route, name, &request, &env, &context).await
        }
        Route::Whep(_) | Route::WhepPatch(_) | Route::WhepLeave(_) => {
            whep::signal(route, request, &env, &context).await
        }
        Route::Media(address, directives) => {
            let viewer = match viewer(address, &request, &env, &context).await? {
                Ok(viewer) => viewer,
                Err(found) => return problem(Some(route), &found),
            };
            let given = playlist(address, directives, &request, &env, &context).await?;
            match watch::still(&env, &address.stream, &viewer, &given).await? {
                Ok(()) => watch::without_revoked(given),
                Err(found) => problem(Some(route), &found),
            }
        }
        Route::Segment(address, msn) => match viewer(address, &request, &env, &context).await? {
            Ok(viewer) => segment::get(route, address, *msn, viewer, request, env, context).await,
            Err(found) => problem(Some(route), &found),
        },
        Route::Revocations
        | Route::Sessions(_)
        | Route::EndSession(..)
        | Route::Links(_)
        | Route::DeleteLink(..) => watch::manage(route, request, &env).await,
        Route::DeadLetters | Route::Resend(_) => events::manage(route, request, &env).await,
        Route::Object(key) => {
            if !directory::has_broadcast(&env, &context, &key.stream, &key.broadcast).await? {
                return problem(Some(route), &Problem::not_found());
            }
            media::get(route, key, &request, &env, &context).await
        }
        _ => problem(Some(route), &Problem::not_found()),
    }
}

/// Who asks for something of a broadcast, if they may.
async fn viewer(
    address: &TrackAddress,
    request: &Request,
    env: &Env,
    context: &Context,
) -> Result<std::result::Result<Viewer, Problem>> {
    let TrackAddress {
        stream,
        broadcast,
        session,
        ..
    } = address;
    if !directory::has_broadcast(env, context, stream, broadcast).await? {
        return Ok(Err(Problem::not_found()));
    }
    watch::viewer(env, context, stream, session, request).await
}

/// A media playlist: the answer to a blocked request is the same for all who ask it, whatever their session, so it is cached under the
/// address without the session.
async fn playlist(
    address: &TrackAddress,
    directives: &Directives,
    request: &Request,
    env: &Env,
    context: &Context,
) -> Result<Response> {
    let url = request.url()?;
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let Some(msn) = directives.msn else {
        return leaf::ask(env, &target, &address.broadcast, None).await;
    };
    let part = directives
        .part
        .map(|part| format!("&part={part}"))
        .unwrap_or_default();
    let key = format!(
        "https://playlist.invalid/{}/{}/{}?msn={msn}{part}&skip={}",
        address.stream, address.broadcast, address.track, directives.skip
    );
    let cache = worker::Cache::default();
    if let Some(cached) = cache.get(&key, false).await? {
        return Ok(cached);
    }
    let mut response = leaf::ask(env, &target, &address.broadcast, None).await?;
    let blocked =
        response.headers().get("cache-control")?.as_deref() == Some(Caching::Blocked.value());
    if response.status_code() == 200 && blocked && answer::first_put(&key) {
        let copy = response.cloned()?;
        context.wait_until(async move {
            if let Err(error) = cache.put(key, copy).await {
                worker::console_warn!("a playlist could not be cached: {error}");
            }
        });
    }
    Ok(response)
}

/// The clock that the timelines run by: a box's, where one is live.
fn time(route: &Route, iso: bool, offset_ms: i64) -> Result<Response> {
    let now = now_unix_ms().saturating_add(offset_ms);
    if iso {
        let body = crate::playlist::iso8601(now).into_bytes();
        return answer(
            Some(route),
            StatusCode::OK,
            Caching::Never,
            Some("text/plain; charset=utf-8"),
            body,
        );
    }
    json(
        Some(route),
        StatusCode::OK,
        Caching::Never,
        &api::Time { unix_ms: now },
    )
}

/// The description of all of this.
fn described(route: &Route, request: &Request) -> Result<Response> {
    let known = request.headers().get("if-none-match")?;
    let status = match known.is_some_and(|known| known.contains(openapi::etag())) {
        true => StatusCode::NOT_MODIFIED,
        false => StatusCode::OK,
    };
    let body = openapi::document().as_bytes().to_vec();
    let content_type = Some(openapi::CONTENT_TYPE);
    let given = answer(Some(route), status, Caching::Revalidate, content_type, body)?;
    given.headers().set("etag", openapi::etag())?;
    Ok(given)
}

async fn page_of(route: &Route, page: Page, request: &Request, env: &Env) -> Result<Response> {
    bundle(route, page.asset(), Caching::Revalidate, request, env).await
}

async fn asset(route: &Route, path: &str, request: &Request, env: &Env) -> Result<Response> {
    bundle(route, path, routes::asset_caching(path), request, env).await
}

/// A file of the player's bundle.
async fn bundle(
    route: &Route,
    path: &str,
    caching: Caching,
    request: &Request,
    env: &Env,
) -> Result<Response> {
    let mut init = RequestInit::new();
    let headers = Headers::new();
    if let Some(tag) = request.headers().get("if-none-match")? {
        headers.set("if-none-match", &tag)?;
    }
    init.with_method(Method::Get).with_headers(headers);
    let response = env
        .assets(binding::PAGES)?
        .fetch(format!("https://pages/{path}"), Some(init))
        .await?;
    match response.status_code() {
        200 | 304 => answer::with_headers(Some(route), caching, response),
        404 => problem(Some(route), &Problem::not_found()),
        status => Err(format!("the asset {path} was answered with {status}").into()),
    }
}

/// How many leaves a broadcast has.
fn leaves(env: &Env) -> u32 {
    let leaves = env
        .var(binding::LEAVES)
        .ok()
        .and_then(|n| n.to_string().parse().ok());
    leaves.unwrap_or(1).clamp(1, MAX_LEAVES)
}
