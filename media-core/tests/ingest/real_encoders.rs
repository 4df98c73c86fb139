//! Encoders as people use them.

use std::process::Output;

use ghost_live_media_core::{
    ingest::{Protocol, SecondPublisher},
    media::{IngestEvent, PublisherEnd},
};

use protocol::limits::Limits;

use super::fixture::{Fixture, KEY, Log, all, ffmpeg, finish, is_idr, spawn, until};

/// What two seconds of 30 frames a second with audio must have given.
fn assert_two_seconds(events: &[IngestEvent], min_frames: usize) {
    let at = |wanted: fn(&IngestEvent) -> bool| events.iter().position(wanted);
    let video_config =
        at(|event| matches!(event, IngestEvent::VideoConfig(_))).expect("a video configuration");
    let first_video = at(|event| matches!(event, IngestEvent::Video { .. })).expect("video");
    let audio_config =
        at(|event| matches!(event, IngestEvent::AudioConfig(_))).expect("an audio configuration");
    let first_audio = at(|event| matches!(event, IngestEvent::Audio { .. })).expect("audio");
    assert!(video_config < first_video && audio_config < first_audio);
    assert!(is_idr(&events[first_video]));
    let IngestEvent::AudioConfig(audio) = &events[audio_config] else {
        unreachable!("the position of one");
    };
    assert_eq!(
        (audio.sample_rate, audio.channels, audio.is_lc),
        (48_000, 2, true)
    );

    let mut video = Vec::new();
    for event in events {
        if let IngestEvent::Video {
            timestamp_ms, data, ..
        } = event
        {
            // Four bytes of length up to the end.
            let mut rest = &data[..];
            while let Some((length, later)) = rest.split_first_chunk::<4>() {
                rest = &later[u32::from_be_bytes(*length) as usize..];
            }
            assert!(rest.is_empty());
            video.push(*timestamp_ms);
        }
    }
    let audio_frames = events
        .iter()
        .filter(|event| matches!(event, IngestEvent::Audio { .. }))
        .count();
    assert!(video.len() >= min_frames, "{} video frames", video.len());
    assert!(video.is_sorted());
    assert!(
        audio_frames * 2 >= min_frames,
        "{audio_frames} audio frames"
    );
    assert!(events.iter().filter(|event| is_idr(event)).count() >= 2);
}

fn assert_success(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
}

#[tokio::test]
async fn ffmpeg_publishes_over_rtmp_with_the_key_as_the_name() {
    let mut server = Fixture::start().await;
    let peer = ffmpeg(2, &[&format!("rtmp://{}/live/{KEY}", server.rtmp)]);
    let mut publisher = server.publisher().await;
    assert_eq!(
        (publisher.stream.as_str(), publisher.protocol),
        ("demo", Protocol::Rtmp)
    );
    let (events, end) = all(&mut publisher).await;
    assert_two_seconds(&events, 58);
    let IngestEvent::Metadata(metadata) = &events[0] else {
        panic!("the metadata comes first, not {:?}", events[0]);
    };
    assert_eq!(
        (metadata.width, metadata.height, metadata.frame_rate),
        (Some(320), Some(180), Some(30.0))
    );
    assert!(
        metadata
            .encoder
            .as_deref()
            .is_some_and(|encoder| encoder.starts_with("Lavf"))
    );
    // B-frames: some frame is shown later than it is decoded.
    let is_reordered = |event: &IngestEvent| {
        matches!(
            event,
            IngestEvent::Video {
                composition_offset_ms: 33..,
                ..
            }
        )
    };
    assert!(events.iter().any(is_reordered));
    assert_eq!(end, PublisherEnd::Unpublished);
    assert_success(&finish(peer).await);
    assert!(!Log::text().contains(KEY), "the key is in the log");
}

