//! The object of one stream: which broadcast it has now, decided for one publisher at a time, and how many watch.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use http::StatusCode;
use protocol::{
    internal::{Open, OpenAnswer},
    names::{BroadcastId, Protocol, StreamName},
    signaling::Viewer,
    token::Tag,
};
use serde::{Deserialize, Serialize};
use worker::{
    DurableObject, Env, Headers, Method, Request, RequestInit, Response, Result, State, Storage,
    durable_object,
};

use super::{
    answer::{answer, json, nothing, problem},
    binding,
    broadcast::{RESUME, SUPERSEDE},
    directory, media, now_unix_ms,
    watch::{self, Seen},
};
use crate::{
    api::{self, SessionList},
    audience::{Audience, Beacon, MAX_BEACON_BYTES},
    directory::{Refusal, sql},
    routes::{Caching, Problem, Route},
    sessions::{About, Sessions},
};

/// A session asks for something, or begins.
pub(super) const SEEN: &str = "seen";
/// A device of a token asks for something.
pub(super) const DEVICE: &str = "device";
/// A session is over.
pub(super) const LEFT: &str = "left";
/// These watch by WebRTC: answered with those that have no place.
pub(super) const WATCHING: &str = "watching";
/// These watch by WebRTC no more.
pub(super) const GONE: &str = "gone";
/// Who watches with a token.
pub(super) const SESSIONS: &str = "sessions";
/// How many watched at the most since this was asked last.
const WATCHED: &str = "watched";
const DELETED_KEY: &str = "deleted";
/// How often the objects of a deleted stream are looked for, milliseconds, and for how long at the least.
const SWEEP_MS: i64 = 30_000;
const DELETED_FOR_MS: i64 = 10 * 60_000;
const CURRENT_KEY: &str = "current";
const STREAM_HEADER: &str = "x-ghost-live-stream";
/// The directory hears at most so often how many watch, milliseconds.
const COUNT_MS: i64 = 10_000;

/// `POST /internal/broadcasts`.
pub(super) async fn open(route: &Route, mut request: Request, env: &Env) -> Result<Response> {
    let body = directory::question(&mut request).await?;
    let asked: Open = match body.and_then(|body| api::read(&body)) {
        Ok(asked) => asked,
        Err(found) => return problem(Some(route), &found),
    };
    if !directory::read(env).await?.has_stream(&asked.stream) {
        let refusal = Refusal::NoStream(asked.stream);
        return problem(Some(route), &Problem::refused(refusal.to_string()));
    }
    let body = serde_json::to_string(&asked)?;
    let given = question(env, &asked.stream, "open", body).await?;
    super::answer::with_headers(Some(route), Caching::Never, given)
}

/// A broadcast begins: from now on it is its stream's, and the one before is over. The inner error is a sentence for the box's operator.
pub(super) async fn begun(env: &Env, opened: &Open) -> Result<std::result::Result<(), String>> {
    let body = serde_json::to_string(opened)?;
    let mut given = question(env, &opened.stream, "begun", body).await?;
    match given.status_code() {
        204 => Ok(Ok(())),
        403 => Ok(Err(given.text().await?)),
        status => Err(format!("the stream's object answered with {status}").into()),
    }
}

/// Deletes a stream that was made by then, Unix milliseconds: its broadcast ends, and its objects go. Once this was heard it is done,
/// whatever fails meanwhile.
pub(super) async fn delete(env: &Env, stream: &StreamName, at_unix_ms: i64) -> Result<()> {
    let deleted = Deleted {
        stream: stream.clone(),
        at_unix_ms,
    };
    let body = serde_json::to_string(&deleted)?;
    match question(env, stream, "delete", body).await?.status_code() {
        204 => Ok(()),
        status => Err(format!("the stream's object answered with {status}").into()),
    }
}

