#![allow(clippy::unwrap_used)]
use super::*;

const BROADCAST: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaa";

fn get(target: &str) -> Result<Route, Problem> {
    let (path, query) = target
        .split_once('?')
        .map_or((target, None), |(p, q)| (p, Some(q)));
    parse(&Method::GET, path, query)
}

fn status(target: &str) -> u16 {
    get(target).map_or_else(|problem| problem.status.as_u16(), |_| 200)
}

#[test]
fn every_address_of_the_design_is_known() {
    let key = format!("demo/{BROADCAST}/v-source/7.aaaaaaaaaaaaaaaaaaaa.m4s");
    for target in [
        "/",
        "/watch/demo",
        "/embed/demo",
        "/studio/demo",
        "/assets/index-abc123.js",
        "/favicon.ico",
        "/live/demo/index.m3u8",
        "/live/demo/manifest.mpd",
        &format!(
            "/live/demo/{BROADCAST}/-/v-source/index.m3u8?_HLS_msn=3&_HLS_part=1&_HLS_skip=YES"
        ),
        &format!("/live/demo/{BROADCAST}/-/v-source/12.m4s"),
        &format!("/media/{key}"),
        "/api/streams",
        "/api/streams/demo",
        "/api/time",
        "/api/time?iso",
        "/api/studio/demo",
        "/api/webhooks/dead",
        "/healthz",
        "/readyz",
        &format!("/internal/link/{BROADCAST}"),
    ] {
        assert_eq!(status(target), 200, "{target}");
    }
    for (method, target) in [
        ("POST", "/api/streams/demo/beacon".to_owned()),
        ("POST", "/api/studio/demo/rotate-key".to_owned()),
        ("POST", "/api/studio/demo/log-out".to_owned()),
        ("POST", "/api/webhooks/dead/resend".to_owned()),
        (
            "POST",
            format!("/api/webhooks/dead/{BROADCAST}.live/resend"),
        ),
        ("POST", "/whep/demo".to_owned()),
        ("PATCH", format!("/whep/demo/{BROADCAST}/c2Vzc2lvbg")),
        ("DELETE", format!("/whep/demo/{BROADCAST}/c2Vzc2lvbg")),
        ("POST", "/internal/admit".to_owned()),
        ("POST", "/internal/broadcasts".to_owned()),
        ("PUT", format!("/internal/media/{key}")),
        ("PUT", "/internal/streams/demo".to_owned()),
    ] {
        let method: Method = method.parse().unwrap();
        assert!(parse(&method, &target, None).is_ok(), "{target}");
        assert_eq!(
            get(&target).unwrap_err().status,
            StatusCode::METHOD_NOT_ALLOWED,
            "{target}"
        );
    }
}

#[test]
fn other_addresses_are_not_found_and_never_lead_out_of_the_bundle() {
    for target in [
        "",
        "/..",
        "/assets/../x",
        "/assets//x",
        "/.env",
        "/%2e%2e/x",
        "/index.html",
        "/watch/",
        "/watch/Demo",
        "/live/demo",
        "/live/demo/x/-/v-source/index.m3u8",
        &format!("/live/demo/{BROADCAST}/../v-source/index.m3u8"),
        &format!("/live/demo/{BROADCAST}/-/v-source/-1.m4s"),
        &format!("/live/demo/{BROADCAST}/-/v-source/index.m3u8/x"),
        "/media/x",
        "/api/nothing",
        "/whep",
        "/whep/",
        "/whep/Demo",
        "/whep/demo/x/-",
        &format!("/whep/demo/{BROADCAST}/.."),
        &format!("/whep/demo/{BROADCAST}/-/x"),
        "/api/webhooks/dead/x/resend",
        "/api/webhooks/dead/%/resend",
        "/internal/nothing",
    ] {
        assert_eq!(status(target), 404, "{target}");
    }
    assert_eq!(status(&format!("/{}", "x".repeat(3_000))), 414);
}

#[test]
fn directives_that_no_player_sends_are_refused() {
    let playlist = |query: &str| {
        status(&format!(
            "/live/demo/{BROADCAST}/-/v-source/index.m3u8?{query}"
        ))
    };
    for query in [
        "_HLS_part=1",
        "_HLS_msn=-1",
        "_HLS_msn=+1",
        "_HLS_msn=",
        "_HLS_msn=x",
        "_HLS_msn=1.5",
        "_HLS_msn=99999999999999999999999",
        "_HLS_msn=1&_HLS_part=-1",
        "_HLS_msn=1&_HLS_msn=2",
        "_HLS_skip=maybe",
    ] {
        assert_eq!(playlist(query), 400, "{query}");
    }
    for query in [
        "",
        "_HLS_msn=1",
        "_HLS_skip=v2",
        "x=y&_HLS_msn=1&_HLS_part=0",
        "_HLS_push=0",
    ] {
        assert_eq!(playlist(query), 200, "{query}");
    }
}

