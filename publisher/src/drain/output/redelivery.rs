//! Redelivery: dead letters that are sent again, and refused messages that wait until a dead letter can be written.

use crate::{
    dead_letter::Again,
    delivery::{DeadLetter, Message, NS_PER_MS, Refused, SendError, SinkError},
    faults::Fault,
};

use super::{Output, send};

impl Output {
    /// Whether something waits for an operator that was read before everything that is not read.
    pub fn has_waiting(&self) -> bool {
        self.dead_letters.waiting().is_some()
    }

    /// Hands the sink again what waits for an operator.
    pub(super) fn offer_waiting(&mut self) -> Result<(), SinkError> {
        while let Some(Refused { ticket, dead_letter, .. }) = self.dead_letters.waiting() {
            let ticket = *ticket;
            let event_id = dead_letter.id.to_string();
            match self.sink.send(&Message::of_dead_letter(dead_letter, &event_id), ticket) {
                Ok(()) => {}
                Err(SendError::Full) => break,
                Err(SendError::Broken(error)) => return Err(error),
                Err(SendError::Refused(reason)) => {
                    self.frontier.refuse(ticket, DeadLetter { reason, ..dead_letter.clone() });
                }
                Err(SendError::GivenUp(reason)) => {
                    self.frontier.give_up(ticket, DeadLetter { reason, ..dead_letter.clone() });
                }
            }
            self.frontier.replaced();
            self.dead_letters.take_waiting();
        }
        Ok(())
    }

    /// Whether dead letters wait before they are sent again: everything that is on its way has to arrive first.
    pub fn hold_dead_letters(&mut self, holds: bool) {
        self.holds_dead_letters = holds && !Fault::DeadLettersNotHeld.is_back();
    }

    /// Sends dead letters again whose time has come, and passes on those that were refused again.
    ///
    /// `has_backlog` says that not all that was there at the start is read and with the sink. What a publisher that was killed has
    /// kept as dead letters may be behind that: no letter goes before. But where something waits for room, letters that are
    /// delivered may make it.
    pub(super) fn send_dead_letters(&mut self, has_backlog: bool) -> Result<(), SinkError> {
        let waits_for_backlog = has_backlog && !self.has_waiting() && !Fault::DeadLettersOvertake.is_back();
        if self.holds_dead_letters || waits_for_backlog {
            return Ok(());
        }
        // First: else what became of their file would be settled without them.
        for again in self.dead_letters.to_pass_on() {
            if !self.send_dead_letter(&again)? {
                return Ok(());
            }
        }
        for again in self.dead_letters.dead_letters(&self.frontier, &self.status) {
            if !self.send_dead_letter(&again)? {
                break;
            }
        }
        Ok(())
    }

    /// Sends one: to the topic for dead letters if it has failed again, and else to its own. Gives false if a stop came first.
    fn send_dead_letter(&mut self, again: &Again) -> Result<bool, SinkError> {
        let Again { dead_letter, failure, .. } = again;
        let event_ns = dead_letter.time_ms.saturating_mul(NS_PER_MS);
        let ticket = self.frontier.open_beside(dead_letter.payload.len() as u64, event_ns);
        self.dead_letters.sent_again(again, ticket);
        let event_id = dead_letter.id.to_string();
        let topic = self.dead_letters.topic().filter(|_| failure.is_some()).unwrap_or(&dead_letter.topic);
        let failure = failure.as_ref();
        let message = Message {
            topic,
            is_dead_letter: true,
            failure,
            ..Message::of_dead_letter(dead_letter, &event_id)
        };
        send(&mut *self.sink, &self.frontier, &self.stop, self.spool_waker.as_ref(), &message, ticket)
    }
}
