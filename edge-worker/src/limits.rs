//! What streams and tenants may take at the most: the limits that a publisher is given, whether one more broadcast may begin, and whether
//! one more viewer may watch.
//!
//! A tenant is all streams whose names begin alike. What a tenant may have is in the configuration, beyond the reach of whoever manages
//! its streams; what a single stream may have is in the directory, and never widens it.

use protocol::{
    limits::Limits,
    names::StreamName,
    token::{Revocations, StreamPattern},
};
use serde::{Deserialize, Serialize};

use crate::{
    access::Issuer,
    directory::settings::{LimitsChange, SettingsError},
};

/// Most streams that a tenant has where the configuration says nothing else. Every edge holds the whole directory in memory.
pub const MAX_STREAMS: u32 = 1_000;
/// With so many revocations remembered of what a tenant, or a manager, has, no more streams are made there, of which each leaves one when
/// it is deleted. Every edge holds all of them.
pub const MAX_REVOCATIONS: usize = 50_000;
/// So many revocations of one stream, or of one pattern of streams, are followed by one of all.
pub const MAX_REVOCATIONS_A_STREAM: usize = 5_000;

/// What a tenant may take.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// What the names of its streams begin with.
    pub prefix: String,
    /// Its streams, live or not; [`MAX_STREAMS`] where nothing is said. Those that the configuration names are not refused.
    #[serde(default)]
    pub max_streams: Option<u32>,
    /// Its broadcasts that go on at a time, those included that wait for their encoder.
    #[serde(default)]
    pub max_broadcasts: Option<u32>,
    /// The viewers of all its streams together, at a time.
    #[serde(default)]
    pub max_viewers: Option<u32>,
    /// Each publisher's bit rate: as a stream's.
    #[serde(default)]
    pub max_bitrate_bps: Option<u64>,
    /// Each publisher's picture: as a stream's.
    #[serde(default)]
    pub max_height: Option<u32>,
    /// Each publisher's frame rate: as a stream's.
    #[serde(default)]
    pub max_fps: Option<u32>,
    /// Each broadcast's duration: as a stream's.
    #[serde(default)]
    pub max_duration_s: Option<u64>,
}

/// What somebody wrote for a tenant and cannot be one. The text is for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TenantError {
    /// Names cannot begin so.
    #[error(
        "prefix is {0:?}, which no stream's name begins with: use a-z, 0-9, '_' and '-', or \"\" for all"
    )]
    Prefix(String),
    /// A limit that is none.
    #[error(transparent)]
    Limit(#[from] SettingsError),
}

/// Why one more is one too many. The text is for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Of streams.
    #[error("there are as many streams as there may be here ({0}): delete one that is not needed")]
    Streams(u32),
    /// Of revocations.
    #[error(
        "as many streams were deleted here, or as much was taken back, as is remembered ({MAX_REVOCATIONS}): whoever runs this server has to make new ones"
    )]
    Revocations,
    /// Of broadcasts.
    #[error("as many streams are live as may be at a time here ({0}): end another one first")]
    Broadcasts(u32),
    /// Of viewers.
    #[error("as many are watching as may at a time here ({0}): try again later")]
    Viewers(u32),
}

impl Tenant {
    /// Whether it has that stream.
    pub fn has(&self, stream: &StreamName) -> bool {
        stream.as_str().starts_with(&self.prefix)
    }

    /// What each of its streams may take.
    fn each(&self) -> Limits {
        Limits {
            max_bitrate_bps: self.max_bitrate_bps,
            max_height: self.max_height,
            max_fps: self.max_fps,
            max_duration_s: self.max_duration_s,
            // Of all together.
            max_viewers: None,
        }
    }

    /// Looks for what can be read and yet cannot be.
    ///
    /// # Errors
    /// [`TenantError`].
    pub fn check(&self) -> Result<(), TenantError> {
        if !self.prefix.is_empty() && self.prefix.parse::<StreamName>().is_err() {
            return Err(TenantError::Prefix(self.prefix.clone()));
        }
        let limits = LimitsChange {
            max_bitrate_bps: Some(self.max_bitrate_bps),
            max_height: Some(self.max_height),
            max_fps: Some(self.max_fps),
            max_duration_s: Some(self.max_duration_s),
            max_viewers: Some(self.max_viewers),
        };
        Ok(limits.check()?)
    }
}

