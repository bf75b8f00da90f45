//! An overlay is the directory below, seen by processes: what the kernel caches, maps, checks and locks for them.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use bywash_tests::harness::{Bywash, Settings, process, wait::TIMEOUT};
use nix::{sys::signal::Signal, unistd::Uid};
use serde_json::Value;

/// A broker that is not there: nothing here needs one.
pub const NO_BROKER: &str = "127.0.0.1:1";

fn overlay() -> Bywash {
    let mut bywash = Bywash::new(NO_BROKER, &Settings::default());
    bywash.start_agent();
    bywash
}

fn captured(bywash: &Bywash, key: &str) -> u64 {
    bywash.agent_status()["captured"][key].as_u64().unwrap()
}

fn content(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

/// Runs a few lines of Python 3, for what Rust's library does not offer. They see `path`.
#[track_caller]
pub fn python(path: &Path, lines: &str) -> Value {
    let script = format!("import sys, os, json, mmap, fcntl, errno\npath = sys.argv[1]\n{lines}");
    let out = process::must_run(Command::new("python3").arg("-c").arg(script).arg(path));
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"))
}

#[test]
fn opens_of_one_file_mix_in_any_order() {
    let bywash = overlay();
    let open_for = |kind: usize, path: &Path| {
        File::options().read(kind != 1).write(kind != 0).open(path).unwrap_or_else(|e| panic!("open: {e}"))
    };
    for first in 0..3 {
        for second in 0..3 {
            for third in 0..3 {
                let path = bywash.file(&format!("{first}{second}{third}"));
                fs::write(&path, b"begin").unwrap();
                let files: Vec<_> = [first, second, third].map(|kind| (kind, open_for(kind, &path))).into();
                let mut expected = b"begin".to_vec();
                for (i, (kind, file)) in files.iter().enumerate() {
                    if *kind != 0 {
                        file.write_all_at(&[b'0' + u8::try_from(i).unwrap()], expected.len() as u64).unwrap();
                        expected.push(b'0' + u8::try_from(i).unwrap());
                    }
                    for (kind, file) in &files {
                        if *kind != 1 {
                            let mut seen = vec![0; 100];
                            let len = file.read_at(&mut seen, 0).unwrap();
                            assert_eq!(&seen[..len], expected, "{first}{second}{third}, after write {i}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_reader_sees_what_is_appended_at_once() {
    let bywash = overlay();
    let path = bywash.file("log");
    fs::write(&path, b"").unwrap();
    for writer_first in [false, true] {
        let append = || File::options().append(true).open(&path).unwrap();
        let (mut writer, mut reader) = if writer_first {
            (append(), File::open(&path).unwrap())
        } else {
            let reader = File::open(&path).unwrap();
            (append(), reader)
        };
        reader.seek(SeekFrom::End(0)).unwrap();
        for i in 0..2_000 {
            let line = format!("line {i}\n");
            writer.write_all(line.as_bytes()).unwrap();
            let mut seen = String::new();
            reader.read_to_string(&mut seen).unwrap();
            assert_eq!(seen, line);
        }
    }
    assert_eq!(captured(&bywash, "events"), 4_000);
}

#[test]
fn many_threads_open_one_file_every_way_without_an_error() {
    let bywash = overlay();
    let path = bywash.file("shared");
    fs::write(&path, b"x").unwrap();
    thread::scope(|scope| {
        for id in 0..8_u32 {
            let path = &path;
            scope.spawn(move || {
                for round in 0..500_u32 {
                    let kind = (id + round * 7 + round / 3) % 3;
                    let file = File::options().read(kind != 1).write(kind != 0).open(path);
                    let file = file.unwrap_or_else(|e| panic!("open {kind} in round {round}: {e}"));
                    if kind == 1 {
                        file.write_all_at(b"y", u64::from(id)).unwrap();
                    } else {
                        let mut byte = [0];
                        assert_eq!(file.read_at(&mut byte, 0).unwrap(), 1);
                    }
                }
            });
        }
    });
}

#[test]
fn mappings_work_whoever_came_first() {
    let bywash = overlay();
    let path = bywash.file("mapped");
    // Each pair: one opens and maps, then the other; stores and writes are seen by all.
    let seen = python(
        &path,
        r#"
def mapped(flags):
    fd = os.open(path, flags)
    prot = mmap.PROT_READ | (mmap.PROT_WRITE if flags == os.O_RDWR else 0)
    return fd, mmap.mmap(fd, 8192, mmap.MAP_SHARED, prot)
rounds = 0
for first in (os.O_RDONLY, os.O_RDWR):
    for second in (os.O_RDONLY, os.O_RDWR):
        with open(path, "wb") as f: f.write(b"." * 8192)
        (fd1, map1), (fd2, map2) = mapped(first), mapped(second)
        for fd, flags, m, other in ((fd1, first, map1, map2), (fd2, second, map2, map1)):
            if flags == os.O_RDWR:
                m[10:13] = b"abc"
                m.flush()
                assert other[10:13] == b"abc", (first, second, other[10:13])
                os.pwrite(fd, b"W" * 5, 100)
                assert m[100:105] == other[100:105] == b"W" * 5, (first, second)
                assert os.pread(fd, 3, 10) == b"abc"
        map1.close(); map2.close(); os.close(fd1); os.close(fd2)
        data = open(path, "rb").read()
        if os.O_RDWR in (first, second):
            assert data[10:13] == b"abc" and data[100:105] == b"WWWWW"
        rounds += 1
# Read only, private, and exec-like.
fd = os.open(path, os.O_RDWR)
m = mmap.mmap(fd, 8192, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
m[0:1] = b"P"
assert os.pread(fd, 1, 0) == b"."
print(rounds)
"#,
    );
    assert_eq!(seen, 4);
}

#[test]
fn stores_that_are_not_captured_are_counted_as_opens() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root has the kernel read files by itself");
    }
    let bywash = overlay();
    let path = bywash.file("mapped");
    fs::write(&path, vec![0; 4096]).unwrap();
    let open = || File::options().read(true).write(true).open(&path).unwrap();
    drop(open());
    assert_eq!(captured(&bywash, "uncaptured_mapper_opens"), 0, "who comes first is captured");
    let reader = File::open(&path).unwrap();
    drop(open());
    drop(reader);
    assert_eq!(captured(&bywash, "uncaptured_mapper_opens"), 1);
    assert!(bywash.fs_agent(&["status"]).stdout.contains("stores through shared mappings of 1 open,"));
}

#[test]
fn reads_of_the_kernels_own_leave_times_as_below() {
    let bywash = overlay();
    let path = bywash.file("read");
    fs::write(&path, b"content").unwrap();
    let seen = python(
        &path,
        r#"
os.utime(path, ns=(1, 10**18 + 7))
open(path, "rb").read()
s = os.stat(path)
print(json.dumps([s.st_mtime_ns == 10**18 + 7, s.st_atime_ns > 10**18]))
"#,
    );
    assert_eq!(seen, serde_json::json!([true, true]));
    assert_eq!(content(&path), b"content");
}

/// Opens from which no answer comes, until it is dropped: another overlay, below, whose agent is stopped.
struct Wedge {
    inner: Bywash,
}

impl Wedge {
    fn below(outer: &Bywash) -> Self {
        let inner = Bywash::new(NO_BROKER, &Settings { directories: &["inner"], ..Settings::default() });
        fs::write(inner.file("stuck"), b"stuck").unwrap();
        let point = outer.file("wedged");
        fs::create_dir(&point).unwrap();
        let mut wedge = Self { inner };
        wedge.inner.start_agent();
        process::must_run(Command::new("mount").arg("--rbind").arg(wedge.inner.directory()).arg(&point));
        wedge
    }

    fn stop(&mut self) {
        self.inner.agent().stop();
    }

    fn resume(&mut self) {
        self.inner.agent().signal(Signal::SIGCONT);
    }
}

#[test]
fn callers_stuck_below_leave_the_others_alone() {
    const STUCK: usize = 12;
    if !Uid::effective().is_root() {
        return println!("skipped: only root can mount a filesystem below");
    }
    let mut bywash = Bywash::new(NO_BROKER, &Settings::default());
    let mut wedge = Wedge::below(&bywash);
    bywash.start_agent();
    let stuck = bywash.file("wedged/stuck");
    assert_eq!(content(&stuck), b"stuck", "the overlay shows what is mounted below");
    wedge.stop();
    let callers: Vec<_> = (0..STUCK)
        .map(|i| {
            let path = bywash.file(if i % 2 == 0 { "wedged/stuck" } else { "wedged/new" });
            thread::spawn(move || {
                let mut file = File::options().create(true).append(true).open(path)?;
                file.write_all(b"x")
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(200));
    let begin = Instant::now();
    for i in 0..100 {
        let path = bywash.file(&format!("free-{i}"));
        fs::write(&path, b"free").unwrap();
        assert_eq!(content(&path), b"free");
    }
    let mut listed = fs::read_dir(bywash.directory()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(listed.any(|name| name == "wedged"), "what does not answer is listed all the same");
    assert!(begin.elapsed() < Duration::from_secs(5), "took {:?}", begin.elapsed());
    assert!(callers.iter().all(|caller| !caller.is_finished()), "nobody was stuck");
    wedge.resume();
    for caller in callers {
        caller.join().unwrap().unwrap();
    }
    assert_eq!(content(&bywash.file("wedged/new")), vec![b'x'; STUCK / 2]);
    // First: what is mounted below it is out of reach until then.
    drop(bywash);
}

#[test]
fn an_overlay_that_someone_else_unmounts_ends() {
    if !Uid::effective().is_root() {
        return println!("skipped: unmounting takes root");
    }
    let mut bywash = overlay();
    fs::write(bywash.file("a"), b"a").unwrap();
    process::must_run(Command::new("umount").arg(bywash.directory()));
    let ended = bywash.agent().wait(TIMEOUT);
    assert_eq!(ended.code(), Some(1), "no overlay is left to serve");
}

#[test]
fn a_file_without_a_name_is_refused_as_by_a_filesystem_without_them() {
    let bywash = overlay();
    let seen = python(
        bywash.directory(),
        r#"
try: os.open(path, os.O_TMPFILE | os.O_RDWR); print(0)
except OSError as e: print(e.errno == errno.EOPNOTSUPP and 1 or e.errno)
"#,
    );
    assert_eq!(seen, 1);
}
