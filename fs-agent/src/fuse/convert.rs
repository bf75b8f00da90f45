//! Between the protocol's terms and the overlay's.

use rustix::{
    fs::{Dev, FileType, Statx, StatxTimestamp, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, makedev},
    io::Errno,
};

use super::wire::{Attr, InHeader, ROOT, SetAttrIn, StatFsOut, fattr};
use crate::overlay::{self, Caller, Change};

/// `SEEK_DATA` and `SEEK_HOLE` of linux/fs.h: what the kernel does not seek itself.
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

pub fn caller(header: &InHeader) -> Caller {
    Caller { uid: header.uid, gid: header.gid, thread: header.pid }
}

/// The inode number that users see: node ids are the numbers below wherever they can be, so that the two agree; the
/// root's cannot.
pub fn shown_ino(node: u64, stat: &Statx) -> u64 {
    if node == ROOT { stat.stx_ino } else { node }
}

pub fn attributes(ino: u64, stat: &Statx) -> Attr {
    Attr {
        ino,
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        atime: stat.stx_atime.tv_sec,
        mtime: stat.stx_mtime.tv_sec,
        ctime: stat.stx_ctime.tv_sec,
        atimensec: nanoseconds(&stat.stx_atime),
        mtimensec: nanoseconds(&stat.stx_mtime),
        ctimensec: nanoseconds(&stat.stx_ctime),
        mode: stat.stx_mode.into(),
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: encoded_device(stat.stx_rdev_major, stat.stx_rdev_minor),
        blksize: stat.stx_blksize,
        flags: 0,
    }
}

fn nanoseconds(time: &StatxTimestamp) -> u32 {
    time.tv_nsec
}

/// The attributes of what is known by its number and kind alone. Not to be believed.
pub fn attributes_unknown(ino: u64, below: FileType) -> Attr {
    Attr { ino, mode: kind(below) << 12, nlink: 1, ..Attr::default() }
}

/// A file's kind as directories have it: DT_* of dirent.h.
pub fn kind(below: FileType) -> u32 {
    let known = if below == FileType::Unknown { FileType::RegularFile } else { below };
    known.as_raw_mode() >> 12
}

/// A device number as FUSE carries it: `new_encode_dev` of linux/kdev_t.h.
fn encoded_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The same back.
pub fn device(encoded: u32) -> Dev {
    makedev((encoded & 0xf_ff00) >> 8, (encoded & 0xff) | ((encoded >> 12) & 0xf_ff00))
}

/// What is to be changed of a file.
pub fn change(wanted: &SetAttrIn) -> Change {
    let set = |flag: u32| wanted.valid & flag != 0;
    Change {
        mode: set(fattr::MODE).then_some(wanted.mode),
        uid: set(fattr::UID).then_some(wanted.uid),
        gid: set(fattr::GID).then_some(wanted.gid),
        size: set(fattr::SIZE).then_some(wanted.size),
        times: timestamps(wanted),
    }
}

/// The open file through which a file is changed, if any.
pub fn changed_through(wanted: &SetAttrIn) -> Option<u64> {
    (wanted.valid & fattr::FH != 0).then_some(wanted.fh)
}

/// The times to set, if any.
fn timestamps(wanted: &SetAttrIn) -> Option<Timestamps> {
    let valid = wanted.valid;
    if valid & (fattr::ATIME | fattr::MTIME) == 0 {
        return None;
    }
    let time = |is_set, is_now, tv_sec, nanoseconds: u32| match (valid & is_set != 0, valid & is_now != 0) {
        (false, _) => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        (true, true) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        (true, false) => Timespec { tv_sec, tv_nsec: nanoseconds.into() },
    };
    Some(Timestamps {
        last_access: time(fattr::ATIME, fattr::ATIME_NOW, wanted.atime, wanted.atimensec),
        last_modification: time(fattr::MTIME, fattr::MTIME_NOW, wanted.mtime, wanted.mtimensec),
    })
}

/// A filesystem's figures.
pub fn figures(of: &rustix::fs::StatVfs) -> StatFsOut {
    let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    StatFsOut {
        blocks: of.f_blocks,
        bfree: of.f_bfree,
        bavail: of.f_bavail,
        files: of.f_files,
        ffree: of.f_ffree,
        bsize: narrow(of.f_bsize),
        namelen: narrow(of.f_namemax),
        frsize: narrow(of.f_frsize),
        ..StatFsOut::default()
    }
}

/// A place in a file, which is signed where programs name one.
///
/// # Errors
/// `EINVAL` if it is none.
pub fn place(offset: u64) -> overlay::Result<u64> {
    i64::try_from(offset).map(i64::cast_unsigned).map_err(|_| Errno::INVAL)
}

/// Where an lseek begins, and whether it looks for a hole.
pub fn seek(offset: u64, whence: u32) -> overlay::Result<(u64, bool)> {
    let offset = place(offset).map_err(|_| Errno::NXIO)?;
    match whence {
        SEEK_DATA => Ok((offset, false)),
        SEEK_HOLE => Ok((offset, true)),
        _ => Err(Errno::INVAL),
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn device_numbers_survive_the_protocol() {
        for (major, minor) in [(0, 0), (1, 3), (8, 300), (0xfff, 0xf_ffff)] {
            assert_eq!(device(encoded_device(major, minor)), makedev(major, minor));
        }
    }

    #[test]
    fn times_before_1970_are_set_as_they_came() {
        let wanted =
            SetAttrIn { valid: fattr::MTIME, mtime: -2, mtimensec: 250_000_000, ..SetAttrIn::new_zeroed() };
        let set = change(&wanted).times.unwrap().last_modification;
        assert_eq!((set.tv_sec, set.tv_nsec), (-2, 250_000_000));
    }

    #[test]
    fn what_is_not_to_be_changed_is_left() {
        let nothing = change(&SetAttrIn { mode: 1, uid: 2, gid: 3, size: 4, ..SetAttrIn::new_zeroed() });
        assert!(nothing.times.is_none() && nothing.mode.is_none() && nothing.uid.is_none());
        assert!(nothing.gid.is_none() && nothing.size.is_none());
        let now = fattr::MTIME | fattr::MTIME_NOW;
        let set = change(&SetAttrIn { valid: now, ..SetAttrIn::new_zeroed() }).times.unwrap();
        assert_eq!((set.last_access.tv_nsec, set.last_modification.tv_nsec), (UTIME_OMIT, UTIME_NOW));
    }

    #[test]
    fn kinds_are_those_of_directories() {
        let kinds =
            [FileType::Directory, FileType::RegularFile, FileType::Symlink, FileType::Unknown].map(kind);
        assert_eq!(kinds, [4, 8, 10, 8]);
    }
}
