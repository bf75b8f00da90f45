//! The time of records and counters.

use std::time::{SystemTime, UNIX_EPOCH};

/// The wall clock in nanoseconds since the epoch; 0 before it. It may be set back: nothing is ordered by it.
pub fn now_ns() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}
