//! A ring that somebody cuts, damages or removes while the agent writes to it: another generation takes its place.
//!
//! The agent looks at its ring now and then ([`AgentRing::look`]). If that is of no more use, [`AgentRing::succeed`] makes
//! the next generation, which goes on with the counters and the losses of this one, and the former one is [`Retired`].
//! Its names are removed, so that nobody attaches to it any more.
//!
//! A publisher that is attached to the former one still has its memory: it reads on where that is whole, and what it
//! acknowledges is not lost. So nothing is counted before it lets go. Then what is known not to be acknowledged is
//! counted as lost ([`LossReason::RingGone`]), and announced in the ring of now:
//!
//! | still there | counted are |
//! |---|---|
//! | records and head | exactly the writes behind the head, and announcements of losses among them are made again |
//! | the head alone | records by their sequence numbers, bytes as the ring held them |
//! | the records alone, or nothing | the same, from where the head was when the ring was last seen whole: at most so many are lost |
//!
//! Of an agent that ends before a publisher has let go, nobody counts; the log says how much that is.

use std::sync::{Arc, MutexGuard, PoisonError};

use crate::{
    clock::now_ns,
    record::{Loss, LossReason, Write},
};

use super::{
    agent::AgentRing,
    error::RingError,
    kind::Kind,
    layout::{self, RECORDS},
    loss::Counted,
    object::{Claim, Role, Trust, generations, is_claimed, release, remove},
    real::Consumer,
    seen::{Seen, acknowledged},
    status::AgentCounter,
    weight::Weight,
};

/// So many bytes of a retired ring are read to count exactly: a tenth of a second.
const EXACT_BYTES_MAX: u64 = 64 << 20;

/// What a generation has handed on to its successor.
pub struct Handover {
    counted: Counted,
    counters: Vec<u64>,
}

impl AgentRing {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The generation's number.
    pub fn generation(&self) -> u32 {
        self.generation.number
    }

    /// Looks whether the ring can be gone on with. To be called now and then.
    ///
    /// # Errors
    /// [`RingError::Broken`] once somebody has cut short, overwritten or removed one of its objects: nobody will read what is
    /// written from then on.
    pub fn look(&self) -> Result<(), RingError> {
        self.check()?;
        let seen = Seen::of(&self.segments);
        // Of what was cut meanwhile, zeros were seen.
        self.check()?;
        *self.seen() = seen;
        Ok(())
    }

    fn check(&self) -> Result<(), RingError> {
        let broken = |role, what| Err(RingError::Broken { name: self.generation.object(role), what });
        for role in Role::BOTH {
            if !self.opened.object(role).is_named() {
                return broken(role, "somebody has removed it");
            }
            if !self.is_whole(role) {
                return broken(role, "another process has cut it short");
            }
        }
        match self.opened.headers() {
            Ok([data, _]) if data != self.headers[0] => broken(Role::Data, "its header was overwritten"),
            Ok([_, ack]) if ack != self.headers[1] => broken(Role::Ack, "its header was overwritten"),
            Ok(_) if !self.producer.agrees() => {
                broken(Role::Ack, "tail and head contradict each other: one was overwritten")
            }
            Ok(_) => Ok(()),
            Err(_) => broken(Role::Data, "it cannot be read"),
        }
    }

    /// Whether all of an object's memory is there.
    fn is_whole(&self, role: Role) -> bool {
        let (mapping, len) = match role {
            Role::Data => (&self.segments.data, RECORDS as u64 + self.segments.capacity),
            Role::Ack => (&self.segments.ack, layout::ACK_LEN as u64),
        };
        mapping.is_intact() && self.opened.object(role).len().is_ok_and(|found| found >= len)
    }

    /// Makes the generation that takes this one's place and goes on with its counters and losses. Those that still write
    /// to this one may do so until they know of the next; nobody else does once [`Self::retire`] was called.
    ///
    /// # Errors
    /// A [`RingError`] if it cannot be made; this one stays as it is.
    pub fn succeed(&self) -> Result<(Self, Handover), RingError> {
        let all = generations(&self.config.name, &Trust::of_agent())?;
        let newest = all.last().map_or(0, |newest| newest.number);
        let older = self.older.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let next = Self::make(&self.config, self.group, newest.max(self.generation.number), older)?;
        let counters = self.status.page();
        let counted = next.producer.take_over(&self.producer);
        next.status.set_page(&self.all_counters(&counters));
        Ok((next, Handover { counted, counters }))
    }

    /// The counters by what their page says, which begins with zeros again where it was cut off.
    fn all_counters(&self, page: &[u64]) -> Vec<u64> {
        let is_cut_off = page.get(AgentCounter::Pid as usize) == Some(&0);
        let seen = self.seen();
        let before = |i: usize| if is_cut_off { seen.counters.get(i).copied().unwrap_or(0) } else { 0 };
        page.iter().enumerate().map(|(i, now)| now.wrapping_add(before(i))).collect()
    }

