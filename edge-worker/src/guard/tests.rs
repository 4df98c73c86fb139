#![allow(clippy::unwrap_used)]
use http::{HeaderMap, Method};
use protocol::names::BroadcastId;

use super::*;
use crate::routes;

const NOW: Duration = Duration::from_secs(1_000);

const NOBODY: Shown<'static> = Shown {
    secret: None,
    by_another_site: false,
};

fn with(secret: &str) -> Shown<'_> {
    Shown {
        secret: Some(secret),
        ..NOBODY
    }
}

fn guard(rules: Rules, rates: Rates) -> Guard {
    Guard::new(Proxies::default(), rules, rates, 4_096, [3; 16])
}

fn rule(allow: &[&str], deny: &[&str]) -> Rule {
    let ranges = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect();
    Rule {
        allow: ranges(allow),
        deny: ranges(deny),
    }
}

fn far(address: &str) -> Client {
    Client::named(address.parse().ok())
}

fn route(method: Method, path: &str) -> Route {
    routes::parse(&method, path, None).unwrap()
}

fn enter(guard: &Guard, route: &Route, client: Client) -> u16 {
    match guard.enter(Some(route), client, &NOBODY, NOW) {
        Ok(()) => 200,
        Err(problem) => problem.status.as_u16(),
    }
}

fn media(session: &str) -> Route {
    let broadcast = BroadcastId::from_random([1; 16]);
    let path = format!("/live/main/{broadcast}/{session}/v-source/index.m3u8");
    route(Method::GET, &path)
}

#[test]
fn each_class_of_routes_has_its_own_list_of_addresses() {
    let rules = Rules {
        publish: rule(&["192.0.2.0/24"], &[]),
        watch: rule(&[], &["203.0.113.0/24"]),
        manage: rule(&["198.51.100.7"], &[]),
    };
    let guard = guard(rules, Rates::default());
    let pages = ["/", "/watch/main", "/embed/main"].map(|path| route(Method::GET, path));
    let watch = [
        "/live/main/index.m3u8",
        "/live/main/manifest.mpd",
        "/api/streams",
        "/api/streams/main",
        "/api/time",
    ]
    .map(|path| route(Method::GET, path));
    let beacon = route(Method::POST, "/api/streams/main/beacon");
    for route in pages.iter().chain(&watch).chain([&beacon, &media("-")]) {
        assert_eq!(enter(&guard, route, far("203.0.113.5")), 403, "{route:?}");
        assert_eq!(enter(&guard, route, far("::ffff:203.0.113.5")), 403);
        assert_eq!(enter(&guard, route, far("192.0.2.5")), 200, "{route:?}");
    }
    for (method, path) in [
        (Method::GET, "/studio/main"),
        (Method::GET, "/api/studio/main"),
        (Method::POST, "/api/studio/main/rotate-key"),
        (Method::POST, "/api/tokens"),
    ] {
        let route = route(method, path);
        assert_eq!(enter(&guard, &route, far("192.0.2.5")), 403, "{path}");
        assert_eq!(enter(&guard, &route, far("198.51.100.7")), 200, "{path}");
    }
    for path in [
        "/healthz",
        "/readyz",
        "/.well-known/jwks.json",
        "/assets/a.js",
    ] {
        let route = route(Method::GET, path);
        assert_eq!(enter(&guard, &route, far("203.0.113.5")), 200, "{path}");
    }
    for (peer, expected) in [
        ("192.0.2.9:50000", Ok(())),
        ("[::ffff:192.0.2.9]:50000", Ok(())),
        ("192.0.2.9", Ok(())),
        ("198.51.100.7:1", Err(Refusal::Address)),
        ("127.0.0.1:1", Err(Refusal::Address)),
        ("nowhere", Err(Refusal::Address)),
    ] {
        assert_eq!(guard.publisher(peer, NOW), expected, "{peer}");
    }
}

/// What a player asks for in a second of low-latency HLS: two playlists and two parts, three times.
fn second_of_a_player() -> Vec<Route> {
    let object = format!(
        "/media/main/{}/v-source/7.aaaaaaaaaaaaaaaaaaaa.m4s",
        BroadcastId::from_random([1; 16])
    );
    let mut asked = vec![media("-"); 6];
    asked.extend(vec![route(Method::GET, &object); 6]);
    asked
}

