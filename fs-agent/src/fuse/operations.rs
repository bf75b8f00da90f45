//! Every operation that the kernel asks for: into the overlay's terms, and the answer back.

use std::{ffi::OsStr, time::Duration};

use fuser::{FopenFlags, OpenFlags, WriteFlags};
use rustix::{fs::OFlags, io::Errno};

use super::{
    Adapter, attempt,
    convert::{self, attributes, caller, device},
    reply::{Listing, Reply},
    request::{Operation, Request},
    wire::{CreateIn, FallocateIn, IOCTL_UNRESTRICTED, LseekIn, ReadIn, SetAttrIn, WriteIn},
};
use crate::overlay::{Caller, Cause, Durability, Entry, NAME_TTL, NewMode, Result, WriteRequest, Xattr};

/// How long the kernel believes names and attributes. What bypasses the overlay (handles opened before it was
/// mounted) is seen after that time at the latest.
const CACHE_TTL: Duration = NAME_TTL;

/// How long the kernel believes a name and what came with it.
fn ttl(entry: &Entry) -> Duration {
    if entry.lasts { CACHE_TTL } else { Duration::ZERO }
}

/// The mode of something new.
fn new_mode(wanted: u32, mask: u32) -> NewMode {
    NewMode { wanted, mask }
}

/// Answers with what an operation gives, or with its errno.
fn answer<'w, T>(reply: Reply<'w>, result: Result<T>, value: impl FnOnce(Reply<'w>, T)) {
    match result {
        Ok(given) => value(reply, given),
        Err(errno) => reply.error(errno),
    }
}

fn done(reply: Reply<'_>, result: Result<()>) {
    answer(reply, result, |reply, ()| reply.ok());
}

fn found(reply: Reply<'_>, result: Result<Entry>) {
    answer(reply, result, |reply, entry| reply.entry(&attributes(entry.node, &entry.stat), ttl(&entry)));
}

fn made(reply: Reply<'_>, result: Result<Entry>) {
    answer(reply, result, |reply, entry| reply.entry(&attributes(entry.node, &entry.stat), CACHE_TTL));
}

fn xattr(reply: Reply<'_>, result: Result<Xattr>) {
    answer(reply, result, |reply, value| match value {
        Xattr::Size(size) => reply.xattr_size(size),
        Xattr::Data(data) => reply.data(&data),
    });
}

impl Adapter {
    /// Does what `request` asks for, in the name of who asks where it is anybody's in particular, and answers. What goes by
    /// an open file alone is nobody's: who opened it matters then. `room` is the worker's, for a listing.
    pub(super) fn answer(&self, request: &Request<'_>, reply: Reply<'_>, room: &mut Vec<u8>) {
        let (overlay, node, caller) = (&*self.overlay, request.header.nodeid, caller(&request.header));
        match request.operation {
            Operation::Write { how, data } => self.write(reply, &how, data, caller),
            Operation::Read(how) => self.read(reply, &how),
            Operation::Lookup { name } => {
                found(reply, self.by(caller, "lookup", || overlay.lookup(node, name, caller.thread)));
            }
            Operation::GetAttr => self.getattr(reply, node, caller),
            Operation::SetAttr(wanted) => self.setattr(reply, node, &wanted, caller),
            Operation::Open { flags } => self.open(reply, node, flags.cast_signed(), caller),
            Operation::Create { name, how } => self.create(reply, (node, name), &how, caller),
            Operation::Flush { handle } => {
                done(reply, attempt("flush", || overlay.flush(&*overlay.file(handle)?)));
            }
            Operation::Release { handle } => self.release(reply, handle),
            Operation::Fsync { handle, data_only } => {
                done(reply, attempt("fsync", || overlay.fsync(&*overlay.file(handle)?, data_only)));
            }
            Operation::OpenDir => {
                answer(
                    reply,
                    self.by(caller, "opendir", || overlay.open_dir(node, caller.uid)),
                    |reply, dir| {
                        reply.opened(dir.id, FopenFlags::empty(), None);
                    },
                );
            }
            Operation::ReadDir(how) => self.readdir(reply, &how, room),
            Operation::ReadDirPlus(how) => self.readdirplus(reply, &how, room),
            Operation::ReleaseDir { handle } => done(
                reply,
                attempt("releasedir", || {
                    overlay.release_dir(handle);
                    Ok(())
                }),
            ),
            Operation::FsyncDir { handle, data_only } => {
                done(reply, attempt("fsyncdir", || overlay.fsync_dir(handle, data_only)));
            }
            Operation::StatFs => {
                answer(reply, self.by(caller, "statfs", || overlay.statfs(node)), |reply, of| {
                    reply.statfs(&convert::figures(&of));
                });
            }
            Operation::Fallocate(how) => self.fallocate(reply, node, &how, caller),
            Operation::Lseek(how) => self.lseek(reply, &how),
            Operation::Ioctl { how, .. } if how.flags & IOCTL_UNRESTRICTED != 0 => reply.error(Errno::NOSYS),
            Operation::Ioctl { how, data } => {
                let control = || self.control(node, how.fh, how.cmd, data, caller);
                answer(reply, self.by(caller, "ioctl", control), |reply, out| reply.ioctl(&out));
            }
            _ => self.answer_by_name(request, reply),
        }
    }

