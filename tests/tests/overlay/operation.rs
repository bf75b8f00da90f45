//! What can be done in a directory, and what comes of it.

use rustix::{
    fs::{AtFlags, FallocateFlags, OFlags, RenameFlags},
    io::Errno,
};

/// Who does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Who runs the tests.
    Root,
    /// A user with nothing but an own user and group number.
    User(u32),
}

/// One operation and who does it.
#[derive(Clone, Debug)]
pub struct Step {
    pub caller: Caller,
    pub operation: Operation,
}

/// Where a seek is to go.
#[derive(Clone, Copy, Debug)]
pub enum Seek {
    Start(u64),
    Current(i64),
    End(i64),
    Data(u64),
    Hole(u64),
}

/// A time to set.
#[derive(Clone, Copy, Debug)]
pub enum Time {
    Now,
    Omit,
    At { seconds: i64, nanoseconds: i64 },
}

/// Bytes to write: their length, and what tells them from others.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    pub seed: u64,
    pub len: usize,
}

/// One operation. Paths are relative to the directory; handles are numbers of opens.
#[derive(Clone, Debug)]
pub enum Operation {
    Open { slot: usize, path: String, flags: OFlags, mode: u32 },
    Close { slot: usize },
    Write { slot: usize, content: Content },
    WriteAt { slot: usize, content: Content, offset: u64 },
    Read { slot: usize, len: usize },
    ReadAt { slot: usize, len: usize, offset: u64 },
    Seek { slot: usize, to: Seek },
    Sync { slot: usize },
    StatHandle { slot: usize },
    ChmodHandle { slot: usize, mode: u32 },
    TruncateHandle { slot: usize, len: u64 },
    Fallocate { slot: usize, mode: FallocateFlags, offset: u64, len: u64 },
    Truncate { path: String, len: u64 },
    Rename { from: String, to: String, flags: RenameFlags },
    Link { from: String, to: String, flags: AtFlags },
    Symlink { target: String, path: String },
    Readlink { path: String },
    Unlink { path: String },
    Mkdir { path: String, mode: u32 },
    Rmdir { path: String },
    MakeFifo { path: String, mode: u32 },
    MakeSocket { path: String, mode: u32 },
    Chmod { path: String, mode: u32 },
    Chown { path: String, uid: Option<u32>, gid: Option<u32>, flags: AtFlags },
    SetTimes { path: String, accessed: Time, modified: Time, flags: AtFlags },
    Stat { path: String, flags: AtFlags },
    Access { path: String, mode: u8 },
    SetXattr { path: String, name: String, value: Content, how: u32 },
    GetXattr { path: String, name: String, room: usize },
    ListXattr { path: String },
    RemoveXattr { path: String, name: String },
    ReadDir { path: String },
    StatFs { path: String },
}

/// What an operation gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Done,
    /// There is no such handle.
    Nothing,
    Number(u64),
    Bytes(Vec<u8>),
    /// Names, each with a type and whether the listed inode number is the file's.
    Names(Vec<(String, String, bool)>),
    Stat(Box<Stat>),
    Filesystem([u64; 5]),
}

/// What is compared of a file's attributes. Inode numbers, blocks and the times that only the clock decides are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub mode: u32,
    pub links: u64,
    pub uid: u32,
    pub gid: u32,
    pub device: u64,
    pub size: u64,
    /// As set by somebody; nothing if the clock has decided.
    pub modified: Option<(i64, u64)>,
}

/// The result, or the errno.
pub type Outcome = Result<Seen, Errno>;

impl Content {
    /// The bytes.
    pub fn bytes(self) -> Vec<u8> {
        bywash_tests::harness::workload::noise(self.seed, self.len)
    }
}
