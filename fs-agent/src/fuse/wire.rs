//! What goes over /dev/fuse, as include/uapi/linux/fuse.h of Linux 6.18 has it: numbers and layouts, nothing else.
//!
//! All of it is in the machine's own byte order and without padding that is not named. Names are those of the header less
//! their prefix.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The node id of an overlay's root: FUSE_ROOT_ID.
pub const ROOT: u64 = 1;

/// The bit of [`InHeader::unique`] by which the kernel marks a request that it sends once more: FUSE_UNIQUE_RESEND.
#[cfg(test)]
pub const UNIQUE_RESEND: u64 = 1 << 63;

/// `enum fuse_opcode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Opcode {
    /// FUSE_LOOKUP
    Lookup = 1,
    /// FUSE_FORGET: no answer.
    Forget = 2,
    /// FUSE_GETATTR
    GetAttr = 3,
    /// FUSE_SETATTR
    SetAttr = 4,
    /// FUSE_READLINK
    ReadLink = 5,
    /// FUSE_SYMLINK
    Symlink = 6,
    /// FUSE_MKNOD
    Mknod = 8,
    /// FUSE_MKDIR
    Mkdir = 9,
    /// FUSE_UNLINK
    Unlink = 10,
    /// FUSE_RMDIR
    Rmdir = 11,
    /// FUSE_RENAME
    Rename = 12,
    /// FUSE_LINK
    Link = 13,
    /// FUSE_OPEN
    Open = 14,
    /// FUSE_READ
    Read = 15,
    /// FUSE_WRITE
    Write = 16,
    /// FUSE_STATFS
    StatFs = 17,
    /// FUSE_RELEASE
    Release = 18,
    /// FUSE_FSYNC
    Fsync = 20,
    /// FUSE_SETXATTR
    SetXattr = 21,
    /// FUSE_GETXATTR
    GetXattr = 22,
    /// FUSE_LISTXATTR
    ListXattr = 23,
    /// FUSE_REMOVEXATTR
    RemoveXattr = 24,
    /// FUSE_FLUSH
    Flush = 25,
    /// FUSE_INIT
    Init = 26,
    /// FUSE_OPENDIR
    OpenDir = 27,
    /// FUSE_READDIR
    ReadDir = 28,
    /// FUSE_RELEASEDIR
    ReleaseDir = 29,
    /// FUSE_FSYNCDIR
    FsyncDir = 30,
    /// FUSE_GETLK
    GetLk = 31,
    /// FUSE_SETLK
    SetLk = 32,
    /// FUSE_SETLKW
    SetLkw = 33,
    /// FUSE_ACCESS
    Access = 34,
    /// FUSE_CREATE
    Create = 35,
    /// FUSE_INTERRUPT
    Interrupt = 36,
    /// FUSE_BMAP
    Bmap = 37,
    /// FUSE_DESTROY
    Destroy = 38,
    /// FUSE_IOCTL
    Ioctl = 39,
    /// FUSE_POLL
    Poll = 40,
    /// FUSE_NOTIFY_REPLY: no answer.
    NotifyReply = 41,
    /// FUSE_BATCH_FORGET: no answer.
    BatchForget = 42,
    /// FUSE_FALLOCATE
    Fallocate = 43,
    /// FUSE_READDIRPLUS
    ReadDirPlus = 44,
    /// FUSE_RENAME2
    Rename2 = 45,
    /// FUSE_LSEEK
    Lseek = 46,
    /// FUSE_COPY_FILE_RANGE
    CopyFileRange = 47,
    /// FUSE_SETUPMAPPING
    SetupMapping = 48,
    /// FUSE_REMOVEMAPPING
    RemoveMapping = 49,
    /// FUSE_SYNCFS
    SyncFs = 50,
    /// FUSE_TMPFILE
    TmpFile = 51,
    /// FUSE_STATX
    Statx = 52,
    /// FUSE_COPY_FILE_RANGE_64
    CopyFileRange64 = 53,
}

impl Opcode {
    /// All that the kernel knows.
    pub const ALL: [Self; 51] = {
        use Opcode::*;
        [
            Lookup,
            Forget,
            GetAttr,
            SetAttr,
            ReadLink,
            Symlink,
            Mknod,
            Mkdir,
            Unlink,
            Rmdir,
            Rename,
            Link,
            Open,
            Read,
            Write,
            StatFs,
            Release,
            Fsync,
            SetXattr,
            GetXattr,
            ListXattr,
            RemoveXattr,
            Flush,
            Init,
            OpenDir,
            ReadDir,
            ReleaseDir,
            FsyncDir,
            GetLk,
            SetLk,
            SetLkw,
            Access,
            Create,
            Interrupt,
            Bmap,
            Destroy,
            Ioctl,
            Poll,
            NotifyReply,
            BatchForget,
            Fallocate,
            ReadDirPlus,
            Rename2,
            Lseek,
            CopyFileRange,
            SetupMapping,
            RemoveMapping,
            SyncFs,
            TmpFile,
            Statx,
            CopyFileRange64,
        ]
    };

