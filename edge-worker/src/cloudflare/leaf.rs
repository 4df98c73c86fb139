//! A leaf: a replica of one broadcast, where viewers wait.
//!
//! It dials the broadcast's object when somebody first asks, reads the state and then the messages, and wakes whom each message wakes. It
//! keeps nothing: a leaf that is moved or put to sleep dials again at the next question. While nobody asks, it hangs up.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use futures::{StreamExt, channel::oneshot};
use http::StatusCode;
use protocol::{
    link::{CloseReason, Numbered},
    names::BroadcastId,
    object_key::ObjectKey,
};
use serde::{Deserialize, Serialize};
use worker::{
    Delay, DurableObject, Env, Headers, Method, Request, RequestInit, Response, Result, State,
    WebSocket, WebsocketEvent, durable_object,
};

use super::{
    answer::{answer, json, nothing, problem},
    binding,
    broadcast::{FEED, feed},
    leaves, now_unix_ms,
    watch::REVOKED_HEADER,
};
use crate::{
    live::{Broadcast, Directives, Head, ListedPart, ObjectAnswer, SegmentAnswer, Verdict, Wake},
    playlist::{self, Text},
    routes::{self, Caching, Problem, Route, TrackAddress},
};

/// Which broadcast is asked for: the address of the multivariant playlist names none.
const BROADCAST_HEADER: &str = "x-ghost-live-broadcast";
/// From which part on a segment is asked for.
const FROM_HEADER: &str = "x-ghost-live-from";
/// A leaf that nobody asks hangs up after so long, milliseconds.
const IDLE_MS: i64 = 60_000;
/// Pauses before a leaf whose feed broke dials again for those who wait.
const REDIAL_MIN: Duration = Duration::from_millis(200);
const REDIAL_MAX: Duration = Duration::from_secs(2);
/// Waiters of a leaf; beyond, 503.
const MAX_WAITERS: usize = 20_000;

/// Asks a leaf of a broadcast what a viewer asked: `target` is the path with the query, as far as that is the leaf's business. `from` asks for a segment's parts from that one on.
pub(super) async fn ask(
    env: &Env,
    target: &str,
    broadcast: &BroadcastId,
    from: Option<usize>,
) -> Result<Response> {
    let headers = Headers::new();
    headers.set(BROADCAST_HEADER, broadcast.as_str())?;
    if let Some(from) = from {
        headers.set(FROM_HEADER, &from.to_string())?;
    }
    let mut init = RequestInit::new();
    init.with_method(Method::Get).with_headers(headers);
    let question = Request::new_with_init(&format!("https://leaf{target}"), &init)?;
    let n = match leaves(env) {
        1 => 0,
        many => u32::from_le_bytes(super::random()?) % many,
    };
    let leaf = env
        .durable_object(binding::LEAF)?
        .get_by_name(&format!("{broadcast}/{n}"))?;
    leaf.fetch_with_request(question).await
}

/// What a leaf knows of a segment.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SegmentParts {
    /// Where the whole segment lies, once it is complete.
    pub(super) whole: Option<ObjectKey>,
    /// The parts from the one that was asked for on.
    pub(super) parts: Vec<ObjectKey>,
}

#[durable_object]
pub struct LeafObject {
    leaf: Rc<Leaf>,
}

struct Leaf {
    env: Env,
    /// `{broadcast}/{n}`, for the operator's log.
    name: String,
    replica: RefCell<Replica>,
    waiters: RefCell<Vec<Waiter>>,
    sweeping: Cell<bool>,
    asked_unix_ms: Cell<i64>,
    /// The last revocation that the broadcast's object was told of.
    revoked: Cell<i64>,
}

/// What the leaf has of the broadcast.
enum Replica {
    None,
    /// It is being fetched; these wait for it.
    Dialing(Vec<oneshot::Sender<()>>),
    Here(Box<Broadcast>, playlist::Cache),
}

struct Waiter {
    track: usize,
    deadline_unix_ms: i64,
    wake: oneshot::Sender<()>,
}

/// What is to be done with a question.
enum Step {
    Answer(Response),
    /// Ask again when the track has changed.
    Wait(usize),
}