#[test]
fn two_hundred_viewers_behind_one_address_come_at_once_and_watch() {
    let guard = guard(Rules::default(), Rates::default());
    let nat = far("203.0.113.5");
    let mut now = NOW;
    let ask = |route: &Route, now| {
        let entered = guard.enter(Some(route), nat, &NOBODY, now);
        assert_eq!(entered, Ok(()), "{route:?} at {now:?}");
    };
    // All open the page in the same moment.
    for _ in 0..200 {
        ask(&route(Method::GET, "/watch/main"), now);
        for _ in 0..15 {
            ask(&route(Method::GET, "/assets/player-abc.js"), now);
        }
        ask(&route(Method::GET, "/api/streams/main"), now);
        ask(&route(Method::GET, "/api/time"), now);
        ask(&route(Method::GET, "/live/main/index.m3u8"), now);
        // The window's last segments, before the edge is reached.
        for _ in 0..20 {
            ask(&media("-"), now);
        }
    }
    let second = second_of_a_player();
    for s in 0..60 {
        for _ in 0..200 {
            for route in &second {
                ask(route, now);
            }
        }
        if s % 15 == 0 {
            for _ in 0..200 {
                ask(&route(Method::POST, "/api/streams/main/beacon"), now);
            }
        }
        now += Duration::from_secs(1);
    }
}

#[test]
fn who_asks_too_often_is_told_how_long_to_wait_and_nobody_else_is() {
    let guard = guard(Rules::default(), Rates::default());
    let streams = route(Method::GET, "/api/streams");
    let client = far("203.0.113.5");
    let refused = (0..2_000)
        .filter_map(|_| guard.enter(Some(&streams), client, &NOBODY, NOW).err())
        .collect::<Vec<_>>();
    assert_eq!(refused.len(), 1_000);
    assert_eq!(refused[0].status, StatusCode::TOO_MANY_REQUESTS);
    let headers = refused[0].headers(Some(&streams));
    assert_eq!(headers["retry-after"], "1");
    assert_eq!(headers["cache-control"], "no-store");
    assert_eq!(headers["content-type"], "application/problem+json");
    assert_eq!(enter(&guard, &streams, far("203.0.113.6")), 200);
    assert_eq!(enter(&guard, &media("-"), client), 200, "another class");
    // Addresses that there are not cost as well.
    let unknown = (0..5_000)
        .filter(|_| guard.enter(None, client, &NOBODY, NOW).is_ok())
        .count();
    assert_eq!(unknown, 4_000);
}

#[test]
fn a_neighbour_that_may_be_a_proxy_is_not_limited() {
    let guard = guard(Rules::default(), Rates::default());
    let near = guard.client([127, 0, 0, 1].into(), &HeaderMap::new());
    let tokens = route(Method::POST, "/api/tokens");
    for _ in 0..1_000 {
        assert_eq!(guard.enter(Some(&tokens), near, &NOBODY, NOW), Ok(()));
        guard.answered(
            &tokens,
            near,
            &with("a wrong one"),
            StatusCode::UNAUTHORIZED,
            NOW,
        );
        assert_eq!(guard.publisher("127.0.0.1:1", NOW), Ok(()));
        guard.publisher_failed("127.0.0.1:1", NOW);
    }
}

#[test]
fn a_token_and_a_session_have_a_rate_of_their_own_wherever_they_come_from() {
    let guard = guard(Rules::default(), Rates::default());
    let tokens = route(Method::POST, "/api/tokens");
    let from = |n: usize| far(&format!("203.0.113.{n}"));
    let entered = (0..1_000)
        .filter(|n| {
            let client = from(n % 200);
            guard
                .enter(Some(&tokens), client, &with("one"), NOW)
                .is_ok()
        })
        .count();
    assert_eq!(entered, 200);
    assert!(
        guard
            .enter(Some(&tokens), from(1), &with("two"), NOW)
            .is_ok()
    );
    let session = media("c2Vzc2lvbg");
    let entered = (0..1_000)
        .filter(|n| enter(&guard, &session, from(n % 200)) == 200)
        .count();
    assert_eq!(entered, 300);
    assert_eq!(enter(&guard, &media("b3RoZXI"), from(1)), 200);
}

