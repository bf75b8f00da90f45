//! Brokers that stand still, end and come back.

use std::time::{Duration, Instant};

use bywash_tests::harness::{Broker, Bywash, Settings, Trial, wait::TIMEOUT};

use super::FAULT_TIME;

/// A fault's length in the field: longer than most time-outs of client and broker.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn nothing_fails() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings::default());
    let mut trial = Trial::begin("none", &mut bywash);
    trial.write_during(&mut bywash, FAULT_TIME, |_| ());
    let outcome = trial.end(&bywash, &mut broker.read("logs"));
    assert_eq!((outcome.received, outcome.duplicates), (outcome.sent, 0));
}

#[track_caller]
fn assert_standing_still_costs_nothing(fault: &'static str, time: Duration) {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings::default());
    let mut trial = Trial::begin(fault, &mut bywash);
    broker.stop();
    trial.write_during(&mut bywash, time, |_| ());
    broker.resume();
    let outcome = trial.end(&bywash, &mut broker.read("logs"));
    assert_eq!((outcome.received, outcome.duplicates), (outcome.sent, 0), "idempotence tells repetitions");
}

#[test]
fn a_broker_that_stands_still_costs_nothing() {
    assert_standing_still_costs_nothing("broker stands still (SIGSTOP)", FAULT_TIME);
}

#[test]
#[ignore = "takes over a minute; make faults runs it"]
fn a_broker_that_stands_still_for_a_minute_costs_nothing() {
    assert_standing_still_costs_nothing("broker stands still for 60 s", LONG);
}

#[test]
fn a_broker_that_is_restarted_costs_nothing() {
    let mut broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings::default());
    let mut trial = Trial::begin("broker ends (SIGTERM) and comes back", &mut bywash);
    for _ in 0..2 {
        // What this broker takes while it ends, it confirms and forgets.
        bywash.drain(TIMEOUT);
        broker.terminate();
        trial.write_during(&mut bywash, FAULT_TIME / 4, |_| ());
        broker.start_again();
        trial.write_during(&mut bywash, FAULT_TIME / 4, |_| ());
    }
    let outcome = trial.end(&bywash, &mut broker.read("logs"));
    assert_eq!(outcome.received, outcome.sent);
}

#[test]
fn a_publisher_that_ends_while_the_broker_is_away_ends_in_time_and_costs_nothing() {
    const BOUND: Duration = Duration::from_secs(2);
    let settings = Settings { publisher: "shutdown_timeout = \"2s\"", ..Settings::default() };
    let mut broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &settings);
    let mut trial = Trial::begin("publisher ends (SIGTERM) while broker is away", &mut bywash);
    broker.terminate();
    trial.write_during(&mut bywash, FAULT_TIME, |bywash| {
        let begun = Instant::now();
        let status = bywash.publisher().terminate(TIMEOUT);
        assert_eq!(status.code(), Some(0), "{status}");
        // Beside what ends it, a busy machine takes its time.
        assert!(begun.elapsed() < BOUND + Duration::from_secs(3), "it took {:?}", begun.elapsed());
    });
    broker.start_again();
    bywash.start_publisher();
    let outcome = trial.end(&bywash, &mut broker.read("logs"));
    assert_eq!(outcome.received, outcome.sent);
}
