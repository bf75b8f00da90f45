//! What is being done, request by request, so that a request that comes back after a crash is answered as if it had been done
//! once.
//!
//! The kernel sends a request that nobody has answered again to whoever serves the connection next (FUSE_NOTIFY_RESEND). It
//! does not know what was done of it. So each request has a slot from before its first side effect until its answer has
//! left, in which the thread that does it notes how far it is: what is about to be done before a side effect, what was done
//! after it. A slot is a few words, stored without a system call. What the notes say about a request that has come back is in
//! [`verdict`](super::verdict).
//!
//! ```text
//!   0  unique: the request's number, without the bit that marks one that has come back; 0 if free
//!   1  operation
//!   2  when it was begun, ns since the epoch, on the clock by which filesystems date files
//!   3  notes: which of the following words say something
//!   4  bytes written, and where they begin
//!   6  the record: uuid of the ring, two words, and sequence number of its first part
//!   9  the handle that is being opened
//!  10  the file that is moved or removed: device, inode number, number of its names
//!  13  the file that another takes the place of: device, inode number
//!  16  how many of the nodes below were counted
//!  17  how many there will be once the one that is being counted is; 0 if none is
//!  18  how many there are as long as the last one is being taken back; 0 if it is not
//!  19  the look-ups of the node that is being counted, or taken back, before that
//!  20  nodes that the kernel is told of, each by its slot
//! ```
//!
//! The counting of one node holds the lock of all: between the store of word 19 and that of word 16 nobody else
//! changes the node's look-ups. So these tell whether it was counted.

mod current;
mod request;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

pub use current::*;
use request::At;
pub use request::Request;

use bywash_common::shared::{Segment, WORD};

use super::{
    lock,
    table::{Shape, is_dead, step},
};

/// Words of a slot.
pub const WORDS: usize = 512;

/// How many nodes one answer tells the kernel of at most.
pub const TOLD_MAX: usize = WORDS - word::NODES;

/// Marks a request that has come back: FUSE_UNIQUE_RESEND of linux/fuse.h.
const RESENT: u64 = 1 << 63;

mod word {
    pub const UNIQUE: usize = 0;
    pub const OPERATION: usize = 1;
    pub const BEGUN_NS: usize = 2;
    pub const NOTES: usize = 3;
    pub const WRITTEN: usize = 4;
    pub const RING: usize = 6;
    pub const SEQUENCE: usize = 8;
    pub const HANDLE: usize = 9;
    pub const MOVED: usize = 10;
    pub const REPLACED: usize = 13;
    pub const COUNTED: usize = 16;
    pub const COUNTING: usize = 17;
    pub const TAKING_BACK: usize = 18;
    pub const BEFORE: usize = 19;
    pub const NODES: usize = 20;
}

/// Bits of the word for notes.
mod note {
    pub const WRITTEN: u64 = 1;
    pub const RECORDING: u64 = 1 << 1;
    pub const RECORDED: u64 = 1 << 2;
    pub const OPENING: u64 = 1 << 3;
    pub const MOVING: u64 = 1 << 4;
    pub const REPLACING: u64 = 1 << 5;
    pub const HAD_IT: u64 = 1 << 7;
    pub const TRYING: u64 = 1 << 8;
    pub const APPENDING: u64 = 1 << 9;
    pub const PLACING: u64 = 1 << 10;
}

/// What tells a file below from others, as far as requests need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileKey {
    /// Its device.
    pub dev: u64,
    /// Its inode number.
    pub ino: u64,
}

/// Bytes that are in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrittenAt {
    /// How many.
    pub len: u64,
    /// Where they begin.
    pub offset: u64,
}

/// A record that was reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordId {
    /// The ring's uuid.
    pub ring: [u8; 16],
    /// The sequence number of its first part. All parts are committed at once.
    pub sequence: u64,
}

/// How far a request is that was cut short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// When it was begun; 0 if that was not noted.
    pub begun_ns: u64,
    /// Whether it was about to append, or to write at a place.
    pub appending: Option<bool>,
    /// What was written.
    pub written: Option<WrittenAt>,
    /// A record of that was reserved, and perhaps committed.
    pub recording: Option<RecordId>,
    /// The record is committed, or counted as lost, or there is to be none.
    pub recorded: bool,
    /// The handle that was being opened, or is open.
    pub opening: Option<u64>,
    /// The file that was to be moved or removed, and how many names it had.
    pub moving: Option<(FileKey, u64)>,
    /// The file that was to be replaced.
    pub replacing: Option<FileKey>,
    /// The system call had been begun.
    pub trying: bool,
    /// What was to be removed was there before.
    pub had_it: bool,
}

/// A request that was being done when the process ended.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Its number.
    pub unique: u64,
    /// Its operation: the opcode of FUSE.
    pub operation: u32,
    /// How far it is.
    pub progress: Progress,
}

