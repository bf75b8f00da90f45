//! `fs-agent cleanup`: takes away overlays that do not answer, so that nobody who looks there hangs or fails.
//!
//! Fit for a timer, and for what systemd runs after an agent has ended. It goes by the kernel's table of mounts: a
//! configuration that has changed, or that cannot be read, leaves no dead overlay behind.

use std::{os::fd::AsFd, time::Instant};

use anyhow::{Context, Result};
use bywash_common::{
    cli::GlobalArgs,
    config::{Config, OnAgentExit},
    exit::Exit,
};

use crate::{
    cli::print,
    mount::{
        self, Left,
        probe::{ANSWER_TIME_MAX, Answer, Probe},
    },
    sleep,
};

/// The most overlays that are taken off one directory.
const STACK_MAX: usize = 64;

/// By what overlays are judged.
enum Policy {
    /// The configuration: overlays of the agent of this ring.
    Configured {
        /// `ring.name`
        ring: String,
        /// `agent.on_agent_exit`
        on_agent_exit: OnAgentExit,
    },
    /// Something in the configuration is wrong: overlays of the agent of this ring, or of all if it does not say which, each
    /// by what it says of itself. Only dead ones: whether one that is silent is to hang nobody can tell.
    Unknown {
        /// `ring.name`
        ring: Option<String>,
    },
}

impl Policy {
    fn of(args: &GlobalArgs) -> Self {
        match Config::load(&args.config) {
            Ok(config) => {
                Self::Configured { ring: config.ring.name, on_agent_exit: config.agent.on_agent_exit }
            }
            Err(error) => {
                let ring = Config::ring_name(&args.config);
                let whose = ring
                    .as_ref()
                    .map_or("all agents".to_owned(), |ring| format!("the agent of the ring `{ring}`"));
                tracing::warn!(
                    "{error}; looking at dead overlays of {whose}, each by what it says of itself"
                );
                Self::Unknown { ring }
            }
        }
    }

    fn ring(&self) -> Option<&str> {
        match self {
            Self::Configured { ring, .. } => Some(ring),
            Self::Unknown { ring } => ring.as_deref(),
        }
    }

    /// What is to be done with an overlay that says `answer`.
    fn action(&self, left: &Left, answer: Answer) -> Action {
        let on_agent_exit = match self {
            Self::Configured { on_agent_exit, .. } => *on_agent_exit,
            Self::Unknown { .. } => left.on_agent_exit,
        };
        match (answer, on_agent_exit, self) {
            (Answer::Alive, ..) | (Answer::Silent, _, Self::Unknown { .. }) => Action::Leave,
            (_, OnAgentExit::Unmount, _) => Action::Unmount,
            (Answer::Dead, OnAgentExit::Keep, _) => Action::Keep,
            (Answer::Silent, OnAgentExit::Keep, _) => Action::Abort,
        }
    }
}

/// What is done with an overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// Nothing is wrong with it, or nobody can tell.
    Leave,
    /// It is dead and stays, so that nothing is written uncaptured.
    Keep,
    /// Its connection is ended, so that nobody hangs; it stays.
    Abort,
    /// It is taken off.
    Unmount,
}

/// Lazily unmounts each overlay that does not answer, and says what it did.
///
/// # Errors
/// If the table of mounts cannot be read.
pub fn cleanup(args: &GlobalArgs) -> Result<Exit> {
    let policy = Policy::of(args);
    let mut exit = Exit::Ok;
    let mut seen = Vec::new();
    // A dead overlay may cover another one.
    for _ in 0..STACK_MAX {
        let mut found = mount::overlays(policy.ring()).context("cannot read the table of mounts")?;
        found.retain(|left| !seen.contains(&left.id));
        if found.is_empty() {
            break;
        }
        seen.extend(found.iter().map(|left| left.id));
        clean(found, &policy, &mut exit)?;
    }
    Ok(exit)
}

/// Asks all at once.
fn clean(found: Vec<Left>, policy: &Policy, exit: &mut Exit) -> Result<()> {
    let mut asked = Vec::with_capacity(found.len());
    for left in found {
        // Gone or covered since the table was read.
        let Ok(root) = mount::open_exactly(&left.path, left.id) else { continue };
        let probe = Probe::ask(root.try_clone()?).context("cannot start a process")?;
        asked.push((left, root, probe));
    }
    let deadline = Instant::now() + ANSWER_TIME_MAX;
    for (left, root, probe) in asked {
        let shown = left.path.display();
        let answer = probe.answer(deadline);
        let state = match answer {
            Answer::Alive => "answers".to_owned(),
            Answer::Dead => "is dead".to_owned(),
            Answer::Silent => format!("does not answer within {ANSWER_TIME_MAX:?}"),
        };
        let action = policy.action(&left, answer);
        let done = match action {
            Action::Leave => Ok(""),
            Action::Keep => Ok(": kept, as agent.on_agent_exit says"),
            Action::Abort => mount::abort(root.as_fd())
                .map(|()| ": fails from now on, and is kept, as agent.on_agent_exit says")
                .map_err(|errno| anyhow::anyhow!("cannot end its connection: {errno}")),
            Action::Unmount => {
                drop(root);
                mount::detach(&left.path, left.id).map(|()| ": unmounted")
            }
        };
        let line = match &done {
            Ok(done) => format!("{shown} {state}{done}\n"),
            Err(error) => format!("{shown} {state}: {error:#}\n"),
        };
        if done.is_err() {
            *exit = Exit::Failed;
        } else if answer == Answer::Silent && action == Action::Unmount {
            // An agent that only stood still mounts it again once it goes on.
            sleep::have_look(&left.ring);
        }
        print(line.as_bytes())?;
    }
    Ok(())
}
