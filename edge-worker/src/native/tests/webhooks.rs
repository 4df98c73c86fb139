//! Webhooks over real sockets: servers that answer, that are slow, dead, or lie.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use protocol::{internal::Admit, names::Protocol, token::Revocations};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::*;
use crate::{
    access::INSTALLATION,
    webhooks::{
        Ask, Denied, On,
        event::{Event, What},
        gate::FAILURES,
        signature::Secret,
        sql::{self, DeadRow},
    },
};

const HOOK_SECRET: &str = "what only the webhook's server knows";

/// How long what waits for nobody may take. Orders of magnitude above what it takes, far below the deadline of a webhook that hangs.
const AT_ONCE: Duration = Duration::from_millis(500);

/// What a webhook's server does with a connection.
#[derive(Clone)]
enum Does {
    /// Answers each request with these bytes.
    Says(Vec<u8>),
    /// Says this, and then that for ever.
    Floods(Vec<u8>, Vec<u8>),
    /// Reads, and says nothing.
    Hangs,
    /// Closes once it has read the request.
    Closes,
}

/// What a server was sent.
#[derive(Debug, Clone)]
struct Sent {
    head: String,
    body: Vec<u8>,
}

impl Sent {
    fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().skip(1);
        let mut found = lines.filter_map(|line| line.split_once(": "));
        let found = found.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.unwrap_or_else(|| panic!("{name} in {}", self.head)).1
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A small HTTP server that ends with the test.
struct HookServer {
    address: SocketAddr,
    does: Arc<Mutex<Does>>,
    sent: Arc<Mutex<Vec<Sent>>>,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for HookServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read_request(tcp: &mut TcpStream, input: &mut Vec<u8>) -> Option<Sent> {
    loop {
        let end = input.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8(input[..end].to_vec()).unwrap();
            let sent = Sent {
                head,
                body: Vec::new(),
            };
            let length: usize = sent.header("content-length").parse().unwrap();
            let whole = end + 4 + length;
            if input.len() >= whole {
                let body = input[end + 4..whole].to_vec();
                input.drain(..whole);
                return Some(Sent { body, ..sent });
            }
        }
        if tcp.read_buf(input).await.ok()? == 0 {
            return None;
        }
    }
}

impl HookServer {
    async fn start(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let does = Arc::new(Mutex::new(does));
        let sent = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (now_does, noted, counted) = (does.clone(), sent.clone(), connections.clone());
        let task = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let (does, noted) = (now_does.clone(), noted.clone());
                serving.spawn(async move {
                    let mut input = Vec::new();
                    while let Some(sent) = read_request(&mut tcp, &mut input).await {
                        noted.lock().unwrap().push(sent);
                        let does = does.lock().unwrap().clone();
                        match does {
                            Does::Says(bytes) => tcp.write_all(&bytes).await.unwrap_or_default(),
                            Does::Floods(first, then) => {
                                let _ = tcp.write_all(&first).await;
                                while tcp.write_all(&then).await.is_ok() {}
                            }
                            Does::Hangs => std::future::pending().await,
                            Does::Closes => return,
                        }
                    }
                });
            }
        });
        Self {
            address,
            does,
            sent,
            connections,
            task,
        }
    }

    fn now(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    fn sent(&self) -> Vec<Sent> {
        self.sent.lock().unwrap().clone()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// A webhook of this server for those streams, with other settings.
    fn hook(&self, streams: &str, more: Value) -> Value {
        let mut hook = json!({
            "name": format!("hook-{}", self.address.port()),
            "url": format!("http://{}/hook", self.address),
            "on": ["publish", "watch"],
            "streams": streams,
            "allow_networks": ["127.0.0.0/8"],
        });
        for (key, value) in more.as_object().unwrap() {
            hook[key] = value.clone();
        }
        hook
    }
}

fn response(status: &str, content_type: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n"
    );
    (head + body).into_bytes()
}

fn says(json: &str) -> Does {
    Does::Says(response("200 OK", "application/json", json))
}

fn allow() -> Does {
    says(r#"{"decision": "allow"}"#)
}

/// An edge with these webhooks and these streams beside `demo`.
async fn bench(hooks: &[Value], streams: &[&str]) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let hooks = hooks
        .iter()
        .map(|hook| serde_json::from_value(hook.clone()).unwrap());
    let hooks = Hooks::new(hooks.map(|hook| (hook, Secret::new(HOOK_SECRET)))).unwrap();
    let change = |config: &mut Config| config.webhooks = hooks;
    let bench = Bench::with(folder, Arc::new(InMemory::new()), None, change).await;
    for name in streams {
        bench
            .edge
            .ensure_stream(&name.parse().unwrap(), &Change::default())
            .await
            .unwrap();
    }
    bench
}

/// The question of a publisher of that stream who has its key.
fn publisher(bench: &Bench, name: &str) -> Admit {
    let stream = bench.edge.stream(&name.parse().unwrap()).unwrap();
    let database = Database::open(&bench.folder.path().join("edge")).unwrap();
    Admit {
        key: stream.key(database.seal()).unwrap().reveal(),
        stream: None,
        peer: "192.0.2.7".to_owned(),
        protocol: Some(Protocol::Rtmps),
        probe: false,
    }
}

