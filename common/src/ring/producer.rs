//! The agent's side: reserve under a short lock, copy outside of it, commit in order.
//!
//! Reservations live in this process alone. The shared tail moves only over the contiguous prefix of
//! committed ones, so a reader never meets half a record, and all producers die together: there is nothing to
//! repair in the segment after a crash.

#[cfg(not(loom))]
mod handover;

use std::collections::VecDeque;

use crate::{
    fail_point::FailPoint,
    record::{Loss, LossReason},
    sync::{Arc, AtomicU32, Condvar, Mutex, Ordering, fence, lock, wait},
};

use super::{
    error::RingError,
    kind::Kind,
    layout::{self, ALIGN, CHUNK, Checksum, RECORD_HEADER, RecordHeader},
    loss::LossLedger,
    memory::Memory,
    weight::{Weight, place, record_size},
};

/// Of a record's place, so many bytes are fetched while its checksum is made.
const PREFETCH_BYTES_MAX: usize = 4 << 10;
/// Payloads of up to this many bytes are copied while the lock is held: that takes less time than locking it again.
const COPY_UNDER_LOCK_MAX: usize = 8 << 10;

/// The write was not taken; it has been counted and will be announced in-band.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost(pub LossReason);

/// Space that a reservation has in the ring.
pub(super) struct Space {
    pub(super) ticket: u64,
    /// Where the first record was looked for a place, and its sequence number.
    pub(super) from: u64,
    pub(super) first_seq: u64,
}

/// One reservation, in the order of its place in the ring.
struct Pending {
    end: u64,
    next_seq: u64,
    done: bool,
    /// It begins with the announcement that the ledger has staged.
    announces: bool,
}

/// What the producers of this process agree on.
struct State {
    /// Where the next reservation begins; never behind `tail`.
    reserved: u64,
    /// The position of the record area's beginning in the lap in which `reserved` lies: `reserved - lap` is an offset,
    /// at most the capacity, without a division.
    lap: u64,
    /// The number that the next record gets.
    next_seq: u64,
    tail: u64,
    /// The consumer's head as last believed; never ahead of `tail`.
    head: u64,
    /// The reservations between `tail` and `reserved`.
    pending: VecDeque<Pending>,
    /// The number of the front of `pending`.
    first_ticket: u64,
    /// Which of the two commit slots is written next.
    slot: usize,
    ledger: LossLedger,
    /// Threads whose records are complete and wait for those in front of them.
    waiting_commits: usize,
}

/// The writing end of a ring. Threads share it by reference.
pub struct Producer<M> {
    pub(super) memory: Arc<M>,
    state: Mutex<State>,
    /// The tail has moved.
    published: Condvar,
    /// The consumer's wait that was last ended by a wake-up, so that each costs one system call.
    woken: AtomicU32,
    /// The sequence number that the first record of this one gets, or got.
    resumed_at: u64,
}

impl<M: Memory> Producer<M> {
    /// Takes up writing where the segment says that it ended.
    ///
    /// # Errors
    /// [`RingError::Corrupt`] where the tail, the commit slots and the head contradict each other.
    pub(crate) fn resume(memory: Arc<M>, name: &str) -> Result<Self, RingError> {
        let corrupt = |what| RingError::Corrupt { name: name.to_owned(), what };
        let tail = memory.data_word(layout::TAIL).load(Ordering::Acquire);
        let head = memory.head().load(Ordering::Acquire);
        if !tail.is_multiple_of(ALIGN) || head > tail || tail - head > memory.capacity() {
            return Err(corrupt("its tail and head contradict each other"));
        }
        // The slot that belongs to the tail is whole: a commit writes the other slot, then the tail.
        let slot = (0..2)
            .find(|i| {
                memory.data_word(layout::COMMIT_SLOTS + i * layout::COMMIT_SLOT_LEN).load(Ordering::Relaxed)
                    == tail
            })
            .ok_or_else(|| corrupt("no commit slot belongs to its tail"))?;
        let seq_at = layout::COMMIT_SLOTS + slot * layout::COMMIT_SLOT_LEN + 8;
        let next_seq = memory.data_word(seq_at).load(Ordering::Relaxed);
        let ledger = LossLedger::load(&*memory, tail);
        let state = State {
            reserved: tail,
            lap: tail - tail % memory.capacity(),
            next_seq,
            tail,
            head,
            pending: VecDeque::new(),
            first_ticket: 0,
            slot: 1 - slot,
            ledger,
            waiting_commits: 0,
        };
        let woken = AtomicU32::new(0);
        Ok(Self { memory, state: Mutex::new(state), published: Condvar::new(), woken, resumed_at: next_seq })
    }

