//! A walk over very many files leaves the agent small (G5).

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use bywash_tests::harness::wait::{self, TIMEOUT};
use nix::unistd::Uid;

use crate::Pair;

/// Files of one directory.
const DIRECTORY_FILES: usize = 100_000;
/// The most memory that a walk may add, however many files there are.
const ADDED_BYTES_MAX: u64 = 32 << 20;
/// The most descriptors that the agent keeps for what the kernel caches, and some for itself.
const DESCRIPTORS_MAX: usize = (1 << 16) + 100;

/// What the agent takes up.
#[derive(Clone, Copy, Debug)]
struct Size {
    memory_bytes: u64,
    descriptors: usize,
}

impl Size {
    /// Its own memory: the ring is a shared mapping and is not in it.
    fn of(pid: i32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        Self { memory_bytes: kib << 10, descriptors }
    }
}

// Guarantee: G5
#[test]
fn walking_100_000_files_leaves_the_agent_small() {
    walk(DIRECTORY_FILES);
}

#[test]
#[ignore = "takes minutes: make conformance"]
fn walking_1_000_000_files_leaves_the_agent_small() {
    walk(10 * DIRECTORY_FILES);
}

fn walk(files: usize) {
    let mut pair = Pair::start();
    // Made below, which is quicker, and before the kernel has heard of them.
    pair.bywash.stop_agent();
    let directories: Vec<PathBuf> =
        (0..files.div_ceil(DIRECTORY_FILES)).map(|i| pair.bywash.file(&format!("directory-{i}"))).collect();
    for directory in &directories {
        fs::create_dir(directory).unwrap();
        (0..DIRECTORY_FILES).for_each(|i| drop(File::create(directory.join(format!("file-{i}"))).unwrap()));
    }
    pair.bywash.start_agent();
    let pid = pair.bywash.agent().pid().as_raw();
    let before = Size::of(pid);
    // What is not given back shows in the second walk.
    for round in 1..=2 {
        for directory in &directories {
            assert_eq!(look_at_all(directory), DIRECTORY_FILES);
            let now = Size::of(pid);
            println!("walk {round}, {}: {now:?}, before {before:?}", directory.display());
            if pair.bywash.agent().log().contains("cannot be asked to forget files") {
                println!("skipped in part: memory is bounded from Linux 6.18 on");
            } else {
                assert!(
                    now.memory_bytes < before.memory_bytes + ADDED_BYTES_MAX,
                    "{now:?}, before {before:?}"
                );
            }
            assert!(now.descriptors < DESCRIPTORS_MAX, "{now:?} while walking {files} files");
        }
    }
    if !Uid::effective().is_root() {
        return println!("skipped in part: only root can have the kernel forget what it caches");
    }
    wait::until("the agent to forget what the kernel forgets", TIMEOUT, || {
        // 2: names and inodes.
        fs::write("/proc/sys/vm/drop_caches", "2").map_err(|e| e.to_string())?;
        let now = Size::of(pid);
        if now.descriptors < before.descriptors + 100 {
            Ok(())
        } else {
            Err(format!("{now:?}, before {before:?}"))
        }
    });
}

/// How many files there are, each with its attributes read.
fn look_at_all(directory: &Path) -> usize {
    let listing = fs::read_dir(directory).unwrap();
    listing.map(|entry| assert_eq!(entry.unwrap().metadata().unwrap().len(), 0)).count()
}
