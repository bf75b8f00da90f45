//! pjdfstest, a suite for what POSIX says of filesystems: its tests end in the overlay as they end in a plain directory,
//! one for one.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bywash_tests::harness::{process, tool};
use nix::unistd::Uid;

use crate::Pair;

/// Those that end otherwise in the overlay, each with the reason why FUSE forces it.
const FORCED: [(&str, &str); 1] = [(
    "link::link_count_max",
    "glibc answers pathconf(_PC_LINK_MAX) by the filesystem's type, and knows no limit for FUSE: skipped",
)];

/// All that Linux has.
const SETTINGS: &str = r#"
    [features]
    posix_fallocate = {}
    rename_ctime = {}
    stat_st_birthtime = {}
    utime_now = {}
    utimensat = {}
    [settings]
    naptime = 0.01
    [dummy_auth]
    entries = [["nobody", "nogroup"], ["games", "games"]]
"#;

/// Another filesystem than the one of the temporary directory, for links and renames that cannot be.
const SECONDARY: &str = "/dev/shm";
const TIME_MAX: Duration = Duration::from_secs(240);
/// Fewer tests than this would mean that the suite has not run.
const TESTS_MIN: usize = 350;
/// The same of those that pass for a user.
const USER_TESTS_MIN: usize = 50;

/// How each test ended: `ok`, `skipped` or `FAILED`.
type Results = BTreeMap<String, String>;

// Guarantee: G1
#[test]
fn pjdfstest_ends_as_in_a_plain_directory() {
    if !Uid::effective().is_root() {
        return println!("skipped: pjdfstest acts as several users, which only root can");
    }
    let pair = Pair::start();
    let program = tool("bin/pjdfstest");
    let [plain, overlay] = [&pair.plain, pair.seen()].map(|directory| {
        let command = Command::new(&program);
        run(command, &settings(&pair), directory)
    });
    assert!(plain.len() >= TESTS_MIN, "only {} tests have run", plain.len());
    assert_same(&plain, &overlay);
}

/// It skips what only root can do.
#[test]
fn pjdfstest_ends_as_in_a_plain_directory_for_a_user() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can become another user, and look below the overlay");
    }
    let pair = Pair::start();
    let [plain, overlay] = [&pair.plain, pair.seen()].map(|directory| {
        let (mut command, program) = pair.for_user(&tool("bin/pjdfstest"));
        command.arg(program);
        run(command, &settings(&pair), directory)
    });
    let passed = plain.values().filter(|result| *result == "ok").count();
    assert!(passed >= USER_TESTS_MIN, "only {passed} tests have passed for a user: {plain:#?}");
    assert_same(&plain, &overlay);
}

fn settings(pair: &Pair) -> PathBuf {
    let settings = pair.bywash.root().join("pjdfstest.toml");
    fs::write(&settings, SETTINGS).unwrap();
    settings
}

/// One for one, but for those that are forced.
#[track_caller]
fn assert_same(plain: &Results, overlay: &Results) {
    assert_eq!(plain.len(), overlay.len(), "not the same tests have run");
    let differing: Vec<_> = plain
        .iter()
        .filter(|(name, result)| overlay[*name] != **result)
        .map(|(name, result)| format!("{name}: {result} in a plain directory, {} here", overlay[name]))
        .collect();
    println!("{} tests; other in the overlay: {differing:#?}", plain.len());
    let is_forced = |line: &&String| FORCED.iter().any(|(name, _)| line.starts_with(&format!("{name}: ")));
    let unlisted: Vec<_> = differing.iter().filter(|line| !is_forced(line)).collect();
    assert!(unlisted.is_empty(), "the overlay differs: {unlisted:#?}");
    assert_eq!(
        differing.len(),
        FORCED.len(),
        "a listed difference is gone: take it off the list {FORCED:#?}"
    );
}

fn run(mut command: Command, settings: &Path, directory: &Path) -> Results {
    command.arg("-c").arg(settings).arg("-s").arg(SECONDARY).arg("-p").arg(directory);
    // It fails if one of its tests does; what counts is whether that is so in both.
    let finished = process::run(&mut command, TIME_MAX);
    let results = finished.stdout.lines().filter_map(|line| {
        let (name, result) = line.split_once(' ')?;
        let result = result.trim();
        ["ok", "skipped", "FAILED"].contains(&result).then(|| (name.to_owned(), result.to_owned()))
    });
    let results = Results::from_iter(results);
    assert!(!results.is_empty(), "pjdfstest has not run: {finished:?}");
    results
}
