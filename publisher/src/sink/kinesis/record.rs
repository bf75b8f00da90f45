//! A message as Kinesis knows it: a partition key and data.

use std::time::Instant;

use bywash_common::config::PARTITION_KEY_CHARS_MAX;
use md5::{Digest, Md5};

use crate::delivery::{EVENT_ID_BYTES_MAX, EventId, Message, Ticket};

/// The most bytes of a partition key: its characters take up to four.
const KEY_BYTES_MAX: usize = PARTITION_KEY_CHARS_MAX * 4;

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which record of the ring it belongs to.
    pub ticket: Ticket,
    /// Its partition key.
    pub partition_key: String,
    /// The encoded event.
    pub data: Vec<u8>,
    /// The event's id.
    pub id: EventId,
    /// When what it tells of happened, in milliseconds since the epoch.
    pub time_ms: u64,
    /// When the sink took it.
    pub arrived: Instant,
    /// How many arrived before it, and one; its lanes count.
    pub arrival: u64,
    /// Its request was rejected: whether it is at fault shows when it is sent alone.
    pub alone: bool,
}

impl Record {
    /// The bytes that count against Kinesis' limits.
    pub fn bytes(&self) -> usize {
        self.partition_key.len() + self.data.len()
    }
}

/// The partition key of a message: its key if Kinesis can have that, the key's MD5 in hexadecimal digits if not (256
/// characters of UTF-8 are the limit, and a path may be longer and is any bytes). A message without a key has its event
/// id: spread as evenly as chance, and the same whenever it is sent.
pub fn partition_key(message: &Message<'_>) -> String {
    let Some(key) = message.key.filter(|key| !key.is_empty()) else { return message.event_id.to_owned() };
    match str::from_utf8(key) {
        Ok(text) if text.len() <= PARTITION_KEY_CHARS_MAX => text.to_owned(),
        Ok(text) if text.chars().count() <= PARTITION_KEY_CHARS_MAX => text.to_owned(),
        _ => format!("{:032x}", hash(key)),
    }
}

/// The most bytes that the partition key of a message with a key of `key_bytes` takes. An event's id stands in where there is none.
pub fn partition_key_bytes_max(key_bytes: usize) -> usize {
    key_bytes.clamp(EVENT_ID_BYTES_MAX, KEY_BYTES_MAX)
}

/// Where Kinesis puts a partition key: its MD5, as a number (API reference, `PutRecord`).
pub fn hash(key: &[u8]) -> u128 {
    u128::from_be_bytes(Md5::digest(key).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::testing;

    fn key_of(key: Option<&[u8]>) -> String {
        partition_key(&Message {
            topic: "s",
            key,
            payload: b"x",
            id: testing::id(1),
            event_id: testing::ID_1,
            time_ms: 0,
            is_dead_letter: false,
            failure: None,
        })
    }

    #[test]
    fn a_key_is_kept_as_far_as_kinesis_can_have_it() {
        assert_eq!(key_of(Some(b"/var/log/a")), "/var/log/a");
        assert_eq!(key_of(Some("ü".repeat(256).as_bytes())), "ü".repeat(256));
        assert_eq!(key_of(None), testing::ID_1);
        assert_eq!(key_of(Some(b"")), testing::ID_1);
    }

    #[test]
    fn other_keys_become_their_md5() {
        assert_eq!(key_of(Some(b"/\xff")).len(), 32);
        let long = "x".repeat(257);
        assert_eq!(key_of(Some(long.as_bytes())), format!("{:032x}", hash(long.as_bytes())));
    }

    #[test]
    fn no_key_takes_more_than_is_reckoned_with() {
        for key in [&b""[..], b"/f", &[0xff; 3000], "ü".repeat(256).as_bytes(), "x".repeat(5000).as_bytes()]
        {
            assert!(key_of(Some(key)).len() <= partition_key_bytes_max(key.len()));
        }
    }
}
