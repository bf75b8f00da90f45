//! What comes through one pipe: read, taken apart, handed on.

use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{
    keep::Keep,
    memory::{Mark, Memory, READ_BYTES_MAX},
    promise::Promise,
    ring_writer::{RingWriter, now_ns},
    source::Opened,
    splitter::{Piece, Rules, Splitter},
};

/// How often a pipe is read before the others have their turn.
const READS_PER_TURN: usize = 8;
/// How much buffer a stream keeps while little comes.
const KEPT_BYTES: usize = 4 << 10;

/// What reading has come to.
#[derive(Debug)]
pub enum Progress {
    /// So many bytes, and there may be more.
    Read(usize),
    /// There is nothing for now.
    Empty,
    /// There is nothing, and nobody has it open for writing.
    Ended,
    /// The ring has no room: nothing more is read until it has.
    Blocked,
    /// The system says no.
    Failed(Errno),
}

/// One pipe and what of it is not in the ring yet.
pub struct Stream {
    /// How epoll names it.
    pub key: u64,
    pub opened: Opened,
    /// By which it is kept for the next agent.
    keep: Option<Keep>,
    /// It has no path any more.
    pub is_removed: bool,
    splitter: Splitter,
    /// Of room in the ring for all that is not in it yet.
    promise: Promise,
    /// What the last read has brought, as far as it is complete, and how many of these are done with.
    pieces: Vec<Piece>,
    done: usize,
    time_ns: u64,
    /// Since when the pipe is known to be empty within a line. How long this process did not look is not the writers' pause.
    quiet_since: Option<Instant>,
    /// How much is asked for at once: more when that much was there, so that many FIFOs with little take little memory.
    read_bytes: usize,
    /// What was read since somebody looked whether it rests.
    recent_bytes: usize,
    has_more: bool,
    /// The last thing that was read was an end.
    has_ended: bool,
}

impl Stream {
    /// `opened` with what was read of it, from the mark on, and kept by `keep`.
    pub fn new(
        key: u64,
        opened: Opened,
        read: (Memory, Mark),
        keep: Option<Keep>,
        rules: Rules,
        promise: Promise,
    ) -> Self {
        let (mut splitter, mut pieces) = (Splitter::new(rules, read), Vec::new());
        splitter.cut(&mut pieces);
        Self {
            key,
            opened,
            keep,
            is_removed: false,
            splitter,
            promise,
            pieces,
            done: 0,
            time_ns: now_ns(),
            quiet_since: None,
            read_bytes: KEPT_BYTES,
            recent_bytes: 0,
            has_more: true,
            has_ended: false,
        }
    }

    /// There may be something to read.
    pub fn look_again(&mut self) {
        self.has_more = true;
    }