/// `POST /api/streams/{stream}/beacon`; `counted` where beacons say who watches the stream.
pub(super) async fn beacon(
    route: &Route,
    stream: &StreamName,
    counted: bool,
    mut request: Request,
    env: &Env,
) -> Result<Response> {
    let length = request
        .headers()
        .get("content-length")?
        .and_then(|length| length.parse::<usize>().ok());
    // Without a length it would be read whole, however long.
    if length.is_none_or(|length| length > MAX_BEACON_BYTES) {
        return problem(Some(route), &Problem::too_large());
    }
    let body = request.bytes().await?;
    let beacon = match api::read_beacon(&body) {
        Ok(beacon) => beacon,
        Err(found) => return problem(Some(route), &found),
    };
    match &beacon.session {
        // Its requests count a session.
        Some(session) if beacon.left => watch::left(env, stream, session, &request).await?,
        None if counted => {
            drop(question(env, stream, "beacon", serde_json::to_string(&beacon)?).await?)
        }
        _ => {}
    }
    nothing(Some(route))
}

/// How many watched a stream at one time at the most, since this was asked last.
pub(super) async fn watched(env: &Env, stream: &StreamName) -> Result<u64> {
    let mut given = question(env, stream, WATCHED, String::new()).await?;
    given.json().await
}

/// Asks the object that counts the devices of a token, wherever they watch; it lies beside those of the streams, whose names have no colon.
pub(super) async fn question_of_token(
    env: &Env,
    token: &Tag,
    stream: &StreamName,
    path: &str,
    body: String,
) -> Result<Response> {
    ask(env, &format!("token:{token}"), stream, path, body).await
}

pub(super) async fn question(
    env: &Env,
    stream: &StreamName,
    path: &str,
    body: String,
) -> Result<Response> {
    ask(env, stream.as_str(), stream, path, body).await
}

async fn ask(
    env: &Env,
    object: &str,
    stream: &StreamName,
    path: &str,
    body: String,
) -> Result<Response> {
    let headers = Headers::new();
    headers.set(STREAM_HEADER, stream.as_str())?;
    let mut init = RequestInit::new();
    init.with_method(Method::Post)
        .with_headers(headers)
        .with_body(Some(body.into()));
    let request = Request::new_with_init(&format!("https://stream/{path}"), &init)?;
    env.durable_object(binding::STREAM)?
        .get_by_name(object)?
        .fetch_with_request(request)
        .await
}

/// Who watches a stream by WebRTC, and how many may watch it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Watching {
    pub(super) viewers: Vec<Viewer>,
    pub(super) most: Option<u32>,
}

#[durable_object]
pub struct StreamObject {
    state: State,
    viewers: Rc<Viewers>,
}

struct Viewers {
    env: Env,
    audience: RefCell<Audience>,
    sessions: RefCell<Sessions>,
    stream: RefCell<Option<StreamName>>,
    said_unix_ms: Cell<i64>,
    said: Cell<usize>,
    /// How many watched at the most since the broadcast's object asked.
    most: Cell<usize>,
    alarm_set: Cell<bool>,
}

impl Viewers {
    /// How many watch now.
    fn count(&self, now_unix_ms: i64) -> usize {
        let beacons = self.audience.borrow_mut().count(now_unix_ms);
        beacons + self.sessions.borrow_mut().count(now_unix_ms)
    }
}

impl DurableObject for StreamObject {
    fn new(state: State, env: Env) -> Self {
        let viewers = Viewers {
            env,
            audience: RefCell::default(),
            sessions: RefCell::default(),
            stream: RefCell::default(),
            said_unix_ms: Cell::default(),
            said: Cell::new(usize::MAX),
            most: Cell::default(),
            alarm_set: Cell::default(),
        };
        Self {
            state,
            viewers: Rc::new(viewers),
        }
    }

