//! System and C library calls that no crate wraps: the agent's only `unsafe`.

#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString},
    fs,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr::{NonNull, null_mut},
    slice,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use bywash_common::shared::{SegmentError, sealed_len, sealed_memory};
use nix::{
    sys::signal::SigSet,
    unistd::{ForkResult, Pid, execve},
};
use rustix::{
    fs::{FallocateFlags, SeekFrom, fallocate, seek},
    io::{Errno, FdFlags, Result, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd},
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap},
    pipe::{SpliceFlags, splice},
};

/// From how many bytes on the C library maps what is allocated, rather than to take it from an arena. The FUSE library has
/// a buffer of 16 MiB for the first request of each overlay, of which most stays untouched: fresh pages of a mapping take no
/// memory until then, while what an arena gives was often used before and is filled with zeros. Less than that, what is read
/// for a request among it, would cost page faults each time.
const MAP_FROM_BYTES: i32 = 4 << 20;

/// How much an arena keeps at its end: what the C library would choose by itself for [`MAP_FROM_BYTES`].
const KEEP_BYTES: i32 = 2 * MAP_FROM_BYTES;

/// How many arenas there are at most. What is known of a file is allocated by one worker and freed by another, so each arena
/// keeps gaps: after a walk over 100,000 files 30 MiB with eight arenas for each CPU, 16 MiB with two in all, 14 MiB with
/// one. Small blocks come from a thread's own cache, so few arenas make nobody wait.
const ARENAS_MAX: i32 = 2;

/// Has the C library hold little memory beyond what is used. To be called before any thread is started.
pub fn keep_memory_small() {
    // Elsewhere large blocks are mapped as they are, and arenas are not the C library's.
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (nix::libc::M_MMAP_THRESHOLD, MAP_FROM_BYTES),
        (nix::libc::M_TRIM_THRESHOLD, KEEP_BYTES),
        (nix::libc::M_ARENA_MAX, ARENAS_MAX),
    ] {
        // SAFETY: `mallopt` takes two numbers and touches the allocator's own parameters alone, under its own lock. All
        // values are within its limits; another would be refused, without consequence.
        unsafe { nix::libc::mallopt(parameter, value) };
    }
}

/// `struct fsxattr` of linux/fs.h: flags, extent size, extents, project, and what is kept for later.
pub type ExtendedFlags = [u32; 7];

/// `struct fuse_backing_map` of linux/fuse.h.
#[repr(C)]
pub struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

mod ioctl {
    use super::{BackingMap, ExtendedFlags};

    nix::ioctl_read!(fs_get_version, b'v', 1, std::ffi::c_long);
    nix::ioctl_read!(fs_get_xattr, b'X', 31, ExtendedFlags);
    nix::ioctl_write_ptr!(fs_set_xattr, b'X', 32, ExtendedFlags);
    nix::ioctl_write_ptr!(fuse_backing_open, 229, 1, BackingMap);
    nix::ioctl_write_ptr!(fuse_backing_close, 229, 2, u32);
}

/// The generation of what `fd` holds: FS_IOC_GETVERSION.
///
/// # Errors
/// `ENOTTY` where the filesystem has none.
pub fn version(fd: &OwnedFd) -> Result<u32> {
    let mut version: std::ffi::c_long = 0;
    // SAFETY: the call writes an `int`, or a `long` on some filesystems, to a place for either that is ours alone until it
    // returns.
    unsafe { ioctl::fs_get_version(fd.as_raw_fd(), &raw mut version) }.map_err(errno)?;
    let bytes = version.to_ne_bytes();
    // Where it was an `int`, the rest is 0.
    Ok(bytes.first_chunk().map_or(0, |int| u32::from_ne_bytes(*int)))
}

/// FS_IOC_FSGETXATTR.
///
/// # Errors
/// As ioctl_xfsgetxattr(2) says.
pub fn extended_flags(fd: &OwnedFd) -> Result<ExtendedFlags> {
    let mut flags = ExtendedFlags::default();
    // SAFETY: the call writes a `struct fsxattr`, which has the size and the alignment of seven `u32`, to a place that is
    // ours alone until it returns.
    unsafe { ioctl::fs_get_xattr(fd.as_raw_fd(), &raw mut flags) }.map_err(errno)?;
    Ok(flags)
}

/// FS_IOC_FSSETXATTR.
///
/// # Errors
/// As ioctl_xfsgetxattr(2) says.
pub fn set_extended_flags(fd: &OwnedFd, flags: &ExtendedFlags) -> Result<()> {
    // SAFETY: the call reads a `struct fsxattr`, which has the size and the alignment of seven `u32`, of which any is valid.
    unsafe { ioctl::fs_set_xattr(fd.as_raw_fd(), flags) }.map_err(errno)?;
    Ok(())
}

