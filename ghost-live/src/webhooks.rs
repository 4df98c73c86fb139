//! `ghost-live webhooks`: events that could not be told, and their second chance.

use anyhow::{Context, bail};
use clap::{ArgGroup, Subcommand};
use edge_worker::{
    native as web,
    webhooks::sql::{self, DeadRow},
};

use crate::{Files, config::Config, up};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the events that no webhook took: when, webhook, stream, attempts, id, and why, separated by tabs.
    List {
        #[command(flatten)]
        files: Files,
    },
    /// Send such events again. A running server does it within seconds, another at its next start.
    #[command(group(ArgGroup::new("which").required(true).multiple(true)))]
    Resend {
        /// Those of this webhook.
        #[arg(long, value_name = "NAME", group = "which")]
        webhook: Option<String>,
        /// The one with this id.
        #[arg(long, value_name = "ID", group = "which")]
        id: Option<String>,
        /// All of them.
        #[arg(long, group = "which", conflicts_with_all = ["webhook", "id"])]
        all: bool,
        #[command(flatten)]
        files: Files,
    },
}

fn database(files: &Files) -> anyhow::Result<web::Database> {
    let config = Config::load(files)?;
    let database = web::Database::find(&up::edge_folder(&config))?;
    database.context("there is no directory in the data folder yet: start once")
}

/// Runs a command.
///
/// # Errors
/// When the directory cannot be read or changed, or nothing is there to be sent again.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List { files } => {
            let dead: Vec<DeadRow> = database(&files)?.read(&sql::dead(i64::MAX))?;
            for event in dead {
                println!(
                    "{}\t{}\t{}\t{}\t{}\t{}",
                    edge_worker::playlist::iso8601(event.created_unix_ms as i64),
                    event.webhook,
                    event.stream,
                    event.attempts,
                    event.id,
                    event.error.unwrap_or_default()
                );
            }
            Ok(())
        }
        Command::Resend {
            webhook,
            id,
            all: _,
            files,
        } => {
            let resend = sql::resend(webhook.as_deref(), id.as_deref(), up::unix_ms());
            match database(&files)?.execute(&[resend])? {
                0 => bail!(
                    "there is no such event: `ghost-live webhooks list` has those that there are"
                ),
                1 => println!("1 event is sent again"),
                many => println!("{many} events are sent again"),
            }
            Ok(())
        }
    }
}
