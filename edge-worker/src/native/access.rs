//! The token keys of this installation in a file, and what decides by them, made anew when the file changes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use protocol::token::KeyError;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    files::{self, FileError},
    wall_unix_ms,
};
use crate::{
    access::{Access, INSTALLATION, Issuer, Keyring, KeyringError},
    guard::{Rates, Rule},
};

/// How often the file is looked at, at the most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Whose tokens are good, and who may come at all: `[access]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What tokens for this installation name as `aud`, and its own tokens as `iss`.
    pub installation: String,
    /// Others whose tokens are good here.
    pub issuers: Vec<Issuer>,
    /// From which addresses one may publish.
    pub publish: Rule,
    /// From which addresses one may watch.
    pub watch: Rule,
    /// From which addresses one may use the studio and the API.
    pub manage: Rule,
    /// How often one may ask.
    pub rates: Rates,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            installation: INSTALLATION.to_owned(),
            issuers: Vec::new(),
            publish: Rule::default(),
            watch: Rule::default(),
            manage: Rule::default(),
            rates: Rates::default(),
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
    #[error("access: {0}")]
    Issuer(#[from] KeyError),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

fn path(folder: &Path) -> PathBuf {
    folder.join("token-keys.json")
}

/// What the file says; `None` where there is none.
fn read(path: &Path) -> Result<Option<Keyring>, AccessError> {
    match fs::read_to_string(path).map(Zeroizing::new) {
        Ok(text) => match Keyring::from_json(&text) {
            Ok(keyring) => Ok(Some(keyring)),
            Err(error) => Err(AccessError::Keyring(path.to_owned(), error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error(path, source)),
    }
}

fn io_error(path: &Path, source: io::Error) -> AccessError {
    let path = path.to_owned();
    FileError::Io { path, source }.into()
}

/// Changes the keys while no other process does: two that start at once must not each make some.
fn change(
    folder: &Path,
    change: impl FnOnce(Option<Keyring>, &Path) -> Result<Keyring, AccessError>,
) -> Result<Keyring, AccessError> {
    files::make_folder(folder)?;
    let guard = folder.join("token-keys.lock");
    let locked = fs::File::create(&guard).and_then(|file| file.lock().map(|()| file));
    let _locked = locked.map_err(|source| io_error(&guard, source))?;
    let path = path(folder);
    let before = read(&path)?;
    let keyring = change(before.clone(), &path)?;
    if before.as_ref() != Some(&keyring) {
        files::write(&path, keyring.to_json().as_bytes())?;
    }
    Ok(keyring)
}

/// The token keys of that edge folder; a first one is made where there is none.
///
/// # Errors
/// [`AccessError`].
pub fn load_keyring(folder: &Path) -> Result<Keyring, AccessError> {
    if let Some(keyring) = read(&path(folder))? {
        files::close(&path(folder))?;
        return Ok(keyring);
    }
    change(folder, |before, _| match before {
        Some(keyring) => Ok(keyring),
        None => Ok(Keyring::new(&*seed()?, wall_unix_ms())),
    })
}

/// Signs with a new key from now on; what was signed before is good until `overlap` has passed. A running edge takes it up by itself.
///
/// # Errors
/// [`AccessError`].
pub fn rotate_keyring(folder: &Path, overlap: Duration) -> Result<Keyring, AccessError> {
    let overlap_ms = i64::try_from(overlap.as_millis()).unwrap_or(i64::MAX);
    change(folder, |before, path| {
        let now = wall_unix_ms();
        let Some(mut keyring) = before else {
            return Ok(Keyring::new(&*seed()?, now));
        };
        let rotated = keyring.rotate(&*seed()?, overlap_ms, now);
        rotated.map_err(|error| AccessError::Keyring(path.to_owned(), error))?;
        Ok(keyring)
    })
}

fn seed() -> Result<Zeroizing<[u8; 32]>, AccessError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(|_| AccessError::Random)?;
    Ok(seed)
}

/// Decides over tokens by what the file says now.
#[derive(Debug)]
pub(super) struct Keeper {
    folder: PathBuf,
    config: Config,
    access: RwLock<Arc<Access>>,
    /// Held by the one request a second that looks at the file; the others do not wait for the disk.
    look: Mutex<Look>,
}

#[derive(Debug)]
struct Look {
    keyring: Keyring,
    at: Instant,
    /// That the file cannot be read was said.
    complained: bool,
}

impl Keeper {
    /// Reads the keys of that edge folder; a first one is made where there is none.
    pub(super) fn open(folder: &Path, config: Config) -> Result<Self, AccessError> {
        let keyring = load_keyring(folder)?;
        let access = Access::new(&config.installation, keyring.clone(), &config.issuers)?;
        Ok(Self {
            access: RwLock::new(Arc::new(access)),
            look: Mutex::new(Look {
                keyring,
                at: Instant::now(),
                complained: false,
            }),
            folder: folder.to_owned(),
            config,
        })
    }

    /// What decides now. Another process (`ghost-live token rotate`) may have written the file, which is seen within a second.
    pub(super) fn access(&self) -> Arc<Access> {
        if let Ok(mut look) = self.look.try_lock()
            && look.at.elapsed() >= LOOK_EVERY
        {
            look.at = Instant::now();
            match self.changed(&look.keyring) {
                Ok(None) => look.complained = false,
                Ok(Some((keyring, access))) => {
                    look.keyring = keyring;
                    look.complained = false;
                    *self.access.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(access);
                }
                Err(error) if !look.complained => {
                    look.complained = true;
                    tracing::error!(%error, "the token keys cannot be read: those before stay in force");
                }
                Err(_) => {}
            }
        }
        let access = self.access.read();
        access.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The keys of the file when they are others. It is read whole, a kilobyte: its time and length can stay as they were.
    fn changed(&self, known: &Keyring) -> Result<Option<(Keyring, Access)>, AccessError> {
        let path = path(&self.folder);
        // One that is gone may be on its way back: a new one in its place would void every token.
        let keyring =
            read(&path)?.ok_or_else(|| io_error(&path, io::ErrorKind::NotFound.into()))?;
        if keyring == *known {
            return Ok(None);
        }
        let Config {
            installation,
            issuers,
            ..
        } = &self.config;
        let access = Access::new(installation, keyring.clone(), issuers)?;
        Ok(Some((keyring, access)))
    }
}
