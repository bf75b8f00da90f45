//! librdkafka's side: delivery reports, errors and log lines come in here, on its polling thread.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bywash_common::config::Config;
use rdkafka::{
    ClientContext, Message as _,
    client::Client,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::ProducerContext,
};

use crate::{
    dead_letter::{CircuitBreaker, FallbackTopics},
    delivery::{Frontier, Ticket},
    rate::LogRate,
    sink_stats::sink_stats,
    topics::all_topics,
};

use super::{
    config::{GAPLESS, hint},
    report_batch::ReportBatch,
    retry::{Failed, Retries},
    threaded_producer::BatchReports,
    topics::TopicMaker,
    verdict::{End, Verdict, is_missing, is_topics_own, verdict},
};

/// At most one line about each kind of trouble in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// A ticket, and with which others its message was sent, in the one number that librdkafka hands back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opaque {
    /// The record.
    pub ticket: Ticket,
    /// Whether its batch was rejected before.
    pub company: Company,
}

/// With which others a message was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Company {
    /// Any.
    Any,
    /// Others whose batch was rejected, and no others.
    Suspects,
    /// None.
    Alone,
}

impl Opaque {
    /// As a number. Tickets are counts from 0 and never reach the last two bits.
    pub fn number(self) -> usize {
        (self.ticket.number() as usize) << 2 | self.company as usize
    }

    /// From such a number.
    pub fn from_number(number: usize) -> Self {
        let company = match number & 3 {
            1 => Company::Suspects,
            2 => Company::Alone,
            _ => Company::Any,
        };
        Self { ticket: Ticket::from_number((number >> 2) as u64), company }
    }
}

/// What the log has said about the brokers.
struct LogRates {
    outage: LogRate,
    connection: LogRate,
    hold: LogRate,
    library: LogRate,
}

/// A producer's hold on the service, which outlives producers that are replaced.
pub struct Link {
    service: Arc<Service>,
    /// Another producer has taken its place: what it still complains about is nobody's business.
    is_retired: AtomicBool,
}

impl Link {
    /// A producer's own.
    pub fn new(service: &Arc<Service>) -> Self {
        Self { service: Arc::clone(service), is_retired: AtomicBool::new(false) }
    }

    /// From now on errors of this producer count for nothing.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }
}

impl BatchReports for Link {
    fn reported(&self) -> u64 {
        self.service.report_batch.reported()
    }

    fn gather(&self) {
        self.service.report_batch.gather();
    }

    fn settle(&self) {
        self.service.report_batch.settle();
    }
}

impl ProducerContext for Link {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        self.service.report(result, Opaque::from_number(opaque));
    }
}

