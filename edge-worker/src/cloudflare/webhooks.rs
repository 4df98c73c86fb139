//! Asks webhooks from the Worker, and sends them events. They are the variable `WEBHOOKS`, a JSON list of what ghost-live.toml has as `[[webhooks]]`; their
//! secrets are the secret `WEBHOOK_SECRETS`, a JSON object by the webhooks' names.
//!
//! Here nobody can resolve a name himself and connect to an address that was checked: `fetch` does both. A webhook whose host is an
//! address is checked as in the native edge, and private names are refused; the platform's network reaches no private range. Bounds and
//! circuit breakers are an isolate's own, so what a webhook has at one time is bounded by them and by how many isolates there are.

use std::{cell::RefCell, pin::pin, rc::Rc, time::Duration};

use futures::{
    StreamExt,
    future::{Either, join_all, select},
};
use protocol::names::StreamName;
use url::Host;
use wasm_bindgen::JsValue;
use worker::{
    AbortController, AbortSignal, CacheMode, Delay, Env, Fetch, Headers, Method, Request,
    RequestInit, RequestRedirect, Result,
};

use super::{binding, now_unix_ms, random};
use crate::directory::sql::Statement;
use crate::webhooks::{
    Allowed, Answer, Ask, Configured, Denied, Failure, Hook, Hooks, MAX_ANSWER_BYTES, On,
    check_head, decide,
    event::{Event, Retries, TELL_DEADLINE_MS},
    gate::{Gate, Outcome, Place},
    guard, new_id,
    signature::{ID_HEADER, SIGNATURE_HEADER, Secret, TIMESTAMP_HEADER},
    sql,
};

/// The webhooks with their gates, in their order: one for publishers and one for viewers each.
struct Webhooks {
    hooks: Hooks,
    gates: Vec<[RefCell<Gate>; 2]>,
}

thread_local! {
    /// What is asked in this isolate: a change of its variables makes new isolates.
    static WEBHOOKS: RefCell<Option<Rc<Webhooks>>> = const { RefCell::new(None) };
}

fn webhooks(env: &Env) -> Result<Rc<Webhooks>> {
    if let Some(webhooks) = WEBHOOKS.with_borrow(Clone::clone) {
        return Ok(webhooks);
    }
    let text = |name: &str| {
        let text = env.var(name).map(|text| text.to_string());
        text.ok().filter(|text| !text.trim().is_empty())
    };
    let hooks: Vec<Hook> = match text(binding::WEBHOOKS) {
        Some(hooks) => serde_json::from_str(&hooks)
            .map_err(|error| format!("{}: {error}", binding::WEBHOOKS))?,
        None => Vec::new(),
    };
    let secrets: std::collections::HashMap<String, String> = match text(binding::WEBHOOK_SECRETS) {
        // Without the words of the parser, which may have a secret in them.
        Some(secrets) => serde_json::from_str(&secrets).map_err(|_| {
            format!(
                "{} is no JSON object of names and secrets",
                binding::WEBHOOK_SECRETS
            )
        })?,
        None => Default::default(),
    };
    let hooks = hooks.into_iter().map(|hook| {
        let secret = secrets.get(&hook.name).and_then(|text| Secret::new(text));
        (hook, secret)
    });
    let hooks = Hooks::new(hooks).map_err(|error| error.to_string())?;
    let gates = hooks.all().iter().map(|one| {
        let gate = || RefCell::new(Gate::new(one.hook.max_concurrent));
        [gate(), gate()]
    });
    let webhooks = Rc::new(Webhooks {
        gates: gates.collect(),
        hooks,
    });
    WEBHOOKS.set(Some(Rc::clone(&webhooks)));
    Ok(webhooks)
}

/// Whether any is asked that.
///
/// # Errors
/// When the configuration cannot be read.
pub(super) fn asks(env: &Env, on: On, stream: &StreamName) -> Result<bool> {
    Ok(webhooks(env)?.hooks.asks(on, stream))
}

/// What keeps these events for those who are told.
///
/// # Errors
/// When the configuration cannot be read.
pub(super) fn keep_all(env: &Env, events: &[Event], now_unix_ms: i64) -> Result<Vec<Statement>> {
    Ok(sql::keep_all(events, &webhooks(env)?.hooks, now_unix_ms))
}

/// The names of those that are meant of the webhooks that are told what happens.
///
/// # Errors
/// When the configuration cannot be read.
pub(super) fn told(env: &Env, meant: impl Fn(&Hook) -> bool) -> Result<Vec<String>> {
    let webhooks = webhooks(env)?;
    let hooks = webhooks.hooks.all().iter().map(|one| &one.hook);
    let told = hooks.filter(|hook| hook.on.contains(&On::Events) && meant(hook));
    Ok(told.map(|hook| hook.name.clone()).collect())
}

/// A webhook that is told what happens.
pub(super) struct Told(Configured);

impl Told {
    /// The one of that name, if there is one.
    ///
    /// # Errors
    /// When the configuration cannot be read.
    pub(super) fn find(env: &Env, name: &str) -> Result<Option<Self>> {
        let wanted = |one: &&Configured| one.hook.name == name && one.hook.on.contains(&On::Events);
        let found = webhooks(env)?.hooks.all().iter().find(wanted).cloned();
        Ok(found.map(Self))
    }

    /// How often it is sent an event, and when.
    pub(super) fn retries(&self) -> Retries {
        self.0.hook.retries()
    }

