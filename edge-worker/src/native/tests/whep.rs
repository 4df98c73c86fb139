//! WebRTC signaling from outside: a browser over HTTP, and a box that answers over its link.

use std::{collections::VecDeque, sync::Mutex, time::Instant};

use protocol::{
    link::ToCore,
    signaling::{MAX_SDP_BYTES, Outcome, Refusal, Signal, Viewer},
    token::{Action, Claims, Tag as Id},
};
use serde_json::{Value, json};

use super::{
    matrix::no_good,
    sessions::{at, claims, closed, now_s},
    *,
};
use crate::{access::INSTALLATION, native::rotate_keyring, routes::Kind};

const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-ufrag:hers\r\n";
const ANSWER: &str = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-ufrag:ours\r\n";
const CANDIDATES: &str = "a=ice-ufrag:hers\r\na=candidate:1 1 UDP 1 192.0.2.1 9 typ host\r\n";
const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";
/// What is taken back is over within this.
const TWO_SECONDS: Duration = Duration::from_secs(2);

/// What the box has heard, and when; and what it answers next.
#[derive(Default)]
struct Heard {
    said: Vec<(Instant, ToCore)>,
    /// Beside answers to what is asked; `None` is not to answer.
    answers: VecDeque<Option<Outcome>>,
}

/// The WebRTC side of a box, at its end of a link.
#[derive(Clone)]
struct Core {
    to_edge: tokio::sync::mpsc::Sender<Numbered>,
    heard: Arc<Mutex<Heard>>,
}

impl Core {
    /// Answers what comes down the link until that ends.
    fn on(link: Link) -> Self {
        let Link {
            to_edge,
            mut from_edge,
        } = link;
        let core = Self {
            to_edge,
            heard: Arc::default(),
        };
        let own = Self {
            to_edge: core.to_edge.clone(),
            heard: core.heard.clone(),
        };
        let weak = own.to_edge.downgrade();
        drop(own.to_edge);
        let heard = own.heard;
        tokio::spawn(async move {
            while let Some(said) = from_edge.recv().await {
                let answer = {
                    let mut heard = heard.lock().unwrap();
                    heard.said.push((Instant::now(), said.clone()));
                    let ToCore::Signal { request, signal } = said else {
                        continue;
                    };
                    let usual = Some(match signal {
                        Signal::Offer { .. } => Outcome::Answer { sdp: ANSWER.into() },
                        Signal::Patch { .. } => Outcome::Patched { fragment: None },
                        Signal::Leave { .. } => Outcome::Left,
                    });
                    let outcome = heard.answers.pop_front().unwrap_or(usual);
                    outcome.map(|outcome| ToEdge::Signaled { request, outcome })
                };
                if let (Some(message), Some(to_edge)) = (answer, weak.upgrade()) {
                    let _ = to_edge.send(Numbered { seq: 0, message }).await;
                }
            }
        });
        core
    }

    async fn says(&self, message: ToEdge) {
        self.to_edge
            .send(Numbered { seq: 0, message })
            .await
            .unwrap();
    }

    fn answers(&self, outcome: Option<Outcome>) {
        self.heard.lock().unwrap().answers.push_back(outcome);
    }

    /// The offers that it has heard.
    fn offers(&self) -> Vec<Viewer> {
        let heard = self.heard.lock().unwrap();
        let offers = heard.said.iter().filter_map(|(_, said)| match said {
            ToCore::Signal {
                signal: Signal::Offer { viewer, .. },
                ..
            } => Some((**viewer).clone()),
            _ => None,
        });
        offers.collect()
    }

    fn viewer(&self) -> Viewer {
        self.offers().pop().unwrap()
    }

    /// When it was told that a session has ended.
    fn ended_at(&self, id: Id) -> Option<Instant> {
        let heard = self.heard.lock().unwrap();
        let mut ends = heard.said.iter().filter_map(|(at, said)| match said {
            ToCore::End { sessions } if sessions.contains(&id) => Some(*at),
            _ => None,
        });
        ends.next()
    }

