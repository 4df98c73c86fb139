//! What was taken back before its time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Action, Ask, Claims, Credential, Grant, Holder, MAX_TEXT_CHARS, Refusal, Seconds,
    StreamPattern, Tag,
};
use crate::{names::StreamName, session::Session};

/// What is taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Revoked {
    /// One token.
    Token {
        /// Its issuer.
        #[schemars(length(min = 1, max = MAX_TEXT_CHARS))]
        iss: String,
        /// Its id.
        #[schemars(length(min = 1, max = MAX_TEXT_CHARS))]
        jti: String,
    },
    /// All tokens that somebody was given so far.
    Subject {
        /// Their issuer.
        #[schemars(length(min = 1, max = MAX_TEXT_CHARS))]
        iss: String,
        /// Whom they were given to.
        #[schemars(length(min = 1, max = MAX_TEXT_CHARS))]
        sub: String,
    },
    /// All tokens so far.
    All,
    /// One playback session. Its token is as good as before.
    Session(Tag),
    /// One stream key.
    Key(Tag),
}

/// A revocation, as it is kept and as it crosses the links. Told twice it is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
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
    all: All,
}

/// Of which streams all was taken back. They may be many, since each that is deleted is one, and each request asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct All {
    /// Of one stream, by its name.
    names: BTreeMap<String, Scope>,
    /// Of those whose names begin so.
    prefixes: BTreeMap<String, Scope>,
}

impl All {
    fn of(&mut self, streams: &StreamPattern) -> &mut BTreeMap<String, Scope> {
        match streams.name() {
            Some(_) => &mut self.names,
            None => &mut self.prefixes,
        }
    }

    /// Takes one in. Also whether it is news.
    fn add(&mut self, scope: Scope) -> bool {
        let known = self.of(&scope.streams);
        match known.get_mut(scope.streams.beginning()) {
            Some(known) => known.extend(scope.at_unix_ms, scope.until_unix_ms),
            None => {
                known.insert(scope.streams.beginning().to_owned(), scope);
                true
            }
        }
    }

    /// Those that cover all of these streams.
    fn covering<'a>(&'a self, streams: &'a StreamPattern) -> impl Iterator<Item = &'a Scope> {
        let text = streams.beginning();
        let name = streams.name().and_then(|_| self.names.get(text));
        // Names are ASCII.
        let prefixes = (0..=text.len()).filter_map(|end| self.prefixes.get(text.get(..end)?));
        name.into_iter().chain(prefixes)
    }

