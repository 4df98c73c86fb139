//! The chunk stream (section 5.3): messages out of chunks, and messages into chunks.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of a chunk's payload until the peer sets another size (section 5.4.1).
pub const INITIAL_CHUNK_SIZE: usize = 128;

/// The most chunk streams of one connection. Encoders use three to six.
pub const MAX_CHUNK_STREAMS: usize = 32;

/// A timestamp field of this value is followed by an extended timestamp (section 5.3.1.3).
const EXTENDED: u32 = 0xff_ffff;

/// Why bytes are not a chunk stream that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Section 5.4.1.
    #[error("the peer set a chunk size of {0}, which is outside 1 to 2,147,483,647")]
    ChunkSize(u32),
    /// A header refers to one before that never came.
    #[error("chunk stream {0} begins with a header that refers to an earlier one")]
    NoHeader(u32),
    /// A new message begins on a chunk stream whose last one is unfinished.
    #[error("a new message begins within an unfinished one on chunk stream {0}")]
    Interrupted(u32),
    /// Over [`MAX_CHUNK_STREAMS`].
    #[error("the peer uses more than {MAX_CHUNK_STREAMS} chunk streams")]
    TooManyStreams,
    /// A message is longer than what is taken of its type.
    #[error("a message of type {kind} has {length} bytes, and at most {max} are taken")]
    TooLong {
        /// Message type id.
        kind: u8,
        /// Bytes.
        length: usize,
        /// Bytes.
        max: usize,
    },
    /// The unfinished messages of all chunk streams together.
    #[error("unfinished messages hold more than {0} bytes")]
    TooMuchUnfinished(usize),
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Message type id (section 5.4 and 7.1).
    pub kind: u8,
    /// Message stream id.
    pub stream_id: u32,
    /// Milliseconds modulo 2^32.
    pub timestamp: u32,
    /// The payload.
    pub payload: Bytes,
}

/// The longest message that is taken, by its type id.
pub trait MaxLength {
    /// Bytes.
    fn max_length(&self, kind: u8) -> usize;
}

impl<F: Fn(u8) -> usize> MaxLength for F {
    fn max_length(&self, kind: u8) -> usize {
        self(kind)
    }
}

/// One chunk stream: its last header and the message that is coming in.
#[derive(Debug, Default)]
struct Stream {
    id: u32,
    timestamp: u32,
    /// What the last timestamp field said: a delta, or the timestamp itself after a type 0 header (section 5.3.1.2.4).
    field: u32,
    extended: bool,
    length: usize,
    kind: u8,
    stream_id: u32,
    payload: Vec<u8>,
    unfinished: bool,
}

/// Messages out of chunks.
#[derive(Debug)]
pub struct Reader {
    chunk_size: usize,
    streams: Vec<Stream>,
    /// The stream whose chunk is being read, and what is left of it, bytes.
    within: Option<(usize, usize)>,
    unfinished_bytes: usize,
    max_unfinished_bytes: usize,
}

impl Reader {
    /// `max_unfinished_bytes` bounds the unfinished messages of all chunk streams together.
    pub fn new(max_unfinished_bytes: usize) -> Self {
        Self {
            chunk_size: INITIAL_CHUNK_SIZE,
            streams: Vec::new(),
            within: None,
            unfinished_bytes: 0,
            max_unfinished_bytes,
        }
    }

    /// The peer set its chunk size (section 5.4.1).
    ///
    /// # Errors
    /// [`Error::ChunkSize`] when the size is 0 or has its highest bit set.
    pub fn set_chunk_size(&mut self, size: u32) -> Result<(), Error> {
        match usize::try_from(size) {
            Ok(bytes @ 1..=0x7fff_ffff) => self.chunk_size = bytes,
            _ => return Err(Error::ChunkSize(size)),
        }
        Ok(())
    }

    /// Another bound from here on.
    pub fn set_max_unfinished(&mut self, bytes: usize) {
        self.max_unfinished_bytes = bytes;
    }

