//! What the agent takes of the machine.

use std::fs;

use bywash_tests::harness::{Bywash, Settings};

use crate::append;

/// What of the agent's memory is its own, in KiB.
fn own_memory_kib(bywash: &mut Bywash) -> u64 {
    let rollup = format!("/proc/{}/smaps_rollup", bywash.agent().pid());
    let text = fs::read_to_string(&rollup).expect("what the kernel says of the agent's memory");
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("a line of it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn memory_does_not_grow_with_the_number_of_overlays() {
    const DIRECTORIES: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    // About 0.3 MiB for each, most of it its threads' stacks.
    const KIB_MAX: u64 = 16 << 10;
    let settings = Settings { directories: &DIRECTORIES, ring_size: "4MiB", ..Settings::default() };
    let mut bywash = Bywash::new("localhost:9", &settings);
    bywash.start_agent();
    let at_start = own_memory_kib(&mut bywash);
    assert!(at_start < KIB_MAX, "{at_start} KiB at the start");
    for name in DIRECTORIES {
        (0..20).for_each(|_| append(&bywash.root().join(name).join("f"), &[0; 128 << 10]));
    }
    let in_use = own_memory_kib(&mut bywash);
    assert!(in_use < 2 * KIB_MAX, "{in_use} KiB in use");
}
