//! The thread that moves records from the ring to the spool.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bywash_common::{
    ring::{Consumer, Entry, Gauge, Kind, PublisherRing, ReadError, Skipped},
    status::{PublisherCounter, PublisherStatus},
};

use crate::{clock, faults::Fault, rate::LogRate};

use super::{
    error::SpoolError,
    head::Head,
    log::{Batch, Log},
    segment::Record,
};

/// Records are written together up to this many bytes: one fsync for all of them.
const BATCH_BYTES: usize = 1 << 20;
/// How often the spool is looked after while it holds something.
const TICK: Duration = Duration::from_millis(20);
/// The same while it holds nothing, and the ring has room.
const IDLE_WAIT: Duration = Duration::from_secs(3600);
/// How long the spool is left alone after the disk has refused something.
const DISK_PAUSE: Duration = Duration::from_secs(5);
/// At most one line about a disk that refuses in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Wakes the feeder when the ring fills.
#[derive(Clone)]
pub struct SpoolWaker {
    gauge: Gauge,
    high_bytes: u64,
    shared: Arc<Shared>,
}

struct Shared {
    stop: AtomicBool,
    is_woken: Mutex<bool>,
    wake: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.is_woken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        *self.lock() = true;
        self.wake.notify_one();
    }
}

impl SpoolWaker {
    /// Wakes the feeder if the ring is past its high mark. To be called whenever the drain has to wait.
    pub fn look(&self) {
        if self.gauge.used() >= self.high_bytes {
            self.shared.wake();
        }
    }
}

/// The feeder's thread.
pub struct Feeder {
    spool_waker: SpoolWaker,
    running: Running,
}

/// How it runs.
enum Running {
    Thread(JoinHandle<Work>),
    /// In a simulation, which has one thread.
    #[cfg(test)]
    Stepped(Arc<Mutex<Work>>),
}

impl Running {
    fn start(mut work: Work, shared: Arc<Shared>) -> io::Result<Self> {
        #[cfg(test)]
        if clock::simulated::is_on() {
            return Ok(Self::Stepped(stepped::take(work)));
        }
        let run = move || {
            work.run(&shared);
            work
        };
        Ok(Self::Thread(thread::Builder::new().name("spool".to_owned()).spawn(run)?))
    }
}

#[cfg(test)]
pub mod stepped {
    //! The feeder of a simulation.

    use std::{
        cell::RefCell,
        sync::{Arc, Mutex, Weak},
    };

    use crate::spool::feeder::Work;

    thread_local! {
        static WORK: RefCell<Weak<Mutex<Work>>> = const { RefCell::new(Weak::new()) };
    }

    pub(super) fn take(work: Work) -> Arc<Mutex<Work>> {
        let work = Arc::new(Mutex::new(work));
        WORK.set(Arc::downgrade(&work));
        work
    }

    /// Has the feeder do one round, if there is one and it is not at work.
    pub fn step() {
        let work = WORK.with_borrow(Weak::upgrade);
        if let Some(work) = work
            && let Ok(mut work) = work.try_lock()
        {
            work.round();
        }
    }
}

impl Feeder {
    /// Starts to feed `log` from `ring`, from a fill of `high_mark` percent on.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start(
        log: Arc<Mutex<Log>>,
        ring: &PublisherRing,
        head: Arc<Head>,
        high_mark: u32,
    ) -> io::Result<Self> {
        let gauge = ring.gauge();
        let high_bytes = gauge.capacity() / 100 * u64::from(high_mark);
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            is_woken: Mutex::new(true),
            wake: Condvar::new(),
        });
        let spool_waker = SpoolWaker { gauge, high_bytes, shared: Arc::clone(&shared) };
        let running = Running::start(Work::new(log, ring, head, high_bytes), shared)?;
        Ok(Self { spool_waker, running })
    }

    /// Moves what a ring holds at this moment to the spool, until `deadline` at the latest, without a thread.
    pub fn move_rest(log: Arc<Mutex<Log>>, ring: &PublisherRing, head: Arc<Head>, deadline: Instant) {
        Work::new(log, ring, head, u64::MAX).finish(Some(deadline));
    }

    /// What wakes it.
    pub fn spool_waker(&self) -> SpoolWaker {
        self.spool_waker.clone()
    }

    /// Ends the thread. `rest_until` moves what the ring holds at this moment to the spool, until then at the latest.
    pub fn finish(self, rest_until: Option<Instant>) {
        self.spool_waker.shared.stop.store(true, Ordering::Release);
        self.spool_waker.shared.wake();
        match self.running {
            Running::Thread(thread) => {
                // A panic in it has been reported.
                let Ok(mut work) = thread.join() else { return };
                work.finish(rest_until);
            }
            #[cfg(test)]
            Running::Stepped(work) => work.lock().unwrap_or_else(PoisonError::into_inner).finish(rest_until),
        }
    }
}

