//! Every operation that the kernel asks for: into the overlay's terms, and the answer back.

use std::{
    ffi::OsStr,
    io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{OFlags, Statx};

use super::{
    Adapter, Sharing, attempt,
    convert::{self, attributes, caller, device, kind, timestamps},
    forget_attributes, mode_of,
};
use crate::overlay::{Cause, Change, Durability, Entry, NAME_TTL, NewMode, OpenFile, WriteRequest, Xattr};

/// How long the kernel believes names and attributes. What bypasses the overlay (handles opened before it was
/// mounted) is seen after that time at the latest.
const CACHE_TTL: Duration = NAME_TTL;

/// Node ids are not used again while the kernel knows them, so all can be of one generation.
const GENERATION: Generation = Generation(0);

/// How long the kernel believes a name and what came with it.
fn ttl(entry: &Entry) -> &'static Duration {
    if entry.lasts { &CACHE_TTL } else { &Duration::ZERO }
}

/// Answers a request with what an operation of the overlay gives, or with its errno. With `as $req` the operation is done in
/// the name of who asks. One that goes by an open file alone is nobody's in particular: who opened it matters then.
macro_rules! answer {
    ($self:ident as $req:ident, $reply:ident, $name:literal, $work:expr, $value:pat => $answer:expr) => {
        answer!($self, $reply, $name, $self.overlay.by(caller($req), || $work), $value => $answer);
    };
    ($self:ident, $reply:ident, $name:literal, $work:expr, $value:pat => $answer:expr) => {
        // Ends behind the answer.
        let mut busy = $self.pool.begin();
        let result = attempt($name, || $work);
        busy.done();
        match result {
            Ok($value) => $answer,
            Err(errno) => $reply.error(errno),
        }
    };
}

/// Answers with what an operation gives, or with its errno.
macro_rules! reply {
    ($reply:ident, $name:literal, $work:expr, $value:pat => $answer:expr) => {
        match attempt($name, || $work) {
            Ok($value) => $answer,
            Err(errno) => $reply.error(errno),
        }
    };
}

