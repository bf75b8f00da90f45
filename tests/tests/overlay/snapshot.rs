//! Everything that is in a directory, to be compared with another.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use rustix::fs::{self, AtFlags, CWD, FileType};

use bywash_tests::actor::{operation::Stat, world};

/// The most that is read of a file: some have nothing but a hole in front of the largest offset that there is.
const READ_BYTES_MAX: u64 = 64 << 20;

/// One file, as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    stat: Stat,
    /// Of a file its first bytes, of a link its target.
    content: Vec<u8>,
    /// The first of the paths that lead to the same file.
    same_as: PathBuf,
    /// The first of the paths to a file on the same filesystem.
    filesystem: PathBuf,
    /// Names and values.
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A tree.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<PathBuf, Entry>);

impl Snapshot {
    /// Reads everything below a directory, and the directory itself.
    pub fn of(root: &Path) -> Self {
        let mut entries = BTreeMap::new();
        let (mut first, mut filesystems) = (HashMap::new(), HashMap::new());
        let mut pending = vec![PathBuf::new()];
        while let Some(below) = pending.pop() {
            let path = root.join(&below);
            let stat = fs::statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW)
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let content = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    pending.extend(names(&path).into_iter().map(|name| below.join(name)));
                    // Always in the same order: hard links are told by the first name.
                    pending.sort_by(|a, b| b.cmp(a));
                    Vec::new()
                }
                FileType::RegularFile => beginning_of(&path),
                FileType::Symlink => fs::readlink(&path, Vec::new()).unwrap().into_bytes(),
                _ => Vec::new(),
            };
            let same_as = first.entry((stat.st_dev, stat.st_ino)).or_insert_with(|| below.clone()).clone();
            let filesystem = filesystems.entry(stat.st_dev).or_insert_with(|| below.clone()).clone();
            let attributes = attributes(&path);
            let stat = world::stat(&stat);
            entries.insert(below, Entry { stat, content, same_as, filesystem, attributes });
        }
        Self(entries)
    }

    /// The contents of regular files alone.
    pub fn contents(&self) -> BTreeMap<&Path, &[u8]> {
        let is_file = |entry: &Entry| FileType::from_raw_mode(entry.stat.mode) == FileType::RegularFile;
        let files = self.0.iter().filter(|(_, entry)| is_file(entry));
        files.map(|(path, entry)| (path.as_path(), entry.content.as_slice())).collect()
    }

    /// The first few differences, for people; empty if there are none.
    pub fn differences(&self, other: &Self) -> String {
        let paths = self.0.keys().chain(other.0.keys().filter(|path| !self.0.contains_key(*path)));
        let differing = paths.filter(|path| self.0.get(*path) != other.0.get(*path));
        let shown = |entry: Option<&Entry>| match entry {
            None => "nothing".to_owned(),
            Some(Entry { stat, content, same_as, filesystem, attributes }) => {
                let sum = content.iter().fold(0u32, |sum, byte| sum.rotate_left(5) ^ u32::from(*byte));
                format!(
                    "{stat:?}, content {sum:08x}, the file {same_as:?} on that of {filesystem:?}, attributes {attributes:?}"
                )
            }
        };
        let line = |path: &PathBuf| {
            let (a, b) = (shown(self.0.get(path)), shown(other.0.get(path)));
            format!("{path:?}:\n  plain   {a}\n  overlay {b}\n")
        };
        differing.take(5).map(line).collect()
    }
}

fn names(path: &Path) -> Vec<std::ffi::OsString> {
    let listing = std::fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    listing.map(|entry| entry.unwrap().file_name()).collect()
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 64 << 10];
    let len = fs::llistxattr(path, list.as_mut_slice()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        match fs::lgetxattr(path, name, value.as_mut_slice()) {
            Ok(len) => value.truncate(len),
            // Capabilities that are none can be set, and not be got. Then that is what is compared.
            Err(errno) => value = errno.to_string().into_bytes(),
        }
        (name.to_vec(), value)
    };
    names.map(value).collect()
}

fn beginning_of(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(READ_BYTES_MAX).read_to_end(&mut bytes));
    assert!(read.is_ok(), "{}: {read:?} of {:?}", path.display(), path.metadata());
    bytes
}
