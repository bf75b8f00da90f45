//! Messages that are joined from several records: which records are delivered although they lie behind the ring's head.

use std::collections::BTreeMap;

use bywash_common::ring::{SELECTIVE_ACKS_MAX, SelectiveAck};

use super::ticket::Ticket;

/// A message that begins in one record and ends in a later one, such as a line over two writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinedMessage {
    /// The first record; the message is sent on its ticket.
    pub first: Ticket,
    /// The last record of which the message has bytes.
    pub last: Ticket,
    /// The selective acknowledgement that holds once the message is delivered.
    pub ahead: SelectiveAck,
}

/// The joined messages whose last record the head has not passed.
#[derive(Default)]
pub struct JoinedMessages {
    /// Messages that begin behind the head, by their first and last tickets.
    beyond: BTreeMap<(Ticket, Ticket), SelectiveAck>,
    /// Messages that begin before the head and end behind it, by their last tickets.
    astride: BTreeMap<Ticket, SelectiveAck>,
    acks: Vec<SelectiveAck>,
}

impl JoinedMessages {
    /// Adds a message. Must be called before the message is sent.
    pub fn add(&mut self, message: JoinedMessage) {
        self.beyond.insert((message.first, message.last), message.ahead);
    }

    /// The head moves in front of the record `first`: returns the selective acknowledgements for that head, at most
    /// [`SELECTIVE_ACKS_MAX`].
    pub fn pass(&mut self, first: Ticket) -> &[SelectiveAck] {
        while let Some(entry) = self.beyond.first_entry()
            && entry.key().0 < first
        {
            let ((_, last), ahead) = entry.remove_entry();
            self.astride.insert(last, ahead);
        }
        while let Some(entry) = self.astride.first_entry()
            && *entry.key() < first
        {
            entry.remove();
        }
        self.acks.clear();
        self.acks.extend(self.astride.values().take(SELECTIVE_ACKS_MAX));
        &self.acks
    }
}
