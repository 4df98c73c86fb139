//! The playback sessions of one stream: who watches with a token, and whether one more may.
//!
//! A session lives in the addresses that its player asks for ([`protocol::session`]); what is kept here can be lost: it is known again
//! from the next request. A session counts while it asks for something, and until [`IDLE_MS`] after. Where its token is for so many devices,
//! no more than those are answered at a time, however many sessions it has begun.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use protocol::{
    names::Protocol,
    per_address::{is_near, subscriber},
    session::Session,
    token::Tag,
};
use serde::{Deserialize, Serialize};

/// A session counts for so long after its last request, milliseconds: longer than a blocked request waits.
pub const IDLE_MS: i64 = 20_000;
/// Sessions of a stream that are remembered at a time; beyond, new ones play and are not listed.
pub const MAX_SESSIONS: usize = 100_000;
/// Sessions that a token of any number of devices has at a time, so that one leaked token does not fill the list.
const MAX_OF_TOKEN: usize = 10_000;

/// What is told of a session to the owner of its stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Listed {
    /// Its id.
    pub id: Tag,
    /// Whom its token was given to, where that is known: not after a restart of the edge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Its token's id, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// What it is played by, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Where it asked from last.
    pub address: IpAddr,
    /// When it began, Unix milliseconds.
    pub begun_unix_ms: i64,
    /// When it asked last, Unix milliseconds.
    pub seen_unix_ms: i64,
}

/// What is known of whoever begins a session, and of no request after that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// `sub` of its token.
    pub subject: Option<String>,
    /// `jti` of its token.
    pub jti: Option<String>,
    /// What it is played by.
    pub protocol: Protocol,
}

/// Why one more does not play.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotOneMore {
    /// The token is in use on as many devices as it is for.
    #[error(
        "the token plays on {0} devices already, as many as it is for: stop one, and try again in half a minute"
    )]
    InUse(u32),
    /// The stream has as many viewers as it may have.
    #[error("as many are watching as this stream may have: try again later")]
    Full,
}

#[derive(Debug, Clone)]
struct Active {
    listed: Listed,
    token: Tag,
    /// Who asked from there when it began.
    of: IpAddr,
}

/// The sessions of one stream.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    by_id: HashMap<Tag, Active>,
    /// The sessions of a token, and when each asked last.
    by_token: HashMap<Tag, BTreeMap<Tag, i64>>,
    swept_unix_ms: i64,
}

impl Sessions {
    /// A session asks for something, or (with what is known `about` it) begins. `most` viewers may watch at a time.
    ///
    /// # Errors
    /// [`NotOneMore`] when it is not among those that are active, and there are as many already.
    pub fn seen(
        &mut self,
        session: &Session,
        about: Option<About>,
        most: Option<u32>,
        address: IpAddr,
        now_unix_ms: i64,
    ) -> Result<(), NotOneMore> {
        let token = session.holder.token;
        if let Some(active) = self.by_id.get_mut(&session.id)
            && now_unix_ms.saturating_sub(active.listed.seen_unix_ms) <= IDLE_MS
        {
            active.listed.seen_unix_ms = now_unix_ms;
            active.listed.address = address;
            if let Some(of_token) = self.by_token.get_mut(&token) {
                of_token.insert(session.id, now_unix_ms);
            }
            return Ok(());
        }
        // It was silent for so long, if it is noted at all, that its place may be another's by now.
        let others = |by_id: &HashMap<Tag, Active>| {
            by_id.len() - usize::from(by_id.contains_key(&session.id))
        };
        let room = most.map_or(MAX_SESSIONS, |most| MAX_SESSIONS.min(most as usize));
        if others(&self.by_id) >= room {
            self.sweep(now_unix_ms);
        }
        let full = others(&self.by_id) >= room;
        // Who is not noted could not be counted against the token's devices.
        if full && (room < MAX_SESSIONS || session.max.is_some()) {
            return Err(NotOneMore::Full);
        }
        // The last quarter is not for those who have one already, so that one address does not take every place. A proxy or a network
        // nearby is many peers behind one address.
        let scarce = room < MAX_SESSIONS && others(&self.by_id) >= room - room / 4;
        if scarce && !is_near(address) {
            let subscriber = subscriber(address);
            let same = |active: &&Active| active.of == subscriber && active.listed.id != session.id;
            if self.by_id.values().filter(same).count() >= (room / 4).max(1) {
                return Err(NotOneMore::Full);
            }
        }
        let of_token = self.by_token.entry(token).or_default();
        of_token
            .retain(|id, seen| *id != session.id && now_unix_ms.saturating_sub(*seen) <= IDLE_MS);
        if let Some(max) = session.max
            && of_token.len() >= max.get() as usize
        {
            return Err(NotOneMore::InUse(max.get()));
        }
        if full || of_token.len() >= MAX_OF_TOKEN {
            // Counting fails before watching does; a token for so many devices was checked above.
            return Ok(());
        }
        of_token.insert(session.id, now_unix_ms);
        let before = self.by_id.remove(&session.id).map(|active| active.listed);
        let (subject, jti, protocol) = match (about, before) {
            (Some(about), _) => (about.subject, about.jti, Some(about.protocol)),
            (None, Some(before)) => (before.subject, before.jti, before.protocol),
            (None, None) => (None, None, None),
        };
        let listed = Listed {
            id: session.id,
            subject,
            jti,
            protocol,
            address,
            begun_unix_ms: session.begun_unix_ms,
            seen_unix_ms: now_unix_ms,
        };
        let of = subscriber(address);
        self.by_id.insert(session.id, Active { listed, token, of });
        Ok(())
    }

