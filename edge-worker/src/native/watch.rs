//! Who watches: playback sessions from their begin to their end, and what ends them early.

use std::{net::IpAddr, sync::Arc};

use protocol::{
    names::{Protocol, StreamName},
    session::Session,
    token::{Action, Ask, Claims, Grant, Refusal, Revocation, Revoked, StreamPattern, Tag},
};

use super::{Edge, EdgeError, live::Live, lock, wall_unix_ms};
use crate::{
    access::{Access, Link, MAX_LINKS, NotMinted, TakeBack, WantedLink},
    api::LoggedOut,
    directory::{Directory, bearer, sql},
    routes::{self, Pass, Problem},
    sessions::{About, Listed, NotOneMore, Sessions},
    webhooks::{self, On},
};

/// A viewer whose request was looked at: what is looked at again before it is answered.
#[derive(Debug, Clone)]
pub(super) enum Viewer {
    /// One of those who watch without a token.
    Anybody,
    /// A session.
    Session(Box<Playing>),
}

/// A session whose request was looked at.
#[derive(Debug, Clone)]
pub(super) struct Playing {
    session: Session,
    /// As the address has it, and what it was read with.
    text: String,
    access: Arc<Access>,
    address: IpAddr,
}

/// How somebody comes in who asks for a multivariant playlist or an MPD.
pub(super) enum Entry {
    /// Without a token.
    Anybody,
    /// With a new session, and what their token says where they have one.
    Begins(Box<Session>, Option<Box<Claims>>),
    /// With the session that they have.
    GoesOn(routes::Session),
}

/// How somebody came in.
pub(super) enum Entered {
    /// Without a session.
    Anybody,
    /// With this segment of the addresses.
    Session(String),
    /// Sent to another stream, with a session for it.
    Elsewhere(StreamName, String),
}

impl Edge {
    /// Lets a request for a playlist or a segment in, and counts its session as seen.
    pub(super) fn viewer(
        &self,
        stream: &StreamName,
        session: &routes::Session,
        address: IpAddr,
    ) -> Result<Viewer, Problem> {
        let directory = self.directory();
        if session.is_public() {
            self.open_to_all(&directory, stream)?;
            return Ok(Viewer::Anybody);
        }
        let (access, now) = (self.access(), wall_unix_ms());
        let (text, revoked) = (session.as_str(), directory.revocations());
        let session = access
            .session(text, stream, address, revoked, now)
            .map_err(|refusal| Problem::token(&refusal))?;
        self.may_go_on(stream, &session)?;
        self.seen(stream, &session, None, address)?;
        Ok(Viewer::Session(Box::new(Playing {
            session,
            text: text.to_owned(),
            access,
            address,
        })))
    }

    /// Whether somebody who was let in may go on: what has waited, and what goes on for long, is asked again at each part.
    pub(super) fn still(&self, stream: &StreamName, viewer: &Viewer) -> Result<(), Problem> {
        let Viewer::Session(playing) = viewer else {
            return self.open_to_all(&self.directory(), stream);
        };
        let Playing {
            session,
            text,
            access,
            address,
        } = &**playing;
        let now = self.access();
        if !Arc::ptr_eq(&now, access) {
            // The keys were changed since: its own may be out.
            let (directory, at) = (self.directory(), wall_unix_ms());
            let read = now.session(text, stream, *address, directory.revocations(), at);
            read.map_err(|refusal| Problem::token(&refusal))?;
        }
        self.may_go_on(stream, session)?;
        // It may have said that it is gone while it waited, and its place may be another device's.
        match session.max {
            Some(_) => self.seen(stream, session, None, *address),
            None => Ok(()),
        }
    }

    pub(super) fn may_go_on(&self, stream: &StreamName, session: &Session) -> Result<(), Problem> {
        let directory = self.directory();
        // It began while no token was needed.
        if session.is_anonymous() {
            visible_to_all(&directory, stream)?;
        }
        directory.stream(stream).ok_or_else(Problem::no_stream)?;
        let refused = match session.ends_unix_ms <= wall_unix_ms() {
            true => Err(Refusal::Expired),
            false => directory.revocations().refuse_session(session, stream),
        };
        refused.map_err(|refusal| Problem::token(&refusal))
    }

