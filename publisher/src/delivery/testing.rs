//! What tests of the drain and of sinks share.

use std::{fs::remove_file, process, sync::Arc};

use bywash_common::{
    config::RingConfig,
    ring::{AgentRing, SEGMENT_DIR},
    units::ByteSize,
};

use uuid::Uuid;

use super::{
    frontier::{Bounds, Frontier, Ledger, Progress, Record},
    id::{EventId, Subject},
};

struct Nowhere;

impl Ledger for Nowhere {
    fn advance(&mut self, _: &Progress) {}
    fn in_flight(&mut self, _: u64, _: u64) {}
}

/// The id of the record with this number.
pub fn id(sequence: u64) -> EventId {
    EventId { ring: Uuid::nil(), subject: Subject::Bytes { sequence, stretch: None } }
}

/// The rendering of `id(1)`.
pub const ID_1: &str = "00000000-0000-0000-0000-000000000000-1";

/// A frontier without a ring.
pub fn frontier() -> Arc<Frontier> {
    Arc::new(Frontier::new(Bounds { records: 1000, bytes: u64::MAX }, Box::new(Nowhere)))
}

/// The `i`-th record.
pub fn record(i: u64) -> Record {
    Record { end: (i + 1) * 8, sequence: Some(i), time_ns: i, data_bytes: 1, held_bytes: 1, is_write: true }
}

/// A ring of its own for each test, removed with it.
pub struct TestRing {
    /// The end that writes.
    pub agent: AgentRing,
    /// Its name, for the other end.
    pub name: String,
}

impl TestRing {
    /// A ring of 1 MiB.
    pub fn new(test: &str) -> Self {
        let name = format!("bywash-test-{}-{test}", process::id());
        let config = RingConfig { name: name.clone(), size: ByteSize(1 << 20), group: None };
        Self { agent: AgentRing::open(&config).unwrap(), name }
    }
}

impl Drop for TestRing {
    fn drop(&mut self) {
        for generation in 1..=2 {
            for role in ["ring", "ack"] {
                drop(remove_file(format!("{SEGMENT_DIR}/{}.{generation}.{role}", self.name)));
            }
        }
    }
}
