//! How often an address, a token or a playback session may ask: a token bucket each, kept as the one time at which it is full again (GCRA, the
//! generic cell rate algorithm of ITU-T I.371).
//!
//! Memory is what it was made with. A newcomer takes the place of whoever of its set is nearest to a full bucket, and so loses the least by
//! being forgotten: an attacker with many addresses gains no more than each of them has anyway.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use protocol::per_address::subscriber;
use serde::{Deserialize, Serialize};

/// So many a second for as long as one likes, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Requests a second in the long run; 0 is no limit.
    pub per_s: u32,
    /// Requests at once after a quiet time.
    pub burst: u32,
}

impl Rate {
    /// No limit.
    pub const NONE: Self = Self::new(0, 0);

    const fn new(per_s: u32, burst: u32) -> Self {
        Self { per_s, burst }
    }
}

/// The rates of one address (one /64 in IPv6), and those of one session and of one token.
///
/// The defaults let 200 viewers behind one address of a carrier watch, start at the same moment, and change the rendition: a low-latency HLS
/// player asks 12 times a second for playlists and media, opens some 15 files with a page, sends a beacon every 15 s, and asks twice a
/// minute what is live. With one token 10,000 may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    /// Pages, their files, and addresses that there are not.
    pub pages: Rate,
    /// Playlists, manifests and media.
    pub media: Rate,
    /// Playlists and segments of one playback session, whatever its address.
    pub session: Rate,
    /// Playback sessions that begin: each may take a place of a stream that is for so many, and a webhook's time.
    pub begin: Rate,
    /// Playback sessions that begin with one token, whatever their addresses.
    pub begin_token: Rate,
    /// What is live, the time, the public keys.
    pub api: Rate,
    /// The same with one token, whatever the addresses.
    pub api_token: Rate,
    /// Beacons.
    pub beacons: Rate,
    /// The studio, tokens, and whatever else needs a secret: of an address, and of a token as well.
    pub manage: Rate,
    /// Wrong keys, tokens and secrets of publishers, owners and boxes.
    pub failures: Rate,
    /// Wrong tokens of viewers.
    pub watch_failures: Rate,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            pages: Rate::new(150, 4_000),
            media: Rate::new(5_000, 15_000),
            session: Rate::new(60, 300),
            begin: Rate::new(10, 300),
            begin_token: Rate::new(200, 5_000),
            api: Rate::new(100, 1_000),
            api_token: Rate::new(400, 10_000),
            beacons: Rate::new(40, 600),
            manage: Rate::new(20, 200),
            failures: Rate::new(1, 60),
            watch_failures: Rate::new(20, 400),
        }
    }
}

/// What a bucket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kept {
    Pages,
    Media,
    Session,
    Begin,
    BeginToken,
    Api,
    ApiBearer,
    Beacons,
    Manage,
    Bearer,
    Failures,
    WatchFailures,
}

/// A bucket of a set that has eight.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Whose it is: a keyed hash, so that nobody can look for two that have the same.
    owner: u64,
    /// When it is full again, nanoseconds; past is full.
    full_at_ns: u64,
}

const WAYS: usize = 8;
/// Locks, so that requests on many cores seldom wait for one another.
const SHARDS: usize = 16;

/// All buckets there are.
#[derive(Debug)]
pub(super) struct Buckets {
    hashes: RandomState,
    seed: [u8; 16],
    shards: Vec<Mutex<Vec<[Slot; WAYS]>>>,
}

impl Buckets {
    pub(super) fn new(slots: usize, seed: [u8; 16]) -> Self {
        let sets = (slots / (SHARDS * WAYS)).max(1);
        let shard = || Mutex::new(vec![[Slot::default(); WAYS]; sets]);
        Self {
            hashes: RandomState::new(),
            seed,
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
        }
    }

    /// Takes one from the bucket of an address.
    ///
    /// # Errors
    /// How long it is until there is one again.
    pub(super) fn take(
        &self,
        kept: Kept,
        address: IpAddr,
        rate: Rate,
        now: Duration,
    ) -> Result<(), Duration> {
        self.ask(&(kept, subscriber(address)), rate, now, true)
    }

