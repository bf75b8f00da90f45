//! Random operations: few names and offsets, so that they meet.

use proptest::{prelude::*, sample::select};
use rustix::fs::{AtFlags, FallocateFlags, OFlags, RenameFlags};

use crate::{
    operation::{Caller, Content, Operation, Seek, Step, Time},
    world::SLOTS,
};

/// Users that are not root.
const USERS: [u32; 2] = [4001, 4002];
/// Offsets beyond this one may be too far for any file.
const NEAR_MAX: u64 = 1 << 40;
const KEEP: FallocateFlags = FallocateFlags::KEEP_SIZE;

/// Any operation, by anyone.
pub fn step() -> impl Strategy<Value = Step> {
    let caller = prop_oneof![
        3 => Just(Caller::Root),
        1 => select(&USERS[..]).prop_map(Caller::User),
    ];
    (caller, operation())
        .prop_map(|(caller, operation)| Step { caller, operation: possible(caller, operation) })
}

/// A user writes and truncates within reach only: `forced.rs` has what comes of more.
fn possible(caller: Caller, operation: Operation) -> Operation {
    match (caller, operation) {
        (Caller::User(_), Operation::WriteAt { slot, content, offset }) if offset > NEAR_MAX => {
            Operation::WriteAt { slot, content, offset: 0 }
        }
        (Caller::User(_), Operation::TruncateHandle { slot, len }) if len > NEAR_MAX => {
            Operation::TruncateHandle { slot, len: 0 }
        }
        (Caller::User(_), Operation::Truncate { path, len }) if len > NEAR_MAX => {
            Operation::Truncate { path, len: 0 }
        }
        // The kernel does not say that this is a chown, so a file's owner alone is held to it: others are not refused.
        (Caller::User(_), Operation::Chown { path, uid: None, gid: None, flags }) => {
            Operation::Chown { path, uid: Some(0), gid: None, flags }
        }
        (_, operation) => operation,
    }
}

// Boxed: unions of unions would fill a test thread's stack.
fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => open(open_flags().boxed()).boxed(),
        10 => on_handle().boxed(),
        3 => names().boxed(),
        3 => attributes().boxed(),
        2 => xattrs().boxed(),
        3 => looks().boxed(),
    ]
}

/// An open with flags of a kind.
pub fn open(flags: BoxedStrategy<OFlags>) -> impl Strategy<Value = Operation> {
    (slot(), path(), flags, mode()).prop_map(|(slot, path, flags, mode)| Operation::Open {
        slot,
        path,
        flags,
        mode,
    })
}

fn open_flags() -> impl Strategy<Value = OFlags> {
    let access = select(vec![OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR]);
    let more = [
        (0.6, OFlags::CREATE),
        (0.15, OFlags::EXCL),
        (0.2, OFlags::TRUNC),
        (0.2, OFlags::APPEND),
        (0.1, OFlags::NOFOLLOW),
        (0.05, OFlags::DIRECTORY),
        (0.05, OFlags::SYNC),
        (0.05, OFlags::NOATIME),
    ];
    let some = more.map(|(probability, flag)| {
        prop::bool::weighted(probability).prop_map(move |is_set| if is_set { flag } else { OFlags::empty() })
    });
    (access, some).prop_map(|(access, some)| some.into_iter().fold(access, |all, flag| all | flag))
}

fn on_handle() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => write(),
        3 => (slot(), length()).prop_map(|(slot, len)| Operation::Read { slot, len }),
        3 => (slot(), length(), offset())
            .prop_map(|(slot, len, offset)| Operation::ReadAt { slot, len, offset }),
        3 => (slot(), seek()).prop_map(|(slot, to)| Operation::Seek { slot, to }),
        1 => slot().prop_map(|slot| Operation::Close { slot }),
        1 => slot().prop_map(|slot| Operation::Sync { slot }),
        1 => slot().prop_map(|slot| Operation::StatHandle { slot }),
        1 => (slot(), mode()).prop_map(|(slot, mode)| Operation::ChmodHandle { slot, mode }),
        2 => (slot(), far_offset()).prop_map(|(slot, len)| Operation::TruncateHandle { slot, len }),
        2 => fallocate(),
    ]
}

