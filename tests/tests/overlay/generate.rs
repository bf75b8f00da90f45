//! Random operations: few names and offsets, so that they meet.

use proptest::{prelude::*, sample::select};
use rustix::{
    fs::{AtFlags, FallocateFlags, IFlags, OFlags, RenameFlags},
    io::ReadWriteFlags,
};

use bywash_tests::actor::{
    INODE_FLAGS,
    operation::{Caller, Content, Lock, Operation, Seek, Step, TREE_GROUP, Time, Value},
    world::SLOTS,
};

/// Users as whom root's process acts.
const USERS: [u32; 2] = [4001, 4002];
/// Owners and groups to set.
const IDS: [u32; 7] = [0, USERS[0], USERS[1], 1001, 1002, TREE_GROUP, 65534];
/// RWF_NOAPPEND, which the library does not know yet.
const NOAPPEND: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x20);
const KEEP: FallocateFlags = FallocateFlags::KEEP_SIZE;

/// The mode of a tree's directory: with a group, with a sticky bit, as any.
pub fn tree_mode() -> impl Strategy<Value = u32> {
    select(vec![0o2775, 0o3777, 0o777, 0o1775, 0o755])
}

/// Any operation, by anyone.
pub fn step() -> impl Strategy<Value = Step> {
    let caller = prop_oneof![
        3 => Just(Caller::Root),
        1 => select(&USERS[..]).prop_map(Caller::User),
        3 => Just(Caller::Owner),
        2 => Just(Caller::Member),
        2 => Just(Caller::Other),
    ];
    by(caller)
}

/// Any operation, by the process of one of them.
pub fn step_of(process: Caller) -> impl Strategy<Value = Step> {
    by(match process {
        Caller::Root => {
            prop_oneof![3 => Just(Caller::Root), 1 => select(&USERS[..]).prop_map(Caller::User)].boxed()
        }
        other => Just(other).boxed(),
    })
}

/// A file that is opened to be written, or a write.
pub fn writing() -> impl Strategy<Value = Step> {
    let flags = [OFlags::WRONLY, OFlags::RDWR, OFlags::RDWR.union(OFlags::APPEND)];
    let flags = select(flags.to_vec()).prop_map(|flags| flags | OFlags::CREATE);
    let caller = select(vec![Caller::Root, Caller::Owner]);
    let operation = prop_oneof![1 => open(flags.boxed()).boxed(), 2 => write().boxed()];
    (caller, operation).prop_map(|(caller, operation)| Step { caller, operation, is_timed: false })
}

fn by(caller: impl Strategy<Value = Caller>) -> impl Strategy<Value = Step> {
    (caller, operation(), prop::bool::weighted(0.3)).prop_map(|(caller, operation, is_timed)| Step {
        caller,
        operation,
        is_timed,
    })
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
        1 => process().boxed(),
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
        (0.05, OFlags::PATH),
        (0.03, OFlags::DSYNC),
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
        1 => (slot(), id(), id()).prop_map(|(slot, uid, gid)| Operation::ChownHandle { slot, uid, gid }),
        3 => write_with(),
        2 => transfer(),
        1 => mapping(),
        2 => on_open_file(),
    ]
}

/// pwritev2(2) with flags of its own.
fn write_with() -> impl Strategy<Value = Operation> {
    let flags = [
        ReadWriteFlags::empty(),
        ReadWriteFlags::DSYNC,
        ReadWriteFlags::SYNC,
        ReadWriteFlags::APPEND,
        NOAPPEND,
        ReadWriteFlags::APPEND.union(NOAPPEND),
        ReadWriteFlags::APPEND.union(ReadWriteFlags::DSYNC),
        ReadWriteFlags::from_bits_retain(1 << 30),
    ];
    (slot(), content(20_000), prop::option::of(offset()), select(flags.to_vec()))
        .prop_map(|(slot, content, offset, flags)| Operation::WriteWith { slot, content, offset, flags })
}

