//! What a request that has come back asks for, seen by the journal and by what is below: to be done, or to be answered as done.
//!
//! | operation | done if |
//! |---|---|
//! | write | the journal says so; its record is committed if the ring's tail is behind its sequence number |
//! | append | the journal says so, or its bytes are where the kernel believed that the file ended, or behind that |
//! | create, mkdir, mknod, symlink | the name leads to a file of the kind that came into being since the request was begun |
//! | link | the name leads to the file |
//! | unlink, rmdir | it had been begun, and the name does not lead to the file any more |
//! | rename | it had been begun, and the new name leads to the file that the old one led to, and the old one does not |
//! | setxattr with XATTR_CREATE | it had been begun, and the attribute has the value |
//! | removexattr | the attribute was there, and is not |
//! | lookup, readdirplus, open, opendir | never: what was counted and opened is taken back, and they are done |
//! | release, releasedir, setattr, fallocate, setxattr, ioctl, fsync, flush and what changes nothing | never: twice is as once |
//!
//! What was not begun is never taken for done. All of this decides, and touches nothing.

use memchr::memmem;
use rustix::fs::FileType;

use super::journal::{FileKey, Progress, WrittenAt};

/// How far a file's time of birth may be before the time at which its making was begun: the coarsest grain of those
/// filesystems that have such times (10 ms, exFAT).
const BIRTH_GRAIN_NS: u64 = 10_000_000;

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Below {
    /// Which file.
    pub key: FileKey,
    /// Of which kind.
    pub kind: FileType,
    /// When it came into being, in nanoseconds since the epoch, by the clock of this machine; none if that is not known.
    pub birth_ns: Option<u64>,
}

/// What is to become of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteVerdict {
    /// It is to be done.
    Do,
    /// A part of it is in the file: the rest is to be written behind that.
    Continue(WrittenAt),
    /// All of it is in the file.
    Done(WrittenAt),
}

/// What is to become of a write's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordVerdict {
    /// There is none yet.
    Record,
    /// It is committed, or counted as lost, or there is to be none.
    Recorded,
}

/// Whether a write that says where is done. That comes to the same if it is done again.
pub fn write(before: &Progress) -> WriteVerdict {
    before.written.map_or(WriteVerdict::Do, WriteVerdict::Done)
}

/// Whether an append of `data` is done, which the kernel placed at `believed`. `behind` are the file's bytes from there to its
/// end.
pub fn append(before: &Progress, believed: u64, data: &[u8], behind: &[u8]) -> WriteVerdict {
    if let Some(written) = before.written {
        return WriteVerdict::Done(written);
    }
    let at = |len: usize, offset: usize| WrittenAt { len: len as u64, offset: believed + offset as u64 };
    if data.is_empty() || behind.is_empty() {
        return WriteVerdict::Do;
    }
    if data.len() > behind.len() && data.starts_with(behind) {
        // The file ends in the midst of it.
        return WriteVerdict::Continue(at(behind.len(), 0));
    }
    // Where others have appended without the overlay, it is behind what they wrote.
    memmem::find(behind, data).map_or(WriteVerdict::Do, |offset| WriteVerdict::Done(at(data.len(), offset)))
}

/// Whether there is a record of what was written. `is_committed` says that of the one that was reserved; none if nobody
/// knows, in which case twice is better than not at all.
pub fn record(before: &Progress, is_committed: Option<bool>) -> RecordVerdict {
    let is_committed = before.recording.is_some() && is_committed == Some(true);
    if before.recorded || is_committed { RecordVerdict::Recorded } else { RecordVerdict::Record }
}

/// Whether what the request was to make, of `kind`, is what its name leads to.
pub fn is_made(before: &Progress, kind: FileType, found: Option<&Below>) -> bool {
    found.is_some_and(|found| {
        let is_new = found.birth_ns.is_none_or(|birth_ns| birth_ns + BIRTH_GRAIN_NS >= before.begun_ns);
        before.begun_ns != 0 && found.kind == kind && is_new
    })
}

/// Whether the file has got its name.
pub fn is_linked(before: &Progress, file: FileKey, found: Option<FileKey>) -> bool {
    before.begun_ns != 0 && found == Some(file)
}

/// Whether the name is removed that leads to `found` now.
pub fn is_removed(before: &Progress, found: Option<FileKey>) -> bool {
    before.trying && before.moving.map_or(found.is_none(), |(removed, _)| found != Some(removed))
}

/// Whether a file is renamed, or exchanged with another, of which the old and the new name lead to these now.
pub fn is_renamed(before: &Progress, (old, new): (Option<FileKey>, Option<FileKey>), exchange: bool) -> bool {
    let Some((moved, _)) = before.moving.filter(|_| before.trying) else { return false };
    let old_is_left = if exchange { old == before.replacing } else { old != Some(moved) };
    new == Some(moved) && old_is_left
}

/// Whether an attribute is set that was not to be there before, by whether it has the value.
pub fn is_attribute_set(before: &Progress, has_value: bool) -> bool {
    before.trying && has_value
}

