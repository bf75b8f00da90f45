//! Delivery to Kinesis, through a proxy that does what networks and services do.

mod consume;
mod credentials;
mod delivery;
mod fairness;
mod faults;
mod kill;
mod shards;
mod trouble;

use std::path::PathBuf;

use bywash_tests::harness::{Bywash, Event, FaultProxy, Kinesis, Reader, Settings, ledger};

use crate::append;

/// Small batches, soon sent.
const SMALL: Settings = Settings {
    publisher: "flush_interval = \"10ms\"
batch_records = 5",
    ..Settings::DEFAULT
};

/// Requests that are not answered soon count as failed; on a busy machine that may be any.
const IMPATIENT: Settings = Settings { kinesis: "request_timeout = \"2s\"", ..SMALL };

/// Kinesis with the stream `logs` of two shards, a proxy before it, and both services, sending to the proxy.
fn start(settings: &Settings) -> (Kinesis, FaultProxy, Bywash) {
    let kinesis = Kinesis::start();
    kinesis.create_stream("logs", 2);
    let proxy = FaultProxy::start(&kinesis);
    let mut bywash = Bywash::for_kinesis(&proxy.url(), settings);
    bywash.start_agent();
    bywash.start_publisher();
    (kinesis, proxy, bywash)
}

/// Lines in some files, each a write.
struct Lines {
    /// What the files' names begin with.
    name: String,
    files: usize,
    /// How many lines each file has.
    rounds: usize,
}

impl Lines {
    fn new(files: usize, rounds: usize) -> Self {
        Self { name: "f".to_owned(), files, rounds }
    }

    fn count(&self) -> usize {
        self.files * self.rounds
    }

    fn file(&self, bywash: &Bywash, file: usize) -> PathBuf {
        bywash.file(&format!("{}{file}", self.name))
    }

    /// Writes them, to the files in turns.
    fn write(&self, bywash: &Bywash) {
        for round in 0..self.rounds {
            for file in 0..self.files {
                append(&self.file(bywash, file), format!("{file} {round:05}\n").as_bytes());
            }
        }
    }

    /// Each file's lines are complete and in order, by their first arrival. Gives how many repetitions there were.
    #[track_caller]
    fn assert_in_order(&self, bywash: &Bywash, events: &[Event]) -> usize {
        let (events, duplicates) = ledger::distinct(events.to_vec());
        let by_path = ledger::by_path(&events);
        for file in 0..self.files {
            let events = &by_path[self.file(bywash, file).to_str().unwrap()];
            ledger::assert_contiguous(events);
            let content: String = (0..self.rounds).map(|round| format!("{file} {round:05}\n")).collect();
            ledger::assert_same_bytes("a file", content.as_bytes(), &ledger::replay(events.iter().copied()));
        }
        assert_eq!(ledger::lost(&events), (0, 0));
        duplicates
    }

    /// Reads until all are there, and holds them to the order. Gives how many repetitions there were.
    #[track_caller]
    fn assert_arrive(&self, bywash: &Bywash, reader: &mut Reader) -> usize {
        let events = reader.events(self.count());
        self.assert_in_order(bywash, &events)
    }
}
