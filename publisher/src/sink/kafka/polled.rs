//! A producer whose delivery reports are taken by a thread of its own.
//!
//! rdkafka's `ThreadedProducer` does the same and looks for a stop ten times a second, which alone is what an idle publisher
//! may wake up; a report ends this wait as soon as it ends that one.

use std::{
    io,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rdkafka::producer::{BaseProducer, ProducerContext};

/// How long the thread waits for a report before it looks whether it shall end.
const REPORT_WAIT: Duration = Duration::from_millis(500);

/// A producer and its thread, which ends with it.
pub struct Polled<C: ProducerContext + 'static> {
    producer: Arc<BaseProducer<C>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<C: ProducerContext + 'static> Polled<C> {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start(producer: BaseProducer<C>) -> io::Result<Self> {
        let producer = Arc::new(producer);
        let stop = Arc::new(AtomicBool::new(false));
        let (reports, ended) = (Arc::clone(&producer), Arc::clone(&stop));
        let take_reports = move || {
            while !ended.load(Ordering::Relaxed) {
                reports.poll(REPORT_WAIT);
            }
        };
        let thread = thread::Builder::new().name("reports".to_owned()).spawn(take_reports)?;
        Ok(Self { producer, stop, thread: Some(thread) })
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
