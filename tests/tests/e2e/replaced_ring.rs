//! A ring that somebody cuts short, damages or removes while both services run: another takes its place, no write sees
//! it, and what is lost is counted (G2, G7).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use bywash_tests::harness::{
    Broker, Bywash, Event, Load, Reader, Settings, ledger, process,
    wait::{self, TIMEOUT},
};
use nix::sys::signal::Signal;

use crate::append;

fn segment(bywash: &Bywash, end: &str) -> PathBuf {
    Path::new("/dev/shm").join(format!("{}.{end}", bywash.ring))
}

fn remove_segments(bywash: &Bywash) {
    for segment in bywash.segments() {
        fs::remove_file(segment).unwrap();
    }
}

/// Waits until the agent writes to the generation of this number: it says so once nothing goes to the one before.
#[track_caller]
fn wait_for_generation(bywash: &mut Bywash, number: u64) {
    let agent = bywash.agent();
    wait::until("another ring", TIMEOUT, || {
        let log = agent.log();
        if log.contains(&format!("another ring, generation {number}")) { Ok(()) } else { Err(log) }
    });
}

/// Reads until an event with these bytes is there; gives all of them.
#[track_caller]
fn read_to(reader: &mut Reader, bytes: &[u8]) -> Vec<Event> {
    let encoded = base64_simd::STANDARD.encode_to_string(bytes);
    let messages = reader.read_until("the last event", TIMEOUT, |messages| {
        // The last written is among the last that are sent.
        let is_there = messages.iter().rev().any(|message| message.text().contains(&encoded));
        if is_there { Ok(()) } else { Err(format!("it is not among {}", messages.len())) }
    });
    let (events, duplicates) = ledger::distinct(messages.iter().map(Event::parse).collect::<Vec<_>>());
    assert_eq!(duplicates, 0);
    events
}

/// What `status` says is lost with rings.
fn lost_with_rings(bywash: &Bywash) -> (u64, u64) {
    let lost = &bywash.agent_status()["lost"]["ring_gone"];
    (lost["events"].as_u64().unwrap(), lost["bytes"].as_u64().unwrap())
}

#[test]
fn a_ring_that_is_cut_short_is_replaced_and_what_fell_in_between_is_counted() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings::default());
    append(&bywash.file("f"), b"before");
    let mut reader = broker.read("logs");
    reader.events(1);
    bywash.drain(TIMEOUT);
    bywash.publisher().stop();
    // Read by nobody.
    append(&bywash.file("f"), b"unread");
    fs::File::options().write(true).open(segment(&bywash, "1.ring")).unwrap().set_len(0).unwrap();
    append(&bywash.file("f"), b"in between");
    wait_for_generation(&mut bywash, 2);
    bywash.publisher().signal(Signal::SIGCONT);
    append(&bywash.file("f"), b"after");
    wait::until("the loss to be counted", TIMEOUT, || {
        let lost = lost_with_rings(&bywash);
        if lost.0 > 0 { Ok(()) } else { Err(format!("{lost:?}")) }
    });
    append(&bywash.file("f"), b"behind the loss");
    let events = read_to(&mut reader, b"behind the loss");
    let (delivered, lost) = (ledger::delivered(&events).0, ledger::lost(&events).0);
    assert_eq!((delivered + lost, lost), (5, lost_with_rings(&bywash).0), "{events:?}");
    // The agent may have looked in front of the write in between.
    assert!((1..=2).contains(&lost), "{events:?}");
    assert!(bywash.publisher().ended().is_none(), "{}", bywash.publisher().log());
    assert_eq!(fs::read(bywash.file("f")).unwrap(), b"beforeunreadin betweenafterbehind the loss");
    assert_eq!(bywash.segments().len(), 2, "{:?}", bywash.segments());
}