    /// The peer gives up the unfinished message of a chunk stream (section 5.4.2).
    pub fn abort(&mut self, id: u32) {
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) {
            self.unfinished_bytes -= stream.payload.len();
            stream.payload = Vec::new();
            stream.unfinished = false;
        }
    }

    /// Takes bytes off the input up to the end of the next message; `None` when more is needed.
    ///
    /// # Errors
    /// [`Error`] when the bytes are not taken; the reader is of no use afterwards.
    pub fn read(
        &mut self,
        input: &mut BytesMut,
        max: &impl MaxLength,
    ) -> Result<Option<Message>, Error> {
        loop {
            let (index, left) = match self.within {
                Some(within) => within,
                None => match self.header(input, max)? {
                    Some(index) => {
                        let stream = &self.streams[index];
                        (
                            index,
                            self.chunk_size.min(stream.length - stream.payload.len()),
                        )
                    }
                    None => return Ok(None),
                },
            };
            let taken = left.min(input.len());
            if self.unfinished_bytes + taken > self.max_unfinished_bytes {
                return Err(Error::TooMuchUnfinished(self.max_unfinished_bytes));
            }
            let stream = &mut self.streams[index];
            if stream.payload.capacity() - stream.payload.len() < taken {
                // Room grows with what has come, not with what is announced, and ends at the message's exact length.
                let missing = stream.length - stream.payload.len();
                let step = stream.payload.len().max(taken).max(4_096);
                stream.payload.reserve_exact(step.min(missing));
            }
            stream.payload.extend_from_slice(&input[..taken]);
            input.advance(taken);
            self.unfinished_bytes += taken;
            if taken < left {
                self.within = Some((index, left - taken));
                return Ok(None);
            }
            self.within = None;
            if stream.payload.len() == stream.length {
                self.unfinished_bytes -= stream.length;
                stream.unfinished = false;
                return Ok(Some(Message {
                    kind: stream.kind,
                    stream_id: stream.stream_id,
                    timestamp: stream.timestamp,
                    payload: Bytes::from(std::mem::take(&mut stream.payload)),
                }));
            }
        }
    }

    /// Takes a chunk's header off the input, if it is there whole, and gives the index of its stream.
    fn header(
        &mut self,
        input: &mut BytesMut,
        max: &impl MaxLength,
    ) -> Result<Option<usize>, Error> {
        let Some(header) = Header::parse(input) else {
            return Ok(None);
        };
        let (index, known) = match self
            .streams
            .iter()
            .position(|stream| stream.id == header.stream)
        {
            Some(index) => (index, true),
            None => (self.streams.len(), false),
        };
        if !known {
            // A new chunk stream may begin with type 1: librtmp does so. The timestamp before it counts as 0.
            if header.format > 1 {
                return Err(Error::NoHeader(header.stream));
            }
            if self.streams.len() >= MAX_CHUNK_STREAMS {
                return Err(Error::TooManyStreams);
            }
        }
        let unfinished = known && self.streams[index].unfinished;
        if unfinished && header.format != 3 {
            return Err(Error::Interrupted(header.stream));
        }
        let mut consumed = header.bytes;
        let extended = match header.field {
            Some(field) => field == EXTENDED,
            None => self.streams[index].extended,
        };
        let mut field = header.field.unwrap_or(0);
        if extended {
            let Some(value) = input[consumed..].first_chunk::<4>() else {
                return Ok(None);
            };
            let value = u32::from_be_bytes(*value);
            if header.field.is_some() {
                field = value;
                consumed += 4;
            } else {
                // Type 3 repeats the extended timestamp (section 5.3.1.3), but some encoders leave it out there, and some
                // repeat the timestamp where it was a delta. Four bytes that are neither are payload.
                let stream = &self.streams[index];
                if value == stream.field || value == stream.timestamp {
                    consumed += 4;
                }
            }
        }
        if !known {
            self.streams.push(Stream {
                id: header.stream,
                ..Stream::default()
            });
        }
        let stream = &mut self.streams[index];
        if header.field.is_some() {
            (stream.field, stream.extended) = (field, extended);
        }
        if let Some((length, kind)) = header.length_and_kind {
            (stream.length, stream.kind) = (length, kind);
        }
        if let Some(stream_id) = header.message_stream {
            stream.stream_id = stream_id;
        }
        if !unfinished {
            stream.timestamp = match header.format {
                0 => stream.field,
                _ => stream.timestamp.wrapping_add(stream.field),
            };
            let max = max.max_length(stream.kind);
            if stream.length > max {
                return Err(Error::TooLong {
                    kind: stream.kind,
                    length: stream.length,
                    max,
                });
            }
            stream.unfinished = true;
        }
        input.advance(consumed);
        Ok(Some(index))
    }
}

