//! Who may come at all, and how often: what is decided before anybody is asked for a key.
//!
//! | module | what it decides |
//! | --- | --- |
//! | [`client`] | whose request it is, behind proxies that are trusted |
//! | [`rules`] | from which addresses one may publish, watch or manage |
//! | [`rates`] | how often an address, a token or a playback session may ask |
//! | [`origins`] | which other sites may embed the player, and read what is public |
//!
//! [`Guard`] joins them, and has them ready for both adapters. Time is an argument, and its memory is what it was made with, whoever comes.

pub mod client;
pub mod origins;
pub mod rates;
pub mod rules;

use std::{net::IpAddr, time::Duration};

pub use client::{Client, Proxies, ProxyHeader};
use http::StatusCode;
pub use origins::Origins;
pub use rates::{Rate, Rates};
pub use rules::{Rule, Rules};

use self::rates::{Buckets, Kept};
use crate::{
    directory::{Refusal, bearer},
    routes::{Page, Pass, Problem, Route, Session},
};

/// What an address may be limited for. The routes of one class have one rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Pages and their files, addresses that there are not, and what else costs next to nothing.
    Pages,
    /// Playlists, manifests and media, and WebRTC signaling.
    Media,
    /// What is live, how late it is, the keys of tokens.
    Api,
    /// Beacons of players.
    Beacons,
    /// The studio, and whatever else needs a secret or a token.
    Manage,
    /// A box's questions: proved with the link secret, and never too many.
    Box,
}

/// What one comes for: each has its own list of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Watch,
    Manage,
    /// Files that every page needs, the boxes, health: no list applies.
    Open,
}

fn class(route: &Route) -> (Class, Door) {
    match route {
        Route::Page(Page::Studio, _) => (Class::Pages, Door::Manage),
        Route::Page(Page::Home | Page::Watch | Page::Embed, _) => (Class::Pages, Door::Watch),
        Route::Asset(_) | Route::Health | Route::Ready | Route::Preflight { .. } => {
            (Class::Pages, Door::Open)
        }
        Route::Multivariant(_)
        | Route::Dash(_)
        | Route::Media(..)
        | Route::Segment(..)
        | Route::Object(_)
        | Route::Whep(_)
        | Route::WhepPatch(_)
        | Route::WhepLeave(_) => (Class::Media, Door::Watch),
        Route::Streams | Route::Stream(_) | Route::Time { .. } => (Class::Api, Door::Watch),
        Route::Jwks | Route::OpenApi => (Class::Api, Door::Open),
        Route::Beacon(_) => (Class::Beacons, Door::Watch),
        Route::Studio(_)
        | Route::RotateKey(_)
        | Route::CreateStream
        | Route::ChangeStream(_)
        | Route::DeleteStream(_)
        | Route::NewKey(_)
        | Route::LogOut(_)
        | Route::Tokens
        | Route::Revocations
        | Route::Sessions(_)
        | Route::EndSession(..)
        | Route::Links(_)
        | Route::DeleteLink(..)
        | Route::DeadLetters
        | Route::Resend(_) => (Class::Manage, Door::Manage),
        Route::Admit
        | Route::Configure(_)
        | Route::Open
        | Route::Link(_)
        | Route::Put(_)
        | Route::PutStream(_)
        | Route::Delete(_) => (Class::Box, Door::Open),
    }
}

/// What a request shows of whoever sends it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shown<'a> {
    /// The secret, token or session that it brings.
    pub secret: Option<&'a str>,
    /// A page of another site made a browser send it.
    pub by_another_site: bool,
}

impl<'a> Shown<'a> {
    /// By its query, its `Authorization` and its `Sec-Fetch-Site` (Fetch Metadata Request Headers), which no script can set.
    pub fn of(
        query: Option<&'a str>,
        authorization: Option<&'a str>,
        sec_fetch_site: Option<&str>,
    ) -> Self {
        Self {
            // However the scheme is spelled, it is one secret.
            secret: bearer(authorization)
                .or(authorization)
                .or_else(|| Pass::shown(query)),
            by_another_site: sec_fetch_site.is_some_and(|site| site.contains("site")),
        }
    }
}

/// What it may be kept from before anybody looks at it, but for coming too often.
pub(crate) fn kept_from(route: &Route) -> Vec<Problem> {
    let (class, door) = class(route);
    let address = (door != Door::Open).then(Problem::address);
    let site = (class == Class::Manage).then(Problem::other_site);
    address.into_iter().chain(site).collect()
}

/// Where wrong keys and tokens are counted.
fn failures(route: &Route) -> Option<Kept> {
    match (route, class(route).0) {
        (
            Route::Multivariant(_)
            | Route::Dash(_)
            | Route::Whep(_)
            | Route::Streams
            | Route::Stream(_),
            _,
        ) => Some(Kept::WatchFailures),
        (_, Class::Manage | Class::Box) => Some(Kept::Failures),
        _ => None,
    }
}

/// What stands before every public address, and before every publisher.
#[derive(Debug)]
pub struct Guard {
    proxies: Proxies,
    rules: Rules,
    rates: Rates,
    buckets: Buckets,
}

impl Guard {
    /// Remembers `slots` addresses, tokens and sessions at the most (16 bytes each, all of them at once), under a random `seed` that nobody
    /// else knows.
    pub fn new(proxies: Proxies, rules: Rules, rates: Rates, slots: usize, seed: [u8; 16]) -> Self {
        Self {
            proxies,
            rules,
            rates,
            buckets: Buckets::new(slots, seed),
        }
    }

    /// Whose request it is.
    pub fn client(&self, peer: IpAddr, headers: &http::HeaderMap) -> Client {
        self.proxies.client(peer, headers)
    }

