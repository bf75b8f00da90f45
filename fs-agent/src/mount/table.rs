//! What is mounted where: /proc/thread-self/mountinfo.
//!
//! Asked instead of the mount points themselves: looking at one whose server is gone or hangs could hang as well.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use super::label::{FS_TYPE, Label};

/// The table of the calling thread's mount namespace.
const TABLE: &str = "/proc/thread-self/mountinfo";

/// The number by which the table calls a mount. The kernel gives it to another mount once this one is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MountId(pub u32);

/// The device number of a filesystem, as the table shows it: `MAJOR:MINOR`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Device(pub String);

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Its number.
    pub id: MountId,
    /// The mount that it is attached to.
    pub parent: MountId,
    /// Its filesystem.
    pub device: Device,
    /// Which directory of the filesystem is mounted.
    pub root: Vec<u8>,
    /// Where.
    pub point: PathBuf,
    /// The flags of the mount: `rw,nosuid,relatime`.
    pub flags: String,
    /// The type, with the subtype: `fuse.bywash`.
    pub fs_type: String,
    /// What it says that it mounts.
    pub source: String,
    /// The options of the filesystem: `rw,user_id=0`.
    pub options: String,
}

impl Mounted {
    /// What it says of itself, if it is an agent's overlay.
    pub fn label(&self) -> Option<Label> {
        if self.fs_type == FS_TYPE { Label::parse(&self.source) } else { None }
    }

    /// Whether it is an overlay of the agent of `ring`.
    pub fn is_overlay_of(&self, ring: &str) -> bool {
        self.label().is_some_and(|label| label.ring == ring)
    }

    /// Whether nothing can be written through it, or to its filesystem at all.
    pub fn is_read_only(&self) -> bool {
        has_option(&self.flags, "ro") || has_option(&self.options, "ro")
    }

    /// The user who mounted it, where that is a FUSE filesystem.
    pub fn fuse_user(&self) -> Option<u32> {
        let is_fuse =
            self.fs_type == "fuse" || self.fs_type == "fuseblk" || self.fs_type.starts_with("fuse.");
        let user = || self.options.split(',').find_map(|option| option.strip_prefix("user_id="));
        if is_fuse { user().and_then(|user| user.parse().ok()) } else { None }
    }
}

fn has_option(options: &str, wanted: &str) -> bool {
    options.split(',').any(|option| option == wanted)
}

/// All mounts of a namespace, at one time.
#[derive(Clone, Debug, Default)]
pub struct Table(Vec<Mounted>);

impl Table {
    /// Reads the table.
    ///
    /// # Errors
    /// If /proc cannot be read.
    pub fn read() -> io::Result<Self> {
        Ok(Self::parse(&fs::read(TABLE)?))
    }

    fn parse(mountinfo: &[u8]) -> Self {
        Self(mountinfo.split(|b| *b == b'\n').filter_map(parse_line).collect())
    }

    /// All of them, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = &Mounted> {
        self.0.iter()
    }

    /// The mount that is called `id`.
    pub fn get(&self, id: MountId) -> Option<&Mounted> {
        self.0.iter().find(|mounted| mounted.id == id)
    }

    /// What is mounted at `path` and seen there, if anything. `path` is without symbolic links.
    pub fn top_at(&self, path: &Path) -> Option<&Mounted> {
        let is_root =
            |mounted: &&Mounted| mounted.point == Path::new("/") && self.get(mounted.parent).is_none();
        let mut at = self.0.iter().find(is_root)?;
        // As the kernel walks: the first mount point on the way hides what else is mounted further on.
        while let Some(next) = self
            .on(at.id)
            .filter(|on| path.starts_with(&on.point))
            .min_by_key(|on| on.point.as_os_str().len())
        {
            at = next;
        }
        (at.point == path).then_some(at)
    }

    /// What is mounted on the mount `id`, its own root included.
    pub fn on(&self, id: MountId) -> impl Iterator<Item = &Mounted> {
        self.0.iter().filter(move |mounted| mounted.parent == id)
    }
}

/// `36 35 98:0 /root /point options optional-fields - type source super-options`, see proc_pid_mountinfo(5).
fn parse_line(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|b| *b == b' ');
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok().map(MountId);
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = Device(text(fields.next()?));
    let root = unescape(fields.next()?);
    let point = OsString::from_vec(unescape(fields.next()?)).into();
    let flags = text(fields.next()?);
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let (fs_type, source) = (text(fields.next()?), text(fields.next()?));
    let options = fields.next().map(text).unwrap_or_default();
    Some(Mounted { id, parent, device, root, point, flags, fs_type, source, options })
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
42 41 0:42 / /srv/stack ro - tmpfs none rw\n\
44 43 0:44 / /srv/stack/home rw - fuse.sshfs u@h rw,user_id=1000,group_id=1000\n\
garbage\n";

    #[test]
    fn names_are_unescaped() {
        let table = Table::parse(TABLE);
        let found = table.top_at(Path::new("/srv/a b\\c")).unwrap();
        assert_eq!((found.fs_type.as_str(), found.source.as_str()), ("fuse.bywash", "bywash:one"));
        assert_eq!(unescape(b"\\1234\\9\\"), b"S4\\9\\");
    }

    #[test]
    fn the_top_of_a_stack_is_found_in_any_order() {
        let table = Table::parse(TABLE);
        let top = table.top_at(Path::new("/srv/stack")).unwrap();
        assert_eq!(top.source, "bywash:three");
    }

    #[test]
    fn what_a_mount_further_up_hides_is_not_seen() {
        let table = Table::parse(
            b"22 1 254:0 / / rw - ext4 /dev/root rw\n\
              30 22 0:30 / /srv/d/disk rw - tmpfs none rw\n\
              31 22 0:31 / /srv/d rw - fuse.bywash bywash:one rw\n\
              32 31 0:32 / /srv/d/disk rw - fuse.bywash bywash-below:one rw\n\
              33 22 0:33 / /srv/d/other rw - tmpfs none rw\n",
        );
        let seen = |path| table.top_at(Path::new(path)).map(|top| top.id.0);
        assert_eq!([seen("/srv/d"), seen("/srv/d/disk"), seen("/srv/d/other")], [Some(31), Some(32), None]);
    }

    #[test]
    fn what_lies_on_a_mount_is_none() {
        assert_eq!(Table::parse(TABLE).top_at(Path::new("/srv")), None);
    }

    #[test]
    fn flags_of_the_mount_and_options_of_the_filesystem_are_told_apart() {
        let table = Table::parse(TABLE);
        let read_only: Vec<_> = table.iter().filter(|m| m.is_read_only()).map(|m| m.id.0).collect();
        assert_eq!(read_only, [42]);
        let users: Vec<_> = table.iter().filter_map(Mounted::fuse_user).collect();
        assert_eq!(users, [0, 1000]);
    }

    #[test]
    fn the_real_table_can_be_read() {
        let table = Table::read().unwrap();
        assert!(table.top_at(Path::new("/proc")).is_some_and(|mounted| mounted.fs_type == "proc"));
    }
}
