#![allow(clippy::unwrap_used)]
use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, Mac};
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::Sha256;

use super::*;

const HERE: &str = "ghost-live";
const NOW_S: i64 = 1_790_000_000;
const NOW: i64 = NOW_S * 1_000;

fn at(seconds: i64) -> Seconds {
    Seconds::of_unix_ms(seconds * 1_000)
}

fn signer(issuer: &str, seed: u8) -> SigningKey {
    SigningKey::from_seed(issuer, &[seed; 32]).unwrap()
}

/// The owner's key for all streams, and a team's for those of its tenant.
fn keys() -> KeySet {
    let mut keys = KeySet::default();
    keys.trust(signer(HERE, 1).verifying("", None).unwrap())
        .unwrap();
    keys.trust(signer("team", 2).verifying("team-", None).unwrap())
        .unwrap();
    keys
}

fn claims(iss: &str, stream: &str, act: &[Action]) -> Claims {
    Claims {
        iss: iss.to_owned(),
        aud: Audience::One(HERE.to_owned()),
        sub: "somebody".to_owned(),
        stream: stream.parse().unwrap(),
        act: Actions::new(act.iter().copied()).unwrap(),
        nbf: None,
        iat: Some(at(NOW_S)),
        exp: at(NOW_S + 3_600),
        sess_exp: None,
        ip: Vec::new(),
        max: None,
        jti: "abcdefghijklmnopqrstuv".to_owned(),
    }
}

fn watch(stream: &str) -> Claims {
    claims(HERE, stream, &[Action::Watch])
}

fn verify(token: &str) -> Result<Grant, Refusal> {
    keys().verify(token, HERE, NOW)
}

fn ask<'a>(action: Action, stream: &'a StreamName, address: &str) -> Ask<'a> {
    Ask {
        action,
        stream,
        address: address.parse().unwrap(),
    }
}

fn stream(name: &str) -> StreamName {
    name.parse().unwrap()
}

/// A token of any header and payload, signed with the owner's key.
fn signed(header: &str, payload: &str) -> String {
    use ed25519_dalek::Signer;
    let message = [header, payload]
        .map(|part| BASE64URL_NOPAD.encode(part.as_bytes()))
        .join(".");
    let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
    let signature = key.sign(message.as_bytes()).to_bytes();
    format!("{message}.{}", BASE64URL_NOPAD.encode(&signature))
}

fn header() -> String {
    json!({"typ": "JWT", "alg": "EdDSA", "kid": signer(HERE, 1).kid()}).to_string()
}

/// The claims of a good token with this one put in its place.
fn with(claim: &str, value: Value) -> String {
    let mut claims = serde_json::to_value(watch("main")).unwrap();
    claims[claim] = value;
    signed(&header(), &claims.to_string())
}

#[test]
fn what_was_minted_is_granted_and_allows_what_it_says_and_nothing_else() {
    let all = claims(HERE, "*", &Action::ALL);
    let some = Claims {
        nbf: Some(at(NOW_S)),
        sess_exp: Some(at(NOW_S + 60)),
        ip: vec![
            "192.0.2.0/24".parse().unwrap(),
            "2001:db8::/32".parse().unwrap(),
        ],
        max: std::num::NonZeroU32::new(2),
        ..claims(HERE, "main", &[Action::Watch, Action::Chat])
    };
    for (claims, covers) in [(all, true), (some, false)] {
        let token = signer(HERE, 1).mint(&claims).unwrap();
        let grant = verify(&token).unwrap();
        assert_eq!(grant.claims(), &claims);
        for action in Action::ALL {
            for name in ["main", "main2", "mai", "team-a"] {
                let name = stream(name);
                let allowed = grant.allows(&ask(action, &name, "192.0.2.7"));
                let expected = if !covers && name.as_str() != "main" {
                    Err(Refusal::Stream)
                } else if !claims.act.contains(action) {
                    Err(Refusal::Action(action))
                } else {
                    Ok(())
                };
                assert_eq!(allowed, expected, "{action} {name}");
            }
        }
    }
}

