//! The overlays that are served.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Sender, channel},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use bywash_common::config::{DirectoryConfig, OnAgentExit};
use fuser::Session;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::statvfs;

use super::CLOSING_GRACE;
use crate::{
    capture::{Capture, Source},
    fuse::Adapter,
    mount::{self, Unmounted},
    overlay::{HandleNumbers, Identity, Opens, Overlay, Shared},
    process,
    run::Event,
    worker_pool::{self, WorkerPool},
};

/// How long the start waits for an overlay to answer.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(1);

/// Tells an overlay from others, those that were on the same directory before included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayId(u64);

/// An overlay that is served.
struct Served {
    id: OverlayId,
    path: PathBuf,
    pool: Arc<WorkerPool>,
    source: Arc<Source>,
    /// Its end of the kernel's connection.
    device: OwnedFd,
}

impl Served {
    /// Once the overlay is unmounted, and what was open in it closed, the kernel tells only who asks it.
    fn release_workers_if_ended(&self) {
        let mut device = [PollFd::new(self.device.as_fd(), PollFlags::empty())];
        let asked = poll(&mut device, PollTimeout::ZERO);
        let ended =
            asked.is_ok() && device[0].revents().is_none_or(|events| events.contains(PollFlags::POLLERR));
        if ended {
            self.pool.release_workers();
        }
    }

    /// Takes it out of the tree. What is open in it is served on.
    fn unmount(&self, ring: &str) {
        let shown = self.path.display();
        match mount::unmount(&self.path, ring) {
            Ok(Unmounted::Clean) => tracing::info!("unmounted {shown}"),
            Ok(Unmounted::Lazily) => {
                tracing::info!(
                    "unmounted {shown}; files that are open there are served until they are closed"
                );
            }
            Ok(Unmounted::Gone) => tracing::info!("{shown} was unmounted already"),
            Err(error) => tracing::error!("{error:#}"),
        }
        self.pool.release_workers();
    }
}

/// All overlays.
pub struct Overlays {
    capture: Arc<Capture>,
    ring: String,
    events: Sender<Event>,
    next_id: u64,
    shared: Shared,
    /// In the tree.
    mounted: Vec<Served>,
    /// Out of the tree, with files open in them.
    leaving: Vec<Served>,
}

/// Overlays that are mounted and not yet taken in. Dropped, they are unmounted again.
pub struct New {
    ring: String,
    served: Vec<Served>,
}

impl Drop for New {
    fn drop(&mut self) {
        self.served.iter().for_each(|served| served.unmount(&self.ring));
    }
}

impl Overlays {
    /// None yet. They act as `identity` lets them. Their writes go to `capture`, news of their end to `events`; mounts name
    /// `ring`.
    pub fn new(capture: Arc<Capture>, ring: &str, events: Sender<Event>, identity: Identity) -> Self {
        Self {
            capture,
            ring: ring.to_owned(),
            events,
            next_id: 0,
            shared: Shared {
                identity,
                handles: HandleNumbers::default(),
                opens: Opens::new(process::opens_max()),
            },
            mounted: Vec::new(),
            leaving: Vec::new(),
        }
    }

    /// Mounts those of `wanted` that are not mounted, and waits until they answer.
    ///
    /// # Errors
    /// Why one could not be. None is then left mounted.
    pub fn start_new(&mut self, wanted: &[DirectoryConfig]) -> Result<New> {
        let mut new = New { ring: self.ring.clone(), served: Vec::new() };
        self.notice_unmounted();
        let missing: Vec<_> = wanted.iter().filter(|d| !self.paths().any(|path| path == d.path)).collect();
        if missing.is_empty() {
            return Ok(new);
        }
        for directory in &missing {
            mount::recover(&directory.path, &self.ring)?;
            mount::prepare_directory(directory)?;
        }
        for directory in missing {
            let served = self.mount(directory, wanted.len())?;
            let (pool, path) = (Arc::clone(&served.pool), served.path.clone());
            new.served.push(served);
            settle_workers(pool, path)?;
        }
        Ok(new)
    }

    /// What somebody else has unmounted while files were open in it is served on, and can be mounted again.
    fn notice_unmounted(&mut self) {
        for served in std::mem::take(&mut self.mounted) {
            if mount::is_mounted(&served.path, &self.ring) {
                self.mounted.push(served);
            } else {
                tracing::warn!("{} was unmounted by someone else", served.path.display());
                served.pool.release_workers();
                self.leaving.push(served);
            }
        }
    }

