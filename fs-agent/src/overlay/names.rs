//! Operations on names: finding, making, renaming and removing files.

use std::{ffi::OsStr, os::fd::OwnedFd, path::Path, sync::Arc};

use rustix::{
    fs::{
        AtFlags, Dev, FileType, Mode, OFlags, RenameFlags, Statx, StatxFlags, linkat, mkdirat, mknodat,
        openat, readlinkat, renameat_with, statx, symlinkat, unlinkat,
    },
    io::Errno,
    path::DecInt,
};

use super::{
    ADMITTED, Caller, Durability, Entry, OpenFile, Overlay, Result,
    handle::Below,
    identity::masked,
    inode::{Inode, ROOT, birth_of, key_of},
    links::Names,
    stat_of,
};
use crate::state::{
    journal::{self, FileKey, Progress},
    verdict,
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
            let forgotten = self.inodes.forget(node, count);
            self.take_back_parked(forgotten.as_deref());
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
        let before = journal::cut_short();
        journal::begins_to_make();
        let fd = match self.inodes.with_descriptor(|| openat(&parent_fd, name, flags, masked(mode)?)) {
            Err(Errno::EXIST)
                if self.was_made(before, (&parent_fd, name), FileType::RegularFile)?
                    && let Some(made) = self.made_for(caller, &parent_fd, name)? =>
            {
                parent.reopen(&made, flags - (OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW))?
            }
            // The kernel has not checked whether the caller may open what is there now. At ESTALE it looks
            // again, and then opens it the usual way.
            Err(Errno::EXIST) if !wanted.contains(OFlags::EXCL) => return Err(Errno::STALE),
            other => other?,
        };
        let (entry, link) = self.admit(parent.reopen(&fd, OFlags::PATH)?, &parent, name)?;
        let inode = self.inodes.get(entry.node)?;
        let held = inode.fd()?;
        let path = self.path_by(&inode, Some(link), Names::One);
        let file = self.keep(share, inode, Below { held, fd }, wanted, caller, path);
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
        self.make((&parent_fd, name), kind, || mknodat(&parent_fd, name, kind, masked(mode)?, device))?;
        self.look_up_in(&parent, name)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As mkdirat(2) says.
    pub fn mkdir(&self, parent: u64, name: &OsStr, mode: NewMode) -> Result<Entry> {
        let parent = self.inodes.get(parent)?;
        let parent_fd = parent.fd()?;
        self.make((&parent_fd, name), FileType::Directory, || mkdirat(&parent_fd, name, masked(mode)?))?;
        self.look_up_in(&parent, name)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As symlinkat(2) says.
    pub fn symlink(&self, parent: u64, name: &OsStr, target: &Path) -> Result<Entry> {
        let parent = self.inodes.get(parent)?;
        let parent_fd = parent.fd()?;
        self.make((&parent_fd, name), FileType::Symlink, || symlinkat(target, &parent_fd, name))?;
        self.look_up_in(&parent, name)
    }

    /// Has `make` make a file of `kind`, unless a predecessor has done it for the same request.
    fn make(&self, at: (&OwnedFd, &OsStr), kind: FileType, make: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = journal::cut_short();
        journal::begins_to_make();
        match make() {
            Err(Errno::EXIST) if self.was_made(before, at, kind)? => Ok(()),
            made => made,
        }
    }

    /// Whether a predecessor, who was at it as `before` says, has made what `name` in `parent` leads to.
    ///
    /// # Errors
    /// As statx(2) says.
    fn was_made(
        &self,
        before: Option<Progress>,
        (parent, name): (&OwnedFd, &OsStr),
        kind: FileType,
    ) -> Result<bool> {
        let Some(before) = before else { return Ok(false) };
        let stat = statx(parent, name, AtFlags::SYMLINK_NOFOLLOW, ADMITTED)?;
        // A file server has a clock of its own.
        let birth_ns = birth_of(&stat).filter(|_| self.is_local());
        let found = FileType::from_raw_mode(stat.stx_mode.into());
        let below = verdict::Below { key: file_key(&stat), kind: found, birth_ns };
        Ok(verdict::is_made(&before, kind, Some(&below)))
    }

    /// The file that `name` in `parent` leads to, if it can be what was made for `caller`. Whoever opens it then has not asked
    /// whether he may: what is another's by now, made there since by somebody whom the overlay does not see, is not for him.
    ///
    /// # Errors
    /// As openat(2) and statx(2) say.
    fn made_for(&self, caller: Caller, parent: &OwnedFd, name: &OsStr) -> Result<Option<OwnedFd>> {
        let made = self.inodes.with_descriptor(|| openat(parent, name, PATH_ONLY, Mode::empty()))?;
        let stat = stat_of(&made)?;
        let is_file = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile;
        let is_callers = !self.identity.can_act_for_others() || stat.stx_uid == caller.uid;
        Ok(Some(made).filter(|_| is_file && is_callers && stat.stx_nlink == 1))
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// As linkat(2) says.
    pub fn link(&self, node: u64, parent: u64, name: &OsStr) -> Result<Entry> {
        let inode = self.inodes.get(node)?;
        let parent = self.inodes.get(parent)?;
        let (source, parent_fd) = (inode.fd()?, parent.fd()?);
        let before = journal::cut_short();
        journal::begins_to_make();
        let link = linkat(&self.own_fds, DecInt::from_fd(&source), &parent_fd, name, AtFlags::SYMLINK_FOLLOW);
        match (link, before) {
            (Err(Errno::EXIST), Some(before))
                if verdict::is_linked(&before, inode.file_key(), key_at(&parent_fd, name)?) => {}
            (made, _) => made?,
        }
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
        let before = journal::cut_short();
        let found = self.at(&parent, name).or_else(|errno| Found::unknown(before, errno))?;
        if let Some(before) = before.filter(|before| verdict::is_removed(before, found.key())) {
            let removed = before.moving.and_then(|(key, _)| self.inodes.find_key(key));
            removed.inspect(|inode| inode.links.remove(&parent, name));
            return Ok(());
        }
        journal::moving(found.moved(), None);
        let known = found.known;
        let is_parked = known.as_ref().is_some_and(|(inode, fd)| self.park_before(inode, fd, found.names));
        let removed = self.with_mounts_settled(|| unlinkat(&parent.fd()?, name, flags));
        if let Some((inode, fd)) = known {
            match removed {
                Ok(()) => {
                    inode.links.remove(&parent, name);
                    // It may be found by this alone now.
                    inode.keep(&fd);
                }
                Err(_) if is_parked => self.park_no_more(&inode),
                Err(_) => {}
            }
        }
        removed
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
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let before = journal::cut_short();
        let at = |parent, name| self.at(parent, name).or_else(|errno| Found::unknown(before, errno));
        let (moved, replaced) = (at(&parent, name)?, at(&new_parent, new_name)?);
        if let Some(before) = before
            && verdict::is_renamed(&before, (moved.key(), replaced.key()), exchange)
        {
            let known = |key: Option<FileKey>| self.inodes.find_key(key?);
            let was = (known(before.moving.map(|(key, _)| key)), known(before.replacing));
            self.renamed((&parent, name), (&new_parent, new_name), exchange, was);
            return Ok(());
        }
        journal::moving(moved.moved(), replaced.key());
        let is_parked = match &replaced.known {
            Some((inode, fd)) if !exchange && moved.key() != replaced.key() => {
                self.park_before(inode, fd, replaced.names)
            }
            _ => false,
        };
        let renamed = self
            .with_mounts_settled(|| renameat_with(&parent.fd()?, name, &new_parent.fd()?, new_name, flags));
        let Found { known: replaced, key: replaced_key, .. } = replaced;
        if renamed.is_err() {
            replaced.iter().filter(|_| is_parked).for_each(|(inode, _)| self.park_no_more(inode));
            return renamed;
        }
        if replaced_key.is_some() && moved.key == replaced_key {
            // Two names of one file: both stay, says rename(2).
            return Ok(());
        }
        if let Some((replaced, fd)) = replaced.as_ref().filter(|_| !exchange) {
            replaced.keep(fd);
        }
        let inode = |known: Option<(Arc<Inode>, Arc<OwnedFd>)>| known.map(|(inode, _)| inode);
        self.renamed(
            (&parent, name),
            (&new_parent, new_name),
            exchange,
            (inode(moved.known), inode(replaced)),
        );
        Ok(())
    }

    /// Takes note that `moved`, which `from` led to, is at `to`, where `replaced` was.
    fn renamed(
        &self,
        from: (&Arc<Inode>, &OsStr),
        to: (&Arc<Inode>, &OsStr),
        exchange: bool,
        (moved, replaced): (Option<Arc<Inode>>, Option<Arc<Inode>>),
    ) {
        match replaced {
            Some(replaced) if exchange => self.inodes.moved(&replaced, (to.0, to.1), from),
            Some(replaced) => replaced.links.remove(to.0, to.1),
            None => {}
        }
        if let Some(moved) = moved {
            self.inodes.moved(&moved, (from.0, from.1), to);
        }
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

    /// What `name` leads to. That the name can change hands before it is used matters to paths in records alone.
    fn at(&self, parent: &Arc<Inode>, name: &OsStr) -> Result<Found> {
        let asked = StatxFlags::INO | StatxFlags::NLINK;
        let parent = parent.fd()?;
        let stat = match statx(&parent, name, AtFlags::SYMLINK_NOFOLLOW, asked) {
            Err(Errno::NOENT) => return Ok(Found { key: None, names: 0, known: None }),
            found => found?,
        };
        let inode = self.inodes.find(&stat);
        let known = inode.and_then(|inode| inode.fd().ok().map(|fd| (inode, fd)));
        Ok(Found { key: Some(file_key(&stat)), names: stat.stx_nlink, known })
    }
}

/// What a name leads to.
struct Found {
    key: Option<FileKey>,
    /// How many names it has.
    names: u32,
    /// The inode, if the kernel knows it, with its descriptor.
    known: Option<(Arc<Inode>, Arc<OwnedFd>)>,
}

impl Found {
    /// Nobody can say, for the reason `errno`. Who does something for the first time finds that out by it; who has to know
    /// whether a predecessor has done it cannot go on.
    fn unknown(before: Option<Progress>, errno: Errno) -> Result<Self> {
        if before.is_some() { Err(errno) } else { Ok(Self { key: None, names: 0, known: None }) }
    }

    fn key(&self) -> Option<FileKey> {
        self.key
    }

    fn moved(&self) -> Option<(FileKey, u64)> {
        self.key.map(|key| (key, self.names.into()))
    }
}

fn file_key(stat: &Statx) -> FileKey {
    let (dev, ino) = key_of(stat);
    FileKey { dev, ino }
}

/// Which file `name` in `parent` leads to.
fn key_at(parent: &OwnedFd, name: &OsStr) -> Result<Option<FileKey>> {
    match statx(parent, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::INO) {
        Err(Errno::NOENT) => Ok(None),
        found => found.map(|stat| Some(file_key(&stat))),
    }
}
