//! A request of the kernel's, taken apart. Whatever bytes come, what comes out is a request or an error.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::wire::{
    BatchForgetIn, CreateIn, FSYNC_FDATASYNC, FallocateIn, FlushIn, ForgetIn, ForgetOne, FsyncIn, GetXattrIn,
    InHeader, IoctlIn, LinkIn, LseekIn, MkdirIn, MknodIn, Opcode, OpenIn, ReadIn, ReleaseIn, Rename2In,
    RenameIn, SetAttrIn, SetXattrIn, WriteIn,
};

/// A request, in the buffer into which it was read.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who asks, for what, about which node.
    pub header: InHeader,
    /// What is asked for.
    pub operation: Operation<'a>,
}

/// What is asked for. Nodes and handles are numbers that this program has given out, or that it has not: nothing is checked
/// here but the form.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Operation<'a> {
    Lookup {
        name: &'a OsStr,
    },
    Forget {
        lookups: u64,
    },
    BatchForget(Forgets<'a>),
    GetAttr,
    SetAttr(SetAttrIn),
    ReadLink,
    Symlink {
        name: &'a OsStr,
        target: &'a Path,
    },
    Mknod {
        name: &'a OsStr,
        how: MknodIn,
    },
    Mkdir {
        name: &'a OsStr,
        how: MkdirIn,
    },
    Unlink {
        name: &'a OsStr,
    },
    Rmdir {
        name: &'a OsStr,
    },
    Rename {
        name: &'a OsStr,
        new_parent: u64,
        new_name: &'a OsStr,
        flags: u32,
    },
    Link {
        node: u64,
        name: &'a OsStr,
    },
    Open {
        flags: u32,
    },
    Create {
        name: &'a OsStr,
        how: CreateIn,
    },
    Read(ReadIn),
    Write {
        how: WriteIn,
        data: &'a [u8],
    },
    Flush {
        handle: u64,
    },
    Release {
        handle: u64,
    },
    Fsync {
        handle: u64,
        data_only: bool,
    },
    OpenDir,
    ReadDir(ReadIn),
    ReadDirPlus(ReadIn),
    ReleaseDir {
        handle: u64,
    },
    FsyncDir {
        handle: u64,
        data_only: bool,
    },
    StatFs,
    SetXattr {
        name: &'a OsStr,
        value: &'a [u8],
        flags: u32,
    },
    GetXattr {
        name: &'a OsStr,
        size: u32,
    },
    ListXattr {
        size: u32,
    },
    RemoveXattr {
        name: &'a OsStr,
    },
    Fallocate(FallocateIn),
    Ioctl {
        how: IoctlIn,
        data: &'a [u8],
    },
    Lseek(LseekIn),
    Interrupt,
    /// The answer to FUSE_NOTIFY_RETRIEVE.
    NotifyReply,
    Init,
    Destroy,
    /// An operation that this program does not know, or does not do.
    Other,
}

/// Bytes that are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They end within the header, or before the length that it says.
    #[error("a request of {got} bytes, of {wanted}")]
    Short {
        /// How many bytes there are.
        got: usize,
        /// How many there should be, at least.
        wanted: usize,
    },
    /// The header is whole, and what follows does not fit the operation.
    #[error("request {unique:#x}, of operation {opcode}, has not the form of one")]
    Arguments {
        /// The request's number.
        unique: u64,
        /// FUSE_*
        opcode: u32,
    },
}

impl<'a> Request<'a> {
    /// Takes apart what one read(2) gave.
    ///
    /// # Errors
    /// If it is no request.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let short = |wanted| Malformed::Short { got: bytes.len(), wanted };
        let (header, _) = InHeader::read_from_prefix(bytes).map_err(|_| short(size_of::<InHeader>()))?;
        let len = usize::try_from(header.len).unwrap_or(usize::MAX);
        let malformed = Malformed::Arguments { unique: header.unique, opcode: header.opcode };
        if len < size_of::<InHeader>() {
            return Err(malformed);
        }
        let arguments = bytes.get(size_of::<InHeader>()..len).ok_or(short(len))?;
        let operation = match Opcode::of(header.opcode) {
            Some(opcode) => Arguments(arguments).operation(opcode),
            None => Some(Operation::Other),
        };
        Ok(Self { header, operation: operation.ok_or(malformed)? })
    }

    /// Whether the kernel sends it once more, because who had read it first is gone.
    #[cfg(test)]
    pub fn is_resent(&self) -> bool {
        self.header.unique & super::wire::UNIQUE_RESEND != 0
    }
}

/// Nodes that the kernel forgets, each with how many look-ups of it.
#[derive(Clone, Copy, Debug)]
pub struct Forgets<'a>(&'a [u8]);

impl Forgets<'_> {
    /// Node ids and numbers of look-ups.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        let ones = self.0.chunks_exact(size_of::<ForgetOne>());
        ones.filter_map(|one| ForgetOne::read_from_bytes(one).ok()).map(|one| (one.nodeid, one.nlookup))
    }
}

/// What follows the header.
struct Arguments<'a>(&'a [u8]);