async fn publishes(bench: &Bench, name: &str) -> Result<Admission, String> {
    let admitted = bench.edge.admit(&publisher(bench, name)).await;
    admitted.map_err(|error| error.to_string())
}

const UNANSWERED: &str =
    "the service that decides who may get in did not answer: try again in a moment";

/// HMAC-SHA256 as RFC 2104 section 2 has it, by the hash alone.
fn hmac_sha256(key: &[u8], text: &[u8]) -> String {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text);
    let outer = Sha256::new()
        .chain_update(pad(0x5c))
        .chain_update(inner.finalize());
    data_encoding::HEXLOWER.encode(&outer.finalize())
}

/// What a webhook says nothing of.
fn without_credential(admission: Admission) -> Admission {
    assert!(admission.credential.is_some());
    Admission {
        credential: None,
        ..admission
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_asked_signed_after_the_key_was_found_good_and_its_word_counts() {
    let server = HookServer::start(allow()).await;
    let bench = bench(&[server.hook("*", json!({}))], &["spare"]).await;
    let before = wall_unix_ms();
    let admission = publishes(&bench, "demo").await.unwrap();
    assert_eq!(without_credential(admission), Admission::of(stream()));
    let sent = server.sent().remove(0);
    assert!(
        sent.head.starts_with("POST /hook HTTP/1.1"),
        "{}",
        sent.head
    );
    assert_eq!(sent.header("content-type"), "application/json");
    let question = sent.json();
    let at = question["time_unix_ms"].as_i64().unwrap();
    assert!((before..=wall_unix_ms()).contains(&at));
    let id = sent.header("x-ghost-live-id").to_owned();
    assert_eq!(
        question,
        json!({"id": id, "time_unix_ms": at, "type": "admission", "action": "publish", "stream": "demo",
            "protocol": "rtmps", "address": "192.0.2.7", "token": null})
    );
    let timestamp = sent.header("x-ghost-live-timestamp");
    assert!((at / 1_000..=wall_unix_ms() / 1_000).contains(&timestamp.parse().unwrap()));
    let signed = [timestamp.as_bytes(), b".", &sent.body].concat();
    let expected = format!("sha256={}", hmac_sha256(HOOK_SECRET.as_bytes(), &signed));
    assert_eq!(sent.header("x-ghost-live-signature"), expected);
    // The key is nowhere in it.
    let key = publisher(&bench, "demo").key;
    assert!(!sent.head.contains(&key) && !String::from_utf8_lossy(&sent.body).contains(&key));

    server.now(says(
        r#"{"decision": "deny", "reason": "the hall is closed"}"#,
    ));
    assert_eq!(
        publishes(&bench, "demo").await.unwrap_err(),
        "the hall is closed"
    );
    server.now(says(r#"{"decision": "deny"}"#));
    assert_eq!(
        publishes(&bench, "demo").await.unwrap_err(),
        "the operator of this server does not allow it"
    );
    server.now(says(
        r#"{"decision": "allow", "stream": "spare", "lifetime_s": 60}"#,
    ));
    let before = wall_unix_ms();
    let admission = publishes(&bench, "demo").await.unwrap();
    assert_eq!(admission.stream.as_str(), "spare");
    let ends = admission.ends_unix_ms.unwrap();
    assert!((before + 60_000..=wall_unix_ms() + 60_000).contains(&ends));
    server.now(says(r#"{"decision": "allow", "stream": "nobody"}"#));
    assert_eq!(
        publishes(&bench, "demo").await.unwrap_err(),
        "there is no stream nobody"
    );

    // A wrong key, and a question that nobody publishes on, are none of its business.
    let asked = server.sent().len();
    let mut wrong = publisher(&bench, "demo");
    wrong.key.replace_range(wrong.key.len() - 2.., "aa");
    assert!(bench.edge.admit(&wrong).await.is_err());
    let mut probe = publisher(&bench, "demo");
    probe.probe = true;
    assert!(bench.edge.admit(&probe).await.is_ok());
    assert_eq!(server.sent().len(), asked);
    // One id a question.
    let sent = server.sent();
    let ids: std::collections::HashSet<_> = sent
        .iter()
        .map(|sent| sent.header("x-ghost-live-id"))
        .collect();
    assert_eq!(ids.len(), asked);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_s_claims_are_told_and_the_token_is_not() {
    let server = HookServer::start(allow()).await;
    let bench = bench(&[server.hook("demo", json!({}))], &["other"]).await;
    let keyring = load_keyring(&bench.folder.path().join("edge")).unwrap();
    let access = crate::access::Access::new(INSTALLATION, keyring, &[]).unwrap();
    let wanted = json!({"stream": "*", "act": ["publish"], "sub": "anna", "for_s": 60});
    let wanted = serde_json::from_value(wanted).unwrap();
    let minted = access
        .mint_as_owner(&wanted, &Revocations::default(), [7; 12], wall_unix_ms())
        .unwrap();
    let question = |stream: &str| Admit {
        key: minted.token.clone(),
        stream: stream.parse().ok(),
        peer: "[2001:db8::7]:4000".to_owned(),
        protocol: Some(Protocol::Rtmp),
        probe: false,
    };
    bench.edge.admit(&question("demo")).await.unwrap();
    let sent = server.sent().remove(0);
    let body = sent.json();
    assert_eq!(body["token"]["sub"], "anna");
    assert_eq!(body["token"]["jti"], minted.jti);
    assert_eq!(body["token"]["stream"], "*");
    assert_eq!(body["address"], "2001:db8::7");
    let signature = minted.token.rsplit('.').next().unwrap();
    assert!(!String::from_utf8_lossy(&sent.body).contains(signature));
    // A stream that the pattern does not cover.
    bench.edge.admit(&question("other")).await.unwrap();
    assert_eq!(server.sent().len(), 1);
    // A viewer, by the same way.
    let ask = Ask {
        on: On::Watch,
        stream: stream(),
        protocol: Some(Protocol::Hls),
        address: "192.0.2.9".parse().ok(),
        token: None,
    };
    server.now(says(r#"{"decision": "deny", "reason": "members only"}"#));
    assert_eq!(
        bench.edge.admit_viewer(&ask).await,
        Err(Denied::Because("members only".into()))
    );
    let body = server.sent().remove(1).json();
    assert_eq!(
        (&body["action"], &body["protocol"]),
        (&json!("watch"), &json!("hls"))
    );
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_slow_or_dead_or_lies_lets_nobody_in_within_the_deadline() {
    const DEADLINE: Duration = Duration::from_millis(300);
    let trap = HookServer::start(allow()).await;
    let dead = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let redirect = |to: &str| {
        let head = format!(
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"
        );
        Does::Says(head.into_bytes())
    };
    let head = |more: &str| {
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{more}").into_bytes()
    };
    let yes = r#"{"decision": "allow"}"#;
    let lies: Vec<(&str, Does)> = vec![
        ("slow", Does::Hangs),
        ("closes", Does::Closes),
        (
            "half an answer",
            Does::Says(head("content-length: 21\r\n\r\n{\"decision")),
        ),
        (
            "an endless body",
            Does::Floods(head("\r\n"), vec![b' '; 4_096]),
        ),
        (
            "an endless chunk",
            Does::Floods(
                head("transfer-encoding: chunked\r\n\r\nfffffff\r\n"),
                vec![b' '; 4_096],
            ),
        ),
        (
            "one byte now and then",
            Does::Floods(
                head("transfer-encoding: chunked\r\n\r\n"),
                b"1\r\n \r\n".to_vec(),
            ),
        ),
        (
            "an endless head",
            Does::Floods(head(""), b"x-more: of the same\r\n".to_vec()),
        ),
        (
            "1xx and no end",
            Does::Floods(Vec::new(), b"HTTP/1.1 102 Processing\r\n\r\n".to_vec()),
        ),
        (
            "another type",
            Does::Says(response("200 OK", "text/html", yes)),
        ),
        (
            "no type",
            Does::Says(format!("HTTP/1.1 200 OK\r\ncontent-length: 21\r\n\r\n{yes}").into_bytes()),
        ),
        (
            "another status",
            Does::Says(response("201 Created", "application/json", yes)),
        ),
        (
            "an error that allows",
            Does::Says(response("500 No", "application/json", yes)),
        ),
        ("garbage", says("\u{0}\u{1}{{{{")),
        (
            "garbage that is no HTTP",
            Does::Says(b"SSH-2.0-x\r\n\r\n".to_vec()),
        ),
        (
            "huge JSON",
            says(&format!(
                "{{\"decision\": \"allow\"{}}}",
                " ".repeat(1 << 20)
            )),
        ),
        ("deep JSON", says(&"[".repeat(10_000))),
        (
            "another key",
            says(r#"{"decision": "allow", "strem": "x"}"#),
        ),
        (
            "compressed",
            Does::Says(head(
                "content-encoding: gzip\r\ncontent-length: 3\r\n\r\n\x1f\u{8b}",
            )),
        ),
        (
            "to the metadata",
            redirect("http://169.254.169.254/latest/meta-data/"),
        ),
        ("to a trap", redirect(&format!("http://{}/", trap.address))),
        (
            "to another tenant's stream",
            says(r#"{"decision": "allow", "stream": "other"}"#),
        ),
    ];
    // Each with a webhook of its own, so that no circuit opens, and with one that lets in when it fails.
    for (what, does) in lies {
        let server = HookServer::start(does).await;
        let deadline = json!({"deadline_ms": 300});
        let closed = bench(&[server.hook("demo", deadline.clone())], &["other"]).await;
        let began = Instant::now();
        assert_eq!(
            publishes(&closed, "demo").await.unwrap_err(),
            UNANSWERED,
            "{what}"
        );
        let took = began.elapsed();
        assert!(took < DEADLINE + AT_ONCE, "{what}: {took:?}");
        assert_eq!(server.sent().len(), 1, "{what}: it is asked once");
        closed.end().await;
        let open = json!({"deadline_ms": 300, "on_failure": "allow"});
        let open = bench(&[server.hook("demo", open)], &["other"]).await;
        let allowed = publishes(&open, "demo").await;
        let allowed = allowed.map(without_credential);
        assert_eq!(allowed, Ok(Admission::of(stream())), "{what}");
        open.end().await;
    }
    let server = HookServer::start(allow()).await;
    let nobody = json!({"url": format!("http://{dead}/")});
    let bench = bench(&[server.hook("*", nobody)], &[]).await;
    assert_eq!(publishes(&bench, "demo").await.unwrap_err(), UNANSWERED);
    assert_eq!(trap.connections(), 0, "nobody followed a redirect");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_leads_into_this_machine_is_not_even_connected_to() {
    let server = HookServer::start(allow()).await;
    let port = server.address.port();
    let by_name =
        json!({"url": format!("http://localhost:{port}/"), "allow_networks": ["10.0.0.0/8"]});
    let refused = bench(&[server.hook("*", by_name)], &[]).await;
    assert_eq!(publishes(&refused, "demo").await.unwrap_err(), UNANSWERED);
    assert_eq!(server.connections(), 0);
    refused.end().await;
    // The same with the network named: so it was the guard.
    let named = json!({"url": format!("http://localhost:{port}/")});
    let bench = bench(&[server.hook("*", named)], &[]).await;
    assert!(publishes(&bench, "demo").await.is_ok());
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_a_server_hangs_the_sessions_of_others_notice_nothing() {
    const MANY: usize = 50;
    let slow = HookServer::start(Does::Hangs).await;
    let quick = HookServer::start(allow()).await;
    let hooks = [
        slow.hook("slow", json!({"deadline_ms": 4_000, "max_concurrent": 8})),
        quick.hook("quick", json!({})),
    ];
    let bench = Arc::new(bench(&hooks, &["slow", "quick"]).await);
    let (_source, link) = bench.on_air(3).await;
    // Eight wait for it, and the others are told at once: nobody queues.
    let question = publisher(&bench, "slow");
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..MANY {
        let (edge, mut question) = (bench.edge.clone(), question.clone());
        // Of one address it would have but one.
        question.peer = format!("192.0.2.{n}");
        waiting.spawn(async move {
            let began = Instant::now();
            assert!(edge.admit(&question).await.is_err());
            began.elapsed()
        });
    }
    for _ in 0..MANY - 8 {
        let took = waiting.join_next().await.unwrap().unwrap();
        assert!(took < 4 * AT_ONCE, "told at once that it is full: {took:?}");
    }
    bench
        .wait_for("the server has its eight", |_| slow.sent().len() == 8)
        .await;
    // Viewers have places of their own at the same server, and it hangs for them too.
    let ask = Ask {
        on: On::Watch,
        stream: "slow".parse().unwrap(),
        protocol: None,
        address: None,
        token: None,
    };
    let (edge, viewer) = (bench.edge.clone(), ask.clone());
    let viewer = tokio::spawn(async move { edge.admit_viewer(&viewer).await });
    bench
        .wait_for("the viewer's question is there", |_| slow.sent().len() == 9)
        .await;
    let (other, quickly) = (publisher(&bench, "demo"), publisher(&bench, "quick"));
    let mut longest = Duration::ZERO;
    let mut timed = |began: Instant| longest = longest.max(began.elapsed());
    for _ in 0..100 {
        let began = Instant::now();
        bench.edge.admit(&other).await.unwrap();
        timed(began);
        let began = Instant::now();
        bench.edge.admit(&quickly).await.unwrap();
        timed(began);
        let began = Instant::now();
        bench.text(&playlist(&id().to_string(), "")).await;
        timed(began);
    }
    assert_eq!(waiting.len(), 8, "they wait all the while");
    assert!(!viewer.is_finished());
    println!("while 9 questions hung, 300 others took {longest:?} at the most");
    assert!(longest < AT_ONCE, "{longest:?}");
    // Whoever goes away gives its place back.
    waiting.shutdown().await;
    slow.now(allow());
    assert!(publishes(&bench, "slow").await.is_ok());
    drop(link);
    viewer.abort();
    let _ = viewer.await;
    Arc::into_inner(bench).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fails_time_and_again_is_left_alone_and_asked_again_later() {
    let server = HookServer::start(Does::Closes).await;
    let bench = bench(&[server.hook("*", json!({}))], &[]).await;
    for _ in 0..FAILURES + 10 {
        assert_eq!(publishes(&bench, "demo").await.unwrap_err(), UNANSWERED);
    }
    assert_eq!(server.sent().len(), FAILURES as usize);
    server.now(allow());
    let began = Instant::now();
    while publishes(&bench, "demo").await.is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "never asked again"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(server.sent().len(), FAILURES as usize + 1, "one looked");
    bench.end().await;
}

/// What the table says could not be told.
async fn dead(bench: &Bench) -> Vec<DeadRow> {
    let rows = (bench.edge.database()).with(|database| database.read(&sql::dead(i64::MAX)));
    rows.await.unwrap()
}

fn types(sent: &[Sent]) -> Vec<String> {
    let kind = |sent: &Sent| sent.json()["type"].as_str().unwrap().to_owned();
    sent.iter().map(kind).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_told_once_signed_and_after_a_restart_not_again() {
    let server = HookServer::start(Does::Says(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())).await;
    let events = server.hook("demo", json!({"on": ["events"]}));
    let bench = bench(std::slice::from_ref(&events), &[]).await;
    let (mut source, link) = bench.on_air(2).await;
    bench
        .wait_for("it is told that the broadcast is live", |_| {
            !server.sent().is_empty()
        })
        .await;
    for viewer in ["viewer-one", "viewer-two"] {
        let beacon = crate::audience::Beacon {
            viewer: viewer.to_owned(),
            left: false,
            session: None,
        };
        bench.edge.beacon(&stream(), &beacon);
    }
    bench
        .wait_for("the peak is told", |_| server.sent().len() == 2)
        .await;
    let closed = source.close();
    bench.send(&link, &[closed]).await;
    bench
        .wait_for("the end is told", |_| server.sent().len() == 3)
        .await;
    let sent = server.sent();
    assert_eq!(
        types(&sent),
        ["broadcast.live", "viewers.peak", "broadcast.ended"]
    );
    assert_eq!(sent[1].json()["viewers"], 2);
    assert_eq!(sent[2].json()["peak_viewers"], 2);
    assert_eq!(sent[2].json()["reason"], "unpublished");
    for sent in &sent {
        assert_eq!(sent.json()["broadcast"], id().to_string());
        assert_eq!(sent.json()["id"], sent.header("x-ghost-live-id"));
        let signed = [
            sent.header("x-ghost-live-timestamp").as_bytes(),
            b".",
            &sent.body,
        ]
        .concat();
        let expected = format!("sha256={}", hmac_sha256(HOOK_SECRET.as_bytes(), &signed));
        assert_eq!(sent.header("x-ghost-live-signature"), expected);
    }
    // An event is no question: whoever publishes is not held up by it.
    assert!(publishes(&bench, "demo").await.is_ok());
    assert_eq!(server.sent().len(), 3);
    drop(link);
    let (folder, store) = bench.end().await;
    let hooks = Hooks::new([(
        serde_json::from_value(events).unwrap(),
        Secret::new(HOOK_SECRET),
    )]);
    let hooks = hooks.unwrap();
    let bench = Bench::with(folder, store, None, |config| config.webhooks = hooks).await;
    assert!(bench.edge.current(&stream()).is_some(), "it is still known");
    // Longer than it takes to notice and to send: twice what the edge takes between two looks.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        assert_eq!(server.sent().len(), 3, "told again after a restart");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn viewers_are_asked_about_where_playing_begins_and_not_again() {
    let server =
        HookServer::start(says(r#"{"decision": "deny", "reason": "Members only."}"#)).await;
    let hook = server.hook("demo", json!({"on": ["watch"]}));
    let bench = bench(&[hook], &["demo", "other"]).await;
    let (_source, _link) = bench.on_air(3).await;
    for (file, protocol) in [("index.m3u8", "hls"), ("manifest.mpd", "dash")] {
        let denied = bench.get(&format!("/live/demo/{file}")).await;
        assert_eq!(denied.status(), 403);
        let text = denied.text().await.unwrap();
        assert!(text.contains("Members only."), "{text}");
        let asked = server.sent().pop().unwrap().json();
        assert_eq!(
            (
                &asked["action"],
                &asked["protocol"],
                &asked["address"],
                &asked["stream"]
            ),
            (
                &json!("watch"),
                &json!(protocol),
                &json!("127.0.0.1"),
                &json!("demo")
            )
        );
    }
    // Nobody gets around being asked about by guessing everybody's address.
    assert_eq!(bench.get(&playlist(id().as_str(), "")).await.status(), 401);

    server.now(says(r#"{"decision": "allow", "lifetime_s": 2}"#));
    let text = bench.text("/live/demo/index.m3u8").await;
    let line = text.lines().find(|line| !line.starts_with('#')).unwrap();
    let playlist = format!("/live/demo/{line}");
    let before = server.sent().len();
    bench.text(&playlist).await;
    assert_eq!(server.sent().len(), before, "asked once a session");
    let deadline = Instant::now() + Duration::from_secs(5);
    while bench.get(&playlist).await.status() == 200 {
        assert!(Instant::now() < deadline, "its lifetime does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bench.get(&playlist).await.status(), 401);

    // A server that hangs keeps new viewers of its own stream waiting, and nobody who plays.
    server.now(says(r#"{"decision": "allow"}"#));
    let text = bench.text("/live/demo/index.m3u8").await;
    let line = text
        .lines()
        .find(|line| !line.starts_with('#'))
        .unwrap()
        .to_owned();
    server.now(Does::Hangs);
    let url = bench.url("/live/demo/index.m3u8");
    let waits = tokio::spawn(async move { reqwest::get(url).await.unwrap().status() });
    let began = Instant::now();
    bench.text(&format!("/live/demo/{line}")).await;
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    assert_eq!(waits.await.unwrap(), 403, "closed when it does not answer");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_arrive_is_sent_again_and_a_dead_letter_survives_until_it_is_resent() {
    let server = HookServer::start(says("{}")).await;
    server.now(Does::Says(response("503 No", "text/plain", "")));
    let hung = HookServer::start(Does::Hangs).await;
    let hooks = [
        server.hook("demo", json!({"on": ["events"], "name": "first"})),
        hung.hook("demo", json!({"on": ["events"], "name": "hung"})),
    ];
    let bench = bench(&hooks, &[]).await;
    let (_source, link) = bench.on_air(2).await;
    // Again by itself, with the same id and another signature.
    let began = Instant::now();
    loop {
        let due = sql::due("first", i64::MAX);
        let rows = (bench.edge.database()).with(move |database| database.read(&due));
        let rows: Vec<sql::DueRow> = rows.await.unwrap();
        // Written down, too: so that nothing is under way any more.
        if rows.first().is_some_and(|row| row.attempts == 2.0) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{rows:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let sent = server.sent();
    let of = |name: &str| {
        (
            sent[0].header(name) == sent[1].header(name),
            name.to_owned(),
        )
    };
    assert!(of("x-ghost-live-id").0 && !of("x-ghost-live-signature").0);
    // As if it had failed for an hour.
    let event = format!("{}.live", id());
    let gives_up = sql::failed(&event, "first", "it answered with status 503", None);
    let done = (bench.edge.database()).with(move |database| database.execute(&[gives_up]));
    done.await.unwrap();
    drop(link);
    let (folder, store) = bench.end().await;

    let hooks = hooks.map(|hook| {
        let hook = serde_json::from_value(hook).unwrap();
        (hook, Secret::new(HOOK_SECRET))
    });
    let hooks = Hooks::new(hooks).unwrap();
    let bench = Bench::with(folder, store, None, |config| config.webhooks = hooks).await;
    let dead_letters = dead(&bench).await;
    assert_eq!(dead_letters.len(), 1, "{dead_letters:?}");
    assert_eq!(dead_letters[0].id, event);
    assert_eq!(
        dead_letters[0].error.as_deref(),
        Some("it answered with status 503")
    );
    // By another process, as `ghost-live webhooks resend` does it.
    server.now(Does::Says(
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(),
    ));
    let before = server.sent().len();
    let mut other = Database::open(&bench.folder.path().join("edge")).unwrap();
    let resend = sql::resend(Some("first"), None, wall_unix_ms());
    assert_eq!(other.execute(&[resend]).unwrap(), 1);
    bench
        .wait_for("it is sent again", |_| server.sent().len() == before + 1)
        .await;
    assert!(dead(&bench).await.is_empty());
    assert!(hung.connections() > 0, "the one that hangs held nobody up");
    bench.end().await;
}

#[test]
fn what_waits_is_bounded_and_so_are_dead_letters() {
    let folder = tempfile::tempdir().unwrap();
    let mut database = Database::open(folder.path()).unwrap();
    let event = |number: u64| Event {
        stream: stream(),
        broadcast: id(),
        since_unix_ms: 0,
        time_unix_ms: 0,
        what: What::Peak { viewers: number },
    };
    let too_many = u64::try_from(sql::MAX_WAITING).unwrap() + 5;
    let all: Vec<_> = (0..too_many)
        .map(|n| sql::keep(&event(n), "a", 1_000))
        .collect();
    database.execute(&all).unwrap();
    let others = sql::keep(&event(0), "b", 1_000);
    // One that is there is not kept a second time.
    assert_eq!(database.execute(std::slice::from_ref(&others)).unwrap(), 1);
    assert_eq!(database.execute(&[others]).unwrap(), 0);
    let dead: Vec<DeadRow> = database.read(&sql::dead(i64::MAX)).unwrap();
    assert_eq!(dead.len(), 5);
    assert!(dead.iter().all(|row| row.webhook == "a"));
    assert_eq!(
        dead[0].error.as_deref(),
        Some("too many events wait for this webhook")
    );
    let next = |database: &Database, webhook: &str, now| -> Option<sql::DueRow> {
        database.read(&sql::due(webhook, now)).unwrap().pop()
    };
    assert!(next(&database, "a", 999).is_none());
    let first = next(&database, "a", 1_000).unwrap();
    let later = sql::failed(&first.id, "a", "no", Some(5_000));
    database.execute(&[later]).unwrap();
    assert_ne!(next(&database, "a", 1_000).unwrap().id, first.id);
    // What is resent has its time anew, and nothing else is touched.
    let resend = sql::resend(None, Some(&dead[0].id), 2_000);
    assert_eq!(database.execute(&[resend]).unwrap(), 1);
    let delivered = sql::delivered(&dead[0].id, "a", 3_000);
    database.execute(&[delivered]).unwrap();
    let month = 30 * 24 * 3_600 * 1_000;
    database.execute(&sql::sweep(3_000 + month)).unwrap();
    assert_eq!(
        database
            .read::<DeadRow>(&sql::dead(i64::MAX))
            .unwrap()
            .len(),
        4
    );
    let again = sql::keep(&event(too_many - 5), "a", 4_000);
    database.execute(&[again]).unwrap();
    database.execute(&sql::sweep(3_000 + 5 * month)).unwrap();
    assert!(
        database
            .read::<DeadRow>(&sql::dead(i64::MAX))
            .unwrap()
            .is_empty()
    );
    assert!(next(&database, "a", i64::MAX).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_is_sent_to_another_stream_of_the_same_webhook_with_a_session_for_it() {
    let says_other = r#"{"decision": "allow", "stream": "other"}"#;
    let server = HookServer::start(says(says_other)).await;
    let hook = server.hook("*", json!({"on": ["watch"]}));
    let bench = bench(&[hook], &["demo", "other"]).await;
    let (_source, _link) = bench.on_air(3).await;
    let client = reqwest::Client::builder();
    let client = client
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    for file in ["index.m3u8", "manifest.mpd"] {
        let sent = client
            .get(bench.url(&format!("/live/demo/{file}")))
            .send()
            .await
            .unwrap();
        assert_eq!(sent.status(), 307);
        assert_eq!(cache_control(&sent), "no-store");
        let location = sent.headers()["location"].to_str().unwrap();
        let (path, session) = location.split_once("?session=").unwrap();
        assert_eq!(path, format!("../other/{file}"));
        // It is a session for that stream, where nothing is live, and for no other.
        let there = format!("/live/other/{file}?session={session}");
        assert_eq!(bench.get(&there).await.status(), 404);
        let here = format!("/live/demo/{file}?session={session}");
        assert_eq!(bench.get(&here).await.status(), 401);
    }
    // An offer is sent there with its session, which goes before the token that is for this stream.
    let sent = client
        .post(bench.url("/whep/demo"))
        .header("content-type", "application/sdp")
        .body("v=0\r\na=ice-ufrag:hers\r\n")
        .send()
        .await
        .unwrap();
    assert_eq!(sent.status(), 307);
    let location = sent.headers()["location"].to_str().unwrap();
    assert!(location.starts_with("other?session="), "{location}");
    let there = client
        .post(bench.url(&format!("/whep/{location}")))
        .bearer_auth("a token of demo")
        .header("content-type", "application/sdp")
        .body("v=0\r\na=ice-ufrag:hers\r\n");
    assert_eq!(there.send().await.unwrap().status(), 404, "nothing is live");
    bench.end().await;
}

fn beacon(viewer: usize) -> crate::audience::Beacon {
    crate::audience::Beacon {
        viewer: format!("viewer-{viewer}"),
        left: false,
        session: None,
    }
}

/// A server that takes every event.
async fn takes_all() -> HookServer {
    HookServer::start(Does::Says(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())).await
}

fn configured(hook: &Value) -> Hooks {
    let hook = serde_json::from_value(hook.clone()).unwrap();
    Hooks::new([(hook, Secret::new(HOOK_SECRET))]).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peak_is_of_the_whole_broadcast_whatever_restarts_meanwhile() {
    let server = takes_all().await;
    let hook = server.hook("demo", json!({"on": ["events"]}));
    let bench = bench(std::slice::from_ref(&hook), &[]).await;
    let (mut source, link) = bench.on_air(2).await;
    for viewer in 0..3 {
        bench.edge.beacon(&stream(), &beacon(viewer));
    }
    bench
        .wait_for("the peak is told", |_| server.sent().len() == 2)
        .await;
    // Without another segment, and without an orderly end: a crash forgets nothing that was told.
    let snapshot = bench.edge.config().snapshot_path(&id());
    let stored =
        || -> Value { serde_json::from_slice(&std::fs::read(&snapshot).unwrap()).unwrap() };
    bench
        .wait_for("the peak is stored", |_| stored()["told"]["told_peak"] == 3)
        .await;
    // Told at the end, for the minute since the last peak is not over.
    for viewer in 3..5 {
        bench.edge.beacon(&stream(), &beacon(viewer));
    }
    drop(link);
    let (folder, store) = bench.end().await;
    let hooks = configured(&hook);
    let bench = Bench::with(folder, store, None, |config| config.webhooks = hooks).await;
    bench.edge.beacon(&stream(), &beacon(0));
    let mut link = bench.edge.connect(id());
    let welcome = link.from_edge.recv().await;
    assert_eq!(welcome, Some(ToCore::Welcome { seq: source.seq }));
    bench.send(&link, &[source.close()]).await;
    bench
        .wait_for("the end is told", |_| server.sent().len() == 4)
        .await;
    let sent = server.sent();
    assert_eq!(
        types(&sent),
        [
            "broadcast.live",
            "viewers.peak",
            "viewers.peak",
            "broadcast.ended"
        ]
    );
    assert_eq!(sent[2].json()["viewers"], 5);
    assert_eq!(sent[3].json()["peak_viewers"], 5);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_deleted_stream_is_told_too() {
    let server = takes_all().await;
    let hook = server.hook("demo", json!({"on": ["events"]}));
    let bench = bench(&[hook], &[]).await;
    let (_source, _link) = bench.on_air(2).await;
    bench
        .wait_for("it is live", |_| server.sent().len() == 1)
        .await;
    bench.edge.delete_stream(&stream()).await.unwrap();
    bench
        .wait_for("its end is told", |_| server.sent().len() == 2)
        .await;
    assert_eq!(server.sent()[1].json()["reason"], "stopped");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_lists_and_resends_dead_letters_and_nobody_else_does() {
    let server = HookServer::start(Does::Says(response("410 Gone", "text/plain", ""))).await;
    let hook = server.hook(
        "demo",
        json!({"on": ["events"], "name": "members", "attempts": 2, "retry_ms": 100}),
    );
    let bench = bench(&[hook], &[]).await;
    let keyring = load_keyring(&bench.folder.path().join("edge")).unwrap();
    let access = crate::access::Access::new(INSTALLATION, keyring, &[]).unwrap();
    let token = |wanted: Value| {
        let wanted = serde_json::from_value(wanted).unwrap();
        let minted =
            access.mint_as_owner(&wanted, &Revocations::default(), [9; 12], wall_unix_ms());
        minted.unwrap().token
    };
    let admin = token(json!({"stream": "*", "act": "manage", "for_s": 600}));
    let client = reqwest::Client::new();
    let ask = async |method: Method, path: &str, bearer: Option<&str>, body: Option<&str>| {
        let mut request = client.request(method, bench.url(path));
        if let Some(token) = bearer {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.body(body.to_owned());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        assert_eq!(cache_control(&answer), "no-store");
        (status, answer.json::<Value>().await.unwrap())
    };
    const DEAD: &str = "/api/webhooks/dead";
    const RESEND: &str = "/api/webhooks/dead/resend";
    let (status, none) = ask(Method::GET, DEAD, Some(&admin), None).await;
    assert_eq!((status, none), (200, json!({"dead": [], "more": false})));

    let (_source, _link) = bench.on_air(2).await;
    let began = Instant::now();
    let list = loop {
        let (_, list) = ask(Method::GET, DEAD, Some(&admin), None).await;
        if list["dead"] != json!([]) {
            break list;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "no dead letter");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let event = format!("{}.live", id());
    let created = list["dead"][0]["created"].clone();
    assert_eq!(
        list,
        json!({"dead": [{"id": event, "webhook": "members", "stream": "demo", "created": created, "attempts": 2,
            "error": "it answered with status 410, and only 2xx takes an event"}], "more": false})
    );
    assert_eq!(server.sent().len(), 2);

    // Neither somebody who manages streams, nor the studio, nor a stranger.
    let some = token(json!({"stream": "d*", "act": "manage", "for_s": 600}));
    let one = token(json!({"stream": "demo", "act": "manage", "for_s": 600}));
    let watcher = token(json!({"stream": "*", "act": "watch", "for_s": 600}));
    let studio = bench.entry().studio_secret;
    let again = format!("{DEAD}/{event}/resend");
    for (bearer, status) in [
        (None, 401),
        (Some(&studio), 401),
        (Some(&some), 403),
        (Some(&one), 403),
        (Some(&watcher), 403),
    ] {
        let bearer = bearer.map(String::as_str);
        assert_eq!(
            ask(Method::GET, DEAD, bearer, None).await.0,
            status,
            "{bearer:?}"
        );
        for path in [RESEND, &again] {
            assert_eq!(
                ask(Method::POST, path, bearer, None).await.0,
                status,
                "{bearer:?}"
            );
        }
    }
    assert_eq!(server.sent().len(), 2, "nothing was resent");

    let admin = Some(admin.as_str());
    let none = format!("{DEAD}/{}.ended/resend", id());
    for (path, body, status) in [
        (none.as_str(), None, 404),
        (again.as_str(), Some(r#"{"webhook": "others"}"#), 404),
        (again.as_str(), Some(r#"{"hook": "members"}"#), 400),
        (RESEND, Some("["), 400),
    ] {
        assert_eq!(
            ask(Method::POST, path, admin, body).await.0,
            status,
            "{path} {body:?}"
        );
    }
    let (status, resent) = ask(
        Method::POST,
        RESEND,
        admin,
        Some(r#"{"webhook": "others"}"#),
    )
    .await;
    assert_eq!((status, resent), (200, json!({"resent": 0})));
    server.now(Does::Says(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()));
    let (status, resent) = ask(
        Method::POST,
        &again,
        admin,
        Some(r#"{"webhook": "members"}"#),
    )
    .await;
    assert_eq!((status, resent), (200, json!({"resent": 1})));
    bench
        .wait_for("it is sent again", |_| server.sent().len() == 3)
        .await;
    let (_, list) = ask(Method::GET, DEAD, admin, None).await;
    assert_eq!(list["dead"], json!([]));
    assert_eq!(ask(Method::POST, &again, admin, None).await.0, 404);
    bench.end().await;
}