    /// Looks at what a request for a multivariant playlist or an MPD shows.
    pub(super) fn entry(
        &self,
        stream: &StreamName,
        pass: Option<Pass>,
        address: IpAddr,
    ) -> Result<Entry, Problem> {
        match pass {
            None => {
                let directory = self.directory();
                visible_to_all(&directory, stream)?;
                match self.needs_session(&directory, stream) {
                    false => Ok(Entry::Anybody),
                    true => {
                        let session = Session::anonymous(random_id()?, wall_unix_ms());
                        Ok(Entry::Begins(Box::new(session), None))
                    }
                }
            }
            Some(Pass::Session(session)) => {
                self.viewer(stream, &session, address)?;
                Ok(match session.is_public() {
                    true => Entry::Anybody,
                    false => Entry::GoesOn(session),
                })
            }
            Some(Pass::Token(token)) => {
                let directory = self.directory();
                let kept = directory.stream(stream).ok_or_else(Problem::no_stream)?;
                let ask = Ask {
                    action: Action::Watch,
                    stream,
                    address,
                };
                let id = random_id()?;
                let (access, revoked, now) =
                    (self.access(), directory.revocations(), wall_unix_ms());
                let begun = match kept.studio_token(&token) {
                    Some(jti) => access.begin_in_studio(jti, &ask, revoked, id, now),
                    None => access.begin(&token, &ask, revoked, id, now),
                };
                let (grant, session) = begun.map_err(|refusal| Problem::token(&refusal))?;
                let claims = Box::new(grant.claims().clone());
                Ok(Entry::Begins(Box::new(session), Some(claims)))
            }
        }
    }

    /// Begins the session of somebody who comes in, where there is something to watch: asks the webhooks, and whether one more may.
    pub(super) async fn enter(
        &self,
        stream: &StreamName,
        entry: Entry,
        protocol: Protocol,
        address: IpAddr,
    ) -> Result<Entered, Problem> {
        let (mut session, claims) = match entry {
            Entry::Anybody => return Ok(Entered::Anybody),
            Entry::GoesOn(session) => return Ok(Entered::Session(session.as_str().to_owned())),
            Entry::Begins(session, claims) => (session, claims),
        };
        let token = claims.as_deref().cloned();
        let ask = webhooks::Ask::watch(stream, protocol, address, token);
        let allowed = self.admit_viewer(&ask).await;
        let allowed = allowed.map_err(|denied| Problem::denied(denied.to_string()))?;
        if let Some(ends) = allowed.ends_unix_ms {
            session.ends_unix_ms = session.ends_unix_ms.min(ends);
        }
        // A webhook may send somebody elsewhere, but not past a token that is needed there and that theirs is not.
        let directory = self.directory();
        let watched = directory
            .stream(&allowed.stream)
            .ok_or_else(Problem::no_stream)?;
        let covered = claims
            .as_ref()
            .is_some_and(|claims| claims.stream.covers(&allowed.stream));
        if watched.visibility.needs_token() && !covered {
            return Err(Problem::token_needed());
        }
        let about = About {
            subject: claims.as_ref().map(|claims| claims.sub.clone()),
            jti: claims.map(|claims| claims.jti),
            protocol,
        };
        // Of one stream it is exact: the count is looked at again where the session is noted.
        self.may_watch(&allowed.stream)
            .map_err(|full| Problem::full(full.to_string()))?;
        self.seen(&allowed.stream, &session, Some(about), address)?;
        let text = (self.access())
            .sign_session(&allowed.stream, &session)
            .map_err(|refusal| Problem::token(&refusal))?;
        Ok(match allowed.stream == *stream {
            true => Entered::Session(text),
            false => Entered::Elsewhere(allowed.stream, text),
        })
    }

