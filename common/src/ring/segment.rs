//! The ring's objects in the filesystem: their names, their making, attaching, locks and removal.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl, posix_fallocate},
    unistd::{Group, chown, geteuid},
};
use uuid::Uuid;

use crate::{
    config::RingConfig,
    fail_point::FailPoint,
    record::LossReason,
    status::{AgentCounter, AgentStatus, Listening, PublisherCounter, PublisherStatus, read_roster},
    sync::Ordering,
};

use super::{
    Consumer, Producer, RingError, layout,
    layout::Header,
    loss,
    memory::{Mapping, Segments},
};

/// Where Linux keeps POSIX shared memory.
pub const SEGMENT_DIR: &str = super::SEGMENT_DIR_NAME;

/// One generation of a ring by name.
#[derive(Clone, Debug)]
struct Generation {
    number: u32,
    /// Object name of the data segment.
    data: String,
    /// Object name of the consumer segment.
    ack: String,
}

impl Generation {
    fn new(ring: &str, number: u32) -> Self {
        Self { number, data: format!("{ring}.{number}.ring"), ack: format!("{ring}.{number}.ack") }
    }
}

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
                    return Ok(Self::ready(name, generation.clone(), segments, producer, lock));
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
        Ok(Self::ready(name, generation, segments, producer, lock))
    }

    fn resume(
        name: &str,
        generation: &Generation,
        lock: &File,
        capacity: u64,
    ) -> Result<(Arc<Segments>, Producer), RingError> {
        let (segments, header) = attach(generation, lock, &[geteuid().as_raw()])?;
        if header.capacity != capacity {
            let what = "its size is not the configured one";
            return Err(RingError::Corrupt { name: generation.data.clone(), what });
        }
        make_read_only(&segments.ack, &generation.ack)?;
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
    ) -> Self {
        let status = AgentStatus::new(segments);
        // A killed agent has left its own.
        status.set_roster(&[]);
        status.set(AgentCounter::Pid, u64::from(std::process::id()));
        status.set(AgentCounter::StartedNs, now_ns());
        Self { producer, status, name: name.to_owned(), generation, _lock: lock }
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

    fn attach_to(name: &str, generation: &Generation, trusted: Option<u32>) -> Result<Self, RingError> {
        let lock = lock_role(&generation.ack, || publisher_holds(name))?;
        let mut owners = vec![0, geteuid().as_raw()];
        owners.extend(trusted);
        let (segments, header) = attach(generation, &open_object(&generation.data)?, &owners)?;
        make_read_only(&segments.data, &generation.data)?;
        let segments = Arc::new(segments);
        let status = PublisherStatus::new(Arc::clone(&segments));
        status.set(PublisherCounter::Pid, u64::from(std::process::id()));
        status.set(PublisherCounter::StartedNs, now_ns());
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

    /// Whether all that is in this generation is acknowledged.
    pub fn is_drained(&self) -> bool {
        positions(&self.segments).is_some_and(|(tail, head)| tail == head)
    }

    /// Bytes between the shared head and the tail, and the capacity.
    pub fn fill(&self) -> (u64, u64) {
        let (tail, head) = positions(&self.segments).unwrap_or((0, 0));
        (tail.saturating_sub(head), self.segments.capacity)
    }
}

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
    /// Lost events and bytes by reason.
    pub losses: Vec<(LossReason, u64, u64)>,
    /// What the agent listens to.
    pub roster: Vec<Listening>,
    agent: Vec<u64>,
    publisher: Vec<u64>,
}

impl Inspected {
    /// One of the agent's counters.
    pub fn agent(&self, counter: AgentCounter) -> u64 {
        self.agent.get(counter as usize).copied().unwrap_or(0)
    }

    /// One of the publisher's counters.
    pub fn publisher(&self, counter: PublisherCounter) -> u64 {
        self.publisher.get(counter as usize).copied().unwrap_or(0)
    }
}