    /// Whether the address is a reverse proxy's that is listed.
    pub fn is_proxy(&self, peer: IpAddr) -> bool {
        self.proxies.lists(peer)
    }

    /// Lets a request in, or not. `route` is `None` where there is no such address.
    ///
    /// # Errors
    /// A [`Problem`]: 403 where the address is not let in, or another site's page sends what is not for it; 429 where it comes too often.
    pub fn enter(
        &self,
        route: Option<&Route>,
        client: Client,
        shown: &Shown<'_>,
        now: Duration,
    ) -> Result<(), Problem> {
        let (class, door) = route.map_or((Class::Pages, Door::Open), class);
        // Before anything is counted: else every page that a streamer visits could use up what their address may.
        if class == Class::Manage && shown.by_another_site {
            return Err(Problem::other_site());
        }
        let allowed = match door {
            Door::Watch => self.rules.watch.allows(client.address),
            Door::Manage => self.rules.manage.allows(client.address),
            Door::Open => true,
        };
        if !allowed {
            return Err(Problem::address());
        }
        if client.may_be_many {
            return Ok(());
        }
        let address = client.address;
        let (kept, rate) = match class {
            Class::Pages => (Kept::Pages, self.rates.pages),
            Class::Media => (Kept::Media, self.rates.media),
            Class::Api => (Kept::Api, self.rates.api),
            Class::Beacons => (Kept::Beacons, self.rates.beacons),
            Class::Manage => (Kept::Manage, self.rates.manage),
            Class::Box => (Kept::Failures, Rate::NONE),
        };
        let asked = self.buckets.take(kept, address, rate, now).and_then(|()| {
            match route {
                Some(Route::Media(address, _) | Route::Segment(address, _))
                    if address.session != Session::public() =>
                {
                    let session = address.session.as_str();
                    self.buckets
                        .take_of(Kept::Session, session, self.rates.session, now)?;
                }
                Some(Route::WhepPatch(address) | Route::WhepLeave(address)) => {
                    let session = address.session.as_str();
                    self.buckets
                        .take_of(Kept::Session, session, self.rates.session, now)?;
                }
                _ => {}
            }
            let of_bearer = match class {
                Class::Manage => Some((Kept::Bearer, self.rates.manage)),
                Class::Api => Some((Kept::ApiBearer, self.rates.api_token)),
                _ => None,
            };
            if let (Some((kept, rate)), Some(bearer)) = (of_bearer, shown.secret) {
                self.buckets.take_of(kept, bearer, rate, now)?;
            }
            // Who shows no secret is not kept from what takes none.
            match route.and_then(failures).filter(|_| shown.secret.is_some()) {
                Some(kept) => (self.buckets).look(kept, address, self.failure_rate(kept), now),
                None => Ok(()),
            }
        });
        asked.map_err(Problem::too_often)
    }

    /// Lets a playback session begin, or not; with `token`, where it begins with one.
    ///
    /// # Errors
    /// A [`Problem`]: 429 where too many do.
    pub fn begins(
        &self,
        client: Client,
        token: Option<&str>,
        now: Duration,
    ) -> Result<(), Problem> {
        if let Some(token) = token {
            let rate = self.rates.begin_token;
            let taken = self.buckets.take_of(Kept::BeginToken, token, rate, now);
            taken.map_err(Problem::too_often)?;
        }
        if client.may_be_many {
            return Ok(());
        }
        let (address, rate) = (client.address, self.rates.begin);
        let taken = self.buckets.take(Kept::Begin, address, rate, now);
        taken.map_err(Problem::too_often)
    }

    /// Takes note of how a request that was let in ended: one that showed a wrong key or token counts against its address.
    pub fn answered(
        &self,
        route: &Route,
        client: Client,
        shown: &Shown<'_>,
        status: StatusCode,
        now: Duration,
    ) {
        // What is good and not for this is no guess: that is a 403. Nor is what a page of another site sends from its visitor's address.
        let wrong = status == StatusCode::UNAUTHORIZED
            && shown.secret.is_some()
            && !shown.by_another_site
            && !client.may_be_many;
        if let Some(kept) = failures(route).filter(|_| wrong) {
            let rate = self.failure_rate(kept);
            // Beyond the rate there is nothing left to take.
            let _ = self.buckets.take(kept, client.address, rate, now);
        }
    }

    fn failure_rate(&self, kept: Kept) -> Rate {
        match kept {
            Kept::WatchFailures => self.rates.watch_failures,
            _ => self.rates.failures,
        }
    }

    /// Whether a publisher of that address (`address:port`, or an address alone) may bring its key.
    ///
    /// # Errors
    /// [`Refusal::Address`], and [`Refusal::TooOften`] after too many wrong keys.
    pub fn publisher(&self, peer: &str, now: Duration) -> Result<(), Refusal> {
        let address = client::address(peer);
        match address {
            Some(address) if self.rules.publish.allows(address) => {}
            // Whose address is not known comes from none that is listed.
            None if self.rules.publish.is_empty() => return Ok(()),
            _ => return Err(Refusal::Address),
        }
        match address.filter(|address| !protocol::per_address::is_near(*address)) {
            Some(address) => self
                .buckets
                .look(Kept::Failures, address, self.rates.failures, now)
                .map_err(|_| Refusal::TooOften),
            None => Ok(()),
        }
    }

    /// A publisher's key or token was wrong.
    pub fn publisher_failed(&self, peer: &str, now: Duration) {
        let far = |address: &IpAddr| !protocol::per_address::is_near(*address);
        if let Some(address) = client::address(peer).filter(far) {
            let _ = self
                .buckets
                .take(Kept::Failures, address, self.rates.failures, now);
        }
    }
}

#[cfg(test)]
mod tests;
