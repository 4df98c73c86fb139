//! Tokens, which anybody may send to anything.

use std::{net::IpAddr, sync::LazyLock};

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::Signer;
use protocol::{
    names::StreamName,
    token::{Action, Ask, KeySet, Refusal, Revocations, SigningKey},
};

const SEED: [u8; 32] = [7; 32];
const NOW_UNIX_MS: i64 = 1_790_000_000_000;

fn key() -> Option<SigningKey> {
    SigningKey::from_seed("team", &SEED).ok()
}

static KEYS: LazyLock<KeySet> = LazyLock::new(|| {
    let mut keys = KeySet::default();
    let trusted = key().and_then(|key| key.verifying("team-", None).ok());
    assert!(trusted.is_some_and(|key| keys.trust(key).is_ok()));
    keys
});

/// A token as it comes, which nobody signed; and a header and claims, with a line feed between, that the key of a tenant did sign.
pub fn tokens(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let refused = KEYS.verify(text, "ghost-live", NOW_UNIX_MS);
    assert!(refused.is_err(), "nobody signed it");

    let (header, claims) = text.split_once('\n').unwrap_or(("", text));
    let message = [header, claims].map(|part| BASE64URL_NOPAD.encode(part.as_bytes()));
    let message = message.join(".");
    let signature = ed25519_dalek::SigningKey::from_bytes(&SEED).sign(message.as_bytes());
    let token = format!(
        "{message}.{}",
        BASE64URL_NOPAD.encode(&signature.to_bytes())
    );
    let Ok(grant) = KEYS.verify(&token, "ghost-live", NOW_UNIX_MS) else {
        return;
    };
    let claims = grant.claims();
    assert_eq!(claims.iss, "team");
    assert!(claims.aud.has("ghost-live"));
    assert!(claims.stream.within("team-"));
    assert!(claims.exp.unix_ms() > NOW_UNIX_MS);
    assert!(
        grant
            .session_ends_unix_ms()
            .is_none_or(|at| at > NOW_UNIX_MS)
    );
    for name in ["team-", "team-a", "team", "main"] {
        let Ok(stream) = name.parse::<StreamName>() else {
            continue;
        };
        for action in Action::ALL {
            let ask = Ask {
                action,
                stream: &stream,
                address: IpAddr::from([192, 0, 2, 1]),
            };
            let allowed = grant.allows(&ask);
            assert!(
                allowed.is_err() || name.starts_with("team-"),
                "a foreign stream"
            );
            assert!(allowed.is_err() || claims.act.contains(action));
        }
        assert!(
            Revocations::default()
                .refuse(&grant.holder(), &stream)
                .is_ok()
        );
    }
    // What it says can be minted, and says the same again.
    match key().map(|key| key.mint(claims)) {
        Some(Ok(minted)) => {
            let again = KEYS.verify(&minted, "ghost-live", NOW_UNIX_MS);
            assert_eq!(again.as_ref(), Ok::<_, &Refusal>(&grant));
        }
        refused => assert!(refused.is_some(), "the key is one"),
    }
}
