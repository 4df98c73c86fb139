//! Asks webhooks over HTTP.
//!
//! One client a webhook, over the HTTP client that everything here uses: no redirect is followed, no proxy of the environment is used,
//! and names are resolved by [`Resolver`], which gives out only addresses that the webhook may lead to. The client connects to what the
//! resolver gave, so that a name that is answered otherwise the next moment leads nowhere else (DNS rebinding).
//!
//! A question belongs to the publisher or viewer that waits for it, and to nobody else: it holds no lock while it waits, and its place at
//! the webhook's [gate](crate::webhooks::gate) comes back when it ends, however it ends.

use std::{
    error::Error,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::join_all;
use http::header;
use ipnet::IpNet;
use protocol::names::StreamName;
use reqwest::{
    Client, Response, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};

use super::{lock, wall_unix_ms};
use crate::webhooks::{
    Allowed, Answer, Ask, Configured, Denied, Failure, Hooks, MAX_ANSWER_BYTES, On, check_head,
    decide,
    event::TELL_DEADLINE_MS,
    gate::{Gate, Outcome, Place},
    guard, new_id,
    signature::{ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER},
};

/// What a webhook's server sees who asks.
const USER_AGENT: &str = concat!("ghost-live/", env!("CARGO_PKG_VERSION"));

/// Why webhooks cannot be asked at all.
#[derive(Debug, thiserror::Error)]
#[error("webhooks: HTTP cannot be set up: {0}")]
pub struct SetupError(String);

/// The webhooks, ready to be asked.
pub(super) struct Webhooks {
    hooks: Hooks,
    /// In the order of the hooks.
    lines: Vec<Line>,
    /// Milliseconds of a monotonic clock.
    now_ms: Box<dyn Fn() -> i64 + Send + Sync>,
}

/// The way to one webhook.
struct Line {
    client: Client,
    /// One a kind of question, so that many viewers leave a publisher its place.
    publish: Mutex<Gate>,
    watch: Mutex<Gate>,
}

impl Line {
    fn gate(&self, on: On) -> &Mutex<Gate> {
        match on {
            On::Publish => &self.publish,
            On::Watch | On::Events => &self.watch,
        }
    }
}

impl Webhooks {
    /// Makes a client for each. `now_ms` is a monotonic clock.
    pub(super) fn new(
        hooks: Hooks,
        now_ms: impl Fn() -> i64 + Send + Sync + 'static,
    ) -> Result<Self, SetupError> {
        let line = |one: &Configured| {
            let gate = || Mutex::new(Gate::new(one.hook.max_concurrent));
            Ok(Line {
                client: client(&one.hook.allow_networks)?,
                publish: gate(),
                watch: gate(),
            })
        };
        Ok(Self {
            lines: hooks.all().iter().map(line).collect::<Result<_, _>>()?,
            hooks,
            now_ms: Box::new(now_ms),
        })
    }

    /// Whether any is asked that.
    pub(super) fn asks(&self, on: On, stream: &StreamName) -> bool {
        self.hooks.asks(on, stream)
    }

    /// Asks all who have a say, at once, and gives what comes of it. Without any the answer is there at once.
    pub(super) async fn ask(&self, ask: &Ask) -> Result<Allowed, Denied> {
        let asked = self.hooks.asked(ask.on, &ask.stream);
        if asked.is_empty() {
            return Ok(Allowed::freely(ask.stream.clone()));
        }
        let answers = asked.into_iter().map(async |index| {
            let answer = self.ask_one(index, ask).await;
            (index, answer)
        });
        let answers = join_all(answers).await;
        let (verdict, failures) = decide(&self.hooks, ask, answers, wall_unix_ms());
        for (webhook, failure) in failures {
            tracing::warn!(webhook, stream = %ask.stream, action = %ask.on, %failure, "a webhook gave no answer");
        }
        if let Err(denied) = &verdict {
            tracing::info!(stream = %ask.stream, action = %ask.on, peer = ask.address.map(tracing::field::display), reason = %denied, "webhooks let somebody not in");
        }
        verdict
    }

    pub(super) fn hooks(&self) -> &Hooks {
        &self.hooks
    }

    /// Tells one of an event. What it says beside the status is not read.
    pub(super) async fn tell(&self, index: usize, id: &str, body: &str) -> Result<(), Failure> {
        let (Some(one), Some(line)) = (self.hooks.all().get(index), self.lines.get(index)) else {
            return Err(Failure::Unreachable("there is no such webhook".to_owned()));
        };
        let deadline = Duration::from_millis(TELL_DEADLINE_MS);
        let sent = post(&line.client, one, id, body.as_bytes().to_vec());
        let response = match tokio::time::timeout(deadline, sent).await {
            Ok(response) => response?,
            Err(_) => return Err(Failure::Deadline(TELL_DEADLINE_MS)),
        };
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(Failure::NotTaken(status.as_u16())),
        }
    }

    async fn ask_one(&self, index: usize, ask: &Ask) -> Result<Answer, Failure> {
        let (Some(one), Some(line)) = (self.hooks.all().get(index), self.lines.get(index)) else {
            return Err(Failure::Unreachable("there is no such webhook".to_owned()));
        };
        let mut inside = Inside::enter(line.gate(ask.on), ask.address, &*self.now_ms)?;
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| Failure::Unreachable(error.to_string()))?;
        let id = new_id(random);
        let body = ask.body(&id, wall_unix_ms());
        let deadline = Duration::from_millis(one.hook.deadline_ms);
        let answer = async {
            let response = post(&line.client, one, &id, body).await?;
            let content_type = response.headers().get(header::CONTENT_TYPE);
            let content_type = content_type.and_then(|value| value.to_str().ok());
            check_head(response.status().as_u16(), content_type)?;
            Answer::read(&bounded(response, MAX_ANSWER_BYTES).await?)
        };
        let answer = match tokio::time::timeout(deadline, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Deadline(one.hook.deadline_ms)),
        };
        inside.outcome = match &answer {
            Ok(_) => Outcome::Answered,
            Err(_) => Outcome::Failed,
        };
        answer
    }
}

