//! Who watches, from the first request to the last, on HLS and DASH, and who does not.

use protocol::{
    link::ToCore,
    token::{Action, Audience, Claims, Seconds, SigningKey, Tag as Id},
};
use serde_json::{Value, json};

use super::*;
use crate::{
    access::{Access, INSTALLATION, Issuer, Keyring, Link as WatchLink},
    native::{load_keyring, rotate_keyring},
};

pub(super) const TEAM: &str = "https://team.example";

/// A running edge whose stream `demo` needs a token, with a team's backend that signs for the streams `team-…`.
pub(super) async fn closed() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let trust = |config: &mut Config| {
        config.access.issuers = vec![Issuer {
            issuer: TEAM.to_owned(),
            public_key: public(7),
            kid: None,
            tenant: "team-".to_owned(),
        }];
    };
    let bench = Bench::with(folder, Arc::new(InMemory::new()), None, trust).await;
    for name in ["demo", "team-a", "other"] {
        let name = name.parse().unwrap();
        let change: Change = serde_json::from_str(r#"{"visibility": "token"}"#).unwrap();
        bench
            .edge
            .ensure_stream(&name, &Change::default())
            .await
            .unwrap();
        bench.edge.change_stream(&name, change).await.unwrap();
    }
    bench
}

pub(super) fn signer(issuer: &str, seed: u8) -> SigningKey {
    SigningKey::from_seed(issuer, &[seed; 32]).unwrap()
}

fn public(seed: u8) -> String {
    let access = Access::new("x", Keyring::new(&[seed; 32], 0), &[]).unwrap();
    access.jwks(0).keys[0].x.clone()
}

pub(super) fn now_s() -> i64 {
    wall_unix_ms() / 1_000
}

pub(super) fn at(unix_s: i64) -> Seconds {
    Seconds::of_unix_ms(unix_s * 1_000)
}

pub(super) fn claims(stream: &str, action: Action) -> Claims {
    let mut random = [0; 12];
    getrandom::fill(&mut random).unwrap();
    Claims {
        iss: INSTALLATION.to_owned(),
        aud: Audience::One(INSTALLATION.to_owned()),
        sub: "anna".to_owned(),
        stream: stream.parse().unwrap(),
        act: action.into(),
        nbf: None,
        iat: Some(at(now_s() - 10)),
        exp: at(now_s() + 600),
        sess_exp: None,
        ip: Vec::new(),
        max: None,
        jti: Id::from_bytes(random).to_string(),
    }
}

impl Bench {
    pub(super) fn folder(&self) -> std::path::PathBuf {
        self.folder.path().join("edge")
    }

    /// Signs with this installation's own key.
    pub(super) fn sign(&self, claims: &Claims) -> String {
        let kept: Value =
            serde_json::from_str(&load_keyring(&self.folder()).unwrap().to_json()).unwrap();
        let seed = kept["keys"][0]["seed"].as_str().unwrap();
        let seed = data_encoding::BASE64URL_NOPAD
            .decode(seed.as_bytes())
            .unwrap();
        let key = SigningKey::from_seed(&claims.iss, &seed.try_into().unwrap()).unwrap();
        key.mint(claims).unwrap()
    }

    pub(super) fn viewer(&self) -> String {
        self.sign(&claims("demo", Action::Watch))
    }

