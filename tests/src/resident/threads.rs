//! What each of a resident's threads does.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::{Life, Part};
use crate::harness::workload::{line, noise};

/// The part of a file in which a thread writes at places.
const WINDOW_BYTES: usize = 64 << 10;
/// The most that it writes at once.
const PLACED_BYTES_MAX: usize = 9_000;
/// What each file that stays open has in it at first.
const KEPT_BYTES: usize = 64;
/// One of so many files that stay open has no name.
const NAMELESS_PART: u64 = 100;
/// The size of one in eight appended lines.
const LONG_LINE_BYTES: usize = 20_000;

fn pick(seed: u64, round: u64) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&noise(seed.wrapping_mul(0x1_0001).wrapping_add(round), 8));
    u64::from_le_bytes(bytes)
}

fn below(max: usize, from: u64) -> usize {
    usize::try_from(from % max as u64).expect("less than a usize")
}

/// Appends lines, and finds each once and in order at the end.
pub fn append(life: &Life, part: &mut Part, i: u64) {
    let path = life.path(&format!("append-{i}"));
    let mut file = OpenOptions::new().create(true).append(true).open(&path).expect("a file to append to");
    let mut expected = Vec::new();
    life.repeat(|round| {
        let len = if round % 8 == 7 { LONG_LINE_BYTES } else { 100 };
        let line = line(u32::try_from(i).expect("few threads"), round, len);
        if part.write("append", line.len(), || file.write(&line)) {
            expected.extend_from_slice(&line);
        }
    });
    let content = fs::read(&path).expect("the file that was appended to");
    let differs = expected.iter().zip(&content).position(|(a, b)| a != b);
    part.check(content == expected, || {
        format!(
            "{} bytes were appended, {} are there; the first difference is at {differs:?}",
            expected.len(),
            content.len()
        )
    });
}

/// Writes at places through one descriptor, and reads what it wrote.
pub fn place(life: &Life, part: &mut Part, i: u64) {
    let path = life.path(&format!("place-{i}"));
    let options = OpenOptions::new().create(true).read(true).write(true).clone();
    let file = options.open(&path).expect("a file to write to");
    let mut expected = vec![0; WINDOW_BYTES];
    part.write("fill", WINDOW_BYTES, || file.write_at(&expected, 0));
    life.repeat(|round| {
        let random = pick(i, round);
        let len = 1 + below(PLACED_BYTES_MAX, random);
        let at = below(WINDOW_BYTES - len, random >> 20);
        let bytes = noise(random, len);
        if part.write("write", len, || file.write_at(&bytes, at as u64)) {
            expected[at..at + len].copy_from_slice(&bytes);
        }
        let mut seen = vec![0; len];
        if part.time("read", || file.read_exact_at(&mut seen, at as u64)).is_some() {
            part.check(seen == bytes, || format!("round {round}: other bytes are at {at} than were written"));
        }
    });
    part.check(fs::read(&path).expect("the file") == expected, || "other bytes are there".to_owned());
}

/// Has many files open, and uses one after the other.
pub fn keep(life: &Life, part: &mut Part, _: u64) {
    fs::create_dir(life.path("kept")).expect("a directory");
    let open = |n: u64| {
        let path = life.path(&format!("kept/{n}"));
        let file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(true)
            .open(&path)
            .expect("a file");
        if n.is_multiple_of(NAMELESS_PART) {
            fs::remove_file(&path).expect("a name that goes");
        }
        (file, noise(n, KEPT_BYTES))
    };
    let mut files: Vec<_> = (0..life.settings.files).map(open).collect();
    for (file, expected) in &files {
        part.write("first write", KEPT_BYTES, || file.write_at(expected, 0));
    }
    let count = files.len();
    life.repeat(|round| {
        let random = pick(77, round);
        // Nameless ones more often than others.
        let n = if round % 4 == 0 { below(count.div_ceil(100), random) * 100 } else { below(count, random) };
        let (file, expected) = &mut files[n];
        let mut seen = [0; KEPT_BYTES];
        if part.time("read", || file.read_exact_at(&mut seen, 0)).is_some() {
            part.check(seen[..] == expected[..], || format!("file {n} has other bytes"));
        }
        let at = below(KEPT_BYTES - 8, random >> 32);
        let bytes = random.to_le_bytes();
        if part.write("write", bytes.len(), || file.write_at(&bytes, at as u64)) {
            expected[at..at + 8].copy_from_slice(&bytes);
        }
        part.time("fstat", || file.metadata());
    });
    for (n, (file, expected)) in files.iter().enumerate() {
        let mut seen = [0; KEPT_BYTES];
        if part.time("last read", || file.read_exact_at(&mut seen, 0)).is_some() {
            part.check(seen[..] == expected[..], || format!("file {n} has other bytes at the end"));
        }
    }
}

