#![allow(clippy::unwrap_used)]
use super::*;

const NOW: i64 = 1_790_000_000_000;
const HOME: &str = "192.0.2.1";

fn access() -> Access {
    let team = protocol::token::SigningKey::from_seed("team", &[9; 32]).unwrap();
    let mut keys = KeySet::default();
    keys.trust(team.verifying("team-", None).unwrap()).unwrap();
    let issuer = Issuer {
        issuer: "team".to_owned(),
        public_key: keys.jwks("team", NOW).keys.remove(0).x,
        kid: None,
        tenant: "team-".to_owned(),
    };
    Access::new(INSTALLATION, Keyring::new(&[1; 32], NOW), &[issuer]).unwrap()
}

fn wanted(stream: &str, act: &[Action]) -> Wanted {
    Wanted {
        stream: stream.parse().unwrap(),
        act: Actions::new(act.iter().copied()).unwrap(),
        sub: None,
        for_s: None,
        session_s: None,
        ip: Vec::new(),
        max: None,
    }
}

fn owners(access: &Access, wanted: &Wanted) -> String {
    access
        .mint_as_owner(wanted, &Revocations::default(), [3; 12], NOW)
        .unwrap()
        .token
}

fn question(key: &str, stream: Option<&str>) -> Admit {
    Admit {
        key: key.to_owned(),
        stream: stream.map(|name| name.parse().unwrap()),
        peer: format!("{HOME}:4000"),
        ..Admit::default()
    }
}

fn home() -> IpAddr {
    HOME.parse().unwrap()
}

#[test]
fn a_token_publishes_the_stream_that_it_or_the_address_names() {
    let access = access();
    let one = owners(&access, &wanted("main", &[Action::Publish]));
    let many = owners(&access, &wanted("team-*", &[Action::Publish]));
    let viewer = owners(&access, &wanted("main", &[Action::Watch]));
    let name = |text: &str| Ok(text.parse::<StreamName>().unwrap());
    for (token, stream, expected) in [
        (&one, None, name("main")),
        (&one, Some("main"), name("main")),
        (&one, Some("other"), Err(Refusal::Stream)),
        (&many, None, Err(Refusal::Stream)),
        (&many, Some("team-a"), name("team-a")),
        (&many, Some("main"), Err(Refusal::Stream)),
        (&viewer, None, Err(Refusal::Action(Action::Publish))),
    ] {
        let answer = access.publish(&question(token, stream), &Revocations::default(), NOW);
        let answer = answer.map(|(stream, _)| stream);
        assert_eq!(answer, expected, "{stream:?}");
    }
    let refused = |question: &Admit, now| {
        let answer = access.publish(question, &Revocations::default(), now);
        answer.err()
    };
    let mut from = question(&one, None);
    assert_eq!(refused(&from, NOW + 86_400_000), Some(Refusal::Expired));
    from.peer = "nowhere".to_owned();
    assert_eq!(refused(&from, NOW), Some(Refusal::Address));
    assert!(is_token(&one) && !is_token("main_aaaaaaaaaaaaaaaaaaaaaaaaaa"));
}

