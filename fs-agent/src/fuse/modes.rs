//! How the kernel treats the opens of each inode, and whether it reads without asking.
//!
//! In *passthrough* the kernel reads and maps the file below itself, at the speed of that; writes still come here. The
//! kernel refuses (EIO) an open that does not fit the others of its inode, so an inode's mode is set by its first
//! open and lasts until its last close:
//!
//! | first open | mode | readers | writers |
//! |---|---|---|---|
//! | read-only or write-only | passthrough | by the kernel | each write comes here; pages that they map do not |
//! | read-write | captured | cached | each write comes here, and so do pages that they map |
//!
//! Only who opens read-write can map for writing. Such an open in passthrough is told apart, to be counted: what it
//! stores through a shared mapping is not captured. A log that is open write-only, which is how logs are written, is
//! read at native speed, and readers see each write at once: there is one cache, that of the file below.
//!
//! The kernel leaves its mode before it says that a file was closed, and enters it after it was told that one is open;
//! so for as long as it is in a mode, the table is.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use fuser::{FopenFlags, OpenAccMode};
use rustix::io::Errno;

/// The modes of all inodes that are open. `B` is what the kernel knows the file below by, of which all opens of an
/// inode share one.
pub struct Modes<B> {
    /// Whether passthrough is to be had.
    passthrough: AtomicBool,
    /// A failure was logged.
    failure_told: AtomicBool,
    /// Whether files that are open with FOPEN_DIRECT_IO can be mapped shared (Linux 6.6).
    direct_maps: bool,
    inodes: Mutex<HashMap<u64, InMode<B>>>,
}

struct InMode<B> {
    opens: u64,
    /// None in captured mode.
    backing: Option<Arc<B>>,
}

/// What to tell the kernel of an open.
pub struct Chosen<B> {
    /// FOPEN_PASSTHROUGH apart, which goes with `backing`.
    pub flags: FopenFlags,
    /// The file below, in passthrough.
    pub backing: Option<Arc<B>>,
    /// Stores through shared mappings of this open will not be captured.
    pub maps_uncaptured: bool,
}

impl<B> Modes<B> {
    /// Nothing is open yet; with what the kernel offers.
    pub fn new(passthrough: bool, direct_maps: bool) -> Self {
        Self {
            passthrough: AtomicBool::new(passthrough),
            failure_told: AtomicBool::new(false),
            direct_maps,
            inodes: Mutex::default(),
        }
    }

    /// Whether of no open file the kernel can hold pages that are not in the file below.
    pub fn is_all_passthrough(&self) -> bool {
        self.lock().values().all(|mode| mode.backing.is_some())
    }

    /// Counts opens of `node` of which the kernel was told by a predecessor, with what it knows the file below by in passthrough.
    pub fn take_up(&self, node: u64, opens: u64, backing: Option<B>) {
        self.lock().insert(node, InMode { opens, backing: backing.map(Arc::new) });
    }

    /// Counts an open of `node` and chooses how the kernel is to treat it. `back` makes the file below known to it; `keep` keeps
    /// that for a successor, or that there is none.
    pub fn open(
        &self,
        node: u64,
        access: OpenAccMode,
        back: impl FnOnce() -> io::Result<B>,
        keep: impl FnOnce(Option<&B>),
    ) -> Chosen<B> {
        let backing = match self.lock().entry(node) {
            Entry::Occupied(mut open) => {
                open.get_mut().opens += 1;
                open.get().backing.clone()
            }
            Entry::Vacant(first) => {
                let wanted = access != OpenAccMode::O_RDWR && self.passthrough.load(Ordering::Relaxed);
                // Under the lock, so that a second open waits for the one backing. An ioctl that waits for nobody.
                let backing = if wanted { self.checked(back()).map(Arc::new) } else { None };
                keep(backing.as_deref());
                first.insert(InMode { opens: 1, backing: backing.clone() });
                backing
            }
        };
        // A mapping is the kernel's own affair in passthrough.
        let maps = self.direct_maps || backing.is_some();
        let flags = match access {
            OpenAccMode::O_RDONLY => FopenFlags::empty(),
            OpenAccMode::O_RDWR if !maps => FopenFlags::empty(),
            OpenAccMode::O_RDWR | OpenAccMode::O_WRONLY => FopenFlags::FOPEN_DIRECT_IO,
        };
        let maps_uncaptured = backing.is_some() && access == OpenAccMode::O_RDWR;
        Chosen { flags, backing, maps_uncaptured }
    }

