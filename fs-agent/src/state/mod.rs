//! What the kernel believes of an overlay, where it outlives this process. This page is the specification.
//!
//! Whoever serves an overlay after a crash has the kernel's connection, from a store of descriptors, and has to know what
//! the kernel was told on it: which node id is which file, by which names; which handle is which open file; how it
//! treats each; and what was being done. That is in a memfd that is mapped here, kept by the same store, and written *before the
//! reply that makes it true*. So what a successor finds is never less than what the kernel believes. What was written for a reply
//! that has not left is found in the [`journal`], and taken back or done again.
//!
//! All of it is 64-bit words in the machine's byte order, each read and written at once. The memfd is sealed against
//! shrinking and growing. Memory is used as slots are.
//!
//! ```text
//! 0x0000  magic "BYWASHO\0"; written last
//! 0x0008  layout version, 1; in the upper half the byte order mark 0x0a0b0c0d
//! 0x0010  length of the segment
//! 0x0018  crc32c of 0x0008..0x0018, 0x0020..0x0078 and the path
//! 0x0020  boot id, two words
//! 0x0030  the overlay's root: device, inode number, time of birth
//! 0x0048  length of the path
//! 0x0050  slots of each table: nodes, links, handles, directories, requests
//! 0x0100  the highest handle that was given, to a file or a directory
//! 0x0108  the next node id of a file whose own number cannot serve, less 2^63
//! 0x0110  the next number in place of a time of birth
//! 0x0118  the longest request that was read, in bytes; 0 if nobody says
//! 0x0120  how many slots were ever used: nodes, links, handles, directories, requests
//! 0x0200  facts: for each of two kinds two slots of four words: edition, length, crc32c, 0
//! 0x1000  the overlay's path, as writers see it
//! 0x2000  the bytes of the facts, 4 x 0x1800
//! 0x8000  tables: nodes (32 words), links (40), handles (8), directories (4), requests (512); each begins at a page
//! ```
//!
//! # Slots
//!
//! A slot's first word is not 0 as long as the slot is valid; it is stored last, and cleared first. What the words of each kind
//! are is in [`slots`]. Slots refer to each other by their index, and one that is referred to is freed after those
//! that refer to it:
//!
//! | slot | is there |
//! |---|---|
//! | node | from before the kernel is told of it, until the kernel has forgotten it and no name is below it. The first is the root's |
//! | link | as long as the name is known. One whose node is gone is void |
//! | handle, directory | from before the kernel has its number, until the kernel has given it back |
//!
//! A rename fills the new name's slot, then frees the old one's. Both have the same id: after a kill between the two
//! both are candidates, and what is below tells which it is.
//!
//! Where a table is full, what comes over it has a slot of the process's own. It is served as ever, and a successor does not know
//! it: said once in the log.
//!
//! # What a kill leaves
//!
//! | SIGKILL at | what holds |
//! |---|---|
//! | making the segment | it has no magic: refused, and nobody was told of the overlay yet |
//! | filling a slot | the slot is free; its bytes are whatever |
//! | counting a look-up | the journal says what was counted for which request; if that comes back, it is taken back |
//! | opening | the handle is there, and named in the journal; if the request comes back, it is closed |
//! | closing | the handle is gone, or comes back and the request with it |
//! | forgetting | the kernel sends that once, and wants no answer: the successor asks it later what it knows (`overlay/forgotten.rs`) |
//! | renaming, removing | both names or the old one are there; the request comes back, and what is below tells what was done |
//! | storing facts | the edition before is whole |

mod header;
pub mod journal;
#[cfg(test)]
pub mod killed;
pub mod slots;
mod table;
#[cfg(test)]
mod tests;
pub mod verdict;

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bywash_common::shared::{Segment, SegmentError, WORD, boot_id, checksum};

use crate::sync::lock;
use header::{TABLES, at, check, checksum_of, facts_bytes, facts_words, path_len, shapes};
use journal::Journal;
use slots::{Birth, NodeFacts};
use table::step;
pub use table::{Slot, Table};

