//! What the kernel can believe a file's size to be, which tells its appends from writes that only look like them.
//!
//! To append, the kernel sends a write at the size that it believes in, and says O_APPEND. With RWF_NOAPPEND it says
//! O_APPEND as well, and means the place. The two differ in the offset alone, so every size that the kernel was told
//! and has not outgrown is kept here, as an interval. An offset within may be an append; any other is a place.
//!
//! What that rests on:
//! - The kernel takes sizes from the attributes in replies, and takes those that come late or not at all. So the interval
//!   only widens by what it is told.
//! - From a write or a fallocate at `offset` it takes `offset` and what was written, if it believes in less. It holds the
//!   inode's lock from the choice of the offset to that, as it does for truncation: the next one comes after.
//! - From a truncation it takes the size in the reply, whatever it believed before, and ignores attributes on their way.
//! - From a read through its cache that ends early it takes that end, if it believes in more.
//! - Pages of mappings never change it.

use std::sync::atomic::{AtomicU64, Ordering};

/// The sizes that the kernel may believe a file to have. It has to learn of each before its reply leaves.
#[derive(Debug)]
pub struct BelievedSize<'a> {
    least: &'a AtomicU64,
    most: &'a AtomicU64,
}

impl<'a> BelievedSize<'a> {
    /// Those between two, which both are the size that the kernel was told when it was told of the file for the first time.
    pub fn of(least: &'a AtomicU64, most: &'a AtomicU64) -> Self {
        Self { least, most }
    }

    /// The kernel is told `size` with the file's attributes.
    pub fn told(&self, size: u64) {
        self.read_ended(size);
        if size > self.most.load(Ordering::Acquire) {
            self.most.fetch_max(size, Ordering::AcqRel);
        }
    }

    /// The kernel is told that the file ends at `end`, or before.
    pub fn read_ended(&self, end: u64) {
        if end < self.least.load(Ordering::Acquire) {
            self.least.fetch_min(end, Ordering::AcqRel);
        }
    }

    /// What the kernel placed up to `end` is written or reserved there, as far as it knows.
    pub fn grew_to(&self, end: u64) {
        // The upper end first: at all times there is a size between the two.
        self.most.fetch_max(end, Ordering::AcqRel);
        self.least.fetch_max(end, Ordering::AcqRel);
    }

    /// The kernel is told `size` in answer to a truncation.
    pub fn cut_to(&self, size: u64) {
        self.most.store(size, Ordering::Release);
        self.least.store(size, Ordering::Release);
    }

    /// Whether the kernel may believe in `size`.
    pub fn may_be(&self, size: u64) -> bool {
        (self.least.load(Ordering::Acquire)..=self.most.load(Ordering::Acquire)).contains(&size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(size: u64) -> [AtomicU64; 2] {
        [AtomicU64::new(size), AtomicU64::new(size)]
    }

    fn size_of(words: &[AtomicU64; 2]) -> BelievedSize<'_> {
        BelievedSize::of(&words[0], &words[1])
    }

    #[test]
    fn what_was_written_leaves_one_size() {
        let words = told(0);
        let size = size_of(&words);
        size.grew_to(10);
        assert!(size.may_be(10) && !size.may_be(0) && !size.may_be(9) && !size.may_be(11));
        size.grew_to(3);
        assert!(size.may_be(10) && !size.may_be(3));
    }

    #[test]
    fn what_was_told_may_have_been_ignored_or_be_believed_late() {
        let words = told(10);
        let size = size_of(&words);
        size.told(20);
        assert!(size.may_be(10) && size.may_be(20) && !size.may_be(21));
        size.told(5);
        assert!(size.may_be(5) && size.may_be(20) && !size.may_be(4));
        // From 5, 10 or 20, at 10.
        size.grew_to(15);
        assert!(!size.may_be(14) && size.may_be(15) && size.may_be(20));
        size.read_ended(12);
        assert!(!size.may_be(11) && size.may_be(12) && size.may_be(20));
    }

    #[test]
    fn a_truncation_is_believed() {
        let words = told(10);
        let size = size_of(&words);
        size.told(20);
        size.cut_to(4);
        assert!(size.may_be(4) && !size.may_be(3) && !size.may_be(5));
    }

    #[test]
    fn sizes_at_the_borders_are_sizes() {
        let max = i64::MAX.cast_unsigned();
        let words = told(1 << 31);
        let size = size_of(&words);
        assert!(size.may_be(1 << 31) && !size.may_be((1 << 31) - 1));
        size.grew_to(max);
        assert!(size.may_be(max) && !size.may_be(max - 1));
    }
}
