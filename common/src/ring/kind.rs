//! The kinds of records.

/// What a record's payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A captured write: [`crate::record::Write`] and the bytes.
    Write = 1,
    /// Writes that could not be taken: [`crate::record::Loss`].
    Lost = 2,
    /// Space that was reserved and given up; to be passed over.
    Discarded = 3,
}

impl Kind {
    /// The kind byte of what fills the gap at the end of the record area.
    pub(super) const PADDING: u8 = 0;

    /// The kind that a byte in a record stands for.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Write, Self::Lost, Self::Discarded].into_iter().find(|kind| *kind as u8 == byte)
    }
}
