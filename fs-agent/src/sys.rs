//! System and C library calls that no crate wraps: the agent's only `unsafe`.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::{Errno, Result};

/// From how many bytes on the C library maps what is allocated, rather than to take it from an arena. The FUSE library
/// has a buffer of 16 MiB for each thread, of which most stays untouched: fresh pages of a mapping take no memory until
/// then, while what an arena gives was often used before and is filled with zeros. Less than that, the buffers of
/// requests among it, would cost page faults each time.
const MAP_FROM_BYTES: i32 = 4 << 20;

/// How much an arena keeps at its end: what the C library would choose by itself for [`MAP_FROM_BYTES`].
const KEEP_BYTES: i32 = 2 * MAP_FROM_BYTES;

/// Has large allocations take no more memory than is used of them. To be called before any thread is started.
pub fn map_large_allocations() {
    // Elsewhere they are mapped as they are.
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(nix::libc::M_MMAP_THRESHOLD, MAP_FROM_BYTES), (nix::libc::M_TRIM_THRESHOLD, KEEP_BYTES)]
    {
        // SAFETY: `mallopt` takes two numbers and touches the allocator's own parameters alone, under its own lock. Both
        // values are within its limits; another would be refused, without consequence.
        unsafe { nix::libc::mallopt(parameter, value) };
    }
}

/// `struct fsxattr` of linux/fs.h: flags, extent size, extents, project, and what is kept for later.
pub type ExtendedFlags = [u32; 7];

mod ioctl {
    use super::ExtendedFlags;

    nix::ioctl_read!(fs_get_version, b'v', 1, std::ffi::c_long);
    nix::ioctl_read!(fs_get_xattr, b'X', 31, ExtendedFlags);
    nix::ioctl_write_ptr!(fs_set_xattr, b'X', 32, ExtendedFlags);
}

/// The generation of what `fd` holds: FS_IOC_GETVERSION.
///
/// # Errors
/// `ENOTTY` where the filesystem has none.
pub fn version(fd: &OwnedFd) -> Result<u32> {
    let mut version: std::ffi::c_long = 0;
    // SAFETY: the call writes an `int`, or a `long` on some filesystems, to a place for either that is ours alone until it
    // returns.
    unsafe { ioctl::fs_get_version(fd.as_raw_fd(), &raw mut version) }.map_err(errno)?;
    let bytes = version.to_ne_bytes();
    // Where it was an `int`, the rest is 0.
    Ok(bytes.first_chunk().map_or(0, |int| u32::from_ne_bytes(*int)))
}

/// FS_IOC_FSGETXATTR.
///
/// # Errors
/// As ioctl_xfsgetxattr(2) says.
pub fn extended_flags(fd: &OwnedFd) -> Result<ExtendedFlags> {
    let mut flags = ExtendedFlags::default();
    // SAFETY: the call writes a `struct fsxattr`, which has the size and the alignment of seven `u32`, to a place that is
    // ours alone until it returns.
    unsafe { ioctl::fs_get_xattr(fd.as_raw_fd(), &raw mut flags) }.map_err(errno)?;
    Ok(flags)
}

/// FS_IOC_FSSETXATTR.
///
/// # Errors
/// As ioctl_xfsgetxattr(2) says.
pub fn set_extended_flags(fd: &OwnedFd, flags: &ExtendedFlags) -> Result<()> {
    // SAFETY: the call reads a `struct fsxattr`, which has the size and the alignment of seven `u32`, of which any is valid.
    unsafe { ioctl::fs_set_xattr(fd.as_raw_fd(), flags) }.map_err(errno)?;
    Ok(())
}

fn errno(errno: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(errno as i32)
}
