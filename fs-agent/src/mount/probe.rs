//! Whether an overlay answers, found out without ever waiting for it.

use std::{
    io,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{fs::statfs, io::Errno};

/// How long an overlay may take to answer.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// How often answers are looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The hidden command that a child runs.
const COMMAND: &str = "probe";

/// The child's exit code for an errno that is none.
const CODE_UNKNOWN: u8 = u8::MAX;

/// What an overlay says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is served.
    Alive,
    /// Its agent is gone, or has given it up.
    Dead(Errno),
    /// Nothing in time.
    Silent,
}

/// A question that is not answered yet.
pub struct Probe(Child);

impl Probe {
    /// Has a child process ask what is mounted at `path`. A thread would not do: one that waits in the kernel for an
    /// overlay cannot always be ended, and a process ends with its last thread.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn ask(path: &Path) -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(COMMAND).arg("--").arg(path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(Self)
    }

    /// What it says by `deadline`. The child is abandoned if it says nothing.
    pub fn answer(mut self, deadline: Instant) -> Answer {
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => {
                    return match status.code() {
                        Some(0) => Answer::Alive,
                        Some(code) => Answer::Dead(Errno::from_raw_os_error(code)),
                        None => Answer::Silent,
                    };
                }
                Ok(None) if Instant::now() < deadline => thread::sleep(LOOK_INTERVAL),
                _ => {
                    // It may not end of that either, and is not waited for.
                    let _ = self.0.kill();
                    return Answer::Silent;
                }
            }
        }
    }
}

/// What the child does: asks, and says the errno by its exit code.
pub fn run(path: &Path) -> u8 {
    match statfs(path) {
        Ok(_) => 0,
        Err(errno) => u8::try_from(errno.raw_os_error()).unwrap_or(CODE_UNKNOWN),
    }
}
