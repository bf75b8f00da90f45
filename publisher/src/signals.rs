//! SIGTERM and SIGINT ask for a stop, a second one ends the process at once. SIGHUP asks for the configuration to be
//! read again.

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

/// Whether the program is asked to read its configuration again.
#[derive(Clone, Debug, Default)]
pub struct Asked(Arc<AtomicBool>);

impl Asked {
    /// Asks.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether someone has asked since the last time.
    pub fn take(&self) -> bool {
        // A record is read between two looks: no need to take the line away from other processors for each.
        self.0.load(Ordering::Acquire) && self.0.swap(false, Ordering::AcqRel)
    }
}

/// What signals ask for.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// To stop.
    pub stop: Stop,
    /// To read the configuration again.
    pub reload: Asked,
}

/// Takes the signals over. To be called before any other thread exists: threads inherit what is blocked here, and
/// librdkafka's must not be interrupted.
///
/// # Errors
/// If the system does not let signals be blocked or a thread be started.
pub fn take_over() -> std::io::Result<Signals> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block()?;
    let taken = Signals::default();
    let Signals { stop, reload } = taken.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        loop {
            match signals.wait() {
                Ok(Signal::SIGHUP) => reload.ask(),
                Ok(signal) if stop.is_requested() => die_of(signal),
                Ok(signal) => {
                    tracing::info!("{signal}: stopping; again to stop at once");
                    stop.request();
                }
                // sigwait(3) fails for no set of valid signals.
                Err(error) => return tracing::error!("cannot wait for signals: {error}"),
            }
        }
    })?;
    Ok(taken)
}

/// Ends the process as if the signal had never been taken over: at once, without the exit handlers of libraries whose
/// threads still run.
fn die_of(signal: Signal) {
    tracing::warn!("{signal} again: stopping at once");
    // The signal's disposition is the default one; it was only blocked.
    let _ = SigSet::from(signal).thread_unblock();
    let _ = raise(signal);
}