/// Basic and message header (sections 5.3.1.1 and 5.3.1.2), without the extended timestamp.
struct Header {
    format: u8,
    stream: u32,
    field: Option<u32>,
    length_and_kind: Option<(usize, u8)>,
    message_stream: Option<u32>,
    bytes: usize,
}

impl Header {
    fn parse(input: &[u8]) -> Option<Self> {
        let first = *input.first()?;
        let (stream, basic) = match first & 0x3f {
            0 => (u32::from(*input.get(1)?) + 64, 2),
            1 => (
                u32::from(*input.get(1)?) + u32::from(*input.get(2)?) * 256 + 64,
                3,
            ),
            id => (id.into(), 1),
        };
        let format = first >> 6;
        let message = [11, 7, 3, 0][usize::from(format)];
        let fields = input.get(basic..basic + message)?;
        let u24 = |at: usize| {
            let bytes = fields.get(at..at + 3)?;
            Some(u32::from(bytes[0]) << 16 | u32::from(bytes[1]) << 8 | u32::from(bytes[2]))
        };
        Some(Self {
            format,
            stream,
            field: u24(0),
            length_and_kind: u24(3)
                .zip(fields.get(6))
                .map(|(length, kind)| (length as usize, *kind)),
            // The one field in little-endian order.
            message_stream: fields
                .get(7..)
                .and_then(|bytes| bytes.first_chunk())
                .map(|bytes| u32::from_le_bytes(*bytes)),
            bytes: basic + message,
        })
    }
}

/// Messages into chunks: a type 0 header, then type 3, which any peer reads.
#[derive(Debug)]
pub struct Writer {
    chunk_size: usize,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            chunk_size: INITIAL_CHUNK_SIZE,
        }
    }
}

impl Writer {
    /// From the next message on, and after the peer was told (section 5.4.1). Over 0.
    pub fn set_chunk_size(&mut self, size: u32) {
        self.chunk_size = (size as usize).max(1);
    }

