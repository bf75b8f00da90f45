//! A child process that never outlives its test.

use std::{
    ffi::OsStr,
    fs::File,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};

use super::wait;

/// How many bytes of a log a failing test shows.
const LOG_SHOWN_BYTES_MAX: usize = 8_000;

/// A running child process, in a process group of its own, its output in files.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    stdout: PathBuf,
    ended: Option<ExitStatus>,
}

/// What a finished command left.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; nothing if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Process {
    /// Starts a program. `on_orphaned` is the signal that the kernel sends it should this process die.
    pub fn spawn<S: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = S>,
        log_directory: &Path,
        on_orphaned: Signal,
    ) -> Self {
        let log = log_directory.join(format!("{name}.log"));
        let stdout = log_directory.join(format!("{name}.out"));
        let appended =
            |path: &Path| File::options().create(true).append(true).open(path).expect("a log file");
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", on_orphaned.as_str().trim_start_matches("SIG"), "--"])
            .arg(program)
            .args(arguments)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(appended(&stdout))
            .stderr(appended(&log));
        without_configuration(&mut command);
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {}: {e}", program.display()));
        Self { name: name.to_owned(), child, log, stdout, ended: None }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        assert!(self.ended.is_none(), "{} has ended: {:?}", self.name, self.ended);
        kill(self.pid(), signal).unwrap_or_else(|e| panic!("cannot send {signal} to {}: {e}", self.name));
    }

    /// SIGSTOP. When this returns none of its threads goes on, which takes a moment from the signal on.
    #[track_caller]
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG;
        wait::until("a process to stand still", wait::TIMEOUT, || match waitid(Id::Pid(self.pid()), flags) {
            Ok(WaitStatus::Stopped(..)) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("wait for a child");
        }
        self.ended
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let what = format!("{} (pid {}) to end", self.name, self.pid());
        wait::until(&what, within, || self.ended().ok_or_else(|| "it runs".to_owned()))
    }

    /// SIGKILL, and waits until the kernel has taken it away.
    #[track_caller]
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        let status = self.wait(wait::TIMEOUT);
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{} ended by itself: {status}", self.name);
    }

    /// SIGTERM, and waits until it has ended.
    #[track_caller]
    pub fn terminate(&mut self, within: Duration) -> ExitStatus {
        self.terminate_by(Signal::SIGTERM, within)
    }

    /// Sends it `signal`, and waits until it has ended.
    #[track_caller]
    pub fn terminate_by(&mut self, signal: Signal, within: Duration) -> ExitStatus {
        self.signal(signal);
        self.wait(within)
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// What it printed so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stdout).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            // A stopped process dies of SIGKILL too.
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if std::thread::panicking() && !wait::is_interrupted() {
            let ended = self.ended.map_or_else(|| "it ran until now".to_owned(), |s| s.to_string());
            let log = self.log();
            let from = log.len().saturating_sub(LOG_SHOWN_BYTES_MAX);
            let shown = String::from_utf8_lossy(&log.as_bytes()[from..]);
            eprintln!("--- {} ({ended}) logged:\n{shown}", self.name);
        }
    }
}

/// Runs a command to its end.
///
/// # Panics
/// If it cannot be started or is not done in time.
#[track_caller]
pub fn run(command: &mut Command, within: Duration) -> Finished {
    without_configuration(command);
    let (out, err) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
    command.stdin(Stdio::null()).stdout(out.reopen().unwrap()).stderr(err.reopen().unwrap());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait::until(&format!("{command:?} to end"), within, || {
            child.try_wait().expect("wait for a child").ok_or_else(|| "it runs".to_owned())
        })
    }));
    let text = |file: &tempfile::NamedTempFile| {
        String::from_utf8_lossy(&std::fs::read(file.path()).unwrap_or_default()).into_owned()
    };
    let (stdout, stderr) = (text(&out), text(&err));
    match done {
        Ok(status) => Finished { code: status.code(), stdout, stderr },
        Err(panic) => {
            drop(child.kill());
            drop(child.wait());
            eprintln!("--- {command:?} printed:\n{stdout}\n--- and complained:\n{stderr}");
            std::panic::resume_unwind(panic)
        }
    }
}

/// Runs a command that must succeed; gives what it printed.
///
/// # Panics
/// If it does not succeed.
#[track_caller]
pub fn must_run(command: &mut Command) -> String {
    let finished = run(command, wait::TIMEOUT * 4);
    assert_eq!(finished.code, Some(0), "{command:?} failed:\n{}\n{}", finished.stdout, finished.stderr);
    finished.stdout
}

/// The configuration of whoever runs the tests must not reach the programs under test.
fn without_configuration(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if ["BYWASH_", "FIFO2KINESIS_", "AWS_"]
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
}
