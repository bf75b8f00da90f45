//! A ring that is full: writes go on, and what is not taken is counted exactly (G2, G5).

use std::fs;

use bywash_tests::harness::{Broker, Bywash, Event, Load, Settings, ledger, wait::TIMEOUT};

use crate::append;

/// Many times what the ring below holds.
const WRITES: u64 = 5_000;
const BYTES: usize = 200;
// What is lost here is what the ring cannot hold.
const SMALL_RING: Settings = Settings { ring_size: "64KiB", spool: "size_max = 0", ..Settings::DEFAULT };

/// Reads until delivered and lost make up what was written.
#[track_caller]
fn read_until_accounted(broker: &Broker, written: u64) -> Vec<Event> {
    let mut reader = broker.read("logs");
    let messages = reader.read_until("events for all that was written", TIMEOUT, |messages| {
        let events: Vec<_> = messages.iter().map(Event::parse).collect();
        let (events, _) = ledger::distinct(events);
        let (delivered, lost) = (ledger::delivered(&events).0, ledger::lost(&events).0);
        if delivered + lost >= written { Ok(()) } else { Err(format!("{delivered} + {lost} of {written}")) }
    });
    messages.iter().map(Event::parse).collect()
}

// Guarantee: G2
#[test]
fn a_full_ring_lets_writes_go_on_and_every_write_is_delivered_or_counted() {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &SMALL_RING);
    bywash.start_agent();
    let load = Load { id: 1, files: vec![bywash.file("f")], count: WRITES, bytes: BYTES, rate: 0 };
    let report = load.start(bywash.root()).finish(TIMEOUT);
    report.assert_complete(&load);
    let (_, content) = load.expected(WRITES).remove(0);
    ledger::assert_same_bytes("the file", &content, &fs::read(bywash.file("f")).unwrap());

    let status = bywash.agent_status();
    let (captured, lost) = (captured(&status), lost(&status));
    assert!(captured.0 > 0 && lost.0 > 0, "the ring takes some and not all: {status}");
    assert_eq!(captured.0 + lost.0, WRITES, "{status}");
    assert_eq!(captured.1 + lost.1, WRITES * BYTES as u64, "{status}");

    bywash.start_publisher();
    bywash.drain(TIMEOUT);
    // The loss is announced in front of the next write that fits.
    append(&bywash.file("f"), b"after");
    let (events, duplicates) = ledger::distinct(read_until_accounted(&broker, WRITES + 1));
    assert_eq!(duplicates, 0);
    let (delivered, announced) = (ledger::delivered(&events), ledger::lost(&events));
    assert_eq!(delivered, (captured.0 + 1, captured.1 + 5));
    assert_eq!(announced, lost, "the loss events and status agree");
    assert_eq!(delivered.0 + announced.0, WRITES + 1);
    assert_eq!(delivered.1 + announced.1, WRITES * BYTES as u64 + 5);

    let loss = events.iter().find(|event| event.lost().is_some()).expect("a loss event");
    assert!(loss.tags().contains(&"_lost"), "{:?}", loss.json);
    assert_eq!(loss.lost().map(|lost| lost.reason).as_deref(), Some("ring_full"));
    let place = |wanted: &Event| events.iter().position(|event| event == wanted);
    let last = events.iter().find(|event| event.message() == b"after").expect("the last write");
    assert!(place(loss) < place(last), "the loss comes before what was written after it");
    // What was delivered before the loss is the beginning of the file: the newest is dropped.
    let kept = ledger::replay(events.iter().filter(|e| e.lost().is_none() && e.message() != b"after"));
    ledger::assert_same_bytes("what the ring took", &content[..kept.len()], &kept);
}

#[test]
fn a_loss_survives_a_killed_agent_and_is_announced_once() {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &SMALL_RING);
    bywash.start_agent();
    let load = Load { id: 1, files: vec![bywash.file("f")], count: WRITES, bytes: BYTES, rate: 0 };
    load.start(bywash.root()).finish(TIMEOUT).assert_complete(&load);
    let lost_before = lost(&bywash.agent_status());
    assert!(lost_before.0 > 0);
    bywash.agent().kill9();
    bywash.start_agent();
    assert_eq!(lost(&bywash.agent_status()), lost_before);
    bywash.start_publisher();
    bywash.drain(TIMEOUT);
    append(&bywash.file("f"), b"after");
    let (events, _) = ledger::distinct(read_until_accounted(&broker, WRITES + 1));
    assert_eq!(ledger::lost(&events), lost_before);
    assert_eq!(ledger::delivered(&events).0 + lost_before.0, WRITES + 1);
}

#[test]
fn a_write_that_no_ring_of_this_size_could_take_is_counted_as_too_large() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &SMALL_RING);
    let large = vec![b'x'; 100_000];
    append(&bywash.file("f"), b"before");
    append(&bywash.file("f"), &large);
    append(&bywash.file("f"), b"after");
    let events = broker
        .read("logs")
        .read_until("the last write", TIMEOUT, |messages| {
            let there = messages.iter().any(|message| Event::parse(message).message() == b"after");
            if there { Ok(()) } else { Err("it is not there".to_owned()) }
        })
        .iter()
        .map(Event::parse)
        .collect();
    let (events, _) = ledger::distinct(events);
    let (delivered, lost) = (ledger::delivered(&events), ledger::lost(&events));
    assert_eq!(delivered.1 + lost.1, 100_000 + 11, "every byte is delivered or counted: {events:?}");
    assert_eq!(fs::metadata(bywash.file("f")).unwrap().len(), 100_000 + 11);
}

/// Events and bytes that the agent says it has captured.
#[track_caller]
fn captured(status: &serde_json::Value) -> (u64, u64) {
    pair(&status["captured"])
}

/// Events and bytes that the agent says are lost, over all reasons.
#[track_caller]
fn lost(status: &serde_json::Value) -> (u64, u64) {
    let reasons = status["lost"].as_object().unwrap_or_else(|| panic!("no losses in {status}"));
    reasons.values().map(pair).fold((0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1))
}

#[track_caller]
fn pair(value: &serde_json::Value) -> (u64, u64) {
    let number = |key: &str| value[key].as_u64().unwrap_or_else(|| panic!("no {key} in {value}"));
    (number("events"), number("bytes"))
}
