//! Who watches at the Worker: playback sessions from their begin to their end, and what ends them early.
//!
//! An isolate remembers the revocations and reads those that are newer with the directory, once a second. Within a second it hears of
//! them from the leaves: the object of a broadcast is told of each, and every answer of a leaf says which is the last that it was told of
//! ([`REVOKED_HEADER`]); an isolate that does not know that one reads it before it lets the answer out. A cached playlist carries the header
//! as well. So a revoked viewer's next part is refused, and nothing is asked of the database for it but once a revocation.

use std::{cell::RefCell, collections::HashMap, net::IpAddr, rc::Rc};

use futures::StreamExt;
use http::StatusCode;
use protocol::{
    names::{BroadcastId, Protocol, StreamName},
    session::Session,
    token::{Action, Ask, Claims, Grant, Refusal, Revocation, Revocations, StreamPattern, Tag},
};
use serde::{Deserialize, Serialize};
use worker::{Context, Env, Request, Response, Result};

use super::{
    access::access,
    answer::{answer, json, nothing, problem},
    broadcast, directory, guard, leaf, now_unix_ms, random, stream, whep,
};
use crate::{
    access::{Link, MAX_LINKS, NotMinted, TakeBack, WantedLink},
    api::{self, LinkList},
    directory::{bearer, could_open_studio, sql},
    playlist,
    routes::{self, Caching, Pass, Problem, Route},
    sessions::{About, NotOneMore},
    webhooks::{self, On},
};

/// On answers of leaves and on cached playlists: the id of the last revocation that the leaf was told of.
pub(super) const REVOKED_HEADER: &str = "x-ghost-live-revoked";
/// The stream's object hears of a session at most so often from one isolate, milliseconds: well within
/// [`crate::sessions::IDLE_MS`].
const SEEN_MS: i64 = 5_000;
/// Sessions whose last word to the stream's object an isolate remembers; beyond, it says it once more.
const MAX_SEEN: usize = 20_000;
/// Broadcasts of which an isolate remembers when it asked a leaf.
const MAX_HEARD: usize = 1_000;
/// Broadcasts that are told of a revocation side by side.
pub(super) const TOLD_AT_ONCE: usize = 32;
/// What a leaf said of revocations is taken for so long, milliseconds: less than a part.
const HEARD_MS: i64 = 250;

thread_local! {
    /// What was taken back, up to and with the revocation of that id.
    static REVOKED: RefCell<(i64, Rc<Revocations>)> = RefCell::default();
    /// When the stream's object last heard of a session.
    static SEEN: RefCell<HashMap<Tag, i64>> = RefCell::default();
    /// When a leaf of a broadcast was last asked for no more than that.
    static HEARD: RefCell<HashMap<BroadcastId, i64>> = RefCell::default();
}

/// A viewer who was let in: what is looked at again before an answer goes out.
#[derive(Debug, Clone)]
pub(super) enum Viewer {
    /// One of those who watch without a token.
    Anybody,
    /// A session.
    Session(Box<Seen>),
}

/// What the stream's object hears of a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) session: Session,
    pub(super) about: Option<About>,
    /// How many may watch.
    pub(super) most: Option<u32>,
    pub(super) address: IpAddr,
}

// ---- what was taken back

/// The id of the last revocation that is known here.
pub(super) fn revoked_id() -> i64 {
    REVOKED.with_borrow(|known| known.0)
}

pub(super) fn revoked() -> Rc<Revocations> {
    REVOKED.with_borrow(|known| Rc::clone(&known.1))
}

/// Takes in what the directory has.
pub(super) fn learn(rows: Vec<sql::RevocationRow>) {
    let Some(last) = rows.iter().map(|row| row.id as i64).max() else {
        return;
    };
    REVOKED.with_borrow_mut(|known| {
        let revocations = Rc::make_mut(&mut known.1);
        let read = rows.into_iter().filter_map(|row| {
            let read = row.read();
            if read.is_none() {
                worker::console_error!("a revocation cannot be read, and is not in force");
            }
            read
        });
        match revocations.is_empty() {
            // A new isolate reads all that there are, of which none contains another.
            true => revocations.extend(read),
            false => read.for_each(|revocation| {
                revocations.add(revocation);
            }),
        }
        revocations.forget(now_unix_ms());
        known.0 = known.0.max(last);
    });
}