impl ClientContext for Link {
    fn error(&self, error: KafkaError, reason: &str) {
        if !self.is_retired.load(Ordering::Relaxed) {
            self.service.error(&error, reason);
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        if !self.is_retired.load(Ordering::Relaxed) {
            self.service.log(level, facility, line);
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if !self.is_retired.load(Ordering::Relaxed) {
            sink_stats().take_statistics(statistics);
        }
    }
}

/// Receives what librdkafka reports.
pub struct Service {
    frontier: Arc<Frontier>,
    /// Deliveries on their way to it.
    pub report_batch: ReportBatch,
    /// Makes topics, if that is wanted.
    topics: Option<TopicMaker>,
    /// Which topics of templates cannot be used.
    pub fallback_topics: FallbackTopics,
    /// What is to be sent again.
    pub retries: Retries,
    /// Which topics take nothing.
    circuit_breaker: Mutex<CircuitBreaker>,
    /// Whether `circuit_breaker` knows of any; lets the common case do without the lock.
    has_barred: AtomicBool,
    /// Something went wrong since the last delivery.
    is_troubled: AtomicBool,
    /// The log has said so, and not yet that it is over.
    is_announced: AtomicBool,
    end: Mutex<Option<End>>,
    has_failed: AtomicBool,
    /// An error was reported that may have been the producer's end.
    is_suspect: AtomicBool,
    /// The publisher ends: the ring has what is given back.
    is_ending: AtomicBool,
    rates: Mutex<LogRates>,
}

impl Service {
    /// A service that reports to `frontier`.
    pub fn new(frontier: Arc<Frontier>, config: &Config, topics: Option<TopicMaker>) -> Self {
        let rate = || LogRate::new(LOG_INTERVAL);
        Self {
            report_batch: ReportBatch::new(Arc::clone(&frontier)),
            frontier,
            topics,
            retries: Retries::default(),
            fallback_topics: FallbackTopics::new(config),
            circuit_breaker: Mutex::new(CircuitBreaker::new(&config.failed)),
            has_barred: AtomicBool::new(false),
            is_troubled: AtomicBool::new(false),
            is_announced: AtomicBool::new(false),
            end: Mutex::new(None),
            has_failed: AtomicBool::new(false),
            is_suspect: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
            rates: Mutex::new(LogRates { outage: rate(), connection: rate(), hold: rate(), library: rate() }),
        }
    }

    /// Whether the producer cannot go on.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// Something has happened that may have been the producer's end.
    pub fn suspect(&self) {
        self.is_suspect.store(true, Ordering::Release);
    }

    /// Looks whether an error that was reported since the last look was the producer's end.
    pub fn examine<C: ClientContext>(&self, client: &Client<C>) {
        if self.is_suspect.load(Ordering::Acquire)
            && self.is_suspect.swap(false, Ordering::AcqRel)
            && let Some((code, reason)) = client.fatal_error()
        {
            let gave_up = code == RDKafkaErrorCode::GaplessGuarantee;
            self.fail(if gave_up { End::GaveUp } else { End::Broken(reason) });
        }
    }

    /// Why the producer is to be replaced, if it is.
    pub fn ended(&self) -> Option<End> {
        if !self.has_failed() {
            return None;
        }
        self.end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The producer is to be replaced.
    pub fn fail(&self, end: End) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        self.has_failed.store(true, Ordering::Release);
    }

    /// Another producer takes the place of the one that cannot go on.
    pub fn renew(&self) {
        self.has_failed.store(false, Ordering::Release);
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.is_troubled.store(true, Ordering::Relaxed);
        self.is_announced.store(true, Ordering::Relaxed);
    }

    /// From now on what the producer gives back is left to the ring.
    pub fn end(&self) {
        self.is_ending.store(true, Ordering::Release);
    }

    /// Keeps a message to be sent again, and says so.
    pub fn hold(&self, failed: Failed, code: RDKafkaErrorCode) {
        self.say(|rates| &mut rates.hold, |others| {
            tracing::error!(
                "Kafka does not take events for the topic `{}`: {code}; they wait, and all behind them, until it \
                 does{}{others}",
                failed.topic,
                self.way_out(code)
            );
        });
        self.retries.hold(failed);
    }

    /// Whether a message is a dead letter that is sent again.
    pub fn is_dead_letter(&self, ticket: Ticket) -> bool {
        self.frontier.is_beside(ticket)
    }

    /// A message will never be taken.
    pub fn refuse(&self, failed: Failed, reason: String) {
        let (ticket, dead_letter) = failed.into_dead_letter(reason);
        self.frontier.refuse(ticket, dead_letter);
    }

    /// An operator has had time enough to make a message possible.
    pub fn give_up(&self, failed: Failed, reason: String) {
        let (ticket, dead_letter) = failed.into_dead_letter(reason);
        self.frontier.give_up(ticket, dead_letter);
    }

    /// Whether a message of a topic that takes nothing is refused unsent, so that those of other topics go on.
    pub fn refuses(&self, topic: &str) -> bool {
        self.has_barred.load(Ordering::Acquire)
            && self.frontier.keeps_dead_letters()
            && self.circuit_breaker().rejects(topic)
    }

    /// Whether what waits for an operator has waited long enough.
    pub fn gives_up(&self, failed: &Failed) -> bool {
        failed.barred.is_some()
            && self.frontier.keeps_dead_letters()
            && self.circuit_breaker().is_open(&failed.topic)
    }

    /// Where messages of a topic go that takes nothing, if a template has named it.
    pub fn detour(&self, topic: &str, code: RDKafkaErrorCode) -> Option<Arc<str>> {
        if is_topics_own(code) { self.fallback_topics.take(topic, &code.to_string()) } else { None }
    }

    /// Deals with a message that an operator has to make possible: it waits for that, or it has waited long enough. What a template has
    /// named goes elsewhere.
    pub fn bar(&self, failed: Failed, code: RDKafkaErrorCode) {
        if let Some(topic) = self.detour(&failed.topic, code) {
            return self.retries.put_back(Failed { topic: (*topic).to_owned(), ..failed });
        }
        if self.barred(&failed.topic, code) {
            self.give_up(failed, code.to_string());
        } else {
            self.hold(Failed { barred: Some(code), ..failed }, code);
        }
    }

    /// A topic takes nothing for a reason that an operator can mend. Gives whether waiting for that is over.
    pub fn barred(&self, topic: &str, code: RDKafkaErrorCode) -> bool {
        if let Some(maker) = self.topics.as_ref().filter(|_| is_missing(code)) {
            maker.want(topic);
        }
        let is_over = self.circuit_breaker().record_failure(topic);
        self.has_barred.store(true, Ordering::Release);
        is_over && self.frontier.keeps_dead_letters()
    }

    /// A topic takes messages.
    pub fn accepted(&self, topic: &str) {
        self.fallback_topics.delivered(topic);
        if self.has_barred.load(Ordering::Relaxed) {
            let mut circuit_breaker = self.circuit_breaker();
            circuit_breaker.record_success(topic);
            self.has_barred.store(!circuit_breaker.has_no_failures(), Ordering::Release);
        }
    }

    /// A template has named a topic, which may be missing.
    pub fn meet_topic(&self, topic: &str) {
        self.fallback_topics.meet(topic);
        if let Some(maker) = &self.topics {
            maker.want(topic);
        }
    }

    /// The topics of another configuration may be missing. Gives those that templates had named, and that could not be used.
    pub fn want_topics(&self, config: &Config) -> Vec<String> {
        if let Some(maker) = &self.topics {
            all_topics(config).into_iter().for_each(|topic| maker.want(topic));
        }
        self.fallback_topics.reconfigure(config)
    }

    /// The brokers are elsewhere from now on.
    pub fn turn_to(&self, brokers: &str) {
        if let Some(maker) = &self.topics {
            maker.turn_to(brokers);
        }
    }

    /// What an operator can do about an error, if anything.
    pub fn way_out(&self, code: RDKafkaErrorCode) -> &'static str {
        match code {
            code if is_missing(code) && self.topics.is_none() => {
                ": make the topic, or set kafka.create_topic"
            }
            RDKafkaErrorCode::TopicAuthorizationFailed => ": give this client the right to write to it",
            RDKafkaErrorCode::ClusterAuthorizationFailed => {
                ": give this client the right to write idempotently"
            }
            _ => "",
        }
    }

    fn circuit_breaker(&self) -> MutexGuard<'_, CircuitBreaker> {
        self.circuit_breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delivered(&self, ticket: Ticket, topic: &str) {
        self.accepted(topic);
        if self.is_troubled.load(Ordering::Relaxed)
            && !self.retries.is_holding()
            && self.is_troubled.swap(false, Ordering::Relaxed)
        {
            self.retries.relax();
            if self.is_announced.swap(false, Ordering::Relaxed) {
                tracing::info!("Kafka takes events again");
            }
        }
        self.report_batch.add(ticket);
    }

    fn failed(&self, opaque: Opaque, code: RDKafkaErrorCode, failed: Failed) {
        sink_stats().failed(&format!("{code:?}"), 1);
        // What a broker has said may have ended the producer.
        self.suspect();
        match verdict(code) {
            Verdict::Ended if self.is_ending.load(Ordering::Acquire) => {}
            // Its producer is replaced.
            Verdict::Ended => {
                self.is_troubled.store(true, Ordering::Relaxed);
                let is_suspect = opaque.company != Company::Any;
                self.retries.hold(Failed { is_suspect, ..failed });
            }
            // It has lost its place, and nobody waits for it: it stays the dead letter that it is.
            Verdict::Again | Verdict::Barred if self.frontier.is_beside(opaque.ticket) => {
                self.give_up(failed, code.to_string());
            }
            Verdict::Again => {
                self.fail(End::GaveUp);
                self.hold(failed, code);
            }
            Verdict::Barred => self.bar(failed, code),
            Verdict::Poison if opaque.company == Company::Alone => self.refuse(failed, code.to_string()),
            Verdict::Poison => {
                self.say(|rates| &mut rates.hold, |others| {
                    tracing::warn!(
                        "a broker rejects a batch for the topic `{}`: {code}; its events are sent again in smaller \
                         ones (a smaller publisher.batch_bytes avoids that){others}",
                        failed.topic
                    );
                });
                self.retries.hold_suspect(failed);
            }
        }
    }

    fn say(&self, of: impl FnOnce(&mut LogRates) -> &mut LogRate, line: impl FnOnce(crate::rate::HeldBack)) {
        self.is_troubled.store(true, Ordering::Relaxed);
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(others) = of(&mut rates).pass() {
            self.is_announced.store(true, Ordering::Relaxed);
            line(others);
        }
    }
}

/// What comes from librdkafka.
impl Service {
    /// What became of a message.
    pub fn report(&self, result: &DeliveryResult<'_>, opaque: Opaque) {
        match result {
            Ok(message) => self.delivered(opaque.ticket, message.topic()),
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                let Some(failed) =
                    Failed::of_report(opaque.ticket, message, self.frontier.event_ns(opaque.ticket))
                else {
                    return tracing::error!(
                        "a message came back without its event's id: a restart sends it again"
                    );
                };
                self.failed(opaque, code, failed);
            }
        }
        if opaque.company != Company::Any {
            self.retries.settle();
        }
    }

