//! The sink that the drain sees.

mod abort;

use std::{
    collections::VecDeque,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bywash_common::{config::Config, fail_point::FailPoint};
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, Producer},
};

use crate::{
    delivery::{EventId, Frontier, Message, News, Outcome, SendError, Sink, SinkError, Subject, Ticket},
    rate::LogRate,
    sink::kafka::{
        config::message_bytes_max,
        error::OpenError,
        headers::{Headers, timestamp},
        service::Service,
        setup::{Known, Setup},
        sink::{destroy, look_again, payload_room},
        threaded_producer::ThreadedProducer,
        topics::TopicMaker,
        verdict::{End, Verdict, verdict},
        zookeepers::{Watch, locate},
    },
};

use super::{
    calls::{Call, Calls},
    checkpoint::{Progress, Store},
    kept::Kept,
    reports::Reports,
};

/// How long closing waits where nothing is on its way before it looks again.
const CLOSE_STEP: Duration = Duration::from_millis(20);
/// A transaction ends with this many messages at the latest.
const TRANSACTION_MESSAGES_MAX: usize = 20_000;
/// How long the first attempt after an abort waits; each further one twice as long.
const BACK_OFF_MIN: Duration = Duration::from_millis(500);
/// The longest wait between attempts.
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// At most one line about trouble with transactions in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Where the producer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The predecessor's transaction is not ended, or the checkpoint not read.
    Starting { is_fenced: bool },
    /// No transaction.
    Idle,
    /// A transaction takes messages.
    Open { since: Instant },
    /// Its checkpoint goes into it.
    Closing,
    /// It is being committed.
    Committing,
    /// It is being aborted.
    Aborting,
}

/// Sends to Kafka in transactions.
pub struct TransactionalSink {
    producer: ThreadedProducer<Known<Reports>>,
    calls: Calls,
    watch: Option<Watch>,
    /// Those that it began with.
    brokers: Vec<String>,
    store: Store,
    frontier: Arc<Frontier>,
    state: State,
    encoder: &'static str,
    headers: Headers,
    transactional_id: String,
    interval: Duration,
    message_bytes_max: usize,
    /// How far transactions reach.
    progress: Progress,
    /// The open transaction's messages.
    open: Vec<Kept>,
    /// Messages that go into the next ones, in order.
    pending: VecDeque<Kept>,
    /// Among so many of the next messages one is at fault: it is looked for by halves, each in a transaction.
    suspects: usize,
    not_before: Option<Instant>,
    back_off: Duration,
    log_rate: LogRate,
    complaints: LogRate,
}

impl TransactionalSink {
    /// Sets the producer up; it connects by itself, and goes on trying.
    ///
    /// # Errors
    /// An [`OpenError`] that names what is wrong.
    pub fn open(config: &Config, frontier: Arc<Frontier>) -> Result<Self, OpenError> {
        let (config, watch) = locate(config)?;
        let config = &*config;
        let transactional_id = config.transactional_id();
        let setup = Setup::of_transactions(config, &transactional_id)?;
        let failed = |error: &dyn std::fmt::Display| OpenError::Producer(error.to_string());
        let topics = TopicMaker::start(config)?;
        let service = Service::new(Arc::clone(&frontier), config, topics);
        let producer = setup.producer(Reports::new(service)).map_err(|error| failed(&error))?;
        let producer = ThreadedProducer::start(producer).map_err(|error| failed(&error))?;
        let (store, group) = Store::open(config, &transactional_id)?;
        let calls = Calls::start(producer.shared(), group).map_err(|error| failed(&error))?;
        tracing::info!(
            "sending to Kafka at {} in transactions as `{transactional_id}`",
            config.kafka.brokers.join(",")
        );
        Ok(Self {
            producer,
            calls,
            watch,
            brokers: config.kafka.brokers.clone(),
            store,
            frontier,
            state: State::Starting { is_fenced: false },
            encoder: config.event.encoder.word(),
            headers: Headers::new(config),
            transactional_id,
            interval: config.kafka.transaction_interval.0,
            message_bytes_max: message_bytes_max(&setup.properties),
            progress: Progress::default(),
            open: Vec::new(),
            pending: VecDeque::new(),
            suspects: 0,
            not_before: None,
            back_off: BACK_OFF_MIN,
            log_rate: LogRate::new(LOG_INTERVAL),
            complaints: LogRate::new(LOG_INTERVAL),
        })
    }