/// What was taken back, up to this moment.
pub(super) async fn revoked_now(env: &Env) -> Result<Rc<Revocations>> {
    learn(directory::revocations(env, revoked_id()).await?);
    Ok(revoked())
}

/// Takes in what an answer says that a leaf made, now or before it was cached.
async fn hear(env: &Env, response: &Response) -> Result<()> {
    let told = response.headers().get(REVOKED_HEADER)?;
    let told: i64 = told.and_then(|id| id.parse().ok()).unwrap_or_default();
    if told > revoked_id() {
        learn(directory::revocations(env, revoked_id()).await?);
    }
    Ok(())
}

// ---- viewers

/// Whether a request for a playlist or a segment may go on, and who asks; its session is counted as seen.
pub(super) async fn viewer(
    env: &Env,
    context: &Context,
    stream: &StreamName,
    session: &routes::Session,
    request: &Request,
) -> Result<std::result::Result<Viewer, Problem>> {
    let Some(known) = directory::stream(env, context, stream).await? else {
        return Ok(Err(Problem::not_found()));
    };
    if session.is_public() {
        return Ok(if known.visibility().needs_token() {
            Err(Problem::token_needed())
        } else if needs_session(env, stream, &known)? {
            Err(Problem::session_needed())
        } else {
            Ok(Viewer::Anybody)
        });
    }
    let (address, session) = match read(env, stream, &known, session, request)? {
        Ok(read) => read,
        Err(found) => return Ok(Err(found)),
    };
    let seen = Seen {
        session,
        about: None,
        most: known.limits().max_viewers,
        address,
    };
    if let Err(found) = say_seen(env, context, stream, &seen).await? {
        return Ok(Err(found));
    }
    Ok(Ok(Viewer::Session(Box::new(seen))))
}

/// The session of an address, if it may go on, without taking a place for it.
pub(super) async fn session(
    env: &Env,
    context: &Context,
    stream: &StreamName,
    session: &routes::Session,
    request: &Request,
) -> Result<std::result::Result<(IpAddr, Session), Problem>> {
    match directory::stream(env, context, stream).await? {
        Some(known) => read(env, stream, &known, session, request),
        None => Ok(Err(Problem::no_stream())),
    }
}

fn read(
    env: &Env,
    stream: &StreamName,
    known: &directory::KnownStream,
    session: &routes::Session,
    request: &Request,
) -> Result<std::result::Result<(IpAddr, Session), Problem>> {
    let Some(access) = access(env)? else {
        return Ok(Err(Problem::token(&Refusal::Key)));
    };
    let address = guard::client(request)?.address;
    let read = access.session(session.as_str(), stream, address, &revoked(), now_unix_ms());
    let session = match read {
        Ok(session) => session,
        Err(refusal) => return Ok(Err(Problem::token(&refusal))),
    };
    // It began while no token was needed.
    if session.is_anonymous() && known.visibility().needs_token() {
        return Ok(Err(Problem::token_needed()));
    }
    Ok(Ok((address, session)))
}

/// Whether somebody who was let in may have the answer that a leaf gave.
pub(super) async fn still(
    env: &Env,
    stream: &StreamName,
    viewer: &Viewer,
    response: &Response,
) -> Result<std::result::Result<(), Problem>> {
    if let Viewer::Session(_) = viewer {
        hear(env, response).await?;
    }
    now(env, stream, viewer).await
}

/// As [`still`], where the answer comes from a cache and a leaf has not been heard for longer than a part.
pub(super) async fn still_now(
    env: &Env,
    stream: &StreamName,
    broadcast: &BroadcastId,
    viewer: &Viewer,
    target: &str,
) -> Result<std::result::Result<(), Problem>> {
    let Viewer::Session(_) = viewer else {
        return now(env, stream, viewer).await;
    };
    let heard = HEARD.with_borrow(|heard| heard.get(broadcast).copied());
    if heard.is_none_or(|at| now_unix_ms().saturating_sub(at) > HEARD_MS) {
        let (asked, response) = (
            now_unix_ms(),
            leaf::ask(env, target, broadcast, Some(0)).await?,
        );
        hear(env, &response).await?;
        HEARD.with_borrow_mut(|heard| {
            if heard.len() > MAX_HEARD {
                heard.clear();
            }
            heard.insert(broadcast.clone(), asked);
        });
    }
    now(env, stream, viewer).await
}

