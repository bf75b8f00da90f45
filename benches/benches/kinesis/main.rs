#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)] // A benchmark that cannot measure has to stop.
//! Ring to Kinesis, beside the bare SDK: `cargo bench -p bywash-benches --bench kinesis`.
//!
//! ```text
//! cargo bench -p bywash-benches --bench kinesis -- [--rounds N] [--events N]
//! ```
//!
//! The ring is filled before the clock starts. The publisher's time runs from the start of its process until Kinesis has
//! confirmed the last event; the bare SDK's from the start of its process until the same: as many requests at a time, each
//! with as many records as it may hold, the same keys, and the payloads that the publisher sends, encoded beforehand. Both
//! send to the same Kinesis in turns, to streams of their own.

mod bare;
mod ring;

use bywash_benches::{Writes, median};
use bywash_tests::harness::Kinesis;

/// Rounds of each measurement; the table shows medians.
const ROUNDS: usize = 5;
/// The least share of the bare SDK's events/s that is good enough.
const WANTED: f64 = 0.85;
/// Events of a round.
const EVENTS: usize = 40_000;
/// Shards of each stream.
const SHARDS: u32 = 4;

/// What is measured.
#[derive(Clone, Copy)]
pub struct Case {
    /// For people.
    name: &'static str,
    /// Bytes of a write.
    size: usize,
    /// How many files the writes are spread over.
    files: usize,
    /// The publisher's `[kinesis]`, beside the stream and where it is.
    kinesis: &'static str,
}

impl Case {
    fn writes(self, count: usize) -> Writes {
        Writes { size: self.size, files: self.files, count }
    }
}

const CASES: [Case; 5] = [
    Case { name: "1000 B, 4000 files", size: 1000, files: 4000, kinesis: "" },
    Case { name: "100 B, 4000 files", size: 100, files: 4000, kinesis: "" },
    Case { name: "100 B, 8 files, relaxed order", size: 100, files: 8, kinesis: "strict_order = false" },
    Case { name: "100 B, 8 files, aggregated", size: 100, files: 8, kinesis: "aggregate = true" },
    Case { name: "100 B, 4000 files, aggregated", size: 100, files: 4000, kinesis: "aggregate = true" },
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [bare, rest @ ..] = &arguments[..]
        && bare == "bare"
    {
        return bare::send(rest);
    }
    let option = |name: &str, default| {
        let at = arguments.iter().position(|argument| argument == name);
        at.map_or(default, |at| arguments[at + 1].parse().expect("a number behind the option"))
    };
    let (rounds, events) = (option("--rounds", ROUNDS), option("--events", EVENTS));
    println!("| case | events | bywash events/s | bare events/s | bywash/bare | bywash events/request |");
    println!("|---|---:|---:|---:|---:|---:|");
    for case in CASES {
        let (mut ours, mut bares) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            eprintln!("{}: round {} of {rounds}", case.name, round + 1);
            // It keeps everything in memory.
            let kinesis = Kinesis::start();
            for stream in [ring::STREAM, bare::STREAM] {
                kinesis.create_stream(stream, SHARDS);
            }
            // Whoever comes first finds another machine than whoever comes last.
            for turn in 0..2 {
                if (turn + round) % 2 == 0 {
                    ours.push(ring::measure(&kinesis, case, events));
                } else {
                    bares.push(bare::measure(&kinesis, case, events));
                }
            }
        }
        let (our, bare) = (median(&mut ours), median(&mut bares));
        let rate = |seconds: f64| events as f64 / seconds;
        println!(
            "| {} | {events} | {:.0} | {:.0} | {:.2} | {:.0} |",
            case.name,
            rate(our),
            rate(bare),
            bare / our,
            ring::events_per_request(case, events),
        );
    }
    println!("\nWanted: {WANTED} of the bare SDK or more.");
}
