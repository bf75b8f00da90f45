//! The harness itself: what it says about the world is so.

use std::{panic::catch_unwind, path::Path, time::Duration};

use bywash_tests::harness::{
    Broker,
    wait::{self, TIMEOUT},
};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};

fn producer(broker: &Broker) -> BaseProducer {
    ClientConfig::new().set("bootstrap.servers", broker.address()).create().expect("a producer")
}

#[test]
fn a_reader_reads_what_was_sent_in_its_order() {
    let broker = Broker::start();
    let producer = producer(&broker);
    let mut reader = broker.read("topic");
    for i in 0..100 {
        let (key, payload) = (format!("key {i}"), format!("payload {i}"));
        assert!(producer.send(BaseRecord::to("topic").key(&key).payload(&payload)).is_ok());
    }
    producer.flush(TIMEOUT).expect("a flush");
    let messages = reader.messages(100);
    assert_eq!(messages.len(), 100);
    for (i, message) in messages.iter().enumerate() {
        assert_eq!((message.text(), message.position), (format!("payload {i}"), i64::try_from(i).unwrap()));
        assert_eq!(message.key.as_deref(), Some(format!("key {i}").as_bytes()));
    }
}

#[test]
fn a_stopped_broker_answers_nothing_until_it_goes_on() {
    let broker = Broker::start();
    let producer = producer(&broker);
    broker.stop();
    assert!(producer.send(BaseRecord::<str, str>::to("topic").payload("x")).is_ok());
    assert!(producer.flush(Duration::from_millis(500)).is_err(), "a stopped broker has answered");
    broker.resume();
    producer.flush(TIMEOUT).expect("a flush");
    assert_eq!(broker.read("topic").messages(1)[0].text(), "x");
}

#[test]
fn a_broker_ends_with_the_test_that_panics() {
    let pid = catch_unwind(|| {
        let broker = Broker::start();
        broker.stop();
        std::panic::panic_any(broker.pid());
    });
    let pid: i32 = *pid.expect_err("a panic").downcast().expect("a process id");
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn waiting_ends_with_what_was_seen_last() {
    let waited = catch_unwind(|| {
        wait::until("nothing", Duration::from_millis(20), || Err::<(), _>("still nothing".to_owned()))
    });
    let message: String = *waited.expect_err("a panic").downcast().expect("a text");
    assert!(message.contains("waited 20ms for nothing; in the end: still nothing"), "{message}");
}
