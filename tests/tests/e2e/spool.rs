//! The spool: what the ring cannot hold waits on disk, arrives in order, and outlasts a reboot (G3, G4, G5).

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bywash_common::fail_point::FailPoint;
use bywash_tests::harness::{
    Broker, Bywash, Event, Load, LoadReport, Settings, bywash, ledger,
    wait::{self, TIMEOUT},
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::Signal,
};
use serde_json::Value;

use crate::append;

/// A ring that a few seconds of writing overflow, with room for as many in which the disk of a busy machine stands still,
/// and small segments.
pub const SMALL_RING: Settings = Settings {
    ring_size: "4MiB",
    publisher: "shutdown_timeout = \"20s\"",
    spool: "segment_size = \"256KiB\"\nhigh_mark = 5",
    ..Settings::DEFAULT
};

const WRITES: u64 = 12_000;
/// Slow enough for the disk of a busy machine.
const WRITES_PER_SECOND: u32 = 2_000;
const WRITING_TIME_MAX: Duration = Duration::from_secs(60);

/// Several times what the small ring takes, over two files.
pub fn load(bywash: &Bywash) -> Load {
    let files = vec![bywash.file("a"), bywash.file("b")];
    Load { id: 1, files, count: WRITES, bytes: 200, rate: WRITES_PER_SECOND }
}

/// Reads until this many distinct events are there; gives them, and how many came twice.
#[track_caller]
pub fn read_all(broker: &Broker, count: u64) -> (Vec<Event>, usize) {
    ledger::distinct(broker.read("logs").events_within(usize::try_from(count).unwrap(), WRITING_TIME_MAX))
}

/// Every byte of every file is there, in the order in which it was written.
#[track_caller]
pub fn assert_all_arrived(events: &[Event], load: &Load, report: &LoadReport) {
    assert_eq!(ledger::lost(events), (0, 0));
    let files = ledger::by_path(events);
    for (path, content) in load.expected(report.written) {
        let events = &files[path.to_str().unwrap()];
        ledger::assert_contiguous(events);
        ledger::assert_same_bytes("the writes", &content, &ledger::replay(events.iter().copied()));
    }
}

/// Writes with a broker that stands still until the spool has some.
#[track_caller]
fn write_into_the_spool(broker: &Broker, bywash: &Bywash) -> (Load, LoadReport) {
    broker.stop();
    let load = load(bywash);
    let report = load.start(bywash.root()).finish(WRITING_TIME_MAX);
    report.assert_complete(&load);
    wait_for_records(bywash);
    (load, report)
}

/// Waits until the spool holds some.
#[track_caller]
pub fn wait_for_records(bywash: &Bywash) {
    wait::until("records in the spool", TIMEOUT, || {
        let status = bywash.publisher_command(&["status", "--json"]).stdout;
        let json: Value = serde_json::from_str(&status).map_err(|e| format!("{e}: {status}"))?;
        if json["spool_records"].as_u64() > Some(0) { Ok(()) } else { Err(status) }
    });
}

/// The spool's files, oldest first.
pub fn segments(spool: &Path) -> Vec<PathBuf> {
    let Ok(listing) = fs::read_dir(spool) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = listing.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "spool"));
    paths.sort();
    paths
}

#[test]
fn what_the_ring_cannot_hold_waits_on_disk_and_arrives_in_order() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &SMALL_RING);
    let (load, report) = write_into_the_spool(&broker, &bywash);
    let agent = bywash.agent_status();
    assert_eq!(agent["captured"]["events"], WRITES, "{agent}");
    assert!(segments(&bywash.spool()).len() > 1);
    broker.resume();
    let (events, duplicates) = read_all(&broker, WRITES);
    assert_eq!(duplicates, 0);
    assert_all_arrived(&events, &load, &report);
    bywash.drain(TIMEOUT);
    assert_eq!(segments(&bywash.spool()), Vec::<PathBuf>::new(), "what is delivered is removed");
    assert_eq!(bywash.publisher_status()["spool_lost"], 0);
}

#[test]
fn a_publisher_that_is_stopped_and_started_goes_on_with_the_spool() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &SMALL_RING);
    let (load, report) = write_into_the_spool(&broker, &bywash);
    let status = bywash.publisher().terminate(TIMEOUT);
    assert_eq!(status.code(), Some(0), "{status}");
    bywash.start_publisher();
    broker.resume();
    let (events, _duplicates) = read_all(&broker, WRITES);
    assert_all_arrived(&events, &load, &report);
    bywash.drain(TIMEOUT);
}

/// Both services end in order, and the memory is gone.
#[track_caller]
pub fn reboot(bywash: &mut Bywash) {
    bywash.stop_agent();
    let status = bywash.publisher().terminate(TIMEOUT);
    assert_eq!(status.code(), Some(0), "{status}");
    for segment in bywash.segments() {
        fs::remove_file(segment).unwrap();
    }
}

