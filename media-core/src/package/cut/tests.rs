#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const SECOND: i64 = 90_000;

fn rate(num: u32, den: u32) -> FrameRate {
    FrameRate { num, den }
}

/// Presentation times in decoding order with whether each is an IDR, of a constant rate. `key`: which frames (in presentation order) are IDRs.
/// `reorder`: so many B-frames between two others.
fn source(
    rate: FrameRate,
    frames: i64,
    reorder: i64,
    key: impl Fn(i64) -> bool,
) -> Vec<(i64, bool)> {
    let at = |k: i64| k * SECOND * i64::from(rate.den) / i64::from(rate.num);
    let mut out = Vec::new();
    let mut next = 0;
    while next < frames {
        // A closed GOP: an IDR comes alone, others are decoded before the frames that they close.
        let anchor = (next..=next + reorder)
            .find(|k| key(*k))
            .map_or(next + reorder, |k| if k == next { k } else { k - 1 });
        out.push((at(anchor), key(anchor)));
        out.extend((next..anchor).map(|k| (at(k), false)));
        next = anchor + 1;
    }
    out
}

/// Boundaries of a source; a forced cut is resolved `lag` packets later.
fn cut(cutter: &mut Cutter, source: &[(i64, bool)], lag: usize) -> Vec<Boundary> {
    let mut out: Vec<Boundary> = Vec::new();
    let mut pending: Option<(usize, ForcedCut)> = None;
    for (index, (pts, idr)) in source.iter().enumerate() {
        let frontier = cutter.frontier();
        let decision = cutter.decide(*pts, *idr);
        match decision {
            Cut::Drop | Cut::Continue => {}
            Cut::AtIdr(boundary) => {
                assert!(frontier.is_none_or(|frontier| boundary.pts > frontier));
                out.push(boundary);
            }
            Cut::Forced(forced) => {
                // Everything decoded before is presented before, and everything after it after.
                let (before, after) = source.split_at(index);
                assert!(before.iter().all(|(pts, _)| *pts <= forced.after_pts));
                assert!(after.iter().all(|(pts, _)| *pts > forced.after_pts));
                pending = Some((index + lag, forced));
            }
        }
        if let Some((due, forced)) = pending
            && (index >= due || index + 1 == source.len())
        {
            pending = None;
            let first = source
                .iter()
                .map(|(pts, _)| *pts)
                .filter(|pts| *pts > forced.after_pts)
                .min();
            let boundary = cutter.resolve(forced, first.unwrap());
            out.push(boundary);
        }
    }
    out
}

fn lengths(boundaries: &[Boundary]) -> Vec<i64> {
    boundaries
        .windows(2)
        .map(|pair| pair[1].pts - pair[0].pts)
        .collect()
}

fn consecutive(boundaries: &[Boundary], first: u64) {
    for (boundary, msn) in boundaries.iter().zip(first..) {
        assert_eq!(boundary.msn, msn);
    }
}

const RATES: [(u32, u32); 9] = [
    (24_000, 1_001),
    (24, 1),
    (25, 1),
    (30_000, 1_001),
    (30, 1),
    (48, 1),
    (50, 1),
    (60_000, 1_001),
    (60, 1),
];

#[test]
fn a_gop_of_two_seconds_is_cut_at_each_idr() {
    for (num, den) in RATES {
        let rate = rate(num, den);
        let gop = (2.0 * rate.fps()).round() as i64;
        for reorder in [0, 2] {
            let source = source(rate, gop * 10, reorder, |k| k % gop == 0);
            let boundaries = cut(&mut Cutter::new(7, Some(rate), false), &source, 0);
            assert_eq!(boundaries.len(), 10, "{rate:?} {reorder}");
            consecutive(&boundaries, 7);
        }
    }
}

