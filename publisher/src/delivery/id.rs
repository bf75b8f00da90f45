//! The names of events.

/// Some bytes of the writes through one handle, that follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where in the record they begin.
    pub begin: usize,
    /// How many they are; they may go on in later records.
    pub len: usize,
}

impl Stretch {
    /// None if these are all bytes of a record of `record_len` bytes.
    pub fn unless_all_of(self, record_len: usize) -> Option<Self> {
        (self.begin > 0 || self.len != record_len).then_some(self)
    }
}
