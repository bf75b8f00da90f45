//! Loads that do everything at once. Afterwards the tree below is the tree that is seen.

use std::{fs, path::Path, process::Command, time::Duration};

use bywash_tests::harness::process;

use crate::Pair;

/// stress-ng's stressors of files and directories that work in the directory they are given.
const STRESSORS: [&str; 30] = [
    "access",
    "chmod",
    "chown",
    "copy-file",
    "dentry",
    "dir",
    "dirdeep",
    "dirmany",
    "fallocate",
    "fcntl",
    "flock",
    "fstat",
    "getdent",
    "hdd",
    "io",
    "iomix",
    "lease",
    "link",
    "locka",
    "lockf",
    "lockofd",
    "mknod",
    "open",
    "rename",
    "seek",
    "sendfile",
    "symlink",
    "touch",
    "utime",
    "xattr",
];
const STRESS_SECONDS: u32 = 60;
const DBENCH_SECONDS: u32 = 30;
const DBENCH_CLIENTS: u32 = 4;
const TIME_MAX: Duration = Duration::from_secs(240);

#[test]
#[ignore = "needs stress-ng and root: make conformance"]
fn a_minute_of_stress_ng_works_as_in_a_plain_directory() {
    let pair = Pair::start();
    // One that fails here fails for reasons of its own.
    stress(Command::new("stress-ng"), &pair.plain, 5);
    stress(Command::new("stress-ng"), pair.seen(), STRESS_SECONDS);
    assert_usable(&pair);
}

#[test]
#[ignore = "needs stress-ng and root: make conformance"]
fn a_minute_of_stress_ng_works_as_in_a_plain_directory_for_a_user() {
    let pair = Pair::start();
    for (directory, seconds) in [(pair.plain.as_path(), 5), (pair.seen(), STRESS_SECONDS)] {
        let (mut command, program) = pair.for_user(Path::new("/usr/bin/stress-ng"));
        command.arg(program);
        stress(command, directory, seconds);
    }
    assert_usable(&pair);
}

fn stress(mut command: Command, directory: &Path, seconds: u32) {
    // What every stressor does is checked where it can be.
    command.args(["--verify", "--metrics-brief", "--timeout", &seconds.to_string()]);
    command.arg("--temp-path").arg(directory);
    command.args(STRESSORS.iter().flat_map(|name| [format!("--{name}"), "1".to_owned()]));
    // It limits itself to what is free at the start, which the others then use up.
    command.args(["--hdd-bytes", "64m", "--iomix-bytes", "64m", "--fallocate-bytes", "64m"]);
    let finished = process::run(&mut command, TIME_MAX);
    assert_eq!(finished.code, Some(0), "{}: {}\n{}", directory.display(), finished.stdout, finished.stderr);
}

fn assert_usable(pair: &Pair) {
    // The stressors have cleaned up: something has to be there to be compared.
    fs::write(pair.seen().join("after"), "the overlay still works").unwrap();
    pair.assert_seen_is_below();
}

#[test]
#[ignore = "needs dbench and root: make conformance"]
fn dbench_leaves_what_it_shows() {
    let pair = Pair::start();
    let mut command = Command::new("dbench");
    command.args(["-t", &DBENCH_SECONDS.to_string(), "-c", "/usr/share/dbench/client.txt", "--skip-cleanup"]);
    command.arg("-D").arg(pair.seen()).arg(DBENCH_CLIENTS.to_string());
    let finished = process::run(&mut command, TIME_MAX);
    assert_eq!(finished.code, Some(0), "{}\n{}", finished.stdout, finished.stderr);
    assert!(finished.stdout.contains("Throughput"), "{}", finished.stdout);
    pair.assert_seen_is_below();
}
