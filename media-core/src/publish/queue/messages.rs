//! What the edge is told, in the order that it may rely on.

use super::*;

#[derive(Debug, Clone)]
pub(super) enum Message {
    Track(Box<TrackMessage>),
    Part {
        next: u64,
        msn: u64,
        part: u32,
        start: i64,
        duration: u64,
        independent: bool,
        size: u64,
    },
    Segment {
        msn: u64,
        start: i64,
        duration: u64,
        size: u64,
        timescale: u32,
    },
}

#[derive(Debug, Clone)]
pub(super) struct TrackMessage {
    pub(super) announcement: Announced,
    pub(super) from_msn: u64,
    pub(super) first_part: u64,
    pub(super) first_time: bool,
}

#[derive(Debug)]
pub(super) struct Event {
    /// The object that must be readable; `None` for a segment that is lost.
    pub(super) object: Option<u64>,
    pub(super) message: Message,
}

impl Queue {
    /// The next message for the edge, if one can be given.
    pub fn next_message(&mut self, now: Duration) -> Option<ToEdge> {
        if !self.opened_given {
            self.opened_given = true;
            return Some(ToEdge::Opened(self.opened.clone()));
        }
        let mut ready = None;
        for (name, state) in &self.tracks {
            let Some((at, event)) = state.events.first_key_value() else {
                continue;
            };
            let is_track = matches!(event.message, Message::Track(_));
            let readable = event.object.is_none_or(|id| {
                self.objects
                    .get(&id)
                    .is_some_and(|object| object.state == State::Done)
            });
            if readable && at.0 == state.open_msn && (is_track || self.unannounced == 0) {
                // The earliest segment first, so that no track runs far ahead of the others in the link's order.
                if ready.as_ref().is_none_or(|(best, _)| *at < *best) {
                    ready = Some((*at, name.clone()));
                }
            }
        }
        let Some((at, name)) = ready else {
            return self.closing_message(now);
        };
        if let Some(&msn) = self.discontinuities.first()
            && msn <= at.0
        {
            self.discontinuities.remove(&msn);
            return Some(ToEdge::Discontinuity { msn });
        }
        let event = self.tracks.get_mut(&name)?.events.remove(&at)?;
        self.give(name, event, now)
    }

    pub(super) fn drop_event(&mut self, event: Event) {
        match &event.message {
            Message::Part { next, .. } => self.release(*next),
            Message::Track(track) => self.release(track.first_part),
            Message::Segment { .. } => {}
        }
        if let Some(object) = event.object {
            self.release(object);
        }
    }

    pub(super) fn event(
        &mut self,
        track: &TrackName,
        msn: u64,
        object: Option<u64>,
        message: Message,
    ) {
        if let Some(id) = object {
            self.hold(id);
        }
        if let Message::Part { next, .. } = &message {
            self.hold(*next);
        }
        if let Message::Track(track) = &message {
            self.hold(track.first_part);
        }
        self.order += 1;
        if let Some(state) = self.tracks.get_mut(track) {
            state
                .events
                .insert((msn, self.order), Event { object, message });
        }
    }

    /// The message that `listed` has, from a segment on, the header and parts of `of`.
    pub(super) fn announce(
        &mut self,
        listed: &TrackName,
        of: &TrackName,
        from_msn: u64,
        first_time: bool,
    ) {
        let first_part = match self.segments.get(&SegmentId {
            msn: from_msn,
            track: of.clone(),
        }) {
            Some(segment) if !segment.chunks.is_empty() => segment.chunks[0].object,
            _ => self.expect(of, from_msn, 0),
        };
        let Some(state) = self.tracks.get(of) else {
            return;
        };
        let (init, announcement) = (state.init, state.announced.clone());
        self.event(
            listed,
            from_msn,
            Some(init),
            Message::Track(Box::new(TrackMessage {
                announcement,
                from_msn,
                first_part,
                first_time,
            })),
        );
    }

    pub(super) fn announce_chunk(&mut self, listed: &TrackName, id: &SegmentId, index: usize) {
        let Some(chunk) = self
            .segments
            .get(id)
            .and_then(|segment| segment.chunks.get(index))
        else {
            return;
        };
        let message = Message::Part {
            next: chunk.next,
            msn: id.msn,
            part: index as u32,
            start: chunk.start,
            duration: chunk.duration,
            independent: chunk.independent,
            size: chunk.len as u64,
        };
        let object = chunk.object;
        self.event(listed, id.msn, Some(object), message);
    }

