//! An overlay without a kernel, for [`crate::bench_support`].

use std::{ffi::OsStr, io, os::fd::OwnedFd, path::Path, sync::Arc};

use fuser::{InitFlags, OpenFlags};
use rustix::{
    fs::{Mode, OFlags, open},
    process::{getegid, geteuid},
    thread::gettid,
};
use zerocopy::IntoBytes;

use super::{
    Adapter, Connection, Negotiated,
    handshake::WRITE_BYTES_MAX,
    wire::{InHeader, Opcode, WriteIn},
};
use crate::{
    capture::Source,
    overlay::{Caller, HandleNumbers, Identity, Limits, NewMode, Opens, Overlay, Shared},
};

const LIMITS: Limits = Limits { descriptors: 64, inodes: 64 };
/// The first request of the kernel; they are even.
const UNIQUE: u64 = 2;

/// An overlay over `directory`, whose writes go to `source` and whose requests come from `device`, with a file in it that
/// is open: its node and handle.
///
/// # Errors
/// Whatever the system says.
pub fn overlay_of(
    directory: &Path,
    source: Arc<Source>,
    device: OwnedFd,
) -> io::Result<(Adapter, (u64, u64))> {
    let shared = Shared {
        identity: Identity::of_this_process(),
        handles: HandleNumbers::default(),
        opens: Opens::new(LIMITS.descriptors),
    };
    let root = open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let overlay = Overlay::over(root, directory, &shared, LIMITS)?;
    let flags = (OFlags::CREATE | OFlags::WRONLY).bits().cast_signed();
    let mode = NewMode { wanted: 0o600, mask: 0 };
    let (entry, file) = overlay.create(super::wire::ROOT, OsStr::new("file"), mode, flags, caller())?;
    let negotiated = Negotiated { max_write: WRITE_BYTES_MAX, flags: InitFlags::empty() };
    let connection = Arc::new(Connection::resume(device, negotiated));
    let adapter = Adapter::new(Arc::new(overlay), source, connection, |_| {});
    // As for an open that has come from the kernel.
    adapter.mode_of(&file, OpenFlags(flags));
    Ok((adapter, (entry.node, file.id)))
}

/// What the kernel asks when this thread writes `len` bytes to the beginning of the file of that node and handle.
pub fn write_request((nodeid, fh): (u64, u64), len: usize) -> Vec<u8> {
    let Caller { uid, gid, thread } = caller();
    let size = u32::try_from(len.min(WRITE_BYTES_MAX as usize)).unwrap_or(WRITE_BYTES_MAX);
    let bytes = size_of::<InHeader>() + size_of::<WriteIn>();
    let header = InHeader {
        len: u32::try_from(bytes).unwrap_or(0) + size,
        opcode: Opcode::Write as u32,
        unique: UNIQUE,
        nodeid,
        uid,
        gid,
        pid: thread,
        total_extlen: 0,
        padding: 0,
    };
    let how = WriteIn { fh, offset: 0, size, write_flags: 0, lock_owner: 0, flags: 0, padding: 0 };
    let data: Vec<u8> = (b' '..=b'~').cycle().take(size as usize).collect();
    [header.as_bytes(), how.as_bytes(), &data].concat()
}

fn caller() -> Caller {
    let thread = gettid().as_raw_nonzero().get().cast_unsigned();
    Caller { uid: geteuid().as_raw(), gid: getegid().as_raw(), thread }
}
