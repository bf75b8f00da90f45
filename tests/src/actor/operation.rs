//! What can be done in a directory, and what comes of it.

use std::fmt;

use rustix::{
    fs::{AtFlags, FallocateFlags, IFlags, OFlags, RenameFlags},
    io::{Errno, ReadWriteFlags},
};
use serde::{Deserialize, Serialize};

/// The group that a tree of a test belongs to.
pub const TREE_GROUP: u32 = 3000;

/// Who does it. Each has a process of its own, but for `User`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Caller {
    /// Who runs the tests.
    Root,
    /// Root's process, with the filesystem ids of a user who has nothing but an own user and group number: so open files
    /// pass from one to the other.
    User(u32),
    /// Whose tree it is; not in the tree's group.
    Owner,
    /// In the tree's group, by a supplementary group.
    Member,
    /// Anybody else.
    Other,
}

/// What a process acts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Real, effective and saved.
    pub uid: u32,
    /// The same.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: &'static [u32],
}

impl Caller {
    /// Those with a process of their own.
    pub const PROCESSES: [Self; 4] = [Self::Root, Self::Owner, Self::Member, Self::Other];

    /// The place in `PROCESSES` of the process that acts.
    pub fn process(self) -> usize {
        match self {
            Self::Root | Self::User(_) => 0,
            Self::Owner => 1,
            Self::Member => 2,
            Self::Other => 3,
        }
    }

    /// As whom the process acts; nothing for who stays root.
    pub fn credentials(self) -> Option<Credentials> {
        let credentials = |id, groups| Some(Credentials { uid: id, gid: id, groups });
        match self {
            Self::Root | Self::User(_) => None,
            Self::Owner => credentials(1001, &[]),
            Self::Member => credentials(1002, &[TREE_GROUP]),
            Self::Other => credentials(65534, &[]),
        }
    }
}

/// One operation and who does it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// Who.
    pub caller: Caller,
    /// What.
    pub operation: Operation,
    /// Whether the times before and after are compared too. Looking at them has the kernel ask for attributes, which hides
    /// what becomes of outdated ones: so not always.
    pub is_timed: bool,
}

/// Where a seek is to go.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Seek {
    /// From the beginning.
    Start(u64),
    /// From where the file stands.
    Current(i64),
    /// From the end.
    End(i64),
    /// To the next data.
    Data(u64),
    /// To the next hole.
    Hole(u64),
}

/// A time to set.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Time {
    /// The clock's.
    Now,
    /// None.
    Omit,
    /// This one.
    At {
        /// Since 1970.
        seconds: i64,
        /// Of a second.
        nanoseconds: i64,
    },
}

/// Bytes to write: their length, and what tells them from others.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Content {
    /// What they are made of.
    pub seed: u64,
    /// How many.
    pub len: usize,
}

impl Content {
    /// The bytes.
    pub fn bytes(self) -> Vec<u8> {
        crate::harness::workload::noise(self.seed, self.len)
    }
}

/// An extended attribute's value.
#[derive(Clone, Serialize, Deserialize)]
pub enum Value {
    /// Anything.
    Noise(Content),
    /// What its name gives a meaning to, and a name for it.
    Known(String, Vec<u8>),
}

impl Value {
    /// The bytes.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Noise(content) => content.bytes(),
            Self::Known(_, bytes) => bytes.clone(),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Noise(content) => content.fmt(f),
            Self::Known(name, _) => f.write_str(name),
        }
    }
}

/// A lock to take or give back, without waiting.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Lock {
    /// With others.
    Shared,
    /// Alone.
    Exclusive,
    /// None.
    Unlock,
}

