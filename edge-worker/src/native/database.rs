//! The directory in SQLite: `directory.sqlite` in the edge's folder, and beside it `seal-secret`, without which no key in it can be
//! shown.
//!
//! The migrations and the statements are the Worker's. What viewers need is read from memory; a change is written through in one
//! transaction that decides on what the database has at that moment, since several processes may use it (`ghost-live key rotate` beside
//! a running edge). Changes of others are noticed by `PRAGMA data_version`, which reads one counter in shared memory.
//!
//! SQLite blocks, for some microseconds when nothing changed and for as long as the disk takes when something is written, so a server
//! uses a [`Shared`] one: one call at a time, on Tokio's blocking threads. A disk that hangs holds one of those threads, and those who
//! publish or change a stream wait in line without one; media and playlists are served all the same.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use data_encoding::HEXLOWER;
use protocol::{
    names::StreamName,
    token::{Revocation, Seconds, Tag},
};
use rusqlite::{
    Connection, OpenFlags, Transaction, TransactionBehavior,
    types::{ToSqlOutput, ValueRef},
};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::files::{self, FileError};
use crate::access::TakeBack;
use crate::directory::{
    Directory, Refusal, Stream, StreamEntry,
    seal::Seal,
    settings::Change,
    sql::{self, LinkRow, RevocationRow, Statement, StreamRow, Value},
};
use crate::limits::Full;

/// How long a call waits for another process that writes.
const BUSY: Duration = Duration::from_secs(5);
/// Random bytes of the seal's secret, and the fewest characters that one may have.
const SECRET_BYTES: usize = 32;

/// The files of `migrations/`, in order, as wrangler applies them to D1.
const MIGRATIONS: [(&str, &str); 7] = [
    (
        "0001_directory.sql",
        include_str!("../../migrations/0001_directory.sql"),
    ),
    (
        "0002_clock.sql",
        include_str!("../../migrations/0002_clock.sql"),
    ),
    (
        "0003_sealed.sql",
        include_str!("../../migrations/0003_sealed.sql"),
    ),
    (
        "0004_streams.sql",
        include_str!("../../migrations/0004_streams.sql"),
    ),
    (
        "0005_sessions.sql",
        include_str!("../../migrations/0005_sessions.sql"),
    ),
    (
        "0006_webhooks.sql",
        include_str!("../../migrations/0006_webhooks.sql"),
    ),
    (
        "0007_deleted.sql",
        include_str!("../../migrations/0007_deleted.sql"),
    ),
];

/// Where the applied migrations are remembered: the table that wrangler keeps in D1, so that a database tells how old it is wherever it
/// is opened.
const APPLIED: &str = "CREATE TABLE IF NOT EXISTS d1_migrations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT UNIQUE,
    applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL
)";

/// Why the directory could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// A file or folder.
    #[error(transparent)]
    File(#[from] FileError),
    /// SQLite says no.
    #[error("{path}: {source}")]
    Sql {
        /// The database.
        path: PathBuf,
        /// SQLite's word.
        source: rusqlite::Error,
    },
    /// A row is not what it should be.
    #[error("{path} has a row that cannot be read: {source}")]
    Row {
        /// The database.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Another version of the program made it.
    #[error(
        "{path} has the migration {migration}, which this version of Ghost Live does not know: start the newer version that made it, or go back to a backup from before"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// The first that is not known.
        migration: String,
    },
    /// The secret beside the database is none.
    #[error(
        "{path} is not the secret that was written there: bring it back from a backup; without one delete it, and give each stream a new key"
    )]
    Secret {
        /// The file.
        path: PathBuf,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
    /// No such stream, or not beside the others.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// One more is one too many.
    #[error(transparent)]
    Full(#[from] Full),
    /// The process ends.
    #[error("the directory was not asked: the edge is ending")]
    Ending,
}

/// Where the directory lies in an edge's folder.
fn path_in(folder: &Path) -> PathBuf {
    folder.join("directory.sqlite")
}

/// Where the secret lies that the keys in it are sealed with.
fn secret_path_in(folder: &Path) -> PathBuf {
    folder.join("seal-secret")
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], DatabaseError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| DatabaseError::Random)?;
    Ok(bytes)
}

/// The directory of an edge's folder. Its calls block.
pub struct Database {
    path: PathBuf,
    connection: Connection,
    seal: Seal,
    /// As it was read last, with what this one changed since.
    directory: Arc<Directory>,
    /// The database's `data_version` before that.
    version: i64,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Database {
    /// Opens the directory of that folder, which is made with mode 0700 where it is absent; so is the database, with what migrations it
    /// lacks, and the seal's secret. All of them are for their owner alone, mode 0600.
    ///
    /// # Errors
    /// [`DatabaseError`]; [`DatabaseError::Newer`] when a newer version of the program has changed the tables.
    pub fn open(folder: &Path) -> Result<Self, DatabaseError> {
        files::make_folder(folder)?;
        let path = path_in(folder);
        make_private(&path)?;
        let mut connection = connect(&path).map_err(sql_error(&path))?;
        migrate(&path, &mut connection, &MIGRATIONS)?;
        let seal = Seal::derive(secret(folder, &path, &mut connection)?.as_bytes());
        let mut database = Self {
            path,
            connection,
            seal,
            directory: Arc::default(),
            version: i64::MIN,
        };
        database.directory()?;
        Ok(database)
    }

    /// As [`Self::open`], but makes nothing: `None` where there is no directory yet.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn find(folder: &Path) -> Result<Option<Self>, DatabaseError> {
        match path_in(folder).exists() {
            true => Self::open(folder).map(Some),
            false => Ok(None),
        }
    }

    /// The directory as it is now: read again when somebody else has changed it.
    ///
    /// # Errors
    /// [`DatabaseError`] when it cannot be read.
    pub fn directory(&mut self) -> Result<Arc<Directory>, DatabaseError> {
        let known = self.version;
        if let Some((version, directory)) = read_if_changed(&self.path, &self.connection, known)? {
            (self.version, self.directory) = (version, Arc::new(directory));
        }
        Ok(Arc::clone(&self.directory))
    }