/// Looks at a ring from outside.
///
/// # Errors
/// A [`RingError`] if it does not exist or may not be read.
pub fn inspect(name: &str) -> Result<Inspected, RingError> {
    let all = generations(name)?;
    let newest = all.last().ok_or_else(|| RingError::Missing { name: name.to_owned() })?;
    let data = open_object(&newest.data)?;
    let owners = [0, geteuid().as_raw(), data.metadata().map_or(0, |m| m.uid())];
    let (segments, header) = attach(newest, &data, &owners)?;
    make_read_only(&segments.data, &newest.data)?;
    make_read_only(&segments.ack, &newest.ack)?;
    let old = all.iter().rev().skip(1).filter_map(|old| {
        let (old, _) = attach(old, &open_object(&old.data).ok()?, &owners).ok()?;
        Some(backlog(&old))
    });
    let (used, used_records) =
        old.fold(backlog(&segments), |sum, (bytes, records)| (sum.0 + bytes, sum.1 + records));
    // The publisher may still be at an older generation.
    let publisher_running = all.iter().any(|g| open_object(&g.ack).is_ok_and(|f| is_locked(&f)));
    let segments = Arc::new(segments);
    Ok(Inspected {
        generation: newest.number,
        uuid: Uuid::from_bytes(header.uuid),
        capacity: header.capacity,
        used,
        used_records,
        agent_running: is_locked(&data),
        publisher_running,
        losses: loss::totals(&*segments),
        roster: read_roster(&segments),
        agent: AgentStatus::new(Arc::clone(&segments)).snapshot(),
        publisher: PublisherStatus::new(segments).snapshot(),
    })
}

fn path_of(object: &str) -> PathBuf {
    Path::new(SEGMENT_DIR).join(object)
}

fn io_error(action: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> RingError {
    move |error| RingError::Io { action, path, error }
}

/// The ring's generations, oldest first.
fn generations(ring: &str) -> Result<Vec<Generation>, RingError> {
    let listing = fs::read_dir(SEGMENT_DIR).map_err(io_error("list", SEGMENT_DIR.into()))?;
    let number = |name: &str| -> Option<u32> {
        name.strip_prefix(ring)?.strip_prefix('.')?.strip_suffix(".ring")?.parse().ok()
    };
    let mut numbers: Vec<u32> =
        listing.filter_map(|entry| number(entry.ok()?.file_name().to_str()?)).collect();
    numbers.sort_unstable();
    Ok(numbers.into_iter().map(|n| Generation::new(ring, n)).collect())
}

fn open_object(object: &str) -> Result<File, RingError> {
    let path = path_of(object);
    let opened = OpenOptions::new().read(true).write(true).open(&path);
    opened.map_err(io_error("open", path))
}

/// Opens an object and takes the role's lock on it.
fn lock_role(object: &str, held: impl FnOnce() -> RingError) -> Result<File, RingError> {
    let file = open_object(object)?;
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file())) {
        Ok(_) => Ok(file),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(held()),
        Err(error) => Err(io_error("lock", path_of(object))(error.into())),
    }
}

/// Whether anyone holds a role's lock on the object.
fn is_locked(file: &File) -> bool {
    let mut found = whole_file();
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)).is_ok() && i32::from(found.l_type) != nix::libc::F_UNLCK
}

