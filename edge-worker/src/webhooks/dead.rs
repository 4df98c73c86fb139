//! Dead letters over HTTP: the events that no webhook took, for an administrator, whose token manages all streams.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /api/webhooks/dead` | [`DeadLetters`], oldest first |
//! | `POST /api/webhooks/dead/{id}/resend` | [`Resent`]: that event is sent again |
//! | `POST /api/webhooks/dead/resend` | [`Resent`]: all of them are, or those of one webhook |
//!
//! An adapter runs [`list`] and [`Resend::statement`] on its database, and wakes whoever sends.

use protocol::{names::StreamName, token::StreamPattern};
use serde::{Deserialize, Serialize};

use super::{
    event::EventId,
    sql::{self, DeadRow},
};
use crate::{directory::sql::Statement, playlist::iso8601, routes::Problem};

/// Most dead letters in one answer.
pub const MOST_LISTED: usize = 1_000;

/// `GET /api/webhooks/dead`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct DeadLetters {
    /// What was not taken, oldest first, 1,000 at the most.
    pub dead: Vec<DeadLetter>,
    /// Whether there are more.
    pub more: bool,
}

/// An event that a webhook did not take, and is not sent again by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct DeadLetter {
    /// Its id, as the webhook was sent it.
    pub id: String,
    /// The webhook that did not take it.
    pub webhook: String,
    /// Of which stream.
    pub stream: StreamName,
    /// When it was noticed, or last asked to be sent again, ISO 8601.
    pub created: String,
    /// How often it was sent since then.
    pub attempts: u64,
    /// Why the last attempt failed, a sentence.
    pub error: Option<String>,
}

impl From<DeadRow> for DeadLetter {
    fn from(row: DeadRow) -> Self {
        Self {
            id: row.id,
            webhook: row.webhook,
            stream: row.stream,
            created: iso8601(row.created_unix_ms as i64),
            attempts: row.attempts as u64,
            error: row.error,
        }
    }
}

impl DeadLetters {
    /// Of what [`list`] gave.
    pub fn of(mut rows: Vec<DeadRow>) -> Self {
        let more = rows.len() > MOST_LISTED;
        rows.truncate(MOST_LISTED);
        Self {
            dead: rows.into_iter().map(DeadLetter::from).collect(),
            more,
        }
    }
}

/// What is listed: one more than is told, so that it is known whether there are more.
pub fn list() -> Statement {
    sql::dead(MOST_LISTED as i64 + 1)
}

/// The body of both requests to resend; an empty one says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Resend {
    /// Only what this webhook did not take.
    pub webhook: Option<String>,
}

impl Resend {
    /// Reads the body.
    ///
    /// # Errors
    /// A [`Problem`].
    pub fn read(body: &[u8]) -> Result<Self, Problem> {
        match body.is_empty() {
            true => Ok(Self::default()),
            false => crate::api::read(body),
        }
    }

    /// Makes them due.
    pub fn statement(&self, id: Option<&EventId>, now_unix_ms: i64) -> Statement {
        sql::resend(
            self.webhook.as_deref(),
            id.map(EventId::as_str),
            now_unix_ms,
        )
    }
}

/// The answer to both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Resent {
    /// How many are sent again: one event counts for each webhook that did not take it.
    pub resent: u64,
}

impl Resent {
    /// So many.
    ///
    /// # Errors
    /// A [`Problem`] where one was named and there is none.
    pub fn of(resent: usize, id: Option<&EventId>) -> Result<Self, Problem> {
        match (resent, id) {
            (0, Some(_)) => Err(Problem::no_dead_letter()),
            _ => Ok(Self {
                resent: resent as u64,
            }),
        }
    }
}

/// Which streams one has to manage: all.
pub fn whose() -> StreamPattern {
    super::all()
}
