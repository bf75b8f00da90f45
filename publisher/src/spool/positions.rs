//! How far the spool's records are delivered, and how far they go: two marks, kept over restarts.

use std::{io, path::Path};

use crc_fast::{CrcAlgorithm, checksum};
use uuid::Uuid;

use crate::{
    disk::{Access, Disk, Open, Stored, read_up_to_at, write_all_at},
    faults::Fault,
};

/// The name of the file, in the spool's directory.
pub const FILE: &str = "positions";

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
/// Where the second slot begins: of two in different sectors, a crash tears at most the one that is being written.
const SLOT_OFFSET: u64 = 512;

/// One of the two places for marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    First,
    Second,
}

impl Slot {
    const BOTH: [Self; 2] = [Self::First, Self::Second];

    fn offset(self) -> u64 {
        match self {
            Self::First => 0,
            Self::Second => SLOT_OFFSET,
        }
    }

    fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// The file with both marks.
///
/// The slot `kept` holds what may be relied on, and the other one alone is written to: whatever a write that fails or a power
/// cut leaves of that, the marks go back no further than to what [`Self::sync`] or [`Self::keep`] has seen.
pub struct Positions {
    file: Box<dyn Stored>,
    /// How often it was written.
    count: u64,
    marks: Marks,
    kept: Slot,
    /// What the slot that is not kept holds of `marks`.
    other: Other,
}

/// What the slot that is not kept holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    /// Something older, or nothing.
    Stale,
    /// The marks.
    Written,
    /// The marks, or what a failure has left of them: a disk that could not hold something may have given up on that, and
    /// say nothing of it the next time.
    Doubtful,
}

impl Positions {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// What the system says. A file that says nothing sensible is none.
    pub fn open(disk: &dyn Disk, path: &Path, access: Access) -> io::Result<Self> {
        let file = disk.open(path, Open::Create(access))?;
        let found = newest(&*file)?;
        let (kept, count, marks) = found.unwrap_or((Slot::First, 0, Marks::default()));
        // Nobody knows whether the disk has what the last process wrote. A disk that could not hold it may have given up on
        // that, and a sync alone says nothing of it: the same bytes are written again. A power cut leaves what the disk has then.
        if found.is_some() && !Fault::MarksSyncedAlone.is_back() {
            write_all_at(&*file, &encode(count, &marks), kept.offset())?;
        }
        if !Fault::MarksUnsyncedAtStart.is_back() {
            file.sync()?;
        }
        Ok(Self { file, count, marks, kept, other: Other::Stale })
    }

    /// What the file says.
    pub fn marks(&self) -> Marks {
        self.marks
    }

    /// Writes other marks down. They outlast the process; a power cut only after [`Self::sync`].
    ///
    /// # Errors
    /// What the system says; the marks are then what they were.
    pub fn write(&mut self, marks: Marks) -> io::Result<()> {
        let count = self.count + 1;
        if self.other == Other::Written {
            self.other = Other::Doubtful;
        }
        if Fault::MarksBeforeDisk.is_back() {
            (self.count, self.marks, self.other) = (count, marks, Other::Written);
        }
        write_all_at(&*self.file, &encode(count, &marks), self.kept.other().offset())?;
        (self.count, self.marks, self.other) = (count, marks, Other::Written);
        Ok(())
    }

    /// Has the disk hold what was written.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.other == Other::Doubtful {
            self.write(self.marks)?;
        }
        if self.other == Other::Written {
            self.other = Other::Doubtful;
            self.file.sync()?;
            self.other = Other::Written;
        }
        self.keep();
        Ok(())
    }

    /// Relies on what was written as it is, on the disk or not.
    pub fn keep(&mut self) {
        if self.other == Other::Written {
            (self.kept, self.other) = (self.kept.other(), Other::Stale);
        }
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

/// What another process's file says: reads, and changes nothing. A file that is not there, or says nothing sensible, says that
/// nothing is delivered.
///
/// # Errors
/// What the system says.
pub fn look(disk: &dyn Disk, path: &Path) -> io::Result<Marks> {
    let file = match disk.open(path, Open::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Marks::default()),
        opened => opened?,
    };
    Ok(newest(&*file)?.map_or_else(Marks::default, |(.., marks)| marks))
}

/// The newest slot that says something sensible, its count and what it says.
fn newest(file: &dyn Stored) -> io::Result<Option<(Slot, u64, Marks)>> {
    let mut newest: Option<(Slot, u64, Marks)> = None;
    for slot in Slot::BOTH {
        let mut bytes = [0; SLOT_BYTES];
        if read_up_to_at(file, &mut bytes, slot.offset())? < SLOT_BYTES {
            continue;
        }
        let Some((count, marks)) = decode(&bytes) else { continue };
        if newest.is_none_or(|(_, best, _)| count > best) {
            newest = Some((slot, count, marks));
        }
    }
    Ok(newest)
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
    use crate::disk::SystemDisk;

    fn open(path: &Path) -> Positions {
        Positions::open(&SystemDisk, path, Access::own(0o600)).unwrap()
    }

    fn marks(end: u64) -> Marks {
        let mark = Mark { uuid: Uuid::from_u128(5), end, next_seq: end / 8 };
        Marks { delivered: mark, spooled: mark }
    }

    #[test]
    fn the_last_marks_are_found_again_and_torn_ones_cost_what_was_not_synced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("positions");
        let mut positions = open(&path);
        assert_eq!(positions.marks(), Marks::default());
        for end in [8, 16] {
            positions.write(marks(end)).unwrap();
        }
        positions.sync().unwrap();
        for end in [24, 32] {
            positions.write(marks(end)).unwrap();
        }
        assert_eq!(open(&path).marks(), marks(32));
        // Of the slot that was written since, a power cut may leave anything.
        let torn = positions.kept.other().offset();
        write_all_at(&*positions.file, b"torn", torn).unwrap();
        assert_eq!(open(&path).marks(), marks(16));
    }

    #[test]
    fn marks_that_a_disk_refuses_are_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("positions");
        let mut positions = open(&path);
        positions.write(marks(8)).unwrap();
        // Opened to read alone.
        positions.file = SystemDisk.open(&path, Open::Read).unwrap();
        positions.write(marks(16)).unwrap_err();
        assert_eq!((positions.marks(), open(&path).marks()), (marks(8), marks(8)));
    }
}
