//! The signaling of one broadcast: who watches by WebRTC, who waits for media-core's answer, and what is to be said down the link.
//!
//! A state machine without I/O: the adapters tell it what is asked and what comes up the link, and send what [`Desk::next_said`] gives. `W` is
//! whoever waits for an answer. What is kept can be lost: when a link is connected media-core says who watches.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use protocol::{
    link::ToCore,
    session::Session,
    signaling::{ANSWER_S, MAX_IDS, Outcome, Refusal, Signal, Viewer},
    token::Tag,
};

use super::{sdp, session_of};
use crate::{
    routes::Problem,
    sessions::{IDLE_MS, MAX_SESSIONS},
};

/// Questions of one broadcast that wait for their answer at a time; beyond, 503.
pub const MAX_PENDING: usize = 256;
/// Sessions that ended are remembered for so long, milliseconds: media-core has heard of it by then, or its viewer is gone by itself.
const ENDED_MS: i64 = 600_000;

/// What the edge remembers of a viewer's ICE session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The viewer's user fragment.
    offered: Option<String>,
    /// media-core's.
    answered: Option<String>,
}

impl Known {
    /// Whether the fragment begins another ICE session.
    pub fn is_restart(&self, fragment: &str) -> bool {
        match (sdp::ufrag(fragment), &self.offered) {
            (Some(new), Some(known)) => new != known,
            _ => false,
        }
    }

    /// What its `ETag` has between the quotes.
    pub fn etag(&self) -> Option<&str> {
        self.answered.as_deref()
    }
}

#[derive(Debug)]
struct Watching {
    viewer: Viewer,
    known: Known,
    /// When media-core last said so.
    heard_unix_ms: i64,
}

#[derive(Debug)]
struct Pending<W> {
    signal: Signal,
    deadline_unix_ms: i64,
    waiter: W,
}

/// What came of a word of media-core.
#[derive(Debug, PartialEq, Eq)]
pub struct Heard {
    /// These watch: each is to be counted as seen, and ended ([`Desk::end`]) where it may not go on.
    pub watching: Vec<Viewer>,
    /// media-core speaks of somebody that the edge has never heard of: the link is to be dialled again, and begins with who watches.
    pub forgotten: bool,
}

/// The signaling of one broadcast.
#[derive(Debug)]
pub struct Desk<W> {
    linked: bool,
    /// Whether all who watch are known: media-core has said so on this link.
    told: bool,
    /// Number of the last question.
    last: u64,
    pending: BTreeMap<u64, Pending<W>>,
    watching: HashMap<Tag, Watching>,
    /// Sessions that are over, and when they ended: media-core may not have heard of it.
    ended: HashMap<Tag, i64>,
    questions: VecDeque<ToCore>,
    /// What media-core is to end.
    to_end: BTreeSet<Tag>,
}

impl<W> Desk<W> {
    /// Nobody watches. Questions are numbered from `first` on: one that is made again while its link goes on may not use a number twice.
    pub fn new(first: u64) -> Self {
        Self {
            linked: false,
            told: false,
            last: first,
            pending: BTreeMap::new(),
            watching: HashMap::new(),
            ended: HashMap::new(),
            questions: VecDeque::new(),
            to_end: BTreeSet::new(),
        }
    }

    // ---- the link

    /// A link is connected. Who waited for an answer over the one before is let go.
    pub fn linked(&mut self, now_unix_ms: i64) {
        self.unlinked(now_unix_ms);
        self.linked = true;
        for one in self.watching.values_mut() {
            // It could not be heard of.
            one.heard_unix_ms = now_unix_ms;
        }
    }

    /// The link is gone: who waits for an answer is let go, and who watches goes on.
    pub fn unlinked(&mut self, now_unix_ms: i64) {
        self.linked = false;
        self.told = false;
        self.questions.clear();
        self.to_end.clear();
        // Whoever waited hears that there is none; what media-core has begun since is to end.
        for pending in std::mem::take(&mut self.pending).into_values() {
            if let Signal::Offer { viewer, .. } = pending.signal {
                self.remember(viewer.session.id, now_unix_ms);
            }
        }
    }

