//! Appends lines to files, one `write(2)` each, measures how long each took, and says so as JSON. It stops after
//! the wanted number, on SIGTERM, or at the first write that fails: what it reports as written has returned.

// A load that cannot run says so by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs::File,
    io::Write,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bywash_tests::harness::workload::line;
use clap::Parser;

#[derive(Parser)]
struct Arguments {
    /// Part of each line
    #[arg(long)]
    id: u32,
    /// How many writes
    #[arg(long)]
    count: u64,
    /// Bytes of each
    #[arg(long)]
    bytes: usize,
    /// Writes per second; 0 for as fast as it can
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// The files, written in turn
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

fn main() {
    let arguments = Arguments::parse();
    let open = |path: &PathBuf| {
        let file = File::options().create(true).append(true).open(path);
        file.unwrap_or_else(|e| panic!("cannot open {}: {e}", path.display()))
    };
    let mut files: Vec<File> = arguments.files.iter().map(open).collect();
    let mut latencies_ns = Vec::new();
    let mut error = None;
    let stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&stop)).expect("a signal handler");
    let interval = Duration::from_secs(1).checked_div(arguments.rate).unwrap_or_default();
    let begin = Instant::now();
    for i in 0..arguments.count {
        let due = begin + interval * u32::try_from(i).expect("a count that fits");
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let line = line(arguments.id, i, arguments.bytes);
        let turn = usize::try_from(i).expect("a count that fits") % files.len();
        let started = Instant::now();
        let written = files[turn].write(&line);
        let took = started.elapsed();
        match written {
            Ok(n) if n == line.len() => latencies_ns.push(took.as_nanos()),
            Ok(n) => error = Some(format!("write {i}: {n} of {} bytes", line.len())),
            Err(e) => error = Some(format!("write {i}: {e}")),
        }
        if error.is_some() || stop.load(Ordering::Relaxed) {
            break;
        }
    }
    let written = latencies_ns.len();
    latencies_ns.sort_unstable();
    let quantile = |q: f64| {
        // Nearest rank; the product is far below what a f64 holds exactly.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let rank = (q * written as f64).ceil() as usize;
        latencies_ns.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    };
    let report = serde_json::json!({
        "written": written,
        "error": error,
        "p50_ns": u64::try_from(quantile(0.5)).unwrap_or(u64::MAX),
        "p99_ns": u64::try_from(quantile(0.99)).unwrap_or(u64::MAX),
        "max_ns": u64::try_from(quantile(1.0)).unwrap_or(u64::MAX),
    });
    println!("{report}");
}
