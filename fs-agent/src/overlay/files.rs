//! Operations on open files.

use std::{
    io::IoSlice,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, OnceLock, atomic::AtomicBool},
};

use rustix::{
    fs::{FallocateFlags, OFlags, SeekFrom, fallocate, fdatasync, fsync, seek},
    io::{Errno, ReadWriteFlags, dup, pread, pwrite, pwritev2, write},
};

use super::{
    Caller, OpenFile, Overlay, Result,
    descriptors::Share,
    handle::{Below, Open},
    inode::Inode,
    links::Names,
    lock,
    paths::KnownPath,
};
use crate::state::{
    Slot, Table,
    journal::{self, Progress, WrittenAt},
    slots::HandleFacts,
    verdict::{self, WriteVerdict},
};

/// RWF_NOAPPEND of linux/fs.h (Linux 6.9).
const NO_APPEND: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x20);

/// O_DSYNC of linux/fcntl.h. The constant of rustix has the bits of O_SYNC.
const DATA_SYNC: OFlags = OFlags::from_bits_retain(nix::libc::O_DSYNC.cast_unsigned());

/// How many bytes that others have appended without the overlay an append is looked for behind, after a crash.
const APPENDED_BY_OTHERS_MAX: usize = 1 << 20;

/// The offset with which pwritev2(2) uses the descriptor's position.
const AT_POSITION: u64 = u64::MAX;

/// What reaches the disk before a write is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Nothing.
    #[default]
    None,
    /// The bytes: O_DSYNC, RWF_DSYNC.
    Data,
    /// The file's attributes as well: O_SYNC, RWF_SYNC.
    Full,
}

impl Durability {
    /// What `flags` of an open file ask for.
    pub fn of(flags: OFlags) -> Self {
        if flags.contains(OFlags::SYNC) {
            Self::Full
        } else if flags.contains(DATA_SYNC) {
            Self::Data
        } else {
            Self::None
        }
    }

    /// `flags` without what has each write wait for the disk: below each write says that for itself, so that one can be
    /// written first and waited for afterwards.
    pub(super) fn left_to_writes(flags: OFlags) -> OFlags {
        flags - (OFlags::SYNC | DATA_SYNC)
    }

    /// What a write says.
    fn flags(self) -> ReadWriteFlags {
        match self {
            Self::None => ReadWriteFlags::empty(),
            Self::Data => ReadWriteFlags::DSYNC,
            Self::Full => ReadWriteFlags::SYNC,
        }
    }
}

/// How a write came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A caller writes at a place.
    Write,
    /// A caller writes, and its descriptor says O_APPEND now.
    Append,
    /// The kernel writes the pages of a mapping back, through a handle of its choice.
    Mapping,
}

/// What is to be written.
#[derive(Clone, Copy, Debug)]
pub struct WriteRequest<'a> {
    /// Where the kernel places it. For an append that is where it believes that the file ends.
    pub offset: u64,
    /// The bytes.
    pub data: &'a [u8],
    /// How it came to be.
    pub cause: Cause,
    /// What it waits for; flags of the write itself (RWF_DSYNC, RWF_SYNC) included.
    pub durability: Durability,
    /// The writer, if it may not keep the set-id bits of what it changes.
    pub drops_set_id: Option<Caller>,
}

impl WriteRequest<'_> {
    /// Whether it goes to the end of the file, wherever that is. Elsewhere than the kernel can believe the end to be it is no
    /// append: RWF_NOAPPEND.
    fn is_append_to(&self, file: &OpenFile) -> bool {
        self.cause == Cause::Append && file.inode.size().may_be(self.offset)
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// How many of the bytes are in the file.
    pub len: usize,
    /// Where they begin.
    pub offset: u64,
    /// The file had set-id bits and has lost them.
    pub set_id_dropped: bool,
}

impl Overlay {
    /// Opens a regular file for `caller`. Where it is to be cut to nothing, the kernel asks for that by itself.
    ///
    /// # Errors
    /// As open(2) says.
    pub fn open_file(&self, node: u64, flags: i32, caller: Caller) -> Result<Arc<OpenFile>> {
        self.open_with(node, flags, OFlags::empty(), caller)
    }