#[test]
fn a_ring_that_is_removed_before_anybody_read_it_is_counted_exactly_and_the_counters_go_on() {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &Settings::default());
    let fifo = bywash.add_fifo("pipe", "");
    bywash.start_agent();
    append(&bywash.file("f"), b"one");
    fs::write(&fifo, b"a line\n").unwrap();
    wait::until("the line", TIMEOUT, || {
        let status = bywash.agent_status();
        if status["captured"]["events"] == 2 { Ok(()) } else { Err(status.to_string()) }
    });
    let listening = bywash.agent_status()["listening"].clone();
    remove_segments(&bywash);
    wait_for_generation(&mut bywash, 2);
    append(&bywash.file("f"), b"two");
    wait::until("the loss", TIMEOUT, || {
        let lost = lost_with_rings(&bywash);
        if lost == (2, 9) { Ok(()) } else { Err(format!("{lost:?}")) }
    });
    let status = bywash.agent_status();
    assert_eq!((&status["captured"]["events"], &status["listening"]), (&3.into(), &listening));
    bywash.start_publisher();
    append(&bywash.file("f"), b"three");
    let events = read_to(&mut broker.read("logs"), b"three");
    assert_eq!((ledger::delivered(&events), ledger::lost(&events)), ((2, 8), (2, 9)));
    let log = bywash.agent().log();
    assert_eq!(log.matches("going on in another ring").count(), 1, "{log}");
}

#[test]
fn a_publisher_reads_a_removed_ring_to_its_end_and_goes_on_with_the_next() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings::default());
    append(&bywash.file("f"), b"before");
    let mut reader = broker.read("logs");
    reader.events(1);
    let load = Load { id: 1, files: vec![bywash.file("g")], count: 10_000_000, bytes: 100, rate: 1_000 };
    let writer = load.start(bywash.root());
    for generation in 2..=4 {
        reader.events(usize::try_from(200 * generation).unwrap());
        remove_segments(&bywash);
        wait_for_generation(&mut bywash, generation);
        let publisher = bywash.publisher();
        wait::until("the publisher to follow", TIMEOUT, || {
            let log = publisher.log();
            // As it was all delivered by then, or is left to the spool.
            let followed = ["draining the ring", "it is drained next"].map(|said| log.matches(said).count());
            if followed.iter().sum::<usize>() as u64 == generation { Ok(()) } else { Err(log) }
        });
    }
    let report = writer.stop();
    assert_eq!(report.error, None, "a write failed");
    append(&bywash.file("f"), b"last");
    let events = read_to(&mut reader, b"last");
    assert_eq!((ledger::delivered(&events).0, ledger::lost(&events)), (report.written + 2, (0, 0)));
    bywash.drain(TIMEOUT);
    assert_eq!(bywash.publisher_status()["delivered_records"].as_u64(), Some(report.written + 2));
    assert_eq!(lost_with_rings(&bywash), (0, 0));
    assert!(bywash.publisher().ended().is_none());
}

#[test]
fn a_member_of_the_group_that_cuts_what_it_may_write_stops_no_capture() {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &Settings::default());
    bywash.edit("[ring]\n", "[ring]\ngroup = \"daemon\"\n");
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("f"), b"before");
    let mut reader = broker.read("logs");
    reader.events(1);
    let ack = segment(&bywash, "1.ack");
    let mut member = Command::new("setpriv");
    member.args(["--reuid=65534", "--regid=daemon", "--clear-groups", "truncate", "-s", "0"]).arg(&ack);
    process::must_run(&mut member);
    wait_for_generation(&mut bywash, 2);
    append(&bywash.file("f"), b"after");
    let events = read_to(&mut reader, b"after");
    // What was on its way to be acknowledged may be counted although it was delivered.
    assert!(ledger::delivered(&events).0 == 2 && ledger::lost(&events).0 <= 1, "{events:?}");
    assert!(bywash.publisher().ended().is_none(), "{}", bywash.publisher().log());
}

#[test]
fn a_ring_without_its_consumer_segment_keeps_neither_service_from_starting() {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &Settings::default());
    bywash.start_agent();
    bywash.stop_agent();
    fs::remove_file(segment(&bywash, "1.ack")).unwrap();
    // The publisher first: it has to wait for the agent.
    let publisher = bywash_tests::harness::bywash::spawn("publisher", &bywash.config, bywash.root());
    wait::until("the publisher to say what is wrong", TIMEOUT, || {
        let log = publisher.log();
        if log.contains("1.ack") && log.contains("waiting for fs-agent") { Ok(()) } else { Err(log) }
    });
    bywash.publisher = Some(publisher);
    bywash.start_agent();
    append(&bywash.file("f"), b"x");
    assert_eq!(broker.read("logs").events(1)[0].message(), b"x");
}