    pub(super) fn seen(
        &self,
        stream: &StreamName,
        session: &Session,
        about: Option<About>,
        address: IpAddr,
    ) -> Result<(), Problem> {
        let now = self.now_unix_ms();
        let most = (self.directory().stream(stream)).and_then(|s| s.limits.max_viewers);
        let mut all = lock(self.sessions());
        // A name is copied for the first only.
        if !all.contains_key(stream) {
            all.insert(stream.clone(), Sessions::default());
        }
        // A token is for so many devices wherever they watch; one that plays already has its place.
        if let Some(max) = session.max
            && !all
                .get(stream)
                .is_some_and(|here| here.is_active(session, now))
        {
            let others = all.values().map(|one| one.others_of(session, now));
            if others.sum::<usize>() >= max.get() as usize {
                return Err(Problem::not_one_more(&NotOneMore::InUse(max.get())));
            }
        }
        let Some(sessions) = all.get_mut(stream) else {
            return Ok(());
        };
        let seen = sessions.seen(session, about, most, address, now);
        seen.map_err(|refused| Problem::not_one_more(&refused))
    }

    /// A player says that it is gone.
    pub(super) fn left(&self, stream: &StreamName, session: &str, address: IpAddr) {
        let directory = self.directory();
        let read = self.access().session(
            session,
            stream,
            address,
            directory.revocations(),
            wall_unix_ms(),
        );
        if let (Ok(session), Some(sessions)) = (read, lock(self.sessions()).get_mut(stream)) {
            sessions.left(&session.id);
            let id = session.id;
            if let Some(live) = self.current(stream) {
                live.signal(|desk| desk.end_if_known(id, self.now_unix_ms()));
            }
        }
    }

    /// How many sessions of a stream are active.
    pub(super) fn session_count(&self, stream: &StreamName) -> usize {
        let now = self.now_unix_ms();
        let mut sessions = lock(self.sessions());
        sessions.get_mut(stream).map_or(0, |s| s.count(now))
    }

    /// The sessions of a stream, newest first.
    pub(super) fn session_list(&self, stream: &StreamName) -> Vec<Listed> {
        let now = self.now_unix_ms();
        let mut sessions = lock(self.sessions());
        sessions
            .get_mut(stream)
            .map_or_else(Vec::new, |s| s.list(now))
    }

    /// Whether all who watch have a session: a webhook is asked about each, or they are counted.
    pub(super) fn needs_session(&self, directory: &Directory, stream: &StreamName) -> bool {
        let limits = directory.stream(stream).map(|stream| stream.limits);
        let tenants = &self.config().tenants;
        limits.is_some_and(|own| tenants.count_viewers(stream, &own))
            || self.webhooks().asks(On::Watch, stream)
    }

    /// Whether anybody may watch without a session.
    fn open_to_all(&self, directory: &Directory, stream: &StreamName) -> Result<(), Problem> {
        visible_to_all(directory, stream)?;
        match self.needs_session(directory, stream) {
            true => Err(Problem::session_needed()),
            false => Ok(()),
        }
    }

    // ---- who manages

    /// What whoever has this `Authorization` manages, where it is all of these streams: by a token, or (one stream) by its studio link.
    pub(super) fn manages(
        &self,
        streams: &StreamPattern,
        authorization: Option<&str>,
        address: IpAddr,
    ) -> Result<StreamPattern, Problem> {
        let studio = streams.name();
        if studio.is_some_and(|stream| self.opens_studio(&stream, authorization)) {
            return Ok(streams.clone());
        }
        let grant = self.manager(streams, authorization, address)?;
        Ok(grant.claims().stream.clone())
    }

    /// Whether whoever has this `Authorization` manages the stream, which is there.
    pub(super) fn owns(
        &self,
        stream: &StreamName,
        authorization: Option<&str>,
        address: IpAddr,
    ) -> bool {
        let streams = stream.clone().into();
        self.knows(stream) && self.manages(&streams, authorization, address).is_ok()
    }

