//! The making of a ring, and the removal of what a making that was killed has left.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl, posix_fallocate},
    unistd::{Group, chown},
};
use uuid::Uuid;

use crate::{config::RingConfig, fail_point::FailPoint};

use super::{
    RingError, SEGMENT_DIR,
    layout::{self, Header},
    memory::Mapping,
    object::{Claim, Generation, boot_id, io_error, now_ns, open_object, path_of, remove, write_lock},
};

/// Makes a generation: built under temporary names, then renamed, the data segment last. The lock is taken before
/// anyone else can see it.
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
    let (ack, data) =
        (temporary_name(&config.name, &generation.ack), temporary_name(&config.name, &generation.data));
    // Both, before either has its name: where there is no room for them, nothing is left behind.
    let built = build(&ack, layout::ACK_LEN as u64, &ack_header, group)
        .and_then(|_| build(&data, layout::RECORDS as u64 + capacity, &data_header, group))
        .and_then(|file| match fcntl(&file, FcntlArg::F_OFD_SETLK(&write_lock(Claim::Role))) {
            Ok(_) => Ok(file),
            Err(error) => Err(io_error("lock", path_of(&data))(error.into())),
        });
    let lock = built.inspect_err(|_| {
        drop(remove(&ack));
        drop(remove(&data));
    })?;
    publish(&ack, &generation.ack, &config.name)?;
    FailPoint::RingHalfNamed.reach();
    publish(&data, &generation.data, &config.name)?;
    Ok(lock)
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
            Err(super::ends::agent_holds(ring))
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
pub(super) fn remove_leftovers(ring: &str) {
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
