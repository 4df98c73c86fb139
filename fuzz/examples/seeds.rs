//! Writes the seeds of the corpus: what well-behaved peers send, and what once broke a promise. `cargo run --release -p ghost-live-fuzz --example seeds`
#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use ghost_live_fuzz::edge::timeline_lines;
use protocol::token::SigningKey;

fn main() {
    #[cfg(feature = "media")]
    media::seeds();
    edge();
}

/// What boxes and viewers send.
fn edge() {
    let golden =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/worker/golden/messages.json");
    let lines = timeline_lines(&fs::read_to_string(golden).unwrap());
    for (seed, count) in [("opened", 3), ("first_segments", 24), ("window", 60)] {
        write(
            "timeline",
            seed,
            lines
                .iter()
                .take(count)
                .cloned()
                .collect::<Vec<_>>()
                .join("\n")
                .as_bytes(),
        );
    }
    let mut restarted: Vec<String> = lines.iter().take(20).cloned().collect();
    restarted.extend(["!restart", "!gone", "!back"].map(str::to_owned));
    restarted.push(lines[0].replace("\"first_msn\":0", "\"first_msn\":3"));
    restarted.extend(
        lines
            .iter()
            .skip(1)
            .take(2)
            .map(|line| line.replace("\"from_msn\":0", "\"from_msn\":3")),
    );
    restarted.extend(
        [
            "!next{\"seq\":0,\"type\":\"discontinuity\",\"msn\":3}",
            "!gone",
            "!tick",
            "!tick",
        ]
        .map(str::to_owned),
    );
    write("timeline", "restarted", restarted.join("\n").as_bytes());
    // 4.499999 s was written as 4.50000, which rounds to more than the target duration.
    let parts = [
        (1, "\"timescale\":90000", "\"timescale\":1000000"),
        (1, "\"part_target\":30000", "\"part_target\":4000000"),
    ];
    let parts = parts.into_iter().chain([
        (3, "\"duration\":30000", "\"duration\":4000000"),
        (5, "\"start\":30000", "\"start\":4000000"),
        (5, "\"duration\":30000", "\"duration\":499999"),
        (15, "\"duration\":180000", "\"duration\":4499999"),
        (15, "\"size\":78", "\"size\":26"),
    ]);
    let mut long = lines.clone();
    parts.for_each(|(line, from, to)| long[line] = long[line].replace(from, to));
    write(
        "timeline",
        "just_under_the_target",
        [0, 1, 3, 5, 15]
            .map(|line| long[line].as_str())
            .join("\n")
            .as_bytes(),
    );

    let mut kinds: Vec<&str> = Vec::new();
    for line in &lines {
        let json = line.trim_start_matches("!next");
        let kind = json
            .split("\"type\":\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .unwrap();
        if !kinds.contains(&kind) {
            kinds.push(kind);
            write("messages", kind, json.as_bytes());
        }
    }
    write(
        "messages",
        "discontinuity",
        br#"{"seq":7,"type":"discontinuity","msn":3}"#,
    );
    write(
        "messages",
        "closed",
        br#"{"seq":7,"type":"closed","reason":"unpublished"}"#,
    );
    write(
        "messages",
        "heartbeat",
        br#"{"seq":0,"type":"heartbeat","clock_unix_ms":1790000000000}"#,
    );
    write("messages", "welcome", br#"{"type":"welcome","seq":7}"#);
    write(
        "messages",
        "refused",
        br#"{"type":"refused","reason":"another broadcast"}"#,
    );

    write("playlists", "segments", &[0, 5, 0, 0].repeat(12));
    write(
        "playlists",
        "everything",
        &[
            0, 5, 0, 1, 5, 4, 0, 0xf8, 6, 0, 9, 6, 0, 12, 1, 4, 7, 0, 6, 0, 0,
        ]
        .repeat(3),
    );

    let broadcast = "aaaaaaaaaaaaaaaaaaaaaaaaaa";
    let media = format!("/live/demo/{broadcast}/-/v-source");
    let key = format!("demo/{broadcast}/v-source");
    for (seed, choice, target) in [
        (
            "playlist",
            0,
            format!("{media}/index.m3u8?_HLS_msn=7&_HLS_part=1&_HLS_skip=YES"),
        ),
        ("segment", 1, format!("{media}/12.m4s")),
        ("multivariant", 0, "/live/demo/index.m3u8".to_owned()),
        (
            "object",
            0,
            format!("/media/{key}/7.2.aaaaaaaaaaaaaaaaaaaa.m4s"),
        ),
        (
            "put",
            4,
            format!("/internal/media/{key}/7.aaaaaaaaaaaaaaaaaaaa.m4s"),
        ),
        ("asset", 0, "/assets/index-abc123.js".to_owned()),
        ("time", 0, "/api/time?iso".to_owned()),
        ("beacon", 3, "/api/streams/demo/beacon".to_owned()),
    ] {
        write(
            "requests",
            seed,
            &[&[choice][..], target.as_bytes()].concat(),
        );
    }
    for (seed, file) in [
        ("init", "init-0.aaaaaaaaaaaaaaaaaaaa.mp4"),
        ("part", "7.2.aaaaaaaaaaaaaaaaaaaa.m4s"),
        ("segment", "7.aaaaaaaaaaaaaaaaaaaa.m4s"),
    ] {
        write("keys", seed, format!("{key}/{file}").as_bytes());
    }
    write("keys", "stream_key", format!("demo_{broadcast}").as_bytes());
    tokens();
    clients();
}

fn clients() {
    for (seed, text) in [
        ("x_forwarded_for", "1.1.1.1, 203.0.113.9\n10.0.0.7"),
        (
            "forwarded",
            "for=\"[2001:db8::5]:4711\";proto=https;by=10.0.0.2, for=unknown\nfor=\"\\\", for=10.0.0.9",
        ),
        ("origin", "https://other.example:8443"),
        (
            "path",
            "/live/main/aaaa/c2Vzc2lvbg/v-source/index.m3u8?token=eyJ",
        ),
    ] {
        write("clients", seed, text.as_bytes());
    }
}

fn tokens() {
    let key = SigningKey::from_seed("team", &[7; 32]).unwrap();
    let header = format!(r#"{{"alg":"EdDSA","kid":"{}"}}"#, key.kid());
    let all = concat!(
        r#"{"iss":"team","aud":["ghost-live"],"sub":"somebody","stream":"team-*","act":["watch","chat"],"nbf":1790000000,"#,
        r#""iat":1790000000,"exp":1790003600.5,"sess_exp":1790007200,"ip":["192.0.2.0/24","2001:db8::/32"],"max":2,"jti":"a"}"#
    );
    let few = r#"{"iss":"team","aud":"ghost-live","sub":"s","stream":"team-a","act":"publish","exp":1790003600,"jti":"b"}"#;
    for (seed, claims) in [("all_claims", all), ("few_claims", few)] {
        write("tokens", seed, format!("{header}\n{claims}").as_bytes());
    }
    let minted = key.mint(&serde_json::from_str(few).unwrap()).unwrap();
    write("tokens", "changed", minted.replace('a', "b").as_bytes());
}

fn write(target: &str, seed: &str, bytes: &[u8]) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(seed), bytes).unwrap();
}

/// What encoders send.
#[cfg(feature = "media")]
mod media {
    use data_encoding::HEXLOWER;
    use media_core::ingest::rtmp::{
        amf::{self, Value},
        chunk::Writer,
    };

    use super::write;

    /// An `AVCDecoderConfigurationRecord` of a Baseline stream.
    const RECORD: &[u8] = &[
        1, 66, 0xc0, 30, 0xff, 0xe1, 0, 5, 0x67, 66, 0xc0, 30, 0xe0, 1, 0, 2, 0x68, 0xc0,
    ];
    /// x264's parameter sets: 1920x1080 High; 1280x720 with VUI timing.
    const SPS_HIGH: &str = "6764002aacd940780227e5c05a808080a0000007d20001d4c11e30632c";
    const PPS_HIGH: &str = "68ebe3cb22c0";
    /// `AudioSpecificConfig`s: AAC-LC 48 and 44.1 kHz stereo, HE-AAC.
    const ASC: [&[u8]; 3] = [
        &[0x11, 0x90],
        &[0x12, 0x10],
        &[0x13, 0x10, 0x56, 0xe5, 0x9d, 0x48, 0x80],
    ];

    pub(super) fn seeds() {
        let hex = |text: &str| HEXLOWER.decode(text.as_bytes()).unwrap();
        for (choice, seed) in [
            (0x80, "pieces_of_1"),
            (0x9f, "pieces_of_497"),
            (0xdf, "refused"),
        ] {
            write("rtmp", seed, &[&[choice][..], &publish(&[])].concat());
        }
        let query = Value::from("demo?key=abc");
        write(
            "rtmp",
            "obs_commands",
            &[
                &[0x9f][..],
                &publish(&[("releaseStream", &query), ("FCPublish", &query)]),
            ]
            .concat(),
        );
        let handshake = [&[0x1f, 3][..], &[0; 3_072], &publish(&[])].concat();
        write("rtmp", "own_handshake", &handshake);

        let tag = |kind: u8, body: &[u8]| {
            [&[kind][..], &(body.len() as u16).to_be_bytes(), body].concat()
        };
        let config = [&[0x17, 0, 0, 0, 0][..], RECORD].concat();
        let frames = [
            tag(0, &config),
            tag(0, &[0x17, 1, 0, 0, 0, 0, 0, 0, 2, 0x65, 0x88]),
            tag(0, &[0x27, 1, 0xff, 0xff, 0xf0, 0, 0, 0, 2, 0x41, 0x9a]),
            tag(1, &[0xaf, 0, 0x11, 0x90]),
            tag(1, &[0xaf, 1, 1, 2, 3]),
        ];
        write("flv", "avc_and_aac", &frames.concat());
        let enhanced = [
            tag(0, &[&[0x90, b'a', b'v', b'c', b'1'][..], RECORD].concat()),
            tag(0, b"\x91avc1\0\0\0\0\0\0\x02\x65\x88"),
        ];
        write("flv", "enhanced", &enhanced.concat());
        let mut script = Vec::new();
        for value in ["@setDataFrame".into(), "onMetaData".into(), metadata()] {
            amf::write(&mut script, &value);
        }
        write("flv", "metadata", &tag(2, &script));
        write("values_and_headers", "metadata", &script);
        write(
            "values_and_headers",
            "proxy_v1",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 1935\r\n",
        );
        let v2 = hex("0d0a0d0a000d0a515549540a2111000cc0000201c00002021388078f");
        write("values_and_headers", "proxy_v2", &v2);

        let sps = hex(SPS_HIGH);
        let stream = [
            &[0, 0, 0, 1][..],
            &sps,
            &[0, 0, 1],
            &hex(PPS_HIGH),
            &[0, 0, 1, 0x65, 0x88, 0x84],
        ]
        .concat();
        let sets = media_core::codec::avc::ParameterSets::from_annex_b(&stream).unwrap();
        let high = sets.record().unwrap();
        write("parameter_sets", "sps_high", &sps);
        write("parameter_sets", "sps_baseline", &RECORD[8..13]);
        write("parameter_sets", "annex_b", &stream);
        write("parameter_sets", "avcc_baseline", RECORD);
        write("parameter_sets", "avcc_high", &high);
        let unit = [
            &[RECORD.len() as u8][..],
            RECORD,
            &[0, 0, 0, 2, 0x65, 0x88, 0, 0, 0, 5, 0x67, 66, 0xc0, 30, 0xe0],
        ]
        .concat();
        write("parameter_sets", "record_and_access_unit", &unit);
        for (index, asc) in ASC.iter().enumerate() {
            write("parameter_sets", &format!("asc_{index}"), asc);
        }

        let configured = |asc: &[u8]| {
            [
                &[0, 0, 100, 11, high.len() as u8][..],
                &high,
                &[12, asc.len() as u8],
                asc,
            ]
            .concat()
        };
        let steady = media(90, 33, 0);
        write(
            "repair",
            "steady",
            &[configured(ASC[0]), steady.clone()].concat(),
        );
        write(
            "repair",
            "resampled",
            &[configured(ASC[1]), media(60, 33, 0)].concat(),
        );
        write(
            "repair",
            "reordered",
            &[configured(ASC[0]), media(90, 17, 67)].concat(),
        );
        let jump = [10, 0x7f, 0xff, 0, 0];
        write(
            "repair",
            "jump",
            &[&configured(ASC[0])[..], &steady, &jump, &steady].concat(),
        );
        let other = [&[11, RECORD.len() as u8][..], RECORD, &[12, 2], ASC[1]].concat();
        write(
            "repair",
            "reconfigured",
            &[&configured(ASC[0])[..], &steady, &other, &steady].concat(),
        );
        write(
            "repair",
            "reconnect",
            &[&configured(ASC[0])[..], &steady, &[14, 15], &steady].concat(),
        );

        // 30 frames a second: 3,000 ticks each, an IDR each `gop` frames.
        let frames = |count: u16, gop: u16| {
            (0..count).flat_map(move |k| (2_999 << 2 | u16::from(k % gop == 0)).to_be_bytes())
        };
        for (seed, choice, gop) in [
            ("two_seconds", 2, 60),
            ("eight_seconds", 2, 240),
            ("variable", 9, 77),
            ("scene_cuts", 0, 13),
        ] {
            let bytes: Vec<u8> = [choice].into_iter().chain(frames(500, gop)).collect();
            write("cut", seed, &bytes);
        }
        let mut any = vec![0x80];
        for k in 0..200u32 {
            let flags = u8::from(k % 77 == 0) | (u8::from(k == 100) << 1) | ((k % 3) as u8 * 0x40);
            any.push(flags);
            any.extend_from_slice(&((k / 2 * 2 + (k + 1) % 2) * 3_000).to_be_bytes());
        }
        write("cut", "swapped_frames", &any);
    }

    /// Frames of picture with sound between them, each `ms` after the one before, an IDR each thirty.
    fn media(frames: u32, ms: u16, offset_ms: u16) -> Vec<u8> {
        let mut out = Vec::new();
        for k in 0..frames {
            out.push(if k % 30 == 0 { 0x80 } else { 0 });
            out.extend_from_slice(&ms.to_be_bytes());
            out.extend_from_slice(&offset_ms.to_be_bytes());
            out.push(ms as u8);
            out.push(6);
            out.extend_from_slice(&(21 + (k % 3 == 0) as u16).to_be_bytes());
            out.push(0);
        }
        out
    }

    fn metadata() -> Value {
        Value::Object(vec![
            ("width".into(), 1_280.0.into()),
            ("framerate".into(), 30.0.into()),
            ("encoder".into(), "obs-output module".into()),
        ])
    }

    /// What an encoder sends behind its handshake, up to its first frames.
    fn publish(before: &[(&str, &Value)]) -> Vec<u8> {
        let (mut writer, mut out) = (Writer::default(), Vec::new());
        let command = |writer: &Writer, out: &mut Vec<u8>, stream, values: &[Value]| {
            let mut body = Vec::new();
            values.iter().for_each(|value| amf::write(&mut body, value));
            writer.write(out, 3, 20, stream, &body);
        };
        let app = Value::Object(vec![
            ("app".into(), "live".into()),
            ("flashVer".into(), "FMLE/3.0".into()),
        ]);
        command(&writer, &mut out, 0, &["connect".into(), 1.0.into(), app]);
        for (name, argument) in before {
            command(
                &writer,
                &mut out,
                0,
                &[(*name).into(), 2.0.into(), Value::Null, (*argument).clone()],
            );
        }
        command(
            &writer,
            &mut out,
            0,
            &["createStream".into(), 4.0.into(), Value::Null],
        );
        command(
            &writer,
            &mut out,
            1,
            &[
                "publish".into(),
                5.0.into(),
                Value::Null,
                "key".into(),
                "live".into(),
            ],
        );
        writer.write(&mut out, 2, 1, 0, &60_000u32.to_be_bytes());
        writer.set_chunk_size(60_000);
        let config = [&[0x17, 0, 0, 0, 0][..], RECORD].concat();
        writer.write(&mut out, 4, 9, 1, &config);
        writer.write(
            &mut out,
            4,
            9,
            1,
            &[0x17, 1, 0, 0, 0, 0, 0, 0, 2, 0x65, 0x88],
        );
        writer.write(&mut out, 5, 8, 1, &[0xaf, 0, 0x11, 0x90]);
        writer.write(&mut out, 5, 8, 1, &[0xaf, 1, 1, 2, 3]);
        out
    }
}
