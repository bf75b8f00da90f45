//! Where the parts of a state lie, and whether a segment can be one.

use std::sync::atomic::Ordering;

use bywash_common::shared::{Segment, WORD, boot_id, checksum};

use super::{FACTS_BYTES_MAX, Facts, HANDLES_MAX, StateError, VERSION, journal, slots, table::Shape};

/// What a state begins with.
pub const MAGIC: u64 = u64::from_ne_bytes(*b"BYWASHO\0");
const BYTE_ORDER_MARK: u64 = 0x0a0b_0c0d;
/// The longest path of a directory: PATH_MAX of linux/limits.h.
pub const PATH_BYTES_MAX: usize = 0x1000;
const PAGE: usize = 0x1000;
/// How many tables there are.
pub const TABLES: usize = 5;

/// The layout version and the byte order mark.
pub const VERSION_WORD: u64 = VERSION as u64 | BYTE_ORDER_MARK << 32;

/// Where the words of the header are.
pub mod at {
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 0x8;
    pub const LEN: usize = 0x10;
    pub const CHECKSUM: usize = 0x18;
    pub const BOOT: usize = 0x20;
    pub const ROOT: usize = 0x30;
    pub const PATH_LEN: usize = 0x48;
    pub const SIZES: usize = 0x50;
    pub const SIZES_END: usize = 0x78;
    pub const HIGHEST_HANDLE: usize = 0x100;
    pub const NEXT_SYNTHETIC: usize = 0x108;
    pub const NEXT_UNBORN: usize = 0x110;
    pub const LONGEST_REQUEST: usize = 0x118;
    pub const USED: usize = 0x120;
    pub const FACTS: usize = 0x200;
    pub const PATH: usize = 0x1000;
    pub const FACTS_BYTES: usize = 0x2000;
    pub const SLOTS: usize = 0x8000;
}

/// Where the tables lie that have so many slots: nodes, links, handles, directories, requests.
pub fn shapes(sizes: [u32; TABLES]) -> [Shape; TABLES] {
    let of = ["files", "names of files", "open files", "open directories", "requests"];
    let words =
        [slots::node::WORDS, slots::link::WORDS, slots::handle::WORDS, slots::dir::WORDS, journal::WORDS];
    let uids = [Some(slots::node::UID), Some(slots::link::UID), None, None, None];
    let mut start = at::SLOTS;
    [0, 1, 2, 3, 4].map(|index| {
        let used_at = at::USED + index * WORD;
        let (slot_words, max, uid_at) = (words[index], sizes[index], uids[index]);
        let shape = Shape { of: of[index], start, slot_words, max, used_at, uid_at };
        start = shape.end().next_multiple_of(PAGE);
        shape
    })
}

/// Checks the header; gives the sizes of the tables.
pub fn check(segment: &Segment) -> Result<[u32; TABLES], StateError> {
    if segment.len() < at::SLOTS {
        return Err(StateError::NotAState);
    }
    let get = |at: usize| segment.word(at).load(Ordering::Acquire);
    if get(at::MAGIC) != MAGIC {
        return Err(StateError::NotAState);
    }
    let version = get(at::VERSION);
    if version != VERSION_WORD {
        return Err(StateError::Version(version & u64::from(u32::MAX)));
    }
    let path_len = path_len(segment);
    if get(at::LEN) != segment.len() as u64
        || path_len > PATH_BYTES_MAX
        || get(at::CHECKSUM) != u64::from(checksum_of(segment, path_len))
    {
        return Err(StateError::Damaged("its header's checksum is another"));
    }
    let mut boot = [0; 16];
    segment.read(at::BOOT, &mut boot);
    if boot != boot_id() {
        return Err(StateError::OtherBoot);
    }
    let sizes: [Option<u32>; TABLES] = [0, 1, 2, 3, 4].map(|index| {
        u32::try_from(get(at::SIZES + index * WORD)).ok().filter(|size| (1..=HANDLES_MAX).contains(size))
    });
    match sizes {
        [Some(a), Some(b), Some(c), Some(d), Some(e)] => Ok([a, b, c, d, e]),
        _ => Err(StateError::Damaged("a table has a size that tables do not have")),
    }
}

pub fn path_len(segment: &Segment) -> usize {
    usize::try_from(segment.word(at::PATH_LEN).load(Ordering::Acquire)).unwrap_or(usize::MAX)
}

/// Of what does not change in the header. The path is no longer than it may be.
pub fn checksum_of(segment: &Segment, path_len: usize) -> u32 {
    let mut header = vec![0; at::CHECKSUM - at::VERSION];
    segment.read(at::VERSION, &mut header);
    let fixed = header.len();
    header.resize(fixed + at::SIZES_END - at::BOOT, 0);
    segment.read(at::BOOT, &mut header[fixed..]);
    let known = header.len();
    header.resize(known + path_len.min(PATH_BYTES_MAX), 0);
    segment.read(at::PATH, &mut header[known..]);
    checksum(&header)
}

pub fn facts_words(kind: Facts, slot: usize) -> [usize; 3] {
    let at = at::FACTS + (kind as usize * 2 + slot) * 4 * WORD;
    [at, at + WORD, at + 2 * WORD]
}

pub fn facts_bytes(kind: Facts, slot: usize) -> usize {
    at::FACTS_BYTES + (kind as usize * 2 + slot) * FACTS_BYTES_MAX
}
