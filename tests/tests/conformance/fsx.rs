//! fsx: reads, writes, mappings, truncations, holes and copies in one file, every read checked against what was written.

use std::{fs, process::Command, time::Duration};

use bywash_tests::harness::{process, tool};
use nix::unistd::Uid;

use crate::Pair;

/// Everything that it can do, mappings in particular.
const SETTINGS: &str = "
    [weights]
    close_open = 1
    read = 10
    write = 10
    mapread = 10
    mapwrite = 10
    invalidate = 1
    truncate = 10
    fsync = 1
    fdatasync = 1
    posix_fallocate = 5
    punch_hole = 5
    sendfile = 5
    posix_fadvise = 1
    copy_file_range = 5
";

/// For one seed, on a busy machine.
const TIME_MAX: Duration = Duration::from_secs(500);

#[test]
fn fsx_reads_what_it_wrote_for_two_seeds() {
    exercise(1..=2, 4_000);
}

#[test]
#[ignore = "takes minutes: make conformance"]
fn fsx_reads_what_it_wrote_for_ten_seeds() {
    exercise(1..=10, 100_000);
}

fn exercise(seeds: std::ops::RangeInclusive<u32>, operations: u32) {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can look below the overlay");
    }
    let pair = Pair::start();
    let settings = pair.bywash.root().join("fsx.toml");
    fs::write(&settings, SETTINGS).unwrap();
    for seed in seeds {
        let mut command = Command::new(tool("bin/fsx"));
        command.arg("-f").arg(&settings).args(["-N", &operations.to_string(), "-S", &seed.to_string()]);
        command.arg("-P").arg(&pair.plain).arg(pair.seen().join(format!("seed-{seed}")));
        let finished = process::run(&mut command, TIME_MAX);
        assert_eq!(finished.code, Some(0), "seed {seed}: {}\n{}", finished.stdout, finished.stderr);
        pair.assert_seen_is_below();
    }
}