    /// Whether there may be something to read.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    pub fn set_rules(&mut self, rules: Rules) {
        self.splitter.set_rules(rules, &mut self.pieces);
    }

    /// Since when an unfinished line waits for more of which nothing was there.
    pub fn quiet_since(&self) -> Option<Instant> {
        self.quiet_since.filter(|_| self.splitter.is_unfinished())
    }

    /// Gives memory back if nothing much has come since the last time.
    pub fn rest(&mut self) {
        // Pieces that wait for room have their bytes there.
        let is_idle = self.pieces.is_empty() && !self.splitter.is_unfinished();
        if std::mem::take(&mut self.recent_bytes) < KEPT_BYTES && is_idle {
            self.splitter.shrink(KEPT_BYTES);
            self.read_bytes = KEPT_BYTES;
            self.pieces.shrink_to(KEPT_BYTES / size_of::<Piece>());
        }
    }

    /// Reads for a turn, and hands on what is complete. An unfinished line becomes an event if the pipe was empty, twice
    /// and `line_idle` apart, with nothing read between: its writer could have gone on and has not.
    pub fn read(&mut self, ring_writer: &mut RingWriter, line_idle: Duration) -> Progress {
        let mut read_bytes = 0;
        for _ in 0..READS_PER_TURN {
            if self.is_blocked(ring_writer) {
                return Progress::Blocked;
            }
            if !self.has_more {
                break;
            }
            // A chunk is all that is there.
            let wanted = if self.splitter.takes_all() { READ_BYTES_MAX } else { self.read_bytes };
            let wanted = wanted.min(ring_writer.read_bytes_max());
            let Some(invited) = self.invited(ring_writer, wanted) else {
                return Progress::Blocked;
            };
            let quiet = self.quiet_since.map(|since| since.elapsed());
            match self.read_some(invited) {
                Ok(0) => {
                    self.has_more = false;
                    self.has_ended = true;
                    self.quiet_since = None;
                    self.splitter.finish(&mut self.pieces);
                }
                Ok(bytes) => {
                    self.has_ended = false;
                    read_bytes += bytes;
                    self.recent_bytes = self.recent_bytes.saturating_add(bytes);
                    if bytes == self.read_bytes {
                        self.read_bytes = READ_BYTES_MAX.min(2 * bytes);
                    }
                    self.quiet_since = None;
                    self.time_ns = now_ns();
                    self.splitter.cut(&mut self.pieces);
                }
                Err(Errno::AGAIN) => {
                    self.has_more = false;
                    // Somebody has it open for writing.
                    self.has_ended = false;
                    if quiet.is_some_and(|quiet| quiet >= line_idle) {
                        self.quiet_since = None;
                        self.splitter.pause(&mut self.pieces);
                    } else if self.splitter.is_unfinished() {
                        self.quiet_since.get_or_insert_with(Instant::now);
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => return Progress::Failed(error),
            }
        }
        if self.is_blocked(ring_writer) {
            return Progress::Blocked;
        }
        match read_bytes {
            0 if self.has_ended => Progress::Ended,
            0 => Progress::Empty,
            bytes => Progress::Read(bytes),
        }
    }

    /// Leaves the pipe to the next agent, with what was read of it and is no record yet. Gives whether that is done.
    pub fn leave(&mut self) -> bool {
        let Some(keep) = self.keep.take() else { return false };
        self.splitter.note(self.pieces.get(self.done), None);
        keep.leave();
        true
    }

    /// How many of the `wanted` bytes may be read, if any.
    fn invited(&mut self, ring_writer: &mut RingWriter, wanted: usize) -> Option<usize> {
        if let Some(bytes) = ring_writer.invite(&mut self.promise, wanted) {
            return Some(bytes);
        }
        if !ring_writer.is_short_of_promises() {
            return None;
        }
        self.splitter.give_part(&mut self.pieces);
        if self.is_blocked(ring_writer) {
            return None;
        }
        let bytes = ring_writer.invite(&mut self.promise, wanted);
        Some(bytes.unwrap_or_else(|| ring_writer.insist(&mut self.promise)).min(wanted))
    }

    /// Reads up to so many bytes.
    fn read_some(&mut self, bytes: usize) -> rustix::io::Result<usize> {
        self.splitter.read(&self.opened.fd, bytes)
    }

    /// Reads to the end of the line that has begun, as far as it is there and the ring has room, and no further.
    pub fn complete_line(&mut self, ring_writer: &mut RingWriter, deadline: Instant) {
        while !self.is_blocked(ring_writer) && self.splitter.is_unfinished() && Instant::now() < deadline {
            if ring_writer.invite(&mut self.promise, 1).is_none() {
                break;
            }
            match self.read_some(1) {
                Ok(1..) | Err(Errno::INTR) => {}
                _ => break,
            }
            self.splitter.cut(&mut self.pieces);
        }
    }

    /// What is unfinished becomes an event.
    pub fn finish(&mut self, ring_writer: &mut RingWriter) {
        // What is complete comes first, and its bytes must be gone before others take their place.
        self.splitter.finish(&mut self.pieces);
        self.is_blocked(ring_writer);
    }

    /// Hands on what is complete; gives whether something of it has to wait for room in the ring.
    pub fn is_blocked(&mut self, ring_writer: &mut RingWriter) -> bool {
        if self.done < self.pieces.len() {
            self.done += ring_writer.take(&self.splitter, &self.pieces[self.done..], self.time_ns);
            if self.done < self.pieces.len() {
                self.keep_promised(ring_writer);
                return true;
            }
        }
        if !self.pieces.is_empty() {
            self.pieces.clear();
            self.done = 0;
        }
        self.keep_promised(ring_writer);
        false
    }

    fn keep_promised(&mut self, ring_writer: &RingWriter) {
        let left = self.pieces.get(self.done..).unwrap_or_default();
        ring_writer.keep_promised(&mut self.promise, left, self.splitter.unfinished_bytes());
    }

    /// Counts what has to wait as lost.
    pub fn abandon(&mut self, ring_writer: &mut RingWriter) {
        if let Some(left) = self.pieces.get(self.done..).filter(|left| !left.is_empty()) {
            ring_writer.lose(left, self.time_ns);
        }
    }
}
