//! Where a webhook may lead: to the public internet, and into private networks only where the configuration names them.
//!
//! A webhook's address is a way for whoever can set it, or answers for its name, to make the edge ask things of its own network (SSRF):
//! a machine's loopback, a router, a cloud's metadata service. So the name is resolved once, each address is checked, and the connection
//! goes to an address that was checked. Redirects are never followed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What is not the public internet in IPv4: the special-purpose registry of IANA (RFC 6890) without what is globally reachable, and the
/// one metadata address that lies outside of it.
const REFUSED_V4: [(Ipv4Addr, u8, &str); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, "this network"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "a private network"),
    (
        Ipv4Addr::new(100, 64, 0, 0),
        10,
        "a provider's network (CGNAT)",
    ),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "this machine"),
    (
        Ipv4Addr::new(168, 63, 129, 16),
        32,
        "a cloud's metadata service",
    ),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "a private network"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "reserved"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "for documentation"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "a relay to IPv6"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "a private network"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "for benchmarks"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "for documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "for documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];

/// What is public in IPv6: global unicast, as far as IANA has given it out.
const PUBLIC_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// What within that is not, or carries an IPv4 address in it.
const REFUSED_V6: [(Ipv6Addr, u8, &str); 4] = [
    (
        Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0),
        23,
        "reserved, or a tunnel",
    ),
    (
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0),
        32,
        "for documentation",
    ),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, "a tunnel"),
    (
        Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0),
        20,
        "for documentation",
    ),
];

/// Ends of names that no public name server answers for, or that a cloud answers with its metadata service.
const PRIVATE_SUFFIXES: [&str; 8] = [
    "localhost",
    "local",
    "internal",
    "intranet",
    "lan",
    "home",
    "corp",
    "arpa",
];

/// An address that no webhook may lead to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{address} is {kind}, not the public internet: name its network in allow_networks if the webhook shall lead there"
)]
pub struct Forbidden {
    address: String,
    kind: &'static str,
}

/// Whether a webhook may lead to this address: it is public, or the configuration names its network. An IPv4 address in IPv6's clothes
/// (mapped or translated) is refused, whatever it is, unless the configuration names it as it is written.
///
/// # Errors
/// [`Forbidden`].
pub fn check(address: IpAddr, allowed: &[IpNet]) -> Result<(), Forbidden> {
    if allowed.iter().any(|net| net.contains(&address)) {
        return Ok(());
    }
    match refused(address) {
        None => Ok(()),
        Some(kind) => Err(Forbidden {
            address: address.to_string(),
            kind,
        }),
    }
}

fn refused(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => REFUSED_V4
            .iter()
            .find(|(net, length, _)| Ipv4Net::new_assert(*net, *length).contains(&v4))
            .map(|(_, _, kind)| *kind),
        IpAddr::V6(v6) => {
            let (public, length) = PUBLIC_V6;
            if !Ipv6Net::new_assert(public, length).contains(&v6) {
                return Some("not public in IPv6");
            }
            REFUSED_V6
                .iter()
                .find(|(net, length, _)| Ipv6Net::new_assert(*net, *length).contains(&v6))
                .map(|(_, _, kind)| *kind)
        }
    }
}

/// Whether a webhook may lead to a host of this name, where the name cannot be resolved by ourselves: the Worker, whose platform reaches
/// no private network. What is an address by itself is checked as one.
///
/// # Errors
/// [`Forbidden`].
pub fn check_name(name: &str) -> Result<(), Forbidden> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let last = name.rsplit('.').next().unwrap_or_default();
    let private = !name.contains('.') || PRIVATE_SUFFIXES.contains(&last);
    match private {
        true => Err(Forbidden {
            address: name,
            kind: "a private name",
        }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_not_public_is_refused() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "169.254.170.2",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::7f00:1",
            "64:ff9b:1::7f00:1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            let refused = check(address.parse().unwrap(), &[]);
            assert!(refused.is_err(), "{address}");
        }
    }

    #[test]
    fn what_is_public_is_not() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "168.63.129.17",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.255.255",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a01:4f8::1",
            "2001:4860:4860::8888",
        ] {
            assert_eq!(check(address.parse().unwrap(), &[]), Ok(()), "{address}");
        }
    }

    #[test]
    fn a_network_that_the_configuration_names_is_let_through_and_no_other() {
        let allowed = ["10.1.0.0/16".parse().unwrap(), "::1/128".parse().unwrap()];
        for (address, good) in [
            ("10.1.2.3", true),
            ("10.2.0.1", false),
            ("::1", true),
            ("127.0.0.1", false),
            // As it is written, and not as what it stands for.
            ("::ffff:10.1.2.3", false),
        ] {
            let checked = check(address.parse().unwrap(), &allowed);
            assert_eq!(checked.is_ok(), good, "{address}");
        }
    }

    #[test]
    fn names_of_private_networks_are_refused_where_names_cannot_be_resolved() {
        for name in [
            "localhost",
            "LOCALHOST.",
            "db",
            "a.localhost",
            "printer.local",
            "metadata.google.internal",
            "1.0.0.127.in-addr.arpa",
            "",
        ] {
            assert!(check_name(name).is_err(), "{name}");
        }
        for name in ["hooks.example.org", "example.org."] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
    }
}
