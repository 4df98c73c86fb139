#![allow(clippy::unwrap_used)]
use protocol::{
    link::ToCore,
    session::Session,
    signaling::{ANSWER_S, MAX_IDS, Viewer},
};

use super::{desk::*, *};
use crate::{routes::Kind, sessions::IDLE_MS};

const NOW: i64 = 1_790_000_000_000;
const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-ufrag:hers\r\n";
const ANSWER: &str = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-ufrag:ours\r\n";

fn viewer(n: u16) -> Viewer {
    let mut id = [0; 12];
    id[..2].copy_from_slice(&n.to_be_bytes());
    Viewer {
        session: Session::anonymous(id, NOW),
        address: [192, 0, 2, 1].into(),
    }
}

fn tag(n: u16) -> Tag {
    viewer(n).session.id
}

fn an_offer(n: u16) -> Signal {
    Signal::Offer {
        viewer: Box::new(viewer(n)),
        sdp: OFFER.to_owned(),
    }
}

fn answer() -> Outcome {
    Outcome::Answer {
        sdp: ANSWER.to_owned(),
    }
}

/// A desk with a link and that many viewers, and nothing left to be said.
fn desk(viewers: u16) -> Desk<u16> {
    let mut desk = Desk::new(0);
    desk.linked(NOW);
    for n in 0..viewers {
        let request = desk.ask(an_offer(n), n, NOW).unwrap();
        assert!(matches!(desk.next_said(), Some(ToCore::Signal { .. })));
        assert_eq!(desk.answered(request, &answer(), NOW), Some((n, tag(n))));
    }
    assert!(!desk.has_next());
    desk
}

fn ended(desk: &mut Desk<u16>) -> Vec<Tag> {
    let mut all = Vec::new();
    while let Some(said) = desk.next_said() {
        let ToCore::End { sessions } = said else {
            panic!("{said:?}")
        };
        assert!(sessions.len() <= MAX_IDS);
        all.extend(sessions);
    }
    all
}

fn kind<T: std::fmt::Debug>(result: Result<T, Problem>) -> Kind {
    result.unwrap_err().kind()
}

#[test]
fn a_body_is_of_the_type_that_it_is_said_to_be_and_no_junk() {
    for good in [SDP, "Application/SDP; charset=utf-8", "application/sdp ;x"] {
        assert!(takes(SDP, Some(good)).is_ok(), "{good}");
    }
    for bad in [
        None,
        Some(""),
        Some("application/json"),
        Some("application/sdpx"),
    ] {
        assert_eq!(kind(takes(SDP, bad)), Kind::MediaType, "{bad:?}");
    }
    assert!(offer(OFFER.as_bytes()).is_ok());
    for junk in [
        "",
        "hello",
        "v=0\r\n",
        "a=ice-ufrag:hers\r\n",
        "v=0\r\na=ice-ufrag:h\"s\r\n",
    ] {
        assert_eq!(kind(offer(junk.as_bytes())), Kind::BadBody, "{junk}");
    }
}

#[test]
fn candidates_are_taken_without_a_precondition_and_a_restart_is_not() {
    let candidates = "a=ice-ufrag:hers\r\na=ice-pwd:x\r\nm=audio 9 RTP/AVP 0\r\na=mid:0\r\na=candidate:1 1 UDP 1 192.0.2.1 9 typ host\r\n";
    let restart = candidates.replace("hers", "anew");
    let desk = desk(1);
    let known = desk.known(&tag(0));
    let ask = |text: &str, if_match: Option<&str>| patch(text.as_bytes(), if_match, known);
    for if_match in [
        None,
        Some("\"ours\""),
        Some("*"),
        Some("\"*\""),
        Some("\"x\", \"ours\""),
    ] {
        assert!(ask(candidates, if_match).is_ok(), "{if_match:?}");
    }
    assert!(ask("a=end-of-candidates\r\n", None).is_ok());
    for text in [candidates, &restart] {
        for if_match in ["\"theirs\"", "ours", "", "W/\"ours\""] {
            assert_eq!(
                kind(ask(text, Some(if_match))),
                Kind::Precondition,
                "{if_match}"
            );
        }
    }
    assert_eq!(kind(ask(&restart, None)), Kind::PreconditionNeeded);
    assert!(ask(&restart, Some("\"*\"")).is_ok() && ask(&restart, Some("\"ours\"")).is_ok());
    assert_eq!(kind(ask("hello", Some("*"))), Kind::BadBody);
    // What an edge does not remember media-core decides.
    assert!(patch(restart.as_bytes(), None, None).is_ok());
    assert!(patch(restart.as_bytes(), Some("\"ours\""), None).is_ok());
}