/// The most bytes of a file handle: MAX_HANDLE_SZ of linux/exportfs.h.
pub const HANDLE_BYTES_MAX: usize = 128;

/// By what a filesystem finds a file again: what name_to_handle_at(2) gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHandle {
    /// Its kind, which the filesystem alone understands.
    pub kind: i32,
    /// At most [`HANDLE_BYTES_MAX`].
    pub bytes: Vec<u8>,
}

/// `struct file_handle` of linux/fcntl.h, with room for the longest.
#[repr(C)]
struct RawHandle {
    len: u32,
    kind: i32,
    bytes: [u8; HANDLE_BYTES_MAX],
}

/// By what its filesystem finds the file again that `fd` holds: name_to_handle_at(2).
///
/// # Errors
/// `EOPNOTSUPP` where the filesystem has no such thing.
pub fn file_handle(fd: &OwnedFd) -> Result<FileHandle> {
    let mut handle = RawHandle { len: HANDLE_BYTES_MAX as u32, kind: 0, bytes: [0; HANDLE_BYTES_MAX] };
    let mut mount: std::ffi::c_int = 0;
    // SAFETY: the call reads an empty path, and writes a handle of at most `len` bytes, to which `bytes` gives room behind the
    // two numbers as in the kernel's structure, and an `int`; both are ours alone until it returns.
    let done = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_name_to_handle_at,
            fd.as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount,
            nix::libc::AT_EMPTY_PATH,
        )
    };
    if done != 0 {
        return Err(errno(nix::errno::Errno::last()));
    }
    let bytes = handle.bytes.get(..handle.len as usize).ok_or(Errno::OVERFLOW)?.to_vec();
    Ok(FileHandle { kind: handle.kind, bytes })
}

/// Opens the file that `handle` stands for with O_PATH, in the filesystem that `filesystem` is a descriptor in:
/// open_by_handle_at(2).
///
/// # Errors
/// `ESTALE` if there is no such file; `EPERM` without CAP_DAC_READ_SEARCH.
pub fn open_by_handle(filesystem: &OwnedFd, handle: &FileHandle) -> Result<OwnedFd> {
    let mut raw = RawHandle { len: 0, kind: handle.kind, bytes: [0; HANDLE_BYTES_MAX] };
    raw.bytes.get_mut(..handle.bytes.len()).ok_or(Errno::INVAL)?.copy_from_slice(&handle.bytes);
    raw.len = handle.bytes.len() as u32;
    // SAFETY: the call reads a handle of `len` bytes, all of which are there, checked above.
    let fd = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_open_by_handle_at,
            filesystem.as_raw_fd(),
            &raw mut raw,
            nix::libc::O_PATH | nix::libc::O_CLOEXEC,
        )
    };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(|| errno(nix::errno::Errno::last()))?;
    // SAFETY: the call has just given this descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes what `fd` holds known to the FUSE connection `device`: FUSE_DEV_IOC_BACKING_OPEN. Gives its number there.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN, `ELOOP` for a file on a stacked filesystem.
