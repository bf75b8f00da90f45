//! The memory of a modelled ring: loom's atomics for the words, and cells that loom watches for the bytes, so
//! that a read that races with a write, or sees bytes that no ordering has made visible, fails the model.

use std::time::Duration;

use loom::cell::UnsafeCell;

use crate::{
    ring::layout,
    sync::{AtomicU32, AtomicU64, Ordering},
};

use super::interface::{Memory, OutOfBounds};

/// Bytes that a cell holds: all records begin at multiples of it.
const CELL: usize = layout::ALIGN as usize;

/// Both segments in one process.
pub(crate) struct Model {
    words: Vec<AtomicU64>,
    head: AtomicU64,
    waiter: AtomicU32,
    /// Set by a wake-up; stands in for the kernel's queue of waiters.
    woken: loom::sync::Mutex<bool>,
    sleeper: loom::sync::Condvar,
    cells: Vec<UnsafeCell<[u8; CELL]>>,
    record_len_max: u64,
}

/// The words of the data segment that the protocol uses, in the model's order.
fn index_of(at: usize) -> usize {
    (at - layout::TAIL) / 8
}

impl Model {
    /// A new, empty ring of `capacity` bytes whose records may be as long as `record_len_max`.
    pub(crate) fn new(capacity: usize, record_len_max: u64) -> Self {
        let words = index_of(layout::AGENT_COUNTERS);
        Self {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            head: AtomicU64::new(0),
            waiter: AtomicU32::new(0),
            woken: loom::sync::Mutex::new(false),
            sleeper: loom::sync::Condvar::new(),
            cells: (0..capacity / CELL).map(|_| UnsafeCell::new([0; CELL])).collect(),
            record_len_max,
        }
    }

    /// The cells that hold `len` bytes from `offset` on, each with the range of the bytes in it.
    fn spans(&self, offset: u64, len: usize) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
        let mut at = offset as usize;
        let end = at + len;
        std::iter::from_fn(move || {
            let from = at % CELL;
            let to = CELL.min(from + end - at);
            (at < end).then(|| {
                let span = (at / CELL, from..to);
                at += to - from;
                span
            })
        })
    }
}

impl Memory for Model {
    fn capacity(&self) -> u64 {
        (self.cells.len() * CELL) as u64
    }

    fn record_len_max(&self) -> u64 {
        self.record_len_max
    }

    fn data_word(&self, at: usize) -> &AtomicU64 {
        &self.words[index_of(at)]
    }

    fn head(&self) -> &AtomicU64 {
        &self.head
    }

    fn waiter(&self) -> &AtomicU32 {
        &self.waiter
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), OutOfBounds> {
        if offset as usize + bytes.len() > self.cells.len() * CELL {
            return Err(OutOfBounds);
        }
        let mut rest = bytes;
        for (cell, span) in self.spans(offset, bytes.len()) {
            let (now, later) = rest.split_at(span.len());
            // SAFETY: loom runs one thread at a time, and fails the model if this access races with another.
            self.cells[cell].with_mut(|cell| unsafe { (&mut *cell)[span].copy_from_slice(now) });
            rest = later;
        }
        Ok(())
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), OutOfBounds> {
        if offset as usize + into.len() > self.cells.len() * CELL {
            return Err(OutOfBounds);
        }
        let mut done = 0;
        for (cell, span) in self.spans(offset, into.len()) {
            let len = span.len();
            // SAFETY: as in `write`.
            self.cells[cell].with(|cell| unsafe { into[done..done + len].copy_from_slice(&(&*cell)[span]) });
            done += len;
        }
        Ok(())
    }

    fn read_append(&self, offset: u64, len: usize, into: &mut Vec<u8>) -> Result<(), OutOfBounds> {
        let done = into.len();
        into.resize(done + len, 0);
        self.read(offset, &mut into[done..])
    }

    fn is_intact(&self) -> bool {
        true
    }

    fn wake(&self) {
        *self.woken.lock().unwrap() = true;
        self.sleeper.notify_all();
    }

    /// The model's wait has no time-out, so a wake-up that is lost is a deadlock, which loom reports.
    fn wait(&self, expected: u32, _timeout: Duration) {
        let mut woken = self.woken.lock().unwrap();
        while !*woken && self.waiter.load(Ordering::Relaxed) == expected {
            woken = self.sleeper.wait(woken).unwrap();
        }
        *woken = false;
    }
}
