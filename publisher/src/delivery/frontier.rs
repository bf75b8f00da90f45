//! Which records are delivered, and how far without a gap: only that far may the ring forget.
//!
//! The drain opens an entry for each record in the ring's order; delivery reports complete them in any order, from
//! any thread. When the oldest entries are complete, the [`Ledger`] moves on over them.

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

/// A record that is on its way to the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it ends in the ring.
    pub end: u64,
    /// Its number in the ring, if it is known.
    pub sequence: Option<u64>,
    /// When it was captured, in nanoseconds since the epoch.
    pub time_ns: u64,
    /// Bytes that were written; counts as delivered data.
    pub data_bytes: u64,
    /// Bytes that it takes in memory until it is delivered.
    pub held_bytes: u64,
    /// It is a write, not news of a loss.
    pub is_write: bool,
}

impl Record {
    /// What the frontier keeps of a write.
    pub fn of_write(entry: Entry, write: &Write<'_>, data: &[u8]) -> Self {
        Self::of_bytes(entry, write, data.len())
    }

    /// The same of a write of so many bytes.
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

    /// What it keeps of news, which hold no bytes of a write.
    pub fn of_news(end: u64, sequence: Option<u64>, time_ns: u64) -> Self {
        Self { end, sequence, time_ns, data_bytes: 0, held_bytes: 0, is_write: false }
    }
}

/// What the frontier has moved over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The ring may forget what lies before this position.
    pub end: u64,
    /// The sequence number that follows the last delivered record's. None behind damage, and where the position is the one
    /// before.
    pub next_sequence: Option<u64>,
    /// What has become of the writes since the last time.
    pub outcomes: Outcomes,
    /// The sink has confirmed something, be it news.
    pub has_delivered: bool,
}

/// Where the frontier's moves are written down.
pub trait Ledger: Send {
    /// Everything before `progress.end` is delivered. Called with growing ends.
    fn advance(&mut self, progress: &Progress);

    /// What of the records behind `end` is delivered, before [`Self::advance`] moves there.
    fn tell_ahead(&mut self, _end: u64, _ahead: &[SelectiveAck]) {}

    /// How many records are on their way, and when the oldest was captured; 0 without any.
    fn in_flight(&mut self, records: u64, oldest_ns: u64);
}

/// How much may be on its way.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Records.
    pub records: usize,
    /// Bytes that they take.
    pub bytes: u64,
}

/// A message that the sink will never take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The record that it belongs to; it stays open until someone completes it.
    pub ticket: Ticket,
    /// What the record is.
    pub record: Record,
    /// The message, and why.
    pub dead_letter: DeadLetter,
    /// An operator can make it possible: where it cannot be kept it waits for that, and is never lost.
    pub is_mendable: bool,
}

struct Pending {
    record: Record,
    /// Messages whose outcome has not been reported.
    messages: u32,
    /// The worst outcome so far.
    outcome: Outcome,
    /// It is no record of what is read.
    is_beside: bool,
    /// When what its messages tell of happened, in nanoseconds since the epoch.
    event_ns: u64,
    /// One of its messages was refused, and that is being announced in an event.
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
    /// Threads in [`Frontier::wait_past`]. Only they are worth the system call of a notification.
    waiting: usize,
    /// What has become of all writes so far.
    outcomes: Outcomes,
}

/// The records between the ring's head and what was read last.
pub struct Frontier {
    bounds: Bounds,
    state: Mutex<State>,
    moved: Condvar,
    keeps_dead_letters: AtomicBool,
    // What the drain asks for with every record, so that it need not wait for the lock. Changed under the lock alone.
    /// Another record may be opened.
    has_room: AtomicBool,
    /// Somebody may take a refusal.
    has_refused: AtomicBool,
    /// Refusals that nobody has dealt with, taken or not.
    open_refusals: AtomicUsize,
    /// Counts what may let a waiting drain go on.
    events: AtomicU64,
}

impl Frontier {
    /// A frontier with nothing on its way.
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

    /// Turns to another ring. The old one's records must all be complete.
    pub fn follow(&self, ledger: Box<dyn Ledger>) {
        let mut state = self.lock();
        debug_assert!(state.pending.is_empty());
        state.ledger = ledger;
        state.last_end = 0;
    }

    /// Writes down somewhere else how far the same ring is delivered.
    pub fn set_ledger(&self, ledger: Box<dyn Ledger>) {
        let mut state = self.lock();
        state.ledger = ledger;
        state.note_in_flight();
    }

    /// Takes a record on its way. It is complete after one report, or as many more as [`Self::expect_more`] says.
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