/// From one open file to another.
fn transfer() -> impl Strategy<Value = Operation> {
    let offset = || prop::option::of(offset());
    prop_oneof![
        (slot(), slot(), offset(), offset(), length()).prop_map(|(from, to, from_offset, to_offset, len)| {
            Operation::CopyRange { from, to, from_offset, to_offset, len }
        }),
        (slot(), slot(), offset(), length()).prop_map(|(from, to, offset, len)| Operation::SendFile {
            from,
            to,
            offset,
            len
        }),
    ]
}

/// Each runs a program: rarely.
fn mapping() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (slot(), 0..20u64, content(20_000)).prop_map(|(slot, page, content)| Operation::MapStore {
            slot,
            page,
            content
        }),
        (slot(), 0..20u64, 0..20_000usize).prop_map(|(slot, page, len)| Operation::MapRead {
            slot,
            page,
            len
        }),
    ]
}

/// What is done to an open file, but for its bytes.
fn on_open_file() -> impl Strategy<Value = Operation> {
    let lock = || select(vec![Lock::Shared, Lock::Exclusive, Lock::Unlock]);
    let flags = [OFlags::empty(), OFlags::APPEND, OFlags::NOATIME, OFlags::APPEND.union(OFlags::NOATIME)];
    let inode_flags =
        [IFlags::empty(), IFlags::NODUMP, IFlags::NOATIME, IFlags::APPEND, IFlags::IMMUTABLE, INODE_FLAGS];
    prop_oneof![
        3 => (slot(), select(flags.to_vec())).prop_map(|(slot, flags)| Operation::SetFlags { slot, flags }),
        1 => slot().prop_map(|slot| Operation::InodeFlags { slot }),
        1 => (slot(), select(inode_flags.to_vec()))
            .prop_map(|(slot, flags)| Operation::SetInodeFlags { slot, flags }),
        2 => (slot(), lock()).prop_map(|(slot, lock)| Operation::Flock { slot, lock }),
        2 => (slot(), lock()).prop_map(|(slot, lock)| Operation::RecordLock { slot, lock }),
        1 => (slot(), path()).prop_map(|(slot, path)| Operation::LinkHandle { slot, path }),
        1 => (slot(), path(), mode()).prop_map(|(slot, path, mode)| Operation::OpenNameless {
            slot, path, flags: OFlags::RDWR, mode
        }),
    ]
}

/// What a process sets for itself.
fn process() -> impl Strategy<Value = Operation> {
    prop_oneof![
        select(vec![0o000, 0o022, 0o027, 0o077, 0o777]).prop_map(|mask| Operation::Umask { mask }),
        prop::option::of(offset()).prop_map(|bytes| Operation::LimitFileSize { bytes }),
    ]
}

/// An owner or group to set, or none.
fn id() -> impl Strategy<Value = Option<u32>> {
    prop::option::of(select(&IDS[..]))
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
        3 => rename(vec![RenameFlags::empty(), RenameFlags::NOREPLACE, RenameFlags::EXCHANGE, RenameFlags::WHITEOUT]),
        2 => link(),
        2 => (target, path()).prop_map(|(target, path)| Operation::Symlink { target, path }),
        2 => path().prop_map(|path| Operation::Unlink { path }),
        3 => mkdir(),
        1 => path().prop_map(|path| Operation::Rmdir { path }),
        1 => (path(), mode()).prop_map(|(path, mode)| Operation::MakeFifo { path, mode }),
        1 => (path(), mode()).prop_map(|(path, mode)| Operation::MakeSocket { path, mode }),
        1 => (path(), mode()).prop_map(|(path, mode)| Operation::MakeDevice { path, mode }),
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
        let names = [
            "user.a",
            "user.b",
            "trusted.c",
            "security.d",
            "security.capability",
            "system.posix_acl_access",
            "system.posix_acl_default",
            "system.unknown",
            "user.",
            "unknown.e",
            "",
        ];
        select(names.to_vec()).prop_map(str::to_owned)
    };
    let named = |name: &str| Just(name.to_owned());
    let pair = prop_oneof![
        6 => (name(), content(5_000).prop_map(Value::Noise)),
        4 => (named("system.posix_acl_access"), access_list()),
        3 => (named("system.posix_acl_default"), access_list()),
        2 => (named("security.capability"), capabilities()),
    ];
    // None, XATTR_CREATE, XATTR_REPLACE.
    let set = (path(), pair, select(vec![0, 0, 0, 1, 2u32]));
    prop_oneof![
        2 => set.prop_map(|(path, (name, value), how)| Operation::SetXattr { path, name, value, how }),
        1 => (path(), name(), select(vec![0usize, 1, 100, 10_000]))
            .prop_map(|(path, name, room)| Operation::GetXattr { path, name, room }),
        1 => path().prop_map(|path| Operation::ListXattr { path }),
        1 => (path(), name()).prop_map(|(path, name)| Operation::RemoveXattr { path, name }),
    ]
}

