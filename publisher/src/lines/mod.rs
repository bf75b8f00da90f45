//! `framing = "line"` and `"multiline"`: the writes of one handle become one event for each line, or for several.
//!
//! # Which bytes are a line
//! A line ends behind its newline, or when it has `line_bytes_max` bytes; what follows is the next one. A write goes on
//! with the line that the handle's last one left without an end if it begins where that ended, under the same path,
//! and was made at most `line_wait` after the write in which the line begins. Otherwise that line is sent as it is. It
//! is sent as it is, too,
//! - once any write is read that was made more than `line_wait` after it began, or once the ring has been read to its
//!   end and that time is over;
//! - when it is all that keeps the ring from being emptied, and the ring is half full or the publisher has as much on
//!   its way as it may.
//!
//! Pages of mappings that the kernel writes back, and what came through a FIFO, are not joined.
//!
//! The events' messages, one behind the other, are the bytes that were written. An event has the offset of its first
//! byte, and for everything else (time, process, user) what the write in which it begins has.
//!
//! # Which lines are an event
//! With `"multiline"`, a line goes on with the event that the line before it is in if `multiline` says so of the line, and the event
//! with it has at most `lines_max` lines and `bytes_max` bytes; otherwise that event is sent, and the line begins the next one. A
//! line is judged once it has its end, so it does not matter how its bytes are divided among writes. What ends a line without
//! its end ends the event too, of which that line is then the last, or which is sent before it: another place, another path, and
//! the time, which is here `timeout` after the last write that the event or the line behind it has something of.
//!
//! # Delivery
//! An event's delivery is that of the record in which it begins: that record stays in the ring until every event that
//! begins in it is delivered, and with it stays everything behind it. For a line that nobody has judged its record waits as for an
//! event, and until the event is sent that the line goes on with. So a record in which no line begins needs no
//! delivery of its own, and what is pending is kept by the ring alone: whatever ends the publisher loses nothing, and an
//! orderly stop does not tear a line.
//!
//! Where a line is delivered and the head comes to stand between its records, the publisher writes down how far the
//! line goes ([`bywash_common::ring::SelectiveAckSlots`], and in the spool for when the ring is gone), so that the next one does not send its end a second time. There is
//! room for [`bywash_common::ring::SELECTIVE_ACKS_MAX`] files at a time; of others, a kill may send the end of a line again, as an
//! event of its own.
//!
//! # Event ids
//! `<ring uuid>-<sequence>` for an event that is all bytes of one write, as without lines. Otherwise
//! `<ring uuid>-<sequence>.<begin>+<length>`: that many bytes from byte `begin` of that write on, as for the parts of a write that is
//! too large for one message ([`EventId`](crate::delivery::EventId)). Which writes join is
//! decided by what is in the ring, so lines that are sent again have the same ids; where it was not (a full ring, the
//! clock), they may be cut elsewhere the second time, and then have other ids. One id never stands for two contents.

mod joiner;
mod line;
mod pending;
#[cfg(test)]
mod tests;

use std::{cmp::Ordering, collections::HashMap, os::unix::ffi::OsStrExt, sync::Arc};

use bywash_common::{
    config::{Config, DirectoryConfig, Framing},
    record::{Origin, Write},
    ring::{Entry, SelectiveAck},
};

use crate::{
    clock,
    delivery::{Frontier, JoinedMessage, Outcome, Record as Pending, SinkError, Stretch, Ticket},
};

use joiner::Joiner;
use line::{End, Limits, Line, Record, Several};

