//! Answers to the kernel, put together on the stack or in a worker's own memory, and sent with one system call.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, time::Duration};

use fuser::FopenFlags;
use rustix::io::Errno;
use zerocopy::{Immutable, IntoBytes};

use super::{
    device::{BackingId, Connection},
    wire::{
        Attr, AttrOut, CreateOut, DIRENT_ALIGN, Dirent, DirentPlus, EntryOut, GetXattrOut, IoctlOut,
        LseekOut, OpenOut, StatFsOut, WriteOut,
    },
};

/// The answer that is due to one request. Dropped unsent, it is EIO: nobody is left waiting.
pub struct Reply<'w> {
    connection: &'w Connection,
    unique: u64,
    /// Called right before it is sent: who asked may come with the next request at once.
    before: &'w mut dyn FnMut(),
    is_due: bool,
}

impl<'w> Reply<'w> {
    /// To the request `unique`.
    pub fn new(connection: &'w Connection, unique: u64, before: &'w mut dyn FnMut()) -> Self {
        Self { connection, unique, before, is_due: true }
    }

    /// To a request to which there is none.
    pub fn none(mut self) {
        self.is_due = false;
    }

    /// With an errno.
    pub fn error(mut self, errno: Errno) {
        self.send(Err(errno));
    }

    /// With success, and nothing else.
    pub fn ok(self) {
        self.data(&[]);
    }

    /// With bytes as they are.
    pub fn data(mut self, data: &[u8]) {
        self.send(Ok([data, &[]]));
    }

    /// With a structure of the protocol.
    pub fn value(self, value: &(impl IntoBytes + Immutable)) {
        self.data(value.as_bytes());
    }

    /// With a file that was found or made; the kernel may remember its name and attributes for `lasts`.
    pub fn entry(self, attr: &Attr, lasts: Duration) {
        self.tell(attr);
        self.value(&entry(attr, lasts));
    }

    /// With attributes, which the kernel may remember for `lasts`.
    pub fn attr(self, attr: &Attr, lasts: Duration) {
        self.value(&AttrOut {
            attr_valid: lasts.as_secs(),
            attr_valid_nsec: lasts.subsec_nanos(),
            dummy: 0,
            attr: *attr,
        });
    }

    /// With what was opened.
    pub fn opened(self, handle: u64, flags: FopenFlags, backing: Option<&BackingId>) {
        self.value(&open(handle, flags, backing));
    }

    /// With what was made and opened.
    pub fn created(
        self,
        (attr, lasts): (&Attr, Duration),
        handle: u64,
        flags: FopenFlags,
        backing: Option<&BackingId>,
    ) {
        self.tell(attr);
        self.value(&CreateOut { entry: entry(attr, lasts), open: open(handle, flags, backing) });
    }

    /// With how many bytes were written.
    pub fn written(self, size: u32) {
        self.value(&WriteOut { size, padding: 0 });
    }

    /// With the size of an attribute or of their list.
    pub fn xattr_size(self, size: u32) {
        self.value(&GetXattrOut { size, padding: 0 });
    }

    /// With a place in a file.
    pub fn offset(self, offset: u64) {
        self.value(&LseekOut { offset });
    }

    /// With a filesystem's figures.
    pub fn statfs(self, figures: &StatFsOut) {
        self.value(figures);
    }

    /// With what an ioctl(2) hands back.
    pub fn ioctl(mut self, data: &[u8]) {
        // The last two are of use for unrestricted ones alone.
        let out = IoctlOut { result: 0, flags: 0, in_iovs: 1, out_iovs: u32::from(!data.is_empty()) };
        self.send(Ok([out.as_bytes(), data]));
    }

    /// With a listing.
    pub fn listing(self, listing: &Listing<'_>) {
        self.tell_files(listing);
        self.data(listing.bytes);
    }

    /// Takes note of a regular file of which the kernel is told.
    fn tell(&self, attr: &Attr) {
        if rustix::fs::FileType::from_raw_mode(attr.mode).is_file() {
            self.connection.told_of_file(attr.ino);
        }
    }

    fn tell_files(&self, listing: &Listing<'_>) {
        if let Some(node) = listing.some_file {
            self.connection.told_of_file(node);
        }
    }

    fn send(&mut self, answer: Result<[&[u8]; 2], Errno>) {
        self.is_due = false;
        (self.before)();
        match self.connection.answer(self.unique, answer) {
            // The connection was aborted.
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(errno) => {
                tracing::error!("an answer was refused by the kernel: {errno}; it is EIO instead");
                let _ = self.connection.answer(self.unique, Err(Errno::IO));
            }
        }
    }
}

impl Drop for Reply<'_> {
    fn drop(&mut self) {
        if self.is_due {
            self.send(Err(Errno::IO));
        }
    }
}

fn entry(attr: &Attr, lasts: Duration) -> EntryOut {
    EntryOut {
        nodeid: attr.ino,
        // Node ids are not used again while the kernel knows them, so all can be of one generation.
        generation: 0,
        entry_valid: lasts.as_secs(),
        attr_valid: lasts.as_secs(),
        entry_valid_nsec: lasts.subsec_nanos(),
        attr_valid_nsec: lasts.subsec_nanos(),
        attr: *attr,
    }
}

fn open(fh: u64, mut flags: FopenFlags, backing: Option<&BackingId>) -> OpenOut {
    if backing.is_some() {
        flags |= FopenFlags::FOPEN_PASSTHROUGH;
    }
    OpenOut { fh, open_flags: flags.bits(), backing_id: backing.map_or(0, BackingId::number) }
}

/// A directory's entries, as many as have been asked for.
pub struct Listing<'w> {
    bytes: &'w mut Vec<u8>,
    max: usize,
    some_file: Option<u64>,
}

impl<'w> Listing<'w> {
    /// At most `max` bytes of them, in `bytes`.
    pub fn new(bytes: &'w mut Vec<u8>, max: u32) -> Self {
        bytes.clear();
        Self { bytes, max: usize::try_from(max).unwrap_or(usize::MAX), some_file: None }
    }

    /// Adds an entry, if there is room: says whether there was. The one behind it is asked for with `next`.
    pub fn add(&mut self, ino: u64, next: u64, kind: u32, name: &OsStr) -> bool {
        self.push(&dirent(ino, next, kind, name), name)
    }

    /// Adds an entry with its attributes, if there is room, and says whether there was.
    pub fn add_plus(&mut self, attr: &Attr, next: u64, name: &OsStr, lasts: Duration) -> bool {
        let dirent = dirent(attr.ino, next, attr.mode >> 12, name);
        let has_room = self.push(&DirentPlus { entry: entry(attr, lasts), dirent }, name);
        if has_room && !lasts.is_zero() && rustix::fs::FileType::from_raw_mode(attr.mode).is_file() {
            self.some_file = Some(attr.ino);
        }
        has_room
    }

    fn push(&mut self, head: &(impl IntoBytes + Immutable), name: &OsStr) -> bool {
        let len = size_of_val(head) + name.len();
        let end = self.bytes.len() + len.next_multiple_of(DIRENT_ALIGN);
        if end > self.max {
            return false;
        }
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.resize(end, 0);
        true
    }
}

fn dirent(ino: u64, off: u64, kind: u32, name: &OsStr) -> Dirent {
    // Names are at most 255 bytes long.
    Dirent { ino, off, namelen: u32::try_from(name.len()).unwrap_or(u32::MAX), kind }
}
