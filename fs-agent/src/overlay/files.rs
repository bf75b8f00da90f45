//! Operations on open files.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, OnceLock, atomic::AtomicU64},
};

use rustix::{
    fs::{FallocateFlags, OFlags, SeekFrom, fallocate, fdatasync, fsync, seek},
    io::{Errno, dup, pread, pwrite, write},
};

use super::{
    Caller, OpenFile, Overlay, Result,
    handle::KnownPath,
    inode::{self, Inode},
    lock,
};

/// What a caller writes.
#[derive(Clone, Copy, Debug)]
pub struct WriteRequest<'a> {
    /// Where the kernel places it.
    pub offset: u64,
    /// The bytes.
    pub data: &'a [u8],
    /// To the end of the file, wherever that is by now.
    pub append: bool,
    /// The writer, if it may not keep the set-id bits of what it changes.
    pub drops_set_id: Option<Caller>,
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
    /// Opens a regular file. Where it is to be cut to nothing, the kernel asks for that by itself.
    ///
    /// # Errors
    /// As open(2) says.
    pub fn open_file(&self, node: u64, flags: i32) -> Result<Arc<OpenFile>> {
        let inode = self.inodes.get(node)?;
        let wanted = OFlags::from_bits_retain(flags.cast_unsigned());
        // The buffers that requests come in are not aligned as O_DIRECT wants. The inode's own descriptor stands
        // behind a symbolic link in /proc, so that must be followed.
        let refused = OFlags::DIRECT | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let held = inode.fd()?;
        let fd = self.reopen(&held, wanted - refused)?;
        Ok(self.keep(inode, held, fd, wanted))
    }

    pub(super) fn keep(
        &self,
        inode: Arc<Inode>,
        held: Arc<OwnedFd>,
        fd: OwnedFd,
        flags: OFlags,
    ) -> Arc<OpenFile> {
        let directory_moves = self.inodes.directory_moves();
        let link = inode.link();
        let bytes =
            link.as_ref().map_or_else(|| self.path.as_slice().into(), |l| inode::path_of(&self.path, l));
        self.files.insert(|id| OpenFile {
            id,
            inode,
            held,
            fd,
            append: flags.contains(OFlags::APPEND),
            position: Mutex::new(()),
            without_append: OnceLock::new(),
            path: Mutex::new(KnownPath { link, directory_moves, bytes }),
            note: AtomicU64::new(0),
        })
    }

    /// Reads up to `len` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// As pread(2) says.
    pub fn read(&self, file: &OpenFile, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut data = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match pread(&file.fd, &mut data[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(Errno::INTR) => {}
                Err(_) if filled > 0 => break,
                Err(error) => return Err(error),
            }
        }
        data.truncate(filled);
        Ok(data)
    }

    /// Writes. What is returned is in the file.
    ///
    /// # Errors
    /// As pwrite(2) says; nothing is then written.
    pub fn write(&self, file: &OpenFile, request: &WriteRequest<'_>) -> Result<Written> {
        let WriteRequest { offset, data, append, drops_set_id } = *request;
        let set_id_dropped = match drops_set_id {
            Some(writer) => self.take_set_id(&file.fd, writer)?,
            None => false,
        };
        if append && file.append {
            // pwrite(2) would append as well, and not tell where: others may have appended without the overlay.
            let _position = lock(&file.position);
            let len = write(&file.fd, data)?;
            let end = seek(&file.fd, SeekFrom::Current(0)).unwrap_or(offset + len as u64);
            return Ok(Written { len, offset: end.saturating_sub(len as u64), set_id_dropped });
        }
        let fd = if file.append { self.without_append(file)? } else { &file.fd };
        Ok(Written { len: pwrite(fd, data, offset)?, offset, set_id_dropped })
    }

    /// The pages of a mapping have their place, also where the handle that carries them appends.
    fn without_append<'a>(&self, file: &'a OpenFile) -> Result<&'a OwnedFd> {
        if let Some(fd) = file.without_append.get() {
            return Ok(fd);
        }
        let fd = self.reopen(&file.held, OFlags::WRONLY)?;
        Ok(file.without_append.get_or_init(|| fd))
    }

    /// A caller closes one of its descriptors: the last chance to tell it of an error of earlier writes.
    ///
    /// # Errors
    /// As close(2) says.
    pub fn flush(&self, file: &OpenFile) -> Result<()> {
        nix::unistd::close(dup(&file.fd)?).map_err(|errno| Errno::from_raw_os_error(errno as i32))
    }

    /// Brings the file to the disk; with `data_only`, without its times.
    ///
    /// # Errors
    /// As fsync(2) says.
    pub fn fsync(&self, file: &OpenFile, data_only: bool) -> Result<()> {
        if data_only { fdatasync(&file.fd) } else { fsync(&file.fd) }
    }

    /// The last descriptor and mapping are gone.
    pub fn release(&self, handle: u64) {
        self.files.remove(handle);
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
            self.take_set_id(&file.fd, caller)?;
        }
        fallocate(&file.fd, FallocateFlags::from_bits_retain(mode.cast_unsigned()), offset, len)
    }

    /// Finds data or a hole at or behind `offset`. All other seeking is the kernel's.
    ///
    /// # Errors
    /// As lseek(2) says.
    pub fn seek_to(&self, file: &OpenFile, offset: u64, hole: bool) -> Result<u64> {
        let _position = lock(&file.position);
        seek(&file.fd, if hole { SeekFrom::Hole(offset) } else { SeekFrom::Data(offset) })
    }
}
