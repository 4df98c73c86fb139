//! Streams over HTTP: two tenants, and an administrator over both.

use protocol::{internal::Admit, token::Revocations};
use serde_json::{Value, json};

use super::*;
use crate::access::{Access, INSTALLATION};

/// A token as the owner makes one, beside the running edge.
fn token(bench: &Bench, stream: &str, act: &str) -> String {
    let keyring = load_keyring(&bench.folder.path().join("edge")).unwrap();
    let access = Access::new(INSTALLATION, keyring, &[]).unwrap();
    let wanted = serde_json::from_value(json!({"stream": stream, "act": act})).unwrap();
    let minted = access.mint_as_owner(&wanted, &Revocations::default(), [1; 12], wall_unix_ms());
    minted.unwrap().token
}

struct Caller<'a> {
    bench: &'a Bench,
    token: Option<String>,
}

impl<'a> Caller<'a> {
    fn new(bench: &'a Bench, stream: &str, act: &str) -> Self {
        let token = Some(token(bench, stream, act));
        Self { bench, token }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Response {
        let mut request = reqwest::Client::new().request(method, self.bench.url(path));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.unwrap()
    }

    async fn create(&self, body: Value) -> Response {
        self.ask(Method::POST, "/api/streams", Some(body)).await
    }

    async fn change(&self, name: &str, body: Value) -> Response {
        let path = format!("/api/streams/{name}");
        self.ask(Method::PATCH, &path, Some(body)).await
    }

    async fn delete(&self, name: &str) -> Response {
        self.ask(Method::DELETE, &format!("/api/streams/{name}"), None)
            .await
    }

    async fn new_key(&self, name: &str, body: Option<Value>) -> Response {
        self.ask(Method::POST, &format!("/api/streams/{name}/keys"), body)
            .await
    }

    async fn list(&self) -> Vec<String> {
        let answer = self.ask(Method::GET, "/api/streams", None).await;
        assert_eq!(answer.status(), 200);
        let list: Value = answer.json().await.unwrap();
        let streams = list["streams"].as_array().unwrap().iter();
        let names = streams.map(|stream| stream["name"].as_str().unwrap().to_owned());
        names.collect()
    }
}

async fn admits(bench: &Bench, key: &Value) -> bool {
    let question = Admit {
        key: key.as_str().unwrap().to_owned(),
        stream: None,
        peer: "192.0.2.1:4000".to_owned(),
        ..Admit::default()
    };
    bench.edge.admit(&question).await.is_ok()
}

/// The answer without what names the moment.
async fn said(response: Response) -> (StatusCode, String) {
    (response.status(), response.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_made_changed_and_deleted_by_who_manages_it_and_stays_over_a_restart() {
    let bench = Bench::start().await;
    let acme = Caller::new(&bench, "acme-*", "manage");
    let body = json!({"name": "acme-one", "visibility": "unlisted", "title": "One", "limits": {"max_fps": 30, "max_viewers": 2}});
    let made = acme.create(body.clone()).await;
    assert_eq!(made.status(), 201);
    assert!(made.headers().get("access-control-allow-origin").is_none());
    let made: Value = made.json().await.unwrap();
    assert!(admits(&bench, &made["key"]).await);
    let studio = reqwest::Client::new()
        .get(bench.url("/api/studio/acme-one"))
        .bearer_auth(made["studio_secret"].as_str().unwrap());
    let studio: Value = studio.send().await.unwrap().json().await.unwrap();
    assert_eq!(studio["key"], made["key"]);
    let again = said(acme.create(body).await).await;
    assert!(again.0 == 409 && again.1.contains("urn:ghost-live:problem:stream-exists"));

    let change = json!({"visibility": "token", "title": null, "limits": {"max_fps": null, "max_height": 720}});
    let changed = acme.change("acme-one", change).await;
    assert_eq!(changed.status(), 200);
    let changed: Value = changed.json().await.unwrap();
    assert_eq!(
        changed["limits"],
        json!({"max_viewers": 2, "max_height": 720})
    );
    assert_eq!(
        (&changed["visibility"], changed.get("title")),
        (&json!("token"), None)
    );
    for bad in [
        json!({"visibility": "secret"}),
        json!({"limits": {"max_fps": 0}}),
        json!({"name": "acme-two"}),
        json!([]),
    ] {
        assert_eq!(
            acme.change("acme-one", bad.clone()).await.status(),
            400,
            "{bad}"
        );
    }
    let (folder, store) = bench.end().await;
    let bench = Bench::on(folder, store, None).await;
    let acme = Caller::new(&bench, "acme-*", "manage");
    let kept = acme.ask(Method::GET, "/api/streams/acme-one", None).await;
    assert_eq!(kept.json::<Value>().await.unwrap(), changed);
    assert!(admits(&bench, &made["key"]).await);

    assert_eq!(acme.delete("acme-one").await.status(), 204);
    assert_eq!(acme.delete("acme-one").await.status(), 404);
    assert!(!admits(&bench, &made["key"]).await);
    // The name is free again, and what is made under it has nothing of the one before.
    let made = acme.create(json!({"name": "acme-one"})).await;
    assert_eq!(made.status(), 201);
    let new = acme.ask(Method::GET, "/api/streams/acme-one", None).await;
    let new: Value = new.json().await.unwrap();
    assert_eq!(
        (&new["visibility"], &new["limits"]),
        (&json!("public"), &json!({}))
    );
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_tenants_neither_sees_names_ends_or_changes_the_other_s_streams() {
    let bench = Bench::start().await;
    let (acme, blue) = (
        Caller::new(&bench, "acme-*", "manage"),
        Caller::new(&bench, "blue-*", "manage"),
    );
    for (caller, name, visibility) in [
        (&acme, "acme-open", "public"),
        (&acme, "acme-closed", "token"),
        (&acme, "acme-hidden", "unlisted"),
        (&blue, "blue-closed", "token"),
    ] {
        let body = json!({"name": name, "visibility": visibility});
        assert_eq!(caller.create(body).await.status(), 201);
    }
    // Outside of its names, one that is there and one that is not.
    let refused = said(blue.create(json!({"name": "acme-open"})).await).await;
    assert_eq!(refused.0, 403);
    assert_eq!(
        refused,
        said(blue.create(json!({"name": "acme-new"})).await).await
    );
    for name in ["acme-open", "acme-closed", "acme-hidden"] {
        let nobody = "acme-nobody";
        assert_eq!(
            said(blue.change(name, json!({"title": "x"})).await).await,
            said(blue.change(nobody, json!({"title": "x"})).await).await
        );
        assert_eq!(
            said(blue.new_key(name, None).await).await,
            said(blue.new_key(nobody, None).await).await
        );
        assert_eq!(
            said(blue.delete(name).await).await,
            said(blue.delete(nobody).await).await
        );
        assert_eq!(blue.delete(name).await.status(), 404);
    }
    assert_eq!(blue.list().await, ["acme-open", "blue-closed", "demo"]);
    assert_eq!(
        acme.list().await,
        ["acme-closed", "acme-hidden", "acme-open", "demo"]
    );
    // What is another's is told as to anybody.
    let told: Value = blue
        .ask(Method::GET, "/api/streams/acme-open", None)
        .await
        .json()
        .await
        .unwrap();
    assert!(told.get("limits").is_none() && told.get("visibility").is_none());
    let blue_watches = Caller::new(&bench, "blue-*", "watch");
    for caller in [&blue, &blue_watches] {
        let get = async |name: &str| {
            let path = format!("/api/streams/{name}");
            said(caller.ask(Method::GET, &path, None).await).await
        };
        let closed = get("acme-closed").await;
        assert_eq!(closed.0, 404);
        assert_eq!(closed, get("acme-nobody").await);
    }

    let everybody = [
        "acme-closed",
        "acme-hidden",
        "acme-open",
        "blue-closed",
        "demo",
    ];
    let administrator = Caller::new(&bench, "*", "manage");
    assert_eq!(administrator.list().await, everybody);
    let watcher = Caller::new(&bench, "acme-*", "watch");
    assert_eq!(watcher.list().await, ["acme-closed", "acme-open", "demo"]);
    assert_eq!(
        watcher
            .ask(Method::GET, "/api/streams/acme-closed", None)
            .await
            .status(),
        200
    );
    // No manager, no token, no good token.
    let nobody = Caller {
        bench: &bench,
        token: None,
    };
    assert_eq!(nobody.list().await, ["acme-open", "demo"]);
    let stranger = Caller {
        bench: &bench,
        token: Some("a.b.c".to_owned()),
    };
    for (caller, status) in [(&watcher, 403), (&nobody, 401), (&stranger, 401)] {
        assert_eq!(
            caller.create(json!({"name": "acme-x"})).await.status(),
            status
        );
        assert_eq!(caller.change("acme-open", json!({})).await.status(), status);
        assert_eq!(caller.delete("acme-open").await.status(), status);
        assert_eq!(caller.new_key("acme-open", None).await.status(), status);
    }
    // A token that is no good is told so first, and counted, whether the stream is there or not.
    for path in ["", "/acme-open", "/acme-closed", "/acme-nobody"] {
        let path = format!("/api/streams{path}");
        let answer = stranger.ask(Method::GET, &path, None).await;
        assert_eq!(answer.status(), 401, "{path}");
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_makes_as_many_streams_as_it_may_and_of_those_made_at_once_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::with(folder, Arc::new(InMemory::new()), None, |config| {
        let tenants = json!([{"prefix": "acme-", "max_streams": 3}]);
        config.tenants = serde_json::from_value(tenants).unwrap();
    })
    .await;
    let acme = Caller::new(&bench, "acme-*", "manage");
    let make = async |name: String| said(acme.create(json!({"name": name})).await).await;
    let made = futures::future::join_all((0..12).map(|n| make(format!("acme-{n}")))).await;
    let of = |status: u16| made.iter().filter(move |made| made.0 == status);
    assert_eq!((of(201).count(), of(409).count()), (3, 9), "{made:?}");
    assert!(of(409).all(|full| full.1.contains("urn:ghost-live:problem:too-many")));
    let mine = async || {
        let names = acme.list().await.into_iter();
        names.filter(|name| name.starts_with("acme-")).collect()
    };
    let made: Vec<String> = mine().await;
    assert_eq!(made.len(), 3);
    // The administrator's are not counted out, and there is room again where one goes.
    let administrator = Caller::new(&bench, "*", "manage");
    let more = administrator.create(json!({"name": "acme-more"})).await;
    assert_eq!(more.status(), 201);
    for (name, status) in [("acme-more", 409), (&*made[0], 201)] {
        assert_eq!(acme.delete(name).await.status(), 204);
        assert_eq!(make("acme-new".to_owned()).await.0, status, "{name}");
        if status == 409 {
            continue;
        }
        assert_eq!(make("acme-one-more".to_owned()).await.0, 409);
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_can_leave_the_one_before_it_for_a_while() {
    let bench = Bench::start().await;
    let acme = Caller::new(&bench, "acme-*", "manage");
    let first: Value = acme
        .create(json!({"name": "acme-one"}))
        .await
        .json()
        .await
        .unwrap();
    let second: Value = acme
        .new_key("acme-one", Some(json!({"overlap_s": 3600})))
        .await
        .json()
        .await
        .unwrap();
    assert!(second["old_key_until"].is_string());
    assert!(admits(&bench, &first["key"]).await && admits(&bench, &second["key"]).await);
    let (folder, store) = bench.end().await;
    let bench = Bench::on(folder, store, None).await;
    let acme = Caller::new(&bench, "acme-*", "manage");
    assert!(admits(&bench, &first["key"]).await && admits(&bench, &second["key"]).await);
    let short: Value = acme
        .new_key("acme-one", Some(json!({"overlap_s": 1})))
        .await
        .json()
        .await
        .unwrap();
    assert!(!admits(&bench, &first["key"]).await && admits(&bench, &short["key"]).await);
    assert!(admits(&bench, &second["key"]).await);
    let over = std::time::Instant::now() + Duration::from_secs(5);
    while admits(&bench, &second["key"]).await {
        assert!(std::time::Instant::now() < over, "the overlap ends");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let last: Value = acme.new_key("acme-one", None).await.json().await.unwrap();
    assert!(last["old_key_until"].is_null());
    assert!(!admits(&bench, &short["key"]).await && admits(&bench, &last["key"]).await);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_not_there_has_no_links_and_no_sessions_for_its_manager_either() {
    let bench = Bench::start().await;
    let acme = Caller::new(&bench, "acme-*", "manage");
    let link = json!({"name": "A link", "for_s": 60});
    for (method, path, body) in [
        (Method::GET, "links", None),
        (Method::POST, "links", Some(link)),
        (Method::DELETE, "links/AAAAAAAAAAAAAAAA", None),
        (Method::GET, "sessions", None),
        (Method::DELETE, "sessions/AAAAAAAAAAAAAAAA", None),
    ] {
        let path = format!("/api/streams/acme-gone/{path}");
        let answer = said(acme.ask(method, &path, body).await).await;
        assert_eq!(answer.0, 404, "{path}");
        assert!(answer.1.contains("urn:ghost-live:problem:no-stream"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_deleted_ends_with_its_objects_whoever_deletes_it() {
    for beside in [false, true] {
        let bench = Bench::start().await;
        let (mut source, mut link) = bench.on_air(2).await;
        assert!(!objects(&bench.store).await.is_empty());
        if beside {
            // By another process.
            let mut other = Database::open(&bench.folder.path().join("edge")).unwrap();
            other.delete(&stream(), wall_unix_ms()).unwrap();
        } else {
            let administrator = Caller::new(&bench, "*", "manage");
            assert_eq!(administrator.delete("demo").await.status(), 204);
        }
        let refused = tokio::time::timeout(Duration::from_secs(5), async {
            loop {
                match link.from_edge.recv().await {
                    Some(ToCore::Refused { .. }) => break true,
                    Some(_) => {}
                    None => break false,
                }
            }
        });
        assert!(refused.await.unwrap());
        let over = std::time::Instant::now() + Duration::from_secs(5);
        while !objects(&bench.store).await.is_empty() {
            assert!(std::time::Instant::now() < over, "its objects go");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(bench.get("/live/demo/index.m3u8").await.status(), 404);
        let (folder, store) = bench.end().await;
        let snapshots = folder.path().join("edge/broadcasts");
        assert_eq!(std::fs::read_dir(snapshots).unwrap().count(), 0);
        // What a box that was away still brings is looked for at later starts.
        let database = Database::open(&folder.path().join("edge")).unwrap();
        assert_eq!(database.deleted().unwrap(), [stream()]);
        drop(database);
        for message in source.segment(6, 0, false) {
            put_announced(&store, &message.message).await;
        }
        assert!(!objects(&store).await.is_empty());
        let bench = Bench::on(folder, store, None).await;
        bench.edge.sweep_deleted(i64::MAX).await;
        assert!(objects(&bench.store).await.is_empty());
        bench.end().await;
    }
}

/// Everything in the store.
async fn objects(store: &InMemory) -> Vec<Path> {
    let listed: Vec<_> = object_store::ObjectStore::list(store, None).collect().await;
    listed
        .into_iter()
        .map(|object| object.unwrap().location)
        .collect()
}

/// An edge with these tenants and these streams.
async fn bounded(folder: &std::path::Path, tenants: Value, streams: &[&str]) -> Edge {
    let config = Config {
        tenants: serde_json::from_value(tenants).unwrap(),
        ..config(folder)
    };
    let edge = Edge::start(config, Arc::new(InMemory::new()), assets()).unwrap();
    for name in streams {
        let name = name.parse().unwrap();
        edge.ensure_stream(&name, &Change::default()).await.unwrap();
    }
    edge
}

/// The first message of a broadcast of that stream.
fn opens(stream: &str, id: u8) -> (BroadcastId, Numbered) {
    let mut first = Source::new().open().swap_remove(0);
    let id = BroadcastId::from_random([id; 16]);
    let ToEdge::Opened(opened) = &mut first.message else {
        unreachable!("a broadcast begins with it");
    };
    (opened.stream, opened.broadcast) = (stream.parse().unwrap(), id.clone());
    (id, first)
}

/// The answer to a publisher who comes with the stream's key.
async fn publishes(edge: &Edge, folder: &std::path::Path, name: &str) -> Result<Admission, String> {
    let database = Database::open(&folder.join("edge")).unwrap();
    let stream = edge.stream(&name.parse().unwrap()).unwrap();
    let question = Admit {
        key: stream.key(database.seal()).unwrap().reveal(),
        stream: None,
        peer: "192.0.2.1:4000".to_owned(),
        ..Admit::default()
    };
    edge.admit(&question)
        .await
        .map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_go_live_at_once_in_one_place_one_does_and_another_tenant_s_are_not_counted() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = json!([{"prefix": "acme-", "max_broadcasts": 1}]);
    let streams = ["acme-a", "acme-b", "blue-a", "blue-b"];
    let edge = bounded(folder.path(), tenants, &streams).await;
    for name in streams {
        assert!(
            publishes(&edge, folder.path(), name).await.is_ok(),
            "{name}"
        );
    }
    let begin = |stream: &str, id| {
        let (edge, (id, first)) = (edge.clone(), opens(stream, id));
        tokio::task::spawn_blocking(move || {
            let begun = edge.begin_broadcast(&id, &first);
            begun.map(|live| live.stream.clone())
        })
    };
    let (one, other) = tokio::join!(begin("acme-a", 1), begin("acme-b", 2));
    let both = [one.unwrap(), other.unwrap()];
    let [began] = &both.iter().flatten().collect::<Vec<_>>()[..] else {
        panic!("one of both: {both:?}");
    };
    let refused = both.iter().find_map(|one| one.as_ref().err()).unwrap();
    assert!(refused.contains("(1)"), "{refused}");
    for name in ["blue-a", "blue-b"] {
        let (id, first) = opens(name, name.as_bytes()[5]);
        assert!(edge.begin_broadcast(&id, &first).is_ok());
        assert!(
            publishes(&edge, folder.path(), name).await.is_ok(),
            "{name}"
        );
    }
    // The encoder of the other hears why; that of the one may come back, and in its own place.
    let other = if began.as_str() == "acme-a" {
        "acme-b"
    } else {
        "acme-a"
    };
    let why = publishes(&edge, folder.path(), other).await.unwrap_err();
    assert!(why.contains("(1)"), "{why}");
    assert!(
        publishes(&edge, folder.path(), began.as_str())
            .await
            .is_ok()
    );
    let (id, first) = opens(began.as_str(), 9);
    assert!(edge.begin_broadcast(&id, &first).is_ok());
    // Its end makes room.
    let live = edge.live(&id).unwrap();
    live.end(protocol::link::CloseReason::Unpublished, edge.now_unix_ms());
    assert!(publishes(&edge, folder.path(), other).await.is_ok());
    let (id, first) = opens(other, 10);
    assert!(edge.begin_broadcast(&id, &first).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_is_given_the_limits_of_its_stream_within_its_tenant_s() {
    let folder = tempfile::tempdir().unwrap();
    let tenants =
        json!([{"prefix": "acme-", "max_fps": 30, "max_duration_s": 60, "max_viewers": 1}]);
    let edge = bounded(folder.path(), tenants, &["acme-a", "blue-a"]).await;
    let wide = json!({"limits": {"max_fps": 60, "max_height": 720, "max_duration_s": 3600, "max_viewers": 5}});
    let wide: Change = serde_json::from_value(wide).unwrap();
    for name in ["acme-a", "blue-a"] {
        let name = name.parse().unwrap();
        edge.change_stream(&name, wide.clone()).await.unwrap();
    }
    let admitted = publishes(&edge, folder.path(), "acme-a").await.unwrap();
    let limits = admitted.limits;
    assert_eq!((limits.max_fps, limits.max_height), (Some(30), Some(720)));
    let left = |admission: &Admission| admission.ends_unix_ms.unwrap() - wall_unix_ms();
    assert!((50_000..=60_000).contains(&left(&admitted)));
    let other = publishes(&edge, folder.path(), "blue-a").await.unwrap();
    assert_eq!(other.limits.max_fps, Some(60));
    assert!(left(&other) > 3_500_000);
    // Whoever comes back goes on with the time of the broadcast.
    let (id, first) = opens("acme-a", 1);
    let live = edge.begin_broadcast(&id, &first).unwrap();
    let began = live.with(crate::live::Broadcast::since_unix_ms);
    let again = publishes(&edge, folder.path(), "acme-a").await.unwrap();
    assert_eq!(again.ends_unix_ms, Some(began + 60_000));

    let (acme, blue) = ("acme-a".parse().unwrap(), "blue-a".parse().unwrap());
    assert!(edge.may_watch(&acme).is_ok());
    let viewer = protocol::session::Session::anonymous([7; 12], wall_unix_ms());
    let home = std::net::Ipv4Addr::LOCALHOST.into();
    let seen = (edge
        .sessions()
        .lock()
        .unwrap()
        .entry(acme.clone())
        .or_default())
    .seen(&viewer, None, None, home, edge.now_unix_ms());
    assert_eq!(seen, Ok(()));
    assert!(edge.may_watch(&acme).is_err(), "the tenant has one place");
    assert!(edge.may_watch(&blue).is_ok());
}