/// A write lock on all of a file.
fn whole_file() -> nix::libc::flock {
    nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

fn agent_holds(name: &str) -> RingError {
    let pid = inspect(name).ok().map(|ring| ring.agent(AgentCounter::Pid));
    RingError::AgentHolds { name: name.to_owned(), pid }
}

fn publisher_holds(name: &str) -> RingError {
    let pid = inspect(name).ok().map(|ring| ring.publisher(PublisherCounter::Pid));
    RingError::PublisherHolds { name: name.to_owned(), pid }
}

/// Maps both segments of a generation and checks that they are what they should be.
fn attach(
    generation: &Generation,
    data_file: &File,
    owners: &[u32],
) -> Result<(Segments, Header), RingError> {
    let ack_file = open_object(&generation.ack)?;
    for (file, object) in [(data_file, &generation.data), (&ack_file, &generation.ack)] {
        let uid = file.metadata().map_err(io_error("examine", path_of(object)))?.uid();
        if !owners.contains(&uid) {
            let expected = owners.iter().map(|o| format!("uid {o}")).collect::<Vec<_>>().join(" or ");
            return Err(RingError::Owner { path: path_of(object), uid, expected });
        }
    }
    let (data, header) = map(&generation.data, data_file, layout::MAGIC_DATA)?;
    let (ack, ack_header) = map(&generation.ack, &ack_file, layout::MAGIC_ACK)?;
    let corrupt = |object: &str, what| Err(RingError::Corrupt { name: object.to_owned(), what });
    if data.len() as u64 != layout::RECORDS as u64 + header.capacity {
        return corrupt(&generation.data, "its length is not what its header says");
    }
    if ack.len() != layout::ACK_LEN || ack_header.uuid != header.uuid {
        return corrupt(&generation.ack, "it does not belong to its data segment");
    }
    Ok((Segments { data, ack, capacity: header.capacity }, header))
}

fn map(object: &str, file: &File, magic: [u8; 8]) -> Result<(Mapping, Header), RingError> {
    let corrupt = |what| RingError::Corrupt { name: object.to_owned(), what };
    let file_len = file.metadata().map_err(io_error("examine", path_of(object)))?.len();
    if file_len < layout::ACK_LEN as u64 {
        return Err(corrupt("it is shorter than a header"));
    }
    let mapping = Mapping::open(object).map_err(io_error("map", path_of(object)))?;
    if mapping.len() < layout::ACK_LEN {
        return Err(corrupt("it is shorter than a header"));
    }
    let mut bytes = [0; layout::HEADER_LEN];
    mapping.read(0, &mut bytes).map_err(|_| corrupt("it is shorter than a header"))?;
    let header = Header::decode(object, magic, &bytes)?;
    // What is locked and owned as wanted must be what is mapped: the name may have changed hands meanwhile.
    let mut on_file = [0; layout::HEADER_LEN];
    file.read_exact_at(&mut on_file, 0).map_err(io_error("read", path_of(object)))?;
    if on_file != bytes {
        return Err(corrupt("it was replaced while it was opened"));
    }
    Ok((mapping, header))
}

fn make_read_only(mapping: &Mapping, object: &str) -> Result<(), RingError> {
    mapping.make_read_only().map_err(io_error("protect", path_of(object)))
}

/// Tail and head, if they can be true.
fn positions(segments: &Segments) -> Option<(u64, u64)> {
    let head = segments.ack.word(layout::HEAD).load(Ordering::Acquire);
    let tail = segments.data.word(layout::TAIL).load(Ordering::Acquire);
    (head <= tail && tail - head <= segments.capacity).then_some((tail, head))
}

/// Bytes and records that are visible and not acknowledged.
fn backlog(segments: &Segments) -> (u64, u64) {
    let Some((tail, head)) = positions(segments) else { return (0, 0) };
    if tail == head {
        return (0, 0);
    }
    // The newer commit slot may be a commit ahead of the tail, which is as good for a display.
    let slot = |i| layout::COMMIT_SLOTS + i * layout::COMMIT_SLOT_LEN + 8;
    let next = (0..2).map(|i| segments.data.word(slot(i)).load(Ordering::Relaxed)).max().unwrap_or(0);
    let acked = segments.ack.word(layout::PUBLISHER_COUNTERS + PublisherCounter::AckedSequence as usize * 8);
    (tail - head, next.saturating_sub(acked.load(Ordering::Relaxed)))
}

/// Whether an older generation holds nothing more. One that cannot be read is not drained.
fn is_drained(generation: &Generation) -> bool {
    let Ok(file) = open_object(&generation.data) else { return false };
    let owner = file.metadata().map_or(0, |m| m.uid());
    let attached = attach(generation, &file, &[owner, 0, geteuid().as_raw()]);
    attached.ok().and_then(|(segments, _)| positions(&segments)).is_some_and(|(tail, head)| tail == head)
}

/// Makes a generation: built under temporary names, then renamed, the data segment last. The lock is taken before
/// anyone else can see it.
fn create(generation: &Generation, config: &RingConfig, capacity: u64) -> Result<File, RingError> {
    let group = match &config.group {
        None => None,
        Some(group) => {
            let found = Group::from_name(group).ok().flatten();
            Some(found.ok_or_else(|| RingError::Group(group.clone()))?.gid)
        }
    };
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mut header = Header {
        magic: layout::MAGIC_ACK,
        capacity,
        uuid: *Uuid::new_v4().as_bytes(),
        boot_id: Uuid::parse_str(boot_id.trim()).unwrap_or_default().into_bytes(),
        created_ns: now_ns(),
    };
    let data_len = layout::RECORDS as u64 + capacity;
    let mut lock = None;
    for (object, magic, len) in [
        (&generation.ack, layout::MAGIC_ACK, layout::ACK_LEN as u64),
        (&generation.data, layout::MAGIC_DATA, data_len),
    ] {
        header.magic = magic;
        let temporary = temporary_name(&config.name, object);
        let built = build(&temporary, len, &header, group);
        let file = built.inspect_err(|_| drop(remove(&temporary)))?;
        if magic == layout::MAGIC_DATA {
            fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file()))
                .map_err(|e| io_error("lock", path_of(&temporary))(e.into()))?;
            lock = Some(file);
        }
        publish(&temporary, object, &config.name)?;
        if magic == layout::MAGIC_ACK {
            FailPoint::RingHalfNamed.reach();
        }
    }
    // The loop's second turn has set it.
    lock.ok_or_else(|| RingError::Missing { name: config.name.clone() })
}

