//! `resident DIRECTORY`: a program that lives in a directory, with all that programs have in one: open files by the thousand, some of
//! them unlinked; appends, writes at places, reads, locks, a file that is followed, a working directory, names that come
//! and go, mappings to read and to write, and a mount namespace of its own. Whatever happens below, none of that may fail. It goes on until SIGTERM, looks
//! at what is in its files then, and prints a report.

// A load that cannot run says so by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use bywash_tests::resident::{Settings, live};
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[derive(Parser)]
struct Arguments {
    /// Where
    directory: PathBuf,
    /// Threads that append, and as many that write at places
    #[arg(long, default_value_t = 4)]
    writers: u64,
    /// Files that stay open, one of a hundred without a name
    #[arg(long, default_value_t = 200)]
    files: u64,
    /// Pauses between a thread's operations, in microseconds
    #[arg(long, default_value_t = 200)]
    pause_us: u64,
}

fn main() {
    let Arguments { directory, writers, files, pause_us } = Arguments::parse();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit of descriptors");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a soft limit as high as the hard one");
    let report = live(&Settings { directory, writers, files, pause_us });
    println!("{}", serde_json::to_string(&report).expect("a report"));
}
