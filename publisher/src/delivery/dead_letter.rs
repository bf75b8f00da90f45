//! A message that cannot be delivered.

use super::id::EventId;

/// A message that the sink refuses for good: all that is needed to understand it, and to send it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Which of the sink's streams it was for.
    pub topic: String,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// The encoded event.
    pub payload: Vec<u8>,
    /// The event's id.
    pub id: EventId,
    /// When what it tells of happened, in milliseconds since the epoch.
    pub time_ms: u64,
    /// Why, in the sink's words.
    pub reason: String,
}

/// Why a dead letter goes to the topic for such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The topic that does not take it.
    pub topic: String,
    /// Why, in the sink's words.
    pub reason: String,
    /// How often it was sent there, as far as this publisher knows.
    pub attempts: u32,
}