    fn reports(&self) -> &Reports {
        self.producer.client().context()
    }

    /// One step towards the next state.
    fn step(&mut self) -> Result<(), SinkError> {
        self.reports().service.examine(self.producer.client());
        if let Some(End::Broken(reason)) = self.reports().service.ended() {
            return Err(self.broken(&reason));
        }
        if let Some(brokers) = self.watch.as_ref().and_then(|watch| watch.moved(&self.brokers)) {
            return Err(SinkError::Moved(brokers.join(",")));
        }
        match self.state {
            State::Starting { is_fenced } => self.start(is_fenced),
            State::Idle => Ok(()),
            State::Open { since } => {
                let is_full = self.open.len() >= TRANSACTION_MESSAGES_MAX;
                if is_full || since.elapsed() >= self.interval { self.finish() } else { Ok(()) }
            }
            State::Closing => self.finish(),
            State::Committing => self.commit(),
            State::Aborting => self.abort(),
        }
    }

    /// Ends what a predecessor has left, and reads how far it came.
    fn start(&mut self, is_fenced: bool) -> Result<(), SinkError> {
        if !is_fenced {
            match self.call(Call::Begin)? {
                None => return Ok(()),
                Some(Err(error)) => return self.judge("beginning with transactions", &error),
                Some(Ok(())) => {}
            }
            self.state = State::Starting { is_fenced: true };
        }
        match self.store.read() {
            Ok(committed) => {
                match &committed {
                    Some(checkpoint) => tracing::info!("committed so far: {checkpoint}"),
                    None => tracing::info!("nothing is committed so far"),
                }
                self.progress = Progress::resume(committed);
                self.state = State::Idle;
                Ok(())
            }
            Err(error) => {
                self.say(&format!("the checkpoint cannot be read: {error}"));
                Ok(())
            }
        }
    }

