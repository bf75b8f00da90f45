//! The memory of a real ring: two mapped POSIX shared-memory objects.
//!
//! The crate `shared_memory` makes the objects. It opens existing ones by name alone, and for writing: here an object
//! is mapped by the descriptor that was opened and checked, so that no name is walked twice, and with no more rights
//! than the descriptor has.

use std::{fs::File, io, os::fd::AsRawFd, ptr::NonNull, time::Duration};

use shared_memory::{ShmemConf, ShmemError};

use crate::{
    ring::layout,
    sync::{AtomicU32, AtomicU64},
};

use super::{
    fault::Guarded,
    interface::{Memory, OutOfBounds},
};

/// Bytes that the processor fetches at a time.
#[cfg(target_arch = "x86_64")]
const CACHE_LINE: usize = 64;

/// How much [`Mapping::populate`] does at once, which takes some 0.1 ms.
const POPULATE_STEP_BYTES: usize = 1 << 20;

/// What this process may do with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Makes the object `name` of `len` bytes, owned by the caller, its mode 0600 or less. No memory is allocated for it.
///
/// # Errors
/// Whatever shm_open(3), ftruncate(2) or mmap(2) say; `AlreadyExists` if the name is taken.
pub(crate) fn create_object(name: &str, len: usize) -> io::Result<()> {
    let made = ShmemConf::new().os_id(name).size(len).create();
    let mut shmem = made.map_err(|error| match error {
        ShmemError::MappingIdExists => io::Error::from(io::ErrorKind::AlreadyExists),
        ShmemError::MapCreateFailed(errno) | ShmemError::UnknownOsError(errno) => {
            io::Error::from_raw_os_error(errno.cast_signed())
        }
        other => io::Error::other(other),
    })?;
    // Otherwise it would be removed again.
    shmem.set_owner(false);
    Ok(())
}

/// A mapping of one shared-memory object, until dropped.
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
    guard: Guarded,
}

// SAFETY: `base` stays valid until the drop, and moves with the mapping; all access is by atomics or by copies whose
// ranges the protocol keeps apart (reservations do not overlap, see `producer`).
unsafe impl Send for Mapping {}
// SAFETY: as above: `&Mapping` gives atomics and raw copies, no references to the bytes.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Before the address can be another mapping's.
        self.guard.end();
        // SAFETY: the range is exactly the mapping that `of` made. No borrow of it is left, since all of them borrow
        // `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

impl Mapping {
    /// Maps the first `len` bytes of an open object. A store through a mapping for [`Access::Read`] kills the process:
    /// each side stores into its own segment alone.
    ///
    /// # Errors
    /// Whatever mmap(2) says.
    pub(crate) fn of(file: &File, len: usize, access: Access) -> io::Result<Self> {
        let mut mapping = Self::of_sealed(file, len, access)?;
        mapping.guard = Guarded::new(mapping.base.as_ptr() as usize, len);
        Ok(mapping)
    }

    /// As [`Self::of`], of an object that nobody can cut short: it takes no guard, of which there are few.
    ///
    /// # Errors
    /// Whatever mmap(2) says.
    pub(crate) fn of_sealed(file: &File, len: usize, access: Access) -> io::Result<Self> {
        let protection = match access {
            Access::Read => libc::PROT_READ,
            Access::Write => libc::PROT_READ | libc::PROT_WRITE,
        };
        // SAFETY: the kernel chooses the address, so that nothing that is mapped already is touched; the descriptor is
        // open for as long as the call takes.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::InvalidData)?;
        // mmap(2) gives page-aligned addresses, so a multiple of 8 from the base is aligned for an u64.
        Ok(Self { base, len, guard: Guarded::not_needed() })
    }

