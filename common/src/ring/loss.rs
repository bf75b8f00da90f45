//! Counts of what the ring could not take, kept in the segment so that a killed agent forgets none of them.
//!
//! Totals by reason only grow. An announcement (a LOST record) carries the difference between the totals and
//! what was announced before; the announced totals lie in two slots, each bound to the tail that makes its
//! announcement visible, so that after a crash exactly one of them is valid.
//!
//! What a quota withholds is announced file by file, with the file's path. The segment holds its totals alone; which
//! file had how much of them is for the agent to know, and until it says so the ledger *holds* that part back. Of an
//! agent that was killed nobody knows it any more: its successor announces the sum.

use crate::{
    fail_point::FailPoint,
    record::{Loss, LossReason},
    sync::Ordering,
};

use super::{
    layout::{self, ANNOUNCE_SLOT_LEN, ANNOUNCE_SLOTS, LOSS_TOTAL_LEN, LOSS_TOTALS},
    memory::Memory,
    weight::Weight,
};

/// How many reasons the layout has room for.
const REASONS: usize = 8;
/// The bound tail of a slot that holds nothing.
const NO_TAIL: u64 = u64::MAX;

const _: () = assert!(LossReason::ALL.len() <= REASONS);

/// Events and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    events: u64,
    bytes: u64,
}