    /// Those that are about no other streams than these.
    fn within<'a>(&'a self, streams: &'a StreamPattern) -> impl Iterator<Item = &'a Scope> {
        let begin = |of: &'a BTreeMap<String, Scope>| {
            let from = of.range(streams.beginning().to_owned()..);
            from.map(|(_, scope)| scope)
                .take_while(|scope| scope.streams.beginning().starts_with(streams.beginning()))
        };
        let all = begin(&self.names).chain(begin(&self.prefixes));
        all.filter(|scope| streams.covers_all(&scope.streams))
    }

    fn retain(&mut self, kept: impl Fn(&Scope) -> bool) {
        self.names.retain(|_, scope| kept(scope));
        self.prefixes.retain(|_, scope| kept(scope));
    }

    fn len(&self) -> usize {
        self.names.len() + self.prefixes.len()
    }
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
        let scope = Scope {
            streams,
            at_unix_ms,
            until_unix_ms,
        };
        let scopes = match what {
            Revoked::Token { iss, jti } => self.ids.entry(Tag::token(&iss, &jti)).or_default(),
            Revoked::Session(id) | Revoked::Key(id) => self.ids.entry(id).or_default(),
            Revoked::Subject { iss, sub } => {
                self.subjects.entry(Tag::subject(&iss, &sub)).or_default()
            }
            Revoked::All => {
                self.forget_within(&scope);
                return self.all.add(scope);
            }
        };
        let same = |known: &&mut Scope| known.streams == scope.streams;
        match scopes.iter_mut().find(same) {
            Some(known) => known.extend(at_unix_ms, until_unix_ms),
            None => {
                scopes.push(scope);
                true
            }
        }
    }

    /// Forgets those that are of no use any more.
    pub fn forget(&mut self, now_unix_ms: i64) {
        let kept = |scope: &Scope| scope.until_unix_ms.is_none_or(|until| until > now_unix_ms);
        self.retain_by_tag(kept);
        self.all.retain(kept);
    }

    /// Forgets what taking back all of some streams contains.
    fn forget_within(&mut self, all: &Scope) {
        let contained = |scope: &Scope| {
            let shorter = match (scope.until_unix_ms, all.until_unix_ms) {
                (_, None) => true,
                (until, Some(longest)) => until.is_some_and(|until| until <= longest),
            };
            // A token by a fast clock says that it was issued so much later than it was.
            let before = scope.at_unix_ms.saturating_add(super::AHEAD_MS) <= all.at_unix_ms;
            shorter && before && all.streams.covers_all(&scope.streams)
        };
        self.retain_by_tag(|scope| !contained(scope));
        // Of the same streams there is one, which is made later and longer.
        self.all
            .retain(|scope| scope.streams == all.streams || !contained(scope));
    }

    fn retain_by_tag(&mut self, kept: impl Fn(&Scope) -> bool) {
        for by_tag in [&mut self.ids, &mut self.subjects] {
            by_tag.retain(|_, scopes| {
                scopes.retain(&kept);
                !scopes.is_empty()
            });
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        let by_tag = self.ids.values().chain(self.subjects.values());
        by_tag.map(Vec::len).sum::<usize>() + self.all.len()
    }

    /// How many there are for just these streams.
    pub fn of(&self, streams: &StreamPattern) -> usize {
        let by_tag = self.ids.values().chain(self.subjects.values()).flatten();
        by_tag.filter(|scope| scope.streams == *streams).count()
    }

    /// How many there are for these streams alone, or for some of them.
    pub fn within(&self, streams: &StreamPattern) -> usize {
        let by_tag = self.ids.values().chain(self.subjects.values()).flatten();
        let by_tag = by_tag.filter(|scope| streams.covers_all(&scope.streams));
        by_tag.count() + self.all.within(streams).count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.subjects.is_empty() && self.all.len() == 0
    }

    /// Whether a token was taken back, for this stream.
    ///
    /// # Errors
    /// [`Refusal::Revoked`].
    pub fn refuse(&self, holder: &Holder, stream: &StreamName) -> Result<(), Refusal> {
        self.refuse_of(holder, &stream.clone().into())
    }

    /// Whether a token was taken back, for what somebody wants to do with it.
    ///
    /// # Errors
    /// [`Refusal::Revoked`].
    pub fn refuse_ask(&self, grant: &Grant, ask: &Ask<'_>) -> Result<(), Refusal> {
        match ask.action {
            Action::Manage => self.refuse_manager(grant),
            _ => self.refuse(&grant.holder(), ask.stream),
        }
    }

    /// Whether a token that manages streams was taken back. Only by somebody who manages all that it does: whoever manages less has no say
    /// over those who gave that to them.
    ///
    /// # Errors
    /// [`Refusal::Revoked`].
    pub fn refuse_manager(&self, grant: &Grant) -> Result<(), Refusal> {
        self.refuse_of(&grant.holder(), &grant.claims().stream)
    }

    /// Whether what a publisher of this stream was let in with was taken back, for it or for the stream that they came for.
    ///
    /// # Errors
    /// [`Refusal::Revoked`].
    pub fn refuse_publisher(
        &self,
        credential: &Credential,
        stream: &StreamName,
    ) -> Result<(), Refusal> {
        for stream in [Some(stream), credential.asked.as_ref()]
            .into_iter()
            .flatten()
        {
            self.refuse(&credential.holder, stream)?;
        }
        Ok(())
    }

    /// When a token with these claims is to be issued that is asked for now, so that what was taken back just before does not take it back
    /// as well: what is issued in the second of a revocation falls under it.
    pub fn issue(&self, claims: &Claims, now_unix_ms: i64) -> Seconds {
        let subject = Tag::subject(&claims.iss, &claims.sub);
        self.issue_as(&subject, &claims.stream, now_unix_ms)
    }

    /// As [`Self::issue`], for somebody called so and these streams.
    pub fn issue_as(&self, subject: &Tag, streams: &StreamPattern, now_unix_ms: i64) -> Seconds {
        let of_subject = self.subjects.get(subject).into_iter().flatten();
        let of_subject = of_subject.filter(|scope| {
            scope.streams.covers_all(streams) || streams.covers_all(&scope.streams)
        });
        let of_all = self.all.covering(streams).chain(self.all.within(streams));
        let last = (of_subject.chain(of_all))
            .map(|scope| scope.at_unix_ms)
            .max();
        let now = Seconds::of_unix_ms(now_unix_ms);
        match last.map(Seconds::of_unix_ms) {
            Some(last) if last == now => Seconds::of_unix_ms(now_unix_ms.saturating_add(1_000)),
            _ => now,
        }
    }

    /// By what was taken back of all of these streams.
    fn refuse_of(&self, holder: &Holder, streams: &StreamPattern) -> Result<(), Refusal> {
        // Issued within the second of the revocation is taken back too: which came first is not known.
        let before =
            |at: i64| (holder.issued).is_none_or(|issued| issued <= Seconds::of_unix_ms(at));
        let any = |scopes: Option<&Vec<Scope>>, whenever: bool| {
            scopes.is_some_and(|scopes| {
                (scopes.iter()).any(|scope| {
                    scope.streams.covers_all(streams) && (whenever || before(scope.at_unix_ms))
                })
            })
        };
        let revoked = any(self.ids.get(&holder.token), true)
            || any(self.subjects.get(&holder.subject), false)
            || (self.all.covering(streams)).any(|scope| before(scope.at_unix_ms));
        match revoked {
            true => Err(Refusal::Revoked),
            false => Ok(()),
        }
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
