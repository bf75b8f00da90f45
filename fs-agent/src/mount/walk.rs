//! Directories by descriptor: a path is walked once, and what was found is what is used.
//!
//! All descriptors are opened with O_PATH, which asks no filesystem for its root: opening the root of a mount whose
//! server is gone or hangs waits for nobody.

use std::{
    ffi::OsStr,
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, openat, statx},
    io::Errno,
};

use super::table::{Device, MountId, Table};

/// Opens what `path` leads to from `base`, on top of all that is mounted there, one name after the other. No symbolic link
/// is followed.
///
/// # Errors
/// As openat(2) says; `ELOOP` or `ENOTDIR` at a symbolic link.
pub fn open(base: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    open_as(base, path, OFlags::empty())
}

fn open_as(base: BorrowedFd<'_>, path: &Path, last: OFlags) -> io::Result<OwnedFd> {
    let step = |at: BorrowedFd<'_>, name: &OsStr, more: OFlags| {
        openat(at, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | more, Mode::empty())
    };
    let mut names = path.components().filter_map(|component| match component {
        Component::RootDir => Some(OsStr::new("/")),
        Component::Normal(name) => Some(name),
        Component::CurDir | Component::ParentDir | Component::Prefix(_) => None,
    });
    let Some(mut name) = names.next() else { return Ok(step(base, OsStr::new("."), last)?) };
    let mut at: Option<OwnedFd> = None;
    for next in names {
        let above = at.as_ref().map_or(base, AsFd::as_fd);
        at = Some(step(above, name, OFlags::DIRECTORY)?);
        name = next;
    }
    let found = step(at.as_ref().map_or(base, AsFd::as_fd), name, last)?;
    // What is opened with O_PATH may be the link itself. Its type is known without asking anybody.
    let stat = statx(&found, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE)?;
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::Symlink => Err(Errno::LOOP.into()),
        _ => Ok(found),
    }
}

/// Opens the directory at the absolute `path`.
///
/// # Errors
/// As [`open`]; `ENOTDIR` if it is something else.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    open_as(CWD, path, OFlags::DIRECTORY)
}

/// The mount that `fd` is on. Asks no filesystem.
///
/// # Errors
/// If /proc cannot be read.
pub fn mount_of(fd: impl AsFd) -> io::Result<MountId> {
    let info = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.map(MountId).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The filesystem that `fd` is on, by the table of this namespace.
///
/// # Errors
/// If /proc cannot be read, or the mount of `fd` is not in the table.
pub fn device_of(fd: impl AsFd) -> io::Result<Device> {
    let id = mount_of(fd)?;
    let device = Table::read()?.get(id).map(|mounted| mounted.device.clone());
    device.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// A path to exactly what `fd` holds, for system calls that take no descriptor.
pub fn path_to(fd: impl AsFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()).into()
}
