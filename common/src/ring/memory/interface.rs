//! The interface of memory that two processes share.

use std::time::Duration;

use crate::sync::{AtomicU32, AtomicU64};

use crate::ring::layout;

/// A place outside of a mapping: the caller's arithmetic or a peer's value is wrong.
#[derive(Debug)]
pub struct OutOfBounds;

/// What the protocol asks of the two segments; implemented by the mappings, and by a model under loom.
pub trait Memory {
    /// Bytes of the record area.
    fn capacity(&self) -> u64;
    /// The most bytes that a record may have, header and payload.
    fn record_len_max(&self) -> u64 {
        self.capacity() / layout::RECORD_FRACTION
    }
    /// A word of the data segment; `at` is a constant of `layout`.
    fn data_word(&self, at: usize) -> &AtomicU64;
    /// The word that says how far the consumer has acknowledged.
    fn head(&self) -> &AtomicU64;
    /// The futex on which the consumer waits: odd while it does.
    fn waiter(&self) -> &AtomicU32;
    /// Copies bytes into the record area, at most to its end.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), OutOfBounds>;
    /// Copies bytes out of the record area, at most to its end.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), OutOfBounds>;
    /// Appends `len` bytes of the record area to a vector, at most to the area's end.
    fn read_append(&self, offset: u64, len: usize, into: &mut Vec<u8>) -> Result<(), OutOfBounds>;
    /// Asks the processor to fetch a part of the record area that will soon be written.
    fn will_write(&self, _offset: u64, _len: usize) {}
    /// Asks the processor to fetch a part of the record area that will soon be read.
    fn will_read(&self, _offset: u64, _len: usize) {}
    /// Whether both segments are still as long as they were.
    fn is_intact(&self) -> bool;
    /// Wakes the consumer.
    fn wake(&self);
    /// Sleeps while the waiter's word is `expected`, at most for `timeout`.
    fn wait(&self, expected: u32, timeout: Duration);
}
