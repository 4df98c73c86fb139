//! Asks webhooks from the Worker. They are the variable `WEBHOOKS`, a JSON list of what ghost-live.toml has as `[[webhooks]]`; their
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
use crate::webhooks::{
    Allowed, Answer, Ask, Configured, Denied, Failure, Hook, Hooks, MAX_ANSWER_BYTES, On,
    check_head, decide,
    gate::{Gate, Outcome, Place},
    guard, new_id,
    signature::{ID_HEADER, SIGNATURE_HEADER, Secret, TIMESTAMP_HEADER},
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
        if let Some(Host::Domain(name)) = one.url.host()
            && one.hook.allow_networks.is_empty()
        {
            guard::check_name(name)?;
        }
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

fn unreachable(error: worker::Error) -> Failure {
    Failure::Unreachable(error.to_string())
}

/// Signs, sends and reads, within the bounds of an answer.
async fn exchange(
    to: &Configured,
    ask: &Ask,
    signal: AbortSignal,
) -> std::result::Result<Answer, Failure> {
    let request = request(to, ask).map_err(unreachable)?;
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

fn request(to: &Configured, ask: &Ask) -> Result<Request> {
    let now = now_unix_ms();
    let id = new_id(random()?);
    let body = ask.body(&id, now);
    let timestamp_s = now.div_euclid(1_000);
    let headers = Headers::new();
    for (name, value) in [
        ("content-type", "application/json"),
        ("accept", "application/json"),
        (
            "user-agent",
            concat!("ghost-live/", env!("CARGO_PKG_VERSION")),
        ),
        (ID_HEADER, id.as_str()),
        (TIMESTAMP_HEADER, timestamp_s.to_string().as_str()),
        (
            SIGNATURE_HEADER,
            to.secret.sign(timestamp_s, &body).as_str(),
        ),
    ] {
        headers.set(name, value)?;
    }
    let body = String::from_utf8_lossy(&body);
    let mut init = RequestInit::new();
    init.with_method(Method::Post)
        .with_headers(headers)
        .with_redirect(RequestRedirect::Manual)
        .with_cache(CacheMode::NoStore)
        .with_body(Some(JsValue::from_str(&body)));
    Request::new_with_init(to.url.as_str(), &init)
}
