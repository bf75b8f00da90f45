//! The capabilities that this process has in effect, and the groups it is in.
//!
//! CAP_SYS_RESOURCE lets whoever has it in effect ignore quotas and take a filesystem's reserved blocks, so threads that
//! write for others do without it. It stays permitted: to write for those who have it themselves, and to make
//! pipes larger than fs.pipe-max-size. CAP_LINUX_IMMUTABLE is for those who have it themselves as well.

use rustix::{
    io::Result,
    process::{Gid, geteuid, getgroups},
    thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_thread_groups},
};

/// What takes the ids of others.
const IDS: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID);

/// What is in effect for those alone who have it themselves.
const WITHHELD: CapabilitySet = CapabilitySet::SYS_RESOURCE.union(CapabilitySet::LINUX_IMMUTABLE);

/// Takes from this process what would give callers more than they have: capabilities, and root's supplementary groups.
/// To be called before any thread is started.
///
/// # Errors
/// If the system refuses.
pub fn renounce() -> Result<()> {
    let mut sets = capabilities(None)?;
    sets.effective -= WITHHELD;
    set_capabilities(None, sets)?;
    if geteuid().is_root() && sets.effective.contains(CapabilitySet::SETGID) {
        set_thread_groups(&[])?;
    }
    Ok(())
}

/// Whether this process may mount, and have the kernel read files by itself.
pub fn may_administer() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Whether all users may have access to this process's mounts.
pub fn others_allowed() -> bool {
    may_administer()
        || std::fs::read_to_string("/etc/fuse.conf")
            .is_ok_and(|conf| conf.lines().any(|line| line.trim() == "user_allow_other"))
}

/// What the calling thread can do while it acts for others; nothing if it may not take their ids.
pub fn to_act_for_others() -> Option<CapabilitySets> {
    capabilities(None).ok().filter(|sets| sets.effective.contains(IDS))
}

/// Does `work` with CAP_SYS_RESOURCE in effect, if this process may have it.
pub fn with_resource<T>(work: impl FnOnce() -> T) -> T {
    with(CapabilitySet::SYS_RESOURCE, work)
}

/// Does `work` with `capabilities` in effect, as far as this process may have them.
pub fn with<T>(capabilities: CapabilitySet, work: impl FnOnce() -> T) -> T {
    let _raised = InEffect::change(|sets| sets.effective | (capabilities & sets.permitted));
    work()
}

/// Does `work` without `capabilities` in effect.
pub fn without<T>(capabilities: CapabilitySet, work: impl FnOnce() -> T) -> T {
    let _lowered = InEffect::change(|sets| sets.effective - capabilities);
    work()
}

/// Does `work` as a member of supplementary `groups`, and of no others, if this process may take them.
pub fn with_groups<T>(groups: &[Gid], work: impl FnOnce() -> T) -> T {
    let _joined = Joined::new(groups);
    work()
}

/// The calling thread has other supplementary groups until this is dropped.
struct Joined(Option<Vec<Gid>>);

impl Joined {
    fn new(groups: &[Gid]) -> Self {
        let before = if groups.is_empty() { None } else { getgroups().ok() };
        Self(before.filter(|_| set_thread_groups(groups).is_ok()))
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // What was taken can be given back.
            let _ = set_thread_groups(before);
        }
    }
}

/// Other capabilities are in effect in the calling thread until this is dropped.
struct InEffect(Option<CapabilitySets>);

impl InEffect {
    fn change(effective: impl Fn(&CapabilitySets) -> CapabilitySet) -> Self {
        let changed = capabilities(None).ok().filter(|sets| {
            let effective = effective(sets);
            effective != sets.effective
                && set_capabilities(None, CapabilitySets { effective, ..*sets }).is_ok()
        });
        Self(changed)
    }
}

impl Drop for InEffect {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            // All of them are permitted.
            let _ = set_capabilities(None, before);
        }
    }
}
