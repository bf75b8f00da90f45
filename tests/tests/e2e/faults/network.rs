//! Connections that are cut, and addresses that are wrong.

use bywash_tests::harness::{
    Broker, Bywash, Cut, KafkaProxy, Settings, Trial,
    broker::free_address,
    wait::{self, TIMEOUT},
};

use super::FAULT_TIME;

#[test]
fn connections_that_are_cut_within_requests_and_answers_cost_nothing() {
    let broker = Broker::start();
    let proxy = KafkaProxy::start(&broker);
    let mut bywash = Bywash::new(&proxy.address(), &Settings::default());
    bywash.start_agent();
    bywash.start_publisher();
    let mut trial = Trial::begin("connections cut within requests and answers", &mut bywash);
    let mut requests = 0;
    proxy.plan(move || {
        requests += 1;
        // Rarely enough for something to get through.
        match requests % 10 {
            3 => Cut::InRequest,
            7 => Cut::InAnswer,
            _ => Cut::None,
        }
    });
    trial.write_during(&mut bywash, FAULT_TIME, |_| ());
    let cuts = proxy.cuts();
    assert!(cuts >= 4, "{cuts} cuts");
    proxy.plan(|| Cut::None);
    let outcome = trial.end(&bywash, &mut broker.read("logs"));
    assert_eq!((outcome.received, outcome.duplicates), (outcome.sent, 0), "idempotence tells repetitions");
}

/// Starts the publisher with a wrong address, and again with the right one.
#[track_caller]
fn assert_waits_for_the_right_address(fault: &'static str, wrong: &str, word: &str) {
    let settings = Settings { publisher: "shutdown_timeout = \"1s\"", ..Settings::default() };
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &settings);
    let mut trial = Trial::begin(fault, &mut bywash);
    bywash.publisher().terminate(TIMEOUT);
    bywash.edit(&broker.address(), wrong);
    bywash.start_publisher();
    trial.write_during(&mut bywash, FAULT_TIME, |bywash| {
        wait::until("the reason in the log", TIMEOUT, || {
            let log = bywash.publisher().log();
            let says = [wrong, word, "waits in the ring"].iter().all(|text| log.contains(text));
            if says { Ok(()) } else { Err(log) }
        });
    });
    bywash.edit(wrong, &broker.address());
    bywash.publisher().terminate(TIMEOUT);
    bywash.start_publisher();
    let outcome = trial.end(&bywash, &mut broker.read("logs"));
    assert_eq!(outcome.received, outcome.sent);
}

#[test]
fn a_wrong_port_is_named_and_costs_nothing() {
    let wrong = free_address().to_string();
    assert_waits_for_the_right_address("wrong port", &wrong, "Connection refused");
}

#[test]
fn a_host_without_an_address_is_named_and_costs_nothing() {
    assert_waits_for_the_right_address(
        "broker's name unknown to DNS",
        "no-such-host.invalid:9092",
        "resolve",
    );
}
