//! A linter of HLS playlists, written from draft-pantos-hls-rfc8216bis-16 and Apple's published authoring and low-latency rules. It is no
//! replacement for Apple's `mediastreamvalidator`, which was not run.
//!
//! [`multivariant`], [`media`] and [`delta`] look at one text, [`update`] at two texts of the same playlist, [`renditions`] at the playlists
//! of one broadcast at one time. Each gives the findings as sentences; none means that no rule was broken.

use std::collections::{BTreeMap, BTreeSet};

/// What is wrong, one sentence each.
pub type Findings = Vec<String>;

/// Attributes of a tag.
type Attributes = BTreeMap<String, String>;

/// A part or segment as a playlist lists it.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Its address.
    pub uri: String,
    /// Seconds.
    pub duration: f64,
    /// `INDEPENDENT=YES`.
    pub independent: bool,
    /// `EXT-X-GAP` or `GAP=YES`.
    pub gap: bool,
}

/// A segment with what stands before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Media sequence number.
    pub msn: u64,
    /// The segment; `None` for the running one at the end.
    pub item: Option<Item>,
    /// Its parts, if they are listed.
    pub parts: Vec<Item>,
    /// Whether a discontinuity stands before it.
    pub discontinuity: bool,
    /// Program date time, as written.
    pub date: Option<String>,
    /// The map that holds for it.
    pub map: Option<String>,
}

/// A media playlist, read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Media {
    /// `EXT-X-VERSION`.
    pub version: u32,
    /// `EXT-X-TARGETDURATION`, seconds.
    pub target_duration: f64,
    /// `PART-TARGET`, seconds.
    pub part_target: Option<f64>,
    /// `EXT-X-SERVER-CONTROL`.
    pub control: BTreeMap<String, String>,
    /// `EXT-X-MEDIA-SEQUENCE`.
    pub media_sequence: u64,
    /// `EXT-X-DISCONTINUITY-SEQUENCE`.
    pub discontinuity_sequence: u64,
    /// `SKIPPED-SEGMENTS`.
    pub skipped: u64,
    /// The segments, the running one last if it has parts.
    pub segments: Vec<Segment>,
    /// Address of the part to come.
    pub hint: Option<String>,
    /// `EXT-X-RENDITION-REPORT`s.
    pub reports: Vec<BTreeMap<String, String>>,
    /// `EXT-X-ENDLIST`.
    pub ended: bool,
}

