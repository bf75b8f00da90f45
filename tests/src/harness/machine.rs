//! A machine with a systemd of its own: a Debian root in a container of systemd-nspawn, with this machine's kernel, network
//! and /dev/fuse.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    PREFIX, Process,
    process::{self, Finished},
    program, target_directory, temporary_directory, wait,
};
use crate::resident::Report;

/// From its start to its last unit, on a busy machine.
const BOOT_TIME_MAX: Duration = Duration::from_secs(90);
/// Longer than the units may take to stop.
const HALT_TIME_MAX: Duration = Duration::from_secs(120);
/// The longest that a command in it takes: a package is installed while everything else is busy.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(180);

/// Starts systemd-nspawn in a control group of its own: without a systemd outside it takes the one in which it finds itself, and
/// two machines in one would kill each other's processes.
const START: &str = r#"
group=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)/$1
mkdir -p "$group" && echo $$ >"$group/cgroup.procs"
exec systemd-nspawn -q -D "$2" -M "$1" --boot --register=no --keep-unit --bind=/dev/fuse --capability=all --console=pipe
"#;

/// systemd-nspawn's exit code when the machine wants to be started again.
const REBOOT: i32 = 133;

/// A running machine. It is gone when this is dropped.
pub struct Machine {
    process: Process,
    root: PathBuf,
    name: String,
    // Removed after the process is gone: fields are dropped in order.
    directory: tempfile::TempDir,
}

impl Machine {
    /// Where `make packages-test` puts the root of a release.
    pub fn root(release: &str) -> PathBuf {
        target_directory().join("packages/roots").join(release)
    }

    /// Why there can be no machines here, if so.
    pub fn obstacle(root: &Path) -> Option<String> {
        if !nix::unistd::geteuid().is_root() {
            return Some("not root".to_owned());
        }
        if Command::new("systemd-nspawn").arg("--version").output().is_err() {
            return Some("systemd-nspawn is not there: make packages-test installs it".to_owned());
        }
        let is_root =
            ["usr/bin/systemctl", "usr/bin/python3"].iter().all(|program| root.join(program).exists());
        (!is_root).then(|| format!("there is no root in {}: make packages-test makes it", root.display()))
    }

