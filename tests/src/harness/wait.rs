//! The one way to wait for something: ask until it is so or the time is up.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Long enough for anything that is going to happen on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(30);

const POLL_INTERVAL: Duration = Duration::from_millis(5);

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on waiting ends with a panic once the flag is set, so that what was started is cleaned up.
pub fn stop_waiting_when(flag: Arc<AtomicBool>) {
    assert!(INTERRUPTED.set(flag).is_ok(), "called twice");
}

/// Whether the flag is set.
pub fn is_interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Asks until the answer is `Ok`; the `Err` says what is so instead.
///
/// # Panics
/// When the time is up, with the last answer.
#[track_caller]
pub fn until<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let begin = Instant::now();
    loop {
        let seen = match ask() {
            Ok(value) => return value,
            Err(seen) => seen,
        };
        assert!(!is_interrupted(), "interrupted");
        assert!(begin.elapsed() < within, "waited {within:?} for {what}; in the end: {seen}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Asks until it is so or the time is up, and says whether it is. For cleaning up: it neither panics nor is
/// interrupted.
pub fn quietly(within: Duration, mut ask: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        if ask() {
            return true;
        }
        if begin.elapsed() > within {
            return false;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Asks until it is so.
///
/// # Panics
/// When the time is up.
#[track_caller]
pub fn until_true(what: &str, within: Duration, mut ask: impl FnMut() -> bool) {
    until(what, within, || if ask() { Ok(()) } else { Err("it is not so".to_owned()) });
}