impl Media {
    /// Reads a media playlist. What cannot be read is a finding.
    pub fn read(text: &str) -> (Self, Findings) {
        let mut media = Self::default();
        let mut bad = Findings::new();
        let mut lines = text.lines();
        if lines.next() != Some("#EXTM3U") {
            bad.push("the first line is not #EXTM3U".to_owned());
        }
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut map: Option<String> = None;
        let mut pending = Pending::default();
        let mut msn = None;
        for line in lines {
            let (tag, value) = line.split_once(':').unwrap_or((line, ""));
            let once = matches!(
                tag,
                "#EXT-X-VERSION"
                    | "#EXT-X-TARGETDURATION"
                    | "#EXT-X-MEDIA-SEQUENCE"
                    | "#EXT-X-DISCONTINUITY-SEQUENCE"
                    | "#EXT-X-PART-INF"
                    | "#EXT-X-SERVER-CONTROL"
                    | "#EXT-X-SKIP"
                    | "#EXT-X-ENDLIST"
            );
            if once && !seen.insert(tag) {
                bad.push(format!("{tag} stands there twice"));
            }
            let mut whole = || -> u64 {
                value.parse().unwrap_or_else(|_| {
                    bad.push(format!("{tag} has no whole number but {value:?}"));
                    0
                })
            };
            match tag {
                "" => {}
                "#EXT-X-VERSION" => media.version = whole() as u32,
                "#EXT-X-TARGETDURATION" => media.target_duration = whole() as f64,
                "#EXT-X-MEDIA-SEQUENCE" => {
                    media.media_sequence = whole();
                    if msn.is_some() {
                        bad.push("EXT-X-MEDIA-SEQUENCE comes after a segment".to_owned());
                    }
                }
                "#EXT-X-DISCONTINUITY-SEQUENCE" => {
                    media.discontinuity_sequence = whole();
                    if msn.is_some() || pending.discontinuity {
                        bad.push(
                            "EXT-X-DISCONTINUITY-SEQUENCE comes after a segment or a discontinuity"
                                .to_owned(),
                        );
                    }
                }
                "#EXT-X-SERVER-CONTROL" => media.control = attributes(value, &mut bad),
                "#EXT-X-PART-INF" => {
                    media.part_target =
                        number(&attributes(value, &mut bad), "PART-TARGET", &mut bad);
                }
                "#EXT-X-SKIP" => {
                    media.skipped =
                        number(&attributes(value, &mut bad), "SKIPPED-SEGMENTS", &mut bad)
                            .unwrap_or(0.0) as u64;
                    if msn.is_some() {
                        bad.push("EXT-X-SKIP comes after a segment".to_owned());
                    }
                }
                "#EXT-X-MAP" => map = attributes(value, &mut bad).remove("URI"),
                "#EXT-X-DISCONTINUITY" => pending.discontinuity = true,
                "#EXT-X-PROGRAM-DATE-TIME" => {
                    if unix_ms(value).is_none() {
                        bad.push(format!("{value:?} is no date with milliseconds and zone"));
                    }
                    pending.date = Some(value.to_owned());
                }
                "#EXT-X-GAP" => pending.gap = true,
                "#EXT-X-PART" => {
                    let attributes = attributes(value, &mut bad);
                    pending.parts.push(Item {
                        uri: attributes.get("URI").cloned().unwrap_or_else(|| {
                            bad.push("an EXT-X-PART has no URI".to_owned());
                            String::new()
                        }),
                        duration: number(&attributes, "DURATION", &mut bad).unwrap_or(0.0),
                        independent: attributes.get("INDEPENDENT").is_some_and(|v| v == "YES"),
                        gap: attributes.get("GAP").is_some_and(|v| v == "YES"),
                    });
                }
                "#EXTINF" => {
                    let duration = value.split(',').next().and_then(|v| v.parse().ok());
                    if duration.is_none() || !value.contains(',') {
                        bad.push(format!("EXTINF has no duration and comma but {value:?}"));
                    }
                    pending.duration = Some(duration.unwrap_or(0.0));
                }
                "#EXT-X-PRELOAD-HINT" => {
                    let mut attributes = attributes(value, &mut bad);
                    if attributes.get("TYPE").is_some_and(|t| t == "PART") && media.hint.is_some() {
                        bad.push("there are two preload hints of one type".to_owned());
                    }
                    media.hint = attributes.remove("URI");
                }
                "#EXT-X-RENDITION-REPORT" => media.reports.push(attributes(value, &mut bad)),
                "#EXT-X-ENDLIST" => media.ended = true,
                "#EXT-X-INDEPENDENT-SEGMENTS" => {}
                _ if tag.starts_with("#EXT") => {
                    bad.push(format!("{tag} is not a tag of a media playlist"))
                }
                _ if tag.starts_with('#') => {}
                _ => {
                    let number =
                        msn.map_or(media.media_sequence + media.skipped, |last: u64| last + 1);
                    msn = Some(number);
                    if pending.duration.is_none() {
                        bad.push(format!("segment {number} has no EXTINF"));
                    }
                    let pending = std::mem::take(&mut pending);
                    media
                        .segments
                        .push(pending.segment(number, Some(line), map.clone()));
                }
            }
        }
        if !pending.parts.is_empty() {
            let number = msn.map_or(media.media_sequence + media.skipped, |last| last + 1);
            media.segments.push(pending.segment(number, None, map));
        }
        (media, bad)
    }

    fn complete(&self) -> impl Iterator<Item = (&Segment, &Item)> {
        self.segments
            .iter()
            .filter_map(|s| s.item.as_ref().map(|item| (s, item)))
    }

    /// Number and part of the end, as a rendition report has them: of the last part, or of the last segment where no parts are listed.
    pub fn end(&self) -> Option<(u64, Option<usize>)> {
        let with_parts = self.segments.iter().rev().find(|s| !s.parts.is_empty());
        let last = with_parts.or(self.segments.last())?;
        Some((last.msn, last.parts.len().checked_sub(1)))
    }
}

#[derive(Default)]
struct Pending {
    discontinuity: bool,
    date: Option<String>,
    gap: bool,
    parts: Vec<Item>,
    duration: Option<f64>,
}

impl Pending {
    fn segment(self, msn: u64, uri: Option<&str>, map: Option<String>) -> Segment {
        Segment {
            msn,
            item: uri.map(|uri| Item {
                uri: uri.to_owned(),
                duration: self.duration.unwrap_or(0.0),
                independent: true,
                gap: self.gap,
            }),
            parts: self.parts,
            discontinuity: self.discontinuity,
            date: self.date,
            map,
        }
    }
}

