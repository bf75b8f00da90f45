//! What was read of a pipe and is in no record yet, where it outlives this process.
//!
//! The bytes lie in a memory file. The kernel moves them there from the pipe with splice(2), and in the same call moves the file's
//! position, which belongs to whoever has the file open: so however this process ends, the position says where the bytes end that
//! are not in the pipe any more. Where those begin that are not dealt with, a mark says. A mark that comes with records is made
//! before they are committed, and counts if they were; until then the one before counts. So a successor finds each byte that was
//! read in the ring or here, and in one of the two.
//!
//! ```text
//! word  0  magic "BYWASHF\0"; written last
//! word  1  layout version, 1
//! word  2  length of the path
//! word  8  two marks, each 16 words apart:
//!            0  edition; 0 while it is written
//!            1  where the bytes begin that are not dealt with
//!            2  how many bytes came before them in the stream
//!            3  which part of a long line they continue; in the upper half whether a line was given away without its end
//!            4  the uuid of the ring, two words
//!            6  the sequence number of a record, and 1; 0 if the mark counts in any case
//!            7  the position of the file before the bytes were moved to the front; 0 if they were not
//!            8  where the bytes ended then
//! word 64  the path of the FIFO
//! bytes    what was read
//! ```

use std::{
    cell::Cell,
    ffi::OsStr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use rustix::io::{Errno, Result};

use crate::{
    state::journal::RecordId,
    sys::{LASTING_WORDS, LastingPages},
};

const MAGIC: u64 = u64::from_ne_bytes(*b"BYWASHF\0");
const VERSION: u64 = 1;
const VERSION_AT: usize = 1;
const PATH_LEN_AT: usize = 2;
const MARKS_AT: usize = 8;
const MARK_WORDS: usize = 16;
const PATH_AT: usize = 64;
const PATH_BYTES_MAX: usize = (LASTING_WORDS - PATH_AT) * size_of::<u64>();

/// The most bytes of a piece: what a FIFO's lines are limited to at most (`fifo.line_bytes_max`).
pub const PIECE_BYTES_MAX: usize = 64 << 20;
/// How much is asked for at once, at most. It stays in the processor's caches until it is in the ring.
pub const READ_BYTES_MAX: usize = 128 << 10;
/// A piece, and the CR and LF that its end may have.
const UNFINISHED_BYTES_MAX: usize = PIECE_BYTES_MAX + 2;
/// Enough that what is unfinished can be moved to the front without reaching over itself before there is no room to read.
const BYTES: usize = 2 * UNFINISHED_BYTES_MAX + READ_BYTES_MAX;
/// What is unfinished moves to the front when so many bytes are behind it: the same memory is used again and again.
const WINDOW_BYTES: usize = 256 << 10;

/// What is to be known of the bytes that are not dealt with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Where they begin.
    pub begin: usize,
    /// How many came before them in the stream.
    pub offset: u64,
    /// Which part of a long line they continue, from 0.
    pub part: u32,
    /// A line was given away without its end, which may follow.
    pub awaits_end: bool,
}

/// As it is in the memory.
#[derive(Clone, Copy, Debug, Default)]
struct Noted {
    edition: u64,
    mark: Mark,
    record: Option<RecordId>,
    /// Where the file's position was, and is to be.
    moved: Option<(usize, usize)>,
}

/// The bytes of one pipe.
#[derive(Debug)]
pub struct Memory {
    pages: LastingPages,
    /// The edition of the newest mark.
    edition: Cell<u64>,
    /// Where the bytes end: the file's position.
    end: usize,
    /// Up to where memory was used since some was given back.
    used: usize,
}

