//! Messages that librdkafka has given up on, but this publisher has not.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::error::RDKafkaErrorCode;

use crate::delivery::{EventId, Ticket};

/// How long the first attempt waits after a failure; each further one twice as long.
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// The longest wait between attempts.
const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// A message as it was sent, to be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Which record it belongs to.
    pub ticket: Ticket,
    /// Its topic.
    pub topic: String,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// The encoded event.
    pub payload: Vec<u8>,
    /// The event's id.
    pub id: EventId,
    /// Its batch was rejected: whether it is at fault shows when it is sent alone.
    pub alone: bool,
    /// Only an operator can make it possible; why.
    pub barred: Option<RDKafkaErrorCode>,
}

/// An attempt that may be made now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The topic that librdkafka may believe not to exist.
    pub suspect: Option<String>,
}

#[derive(Default)]
struct State {
    /// In the ring's order.
    queue: VecDeque<Failed>,
    /// One that must go alone is on its way: nothing may join its batch.
    is_alone_out: bool,
    not_before: Option<Instant>,
    back_off: Duration,
}

/// The messages that wait to be sent again, in order.
#[derive(Default)]
pub struct Retries {
    state: Mutex<State>,
    /// Whether the queue holds something, or one is out alone; lets the common case do without the lock.
    is_holding: AtomicBool,
}

impl Retries {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anything waits, so that nothing new may be sent.
    pub fn is_holding(&self) -> bool {
        self.is_holding.load(Ordering::Acquire)
    }

    /// Keeps a message that failed. The next attempt waits for the back-off from now on: all that were on their way with
    /// it are then likely back, too.
    pub fn hold(&self, failed: Failed) {
        let mut state = self.lock();
        if !failed.alone {
            state.back_off = state.back_off.max(BACK_OFF_MIN);
            state.not_before = Some(Instant::now() + state.back_off);
        }
        self.insert(&mut state, failed);
    }

    /// Puts a message back that could not be sent yet. Others may have failed meanwhile that come before it.
    pub fn put_back(&self, failed: Failed) {
        let mut state = self.lock();
        state.is_alone_out = false;
        self.insert(&mut state, failed);
    }

    /// In the ring's order: that of tickets, and of the bytes for parts of one record, which share a ticket.
    fn insert(&self, state: &mut State, failed: Failed) {
        let place = |failed: &Failed| (failed.ticket, failed.id.subject);
        let at = state.queue.partition_point(|waiting| place(waiting) <= place(&failed));
        state.queue.insert(at, failed);
        self.is_holding.store(true, Ordering::Release);
    }

    /// What becomes of the message that went out alone is known.
    pub fn settle(&self) {
        let mut state = self.lock();
        state.is_alone_out = false;
        self.is_holding.store(!state.queue.is_empty(), Ordering::Release);
    }

    /// Whether an attempt is due, and the topic that is worth a look before it. The next attempt waits longer.
    pub fn due(&self) -> Option<Due> {
        let mut state = self.lock();
        if state.not_before.is_some_and(|at| at > Instant::now()) {
            return None;
        }
        let front = state.queue.front()?;
        // A topic that rejects a batch is known.
        let suspect = (!front.alone).then(|| front.topic.clone());
        if state.not_before.take().is_some() {
            state.back_off = (state.back_off * 2).min(BACK_OFF_MAX);
        }
        Some(Due { suspect })
    }

    /// The next message to be sent, if there is one. One that must go alone is given only if `is_idle`, and then no other
    /// until [`Self::settle`].
    pub fn next(&self, is_idle: bool) -> Option<Failed> {
        let mut state = self.lock();
        let is_alone = state.queue.front()?.alone;
        if state.is_alone_out || is_alone && !is_idle {
            return None;
        }
        state.is_alone_out = is_alone;
        let next = state.queue.pop_front();
        self.is_holding.store(is_alone || !state.queue.is_empty(), Ordering::Release);
        next
    }

    /// A message was delivered: the next failure is a new one.
    pub fn relax(&self) {
        self.lock().back_off = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{Stretch, Subject, testing};

    fn failed(ticket: u64, alone: bool) -> Failed {
        Failed {
            ticket: Ticket::from_number(ticket),
            topic: "t".to_owned(),
            key: None,
            payload: vec![ticket as u8],
            id: testing::id(ticket),
            alone,
            barred: None,
        }
    }

    #[test]
    fn whatever_order_failures_come_in_they_go_out_in_the_rings() {
        let retries = Retries::default();
        assert!(!retries.is_holding());
        for ticket in [3, 1, 2, 0] {
            retries.hold(failed(ticket, true));
        }
        assert!(retries.is_holding());
        let mut order = Vec::new();
        while let Some(failed) = retries.next(true) {
            order.push(failed.ticket.number());
            assert!(retries.is_holding() && retries.next(true).is_none());
            retries.settle();
        }
        assert_eq!(order, [0, 1, 2, 3]);
        assert!(!retries.is_holding());
    }

    #[test]
    fn one_that_is_put_back_goes_behind_what_failed_meanwhile_and_comes_before_it() {
        let retries = Retries::default();
        retries.hold(failed(2, false));
        let taken = retries.next(true).unwrap();
        retries.hold(failed(1, false));
        retries.put_back(taken);
        let order: Vec<u64> = std::iter::from_fn(|| retries.next(true)).map(|f| f.ticket.number()).collect();
        assert_eq!(order, [1, 2]);
    }

    #[test]
    fn parts_of_a_record_go_in_the_order_of_their_bytes() {
        let part = |begin| {
            let stretch = Some(Stretch { begin, len: 10 });
            let subject = Subject::Bytes { sequence: 1, stretch };
            Failed { id: EventId { subject, ..testing::id(1) }, ..failed(1, false) }
        };
        let retries = Retries::default();
        [20, 0, 10].into_iter().for_each(|begin| retries.hold(part(begin)));
        let order: Vec<Failed> = std::iter::from_fn(|| retries.next(true)).collect();
        assert_eq!(order, [part(0), part(10), part(20)]);
    }

    #[test]
    fn one_that_must_go_alone_waits_until_all_is_quiet() {
        let retries = Retries::default();
        retries.hold(failed(0, true));
        assert_eq!(retries.next(false), None);
        assert_eq!(retries.next(true), Some(failed(0, true)));
    }

    #[test]
    fn attempts_back_off_and_a_delivery_ends_that() {
        let retries = Retries::default();
        retries.hold(failed(0, false));
        assert_eq!(retries.due(), None);
        assert_eq!(retries.lock().back_off, BACK_OFF_MIN);
        retries.lock().not_before = Some(Instant::now());
        assert_eq!(retries.due(), Some(Due { suspect: Some("t".to_owned()) }));
        assert_eq!(retries.lock().back_off, BACK_OFF_MIN * 2);
        for _ in 0..10 {
            retries.lock().not_before = Some(Instant::now());
            retries.due();
        }
        assert_eq!(retries.lock().back_off, BACK_OFF_MAX);
        retries.relax();
        assert_eq!(retries.lock().back_off, Duration::ZERO);
    }
}