/// Gives a built object its name, unless another agent was faster.
fn publish(temporary: &str, object: &str, ring: &str) -> Result<(), RingError> {
    let (from, to) = (path_of(temporary), path_of(object));
    // A consumer segment without a data segment is what a killed agent left; the data segment decides.
    let flags = if object.ends_with(".ring") {
        nix::fcntl::RenameFlags::RENAME_NOREPLACE
    } else {
        nix::fcntl::RenameFlags::empty()
    };
    match nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &from, nix::fcntl::AT_FDCWD, &to, flags) {
        Ok(()) => Ok(()),
        Err(Errno::EEXIST) => {
            drop(remove(temporary));
            Err(agent_holds(ring))
        }
        Err(error) => Err(io_error("create", to)(error.into())),
    }
}

fn build(
    object: &str,
    len: u64,
    header: &Header,
    group: Option<nix::unistd::Gid>,
) -> Result<File, RingError> {
    let path = path_of(object);
    let size = usize::try_from(len).map_err(|_| RingError::NoRoom { bytes: len })?;
    let mapping = Mapping::create(object, size).map_err(io_error("create", path.clone()))?;
    let file = open_object(object)?;
    FailPoint::RingHalfBuilt.reach();
    // Without this, the first write into a page that a full tmpfs cannot give would kill the filesystem.
    posix_fallocate(&file, 0, len.cast_signed()).map_err(|errno| match errno {
        Errno::ENOSPC => RingError::NoRoom { bytes: len },
        other => io_error("allocate", path.clone())(other.into()),
    })?;
    if let Some(gid) = group {
        chown(&path, None, Some(gid)).map_err(|e| io_error("give to the group", path.clone())(e.into()))?;
        file.set_permissions(Permissions::from_mode(0o660)).map_err(io_error("chmod", path.clone()))?;
    }
    mapping
        .write(0, &header.encode())
        .map_err(|_| io_error("write to", path)(io::ErrorKind::InvalidData.into()))?;
    Ok(file)
}

fn temporary_name(ring: &str, object: &str) -> String {
    let role = object.rsplit('.').next().unwrap_or_default();
    format!("{ring}.{}.tmp-{role}", std::process::id())
}

/// Removes what an agent that was killed while it made a ring has left, if that agent is gone.
fn remove_leftovers(ring: &str) {
    let Ok(listing) = fs::read_dir(SEGMENT_DIR) else { return };
    for entry in listing.flatten() {
        let file_name = entry.file_name();
        let Some(name) = file_name.to_str() else { continue };
        let pid = name
            .strip_prefix(ring)
            .and_then(|rest| rest.strip_prefix('.'))
            .and_then(|rest| rest.strip_suffix(".tmp-ring").or_else(|| rest.strip_suffix(".tmp-ack")));
        let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if !Path::new("/proc").join(pid.to_string()).exists() || pid == std::process::id() {
            drop(remove(name));
        }
    }
}

fn remove(object: &str) -> Result<(), RingError> {
    let path = path_of(object);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

fn now_ns() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}
