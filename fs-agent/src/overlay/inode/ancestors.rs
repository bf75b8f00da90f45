//! The walk from a file up to the overlay's root, name by name. Users decide how deep directories are, so nothing here recurses.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, ResolveFlags, openat2, statx},
    io::Errno,
};

use super::{
    super::{ADMITTED, Result, links::Link, lock},
    Inode,
};
use crate::sys::FileHandle;

/// The longest path that the kernel walks at once: PATH_MAX of linux/limits.h, less the zero at its end.
const WALK_BYTES_MAX: usize = 4095;

/// The names from a directory that has a descriptor down to a file.
struct WayDown {
    base: Arc<OwnedFd>,
    /// The file's own name comes first.
    links: Vec<Arc<Link>>,
}

impl Inode {
    /// Opens the file by one of its names, or else by what its filesystem finds it by.
    ///
    /// # Errors
    /// `ESTALE` if none leads to it any more. Others, such as `EMFILE`, say nothing of that.
    pub(super) fn find_again(&self) -> Result<OwnedFd> {
        for link in self.links.live() {
            let Some(way) = way_down(link) else { continue };
            match self.held.with_descriptor(|| way.open()) {
                Ok(fd) if self.is_held_by(&fd)? => return Ok(fd),
                // What is there now is another file, or nothing, or not on the way.
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error),
            }
        }
        let handle = FileHandle::of(&self.slot).ok_or(Errno::STALE)?;
        match self.held.open_by_handle(&handle) {
            Ok(fd) if self.is_held_by(&fd)? => Ok(fd),
            // Without CAP_DAC_READ_SEARCH nothing is found by handles.
            Ok(_) | Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => Err(Errno::STALE),
            Err(error) => Err(error),
        }
    }

    /// Whether `fd` holds this file. Where its filesystem does not say when it came into being, another file that has got its
    /// number is told from it by what the filesystem finds it by, if that is known: there is a generation in it.
    pub fn is_held_by(&self, fd: &OwnedFd) -> Result<bool> {
        if !self.is(&statx(fd, "", AtFlags::EMPTY_PATH, ADMITTED)?) {
            return Ok(false);
        }
        if self.is_birth_known {
            return Ok(true);
        }
        let known = FileHandle::of(&self.slot);
        Ok(known.is_none_or(|known| self.held.handle_of(self.key.0, fd).is_none_or(|found| found == known)))
    }
}

/// The way down to what `link` names. None if it is lost, or was moved behind the overlay's back so that it seems to
/// lie below itself.
fn way_down(link: Arc<Link>) -> Option<WayDown> {
    let mut links = vec![link];
    // Looked out for, and set anew whenever the way has doubled: a circle leads back to it.
    let mut landmark: *const Inode = std::ptr::null();
    loop {
        let above = Arc::clone(&links.last()?.parent);
        if let Some(base) = lock(&above.fd).clone() {
            above.used.store(true, Ordering::Relaxed);
            return Some(WayDown { base, links });
        }
        if std::ptr::eq(landmark, Arc::as_ptr(&above)) {
            return None;
        }
        if links.len().is_power_of_two() {
            landmark = Arc::as_ptr(&above);
        }
        let next = above.links.first().filter(|link| link.is_live())?;
        links.push(next);
    }
}

impl WayDown {
    /// The file at its end, opened with O_PATH.
    fn open(&self) -> Result<OwnedFd> {
        let mut reached: Option<OwnedFd> = None;
        let mut path = Vec::new();
        for link in self.links.iter().rev() {
            if path.len() + 1 + link.name.len() > WALK_BYTES_MAX {
                reached = Some(self.walk(reached.as_ref(), &path, OFlags::DIRECTORY)?);
                path.clear();
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&link.name);
        }
        self.walk(reached.as_ref(), &path, OFlags::empty())
    }

    fn walk(&self, from: Option<&OwnedFd>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        let flags = flags | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat2(from.unwrap_or(&self.base), path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
    }
}

impl Drop for Inode {
    /// Lets go of the directories above that nobody else holds, one after the other: each dropped by the one below it,
    /// as Rust does by itself, they would take as much stack as there are of them.
    fn drop(&mut self) {
        let mut links = self.links.take();
        while let Some(link) = links.pop() {
            let Some(Link { parent, .. }) = Arc::into_inner(link) else { continue };
            if let Some(mut last) = Arc::into_inner(parent) {
                links.append(&mut last.links.take());
            }
        }
    }
}
