//! `ghost-live check`: what is wrong with the configuration and the machine, before anything is started.

use std::process::ExitCode;

use edge_worker::webhooks::{Configured, signature::GOOD_SECRET};
use media_core::{
    publish::{RemoteEdge, Store, store},
    tls::{self, acme},
    transcode,
};
use protocol::link_auth::LinkSecret;

use crate::{
    Files,
    config::{Certificate, Config},
};

/// What was found of one thing.
enum Finding {
    Good(String),
    Wrong(String),
}

/// Looks at everything, prints a line for each, and fails when something is wrong.
pub(crate) async fn check(files: &Files) -> ExitCode {
    let config = match Config::load(files) {
        Ok(config) => config,
        Err(error) => {
            println!("wrong  {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut findings = vec![Finding::Good("the configuration can be read".into())];
    findings.push(match config.validate() {
        Ok(()) => Finding::Good(format!(
            "the ladder has {} rungs below the source",
            config.transcode.ladder.len()
        )),
        Err(error) => Finding::Wrong(error.to_string()),
    });
    findings.extend(ports(&config).await);
    findings.extend(certificate(&config));
    findings.push(store(&config));
    findings.extend(webhooks(&config));
    let probed = tokio::task::spawn_blocking(transcode::probe)
        .await
        .unwrap_or_default();
    findings.extend(
        probed
            .iter()
            .map(|finding| Finding::Good(finding.to_string())),
    );
    let mut wrong = 0;
    for finding in &findings {
        match finding {
            Finding::Good(text) => println!("ok     {text}"),
            Finding::Wrong(text) => {
                wrong += 1;
                println!("wrong  {text}");
            }
        }
    }
    match wrong {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

async fn ports(config: &Config) -> Vec<Finding> {
    let listens = [
        ("web.listen", config.web.listen.0),
        (
            "web.tls_listen",
            config.web.tls_listen.0.filter(|_| config.tls.is_trusted()),
        ),
        ("ingest.rtmp", config.ingest.rtmp.0),
        ("ingest.rtmps", config.ingest.rtmps.0),
    ];
    let mut findings = Vec::new();
    for (key, address) in listens {
        let Some(address) = address else { continue };
        findings.push(match media_core::ingest::listen(address).await {
            Ok(_) => Finding::Good(format!(
                "{key} can listen on {address}: let port {}/tcp in from outside",
                address.port()
            )),
            Err(error) => Finding::Wrong(format!(
                "{key} cannot listen on {address}: {error}; is Ghost Live running already?"
            )),
        });
    }
    findings
}

fn certificate(config: &Config) -> Vec<Finding> {
    let files = match config.tls.certificate() {
        Ok(Certificate::SelfSigned) => {
            return vec![Finding::Good("no certificate is configured: RTMPS is self-signed (OBS refuses that) and HTTPS is off".into())];
        }
        Ok(Certificate::Acme(acme)) => return acme_ports(config, acme),
        Ok(Certificate::Files(files)) => files,
        // Said by `validate` already.
        Err(_) => return Vec::new(),
    };
    vec![match tls::load(&files) {
        Ok(_) => Finding::Good(format!(
            "the certificate {} and its key belong together",
            files.certificate.display()
        )),
        Err(error) => Finding::Wrong(error.to_string()),
    }]
}

/// What the certificate authority must be able to reach. Whether it can is seen only from outside.
fn acme_ports(config: &Config, acme: &acme::Config) -> Vec<Finding> {
    let (challenge, outside, key, listen) = match acme.challenge {
        acme::Challenge::TlsAlpn01 => ("tls-alpn-01", 443, "web.tls_listen", config.web.tls_listen),
        acme::Challenge::Http01 => ("http-01", 80, "web.listen", config.web.listen),
    };
    let here = match listen.0 {
        Some(address) if address.port() == outside => String::new(),
        Some(address) => format!(
            "; forward it to port {}, or set {key} to port {outside}",
            address.port()
        ),
        // Said by `validate` already.
        None => return Vec::new(),
    };
    let domains = acme.domains.iter();
    domains
        .map(|domain| {
            Finding::Good(format!(
                "{} gives {domain} a certificate by {challenge} once port {outside}/tcp of {domain} reaches {key} from outside{here}",
                acme.directory
            ))
        })
        .collect()
}

/// Whether the webhooks can be asked, and whether anybody else could pass for the server.
fn webhooks(config: &Config) -> Vec<Finding> {
    let hooks = match config.hooks() {
        Ok(hooks) => hooks,
        Err(error) => return vec![Finding::Wrong(format!("{error:#}"))],
    };
    let finding = |one: &Configured| {
        let name = &one.hook.name;
        if one.secret.is_short() {
            return Finding::Wrong(format!(
                "webhooks.{name}: the secret has less than {GOOD_SECRET} characters, and could be guessed: `openssl rand -hex 32` makes a good one"
            ));
        }
        if one.hook.is_plain() {
            return Finding::Wrong(format!(
                "webhooks.{name}: url is http:// to the public internet, where everybody on the way reads who publishes and watches: use https://"
            ));
        }
        Finding::Good(format!(
            "webhook {name} is signed for and decides over streams {}",
            one.hook.streams
        ))
    };
    hooks.all().iter().map(finding).collect()
}

fn store(config: &Config) -> Finding {
    // Only to see whether the address can be used: nothing is sent.
    let remote = config
        .edge
        .url
        .as_deref()
        .map(|url| RemoteEdge::new(url, LinkSecret::new("")));
    let remote = match remote.transpose() {
        Ok(remote) => remote,
        Err(error) => return Finding::Wrong(format!("edge.url: {error}")),
    };
    if config.store.kind == store::Kind::Local {
        // Opening it would make it, and looking must not change anything.
        let folder = config.store.folder.as_deref();
        let folder = config.data.join(folder.unwrap_or("media".as_ref()));
        return Finding::Good(format!("media will lie in {}", folder.display()));
    }
    match Store::open(&config.store, &config.data, remote.as_ref()) {
        Ok(_) => Finding::Good("the object store is configured".into()),
        Err(error) => Finding::Wrong(error.to_string()),
    }
}
