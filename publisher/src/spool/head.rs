//! Where deliveries lead: to the ring's head, or to a mark in the spool.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering, fence},
    },
};

use bywash_common::{
    ring::{Acker, PublisherRing, SelectiveAck, Skipped},
    status::{PublisherCounter, PublisherStatus},
};
use uuid::Uuid;

use crate::faults::Fault;

use super::positions::Mark;

struct State {
    /// Everything in the ring's stream before this is delivered.
    delivered: Mark,
    /// Everything in the ring's stream before this is in the spool, or was when it was delivered.
    spooled: Mark,
    /// How far the spool's oldest stream is delivered, while that is not the ring's.
    old: Option<Mark>,
    /// Damage that was passed over, by where it begins.
    passed: BTreeMap<u64, Skipped>,
    /// What of the records behind a position is delivered, in the stream that is.
    ahead: (u64, Vec<SelectiveAck>),
    /// Where the ring's head is: it never moves back, as the agent has written behind it since.
    head: u64,
}

/// The ring's head: behind everything that is delivered or safe in the spool.
pub struct Head {
    acker: Acker,
    status: PublisherStatus,
    uuid: Uuid,
    /// Without one, nothing is said of how much of an earlier one's content is delivered.
    has_spool: bool,
    /// Where the ring's head was at the start. What lies before it, and is not in the spool, was delivered before.
    start: u64,
    state: Mutex<State>,
    /// `state.spooled.end`, for the drain, which looks at each record.
    spooled_end: AtomicU64,
}