/// A write to an open file.
pub fn write() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (slot(), content(300_000)).prop_map(|(slot, content)| Operation::Write { slot, content }),
        (slot(), content(300_000), far_offset()).prop_map(|(slot, content, offset)| Operation::WriteAt {
            slot,
            content,
            offset
        }),
    ]
}

fn names() -> impl Strategy<Value = Operation> {
    let target = prop_oneof![path(), Just("../elsewhere".to_owned()), Just(String::new())];
    prop_oneof![
        3 => rename(vec![RenameFlags::empty(), RenameFlags::NOREPLACE, RenameFlags::EXCHANGE]),
        2 => link(),
        2 => (target, path()).prop_map(|(target, path)| Operation::Symlink { target, path }),
        2 => path().prop_map(|path| Operation::Unlink { path }),
        3 => mkdir(),
        1 => path().prop_map(|path| Operation::Rmdir { path }),
        1 => (path(), mode()).prop_map(|(path, mode)| Operation::MakeFifo { path, mode }),
        1 => (path(), mode()).prop_map(|(path, mode)| Operation::MakeSocket { path, mode }),
    ]
}

/// A rename with one of the flags.
pub fn rename(flags: Vec<RenameFlags>) -> impl Strategy<Value = Operation> {
    (path(), path(), select(flags)).prop_map(|(from, to, flags)| Operation::Rename { from, to, flags })
}

/// A further name for a file.
pub fn link() -> impl Strategy<Value = Operation> {
    let flags = select(vec![AtFlags::empty(), AtFlags::SYMLINK_FOLLOW]);
    (path(), path(), flags).prop_map(|(from, to, flags)| Operation::Link { from, to, flags })
}

/// A new directory.
pub fn mkdir() -> impl Strategy<Value = Operation> {
    (path(), mode()).prop_map(|(path, mode)| Operation::Mkdir { path, mode })
}

fn attributes() -> impl Strategy<Value = Operation> {
    let id = || prop::option::of(select(&[0, USERS[0], USERS[1]][..]));
    prop_oneof![
        3 => (path(), mode()).prop_map(|(path, mode)| Operation::Chmod { path, mode }),
        3 => (path(), id(), id(), follow())
            .prop_map(|(path, uid, gid, flags)| Operation::Chown { path, uid, gid, flags }),
        3 => (path(), time(), time(), follow()).prop_map(|(path, accessed, modified, flags)| {
            Operation::SetTimes { path, accessed, modified, flags }
        }),
        3 => truncate(),
    ]
}

/// A change of a file's length.
pub fn truncate() -> impl Strategy<Value = Operation> {
    (path(), far_offset()).prop_map(|(path, len)| Operation::Truncate { path, len })
}

fn xattrs() -> impl Strategy<Value = Operation> {
    // The last ones are no names of attributes.
    let name = || {
        let names = ["user.a", "user.b", "trusted.c", "security.d", "user.", "unknown.e", ""];
        select(names.to_vec()).prop_map(str::to_owned)
    };
    // None, XATTR_CREATE, XATTR_REPLACE.
    let set = (path(), name(), content(5_000), 0..3u32);
    prop_oneof![
        set.prop_map(|(path, name, value, how)| Operation::SetXattr { path, name, value, how }),
        (path(), name(), select(vec![0usize, 1, 100, 10_000]))
            .prop_map(|(path, name, room)| Operation::GetXattr { path, name, room }),
        path().prop_map(|path| Operation::ListXattr { path }),
        (path(), name()).prop_map(|(path, name)| Operation::RemoveXattr { path, name }),
    ]
}

