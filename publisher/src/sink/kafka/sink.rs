//! The sink that the drain sees.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use bywash_common::config::{Config, Delivery, Encoder, Framing};
use rdkafka::{
    config::FromClientConfigAndContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
};

use crate::{
    drain::{Frontier, Ticket},
    failed::Patience,
    sink::{Message, OpenError, SendError, Sink, SinkError},
};

use super::{
    config::{PropertyError, message_bytes_max, producer_config, transactional_config},
    polled::Polled,
    retry::Failed,
    service::{EVENT_ID_HEADER, Opaque, Service, Verdict, verdict},
    zookeepers::{Watch, locate},
};

/// The header that names the format, so that a reader need not guess.
pub const ENCODER_HEADER: &str = "encoder";
/// What the protocol and the headers may add to a message's key and payload.
const MESSAGE_OVERHEAD_BYTES: usize = 512;
/// How long a look at a topic that takes no events may hold up the drain, which has nothing else to do then.
const TOPIC_LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long closing waits for deliveries before it looks at what is to be sent again.
const FLUSH_STEP: Duration = Duration::from_millis(100);
/// How long the end waits for librdkafka's threads, which a name server that hangs can hold.
const DESTROY_WAIT: Duration = Duration::from_secs(1);

/// Sends to Kafka.
pub struct KafkaSink {
    producer: Polled<Service>,
    watch: Option<Watch>,
    /// Those that it began with.
    brokers: Vec<String>,
    encoder: &'static str,
    message_bytes_max: usize,
}

/// Checks the properties, one by one and against each other, without reaching for a broker.
///
/// # Errors
/// An [`OpenError`] that names what is wrong.
pub fn check(config: &Config) -> Result<(), OpenError> {
    let mut client = match config.kafka.delivery {
        Delivery::AtLeastOnce => producer_config(config)?,
        Delivery::ExactlyOnce => {
            if let Some(directory) = config.directories.iter().find(|d| d.framing.by == Framing::Line) {
                return Err(OpenError::LinesInTransactions(directory.path.display().to_string()));
            }
            transactional_config(config, &config.transactional_id())?
        }
    };
    client.remove("bootstrap.servers");
    // Says that there are no brokers, which is the point.
    client.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
    match client.create::<BaseProducer>() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientCreation(text)) => Err(PropertyError(text).into()),
        Err(error) => Err(OpenError::Producer(error.to_string())),
    }
}

impl KafkaSink {
    /// Sets the producer up; it connects by itself, and goes on trying.
    ///
    /// # Errors
    /// An [`OpenError`] that names what is wrong.
    pub fn open(config: &Config, frontier: Arc<Frontier>) -> Result<Self, OpenError> {
        let (config, watch) = locate(config)?;
        let client = producer_config(&config)?;
        let producer = BaseProducer::from_config_and_context(
            &client,
            Service::new(frontier, Patience::new(&config.failed)),
        )
        .map_err(|error| OpenError::Producer(error.to_string()))?;
        let producer = Polled::start(producer).map_err(|error| OpenError::Producer(error.to_string()))?;
        tracing::info!("sending to Kafka at {}", config.kafka.brokers.join(","));
        let message_bytes_max = message_bytes_max(&client);
        let brokers = config.kafka.brokers.clone();
        Ok(Self { producer, watch, brokers, encoder: config.event.encoder.word(), message_bytes_max })
    }

    pub(super) fn service(&self) -> &Service {
        self.producer.client().context()
    }