    /// Counts that an open of `node` is no more. `keep` keeps for a successor that none is left.
    pub fn release(&self, node: u64, keep: impl FnOnce()) {
        // The backing is closed after the lock.
        let _closed = match self.lock().entry(node) {
            Entry::Occupied(mut open) if open.get().opens > 1 => {
                open.get_mut().opens -= 1;
                None
            }
            Entry::Occupied(last) => {
                keep();
                Some(last.remove())
            }
            Entry::Vacant(_) => None,
        };
    }

    /// Says once if there is no backing, and gives up on it for good where there never will be one.
    fn checked(&self, backing: io::Result<B>) -> Option<B> {
        let error = match backing {
            Ok(backing) => return Some(backing),
            Err(error) => error,
        };
        // A file on a stacked filesystem; others may be elsewhere.
        let concerns_this_file = error.raw_os_error() == Some(Errno::LOOP.raw_os_error());
        if !concerns_this_file {
            self.passthrough.store(false, Ordering::Relaxed);
        }
        if !self.failure_told.swap(true, Ordering::Relaxed) {
            let which = if concerns_this_file { "some files" } else { "files" };
            tracing::info!(
                "{which} cannot be read at the speed of the directory below: {error}; cached reads instead"
            );
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, InMode<B>>> {
        self.inodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use OpenAccMode::{O_RDONLY, O_RDWR, O_WRONLY};

    fn modes() -> Modes<u32> {
        Modes::new(true, true)
    }

    #[test]
    fn all_opens_of_an_inode_share_one_backing_until_the_last_is_closed() {
        let modes = modes();
        let opened = |access, backing| modes.open(7, access, || Ok(backing), |_| {}).backing.map(|b| *b);
        assert_eq!(opened(O_RDONLY, 1), Some(1));
        assert_eq!(opened(O_WRONLY, 2), Some(1));
        assert_eq!(opened(O_RDWR, 3), Some(1));
        (0..2).for_each(|_| modes.release(7, || {}));
        assert_eq!(opened(O_RDONLY, 4), Some(1));
        (0..2).for_each(|_| modes.release(7, || {}));
        assert!(modes.lock().is_empty());
        assert_eq!(opened(O_RDONLY, 5), Some(5));
        modes.release(7, || {});
        modes.release(7, || {});
    }

    #[test]
    fn who_may_map_for_writing_first_has_the_inode_captured() {
        let modes = modes();
        let writer = modes.open(7, O_RDWR, || panic!("backed"), |_| {});
        assert!(writer.backing.is_none() && !writer.maps_uncaptured);
        for (access, flags) in [(O_RDONLY, FopenFlags::empty()), (O_WRONLY, FopenFlags::FOPEN_DIRECT_IO)] {
            let joined = modes.open(7, access, || panic!("backed"), |_| {});
            assert!(joined.backing.is_none() && joined.flags == flags);
        }
    }

    #[test]
    fn pages_are_looked_for_where_files_are_captured() {
        let modes = modes();
        modes.open(7, O_RDWR, || panic!("backed"), |_| {});
        modes.open(8, O_RDONLY, || Ok(1), |_| {});
        assert!(!modes.is_all_passthrough());
        modes.release(7, || {});
        assert!(modes.is_all_passthrough());
    }

    #[test]
    fn who_may_map_for_writing_later_is_told_apart() {
        let modes = modes();
        assert!(!modes.open(7, O_RDONLY, || Ok(1), |_| {}).maps_uncaptured);
        assert!(!modes.open(7, O_WRONLY, || Ok(1), |_| {}).maps_uncaptured);
        let joined = modes.open(7, O_RDWR, || Ok(1), |_| {});
        assert!(joined.maps_uncaptured && joined.flags == FopenFlags::FOPEN_DIRECT_IO);
    }

    #[test]
    fn what_cannot_be_backed_is_captured() {
        let modes = modes();
        let failing = |errno: Errno| move || Err(errno.into());
        // This file cannot be, another may.
        assert!(modes.open(7, O_RDONLY, failing(Errno::LOOP), |_| {}).backing.is_none());
        assert!(modes.open(7, O_WRONLY, || Ok(1), |_| {}).backing.is_none(), "a mode lasts");
        assert!(modes.open(8, O_RDONLY, || Ok(1), |_| {}).backing.is_some());
        // No file can be.
        assert!(modes.open(9, O_RDONLY, failing(Errno::PERM), |_| {}).backing.is_none());
        assert!(modes.open(10, O_RDONLY, || panic!("asked again"), |_| {}).backing.is_none());
    }
}