impl<'a> Arguments<'a> {
    fn take<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Option<T> {
        let (value, rest) = T::read_from_prefix(self.0).ok()?;
        self.0 = rest;
        Some(value)
    }

    fn name(&mut self) -> Option<&'a OsStr> {
        let end = memchr::memchr(0, self.0)?;
        let name = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Some(OsStr::from_bytes(name))
    }

    fn bytes(&mut self, len: u32) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(bytes)
    }

    fn operation(mut self, opcode: Opcode) -> Option<Operation<'a>> {
        Some(match opcode {
            Opcode::Lookup => Operation::Lookup { name: self.name()? },
            Opcode::ReadLink => Operation::ReadLink,
            Opcode::Symlink => {
                let name = self.name()?;
                Operation::Symlink { name, target: Path::new(self.name()?) }
            }
            Opcode::Mknod => {
                let how = self.take()?;
                Operation::Mknod { name: self.name()?, how }
            }
            Opcode::Mkdir => {
                let how = self.take()?;
                Operation::Mkdir { name: self.name()?, how }
            }
            Opcode::Create => {
                let how = self.take()?;
                Operation::Create { name: self.name()?, how }
            }
            Opcode::Unlink => Operation::Unlink { name: self.name()? },
            Opcode::Rmdir => Operation::Rmdir { name: self.name()? },
            Opcode::Rename => {
                let new_parent = self.take::<RenameIn>()?.newdir;
                Operation::Rename { name: self.name()?, new_parent, new_name: self.name()?, flags: 0 }
            }
            Opcode::Rename2 => {
                let how: Rename2In = self.take()?;
                let (name, new_name) = (self.name()?, self.name()?);
                Operation::Rename { name, new_parent: how.newdir, new_name, flags: how.flags }
            }
            Opcode::Link => {
                let node = self.take::<LinkIn>()?.oldnodeid;
                Operation::Link { node, name: self.name()? }
            }
            Opcode::SetXattr => {
                let how: SetXattrIn = self.take()?;
                Operation::SetXattr { name: self.name()?, value: self.bytes(how.size)?, flags: how.flags }
            }
            Opcode::GetXattr => {
                let size = self.take::<GetXattrIn>()?.size;
                Operation::GetXattr { name: self.name()?, size }
            }
            Opcode::RemoveXattr => Operation::RemoveXattr { name: self.name()? },
            nameless => self.nameless(nameless)?,
        })
    }

    fn nameless(&mut self, opcode: Opcode) -> Option<Operation<'a>> {
        Some(match opcode {
            Opcode::Write => {
                let how: WriteIn = self.take()?;
                Operation::Write { how, data: self.bytes(how.size)? }
            }
            Opcode::Read => Operation::Read(self.take()?),
            Opcode::Open => Operation::Open { flags: self.take::<OpenIn>()?.flags },
            Opcode::Flush => Operation::Flush { handle: self.take::<FlushIn>()?.fh },
            Opcode::Release => Operation::Release { handle: self.take::<ReleaseIn>()?.fh },
            Opcode::Fsync => {
                let (handle, data_only) = self.fsync()?;
                Operation::Fsync { handle, data_only }
            }
            Opcode::OpenDir => Operation::OpenDir,
            Opcode::ReadDir => Operation::ReadDir(self.take()?),
            Opcode::ReadDirPlus => Operation::ReadDirPlus(self.take()?),
            Opcode::ReleaseDir => Operation::ReleaseDir { handle: self.take::<ReleaseIn>()?.fh },
            Opcode::FsyncDir => {
                let (handle, data_only) = self.fsync()?;
                Operation::FsyncDir { handle, data_only }
            }
            // The handle that it may name is of no use.
            Opcode::GetAttr => Operation::GetAttr,
            Opcode::SetAttr => Operation::SetAttr(self.take()?),
            Opcode::StatFs => Operation::StatFs,
            Opcode::ListXattr => Operation::ListXattr { size: self.take::<GetXattrIn>()?.size },
            Opcode::Fallocate => Operation::Fallocate(self.take()?),
            Opcode::Lseek => Operation::Lseek(self.take()?),
            Opcode::Ioctl => {
                let how: IoctlIn = self.take()?;
                Operation::Ioctl { how, data: self.bytes(how.in_size)? }
            }
            Opcode::Forget => Operation::Forget { lookups: self.take::<ForgetIn>()?.nlookup },
            Opcode::BatchForget => self.forgets()?,
            Opcode::Interrupt => Operation::Interrupt,
            Opcode::NotifyReply => Operation::NotifyReply,
            Opcode::Init => Operation::Init,
            Opcode::Destroy => Operation::Destroy,
            _ => Operation::Other,
        })
    }

    fn fsync(&mut self) -> Option<(u64, bool)> {
        let how: FsyncIn = self.take()?;
        Some((how.fh, how.fsync_flags & FSYNC_FDATASYNC != 0))
    }

    fn forgets(&mut self) -> Option<Operation<'a>> {
        let count = self.take::<BatchForgetIn>()?.count;
        let len = count.checked_mul(u32::try_from(size_of::<ForgetOne>()).ok()?)?;
        Some(Operation::BatchForget(Forgets(self.bytes(len)?)))
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
