//! How often, and how long, a supervisor starts an agent again that ends.

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

/// An agent that has served so long is no part of a row of failures.
const STEADY_TIME: Duration = Duration::from_secs(10);

/// The most ends within [`LIMIT_TIME`] after which the agent is still started again.
const ENDS_MAX: usize = 20;

/// As the unit's StartLimitIntervalSec=.
const LIMIT_TIME: Duration = Duration::from_secs(60);

/// What has happened so far.
#[derive(Debug, Default)]
pub struct Pace {
    /// When the agent last ended, the oldest at `next`.
    ends: [Option<Instant>; ENDS_MAX],
    next: usize,
    in_a_row: usize,
}

impl Pace {
    /// The agent has ended at `now`, after it has served since `ready`. Gives the wait until it is started again; none if it
    /// has ended too often.
    pub fn ended(&mut self, now: Instant, ready: Option<Instant>) -> Option<Duration> {
        if ready.is_some_and(|ready| now.saturating_duration_since(ready) >= STEADY_TIME) {
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
        let mut pace = Pace::default();
        let mut now = Instant::now();
        let waits: Vec<u128> = (0..8).map(|_| pace.ended(now, None).unwrap().as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 1600, 1600]);
        now += STEADY_TIME;
        assert_eq!(pace.ended(now, Some(now)), Some(Duration::from_millis(1600)), "ready, and gone at once");
        assert_eq!(pace.ended(now, Some(now - STEADY_TIME)), Some(Duration::ZERO));
    }

    #[test]
    fn an_agent_that_ends_again_and_again_is_given_up() {
        let mut pace = Pace::default();
        let begin = Instant::now();
        for _ in 0..ENDS_MAX {
            assert!(pace.ended(begin, Some(begin)).is_some());
        }
        assert_eq!(pace.ended(begin + LIMIT_TIME / 2, None), None);
        // One that ends now and then is not.
        let mut pace = Pace::default();
        for i in 0..100 {
            assert!(pace.ended(begin + LIMIT_TIME * i / 20, None).is_some(), "{i}");
        }
    }
}
