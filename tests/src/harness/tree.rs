//! Compares directory trees: names, types, modes, link targets and contents.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// What is compared of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    kind: &'static str,
    mode: u32,
    content: Vec<u8>,
}

/// Panics unless two trees are the same. Paths for which `differs_by_nature` says so must exist in both, with the same
/// type and mode; their content may differ.
///
/// # Panics
/// With the first ten differences.
#[track_caller]
pub fn assert_same(expected: &Path, seen: &Path, differs_by_nature: impl Fn(&Path) -> bool) {
    let (left, right) = (read(expected), read(seen));
    let mut differences = Vec::new();
    for path in left.keys().chain(right.keys().filter(|path| !left.contains_key(*path))) {
        match (left.get(path), right.get(path)) {
            (Some(a), Some(b)) if (a.kind, a.mode) != (b.kind, b.mode) => differences.push(format!(
                "{}: {} {:o} expected, {} {:o} seen",
                path.display(),
                a.kind,
                a.mode,
                b.kind,
                b.mode
            )),
            (Some(a), Some(b)) if a.content != b.content && !differs_by_nature(path) => differences.push(
                format!("{}: contents of {} and {} bytes", path.display(), a.content.len(), b.content.len()),
            ),
            (Some(_), Some(_)) => {}
            (Some(_), None) => differences.push(format!("{}: missing", path.display())),
            (None, _) => differences.push(format!("{}: too much", path.display())),
        }
    }
    assert!(!left.is_empty(), "{} is empty: nothing was compared", expected.display());
    let shown = differences.iter().take(10).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        differences.is_empty(),
        "{} and {} differ in {} places:\n{shown}",
        expected.display(),
        seen.display(),
        differences.len()
    );
}

/// Every regular file below a directory, with its length.
pub fn files(directory: &Path) -> Vec<(PathBuf, u64)> {
    let entries = read(directory).into_iter().filter(|(_, entry)| entry.kind == "file");
    entries.map(|(path, entry)| (directory.join(path), entry.content.len() as u64)).collect()
}

fn read(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut entries = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let listing = fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
        for entry in listing {
            let path = entry.expect("a directory entry").path();
            let metadata = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let kind = metadata.file_type();
            let (kind, content) = if kind.is_dir() {
                pending.push(path.clone());
                ("directory", Vec::new())
            } else if kind.is_symlink() {
                ("link", fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes())
            } else if kind.is_file() {
                ("file", fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
            } else if kind.is_fifo() {
                ("fifo", Vec::new())
            } else {
                ("other", Vec::new())
            };
            let below = path.strip_prefix(root).expect("below the root").to_owned();
            entries.insert(below, Entry { kind, mode: metadata.permissions().mode(), content });
        }
    }
    entries
}