    /// As [`Self::open_file`], and waits for nobody who has a lease on the file (F_SETLEASE of fcntl(2)): who does is told
    /// to give it up.
    ///
    /// # Errors
    /// As open(2) says; `EWOULDBLOCK` if somebody has a lease.
    pub fn open_file_at_once(&self, node: u64, flags: i32, caller: Caller) -> Result<Arc<OpenFile>> {
        self.open_with(node, flags, OFlags::NONBLOCK, caller)
    }

    fn open_with(&self, node: u64, flags: i32, more: OFlags, caller: Caller) -> Result<Arc<OpenFile>> {
        let share = self.opens.take(caller.uid)?;
        let inode = self.inodes.get(node)?;
        let wanted = OFlags::from_bits_retain(flags.cast_unsigned());
        // The buffers that requests come in are not aligned as O_DIRECT wants. The inode's own descriptor stands
        // behind a symbolic link in /proc, so that must be followed.
        let refused = OFlags::DIRECT | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let held = inode.fd()?;
        let fd = inode.reopen(&held, Durability::left_to_writes(wanted - refused) | more)?;
        self.park_if_nameless(&inode, &held);
        let path = self.path_for_open(&inode, caller.thread);
        Ok(self.keep(share, inode, Below { held, fd }, wanted, caller, path))
    }

    pub(super) fn keep(
        &self,
        share: Share,
        inode: Arc<Inode>,
        Below { held, fd }: Below,
        flags: OFlags,
        opener: Caller,
        path: KnownPath,
    ) -> Arc<OpenFile> {
        inode.keep_handle(&held);
        self.files.insert(|id| {
            let slot = self.slot_for(&self.state.handles, &inode);
            if let Some(node) = inode.slot() {
                let link = path.link.as_ref().map_or(0, |link| link.id());
                let is_sure = path.names == Names::One;
                let (flags, Caller { uid, gid, .. }) = (flags.bits(), opener);
                HandleFacts { id, node, flags, uid, gid, link, is_sure, note: 0 }.fill(&slot);
            }
            let share = (share, Open::new(&inode));
            let below = OnceLock::from(Below { held, fd });
            OpenFile::of(id, slot, inode, below, flags, opener, path, share)
        })
    }

    /// A slot of `table` for what is open of `inode`; one that ends with this process if the inode does as well.
    pub(super) fn slot_for(&self, table: &Arc<Table>, inode: &Inode) -> Slot {
        if inode.slot().is_some() { table.take() } else { table.private() }
    }

    /// Reads up to `len` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// As pread(2) says.
    pub fn read(&self, file: &OpenFile, offset: u64, len: usize) -> Result<Vec<u8>> {
        let fd = file.fd()?;
        let mut data = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match pread(fd, &mut data[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(Errno::INTR) => {}
                Err(_) if filled > 0 => break,
                Err(error) => return Err(error),
            }
        }
        if filled < len {
            file.inode.size().read_ended(offset + filled as u64);
        }
        data.truncate(filled);
        Ok(data)
    }

    /// Writes. What is returned is in the file.
    ///
    /// # Errors
    /// As pwrite(2) says; nothing is then written.
    pub fn write(&self, file: &OpenFile, request: &WriteRequest<'_>) -> Result<Written> {
        let before = journal::cut_short();
        if let Some(before) = before
            && let Some(written) = self.write_on(&before, file, request)?
        {
            return Ok(written);
        }
        let noted = before.and_then(|before| before.appending);
        let is_append = noted.unwrap_or_else(|| request.is_append_to(file));
        if request.cause == Cause::Append {
            journal::appending(is_append);
        }
        let written = self.write_now(file, request, is_append)?;
        journal::written(WrittenAt { len: written.len as u64, offset: written.offset });
        Ok(written)
    }

