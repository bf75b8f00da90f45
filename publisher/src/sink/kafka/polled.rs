//! A producer whose delivery reports are taken by a thread of its own.
//!
//! rdkafka's `ThreadedProducer` does the same and looks for a stop ten times a second, which alone is what an idle publisher
//! may wake up; a report ends this wait as soon as it ends that one.
//!
//! Where reports come fast, the thread looks for them a thousand times a second instead and tells them on together: one by
//! one, each would have the drain wait for the frontier's lock, and move the ring's head.

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

/// How long the thread waits for a report before it looks whether it shall end, and how fast reports come.
const REPORT_WAIT: Duration = Duration::from_millis(500);
/// Reports come fast if there are this many in that time.
const FAST_REPORTS: u64 = 5000;
/// How long the thread looks away while they do.
const NAP: Duration = Duration::from_millis(1);

/// What becomes of reports that come fast.
pub trait Gather {
    /// How many deliveries have been reported so far.
    fn reported(&self) -> u64 {
        0
    }

    /// Reports may be kept from now on until [`Self::settle`].
    fn gather(&self) {}

    /// Tells on what was kept, and what comes from now on at once.
    fn settle(&self) {}
}

/// A producer and its thread, which ends with it.
pub struct Polled<C: ProducerContext + 'static> {
    producer: Arc<BaseProducer<C>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<C: ProducerContext + Gather + 'static> Polled<C> {
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

fn take_reports<C: ProducerContext + Gather>(producer: &BaseProducer<C>, ended: &AtomicBool) {
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

/// Takes what has been reported between two naps together, for [`REPORT_WAIT`].
fn take_together<C: ProducerContext + Gather>(producer: &BaseProducer<C>, ended: &AtomicBool) {
    let context = producer.client().context();
    let begun = Instant::now();
    while begun.elapsed() < REPORT_WAIT && !ended.load(Ordering::Relaxed) {
        context.gather();
        loop {
            let before = context.reported();
            // Takes what a broker has confirmed with one answer, and does not wait for another.
            producer.poll(Duration::ZERO);
            if context.reported() == before {
                break;
            }
        }
        context.settle();
        thread::sleep(NAP);
    }
}

impl<C: ProducerContext + 'static> Polled<C> {
    /// The producer, for another thread: it is taken down when that has let go of it too.
    pub fn shared(&self) -> Arc<BaseProducer<C>> {
        Arc::clone(&self.producer)
    }
}

impl<C: ProducerContext + 'static> Deref for Polled<C> {
    type Target = BaseProducer<C>;

    fn deref(&self) -> &Self::Target {
        &self.producer
    }
}

impl<C: ProducerContext + 'static> Drop for Polled<C> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been reported; there is nothing more to take.
            let _ = thread.join();
        }
    }
}
