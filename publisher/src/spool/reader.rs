//! Reads a stream's records out of the spool, in order.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bywash_common::ring::Entry;
use nix::errno::Errno;
use uuid::Uuid;

use crate::{
    clock,
    delivery::Class,
    disk::{self, Open, Stored},
};

use super::{
    error::SpoolError,
    find::{Last, Segment},
    log::Log,
    segment,
};

/// How long a place of the disk that cannot be read (EIO) is left alone before another try counts.
const TRY_INTERVAL: Duration = Duration::from_secs(1);

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A record; its payload is in the caller's buffer.
    Record(Entry),
    /// Records are missing.
    Gap {
        /// The number of the first of them.
        first_seq: u64,
        /// How many.
        records: u64,
    },
}

/// A segment that is being read.
struct Reading {
    number: u64,
    file: Box<dyn Stored>,
    data: Vec<u8>,
    at: usize,
    last: Option<Last>,
}

/// Reads one stream.
pub struct Reader {
    uuid: Uuid,
    /// From which segment on to look.
    from: u64,
    open: Option<Reading>,
    /// The number that the next record must have, if that is known.
    next_seq: Option<u64>,
    /// A segment that ends in bytes that are no record. It is damaged if what follows shows that something is missing.
    torn: Option<u64>,
    /// How often the disk could not read what comes next (EIO), and when that was last counted.
    tries: Option<(u32, Instant)>,
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reader {
    /// Reads the stream's records from its first segment on.
    pub fn new(uuid: Uuid, next_seq: Option<u64>) -> Self {
        Self { uuid, from: 0, open: None, next_seq, torn: None, tries: None }
    }

    /// The stream.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The next record that ends behind the position `after`, or none if the spool has no more for now.
    ///
    /// # Errors
    /// A [`SpoolError`] for which [`SpoolError::is_retry`] holds: nothing is passed over, and the next call tries again.
    pub fn next(
        &mut self,
        log: &Mutex<Log>,
        after: u64,
        next_seq: Option<u64>,
        payload: &mut Vec<u8>,
    ) -> Result<Option<Item>, SpoolError> {
        self.next_seq = next_seq.or(self.next_seq);
        loop {
            if let Some(open) = &mut self.open
                && let Some((start, record)) = segment::next(&open.data, open.at)
            {
                let end = start + segment::record_bytes(record.payload.len());
                // A segment never grows after its writer is gone: bytes in front of a record were one.
                if start > open.at && lock(log).note_damage(open.number) {
                    let (number, from, bytes) = (open.number, open.at, start - open.at);
                    tracing::error!(
                        "segment {number} of the spool: {bytes} bytes from {from} on are no record"
                    );
                }
                open.last = Some(Last { seq: record.seq, end: record.end });
                if record.end <= after {
                    open.at = end;
                    continue;
                }
                let torn = self.torn.take();
                if let Some(first_seq) = self.next_seq.filter(|expected| record.seq > *expected) {
                    if let Some(torn) = torn {
                        lock(log).note_damage(torn);
                    }
                    self.next_seq = Some(record.seq);
                    return Ok(Some(Item::Gap { first_seq, records: record.seq - first_seq }));
                }
                open.at = end;
                self.next_seq = Some(record.seq.wrapping_add(1));
                payload.clear();
                payload.extend_from_slice(record.payload);
                return Ok(Some(Item::Record(Entry { kind: record.kind, seq: record.seq, end: record.end })));
            }
            if !self.read_on(log)? {
                return Ok(None);
            }
        }
    }

    /// Takes in what was appended to the segment, or turns to the next one. Gives whether there was something.
    fn read_on(&mut self, log: &Mutex<Log>) -> Result<bool, SpoolError> {
        loop {
            let (found, is_last) = {
                let log = lock(log);
                let Some(found) = log.segment(self.uuid, self.from) else { return Ok(false) };
                // One that others follow does not grow: what is read of it below is all.
                (found.clone(), log.segment(self.uuid, found.number + 1).is_none())
            };
            if self.open.as_ref().is_some_and(|open| open.number != found.number) {
                self.open = None;
            }
            let read = self.extend(log, &found);
            match self.judge(log, &found, read)? {
                true => return Ok(true),
                false if is_last => return Ok(false),
                false => self.leave(log, found.number),
            }
        }
    }

    /// Reads what a segment has beyond what is known of it; gives whether that is something.
    fn extend(&mut self, log: &Mutex<Log>, found: &Segment) -> io::Result<bool> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                let file = lock(log).disk().open(&found.path, Open::Read)?;
                let (data, at) = (Vec::new(), segment::HEADER_BYTES);
                Reading { number: found.number, file, data, at, last: None }
            }
        };
        let known = open.data.len();
        let bytes = usize::try_from(found.bytes).unwrap_or(usize::MAX);
        if bytes > known {
            open.data.resize(bytes, 0);
            // A descriptor that has failed is not used again.
            let read = disk::read_up_to_at(&*open.file, &mut open.data[known..], known as u64)?;
            open.data.truncate(known + read);
        }
        let is_cut = open.data.len() < bytes;
        let is_more = open.data.len() > known;
        self.open = Some(open);
        if is_cut && !is_more { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(is_more) }
    }

    /// Says whether something was read; what is damaged is passed over.
    fn judge(
        &mut self,
        log: &Mutex<Log>,
        found: &Segment,
        read: io::Result<bool>,
    ) -> Result<bool, SpoolError> {
        let error = match read {
            Ok(is_more) => {
                self.tries = None;
                return Ok(is_more);
            }
            Err(error) => error,
        };
        let is_gone = error.kind() == io::ErrorKind::NotFound;
        let is_medium = error.raw_os_error() == Some(Errno::EIO as i32);
        let tries = if is_medium { self.count_try() } else { 1 };
        if !is_gone && Class::of(&error, tries) == Class::Retry {
            return Err(SpoolError::Io { action: "read", path: found.path.clone(), error });
        }
        // What is missing shows in the next record's number.
        if lock(log).note_damage(found.number) {
            tracing::error!("cannot read {}: {error}; the rest of it is passed over", found.path.display());
        }
        Ok(false)
    }

    fn count_try(&mut self) -> u32 {
        let now = clock::now();
        let (tries, counted) = self.tries.get_or_insert((1, now));
        if now.duration_since(*counted) >= TRY_INTERVAL {
            (*tries, *counted) = (tries.saturating_add(1), now);
        }
        *tries
    }

    /// Turns to what follows a segment.
    fn leave(&mut self, log: &Mutex<Log>, number: u64) {
        let open = self.open.take();
        let last = open.as_ref().and_then(|open| open.last);
        if open.is_some_and(|open| open.at < open.data.len()) {
            self.torn = Some(number);
        }
        lock(log).note_end(number, last);
        self.from = number + 1;
    }
}
