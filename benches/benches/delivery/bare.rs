//! What a program that has nothing to do but to send would take.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bywash_benches::{Writes, cpu_time};
use bywash_tests::harness::{Broker, wait};
use rdkafka::{
    ClientConfig, ClientContext,
    error::RDKafkaErrorCode,
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
};

use crate::Taken;

/// What the messages have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What the publisher's have: key, payload and the two headers.
    Same,
    /// Key and payload alone.
    NoHeaders,
}

impl Kind {
    fn topic(self) -> &'static str {
        match self {
            Self::Same => "bare",
            Self::NoHeaders => "bare-no-headers",
        }
    }
}

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
pub fn measure(broker: &Broker, writes: Writes, kind: Kind) -> Taken {
    let payloads = writes.payloads();
    let ids: Vec<String> = (0..writes.count).map(Writes::event_id).collect();
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
    for ((path, payload), id) in payloads.iter().zip(&ids) {
        let mut record = BaseRecord::to(kind.topic()).payload(payload).key(path);
        if kind == Kind::Same {
            let headers = OwnedHeaders::new_with_capacity(2)
                .insert(Header { key: "event_id", value: Some(id) })
                .insert(Header { key: "encoder", value: Some("logstash_base64") });
            record = record.headers(headers);
        }
        while let Err((error, back)) = producer.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull));
            std::thread::sleep(Duration::from_millis(1));
            record = back;
        }
    }
    producer.flush(wait::TIMEOUT * 4).expect("a delivery");
    assert_eq!(delivered.load(Ordering::Relaxed), writes.count);
    let wall = begin.elapsed();
    Taken { wall, cpu: cpu_time(std::process::id().cast_signed()).saturating_sub(cpu) }
}
