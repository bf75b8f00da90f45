//! The same random operations on a plain directory and through the overlay, by several users in turn: the same results,
//! errnos and times that go on, the same tree seen, and the same tree left below (G1).

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    path::{Path, PathBuf},
    thread,
};

use bywash_tests::actor::{
    Answer, Company,
    operation::{Caller, Operation, Step, TREE_GROUP},
};
use nix::unistd::Uid;
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
use rustix::fs::{self, Mode};

use crate::{
    Pair, config,
    exceptions::{self, Past},
    generate, inode_flags,
    snapshot::Snapshot,
};

/// Operations of one case.
const STEPS_MAX: usize = 80;
/// Cases in `make test`.
const CASES: u32 = 250;

const REGRESSIONS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/overlay/differential.proptest-regressions");

/// Operations of each user, and cases, where all are at work at the same time.
const STEPS_AT_ONCE: usize = 60;
const CASES_AT_ONCE: u32 = 40;
const REGRESSIONS_AT_ONCE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/overlay/at_once.proptest-regressions");

/// How many steps were left out, by what is different.
pub type LeftOut = RefCell<BTreeMap<&'static str, usize>>;

// Guarantee: G1
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
        [&plain, &overlay].into_iter().for_each(|directory| give(directory, Caller::Owner, mode));
        let company = &mut *company.borrow_mut();
        company.begin(&[plain.clone(), overlay.clone()]);
        let compared = compare(company, &steps, &left_out);
        let trees = compare_trees([&plain, &overlay, &below.join(&name)], &steps);
        compared.and(trees)
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

/// Gives a directory to somebody, and to the tree's group.
pub fn give(directory: &Path, to: Caller, mode: u32) {
    let uid = to.credentials().map_or(0, |credentials| credentials.uid);
    // First the owner: a chown takes set-id bits away.
    fs::chown(directory, Some(fs::Uid::from_raw(uid)), Some(fs::Gid::from_raw(TREE_GROUP))).unwrap();
    fs::chmod(directory, Mode::from_raw_mode(mode)).unwrap();
}

/// Does the steps in both directories.
pub fn compare(company: &mut Company, steps: &[Step], left_out: &LeftOut) -> Result<(), TestCaseError> {
    let mut past = Past::default();
    for (i, step) in steps.iter().enumerate() {
        if let Some(exception) = past.exception(step) {
            *left_out.borrow_mut().entry(exception.name).or_default() += 1;
            continue;
        }
        same(&steps[..=i], &company.perform(step))?;
    }
    Ok(())
}

/// What the last of some steps has given is the same in both.
pub fn same(steps: &[Step], [plain, overlay]: &Answer) -> Result<(), TestCaseError> {
    let (i, step) = (steps.len() - 1, steps.last().unwrap());
    prop_assert!(
        plain == overlay || exceptions::is_same_refusal(steps, plain, overlay),
        "step {i}, {step:?}: plain {plain:?}, overlay {overlay:?}"
    );
    Ok(())
}

/// What the steps have left is the same in the plain directory, in the overlay, and below it.
pub fn compare_trees([plain, overlay, below]: [&PathBuf; 3], steps: &[Step]) -> Result<(), TestCaseError> {
    let [expected, seen, left] = [plain, overlay, below].map(|tree| Snapshot::of(tree));
    if steps.iter().any(|step| matches!(step.operation, Operation::SetInodeFlags { .. })) {
        [plain, below].into_iter().for_each(|tree| inode_flags::clear(tree));
    }
    prop_assert!(expected == seen, "{}", expected.differences(&seen));
    prop_assert!(expected == left, "below: {}", expected.differences(&left));
    Ok(())
}

// Guarantee: G1
/// Each user in a tree of his own, all at the same time: what the agent does for one has nothing of another.
#[test]
fn users_at_the_same_time_do_what_they_do_alone() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can act as several users");
    }
    let pair = Pair::start();
    let below = pair.bywash.root().join("below");
    let company = RefCell::new(Company::start(pair.bywash.root()));
    let cases = Cell::new(0);
    let mut runner = TestRunner::new(config(CASES_AT_ONCE, REGRESSIONS_AT_ONCE));
    let steps = Caller::PROCESSES.map(|caller| vec(generate::step_of(caller), STEPS_AT_ONCE));
    let tried = runner.run(&steps, |steps| {
        let name = cases.replace(cases.get() + 1).to_string();
        let trees = pair.directories(&name);
        let mut company = company.borrow_mut();
        let done: Result<(), TestCaseError> = thread::scope(|scope| {
            let each = company.actors().iter_mut().zip(&steps).zip(Caller::PROCESSES);
            let at_work: Vec<_> = each
                .map(|((actor, steps), caller)| {
                    // With one above that is his own too: some links lead there.
                    let above = trees.each_ref().map(|tree| tree.join(format!("{caller:?}")));
                    let own = above.each_ref().map(|above| above.join("own"));
                    for directory in above.iter().chain(&own) {
                        std::fs::create_dir(directory).unwrap();
                        give(directory, caller, 0o2775);
                    }
                    scope.spawn(move || {
                        actor.begin(&own);
                        let mut past = Past::default();
                        let mut taken =
                            steps.iter().enumerate().filter(|(_, step)| past.exception(step).is_none());
                        taken.try_for_each(|(i, step)| same(&steps[..=i], &actor.perform(step)))
                    })
                })
                .collect();
            at_work.into_iter().try_for_each(|thread| thread.join().unwrap())
        });
        let [plain, overlay] = &trees;
        done.and(compare_trees([plain, overlay, &below.join(&name)], &steps.concat()))
    });
    if let Err(error) = tried {
        panic!("{error}");
    }
    assert!(cases.get() > 0, "nothing was compared");
}
