//! The directory of dead letters.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use bywash_common::{fail_point::FailPoint, units::ByteSize};
use jiff::Timestamp;
use nix::fcntl::OFlag;

use crate::{
    delivery::Letter,
    state_dir::{StateDir, StateDirError},
};

/// What the names of files with letters end with.
const SUFFIX: &str = "jsonl";
/// The file with which `publisher failed retry` asks the running publisher for a round.
pub const RETRY_REQUEST: &str = "retry";
/// Held by whoever removes letters.
const CHANGE_LOCK: &str = "change.lock";

/// Dead letters cannot be kept, or not be reached.
#[derive(Debug, thiserror::Error)]
pub enum FailedError {
    /// The directory cannot be used.
    #[error(transparent)]
    Dir(#[from] StateDirError),
    /// They would take more room than they may.
    #[error("{} holds {used} bytes of dead letters and may hold {max}: see to them (publisher failed list) or raise failed.size_max", dir.display())]
    Full {
        /// The directory.
        dir: PathBuf,
        /// What is in it.
        used: ByteSize,
        /// `failed.size_max`
        max: ByteSize,
    },
    /// The system said no.
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FailedError {
    move |error| FailedError::Io { action, path: path.to_owned(), error }
}

/// The directory of dead letters, as the one publisher that may write to it has it.
pub struct Store {
    dir: StateDir,
    size_max: u64,
    used: u64,
    /// The number in the name of the file that was written last.
    last: i128,
}

impl Store {
    /// Opens the directory, and makes it if need be.
    ///
    /// # Errors
    /// A [`FailedError`] if it cannot be used.
    pub fn open(dir: &Path, size_max: ByteSize, group: Option<&str>) -> Result<Self, FailedError> {
        let dir = StateDir::open("failed.dir", dir, group)?;
        let mut store = Self { dir, size_max: size_max.0, used: 0, last: 0 };
        store.remove_leftovers()?;
        store.used = store.measure()?;
        Ok(store)
    }

    /// Keeps letters: when this returns, they are on disk.
    ///
    /// # Errors
    /// A [`FailedError`]; none of them is then kept.
    pub fn keep<'l>(&mut self, letters: impl IntoIterator<Item = &'l Letter>) -> Result<(), FailedError> {
        let time = Timestamp::now();
        let lines: Vec<u8> = letters.into_iter().flat_map(|letter| letter.to_line(time)).collect();
        self.make_room(lines.len() as u64)?;
        self.last = time.as_nanosecond().max(self.last + 1);
        let name = format!("{:020}.{SUFFIX}", self.last);
        write_whole(&self.dir.path.join(name), &lines, self.dir.file_mode(), self.dir.group)?;
        self.used += lines.len() as u64;
        Ok(())
    }

    /// Takes delivered lines out of a file.
    ///
    /// # Errors
    /// A [`FailedError`]; they are then sent again.
    pub fn remove(&mut self, file: &Path, delivered: &[Vec<u8>]) -> Result<(), FailedError> {
        remove_lines(file, |line| delivered.iter().any(|gone| gone == line))?;
        self.used = self.measure()?;
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir.path
    }

    /// Whether there is room for anything more.
    pub fn has_room(&self) -> bool {
        self.used < self.size_max
    }

    /// Bytes of letters, as far as this process knows: someone may have dropped some.
    pub fn used_bytes(&self) -> u64 {
        self.used
    }

    fn make_room(&mut self, bytes: u64) -> Result<(), FailedError> {
        if self.used.saturating_add(bytes) > self.size_max {
            self.used = self.measure()?;
        }
        if self.used.saturating_add(bytes) > self.size_max {
            let (used, max) = (ByteSize(self.used), ByteSize(self.size_max));
            return Err(FailedError::Full { dir: self.dir.path.clone(), used, max });
        }
        Ok(())
    }

    fn measure(&self) -> Result<u64, FailedError> {
        Ok(files(&self.dir.path)?.iter().filter_map(|file| Some(fs::metadata(file).ok()?.len())).sum())
    }

    /// What a publisher that was killed while it wrote has left.
    fn remove_leftovers(&self) -> Result<(), FailedError> {
        let listing = fs::read_dir(&self.dir.path).map_err(io_error("list", &self.dir.path))?;
        for path in listing.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        Ok(())
    }
}

/// The files with letters, oldest first.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>, FailedError> {
    let listing = fs::read_dir(dir).map_err(io_error("list", dir))?;
    let paths = listing.flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == SUFFIX)).collect();
    files.sort();
    Ok(files)
}