#[test]
fn a_restart_makes_another_etag() {
    let mut desk = desk(1);
    let fragment = "a=ice-ufrag:anew\r\n".to_owned();
    let signal = Signal::Patch {
        session: tag(0),
        fragment,
    };
    let request = desk.ask(signal, 7, NOW).unwrap();
    let new = Some("a=ice-ufrag:also\r\n".to_owned());
    let outcome = Outcome::Patched { fragment: new };
    desk.answered(request, &outcome, NOW).unwrap();
    let known = desk.known(&tag(0)).unwrap();
    assert_eq!(known.etag(), Some("also"));
    assert!(!known.is_restart("a=ice-ufrag:anew\r\n") && known.is_restart("a=ice-ufrag:hers\r\n"));
    let said = done(outcome).unwrap();
    assert_eq!(said.status, StatusCode::OK);
    assert_eq!(said.headers, [(header::ETAG, "\"also\"".to_owned())]);
}

#[test]
fn every_refusal_has_its_status() {
    for (reason, status, again) in [
        (Refusal::Malformed, 400, false),
        (Refusal::NoCommonCodec, 406, false),
        (Refusal::Full, 503, true),
        (Refusal::NoSession, 404, false),
        (Refusal::Unavailable, 503, true),
    ] {
        let problem = answer_of(reason);
        assert_eq!(problem.status.as_u16(), status, "{reason}");
        assert_eq!(problem.retry_after_s.is_some(), again, "{reason}");
        assert!(problem.body_json().contains("detail"));
    }
    // What is no answer to the question is none.
    assert_eq!(super::answer(Outcome::Left).unwrap_err().status, 503);
    assert_eq!(done(answer()).unwrap_err().status, 503);
}

fn answer_of(reason: Refusal) -> Problem {
    super::answer(Outcome::Refused { reason }).unwrap_err()
}

#[test]
fn so_many_wait_and_no_more_and_whoever_went_away_makes_room() {
    let mut desk = Desk::new(0);
    assert_eq!(kind(desk.ask(an_offer(0), 0, NOW)), Kind::Unavailable);
    desk.linked(NOW);
    for n in 0..MAX_PENDING as u16 {
        desk.ask(an_offer(n), n, NOW).unwrap();
    }
    let refused = desk.ask(an_offer(1_000), 0, NOW).unwrap_err();
    assert_eq!(
        (refused.status.as_u16(), refused.retry_after_s),
        (503, Some(1))
    );
    let late = NOW + ANSWER_S as i64 * 1_000 + 1_001;
    desk.ask(an_offer(1_000), 0, late).unwrap();
    assert_eq!(desk.answered(1, &answer(), late), None, "it is given up");
}

#[test]
fn a_viewer_that_is_given_up_or_goes_while_the_link_is_gone_is_ended_when_it_shows_up() {
    let mut desk = desk(0);
    // Given up before it was said: nobody hears of it.
    let unsaid = desk.ask(an_offer(1), 1, NOW).unwrap();
    desk.give_up(unsaid, NOW);
    assert!(!desk.has_next());
    // Given up after: media-core may have begun.
    let asked = desk.ask(an_offer(2), 2, NOW).unwrap();
    desk.next_said().unwrap();
    desk.give_up(asked, NOW);
    assert_eq!(ended(&mut desk), [tag(2)]);
    assert_eq!(desk.answered(asked, &answer(), NOW), None);
    // It began after the end had come: media-core says so, and hears it again.
    let heard = desk.still(&[tag(2)], NOW);
    assert!(heard.watching.is_empty() && !heard.forgotten);
    assert_eq!(ended(&mut desk), [tag(2)]);
    // The link goes between offer and answer.
    desk.ask(an_offer(3), 3, NOW).unwrap();
    desk.next_said().unwrap();
    desk.unlinked(NOW);
    desk.linked(NOW);
    let heard = desk.watching(vec![viewer(3), viewer(4)], NOW);
    assert_eq!(heard.watching, [viewer(4)]);
    assert_eq!(ended(&mut desk), [tag(3)]);
}

