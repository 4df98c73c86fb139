//! One publisher's session: handshake, `connect`, `createStream`, `publish`, then audio, video and metadata.
//!
//! The order of use: [`Session::receive`] with what came, [`Session::poll`] until it gives `None`, send [`Session::take_output`]. After
//! [`Event::Publish`] the session reads nothing more until [`Session::accept`] or [`Session::refuse`] answers it, so that no media is
//! read of a publisher that is not admitted.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::{
    amf::{self, Value},
    chunk::{self, Message},
    handshake,
};

/// What a session may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest audio, video or aggregate message, bytes.
    pub max_message_bytes: usize,
    /// The largest of any other message, and of every message before the publisher is admitted, bytes.
    pub max_command_bytes: usize,
    /// Input that is not yet looked at, bytes. [`Session::receive`] with more is an error.
    pub max_input_bytes: usize,
    /// Output that is not yet taken, bytes.
    pub max_output_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_bytes: 4 << 20,
            max_command_bytes: 64 << 10,
            max_input_bytes: 256 << 10,
            max_output_bytes: 256 << 10,
        }
    }
}

/// Why a session cannot go on. No variant carries text of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// C0 is not version 3.
    #[error(
        "the connection does not begin with an RTMP handshake (its first byte is {0:#04x}, not 0x03)"
    )]
    Version(u8),
    /// Section 5.3.
    #[error("{0}")]
    Chunk(#[from] chunk::Error),
    /// A command that is not AMF0.
    #[error("{0}")]
    Amf(#[from] amf::Error),
    /// A message whose payload does not have its type's form.
    #[error("a message of type {0} is malformed")]
    Malformed(u8),
    /// A command without its arguments, or out of order.
    #[error("the command {0} came without its arguments or out of order")]
    Command(&'static str),
    /// The peer wants to play.
    #[error("the peer asked to play a stream, and this address takes publishers only")]
    Play,
    /// More came than the caller lets through.
    #[error("the peer sent more than {0} bytes ahead of an answer")]
    Input(usize),
    /// The peer asks faster than it reads.
    #[error("more than {0} bytes of answers wait for the peer")]
    Output(usize),
}

/// A request to publish. Its `Debug` shows no name, since the name is or holds the key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublishRequest {
    /// The application of `connect`, with its query if it has one.
    pub app: String,
    /// The stream name of `publish`, with its query if it has one.
    pub name: String,
    /// What the encoder calls itself in `connect` (`flashVer`).
    pub encoder: Option<String>,
}

impl std::fmt::Debug for PublishRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublishRequest")
            .field("encoder", &self.encoder)
            .finish_non_exhaustive()
    }
}

/// What came.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The peer wants to publish. Answer it.
    Publish(PublishRequest),
    /// An audio message: the body of an FLV audio tag.
    Audio {
        /// Milliseconds modulo 2^32.
        timestamp: u32,
        /// The body.
        payload: Bytes,
    },
    /// A video message: the body of an FLV video tag.
    Video {
        /// Milliseconds modulo 2^32.
        timestamp: u32,
        /// The body.
        payload: Bytes,
    },
    /// A data message: the AMF0 body of an FLV script tag.
    Script(Bytes),
    /// The peer ended the stream. Nothing comes after it.
    Unpublished,
}

/// How a publisher is refused (`onStatus` codes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The stream is taken, or the name is no stream's.
    BadName,
    /// The key is wrong.
    Denied,
    /// What it sends cannot be taken, or the session is ended by the server.
    Failed,
}

impl Refusal {
    /// The `code` of `onStatus`.
    pub fn code(self) -> &'static str {
        match self {
            Self::BadName => "NetStream.Publish.BadName",
            Self::Denied => "NetStream.Publish.Denied",
            Self::Failed => "NetStream.Failed",
        }
    }
}