    async fn fetch(&self, mut request: Request) -> Result<Response> {
        let stream = request
            .headers()
            .get(STREAM_HEADER)?
            .and_then(|name| name.parse::<StreamName>().ok());
        let Some(stream) = stream else {
            return problem(None, &Problem::not_found());
        };
        match request.path().as_str() {
            "/open" => {
                let (env, storage) = (self.viewers.env.clone(), self.state.storage());
                let resume = async move { Ok(resume(&env, &storage).await) };
                // One publisher at a time: the answer depends on what the one before was told.
                let answer = self.state.block_concurrency_while(resume).await??;
                json(None, StatusCode::OK, Caching::Never, &answer)
            }
            "/begun" => {
                let opened: Open = request.json().await?;
                let (env, storage) = (self.viewers.env.clone(), self.state.storage());
                let begin = async move { Ok(begin(&env, &storage, &opened).await) };
                match self.state.block_concurrency_while(begin).await?? {
                    Ok(()) => {
                        // The peak of the one before is not its.
                        self.viewers.most.set(0);
                        nothing(None)
                    }
                    Err(why) => answer(
                        None,
                        StatusCode::FORBIDDEN,
                        Caching::Never,
                        Some("text/plain; charset=utf-8"),
                        why.into_bytes(),
                    ),
                }
            }
            "/beacon" => {
                let beacon: Beacon = request.json().await?;
                self.viewers.stream.replace(Some(stream));
                self.viewers
                    .audience
                    .borrow_mut()
                    .beacon(&beacon, now_unix_ms());
                self.say().await?;
                nothing(None)
            }
            "/delete" => {
                let deleted: Deleted = request.json().await?;
                self.state.storage().put(DELETED_KEY, &deleted).await?;
                self.look_after_deleted().await?;
                nothing(None)
            }
            "/seen" => {
                let seen: Seen = request.json().await?;
                self.viewers.stream.replace(Some(stream));
                let told = self.viewers.sessions.borrow_mut().seen(
                    &seen.session,
                    seen.about,
                    seen.most,
                    seen.address,
                    now_unix_ms(),
                );
                match told {
                    Ok(()) => {
                        self.say().await?;
                        nothing(None)
                    }
                    Err(refused) => json(None, StatusCode::FORBIDDEN, Caching::Never, &refused),
                }
            }
            "/device" => {
                let seen: Seen = request.json().await?;
                let (session, address) = (&seen.session, seen.address);
                let mut sessions = self.viewers.sessions.borrow_mut();
                match sessions.seen(session, None, None, address, now_unix_ms()) {
                    Ok(()) => nothing(None),
                    Err(refused) => json(None, StatusCode::FORBIDDEN, Caching::Never, &refused),
                }
            }
            "/left" => {
                if let Ok(id) = request.text().await?.parse() {
                    self.viewers.sessions.borrow_mut().left(&id);
                }
                nothing(None)
            }
            "/watching" => {
                let Watching { viewers, most } = request.json().await?;
                self.viewers.stream.replace(Some(stream));
                let now = now_unix_ms();
                let mut out = Vec::new();
                for Viewer { session, address } in viewers {
                    let mut sessions = self.viewers.sessions.borrow_mut();
                    // Of one that was let in long ago nothing else is known.
                    let about = (!sessions.is_active(&session, now)).then_some(About {
                        subject: None,
                        jti: None,
                        protocol: Protocol::Whep,
                    });
                    if sessions.seen(&session, about, most, address, now).is_err() {
                        out.push(session.id);
                    }
                }
                self.say().await?;
                json(None, StatusCode::OK, Caching::Never, &out)
            }
            "/gone" => {
                let gone: Vec<Tag> = request.json().await?;
                for id in &gone {
                    self.viewers.sessions.borrow_mut().left(id);
                }
                nothing(None)
            }
            "/sessions" => {
                let sessions = self.viewers.sessions.borrow_mut().list(now_unix_ms());
                let list = SessionList { sessions };
                json(None, StatusCode::OK, Caching::Never, &list)
            }
            "/watched" => {
                let count = self.viewers.count(now_unix_ms());
                let most = self.viewers.most.replace(count).max(count);
                json(None, StatusCode::OK, Caching::Never, &most)
            }
            _ => problem(None, &Problem::not_found()),
        }
    }

    async fn alarm(&self) -> Result<Response> {
        self.viewers.alarm_set.set(false);
        self.look_after_deleted().await?;
        self.say().await?;
        Response::empty()
    }
}

/// That the stream is to be deleted, kept until nothing is left of it.
#[derive(Debug, Serialize, Deserialize)]
struct Deleted {
    stream: StreamName,
    /// One that was made later stays.
    at_unix_ms: i64,
}

