//! WebRTC signaling (WHEP): what viewers' browsers may ask, and what they are answered.
//!
//! A browser posts its offer; who may watch is decided as for HLS, and a playback session begins. The offer goes down the broadcast's link to
//! media-core, its answer comes up, and both adapters answer with what is made here. The session's address is then the viewer's: candidates
//! and ICE restarts (`PATCH`), and the end (`DELETE`).
//!
//! | module | what it decides | specification |
//! | --- | --- | --- |
//! | this one | bodies, preconditions, answers, refusals | draft-ietf-wish-whep, RFC 9725 |
//! | [`sdp`] | what of an offer, an answer or a fragment the edge has to know | RFC 8866, RFC 8839, RFC 8840 |
//! | [`desk`] | who watches, who waits for an answer, what is to be said down the link | |
//! | [`ice`] | the servers that a browser is told of, with credentials that end | RFC 7065, draft-uberti-behave-turn-rest |

pub mod desk;
pub mod ice;
pub mod sdp;

use http::{HeaderName, StatusCode, header};
use protocol::{
    names::{BroadcastId, StreamName},
    signaling::{Outcome, Refusal, Signal},
    token::Tag,
};

use crate::routes::{self, Pass, Problem, Route};

/// `Content-Type` of offers and answers.
pub const SDP: &str = "application/sdp";
/// `Content-Type` of candidates and ICE restarts (RFC 8840 section 9).
pub const FRAGMENT: &str = "application/trickle-ice-sdpfrag";

const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");

/// What somebody is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// 2xx, or a redirect.
    pub status: StatusCode,
    /// Of the body; empty where there is none.
    pub content_type: &'static str,
    /// Beside those of the route. A name may be there several times.
    pub headers: Vec<(HeaderName, String)>,
    /// The body.
    pub body: String,
}

impl Said {
    fn nothing(status: StatusCode) -> Self {
        Self {
            status,
            content_type: "",
            headers: Vec::new(),
            body: String::new(),
        }
    }

    /// 201: the answer to an offer of this session, which is `text` in addresses. `links` are the ICE servers' ([`ice::IceServers::links`]).
    pub fn created(
        stream: &StreamName,
        broadcast: &BroadcastId,
        text: &str,
        links: Vec<String>,
        sdp: String,
    ) -> Self {
        let location = format!("/whep/{stream}/{broadcast}/{text}");
        let mut headers = vec![
            (header::LOCATION, location),
            (ACCEPT_PATCH, FRAGMENT.to_owned()),
        ];
        headers.extend(sdp::ufrag(&sdp).map(|ufrag| (header::ETAG, etag(ufrag))));
        headers.extend(links.into_iter().map(|link| (header::LINK, link)));
        Self {
            status: StatusCode::CREATED,
            content_type: SDP,
            headers,
            body: sdp,
        }
    }

    /// 204, or after an ICE restart 200 with media-core's new credentials.
    pub fn patched(fragment: Option<String>) -> Self {
        let Some(fragment) = fragment else {
            return Self::nothing(StatusCode::NO_CONTENT);
        };
        let tag = sdp::ufrag(&fragment).map(|ufrag| (header::ETAG, etag(ufrag)));
        Self {
            status: StatusCode::OK,
            content_type: FRAGMENT,
            headers: tag.into_iter().collect(),
            body: fragment,
        }
    }

    /// 200: the viewer is gone.
    pub fn left() -> Self {
        Self::nothing(StatusCode::OK)
    }

    /// 307: a webhook sends the viewer to another stream, with a session for it. The offer is posted there again (RFC 9110 section 15.4.8).
    pub fn elsewhere(route: &Route, stream: &StreamName, text: &str) -> Self {
        let location = routes::elsewhere(route, stream, text);
        Self {
            headers: vec![(header::LOCATION, location)],
            ..Self::nothing(StatusCode::TEMPORARY_REDIRECT)
        }
    }
}

fn etag(ufrag: &str) -> String {
    format!("\"{ufrag}\"")
}

