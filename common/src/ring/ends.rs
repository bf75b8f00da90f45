//! The two ends of a ring: what an agent and what a publisher hold.

use std::{fs::File, sync::Arc};

use nix::unistd::geteuid;
use uuid::Uuid;

use crate::{
    clock::now_ns,
    config::RingConfig,
    status::{AgentCounter, AgentStatus, PublisherCounter, PublisherStatus},
};

use super::{
    Ahead, AheadSlots, Consumer, Producer, RingError,
    create::{create, remove_leftovers},
    inspect::inspect,
    layout,
    memory::{Access, Segments},
    object::{
        Generation, attach, boot_id, claim_at_work, generations, is_drained, lock_role, make_read_only,
        open_object, positions, remove,
    },
};

/// The agent's end of a ring: held exclusively until dropped.
pub struct AgentRing {
    /// Writes records.
    pub producer: Producer,
    /// The agent's counters and roster.
    pub status: AgentStatus,
    name: String,
    generation: Generation,
    _lock: File,
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
    name: String,
    generation: Generation,
    _lock: File,
}

impl AgentRing {
    /// Goes on with the ring's newest generation, or makes a new one.
    ///
    /// # Errors
    /// A [`RingError`] if another agent holds it, it belongs to someone else, or the system says no.
    pub fn open(config: &RingConfig) -> Result<Self, RingError> {
        let name = config.name.as_str();
        if !super::name_is_valid(name) {
            return Err(RingError::Name { name: name.to_owned() });
        }
        let capacity = layout::capacity(config.size.0);
        remove_leftovers(name);
        let newest = generations(name)?.pop();
        let mut previous_lock = None;
        if let Some(generation) = &newest {
            let lock = lock_role(&generation.data, || agent_holds(name))?;
            match Self::resume(name, generation, &lock, capacity) {
                Ok((segments, producer)) => {
                    return Self::ready(name, generation.clone(), segments, producer, lock);
                }
                Err(error @ (RingError::Owner { .. } | RingError::Io { .. })) => return Err(error),
                Err(error) => {
                    tracing::warn!("starting a new generation of the ring beside the old one: {error}")
                }
            }
            previous_lock = Some(lock);
        }
        let number = newest.map_or(1, |g| g.number + 1);
        let generation = Generation::new(name, number);
        let lock = create(&generation, config, capacity)?;
        drop(previous_lock);
        let (segments, producer) = Self::resume(name, &generation, &lock, capacity)?;
        Self::ready(name, generation, segments, producer, lock)
    }

    fn resume(
        name: &str,
        generation: &Generation,
        lock: &File,
        capacity: u64,
    ) -> Result<(Arc<Segments>, Producer), RingError> {
        let (segments, header) = attach(generation, lock, &[geteuid().as_raw()])?;
        if header.boot_id != boot_id() {
            return Err(RingError::OtherBoot { name: generation.data.clone() });
        }
        if header.capacity != capacity {
            let (found, wanted) = (header.capacity, capacity);
            return Err(RingError::OtherSize { name: generation.data.clone(), found, wanted });
        }
        make_read_only(&segments.ack, &generation.ack)?;
        // A writer would wait for the faults.
        segments.data.populate(Access::Write);
        let segments = Arc::new(segments);
        let producer = Producer::resume(Arc::clone(&segments), name)?;
        Ok((segments, producer))
    }

    fn ready(
        name: &str,
        generation: Generation,
        segments: Arc<Segments>,
        producer: Producer,
        lock: File,
    ) -> Result<Self, RingError> {
        let status = AgentStatus::new(segments);
        // A killed agent has left its own.
        status.set_roster(&[]);
        status.set(AgentCounter::Pid, u64::from(std::process::id()));
        status.set(AgentCounter::StartedNs, now_ns());
        claim_at_work(&lock, &generation.data)?;
        Ok(Self { producer, status, name: name.to_owned(), generation, _lock: lock })
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
        Err(RingError::Corrupt { name: self.generation.data.clone(), what })
    }

    /// Removes older generations that the publisher has drained. Call it now and then.
    ///
    /// # Errors
    /// [`RingError::Io`] if the segments' directory cannot be read or an object not be removed.
    pub fn remove_drained(&self) -> Result<(), RingError> {
        for old in generations(&self.name)? {
            if old.number < self.generation.number && is_drained(&old) {
                // The data segment first: a generation exists for as long as that does.
                for object in [&old.data, &old.ack] {
                    remove(object)?;
                }
            }
        }
        Ok(())
    }
}

impl PublisherRing {
    /// Attaches to the oldest generation that still holds something, or else to the newest.
    ///
    /// # Errors
    /// A [`RingError`]: [`RingError::Missing`] if no agent has made it yet.
    pub fn attach(name: &str, trusted_owner: Option<u32>) -> Result<Self, RingError> {
        if !super::name_is_valid(name) {
            return Err(RingError::Name { name: name.to_owned() });
        }
        let all = generations(name)?;
        for (i, generation) in all.iter().enumerate() {
            let is_newest = i + 1 == all.len();
            if !is_newest && is_drained(generation) {
                continue;
            }
            match Self::attach_to(name, generation, trusted_owner) {
                Err(error @ RingError::Corrupt { .. }) if !is_newest => {
                    tracing::error!("what an old generation of the ring held is lost: {error}");
                }
                result => return result,
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

    fn attach_to(name: &str, generation: &Generation, trusted: Option<u32>) -> Result<Self, RingError> {
        let lock = lock_role(&generation.ack, || publisher_holds(name))?;
        let mut owners = vec![0, geteuid().as_raw()];
        owners.extend(trusted);
        let (segments, header) = attach(generation, &open_object(&generation.data)?, &owners)?;
        make_read_only(&segments.data, &generation.data)?;
        segments.data.populate(Access::Read);
        let segments = Arc::new(segments);
        let status = PublisherStatus::new(Arc::clone(&segments));
        status.set(PublisherCounter::Pid, u64::from(std::process::id()));
        status.set(PublisherCounter::StartedNs, now_ns());
        claim_at_work(&lock, &generation.ack)?;
        Ok(Self {
            consumer: Consumer::attach(Arc::clone(&segments)),
            status,
            uuid: Uuid::from_bytes(header.uuid),
            segments,
            name: name.to_owned(),
            generation: generation.clone(),
            _lock: lock,
        })
    }

    /// Whether the agent writes to a newer generation, so that this one only has to be drained.
    ///
    /// # Errors
    /// [`RingError::Io`] if the segments' directory cannot be read.
    pub fn has_successor(&self) -> Result<bool, RingError> {
        Ok(generations(&self.name)?.iter().any(|g| g.number > self.generation.number))
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
