//! WebRTC signaling at the Worker: who may ask is decided here, and what may be asked goes to the object that holds the broadcast's link, which
//! waits for media-core's answer.

use http::{StatusCode, header};
use protocol::{
    names::{BroadcastId, Protocol, StreamName},
    session::Session,
    signaling::{MAX_SDP_BYTES, Outcome, Viewer},
    token::Refusal,
};
use serde::{Deserialize, Serialize};
use worker::{Context, Env, Method, Request, RequestInit, Response, Result};

use super::{
    answer::{answer, problem},
    binding, broadcast, directory, guard, now_unix_ms, random,
    watch::{self, Begun, Entry},
};
use crate::{
    directory::bearer,
    routes::{Caching, Kind, Problem, Route, WhepAddress},
    signaling::{self, FRAGMENT, SDP, Said, ice::IceServers},
};

/// What the broadcast's object is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Asked {
    /// Whether an offer would go down the link.
    May,
    Offer {
        viewer: Box<Viewer>,
        sdp: String,
    },
    Patch {
        session: Box<Session>,
        body: String,
        if_match: Option<String>,
    },
    Leave {
        session: Box<Session>,
    },
    /// A page is left: whoever watches in it is to be ended.
    Ended {
        session: Box<Session>,
    },
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    Done,
    Outcome(Outcome),
    Refused(Why),
}

/// Why it does not do so, as a word: problems stay in one process.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Why {
    OffAir,
    Unlinked,
    NoAnswer,
    BadBody,
    Precondition,
    PreconditionNeeded,
    TokenNeeded,
    Expired,
    Revoked,
    Key,
}

impl Why {
    pub(super) fn of(problem: &Problem) -> Self {
        match problem.kind() {
            Kind::NotLive => Self::OffAir,
            Kind::NoAnswer => Self::NoAnswer,
            Kind::BadBody => Self::BadBody,
            Kind::Precondition => Self::Precondition,
            Kind::PreconditionNeeded => Self::PreconditionNeeded,
            Kind::TokenNeeded => Self::TokenNeeded,
            Kind::Expired => Self::Expired,
            Kind::Revoked => Self::Revoked,
            Kind::Token => Self::Key,
            _ => Self::Unlinked,
        }
    }

    fn problem(self) -> Problem {
        match self {
            Self::OffAir => Problem::off_air(),
            Self::Unlinked => Problem::unlinked(),
            Self::NoAnswer => Problem::no_answer(),
            Self::BadBody => signaling::refused(protocol::signaling::Refusal::Malformed),
            Self::Precondition => Problem::precondition(),
            Self::PreconditionNeeded => Problem::precondition_needed(),
            Self::TokenNeeded => Problem::token_needed(),
            Self::Expired => Problem::token(&Refusal::Expired),
            Self::Revoked => Problem::token(&Refusal::Revoked),
            Self::Key => Problem::token(&Refusal::Key),
        }
    }
}

type Done<T> = std::result::Result<T, Problem>;

/// Passes a refusal on.
macro_rules! given {
    ($done:expr) => {
        match $done {
            Ok(given) => given,
            Err(found) => return Ok(Err(found)),
        }
    };
}

/// Answers a request of WebRTC signaling.
pub(super) async fn signal(
    route: &Route,
    mut request: Request,
    env: &Env,
    context: &Context,
) -> Result<Response> {
    let done = match route {
        Route::Whep(stream) => offer(route, stream, &mut request, env, context).await?,
        Route::WhepPatch(address) => patch(address, &mut request, env, context).await?,
        Route::WhepLeave(address) => leave(address, &request, env, context).await?,
        _ => Err(Problem::not_found()),
    };
    let said = match done {
        Ok(said) => said,
        Err(found) => return problem(Some(route), &found),
    };
    let kind = (!said.content_type.is_empty()).then_some(said.content_type);
    let body = said.body.into_bytes();
    let response = answer(Some(route), said.status, Caching::Never, kind, body)?;
    for (name, value) in &said.headers {
        response.headers().append(name.as_str(), value)?;
    }
    Ok(response)
}

async fn offer(
    route: &Route,
    stream: &StreamName,
    request: &mut Request,
    env: &Env,
    context: &Context,
) -> Result<Done<Said>> {
    let Some(known) = directory::stream(env, context, stream).await? else {
        return Ok(Err(Problem::no_stream()));
    };
    let (url, authorization) = (request.url()?, request.headers().get("authorization")?);
    let pass = given!(signaling::pass(
        url.query(),
        bearer(authorization.as_deref())
    ));
    let entry = given!(watch::entry(env, context, stream, &known, pass, true, request).await?);
    let client = guard::client(request)?;
    if let Entry::GoesOn(session, _) = &entry {
        // It offers no more often than new ones begin.
        let guards = guard::guards(env)?;
        let begins = (guards.guard).begins(client, Some(session.as_str()), guard::now());
        given!(begins);
    }
    given!(takes(SDP, request)?);
    let sdp = given!(signaling::offer(&given!(read(request).await?)));
    let Some(broadcast) = known.newest() else {
        return Ok(Err(Problem::off_air()));
    };
    // Webhooks are not asked about what cannot be.
    given!(ask(env, broadcast, &Asked::May).await?);
    let (text, seen, begins) = match entry {
        Entry::GoesOn(session, seen) => (session.as_str().to_owned(), seen, false),
        Entry::Anybody | Entry::Begins(..) => {
            let (session, claims) = match entry {
                Entry::Begins(session, claims) => (*session, claims),
                _ => (Session::anonymous(random()?, now_unix_ms()), None),
            };
            let (by, from) = (Protocol::Whep, client.address);
            let begun = watch::begun(env, context, stream, session, claims, by, from).await?;
            match given!(begun) {
                Begun::Here(text, seen) => (text, seen, true),
                Begun::Elsewhere(other, text) => {
                    return Ok(Ok(Said::elsewhere(route, &other, &text)));
                }
            }
        }
    };
    let session = seen.session;
    let viewer = Box::new(Viewer {
        session: session.clone(),
        address: client.address,
    });
    let told = ask(env, broadcast, &Asked::Offer { viewer, sdp }).await;
    let answered = told.map(|told| told.and_then(outcome).and_then(signaling::answer));
    match answered {
        Ok(Ok(sdp)) => {
            let servers: IceServers = guard::variable(env, binding::ICE_SERVERS)?;
            let links = servers.links(&session.id, now_unix_ms());
            Ok(Ok(Said::created(stream, broadcast, &text, links, sdp)))
        }
        refused => {
            if begins {
                watch::free(env, stream, &session).await?;
            }
            refused.map(|refused| refused.map(|_| Said::left()))
        }
    }
}