pub fn open_backing(device: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> Result<u32> {
    let map = BackingMap { fd: fd.as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: the call reads a `struct fuse_backing_map`, which `BackingMap` is, from a place that lives until it returns.
    let number = unsafe { ioctl::fuse_backing_open(device.as_raw_fd(), &raw const map) }.map_err(errno)?;
    u32::try_from(number).map_err(|_| Errno::INVAL)
}

/// Has the FUSE connection `device` forget what it knows by `number`: FUSE_DEV_IOC_BACKING_CLOSE.
///
/// # Errors
/// `ENOENT` if there is nothing of that number.
pub fn close_backing(device: BorrowedFd<'_>, number: u32) -> Result<()> {
    // SAFETY: the call reads a number of 32 bits from a place that lives until it returns.
    unsafe { ioctl::fuse_backing_close(device.as_raw_fd(), &raw const number) }.map_err(errno)?;
    Ok(())
}

/// Memory of whole pages, which take none until they are used.
pub struct Pages {
    begin: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is private memory that this value alone refers to.
unsafe impl Send for Pages {}

impl Pages {
    /// `len` bytes of zeros, rounded up to pages.
    ///
    /// # Errors
    /// Without memory.
    pub fn new(len: usize) -> Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping of no file, at an address of the kernel's choice.
        let begin = unsafe { mmap_anonymous(null_mut(), len, protection, MapFlags::PRIVATE) }?;
        let begin = NonNull::new(begin.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { begin, len })
    }

    /// All of it.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `begin` and `len` are those of a mapping that can be read and written and lives as long as `self`, which is
        // borrowed as long as the slice lives; the kernel has filled it with zeros.
        unsafe { slice::from_raw_parts_mut(self.begin.as_ptr(), self.len) }
    }

    /// Gives the memory of all pages from `at` on back: they are zeros again. `at` is a multiple of the size of pages.
    pub fn give_back_from(&mut self, at: usize) {
        let Some(rest) = self.bytes().get_mut(at..) else { return };
        // SAFETY: private memory of no file, of this mapping alone, to which nothing refers: it is zeros afterwards, which
        // are bytes. Where the kernel refuses, nothing changes.
        let _ = unsafe { madvise(rest.as_mut_ptr().cast(), rest.len(), Advice::LinuxDontNeed) };
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this begin and length, and nothing refers to it any more.
        let _ = unsafe { munmap(self.begin.as_ptr().cast(), self.len) };
    }
}

/// Memory of a file of its own that outlives this process in whoever else has that open. It begins with words, and the rest are
/// bytes, into which calls may copy by the file. It takes no memory until it is used.
#[derive(Debug)]
pub struct LastingPages {
    file: OwnedFd,
    begin: NonNull<u8>,
    len: usize,
}

/// How many words [`LastingPages`] begin with: two pages.
pub const LASTING_WORDS: usize = 1024;
const LASTING_WORD_BYTES: usize = LASTING_WORDS * size_of::<AtomicU64>();

// SAFETY: as of `Pages`. Who else has the file open only keeps it for a process that comes after this one.
unsafe impl Send for LastingPages {}

impl LastingPages {
    /// Words and `len` bytes, all zero. `name` is shown in /proc alone.
    ///
    /// # Errors
    /// Without memory.
    pub fn new(name: &str, len: usize) -> Result<Self> {
        Self::of(sealed_memory(name, (LASTING_WORD_BYTES + len) as u64)?, len)
    }

    /// What a process that is no more has left in `file`, which was made with the same `len`.
    ///
    /// # Errors
    /// `INVAL` if that is something else.
    pub fn of(file: OwnedFd, len: usize) -> Result<Self> {
        let len = LASTING_WORD_BYTES + len;
        match sealed_len(&file) {
            Ok(found) if found == len as u64 => {}
            Ok(_) | Err(SegmentError::NotSealed | SegmentError::Length(_)) => return Err(Errno::INVAL),
            Err(SegmentError::System(error)) => {
                return Err(Errno::from_io_error(&error).unwrap_or(Errno::INVAL));
            }
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address of the kernel's choice, of a file that nobody can cut short.
        let begin = unsafe { mmap(null_mut(), len, protection, MapFlags::SHARED, &file, 0) }?;
        let begin = NonNull::new(begin.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { file, begin, len })
    }

    /// What it begins with.
    pub fn words(&self) -> &[AtomicU64; LASTING_WORDS] {
        // SAFETY: the mapping begins with a page and has so many bytes at least, of which any are valid words; it lives as long
        // as `self`, and these of its bytes are referred to by nothing else.
        unsafe { self.begin.cast().as_ref() }
    }

    /// The rest.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: within the mapping, which lives as long as `self`. They change by the methods that take `&mut self` alone:
        // no other process uses the file as long as this one lives.
        unsafe {
            slice::from_raw_parts(self.begin.as_ptr().add(LASTING_WORD_BYTES), self.len - LASTING_WORD_BYTES)
        }
    }

    /// The rest, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `self` is borrowed for this alone as long as the slice lives.
        unsafe {
            slice::from_raw_parts_mut(
                self.begin.as_ptr().add(LASTING_WORD_BYTES),
                self.len - LASTING_WORD_BYTES,
            )
        }
    }

    /// Moves up to `len` bytes out of `pipe` to the place among [`Self::bytes`] where the file's position is, and that on by as
    /// many, at once: whatever ends this process, the position says how many were moved. Gives how many.
    ///
    /// # Errors
    /// As splice(2) says: `AGAIN` if nothing is there.
    pub fn fill(&mut self, pipe: impl AsFd, len: usize) -> Result<usize> {
        splice(pipe, None, &self.file, None, len, SpliceFlags::NONBLOCK)
    }

    /// The file's position, as a place among [`Self::bytes`]: [`Self::set_position`] comes first.
    ///
    /// # Errors
    /// As lseek(2) says.
    pub fn position(&self) -> Result<usize> {
        let position = usize::try_from(seek(&self.file, SeekFrom::Current(0))?).unwrap_or(usize::MAX);
        Ok(position.saturating_sub(LASTING_WORD_BYTES))
    }

    /// Puts the file's position to `at` among [`Self::bytes`].
    ///
    /// # Errors
    /// As lseek(2) says.
    pub fn set_position(&mut self, at: usize) -> Result<()> {
        seek(&self.file, SeekFrom::Start((LASTING_WORD_BYTES + at) as u64)).map(drop)
    }

    /// Gives the memory of the bytes from `at` on back: they are zeros again.
    pub fn give_back_from(&mut self, at: usize) {
        let begin = LASTING_WORD_BYTES + at;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // Where the kernel refuses, nothing changes.
        let _ = fallocate(&self.file, flags, begin as u64, self.len.saturating_sub(begin) as u64);
    }
}

