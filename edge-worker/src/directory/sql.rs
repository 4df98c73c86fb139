//! The directory's SQL: every statement that the native edge's SQLite and the Worker's D1 run, and the rows they give.
//!
//! The tables are made by the files in `migrations/`. Values are numbered parameters, and an atomic change is one batch: D1 has no
//! transaction in which something could be read before something else is decided.

use protocol::{
    limits::Limits,
    names::{BroadcastId, StreamName},
    token::{AHEAD_MS, Claims, Revocation, Revoked, Seconds},
};
use serde::Deserialize;

use super::{
    OldKey, Stream,
    settings::{Change, Visibility},
};

/// A value for a numbered parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// NULL.
    Null,
    /// INTEGER, within what JavaScript's numbers hold exactly.
    Integer(i64),
    /// TEXT.
    Text(String),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Self {
        text.map_or(Self::Null, Self::from)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

/// A statement with its values: `?1` is the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The text.
    pub sql: &'static str,
    /// The values.
    pub values: Vec<Value>,
}

impl Statement {
    pub(crate) fn new<const N: usize>(sql: &'static str, values: [Value; N]) -> Self {
        let values = values.into();
        Self { sql, values }
    }
}

/// A row of a stream. Integers are read as D1 gives them.
#[derive(Deserialize)]
pub struct StreamRow {
    name: StreamName,
    key_id: String,
    key_sha256: String,
    key_sealed: Option<String>,
    studio_sha256: String,
    studio_sealed: Option<String>,
    created_unix_ms: f64,
    visibility: String,
    title: Option<String>,
    limits: String,
    configured: Option<String>,
    old_key_sha256: Option<String>,
    old_key_until_unix_ms: Option<f64>,
}

impl From<StreamRow> for Stream {
    fn from(row: StreamRow) -> Self {
        Self {
            name: row.name,
            key_id: row.key_id,
            key_sha256: row.key_sha256,
            key_sealed: row.key_sealed,
            old_key: row
                .old_key_sha256
                .zip(row.old_key_until_unix_ms)
                .map(|(sha256, until)| OldKey {
                    sha256,
                    until_unix_ms: until as i64,
                }),
            studio_sha256: row.studio_sha256,
            studio_sealed: row.studio_sealed,
            created_unix_ms: row.created_unix_ms as i64,
            visibility: visibility(&row.visibility),
            // A hand in the table that wrote no title or limits does not cost all streams their directory.
            title: row.title.and_then(|title| title.parse().ok()),
            limits: serde_json::from_str(&row.limits).unwrap_or_default(),
            configured: row.configured,
        }
    }
}

/// A word that is none was meant to close the stream rather than to open it.
fn visibility(text: &str) -> Visibility {
    text.parse().unwrap_or(Visibility::Token)
}

/// All streams: [`StreamRow`]s.
pub fn streams() -> Statement {
    Statement::new(
        "SELECT name, key_id, key_sha256, key_sealed, studio_sha256, studio_sealed, created_unix_ms, visibility, title, limits, configured, old_key_sha256, old_key_until_unix_ms FROM streams ORDER BY name",
        [],
    )
}

/// The stream of that name: a [`StreamRow`], if there is one.
pub fn stream(name: &StreamName) -> Statement {
    Statement::new(
        "SELECT name, key_id, key_sha256, key_sealed, studio_sha256, studio_sealed, created_unix_ms, visibility, title, limits, configured, old_key_sha256, old_key_until_unix_ms FROM streams WHERE name = ?1",
        [name.as_str().into()],
    )
}

/// The stream whose key has that id: a [`StreamRow`], if there is one.
pub fn stream_by_key_id(key_id: &str) -> Statement {
    Statement::new(
        "SELECT name, key_id, key_sha256, key_sealed, studio_sha256, studio_sealed, created_unix_ms, visibility, title, limits, configured, old_key_sha256, old_key_until_unix_ms FROM streams WHERE key_id = ?1",
        [key_id.into()],
    )
}