#[tokio::test]
async fn ffmpeg_publishes_over_rtmps_with_the_key_in_the_query() {
    let mut server = Fixture::start().await;
    let peer = ffmpeg(
        2,
        &[&format!("rtmps://{}/live/other?key={KEY}", server.rtmps)],
    );
    let mut publisher = server.publisher().await;
    assert_eq!(
        (publisher.stream.as_str(), publisher.protocol),
        ("other", Protocol::Rtmps)
    );
    let (events, end) = all(&mut publisher).await;
    assert_two_seconds(&events, 58);
    assert_eq!(end, PublisherEnd::Unpublished);
    assert_success(&finish(peer).await);
    assert!(!Log::text().contains(KEY), "the key is in the log");
}

#[tokio::test]
async fn a_publish_far_into_the_32_bits_of_time_has_extended_timestamps() {
    let mut server = Fixture::start().await;
    // 0x1000000 ms are 16,777 s.
    let peer = ffmpeg(
        2,
        &[
            "-output_ts_offset",
            "20000",
            &format!("rtmp://{}/live/{KEY}", server.rtmp),
        ],
    );
    let mut publisher = server.publisher().await;
    let (events, _) = all(&mut publisher).await;
    assert_two_seconds(&events, 58);
    let is_late = |event: &IngestEvent| match event {
        IngestEvent::Video { timestamp_ms, .. } | IngestEvent::Audio { timestamp_ms, .. } => {
            (19_990_000..20_003_000).contains(timestamp_ms)
        }
        _ => true,
    };
    assert!(events.iter().all(is_late));
    finish(peer).await;
}

/// A GStreamer pipeline of 60 frames with audio that ends in `sink`.
fn gstreamer(sink: &[&str]) -> tokio::process::Child {
    let pipeline = "-e flvmux name=mux streamable=true \
        videotestsrc num-buffers=60 is-live=true ! video/x-raw,width=320,height=180,framerate=30/1 \
        ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=30 ! h264parse ! queue ! mux. \
        audiotestsrc num-buffers=94 samplesperbuffer=1024 is-live=true ! audio/x-raw,rate=48000,channels=2 \
        ! avenc_aac ! aacparse ! queue ! mux. mux. !";
    let pipeline: Vec<&str> = pipeline.split_whitespace().collect();
    spawn("gst-launch-1.0", &[&pipeline[..], sink].concat())
}

#[tokio::test]
async fn gstreamer_rtmp2sink_publishes() {
    let mut server = Fixture::start().await;
    let peer = gstreamer(&[
        "rtmp2sink",
        &format!("location=rtmp://{}/live/{KEY}", server.rtmp),
    ]);
    let mut publisher = server.publisher().await;
    let (events, end) = all(&mut publisher).await;
    assert_two_seconds(&events, 50);
    assert_eq!(end, PublisherEnd::Unpublished);
    assert_success(&finish(peer).await);
}

#[tokio::test]
async fn librtmp_publishes() {
    let mut server = Fixture::start().await;
    let peer = gstreamer(&[
        "rtmpsink",
        &format!("location=rtmp://{}/live/{KEY} live=1", server.rtmp),
    ]);
    let mut publisher = server.publisher().await;
    let (events, end) = all(&mut publisher).await;
    assert_two_seconds(&events, 50);
    assert_eq!(end, PublisherEnd::Unpublished);
    assert_success(&finish(peer).await);
}

#[tokio::test]
async fn ffmpeg_with_a_wrong_key_is_told_so_and_fails() {
    let mut server = Fixture::start().await;
    let output = finish(ffmpeg(
        5,
        &[&format!("rtmp://{}/live/wrong_key", server.rtmp)],
    ))
    .await;
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("The stream key is wrong."), "{said}");
    assert!(server.publishers.try_recv().is_err());
    Log::line(&[
        "publisher cut off",
        "peer=127.0.0.1",
        "The stream key is wrong.",
    ])
    .await;
    assert!(!Log::text().contains("wrong_key"), "the key is in the log");
}