/// What the thread has.
struct Work {
    log: Arc<Mutex<Log>>,
    /// Reads the ring on its own, from the head on.
    consumer: Consumer,
    gauge: Gauge,
    head: Arc<Head>,
    status: PublisherStatus,
    high_bytes: u64,
    /// The spool only gives what it has (`spool.size_max` is 0).
    takes_records: bool,
    /// The ring was past the high mark and is not yet half that.
    is_feeding: bool,
    /// The spool did not take the last batch.
    is_refused: bool,
    paused_until: Instant,
    batch: Batch,
    /// Where damage ends that was passed over with this batch, behind the last record that was read.
    passed: Option<u64>,
    payload: Vec<u8>,
    log_rate: LogRate,
}

impl Work {
    fn new(log: Arc<Mutex<Log>>, ring: &PublisherRing, head: Arc<Head>, high_bytes: u64) -> Self {
        let takes_records = log.lock().unwrap_or_else(PoisonError::into_inner).takes_records();
        Self {
            log,
            takes_records,
            consumer: ring.consumer.another(),
            gauge: ring.gauge(),
            head,
            status: ring.status.clone(),
            high_bytes,
            is_feeding: false,
            is_refused: false,
            paused_until: clock::now(),
            batch: Batch::default(),
            passed: None,
            payload: Vec::new(),
            log_rate: LogRate::new(LOG_INTERVAL),
        }
    }

