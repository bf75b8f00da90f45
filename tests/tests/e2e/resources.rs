//! What the agent takes of the machine.

use std::fs;

use bywash_tests::harness::{Bywash, Settings};

use crate::append;

const MIB: u64 = 1 << 10;

/// What of the agent's memory is its own, in KiB.
fn own_memory_kib(bywash: &mut Bywash) -> u64 {
    let rollup = format!("/proc/{}/smaps_rollup", bywash.agent().pid());
    let text = fs::read_to_string(&rollup).expect("what the kernel says of the agent's memory");
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("a line of it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn threads(bywash: &mut Bywash) -> usize {
    fs::read_dir(format!("/proc/{}/task", bywash.agent().pid())).expect("the agent's threads").count()
}

/// Memory and threads follow what is done, not the number of overlays: with as many, at the start and when all were used,
/// one after the other.
#[track_caller]
fn assert_modest(overlays: usize, (kib_at_start, kib_in_use): (u64, u64)) {
    /// Those of the agent itself.
    const THREADS_MAX: usize = 12;
    let names: Vec<&'static str> = (0..overlays).map(|i| &*i.to_string().leak()).collect();
    let settings = Settings { directories: names.leak(), ring_size: "4MiB", ..Settings::default() };
    let mut bywash = Bywash::new("localhost:9", &settings);
    bywash.start_agent();
    let (at_start, threads_at_start) = (own_memory_kib(&mut bywash), threads(&mut bywash));
    for name in settings.directories {
        (0..20).for_each(|_| append(&bywash.root().join(name).join("f"), &[0; 128 << 10]));
    }
    let (in_use, threads_in_use) = (own_memory_kib(&mut bywash), threads(&mut bywash));
    println!(
        "{overlays} overlays: {at_start} KiB and {threads_at_start} threads, in use {in_use} KiB and {threads_in_use} threads"
    );
    assert!(at_start < kib_at_start && threads_at_start <= THREADS_MAX, "at the start");
    // Each of those that were used last has two workers, and those that came before have some left for a while.
    assert!(in_use < kib_in_use && threads_in_use <= THREADS_MAX + 4 * overlays.min(64), "in use");
}

// Guarantee: G5
#[test]
fn memory_does_not_grow_with_the_number_of_overlays() {
    assert_modest(1, (4 * MIB, 8 * MIB));
    assert_modest(10, (4 * MIB, 12 * MIB));
}

#[test]
fn a_hundred_overlays_take_the_threads_that_their_work_takes() {
    assert_modest(100, (8 * MIB, 40 * MIB));
}
