//! Acting in a caller's name: what is made in the directory below belongs to whom it would belong to there.
//!
//! Only the filesystem ids of the worker thread change (`setfsuid`), so other threads are not touched. The
//! kernel has already checked the caller's permissions on the overlay (`default_permissions`), with all of the
//! caller's groups; the ids decide ownership alone, and the capabilities stay.

use std::marker::PhantomData;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::{
    process::{getegid, geteuid},
    thread::{CapabilitiesSecureBits, capabilities_secure_bits, set_capabilities_secure_bits},
};

/// Who asks for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The effective user.
    pub uid: u32,
    /// The effective group.
    pub gid: u32,
}

/// Whether this process can act in other names.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    own: Caller,
    can_switch: bool,
}

/// The calling thread acts in another name until this is dropped.
pub struct Assumed {
    restore: Option<Caller>,
    // The ids belong to the thread: dropping it on another one would leave this one in the caller's name.
    _not_send: PhantomData<*const ()>,
}

impl Identity {
    /// What this process can do. Without root, all it makes is its own.
    pub fn of_this_process() -> Self {
        let own = Caller { uid: geteuid().as_raw(), gid: getegid().as_raw() };
        Self { own, can_switch: own.uid == 0 }
    }

    /// Makes the calling thread act as `caller`.
    pub fn assume(&self, caller: Caller) -> Assumed {
        let switch = self.can_switch && caller != self.own;
        if switch {
            // The group first: both are taken back in the opposite order.
            setfsgid(Gid::from_raw(caller.gid));
            setfsuid(Uid::from_raw(caller.uid));
        }
        Assumed { restore: switch.then_some(self.own), _not_send: PhantomData }
    }
}

impl Drop for Assumed {
    fn drop(&mut self) {
        if let Some(own) = self.restore {
            setfsuid(Uid::from_raw(own.uid));
            setfsgid(Gid::from_raw(own.gid));
        }
    }
}

/// Lets threads keep their capabilities while they act in another name. Threads inherit it, so it is to be called
/// before any is started. Without it, `setfsuid` takes CAP_DAC_OVERRIDE away, and a caller who may create a file by
/// way of a supplementary group would be refused.
///
/// # Errors
/// `EPERM` without CAP_SETPCAP.
pub fn keep_capabilities() -> rustix::io::Result<()> {
    set_capabilities_secure_bits(capabilities_secure_bits()? | CapabilitiesSecureBits::NO_SETUID_FIXUP)
}
