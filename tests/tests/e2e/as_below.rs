//! The same lines of Python print the same in a plain directory and in an overlay over it.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use bywash_tests::harness::{Bywash, Settings};
use nix::unistd::Uid;
use serde_json::{Value, json};

use crate::overlay::{NO_BROKER, python};

/// What `lines` of Python print for the directory below, before there is an overlay, and then for the overlay. They see
/// `path`, a new directory, and act as root.
fn below_and_above(name: &str, lines: &str) -> (Value, Value) {
    let mut bywash = Bywash::new(NO_BROKER, &Settings::default());
    let fresh = |suffix: &str| {
        let path = bywash.file(&format!("{name}-{suffix}"));
        fs::create_dir(&path).unwrap();
        path
    };
    let (first, second) = (fresh("below"), fresh("above"));
    for path in [bywash.root(), bywash.directory(), &first, &second] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let below = python(&first, lines);
    bywash.start_agent();
    (below, python(&second, lines))
}

#[track_caller]
pub fn assert_same_below_and_above(name: &str, lines: &str) {
    let (below, above) = below_and_above(name, lines);
    assert_eq!(above, below);
}

#[test]
fn set_id_bits_go_as_below() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can act as others");
    }
    assert_same_below_and_above(
        "set-id",
        r#"
seen = {}
def as_user(gids, do):
    pid = os.fork()
    if pid == 0:
        os.setgroups(gids); os.setgid(4000); os.setuid(4000)
        try: do()
        except OSError as e: os._exit(e.errno)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def write(f):
    fd = os.open(f, os.O_WRONLY); os.write(fd, b"x"); os.close(fd)
def mapped(f):
    fd = os.open(f, os.O_RDWR); os.write(fd, b"x"); os.close(fd)
acts = {
    "write": write, "read-write": mapped,
    "truncate": lambda f: os.truncate(f, 1),
    "open": lambda f: os.close(os.open(f, os.O_WRONLY | os.O_TRUNC)),
    "chgrp": lambda f: os.chown(f, -1, 4000),
    "chmod": lambda f: os.chmod(f, 0o6755),
    "fallocate": lambda f: os.posix_fallocate(os.open(f, os.O_WRONLY), 0, 100),
}
for name, act in acts.items():
    for mode in (0o6777, 0o2767, 0o4766, 0o666):
        for gids in ([], [4001]):
            f = f"{path}/{name}-{mode:o}-{len(gids)}"
            open(f, "wb").write(b"content")
            os.chown(f, 4000, 4001); os.chmod(f, mode)
            os.stat(f)
            result = as_user(gids, lambda: act(f))
            seen[f[len(path):]] = [result, oct(os.stat(f).st_mode)]
for name, act in acts.items():
    f = f"{path}/root-{name}"
    open(f, "wb").write(b"content"); os.chmod(f, 0o6755)
    act(f)
    seen["root " + name] = oct(os.stat(f).st_mode)
print(json.dumps(seen))
"#,
    );
}

#[test]
fn acls_masks_and_sticky_directories_are_as_below() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can act as others");
    }
    assert_same_below_and_above(
        "acl",
        r#"
import struct
def acl(*entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)
NONE = 0xffffffff
seen = []
def as_user(uid, do):
    pid = os.fork()
    if pid == 0:
        os.setgroups([]); os.setgid(uid); os.setuid(uid)
        try: do()
        except OSError as e: os._exit(e.errno)
        os._exit(0)
    seen.append([uid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])])
def mode(name): seen.append(oct(os.stat(f"{path}/{name}").st_mode))
try:
    f = f"{path}/private"
    open(f, "wb").write(b"secret"); os.chmod(f, 0o600)
    as_user(4000, lambda: open(f).read())
    os.setxattr(f, "system.posix_acl_access", acl((1,6,NONE),(2,4,4000),(4,0,NONE),(16,4,NONE),(32,0,NONE)))
    mode("private")
    for uid in (4000, 4001):
        as_user(uid, lambda: open(f).read())
        as_user(uid, lambda: open(f, "ab").write(b"x"))
    os.removexattr(f, "system.posix_acl_access")
    as_user(4000, lambda: open(f).read())
    d = f"{path}/defaults"
    os.mkdir(d)
    os.setxattr(d, "system.posix_acl_default", acl((1,7,NONE),(2,6,4000),(4,5,NONE),(16,7,NONE),(32,1,NONE)))
    os.umask(0o077)
    open(f"{d}/file", "wb").close(); os.mkdir(f"{d}/dir"); os.mknod(f"{d}/node", 0o100664)
    for n in ("file", "dir", "node"): mode(f"defaults/{n}")
    seen.append(os.getxattr(f"{d}/file", "system.posix_acl_access").hex())
    seen.append(os.getxattr(f"{d}/dir", "system.posix_acl_default").hex())