/// All tenants. A stream may be of several, such as of `""`, which is all: each of them bounds it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tenants(pub Vec<Tenant>);

impl Tenants {
    /// With those that have an issuer of their own and are not named: what they make is counted together as well, whoever of them makes it.
    #[must_use]
    pub fn with_issuers(mut self, issuers: &[Issuer]) -> Self {
        for Issuer { tenant, .. } in issuers {
            if !tenant.is_empty() && !self.0.iter().any(|known| known.prefix == *tenant) {
                self.0.push(Tenant {
                    prefix: tenant.clone(),
                    ..Tenant::default()
                });
            }
        }
        self
    }

    fn of(&self, stream: &StreamName) -> impl Iterator<Item = &Tenant> {
        self.0.iter().filter(move |tenant| tenant.has(stream))
    }

    /// The parts of the directory in which counts what a manager makes for these streams, with how many streams each may have: the tenants
    /// that have them, or all that the manager manages where none does. None for whoever manages everything.
    fn shares(&self, manager: &StreamPattern, made: &StreamPattern) -> Vec<(StreamPattern, u32)> {
        if manager.is_all() {
            return Vec::new();
        }
        // "" is no tenant among others: it bounds all of them where it says so.
        let bounds = |tenant: &&Tenant| !tenant.prefix.is_empty() || tenant.max_streams.is_some();
        let concerned = self.0.iter().filter(|tenant| made.within(&tenant.prefix));
        let shares = concerned.filter(bounds).filter_map(|tenant| {
            let streams = format!("{}*", tenant.prefix).parse().ok()?;
            Some((streams, tenant.max_streams.unwrap_or(MAX_STREAMS)))
        });
        let mut shares: Vec<(StreamPattern, u32)> = shares.collect();
        if shares.iter().all(|(streams, _)| streams.is_all()) {
            shares.push((manager.clone(), MAX_STREAMS));
        }
        shares
    }

