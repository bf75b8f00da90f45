//! What waits in a ring and in the spool is given up, because an operator wants that.
//!
//! The ring's generations and the spool's streams are read as for a delivery, oldest first, and their heads move as for one. What
//! is given up is counted beside the ring before its head moves: who is killed in between has counted too much rather than
//! too little. The next publisher's first event tells of it.

use std::{
    sync::{Mutex, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use bywash_common::{
    clock::now_ns,
    record::{Loss, LossReason, Write},
    ring::{Kind, PublisherRing, ReadError},
};

use crate::{
    delivery::{Ledger, Progress},
    spool::{Log, SpoolError},
};

use super::{
    attach::{RingLedger, is_superseded},
    discarded::Discarded,
    input::{Input, InputError, SharedLog, attach_next},
    source::Taken,
};

/// The spool takes nothing from a ring that is not full to this part, in percent.
const HIGH_MARK: u32 = 100;
/// How many records are given up at a time.
const BATCH_RECORDS: u64 = 1024;
/// How long a disk has that does not give what is in the spool.
const DISK_WAIT_MAX: Duration = Duration::from_secs(10);
/// How often it is asked.
const DISK_WAIT: Duration = Duration::from_millis(100);

/// What was given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Emptied {
    /// Writes, those included that the agent had lost before, and that no event has told of.
    pub records: u64,
    /// The captured bytes in them.
    pub bytes: u64,
    /// What was damaged, in bytes: nobody knows how many writes that was.
    pub damaged_bytes: u64,
}

/// Not all could be given up. What was is counted.
#[derive(Debug, thiserror::Error)]
pub enum EmptyError {
    /// The system has no thread to give.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The disk does not give what is in the spool, or does not let it go.
    #[error("the spool's disk does not answer as it should: the log before this says how")]
    Disk,
    /// The spool's files cannot be changed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// Nothing can be said of where the ring ends.
    #[error("{0}: what lies behind is given up when fs-agent begins another ring, at its next start")]
    Ring(#[from] ReadError),
}

/// Gives up what waits at this moment in a ring, in those that have taken its place, and in the spool.
///
/// # Errors
/// An [`EmptyError`].
pub fn empty_ring(name: &str, ring: PublisherRing, log: SharedLog) -> Result<Emptied, EmptyError> {
    let mut emptying = Emptying::new(Input::open(ring, log, HIGH_MARK)?);
    let emptied = emptying.empty_all(name);
    // A thread of the spool's ends with it.
    let Emptying { input, emptied: so_far, .. } = emptying;
    input.finish(name, Instant::now());
    emptied.map(|()| so_far)
}

/// Gives up what waits in the spool, where there is no ring. Gives how many records and bytes on disk that was.
///
/// # Errors
/// A [`SpoolError`].
pub fn empty_spool(log: &Mutex<Log>) -> Result<(u64, u64), SpoolError> {
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    let waiting = (log.records(), log.bytes());
    for stream in log.streams() {
        log.forget(stream)?;
    }
    log.sync()?;
    Ok(waiting)
}

struct Emptying {
    input: Input,
    ledger: RingLedger,
    /// Where the ring ended when it was turned to: what comes behind is news.
    tail: u64,
    /// What is counted neither beside the ring nor in `emptied`.
    batch: Discarded,
    emptied: Emptied,
}

impl Emptying {
    fn new(input: Input) -> Self {
        let (ledger, tail) = (input.silent_ledger(), input.ring.gauge().tail());
        Self { input, ledger, tail, batch: Discarded::default(), emptied: Emptied::default() }
    }

    fn empty_all(&mut self, name: &str) -> Result<(), EmptyError> {
        loop {
            self.empty_current()?;
            if !is_superseded(name, &self.input.ring) || !self.input.ring.is_drained() {
                return Ok(());
            }
            let Some(next) = attach_next(name) else { return Ok(()) };
            self.input.follow(next)?;
            self.tail = self.input.ring.gauge().tail();
            self.ledger = self.input.silent_ledger();
        }
    }

    /// The spool's streams and the ring that is attached.
    fn empty_current(&mut self) -> Result<(), EmptyError> {
        let mut payload = Vec::new();
        let mut blocked_since = None;
        loop {
            let taken = self.input.next(&mut payload, &mut ());
            if !matches!(taken, Ok(Taken::Blocked | Taken::RateLimited(_) | Taken::End)) {
                blocked_since = None;
            }
            match taken {
                Ok(Taken::Record(entry)) => {
                    self.batch.add_all(&writes_in(entry.kind, &payload));
                    let is_last = !self.input.is_at_former_ring() && entry.end >= self.tail;
                    if is_last || self.batch.records >= BATCH_RECORDS {
                        self.pass(entry.end, Some(entry.seq.wrapping_add(1)));
                    }
                    if is_last {
                        return Ok(());
                    }
                }
                Ok(Taken::Gap { records, .. }) => {
                    let now_ns = now_ns();
                    self.batch.add_all(&Discarded::some(records, 0, now_ns, now_ns));
                }
                Ok(Taken::Nothing) => {
                    self.pass(self.input.position(), None);
                    return Ok(());
                }
                Ok(Taken::End) => {
                    self.pass(self.input.position(), None);
                    if self.input.next_stream() {
                        self.ledger = self.input.silent_ledger();
                    } else {
                        wait_for_disk(&mut blocked_since)?;
                    }
                }
                Ok(Taken::Blocked | Taken::RateLimited(_)) => wait_for_disk(&mut blocked_since)?,
                Err(error @ (ReadError::Truncated | ReadError::Tail { .. })) => {
                    self.pass(self.input.position(), None);
                    return Err(error.into());
                }
                Err(_) => {
                    let (begin, skipped) = self.input.pass_damage();
                    let end = skipped.end(begin);
                    self.emptied.damaged_bytes += end - begin;
                    self.pass(end, skipped.next_seq());
                }
            }
        }
    }

    /// Gives up what was read up to the position `end`.
    fn pass(&mut self, end: u64, next_sequence: Option<u64>) {
        let batch = std::mem::take(&mut self.batch);
        batch.note(&self.input.ring.status);
        self.emptied.records += batch.records;
        self.emptied.bytes += batch.bytes;
        if end > 0 {
            self.ledger.advance(&Progress { end, next_sequence, ..Progress::default() });
        }
    }
}

fn wait_for_disk(since: &mut Option<Instant>) -> Result<(), EmptyError> {
    if since.get_or_insert_with(Instant::now).elapsed() > DISK_WAIT_MAX {
        return Err(EmptyError::Disk);
    }
    sleep(DISK_WAIT);
    Ok(())
}

/// The writes that are gone with a record.
fn writes_in(kind: Kind, payload: &[u8]) -> Discarded {
    match kind {
        Kind::Write => match Write::decode(payload) {
            Ok((write, data)) => Discarded::some(1, data.len() as u64, write.time_ns, write.time_ns),
            Err(_) => Discarded::some(1, payload.len() as u64, now_ns(), now_ns()),
        },
        // What it tells of would be lost without a word.
        Kind::Lost => match Loss::decode(payload) {
            Ok((loss, _)) if loss.reason != LossReason::Quota => {
                Discarded::some(loss.events, loss.bytes, loss.first_ns, loss.last_ns)
            }
            _ => Discarded::default(),
        },
        Kind::Discarded => Discarded::default(),
    }
}
