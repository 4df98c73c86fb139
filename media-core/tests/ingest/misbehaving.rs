//! Peers that are silent, slow, oversized, malformed or in the wrong place: each is cut off, and one log line says who and why.

use std::time::{Duration, SystemTime};

use ghost_live_media_core::{
    ingest::rtmp::amf::Value,
    media::{IngestEvent, PublisherEnd},
};
use tokio::io::AsyncWriteExt;

use super::{
    client::{AUDIO, Client, IDR, VIDEO},
    fixture::{Fixture, KEY, Log, SHORT, SHORT_KEY, UNANSWERED_KEY, all, is_idr, until},
};

/// What a session whose time is over may take to end: the 2 s.
const BOUND: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_wrong_key_is_denied_before_any_media() {
    let server = Fixture::start().await;
    let mut client = Client::request(server.rtmp, "wrong_key").await;
    // Sent without waiting for the answer.
    client.video_config().await;
    let (code, description) = client.status_and_description().await;
    assert_eq!(code, "NetStream.Publish.Denied");
    assert_eq!(description, "The stream key is wrong.");
    client.closed().await;
}

#[tokio::test]
async fn no_key_is_denied_before_any_media_and_the_edge_is_not_asked() {
    let mut server = Fixture::start().await;
    for name in ["", "demo?key=", "?key="] {
        let mut client = Client::request(server.rtmp, name).await;
        client.video_config().await;
        let (code, description) = client.status_and_description().await;
        assert_eq!(code, "NetStream.Publish.Denied", "{name:?}");
        assert!(
            description.starts_with("There is no stream key"),
            "{name:?}: {description}"
        );
        client.closed().await;
    }
    assert!(server.edge.asked.lock().unwrap().is_empty());
    // A stream's name alone is taken for a key, which is wrong.
    let mut client = Client::request(server.rtmp, "demo").await;
    let (code, description) = client.status_and_description().await;
    assert_eq!(code, "NetStream.Publish.Denied");
    assert_eq!(description, "The stream key is wrong.");
    client.closed().await;
    assert_eq!(server.edge.asked.lock().unwrap().len(), 1);
    assert!(server.publishers.try_recv().is_err());
}

#[tokio::test]
async fn a_name_that_is_no_stream_and_a_taken_stream_are_bad_names() {
    let mut server = Fixture::start().await;
    let mut client = Client::request(server.rtmp, &format!("No Stream?key={KEY}")).await;
    assert_eq!(client.status().await, "NetStream.Publish.BadName");
    client.closed().await;
    let _first = Client::publish(server.rtmp, KEY).await;
    let _publisher = server.publisher().await;
    let mut second = Client::request(server.rtmp, KEY).await;
    assert_eq!(second.status().await, "NetStream.Publish.BadName");
    second.closed().await;
}

#[tokio::test]
async fn an_edge_that_does_not_answer_admits_nobody() {
    let mut server = Fixture::with(|config| config.admission_deadline_ms = 200).await;
    let mut client = Client::request(server.rtmp, UNANSWERED_KEY).await;
    let (code, description) = client.status_and_description().await;
    assert_eq!(code, "NetStream.Publish.Denied");
    assert!(description.contains("try again"), "{description}");
    client.closed().await;
    Log::line(&["publisher cut off", "the edge did not answer within 200ms"]).await;
    assert!(server.publishers.try_recv().is_err());
}

#[tokio::test]
async fn a_peer_that_says_nothing_or_too_little_is_cut_at_the_handshakes_deadline() {
    let server = Fixture::with(|config| config.handshake_deadline_ms = 300).await;
    let silent = Client::dial(server.rtmp).await;
    let mut slow = Client::dial(server.rtmp).await;
    slow.send(&[3, 0, 0]).await;
    let mut no_publish = Client::dial(server.rtmp).await;
    no_publish.handshake().await;
    let silent_tls = Client::dial(server.rtmps).await;
    for client in [silent, slow, no_publish, silent_tls] {
        let peer = client.tcp.local_addr().unwrap().to_string();
        client.closed().await;
        Log::line(&[
            "publisher cut off",
            &peer,
            "no request to publish within 300ms",
        ])
        .await;
    }
}