#[test]
fn wrong_keys_are_counted_together_and_let_nobody_of_that_address_try_on() {
    let guard = guard(Rules::default(), Rates::default());
    let tokens = route(Method::POST, "/api/tokens");
    let studio = route(Method::GET, "/api/studio/main");
    let client = far("203.0.113.5");
    for n in 0..30 {
        assert_eq!(enter(&guard, &tokens, client), 200, "{n}");
        guard.answered(
            &tokens,
            client,
            &with("a wrong one"),
            StatusCode::UNAUTHORIZED,
            NOW,
        );
        // What was right, and what was merely not there, costs nothing.
        guard.answered(
            &studio,
            client,
            &with("a wrong one"),
            StatusCode::NOT_FOUND,
            NOW,
        );
        assert_eq!(guard.publisher("203.0.113.5:7", NOW), Ok(()), "{n}");
        guard.publisher_failed("203.0.113.5:7", NOW);
    }
    let shown = with("another");
    let tries = |route: &Route| guard.enter(Some(route), client, &shown, NOW).is_ok();
    assert!(!tries(&tokens) && !tries(&studio));
    assert!(!tries(&route(Method::POST, "/internal/admit")));
    assert_eq!(
        guard.publisher("203.0.113.5:7", NOW),
        Err(Refusal::TooOften)
    );
    assert_eq!(guard.publisher("203.0.113.6:7", NOW), Ok(()));
    // Viewers behind the same address notice nothing, nor does who shows nothing.
    assert_eq!(enter(&guard, &studio, client), 200);
    assert_eq!(
        enter(&guard, &route(Method::GET, "/live/main/index.m3u8"), client),
        200
    );
    assert_eq!(enter(&guard, &media("-"), client), 200);
    let later = NOW + Duration::from_secs(1);
    assert_eq!(guard.publisher("203.0.113.5:7", later), Ok(()));
}

#[test]
fn what_shows_no_secret_or_comes_from_another_site_s_page_uses_up_nothing() {
    let guard = guard(Rules::default(), Rates::default());
    let studio = route(Method::GET, "/api/studio/main");
    let playlist = route(Method::GET, "/live/main/index.m3u8");
    let client = far("203.0.113.5");
    let cross = Shown::of(None, Some("Bearer x"), Some("cross-site"));
    assert!(cross.by_another_site && cross.secret == Some("x"));
    for site in ["same-origin", "none"] {
        assert!(!Shown::of(None, None, Some(site)).by_another_site);
    }
    for _ in 0..5_000 {
        for (route, shown, status) in [
            (&studio, &NOBODY, StatusCode::UNAUTHORIZED),
            (&playlist, &NOBODY, StatusCode::UNAUTHORIZED),
            (&playlist, &cross, StatusCode::UNAUTHORIZED),
            // A token that is good, and not for this.
            (&playlist, &with("good"), StatusCode::FORBIDDEN),
        ] {
            guard.answered(route, client, shown, status, NOW);
        }
        // Refused before anything is counted.
        let refused = guard.enter(Some(&studio), client, &cross, NOW).unwrap_err();
        assert_eq!(refused.status, 403);
    }
    let shown = with("good");
    assert!(guard.enter(Some(&studio), client, &shown, NOW).is_ok());
    assert!(guard.enter(Some(&playlist), client, &shown, NOW).is_ok());
    // Its own wrong ones do, wherever they stand; what shows none goes on.
    let query = Shown::of(Some("token=wrong"), None, None);
    for _ in 0..400 {
        guard.answered(&playlist, client, &query, StatusCode::UNAUTHORIZED, NOW);
    }
    let list = route(Method::GET, "/api/streams/main");
    for route in [&playlist, &list] {
        assert!(guard.enter(Some(route), client, &shown, NOW).is_err());
        assert!(guard.enter(Some(route), client, &NOBODY, NOW).is_ok());
    }
}

#[test]
fn a_token_asks_what_is_live_so_often_wherever_it_comes_from() {
    let rates = Rates {
        api_token: Rate { per_s: 1, burst: 3 },
        ..Rates::default()
    };
    let guard = guard(Rules::default(), rates);
    for path in ["/api/streams", "/api/streams/main", "/api/time"] {
        let route = route(Method::GET, path);
        let asks = |shown: &Shown<'_>| {
            let from = |n: u8| far(&format!("203.0.113.{n}"));
            let entered =
                (0..9).filter(|n| guard.enter(Some(&route), from(*n), shown, NOW).is_ok());
            entered.count()
        };
        assert_eq!(asks(&with(path)), 3, "{path}");
        assert_eq!(asks(&with(&format!("another, {path}"))), 3, "{path}");
        assert_eq!(asks(&NOBODY), 9, "{path}");
    }
}

#[test]
fn sessions_begin_so_often_from_one_address_and_with_one_token() {
    let guard = guard(Rules::default(), Rates::default());
    let begun = |client: &dyn Fn(usize) -> Client, token: Option<&str>| {
        let all = 0..10_000;
        all.filter(|n| guard.begins(client(*n), token, NOW).is_ok())
            .count()
    };
    let one = |_| far("203.0.113.5");
    assert_eq!(begun(&one, None), 300);
    let many = |n: usize| far(&format!("203.0.{}.{}", n / 200, n % 200));
    assert_eq!(begun(&many, Some("one")), 5_000);
    assert!(guard.begins(far("198.51.100.1"), Some("two"), NOW).is_ok());
}
