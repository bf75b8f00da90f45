//! How long a sink waits for what only an operator can mend.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bywash_common::config::FailedConfig;

use crate::clock;

/// Which of the sink's streams (topics, or the like) take nothing, and which of them have been given up: their messages
/// become dead letters, so that those of other streams go on. Now and then one message tries whether that still holds.
#[derive(Debug)]
pub struct Patience {
    give_up_after: Duration,
    probe_interval: Duration,
    troubled: HashMap<String, Trouble>,
}

#[derive(Clone, Copy, Debug)]
struct Trouble {
    /// The first failure since the last delivery.
    since: Instant,
    /// When the stream was last tried after it was given up.
    probed: Option<Instant>,
}

impl Patience {
    /// Patience as configured.
    pub fn new(config: &FailedConfig) -> Self {
        Self {
            give_up_after: config.give_up_after.0,
            probe_interval: config.retry_interval.0,
            troubled: HashMap::new(),
        }
    }

    /// A message of the stream has failed for a reason that an operator can mend. Gives whether waiting is over, so that
    /// the message shall be refused.
    pub fn failed(&mut self, stream: &str) -> bool {
        let now = clock::now();
        let trouble = Trouble { since: now, probed: None };
        self.troubled.entry(stream.to_owned()).or_insert(trouble);
        self.is_over(stream)
    }

    /// Whether a message of the stream that has failed, and waits, shall be refused now.
    pub fn is_over(&mut self, stream: &str) -> bool {
        let Some(trouble) = self.troubled.get_mut(stream) else { return false };
        let is_over = clock::now().duration_since(trouble.since) >= self.give_up_after;
        if is_over && trouble.probed.is_none() {
            trouble.probed = Some(clock::now());
        }
        is_over
    }

    /// Whether a new message of the stream shall be refused unsent. Where not, it is the one that tries again.
    pub fn refuses(&mut self, stream: &str) -> bool {
        let Some(trouble) = self.troubled.get_mut(stream) else { return false };
        let Some(probed) = &mut trouble.probed else { return false };
        if clock::now().duration_since(*probed) < self.probe_interval {
            return true;
        }
        *probed = clock::now();
        false
    }

    /// A message of the stream was delivered: all is well with it.
    pub fn delivered(&mut self, stream: &str) {
        self.troubled.remove(stream);
    }

    /// Whether all is well with all streams.
    pub fn is_calm(&self) -> bool {
        self.troubled.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use bywash_common::units::Span;

    use super::*;

    fn patience(give_up_after: Duration, retry_interval: Duration) -> Patience {
        let (give_up_after, retry_interval) = (Span(give_up_after), Span(retry_interval));
        Patience::new(&FailedConfig { give_up_after, retry_interval, ..FailedConfig::default() })
    }

    #[test]
    fn a_stream_is_given_up_after_its_time_and_the_others_are_not() {
        let mut patience = patience(Duration::ZERO, Duration::from_secs(3600));
        assert!(!patience.is_over("t") && !patience.refuses("t") && patience.is_calm());
        assert!(patience.failed("t"));
        assert!(patience.refuses("t") && !patience.refuses("u"));
        patience.delivered("t");
        assert!(!patience.refuses("t") && patience.is_calm());
    }

    #[test]
    fn before_its_time_it_waits() {
        let mut patience = patience(Duration::from_secs(3600), Duration::from_secs(3600));
        assert!(!patience.failed("t") && !patience.failed("t") && !patience.is_over("t"));
        assert!(!patience.refuses("t") && !patience.is_calm());
    }

    #[test]
    fn now_and_then_a_message_tries_again() {
        let mut patience = patience(Duration::ZERO, Duration::ZERO);
        assert!(patience.failed("t"));
        assert!(!patience.refuses("t"));
    }
}