/// Makes a stream with no settings, or changes the secrets of one. It fails when its key id is another stream's.
pub fn put_stream(stream: &Stream) -> Statement {
    // The same key again takes nothing from the one before it.
    Statement::new(
        "INSERT INTO streams (name, key_id, key_sha256, key_sealed, studio_sha256, studio_sealed, created_unix_ms, old_key_sha256, old_key_until_unix_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (name) DO UPDATE SET key_id = ?2, key_sha256 = ?3, key_sealed = ?4, studio_sha256 = ?5, studio_sealed = ?6,
         old_key_sha256 = CASE WHEN key_sha256 = ?3 AND ?8 IS NULL THEN old_key_sha256 ELSE ?8 END,
         old_key_until_unix_ms = CASE WHEN key_sha256 = ?3 AND ?8 IS NULL THEN old_key_until_unix_ms ELSE ?9 END",
        columns(stream),
    )
}

/// Changes the key of a stream that was `before` when it was read, and nothing where its key or its studio link was changed since.
pub fn rotate_key(stream: &Stream, before: &Stream) -> Statement {
    let old = stream.old_key.as_ref();
    Statement::new(
        "UPDATE streams SET key_sha256 = ?2, key_sealed = ?3, old_key_sha256 = ?4, old_key_until_unix_ms = ?5
         WHERE name = ?1 AND key_sha256 = ?6 AND studio_sha256 = ?7",
        [
            stream.name.as_str().into(),
            stream.key_sha256.as_str().into(),
            stream.key_sealed.as_deref().into(),
            old.map(|old| old.sha256.as_str()).into(),
            old.map_or(Value::Null, |old| old.until_unix_ms.into()),
            before.key_sha256.as_str().into(),
            before.studio_sha256.as_str().into(),
        ],
    )
}

/// Changes the studio link of a stream that was `before` when it was read, and nothing where it was changed since.
pub fn log_out(stream: &Stream, before: &Stream) -> Statement {
    Statement::new(
        "UPDATE streams SET studio_sha256 = ?2, studio_sealed = ?3 WHERE name = ?1 AND studio_sha256 = ?4",
        [
            stream.name.as_str().into(),
            stream.studio_sha256.as_str().into(),
            stream.studio_sealed.as_deref().into(),
            before.studio_sha256.as_str().into(),
        ],
    )
}

/// Makes a stream with these settings, where of those whose names begin so there are fewer than so many (`room`): of several that are made
/// at once for one place, one is. It fails when there is one of that name, or its key id is another stream's.
pub fn make_stream(stream: &Stream, settings: &Change, room: &[(String, u32)]) -> Statement {
    let [_, visibility, _, title, limits] = changed(&stream.name, settings);
    let room = serde_json::to_string(room).unwrap_or_else(|_| unreachable!("texts are JSON"));
    let mut statement = Statement::new(
        "INSERT INTO streams (name, key_id, key_sha256, key_sealed, studio_sha256, studio_sealed, created_unix_ms, old_key_sha256, old_key_until_unix_ms,
         visibility, title, limits)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, COALESCE(?10, 'public'), ?11, json_patch('{}', ?12)
         WHERE NOT EXISTS (SELECT 1 FROM json_each(?13) AS share WHERE json_extract(share.value, '$[1]') <= (
             SELECT COUNT(*) FROM streams
             WHERE substr(name, 1, length(json_extract(share.value, '$[0]'))) = json_extract(share.value, '$[0]')))",
        columns(stream),
    );
    (statement.values).extend([visibility, title, limits, Value::Text(room)]);
    statement
}

