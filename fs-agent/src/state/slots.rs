//! What is in the slots of each table.

use super::table::Slot;
use crate::sys::{FileHandle, HANDLE_BYTES_MAX};

/// What the kernel calls an overlay's root: FUSE_ROOT_ID of linux/fuse.h.
pub const ROOT: u64 = 1;

/// The most bytes of a name: NAME_MAX of linux/limits.h. A few filesystems have longer ones: a file is not found again by those.
pub const NAME_BYTES_MAX: usize = 255;

/// The time of birth of what has none.
const UNBORN: u64 = 1 << 63;

/// Words of a node's slot.
pub mod node {
    pub const ID: usize = 0;
    pub const DEV: usize = 1;
    pub const INO: usize = 2;
    pub const BIRTH: usize = 3;
    pub const IS_DIR: usize = 4;
    pub const LOOKUPS: usize = 5;
    pub const SIZE_LEAST: usize = 6;
    pub const SIZE_MOST: usize = 7;
    pub const MODE: usize = 8;
    /// Length and kind of the file handle; 0 for none.
    pub const HANDLE: usize = 9;
    pub const HANDLE_BYTES: usize = 10;
    /// Who has had the kernel told of it.
    pub const UID: usize = 26;
    pub const WORDS: usize = 32;
}

/// Words of a link's slot.
pub mod link {
    /// The slot of the file's node, counted from 1.
    pub const NODE: usize = 0;
    /// The slot of the directory's node, counted from 1.
    pub const PARENT: usize = 1;
    pub const ID: usize = 2;
    pub const ORDER: usize = 3;
    pub const IS_LIVE: usize = 4;
    /// Whether the kernel was told to remember it: 0 if never. Versions before this one have the time there, in milliseconds
    /// of the monotonic clock.
    pub const TOLD: usize = 5;
    /// To those it has been told just now, whenever they look.
    pub const IS_TOLD: u64 = u64::MAX;
    pub const NAME_LEN: usize = 6;
    pub const NAME: usize = 7;
    /// Who has had the kernel told of it.
    pub const UID: usize = 39;
    pub const WORDS: usize = 40;
}

/// Words of an open file's slot.
pub mod handle {
    pub const ID: usize = 0;
    /// The slot of the file's node, counted from 1.
    pub const NODE: usize = 1;
    pub const FLAGS: usize = 2;
    /// Of who has opened it: user and group.
    pub const OPENER: usize = 3;
    /// The name by which it was opened; 0 for none.
    pub const LINK: usize = 4;
    /// Whether that name is sure.
    pub const IS_SURE: usize = 5;
    pub const NOTE: usize = 6;
    pub const WORDS: usize = 8;
}

/// Words of an open directory's slot.
pub mod dir {
    pub const ID: usize = 0;
    /// The slot of the directory's node, counted from 1.
    pub const NODE: usize = 1;
    pub const UID: usize = 2;
    pub const WORDS: usize = 4;
}

/// What the state says of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// What the kernel calls it.
    pub id: u64,
    /// Its device.
    pub dev: u64,
    /// Its inode number.
    pub ino: u64,
    /// When it came into being.
    pub birth: Birth,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// When a file came into being.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Birth {
    /// In nanoseconds since the epoch, as its filesystem says it.
    At(u64),
    /// A number in place of that.
    Unknown(u64),
}

impl Birth {
    fn to_word(self) -> u64 {
        match self {
            Self::At(ns) => ns & !UNBORN,
            Self::Unknown(number) => number | UNBORN,
        }
    }

    fn of_word(word: u64) -> Self {
        if word & UNBORN == 0 { Self::At(word) } else { Self::Unknown(word & !UNBORN) }
    }

    /// The number that tells the file from others.
    pub fn number(self) -> u64 {
        match self {
            Self::At(number) | Self::Unknown(number) => number,
        }
    }
}

impl NodeFacts {
    /// Fills `slot`, which is valid afterwards. The kernel is then told of the node once, but for the root.
    pub fn fill(&self, slot: &Slot, size: u64, lookups: u64) {
        slot.set(node::DEV, self.dev);
        slot.set(node::INO, self.ino);
        slot.set(node::BIRTH, self.birth.to_word());
        slot.set(node::IS_DIR, self.is_dir.into());
        slot.set(node::LOOKUPS, lookups);
        slot.set(node::SIZE_LEAST, size);
        slot.set(node::SIZE_MOST, size);
        slot.set(node::MODE, 0);
        slot.set(node::HANDLE, 0);
        slot.set(node::ID, self.id);
    }

    /// What `slot` says.
    pub fn of(slot: &Slot) -> Self {
        Self {
            id: slot.get(node::ID),
            dev: slot.get(node::DEV),
            ino: slot.get(node::INO),
            birth: Birth::of_word(slot.get(node::BIRTH)),
            is_dir: slot.get(node::IS_DIR) != 0,
        }
    }
}

impl FileHandle {
    /// Keeps it in a node's slot.
    pub fn fill(&self, slot: &Slot) {
        if self.bytes.len() > HANDLE_BYTES_MAX {
            return;
        }
        slot.set_bytes(node::HANDLE_BYTES, &self.bytes);
        slot.set(node::HANDLE, (self.bytes.len() as u64 + 1) << 32 | u64::from(self.kind.cast_unsigned()));
    }

    /// The one in a node's slot.
    pub fn of(slot: &Slot) -> Option<Self> {
        let word = slot.get(node::HANDLE);
        let len = usize::try_from(word >> 32).ok()?.checked_sub(1).filter(|len| *len <= HANDLE_BYTES_MAX)?;
        let kind = (word as u32).cast_signed();
        Some(Self { kind, bytes: slot.bytes(node::HANDLE_BYTES, len) })
    }
}

