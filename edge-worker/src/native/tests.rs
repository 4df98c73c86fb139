#![allow(clippy::unwrap_used, clippy::expect_used)]
//! The native edge from outside: over real sockets, with a box that speaks for itself.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use object_store::{ObjectStoreExt, memory::InMemory, path::Path};
use protocol::{
    internal::{Admission, Open, OpenAnswer},
    link::{Numbered, ToCore, ToEdge},
    link_auth::{LinkSecret, REQUEST_HEADER, RESPONSE_HEADER},
    names::{BroadcastId, StreamName, Tag},
    object_key::{ObjectKey, ObjectKind},
};
use reqwest::{Method, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest};
use tokio_util::sync::CancellationToken;

use super::{text::Coding, *};
use crate::{
    directory::settings::Change,
    live::{Directives, Head, source::Source},
    playlist::lint,
    routes::{Session, TrackAddress},
};

mod guards;
mod matrix;
mod webhooks;
mod whep;

const SECRET: &str = "a link secret of more than 32 characters";

struct Bench {
    edge: Edge,
    store: Arc<InMemory>,
    address: SocketAddr,
    folder: tempfile::TempDir,
    shutdown: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

fn assets() -> Assets {
    Arc::new(|path| match path {
        "index.html" | "watch.html" | "embed.html" | "studio.html" => Some(Bytes::from(format!(
            "<!doctype html><title>{path}</title>{}",
            "<p>page</p>".repeat(100)
        ))),
        "assets/player-abc.js" => Some(Bytes::from_static(b"export {};")),
        _ => None,
    })
}

fn config(folder: &std::path::Path) -> Config {
    Config {
        data: folder.join("edge"),
        link_secret: Some(SECRET.to_owned()),
        servers: vec![Server {
            url: "rtmp://127.0.0.1/live".into(),
            note: "this machine".into(),
        }],
        header_timeout_s: 1,
        ..Config::default()
    }
}

fn stream() -> StreamName {
    "demo".parse().unwrap()
}

impl Bench {
    async fn start() -> Self {
        Self::on(
            tempfile::tempdir().unwrap(),
            Arc::new(InMemory::new()),
            None,
        )
        .await
    }

    async fn on(folder: tempfile::TempDir, store: Arc<InMemory>, tls: Option<Tls>) -> Self {
        Self::with(folder, store, tls, |_| {}).await
    }

    async fn with(
        folder: tempfile::TempDir,
        store: Arc<InMemory>,
        tls: Option<Tls>,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = config(folder.path());
        change(&mut config);
        let edge = Edge::start(config, store.clone(), assets()).unwrap();
        edge.ensure_stream(&stream(), &Change::default())
            .await
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let (running, ending) = (edge.clone(), shutdown.clone());
        let tasks = vec![
            tokio::spawn(serve(listener, edge.clone(), tls, None, shutdown.clone())),
            tokio::spawn(async move { running.run(ending).await }),
        ];
        Self {
            edge,
            store,
            address,
            folder,
            shutdown,
            tasks,
        }
    }

    /// The stream with its secrets.
    fn entry(&self) -> crate::directory::StreamEntry {
        let stream = self.edge.stream(&stream()).unwrap();
        let database = Database::open(&self.folder.path().join("edge")).unwrap();
        stream.open(database.seal()).unwrap()
    }

