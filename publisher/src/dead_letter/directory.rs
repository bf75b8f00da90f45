//! The directory of dead letters, as everybody has it who changes what is in it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::unistd::geteuid;

use crate::disk::{self, Access, Disk, Open, SystemDisk};

use super::error::{FailedError, io_error};

/// What the names of files with dead letters end with.
pub const SUFFIX: &str = "jsonl";

/// The file with which `publisher failed retry` asks the running publisher for a round.
const REQUEST: &str = "retry";

/// The directory.
#[derive(Clone)]
pub struct Directory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Of files that are made: whoever makes them, they are the publisher's.
    access: Access,
}

impl Directory {
    /// A directory on a disk.
    pub fn on(disk: Arc<dyn Disk>, path: &Path, access: Access) -> Self {
        Self { disk, path: path.to_owned(), access }
    }

    /// The directory of another process's publisher. What root changes there stays its owner's.
    ///
    /// # Errors
    /// A [`FailedError`] if the system says no.
    pub fn of_publisher(path: &Path) -> Result<Self, FailedError> {
        let found = fs::metadata(path).map_err(io_error("examine", path))?;
        let owner = Some(found.uid()).filter(|_| geteuid().is_root());
        // As in `StateDir`: what the group may read, it may read there.
        let mode = if found.mode() & 0o040 == 0 { 0o600 } else { 0o640 };
        let access = Access { mode, owner, group: Some(found.gid()).filter(|_| mode == 0o640) };
        Ok(Self::on(Arc::new(SystemDisk), path, access))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files with dead letters, oldest first.
    ///
    /// # Errors
    /// A [`FailedError`] if the system says no.
    pub fn files(&self) -> Result<Vec<PathBuf>, FailedError> {
        let suffix = format!(".{SUFFIX}");
        let names = self.disk.list(&self.path).map_err(io_error("list", &self.path))?;
        let names = names.into_iter().filter(|name| name.ends_with(&suffix));
        let mut files: Vec<PathBuf> = names.map(|name| self.path.join(name)).collect();
        files.sort();
        Ok(files)
    }

    /// What is in a file; none if there is no such file any more.
    ///
    /// # Errors
    /// A [`FailedError`] if the system says no.
    pub fn read(&self, file: &Path) -> Result<Option<Vec<u8>>, FailedError> {
        match self.disk.open(file, Open::Read).and_then(|file| disk::read_all(&*file)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", file)(error)),
        }
    }

    /// How many bytes a file has; none if there is no such file any more.
    ///
    /// # Errors
    /// A [`FailedError`] if the system says no.
    pub fn bytes(&self, file: &Path) -> Result<Option<u64>, FailedError> {
        match self.disk.open(file, Open::Read).and_then(|file| file.bytes()) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("examine", file)(error)),
        }
    }

    /// How many bytes the dead letters take.
    ///
    /// # Errors
    /// A [`FailedError`] if the system says no.
    pub fn measure(&self) -> Result<u64, FailedError> {
        let bytes = |file: &PathBuf| self.bytes(file).map(Option::unwrap_or_default);
        self.files()?.iter().map(bytes).sum()
    }

    /// Makes a file, or replaces it, in one step; `between` is called before the last one.
    ///
    /// # Errors
    /// A [`FailedError`]; it is then as it was, or cannot be relied on to be there after a power cut.
    pub fn replace(&self, file: &Path, content: &[u8], between: impl FnOnce()) -> Result<(), FailedError> {
        disk::replace(&*self.disk, file, content, self.access, between).map_err(io_error("write", file))
    }

    /// Removes what a process that was killed while it wrote has left, unless another is at it.
    ///
    /// # Errors
    /// A [`FailedError`] if the system says no.
    pub fn remove_leftovers(&self) -> Result<(), FailedError> {
        let Some(_lock) = self.try_lock()? else { return Ok(()) };
        let suffix = format!(".{}", disk::TEMPORARY);
        for name in self.disk.list(&self.path).map_err(io_error("list", &self.path))? {
            if name.ends_with(&suffix) {
                let path = self.path.join(name);
                self.disk.remove(&path).map_err(io_error("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Takes the lines out of a file for which `is_removed` says so, and gives how many those were. What is missing by now
    /// needs no removing.
    ///
    /// # Errors
    /// A [`FailedError`]; [`FailedError::Busy`] if another process changes dead letters at this moment. The file is then as it
    /// was.
    pub fn remove_lines(
        &self,
        file: &Path,
        is_removed: impl Fn(&[u8]) -> bool,
    ) -> Result<usize, FailedError> {
        let Some(_lock) = self.try_lock()? else { return Err(FailedError::Busy(self.path.clone())) };
        let Some(content) = self.read(file)? else { return Ok(0) };
        let (removed, left): (Vec<&[u8]>, Vec<&[u8]>) =
            content.split_inclusive(|byte| *byte == b'\n').partition(|line| is_removed(line));
        if left.is_empty() {
            self.disk.remove(file).map_err(io_error("remove", file))?;
        } else if !removed.is_empty() {
            self.replace(file, &left.concat(), || {})?;
        }
        Ok(removed.len())
    }

    /// Asks the running publisher to send all dead letters again; [`Self::is_asked`] is true until it has taken notice.
    ///
    /// # Errors
    /// A [`FailedError`] if the system says no.
    pub fn ask(&self) -> Result<(), FailedError> {
        let request = self.path.join(REQUEST);
        self.disk.open(&request, Open::Create(self.access)).map(drop).map_err(io_error("write", &request))
    }

    /// Whether somebody has asked, and no publisher has taken notice.
    pub fn is_asked(&self) -> bool {
        self.disk.open(&self.path.join(REQUEST), Open::Read).is_ok()
    }

    /// Takes notice; gives whether somebody had asked.
    pub fn take_request(&self) -> bool {
        self.disk.remove(&self.path.join(REQUEST)).is_ok()
    }

    fn try_lock(&self) -> Result<Option<Box<dyn Send>>, FailedError> {
        self.disk.try_lock(&self.path).map_err(io_error("lock", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;

    const OWNER: u32 = 1;

    fn with_a_file(dir: &Path) -> PathBuf {
        let file = dir.join("1.jsonl");
        fs::write(&file, "one\ntwo\n").unwrap();
        file
    }

    #[test]
    fn what_root_changes_stays_the_owners() {
        if !geteuid().is_root() {
            return println!("skipped: only root can give files away");
        }
        let dir = tempfile::tempdir().unwrap();
        let file = with_a_file(dir.path());
        for path in [dir.path(), &file] {
            chown(path, Some(OWNER), Some(OWNER)).unwrap();
        }
        let directory = Directory::of_publisher(dir.path()).unwrap();
        assert_eq!(directory.remove_lines(&file, |line| line == b"one\n").unwrap(), 1);
        assert_eq!(fs::read(&file).unwrap(), b"two\n");
        let owners: Vec<u32> =
            dir.path().read_dir().unwrap().map(|entry| entry.unwrap().metadata().unwrap().uid()).collect();
        assert_eq!(owners, [OWNER]);
    }

    #[test]
    fn of_two_that_change_dead_letters_one_is_told_to_wait() {
        let dir = tempfile::tempdir().unwrap();
        let file = with_a_file(dir.path());
        let directory = Directory::of_publisher(dir.path()).unwrap();
        let lock = directory.try_lock().unwrap();
        assert!(matches!(directory.remove_lines(&file, |_| true), Err(FailedError::Busy(_))));
        drop(lock);
        assert_eq!(directory.remove_lines(&file, |_| true).unwrap(), 2);
        assert!(!file.exists());
    }
}
