//! `bench ingest`: what an untouched RTMP stream costs, beside a bare reader that takes the same bytes from the same sockets.

use std::{
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, future::BoxFuture};
use media_core::{
    edge::{Edge, EdgeError, Link},
    ingest::{
        Config, Listen, Protocol, Publisher, Server,
        rtmp::{
            amf::{self, Value},
            chunk, handshake,
        },
    },
};
use protocol::{
    internal::{Admission, Admit, Open, OpenAnswer},
    names::{BroadcastId, StreamName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    child::{self, Process},
    servers::commands,
    table,
};

/// Options of `bench ingest`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Publishers at once.
    #[arg(long, default_value_t = 50)]
    count: usize,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

const PATIENCE: Duration = Duration::from_secs(30);
/// What OBS and FFmpeg cut their messages into, bytes.
const CHUNK: usize = 4_096;
/// Length of the clip, milliseconds.
const CLIP_MS: u32 = 10_000;
const COMMAND: u8 = 20;

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(
        args.count > 0 && args.seconds > 0.0,
        "every option is over 0"
    );
    child::ensure_files(args.count + 100)?;
    let folder = tempfile::tempdir()?;
    let clip = folder.path().join("clip.flv");
    let bytes = generate(&clip)?;
    let mbps = bytes as f64 * 8.0 / f64::from(CLIP_MS) / 1e3;
    println!(
        "{} publishers of 720p30 H.264 and AAC, {mbps:.1} Mbit/s each, {} s in real time, loopback; events are read and dropped; {}\n",
        args.count,
        args.seconds,
        child::machine()
    );
    let mut rows = Vec::new();
    let mut spent = Vec::new();
    for (name, role) in [
        ("Ghost Live's RTMP ingest", "ingest"),
        ("bare reader of the same bytes", "sink"),
    ] {
        let (mut server, address) = Process::start(&[role])?;
        let (mut publishers, _) = Process::start(&["publishers", &clip.to_string_lossy()])?;
        publishers.ask(&format!("{role} {address} {}", args.count))?;
        // The first seconds are connections that begin.
        std::thread::sleep(Duration::from_secs(2));
        let (began, cpu, taken) = (
            Instant::now(),
            server.cpu()?,
            number(&server.ask("bytes")?)?,
        );
        std::thread::sleep(Duration::from_secs_f64(args.seconds));
        let (elapsed, cpu, taken) = (
            began.elapsed().as_secs_f64(),
            server.cpu()? - cpu,
            number(&server.ask("bytes")?)? - taken,
        );
        let streams = number(&publishers.ask("left")?)?;
        ensure!(
            streams == args.count as f64,
            "{} of {} publishers were cut off",
            args.count as f64 - streams,
            args.count
        );
        let percent = cpu.as_secs_f64() / elapsed / args.count as f64 * 100.0;
        spent.push(percent);
        rows.push(vec![
            name.to_owned(),
            format!("{percent:.3}"),
            format!("{:.0}", 100.0 / percent),
            format!("{:.2}", taken * 8.0 / 1e6 / elapsed / args.count as f64),
        ]);
    }
    let bare = spent.last().copied().unwrap_or(f64::NAN);
    for (row, percent) in rows.iter_mut().zip(&spent) {
        row.push(format!("{:.2}", percent / bare));
    }
    table::print(
        &[
            "who reads",
            "% of a core a stream",
            "streams a core",
            "Mbit/s a stream taken",
            "times the bare reader's CPU",
        ],
        &rows,
    );
    Ok(())
}

fn number(text: &str) -> Result<f64> {
    text.parse()
        .with_context(|| format!("{text:?} is no number"))
}

fn generate(path: &Path) -> Result<u64> {
    let made = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=1280x720:rate=30,noise=alls=6:allf=t",
        ])
        .args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"])
        .args([
            "-t",
            &format!("{}", CLIP_MS / 1_000),
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-pix_fmt",
            "yuv420p",
        ])
        .args([
            "-b:v", "1900k", "-minrate", "1900k", "-maxrate", "1900k", "-bufsize", "1900k",
            "-nal-hrd", "cbr", "-g", "60",
        ])
        .args(["-c:a", "aac", "-b:a", "96k", "-ac", "2"])
        .arg(path)
        .status()
        .context("making a clip needs the ffmpeg command")?;
    ensure!(made.success(), "ffmpeg could not make a clip");
    Ok(std::fs::metadata(path)?.len())
}

/// Admits everybody, each as the stream that the key begins with.
struct Everybody;

