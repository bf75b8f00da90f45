//! What the process that started this one has said in the environment (sd_listen_fds(3), sd_notify(3)).

use std::{
    env,
    os::fd::{OwnedFd, RawFd},
    path::PathBuf,
};

use crate::sys;

/// The name of the descriptor by which a supervisor says that it stops.
pub const STOP_NAME: &str = "supervise.stop";

/// How many descriptors this process was handed.
pub const HANDED_COUNT: &str = "LISTEN_FDS";
/// To which process they were handed.
pub const HANDED_TO: &str = "LISTEN_PID";
/// Their names, with colons between them.
pub const HANDED_NAMES: &str = "LISTEN_FDNAMES";
/// Where what is kept is sent to.
pub const NOTIFY: &str = "NOTIFY_SOCKET";
/// How many descriptors are kept at most; systemd says so since version 254.
pub const STORE_MAX: &str = "FDSTORE";
/// The process that systemd has started, which is not each of its children.
const STARTED: &str = "SYSTEMD_EXEC_PID";

/// What was said.
#[derive(Debug, Default)]
pub struct Environment {
    /// What was handed over, by its name.
    pub handed: Vec<(String, OwnedFd)>,
    /// Where what is kept is sent to.
    pub notify: Option<PathBuf>,
    /// How many descriptors are kept at most, if that was said.
    pub store_max: Option<usize>,
    /// Whether systemd has started this very process.
    pub by_systemd: bool,
}

impl Environment {
    /// Takes over what this process was handed, and removes what said so. To be called once, before there are threads.
    pub fn take() -> Self {
        let own = std::process::id();
        let handed = if number(HANDED_TO) == Some(own) { take_handed() } else { Vec::new() };
        let store_max = number(STORE_MAX).and_then(|most| usize::try_from(most).ok());
        let by_systemd = number(STARTED) == Some(own);
        let notify = env::var_os(NOTIFY).map(PathBuf::from);
        // What is left there is of no use to a child: it names another process.
        if let Err(errno) = sys::remove_variables(&[HANDED_TO, HANDED_COUNT, HANDED_NAMES, STORE_MAX]) {
            tracing::debug!("what this process was handed stays in the environment: {errno}");
        }
        Self { handed, notify, store_max, by_systemd }
    }
}

fn number(variable: &str) -> Option<u32> {
    env::var(variable).ok()?.parse().ok()
}

fn take_handed() -> Vec<(String, OwnedFd)> {
    let count = number(HANDED_COUNT).and_then(|count| RawFd::try_from(count).ok()).unwrap_or(0);
    let Some(behind) = sys::FIRST_HANDED.checked_add(count) else { return Vec::new() };
    let names = env::var(HANDED_NAMES).unwrap_or_default();
    let names = names.split(':').map(str::to_owned).chain(std::iter::repeat(String::new()));
    let handed = sys::handed(sys::FIRST_HANDED..behind).into_iter().zip(names);
    handed.filter_map(|(fd, name)| Some((name, fd?))).collect()
}
