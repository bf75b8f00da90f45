//! Operations on names: finding, making, renaming and removing files.

use std::{ffi::OsStr, os::fd::OwnedFd, path::Path, sync::Arc};

use rustix::{
    fs::{
        AtFlags, Dev, FileType, Mode, OFlags, RenameFlags, StatxFlags, linkat, mkdirat, mknodat, openat,
        readlinkat, renameat_with, statx, symlinkat, unlinkat,
    },
    io::Errno,
    path::DecInt,
};

use super::{
    Caller, Durability, Entry, OpenFile, Overlay, Result,
    identity::masked,
    inode::{Inode, ROOT},
    links::Names,
};

/// The mode of what is made.
#[derive(Clone, Copy, Debug)]
pub struct NewMode {
    /// As the caller asked for it; with the kind of file where that is open.
    pub wanted: u32,
    /// The caller's file mode mask.
    pub mask: u32,
}

const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Overlay {
    /// Finds `name` in `parent` for `thread`, which may be about to open it.
    ///
    /// # Errors
    /// As openat(2) says.
    pub fn lookup(&self, parent: u64, name: &OsStr, thread: u32) -> Result<Entry> {
        let parent = self.inodes.get(parent)?;
        let fd = openat(&parent.fd()?, name, PATH_ONLY, Mode::empty())?;
        let (entry, link) = self.admit(fd, &parent, name)?;
        if !entry.lasts {
            self.lookups.note(thread, entry.node, &link);
        }
        Ok(entry)
    }

    /// Finds what was made as `name`.
    fn look_up_in(&self, parent: &Arc<Inode>, name: &OsStr) -> Result<Entry> {
        let parent_fd = parent.fd()?;
        let look_up = || openat(&parent_fd, name, PATH_ONLY, Mode::empty());
        let fd = self.inodes.with_descriptor(look_up)?;
        Ok(self.admit(fd, parent, name)?.0)
    }

    /// The kernel lets go of what it was told of.
    pub fn forget(&self, node: u64, count: u64) {
        if node != ROOT {
            self.inodes.forget(node, count);
        }
    }

    /// Makes and opens a regular file for `caller`.
    ///
    /// # Errors
    /// As openat(2) says; `ESTALE` if the file has come into being since the kernel looked.
    pub fn create(
        &self,
        parent: u64,
        name: &OsStr,
        mode: NewMode,
        flags: i32,
        caller: Caller,
    ) -> Result<(Entry, Arc<OpenFile>)> {
        let share = self.opens.take(caller.uid)?;
        let parent = self.inodes.get(parent)?;
        let wanted = OFlags::from_bits_retain(flags.cast_unsigned());
        let flags = Durability::left_to_writes(wanted - OFlags::DIRECT)
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC;
        let parent_fd = parent.fd()?;
        let fd = match self.inodes.with_descriptor(|| openat(&parent_fd, name, flags, masked(mode)?)) {
            // The kernel has not checked whether the caller may open what is there now. At ESTALE it looks
            // again, and then opens it the usual way.
            Err(Errno::EXIST) if !wanted.contains(OFlags::EXCL) => return Err(Errno::STALE),
            other => other?,
        };
        let (entry, link) = self.admit(self.reopen(&fd, OFlags::PATH)?, &parent, name)?;
        let inode = self.inodes.get(entry.node)?;
        let held = inode.fd()?;
        let path = self.path_by(&inode, Some(link), Names::One);
        let file = self.keep(share, (inode, held), fd, wanted, caller, path);
        Ok((entry, file))
    }

    /// Makes a file that is neither directory nor link: regular, FIFO, socket, device.
    ///
    /// # Errors
    /// As mknodat(2) says.
    pub fn mknod(&self, parent: u64, name: &OsStr, mode: NewMode, device: Dev) -> Result<Entry> {
        let parent = self.inodes.get(parent)?;
        let parent_fd = parent.fd()?;
        let kind = FileType::from_raw_mode(mode.wanted);
        mknodat(&parent_fd, name, kind, masked(mode)?, device)?;
        self.look_up_in(&parent, name)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As mkdirat(2) says.
    pub fn mkdir(&self, parent: u64, name: &OsStr, mode: NewMode) -> Result<Entry> {
        let parent = self.inodes.get(parent)?;
        let parent_fd = parent.fd()?;
        mkdirat(&parent_fd, name, masked(mode)?)?;
        self.look_up_in(&parent, name)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As symlinkat(2) says.
    pub fn symlink(&self, parent: u64, name: &OsStr, target: &Path) -> Result<Entry> {
        let parent = self.inodes.get(parent)?;
        let parent_fd = parent.fd()?;
        symlinkat(target, &parent_fd, name)?;
        self.look_up_in(&parent, name)
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// As linkat(2) says.
    pub fn link(&self, node: u64, parent: u64, name: &OsStr) -> Result<Entry> {
        let inode = self.inodes.get(node)?;
        let parent = self.inodes.get(parent)?;
        let source = inode.fd()?;
        linkat(&self.own_fds, DecInt::from_fd(&source), &parent.fd()?, name, AtFlags::SYMLINK_FOLLOW)?;
        self.look_up_in(&parent, name)
    }

    /// Where a symbolic link leads to.
    ///
    /// # Errors
    /// As readlinkat(2) says.
    pub fn readlink(&self, node: u64) -> Result<Vec<u8>> {
        let inode = self.inodes.get(node)?;
        Ok(readlinkat(&inode.fd()?, "", Vec::new())?.into_bytes())
    }

    /// Removes a name of a file that is no directory.
    ///
    /// # Errors
    /// As unlinkat(2) says.
    pub fn unlink(&self, parent: u64, name: &OsStr) -> Result<()> {
        self.remove(parent, name, AtFlags::empty())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As unlinkat(2) says.
    pub fn rmdir(&self, parent: u64, name: &OsStr) -> Result<()> {
        self.remove(parent, name, AtFlags::REMOVEDIR)
    }

    fn remove(&self, parent: u64, name: &OsStr, flags: AtFlags) -> Result<()> {
        let parent = self.inodes.get(parent)?;
        let known = self.known(&parent, name);
        self.with_mounts_settled(|| unlinkat(&parent.fd()?, name, flags))?;
        if let Some((inode, fd)) = known {
            inode.links.remove(&parent, name);
            // It may be found by this alone now.
            inode.keep(&fd);
        }
        Ok(())
    }

    /// Renames or, with the flag for it, exchanges.
    ///
    /// # Errors
    /// As renameat2(2) says.
    pub fn rename(
        &self,
        (parent, name): (u64, &OsStr),
        (new_parent, new_name): (u64, &OsStr),
        flags: u32,
    ) -> Result<()> {
        let parent = self.inodes.get(parent)?;
        let new_parent = self.inodes.get(new_parent)?;
        let flags = RenameFlags::from_bits_retain(flags);
        let moved = self.known(&parent, name);
        let replaced = self.known(&new_parent, new_name);
        self.with_mounts_settled(|| renameat_with(&parent.fd()?, name, &new_parent.fd()?, new_name, flags))?;
        if let Some((replaced, fd)) = &replaced {
            if moved.as_ref().is_some_and(|(moved, _)| moved.id == replaced.id) {
                // Two names of one file: both stay, says rename(2).
                return Ok(());
            }
            if flags.contains(RenameFlags::EXCHANGE) {
                self.inodes.moved(replaced, (&new_parent, new_name), (&parent, name));
            } else {
                replaced.links.remove(&new_parent, new_name);
                replaced.keep(fd);
            }
        }
        if let Some((moved, _)) = &moved {
            self.inodes.moved(moved, (&parent, name), (&new_parent, new_name));
        }
        Ok(())
    }

    /// Does `work` again if a mount point is in its way: somebody may just have unmounted on the overlay what is still
    /// mounted below.
    fn with_mounts_settled(&self, work: impl Fn() -> Result<()>) -> Result<()> {
        match (work(), &self.settle_mounts) {
            (Err(Errno::BUSY), Some(settle)) => {
                settle();
                work()
            }
            (done, _) => done,
        }
    }

    /// The inode that `name` leads to, if the kernel knows it, with its descriptor. That the name can change hands
    /// before it is used matters to paths in records alone.
    fn known(&self, parent: &Arc<Inode>, name: &OsStr) -> Option<(Arc<Inode>, Arc<OwnedFd>)> {
        let stat = statx(&parent.fd().ok()?, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::INO).ok()?;
        let inode = self.inodes.find(&stat)?;
        let fd = inode.fd().ok()?;
        Some((inode, fd))
    }
}
