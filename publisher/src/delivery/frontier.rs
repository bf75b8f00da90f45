//! The frontier: how far records are delivered without a gap.
//!
//! The drain opens an entry for each record, in the ring's order. Delivery reports complete entries in any order, from any thread.
//! Whenever the oldest entries are complete, they are removed and the [`Ledger`] notes the new position.
//!
//! Invariant: the ledger never moves over a record whose messages are not all reported. So the ring gives up only the space
//! of records that are delivered, kept as dead letters, or announced as lost.

use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bywash_common::{
    clock::now_ns,
    record::Write,
    ring::{Entry, SelectiveAck},
};

use crate::{clock, faults::Fault};

use super::{
    dead_letter::DeadLetter,
    joined::{JoinedMessage, JoinedMessages},
    outcome::{Outcome, Outcomes},
    ticket::Ticket,
};

/// A record in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The position in the ring where the record ends.
    pub end: u64,
    /// Its sequence number in the ring. None for what is no record of the ring, and behind damage.
    pub sequence: Option<u64>,
    /// When it was captured, in nanoseconds since the epoch.
    pub time_ns: u64,
    /// Bytes of captured data.
    pub data_bytes: u64,
    /// Bytes of memory that the record takes until it is delivered.
    pub held_bytes: u64,
    /// The record is a write, not a loss.
    pub is_write: bool,
}

impl Record {
    /// The record of a write with `data`.
    pub fn of_write(entry: Entry, write: &Write<'_>, data: &[u8]) -> Self {
        Self::of_bytes(entry, write, data.len())
    }

    /// The record of a write of `data_bytes` bytes.
    pub fn of_bytes(entry: Entry, write: &Write<'_>, data_bytes: usize) -> Self {
        Self {
            end: entry.end,
            sequence: Some(entry.seq),
            time_ns: write.time_ns,
            data_bytes: data_bytes as u64,
            held_bytes: (write.path.len() + write.command.len() + data_bytes) as u64,
            is_write: true,
        }
    }

    /// The record of a loss event, which holds no captured data.
    pub fn of_news(end: u64, sequence: Option<u64>, time_ns: u64) -> Self {
        Self { end, sequence, time_ns, data_bytes: 0, held_bytes: 0, is_write: false }
    }
}

/// What a move of the frontier has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Everything before this position is complete: the ring may reuse the space.
    pub end: u64,
    /// The sequence number after that of the last complete record. None behind damage, and where the position has not changed.
    pub next_sequence: Option<u64>,
    /// The outcomes of the writes that the move has passed.
    pub outcomes: Outcomes,
    /// The sink has acknowledged a message, be it a loss event.
    pub has_delivered: bool,
}

/// Notes the frontier's moves, in the ring or in the spool.
pub trait Ledger: Send {
    /// Everything before `progress.end` is complete. Invariant: `progress.end` never decreases. It stays equal for messages
    /// beside the ring ([`Frontier::open_beside`]).
    fn advance(&mut self, progress: &Progress);

    /// The selective acknowledgements behind `end`. Called before [`Self::advance`] moves to `end`: a kill in between loses
    /// nothing.
    fn tell_ahead(&mut self, _end: u64, _ahead: &[SelectiveAck]) {}

    /// The number of records in flight, and when the oldest was captured (0 if there is none).
    fn in_flight(&mut self, records: u64, oldest_ns: u64);
}

/// Limits of what is in flight.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Records.
    pub records: usize,
    /// Bytes of memory.
    pub bytes: u64,
}

/// A message that the sink will never take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The record that the message belongs to. It stays open until [`Frontier::settle_refused`] or
    /// [`Frontier::replaced`].
    pub ticket: Ticket,
    /// What the record is.
    pub record: Record,
    /// The message and the reason.
    pub dead_letter: DeadLetter,
    /// An operator can mend the cause. If such a message cannot be kept as a dead letter it waits; it never becomes a loss.
    pub is_mendable: bool,
}

struct Pending {
    record: Record,
    /// Messages of the record whose outcome is not reported yet.
    messages: u32,
    /// The worst outcome so far.
    outcome: Outcome,
    /// The entry is no record of the stream that is read (a dead letter that is sent again).
    is_beside: bool,
    /// The time of the event, in nanoseconds since the epoch.
    event_ns: u64,
    /// A loss event announces, or has announced, that a message was refused. Each write is announced once.
    announced: bool,
}

