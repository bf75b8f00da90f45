//! How far committed events reach.

use std::{cmp::Ordering, thread, time::Duration};

use bywash_common::config::Config;
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata},
    error::{KafkaError, RDKafkaErrorCode},
};
use uuid::Uuid;

use crate::{
    delivery::{EventId, News, Subject},
    sink::kafka::{
        error::OpenError,
        setup::{Known, Setup},
    },
};

/// How long the brokers have for the committed checkpoint.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// What is committed for: topics have at least this partition.
const PARTITION: i32 = 0;
/// In the metadata, in front of how many bytes of the record are committed.
const BYTES: &str = "bytes ";
/// What the version before added to the ring in front of its news of a gap, whose first record it took for committed.
const FORMER_GAP: &str = "-gap";

/// How much of a checkpoint's own record lies before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Its first so many bytes. Parts begin and end elsewhere once a limit has changed.
    Bytes(usize),
    /// Its first so many messages, as the version before counted.
    Messages(u32),
}

/// A place between two messages of a ring's stream: everything before record `sequence`, and some of that, lies before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    ring: Uuid,
    sequence: u64,
    reach: Reach,
}

impl Checkpoint {
    fn new(ring: Uuid, sequence: u64) -> Self {
        Self { ring, sequence, reach: Reach::Bytes(0) }
    }

    /// The place behind a message. None for news of damage, which has no place among records.
    fn behind(id: EventId) -> Option<Self> {
        let sequence = match id.subject {
            Subject::Bytes { sequence, stretch: None } => sequence.saturating_add(1),
            Subject::Bytes { sequence, stretch: Some(stretch) } => {
                return Some(Self { reach: Reach::Bytes(stretch.end()), ..Self::new(id.ring, sequence) });
            }
            Subject::News(News::Gap { first, records }) => first.saturating_add(records?),
            // Before it comes what was read before, and of what was given up at least this many.
            Subject::News(News::Expired { sequence, events, .. }) => sequence.saturating_add(events),
            Subject::News(news) => news.sequence()?.saturating_add(1),
        };
        Some(Self::new(id.ring, sequence))
    }

    /// The later of two places in one ring's stream; of two rings, `other`.
    fn later(self, other: Self) -> Self {
        let is_behind = self.ring == other.ring && self.is_behind(other);
        if is_behind { self } else { other }
    }

    /// Whether this lies behind a place in the same ring's stream.
    fn is_behind(self, other: Self) -> bool {
        match self.sequence.cmp(&other.sequence) {
            Ordering::Equal => match (self.reach, other.reach) {
                (Reach::Bytes(mine), Reach::Bytes(others)) => mine >= others,
                (Reach::Messages(_), Reach::Bytes(others)) => others == 0,
                (_, Reach::Messages(_)) => false,
            },
            order => order.is_gt(),
        }
    }

    fn metadata(&self) -> String {
        match self.reach {
            Reach::Bytes(bytes) => format!("{} {BYTES}{bytes}", self.ring),
            Reach::Messages(messages) => format!("{} {messages}", self.ring),
        }
    }

    fn parse(offset: i64, metadata: &str) -> Option<Self> {
        let (ring, reach) = metadata.split_once(' ')?;
        let sequence = u64::try_from(offset).ok()?;
        if let Some(ring) = ring.strip_suffix(FORMER_GAP) {
            return Some(Self::new(ring.parse().ok()?, sequence));
        }
        let reach = match reach.strip_prefix(BYTES) {
            Some(bytes) => Reach::Bytes(bytes.parse().ok()?),
            None => Reach::Messages(reach.parse().ok()?),
        };
        Some(Self { ring: ring.parse().ok()?, sequence, reach })
    }
}

/// How far transactions reach: what was committed before this publisher began, and what is from then on.
///
/// A message is skipped for what was committed before alone. What this publisher sends, it sends because it is not: be it
/// late, as the news that a record cannot be delivered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// What was committed before; none for nothing.
    before: Option<Checkpoint>,
    /// What is committed.
    committed: Option<Checkpoint>,
    /// How far the open transaction reaches.
    reached: Option<Checkpoint>,
}

