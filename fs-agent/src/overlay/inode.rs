//! The inodes that the kernel knows of, and the names under which it knows them.
//!
//! Each is reached by an O_PATH descriptor of the file below. The kernel may cache more inodes than a process may have
//! descriptors, so those that were not used for long are closed and found again by name. A file that has lost its last
//! name keeps its descriptor; so nobody else gets its inode number while the kernel knows it, a file's own number can
//! be its node id, and users see the numbers of the directory below.
//!
//! Only the kernel knows when an inode is not needed any more. With too many, someone who can ask it to forget some is
//! told so, and given the oldest.

mod ancestors;
mod held;
mod restored;
mod tables;

use std::{
    ffi::OsStr,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use rustix::{
    fs::{FileType, Mode, OFlags, Statx, StatxFlags, makedev, openat},
    io::Errno,
};

use held::Held;
pub use restored::BySlot;
use tables::Tables;

use super::{
    Result,
    believed_size::BelievedSize,
    links::{Link, Links, Names},
    lock,
};
pub use crate::state::slots::ROOT;
use crate::state::{
    Slot, State, journal,
    slots::{Birth, KernelMode, NodeFacts, node},
};

/// Node ids of files whose own number cannot serve begin here: files of filesystems that are mounted somewhere
/// below the directory, and the rare number that is `ROOT`.
const SYNTHETIC: u64 = 1 << 63;

/// How many inodes are looked at for each old one that is wanted.
const LOOKS_EACH: usize = 4;

/// How many forgotten inodes may be among the arrivals before all of them are taken out, beside as many as are known.
const FORGOTTEN_ARRIVALS: usize = 1024;

/// How much of what the kernel caches an overlay keeps.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// About how many descriptors it holds, besides those of open files.
    pub descriptors: usize,
    /// Of how many inodes on the kernel is to be asked to forget some.
    pub inodes: usize,
}

/// What tells files below apart: device and inode number.
pub type Key = (u64, u64);

/// See [`Key`].
pub fn key_of(stat: &Statx) -> Key {
    (makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino)
}

/// A file's number below, if it serves as its node id: on the device of the root alone.
fn own_number(root_dev: u64, (dev, ino): Key) -> Option<u64> {
    (dev == root_dev && ino != ROOT && ino < SYNTHETIC).then_some(ino)
}

/// When a file came into being, if its filesystem says it, in nanoseconds since the epoch.
pub fn birth_of(stat: &Statx) -> Option<u64> {
    let is_known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    let (seconds, ns) = (stat.stx_btime.tv_sec.cast_unsigned(), stat.stx_btime.tv_nsec);
    is_known.then(|| seconds.wrapping_mul(1_000_000_000).wrapping_add(ns.into()) & !(1 << 63))
}

/// How many names a file has, by the attributes that came with one of them.
pub fn names_of(stat: &Statx) -> Names {
    let is_dir = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
    if is_dir || stat.stx_nlink <= 1 { Names::One } else { Names::Several }
}

/// A file below that the kernel knows.
///
/// In this order, what a look-up needs is in as few lines of the cache as can be: whoever walks over many files waits for
/// these.
#[derive(Debug)]
#[repr(C)]
pub struct Inode {
    /// The file below, opened with O_PATH, unless it was closed to save descriptors, or nobody has used it yet.
    fd: Mutex<Option<Arc<OwnedFd>>>,
    key: Key,
    /// What the kernel calls it.
    pub id: u64,
    /// When it came into being, in nanoseconds since the epoch. On a filesystem that does not say, a number that no other
    /// inode of this overlay has had: a file that the kernel has forgotten is then taken for another.
    pub birth: u64,
    /// Whether that is a time.
    is_birth_known: bool,
    is_dir: bool,
    /// Since it was last looked at, to be closed or forgotten.
    used: AtomicBool,
    /// Its names.
    pub links: Links,
    /// What a successor has to know of it. Given back after the names, which refer to it.
    slot: Slot,
    /// How many times it is open.
    opens: AtomicUsize,
    held: Arc<Held>,
}

impl Inode {
    /// The one that `slot` speaks of.
    fn of(slot: Slot, facts: &NodeFacts, fd: Option<Arc<OwnedFd>>, held: &Arc<Held>) -> Self {
        Self {
            id: facts.id,
            key: (facts.dev, facts.ino),
            birth: facts.birth.number(),
            is_birth_known: matches!(facts.birth, Birth::At(_)),
            is_dir: facts.is_dir,
            opens: AtomicUsize::new(0),
            fd: Mutex::new(fd),
            used: AtomicBool::new(true),
            held: Arc::clone(held),
            links: Links::new(&held.state, slot.index()),
            slot,
        }
    }

