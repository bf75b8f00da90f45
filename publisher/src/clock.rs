//! The clock of everything that waits, so that a simulation can have one of its own.

/// What time it is.
#[cfg(not(test))]
pub fn now() -> std::time::Instant {
    std::time::Instant::now()
}

#[cfg(test)]
pub use simulated::now;

/// Nanoseconds since the epoch, as records are stamped.
pub fn now_ns() -> u64 {
    #[cfg(test)]
    if let Some(now_ns) = simulated::now_ns() {
        return now_ns;
    }
    bywash_common::clock::now_ns()
}

/// Waits by `wait`, which takes at most `time`.
pub fn pass(time: std::time::Duration, wait: impl FnOnce()) {
    #[cfg(test)]
    if simulated::pass(time) {
        return;
    }
    let _ = time;
    wait();
}

/// A clock that stands still until a test moves it, for the thread that has asked for one.
#[cfg(test)]
pub mod simulated {
    use std::{
        cell::{Cell, RefCell},
        time::{Duration, Instant},
    };

    type Meanwhile = Box<dyn FnMut(Duration)>;

    /// When a simulation begins, in nanoseconds since the epoch.
    pub const BEGIN_NS: u64 = 1_700_000_000_000_000_000;

    thread_local! {
        static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
        static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
        static MEANWHILE: RefCell<Option<Meanwhile>> = const { RefCell::new(None) };
    }

    /// The simulated time, or the real one.
    pub fn now() -> Instant {
        NOW.get().unwrap_or_else(Instant::now)
    }

    /// The simulated time, in nanoseconds since the epoch.
    pub fn now_ns() -> Option<u64> {
        let passed = NOW.get()?.duration_since(BEGUN.get()?);
        Some(BEGIN_NS + u64::try_from(passed.as_nanos()).ok()?)
    }

    /// Whether this thread's clock is simulated.
    pub fn is_on() -> bool {
        NOW.get().is_some()
    }

    /// Stops this thread's clock. `meanwhile` is told of each wait.
    pub fn begin(meanwhile: impl FnMut(Duration) + 'static) {
        BEGUN.set(Some(Instant::now()));
        NOW.set(BEGUN.get());
        MEANWHILE.set(Some(Box::new(meanwhile)));
    }

    /// Goes on with the real clock.
    pub fn end() {
        NOW.set(None);
        MEANWHILE.set(None);
    }

    /// Lets time pass.
    pub fn advance(time: Duration) {
        NOW.set(NOW.get().map(|now| now + time));
    }

    /// Lets time pass while somebody waits, if the clock is simulated.
    pub fn pass(time: Duration) -> bool {
        if !is_on() {
            return false;
        }
        advance(time);
        // What happens meanwhile may wait as well, or kill who waits.
        let mut taken = Taken(MEANWHILE.take());
        if let Some(meanwhile) = &mut taken.0 {
            meanwhile(time);
        }
        true
    }

    struct Taken(Option<Meanwhile>);

    impl Drop for Taken {
        fn drop(&mut self) {
            if let Some(meanwhile) = self.0.take() {
                MEANWHILE.set(Some(meanwhile));
            }
        }
    }
}
