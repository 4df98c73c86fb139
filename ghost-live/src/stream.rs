//! `ghost-live stream`: the streams of the edge on this machine.

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use edge_worker::{
    directory::settings::{Change, Title, Visibility},
    native as web,
};
use protocol::names::StreamName;

use crate::{Files, config::Config, up};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the streams: name, who may watch and title, separated by tabs.
    List {
        #[command(flatten)]
        files: Files,
    },
    /// Make a stream, and print its key.
    Create {
        /// The stream.
        stream: StreamName,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        files: Files,
    },
    /// Change what a stream is to viewers. A running server takes it up by itself.
    Set {
        /// The stream.
        stream: StreamName,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        files: Files,
    },
    /// Delete a stream with its key, its links and its media. A running server ends its broadcast.
    Delete {
        /// The stream.
        stream: StreamName,
        #[command(flatten)]
        files: Files,
    },
}

/// What a stream is to viewers.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Who may watch: public, unlisted or token.
    #[arg(long)]
    visibility: Option<Visibility>,
    /// What it is called; an empty one takes the title away.
    #[arg(long)]
    title: Option<String>,
}

impl Settings {
    fn change(self) -> anyhow::Result<Change> {
        let title = match self.title.as_deref().map(str::trim) {
            None => None,
            Some("") => Some(None),
            Some(title) => Some(Some(title.parse::<Title>()?)),
        };
        Ok(Change {
            visibility: self.visibility,
            title,
            ..Change::default()
        })
    }
}

fn database(files: &Files) -> anyhow::Result<web::Database> {
    let config = Config::load(files)?;
    if let (Some(url), None) = (&config.edge.url, &files.data) {
        bail!(
            "the edge that keeps the streams is {url}: run this on its machine, name its data folder by --data, or ask its /api/streams"
        );
    }
    let database = web::Database::find(&up::edge_folder(&config))?;
    database.context("there is no directory in the data folder yet: start once")
}

/// Runs a command.
///
/// # Errors
/// A sentence for the operator.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List { files } => {
            let directory = database(&files)?.directory()?;
            for stream in directory.streams() {
                let title = stream.title.as_ref().map(Title::as_str);
                let (name, visibility) = (&stream.name, stream.visibility.as_str());
                println!("{name}\t{visibility}\t{}", title.unwrap_or_default());
            }
        }
        Command::Create {
            stream,
            settings,
            files,
        } => {
            // The owner's own streams are not counted.
            let (settings, now) = (settings.change()?, up::unix_ms());
            let made = database(&files)?.create(&stream, &settings, |_| Ok(()), now)?;
            println!("{}", made.key.reveal());
        }
        Command::Set {
            stream,
            settings,
            files,
        } => database(&files)?.change_settings(&stream, &settings.change()?)?,
        Command::Delete { stream, files } => database(&files)?.delete(&stream, up::unix_ms())?,
    }
    Ok(())
}