    /// The last part of a segment did not know that it was: where its message was not given yet, it names the right next part.
    pub(super) fn correct_hint(
        &mut self,
        track: &TrackName,
        msn: u64,
        wrong: (u64, u32),
        right: u64,
    ) {
        let Some(wrong) = self
            .tracks
            .get(track)
            .and_then(|state| state.expected.get(&wrong))
            .copied()
        else {
            return;
        };
        let listed = std::iter::once(track.clone()).chain(self.followers(track, msn));
        let mut corrected = 0;
        for track in listed.collect::<Vec<_>>() {
            if let Some(state) = self.tracks.get_mut(&track) {
                for event in state.events.range_mut((msn, 0)..(msn + 1, 0)).map(|e| e.1) {
                    if let Message::Part { next, .. } = &mut event.message
                        && *next == wrong
                    {
                        *next = right;
                        corrected += 1;
                    }
                }
            }
        }
        for _ in 0..corrected {
            self.hold(right);
            self.release(wrong);
        }
    }

    pub(super) fn give(&mut self, track: TrackName, event: Event, now: Duration) -> Option<ToEdge> {
        let key = event.object.and_then(|id| self.key_of(id));
        let message = match event.message {
            Message::Track(message) => {
                if message.first_time {
                    self.unannounced = self.unannounced.saturating_sub(1);
                }
                let first_part = self.key_of(message.first_part);
                self.release(message.first_part);
                let announced = message.announcement;
                ToEdge::Track(Track {
                    name: track,
                    kind: announced.kind,
                    codecs: announced.codecs,
                    timescale: announced.timescale,
                    part_target: announced.part_target,
                    nominal_bps: announced.nominal_bps,
                    init: key?,
                    from_msn: message.from_msn,
                    first_part: first_part?,
                })
            }
            Message::Part {
                next,
                msn,
                part,
                start,
                duration,
                independent,
                size,
            } => {
                let next_key = self.key_of(next);
                self.release(next);
                if let Some(state) = self.tracks.get_mut(&track) {
                    state.open_begun = true;
                }
                ToEdge::Part(Part {
                    track,
                    msn,
                    part,
                    key: key?,
                    start,
                    duration,
                    independent,
                    size,
                    next: next_key?,
                })
            }
            Message::Segment {
                msn,
                start,
                duration,
                size,
                timescale,
            } => {
                self.segment_given(&track, msn, duration, timescale, now);
                ToEdge::Segment(Segment {
                    track,
                    msn,
                    key,
                    start,
                    duration,
                    size,
                })
            }
        };
        if let Some(id) = event.object {
            self.release(id);
        }
        Some(message)
    }

    /// The playlist of a track moved on by one segment: what left it is due for deletion two windows later.
    pub(super) fn segment_given(
        &mut self,
        track: &TrackName,
        msn: u64,
        duration: u64,
        timescale: u32,
        now: Duration,
    ) {
        let window = self.window();
        let due = now + self.two_windows();
        let Some(state) = self.tracks.get_mut(track) else {
            return;
        };
        state.open_msn = msn + 1;
        state.open_begun = false;
        state.announced_time += Duration::from_secs_f64(duration as f64 / f64::from(timescale));
        let end = state.announced_time;
        // Of this segment and, for a track that went on with another's objects, of earlier ones that were never its own to announce.
        let later = state.written.split_off(&(msn + 1));
        let written = std::mem::replace(&mut state.written, later);
        if !written.is_empty() {
            let mut listed = Listed {
                end,
                parts: Vec::new(),
                others: Vec::new(),
            };
            for (key, is_part) in written.into_values().flatten() {
                match is_part {
                    true => listed.parts.push(key),
                    false => listed.others.push(key),
                }
            }
            state.listed.push_back(listed);
        }
        let mut gone = Vec::new();
        // A playlist lists a segment until the ones behind it fill the window by themselves; one target duration is for rounding.
        let margin = Duration::from_secs(u64::from(TARGET_DURATION_S));
        let parts_for = margin * 4;
        for listed in &mut state.listed {
            if end - listed.end >= parts_for {
                gone.append(&mut listed.parts);
            }
        }
        while let Some(first) = state.listed.front()
            && end - first.end >= window + margin
        {
            if let Some(first) = state.listed.pop_front() {
                gone.extend(first.parts);
                gone.extend(first.others);
            }
        }
        for key in gone {
            self.delete_at(due, key);
        }
    }

    pub(super) fn closing_message(&mut self, now: Duration) -> Option<ToEdge> {
        let reason = self.closed?;
        let waiting = self.tracks.values().any(|state| !state.events.is_empty());
        if self.closed_given || waiting {
            return None;
        }
        self.closed_given = true;
        // The last playlist stays for one window.
        let due = now + self.window() * 3;
        let mut left = Vec::new();
        for state in self.tracks.values_mut() {
            for listed in state.listed.drain(..) {
                left.extend(listed.parts);
                left.extend(listed.others);
            }
            for (key, _) in std::mem::take(&mut state.written).into_values().flatten() {
                left.push(key);
            }
            left.extend(
                self.objects
                    .get(&state.init)
                    .filter(|init| init.state == State::Done)
                    .map(|init| init.key.clone()),
            );
        }
        for key in left {
            self.delete_at(due, key);
        }
        Some(ToEdge::Closed { reason })
    }
}
