//! The multivariant playlist: draft-pantos-hls-rfc8216bis-16 section 4.4.6.

use std::fmt::Write;

use protocol::link::TrackKind;

use super::PUBLIC;
use crate::live::{Broadcast, LiveTrack};

/// The group that every audio track belongs to.
const AUDIO_GROUP: &str = "audio";

/// Peak and average bit rate of a track: measured, or what the encoder was told until there is enough to measure.
pub fn bandwidth(track: &LiveTrack) -> (u64, u64) {
    let nominal = track.config().nominal_bps.max(1);
    let average = track.rate().average_bps().unwrap_or(nominal);
    let peak = track.rate().peak_bps().unwrap_or(nominal).max(average);
    (peak, average)
}

/// The playlist. Variants come best first, but behind the best one of 720 lines or less, since many players begin with the first.
pub fn render(broadcast: &Broadcast) -> String {
    let mut text = String::from("#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-INDEPENDENT-SEGMENTS\n");
    let (video, audio): (Vec<_>, Vec<_>) = broadcast.tracks().iter().partition(|t| t.is_video());
    let uri =
        |track: &LiveTrack| format!("{}/{PUBLIC}/{}/index.m3u8", broadcast.id(), track.name());

    if video.is_empty() {
        for track in audio {
            let (peak, average) = bandwidth(track);
            let codecs = &track.config().codecs;
            let _ = writeln!(
                text,
                "#EXT-X-STREAM-INF:BANDWIDTH={peak},AVERAGE-BANDWIDTH={average},CODECS=\"{codecs}\"\n{}",
                uri(track)
            );
        }
        return text;
    }

    for (index, track) in audio.iter().enumerate() {
        let TrackKind::Audio { channels, .. } = track.config().kind else {
            continue;
        };
        let name = if index == 0 {
            "Audio".to_owned()
        } else {
            format!("Audio {}", index + 1)
        };
        let default = if index == 0 { "YES" } else { "NO" };
        let _ = writeln!(
            text,
            "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"{AUDIO_GROUP}\",NAME=\"{name}\",DEFAULT={default},AUTOSELECT=YES,CHANNELS=\"{channels}\",URI=\"{}\"",
            uri(track)
        );
    }
    // A variant is as heavy as its picture with the heaviest sound it can be combined with.
    let heaviest =
        |of: fn((u64, u64)) -> u64| audio.iter().map(|t| of(bandwidth(t))).max().unwrap_or(0);
    let (audio_peak, audio_average) = (heaviest(|b| b.0), heaviest(|b| b.1));
    let mut audio_codecs: Vec<&str> = audio.iter().map(|t| t.config().codecs.as_str()).collect();
    audio_codecs.sort_unstable();
    audio_codecs.dedup();

    for track in in_order(distinct(video)) {
        let TrackKind::Video {
            width,
            height,
            frame_rate,
        } = track.config().kind
        else {
            continue;
        };
        let (peak, average) = bandwidth(track);
        let (peak, average) = (
            peak.saturating_add(audio_peak),
            average.saturating_add(audio_average),
        );
        let codecs: Vec<&str> = std::iter::once(track.config().codecs.as_str())
            .chain(audio_codecs.iter().copied())
            .collect();
        let _ = write!(
            text,
            "#EXT-X-STREAM-INF:BANDWIDTH={peak},AVERAGE-BANDWIDTH={average},CODECS=\"{}\",RESOLUTION={width}x{height}",
            codecs.join(",")
        );
        if let Some((num, den)) = frame_rate {
            let _ = write!(
                text,
                ",FRAME-RATE={:.3}",
                f64::from(num) / f64::from(den.max(1))
            );
        }
        if !audio.is_empty() {
            let _ = write!(text, ",AUDIO=\"{AUDIO_GROUP}\"");
        }
        let _ = writeln!(text, "\n{}", uri(track));
    }
    text
}

/// Each media once: a rung that was shed goes on with another's objects, so who comes now chooses between those that are different. Whoever
/// plays the shed one asks for its own playlist, which is there as ever, and not for this one again.
fn distinct(video: Vec<&LiveTrack>) -> Vec<&LiveTrack> {
    let own = |track: &&LiveTrack| track.config().init.track == *track.name();
    match video.iter().any(own) {
        true => video.into_iter().filter(own).collect(),
        false => video,
    }
}

fn in_order(mut video: Vec<&LiveTrack>) -> Vec<&LiveTrack> {
    let lines = |track: &LiveTrack| match track.config().kind {
        TrackKind::Video { width, height, .. } => width.min(height),
        TrackKind::Audio { .. } => 0,
    };
    // By what the encoder was told: measured rates would turn rungs about while they settle.
    video.sort_by_key(|t| std::cmp::Reverse((lines(t), t.config().nominal_bps)));
    if let Some(first) = video.iter().position(|t| lines(t) <= 720) {
        video[..=first].rotate_right(1);
    }
    video
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use protocol::link::ToEdge;

    use super::*;
    use crate::live::source::Source;

    #[test]
    fn a_rung_that_goes_on_with_another_s_media_is_listed_no_more_and_still_there() {
        let mut source = Source::new();
        let messages = source.open();
        let (mut broadcast, _) = Broadcast::begin(&messages[0], 0).unwrap();
        for message in messages[1..].iter().chain(&source.segment(6, 2, false)) {
            let _ = broadcast.apply(message, 0).unwrap();
        }
        let listed = |text: &str| {
            let uris = text.lines().filter(|line| line.contains("/v-"));
            uris.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(listed(&render(&broadcast)).len(), 2);
        // The better rung is shed: from the next segment on it has the other's header and objects.
        let mut messages = source.discontinuity(0);
        let other = messages
            .iter()
            .find_map(|numbered| match &numbered.message {
                ToEdge::Track(track) if track.name.as_str() == "v-360p30" => Some(track.clone()),
                _ => None,
            });
        for numbered in &mut messages {
            if let (ToEdge::Track(track), Some(other)) = (&mut numbered.message, &other)
                && track.name.as_str() == "v-720p30"
            {
                let name = track.name.clone();
                *track = protocol::link::Track {
                    name,
                    ..other.clone()
                };
            }
        }
        for message in &messages {
            let _ = broadcast.apply(message, 0).unwrap();
        }
        let variants = listed(&render(&broadcast));
        assert_eq!(variants.len(), 1, "{variants:?}");
        assert!(variants[0].contains("v-360p30"), "{variants:?}");
        let shed = broadcast
            .tracks()
            .iter()
            .position(|track| track.name().as_str() == "v-720p30");
        let text = crate::playlist::render(
            &broadcast,
            crate::playlist::Text::Media {
                track: shed.unwrap(),
                skip: false,
            },
        );
        assert!(text.contains("#EXTINF"), "{text}");
    }
}