impl Memory {
    /// Nothing, of the FIFO at `path`.
    ///
    /// # Errors
    /// Without memory; `NAMETOOLONG`.
    pub fn new(path: &Path) -> Result<Self> {
        let path = path.as_os_str().as_bytes();
        if path.len() > PATH_BYTES_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let mut pages = LastingPages::new("bywash-fifo", BYTES)?;
        pages.set_position(0)?;
        let memory = Self { pages, edition: Cell::new(0), end: 0, used: 0 };
        memory.set(VERSION_AT, VERSION);
        memory.set(PATH_LEN_AT, path.len() as u64);
        for (index, chunk) in path.chunks(size_of::<u64>()).enumerate() {
            let mut word = [0; size_of::<u64>()];
            word[..chunk.len()].copy_from_slice(chunk);
            memory.set(PATH_AT + index, u64::from_ne_bytes(word));
        }
        memory.mark(Mark::default(), None);
        memory.set(0, MAGIC);
        Ok(memory)
    }

    /// What a process that is no more has left in `file`, with its mark. `is_committed` says whether it had committed a record; none
    /// if nobody knows.
    ///
    /// # Errors
    /// `INVAL` if it is something else, or of another version.
    pub fn take_up(
        file: OwnedFd,
        is_committed: impl Fn(RecordId) -> Option<bool>,
    ) -> Result<(Self, PathBuf, Mark)> {
        let pages = LastingPages::of(file, BYTES)?;
        let mut memory = Self { pages, edition: Cell::new(0), end: 0, used: BYTES };
        if (memory.get(0), memory.get(VERSION_AT)) != (MAGIC, VERSION) {
            return Err(Errno::INVAL);
        }
        let path = memory.path().ok_or(Errno::INVAL)?;
        let mut noted = [memory.noted(0), memory.noted(1)];
        noted.sort_by_key(|noted| noted.edition);
        let [before, newest] = noted;
        let counts = newest.record.is_none_or(|record| is_committed(record) == Some(true));
        // The one that does not count is the next to be replaced.
        let Noted { edition, mark, moved, .. } = if counts || before.edition == 0 { newest } else { before };
        memory.edition.set(edition);
        memory.end = memory.pages.position()?;
        if let Some((_, end)) = moved.filter(|(from, _)| *from == memory.end) {
            // It was to be moved next.
            memory.pages.set_position(end)?;
            memory.end = end;
        }
        if mark.begin > memory.end || memory.end > BYTES {
            return Err(Errno::INVAL);
        }
        // From here on nothing depends on what another process has committed.
        memory.mark(mark, None);
        Ok((memory, path, mark))
    }

    fn path(&self) -> Option<PathBuf> {
        let len = usize::try_from(self.get(PATH_LEN_AT)).ok().filter(|len| *len <= PATH_BYTES_MAX)?;
        let words = (PATH_AT..).take(len.div_ceil(size_of::<u64>()));
        let mut path: Vec<u8> = words.flat_map(|at| self.get(at).to_ne_bytes()).collect();
        path.truncate(len);
        Some(Path::new(OsStr::from_bytes(&path)).to_owned())
    }

    /// All bytes that were read; those before the mark may be others by now.
    pub fn bytes(&self) -> &[u8] {
        &self.pages.bytes()[..self.end]
    }

    /// Moves up to `len` bytes out of `pipe` behind those that are there; gives how many. `len` is at most [`READ_BYTES_MAX`].
    ///
    /// # Errors
    /// As read(2) says; `NOMEM` if there is no room, which is not so after [`Self::move_to_front`].
    pub fn fill(&mut self, pipe: impl AsFd, len: usize) -> Result<usize> {
        let room = BYTES - self.end;
        if room == 0 {
            return Err(Errno::NOMEM);
        }
        let filled = self.pages.fill(pipe, len.min(READ_BYTES_MAX).min(room))?;
        self.end += filled;
        self.used = self.used.max(self.end);
        Ok(filled)
    }

    /// What is not dealt with is as `mark` says. With a record, if that is committed: it is about to be, as is all that was marked
    /// with records before.
    pub fn mark(&self, mark: Mark, record: Option<RecordId>) {
        self.note(&Noted { mark, record, ..Noted::default() });
    }

