//! `[publisher]`: how the publisher works.

use std::time::Duration;

use crate::units::{ByteSize, Span};

use super::words::words;

/// `[publisher]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublisherConfig {
    /// Where events go.
    pub sink: Sink,
    /// How long an event may wait for others to be sent with it.
    pub flush_interval: Option<Span>,
    /// The most events in a batch.
    pub batch_records: Option<u32>,
    /// The most bytes in a batch.
    pub batch_bytes: Option<ByteSize>,
    /// How long a stopping publisher tries to deliver what it has read.
    pub shutdown_timeout: Span,
    /// The most events that are read and not yet confirmed.
    pub in_flight_records: u32,
    /// The most bytes of events that are read and not yet confirmed.
    pub in_flight_bytes: ByteSize,
    /// The most topics or streams that templates may name.
    pub topics_max: u32,
    /// The topic or stream of events for which they name one that cannot be used, or one more; none: that of all others.
    pub fallback_topic: Option<String>,
    /// By how many bytes a second what waits in the spool becomes less at most; 0 for no limit.
    pub recovery_bytes_per_second: ByteSize,
    /// How old an event may be when it is sent; older ones are given up. 0 for any age.
    pub age_max: Span,
}

/// Where events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// A Kafka topic.
    Kafka,
    /// A Kinesis stream.
    Kinesis,
    /// Standard output, a line an event.
    Stdout,
}

impl Default for PublisherConfig {
    fn default() -> Self {
        Self {
            sink: Sink::Kafka,
            flush_interval: None,
            batch_records: None,
            batch_bytes: None,
            shutdown_timeout: Span(Duration::from_secs(10)),
            in_flight_records: 100_000,
            in_flight_bytes: ByteSize(64 << 20),
            topics_max: 256,
            fallback_topic: None,
            recovery_bytes_per_second: ByteSize(0),
            age_max: Span(Duration::ZERO),
        }
    }
}

words!(Sink: "kafka" => Sink::Kafka, "kinesis" => Sink::Kinesis, "stdout" => Sink::Stdout);