    pub(super) fn manager(&self) -> String {
        self.sign(&claims("demo", Action::Manage))
    }

    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        bearer: &str,
        body: Option<Value>,
    ) -> Response {
        let request = reqwest::Client::new()
            .request(method, self.url(path))
            .bearer_auth(bearer);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        request.send().await.unwrap()
    }

    /// The first address of a media playlist that the token leads to, or why it does not.
    pub(super) async fn enter(&self, token: &str) -> Result<String, (u16, String)> {
        let response = self
            .get(&format!("/live/demo/index.m3u8?token={token}"))
            .await;
        let status = response.status().as_u16();
        let (caching, text) = (cache_control(&response), response.text().await.unwrap());
        assert_eq!(caching, "no-store", "{text}");
        if status != 200 {
            let problem: Value = serde_json::from_str(&text).unwrap();
            return Err((status, problem["detail"].as_str().unwrap().to_owned()));
        }
        let line = text.lines().find(|line| !line.starts_with('#')).unwrap();
        Ok(format!("/live/demo/{line}"))
    }

    pub(super) async fn status(&self, path: &str) -> u16 {
        self.get(path).await.status().as_u16()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_needs_a_token_plays_with_one_and_every_body_is_the_same_for_all() {
    let bench = closed().await;
    let (_source, _link) = bench.on_air(3).await;
    let token = bench.viewer();
    let (one, two) = (
        bench.enter(&token).await.unwrap(),
        bench.enter(&token).await.unwrap(),
    );
    assert_ne!(one, two, "each is a session of its own");
    let (first, second) = (bench.text(&one).await, bench.text(&two).await);
    assert_eq!(first, second);
    assert!(!first.contains(&token) && !first.contains("token"));
    let there = first.lines().filter(|line| !line.contains("PRELOAD-HINT"));
    for uri in there
        .flat_map(|line| line.split('"'))
        .filter(|text| text.starts_with("/media/"))
    {
        assert_eq!(bench.status(uri).await, 200);
    }
    // The header goes as well, and leaves nothing in the address.
    let called = bench
        .call(Method::GET, "/live/demo/index.m3u8", &token, None)
        .await;
    assert_eq!(called.status(), 200);

    // DASH: the segments are the session's, and the MPD is fetched again with it and without the token.
    let mpd = bench
        .text(&format!("/live/demo/manifest.mpd?token={token}"))
        .await;
    let (_, rest) = mpd.split_once("<Location>manifest.mpd?session=").unwrap();
    let (session, _) = rest.split_once("</Location>").unwrap();
    assert!(
        mpd.contains(&format!("media=\"{}/{session}/$Rep", id())),
        "{mpd}"
    );
    assert!(!mpd.contains("/-/") && !mpd.contains(&token));
    let again = bench
        .text(&format!("/live/demo/manifest.mpd?session={session}"))
        .await;
    assert_eq!(again, mpd, "the same session");
    let segment = format!("/live/demo/{}/{session}/v-720p30/1.m4s", id());
    assert_eq!(bench.text(&segment).await, "segment 1");

    let summary = bench
        .call(Method::GET, "/api/streams/demo", &token, None)
        .await;
    let summary: Value = summary.json().await.unwrap();
    assert_eq!(
        (&summary["live"], &summary["viewers"]),
        (&json!(true), &json!(4))
    );
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_gets_a_session_on_either_protocol() {
    let bench = closed().await;
    let (_source, _link) = bench.on_air(3).await;
    let watch = claims("demo", Action::Watch);
    let good = bench.sign(&watch);
    let own = |change: &dyn Fn(&mut Claims)| {
        let mut claims = claims("demo", Action::Watch);
        change(&mut claims);
        bench.sign(&claims)
    };
    let team = |stream: &str| {
        signer(TEAM, 7)
            .mint(&Claims {
                iss: TEAM.to_owned(),
                ..claims(stream, Action::Watch)
            })
            .unwrap()
    };
    let unsigned = {
        let (head, rest) = good.split_once('.').unwrap();
        let (body, _) = rest.split_once('.').unwrap();
        let none = data_encoding::BASE64URL_NOPAD.encode(br#"{"alg":"none"}"#);
        assert_ne!(head, none);
        format!("{none}.{body}.")
    };
    let revoked = Claims {
        jti: "revoked".to_owned(),
        ..watch.clone()
    };
    let answer = bench
        .call(
            Method::POST,
            "/api/revocations",
            &bench.manager(),
            Some(json!({"what": {"token": {"iss": INSTALLATION, "jti": "revoked"}}, "streams": "demo"})),
        )
        .await;
    assert_eq!(answer.status(), 200);
    let cases = [
        ("no token", String::new(), 401),
        ("garbage", "a.b.c".to_owned(), 401),
        ("too long", "x".repeat(1_100), 401),
        ("cut", good[..good.len() - 1].to_owned(), 401),
        ("alg none", unsigned, 401),
        ("expired", own(&|c| c.exp = at(now_s() - 1)), 401),
        (
            "session over",
            own(&|c| c.sess_exp = Some(at(now_s() - 1))),
            401,
        ),
        ("not yet", own(&|c| c.nbf = Some(at(now_s() + 60))), 401),
        (
            "other stream",
            own(&|c| c.stream = "other".parse().unwrap()),
            403,
        ),
        (
            "other action",
            own(&|c| c.act = Action::Publish.into()),
            403,
        ),
        (
            "wrong address",
            own(&|c| c.ip = vec!["192.0.2.0/24".parse().unwrap()]),
            403,
        ),
        (
            "another installation",
            own(&|c| c.aud = Audience::One("elsewhere".to_owned())),
            401,
        ),
        ("other tenant's issuer", team("team-*"), 403),
        (
            "in the owner's name by a team's key",
            signer(INSTALLATION, 7).mint(&watch).unwrap(),
            401,
        ),
        (
            "a key that nobody knows",
            signer(INSTALLATION, 9).mint(&watch).unwrap(),
            401,
        ),
        ("revoked", bench.sign(&revoked), 403),
        ("a session in a token's place", "x".repeat(108), 401),
    ];
    for (case, token, expected) in cases {
        for file in ["index.m3u8", "manifest.mpd"] {
            let by_query = bench
                .status(&format!("/live/demo/{file}?token={token}"))
                .await;
            assert_eq!(by_query, expected, "{case} {file}");
            let path = format!("/live/demo/{file}");
            if !token.is_empty() {
                let by_header = bench.call(Method::GET, &path, &token, None).await;
                assert_eq!(by_header.status().as_u16(), expected, "{case} {file}");
            }
        }
        let summary = bench
            .call(Method::GET, "/api/streams/demo", &token, None)
            .await;
        // To whoever has a token for others it is not there.
        let told = match case {
            "other stream" | "other tenant's issuer" => 404,
            _ => expected,
        };
        assert_eq!(summary.status().as_u16(), told, "{case}");
    }
    assert_eq!(bench.status("/live/demo/index.m3u8").await, 401);
    assert_eq!(bench.status("/live/team-a/index.m3u8?token=").await, 401);
    // The team's own stream, and what is not there, is as anybody else's.
    let theirs = format!("/live/team-a/index.m3u8?token={}", team("team-*"));
    let answer = bench.get(&theirs).await;
    assert_eq!(answer.status(), 404, "let in, and nothing is live");

    // Sessions: none, forged, of another stream. Those of another address are in `matrix`.
    let playlist = bench.enter(&good).await.unwrap();
    let session = playlist.split('/').nth(4).unwrap().to_owned();
    assert_eq!(bench.status(&playlist).await, 200);
    let flipped = format!(
        "{}{}",
        if session.starts_with('A') { 'B' } else { 'A' },
        &session[1..]
    );
    for (case, other) in [
        ("none", "-".to_owned()),
        ("forged", flipped),
        ("cut", session[1..].to_owned()),
    ] {
        let path = playlist.replace(&session, &other);
        assert_eq!(bench.status(&path).await, 401, "{case}");
        let segment = format!("/live/demo/{}/{other}/v-720p30/1.m4s", id());
        assert_eq!(bench.status(&segment).await, 401, "{case}");
        let mpd = format!("/live/demo/manifest.mpd?session={other}");
        assert_eq!(bench.status(&mpd).await, 401, "{case}");
    }
    let elsewhere = format!("/live/other/manifest.mpd?session={session}");
    assert_eq!(bench.status(&elsewhere).await, 401);
    assert_eq!(
        bench
            .status(&format!("/live/demo/manifest.mpd?session={session}"))
            .await,
        200
    );
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_viewer_gets_no_new_part_of_whatever_he_waits_for() {
    for what in [
        json!({"token": {"iss": INSTALLATION, "jti": "a viewer's"}}),
        json!({"subject": {"iss": INSTALLATION, "sub": "a viewer"}}),
        json!("all"),
        json!("session"),
    ] {
        let bench = closed().await;
        let (mut source, link) = bench.on_air(3).await;
        let viewer = bench.sign(&Claims {
            jti: "a viewer's".to_owned(),
            sub: "a viewer".to_owned(),
            ..claims("demo", Action::Watch)
        });
        let bystander = bench.sign(&Claims {
            sub: "bystander".to_owned(),
            ..claims("demo", Action::Watch)
        });
        let [playlist, other] = [
            bench.enter(&viewer).await.unwrap(),
            bench.enter(&bystander).await.unwrap(),
        ];
        let session = playlist.split('/').nth(4).unwrap().to_owned();
        let messages = source.segment(3, 0, false);
        let is_ours = |message: &ToEdge| matches!(message, ToEdge::Part(part) if part.track.as_str() == "v-720p30");
        let (second, _) = messages
            .iter()
            .enumerate()
            .filter(|(_, m)| is_ours(&m.message))
            .nth(1)
            .unwrap();
        bench.send(&link, &messages[..second]).await;
        bench
            .wait_for("the part is there", |b| {
                b.edge.live(&id()).unwrap().with(|l| {
                    l.track(&"v-720p30".parse().unwrap())
                        .unwrap()
                        .1
                        .parts()
                        .len()
                        == 1
                })
            })
            .await;
        // One waits for the playlist's next part, one reads a segment as it grows, one waits for the same and stays.
        let track = |playlist: &str| {
            let at = playlist.rfind("/v-").unwrap();
            format!(
                "{}/v-720p30/index.m3u8?_HLS_msn=3&_HLS_part=1",
                &playlist[..at]
            )
        };
        let (url, stays) = (bench.url(&track(&playlist)), bench.url(&track(&other)));
        let waits = tokio::spawn(async move { reqwest::get(url).await.unwrap().status().as_u16() });
        let stays =
            tokio::spawn(async move { reqwest::get(stays).await.unwrap().status().as_u16() });
        let mut growing = bench
            .get(&format!("/live/demo/{}/{session}/v-720p30/3.m4s", id()))
            .await;
        assert_eq!(growing.chunk().await.unwrap().unwrap(), "3.0;");

        let manager = bench.manager();
        if what == json!("session") {
            let listed = bench
                .call(Method::GET, "/api/streams/demo/sessions", &manager, None)
                .await;
            let listed: Value = listed.json().await.unwrap();
            let sessions = listed["sessions"].as_array().unwrap();
            assert_eq!(sessions.len(), 2);
            let his = sessions
                .iter()
                .find(|s| s["subject"] == "a viewer")
                .unwrap();
            assert_eq!(
                (&his["protocol"], &his["address"]),
                (&json!("hls"), &json!("127.0.0.1"))
            );
            let path = format!("/api/streams/demo/sessions/{}", his["id"].as_str().unwrap());
            let ended = bench.call(Method::DELETE, &path, &manager, None).await;
            assert_eq!(ended.status(), 204);
        } else {
            let body = json!({"what": what, "streams": "demo"});
            let answer = bench
                .call(Method::POST, "/api/revocations", &manager, Some(body))
                .await;
            assert_eq!(answer.status(), 200);
        }
        bench.send(&link, &messages[second..]).await;
        assert_eq!(waits.await.unwrap(), 403, "{what}");
        let others = if what == json!("all") { 403 } else { 200 };
        assert_eq!(stays.await.unwrap(), others, "{what}");
        let rest = growing.chunk().await;
        assert!(rest.is_err(), "{what}: cut off, {rest:?}");
        let mpd = format!("/live/demo/manifest.mpd?session={session}");
        for path in [playlist.as_str(), &mpd] {
            assert_eq!(bench.status(path).await, 403, "{what} {path}");
        }
        assert_eq!(bench.status(&other).await, others, "{what}");
        if what.get("token").is_some() || what == json!("session") {
            let path = "/api/streams/demo/sessions";
            let listed = bench.call(Method::GET, path, &manager, None).await;
            let listed: Value = listed.json().await.unwrap();
            let listed = listed["sessions"].as_array().unwrap();
            assert_eq!(listed.len(), 1, "{what}: what is over is not listed");
            assert_eq!(listed[0]["subject"], "bystander");
        }
        let again = bench.enter(&viewer).await;
        match what == json!("session") {
            true => assert!(again.is_ok(), "the token is as good as before"),
            false => assert_eq!(again.unwrap_err().0, 403, "{what}"),
        }
        // After a restart as before.
        drop((source, link));
        let (folder, store) = bench.end().await;
        let bench = Bench::on(folder, store, None).await;
        assert_eq!(bench.status(&playlist).await, 403, "{what} after a restart");
        bench.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_with_sess_exp_and_with_the_key_that_signed_it() {
    let bench = closed().await;
    let (_source, _link) = bench.on_air(3).await;
    let short = bench.sign(&Claims {
        sess_exp: Some(at(now_s() + 2)),
        ..claims("demo", Action::Watch)
    });
    let (short, long) = (
        bench.enter(&short).await.unwrap(),
        bench.enter(&bench.viewer()).await.unwrap(),
    );
    assert_eq!(bench.status(&short).await, 200);
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while bench.status(&short).await == 200 {
        assert!(std::time::Instant::now() < deadline, "it does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bench.status(&short).await, 401);
    assert_eq!(bench.status(&long).await, 200);
    rotate_keyring(&bench.folder(), Duration::from_secs(60)).unwrap();
    let newer = loop {
        // In force within a second.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let newer = bench.viewer();
        if let Ok(playlist) = bench.enter(&newer).await {
            break playlist;
        }
        assert!(std::time::Instant::now() < deadline + Duration::from_secs(5));
    };
    assert_eq!(bench.status(&long).await, 200, "within the overlap");
    rotate_keyring(&bench.folder(), Duration::ZERO).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while bench.status(&newer).await == 200 || bench.status(&long).await == 200 {
        assert!(std::time::Instant::now() < deadline, "it does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bench.status(&newer).await, 401);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_two_devices_plays_on_two_until_one_leaves() {
    let bench = closed().await;
    let (_source, _link) = bench.on_air(3).await;
    let token = bench.sign(&Claims {
        max: std::num::NonZeroU32::new(2),
        ..claims("demo", Action::Watch)
    });
    let one = bench.enter(&token).await.unwrap();
    let two = bench.enter(&token).await.unwrap();
    let (status, said) = bench.enter(&token).await.unwrap_err();
    assert_eq!(status, 403);
    assert!(said.contains("2 devices"), "{said}");
    let mpd = format!("/live/demo/manifest.mpd?token={token}");
    assert_eq!(
        bench.status(&mpd).await,
        403,
        "one count for both protocols"
    );
    let session = two.split('/').nth(4).unwrap();
    let left = json!({"viewer": "a page of mine", "left": true, "session": session});
    let beacon = reqwest::Client::new().post(bench.url("/api/streams/demo/beacon"));
    assert_eq!(beacon.json(&left).send().await.unwrap().status(), 204);
    let three = bench.enter(&token).await.unwrap();
    assert_eq!(bench.status(&two).await, 403, "its place is taken");
    for path in [&one, &three] {
        assert_eq!(bench.status(path).await, 200);
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_one_device_plays_one_of_its_streams_at_a_time() {
    let bench = closed().await;
    let (_source, _link) = bench.on_air(3).await;
    let token = bench.sign(&Claims {
        max: std::num::NonZeroU32::new(1),
        ..claims("*", Action::Watch)
    });
    let playlist = bench.enter(&token).await.unwrap();
    let text = playlist.split('/').nth(4).unwrap();
    let (home, now) = (std::net::Ipv4Addr::LOCALHOST.into(), wall_unix_ms());
    let revoked = protocol::token::Revocations::default();
    let access = bench.edge.access();
    let session = access
        .session(text, &stream(), home, &revoked, now)
        .unwrap();
    bench.edge.left(&stream(), text, home);
    // It goes on elsewhere, with a session of that stream.
    let elsewhere = protocol::session::Session {
        id: protocol::token::Tag::from_bytes([9; 12]),
        ..session
    };
    let watches = |edge: &Edge| {
        let mut all = edge.sessions().lock().unwrap();
        let other = all.entry("other".parse().unwrap()).or_default();
        other.seen(&elsewhere, None, None, home, edge.now_unix_ms())
    };
    watches(&bench.edge).unwrap();
    assert_eq!(bench.status(&playlist).await, 403, "its place is taken");
    assert_eq!(bench.enter(&token).await.unwrap_err().0, 403);
    let other = "other".parse().unwrap();
    lock(bench.edge.sessions())
        .get_mut(&other)
        .unwrap()
        .left(&elsewhere.id);
    assert_eq!(bench.status(&playlist).await, 200);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_makes_shows_and_takes_back_watch_links() {
    let bench = closed().await;
    let (_source, _link) = bench.on_air(3).await;
    let path = "/api/streams/demo/links";
    let studio = bench.entry().studio_secret;
    for owner in [studio, bench.manager()] {
        let wanted = json!({"name": "Anna's phone", "for_s": 3600, "max": 1});
        let made = bench.call(Method::POST, path, &owner, Some(wanted)).await;
        assert_eq!(made.status(), 201);
        let made: WatchLink = made.json().await.unwrap();
        let playlist = bench.enter(&made.token).await.unwrap();
        let listed = bench.call(Method::GET, path, &owner, None).await;
        let listed: Value = listed.json().await.unwrap();
        assert_eq!(listed["links"], json!([made]), "it can be copied again");
        assert_eq!(made.max, std::num::NonZeroU32::new(1));
        assert!(!made.chat);
        let at = format!("{path}/{}", made.jti);
        assert_eq!(
            bench.call(Method::DELETE, &at, &owner, None).await.status(),
            204
        );
        assert_eq!(bench.status(&playlist).await, 403);
        assert_eq!(bench.enter(&made.token).await.unwrap_err().0, 403);
        assert_eq!(
            bench.call(Method::DELETE, &at, &owner, None).await.status(),
            404
        );
    }
    let owner = bench.manager();
    for bad in [
        json!({"name": " ", "for_s": 60}),
        json!({"name": "x".repeat(200), "for_s": 60}),
        json!({"name": "x"}),
    ] {
        let refused = bench
            .call(Method::POST, path, &owner, Some(bad.clone()))
            .await;
        assert_eq!(refused.status(), 400, "{bad}");
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_ends_or_links_what_is_another_s() {
    let bench = closed().await;
    let (_source, _link) = bench.on_air(3).await;
    let viewer = bench.viewer();
    let playlist = bench.enter(&viewer).await.unwrap();
    let theirs = signer(TEAM, 7)
        .mint(&Claims {
            iss: TEAM.to_owned(),
            ..claims("team-*", Action::Manage)
        })
        .unwrap();
    let id = Id::from_bytes([1; 12]);
    let revoke = |streams: &str| Some(json!({"what": "all", "streams": streams}));
    for (case, token, expected) in [
        ("nobody", "nobody", 401),
        ("a viewer", viewer.as_str(), 403),
        ("another tenant", theirs.as_str(), 403),
    ] {
        for (method, path, body) in [
            (Method::GET, "/api/streams/demo/sessions".to_owned(), None),
            (
                Method::DELETE,
                format!("/api/streams/demo/sessions/{id}"),
                None,
            ),
            (Method::GET, "/api/streams/demo/links".to_owned(), None),
            (
                Method::POST,
                "/api/streams/demo/links".to_owned(),
                Some(json!({"name": "x", "for_s": 60})),
            ),
            (
                Method::DELETE,
                format!("/api/streams/demo/links/{id}"),
                None,
            ),
            (Method::POST, "/api/revocations".to_owned(), revoke("demo")),
            (Method::POST, "/api/revocations".to_owned(), revoke("*")),
            (Method::POST, "/api/revocations".to_owned(), revoke("t*")),
        ] {
            let answer = bench.call(method.clone(), &path, token, body).await;
            assert_eq!(
                answer.status().as_u16(),
                expected,
                "{case}: {method} {path}"
            );
        }
    }
    // What a tenant takes back is taken back for its own streams only, whoever it is.
    let body =
        json!({"what": {"subject": {"iss": INSTALLATION, "sub": "anna"}}, "streams": "team-*"});
    let answer = bench
        .call(Method::POST, "/api/revocations", &theirs, Some(body))
        .await;
    assert_eq!(answer.status(), 200);
    assert_eq!(bench.status(&playlist).await, 200);
    let everywhere = bench.sign(&claims("*", Action::Watch));
    let refused = bench
        .get(&format!("/live/team-a/index.m3u8?token={everywhere}"))
        .await;
    assert_eq!(refused.status(), 403);
    assert!(bench.enter(&everywhere).await.is_ok());
    bench.end().await;
}

/// What a box asks for somebody who comes with that key.
fn asks(key: String) -> protocol::internal::Admit {
    protocol::internal::Admit {
        key,
        stream: None,
        peer: "127.0.0.1:4000".to_owned(),
        ..protocol::internal::Admit::default()
    }
}

/// A broadcast is on air whose publisher came with that.
async fn on_air_with(bench: &Bench, question: &protocol::internal::Admit) -> Link {
    let admission = bench.edge.admit(question).await.unwrap();
    let credential = admission.credential.unwrap();
    let (_source, link) = bench.on_air(3).await;
    let beat = Numbered {
        seq: 0,
        message: ToEdge::Heartbeat {
            clock_unix_ms: wall_unix_ms(),
            publisher: Some(credential.clone()),
        },
    };
    link.to_edge.send(beat).await.unwrap();
    bench
        .wait_for("it is known", |b| {
            let live = b.edge.live(&id()).unwrap();
            live.with(|l| l.publisher() == Some(&credential))
        })
        .await;
    link
}

/// Why the link is refused, within two seconds.
async fn refused_over(link: &mut Link) -> String {
    let refused = async {
        while let Some(said) = link.from_edge.recv().await {
            if let ToCore::Refused { reason } = said {
                return reason;
            }
        }
        panic!("the link ended without a word");
    };
    let refused = tokio::time::timeout(Duration::from_secs(2), refused);
    refused.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_key_that_is_replaced_takes_its_broadcast_with_it_unless_it_is_good_for_a_while_yet()
 {
    for overlap_s in [60, 0] {
        let bench = closed().await;
        let mut link = on_air_with(&bench, &asks(bench.entry().key.reveal())).await;
        let keys = "/api/streams/demo/keys";
        let overlap = json!({ "overlap_s": overlap_s });
        let answer = bench
            .call(Method::POST, keys, &bench.manager(), Some(overlap))
            .await;
        assert_eq!(answer.status(), 200);
        let live = bench.edge.live(&id()).unwrap();
        if overlap_s > 0 {
            // It has been looked at with the answer; that of its own key it outlives too.
            assert!(live.with(|l| l.ended().is_none()));
        } else {
            let reason = refused_over(&mut link).await;
            assert!(reason.contains("revoked"), "{reason}");
            assert!(live.with(|l| l.ended().is_some()));
        }
        bench.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signing_key_that_is_out_takes_what_its_tokens_began_with_it() {
    let bench = closed().await;
    let (publisher, watcher) = (
        claims("demo", Action::Publish),
        claims("demo", Action::Watch),
    );
    let mut link = on_air_with(&bench, &asks(bench.sign(&publisher))).await;
    let playlist = bench.enter(&bench.sign(&watcher)).await.unwrap();
    assert_eq!(bench.status(&playlist).await, 200);
    rotate_keyring(&bench.folder(), Duration::ZERO).unwrap();
    let reason = refused_over(&mut link).await;
    assert!(reason.contains("not known here"), "{reason}");
    assert_eq!(bench.status(&playlist).await, 401);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_whose_token_is_revoked_loses_link_and_broadcast_at_once() {
    let bench = closed().await;
    let publisher = claims("demo", Action::Publish);
    let question = asks(bench.sign(&publisher));
    let mut link = on_air_with(&bench, &question).await;
    let what = json!({"token": {"iss": INSTALLATION, "jti": publisher.jti}});
    let body = json!({"what": what, "streams": "demo"});
    let answer = bench
        .call(
            Method::POST,
            "/api/revocations",
            &bench.manager(),
            Some(body),
        )
        .await;
    assert_eq!(answer.status(), 200);
    let reason = refused_over(&mut link).await;
    assert!(reason.contains("revoked"), "{reason}");
    let live = bench.edge.live(&id()).unwrap();
    assert!(live.with(|l| l.ended().is_some()));
    let error = bench.edge.admit(&question).await.unwrap_err().to_string();
    assert!(error.contains("revoked"), "{error}");
    // A link that is dialled again is refused too.
    let mut again = bench.edge.connect(id());
    assert!(matches!(
        again.from_edge.recv().await,
        Some(ToCore::Refused { .. })
    ));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logging_out_leaves_the_page_that_asked_and_no_other() {
    let bench = closed().await;
    let (_source, _link) = bench.on_air(3).await;
    let before = bench.entry();
    let studio = "/api/studio/demo";
    let shown = bench
        .call(Method::GET, studio, &before.studio_secret, None)
        .await;
    let shown: Value = shown.json().await.unwrap();
    assert_eq!(shown["visibility"], "token");
    // The studio plays its own stream, and lists itself.
    let playlist = bench.enter(&before.studio_secret).await.unwrap();
    assert_eq!(bench.status(&playlist).await, 200);
    let sessions = "/api/streams/demo/sessions";
    let listed = bench
        .call(Method::GET, sessions, &before.studio_secret, None)
        .await;
    let listed: Value = listed.json().await.unwrap();
    assert_eq!(listed["sessions"][0]["subject"], "studio");
    let viewer = bench.enter(&bench.viewer()).await.unwrap();
    // It says who may watch, and what the stream is called; not what it may take.
    let change = async |change: Value| {
        let path = "/api/streams/demo";
        let answer = bench
            .call(Method::PATCH, path, &before.studio_secret, Some(change))
            .await;
        answer.status().as_u16()
    };
    assert_eq!(change(json!({"visibility": "unlisted"})).await, 200);
    assert_eq!(bench.status("/live/demo/index.m3u8").await, 200);
    let title_too = json!({"visibility": "token", "title": "A title"});
    assert_eq!(change(title_too).await, 200);
    assert_eq!(bench.status("/live/demo/index.m3u8").await, 401);
    let limits = json!({"visibility": "public", "limits": {"max_height": null}});
    assert_eq!(change(limits).await, 403);
    assert_eq!(bench.status("/live/demo/index.m3u8").await, 401);

    let log_out = "/api/studio/demo/log-out";
    for secret in ["wrong", &bench.viewer(), &bench.manager()] {
        let refused = bench.call(Method::POST, log_out, secret, None).await;
        assert_eq!(refused.status(), 401);
    }
    let answer = bench
        .call(Method::POST, log_out, &before.studio_secret, None)
        .await;
    assert_eq!(
        (answer.status().as_u16(), cache_control(&answer)),
        (200, "no-store".to_owned())
    );
    let answer: Value = answer.json().await.unwrap();
    let new = answer["secret"].as_str().unwrap();
    assert_ne!(new, before.studio_secret);

    let old = &before.studio_secret;
    for (method, path) in [
        (Method::GET, studio),
        (Method::POST, log_out),
        (Method::GET, sessions),
        (Method::GET, "/api/streams/demo/links"),
    ] {
        let refused = bench.call(method, path, old, None).await;
        assert_eq!(refused.status(), 401, "{path}");
    }
    assert_eq!(bench.enter(old).await.unwrap_err().0, 401);
    assert_eq!(bench.status(&playlist).await, 403, "its preview has ended");
    assert_eq!(bench.status(&viewer).await, 200, "viewers go on");
    let again = bench.enter(new).await.unwrap();
    assert_eq!(bench.status(&again).await, 200);
    // What the next start shows: the new one, and the key as it was.
    assert_eq!(bench.entry().studio_secret, new);
    assert_eq!(bench.entry().key.reveal(), before.key.reveal());
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_for_two_viewers_has_no_third_and_counts_them_truly() {
    let bench = Bench::start().await;
    let (_source, _link) = bench.on_air(3).await;
    let open = playlist(id().as_str(), "");
    assert_eq!(bench.status(&open).await, 200);
    let change = serde_json::from_str(r#"{"limits": {"max_viewers": 2}}"#).unwrap();
    bench.edge.change_stream(&stream(), change).await.unwrap();
    // All who watch have a session now, without a token.
    assert_eq!(bench.status(&open).await, 401);
    let enter = async || {
        let response = bench.get("/live/demo/index.m3u8").await;
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        let line = text
            .lines()
            .find(|line| !line.starts_with('#'))
            .map(str::to_owned);
        (status, line.unwrap_or_default())
    };
    let [(_, one), (_, two)] = [enter().await, enter().await];
    assert_ne!(one, two);
    assert_eq!(enter().await.0, 503);
    assert_eq!(bench.status("/live/demo/manifest.mpd").await, 503);
    for line in [&one, &two] {
        assert_eq!(bench.status(&format!("/live/demo/{line}")).await, 200);
    }
    let summary: Value = bench.get("/api/streams/demo").await.json().await.unwrap();
    assert_eq!(summary["viewers"], 2);
    let session = two.split('/').nth(1).unwrap();
    let left = json!({"viewer": "a page of mine", "left": true, "session": session});
    let beacon = reqwest::Client::new().post(bench.url("/api/streams/demo/beacon"));
    assert_eq!(beacon.json(&left).send().await.unwrap().status(), 204);
    assert_eq!(enter().await.0, 200);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_issued_for_a_stream_opens_no_other_that_gets_its_name() {
    let bench = closed().await;
    let (_source, _link) = bench.on_air(3).await;
    let owner = bench.sign(&claims("*", Action::Manage));
    let token = bench.viewer();
    let playlist = bench.enter(&token).await.unwrap();
    let path = "/api/streams/demo";
    let deleted = bench.call(Method::DELETE, path, &owner, None).await;
    assert_eq!(deleted.status(), 204);
    assert_eq!(bench.status(&playlist).await, 404);
    let again = json!({"name": "demo", "visibility": "token"});
    let made = bench
        .call(Method::POST, "/api/streams", &owner, Some(again))
        .await;
    assert_eq!(made.status(), 201, "who manages all goes on managing it");
    assert_eq!(bench.enter(&token).await.unwrap_err().0, 403);
    let mpd = playlist.split('/').nth(4).unwrap();
    let mpd = format!("/live/demo/manifest.mpd?session={mpd}");
    assert_eq!(bench.status(&mpd).await, 403);
    let changed = json!({"title": "Another"});
    let changed = bench.call(Method::PATCH, path, &owner, Some(changed)).await;
    assert_eq!(changed.status(), 200);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_came_without_a_token_is_out_when_one_is_needed() {
    let bench = Bench::start().await;
    let (_source, _link) = bench.on_air(3).await;
    let change = |json: &str| serde_json::from_str::<Change>(json).unwrap();
    let counted = change(r#"{"limits": {"max_viewers": 5}}"#);
    bench.edge.change_stream(&stream(), counted).await.unwrap();
    let text = bench.text("/live/demo/index.m3u8").await;
    let line = text.lines().find(|line| !line.starts_with('#')).unwrap();
    let playlist = format!("/live/demo/{line}");
    assert_eq!(bench.status(&playlist).await, 200);
    let closed = change(r#"{"visibility": "token"}"#);
    bench.edge.change_stream(&stream(), closed).await.unwrap();
    assert_eq!(bench.status(&playlist).await, 401);
    bench.end().await;
}
