//! What the kernel has let go of, by a request to a process that died over it.
//!
//! The kernel sends FORGET once and wants no answer: what was read and not done is lost, and a successor would know the node as
//! long as there is the overlay. So nodes that came from a predecessor are compared with what the kernel knows. One that it does
//! not know may be one whose FORGET is still to be read, or whose look-up was answered a moment ago and is not taken up yet: so it
//! is asked again a while later. What it knows at neither time, and what nobody has told it of between, is forgotten.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{Overlay, lock};

/// How long after a successor has begun, and how long after it has asked first, the kernel is asked.
pub const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// A node, and how often the kernel knew it.
type Known = (u64, u64);

/// Nodes that a predecessor has left.
#[derive(Debug, Default)]
pub struct Inherited(Mutex<Option<Look>>);

/// The next look at what the kernel knows.
#[derive(Debug)]
struct Look {
    of: Vec<Known>,
    not_before: Instant,
    /// The kernel was asked once.
    is_second: bool,
}

impl Inherited {
    /// These nodes, of which the kernel may have forgotten some.
    pub fn of(nodes: Vec<Known>) -> Self {
        let look = Look { of: nodes, not_before: Instant::now() + LOOK_AGAIN, is_second: false };
        Self(Mutex::new(Some(look)))
    }

    fn due(&self, now: Instant) -> Option<Look> {
        lock(&self.0).take_if(|look| look.not_before <= now)
    }
}

impl Overlay {
    /// Forgets what the kernel has let go of and a predecessor had no time to forget. `knows` says whether the kernel knows a node.
    /// To be called now and then, never by who answers requests.
    pub fn forget_inherited(&self, now: Instant, knows: impl Fn(u64) -> bool) {
        let Some(Look { mut of, is_second, .. }) = self.inherited.due(now) else { return };
        of.retain(|(node, count)| self.inodes.lookups_of(*node) == Some(*count) && !knows(*node));
        if is_second {
            of.iter().for_each(|(node, count)| self.forget(*node, *count));
        } else if !of.is_empty() {
            let look = Look { of, not_before: now + LOOK_AGAIN, is_second: true };
            *lock(&self.inherited.0) = Some(look);
        }
    }
}
