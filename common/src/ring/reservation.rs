//! Space in the ring that a producer holds: to be filled and committed, or given up.

use std::cell::Cell;

use super::{
    kind::Kind,
    layout::{RECORD_HEADER, RecordHeader},
    memory::Memory,
    producer::{Lost, Producer, Space},
    weight::{Weight, place},
};

/// Space for records that are not yet visible. Dropped without [`Reservation::commit`], it becomes a record
/// that says so (kind discard), and what it was for is counted as lost.
pub struct Reservation<'a, M: Memory> {
    pub(super) producer: &'a Producer<M>,
    pub(super) ticket: u64,
    /// Where the first record was looked for a place, and its sequence number.
    pub(super) from: u64,
    pub(super) first_seq: u64,
    /// Payload lengths of the records.
    pub(super) lens: &'a [usize],
    /// The next part if they are written in order, and the position from which on it is looked for a place.
    pub(super) next: Cell<(usize, u64)>,
    /// How many writes they are for, and what these weigh together.
    pub(super) events: u64,
    pub(super) weight: Weight,
    pub(super) committed: bool,
}

impl<M: Memory> Producer<M> {
    /// Reserves space for records with payloads of `lens` bytes, all or none, side by side in order. Whoever has a
    /// reservation commits or drops it before the same thread asks for another: a commit waits for those in front.
    ///
    /// # Errors
    /// [`Lost`] if they do not fit now, or a payload is over [`Self::payload_max`]; it is then already counted.
    pub fn reserve<'a>(&'a self, lens: &'a [usize], weight: Weight) -> Result<Reservation<'a, M>, Lost> {
        let space = self.take_space(lens, weight)?;
        Ok(Reservation::of(self, space, lens, 1, weight))
    }

    /// Reserves space for as many of the first records with payloads of `lens` bytes as fit now, side by side in order,
    /// each for a write of its own, so that one commit makes all of them visible and wakes the consumer once. Nothing is
    /// counted as lost: what does not fit is the caller's to count or to offer again. `weight` is that of all.
    ///
    /// Gives none if not even the first fits. No payload is over [`Self::payload_max`].
    pub fn reserve_some<'a>(&'a self, lens: &'a [usize], weight: Weight) -> Option<Reservation<'a, M>> {
        let (space, fitting) = self.take_some_space(lens)?;
        Some(Reservation::of(self, space, &lens[..fitting], fitting as u64, weight))
    }
}

impl<'a, M: Memory> Reservation<'a, M> {
    fn of(producer: &'a Producer<M>, space: Space, lens: &'a [usize], events: u64, weight: Weight) -> Self {
        let Space { ticket, from, first_seq } = space;
        let next = Cell::new((0, from));
        Self { producer, ticket, from, first_seq, lens, next, events, weight, committed: false }
    }
}

impl<M: Memory> Reservation<'_, M> {
    /// How many records there is space for.
    pub fn records(&self) -> usize {
        self.lens.len()
    }

    /// The sequence number of the first record: whoever notes it before the commit can tell after a crash whether that was done.
    /// Those of the others follow it, and all are committed at once.
    pub fn first_sequence(&self) -> u64 {
        self.first_seq
    }

    /// Fills record `part` of those that were asked for. The slices' lengths add up to the length asked for.
    pub fn write(&self, part: usize, kind: Kind, slices: &[&[u8]]) {
        let len = slices.iter().map(|s| s.len()).sum::<usize>();
        if let Some((offset, seq)) = self.part(part).filter(|_| self.lens.get(part) == Some(&len)) {
            self.producer.write_record(offset, seq, kind, slices);
        } else {
            debug_assert!(false, "part {part} of {:?} bytes does not take {len}", self.lens);
        }
    }

    /// Offset and sequence number of a part. Takes no time if it is the one after the last that was asked for.
    fn part(&self, part: usize) -> Option<(u64, u64)> {
        let len = *self.lens.get(part)?;
        let (next, from) = self.next.get();
        let (next, from) = if part < next { (0, self.from) } else { (next, from) };
        let capacity = self.producer.memory.capacity();
        let from = self.lens[next..part].iter().fold(from, |from, len| place(from, *len, capacity).1);
        let (offset, end) = self.producer.place_padded(from, len);
        self.next.set((part + 1, end));
        Some((offset, self.first_seq + part as u64))
    }

    /// Makes the records visible, once all in front of them are. All parts have been written.
    pub fn commit(mut self) {
        self.committed = true;
        self.producer.commit(self.ticket, None);
    }
}

impl<M: Memory> Drop for Reservation<'_, M> {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        for (part, len) in self.lens.iter().enumerate() {
            let Some((offset, seq)) = self.part(part) else { continue };
            // Whatever was copied in stays as the payload; only the header says that it is to be skipped.
            let len = u32::try_from(*len).unwrap_or(u32::MAX).saturating_add(RECORD_HEADER as u32);
            let header = RecordHeader { len, kind: Kind::Discarded as u8, seq, crc: 0 };
            self.producer.copy_in(offset, &RecordHeader { crc: header.mark(), ..header }.encode());
        }
        self.producer.commit(self.ticket, Some((self.events, self.weight)));
    }
}
