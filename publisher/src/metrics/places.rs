//! What lies beside the ring, and is looked at when somebody asks.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use bywash_common::config::Config;

use crate::{dead_letter::Directory, spool};

/// Where there is something to be looked at.
#[derive(Debug, Default)]
pub struct Places {
    /// The ring's name.
    pub ring: String,
    spool: PathBuf,
    failed: Option<PathBuf>,
    /// How many dead letters there are in a file of some length: one is read again once its length is another.
    dead_letters: Mutex<BTreeMap<PathBuf, (u64, u64)>>,
}

/// What waits on disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waste {
    /// Dead letters.
    pub dead_letters: u64,
    /// Bytes of those.
    pub dead_letter_bytes: u64,
    /// When the oldest was kept, in nanoseconds since the epoch.
    pub oldest_dead_letter_ns: Option<u64>,
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
            dead_letters: Mutex::default(),
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
        let mut known = self.dead_letters.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *known);
        let Some(directory) = self.failed.as_deref().and_then(|dir| Directory::of_publisher(dir).ok()) else {
            return waste;
        };
        for path in directory.files().unwrap_or_default() {
            let Ok(Some(bytes)) = directory.bytes(&path) else { continue };
            let lines = match before.get(&path) {
                Some((then, lines)) if *then == bytes => *lines,
                _ => lines_of(&directory, &path),
            };
            // The name is the time at which its dead letters were kept.
            let kept_ns = path.file_stem().and_then(|name| name.to_str()?.parse().ok());
            waste.oldest_dead_letter_ns = waste.oldest_dead_letter_ns.into_iter().chain(kept_ns).min();
            waste.dead_letters += lines;
            waste.dead_letter_bytes += bytes;
            known.insert(path, (bytes, lines));
        }
        waste
    }
}

fn lines_of(directory: &Directory, file: &Path) -> u64 {
    let content = directory.read(file).ok().flatten().unwrap_or_default();
    content.iter().filter(|byte| **byte == b'\n').count() as u64
}
