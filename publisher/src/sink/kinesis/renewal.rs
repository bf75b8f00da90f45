//! When credentials that were refused are read again.
//!
//! The SDK reads a profile's file once, and keeps what it has read for as long as the client lives: what was renewed
//! outside is found by a new client alone.

use std::time::Instant;

use super::retry::{RENEWAL_BACK_OFF_MAX, back_off};

/// Which client of a service made a request: the number of those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generation(u64);

/// Whether the client in use is to be replaced.
#[derive(Debug, Default)]
pub struct Renewal {
    generation: Generation,
    /// Clients in a row whose credentials were refused.
    failures: u32,
    due: Option<Instant>,
}

impl Renewal {
    /// The client in use.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// When the credentials are to be read again; none while nothing is known against them.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The credentials of a client were refused. What a former client's request says is no news.
    pub fn refused(&mut self, by: Generation, now: Instant) {
        if by == self.generation && self.due.is_none() {
            self.put_off(now);
        }
    }

    /// No client could be made of what was read.
    pub fn put_off(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.due = Some(now + back_off(self.failures, RENEWAL_BACK_OFF_MAX));
    }

    /// Another client is in use.
    pub fn renewed(&mut self) {
        self.generation.0 += 1;
        self.due = None;
    }

    /// The credentials of a client were good.
    pub fn accepted(&mut self, by: Generation) {
        if by == self.generation {
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_is_replaced_once_and_those_before_it_count_for_nothing() {
        let (mut renewal, now) = (Renewal::default(), Instant::now());
        let first = renewal.generation();
        renewal.refused(first, now);
        let due = renewal.due().unwrap();
        assert!(due > now && due <= now + RENEWAL_BACK_OFF_MAX);
        renewal.refused(first, now);
        assert_eq!(renewal.due(), Some(due), "requests that were on their way together are one refusal");
        renewal.renewed();
        renewal.refused(first, now);
        assert_eq!(renewal.due(), None);
    }

    #[test]
    fn the_wait_grows_to_its_bound_until_credentials_are_accepted() {
        let (mut renewal, now) = (Renewal::default(), Instant::now());
        let mut wait = || {
            renewal.refused(renewal.generation(), now);
            let wait = renewal.due().unwrap() - now;
            renewal.renewed();
            wait
        };
        let first = wait();
        let waits: Vec<_> = (0..30).map(|_| wait()).collect();
        assert!(waits.iter().all(|wait| *wait <= RENEWAL_BACK_OFF_MAX));
        assert!(waits[29] >= RENEWAL_BACK_OFF_MAX / 2 && first < waits[29]);
        renewal.accepted(renewal.generation());
        renewal.refused(renewal.generation(), now);
        assert!(renewal.due().unwrap() - now < RENEWAL_BACK_OFF_MAX / 10);
    }
}
