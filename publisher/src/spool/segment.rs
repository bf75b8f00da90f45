//! The bytes of a segment; the layout is in the module's documentation.

use bywash_common::ring::Kind;
use crc_fast::{CrcAlgorithm, Digest, checksum};
use uuid::Uuid;

/// Where records begin.
pub const HEADER_BYTES: usize = 64;
/// Bytes of a record in front of its payload.
pub const RECORD_HEADER_BYTES: usize = 32;
/// Records begin at multiples of this.
pub const ALIGN: usize = 8;

const MAGIC: [u8; 8] = *b"BYWASHS\0";
const VERSION: u32 = 1;
const MARK: [u8; 4] = *b"SPOL";
/// Castagnoli's polynomial, as in the ring.
const CRC: CrcAlgorithm = CrcAlgorithm::Crc32Iscsi;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The ring whose records these are.
    pub uuid: Uuid,
    /// The segment's number.
    pub number: u64,
    /// When it was made, in nanoseconds since the epoch.
    pub created_ns: u64,
}

/// Why a header cannot be read.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum HeaderError {
    /// It is of another version.
    #[error(
        "it is of layout version {0}, this program is of version {VERSION}: run the publisher of the version that wrote it until it is delivered"
    )]
    Version(u32),
    /// It is no header.
    #[error("its header is damaged")]
    Damaged,
}

/// A record in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What the payload is.
    pub kind: Kind,
    /// The record's number in its ring.
    pub seq: u64,
    /// Where it ended in its ring.
    pub end: u64,
    /// As it was in the ring.
    pub payload: &'a [u8],
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn crc(bytes: &[u8]) -> u32 {
    // The algorithm has 32 bits.
    checksum(CRC, bytes) as u32
}

impl Header {
    /// As bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(self.uuid.as_bytes());
        bytes[32..40].copy_from_slice(&self.number.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.created_ns.to_le_bytes());
        let crc = crc(&bytes[..56]);
        bytes[56..60].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// From the beginning of a segment.
    ///
    /// # Errors
    /// A [`HeaderError`] if it is none of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let read = || {
            let header = bytes.get(..HEADER_BYTES)?;
            let is_whole = header[..8] == MAGIC && half(header, 56)? == crc(&header[..56]);
            let uuid = Uuid::from_slice(&header[16..32]).ok()?;
            let found =
                (half(header, 8)?, Self { uuid, number: word(header, 32)?, created_ns: word(header, 40)? });
            is_whole.then_some(found)
        };
        match read() {
            Some((VERSION, header)) => Ok(header),
            Some((version, _)) => Err(HeaderError::Version(version)),
            None => Err(HeaderError::Damaged),
        }
    }
}

/// Bytes of a record with a payload of `payload_bytes`.
pub fn record_bytes(payload_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(ALIGN)
}

fn record_crc(header: &[u8], payload: &[u8]) -> u32 {
    let mut digest = Digest::new(CRC);
    digest.update(&header[..12]);
    digest.update(&header[16..RECORD_HEADER_BYTES]);
    digest.update(payload);
    digest.finalize() as u32
}

/// Appends a record. Its payload is shorter than 4 GiB, as every record of a ring is.
pub fn push(record: &Record<'_>, out: &mut Vec<u8>) {
    let mut header = [0; RECORD_HEADER_BYTES];
    header[..4].copy_from_slice(&MARK);
    let len = u32::try_from(record.payload.len()).unwrap_or(u32::MAX);
    header[4..8].copy_from_slice(&len.to_le_bytes());
    header[8] = record.kind as u8;
    header[16..24].copy_from_slice(&record.seq.to_le_bytes());
    header[24..32].copy_from_slice(&record.end.to_le_bytes());
    let crc = record_crc(&header, record.payload);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(record.payload);
    out.resize(out.len().next_multiple_of(ALIGN), 0);
}

/// The record at the beginning of the bytes, if a good one is there.
pub fn parse(bytes: &[u8]) -> Option<Record<'_>> {
    let header = bytes.get(..RECORD_HEADER_BYTES)?;
    if header[..4] != MARK {
        return None;
    }
    let len = usize::try_from(half(header, 4)?).ok()?;
    let payload = bytes.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES.checked_add(len)?)?;
    let kind = Kind::from_byte(header[8])?;
    let is_whole = half(header, 12)? == record_crc(header, payload);
    is_whole.then_some(Record { kind, seq: word(header, 16)?, end: word(header, 24)?, payload })
}

/// The next good record, and where it begins: at a multiple of [`ALIGN`], `from` or later.
pub fn next(bytes: &[u8], from: usize) -> Option<(usize, Record<'_>)> {
    (from..bytes.len()).step_by(ALIGN).find_map(|at| Some((at, parse(&bytes[at..])?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_is_read_back_from_behind_any_bytes(
            garbage: Vec<u8>, payload: Vec<u8>, seq: u64, end: u64,
        ) {
            let record = Record { kind: Kind::Write, seq, end, payload: &payload };
            let mut bytes = garbage;
            bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
            let at = bytes.len();
            push(&record, &mut bytes);
            prop_assert_eq!(next(&bytes, 0), Some((at, record)));
            prop_assert_eq!(parse(&bytes[at..]), Some(record));
            prop_assert_eq!(bytes.len() - at, record_bytes(payload.len()));
        }

        #[test]
        fn any_bytes_are_a_record_or_none(bytes: Vec<u8>) {
            let _ = (parse(&bytes), next(&bytes, 0), Header::decode(&bytes));
        }

        #[test]
        fn a_changed_byte_is_noticed(payload in prop::collection::vec(any::<u8>(), 1..50), place: usize, change in 1_u8..) {
            let mut bytes = Vec::new();
            push(&Record { kind: Kind::Lost, seq: 3, end: 64, payload: &payload }, &mut bytes);
            // The filling and the three bytes behind the kind mean nothing; the latter are checked all the same.
            let place = place % (RECORD_HEADER_BYTES + payload.len());
            bytes[place] ^= change;
            prop_assert_eq!(parse(&bytes), None);
        }
    }

    #[test]
    fn a_header_is_read_back_and_another_version_is_named() {
        let header = Header { uuid: Uuid::from_u128(7), number: 3, created_ns: 4 };
        let mut bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        bytes[40] ^= 1;
        assert_eq!(Header::decode(&bytes), Err(HeaderError::Damaged));
        let mut bytes = header.encode();
        bytes[8] = 9;
        let crc = crc(&bytes[..56]);
        bytes[56..60].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Header::decode(&bytes), Err(HeaderError::Version(9)));
    }
}
