//! Topics, streams and keys that events decide.

use std::fs;

use bywash_tests::harness::{
    Broker, Bywash, KafkaProxy, Kinesis, Scrape, Settings,
    broker::free_address,
    ledger,
    wait::{self, TIMEOUT},
};

use crate::{append, failed::dead_letters};

/// Missing topics are waited for at most half a minute by librdkafka, and for ever by the publisher.
const HASTY: &str = "properties = { \"topic.metadata.propagation.max.ms\" = 200 }";
const FALLBACK: &str = "fallback_topic = \"rest\"";
const PATIENT: &str = "give_up_after = \"1h\"";

fn write_to(bywash: &Bywash, directory: &str, text: &str) {
    fs::create_dir_all(bywash.file(directory)).unwrap();
    append(&bywash.file(directory).join("f.log"), text.as_bytes());
}

/// The messages of a topic's events, of which there are so many.
#[track_caller]
fn texts(broker: &Broker, topic: &str, count: usize) -> Vec<String> {
    let (events, _) = ledger::distinct(broker.read_committed(topic).events(count));
    events.iter().map(|event| String::from_utf8_lossy(event.message()).into_owned()).collect()
}

/// Topics are made as events name them, and each has its file's events in order.
#[track_caller]
fn assert_made(kafka: &'static str) {
    let broker = Broker::start();
    let proxy = KafkaProxy::start(&broker);
    proxy.forbid_topics();
    broker.create("rest");
    let topic = "logs.{directory}.{dir1}.{stem}";
    let settings = Settings { topic, kafka, publisher: FALLBACK, failed: PATIENT, ..Settings::default() };
    let mut bywash = Bywash::new(&proxy.address(), &settings);
    bywash.start_agent();
    bywash.start_publisher();
    for number in 0..3 {
        for directory in ["web", "db"] {
            write_to(&bywash, directory, &format!("{directory}{number}"));
        }
    }
    for directory in ["web", "db"] {
        let expected: Vec<String> = (0..3).map(|number| format!("{directory}{number}")).collect();
        assert_eq!(texts(&broker, &format!("logs.logs.{directory}.f"), 3), expected);
    }
    bywash.drain(TIMEOUT);
    assert_eq!(dead_letters(&bywash).len(), 0);
    let check = bywash.publisher_command(&["check", "--connect"]);
    for line in [
        "topic rest: 1 partitions",
        "topics logs.{directory}.{dir1}.{stem}: 2 exist; the publisher makes others",
    ] {
        assert!(check.stdout.contains(line), "{line}: {check:?}");
    }
    let consumed = bywash.publisher_command(&["consume", "--from-beginning", "--max", "6"]);
    for word in ["web0", "db2"] {
        assert!(consumed.stdout.contains(word), "{word}: {consumed:?}");
    }
}

#[test]
fn topics_of_a_template_are_made_as_events_name_them() {
    assert_made("create_topic = true");
}

#[test]
fn topics_of_a_template_are_made_in_transactions_too() {
    assert_made("create_topic = true\ndelivery = \"exactly_once\"");
}

/// What nobody makes holds up nobody: its events go to the fallback topic, until a reload.
#[track_caller]
fn assert_detour(kafka: &'static str) {
    let broker = Broker::start();
    let proxy = KafkaProxy::start(&broker);
    proxy.forbid_topics();
    broker.create("rest");
    broker.create("logs.known");
    let topic = "logs.{dir1}";
    let settings = Settings { topic, kafka, publisher: FALLBACK, failed: PATIENT, ..Settings::default() };
    let mut bywash = Bywash::new(&proxy.address(), &settings);
    let metrics = free_address();
    bywash.edit("", &format!("\n[metrics]\nlisten = \"{metrics}\"\n"));
    bywash.start_agent();
    for text in ["one", "two", "three"] {
        write_to(&bywash, "unknown", text);
    }
    write_to(&bywash, "known", "goes on");
    bywash.start_publisher();
    bywash.drain(TIMEOUT);
    assert_eq!(texts(&broker, "rest", 3), ["one", "two", "three"]);
    assert_eq!(texts(&broker, "logs.known", 1), ["goes on"]);
    let log = bywash.publisher().log();
    for word in ["`logs.unknown`, which a template names, go to `rest`", "reload the publisher"] {
        assert!(log.contains(word), "{word}: {log}");
    }
    assert_eq!(dead_letters(&bywash).len(), 0);
    let labels = [("ring", &*bywash.ring)];
    let page = Scrape::of(metrics);
    assert_eq!(page.value("bywash_template_topics", &labels), 2.0);
    assert!(page.value("bywash_fallback_messages_total", &labels) >= 3.0);
    // Once somebody makes it, a reload has events go there.
    broker.create("logs.unknown");
    bywash.reload_publisher();
    write_to(&bywash, "unknown", "at last");
    assert_eq!(texts(&broker, "logs.unknown", 1), ["at last"]);
}

