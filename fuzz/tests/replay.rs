//! Every target over every file of its corpus, and over mutations of them: the same ones on every run.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::{Duration, Instant},
};

use ghost_live_fuzz::{TARGETS, Target};

/// Mutations of each target's corpus, all files together.
const MUTATIONS: usize = 2_000;

/// No more are begun after so long: a busy machine runs the first ones of the same order.
const ENOUGH: Duration = Duration::from_secs(2);

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no corpus");
    files
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

/// Marsaglia's xorshift: numbers that are the same on every run.
struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Some bytes changed, taken out, doubled, or put in from another file.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Xorshift) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + 1 + random.below(32)).min(bytes.len());
        match random.below(8) {
            0 | 1 if at < bytes.len() => bytes[at] = random.next() as u8,
            2 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            3 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'9'][random.below(6)],
            4 if at < end => drop(bytes.drain(at..end)),
            5 if at < end => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            6 => {
                let from = random.below(other.len());
                let to = (from + random.below(64)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ => bytes.truncate(bytes.len() - random.below(bytes.len() / 4 + 1)),
        }
    }
}

/// Runs a target; when it panics, says on which bytes.
fn run(target: Target, what: &str, bytes: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(bytes))) {
        let path = std::env::temp_dir().join("ghost-live-fuzz-finding");
        let _ = fs::write(&path, bytes);
        eprintln!(
            "{what} breaks a promise; its bytes are in {}",
            path.display()
        );
        std::panic::resume_unwind(panic);
    }
}

fn replay(name: &str) {
    let target = TARGETS
        .iter()
        .find(|(known, _)| *known == name)
        .expect("a target of that name")
        .1;
    let files = corpus(name);
    for (path, bytes) in &files {
        run(target, &path.display().to_string(), bytes);
    }
    let mut random = Xorshift(0x9e37_79b9_7f4a_7c15);
    let began = Instant::now();
    for round in 0..MUTATIONS {
        if began.elapsed() > ENOUGH {
            break;
        }
        let (path, bytes) = &files[round % files.len()];
        let mut bytes = bytes.clone();
        let other = &files[random.below(files.len())].1;
        mutate(&mut bytes, other, &mut random);
        run(
            target,
            &format!("mutation {round} of {}", path.display()),
            &bytes,
        );
    }
}

macro_rules! replays {
    ($($name:ident)*) => {
        pub(super) const NAMES: &[&str] = &[$(stringify!($name)),*];

        $(#[test]
        fn $name() {
            super::replay(stringify!($name));
        })*
    };
}

#[cfg(feature = "media")]
mod media {
    replays! { rtmp flv values_and_headers parameter_sets repair cut }
}

mod edge {
    replays! { messages timeline playlists requests keys tokens clients }
}

#[cfg(feature = "media")]
#[test]
fn every_target_is_replayed_and_wrapped() {
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, [media::NAMES, edge::NAMES].concat());
    let wrappers = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("libfuzzer");
    let manifest = fs::read_to_string(wrappers.join("Cargo.toml")).unwrap();
    for name in names {
        let wrapper = wrappers.join(format!("fuzz_targets/{name}.rs"));
        assert!(wrapper.exists(), "{} is missing", wrapper.display());
        assert!(
            manifest.contains(&format!("name = \"{name}\"")),
            "{name} is not built"
        );
    }
}