/// Where lines go.
pub trait Downstream {
    /// Takes a write on, whole and as it is.
    ///
    /// # Errors
    /// A [`SinkError`] if the sink cannot go on.
    fn write(&mut self, entry: Entry, write: &Write<'_>, data: &[u8]) -> Result<(), SinkError>;

    /// Takes some bytes on, on the ticket of the record in which they begin: `stretch` says which, none for all of that
    /// record. `write` describes them.
    ///
    /// # Errors
    /// A [`SinkError`] if the sink cannot go on.
    fn send_write(
        &mut self,
        ticket: Ticket,
        sequence: u64,
        stretch: Option<Stretch>,
        write: &Write<'_>,
        message: &[u8],
    ) -> Result<(), SinkError>;
}

/// The stage between the ring and the sink that makes lines of writes.
pub struct Lines {
    /// The directories whose writes become lines.
    directories: Vec<(Vec<u8>, Limits)>,
    joiner: Joiner<Ticket>,
    frontier: Arc<Frontier>,
    /// What a publisher before this one has delivered behind the ring's head, by handle.
    ahead: HashMap<u64, SelectiveAck>,
    /// The frontier knows of `ahead`.
    ahead_is_known: bool,
}

/// Has the outlet send lines.
fn into(
    output: &mut impl Downstream,
    frontier: &Arc<Frontier>,
) -> impl FnMut(&Line<'_, Ticket>) -> Result<(), SinkError> {
    let frontier = Arc::clone(frontier);
    move |line| {
        if let Some(End { ticket, sequence, len }) = line.end {
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            let ahead = SelectiveAck { handle: line.write.handle, sequence, len };
            frontier.add_joined(JoinedMessage { first: line.ticket, last: ticket, ahead });
        }
        if !line.joined.is_empty() {
            // The record in which the event begins is before theirs and still open, so this gives none back to the agent.
            frontier.settle_all(line.joined, Outcome::Delivered);
        }
        output.send_write(line.ticket, line.sequence, line.stretch(), &line.write, line.message)
    }
}

impl Lines {
    /// The stage that the configuration asks for. `ahead` is what a publisher before this one has delivered out of turn.
    pub fn new(config: &Config, frontier: Arc<Frontier>, ahead: Vec<SelectiveAck>) -> Self {
        let directories = directories(config);
        let mut lines = Self {
            directories,
            joiner: Joiner::new(),
            frontier,
            ahead: HashMap::new(),
            ahead_is_known: true,
        };
        lines.follow(ahead);
        lines
    }

    /// Turns to the records of another ring. Nothing may be pending.
    pub fn follow(&mut self, ahead: Vec<SelectiveAck>) {
        self.ahead = ahead.into_iter().map(|ahead| (ahead.handle, ahead)).collect();
        self.ahead_is_known = self.ahead.is_empty();
    }

    /// The record of this number has been read and not yet opened at the frontier. To be called for each record, so that
    /// what is known of those behind it outlives this publisher too.
    pub fn meet(&mut self, sequence: u64) {
        if std::mem::replace(&mut self.ahead_is_known, true) {
            return;
        }
        let next = self.frontier.next_ticket().number();
        for ahead in self.ahead.values() {
            // Tickets and records count alike.
            let Some(after) = ahead.sequence.checked_sub(sequence) else { continue };
            let last = Ticket::from_number(next.saturating_add(after));
            self.frontier.add_joined(JoinedMessage { first: Ticket::from_number(0), last, ahead: *ahead });
        }
    }

    /// Follows another configuration. What is pending is sent as it is if that changes what a line is.
    ///
    /// # Errors
    /// A [`SinkError`] if the sink cannot go on.
    pub fn reconfigure(&mut self, config: &Config, output: &mut impl Downstream) -> Result<(), SinkError> {
        let new = directories(config);
        if new != self.directories {
            self.flush(output)?;
            self.directories = new;
        }
        Ok(())
    }

    /// Takes a write.
    ///
    /// # Errors
    /// A [`SinkError`] if the sink cannot go on.
    pub fn take(
        &mut self,
        entry: Entry,
        write: &Write<'_>,
        data: &[u8],
        output: &mut impl Downstream,
    ) -> Result<(), SinkError> {
        let from = self.delivered(entry.seq, write.handle, data.len());
        if from > 0 && from == data.len() {
            let ticket = self.frontier.open(Pending::of_write(entry, write, data));
            self.frontier.settle(ticket, Outcome::PassedOver);
            return Ok(());
        }
        let is_joined = write.origin == Origin::Write && !data.is_empty();
        let limits = if is_joined { limits_of(&self.directories, write.path) } else { None };
        let Some(limits) = limits else { return self.pass(entry, write, data, from, output) };
        let record = Record { write, data, from, sequence: entry.seq };
        let frontier = &self.frontier;
        let open = |events: u32| {
            let ticket = frontier.open(Pending::of_write(entry, write, data));
            match events {
                // A record before it is still open, so this does not give it back to the agent.
                0 => frontier.settle(ticket, Outcome::Delivered),
                1 => {}
                several => frontier.expect_more(ticket, several - 1),
            }
            ticket
        };
        self.joiner.take(&record, limits, clock::now(), open, &mut into(output, frontier))
    }