fn columns(stream: &Stream) -> [Value; 9] {
    let old = stream.old_key.as_ref();
    [
        stream.name.as_str().into(),
        stream.key_id.as_str().into(),
        stream.key_sha256.as_str().into(),
        stream.key_sealed.as_deref().into(),
        stream.studio_sha256.as_str().into(),
        stream.studio_sealed.as_deref().into(),
        stream.created_unix_ms.into(),
        old.map(|old| old.sha256.as_str()).into(),
        old.map_or(Value::Null, |old| old.until_unix_ms.into()),
    ]
}

/// Deletes a stream that was made by then, Unix milliseconds, with all that refers to it, and remembers that it was there, for those who delete its objects. One batch.
pub fn delete_stream(name: &StreamName, at_unix_ms: i64) -> [Statement; 2] {
    [
        Statement::new(
            "INSERT INTO deleted_streams (name, deleted_unix_ms) SELECT name, ?2 FROM streams WHERE name = ?1 AND created_unix_ms <= ?2
             ON CONFLICT (name) DO UPDATE SET deleted_unix_ms = ?2",
            [name.as_str().into(), at_unix_ms.into()],
        ),
        Statement::new("DELETE FROM streams WHERE name = ?1 AND created_unix_ms <= ?2", [name.as_str().into(), at_unix_ms.into()]),
    ]
}

/// A stream that was deleted.
#[derive(Debug, Deserialize)]
pub struct DeletedRow {
    /// Its name.
    pub name: StreamName,
    /// When, Unix milliseconds.
    pub deleted_unix_ms: f64,
}

/// The streams that were deleted, of which objects may be left: [`DeletedRow`]s.
pub fn deleted_streams() -> Statement {
    Statement::new(
        "SELECT name, deleted_unix_ms FROM deleted_streams ORDER BY name",
        [],
    )
}

/// Nothing is left of a stream that was deleted before that.
pub fn forget_deleted(name: &StreamName, before_unix_ms: i64) -> Statement {
    Statement::new(
        "DELETE FROM deleted_streams WHERE name = ?1 AND deleted_unix_ms < ?2",
        [name.as_str().into(), before_unix_ms.into()],
    )
}

/// A broadcast that the directory has.
#[derive(Debug, Deserialize)]
pub struct BroadcastRow {
    /// Its id.
    pub id: BroadcastId,
    /// Its stream.
    pub stream: StreamName,
    /// When it began.
    pub opened_unix_ms: f64,
}

/// The broadcasts that a stream had: [`BroadcastRow`]s.
pub fn broadcasts_of(name: &StreamName) -> Statement {
    Statement::new(
        "SELECT id, stream, opened_unix_ms FROM broadcasts WHERE stream = ?1",
        [name.as_str().into()],
    )
}

/// Changes the settings of a stream.
pub fn change_stream(name: &StreamName, change: &Change) -> Statement {
    // `json_patch` is RFC 7396: null takes a limit away.
    Statement::new(
        "UPDATE streams SET visibility = COALESCE(?2, visibility), title = CASE WHEN ?3 THEN ?4 ELSE title END, limits = json_patch(limits, ?5)
         WHERE name = ?1",
        changed(name, change),
    )
}

/// Changes the settings of a stream as a configuration says, unless it was what one said last: what was changed since stays.
/// `remembered` is [`Change::remembered`].
pub fn configure_stream(name: &StreamName, change: &Change, remembered: &str) -> Statement {
    let [name, visibility, titled, title, limits] = changed(name, change);
    Statement::new(
        "UPDATE streams SET visibility = COALESCE(?2, visibility), title = CASE WHEN ?3 THEN ?4 ELSE title END, limits = json_patch(limits, ?5),
         configured = ?6 WHERE name = ?1 AND configured IS NOT ?6",
        [name, visibility, titled, title, limits, remembered.into()],
    )
}

fn changed(name: &StreamName, change: &Change) -> [Value; 5] {
    let title = change.title.as_ref();
    let limits = serde_json::to_string(&change.limits).unwrap_or_else(|_| "{}".to_owned());
    [
        name.as_str().into(),
        change.visibility.map(Visibility::as_str).into(),
        i64::from(title.is_some()).into(),
        title
            .and_then(|title| Some(title.as_ref()?.as_str()))
            .into(),
        Value::Text(limits),
    ]
}