#[test]
fn a_link_that_drops_ends_no_session_and_one_that_was_ended_meanwhile_is_over_with_the_next() {
    let mut desk = desk(3);
    desk.unlinked(NOW);
    desk.end([tag(1)], NOW);
    assert!(!desk.has_next());
    desk.linked(NOW + 60_000);
    let all = vec![viewer(0), viewer(1), viewer(2)];
    let heard = desk.watching(all, NOW + 60_000);
    assert_eq!(heard.watching, [viewer(0), viewer(2)]);
    assert_eq!(ended(&mut desk), [tag(1)]);
    assert_eq!(desk.known(&tag(0)).unwrap().etag(), Some("ours"));
}

#[test]
fn an_edge_that_forgot_asks_for_the_link_again_and_one_that_was_told_ends_strangers() {
    let mut desk: Desk<u16> = Desk::new(0);
    desk.linked(NOW);
    assert!(desk.still(&[tag(1)], NOW).forgotten);
    assert!(!desk.has_next());
    desk.linked(NOW);
    desk.watching(vec![viewer(1)], NOW);
    let heard = desk.still(&[tag(1), tag(2)], NOW);
    assert_eq!((heard.watching, heard.forgotten), (vec![viewer(1)], false));
    assert_eq!(ended(&mut desk), [tag(2)]);
}

#[test]
fn who_is_silent_is_forgotten_and_who_is_gone_is_given() {
    let mut desk = desk(3);
    assert_eq!(desk.gone(&[tag(0), tag(9)]), [viewer(0).session]);
    let later = NOW + IDLE_MS + 1;
    let heard = desk.still(&[tag(1)], later);
    assert_eq!(heard.watching, [viewer(1)]);
    assert_eq!(desk.viewers().count(), 1);
}

#[test]
fn all_of_many_are_ended_in_messages_that_can_be_read() {
    let mut desk = desk(1_200);
    let all: Vec<Tag> = desk.viewers().map(|viewer| viewer.session.id).collect();
    desk.end(all, NOW);
    assert_eq!(ended(&mut desk).len(), 1_200);
    assert_eq!(desk.viewers().count(), 0);
}

#[test]
fn a_session_is_one_viewer_and_one_that_leaves_can_come_back() {
    let mut desk = desk(1);
    desk.ask(an_offer(0), 1, NOW).unwrap();
    assert_eq!(
        desk.next_said(),
        Some(ToCore::End {
            sessions: vec![tag(0)]
        })
    );
    assert!(matches!(desk.next_said(), Some(ToCore::Signal { .. })));
    assert!(
        desk.ask(an_offer(0), 2, NOW).is_err(),
        "one after the other"
    );
    let mut desk = self::desk(1);
    let leave = Signal::Leave { session: tag(0) };
    let request = desk.ask(leave, 1, NOW).unwrap();
    desk.next_said().unwrap();
    // media-core spoke before it heard.
    desk.still(&[tag(0)], NOW);
    assert_eq!(ended(&mut desk), [tag(0)]);
    desk.answered(request, &Outcome::Left, NOW).unwrap();
    let request = desk.ask(an_offer(0), 1, NOW).unwrap();
    desk.next_said().unwrap();
    desk.answered(request, &answer(), NOW).unwrap();
    assert_eq!(desk.still(&[tag(0)], NOW).watching, [viewer(0)]);
}

#[test]
fn what_goes_down_the_link_fits_into_a_message() {
    let long = format!("v=0\r\na=ice-ufrag:hers\r\n{}", "a=\"\\\r\n".repeat(2_700));
    let sdp = offer(long.as_bytes()).unwrap();
    assert!(sdp.len() > 16_000 && sdp.len() <= protocol::signaling::MAX_SDP_BYTES);
    let networks: Vec<_> = (0..100).map(|n| format!("{n}.0.0.0/8")).collect();
    let mut viewer = Box::new(viewer(1));
    viewer.session.ip = networks.iter().map(|net| net.parse().unwrap()).collect();
    let signal = Signal::Offer { viewer, sdp };
    let text = serde_json::to_string(&ToCore::Signal { request: 1, signal }).unwrap();
    assert!(
        text.len() <= protocol::link::MAX_MESSAGE_BYTES,
        "{}",
        text.len()
    );
}
