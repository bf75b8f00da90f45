//! Tables of slots of one size: taken and given back without a search, valid by their first word.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bywash_common::shared::{Segment, WORD};

use super::lock;
use crate::shares::{NoneLeft, Share, Shares};

/// Where a table lies, and what it holds.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// What it holds, as the log calls it.
    pub of: &'static str,
    /// Where its first slot begins.
    pub start: usize,
    /// How many words a slot has; the first is not 0 as long as the slot holds something.
    pub slot_words: usize,
    /// How many slots there are.
    pub max: u32,
    /// The word that says how many of the first slots were ever used: the memory of others is not touched.
    pub used_at: usize,
    /// The word that says whose a slot is, where users share them: no version before this one has written there, so that of its
    /// slots all are root's.
    pub uid_at: Option<usize>,
}

impl Shape {
    /// Where it ends.
    pub fn end(&self) -> usize {
        self.start + self.max as usize * self.slot_words * WORD
    }
}

/// A table of a segment.
#[derive(Debug)]
pub struct Table {
    segment: Arc<Segment>,
    shape: Shape,
    free: Mutex<Free>,
    /// What of them each user may have.
    shares: Option<Shares>,
    /// Slots that are given back are made free. Not while the state is taken up, nor once it is left to a successor.
    live: AtomicBool,
    /// It was said that the table is full.
    full_told: AtomicBool,
}

#[derive(Debug)]
struct Free {
    /// Slots that were used and are free.
    again: Vec<u32>,
    /// How many were ever used.
    used: u32,
}

impl Table {
    /// One without anything in it.
    pub fn new(segment: &Arc<Segment>, shape: Shape) -> Arc<Self> {
        Self::with(segment, shape, Free { again: Vec::new(), used: 0 }, true)
    }

    fn with(segment: &Arc<Segment>, shape: Shape, free: Free, live: bool) -> Arc<Self> {
        Arc::new(Self {
            segment: Arc::clone(segment),
            shape,
            free: Mutex::new(free),
            shares: shape.uid_at.map(|_| Shares::new(shape.max as usize)),
            live: AtomicBool::new(live),
            full_told: AtomicBool::new(false),
        })
    }

    /// One that a predecessor has left, with the slots in it that hold something. None if it claims more than it can have.
    ///
    /// Until [`Self::go_live`] all slots stay as they are.
    pub fn take_up(segment: &Arc<Segment>, shape: Shape) -> Option<(Arc<Self>, Vec<Slot>)> {
        let used = segment.word(shape.used_at).load(Ordering::Acquire);
        let used = u32::try_from(used).ok().filter(|used| *used <= shape.max)?;
        let (filled, free): (Vec<u32>, Vec<u32>) =
            (0..used).partition(|index| segment.word(place(&shape, *index)).load(Ordering::Acquire) != 0);
        let table = Self::with(segment, shape, Free { again: free, used }, false);
        let slots = filled.into_iter().map(|index| {
            let share = table.shares.as_ref().zip(shape.uid_at).map(|(shares, uid_at)| {
                let uid = segment.word(place(&shape, index) + uid_at * WORD).load(Ordering::Acquire);
                shares.keep(uid as u32)
            });
            Slot::in_table(&table, index, share)
        });
        let slots = slots.collect();
        Some((table, slots))
    }

    /// Where it lies.
    #[cfg(test)]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// From now on what is given back is free.
    pub fn go_live(&self) {
        self.live.store(true, Ordering::Release);
    }

    /// From now on everything stays as it is, whatever this process lets go of.
    pub fn freeze(&self) {
        self.live.store(false, Ordering::Release);
    }

    /// As [`Self::take_for`], for root.
    pub fn take(self: &Arc<Self>) -> Slot {
        self.take_for(0)
    }

