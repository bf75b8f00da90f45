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
mod consumer;
#[cfg(not(loom))]
mod create;
mod entry;
#[cfg(not(loom))]
mod ignored;
#[cfg(not(loom))]
mod inspect;
#[cfg(not(loom))]
mod inventory;
pub(crate) mod layout;
mod loss;
pub(crate) mod memory;
#[cfg(not(loom))]
mod object;
mod producer;
#[cfg(not(loom))]
mod publisher;
#[cfg(not(loom))]
mod replace;
mod reservation;
#[cfg(not(loom))]
mod selective_acks;
#[cfg(not(loom))]
pub mod status;
#[cfg(not(loom))]
mod tap;
#[cfg(not(loom))]
mod waiting;

#[cfg(not(loom))]
pub use agent::AgentRing;
pub use consumer::{Follow, ReadError};
pub use entry::{DamagedRange, Entry, Skipped};
#[cfg(not(loom))]
pub use inspect::{Inspected, inspect, inspect_to_show};
#[cfg(not(loom))]
pub use inventory::{Inventory, Leftover, Listed, NotRemoved, inventory, remove_ring, remove_unused};
pub use layout::{CAPACITY_MAX, CAPACITY_MIN, VERSION};
#[cfg(not(loom))]
pub(crate) use object::boot_id;
pub use producer::{Lost, Weight, record_size};
#[cfg(not(loom))]
pub use publisher::{Gauge, PublisherRing};
#[cfg(not(loom))]
pub use replace::{Handover, Retired, Unread};
#[cfg(not(loom))]
pub use selective_acks::{SELECTIVE_ACKS_MAX, SelectiveAck, SelectiveAckSlots};
#[cfg(not(loom))]
pub use tap::{Tap, Tapped, undelivered};
#[cfg(not(loom))]
pub use waiting::{Waiter, Waiting, waiter};

use std::{io, path::PathBuf};

use crate::units::ByteSize;

/// What a ring is made as; `[ring]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Name of the shared-memory objects.
    pub name: String,
    /// Bytes for records; rounded up to pages.
    pub size: ByteSize,
    /// The group that may attach besides the owner.
    pub group: Option<String>,
}

/// The agent's end of a real ring.
#[cfg(not(loom))]
pub type Producer = producer::Producer<memory::Segments>;
/// Space in a real ring that is not yet visible.
#[cfg(not(loom))]
pub type Reservation<'a> = reservation::Reservation<'a, memory::Segments>;
/// The publisher's end of a real ring.
#[cfg(not(loom))]
pub type Consumer = consumer::Consumer<memory::Segments>;
/// What moves a real ring's head.
#[cfg(not(loom))]
pub type Acker = consumer::Acker<memory::Segments>;

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
    const PADDING: u8 = 0;

    /// The kind that a byte in a record stands for.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Write, Self::Lost, Self::Discarded].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Why a ring cannot be made or attached to.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// There is no such ring.
    #[error("there is no ring `{name}`: is fs-agent running, with the same ring.name?")]
    Missing {
        /// The ring's name.
        name: String,
    },
    /// Another agent writes to it.
    #[error(
        "the ring `{name}` is held by another fs-agent{}: stop that one, or give this one another ring.name",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    AgentHolds {
        /// The ring's name.
        name: String,
        /// Who holds it, if known.
        pid: Option<u64>,
    },
    /// Another publisher drains it.
    #[error(
        "the ring `{name}` is held by another publisher{}: stop that one, or give this one another ring.name",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    PublisherHolds {
        /// The ring's name.
        name: String,
        /// Who holds it, if known.
        pid: Option<u64>,
    },
    /// It is of another layout version.
    #[error(
        "the ring segment `{name}` is of layout version {found}, this program is of version {VERSION}: \
         run the publisher of the version that wrote it until it is drained"
    )]
    Version {
        /// The segment's name.
        name: String,
        /// The version that it has.
        found: u32,
    },
    /// It was made before this machine started, and its agent's last stores may not be in it.
    #[error("the ring segment `{name}` is of an earlier boot")]
    OtherBoot {
        /// The segment's name.
        name: String,
    },
    /// Its size is not the configured one.
    #[error("the ring segment `{name}` has {found} bytes for records instead of {wanted}")]
    OtherSize {
        /// The segment's name.
        name: String,
        /// Bytes for records in it.
        found: u64,
        /// Bytes for records as configured.
        wanted: u64,
    },
    /// Its content is impossible.
    #[error("the ring segment `{name}` is damaged: {what}; remove {SEGMENT_DIR}/{name} if it is of no use")]
    Corrupt {
        /// The segment's name.
        name: String,
        /// What is impossible.
        what: &'static str,
    },
    /// One of its two objects is missing.
    #[error(
        "the ring segment `{name}` has lost what belongs to it: somebody has removed {SEGMENT_DIR}/{ack}"
    )]
    Halved {
        /// The segment's name.
        name: String,
        /// The missing object.
        ack: String,
    },
    /// Somebody has taken it away under the agent that writes to it.
    #[error("the ring segment `{name}` is of no more use: {what}")]
    Broken {
        /// The segment's name.
        name: String,
        /// What was done to it.
        what: &'static str,
    },
    /// Somebody who may only read it holds a lock on it.
    #[error("somebody who may read the ring segment `{name}` holds a lock on it (see lslocks)")]
    Blocked {
        /// The segment's name.
        name: String,
    },
    /// The shared-memory filesystem has no room for it.
    #[error(
        "there is no room for a ring of {bytes} bytes in {SEGMENT_DIR}: \
         make ring.size smaller, or give that filesystem more (mount -o remount,size=...)"
    )]
    NoRoom {
        /// The segment's size.
        bytes: u64,
    },
    /// The name cannot be part of a file's name.
    #[error("`{name}` cannot be a ring.name: use 1 to 64 letters, digits, `-` or `_`")]
    Name {
        /// The name.
        name: String,
    },
    /// The group that shall have access does not exist.
    #[error(
        "the group `{0}` of ring.group does not exist: create it (groupadd --system {0}) or leave ring.group out"
    )]
    Group(String),
    /// The system said no.
    #[error("cannot {action} {}: {error}{}", path.display(), way_in(error))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Who has to ask where the system refuses.
fn way_in(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ": root, the ring's owner, and the members of `ring.group` may",
        _ => "",
    }
}

impl RingError {
    /// What was found; none where there is no ring.
    ///
    /// # Errors
    /// Every other one.
    pub fn or_none<T>(found: Result<T, Self>) -> Result<Option<T>, Self> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(Self::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the ring is there and cannot be read: an agent begins another one instead of it.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Halved { .. })
    }
}

/// Where Linux keeps POSIX shared memory (shm_overview(7)).
pub const SEGMENT_DIR: &str = "/dev/shm";

/// Whether a text can be a ring's name: 1 to 64 ASCII letters, digits, `-` or `_`.
pub fn name_is_valid(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
