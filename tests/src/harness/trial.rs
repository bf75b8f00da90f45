//! A fault, the writes around it, and the row that it gets in the table of faults.

use std::{
    collections::{BTreeSet, HashSet},
    fs::File,
    io::Write,
    time::{Duration, Instant},
};

use super::{Bywash, Event, Load, LoadReport, Reader, ledger, wait::TIMEOUT};

/// Where the table goes, beside standard output: `make faults` puts the rows of all tests together.
const TABLE_VARIABLE: &str = "FAULTS_TABLE";
/// Writes a second.
const RATE: u32 = 1_000;
/// Bytes of each.
const WRITE_BYTES: usize = 200;
/// How long is written while all is well.
const HEALTHY_TIME: Duration = Duration::from_millis(500);
/// How many missing events a failing test names.
const MISSING_SHOWN_MAX: usize = 20;
/// So many events a second are delivered and read on the slowest of machines.
const EVENTS_PER_SECOND_MIN: u64 = 3_000;
/// Bytes of the write that comes last of all.
const LAST: &[u8] = b"the last write";

/// What is written around a fault, and what comes of it.
pub struct Trial {
    fault: &'static str,
    began: Instant,
    done: Vec<(Load, LoadReport)>,
    /// Writes beside those.
    more: u64,
}

/// What became of everything that was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Writes that have returned all their bytes.
    pub sent: u64,
    /// Those that arrived.
    pub received: u64,
    /// Those that loss events own up to.
    pub announced: u64,
    /// Messages among the dead letters.
    pub dead_letters: u64,
    /// Events that came once more, under the same id and with the same content.
    pub duplicates: u64,
}

impl Outcome {
    /// Writes that nothing speaks of.
    pub fn lost(&self) -> i64 {
        self.sent.cast_signed() - (self.received + self.announced + self.dead_letters).cast_signed()
    }
}

impl Trial {
    /// Writes for a while, to compare with what comes later.
    pub fn begin(fault: &'static str, bywash: &mut Bywash) -> Self {
        let mut trial = Self { fault, began: Instant::now(), done: Vec::new(), more: 0 };
        trial.write_during(bywash, HEALTHY_TIME, |_| ());
        trial
    }

    /// Writes for so long, and meanwhile has something happen. All writes return while that lasts: a fault that this
    /// brings and does not end is there until the last of them has.
    #[track_caller]
    pub fn write_during(&mut self, bywash: &mut Bywash, time: Duration, happen: impl FnOnce(&mut Bywash)) {
        let load = self.load(bywash, time);
        let writer = load.start(bywash.root());
        happen(bywash);
        let report = writer.finish(time + TIMEOUT * 2);
        report.assert_complete(&load);
        self.done.push((load, report));
    }

    fn load(&self, bywash: &Bywash, time: Duration) -> Load {
        let id = u32::try_from(self.done.len()).expect("few loads");
        Load {
            id,
            files: ["a", "b"].map(|name| bywash.file(&format!("{id}-{name}"))).to_vec(),
            count: u64::try_from(time.as_millis()).expect("a short time") * u64::from(RATE) / 1_000,
            bytes: WRITE_BYTES,
            rate: RATE,
        }
    }

    /// Writes for so long, as fast as it goes.
    #[track_caller]
    pub fn write_at_full_speed(&mut self, bywash: &Bywash, time: Duration) {
        let load = Load { count: u64::MAX, rate: 0, ..self.load(bywash, time) };
        let writer = load.start(bywash.root());
        std::thread::sleep(time);
        let report = writer.stop();
        assert_eq!(report.error, None, "a write failed");
        self.done.push((load, report));
    }

    /// So many writes were made beside those of the trial.
    pub fn count_more(&mut self, writes: u64) {
        self.more += writes;
    }

