//! What of this process's descriptors each user may have: all that is open under overlays is open in this process. How they
//! are shared is in [`crate::shares`].

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::{Result, lock};
pub use crate::shares::Share;
use crate::shares::Shares;

/// How long nothing is said of a shortage that was said.
const SAID_FOR: Duration = Duration::from_secs(60);

/// The handles of all overlays of one agent, by user.
#[derive(Clone, Debug)]
pub struct Opens {
    shares: Shares,
    shortage: Arc<Shortage>,
}

impl Opens {
    /// There can be `max` of them, of files and directories, each with a descriptor, and another for the inode.
    pub fn new(max: usize) -> Self {
        Self { shares: Shares::new(max), shortage: Arc::default() }
    }

    /// How many there can be.
    pub fn max(&self) -> usize {
        self.shares.max()
    }

    /// One more for `uid`, which a predecessor had let have it.
    pub fn keep(&self, uid: u32) -> Share {
        self.shares.keep(uid)
    }

    /// One more for `uid`. To be taken before anything is opened or made.
    ///
    /// # Errors
    /// `ENFILE` if there is none for this user; the log says so.
    pub fn take(&self, uid: u32) -> Result<Share> {
        self.shares.take(uid).map_err(|none_left| {
            if self.shortage.is_to_be_said() {
                let (has, max) = (none_left.has, self.max());
                tracing::warn!(
                    "user {uid} has {has} files and directories open under overlays, and may open no more (ENFILE): \
                     fs-agent's limit of open files allows {max} for all users. To have more, raise it: LimitNOFILE= \
                     of its unit, or `ulimit -Hn` where it is started"
                );
            }
            Errno::NFILE
        })
    }
}

/// Keeps the log from being filled with one complaint.
#[derive(Debug, Default)]
pub struct Shortage(Mutex<Option<Instant>>);

impl Shortage {
    /// Whether it was not said lately; it then counts as said.
    pub fn is_to_be_said(&self) -> bool {
        let mut said = lock(&self.0);
        let is_due = said.is_none_or(|said| said.elapsed() >= SAID_FOR);
        if is_due {
            *said = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_have_no_more_is_told_so() {
        let opens = Opens::new(4);
        let taken: Vec<Share> = std::iter::from_fn(|| opens.take(1).ok()).collect();
        assert_eq!((taken.len(), opens.take(1).err()), (2, Some(Errno::NFILE)));
    }

    #[test]
    fn what_was_said_is_not_said_again_soon() {
        let shortage = Shortage::default();
        assert!(shortage.is_to_be_said());
        assert!(!shortage.is_to_be_said());
        *lock(&shortage.0) = Instant::now().checked_sub(SAID_FOR);
        assert!(shortage.is_to_be_said());
    }
}
