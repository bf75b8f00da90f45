//! What records weigh: in the loss counters, and in the ring.

use super::layout::{ALIGN, RECORD_HEADER};

/// What a write weighs in the loss counters if the ring cannot take it.
#[derive(Clone, Copy, Debug)]
pub struct Weight {
    /// Bytes of the captured data.
    pub bytes: u64,
    /// When it was written, in nanoseconds since the epoch.
    pub time_ns: u64,
}

/// Bytes that a record with a payload of `len` bytes takes.
pub fn record_size(len: usize) -> u64 {
    (RECORD_HEADER + len as u64).next_multiple_of(ALIGN)
}

/// Where a record with a payload of `len` bytes goes if the space from `from` on is free, and where it ends.
/// It never crosses the end of the record area: a padding fills what is left there.
pub(crate) fn place(from: u64, len: usize, capacity: u64) -> (u64, u64) {
    let size = record_size(len);
    let left = capacity - from % capacity;
    let at = if size > left { from + left } else { from };
    (at, at + size)
}
