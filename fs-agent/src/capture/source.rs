//! One directory's way into the ring: what is excluded, what its quota withholds, and the rest.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use arc_swap::Guard;
use bywash_common::{
    clock::now_ns,
    config::DirectoryConfig,
    glob::Globs,
    record::LossReason,
    ring::{AgentRing, Weight},
};

use super::{
    Capture, Event,
    quota::{FileId, Quota, Withheld, Write},
};
use crate::sync::lock;

/// One directory's way into the ring.
pub struct Source {
    capture: Arc<Capture>,
    /// How many bytes of a path are the directory's own, with the slash behind it.
    root_len: usize,
    rules: RwLock<Rules>,
    /// Which patterns these are: the same for the same ones, in a successor too. Of 63 bits, and never 0. Each write asks for this
    /// and for `has_quota`, and need not wait for the lock: they change under the lock alone.
    edition: AtomicU64,
    /// Whether there is a quota.
    has_quota: AtomicBool,
    /// Where the quota's clock begins.
    begin: Instant,
}

/// What a reload can change.
struct Rules {
    exclude: Globs,
    quota: Option<Mutex<Quota>>,
}

impl Source {
    /// The way of `directory` into the ring.
    pub fn new(capture: Arc<Capture>, directory: &DirectoryConfig) -> Self {
        let DirectoryConfig { path, exclude, quota, .. } = directory;
        let quota = quota.map(|config| Mutex::new(Quota::new(config)));
        Self {
            capture,
            root_len: path.as_os_str().len(),
            edition: AtomicU64::new(edition_of(exclude)),
            has_quota: AtomicBool::new(quota.is_some()),
            rules: RwLock::new(Rules { exclude: exclude.clone(), quota }),
            begin: Instant::now(),
        }
    }

    /// The ring that it leads into.
    pub fn ring(&self) -> Guard<Arc<AgentRing>> {
        self.capture.ring()
    }

    /// Takes over what has changed. Files of a quota that has changed begin anew.
    pub fn change(&self, directory: &DirectoryConfig) {
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        if rules.exclude != directory.exclude {
            rules.exclude = directory.exclude.clone();
            self.edition.store(edition_of(&rules.exclude), Ordering::Release);
        }
        if rules.quota.as_ref().map(|quota| lock(quota).config()) != directory.quota {
            if let Some(old) = rules.quota.take() {
                self.say_all(&mut lock(&old));
            }
            rules.quota = directory.quota.map(|config| Mutex::new(Quota::new(config)));
            self.has_quota.store(rules.quota.is_some(), Ordering::Release);
        }
    }

    /// Whether what is written through an open file is excluded. That is decided once, by whether its path is one that
    /// matches, as `has_path` says, and written into the file's `note`, until the patterns change.
    pub fn excludes(&self, note: &AtomicU64, has_path: impl FnOnce(&dyn Fn(&[u8]) -> bool) -> bool) -> bool {
        // The edition, and in the lowest bit what it says.
        let noted = note.load(Ordering::Relaxed);
        if noted >> 1 == self.edition.load(Ordering::Acquire) {
            return noted & 1 == 1;
        }
        let rules = self.rules();
        let edition = self.edition.load(Ordering::Acquire);
        let matches =
            |path: &[u8]| path.get(self.root_len..).is_some_and(|below| rules.exclude.match_path(below));
        let excluded = has_path(&matches);
        note.store(edition << 1 | u64::from(excluded), Ordering::Relaxed);
        excluded
    }

    /// The most bytes of one write that the ring takes; see [`Capture::write_bytes_max`].
    pub fn write_bytes_max(&self) -> u64 {
        self.capture.write_bytes_max()
    }

    /// Counts a write that is excluded.
    pub fn count_excluded(&self, bytes: usize) {
        self.capture.count_excluded(bytes as u64);
    }

    /// Counts an open whose shared mappings are not captured.
    pub fn count_uncaptured_mapper(&self) {
        self.capture.count_uncaptured_mapper();
    }

    /// Puts `event`, a write to `file` at `path`, into the ring, unless the file's quota withholds it.
    pub fn record(&self, file: FileId, path: &Arc<[u8]>, event: &Event<'_>) {
        if self.quota_lets_pass(file, path, event.data.len() as u64) {
            self.capture.record(event);
        }
    }

    fn quota_lets_pass(&self, file: FileId, path: &Arc<[u8]>, bytes: u64) -> bool {
        if !self.has_quota.load(Ordering::Acquire) {
            return true;
        }
        let rules = self.rules();
        let Some(quota) = &rules.quota else { return true };
        let time_ns = now_ns();
        let mut quota = lock(quota);
        let decision = quota.decide(&Write { file, path, bytes, time_ns }, self.elapsed_ns());
        if !decision.captured {
            // Under the lock: it is counted before anybody says it.
            let weight = Weight { bytes, time_ns };
            self.capture.ring().producer.count_loss(LossReason::Quota, weight);
        }
        drop(quota);
        if let Some(pushed_out) = decision.pushed_out
            && !self.say(&pushed_out)
        {
            self.leave_to_others(&pushed_out);
        }
        decision.captured
    }

    /// Announces what was withheld a while ago.
    pub fn tidy(&self) {
        let rules = self.rules();
        let Some(quota) = &rules.quota else { return };
        let mut due = lock(quota).due(self.elapsed_ns()).into_iter();
        let Some((file, withheld)) = due.find(|(_, withheld)| !self.say(withheld)) else { return };
        // There is no room: neither for the others.
        for (file, withheld) in std::iter::once((file, withheld)).chain(due) {
            if let Some(withheld) = lock(quota).give_back(file, withheld, self.elapsed_ns()) {
                self.leave_to_others(&withheld);
            }
        }
    }

    /// Announces everything that was withheld.
    pub fn finish(&self) {
        if let Some(quota) = &self.rules().quota {
            self.say_all(&mut lock(quota));
        }
    }

    fn say_all(&self, quota: &mut Quota) {
        for (_, withheld) in quota.all() {
            if !self.say(&withheld) {
                self.leave_to_others(&withheld);
            }
        }
    }

    /// Whether there was room to say it.
    fn say(&self, withheld: &Withheld) -> bool {
        self.capture.ring().producer.announce_withheld(&withheld.loss(), &withheld.path)
    }

    /// It is announced with other losses, without the file's path, once there is room.
    fn leave_to_others(&self, withheld: &Withheld) {
        self.capture.ring().producer.let_go_of_withheld(&withheld.loss());
    }

    fn rules(&self) -> RwLockReadGuard<'_, Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.finish();
    }
}

fn edition_of(exclude: &Globs) -> u64 {
    let mut hasher = DefaultHasher::new();
    exclude.patterns().hash(&mut hasher);
    (hasher.finish() >> 1).max(1)
}
