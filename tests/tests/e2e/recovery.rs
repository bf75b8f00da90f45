//! What a backlog is made up for by, as docs/recovery.md says.

use std::time::{Duration, Instant};

use bywash_tests::harness::{Broker, Bywash, Load, Settings, wait::PATIENCE};

use crate::spool::{SMALL_RING, assert_all_arrived, read_all, wait_for_records};

/// Bytes a second.
const LIMIT: u64 = 300_000;

#[test]
fn what_the_spool_holds_is_sent_by_the_limit_and_status_says_how_long_that_takes() {
    const WRITES: u64 = 4_000;
    let broker = Broker::start();
    let publisher =
        "shutdown_timeout = \"20s\"\nin_flight_bytes = \"64KiB\"\nrecovery_bytes_per_second = 300000";
    let bywash = Bywash::start(&broker, &Settings { publisher, ..SMALL_RING });
    broker.stop();
    let files = vec![bywash.file("a"), bywash.file("b")];
    let load = Load { id: 1, files, count: WRITES, bytes: 200, rate: 4_000 };
    let report = load.start(bywash.root()).finish(PATIENCE);
    report.assert_complete(&load);
    wait_for_records(&bywash);
    let status = bywash.publisher_status();
    let spooled = status["spool_bytes"].as_u64().unwrap();
    assert_eq!(status["recovery_bytes_per_second"], LIMIT);
    let seconds = status["recovery_seconds"].as_f64().unwrap();
    assert!(spooled > LIMIT && seconds >= spooled as f64 / LIMIT as f64, "{status}");
    assert!(bywash.publisher_command(&["status"]).stdout.contains("less by "), "{status}");
    let resumed = Instant::now();
    broker.resume();
    let (events, _duplicates) = read_all(&broker, WRITES);
    // What was on its way when the broker stopped is sent at once, and what a window has room for.
    let paced = spooled.saturating_sub(LIMIT / 2);
    let least = Duration::from_secs_f64(paced as f64 / LIMIT as f64);
    assert!(resumed.elapsed() >= least, "{:?} for {spooled} bytes", resumed.elapsed());
    assert_all_arrived(&events, &load, &report);
    bywash.drain(PATIENCE);
    assert!(bywash.publisher_status()["recovery_seconds"].is_null());
}
