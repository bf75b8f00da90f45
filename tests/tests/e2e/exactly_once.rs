//! Exactly once: whoever reads what is committed sees each event once, whatever becomes of publisher and broker.

use std::time::Duration;

use bywash_common::fail_point::FailPoint;
use bywash_tests::harness::{Broker, Bywash, Load, Settings, ledger, wait::TIMEOUT};

use crate::{
    append,
    kill::{assert_dies, spawn_to_die},
};

const EVENTS: u64 = 2_000;
const WRITING_TIME_MAX: Duration = Duration::from_secs(60);
/// Writes a second: they go on while the publisher is killed and started again.
const RATE: u32 = 500;
/// Where the publisher is while it reads and sends, and how often it passes there first.
const WHILE_SENDING: [(FailPoint, u32); 3] =
    [(FailPoint::RecordRead, 200), (FailPoint::EventEncoded, 200), (FailPoint::EventSent, 200)];
/// Where it is while a transaction ends, by the ring's part in it too.
const WHILE_COMMITTING: [(FailPoint, u32); 4] = [
    (FailPoint::CheckpointSent, 0),
    (FailPoint::TransactionCommitted, 0),
    (FailPoint::DeliveryReported, 0),
    (FailPoint::HeadMoved, 0),
];

fn settings() -> Settings {
    Settings { kafka: "delivery = \"exactly_once\"", ..Settings::default() }
}

fn load(bywash: &Bywash) -> Load {
    Load { id: 1, files: vec![bywash.file("f")], count: EVENTS, bytes: 100, rate: RATE }
}

/// All writes have arrived, none of them twice.
#[track_caller]
fn assert_each_once(broker: &Broker, load: &Load) {
    let (events, duplicates) = ledger::distinct(broker.read_committed("logs").events(EVENTS as usize));
    assert_eq!((events.len() as u64, duplicates), (EVENTS, 0));
    let files = ledger::by_path(&events);
    let arrived = &files[load.files[0].to_str().unwrap()];
    ledger::assert_contiguous(arrived);
    let arrived = ledger::replay(arrived.iter().copied());
    ledger::assert_same_bytes("all writes", &load.expected(EVENTS)[0].1, &arrived);
}

/// Kills the publisher at each of the places, one after the other, with writes in the ring.
#[track_caller]
fn assert_each_once_though_killed(places: &[(FailPoint, u32)]) {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &settings());
    bywash.start_agent();
    let load = load(&bywash);
    let writer = load.start(bywash.root());
    for (point, passes) in places {
        bywash.publisher = Some(spawn_to_die("publisher", &bywash, *point, *passes));
        assert_dies(bywash.publisher(), *point);
    }
    writer.finish(WRITING_TIME_MAX).assert_complete(&load);
    bywash.start_publisher();
    bywash.drain(TIMEOUT);
    assert_each_once(&broker, &load);
}

#[test]
fn a_publisher_that_is_killed_while_it_sends_doubles_nothing() {
    assert_each_once_though_killed(&WHILE_SENDING);
}

#[test]
fn a_publisher_that_is_killed_while_it_commits_doubles_nothing() {
    assert_each_once_though_killed(&WHILE_COMMITTING);
}

#[test]
fn a_broker_that_stands_still_doubles_nothing() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &settings());
    let load = load(&bywash);
    append(&bywash.file("first"), b"x");
    bywash.drain(TIMEOUT);
    broker.stop();
    load.start(bywash.root()).finish(WRITING_TIME_MAX).assert_complete(&load);
    // Longer than a call for a transaction takes, so that calls are repeated.
    std::thread::sleep(Duration::from_secs(2));
    broker.resume();
    bywash.drain(TIMEOUT);
    let committed = broker.read_committed("logs").events(EVENTS as usize + 1);
    let (events, duplicates) = ledger::distinct(committed);
    assert_eq!((events.len() as u64, duplicates), (EVENTS + 1, 0));
}

