//! librdkafka's side of a transactional producer.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::{
    ClientContext, Message as _,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{DeliveryResult, ProducerContext},
};

use crate::{
    sink::kafka::{
        service::Service,
        threaded_producer::BatchReports,
        verdict::{Verdict, verdict},
    },
    sink_stats::sink_stats,
};

/// Receives what librdkafka reports. A delivery counts for nothing here: the commit does.
pub struct Reports {
    /// Says what there is to be said about brokers.
    pub service: Service,
    /// The worst that was reported since [`Self::take_failure`]: the message's own fault before anything else.
    failure: Mutex<Option<Failure>>,
}

/// Why a message was not delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the broker, or librdkafka, says.
    pub code: RDKafkaErrorCode,
    /// Where the message was to go.
    pub topic: String,
}

impl Reports {
    /// Reports of a producer.
    pub fn new(service: Service) -> Self {
        Self { service, failure: Mutex::new(None) }
    }

    /// Whether a message of the transaction was not delivered.
    pub fn has_failure(&self) -> bool {
        self.lock().is_some()
    }

    /// Why a message of the transaction was not delivered, if one was not.
    pub fn take_failure(&self) -> Option<Failure> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// There is nothing to be told on.
impl BatchReports for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let Err((error, message)) = result else { return };
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        // What an abort takes back is not what made it necessary.
        if verdict(code) == Verdict::Ended {
            return;
        }
        sink_stats().failed(&format!("{code:?}"), 1);
        let mut failure = self.lock();
        if failure.is_none() || verdict(code) == Verdict::Poison {
            *failure = Some(Failure { code, topic: message.topic().to_owned() });
        }
    }
}

impl ClientContext for Reports {
    fn stats_raw(&self, statistics: &[u8]) {
        sink_stats().take_statistics(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.service.error(&error, reason);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.service.log(level, facility, line);
    }
}
