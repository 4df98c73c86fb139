//! `bench ladder`: decode once, encode 720p, 480p and 360p, here and by the `ffmpeg` command with the same encoder settings.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use media_core::{
    media::{Boundary, VIDEO_TIMESCALE},
    transcode::{Clip, Config, EncoderChoice, Event, Kind, Preset, Source, Transcoder},
};

use crate::{cpu::Spent, table};

/// Seconds between key frames, as a streaming service asks for.
const KEY_FRAME_S: u32 = 2;

/// Options of `bench ladder`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// An MP4 with H.264 to use instead of the generated picture (1080p30, 6 Mbit/s, B-frames).
    #[arg(long)]
    input: Option<PathBuf>,
    /// Seconds of the generated picture.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Frames a second of the generated picture.
    #[arg(long, default_value_t = 30)]
    fps: u32,
    /// libx264's preset, for both.
    #[arg(long, default_value = "superfast")]
    preset: String,
    /// Runs of each, in turn; the table has the median.
    #[arg(long, default_value_t = 3)]
    runs: u32,
}

/// What one run took, a second of media.
struct Run {
    cpu: f64,
    wall: f64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.runs > 0, "--runs is 0: use 1 or more");
    let folder = tempfile::tempdir()?;
    let path = match &args.input {
        Some(path) => path.clone(),
        None => generate(folder.path(), args)?,
    };
    let clip = Clip::read(&path)?;
    let seconds = length(&clip)?;
    let config = Config {
        preset: preset(&args.preset)?,
        encoder: EncoderChoice::Libx264,
        ..Config::default()
    };
    let rungs = opened(&clip, &config)?;
    println!(
        "{} s of {}, to {}; libx264 {}, zerolatency, no B-frames; median of {}\n",
        seconds.round(),
        args.input
            .as_ref()
            .map_or("a generated picture".to_owned(), |path| path
                .display()
                .to_string()),
        rungs
            .iter()
            .map(|rung| rung.name.as_str())
            .collect::<Vec<_>>()
            .join(", "),
        args.preset,
        args.runs,
    );

    let variants = [
        ("Ghost Live, in process", None),
        ("ffmpeg command", Some(false)),
        ("ffmpeg command, one thread each", Some(true)),
    ];
    let mut results: Vec<Vec<Run>> = variants.iter().map(|_| Vec::new()).collect();
    // In turn, so that a busy machine is busy for all of them.
    for _ in 0..args.runs {
        for ((_, threads), runs) in variants.iter().zip(&mut results) {
            runs.push(match threads {
                None => ours(&clip, &config, seconds)?,
                Some(one) => peer(&path, &rungs, &args.preset, *one, seconds)?,
            });
        }
    }
    let middle = |runs: &[Run], of: fn(&Run) -> f64| table::median(runs.iter().map(of).collect());
    let own = results
        .first()
        .map_or(f64::NAN, |runs| middle(runs, |run| run.cpu));
    let rows: Vec<Vec<String>> = variants
        .iter()
        .zip(&results)
        .map(|((name, _), runs)| {
            let cpu = middle(runs, |run| run.cpu);
            vec![
                (*name).to_owned(),
                format!("{cpu:.3}"),
                format!("{:.3}", middle(runs, |run| run.wall)),
                format!("{:.2}", own / cpu),
            ]
        })
        .collect();
    table::print(
        &[
            "what",
            "CPU s a media s",
            "wall s a media s",
            "Ghost Live's CPU is ... of it",
        ],
        &rows,
    );
    Ok(())
}

fn preset(name: &str) -> Result<Preset> {
    let all = [
        Preset::Ultrafast,
        Preset::Superfast,
        Preset::Veryfast,
        Preset::Faster,
        Preset::Fast,
        Preset::Medium,
    ];
    all.into_iter()
        .find(|preset| preset.as_str() == name)
        .with_context(|| format!("{name:?} is no preset: use ultrafast to medium"))
}

fn length(clip: &Clip) -> Result<f64> {
    let times = clip.packets.iter().map(|packet| packet.pts);
    let (Some(first), Some(last)) = (times.clone().min(), times.max()) else {
        bail!("the input has no picture");
    };
    let frames = clip.packets.len().max(2) as f64;
    Ok((last - first) as f64 / f64::from(VIDEO_TIMESCALE) * frames / (frames - 1.0))
}

/// A picture with motion, fine detail and some noise, so that the encoders have to spend their bits.
fn generate(folder: &Path, args: &Args) -> Result<PathBuf> {
    let path = folder.join("source.mp4");
    let picture = format!(
        "testsrc2=size=1920x1080:rate={}:duration={},noise=alls=6:allf=t",
        args.fps, args.seconds
    );
    let gop = (args.fps * KEY_FRAME_S).to_string();
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", &picture])
        .args([
            "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p",
        ])
        .args(["-b:v", "6M", "-maxrate", "6M", "-bufsize", "6M", "-bf", "2"])
        .args(["-g", &gop, "-sc_threshold", "0"])
        .args(["-video_track_timescale", "90000"])
        .arg(&path)
        .status()
        .context("making a source needs the ffmpeg command")?;
    ensure!(made.success(), "ffmpeg could not make a source");
    Ok(path)
}

