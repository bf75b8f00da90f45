//! The FUSE protocol: takes requests apart, has the overlay do them, and answers.
//!
//! [`wire`], [`request`] and [`reply`] are the protocol, [`device`] is the connection; `fuser` mounts, answers the first
//! request ([`handshake`]), and lends its names for flags. Nothing is decided here but what the kernel may cache and what
//! the capture is told. Which thread does a request is the affair of [`crate::worker_pool`].

pub mod bench_support;
mod control;
mod convert;
pub mod device;
pub mod handshake;
mod modes;
mod operations;
pub mod prune;
mod reply;
mod request;
mod wire;

use std::{
    collections::HashMap,
    os::fd::{AsFd, BorrowedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::AtomicU64},
};

use bywash_common::fail_point::FailPoint;
use fuser::{FopenFlags, OpenAccMode, OpenFlags};
use rustix::{io::Errno, process::geteuid};
use zerocopy::{FromBytes, IntoBytes};

use crate::{
    capture::{Event, FileId, Source, Writer},
    overlay::{Begun, Caller, Cause, OpenFile, Overlay, Result, WriteRequest},
    privilege::others_allowed,
    state::slots::KernelMode,
    worker_pool::{Asker, DATA_BYTES_MAX, Desk, HEAD_BYTES, Serve},
};

pub use device::Connection;
use device::{BackingId, is_waking};
pub use handshake::Negotiated;
use handshake::{WRITE_BYTES_MAX, Wishes};
use modes::{Chosen, Modes};
use reply::Reply;
use request::{Malformed, Operation, Request};
use wire::{BEFORE_DATA, InHeader, Opcode, SetAttrIn, WriteIn, fattr};

/// How much of a write is kept where many wait for their turn: who asks gets a short count, as write(2) may give.
const SHORT_WRITE_BYTES: u32 = 4096;

/// The longest request that is kept whole where many wait for their turn.
const SHORT_REQUEST_BYTES: usize = 8192;

/// A worker has room for the largest write, and its data begins with a page.
const _: () = assert!(HEAD_BYTES == BEFORE_DATA && DATA_BYTES_MAX == WRITE_BYTES_MAX as usize);

/// The user of what the kernel does of its own accord.
const KERNEL: u32 = u32::MAX;

/// One overlay, as the kernel talks to it.
pub struct Adapter {
    overlay: Arc<Overlay>,
    source: Arc<Source>,
    connection: Arc<Connection>,
    modes: Arc<Modes<BackingId>>,
    /// The only user whom it serves; anybody, if none is named.
    only: Option<u32>,
    /// Called when nothing will be asked any more.
    ended: Box<dyn Fn(std::io::Result<()>) + Send + Sync>,
}

/// How the kernel is to treat an overlay of `overlay`, whose writes go to `source`.
pub fn wishes(overlay: &Overlay, source: &Source) -> Wishes {
    Wishes {
        is_local: overlay.is_local(),
        has_acls: overlay.has_acls(),
        is_stacked: overlay.is_on_stacked_filesystem(),
        write_bytes_max: u32::try_from(source.write_bytes_max()).unwrap_or(u32::MAX),
    }
}

impl Adapter {
    /// Serves `overlay` to `connection` and hands its writes to `source`. Calls `ended` when the connection has ended and
    /// everything is answered.
    pub fn new(
        overlay: Arc<Overlay>,
        source: Arc<Source>,
        connection: Arc<Connection>,
        ended: impl Fn(std::io::Result<()>) + Send + Sync + 'static,
    ) -> Self {
        let negotiated = connection.negotiated();
        let modes = Arc::new(Modes::new(negotiated.passthrough(), negotiated.direct_maps()));
        take_up_modes(&modes, &overlay, &connection);
        let only = (!others_allowed()).then(|| geteuid().as_raw());
        Self { overlay, source, connection, modes, only, ended: Box::new(ended) }
    }

    /// Who knows whether the kernel may hold pages of mappings.
    pub fn mapped(&self) -> Mapped {
        Mapped(Arc::clone(&self.modes))
    }

    /// Does what a request asks for that was read from the connection, and answers it. The only place where a request
    /// begins and ends: what is done about every request is done here. `desk.slot` tells the worker from all others that
    /// are at a request at the time.
    fn do_request(&self, bytes: &[u8], desk: &mut Desk, before_answer: &mut dyn FnMut()) {
        let request = match Request::parse(bytes) {
            Ok(request) => request,
            Err(malformed) => return self.refuse_malformed(&malformed, before_answer),
        };
        let reply = Reply::new(&self.connection, request.header.unique, before_answer);
        if self.is_anothers(&request) {
            return reply.error(Errno::ACCESS);
        }
        if !has_effect(&request.operation) {
            return self.answer(&request, reply, &mut desk.room);
        }
        let Begun { request: noted, closed } =
            self.overlay.begin(desk.slot, request.header.unique, request.header.opcode);
        if let Some(file) = closed {
            self.has_closed(&file);
        }
        // The kernel's own is nobody's who could take too much.
        let noted = noted.of(Some(request.header.uid).filter(|uid| *uid != KERNEL).unwrap_or(0));
        // Its notes go once the answer has left.
        let _answered = noted.during(|| self.answer(&request, reply, &mut desk.room));
    }

