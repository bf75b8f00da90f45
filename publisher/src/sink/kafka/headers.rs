//! What goes with a message beside its payload: the event's id, the payload's format, and what the configuration adds.

use bywash_common::config::Config;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, OwnedHeaders};

use crate::delivery::Failure;

/// The header that names the format, so that a reader need not guess.
pub const ENCODER_HEADER: &str = "encoder";
/// The header that holds an event's id.
pub const EVENT_ID_HEADER: &str = "event_id";
/// In the topic for dead letters, the header that names the topic that does not take the event.
const FAILED_TOPIC_HEADER: &str = "failed_topic";
/// The header that says why.
const FAILED_REASON_HEADER: &str = "failed_reason";
/// The header that says how often it was sent there.
const FAILED_ATTEMPTS_HEADER: &str = "failed_attempts";
/// What the protocol may add to a header's name and value: two lengths.
const HEADER_OVERHEAD_BYTES: usize = 10;

/// The headers of all messages of a configuration.
pub struct Headers {
    /// `kafka.headers`
    own: Vec<(String, String)>,
    own_bytes: usize,
}

impl Headers {
    /// Those that the configuration asks for.
    pub fn new(config: &Config) -> Self {
        let own: Vec<_> =
            config.kafka.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let own_bytes =
            own.iter().map(|(name, value)| name.len() + value.len() + HEADER_OVERHEAD_BYTES).sum();
        Self { own, own_bytes }
    }

    /// How many bytes those of the configuration add to each message at most.
    pub fn own_bytes(&self) -> usize {
        self.own_bytes
    }

    /// The headers of a message.
    pub fn of(&self, event_id: &str, encoder: &str, failure: Option<&Failure>) -> OwnedHeaders {
        let headers = OwnedHeaders::new_with_capacity(2 + self.own.len())
            .insert(Header { key: EVENT_ID_HEADER, value: Some(event_id) })
            .insert(Header { key: ENCODER_HEADER, value: Some(encoder) });
        let headers = match failure {
            None => headers,
            Some(Failure { topic, reason, attempts }) => headers
                .insert(Header { key: FAILED_TOPIC_HEADER, value: Some(topic.as_str()) })
                .insert(Header { key: FAILED_REASON_HEADER, value: Some(reason.as_str()) })
                .insert(Header { key: FAILED_ATTEMPTS_HEADER, value: Some(&attempts.to_string()) }),
        };
        self.own.iter().fold(headers, |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value.as_str()) })
        })
    }
}

/// A header's value, if that is text.
pub fn text<'m>(message: &'m BorrowedMessage<'_>, name: &str) -> Option<&'m str> {
    let value = rdkafka::Message::headers(message)?.iter().find(|header| header.key == name)?.value?;
    str::from_utf8(value).ok()
}

/// A message's time, in milliseconds since the epoch, as librdkafka takes it. 0 is none to it: it takes its clock's then.
pub fn timestamp(time_ms: u64) -> i64 {
    i64::try_from(time_ms).unwrap_or(i64::MAX)
}
