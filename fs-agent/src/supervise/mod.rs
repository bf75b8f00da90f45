//! `fs-agent supervise -- run ...`: the manager's part where there is none, in a container or under a shell.
//!
//! A parent process that keeps for the agent what is to outlive it, by systemd's protocol (see `fd_store`), starts it again when
//! it ends, and takes the overlays off when it does not come back. It has one thread and reads no configuration after its
//! start; what it has to remember has its place from then on.
//!
//! | signal | what it does |
//! |---|---|
//! | SIGTERM, SIGINT | stops the agent, and ends as it does |
//! | SIGHUP, SIGUSR1 | passed on |
//! | SIGUSR2 | the supervisor becomes the program that is at its path by then; the agent goes on |
//! | SIGCHLD | takes what is left of children: of others as well, where it is the first process of a container |

mod command;
mod kept;
mod message;
mod program;
mod reexec;
mod restart_backoff;
mod socket;

use std::{
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bywash_common::exit::Exit;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::Pid,
};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::{check, process, services};
use command::Commands;
use kept::Kept;
use message::{Message, Wish};
use program::Program;
use reexec::Left;
use restart_backoff::RestartBackoff;
use socket::{Inbox, Outer};

/// How long an agent may be silent before it is killed, and started again.
const WATCHDOG_TIME: Duration = Duration::from_secs(30);

/// How much longer than it may take a stop is waited for.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// How long `fs-agent cleanup` may take.
const CLEANUP_TIME_MAX: Duration = Duration::from_secs(20);

/// What has the supervisor become another program.
const REPLACE_SIGNAL: Signal = Signal::SIGUSR2;

/// The signals that are heeded.
const HEEDED: [Signal; 6] =
    [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, REPLACE_SIGNAL];

/// Runs an agent, and another one when that has ended, until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting.
pub fn supervise() -> Result<Exit> {
    // For what is kept.
    if let Err(errno) = process::raise_descriptor_limit() {
        tracing::warn!("cannot raise the limit of open files: {errno}");
    }
    let mut kept = Kept::new(kept::most());
    let is_trial = reexec::is_trial();
    let left = reexec::take(&mut kept)?;
    let commands = Commands::from_own()?;
    let config = check::load(commands.global())?;
    if is_trial {
        left.map(|left| socket::path_of(&left.notify)).transpose()?;
        return Ok(Exit::Ok);
    }
    let signals: SigSet = HEEDED.into_iter().collect();
    signals.thread_block().context("cannot block signals")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&signals, flags).context("cannot wait for signals")?;
    let (child, inbox, stop) = match left {
        Some(Left { child, notify, stop }) => {
            let child =
                child.map(|(pid, ready)| Child { ready: ready.then(Instant::now), ..Child::new(pid) });
            (child, Inbox::kept(notify)?, stop)
        }
        None => (None, Inbox::bind(&config)?, pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?),
    };
    let is_first = child.is_none() && kept.is_empty();
    let program = Program::own(inbox.address())?;
    let supervisor = Supervisor {
        program,
        commands,
        restart_wait: config.agent.restart_wait.0,
        stop_time_max: config.agent.stop_grace.0 + services::STOP_WORK_MAX + STOP_MARGIN,
        inbox,
        outer: Outer::from_environment(),
        signals,
        stop,
        kept,
        child,
        restart_backoff: RestartBackoff::default(),
        was_ready: !is_first,
        missing_since: (!is_first).then(Instant::now),
        start_at: None,
        stop_by: None,
        complained: false,
    };
    supervisor.run()
}

/// The agent that runs.
struct Child {
    pid: Pid,
    /// Since when it listens to everything.
    ready: Option<Instant>,
    /// When it last said something.
    heard: Instant,
}

impl Child {
    fn new(pid: Pid) -> Self {
        Self { pid, ready: None, heard: Instant::now() }
    }
}

struct Supervisor {
    program: Program,
    commands: Commands,
    /// `agent.restart_wait`
    restart_wait: Duration,
    /// The longest that a stop may take.
    stop_time_max: Duration,
    inbox: Inbox,
    outer: Outer,
    signals: SignalFd,
    /// The reading end, which the agent is handed, and the writing end.
    stop: (OwnedFd, OwnedFd),
    kept: Kept,
    child: Option<Child>,
    restart_backoff: RestartBackoff,
    /// Whether there has been an agent that listened to everything.
    was_ready: bool,
    /// Since when nobody serves.
    missing_since: Option<Instant>,
    /// When the agent is started again.
    start_at: Option<Instant>,
    /// When the agent that was told to stop has to have ended.
    stop_by: Option<Instant>,
    /// Whether it was said that something cannot be kept.
    complained: bool,
}

impl Supervisor {
    fn run(mut self) -> Result<Exit> {
        if self.child.is_none() {
            self.start();
        } else {
            tracing::info!("another supervisor has taken over");
            self.missing_since = None;
        }
        loop {
            self.wait()?;
            self.heed_messages();
            if let Some(exit) = self.heed_signals() {
                return Ok(exit);
            }
            if let Some(exit) = self.look_at_time() {
                return Ok(exit);
            }
        }
    }