impl DurableObject for LeafObject {
    fn new(state: State, env: Env) -> Self {
        let leaf = Leaf {
            env,
            name: state.id().name().unwrap_or_default(),
            replica: RefCell::new(Replica::None),
            waiters: RefCell::default(),
            sweeping: Cell::default(),
            asked_unix_ms: Cell::default(),
            revoked: Cell::default(),
        };
        Self {
            leaf: Rc::new(leaf),
        }
    }

    async fn fetch(&self, request: Request) -> Result<Response> {
        let url = request.url()?;
        let route = match routes::parse(&http::Method::GET, url.path(), url.query()) {
            Ok(route) => route,
            Err(found) => return problem(None, &found),
        };
        let broadcast = request
            .headers()
            .get(BROADCAST_HEADER)?
            .and_then(|id| id.parse::<BroadcastId>().ok());
        let Some(broadcast) = broadcast else {
            return problem(Some(&route), &Problem::not_found());
        };
        let from = request
            .headers()
            .get(FROM_HEADER)?
            .and_then(|from| from.parse().ok());
        let deadline = now_unix_ms() + Head::DEADLINE_MS as i64;
        self.leaf.asked_unix_ms.set(now_unix_ms());
        loop {
            if !Rc::clone(&self.leaf).ensure(&broadcast).await? {
                return problem(Some(&route), &Problem::not_found());
            }
            match self.leaf.step(&route, from)? {
                Step::Answer(response) => {
                    let revoked = self.leaf.revoked.get();
                    if revoked > 0 {
                        (response.headers()).set(REVOKED_HEADER, &revoked.to_string())?;
                    }
                    return Ok(response);
                }
                Step::Wait(_) if now_unix_ms() >= deadline => {
                    return problem(Some(&route), &Problem::timeout());
                }
                Step::Wait(track) => {
                    if !self.leaf.wait(track, deadline).await {
                        return problem(Some(&route), &Problem::unavailable());
                    }
                }
            }
        }
    }
}

impl Leaf {
    /// Fetches the state if it is not here. False when there is no such broadcast.
    async fn ensure(self: Rc<Self>, id: &BroadcastId) -> Result<bool> {
        let others = {
            let mut replica = self.replica.borrow_mut();
            match &mut *replica {
                Replica::Here(..) => return Ok(true),
                Replica::Dialing(waiting) => {
                    let (wake, woken) = oneshot::channel();
                    waiting.push(wake);
                    Some(woken)
                }
                Replica::None => {
                    *replica = Replica::Dialing(Vec::new());
                    None
                }
            }
        };
        if let Some(woken) = others {
            woken.await.ok();
            return Ok(matches!(*self.replica.borrow(), Replica::Here(..)));
        }
        let dialed = self.dial(id).await;
        if !matches!(dialed, Ok(true)) {
            self.forget();
        }
        dialed
    }

    /// Dials the broadcast's object; true once its state is here.
    async fn dial(self: &Rc<Self>, id: &BroadcastId) -> Result<bool> {
        let headers = Headers::new();
        headers.set("upgrade", "websocket")?;
        let mut init = RequestInit::new();
        init.with_method(Method::Get).with_headers(headers);
        let question = Request::new_with_init(&format!("https://broadcast/{FEED}"), &init)?;
        let object = self
            .env
            .durable_object(binding::BROADCAST)?
            .get_by_name(id.as_str())?;
        let response = object.fetch_with_request(question).await?;
        let Some(socket) = response.websocket() else {
            return Ok(false);
        };
        let (here, is_here) = oneshot::channel();
        let (leaf, id) = (Rc::clone(self), id.clone());
        worker::wasm_bindgen_futures::spawn_local(async move {
            if let Err(error) = leaf.read(&socket, here).await {
                worker::console_warn!("the feed of a broadcast broke: {error}");
            }
            socket.close(Some(1000), Some("done")).ok();
            leaf.forget();
            // Those who wait must not wait for somebody else to ask.
            let mut pause = REDIAL_MIN;
            while !leaf.waiters.borrow().is_empty() {
                Delay::from(pause).await;
                match Rc::clone(&leaf).ensure(&id).await {
                    Ok(true) => break,
                    // They look again, and hear that it is gone.
                    Ok(false) => leaf.wake(Wake::All),
                    Err(_) => pause = (pause * 2).min(REDIAL_MAX),
                }
            }
        });
        Ok(is_here.await.is_ok())
    }

