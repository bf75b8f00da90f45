//! The making of a ring, and the removal of what a making that was killed has left.
//!
//! Objects are made under names that nobody can know beforehand, and get their own once they are whole. A name that is
//! taken, by whomever, is no obstacle: another number is taken.

use std::{
    fs, io,
    os::unix::fs::{FileExt, PermissionsExt},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, RenameFlags, posix_fallocate, renameat2},
    unistd::{Gid, Group, fchown, geteuid},
};
use uuid::Uuid;

use crate::{clock::now_ns, fail_point::FailPoint};

use super::{
    config::{RingConfig, SEGMENT_DIR},
    error::RingError,
    inspect::agent_holds,
    layout::{self, Header},
    memory::{Access, create_object},
    object::{
        Claim, Claimed, Generation, Object, Role, Trust, boot_id, claim, generations, io_error, is_claimed,
        open, orphans, path_of, remove, remove_generation, taken_numbers,
    },
    status::AgentCounter,
};

/// What the name of an object ends with while it is being made.
pub(super) const TEMPORARY: &str = ".tmp";
/// So many names are tried. Only whoever guesses them all in time keeps a ring from being made.
const NAME_TRIES_MAX: u32 = 16;
/// After a name was taken at the last moment, so many numbers are chosen from.
const NUMBER_CHOICES: u32 = 1 << 16;

/// The group that may attach besides the owner, if one is configured.
///
/// # Errors
/// [`RingError::Group`] if there is no such group.
pub(super) fn group_of(config: &RingConfig) -> Result<Option<Gid>, RingError> {
    let find = |group: &String| {
        let found = Group::from_name(group).ok().flatten();
        found.map(|found| found.gid).ok_or_else(|| RingError::Group(group.clone()))
    };
    config.group.as_ref().map(find).transpose()
}

/// Gives an object of the own user's the owner and mode that the configuration asks for: the group writes what is the
/// publisher's alone.
pub(super) fn set_access(object: &Object, role: Role, group: Option<Gid>) -> Result<(), RingError> {
    let path = || path_of(&object.name);
    let set_mode = |mode| {
        let permissions = fs::Permissions::from_mode(mode);
        object.file.set_permissions(permissions).map_err(io_error("chmod", path()))
    };
    let Some(gid) = group else { return set_mode(0o600) };
    fchown(&object.file, None, Some(gid))
        .map_err(|errno| io_error("give to the group", path())(errno.into()))?;
    set_mode(match role {
        Role::Data => 0o640,
        Role::Ack => 0o660,
    })
}

/// Makes a generation behind number `above` and gives it with its data segment, on which the role's lock is held.
///
/// # Errors
/// A [`RingError`]: [`RingError::AgentHolds`] if another agent makes one at the same time. Nothing is then left behind.
pub(super) fn create(
    config: &RingConfig,
    group: Option<Gid>,
    above: u32,
) -> Result<(Generation, Object), RingError> {
    let mut making = Making::begin(config, layout::capacity(config.size.0))?;
    match making.finish(config, group, above) {
        Ok(generation) => {
            making.data.name = generation.object(Role::Data);
            Ok((generation, making.data))
        }
        Err(error) => {
            for object in [&making.ack, &making.data] {
                drop(remove(&object.name));
            }
            Err(error)
        }
    }
}

/// A ring that is being made.
struct Making {
    /// The role's lock is held on it from the beginning: nobody can see a ring that is not locked.
    data: Object,
    ack: Object,
    header: Header,
}

impl Making {
    fn begin(config: &RingConfig, capacity: u64) -> Result<Self, RingError> {
        let secret = Uuid::new_v4().simple();
        let make = |role: Role, len| {
            let name = format!("{}.{secret}{}{TEMPORARY}", config.name, role.ending());
            // Before there is a lock, another agent of this user can take it for a leftover.
            make(name, len)?.ok_or_else(|| agent_holds(&config.name))
        };
        let data = make(Role::Data, layout::RECORDS as u64 + capacity)?;
        // Before anybody else may read it, and so could be in the way.
        for what in [Claim::Role, Claim::AtWork] {
            if claim(&data, what)? != Claimed::Ours || !data.is_named() {
                return Err(agent_holds(&config.name));
            }
        }
        let ack = make(Role::Ack, layout::ACK_LEN as u64).inspect_err(|_| drop(remove(&data.name)))?;
        let header = Header {
            magic: layout::MAGIC_DATA,
            place: None,
            capacity,
            uuid: *Uuid::new_v4().as_bytes(),
            boot_id: boot_id(),
            created_ns: now_ns(),
        };
        Ok(Self { data, ack, header })
    }

