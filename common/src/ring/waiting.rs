//! A publisher that waits for its ring says so: there is no ring in which it could.
//!
//! While it waits there is an object `NAME.waiting`, which only says who waits and since when. It counts as long as whoever
//! made it holds a lock on it, which the kernel takes away however the process ends. Nothing acts on it but `status`.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
};

use nix::libc;

use crate::clock::now_ns;

use super::{
    memory::Access,
    object::{Claim, Claimed, Object, Trust, claim, is_claimed, open, path_of, remove},
};

/// What the object's name ends with.
pub(super) const ENDING: &str = ".waiting";
/// Anybody may know that a publisher waits.
const MODE: u32 = 0o644;
/// Process id and time, 8 bytes each.
const LEN: usize = 16;

/// Says that this process waits for a ring, until it is dropped.
#[derive(Debug)]
pub struct Waiting(Object);

/// A publisher that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Its process id, where it runs.
    pub pid: u64,
    /// The user as whom it runs.
    pub owner: u32,
    /// Since when it waits, in nanoseconds since the epoch.
    pub since_ns: u64,
}

impl Waiting {
    /// Says so from now on. Gives none where that cannot be said: it is for people alone, and nothing depends on it.
    pub fn announce(ring: &str) -> Option<Self> {
        let said = Self::try_announce(ring);
        if let Err(error) = &said {
            tracing::debug!("`publisher status` will not show that this publisher waits: {error}");
        }
        said.ok().flatten()
    }

    fn try_announce(ring: &str) -> io::Result<Option<Self>> {
        let name = format!("{ring}{ENDING}");
        let path = path_of(&name);
        // A killed publisher's, or another user's, which this one may not write to.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(MODE)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        if !file.metadata()?.is_file() || file.metadata()?.nlink() != 1 {
            return Ok(None);
        }
        let object = Object { file, name };
        if !matches!(claim(&object, Claim::Role), Ok(Claimed::Ours)) {
            return Ok(None);
        }
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(&u64::from(std::process::id()).to_ne_bytes());
        bytes[8..].copy_from_slice(&now_ns().to_ne_bytes());
        object.file.write_all_at(&bytes, 0)?;
        Ok(Some(Self(object)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Held meanwhile, so that it is no other's by now. What stays says nothing once its lock is gone.
        if self.0.is_named() {
            let _ = remove(&self.0.name);
        }
    }
}

/// The publisher that waits for a ring, if one does.
pub fn waiter(ring: &str) -> Option<Waiter> {
    let name = format!("{ring}{ENDING}");
    let owner = fs::symlink_metadata(path_of(&name)).ok()?.uid();
    let object = open(name, &Trust::only(owner), Access::Read, None).ok()??;
    if !is_claimed(&object, Claim::Role) {
        return None;
    }
    let mut bytes = [0; LEN];
    object.file.read_exact_at(&mut bytes, 0).ok()?;
    let (pid, since) = bytes.split_at(8);
    let word = |half: &[u8]| half.try_into().map(u64::from_ne_bytes).unwrap_or_default();
    Some(Waiter { pid: word(pid), owner, since_ns: word(since) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publisher_that_waits_is_seen_as_long_as_it_does() {
        let ring = format!("bywash-test-{}-waiting", std::process::id());
        assert_eq!(waiter(&ring), None);
        let waiting = Waiting::announce(&ring).unwrap();
        let seen = waiter(&ring).unwrap();
        assert_eq!(seen.pid, u64::from(std::process::id()));
        assert!(seen.since_ns <= now_ns());
        assert!(Waiting::announce(&ring).is_none(), "one at a time");
        drop(waiting);
        assert_eq!(waiter(&ring), None);
        assert!(!path_of(&format!("{ring}{ENDING}")).exists());
        // What a killed one has left says nothing.
        fs::write(path_of(&format!("{ring}{ENDING}")), [1; LEN]).unwrap();
        assert_eq!(waiter(&ring), None);
        drop(Waiting::announce(&ring).unwrap());
    }
}