/// As far as it is known here, once a leaf was heard.
async fn now(
    env: &Env,
    stream: &StreamName,
    viewer: &Viewer,
) -> Result<std::result::Result<(), Problem>> {
    // What needs a token by now is not for those who came without one.
    let with_token = matches!(viewer, Viewer::Session(seen) if !seen.session.is_anonymous());
    if !with_token && directory::needs_token(stream) {
        return Ok(Err(Problem::token_needed()));
    }
    let Viewer::Session(seen) = viewer else {
        return Ok(Ok(()));
    };
    let refused = match seen.session.ends_unix_ms <= now_unix_ms() {
        true => Err(Refusal::Expired),
        false => revoked().refuse_session(&seen.session, stream),
    };
    if let Err(refusal) = refused {
        return Ok(Err(Problem::token(&refusal)));
    }
    // It may have said that it is gone while it waited, and its place may be another device's.
    let noted = SEEN.with_borrow(|all| all.contains_key(&seen.session.id));
    match seen.session.max {
        Some(_) if !noted => place(env, stream, seen).await,
        _ => Ok(Ok(())),
    }
}

/// Tells the stream's object of a session, now and then. Where its token is for so many devices the answer is waited for.
async fn say_seen(
    env: &Env,
    context: &Context,
    stream: &StreamName,
    seen: &Seen,
) -> Result<std::result::Result<(), Problem>> {
    let (id, now) = (seen.session.id, now_unix_ms());
    let begins = seen.about.is_some();
    let due = SEEN.with_borrow_mut(|all| {
        if all.len() > MAX_SEEN {
            all.clear();
        }
        let due = all
            .get(&id)
            .is_none_or(|at| now.saturating_sub(*at) >= SEEN_MS);
        if due || begins {
            all.insert(id, now);
        }
        due || begins
    });
    if !due {
        return Ok(Ok(()));
    }
    let body = serde_json::to_string(seen)?;
    if seen.session.max.is_none() && seen.most.is_none() && !begins {
        let (env, stream) = (env.clone(), stream.clone());
        context.wait_until(async move {
            if let Err(error) = stream::question(&env, &stream, stream::SEEN, body).await {
                worker::console_warn!(
                    "the stream's object could not be told of a session: {error}"
                );
            }
        });
        return Ok(Ok(()));
    }
    place(env, stream, seen).await
}

/// Asks whether there is a place for a session: where its token is for so many devices the token's object, and the stream's.
async fn place(
    env: &Env,
    stream: &StreamName,
    seen: &Seen,
) -> Result<std::result::Result<(), Problem>> {
    let (id, now) = (seen.session.id, now_unix_ms());
    // The next request asks again: another device may have stopped.
    SEEN.with_borrow_mut(|all| all.remove(&id));
    let body = serde_json::to_string(seen)?;
    let token = seen.session.max.map(|_| seen.session.holder.token);
    if let Some(token) = &token {
        let asked = stream::question_of_token(env, token, stream, stream::DEVICE, body.clone());
        let mut given = asked.await?;
        if given.status_code() != 204 {
            let refused: NotOneMore = given.json().await?;
            return Ok(Err(Problem::not_one_more(&refused)));
        }
    }
    let mut given = stream::question(env, stream, stream::SEEN, body).await?;
    if given.status_code() == 204 {
        SEEN.with_borrow_mut(|all| all.insert(id, now));
        return Ok(Ok(()));
    }
    if let Some(token) = &token {
        stream::question_of_token(env, token, stream, stream::LEFT, id.to_string()).await?;
    }
    let refused: NotOneMore = given.json().await?;
    Ok(Err(Problem::not_one_more(&refused)))
}

/// A player says that it is gone.
pub(super) async fn left(
    env: &Env,
    stream: &StreamName,
    session: &str,
    request: &Request,
) -> Result<()> {
    let Some(access) = access(env)? else {
        return Ok(());
    };
    let address = guard::client(request)?.address;
    if let Ok(session) = access.session(session, stream, address, &revoked(), now_unix_ms()) {
        free(env, stream, &session).await?;
        // It may have been played by WebRTC, which goes on until it is told.
        if let Some(broadcast) = directory::newest(stream) {
            whep::ended(env, &broadcast, session).await?;
        }
    }
    Ok(())
}