#[test]
fn parts_of_a_large_write_come_once_each() {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &settings());
    bywash.start_agent();
    let content = bywash_tests::harness::workload::noise(5, 4 << 20);
    append(&bywash.file("large"), &content);
    // In the middle of the write's parts.
    bywash.publisher = Some(spawn_to_die("publisher", &bywash, FailPoint::EventSent, 3));
    assert_dies(bywash.publisher(), FailPoint::EventSent);
    bywash.start_publisher();
    bywash.drain(TIMEOUT);
    let path = bywash.file("large");
    let events = broker.read_committed("logs").events_of(&[(&path, content.len() as u64)]);
    let (events, duplicates) = ledger::distinct(events);
    assert_eq!(duplicates, 0);
    ledger::assert_contiguous(&events.iter().collect::<Vec<_>>());
    ledger::assert_same_bytes("the write", &content, &ledger::replay(&events));
}

#[test]
fn a_second_publisher_under_the_same_transactional_id_ends_the_first_with_a_clear_error() {
    let broker = Broker::start();
    let named = Settings {
        kafka: "delivery = \"exactly_once\"\ntransactional_id = \"twice\"",
        ..Settings::default()
    };
    let mut first = Bywash::start(&broker, &named);
    append(&first.file("f"), b"1");
    first.drain(TIMEOUT);
    let second = Bywash::start(&broker, &named);
    append(&second.file("f"), b"2");
    second.drain(TIMEOUT);
    append(&first.file("f"), b"3");
    let status = first.publisher().wait(TIMEOUT);
    assert_eq!(status.code(), Some(1));
    let log = first.publisher().log();
    assert!(log.contains("transactional id `twice`") && log.contains("kafka.transactional_id"), "{log}");
}

/// The publisher allows what the broker, which takes 1 MiB, does not.
fn generous() -> Settings {
    Settings {
        kafka: "delivery = \"exactly_once\"\nproperties = { \"message.max.bytes\" = 8000000 }",
        ..Settings::default()
    }
}

#[test]
fn a_message_that_the_broker_never_takes_becomes_a_dead_letter_and_the_others_come_once() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &generous());
    let load = load(&bywash);
    let writer = load.start(bywash.root());
    append(&bywash.file("large"), &vec![b'x'; 1_000_000]);
    writer.finish(WRITING_TIME_MAX).assert_complete(&load);
    bywash.drain(TIMEOUT);
    let dead_letters = crate::failed::dead_letters(&bywash);
    assert_eq!(dead_letters.len(), 1, "{dead_letters:?}");
    assert_each_once(&broker, &load);
}

#[test]
fn messages_that_are_never_taken_and_cannot_be_kept_are_announced_in_their_places_and_the_others_come_once() {
    const LARGE: usize = 3;
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings { failed: "size_max = 0", ..generous() });
    for i in 0..LARGE {
        append(&bywash.file("large"), &vec![b'x'; 1_000_000]);
        append(&bywash.file("small"), format!("{i}\n").as_bytes());
    }
    bywash.drain(TIMEOUT);
    let (events, duplicates) = ledger::distinct(broker.read_committed("logs").events(2 * LARGE));
    assert_eq!(duplicates, 0);
    for (i, pair) in events.chunks(2).enumerate() {
        let lost = pair[0].lost().map(|lost| (lost.reason, lost.events, lost.bytes));
        assert_eq!(lost, Some(("undeliverable".to_owned(), 1, 1_000_000)));
        assert_eq!(pair[1].message(), format!("{i}\n").as_bytes());
    }
}

#[test]
fn messages_that_wait_behind_one_that_failed_do_not_keep_the_transaction_open() {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &generous());
    bywash.start_agent();
    append(&bywash.file("large"), &vec![b'x'; 1_000_000]);
    let load = Load { rate: 0, ..load(&bywash) };
    load.start(bywash.root()).finish(WRITING_TIME_MAX).assert_complete(&load);
    // All of it goes into one transaction: requests with the others are on their way when the first one fails.
    bywash.start_publisher();
    bywash.drain(TIMEOUT);
    assert_each_once(&broker, &load);
}
