//! What the drain and a sink ask of one another.

use std::time::Instant;

use bywash_common::config::Config;

use super::{
    dead_letter::{DeadLetter, Failure},
    id::EventId,
    ticket::Ticket,
};

/// Records have nanoseconds, messages milliseconds.
pub const NS_PER_MS: u64 = 1_000_000;

/// A message for a sink.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Which of the sink's streams it belongs to.
    pub topic: &'a str,
    /// Messages of one key keep their order.
    pub key: Option<&'a [u8]>,
    /// The encoded event.
    pub payload: &'a [u8],
    /// The same whenever this event is sent.
    pub id: EventId,
    /// The same, rendered.
    pub event_id: &'a str,
    /// When what it tells of happened, in milliseconds since the epoch.
    pub time_ms: u64,
    /// It has lost its place: others that come behind it were sent before.
    pub is_dead_letter: bool,
    /// It goes to the topic for dead letters, for this reason.
    pub failure: Option<&'a Failure>,
}

impl<'a> Message<'a> {
    /// The message that a dead letter holds; `event_id` is the rendering of its id.
    pub fn of_dead_letter(dead_letter: &'a DeadLetter, event_id: &'a str) -> Self {
        let DeadLetter { topic, key, payload, id, time_ms, .. } = dead_letter;
        let (key, id, time_ms) = (key.as_deref(), *id, *time_ms);
        Self { topic, key, payload, id, event_id, time_ms, is_dead_letter: false, failure: None }
    }
}

/// A message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No room, for now: try again once something else was delivered.
    #[error("the sink takes nothing more for now")]
    Full,
    /// It will never be taken.
    #[error("{0}")]
    Refused(String),
    /// An operator has had time enough to make it possible.
    #[error("{0}")]
    GivenUp(String),
    /// Nothing will be taken any more.
    #[error(transparent)]
    Broken(#[from] SinkError),
}

/// A sink cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The reader of standard output is gone.
    #[error("standard output is closed: whatever read from it has ended")]
    Closed,
    /// Standard output does not take what is written.
    #[error("cannot write to standard output: {0}")]
    Write(#[source] nix::errno::Errno),
    /// The Kinesis service has ended.
    #[error("the Kinesis service cannot go on: {0}; a restart sends everything unconfirmed again")]
    Kinesis(String),
    /// No broker that is known is registered in ZooKeeper any more, and what a transaction holds cannot go elsewhere.
    #[error(
        "the brokers registered in ZooKeeper are all others by now ({0}); a restart turns to them and sends everything unconfirmed again"
    )]
    Moved(String),
    /// librdkafka has given up on this producer, and there is no other.
    #[error("the Kafka producer cannot go on: {0}; a restart sends everything unconfirmed again")]
    Kafka(String),
}

/// Takes messages and reports to the frontier what became of them.
///
/// Every message that [`Self::send`] takes is either reported to the [`Frontier`](super::Frontier) once, with its [`Outcome`](super::Outcome) or as refused, or
/// not at all if the publisher ends before.
pub trait Sink {
    /// The most bytes that the payload of a message with a key of `key_bytes` may have.
    fn payload_bytes_max(&self, key_bytes: usize) -> usize;

    /// Takes a message; never waits long.
    ///
    /// # Errors
    /// A [`SendError`]; the message is then not taken.
    fn send(&mut self, message: &Message<'_>, ticket: Ticket) -> Result<(), SendError>;

    /// Does what does not happen by itself. Called between messages, often; never waits long.
    ///
    /// # Errors
    /// A [`SinkError`] if the sink cannot go on.
    fn poll(&mut self) -> Result<(), SinkError>;

    /// Whether something waits to be sent again, so that the next report is news for the sink.
    fn is_holding(&self) -> bool {
        false
    }

    /// Sends off what was gathered to be sent together: there is nothing more at the moment.
    ///
    /// # Errors
    /// A [`SinkError`] if the sink cannot go on.
    fn push(&mut self) -> Result<(), SinkError>;

    /// A template has named a topic for the first time: it may be missing.
    fn meet_topic(&mut self, _topic: &str) {}

    /// Follows what of another configuration takes effect at once: messages are encoded otherwise, and have other topics.
    fn reconfigure(&mut self, _config: &Config) {}

    /// Delivers what was taken, until `deadline`, and shuts the sink down soon after. What is not delivered by then is
    /// not reported.
    fn close(self: Box<Self>, deadline: Instant);
}
