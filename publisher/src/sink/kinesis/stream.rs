//! A stream that records are sent to, and how it is doing.

use std::{sync::Arc, time::Instant};

use super::{
    lanes::{Disposition, Entry, Lanes, Limits},
    retry::back_off,
    shard_rates::ShardRates,
    shards::Listing,
    slices::{Shard, Slices},
    trouble::{Failure, LogRates},
};

/// A stream, and how it is doing.
pub struct Stream {
    /// Its name.
    pub name: Arc<str>,
    /// What waits.
    pub lanes: Lanes,
    /// How fast its shards take records.
    pub shard_rates: ShardRates,
    /// When its shards are to be listed.
    pub listing: Listing,
    /// What the log has said about it.
    pub log_rates: LogRates,
    /// Requests on their way.
    pub requests: u32,
    /// Requests that failed as a whole, in a row.
    failures: u32,
    held_until: Option<Instant>,
}

/// The rates of the shards that `lanes` pack for, of which none has taken anything.
fn new_shard_rates(lanes: &Lanes) -> ShardRates {
    ShardRates::new(lanes.slices().count())
}

impl Stream {
    /// Without anything.
    pub fn new(name: Arc<str>, limits: Limits) -> Self {
        let lanes = Lanes::new(limits);
        Self {
            name,
            shard_rates: new_shard_rates(&lanes),
            lanes,
            listing: Listing::new(limits.aggregate, Instant::now()),
            log_rates: LogRates::new(),
            requests: 0,
            failures: 0,
            held_until: None,
        }
    }

    /// Whether a request may be made now. After a failure a single one finds out whether that is over.
    pub fn may_send(&self, now: Instant) -> bool {
        self.held_until.is_none_or(|until| until <= now) && (self.failures == 0 || self.requests == 0)
    }

    /// When a request may become due without an answer or a record coming in.
    pub fn next_due(&self) -> Option<Instant> {
        if self.failures > 0 && self.requests > 0 {
            return None;
        }
        self.lanes.next_due(self.requests == 0).map(|due| self.held_until.map_or(due, |until| until.max(due)))
    }

    /// A request failed as a whole.
    pub fn fail(&mut self, failure: &Failure, now: Instant) {
        self.log_rates.trouble(&self.name, failure.trouble, &failure.text);
        // Those that were on their way with one that failed before are no further failure.
        if self.held_until.is_none_or(|until| until <= now) {
            self.failures += 1;
            // Where credentials are to blame, all streams wait until those are read again, and no longer.
            if failure.trouble.is_of_credentials() {
                return;
            }
            self.held_until = Some(now + back_off(self.failures, failure.trouble.back_off_max()));
        }
    }

    /// What was out has come back.
    pub fn settle(&mut self, settled: Vec<(Entry, Disposition)>, now: Instant) {
        if self.lanes.settle(settled, now) {
            self.shard_rates = new_shard_rates(&self.lanes);
        }
    }

    /// Packs for these shards from now on.
    pub fn turn_to(&mut self, shards: &[Shard], now: Instant) {
        match Slices::of(shards) {
            Ok(slices) => {
                if self.lanes.cut(slices, now) {
                    self.shard_rates = new_shard_rates(&self.lanes);
                }
            }
            Err(error) => tracing::error!("Kinesis stream `{}`: {error}", self.name),
        }
    }

    /// A request succeeded; what of its records did shows by themselves.
    pub fn succeed(&mut self) {
        self.failures = 0;
        self.held_until = None;
    }
}
