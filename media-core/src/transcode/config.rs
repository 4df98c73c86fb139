//! The `[transcode]` table of the configuration.

use std::{fmt, str::FromStr};

use protocol::names::TrackName;
use serde::{Deserialize, Serialize};

/// What is encoded, with what, and how much it may cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The rungs below the untouched source, best first. A rung as high as the source or higher is left out (nothing is ever upscaled), except
    /// one of the same height that lowers its frame rate. An empty list serves the source alone.
    pub ladder: Vec<Rung>,
    /// Which encoder: `auto` takes the first hardware encoder that really encodes a frame on this machine, else `libx264`.
    pub encoder: EncoderChoice,
    /// libx264's preset: faster ones take less CPU and more bits for the same picture.
    pub preset: Preset,
    /// Bits a second, at most, of `v-source` where it has to be encoded (a source without key frames); below that the source's own rate is kept.
    pub source_bitrate_bps: u32,
    /// Bits a second of the audio where it has to be encoded (anything but AAC-LC).
    pub audio_bitrate_bps: u32,
    /// How far behind the source the encoders may fall, and not recover, before the costliest rung is shed; milliseconds, 200 to 5000.
    pub shed_after_ms: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ladder: vec![
                Rung::of(720, 2_800_000),
                Rung::of(480, 1_400_000),
                Rung::of(360, 800_000),
            ],
            encoder: EncoderChoice::Auto,
            preset: Preset::Superfast,
            source_bitrate_bps: 8_000_000,
            audio_bitrate_bps: 128_000,
            shed_after_ms: 1_000,
        }
    }
}

impl Config {
    /// What is wrong with the configuration, as a sentence with the key.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut names = Vec::new();
        for (index, rung) in self.ladder.iter().enumerate() {
            let within = |key: &'static str, value: u32, low: u32, high: u32| {
                if (low..=high).contains(&value) {
                    return Ok(());
                }
                Err(ConfigError::Range {
                    key: format!("ladder[{index}].{key}"),
                    value,
                    low,
                    high,
                })
            };
            within("height", rung.height, 64, 4_320)?;
            within("fps", rung.fps, 1, 120)?;
            within("bitrate_bps", rung.bitrate_bps, 50_000, 100_000_000)?;
            let name = rung.track();
            if !name.is_video() || name.as_str() == SOURCE {
                return Err(ConfigError::Name(name));
            }
            if names.contains(&name) {
                return Err(ConfigError::Twice(name));
            }
            names.push(name);
        }
        if self.ladder.len() > MAX_RUNGS {
            return Err(ConfigError::TooMany(self.ladder.len()));
        }
        for (key, value, low, high) in [
            (
                "source_bitrate_bps",
                self.source_bitrate_bps,
                200_000,
                100_000_000,
            ),
            ("audio_bitrate_bps", self.audio_bitrate_bps, 16_000, 512_000),
            ("shed_after_ms", self.shed_after_ms, 200, 5_000),
        ] {
            if !(low..=high).contains(&value) {
                return Err(ConfigError::Range {
                    key: key.to_owned(),
                    value,
                    low,
                    high,
                });
            }
        }
        Ok(())
    }
}

/// The name of the untouched source's track, and of its encode.
pub(super) const SOURCE: &str = "v-source";

/// Rungs of a ladder, at most.
pub(super) const MAX_RUNGS: usize = 8;

/// Why a configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A number out of its range.
    #[error("transcode.{key} is {value}: use {low} to {high}")]
    Range {
        /// Which.
        key: String,
        /// What it is.
        value: u32,
        /// The least.
        low: u32,
        /// The most.
        high: u32,
    },
    /// Not a video track's name, or the source's.
    #[error("{0} is no name for a rung: begin it with v-, and leave v-source to the source")]
    Name(TrackName),
    /// Two rungs with one name.
    #[error("two rungs are named {0}: give one of them another name, height or fps")]
    Twice(TrackName),
    /// Too long a ladder.
    #[error("the ladder has {0} rungs: use 8 at most")]
    TooMany(usize),
}

