//! Webhooks: an operator's own server that decides who may publish or watch, and hears what happens.
//!
//! Nothing here sends anything: an adapter takes the [`Hooks`] that are to be asked of a stream ([`Hooks::asked`]), sends each the
//! [`Question`], reads the answer with [`Answer::read`], and hands what came of it to [`decide`].
//!
//! | module | what it decides | specification |
//! | --- | --- | --- |
//! | [`guard`] | which addresses a webhook may lead to | RFC 6890 |
//! | [`gate`] | whether it is asked now: a bound and a circuit breaker | |
//! | [`event`] | what is told, and when it is told again | |
//! | [`dead`] | what the API says of what was not taken | |
//! | [`sql`] | the table of events | |
//! | [`signature`] | how what is sent is signed | RFC 2104 |
//!
//! A webhook decides over the streams that its pattern covers. All webhooks that cover a stream are asked at once, and all have to allow;
//! where one does not answer, the answer is no, unless its configuration says otherwise. A webhook may send a publisher to another stream,
//! but only to one over which the very same webhooks decide: none can be stepped round.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use protocol::{
    internal::{Admission, Admit},
    names::{Protocol, StreamName},
    token::{Claims, Credential, StreamPattern},
};
use serde::{Deserialize, Serialize};
use url::{Host, Url};

pub mod dead;
pub mod event;
pub mod gate;
pub mod guard;
pub mod signature;
pub mod sql;

use crate::access;
use signature::Secret;

/// The longest answer that is read, bytes.
pub const MAX_ANSWER_BYTES: usize = 16 << 10;
/// Most webhooks of an installation.
pub const MAX_HOOKS: usize = 64;
/// The longest reason that a person is told, characters.
const MAX_REASON: usize = 300;
/// The longest lifetime that an answer may give, seconds: a year.
const MAX_LIFETIME_S: u64 = 366 * 24 * 3_600;

/// What a webhook is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum On {
    /// The question whether somebody may publish.
    Publish,
    /// The question whether somebody may watch.
    Watch,
    /// What happens: it is told, and decides nothing.
    Events,
}

/// What is done when a webhook does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Nobody gets in.
    #[default]
    Deny,
    /// As if it had allowed.
    Allow,
}

/// A webhook, as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// What it is called in logs and lists: 1 to 32 of `a`-`z`, `0`-`9` and `-`.
    pub name: String,
    /// Where it is, `https://` or `http://`.
    pub url: String,
    /// What it is sent.
    pub on: Vec<On>,
    /// Over which streams it decides, and of which it hears: a name, or the beginning of names and `*`.
    #[serde(default = "all")]
    pub streams: StreamPattern,
    /// File with the secret that its requests are signed with. In the Worker the secrets are the secret `WEBHOOK_SECRETS`.
    #[serde(default)]
    pub secret_file: Option<String>,
    /// What is done when it does not answer.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// How long it may take to answer, milliseconds, 100 to 4,000.
    #[serde(default = "deadline_ms")]
    pub deadline_ms: u64,
    /// How many questions of one kind (publish, watch) it has at one time, 1 to 1,000. More are not asked, and count as not answered.
    #[serde(default = "max_concurrent")]
    pub max_concurrent: usize,
    /// Networks (CIDR) beside the public internet that it may lead to.
    #[serde(default)]
    pub allow_networks: Vec<IpNet>,
    /// How often an event is sent before it is a dead letter, 1 to 20; for an hour at the most.
    #[serde(default = "attempts")]
    pub attempts: u32,
    /// How long after the first attempt the second one is, milliseconds, 100 to 60,000; each next one four times as long, up to a quarter
    /// of an hour.
    #[serde(default = "retry_ms")]
    pub retry_ms: u64,
}

fn all() -> StreamPattern {
    // `*` is a pattern; there is no other way to one but by its text.
    "*".parse()
        .unwrap_or_else(|_| unreachable!("* is a pattern"))
}

