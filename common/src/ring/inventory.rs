//! Which rings there are in shared memory, in use or left behind, and their removal by whoever asks for it.
//!
//! An agent that stops leaves its ring: what is not delivered is in it. So nobody but an operator can say that a ring is of no use
//! any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
};

use nix::unistd::geteuid;

use super::{
    attached::{backlog, look_at},
    config::{SEGMENT_DIR, name_is_valid},
    create::TEMPORARY,
    error::RingError,
    inspect::{agent_holds, publisher_holds},
    memory::Access,
    object::{
        Claim, Claimed, Generation, Object, Role, Trust, claim, io_error, is_claimed, open, path_of, remove,
    },
    status::{AgentCounter, AgentStatus},
    waiting,
};

/// Bytes of a block of st_blocks (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// A user's ring, all its generations together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The ring's name.
    pub ring: String,
    /// The user whose ring it is.
    pub owner: u32,
    /// How many generations of it there are.
    pub generations: usize,
    /// Bytes of memory that it takes.
    pub memory_bytes: u64,
    /// Bytes in it that are not delivered.
    pub used_bytes: u64,
    /// Records in it that are not delivered.
    pub used_records: u64,
    /// The agent that holds it.
    pub agent: Option<u64>,
    /// Whether a publisher drains it.
    pub has_publisher: bool,
    /// Why what it holds is not known, where that is so.
    pub unknown: Option<String>,
}

/// What a process that was killed has left: nobody uses it, and nothing in it can be delivered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leftover {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes of memory that it takes.
    pub memory_bytes: u64,
}

/// What there is in shared memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The rings, by name and owner.
    pub rings: Vec<Listed>,
    /// What is of no use to anybody.
    pub leftovers: Vec<Leftover>,
}

/// Why a ring is not removed.
#[derive(Debug, thiserror::Error)]
pub enum NotRemoved {
    /// It is in use, or the system says no.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// Something in it is not delivered.
    #[error(
        "the ring `{ring}` holds {records} records ({bytes} bytes) that are not delivered: start the publisher to have them \
         delivered, or add --discard to throw them away"
    )]
    Undelivered {
        /// The ring's name.
        ring: String,
        /// How many they are.
        records: u64,
        /// Bytes of the ring that they take.
        bytes: u64,
    },
    /// What is in it cannot be told.
    #[error("what the ring `{ring}` holds is not known ({why}): add --discard to remove it all the same")]
    Unknown {
        /// The ring's name.
        ring: String,
        /// Why it is not known.
        why: String,
    },
}

/// The names in the directory of shared memory that are those of rings' objects: ring, number and role.
struct Names {
    objects: Vec<(String, u32, Role)>,
    others: Vec<String>,
}

fn names() -> Result<Names, RingError> {
    let mut names = Names { objects: Vec::new(), others: Vec::new() };
    for entry in fs::read_dir(SEGMENT_DIR).map_err(io_error("list", SEGMENT_DIR.into()))?.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        match object_of(&name) {
            Some(object) => names.objects.push(object),
            None if is_left(&name) => names.others.push(name),
            None => {}
        }
    }
    Ok(names)
}

fn object_of(name: &str) -> Option<(String, u32, Role)> {
    let role = Role::BOTH.into_iter().find(|role| name.ends_with(role.ending()))?;
    let (ring, digits) = name.strip_suffix(role.ending())?.split_once('.')?;
    let number = digits.parse::<u32>().ok().filter(|number| number.to_string() == digits)?;
    name_is_valid(ring).then(|| (ring.to_owned(), number, role))
}

/// Whether it is the name of something that is there for a while alone.
fn is_left(name: &str) -> bool {
    let is_of_ring = |rest: &str| rest.split_once('.').is_some_and(|(ring, _)| name_is_valid(ring));
    name.strip_suffix(waiting::ENDING).is_some_and(name_is_valid)
        || name.strip_suffix(TEMPORARY).is_some_and(|rest| {
            Role::BOTH.iter().any(|role| rest.strip_suffix(role.ending()).is_some_and(is_of_ring))
        })
}

/// The owner and the memory of what goes by a name, if this process may do anything about it.
fn seen(name: &str) -> Option<(u32, u64)> {
    let metadata = fs::symlink_metadata(path_of(name)).ok()?;
    let is_mine = geteuid().is_root() || metadata.uid() == geteuid().as_raw();
    (metadata.is_file() && is_mine).then(|| (metadata.uid(), metadata.blocks() * BLOCK_BYTES))
}

