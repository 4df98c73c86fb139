//! `ghost-live`: live streaming with chat, all of it in one binary.

#![forbid(unsafe_code)]

mod assets;
mod check;
mod config;
mod demo;
mod explain;
mod panel;
mod stream;
mod streams;
mod token;
mod up;
mod webhooks;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use protocol::names::StreamName;

// A part wakes thousands of viewers at once, each with a few short-lived buffers: the system's allocator took a third of that time
// (`bench waiters`). libav keeps its own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Self-hosted live streaming: RTMPS in, LL-HLS and DASH out.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Files {
    /// The configuration file [default: ghost-live.toml where there is one].
    #[arg(long, value_name = "FILE", env = "GHOST_LIVE_CONFIG")]
    config: Option<PathBuf>,
    /// Where keys, certificates and media are kept [default: ./data].
    #[arg(long, value_name = "FOLDER", env = "GHOST_LIVE_DATA")]
    data: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything in one process.
    Up {
        #[command(flatten)]
        files: Files,
        /// Also publish a test picture over RTMPS as stream `demo`.
        #[arg(long)]
        demo: bool,
    },
    /// Run only ingest, transcode and publish, for a remote edge ([edge] in the configuration).
    MediaCore {
        #[command(flatten)]
        files: Files,
    },
    /// Run only the edge: playlists, media and pages.
    Edge {
        #[command(flatten)]
        files: Files,
    },
    /// Look through the configuration and the machine, and say what is wrong.
    Check {
        #[command(flatten)]
        files: Files,
    },
    /// Stream keys.
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Streams: who may watch them, and which there are.
    Stream {
        #[command(subcommand)]
        command: stream::Command,
    },
    /// Tokens that let somebody publish, watch or manage.
    Token {
        #[command(subcommand)]
        command: token::Command,
    },
    /// Events that no webhook took.
    Webhooks {
        #[command(subcommand)]
        command: webhooks::Command,
    },
    /// The bucket of the object store.
    Bucket {
        #[command(subcommand)]
        command: BucketCommand,
    },
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Print the key of a stream.
    Show {
        /// The stream.
        stream: StreamName,
        #[command(flatten)]
        files: Files,
    },
    /// Give a stream a new key, and print it. The old one is void, and what is live with it ends.
    Rotate {
        /// The stream.
        stream: StreamName,
        /// How long the old one goes on opening broadcasts, 30d at the most; with it, what is live stays so.
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = token::duration)]
        overlap: Duration,
        #[command(flatten)]
        files: Files,
    },
}

#[derive(Debug, Subcommand)]
enum BucketCommand {
    /// Create the bucket if it is absent, and set its CORS and lifecycle rules.
    Init {
        #[command(flatten)]
        files: Files,
        /// Objects older than this are deleted by the store itself, days: a net under what the server deletes. More than your longest
        /// broadcast takes [default: 30, and never with publish.keep].
        #[arg(long)]
        expire_days: Option<u32>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("GHOST_LIVE_LOG")
        .unwrap_or_else(|_| "info,object_store=warn,hyper=warn".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(std::io::stderr)
        .init();
    let done = match cli.command {
        Command::Up { files, demo } => up::up(&files, up::Parts::All { demo }).await,
        Command::MediaCore { files } => up::up(&files, up::Parts::MediaCore).await,
        Command::Edge { files } => up::up(&files, up::Parts::Edge).await,
        Command::Check { files } => return check::check(&files).await,
        Command::Key {
            command: KeyCommand::Show { stream, files },
        } => up::show_key(&files, &stream).await,
        Command::Key {
            command:
                KeyCommand::Rotate {
                    stream,
                    overlap,
                    files,
                },
        } => up::rotate_key(&files, &stream, overlap).await,
        Command::Stream { command } => stream::run(command),
        Command::Token { command } => token::run(command),
        Command::Webhooks { command } => webhooks::run(command),
        Command::Bucket {
            command: BucketCommand::Init { files, expire_days },
        } => up::init_bucket(&files, expire_days).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `{:#}` puts the causes in one line: a person reads it, not a debugger.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
