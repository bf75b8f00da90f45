//! A librdkafka producer with a thread that polls its delivery reports.
//!
//! rdkafka's `ThreadedProducer` does the same, but wakes ten times a second to look for a stop, which is an idle publisher's
//! whole budget of wake-ups. This thread waits [`REPORT_WAIT`]; a report ends the wait at once, as it does there.
//!
//! At a high rate of reports the thread polls a thousand times a second instead, and passes reports on in batches. Passed on
//! one by one, each report would take the frontier's lock, for which the drain waits, and move the ring's head.

use std::{
    io,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};

/// The longest wait for a report. After it the thread checks for a stop, and measures the rate of reports.
const REPORT_WAIT: Duration = Duration::from_millis(500);
/// The number of reports within [`REPORT_WAIT`] from which the rate counts as high.
const FAST_REPORTS: u64 = 5000;
/// The pause between two polls at a high rate.
const NAP: Duration = Duration::from_millis(1);

/// Receives delivery reports, which may come in batches.
pub trait BatchReports {
    /// The number of deliveries reported so far.
    fn reported(&self) -> u64 {
        0
    }

    /// Begins a batch: reports may be collected until [`Self::settle`].
    fn gather(&self) {}

    /// Ends the batch: passes on what was collected, and from now on each report at once.
    fn settle(&self) {}
}

/// A producer with its polling thread. Dropping it ends the thread.
pub struct ThreadedProducer<C: ProducerContext + 'static> {
    producer: Arc<BaseProducer<C>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<C: ProducerContext + BatchReports + 'static> ThreadedProducer<C> {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start(producer: BaseProducer<C>) -> io::Result<Self> {
        let producer = Arc::new(producer);
        let stop = Arc::new(AtomicBool::new(false));
        let (reports, ended) = (Arc::clone(&producer), Arc::clone(&stop));
        let thread = thread::Builder::new().name("reports".to_owned());
        let thread = thread.spawn(move || take_reports(&reports, &ended))?;
        Ok(Self { producer, stop, thread: Some(thread) })
    }
}

fn take_reports<C: ProducerContext + BatchReports>(producer: &BaseProducer<C>, ended: &AtomicBool) {
    let context = producer.client().context();
    let mut is_fast = false;
    while !ended.load(Ordering::Relaxed) {
        let before = context.reported();
        if is_fast {
            take_together(producer, ended);
        } else {
            producer.poll(REPORT_WAIT);
        }
        is_fast = context.reported() - before >= FAST_REPORTS;
    }
}

/// Takes reports in batches, one after each pause, for [`REPORT_WAIT`].
fn take_together<C: ProducerContext + BatchReports>(producer: &BaseProducer<C>, ended: &AtomicBool) {
    let context = producer.client().context();
    let begun = Instant::now();
    while begun.elapsed() < REPORT_WAIT && !ended.load(Ordering::Relaxed) {
        context.gather();
        loop {
            let before = context.reported();
            // Serves the reports that are queued, and does not wait for further ones.
            producer.poll(Duration::ZERO);
            if context.reported() == before {
                break;
            }
        }
        context.settle();
        thread::sleep(NAP);
    }
}

impl<C: ProducerContext + 'static> ThreadedProducer<C> {
    /// The producer, for another thread. librdkafka destroys it when the last reference is dropped.
    pub fn shared(&self) -> Arc<BaseProducer<C>> {
        Arc::clone(&self.producer)
    }
}

impl<C: ProducerContext + 'static> Deref for ThreadedProducer<C> {
    type Target = BaseProducer<C>;

    fn deref(&self) -> &Self::Target {
        &self.producer
    }
}

impl<C: ProducerContext + 'static> Drop for ThreadedProducer<C> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has been reported by then; nothing else can be done.
            let _ = thread.join();
        }
    }
}
