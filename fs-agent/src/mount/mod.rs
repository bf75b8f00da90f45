//! Where overlays are mounted: what a directory must be, what is mounted below it, mounting, recovery, unmounting.
//!
//! Mounts are handled by descriptors and by the kernel's numbers for them. A path is walked once, without symbolic links;
//! what was found there is what is looked at, cloned, covered and given back.

mod attach;
pub mod control;
mod detach;
pub mod label;
pub mod probe;
pub mod survey;
pub mod table;
pub mod walk;
pub mod watch;

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Result, bail};
use bywash_common::{
    config::DirectoryConfig,
    make::{Access, make_directories},
};
use rustix::{
    fs::{CWD, readlinkat},
    io::Errno,
    mount::{FsOpenFlags, fsopen},
    process::geteuid,
};

pub use attach::{Connected, Place, attach, connect, mount_by_path};
pub use detach::{
    Cover, Dead, Left, abort, detach, detach_fd, open_exactly, overlays, recover, recover_forgotten,
};
use table::Table;

use crate::privilege::{may_administer, others_allowed};

/// Mounts and unmounts for those who may not.
const HELPER: &str = "fusermount3";
const DEVICE: &str = "/dev/fuse";

/// The mode of a directory that the agent makes, and of those above it that it has to make too.
const MODE_OF_NEW: u32 = 0o755;

/// A configured directory cannot be overlaid.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// There is nothing to do.
    #[error(
        "no directory and no FIFO is configured: give --directory DIR or --fifo PATH, or [[directory]] or [[fifo]] in the \
         configuration file"
    )]
    Nothing,
    /// It is not there.
    #[error("the directory {} does not exist: create it, or set `create = true` for it", .0.display())]
    Missing(PathBuf),
    /// It is something else.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// A symbolic link leads there.
    #[error(
        "{} is reached through a symbolic link: write {}, the path that events will have",
        path.display(), real.display()
    )]
    Symlink {
        /// As configured.
        path: PathBuf,
        /// Without links.
        real: PathBuf,
    },
    /// Another agent's overlay is around it.
    #[error(
        "{} lies in {}, which the fs-agent of the ring `{ring}` has overlaid: \
         take one of them out of its configuration",
        path.display(), other.display()
    )]
    Overlaid {
        /// As configured.
        path: PathBuf,
        /// What is overlaid.
        other: PathBuf,
        /// By whose agent.
        ring: String,
    },
    /// The log is a file below it: each line would be an event, and each event can be a line.
    #[error(
        "this program's log goes to {}, below the watched directory {}: let it go elsewhere",
        log.display(), path.display()
    )]
    Log {
        /// The watched directory.
        path: PathBuf,
        /// Where standard error goes.
        log: PathBuf,
    },
    /// It cannot be looked at.
    #[error("cannot use the directory {}: {error}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Whether an agent's overlay is on top at `path`.
fn is_overlaid(path: &Path) -> io::Result<bool> {
    Ok(Table::read()?.top_at(path).is_some_and(|top| top.label().is_some()))
}

/// Whether `directory` can be overlaid by the agent of `ring`, without changing anything. What an overlay covers is left
/// alone: it was looked at when that was mounted.
///
/// # Errors
/// Why it cannot.
pub fn check_directory(directory: &DirectoryConfig, ring: &str) -> Result<(), Unusable> {
    let path = &directory.path;
    check_apart(path, ring)?;
    check_log(path)?;
    let covered = is_overlaid(path).unwrap_or(false);
    if covered || (directory.create && is_missing(path)) {
        return Ok(());
    }
    check_path(path)
}

/// Makes `directory` if that is wanted, and opens it. Dead overlays are off it by now.
///
/// # Errors
/// Why it cannot be overlaid.
pub fn prepare_directory(directory: &DirectoryConfig) -> Result<OwnedFd, Unusable> {
    let path = &directory.path;
    if directory.create && is_missing(path) {
        make_directories(path, Access::own(MODE_OF_NEW))
            .map_err(|error| Unusable::Io { path: path.clone(), error })?;
    }
    open_directory(path)
}

/// The overlay of another agent around it would see its writes too, and everything here would hang and fail with it. What
/// an earlier agent of the same ring has left is taken off before anything is mounted.
fn check_apart(path: &Path, ring: &str) -> Result<(), Unusable> {
    let table = Table::read().unwrap_or_default();
    let around = |other: &table::Mounted| {
        let label = other.label().filter(|label| label.ring != ring)?;
        let is_around = other.point != path && path.starts_with(&other.point);
        is_around.then(|| Unusable::Overlaid {
            path: path.to_owned(),
            other: other.point.clone(),
            ring: label.ring,
        })
    };
    table.iter().find_map(around).map_or(Ok(()), Err)
}

fn check_log(path: &Path) -> Result<(), Unusable> {
    // Not readlink(2), at which valgrind stops where it is told of FUSE (3.19).
    let log = readlinkat(CWD, "/proc/self/fd/2", Vec::new()).unwrap_or_default();
    let log = Path::new(OsStr::from_bytes(log.as_bytes())).to_owned();
    if log.starts_with(path) { Err(Unusable::Log { path: path.to_owned(), log }) } else { Ok(()) }
}

fn is_missing(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn check_path(path: &Path) -> Result<(), Unusable> {
    open_directory(path).map(drop)
}

/// Opens the directory at `path`, through no symbolic link.
fn open_directory(path: &Path) -> Result<OwnedFd, Unusable> {
    walk::open_dir(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Unusable::Missing(path.to_owned()),
        _ => match fs::canonicalize(path) {
            // Where a link leads to is for the message alone.
            Ok(real) if real != path => Unusable::Symlink { path: path.to_owned(), real },
            _ if error.kind() == io::ErrorKind::NotADirectory => Unusable::NotADirectory(path.to_owned()),
            _ => Unusable::Io { path: path.to_owned(), error },
        },
    })
}

/// What mounting needs is there.
///
/// # Errors
/// What is missing, and how to get it.
pub fn check_privileges() -> Result<()> {
    if let Err(error) = File::options().read(true).write(true).open(DEVICE) {
        match error.kind() {
            io::ErrorKind::NotFound => bail!(
                "{DEVICE} does not exist: load the module (modprobe fuse), \
                 or give it to the container (--device {DEVICE} --cap-add SYS_ADMIN)"
            ),
            _ => bail!("cannot open {DEVICE}: {error}; run as root, or give this user access to it"),
        }
    }
    if may_administer() {
        return Ok(());
    }
    if geteuid().is_root() {
        bail!("mounting needs CAP_SYS_ADMIN: give it to the container (--cap-add SYS_ADMIN) or the unit");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join(HELPER).is_file()) {
        bail!("mounting without root needs {HELPER}: install the package fuse3, or run as root");
    }
    if others_allowed() {
        tracing::warn!("running without root: files that other users create here will belong to this user");
    } else {
        tracing::warn!(
            "running without root: other users, root included, have no access to the overlays; \
             to give it to them, write user_allow_other into /etc/fuse.conf or run as root"
        );
    }
    Ok(())
}

/// Whether overlays are mounted by descriptors: with the privilege to mount, on Linux 5.2 or newer. Otherwise by path, and
/// one overlay then shows what is mounted below as part of the directory.
pub fn by_descriptors() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    let is_known = || !matches!(fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC), Err(Errno::NOSYS));
    may_administer() && *KNOWN.get_or_init(is_known)
}
