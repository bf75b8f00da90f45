//! Operations on attributes.

use std::{
    ffi::OsStr,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::{
    fs::{
        AtFlags, Gid, Mode, OFlags, StatVfs, Statx, Timestamps, Uid, XattrFlags, chmodat, chownat, fstatvfs,
        ftruncate, getxattr, getxattr_query, listxattr, listxattr_query, removexattr, setxattr, utimensat,
    },
    io::Errno,
    path::DecInt,
    thread::CapabilitySet,
};

use super::{Caller, Overlay, Result, inode::Inode, stat_of};
use crate::state::{journal, verdict};

/// Where the kernel keeps ACLs.
pub const ACCESS_ACL: &str = "system.posix_acl_access";
const DEFAULT_ACL: &str = "system.posix_acl_default";

/// Which attributes a caller changes.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The permission bits.
    pub mode: Option<u32>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// The length.
    pub size: Option<u64>,
    /// Access and modification times.
    pub times: Option<Timestamps>,
}

/// An extended attribute's value or the list of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Xattr {
    /// The caller asked how long it is.
    Size(u32),
    /// It.
    Data(Vec<u8>),
}

impl Overlay {
    /// The attributes.
    ///
    /// # Errors
    /// As statx(2) says.
    pub fn getattr(&self, node: u64) -> Result<Statx> {
        let inode = self.inodes.get(node)?;
        let stat = stat_of(&inode.fd()?)?;
        inode.size().told(stat.stx_size);
        Ok(stat)
    }