impl AsFd for LastingPages {
    /// Who keeps it open keeps the memory.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for LastingPages {
    fn drop(&mut self) {
        // SAFETY: as of `Pages`.
        let _ = unsafe { munmap(self.begin.as_ptr().cast(), self.len) };
    }
}

fn errno(errno: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(errno as i32)
}

/// The number of the first descriptor that a process is handed (SD_LISTEN_FDS_START of sd_listen_fds(3)).
pub const FIRST_HANDED: RawFd = 3;

/// The exit code of a child whose program could not be started, as shells have it.
pub const NOT_STARTED: i32 = 127;

/// Takes over descriptors that this process was started with, by their numbers: each that is open and is there once. They
/// are closed at an exec from then on. To be called once, before anything else is opened: later calls give nothing.
pub fn handed(numbers: impl Iterator<Item = RawFd>) -> Vec<Option<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let mut seen = std::collections::HashSet::new();
    let take = |number: RawFd| {
        if number < FIRST_HANDED || !seen.insert(number) {
            return None;
        }
        // SAFETY: `number` is not -1, and is only looked at here; a number that is not open gives EBADF.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl_getfd(borrowed).and_then(|flags| fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC)).ok()?;
        // SAFETY: the number is open. Whoever started this process has said that it is handed over, so no other part of this
        // program, which has opened nothing under that number, owns it; and it is taken once: `TAKEN` and `seen`.
        Some(unsafe { OwnedFd::from_raw_fd(number) })
    };
    numbers.map(take).collect()
}

/// Removes variables from this process's environment.
///
/// # Errors
/// `EBUSY` if the process has other threads: they may look at it.
pub fn remove_variables(names: &[&str]) -> Result<()> {
    require_one_thread()?;
    for name in names {
        // SAFETY: this is the only thread, so nobody reads or writes the environment meanwhile.
        unsafe { std::env::remove_var(name) };
    }
    Ok(())
}

fn require_one_thread() -> Result<()> {
    let threads = fs::read_dir("/proc/self/task").map_err(|_| Errno::NOTSUP)?.count();
    if threads == 1 { Ok(()) } else { Err(Errno::BUSY) }
}

/// Starts `program` with `arguments` and with `environment`, which learns the process's id, as a child of this process. It is
/// handed `descriptors` under the numbers from [`FIRST_HANDED`] on. Of its signals those in `blocked` are, and come once it lets
/// them. If it cannot be started, it ends with [`NOT_STARTED`].
///
/// # Errors
/// `EBUSY` if this process has other threads; what fork(2) says.
pub fn spawn(
    program: &CStr,
    arguments: &[CString],
    environment: impl FnOnce(Pid) -> Vec<CString>,
    descriptors: &[BorrowedFd<'_>],
    blocked: &SigSet,
) -> Result<Pid> {
    require_one_thread()?;
    // SAFETY: this is the only thread, so no lock of the allocator or of anything else is held by one that is not there in the
    // child, and the child may do whatever this process may.
    match unsafe { nix::unistd::fork() }.map_err(errno)? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let environment = environment(Pid::this());
            if hand_over(descriptors).is_ok() && blocked.thread_set_mask().is_ok() {
                let _ = execve(program, arguments, &environment);
            }
            // SAFETY: ends this process at once: what its parent has to do at an end is not the child's.
            unsafe { nix::libc::_exit(NOT_STARTED) }
        }
    }
}

/// Gives `descriptors` the numbers from [`FIRST_HANDED`] on, in a process that only has to start another program.
fn hand_over(descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let behind = FIRST_HANDED + RawFd::try_from(descriptors.len()).map_err(|_| Errno::MFILE)?;
    // Out of the way of each other first.
    let moved: Vec<OwnedFd> =
        descriptors.iter().map(|fd| fcntl_dupfd_cloexec(fd, behind)).collect::<Result<_>>()?;
    for (fd, number) in moved.iter().zip(FIRST_HANDED..) {
        // SAFETY: dup2(2) touches no memory. It closes whatever had `number`, and none of this process's code runs any more
        // that could use that: the caller goes on to execve(2) or ends.
        if unsafe { nix::libc::dup2(fd.as_raw_fd(), number) } < 0 {
            return Err(Errno::NOSPC);
        }
    }
    Ok(())
}
