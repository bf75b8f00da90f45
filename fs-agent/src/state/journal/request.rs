//! One request that is being done, and the notes of how far it is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};

use super::{FileKey, Journal, Progress, RecordId, TOLD_MAX, WrittenAt, is_dead, note, step, word};

/// A request that is being done, until its answer has left: dropped, its slot is free.
#[derive(Debug, Default)]
pub struct Request {
    /// None where too many are being done.
    pub(super) noted: Option<At>,
    pub(super) was_cut_short: bool,
    /// Who asks.
    pub(super) uid: u32,
}

/// Where a request is noted, until dropped.
#[derive(Debug)]
pub(super) struct At {
    pub(super) journal: Arc<Journal>,
    pub(super) slot: u32,
}

impl At {
    fn word(&self, at: usize) -> &AtomicU64 {
        self.journal.word(self.slot, at)
    }
}

impl Drop for At {
    fn drop(&mut self) {
        if !is_dead() {
            self.journal.free(self.slot);
        }
    }
}

impl Request {
    /// It is a user's: root's, where nobody says whose.
    pub fn of(self, uid: u32) -> Self {
        let mut request = self;
        request.uid = uid;
        request
    }

    /// How far it was when it was cut short; none if it is done for the first time.
    pub fn cut_short(&self) -> Option<Progress> {
        let At { journal, slot } = self.noted.as_ref().filter(|_| self.was_cut_short)?;
        Some(journal.progress(*slot))
    }

    pub(super) fn is_noted_in(&self, journal: &Arc<Journal>) -> bool {
        self.noted.as_ref().is_some_and(|noted| Arc::ptr_eq(&noted.journal, journal))
    }

    pub(super) fn set(&self, at: usize, value: u64) {
        step();
        if let Some(noted) = self.noted.as_ref().filter(|_| !is_dead()) {
            noted.word(at).store(value, Ordering::Release);
        }
    }

    pub(super) fn get(&self, at: usize) -> u64 {
        self.noted.as_ref().map_or(0, |noted| noted.word(at).load(Ordering::Acquire))
    }

    pub(super) fn note(&self, note: u64) {
        self.set(word::NOTES, self.get(word::NOTES) | note);
    }

    /// Something is about to be made: files that come into being from now on may be its own.
    pub(super) fn begins_to_make(&self) {
        if self.get(word::BEGUN_NS) == 0 {
            self.set(word::BEGUN_NS, file_time_ns());
        }
    }

    /// Bytes are in the file.
    pub fn written(&self, written: WrittenAt) {
        self.set(word::WRITTEN, written.len);
        self.set(word::WRITTEN + 1, written.offset);
        self.note(note::WRITTEN);
    }

    /// A record is reserved, and about to be committed.
    pub fn recording(&self, record: RecordId) {
        let (first, second) = record.ring.split_at(8);
        // Half of one is no other's.
        self.set(word::NOTES, self.get(word::NOTES) & !note::RECORDING);
        let word_of = |half: &[u8]| half.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
        self.set(word::RING, word_of(first));
        self.set(word::RING + 1, word_of(second));
        self.set(word::SEQUENCE, record.sequence);
        self.note(note::RECORDING);
    }

    /// The record is committed, or counted as lost, or there is to be none.
    pub fn recorded(&self) {
        self.note(note::RECORDED);
    }

    /// The handle is about to be one that the kernel may use.
    pub(super) fn opening(&self, handle: u64) {
        self.set(word::HANDLE, handle);
        self.note(note::OPENING);
    }

    /// A file is about to lose the name that it has, which may be its last, or to be renamed, in place of another.
    pub(super) fn moving(&self, moved: Option<(FileKey, u64)>, replaced: Option<FileKey>) {
        if let Some((key, names)) = moved {
            self.set(word::MOVED, key.dev);
            self.set(word::MOVED + 1, key.ino);
            self.set(word::MOVED + 2, names);
        }
        if let Some(key) = replaced {
            self.set(word::REPLACED, key.dev);
            self.set(word::REPLACED + 1, key.ino);
        }
        let moving = moved.map_or(0, |_| note::MOVING) | replaced.map_or(0, |_| note::REPLACING);
        self.note(moving | note::TRYING);
    }

    /// The kernel is about to be told once more of the node in `slot`, which it knows `before` times; `count` has it counted. To
    /// be called with the lock of all nodes.
    pub(super) fn counting(&self, slot: u32, before: u64, count: impl FnOnce()) {
        let counted = self.get(word::COUNTED);
        let Some(at) = usize::try_from(counted).ok().filter(|at| *at < TOLD_MAX) else { return count() };
        self.set(word::NODES + at, slot.into());
        self.set(word::BEFORE, before);
        self.set(word::COUNTING, counted + 1);
        count();
        self.set(word::COUNTED, counted + 1);
    }

    /// The node in `slot` that was counted last is taken back by `take_back`; it is known `before` times. To be called with
    /// the lock of all nodes.
    pub fn taking_back(&self, before: u64, take_back: impl FnOnce()) {
        let counted = self.get(word::COUNTED);
        self.set(word::COUNTING, 0);
        self.set(word::BEFORE, before);
        self.set(word::TAKING_BACK, counted);
        take_back();
        self.set(word::COUNTED, counted.saturating_sub(1));
        self.set(word::TAKING_BACK, 0);
    }

    /// The slot of the node that was counted last, for an answer that has not left.
    pub fn last_counted(&self) -> Option<u32> {
        let at = usize::try_from(self.get(word::COUNTED)).ok()?.checked_sub(1)?;
        u32::try_from(self.get(word::NODES + at.min(TOLD_MAX - 1))).ok()
    }
}

/// The time by the clock with which filesystems date what is made; no system call.
fn file_time_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_nanos()).unwrap_or(0)
}