    /// Appends a message with timestamp 0 on the chunk stream `id` (2 to 63).
    pub fn write(&self, out: &mut Vec<u8>, id: u8, kind: u8, stream_id: u32, payload: &[u8]) {
        let length = (payload.len() as u32).to_be_bytes();
        out.extend_from_slice(&[id & 0x3f, 0, 0, 0, length[1], length[2], length[3], kind]);
        out.extend_from_slice(&stream_id.to_le_bytes());
        for (n, chunk) in payload.chunks(self.chunk_size).enumerate() {
            if n > 0 {
                out.push(0xc0 | (id & 0x3f));
            }
            out.extend_from_slice(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn any_length(_: u8) -> usize {
        1 << 20
    }

    fn read_all(reader: &mut Reader, bytes: &[u8]) -> Result<Vec<Message>, Error> {
        let mut input = BytesMut::from(bytes);
        let mut messages = Vec::new();
        while let Some(message) = reader.read(&mut input, &any_length)? {
            messages.push(message);
        }
        Ok(messages)
    }

    fn reader() -> Reader {
        Reader::new(2 << 20)
    }

    /// A chunk with a type 0 header.
    fn full(timestamp: u32, kind: u8, length: u32, payload: &[u8]) -> Vec<u8> {
        let (t, l) = (timestamp.min(EXTENDED).to_be_bytes(), length.to_be_bytes());
        let mut out = vec![4, t[1], t[2], t[3], l[1], l[2], l[3], kind, 1, 0, 0, 0];
        if timestamp >= EXTENDED {
            out.extend_from_slice(&timestamp.to_be_bytes());
        }
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn headers_of_all_four_types_give_their_timestamps() {
        let mut bytes = full(1_000, 9, 2, b"ab");
        bytes.extend_from_slice(&[0x44, 0, 0, 40, 0, 0, 1, 8, b'c']);
        bytes.extend_from_slice(&[0x84, 0, 0, 20, b'd']);
        bytes.extend_from_slice(&[0xc4, b'e']);
        let messages = read_all(&mut reader(), &bytes).unwrap();
        let seen: Vec<_> = messages
            .iter()
            .map(|m| (m.timestamp, m.kind, m.stream_id, &m.payload[..]))
            .collect();
        let expected: [(u32, u8, u32, &[u8]); 4] = [
            (1_000, 9, 1, b"ab"),
            (1_040, 8, 1, b"c"),
            (1_060, 8, 1, b"d"),
            (1_080, 8, 1, b"e"),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_type_3_header_after_type_0_adds_the_timestamp_as_section_5_3_1_2_4_says() {
        let mut bytes = full(20, 8, 1, b"a");
        bytes.extend_from_slice(&[0xc4, b'b']);
        let messages = read_all(&mut reader(), &bytes).unwrap();
        assert_eq!(messages[1].timestamp, 40);
    }

    #[test]
    fn an_extended_timestamp_is_read_with_and_without_its_repetition_in_type_3() {
        let payload: Vec<u8> = (0..200).map(|n| n as u8 | 0x80).collect();
        for repeat in [true, false] {
            let mut bytes = full(0x0123_4567, 9, 200, &payload[..128]);
            bytes.push(0xc4);
            if repeat {
                bytes.extend_from_slice(&0x0123_4567u32.to_be_bytes());
            }
            bytes.extend_from_slice(&payload[128..]);
            // A delta goes on from there.
            bytes.extend_from_slice(&[0x84, 0, 0, 33]);
            bytes.extend_from_slice(&payload[..128]);
            bytes.push(0xc4);
            bytes.extend_from_slice(&payload[128..]);
            let messages = read_all(&mut reader(), &bytes).unwrap();
            assert_eq!(messages[0].timestamp, 0x0123_4567, "repeat {repeat}");
            assert_eq!(messages[0].payload, payload);
            assert_eq!(messages[1].timestamp, 0x0123_4567 + 33);
            assert_eq!(messages[1].payload, payload);
        }
    }

    #[test]
    fn timestamps_wrap_at_32_bits() {
        let mut bytes = full(0xffff_fff0, 8, 1, b"a");
        bytes.extend_from_slice(&[0x84, 0, 0, 0x20, b'b']);
        assert_eq!(read_all(&mut reader(), &bytes).unwrap()[1].timestamp, 0x10);
    }

    #[test]
    fn chunks_of_two_streams_interleave() {
        let mut bytes = full(0, 9, 130, &[1; 128]);
        bytes.extend_from_slice(&[5, 0, 0, 7, 0, 0, 1, 8, 1, 0, 0, 0, 2]);
        bytes.extend_from_slice(&[0xc4, 1, 1]);
        let messages = read_all(&mut reader(), &bytes).unwrap();
        assert_eq!((messages[0].kind, messages[0].timestamp), (8, 7));
        assert_eq!((messages[1].kind, messages[1].payload.len()), (9, 130));
    }

    #[test]
    fn the_chunk_size_changes_between_messages_and_within_one() {
        let mut reader = reader();
        reader.set_chunk_size(1).unwrap();
        assert_eq!(read_all(&mut reader, &full(0, 9, 3, b"a")).unwrap(), []);
        // Section 5.4.1 lets a control message come between the chunks of another message.
        reader.set_chunk_size(0x7fff_ffff).unwrap();
        let messages = read_all(&mut reader, b"\xc4bc").unwrap();
        assert_eq!(&messages[0].payload[..], b"abc");
        assert_eq!(reader.set_chunk_size(0), Err(Error::ChunkSize(0)));
        assert!(reader.set_chunk_size(1 << 31).is_err());
    }

    #[test]
    fn an_aborted_message_is_forgotten() {
        let mut reader = reader();
        assert_eq!(
            read_all(&mut reader, &full(0, 9, 300, &[1; 128])).unwrap(),
            []
        );
        reader.abort(4);
        reader.abort(99);
        assert_eq!(reader.unfinished_bytes, 0);
        let messages = read_all(&mut reader, &full(5, 9, 1, b"a")).unwrap();
        assert_eq!(messages[0].timestamp, 5);
    }

    #[test]
    fn too_long_too_many_and_unfinished_are_refused() {
        assert!(matches!(
            read_all(&mut reader(), &full(0, 9, 0xff_ffff, b"")),
            Err(Error::TooLong { kind: 9, .. })
        ));
        let mut bytes = full(0, 9, 300, &[1; 128]);
        bytes.extend_from_slice(&full(0, 9, 1, b"a"));
        assert_eq!(read_all(&mut reader(), &bytes), Err(Error::Interrupted(4)));
        assert_eq!(
            read_all(&mut reader(), &[0x84, 0, 0, 0]),
            Err(Error::NoHeader(4))
        );
    }

    #[test]
    fn many_unfinished_messages_hold_no_more_than_the_bound() {
        let mut reader = Reader::new(1_000);
        let mut input = BytesMut::new();
        let mut result = Ok(None);
        for id in 2..2 + MAX_CHUNK_STREAMS as u8 {
            input.extend_from_slice(&[id, 0, 0, 0, 0x0f, 0, 0, 9, 1, 0, 0, 0]);
            input.extend_from_slice(&[0; 128]);
            result = reader.read(&mut input, &any_length);
            if result.is_err() {
                break;
            }
        }
        assert_eq!(result, Err(Error::TooMuchUnfinished(1_000)));
        let held: usize = reader
            .streams
            .iter()
            .map(|stream| stream.payload.capacity())
            .sum();
        assert!(
            held <= 1_000 + MAX_CHUNK_STREAMS * 4_096,
            "{held} bytes held"
        );

        let mut reader = Reader::new(1_000);
        let mut input = BytesMut::new();
        for id in 0..=255u8 {
            input.extend_from_slice(&[0, id, 0, 0, 0, 0, 0, 0, 9, 1, 0, 0, 0]);
        }
        let mut read = 0;
        let error = loop {
            match reader.read(&mut input, &any_length) {
                Ok(Some(_)) => read += 1,
                Ok(None) => panic!("all chunk streams were taken"),
                Err(error) => break error,
            }
        };
        assert_eq!((read, error), (MAX_CHUNK_STREAMS, Error::TooManyStreams));
    }

    #[test]
    fn what_is_written_reads_back_in_chunks_of_any_size() {
        for size in [1, 128, 4_096] {
            let (mut writer, mut reader) = (Writer::default(), reader());
            writer.set_chunk_size(size);
            reader.set_chunk_size(size).unwrap();
            for length in [0, 1, 127, 128, 129, 5_000] {
                let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
                let mut bytes = Vec::new();
                writer.write(&mut bytes, 3, 20, 1, &payload);
                let messages = read_all(&mut reader, &bytes).unwrap();
                assert_eq!(messages.len(), 1);
                assert_eq!(messages[0].payload, payload);
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_read_alike(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            pieces in proptest::collection::vec(1usize..50, 1..20),
        ) {
            let whole = {
                let (mut reader, mut input) = (reader(), BytesMut::from(&bytes[..]));
                collect(&mut reader, &mut input)
            };
            let (mut reader, mut input) = (reader(), BytesMut::new());
            let mut in_pieces = (Vec::new(), None);
            let mut rest = &bytes[..];
            for size in pieces.iter().cycle() {
                if rest.is_empty() || in_pieces.1.is_some() {
                    break;
                }
                let (piece, later) = rest.split_at((*size).min(rest.len()));
                rest = later;
                input.extend_from_slice(piece);
                let (messages, error) = collect(&mut reader, &mut input);
                in_pieces.0.extend(messages);
                in_pieces.1 = error;
            }
            prop_assert_eq!(whole, in_pieces);
        }
    }

    fn collect(reader: &mut Reader, input: &mut BytesMut) -> (Vec<Message>, Option<Error>) {
        let mut messages = Vec::new();
        loop {
            match reader.read(input, &any_length) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return (messages, None),
                Err(error) => return (messages, Some(error)),
            }
        }
    }
}