struct State {
    ledger: Box<dyn Ledger>,
    pending: VecDeque<Pending>,
    /// The ticket of the front of `pending`.
    first: u64,
    joined: JoinedMessages,
    /// Where the last delivered record ended.
    last_end: u64,
    held_bytes: u64,
    refused: Vec<Refused>,
    /// Threads in [`Frontier::wait_past`]. Without one a notification would be a system call for nothing.
    waiting: usize,
    /// The outcomes of all writes so far.
    outcomes: Outcomes,
}

/// The records in flight: between the ring's head and the record that was read last.
pub struct Frontier {
    bounds: Bounds,
    state: Mutex<State>,
    moved: Condvar,
    keeps_dead_letters: AtomicBool,
    // The drain reads the next fields for every record, so they are atomics and need no lock. Written under the lock only.
    /// Another record may be opened.
    has_room: AtomicBool,
    /// `refused` is not empty.
    has_refused: AtomicBool,
    /// Refusals that are not settled or replaced, whether taken or not.
    open_refusals: AtomicUsize,
    /// Counts reports and refusals, for [`Self::wait_past`].
    events: AtomicU64,
}

impl Frontier {
    /// A frontier with nothing in flight.
    pub fn new(bounds: Bounds, ledger: Box<dyn Ledger>) -> Self {
        let state = State {
            ledger,
            pending: VecDeque::new(),
            first: 0,
            joined: JoinedMessages::default(),
            last_end: 0,
            held_bytes: 0,
            refused: Vec::new(),
            waiting: 0,
            outcomes: Outcomes::default(),
        };
        let frontier = Self {
            bounds,
            state: Mutex::new(state),
            moved: Condvar::new(),
            keeps_dead_letters: AtomicBool::new(false),
            has_room: AtomicBool::new(true),
            has_refused: AtomicBool::new(false),
            open_refusals: AtomicUsize::new(0),
            events: AtomicU64::new(0),
        };
        frontier.look_for_room(&frontier.lock());
        frontier
    }

    /// The state is valid whenever the lock is free, also after a panic of its holder.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns to another stream of records. Nothing of the former one may be in flight.
    pub fn follow(&self, ledger: Box<dyn Ledger>) {
        let mut state = self.lock();
        debug_assert!(state.pending.is_empty());
        state.ledger = ledger;
        state.last_end = 0;
    }

    /// Replaces the ledger of the same stream of records.
    pub fn set_ledger(&self, ledger: Box<dyn Ledger>) {
        let mut state = self.lock();
        state.ledger = ledger;
        state.note_in_flight();
    }

    /// Opens an entry for a record. The entry is complete after one report, and one more for each message that
    /// [`Self::expect_more`] adds.
    pub fn open(&self, record: Record) -> Ticket {
        self.open_as(record, false, record.time_ns)
    }

    fn open_as(&self, record: Record, is_beside: bool, event_ns: u64) -> Ticket {
        let mut state = self.lock();
        let ticket = state.next_ticket();
        state.held_bytes += record.held_bytes;
        state.pending.push_back(Pending {
            record,
            messages: 1,
            outcome: Outcome::PassedOver,
            is_beside,
            event_ns,
            announced: !record.is_write,
        });
        state.note_in_flight();
        self.look_for_room(&state);
        ticket
    }

    /// Opens an entry for a message that is no record of the stream that is read. Its position is that of the last record, so that
    /// the frontier waits for it and does not move by it. Its event happened at `event_ns`; for the age of what is in flight it
    /// counts from now on.
    pub fn open_beside(&self, held_bytes: u64, event_ns: u64) -> Ticket {
        let end = {
            let state = self.lock();
            state.pending.back().map_or(state.last_end, |pending| pending.record.end)
        };
        self.open_as(Record { held_bytes, ..Record::of_news(end, None, now_ns()) }, true, event_ns)
    }

    /// Whether the ticket is that of a message from [`Self::open_beside`].
    pub fn is_beside(&self, ticket: Ticket) -> bool {
        self.lock().get(ticket).is_some_and(|pending| pending.is_beside)
    }

    /// The time of the event of `ticket`, in nanoseconds since the epoch; 0 if the frontier has passed it.
    pub fn event_ns(&self, ticket: Ticket) -> u64 {
        self.lock().get(ticket).map_or(0, |pending| pending.event_ns)
    }