async fn patch(
    address: &WhepAddress,
    request: &mut Request,
    env: &Env,
    context: &Context,
) -> Result<Done<Said>> {
    let session = given!(session(address, request, env, context).await?);
    given!(takes(FRAGMENT, request)?);
    let body = given!(read(request).await?);
    let Ok(body) = String::from_utf8(body) else {
        return Ok(Err(Why::BadBody.problem()));
    };
    let asked = Asked::Patch {
        session: Box::new(session),
        body,
        if_match: request.headers().get(header::IF_MATCH.as_str())?,
    };
    let told = ask(env, &address.broadcast, &asked).await?;
    Ok(told
        .map_err(gone)
        .and_then(outcome)
        .and_then(signaling::done))
}

async fn leave(
    address: &WhepAddress,
    request: &Request,
    env: &Env,
    context: &Context,
) -> Result<Done<Said>> {
    let session = given!(session(address, request, env, context).await?);
    // The place is free at once, whatever media-core says.
    watch::free(env, &address.stream, &session).await?;
    let session = Box::new(session);
    let told = ask(env, &address.broadcast, &Asked::Leave { session }).await?;
    Ok(match told.map_err(gone) {
        Ok(Told::Outcome(outcome)) => signaling::done(outcome),
        Ok(_) => Ok(Said::left()),
        Err(found) => Err(found),
    })
}

/// Where nothing is live there is no session either.
fn gone(found: Problem) -> Problem {
    match found.kind() {
        Kind::NotLive => Problem::no_session(),
        _ => found,
    }
}

fn outcome(told: Told) -> Done<Outcome> {
    match told {
        Told::Outcome(outcome) => Ok(outcome),
        Told::Done => Err(Problem::unavailable()),
        Told::Refused(why) => Err(why.problem()),
    }
}

/// The session of an address, if it may go on, of a broadcast that there is.
async fn session(
    address: &WhepAddress,
    request: &Request,
    env: &Env,
    context: &Context,
) -> Result<Done<Session>> {
    let WhepAddress {
        stream,
        broadcast,
        session,
    } = address;
    let (_, session) = given!(watch::session(env, context, stream, session, request).await?);
    match directory::has_broadcast(env, context, stream, broadcast).await? {
        true => Ok(Ok(session)),
        false => Ok(Err(Problem::no_session())),
    }
}

fn takes(wanted: &'static str, request: &Request) -> Result<Done<()>> {
    let kind = request.headers().get("content-type")?;
    Ok(signaling::takes(wanted, kind.as_deref()))
}

/// A body of at most [`MAX_SDP_BYTES`].
async fn read(request: &mut Request) -> Result<Done<Vec<u8>>> {
    let length = request.headers().get("content-length")?;
    match length.and_then(|length| length.parse::<usize>().ok()) {
        Some(length) if length > MAX_SDP_BYTES => Ok(Err(Problem::too_large())),
        Some(_) => Ok(Ok(request.bytes().await?)),
        // How much would come is not known.
        None => Ok(Err(Problem::body("The body is missing, or its length is."))),
    }
}

/// Tells the object of a broadcast that a session is over.
pub(super) async fn ended(env: &Env, broadcast: &BroadcastId, session: Session) -> Result<()> {
    let session = Box::new(session);
    let told = ask(env, broadcast, &Asked::Ended { session }).await?;
    // One that is not live has no viewers.
    drop(told);
    Ok(())
}

/// Asks the object that holds the link of a broadcast.
async fn ask(env: &Env, broadcast: &BroadcastId, asked: &Asked) -> Result<Done<Told>> {
    let mut init = RequestInit::new();
    init.with_method(Method::Post)
        .with_body(Some(serde_json::to_string(asked)?.into()));
    let address = format!("https://broadcast/{}", broadcast::SIGNAL);
    let question = Request::new_with_init(&address, &init)?;
    let mut given = env
        .durable_object(binding::BROADCAST)?
        .get_by_name(broadcast.as_str())?
        .fetch_with_request(question)
        .await?;
    if given.status_code() != StatusCode::OK.as_u16() {
        let status = given.status_code();
        return Err(format!("the broadcast's object answered a signal with {status}").into());
    }
    Ok(match given.json().await? {
        Told::Refused(why) => Err(why.problem()),
        told => Ok(told),
    })
}
