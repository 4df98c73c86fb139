//! `bench webhooks`: what others notice of a webhook whose server is slow, dead or lies.
//!
//! Publishers of a stream that the webhook decides over come at a steady rate, and the webhook has an event to take all the while. Beside
//! them viewers of another stream ask for playlists, and publishers of a third one, over which no webhook decides, come in.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use edge_worker::{
    native::{Config, Edge, Link, serve},
    webhooks::{Hook, Hooks, On, OnFailure, signature::Secret},
};
use object_store::memory::InMemory;
use protocol::{internal::Admit, names::StreamName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    child::{self, Process},
    feed::Feed,
    servers::{commands, unix_ms},
    table::{self, quantile},
};

/// Options of `bench webhooks`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Publishers a second whom the webhook is asked about.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Seconds of each row and run.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Runs of each, in turn; the table has the medians.
    #[arg(long, default_value_t = 5)]
    runs: u8,
}

/// What the webhook's server does, and what the table calls it. The first is asked about nobody.
const SERVERS: [(&str, &str); 5] = [
    ("none", "no webhook at all"),
    ("fast", "fast"),
    ("hangs", "hanging"),
    ("dead", "dead"),
    ("lies", "lying"),
];
/// How long a webhook has to answer, milliseconds: longer than a row lasts, so that no circuit breaker spares the edge one that hangs.
const DEADLINE_MS: u64 = 2_000;
/// How often another publisher comes, and each viewer asks.
const EVERY: Duration = Duration::from_millis(10);
/// Viewers.
const VIEWERS: usize = 4;

#[derive(Default)]
struct Seen {
    asked: f64,
    let_in: f64,
    playlist: [Vec<f64>; 3],
    admission: [Vec<f64>; 3],
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(
        args.rate > 0 && args.runs > 0 && args.seconds > 0.0,
        "every option is over 0"
    );
    ensure!(
        args.seconds * 1e3 < DEADLINE_MS as f64,
        "--seconds is less than {} s, a webhook's deadline",
        DEADLINE_MS / 1_000
    );
    ensure!(
        args.runs <= 12,
        "--runs is 12 or less: each has its own webhooks"
    );
    let machine = child::machine();
    let (_hooks, addresses) = Process::start(&["hooks"])?;
    let (mut edge, address) = Process::start(&["hooked", &addresses, &args.runs.to_string()])?;
    let path = edge.ask("path")?;
    let (mut viewers, _) = Process::start(&["client"])?;
    viewers.ask(&format!("connect {address} {VIEWERS}"))?;
    println!(
        "{} publishers a second of a stream that a webhook decides over; beside them {VIEWERS} viewers of another stream, and another publisher every {} ms; loopback; median of {} runs of {} s, in turn; {machine}\n",
        args.rate,
        EVERY.as_millis(),
        args.runs,
        args.seconds
    );
    let mut seen: Vec<Seen> = SERVERS.iter().map(|_| Seen::default()).collect();
    // The first run fills caches and is not counted; it has the webhook of nobody.
    edge.ask(&format!("begin none 0 0.5 {}", args.rate))?;
    viewers.ask(&format!("pace {path} gzip 0.5 {}", EVERY.as_millis()))?;
    edge.ask("end")?;
    for run in 0..args.runs {
        for ((server, _), seen) in SERVERS.iter().zip(&mut seen) {
            edge.ask(&format!(
                "begin {server} {run} {} {}",
                args.seconds, args.rate
            ))?;
            let playlist = viewers.ask(&format!(
                "pace {path} gzip {} {}",
                args.seconds,
                EVERY.as_millis()
            ))?;
            let said = edge.ask("end")?;
            let (counts, admission) = said.split_once(" | ").context("the edge said too little")?;
            let [asked, let_in] = numbers(counts)?;
            seen.asked += asked;
            seen.let_in += let_in;
            let slots = seen.playlist.iter_mut().zip(numbers::<3>(&playlist)?);
            slots.for_each(|(all, us)| all.push(us / 1e3));
            let slots = seen.admission.iter_mut().zip(numbers::<3>(admission)?);
            slots.for_each(|(all, us)| all.push(us / 1e3));
        }
    }
    report(&seen);
    Ok(())
}

fn numbers<const N: usize>(text: &str) -> Result<[f64; N]> {
    let numbers: Result<Vec<f64>, _> = text.split(' ').map(str::parse).collect();
    let numbers: Result<[f64; N], _> = numbers?.try_into();
    numbers.map_err(|_| anyhow::anyhow!("a process of the bench said {text:?}"))
}

