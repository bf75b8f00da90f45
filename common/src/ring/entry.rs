//! What a consumer reads, and what it passes over.

use super::kind::Kind;

/// One record's description; its payload is in the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the payload is.
    pub kind: Kind,
    /// The record's number in this ring, without gaps.
    pub seq: u64,
    /// Where the record ends: acknowledge up to here once it is delivered.
    pub end: u64,
}

/// Bytes of which nothing says where records begin in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DamagedRange {
    /// How many; 0 for nothing.
    pub bytes: u64,
    /// The number of the first record in them, if it is known.
    pub first_seq: Option<u64>,
    /// The number of the record that the agent writes behind them, as far as it says so. To be shown: a record that is read
    /// there says its number itself.
    pub seq_behind: Option<u64>,
}

impl DamagedRange {
    /// How many records were in it, if that is known.
    pub fn records(&self) -> Option<u64> {
        self.seq_behind?.checked_sub(self.first_seq?)
    }
}

/// What was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// One record, of which the number and the end are known.
    Record(Entry),
    /// Everything up to the tail.
    Range(DamagedRange),
}

impl Skipped {
    /// Where reading goes on behind what began at a position.
    pub fn end(&self, begin: u64) -> u64 {
        match self {
            Self::Record(entry) => entry.end,
            Self::Range(range) => begin + range.bytes,
        }
    }

    /// The number of the record behind it, if that is known.
    pub fn next_seq(&self) -> Option<u64> {
        match self {
            Self::Record(entry) => Some(entry.seq.wrapping_add(1)),
            Self::Range(_) => None,
        }
    }
}