    /// Whether the frontier has passed the record: all messages of it, and of all records before it, are reported.
    pub fn is_done(&self, ticket: Ticket) -> bool {
        ticket.number() < self.lock().first
    }

    /// Has the record wait for `messages` more reports. Must be called before the last message known so far is sent: its report
    /// would complete the record.
    pub fn expect_more(&self, ticket: Ticket, messages: u32) {
        if let Some(pending) = self.lock().get(ticket) {
            pending.messages = pending.messages.saturating_add(messages);
        }
    }

    /// Adds a message that joins several records. Must be called before the message is sent.
    pub fn add_joined(&self, span: JoinedMessage) {
        self.lock().joined.add(span);
    }

    /// The ticket that the next record will get.
    pub fn next_ticket(&self) -> Ticket {
        self.lock().next_ticket()
    }

    /// The oldest record in flight.
    pub fn oldest(&self) -> Option<Ticket> {
        let state = self.lock();
        (!state.pending.is_empty()).then_some(Ticket::from_number(state.first))
    }

    /// Reports the outcome of one message of the record.
    pub fn settle(&self, ticket: Ticket, outcome: Outcome) {
        self.settle_all(&[ticket], outcome);
    }

    /// Reports the same outcome for one message of each record, under one lock.
    pub fn settle_all(&self, tickets: &[Ticket], outcome: Outcome) {
        let mut state = self.lock();
        state.settle(tickets, outcome);
        self.look_for_room(&state);
        self.events.fetch_add(tickets.len() as u64, Ordering::Release);
        self.notify(state);
    }

    /// Reports that a message will never be delivered. The record stays open until the refusal is settled or replaced: see
    /// [`Self::take_refused`], [`Self::settle_refused`] and [`Self::replaced`].
    pub fn refuse(&self, ticket: Ticket, dead_letter: DeadLetter) {
        self.take_back(ticket, dead_letter, false);
    }

    /// As [`Self::refuse`], for a message that an operator can still make deliverable, and that has waited for that for
    /// `failed.give_up_after`.
    pub fn give_up(&self, ticket: Ticket, dead_letter: DeadLetter) {
        self.take_back(ticket, dead_letter, true);
    }

    fn take_back(&self, ticket: Ticket, dead_letter: DeadLetter, is_mendable: bool) {
        let mut state = self.lock();
        let Some(pending) = state.get(ticket) else { return };
        let record = pending.record;
        state.refused.push(Refused { ticket, record, dead_letter, is_mendable });
        self.open_refusals.fetch_add(1, Ordering::Release);
        self.has_refused.store(true, Ordering::Release);
        self.events.fetch_add(1, Ordering::Release);
        self.notify(state);
    }

    /// Settles a refusal with the outcome of its message.
    pub fn settle_refused(&self, ticket: Ticket, outcome: Outcome) {
        self.replaced();
        self.settle(ticket, outcome);
    }

    /// Settles a refusal without an outcome: another message is sent on the ticket.
    pub fn replaced(&self) {
        let _state = self.lock();
        let open = self.open_refusals.load(Ordering::Acquire);
        self.open_refusals.store(open.saturating_sub(1), Ordering::Release);
    }

    /// Whether a refusal is neither settled nor replaced.
    pub fn has_open_refusals(&self) -> bool {
        self.open_refusals.load(Ordering::Acquire) > 0
    }

    /// Whether the loss of the record shall be announced in an event: true once for each write, and for nothing else. The
    /// record's outcome is [`Outcome::Lost`] from then on, whatever becomes of the event.
    pub fn announce(&self, ticket: Ticket) -> bool {
        let mut state = self.lock();
        let Some(pending) = state.get(ticket) else { return false };
        if !Fault::LossesCountAsDelivered.is_back() {
            pending.outcome = pending.outcome.max(Outcome::Lost);
        }
        !std::mem::replace(&mut pending.announced, true)
    }

    /// Whether refused messages are kept as dead letters, so that a sink may give up on what only an operator can mend.
    /// Where they are not, such messages must wait for the operator: to refuse them would lose them.
    pub fn keeps_dead_letters(&self) -> bool {
        self.keeps_dead_letters.load(Ordering::Relaxed)
    }

    /// Says whether refused messages are kept from now on.
    pub fn set_keeps_dead_letters(&self, keeps: bool) {
        self.keeps_dead_letters.store(keeps, Ordering::Relaxed);
    }

