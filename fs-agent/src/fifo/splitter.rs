//! From a stream of bytes to what becomes events: lines, parts of long lines, or chunks.

use std::{ops::Range, os::fd::AsFd};

use bywash_common::config::{EmptyLines, FifoFraming};

use rustix::io::Result;

use super::memory::{Mark, Memory};
use crate::state::journal::RecordId;

/// How a stream is taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub framing: FifoFraming,
    pub empty_lines: EmptyLines,
    /// The most bytes of one piece; at least 1.
    pub bytes_max: usize,
}

/// What becomes one record. Valid until the next [`Splitter::release`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its bytes, in [`Splitter::bytes`].
    pub range: Range<usize>,
    /// How many bytes came before it in the stream.
    pub offset: u64,
    /// Which part of a long line it is, from 0.
    pub part: u32,
    /// How many parts the line has: 1 for a whole line, 0 for a part that is not the last.
    pub parts: u32,
}

/// The bytes of one stream that are not given away yet.
///
/// Memory is bounded: beside what is read at once, at most one piece and the two bytes that its end may have.
pub struct Splitter {
    rules: Rules,
    memory: Memory,
    /// Where the bytes begin that no piece has, and their place in the stream.
    begin: usize,
    offset: u64,
    /// Up to where no line ends.
    scanned: usize,
    /// The number of the unfinished line's next part.
    part: u32,
    /// What was given away last is a line without its end: one that comes next is its end, and no line of its own.
    awaits_end: bool,
}

impl Splitter {
    /// Goes on with what is in `memory` from `mark` on; [`Self::cut`] takes it apart.
    pub fn new(rules: Rules, (memory, mark): (Memory, Mark)) -> Self {
        let Mark { begin, offset, part, awaits_end } = mark;
        Self { rules, memory, begin, offset, scanned: begin, part, awaits_end }
    }

    /// What is in no piece, or in pieces from `first` on that are not given away.
    fn mark(&self, first: Option<&Piece>) -> Mark {
        match first {
            Some(Piece { range, offset, part, .. }) => {
                Mark { begin: range.start, offset: *offset, part: *part, awaits_end: false }
            }
            None => {
                let Self { begin, offset, part, awaits_end, .. } = *self;
                Mark { begin, offset, part, awaits_end }
            }
        }
    }

    /// Takes note for whoever reads on if this process dies: pieces up to `first` are given away, or are once `record` is committed.
    pub fn note(&self, first: Option<&Piece>, record: Option<RecordId>) {
        self.memory.mark(self.mark(first), record);
    }

    /// Goes on by other rules. With another framing what is unfinished ends here: parts of a line must not be continued by
    /// what is no part of it.
    pub fn set_rules(&mut self, rules: Rules, pieces: &mut Vec<Piece>) {
        if rules.framing != self.rules.framing {
            self.finish(pieces);
        }
        self.rules = rules;
        self.scanned = self.begin;
    }

    /// Whether all that is there at once is one piece.
    pub fn takes_all(&self) -> bool {
        self.rules.framing == FifoFraming::Chunk
    }

    /// Reads up to `len` bytes of the stream out of `pipe`; gives how many, 0 at its end. All pieces are given away, and their bytes
    /// forgotten.
    ///
    /// # Errors
    /// As read(2) says.
    pub fn read(&mut self, pipe: impl AsFd, len: usize) -> Result<usize> {
        self.release();
        self.memory.fill(pipe, len)
    }

    /// A piece's bytes.
    pub fn bytes(&self, piece: &Piece) -> &[u8] {
        self.memory.bytes().get(piece.range.clone()).unwrap_or_default()
    }

