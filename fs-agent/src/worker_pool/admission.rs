//! Admission control: which requests get a worker now, and which wait. A request occupies its worker for as long as the file
//! below takes: for good, if the file is on a server that is gone.
//!
//! So under pressure, when more than a quarter of [`BUSY_MAX`] workers are busy, shares are limited. An overlay has at most as
//! many workers as are free then, but always [`OVERLAY_MIN`]. A user has, in one overlay, at most as many workers as that overlay
//! could still get, less [`OF_ROOT_ALONE`]. One greedy overlay gets half of the workers (one greedy user less than a third), and the
//! next one the same part of the rest. Root is limited by the overlay's share alone. A caller for whom others wait is limited
//! by that share less [`OF_ROOT_ALONE`], however many workers he has: the kernel holds a directory's lock while it looks up a
//! name in it.
//!
//! A request above the share waits here, as a copy and without a worker. The next worker that finishes a request takes it.
//! Waiting users and overlays are served round-robin. A request that is admitted at once costs a few atomic operations.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

/// The most workers that are at requests, but for [`OVERLAY_MIN`] of each overlay.
pub const BUSY_MAX: usize = 128;

/// The pressure: one part in so many of [`BUSY_MAX`]. Up to there everybody is within his share, whoever has what.
const PRESSURE: usize = 4;

/// How many workers each overlay can have, whatever others have.
const OVERLAY_MIN: usize = 2;

/// How many workers of an overlay's share only root can have.
const OF_ROOT_ALONE: usize = 8;

/// How much may wait, in bytes, before requests that come on top are cut short where they can be.
const WAITING_BYTES_MAX: usize = 16 << 20;

/// Who asks for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// The pool itself, to have a worker look up.
    Pool,
    /// Nobody who waits, and it takes no time.
    Nobody,
    /// Root, or the kernel.
    Root,
    /// A user for whom others may wait.
    Holder(u32),
    /// A user.
    User(u32),
}

/// Who has a share: an overlay, or a user in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    overlay: u32,
    /// 0 for root.
    uid: u32,
    /// Others may wait for him.
    holds: bool,
}

impl Key {
    /// As a worker's slot has it: never 0, since no overlay has that number.
    fn packed(self) -> u64 {
        u64::from(self.overlay) << 32 | u64::from(self.uid)
    }
}

/// What a worker is at. A line of the caches each.
#[derive(Default)]
#[repr(align(64))]
struct Slot(AtomicU64);

/// Whose turn it is. `W` is what waits.
pub struct Admission<W> {
    busy: AtomicUsize,
    slots: Box<[Slot]>,
    /// How many wait. Counted before it is looked whether they have to, and looked at by every worker that has finished: so
    /// either the one finds a share free, or the other what waits for it.
    waiting: AtomicUsize,
    line: Mutex<Line<W>>,
}

struct Line<W> {
    waiting: HashMap<Key, VecDeque<(W, usize)>>,
    /// Who has something that waits, each once.
    order: VecDeque<Key>,
    bytes: usize,
}

/// Whether a request is done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes: by who asked.
    Now,
    /// Later, or never: it was given to `wait`.
    Later,
}

/// How many workers are at something.
struct Count {
    busy: usize,
    by_overlay: HashMap<u32, usize>,
    by_user: HashMap<(u32, u32), usize>,
}

impl Count {
    fn admits(&self, key: Key) -> bool {
        let free = BUSY_MAX.saturating_sub(self.busy);
        let of_overlay = self.by_overlay.get(&key.overlay).copied().unwrap_or(0);
        let of_user = self.by_user.get(&(key.overlay, key.uid)).copied().unwrap_or(0);
        let left = free.saturating_sub(of_overlay);
        let of_others = match key {
            Key { uid: 0, .. } => 0,
            Key { holds: true, .. } => OF_ROOT_ALONE,
            Key { holds: false, .. } => OF_ROOT_ALONE + of_user,
        };
        of_overlay < OVERLAY_MIN || of_others < left
    }
}

