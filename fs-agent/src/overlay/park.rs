//! Descriptors that outlive this process, of files that nothing else leads to.
//!
//! A successor finds files by their names, or by what their filesystem finds them by. A file that has lost its last name is
//! found by neither: it is gone once nobody holds it. So a descriptor of it is parked with somebody who outlives this process:
//! before the name goes, if the file is open. One that nobody has open the kernel mostly forgets at once; if it does not,
//! because it is somebody's working directory or held with O_PATH, it is parked a little later.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{Overlay, inode::Inode, lock};

/// Who keeps descriptors for a successor.
pub trait Park: Send + Sync {
    /// Keeps `fd`, an O_PATH descriptor of what the kernel calls `node`, from when this returns on.
    ///
    /// # Errors
    /// If it cannot. The file is served as ever, and a successor does not find it.
    fn park(&self, node: u64, fd: BorrowedFd<'_>) -> io::Result<()>;

    /// The descriptor is not needed any more.
    fn take_back(&self, node: u64);
}

/// What is parked.
#[derive(Default)]
pub struct Parking {
    by: OnceLock<Box<dyn Park>>,
    nodes: Mutex<HashSet<u64>>,
    /// Those that lost their last name while nobody had them open.
    nameless: Mutex<Vec<Weak<Inode>>>,
    failure_told: AtomicBool,
}

impl Parking {
    /// What a predecessor has parked.
    pub fn of(nodes: HashSet<u64>) -> Self {
        Self { nodes: Mutex::new(nodes), ..Self::default() }
    }

    fn park(&self, inode: &Inode, fd: &OwnedFd) {
        let Some(by) = self.by.get() else { return };
        if !lock(&self.nodes).insert(inode.id) {
            return;
        }
        if let Err(error) = by.park(inode.id, fd.as_fd()) {
            lock(&self.nodes).remove(&inode.id);
            if !self.failure_told.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "files that are deleted while they are open do not come back if fs-agent is started again: {error}"
                );
            }
        }
    }

    fn take_back(&self, inode: &Inode) {
        if lock(&self.nodes).remove(&inode.id)
            && let Some(by) = self.by.get()
        {
            by.take_back(inode.id);
        }
    }
}

impl Overlay {
    /// Has descriptors parked by `by`. To be called once, before anything is served.
    pub fn park_by(&self, by: Box<dyn Park>) {
        // What a predecessor had no time to take back.
        let is_forgotten = |node: &u64| self.inodes.get(*node).is_err();
        lock(&self.parking.nodes).extract_if(is_forgotten).for_each(|node| by.take_back(node));
        let _ = self.parking.by.set(by);
    }

    /// `inode`, which `fd` holds, is about to lose one of its `names`. Says whether it is parked for that.
    pub(super) fn park_before(&self, inode: &Arc<Inode>, fd: &OwnedFd, names: u32) -> bool {
        let is_last = inode.is_dir() || names <= 1;
        if !is_last {
            inode.keep_handle(fd);
            if inode.has_handle() || inode.links.live().len() > 1 {
                return false;
            }
        }
        if inode.is_open() {
            self.parking.park(inode, fd);
            return true;
        }
        if self.parking.by.get().is_some() {
            lock(&self.parking.nameless).push(Arc::downgrade(inode));
        }
        false
    }

    /// The name has not gone.
    pub(super) fn park_no_more(&self, inode: &Inode) {
        self.parking.take_back(inode);
    }

    /// Parks a file without a name that is opened now.
    pub(super) fn park_if_nameless(&self, inode: &Arc<Inode>, held: &OwnedFd) {
        if self.parking.by.get().is_some() && inode.id != super::ROOT && !inode.links.any_live() {
            self.parking.park(inode, held);
        }
    }

    /// Parks what lost its last name since this was called last while nobody had it open, and is still known to the kernel. To
    /// be called now and then.
    pub fn park_nameless(&self) {
        let nameless = std::mem::take(&mut *lock(&self.parking.nameless));
        for inode in nameless.iter().filter_map(Weak::upgrade) {
            if !inode.links.any_live()
                && self.inodes.get(inode.id).is_ok()
                && let Ok(fd) = inode.fd()
            {
                self.parking.park(&inode, &fd);
            }
        }
    }

    /// The kernel does not know `inode` any more.
    pub(super) fn take_back_parked(&self, inode: Option<&Inode>) {
        if let Some(inode) = inode {
            self.parking.take_back(inode);
        }
    }
}
