//! `--demo`: a test picture with a running clock and a tone, published by an `ffmpeg` of its own over real RTMPS.

use std::{process::Stdio, time::Duration};

use anyhow::Context;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// Name of the stream that the demo publishes.
pub(crate) const STREAM: &str = "demo";

/// How long to wait before a demo encoder that ended is started again.
const RESTART_AFTER: Duration = Duration::from_secs(2);

/// What `ffmpeg` is told: 720p30 with a key frame every two seconds, as OBS does with the recommended settings.
fn arguments(url: &str) -> Vec<String> {
    // Small and then scaled: the gradient alone would take a third of a core at full size.
    let picture = "gradients=size=320x180:rate=30:speed=0.015:nb_colors=3:c0=0x0b1026:c1=0x3b2f8f:c2=0x0f766e";
    let clock = r"drawtext=text='%{localtime\:%T}':fontsize=120:fontcolor=white:box=1:boxcolor=black@0.45:boxborderw=24:x=(w-tw)/2:y=(h-th)/2";
    let label =
        "drawtext=text='Ghost Live demo   frame %{n}':fontsize=30:fontcolor=white@0.85:x=40:y=h-70";
    let motion = "drawtext=text='●':fontsize=60:fontcolor=white:x='w/2+500*sin(t*1.5)-15':y=h*0.82";
    let tone = "sine=frequency=330:beep_factor=2:sample_rate=48000";
    let filter = format!("scale=1280x720:flags=bilinear,format=yuv420p,{clock},{label},{motion}");
    let fixed = [
        "-hide_banner",
        "-loglevel",
        "warning",
        "-nostdin",
        "-re",
        "-f",
        "lavfi",
        "-i",
        picture,
        "-re",
        "-f",
        "lavfi",
        "-i",
        tone,
        "-vf",
        &filter,
        "-af",
        "volume=0.15,aformat=channel_layouts=stereo",
        "-c:v",
        "libx264",
        "-preset",
        "superfast",
        "-tune",
        "zerolatency",
        "-g",
        "60",
        "-keyint_min",
        "60",
        "-sc_threshold",
        "0",
        "-b:v",
        "2500k",
        "-maxrate",
        "2500k",
        "-bufsize",
        "2500k",
        "-c:a",
        "aac",
        "-b:a",
        "128k",
        "-f",
        "flv",
    ];
    fixed.into_iter().chain([url]).map(str::to_owned).collect()
}

fn start(url: &str) -> anyhow::Result<Child> {
    Command::new("ffmpeg")
        .args(arguments(url))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("the demo needs the `ffmpeg` command (Debian package ffmpeg)")
}

/// Publishes until `shutdown`, starting `ffmpeg` again when it ends. `url` has the stream key, so it is never logged.
///
/// # Errors
/// When `ffmpeg` cannot be started.
pub(crate) async fn publish(url: String, shutdown: CancellationToken) -> anyhow::Result<()> {
    loop {
        let mut encoder = start(&url)?;
        tokio::select! {
            () = shutdown.cancelled() => {
                // The clean way out for ffmpeg is SIGINT; being killed leaves a cut, which the shutdown of the server closes anyway.
                encoder.kill().await.context("ending the demo's ffmpeg")?;
                return Ok(());
            }
            status = encoder.wait() => {
                tracing::warn!(status = ?status?, "the demo's encoder ended; it is started again in 2 s");
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(RESTART_AFTER) => {}
        }
    }
}