except OSError as e:
    seen.append(f"acl: {errno.errorcode[e.errno]}")
for mask in (0o000, 0o022, 0o027, 0o777):
    os.umask(mask)
    open(f"{path}/m{mask}", "wb").close(); os.mkdir(f"{path}/d{mask}"); os.mkfifo(f"{path}/p{mask}", 0o666)
    for kind in "mdp": mode(f"{kind}{mask}")
os.umask(0)
sticky = f"{path}/sticky"
os.mkdir(sticky); os.chmod(sticky, 0o1777)
open(f"{sticky}/roots", "wb").close(); os.chmod(f"{sticky}/roots", 0o666)
as_user(4000, lambda: open(f"{sticky}/own", "wb").close())
as_user(4001, lambda: os.unlink(f"{sticky}/own"))
as_user(4001, lambda: os.unlink(f"{sticky}/roots"))
as_user(4000, lambda: os.rename(f"{sticky}/own", f"{sticky}/renamed"))
as_user(4000, lambda: os.unlink(f"{sticky}/renamed"))
group = f"{path}/group"
os.mkdir(group); os.chown(group, 0, 4001); os.chmod(group, 0o2777)
as_user(4000, lambda: os.close(os.open(f"{group}/file", os.O_CREAT | os.O_WRONLY, 0o2775)))
as_user(4000, lambda: os.mkdir(f"{group}/dir"))
for n in ("file", "dir"):
    s = os.stat(f"{group}/{n}"); seen.append([oct(s.st_mode), s.st_uid, s.st_gid])
print(json.dumps(seen))
"#,
    );
}

#[test]
fn locks_space_holes_limits_and_times_are_as_below() {
    assert_same_below_and_above(
        "rest",
        r#"
import resource, signal, ctypes, struct
seen = []
def attempt(do):
    try: seen.append(do())
    except OSError as e: seen.append(errno.errorcode[e.errno])
def other(do):
    pid = os.fork()
    if pid == 0:
        try: do()
        except OSError as e: os._exit(e.errno)
        os._exit(0)
    seen.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
f = f"{path}/file"
fd = os.open(f, os.O_RDWR | os.O_CREAT, 0o644)
def locking(call, how): return lambda: call(os.open(f, os.O_RDWR), how | fcntl.LOCK_NB)
for call in (fcntl.flock, fcntl.lockf):
    call(fd, fcntl.LOCK_EX); other(locking(call, fcntl.LOCK_EX)); other(locking(call, fcntl.LOCK_SH))
    call(fd, fcntl.LOCK_SH); other(locking(call, fcntl.LOCK_SH)); other(locking(call, fcntl.LOCK_EX))
    call(fd, fcntl.LOCK_UN); other(locking(call, fcntl.LOCK_EX))
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
os.pwrite(fd, b"a" * 65536, 0)
# Those that move data along (8, 32) the kernel does not hand on to FUSE: EOPNOTSUPP.
for mode in (0, 1, 3, 16, 17, 64, 2, 1024):
    r = libc.fallocate(fd, mode, 8192, 16384)
    seen.append([mode, r, errno.errorcode.get(ctypes.get_errno()) if r else None, os.fstat(fd).st_size])
h = os.open(f"{path}/holes", os.O_RDWR | os.O_CREAT)
os.pwrite(h, b"x" * 4096, 1 << 20); os.ftruncate(h, 1 << 22)
for offset in (0, 1 << 20, (1 << 20) + 1, 1 << 21, 1 << 22):
    for whence in (os.SEEK_DATA, os.SEEK_HOLE): attempt(lambda: os.lseek(h, offset, whence))
a, b = f"{path}/a", f"{path}/b"
open(a, "w").write("a"); open(b, "w").write("b")
AT = -100
def renameat2(flags):
    r = libc.syscall(316, AT, a.encode(), AT, b.encode(), flags) if os.uname().machine == "x86_64" else libc.renameat2(AT, a.encode(), AT, b.encode(), flags)
    seen.append([r, errno.errorcode.get(ctypes.get_errno()) if r else None, [open(x).read() if os.path.exists(x) else None for x in (a, b)]])
for flags in (1, 2, 3): renameat2(flags)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def limited():
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
    l = os.open(f"{path}/limited", os.O_WRONLY | os.O_CREAT)
    if os.write(l, b"x" * 20) != 10: os._exit(99)
    os.write(l, b"x")
other(limited)
seen.append(os.path.getsize(f"{path}/limited"))
def full():
    resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
    while True: os.open(f, os.O_RDONLY)
other(full)
os.utime(f, ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321))
s = os.stat(f); seen.append([s.st_atime_ns, s.st_mtime_ns])
os.utime(f, ns=(-1_500_000_000, -1))
s = os.stat(f); seen.append([s.st_atime_ns, s.st_mtime_ns])
o = os.open(f, os.O_RDWR | os.O_SYNC); attempt(lambda: os.write(o, b"sync"))
u = os.open(f"{path}/unlinked", os.O_RDWR | os.O_CREAT); os.unlink(f"{path}/unlinked")
attempt(lambda: os.write(u, b"still")); seen.append([os.fstat(u).st_nlink, os.pread(u, 9, 0).decode()])
print(json.dumps(seen))
"#,
    );
}