    /// What whoever has this `Authorization` manages, where it is this stream, and it is there: a token may manage names that are not.
    pub(super) fn manages_one(
        &self,
        stream: &StreamName,
        authorization: Option<&str>,
        address: IpAddr,
    ) -> Result<StreamPattern, Problem> {
        let manager = self.manages(&stream.clone().into(), authorization, address)?;
        match self.knows(stream) {
            true => Ok(manager),
            false => Err(Problem::no_stream()),
        }
    }

    /// The token that lets its bearer manage all of these streams.
    pub(super) fn manager(
        &self,
        streams: &StreamPattern,
        authorization: Option<&str>,
        address: IpAddr,
    ) -> Result<Grant, Problem> {
        let token = bearer(authorization).ok_or_else(Problem::unauthorized)?;
        let directory = self.directory();
        self.access()
            .manages(
                token,
                streams,
                address,
                directory.revocations(),
                wall_unix_ms(),
            )
            .map_err(|refusal| Problem::token(&refusal))
    }

    // ---- what ends sessions early

    /// Takes something back, for somebody who manages those streams and, in all, these.
    ///
    /// # Errors
    /// [`EdgeError`] when it cannot be kept: then it is not in force.
    pub async fn revoke(
        &self,
        wanted: TakeBack,
        manager: &StreamPattern,
    ) -> Result<Revocation, EdgeError> {
        let now = wall_unix_ms();
        let tenants = &self.config().tenants;
        let wanted = wanted.folded(manager, tenants, self.directory().revocations());
        let revocation = wanted.revocation(now);
        let kept = revocation.clone();
        self.change(move |database| database.revoke(kept, now))
            .await?;
        self.enforce();
        self.forget_sessions(&revocation);
        Ok(revocation)
    }

    /// Gives a stream a new studio link for its owner, who has this `Authorization`: every other page that the old one opened is out, and
    /// so is what plays in it.
    pub(super) async fn log_out(
        &self,
        stream: &StreamName,
        authorization: Option<&str>,
    ) -> Result<LoggedOut, Problem> {
        // Not by a token: it would outlive itself in the link that it is told.
        if !self.opens_studio(stream, authorization) {
            return Err(Problem::unauthorized());
        }
        let (name, access, now) = (stream.clone(), self.access(), wall_unix_ms());
        let brought = self.studio_secret(stream, authorization);
        let (revoked, tenants) = (
            self.directory().revocations().clone(),
            self.config().tenants.clone(),
        );
        let secret = self
            .change(move |database| {
                let revoke = |jti| access.revoke_studio(&name, jti, &tenants, &revoked, now);
                database.log_out(&name, brought.as_deref(), revoke, now)
            })
            .await
            .map_err(kept)?;
        Ok(LoggedOut {
            secret: secret.to_string(),
        })
    }

    /// What is over needs no room, and is not shown: a session, or those of a token. Others fall silent by themselves.
    fn forget_sessions(&self, revocation: &Revocation) {
        for (stream, sessions) in lock(self.sessions()).iter_mut() {
            if !revocation.streams.covers(stream) {
                continue;
            }
            match &revocation.what {
                Revoked::Session(id) => sessions.left(id),
                Revoked::Token { iss, jti } => sessions.token_revoked(&Tag::token(iss, jti)),
                Revoked::Subject { .. } | Revoked::All | Revoked::Key(_) => {}
            }
        }
    }

    /// Ends the broadcasts whose publisher came with something that was taken back.
    pub(super) fn enforce(&self) {
        for live in self.broadcasts() {
            self.enforce_on(&live);
        }
    }