fn report(seen: &[Seen]) {
    let of = |seen: &Seen| {
        let middle = |times: &[Vec<f64>; 3], at: usize| {
            table::median(times.get(at).cloned().unwrap_or_default())
        };
        let worst = |times: &[Vec<f64>; 3]| times.iter().flatten().copied().fold(0.0, f64::max);
        let times = |times| [middle(times, 0), middle(times, 1), worst(times)];
        (times(&seen.playlist), times(&seen.admission))
    };
    let fast = seen.get(1).map(of).unwrap_or_default();
    let rows: Vec<Vec<String>> = SERVERS
        .iter()
        .zip(seen)
        .map(|((_, name), seen)| {
            let (playlist, admission) = of(seen);
            let mut row = vec![
                (*name).to_owned(),
                format!("{:.0}", seen.asked),
                format!("{:.0}", seen.let_in),
            ];
            for ([p50, p99, worst], [fast_p50, fast_p99, _]) in
                [(playlist, fast.0), (admission, fast.1)]
            {
                row.push(format!("{p50:.2}"));
                row.push(format!("{:.2}", p50 / fast_p50));
                row.push(format!("{p99:.2}"));
                row.push(format!("{:.2}", p99 / fast_p99));
                row.push(format!("{worst:.1}"));
            }
            row
        })
        .collect();
    table::print(
        &[
            "the webhook's server",
            "its publishers",
            "let in",
            "playlist p50 ms",
            "times fast's",
            "p99 ms",
            "times fast's",
            "worst ms",
            "another's admission p50 ms",
            "times fast's",
            "p99 ms",
            "times fast's",
            "worst ms",
        ],
        &rows,
    );
}

// ---- the webhook's servers

/// What a server does with a connection that has sent a request.
#[derive(Clone, Copy)]
enum Does {
    Answers,
    Hangs,
    Lies,
}

/// The servers; their addresses are the first line, in the order of [`SERVERS`].
pub(crate) async fn hooks() -> Result<()> {
    let mut addresses = Vec::new();
    for does in [
        Some(Does::Answers),
        Some(Does::Hangs),
        None,
        Some(Does::Lies),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addresses.push(listener.local_addr()?.to_string());
        // Without a server nobody listens there.
        if let Some(does) = does {
            tokio::spawn(listen(listener, does));
        }
    }
    println!("{}", addresses.join(","));
    let mut commands = commands();
    while commands.next_line().await?.is_some() {}
    Ok(())
}

async fn listen(listener: TcpListener, does: Does) {
    let mut lie = 0;
    while let Ok((stream, _)) = listener.accept().await {
        lie += 1;
        tokio::spawn(async move {
            // Whoever asked has had enough.
            let _ = answer(stream, does, lie).await;
        });
    }
}

async fn answer(mut stream: TcpStream, does: Does, lie: usize) -> Result<()> {
    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    const YES: &str = r#"{"decision": "allow"}"#;
    let mut input = vec![0; 16 * 1024];
    // A question is one write of its client, small as it is.
    while stream.read(&mut input).await? > 0 {
        match does {
            Does::Hangs => std::future::pending().await,
            Does::Answers => {
                let answer = format!("{OK}content-length: {}\r\n\r\n{YES}", YES.len());
                stream.write_all(answer.as_bytes()).await?;
            }
            Does::Lies => match lie % 5 {
                0 => {
                    stream.write_all(format!("{OK}\r\n").as_bytes()).await?;
                    loop {
                        stream.write_all(&[b' '; 4_096]).await?;
                    }
                }
                1 => {
                    stream.write_all(OK.as_bytes()).await?;
                    loop {
                        stream.write_all(b"x-more: of the same\r\n").await?;
                    }
                }
                2 => {
                    let head = format!("{OK}content-length: 1000000\r\n\r\n");
                    stream.write_all(head.as_bytes()).await?;
                    loop {
                        stream.write_all(b" ").await?;
                        sleep(Duration::from_millis(100)).await;
                    }
                }
                3 => stream.write_all(&[0xff; 64 * 1024]).await?,
                _ => {
                    let body = "[".repeat(1 << 20);
                    let head = format!("{OK}content-length: {}\r\n\r\n{body}", body.len());
                    stream.write_all(head.as_bytes()).await?;
                }
            },
        }
    }
    Ok(())
}

// ---- the edge

/// The stream of a run's webhook.
fn stream_of(server: &str, run: u8) -> Result<StreamName> {
    Ok(format!("{server}-{run}").parse()?)
}

