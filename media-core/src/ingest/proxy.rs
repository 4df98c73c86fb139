//! The PROXY protocol, versions 1 and 2: the real address of a connection that a proxy passes on.
//!
//! A listed proxy's connections must begin with the header, as the specification (haproxy.org, section 2) asks; what is not listed must
//! not send one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The first bytes of version 2.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The longest version 1 header, bytes (section 2.1).
const MAX_V1_BYTES: usize = 107;

/// The longest version 2 header that is taken, bytes: proxies add certificates and unique ids.
const MAX_V2_BYTES: usize = 2_048;

/// Why bytes are not a header that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Something else.
    #[error("a listed proxy's connection does not begin with a PROXY protocol header")]
    Missing,
    /// Neither version's form, or too long.
    #[error("the PROXY protocol header is malformed or too long")]
    Malformed,
}

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its length, bytes.
    pub bytes: usize,
    /// Where the connection really comes from; `None` when the proxy speaks for itself (health checks) or does not know.
    pub source: Option<SocketAddr>,
}

/// Whether a connection that begins with this byte begins with a header. Neither RTMP nor TLS does.
pub fn begins_with(byte: u8) -> bool {
    byte == SIGNATURE[0] || byte == b'P'
}

/// Reads a header off the beginning of a connection; `Err(n)` inside `Ok` when at least `n` more bytes are needed, which never reach
/// beyond the header's end.
///
/// # Errors
/// [`Error`] when it is none.
pub fn parse(bytes: &[u8]) -> Result<Result<Header, usize>, Error> {
    match bytes.first() {
        None => Ok(Err(1)),
        Some(b'P') => parse_v1(bytes),
        Some(b'\r') => parse_v2(bytes),
        Some(_) => Err(Error::Missing),
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Result<Header, usize>, Error> {
    const PREFIX: &[u8] = b"PROXY ";
    let known = bytes.len().min(PREFIX.len());
    if bytes[..known] != PREFIX[..known] {
        return Err(Error::Missing);
    }
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return match bytes.len() {
            // The shortest is "PROXY UNKNOWN\r\n"; from there on a byte at a time, for its end is not known.
            0..15 => Ok(Err(15 - bytes.len())),
            15..MAX_V1_BYTES => Ok(Err(1)),
            _ => Err(Error::Malformed),
        };
    };
    let line = std::str::from_utf8(&bytes[PREFIX.len()..end]).map_err(|_| Error::Malformed)?;
    let fields: Vec<&str> = line.split(' ').collect();
    let source = match fields.as_slice() {
        ["UNKNOWN", ..] => None,
        [family @ ("TCP4" | "TCP6"), source, _, port, _] => {
            let address: IpAddr = source.parse().map_err(|_| Error::Malformed)?;
            if address.is_ipv4() != (*family == "TCP4") {
                return Err(Error::Malformed);
            }
            Some(SocketAddr::new(
                address,
                port.parse().map_err(|_| Error::Malformed)?,
            ))
        }
        _ => return Err(Error::Malformed),
    };
    Ok(Ok(Header {
        bytes: end + 2,
        source,
    }))
}

fn parse_v2(bytes: &[u8]) -> Result<Result<Header, usize>, Error> {
    const FIXED: usize = 16;
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] {
        return Err(Error::Missing);
    }
    let Some(fixed) = bytes.first_chunk::<FIXED>() else {
        return Ok(Err(FIXED - bytes.len()));
    };
    let [.., version_command, family, l1, l0] = *fixed;
    let total = FIXED + usize::from(u16::from_be_bytes([l1, l0]));
    if version_command >> 4 != 2 || total > MAX_V2_BYTES {
        return Err(Error::Malformed);
    }
    if bytes.len() < total {
        return Ok(Err(total - bytes.len()));
    }
    let addresses = &bytes[FIXED..total];
    let source = match (version_command & 0x0f, family) {
        // LOCAL.
        (0, _) => None,
        // PROXY: TCP over IPv4, TCP over IPv6; source, destination, ports.
        (1, 0x11) => {
            let fields = addresses.first_chunk::<12>().ok_or(Error::Malformed)?;
            let [a, b, c, d, _, _, _, _, p1, p0, ..] = *fields;
            Some((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([p1, p0])).into())
        }
        (1, 0x21) => {
            let fields = addresses.first_chunk::<36>().ok_or(Error::Malformed)?;
            let source: [u8; 16] = *fields.first_chunk().ok_or(Error::Malformed)?;
            Some(
                (
                    Ipv6Addr::from(source),
                    u16::from_be_bytes([fields[32], fields[33]]),
                )
                    .into(),
            )
        }
        // PROXY of an unknown or unusable family.
        (1, _) => None,
        _ => return Err(Error::Malformed),
    };
    Ok(Ok(Header {
        bytes: total,
        source,
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn v2(version_command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let mut out = SIGNATURE.to_vec();
        out.extend_from_slice(&[version_command, family]);
        out.extend_from_slice(&(addresses.len() as u16).to_be_bytes());
        out.extend_from_slice(addresses);
        out
    }

    /// Feeds exactly as many bytes as are asked for.
    fn read(bytes: &[u8]) -> Result<Option<Header>, Error> {
        let mut fed = 0;
        loop {
            match parse(&bytes[..fed])? {
                Ok(header) => {
                    assert_eq!(header.bytes, fed, "bytes behind the header were asked for");
                    return Ok(Some(header));
                }
                Err(more) => fed += more,
            }
            if fed > bytes.len() {
                return Ok(None);
            }
        }
    }

    fn source(bytes: &[u8]) -> Option<String> {
        read(bytes)
            .unwrap()
            .unwrap()
            .source
            .map(|source| source.to_string())
    }

    #[test]
    fn the_source_is_read_in_both_versions_and_families() {
        let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 0, 80];
        assert_eq!(source(&v2(0x21, 0x11, &v4)).unwrap(), "192.0.2.7:4660");
        let with_tlv = [&v4[..], &[0x04, 0, 1, 0]].concat();
        assert_eq!(
            source(&v2(0x21, 0x11, &with_tlv)).unwrap(),
            "192.0.2.7:4660"
        );
        let mut v6 = [0; 36];
        (v6[15], v6[33]) = (1, 9);
        assert_eq!(source(&v2(0x21, 0x21, &v6)).unwrap(), "[::1]:9");
        assert_eq!(source(&v2(0x20, 0, &[])), None);
        assert_eq!(source(&v2(0x21, 0x31, &[0; 216])), None);
        assert_eq!(
            source(b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 80\r\n\x03").unwrap(),
            "192.0.2.7:4660"
        );
        assert_eq!(source(b"PROXY TCP6 ::1 ::2 9 80\r\n").unwrap(), "[::1]:9");
        assert_eq!(source(b"PROXY UNKNOWN\r\n\x03\x03"), None);
    }

    #[test]
    fn other_beginnings_are_refused() {
        assert_eq!(read(&[3; 20]), Err(Error::Missing));
        assert_eq!(read(b"POST / HTTP/1.1\r\n\r\n"), Err(Error::Missing));
        assert_eq!(read(b"PROXY TCP4 ::1 ::2 9 80\r\n"), Err(Error::Malformed));
        assert_eq!(
            read(&[&b"PROXY "[..], &[b'x'; 200]].concat()),
            Err(Error::Malformed)
        );
        assert_eq!(read(&v2(0x11, 0x11, &[0; 12])), Err(Error::Malformed));
        assert_eq!(read(&v2(0x21, 0x11, &[0; 11])), Err(Error::Malformed));
        assert_eq!(read(&v2(0x21, 0x11, &[0; 5_000])), Err(Error::Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), version in 0..3) {
            let bytes = match version {
                1 => [b"PROXY ", &bytes[..]].concat(),
                2 => [&SIGNATURE[..], &bytes].concat(),
                _ => bytes,
            };
            let _ = read(&bytes);
        }
    }
}
