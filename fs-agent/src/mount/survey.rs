//! What is to be overlaid: a directory, and the filesystems that are mounted below it.
//!
//! Each filesystem gets an overlay of its own, which serves a private clone of the mount: a clone has nothing mounted on
//! it, so no look-up crosses into another filesystem, and nobody's unmounting is refused because of the agent.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::mpsc::sync_channel,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use bywash_common::config::Submounts;
use nix::sched::{CloneFlags, unshare};
use rustix::{
    fs::{AtFlags, FileType, StatxFlags, statx},
    mount::{MountPropagationFlags, OpenTreeFlags, mount_change, open_tree},
};

use super::{
    by_descriptors, detach,
    table::{MountId, Mounted, Table},
    walk,
};

/// How long a look beneath dead overlays may take.
const BENEATH_TIME_MAX: Duration = Duration::from_secs(10);

/// Filesystems that are a view of the kernel or of a device, not of files that somebody keeps.
const PSEUDO: [&str; 24] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "resctrl",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sysfs",
    "tracefs",
    "usbfs",
];

/// What becomes of a filesystem below a watched directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It has an overlay.
    Captured,
    /// It is attached to the overlay as it is.
    Passed(Reason),
}

/// Why a filesystem has no overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The configuration says so.
    #[error("directory.submounts = \"pass\"")]
    Configured,
    /// There is nothing to capture.
    #[error("it is read-only")]
    ReadOnly,
    /// A single file is mounted.
    #[error("it is not a directory")]
    NotADirectory,
    /// It holds no files of anybody's.
    #[error("its type holds no files")]
    Pseudo,
    /// The agent must not wait for a program of a user without privilege.
    #[error("a user without privilege serves it")]
    UsersFuse,
    /// Somebody captures it already.
    #[error("another fs-agent overlays it")]
    Overlaid,
    /// It does not answer.
    #[error("it does not answer")]
    Silent,
}

/// What becomes of `mounted`, whose root is `root`, where the configuration says `submounts`.
pub fn treatment_of(mounted: &Mounted, root: BorrowedFd<'_>, submounts: Submounts) -> Treatment {
    // Not asking its server, which may not answer.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let kind =
        || statx(root, "", flags, StatxFlags::TYPE).map(|stat| FileType::from_raw_mode(stat.stx_mode.into()));
    let reason = if submounts == Submounts::Pass {
        Reason::Configured
    } else if mounted.label().is_some() {
        Reason::Overlaid
    } else if PSEUDO.contains(&mounted.fs_type.as_str()) {
        Reason::Pseudo
    } else if mounted.fuse_user().is_some_and(|user| user != 0) {
        Reason::UsersFuse
    } else if mounted.is_read_only() {
        Reason::ReadOnly
    } else if kind().is_ok_and(|kind| kind != FileType::Directory) {
        Reason::NotADirectory
    } else {
        return Treatment::Captured;
    };
    Treatment::Passed(reason)
}

/// A filesystem below a watched directory.
#[derive(Debug)]
pub struct Found {
    /// Where, relative to the directory.
    pub path: PathBuf,
    /// As the table of the namespace that was looked at calls it.
    pub mounted: Mounted,
    /// Its root, in a mount of its own; with all that is mounted on it where it is passed.
    pub clone: OwnedFd,
    /// What becomes of it.
    pub treatment: Treatment,
}

/// A directory with all that is mounted below it.
#[derive(Debug)]
pub struct Survey {
    /// The directory, in a mount of its own that nothing is mounted on.
    pub root: OwnedFd,
    /// What is mounted below it: each behind that on which it is mounted.
    pub below: Vec<Found>,
}

/// Looks at the directory `directory`, whose path is `path`, in the calling thread's namespace.
///
/// # Errors
/// If the table cannot be read, or the directory cannot be cloned.
pub fn survey(directory: BorrowedFd<'_>, path: &Path, submounts: Submounts) -> Result<Survey> {
    if !by_descriptors() {
        // The overlay shows the other filesystems as part of the directory.
        let root = walk::open(directory, Path::new("")).context("cannot open it again")?;
        return Ok(Survey { root, below: Vec::new() });
    }
    let root = clone(directory, Depth::One)
        .with_context(|| format!("cannot clone the mount of {}", path.display()))?;
    let table = Table::read().context("cannot read the table of mounts")?;
    let on = walk::mount_of(directory).context("cannot tell the mount")?;
    Ok(Survey { root, below: below(&table, directory, on, path, submounts) })
}

/// What is mounted below `directory`, which is at `path` on the mount `on`: without what something else hides, and
/// without what is mounted on what is passed.
pub fn below(
    table: &Table,
    directory: BorrowedFd<'_>,
    on: MountId,
    path: &Path,
    submounts: Submounts,
) -> Vec<Found> {
    let mut found = Vec::new();
    let mut parents = VecDeque::from([on]);
    while let Some(parent) = parents.pop_front() {
        for mounted in table.on(parent) {
            let Some(relative) = below_path(mounted, path) else { continue };
            match look(mounted, directory, relative, submounts) {
                Ok(Some(one)) => {
                    if one.treatment == Treatment::Captured {
                        parents.push_back(mounted.id);
                    }
                    found.push(one);
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(
                    "{} is hidden while {} is watched, and is there again afterwards: {error}",
                    mounted.point.display(),
                    path.display()
                ),
            }
        }
    }
    found
}

/// The path of `mounted` relative to `directory`, if it is below.
pub fn below_path<'a>(mounted: &'a Mounted, directory: &Path) -> Option<&'a Path> {
    mounted.point.strip_prefix(directory).ok().filter(|relative| !relative.as_os_str().is_empty())
}

