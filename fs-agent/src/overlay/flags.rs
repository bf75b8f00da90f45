//! Flags of inodes, as chattr(1) and lsattr(1) have them.
//!
//! The kernel checks who may change which before it asks, by the flags that it was told. Those may be others by now, so
//! the directory below checks again, and the agent's own rights do not count there: what takes a capability is done with it
//! only for a caller who has it.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{IFlags, ioctl_getflags, ioctl_setflags},
    io::Errno,
    thread::CapabilitySet,
};

use super::{Caller, Overlay, Result};
use crate::{
    privilege,
    sys::{self, ExtendedFlags},
};

/// What changing flags can take: CAP_LINUX_IMMUTABLE for append-only and immutable files, CAP_SYS_RESOURCE for the way that
/// ext4 journals them.
const FOR_FLAGS: [CapabilitySet; 2] = [CapabilitySet::LINUX_IMMUTABLE, CapabilitySet::SYS_RESOURCE];

/// Of linux/fs.h.
const FS_XFLAG_IMMUTABLE: u32 = 0x8;
const FS_XFLAG_APPEND: u32 = 0x10;

impl Overlay {
    /// The flags of what is open as `handle`: FS_IOC_GETFLAGS.
    ///
    /// # Errors
    /// As ioctl_iflags(2) says; `ENOTTY` and `EOPNOTSUPP` where the filesystem below has none.
    pub fn flags(&self, handle: u64) -> Result<u32> {
        self.with_open(handle, |fd| ioctl_getflags(fd)).map(|flags| flags.bits())
    }

    /// The generation of what is open as `handle`: FS_IOC_GETVERSION.
    ///
    /// # Errors
    /// `ENOTTY` where the filesystem below has none.
    pub fn version(&self, handle: u64) -> Result<u32> {
        self.with_open(handle, sys::version)
    }

    /// Sets flags for `caller`.
    ///
    /// # Errors
    /// As ioctl_iflags(2) says.
    pub fn set_flags(&self, handle: u64, flags: u32, caller: Caller) -> Result<()> {
        let flags = IFlags::from_bits_retain(flags);
        let forbids = flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND);
        self.forbidding(forbids, handle, |fd| by_right_of(caller, || ioctl_setflags(fd, flags)))
    }

    /// The flags of what is open as `handle`, with its project: FS_IOC_FSGETXATTR.
    ///
    /// # Errors
    /// As ioctl_xfsgetxattr(2) says; `ENOTTY` and `EOPNOTSUPP` where the filesystem below has none.
    pub fn extended_flags(&self, handle: u64) -> Result<ExtendedFlags> {
        self.with_open(handle, sys::extended_flags)
    }

    /// Sets them for `caller`.
    ///
    /// # Errors
    /// As ioctl_xfsgetxattr(2) says.
    pub fn set_extended_flags(&self, handle: u64, flags: &ExtendedFlags, caller: Caller) -> Result<()> {
        let forbids = flags[0] & (FS_XFLAG_IMMUTABLE | FS_XFLAG_APPEND) != 0;
        self.forbidding(forbids, handle, |fd| by_right_of(caller, || sys::set_extended_flags(fd, flags)))
    }

    /// Does `set` with what is open as `handle`, after which, if it `forbids`, nobody can open that again to write as before: what
    /// is open so outlives this process.
    fn forbidding(&self, forbids: bool, handle: u64, set: impl FnOnce(&OwnedFd) -> Result<()>) -> Result<()> {
        let parked = if forbids { self.park_opens(handle) } else { Vec::new() };
        self.with_open(handle, set).inspect_err(|_| self.take_back_opens(&parked))
    }
}

/// Does `work` without the capabilities that change flags, and once more with those of them that `caller` has.
fn by_right_of<T>(caller: Caller, work: impl Fn() -> Result<T>) -> Result<T> {
    match work() {
        Err(Errno::PERM) => {
            let held = FOR_FLAGS.into_iter().filter(|capability| caller.holds(*capability)).collect();
            privilege::with(held, work)
        }
        done => done,
    }
}