#[tokio::test]
async fn a_publisher_without_audio_or_video_is_cut_for_its_silence() {
    let mut server = Fixture::with(|config| config.silence_ms = 300).await;
    let mut client = Client::publish(server.rtmp, KEY).await;
    let peer = client.tcp.local_addr().unwrap().to_string();
    let mut publisher = server.publisher().await;
    client.video_config().await;
    // Signs of life that are no media do not help.
    let chatter = async {
        loop {
            client
                .command(0, &["ping".into(), 0.0.into(), Value::Null])
                .await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let end = tokio::select! {
        (_, end) = all(&mut publisher) => end,
        () = chatter => unreachable!("it has no end"),
    };
    assert_eq!(end, PublisherEnd::Cut);
    Log::line(&[
        "publisher cut off",
        &peer,
        "demo",
        "no audio or video for 300ms",
    ])
    .await;
}

#[tokio::test]
async fn a_publisher_whose_time_is_over_is_ended_in_the_midst_of_its_media() {
    let mut server = Fixture::start().await;
    let before = SystemTime::now();
    let mut client = Client::publish(server.rtmp, SHORT_KEY).await;
    let mut publisher = server.publisher().await;
    client.video_config().await;
    client.message(VIDEO, IDR).await;
    until(&mut publisher, is_idr).await;
    let (_, end) = all(&mut publisher).await;
    let lasted = before.elapsed().unwrap();
    assert!((SHORT..SHORT + BOUND).contains(&lasted), "{lasted:?}");
    // Over, and not cut: nobody waits for it to come back.
    assert_eq!(end, PublisherEnd::Unpublished);
    let (code, description) = client.status_and_description().await;
    assert_eq!(code, "NetStream.Failed");
    assert!(description.contains("time"), "{description}");
    client.closed().await;
    let line = [
        "publisher ended",
        "demo",
        "the time for which it was admitted is over",
    ];
    Log::line(&line).await;

    // The stream is free again at once, and a publisher with no such bound stays.
    let mut client = Client::publish(server.rtmp, KEY).await;
    let mut publisher = server.publisher().await;
    client.video_config().await;
    client.message(VIDEO, IDR).await;
    until(&mut publisher, is_idr).await;
}

#[tokio::test]
async fn messages_over_the_limit_are_not_read() {
    let mut server = Fixture::with(|config| config.max_message_bytes = 100_000).await;
    let mut client = Client::publish(server.rtmp, KEY).await;
    let mut publisher = server.publisher().await;
    client.message(VIDEO, &vec![0x17; 100_001]).await;
    assert_eq!(all(&mut publisher).await, (vec![], PublisherEnd::Cut));
    Log::line(&[
        "publisher cut off",
        "demo",
        "a message of type 9 has 100001 bytes, and at most 100000 are taken",
    ])
    .await;
    // Before a publisher is admitted, even less is taken.
    let mut client = Client::dial(server.rtmp).await;
    client.handshake().await;
    client.message(VIDEO, &vec![0x17; 70_000]).await;
    client.closed().await;
    Log::line(&["publisher cut off", "a message of type 9 has 70000 bytes"]).await;
}

#[tokio::test]
async fn bytes_that_are_not_rtmp_are_cut_with_their_reason() {
    let mut server = Fixture::start().await;
    for (bytes, reason) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "its first byte is 0x47"),
        (&[3; 8_000], "a message of type 3 has 197379 bytes"),
        (&[0x16, 3, 1, 0, 5], "its first byte is 0x16"),
    ] {
        let mut client = Client::dial(server.rtmp).await;
        let peer = client.tcp.local_addr().unwrap().to_string();
        client.send(bytes).await;
        if bytes.len() > 5_000 {
            // The answer to the handshake is in the way of reading commands.
            let mut answer = vec![0; 3_073];
            tokio::io::AsyncReadExt::read_exact(&mut client.tcp, &mut answer)
                .await
                .unwrap();
        }
        client.closed().await;
        Log::line(&["publisher cut off", &peer, reason]).await;
    }
    let mut client = Client::dial(server.rtmps).await;
    client.send(&[3; 3_000]).await;
    client.closed().await;
    Log::line(&[
        "publisher cut off",
        "protocol=rtmps",
        "the connection broke",
    ])
    .await;

    let mut client = Client::publish(server.rtmp, KEY).await;
    let mut publisher = server.publisher().await;
    client.video_config().await;
    client
        .message(VIDEO, &[0x17, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])
        .await;
    let (events, end) = all(&mut publisher).await;
    assert!(matches!(&events[..], [IngestEvent::VideoConfig(_)]));
    assert_eq!(end, PublisherEnd::Cut);
    Log::line(&[
        "publisher cut off",
        "demo",
        "an H.264 access unit is malformed",
    ])
    .await;
}