    async fn hears_the_end(&self, what: &str, id: Id, patience: Duration) {
        let began = Instant::now();
        while self.ended_at(id).is_none() {
            assert!(
                began.elapsed() < patience,
                "{what}: not within {patience:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The media that make a stream live, and its box.
async fn on_air(bench: &Bench) -> Core {
    let (_source, link) = bench.on_air(2).await;
    Core::on(link)
}

impl Bench {
    fn whep(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: impl Into<String>,
    ) -> reqwest::RequestBuilder {
        reqwest::Client::new()
            .request(method, self.url(path))
            .header("content-type", kind)
            .body(body.into())
    }

    /// An offer, and how it is answered.
    async fn offer(&self, token: Option<&str>) -> Response {
        let request = self.whep(Method::POST, "/whep/demo", SDP, OFFER);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.unwrap()
    }

    /// The session's address after an offer that is answered.
    async fn watches(&self, token: Option<&str>) -> String {
        let answer = self.offer(token).await;
        assert_eq!(answer.status(), 201);
        answer.headers()["location"].to_str().unwrap().to_owned()
    }

    async fn trickles(&self, session: &str) -> u16 {
        let request = self.whep(Method::PATCH, session, FRAGMENT, CANDIDATES);
        request.send().await.unwrap().status().as_u16()
    }

    async fn leaves(&self, session: &str) -> u16 {
        let request = reqwest::Client::new().delete(self.url(session));
        request.send().await.unwrap().status().as_u16()
    }

    async fn listed(&self) -> Vec<Value> {
        let (path, manager) = ("/api/streams/demo/sessions", self.manager());
        let answer = self.call(Method::GET, path, &manager, None).await;
        let listed: Value = answer.json().await.unwrap();
        listed["sessions"].as_array().unwrap().clone()
    }
}

async fn problem(response: Response) -> (u16, String, Option<u32>) {
    let again = response.headers().get("retry-after");
    let again = again.map(|value| value.to_str().unwrap().parse().unwrap());
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    assert_eq!(cache_control(&response), "no-store");
    let status = response.status().as_u16();
    let problem: Value = response.json().await.unwrap();
    (status, problem["type"].as_str().unwrap().to_owned(), again)
}

async fn is(response: Response, status: u16, kind: Kind, again: Option<u32>) {
    assert_eq!(problem(response).await, (status, kind.name(), again));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_by_webrtc_offers_trickles_restarts_and_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let ice = |config: &mut Config| {
        let servers = json!([
            {"urls": ["stun:stun.example:3478"]},
            {"urls": ["turn:turn.example:3478"], "secret": "north"}
        ]);
        config.ice_servers = serde_json::from_value(servers).unwrap();
    };
    let bench = Bench::with(folder, Arc::new(InMemory::new()), None, ice).await;
    let core = on_air(&bench).await;
    let answer = bench.offer(None).await;
    assert_eq!(answer.status(), 201);
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), SDP);
    assert_eq!(header("accept-patch"), FRAGMENT);
    assert_eq!(header("etag"), "\"ours\"");
    assert_eq!(header("access-control-allow-origin"), "*");
    assert_eq!(cache_control(&answer), "no-store");
    let links: Vec<_> = answer.headers().get_all("link").iter().collect();
    assert_eq!(links[0], "<stun:stun.example:3478>; rel=\"ice-server\"");
    let turn = links[1].to_str().unwrap();
    let viewer = core.viewer();
    assert!(
        turn.contains(&format!(":{}\"; credential=\"", viewer.session.id)),
        "{turn}"
    );
    let session = header("location");
    assert!(
        session.starts_with(&format!("/whep/demo/{}/", id())),
        "{session}"
    );
    assert_eq!(answer.text().await.unwrap(), ANSWER);
    assert!(viewer.session.is_anonymous() && viewer.address.is_loopback());

    let summary: Value = bench.get("/api/streams/demo").await.json().await.unwrap();
    assert_eq!(summary["viewers"], 1);
    let listed = bench.listed().await;
    assert_eq!(listed[0]["protocol"], "whep");
    assert_eq!(listed[0]["id"], viewer.session.id.to_string());

    assert_eq!(bench.trickles(&session).await, 204);
    let restart = CANDIDATES.replace("hers", "anew");
    let patch = |text: &str, if_match: Option<&str>| {
        let request = bench.whep(Method::PATCH, &session, FRAGMENT, text);
        match if_match {
            Some(tag) => request.header("if-match", tag),
            None => request,
        }
        .send()
    };
    is(
        patch(&restart, None).await.unwrap(),
        428,
        Kind::PreconditionNeeded,
        None,
    )
    .await;
    for text in [CANDIDATES, &restart] {
        is(
            patch(text, Some("\"x\"")).await.unwrap(),
            412,
            Kind::Precondition,
            None,
        )
        .await;
    }
    let new = "a=ice-ufrag:also\r\na=ice-pwd:x\r\n";
    core.answers(Some(Outcome::Patched {
        fragment: Some(new.into()),
    }));
    let restarted = patch(&restart, Some("\"*\"")).await.unwrap();
    assert_eq!(restarted.status(), 200);
    assert_eq!(restarted.headers()["etag"], "\"also\"");
    assert_eq!(restarted.headers()["content-type"], FRAGMENT);
    assert_eq!(restarted.text().await.unwrap(), new);
    is(
        patch(CANDIDATES, Some("\"ours\"")).await.unwrap(),
        412,
        Kind::Precondition,
        None,
    )
    .await;

    assert_eq!(bench.leaves(&session).await, 200);
    assert!(bench.listed().await.is_empty());
    let none = Outcome::Refused {
        reason: Refusal::NoSession,
    };
    core.answers(Some(none.clone()));
    assert_eq!(bench.leaves(&session).await, 404);
    core.answers(Some(none));
    is(
        patch(CANDIDATES, None).await.unwrap(),
        404,
        Kind::NoSession,
        None,
    )
    .await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_offer_never_goes_down_the_link_and_every_refusal_is_told() {
    let bench = Bench::start().await;
    is(bench.offer(None).await, 404, Kind::NotLive, Some(5)).await;
    let nobody = bench.whep(Method::POST, "/whep/nobody", SDP, OFFER);
    is(nobody.send().await.unwrap(), 404, Kind::NoStream, None).await;
    let core = on_air(&bench).await;
    let post = |kind: &str, body: String| bench.whep(Method::POST, "/whep/demo", kind, body).send();
    is(
        post("application/json", OFFER.into()).await.unwrap(),
        415,
        Kind::MediaType,
        None,
    )
    .await;
    let long = format!("{OFFER}{}", "a=x\r\n".repeat(MAX_SDP_BYTES / 5));
    is(post(SDP, long).await.unwrap(), 413, Kind::TooLarge, None).await;
    let mut junk = vec![
        String::new(),
        "{}".into(),
        "v=0\r\n".into(),
        "v=0\r\na=ice-ufrag:\u{1}234\r\n".into(),
    ];
    junk.extend((0..100_u8).map(|n| String::from_utf8_lossy(&[n; 900]).into_owned()));
    for body in junk {
        is(post(SDP, body).await.unwrap(), 400, Kind::BadBody, None).await;
    }
    for path in ["/whep/demo", "/whep/demo/"] {
        let status = bench.get(path).await.status().as_u16();
        assert_eq!(status, if path.ends_with('/') { 404 } else { 405 });
    }
    assert!(core.offers().is_empty());
    for (reason, status, kind, again) in [
        (Refusal::Malformed, 400, Kind::BadBody, None),
        (Refusal::NoCommonCodec, 406, Kind::NoCommonCodec, None),
        (Refusal::Full, 503, Kind::Full, Some(10)),
        (Refusal::NoSession, 404, Kind::NoSession, None),
        (Refusal::Unavailable, 503, Kind::NoWebrtc, Some(5)),
    ] {
        core.answers(Some(Outcome::Refused { reason }));
        is(bench.offer(None).await, status, kind, again).await;
        assert!(bench.listed().await.is_empty(), "{reason}: it has no place");
    }
    let forged = format!("/whep/demo/{}/c2Vzc2lvbg", id());
    assert_eq!(bench.trickles(&forged).await, 401);
    assert_eq!(bench.leaves(&format!("/whep/demo/{}/-", id())).await, 401);
    // It has ended.
    let live = bench.edge.current(&stream()).unwrap();
    live.end(
        protocol::link::CloseReason::Unpublished,
        bench.edge.now_unix_ms(),
    );
    is(bench.offer(None).await, 404, Kind::NotLive, Some(5)).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_never_comes_is_a_504_and_what_was_begun_is_ended() {
    let bench = Bench::start().await;
    let core = on_air(&bench).await;
    core.answers(None);
    let began = Instant::now();
    is(bench.offer(None).await, 504, Kind::NoAnswer, Some(2)).await;
    let took = began.elapsed();
    assert!(
        took > Duration::from_secs(4) && took < Duration::from_secs(8),
        "{took:?}"
    );
    let viewer = core.viewer().session.id;
    core.hears_the_end("given up", viewer, TWO_SECONDS).await;
    assert!(bench.listed().await.is_empty());
    // The answer comes late, and is nobody's.
    let outcome = Outcome::Answer { sdp: ANSWER.into() };
    core.says(ToEdge::Signaled {
        request: 1,
        outcome,
    })
    .await;
    bench.watches(None).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_is_refused_at_once_when_the_link_drops_and_who_watches_goes_on() {
    let bench = Bench::start().await;
    let core = on_air(&bench).await;
    let watching = bench.watches(None).await;
    let stays = core.viewer();
    core.answers(None);
    let offered = bench.offer(None);
    let dropped = async {
        while core.offers().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let lost = core.viewer();
        drop(core);
        lost
    };
    let began = Instant::now();
    let (answer, lost) = tokio::join!(offered, dropped);
    is(answer, 503, Kind::Unavailable, Some(1)).await;
    assert!(began.elapsed() < TWO_SECONDS);
    is(bench.offer(None).await, 503, Kind::Unavailable, Some(1)).await;
    assert_eq!(bench.trickles(&watching).await, 503);
    let ids = |listed: Vec<Value>| -> Vec<String> {
        let ids = listed
            .iter()
            .map(|one| one["id"].as_str().unwrap().to_owned());
        ids.collect()
    };
    assert_eq!(ids(bench.listed().await), [stays.session.id.to_string()]);

    let mut link = bench.edge.connect(id());
    assert!(matches!(
        link.from_edge.recv().await,
        Some(ToCore::Welcome { .. })
    ));
    let core = Core::on(link);
    let viewers = vec![stays.clone(), lost.clone()];
    core.says(ToEdge::Watching { viewers }).await;
    // It was told that there is no answer.
    core.hears_the_end("nobody's", lost.session.id, TWO_SECONDS)
        .await;
    assert_eq!(core.ended_at(stays.session.id), None);
    assert_eq!(bench.trickles(&watching).await, 204);
    assert_eq!(ids(bench.listed().await), [stays.session.id.to_string()]);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_box_says_who_still_watches_and_who_is_gone() {
    let bench = closed().await;
    let core = on_air(&bench).await;
    let one_device = Claims {
        max: std::num::NonZeroU32::new(1),
        ..claims("demo", Action::Watch)
    };
    let token = bench.sign(&one_device);
    bench.watches(Some(&token)).await;
    let first = core.viewer();
    is(bench.offer(Some(&token)).await, 403, Kind::InUse, None).await;
    assert_eq!(
        bench.enter(&token).await.unwrap_err().0,
        403,
        "by HLS as well"
    );
    let seen = async || bench.listed().await[0]["seen_unix_ms"].as_i64().unwrap();
    let before = seen().await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let sessions = vec![first.session.id];
    core.says(ToEdge::StillWatching { sessions }).await;
    bench
        .becomes("it is seen", TWO_SECONDS, async |_| seen().await > before)
        .await;
    core.says(ToEdge::Gone {
        sessions: vec![first.session.id],
    })
    .await;
    bench
        .becomes("its place is free", TWO_SECONDS, async |bench| {
            bench.listed().await.is_empty()
        })
        .await;
    // Another takes its place, and it comes back: too late.
    let other = bench.watches(Some(&token)).await;
    core.says(ToEdge::Watching {
        viewers: vec![first.clone()],
    })
    .await;
    core.hears_the_end("its place is taken", first.session.id, TWO_SECONDS)
        .await;
    let second = core.viewer();
    assert_eq!(core.ended_at(second.session.id), None);
    assert_eq!(bench.leaves(&other).await, 200);
    let third = bench.watches(Some(&token)).await;
    // A page that is left says so in one word for all protocols.
    let text = third.rsplit('/').next().unwrap();
    let left = json!({"viewer": "a page of mine", "left": true, "session": text});
    let beacon = reqwest::Client::new().post(bench.url("/api/streams/demo/beacon"));
    assert_eq!(beacon.json(&left).send().await.unwrap().status(), 204);
    let third = core.viewer().session.id;
    core.hears_the_end("its page is left", third, TWO_SECONDS)
        .await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn viewers_by_webrtc_are_known_again_after_a_restart_of_the_edge_and_ended_as_before() {
    let bench = closed().await;
    let core = on_air(&bench).await;
    let (stays, leaves) = (claims("demo", Action::Watch), claims("demo", Action::Watch));
    let mut viewers = Vec::new();
    for claims in [&stays, &leaves] {
        bench.watches(Some(&bench.sign(claims))).await;
        viewers.push(core.viewer());
    }
    drop(core);
    let (folder, store) = bench.end().await;
    let bench = Bench::on(folder, store, None).await;
    assert!(bench.listed().await.is_empty());
    let mut link = bench.edge.connect(id());
    assert!(matches!(
        link.from_edge.recv().await,
        Some(ToCore::Welcome { .. })
    ));
    let core = Core::on(link);
    core.says(ToEdge::Watching {
        viewers: viewers.clone(),
    })
    .await;
    bench
        .becomes("they are listed", TWO_SECONDS, async |bench| {
            bench.listed().await.len() == 2
        })
        .await;
    assert_eq!(bench.listed().await[0]["protocol"], "whep");
    bench.revoke_token(&leaves.jti).await;
    core.hears_the_end("revoked", viewers[1].session.id, TWO_SECONDS)
        .await;
    assert_eq!(core.ended_at(viewers[0].session.id), None);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_watches_by_webrtc_without_a_good_token() {
    let bench = closed().await;
    let core = on_air(&bench).await;
    is(bench.offer(None).await, 401, Kind::TokenNeeded, None).await;
    for (case, token, expected, _) in no_good(&bench, Action::Watch) {
        assert_eq!(bench.offer(Some(&token)).await.status(), expected, "{case}");
        let by_query = format!("/whep/demo?token={token}");
        let by_query = bench.whep(Method::POST, &by_query, SDP, OFFER).send().await;
        assert_eq!(by_query.unwrap().status(), expected, "{case}");
    }
    assert!(core.offers().is_empty());
    bench.watches(Some(&bench.viewer())).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_by_webrtc_is_no_other_stream_s_and_from_no_other_address() {
    let bench = closed().await;
    let core = on_air(&bench).await;
    let token = bench.sign(&Claims {
        ip: vec!["127.0.0.1/32".parse().unwrap()],
        ..claims("*", Action::Watch)
    });
    let session = bench.watches(Some(&token)).await;
    let elsewhere = reqwest::Client::builder()
        .local_address(std::net::IpAddr::from([127, 0, 0, 2]))
        .build()
        .unwrap();
    for method in [Method::PATCH, Method::DELETE] {
        let request = elsewhere
            .request(method.clone(), bench.url(&session))
            .header("content-type", FRAGMENT)
            .body(CANDIDATES);
        is(request.send().await.unwrap(), 403, Kind::Forbidden, None).await;
    }
    let there = session.replace("/demo/", "/other/");
    assert_eq!(bench.trickles(&there).await, 401);
    assert_eq!(bench.leaves(&there).await, 401);
    // By HLS it opens the same stream, in the same place.
    let text = session.rsplit('/').next().unwrap();
    assert_eq!(bench.opens(text).await, [200; 3]);
    assert_eq!(bench.listed().await.len(), 1);
    assert_eq!(bench.trickles(&session).await, 204, "its own goes on");
    assert_eq!(core.ended_at(core.viewer().session.id), None);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_by_webrtc_is_out_within_two_seconds_of_whatever_takes_it_back() {
    for what in ["token", "subject", "all", "session", "link"] {
        let bench = closed().await;
        let core = on_air(&bench).await;
        let viewer = Claims {
            sub: "a viewer".to_owned(),
            ..claims("demo", Action::Watch)
        };
        let manager = bench.manager();
        let links = "/api/streams/demo/links";
        let (token, link) = match what {
            "link" => {
                let wanted = json!({"name": "a link", "for_s": 600});
                let made = bench
                    .call(Method::POST, links, &manager, Some(wanted))
                    .await;
                let made: Value = made.json().await.unwrap();
                let text = |name: &str| made[name].as_str().unwrap().to_owned();
                (text("token"), text("jti"))
            }
            _ => (bench.sign(&viewer), String::new()),
        };
        let session = bench.watches(Some(&token)).await;
        let id = core.viewer().session.id;
        bench.watches(Some(&bench.viewer())).await;
        let bystander = core.viewer().session.id;
        let path = match what {
            "session" => format!("/api/streams/demo/sessions/{id}"),
            _ => format!("{links}/{link}"),
        };
        let taken = match what {
            "token" => json!({"token": {"iss": INSTALLATION, "jti": viewer.jti}}),
            "subject" => json!({"subject": {"iss": INSTALLATION, "sub": "a viewer"}}),
            _ => json!("all"),
        };
        let answer = match what {
            "session" | "link" => bench.call(Method::DELETE, &path, &manager, None).await,
            _ => {
                let body = json!({"what": taken, "streams": "demo"});
                bench
                    .call(Method::POST, "/api/revocations", &manager, Some(body))
                    .await
            }
        };
        assert!(answer.status().is_success(), "{what}");
        core.hears_the_end(what, id, TWO_SECONDS).await;
        assert_eq!(core.ended_at(bystander).is_some(), what == "all", "{what}");
        assert_eq!(bench.trickles(&session).await, 403, "{what}");
        assert_eq!(
            bench.edge.session_list(&stream()).len(),
            usize::from(what != "all"),
            "{what}"
        );
        bench.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_by_webrtc_without_a_token_is_out_when_one_is_needed() {
    let bench = Bench::start().await;
    let core = on_air(&bench).await;
    let session = bench.watches(None).await;
    let change = serde_json::from_str(r#"{"visibility": "token"}"#).unwrap();
    bench.edge.change_stream(&stream(), change).await.unwrap();
    let id = core.viewer().session.id;
    core.hears_the_end("a token is needed", id, TWO_SECONDS)
        .await;
    assert_eq!(bench.trickles(&session).await, 401);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_by_webrtc_is_out_with_sess_exp() {
    let bench = closed().await;
    let core = on_air(&bench).await;
    let token = bench.sign(&Claims {
        sess_exp: Some(at(now_s() + 3)),
        ..claims("demo", Action::Watch)
    });
    let session = bench.watches(Some(&token)).await;
    let viewer = core.viewer().session;
    assert_eq!(
        viewer.ends_unix_ms.rem_euclid(1_000),
        0,
        "the box is told when"
    );
    assert_eq!(bench.trickles(&session).await, 204);
    let late = Duration::from_secs(3) + TWO_SECONDS;
    core.hears_the_end("sess_exp", viewer.id, late).await;
    assert!(wall_unix_ms() >= viewer.ends_unix_ms);
    assert_eq!(bench.trickles(&session).await, 401);
    assert_eq!(bench.offer(Some(&token)).await.status(), 401);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_by_webrtc_is_out_when_the_key_that_signed_for_it_retires() {
    let bench = closed().await;
    let core = on_air(&bench).await;
    let session = bench.watches(Some(&bench.viewer())).await;
    let before = core.viewer().session.id;
    rotate_keyring(&bench.folder(), Duration::from_secs(600)).unwrap();
    let newer = bench.viewer();
    bench
        .becomes(
            "the new key is taken up",
            Duration::from_secs(5),
            async |bench| bench.offer(Some(&newer)).await.status() == 201,
        )
        .await;
    let since = core.viewer().session.id;
    assert_eq!(bench.trickles(&session).await, 204);
    assert_eq!(
        core.ended_at(before),
        None,
        "good until the overlap is over"
    );
    rotate_keyring(&bench.folder(), Duration::ZERO).unwrap();
    for id in [before, since] {
        // The file is looked at once a second.
        core.hears_the_end("its key is out", id, Duration::from_secs(3))
            .await;
    }
    assert_eq!(bench.trickles(&session).await, 401);
    let session = bench.watches(Some(&bench.viewer())).await;
    assert_eq!(bench.trickles(&session).await, 204);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_for_so_many_counts_those_who_watch_by_webrtc() {
    let bench = Bench::start().await;
    let core = on_air(&bench).await;
    let change = serde_json::from_str(r#"{"limits": {"max_viewers": 2}}"#).unwrap();
    bench.edge.change_stream(&stream(), change).await.unwrap();
    let one = bench.watches(None).await;
    assert_eq!(bench.get("/live/demo/index.m3u8").await.status(), 200);
    is(bench.offer(None).await, 503, Kind::Full, Some(10)).await;
    assert_eq!(core.offers().len(), 1);
    assert_eq!(bench.leaves(&one).await, 200);
    bench.watches(None).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_offers_at_once_so_many_wait_and_the_others_hear_so_at_once() {
    let bench = Bench::start().await;
    let core = on_air(&bench).await;
    core.heard.lock().unwrap().answers.extend(vec![None; 300]);
    let offers: Vec<_> = (0..300)
        .map(|_| {
            let offer = bench.whep(Method::POST, "/whep/demo", SDP, OFFER).send();
            tokio::spawn(async move { offer.await.unwrap().status().as_u16() })
        })
        .collect();
    let mut statuses = std::collections::BTreeMap::new();
    for offer in offers {
        *statuses.entry(offer.await.unwrap()).or_insert(0) += 1;
    }
    // So many wait in vain, the others hear at once that too many do.
    assert_eq!(statuses, [(503, 44), (504, 256)].into());
    core.heard.lock().unwrap().answers.clear();
    bench.watches(None).await;
    bench.end().await;
}