    /// A slot that nobody has, for a user. Where none is left, or none for this user, one that ends with this process: that is
    /// said once.
    ///
    /// What was in it is still there, but for the first word, which is 0.
    pub fn take_for(self: &Arc<Self>, uid: u32) -> Slot {
        let share = match self.shares.as_ref().map(|shares| shares.take(uid)).transpose() {
            Ok(share) => share,
            Err(NoneLeft { has }) => {
                self.say_full(&format!("user {uid} has {has} of them"));
                return self.private();
            }
        };
        let index = {
            let mut free = lock(&self.free);
            match free.again.pop() {
                Some(index) => Some(index),
                None if free.used < self.shape.max => {
                    step();
                    free.used += 1;
                    // Before anything is in the slot.
                    self.segment.word(self.shape.used_at).store(free.used.into(), Ordering::Release);
                    Some(free.used - 1)
                }
                None => None,
            }
        };
        let Some(index) = index else {
            self.say_full("that is all");
            return self.private();
        };
        let slot = Slot::in_table(self, index, share);
        if let Some(uid_at) = self.shape.uid_at {
            slot.set(uid_at, uid.into());
        }
        slot
    }

    fn say_full(&self, how: &str) {
        if !self.full_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{} {} under an overlay come back if fs-agent is started again, and {how}: what is over that is served as ever, \
                 and cannot come back",
                self.shape.max,
                self.shape.of
            );
        }
    }

    /// A slot that ends with this process.
    pub fn private(&self) -> Slot {
        Slot(Place::Private((0..self.shape.slot_words).map(|_| AtomicU64::new(0)).collect()))
    }
}

fn place(shape: &Shape, index: u32) -> usize {
    shape.start + index as usize * shape.slot_words * WORD
}

/// A slot that is taken, until dropped.
#[derive(Debug)]
pub struct Slot(Place);

#[derive(Debug)]
enum Place {
    /// In the segment, the byte where it begins beside, and what counts it for a user.
    Shared { table: Arc<Table>, index: u32, at: usize, _share: Option<Share> },
    /// Of this process alone.
    Private(Box<[AtomicU64]>),
}

impl Slot {
    fn in_table(table: &Arc<Table>, index: u32, share: Option<Share>) -> Self {
        let at = place(&table.shape, index);
        Self(Place::Shared { table: Arc::clone(table), index, at, _share: share })
    }

    /// Which it is of its table's; none if it ends with this process.
    pub fn index(&self) -> Option<u32> {
        match &self.0 {
            Place::Shared { index, .. } => Some(*index),
            Place::Private(_) => None,
        }
    }

    /// A word of it.
    ///
    /// # Panics
    /// If it has not so many words.
    #[inline]
    pub fn word(&self, index: usize) -> &AtomicU64 {
        match &self.0 {
            Place::Shared { table, at, .. } => {
                debug_assert!(index < table.shape.slot_words, "word {index} is in another slot");
                table.segment.word(at + index * WORD)
            }
            Place::Private(words) => &words[index],
        }
    }