    /// As [`Self::answer`], for what names something, and for what is not done at all.
    fn answer_by_name(&self, request: &Request<'_>, reply: Reply<'_>) {
        let (overlay, node, caller) = (&*self.overlay, request.header.nodeid, caller(&request.header));
        match request.operation {
            Operation::ReadLink => {
                answer(reply, self.by(caller, "readlink", || overlay.readlink(node)), |reply, target| {
                    reply.data(&target);
                });
            }
            Operation::Mknod { name, how } => {
                let mode = new_mode(how.mode, how.umask);
                made(reply, self.by(caller, "mknod", || overlay.mknod(node, name, mode, device(how.rdev))));
            }
            Operation::Mkdir { name, how } => {
                let mode = new_mode(how.mode, how.umask);
                made(reply, self.by(caller, "mkdir", || overlay.mkdir(node, name, mode)));
            }
            Operation::Symlink { name, target } => {
                made(reply, self.by(caller, "symlink", || overlay.symlink(node, name, target)));
            }
            Operation::Link { node: of, name } => {
                found(reply, self.by(caller, "link", || overlay.link(of, node, name)));
            }
            Operation::Unlink { name } => {
                done(reply, self.by(caller, "unlink", || overlay.unlink(node, name)));
            }
            Operation::Rmdir { name } => done(reply, self.by(caller, "rmdir", || overlay.rmdir(node, name))),
            Operation::Rename { name, new_parent, new_name, flags } => {
                let renamed = || overlay.rename((node, name), (new_parent, new_name), flags);
                done(reply, self.by(caller, "rename", renamed));
            }
            Operation::SetXattr { name, value, flags } => {
                let set = || overlay.setxattr(node, name, value, flags.cast_signed(), caller);
                done(reply, self.by(caller, "setxattr", set));
            }
            Operation::GetXattr { name, size } => {
                xattr(reply, self.by(caller, "getxattr", || overlay.getxattr(node, name, size)));
            }
            Operation::ListXattr { size } => {
                xattr(reply, self.by(caller, "listxattr", || overlay.listxattr(node, size, caller)));
            }
            Operation::RemoveXattr { name } => {
                done(reply, self.by(caller, "removexattr", || overlay.removexattr(node, name, caller)));
            }
            Operation::Forget { lookups } => self.forget(reply, [(node, lookups)]),
            Operation::BatchForget(forgets) => self.forget(reply, forgets.iter()),
            Operation::NotifyReply => reply.none(),
            Operation::Destroy => reply.ok(),
            // The kernel asks once.
            Operation::Init => reply.error(Errno::IO),
            // The kernel then asks no more. There is nothing to be gained: an operation that has begun cannot be undone, and
            // one that has not, but waits its turn, would fail with EINTR where below the call would be restarted.
            Operation::Interrupt => reply.error(Errno::NOSYS),
            // For copy_file_range(2) the kernel then reads and writes, so that the data passes here.
            _ => reply.error(Errno::NOSYS),
        }
    }

    /// Does `work` in the name of `caller`.
    fn by<T>(&self, caller: Caller, operation: &'static str, work: impl FnMut() -> Result<T>) -> Result<T> {
        attempt(operation, || self.overlay.by(caller, work))
    }

    /// Nobody waits for an answer.
    fn forget(&self, reply: Reply<'_>, nodes: impl IntoIterator<Item = (u64, u64)>) {
        reply.none();
        for (node, lookups) in nodes {
            let _ = attempt("forget", || {
                self.overlay.forget(node, lookups);
                Ok(())
            });
        }
    }

    fn getattr(&self, reply: Reply<'_>, node: u64, caller: Caller) {
        answer(reply, self.by(caller, "getattr", || self.overlay.getattr(node)), |reply, stat| {
            reply.attr(&attributes(convert::shown_ino(node, &stat), &stat), CACHE_TTL);
        });
    }

    fn setattr(&self, reply: Reply<'_>, node: u64, wanted: &SetAttrIn, caller: Caller) {
        let (change, handle) = (convert::change(wanted), convert::changed_through(wanted));
        let changed = || self.overlay.setattr(node, handle, &change, caller);
        answer(reply, self.by(caller, "setattr", changed), |reply, stat| {
            reply.attr(&attributes(convert::shown_ino(node, &stat), &stat), CACHE_TTL);
        });
    }