/// The version of the layout that is written.
pub const VERSION: u32 = 1;

/// How many nodes come back: a few times as many as the kernel is to know.
pub const NODES_MAX: u32 = 1 << 16;

/// How many names come back; a file has a few at most.
pub const LINKS_MAX: u32 = 1 << 17;

/// How many open files come back, and as many open directories, however many the limit of descriptors allows.
pub const HANDLES_MAX: u32 = 1 << 20;

/// How many requests are being done at a time, those that wait for a turn among them.
pub const REQUESTS_MAX: u32 = 512;

/// The most bytes of one kind of facts.
pub const FACTS_BYTES_MAX: usize = 0x1800;

/// Why a state cannot be made or taken up.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is no memory for it, or none that is safe to use.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// It is something else, or its maker has died over it.
    #[error("it is no overlay's state")]
    NotAState,
    /// Another program's.
    #[error("its layout has version {0}; this program reads version {VERSION}")]
    Version(u64),
    /// From before the machine was started.
    #[error("it is from another run of the machine")]
    OtherBoot,
    /// Its parts contradict each other.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// It cannot hold that.
    #[error("{what} of {bytes} bytes is longer than {max}")]
    TooLong {
        /// What cannot be held.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The most that it may have.
        max: usize,
    },
}

/// What tells the directory below from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootId {
    /// Its device.
    pub dev: u64,
    /// Its inode number.
    pub ino: u64,
    /// Its time of birth, if its filesystem says it.
    pub birth: Option<u64>,
}

impl RootId {
    fn birth_word(&self) -> u64 {
        self.birth.unwrap_or(u64::MAX)
    }
}

/// What others want to find again with an overlay: bytes that mean nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facts {
    /// What was settled with the kernel.
    Connection = 0,
    /// What the agent's services know of the overlay.
    Service = 1,
}

/// One overlay's state.
#[derive(Debug)]
pub struct State {
    segment: Arc<Segment>,
    /// The nodes.
    pub nodes: Arc<Table>,
    /// Their names.
    pub links: Arc<Table>,
    /// Open files.
    pub handles: Arc<Table>,
    /// Open directories.
    pub dirs: Arc<Table>,
    /// What is being done.
    pub journal: Arc<Journal>,
    /// Held while facts are stored.
    facts: Mutex<()>,
}

/// A state that a predecessor has left. As long as nobody has said [`State::go_live`], dropping any of it changes nothing.
#[derive(Debug)]
pub struct Left {
    /// It.
    pub state: Arc<State>,
    /// Its slots that are valid.
    pub nodes: Vec<Slot>,
    /// As above.
    pub links: Vec<Slot>,
    /// As above.
    pub handles: Vec<Slot>,
    /// As above.
    pub dirs: Vec<Slot>,
}

impl State {
    /// Makes one for the overlay over `root` that writers see at `path`, with room for about `handles` open files and as many
    /// directories. The root's node is in it.
    ///
    /// # Errors
    /// If the path is too long, or there is no memory.
    pub fn create(path: &Path, root: RootId, handles: usize) -> Result<(Arc<Self>, Slot), StateError> {
        let handles = u32::try_from(handles).unwrap_or(u32::MAX).clamp(1, HANDLES_MAX);
        Self::create_sized(path, root, [NODES_MAX, LINKS_MAX, handles, handles, REQUESTS_MAX])
    }

