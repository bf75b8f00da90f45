//! The two ends of a ring: what an agent and what a publisher hold.

use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use crate::{
    clock::now_ns,
    config::RingConfig,
    status::{AgentCounter, AgentStatus, PublisherCounter, PublisherStatus},
};

use super::{
    Ahead, AheadSlots, Consumer, Producer, RingError,
    attached::{Opened, is_drained, positions},
    create::{create, remove_leftovers, remove_orphans, set_access},
    inspect::inspect,
    layout,
    memory::{Access, Segments},
    object::{
        Claim, Claimed, Generation, Object, Role, Trust, boot_id, claim, generations, is_claimed,
        remove_generation,
    },
};

/// The agent's end of a ring: held exclusively until dropped.
pub struct AgentRing {
    /// Writes records.
    pub producer: Producer,
    /// The agent's counters and roster.
    pub status: AgentStatus,
    generation: Generation,
    /// The data segment, with the role's lock on it.
    _data: Object,
    /// Generations that may not be drained yet.
    older: Mutex<Vec<Generation>>,
}

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
}

impl AgentRing {
    /// Goes on with the ring's newest generation, or makes a new one.
    ///
    /// # Errors
    /// A [`RingError`] if another agent holds it, or the system says no.
    pub fn open(config: &RingConfig) -> Result<Self, RingError> {
        let name = config.name.as_str();
        if !super::name_is_valid(name) {
            return Err(RingError::Name { name: name.to_owned() });
        }
        remove_leftovers(name);
        let mut older = generations(name, &Trust::of_agent())?;
        let newest = older.pop();
        // Held until the new one is.
        let mut previous = None;
        if let Some(generation) = newest {
            match Self::resume(config, &generation)? {
                Resumed::Whole(data, segments, producer) => {
                    return Ok(Self::ready(generation, data, segments, *producer, older));
                }
                Resumed::Unusable(data, error) => {
                    tracing::warn!("starting a new generation of the ring beside the old one: {error}");
                    previous = data;
                }
            }
            older.push(generation);
        }
        let above = older.last().map_or(0, |newest| newest.number);
        let made = Self::make(config, above, older);
        drop(previous);
        made
    }

    /// Makes a generation behind number `above`.
    fn make(config: &RingConfig, above: u32, older: Vec<Generation>) -> Result<Self, RingError> {
        let (generation, data) = create(config, layout::capacity(config.size.0), above)?;
        remove_orphans(&config.name);
        let (segments, producer) = Self::attach(config, &generation, &data)?;
        Ok(Self::ready(generation, data, segments, producer, older))
    }

    /// Takes the role for a generation that is there, and goes on with it if that can be.
    fn resume(config: &RingConfig, generation: &Generation) -> Result<Resumed, RingError> {
        let Some(data) = generation.open(Role::Data, Access::Write)? else {
            return Ok(Resumed::Unusable(None, RingError::Missing { name: config.name.clone() }));
        };
        let blocked = || RingError::Blocked { name: data.name.clone() };
        match claim(&data, Claim::Role)? {
            Claimed::Ours => {}
            Claimed::Others => return Err(agent_holds(&config.name)),
            Claimed::Blocked => return Ok(Resumed::Unusable(None, blocked())),
        }
        match Self::attach(config, generation, &data) {
            Ok((segments, producer)) => {
                // A killed agent has left its own.
                let status = AgentStatus::new(Arc::clone(&segments));
                status.set_roster(&[]);
                status.set(AgentCounter::Pid, u64::from(std::process::id()));
                status.set(AgentCounter::StartedNs, now_ns());
                if claim(&data, Claim::AtWork)? != Claimed::Ours {
                    let error = blocked();
                    return Ok(Resumed::Unusable(Some(data), error));
                }
                Ok(Resumed::Whole(data, segments, Box::new(producer)))
            }
            Err(error @ (RingError::Io { .. } | RingError::Group(_))) => Err(error),
            Err(error) => Ok(Resumed::Unusable(Some(data), error)),
        }
    }