    /// The largest payload in bytes that one record may carry.
    pub fn payload_max(&self) -> usize {
        usize::try_from(self.memory.record_len_max().saturating_sub(RECORD_HEADER)).unwrap_or(usize::MAX)
    }

    /// Puts one record of `kind` into the ring, its payload gathered from `slices`.
    ///
    /// # Errors
    /// [`Lost`] if it does not fit; it is then already counted.
    pub fn push(&self, kind: Kind, slices: &[&[u8]], weight: Weight) -> Result<(), Lost> {
        self.push_noted(kind, slices, weight, &|_| {})
    }

    /// As [`Self::push`], and tells `note` the record's sequence number before anybody can see the record: a successor
    /// can then say [whether it was committed](super::AgentRing::had_committed). `note` is called under a lock: it is short.
    ///
    /// # Errors
    /// As [`Self::push`] says.
    pub fn push_noted(
        &self,
        kind: Kind,
        slices: &[&[u8]],
        weight: Weight,
        note: &impl Fn(u64),
    ) -> Result<(), Lost> {
        let len = [slices.iter().map(|s| s.len()).sum()];
        if len[0] <= COPY_UNDER_LOCK_MAX && self.push_short(kind, slices, len[0], note) {
            return Ok(());
        }
        let reservation = self.reserve(&len, weight)?;
        note(reservation.first_sequence());
        reservation.write(0, kind, slices);
        reservation.commit();
        Ok(())
    }

    /// Whether the producer that this one succeeds had committed the record with this sequence number.
    pub(super) fn had_committed(&self, sequence: u64) -> bool {
        sequence < self.resumed_at
    }

    /// Reserves, copies and commits at once, if no other thread has a reservation and nothing is to be announced.
    fn push_short(&self, kind: Kind, slices: &[&[u8]], len: usize, note: &impl Fn(u64)) -> bool {
        let mut state = lock(&self.state);
        let State { reserved, lap, next_seq, .. } = *state;
        let capacity = self.memory.capacity();
        let size = record_size(len);
        let left = capacity - (reserved - lap);
        let (at, new_lap) = if size > left { (reserved + left, reserved + left) } else { (reserved, lap) };
        let end = at + size;
        let usual = state.pending.is_empty() && !state.ledger.has_news() && len <= self.payload_max();
        if !usual || !self.fits(&mut state, end) {
            return false;
        }
        if at > reserved {
            self.pad(reserved - lap, left);
        }
        FailPoint::Reserved.reach();
        note(next_seq);
        self.write_record(at - new_lap, next_seq, kind, slices);
        FailPoint::Copied.reach();
        state.reserved = end;
        state.lap = new_lap;
        state.next_seq = next_seq + 1;
        self.publish(&mut state, end, next_seq + 1);
        drop(state);
        self.wake_consumer();
        true
    }

    /// Takes space for records with payloads of `lens` bytes, all or none. Invariant: each space is committed once, by
    /// [`Self::commit`].
    ///
    /// # Errors
    /// [`Lost`] if they do not fit now, or a payload is over [`Self::payload_max`]; it is then already counted.
    pub(super) fn take_space(&self, lens: &[usize], weight: Weight) -> Result<Space, Lost> {
        let mut state = lock(&self.state);
        let reason = if lens.iter().any(|len| *len > self.payload_max()) {
            LossReason::TooLarge
        } else {
            match self.try_take(&mut state, lens, None) {
                Some(space) => return Ok(space),
                None => LossReason::RingFull,
            }
        };
        state.ledger.count(&*self.memory, reason, 1, weight);
        Err(Lost(reason))
    }

    /// Takes space for as many of the first records as fit, and returns how many these are: 1 or more. Nothing is counted.
    pub(super) fn take_some_space(&self, lens: &[usize]) -> Option<(Space, usize)> {
        let mut state = lock(&self.state);
        let capacity = self.memory.capacity();
        let losses = state.ledger.unannounced().into_iter().map(|loss| loss.encode().len());
        let mut end = losses.fold(state.reserved, |end, len| place(end, len, capacity).1);
        let mut fitting = 0;
        for len in lens {
            end = place(end, *len, capacity).1;
            if *len > self.payload_max() || !self.fits(&mut state, end) {
                break;
            }
            fitting += 1;
        }
        let lens = lens.get(..fitting).filter(|lens| !lens.is_empty())?;
        Some((self.try_take(&mut state, lens, None)?, fitting))
    }

