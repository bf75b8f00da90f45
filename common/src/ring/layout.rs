//! Where each byte of the two segments lies. The picture is in [the ring's documentation](super).

use crc_fast::{CrcAlgorithm, Digest};

pub use super::config::VERSION;
use super::error::RingError;

/// First bytes of the data segment.
pub(crate) const MAGIC_DATA: [u8; 8] = *b"BYWASHR\0";
/// First bytes of the consumer segment.
pub(crate) const MAGIC_ACK: [u8; 8] = *b"BYWASHA\0";
/// Reads back differently where the byte order differs.
const BYTE_ORDER: u32 = 0x0a0b_0c0d;

/// Bytes of a segment's header that its checksum covers; the checksum follows them.
const HEADER_SUMMED: usize = 0x48;
/// Where the header says which object it belongs to.
const PLACE: usize = HEADER_SUMMED + 4;
/// Bytes of a segment's header.
pub(crate) const HEADER_LEN: usize = PLACE + 12;

// The data segment, in bytes from its start.
pub(crate) const TAIL: usize = 0x080;
pub(crate) const COMMIT_SLOTS: usize = 0x090;
pub(crate) const COMMIT_SLOT_LEN: usize = 0x10;
pub(crate) const LOSS_TOTALS: usize = 0x100;
pub(crate) const LOSS_TOTAL_LEN: usize = 0x20;
pub(crate) const ANNOUNCE_SLOTS: usize = 0x200;
pub(crate) const ANNOUNCE_SLOT_LEN: usize = 0x100;
pub(crate) const AGENT_COUNTERS: usize = 0x1000;
pub(crate) const LISTENING_TABLE: usize = 0x2000;
pub(crate) const LISTENING_TABLE_LEN: usize = 0x6000;
/// Where the records begin.
pub(crate) const RECORDS: usize = 0x8000;

// The consumer segment.
pub(crate) const HEAD: usize = 0x080;
pub(crate) const WAITER: usize = 0x0c0;
pub(crate) const SELECTIVE_ACK_SLOTS: usize = 0x100;
pub(crate) const SELECTIVE_ACK_SLOT_LEN: usize = 0x780;
pub(crate) const PUBLISHER_COUNTERS: usize = 0x1000;
/// Bytes of the consumer segment.
pub(crate) const ACK_LEN: usize = 0x2000;

/// Bytes of a page of counters.
pub(crate) const COUNTERS_LEN: usize = 0x1000;

/// Records and paddings begin at multiples of this many bytes.
pub(crate) const ALIGN: u64 = 8;
/// Bytes in front of a record's payload.
pub(crate) const RECORD_HEADER: u64 = 24;
/// A record takes at most this fraction of the capacity.
pub(crate) const RECORD_FRACTION: u64 = 8;
/// The smallest capacity in bytes: anything less cannot hold eight writes of a page.
pub const CAPACITY_MIN: u64 = 64 << 10;
/// The largest capacity in bytes: lengths of records are 32 bits wide.
pub const CAPACITY_MAX: u64 = 16 << 30;
/// Capacities are multiples of this many bytes.
const CAPACITY_STEP: u64 = 4096;

const _: () = {
    assert!(COMMIT_SLOTS + 2 * COMMIT_SLOT_LEN <= LOSS_TOTALS);
    assert!(LOSS_TOTALS + 8 * LOSS_TOTAL_LEN <= ANNOUNCE_SLOTS);
    assert!(ANNOUNCE_SLOTS + 2 * ANNOUNCE_SLOT_LEN <= AGENT_COUNTERS);
    assert!(8 + 8 * 16 <= ANNOUNCE_SLOT_LEN);
    assert!(AGENT_COUNTERS + COUNTERS_LEN <= LISTENING_TABLE);
    assert!(LISTENING_TABLE + LISTENING_TABLE_LEN <= RECORDS);
    assert!(
        WAITER + 4 <= SELECTIVE_ACK_SLOTS
            && SELECTIVE_ACK_SLOTS + 2 * SELECTIVE_ACK_SLOT_LEN <= PUBLISHER_COUNTERS
    );
    assert!(PUBLISHER_COUNTERS + COUNTERS_LEN <= ACK_LEN);
    assert!(HEADER_LEN <= TAIL && HEADER_LEN <= HEAD);
    assert!(CAPACITY_MAX / RECORD_FRACTION < u32::MAX as u64);
};

