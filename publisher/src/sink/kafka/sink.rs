//! The sink that the drain sees.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use bywash_common::config::{Config, Delivery, Framing, Unusable};
use rdkafka::{
    ClientContext,
    client::Client,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext, PurgeConfig},
};

use crate::{
    delivery::{Frontier, Message, SendError, Sink, SinkError, Ticket},
    rate::LogRate,
};

use super::{
    background::BackgroundTask,
    config::{message_bytes_max, producer_config, transactional_config, wrong_as_a_whole},
    error::OpenError,
    headers::{Headers, timestamp},
    retry::Failed,
    service::{Company, Link, Opaque, Service},
    setup::{Known, Setup},
    threaded_producer::{BatchReports as _, ThreadedProducer},
    tokens::without_token,
    topics::TopicMaker,
    verdict::{End, Verdict, verdict},
    zookeepers::{Watch, locate},
};

/// What the protocol and the headers may add to a message's key and payload.
const MESSAGE_OVERHEAD_BYTES: usize = 512;
/// How long a look at a topic that takes no events may hold up the drain, which has nothing else to do then.
pub const TOPIC_LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long closing waits for deliveries before it looks at what is to be sent again.
const FLUSH_STEP: Duration = Duration::from_millis(100);
/// How long closing waits where nothing is on its way before it looks whether something may be sent again.
const RESEND_STEP: Duration = Duration::from_millis(20);
/// How long the end waits for librdkafka's threads, which a name server that hangs can hold.
const DESTROY_WAIT: Duration = Duration::from_secs(1);

/// At most one line about producers that are replaced in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// How long a new producer has before it is replaced in turn; while none delivers anything, each has twice as long.
const RENEWAL_WAIT_MIN: Duration = Duration::from_millis(100);
/// The longest that a producer which delivers nothing has.
const RENEWAL_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long the drain waits for a producer that is being set up, before it does other things: setting one up takes some
/// milliseconds where nothing hangs.
const SUCCESSOR_WAIT: Duration = Duration::from_millis(20);
/// How long brokers have for the answers that a producer waits for while it is replaced. What they have confirmed need not be
/// sent again.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// Sends to Kafka.
pub struct KafkaSink {
    producer: ThreadedProducer<Known<Link>>,
    service: Arc<Service>,
    /// What the producer is made of.
    setup: Setup,
    /// Until when the producer that is being replaced may wait for answers.
    leaving: Option<Leaving>,
    /// Before then the producer is not replaced.
    not_before: Instant,
    renewal_wait: Duration,
    /// How many deliveries had been reported when the producer began.
    reported: u64,
    log_rate: LogRate,
    watch: Option<Watch>,
    /// Those that the producer began with.
    brokers: Vec<String>,
    encoder: &'static str,
    headers: Headers,
    message_bytes_max: usize,
}

/// What a producer that is being replaced still waits for.
enum Leaving {
    /// Answers to what it has sent, until then.
    Waits(Instant),
    /// Nothing.
    GivesAll,
    /// Its successor: setting that up takes files, and may wait for a name server or a token.
    Succeeds(BackgroundTask<Result<ThreadedProducer<Known<Link>>, OpenError>>),
}

