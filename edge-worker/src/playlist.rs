//! The texts that players read, rendered from the state of a broadcast by pure functions.
//!
//! | module | text | specification |
//! | --- | --- | --- |
//! | [`multivariant`] | `/live/{stream}/index.m3u8` | draft-pantos-hls-rfc8216bis-16 section 4.4.6 |
//! | [`media`] | `…/{track}/index.m3u8` | the same, sections 4.4.3 to 4.4.5, 6.2.5 |
//! | [`dash`] | `/live/{stream}/manifest.mpd` | ISO/IEC 23009-1:2022, DASH-IF IOP 5 part 4 for low latency |
//! | [`lint`] | checks the first two (feature `lint`, and in tests) | Apple's HLS authoring and low-latency rules |
//!
//! Every URI in a text is relative or under `/media`, so a text is the same for all viewers of a session name and is rendered once a
//! part: [`Cache`] keeps it until the broadcast changes.

use bytes::Bytes;

use crate::live::Broadcast;

pub mod dash;
#[cfg(any(test, feature = "lint"))]
pub mod lint;
pub mod media;
pub mod multivariant;
mod time;

pub use time::iso8601;

/// `Content-Type` of a playlist.
pub const HLS_TYPE: &str = "application/vnd.apple.mpegurl";
/// `Content-Type` of an MPD.
pub const DASH_TYPE: &str = "application/dash+xml";

/// Which text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// The multivariant playlist.
    Multivariant,
    /// The media playlist of a track (index in [`Broadcast::tracks`]), or its delta update.
    Media {
        /// The track.
        track: usize,
        /// `_HLS_skip`.
        skip: bool,
    },
    /// The MPD.
    Dash,
}

/// What stands for the session in the texts: the session of everybody who watches a public stream.
pub const PUBLIC: &str = "-";

/// The text, for viewers with the session [`PUBLIC`].
pub fn render(broadcast: &Broadcast, text: Text) -> String {
    match text {
        Text::Multivariant => multivariant::render(broadcast),
        Text::Media { track, skip } => media::render(broadcast, track, skip),
        Text::Dash => dash::render(broadcast),
    }
}

/// The multivariant playlist or MPD of everybody, for one session. An MPD then says where it is fetched again: not with the token, which
/// would begin another session each time.
pub fn personal(text: &str, session: &str) -> String {
    let all = format!("/{PUBLIC}/");
    let text = text.replace(&all, &format!("/{session}/"));
    // Between ProgramInformation and ServiceDescription (ISO/IEC 23009-1 section 5.3.1.3).
    let place = "<ServiceDescription";
    match text.contains("<MPD ") {
        true => {
            let location = format!("<Location>{DASH_FILE}?session={session}</Location>\n {place}");
            text.replacen(place, &location, 1)
        }
        false => text,
    }
}

/// The last segment of the MPD's address.
const DASH_FILE: &str = "manifest.mpd";

/// The texts of one version of a broadcast: each rendered once.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    version: u64,
    texts: Vec<Option<Bytes>>,
}

impl Cache {
    /// The text, rendered or as it was rendered for this version. What is given is shared, not copied.
    pub fn get(&mut self, broadcast: &Broadcast, text: Text) -> Bytes {
        if self.version != broadcast.version() {
            self.version = broadcast.version();
            self.texts.clear();
        }
        let index = match text {
            Text::Multivariant => 0,
            Text::Dash => 1,
            Text::Media { track, skip } => 2 + 2 * track + usize::from(skip),
        };
        if index >= self.texts.len() {
            // A track that is not there is rendered empty and is not kept.
            if index >= 2 + 2 * broadcast.tracks().len() {
                return Bytes::new();
            }
            self.texts.resize(index + 1, None);
        }
        self.texts[index]
            .get_or_insert_with(|| Bytes::from(render(broadcast, text)))
            .clone()
    }
}

/// Microseconds as seconds with five decimals, rounded to the nearest.
fn seconds(us: i64) -> String {
    let tens = us.max(0).saturating_add(5) / 10;
    format!("{}.{:05}", tens / 100_000, tens % 100_000)
}