#[test]
fn who_manages_streams_mints_for_those_and_for_no_longer_than_they_may_themselves() {
    let access = access();
    let manager = Wanted {
        sub: Some("anna".to_owned()),
        for_s: Some(3_600),
        ip: vec!["192.0.2.0/24".parse().unwrap()],
        ..wanted("team-*", &[Action::Manage])
    };
    let bearer = owners(&access, &manager);
    let mint = |wanted: &Wanted| {
        access.mint(
            &bearer,
            home(),
            wanted,
            &Revocations::default(),
            [4; 12],
            NOW,
        )
    };
    let long = Wanted {
        for_s: Some(u64::MAX),
        session_s: Some(u64::MAX),
        ..wanted("team-a", &[Action::Watch, Action::Chat])
    };
    let minted = mint(&long).unwrap();
    let ask = |action, stream| Ask {
        action,
        stream,
        address: "203.0.113.9".parse().unwrap(),
    };
    let team = "team-a".parse().unwrap();
    let grant = access
        .check(
            &minted.token,
            &ask(Action::Watch, &team),
            &Revocations::default(),
            NOW,
        )
        .unwrap();
    assert_eq!(grant.claims().sub, "anna");
    assert_eq!(grant.claims().exp.unix_ms(), NOW + 3_600_000);
    assert_eq!(grant.session_ends_unix_ms(), Some(NOW + 3_600_000));
    assert_eq!(grant.claims().jti, minted.jti);
    assert!(mint(&wanted("team-*", &[Action::Publish])).is_ok());
    for wide in ["*", "team*", "main", "tea*"] {
        let refused = mint(&wanted(wide, &[Action::Watch]));
        assert_eq!(refused, Err(Refusal::Stream.into()), "{wide}");
    }
    let elsewhere = access.mint(
        &bearer,
        "198.51.100.1".parse().unwrap(),
        &long,
        &Revocations::default(),
        [4; 12],
        NOW,
    );
    assert_eq!(elsewhere, Err(Refusal::Address.into()));
    let watcher = owners(&access, &wanted("team-*", &[Action::Watch]));
    let refused = access.mint(
        &watcher,
        home(),
        &long,
        &Revocations::default(),
        [4; 12],
        NOW,
    );
    assert_eq!(refused, Err(Refusal::Action(Action::Manage).into()));
    for nobody in ["", "x", "a.b.c"] {
        assert!(
            access
                .mint(nobody, home(), &long, &Revocations::default(), [4; 12], NOW)
                .is_err()
        );
    }
}

#[test]
fn what_is_asked_for_ends_with_whoever_asked_and_reaches_no_further() {
    let minted = |access: &Access, bearer: &str, wanted: &Wanted, now| {
        let minted = access.mint(
            bearer,
            home(),
            wanted,
            &Revocations::default(),
            [5; 12],
            now,
        )?;
        let ask = Ask {
            action: Action::Manage,
            stream: &"main".parse().unwrap(),
            address: home(),
        };
        Ok::<_, NotMinted>(
            access
                .check(&minted.token, &ask, &Revocations::default(), now)
                .unwrap()
                .claims()
                .clone(),
        )
    };
    let access = access();
    let manage = wanted("main", &[Action::Manage]);
    // With the session of the one it was asked for with, though that one's own time is longer.
    let short = Wanted {
        session_s: Some(60),
        ..manage.clone()
    };
    let child = minted(&access, &owners(&access, &short), &manage, NOW).unwrap();
    let ends = Seconds::of_unix_ms(NOW + 60_000);
    assert_eq!((child.exp, child.sess_exp), (ends, Some(ends)));
    // After 30 days.
    let long = Wanted {
        for_s: Some(u64::MAX),
        ..manage.clone()
    };
    let child = minted(&access, &owners(&access, &long), &long, NOW).unwrap();
    assert_eq!(child.exp.unix_ms(), NOW + 30 * 86_400_000);
    // With the key of the one it was asked for with.
    let before = owners(&access, &long);
    let mut ring = Keyring::new(&[1; 32], NOW);
    ring.rotate(&[2; 32], 5_000, NOW).unwrap();
    let rotated = Access::new(INSTALLATION, ring, &[]).unwrap();
    let child = minted(&rotated, &before, &long, NOW).unwrap();
    assert_eq!(child.exp.unix_ms(), NOW + 5_000);
    // From no more networks, where it can manage; viewers may be anywhere.
    let bound = Wanted {
        ip: vec!["192.0.2.0/24".parse().unwrap()],
        ..manage.clone()
    };
    let bearer = owners(&access, &bound);
    assert_eq!(minted(&access, &bearer, &manage, NOW).unwrap().ip, bound.ip);
    let wide = Wanted {
        ip: vec!["192.0.0.0/16".parse().unwrap()],
        ..manage.clone()
    };
    let refused = minted(&access, &bearer, &wide, NOW);
    assert_eq!(refused, Err(Refusal::Address.into()));
    let viewer = access.mint(
        &bearer,
        home(),
        &wanted("main", &[Action::Watch]),
        &Revocations::default(),
        [5; 12],
        NOW,
    );
    assert!(viewer.is_ok());
}

