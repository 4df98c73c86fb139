//! Entry points of the fuzz targets, and of the property tests that run the same on every test run. Each takes arbitrary bytes, must
//! return, and checks what it promises on the way.

use bytes::Bytes;

use super::{
    flv, proxy,
    rtmp::{Event, Limits, Session, amf, handshake},
};
use crate::media::IngestEvent;

/// An RTMP session and, for its media, the FLV demuxer. The first byte chooses: bit 7, whether a handshake is put in front; bit 6, whether
/// a publisher is refused; the rest, how many bytes come at a time.
pub fn rtmp(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else {
        return;
    };
    let limits = Limits {
        max_message_bytes: 1 << 16,
        max_command_bytes: 1 << 12,
        max_input_bytes: 1 << 14,
        max_output_bytes: 1 << 14,
    };
    let mut session = Session::new(limits, 1);
    if choice & 0x80 != 0 {
        let mut hello = vec![0; 1 + 2 * handshake::PACKET_BYTES];
        hello[0] = handshake::VERSION;
        // Within max_input_bytes.
        let _ = session.receive(&hello);
    }
    let mut demuxer = flv::Demuxer::default();
    let mut out = Vec::new();
    for piece in bytes.chunks(usize::from(choice & 0x3f) * 16 + 1) {
        if session.receive(piece).is_err() {
            return;
        }
        loop {
            match session.poll() {
                Ok(Some(Event::Publish(request))) => {
                    let _ = super::address::credentials(&request);
                    match choice & 0x40 {
                        0 => session.accept(),
                        _ => session.refuse(super::rtmp::Refusal::Denied, "no"),
                    }
                }
                Ok(Some(Event::Video { timestamp, payload })) => {
                    if demuxer.video(timestamp, &payload, &mut out).is_err() {
                        return;
                    }
                }
                Ok(Some(Event::Audio { timestamp, payload })) => {
                    if demuxer.audio(timestamp, &payload, &mut out).is_err() {
                        return;
                    }
                }
                Ok(Some(Event::Script(payload))) => demuxer.script(&payload, &mut out),
                Ok(Some(Event::Unpublished)) => assert!(!session.is_publishing()),
                Ok(None) => break,
                Err(_) => return,
            }
        }
        // One message's answers may go beyond the limit before it is looked at.
        assert!(session.take_output().len() <= limits.max_output_bytes + 4_096);
        check(&out);
        out.clear();
    }
}

/// The FLV demuxer alone: tags of one byte of kind, two of length, and the body.
pub fn flv(mut bytes: &[u8]) {
    let mut demuxer = flv::Demuxer::default();
    let mut out = Vec::new();
    while let [kind, l1, l0, rest @ ..] = bytes {
        let (body, later) =
            rest.split_at(usize::from(u16::from_be_bytes([*l1, *l0])).min(rest.len()));
        bytes = later;
        let body = Bytes::copy_from_slice(body);
        let _ = match kind % 3 {
            0 => demuxer.video(0, &body, &mut out),
            1 => demuxer.audio(0, &body, &mut out),
            _ => {
                demuxer.script(&body, &mut out);
                Ok(())
            }
        };
        check(&out);
        out.clear();
    }
}

/// AMF0 and the PROXY protocol's header.
pub fn values_and_headers(bytes: &[u8]) {
    if let Ok(values) = amf::read_all(bytes) {
        let mut written = Vec::new();
        values
            .iter()
            .for_each(|value| amf::write(&mut written, value));
        assert!(
            amf::read_all(&written).is_ok(),
            "what was read is not readable when written"
        );
    }
    if let Ok(Ok(header)) = proxy::parse(bytes) {
        assert!(header.bytes <= bytes.len());
    }
}

/// What the steps behind ingest count on.
fn check(events: &[IngestEvent]) {
    for event in events {
        match event {
            IngestEvent::Video { data, .. } => {
                let mut rest = &data[..];
                while let Some((length, later)) = rest.split_first_chunk::<4>() {
                    rest = &later[u32::from_be_bytes(*length) as usize..];
                }
                assert!(
                    rest.is_empty() && !data.is_empty(),
                    "an access unit is not of whole NAL units"
                );
            }
            IngestEvent::Audio { data, .. } => assert!(!data.is_empty()),
            IngestEvent::AudioConfig(config) => {
                assert!(config.sample_rate > 0 && config.channels > 0)
            }
            IngestEvent::VideoConfig(config) => assert!(config.avcc.len() > 7),
            IngestEvent::Metadata(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// What a well-behaved encoder sends up to its first frames, in whole chunks, so that mutations reach deep.
    fn well_behaved() -> Vec<u8> {
        use super::super::rtmp::chunk::Writer;
        let (mut writer, mut out) = (Writer::default(), Vec::new());
        let command = |writer: &Writer, out: &mut Vec<u8>, stream, values: &[amf::Value]| {
            let mut body = Vec::new();
            values.iter().for_each(|value| amf::write(&mut body, value));
            writer.write(out, 3, 20, stream, &body);
        };
        let app = amf::Value::Object(vec![("app".into(), "live".into())]);
        command(&writer, &mut out, 0, &["connect".into(), 1.0.into(), app]);
        command(
            &writer,
            &mut out,
            0,
            &["createStream".into(), 2.0.into(), amf::Value::Null],
        );
        command(
            &writer,
            &mut out,
            1,
            &["publish".into(), 3.0.into(), amf::Value::Null, "key".into()],
        );
        writer.write(&mut out, 2, 1, 0, &60_000u32.to_be_bytes());
        writer.set_chunk_size(60_000);
        let record = [
            0x17, 0, 0, 0, 0, 1, 66, 0xc0, 30, 0xff, 0xe1, 0, 5, 0x67, 66, 0xc0, 30, 0xe0, 1, 0, 2,
            0x68, 0xc0,
        ];
        writer.write(&mut out, 4, 9, 1, &record);
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

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..2_000)) {
            rtmp(&bytes);
            flv(&bytes);
            values_and_headers(&bytes);
        }

        #[test]
        fn a_well_behaved_session_with_any_bytes_changed_is_survived(
            choice in 0x80u8..0xff,
            changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            end in any::<prop::sample::Index>(),
            tail in vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = well_behaved();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(end.index(bytes.len()) + 1);
            bytes.extend_from_slice(&tail);
            rtmp(&[&[choice][..], &bytes].concat());
        }
    }
}