    /// What a predecessor has written for the same request, with what was left of it; none if it is to be written.
    fn write_on(
        &self,
        before: &Progress,
        file: &OpenFile,
        request: &WriteRequest<'_>,
    ) -> Result<Option<Written>> {
        let WriteRequest { offset, data, .. } = *request;
        // What the kernel believes of the size has changed if it was written.
        let is_append = before.appending.unwrap_or_else(|| request.is_append_to(file));
        let verdict = if is_append {
            verdict::append(before, offset, data, &self.read_behind(file, offset, data.len())?)
        } else {
            verdict::write(before)
        };
        let done = match verdict {
            WriteVerdict::Do => return Ok(None),
            WriteVerdict::Done(done) => done,
            WriteVerdict::Continue(WrittenAt { len, offset }) => {
                let begun = usize::try_from(len).unwrap_or(usize::MAX).min(data.len());
                let rest = self.place(file, offset + len, &data[begun..], request.durability.flags())?;
                WrittenAt { len: len + rest as u64, offset }
            }
        };
        if request.cause != Cause::Mapping {
            file.inode.size().grew_to(offset + done.len);
        }
        journal::written(done);
        // Whether it was brought to the disk as well is not known.
        self.bring_to_disk(file, request.durability)?;
        let len = usize::try_from(done.len).unwrap_or(usize::MAX).min(data.len());
        // Nor whether there were set-id bits.
        Ok(Some(Written { len, offset: done.offset, set_id_dropped: request.drops_set_id.is_some() }))
    }

