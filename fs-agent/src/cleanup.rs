//! `fs-agent cleanup`: takes away overlays that do not answer, so that nobody who looks there hangs or fails.
//!
//! Fit for a timer, and for what systemd runs after an agent has ended. It goes by the kernel's table of mounts: a
//! configuration that has changed, or that cannot be read, leaves no dead overlay behind.
//!
//! An overlay whose agent is to come back is left alone for `agent.restart_wait`: whoever uses it waits. Nobody holds the ring
//! then, and yet the overlay is not dead, because its connection is kept. Run as ExecStopPost=, the command asks systemd
//! whether an agent follows; if so, it has systemd look again by [`LOOK_AGAIN_UNIT`], which waits.

use std::{
    os::{fd::AsFd, unix::ffi::OsStrExt},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bywash_common::{
    cli::GlobalArgs,
    config::{AgentConfig, Config, OnAgentExit},
    escape::in_line,
    exit::Exit,
    ring,
};

use crate::{
    cli::print,
    fd_store::{self, Successor, Unit},
    mount::{
        self, Left,
        control::Control,
        probe::{ANSWER_TIME_MAX, Answer, Probe},
    },
    sleep,
};

/// The most overlays that are taken off one directory.
const STACK_MAX: usize = 64;

/// How long an overlay may take to say that it is dead, where nobody is left who could answer for it.
const ABANDONED_TIME_MAX: Duration = Duration::from_millis(500);

/// What systemd starts to look whether an agent has followed.
const LOOK_AGAIN_UNIT: &str = "fs-agent-cleanup.service";

/// By what overlays are judged.
enum Policy {
    /// The configuration: overlays of the agent of this ring.
    Configured {
        /// `ring.name`
        ring: String,
        /// `agent.on_agent_exit`
        on_agent_exit: OnAgentExit,
        /// `agent.restart_wait`
        restart_wait: Duration,
    },
    /// Something in the configuration is wrong: overlays of the agent of this ring, or of all if it does not say which, each
    /// by what it says of itself. Only those without an agent: whether one that is silent is to hang nobody can tell.
    Unknown {
        /// `ring.name`
        ring: Option<String>,
    },
}

impl Policy {
    fn of(args: &GlobalArgs) -> Self {
        match Config::load(&args.config) {
            Ok(config) => Self::Configured {
                ring: config.ring.name,
                on_agent_exit: config.agent.on_agent_exit,
                restart_wait: config.agent.restart_wait.0,
            },
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

    /// How long an overlay of the agent of `ring` may take to answer.
    fn patience(&self, ring: &str, now: bool) -> Duration {
        let restart_wait = match self {
            Self::Configured { restart_wait, .. } => *restart_wait,
            Self::Unknown { .. } => AgentConfig::default().restart_wait.0,
        };
        match ring::inspect(ring) {
            // Nobody can answer.
            Ok(ring) if !ring.agent_running && now => ABANDONED_TIME_MAX,
            // Nobody, or one that is just starting.
            Ok(ring) if (!ring.agent_running || ring.listening_table.is_empty()) && !now => {
                restart_wait.max(ANSWER_TIME_MAX)
            }
            _ => ANSWER_TIME_MAX,
        }
    }

    /// What is to be done with an overlay that says `answer`.
    fn action(&self, left: &Left, answer: Answer) -> Action {
        let on_agent_exit = match self {
            Self::Configured { on_agent_exit, .. } => *on_agent_exit,
            Self::Unknown { .. } => left.on_agent_exit,
        };
        // Whether an agent that is silent is to hang nobody can tell, but there is none.
        let is_left = matches!(self, Self::Unknown { .. }) && !is_abandoned(&left.ring);
        match (answer, on_agent_exit) {
            (Answer::Alive, _) => Action::Leave,
            (Answer::Silent, _) if is_left => Action::Leave,
            (_, OnAgentExit::Unmount) => Action::Unmount,
            (Answer::Dead, OnAgentExit::Keep) => Action::Keep,
            (Answer::Silent, OnAgentExit::Keep) => Action::Abort,
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

/// Lazily unmounts each overlay that does not answer, and says what it did. Unless it is to be done `now`, waits a while for
/// an agent that is to come back.
///
/// # Errors
/// If the table of mounts cannot be read.
pub fn cleanup(args: &GlobalArgs, now: bool) -> Result<Exit> {
    let now = match fd_store::follows_ended() {
        None => now,
        Some(Successor::DoesNot) => true,
        Some(Successor::Comes) => match Unit::of_system(LOOK_AGAIN_UNIT).start_anew() {
            Ok(()) => return print("another agent is to follow: looking again later\n"),
            Err(error) => {
                // The agent could not follow while this waits.
                tracing::warn!("nobody takes the overlays off if no agent follows: {error:#}");
                return Ok(Exit::Failed);
            }
        },
    };
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
        clean(found, &policy, now, &mut exit)?;
    }
    Ok(exit)
}

/// Whether nobody serves the overlays of the agent of `ring`, and nobody will go on with them as if nothing had been.
fn is_abandoned(ring: &str) -> bool {
    ring::inspect(ring).is_ok_and(|ring| !ring.agent_running || ring.listening_table.is_empty())
}

/// Has whoever waits for an answer of an overlay that is out of the tree wait no longer: whoever keeps its connection for an
/// agent may go on with that.
fn end(left: &Left) {
    let ended =
        Control::open().and_then(|control| left.devices.iter().try_for_each(|device| control.abort(device)));
    if let Err(error) = ended {
        tracing::warn!("programs may still wait for {}: {error:#}", left.path.display());
    }
}

/// Asks all at once.
fn clean(found: Vec<Left>, policy: &Policy, now: bool, exit: &mut Exit) -> Result<()> {
    let mut asked = Vec::with_capacity(found.len());
    let begin = Instant::now();
    for left in found {
        // Gone or covered since the table was read.
        let Ok(root) = mount::open_exactly(&left.path, left.id) else { continue };
        let patience = policy.patience(&left.ring, now);
        let probe = Probe::ask(root.try_clone()?).context("cannot start a process")?;
        asked.push((left, root, probe, patience));
    }
    for (left, root, probe, patience) in asked {
        let shown = in_line(left.path.as_os_str().as_bytes());
        let answer = probe.answer(begin + patience);
        let state = match answer {
            Answer::Alive => "answers".to_owned(),
            Answer::Dead => "is dead".to_owned(),
            Answer::Silent => format!("does not answer within {patience:?}"),
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
                mount::detach(&left.path, left.id).map(|()| {
                    if answer == Answer::Silent && is_abandoned(&left.ring) {
                        end(&left);
                    }
                    ": unmounted"
                })
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
        print(&line)?;
    }
    Ok(())
}