    /// Enters every page into this process's page table, as far as the kernel does that on request (Linux 5.14): else the
    /// first access to each costs a fault. Takes some 0.1 us a page. Goes by steps: a thread that maps or unmaps memory waits for
    /// a step at most.
    pub(crate) fn populate(&self, access: Access) {
        let advice = match access {
            Access::Write => libc::MADV_POPULATE_WRITE,
            Access::Read => libc::MADV_POPULATE_READ,
        };
        for at in (0..self.len).step_by(POPULATE_STEP_BYTES) {
            let len = POPULATE_STEP_BYTES.min(self.len - at);
            // SAFETY: the range lies within this mapping, and its content stays as it is. What fails here is left to faults.
            unsafe { libc::madvise(self.base.as_ptr().add(at).cast(), len, advice) };
        }
    }

    /// Whether no peer has cut the object short, as far as is known.
    #[inline]
    pub(crate) fn is_intact(&self) -> bool {
        self.guard.is_intact()
    }

    /// The address of `len` bytes at `at`, if they lie within the mapping.
    #[inline]
    fn place(&self, at: usize, len: usize) -> Result<*mut u8, OutOfBounds> {
        let end = at.checked_add(len).ok_or(OutOfBounds)?;
        if end > self.len {
            return Err(OutOfBounds);
        }
        // SAFETY: `at` is within the allocation, checked above.
        Ok(unsafe { self.base.as_ptr().add(at) })
    }

    /// Copies `bytes` into the mapping at `at`.
    #[inline]
    pub(crate) fn write(&self, at: usize, bytes: &[u8]) -> Result<(), OutOfBounds> {
        let to = self.place(at, bytes.len())?;
        // SAFETY: `to` has `bytes.len()` bytes within the mapping; `bytes` is private memory, so they do not
        // overlap. Another thread of this process never writes there: ranges come from reservations.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    /// Copies bytes of the mapping at `at` out into `into`.
    #[inline]
    pub(crate) fn read(&self, at: usize, into: &mut [u8]) -> Result<(), OutOfBounds> {
        let from = self.place(at, into.len())?;
        // SAFETY: `from` has `into.len()` bytes within the mapping; `into` is private memory, so they do not
        // overlap. A peer that writes meanwhile yields torn bytes, which the checksum over the copy refuses.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        Ok(())
    }
}

impl Mapping {
    /// Appends `len` bytes of the mapping at `at` to `into`.
    #[inline]
    pub(crate) fn read_append(&self, at: usize, len: usize, into: &mut Vec<u8>) -> Result<(), OutOfBounds> {
        let from = self.place(at, len)?;
        into.reserve(len);
        let done = into.len();
        // SAFETY: as in `read`; `into` has room for `len` bytes, just reserved, and they are all written before
        // its length says so. Filling them with zeros first would cost a tenth of the copy.
        unsafe {
            std::ptr::copy_nonoverlapping(from, into.as_mut_ptr().add(done), len);
            into.set_len(done + len);
        }
        Ok(())
    }