    /// The directory as it was read or changed last.
    pub fn known(&self) -> Arc<Directory> {
        Arc::clone(&self.directory)
    }

    /// What opens the keys in it.
    pub fn seal(&self) -> &Seal {
        &self.seal
    }

    /// The stream of that name, with what the configuration says of it; made with a new key where there is none. What it said already
    /// changes nothing.
    ///
    /// # Errors
    /// [`DatabaseError`] when it cannot be kept.
    pub fn ensure(
        &mut self,
        name: &StreamName,
        configured: &Change,
        now_unix_ms: i64,
    ) -> Result<(), DatabaseError> {
        let bytes = [random()?, random()?, random()?];
        let nonces = (random()?, random()?);
        self.change(name, |directory, seal| {
            let mut batch = Vec::new();
            if directory.stream(name).is_none() {
                let entry = directory.new_stream(name, bytes, now_unix_ms);
                let stream = Stream::keep(&entry, seal, nonces.0, Some(nonces.1));
                batch.push(sql::put_stream(&stream));
            }
            batch.extend(configures(directory, name, configured));
            Ok((batch, ()))
        })
    }

    /// Makes a stream with these settings and a new key, where there is `room` for it; the studio link is kept to be shown.
    ///
    /// # Errors
    /// [`Refusal::Exists`]; what `room` says; [`DatabaseError`] when it cannot be kept.
    pub fn create(
        &mut self,
        name: &StreamName,
        settings: &Change,
        room: impl FnOnce(&Directory) -> Result<(), Full>,
        now_unix_ms: i64,
    ) -> Result<StreamEntry, DatabaseError> {
        let bytes = [random()?, random()?, random()?];
        let nonces = (random()?, random()?);
        self.change(name, |directory, seal| {
            if directory.stream(name).is_some() {
                return Err(Refusal::Exists(name.clone()).into());
            }
            room(directory)?;
            let entry = directory.new_stream(name, bytes, now_unix_ms);
            let stream = Stream::keep(&entry, seal, nonces.0, Some(nonces.1));
            // Nobody else makes one meanwhile.
            Ok((vec![sql::make_stream(&stream, settings, &[])], entry))
        })
    }

    /// Deletes a stream, and remembers its name until its objects are deleted too.
    ///
    /// # Errors
    /// [`DatabaseError`] when there is no such stream, or it cannot be deleted.
    pub fn delete(&mut self, name: &StreamName, now_unix_ms: i64) -> Result<(), DatabaseError> {
        // Who had a link to it has none to another stream that gets its name.
        let links: Vec<LinkRow> = rows(&self.path, &self.connection, &sql::links(name))?;
        let revocation = TakeBack::deleted(name, links.iter(), now_unix_ms);
        self.change(name, |directory, _| match directory.stream(name) {
            Some(stream) => {
                let at = now_unix_ms.max(stream.created_unix_ms);
                let statements = Vec::from(sql::delete_stream(name, at));
                let batch = Batch::revoking(statements, vec![revocation], now_unix_ms);
                Ok((batch, ()))
            }
            None => Err(Refusal::NoStream(name.clone()).into()),
        })
    }

