//! From the ingest to the decoder's thread. Pushing never waits: past its bounds the queue drops to the next IDR.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use protocol::names::TrackName;

use crate::media::{Boundary, VIDEO_TIMESCALE, VideoConfig, VideoPacket};

/// Media that may wait. Past it the viewers of the rungs are better served by a gap than by ever more delay.
const MOST_TICKS: i64 = 6 * VIDEO_TIMESCALE as i64;

/// Packets that may wait: bounds a source whose times do not advance.
const MOST_PACKETS: usize = 2_000;

/// Bytes of packets that may wait: six seconds of 80 Mbit/s, over what ingest lets in.
const MOST_BYTES: usize = 64 << 20;

/// Everything but packets that may wait. A decoder that works takes them with the packets; one that took nothing for hours of segments is
/// given up: the queue closes, and the rungs end where they are.
const MOST_COMMANDS: usize = 8_192;

/// A pause between two packets counts for this much at most, so that an encoder that was away does not look like one that is not kept up with.
const LONGEST_STEP: i64 = VIDEO_TIMESCALE as i64 / 2;

/// Media below which a caller that reads a file may go on pushing.
const ROOM_TICKS: i64 = VIDEO_TIMESCALE as i64 / 2;

#[derive(Debug)]
pub(super) enum Input {
    Packet(VideoPacket),
    /// A segment begins at the packet that follows.
    At(Boundary),
    After {
        msn: u64,
        after_pts: i64,
        discontinuity: bool,
    },
    AddSource {
        from_msn: u64,
        bitrate_bps: u32,
    },
    End {
        rungs: Vec<TrackName>,
        from_msn: u64,
    },
    Config(VideoConfig),
    /// The next frame of this rung is to be an IDR, which begins no segment.
    KeyFrame(TrackName),
    /// Packets were dropped here.
    Dropped(usize),
    Drain,
}

#[derive(Debug, Default)]
struct State {
    /// With the ticks that each packet stands for.
    items: VecDeque<(Input, i64)>,
    packets: usize,
    bytes: usize,
    ticks: i64,
    newest_dts: Option<i64>,
    /// Packets are dropped until an IDR comes.
    awaits_idr: bool,
    closed: bool,
    /// For the source's own bit rate: bytes and ticks since the start.
    total: (u64, i64),
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing here panics with the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a packet, and the boundary that it begins before it; drops to an IDR when over a bound.
    pub(super) fn push(&self, packet: VideoPacket, boundary: Option<Boundary>) {
        let mut state = self.lock();
        let step = state
            .newest_dts
            .map_or(0, |newest| packet.dts.saturating_sub(newest))
            .clamp(0, LONGEST_STEP);
        state.newest_dts = Some(packet.dts);
        state.total.0 += packet.data.len() as u64;
        state.total.1 += step;
        if let Some(boundary) = boundary {
            state.command(Input::At(boundary));
        }
        if state.closed {
            return;
        }
        if state.awaits_idr && !packet.idr {
            state.count_dropped(1);
        } else {
            state.awaits_idr = false;
            state.packets += 1;
            state.bytes += packet.data.len();
            state.ticks += step;
            state.items.push_back((Input::Packet(packet), step));
            let full = state.ticks > MOST_TICKS
                || state.packets > MOST_PACKETS
                || state.bytes > MOST_BYTES;
            if full {
                state.drop_to_idr();
            }
        }
        drop(state);
        self.filled.notify_one();
    }

    /// Adds anything but a packet.
    pub(super) fn command(&self, input: Input) {
        self.lock().command(input);
        self.filled.notify_one();
    }