/// The edge with a webhook for each server and run, since one that failed is left alone for a while.
///
/// `path`: a playlist of a stream of no webhook; `begin SERVER RUN SECONDS RATE`: publishers come, those of the webhook's stream so many a
/// second, and one of another stream now and then; `end`: waits for the last of them and says how many there were of the webhook's and
/// how many got in, and median, 99th percentile and maximum of the others' admission, microseconds.
pub(crate) async fn edge(addresses: &str, runs: &str) -> Result<()> {
    let (addresses, runs): (Vec<&str>, u8) = (addresses.split(',').collect(), runs.parse()?);
    let folder = tempfile::tempdir()?;
    let mut hooks = Vec::new();
    for run in 0..runs {
        for ((server, _), address) in SERVERS.iter().skip(1).zip(&addresses) {
            let address: SocketAddr = address.parse()?;
            hooks.push(Hook {
                name: stream_of(server, run)?.to_string(),
                url: format!("http://{address}/"),
                on: vec![On::Publish, On::Events],
                streams: stream_of(server, run)?.into(),
                secret_file: None,
                on_failure: OnFailure::Deny,
                deadline_ms: DEADLINE_MS,
                max_concurrent: 1_000,
                allow_networks: vec!["127.0.0.0/8".parse()?],
                attempts: 20,
                retry_ms: 100,
            });
        }
    }
    let hooks = hooks.into_iter().map(|hook| {
        let secret = Secret::new("a secret of the bench alone, which nobody else has");
        (hook, secret)
    });
    let config = Config {
        data: folder.path().join("edge"),
        sweep: false,
        webhooks: Hooks::new(hooks)?,
        ..Config::default()
    };
    let edge = Edge::start(config, Arc::new(InMemory::new()), Arc::new(|_: &str| None))?;
    let shutdown = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(serve(listener, edge.clone(), None, None, shutdown.clone()));
    let running = edge.clone();
    tokio::spawn(async move { running.run(shutdown).await });

    let watched: StreamName = "watched".parse()?;
    let other = admit(&edge, &"other".parse()?).await?;
    edge.ensure_stream(&watched, &Default::default()).await?;
    let (feed, _link) = go_live(&edge, watched, 0).await?;
    println!("{address}");
    let mut under_way: Option<(JoinHandle<Result<String>>, Option<Link>)> = None;
    let mut commands = commands();
    while let Some(command) = commands.next_line().await? {
        let words: Vec<&str> = command.split(' ').collect();
        match *words.as_slice() {
            ["path"] => println!("{}", feed.path()),
            ["begin", server, run, seconds, rate] => {
                let run: u8 = run.parse()?;
                let stream = stream_of(server, run)?;
                let asked = admit(&edge, &stream).await?;
                // It went live just now: that is told, and told again.
                let place = SERVERS.iter().position(|(name, _)| *name == server);
                let number = 1 + run * 8 + u8::try_from(place.context("no such server")?)?;
                let (_, link) = go_live(&edge, stream, number).await?;
                let load = Load {
                    edge: edge.clone(),
                    asked,
                    other: other.clone(),
                    lasts: Duration::from_secs_f64(seconds.parse()?),
                    every: Duration::from_secs(1) / rate.parse::<u32>()?,
                };
                under_way = Some((tokio::spawn(load.run()), Some(link)));
                println!("begun");
            }
            ["end"] => {
                let (load, link) = under_way.take().context("nothing has begun")?;
                println!("{}", load.await??);
                drop(link);
            }
            _ => bail!("the edge knows no command {command:?}"),
        }
    }
    Ok(())
}

/// The question about a publisher of a stream, which is made where there is none.
async fn admit(edge: &Edge, stream: &StreamName) -> Result<Admit> {
    let key = match edge.stream(stream) {
        None => {
            let made = edge
                .create_stream(stream, Default::default(), &stream.clone().into())
                .await?;
            Some(made.key.reveal())
        }
        Some(_) => edge.new_key(stream, None).await?,
    };
    Ok(Admit {
        key: key.context("a stream has no key")?,
        peer: "127.0.0.1:1".to_owned(),
        ..Admit::default()
    })
}

async fn go_live(edge: &Edge, stream: StreamName, number: u8) -> Result<(Feed, Link)> {
    let mut feed = Feed::new(stream, number, unix_ms())?;
    let mut link = edge.connect(feed.broadcast());
    for message in feed.begin() {
        while link.from_edge.try_recv().is_ok() {}
        link.to_edge.send(message).await?;
    }
    Ok((feed, link))
}

struct Load {
    edge: Edge,
    asked: Admit,
    other: Admit,
    lasts: Duration,
    every: Duration,
}

impl Load {
    async fn run(self) -> Result<String> {
        let end = Instant::now() + self.lasts;
        let let_in = Arc::new(AtomicUsize::new(0));
        let (edge, question, counted) = (self.edge.clone(), self.asked, Arc::clone(&let_in));
        // They come whether those before them have their answer or not.
        let publishers = tokio::spawn(async move {
            let mut asked = JoinSet::new();
            let mut tick = interval(self.every);
            tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut count = 0;
            while Instant::now() < end {
                tick.tick().await;
                count += 1;
                let (edge, question, counted) = (edge.clone(), question.clone(), counted.clone());
                asked.spawn(async move {
                    if edge.admit(&question).await.is_ok() {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            while asked.join_next().await.is_some() {}
            count
        });
        let mut times = Vec::new();
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < end {
            tick.tick().await;
            let began = Instant::now();
            self.edge.admit(&self.other).await?;
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
        let count = publishers.await?;
        times.sort_by(f64::total_cmp);
        Ok(format!(
            "{count} {} | {} {} {}",
            let_in.load(Ordering::Relaxed),
            quantile(&times, 0.5),
            quantile(&times, 0.99),
            quantile(&times, 1.0)
        ))
    }
}
