//! A directory in which operations are done.

use std::{
    ffi::CStr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::{
    fs::{
        self, Access, AtFlags, CWD, Dir, FileType, Mode, OFlags, SeekFrom, Timespec, Timestamps, UTIME_NOW,
        UTIME_OMIT, XattrFlags,
    },
    io::{self, Errno},
};

use crate::operation::{Caller, Operation, Outcome, Seek, Seen, Stat, Step, Time};

/// How many files can be open at once.
pub const SLOTS: usize = 4;
/// Times after this one, in the year 2020, come from the clock; generated ones are before.
pub const CLOCK_SECONDS_MIN: i64 = 1_577_836_800;
/// Room for what a directory's or file's lists can grow to here.
const LIST_BYTES_MAX: usize = 64 << 10;

/// A directory, and the files that are open in it.
pub struct World {
    root: PathBuf,
    handles: [Option<OwnedFd>; SLOTS],
}

/// Acts as somebody until dropped. The kernel keeps this for each thread apart.
pub struct Acting;

impl Acting {
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
    /// Nothing is open yet.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), handles: Default::default() }
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
            Operation::Close { slot } => {
                self.handles[*slot] = None;
                Ok(Seen::Done)
            }
            operation => match slot_of(operation) {
                Some(slot) => match &self.handles[slot] {
                    Some(handle) => on_handle(handle, operation),
                    None => Ok(Seen::Nothing),
                },
                None => self.on_path(operation),
            },
        }
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
            Operation::Access { path, mode } => {
                let wanted = Access::from_bits_truncate((*mode).into());
                fs::accessat(CWD, at(path), wanted, AtFlags::EACCESS)?;
            }
            Operation::StatFs { path } => {
                let seen = fs::statvfs(at(path))?;
                return Ok(Seen::Filesystem([
                    seen.f_bsize,
                    seen.f_frsize,
                    seen.f_blocks,
                    seen.f_files,
                    seen.f_namemax,
                ]));
            }
            Operation::ReadDir { path } => return read_dir(&at(path)),
            xattr => return on_xattr(xattr, at),
        }
        Ok(Seen::Done)
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

/// The open file that an operation uses.
fn slot_of(operation: &Operation) -> Option<usize> {
    match operation {
        Operation::Write { slot, .. }
        | Operation::WriteAt { slot, .. }
        | Operation::Read { slot, .. }
        | Operation::ReadAt { slot, .. }
        | Operation::Seek { slot, .. }
        | Operation::Sync { slot }
        | Operation::StatHandle { slot }
        | Operation::ChmodHandle { slot, .. }
        | Operation::TruncateHandle { slot, .. }
        | Operation::Fallocate { slot, .. } => Some(*slot),
        _ => None,
    }
}

fn on_handle(handle: &OwnedFd, operation: &Operation) -> Outcome {
    let number = |n: usize| Ok(Seen::Number(n as u64));
    match operation {
        Operation::Write { content, .. } => number(io::write(handle, &content.bytes())?),
        Operation::WriteAt { content, offset, .. } => number(io::pwrite(handle, &content.bytes(), *offset)?),
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
        Operation::Sync { .. } => fs::fdatasync(handle).map(|()| Seen::Done),
        Operation::StatHandle { .. } => seen_stat(&fs::fstat(handle)?),
        Operation::ChmodHandle { mode, .. } => {
            fs::fchmod(handle, Mode::from_raw_mode(*mode)).map(|()| Seen::Done)
        }
        Operation::TruncateHandle { len, .. } => fs::ftruncate(handle, *len).map(|()| Seen::Done),
        Operation::Fallocate { mode, offset, len, .. } => {
            fs::fallocate(handle, *mode, *offset, *len).map(|()| Seen::Done)
        }
        other => unreachable!("{other:?} is no operation on an open file"),
    }
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
