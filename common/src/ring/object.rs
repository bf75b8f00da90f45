//! The ring's objects in the filesystem: their names, attaching, locks and removal.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    unistd::geteuid,
};

use uuid::Uuid;

use crate::{status::PublisherCounter, sync::Ordering};

use super::{
    RingError, SEGMENT_DIR,
    layout::{self, Header},
    memory::{Mapping, Segments},
};

/// One generation of a ring by name.
#[derive(Clone, Debug)]
pub(super) struct Generation {
    pub(super) number: u32,
    /// Object name of the data segment.
    pub(super) data: String,
    /// Object name of the consumer segment.
    pub(super) ack: String,
}

impl Generation {
    pub(super) fn new(ring: &str, number: u32) -> Self {
        Self { number, data: format!("{ring}.{number}.ring"), ack: format!("{ring}.{number}.ack") }
    }
}

pub(super) fn path_of(object: &str) -> PathBuf {
    Path::new(SEGMENT_DIR).join(object)
}

pub(super) fn io_error(action: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> RingError {
    move |error| RingError::Io { action, path, error }
}

/// The ring's generations, oldest first.
pub(super) fn generations(ring: &str) -> Result<Vec<Generation>, RingError> {
    let listing = fs::read_dir(SEGMENT_DIR).map_err(io_error("list", SEGMENT_DIR.into()))?;
    let number = |name: &str| -> Option<u32> {
        name.strip_prefix(ring)?.strip_prefix('.')?.strip_suffix(".ring")?.parse().ok()
    };
    let mut numbers: Vec<u32> =
        listing.filter_map(|entry| number(entry.ok()?.file_name().to_str()?)).collect();
    numbers.sort_unstable();
    Ok(numbers.into_iter().map(|n| Generation::new(ring, n)).collect())
}

pub(super) fn open_object(object: &str) -> Result<File, RingError> {
    let path = path_of(object);
    let opened = OpenOptions::new().read(true).write(true).open(&path);
    opened.map_err(io_error("open", path))
}

/// Opens an object and takes the role's lock on it.
pub(super) fn lock_role(object: &str, held: impl FnOnce() -> RingError) -> Result<File, RingError> {
    let file = open_object(object)?;
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&write_lock(Claim::Role))) {
        Ok(_) => Ok(file),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(held()),
        Err(error) => Err(io_error("lock", path_of(object))(error.into())),
    }
}

/// Whether the one who holds the role says that it is at work.
pub(super) fn is_at_work(file: &File) -> bool {
    let mut found = write_lock(Claim::AtWork);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)).is_ok() && i32::from(found.l_type) != nix::libc::F_UNLCK
}

/// What a lock on an object claims: the byte of it that is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// The role itself; for as long as the process lives.
    Role = 0,
    /// That what the segment says of the role's holder is this holder's, and not a killed predecessor's.
    AtWork = 1,
}

/// Says that the role's holder is at work.
pub(super) fn claim_at_work(file: &File, object: &str) -> Result<(), RingError> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&write_lock(Claim::AtWork))) {
        Ok(_) => Ok(()),
        Err(error) => Err(io_error("lock", path_of(object))(error.into())),
    }
}

/// A write lock on the byte that stands for a claim.
pub(super) fn write_lock(claim: Claim) -> nix::libc::flock {
    nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: claim as i64,
        l_len: 1,
        l_pid: 0,
    }
}

/// Maps both segments of a generation and checks that they are what they should be.
pub(super) fn attach(
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

pub(super) fn make_read_only(mapping: &Mapping, object: &str) -> Result<(), RingError> {
    mapping.make_read_only().map_err(io_error("protect", path_of(object)))
}

/// Tail and head, if they can be true.
pub(super) fn positions(segments: &Segments) -> Option<(u64, u64)> {
    let head = segments.ack.word(layout::HEAD).load(Ordering::Acquire);
    let tail = segments.data.word(layout::TAIL).load(Ordering::Acquire);
    (head <= tail && tail - head <= segments.capacity).then_some((tail, head))
}

/// Bytes and records that are visible and not acknowledged.
pub(super) fn backlog(segments: &Segments) -> (u64, u64) {
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
pub(super) fn is_drained(generation: &Generation) -> bool {
    let Ok(file) = open_object(&generation.data) else { return false };
    let owner = file.metadata().map_or(0, |m| m.uid());
    let attached = attach(generation, &file, &[owner, 0, geteuid().as_raw()]);
    attached.ok().and_then(|(segments, _)| positions(&segments)).is_some_and(|(tail, head)| tail == head)
}

pub(super) fn remove(object: &str) -> Result<(), RingError> {
    let path = path_of(object);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// What tells this boot of the machine from all others (random(4)); zeros where the kernel does not say.
pub(super) fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Uuid::parse_str(text.trim()).unwrap_or_default().into_bytes()
}
