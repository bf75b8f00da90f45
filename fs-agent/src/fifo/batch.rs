//! From pieces of a stream to records in the ring, many under one commit and one wake-up of the publisher.

use bywash_common::{
    record::{Origin, Write},
    ring::{AgentRing, Kind, Weight},
};

use super::splitter::{Piece, Splitter};
use crate::state::journal::RecordId;

/// The most bytes of records under one commit, but for a single longer one: the writes of others wait until all are copied.
const BYTES_MAX: usize = 64 << 10;
/// The fraction of the ring that they are at most.
const RING_FRACTION: u64 = 8;
/// What a record has beside its payload, paddings included (see the ring's documentation).
const HEADER_BYTES: usize = 32;

/// Buffers for the records of one commit, kept so that a line needs no allocation.
#[derive(Default)]
pub struct Batch {
    lens: Vec<usize>,
    descriptions: Vec<u8>,
    /// Where in `descriptions` each ends.
    ends: Vec<usize>,
}

/// What a piece's record says beside the piece.
fn described<'a>(path: &'a [u8], time_ns: u64, piece: &Piece) -> Write<'a> {
    Write {
        path,
        pid: 0,
        uid: 0,
        gid: 0,
        time_ns,
        command: b"",
        offset: piece.offset,
        handle: 0,
        origin: Origin::Fifo,
        part: piece.part,
        parts: piece.parts,
    }
}

/// The longest piece from the FIFO at `path` that one record of a ring takes whose records have `payload_max` bytes.
pub fn piece_bytes_max(path: &[u8], payload_max: usize) -> usize {
    let widest = Piece { range: 0..0, offset: u64::MAX, part: u32::MAX, parts: u32::MAX };
    let mut description = Vec::new();
    described(path, u64::MAX, &widest).encode_into(&mut description);
    payload_max.saturating_sub(description.len()).max(1)
}

/// How much goes under one commit.
#[derive(Clone, Copy, Debug)]
pub struct Portion {
    /// Bytes of the records.
    bytes_max: usize,
    /// The most that a record has beside its piece.
    overhead: usize,
}

impl Portion {
    /// For records from the FIFO at `path` in a ring of `capacity` bytes.
    pub fn new(path: &[u8], capacity: u64) -> Self {
        let share = usize::try_from(capacity / RING_FRACTION).unwrap_or(usize::MAX);
        let overhead = usize::MAX - piece_bytes_max(path, usize::MAX) + HEADER_BYTES;
        Self { bytes_max: share.min(BYTES_MAX), overhead }
    }

    /// How many bytes the records of `pieces` have at most.
    pub fn cost(&self, pieces: &[Piece]) -> u64 {
        pieces.iter().map(|piece| (piece.range.len() + self.overhead) as u64).sum()
    }

    /// The same for `bytes` that are no piece yet, and become one, or two where they are a byte too many for one.
    pub fn cost_of_unfinished(&self, bytes: usize) -> u64 {
        if bytes == 0 { 0 } else { (bytes + 2 * self.overhead) as u64 }
    }

    /// What a byte that is to be read costs at most: it may end a line, and be a record of its own.
    pub fn cost_of_byte(&self) -> u64 {
        self.overhead as u64 + 1
    }

    /// Those of the first pieces that go under one commit, and how many bytes their records have at most.
    pub fn of<'p>(&self, pieces: &'p [Piece]) -> (&'p [Piece], usize) {
        let mut bytes = 0;
        for (i, piece) in pieces.iter().enumerate() {
            let with_this = bytes + piece.range.len() + self.overhead;
            if i > 0 && with_this > self.bytes_max {
                return (&pieces[..i], bytes);
            }
            bytes = with_this;
        }
        (pieces, bytes)
    }
}

impl Batch {
    /// Puts as many of the first `count` of `all` pieces into the ring as fit, and gives their number.
    pub fn push(
        &mut self,
        ring: &AgentRing,
        path: &[u8],
        time_ns: u64,
        splitter: &Splitter,
        (all, count): (&[Piece], usize),
    ) -> usize {
        let pieces = all.get(..count).unwrap_or(all);
        self.lens.clear();
        self.descriptions.clear();
        self.ends.clear();
        for piece in pieces {
            let begin = self.descriptions.len();
            described(path, time_ns, piece).encode_into(&mut self.descriptions);
            self.ends.push(self.descriptions.len());
            self.lens.push(self.descriptions.len() - begin + piece.range.len());
        }
        let weight = weight(pieces, time_ns);
        let Some(reservation) = ring.producer.reserve_some(&self.lens, weight) else { return 0 };
        let taken = reservation.records();
        let record = RecordId { ring: ring.uuid(), sequence: reservation.first_sequence() };
        splitter.note(all.get(taken), Some(record));
        let mut begin = 0;
        for (i, (piece, end)) in pieces.iter().zip(&self.ends).take(taken).enumerate() {
            reservation.write(i, Kind::Write, &[&self.descriptions[begin..*end], splitter.bytes(piece)]);
            begin = *end;
        }
        reservation.commit();
        taken
    }
}

/// What pieces weigh if they are lost.
pub fn weight(pieces: &[Piece], time_ns: u64) -> Weight {
    Weight { bytes: pieces.iter().map(|piece| piece.range.len() as u64).sum(), time_ns }
}
