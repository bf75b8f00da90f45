//! `make packages-test`: installs the Debian package on a machine with a real systemd, and does to it what administrators, kernels
//! and power switches do. It prints a table with a row for each, and ends with 1 if one of them failed.

// A row says that something does not hold by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod arrivals;
mod installed;
mod rows;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use bywash_tests::harness::{Machine, wait};
use clap::Parser;
use installed::Installed;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Tries a Debian package under a real systemd
#[derive(Parser)]
struct Arguments {
    /// A Debian root with systemd, of which a copy is booted; its name is that of the release
    #[arg(long)]
    root: PathBuf,
    /// The package
    #[arg(long)]
    package: PathBuf,
    /// The same with a higher revision
    #[arg(long)]
    next: PathBuf,
    /// Only the rows, beside the installation, in whose names one of these occurs
    #[arg(long)]
    only: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).expect("a signal handler");
    }
    wait::stop_waiting_when(interrupted);
    if let Some(obstacle) = Machine::obstacle(&arguments.root) {
        eprintln!("packages: {obstacle}");
        return ExitCode::FAILURE;
    }
    let release = arguments.root.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut installed = Installed::new(&arguments.root, &arguments.package, &arguments.next);
    println!("\n| {:-<9} | {:-<34} | {:-<6} | {:-<4} | {:-<60} |", "", "", "", "", "");
    let mut failed = 0;
    for (name, row) in rows::ROWS {
        let is_wanted = arguments.only.is_empty() || arguments.only.iter().any(|only| name.contains(only));
        if wait::is_interrupted() || !(is_wanted || rows::NEEDED.contains(name)) {
            continue;
        }
        let begin = Instant::now();
        let (result, seen) = match catch_unwind(AssertUnwindSafe(|| row(&mut installed))) {
            Ok(seen) => ("ok", seen),
            Err(_) => {
                failed += 1;
                installed.explain();
                ("FAIL", "see above".to_owned())
            }
        };
        println!("| {release:9} | {name:34} | {result:6} | {:3}s | {seen:60} |", begin.elapsed().as_secs());
    }
    if failed > 0 || wait::is_interrupted() {
        eprintln!("packages: {failed} failed");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
