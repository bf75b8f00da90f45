//! How fast each shard takes records.

use std::{sync::Arc, time::Instant};

use super::{
    lanes::Lanes,
    record::SLICES,
    retry::{BACK_OFF_MAX, back_off},
};

/// What a request said of the records of one slice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    /// Some were taken.
    pub delivered: bool,
    /// Some were throttled.
    pub throttled: bool,
}

/// The pace of each shard of a stream.
///
/// Kinesis throttles shards, and names the shard of each record that it takes. So slices of the hash space that have
/// been seen in one shard are held together; one whose shard is not known yet is held by itself.
pub struct Paces {
    shards: [Option<Arc<str>>; SLICES],
    /// Throttled answers in a row.
    failures: [u32; SLICES],
}

impl Paces {
    /// Nothing is known.
    pub fn new() -> Self {
        Self { shards: [const { None }; SLICES], failures: [0; SLICES] }
    }

    /// A record of `slice` was put into `shard`.
    pub fn learn(&mut self, slice: usize, shard: &str) {
        if self.shards[slice].as_deref() == Some(shard) {
            return;
        }
        let known = self.shards.iter().flatten().find(|known| &***known == shard);
        self.shards[slice] = Some(known.cloned().unwrap_or_else(|| shard.into()));
    }

    /// Whether two slices are known to be in one shard.
    fn is_one_shard(&self, a: usize, b: usize) -> bool {
        a == b || self.shards[a].is_some() && self.shards[a] == self.shards[b]
    }

    /// Takes in what a request said, and holds the lanes of shards that take no more for now.
    pub fn heed(&mut self, said: &[Said; SLICES], lanes: &mut Lanes, now: Instant) {
        let mut is_done = [false; SLICES];
        for slice in 0..SLICES {
            if is_done[slice] || !(said[slice].delivered || said[slice].throttled) {
                continue;
            }
            let shard: Vec<usize> =
                (slice..SLICES).filter(|&other| self.is_one_shard(slice, other)).collect();
            let delivered = shard.iter().any(|&s| said[s].delivered);
            let throttled = shard.iter().any(|&s| said[s].throttled);
            // A shard that takes a part is full, not stuck: it is asked again soon.
            let failures = match (delivered, throttled) {
                (_, false) => 0,
                (true, true) => 1,
                (false, true) => self.failures[slice] + 1,
            };
            let until = throttled.then(|| now + back_off(failures, BACK_OFF_MAX));
            for &slice in &shard {
                is_done[slice] = true;
                self.failures[slice] = failures;
                lanes.hold(slice, until);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_seen_in_one_shard_are_one() {
        let mut paces = Paces::new();
        assert!(!paces.is_one_shard(1, 2));
        for slice in [1, 2] {
            paces.learn(slice, "a");
        }
        paces.learn(3, "b");
        assert!(paces.is_one_shard(1, 2) && !paces.is_one_shard(1, 3) && !paces.is_one_shard(3, 4));
        paces.learn(2, "b");
        assert!(paces.is_one_shard(2, 3) && !paces.is_one_shard(1, 2));
    }
}
