//! Descriptors that outlive this process, of files that nothing else leads to.
//!
//! A successor finds files by their names, or by what their filesystem finds them by. A file that has lost its last name is
//! found by neither: it is gone once nobody holds it. So a descriptor of it is parked with somebody who outlives this process:
//! before the name goes, if the file is open. One that nobody has open the kernel mostly forgets at once; if it does not,
//! because it is somebody's working directory or held with O_PATH, it is parked a little later.
//!
//! A file that becomes immutable or append-only while it is open to be written to is found, and cannot be opened again as it was:
//! of those what is open is parked itself, until it is closed.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::fs::OFlags;

use super::{Overlay, handle::Below, inode::Inode, lock};

/// What a descriptor is parked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parked {
    /// A file, by what the kernel calls it; held with O_PATH.
    Node(u64),
    /// One open of a file, by the kernel's handle; opened as the caller wanted.
    Open(u64),
}

/// Who keeps descriptors for a successor.
pub trait Park: Send + Sync {
    /// Keeps `fd` from when this returns on.
    ///
    /// # Errors
    /// If it cannot. The file is served as ever, and a successor does not find it.
    fn park(&self, what: Parked, fd: BorrowedFd<'_>) -> io::Result<()>;

    /// The descriptor is not needed any more.
    fn take_back(&self, what: Parked);
}

/// What is parked.
#[derive(Default)]
pub struct Parking {
    by: OnceLock<Box<dyn Park>>,
    parked: Mutex<HashSet<Parked>>,
    /// Something open is or was parked.
    has_opens: AtomicBool,
    /// Those that lost their last name while nobody had them open.
    nameless: Mutex<Vec<Weak<Inode>>>,
    failure_told: AtomicBool,
}

impl Parking {
    /// What a predecessor has parked.
    pub fn of(parked: HashSet<Parked>) -> Self {
        let has_opens = parked.iter().any(|what| matches!(what, Parked::Open(_))).into();
        Self { parked: Mutex::new(parked), has_opens, ..Self::default() }
    }

    /// Says whether `what` is parked by this and was not before.
    fn park(&self, what: Parked, fd: &OwnedFd) -> bool {
        let Some(by) = self.by.get() else { return false };
        if !lock(&self.parked).insert(what) {
            return false;
        }
        if matches!(what, Parked::Open(_)) {
            self.has_opens.store(true, Ordering::Relaxed);
        }
        let Err(error) = by.park(what, fd.as_fd()) else { return true };
        lock(&self.parked).remove(&what);
        if !self.failure_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "files that are deleted or made immutable while they are open do not come back if fs-agent is started again: \
                 {error}"
            );
        }
        false
    }

    fn take_back(&self, what: Parked) {
        if lock(&self.parked).remove(&what)
            && let Some(by) = self.by.get()
        {
            by.take_back(what);
        }
    }
}

impl Overlay {
    /// Has descriptors parked by `by`. To be called once, before anything is served.
    pub fn park_by(&self, by: Box<dyn Park>) {
        // What a predecessor had no time to take back.
        let is_forgotten = |what: &Parked| match *what {
            Parked::Node(node) => self.inodes.get(node).is_err(),
            Parked::Open(handle) => self.files.get(handle).is_err(),
        };
        lock(&self.parking.parked).extract_if(is_forgotten).for_each(|what| by.take_back(what));
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
            self.parking.park(Parked::Node(inode.id), fd);
            return true;
        }
        if self.parking.by.get().is_some() {
            lock(&self.parking.nameless).push(Arc::downgrade(inode));
        }
        false
    }

    /// The name has not gone.
    pub(super) fn park_no_more(&self, inode: &Inode) {
        self.parking.take_back(Parked::Node(inode.id));
    }

    /// Parks a file without a name that is opened now.
    pub(super) fn park_if_nameless(&self, inode: &Arc<Inode>, held: &OwnedFd) {
        if self.parking.by.get().is_some() && inode.id != super::ROOT && !inode.links.any_live() {
            self.parking.park(Parked::Node(inode.id), held);
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
                self.parking.park(Parked::Node(inode.id), &fd);
            }
        }
    }

    /// The kernel does not know `inode` any more.
    pub(super) fn take_back_parked(&self, inode: Option<&Inode>) {
        if let Some(inode) = inode {
            self.parking.take_back(Parked::Node(inode.id));
        }
    }

    /// The file that is open as `handle` is about to become immutable or append-only: parks all opens of it that write. Gives those
    /// that were not parked before.
    pub(super) fn park_opens(&self, handle: u64) -> Vec<Parked> {
        let Ok(file) = self.files.get(handle) else { return Vec::new() };
        let writes = |flags: OFlags| flags.intersects(OFlags::WRONLY | OFlags::RDWR);
        let all = self.files.all();
        let opens = all.iter().filter(|open| Arc::ptr_eq(&open.inode, &file.inode) && writes(open.flags));
        let parked = opens.filter_map(|open| {
            let what = Parked::Open(open.id);
            self.parking.park(what, open.fd().ok()?).then_some(what)
        });
        parked.collect()
    }

    /// What was parked is not needed after all.
    pub(super) fn take_back_opens(&self, parked: &[Parked]) {
        parked.iter().for_each(|what| self.parking.take_back(*what));
    }

    /// What is open as `handle` is closed.
    pub(super) fn take_back_open(&self, handle: u64) {
        if self.parking.has_opens.load(Ordering::Relaxed) {
            self.parking.take_back(Parked::Open(handle));
        }
    }

    /// Gives inodes and open files the descriptors that were parked for them.
    pub(super) fn take_up_parked(&self, parked: HashMap<Parked, OwnedFd>) {
        for (what, fd) in parked {
            match what {
                Parked::Node(node) => {
                    if let Ok(inode) = self.inodes.get(node)
                        && inode.is_held_by(&fd) == Ok(true)
                    {
                        inode.keep(&Arc::new(fd));
                    }
                }
                Parked::Open(handle) => {
                    if let Ok(file) = self.files.get(handle)
                        && file.inode.is_held_by(&fd) == Ok(true)
                        && let Ok(held) = file.inode.fd()
                    {
                        let _ = file.below.set(Below { held, fd });
                    }
                }
            }
        }
    }
}
