//! What becomes of a transaction that failed, and of the message at fault.

use std::time::Instant;

use rdkafka::{error::RDKafkaErrorCode, producer::Producer};

use crate::{
    delivery::SinkError,
    sink::kafka::{
        sink::TOPIC_LOOK_TIMEOUT,
        verdict::{Verdict, is_missing, verdict},
    },
};

use super::{
    super::{calls::Call, kept::Kept, reports::Failure},
    BACK_OFF_MAX, State, TransactionalSink,
};

impl TransactionalSink {
    /// Takes the transaction back; its messages go into the next.
    pub(super) fn abort(&mut self) -> Result<(), SinkError> {
        match self.call(Call::Abort)? {
            None => return Ok(()),
            Some(Err(error)) => return self.judge("aborting", &error),
            Some(Ok(())) => {}
        }
        self.state = State::Idle;
        self.progress.take_back();
        let sent = self.open.len();
        self.open.append(&mut self.pending.drain(..).collect());
        match self.reports().take_failure() {
            Some(Failure { code, .. }) if verdict(code) == Verdict::Poison => self.suspect(sent, code),
            failure => self.step_back(failure),
        }
        self.pending = std::mem::take(&mut self.open).into();
        Ok(())
    }

    /// One of the first `sent` messages is never taken.
    fn suspect(&mut self, sent: usize, code: RDKafkaErrorCode) {
        self.suspects = sent;
        if sent == 1 {
            self.suspects = 0;
            let kept = self.open.remove(0);
            self.refuse(kept, code.to_string());
        }
    }

    /// Waits with the next attempt, longer each time.
    fn step_back(&mut self, failure: Option<Failure>) {
        let barred = failure.as_ref().filter(|failure| verdict(failure.code) == Verdict::Barred);
        if let Some(Failure { code, topic }) = barred
            && self.reports().service.detour(topic, *code).is_some()
        {
            return;
        }
        self.not_before = Some(Instant::now() + self.back_off);
        self.back_off = (self.back_off * 2).min(BACK_OFF_MAX);
        let Some(Failure { code, topic }) = failure else { return };
        self.complain(&topic, code);
        if verdict(code) == Verdict::Barred {
            let is_over = self.reports().service.barred(&topic, code);
            // Messages of other topics go on. Nobody waits for a dead letter: it stays the one that it is.
            let ends = |kept: &mut Kept| kept.topic == topic && (is_over || kept.is_dead_letter);
            let given_up = self.open.extract_if(.., ends).collect::<Vec<_>>();
            given_up.into_iter().for_each(|kept| self.give_up(kept, code.to_string()));
        }
    }

    /// Says why a topic takes nothing, and has librdkafka look again at one that it believes not to exist.
    pub(super) fn complain(&mut self, topic: &str, code: RDKafkaErrorCode) {
        let way_out = self.reports().service.way_out(code);
        if let Some(others) = self.complaints.pass() {
            tracing::error!(
                "Kafka does not take events for the topic `{topic}`: {code}; they wait, and all behind them, until it \
                 does{way_out}{others}"
            );
        }
        if is_missing(code) {
            let _ = self.producer.client().fetch_metadata(Some(topic), TOPIC_LOOK_TIMEOUT);
        }
    }

    /// A message will never be taken.
    pub(super) fn refuse(&mut self, kept: Kept, reason: String) {
        let (ticket, dead_letter) = kept.into_dead_letter(reason);
        self.frontier.refuse(ticket, dead_letter);
    }

    /// An operator has had time enough to make a message possible: where it cannot be kept, it waits on for that.
    pub(super) fn give_up(&mut self, kept: Kept, reason: String) {
        let (ticket, dead_letter) = kept.into_dead_letter(reason);
        self.frontier.give_up(ticket, dead_letter);
    }
}
