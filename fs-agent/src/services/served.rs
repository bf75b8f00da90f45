//! One overlay with the threads that serve it.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Sender, channel, sync_channel},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use fuser::Session;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::fstatvfs;

use crate::{
    capture::Source,
    fuse::{Adapter, Mapped},
    mount::{self, Connected, label::Label, table::Device},
    overlay::{HandleNumbers, Identity, Opens, Overlay, SettleMounts, Shared},
    process,
    run::Event,
    worker_pool::{self, WorkerPool},
};

/// How long the start waits for an overlay's threads to park.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(1);

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
}

impl Server {
    /// Overlays act as `identity` lets them. Reports their end to `events`.
    pub fn new(events: Sender<Event>, identity: Identity) -> Self {
        let opens = Opens::new(process::opens_max());
        let shared = Shared { identity, handles: HandleNumbers::default(), opens };
        Self { events, next_id: AtomicU64::new(0), shared }
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
        let pool = WorkerPool::new(worker_pool::threads_each(overlays));
        let adapter = Adapter::new(overlay, Arc::clone(source), Arc::clone(&pool));
        let mapped = adapter.mapped();
        let Connected { session, root, device } = if mount::by_descriptors() {
            mount::connect(kept.as_fd(), label, adapter)
        } else {
            mount::mount_by_path(path, kept.as_fd(), label, adapter)
        }?;
        let connection = session.as_fd().try_clone_to_owned().context("cannot duplicate a descriptor")?;
        let id = OverlayId(self.next_id.fetch_add(1, Ordering::Relaxed));
        serve_session(session, id, self.events.clone())?;
        settle(&pool, &root)?;
        Ok(Answering { served: Served { id, device, pool, connection, mapped }, root })
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
    pool: Arc<WorkerPool>,
    /// Its end of the kernel's connection.
    connection: OwnedFd,
}

impl Served {
    /// Whether the kernel has ended the connection: nobody uses the overlay any more, or somebody has aborted it.
    pub fn has_ended(&self) -> bool {
        let mut connection = [PollFd::new(self.connection.as_fd(), PollFlags::empty())];
        let asked = poll(&mut connection, PollTimeout::ZERO);
        asked.is_ok() && connection[0].revents().is_none_or(|events| events.contains(PollFlags::POLLERR))
    }

    /// Once the overlay is unmounted, and what was open in it closed, the kernel tells only threads that ask it: has all of
    /// them ask.
    pub fn release_workers_if_ended(&self) {
        if self.has_ended() {
            self.release_workers();
        }
    }

    /// Has all threads ask the kernel for requests, until the connection ends.
    pub fn release_workers(&self) {
        self.pool.release_workers();
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

/// Has the threads that are not needed yet park, by giving each something small to do: before they touch more of their
/// buffers. Waits a while for that: an overlay whose threads have parked answers.
fn settle(pool: &Arc<WorkerPool>, root: &OwnedFd) -> Result<()> {
    let (done, settled) = channel();
    let (pool, root) = (Arc::clone(pool), root.try_clone().context("cannot duplicate a descriptor")?);
    let settle = move || {
        for _ in 0..pool.size() {
            if pool.is_settled() || fstatvfs(&root).is_err() {
                break;
            }
        }
        // Before the caller goes on: this descriptor must not keep the overlay mounted.
        drop(root);
        // Nobody listens any more if the directory below is slow.
        let _ = done.send(());
    };
    // Not this thread: the directory below may not answer at all.
    thread::Builder::new().name("settle".to_owned()).spawn(settle).context("cannot start a thread")?;
    let _ = settled.recv_timeout(SETTLE_TIME_MAX);
    Ok(())
}

/// Serves an overlay with threads of its own, and reports its end.
fn serve_session(session: Session<Adapter>, id: OverlayId, events: Sender<Event>) -> Result<()> {
    let serve = move || {
        let result = session.run();
        // Nobody listens any more once the agent has given up waiting.
        let _ = events.send(Event::Ended(id, result));
    };
    thread::Builder::new().name("overlay".to_owned()).spawn(serve).context("cannot start a thread")?;
    Ok(())
}
