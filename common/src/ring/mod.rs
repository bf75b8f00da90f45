//! The ring between fs-agent and publisher: one producer process, one consumer process, two shared-memory
//! segments. This page is the specification.
//!
//! # Segments
//!
//! A ring `NAME` has generations `G` = 1, 2, ...; each is two POSIX shared-memory objects:
//!
//! | object | written by | holds |
//! |---|---|---|
//! | `NAME.G.ring`, the data segment | the agent alone | header, tail, losses, counters, records |
//! | `NAME.G.ack`, the consumer segment | the publisher alone, but for its header | header, head, waiter, counters |
//!
//! Each side opens and maps the other's segment for reading alone. Both objects are built under a name that nobody can know
//! beforehand, allocated in full (a full tmpfs is an error at the start, not a SIGBUS later) and renamed, the data
//! segment last: a generation exists once its data segment does, and is then whole. Without a configured group their modes are
//! 0600; with it 0640 and 0660, so that the group writes what is the publisher's and cannot cut or forge a record.
//!
//! Any user can make names where the objects are. What counts is who owns what was opened: `object.rs` says whose objects who goes
//! by. A number whose names are taken is passed over, by whomever they are; so numbers of generations grow, and may skip.
//!
//! The agent writes to the newest generation alone. It makes a new one when it cannot go on with the newest:
//! another layout version, another size, another boot, a damaged header. The publisher drains generations oldest
//! first; the agent removes an old one once it is drained.
//!
//! # Upgrade to another layout
//!
//! Either service may be upgraded first. A new agent begins a new generation beside the old one. A publisher of the old
//! version drains the old generation and then ends with an error that names the version it cannot read, by which time
//! a new one has nothing left to do there. A new publisher must read the version before its own as well: whoever
//! changes the layout keeps the reading half of the old one for a release. An older agent that meets a newer generation
//! begins yet another.
//!
//! Exclusive roles: the agent holds a write lock (`F_OFD_SETLK`) on byte 0 of the data segment, the publisher one on
//! byte 0 of the consumer segment, from attaching until its process ends, however it ends. A lock on byte 1 follows
//! once what a predecessor's counters and listening table said is overwritten: only then is the service shown as running. Who may only read
//! a segment can take read locks on it: they claim nothing, and an agent that finds one in its way begins a new generation.
//!
//! # Data segment
//!
//! All integers are in the machine's byte order, which the header records.
//!
//! ```text
//! 0x0000  8  magic "BYWASHR\0"
//! 0x0008  4  layout version, 1
//! 0x000c  4  byte order mark 0x0a0b0c0d
//! 0x0010  8  offset of the records, 0x8000
//! 0x0018  8  capacity: bytes of the record area, a multiple of 4096
//! 0x0020 16  ring uuid; event ids begin with it
//! 0x0030 16  boot id
//! 0x0040  8  creation, ns since the epoch
//! 0x0048  4  crc32c of 0x0000..0x0048
//! 0x004c  4  number of the generation; 0 here and in the next two if made before headers said so
//! 0x0050  4  crc32c of the ring's name
//! 0x0054  4  crc32c of 0x004c..0x0054
//! 0x0080  8  tail: position behind the last visible record; only grows
//! 0x0090 16  commit slot 0: tail, next sequence number
//! 0x00a0 16  commit slot 1
//! 0x0100     losses: for each of 8 reasons 4 x 8: events, bytes, first ns, last ns
//! 0x0200     announcement slot 0: bound tail, then for each of 8 reasons 2 x 8: events, bytes
//! 0x0300     announcement slot 1
//! 0x1000     the agent's counters, u64 each (see `status`)
//! 0x2000     the agent's listening table of what it listens to (see `status`)
//! 0x8000     records
//! ```
//!
//! # Consumer segment
//!
//! ```text
//! 0x0000     header as above, magic "BYWASHA\0", the same uuid
//! 0x0080  8  head: position up to which everything is acknowledged; only grows
//! 0x00c0  4  waiter: a futex; odd while the publisher waits, another value for each wait
//! 0x0100     what is delivered behind the head, slot 0 (see `ahead`)
//! 0x0880     the same, slot 1
//! 0x1000     the publisher's counters, u64 each (see `status`)
//! ```
//!
//! # Records
//!
//! A position is a count of bytes since the ring was made; it lies at `position % capacity` in the record area.
//! Records begin at multiples of 8 and never cross the end of the area.
//!
//! ```text
//!  0  4  len: bytes of header and payload; the next record begins at the next multiple of 8
//!  4  1  kind: 0 padding, 1 write, 2 lost, 3 discarded
//!  5  3  0
//!  8  8  sequence number: the previous record's + 1
//! 16  4  crc32c of the payload (0 for a discarded record), xor the low and the high half of the sequence number,
//!        xor len * 0x9e3779b1, xor kind * 0x85ebca77
//! 20  4  0
//! 24     payload
//! ```
//!
//! A padding fills the area up to its end; it has the first 8 bytes alone, `len` counts the whole gap, and it takes no
//! sequence number. A record is at most an eighth of the capacity.
//!
//! # Protocol
//!
//! The producer's threads reserve under an in-process lock, copy outside of it, and commit under the lock. A commit
//! returns once its record is visible, so that what a writer was told outlasts the process. The
//! tail moves over the contiguous prefix of committed reservations, after the commit slot that was not used
//! last got the same tail and the sequence number that follows: whenever the process dies, one slot agrees
//! with the tail, and its restart goes on from there. A reservation dropped without commit (a panic) becomes a
//! discarded record.
//!
//! The consumer reads up to the tail: it copies the header, checks alignment, length, kind and sequence number,
//! copies the payload, checks the checksum over its copy. Its read position is private. The head moves when what
//! was read is delivered: the ring is the retry buffer.
//!
//! A consumer that runs out of records naps once without asking to be woken, so that writers under load make no system
//! call; only if there is nothing after that does it announce its wait.
//!
//! When the ring is full the newest write is dropped and counted by reason in the segment; the next record
//! that fits has a LOST record in front of it. The announced totals lie in two slots, each bound to the tail that
//! makes its announcement visible, so a killed agent neither forgets a loss nor announces it twice.
//!
//! Orderings, by the label that both sides carry in the code:
//!
//! | label | store | load |
//! |---|---|---|
//! | `SYNC tail` | tail, release, in `Producer::publish` | tail, acquire, in `Consumer::next` |
//! | `SYNC consumer-head` | head, release, in `Acker::ack` | head, acquire, in `Producer::refresh_head` |
//! | `SYNC sleep` | tail, then a sequentially consistent fence, then the waiter is read | waiter, then such a fence, then the tail is read |
//!
//! # What a kill leaves
//!
//! | SIGKILL at | what holds |
//! |---|---|
//! | agent reserving or copying | invisible; the restart goes on from the shared tail |
//! | agent between commit slot and tail | invisible: the other slot agrees with the tail |
//! | agent after the tail, before the wake-up | the record is valid; the consumer's timed wait finds it |
//! | agent creating the ring | only temporary names exist, or a consumer segment alone; the next start removes them |
//! | agent announcing a loss | the announcement is visible, or its slot is void and it is made again |
//! | publisher reading, encoding, sending | nothing shared has changed; all is sent again under the same event ids |
//! | publisher between acknowledgement and head | sent again under the same event ids |
//! | both | both attach again; nothing committed is gone |
//!
//! Lost by nature: the segments live in memory, so a reboot ends them.
//!
//! # A damaged record
//!
//! A record that fails its checks is passed over alone if its header says where it ends, and headers lead from there to a record
//! that is whole and has the number that follows, or to the tail. Otherwise reading goes on at the tail: a payload may hold
//! bytes that are a record, checksum included, as anybody writes there, so that none is looked for.
//!
//! # A ring that is cut, damaged or removed
//!
//! The owner, root, and for the consumer segment the group can do that. An access to memory that is missing yields zeros and a
//! note (`memory/fault.rs`), so nobody dies of it. While the agent runs, another generation takes the ring's place within
//! half a second; what becomes of the former one's records is in `replace.rs`. When an agent that starts finds its
//! newest generation useless, nobody knows what of it was delivered: the log says so, and nothing is counted.