    fn open(&self, reply: Reply<'_>, node: u64, flags: i32, caller: Caller) {
        let overlay = &*self.overlay;
        let mut opened = self.by(caller, "open", || overlay.open_file_at_once(node, flags, caller));
        let waits = !OFlags::from_bits_retain(flags.cast_unsigned()).contains(OFlags::NONBLOCK);
        if waits && matches!(opened, Err(Errno::WOULDBLOCK)) {
            // For somebody who has a lease on the file.
            opened = self.by(caller, "open", || overlay.open_file(node, flags, caller));
        }
        answer(reply, opened, |reply, file| {
            let chosen = self.mode_of(&file, OpenFlags(flags));
            reply.opened(file.id, chosen.flags, chosen.backing.as_deref());
        });
    }

    fn create(&self, reply: Reply<'_>, (parent, name): (u64, &OsStr), how: &CreateIn, caller: Caller) {
        let (mode, flags) = (new_mode(how.mode, how.umask), how.flags.cast_signed());
        let created = || self.overlay.create(parent, name, mode, flags, caller);
        answer(reply, self.by(caller, "create", created), |reply, (entry, file)| {
            let attr = attributes(entry.node, &entry.stat);
            let chosen = self.mode_of(&file, OpenFlags(flags));
            reply.created((&attr, CACHE_TTL), file.id, chosen.flags, chosen.backing.as_deref());
        });
    }

    fn read(&self, reply: Reply<'_>, how: &ReadIn) {
        let read = || {
            let offset = convert::place(how.offset)?;
            self.overlay.read(&*self.overlay.file(how.fh)?, offset, how.size as usize)
        };
        answer(reply, attempt("read", read), |reply, data| reply.data(&data));
    }

    fn write(&self, reply: Reply<'_>, how: &WriteIn, data: &[u8], caller: Caller) {
        let write_flags = WriteFlags::from_bits_retain(how.write_flags);
        // Pages of a mapping, written by the kernel at a time and through a handle of its choice.
        let from_mapping = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        // Those of the file description by now, and of the write itself as far as the kernel says them.
        let flags = OFlags::from_bits_retain(how.flags);
        let cause = match from_mapping {
            true => Cause::Mapping,
            false if flags.contains(OFlags::APPEND) => Cause::Append,
            false => Cause::Write,
        };
        let drops_set_id = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID).then_some(caller);
        let written = || {
            let (offset, durability) = (convert::place(how.offset)?, Durability::of(flags));
            let request = WriteRequest { offset, data, cause, durability, drops_set_id };
            self.write_and_record(caller, how.fh, &request)
        };
        answer(reply, attempt("write", written), Reply::written);
    }

    fn release(&self, reply: Reply<'_>, handle: u64) {
        let released = || {
            if let Some(file) = self.overlay.release(handle) {
                self.has_closed(&file);
            }
            Ok(())
        };
        done(reply, attempt("release", released));
    }

    fn readdir(&self, reply: Reply<'_>, how: &ReadIn, room: &mut Vec<u8>) {
        let mut listing = Listing::new(room, how.size);
        let read = || {
            self.overlay.read_dir(how.fh, how.offset, |entry| {
                listing.add(entry.ino, entry.next_offset, convert::kind(entry.kind), entry.name)
            })
        };
        let read = attempt("readdir", read);
        answer(reply, read, |reply, ()| reply.listing(&listing));
    }

    fn readdirplus(&self, reply: Reply<'_>, how: &ReadIn, room: &mut Vec<u8>) {
        let mut listing = Listing::new(room, how.size);
        let read = || {
            self.overlay.read_dir_plus(how.fh, how.offset, |entry, told| {
                let attr = match &told.stat {
                    Some(stat) => attributes(told.node, stat),
                    None => convert::attributes_unknown(told.node, entry.kind),
                };
                let lasts = if told.lasts { CACHE_TTL } else { Duration::ZERO };
                listing.add_plus(&attr, entry.next_offset, entry.name, lasts)
            })
        };
        let read = attempt("readdirplus", read);
        answer(reply, read, |reply, ()| reply.listing(&listing));
    }

    fn fallocate(&self, reply: Reply<'_>, node: u64, how: &FallocateIn, caller: Caller) {
        let overlay = &*self.overlay;
        let allocated = || {
            let (offset, length) = (convert::place(how.offset)?, convert::place(how.length)?);
            let file = overlay.file(how.fh)?;
            let mode = how.mode.cast_signed();
            overlay.by(caller, || overlay.fallocate(&file, (offset, length), mode, caller))?;
            if caller.uid != 0 {
                self.connection.forget_attributes(node);
            }
            Ok(())
        };
        done(reply, attempt("fallocate", allocated));
    }

    fn lseek(&self, reply: Reply<'_>, how: &LseekIn) {
        let sought = || {
            let (offset, hole) = convert::seek(how.offset, how.whence)?;
            self.overlay.seek_to(&*self.overlay.file(how.fh)?, offset, hole)
        };
        answer(reply, attempt("lseek", sought), Reply::offset);
    }
}