    /// Waits until everything is delivered, or was given up for good, and prints the row.
    ///
    /// # Panics
    /// If a write is unaccounted for, or one file's events are not in its order; and, where nothing is owned up to, if a
    /// byte is missing.
    #[track_caller]
    pub fn end(self, bywash: &Bywash, reader: &mut Reader) -> Outcome {
        let sent = self.done.iter().map(|(_, report)| report.written).sum::<u64>() + self.more + 1;
        let time_max = TIMEOUT * 2 + Duration::from_secs(sent / EVENTS_PER_SECOND_MIN);
        bywash.drain(time_max);
        // Behind all others, and behind the news of what is lost.
        std::fs::write(bywash.file("last"), LAST).expect("a write");
        let dead_letters = bywash.publisher_status()["dead_letters"].as_u64().expect("a number");
        let (events, duplicates) = ledger::distinct(read_all(reader, sent - dead_letters, time_max));
        let outcome = Outcome {
            sent,
            received: ledger::delivered(&events).0,
            announced: ledger::lost(&events).0,
            dead_letters,
            duplicates: duplicates as u64,
        };
        self.print(&outcome);
        assert_eq!(outcome.lost(), 0, "{outcome:?}");
        self.assert_in_order(&events, outcome.received == sent);
        outcome
    }

    #[track_caller]
    fn assert_in_order(&self, events: &[Event], is_all: bool) {
        let files = ledger::by_path(events);
        assert!(files.values().all(|events| events.is_sorted_by_key(|event| event.offset())));
        for (load, report) in self.done.iter().filter(|_| is_all) {
            for (path, content) in load.expected(report.written) {
                let events = &files[path.to_str().expect("a path of ASCII")];
                ledger::assert_contiguous(events);
                ledger::assert_same_bytes("a file", &content, &ledger::replay(events.iter().copied()));
            }
        }
    }

    /// The row: how long the longest write took without and with the fault is for people to judge.
    fn print(&self, outcome: &Outcome) {
        let longest = |done: &[(Load, LoadReport)]| {
            let longest = done.iter().map(|(_, report)| report.max).max().unwrap_or_default();
            format!("{:.1} ms", longest.as_secs_f64() * 1e3)
        };
        let (healthy, faulty) = self.done.split_at(1);
        let Outcome { sent, received, announced, dead_letters, duplicates } = outcome;
        let row = format!(
            "| {:<46} | {sent:>7} | {received:>8} | {announced:>9} | {dead_letters:>7} | {:>4} | {duplicates:>10} | {:>9} | {:>9} | {:>5.1} s |",
            self.fault,
            outcome.lost(),
            longest(healthy),
            longest(faulty),
            self.began.elapsed().as_secs_f64()
        );
        println!("{row}");
        if let Some(table) = std::env::var_os(TABLE_VARIABLE) {
            let file = File::options().create(true).append(true).open(table);
            writeln!(file.expect("a file for the table"), "{row}").expect("a row in it");
        }
    }
}

/// Reads until the last write has arrived, and as many as there must be.
#[track_caller]
fn read_all(reader: &mut Reader, wanted: u64, time_max: Duration) -> Vec<Event> {
    let mut events = Vec::new();
    let mut ids = HashSet::new();
    let (mut accounted, mut has_last) = (0, false);
    reader.read_until("all that was written", time_max, |messages| {
        for message in &messages[events.len()..] {
            let event = Event::parse(message);
            if ids.insert(event.identity()) {
                accounted += event.lost().map_or(1, |lost| lost.events);
            }
            has_last |= event.message() == LAST;
            events.push(event);
        }
        if has_last && accounted >= wanted {
            return Ok(());
        }
        // Dear, and of interest in the end alone.
        let missing = if has_last { first_missing(&events) } else { Vec::new() };
        Err(format!("{accounted} of {wanted}; numbers {missing:?} are missing"))
    });
    events
}

/// The first numbers that are missing among the events'.
fn first_missing(events: &[Event]) -> Vec<u64> {
    let numbers: BTreeSet<u64> =
        events.iter().filter_map(|event| event.json.get("sequence")?.as_u64()).collect();
    let last = numbers.last().copied().unwrap_or_default();
    (0..last).filter(|number| !numbers.contains(number)).take(MISSING_SHOWN_MAX).collect()
}
