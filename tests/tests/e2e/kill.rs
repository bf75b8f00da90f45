//! SIGKILL at every side effect: the ring's kill table, row by row, with the real processes.
//!
//! The programs must be built with `--features bywash-common/fail-points`, as `make test` does.

use std::{os::unix::process::ExitStatusExt, time::Duration};

use bywash_common::fail_point::FailPoint;
use bywash_tests::harness::{
    Broker, Bywash, Event, Load, LoadReport, Process, Reader, Settings, ledger, spawn_in,
    wait::{self, TIMEOUT},
};
use nix::sys::signal::Signal;

use crate::{append, failed, spool};

/// Nobody waits for the end of this.
const ENDLESS: u64 = 10_000_000;
const WRITING_TIME_MAX: Duration = Duration::from_secs(60);
/// How often a place is passed before it kills: the ring is at work by then.
const PASSES: u32 = 200;

/// The same for a place of the publisher. The head moves for many records at once, and how many is the machine's mood: each
/// test has it move once.
pub fn passes(point: FailPoint, passes: u32) -> u32 {
    if matches!(point, FailPoint::DeliveryReported | FailPoint::HeadMoved) { 0 } else { passes }
}

/// Starts one of the two services so that it dies at `point`.
pub fn spawn_to_die(name: &str, bywash: &Bywash, point: FailPoint, passes: u32) -> Process {
    let mut environment = bywash.environment.clone();
    environment.push(format!("BYWASH_FAIL_POINT={point:?}:{passes}"));
    spawn_in(&environment, name, &bywash.config, bywash.root())
}

/// Waits for the death.
#[track_caller]
pub fn assert_dies(process: &mut Process, point: FailPoint) {
    let status = wait::until(&format!("the death at {point:?}"), TIMEOUT, || {
        process.ended().ok_or_else(|| "it lives; was it built with the feature fail-points?".to_owned())
    });
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{point:?}: {status}");
}

#[track_caller]
fn wait_for_overlay(bywash: &mut Bywash) {
    let begun = wait::quietly(TIMEOUT, || {
        bywash.fs_agent(&["status"]).code == Some(0) || bywash.agent().ended().is_some()
    });
    assert!(begun, "the agent neither listens nor dies");
}

/// Reads until the bytes of the last write are there.
#[track_caller]
fn read_to_the_end(reader: &mut Reader, last: &[u8]) -> (Vec<Event>, usize) {
    let encoded = base64_simd::STANDARD.encode_to_string(last);
    let mut count = 0;
    reader.read_until("the last event", TIMEOUT, |messages| {
        count = messages.len();
        let found = messages.iter().rev().any(|message| message.text().contains(&encoded));
        if found { Ok(()) } else { Err("it is not among them".to_owned()) }
    });
    ledger::distinct(reader.messages(count).iter().map(Event::parse).collect())
}

/// Kills the agent at `point` under load and starts it again; gives what was written and what has arrived of it.
fn kill_agent(point: FailPoint) -> (Load, LoadReport, Vec<u8>) {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &Settings::default());
    bywash.agent = Some(spawn_to_die("fs-agent", &bywash, point, PASSES));
    wait_for_overlay(&mut bywash);
    bywash.start_publisher();
    let load = Load { id: 1, files: vec![bywash.file("f")], count: ENDLESS, bytes: 100, rate: 0 };
    let report = load.start(bywash.root()).finish(WRITING_TIME_MAX);
    assert!(report.error.is_some(), "the kill ended the writing: {report:?}");
    assert_dies(bywash.agent(), point);
    bywash.start_agent();
    append(&bywash.file("after"), b"the agent is back");
    let (events, duplicates) = read_to_the_end(&mut broker.read("logs"), b"the agent is back");
    assert_eq!(duplicates, 0, "the publisher was not touched");
    let sequences: Vec<u64> = events.iter().map(|event| event.number("sequence")).collect();
    assert_eq!(sequences, (0..events.len() as u64).collect::<Vec<_>>(), "numbers without a gap");
    let file = load.files[0].to_str().unwrap();
    let arrived = ledger::by_path(&events).remove(file).unwrap_or_default();
    ledger::assert_contiguous(&arrived);
    let arrived = ledger::replay(arrived.iter().copied());
    (load, report, arrived)
}

/// What was not committed is invisible: no more has arrived than was acknowledged.
#[track_caller]
fn assert_invisible(point: FailPoint) {
    let (load, report, arrived) = kill_agent(point);
    ledger::assert_same_bytes("the acknowledged writes", &load.expected(report.written)[0].1, &arrived);
}

/// What was committed is delivered, though its writer never got an answer.
#[track_caller]
fn assert_visible(point: FailPoint) {
    let (load, report, arrived) = kill_agent(point);
    ledger::assert_same_bytes("one more", &load.expected(report.written + 1)[0].1, &arrived);
}

#[test]
fn at_written_below() {
    assert_invisible(FailPoint::WrittenBelow);
}