/// Checks the properties, one by one and against each other, without reaching for a broker.
///
/// # Errors
/// An [`OpenError`] that names what is wrong.
pub fn check(config: &Config) -> Result<(), OpenError> {
    let mut client = match config.kafka.delivery {
        Delivery::AtLeastOnce => producer_config(config)?,
        Delivery::ExactlyOnce => {
            if let Some(directory) = config.directories.iter().find(|d| d.framing.by != Framing::Write) {
                let message = format!(
                    "`exactly_once` cannot be had with framing = \"{}\", which `{}` has: keep one of the two",
                    directory.framing.by.word(),
                    directory.path.display()
                );
                // Lines are made of several writes, which a checkpoint between records cannot tell apart.
                return Err(Unusable::new("kafka.delivery", message).into());
            }
            transactional_config(config, &config.transactional_id())?
        }
    };
    client.remove("bootstrap.servers");
    // Says that there are no brokers, which is the point.
    client.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
    without_token(&mut client);
    match client.create::<BaseProducer>() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientCreation(text)) => Err(wrong_as_a_whole(config, text).into()),
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
        let setup = Setup::of_producer(&config)?;
        let topics = TopicMaker::start(&config)?;
        let service = Arc::new(Service::new(frontier, &config, topics));
        let producer = produce(&setup, &service)?;
        tracing::info!("sending to Kafka at {}", config.kafka.brokers.join(","));
        Ok(Self {
            producer,
            service,
            message_bytes_max: message_bytes_max(&setup.properties),
            setup,
            leaving: None,
            not_before: Instant::now(),
            renewal_wait: RENEWAL_WAIT_MIN,
            reported: 0,
            log_rate: LogRate::new(LOG_INTERVAL),
            watch,
            brokers: config.kafka.brokers.clone(),
            encoder: config.event.encoder.word(),
            headers: Headers::new(&config),
        })
    }

    pub(super) fn service(&self) -> &Service {
        &self.service
    }

    /// Has the producer give back what it has, once it has given something up, cannot go on, or its brokers are gone.
    fn look_for_the_end(&mut self) {
        self.service.examine(self.producer.client());
        if let Some(brokers) = self.watch.as_ref().and_then(|watch| watch.moved(&self.brokers)) {
            let addresses = brokers.join(",");
            tracing::warn!(
                "the brokers registered in ZooKeeper are all others by now ({addresses}): turning to them; what is not \
                 confirmed is sent again"
            );
            self.service.turn_to(&addresses);
            self.setup.properties.set("bootstrap.servers", addresses);
            self.brokers = brokers;
            // Nobody answers there.
            return self.leave(Duration::ZERO);
        }
        let Some(end) = self.service.ended().filter(|_| self.not_before <= Instant::now()) else { return };
        if let End::Broken(reason) = end
            && let Some(others) = self.log_rate.pass()
        {
            tracing::warn!(
                "the Kafka producer cannot go on, and another one takes its place: {reason}; what is not confirmed is \
                 sent again{others}"
            );
        }
        self.leave(ANSWER_WAIT);
    }

    /// Has the producer give back what it has not sent, and in `answer_wait` what it has.
    fn leave(&mut self, answer_wait: Duration) {
        self.producer.purge(PurgeConfig::default().queue());
        self.leaving = Some(Leaving::Waits(Instant::now() + answer_wait));
    }

    /// Puts another producer into the place of one that has given back what it had.
    fn renew(&mut self) -> Result<(), SinkError> {
        if self.producer.in_flight_count() > 0 {
            if let Some(Leaving::Waits(until)) = self.leaving
                && until <= Instant::now()
            {
                self.leaving = Some(Leaving::GivesAll);
                self.producer.purge(PurgeConfig::default().queue().inflight());
            }
            return Ok(());
        }
        if !matches!(self.leaving, Some(Leaving::Succeeds(_))) {
            self.producer.client().context().retire();
            self.service.renew();
            let (setup, service) = (self.setup.clone(), Arc::clone(&self.service));
            let background = BackgroundTask::start("producer", move || produce(&setup, &service));
            self.leaving =
                Some(Leaving::Succeeds(background.map_err(|error| SinkError::Kafka(error.to_string()))?));
        }
        let Some(Leaving::Succeeds(background)) = &self.leaving else { return Ok(()) };
        let producer = match background.take(SUCCESSOR_WAIT) {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(producer))) => producer,
            Ok(Some(Err(error))) => return Err(SinkError::Kafka(error.to_string())),
            Err(error) => return Err(SinkError::Kafka(error.to_string())),
        };
        self.succeed(producer)
    }

    /// Turns to the producer that takes another one's place.
    fn succeed(&mut self, producer: ThreadedProducer<Known<Link>>) -> Result<(), SinkError> {
        let old = std::mem::replace(&mut self.producer, producer);
        // Its threads may be long in ending, and nobody needs to wait.
        let ended = thread::Builder::new().name("destroy".to_owned()).spawn(move || drop(old));
        ended.map_err(|error| SinkError::Kafka(error.to_string()))?;
        self.leaving = None;
        let reported = self.service.report_batch.reported();
        let has_delivered = std::mem::replace(&mut self.reported, reported) != reported;
        self.renewal_wait =
            if has_delivered { RENEWAL_WAIT_MIN } else { RENEWAL_WAIT_MAX.min(self.renewal_wait * 2) };
        self.not_before = Instant::now() + self.renewal_wait;
        Ok(())
    }

    /// Whether the producer takes no more messages.
    fn is_ending(&self) -> bool {
        self.leaving.is_some() || self.service.has_failed()
    }

    fn hand_over(
        &self,
        message: &Message<'_>,
        encoder: &str,
        opaque: Opaque,
    ) -> Result<(), RDKafkaErrorCode> {
        let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(message.topic, opaque.number())
            .payload(message.payload)
            .timestamp(timestamp(message.time_ms))
            .headers(self.headers.of(message.event_id, encoder, message.failure));
        if let Some(key) = message.key {
            record = record.key(key);
        }
        self.producer
            .send(record)
            .map_err(|(error, _)| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail))
    }

    /// Sends again what waits for that, as far as it may.
    fn resend(&self) {
        let retries = &self.service().retries;
        let Some(due) = retries.due() else { return };
        if due.suspect.is_some() {
            // Makes librdkafka look again at a topic that it believes not to exist; what it finds shows below.
            let _ = self.producer.client().fetch_metadata(due.suspect.as_deref(), TOPIC_LOOK_TIMEOUT);
        }
        let group = retries.next(self.producer.in_flight_count() == 0);
        let company = match retries.suspects_out() {
            0 => Company::Any,
            1 => Company::Alone,
            _ => Company::Suspects,
        };
        let mut group = group.into_iter();
        while let Some(failed) = group.next() {
            if let Some(code) = failed.barred.filter(|_| self.service().gives_up(&failed)) {
                let is_suspect = failed.is_suspect;
                self.service().give_up(failed, code.to_string());
                if is_suspect {
                    retries.settle();
                }
                continue;
            }
            let opaque = Opaque { ticket: failed.ticket, company };
            let event_id = failed.id.to_string();
            let message = Message {
                topic: &failed.topic,
                key: failed.key.as_deref(),
                payload: &failed.payload,
                id: failed.id,
                event_id: &event_id,
                time_ms: failed.time_ms,
                is_dead_letter: false,
                failure: None,
            };
            match self.hand_over(&message, &failed.encoder, opaque) {
                Ok(()) => {}
                Err(code) => {
                    if code == RDKafkaErrorCode::QueueFull {
                        retries.put_back(failed);
                    } else {
                        let is_suspect = failed.is_suspect;
                        self.judge(code, Failed { is_suspect: false, ..failed });
                        if is_suspect {
                            retries.settle();
                        }
                    }
                    group.for_each(|rest| retries.put_back(rest));
                    break;
                }
            }
        }
    }

    /// Deals with a message that librdkafka did not take.
    fn judge(&self, code: RDKafkaErrorCode, failed: Failed) {
        let is_dead_letter = self.service().is_dead_letter(failed.ticket);
        match verdict(code) {
            // It has lost its place, and nobody waits for it: it stays the dead letter that it is.
            Verdict::Again | Verdict::Barred if is_dead_letter => {
                self.service().give_up(failed, code.to_string())
            }
            Verdict::Again => self.service().hold(failed, code),
            Verdict::Barred => self.service().bar(failed, code),
            Verdict::Poison => self.service().refuse(failed, code.to_string()),
            Verdict::Ended => {
                self.service().suspect();
                self.service().examine(self.producer.client());
                if !self.service().has_failed() {
                    self.service().fail(End::Broken(code.to_string()));
                }
                self.service().retries.hold(failed);
            }
        }
    }
}

