//! The benchmarks. Each subcommand prints one table: what this project costs beside a peer or a bound that was measured in the same run, on the same machine,
//! with the same input.
//!
//! A new one is a module with an `Args` (clap) and a `run`, and a line in `Bench` and in `main`.

#![forbid(unsafe_code)]

mod cpu;
mod ladder;
mod table;

use clap::Parser;

#[derive(Parser)]
#[command(
    name = "bench",
    about = "Benchmarks of Ghost Live, beside peers and bounds"
)]
enum Bench {
    /// CPU seconds a media second of the ladder, beside the ffmpeg command doing the same.
    Ladder(ladder::Args),
}

fn main() -> anyhow::Result<()> {
    match Bench::parse() {
        Bench::Ladder(args) => ladder::run(&args),
    }
}
