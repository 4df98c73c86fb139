//! The edge over HTTP and WebSocket: both sides prove the secret, and nothing of an impostor is believed.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        Path, State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use ghost_live_media_core::{
    edge::{Edge, EdgeError},
    publish::{RemoteEdge, Store, publisher::start, store},
};
use protocol::{
    internal::{Admission, Admit, Open, OpenAnswer},
    link::{CloseReason, Numbered, ToCore, ToEdge},
    link_auth::{LinkSecret, REQUEST_HEADER, RESPONSE_HEADER},
    names::BroadcastId,
    object_key::{ObjectKey, ObjectKind},
};

use crate::{announcement, broadcast, name, options};

const SECRET: &str = "a secret of thirty-two characters";

#[derive(Default)]
struct Server {
    /// Whether it proves a secret of its own, as an impostor would.
    impostor: AtomicBool,
    objects: Mutex<std::collections::BTreeMap<String, (Bytes, HeaderMap)>>,
    messages: Mutex<Vec<Numbered>>,
    stored: AtomicU64,
    /// Cuts each link after so many messages; 0 never.
    cut_after: AtomicU64,
}

impl Server {
    /// The answer's proof, or the refusal.
    fn prove(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<HeaderMap, StatusCode> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let header = headers
            .get(REQUEST_HEADER)
            .and_then(|value| value.to_str().ok());
        let real = LinkSecret::new(SECRET);
        let checked = real.answer(method.as_str(), uri.path(), header, now.as_secs() as i64);
        let answer = match self.impostor.load(Relaxed) {
            // It does not know the secret and so can neither check a proof nor give one.
            true => "00".repeat(32),
            false => checked.map_err(|_| StatusCode::UNAUTHORIZED)?,
        };
        Ok(HeaderMap::from_iter([(
            RESPONSE_HEADER.parse().unwrap(),
            answer.parse().unwrap(),
        )]))
    }
}

type Shared = State<Arc<Server>>;

async fn admit(
    State(server): Shared,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Json(question): Json<Admit>,
) -> Response {
    let proof = match server.prove(&method, &uri, &headers) {
        Ok(proof) => proof,
        Err(refusal) => return refusal.into_response(),
    };
    match question.key.as_str() {
        "good" => (proof, Json(Admission::of("demo".parse().unwrap()))).into_response(),
        _ => (
            StatusCode::FORBIDDEN,
            proof,
            Json(serde_json::json!({"title": "Refused", "detail": "this key was revoked"})),
        )
            .into_response(),
    }
}

