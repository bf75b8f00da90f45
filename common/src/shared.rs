//! Memory of one process that its successor takes up.

pub use crate::ring::memory::{SEGMENT_BYTES_MAX, Segment, SegmentError, WORD, sealed_len, sealed_memory};

/// Tells one run of the machine from another; zeros where the kernel does not say.
pub fn boot_id() -> [u8; 16] {
    crate::ring::boot_id()
}

/// CRC-32C.
pub fn checksum(bytes: &[u8]) -> u32 {
    crate::ring::layout::checksum(bytes)
}