    /// The next thing to do, with how far it lies behind the newest packet; waits for it. `None` when the queue was closed and is empty.
    pub(super) fn pop(&self) -> Option<(Input, Duration)> {
        let mut state = self.lock();
        loop {
            if let Some((input, ticks)) = state.items.pop_front() {
                if let Input::Packet(packet) = &input {
                    state.taken(packet, ticks);
                }
                let lag = media(state.ticks);
                let room = state.ticks <= ROOM_TICKS;
                drop(state);
                if room {
                    self.emptied.notify_all();
                }
                return Some((input, lag));
            }
            if state.closed {
                return None;
            }
            state = self
                .filled
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nothing is added any more; what is in it is still worked off, or not.
    pub(super) fn close(&self, discard: bool) {
        let mut state = self.lock();
        state.closed = true;
        if discard {
            state.discard();
        }
        drop(state);
        self.filled.notify_all();
        self.emptied.notify_all();
    }

    /// Media that waits.
    pub(super) fn backlog(&self) -> Duration {
        media(self.lock().ticks)
    }

    /// Waits until little waits; for callers that are faster than real time and may wait.
    pub(super) fn wait_for_room(&self) {
        let mut state = self.lock();
        while state.ticks > ROOM_TICKS && !state.closed {
            state = self
                .emptied
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Bits a second of the source so far; `None` before there is a second of it.
    pub(super) fn source_bps(&self) -> Option<u32> {
        let (bytes, ticks) = self.lock().total;
        let seconds = ticks as f64 / f64::from(VIDEO_TIMESCALE);
        (seconds >= 1.0).then(|| (bytes as f64 * 8.0 / seconds) as u32)
    }
}

fn media(ticks: i64) -> Duration {
    Duration::from_micros(ticks.max(0).unsigned_abs() * 1_000_000 / u64::from(VIDEO_TIMESCALE))
}

impl State {
    fn command(&mut self, input: Input) {
        if self.closed {
            return;
        }
        self.items.push_back((input, 0));
        if self.items.len().saturating_sub(self.packets) > MOST_COMMANDS {
            tracing::error!("the decoder has stopped working: it is given up");
            self.closed = true;
            self.discard();
        }
    }

    fn discard(&mut self) {
        self.items.clear();
        self.packets = 0;
        self.bytes = 0;
        self.ticks = 0;
    }

    /// A packet has left the queue.
    fn taken(&mut self, packet: &VideoPacket, ticks: i64) {
        self.packets -= 1;
        self.bytes -= packet.data.len();
        self.ticks -= ticks;
    }

    fn count_dropped(&mut self, count: usize) {
        match self.items.back_mut() {
            Some((Input::Dropped(dropped), _)) => *dropped += count,
            // Two of them never stand side by side, so there are no more than commands.
            _ => self.items.push_back((Input::Dropped(count), 0)),
        }
    }

    /// Drops the packets before the newest IDR that waits, or all of them where none does. Everything else stays, in its order: a segment that began
    /// among what was dropped begins at the next frame that there is.
    fn drop_to_idr(&mut self) {
        let is_idr = |item: &(Input, i64)| matches!(&item.0, Input::Packet(packet) if packet.idr);
        let oldest = self
            .items
            .iter()
            .position(|item| matches!(item.0, Input::Packet(_)));
        let keep = self
            .items
            .iter()
            .rposition(is_idr)
            .filter(|idr| Some(*idr) != oldest);
        self.awaits_idr = keep.is_none();
        let mut dropped = 0;
        let items = std::mem::take(&mut self.items);
        let mut marked = false;
        for (index, (input, ticks)) in items.into_iter().enumerate() {
            if let Input::Packet(packet) = &input
                && keep.is_none_or(|keep| index < keep)
            {
                dropped += 1;
                self.taken(packet, ticks);
                continue;
            }
            if keep == Some(index) {
                self.count_dropped(dropped);
                marked = true;
            }
            self.items.push_back((input, ticks));
        }
        if !marked {
            self.count_dropped(dropped);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bytes::Bytes;

    fn packet(n: i64, idr: bool) -> VideoPacket {
        VideoPacket {
            pts: n * 3_000,
            dts: n * 3_000,
            idr,
            data: Bytes::from_static(&[0; 100]),
        }
    }

    fn drain(queue: &Queue) -> Vec<Input> {
        queue.close(false);
        std::iter::from_fn(|| queue.pop())
            .map(|(input, _)| input)
            .collect()
    }

    fn dts(inputs: &[Input]) -> Vec<i64> {
        let of = |input: &Input| match input {
            Input::Packet(packet) => Some(packet.dts / 3_000),
            _ => None,
        };
        inputs.iter().filter_map(of).collect()
    }

    #[test]
    fn media_waits_in_order_and_is_measured() {
        let queue = Queue::default();
        for n in 0..31 {
            queue.push(packet(n, n == 0), None);
        }
        assert_eq!(queue.backlog(), Duration::from_secs(1));
        assert_eq!(queue.source_bps(), Some(24_800));
        let (_, lag) = queue.pop().unwrap();
        assert_eq!(lag, Duration::from_secs(1));
        let (_, lag) = queue.pop().unwrap();
        assert!(lag < Duration::from_secs(1));
        assert_eq!(dts(&drain(&queue)), (2..31).collect::<Vec<_>>());
    }

    #[test]
    fn past_six_seconds_it_drops_to_the_newest_idr_and_keeps_every_boundary() {
        let queue = Queue::default();
        for n in 0..190 {
            let boundary = (n % 60 == 0).then(|| Boundary {
                msn: n as u64 / 60,
                pts: n * 3_000,
                discontinuity: false,
            });
            queue.push(packet(n, n % 60 == 0), boundary);
        }
        let inputs = drain(&queue);
        assert_eq!(dts(&inputs), (180..190).collect::<Vec<_>>());
        let msns: Vec<u64> = inputs
            .iter()
            .filter_map(|input| match input {
                Input::At(boundary) => Some(boundary.msn),
                _ => None,
            })
            .collect();
        assert_eq!(msns, [0, 1, 2, 3]);
        assert!(
            inputs
                .iter()
                .any(|input| matches!(input, Input::Dropped(180)))
        );
    }

    #[test]
    fn without_an_idr_it_drops_until_one_comes() {
        let queue = Queue::default();
        for n in 0..300 {
            queue.push(packet(n, n == 0 || n == 250), None);
        }
        let inputs = drain(&queue);
        assert_eq!(dts(&inputs), (250..300).collect::<Vec<_>>());
        assert!(
            inputs
                .iter()
                .any(|input| matches!(input, Input::Dropped(250)))
        );
    }

    #[test]
    fn a_source_whose_times_stand_still_is_bounded_too() {
        let queue = Queue::default();
        for _ in 0..10_000 {
            queue.push(packet(0, false), None);
        }
        assert!(drain(&queue).len() <= MOST_PACKETS + 2);
    }

    #[test]
    fn a_consumer_that_is_stuck_holds_bounded_memory() {
        let queue = Queue::default();
        let big = Bytes::from(vec![0; 1 << 20]);
        for n in 0..50_000_i64 {
            // Big frames close behind each other, and whatever a source can make of commands with them.
            let frame = VideoPacket {
                pts: n,
                dts: n,
                idr: n % 3 == 0,
                data: big.clone(),
            };
            let boundary = frame.idr.then_some(Boundary {
                msn: n as u64,
                pts: n,
                discontinuity: true,
            });
            queue.push(frame, boundary);
            if n % 100 == 0 {
                queue.command(Input::Drain);
            }
            let state = queue.lock();
            assert!(state.bytes <= MOST_BYTES && state.packets <= MOST_PACKETS);
            assert!(state.items.len() <= MOST_PACKETS + MOST_COMMANDS);
        }
        // Given up: nothing is left, and nothing more is taken.
        assert_eq!(queue.lock().items.len(), 0);
        assert!(queue.pop().is_none());
    }

    #[test]
    fn an_encoder_that_was_away_is_not_a_backlog() {
        let queue = Queue::default();
        queue.push(packet(0, true), None);
        queue.push(packet(900, true), None);
        assert_eq!(queue.backlog(), Duration::from_millis(500));
    }
}
