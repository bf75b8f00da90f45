//! What happens when the other process cuts a segment short: an error for its users, not the death of a filesystem.
//!
//! An access to a page that a shared object no longer has raises SIGBUS. The handler puts a private page of zeros
//! there, so that the access goes on, and notes that the mapping is broken; whoever uses it finds that out. Faults anywhere else
//! are left to whoever handled them before.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// Mappings of a process that are guarded at a time; more than two for each generation of a ring are not needed.
const GUARDS: usize = 32;
/// Bytes that are replaced at a time: the smallest page that Linux has.
const PAGE: usize = 4096;

struct Guard {
    /// The mapping's address; 0 for none.
    base: AtomicUsize,
    len: AtomicUsize,
    broken: AtomicBool,
}

static TABLE: [Guard; GUARDS] =
    [const { Guard { base: AtomicUsize::new(0), len: AtomicUsize::new(0), broken: AtomicBool::new(false) } };
        GUARDS];

/// What was done about SIGBUS before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// One mapping under guard, until [`Guarded::end`].
pub(super) struct Guarded(Option<&'static Guard>);

impl Guarded {
    /// Guards the mapping at `base`. Where the table is full, or the system refuses the handler, it goes unguarded.
    pub(super) fn new(base: usize, len: usize) -> Self {
        if !install() {
            return Self(None);
        }
        let free = TABLE.iter().find(|guard| {
            // `usize::MAX` reserves the place, and is no mapping's address.
            guard.base.compare_exchange(0, usize::MAX, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        if let Some(guard) = free {
            guard.broken.store(false, Ordering::Relaxed);
            guard.len.store(len, Ordering::Relaxed);
            guard.base.store(base, Ordering::Release);
        }
        Self(free)
    }

    /// For a mapping of which nothing can go missing.
    pub(super) fn not_needed() -> Self {
        Self(None)
    }

    /// Whether nothing of the mapping has been found missing.
    pub(super) fn is_intact(&self) -> bool {
        self.0.is_none_or(|guard| !guard.broken.load(Ordering::Relaxed))
    }

    /// Notes that the kernel found a part of the mapping missing.
    pub(super) fn note_broken(&self) {
        if let Some(guard) = self.0 {
            guard.broken.store(true, Ordering::Relaxed);
        }
    }

    /// Ends the guard. To be called before the mapping ends.
    pub(super) fn end(&mut self) {
        if let Some(guard) = self.0.take() {
            guard.base.store(0, Ordering::Release);
        }
    }
}

/// Installs the handler once for the process; tells whether it is there.
fn install() -> bool {
    let previous = PREVIOUS.get_or_init(|| {
        // SAFETY: an all-zero sigaction is a valid value: no flags, an empty mask, the default action.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: as above.
        let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: both structures outlive the call, and the handler has the signature that SA_SIGINFO asks for.
        if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, &raw mut previous) } != 0 {
            previous.sa_flags = -1;
        }
        previous
    });
    previous.sa_flags != -1
}

/// Handles SIGBUS. Does what a signal handler may: atomics, mmap(2), sigaction(2).
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo_t, whose si_addr is the faulting address for SIGBUS.
    let at = unsafe { (*info).si_addr() } as usize;
    let guard = TABLE.iter().find(|guard| {
        let base = guard.base.load(Ordering::Acquire);
        base != 0 && base != usize::MAX && at >= base && at - base < guard.len.load(Ordering::Relaxed)
    });
    let Some(guard) = guard else {
        if let Some(previous) = PREVIOUS.get() {
            // SAFETY: `previous` is what this call gave before. The access is made again, and faults into it.
            unsafe { libc::sigaction(signal, previous, std::ptr::null_mut()) };
        }
        return;
    };
    guard.broken.store(true, Ordering::Relaxed);
    // SAFETY: errno is this thread's own.
    let errno = unsafe { *libc::__errno_location() };
    let page = (at & !(PAGE - 1)) as *mut libc::c_void;
    // SAFETY: the page lies within a mapping of ours that stays mapped (its owner holds the guard), of which no
    // references exist; MAP_FIXED replaces just that page.
    let mapped = unsafe {
        libc::mmap(
            page,
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    if mapped == libc::MAP_FAILED {
        // SAFETY: async-signal-safe. Without memory for one page there is no way to go on.
        unsafe { libc::abort() };
    }
}