#[test]
fn events_for_a_topic_of_a_template_that_nobody_makes_go_to_the_fallback_in_order() {
    assert_detour(HASTY);
}

#[test]
fn events_for_a_topic_of_a_template_that_nobody_makes_go_to_the_fallback_in_transactions_too() {
    assert_detour(
        "delivery = \"exactly_once\"\nproperties = { \"topic.metadata.propagation.max.ms\" = 200 }",
    );
}

#[test]
fn beyond_the_bound_of_topics_events_go_to_the_fallback_and_a_reload_raises_it() {
    let broker = Broker::start();
    let publisher = "fallback_topic = \"rest\"\ntopics_max = 2";
    let kafka = "key = \"{dir1}/{file}\"";
    let mut bywash =
        Bywash::start(&broker, &Settings { topic: "logs.{dir1}", publisher, kafka, ..Settings::default() });
    for directory in ["a", "b", "c", "a"] {
        write_to(&bywash, directory, directory);
    }
    for (topic, expected) in [("logs.a", &["a", "a"][..]), ("logs.b", &["b"]), ("rest", &["c"])] {
        let events = broker.read(topic).events(expected.len());
        let texts: Vec<_> = events.iter().map(|event| String::from_utf8_lossy(event.message())).collect();
        assert_eq!(texts, expected, "{topic}");
        assert_eq!(events[0].key.as_deref(), Some(format!("{}/f.log", expected[0]).as_bytes()));
    }
    let log = bywash.publisher().log();
    assert!(log.contains("publisher.topics_max is 2") && log.contains("`logs.c`"), "{log}");
    bywash.edit("topics_max = 2", "topics_max = 3");
    let said = bywash.reload_publisher();
    assert!(said.contains("in force") && !said.contains("restarted"), "{said}");
    write_to(&bywash, "c", "again");
    assert_eq!(texts(&broker, "logs.c", 1), ["again"]);
}

#[test]
fn events_for_a_stream_of_a_template_that_does_not_exist_go_to_the_fallback() {
    let kinesis = Kinesis::start();
    kinesis.create_stream("rest", 1);
    kinesis.create_stream("logs.known", 1);
    let publisher = "flush_interval = \"10ms\"\nfallback_topic = \"rest\"";
    let settings = Settings {
        topic: "logs.{dir1}",
        publisher,
        kinesis: "partition_key = \"{dir1}\"",
        failed: PATIENT,
        ..Settings::default()
    };
    let mut bywash = Bywash::for_kinesis(&format!("http://{}", kinesis.address()), &settings);
    bywash.start_agent();
    for text in ["one", "two", "three"] {
        write_to(&bywash, "unknown", text);
    }
    write_to(&bywash, "known", "goes on");
    bywash.start_publisher();
    bywash.drain(TIMEOUT);
    let (events, _) = ledger::distinct(kinesis.read("rest").events(3));
    let texts: Vec<_> = events.iter().map(|event| String::from_utf8_lossy(event.message())).collect();
    assert_eq!(texts, ["one", "two", "three"]);
    assert_eq!(events[0].key.as_deref(), Some(&b"unknown"[..]));
    assert_eq!(kinesis.read("logs.known").events(1)[0].message(), b"goes on");
    let log = bywash.publisher().log();
    assert!(log.contains("`logs.unknown`, which a template names, go to `rest`"), "{log}");
    let check = bywash.publisher_command(&["check", "--connect"]);
    assert!(check.stdout.contains("streams logs.{dir1}: asked for"), "{check:?}");
    wait::until("nothing to be left", TIMEOUT, || {
        let status = bywash.publisher_status();
        if status["in_flight_records"] == 0 { Ok(()) } else { Err(status.to_string()) }
    });
}