#[test]
fn a_token_with_networks_is_good_from_those_only_however_the_address_is_written() {
    let claims = Claims {
        ip: vec![
            "192.0.2.0/24".parse().unwrap(),
            "2001:db8::/32".parse().unwrap(),
        ],
        ..watch("main")
    };
    let grant = verify(&signer(HERE, 1).mint(&claims).unwrap()).unwrap();
    let main = stream("main");
    for (address, allowed) in [
        ("192.0.2.255", true),
        ("::ffff:192.0.2.1", true),
        ("2001:db8::1", true),
        ("192.0.3.1", false),
        ("::ffff:192.0.3.1", false),
        ("2001:db9::1", false),
        ("::1", false),
    ] {
        let answer = grant.allows(&ask(Action::Watch, &main, address));
        let expected = if allowed {
            Ok(())
        } else {
            Err(Refusal::Address)
        };
        assert_eq!(answer, expected, "{address}");
    }
}

#[test]
fn times_are_compared_with_the_time_that_is_passed_in() {
    let claims = Claims {
        nbf: Some(at(NOW_S)),
        sess_exp: Some(at(NOW_S + 7_200)),
        ..watch("main")
    };
    let token = signer(HERE, 1).mint(&claims).unwrap();
    let keys = keys();
    for (now_ms, expected) in [
        (NOW - 10_001, Err(Refusal::NotYet)),
        (NOW - 10_000, Ok(())),
        (NOW + 3_599_999, Ok(())),
        (NOW + 3_600_000, Err(Refusal::Expired)),
        (i64::MIN, Err(Refusal::NotYet)),
        (i64::MAX, Err(Refusal::Expired)),
    ] {
        let verified = keys.verify(&token, HERE, now_ms);
        assert_eq!(verified.map(|_| ()), expected, "{now_ms}");
    }
    // A session's end bounds its beginning too.
    let short = Claims {
        sess_exp: Some(at(NOW_S + 5)),
        ..watch("main")
    };
    let token = signer(HERE, 1).mint(&short).unwrap();
    let grant = keys.verify(&token, HERE, NOW + 4_999).unwrap();
    assert_eq!(grant.session_ends_unix_ms(), Some(NOW + 5_000));
    assert_eq!(
        keys.verify(&token, HERE, NOW + 5_000),
        Err(Refusal::Expired)
    );
}

#[test]
fn a_token_from_the_future_is_not_valid_yet() {
    // It would outlast every revocation of its subject.
    let claims = |seconds| Claims {
        iat: Some(at(NOW_S + seconds)),
        ..watch("main")
    };
    let mint = |seconds| signer(HERE, 1).mint(&claims(seconds)).unwrap();
    assert!(verify(&mint(10)).is_ok(), "a fast clock is forgiven");
    assert_eq!(verify(&mint(11)), Err(Refusal::NotYet));
}

#[test]
fn an_issuer_signs_for_its_own_tenant_and_in_its_own_name() {
    let team = signer("team", 2);
    let good = claims("team", "team-*", &[Action::Manage]);
    assert!(verify(&team.mint(&good).unwrap()).is_ok());
    for wide in ["*", "t*", "team*", "main", "other-*"] {
        let token = team.mint(&claims("team", wide, &[Action::Watch])).unwrap();
        assert_eq!(verify(&token), Err(Refusal::Stream), "{wide}");
    }
    // In the owner's name, by the team's key.
    let forger = signer(HERE, 2);
    let token = forger.mint(&watch("main")).unwrap();
    assert_eq!(verify(&token), Err(Refusal::Signature));
    assert_eq!(
        team.mint(&watch("main")),
        Err(MintError::Issuer(HERE.to_owned()))
    );
    assert_eq!(
        verify(&signer(HERE, 3).mint(&watch("main")).unwrap()),
        Err(Refusal::Key),
        "a key that nobody trusts"
    );
}

#[test]
fn a_token_for_another_installation_is_refused() {
    let elsewhere = Claims {
        aud: Audience::One("elsewhere".to_owned()),
        ..watch("main")
    };
    let token = signer(HERE, 1).mint(&elsewhere).unwrap();
    assert_eq!(verify(&token), Err(Refusal::Audience));
    assert!(keys().verify(&token, "elsewhere", NOW).is_ok());
    assert_eq!(verify(&with("aud", json!([]))), Err(Refusal::Audience));
    assert!(verify(&with("aud", json!(["elsewhere", HERE]))).is_ok());
}

