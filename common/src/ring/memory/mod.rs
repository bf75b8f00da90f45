//! What the ring's protocol needs of memory that two processes share, and what gives it.
//!
//! All of the project's `unsafe` is in this module. No reference to the bytes of a mapping ever exists, since the
//! other process may write them at any time: bytes are copied in and out, words are atomics, and every place is
//! checked against the mapping's length, which does not change while it lives.

#![allow(unsafe_code)]

#[cfg(not(loom))]
mod fault;
mod interface;
#[cfg(not(loom))]
mod mapping;
#[cfg(all(loom, test))]
mod model;
#[cfg(not(loom))]
mod segment;

pub use interface::Memory;
#[cfg(not(loom))]
pub(crate) use mapping::{Access, create_object};
#[cfg(not(loom))]
pub use mapping::{Mapping, Segments};
#[cfg(all(loom, test))]
pub(crate) use model::Model;
#[cfg(not(loom))]
pub use segment::{SEGMENT_BYTES_MAX, Segment, SegmentError, WORD, sealed_len, sealed_memory};
