//! What was taken back before its time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Action, Ask, Grant, Holder, Refusal, Seconds, StreamPattern, Tag};
use crate::{names::StreamName, session::Session};

/// What is taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Revoked {
    /// One token.
    Token {
        /// Its issuer.
        iss: String,
        /// Its id.
        jti: String,
    },
    /// All tokens that somebody was given so far.
    Subject {
        /// Their issuer.
        iss: String,
        /// Whom they were given to.
        sub: String,
    },
    /// All tokens so far.
    All,
    /// One playback session. Its token is as good as before.
    Session(Tag),
}

/// A revocation, as it is kept and as it crosses the links. Told twice it is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// What.
    pub what: Revoked,
    /// For which streams: those of whoever took it back, who has no say over others.
    pub streams: StreamPattern,
    /// When, Unix milliseconds: tokens of a subject or for a stream that are issued later are good.
    pub at_unix_ms: i64,
    /// From when on it need not be remembered, Unix milliseconds: nothing that it is about can be used any more. `None`: always.
    pub until_unix_ms: Option<i64>,
}

/// For which streams something was taken back, when, and until when that is worth knowing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Scope {
    streams: StreamPattern,
    at_unix_ms: i64,
    until_unix_ms: Option<i64>,
}

/// All revocations that are still of use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Tokens and sessions: whenever they were issued.
    ids: BTreeMap<Tag, Vec<Scope>>,
    /// What was issued until then.
    subjects: BTreeMap<Tag, Vec<Scope>>,
    all: Vec<Scope>,
}

impl FromIterator<Revocation> for Revocations {
    fn from_iter<T: IntoIterator<Item = Revocation>>(all: T) -> Self {
        let mut revocations = Self::default();
        for revocation in all {
            revocations.add(revocation);
        }
        revocations
    }
}

impl Revocations {
    /// Takes one in. Also whether it is news.
    pub fn add(&mut self, revocation: Revocation) -> bool {
        let Revocation {
            what,
            streams,
            at_unix_ms,
            until_unix_ms,
        } = revocation;
        let scopes = match what {
            Revoked::Token { iss, jti } => self.ids.entry(Tag::token(&iss, &jti)).or_default(),
            Revoked::Session(id) => self.ids.entry(id).or_default(),
            Revoked::Subject { iss, sub } => {
                self.subjects.entry(Tag::subject(&iss, &sub)).or_default()
            }
            Revoked::All => &mut self.all,
        };
        match scopes.iter_mut().find(|known| known.streams == streams) {
            Some(known) => known.extend(at_unix_ms, until_unix_ms),
            None => {
                scopes.push(Scope {
                    streams,
                    at_unix_ms,
                    until_unix_ms,
                });
                true
            }
        }
    }

    /// Forgets those that are of no use any more.
    pub fn forget(&mut self, now_unix_ms: i64) {
        let kept = |scope: &Scope| scope.until_unix_ms.is_none_or(|until| until > now_unix_ms);
        for by_tag in [&mut self.ids, &mut self.subjects] {
            by_tag.retain(|_, scopes| {
                scopes.retain(kept);
                !scopes.is_empty()
            });
        }
        self.all.retain(kept);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        let by_tag = self.ids.values().chain(self.subjects.values());
        by_tag.map(Vec::len).sum::<usize>() + self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.subjects.is_empty() && self.all.is_empty()
    }

    /// Whether a token was taken back, for this stream.
    ///
    /// # Errors
    /// [`Refusal::Revoked`].
    pub fn refuse(&self, holder: &Holder, stream: &StreamName) -> Result<(), Refusal> {
        let covers = |streams: &StreamPattern| streams.covers(stream);
        self.refuse_where(holder, covers, covers)
    }

    /// Whether a token was taken back, for what somebody wants to do with it.
    ///
    /// # Errors
    /// [`Refusal::Revoked`].
    pub fn refuse_ask(&self, grant: &Grant, ask: &Ask<'_>) -> Result<(), Refusal> {
        match ask.action {
            Action::Manage => self.refuse_manager(grant, &ask.stream.clone().into()),
            _ => self.refuse(&grant.holder(), ask.stream),
        }
    }

    /// Whether a token that manages streams was taken back, for any of these. Taking back all that was issued for some streams takes nothing
    /// from whoever manages more than those: else nobody could do it who manages all.
    ///
    /// # Errors
    /// [`Refusal::Revoked`].
    pub fn refuse_manager(&self, grant: &Grant, wanted: &StreamPattern) -> Result<(), Refusal> {
        self.refuse_where(
            &grant.holder(),
            |streams| streams.covers_all(wanted) || wanted.covers_all(streams),
            |streams| streams.covers_all(&grant.claims().stream),
        )
    }

    /// `concerned` by what names the token or its subject, `reached` by what names neither.
    fn refuse_where(
        &self,
        holder: &Holder,
        concerned: impl Fn(&StreamPattern) -> bool,
        reached: impl Fn(&StreamPattern) -> bool,
    ) -> Result<(), Refusal> {
        // Issued within the second of the revocation is taken back too: which came first is not known.
        let before =
            |at: i64| (holder.issued).is_none_or(|issued| issued <= Seconds::of_unix_ms(at));
        let any = |scopes: Option<&Vec<Scope>>, whenever: bool| {
            scopes.is_some_and(|scopes| {
                (scopes.iter()).any(|scope| {
                    concerned(&scope.streams) && (whenever || before(scope.at_unix_ms))
                })
            })
        };
        let revoked = any(self.ids.get(&holder.token), true)
            || any(self.subjects.get(&holder.subject), false)
            || (self.all.iter()).any(|scope| reached(&scope.streams) && before(scope.at_unix_ms));
        if revoked {
            return Err(Refusal::Revoked);
        }
        Ok(())
    }

    /// Whether a playback session of this stream was ended, or its token taken back.
    ///
    /// # Errors
    /// [`Refusal::Revoked`].
    pub fn refuse_session(&self, session: &Session, stream: &StreamName) -> Result<(), Refusal> {
        if self.is_empty() {
            return Ok(());
        }
        let ended = self.ids.get(&session.id);
        if ended.is_some_and(|scopes| scopes.iter().any(|scope| scope.streams.covers(stream))) {
            return Err(Refusal::Revoked);
        }
        self.refuse(&session.holder, stream)
    }
}

impl Scope {
    /// Takes the later and the longer of both; whether that changes what is known.
    fn extend(&mut self, at_unix_ms: i64, until_unix_ms: Option<i64>) -> bool {
        // `None` is for always.
        let longer = |a: Option<i64>, b: Option<i64>| Some(a?.max(b?));
        let now = (
            self.at_unix_ms.max(at_unix_ms),
            longer(self.until_unix_ms, until_unix_ms),
        );
        let before = std::mem::replace(&mut self.at_unix_ms, now.0);
        let until = std::mem::replace(&mut self.until_unix_ms, now.1);
        (before, until) != now
    }
}
