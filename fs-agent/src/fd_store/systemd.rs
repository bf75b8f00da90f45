//! What systemd is asked about this process's own unit, and told, over the socket that its managers have for systemctl(1).

use std::{env, fs, io, path::PathBuf};

use anyhow::{Context, Result};
use rustix::process::geteuid;

use super::bus::{Bus, Method, Reader};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: Method<'_> = Method {
    destination: SYSTEMD,
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
    member: "RestartUnit",
};
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const JOB: &str = "org.freedesktop.systemd1.Job";

/// Another job for the unit makes room.
const REPLACE: &str = "replace";

/// Where the managers listen: the system's in this directory, a user's in that of XDG_RUNTIME_DIR.
const RUNTIME_DIR: &str = "/run";
const SOCKET: &str = "systemd/private";

/// A service of systemd's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    name: String,
    /// Where its manager listens.
    manager: PathBuf,
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

/// What decides whether systemd starts a service again that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartRules {
    /// `Restart=`
    pub restart: String,
    /// The exit codes of `RestartPreventExitStatus=`
    pub prevented: Vec<u32>,
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
        let directory = if of_user { env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) } else { None };
        let manager = directory.unwrap_or_else(|| RUNTIME_DIR.into()).join(SOCKET);
        Some(Self { name: service.to_owned(), manager })
    }

    /// The unit called `name` of the system's systemd.
    pub fn of_system(name: &str) -> Self {
        Self { name: name.to_owned(), manager: PathBuf::from(RUNTIME_DIR).join(SOCKET) }
    }

    /// What systemd is about to do with it; none if it has no job.
    ///
    /// # Errors
    /// If systemd does not say.
    pub fn job(&self) -> Result<Option<Job>> {
        let mut bus = self.connect()?;
        let of_job = |mut value: Reader<'_>| Some((value.number()?, value.text()?));
        let (number, path) =
            get(&mut bus, &self.path(), (UNIT, "Job"), "(uo)", |value| of_job(value.structure()))?;
        if number == 0 {
            return Ok(None);
        }
        let kind = get(&mut bus, &path, (JOB, "JobType"), "s", |mut value| value.text())?;
        Ok(Some(match &*kind {
            "restart" | "try-restart" => Job::Restart,
            "start" => Job::Start,
            "stop" => Job::Stop,
            _ => Job::Other,
        }))
    }

    /// What decides whether it is started again.
    ///
    /// # Errors
    /// If systemd does not say.
    pub fn restart_rules(&self) -> Result<RestartRules> {
        let (mut bus, path) = (self.connect()?, self.path());
        let restart = get(&mut bus, &path, (SERVICE, "Restart"), "s", |mut value| value.text())?;
        let codes = |value: Reader<'_>| value.structure().numbers();
        let prevented = get(&mut bus, &path, (SERVICE, "RestartPreventExitStatus"), "(aiai)", codes)?;
        Ok(RestartRules { restart, prevented })
    }

    /// How many descriptors systemd keeps for it at most.
    ///
    /// # Errors
    /// If systemd does not say.
    pub fn store_max(&self) -> Result<usize> {
        self.number("FileDescriptorStoreMax")
    }

    /// How many descriptors systemd keeps for it by now.
    ///
    /// # Errors
    /// If systemd does not say.
    pub fn stored(&self) -> Result<usize> {
        self.number("NFileDescriptorStore")
    }

    fn number(&self, property: &str) -> Result<usize> {
        let mut bus = self.connect()?;
        let number = get(&mut bus, &self.path(), (SERVICE, property), "u", |mut value| value.number())?;
        Ok(usize::try_from(number)?)
    }

    /// Has systemd start it, again if it runs, without waiting for that.
    ///
    /// # Errors
    /// If systemd refuses.
    pub fn start_anew(&self) -> Result<()> {
        let started = self.connect()?.call(MANAGER, &[&self.name, REPLACE]);
        started.map(drop).with_context(|| format!("systemd does not start {}", self.name))
    }

    fn connect(&self) -> Result<Bus> {
        Bus::connect(&self.manager)
            .with_context(|| format!("cannot ask systemd at {}", self.manager.display()))
    }

    /// Its object: letters and digits are themselves, all else is `_` and two digits.
    fn path(&self) -> String {
        let escaped = |(at, byte): (usize, u8)| match byte {
            b'0'..=b'9' if at > 0 => char::from(byte).to_string(),
            b'a'..=b'z' | b'A'..=b'Z' => char::from(byte).to_string(),
            other => format!("_{other:02x}"),
        };
        let name: String = self.name.bytes().enumerate().map(escaped).collect();
        format!("{}/unit/{name}", MANAGER.path)
    }
}

/// A property of an object.
fn get<T>(
    bus: &mut Bus,
    path: &str,
    (interface, property): (&str, &str),
    signature: &str,
    read: impl FnOnce(Reader<'_>) -> Option<T>,
) -> Result<T> {
    let get = Method { destination: SYSTEMD, path, interface: PROPERTIES, member: "Get" };
    let answer = bus.call(get, &[interface, property]);
    answer
        .and_then(|answer| {
            let value = answer.reader().variant(signature).and_then(read);
            value.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
        })
        .with_context(|| format!("systemd does not say {property} of {path}"))
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
    fn objects_are_called_as_systemd_calls_them() {
        let path = |name| Unit::of_system(name).path();
        assert_eq!(path("fs-agent.service"), "/org/freedesktop/systemd1/unit/fs_2dagent_2eservice");
        assert_eq!(path("1_a2@x.service"), "/org/freedesktop/systemd1/unit/_31_5fa2_40x_2eservice");
    }
}
