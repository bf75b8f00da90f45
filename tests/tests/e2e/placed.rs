//! Where a write lands and what it waits for, as the flags of its descriptor and of the call itself say.

use std::{fs, io::Write, os::fd::AsRawFd, path::Path, process::Command};

use bywash_tests::harness::{Broker, Bywash, Capture, Settings, process};
use nix::unistd::Uid;
use serde_json::json;

use crate::{
    as_below::assert_same_below_and_above,
    overlay::{NO_BROKER, python},
};

#[test]
fn flags_of_a_call_and_flags_set_later_place_writes_as_below() {
    assert_same_below_and_above(
        "flags",
        r#"
import threading
APPEND, NOAPPEND = 0x10, 0x20
MIB = 1 << 20
seen = []
def attempt(do):
    try: return do()
    except OSError as e: return errno.errorcode[e.errno]
def write(fd, data, at, flags): return attempt(lambda: os.pwritev(fd, [data], at, flags))
def file(name, flags, content=b"0123456789"):
    f = f"{path}/{name}"
    open(f, "wb").write(content)
    return os.open(f, os.O_RDWR | flags)
def content(fd): return os.pread(fd, 100, 0).decode()
def set_flags(fd, flags): fcntl.fcntl(fd, fcntl.F_SETFL, flags)
for opened in (0, os.O_APPEND):
    for flags in (0, APPEND, NOAPPEND, APPEND | NOAPPEND):
        for at in (0, 3, 9, 10, 11, 15):
            fd = file(f"{opened}-{flags}-{at}", opened)
            seen.append([opened, flags, at, [write(fd, b"AB", at, flags) for _ in range(2)], content(fd)])
            os.lseek(fd, 1, os.SEEK_SET)
            seen.append([os.write(fd, b"z"), os.lseek(fd, 0, os.SEEK_CUR), content(fd)])
    # Set and cleared again while it is open; and a truncation in between.
    fd = file(f"{opened}-set", opened)
    for now in (os.O_APPEND, 0, os.O_APPEND):
        set_flags(fd, now)
        os.lseek(fd, 2, os.SEEK_SET)
        seen.append([os.write(fd, b"CD"), os.lseek(fd, 0, os.SEEK_CUR), content(fd)])
        seen.append([write(fd, b"EF", 4, NOAPPEND), content(fd)])
    os.ftruncate(fd, 5)
    seen.append([os.write(fd, b"g"), write(fd, b"H", 5, NOAPPEND), write(fd, b"I", 0, NOAPPEND), content(fd)])
    os.posix_fallocate(fd, 0, 20)
    seen.append([os.write(fd, b"k"), write(fd, b"l", 7, NOAPPEND), content(fd)])
# More than one request each.
fd = file("large", os.O_APPEND, b"." * (3 * MIB))
seen.append([write(fd, b"n" * (2 * MIB + 7), 5, NOAPPEND), os.fstat(fd).st_size, os.write(fd, b"a" * (2 * MIB + 3)), os.fstat(fd).st_size])
whole = os.pread(fd, 6 * MIB, 0)
seen.append([whole.count(b"n"), whole.find(b"n"), whole.count(b"a"), whole.find(b"a")])
# Two descriptors, one of which appends; sizes around 2^31; offsets that no file has.
fd, place = file("two", os.O_APPEND), os.open(f"{path}/two", os.O_WRONLY)
for size in (12, (1 << 31) - 1, 1 << 31, (1 << 32) - 1):
    os.ftruncate(place, size)
    seen.append([os.write(fd, b"xy"), os.pwrite(place, b"pq", size - 1), write(fd, b"-", size - 2, NOAPPEND), write(place, b"+", 0, APPEND)])
    seen.append([os.fstat(fd).st_size - size, os.pread(fd, 10, size - 2).decode()])
for at in (1 << 62, (1 << 63) - 1, -1, -2): seen.append(attempt(lambda: os.pwrite(place, b"x", at)))
# Many threads, each in its own way, lose nothing of what was appended.
fd, place = file("threads", os.O_APPEND, b"." * 100), os.open(f"{path}/threads", os.O_RDWR)
def appends(letter): [os.write(fd, letter * 10) for _ in range(50)]
def places(): [write(fd, b"p", i, NOAPPEND) for i in range(50)]
def appends_too(): [write(place, b"q" * 10, 0, APPEND) for _ in range(50)]
threads = [threading.Thread(target=t, args=a) for t, a in ((appends, (b"r",)), (appends, (b"s",)), (places, ()), (appends_too, ()))]
[t.start() for t in threads]; [t.join() for t in threads]
whole = os.pread(fd, 10000, 0)
seen.append([len(whole), whole[:100].decode(), [whole.count(c * 10) for c in (b"q", b"r", b"s")]])
print(json.dumps(seen))
"#,
    );
}