    /// Fills both objects and gives them their names, the data segment last.
    fn finish(
        &mut self,
        config: &RingConfig,
        group: Option<Gid>,
        above: u32,
    ) -> Result<Generation, RingError> {
        allocate(&self.ack)?;
        allocate(&self.data)?;
        self.introduce()?;
        set_access(&self.ack, Role::Ack, group)?;
        set_access(&self.data, Role::Data, group)?;
        for tried in 0..NAME_TRIES_MAX {
            let number = free_number(&config.name, above, tried)?;
            // Behind the look at the names: another agent's may have been among them.
            if self.is_another_ahead(&config.name, above)? {
                return Err(agent_holds(&config.name));
            }
            let generation = Generation { ring: config.name.clone(), number, owner: geteuid().as_raw() };
            if self.try_names(&generation)? {
                self.refuse_others(&generation, above)?;
                return Ok(generation);
            }
        }
        let error = io::Error::new(io::ErrorKind::AlreadyExists, "somebody takes each name first");
        Err(io_error("create", path_of(&format!("{}.*{}", config.name, Role::Data.ending())))(error))
    }

    /// Tells whether the names were free.
    fn try_names(&mut self, generation: &Generation) -> Result<bool, RingError> {
        let place = Some(generation.place());
        for (object, magic) in [(&self.data, layout::MAGIC_DATA), (&self.ack, layout::MAGIC_ACK)] {
            let header = Header { magic, place, ..self.header }.encode();
            object.file.write_all_at(&header, 0).map_err(io_error("write to", path_of(&object.name)))?;
        }
        if !rename(&self.ack.name, &generation.object(Role::Ack))? {
            return Ok(false);
        }
        FailPoint::RingHalfNamed.reach();
        let temporary = std::mem::replace(&mut self.ack.name, generation.object(Role::Ack));
        if rename(&self.data.name, &generation.object(Role::Data))? {
            return Ok(true);
        }
        if rename(&self.ack.name, &temporary)? {
            self.ack.name = temporary;
        }
        Ok(false)
    }

    /// Writes down whose it is: from the first moment on that is shown as running.
    fn introduce(&self) -> Result<(), RingError> {
        let counters = [
            (AgentCounter::Pid, u64::from(std::process::id())),
            (AgentCounter::StartedNs, self.header.created_ns),
        ];
        for (counter, value) in counters {
            let at = layout::AGENT_COUNTERS + counter as usize * 8;
            let written = self.data.file.write_all_at(&value.to_ne_bytes(), at as u64);
            written.map_err(io_error("write to", path_of(&self.data.name)))?;
        }
        Ok(())
    }

    /// Whether another agent of this user has got a name already: of those that begin at once, that one goes on.
    fn is_another_ahead(&self, ring: &str, above: u32) -> Result<bool, RingError> {
        let is_held = |object: &Object| is_claimed(object, Claim::Role) && object.name != self.data.name;
        // In this order: what is half named now may have both names the next moment.
        let is_half_named = orphans(ring)?.iter().any(|orphan| {
            orphan.number > above && matches!(orphan.open(Role::Ack, Access::Read), Ok(Some(_)))
        });
        if is_half_named && temporaries(ring).any(|object| is_held(&object)) {
            return Ok(true);
        }
        let newer = newer_generations(ring, above)?;
        let mut data = newer.iter().filter_map(|newer| newer.open(Role::Data, Access::Read).ok().flatten());
        Ok(data.any(|object| is_held(&object)))
    }

