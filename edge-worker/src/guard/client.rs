//! Whose request it is: the peer of the connection, or whom a trusted reverse proxy speaks for.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderName, header::FORWARDED};
use protocol::{cidr::Cidr, per_address::is_near};
use serde::{Deserialize, Serialize};

/// Where a reverse proxy says for whom it asks. Only one of them is read: what a proxy does not write itself it passes on, as its client made
/// it up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProxyHeader {
    /// `X-Forwarded-For`: addresses, each proxy's client behind those before.
    #[default]
    #[serde(rename = "x-forwarded-for")]
    XForwardedFor,
    /// `Forwarded` (RFC 7239), its `for`.
    #[serde(rename = "forwarded")]
    Forwarded,
}

/// The reverse proxies whose word is taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Proxies {
    /// Their addresses.
    pub from: Vec<Cidr>,
    /// Where they say for whom they ask.
    pub header: ProxyHeader,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its address; IPv4 is never mapped into IPv6.
    pub address: IpAddr,
    /// It is of this machine or of a private network, and no listed proxy spoke for it: perhaps a proxy that nobody listed, with everybody
    /// behind it. It is not limited.
    pub may_be_many: bool,
}

impl Client {
    /// Whom the platform names. Where it names nobody, no network is the right one, and nobody is counted.
    pub fn named(address: Option<IpAddr>) -> Self {
        let address = address.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let address = address.to_canonical();
        Self {
            address,
            may_be_many: address.is_unspecified() || is_near(address),
        }
    }
}

impl Proxies {
    /// Whether that address is a proxy's whose word is taken.
    pub fn lists(&self, address: IpAddr) -> bool {
        self.from.iter().any(|range| range.contains(address))
    }

    /// Who asks, by the connection's peer and the request's header.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Client {
        let peer = peer.to_canonical();
        if !self.lists(peer) {
            return Client {
                address: peer,
                may_be_many: is_near(peer),
            };
        }
        Client {
            address: self.forwarded(headers).unwrap_or(peer),
            may_be_many: false,
        }
    }

    /// The right-most address that is no trusted proxy's; the left-most one where all are. `None` where there is none, or where an element
    /// before it has no address: who wrote that cannot be told.
    fn forwarded(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let name = match self.header {
            ProxyHeader::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            ProxyHeader::Forwarded => FORWARDED,
        };
        let mut found = None;
        // Several lines are one list (RFC 9110 section 5.3).
        for line in headers.get_all(name).iter().rev() {
            for element in from_the_right(line.as_bytes()) {
                let element = str::from_utf8(element).ok()?.trim_matches([' ', '\t']);
                if element.is_empty() {
                    continue;
                }
                let address = match self.header {
                    ProxyHeader::XForwardedFor => address(element)?,
                    ProxyHeader::Forwarded => forwarded_for(element)?,
                };
                found = Some(address);
                if !self.lists(address) {
                    return found;
                }
            }
        }
        found
    }
}

/// The elements of a list, the last one first. From that end a quote that a client left open cannot swallow what a proxy wrote behind it.
fn from_the_right(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let at = separator_from_the_right(line, b',');
        rest = at.map(|at| &line[..at]);
        Some(&line[at.map_or(0, |at| at + 1)..])
    })
}

/// The last separator that is not in a quoted string.
fn separator_from_the_right(line: &[u8], separator: u8) -> Option<usize> {
    let mut quoted = false;
    (0..line.len()).rev().find(|&at| {
        match line[at] {
            b'"' => {
                let escapes = line[..at].iter().rev().take_while(|b| **b == b'\\');
                quoted ^= escapes.count() % 2 == 0;
            }
            other => return other == separator && !quoted,
        }
        false
    })
}

/// The address of `for` in an element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut found = None;
    let mut rest = Some(element);
    while let Some(pairs) = rest {
        let at = separator_from_the_right(pairs.as_bytes(), b';');
        let pair = pairs.get(at.map_or(0, |at| at + 1)..)?.trim();
        rest = at.and_then(|at| pairs.get(..at));
        let Some((name, value)) = pair.split_once('=') else {
            continue;
        };
        if !name.eq_ignore_ascii_case("for") {
            continue;
        }
        let bare = match value.strip_prefix('"') {
            Some(quoted) => quoted.strip_suffix('"')?,
            None => value,
        };
        // `unknown` and names of one's own (`_hidden`) are no addresses.
        if found.replace(address(bare)?).is_some() {
            return None;
        }
    }
    found
}

