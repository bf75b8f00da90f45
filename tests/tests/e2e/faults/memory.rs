//! Memory through an outage at full rate: what the configuration says, and no more.

use std::time::Duration;

use bywash_tests::harness::{Broker, Bywash, Process, Settings, Trial};

const MIB: u64 = 1 << 20;
/// `publisher.in_flight_bytes` and `spool.segment_size` below.
const IN_FLIGHT: u64 = 4 * MIB;
const SEGMENT: u64 = MIB;
/// A small event takes this many times the bytes of its record: JSON, and librdkafka's own per message.
const MESSAGE_FACTOR: u64 = 6;
/// Whatever else programs have that work.
const WORKING: u64 = 16 * MIB;

const BOUNDED: Settings = Settings {
    ring_size: "16MiB",
    publisher: "in_flight_bytes = \"4MiB\"",
    spool: "size_max = \"96MiB\"\nsegment_size = \"1MiB\"",
    ..Settings::DEFAULT
};

/// Bytes of a process that are its own: neither the ring's nor a file's.
fn own_bytes(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[track_caller]
fn assert_bounded(fault: &'static str, time: Duration) {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &BOUNDED);
    let mut trial = Trial::begin(fault, &mut bywash);
    let before = [own_bytes(bywash.agent()), own_bytes(bywash.publisher())];
    broker.stop();
    trial.write_at_full_speed(&bywash, time);
    let after = [own_bytes(bywash.agent()), own_bytes(bywash.publisher())];
    println!("own bytes of agent and publisher: {before:?} before, {after:?} at the end of the outage");
    let growth = |i: usize| after[i].saturating_sub(before[i]);
    assert!(growth(0) <= WORKING, "the agent's, by {} bytes", growth(0));
    let bound = MESSAGE_FACTOR * IN_FLIGHT + 2 * SEGMENT + WORKING;
    assert!(growth(1) <= bound, "the publisher's, by {} bytes of {bound}", growth(1));
    let spooled = bywash.publisher_status()["spool_bytes"].as_u64().unwrap();
    assert!(spooled <= 96 * MIB, "{spooled} bytes in the spool");
    broker.resume();
    trial.end(&bywash, &mut broker.read("logs"));
}

// Guarantee: G5
#[test]
fn memory_stays_within_its_bounds_through_an_outage_at_full_rate() {
    assert_bounded("outage at full rate", Duration::from_secs(2));
}

#[test]
#[ignore = "takes minutes; make faults runs it"]
fn memory_stays_within_its_bounds_through_a_minutes_outage_at_full_rate() {
    assert_bounded("outage of 60 s at full rate", Duration::from_secs(60));
}