/// Message type ids (sections 5.4 and 7.1).
mod kind {
    pub(super) const SET_CHUNK_SIZE: u8 = 1;
    pub(super) const ABORT: u8 = 2;
    pub(super) const ACKNOWLEDGEMENT: u8 = 3;
    pub(super) const USER_CONTROL: u8 = 4;
    pub(super) const WINDOW_ACKNOWLEDGEMENT_SIZE: u8 = 5;
    pub(super) const SET_PEER_BANDWIDTH: u8 = 6;
    pub(super) const AUDIO: u8 = 8;
    pub(super) const VIDEO: u8 = 9;
    pub(super) const DATA_AMF3: u8 = 15;
    pub(super) const COMMAND_AMF3: u8 = 17;
    pub(super) const DATA_AMF0: u8 = 18;
    pub(super) const COMMAND_AMF0: u8 = 20;
    pub(super) const AGGREGATE: u8 = 22;
}

/// Chunk streams that the server writes on.
const CONTROL: u8 = 2;
const COMMANDS: u8 = 3;

/// What the server asks to be acknowledged by, and acknowledges by until the peer says otherwise, bytes.
const WINDOW_BYTES: u32 = 2_500_000;

/// A smaller window of the peer is taken as this, so that acknowledgements stay few, bytes.
const MIN_WINDOW_BYTES: u32 = 16_384;

/// The server's own chunk size, bytes.
const CHUNK_SIZE: u32 = 4_096;

/// The most messages in one aggregate.
const MAX_AGGREGATE: usize = 1_024;

/// The most message streams that a peer may create.
const MAX_MESSAGE_STREAMS: u32 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// C0 and C1 are to come.
    Hello,
    /// C2 is to come.
    Echo,
    /// Commands.
    Open,
    /// A publish request waits for its answer.
    Asked { stream_id: u32 },
    /// Admitted.
    Publishing { stream_id: u32 },
    /// Refused or unpublished: nothing more is read.
    Ended,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    phase: Phase,
    limits: Limits,
    seed: u64,
    input: BytesMut,
    output: Vec<u8>,
    reader: chunk::Reader,
    writer: chunk::Writer,
    events: VecDeque<Event>,
    app: Option<(String, Option<String>)>,
    message_streams: u32,
    received: u64,
    acknowledged: u64,
    window: u32,
}

