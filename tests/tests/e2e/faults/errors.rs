//! What brokers answer instead of taking events.

use std::time::Duration;

use bywash_tests::harness::{Broker, Bywash, Cluster, Settings, Trial};
use rdkafka::types::RDKafkaRespErr;

use super::FAULT_TIME;
use crate::append;

/// Of brokers that err one after the other. The mock checks sequence numbers in transactions alone: what follows a refused
/// request it takes, as no broker does (KIP-98), so that only one request at a time keeps the order.
fn settings() -> Settings {
    Settings { kafka: "properties = { \"max.in.flight\" = 1 }", ..Settings::default() }
}

#[test]
fn leaders_that_change_cost_nothing() {
    let cluster = Cluster::start(3, "logs", 1);
    let mut bywash = Bywash::new(&cluster.address(), &settings());
    bywash.start_agent();
    bywash.start_publisher();
    let mut trial = Trial::begin("leader changes, its broker goes", &mut bywash);
    trial.write_during(&mut bywash, FAULT_TIME, |_| {
        for round in 0..6 {
            let (old, new) = (1 + round % 3, 1 + (round + 1) % 3);
            cluster.lead("logs", new);
            cluster.take_down(old);
            std::thread::sleep(Duration::from_millis(200));
            cluster.bring_up(old);
        }
    });
    let outcome = trial.end(&bywash, &mut cluster.read("logs"));
    assert_eq!((outcome.received, outcome.duplicates), (outcome.sent, 0));
}

#[test]
fn errors_that_end_by_themselves_cost_nothing() {
    use RDKafkaRespErr as Answer;
    const ERRORS: [RDKafkaRespErr; 8] = [
        Answer::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        Answer::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
        Answer::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        Answer::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        Answer::RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION,
        Answer::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
        Answer::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        Answer::RD_KAFKA_RESP_ERR_THROTTLING_QUOTA_EXCEEDED,
    ];
    let cluster = Cluster::start(1, "logs", 1);
    let mut bywash = Bywash::new(&cluster.address(), &settings());
    bywash.start_agent();
    bywash.start_publisher();
    let mut trial = Trial::begin("8 error codes that end by themselves", &mut bywash);
    cluster.fail(&ERRORS);
    trial.write_during(&mut bywash, FAULT_TIME, |_| ());
    let outcome = trial.end(&bywash, &mut cluster.read("logs"));
    assert_eq!((outcome.received, outcome.duplicates), (outcome.sent, 0));
}

// Guarantee: G6
#[test]
fn a_message_too_large_for_the_broker_becomes_a_dead_letter_and_the_rest_arrives() {
    // The broker takes 1 MiB.
    let settings =
        Settings { kafka: "properties = { \"message.max.bytes\" = 8000000 }", ..Settings::default() };
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &settings);
    let mut trial = Trial::begin("message too large for the broker", &mut bywash);
    trial.write_during(&mut bywash, FAULT_TIME, |bywash| {
        for _ in 0..2 {
            append(&bywash.file("large"), &vec![b'x'; 1_000_000]);
        }
    });
    trial.count_more(2);
    let outcome = trial.end(&bywash, &mut broker.read("logs"));
    assert_eq!((outcome.dead_letters, outcome.received), (2, outcome.sent - 2));
}