    /// Withdraws if another agent has made a ring under another number at the same time.
    fn refuse_others(&self, made: &Generation, above: u32) -> Result<(), RingError> {
        for other in newer_generations(&made.ring, above)?.iter().filter(|other| *other != made) {
            let data = other.open(Role::Data, Access::Read)?;
            if data.is_some_and(|data| is_claimed(&data, Claim::Role)) {
                remove_generation(made)?;
                return Err(agent_holds(&made.ring));
            }
        }
        Ok(())
    }
}

fn newer_generations(ring: &str, above: u32) -> Result<Vec<Generation>, RingError> {
    let mut all = generations(ring, &Trust::of_agent())?;
    all.retain(|generation| generation.number > above);
    Ok(all)
}

/// A number above `above` of which no name is taken. If names were taken at the last moment before, nobody can say which.
fn free_number(ring: &str, above: u32, tried: u32) -> Result<u32, RingError> {
    let taken = taken_numbers(ring)?;
    let chance = u32::from_ne_bytes(*Uuid::new_v4().as_bytes().first_chunk().unwrap_or(&[0; 4]));
    let ahead = if tried == 0 { 0 } else { chance % NUMBER_CHOICES };
    let first = above.saturating_add(1).saturating_add(ahead);
    let free = (first..=u32::MAX).find(|number| !taken.contains(number));
    free.ok_or_else(|| {
        io_error(
            "number another generation after",
            path_of(&format!("{ring}.{above}{}", Role::Data.ending())),
        )(io::ErrorKind::AlreadyExists.into())
    })
}

/// Makes an object of the own user's; gives none if it is gone already.
fn make(name: String, len: u64) -> Result<Option<Object>, RingError> {
    let size = usize::try_from(len).map_err(|_| RingError::NoRoom { bytes: len })?;
    create_object(&name, size).map_err(io_error("create", path_of(&name)))?;
    open(name, &Trust::of_agent(), Access::Write, None)
}

/// Takes the memory for an object. Without this, the first write into a page that a full tmpfs cannot give would raise
/// SIGBUS.
fn allocate(object: &Object) -> Result<(), RingError> {
    let bytes = object.len()?;
    FailPoint::RingHalfBuilt.reach();
    posix_fallocate(&object.file, 0, bytes.cast_signed()).map_err(|errno| match errno {
        Errno::ENOSPC => RingError::NoRoom { bytes },
        other => io_error("allocate", path_of(&object.name))(other.into()),
    })
}

/// Tells whether the new name was free.
fn rename(from: &str, to: &str) -> Result<bool, RingError> {
    let to = path_of(to);
    match renameat2(AT_FDCWD, &path_of(from), AT_FDCWD, &to, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        Err(errno) => Err(io_error("create", to)(errno.into())),
    }
}

/// Data segments of the own user's that are being made, or were when their agent was killed.
fn temporaries(ring: &str) -> impl Iterator<Item = Object> {
    let ending = format!("{}{TEMPORARY}", Role::Data.ending());
    let beginning = format!("{ring}.");
    let names = fs::read_dir(SEGMENT_DIR).into_iter().flatten().filter_map(move |entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        (name.starts_with(&beginning) && name.ends_with(&ending)).then_some(name)
    });
    names.filter_map(|name| open(name, &Trust::of_agent(), Access::Write, None).ok().flatten())
}

/// Removes what an agent that was killed while it made a ring has left: nobody has its lock.
pub(super) fn remove_leftovers(ring: &str) {
    for data in temporaries(ring) {
        // Held while it is removed, so that nobody takes it for his own meanwhile.
        if matches!(claim(&data, Claim::Role), Ok(Claimed::Ours)) && data.is_named() {
            let ack = data.name.replace(Role::Data.ending(), Role::Ack.ending());
            drop([ack, data.name].map(|name| remove(&name)));
        }
    }
}

/// Removes consumer segments without a data segment, which an agent that was killed has left or somebody has made so.
/// Only for whoever holds the agent's role: nobody else of this user makes a ring then. What a publisher still drains
/// goes when the next agent starts.
pub(super) fn remove_orphans(ring: &str) {
    for generation in orphans(ring).unwrap_or_default() {
        if let Ok(Some(ack)) = generation.open(Role::Ack, Access::Read)
            && !is_claimed(&ack, Claim::Role)
        {
            drop(remove(&ack.name));
        }
    }
}