/// Whether an attribute is removed, by whether it is there.
pub fn is_attribute_removed(before: &Progress, is_there: bool) -> bool {
    before.had_it && !is_there
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: FileKey = FileKey { dev: 1, ino: 10 };
    const B: FileKey = FileKey { dev: 1, ino: 11 };

    fn progress() -> Progress {
        Progress::default()
    }

    fn at(len: u64, offset: u64) -> WrittenAt {
        WrittenAt { len, offset }
    }

    #[test]
    fn a_write_is_done_if_the_journal_says_so() {
        assert_eq!(write(&progress()), WriteVerdict::Do);
        let done = Progress { written: Some(at(3, 7)), ..progress() };
        assert_eq!(write(&done), WriteVerdict::Done(at(3, 7)));
        assert_eq!(append(&done, 1, b"abc", b""), WriteVerdict::Done(at(3, 7)));
    }

    #[test]
    fn an_append_is_found_by_its_bytes() {
        let found = |data: &[u8], behind: &[u8]| append(&progress(), 100, data, behind);
        assert_eq!(found(b"line\n", b""), WriteVerdict::Do);
        assert_eq!(found(b"line\n", b"line\n"), WriteVerdict::Done(at(5, 100)));
        assert_eq!(found(b"line\n", b"li"), WriteVerdict::Continue(at(2, 100)));
        assert_eq!(found(b"line\n", b"other\n"), WriteVerdict::Do);
        // Others have appended without the overlay, before and after.
        assert_eq!(found(b"line\n", b"other\nline\n"), WriteVerdict::Done(at(5, 106)));
        assert_eq!(found(b"line\n", b"line\nother\n"), WriteVerdict::Done(at(5, 100)));
        assert_eq!(found(b"line\n", b"other\nline\nmore\n"), WriteVerdict::Done(at(5, 106)));
        assert_eq!(found(b"", b"other"), WriteVerdict::Do);
    }

    #[test]
    fn a_record_is_made_unless_it_surely_is_there() {
        let reserved = Progress { recording: Some(RecordIdOf::id()), ..progress() };
        assert_eq!(record(&progress(), Some(true)), RecordVerdict::Record);
        assert_eq!(record(&reserved, Some(true)), RecordVerdict::Recorded);
        assert_eq!(record(&reserved, Some(false)), RecordVerdict::Record);
        assert_eq!(record(&reserved, None), RecordVerdict::Record);
        assert_eq!(record(&Progress { recorded: true, ..reserved }, None), RecordVerdict::Recorded);
    }

    struct RecordIdOf;

    impl RecordIdOf {
        fn id() -> super::super::journal::RecordId {
            super::super::journal::RecordId { ring: [1; 16], sequence: 5 }
        }
    }

    #[test]
    fn what_is_new_and_of_the_kind_was_made_by_the_request() {
        let begun = Progress { begun_ns: 1_000_000_000, ..progress() };
        let file = |birth_ns| Below { key: A, kind: FileType::Directory, birth_ns };
        let made =
            |before: &Progress, found: Option<Below>| is_made(before, FileType::Directory, found.as_ref());
        assert!(made(&begun, Some(file(Some(1_000_000_000)))));
        assert!(made(&begun, Some(file(Some(1_000_000_000 - BIRTH_GRAIN_NS)))));
        assert!(made(&begun, Some(file(None))));
        assert!(!made(&begun, Some(file(Some(999_999_999 - BIRTH_GRAIN_NS)))), "it was there before");
        assert!(!made(&begun, None));
        assert!(!made(&progress(), Some(file(None))), "it was not begun");
        assert!(!is_made(&begun, FileType::RegularFile, Some(&file(None))));
    }

    #[test]
    fn a_link_is_made_if_it_leads_to_the_file() {
        let begun = Progress { begun_ns: 1, ..progress() };
        assert!(is_linked(&begun, A, Some(A)));
        assert!(!is_linked(&begun, A, Some(B)) && !is_linked(&begun, A, None));
        assert!(!is_linked(&progress(), A, Some(A)));
    }

    #[test]
    fn a_name_is_removed_if_it_was_to_be_and_leads_elsewhere() {
        let removing = Progress { trying: true, moving: Some((A, 1)), ..progress() };
        assert!(is_removed(&removing, None) && is_removed(&removing, Some(B)));
        assert!(!is_removed(&removing, Some(A)));
        assert!(!is_removed(&progress(), None), "it was not begun");
        let unknown = Progress { trying: true, ..progress() };
        assert!(is_removed(&unknown, None) && !is_removed(&unknown, Some(A)));
    }

    #[test]
    fn a_file_is_renamed_if_it_is_where_it_was_to_be() {
        let renaming = Progress { trying: true, moving: Some((A, 1)), ..progress() };
        assert!(is_renamed(&renaming, (None, Some(A)), false));
        assert!(is_renamed(&renaming, (Some(B), Some(A)), false), "somebody has taken the old name");
        assert!(!is_renamed(&renaming, (Some(A), None), false));
        assert!(!is_renamed(&renaming, (Some(A), Some(A)), false), "two names of one file stay");
        assert!(!is_renamed(&Progress { trying: false, ..renaming }, (None, Some(A)), false));
        let exchanging = Progress { replacing: Some(B), ..renaming };
        assert!(is_renamed(&exchanging, (Some(B), Some(A)), true));
        assert!(!is_renamed(&exchanging, (Some(A), Some(B)), true));
    }

    #[test]
    fn attributes_are_set_and_removed_once() {
        let trying = Progress { trying: true, ..progress() };
        assert!(is_attribute_set(&trying, true) && !is_attribute_set(&trying, false));
        assert!(!is_attribute_set(&progress(), true));
        let had_it = Progress { had_it: true, ..trying };
        assert!(is_attribute_removed(&had_it, false) && !is_attribute_removed(&had_it, true));
        assert!(!is_attribute_removed(&trying, false), "it was not there");
    }
}