    /// Whether somebody who manages these streams may make another beside those that there are.
    ///
    /// # Errors
    /// [`Full`]; also when no more revocations are remembered, of which a deleted stream leaves one.
    pub fn may_make<'a>(
        &self,
        manager: &StreamPattern,
        stream: &StreamName,
        streams: impl Iterator<Item = &'a StreamName> + Clone,
        revoked: &Revocations,
    ) -> Result<(), Full> {
        for (share, max) in self.shares(manager, &stream.clone().into()) {
            if streams.clone().filter(|other| share.covers(other)).count() >= max as usize {
                return Err(Full::Streams(max));
            }
            // Of all together the administrator alone could make room.
            if !share.is_all() && revoked.within(&share) >= MAX_REVOCATIONS {
                return Err(Full::Revocations);
            }
        }
        Ok(())
    }

    /// Of how many streams the database lets somebody who manages these make another: beginnings of names with how many.
    pub fn room(&self, manager: &StreamPattern, stream: &StreamName) -> Vec<(String, u32)> {
        let shares = self.shares(manager, &stream.clone().into()).into_iter();
        let bounds = shares.filter_map(|(share, max)| {
            // Of one name there is one at the most.
            Some((share.to_string().strip_suffix('*')?.to_owned(), max))
        });
        bounds.collect()
    }

    /// The streams of which all is taken back where somebody who manages `manager` takes back something of `streams`, and as much was taken
    /// back in that part of the directory as is remembered: what they manage of it, and nobody else's. `None` where there is room.
    pub fn folds(
        &self,
        manager: &StreamPattern,
        streams: &StreamPattern,
        revoked: &Revocations,
    ) -> Option<StreamPattern> {
        let full = |(share, _): &(StreamPattern, u32)| {
            !share.is_all() && revoked.within(share) >= MAX_REVOCATIONS
        };
        let (share, _) = self.shares(manager, streams).into_iter().find(full)?;
        Some(match manager.covers_all(&share) {
            true => share,
            false => manager.clone(),
        })
    }

    /// What a stream with these limits of its own may take.
    pub fn limits(&self, stream: &StreamName, own: Limits) -> Limits {
        self.of(stream)
            .fold(own, |limits, tenant| limits.and(tenant.each()))
    }

    /// The tenants of a stream that bound how many broadcasts go on, as beginnings of names with how many.
    pub fn broadcasts(&self, stream: &StreamName) -> impl Iterator<Item = (&str, u32)> {
        self.of(stream)
            .filter_map(|tenant| Some((tenant.prefix.as_str(), tenant.max_broadcasts?)))
    }

    /// Whether a broadcast of this stream may begin beside those of the streams that go on. One of its own, which it takes the place of,
    /// does not count.
    ///
    /// # Errors
    /// [`Full::Broadcasts`].
    pub fn may_begin<'a>(
        &self,
        stream: &StreamName,
        live: impl Iterator<Item = &'a StreamName> + Clone,
    ) -> Result<(), Full> {
        for (prefix, max) in self.broadcasts(stream) {
            let others = live.clone().filter(|other| *other != stream);
            let others = others.filter(|other| other.as_str().starts_with(prefix));
            if others.count() >= max as usize {
                return Err(Full::Broadcasts(max));
            }
        }
        Ok(())
    }

    /// Whether the viewers of a stream are counted: it, or a tenant that it belongs to, is for so many.
    pub fn count_viewers(&self, stream: &StreamName, own: &Limits) -> bool {
        own.max_viewers.is_some() || self.of(stream).any(|tenant| tenant.max_viewers.is_some())
    }

    /// Whether one more may watch a stream with these limits of its own. `watching` gives how many watch streams with names that begin
    /// so; `viewers` is how many watch this one.
    ///
    /// # Errors
    /// [`Full::Viewers`].
    pub fn may_watch(
        &self,
        stream: &StreamName,
        own: &Limits,
        viewers: u64,
        watching: impl Fn(&str) -> u64,
    ) -> Result<(), Full> {
        let full = |max: u32, now: u64| match now >= u64::from(max) {
            true => Err(Full::Viewers(max)),
            false => Ok(()),
        };
        if let Some(max) = own.max_viewers {
            full(max, viewers)?;
        }
        for tenant in self.of(stream) {
            if let Some(max) = tenant.max_viewers {
                full(max, watching(&tenant.prefix))?;
            }
        }
        Ok(())
    }
}

