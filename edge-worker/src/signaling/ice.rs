//! The ICE servers that a viewer's browser is told of: STUN, and TURN for those whose network lets nothing else through.
//!
//! A TURN server and the edge share a secret (`use-auth-secret` of coturn). A user's name is when it ends and the session's id, its password the
//! HMAC of that: so a credential is good for a while, and the TURN server asks nobody.

use data_encoding::BASE64;
use hmac::{Hmac, Mac};
use protocol::token::Tag;
use serde::{Deserialize, Serialize};
use sha1::Sha1;

/// ICE servers there may be, and addresses of each.
const MOST: usize = 8;
/// How long a TURN credential is good where nobody said, seconds. Whoever watches for longer keeps what was allocated with it.
const DAY_S: u32 = 86_400;

/// One server, or several with one secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IceServer {
    /// `stun:`, `stuns:`, `turn:` and `turns:` addresses (RFC 7064, RFC 7065).
    pub urls: Vec<String>,
    /// What a TURN server shares with the edge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// How long a credential is good, seconds: from a minute to a week.
    #[serde(default = "day")]
    pub ttl_s: u32,
}

fn day() -> u32 {
    DAY_S
}

impl std::fmt::Debug for IceServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IceServer")
            .field("urls", &self.urls)
            .finish_non_exhaustive()
    }
}

/// All of them. None is right where the box has a public address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<IceServer>", into = "Vec<IceServer>")]
pub struct IceServers(Vec<IceServer>);

/// Why a configuration of ICE servers is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IceError {
    /// Not an address that a browser takes.
    #[error(
        "{0:?} is no address of an ICE server: write stun:host:port, turn:host:port or turns:host:port"
    )]
    Url(String),
    /// More than browsers ask.
    #[error(
        "there are more than {MOST} ICE servers, or addresses of one: browsers are slow to ask many"
    )]
    TooMany,
    /// A TURN server lets nobody in without a credential.
    #[error("{0:?} is a TURN server, and has no secret that it shares with this edge")]
    Secret(String),
    /// Too short or too long.
    #[error("ttl_s of an ICE server is {0}: from 60 to 604800 it may be")]
    Ttl(u32),
}

impl TryFrom<Vec<IceServer>> for IceServers {
    type Error = IceError;

    fn try_from(servers: Vec<IceServer>) -> Result<Self, IceError> {
        if servers.len() > MOST || servers.iter().any(|server| server.urls.len() > MOST) {
            return Err(IceError::TooMany);
        }
        for server in &servers {
            if !(60..=7 * DAY_S).contains(&server.ttl_s) {
                return Err(IceError::Ttl(server.ttl_s));
            }
            for url in &server.urls {
                let (scheme, rest) = url.split_once(':').unwrap_or_default();
                // It stands in a header between angle brackets.
                let safe = |b: u8| b.is_ascii_alphanumeric() || b"-._~:[]?=&%".contains(&b);
                let known = matches!(scheme, "stun" | "stuns" | "turn" | "turns");
                if !known || rest.is_empty() || url.len() > 256 || !rest.bytes().all(safe) {
                    return Err(IceError::Url(url.clone()));
                }
                if is_turn(url) && server.secret.as_ref().is_none_or(String::is_empty) {
                    return Err(IceError::Secret(url.clone()));
                }
            }
        }
        Ok(Self(servers))
    }
}

impl From<IceServers> for Vec<IceServer> {
    fn from(servers: IceServers) -> Self {
        servers.0
    }
}

fn is_turn(url: &str) -> bool {
    url.starts_with("turn")
}

impl IceServers {
    /// The `Link` headers of an answer (RFC 9725 section 4.6), with credentials of this session.
    pub fn links(&self, session: &Tag, now_unix_ms: i64) -> Vec<String> {
        let links = self.0.iter().flat_map(|server| {
            let credential = server.secret.as_ref().map(|secret| {
                let ends_s = now_unix_ms.div_euclid(1_000) + i64::from(server.ttl_s);
                let username = format!("{ends_s}:{session}");
                let credential = credential(secret, &username);
                format!("; username=\"{username}\"; credential=\"{credential}\"; credential-type=\"password\"")
            });
            server.urls.iter().map(move |url| {
                let shown = credential.as_deref().filter(|_| is_turn(url));
                format!("<{url}>; rel=\"ice-server\"{}", shown.unwrap_or_default())
            })
        });
        links.collect()
    }
}

fn credential(secret: &str, username: &str) -> String {
    // HMAC takes a key of any length, so this cannot fail; the fallback keeps the function total.
    let mut mac = <Hmac<Sha1> as Mac>::new_from_slice(secret.as_bytes())
        .unwrap_or_else(|_| Hmac::new(&Default::default()));
    mac.update(username.as_bytes());
    BASE64.encode(&mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(json: &str) -> Result<IceServers, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_turn_credential_is_the_hmac_of_its_end_and_session_as_coturn_computes_it() {
        let servers = read(
            r#"[{"urls": ["stun:stun.example:3478"]},
                {"urls": ["turn:turn.example:3478?transport=udp", "stun:turn.example"], "secret": "north", "ttl_s": 600}]"#,
        );
        let session = Tag::from_bytes([1; 12]);
        let links = servers.unwrap().links(&session, 1_790_000_000_999);
        // printf '1790000600:AQEBAQEBAQEBAQEB' | openssl dgst -sha1 -hmac north -binary | base64
        let turn = "<turn:turn.example:3478?transport=udp>; rel=\"ice-server\"; username=\"1790000600:AQEBAQEBAQEBAQEB\"; \
             credential=\"KK4HsNgxwAK3uW6XYa760qQRp6Q=\"; credential-type=\"password\"";
        assert_eq!(
            links,
            [
                "<stun:stun.example:3478>; rel=\"ice-server\"",
                turn,
                "<stun:turn.example>; rel=\"ice-server\"",
            ]
        );
    }

    #[test]
    fn what_a_browser_would_not_take_or_a_header_could_not_carry_is_refused() {
        for bad in [
            r#"[{"urls": ["http://turn.example"]}]"#,
            r#"[{"urls": ["turn"]}]"#,
            r#"[{"urls": ["stun:"]}]"#,
            r#"[{"urls": ["stun:a>; rel=next"]}]"#,
            r#"[{"urls": ["stun:a\r\nx: y"]}]"#,
            r#"[{"urls": ["turn:turn.example"]}]"#,
            r#"[{"urls": ["turns:turn.example"], "secret": ""}]"#,
            r#"[{"urls": ["stun:a"], "ttl_s": 1}]"#,
            r#"[{"urls": ["stun:a"], "password": "x"}]"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let many = [r#"{"urls": ["stun:a"]}"#; 9].join(",");
        assert!(read(&format!("[{many}]")).is_err());
        assert_eq!(read("[]").unwrap(), IceServers::default());
    }

    #[test]
    fn a_secret_is_not_printed() {
        let servers = read(r#"[{"urls": ["turn:a"], "secret": "north"}]"#).unwrap();
        assert!(!format!("{servers:?}").contains("north"));
    }
}