#[tokio::test]
async fn another_codec_is_refused_with_what_to_set_in_the_encoder() {
    let mut server = Fixture::start().await;
    for (kind, body, expected) in [
        (VIDEO, &b"\x90hvc1"[..], ["HEVC", "choose H.264"]),
        (AUDIO, &b"\x90Opus"[..], ["Opus", "choose AAC"]),
        (AUDIO, &[0x2f, 0], ["MP3", "choose AAC"]),
    ] {
        let mut client = Client::publish(server.rtmp, KEY).await;
        let mut publisher = server.publisher().await;
        client.message(kind, body).await;
        let (code, description) = client.status_and_description().await;
        assert_eq!(code, "NetStream.Failed");
        assert!(
            expected.iter().all(|part| description.contains(part)),
            "{description}"
        );
        assert_eq!(all(&mut publisher).await.1, PublisherEnd::Cut);
        client.closed().await;
    }
}

#[tokio::test]
async fn a_bit_rate_over_the_ceiling_is_cut() {
    let mut server = Fixture::with(|config| config.max_bitrate_bps = 80_000).await;
    let mut client = Client::publish(server.rtmp, KEY).await;
    let mut publisher = server.publisher().await;
    client.video_config().await;
    let frame = [IDR, &[0; 1_000]].concat();
    let mut frame_of_one_nal = frame.clone();
    frame_of_one_nal[5..9].copy_from_slice(&1_002u32.to_be_bytes());
    for _ in 0..200 {
        client.message(VIDEO, &frame_of_one_nal).await;
    }
    assert_eq!(all(&mut publisher).await.1, PublisherEnd::Cut);
    Log::line(&[
        "publisher cut off",
        "demo",
        "the bit rate is over max_bitrate_bps (80000)",
    ])
    .await;
}

#[tokio::test]
async fn the_pipeline_can_cut_a_publisher_and_so_can_the_servers_end() {
    let mut server = Fixture::start().await;
    let client = Client::publish(server.rtmp, KEY).await;
    let mut publisher = server.publisher().await;
    publisher.cut.cancel();
    assert_eq!(all(&mut publisher).await, (vec![], PublisherEnd::Cut));
    client.closed().await;

    // Dropping the events is as good.
    let client = Client::publish(server.rtmp, KEY).await;
    drop(server.publisher().await);
    client.closed().await;

    let client = Client::publish(server.rtmp, KEY).await;
    let mut publisher = server.publisher().await;
    server.stop();
    assert_eq!(all(&mut publisher).await, (vec![], PublisherEnd::Cut));
    client.closed().await;
}

