//! What stands before every address: whose request it is, from where, and how often.

use protocol::internal::Admit;

use super::*;
use crate::guard::{ProxyHeader, Rate};

/// An edge behind a proxy on this machine.
async fn behind_a_proxy(change: impl FnOnce(&mut Config)) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    Bench::with(folder, Arc::new(InMemory::new()), None, |config| {
        config.proxies.from = vec!["127.0.0.1".parse().unwrap()];
        change(config);
    })
    .await
}

async fn get_for(bench: &Bench, path: &str, header: &str, said: &str) -> Response {
    let client = reqwest::Client::new();
    let request = client.get(bench.url(path)).header(header, said);
    request.send().await.unwrap()
}

async fn status_for(bench: &Bench, path: &str, said: &str) -> u16 {
    let response = get_for(bench, path, "x-forwarded-for", said).await;
    response.status().as_u16()
}

#[tokio::test]
async fn address_rules_see_the_client_behind_a_listed_proxy() {
    let bench = behind_a_proxy(|config| {
        config.access.watch.deny = vec!["203.0.113.0/24".parse().unwrap()];
    })
    .await;
    assert_eq!(status_for(&bench, "/api/streams", "203.0.113.5").await, 403);
    assert_eq!(status_for(&bench, "/watch/demo", "203.0.113.5").await, 403);
    assert_eq!(status_for(&bench, "/healthz", "203.0.113.5").await, 200);
    assert_eq!(status_for(&bench, "/api/streams", "192.0.2.5").await, 200);
    // What the client itself wrote stands before what the proxy wrote.
    for (said, expected) in [
        ("192.0.2.5, 203.0.113.5", 403),
        ("203.0.113.5, 192.0.2.5", 200),
        ("203.0.113.5, ::ffff:203.0.113.9", 403),
    ] {
        assert_eq!(
            status_for(&bench, "/api/streams", said).await,
            expected,
            "{said}"
        );
    }
    let refused = get_for(&bench, "/api/streams", "x-forwarded-for", "203.0.113.5").await;
    assert_eq!(cache_control(&refused), "no-store");
    let problem: serde_json::Value = refused.json().await.unwrap();
    assert_eq!(problem["type"], "urn:ghost-live:problem:address");
    // The header that the proxy does not write is its client's.
    let other = get_for(&bench, "/api/streams", "forwarded", "for=203.0.113.5").await;
    assert_eq!(other.status(), 200);
    bench.end().await;
}

#[tokio::test]
async fn forwarded_is_read_where_it_is_the_proxys() {
    let bench = behind_a_proxy(|config| {
        config.proxies.header = ProxyHeader::Forwarded;
        config.access.watch.allow = vec!["2001:db8::/32".parse().unwrap()];
    })
    .await;
    for (said, expected) in [
        ("for=\"[2001:db8::5]:7\";proto=https", 200),
        ("for=\"[2001:db9::5]:7\";proto=https", 403),
        ("for=\"[2001:db8::5]\", for=203.0.113.5", 403),
    ] {
        let response = get_for(&bench, "/api/streams", "forwarded", said).await;
        assert_eq!(response.status(), expected, "{said}");
    }
    bench.end().await;
}

#[tokio::test]
async fn nobody_else_says_for_whom_they_ask() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::with(folder, Arc::new(InMemory::new()), None, |config| {
        config.proxies.from = vec!["10.0.0.0/8".parse().unwrap()];
        config.access.watch.allow = vec!["127.0.0.1".parse().unwrap()];
    })
    .await;
    assert_eq!(status_for(&bench, "/api/streams", "203.0.113.5").await, 200);
    bench.end().await;
}

#[tokio::test]
async fn who_asks_too_often_gets_429_with_retry_after_and_the_next_one_is_served() {
    let bench = behind_a_proxy(|config| {
        config.access.rates.api = Rate { per_s: 1, burst: 3 };
    })
    .await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(status_for(&bench, "/api/streams", "2001:db8::1").await);
    }
    assert_eq!(statuses[..3], [200; 3]);
    assert_eq!(statuses[3], 429);
    let refused = get_for(&bench, "/api/time", "x-forwarded-for", "2001:db8::2").await;
    assert_eq!(refused.status(), 429, "the same /64");
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(
        refused.headers()["content-type"],
        "application/problem+json"
    );
    assert_eq!(
        status_for(&bench, "/api/streams", "2001:db8:0:1::1").await,
        200
    );
    bench.end().await;
}