    /// What is in the file from `offset` on, as far as an append of `len` bytes is looked for there.
    fn read_behind(&self, file: &OpenFile, offset: u64, len: usize) -> Result<Vec<u8>> {
        // Not through the file: it may be open for writing alone.
        let fd = file.inode.reopen(file.held()?, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let mut found = vec![0; len + APPENDED_BY_OTHERS_MAX];
        let mut filled = 0;
        while filled < found.len() {
            match pread(&fd, &mut found[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        found.truncate(filled);
        Ok(found)
    }

    fn write_now(&self, file: &OpenFile, request: &WriteRequest<'_>, is_append: bool) -> Result<Written> {
        let WriteRequest { offset, data, cause, durability, drops_set_id } = *request;
        let set_id_dropped = match drops_set_id {
            Some(writer) => self.take_set_id(file.fd()?, writer)?,
            None => false,
        };
        let flags = durability.flags();
        let (len, placed) = if is_append {
            file.append(offset, data, flags)?
        } else {
            (self.place(file, offset, data, flags)?, offset)
        };
        if cause != Cause::Mapping {
            file.inode.size().grew_to(offset + len as u64);
        }
        Ok(Written { len, offset: placed, set_id_dropped })
    }

    /// Writes as [`Self::write`] does, in the name of `writer`. Who may exceed limits of space is not stopped half-way either.
    ///
    /// # Errors
    /// As pwrite(2) says; nothing is then written.
    pub fn write_by(&self, writer: Caller, file: &OpenFile, request: &WriteRequest<'_>) -> Result<Written> {
        let mut written = self.by(writer, || self.write(file, request))?;
        let rest = &request.data[written.len..];
        // The rest of an append would have to find its place anew.
        if !rest.is_empty()
            && request.cause == Cause::Write
            && self.identity.can_act_for_others()
            && let Some(more) = writer.more()
        {
            let offset = written.offset + written.len as u64;
            let rest = WriteRequest { offset, data: rest, ..*request };
            if let Ok(further) = more.lend(|| self.write_now(file, &rest, false)) {
                written.len += further.len;
                journal::written(WrittenAt { len: written.len as u64, offset: written.offset });
            }
        }
        Ok(written)
    }

    /// Writes at `offset`, whether the descriptor appends or not.
    fn place(&self, file: &OpenFile, offset: u64, data: &[u8], flags: ReadWriteFlags) -> Result<usize> {
        if !file.appends {
            return write_at(file.fd()?, offset, data, flags);
        }
        match pwritev2(file.fd()?, &[IoSlice::new(data)], offset, flags | NO_APPEND) {
            // Linux before 6.9.
            Err(Errno::OPNOTSUPP) => write_at(self.without_append(file)?, offset, data, flags),
            done => done,
        }
    }

    fn without_append<'a>(&self, file: &'a OpenFile) -> Result<&'a OwnedFd> {
        if let Some(fd) = file.without_append.get() {
            return Ok(fd);
        }
        let fd = file.inode.reopen(file.held()?, OFlags::WRONLY)?;
        Ok(file.without_append.get_or_init(|| fd))
    }

    /// A caller closes one of its descriptors: the last chance to tell it of an error of earlier writes.
    ///
    /// # Errors
    /// As close(2) says.
    pub fn flush(&self, file: &OpenFile) -> Result<()> {
        nix::unistd::close(dup(file.fd()?)?).map_err(|errno| Errno::from_raw_os_error(errno as i32))
    }

    /// Brings the file to the disk; with `data_only`, without its times.
    ///
    /// # Errors
    /// As fsync(2) says.
    pub fn fsync(&self, file: &OpenFile, data_only: bool) -> Result<()> {
        if data_only { fdatasync(file.fd()?) } else { fsync(file.fd()?) }
    }

    /// Brings what was written to the disk, as far as `durability` asks for it.
    ///
    /// # Errors
    /// As fsync(2) says.
    pub fn bring_to_disk(&self, file: &OpenFile, durability: Durability) -> Result<()> {
        match durability {
            Durability::None => Ok(()),
            Durability::Data => self.fsync(file, true),
            Durability::Full => self.fsync(file, false),
        }
    }

    /// The last descriptor and mapping are gone. Gives what was open: a release that is done again changes nothing.
    pub fn release(&self, handle: u64) -> Option<Arc<OpenFile>> {
        self.take_back_open(handle);
        self.files.remove(handle)
    }

    /// Reserves or gives back space for `caller`.
    ///
    /// # Errors
    /// As fallocate(2) says.
    pub fn fallocate(
        &self,
        file: &OpenFile,
        (offset, len): (u64, u64),
        mode: i32,
        caller: Caller,
    ) -> Result<()> {
        if caller.uid != 0 {
            self.take_set_id(file.fd()?, caller)?;
        }
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        fallocate(file.fd()?, mode, offset, len)?;
        if !mode.contains(FallocateFlags::KEEP_SIZE) {
            file.inode.size().grew_to(offset + len);
        }
        self.bring_to_disk(file, file.durability)
    }

    /// Finds data or a hole at or behind `offset`. All other seeking is the kernel's.
    ///
    /// # Errors
    /// As lseek(2) says.
    pub fn seek_to(&self, file: &OpenFile, offset: u64, hole: bool) -> Result<u64> {
        let _position = lock(&file.position);
        seek(file.fd()?, if hole { SeekFrom::Hole(offset) } else { SeekFrom::Data(offset) })
    }
}

impl OpenFile {
    /// A file that is open.
    #[expect(clippy::too_many_arguments, reason = "each is a part of it that differs from open to open")]
    pub(super) fn of(
        id: u64,
        slot: Slot,
        inode: Arc<Inode>,
        below: OnceLock<Below>,
        flags: OFlags,
        opener: Caller,
        path: KnownPath,
        share: (Share, Open),
    ) -> Self {
        Self {
            id,
            slot,
            inode,
            below,
            flags,
            loss_told: AtomicBool::new(false),
            opener: opener.gone(),
            appends: flags.contains(OFlags::APPEND),
            durability: Durability::of(flags),
            position: Mutex::new(()),
            without_append: OnceLock::new(),
            path: Mutex::new(path),
            _share: share,
        }
    }

    /// Writes to the end of the file, wherever that is by now: others may have appended without the overlay. Says where
    /// that was; `believed` if nobody can say it.
    fn append(&self, believed: u64, data: &[u8], flags: ReadWriteFlags) -> Result<(usize, u64)> {
        // pwrite(2) would append as well, and not tell where.
        let _position = lock(&self.position);
        let len = if self.appends && flags.is_empty() {
            write(self.fd()?, data)?
        } else {
            pwritev2(self.fd()?, &[IoSlice::new(data)], AT_POSITION, flags | ReadWriteFlags::APPEND)?
        };
        let end = seek(self.fd()?, SeekFrom::Current(0)).unwrap_or(believed + len as u64);
        Ok((len, end.saturating_sub(len as u64)))
    }
}

fn write_at(fd: &OwnedFd, offset: u64, data: &[u8], flags: ReadWriteFlags) -> Result<usize> {
    if flags.is_empty() {
        return pwrite(fd, data, offset);
    }
    pwritev2(fd, &[IoSlice::new(data)], offset, flags)
}