#[test]
fn nobody_else_signs_in_this_installation_s_name() {
    let issuer = Issuer {
        issuer: INSTALLATION.to_owned(),
        public_key: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo".to_owned(),
        kid: None,
        tenant: "team-".to_owned(),
    };
    let refused = Access::new(INSTALLATION, Keyring::new(&[1; 32], NOW), &[issuer]);
    assert_eq!(refused.unwrap_err(), KeyError::Own(INSTALLATION.to_owned()));
}

#[test]
fn a_rotated_keyring_signs_anew_and_trusts_what_was_signed_until_the_overlap_is_over() {
    let before = access();
    let token = owners(&before, &wanted("*", &Action::ALL));
    let mut ring = Keyring::new(&[1; 32], NOW);
    ring.rotate(&[2; 32], 60_000, NOW).unwrap();
    let ring = Keyring::from_json(&ring.to_json()).unwrap();
    let after = Access::new(INSTALLATION, ring.clone(), &[]).unwrap();
    let main = "main".parse().unwrap();
    let ask = Ask {
        action: Action::Watch,
        stream: &main,
        address: home(),
    };
    assert_eq!(after.jwks(NOW).keys.len(), 2);
    assert!(
        after
            .check(&token, &ask, &Revocations::default(), NOW + 59_999)
            .is_ok()
    );
    assert_eq!(
        after.check(&token, &ask, &Revocations::default(), NOW + 60_000),
        Err(Refusal::Key)
    );
    let newer = owners(&after, &wanted("*", &Action::ALL));
    assert!(
        after
            .check(&newer, &ask, &Revocations::default(), NOW + 60_000)
            .is_ok()
    );
    assert_eq!(
        before.check(&newer, &ask, &Revocations::default(), NOW),
        Err(Refusal::Key)
    );
    // The one that retired is forgotten at the next turn; without an overlap nothing before is trusted.
    let mut again = ring.clone();
    again.rotate(&[3; 32], 60_000, NOW + 60_000).unwrap();
    let again = Access::new(INSTALLATION, again, &[]).unwrap();
    assert_eq!(again.jwks(NOW + 60_000).keys.len(), 2);
    let mut sharp = ring;
    sharp.rotate(&[3; 32], 0, NOW).unwrap();
    let sharp = Access::new(INSTALLATION, sharp, &[]).unwrap();
    assert_eq!(
        sharp.check(&newer, &ask, &Revocations::default(), NOW),
        Err(Refusal::Key)
    );
}

#[test]
fn a_keyring_is_read_whole_or_not_and_never_printed() {
    let mut ring = Keyring::new(&[0xab; 32], NOW);
    let text = ring.to_json();
    assert_eq!(Keyring::from_json(&text), Ok(ring.clone()));
    assert_eq!(format!("{ring:?}"), "Keyring(1 keys)");
    for bad in [
        "",
        "{}",
        "[]",
        &text[1..],
        &text.replace("q6ur", "q6u"),
        &text.replace("seed", "sead"),
    ] {
        assert_eq!(
            Keyring::from_json(bad),
            Err(KeyringError::Malformed),
            "{bad}"
        );
    }
    assert_eq!(
        Keyring::from_json(r#"{"keys":[]}"#),
        Err(KeyringError::Count(0))
    );
    for n in 0..7 {
        ring.rotate(&[n; 32], 1_000, NOW).unwrap();
    }
    let full = ring.clone();
    assert_eq!(
        ring.rotate(&[7; 32], 1_000, NOW),
        Err(KeyringError::Count(9))
    );
    assert_eq!(ring, full, "what cannot be done changes nothing");
    assert!(ring.rotate(&[7; 32], 1_000, NOW + 1_000).is_ok());
}

#[test]
fn two_keys_of_one_id_are_a_mistake_of_the_configuration() {
    let ring = Keyring::new(&[1; 32], NOW);
    let own = Access::new(INSTALLATION, ring.clone(), &[])
        .unwrap()
        .jwks(NOW)
        .keys
        .remove(0);
    let issuer = Issuer {
        issuer: "team".to_owned(),
        public_key: own.x,
        kid: None,
        tenant: "team-".to_owned(),
    };
    let refused = Access::new(INSTALLATION, ring, &[issuer]);
    assert_eq!(refused.unwrap_err(), KeyError::Twice(own.kid));
}