#[test]
fn limits_of_file_sizes_are_as_below() {
    assert_same_below_and_above(
        "file-sizes",
        r#"
import resource, signal, ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
seen, signals = [], []
signal.signal(signal.SIGXFSZ, lambda *_: signals.append(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
def attempt(do):
    signals.clear()
    try: result = do()
    except OSError as e: result = errno.errorcode[e.errno]
    seen.append([result, len(signals)])
def fallocate(mode, length):
    if libc.fallocate(fd, mode, 0, length): raise OSError(ctypes.get_errno(), "")
for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND):
    f = f"{path}/{flags}"
    fd = os.open(f, flags | os.O_CREAT)
    attempt(lambda: os.write(fd, b"x" * 2000)); attempt(lambda: os.write(fd, b"x"))
    attempt(lambda: os.pwrite(fd, b"x" * 10, 995)); attempt(lambda: os.pwrite(fd, b"x" * 10, 2000))
    attempt(lambda: os.ftruncate(fd, 2000)); attempt(lambda: os.truncate(f, 2000)); attempt(lambda: os.truncate(f, 900))
    for mode, length in ((0, 5000), (1, 5000), (0, 1000)): attempt(lambda: fallocate(mode, length))
    attempt(lambda: os.fstat(fd).st_size)
print(json.dumps(seen))
"#,
    );
}

#[test]
fn attributes_that_are_the_administrators_are_named_to_nobody_else() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can set such attributes");
    }
    assert_same_below_and_above(
        "trusted",
        r#"
f = f"{path}/file"
open(f, "wb").close(); os.chmod(f, 0o666)
seen = []
for name in ("trusted.a", "user.b", "trusted.c"): os.setxattr(f, name, b"1")
seen.append(sorted(os.listxattr(f)))
def as_user(do):
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([]); os.setgid(4000); os.setuid(4000)
        os.write(w, json.dumps(do()).encode()); os._exit(0)
    os.waitpid(pid, 0); os.close(w)
    seen.append(os.read(r, 10000).decode()); os.close(r)
as_user(lambda: os.listxattr(f))
os.removexattr(f, "user.b")
as_user(lambda: os.listxattr(f))
print(json.dumps(seen))
"#,
    );
}

#[test]
fn a_program_that_runs_is_not_cut() {
    assert_same_below_and_above(
        "program",
        r#"
import shutil, subprocess
seen = []
def attempt(flags):
    f = shutil.copy("/bin/sleep", f"{path}/{flags:o}")
    whole = os.stat(f).st_size
    process = subprocess.Popen([f, "600"])
    try:
        os.close(os.open(f, flags))
        seen.append("opened")
    except OSError as e:
        seen.append(e.errno)
    seen.append([os.stat(f).st_size == whole, process.poll()])
    process.kill(); process.wait()
    os.close(os.open(f, flags))
    seen.append([os.stat(f).st_size == 0])
for access in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
    attempt(access | os.O_TRUNC)
print(json.dumps(seen))
"#,
    );
}

