//! `publisher check --connect`: whether the brokers answer, and know the topics.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use bywash_common::config::{Config, Template, Unusable};
use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};

use super::{
    setup::{Known, Setup},
    zookeepers::locate,
};

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

/// What brokers know of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It has so many partitions.
    Partitions(usize),
    /// It does not exist.
    Missing,
    /// It cannot be used, for now or by this client.
    Unusable(RDKafkaErrorCode),
}

/// Looks for topics, and makes none by that.
pub struct Lookup {
    setup: Setup,
}

impl Lookup {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// An [`Unusable`] if the properties are wrong.
    pub fn new(config: &Config) -> Result<Self, Unusable> {
        Ok(Self { setup: Setup::of_consumer(config)? })
    }

    /// Asks other brokers from now on.
    pub fn turn_to(&mut self, brokers: &str) {
        self.setup.properties.set("bootstrap.servers", brokers);
    }

    /// Asks for one topic.
    ///
    /// # Errors
    /// Why there was no answer.
    pub fn look_for(&self, topic: &str) -> Result<Presence, String> {
        let client = self.setup.consumer(LastError::default()).map_err(|error| error.to_string())?;
        look(&client, topic).map(|(presence, _)| presence)
    }
}

/// What the brokers know of a topic, and how many brokers there are.
fn look(client: &BaseConsumer<Known<LastError>>, topic: &str) -> Result<(Presence, usize), String> {
    let metadata = client.fetch_metadata(Some(topic), CONNECT_TIMEOUT).map_err(|error| {
        // Serves the error callback.
        while client.poll(EVENTS_WAIT).is_some() {}
        let last = client.context().0.lock().unwrap_or_else(PoisonError::into_inner).take();
        last.unwrap_or_else(|| error.to_string())
    })?;
    let found = metadata.topics().iter().find(|t| t.name() == topic);
    if found.is_some_and(|t| t.partitions().iter().any(|partition| partition.replicas().len() == 1)) {
        tracing::warn!(
            "the topic {topic} has partitions of which there is one copy alone (replication factor 1): what that broker loses \
             is lost; make it with more copies, and min.insync.replicas = 2"
        );
    }
    let presence = match found.map(|t| (t.partitions().len(), t.error())) {
        Some((partitions, None)) if partitions > 0 => Presence::Partitions(partitions),
        Some((_, Some(error))) if error != RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART => {
            Presence::Unusable(error.into())
        }
        _ => Presence::Missing,
    };
    Ok((presence, metadata.brokers().len()))
}

/// Asks the brokers for the topics, and gives what they say, a line each. Creates nothing.
///
/// # Errors
/// If no broker answers in time, with the reason.
pub fn connect(config: &Config, topics: &[&str]) -> anyhow::Result<Vec<String>> {
    let (config, _watch) = locate(config)?;
    let brokers = config.kafka.brokers.join(",");
    let client = Setup::of_consumer(&config)?
        .consumer(LastError::default())
        .context("cannot set up a Kafka client")?;
    let mut lines = Vec::new();
    for topic in topics {
        let (presence, count) = look(&client, topic).map_err(|reason| {
            anyhow!("no answer from the Kafka brokers {brokers} within {CONNECT_TIMEOUT:?}: {reason}")
        })?;
        if lines.is_empty() {
            lines.push(format!("kafka: {brokers}: {count} brokers"));
        }
        lines.push(match presence {
            Presence::Partitions(partitions) => format!("topic {topic}: {partitions} partitions"),
            Presence::Unusable(code) => bail!("topic `{topic}`: {code}"),
            Presence::Missing if config.kafka.create_topic => {
                format!("topic {topic}: does not exist; the publisher makes it (kafka.create_topic)")
            }
            Presence::Missing => format!(
                "topic {topic}: does not exist; the first event creates it where the brokers allow that, and otherwise \
                 make it, or set kafka.create_topic"
            ),
        });
    }
    for template in config.templates() {
        let made = made(&client, template).map_err(|error| {
            anyhow!("no answer from the Kafka brokers {brokers} within {CONNECT_TIMEOUT:?}: {error}")
        })?;
        let others = match config.kafka.create_topic {
            true => "the publisher makes others (kafka.create_topic)".to_owned(),
            false => {
                format!("events for others go to {}, unless the brokers make them", config.fallback_topic())
            }
        };
        lines.push(format!("topics {}: {} exist; {others}", template.text(), made.len()));
    }
    Ok(lines)
}

/// The topics that there are and that a template can have named.
///
/// # Errors
/// Why there was no answer.
pub fn made<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    template: &Template,
) -> Result<Vec<String>, KafkaError> {
    let metadata = client.fetch_metadata(None, CONNECT_TIMEOUT)?;
    let names = metadata.topics().iter().map(|topic| topic.name());
    Ok(names.filter(|name| template.matches(name)).map(str::to_owned).collect())
}