    /// How many sessions of a token are active here, but for this one.
    pub fn others_of(&self, session: &Session, now_unix_ms: i64) -> usize {
        let of_token = self.by_token.get(&session.holder.token);
        let active = |(id, seen): &(&Tag, &i64)| {
            **id != session.id && now_unix_ms.saturating_sub(**seen) <= IDLE_MS
        };
        of_token.map_or(0, |of_token| of_token.iter().filter(active).count())
    }

    /// Whether a session is among those that are active.
    pub fn is_active(&self, session: &Session, now_unix_ms: i64) -> bool {
        let active = self.by_id.get(&session.id);
        active.is_some_and(|one| now_unix_ms.saturating_sub(one.listed.seen_unix_ms) <= IDLE_MS)
    }

    /// A session is over, by its viewer's word or by somebody else's.
    pub fn left(&mut self, id: &Tag) {
        let Some(active) = self.by_id.remove(id) else {
            return;
        };
        if let Some(of_token) = self.by_token.get_mut(&active.token) {
            of_token.remove(id);
            if of_token.is_empty() {
                self.by_token.remove(&active.token);
            }
        }
    }

    /// A token was taken back: its sessions are over.
    pub fn token_revoked(&mut self, token: &Tag) {
        for id in self.by_token.remove(token).unwrap_or_default().keys() {
            self.by_id.remove(id);
        }
    }

    /// How many watch now.
    pub fn count(&mut self, now_unix_ms: i64) -> usize {
        self.sweep(now_unix_ms);
        self.by_id.len()
    }

    /// Who watches now, the newest first.
    pub fn list(&mut self, now_unix_ms: i64) -> Vec<Listed> {
        self.sweep(now_unix_ms);
        let active = self.by_id.values().map(|active| active.listed.clone());
        let mut listed: Vec<Listed> = active
            .filter(|listed| now_unix_ms.saturating_sub(listed.seen_unix_ms) <= IDLE_MS)
            .collect();
        listed.sort_by_key(|listed| (std::cmp::Reverse(listed.begun_unix_ms), listed.id));
        listed
    }