/// A session is over: its place is another's.
pub(super) async fn free(env: &Env, stream: &StreamName, session: &Session) -> Result<()> {
    SEEN.with_borrow_mut(|all| all.remove(&session.id));
    let id = session.id.to_string();
    if session.max.is_some() {
        let token = &session.holder.token;
        stream::question_of_token(env, token, stream, stream::LEFT, id.clone()).await?;
    }
    stream::question(env, stream, stream::LEFT, id)
        .await
        .map(drop)
}

/// A multivariant playlist or an MPD, with a session for whoever comes with a token.
pub(super) async fn enter(
    route: &Route,
    name: &StreamName,
    request: &Request,
    env: &Env,
    context: &Context,
) -> Result<Response> {
    let Some(known) = directory::stream(env, context, name).await? else {
        return problem(Some(route), &Problem::no_stream());
    };
    let (url, authorization) = (request.url()?, request.headers().get("authorization")?);
    let pass = match Pass::of(url.query(), bearer(authorization.as_deref())) {
        Ok(pass) => pass,
        Err(found) => return problem(Some(route), &found),
    };
    let needed = needs_session(env, name, &known)?;
    let (begins, goes_on) = match entry(env, context, name, &known, pass, needed, request).await? {
        Ok(Entry::Anybody) => (None, None),
        Ok(Entry::Begins(session, claims)) => (Some((session, claims)), None),
        Ok(Entry::GoesOn(session, seen)) => (None, Some((session, Viewer::Session(seen)))),
        Err(found) => return problem(Some(route), &found),
    };
    let address = guard::client(request)?.address;
    let Some(broadcast) = known.newest() else {
        return problem(Some(route), &Problem::not_live());
    };
    // Without the query: a token is nobody else's business.
    let mut given = leaf::ask(env, url.path(), broadcast, None).await?;
    match given.status_code() {
        200 => {}
        // One that ended long ago is forgotten by its object before it is by the directory.
        404 => return problem(Some(route), &Problem::not_live()),
        _ => return without_revoked(given),
    }
    let (protocol, kind) = match route {
        Route::Dash(_) => (Protocol::Dash, playlist::DASH_TYPE),
        _ => (Protocol::Hls, playlist::HLS_TYPE),
    };
    let (session, viewer) = match (begins, goes_on) {
        (Some((session, claims)), _) => {
            match begun(env, context, name, *session, claims, protocol, address).await? {
                Err(found) => return problem(Some(route), &found),
                Ok(Begun::Here(text, seen)) => (text, Viewer::Session(seen)),
                Ok(Begun::Elsewhere(stream, text)) => {
                    let location = routes::elsewhere(route, &stream, &text);
                    let sent = answer(
                        Some(route),
                        StatusCode::TEMPORARY_REDIRECT,
                        Caching::Never,
                        None,
                        Vec::new(),
                    )?;
                    sent.headers().set("location", &location)?;
                    return Ok(sent);
                }
            }
        }
        (None, Some((session, viewer))) => (session.as_str().to_owned(), viewer),
        (None, None) => return without_revoked(given),
    };
    if let Err(found) = still(env, name, &viewer, &given).await? {
        return problem(Some(route), &found);
    }
    let body = playlist::personal(&given.text().await?, &session);
    answer(
        Some(route),
        StatusCode::OK,
        Caching::Never,
        Some(kind),
        body.into_bytes(),
    )
}

/// How somebody comes in where playing begins.
pub(super) enum Entry {
    /// Without a session.
    Anybody,
    /// With a new one, and what their token says where they have one.
    Begins(Box<Session>, Option<Claims>),
    /// With the one that they have.
    GoesOn(routes::Session, Box<Seen>),
}