    /// Something is wrong with a broker, a connection, or the producer.
    pub fn error(&self, error: &KafkaError, reason: &str) {
        // The end of a producer comes under the code of what has led to it.
        self.suspect();
        if let Some(code) = error.rdkafka_error_code() {
            sink_stats().failed(&format!("{code:?}"), 1);
        }
        match error.rdkafka_error_code() {
            // What was given up comes back, and is complained of by its topic.
            Some(RDKafkaErrorCode::GaplessGuarantee) => tracing::debug!("librdkafka: {reason}"),
            Some(RDKafkaErrorCode::AllBrokersDown) => self.say(
                |rates| &mut rates.outage,
                |others| {
                    tracing::error!(
                        "no Kafka broker can be reached ({reason}): events wait in the ring{others}"
                    );
                },
            ),
            _ => self.say(
                |rates| &mut rates.connection,
                |others| {
                    tracing::warn!(
                        "connection to Kafka: {reason}{}; what is not delivered waits in the ring{others}",
                        hint(reason),
                    );
                },
            ),
        }
    }

    /// A line for the log.
    pub fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        match level {
            // The same as an error above, word for word, or what is said of the producer's end.
            _ if matches!(facility, "FAIL" | "ERROR" | "FATAL") => tracing::debug!("librdkafka: {line}"),
            // That is on at every start, and means no more than that it may be replaced by a better one.
            _ if facility == "CONFWARN" && line.contains(GAPLESS) => tracing::debug!("librdkafka: {line}"),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice | RDKafkaLogLevel::Debug => {
                tracing::debug!("librdkafka: {facility}: {line}");
            }
            _ => {
                let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(others) = rates.library.pass() {
                    tracing::warn!("librdkafka: {facility}: {line}{others}");
                }
            }
        }
    }
}