/// How the kernel treats the opens of an inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelMode {
    /// None is open.
    #[default]
    Closed,
    /// Each read and write comes here.
    Captured,
    /// The kernel knows the file below by this id, and reads it by itself.
    Passthrough(u32),
}

const CAPTURED: u64 = 1;
const PASSTHROUGH: u64 = 2;

impl KernelMode {
    /// Keeps it in a node's slot.
    pub fn fill(self, slot: &Slot) {
        let word = match self {
            Self::Closed => 0,
            Self::Captured => CAPTURED,
            Self::Passthrough(id) => PASSTHROUGH | u64::from(id) << 32,
        };
        slot.set(node::MODE, word);
    }

    /// The one in a node's slot.
    pub fn of(slot: &Slot) -> Self {
        let word = slot.get(node::MODE);
        match word & 3 {
            CAPTURED => Self::Captured,
            PASSTHROUGH => Self::Passthrough((word >> 32) as u32),
            _ => Self::Closed,
        }
    }
}

/// What the state says of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkFacts {
    /// The slot of the file's node.
    pub node: u32,
    /// The slot of the directory's node.
    pub parent: u32,
    /// The same for a name and what it is renamed to; of one file.
    pub id: u64,
    /// A file's names are in the order of this.
    pub order: i64,
    /// Whether it leads to the file.
    pub is_live: bool,
    /// Whether the kernel was ever told to remember it.
    pub is_told: bool,
    /// The name.
    pub name: Vec<u8>,
}

impl LinkFacts {
    /// Fills `slot`, which is valid afterwards. The name is at most [`NAME_BYTES_MAX`] long.
    pub fn fill(&self, slot: &Slot) {
        slot.set(link::PARENT, u64::from(self.parent) + 1);
        slot.set(link::ID, self.id);
        slot.set(link::ORDER, self.order.cast_unsigned());
        slot.set(link::IS_LIVE, self.is_live.into());
        slot.set(link::TOLD, if self.is_told { link::IS_TOLD } else { 0 });
        slot.set(link::NAME_LEN, self.name.len() as u64);
        slot.set_bytes(link::NAME, &self.name);
        slot.set(link::NODE, u64::from(self.node) + 1);
    }

    /// What `slot` says; none if it cannot be.
    pub fn of(slot: &Slot) -> Option<Self> {
        let len = usize::try_from(slot.get(link::NAME_LEN)).ok().filter(|len| *len <= NAME_BYTES_MAX)?;
        Some(Self {
            node: index_of(slot.get(link::NODE))?,
            parent: index_of(slot.get(link::PARENT))?,
            id: slot.get(link::ID),
            order: slot.get(link::ORDER).cast_signed(),
            is_live: slot.get(link::IS_LIVE) != 0,
            is_told: slot.get(link::TOLD) != 0,
            name: slot.bytes(link::NAME, len),
        })
    }
}

/// What the state says of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandleFacts {
    /// Its number.
    pub id: u64,
    /// The slot of its node.
    pub node: u32,
    /// As it was opened; flags of open(2).
    pub flags: u32,
    /// Who has opened it.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The name by which it was opened; 0 for none.
    pub link: u64,
    /// Whether that is sure.
    pub is_sure: bool,
    /// See [`handle::NOTE`].
    pub note: u64,
}

impl HandleFacts {
    /// Fills `slot`, which is valid afterwards.
    pub fn fill(&self, slot: &Slot) {
        slot.set(handle::NODE, u64::from(self.node) + 1);
        slot.set(handle::FLAGS, self.flags.into());
        slot.set(handle::OPENER, u64::from(self.uid) | u64::from(self.gid) << 32);
        slot.set(handle::LINK, self.link);
        slot.set(handle::IS_SURE, self.is_sure.into());
        slot.set(handle::NOTE, self.note);
        slot.set(handle::ID, self.id);
    }

    /// What `slot` says; none if it cannot be.
    pub fn of(slot: &Slot) -> Option<Self> {
        let opener = slot.get(handle::OPENER);
        Some(Self {
            id: slot.get(handle::ID),
            node: index_of(slot.get(handle::NODE))?,
            flags: u32::try_from(slot.get(handle::FLAGS)).ok()?,
            uid: opener as u32,
            gid: (opener >> 32) as u32,
            link: slot.get(handle::LINK),
            is_sure: slot.get(handle::IS_SURE) != 0,
            note: slot.get(handle::NOTE),
        })
    }
}

/// What the state says of an open directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirFacts {
    /// Its number.
    pub id: u64,
    /// The slot of its node.
    pub node: u32,
    /// Who has opened it.
    pub uid: u32,
}

impl DirFacts {
    /// Fills `slot`, which is valid afterwards.
    pub fn fill(&self, slot: &Slot) {
        slot.set(dir::NODE, u64::from(self.node) + 1);
        slot.set(dir::UID, self.uid.into());
        slot.set(dir::ID, self.id);
    }

    /// What `slot` says; none if it cannot be.
    pub fn of(slot: &Slot) -> Option<Self> {
        let uid = u32::try_from(slot.get(dir::UID)).ok()?;
        Some(Self { id: slot.get(dir::ID), node: index_of(slot.get(dir::NODE))?, uid })
    }
}

/// A slot that is counted from 1.
fn index_of(word: u64) -> Option<u32> {
    u32::try_from(word.checked_sub(1)?).ok()
}
