//! Publish: objects to the store, then messages to the edge.
//!
//! Takes what the packagers give, in order per track (headers, parts, segments, discontinuities), and sees to it that each object lies
//! readable in the store before the edge hears of it, under a key that is never written twice. A store that is slow or down fills first
//! a bounded memory and then a bounded spool on disk; the ingest is never held back, and what the spool cannot hold is announced as a gap.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`store`] | where objects go: a folder, an S3 bucket, or the edge's own bucket |
//! | [`publisher`] | one broadcast: the handle for the pipeline and the future that does its I/O |
//! | [`queue`] | the decisions of it: keys, order, what is spooled, what is lost, what is deleted; without I/O |
//! | [`spool`] | the files of it |
//! | [`link`] | messages numbered, kept until the edge has stored them, sent again after a reconnect |
//! | [`remote_edge`] | the edge over HTTP and WebSocket, both sides authenticated |

pub mod link;
pub mod publisher;
pub mod queue;
pub mod remote_edge;
mod spool;
pub mod store;

pub use publisher::Publisher;
pub use remote_edge::{RemoteEdge, StudioKey};
pub use spool::clean as clean_spool;
pub use store::Store;
