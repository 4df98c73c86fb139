//! Cells of the access matrix (docs/access-matrix.md) that are of a kind on several protocols: who comes with what, and what each answers.

use std::time::Instant;

use protocol::{
    internal::Admit,
    token::{Action, Ask, Audience, Claims, Revocations},
};
use serde_json::{Value, json};

use super::{
    sessions::{TEAM, at, claims, closed, now_s, signer},
    *,
};
use crate::access::{Access, INSTALLATION};

/// A request that needs `manage`: method, path, body, and what a good token gets.
type Managing = (Method, String, Option<Value>, u16);

/// All requests about `demo` that need a token which manages it. The last one ends it.
fn managing() -> Vec<Managing> {
    let id = protocol::token::Tag::from_bytes([1; 12]);
    let of = |rest: &str| format!("/api/streams/demo{rest}");
    let link = json!({"name": "x", "for_s": 60});
    let taken_back = json!({"what": {"session": id}, "streams": "demo"});
    let minted = json!({"stream": "demo", "act": "watch"});
    let named = json!({"name": "demo"});
    vec![
        (Method::POST, "/api/streams".to_owned(), Some(named), 409),
        (Method::PATCH, of(""), Some(json!({"title": "x"})), 200),
        (Method::POST, of("/keys"), None, 200),
        (Method::POST, "/api/tokens".to_owned(), Some(minted), 200),
        (Method::GET, of("/sessions"), None, 200),
        (Method::DELETE, of(&format!("/sessions/{id}")), None, 204),
        (Method::GET, of("/links"), None, 200),
        (Method::POST, of("/links"), Some(link), 201),
        (Method::DELETE, of(&format!("/links/{id}")), None, 404),
        (
            Method::POST,
            "/api/revocations".to_owned(),
            Some(taken_back),
            200,
        ),
        (Method::DELETE, of(""), None, 204),
    ]
}

/// Changing a stream of others is answered as if there were none.
fn changes_a_stream(method: &Method, path: &str) -> bool {
    path.starts_with("/api/streams/demo")
        && (path.ends_with("demo") || path.ends_with("/keys"))
        && method != Method::GET
}

/// What a playback session opens: a playlist, the MPD, and a complete segment.
fn opened_by(session: &str) -> [String; 3] {
    let at = format!("/live/demo/{}/{session}/v-720p30", id());
    [
        format!("{at}/index.m3u8"),
        format!("/live/demo/manifest.mpd?session={session}"),
        format!("{at}/1.m4s"),
    ]
}

impl Bench {
    /// The session that a token begins.
    async fn begins(&self, token: &str) -> String {
        let playlist = self.enter(token).await.unwrap();
        playlist.split('/').nth(4).unwrap().to_owned()
    }

    /// How the playlist, the MPD and a complete segment are answered to a session.
    pub(super) async fn opens(&self, session: &str) -> [u16; 3] {
        let [playlist, mpd, segment] = opened_by(session);
        [
            self.status(&playlist).await,
            self.status(&mpd).await,
            self.status(&segment).await,
        ]
    }

    /// How a token is answered where playing begins: HLS and DASH.
    async fn entries(&self, token: &str) -> [u16; 2] {
        let entry = |file| format!("/live/demo/{file}?token={token}");
        [
            self.status(&entry("index.m3u8")).await,
            self.status(&entry("manifest.mpd")).await,
        ]
    }

    async fn manages(&self, bearer: Option<&str>, one: &Managing) -> u16 {
        let (method, path, body, _) = one;
        let request = reqwest::Client::new().request(method.clone(), self.url(path));
        let request = match bearer {
            Some(bearer) => request.bearer_auth(bearer),
            None => request,
        };
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        request.send().await.unwrap().status().as_u16()
    }

    async fn all_answered(&self, case: &str, bearer: Option<&str>, expected: u16) {
        for one in managing() {
            let status = self.manages(bearer, &one).await;
            assert_eq!(status, expected, "{case}: {} {}", one.0, one.1);
        }
    }

