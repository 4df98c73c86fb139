//! `bench waiters`: how long until the last of many blocked playlist requests is answered, and what one that waits costs.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};

use crate::{
    child::{self, Process},
    client,
    servers::head_end,
    table,
};

/// Options of `bench waiters`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Connections that wait.
    #[arg(long, default_value_t = 1_000)]
    count: usize,
    /// Parts that are published; the table has the medians.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// What the clients accept; browsers over plain HTTP accept gzip.
    #[arg(long, default_value = "gzip")]
    coding: String,
}

/// A waiter may cost so much beyond its connection, bytes.
const BUDGET_BYTES: u64 = 4_096;

/// What one server did.
#[derive(Default)]
struct Seen {
    p50: Vec<f64>,
    p99: Vec<f64>,
    max: Vec<f64>,
    /// CPU microseconds an answer.
    cpu: Vec<f64>,
    /// Resident memory a connection that waits, bytes.
    memory: Option<f64>,
}

struct Pair {
    name: &'static str,
    server: Process,
    clients: Process,
    /// Resident memory before there was a connection, bytes.
    idle: u64,
    seen: Seen,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(
        args.count > 0 && args.rounds > 0,
        "--count and --rounds are 1 or more"
    );
    child::ensure_files(args.count + 100)?;
    let folder = tempfile::tempdir()?;
    let machine = child::machine();
    let (mut edge, address) = Process::start(&["edge"])?;
    let path = edge.ask("path")?;
    let recorded = record(&address, &path, &args.coding, folder.path().join("answer"))?;
    let file = recorded.path.to_string_lossy().into_owned();
    let (hyper, hyper_address) = Process::start(&["hyper", &file])?;
    let (bare, bare_address) = Process::start(&["loop", &file])?;
    println!(
        "{} blocked playlist requests on kept HTTP/1.1 connections, loopback; answers of {} bytes ({}); median of {} parts; {machine}\n",
        args.count, recorded.bytes, args.coding, args.rounds
    );
    let mut pairs = Vec::new();
    for (name, server, address) in [
        ("Ghost Live's edge", edge, address),
        ("bare hyper on a watch channel", hyper, hyper_address),
        ("bare loop over the sockets", bare, bare_address),
    ] {
        let idle = server.resident()?;
        let (mut clients, _) = Process::start(&["client"])?;
        clients.ask(&format!("connect {address} {}", args.count))?;
        server.settle()?;
        pairs.push(Pair {
            name,
            server,
            clients,
            idle,
            seen: Seen::default(),
        });
    }
    // In turn, so that a busy machine is busy for all of them; the first round is what fills caches and buffers, and tells of memory only.
    for round in 0..=args.rounds {
        for pair in &mut pairs {
            pair.round(args, round > 0)?;
        }
    }
    report(args, &pairs);
    Ok(())
}

impl Pair {
    fn is_edge(&self) -> bool {
        self.name.starts_with("Ghost")
    }

    fn round(&mut self, args: &Args, counts: bool) -> Result<()> {
        let path = if self.is_edge() {
            self.server.ask("next")?
        } else {
            "/wait".to_owned()
        };
        self.clients.ask(&format!("ask {path} {}", args.coding))?;
        self.clients.settle()?;
        self.server.settle()?;
        if !counts {
            let grown = self.server.resident()?.saturating_sub(self.idle);
            self.seen.memory = Some(grown as f64 / args.count as f64);
        }
        let cpu = self.server.cpu()?;
        let published = self.server.ask("publish")?;
        let answers = self.clients.ask(&format!("answers {published}"))?;
        let cpu = self.server.cpu()? - cpu;
        if self.is_edge() {
            self.server.ask("rest")?;
        }
        if counts {
            let mut times = answers.split(' ').map(str::parse::<f64>);
            let mut next = || times.next()?.ok().map(|us| us / 1e3);
            self.seen.p50.push(next().context("no median")?);
            self.seen.p99.push(next().context("no 99th percentile")?);
            self.seen.max.push(next().context("no maximum")?);
            self.seen
                .cpu
                .push(cpu.as_secs_f64() * 1e6 / args.count as f64);
        }
        Ok(())
    }
}

fn report(args: &Args, pairs: &[Pair]) {
    let middle = |numbers: &Vec<f64>| table::median(numbers.clone());
    let last = |name: &str| {
        pairs
            .iter()
            .find(|pair| pair.name.contains(name))
            .map(|pair| middle(&pair.seen.max))
    };
    let (edge, bare) = (
        last("edge").unwrap_or(f64::NAN),
        last("loop").unwrap_or(f64::NAN),
    );
    let rows: Vec<Vec<String>> = pairs
        .iter()
        .map(|pair| {
            let seen = &pair.seen;
            let worst = seen.max.iter().copied().fold(0.0, f64::max);
            let memory = seen.memory.filter(|_| !pair.name.contains("loop"));
            vec![
                pair.name.to_owned(),
                format!("{:.1}", middle(&seen.p50)),
                format!("{:.1}", middle(&seen.p99)),
                format!("{:.1}", middle(&seen.max)),
                format!("{worst:.1}"),
                format!("{:.2}", middle(&seen.max) / bare),
                format!("{:.0}", middle(&seen.cpu)),
                memory.map_or("-".to_owned(), |bytes| format!("{bytes:.0}")),
            ]
        })
        .collect();
    table::print(
        &[
            "who answers",
            "p50 ms",
            "p99 ms",
            "last ms",
            "worst last ms",
            "last, times the loop's",
            "CPU us an answer",
            "bytes a waiting connection",
        ],
        &rows,
    );
    // 20 ms for 1,000 and 150 ms for 10,000, in between in proportion.
    let budget = 20.0 + (args.count as f64 - 1_000.0).max(0.0) * 130.0 / 9_000.0;
    let verdict = |kept| if kept { "kept" } else { "missed" };
    println!(
        "\nlast answer: {edge:.1} ms of {budget:.0} ms: {}",
        verdict(edge <= budget)
    );
    let memory = |name: &str| {
        pairs
            .iter()
            .find(|pair| pair.name.contains(name))
            .and_then(|pair| pair.seen.memory)
    };
    if let (Some(edge), Some(hyper)) = (memory("edge"), memory("hyper")) {
        let beyond = edge - hyper;
        println!(
            "memory of a waiter beyond its connection (bare hyper's): {beyond:.0} bytes of {BUDGET_BYTES}: {}",
            verdict(beyond <= BUDGET_BYTES as f64)
        );
    }
}

/// An answer as it came over the wire, in a file.
pub(crate) struct Record {
    pub(crate) path: PathBuf,
    pub(crate) bytes: usize,
}

/// Asks once, and keeps the answer for the peers.
pub(crate) fn record(address: &str, path: &str, coding: &str, at: PathBuf) -> Result<Record> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(client::request(path, coding).as_bytes())?;
    let mut raw = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "the server closed before its answer was whole");
        raw.extend_from_slice(buffer.get(..read).unwrap_or_default());
        if let Some(end) = head_end(&raw)
            && raw.len() >= end + client::length(raw.get(..end).unwrap_or_default())?
        {
            break;
        }
    }
    std::fs::write(&at, &raw)?;
    Ok(Record {
        path: at,
        bytes: raw.len(),
    })
}