impl Session {
    /// A session at its beginning. `seed` varies the random bytes of the handshake, whose quality nothing depends on.
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self {
            phase: Phase::Hello,
            limits,
            seed,
            input: BytesMut::new(),
            output: Vec::new(),
            // Before anybody is admitted there are commands alone.
            reader: chunk::Reader::new(4 * limits.max_command_bytes),
            writer: chunk::Writer::default(),
            events: VecDeque::new(),
            app: None,
            message_streams: 0,
            received: 0,
            acknowledged: 0,
            window: WINDOW_BYTES,
        }
    }

    /// Takes what came.
    ///
    /// # Errors
    /// [`Error::Input`] when too much came without a [`Session::poll`], or while a request to publish waits for its answer.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.phase == Phase::Ended {
            return Ok(());
        }
        if self.input.len() + bytes.len() > self.limits.max_input_bytes {
            return Err(Error::Input(self.limits.max_input_bytes));
        }
        self.input.extend_from_slice(bytes);
        self.received += bytes.len() as u64;
        if self.phase != Phase::Hello
            && self.received - self.acknowledged >= u64::from(self.window / 2)
        {
            self.acknowledged = self.received;
            // The sequence number is 32 bits and wraps (section 5.4.3).
            let sequence = (self.received as u32).to_be_bytes();
            self.send(CONTROL, kind::ACKNOWLEDGEMENT, 0, &sequence);
        }
        Ok(())
    }

    /// The next event; `None` when more input, or an answer, is needed.
    ///
    /// # Errors
    /// [`Error`] when the session cannot go on; send what [`Session::take_output`] still has and close the connection.
    pub fn poll(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            let progress = match self.phase {
                Phase::Hello => self.hello()?,
                Phase::Echo => self.echo(),
                Phase::Open | Phase::Publishing { .. } => self.message()?,
                Phase::Asked { .. } | Phase::Ended => false,
            };
            if self.output.len() > self.limits.max_output_bytes {
                return Err(Error::Output(self.limits.max_output_bytes));
            }
            if !progress {
                return Ok(None);
            }
        }
    }

    /// What is to be sent; empty when there is nothing.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Whether a publisher is admitted and has not ended.
    pub fn is_publishing(&self) -> bool {
        matches!(self.phase, Phase::Publishing { .. })
    }

    /// Admits the publisher of the last [`Event::Publish`]; nothing without one.
    pub fn accept(&mut self) {
        if let Phase::Asked { stream_id } = self.phase {
            // User control event 0: stream begin (section 7.1.7).
            let mut begin = vec![0, 0];
            begin.extend_from_slice(&stream_id.to_be_bytes());
            self.send(CONTROL, kind::USER_CONTROL, 0, &begin);
            self.on_status(
                stream_id,
                "status",
                "NetStream.Publish.Start",
                "The stream is live.",
            );
            // The unfinished message on one chunk stream may be as long as a message; others run beside it.
            let limits = &self.limits;
            let unfinished = limits.max_message_bytes + 4 * limits.max_command_bytes;
            self.reader.set_max_unfinished(unfinished);
            self.phase = Phase::Publishing { stream_id };
        }
    }

    /// Refuses the publisher, or ends it if it was admitted, with a sentence for the encoder's user. Nothing more is read.
    pub fn refuse(&mut self, refusal: Refusal, description: &str) {
        let stream_id = match self.phase {
            Phase::Asked { stream_id } | Phase::Publishing { stream_id } => stream_id,
            _ => 0,
        };
        if matches!(
            self.phase,
            Phase::Open | Phase::Asked { .. } | Phase::Publishing { .. }
        ) {
            self.on_status(stream_id, "error", refusal.code(), description);
        }
        self.end();
    }

    fn end(&mut self) {
        self.phase = Phase::Ended;
        self.input.clear();
        self.events.clear();
    }

    fn hello(&mut self) -> Result<bool, Error> {
        match self.input.first() {
            None => return Ok(false),
            Some(&handshake::VERSION) => {}
            Some(&other) => return Err(Error::Version(other)),
        }
        let Some(c1) = self.input[1..].first_chunk() else {
            return Ok(false);
        };
        let answer = handshake::answer(c1, self.seed);
        self.output.extend_from_slice(&answer);
        let _ = self.input.split_to(1 + handshake::PACKET_BYTES);
        self.phase = Phase::Echo;
        Ok(true)
    }

    fn echo(&mut self) -> bool {
        let complete = self.input.len() >= handshake::PACKET_BYTES;
        if complete {
            let _ = self.input.split_to(handshake::PACKET_BYTES);
            self.phase = Phase::Open;
        }
        complete
    }

    fn message(&mut self) -> Result<bool, Error> {
        let (limits, publishing) = (self.limits, self.is_publishing());
        let max = |kind: u8| match kind {
            kind::AUDIO | kind::VIDEO | kind::AGGREGATE if publishing => limits.max_message_bytes,
            _ => limits.max_command_bytes,
        };
        match self.reader.read(&mut self.input, &max)? {
            Some(message) => self.take_message(message).map(|()| true),
            None => Ok(false),
        }
    }

    fn take_message(&mut self, message: Message) -> Result<(), Error> {
        let kind = message.kind;
        match kind {
            kind::SET_CHUNK_SIZE => self.reader.set_chunk_size(u32_of(&message)?)?,
            kind::ABORT => self.reader.abort(u32_of(&message)?),
            kind::WINDOW_ACKNOWLEDGEMENT_SIZE => {
                self.window = u32_of(&message)?.max(MIN_WINDOW_BYTES)
            }
            kind::SET_PEER_BANDWIDTH => {
                u32_of(&message)?;
                self.send(
                    CONTROL,
                    kind::WINDOW_ACKNOWLEDGEMENT_SIZE,
                    0,
                    &WINDOW_BYTES.to_be_bytes(),
                );
            }
            kind::USER_CONTROL => self.user_control(&message.payload)?,
            kind::COMMAND_AMF0 => self.command(message.stream_id, &message.payload)?,
            // One byte of format, then AMF0 for every encoder that was seen (section 7.1.1 leaves it to the sender).
            kind::COMMAND_AMF3 => {
                let body = message
                    .payload
                    .strip_prefix(&[0])
                    .ok_or(Error::Malformed(kind))?;
                self.command(message.stream_id, body)?;
            }
            kind::DATA_AMF3 if message.payload.first() == Some(&0) => {
                self.media(kind, message.timestamp, message.payload.slice(1..))
            }
            kind::AUDIO | kind::VIDEO | kind::DATA_AMF0 => {
                self.media(kind, message.timestamp, message.payload)
            }
            kind::AGGREGATE => self.aggregate(&message)?,
            // Acknowledgements, shared objects and what is unknown say nothing to a server of publishers.
            _ => {}
        }
        Ok(())
    }

    fn media(&mut self, kind: u8, timestamp: u32, payload: Bytes) {
        // Media ahead of an admission is dropped unread.
        if !self.is_publishing() {
            return;
        }
        self.events.push_back(match kind {
            kind::AUDIO => Event::Audio { timestamp, payload },
            kind::VIDEO => Event::Video { timestamp, payload },
            _ => Event::Script(payload),
        });
    }

    /// Section 7.1.6: FLV tags one after another, whose timestamps count from that of the first.
    fn aggregate(&mut self, message: &Message) -> Result<(), Error> {
        const HEADER: usize = 11;
        const BACK_POINTER: usize = 4;
        let malformed = Error::Malformed(message.kind);
        let mut rest = message.payload.clone();
        let mut first = None;
        for _ in 0..MAX_AGGREGATE {
            let Some(header) = rest.first_chunk::<HEADER>() else {
                return if rest.is_empty() {
                    Ok(())
                } else {
                    Err(malformed)
                };
            };
            let [kind, l2, l1, l0, t2, t1, t0, t3, ..] = *header;
            let length = usize::from(l2) << 16 | usize::from(l1) << 8 | usize::from(l0);
            let timestamp = u32::from_be_bytes([t3, t2, t1, t0]);
            let end = HEADER + length;
            if rest.len() < end {
                return Err(malformed);
            }
            let since_first = timestamp.wrapping_sub(*first.get_or_insert(timestamp));
            if matches!(kind, kind::AUDIO | kind::VIDEO | kind::DATA_AMF0) {
                let payload = rest.slice(HEADER..end);
                self.media(kind, message.timestamp.wrapping_add(since_first), payload);
            }
            // The last back pointer is left out by some.
            rest = rest.slice((end + BACK_POINTER).min(rest.len())..);
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(malformed)
        }
    }

    fn user_control(&mut self, payload: &[u8]) -> Result<(), Error> {
        const PING_REQUEST: [u8; 2] = [0, 6];
        const PING_RESPONSE: [u8; 2] = [0, 7];
        let (event, data) = payload
            .split_at_checked(2)
            .ok_or(Error::Malformed(kind::USER_CONTROL))?;
        if event == PING_REQUEST {
            let time = data
                .first_chunk::<4>()
                .ok_or(Error::Malformed(kind::USER_CONTROL))?;
            let response = [&PING_RESPONSE[..], time].concat();
            self.send(CONTROL, kind::USER_CONTROL, 0, &response);
        }
        Ok(())
    }

    fn command(&mut self, stream_id: u32, body: &[u8]) -> Result<(), Error> {
        let values = amf::read_all(body)?;
        let name = values
            .first()
            .and_then(Value::as_str)
            .ok_or(Error::Malformed(kind::COMMAND_AMF0))?;
        let transaction = values.get(1).and_then(Value::as_number).unwrap_or(0.0);
        // The command object (null for most) is the third value; arguments follow.
        let argument = |n: usize| values.get(3 + n);
        match name {
            "connect" => self.connect(transaction, values.get(2))?,
            "createStream" => {
                if self.app.is_none() || self.message_streams >= MAX_MESSAGE_STREAMS {
                    return Err(Error::Command("createStream"));
                }
                self.message_streams += 1;
                self.result(
                    transaction,
                    Value::Null,
                    Some(f64::from(self.message_streams).into()),
                );
            }
            "publish" => {
                let Some((app, encoder)) = &self.app else {
                    return Err(Error::Command("publish"));
                };
                let name = argument(0)
                    .and_then(Value::as_str)
                    .ok_or(Error::Command("publish"))?;
                if self.phase != Phase::Open {
                    return Err(Error::Command("publish"));
                }
                self.events.push_back(Event::Publish(PublishRequest {
                    app: app.clone(),
                    name: name.to_owned(),
                    encoder: encoder.clone(),
                }));
                self.phase = Phase::Asked { stream_id };
            }
            "play" | "play2" => {
                let description =
                    "This address takes publishers only; watch the stream on its page.";
                self.on_status(stream_id, "error", "NetStream.Play.Failed", description);
                return Err(Error::Play);
            }
            // Sent by OBS, FFmpeg and librtmp ahead of publish; librtmp counts on an answer to each call.
            "releaseStream" | "FCPublish" | "_checkbw" | "checkBandwidth" => {
                self.result(transaction, Value::Null, Some(Value::Undefined));
            }
            "getStreamLength" => self.result(transaction, Value::Null, Some(0.0.into())),
            "FCUnpublish" | "closeStream" => self.unpublish(),
            "deleteStream" => {
                let deleted = argument(0).and_then(Value::as_number);
                match self.phase {
                    // Another of the peer's streams.
                    Phase::Publishing { stream_id }
                        if deleted.is_some_and(|id| id != f64::from(stream_id)) => {}
                    _ => self.unpublish(),
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn connect(&mut self, transaction: f64, object: Option<&Value>) -> Result<(), Error> {
        let text = |name| {
            object
                .and_then(|object| object.get(name))
                .and_then(Value::as_str)
        };
        let app = text("app").ok_or(Error::Command("connect"))?;
        if self.app.is_some() {
            return Err(Error::Command("connect"));
        }
        self.app = Some((app.to_owned(), text("flashVer").map(str::to_owned)));
        self.send(
            CONTROL,
            kind::WINDOW_ACKNOWLEDGEMENT_SIZE,
            0,
            &WINDOW_BYTES.to_be_bytes(),
        );
        // Limit type 2: dynamic.
        let bandwidth = [&WINDOW_BYTES.to_be_bytes()[..], &[2]].concat();
        self.send(CONTROL, kind::SET_PEER_BANDWIDTH, 0, &bandwidth);
        self.send(CONTROL, kind::SET_CHUNK_SIZE, 0, &CHUNK_SIZE.to_be_bytes());
        self.writer.set_chunk_size(CHUNK_SIZE);
        let properties = object_of(&[
            ("fmsVer", "FMS/3,0,1,123".into()),
            ("capabilities", 31.0.into()),
        ]);
        let information = object_of(&[
            ("level", "status".into()),
            ("code", "NetConnection.Connect.Success".into()),
            ("description", "Connection succeeded.".into()),
            // AMF0 whatever the peer asked for: no encoder of today sends AMF3 values.
            ("objectEncoding", 0.0.into()),
        ]);
        self.result(transaction, properties, Some(information));
        Ok(())
    }

    fn unpublish(&mut self) {
        if let Phase::Publishing { stream_id } = self.phase {
            self.on_status(
                stream_id,
                "status",
                "NetStream.Unpublish.Success",
                "The stream has ended.",
            );
            self.phase = Phase::Ended;
            self.input.clear();
            self.events.push_back(Event::Unpublished);
        }
    }

    fn result(&mut self, transaction: f64, object: Value, argument: Option<Value>) {
        let mut body = Vec::new();
        for value in ["_result".into(), transaction.into(), object]
            .iter()
            .chain(&argument)
        {
            amf::write(&mut body, value);
        }
        self.send(COMMANDS, kind::COMMAND_AMF0, 0, &body);
    }

    fn on_status(&mut self, stream_id: u32, level: &str, code: &str, description: &str) {
        let information = object_of(&[
            ("level", level.into()),
            ("code", code.into()),
            ("description", description.into()),
        ]);
        let mut body = Vec::new();
        for value in ["onStatus".into(), 0.0.into(), Value::Null, information] {
            amf::write(&mut body, &value);
        }
        self.send(COMMANDS, kind::COMMAND_AMF0, stream_id, &body);
    }

    fn send(&mut self, chunk_stream: u8, kind: u8, stream_id: u32, payload: &[u8]) {
        self.writer
            .write(&mut self.output, chunk_stream, kind, stream_id, payload);
    }
}

fn u32_of(message: &Message) -> Result<u32, Error> {
    let bytes = message
        .payload
        .first_chunk()
        .ok_or(Error::Malformed(message.kind))?;
    Ok(u32::from_be_bytes(*bytes))
}

fn object_of(properties: &[(&str, Value)]) -> Value {
    let owned = properties
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()));
    Value::Object(owned.collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A peer in memory.
    struct Peer {
        session: Session,
        writer: chunk::Writer,
        reader: chunk::Reader,
        input: BytesMut,
    }

    impl Peer {
        /// Past the handshake.
        fn open() -> Self {
            Self::with(Limits::default())
        }

        fn with(limits: Limits) -> Self {
            let mut session = Session::new(limits, 9);
            let mut hello = vec![0; 1 + handshake::PACKET_BYTES];
            hello[0] = handshake::VERSION;
            for byte in hello {
                session.receive(&[byte]).unwrap();
                assert_eq!(session.poll(), Ok(None));
            }
            assert_eq!(session.take_output().len(), 1 + 2 * handshake::PACKET_BYTES);
            session.receive(&[0; handshake::PACKET_BYTES]).unwrap();
            Self {
                session,
                writer: chunk::Writer::default(),
                reader: chunk::Reader::new(1 << 20),
                input: BytesMut::new(),
            }
        }

        /// Up to the request to publish.
        fn asked() -> Self {
            let mut peer = Self::open();
            let app = object_of(&[("app", "live".into())]);
            peer.command(0, &["connect".into(), 1.0.into(), app]);
            peer.command(0, &["createStream".into(), 2.0.into(), Value::Null]);
            peer.command(
                1,
                &[
                    "publish".into(),
                    3.0.into(),
                    Value::Null,
                    "key".into(),
                    "live".into(),
                ],
            );
            let event = peer.session.poll().unwrap();
            assert!(
                matches!(event, Some(Event::Publish(PublishRequest { app, name, .. })) if app == "live" && name == "key")
            );
            peer
        }

        fn publishing() -> Self {
            let mut peer = Self::asked();
            peer.session.accept();
            assert!(peer.session.is_publishing());
            peer.answers();
            peer
        }

        fn command(&mut self, stream_id: u32, values: &[Value]) {
            let mut body = Vec::new();
            for value in values {
                amf::write(&mut body, value);
            }
            self.message(kind::COMMAND_AMF0, stream_id, &body);
        }

        fn message(&mut self, kind: u8, stream_id: u32, payload: &[u8]) {
            let mut bytes = Vec::new();
            self.writer.write(&mut bytes, 3, kind, stream_id, payload);
            self.session.receive(&bytes).unwrap();
        }

        /// What the server sent: message types and payloads.
        fn answers(&mut self) -> Vec<(u8, Bytes)> {
            self.input.extend_from_slice(&self.session.take_output());
            let mut answers = Vec::new();
            while let Some(message) = self.reader.read(&mut self.input, &|_| 1 << 16).unwrap() {
                if message.kind == kind::SET_CHUNK_SIZE {
                    self.reader
                        .set_chunk_size(u32_of(&message).unwrap())
                        .unwrap();
                }
                answers.push((message.kind, message.payload));
            }
            answers
        }

        /// The codes of `onStatus` that the server sent.
        fn codes(&mut self) -> Vec<String> {
            let commands = self
                .answers()
                .into_iter()
                .filter(|(kind, _)| *kind == kind::COMMAND_AMF0);
            let values = commands.map(|(_, payload)| amf::read_all(&payload).unwrap());
            let statuses = values.filter(|values| values[0].as_str() == Some("onStatus"));
            statuses
                .map(|values| {
                    values[3]
                        .get("code")
                        .and_then(Value::as_str)
                        .unwrap()
                        .to_owned()
                })
                .collect()
        }
    }

    fn video(timestamp: u32, payload: &'static [u8]) -> Option<Event> {
        Some(Event::Video {
            timestamp,
            payload: Bytes::from_static(payload),
        })
    }

    #[test]
    fn nothing_is_read_until_a_publisher_is_admitted() {
        let mut peer = Peer::asked();
        peer.message(kind::VIDEO, 1, b"early");
        assert_eq!(peer.session.poll(), Ok(None));
        peer.session.accept();
        assert_eq!(peer.codes(), ["NetStream.Publish.Start"]);
        assert_eq!(peer.session.poll(), Ok(video(0, b"early")));

        let mut peer = Peer::asked();
        peer.message(kind::VIDEO, 1, b"early");
        peer.session.refuse(Refusal::BadName, "taken");
        assert_eq!(peer.codes(), ["NetStream.Publish.BadName"]);
        assert_eq!(peer.session.poll(), Ok(None));
        peer.session.accept();
        assert!(!peer.session.is_publishing());

        // Without a request, media is dropped.
        let mut peer = Peer::open();
        peer.message(kind::VIDEO, 1, b"early");
        assert_eq!(peer.session.poll(), Ok(None));
    }

    #[test]
    fn input_ahead_of_an_answer_and_answers_that_nobody_takes_are_bounded() {
        let mut peer = Peer::asked();
        let flood = vec![0; 1 << 16];
        let refused = (0..10).find_map(|_| peer.session.receive(&flood).err());
        assert_eq!(
            refused,
            Some(Error::Input(Limits::default().max_input_bytes))
        );

        let mut peer = Peer::with(Limits {
            max_output_bytes: 10_000,
            ..Limits::default()
        });
        let error = (0..1_000).find_map(|_| {
            peer.command(0, &["getStreamLength".into(), 1.0.into()]);
            peer.session.poll().err()
        });
        assert_eq!(error, Some(Error::Output(10_000)));
    }

    #[test]
    fn the_peers_chunk_size_holds_from_the_next_chunk_on() {
        let mut peer = Peer::publishing();
        for size in [1u32, 4_096, 65_536, 0x7fff_ffff] {
            peer.message(kind::SET_CHUNK_SIZE, 0, &size.to_be_bytes());
            peer.writer.set_chunk_size(size);
            peer.message(kind::VIDEO, 1, &[7; 10_000]);
            assert!(
                matches!(peer.session.poll(), Ok(Some(Event::Video { payload, .. })) if payload.len() == 10_000)
            );
        }
        peer.message(kind::SET_CHUNK_SIZE, 0, &[0; 4]);
        assert_eq!(peer.session.poll(), Err(chunk::Error::ChunkSize(0).into()));
    }

    #[test]
    fn bytes_are_acknowledged_within_the_peers_window_and_a_window_of_0_does_no_harm() {
        for window in [0, 20_000u32, u32::MAX] {
            let mut peer = Peer::publishing();
            peer.message(kind::WINDOW_ACKNOWLEDGEMENT_SIZE, 0, &window.to_be_bytes());
            assert_eq!(peer.session.poll(), Ok(None));
            let mut acknowledged = Vec::new();
            for _ in 0..100 {
                peer.message(kind::AUDIO, 1, &[0; 1_000]);
                while peer.session.poll().unwrap().is_some() {}
                let answers = peer
                    .answers()
                    .into_iter()
                    .filter(|(kind, _)| *kind == kind::ACKNOWLEDGEMENT);
                acknowledged.extend(
                    answers.map(|(_, payload)| u32::from_be_bytes(payload[..].try_into().unwrap())),
                );
            }
            assert!(acknowledged.is_sorted());
            let window = u64::from(window.max(MIN_WINDOW_BYTES));
            assert!(
                peer.session.received - acknowledged.last().copied().unwrap_or(0) as u64 <= window
            );
            assert!(
                acknowledged.len() < 20,
                "{} acknowledgements",
                acknowledged.len()
            );
        }
    }

    #[test]
    fn a_ping_is_answered_and_a_short_control_message_is_malformed() {
        let mut peer = Peer::publishing();
        peer.message(kind::USER_CONTROL, 0, &[0, 6, 1, 2, 3, 4]);
        assert_eq!(peer.session.poll(), Ok(None));
        assert_eq!(
            peer.answers(),
            [(kind::USER_CONTROL, Bytes::from_static(&[0, 7, 1, 2, 3, 4]))]
        );
        peer.message(kind::USER_CONTROL, 0, &[0]);
        assert_eq!(
            peer.session.poll(),
            Err(Error::Malformed(kind::USER_CONTROL))
        );
    }

    #[test]
    fn every_way_to_unpublish_ends_the_stream_once() {
        for (name, argument) in [
            ("FCUnpublish", "key".into()),
            ("deleteStream", Value::from(1.0)),
            ("closeStream", Value::Null),
        ] {
            let mut peer = Peer::publishing();
            peer.command(1, &[name.into(), 4.0.into(), Value::Null, argument.clone()]);
            peer.command(1, &[name.into(), 5.0.into(), Value::Null, argument]);
            assert_eq!(peer.session.poll(), Ok(Some(Event::Unpublished)), "{name}");
            assert_eq!(peer.session.poll(), Ok(None));
            assert_eq!(peer.codes(), ["NetStream.Unpublish.Success"]);
        }
        let mut peer = Peer::publishing();
        peer.command(
            0,
            &["deleteStream".into(), 4.0.into(), Value::Null, 2.0.into()],
        );
        assert_eq!(peer.session.poll(), Ok(None));
        assert!(peer.session.is_publishing());
    }

    #[test]
    fn an_aggregate_gives_its_messages_with_their_times() {
        let mut peer = Peer::publishing();
        let mut body = vec![9, 0, 0, 2, 0, 0, 100, 0, 0, 0, 0, b'a', b'b', 0, 0, 0, 13];
        body.extend_from_slice(&[8, 0, 0, 1, 0, 0, 140, 0, 0, 0, 0, b'c']);
        peer.message(kind::AGGREGATE, 1, &body);
        assert_eq!(peer.session.poll(), Ok(video(0, b"ab")));
        let payload = Bytes::from_static(b"c");
        assert_eq!(
            peer.session.poll(),
            Ok(Some(Event::Audio {
                timestamp: 40,
                payload
            }))
        );
        assert_eq!(peer.session.poll(), Ok(None));
        body.pop();
        peer.message(kind::AGGREGATE, 1, &body);
        let mut results = std::iter::from_fn(|| Some(peer.session.poll()));
        assert!(results.any(|result| result == Err(Error::Malformed(kind::AGGREGATE))));
    }

    #[test]
    fn commands_and_data_in_amf3_messages_are_read() {
        let mut peer = Peer::publishing();
        peer.message(kind::DATA_AMF3, 1, &[0, 5]);
        assert_eq!(
            peer.session.poll(),
            Ok(Some(Event::Script(Bytes::from_static(&[5]))))
        );
        let mut body = vec![0];
        for value in ["closeStream".into(), 1.0.into(), Value::Null] {
            amf::write(&mut body, &value);
        }
        peer.message(kind::COMMAND_AMF3, 1, &body);
        assert_eq!(peer.session.poll(), Ok(Some(Event::Unpublished)));
    }

    #[test]
    fn players_and_commands_out_of_order_are_refused() {
        let mut peer = Peer::open();
        peer.command(
            0,
            &["publish".into(), 3.0.into(), Value::Null, "key".into()],
        );
        assert_eq!(peer.session.poll(), Err(Error::Command("publish")));
        let mut peer = Peer::open();
        peer.command(1, &["play".into(), 3.0.into(), Value::Null, "demo".into()]);
        assert_eq!(peer.session.poll(), Err(Error::Play));
        assert_eq!(peer.codes(), ["NetStream.Play.Failed"]);
        let mut session = Session::new(Limits::default(), 0);
        session.receive(b"GET /").unwrap();
        assert_eq!(session.poll(), Err(Error::Version(b'G')));
    }

    #[test]
    fn a_request_to_publish_does_not_show_its_key() {
        let request = PublishRequest {
            app: "live?key=secret".into(),
            name: "secret".into(),
            encoder: None,
        };
        assert!(!format!("{request:?}").contains("secret"));
    }
}
