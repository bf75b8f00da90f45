//! What is to happen in a run.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bywash_common::config::Framing;
use nix::errno::Errno;

use super::{
    action::Action,
    invariants,
    random::Random,
    world::{Sizes, World},
};

/// A run's beginning and what happens in it.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub sizes: Sizes,
    pub actions: Vec<(usize, Action)>,
}

const ERRNOS: [Errno; 5] = [Errno::EMFILE, Errno::ENOSPC, Errno::ESTALE, Errno::ENOMEM, Errno::EINTR];

/// Lines in so many of 1000 cases, several to an event in half of these.
fn framing(chance: &Random, of_1000: u64) -> Framing {
    match chance.below(1000) {
        drawn if drawn < of_1000 / 2 => Framing::Multiline,
        drawn if drawn < of_1000 => Framing::Line,
        _ => Framing::Write,
    }
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        // Not the numbers that decide what happens within an action: those stay the same when actions are left out.
        let chance = Random::new(!seed, false);
        let sizes = Sizes {
            ring: 64 << 10,
            spool: if chance.happens(300) { 40_000 } else { 2 << 20 },
            dead_letters: if chance.happens(300) { 3_000 } else { 1 << 20 },
            in_flight: 5 + chance.below(60),
            payload: if chance.happens(300) { 900 } else { 1 << 20 },
            framing: framing(&chance, 300),
            // Of its own: the other numbers stay what they were.
            age_max: if Random::new(seed.rotate_left(32), false).happens(200) { 5 } else { 0 },
        };
        // Where nothing is killed, cut off or damaged, more can be said of what must hold.
        let (has_damage, is_wild) = (chance.happens(200), chance.happens(750));
        let count = 8 + chance.below(40);
        let mut actions = Vec::new();
        while actions.len() < count as usize {
            let action = Self::action(&chance);
            let may_be = match action {
                Action::Damage { .. } => has_damage,
                Action::Kill(_)
                | Action::Reboot
                | Action::CutPower
                | Action::DiskTrouble { .. }
                | Action::Generation => is_wild,
                _ => true,
            };
            if may_be {
                actions.push((actions.len(), action));
            }
        }
        Self { seed, sizes, actions }
    }

    fn action(chance: &Random) -> Action {
        match chance.below(109) {
            0..25 => Action::Write { writes: 1 + chance.below(40), bytes: 20 + chance.below(2000) as usize },
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
            98..100 => Action::Poison(chance.happens(700)),
            100..103 => Action::Reload { is_base64: chance.happens(500), framing: framing(chance, 500) },
            103..104 => Action::Spool(chance.happens(500)),
            104..107 => Action::CutPower,
            _ => Action::Damage { of_1000: chance.below(1000) },
        }
    }

    /// Runs it. Gives what does not hold, and what happened.
    pub fn run(&self, is_traced: bool) -> (Result<(), String>, Vec<String>) {
        let mut world = World::new(self.seed, self.sizes, is_traced);
        let ran = catch_unwind(AssertUnwindSafe(|| {
            self.actions.iter().try_for_each(|(_, action)| world.act(*action))?;
            world.come_to_rest()?;
            invariants::check(&world)
        }));
        let trace = world.random.trace();
        let result = ran.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("a panic: {}", text.unwrap_or_default()))
        });
        (result, trace)
    }

    /// Leaves out what the failure does not need.
    pub fn shrink(mut self, error: &str) -> Self {
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

    /// The command that runs it again.
    pub fn command(&self) -> String {
        let steps: Vec<String> = self.actions.iter().map(|(number, _)| number.to_string()).collect();
        format!("make simulate SEED={} STEPS={}", self.seed, steps.join(","))
    }
}

/// What two failures of the same fault have in common.
fn kind(error: &str) -> String {
    error.chars().filter(|char| char.is_alphabetic() || *char == ' ').take(30).collect()
}
