//! The sink that the drain sees.

use std::{
    sync::{Arc, mpsc::RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use bywash_common::config::Config;
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::{
    dead_letter::{CircuitBreaker, FallbackTopics},
    delivery::{Frontier, Message, SendError, Sink, SinkError, Ticket},
};

use super::{
    config::limits,
    error::OpenError,
    record::{Record, partition_key, partition_key_bytes_max},
    service::{Handed, Service},
};

/// Records are handed over when there are this many, or when there is nothing more at the moment.
const HAND_OVER_RECORDS: usize = 64;
/// How many such batches may lie between the drain and the service.
const HAND_OVER_BATCHES: usize = 32;
/// How long the end waits before it tries to hand over again.
const HAND_OVER_WAIT: Duration = Duration::from_millis(10);
/// How long the end waits for the service's thread, which a name server that hangs can hold.
const END_WAIT: Duration = Duration::from_secs(1);

/// Sends to Kinesis.
pub struct KinesisSink {
    service: mpsc::Sender<Vec<Handed>>,
    gathered: Vec<Handed>,
    /// The names of the streams that were sent to.
    streams: Vec<Arc<str>>,
    record_bytes_max: usize,
    fallback_topics: Arc<FallbackTopics>,
    /// Dropped to end the service at once.
    alive: tokio::sync::oneshot::Sender<()>,
    /// Closed by the service's end.
    ended: std::sync::mpsc::Receiver<()>,
}

impl KinesisSink {
    /// Starts the service; it connects by itself, and goes on trying.
    ///
    /// # Errors
    /// An [`OpenError`] that names what is wrong.
    pub fn open(config: &Config, frontier: Arc<Frontier>) -> Result<Self, OpenError> {
        let limits = limits(config)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| OpenError::Service(error.to_string()))?;
        let (service, handed) = mpsc::channel(HAND_OVER_BATCHES);
        let (alive, end) = tokio::sync::oneshot::channel();
        let (has_ended, ended) = std::sync::mpsc::channel();
        let (kinesis, circuit_breaker) = (config.kinesis.clone(), CircuitBreaker::new(&config.failed));
        let fallback_topics = Arc::new(FallbackTopics::new(config));
        let shared = Arc::clone(&fallback_topics);
        let serve = move || {
            runtime.block_on(
                Service::new(kinesis, limits, (circuit_breaker, shared), frontier).run(handed, end),
            );
            drop(has_ended);
            // Does not wait for a name server that does not answer.
            runtime.shutdown_background();
        };
        thread::Builder::new()
            .name("kinesis".to_owned())
            .spawn(serve)
            .map_err(|error| OpenError::Service(error.to_string()))?;
        let gathered = Vec::with_capacity(HAND_OVER_RECORDS);
        let record_bytes_max = limits.record_bytes;
        Ok(Self { service, gathered, streams: Vec::new(), record_bytes_max, fallback_topics, alive, ended })
    }

    /// The shared name of a stream.
    fn stream(&mut self, name: &str) -> Arc<str> {
        // As many as there are directories and names of templates at most, and mostly one.
        if let Some(known) = self.streams.iter().find(|known| &***known == name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = name.into();
        self.streams.push(Arc::clone(&new));
        new
    }

    /// Hands over what was gathered; gives false if there is no room for it.
    fn hand_over(&mut self) -> Result<bool, SinkError> {
        if self.gathered.is_empty() {
            return Ok(true);
        }
        match self.service.try_reserve() {
            Ok(place) => {
                let gathered = Vec::with_capacity(HAND_OVER_RECORDS);
                place.send(std::mem::replace(&mut self.gathered, gathered));
                Ok(true)
            }
            Err(TrySendError::Full(())) => Ok(false),
            Err(TrySendError::Closed(())) => {
                Err(SinkError::Kinesis("its thread has ended; the log before this says why".to_owned()))
            }
        }
    }
}

impl Sink for KinesisSink {
    fn payload_bytes_max(&self, key_bytes: usize) -> usize {
        self.record_bytes_max.saturating_sub(partition_key_bytes_max(key_bytes))
    }

    fn send(&mut self, message: &Message<'_>, ticket: Ticket) -> Result<(), SendError> {
        if self.gathered.len() >= HAND_OVER_RECORDS && !self.hand_over()? {
            return Err(SendError::Full);
        }
        let partition_key = partition_key(message);
        let data = message.payload.to_vec();
        let (id, time_ms, arrived) = (message.id, message.time_ms, Instant::now());
        let record = Record { ticket, partition_key, data, id, time_ms, arrived, arrival: 0, alone: false };
        if record.bytes() > self.record_bytes_max {
            let (bytes, max) = (record.bytes(), self.record_bytes_max);
            return Err(SendError::Refused(format!(
                "a record of {bytes} bytes; kinesis.record_bytes_max is {max}"
            )));
        }
        let stream = self.stream(message.topic);
        self.gathered.push(Handed { stream, record });
        Ok(())
    }

    fn poll(&mut self) -> Result<(), SinkError> {
        if self.service.is_closed() {
            return Err(SinkError::Kinesis("its thread has ended; the log before this says why".to_owned()));
        }
        Ok(())
    }

    fn meet_topic(&mut self, topic: &str) {
        self.fallback_topics.meet(topic);
    }

    fn reconfigure(&mut self, config: &Config) {
        drop(self.fallback_topics.reconfigure(config));
    }

    fn push(&mut self) -> Result<(), SinkError> {
        self.hand_over().map(drop)
    }

    fn close(mut self: Box<Self>, deadline: Instant) {
        let left = || deadline.saturating_duration_since(Instant::now());
        loop {
            match self.hand_over() {
                Ok(false) if !left().is_zero() => thread::sleep(HAND_OVER_WAIT),
                Ok(_) => break,
                Err(error) => {
                    tracing::error!("{error}");
                    break;
                }
            }
        }
        let Self { service, alive, ended, .. } = *self;
        // Tells the service that nothing more comes.
        drop(service);
        if let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(left()) {
            drop(alive);
            // Either way this is the end.
            let _ = ended.recv_timeout(END_WAIT);
        }
    }
}