    /// A message of the record has expired: a loss event is sent on the ticket instead. The loss of that loss event is not announced.
    pub fn replace_by_news(&self, ticket: Ticket) {
        if let Some(pending) = self.lock().get(ticket) {
            (pending.outcome, pending.announced) = (Outcome::Expired, true);
        }
    }

    fn notify(&self, state: MutexGuard<'_, State>) {
        let someone_waits = state.waiting > 0;
        drop(state);
        if someone_waits {
            self.moved.notify_all();
        }
    }

    /// Takes the refusals since the last call, oldest first.
    pub fn take_refused(&self) -> Vec<Refused> {
        if !self.has_refused() {
            return Vec::new();
        }
        let mut state = self.lock();
        self.has_refused.store(false, Ordering::Release);
        std::mem::take(&mut state.refused)
    }

    /// Whether [`Self::take_refused`] would return any.
    pub fn has_refused(&self) -> bool {
        self.has_refused.load(Ordering::Acquire)
    }

    /// Whether another record may be opened.
    pub fn has_room(&self) -> bool {
        self.has_room.load(Ordering::Acquire)
    }

    fn look_for_room(&self, state: &State) {
        let has_room = state.pending.len() < self.bounds.records && state.held_bytes < self.bounds.bytes;
        self.has_room.store(has_room, Ordering::Release);
    }

    /// A count that grows with every report; for [`Self::wait_past`].
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Acquire)
    }

    /// Waits until [`Self::events`] is no longer `seen`, for at most `timeout`.
    pub fn wait_past(&self, seen: u64, timeout: Duration) {
        clock::pass(timeout, || {
            let unmoved = |_: &mut State| self.events() == seen;
            let mut state = self.lock();
            state.waiting += 1;
            let waited = self.moved.wait_timeout_while(state, timeout, unmoved);
            waited.unwrap_or_else(PoisonError::into_inner).0.waiting -= 1;
        });
    }

    /// The outcomes of all writes so far.
    pub fn outcomes(&self) -> Outcomes {
        self.lock().outcomes
    }

    /// The number of entries in flight.
    pub fn in_flight(&self) -> usize {
        self.lock().pending.len()
    }
}

impl State {
    fn next_ticket(&self) -> Ticket {
        Ticket::from_number(self.first + self.pending.len() as u64)
    }

    fn get(&mut self, ticket: Ticket) -> Option<&mut Pending> {
        let index = usize::try_from(ticket.number().checked_sub(self.first)?).ok()?;
        self.pending.get_mut(index)
    }

    fn settle(&mut self, tickets: &[Ticket], outcome: Outcome) {
        for ticket in tickets {
            if let Some(pending) = self.get(*ticket) {
                pending.messages = pending.messages.saturating_sub(1);
                pending.outcome = pending.outcome.max(outcome);
            }
        }
        let mut progress = Progress::default();
        while let Some(done) = self.pending.pop_front_if(|p| p.messages == 0) {
            let Record { end, sequence, data_bytes, held_bytes, is_write, .. } = done.record;
            self.first += 1;
            self.held_bytes -= held_bytes;
            let next = sequence.map(|s| s.wrapping_add(1));
            // Behind damage the next number is unknown (None). An entry that ends where the one before ended, such as one
            // beside the ring, leaves the number as it is.
            let is_behind = end > self.last_end.max(progress.end);
            progress.next_sequence = if is_behind { next } else { next.or(progress.next_sequence) };
            progress.end = end;
            progress.has_delivered |= done.outcome == Outcome::Delivered;
            if is_write {
                progress.outcomes.add(done.outcome, data_bytes);
            }
        }
        if progress.end > 0 {
            self.last_end = progress.end;
            self.outcomes.add_all(&progress.outcomes);
            let ahead = self.joined.pass(Ticket::from_number(self.first));
            if !ahead.is_empty() {
                self.ledger.tell_ahead(progress.end, ahead);
            }
            self.ledger.advance(&progress);
            self.note_in_flight();
        }
    }

    fn note_in_flight(&mut self) {
        let oldest_ns = self.pending.front().map_or(0, |p| p.record.time_ns);
        self.ledger.in_flight(self.pending.len() as u64, oldest_ns);
    }
}

#[cfg(test)]
#[path = "frontier_tests.rs"]
mod tests;
