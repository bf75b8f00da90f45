//! Whether an overlay answers, found out without ever waiting for it.

use std::{
    io,
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{fs::fstatfs, io::Errno};

/// How long an overlay may take to answer.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// How often answers are looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The hidden command that a child runs.
const COMMAND: &str = "probe";

/// The child's exit code where nobody serves the overlay.
const CODE_DEAD: u8 = 1;

/// What an overlay says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is served. That who asks is refused is an answer too.
    Alive,
    /// Its connection has ended: its agent is gone, or has given it up.
    Dead,
    /// Nothing in time.
    Silent,
}

/// A question that is not answered yet.
pub struct Probe(Child);

impl Probe {
    /// Has a child process ask the filesystem whose root is `root`. A thread would not do: one that waits in the kernel for
    /// an overlay cannot always be ended, and a process ends with its last thread.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn ask(root: OwnedFd) -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(COMMAND).stdin(root).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(Self)
    }

    /// What it says by `deadline`. The child is abandoned if it says nothing.
    pub fn answer(mut self, deadline: Instant) -> Answer {
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => {
                    return match status.code() {
                        Some(code) if code == i32::from(CODE_DEAD) => Answer::Dead,
                        Some(_) => Answer::Alive,
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

/// What the child does: asks the filesystem that its standard input is on, and says by the exit code whether anybody
/// answers.
pub fn run() -> u8 {
    match fstatfs(io::stdin()) {
        Err(Errno::NOTCONN | Errno::CONNABORTED) => CODE_DEAD,
        _ => 0,
    }
}
