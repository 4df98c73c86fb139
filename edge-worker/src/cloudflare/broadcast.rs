//! The object of one broadcast: it holds the link from media-core, applies what comes, feeds the leaves and stores the snapshot.
//!
//! What leaves read from it, over WebSockets, is the state once and then the messages as they came ([`feed`]). Its sockets hibernate: an
//! object that the platform put to sleep or moved is made again from its snapshot, and the link and the leaves dial again by themselves.
//!
//! Storage: as [`crate::live`] says, once a segment, behind the wake-up. A write of a Durable Object holds back everything the object
//! sends until it is durable, so an announcement can never overtake the snapshot that covers it.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::Duration,
};

use futures::{
    StreamExt, TryStreamExt,
    channel::oneshot,
    future::{self, Either},
};
use http::StatusCode;
use protocol::{
    internal::{Open, OpenAnswer},
    link::{CloseReason, MAX_MESSAGE_BYTES, Numbered, ToCore, ToEdge},
    link_auth,
    names::{BroadcastId, StreamName},
    session::Session,
    signaling::{ANSWER_S, Outcome, Signal, Viewer},
    token::{Credential, Refusal, Tag},
};
use wasm_bindgen::JsValue;
use worker::{
    Delay, DurableObject, Env, Error, Headers, Request, Response, ResponseBuilder, Result, State,
    Storage, WebSocket, WebSocketIncomingMessage, WebSocketPair, durable_object,
};

use super::{
    access,
    answer::{self, problem},
    binding, directory, events, now_unix_ms, stream,
    watch::{self, Seen},
    webhooks,
    whep::{Asked, Told, Why},
};
use crate::{
    api::OnAir,
    live::{Applied, Broadcast},
    routes::{Caching, Problem},
    signaling::{self, desk::Desk},
    webhooks::{On, event},
};

/// Address of the link inside the object.
pub(super) const LINK: &str = "link";
/// Which broadcast the link is for.
pub(super) const ID_HEADER: &str = "x-ghost-live-broadcast";
/// Address of the feed for leaves.
pub(super) const FEED: &str = "feed";
/// Address of the question whether the broadcast can go on.
pub(super) const RESUME: &str = "resume";
/// Address of what viewers by WebRTC ask.
pub(super) const SIGNAL: &str = "signal";
/// Address that ends a broadcast, because its stream has a newer one.
pub(super) const SUPERSEDE: &str = "supersede";

/// What a leaf reads: the first byte says what follows it.
pub(super) mod feed {
    /// A snapshot, JSON; first of all.
    pub(in super::super) const SNAPSHOT: char = 'S';
    /// A link message as it came, JSON.
    pub(in super::super) const MESSAGE: char = 'M';
    /// Something was taken back: the id of the last revocation.
    pub(in super::super) const REVOKED: char = 'R';
    /// The edge ended the broadcast by itself: the reason, JSON.
    pub(in super::super) const ENDED: char = 'E';
}

/// Address under which it is told of revocations; the id of the last one follows.
const REVOKED: &str = "revoked/";

/// Tells a broadcast that something was taken back that may be its publisher's or a viewer's.
pub(super) async fn revoked(env: &Env, broadcast: &BroadcastId, id: i64) -> Result<()> {
    let object = env
        .durable_object(binding::BROADCAST)?
        .get_by_name(broadcast.as_str())?;
    let address = format!("https://broadcast/{REVOKED}{id}");
    object.fetch_with_str(&address).await.map(drop)
}

const SNAPSHOT_KEY: &str = "snapshot";
/// The directory hears of the box's clock again when it has moved by so much, milliseconds: more than heartbeats waver by.
const CLOCK_STEP_MS: i64 = 20;
/// How often the object looks after itself, milliseconds: is the link alive, is it too late?
const ALARM_MS: i64 = 10_000;
/// A link that says nothing for so long is taken for gone, milliseconds: seven heartbeats.
const SILENT_MS: i64 = 15_000;
/// Messages that wait while one is applied; beyond, the link is refused, and media-core sends them again.
const MAX_INBOX: usize = 4_096;

#[durable_object]
pub struct BroadcastObject {
    state: State,
    object: Rc<Object>,
}

struct Object {
    env: Env,
    storage: Storage,
    live: RefCell<Option<Broadcast>>,
    inbox: RefCell<VecDeque<String>>,
    /// Whether somebody is working the inbox off.
    applying: Cell<bool>,
    /// Whether a snapshot is being written, and whether another is to follow it.
    storing: Cell<bool>,
    store_again: Cell<bool>,
    /// When the link last said something.
    heard_unix_ms: Cell<i64>,
    /// Whether the directory knows that it can be played.
    said_playable: Cell<bool>,
    /// How far the box's clock is ahead, as the directory knows it, milliseconds.
    said_clock_ms: Cell<Option<i64>>,
    /// Whether it is to look after itself again at once, for what webhooks are to be told.
    soon: Cell<bool>,
    /// The last revocation that it was told of.
    revoked: Cell<i64>,
    /// Whose token the publisher had when that was last compared with what was taken back.
    checked: RefCell<Option<Credential>>,
    /// Who watches by WebRTC, and who waits for an answer.
    desk: RefCell<Desk<oneshot::Sender<Outcome>>>,
    /// The link, while there is one.
    link: RefCell<Option<WebSocket>>,
}