    /// Whether the space up to `end` is free.
    fn fits(&self, state: &mut State, end: u64) -> bool {
        let capacity = self.memory.capacity();
        if end - state.head > capacity {
            self.refresh_head(state);
        }
        end - state.head <= capacity
    }

    /// Counts a write that is withheld from the ring for a reason of the caller's.
    pub fn count_loss(&self, reason: LossReason, weight: Weight) {
        self.count_losses(reason, 1, weight);
    }

    /// Counts several writes that are not in the ring; `weight` is that of all.
    pub fn count_losses(&self, reason: LossReason, events: u64, weight: Weight) {
        lock(&self.state).ledger.count(&*self.memory, reason, events, weight);
    }

    /// Puts losses that no later record has announced yet into the ring, if there is room.
    pub fn announce_losses(&self) {
        let mut state = lock(&self.state);
        if state.ledger.unannounced().is_empty() {
            return;
        }
        if let Some(space) = self.try_take(&mut state, &[], None) {
            drop(state);
            self.commit(space.ticket, None);
        }
    }

    /// Announces what was counted as withheld by the quota of the file at `path`, if there is room now. Gives whether
    /// it is announced.
    pub fn announce_withheld(&self, loss: &Loss, path: &[u8]) -> bool {
        let mut state = lock(&self.state);
        if state.ledger.is_staged() {
            return false;
        }
        let Some(space) = self.try_take(&mut state, &[], Some((loss, path))) else {
            return false;
        };
        drop(state);
        self.commit(space.ticket, None);
        true
    }

    /// What was counted as withheld by a file's quota is to be announced with other losses, without the file.
    pub fn let_go_of_withheld(&self, loss: &Loss) {
        lock(&self.state).ledger.let_go(loss.events, loss.bytes);
    }

    /// Lays out the losses to announce, with what a file's quota has withheld in front, and the wanted records behind
    /// the last reservation.
    fn try_take(&self, state: &mut State, lens: &[usize], withheld: Option<(&Loss, &[u8])>) -> Option<Space> {
        let capacity = self.memory.capacity();
        let of_file = withheld.map(|(loss, path)| loss.encode_of_file(path));
        let losses = state.ledger.unannounced();
        let losses: Vec<Vec<u8>> = of_file.into_iter().chain(losses.iter().map(Loss::encode)).collect();
        let mut end = state.reserved;
        for len in losses.iter().map(Vec::len).chain(lens.iter().copied()) {
            end = place(end, len, capacity).1;
        }
        if !self.fits(state, end) {
            return None;
        }
        for payload in &losses {
            let (offset, next) = self.place_padded(state.reserved, payload.len());
            self.write_record(offset, state.next_seq, Kind::Lost, &[payload]);
            state.next_seq += 1;
            state.reserved = next;
        }
        let announces = !losses.is_empty();
        let (from, first_seq) = (state.reserved, state.next_seq);
        state.reserved = end;
        state.lap = end - end % capacity;
        state.next_seq += lens.len() as u64;
        if announces {
            state.ledger.stage(&*self.memory, end, withheld.map(|(loss, _)| loss));
        }
        let ticket = state.first_ticket + state.pending.len() as u64;
        state.pending.push_back(Pending { end, next_seq: state.next_seq, done: false, announces });
        FailPoint::Reserved.reach();
        Some(Space { ticket, from, first_seq })
    }

    /// The offset at which a record goes in reserved space from `from` on, and the position where it ends; pads the
    /// gap in front of it.
    pub(super) fn place_padded(&self, from: u64, len: usize) -> (u64, u64) {
        let capacity = self.memory.capacity();
        let (at, end) = place(from, len, capacity);
        if at > from {
            self.pad(from % capacity, at - from);
        }
        (at % capacity, end)
    }

    fn pad(&self, offset: u64, gap: u64) {
        // The gap is shorter than a record, which is far below 4 GiB.
        let gap = u32::try_from(gap).unwrap_or(u32::MAX);
        self.copy_in(offset, &RecordHeader::padding(gap));
    }

    /// Takes the consumer's word for how far it is, if it can be true.
    fn refresh_head(&self, state: &mut State) {
        // SYNC consumer-head: pairs with the release store in `Acker::ack`; the copies out of the space that
        // is freed here happened before it.
        let head = self.memory.head().load(Ordering::Acquire);
        if head >= state.head && head <= state.tail && head.is_multiple_of(ALIGN) {
            state.head = head;
        }
    }

