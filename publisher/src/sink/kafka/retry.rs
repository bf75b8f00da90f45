//! Messages that librdkafka has given up on, but this publisher has not.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{Message as _, error::RDKafkaErrorCode, message::BorrowedMessage};

use crate::{
    delivery::{DeadLetter, EventId, NS_PER_MS, Ticket},
    sink_stats::sink_stats,
};

use super::headers::{ENCODER_HEADER, EVENT_ID_HEADER, text};

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
    /// When what it tells of happened, in milliseconds since the epoch.
    pub time_ms: u64,
    /// A batch that it was in was rejected: whether it is at fault shows when it is sent with fewer others, or alone.
    pub is_suspect: bool,
    /// The format of the payload, as the header names it.
    pub encoder: String,
    /// Only an operator can make it possible; why.
    pub barred: Option<RDKafkaErrorCode>,
}

impl Failed {
    /// What is kept of it.
    pub fn into_dead_letter(self, reason: String) -> (Ticket, DeadLetter) {
        let Self { ticket, topic, key, payload, id, time_ms, .. } = self;
        (ticket, DeadLetter { topic, key, payload, id, time_ms, reason })
    }

    /// What a report gives back of a message that failed, but for its time: librdkafka tells that of delivered ones alone. None if it
    /// has no event's id, as every message has.
    pub fn of_report(ticket: Ticket, message: &BorrowedMessage<'_>, event_ns: u64) -> Option<Self> {
        Some(Self {
            ticket,
            topic: message.topic().to_owned(),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().unwrap_or_default().to_vec(),
            id: text(message, EVENT_ID_HEADER)?.parse().ok()?,
            time_ms: event_ns / NS_PER_MS,
            is_suspect: false,
            encoder: text(message, ENCODER_HEADER).unwrap_or_default().to_owned(),
            barred: None,
        })
    }
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
    /// Of a group of suspects so many are on their way: nothing may join their batch.
    suspects_out: usize,
    /// One of them was rejected.
    is_group_rejected: bool,
    /// The most suspects that go together; 0 before the first group.
    group_max: usize,
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
        sink_stats().resent.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        if !failed.is_suspect {
            state.back_off = state.back_off.max(BACK_OFF_MIN);
            state.not_before = Some(Instant::now() + state.back_off);
        }
        self.insert(&mut state, failed);
    }

    /// Puts a message back that could not be sent yet. Others may have failed meanwhile that come before it.
    pub fn put_back(&self, failed: Failed) {
        let mut state = self.lock();
        if failed.is_suspect {
            state.suspects_out = state.suspects_out.saturating_sub(1);
        }
        self.insert(&mut state, failed);
    }

    /// A group with this suspect in it was rejected: the next one is half as large.
    pub fn hold_suspect(&self, failed: Failed) {
        sink_stats().resent.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        state.is_group_rejected = true;
        self.insert(&mut state, Failed { is_suspect: true, ..failed });
    }

    /// In the ring's order: that of tickets, and of the bytes for parts of one record, which share a ticket.
    fn insert(&self, state: &mut State, failed: Failed) {
        let place = |failed: &Failed| (failed.ticket, failed.id.subject);
        let at = state.queue.partition_point(|waiting| place(waiting) <= place(&failed));
        state.queue.insert(at, failed);
        self.is_holding.store(true, Ordering::Release);
    }

    /// What becomes of one of the suspects that went out together is known.
    pub fn settle(&self) {
        let mut state = self.lock();
        state.suspects_out = state.suspects_out.saturating_sub(1);
        if state.suspects_out == 0 && std::mem::take(&mut state.is_group_rejected) {
            state.group_max = (state.group_max / 2).max(1);
        }
        self.is_holding.store(state.suspects_out > 0 || !state.queue.is_empty(), Ordering::Release);
    }

    /// Whether an attempt is due, and the topic that is worth a look before it. The next attempt waits longer.
    pub fn due(&self) -> Option<Due> {
        let mut state = self.lock();
        if state.not_before.is_some_and(|at| at > Instant::now()) {
            return None;
        }
        let front = state.queue.front()?;
        // A topic that rejects a batch is known.
        let suspect = (!front.is_suspect).then(|| front.topic.clone());
        if state.not_before.take().is_some() {
            state.back_off = (state.back_off * 2).min(BACK_OFF_MAX);
        }
        Some(Due { suspect })
    }

    /// The messages that are to be sent next: suspects only if `is_idle`, and then no others until each was settled.
    /// Half of those that were rejected go first, then half of these if they are rejected as well: what is at fault is found
    /// in as many steps as the number of its companions can be halved.
    pub fn next(&self, is_idle: bool) -> Vec<Failed> {
        let mut state = self.lock();
        let Some(front) = state.queue.front() else { return Vec::new() };
        if state.suspects_out > 0 || front.is_suspect && !is_idle {
            return Vec::new();
        }
        let is_suspect = front.is_suspect;
        let alike = state.queue.iter().take_while(|failed| failed.is_suspect == is_suspect).count();
        if !is_suspect {
            let next = state.queue.drain(..alike).collect();
            self.is_holding.store(!state.queue.is_empty(), Ordering::Release);
            return next;
        }
        if state.group_max == 0 {
            state.group_max = alike.div_ceil(2);
        }
        let group = alike.min(state.group_max);
        state.suspects_out = group;
        state.queue.drain(..group).collect()
    }

    /// How many suspects are on their way together.
    pub fn suspects_out(&self) -> usize {
        self.lock().suspects_out
    }

    /// A message was delivered: the next failure is a new one.
    pub fn relax(&self) {
        let mut state = self.lock();
        (state.back_off, state.group_max) = (Duration::ZERO, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{Stretch, Subject, testing};

    fn failed(ticket: u64, is_suspect: bool) -> Failed {
        Failed {
            ticket: Ticket::from_number(ticket),
            topic: "t".to_owned(),
            key: None,
            payload: vec![ticket as u8],
            id: testing::id(ticket),
            time_ms: 0,
            is_suspect,
            encoder: String::new(),
            barred: None,
        }
    }

    #[test]
    fn whatever_order_failures_come_in_they_go_out_in_the_rings() {
        let retries = Retries::default();
        assert!(!retries.is_holding());
        for ticket in [3, 1, 2, 0] {
            retries.hold(failed(ticket, false));
        }
        assert!(retries.is_holding());
        let order: Vec<u64> = retries.next(false).iter().map(|failed| failed.ticket.number()).collect();
        assert_eq!(order, [0, 1, 2, 3]);
        assert!(!retries.is_holding());
    }

    #[test]
    fn one_that_is_put_back_goes_behind_what_failed_meanwhile_and_comes_before_it() {
        let retries = Retries::default();
        retries.hold(failed(2, false));
        let taken = retries.next(true).pop().unwrap();
        retries.hold(failed(1, false));
        retries.put_back(taken);
        let order: Vec<u64> = retries.next(true).iter().map(|failed| failed.ticket.number()).collect();
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
        assert_eq!(retries.next(true), [part(0), part(10), part(20)]);
    }

    #[test]
    fn suspects_wait_until_all_is_quiet_and_the_one_at_fault_is_found_by_halves() {
        const POISON: u64 = 77;
        let retries = Retries::default();
        (0..200).for_each(|ticket| retries.hold_suspect(failed(ticket, true)));
        assert_eq!(retries.next(false), []);
        let (mut taken, mut refused, mut groups) = (Vec::new(), Vec::new(), 0);
        while retries.is_holding() {
            let group = retries.next(true);
            assert!(!group.is_empty() && retries.next(true).is_empty());
            groups += 1;
            let is_rejected = group.iter().any(|failed| failed.ticket.number() == POISON);
            let is_alone = group.len() == 1;
            for failed in group {
                match (is_rejected, is_alone) {
                    (false, _) => taken.push(failed.ticket.number()),
                    (true, true) => refused.push(failed.ticket.number()),
                    (true, false) => retries.hold_suspect(failed),
                }
                retries.settle();
            }
            // Each time something is delivered.
            if !is_rejected && !retries.is_holding() {
                retries.relax();
            }
        }
        assert_eq!(refused, [POISON]);
        assert_eq!(taken, (0..200).filter(|ticket| *ticket != POISON).collect::<Vec<_>>());
        assert!(groups < 200, "{groups}");
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
