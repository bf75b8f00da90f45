//! Which inodes the kernel knows.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak},
};

use rustix::fs::Statx;

use super::{FORGOTTEN_ARRIVALS, Inode, Key, SYNTHETIC, key_of, own_number};
use crate::{by_number::ByNumber, state::State};

/// The inodes that the kernel knows.
#[derive(Default)]
pub struct Tables {
    /// Those that the kernel was told of more often than it has forgotten them. How often is in their slots, which change under
    /// the lock of this.
    pub known: ByNumber<u64, Arc<Inode>>,
    /// The one that came or was spared first is the next to be looked at when some are to be forgotten.
    pub arrivals: VecDeque<Weak<Inode>>,
    /// Node ids of files whose own number could not serve.
    pub synthetic: HashMap<Key, u64>,
}

impl Tables {
    /// The id that a file is known by, if it is known.
    pub fn find(&self, root_dev: u64, key: Key) -> Option<u64> {
        let given = if self.synthetic.is_empty() { None } else { self.synthetic.get(&key).copied() };
        given.or_else(|| own_number(root_dev, key))
    }

    /// The inode of the file that `stat` was found for, or else the id that it is to have.
    pub fn find_or_assign(
        &mut self,
        root_dev: u64,
        stat: &Statx,
        state: &State,
    ) -> std::result::Result<Arc<Inode>, u64> {
        let key = key_of(stat);
        if let Some(id) = self.find(root_dev, key) {
            match self.known.get(&id) {
                Some(inode) if inode.may_be(stat) => return Ok(Arc::clone(inode)),
                // The kernel has not forgotten a file that is gone, and this one has got its number.
                Some(_) => {}
                None => return Err(id),
            }
        }
        let id = SYNTHETIC + state.next_synthetic();
        self.synthetic.insert(key, id);
        Err(id)
    }

    /// The kernel does not know it any more. What this gives is to be dropped, and its descriptor closed, after the lock.
    pub fn remove(&mut self, id: u64) -> Option<Arc<Inode>> {
        let forgotten = self.known.remove(&id);
        if let Some(inode) = forgotten.as_ref().filter(|_| id >= SYNTHETIC)
            && self.synthetic.get(&inode.key) == Some(&id)
        {
            self.synthetic.remove(&inode.key);
        }
        forgotten
    }

    /// It is known by now.
    pub fn add(&mut self, inode: &Arc<Inode>) {
        self.known.insert(inode.id, Arc::clone(inode));
        if self.arrivals.len() > 2 * self.known.len() + FORGOTTEN_ARRIVALS {
            self.arrivals.retain(|inode| inode.strong_count() > 0);
        }
        self.arrivals.push_back(Arc::downgrade(inode));
    }
}
