//! What a backlog is made up for by, as docs/recovery.md says.

use std::{
    fs::File,
    thread::sleep,
    time::{Duration, Instant},
};

use bywash_tests::harness::{Broker, Bywash, Load, Settings, wait::TIMEOUT};

use crate::{
    spool::{SMALL_RING, assert_all_arrived, read_all, wait_for_records},
    write_once,
};

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
    let report = load.start(bywash.root()).finish(TIMEOUT);
    report.assert_complete(&load);
    wait_for_records(&bywash);
    let status = bywash.publisher_status();
    let spooled = status["spool_bytes"].as_u64().unwrap();
    assert_eq!(status["recovery_bytes_per_second"], LIMIT);
    let seconds = status["recovery_seconds"].as_f64().unwrap();
    assert!(spooled > 2 * LIMIT && seconds >= spooled as f64 / LIMIT as f64, "{status}");
    assert!(bywash.publisher_command(&["status"]).stdout.contains("less by "), "{status}");
    let resumed = Instant::now();
    broker.resume();
    let (events, _duplicates) = read_all(&broker, WRITES);
    // A record is larger on disk; and what was on its way when the broker stopped is sent at once.
    let paced = spooled / 4 * 3 - LIMIT / 2;
    let least = Duration::from_secs_f64(paced as f64 / LIMIT as f64);
    assert!(resumed.elapsed() >= least, "{:?} for {spooled} bytes", resumed.elapsed());
    assert_all_arrived(&events, &load, &report);
    bywash.drain(TIMEOUT);
    assert_eq!(bywash.publisher_status()["recovery_seconds"], 0.0);
}

#[test]
fn what_is_too_old_is_given_up_aloud_and_a_reload_ends_that() {
    let broker = Broker::start();
    let mut bywash =
        Bywash::new(&broker.address(), &Settings { publisher: "age_max = \"1s\"", ..Settings::default() });
    bywash.start_agent();
    let mut file = File::create(bywash.file("f")).unwrap();
    for _ in 0..5 {
        write_once(&mut file, b"old\n");
    }
    sleep(Duration::from_millis(1100));
    bywash.start_publisher();
    bywash.drain(TIMEOUT);
    let status = bywash.publisher_status();
    let lost = serde_json::json!([{ "reason": "too_old", "events": 5, "bytes": 20 }]);
    assert_eq!((&status["lost"], &status["delivered_records"]), (&lost, &0.into()), "{status}");
    bywash.edit("age_max = \"1s\"", "age_max = 0");
    bywash.reload_publisher();
    write_once(&mut file, b"new\n");
    let mut topic = broker.read("logs");
    let events = topic.events(2);
    assert_eq!(events[0].lost().unwrap().reason, "too_old");
    assert!(events[0].id().ends_with("-too_old.0.0+5"), "{}", events[0].id());
    assert_eq!(events[1].message(), b"new\n");
    bywash.drain(TIMEOUT);
    assert_eq!(bywash.publisher_status()["delivered_records"], 1);
}
