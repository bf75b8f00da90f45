//! SIGTERM and SIGINT ask for a stop; a second one ends the process at once, and so does a stop that takes longer than it
//! may: whatever hangs then (a broker, a name server, a disk), nothing is lost, as the ring has what is not confirmed.
//! SIGHUP asks for the configuration to be read again, or for a stop where there is nothing to read again.

use std::{
    os::fd::AsFd as _,
    sync::{Arc, Condvar, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, raise},
        signalfd::{SfdFlags, SignalFd},
    },
};

/// How much longer than it may take a stop is waited for: what it waits for itself ends with its time.
pub const STOP_GRACE: Duration = Duration::from_secs(1);

/// Whether the program is asked to stop, and since when.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<OnceLock<Instant>>);

impl Stop {
    /// Asks for a stop.
    pub fn request(&self) {
        self.0.get_or_init(Instant::now);
    }

    /// Whether someone has asked.
    pub fn is_requested(&self) -> bool {
        self.0.get().is_some()
    }

    /// When someone has asked first; now if nobody has.
    pub fn since(&self) -> Instant {
        self.0.get().copied().unwrap_or_else(Instant::now)
    }
}

/// Whether the program is asked to read its configuration again.
#[derive(Clone, Debug, Default)]
pub struct Asked(Arc<(Mutex<bool>, Condvar)>);

impl Asked {
    /// Asks.
    pub fn ask(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_one();
    }

    /// Waits until someone has asked since the last time.
    pub fn wait(&self) {
        let asked = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut asked = self.0.1.wait_while(asked, |asked| !*asked).unwrap_or_else(PoisonError::into_inner);
        *asked = false;
    }
}

/// What SIGHUP asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hangup {
    /// To read the configuration again.
    Reloads,
    /// To stop: the terminal is gone.
    Stops,
}

/// What signals ask for.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// To stop.
    pub stop: Stop,
    /// To read the configuration again.
    pub reload: Asked,
}

/// Takes the signals over; a stop that takes longer than `stop_within` and [`STOP_GRACE`] is forced. To be called before
/// any other thread exists: threads inherit what is blocked here, and librdkafka's must not be interrupted.
///
/// # Errors
/// If the system does not let signals be blocked or a thread be started.
pub fn take_over(hangup: Hangup, stop_within: Duration) -> std::io::Result<Signals> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block()?;
    let arrived = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let taken = Signals::default();
    let asked = taken.clone();
    let watch = move || {
        while let Some(signal) = next(&arrived, &asked.stop, stop_within) {
            heed(signal, hangup, &asked);
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(watch)?;
    Ok(taken)
}

/// The next signal. Ends the process where a stop takes too long.
fn next(arrived: &SignalFd, stop: &Stop, stop_within: Duration) -> Option<Signal> {
    loop {
        let left = stop.is_requested().then(|| {
            let deadline = stop.since() + stop_within + STOP_GRACE;
            deadline.saturating_duration_since(Instant::now())
        });
        if left.is_some_and(|left| left.is_zero()) {
            tracing::error!(
                "still not stopped after {stop_within:?}, the time it may take: stopping at once"
            );
            die_of(Signal::SIGTERM);
        }
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut [PollFd::new(arrived.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(error) => {
                tracing::error!("cannot wait for signals: {error}");
                return None;
            }
        }
        let read = arrived.read_signal().ok().flatten();
        if let Some(signal) = read.and_then(|info| Signal::try_from(info.ssi_signo.cast_signed()).ok()) {
            return Some(signal);
        }
    }
}

fn heed(signal: Signal, hangup: Hangup, asked: &Signals) {
    match signal {
        Signal::SIGHUP if hangup == Hangup::Reloads => asked.reload.ask(),
        signal if asked.stop.is_requested() => {
            tracing::warn!("{signal} again: stopping at once");
            die_of(signal);
        }
        signal => {
            tracing::info!("{signal}: stopping; again to stop at once");
            asked.stop.request();
        }
    }
}

/// Ends the process as if the signal had never been taken over: at once, without the exit handlers of libraries whose
/// threads still run.
fn die_of(signal: Signal) {
    // The signal's disposition is the default one; it was only blocked.
    let _ = SigSet::from(signal).thread_unblock();
    let _ = raise(signal);
}

/// Has the process end after `within` and [`STOP_GRACE`] where it has not by then: it stops though no signal asked for it.
pub fn bound_stop(within: Duration) {
    let end = move || {
        std::thread::sleep(within + STOP_GRACE);
        tracing::error!("still not stopped after {within:?}, the time it may take: stopping at once");
        let _ = raise(Signal::SIGKILL);
    };
    if let Err(error) = std::thread::Builder::new().name("deadline".to_owned()).spawn(end) {
        tracing::warn!("nothing bounds the time that stopping takes: {error}");
    }
}