#[test]
fn flags_of_inodes_and_who_may_change_them_are_as_below() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can set flags");
    }
    assert_same_below_and_above(
        "inode-flags",
        r#"
import ctypes, struct
GET, SET, VERSION, XGET, XSET = 0x80086601, 0x40086602, 0x80087601, 0x801c581f, 0x401c5820
IMMUTABLE, APPEND, NODUMP, SYNC, JOURNAL = 0x10, 0x20, 0x40, 0x8, 0x4000
seen = []
def attempt(do):
    try: return do()
    except OSError as e: return errno.errorcode[e.errno]
def get(fd): return struct.unpack("I", fcntl.ioctl(fd, GET, bytes(8))[:4])[0]
def put(fd, flags): return fcntl.ioctl(fd, SET, struct.pack("I", flags) + bytes(4)) and None
def extended(fd): return list(struct.unpack("IIIII", fcntl.ioctl(fd, XGET, bytes(28))[:20]))
def put_extended(fd, values): return fcntl.ioctl(fd, XSET, struct.pack("IIIII", *values) + bytes(8)) and None
libc = ctypes.CDLL(None, use_errno=True)
def child(do, uid=0, drop=None, namespace=False):
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        if namespace: libc.unshare(0x10000000)
        if uid: os.setgroups([]); os.setgid(uid); os.setuid(uid)
        if drop is not None:
            libc.prctl(24, drop, 0, 0, 0)
            header = struct.pack("II", 0x20080522, 0)
            data = ctypes.create_string_buffer(24)
            libc.capget(header, data)
            low = struct.unpack_from("III", data)
            struct.pack_into("III", data, 0, *[caps & ~(1 << drop) for caps in low])
            libc.capset(header, data)
        os.write(w, json.dumps(attempt(do)).encode()); os._exit(0)
    os.close(w); os.waitpid(pid, 0)
    answer = json.loads(os.read(r, 1000)); os.close(r)
    return answer
f, d = f"{path}/file", f"{path}/dir"
open(f, "w").write("content"); os.mkdir(d); os.chown(f, 4000, 4000); os.chown(d, 4000, 4000); os.chmod(f, 0o666)
for name in (f, d):
    fd = os.open(name, os.O_RDONLY)
    plain = attempt(lambda: get(fd))
    seen.append([plain, attempt(lambda: extended(fd)), attempt(lambda: fcntl.ioctl(fd, VERSION, bytes(8))) != "ENOTTY"])
    if type(plain) is str: continue
    for flags in (NODUMP, SYNC, APPEND, IMMUTABLE, JOURNAL, 0x80000000):
        before = os.stat(name).st_ctime_ns
        for who in ({}, {"uid": 4000}, {"uid": 4001}, {"drop": 9}, {"namespace": True}):
            seen.append([flags, child(lambda: put(fd, plain | flags), **who), get(fd)])
            seen.append(child(lambda: put(fd, plain), **who))
        seen.append([attempt(lambda: put(fd, plain)), os.stat(name).st_ctime_ns > before])
    values = extended(fd)
    for changed in ([values[0] | 0x80, *values[1:]], [values[0], 4096, *values[2:]], [*values[:3], 4711, values[4]]):
        for who in ({}, {"uid": 4000}, {"uid": 4001}, {"drop": 9}, {"namespace": True}):
            seen.append([child(lambda: put_extended(fd, changed), **who), extended(fd)])
            attempt(lambda: put_extended(fd, values))
    # What they do, also to descriptors that are open.
    opened = os.open(f, os.O_RDWR) if name == f else None
    for flags in (APPEND, IMMUTABLE):
        put(fd, plain | flags)
        for do in (
            lambda: os.close(os.open(f, os.O_WRONLY)), lambda: os.close(os.open(f, os.O_WRONLY | os.O_APPEND)),
            lambda: os.close(os.open(f, os.O_WRONLY | os.O_APPEND | os.O_TRUNC)), lambda: os.truncate(f, 3),
            lambda: os.chmod(name, 0o777), lambda: os.chown(name, 0, 0), lambda: os.utime(name), lambda: os.utime(name, (1, 1)),
            lambda: os.setxattr(name, "user.a", b"a"), lambda: os.link(f, f"{d}/link"), lambda: os.rename(f, f"{path}/other"),
            lambda: open(f"{d}/new", "w").close(), lambda: os.unlink(f"{d}/new"), lambda: os.mkdir(f"{d}/sub"),
            lambda: os.rmdir(f"{d}/sub"), lambda: opened and os.pwrite(opened, b"P", 0), lambda: opened and os.ftruncate(opened, 3),
            lambda: opened and os.pwritev(opened, [b"Q"], 0, 0x10), lambda: opened and os.posix_fallocate(opened, 0, 10),
        ): seen.append(attempt(do))
        put(fd, plain)
        for name_left in (f"{d}/new", f"{d}/link"): attempt(lambda: os.unlink(name_left))
        attempt(lambda: os.rmdir(f"{d}/sub")); attempt(lambda: os.rename(f"{path}/other", f))
        seen.append(open(f).read())
# No such commands.
fd = os.open(f, os.O_RDWR)
for command in (0x5401, 0x541B, 0x80041272, 0x40045431): seen.append(attempt(lambda: len(fcntl.ioctl(fd, command, bytes(64)))))
seen.append(attempt(lambda: fcntl.ioctl(os.open(f"{path}/clone", os.O_RDWR | os.O_CREAT), 0x40049409, fd)))
print(json.dumps(seen))
"#,
    );
}

