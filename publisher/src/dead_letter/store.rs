//! The dead letters, as the one publisher has them that keeps them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bywash_common::{fail_point::FailPoint, units::ByteSize};
use jiff::Timestamp;

use crate::{
    delivery::DeadLetter,
    disk::{Access, SystemDisk},
    state_dir::StateDir,
};

use super::{
    directory::{Directory, SUFFIX},
    error::FailedError,
};

/// The dead letters.
pub struct Store {
    directory: Directory,
    size_max: u64,
    used: u64,
    /// What the last dead letters would have taken for which there was no room; 0 if there was.
    refused_bytes: u64,
    /// The number in the name of the file that was written last.
    last: i128,
    /// The file with that number may be there, and does not count: the next dead letters take its place.
    is_doubtful: bool,
    /// Locks the directory, where that is a real one.
    _state: Option<StateDir>,
}

impl Store {
    /// Opens the directory, and makes it if need be.
    ///
    /// # Errors
    /// A [`FailedError`] if it cannot be used.
    pub fn open(dir: &Path, size_max: ByteSize, group: Option<&str>) -> Result<Self, FailedError> {
        let state = StateDir::open("failed.dir", dir, group)?;
        let access = Access { mode: state.file_mode(), owner: None, group: state.group };
        let store = Self::open_on(Directory::on(Arc::new(SystemDisk), &state.path, access), size_max)?;
        Ok(Self { _state: Some(state), ..store })
    }

    /// Opens a directory that no other publisher uses.
    ///
    /// # Errors
    /// A [`FailedError`] if it cannot be used.
    pub fn open_on(directory: Directory, size_max: ByteSize) -> Result<Self, FailedError> {
        directory.remove_leftovers()?;
        let used = directory.measure()?;
        Ok(Self {
            directory,
            size_max: size_max.0,
            used,
            refused_bytes: 0,
            last: 0,
            is_doubtful: false,
            _state: None,
        })
    }

    /// The bytes of the letters that are kept.
    pub fn bytes(&self) -> u64 {
        self.used
    }

    /// Keeps dead letters: when this returns, they are on disk.
    ///
    /// # Errors
    /// A [`FailedError`]; none of them then counts as kept.
    pub fn keep<'l>(
        &mut self,
        dead_letters: impl IntoIterator<Item = &'l DeadLetter>,
    ) -> Result<(), FailedError> {
        let time = Timestamp::now();
        let lines: Vec<u8> =
            dead_letters.into_iter().flat_map(|dead_letter| dead_letter.to_line(time)).collect();
        self.make_room(lines.len() as u64)?;
        if !std::mem::replace(&mut self.is_doubtful, true) {
            self.last = time.as_nanosecond().max(self.last + 1);
        }
        self.directory.replace(&self.file(), &lines, || FailPoint::DeadLetterHalfKept.reach())?;
        self.is_doubtful = false;
        FailPoint::DeadLetterKept.reach();
        self.used += lines.len() as u64;
        Ok(())
    }

    /// Gives up keeping what could not be kept: something else becomes of it.
    pub fn give_up(&mut self) {
        if std::mem::take(&mut self.is_doubtful)
            && let Err(error) = self.directory.remove_lines(&self.file(), |_| true)
        {
            tracing::error!("{error}: dead letters in it may be announced as lost, too");
        }
    }

    /// Where the dead letters are that were kept last.
    fn file(&self) -> PathBuf {
        self.directory.path().join(format!("{:020}.{SUFFIX}", self.last))
    }

    /// Takes delivered lines out of a file.
    ///
    /// # Errors
    /// A [`FailedError`]; they are then still there.
    pub fn remove(&mut self, file: &Path, delivered: &[Vec<u8>]) -> Result<(), FailedError> {
        self.directory.remove_lines(file, |line| delivered.iter().any(|gone| gone == line))?;
        self.used = self.directory.measure()?;
        Ok(())
    }

    /// The directory.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Whether there is room for more, for as much as the last time at least.
    pub fn has_room(&self) -> bool {
        self.used < self.size_max && self.used.saturating_add(self.refused_bytes) <= self.size_max
    }

    /// Looks whether somebody has made room. Gives whether there is any.
    ///
    /// # Errors
    /// A [`FailedError`] if the system says no.
    pub fn look_for_room(&mut self) -> Result<bool, FailedError> {
        self.used = self.directory.measure()?;
        Ok(self.has_room())
    }

    /// Bytes of dead letters, as far as this process knows: someone may have dropped some.
    pub fn used_bytes(&self) -> u64 {
        self.used
    }

    fn make_room(&mut self, bytes: u64) -> Result<(), FailedError> {
        if self.used.saturating_add(bytes) > self.size_max {
            self.used = self.directory.measure()?;
        }
        if self.used.saturating_add(bytes) > self.size_max {
            self.refused_bytes = bytes;
            let (used, max) = (ByteSize(self.used), ByteSize(self.size_max));
            return Err(FailedError::Full { dir: self.directory.path().to_owned(), used, max });
        }
        self.refused_bytes = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use super::*;
    use crate::delivery::testing;

    fn dead_letter(payload: &[u8]) -> DeadLetter {
        DeadLetter {
            topic: "t".to_owned(),
            key: None,
            payload: payload.to_vec(),
            id: testing::id(1),
            time_ms: 0,
            reason: "no".to_owned(),
        }
    }

    fn open(dir: &Path, size_max: u64) -> Result<Store, FailedError> {
        Store::open(dir, ByteSize(size_max), None)
    }

    #[test]
    fn dead_letters_are_kept_in_files_that_only_the_owner_reads() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("a/b");
        let mut store = open(&dir, 1 << 20).unwrap();
        store.keep(&[dead_letter(b"one"), dead_letter(b"two")]).unwrap();
        store.keep(&[dead_letter(b"three")]).unwrap();
        let files = store.directory().files().unwrap();
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
        let mut store = open(dir.path(), 200).unwrap();
        store.keep(&[dead_letter(b"one")]).unwrap();
        let error = store.keep(&[dead_letter(b"two")]).unwrap_err();
        assert!(matches!(error, FailedError::Full { .. }) && error.to_string().contains("200"), "{error}");
        for file in store.directory().files().unwrap() {
            fs::remove_file(file).unwrap();
        }
        store.keep(&[dead_letter(b"two")]).unwrap();
    }
}
