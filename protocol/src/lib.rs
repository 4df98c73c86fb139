//! What crosses between the parts of Ghost Live.
//!
//! Names, object keys, link messages and link authentication, shared by `media-core`, `edge-worker` and the binary, natively and in
//! wasm32. There is no I/O, no clock and no randomness here: time and random bits are arguments.
//!
//! | module | what crosses |
//! | --- | --- |
//! | [`names`] | streams, broadcasts, tracks |
//! | [`object_key`] | where an init, a part or a segment lies in the object store |
//! | [`link`] | the messages of a broadcast link |
//! | [`internal`] | the questions a box asks the edge over HTTP |
//! | [`limits`] | what a stream may take |
//! | [`cidr`] | address ranges, as every list of addresses in a configuration has them |
//! | [`per_address`] | nothing: the bound on an address that the listeners of both keep |
//! | [`link_auth`] | how box and edge prove themselves to each other |
//! | [`schema`] | nothing: how names and ids are described to those who write clients |
//! | [`session`] | a viewer's signed place in the addresses of a broadcast |
//! | [`signaling`] | what WebRTC viewers and media-core say to each other, over the broadcast link |
//! | [`stream_key`] | the static keys that encoders publish with |
//! | [`token`] | the capability tokens of everybody else, and of encoders as well |

#![forbid(unsafe_code)]

pub mod cidr;
pub mod internal;
pub mod limits;
pub mod link;
pub mod link_auth;
pub mod names;
pub mod object_key;
pub mod per_address;
pub mod schema;
pub mod session;
pub mod signaling;
pub mod stream_key;
pub mod token;
