//! How fast each shard takes records.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use super::{
    lanes::Lanes,
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
pub struct ShardRates {
    slices: Vec<Slice>,
    /// The number of each shard that was seen.
    shards: HashMap<Arc<str>, usize>,
}

#[derive(Clone, Default)]
struct Slice {
    /// The number of the shard that it was seen in last.
    shard: Option<usize>,
    /// Throttled answers in a row.
    failures: u32,
}

/// What is held together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Group {
    Shard(usize),
    Slice(usize),
}

/// What a request said of a group, and the throttled answers in a row before it.
#[derive(Default)]
struct Heard {
    said: Said,
    failures: u32,
}

/// What follows for a group.
struct Verdict {
    failures: u32,
    held_until: Option<Instant>,
}

impl ShardRates {
    /// Nothing is known of that many slices.
    pub fn new(slices: usize) -> Self {
        Self { slices: vec![Slice::default(); slices], shards: HashMap::new() }
    }

    /// A record of `slice` was put into `shard`.
    pub fn learn(&mut self, slice: usize, shard: &str) {
        let Some(slice) = self.slices.get_mut(slice) else { return };
        let next = self.shards.len();
        let number = match self.shards.get(shard) {
            Some(number) => *number,
            None => *self.shards.entry(shard.into()).or_insert(next),
        };
        slice.shard = Some(number);
    }

    fn group(&self, slice: usize) -> Group {
        self.slices.get(slice).and_then(|slice| slice.shard).map_or(Group::Slice(slice), Group::Shard)
    }

    /// Takes in what a request said of each slice that it had records of, and holds the lanes of shards that take no more for
    /// now.
    pub fn heed(&mut self, said: &BTreeMap<usize, Said>, lanes: &mut Lanes, now: Instant) {
        let mut heard: HashMap<Group, Heard> = HashMap::new();
        for (&slice, said) in said {
            let group = heard.entry(self.group(slice)).or_default();
            group.said.delivered |= said.delivered;
            group.said.throttled |= said.throttled;
            group.failures = group.failures.max(self.slices.get(slice).map_or(0, |slice| slice.failures));
        }
        let verdict = |heard: Heard| {
            // A shard that takes a part is full, not stuck: it is asked again soon.
            let failures = match (heard.said.delivered, heard.said.throttled) {
                (_, false) => 0,
                (true, true) => 1,
                (false, true) => heard.failures + 1,
            };
            let held_until = heard.said.throttled.then(|| now + back_off(failures, BACK_OFF_MAX));
            Verdict { failures, held_until }
        };
        let verdicts: HashMap<_, _> =
            heard.into_iter().map(|(group, heard)| (group, verdict(heard))).collect();
        for slice in 0..self.slices.len() {
            if let Some(Verdict { failures, held_until }) = verdicts.get(&self.group(slice)) {
                self.slices[slice].failures = *failures;
                lanes.hold(slice, *held_until);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_seen_in_one_shard_are_one() {
        let mut shard_rates = ShardRates::new(5);
        assert_ne!(shard_rates.group(1), shard_rates.group(2));
        for slice in [1, 2] {
            shard_rates.learn(slice, "a");
        }
        shard_rates.learn(3, "b");
        assert_eq!(shard_rates.group(1), shard_rates.group(2));
        assert!(shard_rates.group(1) != shard_rates.group(3) && shard_rates.group(3) != shard_rates.group(4));
        shard_rates.learn(2, "b");
        assert!(shard_rates.group(2) == shard_rates.group(3) && shard_rates.group(1) != shard_rates.group(2));
    }
}
