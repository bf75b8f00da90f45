//! What there is so much of and no more, shared by users.
//!
//! A user may have as much as he leaves to others: one alone half of all, two a third each, and so on. So whoever comes finds
//! some, however much others have taken, without a number to be configured for each. The last of it is for root.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex},
};

use crate::sync::lock;

/// Which part of all only root may have: one of so many.
const ROOTS_PART: usize = 8;

/// Something that is shared.
#[derive(Clone, Debug)]
pub struct Shares(Arc<State>);

#[derive(Debug)]
struct State {
    max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Nobody is here with none.
    by_user: HashMap<u32, usize>,
}

/// There is none left for a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoneLeft {
    /// How many he has.
    pub has: usize,
}

/// One of them, counted until this is dropped.
#[derive(Debug)]
pub struct Share {
    of: Shares,
    uid: u32,
}

impl Shares {
    /// There are `max` of them.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(State { max, taken: Mutex::default() }))
    }

    /// How many there are.
    pub fn max(&self) -> usize {
        self.0.max
    }

    /// One more for `uid`, which a predecessor had let have it.
    pub fn keep(&self, uid: u32) -> Share {
        self.count(&mut lock(&self.0.taken), uid)
    }

    /// One more for `uid`.
    ///
    /// # Errors
    /// If there is none for this user.
    pub fn take(&self, uid: u32) -> Result<Share, NoneLeft> {
        let max = self.0.max;
        let mut taken = lock(&self.0.taken);
        let free = max.saturating_sub(taken.all);
        let has = taken.by_user.get(&uid).copied().unwrap_or_default();
        let is_allowed = if uid == 0 { free > 0 } else { has < free && free > max / ROOTS_PART };
        if is_allowed { Ok(self.count(&mut taken, uid)) } else { Err(NoneLeft { has }) }
    }

    fn count(&self, taken: &mut Taken, uid: u32) -> Share {
        taken.all += 1;
        *taken.by_user.entry(uid).or_default() += 1;
        Share { of: self.clone(), uid }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = lock(&self.of.0.taken);
        taken.all -= 1;
        if let Entry::Occupied(mut user) = taken.by_user.entry(self.uid) {
            *user.get_mut() -= 1;
            if *user.get() == 0 {
                user.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(shares: &Shares, uid: u32) -> Vec<Share> {
        std::iter::from_fn(|| shares.take(uid).ok()).collect()
    }

    #[test]
    fn whoever_comes_finds_some_and_root_the_last() {
        let shares = Shares::new(800);
        let first = take_all(&shares, 1);
        let second = take_all(&shares, 2);
        let third = take_all(&shares, 3);
        assert_eq!([first.len(), second.len(), third.len()], [400, 200, 100]);
        assert_eq!(shares.take(4).err(), Some(NoneLeft { has: 0 }), "the rest is for root");
        assert_eq!(take_all(&shares, 0).len(), 100);
        drop(first);
        assert_eq!(take_all(&shares, 4).len(), 250, "half of what is left");
        drop((second, third));
        assert_eq!(lock(&shares.0.taken).all, 0);
        assert!(lock(&shares.0.taken).by_user.is_empty());
    }

    #[test]
    fn root_alone_may_have_all() {
        assert_eq!(take_all(&Shares::new(10), 0).len(), 10);
    }
}
