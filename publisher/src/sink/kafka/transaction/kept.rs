//! What a transaction would take along if it were taken back.

use crate::delivery::{DeadLetter, EventId, Failure, Message, Ticket};

/// A message that is not committed.
pub struct Kept {
    /// Which record it belongs to.
    pub ticket: Ticket,
    /// Its topic.
    pub topic: String,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// The encoded event.
    pub payload: Vec<u8>,
    /// The event's id.
    pub id: EventId,
    /// The same, rendered.
    pub event_id: String,
    /// When what it tells of happened, in milliseconds since the epoch.
    pub time_ms: u64,
    /// It comes from the dead letters: checkpoints know nothing of it.
    pub is_dead_letter: bool,
    /// Why it goes to the topic for dead letters, if it does.
    pub failure: Option<Failure>,
}

impl Kept {
    /// A copy of a message.
    pub fn of(message: &Message<'_>, ticket: Ticket) -> Self {
        Self {
            ticket,
            topic: message.topic.to_owned(),
            key: message.key.map(<[u8]>::to_vec),
            payload: message.payload.to_vec(),
            id: message.id,
            event_id: message.event_id.to_owned(),
            time_ms: message.time_ms,
            is_dead_letter: message.is_dead_letter,
            failure: message.failure.cloned(),
        }
    }

    /// To be sent.
    pub fn message(&self) -> Message<'_> {
        Message {
            topic: &self.topic,
            key: self.key.as_deref(),
            payload: &self.payload,
            id: self.id,
            event_id: &self.event_id,
            time_ms: self.time_ms,
            is_dead_letter: self.is_dead_letter,
            failure: self.failure.as_ref(),
        }
    }

    /// The dead letter that it becomes.
    pub fn into_dead_letter(self, reason: String) -> (Ticket, DeadLetter) {
        let Self { ticket, topic, key, payload, id, time_ms, .. } = self;
        (ticket, DeadLetter { topic, key, payload, id, time_ms, reason })
    }
}
