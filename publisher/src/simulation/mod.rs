//! A deterministic simulation that searches for faults.
//!
//! The code under simulation is the code that ships: drain, lines, frontier, spool, dead letters, patience, the ring. Simulated
//! are the disk ([`disk`]), the broker with its sink ([`broker`]), the clock and what happens ([`random`]). One seed decides
//! everything, so it replays a run. A run is a list of [`Action`](action::Action)s; of one that fails, those are left out that do not
//! matter, and what is left is printed as a command. What must hold is in [`invariants`].
//!
//! | variable | means | without it |
//! |---|---|---|
//! | `SIMULATE_SEEDS` | how many runs, or `FROM..TO` | as many as fit into the time |
//! | `SIMULATE_SECONDS` | how long | 30 |
//! | `SIMULATE_THREADS` | how many runs at once | 1 |
//! | `SIMULATE_GO_ON` | go on after a run that fails | the first one ends the search |
//! | `SIMULATE_SEED` | one run alone, and all that happens in it | |
//! | `SIMULATE_STEPS` | of that run, the actions with these numbers alone | all |
//!
//! [`mutants`] puts faults of the past back, one at a time: each is to be found.

mod action;
mod agent;
mod broker;
mod content;
mod cuts;
mod disk;
mod invariants;
mod mutants;
mod plan;
mod random;
mod world;

use std::{
    env, panic,
    sync::{
        Mutex, Once, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use self::{plan::Plan, random::Killed};

/// Kills are no panics.
fn quiet_kills() {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<Killed>() {
                before(info);
            }
        }));
    });
}

fn text(name: &str) -> Option<String> {
    env::var(name).ok().filter(|text| !text.is_empty())
}

fn number(name: &str) -> Option<u64> {
    text(name).map(|text| text.parse().expect(name))
}

/// One run, step by step.
fn replay(seed: u64) {
    let mut plan = Plan::of(seed);
    if let Some(steps) = text("SIMULATE_STEPS") {
        let steps: Vec<usize> = steps.split(',').map(|step| step.parse().unwrap()).collect();
        plan.actions.retain(|(number, _)| steps.contains(number));
    }
    let (result, trace) = plan.run(true);
    println!("{:?}\n{}", plan.sizes, trace.join("\n"));
    result.unwrap();
}

/// What is said of a run that fails.
fn report(seed: u64, error: &str) -> String {
    let plan = Plan::of(seed).shrink(error);
    let (again, trace) = plan.run(true);
    let (sizes, trace, command) = (plan.sizes, trace.join("\n"), plan.command());
    format!("seed {seed}: {error}\n\nshrunk: {again:?}\n{sizes:?}\n{trace}\n\n{command}")
}

// Guarantee: G4
#[test]
fn simulate() {
    quiet_kills();
    if let Some(seed) = number("SIMULATE_SEED") {
        return replay(seed);
    }
    let (from, to) = match text("SIMULATE_SEEDS").as_deref().map(|text| text.split_once("..").ok_or(text)) {
        None => (0, u64::MAX),
        Some(Ok((from, to))) => (from.parse().unwrap(), to.parse().unwrap()),
        Some(Err(count)) => (0, count.parse().unwrap()),
    };
    let seconds = number("SIMULATE_SECONDS").unwrap_or(if to == u64::MAX { 30 } else { u64::MAX >> 20 });
    let threads = number("SIMULATE_THREADS").unwrap_or(1);
    let (begun, time) = (Instant::now(), Duration::from_secs(seconds));
    let (next, runs) = (AtomicU64::new(from), AtomicU64::new(0));
    let goes_on = text("SIMULATE_GO_ON").is_some();
    let failed: Mutex<Vec<(u64, String)>> = Mutex::default();
    let has_failed = || !goes_on && !failed.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
    let work = || {
        while begun.elapsed() < time && !has_failed() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= to {
                break;
            }
            if let (Err(error), _) = Plan::of(seed).run(false) {
                let first: String = error.chars().take(200).collect();
                println!("seed {seed}: {first}");
                failed.lock().unwrap_or_else(PoisonError::into_inner).push((seed, error));
            }
            runs.fetch_add(1, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let (runs, seconds) = (runs.into_inner(), begun.elapsed().as_secs_f64());
    println!("{runs} runs in {seconds:.0} s ({:.0} a second), from seed {from} on", runs as f64 / seconds);
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some((seed, error)) = failed.first() {
        panic!("{} of {runs} runs fail, {}", failed.len(), report(*seed, error));
    }
}