/// The slots of all requests of one overlay that are being done.
#[derive(Debug)]
pub struct Journal {
    segment: Arc<Segment>,
    start: usize,
    /// The word that says how many of the first slots were ever used: the memory of others is not touched.
    used_at: usize,
    /// The same number. Asked for each request, which so need not touch that word's page.
    used: AtomicU64,
    /// Which slots this process uses, or has found in use.
    taken: Box<[AtomicBool]>,
    /// Requests that were cut short and have not come back, with their slots.
    left: Mutex<HashMap<u64, u32>>,
    left_count: AtomicUsize,
    full_told: AtomicBool,
}

impl Journal {
    /// One without any.
    pub(super) fn new(segment: &Arc<Segment>, shape: &Shape) -> Arc<Self> {
        Arc::new(Self {
            segment: Arc::clone(segment),
            start: shape.start,
            used_at: shape.used_at,
            used: AtomicU64::new(0),
            taken: (0..shape.max).map(|_| AtomicBool::new(false)).collect(),
            left: Mutex::default(),
            left_count: AtomicUsize::new(0),
            full_told: AtomicBool::new(false),
        })
    }

    /// What a predecessor has left. `lookups` says how often the kernel knows the node in a slot; none for a slot that is void.
    /// None if it claims more than it can have.
    pub(super) fn take_up(
        segment: &Arc<Segment>,
        shape: &Shape,
        lookups: impl Fn(u32) -> Option<u64>,
    ) -> Option<Arc<Self>> {
        let journal = Self::new(segment, shape);
        let used = segment.word(shape.used_at).load(Ordering::Acquire);
        let used = u32::try_from(used).ok().filter(|used| *used <= shape.max)?;
        journal.used.store(used.into(), Ordering::Relaxed);
        let mut left = HashMap::new();
        for index in 0..used {
            let unique = journal.word(index, word::UNIQUE).load(Ordering::Acquire);
            if unique != 0 {
                journal.settle(index, &lookups);
                journal.taken[index as usize].store(true, Ordering::Relaxed);
                left.insert(unique, index);
            }
        }
        journal.left_count.store(left.len(), Ordering::Release);
        *lock(&journal.left) = left;
        Some(journal)
    }

    /// Makes up for a count that was being changed. As often done as it is begun, it comes to the same.
    fn settle(&self, index: u32, lookups: &impl Fn(u32) -> Option<u64>) {
        let get = |at: usize| self.word(index, at).load(Ordering::Acquire);
        let set = |at: usize, value: u64| self.word(index, at).store(value, Ordering::Release);
        let at_most = |count: u64| count.min(TOLD_MAX as u64);
        let node =
            |number: u64| lookups(get(word::NODES + at_most(number.saturating_sub(1)) as usize) as u32);
        let counted = at_most(get(word::COUNTED));
        let before = get(word::BEFORE);
        if get(word::COUNTING) == counted + 1 && node(counted + 1) == Some(before.wrapping_add(1)) {
            set(word::COUNTED, counted + 1);
        } else {
            set(word::COUNTED, counted);
        }
        set(word::COUNTING, 0);
        let counted = at_most(get(word::COUNTED));
        let back = get(word::TAKING_BACK);
        // A node that is not there any more is one that the kernel had not been told of otherwise.
        if back != 0 && back == counted && node(counted).is_none_or(|now| now.wrapping_add(1) == before) {
            set(word::COUNTED, counted - 1);
        }
        set(word::TAKING_BACK, 0);
    }

    /// Where it begins.
    #[cfg(test)]
    pub fn start(&self) -> usize {
        self.start
    }

    fn word(&self, slot: u32, at: usize) -> &AtomicU64 {
        self.segment.word(self.start + (slot as usize * WORDS + at) * WORD)
    }

    /// Those that were cut short and have not come back.
    #[cfg(test)]
    pub fn left(&self) -> Vec<InFlight> {
        let slots: Vec<u32> = lock(&self.left).values().copied().collect();
        let in_flight = slots.into_iter().map(|slot| InFlight {
            unique: self.word(slot, word::UNIQUE).load(Ordering::Acquire),
            operation: self.word(slot, word::OPERATION).load(Ordering::Acquire) as u32,
            progress: self.progress(slot),
        });
        in_flight.collect()
    }

    /// Settles whether records are committed of requests that were cut short: before anybody commits one, since its number may
    /// be that of one that was not. `is_committed` says it of a record; none if nobody knows.
    pub fn settle_records(&self, is_committed: impl Fn(RecordId) -> Option<bool>) {
        for slot in lock(&self.left).values() {
            let progress = self.progress(*slot);
            let Some(record) = progress.recording.filter(|_| !progress.recorded) else { continue };
            let notes = self.word(*slot, word::NOTES);
            let settled = match is_committed(record) {
                Some(true) => notes.load(Ordering::Acquire) | note::RECORDED,
                Some(false) | None => notes.load(Ordering::Acquire) & !note::RECORDING,
            };
            notes.store(settled, Ordering::Release);
        }
    }

