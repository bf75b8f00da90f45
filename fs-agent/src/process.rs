//! What the agent's process sets up for itself before it does anything for others.

use std::{
    fs,
    sync::mpsc::Sender,
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, ensure};
use nix::sys::{
    resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit},
    signal::{SigSet, Signal},
};
use rustix::{
    fs::Mode,
    process::{geteuid, umask},
};

use crate::{
    event::{Event, LOOK_SIGNAL},
    overlay::{Identity, Limits},
    privilege, sys,
};

/// The signals that the agent handles.
const HANDLED: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, LOOK_SIGNAL];

/// What the agent's process is called (TASK_COMM_LEN of linux/sched.h cuts names at 15 bytes).
const NAME: &str = "fs-agent";

/// The most descriptors of inodes in an overlay. Each keeps an inode of the directory below in memory, about 1 KiB.
const INODE_DESCRIPTORS_MAX: usize = 1 << 16;

/// The most inodes of all overlays together that the kernel caches before it is asked to forget some: they take about
/// 8 MiB, and as much again where threads take turns.
const INODES_MAX: usize = 1 << 14;

/// The fewest inodes of one of many overlays.
const INODES_MIN: usize = 1 << 10;

/// The process's own file mode mask.
const OWN_MASK: Mode = Mode::RWXG.union(Mode::RWXO);

/// The usual soft limit of open files.
const DESCRIPTORS_DEFAULT: u64 = 1024;

/// Proof that what threads inherit was set before there were any: who starts some asks for it.
#[derive(Debug)]
pub struct Prepared {
    /// As whom the workers can act.
    pub identity: Identity,
}

/// Sets what threads inherit: blocked signals, the file mode mask, limits, and capabilities without those that would
/// give callers more than they have.
///
/// # Errors
/// If the process has threads already, or the system refuses.
pub fn prepare() -> Result<Prepared> {
    let threads = fs::read_dir("/proc/self/task").context("cannot look at this process's threads")?.count();
    ensure!(threads == 1, "a bug: {threads} threads run before the process is prepared");
    sys::keep_memory_small();
    block_signals()?;
    // What the agent makes for itself says its mode; whatever does not is nobody else's. Workers make files with masks of
    // their own.
    umask(OWN_MASK);
    // Descriptors for open files, and for inodes that the kernel caches.
    if let Err(error) = raise_descriptor_limit() {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
    // A write over this process's own limit would fail for others.
    if let Err(error) = raise_file_size_limit() {
        tracing::warn!("writes fail beyond this process's own limit of file sizes (RLIMIT_FSIZE): {error}");
    }
    privilege::renounce().context("cannot give up CAP_SYS_RESOURCE")?;
    let identity = Identity::of_this_process();
    if geteuid().is_root() && !identity.can_act_for_others() {
        tracing::warn!(
            "without CAP_SETUID and CAP_SETGID, files that other users create under overlays will belong to root"
        );
    }
    Ok(Prepared { identity })
}

/// The signals that the agent handles: who starts it has them blocked until it does.
pub fn handled() -> SigSet {
    HANDLED.into_iter().collect()
}

/// Blocks signals in this thread and all that it will start; [`watch_signals`] takes those that are handled.
///
/// # Errors
/// If the system refuses.
pub fn block_signals() -> Result<()> {
    let mut signals = handled();
    // A write over this process's own file size limit shall fail with EFBIG, not end it.
    signals.add(Signal::SIGXFSZ);
    signals.thread_block().context("cannot block signals")
}

/// Reports signals as events; they are blocked everywhere else.
///
/// # Errors
/// If the thread cannot be started.
pub fn watch_signals(_blocked: &Prepared, events: Sender<Event>) -> Result<JoinHandle<()>> {
    let signals = handled();
    let watch = move || {
        while let Ok(signal) = signals.wait() {
            if events.send(Event::Signal(signal)).is_err() {
                break;
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(watch).context("cannot start a thread")
}

/// Whether `pid` is an agent's process, by its name.
pub fn is_agent(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == NAME)
}

/// What each of `overlays` may keep for what the kernel caches, and no more than is of use. Of descriptors they have as
/// many together as there can be handles.
pub fn cache_limits(overlays: usize) -> Limits {
    Limits {
        descriptors: (opens_max() / overlays.max(1)).min(INODE_DESCRIPTORS_MAX),
        inodes: (INODES_MAX / overlays.max(1)).max(INODES_MIN),
    }
}

/// How many files and directories can be open under all overlays: three eighths of the descriptors. As many are for
/// inodes, of which those that are open keep theirs, and a quarter is for the process itself.
pub fn opens_max() -> usize {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((DESCRIPTORS_DEFAULT, 0));
    usize::try_from(soft).unwrap_or(usize::MAX) / 8 * 3
}

/// The soft limit becomes the hard one. With the privilege for it, the hard one first becomes what the kernel takes.
///
/// # Errors
/// If the system refuses.
pub fn raise_descriptor_limit() -> nix::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    let most = most.unwrap_or(hard).max(hard);
    if setrlimit(Resource::RLIMIT_NOFILE, most, most).is_ok() || soft == hard {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}

fn raise_file_size_limit() -> nix::Result<()> {
    let (soft, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
    if soft == RLIM_INFINITY {
        Ok(())
    } else {
        setrlimit(Resource::RLIMIT_FSIZE, RLIM_INFINITY, RLIM_INFINITY)
    }
}
