//! From which addresses one may publish, watch or manage.

use std::net::IpAddr;

use protocol::cidr::Cidr;
use serde::{Deserialize, Serialize};

/// Lists of addresses. In none of them: let in, unless `allow` has any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Where this has ranges, only addresses in one of them are let in.
    pub allow: Vec<Cidr>,
    /// Addresses that are not let in, even where `allow` has them.
    pub deny: Vec<Cidr>,
}

impl Rule {
    /// Whether that address is let in. IPv4 that is mapped into IPv6 is IPv4.
    pub fn allows(&self, address: IpAddr) -> bool {
        let is_in = |ranges: &[Cidr]| ranges.iter().any(|range| range.contains(address));
        !is_in(&self.deny) && (self.allow.is_empty() || is_in(&self.allow))
    }

    /// Whether every address is let in.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}

/// The lists by what one comes for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Publishers, on every protocol.
    pub publish: Rule,
    /// Pages, playlists and media.
    pub watch: Rule,
    /// The studio and the API that changes anything.
    pub manage: Rule,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn deny_goes_before_allow_and_an_empty_allow_is_everybody() {
        let rule = |allow: &[&str], deny: &[&str]| {
            let ranges = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect();
            Rule {
                allow: ranges(allow),
                deny: ranges(deny),
            }
        };
        for (allow, deny, address, expected) in [
            (&[][..], &[][..], "192.0.2.1", true),
            (&[], &["192.0.2.0/24"], "192.0.2.1", false),
            (&[], &["192.0.2.0/24"], "192.0.3.1", true),
            (&["192.0.2.0/24"], &[], "192.0.2.1", true),
            (&["192.0.2.0/24"], &[], "::ffff:192.0.2.1", true),
            (&["192.0.2.0/24"], &[], "192.0.3.1", false),
            (&["192.0.2.0/24"], &[], "2001:db8::1", false),
            (&["192.0.2.0/24"], &["192.0.2.7"], "192.0.2.7", false),
            (&["192.0.2.0/24"], &["192.0.2.7"], "::ffff:192.0.2.7", false),
            (&["::/0"], &[], "192.0.2.1", false),
            (&["0.0.0.0/0"], &[], "192.0.2.1", true),
            (
                &["2001:db8::/32"],
                &["2001:db8:1::/48"],
                "2001:db8:1::9",
                false,
            ),
            (
                &["2001:db8::/32"],
                &["2001:db8:1::/48"],
                "2001:db8:2::9",
                true,
            ),
        ] {
            let allows = rule(allow, deny).allows(address.parse().unwrap());
            assert_eq!(allows, expected, "{allow:?} {deny:?} {address}");
        }
    }
}