    /// Mounts one of `overlays`, and serves it with threads of its own.
    fn mount(&mut self, directory: &DirectoryConfig, overlays: usize) -> Result<Served> {
        let path = directory.path.clone();
        let limits = process::cache_limits(overlays);
        let overlay = Overlay::open(&path, &self.shared, limits)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let pool = WorkerPool::new(worker_pool::threads_each(overlays));
        let source = Arc::new(Source::new(Arc::clone(&self.capture), directory));
        let adapter = Adapter::new(overlay, Arc::clone(&source), Arc::clone(&pool));
        let session = mount::mount(&path, &self.ring, adapter)?;
        let device = session.as_fd().try_clone_to_owned().context("cannot duplicate a descriptor")?;
        let id = OverlayId(self.next_id);
        self.next_id += 1;
        serve_session(session, id, self.events.clone())?;
        Ok(Served { id, path, pool, source, device })
    }

    /// Takes `new` in, has the others go by what is `wanted`, and takes out of the tree what is not any more.
    pub fn settle(&mut self, wanted: &[DirectoryConfig], mut new: New) {
        for served in std::mem::take(&mut self.mounted) {
            match wanted.iter().find(|directory| directory.path == served.path) {
                Some(directory) => {
                    served.source.change(directory);
                    self.mounted.push(served);
                }
                None => {
                    served.unmount(&self.ring);
                    self.leaving.push(served);
                }
            }
        }
        for served in std::mem::take(&mut new.served) {
            tracing::info!("listening on {}", served.path.display());
            self.mounted.push(served);
        }
    }

    /// The directories that have an overlay.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.mounted.iter().map(|served| served.path.as_path())
    }

    /// Whether no directory has an overlay.
    pub fn is_empty(&self) -> bool {
        self.mounted.is_empty()
    }

    /// An overlay is not served any more. Gives whether it was in the tree.
    pub fn ended(&mut self, id: OverlayId, result: io::Result<()>) -> bool {
        self.leaving.retain(|served| served.id != id);
        let Some(at) = self.mounted.iter().position(|served| served.id == id) else { return false };
        let shown = self.mounted.remove(at).path;
        let shown = shown.display();
        match result {
            Ok(()) => tracing::warn!("{shown} was unmounted by someone else: not listening there"),
            Err(error) => tracing::error!("serving {shown} has failed: {error}"),
        }
        true
    }

    /// Notices those that nobody uses any more, and announces what quotas have withheld.
    pub fn tidy(&self) {
        for served in self.mounted.iter().chain(&self.leaving) {
            served.release_workers_if_ended();
            served.source.tidy();
        }
    }

    /// Takes all of them out of the tree, unless they are to be kept: those fail once this process is gone.
    pub fn stop(&mut self, on_agent_exit: OnAgentExit) {
        if on_agent_exit == OnAgentExit::Keep {
            for Served { path, source, .. } in std::mem::take(&mut self.mounted) {
                source.finish();
                tracing::info!("{} stays overlaid, and fails until fs-agent runs again", path.display());
            }
        }
        for served in std::mem::take(&mut self.mounted) {
            served.unmount(&self.ring);
            self.leaving.push(served);
        }
    }

    /// Whether nothing is open in those that are out of the tree.
    pub fn is_closed(&self) -> bool {
        self.leaving.is_empty()
    }

    /// Says what is cut off if the process ends now, and what quotas have withheld.
    pub fn abandon(&self) {
        for Served { path, source, .. } in &self.leaving {
            let shown = path.display();
            source.finish();
            tracing::warn!("files are still open in {shown} after {CLOSING_GRACE:?}: they are cut off now");
        }
    }
}

/// Has the threads that are not needed yet park, by giving each something small to do: before they touch more of their
/// buffers. Waits a while for that: an overlay whose threads have parked answers.
fn settle_workers(pool: Arc<WorkerPool>, path: PathBuf) -> Result<()> {
    let (done, settled) = channel();
    let settle_workers = move || {
        for _ in 0..pool.size() {
            if pool.is_settled() || statvfs(&path).is_err() {
                break;
            }
        }
        // Nobody listens any more if the directory below is slow.
        let _ = done.send(());
    };
    // Not this thread: the directory below may not answer at all.
    thread::Builder::new()
        .name("settle".to_owned())
        .spawn(settle_workers)
        .context("cannot start a thread")?;
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
