//! The token keys of this installation in a file, and what decides by them, made anew when the file changes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use protocol::token::KeyError;
use serde::{Deserialize, Serialize};

use super::{
    files::{self, FileError},
    lock, wall_unix_ms,
};
use crate::access::{Access, INSTALLATION, Issuer, Keyring, KeyringError};

/// How often the file is looked at, at the most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Whose tokens are good: `[access]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What tokens for this installation name as `aud`, and its own tokens as `iss`.
    pub installation: String,
    /// Others whose tokens are good here.
    pub issuers: Vec<Issuer>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            installation: INSTALLATION.to_owned(),
            issuers: Vec::new(),
        }
    }
}

/// Why tokens cannot be decided over.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is no keyring.
    #[error("{0}: {1}")]
    Keyring(PathBuf, KeyringError),
    /// A key of the configuration is none, or two have one id.
    #[error("access.issuers: {0}")]
    Issuer(#[from] KeyError),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

fn path(folder: &Path) -> PathBuf {
    folder.join("token-keys.json")
}

/// The token keys of that edge folder; a first one is made where there is none.
///
/// # Errors
/// [`AccessError`].
pub fn load_keyring(folder: &Path) -> Result<Keyring, AccessError> {
    let path = path(folder);
    match fs::read_to_string(&path) {
        Ok(text) => Keyring::from_json(&text).map_err(|error| AccessError::Keyring(path, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let keyring = Keyring::new(&*seed()?, wall_unix_ms());
            files::make_folder(folder)?;
            files::write(&path, keyring.to_json().as_bytes())?;
            Ok(keyring)
        }
        Err(source) => Err(FileError::Io { path, source }.into()),
    }
}

/// Signs with a new key from now on; what was signed before is good until `overlap` has passed. A running edge takes it up by itself.
///
/// # Errors
/// [`AccessError`].
pub fn rotate_keyring(folder: &Path, overlap: Duration) -> Result<Keyring, AccessError> {
    let mut keyring = load_keyring(folder)?;
    let overlap_ms = i64::try_from(overlap.as_millis()).unwrap_or(i64::MAX);
    let path = path(folder);
    keyring
        .rotate(&*seed()?, overlap_ms, wall_unix_ms())
        .map_err(|error| AccessError::Keyring(path.clone(), error))?;
    files::write(&path, keyring.to_json().as_bytes())?;
    Ok(keyring)
}

fn seed() -> Result<zeroize::Zeroizing<[u8; 32]>, AccessError> {
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(|_| AccessError::Random)?;
    Ok(seed)
}

/// Decides over tokens by what the file says now.
#[derive(Debug)]
pub(super) struct Keeper {
    folder: PathBuf,
    config: Config,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    access: Arc<Access>,
    keyring: Keyring,
    looked: Instant,
    /// That the file cannot be read was said.
    complained: bool,
}

impl Keeper {
    /// Reads the keys of that edge folder; a first one is made where there is none.
    pub(super) fn open(folder: &Path, config: Config) -> Result<Self, AccessError> {
        let keyring = load_keyring(folder)?;
        let access = Access::new(&config.installation, keyring.clone(), &config.issuers)?;
        Ok(Self {
            now: Mutex::new(Now {
                access: Arc::new(access),
                keyring,
                looked: Instant::now(),
                complained: false,
            }),
            folder: folder.to_owned(),
            config,
        })
    }

    /// What decides now. Another process (`ghost-live token rotate`) may have written the file, which is seen within a second.
    pub(super) fn access(&self) -> Arc<Access> {
        let mut now = lock(&self.now);
        if now.looked.elapsed() >= LOOK_EVERY {
            now.looked = Instant::now();
            match self.look(&now.keyring) {
                Ok(None) => now.complained = false,
                Ok(Some((keyring, access))) => {
                    now.access = Arc::new(access);
                    now.keyring = keyring;
                    now.complained = false;
                }
                Err(error) if !now.complained => {
                    now.complained = true;
                    tracing::error!(%error, "the token keys changed and cannot be read: those before stay in force");
                }
                Err(_) => {}
            }
        }
        now.access.clone()
    }

    /// The keys of the file when they are others. It is read whole, a kilobyte: its time and length can stay as they were.
    fn look(&self, known: &Keyring) -> Result<Option<(Keyring, Access)>, AccessError> {
        let keyring = load_keyring(&self.folder)?;
        if keyring == *known {
            return Ok(None);
        }
        let Config {
            installation,
            issuers,
        } = &self.config;
        let access = Access::new(installation, keyring.clone(), issuers)?;
        Ok(Some((keyring, access)))
    }
}
