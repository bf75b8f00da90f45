//! What callers have open.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{FileType, OFlags},
    io::Errno,
};

use super::{
    Caller, Result, descriptors::Share, dirs::ReadAhead, files::Durability, inode::Inode, lock,
    paths::KnownPath, stat_of,
};
use crate::{
    by_number::ByNumber,
    state::{
        Slot, State, journal,
        slots::{dir, handle},
    },
};

/// What open(2) does beside opening, and what is refused below: none of it when a file is opened again.
const ONCE: OFlags = OFlags::CREATE
    .union(OFlags::EXCL)
    .union(OFlags::TRUNC)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::DIRECT)
    .union(OFlags::NOCTTY);

/// Gives handles their numbers. The overlays whose records go into one ring share it: records name handles by number. None is
/// given twice, by a successor neither: each overlay's state says how far they are.
#[derive(Clone, Debug, Default)]
pub struct HandleNumbers(Arc<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    highest: AtomicU64,
    /// Of the overlays that are there.
    states: Mutex<Vec<Weak<State>>>,
}

impl HandleNumbers {
    /// An overlay is there, of which `state` says up to which all were given, by a predecessor at least.
    pub fn share(&self, state: &Arc<State>) {
        self.0.highest.fetch_max(state.highest_handle(), Ordering::AcqRel);
        let mut states = lock(&self.0.states);
        states.retain(|state| state.strong_count() > 0);
        states.push(Arc::downgrade(state));
        state.note_handle(self.0.highest.load(Ordering::Acquire));
    }

    /// The overlay of `state` ends: a successor does not see that any more, and is to go on from there all the same.
    pub fn leave(&self, state: &Arc<State>) {
        let highest = self.0.highest.load(Ordering::Acquire);
        let mut states = lock(&self.0.states);
        states.retain(|other| other.strong_count() > 0 && !std::ptr::eq(other.as_ptr(), Arc::as_ptr(state)));
        states.iter().filter_map(Weak::upgrade).for_each(|other| other.note_handle(highest));
    }

    /// One that was not given out before; never 0.
    fn next(&self) -> u64 {
        self.0.highest.fetch_add(1, Ordering::AcqRel) + 1
    }
}

/// What has a handle.
pub trait Handle {
    /// A successor does not find it any more.
    fn is_closed(&self);
}

/// Handles by their number.
pub struct Handles<T> {
    numbers: HandleNumbers,
    state: Arc<State>,
    /// Up to this all were given by a predecessor.
    taken_up: u64,
    open: RwLock<ByNumber<u64, Arc<T>>>,
}

impl<T: Handle> Handles<T> {
    /// None yet. Numbers up to `taken_up` were given by a predecessor.
    pub fn new(numbers: HandleNumbers, state: &Arc<State>, taken_up: u64) -> Self {
        Self { numbers, state: Arc::clone(state), taken_up, open: RwLock::default() }
    }

    /// Keeps what `open` makes of a new number, which is where a successor finds it by then.
    pub fn insert(&self, open: impl FnOnce(u64) -> T) -> Arc<T> {
        let id = self.numbers.next();
        self.state.note_handle(id);
        journal::opening(id);
        self.put(id, open(id))
    }

    /// Keeps `open` under the number that it has.
    pub fn put(&self, id: u64, open: T) -> Arc<T> {
        let handle = Arc::new(open);
        self.open.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&handle));
        handle
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The handle with this number.
    ///
    /// # Errors
    /// `EBADF` if there is none; `EIO` if it can be one that a predecessor had, and that has not come back.
    pub fn get(&self, id: u64) -> Result<Arc<T>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(&id).cloned().ok_or(if id <= self.taken_up { Errno::IO } else { Errno::BADF })
    }

    /// Lets go of the handle; what it holds is closed once nobody uses it. Gives what it was.
    pub fn remove(&self, id: u64) -> Option<Arc<T>> {
        let removed = self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&id)?;
        removed.is_closed();
        Some(removed)
    }
}

/// An inode that is open, until dropped.
pub struct Open(Arc<Inode>);

impl Open {
    /// It is opened once more.
    pub fn new(inode: &Arc<Inode>) -> Self {
        inode.opened();
        Self(Arc::clone(inode))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.closed();
    }
}

/// The file below.
pub struct Below {
    /// The inode's own descriptor, which is not closed as long as it is here.
    pub held: Arc<OwnedFd>,
    /// The file, opened as the caller wanted.
    pub fd: OwnedFd,
}