/// One rung of the ladder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rung {
    /// The track's name; `v-{height}p{fps}` where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<TrackName>,
    /// Pixels of the shorter side (the height of a landscape picture); the other follows from the source's aspect ratio.
    pub height: u32,
    /// Frames a second, at most: a faster source is thinned evenly. 30 where it is left out.
    #[serde(default = "thirty")]
    pub fps: u32,
    /// Bits a second on average over motion; the peak over a second is at most a tenth higher.
    pub bitrate_bps: u32,
}

fn thirty() -> u32 {
    30
}

impl Rung {
    fn of(height: u32, bitrate_bps: u32) -> Self {
        Self {
            name: None,
            height,
            fps: 30,
            bitrate_bps,
        }
    }

    /// The name of its track.
    pub fn track(&self) -> TrackName {
        match &self.name {
            Some(name) => name.clone(),
            None => track(&format!("v-{}p{}", self.height, self.fps)),
        }
    }
}

/// A track name made here, valid by construction.
pub(super) fn track(name: &str) -> TrackName {
    match TrackName::from_str(name) {
        Ok(name) => name,
        Err(error) => unreachable!("{error}"),
    }
}

/// An encoder, or the best that this machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EncoderChoice {
    /// The first of NVENC, VAAPI, QSV that encodes a frame, else libx264.
    #[default]
    Auto,
    /// On the CPU.
    Libx264,
    /// NVIDIA.
    Nvenc,
    /// Linux's interface to AMD and Intel graphics.
    Vaapi,
    /// Intel Quick Sync Video.
    Qsv,
}

impl fmt::Display for EncoderChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Libx264 => "libx264",
            Self::Nvenc => "nvenc",
            Self::Vaapi => "vaapi",
            Self::Qsv => "qsv",
        })
    }
}

/// A preset of libx264.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// About 0.7 of superfast's CPU, visibly blockier.
    Ultrafast,
    /// The default.
    #[default]
    Superfast,
    /// About 1.2 times superfast's CPU.
    Veryfast,
    /// For machines with cores to spare.
    Faster,
    /// For machines with cores to spare.
    Fast,
    /// For machines with cores to spare.
    Medium,
}

impl Preset {
    /// As libx264 calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ultrafast => "ultrafast",
            Self::Superfast => "superfast",
            Self::Veryfast => "veryfast",
            Self::Faster => "faster",
            Self::Fast => "fast",
            Self::Medium => "medium",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_default_ladder_has_the_agreed_names_and_is_valid() {
        let config = Config::default();
        assert_eq!(config.validate(), Ok(()));
        let names: Vec<_> = config
            .ladder
            .iter()
            .map(|rung| rung.track().to_string())
            .collect();
        assert_eq!(names, ["v-720p30", "v-480p30", "v-360p30"]);
    }

    #[test]
    fn a_ladder_is_read_and_unknown_keys_are_refused() {
        let read = |json| serde_json::from_str::<Config>(json);
        let config =
            read(r#"{"ladder":[{"height":720,"fps":60,"bitrate_bps":4500000}],"encoder":"nvenc"}"#)
                .unwrap();
        assert_eq!(config.ladder[0].track().as_str(), "v-720p60");
        assert_eq!(config.encoder, EncoderChoice::Nvenc);
        assert!(read(r#"{"laddr":[]}"#).is_err());
        assert!(read(r#"{"ladder":[{"height":720,"bitrate":1}]}"#).is_err());
    }

    #[test]
    fn a_wrong_configuration_is_explained() {
        let mut config = Config::default();
        config.ladder[1].bitrate_bps = 7;
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "transcode.ladder[1].bitrate_bps is 7: use 50000 to 100000000"
        );
        let mut config = Config::default();
        config.ladder[2].height = 480;
        assert!(matches!(config.validate(), Err(ConfigError::Twice(_))));
        config.ladder[2].name = Some(track("v-source"));
        assert!(matches!(config.validate(), Err(ConfigError::Name(_))));
    }
}
