//! What `ghost-live up` prints when it is ready: everything to paste into an encoder, and where to look.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
};

/// What the panel is made of.
#[derive(Debug)]
pub(crate) struct Panel<'a> {
    /// Where plain RTMP listens.
    pub(crate) rtmp: Option<SocketAddr>,
    /// Where RTMPS listens, with the name that its trusted certificate holds for; `None` while the certificate is self-signed.
    pub(crate) rtmps: Option<(SocketAddr, String)>,
    /// Address that viewers use, without a slash at the end.
    pub(crate) web: String,
    /// The stream that is shown.
    pub(crate) stream: &'a str,
    /// Its key; `None` when it cannot be shown because the secret that it is sealed with was lost or changed.
    pub(crate) key: Option<&'a str>,
    /// The secret of its studio link; `None` as above.
    pub(crate) studio_secret: Option<&'a str>,
    /// The data folder.
    pub(crate) data: &'a Path,
    /// Whether the demo publishes.
    pub(crate) demo: bool,
}

/// The address by which others on the network reach this machine; `None` without a network.
pub(crate) fn network_address() -> Option<IpAddr> {
    // Connecting a UDP socket sends nothing: it only asks the routing table which address would be used.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// Addresses that reach a listener: the one it is bound to, or this machine and, where there is one, the network's.
pub(crate) fn reachable(listen: SocketAddr) -> Vec<SocketAddr> {
    if !listen.ip().is_unspecified() {
        return vec![listen];
    }
    // `[::]` takes IPv4 as well.
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    std::iter::once(local)
        .chain(network_address())
        .map(|ip| SocketAddr::new(ip, listen.port()))
        .collect()
}

/// Addresses for the encoder's *server* field, best first, with a word on each.
pub(crate) fn servers(
    rtmp: Option<SocketAddr>,
    rtmps: Option<&(SocketAddr, String)>,
) -> Vec<(String, &'static str)> {
    let encrypted = rtmps.map(|(address, name)| {
        (
            format!("rtmps://{name}:{}/live", address.port()),
            "encrypted, from anywhere",
        )
    });
    let plain = rtmp.into_iter().flat_map(reachable).map(|address| {
        let note = match address.ip().is_loopback() {
            true => "from this machine",
            false => "from your network",
        };
        (format!("rtmp://{address}/live"), note)
    });
    encrypted.into_iter().chain(plain).collect()
}

impl Panel<'_> {
    /// The text.
    pub(crate) fn render(&self) -> String {
        let mut text = String::from(
            "\n  Ghost Live is running\n\n  In OBS: Settings, Stream, Service \"Custom...\"\n",
        );
        let mut line = |label: &str, value: &str, note: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "    {label:<12} {value}{}{note}",
                if note.is_empty() { "" } else { "   " }
            );
        };
        for (index, (url, note)) in servers(self.rtmp, self.rtmps.as_ref()).iter().enumerate() {
            line(if index == 0 { "Server" } else { "  or" }, url, note);
        }
        let hidden = format!(
            "cannot be shown: the secret that it was sealed with is gone. New: ghost-live key rotate {}",
            self.stream
        );
        line("Stream key", self.key.unwrap_or(&hidden), "");
        line("", "", "");
        line("Watch", &format!("{}/watch/{}", self.web, self.stream), "");
        if self.demo {
            line(
                "Demo",
                &format!("{}/watch/{}", self.web, crate::demo::STREAM),
                "the test picture, in a few seconds",
            );
        }
        match self.studio_secret {
            Some(secret) => line(
                "Studio",
                &format!("{}/studio/{}#{secret}", self.web, self.stream),
                "yours alone: the link is the key",
            ),
            None => line("Studio", &hidden, ""),
        }
        line("Data", &self.data.display().to_string(), "");
        if self.rtmps.is_none() {
            line("", "", "");
            line(
                "rtmps://",
                "is offered once the certificate is trusted: OBS refuses self-signed ones.",
                "",
            );
            line(
                "",
                "Name a certificate or a domain under [tls] in ghost-live.toml; of a domain the log says when its certificate is there.",
                "",
            );
        }
        text.push_str("\n  Ctrl-C ends it.\n");
        text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn panel(rtmps: Option<(SocketAddr, String)>) -> Panel<'static> {
        Panel {
            rtmp: Some("127.0.0.1:1935".parse().unwrap()),
            rtmps,
            web: "http://127.0.0.1:8080".into(),
            stream: "main",
            key: Some("main_secret"),
            studio_secret: Some("studio-secret"),
            data: Path::new("./data"),
            demo: false,
        }
    }

    #[test]
    fn rtmps_is_offered_only_with_a_trusted_certificate() {
        let without = panel(None).render();
        assert!(without.contains("rtmp://127.0.0.1:1935/live   from this machine"));
        assert!(!without.contains("rtmps://live.example.org") && without.contains("self-signed"));
        let with = panel(Some((
            "0.0.0.0:1936".parse().unwrap(),
            "live.example.org".into(),
        )))
        .render();
        assert!(
            with.contains("rtmps://live.example.org:1936/live") && !with.contains("self-signed")
        );
    }

    #[test]
    fn what_cannot_be_shown_says_how_to_make_a_new_one() {
        let shown = panel(None).render();
        assert!(shown.contains("main_secret") && shown.contains("/studio/main#studio-secret"));
        let hidden = Panel {
            key: None,
            studio_secret: None,
            ..panel(None)
        };
        let hidden = hidden.render();
        assert_eq!(hidden.matches("ghost-live key rotate main").count(), 2);
        assert!(!hidden.contains("/studio/main"));
    }
}
