//! Expiry of events that are older than `publisher.age_max` when they would be sent. One loss event announces a run of expired
//! events that follow one another.
//!
//! Invariant: that loss event is sent on the ticket of the run's first record. So the ring keeps the run until the loss event is
//! delivered. A publisher that ends before that leaves the run in the ring, and the next publisher expires the same run again,
//! under the same event id.

use std::time::Duration;

use bywash_common::{config::Config, units::Span};

use crate::{clock, delivery::Ticket};

/// What is too old, and what was given up and not told of.
#[derive(Default)]
pub struct Expired {
    /// None where nothing is.
    age_max: Option<Duration>,
    /// What time it is, in nanoseconds since the epoch, to within what the drain does between two looks: so all events of a record
    /// are judged alike.
    now_ns: u64,
    pub run: Option<Run>,
}

/// Events that follow one another.
pub struct Run {
    /// Of the record in which the first of them begins.
    pub ticket: Ticket,
    pub sequence: u64,
    pub begin: usize,
    pub events: u64,
    pub bytes: u64,
    pub first_ns: u64,
    pub last_ns: u64,
}

impl Expired {
    /// As the configuration has it.
    pub fn new(config: &Config) -> Self {
        let mut new = Self::default();
        new.reconfigure(config);
        new
    }

    /// Follows another configuration.
    pub fn reconfigure(&mut self, config: &Config) {
        let Span(age_max) = config.publisher.age_max;
        self.age_max = Some(age_max).filter(|age_max| !age_max.is_zero());
        self.look();
    }

    /// Looks what time it is.
    pub fn look(&mut self) {
        if self.age_max.is_some() {
            self.now_ns = clock::now_ns();
        }
    }

    /// Whether what was captured then is not sent any more.
    pub fn is(&self, time_ns: u64) -> bool {
        let age = Duration::from_nanos(self.now_ns.saturating_sub(time_ns));
        self.age_max.is_some_and(|age_max| age > age_max)
    }
}
