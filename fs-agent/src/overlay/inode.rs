//! The inodes that the kernel knows of, and the names under which it knows them.
//!
//! Each is reached by an O_PATH descriptor of the file below. The kernel may cache more inodes than a process may have
//! descriptors, so those that were not used for long are closed and found again by name. A file that has lost its last
//! name keeps its descriptor; so nobody else gets its inode number while the kernel knows it, a file's own number can
//! be its node id, and users see the numbers of the directory below.
//!
//! Only the kernel knows when an inode is not needed any more. With too many, someone who can ask it to forget some is
//! told so, and given the oldest.

mod held;
mod lineage;

use std::{
    collections::{HashMap, VecDeque},
    ffi::OsStr,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use rustix::{
    fs::{FileType, Statx, StatxFlags, makedev},
    io::Errno,
};

use held::Held;

use super::{
    Result,
    believed_size::BelievedSize,
    links::{Link, Links, Names},
    lock,
};

/// The node id of the overlay's root; FUSE_ROOT_ID of linux/fuse.h.
pub const ROOT: u64 = 1;

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
type Key = (u64, u64);

fn key_of(stat: &Statx) -> Key {
    (makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino)
}

fn birth_of(stat: &Statx) -> Option<u64> {
    let is_known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    let (seconds, ns) = (stat.stx_btime.tv_sec.cast_unsigned(), stat.stx_btime.tv_nsec);
    is_known.then(|| seconds.wrapping_mul(1_000_000_000).wrapping_add(ns.into()))
}

/// How many names a file has, by the attributes that came with one of them.
pub fn names_of(stat: &Statx) -> Names {
    let is_dir = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
    if is_dir || stat.stx_nlink <= 1 { Names::One } else { Names::Several }
}

/// A file below that the kernel knows.
#[derive(Debug)]
pub struct Inode {
    /// What the kernel calls it.
    pub id: u64,
    key: Key,
    /// When it came into being, in nanoseconds since the epoch. On a filesystem that does not say, a number that no other
    /// inode of this overlay has had: a file that the kernel has forgotten is then taken for another.
    pub birth: u64,
    is_dir: bool,
    /// The file below, opened with O_PATH, unless it was closed to save descriptors, or nobody has used it yet.
    fd: Mutex<Option<Arc<OwnedFd>>>,
    /// Since it was last looked at, to be closed or forgotten.
    used: AtomicBool,
    held: Arc<Held>,
    /// What the kernel may believe to be its size.
    pub size: BelievedSize,
    /// Its names.
    pub links: Links,
}

impl Inode {
    fn new(id: u64, fd: Option<OwnedFd>, stat: &Statx, held: &Arc<Held>) -> Self {
        Self {
            id,
            key: key_of(stat),
            birth: birth_of(stat).unwrap_or_else(|| held.next_unborn.fetch_add(1, Ordering::Relaxed)),
            is_dir: FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory,
            fd: Mutex::new(fd.map(Arc::new)),
            used: AtomicBool::new(true),
            held: Arc::clone(held),
            size: BelievedSize::new(stat.stx_size),
            links: Links::default(),
        }
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

struct Known {
    inode: Arc<Inode>,
    /// How often the kernel was told of it, less what it has forgotten.
    lookups: u64,
}

#[derive(Default)]
struct Tables {
    known: HashMap<u64, Known>,
    /// The one that came or was spared first is the next to be looked at when some are to be forgotten.
    arrivals: VecDeque<Weak<Inode>>,
    /// Node ids of files whose own number could not serve.
    synthetic: HashMap<Key, u64>,
    next_synthetic: u64,
}

impl Tables {
    fn find(&self, root_dev: u64, key: Key) -> Option<u64> {
        let (dev, ino) = key;
        let own_number_serves = dev == root_dev && ino != ROOT && ino < SYNTHETIC;
        if own_number_serves { Some(ino) } else { self.synthetic.get(&key).copied() }
    }

    fn find_or_assign(&mut self, root_dev: u64, key: Key) -> u64 {
        self.find(root_dev, key).unwrap_or_else(|| {
            let id = SYNTHETIC + self.next_synthetic;
            self.next_synthetic += 1;
            self.synthetic.insert(key, id);
            id
        })
    }

    fn add(&mut self, inode: &Arc<Inode>) {
        self.known.insert(inode.id, Known { inode: Arc::clone(inode), lookups: 1 });
        if self.arrivals.len() > 2 * self.known.len() + FORGOTTEN_ARRIVALS {
            self.arrivals.retain(|inode| inode.strong_count() > 0);
        }
        self.arrivals.push_back(Arc::downgrade(inode));
    }
}

/// All inodes that the kernel knows of. The lock is never held across a system call.
pub struct Inodes {
    root: Arc<Inode>,
    root_dev: u64,
    held: Arc<Held>,
    tables: Mutex<Tables>,
    /// How many the kernel may know before it is to be asked to forget some.
    max: usize,
    /// Who asks it.
    crowded: OnceLock<SyncSender<()>>,
    /// Counts renames of directories: paths put together before one may be wrong after it.
    directory_moves: AtomicU64,
}

impl Inodes {
    /// Begins with the root alone.
    pub fn new(root: OwnedFd, stat: &Statx, limits: Limits) -> Self {
        let held = Arc::new(Held::new(limits.descriptors));
        Self {
            // Not noted as held, so never closed: it has no name to be found by.
            root: Arc::new(Inode::new(ROOT, Some(root), stat, &held)),
            root_dev: key_of(stat).0,
            held,
            tables: Mutex::default(),
            max: limits.inodes,
            crowded: OnceLock::new(),
            directory_moves: AtomicU64::new(0),
        }
    }

    /// The inode that the kernel calls `id`.
    ///
    /// # Errors
    /// `ESTALE` if the kernel was never told of it.
    pub fn get(&self, id: u64) -> Result<Arc<Inode>> {
        if id == ROOT {
            return Ok(Arc::clone(&self.root));
        }
        lock(&self.tables).known.get(&id).map(|known| Arc::clone(&known.inode)).ok_or(Errno::STALE)
    }

    /// The inode of a file below, if the kernel knows it.
    pub fn find(&self, stat: &Statx) -> Option<Arc<Inode>> {
        let tables = lock(&self.tables);
        let id = tables.find(self.root_dev, key_of(stat))?;
        tables.known.get(&id).map(|known| Arc::clone(&known.inode))
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
        let key = key_of(stat);
        let is_open = fd.is_some();
        let (inode, spare) = {
            let mut tables = lock(&self.tables);
            let id = tables.find_or_assign(self.root_dev, key);
            match tables.known.get_mut(&id) {
                Some(known) => {
                    known.lookups += 1;
                    known.inode.size.told(stat.stx_size);
                    (Arc::clone(&known.inode), fd)
                }
                None => {
                    let inode = Arc::new(Inode::new(id, fd, stat, &self.held));
                    tables.add(&inode);
                    if tables.known.len() > self.max
                        && let Some(crowded) = self.crowded.get()
                    {
                        // Waits for nobody. Told already, or nobody listens any more.
                        let _ = crowded.try_send(());
                    }
                    (inode, None)
                }
            }
        };
        let link = inode.add_link(parent, name, names_of(stat));
        match spare {
            Some(fd) => inode.keep(&Arc::new(fd)),
            None if is_open => self.held.note(&inode),
            None => {}
        }
        (inode, link)
    }

    /// A node id that no file has: the kernel may be told of it, and finds nothing behind it.
    pub fn nobody(&self) -> u64 {
        let mut tables = lock(&self.tables);
        tables.next_synthetic += 1;
        SYNTHETIC + tables.next_synthetic - 1
    }

    /// The kernel forgets `count` times that it was told of `id`.
    pub fn forget(&self, id: u64, count: u64) {
        // Dropped, and its descriptor closed, after the lock.
        let _forgotten = {
            let mut tables = lock(&self.tables);
            let Some(known) = tables.known.get_mut(&id) else { return };
            known.lookups = known.lookups.saturating_sub(count);
            if known.lookups > 0 {
                return;
            }
            let forgotten = tables.known.remove(&id);
            if let Some(known) = forgotten.as_ref().filter(|_| id >= SYNTHETIC) {
                tables.synthetic.remove(&known.inode.key);
            }
            forgotten
        };
    }

    /// Opens something, for which idle descriptors are closed if there are too few; see [`Held::with_descriptor`].
    ///
    /// # Errors
    /// As `open` says, with `ENFILE` for `EMFILE`.
    pub fn with_descriptor<T>(&self, open: impl Fn() -> Result<T>) -> Result<T> {
        self.held.with_descriptor(open)
    }

    /// Says so when there are too many, until this is dropped. To be called once.
    pub fn crowds(&self) -> Receiver<()> {
        let (sender, receiver) = sync_channel(1);
        let _ = self.crowded.set(sender);
        receiver
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
        tables.known.values().filter(|known| lock(&known.inode.fd).is_some()).count()
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
