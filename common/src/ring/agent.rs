//! The agent's end of a ring.

use std::{
    slice,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use nix::unistd::Gid;

use crate::clock::now_ns;

use super::{
    attached::{Opened, is_drained, newest_begun},
    config::RingConfig,
    create::{create, group_of, remove_leftovers, remove_orphans, set_access},
    error::RingError,
    inspect::agent_holds,
    layout,
    memory::{Access, Segments},
    object::{
        Claim, Claimed, Generation, Object, Role, Trust, boot_id, claim, generations, remove_generation,
    },
    real::Producer,
    seen::Seen,
    status::{AgentCounter, AgentStatus, PublisherStatus},
};

/// The agent's end of a ring: held exclusively until dropped.
pub struct AgentRing {
    /// Writes records.
    pub producer: Producer,
    /// The agent's counters and listening table.
    pub status: AgentStatus,
    pub(super) config: RingConfig,
    /// Looked up once: a name service may keep who asks waiting.
    pub(super) group: Option<Gid>,
    pub(super) generation: Generation,
    pub(super) segments: Arc<Segments>,
    /// The role's lock is held on the data segment.
    pub(super) opened: Opened,
    /// What the headers of both say, as long as nobody overwrites them.
    pub(super) headers: [[u8; layout::HEADER_LEN]; 2],
    pub(super) seen: Mutex<Seen>,
    /// Generations that may not be drained yet.
    pub(super) older: Mutex<Vec<Generation>>,
    /// Set by [`Self::populate`].
    populating: Mutex<Option<Populating>>,
}

/// A generation that is attached.
struct Attached {
    producer: Producer,
    segments: Arc<Segments>,
    opened: Opened,
}

impl AgentRing {
    /// Goes on with the ring's newest generation, or makes a new one.
    ///
    /// # Errors
    /// A [`RingError`] if another agent holds it, or the system says no.
    pub fn open(config: &RingConfig) -> Result<Self, RingError> {
        let name = config.name.as_str();
        if !super::config::name_is_valid(name) {
            return Err(RingError::Name { name: name.to_owned() });
        }
        let group = group_of(config)?;
        remove_leftovers(name);
        let mut older = generations(name, &Trust::of_agent())?;
        let newest = older.pop();
        // Held until the new one is.
        let mut previous = None;
        let mut former = None;
        if let Some(generation) = newest {
            match Self::resume(config, group, &generation)? {
                Resumed::Whole(attached) => return Self::ready(config, group, generation, *attached, older),
                Resumed::Unusable(data, error) => {
                    tracing::warn!("starting a new generation of the ring beside the old one: {error}");
                    former = Self::former(&generation, &error);
                    previous = data;
                }
            }
            older.push(generation);
        }
        let above = older.last().map_or(0, |newest| newest.number);
        let made = Self::make(config, group, above, older)?;
        if let Some(former) = former {
            made.producer.take_over(&former);
        }
        drop(previous);
        Ok(made)
    }

    /// The producer of a generation that is not gone on with, as far as that is whole: what it has counted and not announced
    /// is announced in the next.
    fn former(generation: &Generation, error: &RingError) -> Option<Producer> {
        // Of another boot's memory nobody knows what was delivered.
        if matches!(error, RingError::OtherBoot { .. }) {
            return None;
        }
        let opened = Opened::open(generation, Access::Read, Access::Read).ok()??;
        let (segments, _) = opened.attach(generation, Access::Read, Access::Read).ok()?;
        Producer::resume(Arc::new(segments), &generation.ring).ok()
    }

    /// Tells it from other rings and other generations.
    pub fn uuid(&self) -> [u8; 16] {
        layout::Header::uuid_of(&self.headers[0])
    }

    /// Whether the agent before this one had committed the record with this sequence number to the ring with this uuid. None
    /// if that is another ring, of which nothing is known here.
    pub fn had_committed(&self, ring: [u8; 16], sequence: u64) -> Option<bool> {
        (ring == self.uuid()).then(|| self.producer.had_committed(sequence))
    }

    /// Makes a generation behind number `above`.
    pub(super) fn make(
        config: &RingConfig,
        group: Option<Gid>,
        above: u32,
        older: Vec<Generation>,
    ) -> Result<Self, RingError> {
        let (generation, data) = create(config, group, above)?;
        remove_orphans(&config.name);
        let attached = Self::attach(config, group, &generation, data).map_err(|(_, error)| error)?;
        Self::ready(config, group, generation, attached, older)
    }

    /// Takes the role for a generation that is there, and goes on with it if that can be.
    fn resume(
        config: &RingConfig,
        group: Option<Gid>,
        generation: &Generation,
    ) -> Result<Resumed, RingError> {
        let Some(data) = generation.open(Role::Data, Access::Write)? else {
            return Ok(Resumed::Unusable(None, RingError::Missing { name: config.name.clone() }));
        };
        match claim(&data, Claim::Role)? {
            Claimed::Ours => {}
            Claimed::Others => return Err(agent_holds(&config.name)),
            Claimed::Blocked => {
                let error = RingError::Blocked { name: data.name };
                return Ok(Resumed::Unusable(None, error));
            }
        }
        match Self::attach(config, group, generation, data) {
            Ok(attached) => {
                // A killed agent has left its own.
                let status = AgentStatus::new(Arc::clone(&attached.segments));
                status.set_listening_table(&[]);
                status.set(AgentCounter::Pid, u64::from(std::process::id()));
                status.set(AgentCounter::StartedNs, now_ns());
                let data = attached.opened.data;
                if claim(&data, Claim::AtWork)? != Claimed::Ours {
                    let error = RingError::Blocked { name: data.name.clone() };
                    return Ok(Resumed::Unusable(Some(data), error));
                }
                let opened = Opened { data, ..attached.opened };
                Ok(Resumed::Whole(Box::new(Attached { opened, ..attached })))
            }
            Err((_, error @ (RingError::Io { .. } | RingError::Group(_)))) => Err(error),
            Err((data, error)) => Ok(Resumed::Unusable(data, error)),
        }
    }

    /// Attaches to the generation whose data segment is open; an error comes with that, as far as it is still there.
    fn attach(
        config: &RingConfig,
        group: Option<Gid>,
        generation: &Generation,
        data: Object,
    ) -> Result<Attached, (Option<Object>, RingError)> {
        let ack = match generation.open(Role::Ack, Access::Read) {
            Ok(Some(ack)) => ack,
            Ok(None) => {
                let (name, ack) = (data.name.clone(), generation.object(Role::Ack));
                return Err((Some(data), RingError::Halved { name, ack }));
            }
            Err(error) => return Err((Some(data), error)),
        };
        let opened = Opened { data, ack };
        match Self::map(config, group, generation, &opened) {
            Ok((segments, producer)) => Ok(Attached { producer, segments, opened }),
            Err(error) => Err((Some(opened.data), error)),
        }
    }

    fn map(
        config: &RingConfig,
        group: Option<Gid>,
        generation: &Generation,
        opened: &Opened,
    ) -> Result<(Arc<Segments>, Producer), RingError> {
        let (segments, header) = opened.attach(generation, Access::Write, Access::Read)?;
        let name = || opened.data.name.clone();
        if header.boot_id != boot_id() {
            return Err(RingError::OtherBoot { name: name() });
        }
        let capacity = layout::capacity(config.size.0);
        if header.capacity != capacity {
            return Err(RingError::OtherSize { name: name(), found: header.capacity, wanted: capacity });
        }
        // The configuration may have been another one when it was made.
        set_access(&opened.data, Role::Data, group)?;
        set_access(&opened.ack, Role::Ack, group)?;
        let segments = Arc::new(segments);
        let producer = Producer::resume(Arc::clone(&segments), &config.name)?;
        Ok((segments, producer))
    }

    fn ready(
        config: &RingConfig,
        group: Option<Gid>,
        generation: Generation,
        attached: Attached,
        older: Vec<Generation>,
    ) -> Result<Self, RingError> {
        let Attached { producer, segments, opened } = attached;
        Ok(Self {
            producer,
            status: AgentStatus::new(Arc::clone(&segments)),
            config: config.clone(),
            group,
            generation,
            headers: opened.headers()?,
            seen: Mutex::new(Seen::of(&segments)),
            populating: Mutex::default(),
            segments,
            opened,
            older: Mutex::new(older),
        })
    }

    /// Has a thread enter the ring's memory into the page table: a writer would wait for the faults. To be called once callers are
    /// served: 64 MiB take a CPU some 20 ms, and what else maps memory meanwhile waits for the thread.
    pub fn populate(&self) {
        let mut populating = self.populating.lock().unwrap_or_else(PoisonError::into_inner);
        populating.get_or_insert_with(|| Populating::begin(&self.segments));
    }

    /// Removes older generations that the publisher has drained, and with whose counters it has gone on. Call it now and then.
    ///
    /// # Errors
    /// [`RingError::Io`] if the segments' directory cannot be read or an object not be removed.
    pub fn remove_drained(&self) -> Result<(), RingError> {
        let mut older = self.older.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = Vec::new();
        let is_begun = PublisherStatus::new(Arc::clone(&self.segments)).is_begun();
        for old in older.drain(..) {
            let is_carried = is_begun || newest_begun(slice::from_ref(&old)).is_none();
            match is_carried && is_drained(&old) {
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
    Whole(Box<Attached>),
    /// With the data segment, if the role's lock is held on it.
    Unusable(Option<Object>, RingError),
}

/// A thread that enters the ring's memory into the page table. Whoever drops this waits for the thread: the thread's mapping holds
/// the role's lock.
struct Populating(Option<JoinHandle<()>>);

impl Populating {
    fn begin(segments: &Arc<Segments>) -> Self {
        let segments = Arc::clone(segments);
        let populate = move || segments.data.populate(Access::Write);
        // Without a thread it is left to the faults.
        Self(thread::Builder::new().name("populate".to_owned()).spawn(populate).ok())
    }
}

impl Drop for Populating {
    fn drop(&mut self) {
        // It cannot panic.
        let _ = self.0.take().map(JoinHandle::join);
    }
}
