//! Which rungs a source gets, and their sizes.

use protocol::names::TrackName;

use super::config::{Config, SOURCE, track};
use crate::media::FrameRate;

/// The picture that a decoder gave first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Picture {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Sample aspect ratio; 1:1 where it is not known.
    pub(super) sar: (u32, u32),
    pub(super) rate: FrameRate,
}

/// H.264 profile of a rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// For decoders that know nothing else: the lowest rung.
    ConstrainedBaseline,
    /// The others.
    High,
}

/// A rung with its numbers fixed for a source.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) name: TrackName,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) sar: (u32, u32),
    /// Frames a second, at most.
    pub(super) max_fps: u32,
    /// Nominal rate after thinning.
    pub(super) rate: FrameRate,
    pub(super) bitrate_bps: u32,
    pub(super) profile: Profile,
}

impl Plan {
    /// What encoding it costs, in pixels a second: good enough to rank rungs.
    pub(super) fn cost(&self) -> f64 {
        f64::from(self.width) * f64::from(self.height) * self.rate.fps()
    }
}

/// The rungs for a source, costliest first.
pub(super) fn plan(config: &Config, source: &Picture) -> Vec<Plan> {
    let short = source.width.min(source.height);
    let mut plans: Vec<Plan> = config
        .ladder
        .iter()
        .filter(|rung| {
            let slower = source.rate.fps() > f64::from(rung.fps) * 1.2;
            rung.height < short || (rung.height == short && slower)
        })
        .map(|rung| {
            let (width, height, sar) = fit(source, rung.height);
            Plan {
                name: rung.track(),
                width,
                height,
                sar,
                max_fps: rung.fps,
                rate: thinned(source.rate, rung.fps),
                bitrate_bps: rung.bitrate_bps,
                profile: Profile::High,
            }
        })
        .collect();
    plans.sort_by(|a, b| b.cost().total_cmp(&a.cost()));
    if let Some(lowest) = plans.last_mut() {
        lowest.profile = Profile::ConstrainedBaseline;
    }
    plans
}

/// The source as an encode at its own size and rate.
pub(super) fn source(picture: &Picture, bitrate_bps: u32) -> Plan {
    Plan {
        name: track(SOURCE),
        width: even(f64::from(picture.width)),
        height: even(f64::from(picture.height)),
        sar: picture.sar,
        max_fps: 120,
        rate: thinned(picture.rate, 120),
        bitrate_bps,
        profile: Profile::High,
    }
}

fn thinned(rate: FrameRate, max_fps: u32) -> FrameRate {
    FrameRate {
        num: rate.num,
        den: rate
            .den
            .saturating_mul(super::pace::divisor(rate.fps(), max_fps)),
    }
}

/// 4:2:0 wants even sides.
fn even(pixels: f64) -> u32 {
    ((pixels / 2.0).round() as u32 * 2).max(2)
}

/// Width, height and sample aspect ratio of the picture with its shorter side at `short` pixels.
fn fit(source: &Picture, short: u32) -> (u32, u32, (u32, u32)) {
    let short = even(f64::from(short));
    let (from_w, from_h) = (f64::from(source.width), f64::from(source.height));
    let (width, height) = if source.width >= source.height {
        (even(f64::from(short) * from_w / from_h), short)
    } else {
        (short, even(f64::from(short) * from_h / from_w))
    };
    (width, height, source.sar)
}

