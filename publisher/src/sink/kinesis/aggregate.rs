//! The Kinesis Producer Library's format of many user records in one.
//!
//! Source: "Amazon Kinesis Producer Library: KPL aggregated record format" (`aggregation-format.md` of the library). All
//! numbers are protocol buffers' base-128 varints:
//!
//! ```text
//! magic     F3 89 9A C2
//! message   1: partition_key_table       repeated string
//!           2: explicit_hash_key_table   repeated string
//!           3: records                   repeated message
//!                1: partition_key_index       uint64
//!                2: explicit_hash_key_index   uint64, optional
//!                3: data                      bytes
//! digest    MD5 of the message, 16 bytes
//! ```
//!
//! The format has no place for an event's id that readers heed: it is in the event, where the encoder puts it there.

use std::collections::HashMap;

use md5::{Digest, Md5};

const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];
const DIGEST_BYTES: usize = 16;

const PARTITION_KEY_TABLE: u64 = 1;
const HASH_KEY_TABLE: u64 = 2;
const RECORDS: u64 = 3;
const PARTITION_KEY_INDEX: u64 = 1;
const HASH_KEY_INDEX: u64 = 2;
const DATA: u64 = 3;

const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const DELIMITED: u64 = 2;
const FIXED_32: u64 = 5;

/// One of the records that were packed together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRecord<'a> {
    /// Its partition key.
    pub partition_key: &'a str,
    /// Its data.
    pub data: &'a [u8],
}

/// Packs records that belong to one explicit hash key.
pub struct Packer {
    /// The partition keys, and the index of each in the table.
    keys: HashMap<String, u64>,
    key_table: Vec<u8>,
    hash_key: String,
    records: Vec<u8>,
}

impl Packer {
    /// An empty aggregate whose records carry `hash_key`: readers drop records that are not in their shard's range, and
    /// would reckon with the partition key's hash otherwise.
    pub fn new(hash_key: &str) -> Self {
        let hash_key = hash_key.to_owned();
        Self { keys: HashMap::new(), key_table: Vec::new(), hash_key, records: Vec::new() }
    }

    /// The bytes of the whole, were this record added; its partition key is one that is there already, or not.
    pub fn bytes_with(&self, partition_key: &str, data: &[u8]) -> usize {
        let known = self.keys.get(partition_key);
        let key_bytes = if known.is_some() { 0 } else { delimited_bytes(partition_key.len()) };
        let index = known.copied().unwrap_or(self.keys.len() as u64);
        self.bytes() + key_bytes + delimited_bytes(record_bytes(index, data.len()))
    }

    /// The bytes of the whole.
    pub fn bytes(&self) -> usize {
        let hash_key_bytes = delimited_bytes(self.hash_key.len());
        MAGIC.len() + self.key_table.len() + hash_key_bytes + self.records.len() + DIGEST_BYTES
    }

    /// Adds a record.
    pub fn add(&mut self, partition_key: &str, data: &[u8]) {
        let index = match self.keys.get(partition_key) {
            Some(index) => *index,
            None => {
                let index = self.keys.len() as u64;
                self.keys.insert(partition_key.to_owned(), index);
                push_delimited(PARTITION_KEY_TABLE, partition_key.as_bytes(), &mut self.key_table);
                index
            }
        };
        let out = &mut self.records;
        push_varint(RECORDS << 3 | DELIMITED, out);
        push_varint(record_bytes(index, data.len()) as u64, out);
        for (field, value) in [(PARTITION_KEY_INDEX, index), (HASH_KEY_INDEX, 0)] {
            push_varint(field << 3 | VARINT, out);
            push_varint(value, out);
        }
        push_delimited(DATA, data, out);
    }

    /// The aggregated record.
    pub fn finish(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.key_table);
        push_delimited(HASH_KEY_TABLE, self.hash_key.as_bytes(), &mut out);
        out.extend_from_slice(&self.records);
        let digest = Md5::digest(&out[MAGIC.len()..]);
        out.extend_from_slice(&digest);
        out
    }
}

