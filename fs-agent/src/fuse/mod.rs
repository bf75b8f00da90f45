//! The FUSE protocol: takes requests apart, has the overlay do them, and answers.
//!
//! This is the only module that knows fuser, beside the mounting. Nothing is decided here but what the kernel may
//! cache and what the capture is told.

mod control;
mod convert;
mod modes;
mod operations;
mod prune;
mod turns;

use std::{
    io,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
};

use bywash_common::fail_point::FailPoint;
use fuser::{
    BackingId, Errno, FileHandle, FopenFlags, INodeNo, InitFlags, KernelConfig, Notifier, OpenAccMode,
    OpenFlags, ReplyWrite, Request,
};

use crate::{
    capture::{Event, FileId, Source, Writer},
    mount::may_administer,
    overlay::{self, Cause, Durability, OpenFile, Overlay, WriteRequest},
    worker_pool::WorkerPool,
};

use convert::errno;
use modes::{Chosen, Modes};
use prune::Pruner;
use turns::Turns;

/// The most bytes in one write request: as many as the kernel puts into one (256 pages, unless an administrator sets
/// fs.fuse.max_pages_limit). Each request becomes one record.
const WRITE_BYTES_MAX: u32 = 1 << 20;

/// The offset with which an inode's attributes are invalidated and its pages are left alone.
const ATTRIBUTES_ONLY: i64 = -1;

/// What is asked of the kernel where it has it. Left out on purpose:
/// writeback cache: a write would not come from its writer, nor as one;
/// ASYNC_DIO: parts of one asynchronous write would overtake each other on the way to the ring;
/// ATOMIC_O_TRUNC: a file would be cut before the kernel finds that it may not be, because it is a program that runs;
/// locks: the kernel keeps them itself. One that somebody waits for could not be given up at a signal, which the FUSE library
/// does not hand on;
/// ALLOW_IDMAP: but for what is made, the kernel would not say any more who asks.
const CAPABILITIES: [InitFlags; 5] = [
    InitFlags::FUSE_AUTO_INVAL_DATA,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    // Set-id bits are the overlay's to take away: else each cached write asks for an attribute first.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    // Modes come as asked for, with the mask beside: a directory's default ACL goes before the mask.
    InitFlags::FUSE_DONT_MASK,
];

/// One overlay, as the kernel talks to it.
pub struct Adapter {
    overlay: Arc<Overlay>,
    source: Arc<Source>,
    /// Tells the kernel what it does not know; there once the overlay is mounted.
    notifier: Arc<OnceLock<Notifier>>,
    modes: Arc<Modes<BackingId>>,
    /// The threads that call this.
    pool: Arc<WorkerPool>,
    /// Who may keep them busy.
    turns: Turns,
}

impl Adapter {
    /// Serves `overlay` with `pool` and hands its writes to `source`.
    pub fn new(overlay: Overlay, source: Arc<Source>, pool: Arc<WorkerPool>) -> Self {
        let turns = Turns::new(pool.size());
        let (notifier, modes) = (Arc::default(), Arc::default());
        Self { overlay: Arc::new(overlay), source, notifier, modes, pool, turns }
    }

    /// How many threads shall call this.
    pub fn threads(&self) -> usize {
        self.pool.size()
    }

    /// Where the session's notifier is to be put.
    pub fn notifier(&self) -> Arc<OnceLock<Notifier>> {
        Arc::clone(&self.notifier)
    }

    /// Who knows whether the kernel may hold pages of mappings.
    pub fn mapped(&self) -> Mapped {
        Mapped(Arc::clone(&self.modes))
    }

    /// Who keeps the overlay small once it is mounted. To be called once.
    pub fn pruner(&self) -> Pruner {
        Pruner::new(Arc::downgrade(&self.overlay), self.overlay.crowds())
    }

    /// Settles with the kernel what either does.
    fn negotiate(&mut self, config: &mut KernelConfig) -> io::Result<()> {
        let direct_maps = config.capabilities().contains(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);
        self.modes.set_offered(self.ask_for_passthrough(config), direct_maps);
        for capability in CAPABILITIES {
            if config.add_capabilities(capability).is_err() {
                tracing::info!("this kernel does not offer {capability:?}; going on without it");
            }
        }
        // Who looks at what it lists is told with the list, where telling takes no time; the kernel finds out who does.
        if self.overlay.is_local() {
            let _ =
                config.add_capabilities(InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO);
        }
        // Permissions by ACL are checked by the kernel then. Not asked for where there are none: it would ask in vain.
        if self.overlay.has_acls() && config.add_capabilities(InitFlags::FUSE_POSIX_ACL).is_err() {
            tracing::info!("this kernel does not check ACLs over FUSE: they are kept, and not in force here");
        }
        let ring_takes = u32::try_from(self.source.write_bytes_max()).unwrap_or(u32::MAX);
        config.set_max_write(WRITE_BYTES_MAX.min(ring_takes)).map(drop).map_err(|nearest| {
            io::Error::other(format!("the FUSE library writes at most {nearest} bytes at once"))
        })
    }