impl Sink for KafkaSink {
    fn payload_bytes_max(&self, key_bytes: usize) -> usize {
        payload_room(self.message_bytes_max, key_bytes + self.headers.own_bytes())
    }

    fn send(&mut self, message: &Message<'_>, ticket: Ticket) -> Result<(), SendError> {
        if self.service().retries.is_holding() || self.is_ending() {
            return Err(SendError::Full);
        }
        let detour = self.service().fallback_topics.of(message.topic);
        let message = &Message { topic: detour.as_deref().unwrap_or(message.topic), ..*message };
        if self.service().refuses(message.topic) {
            return Err(SendError::GivenUp(format!("the topic `{}` takes nothing", message.topic)));
        }
        match self.hand_over(message, self.encoder, Opaque { ticket, company: Company::Any }) {
            Ok(()) => Ok(()),
            Err(RDKafkaErrorCode::QueueFull) => Err(SendError::Full),
            Err(code) if verdict(code) == Verdict::Poison => Err(SendError::Refused(code.to_string())),
            Err(code) => {
                let failed = Failed {
                    ticket,
                    topic: message.topic.to_owned(),
                    key: message.key.map(<[u8]>::to_vec),
                    payload: message.payload.to_vec(),
                    id: message.id,
                    time_ms: message.time_ms,
                    is_suspect: false,
                    encoder: self.encoder.to_owned(),
                    barred: None,
                };
                self.judge(code, failed);
                Ok(())
            }
        }
    }