/// What somebody shows who offers. A session in the query goes before a token: whoever was sent here from another stream has both, and the
/// token is for that one.
///
/// # Errors
/// 401 for a session that can be none.
pub fn pass(query: Option<&str>, bearer: Option<&str>) -> Result<Option<Pass>, Problem> {
    match Pass::of(query, None)? {
        Some(Pass::Session(session)) => Ok(Some(Pass::Session(session))),
        _ => Pass::of(query, bearer),
    }
}

/// Looks whether a body is said to be of this type; `given` is its `Content-Type`.
///
/// # Errors
/// 415.
pub fn takes(wanted: &'static str, given: Option<&str>) -> Result<(), Problem> {
    let given = given.unwrap_or_default();
    let kind = given.split(';').next().unwrap_or_default().trim();
    match kind.eq_ignore_ascii_case(wanted) {
        true => Ok(()),
        false => Err(Problem::media_type(wanted)),
    }
}

/// A body as an offer that goes down the link.
///
/// # Errors
/// 400.
pub fn offer(body: &[u8]) -> Result<String, Problem> {
    let text = sdp::read(body).filter(|text| text.starts_with("v=0") && sdp::ufrag(text).is_some());
    text.map(str::to_owned)
        .ok_or_else(|| Problem::body(Refusal::Malformed.to_string()))
}

/// A body as a fragment that goes down the link, for a session of which the edge remembers `known`, where it does; `if_match` is what the
/// request says. Candidates without a precondition are taken: many players send none. An ICE restart needs one (RFC 9725 section 4.3.1).
///
/// # Errors
/// 400; 412 where it is another's precondition; 428 where a restart has none.
pub fn patch(
    body: &[u8],
    if_match: Option<&str>,
    known: Option<&desk::Known>,
) -> Result<String, Problem> {
    let text = sdp::read(body).filter(|text| text.contains("a="));
    let text = text.ok_or_else(|| Problem::body(Refusal::Malformed.to_string()))?;
    let restarts = known.is_some_and(|known| known.is_restart(text));
    match if_match.map(str::trim) {
        None if restarts => Err(Problem::precondition_needed()),
        Some(given) if !matches(given, known) => Err(Problem::precondition()),
        _ => Ok(text.to_owned()),
    }
}

/// Whether an `If-Match` names the ICE session that there is. Both the star of HTTP and the quoted one of RFC 9725 are any.
fn matches(given: &str, known: Option<&desk::Known>) -> bool {
    let current = known.and_then(desk::Known::etag);
    given.split(',').map(str::trim).any(|tag| {
        let any = matches!(tag, "*" | "\"*\"");
        // What is not remembered is media-core's to decide.
        any || current.is_none_or(|current| tag == etag(current))
    })
}

/// Why somebody is not answered with what they asked for.
pub fn refused(reason: Refusal) -> Problem {
    match reason {
        Refusal::Malformed => Problem::body(reason.to_string()),
        Refusal::NoCommonCodec => Problem::no_common_codec(reason.to_string()),
        Refusal::Full => Problem::full(reason.to_string()),
        Refusal::NoSession => Problem::no_session(),
        Refusal::Unavailable => Problem::no_webrtc(reason.to_string()),
    }
}

/// The answer to an offer.
///
/// # Errors
/// As [`refused`]; 503 for what is no answer to an offer.
pub fn answer(outcome: Outcome) -> Result<String, Problem> {
    match outcome {
        Outcome::Answer { sdp } => Ok(sdp),
        Outcome::Refused { reason } => Err(refused(reason)),
        Outcome::Patched { .. } | Outcome::Left => Err(Problem::unavailable()),
    }
}

/// What whoever asked is told of what became of a fragment, or of leaving.
///
/// # Errors
/// As [`refused`]; 503 for what is no answer to either.
pub fn done(outcome: Outcome) -> Result<Said, Problem> {
    match outcome {
        Outcome::Patched { fragment } => Ok(Said::patched(fragment)),
        Outcome::Left => Ok(Said::left()),
        Outcome::Refused { reason } => Err(refused(reason)),
        Outcome::Answer { .. } => Err(Problem::unavailable()),
    }
}

/// Whose a signal is.
pub fn session_of(signal: &Signal) -> Tag {
    match signal {
        Signal::Offer { viewer, .. } => viewer.session.id,
        Signal::Patch { session, .. } | Signal::Leave { session } => *session,
    }
}

#[cfg(test)]
mod tests;
