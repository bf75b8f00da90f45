//! The parts of an event that is too large for one message.

use std::ops::Range;

use crate::{
    delivery::{EventId, Stretch, Subject},
    encode::{Part, WriteEvent},
    faults::Fault,
};

/// The id of a part: it is named after its bytes, whatever the whole is.
pub fn part_id(whole: EventId, bytes: Range<usize>) -> EventId {
    let subject = match whole.subject {
        shared if Fault::PartsShareIds.is_back() => shared,
        Subject::Bytes { sequence, stretch } => {
            let begin = stretch.map_or(0, |stretch| stretch.begin) + bytes.start;
            Subject::Bytes { sequence, stretch: Some(Stretch { begin, len: bytes.len() }) }
        }
        news @ Subject::News(_) => news,
    };
    EventId { subject, ..whole }
}

/// One part of an event. What the agent has already numbered gets a second number.
pub fn part_of<'a>(
    event: &WriteEvent<'a>,
    event_id: &'a str,
    bytes: Range<usize>,
    part: Part,
) -> WriteEvent<'a> {
    let offset = event.offset.saturating_add(bytes.start as u64);
    let message = &event.message[bytes];
    match event.part {
        Some(_) => WriteEvent { offset, event_id, message, piece: Some(part), ..*event },
        None => WriteEvent { offset, event_id, message, part: Some(part), ..*event },
    }
}