    fn poll(&mut self) -> Result<(), SinkError> {
        if self.leaving.is_none() {
            self.look_for_the_end();
        }
        if self.leaving.is_some() {
            self.renew()?;
        }
        if self.service().retries.is_holding() && !self.is_ending() {
            self.resend();
        }
        Ok(())
    }

    fn meet_topic(&mut self, topic: &str) {
        self.service().meet_topic(topic);
    }

    fn reconfigure(&mut self, config: &Config) {
        self.encoder = config.event.encoder.word();
        self.headers = Headers::new(config);
        look_again(self.producer.client(), &self.service.want_topics(config));
    }

    fn is_holding(&self) -> bool {
        self.service().retries.is_holding()
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
            // Time running out is what the loop is for. What waits to be sent again is not librdkafka's to wait for.
            let _ = self.producer.flush(left.min(FLUSH_STEP));
            if self.producer.in_flight_count() == 0 && self.service().retries.is_holding() {
                thread::sleep(left.min(RESEND_STEP));
            }
        }
        self.service.report_batch.settle();
        self.service.end();
        destroy(self.producer);
    }
}

/// Has librdkafka look again at topics that it believes not to exist, as long as brokers answer.
pub fn look_again<C: ClientContext>(client: &Client<C>, topics: &[String]) {
    let _ =
        topics.iter().try_for_each(|topic| client.fetch_metadata(Some(topic), TOPIC_LOOK_TIMEOUT).map(drop));
}

/// A producer with a thread for its reports.
fn produce(setup: &Setup, service: &Arc<Service>) -> Result<ThreadedProducer<Known<Link>>, OpenError> {
    let producer =
        setup.producer(Link::new(service)).map_err(|error| OpenError::Producer(error.to_string()))?;
    ThreadedProducer::start(producer).map_err(|error| OpenError::Producer(error.to_string()))
}

/// Takes a producer down, in a thread of its own if that takes long.
pub fn destroy<C: ProducerContext + 'static>(producer: ThreadedProducer<C>) {
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

/// The most bytes of a payload beside a key and headers of the configuration's, within a message of at most `message_bytes_max`.
pub fn payload_room(message_bytes_max: usize, key_bytes: usize) -> usize {
    message_bytes_max.saturating_sub(MESSAGE_OVERHEAD_BYTES + key_bytes)
}