    /// What is to be said down the link next: who is out goes before who wants in.
    pub fn next_said(&mut self) -> Option<ToCore> {
        if !self.to_end.is_empty() {
            let some = std::iter::from_fn(|| self.to_end.pop_first());
            let sessions = some.take(MAX_IDS).collect();
            return Some(ToCore::End { sessions });
        }
        self.questions.pop_front()
    }

    /// Whether there is something to be said.
    pub fn has_next(&self) -> bool {
        !self.to_end.is_empty() || !self.questions.is_empty()
    }

    // ---- what viewers ask

    /// Whether a question can be asked now.
    ///
    /// # Errors
    /// 503.
    pub fn may_ask(&self) -> Result<(), Problem> {
        match self.linked && self.pending.len() < MAX_PENDING {
            true => Ok(()),
            false => Err(Problem::unlinked()),
        }
    }

    /// Somebody asks media-core something. Gives the question's number.
    ///
    /// # Errors
    /// 503 where there is no link, or too many wait.
    pub fn ask(&mut self, signal: Signal, waiter: W, now_unix_ms: i64) -> Result<u64, Problem> {
        // Whoever asked went away and does not give its question up by itself.
        while let Some(first) = self.pending.first_entry()
            && first.get().deadline_unix_ms <= now_unix_ms
        {
            let (request, pending) = first.remove_entry();
            self.given_up(request, Some(pending), now_unix_ms);
        }
        self.may_ask()?;
        let id = session_of(&signal);
        if self
            .pending
            .values()
            .any(|one| session_of(&one.signal) == id)
        {
            return Err(Problem::unlinked());
        }
        match &signal {
            Signal::Offer { .. } => {
                // A session is one viewer: it begins again here, and elsewhere it is over.
                if self.watching.remove(&id).is_some() {
                    self.to_end.insert(id);
                }
                self.ended.remove(&id);
            }
            Signal::Leave { .. } => {
                self.watching.remove(&id);
                self.remember(id, now_unix_ms);
            }
            Signal::Patch { .. } => {}
        }
        self.last += 1;
        let request = self.last;
        self.questions.push_back(ToCore::Signal {
            request,
            signal: signal.clone(),
        });
        let deadline_unix_ms = now_unix_ms.saturating_add(ANSWER_S as i64 * 1_000 + 1_000);
        let pending = Pending {
            signal,
            deadline_unix_ms,
            waiter,
        };
        self.pending.insert(request, pending);
        Ok(request)
    }

    /// Whoever asked waits no longer: what media-core may have begun for it is to end.
    pub fn give_up(&mut self, request: u64, now_unix_ms: i64) {
        let pending = self.pending.remove(&request);
        self.given_up(request, pending, now_unix_ms);
    }

    fn given_up(&mut self, request: u64, pending: Option<Pending<W>>, now_unix_ms: i64) {
        let unsent = |message: &ToCore| matches!(message, ToCore::Signal { request: of, .. } if *of == request);
        if let Some(at) = self.questions.iter().position(unsent) {
            self.questions.remove(at);
        } else if let Some(Pending {
            signal: Signal::Offer { viewer, .. },
            ..
        }) = pending
        {
            self.end([viewer.session.id], now_unix_ms);
        }
    }

    /// What is remembered of a viewer's ICE session.
    pub fn known(&self, session: &Tag) -> Option<&Known> {
        self.watching.get(session).map(|one| &one.known)
    }

    // ---- what media-core says

    /// media-core answers. Gives whoever waits for it, and whose question it was: where nobody waits any more, an offer's session is to be
    /// ended ([`Self::end`]).
    pub fn answered(
        &mut self,
        request: u64,
        outcome: &Outcome,
        now_unix_ms: i64,
    ) -> Option<(W, Tag)> {
        let Pending { signal, waiter, .. } = self.pending.remove(&request)?;
        let id = session_of(&signal);
        match (signal, outcome) {
            (Signal::Offer { viewer, sdp }, Outcome::Answer { sdp: answer }) => {
                let known = Known {
                    offered: sdp::ufrag(&sdp).map(str::to_owned),
                    answered: sdp::ufrag(answer).map(str::to_owned),
                };
                self.enter(*viewer, Some(known), now_unix_ms);
            }
            (
                Signal::Patch { session, fragment },
                Outcome::Patched {
                    fragment: Some(new),
                },
            ) => {
                if let Some(one) = self.watching.get_mut(&session) {
                    one.known.offered = sdp::ufrag(&fragment).map(str::to_owned);
                    one.known.answered = sdp::ufrag(new).map(str::to_owned);
                }
            }
            (
                Signal::Patch { session, .. },
                Outcome::Refused {
                    reason: Refusal::NoSession,
                },
            ) => drop(self.watching.remove(&session)),
            _ => {}
        }
        Some((waiter, id))
    }

