//! Topics that do not exist, where the broker makes none by itself.

use bywash_tests::harness::{
    Broker, Bywash, KafkaProxy, Settings, ledger,
    wait::{self, TIMEOUT},
};

use crate::{append, failed::dead_letters};

/// librdkafka hopes for a topic for half a minute by default.
const HASTY: &str = "properties = { \"topic.metadata.propagation.max.ms\" = 200 }";
const EXACTLY_ONCE: &str =
    "delivery = \"exactly_once\"\nproperties = { \"topic.metadata.propagation.max.ms\" = 200 }";

/// Two directories: of the first one's topic, `missing`, the broker knows nothing, and it makes none.
fn start(kafka: &'static str, failed: &'static str) -> (Broker, KafkaProxy, Bywash) {
    let broker = Broker::start();
    let proxy = KafkaProxy::start(&broker);
    proxy.forbid_topics();
    let settings = Settings { directories: &["one", "two"], kafka, failed, ..Settings::default() };
    let mut bywash = Bywash::new(&proxy.address(), &settings);
    let one = format!("path = {:?}\n", bywash.root().join("one"));
    bywash.edit(&one, &format!("{one}topic = \"missing\"\n"));
    broker.create("logs");
    bywash.start_agent();
    (broker, proxy, bywash)
}

#[track_caller]
fn assert_given_up_in_time(kafka: &'static str) {
    let (broker, _proxy, mut bywash) = start(kafka, "give_up_after = \"1s\"\nretry_interval = \"1s\"");
    append(&bywash.file("f"), b"nowhere to go");
    append(&bywash.root().join("two/f"), b"goes on");
    bywash.start_publisher();
    // First: of a transaction that is taken back under its eyes, this broker tells a reader no end.
    bywash.drain(TIMEOUT);
    assert_eq!(broker.read_committed("logs").events(1)[0].message(), b"goes on");
    let log = bywash.publisher().log();
    for word in ["the topic `missing`", "make the topic, or set kafka.create_topic"] {
        assert!(log.contains(word), "{word}: {log}");
    }
    let dead_letter =
        wait::until("the dead letter", TIMEOUT, || dead_letters(&bywash).pop().ok_or("none".to_owned()));
    assert_eq!(dead_letter.json["topic"], "missing");
    assert!(dead_letter.json["reason"].as_str().unwrap().contains("nown topic"), "{dead_letter:?}");
    let check = bywash.publisher_command(&["check", "--connect"]);
    assert!(check.stdout.contains("topic missing: does not exist"), "{check:?}");
    // The dead letter finds its way once there is one.
    broker.create("missing");
    let (events, _) = ledger::distinct(broker.read_committed("missing").events(1));
    assert_eq!(events[0].message(), b"nowhere to go");
    wait::until("the delivered dead letter to be gone", TIMEOUT, || {
        let left = dead_letters(&bywash);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    append(&bywash.file("f"), b"now it is there");
    let (events, _) = ledger::distinct(broker.read_committed("missing").events(2));
    assert_eq!(events[1].message(), b"now it is there");
}

#[test]
fn a_missing_topic_is_named_with_the_way_out_and_given_up_in_time() {
    assert_given_up_in_time(HASTY);
}

#[test]
fn a_missing_topic_is_given_up_in_transactions_too() {
    assert_given_up_in_time(EXACTLY_ONCE);
}

#[test]
fn a_missing_topic_that_is_made_in_time_costs_nothing() {
    let (broker, _proxy, mut bywash) = start(HASTY, "");
    append(&bywash.file("f"), b"patient");
    bywash.start_publisher();
    wait::until("the reason in the log", TIMEOUT, || {
        let log = bywash.publisher().log();
        if log.contains("make the topic, or set kafka.create_topic") { Ok(()) } else { Err(log) }
    });
    broker.create("missing");
    assert_eq!(broker.read("missing").events(1)[0].message(), b"patient");
    assert_eq!(dead_letters(&bywash).len(), 0);
}

#[track_caller]
fn assert_made(kafka: &'static str) {
    let (broker, _proxy, mut bywash) = start(kafka, "");
    let check = bywash.publisher_command(&["check", "--connect"]);
    assert!(check.stdout.contains("the publisher makes it"), "{check:?}");
    append(&bywash.file("f"), b"made for this");
    bywash.start_publisher();
    assert_eq!(broker.read_committed("missing").events(1)[0].message(), b"made for this");
    let log = bywash.publisher().log();
    assert!(log.contains("made the topic `missing`") && !log.contains("made the topic `logs`"), "{log}");
    // One that a reload brings is made too.
    bywash.edit("topic = \"missing\"", "topic = \"later\"");
    bywash.reload_publisher();
    append(&bywash.file("f"), b"and this");
    assert_eq!(broker.read_committed("later").events(1)[0].message(), b"and this");
}

#[test]
fn a_missing_topic_is_made_if_that_is_wanted() {
    assert_made("create_topic = true");
}

#[test]
fn a_missing_topic_is_made_for_transactions_too() {
    assert_made("create_topic = true\ndelivery = \"exactly_once\"");
}
