//! A record has the name by which its file was opened, whoever looks at the file's other names.

use std::{
    fs,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use bywash_common::record::{PATH_BYTES_MAX, is_cut};
use bywash_tests::harness::{Bywash, Capture, Settings, process::must_run};

use crate::{
    append,
    overlay::{NO_BROKER, python},
    write_once,
};

/// Starts an agent over a directory that `prepare` has filled.
fn start_over(prepare: impl FnOnce(&Bywash)) -> (Bywash, Capture) {
    let settings = Settings { directory: "exclude = [\"*.gz\"]\n", ..Settings::default() };
    let mut bywash = Bywash::new(NO_BROKER, &settings);
    prepare(&bywash);
    bywash.start_agent();
    let capture = Capture::attach(&bywash.ring);
    (bywash, capture)
}

fn start() -> (Bywash, Capture) {
    start_over(|_| {})
}

fn excluded(bywash: &Bywash) -> u64 {
    bywash.agent_status()["excluded"]["events"].as_u64().unwrap()
}

fn captured(capture: &mut Capture) -> Vec<PathBuf> {
    let path = |path: &[u8]| PathBuf::from(std::str::from_utf8(path).unwrap());
    capture.take().iter().map(|captured| path(&captured.path)).collect()
}

#[test]
fn of_several_names_each_open_takes_its_own() {
    const OPENS: usize = 300;
    let (bywash, mut capture) = start_over(|bywash| {
        fs::write(bywash.file("app.log"), "first").unwrap();
        fs::hard_link(bywash.file("app.log"), bywash.file("app.gz")).unwrap();
        fs::hard_link(bywash.file("app.log"), bywash.file("other.log")).unwrap();
    });
    let (log, gz, other) = (bywash.file("app.log"), bywash.file("app.gz"), bywash.file("other.log"));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (done, directory) = (&done, bywash.directory());
        for name in [&log, &gz, &other] {
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    fs::metadata(name).unwrap();
                    must_run(Command::new("ls").arg("-l").arg(directory));
                }
            });
        }
        let open = |name| (0..OPENS).for_each(|_| append(name, b"x"));
        let writers = [&log, &gz, &other].map(|name| scope.spawn(move || open(name)));
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
    let captured = captured(&mut capture);
    let count = |name: &Path| captured.iter().filter(|path| *path == name).count();
    assert_eq!((count(&log), count(&other), captured.len()), (OPENS, OPENS, 2 * OPENS));
    assert_eq!(excluded(&bywash), OPENS as u64);
}

#[test]
fn a_new_name_of_a_file_hides_no_write_by_the_old_one() {
    let (bywash, mut capture) = start();
    let (log, gz) = (bywash.file("app.log"), bywash.file("app.gz"));
    append(&log, b"1");
    fs::hard_link(&log, &gz).unwrap();
    for _ in 0..10 {
        // The kernel still remembers the old name, and asks for the new one.
        fs::metadata(&gz).unwrap();
        append(&log, b"2");
    }
    assert_eq!(captured(&mut capture), vec![log; 11]);
    assert_eq!(excluded(&bywash), 0);
}

#[test]
fn an_open_that_names_nothing_is_captured_under_the_oldest_name_unless_all_are_excluded() {
    let (bywash, mut capture) = start();
    let (log, gz, gz2) = (bywash.file("app.log"), bywash.file("app.gz"), bywash.file("app2.gz"));
    append(&log, b"1");
    fs::hard_link(&log, &gz).unwrap();
    let reopened = |path: &Path| {
        let held = fs::File::open(path).unwrap();
        append(Path::new(&format!("/proc/self/fd/{}", held.as_raw_fd())), b"2");
    };
    reopened(&gz);
    reopened(&log);
    assert_eq!(captured(&mut capture), vec![log.clone(); 3]);
    assert_eq!(excluded(&bywash), 0);
    fs::rename(&log, &gz2).unwrap();
    reopened(&gz);
    assert_eq!(captured(&mut capture), [] as [PathBuf; 0]);
    assert_eq!(excluded(&bywash), 1);
}

#[test]
fn links_and_renames_of_an_open_file_leave_it_its_name() {
    let (bywash, mut capture) = start();
    let log = bywash.file("many.log");
    let mut file = fs::File::options().create(true).append(true).open(&log).unwrap();
    for i in 0..20 {
        fs::hard_link(&log, bywash.file(&format!("link{i}"))).unwrap();
        write_once(&mut file, b"x");
    }
    fs::rename(&log, bywash.file("many.log.1")).unwrap();
    write_once(&mut file, b"y");
    let mut expected = vec![log; 20];
    expected.push(bywash.file("many.log.1"));
    assert_eq!(captured(&mut capture), expected);
}

#[test]
fn a_path_that_is_too_long_looks_like_no_other() {
    let (bywash, mut capture) = start();
    let depth = python(
        bywash.directory(),
        r#"
os.chdir(path)
for depth in range(30):
    os.mkdir("x" * 200); os.chdir("x" * 200)
    with open("auth.log", "wb", 0) as f: f.write(b"x")
print(json.dumps(depth + 1))
"#,
    );
    let seen = captured(&mut capture);
    assert_eq!(seen.len() as u64, depth.as_u64().unwrap());
    let mut directory = bywash.directory().to_owned();
    for (i, path) in seen.iter().enumerate() {
        directory.push("x".repeat(200));
        let whole = directory.join("auth.log");
        if whole.as_os_str().len() <= PATH_BYTES_MAX {
            assert_eq!(*path, whole);
            continue;
        }
        let path = path.to_str().unwrap();
        let (begin, end) = path.split_once("//").unwrap();
        assert!(is_cut(path.as_bytes()) && path.len() <= PATH_BYTES_MAX && whole.starts_with(begin));
        assert!(end.ends_with("/auth.log"));
        assert!(!seen[..i].iter().any(|other| other.as_os_str() == path), "two files of one path");
    }
}
