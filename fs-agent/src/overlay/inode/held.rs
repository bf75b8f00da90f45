//! The descriptors of inodes.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::io::Errno;

use super::{
    super::{Result, descriptors::Shortage, lock},
    Inode,
};

/// How many descriptors are looked at to find one to close. More are open for a while if all are in use.
const CLOSE_ATTEMPTS_MAX: usize = 64;

/// How many are looked at when this process has none left.
const CLOSE_ATTEMPTS_URGENT_MAX: usize = 1024;

/// Those inodes that have a descriptor, but for the root.
#[derive(Debug, Default)]
pub struct Held {
    /// How many there may be.
    max: usize,
    /// The one that was noted or spared first is the next to be looked at.
    inodes: Mutex<VecDeque<Weak<Inode>>>,
    /// What the next inode has in place of a time of birth that is not known.
    pub next_unborn: AtomicU64,
    shortage: Shortage,
}

impl Held {
    /// None yet, and at most about `max`.
    pub fn new(max: usize) -> Self {
        Self { max, ..Self::default() }
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