/// The capacity in bytes that a wanted size gets: a multiple of the step, within the bounds.
pub(crate) fn capacity(wanted: u64) -> u64 {
    wanted.clamp(CAPACITY_MIN, CAPACITY_MAX).next_multiple_of(CAPACITY_STEP)
}

/// Whether a capacity read from a header is one that this build would have written.
pub(crate) fn capacity_is_valid(capacity: u64) -> bool {
    (CAPACITY_MIN..=CAPACITY_MAX).contains(&capacity) && capacity.is_multiple_of(CAPACITY_STEP)
}

/// Under which name a segment was made. Whoever can make another name for it, a hard link, makes no other ring by that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The generation's number.
    generation: u32,
    /// The checksum of the ring's name.
    ring: u32,
}

impl Place {
    pub(crate) fn new(ring: &str, generation: u32) -> Self {
        Self { generation, ring: checksum(ring.as_bytes()) }
    }

    fn encode(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[0..4].copy_from_slice(&self.generation.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.ring.to_ne_bytes());
        let sum = checksum(&bytes[..8]);
        bytes[8..].copy_from_slice(&sum.to_ne_bytes());
        bytes
    }

    /// What a header says of it, which may have been made before headers said so.
    pub(crate) fn decode(name: &str, bytes: &[u8; HEADER_LEN]) -> Result<Option<Self>, RingError> {
        let [generation, ring, sum] = [0, 4, 8].map(|at| u32_at(bytes, PLACE + at));
        match checksum(&bytes[PLACE..PLACE + 8]) == sum {
            true => Ok(Some(Self { generation, ring })),
            false if [generation, ring, sum] == [0; 3] => Ok(None),
            false => {
                Err(RingError::Corrupt { name: name.to_owned(), what: "the checksum of its name is wrong" })
            }
        }
    }
}

/// What identifies a segment; the first bytes of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) magic: [u8; 8],
    /// Unknown in what was made before headers said so.
    pub(crate) place: Option<Place>,
    pub(crate) capacity: u64,
    pub(crate) uuid: [u8; 16],
    pub(crate) boot_id: [u8; 16],
    /// Nanoseconds since the epoch.
    pub(crate) created_ns: u64,
}

impl Header {
    /// The header's bytes, its checksum last.
    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0x00..0x08].copy_from_slice(&self.magic);
        bytes[0x08..0x0c].copy_from_slice(&VERSION.to_ne_bytes());
        bytes[0x0c..0x10].copy_from_slice(&BYTE_ORDER.to_ne_bytes());
        bytes[0x10..0x18].copy_from_slice(&(RECORDS as u64).to_ne_bytes());
        bytes[0x18..0x20].copy_from_slice(&self.capacity.to_ne_bytes());
        bytes[0x20..0x30].copy_from_slice(&self.uuid);
        bytes[0x30..0x40].copy_from_slice(&self.boot_id);
        bytes[0x40..0x48].copy_from_slice(&self.created_ns.to_ne_bytes());
        let sum = checksum(&bytes[..HEADER_SUMMED]);
        bytes[HEADER_SUMMED..PLACE].copy_from_slice(&sum.to_ne_bytes());
        if let Some(place) = self.place {
            bytes[PLACE..].copy_from_slice(&place.encode());
        }
        bytes
    }

    /// The uuid in a header.
    pub(crate) fn uuid_of(bytes: &[u8; HEADER_LEN]) -> [u8; 16] {
        array_at(bytes, 0x20)
    }

    /// Reads a header that another process wrote.
    ///
    /// # Errors
    /// [`RingError::Corrupt`] unless it begins with `magic`, is in this machine's byte order and carries the
    /// right checksum; [`RingError::Version`] where its layout is another one.
    pub(crate) fn decode(name: &str, magic: [u8; 8], bytes: &[u8; HEADER_LEN]) -> Result<Self, RingError> {
        let corrupt = |what| RingError::Corrupt { name: name.to_owned(), what };
        if bytes[0x00..0x08] != magic {
            return Err(corrupt("its first bytes are not a bywash ring's"));
        }
        if u32_at(bytes, 0x0c) != BYTE_ORDER {
            return Err(corrupt("it was written in another byte order"));
        }
        let version = u32_at(bytes, 0x08);
        if version != VERSION {
            return Err(RingError::Version { name: name.to_owned(), found: version });
        }
        if checksum(&bytes[..HEADER_SUMMED]) != u32_at(bytes, HEADER_SUMMED) {
            return Err(corrupt("its header's checksum is wrong"));
        }
        if u64_at(bytes, 0x10) != RECORDS as u64 || !capacity_is_valid(u64_at(bytes, 0x18)) {
            return Err(corrupt("its header's sizes are impossible"));
        }
        Ok(Self {
            magic,
            place: Place::decode(name, bytes)?,
            capacity: u64_at(bytes, 0x18),
            uuid: array_at(bytes, 0x20),
            boot_id: array_at(bytes, 0x30),
            created_ns: u64_at(bytes, 0x40),
        })
    }
}

