//! Who asks for an operation, and what of it the FUSE protocol does not say.

use std::fs;

use rustix::{process::Gid, thread::CapabilitySet};

use crate::privilege;

/// Who asks for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The effective user.
    pub uid: u32,
    /// The effective group.
    pub gid: u32,
    /// The thread, as this process sees it; 0 if it does not. It waits for the answer, so no other can have its number.
    pub thread: u32,
}

impl Caller {
    /// The same, when it does not wait for an answer any more.
    pub fn gone(self) -> Self {
        Self { thread: 0, ..self }
    }

    /// Whether it is in `group`, as far as /proc tells: one that is gone, or not seen, has its first group alone.
    pub fn is_member(&self, group: u32) -> bool {
        self.gid == group
            || self.status().is_some_and(|status| supplementary_groups(&status).any(|member| member == group))
    }

    /// Whether it has a capability, as far as /proc tells: one that is gone, or not seen, has none, nor has one in another
    /// user namespace, where capabilities mean less. Namespaces are told apart by their tables of ids.
    pub fn holds(&self, capability: CapabilitySet) -> bool {
        let Some(effective) = self.status().as_deref().and_then(effective) else { return false };
        let ids = |process: &str| fs::read_to_string(format!("/proc/{process}/uid_map")).ok();
        effective.contains(capability) && ids(&self.thread.to_string()) == ids("self")
    }

    /// What it has beyond its ids, as far as /proc tells; nothing if that is nothing.
    pub fn more(&self) -> Option<More> {
        let status = self.status()?;
        let groups: Vec<Gid> = supplementary_groups(&status).map(Gid::from_raw).collect();
        let exceeds_limits = self.holds(CapabilitySet::SYS_RESOURCE);
        (exceeds_limits || !groups.is_empty()).then_some(More { groups, exceeds_limits })
    }

    fn status(&self) -> Option<String> {
        if self.thread == 0 { None } else { fs::read_to_string(format!("/proc/{}/status", self.thread)).ok() }
    }
}

/// What a caller has beyond its ids, and filesystems ask for: supplementary groups, for which ext4 may have blocks in
/// reserve and by which a file server lets in, and CAP_SYS_RESOURCE, by which quotas and reserves do not stop it.
#[derive(Debug)]
pub struct More {
    groups: Vec<Gid>,
    exceeds_limits: bool,
}

impl More {
    /// Does `work` with it.
    pub fn lend<T>(&self, work: impl FnOnce() -> T) -> T {
        let capabilities =
            if self.exceeds_limits { CapabilitySet::SYS_RESOURCE } else { CapabilitySet::empty() };
        privilege::with(capabilities, || privilege::with_groups(&self.groups, work))
    }
}

fn supplementary_groups(status: &str) -> impl Iterator<Item = u32> {
    let groups = field(status, "Groups:").unwrap_or_default();
    groups.split_ascii_whitespace().filter_map(|group| group.parse().ok())
}

fn effective(status: &str) -> Option<CapabilitySet> {
    let bits = u64::from_str_radix(field(status, "CapEff:")?.trim(), 16).ok()?;
    Some(CapabilitySet::from_bits_retain(bits))
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supplementary_groups_are_found_in_status() {
        let groups = |status| supplementary_groups(status).collect::<Vec<_>>();
        assert_eq!(groups("Name:\tx\nGroups:\t4 24 1000 \nNStgid:\t1\n"), [4, 24, 1000]);
        assert!(groups("Groups:\t \n").is_empty());
        assert!(groups("").is_empty());
    }

    #[test]
    fn capabilities_are_those_of_the_thread_and_nobodys_if_it_is_not_seen() {
        assert_eq!(
            effective("CapPrm:\t1\nCapEff:\t0000000001000001\n"),
            Some(CapabilitySet::CHOWN | CapabilitySet::SYS_RESOURCE)
        );
        assert_eq!(effective("CapEff:\tx\n"), None);
        let mine = rustix::thread::capabilities(None).unwrap().effective;
        let me = Caller {
            uid: 0,
            gid: 0,
            thread: rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned(),
        };
        for one in [CapabilitySet::SYS_RESOURCE, CapabilitySet::CHOWN] {
            assert_eq!(me.holds(one), mine.contains(one));
            assert!(!me.gone().holds(one));
        }
    }
}
