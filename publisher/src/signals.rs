//! SIGTERM and SIGINT ask for a stop, a second one ends the process at once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use nix::sys::signal::{SigSet, Signal, raise};

/// Whether the program is asked to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks for a stop.
    pub fn request(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether someone has asked.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Takes the signals over. To be called before any other thread exists: threads inherit what is blocked here, and
/// librdkafka's must not be interrupted.
///
/// # Errors
/// If the system does not let signals be blocked or a thread be started.
pub fn take_over() -> std::io::Result<Stop> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block()?;
    let stop = Stop::default();
    let asked = stop.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        loop {
            match signals.wait() {
                Ok(Signal::SIGHUP) => {
                    tracing::warn!("SIGHUP: restart the publisher to apply a new configuration")
                }
                Ok(signal) if asked.is_requested() => die_of(signal),
                Ok(signal) => {
                    tracing::info!("{signal}: stopping; again to stop at once");
                    asked.request();
                }
                // sigwait(3) fails for no set of valid signals.
                Err(error) => return tracing::error!("cannot wait for signals: {error}"),
            }
        }
    })?;
    Ok(stop)
}

/// Ends the process as if the signal had never been taken over: at once, without the exit handlers of libraries whose
/// threads still run.
fn die_of(signal: Signal) {
    tracing::warn!("{signal} again: stopping at once");
    // The signal's disposition is the default one; it was only blocked.
    let _ = SigSet::from(signal).thread_unblock();
    let _ = raise(signal);
}