/// Looks at what a request shows where playing begins; `needed` where whoever comes without a token has a session too.
pub(super) async fn entry(
    env: &Env,
    context: &Context,
    name: &StreamName,
    known: &directory::KnownStream,
    pass: Option<Pass>,
    needed: bool,
    request: &Request,
) -> Result<std::result::Result<Entry, Problem>> {
    let client = guard::client(request)?;
    let token = pass.as_ref().and_then(Pass::token).map(str::to_owned);
    let entry = match pass {
        None if known.visibility().needs_token() => return Ok(Err(Problem::token_needed())),
        None if needed => {
            let session = Session::anonymous(random()?, now_unix_ms());
            Entry::Begins(Box::new(session), None)
        }
        None => Entry::Anybody,
        Some(Pass::Session(session)) => {
            match viewer(env, context, name, &session, request).await? {
                Err(found) => return Ok(Err(found)),
                Ok(Viewer::Anybody) => Entry::Anybody,
                Ok(Viewer::Session(seen)) => Entry::GoesOn(session, seen),
            }
        }
        Some(Pass::Token(token)) => match begin(env, name, &token, client.address).await? {
            Ok((grant, session)) => Entry::Begins(Box::new(session), Some(grant.claims().clone())),
            Err(refusal) => return Ok(Err(Problem::token(&refusal))),
        },
    };
    if let Entry::Begins(..) = entry {
        let guards = guard::guards(env)?;
        let begins = (guards.guard).begins(client, token.as_deref(), guard::now());
        if let Err(found) = begins {
            return Ok(Err(found));
        }
    }
    Ok(Ok(entry))
}

/// What became of somebody who comes in.
pub(super) enum Begun {
    /// They have this segment of the addresses.
    Here(String, Box<Seen>),
    /// They are sent to another stream, with a session for it.
    Elsewhere(StreamName, String),
}

/// Begins the session of somebody who comes in: asks the webhooks, and whether one more may.
pub(super) async fn begun(
    env: &Env,
    context: &Context,
    name: &StreamName,
    mut session: Session,
    claims: Option<Claims>,
    protocol: Protocol,
    address: IpAddr,
) -> Result<std::result::Result<Begun, Problem>> {
    let Some(access) = access(env)? else {
        return Ok(Err(Problem::no_token_keys()));
    };
    let ask = webhooks::Ask::watch(name, protocol, address, claims.clone());
    let allowed = match super::webhooks::ask(env, &ask).await? {
        Ok(allowed) => allowed,
        Err(denied) => return Ok(Err(Problem::denied(denied.to_string()))),
    };
    if let Some(ends) = allowed.ends_unix_ms {
        session.ends_unix_ms = session.ends_unix_ms.min(ends);
    }
    let Some(watched) = directory::stream(env, context, &allowed.stream).await? else {
        return Ok(Err(Problem::no_stream()));
    };
    // A webhook may send somebody elsewhere, but not past a token that is needed there and that theirs is not.
    let covered = claims
        .as_ref()
        .is_some_and(|claims| claims.stream.covers(&allowed.stream));
    if watched.visibility().needs_token() && !covered {
        return Ok(Err(Problem::token_needed()));
    }
    let all = directory::known(env, context).await?;
    if let Err(full) = all.may_watch(&*directory::tenants(env)?, &allowed.stream) {
        return Ok(Err(Problem::full(full.to_string())));
    }
    let seen = Seen {
        about: Some(About {
            subject: claims.as_ref().map(|claims| claims.sub.clone()),
            jti: claims.map(|claims| claims.jti),
            protocol,
        }),
        session,
        most: watched.limits().max_viewers,
        address,
    };
    if let Err(found) = say_seen(env, context, &allowed.stream, &seen).await? {
        return Ok(Err(found));
    }
    let text = match access.sign_session(&allowed.stream, &seen.session) {
        Ok(text) => text,
        Err(refusal) => return Ok(Err(Problem::token(&refusal))),
    };
    Ok(Ok(match allowed.stream == *name {
        true => Begun::Here(text, Box::new(seen)),
        false => Begun::Elsewhere(allowed.stream, text),
    }))
}

/// Whether beacons say who watches a stream: not where each has a session, for they are of the same people and anybody can make them up.
pub(super) fn counts_beacons(
    env: &Env,
    stream: &StreamName,
    known: &directory::KnownStream,
) -> Result<bool> {
    Ok(!known.visibility().needs_token() && !needs_session(env, stream, known)?)
}

/// Whether all who watch have a session: a webhook is asked about each, or they are counted.
fn needs_session(env: &Env, stream: &StreamName, known: &directory::KnownStream) -> Result<bool> {
    let counted = directory::tenants(env)?.count_viewers(stream, known.limits());
    Ok(counted || super::webhooks::asks(env, On::Watch, stream)?)
}