/// Holds a lock that nobody else can have meanwhile.
pub fn lock(life: &Life, part: &mut Part, _: u64) {
    let path = life.path("locked");
    let held = File::create(&path).expect("a file to lock");
    held.lock().expect("a lock");
    life.repeat(|round| {
        let Some(other) = part.time("open", || File::open(&path)) else { return };
        let refused = matches!(other.try_lock(), Err(TryLockError::WouldBlock));
        part.check(refused, || format!("round {round}: somebody else got a lock that is held"));
    });
}

/// Reads what another thread appends.
pub fn follow(life: &Life, part: &mut Part, _: u64) {
    let path = life.path("append-0");
    let opened = OpenOptions::new().create(true).append(true).open(&path).and_then(|_| File::open(&path));
    let mut file = opened.expect("a file to follow");
    let mut seen = Vec::new();
    life.repeat(|_| {
        part.time("read", || file.read_to_end(&mut seen));
    });
    let content = fs::read(&path).expect("the file that is followed");
    part.check(content.starts_with(&seen), || "what was read is not what is there".to_owned());
}

/// Works in its working directory.
pub fn work_here(life: &Life, part: &mut Part, _: u64) {
    let here = fs::metadata(".").expect("a working directory").ino();
    life.repeat(|round| {
        let name = format!("here-{}", round % 7);
        part.write("write here", 5, || File::create(&name)?.write(b"here\n"));
        if let Some(found) = part.time("read here", || fs::read(&name)) {
            part.check(found == b"here\n", || format!("{name} has other bytes"));
        }
        part.time("remove here", || fs::remove_file(&name));
        if let Some(stat) = part.time("stat .", || fs::metadata(".")) {
            part.check(stat.ino() == here, || "the working directory is another one".to_owned());
        }
    });
}

/// Makes names, changes them, and takes them away. Each works, the first time.
pub fn change_names(life: &Life, part: &mut Part, _: u64) {
    let at = life.path("names");
    fs::create_dir(&at).expect("a directory");
    life.repeat(|round| names(part, &at, round));
    let left = fs::read_dir(&at).expect("the directory").count();
    part.check(left == 0, || format!("{left} names are left"));
}

fn names(part: &mut Part, at: &Path, round: u64) {
    let path = |name: &str| at.join(format!("{name}-{}", round % 3));
    let exclusive = |path: &Path| OpenOptions::new().write(true).create_new(true).open(path);
    part.write("write", 4, || exclusive(&path("a"))?.write(b"file"));
    part.time("link", || fs::hard_link(path("a"), path("b")));
    part.time("rename", || fs::rename(path("a"), path("c")));
    if let Some(stat) = part.time("stat", || fs::metadata(path("c"))) {
        part.check(stat.nlink() == 2 && stat.len() == 4, || format!("round {round}: {stat:?}"));
    }
    part.time("mkdir", || fs::create_dir(path("d")));
    part.time("symlink", || std::os::unix::fs::symlink("c", path("d").join("s")));
    part.time("rename into", || fs::rename(path("b"), path("d").join("b")));
    part.time("rename a directory", || fs::rename(path("d"), path("e")));
    if let Some(found) = part.time("read", || fs::read(path("e").join("b"))) {
        part.check(found == b"file", || format!("round {round}: a renamed file has other bytes"));
    }
    let listed = part.time("list", || fs::read_dir(path("e"))?.collect::<io::Result<Vec<_>>>());
    part.check(listed.is_none_or(|listed| listed.len() == 2), || {
        format!("round {round}: not both are listed")
    });
    part.time("unlink", || fs::remove_file(path("e").join("b")));
    part.time("unlink a link", || fs::remove_file(path("e").join("s")));
    part.time("rmdir", || fs::remove_dir(path("e")));
    part.time("unlink the last", || fs::remove_file(path("c")));
    let gone = part.time("stat of nothing", || fs::exists(path("c")));
    part.check(gone != Some(true), || format!("round {round}: a removed file is there"));
}

/// Opens files by their names, reads them, and cuts one and fills it again.
pub fn visit(life: &Life, part: &mut Part, _: u64) {
    let path = life.path("visited");
    fs::write(&path, b"").expect("a file");
    life.repeat(|round| {
        let bytes = noise(round, 3_000);
        part.write("rewrite", bytes.len(), || File::create(&path)?.write(&bytes));
        if let Some(found) = part.time("read", || fs::read(&path)) {
            part.check(found == bytes, || format!("round {round}: other bytes than were written"));
        }
        part.time("shorten", || OpenOptions::new().write(true).open(&path)?.set_len(10));
        let stat = part.time("stat", || fs::metadata(&path));
        part.check(stat.is_none_or(|stat| stat.len() == 10), || format!("round {round}: not shortened"));
    });
}

/// Does in a mount namespace of its own what others do.
pub fn live_apart(life: &Life, part: &mut Part, _: u64) {
    let private = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
    };
    // Not for everybody: then it lives with the others.
    let _ = private();
    let at = life.path("apart");
    fs::create_dir(&at).expect("a directory");
    let mut log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(life.path("apart.log"))
        .expect("a file to append to");
    life.repeat(|round| {
        names(part, &at, round);
        part.write("append", 6, || log.write(b"apart\n"));
    });
}
