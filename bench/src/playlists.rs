//! `bench playlists`: playlist requests a second, and the CPU of one, beside bare hyper that sends the same bytes.

use anyhow::{Context, Result, ensure};

use crate::{
    child::{self, Process},
    table,
    waiters::record,
};

/// Options of `bench playlists`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kept connections, of which each asks again when it was answered.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Seconds of each row and run.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Runs of each, in turn; the table has the medians.
    #[arg(long, default_value_t = 3)]
    runs: u32,
}

#[derive(Default)]
struct Seen {
    rate: Vec<f64>,
    cpu: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

struct Row {
    name: &'static str,
    coding: &'static str,
    bytes: usize,
    path: String,
    /// Which server.
    server: usize,
    clients: Process,
    seen: Seen,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(
        args.connections > 0 && args.runs > 0 && args.seconds > 0.0,
        "every option is over 0"
    );
    child::ensure_files(args.connections * 6 + 100)?;
    let folder = tempfile::tempdir()?;
    let machine = child::machine();
    let (mut edge, address) = Process::start(&["edge"])?;
    let path = edge.ask("path")?;
    let mut servers = vec![edge];
    let mut rows = Vec::new();
    for coding in ["identity", "gzip", "br"] {
        let recorded = record(&address, &path, coding, folder.path().join(coding))?;
        let (hyper, hyper_address) = Process::start(&["hyper", &recorded.path.to_string_lossy()])?;
        servers.push(hyper);
        for (name, server, address, path) in [
            ("Ghost Live's edge", 0, &address, path.as_str()),
            ("bare hyper", servers.len() - 1, &hyper_address, "/"),
        ] {
            let (mut clients, _) = Process::start(&["client"])?;
            clients.ask(&format!("connect {address} {}", args.connections))?;
            rows.push(Row {
                name,
                coding,
                bytes: recorded.bytes,
                path: path.to_owned(),
                server,
                clients,
                seen: Seen::default(),
            });
        }
    }
    println!(
        "a media playlist with a full window over {} kept HTTP/1.1 connections, loopback, the clients beside it; median of {} runs of {} s; {machine}\n",
        args.connections, args.runs, args.seconds
    );
    for _ in 0..args.runs {
        for row in &mut rows {
            let server = servers.get(row.server).context("a row has no server")?;
            let before = server.cpu()?;
            let said = row.clients.ask(&format!(
                "load {} {} {}",
                row.path, row.coding, args.seconds
            ))?;
            let cpu = (server.cpu()? - before).as_secs_f64() * 1e6;
            let mut numbers = said.split(' ').map(str::parse::<f64>);
            let mut next = || {
                numbers
                    .next()
                    .and_then(Result::ok)
                    .context("the clients said too little")
            };
            let (requests, elapsed) = (next()?, next()?);
            row.seen.rate.push(requests / elapsed * 1e6);
            row.seen.cpu.push(cpu / requests);
            row.seen.p50.push(next()? / 1e3);
            row.seen.p99.push(next()? / 1e3);
        }
    }
    let middle = |numbers: &Vec<f64>| table::median(numbers.clone());
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let peer = rows
                .iter()
                .find(|peer| peer.coding == row.coding && peer.server > 0);
            let ratio = peer.map_or(f64::NAN, |peer| {
                middle(&row.seen.cpu) / middle(&peer.seen.cpu)
            });
            vec![
                row.name.to_owned(),
                row.coding.to_owned(),
                row.bytes.to_string(),
                format!("{:.0}", middle(&row.seen.rate)),
                format!("{:.1}", middle(&row.seen.cpu)),
                format!("{ratio:.2}"),
                format!("{:.2}", middle(&row.seen.p50)),
                format!("{:.2}", middle(&row.seen.p99)),
            ]
        })
        .collect();
    table::print(
        &[
            "who answers",
            "coding",
            "bytes",
            "requests a second",
            "CPU us a request",
            "times bare hyper's CPU",
            "p50 ms",
            "p99 ms",
        ],
        &lines,
    );
    Ok(())
}