#[test]
fn stamps_rounded_down_to_1_999_seconds_count_as_two() {
    let mut cutter = Cutter::new(0, None, false);
    let stamps: Vec<(i64, bool)> = (0..400)
        .map(|k| {
            (
                (k * 1_000 / 30 - i64::from(k % 60 == 0 && k > 0)) * 90,
                k % 60 == 0,
            )
        })
        .collect();
    assert_eq!(cut(&mut cutter, &stamps, 0).len(), 7);
}

#[test]
fn a_gop_of_eight_seconds_is_cut_by_force_at_4_4_and_then_at_its_idr() {
    for (num, den) in RATES {
        for reorder in [0, 1, 3] {
            for lag in [0, 6] {
                let rate = rate(num, den);
                let gop = (8.3 * rate.fps()) as i64;
                let source = source(rate, gop * 6, reorder, |k| k % gop == 0);
                let boundaries = cut(&mut Cutter::new(0, Some(rate), false), &source, lag);
                assert_eq!(boundaries.len(), 12, "{rate:?} {reorder}");
                consecutive(&boundaries, 0);
                for (index, length) in lengths(&boundaries).into_iter().enumerate() {
                    // A cut can be made only between a run of reordered frames and the next.
                    let frame = rate.ticks(1 + reorder as u32, VIDEO_TIMESCALE);
                    let expected = if index % 2 == 0 {
                        396_000 - frame..=396_000
                    } else {
                        180_000..=396_000
                    };
                    assert!(
                        expected.contains(&length),
                        "{rate:?} {reorder} {index}: {length}"
                    );
                }
                assert!(boundaries.iter().all(|b| !b.discontinuity));
            }
        }
    }
}

#[test]
fn without_any_other_idr_every_cut_is_forced() {
    for reorder in [0i64, 2] {
        let source = source(rate(30, 1), 3_000, reorder, |k| k == 0);
        let boundaries = cut(&mut Cutter::new(0, Some(rate(30, 1)), false), &source, 3);
        assert!(boundaries.len() >= 22);
        let expected = 396_000 - reorder * 3_000..=396_000;
        assert!(lengths(&boundaries).iter().all(|l| expected.contains(l)));
    }
}

#[test]
fn scene_cut_idrs_are_ignored_until_two_seconds() {
    let source = source(rate(30, 1), 900, 0, |k| k % 7 == 0);
    let boundaries = cut(&mut Cutter::new(0, Some(rate(30, 1)), false), &source, 0);
    // The first multiple of seven frames that is 60 or more.
    assert!(lengths(&boundaries).iter().all(|l| *l == 63 * 3_000));
}

#[test]
fn an_idr_between_4_and_4_4_seconds_is_waited_for() {
    for frames in 120..=132 {
        let source = source(rate(30, 1), 600, 2, |k| k % frames == 0);
        let boundaries = cut(&mut Cutter::new(0, Some(rate(30, 1)), false), &source, 0);
        assert!(
            lengths(&boundaries).iter().all(|l| *l == frames * 3_000),
            "{frames}: {:?}",
            lengths(&boundaries)
        );
    }
}

#[test]
fn a_discontinuity_cuts_at_the_next_idr_at_once_and_only_once() {
    let mut cutter = Cutter::new(0, Some(rate(30, 1)), false);
    let frames = source(rate(30, 1), 30, 0, |k| k == 0);
    assert_eq!(cut(&mut cutter, &frames, 0).len(), 1);
    cutter.discontinuity();
    assert_eq!(cutter.decide(30 * 3_000, false), Cut::Continue);
    let boundary = |msn, pts, discontinuity| {
        Cut::AtIdr(Boundary {
            msn,
            pts,
            discontinuity,
        })
    };
    assert_eq!(
        cutter.decide(31 * 3_000, true),
        boundary(1, 31 * 3_000, true)
    );
    assert_eq!(cutter.decide(32 * 3_000, true), Cut::Continue);
    assert_eq!(
        cutter.decide(91 * 3_000, true),
        boundary(2, 91 * 3_000, false)
    );
}

