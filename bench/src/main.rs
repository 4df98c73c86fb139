//! The benchmarks. Each subcommand prints one table: what this project costs beside a peer or a bound that was measured in the same run, on the same machine,
//! with the same input.
//!
//! A new one is a module with an `Args` (clap) and a `run`, and a line in `Bench` and in `main`.

#![forbid(unsafe_code)]

mod child;
mod client;
mod cpu;
mod feed;
mod ingest;
mod ladder;
mod playlists;
mod servers;
mod table;
mod waiters;
mod webhooks;

use clap::Parser;

// The one of `ghost-live`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(
    name = "bench",
    about = "Benchmarks of Ghost Live, beside peers and bounds"
)]
enum Bench {
    /// CPU seconds a media second of the ladder, beside the ffmpeg command doing the same.
    Ladder(ladder::Args),
    /// Blocked playlist requests: when the last is answered, and memory of one, beside bare hyper and a bare loop.
    Waiters(waiters::Args),
    /// Playlist requests a second and CPU of one, beside bare hyper that sends the same bytes.
    Playlists(playlists::Args),
    /// Untouched RTMP streams: CPU of one, beside a bare reader of the same bytes.
    Ingest(ingest::Args),
    /// Playlists and admissions of others while a webhook's server hangs, is dead or lies, beside one that answers.
    Webhooks(webhooks::Args),
    /// A process that another subcommand starts.
    #[command(subcommand, hide = true)]
    Child(Child),
}

#[derive(clap::Subcommand)]
enum Child {
    Edge,
    Hyper { recorded: String },
    Loop { recorded: String },
    Client,
    Ingest,
    Sink,
    Publishers { clip: String },
    Hooks,
    Hooked { addresses: String, runs: String },
}

fn main() -> anyhow::Result<()> {
    match Bench::parse() {
        Bench::Ladder(args) => ladder::run(&args),
        Bench::Waiters(args) => waiters::run(&args),
        Bench::Playlists(args) => playlists::run(&args),
        Bench::Ingest(args) => ingest::run(&args),
        Bench::Webhooks(args) => webhooks::run(&args),
        Bench::Child(Child::Loop { recorded }) => servers::bare_loop(&recorded),
        Bench::Child(child) => {
            let runtime = tokio::runtime::Runtime::new()?;
            let done = runtime.block_on(async {
                match child {
                    Child::Edge => servers::edge().await,
                    Child::Hyper { recorded } => servers::hyper(&recorded).await,
                    Child::Loop { recorded } => servers::bare_loop(&recorded),
                    Child::Client => client::run().await,
                    Child::Ingest => ingest::ingest().await,
                    Child::Sink => ingest::sink().await,
                    Child::Publishers { clip } => ingest::publishers(&clip).await,
                    Child::Hooks => webhooks::hooks().await,
                    Child::Hooked { addresses, runs } => webhooks::edge(&addresses, &runs).await,
                }
            });
            // A read of the standard input may still be under way.
            runtime.shutdown_background();
            done
        }
    }
}
