//! Acting in a caller's name: the directory below is to treat what a caller asks for as if the caller had asked it.
//!
//! A worker thread takes the caller's filesystem ids (`setfsuid`) and keeps them until somebody else asks: who asks again
//! costs no system call. By these ids filesystems say whose a new file is, who may take reserved blocks, and as whom a file
//! server is asked. The capabilities stay, but for CAP_SYS_RESOURCE, which [`crate::privilege`] has taken away: the kernel
//! has checked the caller's permissions on the overlay (`default_permissions`), with all of the caller's groups and
//! capabilities.
//!
//! What a thread does for the agent itself must not depend on whom it last acted for.

use std::{cell::Cell, thread};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::{Gid, Uid, setfsgid, setfsuid},
};
use rustix::{
    fs::Mode,
    io::Errno,
    process::{geteuid, umask},
    thread::CapabilitySets,
};

use super::{Caller, Result, names::NewMode};
use crate::privilege;

/// The id that nobody has: `setfsuid` gives the present one for it, and changes nothing.
const NOBODY_AT_ALL: u32 = u32::MAX;

/// Whether this process can act in other names.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// What threads can do, in whichever name. None: all that is made is this process's own.
    rights: Option<CapabilitySets>,
}

/// The filesystem ids of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ids {
    uid: u32,
    gid: u32,
}

impl Ids {
    fn of_this_thread() -> Self {
        Self {
            uid: setfsuid(Uid::from_raw(NOBODY_AT_ALL)).as_raw(),
            gid: setfsgid(Gid::from_raw(NOBODY_AT_ALL)).as_raw(),
        }
    }
}

thread_local! {
    /// The thread's ids; unknown until it first acts for somebody. A new thread has those of the one that started it.
    static IDS: Cell<Option<Ids>> = const { Cell::new(None) };
    /// Whether the thread has a file mode mask of its own; it shares the process's until it asks for one.
    static HAS_OWN_MASK: Cell<bool> = const { Cell::new(false) };
}

impl Identity {
    /// What this process can do as it is now. Without root, or without the capabilities to change ids, all it makes is its
    /// own.
    pub fn of_this_process() -> Self {
        let rights = if geteuid().is_root() { privilege::to_act_for_others() } else { None };
        Self { rights }
    }

    /// Whether files belong to whom they were made for.
    pub fn can_act_for_others(&self) -> bool {
        self.rights.is_some()
    }

    /// Makes the calling thread act as `caller`, until it is told otherwise.
    ///
    /// # Errors
    /// `EOVERFLOW` if there can be no such caller.
    pub fn assume(&self, caller: Caller) -> Result<()> {
        let Some(rights) = self.rights else { return Ok(()) };
        let wanted = Ids { uid: caller.uid, gid: caller.gid };
        let present = IDS.get().unwrap_or_else(|| {
            let found = Ids::of_this_thread();
            // Asked once: the next request costs no system call.
            IDS.set(Some(found));
            found
        });
        if present == wanted {
            return Ok(());
        }
        if wanted.uid == NOBODY_AT_ALL || wanted.gid == NOBODY_AT_ALL {
            return Err(Errno::OVERFLOW);
        }
        // Half done it is not known which they are.
        IDS.set(None);
        if present.gid != wanted.gid {
            setfsgid(Gid::from_raw(wanted.gid));
        }
        if present.uid != wanted.uid {
            setfsuid(Uid::from_raw(wanted.uid));
            if present.uid == 0 || wanted.uid == 0 {
                // The kernel has taken away the capabilities that concern files, or put into effect all of them that are
                // permitted.
                rustix::thread::set_capabilities(None, rights)?;
            }
        }
        IDS.set(Some(wanted));
        Ok(())
    }
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
    if !HAS_OWN_MASK.get() {
        unshare(CloneFlags::CLONE_FS).map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
        HAS_OWN_MASK.set(true);
    }
    Ok(())
}

/// Whether threads can have masks of their own. The calling thread keeps its own as it was.
///
/// # Errors
/// As unshare(2) says.
pub fn check_own_masks() -> Result<()> {
    thread::spawn(take_own_mask).join().unwrap_or(Err(Errno::AGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says of the calling thread: its filesystem ids, and its effective capabilities.
    fn seen() -> (String, String, String) {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        let last = |ids: &str| ids.split_whitespace().last().unwrap().to_owned();
        (last(field("Uid:")), last(field("Gid:")), field("CapEff:").to_owned())
    }

    #[test]
    fn a_thread_acts_as_who_asks_and_keeps_its_capabilities() {
        if !geteuid().is_root() {
            return println!("skipped: only root can act as others");
        }
        privilege::renounce().unwrap();
        let identity = Identity::of_this_process();
        let (_, _, capabilities) = seen();
        let caller = |uid, gid| Caller { uid, gid, thread: 0 };
        for (uid, gid) in [(1000, 1000), (1001, 1000), (0, 0), (0, 5), (65534, 0), (0, 0)] {
            identity.assume(caller(uid, gid)).unwrap();
            assert_eq!(seen(), (uid.to_string(), gid.to_string(), capabilities.clone()));
        }
        identity.assume(caller(1000, 1001)).unwrap();
        // One that is started by a thread that acts for somebody.
        thread::spawn(move || {
            identity.assume(caller(0, 0)).unwrap();
            assert_eq!(seen().0, "0");
        })
        .join()
        .unwrap();
        // One that acts for whom it acts for already asks the kernel once.
        thread::spawn(move || {
            let own = Ids::of_this_thread();
            identity.assume(caller(own.uid, own.gid)).unwrap();
            assert_eq!(IDS.get(), Some(own));
        })
        .join()
        .unwrap();
        assert_eq!(identity.assume(caller(NOBODY_AT_ALL, 1)), Err(Errno::OVERFLOW));
        assert_eq!(seen().0, "1000");
    }
}
