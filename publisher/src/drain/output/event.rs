//! The event of a write, from its message or with that encoded as it came out of the ring.

use bywash_common::{
    fail_point::FailPoint,
    record::Write,
    ring::{Entry, Follow},
};

use super::{Output, message, send};
use crate::{
    delivery::{EventId, Record, SinkError, Stretch, Subject, Ticket},
    encode::{Early, WriteEvent, Writer},
    lines::Lines,
};

/// What is copied out of the ring, checksummed and encoded at a time: few enough for the second-level cache, and enough for the
/// processor's own string copy to run at full speed. By 4 KiB, which stay in the first-level cache, a write of 128 KiB takes a
/// sixth longer.
const PIECE_BYTES: usize = 128 << 10;

impl Output {
    /// Has `send` send the event of a write.
    pub(super) fn with_event<T>(
        &mut self,
        (sequence, stretch): (u64, Option<Stretch>),
        write: &Write<'_>,
        message: &[u8],
        send: impl FnOnce(&mut Self, EventId, &WriteEvent<'_>) -> T,
    ) -> T {
        let mut namer = std::mem::take(&mut self.namer);
        let (id, event_id) = namer.name(Subject::Bytes { sequence, stretch });
        let names = self.names.of_writer(write, self.polled);
        let writer = names.as_ref().map(|(user, group)| Writer::of(write, user, group));
        let event = WriteEvent::of(write, writer, (event_id, sequence), message);
        let sent = send(self, id, &event);
        self.namer = namer;
        sent
    }

    /// Who takes messages as they come out of the ring, and encodes them: of writes that `lines` leaves alone, and that the sink takes
    /// in one piece as far as is known.
    pub fn following<'a>(&'a mut self, lines: &'a Lines) -> Following<'a> {
        let limit_bytes = self.sink.payload_bytes_max(0);
        Following { early: &mut self.early, lines, limit_bytes }
    }

    /// Whether the message of the record that was read is encoded already, and not in its payload.
    pub fn has_message(&self) -> bool {
        self.early.message_bytes().is_some()
    }

    /// Takes a write on whose message is encoded already.
    ///
    /// # Errors
    /// A [`SinkError`] if the sink cannot go on.
    pub fn write_encoded(&mut self, entry: Entry, write: &Write<'_>) -> Result<(), SinkError> {
        let message_bytes = self.early.message_bytes().unwrap_or(0);
        let ticket = self.frontier.open(Record::of_bytes(entry, write, message_bytes));
        if self.is_expired(write.time_ns) {
            return self.give_up(ticket, (entry.seq, None), write.time_ns, message_bytes);
        }
        self.announce_expired()?;
        self.with_event((entry.seq, None), write, &[], |output, id, event| {
            output.send_encoded(id, event, ticket)
        })
    }

    fn send_encoded(&mut self, id: EventId, event: &WriteEvent<'_>, ticket: Ticket) -> Result<(), SinkError> {
        let limit_bytes = self.limit_bytes(event);
        self.payload.clear();
        self.encoder.head(event, &mut self.payload);
        let head_bytes = self.payload.len();
        self.encoder.tail(event, true, &mut self.payload);
        if self.payload.len() + self.early.encoded_bytes() > limit_bytes {
            let message = &self.early.take_back();
            return self.send_event(id, &WriteEvent { message, ..*event }, ticket);
        }
        let (head, tail) = self.payload.split_at(head_bytes);
        let payload = self.early.event(head, tail);
        FailPoint::EventEncoded.reach();
        let message = message(&mut self.routes, id, event, payload);
        send(&mut *self.sink, &self.frontier, &self.stop, self.spool_waker.as_ref(), &message, ticket)
            .map(drop)
    }
}

/// Encodes what comes out of the ring, as [`Output::following`] says.
pub struct Following<'a> {
    early: &'a mut Early,
    lines: &'a Lines,
    limit_bytes: usize,
}

impl Follow for Following<'_> {
    const PIECE_BYTES: usize = PIECE_BYTES;

    fn begin(&mut self) {
        self.early.begin();
    }

    fn came(&mut self, payload: &mut Vec<u8>, left: usize) {
        let Self { early, lines, limit_bytes } = self;
        let form = early.form();
        early.came(payload, left, |write, message_bytes| {
            form.bytes_min(message_bytes) <= *limit_bytes && lines.leaves_alone(write)
        });
    }
}