    /// Until something happens or is due.
    fn wait(&self) -> Result<()> {
        let due = self.due().map_or(PollTimeout::NONE, |due| {
            // Rounded up: to wake too early would be to go round in vain.
            let left = due.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let mut wanted =
            [self.signals.as_fd(), self.inbox.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut wanted, due) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno).context("cannot wait for signals"),
        }
    }

    fn due(&self) -> Option<Instant> {
        let silent = self.child.as_ref().filter(|child| child.ready.is_some());
        let silent = silent.map(|child| child.heard + WATCHDOG_TIME);
        [self.stop_by.or(silent), self.give_up_at(), self.start_at].into_iter().flatten().min()
    }

    fn give_up_at(&self) -> Option<Instant> {
        Some(self.missing_since.filter(|_| self.stop_by.is_none())? + self.restart_wait)
    }

    fn look_at_time(&mut self) -> Option<Exit> {
        let now = Instant::now();
        if self.stop_by.is_some_and(|by| by <= now) {
            tracing::error!("fs-agent has not stopped in time: killing it");
            return Some(self.give_up(Exit::Failed));
        }
        if self.give_up_at().is_some_and(|at| at <= now) {
            let waited = self.restart_wait;
            tracing::error!("fs-agent has not come back within {waited:?} (agent.restart_wait): giving up");
            return Some(self.give_up(Exit::Failed));
        }
        if self.start_at.is_some_and(|at| at <= now) {
            self.start();
        }
        let silent =
            self.child.as_mut().filter(|child| child.ready.is_some() && child.heard + WATCHDOG_TIME <= now);
        if let (Some(child), None) = (silent, self.stop_by) {
            tracing::error!(
                "fs-agent (pid {}) has said nothing for {WATCHDOG_TIME:?}: killing it",
                child.pid
            );
            child.heard = now;
            tell(child.pid, Signal::SIGKILL);
        }
        None
    }

    fn start(&mut self) {
        self.start_at = None;
        if let Err(error) = self.inbox.be_there() {
            tracing::error!("{error:#}");
        }
        match self.program.start(self.commands.run(), &self.kept, self.stop.0.as_fd()) {
            Ok(pid) => self.child = Some(Child::new(pid)),
            Err(error) => {
                tracing::error!("{error:#}");
                self.missing_since.get_or_insert_with(Instant::now);
                self.start_at =
                    self.restart_backoff.ended(Instant::now(), false).map(|wait| Instant::now() + wait);
            }
        }
    }

    /// Heeds what the agent has said so far.
    fn heed_messages(&mut self) {
        while let Some((text, fds)) = self.inbox.receive(self.child.as_ref().map(|child| child.pid)) {
            let message = Message::parse(text);
            match message.wish {
                Wish::Keep(name) => {
                    for fd in fds.drain(..) {
                        if !self.kept.keep(name, fd) && !std::mem::replace(&mut self.complained, true) {
                            tracing::error!("there is no room to keep `{name}`, and what comes after it");
                        }
                    }
                }
                Wish::LetGo(name) => self.kept.let_go(name),
                Wish::Barrier | Wish::None => {}
            }
            // Closes what came along and is not kept: the end of a barrier.
            fds.clear();
            if message.is_forwarded() {
                self.outer.tell(text);
            }
            let Some(child) = &mut self.child else { continue };
            child.heard = Instant::now();
            if message.is_ready {
                child.ready.get_or_insert(child.heard);
                self.was_ready = true;
                self.missing_since = None;
            }
        }
    }

