//! The MPD: ISO/IEC 23009-1:2022, with the low-latency rules of DASH-IF IOP 5 part 4.
//!
//! Segments are numbered as in the playlists (`$Number$` is the media sequence number, in every Period) and their times are listed in a
//! `SegmentTimeline` per Representation. The running segment is listed with the duration that is expected of it, and can be fetched as
//! soon as it has a part; `minimumUpdatePeriod` is what remains of it, so that each player fetches the MPD once a segment, when
//! there is another one. A Period begins at each discontinuity and where a track changes its init. Nothing depends on the time of the
//! request: `publishTime` is the program date time of the end.

use std::fmt::Write;

use protocol::link::{Track, TrackKind};

use super::{PUBLIC, iso8601, multivariant::bandwidth};
use crate::live::{Broadcast, ListedSegment, LiveTrack, Period, TARGET_DURATION_US, to_us};

/// Where a player reads the time. Inside a `ProducerReferenceTime` it also says that the wall-clock time there is written as ISO 8601;
/// without it that would be an NTP time (ISO/IEC 23009-1 section 5.12).
const UTC_TIMING: &str =
    "<UTCTiming schemeIdUri=\"urn:mpeg:dash:utc:http-iso:2014\" value=\"/api/time?iso\"/>";

/// An entry of a SegmentTimeline, ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    start: i64,
    duration: i64,
}

/// What a Period lists of a track.
#[derive(Debug)]
struct Listed<'a> {
    track: &'a LiveTrack,
    config: &'a Track,
    start_number: u64,
    entries: Vec<Entry>,
    /// Where it ends, microseconds of media time.
    end_us: i64,
    /// Whether the running segment is the last entry.
    running: bool,
}

/// The MPD.
pub fn render(broadcast: &Broadcast) -> String {
    let mut text = String::with_capacity(16 * 1024);
    let expected_us = expected_us(broadcast);
    let end_us = broadcast
        .tracks()
        .iter()
        .filter_map(LiveTrack::end_us)
        .max();
    let end_us = end_us.unwrap_or_default().max(0);
    let date = |us: i64| iso8601(broadcast.epoch_unix_ms().saturating_add(us / 1_000));

    let _ = write!(
        text,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" profiles=\"urn:mpeg:dash:profile:isoff-live:2011,http://www.dashif.org/guidelines/low-latency-live-v5\" \
         type=\"dynamic\" availabilityStartTime=\"{}\" publishTime=\"{}\" timeShiftBufferDepth=\"PT{}S\" \
         suggestedPresentationDelay=\"PT6S\" minBufferTime=\"PT1S\" maxSegmentDuration=\"PT{}S\" ",
        date(0),
        date(end_us),
        broadcast.window_s(),
        decimal(crate::live::SEGMENT_LIMIT_US),
    );
    match broadcast.ended() {
        Some(_) => {
            let _ = write!(text, "mediaPresentationDuration=\"PT{}S\"", decimal(end_us));
        }
        None => {
            let _ = write!(
                text,
                "minimumUpdatePeriod=\"PT{}S\"",
                decimal(update_us(broadcast, expected_us))
            );
        }
    }
    let target_ms = 3 * broadcast.longest_part_us() / 1_000 + 1_000;
    let _ = write!(
        text,
        ">\n <ServiceDescription id=\"0\">\n  <Latency referenceId=\"0\" target=\"{target_ms}\" min=\"{}\" max=\"{}\"/>\n  \
         <PlaybackRate min=\"0.96\" max=\"1.04\"/>\n </ServiceDescription>\n",
        target_ms / 2,
        3 * target_ms,
    );

    let periods: Vec<&Period> = broadcast.periods().collect();
    for (index, period) in periods.iter().enumerate() {
        let next = periods.get(index + 1).map(|next| next.msn);
        let mut listed: Vec<Listed> = (broadcast.tracks().iter())
            .filter_map(|track| list(broadcast, track, period, next, expected_us))
            .collect();
        // A new Period is shown when every track has begun it: players look at its Representations once.
        let begun = listed.len() == broadcast.tracks().len() || next.is_some();
        if listed.is_empty() || !begun {
            continue;
        }
        listed.sort_by_key(|l| l.config.nominal_bps);
        let _ = write!(
            text,
            " <Period id=\"p{}\" start=\"PT{}S\"",
            period.msn,
            decimal(period.start_us)
        );
        if next.is_some() {
            let end_us = listed.iter().map(|l| l.end_us).max().unwrap_or_default();
            let _ = write!(
                text,
                " duration=\"PT{}S\"",
                decimal(end_us - period.start_us)
            );
        }
        text.push_str(">\n");
        adaptation_set(&mut text, broadcast, period, &listed, true, expected_us);
        adaptation_set(&mut text, broadcast, period, &listed, false, expected_us);
        text.push_str(" </Period>\n");
    }
    let _ = write!(text, " {UTC_TIMING}\n</MPD>\n");
    text
}

