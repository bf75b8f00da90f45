//! Our own disk, clock and processes.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use bywash_common::fail_point::FailPoint;
use bywash_tests::harness::{
    Broker, Bywash, Event, Message, Settings, Trial, process::must_run, wait::TIMEOUT,
};

use super::FAULT_TIME;
use crate::{
    kill::{assert_dies, spawn_to_die},
    spool::{SmallDisk, reboot, segments, wait_for_records},
};

/// A spool that is used early, in small segments.
const EAGER: Settings = Settings {
    ring_size: "4MiB",
    publisher: "shutdown_timeout = \"10s\"",
    spool: "segment_size = \"64KiB\"\nhigh_mark = 2",
    ..Settings::DEFAULT
};
/// Where the publisher is while it works.
const STATES: [FailPoint; 5] = [
    FailPoint::RecordRead,
    FailPoint::EventEncoded,
    FailPoint::EventSent,
    FailPoint::DeliveryReported,
    FailPoint::HeadMoved,
];

#[test]
fn a_publisher_that_is_killed_wherever_it_is_costs_nothing() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings::default());
    let mut trial = Trial::begin("publisher killed (SIGKILL) in each of 5 states", &mut bywash);
    bywash.publisher().terminate(TIMEOUT);
    trial.write_during(&mut bywash, FAULT_TIME * 2, |bywash| {
        for state in STATES {
            bywash.publisher = Some(spawn_to_die("publisher", bywash, state, 5));
            assert_dies(bywash.publisher(), state);
        }
    });
    bywash.start_publisher();
    let outcome = trial.end(&bywash, &mut broker.read("logs"));
    assert_eq!(outcome.received, outcome.sent);
}

#[test]
fn a_full_disk_under_the_spool_costs_nothing_that_the_ring_can_hold() {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &EAGER);
    let _disk = SmallDisk::new(bywash.spool(), "192k");
    bywash.start_agent();
    bywash.start_publisher();
    let mut trial = Trial::begin("disk full under the spool, broker stands still", &mut bywash);
    broker.stop();
    trial.write_during(&mut bywash, FAULT_TIME, |_| ());
    let status = bywash.publisher_status();
    assert!(status["spool_errors"].as_u64() > Some(0), "the disk is full: {status}");
    broker.resume();
    let outcome = trial.end(&bywash, &mut broker.read("logs"));
    assert_eq!(outcome.received, outcome.sent);
}

#[test]
fn a_damaged_spool_costs_what_was_in_the_damage_and_says_so() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &EAGER);
    let mut trial = Trial::begin("3 KB of the spool damaged, after a reboot", &mut bywash);
    broker.stop();
    trial.write_during(&mut bywash, FAULT_TIME, |_| ());
    wait_for_records(&bywash);
    reboot(&mut bywash);
    let path = &segments(&bywash.spool())[1];
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 3_000].fill(0xff);
    fs::write(path, bytes).unwrap();
    bywash.start_agent();
    bywash.start_publisher();
    broker.resume();
    let outcome = trial.end(&bywash, &mut broker.read("logs"));
    assert!(outcome.announced > 0 && outcome.announced < 50, "{outcome:?}");
}

/// A clock that a program sees in place of its own, set to `hours` beside the true time.
struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    fn new(directory: &Path) -> Self {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/clock.c");
        let clock = Self { library: directory.join("clock.so"), file: directory.join("clock") };
        let mut compiler = Command::new("cc");
        compiler.args(["-Wall", "-Werror", "-shared", "-fPIC", "-O1", "-o"]).arg(&clock.library).arg(source);
        must_run(&mut compiler);
        clock.set(0);
        clock
    }

    /// In place: whoever sees it has the file mapped.
    fn set(&self, hours: i64) {
        let file = File::options().create(true).truncate(false).write(true).open(&self.file).unwrap();
        file.write_all_at(&(hours * 3600).to_ne_bytes(), 0).unwrap();
    }
}

#[test]
fn a_clock_that_jumps_costs_nothing() {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &Settings::default());
    let clock = Clock::new(bywash.root());
    bywash.environment = vec![
        format!("LD_PRELOAD={}", clock.library.display()),
        format!("CLOCK_FILE={}", clock.file.display()),
    ];
    bywash.start_agent();
    bywash.start_publisher();
    let mut trial = Trial::begin("clock jumps by 2 hours, forth and back", &mut bywash);
    for hours in [2, -2, 0] {
        // Into writing that is under way.
        trial.write_during(&mut bywash, FAULT_TIME / 2, |bywash| {
            bywash.drain(TIMEOUT);
            clock.set(hours);
        });
    }
    let mut reader = broker.read("logs");
    let outcome = trial.end(&bywash, &mut reader);
    assert_eq!((outcome.received, outcome.duplicates), (outcome.sent, 0));
    let hour = |message: &Message| Event::parse(message).text("@timestamp")[..13].to_owned();
    let hours: BTreeSet<String> = reader.messages(1).iter().map(hour).collect();
    assert!(hours.len() >= 3, "the clock did jump: {hours:?}");
}