    /// Reads the feed until it ends.
    async fn read(&self, socket: &WebSocket, here: oneshot::Sender<()>) -> Result<()> {
        let mut here = Some(here);
        let mut events = socket.events()?;
        socket.accept()?;
        while let Some(event) = events.next().await {
            let WebsocketEvent::Message(message) = event? else {
                break;
            };
            let text = message.text().unwrap_or_default();
            let now = now_unix_ms();
            if let Some(id) = text.strip_prefix(feed::REVOKED) {
                let id = id.parse().unwrap_or_default();
                self.revoked.set(self.revoked.get().max(id));
                continue;
            }
            let wake = match (text.chars().next(), text.get(1..).unwrap_or_default()) {
                (Some(feed::SNAPSHOT), snapshot) => {
                    let broadcast = Broadcast::restore(snapshot.as_bytes(), now)?;
                    let before = self.replica.replace(Replica::Here(
                        Box::new(broadcast),
                        playlist::Cache::default(),
                    ));
                    if let Replica::Dialing(waiting) = before {
                        for wake in waiting {
                            wake.send(()).ok();
                        }
                    }
                    if let Some(here) = here.take() {
                        worker::console_log!("leaf {}: follows its broadcast", self.name);
                        here.send(()).ok();
                    }
                    Wake::All
                }
                (Some(kind), json) => {
                    let mut replica = self.replica.borrow_mut();
                    let Replica::Here(broadcast, _) = &mut *replica else {
                        break;
                    };
                    match kind {
                        feed::MESSAGE => {
                            let numbered: Numbered = serde_json::from_str(json)?;
                            // What the replica cannot take it fetches whole.
                            broadcast
                                .apply(&numbered, now)
                                .map_err(|error| error.to_string())?
                                .wake
                        }
                        feed::ENDED => {
                            broadcast
                                .end(serde_json::from_str::<CloseReason>(json)?, now)
                                .wake
                        }
                        _ => Wake::None,
                    }
                }
                (None, _) => Wake::None,
            };
            self.wake(wake);
            let idle = now - self.asked_unix_ms.get() > IDLE_MS;
            if idle && self.waiters.borrow().is_empty() {
                let idle_s = IDLE_MS / 1_000;
                worker::console_log!(
                    "leaf {}: hangs up, for nobody has asked in {idle_s} s",
                    self.name
                );
                break;
            }
        }
        Ok(())
    }

    fn forget(&self) {
        if let Replica::Dialing(waiting) = self.replica.replace(Replica::None) {
            for wake in waiting {
                wake.send(()).ok();
            }
        }
    }

    fn wake(&self, whom: Wake) {
        let mut waiters = self.waiters.borrow_mut();
        let woken: Vec<Waiter> = match whom {
            Wake::None => return,
            Wake::All => std::mem::take(&mut *waiters),
            Wake::Track(track) => waiters
                .extract_if(.., |waiter| waiter.track == track)
                .collect(),
        };
        drop(waiters);
        for waiter in woken {
            waiter.wake.send(()).ok();
        }
    }

    /// Waits for the track, or for the deadline. False when too many wait already.
    async fn wait(self: &Rc<Self>, track: usize, deadline_unix_ms: i64) -> bool {
        let (wake, woken) = oneshot::channel();
        {
            let mut waiters = self.waiters.borrow_mut();
            if waiters.len() >= MAX_WAITERS {
                return false;
            }
            waiters.push(Waiter {
                track,
                deadline_unix_ms,
                wake,
            });
        }
        // One timer for all: deadlines are seconds, and a timer each would cost more than the waiting.
        if !self.sweeping.replace(true) {
            let leaf = Rc::clone(self);
            worker::wasm_bindgen_futures::spawn_local(async move {
                while !leaf.waiters.borrow().is_empty() {
                    Delay::from(Duration::from_secs(1)).await;
                    let now = now_unix_ms();
                    leaf.waiters
                        .borrow_mut()
                        .retain(|waiter| waiter.deadline_unix_ms > now);
                }
                leaf.sweeping.set(false);
            });
        }
        // Woken, or dropped by the sweep: either way it is time to look again.
        woken.await.ok();
        true
    }

