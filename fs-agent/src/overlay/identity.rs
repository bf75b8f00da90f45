//! Acting in a caller's name: what is made in the directory below belongs to whom it would belong to there.
//!
//! Only the filesystem ids of the worker thread change (`setfsuid`), and its own file mode mask, so other threads are not
//! touched. The
//! kernel has already checked the caller's permissions on the overlay (`default_permissions`), with all of the
//! caller's groups; the ids decide ownership alone, and the capabilities stay.

use std::{cell::Cell, marker::PhantomData, thread};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::{Gid, Uid, setfsgid, setfsuid},
};
use rustix::{
    fs::Mode,
    io::Errno,
    process::{getegid, geteuid, umask},
    thread::{CapabilitiesSecureBits, capabilities_secure_bits, set_capabilities_secure_bits},
};

use super::{Result, names::NewMode};

/// Who asks for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The effective user.
    pub uid: u32,
    /// The effective group.
    pub gid: u32,
    /// The thread, as this process sees it; 0 if it does not.
    pub thread: u32,
}

/// User and group.
type Ids = (u32, u32);

/// Whether this process can act in other names.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    own: Ids,
    can_switch: bool,
}

/// The calling thread acts in another name until this is dropped.
pub struct Assumed {
    restore: Option<Ids>,
    // The ids belong to the thread: dropping it on another one would leave this one in the caller's name.
    _not_send: PhantomData<*const ()>,
}

impl Identity {
    /// What this process can do. Without root, all it makes is its own.
    pub fn of_this_process() -> Self {
        let own = (geteuid().as_raw(), getegid().as_raw());
        Self { own, can_switch: own.0 == 0 }
    }

    /// Makes the calling thread act as `caller`.
    pub fn assume(&self, caller: Caller) -> Assumed {
        let switch = self.can_switch && (caller.uid, caller.gid) != self.own;
        if switch {
            // The group first: both are taken back in the opposite order.
            setfsgid(Gid::from_raw(caller.gid));
            setfsuid(Uid::from_raw(caller.uid));
        }
        Assumed { restore: switch.then_some(self.own), _not_send: PhantomData }
    }
}

thread_local! {
    /// Whether the thread has a file mode mask of its own; it shares the process's until it asks for one.
    static HAS_OWN_MASK: Cell<bool> = const { Cell::new(false) };
}

/// What the calling thread makes next gets its mode through the caller's mask, or by the default ACL of the directory it
/// is made in: which of them is the filesystem's to say. Gives the mode to ask for.
///
/// # Errors
/// `EPERM` if a system call filter keeps the thread from having a mask of its own.
pub fn masked(mode: NewMode) -> Result<Mode> {
    take_own_mask()?;
    umask(Mode::from_raw_mode(mode.mask & 0o777));
    Ok(Mode::from_raw_mode(mode.wanted))
}

fn take_own_mask() -> Result<()> {
    HAS_OWN_MASK.with(|own| {
        if !own.get() {
            unshare(CloneFlags::CLONE_FS).map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
            own.set(true);
        }
        Ok(())
    })
}

/// Whether threads can have masks of their own. The calling thread keeps its own as it was.
///
/// # Errors
/// As unshare(2) says.
pub fn check_own_masks() -> Result<()> {
    thread::spawn(take_own_mask).join().unwrap_or(Err(Errno::AGAIN))
}

impl Drop for Assumed {
    fn drop(&mut self) {
        if let Some((uid, gid)) = self.restore {
            setfsuid(Uid::from_raw(uid));
            setfsgid(Gid::from_raw(gid));
        }
    }
}

/// Lets threads keep their capabilities while they act in another name. Threads inherit it, so it is to be called
/// before any is started. Without it, `setfsuid` takes CAP_DAC_OVERRIDE away, and a caller who may create a file by
/// way of a supplementary group would be refused.
///
/// # Errors
/// `EPERM` without CAP_SETPCAP.
pub fn keep_capabilities() -> Result<()> {
    set_capabilities_secure_bits(capabilities_secure_bits()? | CapabilitiesSecureBits::NO_SETUID_FIXUP)
}
