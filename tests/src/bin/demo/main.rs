//! `make demo`: an event on its way from a write to a reader, then what the project is for: a broker that stands
//! still and a publisher that is killed, and no write that is slower or lost for it.
//!
//! It exits with 0 only if everything held that it says, and leaves nothing mounted or running, also when it fails
//! or is interrupted.

// A step says that something does not hold by panicking; unwinding cleans up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod destination;
mod steps;
mod story;

use std::{
    panic::{catch_unwind, set_hook},
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use bywash_tests::harness::wait;
use clap::Parser;
use destination::Sink;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// What shells say of a program that ended on an interrupt.
const INTERRUPTED: u8 = 130;

/// Shows an event on its way, then a broker that stands still and a publisher that is killed
#[derive(Parser)]
struct Arguments {
    /// Where events go
    #[arg(long, value_enum, default_value_t)]
    sink: Sink,
}

fn main() -> ExitCode {
    let Arguments { sink } = Arguments::parse();
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).expect("a signal handler");
    }
    wait::stop_waiting_when(interrupted);
    set_hook(Box::new(story::failed));
    let begin = Instant::now();
    let held = catch_unwind(|| steps::run(sink));
    if wait::is_interrupted() {
        println!("\nInterrupted; nothing is left mounted or running.");
        return ExitCode::from(INTERRUPTED);
    }
    match held {
        Ok(()) => {
            println!("\nEverything held, in {:.0} s.", begin.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(_) => {
            println!("\nThe demo failed: what is above says where. Nothing is left mounted or running.");
            ExitCode::FAILURE
        }
    }
}