fn deadline_ms() -> u64 {
    2_000
}

fn max_concurrent() -> usize {
    32
}

fn attempts() -> u32 {
    8
}

fn retry_ms() -> u64 {
    2_000
}

/// What is wrong with the configuration of a webhook.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// No name.
    #[error("webhooks: {0:?} is no name for a webhook: use 1 to 32 of a-z, 0-9 and '-'")]
    Name(String),
    /// Two of one name.
    #[error("webhooks: two are called {0}: give each another name")]
    Twice(String),
    /// More than [`MAX_HOOKS`].
    #[error("webhooks: there are {0}, and at most {MAX_HOOKS}")]
    TooMany(usize),
    /// No address.
    #[error("webhooks.{0}: url is no address that begins with https:// or http://")]
    Url(String),
    /// A name and password in the address.
    #[error(
        "webhooks.{0}: url has a user name or password in it: requests are signed with the secret instead"
    )]
    Userinfo(String),
    /// An address that no webhook may have.
    #[error("webhooks.{0}: {1}")]
    Forbidden(String, guard::Forbidden),
    /// It is sent nothing.
    #[error("webhooks.{0}: on is empty: name \"publish\", \"watch\" or \"events\"")]
    Nothing(String),
    /// A number out of its range.
    #[error("webhooks.{name}: {key} is {value}: use {low} to {high}")]
    Range {
        /// The webhook.
        name: String,
        /// The key.
        key: &'static str,
        /// What it is.
        value: u64,
        /// The least.
        low: u64,
        /// The most.
        high: u64,
    },
    /// No secret.
    #[error("webhooks.{0}: there is no secret to sign its requests with")]
    NoSecret(String),
}

impl Hook {
    /// Its address, once everything was found to be in order that can be seen without asking anybody.
    ///
    /// # Errors
    /// [`HookError`].
    pub fn check(&self) -> Result<Url, HookError> {
        let name = || self.name.clone();
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !(1..=32).contains(&self.name.len()) || !self.name.chars().all(good) {
            return Err(HookError::Name(self.name.chars().take(40).collect()));
        }
        let mut url = Url::parse(&self.url).map_err(|_| HookError::Url(name()))?;
        if !matches!(url.scheme(), "https" | "http") || url.host().is_none() {
            return Err(HookError::Url(name()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(HookError::Userinfo(name()));
        }
        url.set_fragment(None);
        // A name may lead anywhere later on; what is an address already is told at the start.
        let address = match url.host() {
            Some(Host::Ipv4(v4)) => Some(IpAddr::V4(v4)),
            Some(Host::Ipv6(v6)) => Some(IpAddr::V6(v6)),
            _ => None,
        };
        if let Some(address) = address {
            guard::check(address, &self.allow_networks)
                .map_err(|forbidden| HookError::Forbidden(name(), forbidden))?;
        }
        if self.on.is_empty() {
            return Err(HookError::Nothing(name()));
        }
        let range = |key, value, low, high| match (low..=high).contains(&value) {
            true => Ok(()),
            false => Err(HookError::Range {
                name: name(),
                key,
                value,
                low,
                high,
            }),
        };
        range("deadline_ms", self.deadline_ms, 100, 4_000)?;
        let max = u64::try_from(self.max_concurrent).unwrap_or(u64::MAX);
        range("max_concurrent", max, 1, 1_000)?;
        range("attempts", self.attempts.into(), 1, 20)?;
        range("retry_ms", self.retry_ms, 100, 60_000)?;
        Ok(url)
    }

    /// How often it is sent an event, and when.
    pub fn retries(&self) -> event::Retries {
        event::Retries {
            attempts: self.attempts,
            first_ms: i64::try_from(self.retry_ms).unwrap_or(i64::MAX),
        }
    }

    /// Whether what is sent crosses the public internet unencrypted: signed, but for everybody on the way to read.
    pub fn is_plain(&self) -> bool {
        self.url
            .get(..7)
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"))
            && self.allow_networks.is_empty()
    }
}

/// A webhook that is in order, with its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configured {
    /// The webhook.
    pub hook: Hook,
    /// Where it is.
    pub url: Url,
    /// What its requests are signed with.
    pub secret: Secret,
}

/// The webhooks of an installation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks(Vec<Configured>);

impl Hooks {
    /// These, in order.
    ///
    /// # Errors
    /// [`HookError`].
    pub fn new(hooks: impl IntoIterator<Item = (Hook, Option<Secret>)>) -> Result<Self, HookError> {
        let mut all: Vec<Configured> = Vec::new();
        for (hook, secret) in hooks {
            let url = hook.check()?;
            if all.iter().any(|other| other.hook.name == hook.name) {
                return Err(HookError::Twice(hook.name));
            }
            let Some(secret) = secret else {
                return Err(HookError::NoSecret(hook.name));
            };
            all.push(Configured { hook, url, secret });
        }
        match all.len() {
            0..=MAX_HOOKS => Ok(Self(all)),
            many => Err(HookError::TooMany(many)),
        }
    }

