//! All partitions of some topics, as one stream, without a trace on the brokers.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bywash_common::config::{Config, Template};
use rdkafka::{
    ClientContext, Message as _, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    message::Headers as _,
};

use crate::{
    rate::LogRate,
    sink::kafka::{ENCODER_HEADER, Known, Setup, locate, made},
};

use super::source::{Event, Source};

/// How long a poll waits: how soon a signal is heeded.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// How often topics that do not exist yet are looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the brokers have for an answer about a topic.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// At most one line about trouble in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Passes what librdkafka says on to the log.
struct Log(Mutex<LogRate>);

impl ClientContext for Log {
    fn error(&self, _: KafkaError, reason: &str) {
        if let Some(others) = self.0.lock().unwrap_or_else(PoisonError::into_inner).pass() {
            tracing::warn!("Kafka: {reason}{others}");
        }
    }

    fn log(&self, _: RDKafkaLogLevel, facility: &str, line: &str) {
        tracing::debug!("librdkafka: {facility}: {line}");
    }
}

impl ConsumerContext for Log {}

/// Reads events.
pub struct Topics {
    consumer: BaseConsumer<Known<Log>>,
    assigned: TopicPartitionList,
    /// Topics that do not exist yet.
    missing: Vec<String>,
    /// What names more.
    templates: Vec<Template>,
    from_beginning: bool,
    looked: Option<Instant>,
}

impl Topics {
    /// A reader of `topics`. One that does not exist yet is waited for, and then read from its beginning.
    ///
    /// # Errors
    /// If the configuration is wrong.
    pub fn open(config: &Config, topics: &[&str], from_beginning: bool) -> anyhow::Result<Self> {
        let (config, _watch) = locate(config)?;
        let consumer = Setup::of_consumer(&config)?
            .consumer(Log(Mutex::new(LogRate::new(LOG_INTERVAL))))
            .context("cannot set up a Kafka consumer")?;
        let missing = topics.iter().map(ToString::to_string).collect();
        let templates = config.templates().cloned().collect();
        Ok(Self {
            consumer,
            assigned: TopicPartitionList::new(),
            missing,
            templates,
            from_beginning,
            looked: None,
        })
    }

    /// Takes in topics that templates can have named, and that are new.
    fn look_for_made(&mut self) {
        for template in &self.templates {
            let names = match made(&self.consumer, template) {
                Ok(names) => names,
                Err(error) => {
                    return tracing::debug!("no answer about topics {} yet: {error}", template.text());
                }
            };
            let is_known = |name: &String| {
                self.missing.contains(name)
                    || self.assigned.elements().iter().any(|known| known.topic() == name)
            };
            let new: Vec<String> = names.into_iter().filter(|name| !is_known(name)).collect();
            self.missing.extend(new);
        }
    }

    fn look_for_topics(&mut self) -> anyhow::Result<()> {
        self.look_for_made();
        let is_first_look = self.looked.is_none();
        let mut still_missing = Vec::new();
        for topic in std::mem::take(&mut self.missing) {
            // What comes into being while this runs is new to its reader as a whole.
            let from_beginning = self.from_beginning || !is_first_look;
            match self.positions(&topic, from_beginning) {
                Ok(Some(positions)) => {
                    for (partition, offset) in &positions {
                        self.assigned.add_partition_offset(&topic, *partition, *offset)?;
                    }
                    self.assign()?;
                    tracing::info!("reading topic {topic} ({} partitions)", positions.len());
                }
                Ok(None) => {
                    if is_first_look {
                        tracing::info!("topic {topic} does not exist yet: waiting for it");
                    }
                    still_missing.push(topic);
                }
                Err(error)
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed) =>
                {
                    bail!("topic `{topic}` cannot be read: {error}");
                }
                Err(error) => {
                    if is_first_look {
                        tracing::warn!("no answer about topic {topic} yet: {error}");
                    }
                    still_missing.push(topic);
                }
            }
        }
        self.missing = still_missing;
        self.looked = Some(Instant::now());
        Ok(())
    }

    /// Reads on where each partition is by now, and the new ones where they were added.
    fn assign(&mut self) -> Result<(), KafkaError> {
        let reached = self.consumer.position()?;
        for element in reached.elements() {
            if let Offset::Offset(_) = element.offset()
                && let Some(mut known) = self.assigned.find_partition(element.topic(), element.partition())
            {
                known.set_offset(element.offset())?;
            }
        }
        self.consumer.assign(&self.assigned)
    }

    /// Where to begin in each partition; none if there is no such topic.
    fn positions(&self, topic: &str, from_beginning: bool) -> Result<Option<Vec<(i32, Offset)>>, KafkaError> {
        let metadata = self.consumer.fetch_metadata(Some(topic), LOOK_TIMEOUT)?;
        let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else { return Ok(None) };
        if let Some(error) = found.error() {
            return match RDKafkaErrorCode::from(error) {
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => Ok(None),
                code => Err(KafkaError::MetadataFetch(code)),
            };
        }
        let mut positions = Vec::new();
        for partition in found.partitions() {
            // A number instead of "the end", so that what is written from now on is surely read.
            let offset = if from_beginning {
                Offset::Beginning
            } else {
                Offset::Offset(self.consumer.fetch_watermarks(topic, partition.id(), LOOK_TIMEOUT)?.1)
            };
            positions.push((partition.id(), offset));
        }
        Ok((!positions.is_empty()).then_some(positions))
    }
}

impl Source for Topics {
    fn next(&mut self) -> anyhow::Result<Option<Event>> {
        let may_miss = !self.missing.is_empty() || !self.templates.is_empty();
        if may_miss && self.looked.is_none_or(|at| at.elapsed() >= LOOK_INTERVAL) {
            self.look_for_topics()?;
        }
        let message = match self.consumer.poll(POLL_WAIT) {
            None => return Ok(None),
            Some(Ok(message)) => message,
            Some(Err(error)) => {
                return match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                        Err(error).context("cannot read the topic")
                    }
                    // librdkafka tries again by itself.
                    _ => {
                        tracing::debug!("{error}");
                        Ok(None)
                    }
                };
            }
        };
        let encoder = message
            .headers()
            .and_then(|headers| headers.iter().find(|h| h.key == ENCODER_HEADER)?.value)
            .map(|word| String::from_utf8_lossy(word).into_owned());
        Ok(Some(Event { encoder, payload: message.payload().unwrap_or_default().to_vec() }))
    }
}
