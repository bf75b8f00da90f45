//! The slices of the hash space: what aggregation packs together, and what is paced together.
//!
//! Kinesis puts a record where its hash key falls: each open shard has a range of the hash space. Without knowledge of the
//! shards the space is cut into [`EQUAL_SLICES`] equal slices. With it, each shard's border is a cut as well, so that every shard
//! holds one slice at least, however many and however unequal the shards are.

use std::sync::Arc;

use super::record::hash;

/// The equal slices that there always are.
pub const EQUAL_SLICES: usize = 64;
const SLICE_BITS: u32 = EQUAL_SLICES.trailing_zeros();
/// The most shards of a stream that aggregation fills; a slice takes some 200 bytes, so that they take 7 MiB at most. Kinesis'
/// largest default quota is 20,000 shards for a whole account and region.
pub const SHARDS_MAX: usize = 32_768;

/// An open shard of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its id.
    pub id: String,
    /// The first hash key of its range; the next shard's first one ends the range.
    pub begin: u128,
}

/// A stream has more shards than [`SHARDS_MAX`].
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "it has more than {SHARDS_MAX} shards, the most that kinesis.aggregate fills: set it to false, or merge shards"
)]
pub struct TooManyShards;

/// The hash space, cut into slices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slices {
    /// The first hash key of each, ascending from 0.
    begins: Vec<u128>,
    /// The shard that each lies in, as far as that was listed.
    shards: Vec<Option<Arc<str>>>,
}

impl Slices {
    /// What is assumed of a stream whose shards nobody knows.
    pub fn equal() -> Self {
        let begins = (0..EQUAL_SLICES as u128).map(|slice| slice << (u128::BITS - SLICE_BITS)).collect();
        Self { begins, shards: vec![None; EQUAL_SLICES] }
    }

    /// With each of the open shards holding one at least.
    ///
    /// # Errors
    /// If there are more than [`SHARDS_MAX`].
    pub fn of(shards: &[Shard]) -> Result<Self, TooManyShards> {
        if shards.len() > SHARDS_MAX {
            return Err(TooManyShards);
        }
        let mut shards: Vec<(u128, Arc<str>)> =
            shards.iter().map(|shard| (shard.begin, shard.id.as_str().into())).collect();
        shards.sort();
        let mut begins = Self::equal().begins;
        begins.extend(shards.iter().map(|(begin, _)| begin));
        begins.sort_unstable();
        begins.dedup();
        let shard_of = |begin: &u128| {
            let after = shards.partition_point(|(first, _)| first <= begin);
            after.checked_sub(1).map(|index| Arc::clone(&shards[index].1))
        };
        let shards = begins.iter().map(shard_of).collect();
        Ok(Self { begins, shards })
    }

    /// How many there are; at least one.
    pub fn count(&self) -> usize {
        self.begins.len()
    }

    /// The slice that a partition key falls into, from 0.
    pub fn slice_of(&self, partition_key: &str) -> usize {
        let hash = hash(partition_key.as_bytes());
        // The first slice begins at 0.
        self.begins.partition_point(|begin| *begin <= hash).saturating_sub(1)
    }

    /// The shard that a slice lies in, as far as that is known.
    pub fn shard_of(&self, slice: usize) -> Option<&str> {
        self.shards.get(slice)?.as_deref()
    }

    /// The explicit hash keys that stand for the slices: the middle of each, so that it is in one shard for certain.
    pub fn hash_keys(&self) -> Vec<Arc<str>> {
        let ends = self.begins.iter().skip(1).map(|next| next - 1).chain([u128::MAX]);
        let middles = self.begins.iter().zip(ends).map(|(begin, end)| begin + (end - begin) / 2);
        middles.map(|middle| middle.to_string().into()).collect()
    }
}

/// That many shards of equal ranges.
#[cfg(test)]
pub fn equal_shards(count: usize) -> Vec<Shard> {
    let width = u128::MAX / count as u128;
    (0..count)
        .map(|n| Shard { id: format!("shardId-{n:012}"), begin: if n == 0 { 0 } else { width * n as u128 } })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_set, prelude::*};

    use super::*;

    #[test]
    fn a_slice_is_where_kinesis_puts_the_key() {
        let slices = Slices::equal();
        // MD5("a") begins with 0x0c, MD5("b") with 0x92.
        assert_eq!((slices.slice_of("a"), slices.slice_of("b")), (0x0c >> 2, 0x92 >> 2));
        let keys = slices.hash_keys();
        let middle: u128 = keys[EQUAL_SLICES - 1].parse().unwrap();
        assert_eq!(middle >> 122, EQUAL_SLICES as u128 - 1);
        assert_eq!(middle & ((1 << 122) - 1), (1 << 121) - 1);
    }

    #[test]
    fn more_shards_than_can_be_filled_are_refused() {
        assert!(Slices::of(&equal_shards(SHARDS_MAX)).is_ok());
        assert_eq!(Slices::of(&equal_shards(SHARDS_MAX + 1)), Err(TooManyShards));
    }

    proptest! {
        /// Whatever the borders of the shards: each shard holds the hash key of a slice, each slice's hash key lies in the
        /// shard that is said, and each key lies in its slice.
        #[test]
        fn every_shard_is_filled(borders in btree_set(any::<u128>(), 0..300), keys in btree_set("[a-z]{1,8}", 1..20)) {
            let borders: std::collections::BTreeSet<u128> = borders.into_iter().chain([0]).collect();
            let shards: Vec<Shard> =
                borders.iter().map(|&begin| Shard { id: format!("from {begin}"), begin }).collect();
            let slices = Slices::of(&shards).unwrap();
            let middles: Vec<u128> = slices.hash_keys().iter().map(|key| key.parse().unwrap()).collect();
            let shard_at = |hash: u128| borders.range(..=hash).next_back().unwrap();
            let filled: std::collections::BTreeSet<u128> = middles.iter().map(|m| *shard_at(*m)).collect();
            prop_assert_eq!(&filled, &borders);
            for (slice, middle) in middles.iter().enumerate() {
                let expected = format!("from {}", shard_at(*middle));
                prop_assert_eq!(slices.shard_of(slice), Some(expected.as_str()));
            }
            for key in keys {
                let (slice, hash) = (slices.slice_of(&key), hash(key.as_bytes()));
                let end = slices.begins.get(slice + 1).map_or(u128::MAX, |next| next - 1);
                prop_assert!((slices.begins[slice]..=end).contains(&hash));
            }
        }
    }
}