impl DurableObject for BroadcastObject {
    fn new(state: State, env: Env) -> Self {
        let object = Rc::new(Object {
            env,
            storage: state.storage(),
            live: RefCell::default(),
            inbox: RefCell::default(),
            applying: Cell::default(),
            storing: Cell::default(),
            store_again: Cell::default(),
            heard_unix_ms: Cell::new(now_unix_ms()),
            said_playable: Cell::default(),
            said_clock_ms: Cell::default(),
            soon: Cell::default(),
            revoked: Cell::default(),
            checked: RefCell::default(),
            // Beyond what this object asked before it slept, and exact in JavaScript.
            desk: RefCell::new(Desk::new(
                now_unix_ms().unsigned_abs().saturating_mul(1_024),
            )),
            link: RefCell::default(),
        });
        // Sockets outlive a sleep: then the link was never gone.
        let link = state.get_websockets_with_tag(LINK).into_iter().next_back();
        let linked = link.is_some();
        if let Some(link) = link {
            object.linked(link);
        }
        let loading = Rc::clone(&object);
        let _gate = state.block_concurrency_while(async move { loading.load(linked).await });
        Self { state, object }
    }

    async fn fetch(&self, request: Request) -> Result<Response> {
        match request.path().trim_start_matches('/') {
            LINK => self.accept_link(&request),
            FEED => self.accept_leaf(),
            RESUME => self.resume().await,
            SUPERSEDE => self.supersede().await,
            SIGNAL => self.signal(request).await,
            path => match path.strip_prefix(REVOKED).and_then(|id| id.parse().ok()) {
                Some(id) => self.revoked(id).await,
                None => problem(None, &Problem::not_found()),
            },
        }
    }

    async fn websocket_message(
        &self,
        socket: WebSocket,
        message: WebSocketIncomingMessage,
    ) -> Result<()> {
        // A leaf has nothing to say.
        if !self.state.get_tags(&socket).iter().any(|tag| tag == LINK) {
            return Ok(());
        }
        let WebSocketIncomingMessage::String(text) = message else {
            return refuse(&socket, "link messages are text");
        };
        if text.len() > MAX_MESSAGE_BYTES {
            return refuse(&socket, "a link message is too long");
        }
        self.object.heard_unix_ms.set(now_unix_ms());
        {
            let mut inbox = self.object.inbox.borrow_mut();
            if inbox.len() >= MAX_INBOX {
                return refuse(&socket, "too many link messages wait: send them again");
            }
            inbox.push_back(text);
        }
        // Messages are applied in their order, one at a time, though handlers overlap while one of them waits for the storage.
        if self.object.applying.replace(true) {
            return Ok(());
        }
        let applied = self.apply_all(&socket).await;
        self.object.applying.set(false);
        applied
    }

    async fn websocket_close(
        &self,
        socket: WebSocket,
        code: usize,
        reason: String,
        _was_clean: bool,
    ) -> Result<()> {
        let is_link = self.state.get_tags(&socket).iter().any(|tag| tag == LINK);
        // The other half of the closing handshake; codes of the protocol's own cannot be sent.
        let code = u16::try_from(code)
            .ok()
            .filter(|code| (1000..5000).contains(code) && !(1004..=1006).contains(code));
        socket.close(Some(code.unwrap_or(1000)), Some(reason)).ok();
        if is_link {
            self.link_gone(&socket).await?;
        }
        Ok(())
    }

    async fn websocket_error(&self, socket: WebSocket, error: Error) -> Result<()> {
        worker::console_warn!("a socket of a broadcast failed: {error}");
        if self.state.get_tags(&socket).iter().any(|tag| tag == LINK) {
            self.link_gone(&socket).await?;
        }
        Ok(())
    }

    async fn alarm(&self) -> Result<Response> {
        // The platform gives an alarm that fails up after some minutes; a broadcast is looked after for as long as it is there.
        if let Err(error) = self.look_after().await {
            worker::console_error!("a broadcast could not be looked after: {error}");
            self.object.storage.set_alarm(ALARM_MS).await?;
        }
        Response::empty()
    }
}