    /// Boots a copy of a root.
    ///
    /// # Panics
    /// If it is not up in time.
    #[track_caller]
    pub fn boot(original: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let directory = temporary_directory();
        let root = directory.path().join("root");
        process::must_run(Command::new("cp").args(["-a", "--reflink=auto"]).args([original, &root]));
        fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n").expect("a table of hosts");
        let name = format!("{PREFIX}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let process = start(&name, &root, directory.path());
        let mut machine = Self { process, root, name, directory };
        machine.is_up();
        machine
    }

    /// Waits for a boot to end.
    #[track_caller]
    fn is_up(&mut self) {
        wait::until("the machine to be up", BOOT_TIME_MAX, || {
            assert!(self.process.ended().is_none(), "the machine has ended");
            self.first_process().ok_or_else(|| "it has no first process yet".to_owned())?;
            let state = self.run("systemctl is-system-running");
            match state.stdout.trim() {
                // A kernel that takes no modules from a container makes no difference here.
                "running" | "degraded" => Ok(()),
                other => Err(format!("it is {other} {}", state.stderr)),
            }
        });
    }

    fn first_process(&self) -> Option<Pid> {
        let pid = self.process.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok().map(Pid::from_raw)
    }

    /// Runs a command of the shell in it.
    #[track_caller]
    pub fn run(&self, command: &str) -> Finished {
        let first = self.first_process().map_or_else(|| "0".to_owned(), |pid| pid.to_string());
        let mut enter = Command::new("nsenter");
        enter.args(["--target", &first, "--all", "--", "/bin/sh", "-c", command]);
        enter
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive");
        process::run(&mut enter, COMMAND_TIME_MAX)
    }

    /// Runs a command that must succeed; gives what it printed, without the blanks around it.
    #[track_caller]
    pub fn must(&self, command: &str) -> String {
        let finished = self.run(command);
        assert_eq!(finished.code, Some(0), "`{command}` failed:\n{}{}", finished.stdout, finished.stderr);
        finished.stdout.trim().to_owned()
    }

    /// Where a file of its root is, seen from outside: not one in a mount of its own.
    pub fn outside(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The main process of a unit, by the machine's own numbers; 0 if there is none.
    #[track_caller]
    pub fn main_pid(&self, unit: &str) -> u32 {
        self.property(unit, "MainPID").parse().expect("a number")
    }

    /// What systemd knows of a unit.
    #[track_caller]
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.must(&format!("systemctl show --value -p {name} {unit}"))
    }

    /// Reboots it in an orderly way.
    #[track_caller]
    pub fn reboot(&mut self) {
        self.must("systemctl reboot");
        let status = self.process.wait(HALT_TIME_MAX);
        assert_eq!(status.code(), Some(REBOOT), "the machine ended with {status}");
        self.process = start(&self.name, &self.root, self.directory.path());
        self.is_up();
    }

    /// Has a program with everything that programs have in a directory live in a new one, as a unit of that name.
    #[track_caller]
    pub fn settle(&self, name: &str, directory: &str, files: u32) {
        let resident = self.outside("/root/resident");
        if !resident.exists() {
            fs::copy(program("resident"), resident).expect("a copy of the resident");
        }
        // What maps files is a process of its own, which is told by the resident to end.
        self.must(&format!(
            "mkdir {directory} && systemd-run -q --unit={name} -p StandardOutput=file:/root/{name}.json -p StandardError=journal -p KillMode=mixed \
             -p LimitNOFILE=65536 -p TimeoutStopSec=120 /root/resident --files={files} --pause-us=5000 {directory}"
        ));
        wait::until("the resident to settle", wait::TIMEOUT, || {
            let settled = self.run(&format!("test -e {directory}/settled"));
            if settled.code == Some(0) { Ok(()) } else { Err(self.journal(name)) }
        });
    }

    /// Ends that; gives its report.
    #[track_caller]
    pub fn leave(&self, name: &str) -> Report {
        self.must(&format!("systemctl stop {name}"));
        let said = fs::read_to_string(self.outside(&format!("/root/{name}.json"))).expect("a report");
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}{}", self.journal(name)))
    }

    /// Sends a signal to a unit's main process, and waits until another one has taken its place.
    #[track_caller]
    pub fn signal_and_replace(&self, unit: &str, signal: &str) {
        let before = self.main_pid(unit);
        self.must(&format!("systemctl kill --kill-whom=main --signal={signal} {unit}"));
        wait::until("another process", wait::TIMEOUT, || {
            let now = self.main_pid(unit);
            let state = self.property(unit, "ActiveState");
            let runs = now != 0 && now != before && state == "active";
            if runs { Ok(()) } else { Err(format!("{unit} is {state}, with process {now}")) }
        });
    }

    /// What its journal says of a unit since the boot.
    pub fn journal(&self, unit: &str) -> String {
        self.run(&format!("journalctl --no-pager -q -b -u {unit} | tail -n 40")).stdout
    }
}

fn start(name: &str, root: &Path, log_directory: &Path) -> Process {
    let start = ["-c", START, "sh", name, root.to_str().expect("a path of UTF-8")];
    Process::spawn("machine", Path::new("/bin/sh"), start, log_directory, Signal::SIGKILL)
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.process.ended().is_none() {
            // systemd-nspawn that is killed leaves its machine running; one whose machine dies ends.
            if let Some(first) = self.first_process() {
                kill(first, Signal::SIGKILL).ok();
            }
            wait::quietly(wait::TIMEOUT, || self.process.ended().is_some());
        }
        // What was in it dies with its first process, a moment later; then its control groups can be removed.
        let groups = format!("*/{}*", self.name);
        wait::quietly(wait::TIMEOUT, || {
            let mut find = Command::new("find");
            find.args(["/sys/fs/cgroup", "-depth", "-type", "d", "-path", &groups, "!", "-delete"]);
            // What it prints could not be removed yet.
            find.output().is_ok_and(|left| left.stderr.is_empty())
        });
    }
}