#[tokio::test]
async fn wrong_secrets_are_answered_so_often_and_then_not_looked_at() {
    let bench = behind_a_proxy(|config| {
        config.access.rates.failures = Rate { per_s: 1, burst: 5 };
    })
    .await;
    let ask = async |path: &str, secret: &str, from: &str| {
        let client = reqwest::Client::new();
        let request = client.get(bench.url(path)).bearer_auth(secret);
        let request = request.header("x-forwarded-for", from);
        request.send().await.unwrap().status().as_u16()
    };
    let secret = bench.entry().studio_secret;
    for _ in 0..5 {
        assert_eq!(ask("/api/studio/demo", "wrong", "203.0.113.5").await, 401);
    }
    assert_eq!(ask("/api/studio/demo", &secret, "203.0.113.5").await, 429);
    assert_eq!(ask("/api/studio/demo", &secret, "203.0.113.6").await, 200);
    // The same for publishers, whose address the box says.
    let admit = async |key: &str, peer: &str| {
        let question = Admit {
            key: key.to_owned(),
            stream: None,
            peer: peer.to_owned(),
            ..Admit::default()
        };
        bench
            .edge
            .admit(&question)
            .await
            .map(drop)
            .map_err(|e| e.to_string())
    };
    let key = bench.entry().key.reveal();
    for _ in 0..5 {
        let refused = admit("wrong", "198.51.100.1:5000").await.unwrap_err();
        assert!(refused.contains("key is wrong"), "{refused}");
    }
    let refused = admit(&key, "198.51.100.1:5001").await.unwrap_err();
    assert!(refused.contains("wait a minute"), "{refused}");
    assert_eq!(admit(&key, "198.51.100.2:5001").await, Ok(()));
    bench.end().await;
}

#[tokio::test]
async fn publishers_are_let_in_by_address() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::with(folder, Arc::new(InMemory::new()), None, |config| {
        config.access.publish.allow = vec!["192.0.2.0/24".parse().unwrap()];
        config.access.publish.deny = vec!["192.0.2.66".parse().unwrap()];
    })
    .await;
    let key = bench.entry().key.reveal();
    for (peer, let_in) in [
        ("192.0.2.1:5000", true),
        ("[::ffff:192.0.2.1]:5000", true),
        ("192.0.2.66:5000", false),
        ("198.51.100.1:5000", false),
    ] {
        let question = Admit {
            key: key.clone(),
            stream: None,
            peer: peer.to_owned(),
            ..Admit::default()
        };
        assert_eq!(bench.edge.admit(&question).await.is_ok(), let_in, "{peer}");
    }
    bench.end().await;
}

