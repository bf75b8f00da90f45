//! What a program that has nothing to do but to send would take.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bywash_benches::cpu_time;
use bywash_common::config::Config;
use bywash_common::config::EventConfig;
use bywash_tests::harness::{Broker, wait};
use publisher::encode::{WriteEvent, Writer, encoder};
use rdkafka::{
    ClientConfig, ClientContext,
    error::RDKafkaErrorCode,
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
};

use crate::{Taken, ring};

/// The topic of the bare producer.
const TOPIC: &str = "bare";
/// What the publisher's default comes to.
const QUEUE_MESSAGES_MAX: &str = "200000";

struct Count(Arc<AtomicUsize>);

impl ClientContext for Count {}

impl ProducerContext for Count {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            panic!("not delivered: {error}");
        }
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends as many events to the broker as the publisher does, with its properties.
pub fn measure(broker: &Broker, size: usize, events: usize) -> Taken {
    let payloads = payloads(&Config::default().event, size, events);
    let paths: Vec<String> = (0..ring::FILES).map(ring::path).collect();
    let (begin, cpu) = (Instant::now(), cpu_time(std::process::id().cast_signed()));
    let delivered = Arc::new(AtomicUsize::new(0));
    let producer: ThreadedProducer<Count> = ClientConfig::new()
        .set("bootstrap.servers", broker.address())
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("message.timeout.ms", "0")
        .set("linger.ms", "5")
        .set("partitioner", "murmur2_random")
        .set("queue.buffering.max.messages", QUEUE_MESSAGES_MAX)
        .create_with_context(Count(Arc::clone(&delivered)))
        .expect("a producer");
    for (i, payload) in payloads.iter().enumerate() {
        let mut record = BaseRecord::to(TOPIC).payload(payload).key(&paths[i % ring::FILES]);
        while let Err((error, back)) = producer.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull));
            std::thread::sleep(Duration::from_millis(1));
            record = back;
        }
    }
    producer.flush(wait::PATIENCE * 4).expect("a delivery");
    assert_eq!(delivered.load(Ordering::Relaxed), events);
    let wall = begin.elapsed();
    Taken { wall, cpu: cpu_time(std::process::id().cast_signed()).saturating_sub(cpu) }
}

/// What the publisher makes of the writes.
fn payloads(config: &EventConfig, size: usize, events: usize) -> Vec<Vec<u8>> {
    let mut encoder = encoder(config);
    let encode = |i| {
        let mut payload = Vec::new();
        let event = WriteEvent {
            path: &ring::path(i).into_bytes(),
            writer: Some(Writer {
                pid: 4711,
                uid: 0,
                gid: 0,
                user: "root",
                group: "root",
                command: b"/usr/bin/server --config /etc/server.conf ",
            }),
            unattributed: false,
            time_ns: 1_767_225_600_000_000_000 + i as u64 * 1000,
            offset: (i / ring::FILES * size) as u64,
            event_id: &format!("00000000-0000-0000-0000-000000000000-{i}"),
            sequence: i as u64,
            part: None,
            piece: None,
            message: &ring::message(i, size),
        };
        encoder.write(&event, &mut payload);
        payload
    };
    (0..events).map(encode).collect()
}
