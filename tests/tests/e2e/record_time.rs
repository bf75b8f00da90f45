//! A record in Kafka has the time of its event, however long that has waited, and the headers that it is to have.

use bywash_tests::harness::{Broker, Bywash, Event, Message, Settings, wait::TIMEOUT};
use jiff::{Timestamp, fmt::strtime};

use crate::{
    append,
    failed::{TINY_MESSAGES, dead_letters, unsendable},
};

/// The time that an event names, in milliseconds since the epoch.
#[track_caller]
fn time_ms(event: &Event) -> i64 {
    let text = event.text("@timestamp");
    let time: Timestamp = strtime::parse("%Y-%m-%dT%H:%M:%S%.f%z", text)
        .and_then(|parsed| parsed.to_timestamp())
        .unwrap_or_else(|error| panic!("{error}: {text}"));
    time.as_millisecond()
}

/// Each record's time is its event's; gives what the events say.
#[track_caller]
fn assert_times(messages: &[Message]) -> Vec<Event> {
    let checked = |message: &Message| {
        let event = Event::parse(message);
        assert_eq!(message.time_ms, Some(time_ms(&event)), "{message:?}");
        event
    };
    messages.iter().map(checked).collect()
}

/// What was written before there was a publisher comes out of the ring, what is left of one without brokers out of the spool.
#[track_caller]
fn assert_times_of_what_waits(kafka: &'static str) {
    let broker = Broker::start();
    let nobody = "localhost:9";
    let publisher = "shutdown_timeout = \"1s\"";
    let mut bywash = Bywash::new(nobody, &Settings { kafka, publisher, ..Settings::default() });
    bywash.start_agent();
    append(&bywash.file("f"), b"through the spool");
    bywash.start_publisher();
    bywash.publisher().terminate(TIMEOUT);
    assert!(bywash.spool().read_dir().unwrap().count() > 0);
    append(&bywash.file("f"), b"through the ring");
    bywash.edit(nobody, &broker.address());
    bywash.start_publisher();
    let events = assert_times(&broker.read_committed("logs").messages(2));
    let texts: Vec<_> = events.iter().map(Event::message).collect();
    assert_eq!(texts, [&b"through the spool"[..], b"through the ring"]);
}

#[test]
fn a_record_has_the_time_of_its_event_through_ring_and_spool() {
    assert_times_of_what_waits("");
}

#[test]
fn a_record_has_the_time_of_its_event_in_transactions() {
    assert_times_of_what_waits("delivery = \"exactly_once\"");
}

#[test]
fn a_dead_letter_that_is_sent_again_has_the_time_of_its_event() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings { kafka: TINY_MESSAGES, ..Settings::default() });
    append(&unsendable(&bywash), b"later");
    bywash.drain(TIMEOUT);
    assert_eq!(dead_letters(&bywash).len(), 1);
    bywash.publisher().terminate(TIMEOUT);
    bywash.edit("\"message.max.bytes\" = 2000", "\"message.max.bytes\" = 200000");
    bywash.start_publisher();
    assert_eq!(bywash.publisher_command(&["failed", "retry"]).code, Some(0));
    assert_eq!(assert_times(&broker.read("logs").messages(1))[0].message(), b"later");
}

#[test]
fn news_of_a_loss_have_the_time_of_the_loss() {
    let broker = Broker::start();
    let settings = Settings { kafka: TINY_MESSAGES, failed: "size_max = 0", ..Settings::default() };
    let mut bywash = Bywash::new(&broker.address(), &settings);
    bywash.start_agent();
    append(&unsendable(&bywash), b"too much");
    bywash.start_publisher();
    let events = assert_times(&broker.read("logs").messages(1));
    assert_eq!(events[0].lost().unwrap().reason, "undeliverable");
}

#[test]
fn headers_of_one_s_own_go_with_each_message_and_follow_a_reload() {
    let broker = Broker::start();
    let kafka = "headers = { team = \"web\", \"content-type\" = \"application/json\" }";
    let mut bywash = Bywash::start(&broker, &Settings { kafka, ..Settings::default() });
    append(&bywash.file("f"), b"one");
    let mut reader = broker.read("logs");
    reader.messages(1);
    bywash.edit("team = \"web\"", "team = \"shop\"");
    let said = bywash.reload_publisher();
    assert!(said.contains("in force") && !said.contains("restarted"), "{said}");
    append(&bywash.file("f"), b"two");
    let messages = reader.messages(2);
    for (message, team) in messages.iter().zip(["web", "shop"]) {
        let id = Event::parse(message).id().to_owned();
        let expected = [
            ("event_id", id.as_str()),
            ("encoder", "logstash_base64"),
            ("team", team),
            ("content-type", "application/json"),
        ];
        let headers: Vec<_> = message.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(headers, expected);
    }
}