/// A place at a gate, given back when it is dropped.
struct Inside<'a> {
    gate: &'a Mutex<Gate>,
    now_ms: &'a (dyn Fn() -> i64 + Send + Sync),
    place: Option<Place>,
    outcome: Outcome,
}

impl<'a> Inside<'a> {
    fn enter(
        gate: &'a Mutex<Gate>,
        about: Option<IpAddr>,
        now_ms: &'a (dyn Fn() -> i64 + Send + Sync),
    ) -> Result<Self, Failure> {
        let place = lock(gate).enter(about, now_ms())?;
        Ok(Self {
            gate,
            now_ms,
            place: Some(place),
            outcome: Outcome::Abandoned,
        })
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            lock(self.gate).leave(place, self.outcome, (self.now_ms)());
        }
    }
}

/// A client that leads to the public internet and these networks.
fn client(allowed: &[IpNet]) -> Result<Client, SetupError> {
    Client::builder()
        .user_agent(USER_AGENT)
        .redirect(Policy::none())
        .no_proxy()
        .http1_only()
        .referer(false)
        // One that has gone away meanwhile would cost an attempt.
        .pool_idle_timeout(Duration::from_secs(20))
        .pool_max_idle_per_host(4)
        .dns_resolver(Arc::new(Resolver(allowed.to_vec())))
        .build()
        .map_err(|error| SetupError(sentence(&error)))
}

/// Signs and sends.
async fn post(
    client: &Client,
    to: &Configured,
    id: &str,
    body: Vec<u8>,
) -> Result<Response, Failure> {
    let timestamp_s = wall_unix_ms().div_euclid(1_000);
    let signature = to.secret.sign(timestamp_s, &body);
    // The URL was parsed by the very parser that the client uses, and an address in it was checked then.
    let request = client
        .post(Url::clone(&to.url))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .header(ID_HEADER, id)
        .header(TIMESTAMP_HEADER, timestamp_s)
        .header(SIGNATURE_HEADER, signature)
        .body(body);
    request.send().await.map_err(|error| unsent(&error))
}

/// The body, when it has no more than that many bytes.
async fn bounded(mut response: Response, max: usize) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unsent(&error))? {
        if body.len() + chunk.len() > max {
            return Err(Failure::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn unsent(error: &reqwest::Error) -> Failure {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(this) = cause {
        if let Some(forbidden) = this.downcast_ref::<guard::Forbidden>() {
            return Failure::Forbidden(forbidden.clone());
        }
        cause = this.source();
    }
    Failure::Unreachable(sentence(error))
}

/// The error with its causes, without the address, which may have a secret in it.
fn sentence(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(this) = cause {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&this.to_string());
        cause = this.source();
    }
    match text.is_empty() {
        true => "the request failed".to_owned(),
        false => text,
    }
}

/// Resolves names to addresses that a webhook may lead to.
struct Resolver(Vec<IpNet>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let good = permitted(found, &allowed)?;
            let addresses: Addrs = Box::new(good.into_iter());
            Ok(addresses)
        })
    }
}

/// Those of the addresses that a webhook may lead to.
///
/// # Errors
/// [`guard::Forbidden`] of the last one, when there are none.
fn permitted(
    found: impl Iterator<Item = SocketAddr>,
    allowed: &[IpNet],
) -> Result<Vec<SocketAddr>, guard::Forbidden> {
    let mut good = Vec::new();
    let mut refused = None;
    for address in found {
        match guard::check(address.ip(), allowed) {
            Ok(()) => good.push(address),
            Err(forbidden) => refused = Some(forbidden),
        }
    }
    match refused {
        Some(refused) if good.is_empty() => Err(refused),
        _ => Ok(good),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn of_what_a_name_is_answered_with_only_what_was_permitted_is_connected_to() {
        let addresses = |list: &[&str]| -> Vec<SocketAddr> {
            let with_port = |ip: &&str| SocketAddr::new(ip.parse().unwrap(), 0);
            list.iter().map(with_port).collect()
        };
        let found = |list: &[&str]| permitted(addresses(list).into_iter(), &[]);
        let good = found(&["127.0.0.1", "1.1.1.1", "fd00::1", "2606:4700::1111"]);
        assert_eq!(good, Ok(addresses(&["1.1.1.1", "2606:4700::1111"])));
        assert!(found(&["10.0.0.1", "::1"]).is_err());
        assert_eq!(found(&[]), Ok(Vec::new()));
    }
}
