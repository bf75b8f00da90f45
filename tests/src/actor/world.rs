//! A directory in which operations are done.

use std::{
    ffi::CStr,
    io::IoSlice,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::{
    fs::{
        self, Access, AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, SeekFrom, StatVfsMountFlags,
        Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags,
    },
    io::{self, Errno},
    process::{Resource, Rlimit},
};

use super::operation::{Caller, Lock, Operation, Outcome, Seek, Seen, Stat, Step, Time};

/// How many files a process can have open at once.
pub const SLOTS: usize = 4;
/// Times after this one, in the year 2020, come from the clock; generated ones are before.
pub const CLOCK_SECONDS_MIN: i64 = 1_577_836_800;
/// Room for what a directory's or file's lists can grow to here.
const LIST_BYTES_MAX: usize = 64 << 10;
/// pwritev2(2)'s offset for where the file stands.
const CURRENT: u64 = u64::MAX;
/// The flags that F_SETFL can set and that are compared.
const STATUS_FLAGS: OFlags = OFlags::APPEND.union(OFlags::NONBLOCK).union(OFlags::NOATIME);
/// /dev/null.
const NULL_DEVICE: (u32, u32) = (1, 3);

/// A directory, and the files that are open in it.
pub struct World {
    root: PathBuf,
    /// A program made of `fixtures/map.c`.
    mapper: PathBuf,
    handles: [Option<OwnedFd>; SLOTS],
}

/// When a file was modified, and when anything about it was changed: seconds and nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    file: u64,
    modified: (i64, u64),
    changed: (i64, u64),
}

impl Times {
    /// Which of both have gone on; nothing if this is another file by now.
    pub fn gone_on(self, now: Self) -> Option<(bool, bool)> {
        (self.file == now.file).then_some((self.modified != now.modified, self.changed != now.changed))
    }
}

/// Acts as somebody until dropped. The kernel keeps this for each thread apart.
pub struct Acting;

impl Acting {
    /// As a user by its filesystem ids; the others are processes.
    pub fn as_caller(caller: Caller) -> Option<Self> {
        let Caller::User(id) = caller else { return None };
        setfsgid(Gid::from_raw(id));
        setfsuid(Uid::from_raw(id));
        Some(Self)
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        setfsuid(Uid::effective());
        setfsgid(Gid::effective());
    }
}

impl World {
    /// Nothing is open yet, and nothing can be mapped.
    pub fn new(root: &Path) -> Self {
        Self::with_mapper(root, Path::new("/nonexistent"))
    }

