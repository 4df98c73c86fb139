//! WebRTC out, over real sockets: str0m as the viewer's browser. The end-to-end tests have Chromium and aiortc as well.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    process::Command,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use ghost_live_media_core::{
    ingest::Listen,
    media::{AudioPacket, rescale},
    transcode::{Clip, audio_config, silence},
    webrtc::{Config, Feed, Layer, Signaling, Webrtc, Zero},
};
use protocol::{
    link::ToEdge,
    names::{BroadcastId, TrackName},
    session::Session,
    signaling::{Outcome, Refusal, Signal, Viewer},
    token::Tag,
};
use str0m::{
    Candidate, Event, Input, Output, Rtc,
    change::{SdpAnswer, SdpPendingOffer},
    media::{Direction, KeyframeRequestKind, MediaKind, Mid},
    net::{Protocol, Receive},
};
use tokio::{sync::mpsc, time};

const FPS: u32 = 30;

fn file() -> &'static PathBuf {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let path = tempfile::Builder::new()
            .prefix("webrtc-")
            .suffix(".mp4")
            .tempfile()
            .unwrap();
        let (_, path) = path.keep().unwrap();
        let made = Command::new("ffmpeg")
            .args([
                "-v",
                "error",
                "-y",
                "-f",
                "lavfi",
                "-i",
                "testsrc2=size=640x360:rate=30",
            ])
            .args([
                "-t",
                "4",
                "-pix_fmt",
                "yuv420p",
                "-c:v",
                "libx264",
                "-preset",
                "ultrafast",
            ])
            .args([
                "-profile:v",
                "baseline",
                "-bf",
                "0",
                "-g",
                "30",
                "-b:v",
                "800k",
            ])
            .arg(&path)
            .status()
            .unwrap();
        assert!(made.success());
        path
    })
}

fn name() -> TrackName {
    "v-360p30".parse().unwrap()
}

/// A box with one broadcast on it, whose pictures and sound come at their own pace.
struct Box {
    webrtc: Webrtc,
    signaling: Signaling,
    key_frames: mpsc::Receiver<TrackName>,
    requests: u64,
}

impl Box {
    fn start(config: Config) -> Self {
        let clip = Clip::read(file()).unwrap();
        let webrtc = Webrtc::start(&config).unwrap().unwrap();
        let (asks, key_frames) = mpsc::channel(16);
        let zero = Zero {
            anchor: Instant::now(),
            media_ms: 0,
            epoch_unix_ms: 1_700_000_000_000,
        };
        let id = BroadcastId::from_random([7; 16]);
        let (mut feed, signaling) = webrtc.broadcast(id, zero, asks);
        feed.layer(Layer {
            name: name(),
            config: clip.config.clone(),
            bps: 900_000,
            on_demand: true,
        });
        feed.audio_config(audio_config(48_000, 2).unwrap());
        tokio::spawn(publish(feed, clip));
        Self {
            webrtc,
            signaling,
            key_frames,
            requests: 0,
        }
    }