    /// Whether the kernel will read files by itself. Said once in the log if not.
    fn ask_for_passthrough(&self, config: &mut KernelConfig) -> bool {
        // The least that serves: as much deeper may an overlayfs be stacked on this.
        let depth = if self.overlay.is_on_stacked_filesystem() { 2 } else { 1 };
        let lacks = if !may_administer() {
            "CAP_SYS_ADMIN"
        } else if config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_err() {
            "Linux 6.9"
        } else if config.set_max_stack_depth(depth).is_err() {
            "a FUSE library that stacks"
        } else {
            return true;
        };
        tracing::info!("reads are cached, not at the speed of the directory below: that takes {lacks}");
        false
    }

    /// The file may have lost set-id bits: else the kernel would believe in them, and run it by them, for a while.
    fn forget_attributes(&self, node: INodeNo) {
        forget_attributes(&self.notifier, node);
    }

    /// Does `work`, which can take long, when it is the turn of who asks for it. `work` answers.
    fn take_turn(&self, req: &Request, work: impl FnOnce() + Send + 'static) {
        let _busy = self.pool.begin();
        self.turns.take(req.uid(), work);
    }

    /// Writes and records what is to be on the disk before it is answered. Where it is not the turn of who asks, the bytes,
    /// which the FUSE library only lends, are written at once, and the disk is waited for when it is.
    fn write_to_disk(&self, req: &Request, fh: FileHandle, request: &WriteRequest<'_>, reply: ReplyWrite) {
        let _busy = self.pool.begin();
        let answer = |written: Result<u32, Errno>, reply: ReplyWrite| match written {
            Ok(len) => reply.written(len),
            Err(errno) => reply.error(errno),
        };
        if let Some(_turn) = self.turns.at_once(req.uid()) {
            return answer(attempt("write", || self.write_and_record(req, fh, request)), reply);
        }
        let durability = request.durability;
        let request = WriteRequest { durability: Durability::None, ..*request };
        match attempt("write", || self.write_and_record(req, fh, &request)) {
            Err(errno) => reply.error(errno),
            Ok(len) => {
                let overlay = Arc::clone(&self.overlay);
                let synced = move || overlay.bring_to_disk(&*overlay.file(fh.0)?, durability).map(|()| len);
                self.turns.take(req.uid(), move || answer(attempt("write", synced), reply));
            }
        }
    }

    /// Writes below, then records what was written.
    fn write_and_record(
        &self,
        req: &Request,
        handle: FileHandle,
        request: &WriteRequest<'_>,
    ) -> overlay::Result<u32> {
        let file = self.overlay.file(handle.0)?;
        let by = match request.cause {
            Cause::Mapping => file.opener,
            Cause::Write | Cause::Append => convert::caller(req),
        };
        let written = self.overlay.write_by(by, &file, request)?;
        FailPoint::WrittenBelow.reach();
        if written.set_id_dropped {
            self.forget_attributes(INodeNo(file.inode.id));
        }
        let data = &request.data[..written.len];
        if !data.is_empty() {
            let writer = (request.cause != Cause::Mapping).then(|| Writer {
                thread: req.pid(),
                uid: req.uid(),
                gid: req.gid(),
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

/// What decides how opens share a file.
type Sharing<'a> = (&'a Overlay, &'a Modes<BackingId>, &'a Source);

/// How the kernel is to treat an open. Writes go past its cache, so that each arrives as it was made.
fn mode_of(
    (overlay, modes, source): Sharing<'_>,
    file: &OpenFile,
    flags: OpenFlags,
    back: impl FnOnce(&OwnedFd) -> io::Result<BackingId>,
) -> Chosen<BackingId> {
    let mut chosen = modes.open(file.inode.id, flags.acc_mode(), || back(file.held()?));
    // Who can map for writing may leave pages behind: the kernel writes those back at FLUSH, and not without it.
    let nothing_to_flush = match flags.acc_mode() {
        OpenAccMode::O_RDONLY => true,
        OpenAccMode::O_WRONLY => overlay.closes_silently(file),
        OpenAccMode::O_RDWR => false,
    };
    if nothing_to_flush {
        chosen.flags |= FopenFlags::FOPEN_NOFLUSH;
    }
    if chosen.maps_uncaptured {
        source.count_uncaptured_mapper();
    }
    chosen
}

/// As [`Adapter::forget_attributes`].
fn forget_attributes(notifier: &OnceLock<Notifier>, node: INodeNo) {
    if let Some(notifier) = notifier.get() {
        // That the kernel knows nothing of the inode is no error.
        let _ = notifier.inval_inode(node, ATTRIBUTES_ONLY, 0);
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