#[test]
fn a_rotated_key_goes_on_until_it_retires() {
    let (old, new) = (signer(HERE, 1), signer(HERE, 4));
    let mut keys = KeySet::default();
    keys.trust(old.verifying("", Some(NOW + 1_000)).unwrap())
        .unwrap();
    keys.trust(new.verifying("", None).unwrap()).unwrap();
    let twice = new.verifying("", None).unwrap();
    assert_eq!(keys.trust(twice), Err(KeyError::Twice(new.kid())));
    for (signer, after) in [(&old, Err(Refusal::Key)), (&new, Ok(()))] {
        let token = signer.mint(&watch("main")).unwrap();
        assert!(keys.verify(&token, HERE, NOW + 999).is_ok());
        assert_eq!(keys.verify(&token, HERE, NOW + 1_000).map(|_| ()), after);
    }
    assert_eq!(keys.jwks(HERE, NOW).keys.len(), 2);
    let left = keys.jwks(HERE, NOW + 1_000).keys;
    assert_eq!(
        left.iter().map(|k| &k.kid).collect::<Vec<_>>(),
        [&new.kid()]
    );
    assert!(keys.jwks("team", NOW).keys.is_empty());
}

#[test]
fn the_published_key_is_as_rfc_8037_has_it() {
    // Appendices A.1 to A.3.
    let seed = BASE64URL_NOPAD
        .decode(b"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")
        .unwrap();
    let key = SigningKey::from_seed(HERE, seed.as_slice().try_into().unwrap()).unwrap();
    assert!("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k".starts_with(&key.kid()));
    let mut keys = KeySet::default();
    keys.trust(key.verifying("", None).unwrap()).unwrap();
    assert_eq!(
        serde_json::to_value(keys.jwks(HERE, NOW)).unwrap(),
        json!({"keys": [{
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "kPrK_qmx",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        }]})
    );
}

#[test]
fn a_token_of_another_library_is_read() {
    // Made with the crypto module of Node.js 20: a key of 32 bytes 7, a fraction in `iat`, claims that nobody here knows.
    let x = "6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw";
    let token = "eyJraWQiOiJ0ZWFtLTEiLCJhbGciOiJFZERTQSJ9.eyJqdGkiOiI3ZjNjIiwiaWF0IjoxNzkwMDAwMDAwLjUsImV4cCI6MTc5MDAwMzYwMCwiYXVkIjpbImdob3N0LWxpdmUiLCJjaGF0Il0sImlzcyI6Imh0dHBzOi8vdGVhbS5leGFtcGxlIiwic3ViIjoidXNlciA0MiIsInN0cmVhbSI6InRlYW0tKiIsImFjdCI6WyJ3YXRjaCIsImNoYXQiXSwiZXh0cmEiOnsiYSI6WzFdfX0.ea6h_dQlgxyJzkR9z_OyISQlha0AzsFpTwxODZlvJWXUxq9rBYYgz9BZfN8TWRZAEOGeXHSwC1rWMYLOmohdBw";
    let mut keys = KeySet::default();
    let issuer = "https://team.example";
    keys.trust(VerifyingKey::new(issuer, "team-", x, Some("team-1"), None).unwrap())
        .unwrap();
    let grant = keys.verify(token, HERE, NOW).unwrap();
    assert_eq!(grant.claims().sub, "user 42");
    assert_eq!(grant.claims().iat, Some(at(NOW_S)));
    assert!(
        grant
            .allows(&ask(Action::Chat, &stream("team-a"), "::1"))
            .is_ok()
    );
}

