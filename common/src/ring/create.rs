//! The making of a ring, and the removal of what a making that was killed has left.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, RenameFlags, posix_fallocate, renameat2},
    unistd::{Gid, Group, chown},
};
use uuid::Uuid;

use crate::{clock::now_ns, config::RingConfig, fail_point::FailPoint};

use super::{
    RingError, SEGMENT_DIR,
    ends::agent_holds,
    layout::{self, Header},
    memory::Mapping,
    object::{Generation, boot_id, io_error, lock_role, open_object, path_of, remove},
};

/// What the name of an object ends with while it is being made.
const TEMPORARY: &str = ".tmp";

/// Makes a generation: built under temporary names, then renamed, the data segment last.
///
/// The lock is taken as soon as the data segment's temporary object exists, and everything else is done under it: of
/// several agents that begin at once, one goes on, and nobody can see a ring that is not locked.
pub(super) fn create(generation: &Generation, config: &RingConfig, capacity: u64) -> Result<File, RingError> {
    let group = match &config.group {
        None => None,
        Some(group) => {
            let found = Group::from_name(group).ok().flatten();
            Some(found.ok_or_else(|| RingError::Group(group.clone()))?.gid)
        }
    };
    let data_header = Header {
        magic: layout::MAGIC_DATA,
        capacity,
        uuid: *Uuid::new_v4().as_bytes(),
        boot_id: boot_id(),
        created_ns: now_ns(),
    };
    let ack_header = Header { magic: layout::MAGIC_ACK, ..data_header };
    let data = temporary_name(&generation.data);
    let ack = temporary_name(&generation.ack);
    let (data_mapping, lock) = claim(&data, layout::RECORDS as u64 + capacity, &config.name)?;
    let made = || {
        // Since the generations were listed, another agent may have come and gone.
        if path_of(&generation.data).exists() {
            return Err(agent_holds(&config.name));
        }
        // Both are built before either has its name: where there is no room, nothing is left behind.
        fill(&data, &data_mapping, &data_header, group)?;
        let ack_mapping = make(&ack, layout::ACK_LEN as u64)?;
        fill(&ack, &ack_mapping, &ack_header, group)?;
        rename(&ack, &generation.ack, RenameFlags::empty())?;
        FailPoint::RingHalfNamed.reach();
        rename(&data, &generation.data, RenameFlags::RENAME_NOREPLACE)
    };
    made().inspect_err(|_| drop(remove_temporary(&data)))?;
    Ok(lock)
}

/// Makes the data segment's temporary object and takes the role's lock on it.
fn claim(data: &str, len: u64, ring: &str) -> Result<(Mapping, File), RingError> {
    let mapping = match make(data, len) {
        // What a killed agent has left is removed by now: this is being made.
        Err(RingError::Io { error, .. }) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(agent_holds(ring));
        }
        mapping => mapping?,
    };
    // Before there is a lock, another agent can take the object for a leftover, and make its own.
    match lock_role(data, || agent_holds(ring)) {
        Ok(lock) if is_named(&lock, data) => Ok((mapping, lock)),
        Err(RingError::Io { error, .. }) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("lock", path_of(data))(error))
        }
        _ => Err(agent_holds(ring)),
    }
}

fn make(object: &str, len: u64) -> Result<Mapping, RingError> {
    let size = usize::try_from(len).map_err(|_| RingError::NoRoom { bytes: len })?;
    Mapping::create(object, size).map_err(io_error("create", path_of(object)))
}

/// Takes the memory for an object, and gives it its header.
fn fill(object: &str, mapping: &Mapping, header: &Header, group: Option<Gid>) -> Result<(), RingError> {
    let path = path_of(object);
    let len = mapping.len() as u64;
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
        .map_err(|_| io_error("write to", path)(io::ErrorKind::InvalidData.into()))
}

fn rename(from: &str, to: &str, flags: RenameFlags) -> Result<(), RingError> {
    let to = path_of(to);
    renameat2(AT_FDCWD, &path_of(from), AT_FDCWD, &to, flags)
        .map_err(|errno| io_error("create", to)(errno.into()))
}

fn temporary_name(object: &str) -> String {
    format!("{object}{TEMPORARY}")
}

/// Whether `file` is what goes by the name.
fn is_named(file: &File, object: &str) -> bool {
    let named = fs::metadata(path_of(object)).map(|m| (m.dev(), m.ino()));
    let opened = file.metadata().map(|m| (m.dev(), m.ino()));
    matches!((named, opened), (Ok(named), Ok(opened)) if named == opened)
}

/// Removes what an agent that was killed while it made a ring has left: nobody has its lock.
pub(super) fn remove_leftovers(ring: &str) {
    let Ok(listing) = fs::read_dir(SEGMENT_DIR) else { return };
    for entry in listing.flatten() {
        let file_name = entry.file_name();
        let Some(name) = file_name.to_str() else { continue };
        let ours = name.strip_prefix(ring).is_some_and(|rest| rest.starts_with('.'));
        if ours && name.ends_with(&temporary_name(".ring")) {
            // Held while it is removed, so that nobody takes it for his own meanwhile.
            let Ok(lock) = lock_role(name, || agent_holds(ring)) else { continue };
            if is_named(&lock, name) {
                drop(remove_temporary(name));
            }
        }
    }
}

/// Removes both temporary objects of a generation, the one with the lock last.
fn remove_temporary(data: &str) -> Result<(), RingError> {
    remove(&data.replace(".ring", ".ack"))?;
    remove(data)
}