#[cfg(not(loom))]
mod agent;
#[cfg(not(loom))]
mod attached;
mod config;
mod consumer;
#[cfg(not(loom))]
mod create;
mod entry;
mod error;
#[cfg(not(loom))]
mod ignored;
#[cfg(not(loom))]
mod inspect;
#[cfg(not(loom))]
mod inventory;
mod kind;
pub(crate) mod layout;
mod loss;
pub(crate) mod memory;
#[cfg(not(loom))]
mod object;
mod producer;
#[cfg(not(loom))]
mod publisher;
#[cfg(not(loom))]
mod real;
#[cfg(not(loom))]
mod replace;
mod reservation;
#[cfg(not(loom))]
mod seen;
#[cfg(not(loom))]
mod selective_acks;
#[cfg(not(loom))]
pub mod status;
#[cfg(not(loom))]
mod tap;
#[cfg(not(loom))]
mod waiting;
mod weight;

#[cfg(not(loom))]
pub use agent::AgentRing;
pub use config::{RingConfig, SEGMENT_DIR, name_is_valid};
pub use consumer::{Follow, ReadError};
pub use entry::{DamagedRange, Entry, Skipped};
pub use error::RingError;
#[cfg(not(loom))]
pub use inspect::{Inspected, inspect, inspect_to_show};
#[cfg(not(loom))]
pub use inventory::{Inventory, Leftover, Listed, NotRemoved, inventory, remove_ring, remove_unused};
pub use kind::Kind;
pub use layout::{CAPACITY_MAX, CAPACITY_MIN, VERSION};
#[cfg(not(loom))]
pub(crate) use object::boot_id;
pub use producer::Lost;
#[cfg(not(loom))]
pub use publisher::{Gauge, PublisherRing};
#[cfg(not(loom))]
pub use real::{Acker, Consumer, Producer, Reservation};
#[cfg(not(loom))]
pub use replace::{Handover, Retired, Unread};
#[cfg(not(loom))]
pub use selective_acks::{SELECTIVE_ACKS_MAX, SelectiveAck, SelectiveAckSlots};
#[cfg(not(loom))]
pub use tap::{Tap, Tapped, undelivered};
#[cfg(not(loom))]
pub use waiting::{Waiter, Waiting, waiter};
pub use weight::{Weight, record_size};

#[cfg(test)]
#[cfg(loom)]
mod loom_tests;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
