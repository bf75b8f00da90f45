//! Reads a stream's records out of the spool, in order.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Mutex, PoisonError},
};

use bywash_common::ring::Entry;
use uuid::Uuid;

use super::{log::Log, segment};

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
struct Open {
    number: u64,
    file: File,
    data: Vec<u8>,
    at: usize,
}

/// Reads one stream.
pub struct Reader {
    uuid: Uuid,
    /// From which segment on to look.
    from: u64,
    open: Option<Open>,
    /// The number that the next record must have, if that is known.
    next_seq: Option<u64>,
}

impl Reader {
    /// Reads the stream's records from its first segment on.
    pub fn new(uuid: Uuid, next_seq: Option<u64>) -> Self {
        Self { uuid, from: 0, open: None, next_seq }
    }

    /// The stream.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The next record that ends behind the position `after`, or none if the spool has no more for now.
    pub fn next(
        &mut self,
        log: &Mutex<Log>,
        after: u64,
        next_seq: Option<u64>,
        payload: &mut Vec<u8>,
    ) -> Option<Item> {
        self.next_seq = next_seq.or(self.next_seq);
        loop {
            if let Some(open) = &mut self.open
                && let Some((start, record)) = segment::next(&open.data, open.at)
            {
                let end = start + segment::record_bytes(record.payload.len());
                if record.end <= after {
                    open.at = end;
                    continue;
                }
                if let Some(first_seq) = self.next_seq.filter(|expected| record.seq > *expected) {
                    self.next_seq = Some(record.seq);
                    return Some(Item::Gap { first_seq, records: record.seq - first_seq });
                }
                open.at = end;
                self.next_seq = Some(record.seq.wrapping_add(1));
                payload.clear();
                payload.extend_from_slice(record.payload);
                return Some(Item::Record(Entry { kind: record.kind, seq: record.seq, end: record.end }));
            }
            if !self.read_on(log) {
                return None;
            }
        }
    }

    /// Takes in what was appended to the segment, or turns to the next one. Gives whether there was something.
    fn read_on(&mut self, log: &Mutex<Log>) -> bool {
        loop {
            let found =
                log.lock().unwrap_or_else(PoisonError::into_inner).segment(self.uuid, self.from).cloned();
            let Some(found) = found else { return false };
            let read = match &mut self.open {
                Some(open) if open.number == found.number => open.extend(found.bytes),
                _ => Open::new(&found).map(|open| {
                    self.open = Some(open);
                    true
                }),
            };
            self.from = found.number;
            match read {
                Ok(true) => return true,
                Ok(false) => {}
                // What is missing shows in the next record's number.
                Err(error) => {
                    tracing::error!("cannot read {}: {error}; it is passed over", found.path.display());
                }
            }
            let is_last = log
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .segment(self.uuid, found.number + 1)
                .is_none();
            if is_last {
                return false;
            }
            self.open = None;
            self.from = found.number + 1;
        }
    }
}

impl Open {
    fn new(found: &super::log::Segment) -> io::Result<Self> {
        let file = File::open(&found.path)?;
        let mut open = Self { number: found.number, file, data: Vec::new(), at: segment::HEADER_BYTES };
        open.extend(found.bytes)?;
        Ok(open)
    }

    /// Reads up to `bytes`; gives whether that is more than before.
    fn extend(&mut self, bytes: u64) -> io::Result<bool> {
        let known = self.data.len();
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if bytes <= known {
            return Ok(false);
        }
        self.data.resize(bytes, 0);
        let read = self.file.read_exact_at(&mut self.data[known..], known as u64);
        if read.is_err() {
            self.data.truncate(known);
        }
        read.map(|()| true)
    }
}
