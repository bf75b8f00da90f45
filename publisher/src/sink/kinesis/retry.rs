//! How long what failed waits: exponential, with a cap, and jittered so that many publishers do not come back at once.

use std::time::Duration;

/// The first wait after a failure; each further one is twice as long.
pub const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait after a failure that ends by itself.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// The longest wait after a failure that someone has to end.
pub const OPERATOR_BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// The longest wait before credentials that were refused are read again.
pub const RENEWAL_BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// The wait after the `failures`-th failure in a row, from 1: between half and all of an exponentially growing span.
pub fn back_off(failures: u32, max: Duration) -> Duration {
    let doubled = BACK_OFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(20));
    doubled.min(max).mul_f64(1.0 - fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_vary_by_half() {
        for (failures, whole) in [(1, 100), (2, 200), (3, 400), (6, 3200), (7, 5000), (100, 5000)] {
            for _ in 0..100 {
                let wait = back_off(failures, BACK_OFF_MAX).as_millis();
                assert!((whole / 2..=whole).contains(&wait), "{failures}: {wait}");
            }
        }
    }
}
