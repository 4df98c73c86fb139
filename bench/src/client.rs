//! Clients in a process of their own: many kept HTTP/1.1 connections, of which each asks and takes the answer.

use std::{io, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    child::unix_ns,
    servers::{commands, head_end},
    table::quantile,
};

/// No answer takes longer than this.
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes commands.
///
/// `connect ADDRESS COUNT`; `ask PATH CODING`: sends a request on each connection; `answers UNIX_NS`: waits for the answers and says median,
/// 99th percentile and maximum of their times since then, microseconds; `load PATH CODING SECONDS`: asks again and again on each connection
/// and says requests, microseconds, and median and 99th percentile of a request, microseconds; `pace PATH CODING SECONDS MS`: asks on each
/// connection, and again so many milliseconds later when it was answered, and says median, 99th percentile and maximum, microseconds.
pub(crate) async fn run() -> Result<()> {
    println!("ready");
    let mut connections: Vec<TcpStream> = Vec::new();
    let mut asked: JoinSet<Result<(TcpStream, u64)>> = JoinSet::new();
    let mut commands = commands();
    while let Some(command) = commands.next_line().await? {
        let words: Vec<&str> = command.split(' ').collect();
        match *words.as_slice() {
            ["connect", address, count] => {
                let address: SocketAddr = address.parse()?;
                for _ in 0..count.parse::<usize>()? {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    connections.push(stream);
                }
                println!("connected");
            }
            ["ask", path, coding] => {
                let request = request(path, coding);
                for mut stream in connections.drain(..) {
                    stream.write_all(request.as_bytes()).await?;
                    asked.spawn(async move {
                        answer(&stream).await?;
                        let at = unix_ns();
                        Ok((stream, at))
                    });
                }
                println!("asked");
            }
            ["answers", since] => {
                let since: u64 = since.parse()?;
                let mut times = Vec::with_capacity(asked.len());
                while let Some(answered) = timeout(PATIENCE, asked.join_next()).await? {
                    let (stream, at) = answered??;
                    connections.push(stream);
                    // Less than nothing: it was answered before, which must not pass for fast.
                    let Some(time) = at.checked_sub(since) else {
                        bail!("a request was answered before the part was published");
                    };
                    times.push(time as f64 / 1e3);
                }
                times.sort_by(f64::total_cmp);
                println!(
                    "{} {} {}",
                    quantile(&times, 0.5),
                    quantile(&times, 0.99),
                    quantile(&times, 1.0)
                );
            }
            ["load", path, coding, seconds] => {
                let (began, lasts) = (Instant::now(), Duration::from_secs_f64(seconds.parse()?));
                let request = request(path, coding);
                let times = ask(&mut connections, request, lasts, Duration::ZERO).await?;
                let elapsed = began.elapsed().as_secs_f64() * 1e6;
                println!(
                    "{} {elapsed} {} {}",
                    times.len(),
                    quantile(&times, 0.5),
                    quantile(&times, 0.99)
                );
            }
            ["pace", path, coding, seconds, ms] => {
                let lasts = Duration::from_secs_f64(seconds.parse()?);
                let pause = Duration::from_millis(ms.parse()?);
                let times = ask(&mut connections, request(path, coding), lasts, pause).await?;
                println!(
                    "{} {} {}",
                    quantile(&times, 0.5),
                    quantile(&times, 0.99),
                    quantile(&times, 1.0)
                );
            }
            _ => bail!("the clients know no command {command:?}"),
        }
    }
    Ok(())
}

/// Asks over all connections at once for so long, each with a pause after every answer. How long the answers took, microseconds, in order.
async fn ask(
    connections: &mut Vec<TcpStream>,
    request: String,
    lasts: Duration,
    pause: Duration,
) -> Result<Vec<f64>> {
    let end = Instant::now() + lasts;
    let mut asking = JoinSet::new();
    for mut stream in connections.drain(..) {
        let request = request.clone();
        asking.spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < end {
                let began = Instant::now();
                stream.write_all(request.as_bytes()).await?;
                answer(&stream).await?;
                times.push(began.elapsed().as_secs_f64() * 1e6);
                if !pause.is_zero() {
                    sleep(pause).await;
                }
            }
            Ok::<_, anyhow::Error>((stream, times))
        });
    }
    let mut times = Vec::new();
    while let Some(done) = asking.join_next().await {
        let (stream, own) = done??;
        connections.push(stream);
        times.extend(own);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// What a connection sends.
pub(crate) fn request(path: &str, coding: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\nAccept: */*\r\nAccept-Encoding: {coding}\r\n\r\n"
    )
}

/// Reads one answer to its last byte.
async fn answer(stream: &TcpStream) -> Result<()> {
    let mut head = Vec::new();
    let mut left = None;
    loop {
        stream.readable().await?;
        match take(stream, &mut head, &mut left) {
            Ok(0) => bail!("the server closed a connection"),
            Ok(_) if left == Some(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if left.is_none()
            && let Some(end) = head_end(&head)
        {
            let body = head.len() - end;
            let length = length(head.get(..end).unwrap_or_default())?;
            let more = length
                .checked_sub(body)
                .context("an answer is longer than it says")?;
            if more == 0 {
                return Ok(());
            }
            left = Some(more);
        }
    }
}

/// Reads what there is. A function of its own, so that the buffer is not part of every waiting task.
fn take(stream: &TcpStream, head: &mut Vec<u8>, left: &mut Option<usize>) -> io::Result<usize> {
    let mut buffer = [0; 16 * 1024];
    let read = stream.try_read(&mut buffer)?;
    match left {
        Some(left) => {
            *left = left
                .checked_sub(read)
                .ok_or_else(|| io::Error::other("an answer is longer than it says"))?;
        }
        None => head.extend_from_slice(buffer.get(..read).unwrap_or_default()),
    }
    Ok(read)
}

/// Status and length of a head.
pub(crate) fn length(head: &[u8]) -> Result<usize> {
    let head = std::str::from_utf8(head)?;
    let first = head.lines().next().unwrap_or_default();
    ensure!(first.starts_with("HTTP/1.1 200"), "the answer is {first:?}");
    head.lines()
        .find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse().ok())?
        })
        .ok_or_else(|| anyhow!("the answer has no Content-Length"))
}