    /// Takes this generation's names away and gives the role up: another one has taken its place.
    ///
    /// # Errors
    /// [`RingError::Io`] if a name cannot be removed.
    pub fn retire(&self) -> Result<(), RingError> {
        let removed = Role::BOTH.into_iter().try_for_each(|role| {
            let object = self.opened.object(role);
            if object.is_named() { remove(&object.name) } else { Ok(()) }
        });
        release(&self.opened.data);
        removed
    }

    /// Where what is not known to be acknowledged begins: its position and sequence number.
    fn acknowledged(&self) -> (u64, u64) {
        let (tail, _) = self.producer.end();
        let (head, sequence) = acknowledged(&self.segments);
        let is_possible = head <= tail && tail - head <= self.segments.capacity;
        if is_possible && self.is_whole(Role::Ack) {
            return (head, sequence);
        }
        let seen = self.seen();
        (seen.head, seen.acked_sequence)
    }

    fn is_drained(&self) -> bool {
        self.is_whole(Role::Ack) && self.acknowledged().0 == self.producer.end().0
    }

    /// What is not acknowledged.
    fn unread(&self) -> Unread {
        let (tail, next_sequence) = self.producer.end();
        let (head, acked_sequence) = self.acknowledged();
        let mut unread = Unread { first_ns: self.seen().time_ns, last_ns: now_ns(), ..Unread::default() };
        let (mut position, mut sequence) = (head, acked_sequence);
        if self.is_whole(Role::Data) && self.is_whole(Role::Ack) {
            let mut consumer = Consumer::look_from(Arc::clone(&self.segments), head);
            let mut payload = Vec::new();
            while position - head < EXACT_BYTES_MAX
                && let Ok(Some(entry)) = consumer.next(&mut payload)
            {
                unread.add(entry.kind, &payload, position == head);
                (position, sequence) = (entry.end, entry.seq + 1);
            }
        }
        unread.events += next_sequence.saturating_sub(sequence);
        unread.bytes += tail.saturating_sub(position);
        unread
    }
}

/// What is lost with a generation.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// Writes.
    pub events: u64,
    /// Their bytes.
    pub bytes: u64,
    first_ns: u64,
    last_ns: u64,
    /// Losses whose announcements were among them.
    announcements: Vec<Loss>,
}

impl Unread {
    /// Adds a record. The first one may be a later part of a write.
    fn add(&mut self, kind: Kind, payload: &[u8], is_first: bool) {
        match kind {
            Kind::Write => {
                let Ok((write, data)) = Write::decode(payload) else { return };
                self.events += u64::from(write.part == 0 || is_first);
                self.bytes += data.len() as u64;
                self.first_ns = self.first_ns.min(write.time_ns);
            }
            Kind::Lost => self.announcements.extend(Loss::decode(payload).map(|(loss, _)| loss)),
            Kind::Discarded => {}
        }
    }
}

/// A generation whose place another one has taken while it was written to.
pub struct Retired {
    ring: Arc<AgentRing>,
    handover: Option<Handover>,
}

impl Retired {
    /// The one that has handed on `handover`. `ring` may still be in use.
    pub fn new(ring: Arc<AgentRing>, handover: Handover) -> Self {
        Self { ring, handover: Some(handover) }
    }

    /// Counts in `current` what has become of this generation, if that can be said: nobody writes to it any more, and nobody
    /// reads it or it is read to its end. With `at_once`, readers are not waited for. Gives what is lost once that is counted;
    /// it is not to be called again then.
    pub fn settle(&mut self, current: &AgentRing, at_once: bool) -> Option<Unread> {
        // Whoever has it may be about to write.
        if Arc::strong_count(&self.ring) > 1 {
            return None;
        }
        if let Some(Handover { counted, counters }) = self.handover.take() {
            current.producer.add_since(&counted, &self.ring.producer);
            let now = self.ring.status.page();
            // Otherwise the page was cut off in between.
            if counters.get(AgentCounter::Pid as usize) == now.get(AgentCounter::Pid as usize) {
                current.status.add_since(&counters, &now);
            }
        }
        if self.ring.is_drained() {
            return Some(Unread::default());
        }
        if !at_once && is_claimed(&self.ring.opened.ack, Claim::Role) {
            return None;
        }
        let unread = self.ring.unread();
        current.producer.unannounce(&unread.announcements);
        if unread.events > 0 {
            let Unread { events, bytes, first_ns, last_ns, .. } = unread;
            current.producer.count_losses(LossReason::RingGone, events, Weight { bytes, time_ns: first_ns });
            current.producer.count_losses(LossReason::RingGone, 0, Weight { bytes: 0, time_ns: last_ns });
        }
        Some(unread)
    }

    /// Bytes that a publisher may still read.
    pub fn unread_bytes(&self) -> u64 {
        self.ring.producer.end().0.saturating_sub(self.ring.acknowledged().0)
    }
}