    pub(crate) fn create_sized(
        path: &Path,
        root: RootId,
        sizes: [u32; TABLES],
    ) -> Result<(Arc<Self>, Slot), StateError> {
        let path = path.as_os_str().as_bytes();
        if path.len() > header::PATH_BYTES_MAX {
            return Err(StateError::TooLong {
                what: "a path",
                bytes: path.len(),
                max: header::PATH_BYTES_MAX,
            });
        }
        let shapes = shapes(sizes);
        let segment = Arc::new(Segment::create("bywash-overlay", shapes[TABLES - 1].end())?);
        let set = |at: usize, word: u64| segment.word(at).store(word, Ordering::Release);
        set(at::VERSION, header::VERSION_WORD);
        set(at::LEN, segment.len() as u64);
        segment.write(at::BOOT, &boot_id());
        let root_words = [root.dev, root.ino, root.birth_word()];
        (0..).zip(root_words).for_each(|(index, word)| set(at::ROOT + index * WORD, word));
        set(at::PATH_LEN, path.len() as u64);
        (0..).zip(sizes).for_each(|(index, size)| set(at::SIZES + index * WORD, size.into()));
        segment.write(at::PATH, path);
        set(at::CHECKSUM, checksum_of(&segment, path.len()).into());
        let [nodes, links, handles, dirs] = [0, 1, 2, 3].map(|index| Table::new(&segment, shapes[index]));
        let journal = Journal::new(&segment, &shapes[4]);
        let slot = nodes.take();
        NodeFacts { id: slots::ROOT, dev: root.dev, ino: root.ino, birth: Birth::Unknown(0), is_dir: true }
            .fill(&slot, 0, 1);
        set(at::MAGIC, header::MAGIC);
        Ok((Arc::new(Self { segment, nodes, links, handles, dirs, journal, facts: Mutex::new(()) }), slot))
    }

    /// Takes up what a predecessor has left in `fd`.
    ///
    /// # Errors
    /// If it cannot be mapped, is of another layout version or another run of the machine, or is damaged.
    pub fn open(fd: OwnedFd) -> Result<Left, StateError> {
        let segment = Arc::new(Segment::map(fd)?);
        let sizes = check(&segment)?;
        let shapes = shapes(sizes);
        if shapes[TABLES - 1].end() != segment.len() {
            return Err(StateError::Damaged("its tables have another length than it"));
        }
        let take_up = |index: usize| {
            Table::take_up(&segment, shapes[index])
                .ok_or(StateError::Damaged("a table has more slots in use than it has"))
        };
        let ((nodes, node_slots), (links, link_slots)) = (take_up(0)?, take_up(1)?);
        let ((handles, handle_slots), (dirs, dir_slots)) = (take_up(2)?, take_up(3)?);
        let lookups = |index: u32| {
            let found = node_slots.iter().find(|slot| slot.index() == Some(index));
            found.map(|slot| slot.get(slots::node::LOOKUPS))
        };
        let journal = Journal::take_up(&segment, &shapes[4], lookups)
            .ok_or(StateError::Damaged("more requests are being done than can be"))?;
        let state = Self { segment, nodes, links, handles, dirs, journal, facts: Mutex::new(()) };
        Ok(Left {
            state: Arc::new(state),
            nodes: node_slots,
            links: link_slots,
            handles: handle_slots,
            dirs: dir_slots,
        })
    }

    /// From now on slots that are given back are free.
    pub fn go_live(&self) {
        [&self.nodes, &self.links, &self.handles, &self.dirs].iter().for_each(|table| table.go_live());
    }

    /// Leaves it to a successor as it is now, whatever this process lets go of. To be called once no request is being done.
    pub fn freeze(&self) {
        [&self.nodes, &self.links, &self.handles, &self.dirs].iter().for_each(|table| table.freeze());
    }

    /// Where writers see the overlay.
    pub fn path(&self) -> PathBuf {
        let mut path = vec![0; self.path_len()];
        self.segment.read(at::PATH, &mut path);
        Path::new(OsStr::from_bytes(&path)).to_owned()
    }

    fn path_len(&self) -> usize {
        path_len(&self.segment)
    }

    /// The directory that it is over.
    pub fn root(&self) -> RootId {
        let [dev, ino, birth] = [0, 1, 2].map(|index| self.get(at::ROOT + index * WORD));
        RootId { dev, ino, birth: (birth != u64::MAX).then_some(birth) }
    }

    /// The highest handle that was given.
    pub fn highest_handle(&self) -> u64 {
        self.get(at::HIGHEST_HANDLE)
    }

    /// Keeps that handles up to `number` were given.
    pub fn note_handle(&self, number: u64) {
        step();
        self.segment.word(at::HIGHEST_HANDLE).fetch_max(number, Ordering::AcqRel);
    }