    pub(super) fn write_record(&self, offset: u64, seq: u64, kind: Kind, slices: &[&[u8]]) {
        let payload: usize = slices.iter().map(|s| s.len()).sum();
        let len = u32::try_from(payload).unwrap_or(u32::MAX).saturating_add(RECORD_HEADER as u32);
        let mut header = RecordHeader { len, kind: kind as u8, seq, crc: 0 };
        // Fetched while the checksum is made.
        self.memory.will_write(offset, payload.min(PREFETCH_BYTES_MAX));
        header.crc = header.mark();
        match slices {
            [slice] if slice.len() <= CHUNK => {
                header.crc ^= layout::checksum(slice);
                self.copy_in(offset + RECORD_HEADER, slice);
            }
            _ => header.crc ^= self.write_chunks(offset + RECORD_HEADER, slices),
        }
        self.copy_in(offset, &header.encode());
    }

    /// Copies a payload in; gives its checksum.
    fn write_chunks(&self, mut to: u64, slices: &[&[u8]]) -> u32 {
        let mut checksum = Checksum::new();
        for chunk in slices.iter().flat_map(|slice| slice.chunks(CHUNK)) {
            checksum.update(chunk);
            self.copy_in(to, chunk);
            to += chunk.len() as u64;
        }
        checksum.finish()
    }

    /// Copies into reserved space. `place` keeps every record within the record area.
    pub(super) fn copy_in(&self, offset: u64, bytes: &[u8]) {
        let written = self.memory.write(offset, bytes);
        debug_assert!(written.is_ok(), "a reservation reaches over the end of the ring");
    }

    /// Marks a reservation as complete, and makes what is now a whole prefix visible. Returns once the reservation is
    /// in it: what its writer is told to be recorded has to outlast this process. The only wait is for other threads'
    /// copies that were begun before.
    pub(super) fn commit(&self, ticket: u64, discarded: Option<(u64, Weight)>) {
        FailPoint::Copied.reach();
        let mut state = lock(&self.state);
        if let Some((events, weight)) = discarded {
            state.ledger.count(&*self.memory, LossReason::Discarded, events, weight);
        }
        let index = usize::try_from(ticket - state.first_ticket).unwrap_or(usize::MAX);
        if let Some(pending) = state.pending.get_mut(index) {
            pending.done = true;
        }
        let mut reached = None;
        while state.pending.front().is_some_and(|p| p.done) {
            reached = state.pending.pop_front();
            state.first_ticket += 1;
            if reached.as_ref().is_some_and(|p| p.announces) {
                state.ledger.committed();
            }
        }
        if let Some(Pending { end, next_seq, .. }) = reached {
            self.publish(&mut state, end, next_seq);
            let others_wait = state.waiting_commits > 0;
            drop(state);
            if others_wait {
                self.published.notify_all();
            }
            self.wake_consumer();
            return;
        }
        state.waiting_commits += 1;
        while state.first_ticket <= ticket {
            state = wait(&self.published, state);
        }
        state.waiting_commits -= 1;
    }

    /// Moves the shared tail to `end`, over committed records alone.
    fn publish(&self, state: &mut State, end: u64, next_seq: u64) {
        let slot = layout::COMMIT_SLOTS + state.slot * layout::COMMIT_SLOT_LEN;
        self.memory.data_word(slot).store(end, Ordering::Release);
        FailPoint::SlotHalfWritten.reach();
        self.memory.data_word(slot + 8).store(next_seq, Ordering::Release);
        FailPoint::SlotWritten.reach();
        state.slot = 1 - state.slot;
        state.tail = end;
        // SYNC tail: pairs with the acquire load in `Consumer::next`. Everything up to `end`, and the commit
        // slot that a restart reads, was written before; other threads' copies by way of the state's lock.
        self.memory.data_word(layout::TAIL).store(end, Ordering::Release);
        FailPoint::TailMoved.reach();
    }

    /// Ends the consumer's wait, if it waits. One system call a wait at most.
    fn wake_consumer(&self) {
        // SYNC sleep: pairs with the fence in `Consumer::wait`. Either this load sees the waiter's word, or the
        // consumer's second look sees the tail stored before: a wake-up cannot fall between.
        fence(Ordering::SeqCst);
        let waiter = self.memory.waiter().load(Ordering::Relaxed);
        if waiter & 1 == 1 && self.woken.swap(waiter, Ordering::Relaxed) != waiter {
            self.memory.wake();
        }
    }

    /// Whether both segments are still as long as they were.
    pub fn is_intact(&self) -> bool {
        self.memory.is_intact()
    }

    /// Bytes between the tail and the consumer's head, and the capacity.
    pub fn fill(&self) -> (u64, u64) {
        let mut state = lock(&self.state);
        self.refresh_head(&mut state);
        (state.tail - state.head, self.memory.capacity())
    }
}