impl<W> Admission<W> {
    /// For as many workers as have a slot.
    pub fn new(slots: usize) -> Self {
        let line = Line { waiting: HashMap::new(), order: VecDeque::new(), bytes: 0 };
        Self {
            busy: AtomicUsize::new(0),
            slots: (0..slots).map(|_| Slot::default()).collect(),
            waiting: AtomicUsize::new(0),
            line: Mutex::new(line),
        }
    }

    /// The worker of `slot` begins with a request to `overlay`, if it is the turn of who asks. Else `wait` gives what waits
    /// with how many bytes it takes; it is told whether there is little room. Nothing, if it is not to be done at all.
    pub fn take(
        &self,
        slot: usize,
        (overlay, asker): (u32, Asker),
        wait: impl FnOnce(bool) -> Option<(W, usize)>,
    ) -> Decision {
        let uid = match asker {
            Asker::Pool | Asker::Nobody => return Decision::Now,
            Asker::Root => 0,
            Asker::User(uid) | Asker::Holder(uid) => uid,
        };
        let key = Key { overlay, uid, holds: matches!(asker, Asker::Holder(_)) };
        if (self.busy.load(Ordering::SeqCst) + 1) * PRESSURE <= BUSY_MAX {
            self.begin(slot, key);
            return Decision::Now;
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut line = self.lock();
        if !line.waiting.contains_key(&key) && self.count().admits(key) {
            self.begin(slot, key);
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            return Decision::Now;
        }
        match wait(line.bytes >= WAITING_BYTES_MAX) {
            Some((waits, bytes)) => line.push(key, waits, bytes),
            None => {
                self.waiting.fetch_sub(1, Ordering::SeqCst);
            }
        }
        Decision::Later
    }

    fn begin(&self, slot: usize, key: Key) {
        // Who counts without having seen it counts as of a moment before. Where that would admit too many, it is under the lock.
        self.slots[slot].0.store(key.packed(), Ordering::Release);
        self.busy.fetch_add(1, Ordering::SeqCst);
    }

    /// The worker of `slot` has done what it was at, if anything.
    pub fn end(&self, slot: usize) {
        if self.slots[slot].0.load(Ordering::Relaxed) != 0 {
            self.slots[slot].0.store(0, Ordering::SeqCst);
            self.busy.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// The worker of `slot`, which is at nothing, begins with something that waits and whose turn it is by now.
    pub fn next(&self, slot: usize) -> Option<W> {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut line = self.lock();
        let count = self.count();
        let at = line.order.iter().position(|key| count.admits(*key))?;
        let (key, waits) = line.pop(at)?;
        self.begin(slot, key);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        Some(waits)
    }

    /// How many workers are at requests.
    #[cfg(test)]
    pub fn busy(&self) -> usize {
        self.busy.load(Ordering::SeqCst)
    }

    fn count(&self) -> Count {
        let mut count = Count { busy: 0, by_overlay: HashMap::new(), by_user: HashMap::new() };
        for slot in &self.slots {
            let packed = slot.0.load(Ordering::SeqCst);
            if packed != 0 {
                let [overlay, uid] = [packed >> 32, packed & u64::from(u32::MAX)].map(|half| half as u32);
                count.busy += 1;
                *count.by_overlay.entry(overlay).or_default() += 1;
                *count.by_user.entry((overlay, uid)).or_default() += 1;
            }
        }
        count
    }

    fn lock(&self) -> MutexGuard<'_, Line<W>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W> Line<W> {
    fn push(&mut self, key: Key, waits: W, bytes: usize) {
        self.bytes += bytes;
        let of_key = self.waiting.entry(key).or_default();
        if of_key.is_empty() {
            self.order.push_back(key);
        }
        of_key.push_back((waits, bytes));
    }

    /// Takes what the one at `at` has waiting, and puts him behind the others.
    fn pop(&mut self, at: usize) -> Option<(Key, W)> {
        let key = self.order.remove(at)?;
        let of_key = self.waiting.get_mut(&key)?;
        let (waits, bytes) = of_key.pop_front()?;
        self.bytes -= bytes;
        if of_key.is_empty() {
            self.waiting.remove(&key);
        } else {
            self.order.push_back(key);
        }
        Some((key, waits))
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