    /// What the kernel may believe to be its size.
    pub fn size(&self) -> BelievedSize<'_> {
        BelievedSize::of(self.slot.word(node::SIZE_LEAST), self.slot.word(node::SIZE_MOST))
    }

    /// The slot in which a successor finds it.
    pub fn slot(&self) -> Option<u32> {
        self.slot.index()
    }

    /// What tells it from other files below.
    pub fn file_key(&self) -> journal::FileKey {
        journal::FileKey { dev: self.key.0, ino: self.key.1 }
    }

    /// Whether `stat`, asked for with [`super::ADMITTED`], is its own.
    fn is(&self, stat: &Statx) -> bool {
        let is_born_with_it = birth_of(stat).is_none_or(|birth| !self.is_birth_known || birth == self.birth);
        key_of(stat) == self.key && is_born_with_it
    }

    /// Whether the file that `stat` was found for can be this one. It surely is where a descriptor holds the number; else a file
    /// that is found neither by a name nor by its birth may be gone, and its number another's.
    fn may_be(&self, stat: &Statx) -> bool {
        lock(&self.fd).is_some() || self.is(stat) && (self.is_birth_known || self.links.any_live())
    }

    /// How often the kernel was told of it, less what it has forgotten.
    #[cfg(test)]
    pub fn lookups(&self) -> u64 {
        self.slot.get(node::LOOKUPS)
    }

    /// How the kernel treats its opens.
    pub fn kernel_mode(&self) -> KernelMode {
        KernelMode::of(&self.slot)
    }

    /// Keeps how the kernel is going to treat its opens: before it is told.
    pub fn set_kernel_mode(&self, mode: KernelMode) {
        mode.fill(&self.slot);
    }

    /// It is opened once more.
    pub fn opened(&self) {
        self.opens.fetch_add(1, Ordering::AcqRel);
    }

    /// It is closed once.
    pub fn closed(&self) {
        self.opens.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.opens.load(Ordering::Acquire) > 0
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.is_dir
    }

    /// Keeps by what its filesystem finds it again, for when its names do not lead to it any more.
    pub fn keep_handle(&self, fd: &OwnedFd) {
        if self.slot.index().is_some()
            && self.slot.get(node::HANDLE) == 0
            && let Some(handle) = self.held.handle_of(self.key.0, fd)
        {
            handle.fill(&self.slot);
        }
    }

    /// Opens the file again that `held`, its own descriptor, holds.
    ///
    /// # Errors
    /// As open(2) says.
    pub fn reopen(&self, held: &OwnedFd, flags: OFlags) -> Result<OwnedFd> {
        self.held.reopen(held, flags)
    }

    /// Opens the directory that `held`, its own descriptor, holds to list it.
    ///
    /// # Errors
    /// As open(2) says.
    pub fn open_to_list(&self, held: &OwnedFd) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.held.with_descriptor(|| openat(held, ".", flags, Mode::empty()))
    }

    /// Whether its filesystem finds it again by what is kept.
    pub fn has_handle(&self) -> bool {
        self.slot.get(node::HANDLE) != 0
    }

    /// Its inode number below.
    pub fn number(&self) -> u64 {
        self.key.1
    }

    /// The file below, opened with O_PATH.
    ///
    /// # Errors
    /// `ESTALE` if it had to be found again by its names and none leads to it any more.
    pub fn fd(self: &Arc<Self>) -> Result<Arc<OwnedFd>> {
        self.used.store(true, Ordering::Relaxed);
        if let Some(fd) = &*lock(&self.fd) {
            return Ok(Arc::clone(fd));
        }
        let fd = Arc::new(self.find_again()?);
        self.keep(&fd);
        Ok(fd)
    }

    /// Keeps `fd`, a descriptor of this file, if it has none.
    pub fn keep(self: &Arc<Self>, fd: &Arc<OwnedFd>) {
        let was_closed = {
            let mut slot = lock(&self.fd);
            let was_closed = slot.is_none();
            slot.get_or_insert_with(|| Arc::clone(fd));
            was_closed
        };
        if was_closed {
            self.held.note(self);
        }
    }

    /// Gives its descriptor up, if nobody uses it and the file can be found again.
    fn close(&self) -> Option<Arc<OwnedFd>> {
        let mut fd = lock(&self.fd);
        let is_idle = fd.as_ref().is_some_and(|fd| Arc::strong_count(fd) == 1);
        // Under the descriptor's lock: who removes the last name gives the descriptor back only after that.
        if is_idle && self.links.any_live() { fd.take() } else { None }
    }

    /// Takes note that `name` in `parent` leads to it, which has `names` by now.
    fn add_link(&self, parent: &Arc<Self>, name: &OsStr, names: Names) -> Arc<Link> {
        if self.is_dir { self.links.set(parent, name) } else { self.links.add(parent, name, names) }
    }
}

