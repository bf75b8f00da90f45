//! What lies behind the delivered mark and is delivered all the same, for when the ring that says so is gone.
//!
//! As in the ring ([`bywash_common::ring::SelectiveAckSlots`]) there are two slots, each bound to the mark that it is about, and the one that
//! does not speak of the current mark is written, before that moves: whenever the publisher dies, a slot speaks of the mark, or there
//! is nothing to say. A slot that cannot be read says nothing, which costs a second delivery of the ends of some lines.
//!
//! ```text
//! slot:  0 16  uuid of the ring        entry:  0  8  handle
//!       16  8  position of the mark            8  8  sequence number
//!       24  4  number of entries              16  4  length
//!       28     entries, and the crc32c of all before
//! ```

use std::{io, path::Path};

use bywash_common::{
    make::Access,
    ring::{SELECTIVE_ACKS_MAX, SelectiveAck},
};
use crc_fast::{CrcAlgorithm, checksum};
use uuid::Uuid;

use crate::disk::{Disk, Open, Stored, read_up_to_at, write_all_at};

const HEADER_BYTES: usize = 28;
const ENTRY_BYTES: usize = 20;
const SLOT_BYTES_MAX: usize = HEADER_BYTES + SELECTIVE_ACKS_MAX * ENTRY_BYTES + 4;
/// Where the second slot begins.
const SLOT_OFFSET: u64 = 4096;
const _: () = assert!(SLOT_BYTES_MAX as u64 <= SLOT_OFFSET);

/// What is delivered behind a mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Slot {
    uuid: Uuid,
    end: u64,
    entries: Vec<SelectiveAck>,
}

impl Slot {
    fn is_of(&self, uuid: Uuid, end: u64) -> bool {
        self.uuid == uuid && self.end == end
    }
}

/// The file with both slots.
pub struct SelectiveAckFile {
    file: Box<dyn Stored>,
    slots: [Slot; 2],
    /// The slot that was written last.
    last: usize,
}

impl SelectiveAckFile {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(disk: &dyn Disk, path: &Path, access: Access) -> io::Result<Self> {
        let mut opened =
            Self { file: disk.open(path, Open::Create(access))?, slots: Default::default(), last: 0 };
        for slot in 0..2 {
            let mut bytes = vec![0; SLOT_BYTES_MAX];
            let read = read_up_to_at(&*opened.file, &mut bytes, slot as u64 * SLOT_OFFSET)?;
            opened.slots[slot] = decode(&bytes[..read]).unwrap_or_default();
        }
        Ok(opened)
    }

    /// What is delivered behind a mark.
    pub fn of(&mut self, uuid: Uuid, end: u64) -> &[SelectiveAck] {
        let Some(slot) = self.slots.iter().position(|slot| slot.is_of(uuid, end)) else { return &[] };
        self.last = slot;
        &self.slots[slot].entries
    }

    /// Notes what is delivered behind a mark, before that is noted.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&mut self, uuid: Uuid, end: u64, entries: &[SelectiveAck]) -> io::Result<()> {
        let new = Slot { uuid, end, entries: entries.iter().take(SELECTIVE_ACKS_MAX).copied().collect() };
        if entries.is_empty() || self.slots[self.last] == new {
            return Ok(());
        }
        let next = 1 - self.last;
        write_all_at(&*self.file, &encode(&new), next as u64 * SLOT_OFFSET)?;
        self.slots[next] = new;
        self.last = next;
        Ok(())
    }

    /// Has the disk hold what was written.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

fn encode(slot: &Slot) -> Vec<u8> {
    let mut bytes = slot.uuid.as_bytes().to_vec();
    bytes.extend(slot.end.to_le_bytes());
    let count = u32::try_from(slot.entries.len()).unwrap_or(u32::MAX);
    bytes.extend(count.to_le_bytes());
    for SelectiveAck { handle, sequence, len } in &slot.entries {
        bytes.extend(handle.to_le_bytes());
        bytes.extend(sequence.to_le_bytes());
        bytes.extend(len.to_le_bytes());
    }
    // The algorithm has 32 bits.
    bytes.extend((checksum(CrcAlgorithm::Crc32Iscsi, &bytes) as u32).to_le_bytes());
    bytes
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn decode(bytes: &[u8]) -> Option<Slot> {
    let count = usize::try_from(half(bytes, 24)?).ok().filter(|count| *count <= SELECTIVE_ACKS_MAX)?;
    let len = HEADER_BYTES + count * ENTRY_BYTES;
    let is_whole = half(bytes, len)? == checksum(CrcAlgorithm::Crc32Iscsi, bytes.get(..len)?) as u32;
    let entry = |i| {
        let at = HEADER_BYTES + i * ENTRY_BYTES;
        Some(SelectiveAck {
            handle: word(bytes, at)?,
            sequence: word(bytes, at + 8)?,
            len: half(bytes, at + 16)?,
        })
    };
    let entries = (0..count).map(entry).collect::<Option<Vec<_>>>()?;
    is_whole.then_some(Slot { uuid: Uuid::from_slice(&bytes[..16]).ok()?, end: word(bytes, 16)?, entries })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SystemDisk;

    fn entry(i: u64) -> SelectiveAck {
        SelectiveAck { handle: 1000 + i, sequence: (5 << 32) + i, len: 7 }
    }

    fn open(path: &Path) -> SelectiveAckFile {
        SelectiveAckFile::open(&SystemDisk, path, Access { mode: 0o600, owner: None, group: None }).unwrap()
    }

    #[test]
    fn what_is_noted_for_a_mark_is_read_for_that_mark_alone_until_the_next_but_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ahead");
        let ring = Uuid::from_u128(7);
        let many: Vec<SelectiveAck> = (0..SELECTIVE_ACKS_MAX as u64 + 5).map(entry).collect();
        let mut file = open(&path);
        file.write(ring, 80, &[entry(1), entry(2)]).unwrap();
        file.write(ring, 160, &many).unwrap();
        let mut again = open(&path);
        assert_eq!(again.of(ring, 80), [entry(1), entry(2)]);
        assert_eq!(again.of(ring, 160), &many[..SELECTIVE_ACKS_MAX]);
        assert_eq!(again.of(ring, 81), []);
        assert_eq!(again.of(Uuid::from_u128(8), 80), []);
        // The slot that speaks of the mark is not the next to be written.
        again.of(ring, 160);
        again.write(ring, 240, &[entry(3)]).unwrap();
        assert_eq!(open(&path).of(ring, 160).len(), SELECTIVE_ACKS_MAX);
    }

    #[test]
    fn a_slot_that_is_torn_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ahead");
        let ring = Uuid::from_u128(7);
        open(&path).write(ring, 80, &[entry(1)]).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = SLOT_OFFSET as usize + HEADER_BYTES;
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(open(&path).of(ring, 80), []);
    }
}
