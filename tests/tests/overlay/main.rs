//! The overlay beside a plain directory: whatever is done in both gives the same (G1), and what is captured makes the
//! same files again (G2). No broker, no publisher: where records matter the tests read the ring themselves.
//!
//! `PROPTEST_CASES=10000 cargo nextest run -p bywash-tests --test overlay` looks for longer; each run prints the
//! `PROPTEST_RNG_SEED` with which it does the same again.

// A test says that something does not hold by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod differential;
mod exceptions;
mod forced;
mod generate;
mod inode_flags;
mod replay;
mod restarts;
mod snapshot;
mod submounts;
mod walk;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use bywash_tests::harness::{Bywash, Settings, process::must_run};
use nix::unistd::Uid;
use proptest::test_runner::{Config, FileFailurePersistence, RngSeed};

/// An agent over one directory, and a plain directory on the same filesystem. Root also has the watched directory in
/// `below`, without the overlay.
struct Pair {
    bywash: Bywash,
    plain: PathBuf,
}

impl Pair {
    fn start() -> Self {
        Self::start_after(|_| {})
    }

    /// `prepare` gets both directories before anything is done with them.
    fn start_after(mut prepare: impl FnMut(&Path)) -> Self {
        let mut bywash = Bywash::new("127.0.0.1:9", &Settings { ring_size: "64MiB", ..Settings::default() });
        let plain = bywash.root().join("plain");
        fs::create_dir(&plain).unwrap();
        // Other users than the one who made them walk through them.
        for directory in [bywash.root(), bywash.directory(), &plain] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        }
        [plain.as_path(), bywash.directory()].into_iter().for_each(&mut prepare);
        if Uid::effective().is_root() {
            let below = bywash.root().join("below");
            fs::create_dir(&below).unwrap();
            // With what is mounted there by now.
            must_run(Command::new("mount").arg("--rbind").arg(bywash.directory()).arg(&below));
            // What the agent mounts there is not to be seen here.
            must_run(Command::new("mount").arg("--make-rprivate").arg(below));
        }
        bywash.start_agent();
        Self { bywash, plain }
    }

    /// A new directory of this name in the overlay and one in the plain directory, open to everyone.
    fn directories(&self, name: &str) -> [PathBuf; 2] {
        [self.plain.as_path(), self.bywash.directory()].map(|parent| {
            let directory = parent.join(name);
            fs::create_dir(&directory).unwrap();
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
            directory
        })
    }
}

/// What is found is shown within a test's time.
const SHRINK_MILLISECONDS_MAX: u32 = 60_000;

/// What the cases of `make test` are made of: the same each time, so that a failure there is that of the change at hand.
/// Others are searched with `TEST_SEARCH`.
const SEED: u64 = 2026;

/// How many cases are tried, unless `PROPTEST_CASES` says so, or `TEST_SEARCH` how many times as many, which are others each
/// time; failures are kept beside the tests and tried first.
fn config(cases: u32, regressions: &'static str) -> Config {
    let mut config = Config::default();
    let times: Option<u32> = std::env::var("TEST_SEARCH").ok().map(|times| times.parse().expect("a number"));
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases * times.unwrap_or(1);
    }
    config.failure_persistence = Some(Box::new(FileFailurePersistence::Direct(regressions)));
    config.max_shrink_iters = 4_000;
    config.max_shrink_time = SHRINK_MILLISECONDS_MAX;
    if let RngSeed::Random = config.rng_seed {
        let searched = || u64::from(std::process::id()) ^ now_nanoseconds();
        config.rng_seed = RngSeed::Fixed(times.map_or(SEED, |_| searched()));
    }
    println!("{} cases; again with PROPTEST_CASES={0} PROPTEST_RNG_SEED={}", config.cases, seed(&config));
    config
}

/// What the cases are made of.
fn seed(config: &Config) -> u64 {
    match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => unreachable!("it has been set"),
    }
}

fn now_nanoseconds() -> u64 {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::from(now.subsec_nanos()) ^ now.as_secs() << 30
}
