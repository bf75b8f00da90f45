//! What is captured is what is written (G2): records put into files elsewhere make the same files.

use std::{
    cell::{Cell, RefCell},
    fs::File,
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::Path,
};

use bywash_tests::{
    actor::{
        operation::{Caller, Operation, Seen, Step},
        world::World,
    },
    harness::{Capture, Captured},
};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestRunner};
use rustix::fs::{OFlags, RenameFlags};

use crate::{Pair, config, generate, snapshot::Snapshot};

/// Operations of one case.
const STEPS_MAX: usize = 60;
/// Cases in `make test`.
const CASES: u32 = 300;

const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/overlay/replay.proptest-regressions");

/// Writes, and what changes names and lengths. No file loses its last name: a record could not say which it was.
fn step() -> impl Strategy<Value = Step> {
    let flags = select(vec![OFlags::WRONLY, OFlags::RDWR]);
    let more = select(vec![OFlags::empty(), OFlags::APPEND, OFlags::TRUNC]);
    let flags = (flags, more).prop_map(|(flags, more)| flags | more | OFlags::CREATE);
    let operation = prop_oneof![
        6 => generate::open(flags.boxed()),
        10 => generate::write(),
        2 => generate::truncate(),
        2 => generate::rename(vec![RenameFlags::NOREPLACE, RenameFlags::EXCHANGE]),
        1 => generate::link(),
        2 => generate::mkdir(),
    ];
    operation.prop_map(|operation| Step { caller: Caller::Root, operation, is_timed: false })
}

// Guarantee: G2
#[test]
fn captured_writes_make_the_same_files_again() {
    let pair = Pair::start();
    let capture = RefCell::new(Capture::attach(&pair.bywash.ring));
    let (cases, records) = (Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new(config(CASES, REGRESSIONS));
    let watched = pair.bywash.directory();
    let tried = runner.run(&vec(step(), 1..STEPS_MAX), |steps| {
        let [replayed, overlay] = pair.directories(&cases.replace(cases.get() + 1).to_string());
        let (mut replayed, mut overlay) = (World::new(&replayed), World::new(&overlay));
        // A case that failed has left its own.
        capture.borrow_mut().take();
        for (i, step) in steps.iter().enumerate() {
            let outcome = overlay.perform(step);
            let captured = capture.borrow_mut().take();
            records.set(records.get() + captured.len());
            let is_write = matches!(step.operation, Operation::Write { .. } | Operation::WriteAt { .. });
            if is_write {
                let bytes: usize = captured.iter().map(|record| record.data.len()).sum();
                let written = if let Ok(Seen::Number(written)) = outcome { written } else { 0 };
                prop_assert_eq!(bytes as u64, written, "step {}, {:?}: bytes in records", i, step);
                captured.iter().for_each(|record| replay(record, watched, &pair.plain));
            } else {
                prop_assert_eq!(&captured, &[], "step {}, {:?} wrote nothing", i, step);
                prop_assert_eq!(replayed.perform(step), outcome, "step {}, {:?}", i, step);
            }
        }
        let (written, replayed) = (Snapshot::of(overlay.root()), Snapshot::of(replayed.root()));
        prop_assert!(replayed.contents() == written.contents(), "{}", replayed.differences(&written));
        Ok(())
    });
    if let Err(error) = tried {
        panic!("{error}");
    }
    assert!(records.get() > 0, "nothing was replayed");
}

/// Writes a record's bytes into the file of the same name below another directory.
fn replay(record: &Captured, watched: &Path, elsewhere: &Path) {
    let path = Path::new(std::ffi::OsStr::from_bytes(&record.path));
    let below = path.strip_prefix(watched).unwrap_or_else(|_| panic!("{path:?} is not watched"));
    let file = File::options()
        .write(true)
        .open(elsewhere.join(below))
        .unwrap_or_else(|e| panic!("a record of {below:?}: {e}"));
    file.write_all_at(&record.data, record.offset).unwrap();
}