    /// The operation of that number, if this program knows of one.
    pub fn of(number: u32) -> Option<Self> {
        const LAST: usize = Opcode::CopyFileRange64 as usize;
        const BY_NUMBER: [Option<Opcode>; LAST + 1] = {
            let mut table = [None; LAST + 1];
            let mut i = 0;
            while i < Opcode::ALL.len() {
                table[Opcode::ALL[i] as usize] = Some(Opcode::ALL[i]);
                i += 1;
            }
            table
        };
        BY_NUMBER.get(usize::try_from(number).ok()?).copied().flatten()
    }

    /// Whether the kernel waits for an answer.
    pub fn is_answered(self) -> bool {
        !matches!(self, Self::Forget | Self::BatchForget | Self::NotifyReply)
    }
}

/// `enum fuse_notify_code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Notification {
    /// FUSE_NOTIFY_INVAL_INODE
    InvalInode = 2,
    /// FUSE_NOTIFY_STORE
    Store = 4,
    /// FUSE_NOTIFY_RETRIEVE
    Retrieve = 5,
    /// FUSE_NOTIFY_RESEND, from Linux 6.9 on.
    Resend = 7,
    /// FUSE_NOTIFY_PRUNE, from Linux 6.18 on.
    Prune = 9,
}

/// Declares structures of the header that are read.
macro_rules! read {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        #[allow(missing_docs)]
        pub struct $name { $(pub $field: $type),* }
    )*};
}

/// Declares structures of the header that are written.
macro_rules! written {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        #[allow(missing_docs)]
        pub struct $name { $(pub $field: $type),* }
    )*};
}

read! {
    /// `struct fuse_in_header`
    InHeader {
        len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32, total_extlen: u16, padding: u16,
    }
    /// `struct fuse_forget_in`
    ForgetIn { nlookup: u64 }
    /// `struct fuse_forget_one`
    ForgetOne { nodeid: u64, nlookup: u64 }
    /// `struct fuse_batch_forget_in`
    BatchForgetIn { count: u32, dummy: u32 }
    /// `struct fuse_mknod_in`
    MknodIn { mode: u32, rdev: u32, umask: u32, padding: u32 }
    /// `struct fuse_mkdir_in`
    MkdirIn { mode: u32, umask: u32 }
    /// `struct fuse_rename_in`
    RenameIn { newdir: u64 }
    /// `struct fuse_rename2_in`
    Rename2In { newdir: u64, flags: u32, padding: u32 }
    /// `struct fuse_link_in`
    LinkIn { oldnodeid: u64 }
    /// `struct fuse_setattr_in`. Times are signed, whatever the header says.
    SetAttrIn {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: i64, mtime: i64, ctime: i64,
        atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, unused4: u32, uid: u32, gid: u32, unused5: u32,
    }
    /// `struct fuse_open_in`
    OpenIn { flags: u32, open_flags: u32 }
    /// `struct fuse_create_in`
    CreateIn { flags: u32, mode: u32, umask: u32, open_flags: u32 }
    /// `struct fuse_release_in`
    ReleaseIn { fh: u64, flags: u32, release_flags: u32, lock_owner: u64 }
    /// `struct fuse_flush_in`
    FlushIn { fh: u64, unused: u32, padding: u32, lock_owner: u64 }
    /// `struct fuse_read_in`
    ReadIn { fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32 }
    /// `struct fuse_write_in`
    WriteIn { fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, padding: u32 }
    /// `struct fuse_fsync_in`
    FsyncIn { fh: u64, fsync_flags: u32, padding: u32 }
    /// `struct fuse_setxattr_in` without FUSE_SETXATTR_EXT: FUSE_COMPAT_SETXATTR_IN_SIZE bytes of it.
    SetXattrIn { size: u32, flags: u32 }
    /// `struct fuse_getxattr_in`
    GetXattrIn { size: u32, padding: u32 }
    /// `struct fuse_ioctl_in`
    IoctlIn { fh: u64, flags: u32, cmd: u32, arg: u64, in_size: u32, out_size: u32 }
    /// `struct fuse_fallocate_in`
    FallocateIn { fh: u64, offset: u64, length: u64, mode: u32, padding: u32 }
    /// `struct fuse_lseek_in`
    LseekIn { fh: u64, offset: u64, whence: u32, padding: u32 }
}