/// One open of a file.
pub struct OpenFile {
    /// Its number: the kernel's handle, and the one in records.
    pub id: u64,
    /// What a successor has to know of it. Given back before the inode, to which it refers.
    pub slot: Slot,
    /// The file that is open.
    pub inode: Arc<Inode>,
    /// The file below; not there until it is used if a predecessor has opened it.
    pub below: OnceLock<Below>,
    /// The flags of open(2) with which it was opened.
    pub flags: OFlags,
    /// It was said that it cannot be opened again.
    pub loss_told: AtomicBool,
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
    /// Counts it for who has opened it, and for the inode.
    pub _share: (Share, Open),
}

impl Handle for OpenFile {
    fn is_closed(&self) {
        self.slot.set(handle::ID, 0);
    }
}

impl OpenFile {
    /// For whoever is served: what it has to remember about this open. 0 at first.
    pub fn note(&self) -> &AtomicU64 {
        self.slot.word(handle::NOTE)
    }

    /// The file below, opened as the caller wanted.
    ///
    /// # Errors
    /// `EIO` if a predecessor had it open, and it cannot be opened again: said once in the log.
    pub fn fd(&self) -> Result<&OwnedFd> {
        Ok(&self.below(OFlags::empty())?.fd)
    }

    /// The inode's own descriptor.
    ///
    /// # Errors
    /// As [`Self::fd`] says.
    pub fn held(&self) -> Result<&Arc<OwnedFd>> {
        Ok(&self.below(OFlags::empty())?.held)
    }

    /// Opens it again with `more` flags, unless it is open.
    ///
    /// # Errors
    /// As [`Self::fd`] says; `EAGAIN` with O_NONBLOCK if somebody has a lease on the file.
    pub fn below(&self, more: OFlags) -> Result<&Below> {
        if let Some(below) = self.below.get() {
            return Ok(below);
        }
        match self.open_again(more) {
            Ok(below) => Ok(self.below.get_or_init(|| below)),
            // Of these none says that it will never be.
            Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::INTR | Errno::AGAIN)) => {
                Err(errno)
            }
            Err(errno) => {
                if !self.loss_told.swap(true, Ordering::Relaxed) {
                    let path = String::from_utf8_lossy(&lock(&self.path).bytes).into_owned();
                    tracing::error!(
                        "{path} was open under fs-agent before it was started again, and cannot be opened any more ({errno}): \
                         who has it open gets EIO"
                    );
                }
                Err(Errno::IO)
            }
        }
    }

    fn open_again(&self, more: OFlags) -> Result<Below> {
        let held = self.inode.fd()?;
        // Of others opens do not come here: what has this inode number now is not what was open.
        if FileType::from_raw_mode(stat_of(&held)?.stx_mode.into()) != FileType::RegularFile {
            return Err(Errno::STALE);
        }
        let fd = self.inode.reopen(&held, Durability::left_to_writes(self.flags - ONCE) | more)?;
        Ok(Below { held, fd })
    }
}

/// One open of a directory.
pub struct OpenDir {
    /// The kernel's handle.
    pub id: u64,
    /// What a successor has to know of it. Given back before the inode, to which it refers.
    pub slot: Slot,
    /// The directory that is open.
    pub inode: Arc<Inode>,
    /// The directory below; not there until it is used if a predecessor has opened it.
    pub below: OnceLock<OwnedFd>,
    /// How far it has been read.
    pub stream: Mutex<DirStream>,
    /// Counts it for who has opened it, and for the inode.
    pub _share: (Share, Open),
}

impl Handle for OpenDir {
    fn is_closed(&self) {
        self.slot.set(dir::ID, 0);
    }
}

impl OpenDir {
    /// The directory below, opened for reading.
    ///
    /// # Errors
    /// `EIO` if a predecessor had it open, and it is not found any more.
    pub fn fd(&self) -> Result<&OwnedFd> {
        if let Some(fd) = self.below.get() {
            return Ok(fd);
        }
        match self.inode.fd().and_then(|held| self.inode.open_to_list(&held)) {
            Ok(fd) => Ok(self.below.get_or_init(|| fd)),
            Err(Errno::STALE | Errno::NOENT) => Err(Errno::IO),
            Err(errno) => Err(errno),
        }
    }
}

/// How far a directory has been read.
#[derive(Default)]
pub struct DirStream {
    /// Where the next entry that is handed out begins.
    pub offset: u64,
    /// Entries that were read and not yet handed out.
    pub read_ahead: ReadAhead,
}
