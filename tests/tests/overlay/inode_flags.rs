//! Flags that keep files from being removed.

use std::path::Path;

use bywash_tests::actor::INODE_FLAGS;
use rustix::fs::{self, FileType, Mode, OFlags};

/// Takes the flags off everything in a tree, and off its directory.
pub fn clear(tree: &Path) {
    let mut pending = vec![tree.to_owned()];
    while let Some(path) = pending.pop() {
        let Ok(stat) = fs::lstat(&path) else { continue };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if kind != FileType::RegularFile {
            continue;
        }
        let file =
            fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()).unwrap();
        // Where a filesystem has no such flags there are none to be taken off.
        if let Ok(flags) = fs::ioctl_getflags(&file)
            && flags.intersects(INODE_FLAGS)
        {
            fs::ioctl_setflags(&file, flags - INODE_FLAGS).unwrap();
        }
    }
}
