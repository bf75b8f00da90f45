//! Sets of bytes.

use std::{fmt::Write, ops::RangeInclusive};

/// A set of bytes, a bit for each.
#[derive(Clone, Copy, Debug)]
pub(super) struct ByteSet([u64; 4]);

impl ByteSet {
    pub(super) fn none() -> Self {
        Self([0; 4])
    }

    /// Where a byte's bit is.
    fn place(byte: u8) -> (usize, u64) {
        (usize::from(byte / 64), 1 << (byte % 64))
    }

    pub(super) fn insert(&mut self, bytes: RangeInclusive<u8>) {
        for byte in bytes {
            let (word, bit) = Self::place(byte);
            self.0[word] |= bit;
        }
    }

    pub(super) fn insert_where(&mut self, is_in: impl Fn(u8) -> bool) {
        (0..=u8::MAX).filter(|byte| is_in(*byte)).for_each(|byte| self.insert(byte..=byte));
    }

    pub(super) fn remove(&mut self, byte: u8) {
        let (word, bit) = Self::place(byte);
        self.0[word] &= !bit;
    }

    pub(super) fn contains(&self, byte: u8) -> bool {
        let (word, bit) = Self::place(byte);
        self.0[word] & bit != 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// All bytes that are not in it.
    pub(super) fn inverted(self) -> Self {
        Self(self.0.map(|word| !word))
    }

    /// As a class of a regular expression.
    pub(super) fn write_to(&self, regex: &mut String) {
        regex.push('[');
        if self.is_empty() {
            regex.push_str(r"^\x00-\xff");
        }
        (0..=u8::MAX).filter(|byte| self.contains(*byte)).for_each(|byte| write_byte(byte, regex));
        regex.push(']');
    }
}

/// A byte that stands for itself, in a regular expression.
pub(super) fn write_byte(byte: u8, regex: &mut String) {
    // Writing to a string cannot fail.
    let _ = write!(regex, r"\x{byte:02x}");
}
