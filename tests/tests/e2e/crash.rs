//! SIGKILL and SIGSTOP: nothing committed is lost, and what comes twice is the same event (G3, G6).

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use bywash_tests::harness::{
    Broker, Bywash, Event, Load, LoadReport, Reader, Settings, ledger, mounts,
    wait::{self, TIMEOUT},
};
use nix::sys::signal::Signal;

use crate::append;

const WRITES: u64 = 20_000;
const WRITES_PER_SECOND: u32 = 4_000;
/// Nobody waits for the end of this.
const ENDLESS: u64 = 10_000_000;
/// No test writes for longer.
const WRITING_TIME_MAX: Duration = Duration::from_secs(60);

fn load(bywash: &Bywash, id: u32) -> Load {
    let files: Vec<PathBuf> = (0..4).map(|i| bywash.file(&format!("{id}-{i}"))).collect();
    Load { id, files, count: WRITES, bytes: 100, rate: WRITES_PER_SECOND }
}

/// Waits until the writer has done some, which for the file's length everyone can see.
#[track_caller]
fn wait_for_bytes(load: &Load, bytes: u64) {
    wait::until("the writer to get going", TIMEOUT, || {
        let length = fs::metadata(&load.files[0]).map_or(0, |metadata| metadata.len());
        if length >= bytes { Ok(()) } else { Err(format!("{length} bytes of {bytes} are written")) }
    });
}

/// Every acknowledged write has arrived, in its file's order. Beyond them at most the one that was under way.
#[track_caller]
fn assert_nothing_lost(events: &[Event], load: &Load, report: &LoadReport) {
    let files = ledger::by_path(events);
    for (path, content) in load.expected(report.written) {
        let events = &files[path.to_str().unwrap()];
        ledger::assert_contiguous(events);
        let arrived = ledger::replay(events.iter().copied());
        let beyond = arrived.len().saturating_sub(content.len());
        assert!(beyond <= load.bytes, "{}: {beyond} bytes more than were written", path.display());
        ledger::assert_same_bytes("acknowledged writes", &content, &arrived[..arrived.len() - beyond]);
    }
    assert_eq!(ledger::lost(events), (0, 0));
}

/// Reads until this many have arrived; 0 for what has been read already.
#[track_caller]
fn read_all(reader: &mut Reader, written: u64) -> (Vec<Event>, usize) {
    ledger::distinct(reader.events(usize::try_from(written).unwrap()))
}

#[test]
fn a_killed_publisher_loses_nothing() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings::default());
    let load = Load { count: ENDLESS, ..load(&bywash, 1) };
    let writer = load.start(bywash.root());
    let mut reader = broker.read("logs");
    for round in 1..=3 {
        reader.events(1_000 * round);
        bywash.publisher().kill9();
        bywash.start_publisher();
    }
    let report = writer.stop();
    assert_eq!(report.error, None, "a write failed");
    let (events, _duplicates) = read_all(&mut reader, report.written);
    assert_eq!(events.len() as u64, report.written);
    assert_nothing_lost(&events, &load, &report);
}

#[test]
fn a_killed_agent_loses_nothing_that_was_written_and_its_mount_comes_back() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings::default());
    // At full speed, more writers than the agent has threads: the kill finds some in the middle of each step.
    let loads = [1, 2, 3, 4].map(|id| Load { count: ENDLESS, rate: 0, ..load(&bywash, id) });
    let writers: Vec<_> = loads.iter().map(|load| load.start(bywash.root())).collect();
    wait_for_bytes(&loads[0], 50_000);
    bywash.agent().kill9();
    let reports: Vec<_> = writers.into_iter().map(|writer| writer.finish(WRITING_TIME_MAX)).collect();
    for report in &reports {
        assert!(report.error.is_some() && report.written > 0, "the kill ended the writing: {report:?}");
    }
    bywash.start_agent();
    assert_eq!(mounts::below(bywash.directory()).len(), 1, "one overlay, and not one over a dead one");
    append(&bywash.file("after"), b"the mount works again");
    let mut reader = broker.read("logs");
    wait_for_message(&mut reader, b"the mount works again");
    let (events, duplicates) = read_all(&mut reader, 0);
    assert_eq!(duplicates, 0, "the publisher was not touched");
    for (load, report) in loads.iter().zip(&reports) {
        assert_nothing_lost(&events, load, report);
    }
    let sequences: Vec<_> = events.iter().map(|event| event.number("sequence")).collect();
    assert!(sequences.is_sorted(), "the restarted agent goes on with the sequence");
}

/// Reads until an event with these bytes is there: in the order of the ring, so is everything before it.
#[track_caller]
fn wait_for_message(reader: &mut Reader, bytes: &[u8]) {
    let encoded = base64_simd::STANDARD.encode_to_string(bytes);
    reader.read_until("the last event", TIMEOUT, |messages| {
        // The last written is the last sent, but for repetitions.
        let found = messages.iter().rev().any(|message| message.text().contains(&encoded));
        if found { Ok(()) } else { Err("it is not among them".to_owned()) }
    });
}

// Guarantee: G3
#[test]
fn killing_both_loses_nothing_that_was_written() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings::default());
    let load = Load { count: ENDLESS, ..load(&bywash, 1) };
    let writer = load.start(bywash.root());
    let mut reader = broker.read("logs");
    reader.events(500);
    bywash.publisher().kill9();
    bywash.agent().kill9();
    let report = writer.finish(WRITING_TIME_MAX);
    assert!(report.error.is_some() && report.written > 0, "the kill ended the writing: {report:?}");
    bywash.start_agent();
    append(&bywash.file("after"), b"both are back");
    bywash.start_publisher();
    wait_for_message(&mut reader, b"both are back");
    let (events, _duplicates) = read_all(&mut reader, 0);
    assert_nothing_lost(&events, &load, &report);
}