/// A stream with one of its broadcasts, or with none.
#[derive(Debug, Deserialize)]
pub struct OnAirRow {
    /// The stream.
    pub name: StreamName,
    /// How many watch.
    pub viewers: f64,
    /// Who may watch.
    visibility: String,
    /// What it is called.
    pub title: Option<String>,
    /// What it may take, JSON.
    limits: String,
    /// When it was made.
    pub created_unix_ms: f64,
    /// The broadcast; what follows is its.
    pub id: Option<BroadcastId>,
    /// Since when it can be played.
    pub playable_unix_ms: Option<f64>,
    /// JSON of the API.
    pub tracks: Option<String>,
    /// When it ended.
    pub closed_unix_ms: Option<f64>,
    /// When it began.
    pub opened_unix_ms: Option<f64>,
    /// How far its box's clock is ahead.
    pub clock_offset_ms: Option<f64>,
}

impl OnAirRow {
    /// Who may watch the stream.
    pub fn visibility(&self) -> Visibility {
        visibility(&self.visibility)
    }

    /// What the stream may take.
    pub fn limits(&self) -> Limits {
        serde_json::from_str(&self.limits).unwrap_or_default()
    }
}

/// All streams with their broadcasts that go on or ended after `since_unix_ms`, oldest first: [`OnAirRow`]s.
pub fn on_air(since_unix_ms: i64) -> Statement {
    Statement::new(
        "SELECT s.name, s.viewers, s.visibility, s.title, s.limits, s.created_unix_ms, b.id, b.playable_unix_ms, b.tracks, b.closed_unix_ms, b.opened_unix_ms, b.clock_offset_ms
         FROM streams s
         LEFT JOIN broadcasts b ON b.stream = s.name AND (b.closed_unix_ms IS NULL OR b.closed_unix_ms > ?1)
         ORDER BY s.name, b.opened_unix_ms",
        [since_unix_ms.into()],
    )
}

/// A broadcast was opened, unless one of these tenants has as many as it may: beginnings of names with how many, JSON as
/// `[["acme-", 2]]`. Those of the stream that went on before it are over. One batch: of two that begin at once and have one place, one
/// does. Whether it did, [`broadcast`] says.
pub fn broadcast_opened(
    stream: &StreamName,
    broadcast: &BroadcastId,
    tenants: &str,
    now_unix_ms: i64,
) -> [Statement; 2] {
    [
        Statement::new(
            "INSERT INTO broadcasts (id, stream, opened_unix_ms) SELECT ?1, ?2, ?3
             WHERE NOT EXISTS (SELECT 1 FROM json_each(?4) AS tenant WHERE json_extract(tenant.value, '$[1]') <= (
                 SELECT COUNT(DISTINCT stream) FROM broadcasts WHERE closed_unix_ms IS NULL AND stream <> ?2
                 AND substr(stream, 1, length(json_extract(tenant.value, '$[0]'))) = json_extract(tenant.value, '$[0]')))
             ON CONFLICT (id) DO NOTHING",
            [
                broadcast.as_str().into(),
                stream.as_str().into(),
                now_unix_ms.into(),
                tenants.into(),
            ],
        ),
        Statement::new(
            "UPDATE broadcasts SET closed_unix_ms = ?1 WHERE stream = ?2 AND closed_unix_ms IS NULL AND id <> ?3
             AND EXISTS (SELECT 1 FROM broadcasts WHERE id = ?3)",
            [
                now_unix_ms.into(),
                stream.as_str().into(),
                broadcast.as_str().into(),
            ],
        ),
    ]
}