    /// All of them, in order.
    pub fn all(&self) -> &[Configured] {
        &self.0
    }

    /// Whether anybody is sent this of that stream.
    pub fn asks(&self, on: On, stream: &StreamName) -> bool {
        let one = |one: &Configured| one.hook.on.contains(&on) && one.hook.streams.covers(stream);
        self.0.iter().any(one)
    }

    /// Those who are sent this of that stream, by their index.
    pub fn asked(&self, on: On, stream: &StreamName) -> Vec<usize> {
        let asked = |(_, one): &(usize, &Configured)| {
            one.hook.on.contains(&on) && one.hook.streams.covers(stream)
        };
        let hooks = self.0.iter().enumerate().filter(asked);
        hooks.map(|(index, _)| index).collect()
    }
}

/// What somebody wants, for a webhook to decide over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// [`On::Publish`] or [`On::Watch`].
    pub on: On,
    /// Which stream.
    pub stream: StreamName,
    /// What they speak, as far as it is known.
    pub protocol: Option<Protocol>,
    /// Where they come from, as far as it is known.
    pub address: Option<IpAddr>,
    /// What their token says, if they have one.
    pub token: Option<Claims>,
}

/// The body of a question, JSON.
#[derive(Debug, Serialize)]
struct Question<'a> {
    id: &'a str,
    time_unix_ms: i64,
    r#type: &'static str,
    action: On,
    stream: &'a StreamName,
    protocol: Option<Protocol>,
    address: Option<IpAddr>,
    token: Option<&'a Claims>,
}

/// An id of 16 random bytes.
pub fn new_id(random: [u8; 16]) -> String {
    data_encoding::HEXLOWER.encode(&random)
}

impl Ask {
    /// Of a publisher whose key or token was found good for that stream.
    pub fn publish(question: &Admit, stream: &StreamName, token: Option<Claims>) -> Self {
        Self {
            on: On::Publish,
            stream: stream.clone(),
            protocol: question.protocol,
            address: access::address(&question.peer),
            token,
        }
    }

    /// Of a viewer whose token, if they have one, was found good for that stream.
    pub fn watch(
        stream: &StreamName,
        protocol: Protocol,
        address: IpAddr,
        token: Option<Claims>,
    ) -> Self {
        Self {
            on: On::Watch,
            stream: stream.clone(),
            protocol: Some(protocol),
            address: Some(address),
            token,
        }
    }

    /// The body that a webhook is sent.
    pub fn body(&self, id: &str, now_unix_ms: i64) -> Vec<u8> {
        let question = Question {
            id,
            time_unix_ms: now_unix_ms,
            r#type: "admission",
            action: self.on,
            stream: &self.stream,
            protocol: self.protocol,
            address: self.address.map(|address| address.to_canonical()),
            token: self.token.as_ref(),
        };
        // A struct of texts and numbers has no way not to be JSON.
        serde_json::to_vec(&question).unwrap_or_default()
    }
}