impl BroadcastObject {
    fn accept_link(&self, request: &Request) -> Result<Response> {
        let WebSocketPair { client, server } = WebSocketPair::new()?;
        for other in self.state.get_websockets_with_tag(LINK) {
            // media-core dials again before it knows that the old connection is dead.
            other
                .close(Some(4000), Some("replaced by a newer link"))
                .ok();
        }
        let id = request.headers().get(ID_HEADER)?.unwrap_or_default();
        self.state.accept_websocket_with_tags(&server, &[LINK, &id]);
        let mut live = self.object.live.borrow_mut();
        self.object.heard_unix_ms.set(now_unix_ms());
        self.object.linked(server.clone());
        match live.as_mut() {
            Some(live) if live.ended().is_some() => {
                // What was applied is applied: a box that only wants its last acknowledgement gets it with the welcome.
                send(
                    &server,
                    &ToCore::Welcome {
                        seq: live.stored_seq(),
                    },
                )?;
                server.close(Some(1000), Some("the broadcast has ended"))?;
            }
            Some(live) => {
                live.link_connected();
                send(
                    &server,
                    &ToCore::Welcome {
                        seq: live.stored_seq(),
                    },
                )?;
            }
            None => send(&server, &ToCore::Welcome { seq: 0 })?,
        }
        let headers = Headers::new();
        if let Some(proof) = request.headers().get(link_auth::RESPONSE_HEADER)? {
            headers.set(link_auth::RESPONSE_HEADER, &proof)?;
        }
        headers.set("cache-control", Caching::Never.value())?;
        Ok(ResponseBuilder::new()
            .with_status(101)
            .with_websocket(client)
            .with_headers(headers)
            .empty())
    }

    fn accept_leaf(&self) -> Result<Response> {
        let snapshot = match self.object.live.borrow().as_ref() {
            Some(live) => live.snapshot()?,
            None => return problem(None, &Problem::not_live()),
        };
        let WebSocketPair { client, server } = WebSocketPair::new()?;
        self.state.accept_websocket_with_tags(&server, &[FEED]);
        server.send_with_str(format!(
            "{}{}",
            feed::SNAPSHOT,
            String::from_utf8_lossy(&snapshot)
        ))?;
        server.send_with_str(format!("{}{}", feed::REVOKED, self.object.revoked.get()))?;
        Response::from_websocket(client)
    }

    async fn resume(&self) -> Result<Response> {
        let question =
            |live: &Option<Broadcast>| live.as_ref().and_then(|live| live.resume(now_unix_ms()));
        if question(&self.object.live.borrow()).is_some() {
            // What is given out must be stored.
            self.object.store().await?;
        }
        let answer = OpenAnswer {
            resume: question(&self.object.live.borrow()),
        };
        let is_lost = (self.object.live.borrow().as_ref()).is_some_and(|live| !live.is_linked());
        if answer.resume.is_none() && is_lost {
            self.end(CloseReason::Lost).await?;
        }
        answer::json(None, StatusCode::OK, Caching::Never, &answer)
    }

    /// Something was taken back.
    async fn revoked(&self, id: i64) -> Result<Response> {
        let known = self.object.revoked.get().max(id);
        self.object.revoked.set(known);
        self.tell_leaves(&format!("{}{known}", feed::REVOKED));
        self.object.checked.replace(None);
        self.check_publisher().await?;
        if self.object.desk.borrow().viewers().next().is_some() {
            // Whether a token is needed may be what has changed.
            directory::read(&self.object.env).await?;
            self.object.learn().await?;
            self.object.end_viewers().await?;
        }
        Response::empty()
    }

    /// Ends the broadcast if what its publisher came with was taken back; asks the directory once a publisher and once a revocation.
    async fn check_publisher(&self) -> Result<()> {
        let publisher = (self.object.live.borrow().as_ref())
            .and_then(|live| Some((live.publisher()?.clone(), live.stream().clone())));
        let Some((credential, stream)) = publisher else {
            return Ok(());
        };
        let (env, now) = (&self.object.env, now_unix_ms());
        let known = self.object.checked.replace(Some(credential.clone()));
        let revoked = match known.as_ref() == Some(&credential) {
            true => watch::revoked(),
            false => {
                let revoked = watch::revoked_now(env).await;
                revoked.inspect_err(|_| drop(self.object.checked.replace(None)))?
            }
        };
        let still = match access::access(env)? {
            Some(access) => access.still_publishes(&credential, &stream, &revoked, now),
            // Without keys no token is good, nor what one began.
            None if credential.signer.is_some() => Err(Refusal::Key),
            None => revoked.refuse_publisher(&credential, &stream),
        };
        let Err(refusal) = still else {
            return Ok(());
        };
        for link in self.state.get_websockets_with_tag(LINK) {
            refuse(&link, &refusal.to_string())?;
        }
        self.end(CloseReason::Stopped).await
    }

    /// A viewer by WebRTC asks something.
    async fn signal(&self, mut request: Request) -> Result<Response> {
        let asked: Asked = request.json().await?;
        let told = match self.object.asked(asked).await? {
            Ok(told) => told,
            Err(found) => Told::Refused(Why::of(&found)),
        };
        answer::json(None, StatusCode::OK, Caching::Never, &told)
    }

