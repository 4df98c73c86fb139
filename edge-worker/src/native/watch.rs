//! Who watches: playback sessions from their begin to their end, and what ends them early.

use std::net::IpAddr;

use protocol::{
    names::{Protocol, StreamName},
    session::Session,
    token::{Action, Ask, Claims, Grant, Refusal, Revocation, Revoked, StreamPattern, Tag},
};

use super::{Edge, EdgeError, live::Live, lock, wall_unix_ms};
use crate::{
    access::{Link, MAX_LINKS, NotMinted, TakeBack, WantedLink},
    api::LoggedOut,
    directory::{Directory, bearer, sql},
    routes::{self, Pass, Problem},
    sessions::{About, Listed, Sessions},
    webhooks::{self, On},
};

/// A viewer whose request was looked at: what is looked at again before it is answered.
#[derive(Debug, Clone)]
pub(super) enum Viewer {
    /// One of those who watch without a token.
    Anybody,
    /// A session.
    Session(Box<Session>),
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
        let now = wall_unix_ms();
        let session = self
            .access()
            .session(
                session.as_str(),
                stream,
                address,
                directory.revocations(),
                now,
            )
            .map_err(|refusal| Problem::token(&refusal))?;
        let viewer = Viewer::Session(Box::new(session));
        self.still(stream, &viewer)?;
        if let Viewer::Session(session) = &viewer {
            self.seen(stream, session, None, address)?;
        }
        Ok(viewer)
    }

    /// Whether somebody who was let in may go on: what has waited, and what goes on for long, is asked again at each part.
    pub(super) fn still(&self, stream: &StreamName, viewer: &Viewer) -> Result<(), Problem> {
        let directory = self.directory();
        let Viewer::Session(session) = viewer else {
            return self.open_to_all(&directory, stream);
        };
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
        let about = About {
            subject: claims.as_ref().map(|claims| claims.sub.clone()),
            jti: claims.map(|claims| claims.jti),
            protocol,
        };
        // A webhook may send somebody elsewhere, but not past a token that is needed there.
        let directory = self.directory();
        match session.is_anonymous() {
            true => visible_to_all(&directory, &allowed.stream)?,
            false => {
                directory
                    .stream(&allowed.stream)
                    .ok_or_else(Problem::no_stream)?;
            }
        }
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

    fn seen(
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

    /// Whether whoever has this `Authorization` manages all of these streams: by a token, or (one stream) by its studio link.
    pub(super) fn manages(
        &self,
        streams: &StreamPattern,
        authorization: Option<&str>,
        address: IpAddr,
    ) -> Result<(), Problem> {
        let studio = streams.name();
        if studio.is_some_and(|stream| self.opens_studio(&stream, authorization)) {
            return Ok(());
        }
        self.manager(streams, authorization, address).map(drop)
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

    /// Whether whoever has this `Authorization` may know of a stream that needs a token to watch.
    pub(super) fn may_see(
        &self,
        stream: &StreamName,
        authorization: Option<&str>,
        address: IpAddr,
    ) -> Result<(), Problem> {
        let Some(token) = bearer(authorization) else {
            return Err(Problem::token_needed());
        };
        if self.opens_studio(stream, authorization) {
            return Ok(());
        }
        let (directory, access, now) = (self.directory(), self.access(), wall_unix_ms());
        let check = |action| {
            let ask = Ask {
                action,
                stream,
                address,
            };
            access.check(token, &ask, directory.revocations(), now)
        };
        let seen = check(Action::Watch).or_else(|refusal| match refusal {
            Refusal::Action(_) => check(Action::Manage),
            refusal => Err(refusal),
        });
        seen.map(drop).map_err(|refusal| Problem::token(&refusal))
    }

    // ---- what ends sessions early

    /// Takes something back, for somebody who manages those streams.
    ///
    /// # Errors
    /// [`EdgeError`] when it cannot be kept: then it is not in force.
    pub async fn revoke(&self, wanted: TakeBack) -> Result<Revocation, EdgeError> {
        let now = wall_unix_ms();
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
        if !self.opens_studio(stream, authorization) {
            return Err(Problem::unauthorized());
        }
        let (name, access, now) = (stream.clone(), self.access(), wall_unix_ms());
        let secret = self
            .change(move |database| {
                let revoke = |jti| {
                    let wanted = TakeBack {
                        what: access.revoked_studio(jti),
                        streams: name.clone().into(),
                    };
                    wanted.revocation(now)
                };
                database.log_out(&name, revoke, now)
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
                Revoked::Subject { .. } | Revoked::All => {}
            }
        }
    }

    /// Ends the broadcasts whose publisher's token was taken back.
    pub(super) fn enforce(&self) {
        for live in self.broadcasts() {
            self.enforce_on(&live);
        }
    }

    /// Ends a broadcast whose publisher's token was taken back.
    pub(super) fn enforce_on(&self, live: &Live) {
        let directory = self.directory();
        let Some(publisher) = live.with(|b| b.publisher().copied()) else {
            return;
        };
        if directory
            .revocations()
            .refuse(&publisher, &live.stream)
            .is_err()
            && live.refusal().is_none()
        {
            tracing::info!(stream = %live.stream, broadcast = %live.id, "the publisher's token was revoked: the broadcast ends");
            live.refuse(&Refusal::Revoked.to_string(), self.now_unix_ms());
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
        let (claims, link) = match self.access().make_link(stream, wanted, id, now) {
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
        let (stream, jti) = (stream.clone(), jti.to_owned());
        let wanted = TakeBack {
            what: self.access().revoked_link(jti.clone()),
            streams: stream.clone().into(),
        };
        let revocation = wanted.revocation(now);
        let taken_back = revocation.clone();
        let deleted = self
            .change(move |database| database.delete_link(&stream, &jti, revocation, now))
            .await;
        match deleted.map_err(kept)? {
            false => Err(Problem::not_found()),
            true => {
                self.forget_sessions(&taken_back);
                Ok(())
            }
        }
    }
}

/// What whoever asked hears of something that could not be kept.
pub(super) fn kept(error: EdgeError) -> Problem {
    tracing::error!(%error, "the directory could not be asked or changed");
    Problem::unavailable()
}

fn random_id() -> Result<[u8; 12], Problem> {
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
