//! One overlay with the threads that serve it.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Sender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bywash_common::status::AgentCounter;

use super::left::{Facts, Resumable, place};
use crate::{
    capture::Source,
    event::{Event, OverlayId},
    fd_store::{Name, OverlayPart, Store},
    fuse::{self, Adapter, Connection, Mapped, prune::Pruner},
    mount::{self, Connected, label::Label, table::Device},
    overlay::{HandleNumbers, Identity, Opens, Overlay, Park, Parked, Restored, SettleMounts, Shared},
    process, state,
    sync::lock,
    worker_pool::WorkerPool,
};

/// How long an operation that a mount point is in the way of waits for the agent to follow what others have unmounted.
const MOUNTS_TIME_MAX: Duration = Duration::from_secs(1);

/// How long after a successor has begun requests may come back that were being done before. They are the first that come, but
/// may have to wait for their turn.
const RESENT_TIME_MAX: Duration = Duration::from_secs(60);

/// What overlays are served by and report to.
pub struct Server {
    events: Sender<Event>,
    shared: Shared,
    /// What outlives this process.
    store: Arc<Store>,
    /// Under which numbers overlays are kept.
    kept: Mutex<HashMap<OverlayId, u32>>,
    told_of_kernel: AtomicBool,
    /// There from the first overlay on.
    threads: Mutex<Option<Threads>>,
}

/// What all overlays share of threads.
#[derive(Clone)]
struct Threads {
    pool: Arc<WorkerPool>,
    pruner: Arc<Pruner>,
}

impl Server {
    /// Overlays act as `identity` lets them, and are kept in `store`. Reports their end to `events`.
    pub fn new(events: Sender<Event>, identity: Identity, store: Arc<Store>) -> Self {
        let opens = Opens::new(process::opens_max());
        let shared = Shared { identity, handles: HandleNumbers::default(), opens };
        Self {
            events,
            shared,
            store,
            kept: Mutex::default(),
            told_of_kernel: AtomicBool::new(false),
            threads: Mutex::default(),
        }
    }

    /// What outlives this process.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Has an overlay of the directory that `below` holds answer, one of `overlays`. Writers see it at `home`.
    ///
    /// # Errors
    /// If it cannot be connected or served. It is then mounted nowhere.
    pub fn serve(
        &self,
        below: OwnedFd,
        home: &Home<'_>,
        label: &Label,
        source: &Arc<Source>,
        overlays: usize,
    ) -> Result<Answering> {
        let path = &home.path();
        let kept = below.try_clone().context("cannot duplicate a descriptor")?;
        let limits = process::cache_limits(overlays);
        let overlay = Overlay::over(below, path, &self.shared, limits)
            .with_context(|| format!("cannot examine {}", path.display()))?;
        let wishes = fuse::wishes(&overlay, source);
        let Connected { connection, root, device } = if mount::by_descriptors() {
            mount::connect(kept.as_fd(), label, wishes)
        } else {
            mount::mount_by_path(path, kept.as_fd(), label, wishes)
        }?;
        let facts = home.facts(label, &device);
        // Before anybody is told of anything.
        let number = self.keep(&overlay, &connection, kept.as_fd(), &facts);
        let served = self.begin(overlay, connection, device, source, number)?;
        Ok(Answering { served, root })
    }

    /// Goes on with an overlay that the agent before has left, one of `overlays`. None if nobody uses that any more.
    ///
    /// # Errors
    /// If it cannot be taken up. It then ends with what `resumable` holds.
    pub fn resume(
        &self,
        resumable: Resumable,
        source: &Arc<Source>,
        overlays: usize,
    ) -> Result<Option<(Served, Restored)>> {
        let Resumable { number, facts, connection, negotiated, state, root, parked } = resumable;
        let connection = Connection::resume(connection, negotiated);
        if connection.has_ended() {
            return Ok(None);
        }
        let journal = Arc::clone(&state.state.journal);
        let limits = process::cache_limits(overlays);
        let (overlay, restored) = Overlay::restore(root, state, parked, &self.shared, limits)?;
        let ring = source.ring();
        journal.settle_records(|record| ring.had_committed(record.ring, record.sequence));
        connection.resend().context("cannot have requests sent again that nobody has answered")?;
        let served = self.begin(overlay, connection, facts.device, source, Some(number))?;
        Self::open_again(&served, source)?;
        Ok(Some((served, restored)))
    }

    /// Has all files opened again that were open, while callers are served, and counts those that are lost.
    fn open_again(served: &Served, source: &Arc<Source>) -> Result<()> {
        let (overlay, source) = (Arc::clone(&served.overlay), Arc::clone(source));
        let open = move || {
            let lost = u64::try_from(overlay.open_again()).unwrap_or(u64::MAX);
            source.ring().status.add(AgentCounter::HandoverFilesLost, lost);
        };
        thread::Builder::new().name("reopen".to_owned()).spawn(open).context("cannot start a thread")?;
        Ok(())
    }