/// Looks at all rings of this user, or, as root, of all users.
///
/// # Errors
/// A [`RingError`] if the directory cannot be listed.
pub fn inventory() -> Result<Inventory, RingError> {
    let Names { objects, others } = names()?;
    let mut rings = BTreeMap::<(String, u32), Listed>::new();
    let mut whole = BTreeSet::new();
    for (ring, number, _) in objects.iter().filter(|(.., role)| *role == Role::Data) {
        let mut generation = Generation { ring: ring.clone(), number: *number, owner: 0 };
        let Some((owner, bytes)) = seen(&generation.object(Role::Data)) else { continue };
        generation.owner = owner;
        whole.insert((ring.clone(), *number));
        let listed = rings.entry((ring.clone(), owner)).or_default();
        (listed.ring, listed.owner) = (ring.clone(), owner);
        listed.generations += 1;
        listed.memory_bytes += bytes + seen(&generation.object(Role::Ack)).map_or(0, |(_, bytes)| bytes);
        add(listed, &generation);
    }
    let acks = objects.iter().filter(|(ring, number, role)| {
        let is_its = |name: &&String| name.starts_with(&format!("{ring}.")) && name.ends_with(TEMPORARY);
        let is_being_made = || others.iter().filter(is_its).any(|name| is_in_use(name));
        *role == Role::Ack && !whole.contains(&(ring.clone(), *number)) && !is_being_made()
    });
    let alone = acks.map(|(ring, number, role)| format!("{ring}.{number}{}", role.ending()));
    let mut leftovers: Vec<_> =
        alone.chain(others.iter().cloned()).filter_map(|name| leftover(&name)).collect();
    leftovers.sort();
    Ok(Inventory { rings: rings.into_values().collect(), leftovers })
}

fn add(listed: &mut Listed, generation: &Generation) {
    // The lock alone says who is there, also where nothing else can be read.
    let data = generation.open(Role::Data, Access::Read).ok().flatten();
    let has_agent = data.as_ref().is_some_and(|data| is_claimed(data, Claim::Role));
    match look_at(generation) {
        Ok(Some((opened, segments, _))) => {
            let (bytes, records) = backlog(&segments);
            listed.used_bytes += bytes;
            listed.used_records += records;
            listed.has_publisher |= is_claimed(&opened.ack, Claim::Role);
            if has_agent {
                let status = AgentStatus::new(std::sync::Arc::new(segments));
                listed.agent = status.snapshot().get(AgentCounter::Pid as usize).copied();
            }
        }
        Ok(None) => {}
        Err(error) => {
            listed.unknown = Some(error.to_string());
            listed.agent = listed.agent.or(has_agent.then_some(0));
        }
    }
}

/// Whether whoever made it still lives.
fn is_in_use(name: &str) -> bool {
    opened(name, Access::Read).is_some_and(|(object, _)| is_claimed(&object, Claim::Role))
}

fn leftover(name: &str) -> Option<Leftover> {
    let (object, memory_bytes) = opened(name, Access::Read)?;
    (!is_claimed(&object, Claim::Role)).then(|| Leftover { path: path_of(name), memory_bytes })
}

fn opened(name: &str, access: Access) -> Option<(Object, u64)> {
    let (owner, memory_bytes) = seen(name)?;
    let object = open(name.to_owned(), &Trust::only(owner), access, None).ok()??;
    Some((object, memory_bytes))
}

/// Removes what is of no use to anybody; gives what that was.
///
/// # Errors
/// A [`RingError`] if the system says no.
pub fn remove_unused() -> Result<Vec<Leftover>, RingError> {
    let mut removed = Vec::new();
    for leftover in inventory()?.leftovers {
        let name = leftover.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((object, _)) = opened(name, Access::Write) else { continue };
        // Held until it is removed, so that nobody takes it for his own meanwhile.
        if claim(&object, Claim::Role)? == Claimed::Ours && object.is_named() {
            remove(&object.name)?;
            removed.push(leftover);
        }
    }
    Ok(removed)
}

/// Removes a ring that no agent and no publisher uses: that of this user, or, as root, those of all users. What is not
/// delivered in it keeps it, unless it is to be discarded. Gives the memory that is free again, or none if there is no such ring.
///
/// # Errors
/// [`NotRemoved`]; then nothing is removed.
pub fn remove_ring(ring: &str, discard: bool) -> Result<Option<u64>, NotRemoved> {
    let listed: Vec<_> = inventory()?.rings.into_iter().filter(|listed| listed.ring == ring).collect();
    for listed in listed.iter().filter(|_| !discard) {
        let (ring, bytes) = (listed.ring.clone(), listed.used_bytes);
        match &listed.unknown {
            Some(why) => return Err(NotRemoved::Unknown { ring, why: why.clone() }),
            None if bytes > 0 => {
                return Err(NotRemoved::Undelivered { ring, records: listed.used_records, bytes });
            }
            None => {}
        }
    }
    // All of them are claimed before the first is removed.
    let mut held = Vec::new();
    for (_, number, role) in names()?.objects.into_iter().filter(|(name, ..)| name == ring) {
        let mut generation = Generation { ring: ring.to_owned(), number, owner: 0 };
        let Some((owner, _)) = seen(&generation.object(role)) else { continue };
        generation.owner = owner;
        let Some(object) = open(generation.object(role), &Trust::only(owner), Access::Write, None)? else {
            continue;
        };
        if claim(&object, Claim::Role)? != Claimed::Ours {
            return Err(match role {
                Role::Data => agent_holds(ring),
                Role::Ack => publisher_holds(ring),
            }
            .into());
        }
        held.push((role, object));
    }
    // A generation exists for as long as its data segment does.
    held.sort_by_key(|(role, _)| *role != Role::Data);
    held.iter().try_for_each(|(_, object)| remove(&object.name))?;
    Ok((!listed.is_empty()).then(|| listed.iter().map(|listed| listed.memory_bytes).sum()))
}
