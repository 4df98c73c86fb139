//! What was taken back before its time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Grant, Refusal, Seconds};
use crate::names::StreamName;

/// What is taken back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// All tokens so far, where they are for this stream.
    Stream(StreamName),
}

/// A revocation, as it is kept and as it crosses the links. Told twice it is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// What.
    pub what: Revoked,
    /// When, Unix milliseconds: tokens of a subject or for a stream that are issued later are good.
    pub at_unix_ms: i64,
    /// From when on it need not be remembered, Unix milliseconds: no token that it is about can be used any more. `None`: always.
    pub until_unix_ms: Option<i64>,
}

/// All revocations that are still of use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations(BTreeMap<Revoked, (i64, Option<i64>)>);

impl Revocations {
    /// Takes one in. Also whether it is news.
    pub fn add(&mut self, revocation: Revocation) -> bool {
        let Revocation {
            what,
            at_unix_ms,
            until_unix_ms,
        } = revocation;
        // `None` is for always, and sorts first.
        let longer = |a: Option<i64>, b: Option<i64>| Some(a?.max(b?));
        match self.0.get_mut(&what) {
            None => {
                self.0.insert(what, (at_unix_ms, until_unix_ms));
                true
            }
            Some(known) => {
                let now = (known.0.max(at_unix_ms), longer(known.1, until_unix_ms));
                std::mem::replace(known, now) != now
            }
        }
    }

    /// Forgets those that are of no use any more.
    pub fn forget(&mut self, now_unix_ms: i64) {
        self.0
            .retain(|_, (_, until)| until.is_none_or(|until| until > now_unix_ms));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether what was granted was taken back, for this stream.
    ///
    /// # Errors
    /// [`Refusal::Revoked`].
    pub fn refuse(&self, grant: &Grant, stream: &StreamName) -> Result<(), Refusal> {
        let claims = grant.claims();
        let (iss, jti, sub) = (&claims.iss, &claims.jti, &claims.sub);
        let token = Revoked::Token {
            iss: iss.clone(),
            jti: jti.clone(),
        };
        let subject = Revoked::Subject {
            iss: iss.clone(),
            sub: sub.clone(),
        };
        // Issued within the second of the revocation is taken back too: which came first is not known.
        let before = |at: i64| (claims.iat).is_none_or(|iat| iat <= Seconds::of_unix_ms(at));
        let revoked = self.0.contains_key(&token)
            || [subject, Revoked::Stream(stream.clone())]
                .iter()
                .any(|what| self.0.get(what).is_some_and(|(at, _)| before(*at)));
        if revoked {
            return Err(Refusal::Revoked);
        }
        Ok(())
    }
}
