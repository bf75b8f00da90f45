//! The same random operations on a plain directory and through the overlay: the same results and errnos, the same tree
//! seen, and the same tree left below (G1).

use std::cell::Cell;

use nix::unistd::Uid;
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

use crate::{Pair, config, generate, snapshot::Snapshot, world::World};

/// Operations of one case.
const STEPS_MAX: usize = 60;
/// Cases in `make test`.
const CASES: u32 = 400;

const REGRESSIONS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/overlay/differential.proptest-regressions");

#[test]
fn the_overlay_does_what_a_plain_directory_does() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can act as several users");
    }
    let mut pair = Pair::start();
    // The kernel caches what the overlay has told it, so what is below is looked at too.
    let below = pair.bywash.root().join("below");
    let cases = Cell::new(0);
    let mut runner = TestRunner::new(config(CASES, REGRESSIONS));
    let tried = runner.run(&vec(generate::step(), 1..STEPS_MAX), |steps| {
        let [plain, overlay] = pair.directories(&cases.replace(cases.get() + 1).to_string());
        let (mut plain, mut overlay) = (World::new(&plain), World::new(&overlay));
        for (i, step) in steps.iter().enumerate() {
            let (expected, seen) = (plain.perform(step), overlay.perform(step));
            prop_assert!(
                expected == seen,
                "step {}, {:?}: plain {:?}, overlay {:?}",
                i,
                step,
                expected,
                seen
            );
        }
        let (expected, seen) = (Snapshot::of(plain.root()), Snapshot::of(overlay.root()));
        prop_assert!(expected == seen, "{}", expected.differences(&seen));
        let left = Snapshot::of(&below.join(overlay.root().file_name().unwrap()));
        prop_assert!(expected == left, "below: {}", expected.differences(&left));
        Ok(())
    });
    if let Err(error) = tried {
        panic!("{error}");
    }
    // What was there is there when the overlay is gone.
    pair.bywash.stop_agent();
    let (expected, left) = (Snapshot::of(&pair.plain), Snapshot::of(pair.bywash.directory()));
    assert!(expected == left, "below: {}", expected.differences(&left));
    assert!(cases.get() > 0, "nothing was compared");
}
