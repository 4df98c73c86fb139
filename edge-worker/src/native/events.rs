//! Tells webhooks what happens: notices it, keeps it in the directory's table, and sends it until it has arrived or is a dead letter.
//!
//! Nothing waits in memory: what a broadcast has to be told of is noticed again at every look until it is in the table, so that neither a
//! disk that hangs nor a restart loses an event. What waits for a webhook is bounded in the table, and beyond that a dead letter at once.
//! Each webhook has one event under way, and waits for no other webhook. Nobody who publishes or watches waits for any of it.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, time::MissedTickBehavior};

use super::{Edge, EdgeError, database::DatabaseError, live::Live, wall_unix_ms};
use crate::webhooks::{
    On,
    dead::{self, DeadLetters, Resend},
    event::{EventId, again},
    sql::{self, DueRow},
};

/// How often the broadcasts are looked at for what is to be told.
const NOTICE_EVERY: Duration = Duration::from_millis(500);
/// How often the table is looked into for what is due: what is to be sent again, and what somebody else wants to be (`ghost-live
/// webhooks resend`).
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long after a table that cannot be read or written it is tried again.
const TROUBLE: Duration = Duration::from_secs(10);
/// How often what is of no use any more is forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// Wakes those who send when something new is in the table.
#[derive(Debug, Default)]
pub(super) struct Events {
    kept: Notify,
}

impl Edge {
    /// Starts what writes events down and sends them, where a webhook wants any.
    pub(super) fn start_events(&self) {
        let hooks = self.webhooks().hooks().all().iter().enumerate();
        let wanted: Vec<usize> = hooks
            .filter(|(_, one)| one.hook.on.contains(&On::Events))
            .map(|(index, _)| index)
            .collect();
        if wanted.is_empty() {
            return;
        }
        let edge = self.clone();
        self.tasks().spawn(async move { edge.keep_events().await });
        for index in wanted {
            let edge = self.clone();
            self.tasks().spawn(async move { edge.tell(index).await });
        }
    }

    /// Looks at the broadcasts now and then, until the edge ends. What happened since the last look is noticed after its next start.
    async fn keep_events(&self) {
        let mut look = tokio::time::interval(NOTICE_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = self.closing().cancelled() => return,
            }
            if !self.notice(&self.broadcasts()).await {
                look.reset_after(TROUBLE);
            }
        }
    }

    /// Counts who watches these broadcasts, and keeps what is to be told of them; whether all of it could be kept.
    pub(super) async fn notice(&self, broadcasts: &[Arc<Live>]) -> bool {
        let hooks = self.webhooks().hooks();
        let mut all_kept = true;
        for live in broadcasts {
            if !hooks.asks(On::Events, &live.stream) {
                continue;
            }
            let events = self.count(live);
            if events.is_empty() {
                continue;
            }
            let statements = sql::keep_all(&events, hooks, wall_unix_ms());
            let kept = self
                .database()
                .with(move |database| database.execute(&statements));
            match kept.await {
                Ok(_) => {
                    live.kept(&events);
                    self.events().kept.notify_waiters();
                }
                Err(error) => {
                    tracing::error!(stream = %live.stream, broadcast = %live.id, %error, "what webhooks are to be told cannot be kept");
                    all_kept = false;
                }
            }
        }
        all_kept
    }

    /// Counts who watches a broadcast now; what is to be told of it.
    pub(super) fn count(&self, live: &Live) -> Vec<crate::webhooks::event::Event> {
        live.look(self.viewers(&live.stream), self.now_unix_ms())
    }

    /// What no webhook took.
    ///
    /// # Errors
    /// [`EdgeError`] when the directory cannot be read.
    pub async fn dead_letters(&self) -> Result<DeadLetters, EdgeError> {
        let rows = self
            .database()
            .with(|database| database.read(&dead::list()));
        Ok(DeadLetters::of(rows.await?))
    }

    /// Has dead letters sent again: the one of that id, or all. Gives how many.
    ///
    /// # Errors
    /// [`EdgeError`] when that cannot be kept.
    pub async fn resend(&self, id: Option<&EventId>, resend: &Resend) -> Result<usize, EdgeError> {
        let due = resend.statement(id, wall_unix_ms());
        let changed = self
            .database()
            .with(move |database| database.execute(&[due]));
        let changed = changed.await?;
        self.events().kept.notify_waiters();
        Ok(changed)
    }

    /// Sends a webhook what is due, one after the other.
    async fn tell(&self, index: usize) {
        let Some(webhook) = self.webhooks().hooks().all().get(index) else {
            return;
        };
        let webhook = webhook.hook.name.clone();
        let mut swept = None;
        loop {
            let news = self.events().kept.notified();
            let wait = match self.tell_next(index, &webhook).await {
                Ok(true) => Duration::ZERO,
                Ok(false) => LOOK_EVERY,
                Err(error) => {
                    tracing::error!(webhook, %error, "what a webhook is to be told cannot be read");
                    TROUBLE
                }
            };
            let now = tokio::time::Instant::now();
            if swept.is_none_or(|at| now.duration_since(at) >= SWEEP_EVERY) {
                swept = Some(now);
                let sweep = sql::sweep(wall_unix_ms());
                let swept = self
                    .database()
                    .with(move |database| database.execute(&sweep));
                if let Err(error) = swept.await {
                    tracing::warn!(%error, "old events of webhooks are not forgotten");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = news => {}
                () = self.closing().cancelled() => return,
            }
        }
    }

    /// Sends a webhook the next event that is due; whether there was one. One whose sending the edge's end cuts off stays due.
    async fn tell_next(&self, index: usize, webhook: &str) -> Result<bool, DatabaseError> {
        let due = sql::due(webhook, wall_unix_ms());
        let rows = self.database().with(move |database| database.read(&due));
        let Some(event) = rows.await?.into_iter().next() else {
            return Ok(false);
        };
        let Some(one) = self.webhooks().hooks().all().get(index) else {
            return Ok(false);
        };
        let retries = one.hook.retries();
        let event: DueRow = event;
        let told = tokio::select! {
            told = self.webhooks().tell(index, &event.id, &event.body) => told,
            () = self.closing().cancelled() => return Ok(false),
        };
        let now = wall_unix_ms();
        let done = match told {
            Ok(()) => sql::delivered(&event.id, webhook, now),
            Err(failure) => {
                let attempts = event.attempts as u32 + 1;
                let [random] = super::database::random()?;
                let due = again(retries, attempts, event.created_unix_ms as i64, now, random);
                match due {
                    Some(_) => {
                        tracing::debug!(webhook, event = event.id, attempts, %failure, "a webhook was not told");
                    }
                    None => {
                        tracing::warn!(webhook, event = event.id, attempts, %failure, "a webhook was not told, and is not again by itself: `ghost-live webhooks list`");
                    }
                }
                sql::failed(&event.id, webhook, &failure.to_string(), due)
            }
        };
        self.database()
            .with(move |database| database.execute(&[done]))
            .await?;
        Ok(true)
    }
}
