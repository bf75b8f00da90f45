//! What is settled with the kernel when an overlay is connected: by the FUSE library, whose session does nothing else.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use fuser::{Filesystem, InitFlags, KernelConfig, Request, Session};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::privilege::may_administer;

/// The most bytes in one write request: as many as the kernel puts into one (256 pages, unless an administrator sets
/// fs.fuse.max_pages_limit). Each request becomes one record.
pub const WRITE_BYTES_MAX: u32 = 1 << 20;

/// What is asked of the kernel where it has it. Left out on purpose:
/// writeback cache: a write would not come from its writer, nor as one;
/// ASYNC_DIO: parts of one asynchronous write would overtake each other on the way to the ring;
/// ATOMIC_O_TRUNC: a file would be cut before the kernel finds that it may not be, because it is a program that runs;
/// locks: the kernel keeps them itself. One that somebody waits for would take a worker, or a table of who waits;
/// ALLOW_IDMAP: but for what is made, the kernel would not say any more who asks.
const CAPABILITIES: [InitFlags; 5] = [
    InitFlags::FUSE_AUTO_INVAL_DATA,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    // Set-id bits are the overlay's to take away: else each cached write asks for an attribute first.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    // Modes come as asked for, with the mask beside: a directory's default ACL goes before the mask.
    InitFlags::FUSE_DONT_MASK,
];

/// What the directory below decides of how the kernel is to behave.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// Files are looked up without waiting for another machine or process.
    pub is_local: bool,
    /// Files can have ACLs.
    pub has_acls: bool,
    /// The directory is on a filesystem that is itself stacked on another.
    pub is_stacked: bool,
    /// The most bytes that the ring takes at once.
    pub write_bytes_max: u32,
}

/// What was settled. The kernel says it once: who takes a connection over has to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The most bytes in one write.
    pub max_write: u32,
    /// What the kernel has and was asked for.
    pub flags: InitFlags,
}

/// As it is stored.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Stored {
    flags: u64,
    max_write: u32,
    /// Zero: a later version may have more to say.
    more: u32,
}

impl Negotiated {
    /// How many bytes [`Self::to_bytes`] gives.
    pub const BYTES: usize = size_of::<Stored>();

    /// Whether the kernel reads files by itself.
    pub fn passthrough(&self) -> bool {
        self.flags.contains(InitFlags::FUSE_PASSTHROUGH)
    }

    /// Whether files that are open past the kernel's cache can be mapped shared (Linux 6.6).
    pub fn direct_maps(&self) -> bool {
        self.flags.contains(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP)
    }

    /// For [`Self::from_bytes`], of this process or of one that takes over from it on the same machine.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let Self { max_write, flags } = self;
        let mut bytes = [0; Self::BYTES];
        bytes.copy_from_slice(Stored { flags: flags.bits(), max_write, more: 0 }.as_bytes());
        bytes
    }

    /// What was stored; nothing if it is none or says more than is understood here.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let Stored { flags, max_write, more } = Stored::read_from_bytes(bytes).ok()?;
        let is_known = more == 0 && (1..=WRITE_BYTES_MAX).contains(&max_write);
        is_known.then(|| Self { max_write, flags: InitFlags::from_bits_retain(flags) })
    }
}

/// Answers INIT.
pub struct Negotiator {
    wishes: Wishes,
    settled: Arc<OnceLock<Negotiated>>,
}

/// Has `make` make a session, and gives what it has settled with the kernel.
///
/// # Errors
/// As `make` says.
pub fn settle(
    wishes: Wishes,
    make: impl FnOnce(Negotiator) -> io::Result<Session<Negotiator>>,
) -> io::Result<(Session<Negotiator>, Negotiated)> {
    let settled = Arc::new(OnceLock::new());
    let session = make(Negotiator { wishes, settled: Arc::clone(&settled) })?;
    let negotiated =
        settled.get().ok_or_else(|| io::Error::other("the kernel was not asked for anything"))?;
    Ok((session, *negotiated))
}

impl Filesystem for Negotiator {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let negotiated = self.negotiate(config)?;
        // INIT comes once.
        let _ = self.settled.set(negotiated);
        Ok(())
    }
}

impl Negotiator {
    /// Settles with the kernel what either does.
    fn negotiate(&self, config: &mut KernelConfig) -> io::Result<Negotiated> {
        let mut flags = InitFlags::empty();
        let mut ask = |config: &mut KernelConfig, wanted: InitFlags| {
            let granted = config.add_capabilities(wanted).is_ok();
            if granted {
                flags |= wanted;
            }
            granted
        };
        self.ask_for_passthrough(config, &mut ask);
        for capability in CAPABILITIES {
            if !ask(config, capability) {
                tracing::info!("this kernel does not offer {capability:?}; going on without it");
            }
        }
        // Who looks at what it lists is told with the list, where telling takes no time; the kernel finds out who does.
        if self.wishes.is_local {
            ask(config, InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO);
        }
        // Permissions by ACL are checked by the kernel then. Not asked for where there are none: it would ask in vain.
        if self.wishes.has_acls && !ask(config, InitFlags::FUSE_POSIX_ACL) {
            tracing::info!("this kernel does not check ACLs over FUSE: they are kept, and not in force here");
        }
        let max_write = WRITE_BYTES_MAX.min(self.wishes.write_bytes_max);
        config.set_max_write(max_write).map_err(|nearest| {
            io::Error::other(format!("the FUSE library writes at most {nearest} bytes at once"))
        })?;
        Ok(Negotiated { max_write, flags })
    }

    /// Asks that the kernel read files by itself. Said once in the log if it will not.
    fn ask_for_passthrough(
        &self,
        config: &mut KernelConfig,
        ask: &mut impl FnMut(&mut KernelConfig, InitFlags) -> bool,
    ) {
        // The least that serves: as much deeper may an overlayfs be stacked on this.
        let depth = if self.wishes.is_stacked { 2 } else { 1 };
        let lacks = if !may_administer() {
            "CAP_SYS_ADMIN"
        } else if config.set_max_stack_depth(depth).is_err() {
            "a FUSE library that stacks"
        } else if !ask(config, InitFlags::FUSE_PASSTHROUGH) {
            "Linux 6.9"
        } else {
            return;
        };
        tracing::info!("reads are cached, not at the speed of the directory below: that takes {lacks}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_settled_is_read_back_and_nothing_else_is() {
        let settled =
            Negotiated { max_write: 4096, flags: InitFlags::FUSE_PASSTHROUGH | InitFlags::FUSE_DONT_MASK };
        let bytes = settled.to_bytes();
        assert_eq!(Negotiated::from_bytes(&bytes), Some(settled));
        assert!(settled.passthrough() && !settled.direct_maps());
        assert_eq!(Negotiated::from_bytes(&bytes[1..]), None);
        assert_eq!(Negotiated::from_bytes(&[0; Negotiated::BYTES]), None, "writes of nothing");
        let mut newer = bytes;
        newer[Negotiated::BYTES - 1] = 1;
        assert_eq!(Negotiated::from_bytes(&newer), None);
    }
}