    /// Takes a message on its way that is no record of what is read: it ends where the last record ends. What it tells of happened at
    /// `event_ns`, and does not count as on its way since then.
    pub fn open_beside(&self, held_bytes: u64, event_ns: u64) -> Ticket {
        let end = {
            let state = self.lock();
            state.pending.back().map_or(state.last_end, |pending| pending.record.end)
        };
        self.open_as(Record { held_bytes, ..Record::of_news(end, None, now_ns()) }, true, event_ns)
    }

    /// Whether it is the ticket of a message that is no record of what is read.
    pub fn is_beside(&self, ticket: Ticket) -> bool {
        self.lock().get(ticket).is_some_and(|pending| pending.is_beside)
    }

    /// When what a record's messages tell of happened, in nanoseconds since the epoch; 0 for what is settled.
    pub fn event_ns(&self, ticket: Ticket) -> u64 {
        self.lock().get(ticket).map_or(0, |pending| pending.event_ns)
    }

    /// Whether all messages of the record, and of those before it, have been reported.
    pub fn is_done(&self, ticket: Ticket) -> bool {
        ticket.number() < self.lock().first
    }

    /// Says that the record becomes this many messages more. To be called before the last one known so far is sent.
    pub fn expect_more(&self, ticket: Ticket, messages: u32) {
        if let Some(pending) = self.lock().get(ticket) {
            pending.messages = pending.messages.saturating_add(messages);
        }
    }

    /// A message that is about to be sent holds several records.
    pub fn add_joined(&self, span: JoinedMessage) {
        self.lock().joined.add(span);
    }

    /// The ticket that the next record will get.
    pub fn next_ticket(&self) -> Ticket {
        self.lock().next_ticket()
    }

    /// The oldest record on its way.
    pub fn oldest(&self) -> Option<Ticket> {
        let state = self.lock();
        (!state.pending.is_empty()).then_some(Ticket::from_number(state.first))
    }

    /// What has become of one of the record's messages.
    pub fn settle(&self, ticket: Ticket, outcome: Outcome) {
        self.settle_all(&[ticket], outcome);
    }

    /// What has become of one message of each of the records: the same as [`Self::settle`] for each, for less.
    pub fn settle_all(&self, tickets: &[Ticket], outcome: Outcome) {
        let mut state = self.lock();
        state.settle(tickets, outcome);
        self.look_for_room(&state);
        self.events.fetch_add(tickets.len() as u64, Ordering::Release);
        self.notify(state);
    }

    /// One of the record's messages will never be delivered. It stays open until someone has dealt with the refusal: see
    /// [`Self::take_refused`], [`Self::settle_refused`] and [`Self::replaced`].
    pub fn refuse(&self, ticket: Ticket, dead_letter: DeadLetter) {
        self.take_back(ticket, dead_letter, false);
    }

    /// The same of a message that an operator has had time enough to make possible, and still can.
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

    /// A refused message is dealt with, and its record waits for it no longer.
    pub fn settle_refused(&self, ticket: Ticket, outcome: Outcome) {
        self.replaced();
        self.settle(ticket, outcome);
    }

    /// A refused message is dealt with: another one is on its way on its ticket.
    pub fn replaced(&self) {
        let _state = self.lock();
        let open = self.open_refusals.load(Ordering::Acquire);
        self.open_refusals.store(open.saturating_sub(1), Ordering::Release);
    }

    /// Whether somebody has to deal with a refusal, or is about to.
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

    /// A message of the record is too old to be sent: news take its place, and what becomes of those is not announced.
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

    /// The refusals since the last time, oldest first.
    pub fn take_refused(&self) -> Vec<Refused> {
        if !self.has_refused() {
            return Vec::new();
        }
        let mut state = self.lock();
        self.has_refused.store(false, Ordering::Release);
        std::mem::take(&mut state.refused)
    }

    /// Whether there are refusals to be taken.
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

    /// Waits until there was a report after the one that `seen` counted, at most for `timeout`.
    pub fn wait_past(&self, seen: u64, timeout: Duration) {
        clock::pass(timeout, || {
            let unmoved = |_: &mut State| self.events() == seen;
            let mut state = self.lock();
            state.waiting += 1;
            let waited = self.moved.wait_timeout_while(state, timeout, unmoved);
            waited.unwrap_or_else(PoisonError::into_inner).0.waiting -= 1;
        });
    }

    /// What has become of all writes so far.
    pub fn outcomes(&self) -> Outcomes {
        self.lock().outcomes
    }

    /// How many records are on their way.
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
            // What follows damage has any number; what ends where the last one did says nothing of numbers.
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