impl StreamObject {
    /// Takes the stream out of the directory, ends its broadcast, and deletes objects until there have been none for a while: the box may still be
    /// writing some. Each step can be taken again after a failure.
    async fn look_after_deleted(&self) -> Result<()> {
        let storage = self.state.storage();
        let Some(deleted) = storage.get::<Deleted>(DELETED_KEY).await? else {
            return Ok(());
        };
        // Whatever becomes of this, it is looked at again.
        storage.set_alarm(SWEEP_MS).await?;
        self.viewers.alarm_set.set(true);
        let env = &self.viewers.env;
        let gone = sql::delete_stream(&deleted.stream, deleted.at_unix_ms);
        directory::run_all(env, &gone).await?;
        let known: Vec<sql::BroadcastRow> =
            directory::rows(env, &sql::broadcasts_of(&deleted.stream)).await?;
        let known: Vec<BroadcastId> = known.into_iter().map(|row| row.id).collect();
        if let Some(current) = current(&storage).await?
            && !known.contains(&current)
        {
            end(env, &current).await?;
            storage.delete(CURRENT_KEY).await?;
        }
        let left = media::sweep(env, &deleted.stream, &known).await?;
        if left == 0 && now_unix_ms() - deleted.at_unix_ms > DELETED_FOR_MS {
            let before = deleted.at_unix_ms.saturating_add(1);
            let forgotten = sql::forget_deleted(&deleted.stream, before);
            directory::run_all(env, &[forgotten]).await?;
            storage.delete(DELETED_KEY).await?;
        }
        Ok(())
    }

    /// Tells the directory how many watch, now and then; once more when they are gone.
    async fn say(&self) -> Result<()> {
        let viewers = &self.viewers;
        let now = now_unix_ms();
        let count = viewers.count(now);
        viewers.most.set(viewers.most.get().max(count));
        let Some(stream) = viewers.stream.borrow().clone() else {
            return Ok(());
        };
        if count != viewers.said.get() && now - viewers.said_unix_ms.get() >= COUNT_MS {
            viewers.said_unix_ms.set(now);
            directory::set_viewers(&viewers.env, &stream, count).await?;
            viewers.said.set(count);
        }
        if (count > 0 || count != viewers.said.get()) && !viewers.alarm_set.replace(true) {
            self.state.storage().set_alarm(COUNT_MS).await?;
        }
        Ok(())
    }
}

/// The broadcast that the stream had last.
async fn current(storage: &Storage) -> Result<Option<BroadcastId>> {
    let current: Option<String> = storage.get(CURRENT_KEY).await?;
    Ok(current.and_then(|id| id.parse().ok()))
}

/// Does the stream's last broadcast go on?
async fn resume(env: &Env, storage: &Storage) -> Result<OpenAnswer> {
    let Some(current) = current(storage).await? else {
        return Ok(OpenAnswer { resume: None });
    };
    let object = env
        .durable_object(binding::BROADCAST)?
        .get_by_name(current.as_str())?;
    let mut answer = object
        .fetch_with_str(&format!("https://broadcast/{RESUME}"))
        .await?;
    answer.json().await
}

/// Ends a broadcast: its stream has another, or is no more.
async fn end(env: &Env, broadcast: &BroadcastId) -> Result<()> {
    let object = env
        .durable_object(binding::BROADCAST)?
        .get_by_name(broadcast.as_str())?;
    let supersede = format!("https://broadcast/{SUPERSEDE}");
    object.fetch_with_str(&supersede).await.map(drop)
}

/// A broadcast begins, and the one before it ends. The inner error is why not.
async fn begin(
    env: &Env,
    storage: &Storage,
    opened: &Open,
) -> Result<std::result::Result<(), String>> {
    if !directory::read(env).await?.has_stream(&opened.stream) {
        return Ok(Err(Refusal::NoStream(opened.stream.clone()).to_string()));
    }
    let opening = directory::broadcast_opened(env, &opened.stream, &opened.broadcast).await?;
    if let Err(full) = opening {
        return Ok(Err(full.to_string()));
    }
    let before = current(storage).await?;
    if let Some(before) = before.filter(|before| *before != opened.broadcast) {
        end(env, &before).await?;
    }
    storage.put(CURRENT_KEY, opened.broadcast.as_str()).await?;
    Ok(Ok(()))
}