    /// The streams that were deleted, of which objects may be left.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn deleted(&self) -> Result<Vec<StreamName>, DatabaseError> {
        let rows: Vec<sql::DeletedRow> =
            rows(&self.path, &self.connection, &sql::deleted_streams())?;
        Ok(rows.into_iter().map(|row| row.name).collect())
    }

    /// Nothing is left of a stream that was deleted before that.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn forget_deleted(
        &mut self,
        name: &StreamName,
        before_unix_ms: i64,
    ) -> Result<(), DatabaseError> {
        self.change(name, |_, _| {
            Ok((vec![sql::forget_deleted(name, before_unix_ms)], ()))
        })
    }

    /// Changes the settings of a stream.
    ///
    /// # Errors
    /// [`DatabaseError`] when there is no such stream, or it cannot be kept.
    pub fn change_settings(
        &mut self,
        name: &StreamName,
        change: &Change,
    ) -> Result<(), DatabaseError> {
        self.change(name, |directory, _| match directory.stream(name) {
            Some(_) => Ok((vec![sql::change_stream(name, change)], ())),
            None => Err(Refusal::NoStream(name.clone()).into()),
        })
    }

    /// Takes over what a box's configuration says of a stream, as [`Self::ensure`] does; nothing where there is no such stream.
    ///
    /// # Errors
    /// [`DatabaseError`] when it cannot be kept.
    pub fn configure(
        &mut self,
        name: &StreamName,
        configured: &Change,
    ) -> Result<(), DatabaseError> {
        self.change(name, |directory, _| match directory.stream(name) {
            Some(_) => {
                let batch = configures(directory, name, configured).into_iter();
                Ok((batch.collect::<Vec<_>>(), ()))
            }
            None => Err(Refusal::NoStream(name.clone()).into()),
        })
    }

    /// Makes or replaces a stream. Its studio link is kept to be shown where `shows_studio`; where a box shows it, nothing is changed by
    /// one who comes with a link from before the stream was logged out of: what the link carries now.
    ///
    /// # Errors
    /// [`DatabaseError`] when its key could not be told from another stream's, or it cannot be kept.
    pub fn put(
        &mut self,
        entry: &StreamEntry,
        shows_studio: bool,
    ) -> Result<Option<Zeroizing<String>>, DatabaseError> {
        let (nonces, now) = ((random()?, random()?), super::wall_unix_ms());
        self.change(&entry.name, |directory, seal| {
            let kept = directory.stream(&entry.name);
            if kept.is_some_and(|kept| {
                kept.has(entry, seal) && kept.studio_secret(seal).is_ok() == shows_studio
            }) {
                return Ok((Batch::default(), None));
            }
            let newer = kept.and_then(|kept| kept.newer_studio(entry, seal));
            if newer.is_some() && !shows_studio {
                return Ok((Batch::default(), newer));
            }
            let stream = Stream::keep(entry, seal, nonces.0, shows_studio.then_some(nonces.1));
            directory.check(&stream)?;
            let revoked = kept.map_or_else(Vec::new, |kept| stream.revokes(kept, now));
            let batch = Batch::revoking(vec![sql::put_stream(&stream)], revoked, now);
            Ok((batch, None))
        })
    }

    /// Gives a stream a new key. Where its studio link is shown and no longer opens, it is kept as `brought` by the request, or else a
    /// new one is made; whether one was.
    ///
    /// # Errors
    /// [`DatabaseError`] when there is no such stream, or the key cannot be kept.
    pub fn rotate_key(
        &mut self,
        name: &StreamName,
        brought: Option<&str>,
    ) -> Result<bool, DatabaseError> {
        self.rotate_key_with_overlap(name, brought, None)
    }

    /// As [`Self::rotate_key`], and the key before goes on until then, Unix milliseconds.
    ///
    /// # Errors
    /// As [`Self::rotate_key`].
    pub fn rotate_key_with_overlap(
        &mut self,
        name: &StreamName,
        brought: Option<&str>,
        old_until_unix_ms: Option<i64>,
    ) -> Result<bool, DatabaseError> {
        let (key, studio) = (random()?, random()?);
        let (nonces, now) = ((random()?, random()?), super::wall_unix_ms());
        self.change(name, |directory, seal| {
            let before = directory.stream(name);
            let before = before.ok_or_else(|| Refusal::NoStream(name.clone()))?;
            // Who was logged out in the meantime changes nothing.
            if brought.is_some_and(|brought| before.studio_token(brought).is_none()) {
                return Err(Refusal::Studio.into());
            }
            let mut stream = before.clone();
            stream.rotate_key(key, old_until_unix_ms, seal, nonces.0);
            let made = stream.mend_studio(brought, studio, seal, nonces.1);
            let revoked = stream.revokes(before, now);
            let batch = Batch::revoking(vec![sql::put_stream(&stream)], revoked, now);
            Ok((batch, made))
        })
    }

    /// Gives a stream a new studio link, and takes back (as `revoke` makes it) the token that the old one stood for. The
    /// request `brought` what the old one carries, or something better. What the new one carries.
    ///
    /// # Errors
    /// [`DatabaseError`] when there is no such stream, or it cannot be kept.
    pub fn log_out(
        &mut self,
        name: &StreamName,
        brought: Option<&str>,
        revoke: impl FnOnce(Tag) -> Revocation,
        now_unix_ms: i64,
    ) -> Result<Zeroizing<String>, DatabaseError> {
        let (secret, nonce) = (random()?, random()?);
        self.change(name, |directory, seal| {
            let stream = directory.stream(name).cloned();
            let mut stream = stream.ok_or_else(|| Refusal::NoStream(name.clone()))?;
            if brought.is_some_and(|brought| stream.studio_token(brought).is_none()) {
                return Err(Refusal::Studio.into());
            }
            let (secret, ended) = stream.log_out(secret, seal, nonce);
            let statements = vec![sql::put_stream(&stream)];
            let batch = Batch::revoking(statements, vec![revoke(ended)], now_unix_ms);
            Ok((batch, secret))
        })
    }

    /// Takes something back.
    ///
    /// # Errors
    /// [`DatabaseError`] when it cannot be kept.
    pub fn revoke(
        &mut self,
        revocation: Revocation,
        now_unix_ms: i64,
    ) -> Result<(), DatabaseError> {
        self.execute(&sql::revoke(&revocation, now_unix_ms))?;
        Arc::make_mut(&mut self.directory).revoke(revocation);
        Ok(())
    }

    /// The watch links of a stream, newest first.
    ///
    /// # Errors
    /// [`DatabaseError`] when they cannot be read.
    pub fn links(&mut self, stream: &StreamName) -> Result<Vec<LinkRow>, DatabaseError> {
        rows(&self.path, &self.connection, &sql::links(stream))
    }

    /// Forgets a watch link and takes it back, as `revoke` makes it of when it ends; `None` where the stream has none of that id.
    ///
    /// # Errors
    /// [`DatabaseError`]; then neither is done.
    pub fn delete_link(
        &mut self,
        stream: &StreamName,
        jti: &str,
        revoke: impl FnOnce(Option<Seconds>) -> Revocation,
        now_unix_ms: i64,
    ) -> Result<Option<Revocation>, DatabaseError> {
        let transaction = begin(&self.path, &mut self.connection)?;
        let links: Vec<LinkRow> = rows(&self.path, &transaction, &sql::links(stream))?;
        let Some(link) = links.iter().find(|link| link.jti == jti) else {
            return Ok(None);
        };
        let revocation = revoke(link.exp());
        run(&self.path, &transaction, &[sql::delete_link(stream, jti)])?;
        run(
            &self.path,
            &transaction,
            &sql::revoke(&revocation, now_unix_ms),
        )?;
        transaction.commit().map_err(sql_error(&self.path))?;
        Arc::make_mut(&mut self.directory).revoke(revocation.clone());
        Ok(Some(revocation))
    }

    /// Runs statements that change nothing of the streams: all of them, or none. How many rows the last one changed.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn execute(&mut self, statements: &[Statement]) -> Result<usize, DatabaseError> {
        let transaction = begin(&self.path, &mut self.connection)?;
        run(&self.path, &transaction, statements)?;
        let changed = transaction.changes();
        transaction.commit().map_err(sql_error(&self.path))?;
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }

    /// The rows that a statement gives.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn read<T: DeserializeOwned>(
        &self,
        statement: &Statement,
    ) -> Result<Vec<T>, DatabaseError> {
        rows(&self.path, &self.connection, statement)
    }

    /// Decides on the directory as it is, with every other writer waiting, and runs the batch that comes of it, which changes this stream
    /// and no other.
    fn change<T, B: Into<Batch>>(
        &mut self,
        name: &StreamName,
        decide: impl FnOnce(&Directory, &Seal) -> Result<(B, T), DatabaseError>,
    ) -> Result<T, DatabaseError> {
        let path = &self.path;
        let transaction = begin(path, &mut self.connection)?;
        if let Some((version, directory)) = read_if_changed(path, &transaction, self.version)? {
            (self.version, self.directory) = (version, Arc::new(directory));
        }
        let (batch, answer) = decide(&self.directory, &self.seal)?;
        let batch: Batch = batch.into();
        if !batch.statements.is_empty() {
            run(path, &transaction, &batch.statements)?;
            // What it is now, the statements have decided.
            let row = rows::<StreamRow>(path, &transaction, &sql::stream(name))?.pop();
            transaction.commit().map_err(sql_error(path))?;
            let directory = Arc::make_mut(&mut self.directory);
            match row {
                Some(row) => directory.set(row.into()),
                None => directory.remove(name),
            }
            for revocation in batch.revoked {
                directory.revoke(revocation);
            }
        }
        Ok(answer)
    }
}