/// How long the running segment is expected to become: as long as the last one.
fn expected_us(broadcast: &Broadcast) -> i64 {
    let last = broadcast.reference().and_then(|r| r.segments().next_back());
    last.map_or(TARGET_DURATION_US / 2, ListedSegment::duration_us)
}

/// How long until the segment after the running one is to be expected.
fn update_us(broadcast: &Broadcast, expected_us: i64) -> i64 {
    let begun_us = broadcast.reference().map_or(0, running_us);
    (expected_us - begun_us).clamp(500_000, TARGET_DURATION_US)
}

fn running_us(track: &LiveTrack) -> i64 {
    let ticks: u64 = track.parts().iter().map(|p| p.duration).sum();
    to_us(ticks as i64, track.config().timescale)
}

fn list<'a>(
    broadcast: &Broadcast,
    track: &'a LiveTrack,
    period: &Period,
    next: Option<u64>,
    expected_us: i64,
) -> Option<Listed<'a>> {
    // A Period whose beginning the reference track has not reached yet ends this one all the same.
    let ends = |msn: u64| {
        next.map_or_else(
            || msn > period.msn && broadcast.begins_period(msn),
            |next| msn >= next,
        )
    };
    let segments: Vec<&ListedSegment> = track
        .segments()
        .skip_while(|s| s.msn < period.msn || s.key.is_none())
        .take_while(|s| !ends(s.msn))
        .collect();
    // Numbers have no holes, so a lost segment is listed (and not found) unless it is the last one.
    let complete = segments
        .iter()
        .rposition(|s| s.key.is_some())
        .map_or(0, |last| last + 1);
    let mut entries: Vec<Entry> = segments[..complete]
        .iter()
        .map(|s| Entry {
            start: s.start,
            duration: s.duration as i64,
        })
        .collect();

    let follows = complete == segments.len();
    let msn = track.next_msn();
    let first_part = (track.parts().first())
        .filter(|_| broadcast.ended().is_none() && follows && msn >= period.msn && !ends(msn));
    let config = match (first_part, segments.first()) {
        (Some(_), _) => track.config_at(msn),
        (None, first) => track.config_at(first?.msn),
    };
    let timescale = config.timescale;
    if let Some(first) = first_part {
        let begun: u64 = track.parts().iter().map(|p| p.duration).sum();
        let expected = expected_us * i64::from(timescale) / 1_000_000;
        let duration = expected.max(begun as i64);
        entries.push(Entry {
            start: first.start,
            duration,
        });
    }
    let start_number = segments[..complete].first().map_or(msn, |s| s.msn);
    let last = entries.last()?;
    Some(Listed {
        track,
        config,
        start_number,
        end_us: to_us(last.start.saturating_add(last.duration), timescale),
        running: first_part.is_some(),
        entries,
    })
}

