//! RTMP, the server's side of a publisher's connection, without socket and clock.
//!
//! [`Session`] takes the bytes that came and gives the bytes to send and [`Event`]s. Every function is total on arbitrary bytes, and
//! what a peer can make a session hold is bounded by [`Limits`].
//!
//! | module | what it is | Adobe RTMP 1.0 |
//! | --- | --- | --- |
//! | [`handshake`] | the plain handshake | section 5.2 |
//! | [`chunk`] | messages out of chunks and into them | section 5.3 |
//! | [`amf`] | AMF0 values | Action Message Format 0 |
//! | [`session`] | commands, acknowledgements, control messages | sections 5.4, 6 and 7 |

pub mod amf;
pub mod chunk;
pub mod handshake;
pub mod session;

pub use self::session::{Error, Event, Limits, PublishRequest, Refusal, Session};
