//! Asks the kernel to let go of files that nobody has used for long, so that what it caches does not make this process
//! large.
//!
//! The kernel skips what is in use: open files, working directories, mount points, directories of which it caches
//! entries. It takes no lock that it also holds while it waits for an answer of this process.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Weak, mpsc::Receiver},
    thread,
    time::Duration,
};

use rustix::io::{Errno, write};

use crate::overlay::Overlay;

/// FUSE_NOTIFY_PRUNE of linux/fuse.h, which Linux has from 6.18 on and the FUSE library has not.
const NOTIFY_PRUNE: i32 = 9;

/// `struct fuse_out_header` and `struct fuse_notify_prune_out` of linux/fuse.h.
const HEADERS_BYTES: usize = 16 + 16;

/// How many files the kernel is asked to let go of at once.
const BATCH: usize = 512;

/// How long the kernel gets to say what it has let go of, before it is asked for more.
const PAUSE: Duration = Duration::from_millis(2);

/// Asks, whenever an overlay has become too large, until it is no more.
pub struct Pruner {
    overlay: Weak<Overlay>,
    crowded: Receiver<()>,
}

impl Pruner {
    /// For this overlay, which says on `crowded` when it is too large.
    pub fn new(overlay: Weak<Overlay>, crowded: Receiver<()>) -> Self {
        Self { overlay, crowded }
    }

    /// Starts a thread that asks by way of `device`, the kernel's connection. Never a thread that answers requests: the
    /// kernel may have to write a file's pages back, by requests, before it lets go of it.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(self, device: OwnedFd) -> io::Result<()> {
        thread::Builder::new().name("prune".to_owned()).spawn(move || self.run(&device)).map(drop)
    }

    fn run(self, device: &OwnedFd) {
        // Ends with the overlay.
        for () in self.crowded {
            let Some(overlay) = self.overlay.upgrade() else { return };
            let oldest = overlay.oldest(BATCH);
            drop(overlay);
            if oldest.is_empty() {
                continue;
            }
            if let Err(Errno::INVAL | Errno::NOSYS) = write(device, &request(&oldest)) {
                return tracing::info!(
                    "this kernel cannot be asked to forget files (Linux 6.18): about 450 bytes of memory for \
                     each that it caches, until it needs memory itself"
                );
            }
            thread::sleep(PAUSE);
        }
    }
}

/// What asks the kernel to let go of `nodes`.
fn request(nodes: &[u64]) -> Vec<u8> {
    let len = HEADERS_BYTES + size_of_val(nodes);
    let mut bytes = Vec::with_capacity(len);
    let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_ne_bytes();
    bytes.extend_from_slice(&narrow(len));
    bytes.extend_from_slice(&NOTIFY_PRUNE.to_ne_bytes());
    // The number of the request that it answers: none.
    bytes.extend_from_slice(&0_u64.to_ne_bytes());
    bytes.extend_from_slice(&narrow(nodes.len()));
    bytes.resize(HEADERS_BYTES, 0);
    nodes.iter().for_each(|node| bytes.extend_from_slice(&node.to_ne_bytes()));
    bytes
}
