//! What is mounted where.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    process::Command,
};

use nix::mount::{MntFlags, umount2};

/// The mount points at or below a directory, innermost last.
pub fn below(directory: &Path) -> Vec<PathBuf> {
    let table = std::fs::read("/proc/self/mountinfo").expect("the table of mounts");
    let points = table.split(|b| *b == b'\n').filter_map(|line| {
        let point = line.split(|b| *b == b' ').nth(4)?;
        Some(PathBuf::from(OsString::from_vec(unescaped(point))))
    });
    points.filter(|point| point.starts_with(directory)).collect()
}

/// Whether something is mounted on exactly this directory.
pub fn is_mounted(directory: &Path) -> bool {
    below(directory).iter().any(|point| point == directory)
}

/// Takes every mount at or below a directory away, answering or not.
pub fn detach_below(directory: &Path) {
    for point in below(directory).iter().rev() {
        if umount2(point, MntFlags::MNT_DETACH).is_err() {
            // Not root: the helper may do it for who mounted it.
            drop(Command::new("fusermount3").arg("-uz").arg(point).status());
        }
    }
}

/// proc_pid_mountinfo(5): blanks and backslashes are written in octal.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\' && tail.len() >= 3)
            .then(|| std::str::from_utf8(&tail[..3]).ok().and_then(|t| u8::from_str_radix(t, 8).ok()))
            .flatten();
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_escapes_are_undone() {
        assert_eq!(unescaped(br"/a\040b\134c\9"), br"/a b\c\9");
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(is_mounted(Path::new("/")));
        assert!(!is_mounted(Path::new("/no/such/mount")));
    }
}