    fn run(&mut self, shared: &Shared) {
        while !shared.stop.load(Ordering::Acquire) {
            let Some(wait) = self.round() else { continue };
            let mut is_woken = shared.lock();
            if !*is_woken {
                // Whoever stops it or finds the ring full wakes it.
                let waited = shared.wake.wait_timeout_while(is_woken, wait, |woken| !*woken);
                is_woken = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            *is_woken = false;
        }
    }

    /// Does what there is to do. Gives how long to wait before the next round, if at all.
    fn round(&mut self) -> Option<Duration> {
        let holds_something = self.look_after();
        if !self.takes_records {
            return Some(if holds_something { TICK } else { IDLE_WAIT });
        }
        let used = self.gauge.used();
        self.is_feeding = if self.is_feeding { used > self.high_bytes / 2 } else { used >= self.high_bytes };
        if self.is_feeding && clock::now() >= self.paused_until && self.feed() {
            return None;
        }
        Some(if self.is_feeding || holds_something { TICK } else { IDLE_WAIT })
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what is delivered, and counts what is not. Gives whether it is to be done again: what `status` shows of a
    /// spool that held something is out of date with the next delivery.
    fn look_after(&mut self) -> bool {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if !log.is_empty() {
            let bytes = log.bytes();
            if let Err(error) = note_delivered(&mut log, &self.head)
                && let Some(others) = self.log_rate.pass()
            {
                tracing::error!("{error}{others}");
            }
            if log.bytes() < bytes {
                self.paused_until = clock::now();
            }
        }
        self.status.set(PublisherCounter::SpoolBytes, log.bytes());
        self.status.set(PublisherCounter::SpoolRecords, log.records());
        !log.is_empty()
    }

    /// Moves a batch. Gives whether there was anything to move, and it was moved.
    fn feed(&mut self) -> bool {
        let (delivered, spooled) = (self.head.delivered(), self.head.spooled());
        let from = delivered.end.max(spooled.end);
        if self.consumer.position() < from {
            let last = if delivered.end > spooled.end { delivered } else { spooled };
            self.consumer.seek(from, last.known_seq());
            self.passed = None;
        }
        if delivered.end > spooled.end {
            // Before anything follows in the spool: what is missing there in between is delivered, not lost.
            let noted = {
                let mut log = self.log();
                // Nor may a power cut take that back.
                note_delivered(&mut log, &self.head).and_then(|()| log.rely_on_marks())
            };
            if let Err(error) = noted {
                return self.pause(&error);
            }
        }
        self.batch.clear();
        let passed = self.passed;
        let begun = self.consumer.position();
        while self.batch.bytes() < BATCH_BYTES {
            match self.consumer.next(&mut self.payload) {
                Ok(Some(entry)) => self.take(entry),
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!("the spool stops in front of {error}");
                    if !self.pass_damage(&error) {
                        break;
                    }
                }
            }
        }
        let Some(mark) = self.batch.mark(self.head.uuid()) else { return false };
        let batch = std::mem::take(&mut self.batch);
        let appended = self.log().append(mark.uuid, &batch);
        self.batch = batch;
        match appended {
            Ok(()) => {
                if std::mem::take(&mut self.is_refused) {
                    tracing::info!("the spool takes records again");
                }
                self.head.spool(mark);
                true
            }
            Err(error) => {
                let first = self.batch.first_seq();
                self.consumer.seek(begun, first);
                self.passed = passed;
                self.pause(&error)
            }
        }
    }

    /// Goes on behind damage. Gives whether that is possible: where deliveries have moved the head meanwhile, and the agent has
    /// written, reading goes on from the new head. A record that cannot be read has one in the spool that cannot be, either,
    /// so that its loss is announced once, under its number, whoever reads it where.
    fn pass_damage(&mut self, error: &ReadError) -> bool {
        if matches!(error, ReadError::Truncated | ReadError::Tail { .. }) {
            return false;
        }
        let begin = self.consumer.position();
        let consumer = &mut self.consumer;
        let Some(skipped) = self.head.pass(begin, || consumer.skip_damage()) else { return false };
        let end = skipped.end(begin);
        self.consumer.seek(end, skipped.next_seq());
        match skipped {
            Skipped::Record(Entry { seq, end, .. }) => self.batch.push(&unreadable(seq, end)),
            Skipped::Range(range) => {
                self.passed = Some(end);
                // Nothing may follow: what is in the spool has to say what is missing by itself.
                if let Some(seq) = range.seq_behind.filter(|_| end > begin)
                    && !Fault::EndUnannounced.is_back()
                {
                    self.make_up_for_passed(seq);
                }
            }
        }
        end > begin
    }

    /// Behind damage of which nobody knows what it was, a record that cannot be read stands for the last one that was there, in
    /// front of number `seq`: those before it show as missing in the numbers.
    fn make_up_for_passed(&mut self, seq: u64) {
        if let Some(end) = self.passed.take()
            && let Some(last) = seq.checked_sub(1)
            && self.last_seq() != Some(last)
        {
            self.batch.push(&unreadable(last, end));
        }
    }

    /// Takes a record that was read.
    fn take(&mut self, entry: Entry) {
        self.make_up_for_passed(entry.seq);
        let payload = &self.payload;
        self.batch.push(&Record { kind: entry.kind, seq: entry.seq, end: entry.end, payload });
    }

    /// The number of the last record in the batch, or of that before it, if it is known.
    fn last_seq(&self) -> Option<u64> {
        let mark = self.batch.mark(self.head.uuid()).unwrap_or_else(|| {
            let (delivered, spooled) = (self.head.delivered(), self.head.spooled());
            if delivered.end > spooled.end { delivered } else { spooled }
        });
        mark.known_seq()?.checked_sub(1)
    }

    /// Goes on with the ring alone for a while.
    fn pause(&mut self, error: &SpoolError) -> bool {
        self.status.add(PublisherCounter::SpoolErrors, 1);
        self.paused_until = clock::now() + DISK_PAUSE;
        self.is_refused = true;
        if let Some(others) = self.log_rate.pass() {
            tracing::error!(
                "{error}; records stay in the ring, and once that is full, writes are counted as lost{others}"
            );
        }
        false
    }

    fn finish(&mut self, rest_until: Option<Instant>) {
        if let Some(deadline) = rest_until {
            self.take_rest(deadline);
        }
        self.look_after();
        if let Err(error) = self.log().sync() {
            tracing::error!("{error}");
        }
    }

    fn take_rest(&mut self, deadline: Instant) {
        if !self.takes_records {
            return;
        }
        let end = self.gauge.tail();
        loop {
            let safe = self.head.delivered().end.max(self.head.spooled().end);
            if safe >= end {
                return;
            }
            if clock::now() >= deadline || !self.feed() {
                let bytes = end - safe;
                return tracing::error!(
                    "{bytes} bytes are neither delivered nor in the spool: they stay in the ring, which a reboot \
                     ends"
                );
            }
        }
    }
}

/// A record in place of one that cannot be read: it is neither a write nor a loss.
fn unreadable(seq: u64, end: u64) -> Record<'static> {
    Record { kind: Kind::Write, seq, end, payload: &[] }
}

/// Notes in the spool what is delivered.
fn note_delivered(log: &mut Log, head: &Head) -> Result<(), SpoolError> {
    let (mark, ahead) = head.oldest();
    log.note_ahead(mark, &ahead)?;
    log.deliver(mark)
}

#[cfg(test)]
#[path = "feeder_tests.rs"]
mod tests;
