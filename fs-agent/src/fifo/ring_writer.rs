//! The way of a FIFO's pieces into the ring, and what is counted on it.

use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bywash_common::{
    config::{FifoConfig, OnFull},
    record::LossReason,
    status::{AgentCounter, FifoCounter},
};

use super::{
    batch::{self, Batch, Portion},
    memory::PIECE_BYTES_MAX,
    promise::{Promise, Promises},
    splitter::{Piece, Rules, Splitter},
};
use crate::capture::Capture;

/// Writers who can wait fill no more than this many quarters of the ring: the rest is for those who cannot.
const WAIT_QUARTERS_MAX: u64 = 3;
/// The fraction of the ring that is asked for at once at most.
const READ_FRACTION: u64 = 64;
/// The fraction of the room for those who can wait below which it is not worth while to read: a ring that is nearly full
/// would be filled byte by byte.
const LEAST_FRACTION: u64 = 16;

/// The fraction of the room for those who can wait that lines that have begun may hold, before they leave in parts: with it
/// and half of the room used, there is still as much as is worth while to read.
const HELD_FRACTION: u64 = 4;
/// How much may be read where everything is promised.
const INSISTED_BYTES: usize = 64;

/// What of a FIFO goes into the ring.
pub struct RingWriter {
    capture: Arc<Capture>,
    path: PathBuf,
    on_full: OnFull,
    promises: Promises,
    /// The reader ends: what it has read already may fill all of the ring.
    is_closing: bool,
    batch: Batch,
    portion: Portion,
    /// Where this FIFO's counters are, if it has some.
    slot: Option<usize>,
}

impl RingWriter {
    /// The way into the ring for what comes through the FIFO of `config`.
    pub fn new(capture: Arc<Capture>, config: &FifoConfig, promises: Promises, slot: Option<usize>) -> Self {
        let path = config.path.clone();
        let (_, capacity) = capture.ring().producer.fill();
        let portion = Portion::new(path.as_os_str().as_bytes(), capacity);
        let (on_full, is_closing, batch) = (config.on_full, false, Batch::default());
        Self { capture, path, on_full, promises, is_closing, batch, portion, slot }
    }