    /// All that the kernel wanted to send again has come: the others were answered.
    pub fn nothing_more_comes_back(&self) {
        let slots: Vec<u32> = lock(&self.left).drain().map(|(_, slot)| slot).collect();
        self.left_count.store(0, Ordering::Release);
        slots.into_iter().for_each(|slot| self.free(slot));
    }

    /// A request with number `unique` is to be done: to be called before anything is. It is taken up where it was cut short,
    /// if it was. `hint` is a small number that tells the calling thread from others.
    pub fn begin(self: &Arc<Self>, hint: usize, unique: u64, operation: u32) -> Request {
        let is_new = unique & RESENT == 0;
        let unique = unique & !RESENT;
        if self.left_count.load(Ordering::Acquire) > 0 {
            let slot = lock(&self.left).remove(&unique);
            if let Some(slot) = slot {
                self.left_count.fetch_sub(1, Ordering::AcqRel);
                return Request { noted: Some(self.at(slot)), was_cut_short: true, uid: 0 };
            }
        }
        let slot = self.claim(hint).or_else(|| if is_new { self.claim_from_left(hint) } else { None });
        if slot.is_none() {
            self.say_full();
        }
        if let Some(slot) = slot {
            if self.used.load(Ordering::Relaxed) <= slot.into() {
                step();
                let used = u64::from(slot) + 1;
                self.segment.word(self.used_at).fetch_max(used, Ordering::AcqRel);
                // Not before: until then whoever takes this slot has to see to that.
                self.used.fetch_max(used, Ordering::AcqRel);
            }
            step();
            let set = |at: usize, value: u64| self.word(slot, at).store(value, Ordering::Release);
            set(word::OPERATION, operation.into());
            for at in [word::NOTES, word::BEGUN_NS, word::COUNTED, word::COUNTING, word::TAKING_BACK] {
                set(at, 0);
            }
            set(word::UNIQUE, unique);
        }
        Request { noted: slot.map(|slot| self.at(slot)), was_cut_short: false, uid: 0 }
    }

    fn at(self: &Arc<Self>, slot: u32) -> At {
        At { journal: Arc::clone(self), slot }
    }

    fn claim(&self, hint: usize) -> Option<u32> {
        let slots = self.taken.len();
        let order = (0..slots).map(|offset| (hint + offset) % slots);
        let mut free = order.filter(|index| {
            let taken = &self.taken[*index];
            !taken.load(Ordering::Relaxed) && !taken.swap(true, Ordering::AcqRel)
        });
        free.next().and_then(|index| u32::try_from(index).ok())
    }

    /// A slot of a request that was cut short and was answered all the same: each kill may leave some, and where one follows the
    /// other nobody lives long enough to let go of them. The kernel sends what it sends again before everything new
    /// (`fuse_resend()` of fs/fuse/dev.c), so that a new request shows that nothing more comes back.
    fn claim_from_left(&self, hint: usize) -> Option<u32> {
        if self.left_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.nothing_more_comes_back();
        self.claim(hint)
    }

    fn say_full(&self) {
        if !self.full_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "more than {} requests are being done under one overlay: what is over that may be done twice if fs-agent is \
                 killed meanwhile",
                self.taken.len()
            );
        }
    }

    fn free(&self, slot: u32) {
        step();
        if !is_dead() {
            self.word(slot, word::UNIQUE).store(0, Ordering::Release);
        }
        self.taken[slot as usize].store(false, Ordering::Release);
    }

    fn progress(&self, slot: u32) -> Progress {
        let get = |at: usize| self.word(slot, at).load(Ordering::Acquire);
        let notes = get(word::NOTES);
        let has = |note: u64| notes & note != 0;
        let key = |at: usize| FileKey { dev: get(at), ino: get(at + 1) };
        let mut ring = [0; 16];
        ring[..8].copy_from_slice(&get(word::RING).to_ne_bytes());
        ring[8..].copy_from_slice(&get(word::RING + 1).to_ne_bytes());
        Progress {
            begun_ns: get(word::BEGUN_NS),
            appending: (has(note::APPENDING) || has(note::PLACING)).then(|| has(note::APPENDING)),
            written: has(note::WRITTEN)
                .then(|| WrittenAt { len: get(word::WRITTEN), offset: get(word::WRITTEN + 1) }),
            recording: has(note::RECORDING).then(|| RecordId { ring, sequence: get(word::SEQUENCE) }),
            recorded: has(note::RECORDED),
            opening: has(note::OPENING).then(|| get(word::HANDLE)),
            moving: has(note::MOVING).then(|| (key(word::MOVED), get(word::MOVED + 2))),
            replacing: has(note::REPLACING).then(|| key(word::REPLACED)),
            trying: has(note::TRYING),
            had_it: has(note::HAD_IT),
        }
    }
}