#[test]
fn a_discontinuity_that_finds_no_idr_is_told_with_the_forced_cut() {
    let mut cutter = Cutter::new(0, Some(rate(30, 1)), false);
    cut(&mut cutter, &source(rate(30, 1), 10, 0, |k| k == 0), 0);
    cutter.discontinuity();
    let rest: Vec<(i64, bool)> = (10..200).map(|k| (k * 3_000, false)).collect();
    let boundaries = cut(&mut cutter, &rest, 0);
    assert_eq!(
        boundaries,
        [Boundary {
            msn: 1,
            pts: 132 * 3_000,
            discontinuity: true
        }]
    );
}

#[test]
fn before_the_first_idr_everything_is_dropped_and_a_discontinuity_is_none() {
    let mut cutter = Cutter::new(5, Some(rate(30, 1)), false);
    cutter.discontinuity();
    assert_eq!(cutter.decide(0, false), Cut::Drop);
    assert_eq!(cutter.frontier(), None);
    let first = |discontinuity| {
        Cut::AtIdr(Boundary {
            msn: 5,
            pts: 3_000,
            discontinuity,
        })
    };
    assert_eq!(cutter.decide(3_000, true), first(false));
    let mut resumed = Cutter::new(5, Some(rate(30, 1)), true);
    assert_eq!(resumed.decide(3_000, true), first(true));
}

#[test]
fn a_hole_in_the_picture_that_no_segment_can_last_through_is_a_discontinuity() {
    let mut cutter = Cutter::new(0, Some(rate(30, 1)), false);
    cut(&mut cutter, &source(rate(30, 1), 90, 0, |k| k == 0), 0);
    let boundaries = cut(&mut cutter, &[(540_000, false), (543_000, false)], 0);
    assert_eq!(
        boundaries,
        [Boundary {
            msn: 1,
            pts: 540_000,
            discontinuity: true
        }]
    );
    assert_eq!(
        cutter.decide(990_000, true),
        Cut::AtIdr(Boundary {
            msn: 2,
            pts: 990_000,
            discontinuity: true
        })
    );
}

#[test]
fn sound_is_not_let_past_a_forced_cut_that_is_not_resolved() {
    let mut cutter = Cutter::new(0, Some(rate(30, 1)), false);
    let mut forced = None;
    for k in 0..140 {
        if let Cut::Forced(cut) = cutter.decide(k * 3_000, k == 0) {
            forced = Some(cut);
        }
    }
    let forced = forced.unwrap();
    assert_eq!(cutter.frontier(), Some(forced.after_pts));
    cutter.resolve(forced, forced.after_pts + 3_000);
    assert_eq!(cutter.frontier(), Some(139 * 3_000));
}

#[test]
fn few_frames_a_second_are_cut_at_their_frames() {
    for fps in [1, 2, 5] {
        let source = source(rate(fps, 1), 60, 0, |k| k == 0);
        let boundaries = cut(&mut Cutter::new(0, Some(rate(fps, 1)), false), &source, 0);
        for length in lengths(&boundaries) {
            assert!((180_000..=396_000).contains(&length), "{fps}: {length}");
        }
    }
}