    /// Where the FIFO is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn set_on_full(&mut self, on_full: OnFull) {
        self.on_full = on_full;
    }

    /// From now on all of the ring may be filled.
    pub fn close(&mut self) {
        self.is_closing = true;
    }

    /// How the stream is taken apart.
    pub fn rules(&self, config: &FifoConfig) -> Rules {
        let record = batch::piece_bytes_max(
            self.path.as_os_str().as_bytes(),
            self.capture.ring().producer.payload_max(),
        );
        let wanted = usize::try_from(config.line_bytes_max.0).unwrap_or(usize::MAX);
        Rules {
            framing: config.framing,
            empty_lines: config.empty_lines,
            bytes_max: wanted.min(record).clamp(1, PIECE_BYTES_MAX),
        }
    }

    /// How much may be read at once.
    pub fn read_bytes_max(&self) -> usize {
        usize::try_from(self.capture.ring().producer.fill().1 / READ_FRACTION).unwrap_or(usize::MAX)
    }

    /// A promise of room in the ring, for one more stream.
    pub fn promise(&self) -> Promise {
        self.promises.none()
    }

    /// How many bytes may be read of the `wanted` that a stream asks for, which are then promised room in the ring; none if
    /// there is not enough: what is in the pipe is safer there than in this process.
    pub fn invite(&self, promise: &mut Promise, wanted: usize) -> Option<usize> {
        if self.on_full == OnFull::Drop {
            return Some(wanted);
        }
        let (used, limit) = self.used_of();
        let (unit, wanted) = (self.portion.cost_of_byte(), wanted as u64);
        let least = (limit / LEAST_FRACTION / unit).min(wanted);
        let bytes = promise.grow(limit.saturating_sub(used), unit, least, wanted)?;
        usize::try_from(bytes).ok()
    }

    /// Whether the ring has room and lines that have begun in many FIFOs stand in each other's way, so that nothing would
    /// ever come of them. Reads that are being made are waited for.
    pub fn is_short_of_promises(&self) -> bool {
        let (used, limit) = self.used_of();
        self.on_full == OnFull::Wait && used <= limit / 2 && self.promises.held() > limit / HELD_FRACTION
    }

    /// How many bytes may be read nevertheless, so that something goes on.
    pub fn insist(&self, promise: &mut Promise) -> usize {
        promise.force(self.portion.cost_of_byte() * INSISTED_BYTES as u64);
        INSISTED_BYTES
    }

    /// Promises room for just what a stream holds: `pieces`, and `unfinished` bytes more.
    pub fn keep_promised(&self, promise: &mut Promise, pieces: &[Piece], unfinished: usize) {
        promise.set(match self.on_full {
            OnFull::Drop => 0,
            OnFull::Wait => self.portion.cost(pieces) + self.portion.cost_of_unfinished(unfinished),
        });
    }

    /// How much of the ring is used, and up to where those who may wait fill it.
    fn used_of(&self) -> (u64, u64) {
        let (used, capacity) = self.capture.ring().producer.fill();
        (used, if self.is_closing { capacity } else { capacity / 4 * WAIT_QUARTERS_MAX })
    }

    /// Whether `bytes` of records may go into the ring now.
    fn has_room(&self, bytes: usize) -> bool {
        let (used, limit) = self.used_of();
        self.on_full == OnFull::Drop || self.is_closing || used + bytes as u64 <= limit
    }

    /// Puts pieces into the ring, or counts them as lost, and gives how many of the first are done with: less than all if
    /// the others are to wait.
    pub fn take(&mut self, splitter: &Splitter, pieces: &[Piece], time_ns: u64) -> usize {
        let mut done = 0;
        while done < pieces.len() {
            let (head, bytes) = self.portion.of(&pieces[done..]);
            if !self.has_room(bytes) {
                break;
            }
            let path = self.path.as_os_str().as_bytes();
            let ring = self.capture.ring();
            let head_of = (&pieces[done..], head.len());
            let taken = self.batch.push(&ring, path, time_ns, splitter, head_of);
            self.count(FifoCounter::Lines, FifoCounter::Bytes, &head[..taken]);
            let status = &ring.status;
            status.add(AgentCounter::CapturedEvents, taken as u64);
            status.add(AgentCounter::CapturedBytes, batch::weight(&head[..taken], 0).bytes);
            done += taken;
            if taken < head.len() {
                if self.on_full == OnFull::Wait {
                    break;
                }
                self.lose(&head[taken..], time_ns);
                done += head.len() - taken;
                splitter.note(pieces.get(done), None);
            }
        }
        done
    }

    /// Counts pieces as lost.
    pub fn lose(&self, pieces: &[Piece], time_ns: u64) {
        let weight = batch::weight(pieces, time_ns);
        self.capture.ring().producer.count_losses(LossReason::RingFull, pieces.len() as u64, weight);
        self.count(FifoCounter::LostLines, FifoCounter::LostBytes, pieces);
    }

    /// Sets one of the FIFO's counters.
    pub fn set(&self, counter: FifoCounter, value: u64) {
        if let Some(slot) = self.slot {
            self.capture.ring().status.set_fifo(slot, counter, value);
        }
    }

    fn count(&self, lines: FifoCounter, bytes: FifoCounter, pieces: &[Piece]) {
        if let Some(slot) = self.slot.filter(|_| !pieces.is_empty()) {
            let ring = self.capture.ring();
            let status = &ring.status;
            status.add_fifo(slot, lines, pieces.len() as u64);
            status.add_fifo(slot, bytes, batch::weight(pieces, 0).bytes);
        }
    }
}

/// Nanoseconds since the epoch.
pub fn now_ns() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}