    fn hand_over(&self, message: &Message<'_>, opaque: Opaque) -> Result<(), RDKafkaErrorCode> {
        let headers = OwnedHeaders::new_with_capacity(2)
            .insert(Header { key: EVENT_ID_HEADER, value: Some(message.event_id) })
            .insert(Header { key: ENCODER_HEADER, value: Some(self.encoder) });
        let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(message.topic, opaque.number())
            .payload(message.payload)
            .headers(headers);
        if let Some(key) = message.key {
            record = record.key(key);
        }
        self.producer
            .send(record)
            .map_err(|(error, _)| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail))
    }

    /// Sends again what waits for that, as far as it may.
    fn resend(&self) -> Result<(), SinkError> {
        let retries = &self.service().retries;
        let Some(due) = retries.due() else { return Ok(()) };
        if due.suspect.is_some() {
            // Makes librdkafka look again at a topic that it believes not to exist; what it finds shows below.
            let _ = self.producer.client().fetch_metadata(due.suspect.as_deref(), TOPIC_LOOK_TIMEOUT);
        }
        while let Some(failed) = retries.next(self.producer.in_flight_count() == 0) {
            if let Some(code) = failed.barred.filter(|_| self.service().gives_up(&failed)) {
                self.service().refuse(failed, code.to_string());
                continue;
            }
            let opaque = Opaque { ticket: failed.ticket, alone: failed.alone };
            let message = Message {
                topic: &failed.topic,
                key: failed.key.as_deref(),
                payload: &failed.payload,
                event_id: &failed.event_id,
            };
            match self.hand_over(&message, opaque) {
                // What follows one that must go alone waits for its report.
                Ok(()) if failed.alone => break,
                Ok(()) => {}
                Err(RDKafkaErrorCode::QueueFull) => {
                    retries.put_back(failed);
                    break;
                }
                Err(code) => {
                    self.judge(code, Failed { alone: false, ..failed })?;
                    retries.settle();
                    break;
                }
            }
        }
        Ok(())
    }

    /// Deals with a message that librdkafka did not take.
    fn judge(&self, code: RDKafkaErrorCode, failed: Failed) -> Result<(), SinkError> {
        match verdict(code) {
            Verdict::Again => self.service().hold(failed, code),
            Verdict::Barred => self.service().bar(failed, code),
            Verdict::Poison => self.service().refuse(failed, code.to_string()),
            Verdict::Ended => return Err(self.broken(code)),
        }
        Ok(())
    }

    fn broken(&self, code: RDKafkaErrorCode) -> SinkError {
        let fatal = self.producer.client().fatal_error().map(|(_, reason)| reason);
        SinkError::Kafka(fatal.or_else(|| self.service().fatal()).unwrap_or_else(|| code.to_string()))
    }
}

impl Sink for KafkaSink {
    fn payload_bytes_max(&self, key_bytes: usize) -> usize {
        payload_room(self.message_bytes_max, key_bytes)
    }

    fn send(&mut self, message: &Message<'_>, ticket: Ticket) -> Result<(), SendError> {
        if self.service().retries.is_holding() {
            return Err(SendError::Full);
        }
        if self.service().refuses(message.topic) {
            return Err(SendError::Refused(format!("the topic `{}` takes nothing", message.topic)));
        }
        match self.hand_over(message, Opaque { ticket, alone: false }) {
            Ok(()) => Ok(()),
            Err(RDKafkaErrorCode::QueueFull) => Err(SendError::Full),
            Err(code) if verdict(code) == Verdict::Poison => Err(SendError::Refused(code.to_string())),
            Err(code) => {
                let failed = Failed {
                    ticket,
                    topic: message.topic.to_owned(),
                    key: message.key.map(<[u8]>::to_vec),
                    payload: message.payload.to_vec(),
                    event_id: message.event_id.to_owned(),
                    alone: false,
                    barred: None,
                };
                Ok(self.judge(code, failed)?)
            }
        }
    }

    fn poll(&mut self) -> Result<(), SinkError> {
        if let Some(reason) = self.service().fatal() {
            return Err(SinkError::Kafka(reason));
        }
        if let Some(watch) = &self.watch {
            watch.check(&self.brokers)?;
        }
        if self.service().retries.is_holding() { self.resend() } else { Ok(()) }
    }

    fn set_encoder(&mut self, encoder: Encoder) {
        self.encoder = encoder.word();
    }

    fn push(&mut self) -> Result<(), SinkError> {
        // linger.ms sends off what was gathered.
        Ok(())
    }

    fn close(mut self: Box<Self>, deadline: Instant) {
        // Ended by the deadline, or by all being delivered.
        while self.producer.in_flight_count() > 0 || self.service().retries.is_holding() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if let Err(error) = self.poll() {
                tracing::error!("{error}");
                break;
            }
            // Time running out is what the loop is for.
            let _ = self.producer.flush(left.min(FLUSH_STEP));
        }
        destroy(self.producer);
    }
}

/// Takes a producer down, in a thread of its own if that takes long.
pub fn destroy<C: ProducerContext + 'static>(producer: Polled<C>) {
    let (done, wait) = mpsc::channel();
    let destroy = move || {
        drop(producer);
        // Nobody may be waiting any more.
        let _ = done.send(());
    };
    if thread::Builder::new().name("destroy".to_owned()).spawn(destroy).is_ok() {
        let _ = wait.recv_timeout(DESTROY_WAIT);
    }
}

/// The most bytes of a payload beside a key, within a message of at most `message_bytes_max`.
pub fn payload_room(message_bytes_max: usize, key_bytes: usize) -> usize {
    message_bytes_max.saturating_sub(MESSAGE_OVERHEAD_BYTES + key_bytes)
}