impl Head {
    /// The head of an attached ring, as it stands, of a publisher with a spool or without.
    pub fn new(ring: &PublisherRing, has_spool: bool) -> Self {
        let uuid = ring.uuid;
        let here = Mark { uuid, end: ring.consumer.position(), next_seq: 0 };
        Self {
            acker: ring.consumer.acker(),
            status: ring.status.clone(),
            uuid,
            has_spool,
            start: here.end,
            state: Mutex::new(State {
                delivered: here,
                spooled: Mark { end: 0, ..here },
                old: None,
                passed: BTreeMap::new(),
                ahead: (0, Vec::new()),
                head: here.end,
            }),
            spooled_end: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ring's uuid.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Everything before `end` is delivered.
    pub fn deliver(&self, end: u64, next_seq: Option<u64>) {
        let mut state = self.lock();
        if end > state.delivered.end {
            state.delivered = Mark { end, next_seq: next_seq.unwrap_or_default(), ..state.delivered };
        } else if let Some(next_seq) = next_seq {
            state.delivered.next_seq = next_seq;
        }
        if state.delivered.end >= state.spooled.end && state.delivered.end < self.start {
            state.delivered = Mark { end: self.start, next_seq: 0, ..state.delivered };
        }
        let delivered = state.delivered;
        state.passed.retain(|begin, skipped| skipped.end(*begin) > delivered.end);
        if self.has_spool {
            self.status.set(PublisherCounter::DeliveredEnd, delivered.end);
        }
        if delivered.end > state.spooled.end {
            self.give_back(&mut state, &delivered);
        }
    }

    /// What of the records behind `end` is delivered, before [`Self::deliver`] or [`Self::deliver_old`] moves there.
    pub fn tell_ahead(&self, end: u64, ahead: &[SelectiveAck]) {
        let mut state = self.lock();
        state.ahead.0 = end;
        state.ahead.1.clear();
        state.ahead.1.extend_from_slice(ahead);
    }

    /// A restart found that this much was delivered before, though the ring's head says less or more.
    pub fn resume(&self, delivered: Mark) {
        self.lock().delivered = delivered;
    }

    /// What is passed over of damage at `begin`: what the first of the ring's readers does that finds it, as `skip` says. So what one of
    /// them announces and what the other one keeps are the same. None if what is there is delivered or in the spool: the agent may
    /// have written over it, and nothing is damaged.
    pub fn pass(&self, begin: u64, skip: impl FnOnce() -> Skipped) -> Option<Skipped> {
        let mut state = self.lock();
        if begin < state.delivered.end.max(state.spooled.end) {
            return None;
        }
        Some(*state.passed.entry(begin).or_insert_with(skip))
    }

    /// Everything before the mark is in the spool.
    pub fn spool(&self, mark: Mark) {
        let mut state = self.lock();
        state.spooled = mark;
        // SYNC spooled: before the agent may write there; pairs with the fence in `spooled_end`.
        self.spooled_end.store(mark.end, Ordering::Release);
        if mark.end > state.delivered.end {
            self.give_back(&mut state, &mark);
        }
    }

    /// How far the old stream is delivered, or that there is none any more.
    pub fn deliver_old(&self, mark: Option<Mark>) {
        let mut state = self.lock();
        if state.old.map(|old| old.uuid) != mark.map(|mark| mark.uuid) {
            // Of another stream.
            state.ahead.1.clear();
        }
        state.old = mark;
    }

    fn give_back(&self, state: &mut State, mark: &Mark) {
        if mark.end <= state.head && !Fault::HeadMovesBack.is_back() {
            return;
        }
        state.head = mark.end;
        if mark.next_seq > 0 {
            self.status.set(PublisherCounter::AckedSequence, mark.next_seq);
        }
        self.acker.ack(mark.end);
    }

    /// Whether everything before `end` is delivered or in the spool.
    pub fn is_safe(&self, end: u64) -> bool {
        self.lock().head >= end
    }

    /// Where the ring begins behind the spool's part of the stream.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Where the spool's part of the stream ends. Asked after a record was read from the ring: if it is behind where the
    /// record began, the agent may have overwritten the record meanwhile.
    pub fn spooled_end(&self) -> u64 {
        // SYNC spooled: what was read before is not read later than this.
        fence(Ordering::Acquire);
        self.spooled_end.load(Ordering::Acquire)
    }

    /// How far the stream is in the spool.
    pub fn spooled(&self) -> Mark {
        self.lock().spooled
    }

    /// Up to where the ring's stream is delivered.
    pub fn delivered(&self) -> Mark {
        self.lock().delivered
    }

    /// How far the spool's oldest stream is delivered, and what of it behind that.
    pub fn oldest(&self) -> (Mark, Vec<SelectiveAck>) {
        let state = self.lock();
        let mark = state.old.unwrap_or(state.delivered);
        let (end, ahead) = &state.ahead;
        (mark, if *end == mark.end { ahead.clone() } else { Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use bywash_common::ring::{Kind, Weight};

    use super::*;
    use crate::{delivery::testing::TestRing, faults::testing::put_back};

    /// How many bytes of a ring are in use that were all delivered, once the spool turns out to end before the ring's head.
    fn used_behind_the_spool(name: &str) -> u64 {
        let test = TestRing::new(name);
        let mut ends = Vec::new();
        let ring = PublisherRing::attach(&test.name, None).unwrap();
        let mut reader = ring.consumer.another();
        for _ in 0..3 {
            let weight = Weight { bytes: 1, time_ns: 1 };
            test.agent.producer.push(Kind::Write, &[b"a record"], weight).unwrap();
            ends.push(reader.next(&mut Vec::new()).unwrap().unwrap().end);
        }
        let head = Head::new(&ring, true);
        head.deliver(ends[2], Some(3));
        let mark = |end| Mark { uuid: head.uuid(), end, next_seq: 0 };
        head.resume(mark(ends[0]));
        head.spool(mark(ends[1]));
        ring.gauge().used()
    }

    #[test]
    fn the_shared_head_never_moves_back() {
        assert_eq!(used_behind_the_spool("head"), 0);
        put_back(Some(Fault::HeadMovesBack));
        let used = used_behind_the_spool("head-back");
        put_back(None);
        assert!(used > 0);
    }
}
