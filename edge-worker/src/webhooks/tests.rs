#![allow(clippy::unwrap_used)]
//! What webhooks decide, without any.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_790_000_000_000;

fn hook(name: &str, streams: &str) -> Value {
    json!({"name": name, "url": "https://hooks.example.org/x", "on": ["publish", "watch"], "streams": streams})
}

fn hooks(list: &[Value]) -> Hooks {
    try_hooks(list).unwrap()
}

fn try_hooks(list: &[Value]) -> Result<Hooks, HookError> {
    let secret = || Secret::new("a secret of thirty-two characters");
    let hooks = list.iter().cloned().map(serde_json::from_value::<Hook>);
    Hooks::new(hooks.map(|hook| (hook.unwrap(), secret())))
}

fn name(text: &str) -> StreamName {
    text.parse().unwrap()
}

fn ask(on: On, stream: &str) -> Ask {
    Ask {
        on,
        stream: name(stream),
        protocol: Some(Protocol::Rtmps),
        address: "192.0.2.1".parse().ok(),
        token: None,
    }
}

fn read(answer: Value) -> Result<Answer, Failure> {
    Answer::read(answer.to_string().as_bytes())
}

fn verdict(
    hooks: &Hooks,
    ask: &Ask,
    answers: &[Result<Value, Failure>],
) -> (Result<Allowed, Denied>, Vec<(String, Failure)>) {
    let asked = hooks.asked(ask.on, &ask.stream);
    assert_eq!(asked.len(), answers.len());
    let answers = answers.iter().cloned().map(|answer| answer.and_then(read));
    decide(hooks, ask, asked.into_iter().zip(answers).collect(), NOW)
}