#[tokio::test]
async fn an_encoder_that_was_cut_comes_back() {
    let mut server = Fixture::start().await;
    let address = format!("rtmp://{}/live/{KEY}", server.rtmp);
    let mut peer = ffmpeg(60, &[&address]);
    let mut publisher = server.publisher().await;
    until(&mut publisher, is_idr).await;
    peer.kill().await.unwrap();
    let (_, end) = all(&mut publisher).await;
    assert_eq!(end, PublisherEnd::Cut);
    let peer = ffmpeg(2, &[&address]);
    let mut publisher = server.publisher().await;
    let (events, end) = all(&mut publisher).await;
    assert_two_seconds(&events, 58);
    assert_eq!(end, PublisherEnd::Unpublished);
    finish(peer).await;
}

#[tokio::test]
async fn a_second_encoder_is_refused_and_the_first_goes_on() {
    let mut server = Fixture::start().await;
    let address = format!("rtmp://{}/live/{KEY}", server.rtmp);
    let first = ffmpeg(60, &[&address]);
    let mut publisher = server.publisher().await;
    until(&mut publisher, is_idr).await;
    let output = finish(ffmpeg(5, &[&address])).await;
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("live from another encoder"), "{said}");
    Log::line(&["publisher cut off", "demo", "live from another encoder"]).await;
    assert!(server.publishers.try_recv().is_err());
    // What the first sends from now on still comes.
    while publisher.events.waiting().0 > 0 {
        publisher.events.recv().await.unwrap();
    }
    until(&mut publisher, is_idr).await;
    drop(first);
}

#[tokio::test]
async fn a_second_encoder_takes_over_where_the_configuration_says_so() {
    let mut server =
        Fixture::with(|config| config.second_publisher = SecondPublisher::TakeOver).await;
    let address = format!("rtmp://{}/live/{KEY}", server.rtmp);
    let first = ffmpeg(60, &[&address]);
    let mut publisher = server.publisher().await;
    until(&mut publisher, is_idr).await;
    let second = ffmpeg(2, &[&address]);
    let (_, end) = all(&mut publisher).await;
    assert_eq!(end, PublisherEnd::Cut);
    Log::line(&["publisher cut off", "demo", "another publisher took over"]).await;
    let mut publisher = server.publisher().await;
    let (events, end) = all(&mut publisher).await;
    assert_two_seconds(&events, 58);
    assert_eq!(end, PublisherEnd::Unpublished);
    assert_success(&finish(second).await);
    assert!(!finish(first).await.status.success());
}

#[tokio::test]
async fn ffmpeg_is_held_to_the_limits_of_its_stream() {
    let mut server = Fixture::start().await;
    let address = format!("rtmp://{}/live/{KEY}", server.rtmp);
    let within = Limits {
        max_height: Some(180),
        max_fps: Some(30),
        max_bitrate_bps: Some(20_000_000),
        ..Limits::default()
    };
    let height = Limits {
        max_height: Some(179),
        ..within
    };
    let rate = Limits {
        max_fps: Some(15),
        ..within
    };
    let bitrate = Limits {
        max_bitrate_bps: Some(100_000),
        ..within
    };
    for (limits, said) in [
        (height, "the picture is 320x180"),
        (rate, "more than the 15 frames a second"),
        (bitrate, "more than the 100000 bits a second"),
    ] {
        *server.edge.limits.lock().unwrap() = limits;
        let peer = ffmpeg(
            30,
            &[
                "-b:v",
                "1500k",
                "-x264-params",
                "nal-hrd=cbr:vbv-bufsize=1500:vbv-maxrate=1500",
                &address,
            ],
        );
        let mut publisher = server.publisher().await;
        let (_, end) = all(&mut publisher).await;
        assert_eq!(end, PublisherEnd::Unpublished, "{said}");
        Log::line(&["publisher cut off", "demo", said]).await;
        drop(peer);
    }
    *server.edge.limits.lock().unwrap() = within;
    let peer = ffmpeg(2, &[&address]);
    let mut publisher = server.publisher().await;
    let (events, end) = all(&mut publisher).await;
    assert_two_seconds(&events, 58);
    assert_eq!(end, PublisherEnd::Unpublished);
    assert_success(&finish(peer).await);
}