    /// The kernel sends no such thing.
    fn refuse_malformed(&self, malformed: &Malformed, before_answer: &mut dyn FnMut()) {
        tracing::error!("a bug: {malformed}; it is answered with EIO where it can be");
        if let Malformed::Arguments { unique, .. } = malformed {
            Reply::new(&self.connection, *unique, before_answer).error(Errno::IO);
        }
    }

    /// Whether a user asks for something who is not to be served. What belongs to an open file was allowed when that was
    /// opened.
    fn is_anothers(&self, request: &Request<'_>) -> bool {
        self.only.is_some_and(|only| only != request.header.uid)
            && !matches!(
                request.operation,
                Operation::Read(_)
                    | Operation::Write { .. }
                    | Operation::ReadDir(_)
                    | Operation::ReadDirPlus(_)
                    | Operation::Fsync { .. }
                    | Operation::FsyncDir { .. }
                    | Operation::Release { .. }
                    | Operation::ReleaseDir { .. }
                    | Operation::Forget { .. }
                    | Operation::BatchForget(_)
                    | Operation::Init
                    | Operation::Destroy
                    | Operation::NotifyReply
                    | Operation::Interrupt
            )
    }

    /// Writes below, then records what was written.
    fn write_and_record(&self, caller: Caller, handle: u64, request: &WriteRequest<'_>) -> Result<u32> {
        let file = self.overlay.file(handle)?;
        let by = match request.cause {
            Cause::Mapping => file.opener,
            Cause::Write | Cause::Append => caller,
        };
        let written = self.overlay.write_by(by, &file, request)?;
        FailPoint::WrittenBelow.reach();
        if written.set_id_dropped {
            // Else the kernel would believe in them, and run it by them, for a while.
            self.connection.forget_attributes(file.inode.id);
        }
        let data = &request.data[..written.len];
        if !data.is_empty() {
            let writer = (request.cause != Cause::Mapping).then_some(Writer {
                thread: caller.thread,
                uid: caller.uid,
                gid: caller.gid,
            });
            // What is written is written: whatever happens to the record, the writer gets its count.
            let _ = attempt("capture", || {
                let matches = |pattern: &dyn Fn(&[u8]) -> bool| self.overlay.was_opened_by(&file, pattern);
                if self.source.excludes(file.note(), matches) {
                    self.source.count_excluded(data.len());
                    return Ok(());
                }
                let path = self.overlay.path_of(&file);
                let event = Event { path: &path, writer, offset: written.offset, handle: file.id, data };
                let file = FileId { number: file.inode.id, birth: file.inode.birth };
                self.source.record(file, &path, &event);
                Ok(())
            });
        }
        FailPoint::Committed.reach();
        // A request is at most WRITE_BYTES_MAX long.
        Ok(u32::try_from(written.len).unwrap_or(u32::MAX))
    }

    /// `file` is closed.
    fn has_closed(&self, file: &OpenFile) {
        self.modes.release(file.inode.id, || file.inode.set_kernel_mode(KernelMode::Closed));
    }

    /// How the kernel is to treat an open. Writes go past its cache, so that each arrives as it was made.
    fn mode_of(&self, file: &OpenFile, flags: OpenFlags) -> Chosen<BackingId> {
        let inode = &file.inode;
        let back = || self.connection.back(file.held()?.as_fd());
        let keep = |backing: Option<&BackingId>| {
            let mode = backing.map_or(KernelMode::Captured, |id| KernelMode::Passthrough(id.number()));
            inode.set_kernel_mode(mode);
        };
        let mut chosen = self.modes.open(inode.id, flags.acc_mode(), back, keep);
        // Who can map for writing may leave pages behind: the kernel writes those back at FLUSH, and not without it.
        let nothing_to_flush = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => true,
            OpenAccMode::O_WRONLY => self.overlay.closes_silently(file),
            OpenAccMode::O_RDWR => false,
        };
        if nothing_to_flush {
            chosen.flags |= FopenFlags::FOPEN_NOFLUSH;
        }
        if chosen.maps_uncaptured {
            self.source.count_uncaptured_mapper();
        }
        chosen
    }
}

impl Serve for Adapter {
    fn device(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }

    fn asker(&self, request: &[u8]) -> Asker {
        let Ok((header, _)) = InHeader::read_from_prefix(request) else { return Asker::Nobody };
        let Some(opcode) = Opcode::of(header.opcode) else { return Asker::Nobody };
        match (opcode, header.uid) {
            (Opcode::NotifyReply, _) if is_waking(header.unique) => Asker::Pool,
            // They take no time.
            (Opcode::Interrupt, _) => Asker::Nobody,
            _ if !opcode.is_answered() => Asker::Nobody,
            (_, 0 | KERNEL) => Asker::Root,
            (_, uid) if may_wait(opcode, request) => Asker::User(uid),
            (_, uid) => Asker::Holder(uid),
        }
    }

