//! Where overlays are mounted: what a directory must be, mounting, recovery, unmounting.

mod detach;
pub mod probe;
mod table;

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use bywash_common::{
    config::DirectoryConfig,
    make::{Access, make_directories},
};
use fuser::{Config, MountOption, Session, SessionACL};
use rustix::{
    fs::{CWD, StatVfsMountFlags, readlinkat, statvfs},
    process::geteuid,
    thread::{CapabilitySet, capabilities},
};

use crate::fuse::Adapter;

pub use detach::{Unmounted, detach, recover, recover_forgotten, unmount};

/// How overlays show in /proc/mounts: by this type, and by a source that names the ring.
const FS_TYPE: &str = "fuse.bywash";
const SUBTYPE_OPTION: &str = "subtype=bywash";
const SOURCE_PREFIX: &str = "bywash:";

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
///
/// # Errors
/// If /proc cannot be read.
pub fn is_overlaid(path: &Path) -> io::Result<bool> {
    Ok(table::top_at(path)?.is_some_and(|top| top.is_overlay()))
}

/// Whether an overlay of the agent of `ring` is mounted at `path`, on top or not.
pub fn is_mounted(path: &Path, ring: &str) -> bool {
    // Without the table nobody can tell: as if it were.
    table::all().map_or(true, |all| all.iter().any(|one| one.point == path && one.is_overlay_of(ring)))
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

/// Makes `directory` if that is wanted, and sees to it that it can be overlaid. Dead overlays are off it by now.
///
/// # Errors
/// Why it cannot.
pub fn prepare_directory(directory: &DirectoryConfig) -> Result<(), Unusable> {
    let path = &directory.path;
    if directory.create && is_missing(path) {
        make_directories(path, Access::own(MODE_OF_NEW))
            .map_err(|error| Unusable::Io { path: path.clone(), error })?;
    }
    check_path(path)
}

/// The overlay of another agent around it would see its writes too, and everything here would hang and fail with it. What
/// an earlier agent of the same ring has left is taken off before anything is mounted.
fn check_apart(path: &Path, ring: &str) -> Result<(), Unusable> {
    let is_around = |other: &table::Mounted| {
        other.is_overlay()
            && !other.is_overlay_of(ring)
            && other.point != path
            && path.starts_with(&other.point)
    };
    match table::all().unwrap_or_default().into_iter().find(is_around) {
        None => Ok(()),
        Some(table::Mounted { point, source, .. }) => {
            let ring = source.strip_prefix(SOURCE_PREFIX).unwrap_or(&source).to_owned();
            Err(Unusable::Overlaid { path: path.to_owned(), other: point, ring })
        }
    }
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
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Unusable::Missing(path.to_owned()),
        io::ErrorKind::NotADirectory => Unusable::NotADirectory(path.to_owned()),
        _ => Unusable::Io { path: path.to_owned(), error },
    };
    let real = fs::canonicalize(path).map_err(failed)?;
    if real != path {
        return Err(Unusable::Symlink { path: path.to_owned(), real });
    }
    if !fs::symlink_metadata(path).map_err(failed)?.is_dir() {
        return Err(Unusable::NotADirectory(path.to_owned()));
    }
    Ok(())
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

/// Whether this process may mount, and have the kernel read files by itself.
pub fn may_administer() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Whether all users may have access to this process's mounts.
fn others_allowed() -> bool {
    may_administer()
        || fs::read_to_string("/etc/fuse.conf")
            .is_ok_and(|conf| conf.lines().any(|line| line.trim() == "user_allow_other"))
}

/// Mounts an overlay on `path`.
///
/// # Errors
/// If the system refuses.
pub fn mount(path: &Path, ring: &str, adapter: Adapter) -> Result<Session<Adapter>> {
    let mut config = Config::default();
    config.acl = if others_allowed() { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(adapter.threads());
    config.clone_fd = true;
    config.mount_options = options(path)?;
    config.mount_options.push(MountOption::FSName(format!("{SOURCE_PREFIX}{ring}")));
    let notifier = adapter.notifier();
    let pruner = adapter.pruner();
    let session = Session::new(adapter, path, &config)
        .with_context(|| format!("cannot mount an overlay on {}", path.display()))?;
    // Set once: the adapter is new.
    let _ = notifier.set(session.notifier());
    let device = session.as_fd().try_clone_to_owned().context("cannot duplicate a descriptor")?;
    pruner.start(device).context("cannot start a thread")?;
    Ok(session)
}

/// The overlay forbids what the mount below forbids, and nothing else.
fn options(path: &Path) -> Result<Vec<MountOption>> {
    let below = statvfs(path).with_context(|| format!("cannot examine {}", path.display()))?.f_flag;
    let pick = |flag, set, unset| if below.contains(flag) { set } else { unset };
    let mut options = vec![
        MountOption::DefaultPermissions,
        // fuser would leave MountOption::Subtype to the helper alone.
        MountOption::CUSTOM(SUBTYPE_OPTION.to_owned()),
        pick(StatVfsMountFlags::RDONLY, MountOption::RO, MountOption::RW),
        pick(StatVfsMountFlags::NOEXEC, MountOption::NoExec, MountOption::Exec),
        pick(StatVfsMountFlags::NOATIME, MountOption::NoAtime, MountOption::Atime),
    ];
    // The helper grants these to nobody.
    if may_administer() {
        options.push(pick(StatVfsMountFlags::NODEV, MountOption::NoDev, MountOption::Dev));
        options.push(pick(StatVfsMountFlags::NOSUID, MountOption::NoSuid, MountOption::Suid));
    }
    Ok(options)
}
