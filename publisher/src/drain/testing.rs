//! What tests of the drain and of sinks share.

use std::sync::Arc;

use super::frontier::{Bounds, Frontier, Ledger, Progress, Record};

struct Nowhere;

impl Ledger for Nowhere {
    fn advance(&mut self, _: &Progress) {}
    fn in_flight(&mut self, _: u64, _: u64) {}
}

/// A frontier without a ring.
pub fn frontier() -> Arc<Frontier> {
    Arc::new(Frontier::new(Bounds { records: 1000, bytes: u64::MAX }, Box::new(Nowhere)))
}

/// The `i`-th record.
pub fn record(i: u64) -> Record {
    Record { end: (i + 1) * 8, sequence: Some(i), time_ns: i, data_bytes: 1, held_bytes: 1, is_write: true }
}
