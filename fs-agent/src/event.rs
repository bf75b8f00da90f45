//! What the agent reacts to: signals, overlays that end, mounts that change.

use std::{
    io,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::SyncSender,
    },
};

use nix::sys::signal::Signal;

/// Has a running agent look whether it is to sleep.
pub const LOOK_SIGNAL: Signal = Signal::SIGUSR1;

/// Tells an overlay from others, those that were on the same directory before included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OverlayId(u64);

impl OverlayId {
    /// One that this process has not given before.
    pub fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed))
    }
}

/// What the agent reacts to.
#[derive(Debug)]
pub enum Event {
    /// Someone has sent a signal.
    Signal(Signal),
    /// An overlay is not served any more.
    Ended(OverlayId, io::Result<()>),
    /// Something was mounted or unmounted.
    MountsChanged,
    /// Somebody waits until that is followed.
    SettleMounts(SyncSender<()>),
}
