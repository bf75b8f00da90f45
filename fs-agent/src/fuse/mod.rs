//! The FUSE protocol: takes requests apart, has the overlay do them, and answers.
//!
//! This is the only module that knows fuser, beside the mounting. Nothing is decided here but what the kernel may
//! cache and what the capture is told.

mod convert;

use std::{
    ffi::OsStr,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use bywash_common::fail_point::FailPoint;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, Notifier, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::OFlags;

use crate::{
    capture::{Capture, Event, Writer},
    overlay::{self, Change, Overlay, WriteRequest, Xattr},
};

use convert::{attributes, caller, device, errno, kind, timestamps};

/// How long the kernel believes names and attributes. What bypasses the overlay (handles opened before it was
/// mounted) is seen after that time at the latest.
const CACHE_TTL: Duration = Duration::from_secs(1);

/// The most bytes in one write request. A request becomes one event, which has to fit into a broker's message in
/// base64: 4/3 of this stays well below the 1 MB that Kafka takes by default.
const WRITE_BYTES_MAX: u32 = 256 << 10;

/// The offset with which an inode's attributes are invalidated and its pages are left alone.
const ATTRIBUTES_ONLY: i64 = -1;

/// Node ids are not used again while the kernel knows them, so all can be of one generation.
const GENERATION: Generation = Generation(0);

/// What is asked of the kernel where it has it. Left out on purpose:
/// writeback cache: a write would not come from its writer, nor as one;
/// ASYNC_DIO: parts of one asynchronous write would overtake each other on the way to the ring;
/// locks: the kernel keeps them itself, which is enough for one machine.
const CAPABILITIES: [InitFlags; 4] = [
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_AUTO_INVAL_DATA,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
];

/// One overlay, as the kernel talks to it.
pub struct Adapter {
    overlay: Overlay,
    capture: Arc<Capture>,
    /// Tells the kernel what it does not know; there once the overlay is mounted.
    notifier: Arc<OnceLock<Notifier>>,
    /// Whether files that are open with FOPEN_DIRECT_IO can be mapped shared (Linux 6.6).
    direct_maps: bool,
}

impl Adapter {
    /// Serves `overlay` and has its writes captured.
    pub fn new(overlay: Overlay, capture: Arc<Capture>) -> Self {
        Self { overlay, capture, notifier: Arc::default(), direct_maps: false }
    }

    /// Where the session's notifier is to be put.
    pub fn notifier(&self) -> Arc<OnceLock<Notifier>> {
        Arc::clone(&self.notifier)
    }

    /// How the kernel is to treat an open. Writes go past its cache, so that each arrives as it was made. Where it
    /// cannot map such files, those that may be mapped for writing are cached, and still written through.
    fn open_flags(&self, flags: OpenFlags) -> FopenFlags {
        match flags.acc_mode() {
            OpenAccMode::O_RDONLY => FopenFlags::empty(),
            OpenAccMode::O_RDWR if !self.direct_maps => FopenFlags::empty(),
            OpenAccMode::O_RDWR | OpenAccMode::O_WRONLY => FopenFlags::FOPEN_DIRECT_IO,
        }
    }

    /// Writes below, then records what was written.
    fn write_and_record(
        &self,
        req: &Request,
        handle: FileHandle,
        request: &WriteRequest<'_>,
        from_mapping: bool,
    ) -> overlay::Result<u32> {
        let file = self.overlay.file(handle.0)?;
        let written = self.overlay.write(&file, request)?;
        FailPoint::WrittenBelow.reach();
        if written.set_id_dropped
            && let Some(notifier) = self.notifier.get()
        {
            // Else the kernel would believe in the bits, and run the file by them, for CACHE_TTL. That it knows
            // nothing of the inode is no error.
            let _ = notifier.inval_inode(INodeNo(file.inode.id), ATTRIBUTES_ONLY, 0);
        }
        let data = &request.data[..written.len];
        if !data.is_empty() {
            let writer =
                (!from_mapping).then(|| Writer { thread: req.pid(), uid: req.uid(), gid: req.gid() });
            // What is written is written: whatever happens to the record, the writer gets its count.
            let _ = attempt("capture", || {
                let path = self.overlay.path_of(&file);
                self.capture.record(&Event {
                    path: &path,
                    writer,
                    offset: written.offset,
                    handle: file.id,
                    data,
                });
                Ok(())
            });
        }
        FailPoint::Committed.reach();
        // A request is at most WRITE_BYTES_MAX long.
        Ok(u32::try_from(written.len).unwrap_or(u32::MAX))
    }
}

/// Does one operation. A panic in it is answered with EIO, and the filesystem goes on.
fn attempt<T>(operation: &'static str, work: impl FnOnce() -> overlay::Result<T>) -> Result<T, Errno> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(errno),
        Err(_) => {
            tracing::error!("a bug: {operation} panicked; it was answered with EIO");
            Err(Errno::EIO)
        }
    }
}