impl Edge for Everybody {
    fn admit(&self, question: Admit) -> BoxFuture<'_, Result<Admission, EdgeError>> {
        let name: Result<StreamName, _> =
            question.key.split('_').next().unwrap_or_default().parse();
        async move {
            name.map(Admission::of)
                .map_err(|_| EdgeError::Refused("The stream key is wrong.".into()))
        }
        .boxed()
    }

    fn open(&self, _: Open) -> BoxFuture<'_, Result<OpenAnswer, EdgeError>> {
        async {
            Err(EdgeError::Unreachable(
                "the bench opens no broadcast".into(),
            ))
        }
        .boxed()
    }

    fn connect(&self, _: BroadcastId) -> BoxFuture<'_, Result<Link, EdgeError>> {
        async { Err(EdgeError::Unreachable("the bench connects no link".into())) }.boxed()
    }
}

type Count = Arc<std::sync::atomic::AtomicU64>;

async fn tell(count: Count) -> Result<()> {
    let mut commands = commands();
    while let Some(command) = commands.next_line().await? {
        ensure!(command == "bytes", "a reader knows no command {command:?}");
        println!("{}", count.load(std::sync::atomic::Ordering::Relaxed));
    }
    Ok(())
}

/// The ingest, whose events are dropped.
pub(crate) async fn ingest() -> Result<()> {
    let config = Config {
        rtmp: Listen(Some(([127, 0, 0, 1], 0).into())),
        rtmps: Listen(None),
        max_connections: 100_000,
        max_connections_per_address: 100_000,
        ..Config::default()
    };
    let (accept, mut publishers) = mpsc::channel::<Publisher>(1_000);
    let server = Server::bind(
        config,
        None,
        Arc::new(Everybody),
        Arc::new(accept),
        Instant::now(),
    )
    .await?;
    println!("{}", server.address(Protocol::Rtmp).context("RTMP is off")?);
    tokio::spawn(server.run(CancellationToken::new()));
    let count = Count::default();
    let counted = count.clone();
    tokio::spawn(async move {
        while let Some(mut publisher) = publishers.recv().await {
            let counted = counted.clone();
            tokio::spawn(async move {
                while let Some(received) = publisher.events.recv().await {
                    let bytes = match &received.event {
                        media_core::media::IngestEvent::Video { data, .. }
                        | media_core::media::IngestEvent::Audio { data, .. } => data.len(),
                        _ => 0,
                    };
                    counted.fetch_add(bytes as u64, std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
    });
    tell(count).await
}

/// Reads and drops.
pub(crate) async fn sink() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let count = Count::default();
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 16 * 1024];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    counted.fetch_add(read as u64, std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
    });
    tell(count).await
}

/// A message of the clip.
struct Message {
    ms: u32,
    kind: u8,
    body: Bytes,
    /// Sent once: what the decoders are told.
    setup: bool,
}

/// The tags of an FLV file (Adobe FLV 10.1 annex E.4).
fn read_clip(path: &str) -> Result<Vec<Message>> {
    let file = Bytes::from(std::fs::read(path)?);
    let mut at = 13;
    let mut messages = Vec::new();
    while let Some(header) = file.get(at..at + 11) {
        let &[kind, l0, l1, l2, t0, t1, t2, t3, ..] = header else {
            bail!("the clip is cut off");
        };
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        ensure!(file.len() >= at + 11 + length, "the clip is cut off");
        let body = file.slice(at + 11..at + 11 + length);
        let setup = kind == 18
            || body.get(1) == Some(&0) && (kind == 9 || body.first().is_some_and(|b| b >> 4 == 10));
        // The last tag of a clip says that the video ends.
        let end = kind == 9 && body.get(1) == Some(&2);
        if !end {
            messages.push(Message {
                ms: u32::from_be_bytes([t3, t0, t1, t2]),
                kind,
                body,
                setup,
            });
        }
        at += 11 + length + 4;
    }
    ensure!(!messages.is_empty(), "the clip has no tag");
    Ok(messages)
}

/// Publishers in a process of their own. `ingest ADDRESS COUNT`: publish; `sink ADDRESS COUNT`: send the same without asking; `left`: how
/// many still send.
pub(crate) async fn publishers(clip: &str) -> Result<()> {
    let messages = Arc::new(read_clip(clip)?);
    let mut sending: JoinSet<Result<()>> = JoinSet::new();
    println!("ready");
    let mut commands = commands();
    while let Some(command) = commands.next_line().await? {
        let words: Vec<&str> = command.split(' ').collect();
        match *words.as_slice() {
            [role @ ("ingest" | "sink"), address, count] => {
                let address: SocketAddr = address.parse()?;
                let count: u32 = count.parse()?;
                for n in 0..count {
                    let mut stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    if role == "ingest" {
                        let key = format!("s{n}_abcdefghijklmnopqrstuvwxyz");
                        stream = timeout(PATIENCE, begin(stream, &key)).await??;
                    }
                    let messages = messages.clone();
                    // Spread over a frame, as strangers are.
                    let began = tokio::time::Instant::now() + Duration::from_millis(33) * n / count;
                    sending.spawn(async move { send(stream, &messages, began).await });
                }
                println!("publishing");
            }
            ["left"] => {
                while let Some(ended) = sending.try_join_next() {
                    if let Err(error) = ended? {
                        eprintln!("a publisher ended: {error}");
                    }
                }
                println!("{}", sending.len());
            }
            _ => bail!("the publishers know no command {command:?}"),
        }
    }
    Ok(())
}

/// Everything up to the permission to publish.
async fn begin(mut stream: TcpStream, key: &str) -> Result<TcpStream> {
    let mut hello = vec![7; 1 + handshake::PACKET_BYTES];
    if let Some(version) = hello.first_mut() {
        *version = handshake::VERSION;
    }
    stream.write_all(&hello).await?;
    let mut answer = vec![0; 1 + 2 * handshake::PACKET_BYTES];
    stream.read_exact(&mut answer).await?;
    stream.write_all(&[0; handshake::PACKET_BYTES]).await?;

    let writer = chunk::Writer::default();
    let mut bytes = Vec::new();
    let mut command = |stream_id, values: &[Value]| {
        let mut body = Vec::new();
        for value in values {
            amf::write(&mut body, value);
        }
        writer.write(&mut bytes, 3, COMMAND, stream_id, &body);
    };
    let app = Value::Object(vec![
        ("app".into(), "live".into()),
        ("flashVer".into(), "bench".into()),
    ]);
    command(0, &["connect".into(), 1.0.into(), app]);
    command(0, &["createStream".into(), 2.0.into(), Value::Null]);
    command(
        1,
        &[
            "publish".into(),
            3.0.into(),
            Value::Null,
            key.into(),
            "live".into(),
        ],
    );
    // Set Chunk Size, Adobe RTMP 1.0 section 5.4.1.
    writer.write(&mut bytes, 2, 1, 0, &(CHUNK as u32).to_be_bytes());
    stream.write_all(&bytes).await?;

    let mut reader = chunk::Reader::new(1 << 20);
    let mut input = BytesMut::new();
    loop {
        ensure!(
            stream.read_buf(&mut input).await? > 0,
            "the server refused a publisher"
        );
        while let Some(message) = reader.read(&mut input, &|_| 1 << 16)? {
            if message.kind == 1 {
                let size = message
                    .payload
                    .get(..4)
                    .and_then(|four| four.try_into().ok());
                reader.set_chunk_size(u32::from_be_bytes(
                    size.context("a chunk size of under four bytes")?,
                ))?;
            } else if message.kind == COMMAND {
                let values = amf::read_all(&message.payload)?;
                if values.first().and_then(Value::as_str) == Some("onStatus") {
                    let code = values
                        .get(3)
                        .and_then(|info| info.get("code"))
                        .and_then(Value::as_str);
                    ensure!(
                        code == Some("NetStream.Publish.Start"),
                        "a publisher was refused: {code:?}"
                    );
                    return Ok(stream);
                }
            }
        }
    }
}

/// Sends the clip again and again, each message when it is due and by a write of its own, as encoders do.
async fn send(
    mut stream: TcpStream,
    messages: &[Message],
    began: tokio::time::Instant,
) -> Result<()> {
    let mut bytes = Vec::new();
    for round in 0.. {
        for message in messages
            .iter()
            .filter(|message| round == 0 || !message.setup)
        {
            let ms = round * CLIP_MS + message.ms;
            bytes.clear();
            chunks(&mut bytes, ms, message);
            sleep_until(began + Duration::from_millis(u64::from(ms))).await;
            stream.write_all(&bytes).await?;
        }
    }
    Ok(())
}

/// A message with its time in chunks: a type 0 header, then type 3 (Adobe RTMP 1.0 section 5.3.1). Times stay below the extended ones.
fn chunks(out: &mut Vec<u8>, ms: u32, message: &Message) {
    let [_, t0, t1, t2] = ms.to_be_bytes();
    let [_, l0, l1, l2] = (message.body.len() as u32).to_be_bytes();
    out.extend_from_slice(&[4, t0, t1, t2, l0, l1, l2, message.kind, 1, 0, 0, 0]);
    let mut pieces = message.body.chunks(CHUNK);
    if let Some(first) = pieces.next() {
        out.extend_from_slice(first);
    }
    for piece in pieces {
        out.push(0xc4);
        out.extend_from_slice(piece);
    }
}