#[test]
fn what_is_appended_behind_the_overlay_is_not_overwritten_and_offsets_are_true() {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &Settings::default());
    let path = bywash.file("log");
    let mut behind = fs::File::options().create(true).append(true).open(&path).unwrap();
    bywash.start_agent();
    bywash.start_publisher();
    let descriptor = format!("/proc/{}/fd/{}", std::process::id(), behind.as_raw_fd());
    behind.write_all(b"older\n").unwrap();
    // The reader of `descriptor` opens the file behind the overlay as well.
    let content = python(
        &path,
        &format!(
            r#"
behind = os.open("{descriptor}", os.O_WRONLY | os.O_APPEND)
def appender(flags):
    fd = os.open(path, os.O_WRONLY | flags)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    return fd
later, from_start = appender(0), appender(os.O_APPEND)
os.write(later, b"one\n")
os.write(behind, b"BEHIND\n")
os.write(later, b"two\n")
os.write(behind, b"BEHIND AGAIN\n")
os.write(from_start, b"three\n")
os.pwritev(from_start, [b"OLDER"], 0, 0x20)
os.write(behind, b"AND AGAIN\n")
os.write(later, b"four\n")
print(json.dumps(open("{descriptor}").read()))
"#
        ),
    );
    assert_eq!(content, "OLDER\none\nBEHIND\ntwo\nBEHIND AGAIN\nthree\nAND AGAIN\nfour\n");
    let seen: Vec<_> = broker
        .read("logs")
        .events(5)
        .iter()
        .map(|event| (event.offset(), String::from_utf8(event.message().to_vec()).unwrap()))
        .collect();
    let expected = [(6, "one\n"), (17, "two\n"), (34, "three\n"), (0, "OLDER"), (50, "four\n")];
    assert_eq!(seen, expected.map(|(offset, text)| (offset, text.to_owned())));
}

#[test]
fn appends_that_the_disk_cuts_short_have_their_place_and_their_length() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can mount a small filesystem to fill up");
    }
    let mut bywash = Bywash::new(NO_BROKER, &Settings::default());
    process::must_run(
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(bywash.directory()),
    );
    bywash.start_agent();
    let mut capture = Capture::attach(&bywash.ring);
    let cut = python(
        bywash.directory(),
        r#"
filler = os.open(f"{path}/filler", os.O_WRONLY | os.O_CREAT)
cut = []
for name, opened, later, flags in (
    ("append", os.O_APPEND, os.O_APPEND, 0), ("set", 0, os.O_APPEND, 0), ("rwf", 0, 0, 0x10),
    ("set-dsync", 0, os.O_APPEND, 2), ("append-dsync", os.O_APPEND, os.O_APPEND, 2), ("cleared", os.O_APPEND, 0, 0x10),
):
    fd = os.open(f"{path}/{name}", os.O_RDWR | os.O_CREAT | opened)
    fcntl.fcntl(fd, fcntl.F_SETFL, later)
    os.write(fd, b"begin")
    # Leaves a few pages.
    os.ftruncate(filler, 0)
    room = os.statvfs(path).f_bavail * os.statvfs(path).f_frsize
    os.posix_fallocate(filler, 0, room - 20000)
    for letter in (b"a", b"b", b"c", b"d"):
        try: cut.append(os.pwritev(fd, [letter * 9000], 0, flags))
        except OSError as e: cut.append(errno.errorcode[e.errno])
    os.ftruncate(filler, 0); os.close(fd)
    os.truncate(f"{path}/{name}", 15000)
    with open(f"{path}/{name}", "ab", 0) as f: f.write(b"end")
print(json.dumps(cut))
"#,
    );
    let results = cut.as_array().unwrap();
    assert!(results.iter().any(|result| result == "ENOSPC"), "{cut}");
    assert!(results.iter().any(|result| result.as_u64().is_some_and(|n| n < 9000)), "{cut}");
    let captured = capture.take();
    for name in ["append", "set", "rwf", "set-dsync", "append-dsync", "cleared"] {
        let path = bywash.file(name);
        let mut replayed = Vec::new();
        for write in captured.iter().filter(|write| write.path == path.as_os_str().as_encoded_bytes()) {
            let begin = usize::try_from(write.offset).unwrap();
            if write.data == b"end" {
                replayed.truncate(15_000);
            }
            assert_eq!(begin, replayed.len(), "{name}: {:?}", &write.data[..3]);
            replayed.extend_from_slice(&write.data);
        }
        assert!(replayed == fs::read(&path).unwrap(), "{name}");
    }
}