    fn step(&self, route: &Route, from: Option<usize>) -> Result<Step> {
        let mut replica = self.replica.borrow_mut();
        let Replica::Here(broadcast, cache) = &mut *replica else {
            // Lost between two looks: as if nothing had come yet.
            return Ok(Step::Wait(0));
        };
        Ok(Step::Answer(match route {
            Route::Multivariant(_) | Route::Dash(_) => {
                if !broadcast.is_playable() {
                    return Ok(Step::Answer(problem(Some(route), &Problem::not_live())?));
                }
                let (text, kind) = match route {
                    Route::Dash(_) => (Text::Dash, playlist::DASH_TYPE),
                    _ => (Text::Multivariant, playlist::HLS_TYPE),
                };
                let body = cache.get(broadcast, text);
                answer(
                    Some(route),
                    StatusCode::OK,
                    Caching::Live,
                    Some(kind),
                    body.to_vec(),
                )?
            }
            Route::Media(address, directives) => {
                return media(broadcast, cache, route, address, directives);
            }
            Route::Object(key) => match broadcast.object(key) {
                ObjectAnswer::Hinted(track) => return Ok(Step::Wait(track)),
                ObjectAnswer::Announced => nothing(Some(route))?,
                ObjectAnswer::Unknown => problem(Some(route), &Problem::not_found())?,
            },
            Route::Segment(address, msn) => {
                let Some((track, _)) = broadcast.track(&address.track) else {
                    return Ok(Step::Answer(problem(Some(route), &Problem::not_found())?));
                };
                let from = from.unwrap_or(0);
                let rest = |parts: &[ListedPart]| {
                    parts
                        .iter()
                        .skip(from)
                        .map(|part| part.key.clone())
                        .collect::<Vec<_>>()
                };
                let known = match broadcast.segment(track, *msn) {
                    SegmentAnswer::Complete(segment) => SegmentParts {
                        whole: segment.key.clone(),
                        parts: rest(&segment.parts),
                    },
                    SegmentAnswer::Running(parts) if parts.len() > from => SegmentParts {
                        whole: None,
                        parts: rest(parts),
                    },
                    SegmentAnswer::Running(_) | SegmentAnswer::Next => {
                        return Ok(Step::Wait(track));
                    }
                    SegmentAnswer::Unknown => {
                        return Ok(Step::Answer(problem(Some(route), &Problem::not_found())?));
                    }
                };
                json(Some(route), StatusCode::OK, Caching::Never, &known)?
            }
            _ => problem(Some(route), &Problem::not_found())?,
        }))
    }
}

fn media(
    broadcast: &Broadcast,
    cache: &mut playlist::Cache,
    route: &Route,
    address: &TrackAddress,
    directives: &Directives,
) -> Result<Step> {
    let found = broadcast
        .track(&address.track)
        .and_then(|(index, _)| Some((index, broadcast.head(index)?)));
    let Some((track, head)) = found else {
        return Ok(Step::Answer(problem(Some(route), &Problem::not_found())?));
    };
    match head.verdict(directives) {
        Verdict::Wait => Ok(Step::Wait(track)),
        Verdict::Absurd => Ok(Step::Answer(problem(
            Some(route),
            &Problem::absurd_directive(),
        )?)),
        Verdict::Ready => {
            let caching = if head.is_at_the_end(directives) && !head.ended {
                Caching::Blocked
            } else {
                Caching::Live
            };
            let body = cache.get(
                broadcast,
                Text::Media {
                    track,
                    skip: directives.skip,
                },
            );
            Ok(Step::Answer(answer(
                Some(route),
                StatusCode::OK,
                caching,
                Some(playlist::HLS_TYPE),
                body.to_vec(),
            )?))
        }
    }
}
