//! The ring that is drained: waiting for it, and turning to the next one.

use std::{sync::Arc, thread::sleep, time::Duration};

use bywash_common::{
    clock::now_ns,
    ring::{PublisherRing, RingError, SelectiveAck, SelectiveAckSlots, Waiting, inspect},
    status::{PublisherCounter, PublisherStatus},
};

use uuid::Uuid;

use crate::{
    clock,
    delivery::{Ledger, Outcome, Progress},
    signals::Stop,
    spool::{Head, Mark},
};

use super::discarded::Discarded;

/// How often a missing ring is looked for.
const MISSING_WAIT: Duration = Duration::from_millis(200);

/// Attaches to the ring, which the agent may not have made yet. Gives none if a stop is asked for first.
///
/// # Errors
/// A [`RingError`] that an agent's start or a new ring of its would not end.
pub fn attach(name: &str, stop: &Stop) -> Result<Option<PublisherRing>, RingError> {
    let mut said = None;
    let mut waiting = None;
    while !stop.is_requested() {
        let error = match PublisherRing::attach(name, None) {
            Ok(ring) => {
                let (used_bytes, _) = ring.fill();
                tracing::info!("draining the ring `{name}` ({}), {used_bytes} bytes wait in it", ring.uuid);
                return Ok(Some(ring));
            }
            Err(error @ RingError::Missing { .. }) => error,
            Err(error) if error.is_damage() => error,
            Err(error) => return Err(error),
        };
        let says = error.to_string();
        if said.as_ref() != Some(&says) {
            match error {
                RingError::Missing { .. } => {
                    waiting = waiting.or_else(|| Waiting::announce(name));
                    tracing::info!("waiting for the ring `{name}`: fs-agent is not running yet")
                }
                _ => tracing::error!("waiting for fs-agent to begin another ring: {says}"),
            }
            said = Some(says);
        }
        clock::pass(MISSING_WAIT, || sleep(MISSING_WAIT));
    }
    Ok(None)
}

/// Whether the agent writes to another ring of the same name by now, so that this one only has to be drained.
pub fn is_superseded(name: &str, ring: &PublisherRing) -> bool {
    if ring.has_agent() {
        return false;
    }
    let newer = ring.has_successor().unwrap_or_else(|error| {
        tracing::warn!("cannot look for a newer ring: {error}");
        false
    });
    // Someone may have removed the objects, so that the agent began anew with the same number.
    newer || inspect(name).is_ok_and(|current| current.uuid != ring.uuid)
}

/// Writes the frontier's moves into the ring or the spool, and the counters beside the ring's head.
pub struct RingLedger {
    head: Arc<Head>,
    status: PublisherStatus,
    /// The former ring whose records these are, if they are one's.
    old: Option<Uuid>,
    /// Where the ring's publisher writes down what is delivered out of turn.
    ahead: Option<SelectiveAckSlots>,
    /// What the first event tells of: what an operator has discarded before.
    untold: Option<Discarded>,
}

impl RingLedger {
    /// The ledger of an attached ring, or of a former ring's records in the spool.
    pub fn new(
        head: Arc<Head>,
        status: PublisherStatus,
        old: Option<Uuid>,
        ahead: Option<SelectiveAckSlots>,
    ) -> Self {
        Self { head, status, old, ahead, untold: None }
    }

    /// As it is where the first event tells of what was discarded.
    pub fn telling(self) -> Self {
        let untold = Discarded::untold(&self.status);
        Self { untold, ..self }
    }
}

impl Ledger for RingLedger {
    fn advance(&mut self, progress: &Progress) {
        if let Some(untold) = self.untold.take() {
            untold.tell(&self.status);
        }
        let Progress { end, next_sequence, .. } = *progress;
        match self.old {
            None => self.head.deliver(end, next_sequence),
            Some(uuid) => {
                let next_seq = next_sequence.unwrap_or_default();
                self.head.deliver_old(Some(Mark { uuid, end, next_seq }));
            }
        }
        let delivered = progress.outcomes.of(Outcome::Delivered);
        self.status.add(PublisherCounter::DeliveredEvents, delivered.records);
        self.status.add(PublisherCounter::DeliveredBytes, delivered.bytes);
        for (outcome, counter) in [
            (Outcome::DeadLettered, PublisherCounter::DeadLetteredEvents),
            (Outcome::Lost, PublisherCounter::UndeliverableEvents),
            (Outcome::PassedOver, PublisherCounter::PassedOverEvents),
        ] {
            let records = progress.outcomes.of(outcome).records;
            if records > 0 {
                self.status.add(counter, records);
            }
        }
        let expired = progress.outcomes.of(Outcome::Expired);
        if expired.records > 0 {
            self.status.add(PublisherCounter::TooOldEvents, expired.records);
            self.status.add(PublisherCounter::TooOldBytes, expired.bytes);
        }
        if progress.has_delivered {
            self.status.set(PublisherCounter::LastDeliveryNs, now_ns());
        }
    }

    fn tell_ahead(&mut self, end: u64, ahead: &[SelectiveAck]) {
        if let Some(slots) = &mut self.ahead {
            slots.write(end, ahead);
        }
        // For when the ring that says so is gone.
        self.head.tell_ahead(end, ahead);
    }

    fn in_flight(&mut self, records: u64, oldest_ns: u64) {
        self.status.set(PublisherCounter::InFlightEvents, records);
        self.status.set(PublisherCounter::OldestUnackedNs, oldest_ns);
    }
}
