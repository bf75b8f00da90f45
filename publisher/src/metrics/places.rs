//! What lies beside the ring, and is looked at when somebody asks.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use bywash_common::config::Config;

use crate::spool;

/// What the names of files with dead letters end with.
const LETTERS: &str = ".jsonl";

/// Where there is something to be looked at.
#[derive(Debug, Default)]
pub struct Places {
    /// The ring's name.
    pub ring: String,
    spool: PathBuf,
    failed: Option<PathBuf>,
    /// How many letters there are in a file of some length: one is read again once its length is another.
    letters: Mutex<BTreeMap<PathBuf, (u64, u64)>>,
}

/// What waits on disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waste {
    /// Dead letters.
    pub letters: u64,
    /// Bytes of those.
    pub letter_bytes: u64,
    /// When the oldest was kept, in nanoseconds since the epoch.
    pub oldest_letter_ns: Option<u64>,
    /// When the oldest file of the spool was begun, in nanoseconds since the epoch.
    pub oldest_spooled_ns: Option<u64>,
}

impl Places {
    /// Those that are configured.
    pub fn new(config: &Config) -> Self {
        Self {
            ring: config.ring.name.clone(),
            spool: config.spool_place(),
            failed: config.failed_directory(),
            letters: Mutex::default(),
        }
    }

    #[cfg(test)]
    pub fn of_ring(ring: &str) -> Self {
        Self { ring: ring.to_owned(), ..Self::default() }
    }

    /// What waits on disks, as far as it can be seen.
    pub fn waste(&self) -> Waste {
        let mut waste = Waste {
            // A disk that does not answer is complained of by those who need it.
            oldest_spooled_ns: spool::oldest_ns(&self.spool).ok().flatten(),
            ..Waste::default()
        };
        let mut known = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *known);
        for (path, bytes) in self.failed.iter().flat_map(|dir| files(dir)) {
            let lines = match before.get(&path) {
                Some((then, lines)) if *then == bytes => *lines,
                _ => lines_of(&path),
            };
            // The name is the time at which its letters were kept.
            let name =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(LETTERS));
            let kept_ns = name.and_then(|name| name.parse().ok());
            waste.oldest_letter_ns = waste.oldest_letter_ns.into_iter().chain(kept_ns).min();
            waste.letters += lines;
            waste.letter_bytes += bytes;
            known.insert(path, (bytes, lines));
        }
        waste
    }
}

/// The files with letters, and their lengths.
fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let letters =
        entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.ends_with(LETTERS)));
    letters.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.len()))).collect()
}

fn lines_of(path: &Path) -> u64 {
    fs::read(path).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count() as u64
}
