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
    thread::CapabilitySet,
};

use super::{Caller, Overlay, Result, stat_of};
use crate::privilege;

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
            Ok(()) => Ok(true),
            // An agent that may not keep the bits either: the kernel takes them away. From others it would have, unless the file's
            // mode cannot be changed (chattr +a, +i): then there is no such change either.
            Err(Errno::PERM) if !self.identity.can_act_for_others() => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Does `work`, which changes the access ACL of the file that `fd` holds. Who is not in the file's group loses its set-group-id
    /// bit by that, if the filesystem takes it: some do whatever the change, others where an ACL is set, but not where it is
    /// removed.
    pub(super) fn change_acl<T>(
        &self,
        fd: &OwnedFd,
        caller: Caller,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let keeps_group = caller.uid == 0 || caller.is_member(stat_of(fd)?.stx_gid);
        if keeps_group { work() } else { privilege::without(CapabilitySet::FSETID, work) }
    }
}