// Guarantee: G3
#[test]
fn an_orderly_reboot_loses_nothing() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &SMALL_RING);
    let (load, report) = write_into_the_spool(&broker, &bywash);
    reboot(&mut bywash);
    bywash.start_agent();
    append(&bywash.file("after"), b"after the reboot");
    bywash.start_publisher();
    broker.resume();
    let (events, _duplicates) = read_all(&broker, WRITES + 1);
    let last = events.last().unwrap();
    assert_eq!(last.message(), b"after the reboot", "what was written before comes first");
    let before = &events[..events.len() - 1];
    assert_all_arrived(before, &load, &report);
    let ring = |event: &Event| event.id().rsplit_once('-').unwrap().0.to_owned();
    assert_ne!(ring(last), ring(&before[0]), "another ring");
    bywash.drain(TIMEOUT);
    assert_eq!(segments(&bywash.spool()), Vec::<PathBuf>::new());
}

#[test]
fn a_damaged_segment_costs_what_was_in_it_and_that_is_counted() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &SMALL_RING);
    write_into_the_spool(&broker, &bywash);
    reboot(&mut bywash);
    let paths = segments(&bywash.spool());
    let mut bytes = fs::read(&paths[1]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 3_000].fill(0xff);
    fs::write(&paths[1], bytes).unwrap();
    bywash.start_agent();
    bywash.start_publisher();
    broker.resume();
    bywash.drain(WRITING_TIME_MAX);
    append(&bywash.file("after"), b"the end");
    let mut reader = broker.read("logs");
    let messages = reader.read_until("the end", TIMEOUT, |messages| {
        let end = messages.iter().rev().any(|message| Event::parse(message).message() == b"the end");
        if end { Ok(()) } else { Err("it is not there".to_owned()) }
    });
    let (events, _) = ledger::distinct(messages.iter().map(Event::parse).collect());
    let (delivered, lost) = (ledger::delivered(&events).0, ledger::lost(&events).0);
    assert!(lost > 0 && lost < 100, "{lost} lost");
    assert_eq!(delivered + lost, WRITES + 1);
    let status = bywash.publisher_status();
    assert_eq!(status["spool_lost"], lost, "{status}");
    for events in ledger::by_path(&events).values() {
        assert!(events.is_sorted_by_key(|event| event.offset()));
    }
}

/// A small filesystem, gone with the test.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it on a new directory.
    pub fn new(path: PathBuf, size: &str) -> Self {
        fs::create_dir(&path).unwrap();
        let options = format!("size={size},mode=0700");
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_leaves_the_ring_and_every_write_is_delivered_or_counted() {
    let broker = Broker::start();
    let tiny = Settings { ring_size: "1MiB", ..SMALL_RING };
    let mut bywash = Bywash::new(&broker.address(), &tiny);
    let _disk = SmallDisk::new(bywash.spool(), "1m");
    bywash.start_agent();
    bywash.start_publisher();
    let (load, report) = write_into_the_spool(&broker, &bywash);
    let status = bywash.publisher_status();
    assert!(status["spool_errors"].as_u64() > Some(0), "the disk is full: {status}");
    assert!(bywash.publisher().log().contains("No space left on device"), "{}", bywash.publisher().log());
    broker.resume();
    bywash.drain(WRITING_TIME_MAX);
    // Makes the agent say what is lost.
    append(&bywash.file("after"), b"the end");
    let mut reader = broker.read("logs");
    let messages = reader.read_until("events for all that was written", TIMEOUT, |messages| {
        let (events, _) = ledger::distinct(messages.iter().map(Event::parse).collect());
        let (delivered, lost) = (ledger::delivered(&events).0, ledger::lost(&events).0);
        if delivered + lost == load.count + 1 { Ok(()) } else { Err(format!("{delivered} + {lost}")) }
    });
    let (events, _) = ledger::distinct(messages.iter().map(Event::parse).collect());
    let (lost, _) = ledger::lost(&events);
    assert!(lost > 0 && lost < report.written, "{lost} of {} lost", report.written);
    for events in ledger::by_path(&events).values() {
        assert!(events.is_sorted_by_key(|event| event.offset()));
    }
}

#[test]
fn a_directory_that_cannot_be_the_spool_is_refused_with_the_way_out() {
    let mut bywash = Bywash::new("localhost:9", &SMALL_RING);
    bywash.start_agent();
    fs::write(bywash.spool(), b"not a directory").unwrap();
    let mut publisher = bywash::spawn("publisher", &bywash.config, bywash.root());
    assert_eq!(publisher.wait(TIMEOUT).code(), Some(1));
    let log = publisher.log();
    assert!(log.contains("spool.dir") && log.contains(bywash.spool().to_str().unwrap()), "{log}");
}

#[test]
fn a_thread_that_panics_ends_the_publisher_and_the_next_one_goes_on() {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &SMALL_RING);
    bywash.start_agent();
    bywash.environment.push(format!("BYWASH_PANIC_POINT={:?}", FailPoint::SpoolWritten));
    bywash.start_publisher();
    broker.stop();
    // The ring has room for all, as nobody drains it for a while.
    let load = Load { count: 3_000, ..load(&bywash) };
    let report = load.start(bywash.root()).finish(WRITING_TIME_MAX);
    let status = wait::until("the publisher to end", TIMEOUT, || {
        let publisher = bywash.publisher();
        publisher.ended().ok_or_else(|| publisher.log())
    });
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status}");
    let log = bywash.publisher().log();
    assert!(log.contains("a test has this thread panic at SpoolWritten"), "{log}");
    bywash.environment.pop();
    broker.resume();
    bywash.start_publisher();
    let (events, _) = read_all(&broker, load.count);
    assert_all_arrived(&events, &load, &report);
}