#[test]
fn at_reserved() {
    assert_invisible(FailPoint::Reserved);
}

#[test]
fn at_copied() {
    assert_invisible(FailPoint::Copied);
}

#[test]
fn at_slot_half_written() {
    assert_invisible(FailPoint::SlotHalfWritten);
}

#[test]
fn at_slot_written() {
    assert_invisible(FailPoint::SlotWritten);
}

#[test]
fn at_tail_moved() {
    assert_visible(FailPoint::TailMoved);
}

#[test]
fn at_committed() {
    assert_visible(FailPoint::Committed);
}

/// The ring is only half there: the next agent makes it whole, and leaves no halves behind.
#[track_caller]
fn assert_made_again(point: FailPoint) {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &Settings::default());
    let mut dying = spawn_to_die("fs-agent", &bywash, point, 0);
    assert_dies(&mut dying, point);
    assert!(!bywash.segments().is_empty(), "it died before it began");
    let status = bywash.publisher_command(&["status"]);
    assert_eq!(status.code, Some(3), "half a ring is none: {status:?}");
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("f"), b"x");
    broker.read("logs").events(1);
    assert_eq!(bywash.segments().len(), 2, "{:?}", bywash.segments());
}

#[test]
fn at_ring_half_built() {
    assert_made_again(FailPoint::RingHalfBuilt);
}

#[test]
fn at_ring_half_named() {
    assert_made_again(FailPoint::RingHalfNamed);
}

/// Writes more than the small ring takes, with nobody to drain it, and one byte at a time so that the books are short.
fn overfill(bywash: &Bywash) -> LoadReport {
    let load = Load { id: 1, files: vec![bywash.file("f")], count: 2_000, bytes: 100, rate: 0 };
    load.start(bywash.root()).finish(WRITING_TIME_MAX)
}

/// Delivered and announced as lost, together.
#[track_caller]
fn books(bywash: &mut Bywash, broker: &Broker) -> u64 {
    bywash.start_publisher();
    bywash.drain(TIMEOUT);
    append(&bywash.file("last"), b"after the losses");
    let (events, _) = read_to_the_end(&mut broker.read("logs"), b"after the losses");
    ledger::delivered(&events).0 + ledger::lost(&events).0 - 1
}

#[test]
fn at_loss_counted() {
    let broker = Broker::start();
    let small = Settings { ring_size: "64KiB", ..Settings::default() };
    let mut bywash = Bywash::new(&broker.address(), &small);
    bywash.agent = Some(spawn_to_die("fs-agent", &bywash, FailPoint::LossCounted, PASSES));
    wait_for_overlay(&mut bywash);
    let report = overfill(&bywash);
    assert_dies(bywash.agent(), FailPoint::LossCounted);
    bywash.start_agent();
    assert_eq!(books(&mut bywash, &broker), report.written + 1, "the last one was counted, not acknowledged");
}

#[test]
fn at_announcement_staged() {
    let broker = Broker::start();
    let small = Settings { ring_size: "64KiB", ..Settings::default() };
    let mut bywash = Bywash::new(&broker.address(), &small);
    bywash.agent = Some(spawn_to_die("fs-agent", &bywash, FailPoint::AnnouncementStaged, 0));
    wait_for_overlay(&mut bywash);
    let report = overfill(&bywash);
    // What is left of the ring may be too little for a write and enough for the announcement: that goes by how long the
    // recorded paths are. The agent is dead by then, and whether the write that it was at is counted is open.
    let died_early = report.error.is_some();
    // Makes room; the agent then announces by itself.
    bywash.start_publisher();
    assert_dies(bywash.agent(), FailPoint::AnnouncementStaged);
    bywash.publisher().terminate(TIMEOUT);
    bywash.start_agent();
    let counted = books(&mut bywash, &broker) - report.written;
    assert!(counted <= u64::from(died_early), "announced once: {counted} more than {}", report.written);
}

/// Kills the publisher at `point` under load and starts it again: nothing is missing, and what comes twice is the same.
#[track_caller]
fn assert_sent_again(point: FailPoint) {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &Settings::default());
    bywash.start_agent();
    bywash.publisher = Some(spawn_to_die("publisher", &bywash, point, passes(point, PASSES)));
    let load = Load { id: 1, files: vec![bywash.file("f")], count: 3_000, bytes: 100, rate: 0 };
    let report = load.start(bywash.root()).finish(WRITING_TIME_MAX);
    report.assert_complete(&load);
    assert_dies(bywash.publisher(), point);
    bywash.start_publisher();
    // Distinct ids only, and the same content under the same id.
    let (events, _duplicates) = ledger::distinct(broker.read("logs").events(3_000));
    let files = ledger::by_path(&events);
    let arrived = &files[load.files[0].to_str().unwrap()];
    ledger::assert_contiguous(arrived);
    let arrived = ledger::replay(arrived.iter().copied());
    ledger::assert_same_bytes("all writes", &load.expected(report.written)[0].1, &arrived);
}