    /// Has `overlay` kept, with `connection` and `root`, the root of what is below. Gives its number; none if it is not kept.
    fn keep(
        &self,
        overlay: &Overlay,
        connection: &Connection,
        root: BorrowedFd<'_>,
        facts: &Facts,
    ) -> Option<u32> {
        // Mounted by path, it is unmounted at the end.
        if !self.store.is_there() || !mount::by_descriptors() {
            return None;
        }
        // Nothing was read yet, so nothing is sent again.
        if let Err(errno) = connection.resend() {
            if !self.told_of_kernel.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "this kernel does not send requests again that nobody has answered (Linux 6.9): {errno}; overlays end with the \
                     agent, and so does what is open in them"
                );
            }
            return None;
        }
        let number = self.store.next_overlay();
        let put = |part, fd| self.store.put(&Name::Overlay(number, part), fd).is_ok();
        let state = overlay.state();
        let is_said = state.set_facts(state::Facts::Connection, &connection.negotiated().to_bytes()).is_ok()
            && state.set_facts(state::Facts::Service, &facts.to_bytes()).is_ok();
        let is_kept = is_said
            && put(OverlayPart::State, state.as_fd())
            && put(OverlayPart::Root, root)
            && put(OverlayPart::Connection, connection.as_fd());
        if !is_kept {
            self.store.remove_overlay(number);
        }
        is_kept.then_some(number)
    }

    /// Serves `overlay`, which is kept under `number`.
    fn begin(
        &self,
        mut overlay: Overlay,
        connection: Connection,
        device: Device,
        source: &Arc<Source>,
        number: Option<u32>,
    ) -> Result<Served> {
        overlay.settle_mounts_by(settler(self.events.clone()));
        if let Some(number) = number {
            overlay.park_by(Box::new(ParkedInStore { store: Arc::clone(&self.store), number }));
        }
        let (overlay, connection) = (Arc::new(overlay), Arc::new(connection));
        let Threads { pool, pruner } = self.threads().context("cannot start a thread")?;
        pruner.keep_small(&overlay, &connection);
        let id = OverlayId::next();
        if let Some(number) = number {
            lock(&self.kept).insert(id, number);
        }
        let events = self.events.clone();
        let adapter =
            Adapter::new(Arc::clone(&overlay), Arc::clone(source), Arc::clone(&connection), move |result| {
                // Nobody listens any more once the agent has given up waiting.
                let _ = events.send(Event::Ended(id, result));
            });
        let mapped = adapter.mapped();
        pool.serve(adapter).context("cannot wait for requests")?;
        Ok(Served { id, device, mapped, overlay, connection, begun: Instant::now() })
    }

    /// Whether a successor finds the overlay.
    pub fn is_kept(&self, id: OverlayId) -> bool {
        lock(&self.kept).contains_key(&id)
    }

    /// The overlay has ended, or ends with this process: no successor is to find it.
    pub fn let_go(&self, id: OverlayId) {
        let number = lock(&self.kept).remove(&id);
        number.into_iter().for_each(|number| self.store.remove_overlay(number));
    }

    fn threads(&self) -> std::io::Result<Threads> {
        let mut threads = lock(&self.threads);
        if let Some(threads) = &*threads {
            return Ok(threads.clone());
        }
        let started = Threads { pool: WorkerPool::new()?, pruner: Arc::new(Pruner::start()?) };
        Ok(threads.insert(started).clone())
    }
}

/// An overlay that answers. With the privilege to mount, it is attached nowhere yet, and gone once `root` is closed.
pub struct Answering {
    /// What serves it.
    pub served: Served,
    /// Its root.
    pub root: OwnedFd,
}

/// An overlay that is served.
pub struct Served {
    /// Which.
    pub id: OverlayId,
    /// Its filesystem, by which the table of mounts knows it.
    pub device: Device,
    /// Whether the kernel may hold pages of mappings.
    pub mapped: Mapped,
    overlay: Arc<Overlay>,
    connection: Arc<Connection>,
    /// When it was begun to be served by this process.
    begun: Instant,
}

impl Served {
    /// Whether the kernel has ended the connection: nobody uses the overlay any more, or somebody has aborted it.
    pub fn has_ended(&self) -> bool {
        self.connection.has_ended()
    }

    /// What is to be done now and then.
    pub fn tidy(&self) {
        self.overlay.park_nameless();
        self.overlay.forget_inherited(Instant::now(), |node| self.connection.knows(node));
        if self.begun.elapsed() > RESENT_TIME_MAX {
            self.overlay.state().journal.nothing_more_comes_back();
        }
    }
}

/// Where an overlay is, for a successor.
pub struct Home<'a> {
    /// The number under which the watched directory is kept.
    pub number: u32,
    /// The watched directory.
    pub directory: &'a Path,
    /// Where it is, relative to that.
    pub at: &'a Path,
}

impl Home<'_> {
    fn path(&self) -> PathBuf {
        place(self.directory, self.at)
    }

    fn facts(&self, label: &Label, device: &Device) -> Facts {
        Facts {
            part: label.part,
            on_agent_exit: label.on_agent_exit,
            device: device.clone(),
            directory: self.number,
            path: self.directory.to_owned(),
            at: self.at.to_owned(),
        }
    }
}

/// What a successor would not find is kept in the store.
struct ParkedInStore {
    store: Arc<Store>,
    number: u32,
}

impl Park for ParkedInStore {
    fn park(&self, what: Parked, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.store.put(&self.name_of(what), fd).map_err(io::Error::other)
    }

    fn take_back(&self, what: Parked) {
        self.store.remove(&self.name_of(what));
    }
}

impl ParkedInStore {
    fn name_of(&self, what: Parked) -> Name {
        let part = match what {
            Parked::Node(node) => OverlayPart::Parked(node),
            Parked::Open(handle) => OverlayPart::Open(handle),
        };
        Name::Overlay(self.number, part)
    }
}

/// Has the agent follow what others have mounted and unmounted, and waits until it has.
fn settler(events: Sender<Event>) -> SettleMounts {
    Box::new(move || {
        let (done, settled) = sync_channel(1);
        if events.send(Event::SettleMounts(done)).is_ok() {
            let _ = settled.recv_timeout(MOUNTS_TIME_MAX);
        }
    })
}