    /// What media-core says of viewers. True when that is what it was.
    fn hear(&self, link: &WebSocket, message: &ToEdge) -> bool {
        let object = &self.object;
        let now = now_unix_ms();
        let heard = match message {
            ToEdge::Signaled { request, outcome } => {
                object.answered(*request, outcome.clone(), now);
                return true;
            }
            ToEdge::Gone { sessions } => {
                let gone = object.desk.borrow_mut().gone(sessions);
                self.behind("a viewer's place could not be freed", async move |object| {
                    object.free(&gone).await
                });
                return true;
            }
            ToEdge::Watching { viewers } => {
                (object.desk.borrow_mut()).watching(viewers.clone(), now)
            }
            ToEdge::StillWatching { sessions } => object.desk.borrow_mut().still(sessions, now),
            _ => return false,
        };
        object.say();
        if heard.forgotten {
            // It slept, and its link did not: the next one begins with who watches.
            link.close(Some(4003), Some("say who watches")).ok();
        }
        if !heard.watching.is_empty() {
            self.behind("viewers could not be counted", async move |object| {
                object.seen(heard.watching).await
            });
        }
        true
    }

    /// Does something while the object goes on.
    fn behind<F>(&self, failed: &'static str, work: impl FnOnce(Rc<Object>) -> F + 'static)
    where
        F: Future<Output = Result<()>> + 'static,
    {
        let object = Rc::clone(&self.object);
        self.state.wait_until(async move {
            if let Err(error) = work(object).await {
                worker::console_warn!("{failed}: {error}");
            }
        });
    }

    async fn supersede(&self) -> Result<Response> {
        for link in self.state.get_websockets_with_tag(LINK) {
            refuse(&link, "the stream has a newer broadcast")?;
        }
        self.end(CloseReason::Stopped).await?;
        Response::empty()
    }

    /// Ends the broadcast by the edge's own decision.
    async fn end(&self, reason: CloseReason) -> Result<()> {
        let applied = self
            .object
            .live
            .borrow_mut()
            .as_mut()
            .map(|live| live.end(reason, now_unix_ms()));
        self.ended(applied, reason).await
    }

    async fn ended(&self, applied: Option<Applied>, reason: CloseReason) -> Result<()> {
        if !applied.is_some_and(|applied| applied.store) {
            return Ok(());
        }
        self.tell_leaves(&format!(
            "{}{}",
            feed::ENDED,
            serde_json::to_string(&reason)?
        ));
        self.object.store().await?;
        self.object.tell_soon().await;
        self.object.say_closed().await
    }

    fn tell_leaves(&self, text: &str) {
        for leaf in self.state.get_websockets_with_tag(FEED) {
            // A leaf that cannot be told dials again.
            leaf.send_with_str(text).ok();
        }
    }

    async fn apply_all(&self, link: &WebSocket) -> Result<()> {
        loop {
            let next = self.object.inbox.borrow_mut().pop_front();
            let Some(text) = next else { return Ok(()) };
            if let Err(reason) = self.apply(link, &text).await? {
                self.object.inbox.borrow_mut().clear();
                return refuse(link, &reason);
            }
        }
    }

    /// Applies one message. The inner error is a sentence for the box's operator.
    async fn apply(&self, link: &WebSocket, text: &str) -> Result<std::result::Result<(), String>> {
        let numbered: Numbered = match serde_json::from_str(text) {
            Ok(numbered) => numbered,
            Err(error) => return Ok(Err(format!("a link message cannot be read: {error}"))),
        };
        let waits = (self.object.live.borrow().as_ref())
            .is_some_and(|live| live.needs_store_before(&numbered.message));
        if self.hear(link, &numbered.message) {
            return Ok(Ok(()));
        }
        if waits {
            self.object.store().await?;
        }
        let now = now_unix_ms();
        if self.object.live.borrow().is_none() {
            return match numbered.seq {
                // A heartbeat may overtake the first message.
                0 => Ok(Ok(())),
                _ => self.begin(link, &numbered, now).await,
            };
        }
        let (applied, is_new) = {
            let mut slot = self.object.live.borrow_mut();
            let Some(live) = slot.as_mut() else {
                return Ok(Ok(()));
            };
            let before = live.seq();
            match live.apply(&numbered, now) {
                // A heartbeat keeps the leaves' clocks; what is applied already is not theirs to hear again.
                Ok(applied) => (applied, numbered.seq == 0 || live.seq() > before),
                Err(error) => return Ok(Err(error.to_string())),
            }
        };
        if numbered.seq == 0 {
            // A sign of life, so that a box with nothing new to be acknowledged knows that its link stands.
            let seq = self
                .object
                .live
                .borrow()
                .as_ref()
                .map_or(0, Broadcast::stored_seq);
            send(link, &ToCore::Ack { seq }).ok();
            self.say_clock();
            // It may have been taken back between its admission and its first word here.
            if let Err(error) = self.check_publisher().await {
                worker::console_warn!("a publisher could not be checked: {error}");
            }
            if let Err(error) = self.object.end_viewers().await {
                worker::console_warn!("viewers could not be checked: {error}");
            }
        }
        // First whom it wakes, then the storage.
        if is_new {
            self.tell_leaves(&format!("{}{text}", feed::MESSAGE));
        }
        if applied.store {
            self.store_behind(link);
        }
        let playable = (self.object.live.borrow().as_ref()).is_some_and(Broadcast::is_playable);
        if playable && !self.object.said_playable.replace(true) {
            let object = Rc::clone(&self.object);
            self.state.wait_until(async move {
                if let Err(error) = object.say_playable().await {
                    worker::console_error!(
                        "the directory could not be told that a broadcast can be played: {error}"
                    );
                }
                object.tell_soon().await;
            });
        }
        Ok(Ok(()))
    }

