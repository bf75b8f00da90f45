//! What waits for more: a line, or an event of several lines.

use std::{sync::Arc, time::Instant};

use bywash_common::record::Write;

use crate::delivery::Stretch;

use super::line::{End, Limits, Line, Record};

/// A line that has no end yet, or an event that may have more lines.
pub(super) struct Pending<T> {
    /// Path and command of the write in which it begins.
    path: Vec<u8>,
    command: Vec<u8>,
    /// The rest of that write's description: its texts are empty.
    write: Write<'static>,
    sequence: u64,
    /// Where in that write it begins, and how many bytes that write has.
    begin: usize,
    record_len: usize,
    pub bytes: Vec<u8>,
    pub ticket: T,
    end: Option<End<T>>,
    /// How many lines it is.
    lines: usize,
    /// The tickets of its lines but for the first.
    joined: Vec<T>,
}

impl<T: Copy> Pending<T> {
    /// One that begins with these bytes, in the buffers of another.
    pub fn begin(line: &Line<'_, T>, spare: Option<Self>) -> Self {
        let (mut path, mut command, mut bytes, mut joined) = match spare {
            Some(spare) => (spare.path, spare.command, spare.bytes, spare.joined),
            None => Default::default(),
        };
        for (buffer, content) in
            [(&mut path, line.write.path), (&mut command, line.write.command), (&mut bytes, line.message)]
        {
            buffer.clear();
            buffer.extend_from_slice(content);
        }
        joined.clear();
        Self {
            path,
            command,
            write: Write { path: &[], command: &[], ..line.write },
            sequence: line.sequence,
            begin: line.begin,
            record_len: line.record_len,
            bytes,
            ticket: line.ticket,
            end: line.end,
            lines: 1,
            joined,
        }
    }

    /// The same as it is sent.
    pub fn line(&self) -> Line<'_, T> {
        Line {
            write: Write { path: &self.path, command: &self.command, ..self.write },
            sequence: self.sequence,
            begin: self.begin,
            record_len: self.record_len,
            message: &self.bytes,
            ticket: self.ticket,
            end: self.end,
            joined: &self.joined,
        }
    }

    /// Takes the first `len` bytes of a record.
    pub fn join(&mut self, record: &Record<'_>, len: usize, ticket: T) {
        self.bytes.extend_from_slice(&record.data[..len]);
        self.end = Some(End { ticket, sequence: record.sequence, len });
    }

    /// Takes the line behind it.
    fn append(&mut self, line: &Line<'_, T>) {
        self.bytes.extend_from_slice(line.message);
        self.lines += 1;
        self.joined.push(line.ticket);
        let in_one = End {
            ticket: line.ticket,
            sequence: line.sequence,
            len: Stretch { begin: line.begin, len: line.message.len() }.end(),
        };
        self.end = Some(line.end.unwrap_or(in_one)).filter(|end| end.sequence != self.sequence);
    }

    fn is_before(&self, record: &Record<'_>, bytes: usize) -> bool {
        self.path == record.write.path
            && self.write.offset.checked_add(bytes as u64) == Some(record.write.offset)
    }
}

/// What waits of one handle: there is something of the two.
pub(super) struct Held<T> {
    /// Lines that may be followed by others of the same event, where an event has several.
    pub event: Option<Pending<T>>,
    /// Behind them, a line that has no end yet.
    pub line: Option<Pending<T>>,
    pub limits: Limits,
    /// The last moment, in the writers' time, at which another write may join.
    pub until_ns: u64,
    /// From when on nothing can join any more if the ring has been read to its end.
    pub stale_at: Instant,
}

impl<T: Copy> Held<T> {
    /// What begins with nothing.
    pub fn none(limits: &Limits, now: Instant) -> Self {
        Self { event: None, line: None, limits: limits.clone(), until_ns: 0, stale_at: now }
    }

    /// The ticket of the record in which it begins.
    pub fn ticket(&self) -> Option<T> {
        self.event.as_ref().or(self.line.as_ref()).map(|first| first.ticket)
    }

    /// How many bytes of the line are there that has no end yet.
    pub fn line_bytes(&self) -> usize {
        self.line.as_ref().map_or(0, |line| line.bytes.len())
    }

    /// Whether a record is written behind it, under the same path.
    pub fn is_before(&self, record: &Record<'_>) -> bool {
        let event_bytes = self.event.as_ref().map_or(0, |event| event.bytes.len());
        let first = self.event.as_ref().or(self.line.as_ref());
        first.is_some_and(|first| first.is_before(record, event_bytes + self.line_bytes()))
    }

    /// Takes a line of several that may be an event. Gives what that ends.
    pub fn add(
        &mut self,
        line: &Line<'_, T>,
        spare: impl FnOnce() -> Option<Pending<T>>,
    ) -> Option<Pending<T>> {
        let goes_on = |event: &Pending<T>| {
            let Limits { bytes_max, several, .. } = &self.limits;
            let has_room = event.bytes.len() + line.message.len() <= *bytes_max;
            let several = several.as_ref().map(Arc::as_ref);
            has_room
                && several.is_some_and(|s| event.lines < s.lines_max && s.boundary.continues(line.message))
        };
        match &mut self.event {
            Some(event) if goes_on(event) => {
                event.append(line);
                None
            }
            _ => self.event.replace(Pending::begin(line, spare())),
        }
    }
}