    /// Nothing is open yet.
    pub fn with_mapper(root: &Path, mapper: &Path) -> Self {
        Self { root: root.to_owned(), mapper: mapper.to_owned(), handles: Default::default() }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Does one operation.
    pub fn perform(&mut self, step: &Step) -> Outcome {
        let _acting = Acting::as_caller(step.caller);
        match &step.operation {
            Operation::Open { slot, path, flags, mode } => {
                // The place is free first: both worlds then have the same files open whether this works or not.
                self.handles[*slot] = None;
                // A FIFO must not wait for its other end.
                let flags = *flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
                self.handles[*slot] = Some(fs::open(self.path(path), flags, Mode::from_raw_mode(*mode))?);
                Ok(Seen::Done)
            }
            Operation::OpenNameless { slot, path, flags, mode } => {
                self.handles[*slot] = None;
                let flags = *flags | OFlags::TMPFILE | OFlags::CLOEXEC;
                self.handles[*slot] = Some(fs::open(self.path(path), flags, Mode::from_raw_mode(*mode))?);
                Ok(Seen::Done)
            }
            Operation::Close { slot } => {
                self.handles[*slot] = None;
                Ok(Seen::Done)
            }
            operation => match operation.slot() {
                Some(slot) => match &self.handles[slot] {
                    Some(handle) => self.on_handle(handle, operation),
                    None => Ok(Seen::Nothing),
                },
                None => self.on_path(operation),
            },
        }
    }

    /// The times of each file that an operation names or uses, and of the directories that these are in; nothing for one
    /// that is not there.
    pub fn times(&self, step: &Step) -> Vec<(String, Option<Times>)> {
        let _acting = Acting::as_caller(step.caller);
        let times = |stat: &fs::Stat| Times {
            file: stat.st_ino,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        };
        let mut looked_at = Vec::new();
        for path in step.operation.paths() {
            let parent = Path::new(path).parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new(".")).to_string_lossy().into_owned();
            looked_at.extend([path.to_owned(), parent]);
        }
        let paths = looked_at.into_iter().map(|path| {
            let stat = fs::statat(CWD, self.path(&path), AtFlags::SYMLINK_NOFOLLOW);
            (path, stat.ok())
        });
        let mut seen: Vec<_> = paths.collect();
        if let Some(handle) = step.operation.slot().and_then(|slot| self.handles[slot].as_ref()) {
            seen.push(("(open)".to_owned(), fs::fstat(handle).ok()));
        }
        // The kernel moves the bytes of a FIFO by itself: `forced.rs`.
        let is_timed = |stat: &fs::Stat| FileType::from_raw_mode(stat.st_mode) != FileType::Fifo;
        seen.into_iter().map(|(path, stat)| (path, stat.filter(is_timed).as_ref().map(times))).collect()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn on_path(&self, operation: &Operation) -> Outcome {
        let at = |path: &String| self.path(path);
        match operation {
            Operation::Truncate { path, len } => {
                // As truncate(2) has it: beyond the signed numbers there is nothing.
                nix::unistd::truncate(&at(path), len.cast_signed())
                    .map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
            }
            Operation::Rename { from, to, flags } => {
                fs::renameat_with(CWD, at(from), CWD, at(to), *flags)?;
            }
            Operation::Link { from, to, flags } => {
                // By what the kernel remembers of it, it is checked: `forced.rs`.
                let _ = (fs::stat(at(from)), fs::lstat(at(from)));
                fs::linkat(CWD, at(from), CWD, at(to), *flags)?;
            }
            Operation::Symlink { target, path } => fs::symlink(target, at(path))?,
            Operation::Readlink { path } => {
                return Ok(Seen::Bytes(fs::readlink(at(path), Vec::new())?.into_bytes()));
            }
            Operation::Unlink { path } => fs::unlink(at(path))?,
            Operation::Mkdir { path, mode } => fs::mkdir(at(path), Mode::from_raw_mode(*mode))?,
            Operation::Rmdir { path } => fs::rmdir(at(path))?,
            Operation::MakeFifo { path, mode } => {
                fs::mknodat(CWD, at(path), FileType::Fifo, Mode::from_raw_mode(*mode), 0)?;
            }
            Operation::MakeSocket { path, mode } => {
                fs::mknodat(CWD, at(path), FileType::Socket, Mode::from_raw_mode(*mode), 0)?;
            }
            Operation::MakeDevice { path, mode } => {
                let device = fs::makedev(NULL_DEVICE.0, NULL_DEVICE.1);
                let mode = Mode::from_raw_mode(*mode);
                fs::mknodat(CWD, at(path), FileType::CharacterDevice, mode, device)?;
            }
            Operation::Chmod { path, mode } => fs::chmod(at(path), Mode::from_raw_mode(*mode))?,
            Operation::Chown { path, uid, gid, flags } => {
                let (uid, gid) = (uid.map(fs::Uid::from_raw), gid.map(fs::Gid::from_raw));
                fs::chownat(CWD, at(path), uid, gid, *flags)?;
            }
            Operation::SetTimes { path, accessed, modified, flags } => {
                let times =
                    Timestamps { last_access: timespec(*accessed), last_modification: timespec(*modified) };
                fs::utimensat(CWD, at(path), &times, *flags)?;
                // Reading changes it as well, but nobody has read since.
                let stat = fs::statat(CWD, at(path), *flags)?;
                let seconds = stat.st_atime;
                return Ok(Seen::Number(if seconds < CLOCK_SECONDS_MIN {
                    seconds.cast_unsigned()
                } else {
                    0
                }));
            }
            Operation::Stat { path, flags } => return seen_stat(&fs::statat(CWD, at(path), *flags)?),
            Operation::Access { path, mode, flags } => {
                let wanted = Access::from_bits_truncate((*mode).into());
                fs::accessat(CWD, at(path), wanted, *flags)?;
            }
            Operation::StatFs { path } => return stat_fs(&at(path)),
            Operation::ReadDir { path } => return read_dir(&at(path)),
            Operation::Umask { mask } => {
                rustix::process::umask(Mode::from_raw_mode(*mask));
            }
            Operation::LimitFileSize { bytes } => limit_file_size(*bytes)?,
            xattr => return on_xattr(xattr, at),
        }
        Ok(Seen::Done)
    }

    fn on_handle(&self, handle: &OwnedFd, operation: &Operation) -> Outcome {
        match operation {
            Operation::ChmodHandle { mode, .. } => fs::fchmod(handle, Mode::from_raw_mode(*mode))?,
            Operation::ChownHandle { uid, gid, .. } => {
                fs::fchown(handle, uid.map(fs::Uid::from_raw), gid.map(fs::Gid::from_raw))?;
            }
            Operation::TruncateHandle { len, .. } => fs::ftruncate(handle, *len)?,
            Operation::Fallocate { mode, offset, len, .. } => fs::fallocate(handle, *mode, *offset, *len)?,
            Operation::Sync { .. } => fs::fdatasync(handle)?,
            Operation::StatHandle { .. } => return seen_stat(&fs::fstat(handle)?),
            Operation::SetFlags { flags, .. } => {
                // What the open has said for both worlds stays.
                fs::fcntl_setfl(handle, *flags | OFlags::NONBLOCK)?;
                return number((fs::fcntl_getfl(handle)? & STATUS_FLAGS).bits());
            }
            Operation::InodeFlags { .. } => return number(fs::ioctl_getflags(handle)?.bits()),
            Operation::SetInodeFlags { flags, .. } => {
                // As chattr(1): what it does not name stays.
                let kept = fs::ioctl_getflags(handle)? - super::INODE_FLAGS;
                fs::ioctl_setflags(handle, kept | *flags)?;
            }
            Operation::Flock { lock, .. } => fs::flock(handle, locking(*lock))?,
            Operation::RecordLock { lock, .. } => fs::fcntl_lock(handle, locking(*lock))?,
            Operation::LinkHandle { path, .. } => {
                let name = format!("/proc/self/fd/{}", handle.as_raw_fd());
                fs::linkat(CWD, name, CWD, self.path(path), AtFlags::SYMLINK_FOLLOW)?;
            }
            Operation::MapStore { page, content, .. } => {
                let (len, seed) = (content.len.to_string(), content.seed.to_string());
                return self.map(handle, "store", &[(page * 4096).to_string(), len, seed]);
            }
            Operation::MapRead { page, len, .. } => {
                return self.map(handle, "read", &[(page * 4096).to_string(), len.to_string()]);
            }
            Operation::CopyRange { from, from_offset, to_offset, len, .. } => {
                let Some(source) = &self.handles[*from] else { return Ok(Seen::Nothing) };
                let (mut from_offset, mut to_offset) = (*from_offset, *to_offset);
                let (begin, end) = (from_offset.as_mut(), to_offset.as_mut());
                return number(fs::copy_file_range(source, begin, handle, end, *len)?);
            }
            Operation::SendFile { from, offset, len, .. } => {
                let Some(source) = &self.handles[*from] else { return Ok(Seen::Nothing) };
                let mut offset = *offset;
                return number(fs::sendfile(handle, source, offset.as_mut(), *len)?);
            }
            transfer => return on_bytes(handle, transfer),
        }
        Ok(Seen::Done)
    }

    fn map(&self, handle: &OwnedFd, how: &str, arguments: &[String]) -> Outcome {
        let file = handle.as_fd().try_clone_to_owned().map_err(|_| Errno::MFILE)?;
        let mut command = Command::new(&self.mapper);
        let done = command.arg(how).args(arguments).stdin(file).output().expect("a program that maps");
        // Which signal, or which errno.
        let ended = match (done.status.code(), done.status.signal()) {
            (Some(0), _) => "mapped".to_owned(),
            (Some(code), _) => format!("{:?}", Errno::from_raw_os_error(code)),
            (None, signal) => format!("signal {signal:?}"),
        };
        Ok(Seen::Ran(ended, String::from_utf8_lossy(&done.stdout).into_owned()))
    }
}

fn on_xattr(operation: &Operation, at: impl Fn(&String) -> PathBuf) -> Outcome {
    match operation {
        Operation::SetXattr { path, name, value, how } => {
            let how = XattrFlags::from_bits_retain(*how);
            fs::lsetxattr(at(path), name.as_str(), &value.bytes(), how)?;
        }
        Operation::GetXattr { path, name, room: 0 } => {
            return Ok(Seen::Number(fs::lgetxattr_query(at(path), name.as_str())? as u64));
        }
        Operation::GetXattr { path, name, room } => {
            let mut value = vec![0; *room];
            let len = fs::lgetxattr(at(path), name.as_str(), value.as_mut_slice())?;
            value.truncate(len);
            return Ok(Seen::Bytes(value));
        }
        Operation::ListXattr { path } => {
            let mut list = vec![0; LIST_BYTES_MAX];
            let len = fs::llistxattr(at(path), list.as_mut_slice())?;
            list.truncate(len);
            let mut names: Vec<_> = list.split_inclusive(|byte| *byte == 0).collect();
            names.sort();
            return Ok(Seen::Bytes(names.concat()));
        }
        Operation::RemoveXattr { path, name } => fs::lremovexattr(at(path), name.as_str())?,
        other => unreachable!("{other:?} is no operation on a path"),
    }
    Ok(Seen::Done)
}

fn on_bytes(handle: &OwnedFd, operation: &Operation) -> Outcome {
    match operation {
        Operation::Write { content, .. } => number(io::write(handle, &content.bytes())?),
        Operation::WriteAt { content, offset, .. } => number(io::pwrite(handle, &content.bytes(), *offset)?),
        Operation::WriteWith { content, offset, flags, .. } => {
            let bytes = content.bytes();
            let offset = offset.unwrap_or(CURRENT);
            number(io::pwritev2(handle, &[IoSlice::new(&bytes)], offset, *flags)?)
        }
        Operation::Read { len, .. } => {
            let mut bytes = vec![0; *len];
            let read = io::read(handle, bytes.as_mut_slice())?;
            bytes.truncate(read);
            Ok(Seen::Bytes(bytes))
        }
        Operation::ReadAt { len, offset, .. } => {
            let mut bytes = vec![0; *len];
            let read = io::pread(handle, bytes.as_mut_slice(), *offset)?;
            bytes.truncate(read);
            Ok(Seen::Bytes(bytes))
        }
        // Positions in a directory are its filesystem's own; `forced.rs` has the one that differs.
        Operation::Seek { .. } if is_directory(handle)? => Ok(Seen::Nothing),
        Operation::Seek { to, .. } => {
            let to = match *to {
                Seek::Start(offset) => SeekFrom::Start(offset),
                Seek::Current(offset) => SeekFrom::Current(offset),
                Seek::End(offset) => SeekFrom::End(offset),
                Seek::Data(offset) => SeekFrom::Data(offset),
                Seek::Hole(offset) => SeekFrom::Hole(offset),
            };
            Ok(Seen::Number(fs::seek(handle, to)?))
        }
        other => unreachable!("{other:?} is no operation on an open file"),
    }
}

fn number(n: impl TryInto<u64, Error: std::fmt::Debug>) -> Outcome {
    Ok(Seen::Number(n.try_into().expect("a number of 64 bits")))
}

fn locking(lock: Lock) -> FlockOperation {
    match lock {
        Lock::Shared => FlockOperation::NonBlockingLockShared,
        Lock::Exclusive => FlockOperation::NonBlockingLockExclusive,
        Lock::Unlock => FlockOperation::NonBlockingUnlock,
    }
}

/// The soft limit alone: it can be raised again.
fn limit_file_size(bytes: Option<u64>) -> Result<(), Errno> {
    let maximum = rustix::process::getrlimit(Resource::Fsize).maximum;
    rustix::process::setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum })
}