async fn begin(
    env: &Env,
    stream: &StreamName,
    token: &str,
    address: IpAddr,
) -> Result<std::result::Result<(Grant, Session), Refusal>> {
    let Some(access) = access(env)? else {
        return Ok(Err(Refusal::Key));
    };
    let ask = Ask {
        action: Action::Watch,
        stream,
        address,
    };
    let (id, now) = (random()?, now_unix_ms());
    let begun = access.begin(token, &ask, &revoked(), id, now);
    if begun == Err(Refusal::Malformed) && could_open_studio(token) {
        let studio = directory::find_stream(env, sql::stream(stream)).await?;
        if let Some(jti) = studio.and_then(|studio| studio.studio_token(token)) {
            return Ok(access.begin_in_studio(jti, &ask, &revoked(), id, now));
        }
    }
    Ok(begun)
}

/// An answer without what is said inside the edge only.
pub(super) fn without_revoked(response: Response) -> Result<Response> {
    match response.headers().has(REVOKED_HEADER)? {
        true => super::answer::from_cache(response),
        false => Ok(response),
    }
}

// ---- who manages

/// Whether whoever asks manages all of these streams: by a token, or (one stream) by its studio link; and what
/// they manage.
pub(super) async fn manages(
    env: &Env,
    streams: &StreamPattern,
    request: &Request,
) -> Result<std::result::Result<StreamPattern, Problem>> {
    Ok(match manager(env, streams, request).await? {
        Ok(grant) => Ok(grant.claims().stream.clone()),
        Err(found) => match streams.name() {
            Some(name) if directory::opens_studio(&name, request, env).await? => {
                Ok(streams.clone())
            }
            _ => Err(found),
        },
    })
}

/// The token that lets whoever asks manage all of these streams.
pub(super) async fn manager(
    env: &Env,
    streams: &StreamPattern,
    request: &Request,
) -> Result<std::result::Result<Grant, Problem>> {
    let authorization = request.headers().get("authorization")?;
    let Some(token) = bearer(authorization.as_deref()) else {
        return Ok(Err(Problem::unauthorized()));
    };
    let Some(access) = access(env)? else {
        return Ok(Err(Problem::unauthorized()));
    };
    let address = guard::client(request)?.address;
    let grant = access.manages(token, streams, address, &revoked(), now_unix_ms());
    let grant = match grant {
        // Only now, so that one that is no good costs no read.
        Ok(grant) => revoked_now(env)
            .await?
            .refuse_manager(&grant)
            .map(|()| grant),
        refused => refused,
    };
    Ok(grant.map_err(|refusal| Problem::token(&refusal)))
}

// ---- what owners ask

/// Takes something back: keeps it, and tells the broadcasts that it concerns.
pub(super) async fn take_back(env: &Env, revocation: Revocation) -> Result<Revocation> {
    directory::batch(env, &sql::revoke(&revocation, now_unix_ms())).await?;
    tell(env, &revocation.streams).await?;
    Ok(revocation)
}

/// Tells the running broadcasts of these streams that something was taken back.
pub(super) async fn tell(env: &Env, streams: &StreamPattern) -> Result<()> {
    revoked_now(env).await?;
    let known = directory::read(env).await?;
    let told = known.running(streams).map(|broadcast| async move {
        // One that cannot be told hears of it with its publisher's next change, its viewers' isolates within a second.
        if let Err(error) = broadcast::revoked(env, broadcast, revoked_id()).await {
            worker::console_warn!("a broadcast could not be told of a revocation: {error}");
        }
    });
    // Side by side, for they have to hear it within two seconds.
    futures::stream::iter(told)
        .buffer_unordered(TOLD_AT_ONCE)
        .collect::<()>()
        .await;
    Ok(())
}

