//! `fs-agent cleanup`: takes away overlays that do not answer, so that nobody who looks there hangs or fails.
//!
//! Fit for a timer, and for what systemd runs after an agent has ended.

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, Result};
use bywash_common::{
    cli::GlobalArgs,
    config::{Config, OnAgentExit},
    exit::Exit,
};

use crate::{
    cli::print,
    mount::{
        self,
        probe::{ANSWER_TIME_MAX, Answer, Probe},
    },
};

/// The most overlays that are taken off one directory.
const STACK_MAX: usize = 64;

/// Lazily unmounts each configured directory whose overlay does not answer, and says what it did.
///
/// # Errors
/// If the configuration is wrong or the table of mounts cannot be read.
pub fn cleanup(args: &GlobalArgs) -> Result<Exit> {
    let config = Config::load(&args.config)?;
    let mut paths: Vec<_> = config.directories.iter().map(|directory| directory.path.clone()).collect();
    let mut exit = Exit::Ok;
    // A dead overlay may cover another one.
    for _ in 0..STACK_MAX {
        paths = clean(paths, config.agent.on_agent_exit, &mut exit)?;
        if paths.is_empty() {
            break;
        }
    }
    Ok(exit)
}

/// Asks all at once; gives those that something was taken off.
fn clean(paths: Vec<PathBuf>, on_agent_exit: OnAgentExit, exit: &mut Exit) -> Result<Vec<PathBuf>> {
    let mut asked = Vec::new();
    for path in paths {
        if mount::is_overlaid(&path).context("cannot read the table of mounts")? {
            let probe = Probe::ask(&path).context("cannot start a process")?;
            asked.push((path, probe));
        }
    }
    let deadline = Instant::now() + ANSWER_TIME_MAX;
    let mut cleaned = Vec::new();
    for (path, probe) in asked {
        let shown = path.display();
        let answer = probe.answer(deadline);
        let state = match answer {
            Answer::Alive => "answers".to_owned(),
            Answer::Dead(errno) => format!("is dead ({errno})"),
            Answer::Silent => format!("does not answer within {ANSWER_TIME_MAX:?}"),
        };
        let done = match (answer, on_agent_exit) {
            (Answer::Alive, _) => String::new(),
            (Answer::Dead(_), OnAgentExit::Keep) => ": kept, as agent.on_agent_exit says".to_owned(),
            _ => match mount::detach(&path) {
                Ok(()) => ": unmounted".to_owned(),
                Err(error) => {
                    *exit = Exit::Failed;
                    format!(": {error:#}")
                }
            },
        };
        print(format!("{shown} {state}{done}\n").as_bytes())?;
        if done.ends_with("unmounted") {
            cleaned.push(path);
        }
    }
    Ok(cleaned)
}
