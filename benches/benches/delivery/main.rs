#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)] // A benchmark that cannot measure has to stop.
//! Ring to Kafka, beside a bare librdkafka producer: `cargo bench --bench delivery`.
//!
//! ```text
//! cargo bench --bench delivery -- [--rounds N] [--events N]
//! ```
//!
//! The ring is filled before the clock starts. The publisher's time runs from the start of its process until the broker has confirmed
//! the last event; the bare producer's from its creation until the same. It sends the same messages: the payloads that the publisher
//! sends, encoded beforehand, under the same keys, with the same two headers; and in a third turn key and payload alone. All send to
//! the same broker, with librdkafka's same properties, to topics of their own. Wanted: at least 0.85 of the bare producer with the
//! same messages. Two runs gave 1.21 and 0.97 at 200 bytes (0.96 and 0.84 without headers), 0.81 and 1.08 at 4096 (0.95 and 1.06).

mod bare;
mod ring;

use std::time::Duration;

use bare::Kind;
use bywash_benches::{Writes, median};
use bywash_tests::harness::Broker;

/// Rounds of each measurement; the table shows medians.
const ROUNDS: usize = 5;
/// Events of 200 bytes in a round; of larger ones as many as make the same number of bytes, but at least a tenth.
const EVENTS: usize = 400_000;
/// Bytes of a message.
const SIZES: [usize; 2] = [200, 4096];

/// The least share of the bare producer's events/s that is good enough.
const WANTED: f64 = 0.85;

/// Who sends: the publisher, or a bare producer.
const SUBJECTS: [Option<Kind>; 3] = [None, Some(Kind::Same), Some(Kind::NoHeaders)];

/// How many files the writes are spread over.
const FILES: usize = 8;

/// One measurement.
pub struct Taken {
    /// From the start until the last confirmation.
    pub wall: Duration,
    /// Processor time that it took on this side of the broker.
    pub cpu: Duration,
}

/// What the command line says.
struct Arguments {
    rounds: usize,
    events: usize,
}

impl Arguments {
    fn parse() -> Self {
        let mut parsed = Self { rounds: ROUNDS, events: EVENTS };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().and_then(|v| v.parse().ok()).expect("a number behind the option");
            match argument.as_str() {
                // From cargo.
                "--bench" => {}
                "--rounds" => parsed.rounds = value(),
                "--events" => parsed.events = value(),
                other => panic!("{other} is no option"),
            }
        }
        parsed
    }
}

fn main() {
    let arguments = Arguments::parse();
    println!(
        "| bytes | events | bywash events/s | bare, same messages | ratio (wanted) | bare, no headers | ratio | bywash CPU us | bare CPU us |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for size in SIZES {
        let events = (arguments.events * SIZES[0] / size).max(arguments.events / 10);
        let writes = Writes { size, files: FILES, count: events };
        let mut figures = [const { Figures::new() }; SUBJECTS.len()];
        for round in 0..arguments.rounds {
            eprintln!("{size} bytes: round {} of {}", round + 1, arguments.rounds);
            // The broker keeps everything in memory.
            let broker = Broker::start();
            // Whoever comes first finds another machine than whoever comes last.
            for turn in 0..SUBJECTS.len() {
                let at = (turn + round) % SUBJECTS.len();
                figures[at].add(match SUBJECTS[at] {
                    None => ring::measure(&broker, writes),
                    Some(kind) => bare::measure(&broker, writes, kind),
                });
            }
        }
        let rate = |seconds: f64| events as f64 / seconds;
        let [our, same, plain] = figures.each_mut().map(Figures::wall_median);
        let [our_cpu, same_cpu, _] = figures.each_mut().map(|f| f.cpu_median() * 1e6 / events as f64);
        println!(
            "| {size} | {events} | {:.0} | {:.0} | {:.2} ({WANTED}) | {:.0} | {:.2} | {our_cpu:.2} | {same_cpu:.2} |",
            rate(our),
            rate(same),
            same / our,
            rate(plain),
            plain / our,
        );
    }
}

/// What the rounds gave, in seconds.
struct Figures {
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

impl Figures {
    const fn new() -> Self {
        Self { wall: Vec::new(), cpu: Vec::new() }
    }

    fn add(&mut self, taken: Taken) {
        self.wall.push(taken.wall.as_secs_f64());
        self.cpu.push(taken.cpu.as_secs_f64());
    }

    fn wall_median(&mut self) -> f64 {
        median(&mut self.wall)
    }

    fn cpu_median(&mut self) -> f64 {
        median(&mut self.cpu)
    }
}
