//! What callers have open.

use std::{
    collections::{HashMap, VecDeque},
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::io::Errno;

use super::{
    Caller, Result, descriptors::Share, dirs::DirEntry, files::Durability, inode::Inode, paths::KnownPath,
};

/// Gives handles their numbers. The overlays whose records go into one ring share it: records name handles by number.
#[derive(Clone, Debug, Default)]
pub struct HandleNumbers(Arc<AtomicU64>);

impl HandleNumbers {
    /// One that was not given out before; never 0.
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Handles by their number.
pub struct Handles<T> {
    numbers: HandleNumbers,
    open: RwLock<HashMap<u64, Arc<T>>>,
}

impl<T> Handles<T> {
    /// None yet.
    pub fn new(numbers: HandleNumbers) -> Self {
        Self { numbers, open: RwLock::default() }
    }

    /// Keeps what `open` makes of a new number.
    pub fn insert(&self, open: impl FnOnce(u64) -> T) -> Arc<T> {
        let id = self.numbers.next();
        let handle = Arc::new(open(id));
        self.open.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&handle));
        handle
    }

    /// The handle with this number.
    ///
    /// # Errors
    /// `EBADF` if there is none.
    pub fn get(&self, id: u64) -> Result<Arc<T>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned().ok_or(Errno::BADF)
    }

    /// Lets go of the handle; what it holds is closed once nobody uses it.
    pub fn remove(&self, id: u64) {
        let removed = self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        drop(removed);
    }
}

/// One open of a file.
pub struct OpenFile {
    /// Its number: the kernel's handle, and the one in records.
    pub id: u64,
    /// The file that is open.
    pub inode: Arc<Inode>,
    /// The inode's own descriptor, which is not closed as long as it is here.
    pub held: Arc<OwnedFd>,
    /// The file below, opened as the caller wanted.
    pub fd: OwnedFd,
    /// Who has opened it: pages of mappings are written in this name.
    pub opener: Caller,
    /// Whether `fd` has O_APPEND.
    pub appends: bool,
    /// What each write and fallocate waits for, as open(2) was told. `fd` does not have it.
    pub durability: Durability,
    /// Held by what uses the position of `fd`.
    pub position: Mutex<()>,
    /// The file below again, without O_APPEND; for writes of an appending handle that say where.
    pub without_append: OnceLock<OwnedFd>,
    /// Where it was last found.
    pub path: Mutex<KnownPath>,
    /// Counts it for who has opened it.
    pub _share: Share,
    /// For whoever is served: what it has to remember about this open. 0 at first.
    pub note: AtomicU64,
}

/// One open of a directory.
pub struct OpenDir {
    /// The kernel's handle.
    pub id: u64,
    /// The directory that is open.
    pub inode: Arc<Inode>,
    /// The directory below.
    pub fd: OwnedFd,
    /// How far it has been read.
    pub stream: Mutex<DirStream>,
    /// Counts it for who has opened it.
    pub _share: Share,
}

/// How far a directory has been read.
#[derive(Default)]
pub struct DirStream {
    /// Where the next entry that is handed out begins.
    pub offset: u64,
    /// Entries that were read and not yet handed out.
    pub read_ahead: VecDeque<DirEntry>,
}