    /// The first message: the broadcast is its stream's from now on. The inner error is a sentence for the box's operator.
    async fn begin(
        &self,
        link: &WebSocket,
        first: &Numbered,
        now: i64,
    ) -> Result<std::result::Result<(), String>> {
        let live = match Broadcast::begin(first, now) {
            Ok((live, _)) => live,
            Err(error) => return Ok(Err(error.to_string())),
        };
        if !self
            .state
            .get_tags(link)
            .iter()
            .any(|tag| tag == live.id().as_str())
        {
            return Ok(Err("the first message is another broadcast's".to_owned()));
        }
        let opened = Open {
            stream: live.stream().clone(),
            broadcast: live.id().clone(),
        };
        if let Err(why) = stream::begun(&self.object.env, &opened).await? {
            return Ok(Err(why));
        }
        self.object.live.replace(Some(live));
        self.store_behind(link);
        Ok(Ok(()))
    }

    /// Tells the directory of the box's clock, behind everything else, when it is not what was told last.
    fn say_clock(&self) {
        let known = (self.object.live.borrow().as_ref())
            .and_then(|live| Some((live.id().clone(), live.clock_offset_ms()?)));
        let Some((id, offset_ms)) = known else {
            return;
        };
        let told = self.object.said_clock_ms.get();
        if told.is_some_and(|told| (told - offset_ms).abs() < CLOCK_STEP_MS) {
            return;
        }
        self.object.said_clock_ms.set(Some(offset_ms));
        let object = Rc::clone(&self.object);
        self.state.wait_until(async move {
            if let Err(error) = directory::broadcast_clock(&object.env, &id, offset_ms).await {
                worker::console_warn!("the directory could not be told of a box's clock: {error}");
                // The next heartbeat tries again.
                object.said_clock_ms.set(told);
            }
        });
    }

    /// Stores the snapshot while the object goes on.
    fn store_behind(&self, link: &WebSocket) {
        let (object, link) = (Rc::clone(&self.object), link.clone());
        self.state.wait_until(async move {
            if let Err(error) = object.store_behind(&link).await {
                worker::console_error!("a snapshot could not be stored: {error}");
            }
        });
    }

    /// The link is gone, unless another has taken its place.
    async fn link_gone(&self, gone: &WebSocket) -> Result<()> {
        let another = self
            .state
            .get_websockets_with_tag(LINK)
            .iter()
            .any(|link| link != gone);
        if !another {
            self.object.unlinked();
            if let Some(live) = self.object.live.borrow_mut().as_mut() {
                live.link_gone(now_unix_ms());
            }
        }
        Ok(())
    }

    async fn look_after(&self) -> Result<()> {
        let now = now_unix_ms();
        self.object.soon.set(false);
        let links = self.state.get_websockets_with_tag(LINK);
        if now - self.object.heard_unix_ms.get() > SILENT_MS {
            for link in &links {
                link.close(Some(4001), Some("the link is silent")).ok();
            }
            self.object.unlinked();
            if let Some(live) = self.object.live.borrow_mut().as_mut() {
                live.link_gone(now);
            }
        }
        let applied = self
            .object
            .live
            .borrow_mut()
            .as_mut()
            .map(|live| live.tick(now));
        self.ended(applied, CloseReason::Lost).await?;
        let told = self.object.tell().await;
        if let Err(error) = &told {
            worker::console_error!("what webhooks are to be told cannot be kept: {error}");
        }
        let (ended, expired) = match self.object.live.borrow().as_ref() {
            Some(live) => (live.ended().is_some(), live.is_expired(now)),
            None => return Ok(()),
        };
        // What webhooks were not told of it is kept first, however long the directory does not answer.
        if expired && told.is_ok() {
            // Nobody asks for it any more: its playlists are over and its objects are gone.
            for leaf in self.state.get_websockets_with_tag(FEED) {
                leaf.close(Some(1000), Some("the broadcast is over")).ok();
            }
            self.object.storage.delete_alarm().await?;
            self.object.storage.delete_all().await?;
            self.object.live.take();
            return Ok(());
        }
        if ended {
            // Once more, should the directory not have answered when it ended.
            self.object.say_closed().await?;
        }
        let later = match (told.is_ok() && ended, self.object.soon.get()) {
            (_, true) => 0,
            (true, false) => 6 * ALARM_MS,
            (false, false) => ALARM_MS,
        };
        self.object.storage.set_alarm(later).await
    }
}