    /// Moves the bytes from the mark on to the front, if that is worth while; gives the mark with where they are then. All that was
    /// marked with records is committed.
    pub fn move_to_front(&mut self, mark: Mark) -> Mark {
        let rest = self.end.saturating_sub(mark.begin);
        if self.end < WINDOW_BYTES || rest > mark.begin {
            return mark;
        }
        // Where the mark that counts does not point to.
        self.pages.bytes_mut().copy_within(mark.begin..self.end, 0);
        let moved = Mark { begin: 0, ..mark };
        let (from, to) = (self.end, rest);
        self.note(&Noted { mark: moved, moved: Some((from, to)), ..Noted::default() });
        if self.pages.set_position(to).is_err() {
            self.mark(mark, None);
            return mark;
        }
        self.end = to;
        // The position may be the same again some time.
        self.mark(moved, None);
        moved
    }

    /// Gives the memory behind `bytes` back, where nothing is not dealt with: the mark is then where nothing was read. Gives that.
    pub fn shrink(&mut self, mark: Mark, bytes: usize) -> Mark {
        if mark.begin < self.end || self.used <= bytes {
            return mark;
        }
        let moved = Mark { begin: 0, ..mark };
        self.note(&Noted { mark: moved, moved: Some((self.end, 0)), ..Noted::default() });
        if self.end > 0 && self.pages.set_position(0).is_err() {
            self.mark(mark, None);
            return mark;
        }
        (self.end, self.used) = (0, bytes);
        self.mark(moved, None);
        self.pages.give_back_from(bytes);
        moved
    }

    fn noted(&self, slot: usize) -> Noted {
        let at = |word: usize| self.get(MARKS_AT + slot * MARK_WORDS + word);
        let place = |word: usize| usize::try_from(at(word)).unwrap_or(usize::MAX);
        let mut ring = [0; 16];
        ring[..8].copy_from_slice(&at(4).to_ne_bytes());
        ring[8..].copy_from_slice(&at(5).to_ne_bytes());
        Noted {
            edition: at(0),
            mark: Mark { begin: place(1), offset: at(2), part: at(3) as u32, awaits_end: at(3) >> 32 != 0 },
            record: at(6).checked_sub(1).map(|sequence| RecordId { ring, sequence }),
            moved: (at(7) != 0).then(|| (place(7), place(8))),
        }
    }

    /// In the place of the older of two.
    fn note(&self, noted: &Noted) {
        let Noted { mark, record, moved, .. } = noted;
        let edition = self.edition.get() + 1;
        self.edition.set(edition);
        let slot = MARKS_AT + usize::from(edition.is_multiple_of(2)) * MARK_WORDS;
        let (from, to) = moved.unwrap_or_default();
        let (ring, sequence) = record.map_or(([0; 16], 0), |record| (record.ring, record.sequence + 1));
        let half = |at: usize| {
            ring.get(at..at + 8).and_then(<[u8]>::first_chunk).map_or(0, |half| u64::from_ne_bytes(*half))
        };
        let words = [
            mark.begin as u64,
            mark.offset,
            u64::from(mark.part) | u64::from(mark.awaits_end) << 32,
            half(0),
            half(8),
            sequence,
            from as u64,
            to as u64,
        ];
        self.set(slot, 0);
        (slot + 1..).zip(words).for_each(|(at, word)| self.set(at, word));
        self.set(slot, edition);
    }

    fn get(&self, at: usize) -> u64 {
        self.pages.words()[at].load(Ordering::Acquire)
    }

    fn set(&self, at: usize, word: u64) {
        step();
        self.pages.words()[at].store(word, Ordering::Release);
    }
}

impl AsFd for Memory {
    /// Who keeps it open keeps what was read.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pages.as_fd()
    }
}

/// A place between two stores: a test can have the thread die here.
#[inline(always)]
fn step() {
    #[cfg(test)]
    crate::state::killed::step();
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
