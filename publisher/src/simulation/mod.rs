//! A deterministic simulation that searches for faults.
//!
//! The code under simulation is the code that ships: drain, frontier, spool, dead letters, patience, the ring. Simulated
//! are the disk ([`disk`]), the broker with its sink ([`broker`]), the clock and what happens ([`fate`]). One seed decides
//! everything, so it replays a run. A run is a list of [`Action`]s; of one that fails, those are left out that do not
//! matter, and what is left is printed as a command.
//!
//! | variable | means | without it |
//! |---|---|---|
//! | `SIMULATE_SEEDS` | how many runs, or `FROM..TO` | as many as fit into the time |
//! | `SIMULATE_SECONDS` | how long | 30 |
//! | `SIMULATE_SEED` | one run alone, and all that happens in it | |
//! | `SIMULATE_STEPS` | of that run, the actions with these numbers alone | all |

mod action;
mod broker;
mod disk;
mod fate;
mod truth;
mod world;

use std::{
    env,
    panic::{self, AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use self::{
    action::Action,
    fate::{Fate, Killed},
    world::{Sizes, World},
};

/// A run's beginning and what happens in it.
#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    sizes: Sizes,
    actions: Vec<(usize, Action)>,
}

const ERRNOS: [nix::errno::Errno; 5] = [
    nix::errno::Errno::EMFILE,
    nix::errno::Errno::ENOSPC,
    nix::errno::Errno::ESTALE,
    nix::errno::Errno::ENOMEM,
    nix::errno::Errno::EINTR,
];

impl Plan {
    fn of(seed: u64) -> Self {
        // Not the numbers that decide what happens within an action: those stay the same when actions are left out.
        let chance = Fate::new(!seed, false);
        let sizes = Sizes {
            ring: 64 << 10,
            spool: if chance.happens(300) { 40_000 } else { 2 << 20 },
            letters: if chance.happens(300) { 3_000 } else { 1 << 20 },
            in_flight: 5 + chance.below(60),
        };
        let count = 10 + chance.below(60);
        let actions = (0..count as usize).map(|number| (number, Self::action(&chance))).collect();
        Self { seed, sizes, actions }
    }

    fn action(chance: &Fate) -> Action {
        match chance.below(100) {
            0..25 => Action::Write { writes: 1 + chance.below(60), bytes: 20 + chance.below(2000) as usize },
            25..45 => Action::Drain(1 + chance.below(12)),
            45..53 => Action::Feed(1 + chance.below(5)),
            53..58 => Action::Network(1 + chance.below(10)),
            58..64 => Action::Wait(chance.below(8000)),
            64..68 => Action::Kill(chance.below(60)),
            68..76 => Action::Start,
            76..78 => Action::Restart,
            78..80 => Action::Reboot,
            80..82 => Action::CutPower,
            82..84 => Action::Generation,
            84..87 => Action::DiskTrouble {
                of_1000: 1 << chance.below(10),
                errno: chance.happens(600).then(|| ERRNOS[chance.below(5) as usize] as i32),
            },
            87..90 => Action::DiskCalm,
            90..93 => Action::Stall(chance.happens(500)),
            93..94 => Action::Mute(chance.happens(500)),
            94..98 => Action::Bar { topic: chance.below(2) as usize, is_barred: chance.happens(500) },
            _ => Action::Poison(chance.happens(700)),
        }
    }

    /// Runs it. Gives what does not hold, and what happened.
    fn run(&self, is_traced: bool) -> (Result<(), String>, Vec<String>) {
        let mut world = World::new(self.seed, self.sizes, is_traced);
        let ran = catch_unwind(AssertUnwindSafe(|| {
            self.actions.iter().try_for_each(|(_, action)| world.act(*action))?;
            world.come_to_rest()?;
            truth::check(&world)
        }));
        let trace = world.fate.trace();
        let result = ran.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("a panic: {}", text.unwrap_or_default()))
        });
        (result, trace)
    }

    /// Leaves out what the failure does not need.
    fn shrink(mut self, error: &str) -> Self {
        let is_same = |other: Result<(), String>| other.is_err_and(|other| kind(&other) == kind(error));
        let mut len = self.actions.len().div_ceil(2);
        while len > 0 {
            let mut at = 0;
            while at < self.actions.len() {
                let mut less = self.clone();
                less.actions.drain(at..(at + len).min(self.actions.len()));
                if is_same(less.run(false).0) {
                    self = less;
                } else {
                    at += len;
                }
            }
            len /= 2;
        }
        self
    }

    fn command(&self) -> String {
        let steps: Vec<String> = self.actions.iter().map(|(number, _)| number.to_string()).collect();
        format!("make simulate SEED={} STEPS={}", self.seed, steps.join(","))
    }
}

/// What two failures of the same fault have in common.
fn kind(error: &str) -> String {
    error.chars().filter(|char| char.is_alphabetic() || *char == ' ').take(30).collect()
}

/// Kills are no panics.
fn quiet_kills() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<Killed>() {
            before(info);
        }
    }));
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().expect(name))
}

#[test]
fn simulate() {
    quiet_kills();
    if let Some(seed) = number("SIMULATE_SEED") {
        let mut plan = Plan::of(seed);
        if let Some(steps) = env::var("SIMULATE_STEPS").ok().filter(|text| !text.is_empty()) {
            let steps: Vec<usize> = steps.split(',').map(|step| step.parse().unwrap()).collect();
            plan.actions.retain(|(number, _)| steps.contains(number));
        }
        let (result, trace) = plan.run(true);
        println!("{:?}\n{}", plan.sizes, trace.join("\n"));
        return result.unwrap();
    }
    let seeds = env::var("SIMULATE_SEEDS").ok().filter(|text| !text.is_empty());
    let (from, to) = match seeds.as_deref().map(|text| text.split_once("..").ok_or(text)) {
        None => (0, u64::MAX),
        Some(Ok((from, to))) => (from.parse().unwrap(), to.parse().unwrap()),
        Some(Err(count)) => (0, count.parse().unwrap()),
    };
    let time = Duration::from_secs(number("SIMULATE_SECONDS").unwrap_or(if to == u64::MAX {
        30
    } else {
        u64::MAX >> 20
    }));
    let begun = Instant::now();
    let mut runs = 0;
    for seed in from..to {
        if begun.elapsed() >= time {
            break;
        }
        let plan = Plan::of(seed);
        if let (Err(error), _) = plan.run(false) {
            let plan = plan.shrink(&error);
            let (again, trace) = plan.run(true);
            panic!(
                "after {runs} runs, seed {seed}: {error}\n\nshrunk: {again:?}\n{:?}\n{}\n\n{}",
                plan.sizes,
                trace.join("\n"),
                plan.command()
            );
        }
        runs += 1;
    }
    println!("{runs} runs in {:.0} s, from seed {from} on", begun.elapsed().as_secs_f64());
}
