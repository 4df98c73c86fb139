//! What was taken back before its time.

use std::{collections::BTreeMap, ops::Bound};

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

/// When something was taken back, and until when that is worth knowing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    at_unix_ms: i64,
    until_unix_ms: Option<i64>,
}

/// What was taken back for just these streams.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entry {
    /// Tokens and sessions: whenever they were issued.
    ids: BTreeMap<Tag, Times>,
    /// What was issued until then.
    subjects: BTreeMap<Tag, Times>,
    all: Option<Times>,
}

impl Entry {
    fn len(&self) -> usize {
        self.ids.len() + self.subjects.len() + usize::from(self.all.is_some())
    }

    fn retain(&mut self, kept: impl Fn(&Times) -> bool) {
        self.ids.retain(|_, times| kept(times));
        self.subjects.retain(|_, times| kept(times));
        self.all = self.all.filter(kept);
    }
}

/// All revocations that are still of use. They may be many, since each stream that is deleted is one, and each request asks: they lie by
/// the streams that they are for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Of one stream, by its name.
    names: BTreeMap<String, Entry>,
    /// Of those whose names begin so.
    prefixes: BTreeMap<String, Entry>,
}

impl FromIterator<Revocation> for Revocations {
    fn from_iter<T: IntoIterator<Item = Revocation>>(all: T) -> Self {
        let mut revocations = Self::default();
        revocations.extend(all);
        revocations
    }
}

/// As a directory keeps them: what another of them contains is gone from it, and is not looked for here.
impl Extend<Revocation> for Revocations {
    fn extend<T: IntoIterator<Item = Revocation>>(&mut self, all: T) {
        for revocation in all {
            self.insert(revocation);
        }
    }
}

impl Revocations {
    /// Takes one in, and forgets what it contains. Also whether it is news.
    pub fn add(&mut self, revocation: Revocation) -> bool {
        self.forget_within(&revocation);
        self.insert(revocation)
    }

    fn insert(&mut self, revocation: Revocation) -> bool {
        let Revocation {
            what,
            streams,
            at_unix_ms,
            until_unix_ms,
        } = revocation;
        let times = Times {
            at_unix_ms,
            until_unix_ms,
        };
        let entries = match streams.name() {
            Some(_) => &mut self.names,
            None => &mut self.prefixes,
        };
        let entry = match entries.get_mut(streams.beginning()) {
            Some(entry) => entry,
            None => entries.entry(streams.beginning().to_owned()).or_default(),
        };
        let (known, id) = match what {
            Revoked::Token { iss, jti } => (&mut entry.ids, Tag::token(&iss, &jti)),
            Revoked::Session(id) | Revoked::Key(id) => (&mut entry.ids, id),
            Revoked::Subject { iss, sub } => (&mut entry.subjects, Tag::subject(&iss, &sub)),
            Revoked::All => {
                let news = |known: &mut Times| known.extend(times);
                let news = entry.all.as_mut().is_none_or(news);
                entry.all = entry.all.or(Some(times));
                return news;
            }
        };
        match known.get_mut(&id) {
            Some(known) => known.extend(times),
            None => known.insert(id, times).is_none(),
        }
    }

    /// Forgets those that are of no use any more.
    pub fn forget(&mut self, now_unix_ms: i64) {
        let kept = |times: &Times| times.until_unix_ms.is_none_or(|until| until > now_unix_ms);
        for entries in [&mut self.names, &mut self.prefixes] {
            entries.retain(|_, entry| {
                entry.retain(kept);
                entry.len() > 0
            });
        }
    }

