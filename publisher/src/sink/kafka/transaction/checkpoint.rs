//! How far committed events reach.

use std::time::Duration;

use bywash_common::config::Config;
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata},
    error::{KafkaError, RDKafkaErrorCode},
};

use crate::sink::kafka::{config::consumer_config, error::OpenError};

/// How long the brokers have for the committed checkpoint.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// What is committed for: topics have at least this partition.
const PARTITION: i32 = 0;

/// Everything before record `sequence` of the ring, and the first `messages` messages of that record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The ring's uuid; empty for none.
    pub ring: String,
    /// The record.
    pub sequence: u64,
    /// How many of its messages.
    pub messages: u32,
}

impl Checkpoint {
    /// The checkpoint behind one more message of a record, and whether this one lies before it already.
    ///
    /// Messages come in the ring's order, and those of a record that is read again are the same as before.
    pub fn behind(&self, event_id: &str) -> Option<Self> {
        // `<ring uuid>-<sequence>`; damage has no number.
        let (ring, sequence) = event_id.rsplit_once('-')?;
        let sequence = sequence.parse().ok()?;
        let is_same = self.ring == ring && self.sequence == sequence;
        Some(Self {
            ring: ring.to_owned(),
            sequence,
            messages: if is_same { self.messages.saturating_add(1) } else { 1 },
        })
    }

    /// Whether a message lies before it that would have led to `other`.
    pub fn covers(&self, other: &Self) -> bool {
        self.ring == other.ring && (other.sequence, other.messages) <= (self.sequence, self.messages)
    }

    fn metadata(&self) -> String {
        format!("{} {}", self.ring, self.messages)
    }

    fn parse(offset: i64, metadata: &str) -> Option<Self> {
        let (ring, messages) = metadata.split_once(' ')?;
        let messages = messages.parse().ok()?;
        Some(Self { ring: ring.to_owned(), sequence: u64::try_from(offset).ok()?, messages })
    }
}

struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("reading the checkpoint: {error}: {reason}");
    }

    fn log(&self, _: RDKafkaLogLevel, facility: &str, line: &str) {
        tracing::debug!("librdkafka: {facility}: {line}");
    }
}

impl ConsumerContext for Quiet {}

/// Where checkpoints are kept.
pub struct Store {
    consumer: BaseConsumer<Quiet>,
    topic: String,
}

impl Store {
    /// The checkpoints of a transactional id. Nothing is asked of a broker yet.
    ///
    /// # Errors
    /// An [`OpenError`] that names what is wrong.
    pub fn open(config: &Config, transactional_id: &str) -> Result<Self, OpenError> {
        let mut client = consumer_config(config)?;
        client.set("group.id", transactional_id).set("isolation.level", "read_committed");
        let consumer =
            client.create_with_context(Quiet).map_err(|error| OpenError::Producer(error.to_string()))?;
        Ok(Self { consumer, topic: config.kafka.topic.clone() })
    }

    /// The committed checkpoint; the empty one if there is none yet.
    ///
    /// # Errors
    /// If no broker answers in time, or none may.
    pub fn read(&self) -> Result<Checkpoint, KafkaError> {
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition(&self.topic, PARTITION);
        let found = match self.consumer.committed_offsets(wanted, READ_TIMEOUT) {
            Ok(found) => found,
            // The first event makes the topic.
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::UnknownTopicOrPartition)) => {
                return Ok(Checkpoint::default());
            }
            Err(error) => return Err(error),
        };
        let Some(element) = found.find_partition(&self.topic, PARTITION) else {
            return Ok(Checkpoint::default());
        };
        element.error()?;
        let Offset::Offset(offset) = element.offset() else { return Ok(Checkpoint::default()) };
        Ok(Checkpoint::parse(offset, element.metadata()).unwrap_or_else(|| {
            tracing::warn!("the committed offset {offset} `{}` is no checkpoint of ours", element.metadata());
            Checkpoint::default()
        }))
    }

    /// What a transaction commits for a checkpoint.
    ///
    /// # Errors
    /// If librdkafka cannot hold it.
    pub fn offsets(&self, checkpoint: &Checkpoint) -> Result<TopicPartitionList, KafkaError> {
        let mut offsets = TopicPartitionList::new();
        let offset = Offset::Offset(i64::try_from(checkpoint.sequence).unwrap_or(i64::MAX));
        let mut element = offsets.add_partition(&self.topic, PARTITION);
        element.set_offset(offset)?;
        element.set_metadata(checkpoint.metadata());
        Ok(offsets)
    }

    /// The group that it is committed for.
    pub fn group(&self) -> Option<ConsumerGroupMetadata> {
        self.consumer.group_metadata()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ring: &str, sequence: u64, messages: u32) -> Checkpoint {
        Checkpoint { ring: ring.to_owned(), sequence, messages }
    }

    #[test]
    fn messages_of_one_record_are_counted() {
        let first = Checkpoint::default().behind("a-b-7").unwrap();
        assert_eq!(first, at("a-b", 7, 1));
        assert_eq!(first.behind("a-b-7"), Some(at("a-b", 7, 2)));
        assert_eq!(first.behind("a-b-8"), Some(at("a-b", 8, 1)));
        assert_eq!(first.behind("a-c-7"), Some(at("a-c", 7, 1)));
        assert_eq!(first.behind("a-b-corrupt"), None);
    }

    #[test]
    fn what_lies_before_a_checkpoint_is_covered() {
        let committed = at("a", 7, 2);
        for (other, is_covered) in [
            (at("a", 6, 9), true),
            (at("a", 7, 1), true),
            (at("a", 7, 2), true),
            (at("a", 7, 3), false),
            (at("a", 8, 1), false),
            (at("b", 1, 1), false),
        ] {
            assert_eq!(committed.covers(&other), is_covered, "{other:?}");
        }
    }

    #[test]
    fn a_checkpoint_survives_the_broker() {
        let checkpoint = at("0c4e8a52-11f2-4b6a-9a4e-7d1f2b6f6a11", 42, 3);
        assert_eq!(Checkpoint::parse(42, &checkpoint.metadata()), Some(checkpoint));
        assert_eq!(Checkpoint::parse(42, ""), None);
    }
}