/// Answers a request with what an operation of the overlay gives, or with its errno.
macro_rules! answer {
    ($reply:ident, $name:literal, $work:expr, $value:pat => $answer:expr) => {
        match attempt($name, || $work) {
            Ok($value) => $answer,
            Err(errno) => $reply.error(errno),
        }
    };
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.direct_maps = config.capabilities().contains(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);
        for capability in CAPABILITIES {
            if config.add_capabilities(capability).is_err() {
                tracing::info!("this kernel does not offer {capability:?}; going on without it");
            }
        }
        config.set_max_write(WRITE_BYTES_MAX).map(drop).map_err(|nearest| {
            io::Error::other(format!("the FUSE library writes at most {nearest} bytes at once"))
        })
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer!(reply, "lookup", self.overlay.lookup(parent.0, name), entry => {
            reply.entry(&CACHE_TTL, &attributes(entry.node, &entry.stat), GENERATION)
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        // Nobody waits for an answer.
        let _ = attempt("forget", || {
            self.overlay.forget(ino.0, nlookup);
            Ok(())
        });
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        answer!(reply, "getattr", self.overlay.getattr(ino.0), stat => {
            reply.attr(&CACHE_TTL, &attributes(convert::shown_ino(ino.0, &stat), &stat))
        });
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change { mode, uid, gid, size, times: timestamps(atime, mtime) };
        answer!(reply, "setattr", self.overlay.setattr(ino.0, fh.map(u64::from), &change), stat => {
            reply.attr(&CACHE_TTL, &attributes(convert::shown_ino(ino.0, &stat), &stat))
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        answer!(reply, "readlink", self.overlay.readlink(ino.0), target => reply.data(&target));
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let made = || self.overlay.mknod(parent.0, name, mode, device(rdev), caller(req));
        answer!(reply, "mknod", made(), entry => {
            reply.entry(&CACHE_TTL, &attributes(entry.node, &entry.stat), GENERATION)
        });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        answer!(reply, "mkdir", self.overlay.mkdir(parent.0, name, mode, caller(req)), entry => {
            reply.entry(&CACHE_TTL, &attributes(entry.node, &entry.stat), GENERATION)
        });
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(reply, "unlink", self.overlay.unlink(parent.0, name), () => reply.ok());
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(reply, "rmdir", self.overlay.rmdir(parent.0, name), () => reply.ok());
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        answer!(reply, "symlink", self.overlay.symlink(parent.0, name, target, caller(req)), entry => {
            reply.entry(&CACHE_TTL, &attributes(entry.node, &entry.stat), GENERATION)
        });
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = || self.overlay.rename((parent.0, name), (newparent.0, newname), flags.bits());
        answer!(reply, "rename", renamed(), () => reply.ok());
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        answer!(reply, "link", self.overlay.link(ino.0, newparent.0, newname), entry => {
            reply.entry(&CACHE_TTL, &attributes(entry.node, &entry.stat), GENERATION)
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        answer!(reply, "open", self.overlay.open_file(ino.0, flags.0, caller(req)), file => {
            reply.opened(FileHandle(file.id), self.open_flags(flags))
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let created = || self.overlay.create(parent.0, name, mode, flags, caller(req));
        answer!(reply, "create", created(), (entry, file) => {
            let attr = attributes(entry.node, &entry.stat);
            let flags = self.open_flags(OpenFlags(flags));
            reply.created(&CACHE_TTL, &attr, GENERATION, FileHandle(file.id), flags)
        });
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = || self.overlay.read(&*self.overlay.file(fh.0)?, offset, size as usize);
        answer!(reply, "read", read(), data => reply.data(&data));
    }

    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // Pages of a mapping, written by the kernel at a time and through a handle of its choice.
        let from_mapping = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let appends = OFlags::from_bits_retain(flags.0.cast_unsigned()).contains(OFlags::APPEND);
        let drops_set_id = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let request = WriteRequest { offset, data, append: appends && !from_mapping, drops_set_id };
        let written = || self.write_and_record(req, fh, &request, from_mapping);
        answer!(reply, "write", written(), len => reply.written(len));
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let flushed = || self.overlay.flush(&*self.overlay.file(fh.0)?);
        answer!(reply, "flush", flushed(), () => reply.ok());
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let released = || {
            self.overlay.release(fh.0);
            Ok(())
        };
        answer!(reply, "release", released(), () => reply.ok());
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let synced = || self.overlay.fsync(&*self.overlay.file(fh.0)?, datasync);
        answer!(reply, "fsync", synced(), () => reply.ok());
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        answer!(reply, "opendir", self.overlay.open_dir(ino.0), dir => {
            reply.opened(FileHandle(dir.id), FopenFlags::empty())
        });
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut read = || {
            self.overlay.read_dir(fh.0, offset, |entry| {
                !reply.add(INodeNo(entry.ino), entry.next_offset, kind(entry.kind), &entry.name)
            })
        };
        answer!(reply, "readdir", read(), () => reply.ok());
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let released = || {
            self.overlay.release_dir(fh.0);
            Ok(())
        };
        answer!(reply, "releasedir", released(), () => reply.ok());
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        answer!(reply, "fsyncdir", self.overlay.fsync_dir(fh.0, datasync), () => reply.ok());
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        answer!(reply, "statfs", self.overlay.statfs(ino.0), s => {
            let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
            let (bsize, namelen, frsize) = (narrow(s.f_bsize), narrow(s.f_namemax), narrow(s.f_frsize));
            reply.statfs(s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, bsize, namelen, frsize)
        });
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        answer!(reply, "setxattr", self.overlay.setxattr(ino.0, name, value, flags), () => reply.ok());
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        answer!(reply, "getxattr", self.overlay.getxattr(ino.0, name, size), value => match value {
            Xattr::Size(size) => reply.size(size),
            Xattr::Data(data) => reply.data(&data),
        });
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        answer!(reply, "listxattr", self.overlay.listxattr(ino.0, size), names => match names {
            Xattr::Size(size) => reply.size(size),
            Xattr::Data(data) => reply.data(&data),
        });
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(reply, "removexattr", self.overlay.removexattr(ino.0, name), () => reply.ok());
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let done = || self.overlay.fallocate(&*self.overlay.file(fh.0)?, offset, length, mode);
        answer!(reply, "fallocate", done(), () => reply.ok());
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let sought = || {
            let (offset, hole) = convert::seek(offset, whence)?;
            self.overlay.seek_to(&*self.overlay.file(fh.0)?, offset, hole)
        };
        answer!(reply, "lseek", sought(), found => reply.offset(found.cast_signed()));
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The kernel then copies by reading and writing, so that the data passes here.
        reply.error(Errno::ENOSYS);
    }
}