written! {
    /// `struct fuse_out_header`
    OutHeader { len: u32, error: i32, unique: u64 }
    /// `struct fuse_attr`. Times are signed, whatever the header says.
    Attr {
        ino: u64, size: u64, blocks: u64, atime: i64, mtime: i64, ctime: i64,
        atimensec: u32, mtimensec: u32, ctimensec: u32,
        mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, blksize: u32, flags: u32,
    }
    /// `struct fuse_entry_out`
    EntryOut {
        nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_nsec: u32, attr_valid_nsec: u32,
        attr: Attr,
    }
    /// `struct fuse_attr_out`
    AttrOut { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: Attr }
    /// `struct fuse_open_out`
    OpenOut { fh: u64, open_flags: u32, backing_id: u32 }
    /// The answer to FUSE_CREATE: both, one behind the other.
    CreateOut { entry: EntryOut, open: OpenOut }
    /// `struct fuse_write_out`
    WriteOut { size: u32, padding: u32 }
    /// `struct fuse_statfs_out`
    StatFsOut {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, bsize: u32, namelen: u32, frsize: u32, padding: u32,
        spare: [u32; 6],
    }
    /// `struct fuse_getxattr_out`
    GetXattrOut { size: u32, padding: u32 }
    /// `struct fuse_lseek_out`
    LseekOut { offset: u64 }
    /// `struct fuse_ioctl_out`
    IoctlOut { result: i32, flags: u32, in_iovs: u32, out_iovs: u32 }
    /// `struct fuse_dirent`, the name of `namelen` bytes behind it, padded to [`DIRENT_ALIGN`].
    Dirent { ino: u64, off: u64, namelen: u32, kind: u32 }
    /// `struct fuse_direntplus`
    DirentPlus { entry: EntryOut, dirent: Dirent }
    /// `struct fuse_notify_inval_inode_out`
    InvalInodeOut { ino: u64, off: i64, len: i64 }
    /// `struct fuse_notify_store_out`, the bytes behind it.
    StoreOut { nodeid: u64, offset: u64, size: u32, padding: u32 }
    /// `struct fuse_notify_retrieve_out`
    RetrieveOut { notify_unique: u64, nodeid: u64, offset: u64, size: u32, padding: u32 }
    /// `struct fuse_notify_prune_out`, the nodes behind it.
    PruneOut { count: u32, padding: u32, spare: u64 }
}

/// What a directory's entries are padded to: FUSE_DIRENT_ALIGN.
pub const DIRENT_ALIGN: usize = size_of::<u64>();

/// What comes before the data of a write.
pub const BEFORE_DATA: usize = size_of::<InHeader>() + size_of::<WriteIn>();

/// What [`SetAttrIn::valid`] says: FATTR_*.
pub mod fattr {
    #![allow(missing_docs)]
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
}

/// FUSE_FSYNC_FDATASYNC of [`FsyncIn::fsync_flags`].
pub const FSYNC_FDATASYNC: u32 = 1;

/// FUSE_IOCTL_UNRESTRICTED of [`IoctlIn::flags`].
pub const IOCTL_UNRESTRICTED: u32 = 1 << 1;

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes as the C compiler has them.
    #[test]
    fn structures_are_as_long_as_the_kernels() {
        assert_eq!(size_of::<InHeader>(), 40);
        assert_eq!((size_of::<SetAttrIn>(), size_of::<WriteIn>(), size_of::<ReadIn>()), (88, 40, 40));
        assert_eq!((size_of::<CreateIn>(), size_of::<ReleaseIn>(), size_of::<IoctlIn>()), (16, 24, 32));
        assert_eq!((size_of::<FallocateIn>(), size_of::<LseekIn>()), (32, 24));
        assert_eq!((size_of::<OutHeader>(), size_of::<Attr>(), size_of::<EntryOut>()), (16, 88, 128));
        assert_eq!((size_of::<AttrOut>(), size_of::<OpenOut>(), size_of::<CreateOut>()), (104, 16, 144));
        assert_eq!((size_of::<StatFsOut>(), size_of::<Dirent>(), size_of::<DirentPlus>()), (80, 24, 152));
        assert_eq!((size_of::<RetrieveOut>(), size_of::<PruneOut>()), (32, 16));
    }

    #[test]
    fn operations_are_found_by_their_numbers() {
        for opcode in Opcode::ALL {
            assert_eq!(Opcode::of(opcode as u32), Some(opcode));
        }
        for unknown in [0, 7, 19, 54, 4096, u32::MAX] {
            assert_eq!(Opcode::of(unknown), None);
        }
    }
}