/// One operation. Paths are relative to the directory; handles are numbers of opens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Operation {
    Open {
        slot: usize,
        path: String,
        #[serde(with = "bits")]
        flags: OFlags,
        mode: u32,
    },
    OpenNameless {
        slot: usize,
        path: String,
        #[serde(with = "bits")]
        flags: OFlags,
        mode: u32,
    },
    Close {
        slot: usize,
    },
    Write {
        slot: usize,
        content: Content,
    },
    WriteAt {
        slot: usize,
        content: Content,
        offset: u64,
    },
    /// pwritev2(2); without an offset where the file stands.
    WriteWith {
        slot: usize,
        content: Content,
        offset: Option<u64>,
        #[serde(with = "bits")]
        flags: ReadWriteFlags,
    },
    Read {
        slot: usize,
        len: usize,
    },
    ReadAt {
        slot: usize,
        len: usize,
        offset: u64,
    },
    Seek {
        slot: usize,
        to: Seek,
    },
    Sync {
        slot: usize,
    },
    StatHandle {
        slot: usize,
    },
    ChmodHandle {
        slot: usize,
        mode: u32,
    },
    ChownHandle {
        slot: usize,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    TruncateHandle {
        slot: usize,
        len: u64,
    },
    Fallocate {
        slot: usize,
        #[serde(with = "bits")]
        mode: FallocateFlags,
        offset: u64,
        len: u64,
    },
    /// F_SETFL, and what F_GETFL says then.
    SetFlags {
        slot: usize,
        #[serde(with = "bits")]
        flags: OFlags,
    },
    /// FS_IOC_GETFLAGS.
    InodeFlags {
        slot: usize,
    },
    /// FS_IOC_SETFLAGS.
    SetInodeFlags {
        slot: usize,
        #[serde(with = "bits")]
        flags: IFlags,
    },
    /// Stores through a shared mapping, written down at once, and read back.
    MapStore {
        slot: usize,
        page: u64,
        content: Content,
    },
    /// Reads through a shared mapping.
    MapRead {
        slot: usize,
        page: u64,
        len: usize,
    },
    Flock {
        slot: usize,
        lock: Lock,
    },
    /// fcntl(2)'s, of the whole file.
    RecordLock {
        slot: usize,
        lock: Lock,
    },
    CopyRange {
        from: usize,
        to: usize,
        from_offset: Option<u64>,
        to_offset: Option<u64>,
        len: usize,
    },
    SendFile {
        from: usize,
        to: usize,
        offset: Option<u64>,
        len: usize,
    },
    /// A name for an open file, by its descriptor.
    LinkHandle {
        slot: usize,
        path: String,
    },
    Truncate {
        path: String,
        len: u64,
    },
    Rename {
        from: String,
        to: String,
        #[serde(with = "bits")]
        flags: RenameFlags,
    },
    Link {
        from: String,
        to: String,
        #[serde(with = "bits")]
        flags: AtFlags,
    },
    Symlink {
        target: String,
        path: String,
    },
    Readlink {
        path: String,
    },
    Unlink {
        path: String,
    },
    Mkdir {
        path: String,
        mode: u32,
    },
    Rmdir {
        path: String,
    },
    MakeFifo {
        path: String,
        mode: u32,
    },
    MakeSocket {
        path: String,
        mode: u32,
    },
    /// /dev/null's.
    MakeDevice {
        path: String,
        mode: u32,
    },
    Chmod {
        path: String,
        mode: u32,
    },
    Chown {
        path: String,
        uid: Option<u32>,
        gid: Option<u32>,
        #[serde(with = "bits")]
        flags: AtFlags,
    },
    SetTimes {
        path: String,
        accessed: Time,
        modified: Time,
        #[serde(with = "bits")]
        flags: AtFlags,
    },
    Stat {
        path: String,
        #[serde(with = "bits")]
        flags: AtFlags,
    },
    /// faccessat2(2): by the effective ids with EACCESS, by the real ones without.
    Access {
        path: String,
        mode: u8,
        #[serde(with = "bits")]
        flags: AtFlags,
    },
    SetXattr {
        path: String,
        name: String,
        value: Value,
        how: u32,
    },
    GetXattr {
        path: String,
        name: String,
        room: usize,
    },
    ListXattr {
        path: String,
    },
    RemoveXattr {
        path: String,
        name: String,
    },
    ReadDir {
        path: String,
    },
    StatFs {
        path: String,
    },
    /// From now on, of the caller's process.
    Umask {
        mask: u32,
    },
    /// RLIMIT_FSIZE, of the caller's process.
    LimitFileSize {
        bytes: Option<u64>,
    },
}