    /// Takes one from the bucket of a session or a token.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub(super) fn take_of(
        &self,
        kept: Kept,
        name: &str,
        rate: Rate,
        now: Duration,
    ) -> Result<(), Duration> {
        self.ask(&(kept, name), rate, now, true)
    }

    /// Whether there is one in the bucket of an address.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub(super) fn look(
        &self,
        kept: Kept,
        address: IpAddr,
        rate: Rate,
        now: Duration,
    ) -> Result<(), Duration> {
        self.ask(&(kept, subscriber(address)), rate, now, false)
    }

    fn ask(
        &self,
        whose: &impl Hash,
        rate: Rate,
        now: Duration,
        take: bool,
    ) -> Result<(), Duration> {
        if rate.per_s == 0 {
            return Ok(());
        }
        let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let each_ns = 1_000_000_000 / u64::from(rate.per_s);
        // A bucket holds one at the least.
        let most_ns = each_ns * u64::from(rate.burst.max(1));
        let hash = self.hashes.hash_one((self.seed, whose));
        // An empty slot's owner is 0.
        let owner = hash | 1;
        // `SHARDS` is a power of two, and the bits above are spread over the sets.
        let shard = &self.shards[(hash >> 32) as usize % SHARDS];
        let mut sets = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (hash >> 36) as usize % sets.len();
        let set = &mut sets[at];
        let known = set.iter().position(|slot| slot.owner == owner);
        let kept_ns = known.map_or(0, |at| set[at].full_at_ns);
        // Beyond an empty bucket lies only what a clock said before it was set back: nobody has to wait for it.
        let full_at_ns = match kept_ns > now_ns.saturating_add(most_ns) {
            true => now_ns,
            false => kept_ns.max(now_ns),
        };
        let after_ns = full_at_ns.saturating_add(each_ns);
        if let Some(over_ns) = after_ns
            .checked_sub(now_ns.saturating_add(most_ns))
            .filter(|over| *over > 0)
        {
            return Err(Duration::from_nanos(over_ns));
        }
        if take {
            let nearest_to_full = || {
                let slots = set.iter().enumerate();
                slots.min_by_key(|(_, slot)| slot.full_at_ns)
            };
            let at = known.or_else(|| nearest_to_full().map(|(at, _)| at));
            set[at.unwrap_or(0)] = Slot {
                owner,
                full_at_ns: after_ns,
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate::new(10, 5);

    fn buckets(slots: usize) -> Buckets {
        Buckets::new(slots, [7; 16])
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_then_the_rate_and_the_wait_that_is_told_is_long_enough() {
        let buckets = buckets(1_024);
        let take = |now| buckets.take(Kept::Api, at("192.0.2.1"), RATE, now);
        for _ in 0..5 {
            assert_eq!(take(ms(1_000)), Ok(()));
        }
        assert_eq!(take(ms(1_000)), Err(ms(100)));
        assert_eq!(take(ms(1_060)), Err(ms(40)));
        assert_eq!(take(ms(1_100)), Ok(()));
        assert_eq!(take(ms(1_100)), Err(ms(100)));
        // A refusal costs nothing, and what is full is no more than full.
        let late = (0..20).filter(|_| take(ms(60_000)).is_ok()).count();
        assert_eq!(late, 5);
    }

    #[test]
    fn each_subscriber_and_each_purpose_has_its_own_bucket() {
        let buckets = buckets(1_024);
        let one = Rate::new(1, 1);
        let take = |kept, address: &str| buckets.take(kept, at(address), one, ms(0)).is_ok();
        assert!(take(Kept::Api, "2001:db8::1"));
        assert!(!take(Kept::Api, "2001:db8::2"), "the same /64");
        assert!(take(Kept::Api, "2001:db8:0:1::2"));
        assert!(take(Kept::Media, "2001:db8::1"));
        assert!(take(Kept::Api, "192.0.2.1"));
        assert!(!take(Kept::Api, "::ffff:192.0.2.1"));
        assert!(buckets.take_of(Kept::Bearer, "a", one, ms(0)).is_ok());
        assert!(buckets.take_of(Kept::Bearer, "b", one, ms(0)).is_ok());
        assert!(buckets.take_of(Kept::Bearer, "a", one, ms(0)).is_err());
    }

    #[test]
    fn a_rate_of_0_is_no_limit_and_looking_takes_nothing() {
        let buckets = buckets(1_024);
        let address = at("192.0.2.1");
        for _ in 0..1_000 {
            assert!(buckets.take(Kept::Api, address, Rate::NONE, ms(0)).is_ok());
            assert!(buckets.look(Kept::Api, address, RATE, ms(0)).is_ok());
        }
    }

    #[test]
    fn a_clock_that_goes_back_locks_nobody_out() {
        let buckets = buckets(1_024);
        let take = |now| buckets.take(Kept::Api, at("192.0.2.1"), RATE, now);
        assert!(take(ms(3_600_000)).is_ok());
        assert!(take(ms(0)).is_ok());
    }

    #[test]
    fn a_flood_of_addresses_neither_grows_it_nor_frees_who_is_over_the_rate() {
        let buckets = buckets(4_096);
        let size = |buckets: &Buckets| {
            let shards = buckets.shards.iter();
            shards
                .map(|shard| shard.lock().unwrap().capacity() * WAYS)
                .sum::<usize>()
        };
        let before = size(&buckets);
        assert_eq!(before, 4_096);
        let heavy = at("192.0.2.1");
        let slow = Rate::new(1, 60);
        while buckets.take(Kept::Failures, heavy, slow, ms(0)).is_ok() {}
        // One request of each of many /64 in a /32.
        for subnet in 0_u128..200_000 {
            let address = 0x2001_0db8_u128 << 96 | subnet << 64;
            let address = IpAddr::V6(address.into());
            let _ = buckets.take(Kept::Failures, address, slow, ms(1));
        }
        assert_eq!(size(&buckets), before);
        assert!(buckets.look(Kept::Failures, heavy, slow, ms(2)).is_err());
    }

    proptest! {
        #[test]
        fn no_more_are_let_in_than_burst_and_rate(
            steps in proptest::collection::vec(0_u64..300, 1..200),
            per_s in 1_u32..50,
            burst in 0_u32..20,
        ) {
            let buckets = buckets(256);
            let rate = Rate::new(per_s, burst);
            let (mut now, mut taken) = (0, 0_u64);
            for step in steps {
                now += step;
                match buckets.take(Kept::Api, at("192.0.2.1"), rate, ms(now)) {
                    Ok(()) => taken += 1,
                    Err(wait) => {
                        prop_assert!(wait > Duration::ZERO);
                        // Whoever waits as told is let in.
                        prop_assert!(buckets.look(Kept::Api, at("192.0.2.1"), rate, ms(now) + wait).is_ok());
                    }
                }
            }
            // A nanosecond of rounding in a second of the rate.
            let most = u64::from(burst.max(1)) + now * u64::from(per_s) / 1_000 + 1;
            prop_assert!(taken <= most, "{} of {}", taken, most);
        }
    }
}
