//! Asks the kernel to let go of files that nobody has used for long, so that what it caches does not make this process
//! large.
//!
//! The kernel skips what is in use: open files, working directories, mount points, directories of which it caches
//! entries. It takes no lock that it also holds while it waits for an answer of this process.

use std::{
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use rustix::io::Errno;

use super::device::Connection;
use crate::overlay::Overlay;

/// How many files the kernel is asked to let go of at once.
const BATCH: usize = 512;

/// How many overlays can be too large at a time, before others say so again later.
const PRESSURES_MAX: usize = 64;

/// How long the kernel gets to say what it has let go of, before it is asked for more.
const PAUSE: Duration = Duration::from_millis(2);

/// Asks, for all overlays, whenever one has become too large.
pub struct Pruner(SyncSender<Arc<Pressure>>);

/// An overlay that may become too large.
struct Pressure {
    overlay: Weak<Overlay>,
    connection: Weak<Connection>,
    /// It has said that it is.
    is_told: AtomicBool,
}

impl Pruner {
    /// Starts a thread that asks. Never a thread that answers requests: the kernel may have to write a file's pages back,
    /// by requests, before it lets go of it.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start() -> io::Result<Self> {
        let (sender, pressures) = sync_channel(PRESSURES_MAX);
        thread::Builder::new().name("prune".to_owned()).spawn(move || run(&pressures))?;
        Ok(Self(sender))
    }

    /// Keeps `overlay` small as long as it is there. To be called once.
    pub fn keep_small(&self, overlay: &Arc<Overlay>, connection: &Arc<Connection>) {
        let pressure = Arc::new(Pressure {
            overlay: Arc::downgrade(overlay),
            connection: Arc::downgrade(connection),
            is_told: AtomicBool::new(false),
        });
        let sender = self.0.clone();
        overlay.on_pressure(Box::new(move || {
            // Waits for nobody. Told already, or nobody listens any more.
            if !pressure.is_told.swap(true, Ordering::Relaxed)
                && sender.try_send(Arc::clone(&pressure)).is_err()
            {
                pressure.is_told.store(false, Ordering::Relaxed);
            }
        }));
    }
}

fn run(pressures: &Receiver<Arc<Pressure>>) {
    for pressure in pressures {
        pressure.is_told.store(false, Ordering::Relaxed);
        let Some(overlay) = pressure.overlay.upgrade() else { continue };
        let oldest = overlay.oldest(BATCH);
        drop(overlay);
        let Some(connection) = pressure.connection.upgrade().filter(|_| !oldest.is_empty()) else { continue };
        if let Err(Errno::INVAL | Errno::NOSYS) = connection.prune(&oldest) {
            return tracing::info!(
                "this kernel cannot be asked to forget files (Linux 6.18): about 450 bytes of memory for \
                 each that it caches, until it needs memory itself"
            );
        }
        drop(connection);
        thread::sleep(PAUSE);
    }
}