/// Where a picture lies in an output of fixed size with its aspect ratio kept: x, y, width, height, all even.
///
/// The first picture fills its output (rounding to even sides is no reason for a bar); another aspect ratio in mid-stream gets bars.
pub(super) fn letterbox(source: &Picture, output: &Plan) -> (u32, u32, u32, u32) {
    let ratio = |width: u32, height: u32, sar: (u32, u32)| {
        f64::from(width) * f64::from(sar.0) / (f64::from(height) * f64::from(sar.1))
    };
    let wanted = ratio(source.width, source.height, source.sar);
    let given = ratio(output.width, output.height, output.sar);
    let fills = (wanted / given - 1.0).abs() < 0.02;
    let (width, height) = if fills {
        (output.width, output.height)
    } else if wanted > given {
        let height = even(f64::from(output.height) * given / wanted);
        (output.width, height.min(output.height))
    } else {
        let width = even(f64::from(output.width) * wanted / given);
        (width.min(output.width), output.height)
    };
    let margin = |outer: u32, inner: u32| (outer - inner) / 4 * 2;
    (
        margin(output.width, width),
        margin(output.height, height),
        width,
        height,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32, fps: u32) -> Picture {
        Picture {
            width,
            height,
            sar: (1, 1),
            rate: FrameRate { num: fps, den: 1 },
        }
    }

    fn sizes(config: &Config, source: &Picture) -> Vec<(String, u32, u32)> {
        plan(config, source)
            .into_iter()
            .map(|plan| (plan.name.to_string(), plan.width, plan.height))
            .collect()
    }

    #[test]
    fn nothing_is_upscaled_and_the_aspect_ratio_stays() {
        let config = Config::default();
        let named = |w720: (u32, u32), w480: (u32, u32), w360: (u32, u32)| {
            vec![
                ("v-720p30".to_owned(), w720.0, w720.1),
                ("v-480p30".to_owned(), w480.0, w480.1),
                ("v-360p30".to_owned(), w360.0, w360.1),
            ]
        };
        assert_eq!(
            sizes(&config, &picture(1920, 1080, 30)),
            named((1280, 720), (854, 480), (640, 360))
        );
        // A telephone held upright: the height of a rung is its shorter side.
        assert_eq!(
            sizes(&config, &picture(1080, 1920, 30)),
            named((720, 1280), (480, 854), (360, 640))
        );
        assert_eq!(
            sizes(&config, &picture(1280, 720, 30)),
            named((0, 0), (854, 480), (640, 360))[1..]
        );
        assert_eq!(sizes(&config, &picture(640, 360, 30)), []);
    }

    #[test]
    fn a_rung_of_the_source_s_own_height_is_kept_where_it_lowers_the_frame_rate() {
        let plans = plan(&Config::default(), &picture(1280, 720, 60));
        assert_eq!(plans[0].name.as_str(), "v-720p30");
        assert_eq!(plans[0].rate, FrameRate { num: 60, den: 2 });
    }

    #[test]
    fn only_the_lowest_rung_is_constrained_baseline() {
        let profiles: Vec<_> = plan(&Config::default(), &picture(1920, 1080, 30))
            .iter()
            .map(|plan| plan.profile)
            .collect();
        assert_eq!(
            profiles,
            [Profile::High, Profile::High, Profile::ConstrainedBaseline]
        );
    }

    #[test]
    fn another_aspect_ratio_in_mid_stream_gets_bars() {
        let output = &plan(&Config::default(), &picture(1920, 1080, 30))[0];
        assert_eq!(
            letterbox(&picture(1920, 1080, 30), output),
            (0, 0, 1280, 720)
        );
        assert_eq!(letterbox(&picture(854, 480, 30), output), (0, 0, 1280, 720));
        assert_eq!(
            letterbox(&picture(1440, 1080, 30), output),
            (160, 0, 960, 720)
        );
        assert_eq!(
            letterbox(&picture(1080, 1920, 30), output),
            (436, 0, 406, 720)
        );
        assert_eq!(
            letterbox(&picture(1920, 800, 30), output),
            (0, 92, 1280, 534)
        );
        assert_eq!(letterbox(&picture(4000, 2, 30), output), (0, 358, 1280, 2));
    }

    proptest::proptest! {
        #[test]
        fn every_size_is_even_and_no_larger_than_the_source(width in 2_u32..5000, height in 2_u32..5000, fps in 1_u32..240) {
            for plan in plan(&Config::default(), &picture(width, height, fps)) {
                assert!(plan.width % 2 == 0 && plan.height % 2 == 0 && plan.width > 0 && plan.height > 0);
                assert!(plan.width <= width + 1 && plan.height <= height + 1);
                let (x, y, w, h) = letterbox(&picture(height, width, fps), &plan);
                assert!(x + w <= plan.width && y + h <= plan.height && w > 0 && h > 0);
            }
        }
    }
}