// Guarantee: G1
#[test]
fn a_broker_that_stands_still_delays_no_write_and_loses_nothing() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings::default());
    append(&bywash.file("first"), b"the publisher is connected");
    let mut reader = broker.read("logs");
    reader.events(1);
    broker.stop();
    let load = load(&bywash, 1);
    let report = load.start(bywash.root()).finish(WRITING_TIME_MAX);
    report.assert_complete(&load);
    assert_waited_for_nobody(&report);
    broker.resume();
    let (events, duplicates) = read_all(&mut reader, WRITES + 1);
    assert_eq!((events.len() as u64, duplicates), (WRITES + 1, 0));
    assert_nothing_lost(&events, &load, &report);
}

#[test]
fn a_publisher_that_stands_still_delays_no_write_and_loses_nothing() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings::default());
    bywash.publisher().stop();
    let load = load(&bywash, 1);
    let report = load.start(bywash.root()).finish(WRITING_TIME_MAX);
    report.assert_complete(&load);
    assert_waited_for_nobody(&report);
    bywash.publisher().signal(Signal::SIGCONT);
    let (events, duplicates) = read_all(&mut broker.read("logs"), WRITES);
    assert_eq!(duplicates, 0);
    assert_nothing_lost(&events, &load, &report);
}

/// Any wait for a broker or a publisher would be a time-out of seconds, or for ever; a busy machine's hiccups are
/// far below.
#[track_caller]
fn assert_waited_for_nobody(report: &LoadReport) {
    let waited = report.p99 > Duration::from_millis(100) || report.max > Duration::from_secs(3);
    assert!(!waited, "writes waited: {report:?}");
}

#[test]
fn a_publisher_killed_while_the_broker_stands_still_loses_nothing() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings::default());
    let load = Load { count: ENDLESS, ..load(&bywash, 1) };
    let writer = load.start(bywash.root());
    let mut reader = broker.read("logs");
    reader.events(1_000);
    broker.stop();
    bywash.publisher().kill9();
    bywash.start_publisher();
    let before = bywash.agent_status()["captured"]["events"].clone();
    wait::until("writes behind the stopped broker", TIMEOUT, || {
        let now = bywash.agent_status()["captured"]["events"].clone();
        if now.as_u64() > before.as_u64().map(|n| n + 1_000) { Ok(()) } else { Err(now.to_string()) }
    });
    let report = writer.stop();
    assert_eq!(report.error, None, "a write failed");
    broker.resume();
    let (events, _duplicates) = read_all(&mut reader, report.written);
    assert_eq!(events.len() as u64, report.written);
    assert_nothing_lost(&events, &load, &report);
}

#[test]
fn what_was_written_without_a_publisher_arrives_once_there_is_one() {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &Settings::default());
    bywash.start_agent();
    let load = Load { rate: 0, ..load(&bywash, 1) };
    let report = load.start(bywash.root()).finish(WRITING_TIME_MAX);
    report.assert_complete(&load);
    let status = bywash.publisher_command(&["status"]);
    assert_eq!(status.code, Some(3), "{status:?}");
    bywash.start_publisher();
    let (events, duplicates) = read_all(&mut broker.read("logs"), WRITES);
    assert_eq!(duplicates, 0);
    assert_nothing_lost(&events, &load, &report);
}

#[test]
fn an_orderly_restart_of_either_service_loses_and_doubles_nothing() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings::default());
    append(&bywash.file("f"), b"one ");
    let mut reader = broker.read("logs");
    reader.events(1);
    bywash.publisher().terminate(TIMEOUT);
    append(&bywash.file("f"), b"two ");
    bywash.agent().terminate(TIMEOUT);
    bywash.start_agent();
    append(&bywash.file("f"), b"three ");
    bywash.start_publisher();
    let (events, duplicates) = ledger::distinct(reader.events(3));
    assert_eq!((events.len(), duplicates), (3, 0));
    assert_eq!(ledger::replay(&events), b"one two three ");
}

#[test]
fn a_killed_agents_overlay_is_never_a_reason_to_hang() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings::default());
    bywash.agent().kill9();
    let begin = Instant::now();
    let error = fs::write(bywash.file("f"), b"x").expect_err("nobody serves the overlay");
    assert!(begin.elapsed() < Duration::from_secs(1), "{error} took {:?}", begin.elapsed());
    let status = bywash.fs_agent(&["status"]);
    assert_eq!(status.code, Some(3), "{status:?}");
    bywash.start_agent();
    fs::write(bywash.file("f"), b"x").unwrap();
}

#[test]
fn a_restarted_agent_is_said_to_listen_only_once_its_overlays_answer() {
    // Mounting so many takes long enough for a premature status to be seen.
    const DIRECTORIES: [&str; 24] = [
        "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t",
        "u", "v", "w", "x",
    ];
    let mut bywash =
        Bywash::new("localhost:9", &Settings { directories: &DIRECTORIES, ..Settings::default() });
    bywash.start_agent();
    for round in 1..=5 {
        bywash.agent().kill9();
        bywash.start_agent();
        let last = bywash.root().join("x/file");
        fs::write(last, b"x").unwrap_or_else(|e| panic!("after restart {round}: {e}"));
    }
}
