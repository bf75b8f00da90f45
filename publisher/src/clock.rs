//! The clock of everything that waits, so that a simulation can have one of its own.

use std::time::Instant;

/// What time it is.
pub fn now() -> Instant {
    Instant::now()
}
