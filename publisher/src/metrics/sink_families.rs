//! The metrics of sinks, of what waits on disks, and of agents that followed one another.

use std::sync::atomic::Ordering;

use bywash_common::ring::status::AgentCounter as Agent;

use crate::{
    sink_stats::{KafkaStatistics, sink_stats},
    status::seconds_since,
};

use super::{
    exposition::Kind,
    families::{Family, RING, counter, family, gauge},
};

const MS_PER_SECOND: f64 = 1e3;
const NS_PER_SECOND: f64 = 1e9;

fn kafka() -> KafkaStatistics {
    sink_stats().kafka().unwrap_or_default()
}

/// Behind all others.
pub const SINK_FAMILIES: &[Family] = &[
    family(
        "bywash_sink_errors_total",
        Kind::Counter,
        &["ring", "code"],
        "What went wrong between publisher and sink, by the sink's own code.",
        |_, to| {
            let errors = sink_stats().errors();
            for (code, times) in &errors {
                to.put_labelled(&[to.ring, code], times);
            }
            if !errors.contains_key("other") {
                to.put_labelled(&[to.ring, "other"], 0);
            }
        },
    ),
    counter("bywash_sink_requests_total", "Requests that were sent to the sink.", |_, to| {
        to.put(kafka().requests + sink_stats().requests.load(Ordering::Relaxed));
    }),
    counter("bywash_sink_retries_total", "Requests that were sent again as they were.", |_, to| {
        to.put(kafka().retries + sink_stats().retried.load(Ordering::Relaxed));
    }),
    counter(
        "bywash_sink_resent_messages_total",
        "Messages that the sink refused for the moment or did not confirm, and that were sent again.",
        |_, to| to.put(sink_stats().resent.load(Ordering::Relaxed)),
    ),
    family(
        "bywash_sink_round_trip_seconds",
        Kind::Histogram,
        RING,
        "How long the sink's answers take; for Kafka to within the quantiles that librdkafka tells.",
        |_, to| to.put_histogram(&sink_stats().round_trips),
    ),
    family(
        "bywash_sink_batch_messages",
        Kind::Histogram,
        RING,
        "How many messages are sent together.",
        |_, to| to.put_histogram(&sink_stats().batch_messages),
    ),
    family("bywash_sink_batch_bytes", Kind::Histogram, RING, "Bytes of what is sent together.", |_, to| {
        to.put_histogram(&sink_stats().batch_bytes);
    }),
    family(
        "bywash_kafka_brokers",
        Kind::Gauge,
        &["ring", "state"],
        "Kafka brokers to which there is a connection, and to which there is none: up, down.",
        |_, to| {
            to.put_labelled(&[to.ring, "up"], kafka().brokers_up);
            to.put_labelled(&[to.ring, "down"], kafka().brokers_down);
        },
    ),
    gauge("bywash_kafka_queued_messages", "Messages in librdkafka's queues or on their way.", |_, to| {
        to.put(kafka().queued_messages);
    }),
    gauge("bywash_kafka_queued_bytes", "Bytes in librdkafka's queues or on their way.", |_, to| {
        to.put(kafka().queued_bytes);
    }),
    counter("bywash_kafka_timeouts_total", "Requests that Kafka did not answer in time.", |_, to| {
        to.put(kafka().timeouts);
    }),
    counter("bywash_kafka_disconnects_total", "Connections to Kafka that were lost.", |_, to| {
        to.put(kafka().disconnects);
    }),
    gauge("bywash_kafka_throttle_seconds", "How long Kafka's quotas hold this client back.", |_, to| {
        to.put(kafka().throttle_ms as f64 / MS_PER_SECOND);
    }),
    gauge("bywash_template_topics", "Topics or streams that templates have named.", |_, to| {
        to.put(sink_stats().topics.load(Ordering::Relaxed));
    }),
    counter(
        "bywash_fallback_messages_total",
        "Messages that went to the fallback topic instead of one that a template named.",
        |_, to| to.put(sink_stats().fallbacks.load(Ordering::Relaxed)),
    ),
    gauge("bywash_dead_letters_current", "Dead letters that are there now.", |seen, to| {
        to.put(seen.waste.dead_letters);
    }),
    counter("bywash_dead_letters_to_topic_total", "Dead letters that went to `failed.topic`.", |_, to| {
        to.put(sink_stats().passed_on.load(Ordering::Relaxed));
    }),
    gauge("bywash_dead_letters_bytes", "Bytes of the dead letters that are there now.", |seen, to| {
        to.put(seen.waste.dead_letter_bytes);
    }),
    gauge(
        "bywash_dead_letters_oldest_seconds",
        "How long ago the oldest dead letter was kept; 0 while there is none.",
        |seen, to| {
            let oldest_ns = seen.waste.oldest_dead_letter_ns;
            to.put(oldest_ns.and_then(|then| seconds_since(then, seen.now_ns)).unwrap_or(0.0));
        },
    ),
    gauge(
        "bywash_spool_oldest_seconds",
        "How long ago the oldest file of the spool was begun; 0 while there is none.",
        |seen, to| {
            let oldest_ns = seen.waste.oldest_spooled_ns;
            to.put(oldest_ns.and_then(|then| seconds_since(then, seen.now_ns)).unwrap_or(0.0));
        },
    ),
    gauge(
        "bywash_handover_age_seconds",
        "How long ago this agent took over from another one; missing if it did not.",
        |seen, to| to.put_known(seconds_since(seen.agent(Agent::HandoverNs), seen.now_ns)),
    ),
    gauge("bywash_handover_seconds", "How long nobody served when this agent took over.", |seen, to| {
        to.put(seen.agent(Agent::HandoverTookNs) as f64 / NS_PER_SECOND);
    }),
    gauge(
        "bywash_handover_files",
        "Files and directories that were open, and came back when this agent took over.",
        |seen, to| to.put(seen.agent(Agent::HandoverFiles)),
    ),
    gauge("bywash_handover_lost_files", "Those that did not come back.", |seen, to| {
        to.put(seen.agent(Agent::HandoverFilesLost));
    }),
];
