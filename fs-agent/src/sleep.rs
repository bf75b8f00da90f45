//! `fs-agent sleep` and `fs-agent wake`: the directories under `agent.sleep` are not listened to for a while.
//!
//! As in fuse_kafka, a directory that sleeps has no overlay: programs write there as if the agent did not run. That the
//! agent sleeps is a file, so that it does so after a restart as well, until the machine is rebooted or the agent is
//! woken. The commands make or remove the file and have a running agent look at it.

use std::{
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bywash_common::{
    cli::GlobalArgs,
    config::{Config, DirectoryConfig},
    escape::in_line,
    exit::Exit,
    make::{Access, make_directories},
    ring::{self, Inspected, RingError},
    status::{AgentCounter, ListeningKind},
};
use nix::{sys::signal::kill, unistd::Pid};
use rustix::{
    fs::{Mode, OFlags, open},
    process::geteuid,
};

use crate::{cli::print, event::LOOK_SIGNAL, process};

/// How long the commands wait for a running agent to do it.
const DONE_TIME_MAX: Duration = Duration::from_secs(10);

/// How often they look.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Where root's agent remembers that it sleeps.
const STATE_DIR_ROOT: &str = "/run/bywash";

/// Anybody may know that the agent sleeps.
const STATE_DIR_MODE: u32 = 0o755;

/// The same for the file that says so by being there.
const STATE_FILE_MODE: u32 = 0o644;

/// There is nothing to put to sleep.
#[derive(Debug, thiserror::Error)]
pub enum NothingSleeps {
    /// No directory is named.
    #[error("agent.sleep names no directory: list there what `fs-agent sleep` shall stop listening to")]
    Empty,
    /// None of those that are named is listened to.
    #[error("no configured directory is, or lies below, one that agent.sleep names ({0})")]
    Elsewhere(String),
}

/// Stops listening to the directories under `agent.sleep`.
///
/// # Errors
/// If there are none, the state cannot be written, or the running agent does not do it in time.
pub fn sleep(args: &GlobalArgs) -> Result<Exit> {
    let config = args.load_config()?;
    let sleepers = sleepers_of(&config)?;
    let file = state_file(&config).context("there is nowhere to remember it: set agent.state_dir")?;
    let written = file.parent().map_or(Ok(()), make_state_dir).and_then(|()| remember(&file));
    written.with_context(|| format!("cannot write {}: set agent.state_dir", file.display()))?;
    have_done(&config, &sleepers, ListeningKind::AsleepDirectory, "not listening on")
}

/// Listens again to what sleeps.
///
/// # Errors
/// If there is nothing that could sleep, the state cannot be removed, or the running agent does not do it in time.
pub fn wake(args: &GlobalArgs) -> Result<Exit> {
    let config = args.load_config()?;
    let sleepers = sleepers_of(&config)?;
    let file = state_file(&config).context("there is nowhere to remember it: set agent.state_dir")?;
    match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", file.display()));
        }
        _ => {}
    }
    have_done(&config, &sleepers, ListeningKind::Directory, "listening on")
}

/// The directories that are not to be listened to now.
pub fn asleep(config: &Config) -> Vec<PathBuf> {
    let sleeps = state_file(config).is_some_and(|file| file.exists());
    if sleeps { sleepers(config).map(|directory| directory.path.clone()).collect() } else { Vec::new() }
}

/// The configured directories that can sleep.
fn sleepers(config: &Config) -> impl Iterator<Item = &DirectoryConfig> {
    let can_sleep = |directory: &&DirectoryConfig| {
        config.agent.sleep.iter().any(|sleeper| directory.path.starts_with(sleeper))
    };
    config.directories.iter().filter(can_sleep)
}

fn sleepers_of(config: &Config) -> Result<Vec<PathBuf>, NothingSleeps> {
    let named = &config.agent.sleep;
    let found: Vec<_> = sleepers(config).map(|directory| directory.path.clone()).collect();
    match (named.is_empty(), found.is_empty()) {
        (true, _) => Err(NothingSleeps::Empty),
        (_, true) => {
            let named: Vec<_> = named.iter().map(|path| path.display().to_string()).collect();
            Err(NothingSleeps::Elsewhere(named.join(", ")))
        }
        _ => Ok(found),
    }
}

/// The file that is there while the agent of this ring sleeps.
fn state_file(config: &Config) -> Option<PathBuf> {
    Some(state_dir(config)?.join(format!("{}.asleep", config.ring.name)))
}

/// Where there is a place for what outlives the agent and not the machine, if there is one.
pub fn state_dir(config: &Config) -> Option<PathBuf> {
    let default = || match geteuid().is_root() {
        true => Some(PathBuf::from(STATE_DIR_ROOT)),
        false => Some(PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?).join("bywash")),
    };
    config.agent.state_dir.clone().or_else(default)
}

/// Makes the directory of the state.
///
/// # Errors
/// As mkdir(2) says.
pub fn make_state_dir(directory: &Path) -> io::Result<()> {
    make_directories(directory, Access::own(STATE_DIR_MODE))
}

/// Makes the file of the state. What is there stays, and a symbolic link in its place is not followed: the directory may be a
/// user's.
fn remember(file: &Path) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open(file, flags, Mode::from_raw_mode(STATE_FILE_MODE))?;
    Ok(())
}

/// Has the running agent look at the state, and waits until it says that `directories` are what is `wanted`.
fn have_done(config: &Config, directories: &[PathBuf], wanted: ListeningKind, said: &str) -> Result<Exit> {
    let name = &config.ring.name;
    let begin = Instant::now();
    let mut told = None;
    loop {
        let Some(agent) = running_agent(name)? else {
            return print("fs-agent is not running: it will take effect when it starts\n");
        };
        let is_done = |path: &PathBuf| {
            agent.listening_table.iter().any(|listening| listening.kind == wanted && listening.path == *path)
        };
        if directories.iter().all(is_done) {
            let lines: String = directories
                .iter()
                .map(|path| format!("{said} {}\n", in_line(path.as_os_str().as_bytes())))
                .collect();
            return print(&lines);
        }
        // One that has just started may have looked before, and is another one.
        let pid = agent.agent(AgentCounter::Pid);
        if told != Some(pid) {
            tell(pid)?;
            told = Some(pid);
        }
        if begin.elapsed() > DONE_TIME_MAX {
            bail!("fs-agent (pid {pid}) has not done it within {DONE_TIME_MAX:?}: its log says why");
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

/// Has the agent of `ring`, if one runs, compare what it listens to with what it shall listen to.
pub fn have_look(ring: &str) {
    let Ok(Some(agent)) = running_agent(ring) else { return };
    if let Err(error) = tell(agent.agent(AgentCounter::Pid)) {
        tracing::warn!("{error:#}");
    }
}

fn running_agent(ring: &str) -> Result<Option<Inspected>> {
    Ok(RingError::or_none(ring::inspect(ring))?.filter(|ring| ring.agent_running))
}

fn tell(pid: u64) -> Result<()> {
    let id = i32::try_from(pid).context("the agent's process id is impossible")?;
    // In another process namespace the number would be somebody else's.
    if !process::is_agent(id) {
        bail!("the agent (pid {pid} where it runs) cannot be told from here: run this command beside it");
    }
    kill(Pid::from_raw(id), LOOK_SIGNAL).with_context(|| format!("cannot tell fs-agent (pid {pid})"))
}