    /// What a word of it says.
    #[inline]
    pub fn get(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    /// Stores a word. What was stored before is there for whoever finds this one.
    #[inline]
    pub fn set(&self, index: usize, value: u64) {
        step();
        if !is_dead() {
            self.word(index).store(value, Ordering::Release);
        }
    }

    /// Stores bytes from word `index` on.
    pub fn set_bytes(&self, index: usize, bytes: &[u8]) {
        for (offset, chunk) in bytes.chunks(WORD).enumerate() {
            let mut word = [0; WORD];
            word[..chunk.len()].copy_from_slice(chunk);
            self.set(index + offset, u64::from_ne_bytes(word));
        }
    }

    /// The `len` bytes from word `index` on.
    pub fn bytes(&self, index: usize, len: usize) -> Vec<u8> {
        let words = (index..).take(len.div_ceil(WORD));
        let mut bytes: Vec<u8> = words.flat_map(|index| self.get(index).to_ne_bytes()).collect();
        bytes.truncate(len);
        bytes
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Place::Shared { table, index, .. } = &self.0 else { return };
        if table.live.load(Ordering::Acquire) && !is_dead() {
            self.word(0).store(0, Ordering::Release);
            lock(&table.free).again.push(*index);
        }
    }
}

/// Whether a test has had this thread die: what it lets go of then is not given back.
#[inline(always)]
pub fn is_dead() -> bool {
    #[cfg(test)]
    return super::killed::is_dead();
    #[cfg(not(test))]
    false
}

/// A place between two stores: a test can have the thread die here.
#[inline(always)]
pub fn step() {
    #[cfg(test)]
    super::killed::step();
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { of: "things", start: 64, slot_words: 4, max: 3, used_at: 0, uid_at: None };

    fn segment() -> Arc<Segment> {
        Arc::new(Segment::create("test", SHAPE.end()).unwrap())
    }

    fn filled(table: &Arc<Table>, value: u64) -> Slot {
        let slot = table.take();
        slot.set(1, value);
        slot.set(0, 1);
        slot
    }

    #[test]
    fn what_is_given_back_is_taken_again() {
        let table = Table::new(&segment(), SHAPE);
        let slots: Vec<Slot> = (0..3).map(|value| filled(&table, value)).collect();
        assert_eq!(slots.iter().map(Slot::index).collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
        let [_, second, _] = <[Slot; 3]>::try_from(slots).unwrap();
        drop(second);
        let again = table.take();
        assert!(again.index().is_some() && again.get(0) == 0);
    }

    #[test]
    fn a_full_table_gives_what_ends_with_the_process() {
        let segment = segment();
        let table = Table::new(&segment, SHAPE);
        let slots: Vec<Slot> = (0..5).map(|value| filled(&table, value)).collect();
        assert_eq!(slots.iter().filter(|slot| slot.index().is_some()).count(), 3);
        assert_eq!(slots.iter().map(|slot| slot.get(1)).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        table.freeze();
        drop(slots);
        assert_eq!(Table::take_up(&segment, SHAPE).unwrap().1.len(), 3);
    }

    #[test]
    fn what_was_left_is_found_and_stays_until_the_table_is_live() {
        let segment = segment();
        let table = Table::new(&segment, SHAPE);
        let kept = filled(&table, 7);
        let half = table.take();
        half.set(1, 8);
        table.freeze();
        drop((kept, half, table));
        let (table, slots) = Table::take_up(&segment, SHAPE).unwrap();
        assert_eq!(slots.iter().map(|slot| slot.get(1)).collect::<Vec<_>>(), [7]);
        drop((table, slots));
        let (table, slots) = Table::take_up(&segment, SHAPE).unwrap();
        assert_eq!(slots.len(), 1);
        table.go_live();
        drop(slots);
        assert!(Table::take_up(&segment, SHAPE).unwrap().1.is_empty());
    }

    #[test]
    fn a_user_who_takes_all_that_he_can_leaves_slots_to_others_after_a_restart_as_well() {
        let shape = Shape { max: 80, uid_at: Some(2), ..SHAPE };
        let segment = Arc::new(Segment::create("test", shape.end()).unwrap());
        let table = Table::new(&segment, shape);
        let all_of = |table: &Arc<Table>, uid: u32| -> Vec<Slot> {
            let taken =
                std::iter::from_fn(|| Some(table.take_for(uid)).filter(|slot| slot.index().is_some()));
            taken.inspect(|slot| slot.set(0, 1)).collect()
        };
        let greedy = all_of(&table, 7);
        assert_eq!(greedy.len(), 40);
        table.freeze();
        drop(greedy);
        let (table, slots) = Table::take_up(&segment, shape).unwrap();
        table.go_live();
        assert_eq!((slots.len(), table.take_for(7).index()), (40, None), "he has had his");
        assert_eq!(all_of(&table, 8).len(), 20);
        drop(slots);
        assert_eq!(all_of(&table, 7).len(), 40, "given back, they are there again");
    }

    #[test]
    fn bytes_are_kept_with_their_length() {
        let table = Table::new(&segment(), SHAPE);
        let slot = table.take();
        for bytes in [&b""[..], b"short", b"exactly8", b"more than 8"] {
            slot.set_bytes(1, bytes);
            assert_eq!(slot.bytes(1, bytes.len()), bytes);
        }
    }

    #[test]
    fn a_table_that_claims_too_much_is_refused() {
        let segment = segment();
        segment.word(SHAPE.used_at).store(4, Ordering::Release);
        assert!(Table::take_up(&segment, SHAPE).is_none());
    }
}
