//! Reading directories, a piece at a time: offsets are the cookies of the directory below, so one of any size takes
//! bounded memory.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    mem::MaybeUninit,
    ops::Range,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    sync::{Arc, Mutex, OnceLock},
};

use rustix::{
    fs::{
        AtFlags, FileType, RawDir, SeekFrom, Statx, StatxAttributes, fdatasync, fsync, seek, statat, statx,
    },
    io::Errno,
};

use super::{
    ADMITTED, OpenDir, Overlay, Result,
    handle::{DirStream, Open},
    inode::names_of,
    links::Names,
    lock,
};
use crate::state::{journal, slots::DirFacts};

/// How much of a directory is read at once. A reply takes 4 KiB, and more on newer kernels.
const READ_BYTES: usize = 16 << 10;

/// Of how many files the kernel is told with a directory's first piece. It asks for that before it can know whether they
/// are looked at; who reads nothing but names waits for no more.
const FIRST_TOLD_MAX: usize = 32;

/// One name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The inode number below.
    pub ino: u64,
    /// Where the entry behind it begins.
    pub next_offset: u64,
    /// What it is.
    pub kind: FileType,
    /// The name.
    pub name: &'a OsStr,
}

/// Entries that were read and not yet handed out. They share the memory for their names.
#[derive(Default)]
pub struct ReadAhead {
    names: Vec<u8>,
    entries: VecDeque<Placed>,
}

/// An entry whose name is in `names`.
struct Placed {
    ino: u64,
    next_offset: u64,
    kind: FileType,
    name: Range<usize>,
}

impl ReadAhead {
    fn push(&mut self, entry: &DirEntry<'_>) {
        if self.entries.is_empty() {
            self.names.clear();
        }
        let begin = self.names.len();
        self.names.extend_from_slice(entry.name.as_bytes());
        let DirEntry { ino, next_offset, kind, .. } = *entry;
        self.entries.push_back(Placed { ino, next_offset, kind, name: begin..self.names.len() });
    }

    fn first(&self) -> Option<DirEntry<'_>> {
        let Placed { ino, next_offset, kind, name } = self.entries.front()?;
        let name = OsStr::from_bytes(&self.names[name.clone()]);
        Some(DirEntry { ino: *ino, next_offset: *next_offset, kind: *kind, name })
    }

    fn remove_first(&mut self) {
        self.entries.pop_front();
    }
}

/// What the kernel is told of a name while it reads a directory.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// The node id.
    pub node: u64,
    /// The attributes of a file, which is then admitted. None for `.` and `..`, of which the kernel takes nothing but the
    /// number, and for what cannot be examined: it is to ask again.
    pub stat: Option<Statx>,
    /// The attributes are to be believed for a while.
    pub lasts: bool,
}

impl Overlay {
    /// Opens a directory for reading, for `uid`.
    ///
    /// # Errors
    /// As open(2) says.
    pub fn open_dir(&self, node: u64, uid: u32) -> Result<Arc<OpenDir>> {
        let share = self.opens.take(uid)?;
        let inode = self.inodes.get(node)?;
        let held = inode.fd()?;
        let fd = inode.open_to_list(&held)?;
        inode.keep_handle(&held);
        self.park_if_nameless(&inode, &held);
        Ok(self.dirs.insert(|id| {
            let slot = self.slot_for(&self.state.dirs, &inode);
            if let Some(node) = inode.slot() {
                DirFacts { id, node, uid }.fill(&slot);
            }
            let share = (share, Open::new(&inode));
            let stream = Mutex::new(DirStream::default());
            OpenDir { id, slot, inode, below: OnceLock::from(fd), stream, _share: share }
        }))
    }