/// What a webhook said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Yes.
    Allow {
        /// As another stream.
        stream: Option<StreamName>,
        /// For so long, seconds.
        lifetime_s: Option<u64>,
    },
    /// No, and why: for the person.
    Deny(Option<String>),
}

/// Why a webhook gave no answer. The text is for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It was not asked.
    #[error(transparent)]
    Shut(#[from] gate::Shut),
    /// Its address is not one that a webhook may have.
    #[error(transparent)]
    Forbidden(#[from] guard::Forbidden),
    /// Not in time.
    #[error("it did not answer within {0} ms")]
    Deadline(u64),
    /// Not reached, or the connection broke.
    #[error("it could not be asked: {0}")]
    Unreachable(String),
    /// Another status than 200.
    #[error("it answered with status {0}, and only 200 is an answer")]
    Status(u16),
    /// Another status than 2xx, to an event.
    #[error("it answered with status {0}, and only 2xx takes an event")]
    NotTaken(u16),
    /// Not JSON by its own word.
    #[error("its answer is not application/json")]
    ContentType,
    /// Longer than [`MAX_ANSWER_BYTES`].
    #[error("its answer has more than {MAX_ANSWER_BYTES} bytes")]
    TooLong,
    /// Not the JSON of an answer.
    #[error("its answer is not one: {0}")]
    Malformed(String),
    /// A redirect to a stream over which other webhooks decide, or of a viewer.
    #[error("it sends to stream {0}, over which not the same webhooks decide")]
    Elsewhere(StreamName),
}

/// As it lies in the JSON. A key that is not known makes it no answer: a slip of the pen must not let somebody in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    decision: Decision,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    stream: Option<StreamName>,
    #[serde(default)]
    lifetime_s: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Decision {
    Allow,
    Deny,
}

/// Whether a response's head may have an answer behind it: status 200 and `application/json`.
///
/// # Errors
/// [`Failure::Status`], [`Failure::ContentType`].
pub fn check_head(status: u16, content_type: Option<&str>) -> Result<(), Failure> {
    if status != 200 {
        return Err(Failure::Status(status));
    }
    let essence = content_type.and_then(|value| value.split(';').next());
    match essence.is_some_and(|e| e.trim().eq_ignore_ascii_case("application/json")) {
        true => Ok(()),
        false => Err(Failure::ContentType),
    }
}

impl Answer {
    /// Reads the body of a response whose head was [checked](check_head).
    ///
    /// # Errors
    /// [`Failure::TooLong`], [`Failure::Malformed`].
    pub fn read(body: &[u8]) -> Result<Self, Failure> {
        if body.len() > MAX_ANSWER_BYTES {
            return Err(Failure::TooLong);
        }
        let malformed = |what: &str| Failure::Malformed(what.to_owned());
        // Where and of which kind; what the server wrote stays out of the log.
        let said: Said = serde_json::from_slice(body).map_err(|error| {
            let kind = match error.classify() {
                serde_json::error::Category::Data => "not the keys or values of an answer",
                _ => "not JSON",
            };
            malformed(&format!("{kind}, in column {}", error.column()))
        })?;
        match said {
            Said {
                decision: Decision::Deny,
                reason,
                stream: None,
                lifetime_s: None,
            } => Ok(Self::Deny(reason.and_then(|reason| clean(&reason)))),
            Said {
                decision: Decision::Allow,
                reason: None,
                stream,
                lifetime_s,
            } => match lifetime_s {
                None | Some(1..=MAX_LIFETIME_S) => Ok(Self::Allow { stream, lifetime_s }),
                Some(_) => Err(malformed("lifetime_s is not 1 to 31622400")),
            },
            _ => Err(malformed(
                "reason is for deny, stream and lifetime_s are for allow",
            )),
        }
    }
}

/// A reason as a person may read it: one line without control characters, of bounded length; `None` where nothing is left.
fn clean(reason: &str) -> Option<String> {
    let words: Vec<&str> = reason.split_whitespace().collect();
    let line = words.join(" ");
    let shown = line.chars().filter(|c| !c.is_control());
    let shown: String = shown.take(MAX_REASON).collect();
    (!shown.is_empty()).then_some(shown)
}

/// What webhooks allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// As this stream.
    pub stream: StreamName,
    /// When the session ends, Unix milliseconds.
    pub ends_unix_ms: Option<i64>,
}

