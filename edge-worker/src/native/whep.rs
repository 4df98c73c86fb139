//! WebRTC signaling: offers, and what follows them, over the links; who watches so, and what ends it early.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, header, request::Parts},
};
use protocol::{
    link::ToEdge,
    names::{Protocol, StreamName},
    session::Session,
    signaling::{ANSWER_S, MAX_SDP_BYTES, Outcome, Signal, Viewer},
    token::Refusal,
};
use tokio::{sync::oneshot, time::timeout};

use super::{
    Edge,
    http::{QUESTION, authorization, read},
    live::Live,
    lock, wall_unix_ms,
    watch::{self, Entered, Entry},
};
use crate::{
    directory::bearer,
    guard::Client,
    routes::{Pass, Problem, Route, WhepAddress},
    sessions::About,
    signaling::{self, FRAGMENT, SDP, Said, desk::Heard},
};

const ANSWER: Duration = Duration::from_secs(ANSWER_S);

fn field(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

impl Edge {
    /// Answers a request of WebRTC signaling.
    pub(super) async fn whep(
        &self,
        route: &Route,
        client: Client,
        parts: &Parts,
        body: Body,
    ) -> Result<Said, Problem> {
        let kind = field(&parts.headers, header::CONTENT_TYPE);
        match route {
            Route::Whep(stream) => {
                let given = bearer(authorization(&parts.headers));
                let pass = signaling::pass(parts.uri.query(), given)?;
                let entry = self.entry(stream, pass.clone(), client.address)?;
                // One that goes on offers no more often than new ones begin.
                let secret = pass.as_ref().map(|pass| match pass {
                    Pass::Token(token) => token.as_str(),
                    Pass::Session(session) => session.as_str(),
                });
                self.guard().begins(client, secret, self.uptime())?;
                signaling::takes(SDP, kind)?;
                let sdp = signaling::offer(&read(body, MAX_SDP_BYTES, QUESTION).await?)?;
                self.offer(route, stream, entry, sdp, client.address).await
            }
            Route::WhepPatch(address) => {
                let (live, session) = self.whep_session(address, client.address)?;
                signaling::takes(FRAGMENT, kind)?;
                let body = read(body, MAX_SDP_BYTES, QUESTION).await?;
                let if_match = field(&parts.headers, header::IF_MATCH);
                let known = live.signal(|desk| desk.known(&session.id).cloned());
                let fragment = signaling::patch(&body, if_match, known.as_ref())?;
                let session = session.id;
                let signal = Signal::Patch { session, fragment };
                signaling::done(self.ask(&live, signal).await?)
            }
            Route::WhepLeave(address) => {
                let (live, session) = self.whep_session(address, client.address)?;
                // The place is free at once, whatever media-core says.
                self.no_seat(&address.stream, &session);
                let id = session.id;
                match self.ask(&live, Signal::Leave { session: id }).await {
                    Ok(outcome) => signaling::done(outcome),
                    Err(_) => {
                        let now = self.now_unix_ms();
                        live.signal(|desk| desk.end([id], now));
                        Ok(Said::left())
                    }
                }
            }
            _ => Err(Problem::not_found()),
        }
    }

    async fn offer(
        &self,
        route: &Route,
        stream: &StreamName,
        entry: Entry,
        sdp: String,
        address: IpAddr,
    ) -> Result<Said, Problem> {
        // Webhooks are not asked about what cannot be.
        self.on_air(stream)?.signal(|desk| desk.may_ask())?;
        let (entry, begins) = match entry {
            Entry::Anybody => {
                let session = Session::anonymous(watch::random_id()?, wall_unix_ms());
                (Entry::Begins(Box::new(session), None), true)
            }
            Entry::Begins(session, claims) => (Entry::Begins(session, claims), true),
            goes_on @ Entry::GoesOn(_) => (goes_on, false),
        };
        let text = match self.enter(stream, entry, Protocol::Whep, address).await? {
            Entered::Session(text) => text,
            Entered::Elsewhere(other, text) => return Ok(Said::elsewhere(route, &other, &text)),
            Entered::Anybody => return Err(Problem::internal()),
        };
        let session = (self.access())
            .session(
                &text,
                stream,
                address,
                self.directory().revocations(),
                wall_unix_ms(),
            )
            .map_err(|refusal| Problem::token(&refusal))?;
        let viewer = Box::new(Viewer {
            session: session.clone(),
            address,
        });
        let offered = async {
            let live = self.on_air(stream)?;
            let answer = self.ask(&live, Signal::Offer { viewer, sdp }).await?;
            Ok((live.id.clone(), signaling::answer(answer)?))
        };
        let (broadcast, sdp) = offered.await.inspect_err(|_: &Problem| {
            if begins {
                self.no_seat(stream, &session);
            }
        })?;
        let links = (self.config().ice_servers).links(&session.id, wall_unix_ms());
        Ok(Said::created(stream, &broadcast, &text, links, sdp))
    }

    /// The broadcast of a stream that is there, while it goes on.
    fn on_air(&self, stream: &StreamName) -> Result<Arc<Live>, Problem> {
        let current = self.current(stream).filter(|live| live.goes_on());
        current.ok_or_else(Problem::off_air)
    }

    /// The session of an address, if it may go on, and its broadcast.
    fn whep_session(
        &self,
        address: &WhepAddress,
        from: IpAddr,
    ) -> Result<(Arc<Live>, Session), Problem> {
        let (access, directory) = (self.access(), self.directory());
        let (text, revoked) = (address.session.as_str(), directory.revocations());
        let session = access.session(text, &address.stream, from, revoked, wall_unix_ms());
        let session = session.map_err(|refusal| Problem::token(&refusal))?;
        self.may_go_on(&address.stream, &session)?;
        let live = (self.live(&address.broadcast))
            .filter(|live| live.stream == address.stream && live.goes_on());
        Ok((live.ok_or_else(Problem::no_session)?, session))
    }

    /// Asks media-core, and waits for its answer.
    async fn ask(&self, live: &Live, signal: Signal) -> Result<Outcome, Problem> {
        let (waiter, answered) = oneshot::channel();
        let now = self.now_unix_ms();
        let request = live.signal(|desk| desk.ask(signal, waiter, now))?;
        match timeout(ANSWER, answered).await {
            Ok(Ok(outcome)) => Ok(outcome),
            // The link is gone, and what was asked with it.
            Ok(Err(_)) => Err(Problem::unlinked()),
            Err(_) => {
                let now = self.now_unix_ms();
                live.signal(|desk| desk.give_up(request, now));
                Err(Problem::no_answer())
            }
        }
    }

    fn no_seat(&self, stream: &StreamName, session: &Session) {
        if let Some(sessions) = lock(self.sessions()).get_mut(stream) {
            sessions.left(&session.id);
        }
    }

    /// Takes in what media-core says of viewers. False where the link is to be dialled again.
    pub(super) fn hear(&self, live: &Live, message: &ToEdge) -> bool {
        let now = self.now_unix_ms();
        let heard = match message {
            ToEdge::Signaled { request, outcome } => {
                let asked = live.signal(|desk| desk.answered(*request, outcome, now));
                if let Some((waiter, id)) = asked
                    && waiter.send(outcome.clone()).is_err()
                    && matches!(outcome, Outcome::Answer { .. })
                {
                    // Whoever offered is gone.
                    live.signal(|desk| desk.end([id], now));
                }
                return true;
            }
            ToEdge::Gone { sessions } => {
                for session in live.signal(|desk| desk.gone(sessions)) {
                    self.no_seat(&live.stream, &session);
                }
                return true;
            }
            ToEdge::Watching { viewers } => live.signal(|desk| desk.watching(viewers.clone(), now)),
            ToEdge::StillWatching { sessions } => live.signal(|desk| desk.still(sessions, now)),
            _ => return true,
        };
        let Heard {
            watching,
            forgotten,
        } = heard;
        let about = |session: &Session| {
            let known = lock(self.sessions())
                .get(&live.stream)
                .is_some_and(|all| all.is_active(session, now));
            // Of one that an edge before this one let in nothing else is known.
            (!known).then_some(About {
                subject: None,
                jti: None,
                protocol: Protocol::Whep,
            })
        };
        let out = watching.into_iter().filter_map(|viewer| {
            let Viewer { session, address } = &viewer;
            let about = about(session);
            let refused = self.may_stay(&live.stream, session);
            let refused = refused.and_then(|()| self.seen(&live.stream, session, about, *address));
            refused.is_err().then_some(session.id)
        });
        let out: Vec<_> = out.collect();
        if !out.is_empty() {
            live.signal(|desk| desk.end(out, now));
        }
        !forgotten
    }

    /// Ends who watches by WebRTC, and may not any more.
    pub(super) fn end_viewers(&self, live: &Live) {
        let now = self.now_unix_ms();
        let out: Vec<Session> = live.signal(|desk| {
            let viewers = desk.viewers().map(|viewer| &viewer.session);
            let out = viewers.filter(|session| self.may_stay(&live.stream, session).is_err());
            out.cloned().collect()
        });
        if out.is_empty() {
            return;
        }
        let ids = out.iter().map(|session| session.id);
        live.signal(|desk| desk.end(ids, now));
        for session in &out {
            self.no_seat(&live.stream, session);
        }
    }

    /// As [`Edge::may_go_on`], for a session that runs without asking: the key that signed it is looked at too.
    fn may_stay(&self, stream: &StreamName, session: &Session) -> Result<(), Problem> {
        let (access, directory) = (self.access(), self.directory());
        let still: Result<(), Refusal> =
            access.still_watches(session, stream, directory.revocations(), wall_unix_ms());
        still.map_err(|refusal| Problem::token(&refusal))?;
        self.may_go_on(stream, session)
    }
}