fn stat_fs(path: &Path) -> Outcome {
    let seen = fs::statvfs(path)?;
    let flags = StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV;
    let flags = (seen.f_flag & flags).bits();
    Ok(Seen::Filesystem([seen.f_bsize, seen.f_frsize, seen.f_blocks, seen.f_files, seen.f_namemax, flags]))
}

fn is_directory(handle: &OwnedFd) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(fs::fstat(handle)?.st_mode) == FileType::Directory)
}

fn read_dir(path: &Path) -> Outcome {
    let directory = fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        let text = name.to_string_lossy().into_owned();
        let is_own_number = match text.as_str() {
            // What lies above the two directories is not the same.
            ".." => true,
            _ => fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| stat.st_ino == entry.ino()),
        };
        names.push((text, format!("{:?}", entry.file_type()), is_own_number));
    }
    names.sort();
    Ok(Seen::Names(names))
}

fn timespec(time: Time) -> Timespec {
    match time {
        Time::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Time::Omit => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Time::At { seconds, nanoseconds } => Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    }
}

/// What is compared of a file's attributes.
pub fn stat(stat: &fs::Stat) -> Stat {
    let modified = (stat.st_mtime, stat.st_mtime_nsec);
    // A FIFO's stands still in the overlay while it is used: `forced.rs`.
    let is_compared =
        modified.0 < CLOCK_SECONDS_MIN && FileType::from_raw_mode(stat.st_mode) != FileType::Fifo;
    Stat {
        mode: stat.st_mode,
        links: stat.st_nlink,
        uid: stat.st_uid,
        gid: stat.st_gid,
        device: stat.st_rdev,
        size: stat.st_size.cast_unsigned(),
        modified: is_compared.then_some(modified),
    }
}

fn seen_stat(seen: &fs::Stat) -> Outcome {
    Ok(Seen::Stat(Box::new(stat(seen))))
}
