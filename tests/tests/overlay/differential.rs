//! The same random operations on a plain directory and through the overlay, by several users in turn: the same results,
//! errnos and times that go on, the same tree seen, and the same tree left below (G1).

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    path::Path,
};

use bywash_tests::actor::{
    Company,
    operation::{Operation, Step, TREE_GROUP},
};
use nix::unistd::Uid;
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
use rustix::fs::{self, Mode};

use crate::{Pair, config, exceptions, generate, inode_flags, snapshot::Snapshot};

/// Operations of one case.
const STEPS_MAX: usize = 80;
/// Cases in `make test`.
const CASES: u32 = 250;

const REGRESSIONS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/overlay/differential.proptest-regressions");

/// How many steps were left out, by what is different.
type LeftOut = RefCell<BTreeMap<&'static str, usize>>;

#[test]
fn the_overlay_does_what_a_plain_directory_does() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can act as several users");
    }
    let mut pair = Pair::start();
    // The kernel caches what the overlay has told it, so what is below is looked at too.
    let below = pair.bywash.root().join("below");
    let company = RefCell::new(Company::start(pair.bywash.root()));
    let (cases, left_out) = (Cell::new(0), LeftOut::default());
    let mut runner = TestRunner::new(config(CASES, REGRESSIONS));
    let case = (generate::tree_mode(), vec(generate::step(), 1..STEPS_MAX));
    let tried = runner.run(&case, |(mode, steps)| {
        let name = cases.replace(cases.get() + 1).to_string();
        let [plain, overlay] = pair.directories(&name);
        for directory in [&plain, &overlay] {
            // First the owner: a chown takes set-id bits away.
            fs::chown(directory, Some(fs::Uid::from_raw(1001)), Some(fs::Gid::from_raw(TREE_GROUP))).unwrap();
            fs::chmod(directory, Mode::from_raw_mode(mode)).unwrap();
        }
        let compared = compare(&mut company.borrow_mut(), [&plain, &overlay], &steps, &left_out);
        let (expected, seen) = (Snapshot::of(&plain), Snapshot::of(&overlay));
        let left = Snapshot::of(&below.join(&name));
        if steps.iter().any(|step| matches!(step.operation, Operation::SetInodeFlags { .. })) {
            [&plain, &below.join(&name)].into_iter().for_each(|tree| inode_flags::clear(tree));
        }
        compared?;
        prop_assert!(expected == seen, "{}", expected.differences(&seen));
        prop_assert!(expected == left, "below: {}", expected.differences(&left));
        Ok(())
    });
    println!("left out: {:#?}", left_out.borrow());
    if let Err(error) = tried {
        panic!("{error}");
    }
    // What was there is there when the overlay is gone.
    drop(company);
    pair.bywash.stop_agent();
    let (expected, left) = (Snapshot::of(&pair.plain), Snapshot::of(pair.bywash.directory()));
    assert!(expected == left, "below: {}", expected.differences(&left));
    assert!(cases.get() > 0, "nothing was compared");
}

/// Does the steps in both directories.
fn compare(
    company: &mut Company,
    directories: [&Path; 2],
    steps: &[Step],
    left_out: &LeftOut,
) -> Result<(), TestCaseError> {
    company.begin(&directories.map(Path::to_owned));
    for (i, step) in steps.iter().enumerate() {
        if let Some(exception) = exceptions::of(step) {
            *left_out.borrow_mut().entry(exception.name).or_default() += 1;
            continue;
        }
        let [expected, seen] = company.perform(step);
        prop_assert!(expected == seen, "step {}, {:?}: plain {:?}, overlay {:?}", i, step, expected, seen);
    }
    Ok(())
}
