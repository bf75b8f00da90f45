//! Re-execution of the supervisor: it replaces itself with the program that is at its path by then (execve(2)), and keeps all
//! descriptors of its store.
//!
//! The process stays the same, and so do its children and its descriptors. A memory file lists what each descriptor is.
//!
//! A supervisor that failed after execve would leave its agent without a supervisor, and end a container. So the new program is
//! tried out first, in a child process: it reports whether it understands the memory file and the configuration. A version
//! that does not know of the trial takes itself for the re-executed supervisor, finds that its process id differs, and fails.

use std::{
    env,
    ffi::CString,
    fs::File,
    io::{Read, Seek, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    str::{FromStr, Lines},
};

use anyhow::{Context, Result};
use nix::unistd::Pid;
use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::{FdFlags, fcntl_setfd},
};

use super::{kept::Kept, program::Program};
use crate::sys;

/// The number of the memory file, in the environment of the supervisor that follows.
const VARIABLE: &str = "BYWASH_SUPERVISED";

/// In the environment of one that is tried out: the number of the process that it would be.
const TRIAL: &str = "BYWASH_SUPERVISED_TRIAL";

/// The first line of the memory file. Another version of the supervisor that says something else has another one.
const HEAD: &str = "bywash supervise 1";

/// What a supervisor leaves to the one that follows, beside what it keeps.
pub struct Left {
    /// The agent that runs, and whether it was ready.
    pub child: Option<(Pid, bool)>,
    /// Where the agent's messages arrive.
    pub notify: OwnedFd,
    /// By which the agent learns that its supervisor stops: the reading end and the writing end.
    pub stop: (OwnedFd, OwnedFd),
}

/// Has `program` follow this supervisor, with `arguments`.
///
/// # Errors
/// Always, if it returns: why it could not. All is then as it was.
pub fn follow(
    program: &Program,
    arguments: &[CString],
    child: Option<(Pid, bool)>,
    own: [BorrowedFd<'_>; 3],
    kept: &Kept,
) -> Result<()> {
    let mut text = format!("{HEAD}\n{}\n", Pid::this());
    match child {
        Some((pid, ready)) => text.push_str(&format!("{pid} {}\n", if ready { "ready" } else { "starting" })),
        None => text.push_str("none\n"),
    }
    for fd in own {
        text.push_str(&format!("{}\n", fd.as_raw_fd()));
    }
    for (name, fd) in kept.names().zip(kept.descriptors()) {
        text.push_str(&format!("{} {name}\n", fd.as_raw_fd()));
    }
    let mut said =
        File::from(memfd_create("supervise", MemfdFlags::CLOEXEC).context("cannot make a memory file")?);
    said.write_all(text.as_bytes()).and_then(|()| said.rewind()).context("cannot write a memory file")?;
    let all = || own.into_iter().chain(kept.descriptors()).chain([said.as_fd()]);
    let failed = all()
        .try_for_each(|fd| fcntl_setfd(fd, FdFlags::empty()))
        .map_err(anyhow::Error::from)
        .and_then(|()| {
            let number = said.as_raw_fd().to_string();
            program.try_out(arguments, [(VARIABLE, &number), (TRIAL, &Pid::this().to_string())])?;
            program.become_it(arguments, (VARIABLE, &number))
        });
    for fd in all() {
        fcntl_setfd(fd, FdFlags::CLOEXEC).context("a descriptor would be left to the agent")?;
    }
    failed
}

/// What a supervisor has left that this process was before; what it has kept goes to `kept`. To be called once, before anything
/// else is opened. None if this process is the first one.
///
/// # Errors
/// If it cannot be understood.
pub fn take(kept: &mut Kept) -> Result<Option<Left>> {
    let Some(number) = variable::<RawFd>(VARIABLE) else { return Ok(None) };
    let owner = variable(TRIAL).unwrap_or_else(|| Pid::this().as_raw());
    sys::remove_variables(&[VARIABLE, TRIAL]).context("cannot change the environment")?;
    let path = format!("/proc/self/fd/{number}");
    let mut text = String::new();
    File::open(&path)
        .and_then(|mut file| file.read_to_string(&mut text))
        .context("cannot read what was left")?;
    let mut lines = text.lines();
    let is_for_this = lines.next() == Some(HEAD) && lines.next() == Some(&*owner.to_string());
    let (child, own) = is_for_this
        .then(|| Some((parse_child(lines.next()?)?, parse_own(&mut lines)?)))
        .flatten()
        .with_context(|| {
            format!("another version of the supervisor has left what this one does not understand: {text:?}")
        })?;
    let parts: Vec<(RawFd, &str)> = lines
        .map(|line| line.split_once(' ').and_then(|(fd, name)| Some((fd.parse().ok()?, name))))
        .collect::<Option<_>>()
        .context("what was left is damaged")?;
    let mut fds =
        sys::handed(own.into_iter().chain(parts.iter().map(|(fd, _)| *fd)).chain([number])).into_iter();
    let mut next = || fds.next().flatten().context("a descriptor that was left is not there");
    let (notify, stop) = (next()?, (next()?, next()?));
    for (_, name) in &parts {
        kept.keep(name, next()?);
    }
    Ok(Some(Left { child, notify, stop }))
}

/// Whether this process is only to say whether it could follow. To be asked before [`take`].
pub fn is_trial() -> bool {
    env::var_os(TRIAL).is_some()
}

fn variable<T: FromStr>(name: &str) -> Option<T> {
    env::var(name).ok()?.parse().ok()
}

fn parse_child(line: &str) -> Option<Option<(Pid, bool)>> {
    if line == "none" {
        return Some(None);
    }
    let (pid, state) = line.split_once(' ')?;
    Some(Some((Pid::from_raw(pid.parse().ok()?), state == "ready")))
}

fn parse_own(lines: &mut Lines<'_>) -> Option<[RawFd; 3]> {
    let mut next = || lines.next()?.parse().ok();
    Some([next()?, next()?, next()?])
}