    pub(super) async fn revoke_token(&self, jti: &str) {
        let what = json!({"token": {"iss": INSTALLATION, "jti": jti}});
        let body = json!({"what": what, "streams": "demo"});
        let manager = self.manager();
        let answer = self.call(Method::POST, "/api/revocations", &manager, Some(body));
        assert_eq!(answer.await.status(), 200);
    }

    /// As a box asks from elsewhere: the admission, or why there is none.
    async fn admitted(&self, key: &str, stream: Option<&str>) -> Result<Admission, String> {
        let question = Admit {
            key: key.to_owned(),
            stream: stream.map(|name| name.parse().unwrap()),
            peer: "127.0.0.1:4000".to_owned(),
            ..Admit::default()
        };
        let path = "/internal/admit";
        let asked = reqwest::Client::new()
            .post(self.url(path))
            .header(REQUEST_HEADER, proof("POST", path))
            .json(&question);
        let answer = asked.send().await.unwrap();
        match answer.status().as_u16() {
            200 => Ok(answer.json().await.unwrap()),
            status => {
                assert_eq!(status, 403);
                let problem: Value = answer.json().await.unwrap();
                Err(problem["detail"].as_str().unwrap().to_owned())
            }
        }
    }

    /// Waits until it is so, at the most for `patience`.
    pub(super) async fn becomes(
        &self,
        what: &str,
        patience: Duration,
        done: impl AsyncFn(&Self) -> bool,
    ) {
        let deadline = Instant::now() + patience;
        while !done(self).await {
            assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// How many of these messages come before the second video part of their segment.
fn before_the_second_part(messages: &[Numbered]) -> usize {
    let parts = messages.iter().enumerate().filter(|(_, message)| {
        matches!(&message.message, ToEdge::Part(part) if part.track.as_str() == "v-720p30")
    });
    let (second, _) = parts.into_iter().nth(1).unwrap();
    second
}

fn team(stream: &str, action: Action) -> String {
    let claims = Claims {
        iss: TEAM.to_owned(),
        ..claims(stream, action)
    };
    signer(TEAM, 7).mint(&claims).unwrap()
}

/// Tokens that are no good for doing this with `demo`: what each is, the token, how it is answered over HTTP, and what a publisher is told.
pub(super) fn no_good(
    bench: &Bench,
    action: Action,
) -> Vec<(&'static str, String, u16, &'static str)> {
    let own = |change: &dyn Fn(&mut Claims)| {
        let mut claims = claims("demo", action);
        change(&mut claims);
        bench.sign(&claims)
    };
    let other = match action {
        Action::Watch => Action::Publish,
        _ => Action::Watch,
    };
    let good = own(&|_| {});
    let unknown = signer(INSTALLATION, 9).mint(&claims("demo", action));
    let theirs = signer(INSTALLATION, 7).mint(&claims("demo", action));
    vec![
        ("garbage", "a.b.c".to_owned(), 401, "not a token"),
        ("cut", good[..good.len() - 1].to_owned(), 401, "not a token"),
        (
            "its claims are another's",
            {
                let (head, rest) = good.split_once('.').unwrap();
                let (_, signature) = rest.split_once('.').unwrap();
                let wide = own(&|c| c.stream = "*".parse().unwrap());
                let body = wide.split('.').nth(1).unwrap();
                format!("{head}.{body}.{signature}")
            },
            401,
            "signature is wrong",
        ),
        (
            "expired",
            own(&|c| c.exp = at(now_s() - 1)),
            401,
            "has expired",
        ),
        (
            "its sessions are over",
            own(&|c| c.sess_exp = Some(at(now_s() - 1))),
            401,
            "has expired",
        ),
        (
            "not yet valid",
            own(&|c| c.nbf = Some(at(now_s() + 600))),
            401,
            "not valid yet",
        ),
        (
            "another installation's",
            own(&|c| c.aud = Audience::One("elsewhere".to_owned())),
            401,
            "another installation",
        ),
        (
            "other stream",
            own(&|c| c.stream = "other".parse().unwrap()),
            403,
            "another stream",
        ),
        (
            "other action",
            own(&|c| c.act = other.into()),
            403,
            "does not allow to",
        ),
        (
            "wrong address",
            own(&|c| c.ip = vec!["192.0.2.0/24".parse().unwrap()]),
            403,
            "from this address",
        ),
        (
            "other tenant's issuer",
            team("team-*", action),
            403,
            "another stream",
        ),
        (
            "a team's issuer for this stream",
            team("demo", action),
            403,
            "another stream",
        ),
        (
            "a key that nobody knows",
            unknown.unwrap(),
            401,
            "not known here",
        ),
        (
            "this installation's name and another's key",
            theirs.unwrap(),
            401,
            "signature is wrong",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_is_told_what_its_token_lacks() {
    let bench = closed().await;
    for (case, token, _, why) in no_good(&bench, Action::Publish) {
        let refused = bench.admitted(&token, Some("demo")).await.unwrap_err();
        assert!(refused.contains(why), "{case}: {refused}");
    }
    // Keys that are none are no tokens either.
    for key in ["", "demo", "demo_aaaaaaaaaaaaaaaaaaaaaaaaaa"] {
        let refused = bench.admitted(key, None).await.unwrap_err();
        assert!(refused.contains("key is wrong"), "{key:?}: {refused}");
    }
    let publisher = Claims {
        sess_exp: Some(at(now_s() + 60)),
        ..claims("demo", Action::Publish)
    };
    let token = bench.sign(&publisher);
    let admission = bench.admitted(&token, None).await.unwrap();
    assert_eq!(admission.stream, stream());
    let ends = publisher.sess_exp.unwrap().unix_ms();
    assert_eq!(admission.ends_unix_ms, Some(ends), "the box ends it then");
    bench.revoke_token(&publisher.jti).await;
    let refused = bench.admitted(&token, None).await.unwrap_err();
    assert!(refused.contains("revoked"), "{refused}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_key_publishes_its_stream_and_opens_nothing_else() {
    let bench = closed().await;
    let (_source, _link) = bench.on_air(3).await;
    let key = bench.entry().key.reveal();
    assert!(bench.admitted(&key, None).await.is_ok());
    let refused = bench.admitted(&key, Some("other")).await.unwrap_err();
    assert!(refused.contains("another stream"), "{refused}");
    assert_eq!(bench.entries(&key).await, [401; 2]);
    for path in [
        "/live/demo/index.m3u8",
        "/live/demo/manifest.mpd",
        "/api/streams",
        "/api/streams/demo",
        "/api/studio/demo",
    ] {
        let answer = bench.call(Method::GET, path, &key, None).await;
        assert_eq!(answer.status(), 401, "{path}");
    }
    bench.all_answered("a stream key", Some(&key), 401).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_opens_nothing_from_an_address_that_its_token_is_not_for() {
    let bench = closed().await;
    let (_source, _link) = bench.on_air(3).await;
    let token = bench.sign(&Claims {
        ip: vec!["127.0.0.1/32".parse().unwrap()],
        ..claims("demo", Action::Watch)
    });
    let session = bench.begins(&token).await;
    assert_eq!(bench.opens(&session).await, [200; 3]);
    let elsewhere =
        reqwest::Client::builder().local_address(std::net::IpAddr::from([127, 0, 0, 2]));
    let elsewhere = elsewhere.build().unwrap();
    for path in opened_by(&session) {
        let refused = elsewhere.get(bench.url(&path)).send().await.unwrap();
        assert_eq!(refused.status(), 403, "{path}");
        let text = refused.text().await.unwrap();
        assert!(text.contains("urn:ghost-live:problem:forbidden"), "{text}");
    }
    assert_eq!(bench.opens(&session).await, [200; 3], "its own goes on");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_another_stream_opens_nothing_here() {
    let bench = closed().await;
    let (_source, _link) = bench.on_air(3).await;
    let keyring = load_keyring(&bench.folder()).unwrap();
    let access = Access::new(INSTALLATION, keyring, &[]).unwrap();
    let other: StreamName = "other".parse().unwrap();
    // One that is for that stream only, and one that would begin a session here as well.
    for (n, streams) in [(1, "other"), (2, "*")] {
        let token = bench.sign(&claims(streams, Action::Watch));
        let ask = Ask {
            action: Action::Watch,
            stream: &other,
            address: std::net::Ipv4Addr::LOCALHOST.into(),
        };
        let now = wall_unix_ms();
        let begun = access.begin(&token, &ask, &Revocations::default(), [n; 12], now);
        let session = access.sign_session(&other, &begun.unwrap().1).unwrap();
        let there = format!("/live/other/manifest.mpd?session={session}");
        assert_eq!(
            bench.status(&there).await,
            404,
            "let in, and nothing is live"
        );
        assert_eq!(bench.opens(&session).await, [401; 3], "{streams}");
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_over_with_sess_exp_for_playlists_the_mpd_and_segments_complete_or_growing() {
    let bench = closed().await;
    let (mut source, link) = bench.on_air(3).await;
    let token = bench.sign(&Claims {
        sess_exp: Some(at(now_s() + 5)),
        ..claims("demo", Action::Watch)
    });
    let session = bench.begins(&token).await;
    assert_eq!(bench.opens(&session).await, [200; 3]);
    let messages = source.segment(3, 0, false);
    let second = before_the_second_part(&messages);
    bench.send(&link, &messages[..second]).await;
    let growing = format!("/live/demo/{}/{session}/v-720p30/3.m4s", id());
    let mut growing = bench.get(&growing).await;
    assert_eq!(growing.chunk().await.unwrap().unwrap(), "3.0;");
    let [playlist, ..] = opened_by(&session);
    bench
        .becomes("it ends", Duration::from_secs(8), async |bench| {
            bench.status(&playlist).await == 401
        })
        .await;
    assert_eq!(bench.opens(&session).await, [401; 3]);
    assert_eq!(bench.entries(&token).await, [401; 2]);
    bench.send(&link, &messages[second..]).await;
    let rest = growing.chunk().await;
    assert!(rest.is_err(), "cut off, {rest:?}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_viewer_gets_neither_playlist_nor_mpd_nor_a_complete_segment() {
    let bench = closed().await;
    let (_source, _link) = bench.on_air(3).await;
    let viewer = claims("demo", Action::Watch);
    let token = bench.sign(&viewer);
    let session = bench.begins(&token).await;
    assert_eq!(bench.opens(&session).await, [200; 3]);
    bench.revoke_token(&viewer.jti).await;
    assert_eq!(bench.opens(&session).await, [403; 3]);
    assert_eq!(bench.entries(&token).await, [403; 2]);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_rotated_key_signed_goes_on_until_it_retires_and_no_longer() {
    let bench = closed().await;
    let (_source, _link) = bench.on_air(3).await;
    let (viewer, manager) = (bench.viewer(), bench.manager());
    let publisher = bench.sign(&claims("demo", Action::Publish));
    let session = bench.begins(&viewer).await;
    let sessions = managing().swap_remove(4);

    rotate_keyring(&bench.folder(), Duration::from_secs(600)).unwrap();
    let newer = bench.viewer();
    let patience = Duration::from_secs(5);
    bench
        .becomes("the new key is taken up", patience, async |bench| {
            bench.enter(&newer).await.is_ok()
        })
        .await;
    assert_eq!(bench.entries(&viewer).await, [200; 2]);
    assert_eq!(bench.opens(&session).await, [200; 3]);
    assert_eq!(bench.manages(Some(&manager), &sessions).await, 200);
    assert!(bench.admitted(&publisher, None).await.is_ok());

    let later = bench.begins(&newer).await;
    rotate_keyring(&bench.folder(), Duration::ZERO).unwrap();
    bench
        .becomes("the keys before retire", patience, async |bench| {
            bench.entries(&viewer).await == [401; 2]
        })
        .await;
    for session in [&session, &later] {
        assert_eq!(bench.opens(session).await, [401; 3]);
    }
    assert_eq!(bench.entries(&newer).await, [401; 2]);
    bench.all_answered("retired", Some(&manager), 401).await;
    let refused = bench.admitted(&publisher, None).await.unwrap_err();
    assert!(refused.contains("not known here"), "{refused}");
    let newest = bench.begins(&bench.viewer()).await;
    assert_eq!(bench.opens(&newest).await, [200; 3]);
    assert_eq!(bench.manages(Some(&bench.manager()), &sessions).await, 200);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_managed_without_a_good_token() {
    let bench = closed().await;
    bench.all_answered("no token", None, 401).await;
    for (case, token, expected, _) in no_good(&bench, Action::Manage) {
        // What is for other streams is not told that there is this one.
        let for_others = case.starts_with("other") && case != "other action";
        for one in managing() {
            let status = bench.manages(Some(&token), &one).await;
            let expected = match for_others && changes_a_stream(&one.0, &one.1) {
                true => 404,
                false => expected,
            };
            assert_eq!(status, expected, "{case}: {} {}", one.0, one.1);
        }
    }
    // All of them are answered to who may.
    let manager = bench.manager();
    for one in managing() {
        let status = bench.manages(Some(&manager), &one).await;
        assert_eq!(status, one.3, "{} {}", one.0, one.1);
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_studio_link_opens_its_own_stream_from_where_one_may_manage_and_nothing_else() {
    let bench = closed().await;
    let other = bench.edge.stream(&"other".parse().unwrap()).unwrap();
    let database = Database::open(&bench.folder()).unwrap();
    let others = other.open(database.seal()).unwrap().studio_secret;
    let entry = bench.entry();
    let key = entry.key.reveal();
    let owns = [
        (Method::GET, "/api/studio/demo"),
        (Method::POST, "/api/studio/demo/rotate-key"),
        (Method::POST, "/api/studio/demo/log-out"),
    ]
    .map(|(method, path)| (method, path.to_owned(), None, 200));
    for (case, bearer) in [
        ("none", None),
        ("wrong", Some("wrong")),
        ("another stream's", Some(others.as_str())),
        ("a stream key", Some(&key)),
    ] {
        for one in &owns {
            let status = bench.manages(bearer, one).await;
            assert_eq!(status, 401, "{case}: {} {}", one.0, one.1);
        }
        bench.all_answered(case, bearer, 401).await;
    }
    // What it does not do with its own stream: publish it, mint tokens for it, replace its key for an encoder, end it.
    let own = Some(entry.studio_secret.as_str());
    let refused = bench.admitted(&entry.studio_secret, None).await;
    assert!(refused.unwrap_err().contains("key is wrong"));
    for one in managing() {
        let takes_a_token = ["/streams", "/tokens", "/keys"];
        let ends = one.0 == Method::DELETE && one.1.ends_with("/demo");
        let expected = match ends || takes_a_token.iter().any(|end| one.1.ends_with(end)) {
            true => 401,
            false => one.3,
        };
        let status = bench.manages(own, &one).await;
        assert_eq!(status, expected, "{} {}", one.0, one.1);
    }
    for one in &owns {
        let status = bench.manages(own, one).await;
        assert_eq!(status, 200, "{} {}", one.0, one.1);
    }
    let (folder, store) = bench.end().await;

    let elsewhere = |config: &mut Config| {
        config.access.manage.allow = vec!["192.0.2.0/24".parse().unwrap()];
    };
    let bench = Bench::with(folder, store, None, elsewhere).await;
    let own = bench.entry().studio_secret;
    for one in &owns {
        let status = bench.manages(Some(&own), one).await;
        assert_eq!(status, 403, "{} {}", one.0, one.1);
    }
    bench.all_answered("elsewhere", Some(&own), 403).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_is_out_at_the_next_request_when_the_token_is_revoked_or_its_time_is_over() {
    let bench = closed().await;
    let taken_back = claims("demo", Action::Manage);
    let short = Claims {
        sess_exp: Some(at(now_s() + 4)),
        ..claims("demo", Action::Manage)
    };
    let sessions = managing().swap_remove(4);
    let [revoked, short] = [&taken_back, &short].map(|claims| bench.sign(claims));
    for token in [&revoked, &short] {
        assert_eq!(bench.manages(Some(token), &sessions).await, 200);
    }
    bench.revoke_token(&taken_back.jti).await;
    bench.all_answered("revoked", Some(&revoked), 403).await;
    let over = Duration::from_secs(8);
    bench
        .becomes("its time is over", over, async |bench| {
            bench.manages(Some(&short), &sessions).await == 401
        })
        .await;
    bench.all_answered("over", Some(&short), 401).await;
    bench.end().await;
}
