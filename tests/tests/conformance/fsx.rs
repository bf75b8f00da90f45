//! fsx: reads, writes, mappings, truncations, holes and copies in one file, every read checked against what was written.

use std::{
    fs,
    ops::RangeInclusive,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

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
const TIME_MAX: Duration = Duration::from_secs(1000);

#[test]
fn fsx_reads_what_it_wrote_for_two_seeds() {
    if Uid::effective().is_root() {
        exercise(&Pair::start(), |program| Command::new(program), 1..=2, 4_000);
    } else {
        println!("skipped: only root can look below the overlay");
    }
}

#[test]
fn fsx_reads_what_it_wrote_as_a_user() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can look below the overlay");
    }
    let pair = Pair::start();
    let as_user = |program: &Path| {
        let (mut command, program) = pair.for_user(program);
        command.arg(program);
        command
    };
    exercise(&pair, as_user, 11..=11, 4_000);
}

/// A test for each seed. In memory: one operation in eight ends with an msync(2), which takes a disk some 10 ms, with or
/// without an overlay.
macro_rules! seeds {
    ($($name:ident: $seed:literal,)*) => {$(
        #[test]
        #[ignore = "takes minutes with the others: make conformance"]
        fn $name() {
            exercise(&Pair::start_in_memory(), |program| Command::new(program), $seed..=$seed, 100_000);
        }
    )*};
}

seeds! {
    fsx_reads_what_it_wrote_for_seed_1: 1,
    fsx_reads_what_it_wrote_for_seed_2: 2,
    fsx_reads_what_it_wrote_for_seed_3: 3,
    fsx_reads_what_it_wrote_for_seed_4: 4,
    fsx_reads_what_it_wrote_for_seed_5: 5,
    fsx_reads_what_it_wrote_for_seed_6: 6,
    fsx_reads_what_it_wrote_for_seed_7: 7,
    fsx_reads_what_it_wrote_for_seed_8: 8,
    fsx_reads_what_it_wrote_for_seed_9: 9,
    fsx_reads_what_it_wrote_for_seed_10: 10,
}

/// `begin` is how the program is run.
fn exercise(pair: &Pair, begin: impl Fn(&Path) -> Command, seeds: RangeInclusive<u32>, operations: u32) {
    let settings = pair.bywash.root().join("fsx.toml");
    fs::write(&settings, SETTINGS).unwrap();
    for seed in seeds {
        let mut command = begin(&tool("bin/fsx"));
        command.arg("-f").arg(&settings).args(["-N", &operations.to_string(), "-S", &seed.to_string()]);
        command.arg("-P").arg(&pair.plain).arg(pair.seen().join(format!("seed-{seed}")));
        let started = Instant::now();
        let finished = process::run(&mut command, TIME_MAX);
        assert_eq!(finished.code, Some(0), "seed {seed}: {}\n{}", finished.stdout, finished.stderr);
        pair.assert_seen_is_below();
        println!("seed {seed}: {operations} operations in {:.1} s", started.elapsed().as_secs_f64());
    }
}