/// `POST /api/revocations`, sessions and watch links of a stream.
pub(super) async fn manage(route: &Route, mut request: Request, env: &Env) -> Result<Response> {
    if let Route::Revocations = route {
        let authorization = request.headers().get("authorization")?;
        if bearer(authorization.as_deref()).is_none() {
            return problem(Some(route), &Problem::unauthorized());
        }
        let body = directory::question(&mut request).await?;
        let wanted: TakeBack = match body.and_then(|body| api::read(&body)) {
            Ok(wanted) => wanted,
            Err(found) => return problem(Some(route), &found),
        };
        let manager = match manages(env, &wanted.streams, &request).await? {
            Ok(manager) => manager,
            Err(found) => return problem(Some(route), &found),
        };
        if let Err(why) = wanted.check() {
            return problem(Some(route), &Problem::body(why));
        }
        let wanted = wanted.folded(&manager, &*directory::tenants(env)?, &revoked());
        let revocation = take_back(env, wanted.revocation(now_unix_ms())).await?;
        return json(Some(route), StatusCode::OK, Caching::Never, &revocation);
    }
    let (Route::Sessions(name)
    | Route::EndSession(name, _)
    | Route::Links(name)
    | Route::DeleteLink(name, _)) = route
    else {
        return problem(Some(route), &Problem::not_found());
    };
    if let Err(found) = manages(env, &name.clone().into(), &request).await? {
        return problem(Some(route), &found);
    }
    // A token may manage names that are not there.
    if directory::find_stream(env, sql::stream(name))
        .await?
        .is_none()
    {
        return problem(Some(route), &Problem::no_stream());
    }
    let done = || nothing(Some(route));
    match route {
        Route::Sessions(_) => {
            let given = stream::question(env, name, stream::SESSIONS, String::new()).await?;
            super::answer::with_headers(Some(route), Caching::Never, given)
        }
        Route::EndSession(_, id) => {
            let ended = TakeBack {
                what: protocol::token::Revoked::Session(*id),
                streams: name.clone().into(),
            };
            let ended = ended.folded(&name.clone().into(), &*directory::tenants(env)?, &revoked());
            take_back(env, ended.revocation(now_unix_ms())).await?;
            stream::question(env, name, stream::LEFT, id.to_string()).await?;
            done()
        }
        Route::DeleteLink(_, jti) => {
            let Some(access) = access(env)? else {
                return problem(Some(route), &Problem::not_found());
            };
            let links = directory::links(env, name).await?;
            let Some(link) = links.iter().find(|link| link.jti == *jti) else {
                return problem(Some(route), &Problem::not_found());
            };
            let (now, tenants, revoked) = (now_unix_ms(), directory::tenants(env)?, revoked());
            let (jti, exp) = (link.jti.clone(), link.exp());
            let revocation = access.revoke_link(name, jti.clone(), exp, &tenants, &revoked, now);
            let [sweep, revoke] = sql::revoke(&revocation, now);
            let delete = sql::delete_link(name, &jti);
            directory::batch(env, &[sweep, revoke, delete]).await?;
            tell(env, &revocation.streams).await?;
            done()
        }
        _ if request.method() == worker::Method::Post => add_link(route, name, request, env).await,
        _ => {
            let Some(access) = access(env)? else {
                return json(
                    Some(route),
                    StatusCode::OK,
                    Caching::Never,
                    &LinkList { links: Vec::new() },
                );
            };
            let links = directory::links(env, name).await?.into_iter();
            let links = links.filter_map(|row| {
                let claims: Claims = serde_json::from_str(&row.claims).ok()?;
                access.link(&claims, row.created_unix_ms as i64).ok()
            });
            let links: Vec<Link> = links.collect();
            json(
                Some(route),
                StatusCode::OK,
                Caching::Never,
                &LinkList { links },
            )
        }
    }
}

async fn add_link(
    route: &Route,
    name: &StreamName,
    mut request: Request,
    env: &Env,
) -> Result<Response> {
    let Some(access) = access(env)? else {
        return problem(Some(route), &Problem::no_token_keys());
    };
    let body = directory::question(&mut request).await?;
    let wanted: WantedLink = match body.and_then(|body| api::read(&body)) {
        Ok(wanted) => wanted,
        Err(found) => return problem(Some(route), &found),
    };
    let now = now_unix_ms();
    let revoked = revoked_now(env).await?;
    let (claims, link) = match access.make_link(name, &wanted, &revoked, random()?, now) {
        Ok(made) => made,
        Err(NotMinted::Mint(error)) => return problem(Some(route), &Problem::mint(&error)),
        Err(NotMinted::Refused(refusal)) => return problem(Some(route), &Problem::token(&refusal)),
    };
    let claims = serde_json::to_string(&claims)?;
    let statement = sql::add_link(name, &link.jti, &link.name, &claims, now, MAX_LINKS);
    match directory::batch(env, &[statement]).await? {
        0 => problem(Some(route), &Problem::too_many_links(MAX_LINKS)),
        _ => json(Some(route), StatusCode::CREATED, Caching::Never, &link),
    }
}