async fn open(
    State(server): Shared,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Json(_): Json<Open>,
) -> Response {
    match server.prove(&method, &uri, &headers) {
        Ok(proof) => (proof, Json(OpenAnswer { resume: None })).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn put_media(
    State(server): Shared,
    Path(key): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let proof = match server.prove(&method, &uri, &headers) {
        Ok(proof) => proof,
        Err(refusal) => return refusal.into_response(),
    };
    server.objects.lock().unwrap().insert(key, (body, headers));
    (StatusCode::CREATED, proof).into_response()
}

async fn delete_media(
    State(server): Shared,
    Path(key): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let proof = match server.prove(&method, &uri, &headers) {
        Ok(proof) => proof,
        Err(refusal) => return refusal.into_response(),
    };
    server.objects.lock().unwrap().remove(&key);
    (StatusCode::NO_CONTENT, proof).into_response()
}

async fn link(
    State(server): Shared,
    Path(_): Path<BroadcastId>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let proof = match server.prove(&method, &uri, &headers) {
        Ok(proof) => proof,
        Err(refusal) => return refusal.into_response(),
    };
    let mut response = upgrade.on_upgrade(move |socket| serve(server, socket));
    response.headers_mut().extend(proof);
    response
}

async fn serve(server: Arc<Server>, mut socket: WebSocket) {
    let text = |message: &ToCore| Message::text(serde_json::to_string(message).unwrap());
    let welcome = ToCore::Welcome {
        seq: server.stored.load(Relaxed),
    };
    if socket.send(text(&welcome)).await.is_err() {
        return;
    }
    let mut seen = 0;
    while let Some(Ok(frame)) = socket.recv().await {
        let Message::Text(json) = frame else {
            continue;
        };
        let message: Numbered = serde_json::from_str(&json).unwrap();
        if message.seq == 0 {
            continue;
        }
        let seq = message.seq;
        let store = matches!(message.message, ToEdge::Segment(_) | ToEdge::Closed { .. });
        {
            let mut messages = server.messages.lock().unwrap();
            if seq > messages.last().map_or(0, |last| last.seq) {
                if let ToEdge::Part(part) = &message.message {
                    let objects = server.objects.lock().unwrap();
                    assert!(objects.contains_key(&part.key.to_string()), "not readable");
                }
                messages.push(message);
            }
        }
        if store {
            server.stored.fetch_max(seq, Relaxed);
        }
        seen += 1;
        let cut = server.cut_after.load(Relaxed);
        if cut > 0 && seen >= cut {
            // Also between what is stored and its acknowledgement.
            return;
        }
        if store && socket.send(text(&ToCore::Ack { seq })).await.is_err() {
            return;
        }
    }
}

async fn serve_edge() -> (Arc<Server>, String) {
    let server = Arc::new(Server::default());
    let app = Router::new()
        .route("/internal/admit", post(admit))
        .route("/internal/broadcasts", post(open))
        .route("/internal/link/{broadcast}", get(link))
        .route(
            "/internal/media/{*key}",
            put(put_media).delete(delete_media),
        )
        .with_state(Arc::clone(&server));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's runtime.
    tokio::spawn(async move { axum::serve(listener, app).await });
    (server, format!("http://{address}"))
}

fn question(key: &str) -> Admit {
    Admit {
        key: key.into(),
        stream: None,
        peer: "192.0.2.1:40000".into(),
        ..Admit::default()
    }
}

pub fn key() -> ObjectKey {
    ObjectKey {
        stream: "demo".parse().unwrap(),
        broadcast: broadcast(),
        track: name("v-source"),
        kind: ObjectKind::Part { msn: 1, part: 2 },
        tag: protocol::names::Tag::from_random([3; 12]),
    }
}

#[tokio::test]
async fn questions_are_answered_and_a_refusal_carries_the_sentence_for_the_encoder() {
    let (_, address) = serve_edge().await;
    let edge = RemoteEdge::new(&address, LinkSecret::new(SECRET)).unwrap();
    let admission = edge.admit(question("good")).await.unwrap();
    assert_eq!(admission.stream.as_str(), "demo");
    match edge.admit(question("bad")).await {
        Err(EdgeError::Refused(text)) => assert_eq!(text, "this key was revoked"),
        other => panic!("{other:?}"),
    }
    let open = Open {
        stream: "demo".parse().unwrap(),
        broadcast: broadcast(),
    };
    assert!(edge.open(open).await.unwrap().resume.is_none());
}

#[tokio::test]
async fn another_secret_is_refused_and_an_impostor_is_not_believed() {
    let (server, address) = serve_edge().await;
    let stranger = RemoteEdge::new(&address, LinkSecret::new("another secret")).unwrap();
    for result in [
        stranger.admit(question("good")).await.map(drop),
        stranger.connect(broadcast()).await.map(drop),
    ] {
        match result {
            Err(EdgeError::Unreachable(text)) => assert!(text.contains("link secret"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    server.impostor.store(true, Relaxed);
    let edge = RemoteEdge::new(&address, LinkSecret::new(SECRET)).unwrap();
    for result in [
        edge.admit(question("good")).await.map(drop),
        // Also its refusals are not: an impostor must not be able to lock publishers out with a reason of its own.
        edge.admit(question("bad")).await.map(drop),
        edge.connect(broadcast()).await.map(drop),
    ] {
        assert!(
            matches!(result, Err(EdgeError::Unreachable(_))),
            "{result:?}"
        );
    }
    let config = store::Config {
        kind: store::Kind::Edge,
        ..store::Config::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&config, folder.path(), Some(&edge)).unwrap();
    assert!(store.put(&key(), vec!["x".into()]).await.is_err());
}

#[tokio::test]
async fn objects_go_through_the_edge_with_their_type_and_length() {
    let (server, address) = serve_edge().await;
    let edge = RemoteEdge::new(&address, LinkSecret::new(SECRET)).unwrap();
    let config = store::Config {
        kind: store::Kind::Edge,
        ..store::Config::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&config, folder.path(), Some(&edge)).unwrap();
    store
        .put(&key(), vec!["one ".into(), "and two".into()])
        .await
        .unwrap();
    {
        let objects = server.objects.lock().unwrap();
        let (body, headers) = &objects[&key().to_string()];
        assert_eq!(body, "one and two");
        assert_eq!(headers["content-length"], "11");
        assert_eq!(headers["content-type"], "video/mp4");
        assert_eq!(headers["cache-control"], store::CACHE_CONTROL);
    }
    store.delete(&key()).await.unwrap();
    assert!(server.objects.lock().unwrap().is_empty());
    assert!(Store::open(&config, folder.path(), None).is_err());
}

#[tokio::test]
async fn an_edge_that_is_not_there_is_unreachable_and_nothing_was_written() {
    // A port that was free a moment ago.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let edge = RemoteEdge::new(&format!("ws://{address}"), LinkSecret::new(SECRET)).unwrap();
    let config = store::Config {
        kind: store::Kind::Edge,
        ..store::Config::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&config, folder.path(), Some(&edge)).unwrap();
    let error = store.put(&key(), vec!["x".into()]).await.unwrap_err();
    assert!(error.nothing_written(), "{error}");
    assert!(matches!(
        edge.admit(question("good")).await,
        Err(EdgeError::Unreachable(_))
    ));
    for bad in ["", "edge.example", "ftp://edge.example", "https://"] {
        assert!(
            RemoteEdge::new(bad, LinkSecret::new(SECRET)).is_err(),
            "{bad:?}"
        );
    }
}

#[tokio::test]
async fn a_broadcast_over_a_link_that_is_cut_again_and_again_arrives_whole() {
    let (server, address) = serve_edge().await;
    server.cut_after.store(7, Relaxed);
    let edge = RemoteEdge::new(&address, LinkSecret::new(SECRET)).unwrap();
    let config = store::Config {
        kind: store::Kind::Edge,
        ..store::Config::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let unused = crate::FakeEdge::new(|_| None);
    let mut options = options(
        Store::open(&config, folder.path(), Some(&edge)).unwrap(),
        &unused,
        folder.path(),
    );
    options.edge = Arc::new(edge);
    let (publisher, driver) = start(options);
    let driver = tokio::spawn(driver);
    publisher.track(announcement("v-source", 0)).unwrap();
    for msn in 0..4 {
        for part in 0..crate::PARTS {
            publisher
                .part(crate::chunk("v-source", msn, part, 500))
                .unwrap();
        }
        crate::end_segment(&publisher, "v-source", msn).unwrap();
    }
    publisher
        .close(CloseReason::Unpublished, Duration::from_secs(30))
        .await
        .unwrap();
    driver.abort();
    let messages = server.messages.lock().unwrap();
    let numbers: Vec<u64> = messages.iter().map(|message| message.seq).collect();
    assert_eq!(numbers, (1..=2 + 4 * 5 + 1).collect::<Vec<_>>());
}