impl Progress {
    /// Goes on behind what the brokers have.
    pub fn resume(committed: Option<Checkpoint>) -> Self {
        Self { before: committed, committed, reached: committed }
    }

    /// Whether a message was committed before this publisher began. To be asked once for each message, in their order.
    pub fn skips(&mut self, id: EventId) -> bool {
        let (Some(before), Some(behind)) = (&mut self.before, Checkpoint::behind(id)) else { return false };
        if before.ring != behind.ring {
            return false;
        }
        if let (Reach::Messages(messages @ 1..), Some(sequence)) = (&mut before.reach, id.sequence())
            && sequence == before.sequence
        {
            *messages -= 1;
            return true;
        }
        before.is_behind(behind)
    }

    /// A message is in the open transaction, or needs to be in none.
    pub fn reach(&mut self, id: EventId) {
        if let Some(behind) = Checkpoint::behind(id) {
            self.reached = Some(self.reached.map_or(behind, |reached| reached.later(behind)));
        }
    }

    /// The open transaction is committed.
    pub fn commit(&mut self) {
        self.committed = self.reached;
    }

    /// The open transaction is taken back.
    pub fn take_back(&mut self) {
        self.reached = self.committed;
    }

    /// What the open transaction is to be committed with, if it holds anything that has a place.
    pub fn reached(&self) -> Option<Checkpoint> {
        self.reached
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

/// Where checkpoints are kept: as the offset of a consumer group, which a client that does nothing else reads.
pub struct Store {
    /// Needed until the checkpoint is read.
    consumer: Option<BaseConsumer<Known<Quiet>>>,
    topic: String,
}

impl Store {
    /// The checkpoints of a transactional id, and the group that they are committed for. Nothing is asked of a broker yet.
    ///
    /// # Errors
    /// An [`OpenError`] that names what is wrong.
    pub fn open(config: &Config, transactional_id: &str) -> Result<(Self, ConsumerGroupMetadata), OpenError> {
        let mut setup = Setup::of_consumer(config)?;
        setup.properties.set("group.id", transactional_id).set("isolation.level", "read_committed");
        let consumer = setup.consumer(Quiet).map_err(|error| OpenError::Producer(error.to_string()))?;
        let group = consumer
            .group_metadata()
            .ok_or_else(|| OpenError::Producer("there is no consumer group for the checkpoint".to_owned()))?;
        Ok((Self { consumer: Some(consumer), topic: config.fixed_topic().to_owned() }, group))
    }

    /// The committed checkpoint; none if there is none yet. Once it was read the client is taken down: it is of no more
    /// use, and what nobody polls piles up in it.
    ///
    /// # Errors
    /// If no broker answers in time, or none may.
    pub fn read(&mut self) -> Result<Option<Checkpoint>, KafkaError> {
        let Some(consumer) = &self.consumer else { return Ok(None) };
        // Serves what has piled up while no broker answered.
        while consumer.poll(Duration::ZERO).is_some() {}
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition(&self.topic, PARTITION);
        let found = match consumer.committed_offsets(wanted, READ_TIMEOUT) {
            Ok(found) => found,
            // The first event makes the topic.
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::UnknownTopicOrPartition)) => {
                TopicPartitionList::new()
            }
            Err(error) => return Err(error),
        };
        let element = found.find_partition(&self.topic, PARTITION);
        let mut checkpoint = None;
        if let Some(element) = element {
            element.error()?;
            if let Offset::Offset(offset) = element.offset() {
                checkpoint = Checkpoint::parse(offset, element.metadata());
                if checkpoint.is_none() {
                    tracing::warn!(
                        "the committed offset {offset} `{}` is no checkpoint of ours",
                        element.metadata()
                    );
                }
            }
        }
        if let Some(consumer) = self.consumer.take() {
            // Its threads may be long in ending, and nobody needs to wait. Without a thread it ends here.
            let _ = thread::Builder::new().name("destroy".to_owned()).spawn(move || drop(consumer));
        }
        Ok(checkpoint)
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
}

impl std::fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "everything before record {} of ring {}", self.sequence, self.ring)?;
        match self.reach {
            Reach::Bytes(0) => Ok(()),
            Reach::Bytes(bytes) => write!(f, ", and its first {bytes} bytes"),
            Reach::Messages(messages) => write!(f, ", and its first {messages} messages"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Stretch;

    const RING: &str = "0c4e8a52-11f2-4b6a-9a4e-7d1f2b6f6a11";

    fn id(rest: &str) -> EventId {
        format!("{RING}-{rest}").parse().unwrap()
    }

    /// What a publisher that begins behind `committed` skips of these.
    fn skipped(committed: &str, offset: i64, ids: &[&str]) -> Vec<bool> {
        let mut progress = Progress::resume(Checkpoint::parse(offset, committed));
        ids.iter().map(|rest| progress.skips(id(rest))).collect()
    }

    #[test]
    fn what_lies_before_a_checkpoint_is_skipped() {
        let ids = ["6", "7.lost", "8.0+10", "8.10+10", "8.20+5", "9", "gap.3+5", "gap.8+1"];
        assert_eq!(
            skipped(&format!("{RING} bytes 20"), 8, &ids),
            [true, true, true, true, false, false, true, false]
        );
        let other = "11111111-11f2-4b6a-9a4e-7d1f2b6f6a11";
        assert_eq!(skipped(&format!("{other} bytes 20"), 8, &ids), [false; 8]);
        assert_eq!(skipped("nothing", 8, &ids), [false; 8]);
    }

    #[test]
    fn parts_that_begin_elsewhere_by_now_are_never_skipped_for_others() {
        let ids = ["8.0+15", "8.15+15", "8.30+1"];
        assert_eq!(skipped(&format!("{RING} bytes 20"), 8, &ids), [true, false, false]);
        assert_eq!(skipped(&format!("{RING} bytes 20"), 8, &["8"]), [false]);
    }

    #[test]
    fn checkpoints_of_the_version_before_count_messages() {
        let ids = ["7", "8.0+10", "8.10+10", "8.20+10", "9"];
        assert_eq!(skipped(&format!("{RING} 2"), 8, &ids), [true, true, true, false, false]);
        assert_eq!(skipped(&format!("{RING} 1"), 8, &["7", "8", "9"]), [true, true, false]);
        // It took a gap's first record for committed.
        assert_eq!(skipped(&format!("{RING}-gap 1"), 8, &["7", "8", "9"]), [true, false, false]);
        assert_eq!(skipped(&format!("{RING}-corrupt 1"), 640, &["7", "8", "9"]), [false; 3]);
    }

    #[test]
    fn what_is_committed_now_skips_nothing() {
        let mut progress = Progress::resume(None);
        progress.reach(id("7"));
        progress.commit();
        assert!(!progress.skips(id("5.undeliverable")));
    }

    #[test]
    fn a_checkpoint_never_moves_back_and_damage_does_not_move_it() {
        let mut progress = Progress::resume(None);
        for rest in ["7.0+20", "5.undeliverable", "damage.64+64", "7.0+10"] {
            progress.reach(id(rest));
        }
        let stretch = Stretch { begin: 0, len: 20 };
        let expected = Subject::Bytes { sequence: 7, stretch: Some(stretch) };
        assert_eq!(progress.reached(), Checkpoint::behind(EventId { subject: expected, ..id("7") }));
        progress.take_back();
        assert_eq!(progress.reached(), None);
    }

    #[test]
    fn a_checkpoint_survives_the_broker() {
        for rest in ["7", "7.5+10", "7.lost", "gap.7+3"] {
            let checkpoint = Checkpoint::behind(id(rest)).unwrap();
            let offset = i64::try_from(checkpoint.sequence).unwrap();
            assert_eq!(Checkpoint::parse(offset, &checkpoint.metadata()), Some(checkpoint));
        }
        assert_eq!(Checkpoint::parse(42, ""), None);
    }
}