/// What a change of a stream comes to.
#[derive(Debug, Default)]
struct Batch {
    statements: Vec<Statement>,
    /// What is taken back with it; the statements say so too.
    revoked: Vec<Revocation>,
}

impl From<Vec<Statement>> for Batch {
    fn from(statements: Vec<Statement>) -> Self {
        Self {
            statements,
            revoked: Vec::new(),
        }
    }
}

impl Batch {
    /// These statements, and what is taken back with them.
    fn revoking(
        mut statements: Vec<Statement>,
        revoked: Vec<Revocation>,
        now_unix_ms: i64,
    ) -> Self {
        let revoke = |revocation| sql::revoke(revocation, now_unix_ms);
        statements.extend(revoked.iter().flat_map(revoke));
        Self {
            statements,
            revoked,
        }
    }
}

/// The statement that a configuration's word on a stream needs, if it is a new one.
fn configures(directory: &Directory, name: &StreamName, configured: &Change) -> Option<Statement> {
    let remembered = configured.remembered()?;
    let before = directory
        .stream(name)
        .and_then(|stream| stream.configured.as_deref());
    (before != Some(remembered.as_str()))
        .then(|| sql::configure_stream(name, configured, &remembered))
}

fn sql_error(path: &Path) -> impl FnOnce(rusqlite::Error) -> DatabaseError + '_ {
    |source| DatabaseError::Sql {
        path: path.to_owned(),
        source,
    }
}

/// Makes the file with mode 0600 where it is absent, and takes rights from others that one from elsewhere gives. SQLite gives the
/// journal, the write-ahead log and the shared memory beside it the rights of the database itself, whatever the umask.
///
/// One that is there is not opened here: closing it again would drop the locks that this process holds on it (POSIX), also those of
/// another connection.
fn make_private(path: &Path) -> Result<(), FileError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(files::io_error(path)(error)),
    }
    #[cfg(unix)]
    for suffix in ["", "-wal", "-shm", "-journal"] {
        use std::os::unix::fs::PermissionsExt;
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        let private =
            fs::metadata(&file).and_then(|metadata| match metadata.permissions().mode() & 0o077 {
                0 => Ok(()),
                _ => fs::set_permissions(&file, fs::Permissions::from_mode(0o600)),
            });
        match private {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(files::io_error(Path::new(&file))(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    // Without a mutex of SQLite's: a connection is used by one thread at a time.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    // A key that was replaced must not come back when the power fails.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // What is replaced is overwritten, not only forgotten.
    connection.pragma_update(None, "secure_delete", true)?;
    Ok(connection)
}

/// A transaction that writes: nobody else does until it ends.
fn begin<'a>(
    path: &Path,
    connection: &'a mut Connection,
) -> Result<Transaction<'a>, DatabaseError> {
    connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(sql_error(path))
}

/// Applies the migrations that the database lacks, all or none, and puts it into write-ahead mode.
fn migrate(
    path: &Path,
    connection: &mut Connection,
    migrations: &[(&str, &str)],
) -> Result<(), DatabaseError> {
    let transaction = begin(path, connection)?;
    let applied = migrate_in(&transaction, migrations).map_err(sql_error(path))?;
    if let Err(migration) = applied {
        return Err(DatabaseError::Newer {
            path: path.to_owned(),
            migration,
        });
    }
    transaction.commit().map_err(sql_error(path))?;
    // Readers and a writer do not wait for each other. It is a property of the file; where another process is just setting it, SQLite
    // says "busy" at once instead of waiting, and it is set by that one.
    let mode = connection
        .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0));
    match mode {
        Ok(_) => Ok(()),
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
            Ok(())
        }
        Err(error) => Err(sql_error(path)(error)),
    }
}

/// Within a transaction. The inner error is a migration that is not known.
fn migrate_in(
    transaction: &Transaction<'_>,
    migrations: &[(&str, &str)],
) -> rusqlite::Result<Result<(), String>> {
    transaction.execute_batch(APPLIED)?;
    let applied: Vec<String> = transaction
        .prepare("SELECT name FROM d1_migrations ORDER BY id")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for (index, name) in applied.iter().enumerate() {
        if migrations.get(index).map(|(name, _)| *name) != Some(name) {
            return Ok(Err(name.clone()));
        }
    }
    for (name, text) in &migrations[applied.len()..] {
        transaction.execute_batch(text)?;
        transaction.execute("INSERT INTO d1_migrations (name) VALUES (?1)", [name])?;
    }
    Ok(Ok(()))
}

/// The seal's secret, made at the first start. The database's write lock is held meanwhile, so that two first starts make one.
fn secret(
    folder: &Path,
    database: &Path,
    connection: &mut Connection,
) -> Result<Zeroizing<String>, DatabaseError> {
    let path = secret_path_in(folder);
    if let Some(secret) = read_secret(&path)? {
        return Ok(secret);
    }
    let transaction = begin(database, connection)?;
    if let Some(secret) = read_secret(&path)? {
        return Ok(secret);
    }
    let bytes = Zeroizing::new(random::<SECRET_BYTES>()?);
    let secret = Zeroizing::new(HEXLOWER.encode(bytes.as_slice()));
    files::write(&path, secret.as_bytes())?;
    drop(transaction);
    Ok(secret)
}