impl Allowed {
    /// Where no webhook has a say.
    pub fn freely(stream: StreamName) -> Self {
        Self {
            stream,
            ends_unix_ms: None,
        }
    }

    /// A publisher's admission, as far as it is allowed: whichever end comes first counts.
    pub fn narrow(self, admission: Admission) -> Admission {
        let ends = [self.ends_unix_ms, admission.ends_unix_ms];
        let led = (self.stream != admission.stream).then_some(admission.stream);
        Admission {
            stream: self.stream,
            ends_unix_ms: ends.into_iter().flatten().min(),
            credential: admission.credential.map(|credential| Credential {
                asked: led,
                ..credential
            }),
            ..admission
        }
    }
}

/// Why somebody was not let in. The text is for that person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A webhook said so, with a reason.
    #[error("{0}")]
    Because(String),
    /// A webhook said so.
    #[error("the operator of this server does not allow it")]
    NoReason,
    /// A webhook did not answer.
    #[error("the service that decides who may get in did not answer: try again in a moment")]
    Unanswered,
}

/// What comes of what the asked webhooks said: all of them have to allow, the shortest lifetime counts, and the first that names another
/// stream names it. Failures are for the operator's log.
///
/// # Errors
/// [`Denied`].
pub fn decide(
    hooks: &Hooks,
    ask: &Ask,
    answers: Vec<(usize, Result<Answer, Failure>)>,
    now_unix_ms: i64,
) -> (Result<Allowed, Denied>, Vec<(String, Failure)>) {
    let mut failures = Vec::new();
    let mut allowed = Allowed::freely(ask.stream.clone());
    let mut redirected = false;
    let mut denied = None;
    for (index, answer) in answers {
        let Some(hook) = hooks.all().get(index).map(|one| &one.hook) else {
            continue;
        };
        let answer = answer.and_then(|answer| match answer {
            Answer::Allow {
                stream: Some(stream),
                ..
            } if hooks.asked(ask.on, &stream) != hooks.asked(ask.on, &ask.stream) => {
                Err(Failure::Elsewhere(stream))
            }
            answer => Ok(answer),
        });
        match answer {
            Ok(Answer::Allow { stream, lifetime_s }) => {
                if let (Some(stream), false) = (stream, redirected) {
                    allowed.stream = stream;
                    redirected = true;
                }
                if let Some(seconds) = lifetime_s {
                    let ms = i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX);
                    let ends = now_unix_ms.saturating_add(ms);
                    allowed.ends_unix_ms = Some(allowed.ends_unix_ms.map_or(ends, |e| e.min(ends)));
                }
            }
            Ok(Answer::Deny(reason)) => {
                let reason = reason.map_or(Denied::NoReason, Denied::Because);
                // A reason is worth more than that another did not answer.
                if !matches!(denied, Some(Denied::Because(_) | Denied::NoReason)) {
                    denied = Some(reason);
                }
            }
            Err(failure) => {
                if hook.on_failure == OnFailure::Deny {
                    denied.get_or_insert(Denied::Unanswered);
                }
                failures.push((hook.name.clone(), failure));
            }
        }
    }
    let verdict = match denied {
        Some(denied) => Err(denied),
        None => Ok(allowed),
    };
    (verdict, failures)
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish",
            Self::Watch => "watch",
            Self::Events => "events",
        })
    }
}

#[cfg(test)]
mod tests;