    /// media-core says who watches.
    pub fn watching(&mut self, viewers: Vec<Viewer>, now_unix_ms: i64) -> Heard {
        self.told = true;
        let mut watching = Vec::with_capacity(viewers.len());
        for viewer in viewers {
            let id = viewer.session.id;
            if self.ended.contains_key(&id) || !self.enter(viewer.clone(), None, now_unix_ms) {
                self.to_end.insert(id);
            } else {
                watching.push(viewer);
            }
        }
        Heard {
            watching,
            forgotten: false,
        }
    }

    /// media-core says that these still watch.
    pub fn still(&mut self, sessions: &[Tag], now_unix_ms: i64) -> Heard {
        let mut heard = Heard {
            watching: Vec::with_capacity(sessions.len()),
            forgotten: false,
        };
        for id in sessions {
            if let Some(one) = self.watching.get_mut(id) {
                one.heard_unix_ms = now_unix_ms;
                heard.watching.push(one.viewer.clone());
            } else if self.told || self.ended.contains_key(id) {
                // It was ended, and media-core did not hear of it.
                self.to_end.insert(*id);
            } else {
                heard.forgotten = true;
            }
        }
        self.sweep(now_unix_ms);
        heard
    }

    /// media-core says that these are gone. Gives those that were known.
    pub fn gone(&mut self, sessions: &[Tag]) -> Vec<Session> {
        let gone = sessions.iter().filter_map(|id| self.watching.remove(id));
        gone.map(|one| one.viewer.session).collect()
    }

    /// Takes a viewer in. False when there are too many.
    fn enter(&mut self, viewer: Viewer, known: Option<Known>, now_unix_ms: i64) -> bool {
        let id = viewer.session.id;
        let before = self.watching.remove(&id).map(|one| one.known);
        if self.watching.len() >= MAX_SESSIONS {
            return false;
        }
        let one = Watching {
            viewer,
            known: known.or(before).unwrap_or_default(),
            heard_unix_ms: now_unix_ms,
        };
        self.watching.insert(id, one);
        true
    }

    // ---- what ends sessions early

    /// Who watches.
    pub fn viewers(&self) -> impl Iterator<Item = &Viewer> {
        self.watching.values().map(|one| &one.viewer)
    }

    /// These are out: media-core is told.
    pub fn end(&mut self, sessions: impl IntoIterator<Item = Tag>, now_unix_ms: i64) {
        for id in sessions {
            self.watching.remove(&id);
            self.remember(id, now_unix_ms);
            if self.linked {
                self.to_end.insert(id);
            }
        }
    }

    /// One is out, if it watches here.
    pub fn end_if_known(&mut self, session: Tag, now_unix_ms: i64) {
        if self.watching.contains_key(&session) {
            self.end([session], now_unix_ms);
        }
    }

    fn remember(&mut self, id: Tag, now_unix_ms: i64) {
        if self.ended.len() >= MAX_SESSIONS {
            self.sweep(now_unix_ms);
        }
        // Beyond, what is revoked is refused by its revocation, and what left is gone by itself.
        if self.ended.len() < MAX_SESSIONS {
            self.ended.insert(id, now_unix_ms);
        }
    }

    /// Forgets who is silent while there is a link, and what ended long ago.
    fn sweep(&mut self, now_unix_ms: i64) {
        let since = |at: i64| now_unix_ms.saturating_sub(at);
        if self.linked {
            self.watching
                .retain(|_, one| since(one.heard_unix_ms) <= IDLE_MS);
        }
        self.ended.retain(|_, at| since(*at) <= ENDED_MS);
    }
}
