//! The drain's input: the ring, rings before it that are not delivered yet, and the spool, as one sequence of records.

use std::{
    io,
    num::NonZeroU64,
    sync::{Arc, Mutex, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use bywash_common::{
    config::Config,
    ring::{DamagedRange, Follow, PublisherRing, ReadError, SelectiveAck, Skipped, record_size},
    status::PublisherCounter,
    units::ByteSize,
};
use nix::errno::Errno;
use uuid::Uuid;

use crate::{
    clock,
    delivery::Ledger,
    faults::Fault,
    rate::LogRate,
    signals::Stop,
    spool::{Feeder, Head, Log, SpoolError, SpoolWaker},
};

use super::{
    attach::{RingLedger, is_superseded},
    recovery_limiter::RecoveryLimiter,
    source::{Source, Taken, resume},
};

/// How long a disk that does not give what is in the spool is left alone before it is asked again.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// At most one line about such a disk in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How long the drain may be held up by the move of what a ring holds, whose place another one has taken, to the spool.
const OVERTAKE_TIME: Duration = Duration::from_secs(5);

/// The spool of a publisher; none if there shall be none, or cannot be.
pub type SharedLog = Option<Arc<Mutex<Log>>>;

/// The input cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The system has no thread to give.
    #[error("cannot start the spool's thread: {0}")]
    Thread(#[source] io::Error),
}

/// Opens the spool that is configured. As long as the disk does not give what waits there, this tries again: nothing may
/// be sent before. Without a spool (`spool.size_max = 0`), what an earlier one holds is delivered all the same.
///
/// # Errors
/// A [`SpoolError`] if it was configured and cannot be used. If the default cannot be used, the log says so.
pub fn open_spool(config: &Config, stop: &Stop) -> Result<SharedLog, SpoolError> {
    let dir = &config.spool_place();
    if config.spool_directory().is_none() {
        if !Log::holds_any(dir) {
            return Ok(None);
        }
        let dir = dir.display();
        tracing::warn!(
            "there is no spool (spool.size_max is 0), but records wait in {dir}: they are sent first"
        );
    }
    let mut log_rate = LogRate::new(LOG_INTERVAL);
    let mut tries = 1;
    loop {
        let group = config.ring.group.as_deref();
        match Log::open(dir, &config.spool, &config.ring.name, group, tries) {
            Ok(log) => return Ok(Some(Arc::new(Mutex::new(log)))),
            Err(error) if error.to_try_again().is_some() && Log::holds_any(dir) => {
                if let Some(others) = log_rate.pass() {
                    tracing::error!("{error}: it is tried again, and what is in the ring waits{others}");
                }
                if stop.is_requested() {
                    return Ok(None);
                }
                // Others say nothing of how often a sector was tried.
                let is_medium =
                    error.to_try_again().and_then(io::Error::raw_os_error) == Some(Errno::EIO as i32);
                tries += u32::from(is_medium);
                sleep(RETRY_WAIT);
            }
            Err(error) if config.spool.dir.is_some() => return Err(error),
            Err(error) => {
                tracing::warn!(
                    "there is no spool (set spool.dir): {error}; what the ring cannot hold is counted as lost, and a \
                     reboot ends what it holds"
                );
                return Ok(None);
            }
        }
    }
}

/// How many records wait in a spool.
pub fn spooled_records(log: &Arc<Mutex<Log>>) -> u64 {
    log.lock().unwrap_or_else(PoisonError::into_inner).records()
}

/// The ring's generation behind those that hold nothing any more.
pub fn attach_next(name: &str) -> Option<PublisherRing> {
    match PublisherRing::attach(name, None) {
        Ok(ring) => {
            tracing::info!("fs-agent has begun the ring `{name}` anew ({}): it is drained next", ring.uuid);
            Some(ring)
        }
        Err(error) => {
            tracing::warn!("cannot turn to the ring that fs-agent writes to by now: {error}");
            None
        }
    }
}

/// The drain's input. Invariant: records come in the order in which each ring committed them, and a former ring's come first.
pub struct Input {
    /// The ring.
    pub ring: PublisherRing,
    head: Arc<Head>,
    source: Source,
    log: SharedLog,
    feeder: Option<Feeder>,
    high_mark: u32,
    pace: Option<RecoveryLimiter>,
    /// What was read last came out of the spool, and has cost its pace.
    was_rate_limited: bool,
}

impl Input {
    /// Begins with what is not delivered; `high_mark` is `spool.high_mark`.
    ///
    /// # Errors
    /// An [`InputError`].
    pub fn open(ring: PublisherRing, log: SharedLog, high_mark: u32) -> Result<Self, InputError> {
        let head = Arc::new(Head::new(&ring, log.is_some()));
        let source = Source::new(&ring, Arc::clone(&head), log.clone());
        let start = |log| Feeder::start(log, &ring, Arc::clone(&head), high_mark);
        let feeder = log.clone().map(start).transpose().map_err(InputError::Thread)?;
        Ok(Self { ring, head, source, log, feeder, high_mark, pace: None, was_rate_limited: false })
    }

    /// Has what waits in the spool become less by so many bytes a second at most; 0 for no limit.
    pub fn set_pace(&mut self, bytes_per_second: ByteSize) {
        self.ring.status.set(PublisherCounter::RecoveryBytesPerSecond, bytes_per_second.0);
        let tail = self.ring.gauge().tail();
        let current = self.pace.as_ref().map(RecoveryLimiter::bytes_per_second);
        let wanted = NonZeroU64::new(bytes_per_second.0);
        if current != wanted {
            self.pace = wanted.map(|wanted| RecoveryLimiter::new(wanted, clock::now(), tail));
        }
    }

    /// What was read last, a record with `payload_len` bytes, is not sent, and costs nothing.
    pub fn refund(&mut self, payload_len: usize) {
        if let Some(pace) = self.pace.as_mut().filter(|_| self.was_rate_limited) {
            pace.give_back(record_size(payload_len));
        }
    }

    /// Turns to the ring that has taken this one's place, all of which is delivered.
    ///
    /// # Errors
    /// An [`InputError`].
    pub fn follow(&mut self, ring: PublisherRing) -> Result<(), InputError> {
        if let Some(feeder) = self.feeder.take() {
            feeder.finish(None);
        }
        ring.go_on_for(&self.ring);
        let pace = self.pace.take();
        *self = Self { pace, ..Self::open(ring, self.log.take(), self.high_mark)? };
        Ok(())
    }

    /// Turns to the ring that has taken this one's place, though this one is not delivered: what is left of it moves to the
    /// spool, and is read there as a former ring's. So the spool can take what the new ring has no room for. Gives whether
    /// that was possible; the spool may have no room, or be none.
    ///
    /// # Errors
    /// An [`InputError`].
    pub fn overtake(&mut self, name: &str) -> Result<bool, InputError> {
        let Some(log) = self.log.clone() else { return Ok(false) };
        if let Some(feeder) = self.feeder.take() {
            feeder.finish(Some(clock::now() + OVERTAKE_TIME));
        }
        let next = if self.head.is_safe(self.ring.gauge().tail()) { attach_next(name) } else { None };
        let is_overtaken = next.is_some();
        if let Some(next) = next {
            next.go_on_for(&self.ring);
            let head = Arc::new(Head::new(&next, true));
            self.source.overtake(&next, Arc::clone(&head));
            (self.ring, self.head) = (next, head);
        }
        let feeder = Feeder::start(log, &self.ring, Arc::clone(&self.head), self.high_mark);
        self.feeder = Some(feeder.map_err(InputError::Thread)?);
        Ok(is_overtaken)
    }

    /// Whether what is read is a former ring's.
    pub fn is_at_former_ring(&self) -> bool {
        self.source.old_stream().is_some()
    }

    /// What writes down how far the stream that is read is delivered, and that the first event has told of what was discarded.
    pub fn ledger(&self) -> Box<dyn Ledger> {
        Box::new(self.silent_ledger().telling())
    }

    /// The same where no event tells of anything.
    pub fn silent_ledger(&self) -> RingLedger {
        let status = self.ring.status.clone();
        let old = self.source.old_stream();
        let ahead = old.is_none().then(|| self.ring.ahead(self.head.delivered().end).0);
        RingLedger::new(Arc::clone(&self.head), status, old, ahead)
    }

    /// The position behind the record that was read last, in the stream that is read.
    pub fn position(&self) -> u64 {
        self.source.position()
    }

    /// The uuid with which the event ids of what is read begin.
    pub fn stream(&self) -> Uuid {
        self.source.stream()
    }

    /// What a publisher before this one has delivered out of turn of what is read next: as the ring says, or of a former ring
    /// the spool.
    pub fn ahead(&self) -> Vec<SelectiveAck> {
        match self.source.old_stream() {
            Some(uuid) => {
                let ahead =
                    |log: &Arc<Mutex<Log>>| log.lock().unwrap_or_else(PoisonError::into_inner).ahead(uuid);
                self.log.as_ref().map(ahead).unwrap_or_default()
            }
            None => self.ring.ahead(self.head.delivered().end).1,
        }
    }

    /// What is to be called when the drain has to wait.
    pub fn spool_waker(&self) -> Option<SpoolWaker> {
        self.feeder.as_ref().map(Feeder::spool_waker)
    }

    /// What comes next; see [`Source::next`].
    ///
    /// # Errors
    /// A [`ReadError`] if the ring's content is impossible.
    pub fn next(&mut self, payload: &mut Vec<u8>, follow: &mut impl Follow) -> Result<Taken, ReadError> {
        let is_rate_limited = self.pace.is_some() && self.source.is_in_spool();
        if let Some(pace) = self.pace.as_mut().filter(|_| is_rate_limited)
            && let Some(wait) = pace.wait(clock::now(), self.ring.gauge().tail())
        {
            return Ok(Taken::RateLimited(wait));
        }
        let taken = self.source.next(&mut self.ring.consumer, payload, follow);
        if let Some(pace) = self.pace.as_mut().filter(|_| is_rate_limited)
            && matches!(taken, Ok(Taken::Record(_)))
        {
            pace.take(record_size(payload.len()));
        }
        self.was_rate_limited = is_rate_limited;
        taken
    }

    /// Turns from the stream of a former ring, all of which is delivered, to the next. Gives whether that was possible; if
    /// not, it is to be tried again.
    pub fn next_stream(&mut self) -> bool {
        self.source.next_stream()
    }

    /// Passes over what is damaged in the ring; gives the position where it begins, and what it is. Nothing where the spool
    /// has what is there.
    pub fn pass_damage(&mut self) -> (u64, Skipped) {
        let consumer = &mut self.ring.consumer;
        let begin = consumer.position();
        // Where it is not passed it is in the spool by now, or was: what is read there says what is missing.
        let Some(skipped) = self.head.pass(begin, || consumer.skip_damage()) else {
            return (begin, Skipped::Range(DamagedRange::default()));
        };
        consumer.seek(skipped.end(begin), skipped.next_seq());
        self.source.pass(skipped.end(begin), skipped.next_seq());
        (begin, skipped)
    }

    /// Puts what the ring `name` still holds into the spool, all generations of it, until `deadline` at the latest. Gives how
    /// many bytes stay there.
    pub fn finish(self, name: &str, deadline: Instant) -> u64 {
        let Self { mut ring, feeder, log, .. } = self;
        if let Some(feeder) = feeder {
            feeder.finish(Some(deadline));
        }
        let mut used_bytes = ring.fill().0;
        let Some(log) = log else { return used_bytes };
        while used_bytes == 0
            && !Fault::GenerationsStay.is_back()
            && is_superseded(name, &ring)
            && let Some(next) = attach_next(name)
        {
            next.go_on_for(&ring);
            ring = next;
            let head = Arc::new(Head::new(&ring, true));
            resume(&ring, &head, &mut log.lock().unwrap_or_else(PoisonError::into_inner));
            Feeder::move_rest(Arc::clone(&log), &ring, head, deadline);
            used_bytes = ring.fill().0;
        }
        used_bytes
    }
}
