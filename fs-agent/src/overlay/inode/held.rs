//! The descriptors of inodes.

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
    path::DecInt,
};

use super::{
    super::{Result, descriptors::Shortage, lock},
    Inode,
};
use crate::{
    state::State,
    sys::{self, FileHandle},
};

/// How many descriptors are looked at to find one to close. More are open for a while if all are in use.
const CLOSE_ATTEMPTS_MAX: usize = 64;

/// How many are looked at when this process has none left.
const CLOSE_ATTEMPTS_URGENT_MAX: usize = 1024;

/// Those inodes that have a descriptor, but for the root.
#[derive(Debug)]
pub struct Held {
    /// How many there may be.
    max: usize,
    /// The one that was noted or spared first is the next to be looked at.
    inodes: Mutex<VecDeque<Weak<Inode>>>,
    shortage: Shortage,
    /// What outlives this process.
    pub state: Arc<State>,
    root_dev: u64,
    root: Arc<OwnedFd>,
    /// The root opened for reading: the filesystem in which file handles are looked for.
    filesystem: OnceLock<OwnedFd>,
    /// The root's filesystem has no file handles.
    has_no_handles: AtomicBool,
    /// `/proc/self/fd`: through it a file that is held with O_PATH can be opened again.
    own_fds: Arc<OwnedFd>,
}

impl Held {
    /// None yet, and at most about `max`. `root` is on the device `root_dev`; `own_fds` is `/proc/self/fd`.
    pub fn new(
        max: usize,
        state: &Arc<State>,
        (root_dev, root): (u64, &Arc<OwnedFd>),
        own_fds: &Arc<OwnedFd>,
    ) -> Self {
        Self {
            max,
            inodes: Mutex::default(),
            shortage: Shortage::default(),
            state: Arc::clone(state),
            root_dev,
            root: Arc::clone(root),
            filesystem: OnceLock::new(),
            has_no_handles: AtomicBool::new(false),
            own_fds: Arc::clone(own_fds),
        }
    }

    /// Opens a file that is held with O_PATH.
    pub fn reopen(&self, fd: &OwnedFd, flags: OFlags) -> Result<OwnedFd> {
        let (name, flags) = (DecInt::from_fd(fd), flags | OFlags::CLOEXEC);
        self.with_descriptor(|| openat(&self.own_fds, name.as_c_str(), flags, Mode::empty()))
    }

    /// By what the filesystem finds the file again that `fd` holds, which is on device `dev`; none if that is not the root's.
    pub fn handle_of(&self, dev: u64, fd: &OwnedFd) -> Option<FileHandle> {
        if dev != self.root_dev || self.has_no_handles.load(Ordering::Relaxed) {
            return None;
        }
        let found = sys::file_handle(fd);
        if matches!(found, Err(Errno::OPNOTSUPP | Errno::OVERFLOW | Errno::NOSYS | Errno::PERM)) {
            self.has_no_handles.store(true, Ordering::Relaxed);
        }
        found.ok()
    }

    /// Opens the file that its filesystem finds by `handle`, with O_PATH.
    ///
    /// # Errors
    /// As open_by_handle_at(2) says; `ESTALE` if there is no such file any more.
    pub fn open_by_handle(&self, handle: &FileHandle) -> Result<OwnedFd> {
        let filesystem = match self.filesystem.get() {
            Some(filesystem) => filesystem,
            None => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let opened = self.with_descriptor(|| openat(&self.root, ".", flags, Mode::empty()))?;
                self.filesystem.get_or_init(|| opened)
            }
        };
        self.with_descriptor(|| sys::open_by_handle(filesystem, handle))
    }

    /// Takes note that `inode` has a descriptor, and closes others that were not used since they were last looked at.
    pub fn note(&self, inode: &Arc<Inode>) {
        lock(&self.inodes).push_back(Arc::downgrade(inode));
        self.close_idle(self.max, CLOSE_ATTEMPTS_MAX);
    }

    /// Opens something. If this process has no descriptor left, closes some that nobody uses, and tries again.
    ///
    /// # Errors
    /// As `open` says, with `ENFILE` for `EMFILE`: it is not the caller that has too many. The log says so.
    pub fn with_descriptor<T>(&self, open: impl Fn() -> Result<T>) -> Result<T> {
        let opened = match open() {
            Err(Errno::MFILE) => {
                self.close_idle(0, CLOSE_ATTEMPTS_URGENT_MAX);
                open()
            }
            other => return other,
        };
        if opened.as_ref().err() != Some(&Errno::MFILE) {
            return opened;
        }
        if self.shortage.is_to_be_said() {
            tracing::error!(
                "fs-agent has no descriptor left: opens and look-ups under an overlay fail (ENFILE). Raise its \
                 limit of open files: LimitNOFILE= of its unit, or `ulimit -Hn` where it is started"
            );
        }
        Err(Errno::NFILE)
    }

    /// Closes descriptors until there are no more than `max`, or so many were looked at. One that was used since it was last
    /// looked at is closed the next time.
    fn close_idle(&self, max: usize, attempts: usize) {
        // Closed, and let go of, after the lock.
        let mut closed = Vec::new();
        let mut spared = Vec::new();
        let mut inodes = lock(&self.inodes);
        for _ in 0..attempts {
            if inodes.len() <= max {
                break;
            }
            let Some(oldest) = inodes.pop_front() else { break };
            // Forgotten by now: its descriptor is gone.
            let Some(candidate) = oldest.upgrade() else { continue };
            let fd = if candidate.used.swap(false, Ordering::Relaxed) { None } else { candidate.close() };
            match fd {
                Some(fd) => closed.push((fd, candidate)),
                None => {
                    inodes.push_back(oldest);
                    spared.push(candidate);
                }
            }
        }
        drop(inodes);
    }
}