/// Answers an open.
fn answer_open(sharing: Sharing<'_>, file: &OpenFile, flags: OpenFlags, reply: ReplyOpen) {
    let chosen = mode_of(sharing, file, flags, |fd| reply.open_backing(fd));
    match &chosen.backing {
        Some(backing) => reply.opened_passthrough(FileHandle(file.id), chosen.flags, backing),
        None => reply.opened(FileHandle(file.id), chosen.flags),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.negotiate(config)
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer!(self as req, reply, "lookup", self.overlay.lookup(parent.0, name, req.pid()), entry => {
            reply.entry(ttl(&entry), &attributes(entry.node, &entry.stat), GENERATION)
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        // Nobody waits for an answer.
        let _ = attempt("forget", || {
            self.overlay.forget(ino.0, nlookup);
            Ok(())
        });
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        answer!(self as req, reply, "getattr", self.overlay.getattr(ino.0), stat => {
            reply.attr(&CACHE_TTL, &attributes(convert::shown_ino(ino.0, &stat), &stat))
        });
    }

    fn setattr(
        &self,
        req: &Request,
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
        let (overlay, caller, handle) = (Arc::clone(&self.overlay), caller(req), fh.map(u64::from));
        let changed = move || overlay.by(caller, || overlay.setattr(ino.0, handle, &change, caller));
        let attributes = move |stat: &Statx| attributes(convert::shown_ino(ino.0, stat), stat);
        if size.is_some() {
            return self.take_turn(req, move || {
                reply!(reply, "setattr", changed(), stat => reply.attr(&CACHE_TTL, &attributes(&stat)))
            });
        }
        answer!(self, reply, "setattr", changed(), stat => reply.attr(&CACHE_TTL, &attributes(&stat)));
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        answer!(self as req, reply, "readlink", self.overlay.readlink(ino.0), target => reply.data(&target));
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let made = || {
            let mode = NewMode { wanted: mode, mask: umask };
            self.overlay.mknod(parent.0, name, mode, device(rdev))
        };
        answer!(self as req, reply, "mknod", made(), entry => {
            reply.entry(&CACHE_TTL, &attributes(entry.node, &entry.stat), GENERATION)
        });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let mode = NewMode { wanted: mode, mask: umask };
        answer!(self as req, reply, "mkdir", self.overlay.mkdir(parent.0, name, mode), entry => {
            reply.entry(&CACHE_TTL, &attributes(entry.node, &entry.stat), GENERATION)
        });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(self as req, reply, "unlink", self.overlay.unlink(parent.0, name), () => reply.ok());
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(self as req, reply, "rmdir", self.overlay.rmdir(parent.0, name), () => reply.ok());
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        answer!(self as req, reply, "symlink", self.overlay.symlink(parent.0, name, target), entry => {
            reply.entry(&CACHE_TTL, &attributes(entry.node, &entry.stat), GENERATION)
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = || self.overlay.rename((parent.0, name), (newparent.0, newname), flags.bits());
        answer!(self as req, reply, "rename", renamed(), () => reply.ok());
    }

    fn link(&self, req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        answer!(self as req, reply, "link", self.overlay.link(ino.0, newparent.0, newname), entry => {
            reply.entry(ttl(&entry), &attributes(entry.node, &entry.stat), GENERATION)
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let caller = caller(req);
        let mut busy = self.pool.begin();
        let at_once = || self.overlay.open_file_at_once(ino.0, flags.0, caller);
        let opened = attempt("open", || self.overlay.by(caller, at_once));
        let waits = !OFlags::from_bits_retain(flags.0.cast_unsigned()).contains(OFlags::NONBLOCK);
        if waits && matches!(&opened, Err(errno) if errno.code() == Errno::EWOULDBLOCK.code()) {
            let (overlay, modes, source) =
                (Arc::clone(&self.overlay), Arc::clone(&self.modes), Arc::clone(&self.source));
            return self.turns.take(caller.uid, move || {
                let wait = || overlay.by(caller, || overlay.open_file(ino.0, flags.0, caller));
                reply!(reply, "open", wait(), file => answer_open((&overlay, &modes, &source), &file, flags, reply))
            });
        }
        busy.done();
        match opened {
            Ok(file) => answer_open((&self.overlay, &self.modes, &self.source), &file, flags, reply),
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let mode = NewMode { wanted: mode, mask: umask };
        let created = || self.overlay.create(parent.0, name, mode, flags, caller(req));
        answer!(self as req, reply, "create", created(), (entry, file) => {
            let attr = attributes(entry.node, &entry.stat);
            let sharing = (&*self.overlay, &*self.modes, &*self.source);
            let chosen = mode_of(sharing, &file, OpenFlags(flags), |fd| reply.open_backing(fd));
            let (fh, flags) = (FileHandle(file.id), chosen.flags);
            match &chosen.backing {
                Some(backing) => reply.created_passthrough(&CACHE_TTL, &attr, GENERATION, fh, flags, backing),
                None => reply.created(&CACHE_TTL, &attr, GENERATION, fh, flags),
            }
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
        answer!(self, reply, "read", read(), data => reply.data(&data));
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
        // Those of the file description by now, and of the write itself as far as the kernel says them.
        let flags = OFlags::from_bits_retain(flags.0.cast_unsigned());
        let cause = match from_mapping {
            true => Cause::Mapping,
            false if flags.contains(OFlags::APPEND) => Cause::Append,
            false => Cause::Write,
        };
        let drops_set_id = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID).then(|| caller(req));
        let durability = Durability::of(flags);
        let request = WriteRequest { offset, data, cause, durability, drops_set_id };
        if durability != Durability::None {
            return self.write_to_disk(req, fh, &request, reply);
        }
        let written = || self.write_and_record(req, fh, &request);
        answer!(self, reply, "write", written(), len => reply.written(len));
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let flushed = || self.overlay.flush(&*self.overlay.file(fh.0)?);
        answer!(self, reply, "flush", flushed(), () => reply.ok());
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let released = || {
            self.overlay.release(fh.0);
            self.modes.release(ino.0);
            Ok(())
        };
        answer!(self, reply, "release", released(), () => reply.ok());
    }

    fn fsync(&self, req: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let overlay = Arc::clone(&self.overlay);
        let synced = move || overlay.fsync(&*overlay.file(fh.0)?, datasync);
        self.take_turn(req, move || reply!(reply, "fsync", synced(), () => reply.ok()));
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        answer!(self as req, reply, "opendir", self.overlay.open_dir(ino.0, req.uid()), dir => {
            reply.opened(FileHandle(dir.id), FopenFlags::empty())
        });
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut read = || {
            self.overlay.read_dir(fh.0, offset, |entry| {
                !reply.add(INodeNo(entry.ino), entry.next_offset, kind(entry.kind), &entry.name)
            })
        };
        answer!(self, reply, "readdir", read(), () => reply.ok());
    }

    fn readdirplus(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let mut read = || {
            self.overlay.read_dir_plus(fh.0, offset, |entry, told| {
                let attr = match &told.stat {
                    Some(stat) => attributes(told.node, stat),
                    None => convert::attributes_unknown(told.node, entry.kind),
                };
                let ttl = if told.lasts { CACHE_TTL } else { Duration::ZERO };
                !reply.add(attr.ino, entry.next_offset, &entry.name, &ttl, &attr, GENERATION)
            })
        };
        answer!(self, reply, "readdirplus", read(), () => reply.ok());
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
        answer!(self, reply, "releasedir", released(), () => reply.ok());
    }

    fn fsyncdir(&self, req: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let overlay = Arc::clone(&self.overlay);
        let synced = move || overlay.fsync_dir(fh.0, datasync);
        self.take_turn(req, move || reply!(reply, "fsyncdir", synced(), () => reply.ok()));
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        answer!(self as req, reply, "statfs", self.overlay.statfs(ino.0), s => {
            let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
            let (bsize, namelen, frsize) = (narrow(s.f_bsize), narrow(s.f_namemax), narrow(s.f_frsize));
            reply.statfs(s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, bsize, namelen, frsize)
        });
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let set = || self.overlay.setxattr(ino.0, name, value, flags, caller(req));
        answer!(self as req, reply, "setxattr", set(), () => reply.ok());
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        answer!(self as req, reply, "getxattr", self.overlay.getxattr(ino.0, name, size), value => match value {
            Xattr::Size(size) => reply.size(size),
            Xattr::Data(data) => reply.data(&data),
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        answer!(self as req, reply, "listxattr", self.overlay.listxattr(ino.0, size, caller(req)), names => match names {
            Xattr::Size(size) => reply.size(size),
            Xattr::Data(data) => reply.data(&data),
        });
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(self as req, reply, "removexattr", self.overlay.removexattr(ino.0, name), () => reply.ok());
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (overlay, notifier, caller) =
            (Arc::clone(&self.overlay), Arc::clone(&self.notifier), caller(req));
        let done = move || {
            let file = overlay.file(fh.0)?;
            overlay.by(caller, || overlay.fallocate(&file, (offset, length), mode, caller))?;
            if caller.uid != 0 {
                forget_attributes(&notifier, ino);
            }
            Ok(())
        };
        self.take_turn(req, move || reply!(reply, "fallocate", done(), () => reply.ok()));
    }

    fn ioctl(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        answer!(self as req, reply, "ioctl", self.control(req, ino, fh, cmd, in_data), out => reply.ioctl(0, &out));
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
        answer!(self, reply, "lseek", sought(), found => reply.offset(found.cast_signed()));
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