#[tokio::test]
async fn a_pipeline_that_does_not_read_loses_frames_and_not_the_publisher() {
    let mut server = Fixture::with(|config| config.queue_events = 20).await;
    let mut client = Client::publish(server.rtmp, KEY).await;
    let mut publisher = server.publisher().await;
    client.video_config().await;
    for _ in 0..100 {
        client.message(VIDEO, IDR).await;
    }
    Log::line(&["the pipeline does not keep up", "demo"]).await;
    assert!(publisher.events.waiting().0 <= 20);
    // It reads again, and what comes from then on arrives.
    while publisher.events.waiting().0 > 0 {
        publisher.events.recv().await.unwrap();
    }
    client.message(VIDEO, IDR).await;
    until(&mut publisher, is_idr).await;
    client
        .command(
            1,
            &["deleteStream".into(), 0.0.into(), Value::Null, 1.0.into()],
        )
        .await;
    assert_eq!(all(&mut publisher).await.1, PublisherEnd::Unpublished);
}

#[tokio::test]
async fn connections_are_counted_by_address_and_before_admission() {
    let server = Fixture::with(|config| config.max_connections_per_address = 2).await;
    let (_one, _two) = (
        Client::dial(server.rtmp).await,
        Client::dial(server.rtmp).await,
    );
    let mut one = Client::dial(server.rtmp).await;
    // The first two are counted once they are taken, in order.
    one.send(&[3]).await;
    one.closed().await;
    Log::line(&["publisher cut off", "max_connections_per_address"]).await;

    let server = Fixture::with(|config| config.max_unadmitted = 1).await;
    let mut admitted = Client::publish(server.rtmp, KEY).await;
    let _waiting = Client::dial(server.rtmp).await;
    Client::dial(server.rtmp).await.closed().await;
    Log::line(&["connection cut off", "max_unadmitted"]).await;
    admitted.video_config().await;
}

/// A PROXY protocol header, version 2, of a connection from 192.0.2.`host`:4660.
fn proxied(host: u8) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend_from_slice(&[192, 0, 2, host, 127, 0, 0, 1, 0x12, 0x34, 7, 0x8f]);
    header
}

#[tokio::test]
async fn one_address_cannot_hold_all_places_of_those_who_are_not_admitted() {
    let server = Fixture::with(|config| {
        config.proxy_from = vec!["127.0.0.0/8".parse().unwrap()];
        config.max_unadmitted = 16;
    })
    .await;
    let dial = async |host| {
        let mut client = Client::dial(server.rtmp).await;
        client.send(&proxied(host)).await;
        client
    };
    let (one, two, three) = (dial(8).await, dial(8).await, dial(8).await);
    // Whichever of the three was counted last.
    tokio::select! {
        () = one.closed() => {}
        () = two.closed() => {}
        () = three.closed() => {}
    }
    Log::line(&[
        "publisher cut off",
        "192.0.2.8",
        "an eighth of max_unadmitted",
    ])
    .await;
    let mut other = dial(9).await;
    other.handshake().await;
    other.ask(KEY).await;
    assert_eq!(other.status().await, "NetStream.Publish.Start");
}

#[tokio::test]
async fn a_proxy_header_is_honoured_from_listed_addresses_only() {
    let header = proxied(7);
    let mut listed =
        Fixture::with(|config| config.proxy_from = vec!["127.0.0.0/8".parse().unwrap()]).await;
    let mut client = Client::dial(listed.rtmp).await;
    client.tcp.write_all(&header).await.unwrap();
    client.handshake().await;
    client.ask(KEY).await;
    assert_eq!(client.status().await, "NetStream.Publish.Start");
    assert_eq!(listed.publisher().await.peer.to_string(), "192.0.2.7:4660");
    assert_eq!(listed.edge.asked.lock().unwrap()[0].peer, "192.0.2.7");
    let mut without = Client::dial(listed.rtmp).await;
    without.send(&[3; 1_537]).await;
    without.closed().await;
    Log::line(&[
        "publisher cut off",
        "does not begin with a PROXY protocol header",
    ])
    .await;

    let unlisted = Fixture::start().await;
    for address in [unlisted.rtmp, unlisted.rtmps] {
        let mut client = Client::dial(address).await;
        let peer = client.tcp.local_addr().unwrap().to_string();
        client.send(&header).await;
        client.closed().await;
        Log::line(&["publisher cut off", &peer, "not listed in proxy_from"]).await;
    }
}