/// An address, with a port or without: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    // No address is longer; what is does not have to be looked at.
    if text.len() > 64 {
        return None;
    }
    let bracketed = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address = match bracketed {
        Some(v6) => v6.parse::<Ipv6Addr>().map(IpAddr::V6).ok(),
        None => (text.parse().ok()).or_else(|| text.parse().ok().map(|at: SocketAddr| at.ip())),
    };
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn proxies(header: ProxyHeader) -> Proxies {
        Proxies {
            from: ["10.0.0.0/24", "2001:db8:ffff::/48"]
                .map(|range| range.parse().unwrap())
                .to_vec(),
            header,
        }
    }

    fn client(header: ProxyHeader, peer: &str, lines: &[&str]) -> String {
        let name = match header {
            ProxyHeader::XForwardedFor => "x-forwarded-for",
            ProxyHeader::Forwarded => "forwarded",
        };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        let client = proxies(header).client(peer.parse().unwrap(), &headers);
        client.address.to_string()
    }

    #[test]
    fn x_forwarded_for_is_believed_of_listed_proxies_and_only_as_far_as_they_wrote_it() {
        for (peer, lines, expected) in [
            // Nobody is believed who is not listed.
            ("192.0.2.9", &["203.0.113.5"][..], "192.0.2.9"),
            ("10.0.1.1", &["203.0.113.5"], "10.0.1.1"),
            ("::ffff:192.0.2.9", &["203.0.113.5"], "192.0.2.9"),
            // One proxy, two, and a listed one that is reached over IPv6.
            (PROXY, &["203.0.113.5"], "203.0.113.5"),
            ("::ffff:10.0.0.1", &["203.0.113.5"], "203.0.113.5"),
            (PROXY, &["203.0.113.5, 10.0.0.7"], "203.0.113.5"),
            ("2001:db8:ffff::1", &["2001:db8::5"], "2001:db8::5"),
            (PROXY, &["203.0.113.5", "10.0.0.7"], "203.0.113.5"),
            // What a client wrote stands further left.
            (PROXY, &["127.0.0.1, 203.0.113.5"], "203.0.113.5"),
            (PROXY, &["10.0.0.9, 203.0.113.5, 10.0.0.7"], "203.0.113.5"),
            (PROXY, &["1.1.1.1", "203.0.113.5"], "203.0.113.5"),
            (PROXY, &["x\", 203.0.113.5"], "203.0.113.5"),
            (PROXY, &["\", 203.0.113.5"], "203.0.113.5"),
            (PROXY, &["unknown, 203.0.113.5"], "203.0.113.5"),
            // Ports, brackets, spaces, mapped addresses, empty elements.
            (PROXY, &["203.0.113.5:61234"], "203.0.113.5"),
            (PROXY, &["[2001:db8::5]:61234"], "2001:db8::5"),
            (PROXY, &["[2001:db8::5]"], "2001:db8::5"),
            (PROXY, &["::ffff:203.0.113.5"], "203.0.113.5"),
            (PROXY, &["\t203.0.113.5 , "], "203.0.113.5"),
            (PROXY, &["", "203.0.113.5", ""], "203.0.113.5"),
            // All are proxies: the one that began.
            (PROXY, &["10.0.0.9, 10.0.0.7"], "10.0.0.9"),
            // Nothing, or nothing that can be read.
            (PROXY, &[], PROXY),
            (PROXY, &[""], PROXY),
            (PROXY, &["unknown"], PROXY),
            (PROXY, &["203.0.113.5, unknown"], PROXY),
            (PROXY, &["203.0.113.5, nonsense, 10.0.0.7"], PROXY),
            (PROXY, &["203.0.113.256"], PROXY),
            (PROXY, &["203.0.113.5:99999"], PROXY),
            (PROXY, &["2001:db8::5%eth0"], PROXY),
            (PROXY, &["203.0.113.5;203.0.113.6"], PROXY),
        ] {
            let found = client(ProxyHeader::XForwardedFor, peer, lines);
            assert_eq!(found, expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_has_it() {
        for (lines, expected) in [
            (&["for=203.0.113.5"][..], "203.0.113.5"),
            (&["For=\"[2001:db8::5]:4711\""], "2001:db8::5"),
            (&["for=203.0.113.5;proto=https;by=10.0.0.1"], "203.0.113.5"),
            (&["proto=https; for=203.0.113.5"], "203.0.113.5"),
            (&["for=1.1.1.1, for=203.0.113.5"], "203.0.113.5"),
            (
                &["for=1.1.1.1", "for=203.0.113.5, for=10.0.0.7"],
                "203.0.113.5",
            ),
            (&["for=203.0.113.5;host=\"a,b;for=1.1.1.1\""], "203.0.113.5"),
            // A quote that a client left open ends where the proxy's own words begin.
            (&["for=\", for=203.0.113.5"], "203.0.113.5"),
            (&["for=\"1.1.1.1, for=\"[2001:db8::5]\""], "2001:db8::5"),
            (&["for=\"\\\", for=\"203.0.113.5:80\""], "203.0.113.5"),
            (&["for=unknown, for=203.0.113.5"], "203.0.113.5"),
            (&["for=unknown"], PROXY),
            (&["for=_hidden"], PROXY),
            (&["for=203.0.113.5, for=_hidden"], PROXY),
            (&["for=203.0.113.5;for=203.0.113.6"], PROXY),
            (&["for="], PROXY),
            (&["by=203.0.113.5"], PROXY),
            (&["for=\"203.0.113.5"], PROXY),
            (&["203.0.113.5"], PROXY),
        ] {
            let found = client(ProxyHeader::Forwarded, PROXY, lines);
            assert_eq!(found, expected, "{lines:?}");
        }
        assert_eq!(
            client(ProxyHeader::Forwarded, "192.0.2.9", &["for=203.0.113.5"]),
            "192.0.2.9"
        );
    }

    #[test]
    fn the_header_that_the_proxy_does_not_write_is_not_read() {
        let mut headers = HeaderMap::new();
        headers.insert("forwarded", HeaderValue::from_static("for=1.1.1.1"));
        let peer: IpAddr = PROXY.parse().unwrap();
        let client = proxies(ProxyHeader::XForwardedFor).client(peer, &headers);
        assert_eq!(client.address, peer);
    }

    #[test]
    fn a_neighbour_that_nobody_listed_may_be_many_and_a_client_behind_a_listed_proxy_is_one() {
        let many = |peer: &str| {
            let proxies = proxies(ProxyHeader::XForwardedFor);
            let client = proxies.client(peer.parse().unwrap(), &HeaderMap::new());
            client.may_be_many
        };
        assert!(many("127.0.0.1") && many("::1") && many("192.168.0.4"));
        assert!(!many("203.0.113.5") && !many(PROXY));
    }

    proptest! {
        #[test]
        fn whatever_a_header_says_the_last_word_is_the_proxys(
            said in proptest::collection::vec(proptest::collection::vec(0x20_u8..0x7f, 0..80), 0..4),
            by_forwarded: bool,
            v6: bool,
        ) {
            let (header, name) = match by_forwarded {
                true => (ProxyHeader::Forwarded, "forwarded"),
                false => (ProxyHeader::XForwardedFor, "x-forwarded-for"),
            };
            let real = if v6 { "2001:db8::5" } else { "203.0.113.5" };
            let written = match (by_forwarded, v6) {
                (true, true) => format!("for=\"[{real}]\""),
                (true, false) => format!("for={real}"),
                (false, _) => real.to_owned(),
            };
            let mut headers = HeaderMap::new();
            for line in &said {
                headers.append(name, HeaderValue::from_bytes(line).unwrap());
            }
            let proxies = proxies(header);
            let peer: IpAddr = PROXY.parse().unwrap();
            // Of what the client alone wrote nothing is promised but an answer.
            let _ = proxies.client(peer, &headers);
            // A proxy adds a line, or adds to the last one.
            let mut added = headers.clone();
            added.append(name, HeaderValue::from_str(&written).unwrap());
            prop_assert_eq!(proxies.client(peer, &added).address.to_string(), real);
            if let Some(last) = said.last() {
                let mut joined = last.clone();
                joined.extend_from_slice(b", ");
                joined.extend_from_slice(written.as_bytes());
                let mut lines = HeaderMap::new();
                for line in &said[..said.len() - 1] {
                    lines.append(name, HeaderValue::from_bytes(line).unwrap());
                }
                lines.append(name, HeaderValue::from_bytes(&joined).unwrap());
                prop_assert_eq!(proxies.client(peer, &lines).address.to_string(), real);
            }
        }
    }
}
