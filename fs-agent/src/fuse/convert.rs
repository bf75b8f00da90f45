//! Between fuser's types and the overlay's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, Request, TimeOrNow};
use rustix::fs::{
    Dev, FileType as TypeBelow, Statx, StatxTimestamp, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, makedev,
};

use crate::overlay::{self, Caller};

/// `SEEK_DATA` and `SEEK_HOLE` of linux/fs.h: what the kernel does not seek itself.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

pub fn errno(below: rustix::io::Errno) -> Errno {
    Errno::from_i32(below.raw_os_error())
}

pub fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), thread: req.pid() }
}

/// The inode number that users see: node ids are the numbers below wherever they can be, so that the two agree; the
/// root's cannot.
pub fn shown_ino(node: u64, stat: &Statx) -> u64 {
    if INodeNo(node) == INodeNo::ROOT { stat.stx_ino } else { node }
}

pub fn attributes(ino: u64, stat: &Statx) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        atime: time(&stat.stx_atime),
        mtime: time(&stat.stx_mtime),
        ctime: time(&stat.stx_ctime),
        crtime: UNIX_EPOCH,
        kind: kind(TypeBelow::from_raw_mode(stat.stx_mode.into())),
        perm: stat.stx_mode & 0o7777,
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: encoded_device(stat.stx_rdev_major, stat.stx_rdev_minor),
        blksize: stat.stx_blksize,
        flags: 0,
    }
}

/// The attributes of what is known by its number and kind alone. Not to be believed.
pub fn attributes_unknown(ino: u64, below: TypeBelow) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: kind(below),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

pub fn kind(below: TypeBelow) -> FileType {
    match below {
        TypeBelow::Directory => FileType::Directory,
        TypeBelow::Symlink => FileType::Symlink,
        TypeBelow::Fifo => FileType::NamedPipe,
        TypeBelow::Socket => FileType::Socket,
        TypeBelow::CharacterDevice => FileType::CharDevice,
        TypeBelow::BlockDevice => FileType::BlockDevice,
        TypeBelow::RegularFile | TypeBelow::Unknown => FileType::RegularFile,
    }
}

/// A device number as FUSE carries it: `new_encode_dev` of linux/kdev_t.h.
fn encoded_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The same back.
pub fn device(encoded: u32) -> Dev {
    makedev((encoded & 0xf_ff00) >> 8, (encoded & 0xff) | ((encoded >> 12) & 0xf_ff00))
}

fn time(below: &StatxTimestamp) -> SystemTime {
    let whole = Duration::from_secs(below.tv_sec.unsigned_abs());
    let seconds =
        if below.tv_sec < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    seconds.unwrap_or(UNIX_EPOCH) + Duration::from_nanos(below.tv_nsec.into())
}

/// The times to set, if any.
pub fn timestamps(atime: Option<TimeOrNow>, mtime: Option<TimeOrNow>) -> Option<Timestamps> {
    if atime.is_none() && mtime.is_none() {
        return None;
    }
    Some(Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) })
}

fn timespec(wanted: Option<TimeOrNow>) -> Timespec {
    let (tv_sec, tv_nsec) = match wanted {
        None => (0, UTIME_OMIT),
        Some(TimeOrNow::Now) => (0, UTIME_NOW),
        Some(TimeOrNow::SpecificTime(time)) => match time.duration_since(UNIX_EPOCH) {
            Ok(since) => (seconds(since), since.subsec_nanos().into()),
            // fuser takes both the seconds and the nanoseconds of a time before 1970 off the epoch, where the
            // protocol adds the latter. This undoes it.
            Err(before) => (-seconds(before.duration()), before.duration().subsec_nanos().into()),
        },
    };
    Timespec { tv_sec, tv_nsec }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// Where an lseek begins, and whether it looks for a hole.
pub fn seek(offset: i64, whence: i32) -> overlay::Result<(u64, bool)> {
    let offset = u64::try_from(offset).map_err(|_| rustix::io::Errno::NXIO)?;
    match whence {
        SEEK_DATA => Ok((offset, false)),
        SEEK_HOLE => Ok((offset, true)),
        _ => Err(rustix::io::Errno::INVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_protocol() {
        for (major, minor) in [(0, 0), (1, 3), (8, 300), (0xfff, 0xf_ffff)] {
            assert_eq!(device(encoded_device(major, minor)), makedev(major, minor));
        }
    }

    #[test]
    fn times_before_1970_are_set_as_they_came() {
        // -1.75 s is -2 s + 0.25 s in the protocol, which fuser reads as EPOCH - (2 s + 0.25 s).
        let as_fuser_says = UNIX_EPOCH - Duration::new(2, 250_000_000);
        let set = timespec(Some(TimeOrNow::SpecificTime(as_fuser_says)));
        assert_eq!((set.tv_sec, set.tv_nsec), (-2, 250_000_000));
    }

    #[test]
    fn times_that_are_not_set_are_left() {
        assert!(timestamps(None, None).is_none());
        let set = timestamps(None, Some(TimeOrNow::Now)).unwrap();
        assert_eq!((set.last_access.tv_nsec, set.last_modification.tv_nsec), (UTIME_OMIT, UTIME_NOW));
    }
}
