//! The publisher's end of a ring.

use std::sync::Arc;

use uuid::Uuid;

use crate::clock::now_ns;

use super::{
    attached::{Opened, is_drained, newest_begun, positions},
    error::RingError,
    inspect::{inspect, publisher_holds},
    memory::{Access, Segments},
    object::{Claim, Claimed, Generation, Trust, claim, generations, is_claimed},
    real::Consumer,
    selective_acks::{SelectiveAck, SelectiveAckSlots},
    status::PublisherStatus,
};

/// Tells how full a ring is, from any thread.
#[derive(Clone)]
pub struct Gauge(Arc<Segments>);

impl Gauge {
    /// Bytes between the shared head and the tail.
    pub fn used(&self) -> u64 {
        positions(&self.0).map_or(0, |(tail, head)| tail - head)
    }

    /// Where the last visible record ends.
    pub fn tail(&self) -> u64 {
        positions(&self.0).map_or(0, |(tail, _)| tail)
    }

    /// Bytes of the record area.
    pub fn capacity(&self) -> u64 {
        self.0.capacity
    }
}

/// The publisher's end of one generation of a ring: held exclusively until dropped.
pub struct PublisherRing {
    /// Reads records.
    pub consumer: Consumer,
    /// The publisher's counters.
    pub status: PublisherStatus,
    /// The ring's uuid: event ids begin with it.
    pub uuid: Uuid,
    segments: Arc<Segments>,
    generation: Generation,
    trust: Trust,
    opened: Opened,
    /// The generation with whose counters it has gone on.
    carried: Option<Generation>,
}

impl PublisherRing {
    /// Attaches to the oldest generation that still holds something, or else to the newest. It is one of this user's, of
    /// root's or of `trusted_owner`'s.
    ///
    /// # Errors
    /// A [`RingError`]: [`RingError::Missing`] if no agent has made it yet.
    pub fn attach(name: &str, trusted_owner: Option<u32>) -> Result<Self, RingError> {
        if !super::config::name_is_valid(name) {
            return Err(RingError::Name { name: name.to_owned() });
        }
        let trust = Trust::of_publisher(trusted_owner);
        let all = generations(name, &trust)?;
        for (i, generation) in all.iter().enumerate() {
            let is_newest = i + 1 == all.len();
            if !is_newest && is_drained(generation) {
                continue;
            }
            match Self::attach_to(generation, &all[..i], &trust) {
                Err(error) if error.is_damage() && !is_newest => {
                    tracing::error!("what an old generation of the ring held is lost: {error}");
                }
                Ok(None) => {}
                Ok(Some(ring)) => return Ok(ring),
                Err(error) => return Err(error),
            }
        }
        Err(RingError::Missing { name: name.to_owned() })
    }

    /// Says whether another publisher is at work on the ring, without waiting or taking part.
    ///
    /// # Errors
    /// [`RingError::PublisherHolds`] if so.
    pub fn check_free(name: &str) -> Result<(), RingError> {
        match inspect(name) {
            Ok(ring) if ring.publisher_running => Err(publisher_holds(name)),
            _ => Ok(()),
        }
    }

    /// Gives none if the generation is gone. The first one to attach to a generation goes on with the counters of the `older` ones.
    fn attach_to(
        generation: &Generation,
        older: &[Generation],
        trust: &Trust,
    ) -> Result<Option<Self>, RingError> {
        let Some(opened) = Opened::open(generation, Access::Read, Access::Write)? else { return Ok(None) };
        if claim(&opened.ack, Claim::Role)? != Claimed::Ours {
            return Err(publisher_holds(&generation.ring));
        }
        let (segments, header) = opened.attach(generation, Access::Read, Access::Write)?;
        segments.data.populate(Access::Read);
        let segments = Arc::new(segments);
        let status = PublisherStatus::new(Arc::clone(&segments));
        // Before the time of the start says that this was done: a kill in between has it done again.
        let carried = if status.is_begun() { None } else { newest_begun(older) };
        let carried = carried.map(|(generation, former)| {
            status.carry_on(&former);
            generation
        });
        status.begin(std::process::id(), now_ns());
        if claim(&opened.ack, Claim::AtWork)? != Claimed::Ours {
            return Err(publisher_holds(&generation.ring));
        }
        Ok(Some(Self {
            consumer: Consumer::attach(Arc::clone(&segments)),
            status,
            uuid: Uuid::from_bytes(header.uuid),
            segments,
            generation: generation.clone(),
            trust: trust.clone(),
            opened,
            carried,
        }))
    }

    /// Goes on in the name of `former`, which this process has let go of, or is about to: nothing is counted there any more.
    pub fn go_on_for(&self, former: &Self) {
        // Of one whose names somebody has removed, the attachment knew nothing.
        if self.carried.as_ref() != Some(&former.generation) && former.generation != self.generation {
            self.status.carry_on(&former.status);
        }
        self.status.set_start(&former.status);
    }

    /// Whether an agent writes to this generation and others can attach to it, so that there is no newer one.
    pub fn has_agent(&self) -> bool {
        is_claimed(&self.opened.data, Claim::Role) && self.opened.data.is_named()
    }

    /// Whether the agent writes to a newer generation, so that this one only has to be drained.
    ///
    /// # Errors
    /// [`RingError::Io`] if the segments' directory cannot be read.
    pub fn has_successor(&self) -> Result<bool, RingError> {
        if self.has_agent() {
            return Ok(false);
        }
        let all = generations(&self.generation.ring, &self.trust)?;
        Ok(all.last().is_some_and(|newest| *newest != self.generation))
    }

    #[cfg(test)]
    pub(super) fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }

    /// Where to write down what is delivered out of turn, and what a publisher before this one has written down about what
    /// lies behind the position `delivered`, up to which everything is. To be called before anything is acknowledged.
    pub fn ahead(&self, delivered: u64) -> (SelectiveAckSlots, Vec<SelectiveAck>) {
        SelectiveAckSlots::attach(Arc::clone(&self.segments), delivered)
    }

    /// Whether all that is in this generation is acknowledged.
    pub fn is_drained(&self) -> bool {
        positions(&self.segments).is_some_and(|(tail, head)| tail == head)
    }

    /// Tells from any thread how full the ring is.
    pub fn gauge(&self) -> Gauge {
        Gauge(Arc::clone(&self.segments))
    }

    /// Bytes between the shared head and the tail, and the capacity.
    pub fn fill(&self) -> (u64, u64) {
        let (tail, head) = positions(&self.segments).unwrap_or((0, 0));
        (tail.saturating_sub(head), self.segments.capacity)
    }
}