    async fn ask(&mut self, signal: Signal) -> Outcome {
        self.requests += 1;
        self.signaling.signal(self.requests, signal);
        let answer = async {
            loop {
                match self.signaling.recv().await.unwrap() {
                    ToEdge::Signaled { request, outcome } if request == self.requests => {
                        return outcome;
                    }
                    ToEdge::StillWatching { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        time::timeout(Duration::from_secs(5), answer).await.unwrap()
    }

    async fn offer(&mut self, id: u8, sdp: String) -> Outcome {
        let viewer = viewer(id);
        let viewer = std::boxed::Box::new(viewer);
        self.ask(Signal::Offer { viewer, sdp }).await
    }

    /// The next thing that the edge hears, but for who still watches.
    async fn told(&mut self, within: Duration) -> Option<ToEdge> {
        let next = async {
            loop {
                match self.signaling.recv().await.unwrap() {
                    ToEdge::StillWatching { .. } => {}
                    other => return other,
                }
            }
        };
        time::timeout(within, next).await.ok()
    }
}

fn local() -> Config {
    Config {
        listen: Listen(Some("127.0.0.1:0".parse().unwrap())),
        ..Config::default()
    }
}

fn viewer(id: u8) -> Viewer {
    Viewer {
        session: Session {
            ends_unix_ms: i64::MAX,
            ..Session::anonymous([id; 12], 0)
        },
        address: [127, 0, 0, 1].into(),
    }
}

async fn publish(mut feed: Feed, clip: Clip) {
    let sound = audio_config(48_000, 2).unwrap();
    let silent = silence(&sound).unwrap();
    let began = time::Instant::now();
    let (mut heard, mut frames) = (0_i64, 0_i64);
    loop {
        for packet in &clip.packets {
            let pts = frames * 90_000 / i64::from(FPS);
            time::sleep_until(began + Duration::from_micros(pts as u64 * 100 / 9)).await;
            let packet = ghost_live_media_core::media::VideoPacket {
                pts,
                dts: pts,
                ..packet.clone()
            };
            feed.video(&name(), &packet);
            while heard * 1_024 < rescale(pts, 90_000, 48_000) {
                feed.audio(&AudioPacket {
                    pts: heard * 1_024,
                    data: silent.clone(),
                });
                heard += 1;
            }
            frames += 1;
        }
    }
}

/// What a browser does, until it is told to stop.
struct Browser {
    rtc: Rtc,
    socket: UdpSocket,
    pending: Option<SdpPendingOffer>,
    picture: Mid,
}

/// What it saw.
#[derive(Debug, Default)]
struct Seen {
    connected: Option<Duration>,
    /// When the first picture was whole, and whether it was an IDR.
    first: Option<(Duration, bool)>,
    pictures: usize,
    /// Pictures that are not the next one of the one before.
    gaps: usize,
    sounds: usize,
    closed: Option<Duration>,
}

impl Browser {
    fn new(codecs: impl FnOnce(str0m::RtcConfig) -> str0m::RtcConfig) -> (Self, String) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let config = codecs(Rtc::builder().clear_codecs());
        let mut rtc = config.build(Instant::now());
        let at = socket.local_addr().unwrap();
        rtc.add_local_candidate(Candidate::host(at, "udp").unwrap());
        let mut changes = rtc.sdp_api();
        let picture = changes.add_media(MediaKind::Video, Direction::RecvOnly, None, None, None);
        changes.add_media(MediaKind::Audio, Direction::RecvOnly, None, None, None);
        let (offer, pending) = changes.apply().unwrap();
        let browser = Self {
            rtc,
            socket,
            pending: Some(pending),
            picture,
        };
        (browser, offer.to_sdp_string())
    }

    fn h264() -> (Self, String) {
        Self::new(|config| config.enable_h264(true).enable_opus(true, false))
    }

    fn answered(&mut self, outcome: &Outcome) {
        let Outcome::Answer { sdp } = outcome else {
            panic!("{outcome:?}");
        };
        let answer = SdpAnswer::from_sdp_string(sdp).unwrap();
        let pending = self.pending.take().unwrap();
        self.rtc.sdp_api().accept_answer(pending, answer).unwrap();
    }

    /// Watches for so long; asks for a key frame so many times in the middle.
    fn watch(mut self, until: Duration, asks: usize) -> thread::JoinHandle<Seen> {
        thread::spawn(move || {
            let began = Instant::now();
            let mut seen = Seen::default();
            let mut asked = 0;
            let mut buffer = vec![0; 2_000];
            let mut last: Option<u64> = None;
            loop {
                let timeout = match self.rtc.poll_output().unwrap() {
                    Output::Timeout(at) => at,
                    Output::Transmit(transmit) => {
                        self.socket
                            .send_to(&transmit.contents, transmit.destination)
                            .unwrap();
                        continue;
                    }
                    Output::Event(event) => {
                        match event {
                            Event::Connected => seen.connected = Some(began.elapsed()),
                            Event::Closed => seen.closed = Some(began.elapsed()),
                            Event::MediaData(data) if data.mid == self.picture => {
                                seen.pictures += 1;
                                let idr = data.is_keyframe();
                                seen.first.get_or_insert((began.elapsed(), idr));
                                let time = data.time.rebase(str0m::media::Frequency::NINETY_KHZ);
                                let time = time.numer();
                                seen.gaps += usize::from(!data.contiguous);
                                // A picture is never older than the one before.
                                assert!(last.is_none_or(|last| last < time), "{last:?} {time}");
                                last = Some(time);
                            }
                            Event::MediaData(_) => seen.sounds += 1,
                            _ => {}
                        }
                        continue;
                    }
                };
                if began.elapsed() > until || !self.rtc.is_alive() {
                    return seen;
                }
                if asked < asks && seen.pictures > 10 + 5 * asked {
                    asked += 1;
                    if let Some(mut writer) = self.rtc.writer(self.picture) {
                        writer
                            .request_keyframe(None, KeyframeRequestKind::Pli)
                            .unwrap();
                    }
                }
                let wait = timeout.saturating_duration_since(Instant::now());
                let wait = wait.clamp(Duration::from_millis(1), Duration::from_millis(20));
                self.socket.set_read_timeout(Some(wait)).unwrap();
                let input = match self.socket.recv_from(&mut buffer) {
                    Ok((length, source)) => {
                        let Ok(contents) = buffer[..length].try_into() else {
                            continue;
                        };
                        Input::Receive(
                            Instant::now(),
                            Receive {
                                proto: Protocol::Udp,
                                source,
                                destination: self.socket.local_addr().unwrap(),
                                contents,
                            },
                        )
                    }
                    Err(_) => Input::Timeout(Instant::now()),
                };
                self.rtc.handle_input(input).unwrap();
            }
        })
    }
}

async fn joined(handle: thread::JoinHandle<Seen>) -> Seen {
    tokio::task::spawn_blocking(|| handle.join().unwrap())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_sees_from_an_idr_on_without_a_hole_and_hears() {
    let mut box_ = Box::start(local());
    time::sleep(Duration::from_millis(1_400)).await;
    let (mut browser, offer) = Browser::h264();
    browser.answered(&box_.offer(1, offer).await);
    let seen = joined(browser.watch(Duration::from_secs(4), 0)).await;
    let (first, idr) = seen.first.unwrap();
    assert!(idr, "{seen:?}");
    assert!(first < Duration::from_secs(1), "{seen:?}");
    assert_eq!(seen.gaps, 0, "{seen:?}");
    // Three seconds of them, and the group of pictures that it came into.
    assert!((90..=160).contains(&seen.pictures), "{seen:?}");
    assert!(seen.sounds > 100, "{seen:?}");
    let session = viewer(1).session.id;
    assert_eq!(box_.ask(Signal::Leave { session }).await, Outcome::Left);
    assert_eq!(
        box_.ask(Signal::Patch {
            session,
            fragment: String::new()
        })
        .await,
        Outcome::Refused {
            reason: Refusal::NoSession
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_lost_the_picture_get_one_idr() {
    let mut box_ = Box::start(local());
    let mut watching = Vec::new();
    for id in 0..5 {
        let (mut browser, offer) = Browser::h264();
        browser.answered(&box_.offer(id, offer).await);
        watching.push(browser.watch(Duration::from_secs(3), 3));
    }
    let began = Instant::now();
    let mut asked = 0;
    for handle in watching {
        joined(handle).await;
    }
    while box_.key_frames.try_recv().is_ok() {
        asked += 1;
    }
    // Five viewers asked three times each, and at most one in half a second was passed on.
    assert!(
        (1..=began.elapsed().as_millis() / 500 + 1).contains(&asked),
        "{asked}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_served_hears_why() {
    let mut box_ = Box::start(Config {
        max_viewers: 1,
        ..local()
    });
    let refused = |reason| Outcome::Refused { reason };
    for junk in ["", "v=0", "{}", &"a=ice-ufrag:x\r\n".repeat(900)] {
        assert_eq!(
            box_.offer(1, junk.to_owned()).await,
            refused(Refusal::Malformed),
            "{junk:.20}"
        );
    }
    let (_, vp8) = Browser::new(|config| config.enable_vp8(true));
    assert_eq!(box_.offer(1, vp8).await, refused(Refusal::NoCommonCodec));
    let (_, first) = Browser::h264();
    assert!(matches!(box_.offer(1, first).await, Outcome::Answer { .. }));
    let (_, second) = Browser::h264();
    assert_eq!(box_.offer(2, second).await, refused(Refusal::Full));
    // The same session again takes its own place.
    let (_, again) = Browser::h264();
    assert!(matches!(box_.offer(1, again).await, Outcome::Answer { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_or_is_ended_is_cut_at_once() {
    let mut box_ = Box::start(local());
    let unix = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let mut ending = viewer(1);
    ending.session.ends_unix_ms = unix.as_millis() as i64 + 1_500;
    let (mut browser, sdp) = Browser::h264();
    let ending = std::boxed::Box::new(ending);
    let outcome = box_
        .ask(Signal::Offer {
            viewer: ending,
            sdp,
        })
        .await;
    browser.answered(&outcome);
    let first = browser.watch(Duration::from_secs(5), 0);
    let (mut browser, offer) = Browser::h264();
    browser.answered(&box_.offer(2, offer).await);
    let second = browser.watch(Duration::from_secs(5), 0);
    let gone = ToEdge::Gone {
        sessions: vec![Tag::from_bytes([1; 12])],
    };
    assert_eq!(box_.told(Duration::from_secs(3)).await, Some(gone));
    box_.signaling.end(vec![Tag::from_bytes([2; 12])]).await;
    let ended = Instant::now();
    let first = joined(first).await;
    let closed = first.closed.unwrap();
    assert!(closed < Duration::from_millis(2_600), "{first:?}");
    let second = joined(second).await;
    assert!(
        second.closed.is_some() && ended.elapsed() < Duration::from_secs(2),
        "{second:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_link_is_back_the_edge_hears_who_watches() {
    let mut box_ = Box::start(local());
    let (_, offer) = Browser::h264();
    assert!(matches!(box_.offer(1, offer).await, Outcome::Answer { .. }));
    box_.signaling.connected();
    let watching = ToEdge::Watching {
        viewers: vec![viewer(1)],
    };
    assert_eq!(box_.told(Duration::from_secs(2)).await, Some(watching));
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_on_the_port_is_not_answered_and_disturbs_nobody() {
    let mut box_ = Box::start(local());
    let (mut browser, offer) = Browser::h264();
    let outcome = box_.offer(1, offer).await;
    let Outcome::Answer { sdp } = &outcome else {
        panic!()
    };
    let ufrag = sdp
        .lines()
        .find_map(|line| line.strip_prefix("a=ice-ufrag:"))
        .unwrap();
    browser.answered(&outcome);
    let watched = browser.watch(Duration::from_secs(3), 0);
    let port: SocketAddr = box_.webrtc.addresses()[0];
    let noise = UdpSocket::bind("127.0.0.1:0").unwrap();
    noise
        .set_read_timeout(Some(Duration::from_millis(1_500)))
        .unwrap();
    // A check with the viewer's name and a wrong signature, RTP, RTCP, DTLS, TURN channels, nothing, and too much.
    let mut check = vec![
        0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
    ];
    let username = format!("{ufrag}:abcd");
    check.extend([0, 6, 0, username.len() as u8]);
    check.extend(username.as_bytes());
    check.resize(check.len().next_multiple_of(4), 0);
    check.extend([0, 8, 0, 20]);
    check.extend([7; 20]);
    check[3] = (check.len() - 20) as u8;
    let mut sent: Vec<Vec<u8>> = vec![check, vec![], vec![0; 65_000]];
    for first in 0..=255_u8 {
        for length in [1, 20, 1_200] {
            sent.push(
                (0..length)
                    .map(|at| first.wrapping_add((at * at) as u8))
                    .collect(),
            );
        }
    }
    for datagram in sent.iter().cycle().take(5_000) {
        noise.send_to(datagram, port).unwrap();
    }
    let mut answer = [0; 2_000];
    assert!(
        noise.recv_from(&mut answer).is_err(),
        "something was answered"
    );
    let seen = joined(watched).await;
    assert!(seen.pictures > 60 && seen.gaps == 0, "{seen:?}");
}
