//! `ghost-live token`: makes tokens, shows and changes the keys that sign them.

use std::{num::NonZeroU32, time::Duration};

use anyhow::{Context, bail};
use clap::{ArgGroup, Args, Subcommand};
use edge_worker::{
    access::{Access, TakeBack, Wanted},
    native as web,
};
use protocol::token::{Action, Actions, Revoked, StreamPattern};

use crate::{Files, config::Config, up};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print a new token.
    Mint {
        #[command(flatten)]
        wanted: Flags,
        #[command(flatten)]
        files: Files,
    },
    /// Print the public keys of this installation's tokens, as /.well-known/jwks.json has them.
    Keys {
        #[command(flatten)]
        files: Files,
    },
    /// Take tokens back: whoever came with one is out within seconds. A running server takes it up by itself.
    #[command(group(ArgGroup::new("what").required(true)))]
    Revoke {
        /// The token with this id (its claim `jti`).
        #[arg(long, value_name = "JTI", group = "what")]
        id: Option<String>,
        /// All tokens that this subject was given so far.
        #[arg(long, value_name = "NAME", group = "what")]
        subject: Option<String>,
        /// All tokens so far.
        #[arg(long, group = "what")]
        all: bool,
        /// For which streams: a name, or the beginning of names and then `*`.
        #[arg(long, default_value = "*")]
        stream: StreamPattern,
        /// Who signed them [default: this installation].
        #[arg(long, value_name = "ISSUER")]
        issuer: Option<String>,
        #[command(flatten)]
        files: Files,
    },
    /// Sign with a new key from now on. A running server takes it up by itself.
    Rotate {
        /// How long tokens of the old key stay good: 0s makes them void at once.
        #[arg(long, value_name = "TIME", default_value = "7d", value_parser = duration)]
        overlap: Duration,
        #[command(flatten)]
        files: Files,
    },
}

/// What a token is to say.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// A stream, or the beginning of streams' names and then `*`.
    #[arg(long)]
    stream: StreamPattern,
    /// What it allows: publish, watch, chat, moderate or manage. May be given several times.
    #[arg(long = "act", required = true)]
    actions: Vec<Action>,
    /// Whom it is for [default: owner].
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// How long it begins new sessions, such as 90s, 30m, 12h, 30d.
    #[arg(long = "for", value_name = "TIME", default_value = "24h", value_parser = duration)]
    good_for: Duration,
    /// When a session that it began ends, from now [default: never by itself].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    session: Option<Duration>,
    /// A network that it may be used from, such as 192.0.2.0/24. May be given several times [default: any].
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    ip: Vec<ipnet::IpNet>,
    /// On how many devices at a time [default: any number].
    #[arg(long, value_name = "NUMBER")]
    devices: Option<NonZeroU32>,
}

/// A network in CIDR form, or one address.
fn network(text: &str) -> Result<ipnet::IpNet, String> {
    let one = |_| text.parse().map(|address: std::net::IpAddr| address.into());
    text.parse::<ipnet::IpNet>()
        .or_else(one)
        .map_err(|_: std::net::AddrParseError| {
            "give a network such as 192.0.2.0/24 or 2001:db8::/32, or one address".to_owned()
        })
}

/// A whole number of seconds, minutes, hours or days.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "give a number and s, m, h or d, such as 30d".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

/// Does what the command line says.
///
/// # Errors
/// A sentence for the operator.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Mint { wanted, files } => {
            let Flags {
                stream,
                actions,
                subject,
                good_for,
                session,
                ip,
                devices,
            } = wanted;
            let wanted = Wanted {
                stream,
                act: Actions::new(actions).context("a token without an action allows nothing")?,
                sub: subject,
                for_s: Some(good_for.as_secs()),
                session_s: session.map(|time| time.as_secs()),
                ip,
                max: devices,
            };
            let mut id = [0; 12];
            getrandom::fill(&mut id).context("the system gives no random bits")?;
            let database = web::Database::find(&up::edge_folder(&here(&files)?))?;
            let database = database.as_ref().map(|database| database.known());
            let revoked = database.as_ref().map(|known| known.revocations().clone());
            let revoked = revoked.unwrap_or_default();
            let minted = access(&files)?.mint_as_owner(&wanted, &revoked, id, up::unix_ms())?;
            println!("{}", minted.token);
        }
        Command::Keys { files } => {
            let jwks = access(&files)?.jwks(up::unix_ms());
            println!("{}", serde_json::to_string_pretty(&jwks)?);
        }
        Command::Revoke {
            id,
            subject,
            all: _,
            stream,
            issuer,
            files,
        } => {
            let config = here(&files)?;
            let iss = issuer.unwrap_or_else(|| config.access.installation.clone());
            let what = match (id, subject) {
                (Some(jti), _) => Revoked::Token { iss, jti },
                (None, Some(sub)) => Revoked::Subject { iss, sub },
                (None, None) => Revoked::All,
            };
            let now = up::unix_ms();
            let streams = stream;
            let revocation = TakeBack { what, streams }.revocation(now);
            let database = web::Database::find(&up::edge_folder(&config))?;
            let mut database =
                database.context("there is no directory in the data folder yet: start once")?;
            database.revoke(revocation, now)?;
        }
        Command::Rotate { overlap, files } => {
            let config = here(&files)?;
            web::rotate_keyring(&up::edge_folder(&config), overlap)?;
            eprintln!("A new key signs from now on.");
        }
    }
    Ok(())
}

/// The configuration, where the edge that has the keys runs on this machine, or its folder is named.
fn here(files: &Files) -> anyhow::Result<Config> {
    let config = Config::load(files)?;
    if let (Some(url), None) = (&config.edge.url, &files.data) {
        bail!(
            "the edge that signs tokens is {url}: run this on its machine, name the folder of its keys by --data, or ask its POST /api/tokens"
        );
    }
    Ok(config)
}

fn access(files: &Files) -> anyhow::Result<Access> {
    let config = here(files)?;
    let keyring = web::load_keyring(&up::edge_folder(&config))?;
    Ok(Access::new(
        &config.access.installation,
        keyring,
        &config.access.issuers,
    )?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_are_a_number_and_a_unit() {
        for (text, seconds) in [
            ("90s", 90),
            ("30m", 1_800),
            ("12h", 43_200),
            ("30d", 2_592_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in [
            "",
            "s",
            "30",
            "d30",
            "-1d",
            "1.5h",
            "30 d",
            "1w",
            "é",
            "999999999999999999d",
        ] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_network_may_be_one_address() {
        assert_eq!(network("192.0.2.1").unwrap().to_string(), "192.0.2.1/32");
        assert_eq!(
            network("2001:db8::/32").unwrap().to_string(),
            "2001:db8::/32"
        );
        assert!(network("home").is_err());
    }
}
