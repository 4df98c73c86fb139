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
