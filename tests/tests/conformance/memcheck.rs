//! valgrind's memcheck finds nothing in a short run of the agent.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    os::unix::fs::symlink,
    path::Path,
    time::Duration,
};

use bywash_tests::harness::{Bywash, Capture, Process, Settings, program, wait};
use nix::sys::signal::Signal;

/// Ends the run with this code if it found something.
const FOUND: i32 = 99;

/// Blocks that only a pointer into their middle leads to are no finding: what an `Arc` holds is always found so, and
/// the threads that serve an overlay keep theirs until the process ends.
const OPTIONS: [&str; 4] = [
    // Else one thread waits for a request that is to come from another one, and both do for ever.
    "--sim-hints=fuse-compatible",
    "--leak-check=full",
    "--show-leak-kinds=definite,indirect",
    "--errors-for-leak-kinds=definite,indirect",
];

/// It is some thirty times slower under valgrind.
const TIME_MAX: Duration = Duration::from_secs(120);

#[test]
fn memcheck_finds_nothing() {
    let bywash = Bywash::new("127.0.0.1:9", &Settings::default());
    let agent = program("fs-agent");
    let code = format!("--error-exitcode={FOUND}");
    let mut arguments: Vec<&OsStr> = OPTIONS.iter().map(OsStr::new).collect();
    arguments.extend([OsStr::new(&code), agent.as_os_str(), OsStr::new("run"), OsStr::new("--config")]);
    arguments.push(bywash.config.as_os_str());
    let mut process =
        Process::spawn("valgrind", Path::new("valgrind"), arguments, bywash.root(), Signal::SIGTERM);
    wait::until("fs-agent to mount", TIME_MAX, || {
        assert!(process.ended().is_none(), "it has ended: {}", process.log());
        // It listens once the mount answers.
        if process.log().contains("listening on") { Ok(()) } else { Err(process.log()) }
    });
    use_everything(bywash.directory());
    let mut capture = Capture::attach(&bywash.ring);
    assert!(!capture.take().is_empty(), "nothing was captured");
    let status = process.terminate(TIME_MAX);
    let log = process.log();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("ERROR SUMMARY: 0 errors"), "{log}");
}

/// A little of everything that the agent does.
fn use_everything(directory: &Path) {
    let [a, b, below] = ["a", "b", "below"].map(|name| directory.join(name));
    let mut file = File::options().create(true).append(true).open(&a).unwrap();
    for size in [1, 100, 5_000, 300_000] {
        file.write_all(&vec![b'x'; size]).unwrap();
    }
    assert_eq!(fs::read(&a).unwrap().len(), 305_101);
    file.set_len(10).unwrap();
    file.sync_all().unwrap();
    fs::hard_link(&a, &b).unwrap();
    symlink("a", directory.join("link")).unwrap();
    fs::create_dir(&below).unwrap();
    fs::rename(&b, below.join("b")).unwrap();
    assert_eq!(fs::read_dir(directory).unwrap().count(), 3);
    fs::remove_file(below.join("b")).unwrap();
    fs::remove_dir(&below).unwrap();
    // Written to while it has no name.
    fs::remove_file(&a).unwrap();
    file.write_all(b"still open").unwrap();
    assert!(File::open(&b).is_err());
}
