//! Tells webhooks what happens. The object of a broadcast notices it and keeps it in D1, in the table that the native edge has too; the
//! object of each webhook sends what is due, one after the other, so that one that hangs holds up no other, and sets its alarm for what
//! comes next. All of it is done in alarms, which outlive an isolate: neither a viewer nor a publisher waits for any of it.

use std::{cell::Cell, time::Duration};

use http::StatusCode;
use worker::{DurableObject, Env, Request, Response, Result, State, durable_object};

use super::{
    answer::{json, nothing, problem},
    binding, directory, now_unix_ms, random, watch, webhooks,
};
use crate::{
    routes::{Caching, Route},
    webhooks::{
        Hook,
        dead::{self, DeadLetters, Resend, Resent},
        event::{Event, again},
        sql::{self, DeadRow, DueRow, NextRow},
    },
};

/// Events that are sent by one alarm: what an invocation may ask of the platform is bounded. The next one goes on.
const BATCH: usize = 8;
/// An alarm that came to no end is not waited for any longer, milliseconds: more than a batch can take.
const LOST_MS: i64 = 120_000;
/// How long after a table that cannot be read or written it is tried again.
const TROUBLE: Duration = Duration::from_secs(10);
/// How often what is of no use any more is forgotten, and a webhook with nothing to be told is looked after.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);
const WEBHOOK_KEY: &str = "webhook";
const SWEPT_KEY: &str = "swept";

/// Keeps what was noticed of a broadcast, and wakes those who send it. All of it may be done a second time.
pub(super) async fn keep(env: &Env, events: &[Event]) -> Result<()> {
    let statements = webhooks::keep_all(env, events, now_unix_ms())?;
    if statements.is_empty() {
        return Ok(());
    }
    directory::run_all(env, &statements).await?;
    let hears = |hook: &Hook| (events.iter()).any(|event| hook.streams.covers(&event.stream));
    wake(env, hears).await
}

/// Wakes the objects of those webhooks that are told what happens.
async fn wake(env: &Env, meant: impl Fn(&Hook) -> bool) -> Result<()> {
    for name in webhooks::told(env, meant)? {
        let object = env.durable_object(binding::WEBHOOK)?.get_by_name(&name)?;
        let address = format!("https://webhook/{name}");
        object.fetch_with_str(&address).await?;
    }
    Ok(())
}

/// `GET /api/webhooks/dead`, `POST /api/webhooks/dead/{id}/resend`, `POST /api/webhooks/dead/resend`.
pub(super) async fn manage(route: &Route, mut request: Request, env: &Env) -> Result<Response> {
    if let Err(found) = watch::manages(env, &dead::whose(), &request).await? {
        return problem(Some(route), &found);
    }
    let Route::Resend(id) = route else {
        let rows: Vec<DeadRow> = directory::rows(env, &dead::list()).await?;
        let list = DeadLetters::of(rows);
        return json(Some(route), StatusCode::OK, Caching::Never, &list);
    };
    let body = directory::question_if_any(&mut request).await?;
    let resend = match body.and_then(|body| Resend::read(&body)) {
        Ok(resend) => resend,
        Err(found) => return problem(Some(route), &found),
    };
    let due = resend.statement(id.as_ref(), now_unix_ms());
    let resent = directory::batch(env, &[due]).await?;
    if resent > 0 {
        let named = resend.webhook.as_deref();
        wake(env, |hook| named.is_none_or(|named| named == hook.name)).await?;
    }
    match Resent::of(resent, id.as_ref()) {
        Ok(resent) => json(Some(route), StatusCode::OK, Caching::Never, &resent),
        Err(found) => problem(Some(route), &found),
    }
}

#[durable_object]
pub struct WebhookObject {
    state: State,
    env: Env,
    /// Since when an alarm is at work, Unix milliseconds.
    at_work: Cell<Option<i64>>,
    /// Whether something new is in the table since the alarm that is at work began.
    woken: Cell<bool>,
}

