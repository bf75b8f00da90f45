//! The clock of everything that waits, so that a simulation can have one of its own.

/// What time it is.
#[cfg(not(test))]
pub fn now() -> std::time::Instant {
    std::time::Instant::now()
}

#[cfg(test)]
pub use simulated::now;

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

    thread_local! {
        static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
        static MEANWHILE: RefCell<Option<Meanwhile>> = const { RefCell::new(None) };
    }

    /// The simulated time, or the real one.
    pub fn now() -> Instant {
        NOW.get().unwrap_or_else(Instant::now)
    }

    /// Whether this thread's clock is simulated.
    pub fn is_on() -> bool {
        NOW.get().is_some()
    }

    /// Stops this thread's clock. `meanwhile` is told of each wait.
    pub fn begin(meanwhile: impl FnMut(Duration) + 'static) {
        NOW.set(Some(Instant::now()));
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
