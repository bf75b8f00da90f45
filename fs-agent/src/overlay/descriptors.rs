//! What of this process's descriptors each user may have: all that is open under overlays is open in this process.
//!
//! A user may have as many handles as are left free: one alone half of all, two a third each, and so on. So whoever
//! comes finds some, however many others have taken, without a number to be configured for each. The last are for root.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::{Result, lock};

/// Which part of all handles only root may have: one of so many.
const ROOTS_PART: usize = 8;

/// How long nothing is said of a shortage that was said.
const SAID_FOR: Duration = Duration::from_secs(60);

/// The handles of all overlays of one agent, by user.
#[derive(Clone, Debug)]
pub struct Opens(Arc<State>);

#[derive(Debug)]
struct State {
    max: usize,
    open: Mutex<Open>,
    shortage: Shortage,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    /// Nobody is here with none.
    by_user: HashMap<u32, usize>,
}

/// One handle, counted until this is dropped.
#[derive(Debug)]
pub struct Share {
    opens: Opens,
    uid: u32,
}

impl Opens {
    /// There can be `max` of them, of files and directories, each with a descriptor, and another for the inode.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(State { max, open: Mutex::default(), shortage: Shortage::default() }))
    }

    /// How many there can be.
    pub fn max(&self) -> usize {
        self.0.max
    }

    /// One more for `uid`, which a predecessor had let have it.
    pub fn keep(&self, uid: u32) -> Share {
        let mut open = lock(&self.0.open);
        open.all += 1;
        *open.by_user.entry(uid).or_default() += 1;
        Share { opens: self.clone(), uid }
    }

    /// One more for `uid`. To be taken before anything is opened or made.
    ///
    /// # Errors
    /// `ENFILE` if there is none for this user; the log says so.
    pub fn take(&self, uid: u32) -> Result<Share> {
        let State { max, open, shortage } = &*self.0;
        let has = {
            let mut open = lock(open);
            let free = max.saturating_sub(open.all);
            let has = open.by_user.get(&uid).copied().unwrap_or_default();
            let is_allowed = if uid == 0 { free > 0 } else { has < free && free > max / ROOTS_PART };
            if is_allowed {
                open.all += 1;
                *open.by_user.entry(uid).or_default() += 1;
                return Ok(Share { opens: self.clone(), uid });
            }
            has
        };
        if shortage.is_to_be_said() {
            tracing::warn!(
                "user {uid} has {has} files and directories open under overlays, and may open no more (ENFILE): \
                 fs-agent's limit of open files allows {max} for all users. To have more, raise it: LimitNOFILE= \
                 of its unit, or `ulimit -Hn` where it is started"
            );
        }
        Err(Errno::NFILE)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut open = lock(&self.opens.0.open);
        open.all -= 1;
        if let Entry::Occupied(mut user) = open.by_user.entry(self.uid) {
            *user.get_mut() -= 1;
            if *user.get() == 0 {
                user.remove();
            }
        }
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

    fn take_all(opens: &Opens, uid: u32) -> Vec<Share> {
        std::iter::from_fn(|| opens.take(uid).ok()).collect()
    }

    #[test]
    fn whoever_comes_finds_some_and_root_the_last() {
        let opens = Opens::new(800);
        let first = take_all(&opens, 1);
        let second = take_all(&opens, 2);
        let third = take_all(&opens, 3);
        assert_eq!([first.len(), second.len(), third.len()], [400, 200, 100]);
        assert_eq!(opens.take(4).err(), Some(Errno::NFILE), "the rest is for root");
        assert_eq!(take_all(&opens, 0).len(), 100);
        drop(first);
        assert_eq!(take_all(&opens, 4).len(), 250, "half of what is left");
        drop((second, third));
        assert_eq!(lock(&opens.0.open).all, 0);
        assert!(lock(&opens.0.open).by_user.is_empty());
    }

    #[test]
    fn root_alone_may_have_all() {
        assert_eq!(take_all(&Opens::new(10), 0).len(), 10);
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