    /// Ends the edge as Ctrl-C does.
    async fn end(self) -> (tempfile::TempDir, Arc<InMemory>) {
        self.shutdown.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
        (self.folder, self.store)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn get(&self, path: &str) -> Response {
        reqwest::get(self.url(path)).await.unwrap()
    }

    async fn text(&self, path: &str) -> String {
        let response = self.get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        response.text().await.unwrap()
    }

    /// What a box does: objects first, then the message.
    async fn send(&self, link: &Link, messages: &[Numbered]) {
        for message in messages {
            put_announced(&self.store, &message.message).await;
            link.to_edge.send(message.clone()).await.unwrap();
        }
    }

    async fn wait_for(&self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..500 {
            if done(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}");
    }

    fn seq(&self) -> u64 {
        self.edge
            .current(&stream())
            .map_or(0, |live| live.with(|b| b.seq()))
    }

    async fn applied(&self, seq: u64) {
        self.wait_for("the message is applied", |b| b.seq() >= seq)
            .await;
    }

    /// A link and a broadcast of that many segments.
    async fn on_air(&self, segments: usize) -> (Source, Link) {
        let mut source = Source::new();
        let mut link = self.edge.connect(BroadcastId::from_random([1; 16]));
        assert_eq!(
            link.from_edge.recv().await,
            Some(ToCore::Welcome { seq: 0 })
        );
        self.send(&link, &source.open()).await;
        for _ in 0..segments {
            let messages = source.segment(6, 0, false);
            self.send(&link, &messages).await;
        }
        self.applied(source.seq).await;
        (source, link)
    }
}

/// Every object is its own key, so that a test sees what it got.
async fn put_announced(store: &InMemory, message: &ToEdge) {
    let put = |key: &ObjectKey, body: String| {
        let at = Path::from(key.to_string());
        async move { store.put(&at, body.into()).await.unwrap() }
    };
    match message {
        ToEdge::Track(track) => {
            put(&track.init, track.init.to_string()).await;
        }
        ToEdge::Part(part) => {
            put(&part.key, format!("{}.{};", part.msn, part.part)).await;
        }
        ToEdge::Segment(segment) => {
            if let Some(key) = &segment.key {
                put(key, format!("segment {}", segment.msn)).await;
            }
        }
        _ => {}
    }
}

fn playlist(broadcast: &str, query: &str) -> String {
    format!("/live/demo/{broadcast}/-/v-720p30/index.m3u8{query}")
}

fn id() -> BroadcastId {
    BroadcastId::from_random([1; 16])
}

fn cache_control(response: &Response) -> String {
    response.headers()["cache-control"]
        .to_str()
        .unwrap()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_plays_from_the_multivariant_playlist_down_to_the_bytes() {
    let bench = Bench::start().await;
    assert_eq!(bench.get("/live/demo/index.m3u8").await.status(), 404);
    let (_source, _link) = bench.on_air(4).await;

    let multivariant = bench.text("/live/demo/index.m3u8").await;
    assert_eq!(lint::multivariant(&multivariant), Vec::<String>::new());
    let mut texts = std::collections::BTreeMap::new();
    for line in multivariant.lines() {
        let uri = match line.split_once("URI=\"") {
            Some((_, rest)) => rest.trim_end_matches('"'),
            None if !line.starts_with('#') => line,
            None => continue,
        };
        let text = bench.text(&format!("/live/demo/{uri}")).await;
        assert_eq!(lint::media(&text), Vec::<String>::new(), "{text}");
        for line in text.lines() {
            let object = match line.split_once("URI=\"") {
                Some((tag, rest)) if tag.contains("MAP") || tag.contains("EXT-X-PART:") => {
                    rest.split('"').next().unwrap()
                }
                None if line.starts_with("/media/") => line,
                _ => continue,
            };
            let response = bench.get(object).await;
            assert_eq!(response.status(), 200, "{object}");
            assert_eq!(
                cache_control(&response),
                "public, max-age=31536000, immutable"
            );
        }
        texts.insert(uri.split('/').nth(2).unwrap().to_owned(), text);
    }
    assert_eq!(texts.len(), 3);
    assert_eq!(lint::renditions(&texts), Vec::<String>::new());
    let mpd = bench.get("/live/demo/manifest.mpd").await;
    assert_eq!(mpd.headers()["content-type"], "application/dash+xml");
    let mpd = mpd.text().await.unwrap();
    assert!(
        mpd.contains(&format!(
            "media=\"{}/-/$RepresentationID$/$Number$.m4s\"",
            id()
        )),
        "{mpd}"
    );
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_request_is_answered_with_the_part_it_waits_for() {
    let bench = Bench::start().await;
    let (mut source, link) = bench.on_air(3).await;
    let broadcast = id().to_string();
    let mut waiting = Vec::new();
    for _ in 0..50 {
        let url = bench.url(&playlist(&broadcast, "?_HLS_msn=3&_HLS_part=0"));
        waiting.push(tokio::spawn(
            async move { reqwest::get(url).await.unwrap() },
        ));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(
        waiting.iter().all(|w| !w.is_finished()),
        "nobody is answered before the part is there"
    );
    let messages = source.segment(6, 0, false);
    bench.send(&link, &messages[..1]).await;
    for one in waiting {
        let response = one.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(cache_control(&response), "public, max-age=24");
        assert!(response.text().await.unwrap().contains("/3.0."));
    }
    // A delta update of the same moment.
    let full = bench.text(&playlist(&broadcast, "")).await;
    let delta = bench.text(&playlist(&broadcast, "?_HLS_skip=YES")).await;
    assert!(full == delta || lint::delta(&full, &delta).is_empty());
    for query in [
        "?_HLS_msn=5",
        "?_HLS_msn=3&_HLS_part=99",
        "?_HLS_part=1",
        "?_HLS_msn=-1",
    ] {
        let response = bench.get(&playlist(&broadcast, query)).await;
        assert_eq!(response.status(), 400, "{query}");
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        assert_eq!(cache_control(&response), "no-store");
    }
    bench.end().await;
}

#[tokio::test]
async fn a_blocked_request_is_given_up_when_nothing_comes() {
    let folder = tempfile::tempdir().unwrap();
    let edge = Edge::start(config(folder.path()), Arc::new(InMemory::new()), assets()).unwrap();
    edge.ensure_stream(&stream(), &Change::default())
        .await
        .unwrap();
    let mut source = Source::new();
    let messages = source.open();
    let live = edge.begin_broadcast(&id(), &messages[0]).unwrap();
    for message in &messages[1..] {
        live.apply(message, 0).unwrap();
    }
    let address = TrackAddress {
        stream: stream(),
        broadcast: id(),
        session: Session::public(),
        track: "v-720p30".parse().unwrap(),
    };
    let directives = Directives {
        msn: Some(0),
        part: Some(0),
        skip: false,
    };
    let patience = Duration::from_millis(50);
    let asked = edge.media(
        &address,
        &directives,
        std::net::Ipv4Addr::LOCALHOST.into(),
        Coding::Identity,
        patience,
    );
    assert_eq!(asked.await.unwrap_err().status, 503);
    assert_eq!(Head::DEADLINE_MS, 12_000, "three target durations");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_hinted_part_waits_and_an_unknown_key_never_reaches_the_store() {
    let bench = Bench::start().await;
    let (mut source, link) = bench.on_air(2).await;
    let text = bench.text(&playlist(id().as_str(), "")).await;
    let hint = lint::Media::read(&text).0.hint.unwrap();
    let url = bench.url(&hint);
    let waiting = tokio::spawn(async move { reqwest::get(url).await.unwrap() });
    // In the store, but never announced.
    let secret = ObjectKey {
        stream: stream(),
        broadcast: id(),
        track: "v-720p30".parse().unwrap(),
        kind: ObjectKind::Part { msn: 2, part: 1 },
        tag: Tag::from_random([0xee; 12]),
    };
    bench
        .store
        .put(&Path::from(secret.to_string()), "unannounced".into())
        .await
        .unwrap();
    let response = bench.get(&format!("/media/{secret}")).await;
    assert_eq!(response.status(), 404);
    assert_eq!(cache_control(&response), "no-store");
    assert!(!waiting.is_finished());
    let messages = source.segment(6, 0, false);
    bench.send(&link, &messages[..1]).await;
    assert_eq!(waiting.await.unwrap().text().await.unwrap(), "2.0;");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_have_ranges_tags_and_heads() {
    let bench = Bench::start().await;
    let (_source, _link) = bench.on_air(2).await;
    let text = bench.text(&playlist(id().as_str(), "")).await;
    let (media, _) = lint::Media::read(&text);
    let object = media.segments[0].item.as_ref().unwrap().uri.clone();
    let client = reqwest::Client::new();
    let whole = bench.get(&object).await;
    let etag = whole.headers()["etag"].clone();
    assert_eq!(whole.headers()["accept-ranges"], "bytes");
    assert_eq!(whole.headers()["content-type"], "video/mp4");
    assert_eq!(whole.headers()["access-control-allow-origin"], "*");
    assert_eq!(whole.text().await.unwrap(), "segment 0");
    let part = client
        .get(bench.url(&object))
        .header("range", "bytes=2-4")
        .send()
        .await
        .unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(part.headers()["content-range"], "bytes 2-4/9");
    assert_eq!(part.text().await.unwrap(), "gme");
    let outside = client
        .get(bench.url(&object))
        .header("range", "bytes=99-")
        .send()
        .await
        .unwrap();
    assert_eq!(outside.status(), 416);
    let same = client
        .get(bench.url(&object))
        .header("if-none-match", etag)
        .send()
        .await
        .unwrap();
    assert_eq!(same.status(), 304);
    let head = client.head(bench.url(&object)).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "9");
    assert_eq!(head.text().await.unwrap(), "");
    let preflight = client
        .request(Method::OPTIONS, bench.url(&object))
        .send()
        .await
        .unwrap();
    assert_eq!(preflight.status(), 204);
    assert!(
        preflight
            .headers()
            .contains_key("access-control-allow-methods")
    );
    let post = client.post(bench.url(&object)).send().await.unwrap();
    assert_eq!(post.status(), 405);
    assert_eq!(post.headers()["allow"], "GET, HEAD, OPTIONS");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_dash_segment_is_its_parts_in_order_as_they_come() {
    let bench = Bench::start().await;
    let (mut source, link) = bench.on_air(2).await;
    let messages = source.segment(3, 100, false);
    let of_the_track = |message: &ToEdge| match message {
        ToEdge::Part(part) => part.track.as_str() == "v-720p30",
        _ => false,
    };
    let second = messages
        .iter()
        .enumerate()
        .filter(|(_, m)| of_the_track(&m.message))
        .nth(1)
        .unwrap()
        .0;
    // Asked for before it has a part.
    let url = bench.url(&format!("/live/demo/{}/-/v-720p30/2.m4s", id()));
    let asked = tokio::spawn(async move { reqwest::get(url).await.unwrap() });
    bench.send(&link, &messages[..second]).await;
    let mut response = asked.await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(cache_control(&response), "no-store");
    assert!(response.headers().get("content-length").is_none());
    assert_eq!(response.chunk().await.unwrap().unwrap(), "2.0;");
    let pending = tokio::time::timeout(Duration::from_millis(100), response.chunk()).await;
    assert!(pending.is_err(), "the second part is not there yet");
    bench.send(&link, &messages[second..]).await;
    let mut rest = String::new();
    while let Some(chunk) = response.chunk().await.unwrap() {
        rest.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert_eq!(rest, "2.1;2.2;2.3;");
    bench.applied(source.seq).await;
    let whole = bench
        .get(&format!("/live/demo/{}/-/v-720p30/2.m4s", id()))
        .await;
    assert!(cache_control(&whole).contains("immutable"));
    assert_eq!(whole.text().await.unwrap(), "segment 2");
    for missing in ["5", "99"] {
        let path = format!("/live/demo/{}/-/v-720p30/{missing}.m4s", id());
        assert_eq!(bench.get(&path).await.status(), 404);
    }
    bench.end().await;
}

#[tokio::test]
async fn a_segment_that_is_completed_before_its_first_part_is_sent_comes_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(InMemory::new());
    let edge = Edge::start(config(folder.path()), store.clone(), assets()).unwrap();
    edge.ensure_stream(&stream(), &Change::default())
        .await
        .unwrap();
    let mut source = Source::new();
    let mut messages = source.open();
    let begun = messages.len();
    messages.extend(source.segment(3, 0, false));
    for message in &messages {
        put_announced(&store, &message.message).await;
    }
    let live = edge.begin_broadcast(&id(), &messages[0]).unwrap();
    let running = begun + 3;
    for message in &messages[1..running] {
        live.apply(message, 0).unwrap();
    }
    let track = live.track(&"v-720p30".parse().unwrap()).unwrap();
    // The answer has begun; nobody has asked for its body yet.
    let body = edge.running(live.clone(), track, 0, super::watch::Viewer::Anybody);
    for message in &messages[running..] {
        live.apply(message, 0).unwrap();
    }
    let sent: Vec<_> = body.map(|piece| piece.unwrap()).collect().await;
    assert_eq!(sent, ["segment 0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dash_segment_that_is_lost_in_mid_stream_is_cut_off() {
    let bench = Bench::start().await;
    let (mut source, link) = bench.on_air(2).await;
    let messages = source.segment(3, 0, true);
    bench.send(&link, &messages[..3]).await;
    bench.applied(messages[2].seq).await;
    let mut response = bench
        .get(&format!("/live/demo/{}/-/v-720p30/2.m4s", id()))
        .await;
    assert_eq!(response.chunk().await.unwrap().unwrap(), "2.0;");
    bench.send(&link, &messages[3..]).await;
    let end = loop {
        match response.chunk().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert!(end.is_err(), "nobody may take it for whole");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_says_how_it_may_be_kept() {
    let bench = Bench::start().await;
    let (_source, _link) = bench.on_air(2).await;
    let broadcast = id();
    for (path, status, caching) in [
        ("/".to_owned(), 200, "no-cache"),
        ("/watch/demo".to_owned(), 200, "no-cache"),
        ("/embed/demo".to_owned(), 200, "no-cache"),
        ("/studio/demo".to_owned(), 200, "no-cache"),
        (
            "/assets/player-abc.js".to_owned(),
            200,
            "public, max-age=31536000, immutable",
        ),
        ("/assets/none.js".to_owned(), 404, "no-store"),
        (
            "/live/demo/index.m3u8".to_owned(),
            200,
            "public, max-age=0, s-maxage=1",
        ),
        (
            "/live/demo/manifest.mpd".to_owned(),
            200,
            "public, max-age=0, s-maxage=1",
        ),
        ("/live/nobody/index.m3u8".to_owned(), 404, "no-store"),
        (
            playlist(broadcast.as_str(), ""),
            200,
            "public, max-age=0, s-maxage=1",
        ),
        (
            playlist(broadcast.as_str(), "?_HLS_msn=1"),
            200,
            "public, max-age=24",
        ),
        (
            playlist(BroadcastId::from_random([9; 16]).as_str(), ""),
            404,
            "no-store",
        ),
        ("/live/demo/x/index.m3u8".to_owned(), 404, "no-store"),
        ("/api/streams".to_owned(), 200, "no-store"),
        ("/api/streams/demo".to_owned(), 200, "no-store"),
        ("/api/streams/nobody".to_owned(), 404, "no-store"),
        ("/api/time".to_owned(), 200, "no-store"),
        ("/api/studio/demo".to_owned(), 401, "no-store"),
        ("/api/studio/nobody".to_owned(), 401, "no-store"),
        ("/healthz".to_owned(), 200, "no-store"),
        ("/readyz".to_owned(), 200, "no-store"),
        ("/nothing/here".to_owned(), 404, "no-store"),
        ("/internal/admit".to_owned(), 405, "no-store"),
        (format!("/internal/link/{broadcast}"), 401, "no-store"),
    ] {
        let response = bench.get(&path).await;
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(cache_control(&response), caching, "{path}");
        assert_eq!(
            response.headers()["x-content-type-options"],
            "nosniff",
            "{path}"
        );
        if status >= 400 {
            assert_eq!(
                response.headers()["content-type"],
                "application/problem+json",
                "{path}"
            );
            let problem: serde_json::Value = response.json().await.unwrap();
            assert_eq!(problem["status"], status, "{path}");
        }
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn playlists_and_pages_are_compressed_for_who_takes_it() {
    let bench = Bench::start().await;
    let (_source, _link) = bench.on_air(4).await;
    let client = reqwest::Client::new();
    for path in [
        playlist(id().as_str(), ""),
        "/live/demo/manifest.mpd".to_owned(),
        "/watch/demo".to_owned(),
    ] {
        for (accept, coding) in [
            ("gzip, br", Some("br")),
            ("gzip", Some("gzip")),
            ("identity", None),
        ] {
            let response = client
                .get(bench.url(&path))
                .header("accept-encoding", accept)
                .send()
                .await
                .unwrap();
            let said = response
                .headers()
                .get("content-encoding")
                .map(|v| v.to_str().unwrap().to_owned());
            assert_eq!(said.as_deref(), coding, "{path}, {accept}");
            assert_eq!(response.headers()["vary"], "accept-encoding");
        }
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_says_what_is_live_and_who_watches() {
    let bench = Bench::start().await;
    let before: serde_json::Value = bench.get("/api/streams").await.json().await.unwrap();
    assert_eq!(before["streams"][0]["live"], false);
    let (_source, _link) = bench.on_air(2).await;
    let client = reqwest::Client::new();
    for viewer in ["viewer-one", "viewer-two", "viewer-one"] {
        let beacon = client
            .post(bench.url("/api/streams/demo/beacon"))
            .json(&serde_json::json!({ "viewer": viewer }));
        assert_eq!(beacon.send().await.unwrap().status(), 204);
    }
    let huge = client
        .post(bench.url("/api/streams/demo/beacon"))
        .body("x".repeat(5_000))
        .send()
        .await
        .unwrap();
    assert_eq!(huge.status(), 413);
    let now: serde_json::Value = bench.get("/api/streams/demo").await.json().await.unwrap();
    assert_eq!(
        (now["live"].as_bool(), now["viewers"].as_u64()),
        (Some(true), Some(2))
    );
    assert!(lint::unix_ms(now["since"].as_str().unwrap()).is_some());
    assert_eq!(now["tracks"][0]["name"], "v-720p30");
    assert_eq!(now["tracks"][0]["frame_rate"], 30.0);
    let time: serde_json::Value = bench.get("/api/time").await.json().await.unwrap();
    assert!((time["unix_ms"].as_i64().unwrap() - wall_unix_ms()).abs() < 5_000);
    let iso = bench.text("/api/time?iso").await;
    assert!(lint::unix_ms(&iso).is_some(), "{iso}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_studio_shows_the_key_to_its_owner_and_changes_it() {
    let bench = Bench::start().await;
    let entry = bench.entry();
    let client = reqwest::Client::new();
    let ask = |method: Method, path: &str, secret: &str| {
        client
            .request(method, bench.url(path))
            .bearer_auth(secret)
            .send()
    };
    assert_eq!(
        ask(Method::GET, "/api/studio/demo", "wrong")
            .await
            .unwrap()
            .status(),
        401
    );
    let studio = ask(Method::GET, "/api/studio/demo", &entry.studio_secret)
        .await
        .unwrap();
    assert!(
        studio
            .headers()
            .get("access-control-allow-origin")
            .is_none()
    );
    let studio: serde_json::Value = studio.json().await.unwrap();
    assert_eq!(studio["key"], entry.key.reveal());
    assert_eq!(studio["servers"][0]["url"], "rtmp://127.0.0.1/live");
    let rotated = ask(
        Method::POST,
        "/api/studio/demo/rotate-key",
        &entry.studio_secret,
    )
    .await
    .unwrap();
    let rotated: serde_json::Value = rotated.json().await.unwrap();
    assert_ne!(rotated["key"], entry.key.reveal());
    let question = |key: &str| protocol::internal::Admit {
        key: key.to_owned(),
        stream: None,
        peer: String::new(),
        ..protocol::internal::Admit::default()
    };
    let admits = async |key: &str| bench.edge.admit(&question(key)).await.is_ok();
    assert!(!admits(&entry.key.reveal()).await);
    assert!(admits(rotated["key"].as_str().unwrap()).await);
    // Another process changes the key: the running edge sees it.
    let folder = bench.folder.path().join("edge");
    let mut other = Database::open(&folder).unwrap();
    other.rotate_key(&stream(), None).unwrap();
    let kept = other.known().stream(&stream()).cloned().unwrap();
    assert!(!admits(rotated["key"].as_str().unwrap()).await);
    assert!(admits(&kept.key(other.seal()).unwrap().reveal()).await);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_seal_hides_the_key_until_there_is_a_new_one_and_admits_all_the_same() {
    let bench = Bench::start().await;
    let entry = bench.entry();
    let (folder, store) = bench.end().await;
    std::fs::remove_file(folder.path().join("edge/seal-secret")).unwrap();
    let bench = Bench::on(folder, store, None).await;
    let question = |key: &str| protocol::internal::Admit {
        key: key.to_owned(),
        stream: None,
        peer: String::new(),
        ..protocol::internal::Admit::default()
    };
    let admitted = bench.edge.admit(&question(&entry.key.reveal())).await;
    assert!(admitted.is_ok());
    let client = reqwest::Client::new();
    let ask = async |method: Method, path: &str| {
        let request = client.request(method, bench.url(path));
        let answer = request.bearer_auth(&entry.studio_secret).send().await;
        let answer = answer.unwrap().error_for_status().unwrap();
        answer.json::<serde_json::Value>().await.unwrap()["key"].clone()
    };
    assert!(ask(Method::GET, "/api/studio/demo").await.is_null());
    let key = ask(Method::POST, "/api/studio/demo/rotate-key").await;
    assert_eq!(ask(Method::GET, "/api/studio/demo").await, key);
    let admitted = bench.edge.admit(&question(key.as_str().unwrap())).await;
    assert!(admitted.is_ok());
    // The studio link is the one that the owner has, and can be shown again.
    assert_eq!(bench.entry().studio_secret, entry.studio_secret);
    bench.end().await;
}

fn proof(method: &str, path: &str) -> String {
    LinkSecret::new(SECRET).request(method, path, wall_unix_ms() / 1_000, [5; 16])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_elsewhere_asks_over_http_and_each_side_proves_itself() {
    let bench = Bench::start().await;
    let client = reqwest::Client::new();
    let key = bench.entry().key.reveal();
    let ask = |path: &'static str, body: serde_json::Value, proof: String| {
        client
            .post(bench.url(path))
            .header(REQUEST_HEADER, proof)
            .json(&body)
            .send()
    };
    let right = serde_json::json!({ "key": key, "stream": null, "peer": "192.0.2.1:4000" });
    let wrong = serde_json::json!({ "key": "demo_aaaaaaaaaaaaaaaaaaaaaaaaaa", "stream": null, "peer": "192.0.2.1:4000" });
    let sent = proof("POST", "/internal/admit");
    let response = ask("/internal/admit", right.clone(), sent.clone())
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let answer = response.headers()[RESPONSE_HEADER]
        .to_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        LinkSecret::new(SECRET).check_answer(&sent, Some(&answer)),
        Ok(())
    );
    assert_eq!(response.json::<Admission>().await.unwrap().stream, stream());
    let refused = ask("/internal/admit", wrong, sent.clone()).await.unwrap();
    assert_eq!(refused.status(), 403);
    assert!(refused.headers().contains_key(RESPONSE_HEADER));
    for proof in [String::new(), proof("POST", "/internal/broadcasts")] {
        let response = ask("/internal/admit", right.clone(), proof).await.unwrap();
        assert_eq!(response.status(), 401);
        assert!(!response.headers().contains_key(RESPONSE_HEADER));
    }
    let open = serde_json::to_value(Open {
        stream: stream(),
        broadcast: id(),
    })
    .unwrap();
    let response = ask(
        "/internal/broadcasts",
        open,
        proof("POST", "/internal/broadcasts"),
    )
    .await
    .unwrap();
    assert_eq!(response.json::<OpenAnswer>().await.unwrap().resume, None);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_put_through_the_edge_once() {
    let bench = Bench::start().await;
    let key = ObjectKey {
        stream: stream(),
        broadcast: id(),
        track: "v-720p30".parse().unwrap(),
        kind: ObjectKind::Segment { msn: 1 },
        tag: Tag::from_random([3; 12]),
    };
    let path = format!("/internal/media/{key}");
    let client = reqwest::Client::new();
    let put = |body: &'static str| {
        client
            .put(bench.url(&path))
            .header(REQUEST_HEADER, proof("PUT", &path))
            .body(body)
            .send()
    };
    assert_eq!(
        client
            .put(bench.url(&path))
            .body("x")
            .send()
            .await
            .unwrap()
            .status(),
        401
    );
    assert_eq!(put("media").await.unwrap().status(), 201);
    assert_eq!(put("media").await.unwrap().status(), 201);
    assert_eq!(put("other").await.unwrap().status(), 409);
    let stored = bench
        .store
        .get(&Path::from(key.to_string()))
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    assert_eq!(stored, "media");
    let delete = client
        .delete(bench.url(&path))
        .header(REQUEST_HEADER, proof("DELETE", &path));
    assert_eq!(delete.send().await.unwrap().status(), 204);
    assert!(bench.store.get(&Path::from(key.to_string())).await.is_err());
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_brings_its_streams_along() {
    let bench = Bench::start().await;
    let client = reqwest::Client::new();
    let random = [[8; 16], [9; 16]];
    let entry = |name: &str, id: &str| {
        crate::directory::StreamEntry::new(name.parse().unwrap(), id, random, 0).unwrap()
    };
    for (path, entry, status) in [
        ("/internal/streams/other", entry("other", "other"), 204),
        ("/internal/streams/other", entry("third", "third"), 400),
        ("/internal/streams/third", entry("third", "other"), 403),
    ] {
        let put = client
            .put(bench.url(path))
            .header(REQUEST_HEADER, proof("PUT", path));
        assert_eq!(
            put.json(&entry).send().await.unwrap().status(),
            status,
            "{path}"
        );
    }
    let folder = bench.folder.path().join("edge");
    let kept = Database::open(&folder).unwrap().known();
    assert_eq!(kept.streams().count(), 2);
    let brought = kept.stream(&"other".parse().unwrap()).unwrap();
    // The box shows the studio link.
    assert_eq!(brought.studio_sealed, None);
    bench.end().await;
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<TcpStream>>;

async fn dial(bench: &Bench, proof: Option<String>) -> Result<Socket, tungstenite::Error> {
    let mut request =
        format!("ws://{}/internal/link/{}", bench.address, id()).into_client_request()?;
    if let Some(proof) = proof {
        request
            .headers_mut()
            .insert(REQUEST_HEADER, proof.parse().unwrap());
    }
    Ok(tokio_tungstenite::connect_async(request).await?.0)
}

async fn hear(socket: &mut Socket) -> Option<ToCore> {
    while let Some(Ok(message)) = socket.next().await {
        if let tungstenite::Message::Text(text) = message {
            return Some(serde_json::from_str(&text).unwrap());
        }
    }
    None
}

async fn say(bench: &Bench, socket: &mut Socket, messages: &[Numbered]) {
    for message in messages {
        put_announced(&bench.store, &message.message).await;
        let text = serde_json::to_string(message).unwrap();
        socket
            .send(tungstenite::Message::Text(text.into()))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_over_a_websocket_is_welcomed_acknowledged_cut_and_taken_up_again() {
    let bench = Bench::start().await;
    let path = format!("/internal/link/{}", id());
    assert!(
        dial(&bench, None).await.is_err(),
        "without a proof there is no link"
    );
    let mut source = Source::new();
    let mut socket = dial(&bench, Some(proof("GET", &path))).await.unwrap();
    assert_eq!(hear(&mut socket).await, Some(ToCore::Welcome { seq: 0 }));
    let mut messages = source.open();
    messages.extend(source.segment(6, 0, false));
    messages.extend(source.segment(6, 0, false));
    say(&bench, &mut socket, &messages).await;
    let acknowledged = loop {
        match hear(&mut socket).await {
            // The last segment's first `segment` message asks for the last snapshot.
            Some(ToCore::Ack { seq }) if seq + 3 > source.seq => break seq,
            Some(ToCore::Ack { .. }) => {}
            other => panic!("{other:?}"),
        }
    };
    drop(socket);
    let mut socket = dial(&bench, Some(proof("GET", &path))).await.unwrap();
    assert_eq!(
        hear(&mut socket).await,
        Some(ToCore::Welcome { seq: acknowledged })
    );
    // Everything again, as a box does that knows of no acknowledgement.
    say(&bench, &mut socket, &messages).await;
    let more = source.segment(6, 0, false);
    say(&bench, &mut socket, &more).await;
    bench.applied(source.seq).await;
    assert!(
        bench
            .text(&playlist(id().as_str(), ""))
            .await
            .contains("/2.0.")
    );
    // Nonsense ends it with a word on why.
    let nonsense = Numbered {
        seq: source.seq + 1,
        message: ToEdge::Discontinuity { msn: 0 },
    };
    say(&bench, &mut socket, &[nonsense]).await;
    loop {
        match hear(&mut socket).await {
            Some(ToCore::Refused { reason }) => {
                break assert!(reason.contains("discontinuity"), "{reason}");
            }
            Some(_) => {}
            None => panic!("the link ended without a word"),
        }
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_link_replaces_the_older_one() {
    let bench = Bench::start().await;
    let (source, mut old) = bench.on_air(1).await;
    let mut new = bench.edge.connect(id());
    assert!(matches!(
        new.from_edge.recv().await,
        Some(ToCore::Welcome { .. })
    ));
    let last = loop {
        match old.from_edge.recv().await {
            Some(ToCore::Ack { .. }) => {}
            last => break last,
        }
    };
    assert!(matches!(last, Some(ToCore::Refused { .. })), "{last:?}");
    assert!(
        bench
            .edge
            .current(&stream())
            .unwrap()
            .with(|b| b.is_linked())
    );
    drop(source);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_broadcast_of_the_stream_ends_the_older_one() {
    let bench = Bench::start().await;
    let (_source, mut old) = bench.on_air(2).await;
    let second = BroadcastId::from_random([2; 16]);
    let mut link = bench.edge.connect(second.clone());
    assert_eq!(
        link.from_edge.recv().await,
        Some(ToCore::Welcome { seq: 0 })
    );
    let opened = match Source::new().open().remove(0).message {
        ToEdge::Opened(opened) => protocol::link::Opened {
            broadcast: second.clone(),
            ..opened
        },
        other => panic!("{other:?}"),
    };
    link.to_edge
        .send(Numbered {
            seq: 1,
            message: ToEdge::Opened(opened),
        })
        .await
        .unwrap();
    bench
        .wait_for("the new one is current", |b| {
            b.edge.current(&stream()).unwrap().id == second
        })
        .await;
    let text = bench.text(&playlist(id().as_str(), "")).await;
    assert!(text.ends_with("#EXT-X-ENDLIST\n"), "{text}");
    while let Some(answer) = old.from_edge.recv().await {
        if matches!(answer, ToCore::Refused { .. }) {
            return drop(bench.end().await);
        }
    }
    panic!("the older link ended without a word");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_edge_goes_on_from_its_snapshot_without_a_number_twice() {
    let bench = Bench::start().await;
    let (mut source, link) = bench.on_air(3).await;
    bench
        .wait_for("the snapshot is stored", |b| {
            b.edge
                .current(&stream())
                .unwrap()
                .with(|b| b.stored_seq() + 3 > b.seq())
        })
        .await;
    let running = source.segment(6, 0, false);
    bench.send(&link, &running[..7]).await;
    bench.applied(running[6].seq).await;
    let before = bench.text(&playlist(id().as_str(), "")).await;
    // Killed: nothing is closed, no task runs on.
    let Bench {
        store,
        folder,
        tasks,
        ..
    } = bench;
    for task in tasks {
        task.abort();
    }
    drop(link);

    let bench = Bench::on(folder, store, None).await;
    let answer = bench
        .edge
        .open(&Open {
            stream: stream(),
            broadcast: BroadcastId::from_random([7; 16]),
        })
        .await
        .unwrap();
    let resume = answer.resume.expect("the broadcast can go on");
    assert_eq!((resume.broadcast.clone(), resume.next_msn), (id(), 4));
    assert_eq!(resume.tracks.len(), 3);
    let mut link = bench.edge.connect(resume.broadcast.clone());
    assert_eq!(
        link.from_edge.recv().await,
        Some(ToCore::Welcome { seq: resume.seq })
    );
    (source.seq, source.msn, source.at_ms) = (resume.seq, resume.next_msn, resume.end_ms + 5_000);
    bench.send(&link, &source.open()).await;
    let messages = source.segment(6, 0, false);
    bench.send(&link, &messages).await;
    bench.applied(source.seq).await;
    let after = bench.text(&playlist(id().as_str(), "")).await;
    assert_eq!(
        lint::update(&before, &after),
        Vec::<String>::new(),
        "{before}\n{after}"
    );
    assert_eq!(after.matches("#EXT-X-GAP\n").count(), 1, "{after}");
    assert_eq!(lint::media(&after), Vec::<String>::new(), "{after}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_is_ended_lets_everybody_go_at_once() {
    let bench = Bench::start().await;
    let (_source, _link) = bench.on_air(2).await;
    let url = bench.url(&playlist(id().as_str(), "?_HLS_msn=2&_HLS_part=3"));
    let waiting = tokio::spawn(async move { reqwest::get(url).await.unwrap().status() });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = std::time::Instant::now();
    bench.end().await;
    assert_eq!(waiting.await.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
}

fn server_tls(made: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Tls {
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let config = Arc::new(config);
    Arc::new(move || config.clone())
}

fn certificate() -> (Tls, reqwest::Certificate) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let trusted = reqwest::Certificate::from_der(made.cert.der()).unwrap();
    (server_tls(&made), trusted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls_both_http_versions_are_spoken_and_without_only_the_older() {
    let (tls, trusted) = certificate();
    let bench = Bench::on(
        tempfile::tempdir().unwrap(),
        Arc::new(InMemory::new()),
        Some(tls),
    )
    .await;
    let (mut source, link) = bench.on_air(2).await;
    let port = bench.address.port();
    let client = |http1: bool| {
        let builder = reqwest::Client::builder()
            .tls_certs_only([trusted.clone()])
            .resolve("localhost", bench.address);
        let builder = if http1 { builder.http1_only() } else { builder };
        builder.build().unwrap()
    };
    for (http1, version) in [
        (false, reqwest::Version::HTTP_2),
        (true, reqwest::Version::HTTP_11),
    ] {
        let url = format!("https://localhost:{port}/live/demo/index.m3u8");
        let response = client(http1).get(url).send().await.unwrap();
        assert_eq!(
            (response.status(), response.version()),
            (StatusCode::OK, version)
        );
    }
    // Twenty blocked requests on one HTTP/2 connection.
    let h2 = client(false);
    let url = format!(
        "https://localhost:{port}{}",
        playlist(id().as_str(), "?_HLS_msn=2&_HLS_part=0")
    );
    let waiting: Vec<_> = (0..20).map(|_| tokio::spawn(h2.get(&url).send())).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let messages = source.segment(2, 0, false);
    bench.send(&link, &messages[..1]).await;
    for one in waiting {
        assert_eq!(one.await.unwrap().unwrap().status(), 200);
    }
    bench.end().await;

    let bench = Bench::start().await;
    let mut raw = TcpStream::connect(bench.address).await.unwrap();
    raw.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = raw.read_to_end(&mut answer).await;
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
        "{answer:?}"
    );
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_ends_its_request_is_cut_off() {
    let bench = Bench::start().await;
    let mut raw = TcpStream::connect(bench.address).await.unwrap();
    raw.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(5), raw.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "the connection stays open");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_negotiates_http2_and_says_nothing_is_cut_off() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let mut trusted = rustls::RootCertStore::empty();
    trusted.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trusted)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let bench = Bench::on(
        tempfile::tempdir().unwrap(),
        Arc::new(InMemory::new()),
        Some(server_tls(&made)),
    )
    .await;
    // Nothing at all, and a preface that is never whole.
    for said in ["", "PRI * HTTP/2.0"] {
        let tcp = TcpStream::connect(bench.address).await.unwrap();
        let mut raw = tokio_rustls::TlsConnector::from(Arc::new(client.clone()))
            .connect("localhost".try_into().unwrap(), tcp)
            .await
            .unwrap();
        assert_eq!(raw.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        raw.write_all(said.as_bytes()).await.unwrap();
        raw.flush().await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), raw.read_to_end(&mut answer));
        assert!(ended.await.is_ok(), "{said:?}: the connection stays open");
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_internal_addresses_are_absent_without_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let plain = Config {
        link_secret: None,
        ..config(folder.path())
    };
    let edge = Edge::start(plain, Arc::new(InMemory::new()), assets()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, edge.clone(), None, None, shutdown.clone()));
    let response = reqwest::get(format!("http://{address}/internal/link/{}", id()))
        .await
        .unwrap();
    assert_eq!(response.status(), 404);
    let short = Config {
        link_secret: Some("short".into()),
        ..config(folder.path())
    };
    assert!(matches!(
        Edge::start(short, Arc::new(InMemory::new()), assets()),
        Err(EdgeError::Secret(5))
    ));
    shutdown.cancel();
    serving.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_that_comes_back_to_an_ended_broadcast_is_acknowledged_and_then_refused() {
    let bench = Bench::start().await;
    let (mut source, link) = bench.on_air(2).await;
    let close = source.close();
    link.to_edge.send(close.clone()).await.unwrap();
    bench.applied(source.seq).await;
    drop(link);
    let mut link = bench.edge.connect(id());
    let known = match link.from_edge.recv().await {
        Some(ToCore::Welcome { seq }) => seq,
        other => panic!("{other:?}"),
    };
    link.to_edge.send(close).await.unwrap();
    // A snapshot that was already being written may be acknowledged on the way.
    let mut acknowledged = known;
    while acknowledged < source.seq {
        match link.from_edge.recv().await {
            Some(ToCore::Ack { seq }) => {
                assert!(seq > acknowledged, "{seq} after {acknowledged}");
                acknowledged = seq;
            }
            other => panic!("{other:?}"),
        }
    }
    let more = source.segment(1, 0, false).remove(0);
    link.to_edge.send(more).await.unwrap();
    match link.from_edge.recv().await {
        Some(ToCore::Refused { reason }) => assert!(reason.contains("ended"), "{reason}"),
        other => panic!("{other:?}"),
    }
    bench.end().await;
}

#[tokio::test]
async fn a_waiter_costs_less_than_four_kibibytes_beyond_its_connection() {
    let folder = tempfile::tempdir().unwrap();
    let edge = Edge::start(config(folder.path()), Arc::new(InMemory::new()), assets()).unwrap();
    let request = axum::http::Request::new(axum::body::Body::empty());
    let waiter = super::http::Site {
        edge,
        http01: None,
        peer: std::net::Ipv4Addr::LOCALHOST.into(),
        hsts: None,
    }
    .answer(request);
    let size = std::mem::size_of_val(&waiter);
    assert!(size < 3 * 1_024, "the request's future has {size} bytes");
}

mod openapi;
mod sessions;
mod streams;

mod tokens {
    use std::time::Instant;

    use protocol::{
        internal::Admit,
        token::{Jwks, KeySet, VerifyingKey},
    };
    use serde_json::{Value, json};

    use super::*;
    use crate::access::{INSTALLATION, Minted};

    fn folder(bench: &Bench) -> std::path::PathBuf {
        bench.folder.path().join("edge")
    }

    /// A token as the owner makes one, beside the running edge.
    fn owners(bench: &Bench, wanted: Value) -> String {
        let access =
            crate::access::Access::new(INSTALLATION, load_keyring(&folder(bench)).unwrap(), &[]);
        let wanted = serde_json::from_value(wanted).unwrap();
        access
            .unwrap()
            .mint_as_owner(
                &wanted,
                &protocol::token::Revocations::default(),
                [1; 12],
                wall_unix_ms(),
            )
            .unwrap()
            .token
    }

    async fn ask(bench: &Bench, bearer: Option<&str>, wanted: &Value) -> Response {
        let request = reqwest::Client::new()
            .post(bench.url("/api/tokens"))
            .json(wanted);
        let request = match bearer {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.unwrap()
    }

    async fn publishes(bench: &Bench, token: &str) -> Result<Admission, String> {
        let question = Admit {
            key: token.to_owned(),
            stream: None,
            peer: "192.0.2.1:4000".to_owned(),
            ..Admit::default()
        };
        bench
            .edge
            .admit(&question)
            .await
            .map_err(|error| error.to_string())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_manager_asks_for_a_token_and_a_publisher_gets_in_with_it() {
        let bench = Bench::start().await;
        let manager = owners(&bench, json!({"stream": "demo", "act": "manage"}));
        let wanted = json!({"stream": "demo", "act": ["publish"], "sub": "anna", "for_s": 60});
        let answer = ask(&bench, Some(&manager), &wanted).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["cache-control"], "no-store");
        assert!(
            answer
                .headers()
                .get("access-control-allow-origin")
                .is_none()
        );
        let minted: Minted = answer.json().await.unwrap();
        assert_eq!(
            publishes(&bench, &minted.token).await.unwrap().stream,
            stream()
        );
        // Anybody can check it by what is published.
        let jwks: Jwks = bench
            .get("/.well-known/jwks.json")
            .await
            .json()
            .await
            .unwrap();
        let mut keys = KeySet::default();
        for key in jwks.keys {
            let key = VerifyingKey::new(INSTALLATION, "", &key.x, Some(&key.kid), None);
            keys.trust(key.unwrap()).unwrap();
        }
        let grant = keys
            .verify(&minted.token, INSTALLATION, wall_unix_ms())
            .unwrap();
        assert_eq!(grant.claims().sub, "anna");
        // A manager is no publisher, and a stream has to exist.
        assert!(
            publishes(&bench, &manager)
                .await
                .unwrap_err()
                .contains("does not allow to publish")
        );
        let nobody = owners(&bench, json!({"stream": "nobody", "act": "publish"}));
        assert_eq!(
            publishes(&bench, &nobody).await.unwrap_err(),
            "there is no stream nobody"
        );
        bench.end().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn tokens_are_given_to_managers_of_the_stream_only_and_every_refusal_is_a_problem() {
        let bench = Bench::start().await;
        let good = json!({"stream": "demo", "act": "watch"});
        let manager = owners(&bench, json!({"stream": "demo", "act": "manage"}));
        let elsewhere = owners(
            &bench,
            json!({"stream": "demo", "act": "manage", "ip": ["192.0.2.0/24"]}),
        );
        let viewer = owners(&bench, json!({"stream": "demo", "act": "watch"}));
        let other = owners(&bench, json!({"stream": "other", "act": "manage"}));
        let void = owners(
            &bench,
            json!({"stream": "demo", "act": "manage", "for_s": 0}),
        );
        let long = json!({"stream": "demo", "act": "watch", "sub": "x".repeat(200)});
        for (bearer, wanted, status, kind) in [
            (None, &good, 401, "unauthorized"),
            (Some(""), &good, 401, "unauthorized"),
            (Some("nonsense"), &good, 401, "token"),
            (Some(void.as_str()), &good, 401, "expired"),
            (Some(&viewer), &good, 403, "forbidden"),
            (Some(&other), &good, 403, "forbidden"),
            (Some(&elsewhere), &good, 403, "forbidden"),
            (
                Some(&manager),
                &json!({"stream": "*", "act": "watch"}),
                403,
                "forbidden",
            ),
            (Some(&manager), &long, 400, "bad-body"),
            (Some(&manager), &json!({"stream": "demo"}), 400, "bad-body"),
            (
                Some(&manager),
                &json!({"stream": "demo", "act": []}),
                400,
                "bad-body",
            ),
            (
                Some(&manager),
                &json!({"stream": "demo", "act": "watch", "more": 1}),
                400,
                "bad-body",
            ),
        ] {
            let answer = ask(&bench, bearer, wanted).await;
            assert_eq!(answer.status(), status, "{kind} {wanted}");
            assert_eq!(answer.headers()["cache-control"], "no-store");
            assert_eq!(answer.headers()["content-type"], "application/problem+json");
            assert_eq!(
                answer.headers().contains_key("www-authenticate"),
                status == 401
            );
            let body = answer.text().await.unwrap();
            assert!(
                body.contains(&format!("urn:ghost-live:problem:{kind}\"")),
                "{body}"
            );
            // Nothing that was sent comes back.
            assert!(
                bearer.is_none_or(|token| token.is_empty() || !body.contains(token)),
                "{body}"
            );
        }
        let get = bench.get("/api/tokens").await;
        assert_eq!(get.status(), 405);
        bench.end().await;
    }

    #[test]
    fn processes_that_start_at_once_have_the_same_first_key() {
        let folder = tempfile::tempdir().unwrap();
        let starts: Vec<_> = (0..8)
            .map(|_| {
                let folder = folder.path().to_owned();
                std::thread::spawn(move || load_keyring(&folder).unwrap())
            })
            .collect();
        let rings: Vec<_> = starts
            .into_iter()
            .map(|start| start.join().unwrap())
            .collect();
        assert!(rings.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_key_that_was_rotated_beside_the_running_edge_is_in_force_within_two_seconds() {
        let bench = Bench::start().await;
        let before = owners(&bench, json!({"stream": "demo", "act": "publish"}));
        rotate_keyring(&folder(&bench), Duration::ZERO).unwrap();
        let after = owners(&bench, json!({"stream": "demo", "act": "publish"}));
        let began = Instant::now();
        while publishes(&bench, &after).await.is_err() {
            assert!(
                began.elapsed() < Duration::from_secs(2),
                "it is not taken up"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(
            publishes(&bench, &before)
                .await
                .unwrap_err()
                .contains("not known here")
        );
        // A file that is none changes nothing, and stops no start by losing what was there.
        let path = folder(&bench).join("token-keys.json");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let kept = std::fs::read(&path).unwrap();
        std::fs::write(&path, "broken").unwrap();
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert!(publishes(&bench, &after).await.is_ok());
        // Nor does one that is gone, and nothing is put in its place.
        std::fs::remove_file(&path).unwrap();
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert!(publishes(&bench, &after).await.is_ok());
        assert!(!path.exists());
        std::fs::write(&path, "broken").unwrap();
        let refused = load_keyring(&folder(&bench)).unwrap_err().to_string();
        assert!(refused.contains("token-keys.json"), "{refused}");
        std::fs::write(&path, kept).unwrap();
        assert!(load_keyring(&folder(&bench)).is_ok());
        bench.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_public_streams_are_listed_and_token_streams_say_that_they_need_one() {
    let bench = Bench::start().await;
    for (name, visibility) in [("hidden", "unlisted"), ("closed", "token")] {
        let change = format!(r#"{{"visibility": "{visibility}", "title": "The {name} one"}}"#);
        let change: Change = serde_json::from_str(&change).unwrap();
        let name: StreamName = name.parse().unwrap();
        bench.edge.ensure_stream(&name, &change).await.unwrap();
    }
    let list: serde_json::Value = bench.get("/api/streams").await.json().await.unwrap();
    let streams = list["streams"].as_array().unwrap();
    let names: Vec<_> = streams.iter().map(|stream| &stream["name"]).collect();
    assert_eq!(names, ["demo"]);
    let hidden: serde_json::Value = bench.get("/api/streams/hidden").await.json().await.unwrap();
    assert_eq!(
        (&hidden["live"], &hidden["title"]),
        (&false.into(), &"The hidden one".into())
    );
    let closed = bench.get("/api/streams/closed").await;
    assert_eq!(
        (
            closed.status(),
            closed.headers()["cache-control"].to_str().unwrap()
        ),
        (StatusCode::UNAUTHORIZED, "no-store")
    );
    let text = closed.text().await.unwrap();
    assert!(
        text.contains("urn:ghost-live:problem:token-needed")
            && !text.contains("closed one")
            && !text.contains("\"live\""),
        "{text}"
    );
    // After a restart as before.
    let (folder, store) = bench.end().await;
    let bench = Bench::on(folder, store, None).await;
    assert_eq!(bench.get("/api/streams/closed").await.status(), 401);
    assert_eq!(bench.get("/api/streams/nobody").await.status(), 404);
    bench.end().await;
}