/// A broadcast, if the directory has it: a [`BroadcastRow`].
pub fn broadcast(id: &BroadcastId) -> Statement {
    Statement::new(
        "SELECT id, stream, opened_unix_ms FROM broadcasts WHERE id = ?1",
        [id.as_str().into()],
    )
}

/// The broadcasts that go on: [`BroadcastRow`]s.
pub fn going_on() -> Statement {
    Statement::new(
        "SELECT id, stream, opened_unix_ms FROM broadcasts WHERE closed_unix_ms IS NULL ORDER BY opened_unix_ms",
        [],
    )
}

/// A broadcast can be played. `tracks` is the API's JSON.
pub fn broadcast_playable(broadcast: &BroadcastId, since_unix_ms: i64, tracks: &str) -> Statement {
    Statement::new(
        "UPDATE broadcasts SET playable_unix_ms = ?1, tracks = ?2 WHERE id = ?3 AND playable_unix_ms IS NULL",
        [
            since_unix_ms.into(),
            tracks.into(),
            broadcast.as_str().into(),
        ],
    )
}

/// How far the clock of a broadcast's box is ahead, milliseconds.
pub fn broadcast_clock(broadcast: &BroadcastId, offset_ms: i64) -> Statement {
    Statement::new(
        "UPDATE broadcasts SET clock_offset_ms = ?1 WHERE id = ?2",
        [offset_ms.into(), broadcast.as_str().into()],
    )
}

/// A broadcast is over.
pub fn broadcast_closed(broadcast: &BroadcastId, at_unix_ms: i64) -> Statement {
    Statement::new(
        "UPDATE broadcasts SET closed_unix_ms = ?1 WHERE id = ?2 AND closed_unix_ms IS NULL",
        [at_unix_ms.into(), broadcast.as_str().into()],
    )
}

/// How many watch a stream.
pub fn set_viewers(stream: &StreamName, viewers: usize) -> Statement {
    Statement::new(
        "UPDATE streams SET viewers = ?1 WHERE name = ?2",
        [
            i64::try_from(viewers).unwrap_or(i64::MAX).into(),
            stream.as_str().into(),
        ],
    )
}

/// A revocation. Integers are read as D1 gives them.
#[derive(Debug, Deserialize)]
pub struct RevocationRow {
    /// Higher than that of any other before it.
    pub id: f64,
    what: String,
    streams: String,
    at_unix_ms: f64,
    until_unix_ms: Option<f64>,
}

impl RevocationRow {
    /// What it says; `None` where it cannot be read.
    pub fn read(self) -> Option<Revocation> {
        Some(Revocation {
            what: serde_json::from_str(&self.what).ok()?,
            streams: self.streams.parse().ok()?,
            at_unix_ms: self.at_unix_ms as i64,
            until_unix_ms: self.until_unix_ms.map(|until| until as i64),
        })
    }
}

/// The revocations since that one: [`RevocationRow`]s, oldest first.
pub fn revocations(after_id: i64) -> Statement {
    Statement::new(
        "SELECT id, what, streams, at_unix_ms, until_unix_ms FROM revocations WHERE id > ?1 ORDER BY id",
        [after_id.into()],
    )
}