    fn attach(
        config: &RingConfig,
        generation: &Generation,
        data: &Object,
    ) -> Result<(Arc<Segments>, Producer), RingError> {
        let opened = Opened::with(generation, data.try_clone()?, Access::Read)?;
        let (segments, header) = opened.attach(generation, Access::Write, Access::Read)?;
        if header.boot_id != boot_id() {
            return Err(RingError::OtherBoot { name: data.name.clone() });
        }
        let capacity = layout::capacity(config.size.0);
        if header.capacity != capacity {
            let (found, wanted) = (header.capacity, capacity);
            return Err(RingError::OtherSize { name: data.name.clone(), found, wanted });
        }
        // The configuration may have been another one when it was made.
        set_access(&opened.data, Role::Data, config)?;
        set_access(&opened.ack, Role::Ack, config)?;
        // A writer would wait for the faults.
        segments.data.populate(Access::Write);
        let segments = Arc::new(segments);
        let producer = Producer::resume(Arc::clone(&segments), &config.name)?;
        Ok((segments, producer))
    }

    fn ready(
        generation: Generation,
        data: Object,
        segments: Arc<Segments>,
        producer: Producer,
        older: Vec<Generation>,
    ) -> Self {
        let status = AgentStatus::new(segments);
        Self { producer, status, generation, _data: data, older: Mutex::new(older) }
    }

    /// Whether the ring can be gone on with.
    ///
    /// # Errors
    /// [`RingError::Corrupt`] once another process has cut a segment short: what is written from then on is lost
    /// until the agent starts again and makes a new generation.
    pub fn check_intact(&self) -> Result<(), RingError> {
        if self.producer.is_intact() {
            return Ok(());
        }
        let what = "another process has cut it short";
        Err(RingError::Corrupt { name: self.generation.object(Role::Data), what })
    }

    /// Removes older generations that the publisher has drained. Call it now and then.
    ///
    /// # Errors
    /// [`RingError::Io`] if the segments' directory cannot be read or an object not be removed.
    pub fn remove_drained(&self) -> Result<(), RingError> {
        let mut older = self.older.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = Vec::new();
        for old in older.drain(..) {
            match is_drained(&old) {
                true => remove_generation(&old)?,
                false => kept.push(old),
            }
        }
        *older = kept;
        Ok(())
    }
}

/// What became of going on with a generation.
enum Resumed {
    Whole(Object, Arc<Segments>, Box<Producer>),
    /// With the data segment, if the role's lock is held on it.
    Unusable(Option<Object>, RingError),
}

impl PublisherRing {
    /// Attaches to the oldest generation that still holds something, or else to the newest. It is one of this user's, of
    /// root's or of `trusted_owner`'s.
    ///
    /// # Errors
    /// A [`RingError`]: [`RingError::Missing`] if no agent has made it yet.
    pub fn attach(name: &str, trusted_owner: Option<u32>) -> Result<Self, RingError> {
        if !super::name_is_valid(name) {
            return Err(RingError::Name { name: name.to_owned() });
        }
        let trust = Trust::of_publisher(trusted_owner);
        let all = generations(name, &trust)?;
        for (i, generation) in all.iter().enumerate() {
            let is_newest = i + 1 == all.len();
            if !is_newest && is_drained(generation) {
                continue;
            }
            match Self::attach_to(generation, &trust) {
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

    /// Gives none if the generation is gone.
    fn attach_to(generation: &Generation, trust: &Trust) -> Result<Option<Self>, RingError> {
        let Some(opened) = Opened::open(generation, Access::Read, Access::Write)? else { return Ok(None) };
        if claim(&opened.ack, Claim::Role)? != Claimed::Ours {
            return Err(publisher_holds(&generation.ring));
        }
        let (segments, header) = opened.attach(generation, Access::Read, Access::Write)?;
        segments.data.populate(Access::Read);
        let segments = Arc::new(segments);
        let status = PublisherStatus::new(Arc::clone(&segments));
        status.set(PublisherCounter::Pid, u64::from(std::process::id()));
        status.set(PublisherCounter::StartedNs, now_ns());
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
        }))
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
    pub fn ahead(&self, delivered: u64) -> (AheadSlots, Vec<Ahead>) {
        AheadSlots::attach(Arc::clone(&self.segments), delivered)
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

pub(super) fn agent_holds(name: &str) -> RingError {
    let pid = inspect(name).ok().map(|ring| ring.agent(AgentCounter::Pid));
    RingError::AgentHolds { name: name.to_owned(), pid }
}

fn publisher_holds(name: &str) -> RingError {
    let pid = inspect(name).ok().map(|ring| ring.publisher(PublisherCounter::Pid));
    RingError::PublisherHolds { name: name.to_owned(), pid }
}
