//! What is said of names in the directory of shared memory that do not count.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// At most one line in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// How many names are remembered as said; of what is beyond, one is named again in each line.
const SAID_MAX: usize = 1024;

/// What this process has said.
struct Said {
    last: Option<Instant>,
    paths: BTreeSet<PathBuf>,
}

static SAID: Mutex<Said> = Mutex::new(Said { last: None, paths: BTreeSet::new() });

/// The names that one look at the directory has passed over.
#[derive(Default)]
pub(super) struct Ignored {
    first: Vec<(PathBuf, bool, String)>,
    count: usize,
}

impl Ignored {
    /// Adds one.
    pub(super) fn add(&mut self, path: &Path, is_directory: bool, why: String) {
        self.count += 1;
        if self.first.len() < SAID_MAX {
            self.first.push((path.to_owned(), is_directory, why));
        }
    }

    /// Says it, unless all of it was said before or something else was a moment ago.
    pub(super) fn say(self) {
        let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((path, is_directory, why)) = self.first.iter().find(|(path, ..)| !said.paths.contains(path))
        else {
            return;
        };
        if said.last.is_some_and(|last| last.elapsed() < LOG_INTERVAL) {
            return;
        }
        let others = match self.count - 1 {
            0 => String::new(),
            n => format!("; and {n} others like it"),
        };
        let remove = if *is_directory { "rm -r" } else { "rm" };
        let path = path.display();
        tracing::warn!(
            "ignoring {path}, which is no segment of the ring: {why} (to remove it: {remove} {path}){others}"
        );
        said.last = Some(Instant::now());
        for (path, ..) in self.first {
            if said.paths.len() < SAID_MAX {
                said.paths.insert(path);
            }
        }
    }
}