#[test]
fn at_record_read() {
    assert_sent_again(FailPoint::RecordRead);
}

#[test]
fn at_event_encoded() {
    assert_sent_again(FailPoint::EventEncoded);
}

#[test]
fn at_event_sent() {
    assert_sent_again(FailPoint::EventSent);
}

#[test]
fn at_delivery_reported() {
    assert_sent_again(FailPoint::DeliveryReported);
}

#[test]
fn at_head_moved() {
    assert_sent_again(FailPoint::HeadMoved);
}

/// Kills the publisher while the ring's records go through the spool: they arrive nevertheless.
#[track_caller]
fn assert_spooled(point: FailPoint) {
    assert_spooled_with(point, &spool::SMALL_RING);
}

/// The same otherwise configured; gives how many events came twice to readers of what is committed.
#[track_caller]
fn assert_spooled_with(point: FailPoint, settings: &Settings) -> usize {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), settings);
    bywash.start_agent();
    broker.stop();
    bywash.publisher = Some(spawn_to_die("publisher", &bywash, point, 0));
    let load = Load { count: ENDLESS, rate: 1_500, ..spool::load(&bywash) };
    let writer = load.start(bywash.root());
    if point == FailPoint::SpoolDelivered {
        spool::wait_for_records(&bywash);
        broker.resume();
    }
    assert_dies(bywash.publisher(), point);
    // From now on there is nobody to make room in the ring.
    let report = writer.stop();
    assert_eq!(report.error, None, "a write failed");
    if point != FailPoint::SpoolDelivered {
        broker.resume();
    }
    bywash.start_publisher();
    bywash.drain(TIMEOUT * 2);
    let mut reader = broker.read_committed("logs");
    let events = reader.events_within(usize::try_from(report.written).unwrap(), TIMEOUT * 2);
    let (events, duplicates) = ledger::distinct(events);
    spool::assert_all_arrived(&events, &load, &report);
    duplicates
}

/// Small ring and spool, in transactions.
const SPOOL_IN_TRANSACTIONS: Settings =
    Settings { kafka: "delivery = \"exactly_once\"", ..spool::SMALL_RING };
/// Small ring and spool, an event a line.
const SPOOL_OF_LINES: Settings = Settings { directory: "framing = \"line\"", ..spool::SMALL_RING };

#[test]
fn at_spool_synced_in_transactions() {
    assert_eq!(assert_spooled_with(FailPoint::SpoolSynced, &SPOOL_IN_TRANSACTIONS), 0);
}

#[test]
fn at_spool_delivered_in_transactions() {
    assert_eq!(assert_spooled_with(FailPoint::SpoolDelivered, &SPOOL_IN_TRANSACTIONS), 0);
}

#[test]
fn at_spool_synced_with_lines() {
    assert_spooled_with(FailPoint::SpoolSynced, &SPOOL_OF_LINES);
}

#[test]
fn at_spool_delivered_with_lines() {
    assert_spooled_with(FailPoint::SpoolDelivered, &SPOOL_OF_LINES);
}

#[test]
fn at_spool_written() {
    assert_spooled(FailPoint::SpoolWritten);
}

#[test]
fn at_spool_synced() {
    assert_spooled(FailPoint::SpoolSynced);
}

#[test]
fn at_spool_delivered() {
    assert_spooled(FailPoint::SpoolDelivered);
}

/// Kills the publisher while it keeps writes that no message can carry: each of them is a dead letter in the end, under
/// its own id, and the others arrive.
#[track_caller]
fn assert_kept(point: FailPoint) {
    let settings = Settings { kafka: failed::TINY_MESSAGES, ..Settings::default() };
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &settings);
    bywash.start_agent();
    bywash.publisher = Some(spawn_to_die("publisher", &bywash, point, 0));
    let unsendable = failed::unsendable(&bywash);
    for i in 0..5 {
        append(&unsendable, format!("unsendable {i}").as_bytes());
        append(&bywash.file("f"), b"x");
    }
    assert_dies(bywash.publisher(), point);
    bywash.start_publisher();
    bywash.drain(TIMEOUT);
    let (events, _) = ledger::distinct(broker.read("logs").events(5));
    assert_eq!(ledger::delivered(&events), (5, 5));
    let mut ids: Vec<String> =
        failed::dead_letters(&bywash).into_iter().map(|dead_letter| dead_letter.event_id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 5, "{ids:?}");
}

#[test]
fn at_dead_letter_half_kept() {
    assert_kept(FailPoint::DeadLetterHalfKept);
}

#[test]
fn at_dead_letter_kept() {
    assert_kept(FailPoint::DeadLetterKept);
}

// Guarantee: G3
#[test]
fn every_place_has_its_test() {
    let source = concat!(include_str!("kill.rs"), include_str!("exactly_once.rs"));
    for point in FailPoint::ALL {
        let tested = source.matches(&format!("FailPoint::{point:?}")).count();
        assert!(tested > 0, "no test kills at {point:?}");
    }
}
