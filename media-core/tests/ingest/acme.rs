//! Certificates from an ACME server: Debian's `pebble`, the RFC 8555 server that Let's Encrypt tests clients with.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use ghost_live_media_core::tls::{
    self, Certificates, Files,
    acme::{Challenge, Config, Http01, Issuer},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{fixture::PATIENCE, ports::free_address};

/// An ACME server that validates at these ports of this machine, and its own root.
struct Pebble {
    _child: Child,
    directory: String,
    root: Files,
}

impl Pebble {
    async fn start(folder: &Path, validates_at: SocketAddr) -> Self {
        let root = tls::self_signed(folder, &["localhost".into(), "127.0.0.1".into()]).unwrap();
        let (listen, management) = (free_address(), free_address());
        let settings = format!(
            r#"{{"pebble": {{"listenAddress": "{listen}", "managementListenAddress": "{management}", "certificate": {:?},
                "privateKey": {:?}, "httpPort": {port}, "tlsPort": {port}, "ocspResponderURL": "", "externalAccountBindingRequired": false}}}}"#,
            root.certificate,
            root.key,
            port = validates_at.port(),
        );
        let file = folder.join("pebble.json");
        fs::write(&file, settings).unwrap();
        let child = Command::new("pebble")
            .arg("-config")
            .arg(&file)
            // Validates at once, and refuses one nonce in twenty: the client tries three, so that one test run in a thousand runs out.
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "5")
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("pebble is needed for this test and cannot be started: {error}")
            });
        let up = async {
            while TcpStream::connect(listen).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, up).await.expect("pebble listens in time");
        Self {
            _child: child,
            directory: format!("https://localhost:{}/dir", listen.port()),
            root,
        }
    }

    fn config(&self, challenge: Challenge) -> Config {
        Config {
            domains: vec!["localhost".into()],
            contact: Some("mailto:operator@example.org".into()),
            directory: self.directory.clone(),
            challenge,
            root: Some(self.root.certificate.clone()),
        }
    }
}

/// A TLS server as the web server is one.
fn serve_tls(listener: TcpListener, certificates: &Certificates) {
    let tls = TlsAcceptor::from(tls::server_config(certificates, &[b"h2", b"http/1.1"]).unwrap());
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                if let Ok(mut stream) = tls.accept(tcp).await {
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
}

/// Answers HTTP-01 as the web server does.
fn serve_http01(listener: TcpListener, answers: Http01) {
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let answers = answers.clone();
            tokio::spawn(async move {
                let (read, mut write) = tcp.split();
                let mut lines = BufReader::new(read).lines();
                let request = lines.next_line().await.unwrap().unwrap_or_default();
                while lines
                    .next_line()
                    .await
                    .unwrap()
                    .is_some_and(|line| !line.is_empty())
                {}
                let token = request
                    .split(' ')
                    .nth(1)
                    .and_then(|path| path.strip_prefix("/.well-known/acme-challenge/"));
                let body = token
                    .and_then(|token| answers.answer(token))
                    .unwrap_or_default();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                write.write_all(answer.as_bytes()).await.unwrap();
            });
        }
    });
}

#[tokio::test]
async fn a_certificate_is_issued_kept_and_not_ordered_again() {
    let (folder, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pebble = Pebble::start(folder.path(), listener.local_addr().unwrap()).await;
    let certificates = Certificates::default();
    serve_tls(listener, &certificates);

    let issuer = Issuer::new(
        pebble.config(Challenge::TlsAlpn01),
        data.path(),
        certificates.clone(),
    )
    .unwrap();
    assert!(!certificates.is_ready());
    let wait = timeout(PATIENCE, issuer.ensure())
        .await
        .expect("issued in time")
        .unwrap();
    assert!(wait > Duration::from_secs(3_600), "renewed in {wait:?}");
    assert!(certificates.is_ready());
    for name in [
        "acme-localhost.crt",
        "acme-localhost.key",
        "acme-account.json",
    ] {
        let mode = fs::metadata(data.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }

    // A second start serves what is there, without the authority.
    drop(pebble);
    let again = Certificates::default();
    let config = Config {
        domains: vec!["localhost".into()],
        directory: "https://localhost:1/".into(),
        ..Config::default()
    };
    let issuer = Issuer::new(config.clone(), data.path(), again.clone()).unwrap();
    assert!(again.is_ready());
    assert!(issuer.ensure().await.is_ok());
    // Another name needs another certificate, and the one before stays.
    let config = Config {
        domains: vec!["localhost".into(), "other.example".into()],
        ..config
    };
    let issuer = Issuer::new(config, data.path(), again.clone()).unwrap();
    assert!(
        timeout(PATIENCE, issuer.ensure())
            .await
            .expect("an answer in time")
            .is_err()
    );
    assert!(again.is_ready());
}

#[tokio::test]
async fn a_domain_is_validated_over_plain_http() {
    let (folder, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pebble = Pebble::start(folder.path(), listener.local_addr().unwrap()).await;
    let certificates = Certificates::default();
    let issuer = Issuer::new(
        pebble.config(Challenge::Http01),
        data.path(),
        certificates.clone(),
    )
    .unwrap();
    serve_http01(listener, issuer.http01());
    timeout(PATIENCE, issuer.ensure())
        .await
        .expect("issued in time")
        .unwrap();
    assert!(certificates.is_ready());
}

#[tokio::test]
async fn a_domain_that_cannot_be_validated_says_which_ports_to_open() {
    let (folder, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let pebble = Pebble::start(folder.path(), free_address()).await;
    let certificates = Certificates::default();
    let issuer = Issuer::new(
        pebble.config(Challenge::TlsAlpn01),
        data.path(),
        certificates.clone(),
    )
    .unwrap();
    let error = timeout(PATIENCE, issuer.ensure())
        .await
        .expect("an answer in time")
        .unwrap_err()
        .to_string();
    assert!(error.contains("port 443"), "{error}");
    assert!(!certificates.is_ready());
}
