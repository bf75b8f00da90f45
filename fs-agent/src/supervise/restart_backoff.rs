//! The supervisor's restart policy: the back-off between two starts of the agent, and the limit of starts in a time.

use std::time::{Duration, Instant};

/// The waits before the agent is started again, one after the other; the last one repeats.
const WAITS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
];

/// The most ends within [`LIMIT_TIME`] after which the agent is still started again: as the unit's StartLimitBurst=.
const ENDS_MAX: usize = 200;

/// As the unit's StartLimitIntervalSec=.
const LIMIT_TIME: Duration = Duration::from_secs(60);

/// What has happened so far.
#[derive(Debug)]
pub struct RestartBackoff {
    /// When the agent last ended, the oldest at `next`.
    ends: [Option<Instant>; ENDS_MAX],
    next: usize,
    in_a_row: usize,
}

impl Default for RestartBackoff {
    fn default() -> Self {
        Self { ends: [None; ENDS_MAX], next: 0, in_a_row: 0 }
    }
}

impl RestartBackoff {
    /// The agent has ended at `now`; it has served before if it `was_ready`. Gives the wait until it is started again; none if it
    /// has ended too often. Callers wait for one that has served: it is started again at once.
    pub fn ended(&mut self, now: Instant, was_ready: bool) -> Option<Duration> {
        if was_ready {
            self.in_a_row = 0;
        }
        let oldest = self.ends[self.next].replace(now);
        self.next = (self.next + 1) % ENDS_MAX;
        let wait = WAITS[self.in_a_row.min(WAITS.len() - 1)];
        self.in_a_row += 1;
        let too_often = oldest.is_some_and(|oldest| now.saturating_duration_since(oldest) < LIMIT_TIME);
        (!too_often).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_begin_anew_after_an_agent_that_has_served() {
        let mut restart_backoff = RestartBackoff::default();
        let now = Instant::now();
        let waits: Vec<u128> =
            (0..8).map(|_| restart_backoff.ended(now, false).unwrap().as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 1600, 1600]);
        assert_eq!(restart_backoff.ended(now, true), Some(Duration::ZERO));
        assert_eq!(restart_backoff.ended(now, false), Some(Duration::from_millis(100)));
    }

    #[test]
    fn an_agent_that_ends_again_and_again_is_given_up() {
        let mut restart_backoff = RestartBackoff::default();
        let begin = Instant::now();
        for _ in 0..ENDS_MAX {
            assert!(restart_backoff.ended(begin, true).is_some());
        }
        assert_eq!(restart_backoff.ended(begin + LIMIT_TIME / 2, false), None);
        // One that ends now and then is not.
        let mut restart_backoff = RestartBackoff::default();
        for i in 0..1000 {
            assert!(restart_backoff.ended(begin + LIMIT_TIME * i / 200, false).is_some(), "{i}");
        }
    }
}
