//! The native adapter: the edge inside `ghost-live up` and `ghost-live edge`.
//!
//! [`Edge`] holds the state and answers a box in the same process; [`serve`] answers HTTP/1.1 and, with TLS, HTTP/2. What is decided lies outside this module; here are sockets, files, clocks and locks. No lock is held across an await.
//!
//! | module | what it does |
//! | --- | --- |
//! | `access` | the token keys in their file |
//! | `edge` | the broadcasts and streams there are; questions of a box; the studio |
//! | `live` | one broadcast with those who wait for it, and its snapshots |
//! | `link` | drives a broadcast link, over channels or a WebSocket |
//! | `whep` | WebRTC signaling: offers and what follows them, and who watches so |
//! | `objects` | objects from the store, recent ones from memory, each fetched once |
//! | `text` | a text with its compressed forms, each made once |
//! | `http` | routes to answers |
//! | `server` | connections: limits, timeouts, TLS, a clean end |
//! | `webhooks` | asks webhooks over HTTP |
//! | `events` | tells them what happens |
//! | `database` | the directory in SQLite |
//! | `files` | snapshots, written atomically |

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::limits::Tenants;
use crate::{
    guard::{Origins, Proxies},
    signaling::ice::IceServers,
    webhooks::Hooks,
};

mod access;
mod database;
mod edge;
mod events;
mod files;
mod http;
mod link;
mod live;
mod objects;
mod server;
#[cfg(test)]
mod tests;
mod text;
mod watch;
mod webhooks;
mod whep;

pub use crate::api::{Server, Studio, TrackSummary};
pub use access::{AccessError, Config as AccessConfig, load_keyring, rotate_keyring};
pub use database::{Database, DatabaseError, Shared};
pub use edge::{Edge, EdgeError};
pub use files::FileError;
pub use http::Http01;
pub use link::Link;
pub use server::{Tls, serve};
pub use webhooks::SetupError as WebhookSetupError;

/// A year: what lists of hosts that are preloaded ask for at the least.
pub const HSTS_S: u32 = 365 * 24 * 3_600;

/// The native edge's settings. Every key has a default. Its `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Folder of the directory (`directory.sqlite` and the secret of its seal, mode 0600) and of the broadcasts' snapshots.
    pub data: PathBuf,
    /// Addresses for encoders, as the studio page shows them.
    pub servers: Vec<Server>,
    /// Secret that boxes in other processes prove, 32 characters or more; without one there are no `/internal/` addresses.
    pub link_secret: Option<String>,
    /// Memory for recent objects, bytes.
    pub cache_bytes: usize,
    /// Connections at one time; more wait in the listener's queue.
    pub max_connections: usize,
    /// A request's head must have come within this, and a kept connection is closed after it, seconds.
    pub header_timeout_s: u64,
    /// Delete from the store what belongs to a broadcast that is over: right when no other edge uses the same store.
    pub sweep: bool,
    /// Whose tokens are good, from where one may come, and how often.
    pub access: AccessConfig,
    /// What tenants may take.
    pub tenants: Tenants,
    /// Reverse proxies whose word is taken for whom they ask.
    pub proxies: Proxies,
    /// Who decides beside the keys and tokens. Not in this form in any file: each has its secret in a file of its own.
    #[serde(skip)]
    pub webhooks: Hooks,
    /// Which other sites may embed the player, and read what is public.
    pub embed_origins: Origins,
    /// STUN and TURN servers that WebRTC viewers are told of.
    pub ice_servers: IceServers,
    /// How long browsers that came over TLS come over TLS only, seconds (`Strict-Transport-Security`); 0 is not to say it.
    pub hsts_s: u32,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("data", &self.data)
            .field("access", &self.access)
            .field("proxies", &self.proxies)
            .finish_non_exhaustive()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("data/edge"),
            servers: Vec::new(),
            link_secret: None,
            cache_bytes: 256 << 20,
            max_connections: 20_000,
            header_timeout_s: 30,
            sweep: true,
            access: AccessConfig::default(),
            tenants: Tenants::default(),
            proxies: Proxies::default(),
            webhooks: Hooks::default(),
            embed_origins: Origins::default(),
            ice_servers: IceServers::default(),
            hsts_s: HSTS_S,
        }
    }
}

/// Where the pages come from: the bundle's files by path without a leading slash.
pub type Assets = Arc<dyn Fn(&str) -> Option<Bytes> + Send + Sync>;

/// Unix time that runs by a monotonic clock: read once at the start, so that a step of the wall clock moves nothing.
#[derive(Debug, Clone, Copy)]
struct Clock {
    anchor_unix_ms: i64,
    started: Instant,
}

impl Clock {
    fn start() -> Self {
        Self {
            anchor_unix_ms: wall_unix_ms(),
            started: Instant::now(),
        }
    }

    fn now_unix_ms(&self) -> i64 {
        let elapsed = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.anchor_unix_ms.saturating_add(elapsed)
    }
}

/// The wall clock: for what another machine's clock is compared with.
fn wall_unix_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A lock whose holder panicked still guards sound state: every change is made whole by `live` before it is stored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