    /// Forgets what taking back all of some streams contains; anything else contains nothing. How many streams and patterns it looked at:
    /// of a stream it is that one, however many there are.
    pub(super) fn forget_within(&mut self, all: &Revocation) -> usize {
        if all.what != Revoked::All {
            return 0;
        }
        let contained = |times: &Times| {
            let shorter = match (times.until_unix_ms, all.until_unix_ms) {
                (_, None) => true,
                (until, Some(longest)) => until.is_some_and(|until| until <= longest),
            };
            // A token by a fast clock says that it was issued so much later than it was.
            let before = times.at_unix_ms.saturating_add(super::AHEAD_MS) <= all.at_unix_ms;
            shorter && before
        };
        let (streams, name) = (all.streams.beginning(), all.streams.name());
        let mut seen = 0;
        for (entries, of_names) in [(&mut self.names, true), (&mut self.prefixes, false)] {
            let mut empty = Vec::new();
            let from = entries.range_mut::<str, _>((Bound::Included(streams), Bound::Unbounded));
            let within = from.take_while(|(text, _)| match name {
                Some(_) => of_names && *text == streams,
                None => text.starts_with(streams),
            });
            for (text, entry) in within {
                seen += 1;
                // Of the same streams there is one, which is made later and longer.
                let same = text == streams && of_names == name.is_some();
                let own = entry.all.filter(|_| same);
                entry.retain(|times| !contained(times));
                entry.all = entry.all.or(own);
                if entry.len() == 0 {
                    empty.push(text.clone());
                }
            }
            for text in empty {
                entries.remove(&text);
            }
        }
        seen
    }

    /// What covers all of these streams.
    fn covering<'a>(&'a self, streams: &'a StreamPattern) -> impl Iterator<Item = &'a Entry> {
        let text = streams.beginning();
        let name = streams.name().and_then(|_| self.names.get(text));
        // Names are ASCII.
        let prefixes = (0..=text.len()).filter_map(|end| self.prefixes.get(text.get(..end)?));
        name.into_iter().chain(prefixes)
    }

    /// What is about no other streams than these.
    fn all_within<'a>(&'a self, streams: &'a StreamPattern) -> impl Iterator<Item = &'a Entry> {
        let (text, name) = (streams.beginning(), streams.name().is_some());
        let begin = move |entries: &'a BTreeMap<String, Entry>| {
            let from = entries.range::<str, _>((Bound::Included(text), Bound::Unbounded));
            from.take_while(move |(other, _)| match name {
                true => *other == text,
                false => other.starts_with(text),
            })
            .map(|(_, entry)| entry)
        };
        let prefixes = (!name).then(|| begin(&self.prefixes));
        begin(&self.names).chain(prefixes.into_iter().flatten())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        let entries = self.names.values().chain(self.prefixes.values());
        entries.map(Entry::len).sum()
    }

    /// How many there are for just these streams, but for one of all of them.
    pub fn of(&self, streams: &StreamPattern) -> usize {
        let entries = match streams.name() {
            Some(_) => &self.names,
            None => &self.prefixes,
        };
        let entry = entries.get(streams.beginning());
        entry.map_or(0, |entry| entry.ids.len() + entry.subjects.len())
    }

    /// How many there are for these streams alone, or for some of them.
    pub fn within(&self, streams: &StreamPattern) -> usize {
        self.all_within(streams).map(Entry::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.prefixes.is_empty()
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
        let concerned = self.covering(streams).chain(self.all_within(streams));
        let times = concerned.flat_map(|entry| entry.all.iter().chain(entry.subjects.get(subject)));
        let last = times.map(|times| times.at_unix_ms).max();
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
        let revoked = self.covering(streams).any(|entry| {
            let issued = entry.all.iter().chain(entry.subjects.get(&holder.subject));
            let mut issued = issued.map(|times| times.at_unix_ms);
            entry.ids.contains_key(&holder.token) || issued.any(before)
        });
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
        let streams = stream.clone().into();
        if (self.covering(&streams)).any(|entry| entry.ids.contains_key(&session.id)) {
            return Err(Refusal::Revoked);
        }
        self.refuse_of(&session.holder, &streams)
    }
}

impl Times {
    /// Takes the later and the longer of both; whether that changes what is known.
    fn extend(&mut self, other: Self) -> bool {
        // `None` is for always.
        let longer = |a: Option<i64>, b: Option<i64>| Some(a?.max(b?));
        let now = Self {
            at_unix_ms: self.at_unix_ms.max(other.at_unix_ms),
            until_unix_ms: longer(self.until_unix_ms, other.until_unix_ms),
        };
        std::mem::replace(self, now) != now
    }
}