fn read_secret(path: &Path) -> Result<Option<Zeroizing<String>>, DatabaseError> {
    let text = match fs::read_to_string(path).map(Zeroizing::new) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == ErrorKind::InvalidData => Zeroizing::default(),
        Err(error) => return Err(files::io_error(path)(error).into()),
    };
    let secret = Zeroizing::new(text.trim().to_owned());
    if secret.len() < SECRET_BYTES {
        return Err(DatabaseError::Secret {
            path: path.to_owned(),
        });
    }
    files::close(path)?;
    Ok(Some(secret))
}

/// All streams with the version that they are at least of, if it is another than the known one.
fn read_if_changed(
    path: &Path,
    connection: &Connection,
    known: i64,
) -> Result<Option<(i64, Directory)>, DatabaseError> {
    // Before the rows: what changes in between is then read once more, and never overlooked.
    let version = connection.pragma_query_value(None, "data_version", |row| row.get(0));
    let version = version.map_err(sql_error(path))?;
    if version == known {
        return Ok(None);
    }
    let streams: Vec<StreamRow> = rows(path, connection, &sql::streams())?;
    let mut directory: Directory = streams.into_iter().map(Stream::from).collect();
    let revocations: Vec<RevocationRow> = rows(path, connection, &sql::revocations(0))?;
    let read = revocations.into_iter().filter_map(|row| {
        let read = row.read();
        if read.is_none() {
            // Written by a newer version of the program, or by hand.
            tracing::error!("a revocation cannot be read, and is not in force");
        }
        read
    });
    directory.load_revocations(read, super::wall_unix_ms());
    Ok(Some((version, directory)))
}

/// Runs statements as a batch of D1: all of them or, with the transaction, none.
fn run(
    path: &Path,
    transaction: &Transaction<'_>,
    statements: &[Statement],
) -> Result<(), DatabaseError> {
    for Statement { sql, values } in statements {
        let done = transaction.execute(sql, rusqlite::params_from_iter(values));
        done.map_err(sql_error(path))?;
    }
    Ok(())
}

/// The rows that a statement gives, by the names of their columns, as D1 gives them.
fn rows<T: DeserializeOwned>(
    path: &Path,
    connection: &Connection,
    statement: &Statement,
) -> Result<Vec<T>, DatabaseError> {
    let rows = json_rows(connection, statement).map_err(sql_error(path))?;
    let read: Result<_, _> = rows.into_iter().map(serde_json::from_value).collect();
    read.map_err(|source| DatabaseError::Row {
        path: path.to_owned(),
        source,
    })
}

