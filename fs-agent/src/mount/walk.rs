//! Directories by descriptor: a path is walked once, and what was found is what is used.
//!
//! All descriptors are opened with O_PATH, which asks no filesystem for its root: opening the root of a mount whose
//! server is gone or hangs waits for nobody.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};

use super::table::{Device, MountId, Table};

/// Opens what `path` leads to from `base`, on top of all that is mounted there. No symbolic link is followed.
///
/// # Errors
/// As openat2(2) says; `ELOOP` at a symbolic link.
pub fn open(base: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    loop {
        match openat2(
            base,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        ) {
            // Something was renamed or mounted on the way: the kernel asks to try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Opens the directory at the absolute `path`.
///
/// # Errors
/// As [`open`]; `ENOTDIR` if it is something else.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        match openat2(
            CWD,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        ) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
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
