//! What arrives when nothing is wrong: keys, sizes, aggregates, roles.

use std::collections::BTreeSet;

use bywash_tests::harness::{
    Bywash, Event, Fault, FaultProxy, Kinesis, Settings, kinesis, ledger,
    wait::{self, TIMEOUT},
    workload::noise,
};

use super::{Lines, SMALL, start};
use crate::append;

#[test]
fn events_arrive_in_order_under_their_paths_and_can_be_read_back() {
    let (kinesis, proxy, bywash) = start(&SMALL);
    let lines = Lines::new(20, 10);
    lines.write(&bywash);
    let events = kinesis.read("logs").events(lines.count());
    assert_eq!(lines.assert_in_order(&bywash, &events), 0);
    assert!(events.iter().all(|event| event.key.as_deref() == Some(event.path().as_bytes())));
    bywash.drain(TIMEOUT);
    assert!(proxy.seen().at_once_max > 1, "requests share the time");

    let check = bywash.publisher_command(&["check", "--connect"]);
    assert_eq!(check.code, Some(0), "{check:?}");
    assert!(check.stdout.contains("us-east-1") && check.stdout.contains("stream logs: ACTIVE, 2 shards"));
    let consumed = bywash.publisher_command(&["consume", "--from-beginning", "--max", "200"]);
    assert_eq!(consumed.code, Some(0), "{consumed:?}");
    let lines: BTreeSet<_> = consumed.stdout.lines().filter(|line| line.contains("@message: ")).collect();
    assert_eq!(lines.len(), 200);
}

#[test]
fn a_constant_key_is_one_for_all_and_a_random_one_is_each_events_own() {
    let constant = Settings { kinesis: "partition_key = \"k\"", ..SMALL };
    let (kinesis, _proxy, mut bywash) = start(&constant);
    let lines = Lines::new(3, 10);
    lines.write(&bywash);
    let events = kinesis.read("logs").events(lines.count());
    lines.assert_in_order(&bywash, &events);
    assert!(events.iter().all(|event| event.key.as_deref() == Some(b"k")));
    // By then the whole is in the order of the ring.
    let sequences: Vec<_> = events.iter().map(|event| event.number("sequence")).collect();
    assert!(sequences.is_sorted());

    bywash.publisher().terminate(TIMEOUT);
    bywash.edit("partition_key = \"k\"", "partition_key = \"random\"");
    bywash.start_publisher();
    let mut reader = kinesis.read("logs");
    lines.write(&bywash);
    let events = reader.events(60);
    let random: Vec<_> = events.iter().filter(|event| event.key.as_deref() != Some(b"k")).collect();
    assert_eq!(random.len(), 30);
    assert!(random.iter().all(|event| event.key.as_deref() == Some(event.id().as_bytes())));
}

#[test]
fn a_directory_can_have_a_stream_of_its_own() {
    let kinesis = Kinesis::start();
    for stream in ["logs", "own"] {
        kinesis.create_stream(stream, 1);
    }
    let proxy = FaultProxy::start(&kinesis);
    let mut bywash = Bywash::for_kinesis(&proxy.url(), &Settings { directories: &["a", "b"], ..SMALL });
    let b = bywash.root().join("b");
    bywash.edit(&format!("path = {b:?}"), &format!("path = {b:?}\ntopic = \"own\""));
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("f"), b"to logs");
    append(&b.join("f"), b"to its own");
    assert_eq!(kinesis.read("logs").events(1)[0].message(), b"to logs");
    assert_eq!(kinesis.read("own").events(1)[0].message(), b"to its own");
}

