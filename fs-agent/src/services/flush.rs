//! Has the kernel write down the pages of shared mappings before an overlay is taken off or its agent ends: a store into a
//! mapping is in the file below only once the kernel has written the page back, by a request that somebody has to answer.
//!
//! The pages stay where they are: whoever has mapped them goes on reading them.

use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    sync::mpsc::sync_channel,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, Mode, OFlags, openat, syncfs};

use crate::event::OverlayId;
use crate::mount::{
    control::Control,
    table::{Device, Table},
    walk,
};

/// How long it may take for all overlays together: a filesystem below may not answer.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a handover may take for it: whoever stores goes on meanwhile, and the next agent has the rest written.
const HANDOVER_TIME_MAX: Duration = Duration::from_millis(200);

/// How often it is looked whether the kernel has written everything.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// An overlay of which the kernel may hold pages.
pub struct Unwritten {
    /// Which.
    pub id: OverlayId,
    /// Where it is.
    pub path: PathBuf,
    /// Its filesystem.
    pub device: Device,
}

/// The root of an overlay, opened through the overlay, by which the kernel can be told to write once the overlay is out of
/// the tree. While it is kept the overlay does not end.
pub struct Kept {
    id: OverlayId,
    device: Device,
    root: OwnedFd,
}

impl Kept {
    /// Of which overlay.
    pub fn id(&self) -> OverlayId {
        self.id
    }
}

/// Has the kernel begin to write, for overlays that are in the tree and are served on. Gives what is needed to have it
/// finish.
pub fn begin(overlays: Vec<Unwritten>) -> Vec<Kept> {
    let begin = move || {
        let begun = overlays.into_iter().map(begin_one);
        let logged = begun.inspect(|begun| {
            if let Err(error) = begun {
                tracing::warn!("{error:#}");
            }
        });
        logged.filter_map(Result::ok).collect()
    };
    patiently(begin).unwrap_or_default()
}

/// Has the kernel write what it holds, and waits until all is written.
pub fn finish(overlays: Vec<Kept>) {
    if overlays.is_empty() {
        return;
    }
    let finish = move || overlays.iter().try_for_each(|overlay| finish_one(overlay, FLUSH_TIME_MAX));
    if let Some(Err(error)) = patiently(finish) {
        tracing::warn!("nobody can tell whether stores into shared mappings are all written down: {error:#}");
    }
}

/// Has the kernel write what it holds, as far as that takes no long time: before the next agent takes over, which may fail to.
pub fn hasten(overlays: Vec<Unwritten>) {
    let begun = Instant::now();
    for kept in begin(overlays) {
        // What is left is the next agent's.
        let _ = finish_one(&kept, HANDOVER_TIME_MAX.saturating_sub(begun.elapsed()));
    }
}

/// Does `work` in a thread of its own, since the filesystem below may not answer; none if it takes too long, which is said.
fn patiently<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, worked) = sync_channel(1);
    let work = move || {
        // Nobody waits any more if it took too long.
        let _ = done.send(work());
    };
    let started = thread::Builder::new().name("flush".to_owned()).spawn(work);
    let result = started.ok().and_then(|_| worked.recv_timeout(FLUSH_TIME_MAX).ok());
    if result.is_none() {
        tracing::error!(
            "stores into shared mappings are not all written down within {FLUSH_TIME_MAX:?}: a filesystem below a \
             watched directory does not answer"
        );
    }
    result
}

fn begin_one(overlay: Unwritten) -> Result<Kept> {
    let Unwritten { id, path, device } = overlay;
    let begun = || {
        let root = walk::open(CWD, &path)?;
        let on = walk::mount_of(&root)?;
        if Table::read()?.get(on).is_none_or(|mounted| mounted.device != device) {
            bail!("something else is mounted there");
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(&root, ".", flags, Mode::empty())?;
        syncfs(&root)?;
        Ok(root)
    };
    let root = begun()
        .with_context(|| format!("stores into mappings of {} are not written down", path.display()))?;
    Ok(Kept { id, device, root })
}

/// Linux 6.18 does not wait in syncfs(2) for what it has a FUSE server write, but it has begun with all of it by then: it is
/// written once the connection has no request left.
fn finish_one(overlay: &Kept, time_max: Duration) -> Result<()> {
    syncfs(&overlay.root)?;
    let control = Control::open()?;
    let deadline = Instant::now() + time_max;
    while control.waiting(&overlay.device)? > 0 {
        if Instant::now() >= deadline {
            bail!("requests are still waiting");
        }
        thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}
