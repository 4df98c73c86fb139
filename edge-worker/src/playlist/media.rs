//! A track's media playlist and its delta update: draft-pantos-hls-rfc8216bis-16 sections 4.4.3 to 4.4.5 and 6.2.5.1.
//!
//! One text serves players with and without low latency. The window slides in all tracks at once; parts are listed for the last three
//! target durations; a delta update skips what is older than six.

use std::fmt::Write;

use protocol::link::TARGET_DURATION_S;

use super::{iso8601, seconds};
use crate::live::{Broadcast, ListedPart, LiveTrack, PARTS_LISTED_US, TARGET_DURATION_US, to_us};

/// `CAN-SKIP-UNTIL`, microseconds: the least that the draft allows.
const SKIP_UNTIL_US: i64 = 6 * TARGET_DURATION_US;

/// The playlist of a track, or with `skip` its delta update where there is something to skip. A track that is not there gives an empty
/// text.
pub fn render(broadcast: &Broadcast, track: usize, skip: bool) -> String {
    let Some(track) = broadcast.tracks().get(track) else {
        return String::new();
    };
    let ended = broadcast.ended().is_some();
    let mut text = String::with_capacity(24 * 1024);
    header(&mut text, broadcast, track);

    let running_us: i64 = to_us(
        track.parts().iter().map(|p| p.duration as i64).sum(),
        track.config().timescale,
    );
    // How much of the playlist lies behind the end of each segment.
    let mut after_us = running_us;
    let mut behind: Vec<i64> = Vec::with_capacity(track.segments().len());
    for segment in track.segments().rev() {
        behind.push(after_us);
        after_us += segment.duration_us();
    }
    behind.reverse();

    let mut skipped = 0;
    if skip && !ended {
        let whole_us =
            |(segment, after): (&crate::live::ListedSegment, &i64)| after + segment.duration_us();
        let older = track
            .segments()
            .zip(&behind)
            .take_while(|pair| whole_us(*pair) > SKIP_UNTIL_US);
        skipped = older.count();
        if skipped > 0 {
            let _ = writeln!(text, "#EXT-X-SKIP:SKIPPED-SEGMENTS={skipped}");
        }
    }

    let mut map = None;
    for (segment, after_us) in track.segments().zip(&behind).skip(skipped) {
        begin_segment(&mut text, broadcast, track, segment.msn, &mut map);
        date(&mut text, broadcast, segment.start_us());
        if *after_us < PARTS_LISTED_US {
            parts(&mut text, &segment.parts, segment.timescale);
        }
        if segment.key.is_none() {
            text.push_str("#EXT-X-GAP\n");
        }
        let _ = writeln!(text, "#EXTINF:{},", seconds(segment.duration_us()));
        match &segment.key {
            Some(key) => {
                let _ = writeln!(text, "/media/{key}");
            }
            // A gap needs an address all the same; nobody fetches it.
            None => {
                let _ = writeln!(text, "gap-{}.m4s", segment.msn);
            }
        }
    }

    if ended {
        text.push_str("#EXT-X-ENDLIST\n");
        return text;
    }
    if let Some(first) = track.parts().first() {
        let timescale = track.config().timescale;
        begin_segment(&mut text, broadcast, track, track.next_msn(), &mut map);
        date(&mut text, broadcast, to_us(first.start, timescale));
        parts(&mut text, track.parts(), timescale);
    }
    if let Some(hint) = track.hint() {
        let _ = writeln!(text, "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"/media/{hint}\"");
    }
    for other in broadcast.tracks() {
        if !std::ptr::eq(other, track) {
            report(&mut text, other);
        }
    }
    text
}

fn header(text: &mut String, broadcast: &Broadcast, track: &LiveTrack) {
    let _ = write!(
        text,
        "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:{TARGET_DURATION_S}\n\
         #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK={},HOLD-BACK={},CAN-SKIP-UNTIL={}\n\
         #EXT-X-PART-INF:PART-TARGET={}\n#EXT-X-MEDIA-SEQUENCE:{}\n#EXT-X-DISCONTINUITY-SEQUENCE:{}\n",
        // Three of the written part targets, so that rounding does not make it less.
        seconds(3 * ((broadcast.longest_part_us() + 9) / 10 * 10)),
        3 * TARGET_DURATION_S,
        SKIP_UNTIL_US / 1_000_000,
        seconds((track.part_target_us() + 9) / 10 * 10),
        broadcast.base_msn(),
        broadcast.discontinuity_sequence(),
    );
}

/// What stands before the parts of a segment: a discontinuity, and the map where it changes or nothing was said before.
fn begin_segment<'a>(
    text: &mut String,
    broadcast: &Broadcast,
    track: &'a LiveTrack,
    msn: u64,
    map: &mut Option<&'a protocol::object_key::ObjectKey>,
) {
    if broadcast.is_discontinuity(msn) {
        text.push_str("#EXT-X-DISCONTINUITY\n");
    }
    let init = &track.config_at(msn).init;
    if *map != Some(init) {
        let _ = writeln!(text, "#EXT-X-MAP:URI=\"/media/{init}\"");
        *map = Some(init);
    }
}

fn date(text: &mut String, broadcast: &Broadcast, media_us: i64) {
    let unix_ms = broadcast
        .epoch_unix_ms()
        .saturating_add(media_us.div_euclid(1_000));
    let _ = writeln!(text, "#EXT-X-PROGRAM-DATE-TIME:{}", iso8601(unix_ms));
}

fn parts(text: &mut String, parts: &[ListedPart], timescale: u32) {
    for part in parts {
        let duration = seconds(to_us(part.duration as i64, timescale));
        let independent = if part.independent {
            ",INDEPENDENT=YES"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "#EXT-X-PART:DURATION={duration},URI=\"/media/{}\"{independent}",
            part.key
        );
    }
}

/// Where another track's playlist ends, so that a player can switch to it with a blocked request at once: its last part, or its last
/// segment where it lists no parts (section 4.4.5.4). Behind a gap, which has none, that is a part before it.
fn report(text: &mut String, other: &LiveTrack) {
    let mut after_us = 0;
    let mut listed = other.segments().rev().take_while(|segment| {
        let is_listed = after_us < PARTS_LISTED_US;
        after_us += segment.duration_us();
        is_listed
    });
    let (msn, parts) = match other.parts().len() {
        0 => match listed.find(|segment| !segment.parts.is_empty()) {
            Some(segment) => (segment.msn, segment.parts.len()),
            None => match other.segments().next_back() {
                Some(last) => (last.msn, 0),
                None => return,
            },
        },
        parts => (other.next_msn(), parts),
    };
    let _ = write!(
        text,
        "#EXT-X-RENDITION-REPORT:URI=\"../{}/index.m3u8\",LAST-MSN={msn}",
        other.name(),
    );
    if let Some(last) = parts.checked_sub(1) {
        let _ = write!(text, ",LAST-PART={last}");
    }
    text.push('\n');
}
