//! A look at a ring from outside, for `status`.

use std::sync::Arc;

use nix::unistd::geteuid;
use uuid::Uuid;

use crate::record::LossReason;

use super::{
    attached::{backlog, look_at},
    error::RingError,
    loss,
    object::{Claim, Trust, generations, is_claimed, owners},
    status::{
        AgentCounter, AgentStatus, FIFO_SLOTS, FifoCounter, Listening, ListeningTable, PublisherCounter,
        PublisherStatus, read_listening_table,
    },
};

/// What `status` shows of a ring without taking part in it.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// Which generation the agent writes to.
    pub generation: u32,
    /// The uuid with which event ids begin.
    pub uuid: Uuid,
    /// Bytes of the record area.
    pub capacity: u64,
    /// Bytes that are visible and not acknowledged, over all generations.
    pub used: u64,
    /// Records that are visible and not acknowledged, over all generations.
    pub used_records: u64,
    /// Whether an agent holds the ring.
    pub agent_running: bool,
    /// Whether a publisher holds the ring.
    pub publisher_running: bool,
    /// Events and bytes that are not in the ring, by reason.
    pub losses: Vec<(LossReason, u64, u64)>,
    /// What the agent listens to.
    pub listening_table: Vec<Listening>,
    /// To how many things more it listens, for whose names there is no room.
    pub unlisted: usize,
    agent: Vec<u64>,
    fifos: Vec<[u64; FifoCounter::ALL.len()]>,
    publisher: Vec<u64>,
    /// The publisher's last warning, and when that was in nanoseconds since the epoch.
    pub warning: Option<(u64, String)>,
}

impl Inspected {
    /// One of the agent's counters.
    pub fn agent(&self, counter: AgentCounter) -> u64 {
        self.agent.get(counter as usize).copied().unwrap_or(0)
    }

    /// One of the counters of a FIFO.
    pub fn fifo(&self, slot: usize, counter: FifoCounter) -> u64 {
        self.fifos.get(slot).map_or(0, |counters| counters[counter as usize])
    }

    /// What the agent listens to; nothing if it was killed and left its listening table.
    pub fn listening(&self) -> impl Iterator<Item = &Listening> {
        self.listening_table.iter().filter(|_| self.agent_running)
    }

    /// What was lost: events and bytes by reason. What a quota withholds is so on purpose, and not here.
    pub fn lost(&self) -> impl Iterator<Item = &(LossReason, u64, u64)> {
        self.losses.iter().filter(|(reason, ..)| *reason != LossReason::Quota)
    }

    /// Events and bytes that quotas have withheld.
    pub fn withheld(&self) -> (u64, u64) {
        let of_quotas = self.losses.iter().find(|(reason, ..)| *reason == LossReason::Quota);
        of_quotas.map_or((0, 0), |(_, events, bytes)| (*events, *bytes))
    }

    /// One of the publisher's counters.
    pub fn publisher(&self, counter: PublisherCounter) -> u64 {
        self.publisher.get(counter as usize).copied().unwrap_or(0)
    }
}

/// Looks at a ring from outside, as whoever acts on what is seen: the ring is one that a publisher would drain.
///
/// # Errors
/// A [`RingError`] if it does not exist or may not be read.
pub fn inspect(name: &str) -> Result<Inspected, RingError> {
    inspect_trusted(name, &Trust::of_publisher(None))
}

/// Looks at a ring from outside, to show it: where root has none, root sees that of another user.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_to_show(name: &str) -> Result<Inspected, RingError> {
    match inspect(name) {
        Err(error @ RingError::Missing { .. }) => {
            let Some(owner) = other_to_show(name)? else { return Err(error) };
            tracing::warn!("the ring `{name}` is not root's but that of uid {owner}");
            inspect_trusted(name, &Trust::only(owner))
        }
        result => result,
    }
}

/// The user whose ring root is shown where it has none of that name.
///
/// # Errors
/// A [`RingError`] if the system says no.
pub(super) fn other_to_show(name: &str) -> Result<Option<u32>, RingError> {
    if geteuid().is_root() { Ok(owners(name)?.first().copied()) } else { Ok(None) }
}

fn inspect_trusted(name: &str, trust: &Trust) -> Result<Inspected, RingError> {
    let missing = || RingError::Missing { name: name.to_owned() };
    let all = generations(name, trust)?;
    let newest = all.last().ok_or_else(missing)?;
    let (opened, segments, header) = look_at(newest)?.ok_or_else(missing)?;
    // Whoever drains an older one counts there.
    let (mut at_work, mut begun) = (None, None);
    let (mut used, mut used_records) = backlog(&segments);
    for (opened, segments, _) in all.iter().rev().skip(1).filter_map(|old| look_at(old).ok().flatten()) {
        let (bytes, records) = backlog(&segments);
        (used, used_records) = (used + bytes, used_records + records);
        let segments = Arc::new(segments);
        if begun.is_none() && PublisherStatus::new(Arc::clone(&segments)).is_begun() {
            begun = Some(Arc::clone(&segments));
        }
        if is_claimed(&opened.ack, Claim::AtWork) {
            at_work = Some(segments);
        }
    }
    let is_at_newest = is_claimed(&opened.ack, Claim::AtWork);
    let publisher_running = is_at_newest || at_work.is_some();
    let segments = Arc::new(segments);
    let agent = AgentStatus::new(Arc::clone(&segments));
    let fifo = |slot| FifoCounter::ALL.map(|counter| agent.fifo(slot, counter));
    let ListeningTable { listed, unlisted } = read_listening_table(&segments);
    let of_newest = PublisherStatus::new(Arc::clone(&segments));
    // Nobody has gone on with what was counted before.
    let elsewhere = at_work.filter(|_| !is_at_newest).or(begun.filter(|_| !of_newest.is_begun()));
    let publisher = elsewhere.map_or(of_newest, PublisherStatus::new);
    Ok(Inspected {
        generation: newest.number,
        uuid: Uuid::from_bytes(header.uuid),
        capacity: header.capacity,
        used,
        used_records,
        agent_running: is_claimed(&opened.data, Claim::AtWork),
        publisher_running,
        losses: loss::totals(&*segments),
        listening_table: listed,
        unlisted,
        fifos: (0..FIFO_SLOTS).map(fifo).collect(),
        agent: agent.snapshot(),
        warning: publisher.warning(),
        publisher: publisher.snapshot(),
    })
}

/// The error that another agent holds the ring, with its process id if that can be read.
pub(super) fn agent_holds(name: &str) -> RingError {
    let pid = inspect(name).ok().map(|ring| ring.agent(AgentCounter::Pid));
    RingError::AgentHolds { name: name.to_owned(), pid }
}

/// The error that another publisher holds the ring, with its process id if that can be read.
pub(super) fn publisher_holds(name: &str) -> RingError {
    let pid = inspect(name).ok().map(|ring| ring.publisher(PublisherCounter::Pid));
    RingError::PublisherHolds { name: name.to_owned(), pid }
}