#[test]
fn a_question_says_who_wants_what() {
    let claims = json!({"iss": "acme", "aud": "ghost-live", "sub": "anna", "stream": "acme-*", "act": "publish",
        "exp": 1_790_000_100, "jti": "x"});
    let mut ask = ask(On::Publish, "acme-live");
    ask.address = "::ffff:192.0.2.1".parse().ok();
    ask.token = Some(serde_json::from_value(claims.clone()).unwrap());
    let body: Value = serde_json::from_slice(&ask.body("0a", NOW)).unwrap();
    assert_eq!(
        body,
        json!({"id": "0a", "time_unix_ms": NOW, "type": "admission", "action": "publish", "stream": "acme-live",
            "protocol": "rtmps", "address": "192.0.2.1", "token": claims})
    );
    ask.token = None;
    ask.protocol = None;
    let body: Value = serde_json::from_slice(&ask.body("0a", NOW)).unwrap();
    assert_eq!(
        (&body["token"], &body["protocol"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn only_what_is_an_answer_is_taken_for_one() {
    let allow = |stream: Option<&str>, lifetime_s| Answer::Allow {
        stream: stream.map(name),
        lifetime_s,
    };
    for (said, meant) in [
        (json!({"decision": "allow"}), allow(None, None)),
        (
            json!({"decision": "allow", "stream": "b", "lifetime_s": 60}),
            allow(Some("b"), Some(60)),
        ),
        (
            json!({"decision": "allow", "stream": null, "reason": null}),
            allow(None, None),
        ),
        (json!({"decision": "deny"}), Answer::Deny(None)),
        (
            json!({"decision": "deny", "reason": " not\u{1b}[31m \n today "}),
            Answer::Deny(Some("not[31m today".into())),
        ),
        (
            json!({"decision": "deny", "reason": "\u{7}\n"}),
            Answer::Deny(None),
        ),
    ] {
        assert_eq!(read(said.clone()).unwrap(), meant, "{said}");
    }
    let long = read(json!({"decision": "deny", "reason": "ä".repeat(5_000)})).unwrap();
    assert_eq!(long, Answer::Deny(Some("ä".repeat(MAX_REASON))));
    for no_answer in [
        json!({}),
        json!([]),
        json!(true),
        json!({"decision": true}),
        json!({"decision": "Allow"}),
        json!({"decision": "allow", "stram": "b"}),
        json!({"decision": "allow", "stream": "../b"}),
        json!({"decision": "allow", "lifetime_s": 0}),
        json!({"decision": "allow", "lifetime_s": -1}),
        json!({"decision": "allow", "lifetime_s": 1e300}),
        json!({"decision": "allow", "lifetime_s": MAX_LIFETIME_S + 1}),
        json!({"decision": "allow", "reason": "why not"}),
        json!({"decision": "deny", "stream": "b"}),
        json!({"decision": "deny", "lifetime_s": 5}),
    ] {
        assert!(
            matches!(read(no_answer.clone()), Err(Failure::Malformed(_))),
            "{no_answer}"
        );
    }
    for text in [
        "",
        "allow",
        "{\"decision\":\"allow\"",
        "{\"decision\":\"allow\"}{}",
        // Whichever of the two a reader takes, another reader takes the other.
        "{\"decision\":\"deny\",\"decision\":\"allow\"}",
    ] {
        assert!(
            matches!(Answer::read(text.as_bytes()), Err(Failure::Malformed(_))),
            "{text}"
        );
    }
    let huge = format!("{{\"decision\":\"allow\"{}}}", " ".repeat(MAX_ANSWER_BYTES));
    assert_eq!(Answer::read(huge.as_bytes()), Err(Failure::TooLong));
}

#[test]
fn the_head_has_to_be_that_of_an_answer() {
    assert_eq!(check_head(200, Some("application/json")), Ok(()));
    assert_eq!(
        check_head(200, Some("Application/JSON; charset=utf-8")),
        Ok(())
    );
    for status in [100, 103, 201, 204, 301, 302, 307, 401, 403, 404, 500, 503] {
        let checked = check_head(status, Some("application/json"));
        assert_eq!(checked, Err(Failure::Status(status)));
    }
    for other in [
        None,
        Some(""),
        Some("text/html"),
        Some("application/jsonp"),
        Some("text/plain; application/json"),
    ] {
        assert_eq!(check_head(200, other), Err(Failure::ContentType));
    }
}

#[test]
fn all_who_are_asked_have_to_allow_and_the_shortest_lifetime_counts() {
    let hooks = hooks(&[
        hook("all", "*"),
        hook("acme", "acme-*"),
        hook("other", "other-*"),
    ]);
    let ask = ask(On::Publish, "acme-live");
    let allow = || Ok(json!({"decision": "allow"}));
    let (allowed, failures) = verdict(&hooks, &ask, &[allow(), allow()]);
    assert_eq!(allowed, Ok(Allowed::freely(name("acme-live"))));
    assert!(failures.is_empty());
    let lifetimes = [60, 30].map(|s| Ok(json!({"decision": "allow", "lifetime_s": s})));
    let ends = verdict(&hooks, &ask, &lifetimes).0.unwrap().ends_unix_ms;
    assert_eq!(ends, Some(NOW + 30_000));
    let deny = || Ok(json!({"decision": "deny", "reason": "no"}));
    let failed = || Err(Failure::Deadline(5));
    for answers in [[allow(), deny()], [deny(), allow()], [failed(), deny()]] {
        let denied = verdict(&hooks, &ask, &answers).0;
        assert_eq!(denied, Err(Denied::Because("no".into())));
    }
    let (denied, failures) = verdict(&hooks, &ask, &[allow(), failed()]);
    assert_eq!(denied, Err(Denied::Unanswered));
    assert_eq!(failures, [("acme".to_owned(), Failure::Deadline(5))]);
}

#[test]
fn one_that_fails_lets_nobody_in_unless_its_configuration_says_so() {
    let mut open = hook("acme", "*");
    open["on_failure"] = json!("allow");
    let hooks = hooks(&[open]);
    let ask = ask(On::Watch, "a");
    for failure in [
        Failure::Deadline(5),
        Failure::TooLong,
        Failure::Shut(gate::Shut::Open),
    ] {
        let (allowed, failures) = verdict(&hooks, &ask, &[Err(failure)]);
        assert_eq!(allowed, Ok(Allowed::freely(name("a"))));
        assert_eq!(failures.len(), 1);
    }
    let denied = verdict(&hooks, &ask, &[Ok(json!({"decision": "deny"}))]).0;
    assert_eq!(denied, Err(Denied::NoReason));
}

#[test]
fn a_redirect_leads_only_where_the_same_webhooks_decide() {
    let hooks = hooks(&[hook("acme", "acme-*"), hook("inner", "acme-in-*")]);
    let to = |stream: &str| Ok(json!({"decision": "allow", "stream": stream}));
    let publish = ask(On::Publish, "acme-a");
    let allowed = verdict(&hooks, &publish, &[to("acme-b")]).0.unwrap();
    assert_eq!(allowed.stream, name("acme-b"));
    // Not another tenant's, and not past a webhook that was not asked.
    for stream in ["other", "acme", "acme-in-x"] {
        let (denied, failures) = verdict(&hooks, &publish, &[to(stream)]);
        assert_eq!(denied, Err(Denied::Unanswered));
        assert_eq!(failures[0].1, Failure::Elsewhere(name(stream)));
    }
    // Nor out of the reach of one of those that were.
    let both = ask(On::Publish, "acme-in-a");
    let allow = || Ok(json!({"decision": "allow"}));
    let (denied, _) = verdict(&hooks, &both, &[to("acme-b"), allow()]);
    assert_eq!(denied, Err(Denied::Unanswered));
    let allowed = verdict(&hooks, &both, &[to("acme-in-b"), to("acme-in-c")]);
    assert_eq!(allowed.0.unwrap().stream, name("acme-in-b"));
    // A viewer likewise.
    let (sent, _) = verdict(&hooks, &ask(On::Watch, "acme-a"), &[to("acme-b")]);
    assert_eq!(sent.unwrap().stream, name("acme-b"));
    let (denied, _) = verdict(&hooks, &ask(On::Watch, "acme-a"), &[to("other")]);
    assert_eq!(denied, Err(Denied::Unanswered));
}

#[test]
fn what_is_wrong_in_the_configuration_is_named() {
    let with = |key: &str, value: Value| {
        let mut hook = hook("acme", "*");
        hook[key] = value;
        try_hooks(&[hook]).unwrap_err().to_string()
    };
    for (key, value, says) in [
        ("name", json!("Acme"), "no name"),
        ("name", json!(""), "no name"),
        ("name", json!("x".repeat(33)), "no name"),
        ("url", json!("hooks.example.org"), "no address"),
        ("url", json!("ftp://hooks.example.org"), "no address"),
        ("url", json!("file:///etc/passwd"), "no address"),
        (
            "url",
            json!("https://me:pass@hooks.example.org"),
            "password",
        ),
        ("url", json!("http://127.0.0.1:8000/"), "this machine"),
        ("url", json!("http://2130706433/"), "this machine"),
        ("url", json!("http://0x7f.1/"), "this machine"),
        (
            "url",
            json!("http://[::ffff:169.254.169.254]/"),
            "not public",
        ),
        ("url", json!("http://169.254.169.254/latest/"), "link-local"),
        ("on", json!([]), "empty"),
        ("deadline_ms", json!(99), "deadline_ms is 99"),
        ("deadline_ms", json!(4_001), "use 100 to 4000"),
        ("max_concurrent", json!(0), "max_concurrent"),
    ] {
        let said = with(key, value.clone());
        assert!(said.contains(says), "{key} = {value}: {said}");
        assert!(!said.contains("pass@"), "{said}");
    }
    let mut near = hook("near", "*");
    near["url"] = json!("http://127.0.0.1:8000/");
    near["allow_networks"] = json!(["127.0.0.0/8"]);
    assert!(try_hooks(&[near]).is_ok());
    let twice = try_hooks(&[hook("a", "*"), hook("a", "b")]);
    assert_eq!(twice, Err(HookError::Twice("a".into())));
    let many: Vec<Value> = (0..65).map(|n| hook(&format!("h{n}"), "*")).collect();
    assert_eq!(try_hooks(&many), Err(HookError::TooMany(65)));
    let bare: Hook = serde_json::from_value(hook("a", "*")).unwrap();
    let bare = Hooks::new([(bare, None)]);
    assert_eq!(bare, Err(HookError::NoSecret("a".into())));
}

proptest! {
    #[test]
    fn no_bytes_are_taken_for_more_than_they_say(body in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Answer::read(&body).is_err());
    }

    #[test]
    fn an_answer_with_anything_else_in_it_lets_nobody_in(key in "[a-z_]{1,12}", value in "[a-z0-9]{0,12}") {
        prop_assume!(!["decision", "reason", "stream", "lifetime_s"].contains(&key.as_str()));
        let answer = read(json!({"decision": "allow", key: value}));
        prop_assert!(answer.is_err());
    }
}