/// All inodes that the kernel knows of. The lock is never held across a system call.
pub struct Inodes {
    root: Arc<Inode>,
    root_dev: u64,
    held: Arc<Held>,
    state: Arc<State>,
    tables: Mutex<Tables>,
    /// How many the kernel may know before it is to be asked to forget some.
    max: usize,
    /// Who asks it.
    under_pressure: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Counts renames of directories: paths put together before one may be wrong after it.
    directory_moves: AtomicU64,
}

impl Inodes {
    /// Begins with the root alone, whose slot is `slot`. `own_fds` is `/proc/self/fd`.
    pub fn new(
        root: OwnedFd,
        state: &Arc<State>,
        slot: Slot,
        limits: Limits,
        own_fds: &Arc<OwnedFd>,
    ) -> Self {
        let (root, facts) = (Arc::new(root), NodeFacts::of(&slot));
        let held = Arc::new(Held::new(limits.descriptors, state, (facts.dev, &root), own_fds));
        Self {
            // Not noted as held, so never closed: it has no name to be found by.
            root: Arc::new(Inode::of(slot, &facts, Some(root), &held)),
            root_dev: facts.dev,
            held,
            state: Arc::clone(state),
            tables: Mutex::default(),
            max: limits.inodes,
            under_pressure: OnceLock::new(),
            directory_moves: AtomicU64::new(0),
        }
    }

    /// How many the kernel knows, the root apart.
    pub fn count(&self) -> usize {
        lock(&self.tables).known.len()
    }

    /// The inode that the kernel calls `id`.
    ///
    /// # Errors
    /// `ESTALE` if the kernel was never told of it.
    pub fn get(&self, id: u64) -> Result<Arc<Inode>> {
        if id == ROOT {
            return Ok(Arc::clone(&self.root));
        }
        lock(&self.tables).known.get(&id).cloned().ok_or(Errno::STALE)
    }

    /// As [`Self::find`], by what tells files apart.
    pub fn find_key(&self, key: journal::FileKey) -> Option<Arc<Inode>> {
        let tables = lock(&self.tables);
        let id = tables.find(self.root_dev, (key.dev, key.ino))?;
        tables.known.get(&id).cloned()
    }

    /// The inode of a file below, if the kernel knows it.
    pub fn find(&self, stat: &Statx) -> Option<Arc<Inode>> {
        let tables = lock(&self.tables);
        let id = tables.find(self.root_dev, key_of(stat))?;
        tables.known.get(&id).cloned()
    }

    /// Counts that the kernel is told of a file and of its name. `fd` holds the file; without it, it is found by its name
    /// once somebody uses it.
    pub fn admit(
        &self,
        fd: Option<OwnedFd>,
        stat: &Statx,
        parent: &Arc<Inode>,
        name: &OsStr,
    ) -> (Arc<Inode>, Arc<Link>) {
        let is_open = fd.is_some();
        let (inode, spare) = {
            let mut tables = lock(&self.tables);
            match tables.find_or_assign(self.root_dev, stat, &self.state) {
                Ok(inode) => {
                    let (slot, before) = (&inode.slot, inode.slot.get(node::LOOKUPS));
                    journal::counting(&self.state.journal, slot.index(), before, || {
                        slot.set(node::LOOKUPS, before + 1);
                    });
                    inode.size().told(stat.stx_size);
                    (inode, fd)
                }
                Err(id) => {
                    let inode = Arc::new(self.new_inode(id, fd, stat));
                    tables.add(&inode);
                    if tables.known.len() > self.max
                        && let Some(under_pressure) = self.under_pressure.get()
                    {
                        under_pressure();
                    }
                    (inode, None)
                }
            }
        };
        // Nothing else tells it from a file that gets its number.
        if !inode.is_birth_known
            && let Some(fd) = lock(&inode.fd).clone()
        {
            inode.keep_handle(&fd);
        }
        let link = inode.add_link(parent, name, names_of(stat));
        match spare {
            Some(fd) => inode.keep(&Arc::new(fd)),
            None if is_open => self.held.note(&inode),
            None => {}
        }
        (inode, link)
    }

