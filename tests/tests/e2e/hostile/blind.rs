//! To write without being seen.

use std::{collections::BTreeMap, path::Path};

use bywash_tests::harness::Capture;
use serde_json::Value;

use crate::hostile::{Ground, by_nobody, is_left_out};

/// What a record says of a file, by its name.
type Written = BTreeMap<String, Vec<u8>>;

/// What the records of an agent make of each file in a directory.
fn captured(capture: &mut Capture, directory: &Path) -> Written {
    let mut files = Written::new();
    for write in capture.take() {
        let path = String::from_utf8(write.path).unwrap();
        let name = Path::new(&path).strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
        let content = files.entry(name).or_default();
        let (begin, end) = (
            usize::try_from(write.offset).unwrap(),
            usize::try_from(write.offset).unwrap() + write.data.len(),
        );
        if content.len() < end {
            content.resize(end, 0);
        }
        content[begin..end].copy_from_slice(&write.data);
    }
    files
}

// Guarantee: G2
/// However bytes get into a file, they are in records: of each way the script tells the file's name and its content.
#[test]
fn every_way_to_write_is_captured() {
    if is_left_out("every_way_to_write_is_captured") {
        return;
    }
    let ground = Ground::overlaid();
    let mut capture = Capture::attach(&ground.bywash.ring);
    let seen = by_nobody(
        &ground.above,
        r#"
import tempfile
outside = tempfile.TemporaryFile(); outside.write(b"from outside " * 1000); outside.flush()
def opened(name, flags=os.O_RDWR): return os.open(f"{path}/{name}", flags | os.O_CREAT, 0o644)
def done(name): seen[name] = open(f"{path}/{name}", "rb").read().hex()
def way(name, do, flags=os.O_RDWR):
    fd = opened(name, flags)
    try: do(fd)
    except OSError as e: seen["!" + name] = errno.errorcode[e.errno]
    os.close(fd); done(name)
page = mmap.mmap(-1, 8192); page[:] = b"direct! " * 1024
def mapped(fd):
    os.ftruncate(fd, 8192); m = mmap.mmap(fd, 8192); m[100:106] = b"mapped"; m.flush(); m.close()
def spliced(fd):
    r, w = os.pipe(); os.write(w, b"through a pipe"); os.splice(r, fd, 14); os.close(r); os.close(w)
def child(fd):
    pid = os.fork()
    if pid == 0: os.write(fd, b"by a child"); os._exit(0)
    os.waitpid(pid, 0)
def aio(fd):
    context = ctypes.c_ulong(0)
    checked(libc.syscall(206, 1, ctypes.byref(context)))
    data = ctypes.create_string_buffer(b"asynchronous")
    block = ctypes.create_string_buffer(struct.pack("QIIHhIQQqQII", 0, 0, 0, 1, 0, fd, ctypes.addressof(data), 12, 0, 0, 0, 0))
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(block))
    checked(libc.syscall(209, context, 1, pointers))
    events = ctypes.create_string_buffer(32)
    checked(libc.syscall(208, context, 1, 1, events, None))
def passed(fd):
    a, b = socket.socketpair(socket.AF_UNIX)
    socket.send_fds(a, [b"x"], [fd])
    got = socket.recv_fds(b, 1, 1)[1][0]; os.write(got, b"by a descriptor that was sent"); os.close(got)
def reopened(fd):
    again = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY); os.write(again, b"by /proc"); os.close(again)
way("write", lambda fd: os.write(fd, b"plain"))
way("pwrite", lambda fd: os.pwrite(fd, b"pwrite", 10))
way("writev", lambda fd: os.writev(fd, [b"one", b"two"]))
way("append", lambda fd: os.write(fd, b"appended"), os.O_WRONLY | os.O_APPEND)
way("sync", lambda fd: os.write(fd, b"synchronous"), os.O_WRONLY | os.O_SYNC)
way("direct", lambda fd: os.writev(fd, [page]), os.O_WRONLY | os.O_DIRECT)
for name, flag in (("hipri", 1), ("dsync", 2), ("rwf-sync", 4), ("nowait", 8), ("rwf-append", 16), ("noappend", 32), ("uncached", 128)):
    way(name, lambda fd: os.pwritev(fd, [b"flagged"], 0, flag))
way("mapped", mapped)
way("copied", lambda fd: os.copy_file_range(outside.fileno(), fd, 1000, 0))
way("sent", lambda fd: os.sendfile(fd, outside.fileno(), 0, 1000))
way("spliced", spliced)
way("aio", aio)
way("child", child)
way("passed", passed)
way("reopened", reopened)
way("program", lambda fd: subprocess.run(["sh", "-c", f"echo by another program >&{fd}"], pass_fds=[fd], check=True))
source = opened("source"); os.write(source, b"within the overlay " * 100)
way("copied-within", lambda fd: os.copy_file_range(source, fd, 1000, 0))
way("sent-within", lambda fd: os.sendfile(fd, source, 0, 1000))
done("source")
fd = opened("renamed-away"); os.rename(f"{path}/renamed-away", f"{path}/renamed"); os.write(fd, b"under another name"); done("renamed")
fd = opened("linked-first"); os.link(f"{path}/linked-first", f"{path}/linked"); os.unlink(f"{path}/linked-first"); os.write(fd, b"under its other name"); done("linked")
inside = f"open({path!r} + '/namespace', 'wb').write(b'in namespaces of its own')"
if subprocess.run(["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", inside]).returncode == 0: done("namespace")
"#,
    );
    let records = captured(&mut capture, &ground.above);
    let mut seen = seen.as_object().unwrap().clone();
    let refused: Vec<_> =
        seen.iter().filter(|(name, _)| name.starts_with('!')).map(|(k, v)| format!("{k}: {v}")).collect();
    println!("refused: {refused:?}");
    seen.retain(|name, _| !name.starts_with('!'));
    let mut missed = Vec::new();
    for (name, content) in &seen {
        let content = unhex(content);
        let mut record = records.get(name).cloned().unwrap_or_default();
        // A page of a mapping ends with the file.
        record.resize(content.len().max(record.len()), 0);
        if record != content {
            missed.push(format!(
                "{name}: {} bytes in the file, {:?} in records",
                content.len(),
                records.get(name).map(Vec::len)
            ));
        }
    }
    assert!(seen.len() > 25, "{seen:?}");
    assert!(missed.is_empty(), "{missed:#?}");
}

fn unhex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}
