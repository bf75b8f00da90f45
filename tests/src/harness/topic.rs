//! Reads a topic or a stream, so that no test depends on the program under test to see its own results.

use std::time::Duration;

use rdkafka::{
    ClientConfig, Message as _, Offset, Timestamp, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Headers as _},
    types::RDKafkaErrorCode,
};

use super::{Event, wait};

/// Longer than the broker needs for a page of messages, short enough to look at the deadline now and then.
const POLL_TIME: Duration = Duration::from_millis(50);

/// After how many messages it looks whether they are enough.
const MESSAGES_AT_ONCE: usize = 2_000;

/// A message as the broker gave it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// What it carries.
    pub payload: Vec<u8>,
    /// Its place in the partition.
    pub position: i64,
    /// Its time as whoever made it said, in milliseconds since the epoch, where it has one.
    pub time_ms: Option<i64>,
    /// Its headers, in order.
    pub headers: Vec<(String, String)>,
}

impl Message {
    /// The payload as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

/// Where messages come from.
pub trait Source {
    /// Appends what there is by now, or some of it.
    ///
    /// # Errors
    /// What the broker says; it is asked again.
    fn poll(&mut self, messages: &mut Vec<Message>) -> Result<(), String>;
}

/// The only partition of a Kafka topic, from its beginning, by librdkafka.
struct Partition(BaseConsumer);

impl Source for Partition {
    fn poll(&mut self, messages: &mut Vec<Message>) -> Result<(), String> {
        // Bounded: a stream that never pauses must not keep the reader from looking.
        for polled in std::iter::from_fn(|| self.0.poll(POLL_TIME)).take(MESSAGES_AT_ONCE) {
            match polled {
                Ok(message) => messages.push(Message {
                    key: message.key().map(<[u8]>::to_vec),
                    payload: message.payload().unwrap_or_default().to_vec(),
                    position: message.offset(),
                    time_ms: match message.timestamp() {
                        Timestamp::CreateTime(time_ms) => Some(time_ms),
                        _ => None,
                    },
                    headers: headers(&message),
                }),
                // The topic does not exist before the first event.
                Err(KafkaError::MessageConsumption(RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }
}

fn headers(message: &BorrowedMessage<'_>) -> Vec<(String, String)> {
    let all = message.headers().into_iter().flat_map(|headers| headers.iter());
    let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    all.map(|header| (header.key.to_owned(), text(header.value))).collect()
}

/// Reads a topic or stream from its beginning and keeps what it has read.
pub struct Reader {
    source: Box<dyn Source>,
    topic: String,
    messages: Vec<Message>,
}

impl Reader {
    pub(super) fn open(broker: &str, topic: &str, isolation: &str) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", broker)
            .set("group.id", "bywash-tests")
            .set("enable.auto.commit", "false")
            .set("isolation.level", isolation)
            .set("fetch.wait.max.ms", "20")
            .set("topic.metadata.refresh.fast.interval.ms", "50")
            .set("fetch.message.max.bytes", "16777216")
            // The broker gives all that it has at once, whatever was asked for: the largest response that
            // librdkafka takes.
            .set("receive.message.max.bytes", "2147483647")
            .create()
            .expect("a consumer");
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition_offset(topic, 0, Offset::Beginning).expect("the beginning is an offset");
        consumer.assign(&partitions).expect("an assignment");
        Self::new(Box::new(Partition(consumer)), topic)
    }

    /// A reader of what a source gives.
    pub fn new(source: Box<dyn Source>, topic: &str) -> Self {
        Self { source, topic: topic.to_owned(), messages: Vec::new() }
    }

    /// Reads until `enough` says `Ok`; its `Err` says what is missing.
    ///
    /// # Panics
    /// When the time is up or the broker reports an error.
    #[track_caller]
    pub fn read_until(
        &mut self,
        what: &str,
        within: Duration,
        mut enough: impl FnMut(&[Message]) -> Result<(), String>,
    ) -> &[Message] {
        let Self { source, topic, messages } = self;
        let what = format!("{what} in topic {topic}");
        wait::until(&what, within, || {
            source.poll(messages)?;
            enough(messages).map_err(|missing| format!("{} messages read; {missing}", messages.len()))
        });
        messages
    }

    /// Reads until there are this many messages.
    #[track_caller]
    pub fn messages(&mut self, count: usize) -> Vec<Message> {
        let enough = |m: &[Message]| if m.len() >= count { Ok(()) } else { Err(format!("{count} wanted")) };
        self.read_until("messages", wait::TIMEOUT, enough).to_vec()
    }

    /// Reads until there are this many different events; gives all events, duplicates included.
    #[track_caller]
    pub fn events(&mut self, distinct: usize) -> Vec<Event> {
        self.events_within(distinct, wait::TIMEOUT)
    }

    /// The same with another deadline.
    #[track_caller]
    pub fn events_within(&mut self, distinct: usize, within: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        let mut known = std::collections::HashSet::new();
        self.read_until("events", within, |messages| {
            for message in &messages[events.len()..] {
                let event = Event::parse(message);
                known.insert(event.identity());
                events.push(event);
            }
            let found = known.len();
            if found >= distinct { Ok(()) } else { Err(format!("{found} of {distinct} different events")) }
        });
        events
    }

    /// Reads until every byte of every file in `written` (path and length) is covered by events.
    #[track_caller]
    pub fn events_of(&mut self, written: &[(&std::path::Path, u64)]) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        let mut bytes = std::collections::HashMap::<Vec<u8>, u64>::new();
        self.read_until("the written bytes", wait::TIMEOUT, |messages| {
            for message in &messages[events.len()..] {
                let event = Event::parse(message);
                if seen.insert(event.identity()) && event.lost().is_none() {
                    *bytes.entry(event.path().into()).or_default() += event.message().len() as u64;
                }
                events.push(event);
            }
            for (path, length) in written {
                let path_text = path.to_string_lossy();
                let got = bytes.get(path_text.as_bytes()).copied().unwrap_or_default();
                if got < *length {
                    return Err(format!("{got} of {length} bytes of {path_text}"));
                }
            }
            Ok(())
        });
        events
    }
}
