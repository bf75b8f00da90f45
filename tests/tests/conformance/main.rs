//! Other people's tests and loads for filesystems, on a plain directory and through the overlay (G1). Those that take
//! long, or need what only they need, run with `make conformance` alone.

// A test says that something does not hold by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fsx;
mod loads;
mod memcheck;
mod pjdfstest;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use bywash_tests::harness::{Bywash, Settings, mounts, process::must_run, tree};

/// A user without any privilege.
const USER: u32 = 65534;

/// An agent over one directory, which root also sees without the overlay, and a plain directory.
struct Pair {
    // Dropped before the agent's directory is removed.
    below: Below,
    plain: PathBuf,
    bywash: Bywash,
}

/// The watched directory without its overlay.
struct Below(PathBuf);

impl Drop for Below {
    fn drop(&mut self) {
        mounts::detach_below(&self.0);
    }
}

impl Pair {
    /// Needs root.
    fn start() -> Self {
        Self::start_after(|_| {})
    }

    /// The same over filesystems in memory: for what would otherwise wait for a disk most of the time.
    fn start_in_memory() -> Self {
        Self::start_after(|directory| {
            must_run(Command::new("mount").args(["-t", "tmpfs", "bywash-test"]).arg(directory));
        })
    }

    /// `prepare` gets both directories before anything is done with them.
    fn start_after(prepare: impl Fn(&Path)) -> Self {
        let mut bywash = Bywash::new("127.0.0.1:9", &Settings::default());
        let [plain, below] = ["plain", "below"].map(|name| bywash.root().join(name));
        for directory in [&plain, &below] {
            fs::create_dir(directory).unwrap();
        }
        [bywash.directory(), &plain].into_iter().for_each(prepare);
        for directory in [bywash.root(), bywash.directory(), &plain] {
            fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
        }
        must_run(Command::new("mount").arg("--bind").arg(bywash.directory()).arg(&below));
        bywash.start_agent();
        Self { below: Below(below), plain, bywash }
    }

    /// Gives both directories to a user, and makes the programs of a test his to run: what he is to be run by, and where a
    /// program is then.
    fn for_user(&self, program: &Path) -> (Command, PathBuf) {
        for directory in [self.seen(), &self.plain] {
            std::os::unix::fs::chown(directory, Some(USER), Some(USER)).unwrap();
        }
        let copy = self.bywash.root().join(program.file_name().unwrap());
        fs::copy(program, &copy).unwrap();
        fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new("setpriv");
        let id = USER.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--pdeathsig", "KILL", "--"]);
        (command, copy)
    }

    /// The directory with its overlay.
    fn seen(&self) -> &Path {
        self.bywash.directory()
    }

    /// What is below is what the overlay shows.
    #[track_caller]
    fn assert_seen_is_below(&self) {
        tree::assert_same(&self.below.0, self.seen(), |_| false);
    }
}