    /// Sends a write from `from` on that does not become lines.
    fn pass(
        &mut self,
        entry: Entry,
        write: &Write<'_>,
        data: &[u8],
        from: usize,
        output: &mut impl Downstream,
    ) -> Result<(), SinkError> {
        self.let_pass(write, output)?;
        if from == 0 {
            return output.write(entry, write, data);
        }
        let ticket = self.frontier.open(Pending::of_write(entry, write, data));
        let rest = Write { offset: write.offset.saturating_add(from as u64), ..*write };
        let stretch = Stretch { begin: from, len: data.len() - from };
        output.send_write(ticket, entry.seq, Some(stretch), &rest, &data[from..])
    }

    /// Whether [`Self::take`] would hand the write on as it is, so that [`Self::let_pass`] will do in its place.
    pub fn leaves_alone(&self, write: &Write<'_>) -> bool {
        self.ahead.is_empty()
            && (write.origin != Origin::Write || limits_of(&self.directories, write.path).is_none())
    }

    /// Sends what comes before a write that is handed on as it is.
    ///
    /// # Errors
    /// A [`SinkError`] if the sink cannot go on.
    pub fn let_pass(&mut self, write: &Write<'_>, output: &mut impl Downstream) -> Result<(), SinkError> {
        if self.joiner.is_empty() {
            return Ok(());
        }
        self.joiner.pass_time(write.time_ns, &mut into(output, &self.frontier))?;
        // Its own line comes before it.
        self.joiner.flush(write.handle, &mut into(output, &self.frontier))
    }

    /// How many of a record's bytes a publisher before this one has delivered with an earlier record.
    fn delivered(&mut self, sequence: u64, handle: u64, len: usize) -> usize {
        let Some(ahead) = self.ahead.get(&handle).copied() else { return 0 };
        match sequence.cmp(&ahead.sequence) {
            Ordering::Less => return len,
            Ordering::Equal | Ordering::Greater => self.ahead.remove(&handle),
        };
        if sequence == ahead.sequence { len.min(ahead.len as usize) } else { 0 }
    }

    /// Sends what nothing will join any more. To be called when the ring has been read to its end.
    ///
    /// # Errors
    /// A [`SinkError`] if the sink cannot go on.
    pub fn idle(&mut self, output: &mut impl Downstream) -> Result<(), SinkError> {
        self.joiner.flush_stale(clock::now(), &mut into(output, &self.frontier))
    }

    /// Sends everything that is pending as it is: nothing will join it any more.
    ///
    /// # Errors
    /// A [`SinkError`] if the sink cannot go on.
    pub fn flush(&mut self, output: &mut impl Downstream) -> Result<(), SinkError> {
        while !self.joiner.is_empty() {
            self.joiner.flush_oldest(&mut into(output, &self.frontier))?;
        }
        Ok(())
    }

    /// Sends the oldest line if it is all that keeps the ring from being emptied. To be called when room is short.
    ///
    /// # Errors
    /// A [`SinkError`] if the sink cannot go on.
    pub fn make_room(&mut self, output: &mut impl Downstream) -> Result<(), SinkError> {
        match self.joiner.oldest() {
            Some(oldest) if self.frontier.oldest() == Some(oldest) => {
                self.joiner.flush_oldest(&mut into(output, &self.frontier))
            }
            _ => Ok(()),
        }
    }

    /// Whether no line waits for its end.
    pub fn is_empty(&self) -> bool {
        self.joiner.is_empty()
    }
}

fn limits_of<'a>(directories: &'a [(Vec<u8>, Limits)], path: &[u8]) -> Option<&'a Limits> {
    let contains =
        |directory: &[u8]| path.strip_prefix(directory).is_some_and(|below| below.starts_with(b"/"));
    directories.iter().find(|(directory, _)| contains(directory)).map(|(_, limits)| limits)
}

fn directories(config: &Config) -> Vec<(Vec<u8>, Limits)> {
    let limited = config
        .directories
        .iter()
        .filter_map(|directory| Some((directory.path.as_os_str().as_bytes().to_vec(), limits(directory)?)));
    limited.collect()
}

/// What a directory's events may take, if its writes are joined.
fn limits(directory: &DirectoryConfig) -> Option<Limits> {
    let framing = &directory.framing;
    let (size, wait, several) = match framing.by {
        Framing::Write => return None,
        Framing::Line => (framing.line_bytes_max, framing.line_wait, None),
        Framing::Multiline => {
            let multiline = &framing.multiline;
            let lines_max = usize::try_from(multiline.lines_max).unwrap_or(usize::MAX);
            let several = Several { boundary: multiline.boundary.clone(), lines_max };
            (multiline.bytes_max, multiline.timeout, Some(Arc::new(several)))
        }
    };
    Some(Limits { bytes_max: usize::try_from(size.0).unwrap_or(usize::MAX), wait: wait.0, several })
}