#[test]
fn whatever_is_not_a_success_is_kept_by_nobody() {
    let value = |status, caching| {
        let map = headers(None, status, caching);
        map[header::CACHE_CONTROL].to_str().unwrap().to_owned()
    };
    for status in [400, 401, 403, 404, 405, 409, 413, 414, 416, 500, 503, 301] {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(value(status, Caching::Immutable), "no-store", "{status}");
    }
    assert!(value(StatusCode::OK, Caching::Immutable).contains("immutable"));
    assert!(value(StatusCode::PARTIAL_CONTENT, Caching::Immutable).contains("immutable"));
}

#[test]
fn pages_load_from_here_only_and_just_the_embed_page_is_framed() {
    let policy = |page| {
        let route = Route::Page(page, None);
        headers(Some(&route), StatusCode::OK, Caching::Revalidate)
    };
    for page in [Page::Home, Page::Watch, Page::Studio] {
        let map = policy(page);
        assert!(
            map[header::CONTENT_SECURITY_POLICY]
                .to_str()
                .unwrap()
                .ends_with("frame-ancestors 'none'")
        );
        assert_eq!(map[header::X_FRAME_OPTIONS], "DENY");
        assert!(!map.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    }
    let map = policy(Page::Embed);
    assert!(
        map[header::CONTENT_SECURITY_POLICY]
            .to_str()
            .unwrap()
            .ends_with("frame-ancestors *")
    );
    assert!(!map.contains_key(header::X_FRAME_OPTIONS));
}

#[test]
fn other_sites_read_what_is_public_and_nothing_of_the_studio() {
    for (target, shared) in [
        ("/live/demo/index.m3u8", true),
        ("/api/streams", true),
        ("/api/time", true),
        ("/api/studio/demo", false),
        ("/healthz", false),
    ] {
        let map = headers(Some(&get(target).unwrap()), StatusCode::OK, Caching::Never);
        assert_eq!(
            map.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN),
            shared,
            "{target}"
        );
    }
}

#[test]
fn other_sites_may_offer_and_read_what_they_need_of_the_answer() {
    let at = format!("/whep/demo/{BROADCAST}/c2Vzc2lvbg");
    for path in ["/whep/demo", &at] {
        let route = parse(&Method::OPTIONS, path, None).unwrap();
        let map = headers(Some(&route), StatusCode::NO_CONTENT, Caching::Never);
        let methods = map[header::ACCESS_CONTROL_ALLOW_METHODS].to_str().unwrap();
        for method in ["POST", "PATCH", "DELETE"] {
            assert!(methods.contains(method), "{methods}");
        }
        let fields = map[header::ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap();
        assert!(fields.contains("if-match") && fields.contains("authorization"));
        assert_eq!(map["accept-post"], "application/sdp");
        let exposed = map[header::ACCESS_CONTROL_EXPOSE_HEADERS].to_str().unwrap();
        for name in ["location", "link", "etag", "accept-patch", "retry-after"] {
            assert!(exposed.contains(name), "{exposed}");
        }
    }
}

#[test]
fn a_problem_has_its_type_its_status_and_a_sentence() {
    let body: serde_json::Value = serde_json::from_str(&Problem::not_live().body_json()).unwrap();
    assert_eq!(body["type"], "urn:ghost-live:problem:not-live");
    assert_eq!(body["status"], 404);
    assert!(body["detail"].as_str().unwrap().ends_with('.'));
}

#[test]
fn a_log_line_has_neither_session_nor_token_nor_media_key() {
    for (path, logged) in [
        (
            "/live/main/aaaa/c2Vzc2lvbg.x/v-source/index.m3u8",
            "/live/main/aaaa/…/v-source/index.m3u8",
        ),
        (
            "/live/main/aaaa/-/v-source/index.m3u8",
            "/live/main/aaaa/-/v-source/index.m3u8",
        ),
        (
            "/live/main/index.m3u8?token=eyJ.a.b",
            "/live/main/index.m3u8",
        ),
        (
            "/media/main/aaaa/v-source/7.bbbbbbbbbbbbbbbbbbbb.m4s",
            "/media/main/aaaa/v-source/…",
        ),
        (
            "/internal/media/main/aaaa/v-source/7.bbbb.m4s",
            "/internal/media/main/aaaa/v-source/…",
        ),
        ("/whep/main/aaaa/c2Vzc2lvbg", "/whep/main/aaaa/…"),
        ("/whep/main?token=eyJ.a.b", "/whep/main"),
        ("/internal/admit?key=secret", "/internal/admit"),
        ("/a\nb", "/ab"),
    ] {
        assert_eq!(redacted(path), logged);
    }
}