fn json_rows(
    connection: &Connection,
    statement: &Statement,
) -> rusqlite::Result<Vec<serde_json::Value>> {
    let mut prepared = connection.prepare(statement.sql)?;
    let names = prepared.column_names().into_iter().map(str::to_owned);
    let names: Vec<String> = names.collect();
    let mut rows = prepared.query(rusqlite::params_from_iter(&statement.values))?;
    let mut given = Vec::new();
    while let Some(row) = rows.next()? {
        let mut object = serde_json::Map::new();
        for (index, name) in names.iter().enumerate() {
            let value = match row.get_ref(index)? {
                ValueRef::Integer(number) => number.into(),
                ValueRef::Real(number) => number.into(),
                ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
                // The tables have no BLOB: one that somebody put there is as good as nothing.
                ValueRef::Null | ValueRef::Blob(_) => serde_json::Value::Null,
            };
            object.insert(name.clone(), value);
        }
        given.push(serde_json::Value::Object(object));
    }
    Ok(given)
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

/// A database for tasks: one call at a time, each on a blocking thread. A handle that is cheap to clone.
#[derive(Debug, Clone)]
pub struct Shared(Arc<tokio::sync::Mutex<Database>>);

impl Shared {
    /// From one that is open.
    pub fn new(database: Database) -> Self {
        Self(Arc::new(tokio::sync::Mutex::new(database)))
    }

    /// Makes the calls. They come to their end even when nobody waits any more.
    ///
    /// # Errors
    /// What the calls give; [`DatabaseError::Ending`] when the runtime ends before they begin.
    pub async fn with<T: Send + 'static>(
        &self,
        calls: impl FnOnce(&mut Database) -> Result<T, DatabaseError> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        // A lock over an await on purpose: whoever waits for a turn occupies no thread.
        let mut turn = Arc::clone(&self.0).lock_owned().await;
        let done = tokio::task::spawn_blocking(move || calls(&mut turn)).await;
        done.map_err(|_| DatabaseError::Ending)?
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Command;

    use super::*;
    use crate::directory::admit;
    use protocol::{internal::Admit, names::BroadcastId};

    fn name(text: &str) -> StreamName {
        text.parse().unwrap()
    }

    fn entry_of(database: &Database, stream: &str) -> StreamEntry {
        let stream = database.known().stream(&name(stream)).cloned().unwrap();
        stream.open(database.seal()).unwrap()
    }

    fn applied(connection: &Connection) -> Vec<String> {
        let mut statement = connection
            .prepare("SELECT name FROM d1_migrations ORDER BY id")
            .unwrap();
        let names = statement.query_map([], |row| row.get(0)).unwrap();
        names.map(Result::unwrap).collect()
    }

    /// The tables and indices as SQLite describes them.
    fn schema(connection: &Connection) -> Vec<String> {
        let mut statement = connection
            .prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
            .unwrap();
        let texts = statement.query_map([], |row| row.get(0)).unwrap();
        texts.map(Result::unwrap).collect()
    }

    /// Every byte of every file in the folder; nobody may have the database open in this process.
    fn bytes_in(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
        entries
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect()
    }

    fn contains(bytes: &[u8], text: &str) -> bool {
        bytes.windows(text.len()).any(|w| w == text.as_bytes())
    }

    #[test]
    fn the_migrations_are_the_files_that_wrangler_applies_to_d1() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let wrangler = fs::read_to_string(root.join("wrangler.toml")).unwrap();
        let folder = wrangler
            .lines()
            .find_map(|line| line.strip_prefix("migrations_dir = "))
            .unwrap();
        let files = fs::read_dir(root.join(folder.trim_matches('"'))).unwrap();
        let mut files: Vec<(String, String)> = files
            .map(|file| {
                let file = file.unwrap();
                let text = fs::read_to_string(file.path()).unwrap();
                (file.file_name().into_string().unwrap(), text)
            })
            .collect();
        // wrangler takes them by the number that they begin with.
        files.sort();
        let ours = MIGRATIONS.map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(files, ours);
    }

    #[test]
    fn a_database_of_any_age_is_brought_up_to_date_once() {
        let folder = tempfile::tempdir().unwrap();
        let newest = Database::open(folder.path()).unwrap();
        let schema_now = schema(&newest.connection);
        for age in 0..=MIGRATIONS.len() {
            let folder = tempfile::tempdir().unwrap();
            let path = path_in(folder.path());
            make_private(&path).unwrap();
            let mut old = connect(&path).unwrap();
            migrate(&path, &mut old, &MIGRATIONS[..age]).unwrap();
            if (1..3).contains(&age) {
                // As it was kept then.
                old.execute_batch(
                    "INSERT INTO streams (name, key_id, key_sha256, key, studio_secret, created_unix_ms)
                     VALUES ('live', 'live', 'digest', 'live_in-the-clear', 'studio-in-the-clear', 5)",
                )
                .unwrap();
            }
            drop(old);
            for _ in 0..2 {
                let database = Database::open(folder.path()).unwrap();
                assert_eq!(
                    applied(&database.connection),
                    MIGRATIONS.map(|m| m.0),
                    "{age}"
                );
                assert_eq!(schema(&database.connection), schema_now, "{age}");
            }
            if !(1..3).contains(&age) {
                continue;
            }
            let database = Database::open(folder.path()).unwrap();
            let kept = database.known().stream(&name("live")).cloned().unwrap();
            assert_eq!(
                (kept.key_sha256.as_str(), kept.created_unix_ms),
                ("digest", 5)
            );
            assert!(kept.key(database.seal()).is_err() && !kept.opens_studio(Some("Bearer ")));
            drop(database);
            for (path, bytes) in bytes_in(folder.path()) {
                assert!(!contains(&bytes, "in-the-clear"), "{}", path.display());
            }
        }
    }

    #[test]
    fn a_database_of_a_newer_version_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path()).unwrap();
        let newer = "INSERT INTO d1_migrations (name) VALUES ('9999_from_the_future.sql')";
        database.connection.execute_batch(newer).unwrap();
        drop(database);
        let refused = Database::open(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("9999_from_the_future.sql") && refused.contains("newer version"));
        let connection = connect(&path_in(folder.path())).unwrap();
        assert_eq!(applied(&connection).len(), MIGRATIONS.len() + 1);
    }

    #[test]
    fn a_migration_that_fails_leaves_the_database_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_in(folder.path());
        make_private(&path).unwrap();
        let mut connection = connect(&path).unwrap();
        let broken = [
            MIGRATIONS[0],
            ("0002_broken.sql", "CREATE TABLE extra (a); nonsense;"),
        ];
        assert!(migrate(&path, &mut connection, &broken).is_err());
        assert_eq!(schema(&connection), Vec::<String>::new());
    }

    #[test]
    fn what_was_changed_is_there_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let mut database = Database::open(folder.path()).unwrap();
        database
            .ensure(&name("live"), &Change::default(), 7)
            .unwrap();
        let made = entry_of(&database, "live");
        database
            .ensure(&name("live"), &Change::default(), 8)
            .unwrap();
        assert_eq!(entry_of(&database, "live"), made, "there is one already");
        drop(database);
        let mut database = Database::open(folder.path()).unwrap();
        assert_eq!(entry_of(&database, "live"), made);
        assert!(!database.rotate_key(&name("live"), None).unwrap());
        let rotated = entry_of(&database, "live");
        assert!(rotated.key != made.key && rotated.studio_secret == made.studio_secret);
        let nobody = database.rotate_key(&name("nobody"), None).unwrap_err();
        assert_eq!(nobody.to_string(), "there is no stream nobody");
        drop(database);
        let database = Database::find(folder.path()).unwrap().unwrap();
        assert_eq!(entry_of(&database, "live"), rotated);
        let nowhere = folder.path().join("nowhere");
        assert!(Database::find(&nowhere).unwrap().is_none() && !nowhere.exists());
    }

    #[test]
    fn a_batch_of_which_one_statement_fails_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut database = Database::open(folder.path()).unwrap();
        database
            .ensure(&name("live"), &Change::default(), 0)
            .unwrap();
        let kept = database.known().stream(&name("live")).cloned().unwrap();
        let renewed = Stream {
            key_sha256: "another".to_owned(),
            ..kept.clone()
        };
        let same_key_id = Stream {
            name: name("demo"),
            ..kept.clone()
        };
        let path = database.path.clone();
        let transaction = begin(&path, &mut database.connection).unwrap();
        let batch = [sql::put_stream(&renewed), sql::put_stream(&same_key_id)];
        assert!(run(&path, &transaction, &batch).is_err());
        drop(transaction);
        drop(database);
        let database = Database::open(folder.path()).unwrap();
        assert_eq!(database.known().streams().collect::<Vec<_>>(), [&kept]);
        // The same from outside: the refusal names the stream, and neither the table nor the memory has it.
        let mut database = database;
        let entry = StreamEntry::new(name("demo"), "live", [[1; 16], [2; 16]], 0).unwrap();
        let refused = database.put(&entry, true).unwrap_err();
        assert!(matches!(refused, DatabaseError::Refused(Refusal::KeyId(_))));
        assert_eq!(database.directory().unwrap().streams().count(), 1);
    }

    /// Run by the test below in a process of its own: gives the stream of the folder in the environment a new key, many times.
    #[test]
    fn rotates_in_another_process() {
        let Ok(folder) = std::env::var("GHOST_LIVE_TEST_ROTATES") else {
            return;
        };
        let mut database = Database::open(Path::new(&folder)).unwrap();
        for _ in 0..10 {
            database
                .ensure(&name("theirs"), &Change::default(), 0)
                .unwrap();
            database.rotate_key(&name("theirs"), None).unwrap();
        }
    }

    #[test]
    fn two_processes_open_a_new_folder_at_once_and_see_each_other_s_changes() {
        let folder = tempfile::tempdir().unwrap();
        let mut other = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "native::database::tests::rotates_in_another_process",
            ])
            .env("GHOST_LIVE_TEST_ROTATES", folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut database = Database::open(folder.path()).unwrap();
        for _ in 0..10 {
            database
                .ensure(&name("ours"), &Change::default(), 0)
                .unwrap();
            database.rotate_key(&name("ours"), None).unwrap();
        }
        assert!(other.wait().unwrap().success());
        let seen = database.directory().unwrap();
        assert_eq!(seen.streams().count(), 2);
        // One secret was made, so that both open what the other sealed.
        let theirs = entry_of(&database, "theirs");
        let admitted = admit(
            &Admit {
                key: theirs.key.reveal(),
                stream: None,
                peer: String::new(),
                ..Admit::default()
            },
            seen.stream(&name("theirs")),
            seen.revocations(),
            0,
        );
        assert!(admitted.is_ok());
        // Nothing changed since: the memory is what it was.
        assert!(Arc::ptr_eq(&seen, &database.directory().unwrap()));
    }

    #[test]
    fn a_change_of_another_connection_is_seen_and_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let mut one = Database::open(folder.path()).unwrap();
        let mut two = Database::open(folder.path()).unwrap();
        one.ensure(&name("live"), &Change::default(), 0).unwrap();
        // Without having looked: the key of the first stays.
        two.ensure(&name("live"), &Change::default(), 0).unwrap();
        assert_eq!(entry_of(&two, "live"), entry_of(&one, "live"));
        two.rotate_key(&name("live"), None).unwrap();
        assert_ne!(entry_of(&one, "live"), entry_of(&two, "live"));
        one.directory().unwrap();
        assert_eq!(entry_of(&one, "live"), entry_of(&two, "live"));
    }

    #[test]
    fn a_copy_of_the_database_without_its_secret_shows_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let mut database = Database::open(folder.path()).unwrap();
        database
            .ensure(&name("live"), &Change::default(), 0)
            .unwrap();
        let first = entry_of(&database, "live");
        database.rotate_key(&name("live"), None).unwrap();
        let second = entry_of(&database, "live");
        // With the write-ahead log, as a copy of a running server's folder has it.
        let copy = tempfile::tempdir().unwrap();
        let copied = Command::new("cp")
            .arg("-r")
            .arg(format!("{}/.", folder.path().display()))
            .arg(copy.path())
            .status();
        assert!(copied.unwrap().success());
        fs::remove_file(secret_path_in(copy.path())).unwrap();
        drop(database);
        for place in [folder.path(), copy.path()] {
            let files = bytes_in(place);
            assert!(files.iter().any(|(path, _)| *path == path_in(place)));
            for (path, bytes) in files {
                for secret in [
                    &first.key.reveal()["live_".len()..],
                    &second.key.reveal()["live_".len()..],
                    &first.studio_secret,
                ] {
                    assert!(!contains(&bytes, secret), "{}", path.display());
                }
            }
        }
        let database = Database::open(copy.path()).unwrap();
        let kept = database.known().stream(&name("live")).cloned().unwrap();
        assert!(kept.key(database.seal()).is_err() && kept.studio_secret(database.seal()).is_err());
    }

    #[test]
    fn a_secret_that_is_none_is_named_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        drop(Database::open(folder.path()).unwrap());
        let secret = secret_path_in(folder.path());
        for bad in [b"".as_slice(), b"short\n", &[0xff; 64]] {
            fs::write(&secret, bad).unwrap();
            let refused = Database::open(folder.path()).unwrap_err();
            assert!(refused.to_string().contains("seal-secret"), "{refused}");
            assert_eq!(fs::read(&secret).unwrap(), bad);
        }
    }

    #[cfg(unix)]
    #[test]
    fn all_files_are_for_their_owner_alone_whatever_the_umask() {
        use std::os::unix::fs::PermissionsExt;
        let modes = |folder: &Path| {
            let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
            let mode = |e: fs::DirEntry| e.metadata().unwrap().permissions().mode() & 0o777;
            let name = |e: &fs::DirEntry| e.file_name().into_string().unwrap();
            let mut modes: Vec<_> = entries.map(|e| (name(&e), mode(e))).collect();
            modes.sort();
            modes
        };
        let private = |files: &[&str]| -> Vec<(String, u32)> {
            files
                .iter()
                .map(|file| ((*file).to_owned(), 0o600))
                .collect()
        };
        let running = private(&[
            "directory.sqlite",
            "directory.sqlite-shm",
            "directory.sqlite-wal",
            "seal-secret",
        ]);
        let folder = tempfile::tempdir().unwrap();
        let mut database = Database::open(folder.path()).unwrap();
        database
            .ensure(&name("live"), &Change::default(), 0)
            .unwrap();
        assert_eq!(modes(folder.path()), running);
        drop(database);
        assert_eq!(
            modes(folder.path()),
            private(&["directory.sqlite", "seal-secret"])
        );
        // Brought from elsewhere, readable by all.
        let loose = fs::Permissions::from_mode(0o644);
        fs::set_permissions(path_in(folder.path()), loose).unwrap();
        let mut database = Database::open(folder.path()).unwrap();
        database.rotate_key(&name("live"), None).unwrap();
        assert_eq!(modes(folder.path()), running);
    }

    #[test]
    fn the_worker_s_statements_run_on_the_same_tables() {
        let folder = tempfile::tempdir().unwrap();
        let mut database = Database::open(folder.path()).unwrap();
        database
            .ensure(&name("live"), &Change::default(), 0)
            .unwrap();
        let ids = [1, 2].map(|byte| BroadcastId::from_random([byte; 16]));
        let path = database.path.clone();
        let mut run_all = |statements: &[Statement]| {
            let transaction = begin(&path, &mut database.connection).unwrap();
            run(&path, &transaction, statements).unwrap();
            transaction.commit().unwrap();
        };
        run_all(&sql::broadcast_opened(&name("live"), &ids[0], "[]", 10));
        // A tenant's one place is taken by its own broadcast, which it takes the place of.
        run_all(&sql::broadcast_opened(
            &name("live"),
            &ids[1],
            r#"[["li", 1]]"#,
            20,
        ));
        run_all(&[
            sql::broadcast_playable(&ids[1], 21, "[]"),
            sql::broadcast_clock(&ids[1], -3),
            sql::set_viewers(&name("live"), 4),
        ]);
        let on_air = |database: &Database, since| -> Vec<sql::OnAirRow> {
            rows(&path, &database.connection, &sql::on_air(since)).unwrap()
        };
        let both = on_air(&database, 0);
        assert_eq!(
            both.iter()
                .map(|row| row.id.as_ref().unwrap())
                .collect::<Vec<_>>(),
            [&ids[0], &ids[1]]
        );
        assert_eq!(
            both[0].closed_unix_ms,
            Some(20.0),
            "the second ended the first"
        );
        assert_eq!((both[1].closed_unix_ms, both[1].viewers), (None, 4.0));
        assert_eq!(
            (both[1].playable_unix_ms, both[1].clock_offset_ms),
            (Some(21.0), Some(-3.0))
        );
        assert_eq!(both[1].tracks.as_deref(), Some("[]"));
        assert_eq!(on_air(&database, 30).len(), 1);
        let transaction = begin(&path, &mut database.connection).unwrap();
        run(&path, &transaction, &[sql::broadcast_closed(&ids[1], 40)]).unwrap();
        transaction.commit().unwrap();
        let none = on_air(&database, 50);
        assert!(
            none.len() == 1 && none[0].id.is_none(),
            "the stream without a broadcast"
        );
        let found = |statement| -> Vec<StreamRow> {
            rows(&path, &database.connection, &statement).unwrap()
        };
        let by_id = found(sql::stream_by_key_id("live")).pop().map(Stream::from);
        assert_eq!(by_id.as_ref(), database.known().stream(&name("live")));
        assert_eq!(
            found(sql::stream(&name("live"))).pop().map(Stream::from),
            by_id
        );
        assert!(found(sql::stream(&name("nobody"))).is_empty());
    }

    #[tokio::test]
    async fn calls_of_a_shared_database_come_to_their_end_though_nobody_waits() {
        let folder = tempfile::tempdir().unwrap();
        let shared = Shared::new(Database::open(folder.path()).unwrap());
        let (began, hears) = std::sync::mpsc::channel();
        let (goes_on, waits) = std::sync::mpsc::channel::<()>();
        let calls = shared.with(move |database| {
            began.send(()).unwrap();
            waits.recv().unwrap();
            database.ensure(&name("live"), &Change::default(), 0)
        });
        // Given up in the middle of the call.
        let mut calls = Box::pin(calls);
        assert!(futures::poll!(calls.as_mut()).is_pending());
        hears.recv().unwrap();
        drop(calls);
        goes_on.send(()).unwrap();
        let streams = shared.with(|database| Ok(database.known().streams().count()));
        assert_eq!(streams.await.unwrap(), 1);
    }

    #[test]
    fn a_configuration_s_word_is_taken_once_and_a_change_since_stays() {
        let folder = tempfile::tempdir().unwrap();
        let change = |text: &str| -> Change { serde_json::from_str(text).unwrap() };
        let first = change(
            r#"{"visibility": "unlisted", "title": "One", "limits": {"max_fps": 30, "max_height": 720}}"#,
        );
        let mut database = Database::open(folder.path()).unwrap();
        database.ensure(&name("live"), &first, 0).unwrap();
        let kept = |database: &Database| {
            let stream = database.known().stream(&name("live")).cloned().unwrap();
            let title = stream.title.map(|title| title.as_str().to_owned());
            (
                stream.visibility.as_str(),
                title,
                stream.limits.max_fps,
                stream.limits.max_height,
            )
        };
        let made = ("unlisted", Some("One".to_owned()), Some(30), Some(720));
        assert_eq!(kept(&database), made);
        let api = change(
            r#"{"visibility": "token", "title": null, "limits": {"max_fps": null, "max_viewers": 0}}"#,
        );
        database.change_settings(&name("live"), &api).unwrap();
        let changed = ("token", None, None, Some(720));
        assert_eq!(kept(&database), changed);
        for _ in 0..2 {
            drop(database);
            database = Database::open(folder.path()).unwrap();
            database.ensure(&name("live"), &first, 0).unwrap();
            assert_eq!(kept(&database), changed);
            // A key that changes, here or from a box, changes nothing else.
            database.rotate_key(&name("live"), None).unwrap();
            let mut entry = entry_of(&database, "live");
            entry.rotate_key([9; 16]);
            database.put(&entry, true).unwrap();
            assert_eq!(kept(&database), changed);
            database
                .ensure(&name("live"), &Change::default(), 0)
                .unwrap();
            assert_eq!(kept(&database), changed);
        }
        let second = change(r#"{"visibility": "public", "limits": {"max_fps": 60}}"#);
        database.configure(&name("live"), &second).unwrap();
        assert_eq!(kept(&database), ("public", None, Some(60), Some(720)));
        let limits = database.known().stream(&name("live")).unwrap().limits;
        assert_eq!(limits.max_viewers, Some(0));
        assert!(database.configure(&name("nobody"), &second).is_err());
        assert!(database.change_settings(&name("nobody"), &second).is_err());
    }

    #[test]
    fn a_row_that_a_hand_has_spoilt_is_closed_and_the_others_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut database = Database::open(folder.path()).unwrap();
        database
            .ensure(&name("live"), &Change::default(), 0)
            .unwrap();
        database
            .ensure(&name("other"), &Change::default(), 0)
            .unwrap();
        let spoil = "UPDATE streams SET visibility = 'Public', title = ' ', limits = 'x' WHERE name = 'live'";
        database.connection.execute_batch(spoil).unwrap();
        drop(database);
        let database = Database::open(folder.path()).unwrap();
        let visibility = |stream: &str| database.known().stream(&name(stream)).unwrap().visibility;
        assert!(visibility("live").needs_token() && !visibility("other").needs_token());
    }
}