    /// Puts a message into the transaction, which begins with it if there is none.
    fn produce(&mut self, message: &Message<'_>) -> Result<(), SendError> {
        if self.state == State::Idle {
            if let Err(error) = self.producer.begin_transaction() {
                self.judge("beginning a transaction", &error)?;
                return Err(SendError::Full);
            }
            self.state = State::Open { since: Instant::now() };
        }
        let mut record = BaseRecord::to(message.topic)
            .payload(message.payload)
            .timestamp(timestamp(message.time_ms))
            .headers(self.headers.of(message.event_id, self.encoder, message.failure));
        if let Some(key) = message.key {
            record = record.key(key);
        }
        let Err((error, _)) = self.producer.send(record) else {
            if !message.is_dead_letter {
                self.progress.reach(message.id);
            }
            return Ok(());
        };
        match error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail) {
            RDKafkaErrorCode::QueueFull => {}
            // The transaction has failed: its abort tells why.
            RDKafkaErrorCode::State => self.state = State::Aborting,
            code if verdict(code) == Verdict::Poison => return Err(SendError::Refused(code.to_string())),
            code => {
                let is_barred = verdict(code) == Verdict::Barred;
                let service = &self.reports().service;
                if is_barred && service.detour(message.topic, code).is_some() {
                    // The next attempt goes there.
                    return Err(SendError::Full);
                }
                if is_barred && (message.is_dead_letter || service.barred(message.topic, code)) {
                    return Err(SendError::GivenUp(code.to_string()));
                }
                self.complain(message.topic, code);
                self.state = State::Aborting;
            }
        }
        Err(SendError::Full)
    }

    /// Sends what waits, as far as the transaction takes it.
    fn pump(&mut self) -> Result<(), SinkError> {
        while self.takes_messages()
            && self.is_next_due()
            && let Some(mut kept) = self.pending.pop_front()
        {
            if let Some(topic) = self.reports().service.fallback_topics.of(&kept.topic) {
                kept.topic = (*topic).to_owned();
            }
            match self.produce(&kept.message()) {
                Ok(()) => {
                    self.open.push(kept);
                    if self.suspects > 0 && self.open.len() >= self.suspects.div_ceil(2) {
                        return self.finish();
                    }
                }
                Err(SendError::Full) => {
                    self.pending.push_front(kept);
                    return Ok(());
                }
                Err(SendError::Refused(reason)) => self.refuse(kept, reason),
                Err(SendError::GivenUp(reason)) => self.give_up(kept, reason),
                Err(SendError::Broken(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether what waits first may go. Until it is settled what becomes of a refused message, nothing may, but for the news
    /// of it: the checkpoint would go beyond what is neither kept nor announced, and a restart skip that.
    fn is_next_due(&self) -> bool {
        self.pending.front().is_some_and(|kept| is_replacement(kept.id)) || !self.frontier.has_open_refusals()
    }

    fn takes_messages(&mut self) -> bool {
        if self.not_before.is_some_and(|at| at > Instant::now()) {
            return false;
        }
        self.not_before = None;
        match self.state {
            State::Idle => true,
            State::Open { .. } => self.open.len() < TRANSACTION_MESSAGES_MAX,
            _ => false,
        }
    }

    /// Closes the transaction with its checkpoint and commits it.
    fn finish(&mut self) -> Result<(), SinkError> {
        self.state = State::Closing;
        if let Some(reached) = self.progress.reached() {
            let offsets = match self.store.offsets(&reached) {
                Ok(offsets) => offsets,
                Err(error) => return self.judge("making the checkpoint", &error),
            };
            match self.call(Call::Checkpoint(offsets))? {
                None => return Ok(()),
                Some(Err(error)) => return self.judge("writing the checkpoint", &error),
                Some(Ok(())) => {}
            }
        }
        FailPoint::CheckpointSent.reach();
        if self.reports().has_failure() {
            self.state = State::Aborting;
            return Ok(());
        }
        self.state = State::Committing;
        self.commit()
    }

    fn commit(&mut self) -> Result<(), SinkError> {
        let Some(committed) = self.call(Call::Commit)? else { return Ok(()) };
        if let Err(error) = committed {
            if matches!(error, KafkaError::Flush(_)) {
                // In a transaction that has failed, messages wait for its abort, and a flush for the messages, for good:
                // it does not tell. Writing the checkpoint does.
                self.state = State::Closing;
            }
            return self.judge("committing", &error);
        }
        FailPoint::TransactionCommitted.reach();
        self.progress.commit();
        self.state = State::Idle;
        self.back_off = BACK_OFF_MIN;
        self.suspects = self.suspects.saturating_sub(self.open.len());
        for kept in std::mem::take(&mut self.open) {
            self.reports().service.accepted(&kept.topic);
            self.frontier.settle(kept.ticket, Outcome::Delivered);
        }
        Ok(())
    }

    /// Makes a call for the transaction; gives none while it takes its time, and is to be asked for again.
    fn call(&mut self, call: Call) -> Result<Option<Result<(), KafkaError>>, SinkError> {
        self.calls.make(call).map_err(|error| SinkError::Kafka(error.to_string()))
    }

    /// Does what an error asks for.
    fn judge(&mut self, doing: &str, error: &KafkaError) -> Result<(), SinkError> {
        let KafkaError::Transaction(error) = error else {
            // Waiting for deliveries took its time: the call is repeated.
            tracing::debug!("{doing}: {error}");
            return Ok(());
        };
        use RDKafkaErrorCode as Code;
        if matches!(error.code(), Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch) {
            return Err(SinkError::Kafka(format!(
                "another publisher has begun to use the transactional id `{}`: give each a kafka.transactional_id of its own",
                self.transactional_id
            )));
        }
        if error.is_fatal() {
            return Err(self.broken(&format!("{doing}: {error}")));
        }
        if error.txn_requires_abort() {
            self.say(&format!("{doing}: {error}; the transaction is taken back"));
            self.state = State::Aborting;
        } else if error.is_retriable() {
            self.say(&format!("{doing}: {error}; it is tried again"));
        } else {
            return Err(self.broken(&format!("{doing}: {error}")));
        }
        Ok(())
    }

    fn broken(&self, reason: &str) -> SinkError {
        SinkError::Kafka(reason.to_owned())
    }

    fn say(&mut self, line: &str) {
        if let Some(others) = self.log_rate.pass() {
            tracing::warn!("transactions: {line}; events wait in the ring{others}");
        }
    }

    /// Keeps a message that cannot go yet, in the ring's order.
    fn wait(&mut self, message: &Message<'_>, ticket: Ticket) {
        let at = self.pending.partition_point(|kept| kept.ticket <= ticket);
        self.pending.insert(at, Kept::of(message, ticket));
    }
}

/// Whether this is the news of a message that was refused.
fn is_replacement(id: EventId) -> bool {
    matches!(id.subject, Subject::News(News::Undeliverable { .. }))
}

impl Sink for TransactionalSink {
    fn payload_bytes_max(&self, key_bytes: usize) -> usize {
        payload_room(self.message_bytes_max, key_bytes + self.headers.own_bytes())
    }

    fn send(&mut self, message: &Message<'_>, ticket: Ticket) -> Result<(), SendError> {
        if matches!(self.state, State::Starting { .. }) {
            return Err(SendError::Full);
        }
        if !message.is_dead_letter && self.progress.skips(message.id) {
            self.frontier.settle(ticket, Outcome::PassedOver);
            return Ok(());
        }
        if self.frontier.has_open_refusals() {
            // As in `is_next_due`. The drain has to come round to keep or announce what was refused: what it sends until then
            // waits here, within the frontier's bounds.
            self.wait(message, ticket);
            return Ok(());
        }
        if !self.pending.is_empty() || !self.takes_messages() {
            return Err(SendError::Full);
        }
        let detour = self.reports().service.fallback_topics.of(message.topic);
        let message = &Message { topic: detour.as_deref().unwrap_or(message.topic), ..*message };
        if self.reports().service.refuses(message.topic) {
            return Err(SendError::GivenUp(format!("the topic `{}` takes nothing", message.topic)));
        }
        self.produce(message)?;
        self.open.push(Kept::of(message, ticket));
        Ok(())
    }

    fn poll(&mut self) -> Result<(), SinkError> {
        self.step()?;
        self.pump()
    }

    fn push(&mut self) -> Result<(), SinkError> {
        let nothing_follows = self.pending.is_empty() || !self.is_next_due();
        if matches!(self.state, State::Open { .. }) && nothing_follows { self.finish() } else { Ok(()) }
    }

    fn meet_topic(&mut self, topic: &str) {
        self.reports().service.meet_topic(topic);
    }

    fn reconfigure(&mut self, config: &Config) {
        self.encoder = config.event.encoder.word();
        self.headers = Headers::new(config);
        look_again(self.producer.client(), &self.reports().service.want_topics(config));
    }

    fn close(mut self: Box<Self>, deadline: Instant) {
        while !(self.open.is_empty() && self.pending.is_empty()) && Instant::now() < deadline {
            if let Err(error) = self.poll().and_then(|()| self.push()) {
                tracing::error!("{error}");
                break;
            }
            if self.producer.in_flight_count() == 0 {
                thread::sleep(CLOSE_STEP);
            }
            // Nobody keeps or announces any more.
            if self.open.is_empty() && self.frontier.has_open_refusals() {
                break;
            }
        }
        if matches!(self.state, State::Open { .. } | State::Aborting) {
            // Readers of what is committed would else wait for this transaction until it times out.
            let _ = self.call(Call::Abort);
        }
        drop(self.calls);
        destroy(self.producer);
    }
}