impl Sum {
    fn plus(self, other: Self) -> Self {
        Self { events: self.events + other.events, bytes: self.bytes + other.bytes }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            events: self.events.saturating_sub(other.events),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

/// The losses of one ring: the agent's private copy of what the segment holds.
pub(crate) struct LossLedger {
    totals: [Sum; REASONS],
    /// First and last time of what is not yet staged, in nanoseconds since the epoch.
    window: [(u64, u64); REASONS],
    announced: [Sum; REASONS],
    /// The totals as of an announcement that is reserved but not yet visible.
    staged: Option<[Sum; REASONS]>,
    /// Which announcement slot is written next.
    slot: usize,
    /// Whether the totals, less what is held, are ahead of what is announced and staged.
    dirty: bool,
    /// What of the totals for [`LossReason::Quota`] is to be announced file by file.
    held: Sum,
}

impl LossLedger {
    /// Reads the ledger of a ring whose tail is `tail`.
    pub(crate) fn load<M: Memory>(memory: &M, tail: u64) -> Self {
        let word = |at: usize| memory.data_word(at).load(Ordering::Relaxed);
        let mut ledger = Self {
            totals: [Sum::default(); REASONS],
            window: [(0, 0); REASONS],
            announced: [Sum::default(); REASONS],
            staged: None,
            slot: 0,
            dirty: false,
            held: Sum::default(),
        };
        for i in 0..REASONS {
            let at = LOSS_TOTALS + i * LOSS_TOTAL_LEN;
            ledger.totals[i] = Sum { events: word(at), bytes: word(at + 8) };
            ledger.window[i] = (word(at + 16), word(at + 24));
        }
        let mut valid = None;
        for slot in 0..2 {
            let at = slot_at(slot);
            let bound = word(at);
            // One that is bound to a later tail never became visible. It is what the next announcement overwrites,
            // and that comes before any other record: what it was to announce is still unannounced.
            if bound <= tail && valid.is_none_or(|(best, _)| bound >= best) {
                valid = Some((bound, slot));
            }
        }
        if let Some((_, slot)) = valid {
            for (i, sum) in ledger.announced.iter_mut().enumerate() {
                let at = slot_at(slot) + 8 + i * 16;
                *sum = Sum { events: word(at), bytes: word(at + 8) };
            }
            ledger.slot = 1 - slot;
        }
        ledger.dirty = ledger.totals != ledger.announced;
        ledger
    }

    /// A ledger for the new ring in `memory`, which goes on where this one stands. What is not yet announced, or is on its
    /// way and not visible, is announced there.
    pub(crate) fn continue_in<M: Memory>(&self, memory: &M) -> Self {
        for (i, (total, window)) in self.totals.iter().zip(self.window).enumerate() {
            write_total(memory, i, *total, window);
        }
        // Of two slots with the same bound the second is valid.
        write_slot(memory, 1, &self.announced, 0);
        Self { staged: None, slot: 0, dirty: true, ..*self }
    }

    /// What is counted and announced by now.
    pub(crate) fn counted(&self) -> Counted {
        Counted { totals: self.totals, announced: self.announced, held: self.held }
    }

    /// Takes over what the ledger that this one continues has counted and announced between `then` and `now`.
    pub(crate) fn add_since<M: Memory>(&mut self, memory: &M, then: &Counted, now: &Counted) {
        for i in 0..REASONS {
            self.totals[i] = self.totals[i].plus(now.totals[i].minus(then.totals[i]));
            self.announced[i] = self.announced[i].plus(now.announced[i].minus(then.announced[i]));
            write_total(memory, i, self.totals[i], self.window[i]);
        }
        self.held = self.held.plus(now.held.minus(then.held)).minus(then.held.minus(now.held));
        self.dirty = true;
    }

    /// The announcement of a loss has never been read: it is to be made again.
    pub(crate) fn unannounce(&mut self, loss: &Loss) {
        let i = loss.reason as usize;
        self.announced[i] = self.announced[i].minus(Sum { events: loss.events, bytes: loss.bytes });
        let (first, last) = self.window[i];
        self.window[i] = (first.min(loss.first_ns), last.max(loss.last_ns));
        self.dirty = true;
    }

    /// Adds writes to the totals; `weight` is that of all.
    pub(crate) fn count<M: Memory>(&mut self, memory: &M, reason: LossReason, events: u64, weight: Weight) {
        let i = reason as usize;
        let fresh = self.totals[i] == self.staged.unwrap_or(self.announced)[i];
        let sum = Sum { events, bytes: weight.bytes };
        self.totals[i] = self.totals[i].plus(sum);
        if reason == LossReason::Quota {
            self.held = self.held.plus(sum);
        } else {
            self.dirty = true;
        }
        let first = if fresh { weight.time_ns } else { self.window[i].0.min(weight.time_ns) };
        let last = if fresh { weight.time_ns } else { self.window[i].1.max(weight.time_ns) };
        self.window[i] = (first, last);
        write_total(memory, i, self.totals[i], self.window[i]);
        FailPoint::LossCounted.reach();
    }

    /// Part of what is held is not to be announced by file any more, but with the rest.
    pub(crate) fn let_go(&mut self, events: u64, bytes: u64) {
        self.held = self.held.minus(Sum { events, bytes });
        self.dirty = true;
    }

    /// Whether an announcement is on its way.
    pub(crate) fn is_staged(&self) -> bool {
        self.staged.is_some()
    }

    /// The totals without what is held.
    fn due(&self) -> [Sum; REASONS] {
        let mut due = self.totals;
        due[LossReason::Quota as usize] = due[LossReason::Quota as usize].minus(self.held);
        due
    }

    /// Whether there is anything to announce, or an announcement on its way.
    pub(crate) fn has_news(&self) -> bool {
        self.dirty || self.staged.is_some()
    }

    /// What is to be announced; nothing while an earlier announcement is on its way.
    pub(crate) fn unannounced(&self) -> Vec<Loss> {
        if self.staged.is_some() || !self.dirty {
            return Vec::new();
        }
        let due = self.due();
        let losses = LossReason::ALL.iter().filter_map(|&reason| {
            let i = reason as usize;
            let Sum { events, bytes } = due[i].minus(self.announced[i]);
            let (first_ns, last_ns) = self.window[i];
            (events > 0).then_some(Loss { reason, events, bytes, first_ns, last_ns })
        });
        losses.collect()
    }

    /// Notes that all losses so far, and `of_file` of what is held, are announced by records that become visible with
    /// the tail `bound`.
    pub(crate) fn stage<M: Memory>(&mut self, memory: &M, bound: u64, of_file: Option<&Loss>) {
        let of_file = of_file.map_or(Sum::default(), |loss| Sum { events: loss.events, bytes: loss.bytes });
        self.held = self.held.minus(of_file);
        let due = self.due();
        write_slot(memory, self.slot, &due, bound);
        FailPoint::AnnouncementStaged.reach();
        self.staged = Some(due);
        self.dirty = false;
    }

    /// The staged announcement is visible.
    pub(crate) fn committed(&mut self) {
        if let Some(totals) = self.staged.take() {
            self.announced = totals;
            self.slot = 1 - self.slot;
        }
    }
}

/// What a ledger has counted at some moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    totals: [Sum; REASONS],
    announced: [Sum; REASONS],
    held: Sum,
}

/// Writes a reason's total, with the first and last time of what is not announced.
fn write_total<M: Memory>(memory: &M, reason: usize, total: Sum, (first, last): (u64, u64)) {
    let at = LOSS_TOTALS + reason * LOSS_TOTAL_LEN;
    for (offset, value) in [(16, first), (24, last), (8, total.bytes), (0, total.events)] {
        memory.data_word(at + offset).store(value, Ordering::Release);
    }
}

/// Writes what is announced once the tail reaches `bound`.
fn write_slot<M: Memory>(memory: &M, slot: usize, announced: &[Sum; REASONS], bound: u64) {
    let at = slot_at(slot);
    memory.data_word(at).store(NO_TAIL, Ordering::Release);
    for (i, sum) in announced.iter().enumerate() {
        memory.data_word(at + 8 + i * 16).store(sum.events, Ordering::Release);
        memory.data_word(at + 16 + i * 16).store(sum.bytes, Ordering::Release);
    }
    memory.data_word(at).store(bound, Ordering::Release);
}

/// The losses by reason that a segment's counters hold: events and bytes.
pub(crate) fn totals<M: Memory>(memory: &M) -> Vec<(LossReason, u64, u64)> {
    let word = |at: usize| memory.data_word(at).load(Ordering::Relaxed);
    let of = |reason: LossReason| {
        let at = LOSS_TOTALS + reason as usize * LOSS_TOTAL_LEN;
        (reason, word(at), word(at + 8))
    };
    LossReason::ALL.iter().map(|&reason| of(reason)).collect()
}

fn slot_at(slot: usize) -> usize {
    ANNOUNCE_SLOTS + slot * ANNOUNCE_SLOT_LEN
}

const _: () = assert!(8 + REASONS * 16 <= layout::ANNOUNCE_SLOT_LEN);
