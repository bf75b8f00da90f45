//! What is mounted where: /proc/self/mountinfo.
//!
//! Asked instead of the mount points themselves: looking at one whose server is gone or hangs could hang as well.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use super::{FS_TYPE, SOURCE_PREFIX};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    id: u32,
    parent: u32,
    /// Where.
    pub point: PathBuf,
    /// The type, with the subtype: `fuse.bywash`.
    pub fs_type: String,
    /// What it says that it mounts.
    pub source: String,
}

impl Mounted {
    /// Whether it is an agent's overlay.
    pub fn is_overlay(&self) -> bool {
        self.fs_type == FS_TYPE
    }

    /// Whether it is the overlay of the agent of `ring`.
    pub fn is_overlay_of(&self, ring: &str) -> bool {
        self.is_overlay() && self.source.strip_prefix(SOURCE_PREFIX) == Some(ring)
    }
}

/// All that is mounted.
///
/// # Errors
/// If /proc cannot be read.
pub fn all() -> io::Result<Vec<Mounted>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?).collect())
}

/// What is mounted on top at `path`, if anything. `path` is without symbolic links.
///
/// # Errors
/// If /proc cannot be read.
pub fn top_at(path: &Path) -> io::Result<Option<Mounted>> {
    Ok(top_in(&fs::read("/proc/self/mountinfo")?, path))
}

fn top_in(mountinfo: &[u8], path: &Path) -> Option<Mounted> {
    let here: Vec<Mounted> = parse(mountinfo).filter(|mounted| mounted.point == path).collect();
    // Where mounts are stacked, each is the parent of the one on top of it.
    here.iter().find(|mounted| !here.iter().any(|other| other.parent == mounted.id)).cloned()
}

fn parse(mountinfo: &[u8]) -> impl Iterator<Item = Mounted> {
    mountinfo.split(|b| *b == b'\n').filter_map(parse_line)
}

/// `36 35 98:0 /root /point options optional-fields - type source super-options`, see proc_pid_mountinfo(5).
fn parse_line(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|b| *b == b' ');
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let point = OsString::from_vec(unescape(fields.nth(2)?)).into();
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    Some(Mounted { id, parent, point, fs_type: text(fields.next()?), source: text(fields.next()?) })
}

/// Undoes the kernel's escapes: space, tab, newline and backslash are a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let code = match rest {
            [b'\\', digits @ ..] => digits.get(..3).and_then(octal),
            _ => None,
        };
        match code {
            Some(byte) => {
                plain.push(byte);
                rest = &rest[4..];
            }
            None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
40 22 0:40 / /srv/a\\040b\\134c rw,nosuid shared:2 master:1 - fuse.bywash bywash:one rw,user_id=0\n\
41 22 0:41 / /srv/stack rw - fuse.bywash bywash:one rw\n\
43 42 0:43 / /srv/stack rw - fuse.bywash bywash:three rw\n\
42 41 0:42 / /srv/stack rw - tmpfs none rw\n\
garbage\n";

    #[test]
    fn names_are_unescaped() {
        let found = top_in(TABLE, Path::new("/srv/a b\\c")).unwrap();
        assert_eq!((found.fs_type.as_str(), found.source.as_str()), ("fuse.bywash", "bywash:one"));
        assert_eq!(unescape(b"\\1234\\9\\"), b"S4\\9\\");
    }

    #[test]
    fn the_top_of_a_stack_is_found_in_any_order() {
        assert_eq!(top_in(TABLE, Path::new("/srv/stack")).unwrap().source, "bywash:three");
    }

    #[test]
    fn what_lies_on_a_mount_is_none() {
        assert_eq!(top_in(TABLE, Path::new("/srv")), None);
    }

    #[test]
    fn the_real_table_can_be_read() {
        assert!(top_at(Path::new("/proc")).unwrap().is_some_and(|mounted| mounted.fs_type == "proc"));
    }
}