/// Keeps a revocation; what is of no use any more goes, and what is contained in it. One batch.
pub fn revoke(revocation: &Revocation, now_unix_ms: i64) -> [Statement; 2] {
    let what =
        serde_json::to_string(&revocation.what).unwrap_or_else(|_| unreachable!("texts are JSON"));
    let streams = revocation.streams.to_string();
    let prefix = streams.strip_suffix('*');
    let [at, until] = [Some(revocation.at_unix_ms), revocation.until_unix_ms]
        .map(|time| time.map_or(Value::Null, Value::Integer));
    [
        Statement::new(
            "DELETE FROM revocations WHERE until_unix_ms <= ?1
             OR (?2 AND (CASE WHEN ?3 IS NULL THEN streams = ?4 ELSE substr(streams, 1, length(?3)) = ?3 END)
             AND at_unix_ms + ?7 <= ?5 AND (?6 IS NULL OR until_unix_ms <= ?6))",
            [
                now_unix_ms.into(),
                i64::from(revocation.what == Revoked::All).into(),
                prefix.into(),
                streams.as_str().into(),
                at.clone(),
                until.clone(),
                AHEAD_MS.into(),
            ],
        ),
        Statement::new(
            // With a new id, and never earlier or shorter than it was.
            "INSERT OR REPLACE INTO revocations (what, streams, at_unix_ms, until_unix_ms)
             SELECT ?1, ?2, max(?3, ifnull(max(at_unix_ms), ?3)),
             CASE WHEN ?4 IS NULL OR count(*) > count(until_unix_ms) THEN NULL ELSE max(?4, ifnull(max(until_unix_ms), ?4)) END
             FROM revocations WHERE what = ?1 AND streams = ?2",
            [what.as_str().into(), streams.as_str().into(), at, until],
        ),
    ]
}

/// Keeps that a key was taken back, where the stream is still as it was `before`, when it was read: to be run ahead of [`rotate_key`] in
/// one batch, so that neither is there without the other.
pub fn revoke_key(revocation: &Revocation, before: &Stream) -> Statement {
    let what =
        serde_json::to_string(&revocation.what).unwrap_or_else(|_| unreachable!("texts are JSON"));
    Statement::new(
        "INSERT OR REPLACE INTO revocations (what, streams, at_unix_ms, until_unix_ms)
         SELECT ?1, name, ?2, ?3 FROM streams WHERE name = ?4 AND key_sha256 = ?5 AND studio_sha256 = ?6",
        [
            what.as_str().into(),
            revocation.at_unix_ms.into(),
            revocation
                .until_unix_ms
                .map_or(Value::Null, Value::Integer),
            before.name.as_str().into(),
            before.key_sha256.as_str().into(),
            before.studio_sha256.as_str().into(),
        ],
    )
}

/// A watch link. Integers are read as D1 gives them.
#[derive(Debug, Deserialize)]
pub struct LinkRow {
    /// Its token's id.
    pub jti: String,
    /// What the owner calls it.
    pub name: String,
    /// Its claims, JSON.
    pub claims: String,
    /// When it was made.
    pub created_unix_ms: f64,
}

impl LinkRow {
    /// From when on it begins no new session.
    pub fn exp(&self) -> Option<Seconds> {
        let claims: Claims = serde_json::from_str(&self.claims).ok()?;
        Some(claims.exp)
    }
}

/// The watch links of a stream: [`LinkRow`]s, newest first.
pub fn links(stream: &StreamName) -> Statement {
    Statement::new(
        "SELECT jti, name, claims, created_unix_ms FROM links WHERE stream = ?1 ORDER BY created_unix_ms DESC, jti",
        [stream.as_str().into()],
    )
}

/// Keeps a watch link, where the stream has fewer than so many.
pub fn add_link(
    stream: &StreamName,
    jti: &str,
    name: &str,
    claims: &str,
    now_unix_ms: i64,
    most: usize,
) -> Statement {
    Statement::new(
        "INSERT INTO links (jti, stream, name, claims, created_unix_ms)
         SELECT ?1, ?2, ?3, ?4, ?5 WHERE (SELECT COUNT(*) FROM links WHERE stream = ?2) < ?6",
        [
            jti.into(),
            stream.as_str().into(),
            name.into(),
            claims.into(),
            now_unix_ms.into(),
            i64::try_from(most).unwrap_or(i64::MAX).into(),
        ],
    )
}

/// Forgets a watch link.
pub fn delete_link(stream: &StreamName, jti: &str) -> Statement {
    Statement::new(
        "DELETE FROM links WHERE stream = ?1 AND jti = ?2",
        [stream.as_str().into(), jti.into()],
    )
}
