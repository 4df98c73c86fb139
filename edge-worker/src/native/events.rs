//! Tells webhooks what happens: notices it, keeps it in the directory's table, and sends it until it has arrived or is a dead letter.
//!
//! **Overflow policies**: what was noticed waits for the disk in a channel of [`NOTICED`]; what does not fit is lost, with a line in the
//! log, for then the disk hangs. What waits for a webhook is bounded in the table, and beyond that a dead letter at once. Each webhook has
//! one event under way, and waits for no other webhook.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::{Notify, mpsc};

use super::{Edge, database::DatabaseError, lock, wall_unix_ms};
use crate::webhooks::{
    On,
    event::{Event, Watcher, again},
    sql::{self, DueRow},
};

/// Events that wait to be written down.
const NOTICED: usize = 256;
/// How often the table is looked into for what is due: what is to be sent again, and what somebody else wants to be (`ghost-live
/// webhooks resend`).
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long after a table that cannot be read it is looked into again.
const TROUBLE: Duration = Duration::from_secs(10);
/// How often what is of no use any more is forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// What was noticed, on its way to the table.
pub(super) struct Events {
    watcher: Mutex<Watcher>,
    noticed: mpsc::Sender<Event>,
    /// Taken by the task that writes down.
    to_keep: Mutex<Option<mpsc::Receiver<Event>>>,
    /// Woken when something new is in the table.
    kept: Arc<Notify>,
}

impl Default for Events {
    fn default() -> Self {
        let (noticed, to_keep) = mpsc::channel(NOTICED);
        Self {
            watcher: Mutex::default(),
            noticed,
            to_keep: Mutex::new(Some(to_keep)),
            kept: Arc::default(),
        }
    }
}

impl Edge {
    /// Starts what writes events down and sends them, where a webhook wants any.
    pub(super) fn start_events(&self) {
        let hooks = self.webhooks().hooks().all().iter().enumerate();
        let wanted: Vec<usize> = hooks
            .filter(|(_, one)| one.hook.on.contains(&On::Events))
            .map(|(index, _)| index)
            .collect();
        let Some(to_keep) = lock(&self.events().to_keep).take() else {
            return;
        };
        if wanted.is_empty() {
            return;
        }
        let edge = self.clone();
        self.tasks()
            .spawn(async move { edge.keep_events(to_keep).await });
        for index in wanted {
            let edge = self.clone();
            self.tasks().spawn(async move { edge.tell(index).await });
        }
    }

    /// Looks at the broadcasts for what is to be told.
    pub(super) fn notice(&self) {
        let hooks = self.webhooks().hooks();
        if !hooks
            .all()
            .iter()
            .any(|one| one.hook.on.contains(&On::Events))
        {
            return;
        }
        let now = self.now_unix_ms();
        let mut there = HashSet::new();
        for live in self.broadcasts() {
            there.insert(live.id.clone());
            if hooks.asked(On::Events, &live.stream).is_empty() {
                continue;
            }
            let viewers = self.viewers(&live.stream);
            let mut watcher = lock(&self.events().watcher);
            let events = live.with(|broadcast| watcher.look(broadcast, viewers, now));
            drop(watcher);
            for event in events {
                if let Err(lost) = self.events().noticed.try_send(event) {
                    let event = lost.into_inner();
                    tracing::error!(stream = %event.stream, event = event.id(), "an event for webhooks is lost: the directory does not take it");
                }
            }
        }
        lock(&self.events().watcher).keep(&there);
    }

    /// Writes down what was noticed, to the end: what was noticed before the edge ended is told after its next start.
    async fn keep_events(&self, mut noticed: mpsc::Receiver<Event>) {
        loop {
            let event = tokio::select! {
                event = noticed.recv() => event,
                () = self.closing().cancelled() => noticed.try_recv().ok(),
            };
            let Some(event) = event else { return };
            let hooks = self.webhooks().hooks();
            let of = |index: usize| hooks.all().get(index).map(|one| one.hook.name.as_str());
            let now = wall_unix_ms();
            let statements: Vec<_> = (hooks.asked(On::Events, &event.stream).into_iter())
                .filter_map(of)
                .map(|webhook| sql::keep(&event, webhook, now))
                .collect();
            let kept = self
                .database()
                .with(move |database| database.execute(&statements));
            match kept.await {
                Ok(_) => self.events().kept.notify_waiters(),
                Err(error) => {
                    tracing::error!(stream = %event.stream, event = event.id(), %error, "an event for webhooks could not be kept");
                }
            }
        }
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
                let due = again(attempts, event.created_unix_ms as i64, now, random);
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