    /// The longest request that was read, in bytes: the next may be as long.
    pub fn longest_request(&self) -> &AtomicU64 {
        self.segment.word(at::LONGEST_REQUEST)
    }

    /// A number for a file whose own cannot serve; none is given twice.
    pub fn next_synthetic(&self) -> u64 {
        self.next(at::NEXT_SYNTHETIC)
    }

    /// How many of those were given.
    pub fn synthetics(&self) -> u64 {
        self.get(at::NEXT_SYNTHETIC)
    }

    /// A number in place of a time of birth; none is given twice.
    pub fn next_unborn(&self) -> u64 {
        self.next(at::NEXT_UNBORN)
    }

    fn next(&self, at: usize) -> u64 {
        step();
        self.segment.word(at).fetch_add(1, Ordering::AcqRel)
    }

    fn get(&self, at: usize) -> u64 {
        self.segment.word(at).load(Ordering::Acquire)
    }

    /// Keeps `bytes` in place of those that were kept of this kind.
    ///
    /// # Errors
    /// If they are more than [`FACTS_BYTES_MAX`].
    pub fn set_facts(&self, kind: Facts, bytes: &[u8]) -> Result<(), StateError> {
        if bytes.len() > FACTS_BYTES_MAX {
            return Err(StateError::TooLong { what: "facts", bytes: bytes.len(), max: FACTS_BYTES_MAX });
        }
        let _alone = lock(&self.facts);
        let newest = self.newest_facts(kind);
        let (slot, edition) = newest.map_or((0, 1), |(slot, edition, _)| (1 - slot, edition + 1));
        let [edition_at, len_at, checksum_at] = facts_words(kind, slot);
        let set = |at: usize, word: u64| {
            step();
            self.segment.word(at).store(word, Ordering::Release);
        };
        set(edition_at, 0);
        set(len_at, bytes.len() as u64);
        set(checksum_at, checksum(bytes).into());
        self.segment.write(facts_bytes(kind, slot), bytes);
        set(edition_at, edition);
        Ok(())
    }

    /// What was kept of this kind last; none if nothing was.
    pub fn facts(&self, kind: Facts) -> Option<Vec<u8>> {
        self.newest_facts(kind).map(|(_, _, bytes)| bytes)
    }

    /// Puts words anywhere: into slots that are used more often than elsewhere.
    #[cfg(test)]
    pub fn damage(&self, damage: &[(proptest::sample::Index, u64, u8)]) {
        let (nodes, links) = (self.nodes.shape(), self.links.shape());
        for (place, value, which) in damage {
            let value = if which & 1 == 0 { *value } else { value % 8 };
            let at = match which >> 1 & 7 {
                0 => at::USED + place.index(4) * WORD,
                1..=3 => nodes.start + place.index(3 * nodes.slot_words) * WORD,
                4 => links.start + place.index(3 * links.slot_words) * WORD,
                5 => self.handles.shape().start + place.index(16) * WORD,
                6 => self.dirs.shape().start + place.index(8) * WORD,
                _ => self.journal.start() + place.index(1024) * WORD,
            };
            self.segment.word(at).store(value, Ordering::Release);
        }
    }

    fn newest_facts(&self, kind: Facts) -> Option<(usize, u64, Vec<u8>)> {
        let whole = (0..2).filter_map(|slot| {
            let [edition, len, sum] = facts_words(kind, slot).map(|at| self.get(at));
            let len = usize::try_from(len).ok().filter(|len| edition != 0 && *len <= FACTS_BYTES_MAX)?;
            let mut bytes = vec![0; len];
            self.segment.read(facts_bytes(kind, slot), &mut bytes);
            (u64::from(checksum(&bytes)) == sum).then_some((slot, edition, bytes))
        });
        whole.max_by_key(|(_, edition, _)| *edition)
    }
}

impl AsFd for State {
    /// The memfd: who keeps it open keeps the state.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.segment.as_fd()
    }
}