/// The records in an aggregated one; none if it is not one, which is no error: data may begin with anything.
pub fn unpack(data: &[u8]) -> Option<Vec<UserRecord<'_>>> {
    let rest = data.strip_prefix(&MAGIC)?;
    let (message, digest) = rest.split_at_checked(rest.len().checked_sub(DIGEST_BYTES)?)?;
    if *Md5::digest(message) != *digest {
        return None;
    }
    let mut keys = Vec::new();
    let mut indexed = Vec::new();
    let mut fields = Fields(message);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (PARTITION_KEY_TABLE, Field::Bytes(key)) => keys.push(str::from_utf8(key).ok()?),
            (RECORDS, Field::Bytes(record)) => indexed.push(unpack_record(record)?),
            _ => {}
        }
    }
    let record = |(index, data): (u64, _)| {
        let partition_key = *keys.get(usize::try_from(index).ok()?)?;
        Some(UserRecord { partition_key, data })
    };
    indexed.into_iter().map(record).collect()
}

fn unpack_record(message: &[u8]) -> Option<(u64, &[u8])> {
    let (mut index, mut data) = (None, None);
    let mut fields = Fields(message);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (PARTITION_KEY_INDEX, Field::Number(number)) => index = Some(number),
            (DATA, Field::Bytes(bytes)) => data = Some(bytes),
            _ => {}
        }
    }
    Some((index?, data?))
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a kind that the format does not have.
    Other,
}

/// The fields of a protocol buffers message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The next field; `Some(None)` at the end, `None` if the message is damaged.
    #[allow(clippy::option_option)]
    fn next(&mut self) -> Option<Option<(u64, Field<'a>)>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            VARINT => Field::Number(self.varint()?),
            DELIMITED => {
                let len = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.bytes(len)?)
            }
            FIXED_64 => self.bytes(8).map(|_| Field::Other)?,
            FIXED_32 => self.bytes(4).map(|_| Field::Other)?,
            _ => return None,
        };
        Some(Some((tag >> 3, value)))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }
}

fn push_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn push_delimited(field: u64, bytes: &[u8], out: &mut Vec<u8>) {
    push_varint(field << 3 | DELIMITED, out);
    push_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// The bytes of a varint: one for each seven bits, and one for zero.
fn varint_bytes(value: u64) -> usize {
    (u64::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// The bytes of a delimited field of `len` bytes, tag and length included.
fn delimited_bytes(len: usize) -> usize {
    1 + varint_bytes(len as u64) + len
}

/// The bytes of a record's message.
fn record_bytes(index: u64, data_bytes: usize) -> usize {
    let numbers_bytes = 1 + varint_bytes(index) + 1 + varint_bytes(0);
    numbers_bytes + delimited_bytes(data_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn packed(records: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut packer = Packer::new("170141183460469231731687303715884105728");
        for (key, data) in records {
            let expected_bytes = packer.bytes_with(key, data);
            packer.add(key, data);
            assert_eq!(packer.bytes(), expected_bytes);
        }
        let expected_bytes = packer.bytes();
        let out = packer.finish();
        assert_eq!(out.len(), expected_bytes);
        out
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(records in vec(("[a-c]{1,2}", vec(any::<u8>(), 0..200)), 0..40)) {
            let out = packed(&records);
            let unpacked = unpack(&out).unwrap();
            let expected: Vec<_> = records.iter().map(|(key, data)| UserRecord { partition_key: key, data }).collect();
            prop_assert_eq!(unpacked, expected);
        }

        #[test]
        fn no_bytes_make_it_panic(mut data in vec(any::<u8>(), 0..100)) {
            unpack(&data);
            let digest = Md5::digest(&data);
            data.splice(0..0, MAGIC);
            data.extend_from_slice(&digest);
            unpack(&data);
        }
    }

    #[test]
    fn a_damaged_aggregate_is_data() {
        let mut out = packed(&[("k".to_owned(), b"data".to_vec())]);
        let last = out.len() - DIGEST_BYTES - 1;
        out[last] ^= 1;
        assert_eq!(unpack(&out), None);
        assert_eq!(unpack(b"data"), None);
        assert_eq!(unpack(&MAGIC), None);
    }
}