/// What every answer has, and a page's own policy or one that lets nothing be loaded.
fn assert_guarded(response: &Response, what: &str) {
    let value = |name: &str| {
        let value = response.headers().get(name);
        value.map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(
        value("x-content-type-options").as_deref(),
        Some("nosniff"),
        "{what}"
    );
    assert_eq!(
        value("referrer-policy").as_deref(),
        Some("no-referrer"),
        "{what}"
    );
    assert!(value("cache-control").is_some(), "{what}");
    let kind = value("content-type").unwrap_or_default();
    let media = ["mpegurl", "dash+xml", "video/", "audio/", "javascript"];
    // No browser shows media by itself, and there is nothing of a preflight to show.
    if response.status() == StatusCode::NO_CONTENT {
        return;
    }
    if response.status().is_success() && media.iter().any(|name| kind.contains(name)) {
        return;
    }
    let policy = value("content-security-policy");
    let policy = policy.unwrap_or_else(|| panic!("{what} has no policy"));
    assert!(policy.starts_with("default-src 'none'"), "{what}: {policy}");
    // The only exception is the style of media-chrome's elements; nothing is loaded from anywhere else.
    for directive in policy.split(';').map(str::trim) {
        let (name, values) = directive.split_once(' ').unwrap();
        let inline = values.contains("'unsafe");
        assert!(!inline || name == "style-src", "{what}: {directive}");
        let elsewhere = values.contains("http") || values.contains('*');
        assert!(
            !elsewhere || name == "frame-ancestors",
            "{what}: {directive}"
        );
    }
    match kind.starts_with("text/html") {
        true => assert!(policy.contains("script-src 'self'"), "{what}: {policy}"),
        false => assert!(
            policy.contains("frame-ancestors 'none'"),
            "{what}: {policy}"
        ),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_has_the_headers_of_its_class() {
    let bench = Bench::start().await;
    let (_source, _link) = bench.on_air(3).await;
    let listed = bench.text(&playlist(id().as_str(), "")).await;
    let part = listed.split("URI=\"").nth(2).unwrap();
    let part = part.split('"').next().unwrap().to_owned();
    let client = reqwest::Client::new();
    for (method, path, status) in [
        (Method::GET, "/", 200),
        (Method::GET, "/watch/demo", 200),
        (Method::GET, "/embed/demo", 200),
        (Method::GET, "/studio/demo", 200),
        (Method::GET, "/assets/player-abc.js", 200),
        (Method::GET, "/assets/nothing.js", 404),
        (Method::GET, "/live/demo/index.m3u8", 200),
        (Method::GET, "/live/demo/manifest.mpd", 200),
        (Method::GET, "/live/other/index.m3u8", 404),
        (Method::GET, &playlist(id().as_str(), ""), 200),
        (Method::GET, &playlist(id().as_str(), "?_HLS_part=1"), 400),
        (
            Method::GET,
            &format!("/live/demo/{}/-/v-720p30/1.m4s", id()),
            200,
        ),
        (Method::GET, &part, 200),
        (Method::GET, "/media/x", 404),
        (Method::GET, "/api/streams", 200),
        (Method::GET, "/api/streams/demo", 200),
        (Method::GET, "/api/streams/other", 404),
        (Method::GET, "/api/time", 200),
        (Method::GET, "/api/time?iso", 200),
        (Method::GET, "/api/studio/demo", 401),
        (Method::POST, "/api/studio/demo/rotate-key", 401),
        (Method::POST, "/api/tokens", 401),
        (Method::POST, "/api/streams/demo/beacon", 400),
        (Method::GET, "/.well-known/jwks.json", 200),
        (Method::GET, "/healthz", 200),
        (Method::GET, "/readyz", 200),
        (Method::OPTIONS, "/api/streams", 204),
        (Method::POST, "/", 405),
        (Method::POST, "/internal/admit", 401),
        (Method::GET, "/internal/nothing", 404),
        (Method::GET, "/nothing", 404),
    ] {
        let request = client.request(method.clone(), bench.url(path));
        let response = request.send().await.unwrap();
        let what = format!("{method} {path}");
        assert_eq!(response.status(), status, "{what}");
        assert_guarded(&response, &what);
        let problem = response.status().is_client_error();
        assert!(!problem || cache_control(&response) == "no-store", "{what}");
        assert!(!response.headers().contains_key("strict-transport-security"));
        // What needs a secret is read by no other site, and put into none.
        if path.starts_with("/api/studio") || path.starts_with("/api/tokens") {
            assert!(
                !response
                    .headers()
                    .contains_key("access-control-allow-origin")
            );
            assert_eq!(
                response.headers()["cross-origin-resource-policy"],
                "same-origin"
            );
        }
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_browsers_are_told_to_keep_to_it() {
    for (hsts_s, expected) in [(HSTS_S, Some("max-age=31536000")), (0, None)] {
        let (tls, trusted) = certificate();
        let folder = tempfile::tempdir().unwrap();
        let bench = Bench::with(folder, Arc::new(InMemory::new()), Some(tls), |config| {
            config.hsts_s = hsts_s;
        })
        .await;
        let client = reqwest::Client::builder()
            .tls_certs_only([trusted])
            .resolve("localhost", bench.address)
            .build()
            .unwrap();
        for path in ["/", "/api/streams", "/nothing", "/live/demo/index.m3u8"] {
            let url = format!("https://localhost:{}{path}", bench.address.port());
            let response = client.get(url).send().await.unwrap();
            let said = response.headers().get("strict-transport-security");
            let said = said.map(|value| value.to_str().unwrap());
            assert_eq!(said, expected, "{path}");
        }
        bench.end().await;
    }
}

/// A client hello that knows no version beyond 3.`minor` (RFC 5246 section 7.4.1.2): 3.3 is TLS 1.2.
fn hello(minor: u8) -> Vec<u8> {
    let mut body = vec![3, minor];
    body.extend([7; 32]);
    // No session; ECDHE-ECDSA with AES-128-GCM and with AES-128-CBC; no compression.
    body.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x09, 1, 0]);
    // Group secp256r1, uncompressed points, ecdsa_secp256r1_sha256.
    body.extend([0, 22]);
    body.extend([0, 10, 0, 4, 0, 2, 0, 23]);
    body.extend([0, 11, 0, 2, 1, 0]);
    body.extend([0, 13, 0, 4, 0, 2, 4, 3]);
    let length = u8::try_from(body.len()).unwrap();
    let mut message = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    message.extend(body);
    message
}

#[tokio::test]
async fn tls_1_2_is_spoken_and_1_1_is_refused() {
    let (tls, _) = certificate();
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::on(folder, Arc::new(InMemory::new()), Some(tls)).await;
    let answer_to = async |minor: u8| {
        let mut raw = TcpStream::connect(bench.address).await.unwrap();
        raw.write_all(&hello(minor)).await.unwrap();
        let mut answer = [0; 7];
        raw.read_exact(&mut answer).await.unwrap();
        answer
    };
    assert_eq!(answer_to(3).await[..3], [22, 3, 3], "a server hello");
    for minor in [0, 1, 2] {
        // A fatal alert, protocol_version (RFC 5246 section 7.2.2).
        let answer = answer_to(minor).await;
        assert_eq!((answer[0], &answer[5..]), (21, &[2, 70][..]), "3.{minor}");
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listed_sites_read_and_frame_and_the_bodies_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::with(folder, Arc::new(InMemory::new()), None, |config| {
        let origins = vec!["https://a.example".to_owned()];
        config.embed_origins = origins.try_into().unwrap();
    })
    .await;
    let (_source, _link) = bench.on_air(3).await;
    let client = reqwest::Client::new();
    let ask = async |path: &str, origin: Option<&str>| {
        let mut request = client
            .get(bench.url(path))
            .header("accept-encoding", "gzip");
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        request.send().await.unwrap()
    };
    for path in [
        "/live/demo/index.m3u8",
        &playlist(id().as_str(), ""),
        "/api/streams",
        "/assets/player-abc.js",
        "/live/nothing/index.m3u8",
    ] {
        let mut bodies = Vec::new();
        for (origin, allowed) in [
            (Some("https://a.example"), Some("https://a.example")),
            (Some("https://b.example"), None),
            (None, None),
        ] {
            let response = ask(path, origin).await;
            let headers = response.headers();
            let said = headers.get("access-control-allow-origin");
            assert_eq!(said.map(|value| value.to_str().unwrap()), allowed, "{path}");
            let vary: Vec<_> = headers.get_all("vary").iter().collect();
            assert!(
                vary.iter().any(|value| *value == "origin"),
                "{path} {vary:?}"
            );
            bodies.push(response.bytes().await.unwrap());
        }
        assert!(bodies.iter().all(|body| *body == bodies[0]), "{path}");
    }
    let embed = ask("/embed/demo", None).await;
    let policy = embed.headers()["content-security-policy"].to_str().unwrap();
    assert!(
        policy.ends_with("frame-ancestors 'self' https://a.example"),
        "{policy}"
    );
    // The studio is nobody else's.
    let studio = ask("/api/studio/demo", Some("https://a.example")).await;
    assert!(!studio.headers().contains_key("access-control-allow-origin"));
    bench.end().await;
}

#[tokio::test]
async fn a_tls_handshake_that_is_not_made_is_cut_off() {
    let (tls, _) = certificate();
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::on(folder, Arc::new(InMemory::new()), Some(tls)).await;
    let cut = async |said: Vec<u8>| {
        let mut raw = TcpStream::connect(bench.address).await.unwrap();
        raw.write_all(&said).await.unwrap();
        let mut answer = Vec::new();
        let began = std::time::Instant::now();
        let end = tokio::time::timeout(Duration::from_secs(30), raw.read_to_end(&mut answer));
        assert!(end.await.is_ok(), "the connection stays open");
        began.elapsed()
    };
    // Nothing, half a hello, and a whole one behind which nothing comes.
    let half = hello(3)[..20].to_vec();
    let (silent, half, first) = tokio::join!(cut(Vec::new()), cut(half), cut(hello(3)));
    for elapsed in [silent, half, first] {
        assert!(
            elapsed > Duration::from_secs(5),
            "{elapsed:?}: nobody is that fast"
        );
    }
    bench.end().await;
}
