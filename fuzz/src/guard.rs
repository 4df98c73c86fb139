//! What stands before every address: headers of proxies, origins, paths on their way into a log.

use std::net::IpAddr;

use edge_worker::{
    guard::{Origins, Proxies, ProxyHeader},
    routes,
};
use http::{HeaderMap, HeaderValue, StatusCode};

/// What a client puts into a header of its proxy, in lines; the proxy adds the address that it sees.
pub fn clients(bytes: &[u8]) {
    const REAL: &str = "203.0.113.5";
    let proxy = IpAddr::from([10, 0, 0, 1]);
    for (header, name, written) in [
        (
            ProxyHeader::XForwardedFor,
            "x-forwarded-for",
            REAL.to_owned(),
        ),
        (ProxyHeader::Forwarded, "forwarded", format!("for={REAL}")),
    ] {
        let proxies = Proxies {
            from: "10.0.0.0/8".parse().into_iter().collect(),
            header,
        };
        let mut headers = HeaderMap::new();
        for line in bytes.split(|byte| *byte == b'\n').take(32) {
            if let Ok(value) = HeaderValue::from_bytes(line) {
                headers.append(name, value);
            }
        }
        let stranger = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(proxies.client(stranger, &headers).address, stranger);
        let _ = proxies.client(proxy, &headers);
        let mut joined = bytes
            .rsplit(|byte| *byte == b'\n')
            .next()
            .unwrap_or_default()
            .to_vec();
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(written.as_bytes());
        for added in [written.as_bytes(), &joined] {
            let mut headers = headers.clone();
            if let Ok(value) = HeaderValue::from_bytes(added) {
                headers.append(name, value);
                let client = proxies.client(proxy, &headers);
                assert_eq!(
                    client.address.to_string(),
                    REAL,
                    "the proxy has the last word"
                );
            }
        }
    }
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let redacted = routes::redacted(text);
    assert!(!redacted.chars().any(char::is_control) && !redacted.contains('?'));
    if let Ok(origins) = Origins::try_from(vec![text.to_owned()]) {
        let route = routes::Route::Streams;
        let mut headers = routes::headers(Some(&route), StatusCode::OK, routes::Caching::Never);
        origins.apply(Some("https://other.example"), &mut headers);
        let said = headers.get("access-control-allow-origin");
        let other = text.to_ascii_lowercase().contains("other.example") || text == "*";
        assert!(said.is_none() || other, "{text} lets another site in");
    }
}