    /// Ends a broadcast whose publisher came with something that was taken back, and whoever watches it by WebRTC with such.
    pub(super) fn enforce_on(&self, live: &Live) {
        self.end_viewers(live);
        let Some(publisher) = live.with(|b| b.publisher().cloned()) else {
            return;
        };
        let (directory, access, now) = (self.directory(), self.access(), wall_unix_ms());
        let revoked = directory.revocations();
        if let Err(refusal) = access.still_publishes(&publisher, &live.stream, revoked, now)
            && live.refusal().is_none()
        {
            tracing::info!(stream = %live.stream, broadcast = %live.id, %refusal, "what the publisher came with holds no more: the broadcast ends");
            live.refuse(&refusal.to_string(), self.now_unix_ms());
        }
    }

    // ---- watch links

    /// The watch links of a stream, newest first.
    ///
    /// # Errors
    /// [`EdgeError`] when they cannot be read.
    pub(super) async fn links(&self, stream: &StreamName) -> Result<Vec<Link>, EdgeError> {
        let name = stream.clone();
        let rows = self.change(move |database| database.links(&name)).await?;
        let access = self.access();
        let links = rows.into_iter().filter_map(|row| {
            let claims: Claims = serde_json::from_str(&row.claims)
                .inspect_err(|error| tracing::error!(%error, "a watch link cannot be read"))
                .ok()?;
            access.link(&claims, row.created_unix_ms as i64).ok()
        });
        Ok(links.collect())
    }

    /// Makes a watch link.
    pub(super) async fn add_link(
        &self,
        stream: &StreamName,
        wanted: &WantedLink,
    ) -> Result<Link, Problem> {
        let now = wall_unix_ms();
        let id = super::database::random().map_err(|_| Problem::unavailable())?;
        let directory = self.directory();
        let revoked = directory.revocations();
        let (claims, link) = match (self.access()).make_link(stream, wanted, revoked, id, now) {
            Ok(made) => made,
            Err(NotMinted::Mint(error)) => return Err(Problem::mint(&error)),
            Err(NotMinted::Refused(refusal)) => return Err(Problem::token(&refusal)),
        };
        let claims = serde_json::to_string(&claims).map_err(|_| Problem::internal())?;
        let statement = sql::add_link(stream, &link.jti, &link.name, &claims, now, MAX_LINKS);
        let added = self
            .change(move |database| database.execute(&[statement]))
            .await;
        match added.map_err(kept)? {
            0 => Err(Problem::too_many_links(MAX_LINKS)),
            _ => Ok(link),
        }
    }

    /// Forgets a watch link, and ends what it began.
    pub(super) async fn delete_link(&self, stream: &StreamName, jti: &str) -> Result<(), Problem> {
        let now = wall_unix_ms();
        let (stream, jti, access) = (stream.clone(), jti.to_owned(), self.access());
        let (revoked, tenants) = (
            self.directory().revocations().clone(),
            self.config().tenants.clone(),
        );
        let deleted = self
            .change(move |database| {
                let revoke =
                    |exp| access.revoke_link(&stream, jti.clone(), exp, &tenants, &revoked, now);
                database.delete_link(&stream, &jti, revoke, now)
            })
            .await;
        let revocation = deleted.map_err(kept)?.ok_or_else(Problem::not_found)?;
        self.forget_sessions(&revocation);
        Ok(())
    }
}

/// What whoever asked hears of something that could not be kept.
pub(super) fn kept(error: EdgeError) -> Problem {
    tracing::error!(%error, "the directory could not be asked or changed");
    Problem::unavailable()
}

pub(super) fn random_id() -> Result<[u8; 12], Problem> {
    super::database::random().map_err(|_| Problem::unavailable())
}

/// Whether no token is needed to watch it.
fn visible_to_all(directory: &Directory, stream: &StreamName) -> Result<(), Problem> {
    match directory.stream(stream) {
        None => Err(Problem::no_stream()),
        Some(stream) if stream.visibility.needs_token() => Err(Problem::token_needed()),
        Some(_) => Ok(()),
    }
}

/// A session that its owner ends.
pub(super) fn ended(stream: &StreamName, id: Tag) -> TakeBack {
    TakeBack {
        what: Revoked::Session(id),
        streams: stream.clone().into(),
    }
}