    /// Asks the processor to fetch `len` bytes at `at`, with the right to write them if they are to be written.
    #[inline]
    pub(crate) fn prefetch<const TO_WRITE: bool>(&self, at: usize, len: usize) {
        #[cfg(target_arch = "x86_64")]
        if let Ok(from) = self.place(at, len) {
            use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};
            for line in (0..len).step_by(CACHE_LINE) {
                let line = from.wrapping_add(line).cast_const().cast();
                // SAFETY: a prefetch neither faults nor changes a value; the address lies within the mapping anyway.
                unsafe {
                    if TO_WRITE {
                        _mm_prefetch::<_MM_HINT_ET0>(line);
                    } else {
                        _mm_prefetch::<_MM_HINT_T0>(line);
                    }
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (at, len);
    }

    /// The shared word at `at`, one of the places that `layout` names.
    #[inline]
    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(
            at.is_multiple_of(8) && at + 8 <= self.len.min(layout::RECORDS),
            "word {at:#x} is not a control word"
        );
        // SAFETY: in bounds and aligned, asserted above (for constants of `layout`, once the segment's least
        // length is checked at attach, this cannot fail); the mapping outlives the returned borrow of self;
        // these bytes are only ever used as atomics.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast()) }
    }

    /// The word at `at` of a mapping that has no bytes beside words.
    #[inline]
    pub(crate) fn any_word(&self, at: usize) -> &AtomicU64 {
        let is_within = at.is_multiple_of(8) && at.checked_add(8).is_some_and(|end| end <= self.len);
        assert!(is_within, "word {at:#x} is not within {:#x} bytes", self.len);
        // SAFETY: in bounds and aligned, asserted above; the mapping outlives the returned borrow of self. That nothing
        // else than atomics reaches these bytes is up to `Segment`, which is all that calls this.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast()) }
    }

    /// The shared 32-bit word at `at`, used as a futex.
    #[inline]
    pub(crate) fn futex(&self, at: usize) -> &AtomicU32 {
        assert!(
            at.is_multiple_of(4) && at + 4 <= self.len.min(layout::RECORDS),
            "word {at:#x} is not a control word"
        );
        // SAFETY: as in `word`.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(at).cast()) }
    }
}

/// Wakes every process that waits on `word`. Works through a read-only mapping, and needs no answer: a waiter
/// that is not there is not woken.
pub(crate) fn futex_wake(word: &AtomicU32) {
    // SAFETY: FUTEX_WAKE reads no memory but uses the address as a key; `word` is a live, aligned u32.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

/// Sleeps until woken, or `timeout` has passed, or at once if `word` no longer holds `expected`. Tells whether the
/// word is there: the kernel cannot wait on a page that a peer has cut off.
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32, timeout: Duration) -> bool {
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: `word` is a live, aligned u32 and `timeout` outlives the call. EAGAIN, EINTR and ETIMEDOUT mean
    // "look again", which every caller does.
    let done = unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, &raw const timeout)
    };
    done == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EFAULT)
}

/// The two segments of one ring, mapped.
pub struct Segments {
    pub(crate) data: Mapping,
    pub(crate) ack: Mapping,
    pub(crate) capacity: u64,
}

impl Memory for Segments {
    #[inline]
    fn capacity(&self) -> u64 {
        self.capacity
    }

    #[inline]
    fn data_word(&self, at: usize) -> &AtomicU64 {
        self.data.word(at)
    }

    #[inline]
    fn head(&self) -> &AtomicU64 {
        self.ack.word(layout::HEAD)
    }

    #[inline]
    fn waiter(&self) -> &AtomicU32 {
        self.ack.futex(layout::WAITER)
    }

    #[inline]
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), OutOfBounds> {
        self.data.write(record_place(offset)?, bytes)
    }

    #[inline]
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), OutOfBounds> {
        self.data.read(record_place(offset)?, into)
    }

    #[inline]
    fn read_append(&self, offset: u64, len: usize, into: &mut Vec<u8>) -> Result<(), OutOfBounds> {
        self.data.read_append(record_place(offset)?, len, into)
    }

    #[inline]
    fn will_write(&self, offset: u64, len: usize) {
        if let Ok(at) = record_place(offset) {
            self.data.prefetch::<true>(at, len);
        }
    }

    #[inline]
    fn will_read(&self, offset: u64, len: usize) {
        if let Ok(at) = record_place(offset) {
            self.data.prefetch::<false>(at, len);
        }
    }

    #[inline]
    fn is_intact(&self) -> bool {
        self.data.is_intact() && self.ack.is_intact()
    }

    fn wake(&self) {
        futex_wake(self.waiter());
    }

    fn wait(&self, expected: u32, timeout: Duration) {
        if !futex_wait(self.waiter(), expected, timeout) {
            self.ack.guard.note_broken();
        }
    }
}

/// The place in the data segment of an offset in the record area.
#[inline]
fn record_place(offset: u64) -> Result<usize, OutOfBounds> {
    usize::try_from(offset).ok().and_then(|o| o.checked_add(layout::RECORDS)).ok_or(OutOfBounds)
}
