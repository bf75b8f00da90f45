//! What the kernel knows by a process that is no more.

use std::{collections::HashMap, os::fd::OwnedFd, sync::Arc};

use super::{
    super::{RestoreError, lock},
    Inode, Inodes, Limits, ROOT, SYNTHETIC, own_number,
};
use crate::state::{
    Slot, State,
    journal::Request,
    slots::{NodeFacts, node},
};

impl Inodes {
    /// Those that `slots` speak of, also by the index of their slots. Those of the latter that the kernel does not know are there
    /// for names alone, and to be let go of after those are taken up.
    ///
    /// # Errors
    /// If they contradict each other.
    pub fn restore(
        root: OwnedFd,
        state: &Arc<State>,
        slots: Vec<Slot>,
        limits: Limits,
        own_fds: &Arc<OwnedFd>,
    ) -> std::result::Result<(Self, HashMap<u32, Arc<Inode>>), RestoreError> {
        let (of_root, others): (Vec<_>, Vec<_>) =
            slots.into_iter().partition(|slot| slot.get(node::ID) == ROOT);
        let Ok([slot]) = <[Slot; 1]>::try_from(of_root) else {
            return Err(RestoreError::Damaged("not one root"));
        };
        let next_synthetic = state.synthetics();
        let inodes = Self::new(root, state, slot, limits, own_fds);
        let mut by_slot = HashMap::with_capacity(others.len() + 1);
        by_slot.extend(inodes.root.slot().map(|index| (index, Arc::clone(&inodes.root))));
        let mut tables = lock(&inodes.tables);
        for slot in others {
            let (facts, lookups) = (NodeFacts::of(&slot), slot.get(node::LOOKUPS));
            let inode = Arc::new(Inode::of(slot, &facts, None, &inodes.held));
            by_slot.extend(inode.slot().map(|index| (index, Arc::clone(&inode))));
            if lookups == 0 {
                continue;
            }
            let was_given = match inode.id.checked_sub(SYNTHETIC) {
                Some(number) => number < next_synthetic,
                None => own_number(inodes.root_dev, inode.key) == Some(inode.id),
            };
            if tables.known.contains_key(&inode.id) || !was_given {
                return Err(RestoreError::Damaged("a node with a number that is not its own"));
            }
            if inode.id >= SYNTHETIC {
                // Of two with one key the former is gone.
                let newest = tables.synthetic.entry(inode.key).or_default();
                *newest = inode.id.max(*newest);
            }
            tables.add(&inode);
        }
        drop(tables);
        Ok((inodes, by_slot))
    }

    /// What an answer that has not left was to tell the kernel of is taken back. Gives the inodes that it does not know then.
    pub fn take_back(&self, request: &Request) -> Vec<Arc<Inode>> {
        if request.last_counted().is_none() {
            return Vec::new();
        }
        let mut tables = lock(&self.tables);
        let by_slot: HashMap<u32, Arc<Inode>> =
            tables.known.values().filter_map(|inode| Some((inode.slot()?, Arc::clone(inode)))).collect();
        let mut unknown = Vec::new();
        while let Some(slot) = request.last_counted() {
            let inode = by_slot.get(&slot);
            let before = inode.map_or(0, |inode| inode.slot.get(node::LOOKUPS));
            let now = before.saturating_sub(1);
            request.taking_back(before, || {
                inode.inspect(|inode| inode.slot.set(node::LOOKUPS, now));
            });
            if let Some(inode) = inode.filter(|_| now == 0) {
                unknown.extend(tables.remove(inode.id));
            }
        }
        drop(tables);
        unknown
    }

    /// How often the kernel knows `id`; none if it does not.
    pub fn lookups_of(&self, id: u64) -> Option<u64> {
        Some(lock(&self.tables).known.get(&id)?.slot.get(node::LOOKUPS))
    }

    /// What the kernel knows, but for the root, and how often.
    pub fn lookups(&self) -> Vec<(u64, u64)> {
        let tables = lock(&self.tables);
        let others = tables.known.values().filter(|inode| inode.id != ROOT);
        others.map(|inode| (inode.id, inode.slot.get(node::LOOKUPS))).collect()
    }
}