    /// Tells it of an event. What it says beside the status is not read.
    pub(super) async fn tell(&self, id: &str, body: &str) -> std::result::Result<(), Failure> {
        let one = &self.0;
        permitted(one)?;
        let request = request(one, id, body, now_unix_ms()).map_err(unreachable)?;
        let controller = AbortController::default();
        let signal = controller.signal();
        let asked = Fetch::Request(request);
        let sent = pin!(asked.send_with_signal(&signal));
        let deadline = Delay::from(Duration::from_millis(TELL_DEADLINE_MS));
        let status = match select(sent, deadline).await {
            Either::Left((Ok(response), _)) => Ok(response.status_code()),
            Either::Left((Err(error), _)) => Err(unreachable(error)),
            Either::Right(((), _)) => Err(Failure::Deadline(TELL_DEADLINE_MS)),
        };
        // The rest of what it says, which may have no end, is for nobody.
        controller.abort();
        match status? {
            200..=299 => Ok(()),
            status => Err(Failure::NotTaken(status)),
        }
    }
}

/// Asks all who have a say, at once, and gives what comes of it. Without any the answer is there at once. Webhooks whose configuration
/// cannot be read let nobody in.
///
/// # Errors
/// When the configuration cannot be read.
pub(super) async fn ask(env: &Env, ask: &Ask) -> Result<std::result::Result<Allowed, Denied>> {
    let webhooks = webhooks(env)?;
    let asked = webhooks.hooks.asked(ask.on, &ask.stream);
    if asked.is_empty() {
        return Ok(Ok(Allowed::freely(ask.stream.clone())));
    }
    let answers = asked.into_iter().map(async |index| {
        let answer = webhooks.ask_one(index, ask).await;
        (index, answer)
    });
    let answers = join_all(answers).await;
    let (verdict, failures) = decide(&webhooks.hooks, ask, answers, now_unix_ms());
    for (webhook, failure) in failures {
        worker::console_warn!(
            "webhook {webhook} gave no answer to {} of {}: {failure}",
            ask.on,
            ask.stream
        );
    }
    Ok(verdict)
}

/// A place at a gate, given back when it is dropped.
struct Inside<'a> {
    gate: &'a RefCell<Gate>,
    place: Option<Place>,
    outcome: Outcome,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.gate
                .borrow_mut()
                .leave(place, self.outcome, now_unix_ms());
        }
    }
}

impl Webhooks {
    async fn ask_one(&self, index: usize, ask: &Ask) -> std::result::Result<Answer, Failure> {
        let (Some(one), Some(gates)) = (self.hooks.all().get(index), self.gates.get(index)) else {
            return Err(Failure::Unreachable("there is no such webhook".to_owned()));
        };
        permitted(one)?;
        let gate = &gates[usize::from(ask.on != On::Publish)];
        let place = gate.borrow_mut().enter(ask.address, now_unix_ms())?;
        let mut inside = Inside {
            gate,
            place: Some(place),
            outcome: Outcome::Abandoned,
        };
        let controller = AbortController::default();
        let deadline = Delay::from(Duration::from_millis(one.hook.deadline_ms));
        let exchanged = pin!(exchange(one, ask, controller.signal()));
        let answer = match select(exchanged, deadline).await {
            Either::Left((answer, _)) => answer,
            Either::Right(((), _)) => Err(Failure::Deadline(one.hook.deadline_ms)),
        };
        // What is still under way is for nobody: an answer without an end would be read on behind this one's back.
        controller.abort();
        inside.outcome = match &answer {
            Ok(_) => Outcome::Answered,
            Err(_) => Outcome::Failed,
        };
        answer
    }
}

/// Whether it may lead where it leads, as far as its name says it; an address was checked when it was read.
fn permitted(one: &Configured) -> std::result::Result<(), guard::Forbidden> {
    match one.url.host() {
        Some(Host::Domain(name)) if one.hook.allow_networks.is_empty() => guard::check_name(name),
        _ => Ok(()),
    }
}

fn unreachable(error: worker::Error) -> Failure {
    Failure::Unreachable(error.to_string())
}

/// Signs, sends and reads, within the bounds of an answer.
async fn exchange(
    to: &Configured,
    ask: &Ask,
    signal: AbortSignal,
) -> std::result::Result<Answer, Failure> {
    let (id, now) = (new_id(random().map_err(unreachable)?), now_unix_ms());
    let body = ask.body(&id, now);
    let body = String::from_utf8_lossy(&body);
    let request = request(to, &id, &body, now).map_err(unreachable)?;
    let asked = Fetch::Request(request);
    let sent = asked.send_with_signal(&signal);
    let mut response = sent.await.map_err(unreachable)?;
    let content_type = response.headers().get("content-type").ok().flatten();
    check_head(response.status_code(), content_type.as_deref())?;
    let mut body = Vec::new();
    let mut chunks = response.stream().map_err(unreachable)?;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(unreachable)?;
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(Failure::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Answer::read(&body)
}

/// What is sent, signed.
fn request(to: &Configured, id: &str, body: &str, now: i64) -> Result<Request> {
    let timestamp_s = now.div_euclid(1_000);
    let headers = Headers::new();
    for (name, value) in [
        ("content-type", "application/json"),
        ("accept", "application/json"),
        (
            "user-agent",
            concat!("ghost-live/", env!("CARGO_PKG_VERSION")),
        ),
        (ID_HEADER, id),
        (TIMESTAMP_HEADER, timestamp_s.to_string().as_str()),
        (
            SIGNATURE_HEADER,
            to.secret.sign(timestamp_s, body.as_bytes()).as_str(),
        ),
    ] {
        headers.set(name, value)?;
    }
    let mut init = RequestInit::new();
    init.with_method(Method::Post)
        .with_headers(headers)
        .with_redirect(RequestRedirect::Manual)
        .with_cache(CacheMode::NoStore)
        .with_body(Some(JsValue::from_str(body)));
    Request::new_with_init(to.url.as_str(), &init)
}
