//! How far the spool's records are delivered, and how far they go: two marks, kept over restarts.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use crc_fast::{CrcAlgorithm, checksum};
use uuid::Uuid;

/// A place behind a record, in its ring's terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The ring.
    pub uuid: Uuid,
    /// The position behind the record.
    pub end: u64,
    /// The number of the record that follows; 0 where that is not known.
    pub next_seq: u64,
}

impl Mark {
    /// The number of the record that follows, if it is known.
    pub fn known_seq(&self) -> Option<u64> {
        (self.next_seq > 0).then_some(self.next_seq)
    }
}

/// What the file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Everything before this is delivered, and so is every stream in front of it.
    pub delivered: Mark,
    /// Everything before this was in the spool.
    pub spooled: Mark,
}

/// Bytes of a slot: a count, two marks, a checksum.
const SLOT_BYTES: usize = 8 + 2 * MARK_BYTES + 4;
const MARK_BYTES: usize = 32;
/// Where the second slot begins: of two that are written in turn, a crash tears at most one.
const SLOT_OFFSET: u64 = 512;

/// The file with both marks.
pub struct Positions {
    file: File,
    /// How often it was written.
    count: u64,
    /// What it says.
    pub marks: Marks,
}

impl Positions {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// What the system says. A file that says nothing sensible is none.
    pub fn open(path: &Path, mode: u32) -> io::Result<Self> {
        let file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(mode).open(path)?;
        let mut found = Self { file, count: 0, marks: Marks::default() };
        for offset in [0, SLOT_OFFSET] {
            let mut slot = [0; SLOT_BYTES];
            if found.file.read_exact_at(&mut slot, offset).is_err() {
                continue;
            }
            if let Some((count, marks)) = decode(&slot).filter(|(count, _)| *count > found.count) {
                (found.count, found.marks) = (count, marks);
            }
        }
        Ok(found)
    }

    /// Writes other marks down. They outlast the process; a power cut only after [`Self::sync`].
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&mut self, marks: Marks) -> io::Result<()> {
        self.count += 1;
        self.marks = marks;
        let offset = if self.count.is_multiple_of(2) { 0 } else { SLOT_OFFSET };
        self.file.write_all_at(&encode(self.count, &marks), offset)
    }

    /// Has the disk hold what was written.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn encode(count: u64, marks: &Marks) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(&count.to_le_bytes());
    for (mark, at) in [(marks.delivered, 8), (marks.spooled, 8 + MARK_BYTES)] {
        slot[at..at + 16].copy_from_slice(mark.uuid.as_bytes());
        slot[at + 16..at + 24].copy_from_slice(&mark.end.to_le_bytes());
        slot[at + 24..at + 32].copy_from_slice(&mark.next_seq.to_le_bytes());
    }
    let crc = checksum(CrcAlgorithm::Crc32Iscsi, &slot[..SLOT_BYTES - 4]) as u32;
    slot[SLOT_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(slot: &[u8; SLOT_BYTES]) -> Option<(u64, Marks)> {
    let word = |at: usize| Some(u64::from_le_bytes(slot[at..at + 8].try_into().ok()?));
    let mark = |at: usize| {
        let uuid = Uuid::from_slice(&slot[at..at + 16]).ok()?;
        Some(Mark { uuid, end: word(at + 16)?, next_seq: word(at + 24)? })
    };
    let marks = Marks { delivered: mark(8)?, spooled: mark(8 + MARK_BYTES)? };
    let count = word(0)?;
    (encode(count, &marks) == *slot).then_some((count, marks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_marks_are_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("positions");
        let mut positions = Positions::open(&path, 0o600).unwrap();
        assert_eq!(positions.marks, Marks::default());
        let marks = |end| {
            let mark = Mark { uuid: Uuid::from_u128(5), end, next_seq: end / 8 };
            Marks { delivered: mark, spooled: mark }
        };
        for end in [8, 16, 24] {
            positions.write(marks(end)).unwrap();
        }
        assert_eq!(Positions::open(&path, 0o600).unwrap().marks, marks(24));
        // A write that was cut off in the middle.
        positions.file.write_all_at(b"torn", SLOT_OFFSET).unwrap();
        assert_eq!(Positions::open(&path, 0o600).unwrap().marks, marks(16));
    }
}