    fn heed_signals(&mut self) -> Option<Exit> {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal =
                i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok())?;
            let exit = match signal {
                Signal::SIGCHLD => self.reap(),
                Signal::SIGTERM | Signal::SIGINT => self.stop(signal),
                REPLACE_SIGNAL => {
                    self.be_replaced();
                    None
                }
                other => {
                    self.child.iter().for_each(|child| tell(child.pid, other));
                    None
                }
            };
            if exit.is_some() {
                return exit;
            }
        }
        None
    }

    /// Takes what is left of children: the agent, and whoever has lost its parent. An agent that follows is started before: with
    /// many files open, what the kernel has of an agent in /proc takes it 20 ms to take away.
    fn reap(&mut self) -> Option<Exit> {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        loop {
            let status = match waitid(Id::All, look) {
                Ok(WaitStatus::StillAlive) | Err(_) => return None,
                Ok(status) => status,
            };
            let is_agent = self.child.as_ref().is_some_and(|child| status.pid() == Some(child.pid));
            let how = match status {
                WaitStatus::Exited(_, code) => Some(How::Exit(code)),
                WaitStatus::Signaled(_, signal, _) => Some(How::Signal(signal)),
                _ => None,
            };
            let exit = how.filter(|_| is_agent).and_then(|how| self.agent_ended(how));
            if self.start_at.is_some_and(|at| at <= Instant::now()) {
                self.start();
            }
            let _ = waitpid(status.pid(), Some(WaitPidFlag::WNOHANG));
            if exit.is_some() {
                return exit;
            }
        }
    }

    fn agent_ended(&mut self, how: How) -> Option<Exit> {
        // What it has said last.
        self.heed_messages();
        let child = self.child.take()?;
        let now = Instant::now();
        if self.stop_by.is_some() {
            return Some(match how {
                How::Exit(0) if self.kept.is_empty() => Exit::Ok,
                // Whoever has told both to stop may have told the agent first: that then made room for one that does not come.
                How::Exit(0) => self.give_up(Exit::Ok),
                _ => self.give_up(Exit::Failed),
            });
        }
        if !self.was_ready && self.kept.is_empty() {
            tracing::error!("fs-agent could not be started: {how}");
            return Some(how.code());
        }
        if how.is_final() {
            tracing::error!("fs-agent could not be started again: {how}");
            return Some(self.give_up(how.code()));
        }
        self.missing_since.get_or_insert(now);
        match self.restart_backoff.ended(now, child.ready.is_some()) {
            Some(wait) => {
                tracing::warn!(
                    "fs-agent (pid {}) has ended ({how}): starting it again in {wait:?}",
                    child.pid
                );
                self.start_at = Some(now + wait);
                None
            }
            None => {
                tracing::error!("fs-agent has ended again ({how}), too often in a minute: giving up");
                Some(self.give_up(Exit::Failed))
            }
        }
    }

    /// Has the agent end for good.
    fn stop(&mut self, signal: Signal) -> Option<Exit> {
        let Some(child) = &self.child else {
            tracing::info!("{signal}: stopping");
            return Some(self.give_up(Exit::Ok));
        };
        if self.stop_by.is_none() {
            tracing::info!("{signal}: stopping");
            self.stop_by = Some(Instant::now() + self.stop_time_max);
            // Whoever reads it finds it there, at any time from now on. The pipe is empty before.
            if let Err(errno) = rustix::io::write(&self.stop.1, b"s") {
                tracing::error!("fs-agent does not learn that this is its end: {errno}");
            }
            let most = self.stop_time_max.as_micros();
            self.outer.tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={most}"));
        }
        tell(child.pid, Signal::SIGTERM);
        None
    }

    /// Takes the overlays off, and whatever is left of the agent. Gives `exit`.
    fn give_up(&mut self, exit: Exit) -> Exit {
        if let Some(child) = self.child.take() {
            tell(child.pid, Signal::SIGKILL);
            let _ = waitpid(child.pid, None);
        }
        if !self.was_ready && self.kept.is_empty() {
            return exit;
        }
        // While what serves them is still kept: who opens a file meanwhile waits, and is in the plain directory then.
        match self.program.start_this(self.commands.cleanup(), &self.kept, self.stop.0.as_fd()) {
            Ok(pid) => {
                if !ends_well_within(pid, CLEANUP_TIME_MAX) {
                    tracing::error!("overlays may be left: see what `fs-agent cleanup` says");
                }
            }
            Err(error) => tracing::error!("overlays are left for `fs-agent cleanup`: {error:#}"),
        }
        self.kept.clear();
        exit
    }

    /// Becomes what is at this program's path by now.
    fn be_replaced(&mut self) {
        let child = self.child.as_ref().map(|child| (child.pid, child.ready.is_some()));
        let own = [self.inbox.as_fd(), self.stop.0.as_fd(), self.stop.1.as_fd()];
        let arguments: &[CString] = self.commands.own();
        if let Err(error) = reexec::follow(&self.program, arguments, child, own, &self.kept) {
            tracing::error!("{REPLACE_SIGNAL}: this supervisor goes on: {error:#}");
        }
    }
}

/// How an agent has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Exit(i32),
    Signal(Signal),
}

impl How {
    /// Whether it would end so again: what it was told is wrong.
    fn is_final(self) -> bool {
        matches!(self.code(), Exit::Config | Exit::Usage)
    }

    fn code(self) -> Exit {
        match self {
            Self::Exit(code) if code == Exit::Ok as i32 => Exit::Ok,
            Self::Exit(code) if code == Exit::Config as i32 => Exit::Config,
            Self::Exit(code) if code == Exit::Usage as i32 => Exit::Usage,
            Self::Exit(_) | Self::Signal(_) => Exit::Failed,
        }
    }
}

impl std::fmt::Display for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "{signal}"),
        }
    }
}

/// That the process has ended meanwhile is found out elsewhere.
fn tell(pid: Pid, signal: Signal) {
    if let Err(errno) = kill(pid, signal) {
        tracing::debug!("{signal} to {pid}: {errno}");
    }
}

/// Waits for a child; one that takes too long is left alone.
fn ends_well_within(pid: Pid, most: Duration) -> bool {
    /// How often it is looked whether it has ended.
    const LOOK_INTERVAL: Duration = Duration::from_millis(10);
    let deadline = Instant::now() + most;
    while Instant::now() < deadline {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => std::thread::sleep(LOOK_INTERVAL),
            Ok(WaitStatus::Exited(_, code)) => return code == 0,
            Ok(_) | Err(_) => return false,
        }
    }
    false
}
