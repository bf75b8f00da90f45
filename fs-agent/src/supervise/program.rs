//! The agent's program, as a supervisor starts it: from its path, which leads to another file after an upgrade.

use std::{
    env,
    ffi::{CStr, CString, OsStr, OsString},
    os::{
        fd::BorrowedFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::SigSet,
    unistd::{Pid, execve},
};

use super::{
    WATCHDOG_TIME,
    kept::{self, Kept},
};
use crate::{
    fd_store::{HANDED_COUNT, HANDED_NAMES, HANDED_TO, NOTIFY, STOP_NAME, STORE_MAX},
    process, sys,
};

/// What the agent finds in its environment from its supervisor alone.
const OWN_VARIABLES: [&str; 7] =
    [HANDED_TO, HANDED_COUNT, HANDED_NAMES, NOTIFY, STORE_MAX, "WATCHDOG_PID", WATCHDOG];
const WATCHDOG: &str = "WATCHDOG_USEC";

/// How long a program may take to say that it can follow, before a supervisor becomes that program.
const TRIAL_TIME_MAX: Duration = Duration::from_secs(2);

/// How often it is looked whether it has.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// A program with what it is started with.
pub struct Program {
    path: CString,
    environment: Vec<CString>,
}

impl Program {
    /// This program, with what this process has in its environment, as the agent of a supervisor that listens at `notify`.
    ///
    /// # Errors
    /// If the system does not say where this program is.
    pub fn own(notify: &OsStr) -> Result<Self> {
        let path = env::current_exe().context("cannot find out where this program is")?;
        let inherited = env::vars_os().filter(|(name, _)| OWN_VARIABLES.iter().all(|own| name != own));
        let own = [
            (OsString::from(NOTIFY), notify.to_owned()),
            (OsString::from(STORE_MAX), OsString::from(kept::most().to_string())),
            (OsString::from(WATCHDOG), OsString::from(WATCHDOG_TIME.as_micros().to_string())),
        ];
        let environment =
            inherited.chain(own).map(|(name, value)| variable(&name, &value)).collect::<Result<_>>()?;
        Ok(Self { path: c_string(path.into_os_string().into_vec())?, environment })
    }

    /// Starts it with `arguments`, hands it `kept`, and `stop`, by which it learns that its supervisor stops.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn start(&self, arguments: &[CString], kept: &Kept, stop: BorrowedFd<'_>) -> Result<Pid> {
        // One that is told something before it listens hears it later.
        self.start_at(&self.path, arguments, (kept, stop), &process::handled())
    }

    /// As [`Self::start`], with this process's own program, whatever is at its path by now.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn start_this(&self, arguments: &[CString], kept: &Kept, stop: BorrowedFd<'_>) -> Result<Pid> {
        self.start_at(c"/proc/self/exe", arguments, (kept, stop), &SigSet::empty())
    }

    fn start_at(
        &self,
        path: &CStr,
        arguments: &[CString],
        (kept, stop): (&Kept, BorrowedFd<'_>),
        blocked: &SigSet,
    ) -> Result<Pid> {
        let descriptors: Vec<_> = kept.descriptors().chain([stop]).collect();
        let names: Vec<_> = kept.names().chain([STOP_NAME]).collect();
        let said =
            [format!("{HANDED_COUNT}={}", descriptors.len()), format!("{HANDED_NAMES}={}", names.join(":"))];
        let said = said.map(|text| CString::new(text).unwrap_or_default());
        let environment = |pid: Pid| {
            let to = CString::new(format!("{HANDED_TO}={pid}")).unwrap_or_default();
            self.environment.iter().cloned().chain(said).chain([to]).collect()
        };
        sys::spawn(path, arguments, environment, &descriptors, blocked).context("cannot start a process")
    }

    /// Becomes it, with `arguments` and one more variable in this process's own environment. Descriptors that are not closed at
    /// an exec stay.
    ///
    /// # Errors
    /// Always, if it returns: why it could not.
    pub fn become_it(&self, arguments: &[CString], (name, value): (&str, &str)) -> Result<()> {
        let inherited = env::vars_os().filter(|(other, _)| other != name);
        let own = (OsString::from(name), OsString::from(value));
        let environment: Vec<_> =
            inherited.chain([own]).map(|(name, value)| variable(&name, &value)).collect::<Result<_>>()?;
        match execve(&self.path, arguments, &environment)? {}
    }

    /// Has what is at the path by now say whether it could follow with `arguments`: `variables` in its environment ask for that.
    ///
    /// # Errors
    /// If it could not, or is no such program. It has then said why on its standard error.
    pub fn try_out(&self, arguments: &[CString], variables: [(&str, &str); 2]) -> Result<()> {
        let text = |text: &CStr| OsString::from_vec(text.to_bytes().to_vec());
        let path = PathBuf::from(text(&self.path));
        let mut asked = Command::new(&path);
        asked.args(arguments.iter().skip(1).map(|argument| text(argument))).envs(variables);
        asked.stdin(Stdio::null()).stdout(Stdio::null());
        let mut asked = asked.spawn().with_context(|| format!("cannot run {}", path.display()))?;
        let deadline = Instant::now() + TRIAL_TIME_MAX;
        loop {
            match asked.try_wait()? {
                Some(status) => {
                    ensure!(status.success(), "{} cannot follow: {status}", path.display());
                    return Ok(());
                }
                None if Instant::now() < deadline => thread::sleep(LOOK_INTERVAL),
                None => {
                    // One that cannot be killed is reaped as an orphan is.
                    let _ = asked.kill();
                    bail!("{}: does not say within {TRIAL_TIME_MAX:?} whether it can follow", path.display());
                }
            }
        }
    }
}

fn variable(name: &OsStr, value: &OsStr) -> Result<CString> {
    c_string([name.as_bytes(), b"=", value.as_bytes()].concat())
}

/// A text for the system.
///
/// # Errors
/// If there is a NUL in it.
pub fn c_string(text: Vec<u8>) -> Result<CString> {
    CString::new(text).context("a NUL in a path, an argument or the environment")
}