/// Bytes that are copied and checksummed at a time: few enough for the second-level cache to hold both, and enough for
/// the copy to run at full speed.
pub(crate) const CHUNK: usize = 128 << 10;

/// CRC-32C (RFC 3720, appendix B.4) of bytes that come in pieces.
pub(crate) struct Checksum(Digest);

impl Checksum {
    /// Of no bytes yet.
    pub(crate) fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    /// Goes on with more.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all of them.
    pub(crate) fn finish(&self) -> u32 {
        // The upper half of a 32-bit checksum is zero.
        (self.0.finalize() & u64::from(u32::MAX)) as u32
    }
}

/// CRC-32C of bytes that are all there; for a few of them, a third of the time.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// The bytes in front of each record's payload, as copied out of the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    /// Bytes of the header and the payload, or of the padding; at most the capacity.
    pub(crate) len: u32,
    pub(crate) kind: u8,
    pub(crate) seq: u64,
    /// CRC-32C of the payload, xor [`Self::mark`].
    pub(crate) crc: u32,
}

impl RecordHeader {
    /// What stands for the header's other fields in the checksum. It differs wherever one of them differs in one bit, or
    /// in any way by all but 1 in 2^32 chances; and costs less than running the checksum over them.
    pub(crate) fn mark(&self) -> u32 {
        let [a, b] = [self.seq as u32, (self.seq >> 32) as u32];
        a ^ b ^ self.len.wrapping_mul(0x9e37_79b1) ^ u32::from(self.kind).wrapping_mul(0x85eb_ca77)
    }

    /// All the header's bytes.
    pub(crate) fn encode(&self) -> [u8; RECORD_HEADER as usize] {
        let mut bytes = [0; RECORD_HEADER as usize];
        bytes[0..4].copy_from_slice(&self.len.to_ne_bytes());
        bytes[4] = self.kind;
        bytes[8..16].copy_from_slice(&self.seq.to_ne_bytes());
        bytes[16..20].copy_from_slice(&self.crc.to_ne_bytes());
        bytes
    }

    /// Takes a header apart; nothing in it is checked yet.
    pub(crate) fn decode(bytes: &[u8; RECORD_HEADER as usize]) -> Self {
        Self { len: u32_at(bytes, 0), kind: bytes[4], seq: u64_at(bytes, 8), crc: u32_at(bytes, 16) }
    }

    /// The first word of a padding of `len` bytes; a padding may be too short for a whole header.
    pub(crate) fn padding(len: u32) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        bytes[4] = super::kind::Kind::PADDING;
        bytes
    }
}

/// Takes a fixed number of bytes at a constant place; all callers pass arrays that are long enough.
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(array_at(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let place = Some(Place::new("r", 3));
        Header {
            magic: MAGIC_DATA,
            place,
            capacity: 64 << 10,
            uuid: [7; 16],
            boot_id: [9; 16],
            created_ns: 42,
        }
    }

    #[test]
    fn a_header_that_does_not_say_its_place_is_read_and_belongs_anywhere() {
        let old = Header { place: None, ..header() };
        assert_eq!(Header::decode("r", MAGIC_DATA, &old.encode()).ok(), Some(old));
    }

    #[test]
    fn a_header_is_read_back() {
        let read = Header::decode("r", MAGIC_DATA, &header().encode());
        assert_eq!(read.ok(), Some(header()));
    }

    #[test]
    fn a_header_with_any_bit_flipped_is_refused() {
        let good = header().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode("r", MAGIC_DATA, &bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn capacities_are_bounded_multiples_of_a_page() {
        assert_eq!(capacity(0), CAPACITY_MIN);
        assert_eq!(capacity(u64::MAX), CAPACITY_MAX);
        assert_eq!(capacity(1_000_000), 1_003_520);
        assert!(capacity_is_valid(capacity(1_000_000)));
        assert!(!capacity_is_valid(1_000_000));
    }
}