    /// Changes attributes for `caller`; gives what they are then. `handle` is what it has open, if it said that.
    ///
    /// # Errors
    /// As chown(2), chmod(2), truncate(2) and utimensat(2) say. What was done before the one that failed stays.
    pub fn setattr(&self, node: u64, handle: Option<u64>, change: &Change, caller: Caller) -> Result<Statx> {
        let inode = self.inodes.get(node)?;
        let fd = inode.fd()?;
        let name = || DecInt::from_fd(&fd);
        if matches!(change, Change { mode: None, uid: None, gid: None, size: None, times: None }) {
            self.change_no_owner(&fd, caller)?;
        }
        // chown and truncate take set-id bits away, so the mode comes after; truncate sets times, so they come last.
        if change.uid.is_some() || change.gid.is_some() {
            let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
            let before = if caller.uid == 0 { None } else { Some(stat_of(&fd)?) };
            chownat(&fd, "", uid, gid, AtFlags::EMPTY_PATH)?;
            if let Some(before) = before {
                self.take_set_id_since(&before, &fd, caller)?;
            }
        }
        if let Some(size) = change.size {
            if caller.uid != 0 {
                self.take_set_id(&fd, caller)?;
            }
            self.truncate((&inode, &fd), handle, size)?;
        }
        if let Some(mode) = change.mode {
            chmodat(&self.own_fds, name(), Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        if let Some(times) = &change.times {
            utimensat(&self.own_fds, name(), times, AtFlags::empty())?;
        }
        let stat = stat_of(&fd)?;
        match change.size {
            Some(_) => inode.size().cut_to(stat.stx_size),
            None => inode.size().told(stat.stx_size),
        }
        Ok(stat)
    }

    /// What the kernel asks for before fallocate(2), which takes set-id bits away here as well, and for a chown(2) that
    /// names neither an owner nor a group, and takes the bits away where it may be done. It cannot be told for which: who
    /// could not have done the latter changes nothing by it.
    fn change_no_owner(&self, fd: &OwnedFd, caller: Caller) -> Result<()> {
        let before = stat_of(fd)?;
        if caller.uid == 0 || caller.uid == before.stx_uid {
            self.take_set_id_since(&before, fd, caller)?;
        }
        Ok(())
    }

    fn truncate(&self, (inode, fd): (&Inode, &OwnedFd), handle: Option<u64>, size: u64) -> Result<()> {
        if let Some(Ok(file)) = handle.map(|handle| self.files.get(handle)) {
            match ftruncate(file.fd()?, size) {
                // Open for reading: O_TRUNC cuts with that too.
                Err(Errno::INVAL) => {}
                done => return done,
            }
        }
        ftruncate(inode.reopen(fd, OFlags::WRONLY)?, size)
    }

    /// What the filesystem below says of itself.
    ///
    /// # Errors
    /// As fstatvfs(3) says.
    pub fn statfs(&self, node: u64) -> Result<StatVfs> {
        fstatvfs(&self.inodes.get(node)?.fd()?)
    }

    /// An extended attribute of at most `size` bytes; its size if that is 0.
    ///
    /// # Errors
    /// As getxattr(2) says.
    pub fn getxattr(&self, node: u64, name: &OsStr, size: u32) -> Result<Xattr> {
        let fd = self.inodes.get(node)?.fd()?;
        let path = path_through_proc(&fd);
        if size == 0 {
            return size_of(getxattr_query(path, name)?);
        }
        let mut value = vec![0; size as usize];
        let len = match getxattr(path, name, &mut value[..]) {
            // A filesystem below that knows no ACLs: the kernel, which asks to check permissions, would pass the error on
            // to whoever it checks.
            Err(Errno::OPNOTSUPP) if name == ACCESS_ACL || name == DEFAULT_ACL => return Err(Errno::NODATA),
            other => other?,
        };
        value.truncate(len);
        Ok(Xattr::Data(value))
    }

    /// The names of the extended attributes that `caller` may know of, in at most `size` bytes; their size if that is 0.
    ///
    /// # Errors
    /// As listxattr(2) says.
    pub fn listxattr(&self, node: u64, size: u32, caller: Caller) -> Result<Xattr> {
        let fd = self.inodes.get(node)?.fd()?;
        let path = path_through_proc(&fd);
        let mut names = vec![0; listxattr_query(path.as_str())?];
        let len = if names.is_empty() { 0 } else { listxattr(path.as_str(), &mut names[..])? };
        names.truncate(len);
        // The kernel leaves it to each filesystem to hide these.
        if each_name(&names).any(is_trusted) && !caller.holds(CapabilitySet::SYS_ADMIN) {
            names = each_name(&names).filter(|name| !is_trusted(name)).collect::<Vec<_>>().concat();
        }
        match size {
            0 => size_of(names.len()),
            size if names.len() > size as usize => Err(Errno::RANGE),
            _ => Ok(Xattr::Data(names)),
        }
    }

    /// Sets an extended attribute for `caller`.
    ///
    /// # Errors
    /// As setxattr(2) says.
    pub fn setxattr(&self, node: u64, name: &OsStr, value: &[u8], flags: i32, caller: Caller) -> Result<()> {
        let fd = self.inodes.get(node)?.fd()?;
        let path = path_through_proc(&fd);
        let before = journal::cut_short();
        journal::removing(false);
        let was_set = |before| {
            let mut found = vec![0; value.len() + 1];
            let len = getxattr(path.as_str(), name, &mut found[..]).unwrap_or(found.len());
            verdict::is_attribute_set(&before, found.get(..len) == Some(value))
        };
        let flags = XattrFlags::from_bits_retain(flags.cast_unsigned());
        let set = || setxattr(path.as_str(), name, value, flags);
        let done = if name == ACCESS_ACL { self.change_acl(&fd, caller, set) } else { set() };
        match done {
            Err(Errno::EXIST) if before.is_some_and(was_set) => Ok(()),
            done => done,
        }
    }

    /// Removes an extended attribute for `caller`.
    ///
    /// # Errors
    /// As removexattr(2) says.
    pub fn removexattr(&self, node: u64, name: &OsStr, caller: Caller) -> Result<()> {
        let fd = self.inodes.get(node)?.fd()?;
        let path = path_through_proc(&fd);
        let before = journal::cut_short();
        let is_there = getxattr_query(path.as_str(), name) != Err(Errno::NODATA);
        if before.is_some_and(|before| verdict::is_attribute_removed(&before, is_there)) {
            return Ok(());
        }
        journal::removing(is_there);
        let remove = || removexattr(path, name);
        if name == ACCESS_ACL { self.change_acl(&fd, caller, remove) } else { remove() }
    }
}

/// The xattr calls take no O_PATH descriptor, and a path relative to a directory only since Linux 6.13.
fn path_through_proc(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The names of a list, each with the zero behind it.
fn each_name(names: &[u8]) -> impl Iterator<Item = &[u8]> {
    names.split_inclusive(|byte| *byte == 0)
}

fn is_trusted(name: &[u8]) -> bool {
    name.starts_with(b"trusted.")
}

fn size_of(len: usize) -> Result<Xattr> {
    u32::try_from(len).map(Xattr::Size).map_err(|_| Errno::TOOBIG)
}