    fn keep(&self, request: &[u8], is_scarce: bool) -> Option<Box<[u8]>> {
        if !is_scarce || request.len() <= SHORT_REQUEST_BYTES {
            return Some(request.into());
        }
        shortened(request)
    }

    fn refuse(&self, request: &[u8]) {
        if let Ok((header, _)) = InHeader::read_from_prefix(request) {
            Reply::new(&self.connection, header.unique, &mut || {}).error(Errno::NOMEM);
        }
    }

    fn serve(&self, request: &[u8], desk: &mut Desk, before_answer: &mut dyn FnMut()) {
        self.do_request(request, desk, before_answer);
    }

    fn longest_request(&self) -> &AtomicU64 {
        self.overlay.state().longest_request()
    }

    fn wake_reader(&self) -> bool {
        self.connection.wake_reader().is_ok()
    }

    fn ended(&self, result: std::io::Result<()>) {
        (self.ended)(result);
    }
}

/// Whether a user's request may wait for his turn. While the kernel asks for a name, or what permission to go by one takes,
/// it can hold the lock of the directory, for which everybody waits who makes something there.
fn may_wait(opcode: Opcode, request: &[u8]) -> bool {
    match opcode {
        Opcode::Open
        | Opcode::OpenDir
        | Opcode::Read
        | Opcode::Write
        | Opcode::Fsync
        | Opcode::Fallocate
        | Opcode::Flush
        | Opcode::Release
        | Opcode::ReleaseDir
        | Opcode::Ioctl
        | Opcode::Lseek
        | Opcode::StatFs => true,
        // Of a file, and that can be leased to somebody.
        Opcode::SetAttr => {
            let arguments = request.get(size_of::<InHeader>()..).unwrap_or_default();
            SetAttrIn::read_from_prefix(arguments).is_ok_and(|(how, _)| how.valid & fattr::SIZE != 0)
        }
        _ => false,
    }
}

/// Whether doing it twice is not the same as doing it once, or its answer tells the kernel of something.
fn has_effect(operation: &Operation<'_>) -> bool {
    !matches!(
        operation,
        Operation::Read(_)
            | Operation::GetAttr
            | Operation::Forget { .. }
            | Operation::BatchForget(_)
            | Operation::NotifyReply
            | Operation::Interrupt
    )
}

/// Takes up how the kernel treats what a predecessor has opened for it.
fn take_up_modes(modes: &Modes<BackingId>, overlay: &Overlay, connection: &Arc<Connection>) {
    let mut opens: HashMap<u64, (u64, KernelMode)> = HashMap::new();
    for file in overlay.open_files() {
        opens.entry(file.inode.id).or_insert((0, file.inode.kernel_mode())).0 += 1;
    }
    for (node, (count, mode)) in opens {
        match mode {
            // The kernel was not told of that open, and will ask for it again.
            KernelMode::Closed => {}
            KernelMode::Captured => modes.take_up(node, count, None),
            KernelMode::Passthrough(number) => modes.take_up(node, count, Some(connection.backing(number))),
        }
    }
}

/// The beginning of a write, as a write of its own. A request of another kind cannot be cut, nor can pages of mappings, for
/// which nobody would come again: those are as many as the kernel writes back at once.
fn shortened(request: &[u8]) -> Option<Box<[u8]>> {
    let (mut header, rest) = InHeader::read_from_prefix(request).ok()?;
    if Opcode::of(header.opcode) != Some(Opcode::Write) {
        return None;
    }
    let (mut how, _) = WriteIn::read_from_prefix(rest).ok()?;
    if fuser::WriteFlags::from_bits_retain(how.write_flags).contains(fuser::WriteFlags::FUSE_WRITE_CACHE) {
        return Some(request.into());
    }
    let size = how.size.min(SHORT_WRITE_BYTES);
    let data = request.get(BEFORE_DATA..)?.get(..usize::try_from(size).ok()?)?;
    how.size = size;
    header.len = u32::try_from(BEFORE_DATA + data.len()).ok()?;
    Some([header.as_bytes(), how.as_bytes(), data].concat().into())
}

/// Whether the kernel may hold pages that are not in the files below.
#[derive(Clone)]
pub struct Mapped(Arc<Modes<BackingId>>);

impl Mapped {
    /// Whether there are files open that somebody can have mapped for writing, whose pages are captured.
    pub fn is_any(&self) -> bool {
        !self.0.is_all_passthrough()
    }
}

/// Does one operation. A panic in it is answered with EIO, and the filesystem goes on.
fn attempt<T>(operation: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        tracing::error!("a bug: {operation} panicked; it was answered with EIO");
        Err(Errno::IO)
    })
}