/// WebRTC signaling.
impl Object {
    fn linked(&self, link: WebSocket) {
        self.link.replace(Some(link));
        self.desk.borrow_mut().linked(now_unix_ms());
    }

    fn unlinked(&self) {
        self.link.replace(None);
        self.desk.borrow_mut().unlinked(now_unix_ms());
    }

    /// Says down the link what is to be said.
    fn say(&self) {
        let link = self.link.borrow();
        let Some(link) = link.as_ref() else {
            return;
        };
        loop {
            let next = self.desk.borrow_mut().next_said();
            // One that cannot be told is gone, and its end will be heard.
            match next {
                Some(message) => drop(send(link, &message)),
                None => return,
            }
        }
    }

    /// Asks media-core for a viewer, and waits for its answer.
    async fn asked(&self, asked: Asked) -> Result<std::result::Result<Told, Problem>> {
        let on_air = (self.live.borrow().as_ref()).is_some_and(|live| live.ended().is_none());
        if !on_air {
            return Ok(Err(Problem::off_air()));
        }
        let now = now_unix_ms();
        let (session, signal) = match asked {
            Asked::May => return Ok(self.desk.borrow().may_ask().map(|()| Told::Done)),
            Asked::Ended { session } => {
                self.desk.borrow_mut().end_if_known(session.id, now);
                self.say();
                return Ok(Ok(Told::Done));
            }
            Asked::Offer { viewer, sdp } => {
                let session = viewer.session.clone();
                (session, Signal::Offer { viewer, sdp })
            }
            Asked::Patch {
                session,
                body,
                if_match,
            } => {
                let id = session.id;
                let known = self.desk.borrow().known(&id).cloned();
                let read = signaling::patch(body.as_bytes(), if_match.as_deref(), known.as_ref());
                let fragment = match read {
                    Ok(fragment) => fragment,
                    Err(found) => return Ok(Err(found)),
                };
                let signal = Signal::Patch {
                    session: id,
                    fragment,
                };
                (*session, signal)
            }
            Asked::Leave { session } => {
                let signal = Signal::Leave {
                    session: session.id,
                };
                (*session, signal)
            }
        };
        // Whoever let it in may not have heard of what this object was told of.
        self.learn().await?;
        if let Err(found) = self.may_stay(&session) {
            return Ok(Err(found));
        }
        let leaves = matches!(signal, Signal::Leave { .. });
        let answered = self.answer(signal).await;
        if leaves && answered.is_err() {
            self.desk.borrow_mut().end([session.id], now_unix_ms());
            self.say();
            return Ok(Ok(Told::Done));
        }
        Ok(answered.map(Told::Outcome))
    }

    async fn answer(&self, signal: Signal) -> std::result::Result<Outcome, Problem> {
        let (waiter, answered) = oneshot::channel();
        let request = (self.desk.borrow_mut()).ask(signal, waiter, now_unix_ms())?;
        self.say();
        let late = Delay::from(Duration::from_secs(ANSWER_S));
        match future::select(answered, late).await {
            Either::Left((Ok(outcome), _)) => Ok(outcome),
            // The link is gone, and what was asked with it.
            Either::Left((Err(_), _)) => Err(Problem::unlinked()),
            Either::Right(_) => {
                self.desk.borrow_mut().give_up(request, now_unix_ms());
                self.say();
                Err(Problem::no_answer())
            }
        }
    }

    fn answered(&self, request: u64, outcome: Outcome, now: i64) {
        let begins = matches!(outcome, Outcome::Answer { .. });
        let asked = (self.desk.borrow_mut()).answered(request, &outcome, now);
        if let Some((waiter, id)) = asked
            && waiter.send(outcome).is_err()
            && begins
        {
            // Whoever offered is gone.
            self.desk.borrow_mut().end([id], now);
            self.say();
        }
    }

    fn stream(&self) -> Option<StreamName> {
        (self.live.borrow().as_ref()).map(|live| live.stream().clone())
    }

    /// Takes in what was taken back and this object was told of.
    async fn learn(&self) -> Result<()> {
        if self.revoked.get() > watch::revoked_id() {
            watch::revoked_now(&self.env).await?;
        }
        Ok(())
    }

