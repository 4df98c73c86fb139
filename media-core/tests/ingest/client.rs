//! An RTMP client that does as it is told, right or wrong.

use std::net::SocketAddr;

use bytes::BytesMut;
use ghost_live_media_core::ingest::rtmp::{
    amf::{self, Value},
    chunk, handshake,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::fixture::PATIENCE;

pub(super) const COMMAND: u8 = 20;
pub(super) const AUDIO: u8 = 8;
pub(super) const VIDEO: u8 = 9;

/// An `AVCDecoderConfigurationRecord` of a Baseline stream.
pub(super) const RECORD: &[u8] = &[
    1, 66, 0xc0, 30, 0xff, 0xe1, 0, 5, 0x67, 66, 0xc0, 30, 0xe0, 1, 0, 2, 0x68, 0xc0,
];

/// The body of a video message with one IDR slice.
pub(super) const IDR: &[u8] = &[0x17, 1, 0, 0, 0, 0, 0, 0, 2, 0x65, 0x88];

pub(super) struct Client {
    pub(super) tcp: TcpStream,
    input: BytesMut,
    reader: chunk::Reader,
    writer: chunk::Writer,
}

impl Client {
    /// Connects, says nothing.
    pub(super) async fn dial(address: SocketAddr) -> Self {
        Self {
            tcp: TcpStream::connect(address).await.unwrap(),
            input: BytesMut::new(),
            reader: chunk::Reader::new(1 << 20),
            writer: chunk::Writer::default(),
        }
    }

    pub(super) async fn handshake(&mut self) {
        let mut hello = vec![7; 1 + handshake::PACKET_BYTES];
        hello[0] = handshake::VERSION;
        self.send(&hello).await;
        let mut answer = vec![0; 1 + 2 * handshake::PACKET_BYTES];
        timeout(PATIENCE, self.tcp.read_exact(&mut answer))
            .await
            .unwrap()
            .unwrap();
        self.send(&[0; handshake::PACKET_BYTES]).await;
    }

    /// Everything up to the request to publish.
    pub(super) async fn request(address: SocketAddr, name: &str) -> Self {
        let mut client = Self::dial(address).await;
        client.handshake().await;
        client.ask(name).await;
        client
    }

    /// `connect` to `publish`.
    pub(super) async fn ask(&mut self, name: &str) {
        let app = Value::Object(vec![
            ("app".into(), "live".into()),
            ("flashVer".into(), "test".into()),
        ]);
        self.command(0, &["connect".into(), 1.0.into(), app]).await;
        let connected = self.answer("_result").await;
        assert_eq!(
            connected[3].get("code"),
            Some(&"NetConnection.Connect.Success".into())
        );
        self.command(
            0,
            &["releaseStream".into(), 2.0.into(), Value::Null, name.into()],
        )
        .await;
        assert_eq!(self.answer("_result").await[1], 2.0.into());
        self.command(
            0,
            &["FCPublish".into(), 3.0.into(), Value::Null, name.into()],
        )
        .await;
        assert_eq!(self.answer("_result").await[1], 3.0.into());
        self.command(0, &["createStream".into(), 4.0.into(), Value::Null])
            .await;
        assert_eq!(self.answer("_result").await[3], 1.0.into());
        self.command(
            1,
            &[
                "publish".into(),
                5.0.into(),
                Value::Null,
                name.into(),
                "live".into(),
            ],
        )
        .await;
    }

    /// Publishes and has been told that it may.
    pub(super) async fn publish(address: SocketAddr, name: &str) -> Self {
        let mut client = Self::request(address, name).await;
        assert_eq!(client.status().await, "NetStream.Publish.Start");
        client
    }

    pub(super) async fn video_config(&mut self) {
        self.message(VIDEO, &[&[0x17, 0, 0, 0, 0], RECORD].concat())
            .await;
    }

    pub(super) async fn command(&mut self, stream_id: u32, values: &[Value]) {
        let mut body = Vec::new();
        for value in values {
            amf::write(&mut body, value);
        }
        let mut bytes = Vec::new();
        self.writer.write(&mut bytes, 3, COMMAND, stream_id, &body);
        self.send(&bytes).await;
    }

    pub(super) async fn message(&mut self, kind: u8, payload: &[u8]) {
        let mut bytes = Vec::new();
        self.writer.write(&mut bytes, 4, kind, 1, payload);
        self.send(&bytes).await;
    }

    /// The server may close at any time, so a failure to send is not one of the test.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.tcp.write_all(bytes).await;
    }

    /// The next command of this name; others are passed over.
    pub(super) async fn answer(&mut self, name: &str) -> Vec<Value> {
        loop {
            let values = self.next_command().await.expect("the server still answers");
            if values[0].as_str() == Some(name) {
                return values;
            }
        }
    }

    /// The code of the next `onStatus`.
    pub(super) async fn status(&mut self) -> String {
        self.status_and_description().await.0
    }

    pub(super) async fn status_and_description(&mut self) -> (String, String) {
        let values = self.answer("onStatus").await;
        let text = |name| {
            values[3]
                .get(name)
                .and_then(Value::as_str)
                .unwrap()
                .to_owned()
        };
        (text("code"), text("description"))
    }

    /// The server closes, whatever it says before.
    pub(super) async fn closed(mut self) {
        while self.next_command().await.is_some() {}
    }

    async fn next_command(&mut self) -> Option<Vec<Value>> {
        loop {
            while let Some(message) = self.reader.read(&mut self.input, &|_| 1 << 16).unwrap() {
                match message.kind {
                    1 => self
                        .reader
                        .set_chunk_size(u32::from_be_bytes(message.payload[..].try_into().unwrap()))
                        .unwrap(),
                    COMMAND => return Some(amf::read_all(&message.payload).unwrap()),
                    _ => {}
                }
            }
            let read = timeout(PATIENCE, self.tcp.read_buf(&mut self.input)).await;
            match read.expect("the server answers or closes in time") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}
