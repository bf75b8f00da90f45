//! What comes through one pipe: read, taken apart, handed on.

use std::time::Instant;

use rustix::{buffer::spare_capacity, io::Errno};

use super::{
    intake::{Intake, now_ns},
    source::Opened,
    splitter::{Piece, Rules, Splitter},
};

/// How much is asked for at once. It stays in the processor's caches until it is in the ring.
const READ_BYTES: usize = 128 << 10;
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
    /// It has no path any more.
    pub is_removed: bool,
    splitter: Splitter,
    /// What the last read has brought, as far as it is complete, and how many of these are done with.
    pieces: Vec<Piece>,
    done: usize,
    time_ns: u64,
    last_read: Instant,
    /// What was read since somebody looked whether it rests.
    recent_bytes: usize,
    has_more: bool,
    /// The last thing that was read was an end.
    has_ended: bool,
}

impl Stream {
    pub fn new(key: u64, opened: Opened, rules: Rules) -> Self {
        Self {
            key,
            opened,
            is_removed: false,
            splitter: Splitter::new(rules),
            pieces: Vec::new(),
            done: 0,
            time_ns: 0,
            last_read: Instant::now(),
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
        self.splitter.set_rules(rules);
    }

    /// Since when an unfinished line waits for more.
    pub fn idle_since(&self) -> Option<Instant> {
        self.splitter.is_unfinished().then_some(self.last_read)
    }

    /// Gives memory back if nothing much has come since the last time.
    pub fn rest(&mut self) {
        if std::mem::take(&mut self.recent_bytes) < KEPT_BYTES && !self.splitter.is_unfinished() {
            self.splitter.shrink(KEPT_BYTES);
            self.pieces.shrink_to(KEPT_BYTES / size_of::<Piece>());
        }
    }

    /// Reads for a turn, and hands on what is complete.
    pub fn read(&mut self, intake: &mut Intake) -> Progress {
        let mut read_bytes = 0;
        for _ in 0..READS_PER_TURN {
            if self.is_blocked(intake) {
                return Progress::Blocked;
            }
            if !self.has_more {
                break;
            }
            let wanted = READ_BYTES.min(intake.read_bytes_max());
            if !intake.invites(wanted) {
                return Progress::Blocked;
            }
            match rustix::io::read(&self.opened.fd, spare_capacity(self.splitter.space(wanted))) {
                Ok(0) => {
                    self.has_more = false;
                    self.has_ended = true;
                    self.splitter.finish(&mut self.pieces);
                }
                Ok(bytes) => {
                    self.has_ended = false;
                    read_bytes += bytes;
                    self.recent_bytes = self.recent_bytes.saturating_add(bytes);
                    self.last_read = Instant::now();
                    self.time_ns = now_ns();
                    self.splitter.cut(&mut self.pieces);
                }
                Err(Errno::AGAIN) => {
                    self.has_more = false;
                    // Somebody has it open for writing.
                    self.has_ended = false;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Progress::Failed(error),
            }
        }
        if self.is_blocked(intake) {
            return Progress::Blocked;
        }
        match read_bytes {
            0 if self.has_ended => Progress::Ended,
            0 => Progress::Empty,
            bytes => Progress::Read(bytes),
        }
    }

    /// Reads to the end of the line that has begun, as far as it is there, and no further.
    pub fn complete_line(&mut self, deadline: Instant) {
        while self.splitter.is_unfinished() && Instant::now() < deadline {
            let mut byte = [0];
            match rustix::io::read(&self.opened.fd, &mut byte) {
                Ok(1) => self.splitter.space(1).extend_from_slice(&byte),
                Err(Errno::INTR) => {}
                _ => break,
            }
            self.splitter.cut(&mut self.pieces);
        }
    }

    /// What is unfinished becomes an event.
    pub fn finish(&mut self, intake: &mut Intake) {
        // What is complete comes first, and its bytes must be gone before others take their place.
        self.splitter.finish(&mut self.pieces);
        self.is_blocked(intake);
    }

    /// Hands on what is complete; gives whether something of it has to wait for room in the ring.
    pub fn is_blocked(&mut self, intake: &mut Intake) -> bool {
        if self.done < self.pieces.len() {
            self.done += intake.take(&self.splitter, &self.pieces[self.done..], self.time_ns);
            if self.done < self.pieces.len() {
                return true;
            }
        }
        if !self.pieces.is_empty() {
            self.pieces.clear();
            self.done = 0;
            self.splitter.release();
        }
        false
    }

    /// Counts what has to wait as lost.
    pub fn abandon(&mut self, intake: &mut Intake) {
        if let Some(left) = self.pieces.get(self.done..).filter(|left| !left.is_empty()) {
            intake.lose(left, self.time_ns);
        }
    }
}