    /// Whether there are bytes that no piece has.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished_bytes() > 0
    }

    /// How many bytes no piece has.
    pub fn unfinished_bytes(&self) -> usize {
        self.end() - self.begin
    }

    /// Where the bytes of the stream end that were read.
    fn end(&self) -> usize {
        self.memory.bytes().len()
    }

    /// Appends the pieces that are complete.
    pub fn cut(&mut self, pieces: &mut Vec<Piece>) {
        match self.rules.framing {
            FifoFraming::Line => self.cut_lines(pieces),
            FifoFraming::Chunk => self.cut_chunks(pieces),
        }
    }

    /// Appends what is unfinished: nothing that belongs to it follows. A CR at its end is a byte like others, as no LF does.
    pub fn finish(&mut self, pieces: &mut Vec<Piece>) {
        self.cut(pieces);
        if self.is_unfinished() {
            let end = self.end();
            self.end_line(end, end, pieces);
            self.scanned = end;
        }
        self.awaits_end = false;
    }

    /// Appends what is unfinished, although its end may follow: that is then no line of its own.
    pub fn pause(&mut self, pieces: &mut Vec<Piece>) {
        let is_line = self.rules.framing == FifoFraming::Line && self.is_unfinished();
        self.finish(pieces);
        self.awaits_end = is_line;
    }

    /// Appends what is unfinished of a line as a part of it, but for what its end, or its last part, may need.
    pub fn give_part(&mut self, pieces: &mut Vec<Piece>) {
        self.cut(pieces);
        let kept = if self.memory.bytes().ends_with(b"\r") { 2 } else { 1 };
        if self.rules.framing == FifoFraming::Line && self.unfinished_bytes() > kept {
            self.push_part(self.unfinished_bytes().min(self.rules.bytes_max + kept) - kept, pieces);
        }
    }

    /// Forgets the bytes of all pieces, which are given away.
    fn release(&mut self) {
        let moved = self.memory.move_to_front(self.mark(None));
        self.begins_at(moved);
    }

    /// Gives memory back that only a rush needs, if nothing is unfinished.
    pub fn shrink(&mut self, bytes: usize) {
        let moved = self.memory.shrink(self.mark(None), bytes);
        self.begins_at(moved);
    }

    /// What no piece has was moved.
    fn begins_at(&mut self, mark: Mark) {
        self.scanned -= self.begin - mark.begin;
        self.begin = mark.begin;
    }

    fn cut_lines(&mut self, pieces: &mut Vec<Piece>) {
        while let Some(at) = memchr::memchr(b'\n', &self.memory.bytes()[self.scanned..]) {
            let end = self.scanned + at;
            let has_cr = end > self.begin && self.memory.bytes()[end - 1] == b'\r';
            self.end_line(if has_cr { end - 1 } else { end }, end, pieces);
            self.begin = end + 1;
            self.offset += 1;
            self.scanned = end + 1;
        }
        self.scanned = self.end();
        // One more may be the CR of an end that is on its way.
        while self.unfinished_bytes() > self.rules.bytes_max + 1 {
            self.push_part(self.rules.bytes_max, pieces);
        }
    }

    /// The line that has begun ends at `end`, where its LF is or would be, and its text at `text_end`.
    fn end_line(&mut self, text_end: usize, end: usize, pieces: &mut Vec<Piece>) {
        while text_end - self.begin > self.rules.bytes_max {
            self.push_part(self.rules.bytes_max, pieces);
        }
        let range = self.begin..text_end;
        let part = std::mem::take(&mut self.part);
        let is_end_alone = std::mem::take(&mut self.awaits_end) && range.is_empty();
        if !range.is_empty() || self.rules.empty_lines == EmptyLines::Keep && !is_end_alone {
            pieces.push(Piece { range, offset: self.offset, part, parts: part + 1 });
        }
        self.offset += (end - self.begin) as u64;
        self.begin = end;
    }

    fn push_part(&mut self, len: usize, pieces: &mut Vec<Piece>) {
        let range = self.begin..self.begin + len;
        pieces.push(Piece { range: range.clone(), offset: self.offset, part: self.part, parts: 0 });
        self.part += 1;
        self.awaits_end = false;
        self.offset += range.len() as u64;
        self.begin = range.end;
    }

    fn cut_chunks(&mut self, pieces: &mut Vec<Piece>) {
        while self.is_unfinished() {
            let end = self.end().min(self.begin + self.rules.bytes_max);
            pieces.push(Piece { range: self.begin..end, offset: self.offset, part: 0, parts: 1 });
            self.offset += (end - self.begin) as u64;
            self.begin = end;
        }
        self.scanned = self.begin;
    }
}

#[cfg(test)]
#[path = "splitter_tests.rs"]
mod tests;