fn looks() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (path(), follow()).prop_map(|(path, flags)| Operation::Stat { path, flags }),
        (path(), 0..8u8).prop_map(|(path, mode)| Operation::Access { path, mode }),
        path().prop_map(|path| Operation::Readlink { path }),
        path().prop_map(|path| Operation::ReadDir { path }),
        Just(Operation::ReadDir { path: ".".to_owned() }),
        path().prop_map(|path| Operation::StatFs { path }),
    ]
}

/// Those modes that the FUSE protocol carries; `forced.rs` has the others.
fn fallocate() -> impl Strategy<Value = Operation> {
    let modes = [
        FallocateFlags::empty(),
        KEEP,
        FallocateFlags::PUNCH_HOLE.union(KEEP),
        FallocateFlags::PUNCH_HOLE,
        FallocateFlags::ZERO_RANGE,
        FallocateFlags::ZERO_RANGE.union(KEEP),
    ];
    (slot(), select(modes.to_vec()), offset(), offset())
        .prop_map(|(slot, mode, offset, len)| Operation::Fallocate { slot, mode, offset, len })
}

fn slot() -> impl Strategy<Value = usize> {
    0..SLOTS
}

/// Mostly a name or two of three; now and then one that is none.
fn path() -> impl Strategy<Value = String> {
    let name = || select(vec!["a", "b", "c"]);
    prop_oneof![
        12 => name().prop_map(str::to_owned),
        8 => (name(), name()).prop_map(|(a, b)| format!("{a}/{b}")),
        2 => (name(), name(), name()).prop_map(|(a, b, c)| format!("{a}/{b}/{c}")),
        1 => name().prop_map(|name| format!("{name}/")),
        1 => (name(), name()).prop_map(|(a, b)| format!("{a}/../{b}")),
        1 => select(vec![".".to_owned(), "a/.".to_owned(), "b/..".to_owned(), "ä €".to_owned(),
            "n".repeat(255), "n".repeat(256)]),
    ]
}

/// None sets the group number and leaves the group unable to run the file: whether a write takes that bit away depends
/// on all groups of the writer, and FUSE tells one.
fn mode() -> impl Strategy<Value = u32> {
    let any = prop_oneof![
        select(vec![0o644, 0o755, 0o777, 0o666, 0o600, 0o000]),
        select(vec![0o1777, 0o4755, 0o2755, 0o6777, 0o2777, 0o2644]),
        0..0o10000u32,
    ];
    any.prop_map(|mode| if mode & 0o2010 == 0o2000 { mode | 0o010 } else { mode })
}

fn follow() -> impl Strategy<Value = AtFlags> {
    select(vec![AtFlags::empty(), AtFlags::SYMLINK_NOFOLLOW])
}

fn content(max: usize) -> impl Strategy<Value = Content> {
    let len = prop_oneof![0..100usize, select(vec![4096, 4097, 8192]), 0..max];
    (any::<u64>(), len).prop_map(move |(seed, len)| Content { seed, len: len.min(max) })
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![0..100usize, select(vec![4096, 65_536, 400_000])]
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![0..100u64, select(vec![4095, 4096, 4097, 8192, 65_536, 262_144]), 0..600_000u64]
}

/// One that may be too far for any file.
fn far_offset() -> impl Strategy<Value = u64> {
    prop_oneof![20 => offset(), 1 => select(vec![1 << 62, u64::MAX >> 1, u64::MAX])]
}

fn seek() -> impl Strategy<Value = Seek> {
    let near = -100..5_000i64;
    prop_oneof![
        offset().prop_map(Seek::Start),
        near.clone().prop_map(Seek::Current),
        near.prop_map(Seek::End),
        offset().prop_map(Seek::Data),
        offset().prop_map(Seek::Hole),
    ]
}

fn time() -> impl Strategy<Value = Time> {
    prop_oneof![
        Just(Time::Now),
        Just(Time::Omit),
        // Before the years that the clock gives, and some before 1970.
        (-1_000_000_000..1_500_000_000i64, 0..1_000_000_000i64)
            .prop_map(|(seconds, nanoseconds)| Time::At { seconds, nanoseconds }),
    ]
}
