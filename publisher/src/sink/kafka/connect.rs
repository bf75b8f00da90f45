//! `publisher check --connect`: whether the brokers answer, and know the topics.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use bywash_common::config::Config;
use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};

use super::{consumer_config, locate};

/// How long the brokers have for an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the reason for a failure may be on its way to us.
const EVENTS_WAIT: Duration = Duration::from_millis(100);

/// Remembers the last thing that went wrong, which says more than the time-out that follows.
#[derive(Default)]
struct LastError(Mutex<Option<String>>);

impl ClientContext for LastError {
    fn error(&self, error: KafkaError, reason: &str) {
        // That all brokers are down says less than why each of them is.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
    }

    fn log(&self, _: RDKafkaLogLevel, facility: &str, line: &str) {
        tracing::debug!("librdkafka: {facility}: {line}");
    }
}

impl ConsumerContext for LastError {}

/// Asks the brokers for the topics, and gives what they say, a line each. Creates nothing.
///
/// # Errors
/// If no broker answers in time, with the reason.
pub fn connect(config: &Config, topics: &[&str]) -> anyhow::Result<Vec<String>> {
    let (config, _watch) = locate(config)?;
    let brokers = config.kafka.brokers.join(",");
    let client: BaseConsumer<LastError> = consumer_config(&config)?
        .create_with_context(LastError::default())
        .context("cannot set up a Kafka client")?;
    let mut lines = Vec::new();
    for topic in topics {
        let metadata = match client.fetch_metadata(Some(topic), CONNECT_TIMEOUT) {
            Ok(metadata) => metadata,
            Err(error) => {
                // Serves the error callback.
                while client.poll(EVENTS_WAIT).is_some() {}
                let last = client.context().0.lock().unwrap_or_else(PoisonError::into_inner).take();
                let reason = last.unwrap_or_else(|| error.to_string());
                bail!("no answer from the Kafka brokers {brokers} within {CONNECT_TIMEOUT:?}: {reason}");
            }
        };
        if lines.is_empty() {
            lines.push(format!("kafka: {brokers}: {} brokers", metadata.brokers().len()));
        }
        let found = metadata.topics().iter().find(|t| t.name() == *topic);
        lines.push(match found.map(|t| (t.partitions().len(), t.error())) {
            Some((partitions, None)) if partitions > 0 => format!("topic {topic}: {partitions} partitions"),
            Some((_, Some(error))) if error != RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART => {
                bail!("topic `{topic}`: {}", RDKafkaErrorCode::from(error))
            }
            _ => format!(
                "topic {topic}: does not exist; the first event creates it where the brokers allow that"
            ),
        });
    }
    Ok(lines)
}