/// Reads an attribute list: commas inside quotes do not separate.
fn attributes(list: &str, bad: &mut Findings) -> Attributes {
    let mut found = Attributes::new();
    let mut rest = list;
    while !rest.is_empty() {
        let Some((name, value)) = rest.split_once('=') else {
            bad.push(format!("{rest:?} is no attribute"));
            break;
        };
        let end = match value.strip_prefix('"') {
            Some(quoted) => quoted.find('"').map_or(value.len(), |end| end + 2),
            None => value.find(',').unwrap_or(value.len()),
        };
        let (value, after) = value.split_at(end.min(value.len()));
        if found
            .insert(name.to_owned(), value.trim_matches('"').to_owned())
            .is_some()
        {
            bad.push(format!("the attribute {name} stands there twice"));
        }
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    found
}

fn number(attributes: &Attributes, name: &str, bad: &mut Findings) -> Option<f64> {
    let value = attributes.get(name).and_then(|v| v.parse::<f64>().ok());
    if value.is_none() {
        bad.push(format!("{name} is missing or is no number"));
    }
    value.filter(|v| v.is_finite())
}

/// `2026-01-31T12:00:00.000Z` as Unix milliseconds.
pub fn unix_ms(date: &str) -> Option<i64> {
    let bytes = date.as_bytes();
    if bytes.len() != 24 || !date.is_ascii() || !date.ends_with('Z') {
        return None;
    }
    let digits = |from: usize, to: usize| date.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let (hour, minute, second, ms) = (
        digits(11, 13)?,
        digits(14, 16)?,
        digits(17, 19)?,
        digits(20, 23)?,
    );
    let separators = [
        (4, b'-'),
        (7, b'-'),
        (10, b'T'),
        (13, b':'),
        (16, b':'),
        (19, b'.'),
    ];
    let sound = separators.iter().all(|(at, byte)| bytes[*at] == *byte)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !sound {
        return None;
    }
    let years = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (years.div_euclid(400), years.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100
        + day_of_year
        - 719_468;
    Some(days * 86_400_000 + hour * 3_600_000 + minute * 60_000 + second * 1_000 + ms)
}

/// How exact written seconds are.
const EPSILON: f64 = 0.000_02;

/// Checks a full media playlist.
pub fn media(text: &str) -> Findings {
    let (media, mut bad) = Media::read(text);
    if media.skipped > 0 {
        bad.push("EXT-X-SKIP stands in a playlist that was asked for whole".to_owned());
    }
    check(&media, &mut bad);
    bad
}

/// Checks a delta update against the full playlist of the same moment.
pub fn delta(full: &str, delta: &str) -> Findings {
    let (whole, mut bad) = Media::read(full);
    let (update, more) = Media::read(delta);
    bad.extend(more);
    if update.skipped == 0 {
        bad.push("EXT-X-SKIP is missing from a delta update".to_owned());
    }
    if update.version < 9 {
        bad.push("EXT-X-SKIP needs EXT-X-VERSION 9".to_owned());
    }
    check(&update, &mut bad);
    let boundary = update
        .control
        .get("CAN-SKIP-UNTIL")
        .and_then(|v| v.parse::<f64>().ok())
        .unwrap_or(0.0);
    let total: f64 = length(&whole);
    let mut before = 0.0;
    for (segment, item) in whole.complete().take(update.skipped as usize) {
        // What is skipped must lie wholly before the boundary.
        before += item.duration;
        if total - before + EPSILON < boundary - item.duration {
            bad.push(format!(
                "segment {} is skipped within the skip boundary",
                segment.msn
            ));
        }
    }
    let rest: Vec<&Segment> = whole
        .segments
        .iter()
        .skip(update.skipped as usize)
        .collect();
    let same = rest.len() == update.segments.len()
        && rest
            .iter()
            .zip(&update.segments)
            .all(|(a, b)| (a.msn, &a.item, &a.parts) == (b.msn, &b.item, &b.parts));
    if !same || whole.media_sequence != update.media_sequence || whole.hint != update.hint {
        bad.push("the delta update and the playlist differ in what is not skipped".to_owned());
    }
    bad
}

fn length(media: &Media) -> f64 {
    let running = media.segments.last().filter(|s| s.item.is_none());
    let parts: f64 = running.map_or(0.0, |s| s.parts.iter().map(|p| p.duration).sum());
    parts + media.complete().map(|(_, item)| item.duration).sum::<f64>()
}

fn check(media: &Media, bad: &mut Findings) {
    let target = media.target_duration;
    if !(1..=12).contains(&media.version) {
        bad.push("EXT-X-VERSION is missing or unknown".to_owned());
    }
    if media.version < 6 {
        bad.push("EXT-X-MAP in a playlist of media segments needs EXT-X-VERSION 6".to_owned());
    }
    if target <= 0.0 {
        bad.push("EXT-X-TARGETDURATION is missing".to_owned());
    }
    check_control(media, bad);
    let mut uris: BTreeSet<&str> = BTreeSet::new();
    let part_target = media.part_target.unwrap_or(0.0);
    let total = length(media);
    let mut after = total;
    let mut last_date: Option<(i64, f64)> = None;
    for (index, segment) in media.segments.iter().enumerate() {
        let msn = segment.msn;
        if segment.map.is_none() && !(media.skipped > 0 && index == 0) {
            bad.push(format!("segment {msn} has no EXT-X-MAP"));
        }
        let before = index.checked_sub(1).map(|i| &media.segments[i]);
        if before.is_some_and(|b| b.map != segment.map) && !segment.discontinuity {
            bad.push(format!(
                "segment {msn} changes its EXT-X-MAP without a discontinuity"
            ));
        }
        let parts_duration: f64 = segment.parts.iter().map(|p| p.duration).sum();
        if let Some(item) = &segment.item {
            if item.duration.round() > target {
                bad.push(format!(
                    "segment {msn} of {} s is longer than the target duration",
                    item.duration
                ));
            }
            if item.duration <= 0.0 {
                bad.push(format!("segment {msn} is empty"));
            }
            let exact = (item.duration - parts_duration).abs()
                <= EPSILON * (segment.parts.len() as f64 + 1.0);
            if !segment.parts.is_empty() && !exact {
                bad.push(format!(
                    "the parts of segment {msn} are {parts_duration} s, the segment {} s",
                    item.duration
                ));
            }
            if item.gap && segment.parts.iter().any(|p| !p.gap) {
                bad.push(format!("segment {msn} is a gap, its parts are not"));
            }
            after -= item.duration;
        } else {
            after -= parts_duration;
        }
        let running = segment.item.is_none();
        for (at, part) in segment.parts.iter().enumerate() {
            let last = at + 1 == segment.parts.len() && !running;
            if part.duration > part_target + EPSILON {
                bad.push(format!(
                    "part {at} of segment {msn} is longer than PART-TARGET"
                ));
            }
            // Before another part, and not before an independent one, a part has at least 85 % of its target.
            let before_independent = segment.parts.get(at + 1).is_some_and(|p| p.independent);
            if part.duration < 0.85 * part_target - EPSILON
                && !last
                && !before_independent
                && at + 1 < segment.parts.len()
            {
                bad.push(format!(
                    "part {at} of segment {msn} is shorter than 85 % of PART-TARGET"
                ));
            }
            if !uris.insert(&part.uri) {
                bad.push(format!("{} is listed twice", part.uri));
            }
        }
        if after > 3.0 * target + target && !segment.parts.is_empty() {
            bad.push(format!(
                "segment {msn} lists its parts more than three target durations before the end"
            ));
        }
        let near =
            after + segment.item.as_ref().map_or(0.0, |i| i.duration) < 3.0 * target - EPSILON;
        let gap = segment.item.as_ref().is_some_and(|i| i.gap);
        if media.part_target.is_some() && near && segment.parts.is_empty() && !gap && !media.ended {
            bad.push(format!(
                "segment {msn} is within three target durations of the end and lists no parts"
            ));
        }
        if let Some(item) = &segment.item
            && !uris.insert(&item.uri)
        {
            bad.push(format!("{} is listed twice", item.uri));
        }
        check_date(segment, &mut last_date, bad);
    }
    if media.segments.first().is_some_and(|s| s.date.is_none()) {
        bad.push("the first segment has no EXT-X-PROGRAM-DATE-TIME".to_owned());
    }
    match (&media.hint, media.ended) {
        (Some(_), true) => bad.push("an ended playlist has a preload hint".to_owned()),
        (Some(hint), false) if uris.contains(hint.as_str()) => {
            bad.push("the preload hint is a listed part".to_owned())
        }
        _ => {}
    }
    for report in &media.reports {
        // Whether it needs a LAST-PART, only the other playlist tells.
        for name in ["URI", "LAST-MSN"] {
            if !report.contains_key(name) {
                bad.push(format!("a rendition report has no {name}"));
            }
        }
        if report.get("URI").is_some_and(|uri| uri.contains("://")) {
            bad.push("a rendition report has an absolute URI".to_owned());
        }
    }
    if media.ended && media.segments.last().is_some_and(|s| s.item.is_none()) {
        bad.push("an ended playlist ends with parts that belong to no segment".to_owned());
    }
}

fn check_control(media: &Media, bad: &mut Findings) {
    let get = |name: &str| media.control.get(name).and_then(|v| v.parse::<f64>().ok());
    let target = media.target_duration;
    let Some(part_target) = media.part_target else {
        if media.segments.iter().any(|s| !s.parts.is_empty()) {
            bad.push("there are parts without EXT-X-PART-INF".to_owned());
        }
        return;
    };
    if media
        .control
        .get("CAN-BLOCK-RELOAD")
        .is_none_or(|v| v != "YES")
    {
        bad.push("a playlist with parts has no CAN-BLOCK-RELOAD=YES".to_owned());
    }
    match get("PART-HOLD-BACK") {
        None => bad.push("a playlist with parts has no PART-HOLD-BACK".to_owned()),
        Some(hold) if hold + EPSILON < 3.0 * part_target => {
            bad.push(format!(
                "PART-HOLD-BACK {hold} is less than three times PART-TARGET {part_target}"
            ));
        }
        _ => {}
    }
    if get("HOLD-BACK").is_some_and(|hold| hold < 3.0 * target) {
        bad.push("HOLD-BACK is less than three target durations".to_owned());
    }
    if get("CAN-SKIP-UNTIL").is_some_and(|until| until < 6.0 * target) {
        bad.push("CAN-SKIP-UNTIL is less than six target durations".to_owned());
    }
    if media.skipped > 0 && get("CAN-SKIP-UNTIL").is_none() {
        bad.push("EXT-X-SKIP without CAN-SKIP-UNTIL".to_owned());
    }
    if part_target <= 0.0 || part_target > target {
        bad.push(format!(
            "PART-TARGET {part_target} is not within the target duration"
        ));
    }
}

fn check_date(segment: &Segment, last: &mut Option<(i64, f64)>, bad: &mut Findings) {
    let duration = segment.item.as_ref().map_or(0.0, |i| i.duration);
    let date = segment.date.as_deref().and_then(unix_ms);
    match (date, *last) {
        (Some(date), Some((before, length))) => {
            let expected = before + (length * 1_000.0).round() as i64;
            if segment.discontinuity {
                if date < before {
                    bad.push(format!(
                        "the date of segment {} goes back behind a discontinuity",
                        segment.msn
                    ));
                }
            } else if (date - expected).abs() > 100 {
                bad.push(format!(
                    "the date of segment {} is {} ms off the sum of durations",
                    segment.msn,
                    date - expected
                ));
            }
            *last = Some((date, duration));
        }
        (Some(date), None) => *last = Some((date, duration)),
        (None, Some((before, length))) => {
            *last = Some((before + (length * 1_000.0).round() as i64, duration))
        }
        (None, None) => {}
    }
    if segment.discontinuity && segment.date.is_none() {
        bad.push(format!(
            "segment {} behind a discontinuity has no date",
            segment.msn
        ));
    }
}

/// Checks that a playlist became another as playlists may: at its ends only.
pub fn update(before: &str, after: &str) -> Findings {
    let ((old, mut bad), (new, more)) = (Media::read(before), Media::read(after));
    bad.extend(more);
    if new.target_duration != old.target_duration {
        bad.push("the target duration changed".to_owned());
    }
    if new.media_sequence < old.media_sequence {
        bad.push("the media sequence number went back".to_owned());
    }
    if new.discontinuity_sequence < old.discontinuity_sequence {
        bad.push("the discontinuity sequence number went back".to_owned());
    }
    if old.ended && before != after {
        bad.push("an ended playlist changed".to_owned());
    }
    let removed = new.media_sequence.saturating_sub(old.media_sequence);
    let discontinuities =
        (old.segments.iter()).filter(|s| s.msn < old.media_sequence + removed && s.discontinuity);
    let expected = old.discontinuity_sequence + discontinuities.count() as u64;
    if removed <= old.segments.len() as u64 && new.discontinuity_sequence != expected {
        bad.push(format!(
            "the discontinuity sequence number is {}, but {expected} by what was removed",
            new.discontinuity_sequence
        ));
    }
    for segment in &old.segments {
        let Some(now) = new.segments.iter().find(|s| s.msn == segment.msn) else {
            if segment.msn >= new.media_sequence + new.skipped && !new.ended {
                bad.push(format!(
                    "segment {} was removed from the middle or the end",
                    segment.msn
                ));
            }
            continue;
        };
        if segment.item.is_some() && segment.item != now.item {
            bad.push(format!("segment {} changed", segment.msn));
        }
        if segment.discontinuity != now.discontinuity {
            bad.push(format!(
                "the discontinuity of segment {} changed",
                segment.msn
            ));
        }
        let lost = now.item.as_ref().is_some_and(|i| i.gap);
        if !lost
            && !now.parts.is_empty()
            && !now.parts.starts_with(&segment.parts)
            && !segment.parts.is_empty()
        {
            bad.push(format!("the parts of segment {} changed", segment.msn));
        }
    }
    bad
}

/// Checks the playlists of one broadcast, taken at one moment: windows and discontinuities agree, reports name the others' ends.
pub fn renditions(playlists: &BTreeMap<String, String>) -> Findings {
    let mut bad = Findings::new();
    let read: BTreeMap<&String, Media> = playlists
        .iter()
        .map(|(name, text)| (name, Media::read(text).0))
        .collect();
    let Some((_, first)) = read.first_key_value() else {
        return bad;
    };
    for (name, media) in &read {
        if media.media_sequence != first.media_sequence {
            bad.push(format!("{name} begins with another media sequence number"));
        }
        if media.discontinuity_sequence != first.discontinuity_sequence {
            bad.push(format!("{name} has another discontinuity sequence number"));
        }
        if media.target_duration != first.target_duration {
            bad.push(format!("{name} has another target duration"));
        }
        if media.control.get("PART-HOLD-BACK") != first.control.get("PART-HOLD-BACK") {
            bad.push(format!("{name} has another PART-HOLD-BACK"));
        }
        for segment in &media.segments {
            let other = first.segments.iter().find(|s| s.msn == segment.msn);
            if other.is_some_and(|o| o.discontinuity != segment.discontinuity) {
                bad.push(format!(
                    "segment {} of {name} disagrees about a discontinuity",
                    segment.msn
                ));
            }
            let starts = (
                other.and_then(|o| o.date.as_deref()?.parse_unix()),
                segment.date.as_deref().and_then(unix_ms),
            );
            if let (Some(a), Some(b)) = starts
                && (a - b).abs() > 250
            {
                bad.push(format!(
                    "segment {} of {name} begins {} ms from the others",
                    segment.msn,
                    b - a
                ));
            }
        }
        if media.ended {
            continue;
        }
        for (other, end) in read.iter().filter(|(other, _)| *other != name) {
            let uri = format!("../{other}/index.m3u8");
            let report = media.reports.iter().find(|r| r.get("URI") == Some(&uri));
            let Some(report) = report else {
                bad.push(format!("{name} has no rendition report of {other}"));
                continue;
            };
            let last_msn = report.get("LAST-MSN").and_then(|v| v.parse().ok());
            let last_part = report.get("LAST-PART").and_then(|v| v.parse().ok());
            if last_msn.map(|msn| (msn, last_part)) != end.end() {
                bad.push(format!("{name} reports another end of {other} than it has"));
            }
        }
    }
    bad
}

trait ParseUnix {
    fn parse_unix(&self) -> Option<i64>;
}

impl ParseUnix for str {
    fn parse_unix(&self) -> Option<i64> {
        unix_ms(self)
    }
}

/// Checks a multivariant playlist.
pub fn multivariant(text: &str) -> Findings {
    let mut bad = Findings::new();
    let mut lines = text.lines().peekable();
    if lines.next() != Some("#EXTM3U") {
        bad.push("the first line is not #EXTM3U".to_owned());
    }
    if !text.contains("\n#EXT-X-INDEPENDENT-SEGMENTS\n") {
        bad.push("EXT-X-INDEPENDENT-SEGMENTS is missing".to_owned());
    }
    let mut groups: BTreeSet<String> = BTreeSet::new();
    let mut used: BTreeSet<String> = BTreeSet::new();
    let mut uris: BTreeSet<String> = BTreeSet::new();
    let mut variants = 0;
    while let Some(line) = lines.next() {
        let (tag, value) = line.split_once(':').unwrap_or((line, ""));
        match tag {
            "#EXT-X-MEDIA" => {
                let attributes = attributes(value, &mut bad);
                for name in ["TYPE", "GROUP-ID", "NAME"] {
                    if !attributes.contains_key(name) {
                        bad.push(format!("an EXT-X-MEDIA has no {name}"));
                    }
                }
                if attributes.get("DEFAULT").is_some_and(|v| v == "YES")
                    && attributes.get("AUTOSELECT").is_some_and(|v| v == "NO")
                {
                    bad.push("a default rendition is not selected by itself".to_owned());
                }
                if attributes.get("TYPE").is_some_and(|v| v == "AUDIO")
                    && !attributes.contains_key("CHANNELS")
                {
                    bad.push("an audio rendition has no CHANNELS".to_owned());
                }
                groups.extend(attributes.get("GROUP-ID").cloned());
            }
            "#EXT-X-STREAM-INF" => {
                variants += 1;
                let attributes = attributes(value, &mut bad);
                let peak = number(&attributes, "BANDWIDTH", &mut bad).unwrap_or(0.0);
                let average = number(&attributes, "AVERAGE-BANDWIDTH", &mut bad).unwrap_or(0.0);
                if average > peak || average <= 0.0 {
                    bad.push(format!(
                        "AVERAGE-BANDWIDTH {average} is not within BANDWIDTH {peak}"
                    ));
                }
                let codecs = attributes.get("CODECS").cloned().unwrap_or_default();
                if codecs.is_empty() {
                    bad.push("a variant has no CODECS".to_owned());
                }
                let video = ["avc1", "avc3", "hvc1", "hev1", "av01"]
                    .iter()
                    .any(|c| codecs.contains(c));
                if video && !attributes.contains_key("RESOLUTION") {
                    bad.push("a video variant has no RESOLUTION".to_owned());
                }
                used.extend(attributes.get("AUDIO").cloned());
                match lines.peek() {
                    Some(uri) if !uri.starts_with('#') && !uri.is_empty() => {
                        if uri.contains("://") || uri.starts_with('/') {
                            bad.push(format!("{uri} is not relative"));
                        }
                        if !uris.insert((*uri).to_owned()) {
                            bad.push(format!("{uri} stands there twice"));
                        }
                    }
                    _ => bad.push("an EXT-X-STREAM-INF has no URI behind it".to_owned()),
                }
            }
            "#EXTINF" | "#EXT-X-TARGETDURATION" | "#EXT-X-PART" => {
                bad.push(format!("{tag} is not a tag of a multivariant playlist"));
            }
            _ => {}
        }
    }
    if variants == 0 {
        bad.push("there is no variant".to_owned());
    }
    for group in used.difference(&groups) {
        bad.push(format!("the group {group} is not there"));
    }
    bad
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "#EXTM3U
#EXT-X-VERSION:9
#EXT-X-TARGETDURATION:4
#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=3.00000,HOLD-BACK=12,CAN-SKIP-UNTIL=24
#EXT-X-PART-INF:PART-TARGET=1.00000
#EXT-X-MEDIA-SEQUENCE:7
#EXT-X-DISCONTINUITY-SEQUENCE:1
#EXT-X-MAP:URI=\"/media/init\"
#EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:00.000Z
#EXT-X-PART:DURATION=1.00000,URI=\"/media/7.0\",INDEPENDENT=YES
#EXT-X-PART:DURATION=1.00000,URI=\"/media/7.1\"
#EXTINF:2.00000,
/media/7
#EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:02.000Z
#EXT-X-PART:DURATION=1.00000,URI=\"/media/8.0\",INDEPENDENT=YES
#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"/media/8.1\"
#EXT-X-RENDITION-REPORT:URI=\"../v-480p30/index.m3u8\",LAST-MSN=8,LAST-PART=0
";

    #[test]
    fn a_good_playlist_has_no_findings() {
        assert_eq!(media(GOOD), Findings::new());
        assert_eq!(update(GOOD, GOOD), Findings::new());
    }

    #[test]
    fn every_canary_is_found() {
        for (from, to) in [
            ("#EXTM3U\n", ""),
            ("#EXT-X-VERSION:9\n", ""),
            ("#EXT-X-TARGETDURATION:4\n", ""),
            ("#EXT-X-TARGETDURATION:4", "#EXT-X-TARGETDURATION:1"),
            ("#EXT-X-TARGETDURATION:4", "#EXT-X-TARGETDURATION:4.5"),
            ("CAN-BLOCK-RELOAD=YES,", ""),
            ("PART-HOLD-BACK=3.00000", "PART-HOLD-BACK=2.90000"),
            ("PART-HOLD-BACK=3.00000,", ""),
            ("HOLD-BACK=12", "HOLD-BACK=11"),
            ("CAN-SKIP-UNTIL=24", "CAN-SKIP-UNTIL=20"),
            ("PART-TARGET=1.00000", "PART-TARGET=0.90000"),
            ("#EXT-X-PART-INF:PART-TARGET=1.00000\n", ""),
            ("#EXT-X-MAP:URI=\"/media/init\"\n", ""),
            (
                "DURATION=1.00000,URI=\"/media/7.0\"",
                "DURATION=0.50000,URI=\"/media/7.0\"",
            ),
            ("/media/7.1", "/media/7.0"),
            ("#EXTINF:2.00000,", "#EXTINF:2.10000,"),
            ("#EXTINF:2.00000,\n", ""),
            ("2026-01-01T00:00:02.000Z", "2026-01-01T00:00:02.500Z"),
            ("2026-01-01T00:00:02.000Z", "2026-01-01 00:00:02Z"),
            ("#EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:00.000Z\n", ""),
            (
                "TYPE=PART,URI=\"/media/8.1\"",
                "TYPE=PART,URI=\"/media/8.0\"",
            ),
            (",LAST-MSN=8", ""),
            ("../v-480p30", "https://elsewhere.example/v-480p30"),
            ("#EXT-X-PRELOAD-HINT", "#EXT-X-UNHEARD-OF"),
            (
                "#EXT-X-RENDITION-REPORT",
                "#EXT-X-ENDLIST\n#EXT-X-RENDITION-REPORT",
            ),
        ] {
            assert!(GOOD.contains(from), "{from:?}");
            let canary = GOOD.replacen(from, to, 1);
            assert!(
                !media(&canary).is_empty(),
                "{from:?} -> {to:?} was not found"
            );
        }
    }

    #[test]
    fn a_report_names_the_last_part_of_the_other() {
        let other = GOOD.replace("v-480p30", "v-720p30");
        let of = |this: String| {
            renditions(&BTreeMap::from([
                ("v-720p30".to_owned(), this),
                ("v-480p30".to_owned(), other.clone()),
            ]))
        };
        assert_eq!(of(GOOD.to_owned()), Findings::new());
        for wrong in ["", ",LAST-PART=1"] {
            let canary = GOOD.replacen(",LAST-PART=0", wrong, 1);
            assert!(!of(canary).is_empty(), "{wrong:?} was not found");
        }
    }

    #[test]
    fn every_forbidden_change_is_found() {
        for (from, to) in [
            ("MEDIA-SEQUENCE:7", "MEDIA-SEQUENCE:6"),
            ("DISCONTINUITY-SEQUENCE:1", "DISCONTINUITY-SEQUENCE:0"),
            ("DISCONTINUITY-SEQUENCE:1", "DISCONTINUITY-SEQUENCE:2"),
            ("/media/7\n", "/media/x\n"),
            ("/media/7.1", "/media/7.x"),
            ("#EXT-X-TARGETDURATION:4", "#EXT-X-TARGETDURATION:5"),
            (
                "#EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:02.000Z",
                "#EXT-X-DISCONTINUITY",
            ),
        ] {
            let changed = GOOD.replacen(from, to, 1);
            assert!(
                !update(GOOD, &changed).is_empty(),
                "{from:?} -> {to:?} was not found"
            );
        }
    }

    const MULTIVARIANT: &str = "#EXTM3U
#EXT-X-VERSION:9
#EXT-X-INDEPENDENT-SEGMENTS
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"audio\",NAME=\"Audio\",DEFAULT=YES,AUTOSELECT=YES,CHANNELS=\"2\",URI=\"b/-/a-aac/index.m3u8\"
#EXT-X-STREAM-INF:BANDWIDTH=200,AVERAGE-BANDWIDTH=100,CODECS=\"avc1.64001f,mp4a.40.2\",RESOLUTION=1280x720,FRAME-RATE=30.000,AUDIO=\"audio\"
b/-/v-720p30/index.m3u8
";

    #[test]
    fn multivariant_canaries_are_found() {
        assert_eq!(multivariant(MULTIVARIANT), Findings::new());
        for (from, to) in [
            ("#EXTM3U\n", ""),
            ("#EXT-X-INDEPENDENT-SEGMENTS\n", ""),
            ("BANDWIDTH=200,", ""),
            (",AVERAGE-BANDWIDTH=100", ""),
            ("AVERAGE-BANDWIDTH=100", "AVERAGE-BANDWIDTH=300"),
            ("CODECS=\"avc1.64001f,mp4a.40.2\",", ""),
            ("RESOLUTION=1280x720,", ""),
            ("AUDIO=\"audio\"", "AUDIO=\"other\""),
            (",CHANNELS=\"2\"", ""),
            ("\nb/-/v-720p30/index.m3u8", ""),
            ("\nb/-/v-720p30", "\nhttps://elsewhere.example/v-720p30"),
        ] {
            assert!(MULTIVARIANT.contains(from), "{from:?}");
            let canary = MULTIVARIANT.replacen(from, to, 1);
            assert!(
                !multivariant(&canary).is_empty(),
                "{from:?} -> {to:?} was not found"
            );
        }
    }
}
