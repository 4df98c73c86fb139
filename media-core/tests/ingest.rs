//! Ingest from outside: real encoders (FFmpeg, librtmp, GStreamer's own RTMP), peers that do not behave, and a certificate authority.
//!
//! Needs `pebble`, `ffmpeg` and `gst-launch-1.0` with the plug-ins `rtmp2sink` and `rtmpsink` on the path; a test whose peer is missing fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod ingest {
    mod acme;
    mod client;
    mod fixture;
    mod misbehaving;
    #[path = "../../../tests/ports.rs"]
    mod ports;
    mod real_encoders;
}
