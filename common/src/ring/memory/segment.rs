//! A piece of memory of one process that outlives it: a memfd, mapped shared, that somebody else keeps open.
//!
//! All access is by 64-bit atomics, bytes included, so that threads may use any place at any time. The object is sealed against
//! shrinking before anybody has it, and one without that seal is refused: a page that is mapped is there, and no access
//! can raise SIGBUS.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create},
    io::Errno,
};

use super::mapping::{Access, Mapping};
use crate::sync::{AtomicU64, Ordering};

/// Bytes of a word; places and lengths are multiples of it.
pub const WORD: usize = 8;

/// The most bytes that a segment may have: what is mapped takes address space, if no memory.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Why an object cannot be mapped.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// Whatever memfd_create(2), fcntl(2), fstat(2) or mmap(2) say.
    #[error("memory that outlives the process: {0}")]
    System(#[from] io::Error),
    /// Whoever holds it could cut it short.
    #[error("it is not sealed against shrinking")]
    NotSealed,
    /// It has no length that a segment can have.
    #[error("it is {0} bytes long: not a multiple of 8 from 8 to {SEGMENT_BYTES_MAX}")]
    Length(u64),
}

impl From<Errno> for SegmentError {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

/// The memory. Its length does not change.
pub struct Segment {
    file: File,
    mapping: Mapping,
    len: usize,
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Segment {
    /// Makes one of `len` bytes, all zero; memory is used as places in it are. `name` is shown in /proc alone.
    ///
    /// # Errors
    /// If `len` is none that a segment can have, or the system gives none.
    pub fn create(name: &str, len: usize) -> Result<Self, SegmentError> {
        let wanted = len as u64;
        if !is_length(wanted) {
            return Err(SegmentError::Length(wanted));
        }
        Self::map(sealed_memory(name, wanted)?)
    }

    /// Maps one that was made before.
    ///
    /// # Errors
    /// If it is no sealed memfd, or has no length that a segment can have.
    pub fn map(fd: OwnedFd) -> Result<Self, SegmentError> {
        let found = sealed_len(&fd)?;
        let len = usize::try_from(found).ok().filter(|_| is_length(found));
        let len = len.ok_or(SegmentError::Length(found))?;
        let file = File::from(fd);
        let mapping = Mapping::of_sealed(&file, len, Access::Write)?;
        Ok(Self { file, mapping, len })
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a segment has at least one word.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The word at `at`, in bytes.
    ///
    /// # Panics
    /// If `at` is no multiple of 8, or not within: places come from a layout that was checked against the length.
    #[inline]
    pub fn word(&self, at: usize) -> &AtomicU64 {
        self.mapping.any_word(at)
    }

    /// Copies `bytes` to `at`, the last word filled up with zeros.
    ///
    /// # Panics
    /// As [`Self::word`] says, for each word.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        for (index, chunk) in bytes.chunks(WORD).enumerate() {
            let mut word = [0; WORD];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(at + index * WORD).store(u64::from_ne_bytes(word), Ordering::Release);
        }
    }

    /// Copies the bytes at `at` out into `into`.
    ///
    /// # Panics
    /// As [`Self::word`] says, for each word.
    pub fn read(&self, at: usize, into: &mut [u8]) {
        for (index, chunk) in into.chunks_mut(WORD).enumerate() {
            let word = self.word(at + index * WORD).load(Ordering::Acquire).to_ne_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

impl AsFd for Segment {
    /// The memfd: who keeps it open keeps the memory.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A memfd of `len` bytes, all zero, that nobody can make shorter or longer; memory is used as places in it are. `name` is shown in
/// /proc alone.
///
/// # Errors
/// What memfd_create(2), ftruncate(2) and fcntl(2) say.
pub fn sealed_memory(name: &str, len: u64) -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Linux before 6.3.
        Err(Errno::INVAL) => memfd_create(name, flags)?,
        made => made?,
    };
    ftruncate(&fd, len)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// How many bytes an object has that nobody can make shorter.
///
/// # Errors
/// [`SegmentError::NotSealed`] if somebody can; what fcntl(2) and fstat(2) say.
pub fn sealed_len(fd: impl AsFd) -> Result<u64, SegmentError> {
    match fcntl_get_seals(&fd) {
        Ok(seals) if seals.contains(SealFlags::SHRINK) => {}
        // EINVAL: an object that knows no seals.
        Ok(_) | Err(Errno::INVAL) => return Err(SegmentError::NotSealed),
        Err(errno) => return Err(errno.into()),
    }
    Ok(u64::try_from(fstat(&fd)?.st_size).unwrap_or(0))
}

fn is_length(len: u64) -> bool {
    len > 0 && len.is_multiple_of(WORD as u64) && len <= SEGMENT_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_there_for_who_maps_it_next() {
        let segment = Segment::create("test", 8192).unwrap();
        segment.word(8).store(7, Ordering::Release);
        segment.write(4096, b"hello world");
        let fd = segment.as_fd().try_clone_to_owned().unwrap();
        drop(segment);
        let next = Segment::map(fd).unwrap();
        assert_eq!(next.len(), 8192);
        assert_eq!(next.word(8).load(Ordering::Acquire), 7);
        let mut read = [1; 16];
        next.read(4096, &mut read);
        assert_eq!(&read, b"hello world\0\0\0\0\0");
        assert_eq!(next.word(8184).load(Ordering::Acquire), 0);
    }

    #[test]
    fn nobody_can_cut_it_short() {
        let segment = Segment::create("test", 4096).unwrap();
        assert_eq!(ftruncate(&segment, 0), Err(Errno::PERM));
        assert_eq!(fcntl_add_seals(&segment, SealFlags::WRITE), Err(Errno::PERM));
    }

    #[test]
    fn what_could_be_cut_or_has_no_length_is_refused() {
        let memfd = |len, seals| {
            let fd = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
            ftruncate(&fd, len).unwrap();
            fcntl_add_seals(&fd, seals).unwrap();
            Segment::map(fd)
        };
        assert!(matches!(memfd(4096, SealFlags::GROW), Err(SegmentError::NotSealed)));
        for len in [0, 12, SEGMENT_BYTES_MAX + 8] {
            assert!(
                matches!(memfd(len, SealFlags::SHRINK), Err(SegmentError::Length(found)) if found == len)
            );
        }
        let file = tempfile::tempfile_in("/").or_else(|_| tempfile::tempfile()).unwrap();
        assert!(matches!(Segment::map(file.into()), Err(SegmentError::NotSealed)));
        assert!(matches!(Segment::create("test", 0), Err(SegmentError::Length(0))));
    }

    #[test]
    #[should_panic(expected = "not within")]
    fn places_outside_are_refused() {
        Segment::create("test", 4096).unwrap().word(4096);
    }
}
