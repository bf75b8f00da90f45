//! The agent stops, starts and reads its configuration again between random operations: files and names are as without,
//! what is open stays as it is through SIGHUP, and what was written under an overlay is captured, once (G1, G2).

use std::cell::{Cell, RefCell};

use bywash_tests::{
    actor::{
        Answer, Company,
        operation::{Caller, Operation, Seen, Step},
    },
    harness::Capture,
};
use nix::unistd::Uid;
use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestRunner};

use crate::{
    Pair, config,
    differential::{compare_trees, give, same},
    exceptions::Past,
    generate,
};

/// Operations between two events, events of a case, and cases in `make test`.
const STEPS_MAX: usize = 25;
const EVENTS_MAX: usize = 4;
const CASES: u32 = 8;

const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/overlay/restarts.proptest-regressions");

/// What befalls the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// SIGHUP.
    Reload,
    /// SIGTERM, and another one starts. Files that are open are closed before: they end with their overlay.
    Restart,
    /// The same, and the directory is used without an overlay in between.
    Pause,
}

#[test]
fn restarts_and_reloads_change_nothing_and_lose_nothing() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can act as several users");
    }
    let pair = RefCell::new(Pair::start());
    let below = pair.borrow().bywash.root().join("below");
    let company = RefCell::new(Company::start(pair.borrow().bywash.root()));
    let capture = RefCell::new(Capture::attach(&pair.borrow().bywash.ring));
    let (cases, written) = (Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new(config(CASES, REGRESSIONS));
    let event = select(vec![Event::Reload, Event::Restart, Event::Pause]);
    let step = prop_oneof![1 => generate::step(), 1 => generate::writing()];
    let part = (event, vec(step, 1..STEPS_MAX));
    let tried = runner.run(&(generate::tree_mode(), vec(part, 1..EVENTS_MAX)), |(mode, parts)| {
        let name = cases.replace(cases.get() + 1).to_string();
        let (pair, company) = (&mut *pair.borrow_mut(), &mut *company.borrow_mut());
        let trees = pair.directories(&name);
        trees.iter().for_each(|tree| give(tree, Caller::Owner, mode));
        company.begin(&trees);
        capture.borrow_mut().skip();
        let mut bytes = 0;
        let mut past = Past::default();
        for (event, steps) in &parts {
            befall(pair, company, &trees, *event)?;
            for (i, step) in steps.iter().enumerate().filter(|(_, step)| is_taken(&mut past, step)) {
                let answer = company.perform(step);
                same(&steps[..=i], &answer)?;
                bytes += bytes_written(step, &answer);
            }
        }
        let captured = capture.borrow_mut().take();
        let attributed = captured.iter().filter(|write| !write.unattributed);
        let recorded: u64 = attributed.map(|write| write.data.len() as u64).sum();
        let [plain, overlay] = &trees;
        let steps: Vec<Step> = parts.iter().flat_map(|(_, steps)| steps.clone()).collect();
        compare_trees([plain, overlay, &below.join(&name)], &steps)?;
        prop_assert_eq!(recorded, bytes, "bytes in records, and bytes written");
        written.set(written.get() + bytes);
        Ok(())
    });
    if let Err(error) = tried {
        panic!("{error}");
    }
    assert!(written.get() > 0, "nothing was written");
}

fn befall(
    pair: &mut Pair,
    company: &mut Company,
    trees: &[std::path::PathBuf; 2],
    event: Event,
) -> Result<(), TestCaseError> {
    if event == Event::Reload {
        let said = pair.bywash.reload_agent();
        prop_assert!(!said.contains("ERROR"), "{said}");
        return Ok(());
    }
    // All that is open is closed.
    company.begin(trees);
    pair.bywash.stop_agent();
    if event == Event::Pause {
        let steps = ["between", "a"].map(|path| Step {
            caller: Caller::Root,
            operation: Operation::Mkdir { path: path.to_owned(), mode: 0o777 },
            is_timed: false,
        });
        for (i, step) in steps.iter().enumerate() {
            same(&steps[..=i], &company.perform(step))?;
        }
    }
    pair.bywash.start_agent();
    Ok(())
}

/// Whether a step is taken: what goes through a FIFO or to a device is nobody's to capture.
fn is_taken(past: &mut Past, step: &Step) -> bool {
    let is_other = matches!(step.operation, Operation::MakeFifo { .. } | Operation::MakeDevice { .. });
    past.exception(step).is_none() && !is_other
}

/// How many bytes a step has written.
fn bytes_written(step: &Step, answer: &Answer) -> u64 {
    let writes = matches!(
        step.operation,
        Operation::Write { .. }
            | Operation::WriteAt { .. }
            | Operation::WriteWith { .. }
            | Operation::CopyRange { .. }
            | Operation::SendFile { .. }
    );
    match &answer[1].result {
        Ok(Seen::Number(n)) if writes => *n,
        _ => 0,
    }
}
