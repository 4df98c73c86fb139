//! The edge: what viewers ask, and what a box tells it.
//!
//! Every decision is a plain function or a state machine without I/O and without a clock (the time is an argument), shared by two thin
//! adapters: the native one and Cloudflare Workers.
//!
//! | module | what it decides | specification |
//! | --- | --- | --- |
//! | [`live`] | the state of one broadcast: apply a link message, answer a request, know whom to wake | |
//! | [`playlist`] | the texts: multivariant, media playlist, MPD | draft-pantos-hls-rfc8216bis-16, ISO/IEC 23009-1:2022 |
//! | [`routes`] | which address is what, and the headers of its answer | RFC 9110, 9111, 9457 |
//! | [`directory`] | streams, their keys, who may publish | |
//! | [`limits`] | what streams and tenants may take | |
//! | [`streams`] | streams made, changed and deleted over HTTP | |
//! | [`access`] | who may do what, by tokens | RFC 7519, RFC 8037 |
//! | [`guard`] | who may come at all, and how often, by address, token and session | RFC 7239, RFC 6585 |
//! | [`sessions`] | who watches with a token, and whether one more may | |
//! | [`signaling`] | what viewers by WebRTC ask, and are answered | draft-ietf-wish-whep, RFC 9725 |
//! | [`webhooks`] | what an operator's own server decides and hears | RFC 2104, RFC 6890 |
//! | [`audience`] | how many watch | |
//! | [`api`] | the JSON that both adapters say and take | RFC 8259 |
//! | [`openapi`] | all of it described, for those who write clients | OpenAPI 3.1 |
//! | `cloudflare` | the adapter for Cloudflare Workers (feature `cloudflare`; runs on wasm32 only) | |
//! | `native` | the adapter of `ghost-live up` and `ghost-live edge` (feature `native`) | |
//!
//! Everything outside `native` compiles for wasm32: no runtime, no threads, no `std::time` clocks.

#![forbid(unsafe_code)]

pub mod access;
pub mod api;
pub mod audience;
#[cfg(feature = "cloudflare")]
mod cloudflare;
pub mod directory;
pub mod guard;
pub mod limits;
pub mod live;
#[cfg(feature = "native")]
pub mod native;
pub mod openapi;
pub mod playlist;
pub mod routes;
pub mod sessions;
pub mod signaling;
pub mod streams;
pub mod webhooks;
