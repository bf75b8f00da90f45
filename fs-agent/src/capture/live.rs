//! The ring that is written to, and another one in its place once somebody has made it useless.
//!
//! Writers take the ring of now for one write: that is a load and a store in a place of their own, and no lock. Who has
//! it when it is replaced may finish; what became of the former ring is counted after that.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};
use bywash_common::{
    ring::{AgentRing, Retired, RingError},
    status::Listening,
};

/// How long another replacement has to wait after the first one; twice as long after each that follows.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// The longest that it has to: a ring takes `ring.size` of memory each time.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Former rings whose readers are waited for. Of more, what is not read is counted as lost at once.
const RETIRED_MAX: usize = 4;

/// The ring that is written to.
pub struct Live {
    ring: ArcSwap<AgentRing>,
    rest: Mutex<Rest>,
}

/// What only the one who tidies needs.
#[derive(Default)]
struct Rest {
    listening_table: Vec<Listening>,
    retired: Vec<Retired>,
    pace: Pace,
}

impl Live {
    pub fn new(ring: AgentRing) -> Self {
        Self { ring: ArcSwap::from_pointee(ring), rest: Mutex::default() }
    }

    /// The ring of now, for one write: whoever keeps it writes where nobody reads.
    #[inline]
    pub fn ring(&self) -> Guard<Arc<AgentRing>> {
        self.ring.load()
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what the agent listens to.
    pub fn set_listening_table(&self, listening_table: &[Listening]) {
        let mut rest = self.rest();
        self.ring().status.set_listening_table(listening_table);
        rest.listening_table = listening_table.to_vec();
    }

    /// Looks whether the ring can be gone on with, and has another one take its place if not. Counts what of former ones can
    /// be counted by now, announces losses that no record came after, and lets go of what is drained.
    pub fn tidy(&self) {
        let mut rest = self.rest();
        match self.ring().look() {
            Ok(()) => rest.pace.rest(),
            Err(error) if rest.pace.may_go() => self.replace(&mut rest, &error),
            Err(_) => {}
        }
        let ring = self.ring();
        let too_many = rest.retired.len().saturating_sub(RETIRED_MAX);
        let mut number = 0;
        rest.retired.retain_mut(|former| {
            number += 1;
            let Some(lost) = former.settle(&ring, number <= too_many) else { return true };
            if lost.events > 0 {
                tracing::error!(
                    "{} writes ({} bytes) are lost with the former ring",
                    lost.events,
                    lost.bytes
                );
            }
            false
        });
        ring.producer.announce_losses();
        if let Err(error) = ring.remove_drained() {
            tracing::debug!("{error}");
        }
    }

    fn replace(&self, rest: &mut Rest, why: &RingError) {
        let (next, handover) = match self.ring().succeed() {
            Ok(made) => made,
            Err(error) => {
                let pause = rest.pace.pause;
                return tracing::error!(
                    "{why}; another ring cannot be made: {error}; what is written is lost, the next attempt is in {pause:?}"
                );
            }
        };
        next.status.set_listening_table(&rest.listening_table);
        let number = next.generation();
        let former = self.ring.swap(Arc::new(next));
        self.ring().populate();
        if let Err(error) = former.retire() {
            tracing::warn!("{error}");
        }
        rest.retired.push(Retired::new(former, handover));
        tracing::error!("{why}; going on in another ring, generation {number}");
    }

    /// Says what is left of former rings, now that nobody counts it any more.
    pub fn say_what_is_left(&self) {
        for former in &self.rest().retired {
            tracing::warn!(
                "a publisher still reads {} bytes of a former ring: if it does not get to their end, they are lost and nobody counts them",
                former.unread_bytes()
            );
        }
    }
}

/// How often a ring may be replaced.
struct Pace {
    pause: Duration,
    last: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { pause: PAUSE_MIN, last: None }
    }
}

impl Pace {
    /// Whether it may be now; then the next time is further off.
    fn may_go(&mut self) -> bool {
        if let Some(last) = self.last {
            if last.elapsed() < self.pause {
                return false;
            }
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
        self.last = Some(Instant::now());
        true
    }

    /// The ring is well. After a while what was before is forgotten.
    fn rest(&mut self) {
        if self.last.is_some_and(|last| last.elapsed() > 2 * PAUSE_MAX) {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_replacement_is_at_once_and_each_of_many_twice_as_late() {
        let mut pace = Pace::default();
        assert!(pace.may_go() && !pace.may_go());
        let mut waited = Vec::new();
        for _ in 0..9 {
            pace.last = Instant::now().checked_sub(pace.pause);
            waited.push(pace.pause.as_secs_f64());
            pace.rest();
            assert!(pace.may_go());
        }
        assert_eq!(waited, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]);
        pace.last = Instant::now().checked_sub(2 * PAUSE_MAX);
        pace.rest();
        assert!(pace.may_go() && pace.pause == PAUSE_MIN);
    }
}
