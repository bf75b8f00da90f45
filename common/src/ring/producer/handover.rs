//! Handover: what a producer passes to the producer of the ring's next generation.

use super::{Loss, Memory, Ordering, Producer, layout, lock};
use crate::ring::loss::Counted;

impl<M: Memory> Producer<M> {
    /// Whether the positions in the segments can be those that this process and a consumer have written.
    pub(in crate::ring) fn agrees(&self) -> bool {
        let state = lock(&self.state);
        let tail = self.memory.data_word(layout::TAIL).load(Ordering::Relaxed);
        let head = self.memory.head().load(Ordering::Acquire);
        tail == state.tail && head <= tail && tail - head <= self.memory.capacity()
    }

    /// The tail, and the sequence number that follows the last record's; for when no reservation is left.
    pub(in crate::ring) fn end(&self) -> (u64, u64) {
        let state = lock(&self.state);
        (state.tail, state.next_seq)
    }

    /// Goes on with the losses that the producer of the ring before has counted; gives those.
    pub(in crate::ring) fn take_over(&self, former: &Self) -> Counted {
        let former = lock(&former.state);
        lock(&self.state).ledger = former.ledger.continue_in(&*self.memory);
        former.ledger.counted()
    }

    /// Adds what the producer of the ring before has counted since it was taken over.
    pub(in crate::ring) fn add_since(&self, then: &Counted, former: &Self) {
        let now = lock(&former.state).ledger.counted();
        lock(&self.state).ledger.add_since(&*self.memory, then, &now);
    }

    /// Has losses announced again whose announcement nobody has read.
    pub(in crate::ring) fn unannounce(&self, losses: &[Loss]) {
        let mut state = lock(&self.state);
        losses.iter().for_each(|loss| state.ledger.unannounce(loss));
    }
}