#[test]
fn an_overlay_over_a_mount_with_mapped_ids_maps_them_and_none_maps_an_overlays() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can map the ids of a mount");
    }
    let mut bywash = Bywash::new(NO_BROKER, &Settings::default());
    let source = bywash.root().join("source");
    fs::create_dir(&source).unwrap();
    for path in [bywash.root(), &source] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    // Mounts `path` at `to` with the ids from 0 on shown as those from 100000 on.
    let map = |path: &Path, to: &Path| {
        python(
            path,
            &format!(
                r#"
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    if (r := libc.syscall(*arguments)) < 0: raise OSError(ctypes.get_errno(), "")
    return r
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR, AT = 428, 429, 442, -100
ready, done = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    libc.unshare(0x10000000); os.write(ready[1], b"x"); os.read(done[0], 1); os._exit(0)
os.read(ready[0], 1)
for kind in "ug": open(f"/proc/{{pid}}/{{kind}}id_map", "w").write("0 100000 65536")
namespace = os.open(f"/proc/{{pid}}/ns/user", os.O_RDONLY)
try:
    tree = call(OPEN_TREE, AT, path.encode(), 1 | os.O_CLOEXEC)
    call(MOUNT_SETATTR, tree, b"", 0x1000, struct.pack("QQQQ", 0x100000, 0, 0, namespace), 32)
    call(MOVE_MOUNT, tree, b"", AT, {to:?}.encode(), 4)
    said = None
except OSError as e: said = errno.errorcode[e.errno]
os.write(done[1], b"x"); os.waitpid(pid, 0)
print(json.dumps(said))
"#
            ),
        )
    };
    if let Value::String(said) = map(&source, bywash.directory()) {
        return println!("skipped: the filesystem of {} maps no ids: {said}", source.display());
    }
    fs::write(source.join("old"), "").unwrap();
    bywash.start_agent();
    let seen = python(
        bywash.directory(),
        r#"
pid = os.fork()
if pid == 0:
    os.setgroups([]); os.setgid(100008); os.setuid(100007)
    open(f"{path}/new", "w").close(); os.mkdir(f"{path}/dir"); os._exit(0)
os.waitpid(pid, 0)
print(json.dumps([[os.stat(f"{path}/{name}").st_uid, os.stat(f"{path}/{name}").st_gid] for name in ("old", "new", "dir")]))
"#,
    );
    assert_eq!(seen, json!([[100_000, 100_000], [100_007, 100_008], [100_007, 100_008]]));
    for name in ["new", "dir"] {
        let below = fs::metadata(source.join(name)).unwrap();
        assert_eq!((below.uid(), below.gid()), (7, 8));
    }
    let elsewhere = bywash.root().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    assert_eq!(map(bywash.directory(), &elsewhere), json!("EINVAL"));
}
