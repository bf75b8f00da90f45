//! One overlay with the threads that serve it.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Sender, sync_channel},
    },
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    capture::Source,
    fuse::{self, Adapter, Connection, Mapped, prune::Pruner},
    mount::{self, Connected, label::Label, table::Device},
    overlay::{HandleNumbers, Identity, Opens, Overlay, SettleMounts, Shared},
    process,
    run::Event,
    worker_pool::WorkerPool,
};

/// How long an operation that a mount point is in the way of waits for the agent to follow what others have unmounted.
const MOUNTS_TIME_MAX: Duration = Duration::from_secs(1);

/// Tells an overlay from others, those that were on the same directory before included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayId(u64);

/// What overlays are served by and report to.
pub struct Server {
    events: Sender<Event>,
    next_id: AtomicU64,
    shared: Shared,
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
    /// Overlays act as `identity` lets them. Reports their end to `events`.
    pub fn new(events: Sender<Event>, identity: Identity) -> Self {
        let opens = Opens::new(process::opens_max());
        let shared = Shared { identity, handles: HandleNumbers::default(), opens };
        Self { events, next_id: AtomicU64::new(0), shared, threads: Mutex::default() }
    }

    /// Has an overlay of the directory that `below` holds answer, one of `overlays`. Writers see it at `path`.
    ///
    /// # Errors
    /// If it cannot be connected or served. It is then mounted nowhere.
    pub fn serve(
        &self,
        below: OwnedFd,
        path: &Path,
        label: &Label,
        source: &Arc<Source>,
        overlays: usize,
    ) -> Result<Answering> {
        let kept = below.try_clone().context("cannot duplicate a descriptor")?;
        let limits = process::cache_limits(overlays);
        let mut overlay = Overlay::over(below, path, &self.shared, limits)
            .with_context(|| format!("cannot examine {}", path.display()))?;
        overlay.settle_mounts_by(settler(self.events.clone()));
        let overlay = Arc::new(overlay);
        let wishes = fuse::wishes(&overlay, source);
        let Connected { connection, root, device } = if mount::by_descriptors() {
            mount::connect(kept.as_fd(), label, wishes)
        } else {
            mount::mount_by_path(path, kept.as_fd(), label, wishes)
        }?;
        let connection = Arc::new(connection);
        let Threads { pool, pruner } = self.threads().context("cannot start a thread")?;
        pruner.keep_small(&overlay, &connection);
        let id = OverlayId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let events = self.events.clone();
        let adapter = Adapter::new(overlay, Arc::clone(source), Arc::clone(&connection), move |result| {
            // Nobody listens any more once the agent has given up waiting.
            let _ = events.send(Event::Ended(id, result));
        });
        let mapped = adapter.mapped();
        pool.serve(adapter).context("cannot wait for requests")?;
        Ok(Answering { served: Served { id, device, connection, mapped }, root })
    }

    fn threads(&self) -> std::io::Result<Threads> {
        let mut threads: MutexGuard<'_, Option<Threads>> =
            self.threads.lock().unwrap_or_else(PoisonError::into_inner);
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
    connection: Arc<Connection>,
}

impl Served {
    /// Whether the kernel has ended the connection: nobody uses the overlay any more, or somebody has aborted it.
    pub fn has_ended(&self) -> bool {
        self.connection.has_ended()
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
