//! What tests of the drain and of sinks share.

use std::{
    fs::{File, remove_file},
    io::Read as _,
    os::unix::fs::FileExt as _,
    process,
    sync::Arc,
};

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

/// Bytes in front of a record's payload, as the ring's documentation says.
const RECORD_HEADER: usize = 24;
/// Where the ring's tail is in its first object, as its documentation says.
const TAIL: u64 = 0x80;

impl TestRing {
    fn object(&self) -> File {
        let path = format!("{SEGMENT_DIR}/{}.1.ring", self.name);
        File::options().read(true).write(true).open(path).unwrap()
    }

    /// Begins anew: what was in memory is gone.
    pub fn reboot(&mut self) {
        self.remove();
        let config = RingConfig { name: self.name.clone(), size: ByteSize(1 << 20), group: None };
        self.agent = AgentRing::open(&config).unwrap();
    }

    fn remove(&self) {
        for generation in 1..=2 {
            for role in ["ring", "ack"] {
                drop(remove_file(format!("{SEGMENT_DIR}/{}.{generation}.{role}", self.name)));
            }
        }
    }

    /// Overwrites bytes that were written last with others.
    pub fn damage(&self, bytes: &[u8]) {
        self.damage_at(bytes, 0, bytes.len());
    }

    /// Overwrites the header of the record that begins with these bytes.
    pub fn damage_header_of(&self, bytes: &[u8]) {
        self.damage_at(bytes, RECORD_HEADER, RECORD_HEADER);
    }

    fn damage_at(&self, bytes: &[u8], before: usize, len: usize) {
        let mut object = self.object();
        let mut content = Vec::new();
        object.read_to_end(&mut content).unwrap();
        let at = content.windows(bytes.len()).rposition(|window| window == bytes).unwrap();
        object.write_all_at(&vec![b'#'; len], (at - before) as u64).unwrap();
    }

    /// Has the ring say that its tail is this far behind where it is.
    pub fn move_tail(&self, by: u64) {
        let object = self.object();
        let mut tail = [0; 8];
        object.read_exact_at(&mut tail, TAIL).unwrap();
        object.write_all_at(&(u64::from_ne_bytes(tail) + by).to_ne_bytes(), TAIL).unwrap();
    }
}

impl Drop for TestRing {
    fn drop(&mut self) {
        self.remove();
    }
}