fn adaptation_set(
    text: &mut String,
    broadcast: &Broadcast,
    period: &Period,
    listed: &[Listed],
    video: bool,
    expected_us: i64,
) {
    let mut listed = listed
        .iter()
        .filter(|l| l.track.is_video() == video)
        .peekable();
    if listed.peek().is_none() {
        return;
    }
    let (id, kind) = if video { (1, "video") } else { (2, "audio") };
    let _ = write!(
        text,
        "  <AdaptationSet id=\"{id}\" contentType=\"{kind}\" mimeType=\"{kind}/mp4\" segmentAlignment=\"true\" startWithSAP=\"1\">\n   \
         <ProducerReferenceTime id=\"0\" type=\"encoder\" wallClockTime=\"{}\" presentationTime=\"0\">\n    \
         {UTC_TIMING}\n   \
         </ProducerReferenceTime>\n   \
         <Role schemeIdUri=\"urn:mpeg:dash:role:2011\" value=\"main\"/>\n",
        iso8601(broadcast.epoch_unix_ms()),
    );
    for one in listed {
        representation(text, broadcast, period, one, expected_us);
    }
    text.push_str("  </AdaptationSet>\n");
}

fn representation(
    text: &mut String,
    broadcast: &Broadcast,
    period: &Period,
    listed: &Listed,
    expected_us: i64,
) {
    let config = listed.config;
    let (peak, _) = bandwidth(listed.track);
    let _ = write!(
        text,
        "   <Representation id=\"{}\" bandwidth=\"{peak}\" codecs=\"{}\"",
        config.name, config.codecs
    );
    match config.kind {
        TrackKind::Video {
            width,
            height,
            frame_rate,
        } => {
            let _ = write!(text, " width=\"{width}\" height=\"{height}\"");
            if let Some((num, den)) = frame_rate {
                let _ = match den {
                    1 => write!(text, " frameRate=\"{num}\""),
                    _ => write!(text, " frameRate=\"{num}/{den}\""),
                };
            }
            text.push_str(">\n");
        }
        TrackKind::Audio {
            sample_rate,
            channels,
        } => {
            let _ = write!(
                text,
                " audioSamplingRate=\"{sample_rate}\">\n    <AudioChannelConfiguration \
                 schemeIdUri=\"urn:mpeg:dash:23003:3:audio_channel_configuration:2011\" value=\"{channels}\"/>\n"
            );
        }
    }
    let timescale = config.timescale;
    let offset = period.start_us * i64::from(timescale) / 1_000_000;
    let _ = write!(
        text,
        "    <SegmentTemplate timescale=\"{timescale}\" presentationTimeOffset=\"{offset}\" startNumber=\"{}\" \
         initialization=\"/media/{}\" media=\"{}/{PUBLIC}/$RepresentationID$/$Number$.m4s\"",
        listed.start_number,
        config.init,
        broadcast.id(),
    );
    if listed.running {
        // A segment is there from its first part on.
        let early_us = (expected_us - to_us(config.part_target as i64, timescale)).max(0);
        let _ = write!(
            text,
            " availabilityTimeOffset=\"{}\" availabilityTimeComplete=\"false\"",
            decimal(early_us)
        );
    }
    text.push_str(">\n     <SegmentTimeline>\n");
    timeline(text, &listed.entries);
    text.push_str("     </SegmentTimeline>\n    </SegmentTemplate>\n   </Representation>\n");
}

/// Runs of equal durations become one `S` with a repeat count.
fn timeline(text: &mut String, entries: &[Entry]) {
    let mut at: Option<i64> = None;
    let mut entries = entries.iter().copied().peekable();
    while let Some(first) = entries.next() {
        let mut end = first.start.saturating_add(first.duration);
        let mut repeat = 0;
        while let Some(next) = entries.next_if(|e| e.start == end && e.duration == first.duration) {
            end = next.start.saturating_add(next.duration);
            repeat += 1;
        }
        text.push_str("      <S");
        if at != Some(first.start) {
            let _ = write!(text, " t=\"{}\"", first.start.max(0));
        }
        let _ = write!(text, " d=\"{}\"", first.duration);
        if repeat > 0 {
            let _ = write!(text, " r=\"{repeat}\"");
        }
        text.push_str("/>\n");
        at = Some(end);
    }
}

/// Microseconds as seconds with as many decimals as are needed.
fn decimal(us: i64) -> String {
    let us = us.max(0);
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
