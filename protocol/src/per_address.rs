//! How many connections an address has at one time: a bound that every listener needs, and that one subscriber must not step round.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Connections at one time by address; by /64 in IPv6, which is what one subscriber has (RFC 6177).
#[derive(Debug, Clone, Default)]
pub struct PerAddress(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection of an address; dropping it gives it back.
#[derive(Debug)]
pub struct OfAddress {
    counts: PerAddress,
    address: IpAddr,
}

/// The address has as many connections as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the address has as many connections as it may")]
pub struct Full;

impl PerAddress {
    /// Counts a connection in.
    ///
    /// # Errors
    /// [`Full`] when the address has `max` already.
    pub fn try_add(&self, address: IpAddr, max: usize) -> Result<OfAddress, Full> {
        let address = subscriber(address);
        let mut counts = self.lock();
        let count = counts.get(&address).copied().unwrap_or(0);
        if count >= max {
            return Err(Full);
        }
        counts.insert(address, count + 1);
        Ok(OfAddress {
            counts: self.clone(),
            address,
        })
    }

    /// As [`Self::try_add`], but who is of this machine or of a private network is not counted: a reverse proxy there is many peers behind
    /// one address.
    ///
    /// # Errors
    /// [`Full`] when the address has `max` already.
    pub fn try_add_far(&self, address: IpAddr, max: usize) -> Result<Option<OfAddress>, Full> {
        match is_near(address) {
            true => Ok(None),
            false => self.try_add(address, max).map(Some),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OfAddress {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        match counts.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.address)),
        }
    }
}

/// What stands for everybody who has this address: itself, and its /64 in IPv6, which is what one subscriber has (RFC 6177).
pub fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

/// Whether the address is of this machine or of a private network, where one address can be many peers: a reverse proxy's, a container
/// bridge's.
pub fn is_near(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_address_has_its_own_count_and_ipv6_has_one_a_64() {
        let counts = PerAddress::default();
        let of = |address: &str| counts.try_add(address.parse().unwrap(), 2);
        let first = of("2001:db8::1").unwrap();
        let _second = of("2001:db8::2").unwrap();
        assert_eq!(of("2001:db8::3").unwrap_err(), Full);
        assert!(of("2001:db8:0:1::3").is_ok());
        let _v4 = of("192.0.2.1").unwrap();
        assert!(of("::ffff:192.0.2.1").is_ok());
        drop(first);
        assert!(of("2001:db8::3").is_ok());
        assert_eq!(counts.lock().len(), 2);
    }

    #[test]
    fn a_reverse_proxy_nearby_has_no_limit() {
        let counts = PerAddress::default();
        for near in [
            "127.0.0.1",
            "::1",
            "10.1.2.3",
            "::ffff:192.168.0.1",
            "fd00::1",
            "fe80::1",
        ] {
            assert!(
                counts
                    .try_add_far(near.parse().unwrap(), 0)
                    .unwrap()
                    .is_none(),
                "{near}"
            );
        }
        for far in ["192.0.2.1", "2001:db8::1", "172.32.0.1"] {
            assert_eq!(
                counts.try_add_far(far.parse().unwrap(), 0).unwrap_err(),
                Full,
                "{far}"
            );
        }
    }
}