    /// Whether a session that is played by WebRTC may go on.
    fn may_stay(&self, session: &Session) -> std::result::Result<(), Problem> {
        let stream = self.stream().ok_or_else(Problem::off_air)?;
        if session.is_anonymous() && directory::needs_token(&stream) {
            return Err(Problem::token_needed());
        }
        let still = match access::access(&self.env) {
            Ok(Some(access)) => {
                access.still_watches(session, &stream, &watch::revoked(), now_unix_ms())
            }
            _ => Err(Refusal::Key),
        };
        still.map_err(|refusal| Problem::token(&refusal))
    }

    /// Ends who watches by WebRTC, and may not any more.
    async fn end_viewers(&self) -> Result<()> {
        let out: Vec<Session> = {
            let desk = self.desk.borrow();
            let sessions = desk.viewers().map(|viewer| &viewer.session);
            let out = sessions.filter(|session| self.may_stay(session).is_err());
            out.cloned().collect()
        };
        if out.is_empty() {
            return Ok(());
        }
        let ids = out.iter().map(|session| session.id);
        self.desk.borrow_mut().end(ids, now_unix_ms());
        self.say();
        self.free(&out).await
    }

    /// The places of these are others'.
    async fn free(&self, sessions: &[Session]) -> Result<()> {
        let Some(stream) = self.stream().filter(|_| !sessions.is_empty()) else {
            return Ok(());
        };
        let ids: Vec<Tag> = sessions.iter().map(|session| session.id).collect();
        let ids = serde_json::to_string(&ids)?;
        stream::question(&self.env, &stream, stream::GONE, ids).await?;
        let devices = sessions.iter().filter(|session| session.max.is_some());
        let freed = devices.map(|session| {
            let (token, id) = (&session.holder.token, session.id.to_string());
            stream::question_of_token(&self.env, token, &stream, stream::LEFT, id)
        });
        let freed = futures::stream::iter(freed).buffer_unordered(watch::TOLD_AT_ONCE);
        freed.try_for_each(|_| future::ready(Ok(()))).await
    }

    /// These watch: counts them, and ends those that may not, or have no place any more.
    async fn seen(&self, viewers: Vec<Viewer>) -> Result<()> {
        let Some(stream) = self.stream() else {
            return Ok(());
        };
        self.learn().await?;
        if directory::newest(&stream).is_none() {
            directory::read(&self.env).await?;
        }
        let most = directory::max_viewers(&stream);
        let (stay, out): (Vec<_>, Vec<_>) =
            (viewers.into_iter()).partition(|viewer| self.may_stay(&viewer.session).is_ok());
        let mut out: Vec<Session> = out.into_iter().map(|viewer| viewer.session).collect();
        // A token that is for so many devices counts them in one object, wherever they watch.
        let devices = stay.iter().filter(|viewer| viewer.session.max.is_some());
        let asked = devices.map(|Viewer { session, address }| {
            let seen = Seen {
                session: session.clone(),
                about: None,
                most,
                address: *address,
            };
            let (env, stream) = (&self.env, &stream);
            async move {
                let (token, body) = (&session.holder.token, serde_json::to_string(&seen)?);
                let asked = stream::question_of_token(env, token, stream, stream::DEVICE, body);
                let refused = asked.await?.status_code() == StatusCode::FORBIDDEN.as_u16();
                Ok::<_, Error>(refused.then_some(session.id))
            }
        });
        let asked = futures::stream::iter(asked).buffer_unordered(watch::TOLD_AT_ONCE);
        let mut refused: Vec<Tag> = asked
            .try_filter_map(|id| future::ready(Ok(id)))
            .try_collect()
            .await?;
        let (no_device, viewers): (Vec<_>, Vec<_>) =
            (stay.into_iter()).partition(|viewer| refused.contains(&viewer.session.id));
        out.extend(no_device.into_iter().map(|viewer| viewer.session));
        let sessions: Vec<Session> = viewers.iter().map(|one| one.session.clone()).collect();
        let body = serde_json::to_string(&stream::Watching { viewers, most })?;
        let mut given = stream::question(&self.env, &stream, stream::WATCHING, body).await?;
        refused = given.json().await?;
        let no_place = sessions.into_iter().filter(|one| refused.contains(&one.id));
        out.extend(no_place);
        if out.is_empty() {
            return Ok(());
        }
        let ids = out.iter().map(|session| session.id);
        self.desk.borrow_mut().end(ids, now_unix_ms());
        self.say();
        self.free(&out).await
    }
}

impl Object {
    async fn load(&self, linked: bool) -> Result<()> {
        let Some(snapshot) = self.storage.get::<String>(SNAPSHOT_KEY).await? else {
            return Ok(());
        };
        match Broadcast::restore(snapshot.as_bytes(), now_unix_ms()) {
            Ok(mut live) => {
                if linked && live.ended().is_none() {
                    live.link_connected();
                }
                self.said_playable.set(live.is_playable());
                self.live.replace(Some(live));
            }
            // One that another version wrote: media-core sends everything again from its first message, or begins anew.
            Err(error) => worker::console_error!("a stored broadcast cannot be read: {error}"),
        }
        Ok(())
    }

