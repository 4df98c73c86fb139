//! `ghost-live check`: what is wrong with the configuration and the machine, before anything is started.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::ExitCode};

use edge_worker::webhooks::{Configured, signature::GOOD_SECRET};
use media_core::{
    publish::{RemoteEdge, Store, store},
    tls::{self, acme},
    transcode,
};
use protocol::{cidr::Cidr, link_auth::LinkSecret};
use zeroize::Zeroizing;

use crate::{
    Files,
    config::{Certificate, Config},
    up,
};

/// Fewest characters of a link secret.
const MIN_SECRET: usize = 32;

/// What was found of one thing.
enum Finding {
    Good(String),
    /// It works, and should not be so.
    Risky(String),
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
    findings.extend(secrets(&config));
    findings.extend(addresses(&config));
    findings.extend(tenants(&config));
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
            Finding::Risky(text) => println!("risky  {text}"),
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

/// Files with secrets by the key that names them, or by what they are.
fn secret_files(config: &Config) -> Vec<(String, PathBuf)> {
    let link = config.edge.link_secret_file.clone();
    let link = link.unwrap_or_else(|| config.data.join("link-secret"));
    let edge = up::edge_folder(config);
    let mut files = vec![("edge.link_secret_file".to_owned(), link)];
    for name in ["token-keys.json", "seal-secret", "directory.sqlite"] {
        files.push((name.to_owned(), edge.join(name)));
    }
    let named = [
        ("tls.key", &config.tls.key),
        (
            "store.s3.secret_access_key_file",
            &config.store.s3.secret_access_key_file,
        ),
    ];
    for (key, path) in named {
        files.extend(path.clone().map(|path| (key.to_owned(), path)));
    }
    for hook in &config.webhooks {
        let path = hook.secret_file.as_ref().map(PathBuf::from);
        files.extend(path.map(|path| (format!("webhooks.{}: secret_file", hook.name), path)));
    }
    files
}

/// What is wrong with a secret that somebody chose; `None` when nothing is.
fn weakness(secret: &str) -> Option<&'static str> {
    let lower = secret.to_ascii_lowercase();
    let usual = ["minioadmin", "changeme", "password", "secret", "example"];
    let mut characters: Vec<char> = secret.chars().collect();
    characters.sort_unstable();
    characters.dedup();
    if usual.iter().any(|word| lower.contains(word)) {
        return Some("is one that everybody tries first");
    }
    (characters.len() < 8).then_some("has too few different characters")
}

/// Secrets that could be guessed, and files that others on this machine can read.
fn secrets(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut kept = 0;
    for (name, path) in secret_files(config) {
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        kept += 1;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            findings.push(Finding::Risky(format!(
                "{name}: others on this machine can get at {} (mode {mode:04o}): chmod 600",
                path.display()
            )));
        }
        let chosen = name.contains("secret_file") || name.contains("secret_access_key");
        let Some(text) = chosen
            .then(|| fs::read_to_string(&path).ok().map(Zeroizing::new))
            .flatten()
        else {
            continue;
        };
        let text = text.trim();
        if name == "edge.link_secret_file" && text.len() < MIN_SECRET {
            findings.push(Finding::Wrong(format!(
                "{name}: the link secret in {} has less than {MIN_SECRET} characters: `openssl rand -hex 32` makes a good one",
                path.display()
            )));
        } else if let Some(why) = weakness(text) {
            findings.push(Finding::Risky(format!(
                "{name}: the secret in {} {why}: `openssl rand -hex 32` makes a good one",
                path.display()
            )));
        }
    }
    if findings.is_empty() && kept > 0 {
        findings.push(Finding::Good(format!(
            "{kept} files with secrets are their owner's alone"
        )));
    }
    findings
}

/// Beginnings of names that cover more than is meant.
fn tenants(config: &Config) -> Vec<Finding> {
    let issuers = config.access.issuers.iter();
    let issuers = issuers.map(|one| (format!("access.issuers: {}", one.issuer), &one.tenant));
    let tenants = config.tenants.0.iter();
    // "" is all of them together, which is meant there.
    let tenants = tenants.filter(|one| !one.prefix.is_empty());
    let tenants = tenants.map(|one| (format!("tenants: {:?}", one.prefix), &one.prefix));
    let findings = issuers.chain(tenants).filter_map(|(who, prefix)| {
        let risk = if prefix.is_empty() {
            "signs for every stream of this server, to manage them as well: name the beginning of its streams' names".to_owned()
        } else if !prefix.ends_with(['-', '_']) {
            format!("{prefix:?} is also how other names begin, such as {prefix}2: end it with '-' or '_'")
        } else {
            return None;
        };
        Some(Finding::Risky(format!("{who} {risk}")))
    });
    findings.collect()
}

/// Lists of addresses that cannot be meant.
fn addresses(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let any = |range: &&Cidr| range.is_all();
    if let Some(range) = config.web.proxy_from.iter().find(any) {
        findings.push(Finding::Risky(format!(
            "web.proxy_from has {range}: whoever asks can say who they are, and neither rates nor address rules hold"
        )));
    }
    if let Some(range) = config.ingest.proxy_from.iter().find(any) {
        findings.push(Finding::Risky(format!(
            "ingest.proxy_from has {range}: every publisher can say who it is"
        )));
    }
    findings
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
