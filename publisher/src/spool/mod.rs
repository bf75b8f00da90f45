//! The spool: records that the ring has no room for wait on disk, in order, until they are delivered.
//!
//! # What it does
//!
//! The agent's ring holds what is not delivered. When the sink is behind and the ring fills past `spool.high_mark`, the
//! [`Feeder`], a thread of its own, copies the ring's oldest records, those on their way to the sink included, to segment
//! files, and then gives their space back to the agent. The drain goes on reading where it was: from the spool while that
//! has what comes next, from the ring behind it. A record keeps its number and its position in the ring, so its event id is
//! the same whichever way it comes, and a delivery is the same step of the same frontier: [`Head`] makes of it a move of
//! the ring's head, or a mark in the spool.
//!
//! A publisher that is stopped puts what the ring still holds into the spool too. After a reboot the ring is another one,
//! with another uuid: the spool's records of the old one, its *stream*, are delivered first, under their old ids.
//!
//! # Files
//!
//! | file | holds |
//! |---|---|
//! | `NUMBER.spool` | a header and records of one stream, see [`segment`](self) below; only ever appended to, by one process |
//! | `positions` | how far records are delivered, and how far they are in the spool |
//! | `ahead` | what of the records behind the delivered mark is delivered, as part of a line that begins before it |
//! | `ring` | the name of the ring that the spool belongs to |
//! | `NUMBER.damaged` | a segment of which something was passed over, kept aside; counts towards `spool.size_max` |
//! | `publisher.lock` | locked (flock(2)) by the publisher |
//!
//! All integers are little-endian.
//!
//! ```text
//! segment:  0  8  magic "BYWASHS\0"        record:  0  4  mark "SPOL"
//!           8  4  layout version, 1                 4  4  length of the payload
//!          16 16  uuid of the ring                  8  1  kind, as in the ring
//!          32  8  the segment's number             12  4  crc32c of the header without this, and the payload
//!          40  8  creation, ns since the epoch     16  8  sequence number
//!          56  4  crc32c of 0..56                  24  8  the position at which it ended in the ring
//!          64     records                          32     payload, filled up to a multiple of 8
//! ```
//!
//! # What a crash leaves
//!
//! | at | what holds |
//! |---|---|
//! | writing a batch | a torn tail behind the last good record; the ring still has them |
//! | between fsync and the ring's head | both have them; the next publisher moves the head |
//! | between a delivery and its mark | sent again under the same event ids |
//! | before a delivered segment is removed | its records are passed over |
//! | behind a sync that had failed | what the disk gave up on; the next publisher writes what it relies on again, before it syncs |
//!
//! An error of the system (no descriptor, no memory, a network file system that is away) is no damage: reading waits, and all
//! that follows waits with it. A record whose bytes were read and are wrong is passed over up to the next good one, and so is
//! a place of the disk that answers EIO again and again; the file is kept aside then. That something is missing shows in the sequence
//! numbers, so a torn tail that the ring made good is no loss, and a loss is counted exactly and announced in an event.
//! A segment never grows after its writer is gone: the next publisher begins another.
//!
//! # Why not a library
//!
//! The log crates that are kept well (mrecordlog, and Vector's disk buffer, which is no crate) bring positions and an
//! asynchronous runtime of their own. Here the ring's positions are the spool's, which is what lets a delivery report be
//! about a record wherever that is.

mod error;
mod feeder;
mod find;
mod head;
mod log;
mod look;
mod positions;
mod reader;
mod segment;
mod selective_acks;
#[cfg(test)]
mod tests;

pub use error::SpoolError;
#[cfg(test)]
pub use feeder::stepped;
pub use feeder::{Feeder, SpoolWaker};
pub use head::Head;
#[cfg(test)]
pub use log::Batch;
pub use log::Log;
pub use look::{oldest_ns, undelivered};
pub use positions::Mark;
pub use reader::{Item, Reader};
#[cfg(test)]
pub use segment::Record;
