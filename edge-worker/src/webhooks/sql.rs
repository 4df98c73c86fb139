//! The statements of the events' table (`migrations/0006_webhooks.sql`), for SQLite and D1 alike.

use protocol::names::StreamName;
use serde::Deserialize;

use super::{Hooks, On, event::Event};
use crate::directory::sql::{Statement, Value};

/// Most events that wait for one webhook. **Overflow policy**: what comes then is a dead letter at once, to be sent by hand.
pub const MAX_WAITING: i64 = 1_000;
/// Most dead letters that are kept; the oldest go.
pub const MAX_DEAD: i64 = 10_000;
/// How long what arrived is remembered, milliseconds: longer than any broadcast is looked at after its end.
const REMEMBERED_MS: i64 = 7 * 24 * 3_600 * 1_000;
/// How long anything is kept, milliseconds.
const KEPT_MS: i64 = 90 * 24 * 3_600 * 1_000;

/// An event that is to be sent.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct DueRow {
    /// Its id.
    pub id: String,
    /// What is sent.
    pub body: String,
    /// When it happened.
    pub created_unix_ms: f64,
    /// How often it was sent.
    pub attempts: f64,
}

/// An event that could not be told.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct DeadRow {
    /// Its id.
    pub id: String,
    /// Whom it was for.
    pub webhook: String,
    /// Of which stream.
    pub stream: StreamName,
    /// When it happened.
    pub created_unix_ms: f64,
    /// How often it was sent.
    pub attempts: f64,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// When an event is due.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct NextRow {
    /// Unix milliseconds; `None` where none waits.
    pub due_unix_ms: Option<f64>,
}

/// Keeps what was noticed at once, in its order, for those who are told. One batch.
pub fn keep_all(events: &[Event], hooks: &Hooks, now_unix_ms: i64) -> Vec<Statement> {
    let mut statements = Vec::new();
    for (event, behind) in events.iter().zip((0..events.len() as i64).rev()) {
        // They are sent in the order of their times, of which each has its own.
        let at = now_unix_ms.saturating_sub(behind);
        for index in hooks.asked(On::Events, &event.stream) {
            let webhook = hooks.all().get(index);
            statements.extend(webhook.map(|one| keep(event, &one.hook.name, at)));
        }
    }
    statements
}

/// Keeps an event for a webhook; one that is there already stays as it is.
pub fn keep(event: &Event, webhook: &str, now_unix_ms: i64) -> Statement {
    Statement::new(
        "INSERT INTO webhook_events (id, webhook, stream, body, created_unix_ms, due_unix_ms, error)
         SELECT ?1, ?2, ?3, ?4, ?5,
             CASE WHEN waiting.n < ?6 THEN ?5 END,
             CASE WHEN waiting.n < ?6 THEN NULL ELSE 'too many events wait for this webhook' END
         FROM (SELECT COUNT(*) AS n FROM webhook_events WHERE webhook = ?2 AND due_unix_ms IS NOT NULL) AS waiting
         WHERE true
         ON CONFLICT (id, webhook) DO NOTHING",
        [
            event.id().as_str().into(),
            webhook.into(),
            event.stream.as_str().into(),
            event.body().as_str().into(),
            now_unix_ms.into(),
            MAX_WAITING.into(),
        ],
    )
}

/// The event that a webhook is sent next: a [`DueRow`], if there is one.
pub fn due(webhook: &str, now_unix_ms: i64) -> Statement {
    Statement::new(
        "SELECT id, body, created_unix_ms, attempts FROM webhook_events
         WHERE webhook = ?1 AND due_unix_ms <= ?2 ORDER BY due_unix_ms, created_unix_ms LIMIT 1",
        [webhook.into(), now_unix_ms.into()],
    )
}

/// It arrived.
pub fn delivered(id: &str, webhook: &str, now_unix_ms: i64) -> Statement {
    Statement::new(
        "UPDATE webhook_events SET delivered_unix_ms = ?1, due_unix_ms = NULL, error = NULL, attempts = attempts + 1
         WHERE id = ?2 AND webhook = ?3",
        [now_unix_ms.into(), id.into(), webhook.into()],
    )
}

/// It did not arrive; when it is sent again, or `None` for never.
pub fn failed(id: &str, webhook: &str, error: &str, due_unix_ms: Option<i64>) -> Statement {
    Statement::new(
        "UPDATE webhook_events SET due_unix_ms = ?1, error = ?2, attempts = attempts + 1 WHERE id = ?3 AND webhook = ?4",
        [
            due_unix_ms.map_or(Value::Null, Value::from),
            error.into(),
            id.into(),
            webhook.into(),
        ],
    )
}

/// When the next event of a webhook is due: a [`NextRow`].
pub fn next_due(webhook: &str) -> Statement {
    Statement::new(
        "SELECT MIN(due_unix_ms) AS due_unix_ms FROM webhook_events WHERE webhook = ?1",
        [webhook.into()],
    )
}

/// What could not be told, oldest first, `most` of it: [`DeadRow`]s.
pub fn dead(most: i64) -> Statement {
    Statement::new(
        "SELECT id, webhook, stream, created_unix_ms, attempts, error FROM webhook_events
         WHERE due_unix_ms IS NULL AND delivered_unix_ms IS NULL ORDER BY created_unix_ms, id, webhook LIMIT ?1",
        [most.into()],
    )
}

/// Dead letters are to be sent again: those of that webhook and id, or all of them.
pub fn resend(webhook: Option<&str>, id: Option<&str>, now_unix_ms: i64) -> Statement {
    Statement::new(
        "UPDATE webhook_events SET due_unix_ms = ?1, attempts = 0, created_unix_ms = ?1
         WHERE due_unix_ms IS NULL AND delivered_unix_ms IS NULL
             AND (?2 IS NULL OR webhook = ?2) AND (?3 IS NULL OR id = ?3)",
        [now_unix_ms.into(), webhook.into(), id.into()],
    )
}

/// Forgets what is of no use any more. One batch.
pub fn sweep(now_unix_ms: i64) -> [Statement; 2] {
    [
        Statement::new(
            "DELETE FROM webhook_events WHERE delivered_unix_ms < ?1 OR created_unix_ms < ?2",
            [
                now_unix_ms.saturating_sub(REMEMBERED_MS).into(),
                now_unix_ms.saturating_sub(KEPT_MS).into(),
            ],
        ),
        Statement::new(
            "DELETE FROM webhook_events WHERE due_unix_ms IS NULL AND delivered_unix_ms IS NULL AND created_unix_ms < (
                 SELECT created_unix_ms FROM webhook_events WHERE due_unix_ms IS NULL AND delivered_unix_ms IS NULL
                 ORDER BY created_unix_ms DESC LIMIT 1 OFFSET ?1)",
            [(MAX_DEAD - 1).into()],
        ),
    ]
}
