//! Taking set-id bits away from files that change, as the kernel would for those who change them.
//!
//! The agent itself may keep these bits, so the kernel does not take them away for what it does in others' names. At
//! a write the kernel says whether the writer may keep them (CAP_FSETID). At a truncation and a change of owner the
//! FUSE library keeps that to itself: root is taken to have the capability then, and nobody else.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{AtFlags, FileType, Mode, Statx, chmodat},
    io::Errno,
    path::DecInt,
};

use super::{Caller, Overlay, Result, stat_of};

impl Overlay {
    /// Takes the set-id bits of the file that `fd` holds away as a change by `caller` does, who may not keep them. Says
    /// whether there were any.
    pub(super) fn take_set_id(&self, fd: &OwnedFd, caller: Caller) -> Result<bool> {
        self.take_set_id_since(&stat_of(fd)?, fd, caller)
    }

    /// The same, by what the file was `before`.
    pub(super) fn take_set_id_since(&self, before: &Statx, fd: &OwnedFd, caller: Caller) -> Result<bool> {
        let mode = Mode::from_raw_mode(before.stx_mode.into());
        let set = mode & (Mode::SUID | Mode::SGID);
        let is_dir = FileType::from_raw_mode(before.stx_mode.into()) == FileType::Directory;
        if set.is_empty() || is_dir {
            return Ok(false);
        }
        // Without group execution it means mandatory locking, and stays for members.
        let keeps_group =
            set.contains(Mode::SGID) && !mode.contains(Mode::XGRP) && caller.is_member(before.stx_gid);
        let taken = if keeps_group { set - Mode::SGID } else { set };
        if taken.is_empty() {
            return Ok(false);
        }
        match chmodat(&self.own_fds, DecInt::from_fd(fd), mode - taken, AtFlags::empty()) {
            // An agent that may not keep the bits either: the kernel takes them away.
            Ok(()) | Err(Errno::PERM) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Setting an ACL sets a mode, and who is not in the file's group cannot have set-group-id in one.
    pub(super) fn take_group_id_from_stranger(&self, fd: &OwnedFd, caller: Caller) -> Result<()> {
        let stat = stat_of(fd)?;
        let mode = Mode::from_raw_mode(stat.stx_mode.into());
        if mode.contains(Mode::SGID) && !caller.is_member(stat.stx_gid) {
            chmodat(&self.own_fds, DecInt::from_fd(fd), mode - Mode::SGID, AtFlags::empty())?;
        }
        Ok(())
    }
}