/// Takes the lines out of a file for which `is_removed` says so, and gives how many those were. What is missing by now
/// needs no removing.
///
/// # Errors
/// A [`FailedError`]; the file is then as it was.
pub fn remove_lines(path: &Path, is_removed: impl Fn(&[u8]) -> bool) -> Result<usize, FailedError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let lock = dir.join(CHANGE_LOCK);
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock);
    let locked = opened.and_then(|file| file.lock().map(|()| file));
    let _held = locked.map_err(io_error("lock", &lock))?;
    let content = match fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(io_error("read", path)(error)),
    };
    let (removed, left): (Vec<&[u8]>, Vec<&[u8]>) =
        content.split_inclusive(|byte| *byte == b'\n').partition(|line| is_removed(line));
    if left.is_empty() {
        fs::remove_file(path).map_err(io_error("remove", path))?;
    } else if !removed.is_empty() {
        let found = fs::metadata(path).map_err(io_error("examine", path))?;
        write_whole(path, &left.concat(), found.mode() & 0o777, Some(found.gid()))?;
    }
    Ok(removed.len())
}

/// Makes or replaces a file in one step.
fn write_whole(path: &Path, content: &[u8], mode: u32, group: Option<u32>) -> Result<(), FailedError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_extension("tmp");
    let written = (|| {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(mode)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&temporary)?;
        // Whatever the umask.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        fchown(&file, None, group)?;
        file.write_all(content)?;
        file.sync_all()?;
        FailPoint::LetterHalfKept.reach();
        fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    })();
    written.map_err(|error| {
        // It is also removed at the next start.
        drop(fs::remove_file(&temporary));
        FailedError::Io { action: "write", path: path.to_owned(), error }
    })?;
    FailPoint::LetterKept.reach();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(payload: &[u8]) -> Letter {
        Letter {
            topic: "t".to_owned(),
            key: None,
            payload: payload.to_vec(),
            event_id: "u-1".to_owned(),
            reason: "no".to_owned(),
        }
    }

    fn open(dir: &Path, size_max: u64) -> Result<Store, FailedError> {
        Store::open(dir, ByteSize(size_max), None)
    }

    #[test]
    fn letters_are_kept_in_files_that_only_the_owner_reads() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("a/b");
        let mut store = open(&dir, 1 << 20).unwrap();
        store.keep(&[letter(b"one"), letter(b"two")]).unwrap();
        store.keep(&[letter(b"three")]).unwrap();
        let files = files(&dir).unwrap();
        let lines: Vec<usize> =
            files.iter().map(|file| fs::read_to_string(file).unwrap().lines().count()).collect();
        assert_eq!(lines, [2, 1]);
        assert_eq!(fs::metadata(&files[0]).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        assert_eq!(
            store.used_bytes(),
            files.iter().map(|file| fs::metadata(file).unwrap().len()).sum::<u64>()
        );
    }

    #[test]
    fn beyond_the_bound_nothing_is_kept_until_someone_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path(), 150).unwrap();
        store.keep(&[letter(b"one")]).unwrap();
        let error = store.keep(&[letter(b"two")]).unwrap_err();
        assert!(matches!(error, FailedError::Full { .. }) && error.to_string().contains("150"), "{error}");
        for file in files(dir.path()).unwrap() {
            fs::remove_file(file).unwrap();
        }
        store.keep(&[letter(b"two")]).unwrap();
    }
}
