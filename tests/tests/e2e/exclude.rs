//! `exclude`: what is not captured, by name.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use bywash_tests::harness::{Bywash, Capture, Settings, mounts, process};

use crate::{append, write_once};

const EXCLUDE: &str = "exclude = [\"*.gz\", \"core*\", \"/top\", \"cache/**\", \"a/*.tmp\"]\n";

fn start(directory: &'static str) -> (Bywash, Capture) {
    let settings = Settings { directory, ring_size: "1MiB", ..Settings::default() };
    let mut bywash = Bywash::new("localhost:9", &settings);
    bywash.start_agent();
    let capture = Capture::attach(&bywash.ring);
    (bywash, capture)
}

/// Paths below the first directory of what was captured since the last time.
fn captured(bywash: &Bywash, capture: &mut Capture) -> Vec<String> {
    let below = |path: &[u8]| {
        let path = Path::new(std::str::from_utf8(path).unwrap()).strip_prefix(bywash.directory());
        path.unwrap().to_str().unwrap().to_owned()
    };
    capture.take().iter().map(|captured| below(&captured.path)).collect()
}

/// Events and bytes that the status says were excluded.
fn excluded(bywash: &Bywash) -> (u64, u64) {
    let status = bywash.agent_status();
    let number =
        |key: &str| status["excluded"][key].as_u64().unwrap_or_else(|| panic!("no {key} in {status}"));
    (number("events"), number("bytes"))
}

#[test]
fn what_is_excluded_is_written_and_counted_and_not_captured() {
    let (bywash, mut capture) = start(EXCLUDE);
    for directory in ["a", "b/a", "cache/x", "old"] {
        fs::create_dir_all(bywash.file(directory)).unwrap();
    }
    let out = ["x.gz", "old/x.gz", "core", "b/a/core.17", "top", "cache/x/y", "cache/z", "a/b.tmp"];
    let taken = ["x.GZ", "score", "old/top", "b/a/b.tmp", "a/b.tmp2", "old/cache", "x.gz.log"];
    for (name, bytes) in out.iter().chain(&taken).zip(1..) {
        append(&bywash.file(name), &vec![b'x'; bytes]);
        assert_eq!(fs::metadata(bywash.file(name)).unwrap().len(), bytes as u64, "{name}");
    }
    assert_eq!(captured(&bywash, &mut capture), taken);
    assert_eq!(excluded(&bywash), (8, (1..=8).sum()));
    let text = bywash.fs_agent(&["status"]).stdout;
    assert!(text.contains("excluded      8 events, 36B\n"), "{text}");
    assert_eq!(bywash.agent_status()["captured"]["events"], taken.len());
}

#[test]
fn the_name_by_which_a_file_was_opened_decides_until_it_is_closed() {
    let (bywash, mut capture) = start(EXCLUDE);
    let (inside, outside) = (bywash.file("x.log"), bywash.file("x.gz"));
    let mut excluded_file = File::create(&outside).unwrap();
    fs::rename(&outside, &inside).unwrap();
    write_once(&mut excluded_file, b"opened as x.gz");
    assert_eq!(captured(&bywash, &mut capture), [""; 0]);
    append(&inside, b"opened as x.log");
    let mut captured_file = File::options().append(true).open(&inside).unwrap();
    fs::rename(&inside, &outside).unwrap();
    write_once(&mut captured_file, b"opened as x.log");
    assert_eq!(captured(&bywash, &mut capture), ["x.log", "x.gz"], "the path is where it is now");
    append(&outside, b"opened as x.gz");
    assert_eq!(captured(&bywash, &mut capture), [""; 0]);
}

#[test]
fn stores_through_a_mapping_of_an_excluded_file_are_not_captured() {
    let (bywash, mut capture) = start(EXCLUDE);
    let script = "
import mmap, os, sys
for path in sys.argv[1:]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.ftruncate(fd, 4096)
    m = mmap.mmap(fd, 4096)
    m[0:1] = b'x'
    m.flush()
";
    let paths = ["core", "taken"].map(|name| bywash.file(name));
    process::must_run(Command::new("python3").args(["-c", script]).args(&paths));
    for path in &paths {
        assert_eq!(fs::read(path).unwrap()[0], b'x');
    }
    assert_eq!(captured(&bywash, &mut capture), ["taken"]);
    assert_eq!(excluded(&bywash), (1, 4096));
}

#[test]
fn a_reload_changes_what_is_excluded_for_open_files_too() {
    let (mut bywash, mut capture) = start("exclude = [\"*.gz\"]\n");
    let mut files: Vec<_> = ["x.gz", "x.log"].map(|name| File::create(bywash.file(name)).unwrap()).into();
    let before = mounts::below(bywash.directory());
    files.iter_mut().for_each(|file| write_once(file, b"1"));
    assert_eq!(captured(&bywash, &mut capture), ["x.log"]);
    bywash.edit("*.gz", "*.log");
    let said = bywash.reload_agent();
    assert!(said.contains("in force") && mounts::below(bywash.directory()) == before, "{said}");
    files.iter_mut().for_each(|file| write_once(file, b"2"));
    assert_eq!(captured(&bywash, &mut capture), ["x.gz"]);
    bywash.edit("exclude = [\"*.log\"]\n", "");
    bywash.reload_agent();
    files.iter_mut().for_each(|file| write_once(file, b"3"));
    assert_eq!(captured(&bywash, &mut capture), ["x.gz", "x.log"]);
    assert_eq!(fs::read(bywash.file("x.gz")).unwrap(), b"123");
}