    fn sweep(&mut self, now_unix_ms: i64) {
        // Once a second at most: a full sweep is some milliseconds with very many viewers.
        if (now_unix_ms - 1_000..=now_unix_ms).contains(&self.swept_unix_ms) {
            return;
        }
        self.swept_unix_ms = now_unix_ms;
        let active = |seen: i64| now_unix_ms.saturating_sub(seen) <= IDLE_MS;
        (self.by_id).retain(|_, session| active(session.listed.seen_unix_ms));
        self.by_token.retain(|_, of_token| {
            of_token.retain(|_, seen| active(*seen));
            !of_token.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::num::NonZeroU32;

    use protocol::token::Holder;

    use super::*;

    fn session(id: u8, token: &str, max: u32) -> Session {
        Session {
            id: Tag::from_bytes([id; 12]),
            holder: Holder {
                token: Tag::token("ghost-live", token),
                subject: Tag::subject("ghost-live", "anna"),
                issued: None,
            },
            begun_unix_ms: i64::from(id),
            ends_unix_ms: i64::MAX,
            max: NonZeroU32::new(max),
            ip: Vec::new(),
        }
    }

    fn about() -> Option<About> {
        Some(About {
            subject: Some("anna".to_owned()),
            jti: Some("a token".to_owned()),
            protocol: Protocol::Hls,
        })
    }

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn a_token_plays_on_as_many_devices_as_it_is_for_and_a_silent_one_makes_room() {
        let mut sessions = Sessions::default();
        let [one, two, three] = [1, 2, 3].map(|id| session(id, "a token", 2));
        assert_eq!(sessions.seen(&one, about(), None, HOME, 0), Ok(()));
        assert_eq!(sessions.seen(&two, about(), None, HOME, 10), Ok(()));
        assert_eq!(
            sessions.seen(&three, about(), None, HOME, 20),
            Err(NotOneMore::InUse(2))
        );
        assert_eq!(sessions.count(20), 2);
        let other = session(4, "another token", 1);
        assert_eq!(sessions.seen(&other, about(), None, HOME, 30), Ok(()));
        // Two goes on, one does not.
        assert_eq!(sessions.seen(&two, None, None, HOME, IDLE_MS), Ok(()));
        assert_eq!(
            sessions.seen(&three, about(), None, HOME, IDLE_MS),
            Err(NotOneMore::InUse(2))
        );
        assert_eq!(
            sessions.seen(&three, about(), None, HOME, IDLE_MS + 1),
            Ok(())
        );
        // One was paused: it comes back when there is room again, and not before.
        assert_eq!(
            sessions.seen(&one, None, None, HOME, IDLE_MS + 2),
            Err(NotOneMore::InUse(2))
        );
        sessions.left(&two.id);
        assert_eq!(sessions.seen(&one, None, None, HOME, IDLE_MS + 3), Ok(()));
        let listed = sessions.list(IDLE_MS + 3);
        let ids: Vec<Tag> = listed.iter().map(|listed| listed.id).collect();
        assert_eq!(ids, [other.id, three.id, one.id]);
        assert_eq!(listed[2].subject.as_deref(), Some("anna"));
    }

    #[test]
    fn sessions_of_before_a_restart_are_known_again_and_bound_as_before() {
        let mut sessions = Sessions::default();
        let [one, two] = [1, 2].map(|id| session(id, "a token", 1));
        assert_eq!(sessions.seen(&one, None, None, HOME, 0), Ok(()));
        assert_eq!(
            sessions.seen(&two, None, None, HOME, 0),
            Err(NotOneMore::InUse(1))
        );
        assert_eq!(sessions.list(0)[0].subject, None);
        assert_eq!(sessions.count(IDLE_MS + 1_000), 0);
        assert!(sessions.by_token.is_empty());
    }

    #[test]
    fn the_sessions_of_a_token_that_was_taken_back_are_over_at_once() {
        let mut sessions = Sessions::default();
        let [one, two] = [1, 2].map(|id| session(id, "a token", 2));
        let other = session(3, "another token", 1);
        for session in [&one, &two, &other] {
            assert_eq!(sessions.seen(session, about(), None, HOME, 0), Ok(()));
        }
        sessions.token_revoked(&one.holder.token);
        let listed = sessions.list(0);
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].id, other.id);
        assert_eq!(sessions.by_token.len(), 1);
    }

    #[test]
    fn a_stream_for_so_many_takes_no_more_and_those_who_watch_go_on() {
        let mut sessions = Sessions::default();
        let [one, two, three] = [1, 2, 3].map(|id| session(id, &format!("token {id}"), 0));
        for viewer in [&one, &two] {
            assert_eq!(sessions.seen(viewer, about(), Some(2), HOME, 0), Ok(()));
        }
        let full = Err(NotOneMore::Full);
        assert_eq!(sessions.seen(&three, about(), Some(2), HOME, 0), full);
        assert_eq!(sessions.seen(&one, None, Some(2), HOME, 10), Ok(()));
        sessions.left(&two.id);
        assert_eq!(sessions.seen(&three, about(), Some(2), HOME, 20), Ok(()));
        assert_eq!(sessions.seen(&two, None, Some(2), HOME, 30), full);
    }

    #[test]
    fn one_token_does_not_fill_the_list() {
        let mut sessions = Sessions::default();
        for n in 0..MAX_OF_TOKEN as u32 + 10 {
            let mut id = [0; 12];
            id[..4].copy_from_slice(&n.to_be_bytes());
            let session = Session {
                id: Tag::from_bytes(id),
                ..session(0, "a token", 0)
            };
            assert_eq!(sessions.seen(&session, about(), None, HOME, 0), Ok(()));
        }
        assert_eq!(sessions.count(0), MAX_OF_TOKEN);
    }
}