#[test]
fn a_write_that_waits_for_the_disk_is_on_it() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can mount a filesystem to look beneath");
    }
    let mut bywash = Bywash::new(NO_BROKER, &Settings::default());
    let disk = bywash.root().join("disk");
    fs::File::create(&disk).unwrap().set_len(16 << 20).unwrap();
    process::must_run(Command::new("mkfs.ext4").arg("-q").arg(&disk));
    process::must_run(Command::new("mount").args(["-o", "loop"]).arg(&disk).arg(bywash.directory()));
    bywash.start_agent();
    let on_disk = |text: &str| contains(&disk, text.as_bytes());
    let lines = r#"
import ctypes
DSYNC, SYNC = 0x2, 0x4
def write(name, opened, later, flags):
    fd = os.open(f"{path}/{name}", os.O_RDWR | os.O_CREAT | opened)
    if later: fcntl.fcntl(fd, fcntl.F_SETFL, later)
    os.pwritev(fd, [f"[{name}]".encode()], 0, flags)
write("rwf-dsync", 0, 0, DSYNC)
write("rwf-sync", 0, 0, SYNC)
write("append-rwf-dsync", os.O_APPEND, 0, DSYNC)
write("set-append-rwf-dsync", 0, os.O_APPEND, DSYNC)
write("noappend-rwf-dsync", os.O_APPEND, 0, DSYNC | 0x20)
write("o-dsync", os.O_DSYNC, 0, 0)
write("o-sync", os.O_SYNC, 0, 0)
write("o-dsync-rwf-sync", os.O_DSYNC, 0, SYNC)
for name, send in (("sendfile", os.sendfile), ("splice", lambda to, source, at, count: os.splice(source, to, count))):
    ready = os.pipe()
    os.write(ready[1], f"[{name}]".encode())
    source = ready[0]
    if name == "sendfile":
        source = os.open(f"{path}/source", os.O_RDWR | os.O_CREAT)
        os.write(source, f"[{name}]".encode())
    send(os.open(f"{path}/{name}", os.O_WRONLY | os.O_CREAT | os.O_DSYNC), source, 0, 100)
fd = os.open(f"{path}/mapped", os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 4096)
with mmap.mmap(fd, 4096) as m:
    m[0:8] = b"[mapped]"
    m.flush()
fd = os.open(f"{path}/fdatasync", os.O_RDWR | os.O_CREAT)
os.write(fd, b"[fdatasync]"); os.fdatasync(fd)
open(f"{path}/waits-for-nothing", "w").write("[waits-for-nothing]")
print("null")
"#;
    assert_eq!(python(bywash.directory(), lines), json!(null));
    assert!(!on_disk("[waits-for-nothing]"), "this disk has all at once: nothing is shown here");
    for name in [
        "rwf-dsync",
        "rwf-sync",
        "append-rwf-dsync",
        "set-append-rwf-dsync",
        "noappend-rwf-dsync",
        "o-dsync",
        "o-sync",
        "o-dsync-rwf-sync",
        "sendfile",
        "splice",
        "mapped",
        "fdatasync",
    ] {
        assert!(on_disk(&format!("[{name}]")), "{name}");
    }
}

fn contains(path: &Path, text: &[u8]) -> bool {
    fs::read(path).unwrap().windows(text.len()).any(|window| window == text)
}