    /// Hands the entries from `offset` on to `take`, until it says that it has no room for one.
    ///
    /// # Errors
    /// As getdents(2) says.
    pub fn read_dir(
        &self,
        handle: u64,
        offset: u64,
        mut take: impl FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let dir = self.dirs.get(handle)?;
        // Per handle: who reads one directory stream from two threads waits for himself.
        let mut stream = lock(&dir.stream);
        if offset != stream.offset {
            seek(dir.fd()?, SeekFrom::Start(offset))?;
            *stream = DirStream { offset, ..DirStream::default() };
        }
        loop {
            if stream.read_ahead.first().is_none() {
                read_more(dir.fd()?, &mut stream.read_ahead)?;
            }
            let Some(entry) = stream.read_ahead.first() else { return Ok(()) };
            if !take(&entry) {
                return Ok(());
            }
            stream.offset = entry.next_offset;
            stream.read_ahead.remove_first();
        }
    }

    /// As [`Self::read_dir`], and tells of each file as a lookup does; those that `take` had room for are to be forgotten.
    /// Waits for no filesystem that is mounted in the directory. To be used where the directory's own
    /// [is local](Self::is_local).
    ///
    /// # Errors
    /// As getdents(2) says.
    pub fn read_dir_plus(
        &self,
        handle: u64,
        offset: u64,
        mut take: impl FnMut(&DirEntry<'_>, &Told) -> bool,
    ) -> Result<()> {
        let dir = self.dirs.get(handle)?;
        let mut left = if offset == 0 { FIRST_TOLD_MAX } else { usize::MAX };
        self.read_dir(handle, offset, |entry| {
            // The journal has room for so many.
            if left == 0 || !journal::can_tell() {
                return false;
            }
            left -= 1;
            // Removed since it was read.
            let Some(told) = self.tell_of(&dir, entry) else { return true };
            let taken = take(entry, &told);
            if !taken && told.stat.is_some() {
                let forgotten = self.inodes.untell(told.node);
                self.take_back_parked(forgotten.as_deref());
            }
            taken
        })
    }

    fn tell_of(&self, dir: &OpenDir, entry: &DirEntry<'_>) -> Option<Told> {
        let name = entry.name;
        if name == "." || name == ".." {
            return Some(Told { node: entry.ino, stat: None, lasts: false });
        }
        // Who wants to know what is mounted there may have to wait for it: who lists the directory must not.
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let Ok(fd) = dir.fd() else { return None };
        match statx(fd, name, flags, ADMITTED) {
            Ok(stat) => {
                let node = self.inodes.admit(None, &stat, &dir.inode, name).0.id;
                let lasts = !stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
                    && names_of(&stat) == Names::One;
                Some(Told { node, stat: Some(stat), lasts })
            }
            Err(Errno::NOENT) => None,
            Err(_) => Some(Told { node: self.inodes.nobody(), stat: None, lasts: false }),
        }
    }

    /// Brings the directory to the disk.
    ///
    /// # Errors
    /// As fsync(2) says.
    pub fn fsync_dir(&self, handle: u64, data_only: bool) -> Result<()> {
        let dir = self.dirs.get(handle)?;
        if data_only { fdatasync(dir.fd()?) } else { fsync(dir.fd()?) }
    }

    /// Nobody has the directory open through this handle any more. Says whether it was there.
    pub fn release_dir(&self, handle: u64) -> bool {
        self.dirs.remove(handle).is_some()
    }
}

fn read_more(fd: &OwnedFd, read_ahead: &mut ReadAhead) -> Result<()> {
    let mut buffer = [MaybeUninit::uninit(); READ_BYTES];
    let mut entries = RawDir::new(fd, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        let kind = match entry.file_type() {
            // Some filesystems leave the kind out.
            FileType::Unknown => statat(fd, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
            known => known,
        };
        read_ahead.push(&DirEntry {
            ino: entry.ino(),
            next_offset: entry.next_entry_cookie(),
            kind,
            name: OsStr::from_bytes(name.to_bytes()),
        });
        if entries.is_buffer_empty() {
            break;
        }
    }
    Ok(())
}