    /// Writes the snapshot and waits until it is durable.
    async fn store(&self) -> Result<()> {
        let (seq, reserved_msn, snapshot) = match self.live.borrow().as_ref() {
            Some(live) => (live.seq(), live.reserved_msn(), live.snapshot()?),
            None => return Ok(()),
        };
        let text = JsValue::from_str(&String::from_utf8_lossy(&snapshot));
        self.storage.put_raw(SNAPSHOT_KEY, text).await?;
        if self.storage.get_alarm().await?.is_none() {
            self.storage.set_alarm(ALARM_MS).await?;
        }
        self.storage.sync().await?;
        if let Some(live) = self.live.borrow_mut().as_mut() {
            live.stored(seq, reserved_msn);
        }
        Ok(())
    }

    /// Writes the snapshot behind the wake-up; while one is written, the newest that is asked for waits, and only that one.
    async fn store_behind(&self, link: &WebSocket) -> Result<()> {
        self.store_again.set(true);
        if self.storing.replace(true) {
            return Ok(());
        }
        let mut stored = Ok(());
        while self.store_again.replace(false) && stored.is_ok() {
            stored = self.store().await;
        }
        self.storing.set(false);
        stored?;
        let (seq, ended) = match self.live.borrow().as_ref() {
            Some(live) => (live.stored_seq(), live.ended().is_some()),
            None => return Ok(()),
        };
        // The link may be gone by now; then the next one begins with a welcome that says the same.
        send(link, &ToCore::Ack { seq }).ok();
        if ended {
            self.tell_soon().await;
            self.say_closed().await?;
        }
        Ok(())
    }

    /// Tells the directory, once, that viewers can come.
    async fn say_playable(&self) -> Result<()> {
        let told = (self.live.borrow().as_ref())
            .and_then(|live| Some((live.id().clone(), OnAir::of(live)?)));
        let Some((id, on_air)) = told else {
            return Ok(());
        };
        let said = directory::broadcast_playable(&self.env, &id, &on_air).await;
        if said.is_err() {
            self.said_playable.set(false);
        }
        said
    }

    /// Something happened that webhooks are to be told: the next alarm does it, behind everything else, though the isolate may end before.
    async fn tell_soon(&self) {
        let set = async {
            if self.asks()?.is_some() {
                self.soon.set(true);
                self.storage.set_alarm(0).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = set.await {
            worker::console_warn!("webhooks are told late: {error}");
        }
    }

    /// Its stream, where a webhook is told what happens to it.
    fn asks(&self) -> Result<Option<StreamName>> {
        let stream = (self.live.borrow().as_ref()).map(|live| live.stream().clone());
        let Some(stream) = stream else {
            return Ok(None);
        };
        Ok(webhooks::asks(&self.env, On::Events, &stream)?.then_some(stream))
    }

    /// Counts who watches, and keeps what webhooks are to be told.
    async fn tell(&self) -> Result<()> {
        let Some(stream) = self.asks()? else {
            return Ok(());
        };
        let now = now_unix_ms();
        let counts = (self.live.borrow().as_ref()).is_some_and(|live| event::counts(live, now));
        let watched = match counts {
            true => stream::watched(&self.env, &stream).await?,
            false => 0,
        };
        let events = match self.live.borrow_mut().as_mut() {
            Some(live) => {
                event::watched(live, watched);
                event::look(live, 0, now)
            }
            None => return Ok(()),
        };
        if events.is_empty() {
            return Ok(());
        }
        events::keep(&self.env, &events).await?;
        if let Some(live) = self.live.borrow_mut().as_mut() {
            for one in &events {
                event::kept(live, one);
            }
        }
        self.store().await
    }

    async fn say_closed(&self) -> Result<()> {
        let ended = self
            .live
            .borrow()
            .as_ref()
            .and_then(|live| Some((live.id().clone(), live.ended()?)));
        match ended {
            Some((id, ended)) => {
                directory::broadcast_closed(&self.env, &id, ended.at_unix_ms).await
            }
            None => Ok(()),
        }
    }
}

fn send(link: &WebSocket, message: &ToCore) -> Result<()> {
    link.send_with_str(serde_json::to_string(message)?)
}

/// Says why and closes.
fn refuse(link: &WebSocket, reason: &str) -> Result<()> {
    worker::console_warn!("a link was refused: {reason}");
    send(
        link,
        &ToCore::Refused {
            reason: reason.to_owned(),
        },
    )
    .ok();
    link.close(Some(4002), Some("refused")).ok();
    Ok(())
}
