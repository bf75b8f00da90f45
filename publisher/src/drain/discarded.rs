//! What an operator has discarded: counted beside the ring, until an event has told of it.

use bywash_common::status::{PublisherCounter as Counter, PublisherStatus};

/// Writes that are discarded, and that no event has told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Discarded {
    /// How many were discarded before that events have told of.
    pub before: u64,
    /// How many these are.
    pub records: u64,
    /// The captured bytes in them.
    pub bytes: u64,
    /// When the first was captured, in nanoseconds since the epoch.
    pub first_ns: u64,
    /// When the last was.
    pub last_ns: u64,
}

impl Discarded {
    /// Some writes, captured between two moments.
    pub fn some(records: u64, bytes: u64, first_ns: u64, last_ns: u64) -> Self {
        Self { before: 0, records, bytes, first_ns, last_ns }
    }

    /// Adds others.
    pub fn add_all(&mut self, others: &Self) {
        if others.records == 0 {
            return;
        }
        self.first_ns = if self.records == 0 { others.first_ns } else { self.first_ns.min(others.first_ns) };
        self.last_ns = self.last_ns.max(others.last_ns);
        self.records += others.records;
        self.bytes += others.bytes;
    }

    /// What is to be told.
    pub fn untold(status: &PublisherStatus) -> Option<Self> {
        let counters = status.snapshot();
        let of = |counter: Counter| counters.get(counter as usize).copied().unwrap_or_default();
        let before = of(Counter::DiscardedToldEvents);
        let untold = Self {
            before,
            records: of(Counter::DiscardedEvents).saturating_sub(before),
            bytes: of(Counter::DiscardedBytes).saturating_sub(of(Counter::DiscardedToldBytes)),
            first_ns: of(Counter::DiscardedFirstNs),
            last_ns: of(Counter::DiscardedLastNs),
        };
        (untold.records > 0).then_some(untold)
    }

    /// Notes that they are to be told.
    pub fn note(&self, status: &PublisherStatus) {
        if self.records == 0 {
            return;
        }
        let mut all = Self::untold(status).unwrap_or_default();
        all.add_all(self);
        status.set(Counter::DiscardedFirstNs, all.first_ns);
        status.set(Counter::DiscardedLastNs, all.last_ns);
        status.add(Counter::DiscardedBytes, self.bytes);
        status.add(Counter::DiscardedEvents, self.records);
    }

    /// An event has told of them.
    pub fn tell(&self, status: &PublisherStatus) {
        status.add(Counter::DiscardedToldBytes, self.bytes);
        status.add(Counter::DiscardedToldEvents, self.records);
    }
}
