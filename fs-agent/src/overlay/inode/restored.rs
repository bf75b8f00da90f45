//! Inodes that the kernel knows from a predecessor of this process, restored from its state.

use std::{os::fd::OwnedFd, sync::Arc};

use super::{
    super::{RestoreError, lock},
    Inode, Inodes, Limits, ROOT, SYNTHETIC, own_number,
};
use crate::state::{
    Slot, State,
    journal::Request,
    slots::{NodeFacts, node},
};

/// Inodes by the index of their slots.
#[derive(Default)]
pub struct BySlot(Vec<Option<Arc<Inode>>>);

impl BySlot {
    /// The inode whose slot has this index.
    pub fn get(&self, index: u32) -> Option<&Arc<Inode>> {
        self.0.get(usize::try_from(index).ok()?)?.as_ref()
    }

    /// Adds an inode, unless its slot is not of the state.
    fn add(&mut self, inode: &Arc<Inode>) {
        let Some(index) = inode.slot().and_then(|index| usize::try_from(index).ok()) else { return };
        if self.0.len() <= index {
            // The state's tables bound it.
            self.0.resize(index + 1, None);
        }
        self.0[index] = Some(Arc::clone(inode));
    }
}

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
    ) -> std::result::Result<(Self, BySlot), RestoreError> {
        let (of_root, others): (Vec<_>, Vec<_>) =
            slots.into_iter().partition(|slot| slot.get(node::ID) == ROOT);
        let Ok([slot]) = <[Slot; 1]>::try_from(of_root) else {
            return Err(RestoreError::Damaged("not one root"));
        };
        let next_synthetic = state.synthetics();
        let inodes = Self::new(root, state, slot, limits, own_fds);
        let mut by_slot = BySlot::default();
        by_slot.add(&inodes.root);
        let mut tables = lock(&inodes.tables);
        tables.known.reserve(others.len());
        for slot in others {
            let (facts, lookups) = (NodeFacts::of(&slot), slot.get(node::LOOKUPS));
            let inode = Arc::new(Inode::of(slot, &facts, None, &inodes.held));
            by_slot.add(&inode);
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
        let mut by_slot = BySlot::default();
        tables.known.values().for_each(|inode| by_slot.add(inode));
        let mut unknown = Vec::new();
        while let Some(slot) = request.last_counted() {
            let inode = by_slot.get(slot);
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