/// None if something else is mounted over it.
fn look(
    mounted: &Mounted,
    directory: BorrowedFd<'_>,
    relative: &Path,
    submounts: Submounts,
) -> io::Result<Option<Found>> {
    let root = walk::open(directory, relative)?;
    if walk::mount_of(&root)? != mounted.id {
        return Ok(None);
    }
    let treatment = treatment_of(mounted, root.as_fd(), submounts);
    let depth = if treatment == Treatment::Captured { Depth::One } else { Depth::All };
    let clone = clone(root.as_fd(), depth)?;
    Ok(Some(Found { path: relative.to_owned(), mounted: mounted.clone(), clone, treatment }))
}

/// How much of a tree of mounts is cloned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// One mount.
    One,
    /// What is mounted on it as well.
    All,
}

/// Clones the mount that `fd` is on, from `fd` down. The clone is attached nowhere, and is gone when it is closed.
///
/// # Errors
/// As open_tree(2) says: `EINVAL` for a mount that may not be cloned.
pub fn clone(fd: BorrowedFd<'_>, depth: Depth) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_NO_AUTOMOUNT;
    if depth == Depth::All {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(fd, "", flags)?)
}

/// Looks at the directory at `path` as if no overlay of the agent of `ring` covered it, and takes none of them off: in a
/// mount namespace of its own, which ends with the look.
///
/// # Errors
/// If the namespace cannot be had, or the look takes longer than [`BENEATH_TIME_MAX`].
pub fn survey_beneath(path: &Path, ring: &str, submounts: Submounts) -> Result<Survey> {
    let (answer, answered) = sync_channel(1);
    let (path_there, ring) = (path.to_owned(), ring.to_owned());
    let look = move || {
        // Nobody waits any more if it took too long.
        let _ = answer.send(look_beneath(&path_there, &ring, submounts));
    };
    // A thread of its own: its namespace is nobody else's, and the filesystem below may not answer at all.
    thread::Builder::new().name("beneath".to_owned()).spawn(look).context("cannot start a thread")?;
    answered
        .recv_timeout(BENEATH_TIME_MAX)
        .with_context(|| format!("{} does not answer within {BENEATH_TIME_MAX:?}", path.display()))?
}

fn look_beneath(path: &Path, ring: &str, submounts: Submounts) -> Result<Survey> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).context("cannot have a mount namespace")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("cannot make a mount namespace private")?;
    while let Some(top) = Table::read()?.top_at(path).filter(|top| top.is_overlay_of(ring)) {
        detach::detach_exactly(path, top.id)?;
    }
    let directory = walk::open_dir(path).with_context(|| format!("cannot open {}", path.display()))?;
    survey(directory.as_fd(), path, submounts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::table::{Device, MountId};

    fn mounted(fs_type: &str, source: &str, options: &str) -> Mounted {
        Mounted {
            id: MountId(2),
            parent: MountId(1),
            device: Device("0:2".to_owned()),
            root: b"/".to_vec(),
            point: "/d/below".into(),
            flags: "rw,relatime".to_owned(),
            fs_type: fs_type.to_owned(),
            source: source.to_owned(),
            options: options.to_owned(),
        }
    }

    #[test]
    fn the_agent_waits_for_no_program_of_a_user_without_privilege() {
        let root = walk::open_dir(Path::new("/")).unwrap();
        let treated = |mounted: &Mounted, submounts| treatment_of(mounted, root.as_fd(), submounts);
        let of_user = mounted("fuse.sshfs", "u@host:", "rw,user_id=1000,group_id=1000");
        assert_eq!(treated(&of_user, Submounts::Capture), Treatment::Passed(Reason::UsersFuse));
        let of_root = mounted("fuse.mergerfs", "pool", "rw,user_id=0,group_id=0,allow_other");
        assert_eq!(treated(&of_root, Submounts::Capture), Treatment::Captured);
        assert_eq!(treated(&of_root, Submounts::Pass), Treatment::Passed(Reason::Configured));
    }

    #[test]
    fn what_holds_nothing_to_capture_is_passed() {
        let root = walk::open_dir(Path::new("/")).unwrap();
        let treated = |mounted: Mounted| treatment_of(&mounted, root.as_fd(), Submounts::Capture);
        assert_eq!(treated(mounted("ext4", "/dev/vdb", "rw")), Treatment::Captured);
        assert_eq!(treated(mounted("ext4", "/dev/vdb", "ro")), Treatment::Passed(Reason::ReadOnly));
        assert_eq!(treated(mounted("proc", "proc", "rw")), Treatment::Passed(Reason::Pseudo));
        assert_eq!(
            treated(mounted("fuse.bywash", "bywash:other", "rw,user_id=0")),
            Treatment::Passed(Reason::Overlaid)
        );
    }
}