proptest! {
    #[test]
    fn every_segment_is_two_to_4_49_seconds_and_numbers_follow(
        gaps in proptest::collection::vec((1i64..17_000, prop::bool::weighted(0.02)), 10..1_500),
        rate in prop::option::of(prop::sample::select(RATES.as_slice())),
        reorder in 0usize..4,
        lag in 0usize..8,
        first in 0u64..1_000,
    ) {
        let rate = rate.map(|(num, den)| FrameRate { num, den });
        let mut pts = 0;
        let mut shown: Vec<(i64, bool)> = Vec::new();
        for (k, (gap, idr)) in gaps.iter().enumerate() {
            shown.push((pts, k == 0 || *idr));
            pts += rate.map_or(*gap, |rate| rate.ticks(1, VIDEO_TIMESCALE));
        }
        // Decoding order: within a GOP each run of frames comes after the one that closes it.
        let mut source = Vec::new();
        let mut rest = shown.as_slice();
        while let Some(idr) = rest.first() {
            let run = rest.iter().skip(1).take(reorder).take_while(|frame| !frame.1).count();
            let (head, tail) = rest.split_at(1 + run);
            if idr.1 {
                source.extend(head);
            } else {
                source.push(head[run]);
                source.extend(&head[..run]);
            }
            rest = tail;
        }
        let mut cutter = Cutter::new(first, rate, false);
        let boundaries = cut(&mut cutter, &source, lag);
        consecutive(&boundaries, first);
        for (pair, length) in boundaries.windows(2).zip(lengths(&boundaries)) {
            prop_assert!(pair[1].discontinuity || length <= MAX_TICKS, "{:?}", pair);
            prop_assert!(length >= MIN_TICKS - MOST_TOLERANCE, "{:?}", pair);
            prop_assert!(rate.is_none() || !pair[1].discontinuity);
        }
        let end = boundaries.last().map_or(0, |last| last.pts);
        prop_assert!(pts - end <= MAX_TICKS + 2 * 17_000 * (1 + reorder as i64));
    }

    #[test]
    fn any_packets_leave_boundaries_in_order(packets in proptest::collection::vec((any::<i32>(), any::<bool>(), any::<bool>()), 0..300)) {
        let mut cutter = Cutter::new(0, None, false);
        let (mut last, mut waiting) = (i64::MIN, None);
        for (pts, idr, broken) in packets {
            if broken {
                cutter.discontinuity();
            }
            match cutter.decide(pts.into(), idr) {
                Cut::AtIdr(boundary) => {
                    prop_assert!(boundary.pts > last);
                    last = boundary.pts;
                }
                Cut::Forced(forced) => waiting = Some(forced),
                Cut::Drop | Cut::Continue => {}
            }
            if let Some(forced) = waiting.take() {
                let boundary = cutter.resolve(forced, forced.after_pts + 1);
                prop_assert!(boundary.pts > last);
                last = boundary.pts;
            }
        }
    }
}

#[test]
fn a_forced_cut_that_the_decoder_never_resolves_is_passed_with_the_idr_after_it() {
    let mut cutter = Cutter::new(0, Some(rate(30, 1)), false);
    let forced = (0..)
        .find_map(|k| match cutter.decide(k * 3_000, k == 0) {
            Cut::Forced(forced) => Some(forced),
            _ => None,
        })
        .unwrap();
    assert_eq!(forced.msn, 1);
    // No IDR: there is nothing to pass it with, however long it takes.
    for k in 133..600 {
        assert_eq!(cutter.decide(k * 3_000, false), Cut::Continue);
        assert_eq!(cutter.overdue(), None);
    }
    assert!(matches!(
        cutter.decide(600 * 3_000, true),
        Cut::AtIdr(Boundary { msn: 2, .. })
    ));
    assert_eq!(cutter.frontier(), Some(forced.after_pts));
    assert_eq!(cutter.overdue(), Some((forced, 600 * 3_000)));
    let boundary = cutter.resolve(forced, 600 * 3_000);
    assert_eq!((boundary.msn, boundary.discontinuity), (1, true));
    assert_eq!(cutter.overdue(), None);
    assert_eq!(cutter.frontier(), Some(600 * 3_000));
    // And the next cut can be forced again.
    assert!((601..760).any(|k| matches!(cutter.decide(k * 3_000, false), Cut::Forced(_))));
}

#[test]
fn a_forced_cut_is_left_to_a_decoder_that_is_only_behind() {
    let mut cutter = Cutter::new(0, Some(rate(30, 1)), false);
    // Forced at 4.4 s, IDRs from 8 s on: 14 s is within the time that it has.
    for k in 0..=420 {
        cutter.decide(k * 3_000, k == 0 || k >= 240 && k % 60 == 0);
        assert_eq!(cutter.overdue(), None, "frame {k}");
    }
    assert!((421..460).any(|k| {
        cutter.decide(k * 3_000, false);
        cutter.overdue().is_some_and(|(_, idr)| idr == 240 * 3_000)
    }));
}
