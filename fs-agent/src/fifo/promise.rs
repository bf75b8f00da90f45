//! Room in the ring for what was read and is not in it yet.
//!
//! Whoever reads from a pipe whose writers may wait takes bytes out of the one place where they are safe. Before that the
//! reader has room in the ring promised, as much as the records can take at worst, so that all readers together never
//! hold more than the ring has room for, however short the lines are.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// What all readers of one ring were promised, in bytes.
#[derive(Clone, Debug, Default)]
pub struct Promises(Arc<Totals>);

#[derive(Debug, Default)]
struct Totals {
    promised: AtomicU64,
    /// What of it is for bytes that were read. The rest is for reads that are being made, and comes back by itself.
    held: AtomicU64,
}

/// What one stream was promised. Dropped, it is given back.
#[derive(Debug)]
pub struct Promise {
    all: Promises,
    bytes: u64,
    /// What of it is for bytes that were read.
    held: u64,
}

impl Promises {
    /// A promise of nothing.
    pub fn none(&self) -> Promise {
        Promise { all: self.clone(), bytes: 0, held: 0 }
    }

    /// What is promised for bytes that were read.
    pub fn held(&self) -> u64 {
        self.0.held.load(Ordering::Relaxed)
    }
}

impl Promise {
    /// Promises room for `wanted` units of `unit` bytes each, or for fewer, but for `least` of them: of `free` bytes, less
    /// what others were promised. Gives for how many.
    pub fn grow(&mut self, free: u64, unit: u64, least: u64, wanted: u64) -> Option<u64> {
        let unit = unit.max(1);
        let mut units = 0;
        let promised = self.all.0.promised.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |promised| {
            units = (free.saturating_sub(promised) / unit).min(wanted);
            (units >= least.max(1)).then(|| promised + units * unit)
        });
        promised.ok()?;
        self.bytes += units * unit;
        Some(units)
    }

    /// Promises room for `bytes` more, whether there is any or not.
    pub fn force(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.all.0.promised.fetch_add(bytes, Ordering::Relaxed);
    }

    /// From now on it is so many bytes, for what was read.
    pub fn set(&mut self, bytes: u64) {
        let totals = &self.all.0;
        for (total, before) in [(&totals.promised, &mut self.bytes), (&totals.held, &mut self.held)] {
            let before = std::mem::replace(before, bytes);
            if bytes >= before {
                total.fetch_add(bytes - before, Ordering::Relaxed);
            } else {
                total.fetch_sub(before - bytes, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_more_is_promised_than_is_free_and_all_of_it_comes_back(
            steps in prop::collection::vec((0..4usize, 0..2_000u64, 1..200u64, 0..20u64, 0..50u64), 1..100),
        ) {
            let promises = Promises::default();
            let mut streams: Vec<Promise> = (0..4).map(|_| promises.none()).collect();
            for (stream, free, unit, least, wanted) in steps {
                let before: u64 = streams.iter().map(|promise| promise.bytes).sum();
                match streams[stream].grow(free, unit, least, wanted) {
                    Some(units) => {
                        prop_assert!(units >= least.max(1) && units <= wanted);
                        prop_assert!(before + units * unit <= free);
                        let shrunk = streams[stream].bytes / 2;
                        streams[stream].set(shrunk);
                    }
                    None => prop_assert!((free.saturating_sub(before) / unit).min(wanted) < least.max(1)),
                }
                let sum: u64 = streams.iter().map(|promise| promise.bytes).sum();
                prop_assert_eq!(promises.0.promised.load(Ordering::Relaxed), sum);
            }
            drop(streams);
            prop_assert_eq!(promises.0.promised.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn room_for_a_read_that_is_being_made_is_not_held() {
        let promises = Promises::default();
        let (mut reading, mut waiting) = (promises.none(), promises.none());
        assert_eq!(reading.grow(100, 1, 1, 100), Some(100));
        assert_eq!((waiting.grow(100, 1, 1, 1), promises.held()), (None, 0));
        reading.set(30);
        assert_eq!((waiting.grow(100, 1, 1, 70), promises.held()), (Some(70), 30));
        drop(reading);
        assert_eq!(promises.held(), 0);
    }
}