    /// The inode of a file that the kernel is told of for the first time.
    fn new_inode(&self, id: u64, fd: Option<OwnedFd>, stat: &Statx) -> Inode {
        let (dev, ino) = key_of(stat);
        let birth = birth_of(stat).map_or_else(|| Birth::Unknown(self.state.next_unborn()), Birth::At);
        let is_dir = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
        let facts = NodeFacts { id, dev, ino, birth, is_dir };
        let slot = self.state.nodes.take_for(journal::asker());
        journal::counting(&self.state.journal, slot.index(), 0, || facts.fill(&slot, stat.stx_size, 1));
        Inode::of(slot, &facts, fd.map(Arc::new), &self.held)
    }

    /// A node id that no file has: the kernel may be told of it, and finds nothing behind it.
    pub fn nobody(&self) -> u64 {
        SYNTHETIC + self.state.next_synthetic()
    }

    /// The kernel forgets `count` times that it was told of `id`. Gives the inode if it does not know it any more.
    pub fn forget(&self, id: u64, count: u64) -> Option<Arc<Inode>> {
        let mut tables = lock(&self.tables);
        let inode = tables.known.get(&id)?;
        let lookups = inode.slot.get(node::LOOKUPS).saturating_sub(count);
        inode.slot.set(node::LOOKUPS, lookups);
        if lookups > 0 { None } else { tables.remove(id) }
    }

    /// The kernel is not told of `id` after all, which was counted for it last. Gives the inode if it does not know it.
    pub fn untell(&self, id: u64) -> Option<Arc<Inode>> {
        let mut tables = lock(&self.tables);
        let slot = &tables.known.get(&id)?.slot;
        let before = slot.get(node::LOOKUPS);
        let now = before.saturating_sub(1);
        journal::taking_back(&self.state.journal, slot.index(), before, || slot.set(node::LOOKUPS, now));
        if now > 0 { None } else { tables.remove(id) }
    }

    /// Opens something, for which idle descriptors are closed if there are too few; see [`Held::with_descriptor`].
    ///
    /// # Errors
    /// As `open` says, with `ENFILE` for `EMFILE`.
    pub fn with_descriptor<T>(&self, open: impl Fn() -> Result<T>) -> Result<T> {
        self.held.with_descriptor(open)
    }

    /// Has `tell` called, under the lock, when there are too many. To be called once.
    pub fn on_pressure(&self, tell: Box<dyn Fn() + Send + Sync>) {
        let _ = self.under_pressure.set(tell);
    }

    /// Up to `count` inodes that came first, those apart that were used since they were last looked at.
    pub fn oldest(&self, count: usize) -> Vec<Arc<Inode>> {
        let mut oldest = Vec::with_capacity(count);
        // Let go of after the lock.
        let mut spared = Vec::new();
        let mut tables = lock(&self.tables);
        for _ in 0..(LOOKS_EACH * count).min(tables.arrivals.len()) {
            if oldest.len() == count {
                break;
            }
            let Some(first) = tables.arrivals.pop_front() else { break };
            let Some(inode) = first.upgrade() else { continue };
            tables.arrivals.push_back(first);
            if inode.used.swap(false, Ordering::Relaxed) { &mut spared } else { &mut oldest }.push(inode);
        }
        drop(tables);
        oldest
    }

    /// `inode` was renamed.
    pub fn moved(&self, inode: &Inode, from: (&Inode, &OsStr), to: (&Arc<Inode>, &OsStr)) {
        inode.links.rename(from, to);
        if inode.is_dir {
            self.directory_moves.fetch_add(1, Ordering::Release);
        }
    }

    /// Whether `inode` is on the same filesystem as the root, and not on one mounted somewhere below.
    pub fn is_on_roots_filesystem(&self, inode: &Inode) -> bool {
        inode.key.0 == self.root_dev
    }

    /// How many directories were renamed so far.
    pub fn directory_moves(&self) -> u64 {
        self.directory_moves.load(Ordering::Acquire)
    }

    /// How many descriptors are held, the root's apart.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        let tables = lock(&self.tables);
        tables.known.values().filter(|inode| lock(&inode.fd).is_some()).count()
    }

    /// How many inodes the kernel knows, the root apart.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        lock(&self.tables).known.len()
    }

    /// How many arrivals are remembered.
    #[cfg(test)]
    pub fn arrivals(&self) -> usize {
        lock(&self.tables).arrivals.len()
    }
}
