//! A circuit breaker for each of a sink's topics or streams: it opens when an error that only an operator can mend lasts.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bywash_common::config::FailedConfig;

use crate::clock;

/// Circuit breakers by stream (a Kafka topic, a Kinesis stream).
///
/// A breaker opens once a stream has failed for `failed.give_up_after` without a delivery in between. While it is open, the
/// stream's messages become dead letters, so that the messages of other streams go on. Every `failed.retry_interval` one
/// message is sent as a probe. A delivery closes the breaker.
#[derive(Debug)]
pub struct CircuitBreaker {
    give_up_after: Duration,
    probe_interval: Duration,
    failing: HashMap<String, Failing>,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    /// The first failure since the last delivery.
    since: Instant,
    /// When the stream was last probed. None while the breaker is closed.
    probed: Option<Instant>,
}

impl CircuitBreaker {
    /// Breakers with the times of `config`, all closed.
    pub fn new(config: &FailedConfig) -> Self {
        Self {
            give_up_after: config.give_up_after.0,
            probe_interval: config.retry_interval.0,
            failing: HashMap::new(),
        }
    }

    /// A message of the stream has failed for a reason that an operator can mend. Returns whether the breaker is open: the
    /// message shall then become a dead letter.
    pub fn record_failure(&mut self, stream: &str) -> bool {
        let now = clock::now();
        let failing = Failing { since: now, probed: None };
        self.failing.entry(stream.to_owned()).or_insert(failing);
        self.is_open(stream)
    }

    /// Whether a message of the stream that has failed, and waits for its next attempt, shall become a dead letter now.
    pub fn is_open(&mut self, stream: &str) -> bool {
        let Some(failing) = self.failing.get_mut(stream) else { return false };
        let is_open = clock::now().duration_since(failing.since) >= self.give_up_after;
        if is_open && failing.probed.is_none() {
            failing.probed = Some(clock::now());
        }
        is_open
    }

    /// Whether a new message of the stream shall become a dead letter unsent. If the breaker is open and the result is false,
    /// the message is the probe.
    pub fn rejects(&mut self, stream: &str) -> bool {
        let Some(failing) = self.failing.get_mut(stream) else { return false };
        let Some(probed) = &mut failing.probed else { return false };
        if clock::now().duration_since(*probed) < self.probe_interval {
            return true;
        }
        *probed = clock::now();
        false
    }

    /// A message of the stream was delivered: its breaker closes.
    pub fn record_success(&mut self, stream: &str) {
        self.failing.remove(stream);
    }

    /// Whether no stream has failed since its last delivery.
    pub fn has_no_failures(&self) -> bool {
        self.failing.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use bywash_common::units::Span;

    use super::*;

    fn circuit_breaker(give_up_after: Duration, retry_interval: Duration) -> CircuitBreaker {
        let (give_up_after, retry_interval) = (Span(give_up_after), Span(retry_interval));
        CircuitBreaker::new(&FailedConfig { give_up_after, retry_interval, ..FailedConfig::default() })
    }

    #[test]
    fn a_stream_is_given_up_after_its_time_and_the_others_are_not() {
        let mut circuit_breaker = circuit_breaker(Duration::ZERO, Duration::from_secs(3600));
        assert!(
            !circuit_breaker.is_open("t")
                && !circuit_breaker.rejects("t")
                && circuit_breaker.has_no_failures()
        );
        assert!(circuit_breaker.record_failure("t"));
        assert!(circuit_breaker.rejects("t") && !circuit_breaker.rejects("u"));
        circuit_breaker.record_success("t");
        assert!(!circuit_breaker.rejects("t") && circuit_breaker.has_no_failures());
    }

    #[test]
    fn before_its_time_it_waits() {
        let mut circuit_breaker = circuit_breaker(Duration::from_secs(3600), Duration::from_secs(3600));
        assert!(
            !circuit_breaker.record_failure("t")
                && !circuit_breaker.record_failure("t")
                && !circuit_breaker.is_open("t")
        );
        assert!(!circuit_breaker.rejects("t") && !circuit_breaker.has_no_failures());
    }

    #[test]
    fn now_and_then_a_message_tries_again() {
        let mut circuit_breaker = circuit_breaker(Duration::ZERO, Duration::ZERO);
        assert!(circuit_breaker.record_failure("t"));
        assert!(!circuit_breaker.rejects("t"));
    }
}