#[test]
fn writes_larger_than_a_record_arrive_in_parts_and_raw_ones_in_pieces() {
    let (kinesis, proxy, mut bywash) = start(&Settings {
        kinesis: "record_bytes_max = \"64KiB\"",
        publisher: "flush_interval = \"10ms\"",
        ..SMALL
    });
    let content = noise(7, 1_000_000);
    append_all(&bywash, &content);
    let events = kinesis.read("logs").events_of(&[(&bywash.file("large"), content.len() as u64)]);
    ledger::assert_same_bytes("a large file", &content, &ledger::replay(&events));
    assert!(events.iter().all(|event| event.message().len() < 64 << 10));
    bywash.drain(TIMEOUT);
    let puts = proxy.seen().puts;

    bywash.publisher().terminate(TIMEOUT);
    kinesis.create_stream("raw", 1);
    bywash.edit("encoder = \"logstash_base64\"", "encoder = \"raw\"");
    bywash.edit("stream_name = \"logs\"", "stream_name = \"raw\"");
    bywash.start_publisher();
    append_all(&bywash, &content);
    let mut reader = kinesis.read("raw");
    let messages = reader.read_until("all bytes", TIMEOUT, |messages| {
        let bytes: usize = messages.iter().map(|m| m.payload.len()).sum();
        if bytes >= content.len() { Ok(()) } else { Err(format!("{bytes} bytes")) }
    });
    let arrived: Vec<u8> = messages.iter().flat_map(|m| m.payload.clone()).collect();
    ledger::assert_same_bytes("raw bytes", &content, &arrived);
    assert!(proxy.seen().puts > puts);
}

/// One file, in writes of different sizes.
fn append_all(bywash: &Bywash, content: &[u8]) {
    drop(std::fs::remove_file(bywash.file("large")));
    for piece in content.chunks(300_000) {
        append(&bywash.file("large"), piece);
    }
}

#[test]
fn aggregates_are_what_public_libraries_take_apart_and_hold_many_events() {
    let lines = Lines::new(10, 100);
    let aggregate = Settings {
        publisher: "flush_interval = \"100ms\"\nbatch_records = 500",
        kinesis: "aggregate = true",
        ..SMALL
    };
    let (kinesis, proxy, mut bywash) = start(&aggregate);
    // Together there is more to pack.
    bywash.publisher().terminate(TIMEOUT);
    lines.write(&bywash);
    proxy.plan({
        let mut puts = 0;
        move |put| {
            puts += 1;
            // An aggregate that fails is sent again as a whole.
            if puts % 3 == 1 {
                Fault::Records(vec![put.keys.len() / 2], "InternalFailure")
            } else {
                Fault::None
            }
        }
    });
    bywash.start_publisher();
    bywash.drain(TIMEOUT);
    let mut reader = kinesis.read("logs");
    let count = reader
        .read_until("aggregates", TIMEOUT, |m| if m.is_empty() { Err(String::new()) } else { Ok(()) })
        .len();
    let users = kinesis::deaggregate(&reader.messages(count));
    let events: Vec<Event> = users.iter().map(Event::parse).collect();
    assert!(events.iter().all(|event| event.key.as_deref() == Some(event.path().as_bytes())));
    assert_eq!((lines.assert_in_order(&bywash, &events), events.len()), (0, lines.count()));
    let seen = proxy.seen();
    assert!(count * 20 < events.len() && seen.puts * 20 < events.len(), "{count} records, {seen:?}");

    let consumed = bywash.publisher_command(&["consume", "--from-beginning", "--max", "1000"]);
    assert_eq!(consumed.stdout.matches("event:\n").count(), 1000, "{}", consumed.stderr);
}

#[test]
fn a_role_is_assumed_under_the_sessions_name_and_again_before_it_expires() {
    let role = "role_arn = \"arn:aws:iam::000000000000:role/shipper\"\nrole_session_name = \"web-1\"";
    let kinesis = Kinesis::start();
    kinesis.create_stream("logs", 1);
    let proxy = FaultProxy::start(&kinesis);
    proxy.shorten_sessions();
    let mut bywash = Bywash::for_kinesis(&proxy.url(), &Settings { kinesis: role, ..SMALL });
    bywash.start_agent();
    bywash.start_publisher();
    let mut rounds = 0;
    wait::until("another session", TIMEOUT, || {
        rounds += 1;
        append(&bywash.file("f"), format!("{rounds}\n").as_bytes());
        bywash.drain(TIMEOUT);
        let seen = proxy.seen();
        if seen.sessions.len() >= 2 && seen.access_keys.len() >= 2 {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    });
    let seen = proxy.seen();
    assert!(seen.sessions.iter().all(|name| name == "web-1"), "{seen:?}");
    assert!(!seen.access_keys.contains("test"), "only the role's own credentials are used: {seen:?}");
    assert_eq!(kinesis.read("logs").events(rounds).len(), rounds);
}
