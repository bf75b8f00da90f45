//! What systemd is asked about this process's own unit, by systemctl(1).

use std::{
    fs, io,
    io::Read,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::geteuid;

/// How long systemd may take to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// How often it is looked whether it has.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// A service of systemd's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    name: String,
    /// Whether a user's own systemd runs it.
    of_user: bool,
}

/// What systemd is about to do with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Stops it, to start it again.
    Restart,
    /// Starts it.
    Start,
    /// Stops it.
    Stop,
    /// Something else.
    Other,
}

impl Unit {
    /// The unit that this process belongs to.
    pub fn own() -> Option<Self> {
        Self::of_cgroup(&fs::read_to_string("/proc/self/cgroup").ok()?)
    }

    fn of_cgroup(text: &str) -> Option<Self> {
        let path = text.lines().find_map(|line| {
            let (hierarchy, path) = line.split_once(':')?.1.split_once(':')?;
            matches!(hierarchy, "" | "name=systemd").then_some(path)
        })?;
        let service = path.rsplit('/').find(|part| part.ends_with(".service"))?;
        let of_user = !geteuid().is_root() && path.split('/').any(|part| part.starts_with("user@"));
        Some(Self { name: service.to_owned(), of_user })
    }

    /// The unit called `name` of the system's systemd.
    pub fn of_system(name: &str) -> Self {
        Self { name: name.to_owned(), of_user: false }
    }

    /// What systemd is about to do with it; none if it has no job.
    ///
    /// # Errors
    /// If systemd does not say.
    pub fn job(&self) -> Result<Option<Job>> {
        let said = self.ask(&["list-jobs", "--no-legend", "--plain"])?;
        Ok(job_in(&said))
    }

    /// A property of the unit.
    ///
    /// # Errors
    /// If systemd does not say.
    pub fn property(&self, name: &str) -> Result<String> {
        let said = self.ask(&["show", "--value", &format!("--property={name}")])?;
        Ok(said.trim().to_owned())
    }

    /// Has systemd start it, again if it runs, without waiting for that.
    ///
    /// # Errors
    /// If systemd refuses.
    pub fn start_anew(&self) -> Result<()> {
        self.ask(&["restart", "--no-block"]).map(drop)
    }

    fn ask(&self, what: &[&str]) -> Result<String> {
        let mut command = Command::new("systemctl");
        if self.of_user {
            command.arg("--user");
        }
        command.args(what).args(["--no-pager", "--no-ask-password", "--"]).arg(&self.name);
        output_of(&mut command).with_context(|| format!("systemctl {} {}", what[0], self.name))
    }
}

/// The first job of what `systemctl list-jobs` lists: number, unit, type, state.
fn job_in(listed: &str) -> Option<Job> {
    let line = listed.lines().find(|line| !line.trim().is_empty())?;
    Some(match line.split_whitespace().nth(2)? {
        "restart" | "try-restart" => Job::Restart,
        "start" => Job::Start,
        "stop" => Job::Stop,
        _ => Job::Other,
    })
}

/// What a command prints, if it ends well in time.
fn output_of(command: &mut Command) -> Result<String> {
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = piped.spawn().context("cannot be started")?;
    let deadline = Instant::now() + ANSWER_TIME_MAX;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() < deadline => thread::sleep(LOOK_INTERVAL),
            None => {
                child.kill().and_then(|()| child.wait().map(drop)).or_else(already_ended)?;
                bail!("no answer within {ANSWER_TIME_MAX:?}");
            }
        }
    };
    ensure!(status.success(), "{status}");
    let mut text = String::new();
    child.stdout.take().context("no output")?.read_to_string(&mut text)?;
    Ok(text)
}

fn already_ended(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::InvalidInput { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_found_in_either_kind_of_cgroup() {
        let named = |text| Unit::of_cgroup(text).map(|unit| unit.name);
        assert_eq!(named("0::/system.slice/fs-agent.service\n").as_deref(), Some("fs-agent.service"));
        let both = "12:pids:/system.slice/a.service\n1:name=systemd:/system.slice/b.service\n";
        assert_eq!(named(both).as_deref(), Some("b.service"));
        for none in ["", "0::/\n", "0::/user.slice/user-0.slice/session-1.scope\n", "nonsense"] {
            assert_eq!(named(none), None, "{none}");
        }
    }

    #[test]
    fn jobs_are_told_apart() {
        assert_eq!(job_in("123 fs-agent.service restart running\n"), Some(Job::Restart));
        assert_eq!(job_in("123 fs-agent.service stop    running\n"), Some(Job::Stop));
        assert_eq!(job_in("1 fs-agent.service start waiting\n"), Some(Job::Start));
        assert_eq!(job_in("1 fs-agent.service reload running\n"), Some(Job::Other));
        assert_eq!(job_in(""), None);
        assert_eq!(job_in("\n"), None);
    }
}