/// An access control list, as setfacl(1) hands it to the kernel: acl(5).
fn access_list() -> impl Strategy<Value = Value> {
    const NO_ID: u32 = u32::MAX;
    let bits = 0..8u16;
    let named = |tag: u16| prop::option::of((Just(tag), bits.clone(), select(&IDS[..])));
    let entries = (bits.clone(), named(2), bits.clone(), named(8), bits.clone(), bits.clone());
    entries.prop_map(|(user, named_user, group, named_group, mask, other)| {
        let mut entries = vec![(1, user, NO_ID)];
        entries.extend(named_user);
        entries.push((4, group, NO_ID));
        entries.extend(named_group);
        if named_user.is_some() || named_group.is_some() {
            entries.push((16, mask, NO_ID));
        }
        entries.push((32, other, NO_ID));
        let mut bytes = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in &entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        Value::Known(format!("acl {entries:?}"), bytes)
    })
}

/// Capabilities of a program: capabilities(7). Revision 2, effective, CAP_NET_RAW or none.
fn capabilities() -> impl Strategy<Value = Value> {
    select(vec![0u32, 1 << 13]).prop_map(|permitted| {
        let words = [0x0200_0001, permitted, 0, 0, 0];
        let bytes = words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
        Value::Known(format!("capabilities {permitted:#x}"), bytes)
    })
}

fn looks() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (path(), follow()).prop_map(|(path, flags)| Operation::Stat { path, flags }),
        (path(), 0..8u8, select(vec![AtFlags::empty(), AtFlags::EACCESS]))
            .prop_map(|(path, mode, flags)| Operation::Access { path, mode, flags }),
        path().prop_map(|path| Operation::Readlink { path }),
        path().prop_map(|path| Operation::ReadDir { path }),
        Just(Operation::ReadDir { path: ".".to_owned() }),
        path().prop_map(|path| Operation::StatFs { path }),
    ]
}

/// All modes, those too that the FUSE protocol does not carry.
fn fallocate() -> impl Strategy<Value = Operation> {
    let modes = [
        FallocateFlags::empty(),
        KEEP,
        FallocateFlags::PUNCH_HOLE.union(KEEP),
        FallocateFlags::PUNCH_HOLE,
        FallocateFlags::ZERO_RANGE,
        FallocateFlags::ZERO_RANGE.union(KEEP),
        FallocateFlags::COLLAPSE_RANGE,
        FallocateFlags::INSERT_RANGE,
    ];
    (slot(), select(modes.to_vec()), offset(), offset())
        .prop_map(|(slot, mode, offset, len)| Operation::Fallocate { slot, mode, offset, len })
}

/// Mostly one that is in use already.
fn slot() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(0), 2 => Just(1), 1 => 2..SLOTS]
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

fn mode() -> impl Strategy<Value = u32> {
    prop_oneof![
        select(vec![0o644, 0o755, 0o777, 0o666, 0o600, 0o000]),
        select(vec![0o1777, 0o4755, 0o2755, 0o6777, 0o2777, 0o2644]),
        0..0o10000u32,
    ]
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