impl DurableObject for WebhookObject {
    fn new(state: State, env: Env) -> Self {
        Self {
            state,
            env,
            at_work: Cell::default(),
            woken: Cell::default(),
        }
    }

    /// Something is in the table for it: the path is its name.
    async fn fetch(&self, request: Request) -> Result<Response> {
        let path = request.path();
        let name = path.trim_start_matches('/');
        self.woken.set(true);
        let storage = self.state.storage();
        if storage.get::<String>(WEBHOOK_KEY).await?.as_deref() != Some(name) {
            storage.put(WEBHOOK_KEY, name).await?;
        }
        storage.set_alarm(Duration::ZERO).await?;
        nothing(None)
    }

    async fn alarm(&self) -> Result<Response> {
        let storage = self.state.storage();
        let now = now_unix_ms();
        if (self.at_work.get()).is_some_and(|since| now - since < LOST_MS) {
            self.woken.set(true);
            return Response::empty();
        }
        self.at_work.set(Some(now));
        self.woken.set(false);
        // Should the isolate be taken away meanwhile, the platform makes up for the alarm.
        let next = self.tell().await.unwrap_or_else(|error| {
            worker::console_error!("what a webhook is to be told cannot be sent: {error}");
            Some(TROUBLE)
        });
        self.at_work.set(None);
        match next {
            _ if self.woken.get() => storage.set_alarm(Duration::ZERO).await?,
            Some(next) => storage.set_alarm(next).await?,
            None => {
                storage.delete_alarm().await?;
                storage.delete_all().await?;
            }
        }
        Response::empty()
    }
}

impl WebhookObject {
    /// Sends what is due, and gives when there is more to do; `None` where there is no such webhook any more.
    async fn tell(&self) -> Result<Option<Duration>> {
        let (env, storage) = (&self.env, self.state.storage());
        let Some(name) = storage.get::<String>(WEBHOOK_KEY).await? else {
            return Ok(None);
        };
        let Some(webhook) = webhooks::Told::find(env, &name)? else {
            return Ok(None);
        };
        let retries = webhook.retries();
        for _ in 0..BATCH {
            let due: Vec<DueRow> = directory::rows(env, &sql::due(&name, now_unix_ms())).await?;
            let Some(event) = due.into_iter().next() else {
                return self.next(&name).await.map(Some);
            };
            let told = webhook.tell(&event.id, &event.body).await;
            let now = now_unix_ms();
            let done = match told {
                Ok(()) => sql::delivered(&event.id, &name, now),
                Err(failure) => {
                    let attempts = event.attempts as u32 + 1;
                    let [random] = random()?;
                    let created = event.created_unix_ms as i64;
                    let due = again(retries, attempts, created, now, random);
                    if due.is_none() {
                        worker::console_warn!(
                            "webhook {name} was not told of {} in {attempts} attempts, and is not again by itself: {failure}",
                            event.id
                        );
                    }
                    sql::failed(&event.id, &name, &failure.to_string(), due)
                }
            };
            directory::run_all(env, &[done]).await?;
        }
        Ok(Some(Duration::ZERO))
    }

    /// How long nothing is due.
    async fn next(&self, name: &str) -> Result<Duration> {
        let (now, storage) = (now_unix_ms(), self.state.storage());
        let swept = storage.get::<f64>(SWEPT_KEY).await?;
        let every = SWEEP_EVERY.as_millis() as f64;
        if swept.is_none_or(|at| now as f64 - at >= every) {
            directory::run_all(&self.env, &sql::sweep(now)).await?;
            storage.put(SWEPT_KEY, now as f64).await?;
        }
        let next: Vec<NextRow> = directory::rows(&self.env, &sql::next_due(name)).await?;
        let due = next.into_iter().next().and_then(|row| row.due_unix_ms);
        let wait = due.map_or(every, |due| due - now as f64).clamp(0.0, every);
        Ok(Duration::from_millis(wait as u64))
    }
}