/// Hands over the whole clip as fast as it is taken; every IDR begins a segment.
fn feed(transcoder: &Transcoder, clip: &Clip) {
    let mut msn = 0;
    for packet in &clip.packets {
        let boundary = packet.idr.then(|| {
            msn += 1;
            Boundary {
                msn: msn - 1,
                pts: packet.pts,
                discontinuity: false,
            }
        });
        transcoder.wait_for_room();
        transcoder.push(packet.clone(), boundary);
    }
}

fn start(
    clip: &Clip,
    config: &Config,
) -> Result<(Transcoder, impl Iterator<Item = Event> + Send + use<>)> {
    let source = Source {
        config: clip.config.clone(),
        frame_rate: None,
    };
    let (transcoder, mut events) = Transcoder::start(config, Kind::Libx264, source)?;
    Ok((
        transcoder,
        std::iter::from_fn(move || events.blocking_recv()),
    ))
}

/// The rungs that this clip gets.
fn opened(clip: &Clip, config: &Config) -> Result<Vec<media_core::transcode::Rendition>> {
    let (transcoder, mut events) = start(clip, config)?;
    let first = clip.packets.iter().take(60).cloned().collect();
    feed(
        &transcoder,
        &Clip {
            packets: first,
            ..clip.clone()
        },
    );
    transcoder.finish();
    let rungs = events.find_map(|event| match event {
        Event::Opened(rungs) => Some(rungs),
        _ => None,
    });
    events.for_each(drop);
    rungs
        .filter(|rungs| !rungs.is_empty())
        .context("the source is smaller than every rung of the ladder")
}

fn ours(clip: &Clip, config: &Config, seconds: f64) -> Result<Run> {
    let before = Spent::now()?;
    let started = Instant::now();
    let (transcoder, events) = start(clip, config)?;
    let listening = std::thread::spawn(move || {
        events
            .filter(|event| matches!(event, Event::Encoded(_)))
            .count()
    });
    feed(&transcoder, clip);
    transcoder.finish();
    let Ok(packets) = listening.join() else {
        bail!("the transcoder's listener panicked");
    };
    ensure!(packets > 0, "the transcoder gave no packet");
    Ok(Run {
        cpu: (Spent::now()?.own - before.own).as_secs_f64() / seconds,
        wall: started.elapsed().as_secs_f64() / seconds,
    })
}

/// The same by the command: one decoder, one scaler and one encoder a rung, to nowhere.
fn peer(
    path: &Path,
    rungs: &[media_core::transcode::Rendition],
    preset: &str,
    one_thread_each: bool,
    seconds: f64,
) -> Result<Run> {
    let mut graph = format!("[0:v]split={}", rungs.len());
    for index in 0..rungs.len() {
        graph.push_str(&format!("[s{index}]"));
    }
    for (index, rung) in rungs.iter().enumerate() {
        graph.push_str(&format!(
            ";[s{index}]fps={}/{},scale={}:{}:flags=bicubic[v{index}]",
            rung.frame_rate.num, rung.frame_rate.den, rung.width, rung.height
        ));
    }
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin"]);
    if one_thread_each {
        command.args(["-threads", "1", "-filter_complex_threads", "1"]);
    }
    command
        .arg("-i")
        .arg(path)
        .args(["-filter_complex", &graph]);
    let lowest = rungs.len() - 1;
    for (index, rung) in rungs.iter().enumerate() {
        let profile = if index == lowest { "baseline" } else { "high" };
        let key_frames = format!("expr:gte(t,n_forced*{KEY_FRAME_S})");
        command
            .args(["-map", &format!("[v{index}]")])
            .args(["-c:v", "libx264", "-preset", preset, "-tune", "zerolatency"])
            .args(["-profile:v", profile, "-pix_fmt", "yuv420p"])
            .args(["-b:v", &rung.bitrate_bps.to_string()])
            .args(["-maxrate", &rung.peak_bps.to_string()])
            .args(["-bufsize", &rung.bitrate_bps.to_string()])
            .args(["-g", "1200", "-sc_threshold", "0", "-bf", "0"])
            .args(["-force_key_frames", &key_frames, "-forced-idr", "1"]);
        if one_thread_each {
            command.args(["-threads", "1"]);
        }
        command.args(["-f", "null", "/dev/null"]);
    }
    let before = Spent::now()?;
    let started = Instant::now();
    let output = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .context("the comparison needs the ffmpeg command")?;
    ensure!(
        output.status.success(),
        "ffmpeg failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(Run {
        cpu: (Spent::now()?.children - before.children).as_secs_f64() / seconds,
        wall: started.elapsed().as_secs_f64() / seconds,
    })
}