#[test]
fn other_algorithms_and_headers_that_want_more_are_refused() {
    let kid = signer(HERE, 1).kid();
    let payload = serde_json::to_string(&watch("main")).unwrap();
    assert!(verify(&signed(&header(), &payload)).is_ok());
    for (header, expected) in [
        (json!({"alg": "none", "kid": kid}), Refusal::Malformed),
        (json!({"alg": "NONE", "kid": kid}), Refusal::Malformed),
        (json!({"alg": "eddsa", "kid": kid}), Refusal::Malformed),
        (json!({"alg": "HS256", "kid": kid}), Refusal::Key),
        (json!({"alg": "ES256", "kid": kid}), Refusal::Key),
        (json!({"alg": "RS256", "kid": kid}), Refusal::Key),
        (json!({"alg": "EdDSA"}), Refusal::Key),
        (json!({"alg": "EdDSA", "kid": ""}), Refusal::Key),
        (
            json!({"alg": "EdDSA", "kid": signer("team", 2).kid()}),
            Refusal::Signature,
        ),
        (json!({"alg": "EdDSA", "kid": [kid]}), Refusal::Malformed),
        (
            json!({"alg": "EdDSA", "kid": kid, "crit": ["b64"], "b64": false}),
            Refusal::Malformed,
        ),
        (json!({"kid": kid}), Refusal::Malformed),
        (json!([]), Refusal::Malformed),
    ] {
        let token = signed(&header.to_string(), &payload);
        assert_eq!(verify(&token), Err(expected), "{header}");
        // Nor without its signature.
        let unsigned = format!("{}.", token.rsplit_once('.').unwrap().0);
        assert!(verify(&unsigned).is_err(), "{header}");
    }
    // A key in the header is not what is trusted.
    let jwk = keys().jwks("team", NOW).keys.remove(0);
    let brought = json!({"alg": "EdDSA", "kid": kid, "jwk": jwk}).to_string();
    let team = signer("team", 2)
        .mint(&claims("team", "team-a", &[Action::Watch]))
        .unwrap();
    let (_, signature) = team.rsplit_once('.').unwrap();
    let message = signed(&brought, &payload);
    let (message, _) = message.rsplit_once('.').unwrap();
    assert_eq!(
        verify(&format!("{message}.{signature}")),
        Err(Refusal::Signature)
    );
    // One field twice: whom a second reader believes is not for us to guess.
    let twice = format!(r#"{{"alg":"none","alg":"EdDSA","kid":"{kid}"}}"#);
    assert_eq!(verify(&signed(&twice, &payload)), Err(Refusal::Malformed));
}

#[test]
fn the_public_key_as_a_shared_secret_opens_nothing() {
    let jwk = keys().jwks(HERE, NOW).keys.remove(0);
    let payload = serde_json::to_string(&watch("main")).unwrap();
    let header = json!({"alg": "HS256", "kid": jwk.kid}).to_string();
    let message = [header, payload]
        .map(|part| BASE64URL_NOPAD.encode(part.as_bytes()))
        .join(".");
    for secret in [
        jwk.x.as_bytes(),
        &BASE64URL_NOPAD.decode(jwk.x.as_bytes()).unwrap(),
    ] {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
        mac.update(message.as_bytes());
        let tag = BASE64URL_NOPAD.encode(&mac.finalize().into_bytes());
        assert_eq!(verify(&format!("{message}.{tag}")), Err(Refusal::Key));
    }
}

#[test]
fn a_token_that_was_touched_anywhere_is_refused() {
    let token = signer(HERE, 1).mint(&watch("main")).unwrap();
    for end in 0..token.len() {
        assert!(verify(&token[..end]).is_err(), "cut at {end}");
    }
    for (place, byte) in token.bytes().enumerate() {
        // The last character of a part has bits to spare: those have to be zero, or one token would have several texts.
        for other in [b'A', b'B', b'_', b'.', b'=', b' ', 0, byte ^ 1] {
            if other == byte {
                continue;
            }
            let mut touched = token.clone().into_bytes();
            touched[place] = other;
            if let Ok(touched) = String::from_utf8(touched) {
                assert!(verify(&touched).is_err(), "{touched}");
            }
        }
    }
    for added in ["=", " ", "\n", ".", ".e30", "A", "\u{0}"] {
        assert!(
            verify(&format!("{token}{added}")).is_err(),
            "{added:?} behind it"
        );
        assert!(
            verify(&format!("{added}{token}")).is_err(),
            "{added:?} before it"
        );
    }
    assert_eq!(
        verify(&"a".repeat(MAX_BYTES + 1)),
        Err(Refusal::TooLong(MAX_BYTES + 1))
    );
}

#[test]
fn claims_of_other_shapes_are_refused() {
    for (claim, value) in [
        ("iss", json!(1)),
        ("aud", json!({"has": HERE})),
        ("sub", json!("")),
        ("sub", json!("x".repeat(129))),
        ("sub", json!(["somebody"])),
        ("jti", json!("")),
        ("jti", Value::Null),
        ("stream", json!("")),
        ("stream", json!("**")),
        ("stream", json!("ma*n")),
        ("stream", json!("*main")),
        ("stream", json!("Main")),
        ("stream", json!("../main")),
        ("stream", json!(["main"])),
        ("act", json!([])),
        ("act", json!("")),
        ("act", json!("watch chat")),
        ("act", json!("Watch")),
        ("act", json!(["watch", "everything"])),
        ("exp", json!("1790003600")),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("exp", json!(253_402_300_800_i64)),
        ("exp", Value::Null),
        ("nbf", json!("soon")),
        ("sess_exp", json!(true)),
        ("ip", json!("192.0.2.1/24")),
        ("ip", json!(["192.0.2.1"])),
        ("ip", json!(["everywhere"])),
        ("max", json!(0)),
        ("max", json!(-1)),
        ("max", json!(1.5)),
    ] {
        let token = with(claim, value.clone());
        assert_eq!(verify(&token), Err(Refusal::Malformed), "{claim} {value}");
    }
    let whole = serde_json::to_string(&watch("main")).unwrap();
    for payload in ["", "{}", "[]", "null", "{", &whole[..whole.len() - 1]] {
        assert_eq!(
            verify(&signed(&header(), payload)),
            Err(Refusal::Malformed),
            "{payload}"
        );
    }
    // Each that is required, left out; and one of them twice.
    for claim in ["iss", "aud", "sub", "jti", "stream", "act", "exp"] {
        let mut claims = serde_json::to_value(watch("main")).unwrap();
        claims.as_object_mut().unwrap().remove(claim);
        let token = signed(&header(), &claims.to_string());
        assert_eq!(verify(&token), Err(Refusal::Malformed), "without {claim}");
    }
    let twice = whole.replacen('{', r#"{"stream":"other","#, 1);
    assert_eq!(verify(&signed(&header(), &twice)), Err(Refusal::Malformed));
    // An address is a network of one.
    assert!(verify(&with("ip", json!(["192.0.2.1/32"]))).is_ok());
    assert!(verify(&with("more", json!({"of": "it"}))).is_ok());
}

#[test]
fn what_does_not_fit_into_srt_is_not_minted_for_publishing() {
    let long = |action| Claims {
        nbf: Some(at(NOW_S)),
        sess_exp: Some(at(NOW_S)),
        ip: vec!["2001:db8:1111:2222::/64".parse().unwrap()],
        ..claims(HERE, "main", &[action])
    };
    let refused = signer(HERE, 1).mint(&long(Action::Publish));
    assert!(
        matches!(refused, Err(MintError::TooLong(401.., MAX_PUBLISH_BYTES))),
        "{refused:?}"
    );
    assert!(signer(HERE, 1).mint(&long(Action::Watch)).is_ok());
    let longer = Claims {
        ip: vec!["2001:db8:1111:2222::/64".parse().unwrap(); 30],
        ..watch("main")
    };
    let refused = signer(HERE, 1).mint(&longer);
    assert!(
        matches!(refused, Err(MintError::TooLong(_, MAX_BYTES))),
        "{refused:?}"
    );
    // An encoder's, with everything that there is but networks and a beginning.
    let usual = Claims {
        sub: "studio north".to_owned(),
        sess_exp: Some(at(NOW_S)),
        max: std::num::NonZeroU32::new(1),
        ..claims(HERE, "main-stage", &[Action::Publish])
    };
    assert!(signer(HERE, 1).mint(&usual).is_ok());
    let nobody = Claims {
        sub: String::new(),
        ..watch("main")
    };
    assert_eq!(signer(HERE, 1).mint(&nobody), Err(MintError::Text));
}

#[test]
fn keys_that_are_none_are_not_trusted() {
    let good = &keys().jwks(HERE, NOW).keys[0].x;
    let new = |issuer, tenant, x, kid| VerifyingKey::new(issuer, tenant, x, kid, None);
    assert!(new("team", "team-", good, Some("k")).is_ok());
    let wrong = ["A".repeat(43), "_".repeat(43), format!("{good}=")];
    for bad in ["", "AAAA", "+/+/"]
        .into_iter()
        .chain(wrong.iter().map(String::as_str))
    {
        assert!(
            matches!(new("team", "", bad, None), Err(KeyError::Public(_))),
            "{bad}"
        );
    }
    assert!(matches!(new("", "", good, None), Err(KeyError::Name(_))));
    assert!(matches!(
        new("team", "", good, Some("")),
        Err(KeyError::Name(_))
    ));
    for bad in ["*", "Team-", "-", "a/b"] {
        assert!(
            matches!(new("team", bad, good, None), Err(KeyError::Tenant(_))),
            "{bad}"
        );
    }
    let debug = format!("{:?}", signer(HERE, 1));
    assert!(
        !debug.contains("[1, 1") && debug.contains(&signer(HERE, 1).kid()),
        "{debug}"
    );
}

#[test]
fn a_revocation_takes_back_what_it_names_and_nothing_else() {
    let grant = |claims: &Claims| verify(&signer(HERE, 1).mint(claims).unwrap()).unwrap();
    let (iss, main, other) = (HERE.to_owned(), stream("main"), stream("other"));
    let mine = grant(&watch("*"));
    let second = grant(&Claims {
        jti: "another".to_owned(),
        ..watch("*")
    });
    let somebody_else = grant(&Claims {
        sub: "somebody else".to_owned(),
        jti: "a third".to_owned(),
        ..watch("*")
    });
    let later = grant(&Claims {
        iat: Some(at(NOW_S + 1)),
        jti: "a fourth".to_owned(),
        ..watch("*")
    });
    let undated = grant(&Claims {
        iat: None,
        jti: "a fifth".to_owned(),
        ..watch("*")
    });
    let all = [&mine, &second, &somebody_else, &later, &undated];
    let token = Revoked::Token {
        iss: iss.clone(),
        jti: mine.claims().jti.clone(),
    };
    let subject = Revoked::Subject {
        iss,
        sub: "somebody".to_owned(),
    };
    let (by_id, by_subject) = (
        [true, false, false, false, false],
        [true, true, false, false, true],
    );
    for (what, reach, on_main, on_other) in [
        (token.clone(), "*", by_id, by_id),
        (token, "main", by_id, [false; 5]),
        (subject.clone(), "*", by_subject, by_subject),
        (subject, "o*", [false; 5], by_subject),
        (
            Revoked::All,
            "main",
            [true, true, true, false, true],
            [false; 5],
        ),
        (
            Revoked::Session(Tag::from_bytes([9; 12])),
            "*",
            [false; 5],
            [false; 5],
        ),
    ] {
        let mut revocations = Revocations::default();
        let revocation = Revocation {
            what: what.clone(),
            streams: reach.parse().unwrap(),
            at_unix_ms: NOW + 500,
            until_unix_ms: None,
        };
        let crossed = serde_json::to_string(&revocation).unwrap();
        let crossed: Revocation = serde_json::from_str(&crossed).unwrap();
        assert!(revocations.add(crossed.clone()));
        assert!(!revocations.add(crossed), "told twice it is the same");
        for (stream, expected) in [(&main, on_main), (&other, on_other)] {
            let refused = all.map(|grant| revocations.refuse(&grant.holder(), stream).is_err());
            assert_eq!(refused, expected, "{what:?} {reach} {stream}");
        }
    }
}

#[test]
fn a_manager_is_taken_back_by_those_who_manage_as_much_and_by_nobody_who_manages_less() {
    let manage = |streams| claims(HERE, streams, &[Action::Manage]);
    let grant = |streams| verify(&signer(HERE, 1).mint(&manage(streams)).unwrap()).unwrap();
    let subject = Revoked::Subject {
        iss: HERE.to_owned(),
        sub: manage("*").sub,
    };
    for (what, reach, holds, refused) in [
        (Revoked::All, "main", "main", true),
        (Revoked::All, "main", "*", false),
        (Revoked::All, "*", "main", true),
        (Revoked::All, "*", "*", true),
        (subject.clone(), "main", "main", true),
        (subject.clone(), "main", "*", false),
        (subject.clone(), "main", "m*", false),
        (subject.clone(), "m*", "main", true),
        (subject, "m*", "*", false),
    ] {
        let revocations = Revocations::from_iter([Revocation {
            what: what.clone(),
            streams: reach.parse().unwrap(),
            at_unix_ms: NOW,
            until_unix_ms: None,
        }]);
        let answer = revocations.refuse_manager(&grant(holds));
        assert_eq!(answer.is_err(), refused, "{what:?} {reach}: {holds}");
    }
}

#[test]
fn taking_back_all_contains_what_was_taken_back_of_it_before() {
    let token = |streams: &str, at_unix_ms, until_unix_ms| Revocation {
        what: Revoked::Token {
            iss: HERE.to_owned(),
            jti: "a".to_owned(),
        },
        streams: streams.parse().unwrap(),
        at_unix_ms,
        until_unix_ms,
    };
    let all_at = |streams: &str, at_unix_ms, until_unix_ms| Revocation {
        what: Revoked::All,
        ..token(streams, at_unix_ms, until_unix_ms)
    };
    // A token by a fast clock may say that it was issued so much later.
    let all = |streams: &str, until_unix_ms| all_at(streams, NOW + AHEAD_MS, until_unix_ms);
    let before = || {
        Revocations::from_iter([
            token("acme-a", NOW, None),
            token("acme-b", NOW + 1, None),
            token("acme-*", NOW, Some(NOW + 10)),
            all_at("acme-c", NOW, None),
            token("other", NOW, None),
        ])
    };
    for (taken_back, left) in [
        // What was taken back later stays, and what reaches further.
        (all("acme-*", None), 3),
        (all_at("acme-*", NOW + 5_000, None), 6),
        (all("acme-a", None), 5),
        (all("acme-*", Some(NOW + 10)), 5),
        (all("acme-c", None), 5),
        (all("*", None), 2),
    ] {
        let mut revocations = before();
        assert_eq!(revocations.len(), 5);
        revocations.add(taken_back.clone());
        assert_eq!(revocations.len(), left, "{taken_back:?}");
    }
    assert_eq!(before().within(&"acme-*".parse().unwrap()), 4);
    assert_eq!(before().within(&stream("acme-c").into()), 1);
}

#[test]
fn many_streams_that_were_deleted_are_read_and_added_to_by_looking_at_each_once() {
    const MANY: usize = 50_000;
    let deleted = |index: usize| Revocation {
        what: Revoked::All,
        streams: format!("acme-{index}").parse().unwrap(),
        at_unix_ms: NOW + AHEAD_MS,
        until_unix_ms: None,
    };
    // As a directory has them: nothing is looked for that one of them contains.
    let read: Revocations = (0..MANY).map(deleted).collect();
    assert_eq!(read.len(), MANY);
    let mut added = read.clone();
    let seen: usize = (0..MANY).map(|n| added.forget_within(&deleted(n))).sum();
    assert_eq!((seen, &added), (MANY, &read));
    let new = deleted(MANY);
    assert_eq!(added.forget_within(&new), 0);
    assert!(added.add(new));
    assert_eq!(added.within(&"acme-*".parse().unwrap()), MANY + 1);
    // One of a pattern looks at what it covers.
    let pattern = Revocation {
        streams: "acme-123*".parse().unwrap(),
        ..deleted(0)
    };
    assert_eq!(added.forget_within(&pattern), 1 + 10 + 100);
    let older = Revocation {
        at_unix_ms: NOW + 2 * AHEAD_MS,
        ..pattern
    };
    added.add(older);
    assert_eq!(added.len(), MANY + 1 - 111 + 1);
}

#[test]
fn what_another_s_fast_clock_signed_is_taken_back_with_what_was_issued_before() {
    let team = signer("team", 2);
    let token = |issued_s: i64| {
        let claims = Claims {
            iat: Some(at(NOW_S + issued_s)),
            ..claims("team", "team-a", &[Action::Watch])
        };
        team.mint(&claims).unwrap()
    };
    // Signed now by a clock that is eight seconds fast, taken back three seconds later, and shown again after that.
    let fast = token(8);
    for what in [
        Revoked::All,
        Revoked::Subject {
            iss: "team".to_owned(),
            sub: "somebody".to_owned(),
        },
    ] {
        let revocations = Revocations::from_iter([Revocation {
            what,
            streams: stream("team-a").into(),
            at_unix_ms: NOW + 3_000,
            until_unix_ms: None,
        }]);
        let refused = |token: &str, after_s: i64| {
            let grant = keys().verify(token, HERE, NOW + after_s * 1_000);
            let grant = grant.unwrap();
            assert!(
                grant.claims().iat.is_some(),
                "what it says is left as it is"
            );
            revocations.refuse(&grant.holder(), &stream("team-a"))
        };
        for after_s in [4, 60, 600] {
            assert_eq!(refused(&fast, after_s), Err(Refusal::Revoked), "{after_s}");
        }
        // How fast the clock is is not known: what it signs is good again once that is out of the question.
        assert_eq!(refused(&token(13), 13), Err(Refusal::Revoked));
        assert_eq!(refused(&token(14), 14), Ok(()));
    }
}

#[test]
fn what_is_given_out_in_the_second_of_a_revocation_is_good() {
    let (at, streams) = (NOW + 1, "acme-*");
    let revoke = |what| {
        Revocations::from_iter([Revocation {
            what,
            streams: streams.parse().unwrap(),
            at_unix_ms: at,
            until_unix_ms: None,
        }])
    };
    let wanted = watch("acme-a");
    let subject = Revoked::Subject {
        iss: HERE.to_owned(),
        sub: wanted.sub.clone(),
    };
    for what in [Revoked::All, subject] {
        let revocations = revoke(what);
        let claims = Claims {
            iat: Some(revocations.issue(&wanted, at + 10)),
            ..wanted.clone()
        };
        let good = revocations.refuse(&Holder::of(&claims), &stream("acme-a"));
        assert_eq!(good, Ok(()));
        let other = revocations.issue(&watch("other"), at + 10);
        assert_eq!(other, Seconds::of_unix_ms(at));
    }
}

#[test]
fn a_publisher_who_was_led_elsewhere_is_taken_back_where_they_came_from_as_well() {
    let grant = verify(&signer(HERE, 1).mint(&watch("main")).unwrap()).unwrap();
    let led = Credential {
        asked: Some(stream("main")),
        ..grant.credential()
    };
    let revocations = Revocations::from_iter([Revocation {
        what: Revoked::All,
        streams: stream("main").into(),
        at_unix_ms: NOW,
        until_unix_ms: None,
    }]);
    let refused = revocations.refuse_publisher(&led, &stream("other"));
    assert_eq!(refused, Err(Refusal::Revoked));
    let straight = revocations.refuse_publisher(&grant.credential(), &stream("other"));
    assert_eq!(straight, Ok(()));
    let crossed = serde_json::to_string(&led).unwrap();
    assert_eq!(serde_json::from_str::<Credential>(&crossed).unwrap(), led);
    assert!(keys().trusts(&led.signer.unwrap(), NOW));
    assert!(!keys().trusts(&Tag::signer(HERE, "another"), NOW));
}

#[test]
fn a_revocation_is_forgotten_once_nothing_can_come_of_it_and_not_before() {
    let of = |at_unix_ms, until_unix_ms| Revocation {
        what: Revoked::All,
        streams: stream("main").into(),
        at_unix_ms,
        until_unix_ms,
    };
    let grant = verify(&signer(HERE, 1).mint(&watch("main")).unwrap()).unwrap();
    let mut revocations = Revocations::default();
    assert!(revocations.add(of(NOW, Some(NOW + 10))));
    // An older or shorter one takes nothing away.
    assert!(!revocations.add(of(NOW - 5_000, Some(NOW + 5))));
    revocations.forget(NOW + 9);
    assert_eq!(
        revocations.refuse(&grant.holder(), &stream("main")),
        Err(Refusal::Revoked)
    );
    assert!(revocations.add(of(NOW, None)));
    assert!(!revocations.add(of(NOW, Some(NOW + 10))));
    revocations.forget(i64::MAX);
    assert_eq!(revocations.len(), 1);
    let mut short = Revocations::default();
    short.add(of(NOW, Some(NOW + 10)));
    short.forget(NOW + 10);
    assert!(short.is_empty());
}

proptest! {
    #[test]
    fn any_text_is_refused_and_nothing_worse(token in "\\PC{0,200}") {
        prop_assert!(verify(&token).is_err());
    }

    #[test]
    fn what_a_pattern_covers_lies_within_what_the_pattern_lies_within(
        pattern in "[a-c]{1,3}\\*?|\\*", name in "[a-c]{1,5}", prefix in "[a-c]{0,3}",
    ) {
        let (pattern, name): (StreamPattern, StreamName) = (pattern.parse().unwrap(), name.parse().unwrap());
        if pattern.within(&prefix) && pattern.covers(&name) {
            prop_assert!(name.as_str().starts_with(&prefix));
        }
    }
}
