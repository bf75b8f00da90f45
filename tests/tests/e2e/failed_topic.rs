//! Dead letters in a topic of their own, with what failed and why.

use bywash_tests::harness::{
    Broker, Bywash, Event, KafkaProxy, Message, Settings,
    wait::{self, TIMEOUT},
};

use crate::{
    append,
    failed::{dead_letters, unsendable},
};

const GIVES_UP: &str = "topic = \"dead\"\ngive_up_after = \"0s\"\nretry_interval = \"1s\"";

fn header<'m>(message: &'m Message, name: &str) -> &'m str {
    let found = message.headers.iter().find(|(header, _)| header == name);
    found.map(|(_, value)| value.as_str()).unwrap_or_else(|| panic!("no {name} in {message:?}"))
}

/// Events of a topic that nobody makes end in the one for dead letters, which somebody has made or makes.
#[track_caller]
fn assert_passed_on(kafka: &'static str) {
    let broker = Broker::start();
    let proxy = KafkaProxy::start(&broker);
    proxy.forbid_topics();
    for topic in ["logs", "dead"] {
        broker.create(topic);
    }
    let directory = "topic = \"gone\"\n";
    let settings = Settings { directory, kafka, failed: GIVES_UP, ..Settings::default() };
    let mut bywash = Bywash::new(&proxy.address(), &settings);
    bywash.start_agent();
    append(&bywash.file("f"), b"nowhere to go");
    bywash.start_publisher();
    let message = broker.read_committed("dead").messages(1).remove(0);
    let event = Event::parse(&message);
    assert_eq!(event.message(), b"nowhere to go");
    assert_eq!(header(&message, "event_id"), event.id());
    assert_eq!(header(&message, "failed_topic"), "gone");
    assert_eq!(header(&message, "failed_attempts"), "2");
    assert!(header(&message, "failed_reason").contains("nown topic"), "{message:?}");
    assert_eq!(message.key.as_deref(), Some(bywash.file("f").to_str().unwrap().as_bytes()));
    wait::until("the dead letter to be gone from the directory", TIMEOUT, || {
        let left = dead_letters(&bywash);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    // It says so behind that.
    wait::until("the log to say where the dead letter is", TIMEOUT, || {
        let log = bywash.publisher().log();
        if log.contains("in the topic `dead` now") { Ok(()) } else { Err(log) }
    });
}

#[test]
fn a_dead_letter_that_fails_again_goes_to_its_topic_with_reason_origin_and_attempts() {
    assert_passed_on("properties = { \"topic.metadata.propagation.max.ms\" = 200 }");
}

#[test]
fn a_dead_letter_goes_to_its_topic_in_transactions_too() {
    assert_passed_on(
        "delivery = \"exactly_once\"\nproperties = { \"topic.metadata.propagation.max.ms\" = 200 }",
    );
}

#[test]
fn what_the_topic_for_dead_letters_refuses_stays_in_the_directory_and_becomes_no_other() {
    let broker = Broker::start();
    let kafka = "properties = { \"message.max.bytes\" = 2000 }";
    let failed = "topic = \"dead\"\nretry_interval = \"1s\"";
    let mut bywash = Bywash::start(&broker, &Settings { kafka, failed, ..Settings::default() });
    append(&unsendable(&bywash), b"too much");
    for round in ["first", "second"] {
        let before = bywash.publisher().log().matches("failed.topic `dead` does not take").count();
        bywash.publisher_command(&["failed", "retry"]);
        if before == 0 {
            wait::until(&format!("the {round} refusal"), TIMEOUT, || {
                let log = bywash.publisher().log();
                if log.contains("failed.topic `dead` does not take") { Ok(()) } else { Err(log) }
            });
        }
    }
    bywash.drain(TIMEOUT);
    assert_eq!(dead_letters(&bywash).len(), 1);
    let status = bywash.publisher_status();
    assert_eq!((&status["failed_messages"], &status["dead_letters"]), (&1.into(), &1.into()), "{status}");
    // The rest goes on, and with more room the dead letter finds its own topic.
    append(&bywash.file("f"), b"after");
    assert_eq!(broker.read("logs").events(1)[0].message(), b"after");
    bywash.publisher().terminate(TIMEOUT);
    bywash.edit("\"message.max.bytes\" = 2000", "\"message.max.bytes\" = 200000");
    bywash.start_publisher();
    assert_eq!(broker.read("logs").events(2)[1].message(), b"too much");
    wait::until("the dead letter to be gone from the directory", TIMEOUT, || {
        let left = dead_letters(&bywash);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}