impl Operation {
    /// The paths that it names.
    pub fn paths(&self) -> Vec<&str> {
        match self {
            Self::Open { path, .. }
            | Self::OpenNameless { path, .. }
            | Self::LinkHandle { path, .. }
            | Self::Truncate { path, .. }
            | Self::Symlink { path, .. }
            | Self::Readlink { path }
            | Self::Unlink { path }
            | Self::Mkdir { path, .. }
            | Self::Rmdir { path }
            | Self::MakeFifo { path, .. }
            | Self::MakeSocket { path, .. }
            | Self::MakeDevice { path, .. }
            | Self::Chmod { path, .. }
            | Self::Chown { path, .. }
            | Self::SetTimes { path, .. }
            | Self::Stat { path, .. }
            | Self::Access { path, .. }
            | Self::SetXattr { path, .. }
            | Self::GetXattr { path, .. }
            | Self::ListXattr { path }
            | Self::RemoveXattr { path, .. }
            | Self::ReadDir { path }
            | Self::StatFs { path } => vec![path],
            Self::Rename { from, to, .. } | Self::Link { from, to, .. } => vec![from, to],
            _ => Vec::new(),
        }
    }

    /// The open file that it uses, the one that is written to where there are two.
    pub fn slot(&self) -> Option<usize> {
        match self {
            Self::Close { slot }
            | Self::Write { slot, .. }
            | Self::WriteAt { slot, .. }
            | Self::WriteWith { slot, .. }
            | Self::Read { slot, .. }
            | Self::ReadAt { slot, .. }
            | Self::Seek { slot, .. }
            | Self::Sync { slot }
            | Self::StatHandle { slot }
            | Self::ChmodHandle { slot, .. }
            | Self::ChownHandle { slot, .. }
            | Self::TruncateHandle { slot, .. }
            | Self::Fallocate { slot, .. }
            | Self::SetFlags { slot, .. }
            | Self::InodeFlags { slot }
            | Self::SetInodeFlags { slot, .. }
            | Self::MapStore { slot, .. }
            | Self::MapRead { slot, .. }
            | Self::Flock { slot, .. }
            | Self::RecordLock { slot, .. }
            | Self::LinkHandle { slot, .. }
            | Self::CopyRange { to: slot, .. }
            | Self::SendFile { to: slot, .. } => Some(*slot),
            _ => None,
        }
    }
}

/// What an operation gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    /// Nothing to tell.
    Done,
    /// There is no such handle.
    Nothing,
    /// A number.
    Number(u64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Bytes that are too many to be shown: how many, and a sum of them.
    Many(usize, u64),
    /// Names, each with a type and whether the listed inode number is the file's.
    Names(Vec<(String, String, bool)>),
    /// Attributes.
    Stat(Box<Stat>),
    /// Of statvfs(3): sizes, counts, the longest name, and the flags that matter.
    Filesystem([u64; 6]),
    /// How a program that was run ended, and what it printed.
    Ran(String, String),
}

/// What is compared of a file's attributes. Inode numbers, blocks and the times that only the clock decides are not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// Type and permissions.
    pub mode: u32,
    /// Names.
    pub links: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Of a device file, which.
    pub device: u64,
    /// Bytes.
    pub size: u64,
    /// As set by somebody; nothing if the clock has decided.
    pub modified: Option<(i64, u64)>,
}

/// The result, or the errno.
pub type Outcome = Result<Seen, Errno>;

/// What a process tells of an operation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The result, or the errno's number.
    pub result: Result<Seen, i32>,
    /// Of each file that the operation named or may have changed: whether its times of modification and change have gone
    /// on; nothing where it is not there, or another one now.
    pub touched: Vec<(String, Option<(bool, bool)>)>,
    /// Whether the process got a signal that it writes too far.
    pub is_signalled: bool,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.result {
            Ok(seen) => write!(f, "{seen:?}")?,
            Err(number) => write!(f, "{:?}", Errno::from_raw_os_error(*number))?,
        }
        if self.is_signalled {
            write!(f, ", SIGXFSZ")?;
        }
        if !self.touched.is_empty() {
            write!(f, ", (modified, changed): {:?}", self.touched)?;
        }
        Ok(())
    }
}

/// Flags as their number.
mod bits {
    use bitflags::Flags;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<F: Flags<Bits: Serialize>, S: Serializer>(flags: &F, to: S) -> Result<S::Ok, S::Error> {
        flags.bits().serialize(to)
    }

    pub fn deserialize<'d, F: Flags<Bits: Deserialize<'d>>, D: Deserializer<'d>>(
        from: D,
    ) -> Result<F, D::Error> {
        Ok(F::from_bits_retain(F::Bits::deserialize(from)?))
    }
}