/// When a broadcast that began then has to end, Unix milliseconds.
pub fn ends_unix_ms(limits: &Limits, began_unix_ms: i64) -> Option<i64> {
    let longest = i64::try_from(limits.max_duration_s?).ok()?;
    Some(began_unix_ms.saturating_add(longest.saturating_mul(1_000)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use protocol::token::{Revocation, Revoked};

    use super::*;
    use crate::access::TakeBack;

    fn name(text: &str) -> StreamName {
        text.parse().unwrap()
    }

    fn tenants() -> Tenants {
        serde_json::from_str(
            r#"[{"prefix": "", "max_broadcasts": 3, "max_fps": 60},
                {"prefix": "acme-", "max_broadcasts": 1, "max_viewers": 5, "max_fps": 30, "max_duration_s": 60},
                {"prefix": "blue-", "max_broadcasts": 0}]"#,
        )
        .unwrap()
    }

    #[test]
    fn a_stream_is_bounded_by_itself_and_by_each_tenant_that_it_is_of() {
        let tenants = tenants();
        let own = Limits {
            max_fps: Some(50),
            ..Limits::default()
        };
        assert_eq!(tenants.limits(&name("acme-a"), own).max_fps, Some(30));
        assert_eq!(tenants.limits(&name("other"), own).max_fps, Some(50));
        let limits = tenants.limits(&name("acme-a"), own);
        assert_eq!(ends_unix_ms(&limits, 5), Some(60_005));
        assert_eq!(ends_unix_ms(&own, 5), None);
    }

    #[test]
    fn broadcasts_of_one_tenant_take_no_place_of_another_s() {
        let (tenants, a, b) = (tenants(), name("acme-a"), name("acme-b"));
        let (other, more) = (name("other"), name("more"));
        let may = |stream: &str, live: &[&StreamName]| {
            tenants.may_begin(&name(stream), live.iter().copied())
        };
        assert_eq!(may("acme-a", &[&other]), Ok(()));
        assert_eq!(may("acme-a", &[&b]), Err(Full::Broadcasts(1)));
        // It takes its own place.
        assert_eq!(may("acme-a", &[&a]), Ok(()));
        assert_eq!(may("blue-a", &[]), Err(Full::Broadcasts(0)));
        assert_eq!(may("fresh", &[&a, &other]), Ok(()));
        assert_eq!(may("fresh", &[&a, &other, &more]), Err(Full::Broadcasts(3)));
    }

    #[test]
    fn viewers_are_bounded_by_stream_and_by_all_of_a_tenant() {
        let tenants = tenants();
        let own = Limits {
            max_viewers: Some(2),
            ..Limits::default()
        };
        let watching = |prefix: &str| if prefix == "acme-" { 4 } else { 100 };
        let may = |stream: &str, own: &Limits, viewers| {
            tenants.may_watch(&name(stream), own, viewers, watching)
        };
        assert_eq!(may("acme-a", &own, 1), Ok(()));
        assert_eq!(may("acme-a", &own, 2), Err(Full::Viewers(2)));
        assert_eq!(may("other", &Limits::default(), 1_000), Ok(()));
        let full = tenants.may_watch(&name("acme-a"), &own, 0, |_| 5);
        assert_eq!(full, Err(Full::Viewers(5)));
    }

    #[test]
    fn a_manager_makes_as_many_streams_as_the_tenant_has_and_an_administrator_any() {
        let tenants = r#"[{"prefix": "", "max_fps": 60}, {"prefix": "acme-", "max_streams": 2}]"#;
        let tenants: Tenants = serde_json::from_str(tenants).unwrap();
        let there = [name("acme-a"), name("acme-b"), name("other")];
        let may = |manager: &str, made: &str, there: &[StreamName]| {
            let (manager, made) = (manager.parse().unwrap(), name(made));
            tenants.may_make(&manager, &made, there.iter(), &Revocations::default())
        };
        assert_eq!(may("acme-*", "acme-c", &there[1..]), Ok(()));
        assert_eq!(may("acme-*", "acme-c", &there), Err(Full::Streams(2)));
        // Whoever was given a narrower token by the tenant has no room of their own.
        assert_eq!(may("acme-c", "acme-c", &there), Err(Full::Streams(2)));
        assert_eq!(may("*", "acme-c", &there), Ok(()));
        // Where there is no tenant, what the manager manages is one.
        let many = |index: u32| name(&format!("blue-{index}"));
        let many: Vec<StreamName> = (0..MAX_STREAMS).map(many).collect();
        let full = Err(Full::Streams(MAX_STREAMS));
        assert_eq!(may("blue-*", "blue-x", &many), full);
        assert_eq!(may("blue-*", "blue-x", &many[1..]), Ok(()));
        assert_eq!(may("acme-*", "acme-x", &many), Ok(()));
        let all = r#"[{"prefix": "", "max_streams": 3}]"#;
        let all: Tenants = serde_json::from_str(all).unwrap();
        let (manager, made) = ("blue-*".parse().unwrap(), name("blue-x"));
        let full = all.may_make(&manager, &made, there.iter(), &Revocations::default());
        assert_eq!(full, Err(Full::Streams(3)));
    }

    #[test]
    fn a_tenant_that_deletes_without_end_makes_no_more_streams_and_another_does() {
        let tenants: Tenants = serde_json::from_str(r#"[{"prefix": "acme-"}]"#).unwrap();
        let token = |index: usize| Revocation {
            what: Revoked::Token {
                iss: "ghost-live".to_owned(),
                jti: index.to_string(),
            },
            streams: "acme-a".parse().unwrap(),
            at_unix_ms: 0,
            until_unix_ms: None,
        };
        let mut revoked: Revocations = (1..MAX_REVOCATIONS).map(token).collect();
        let may = |manager: &str, made: &str, revoked: &Revocations| {
            let manager = manager.parse().unwrap();
            tenants.may_make(&manager, &name(made), [].iter(), revoked)
        };
        assert_eq!(may("acme-*", "acme-b", &revoked), Ok(()));
        revoked.add(token(0));
        for manager in ["acme-*", "acme-b*", "a*"] {
            let full = may(manager, "acme-b", &revoked);
            assert_eq!(full, Err(Full::Revocations), "{manager}");
        }
        for (manager, made) in [("blue-*", "blue-b"), ("*", "acme-b"), ("axel", "axel")] {
            assert_eq!(may(manager, made, &revoked), Ok(()), "{manager}");
        }
    }

    #[test]
    fn where_much_was_taken_back_the_next_takes_back_all_that_its_bearer_manages_there() {
        let tenants: Tenants = serde_json::from_str(r#"[{"prefix": "acme-"}]"#).unwrap();
        let all = |index: usize| Revocation {
            what: Revoked::All,
            streams: format!("acme-{index}").parse().unwrap(),
            at_unix_ms: 0,
            until_unix_ms: None,
        };
        let mut revoked: Revocations = (1..MAX_REVOCATIONS).map(all).collect();
        let token = |streams: &str| TakeBack {
            what: Revoked::Token {
                iss: "ghost-live".to_owned(),
                jti: "a".to_owned(),
            },
            streams: streams.parse().unwrap(),
        };
        let folded = |manager: &str, streams: &str, revoked: &Revocations| {
            token(streams).folded(&manager.parse().unwrap(), &tenants, revoked)
        };
        let room = folded("acme-*", "acme-new", &revoked);
        assert_eq!(room, token("acme-new"));
        revoked.extend([all(0)]);
        for (manager, streams, folds) in [
            ("acme-*", "acme-new", "acme-*"),
            // Of what is not the tenant's nothing is lost.
            ("a*", "acme-new*", "acme-*"),
            // Nor of what whoever asks does not manage.
            ("acme-b*", "acme-b1", "acme-b*"),
            ("acme-a", "acme-a", "acme-a"),
        ] {
            let folded = folded(manager, streams, &revoked);
            assert_eq!(folded.what, Revoked::All, "{manager}");
            assert_eq!(folded.streams, folds.parse().unwrap(), "{manager}");
        }
        for (manager, streams) in [("blue-*", "blue-b"), ("*", "acme-b"), ("a*", "a*")] {
            let (asked, folded) = (token(streams), folded(manager, streams, &revoked));
            // What is wider than the tenant is a share of its own.
            match manager {
                "a*" => assert_eq!(folded.streams, asked.streams),
                _ => assert_eq!(folded, asked, "{manager}"),
            }
        }
        // It makes the list short again, and is then the one that is made later.
        for at_unix_ms in [20_000, 20_001] {
            let folded = folded("acme-*", "acme-other", &revoked);
            let taken_back = folded.revocation(at_unix_ms);
            revoked.add(taken_back);
        }
        assert_eq!(revoked.len(), 2);
    }

    #[test]
    fn a_tenant_that_cannot_be_is_refused() {
        let tenant = |text: &str| serde_json::from_str::<Tenant>(text).unwrap().check();
        assert_eq!(tenant(r#"{"prefix": "acme-"}"#), Ok(()));
        assert_eq!(tenant(r#"{"prefix": ""}"#), Ok(()));
        for bad in [r#"{"prefix": "Acme-"}"#, r#"{"prefix": "a", "max_fps": 0}"#] {
            assert!(tenant(bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Tenant>(r#"{"prefix": "a", "max_smell": 1}"#).is_err());
    }
}
