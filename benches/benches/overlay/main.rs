#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)] // A benchmark that cannot measure has to stop.
//! The overlay beside the bare directory and other filesystems in user space: `cargo bench --bench overlay`.
//!
//! ```text
//! cargo bench --bench overlay -- [--rounds N] [--only PART-OF-A-NAME] [--pinned] [--peer NAME='COMMAND {source} {mountpoint}']...
//!     [--agent NAME=FS_AGENT]...
//! ```
//!
//! `--agent` names other builds of fs-agent, which capture as ours does and are drained as ours is.
//!
//! Every figure of a line is taken in the same run, in turns, so that the machine's moods fall on all of them. What the
//! overlay captures is drained to nowhere by another process; `uncaptured` is the same overlay with every file excluded,
//! so what it is faster by is capture's share.
//!
//! Who writes and who serves wake each other, and where the scheduler puts them makes a factor of two, which changes from one
//! second to the next. `--pinned` has both on one CPU and the drains on another: what is left is what each one does.
//!
//! TMPDIR says on which filesystem everything happens. On ext4 the creation of files is the search for an inode, which takes longer
//! the more were deleted in the last minute: for what names cost, take a tmpfs (not /dev/shm: the ring is there).

mod bonnie;
mod subject;
mod table;
mod work;

use std::{hint::black_box, path::PathBuf, time::Duration};

use bywash_benches::median;
use bywash_common::ring::PublisherRing;

use subject::Subject;
use work::Work;

/// Rounds of each measurement; the tables show medians.
const ROUNDS: usize = 7;
/// How many records the drain reads before it acknowledges them.
const BATCH: usize = 256;

/// What the command line says.
struct Arguments {
    rounds: usize,
    only: String,
    pinned: bool,
    peers: Vec<(String, String)>,
    agents: Vec<(String, PathBuf)>,
}

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Self {
        let mut parsed = Self {
            rounds: ROUNDS,
            only: String::new(),
            pinned: false,
            peers: Vec::new(),
            agents: Vec::new(),
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
            match argument.as_str() {
                // From cargo.
                "--bench" => {}
                "--rounds" => parsed.rounds = value().parse().expect("a number of rounds"),
                "--only" => parsed.only = value(),
                "--pinned" => parsed.pinned = true,
                "--peer" => {
                    let peer = value();
                    let (name, command) = peer.split_once('=').expect("--peer NAME='COMMAND ...'");
                    parsed.peers.push((name.to_owned(), command.to_owned()));
                }
                "--agent" => {
                    let agent = value();
                    let (name, program) = agent.split_once('=').expect("--agent NAME=FS_AGENT");
                    parsed.agents.push((name.to_owned(), program.into()));
                }
                other => panic!("{other} is no option"),
            }
        }
        parsed
    }
}

/// The other process: drains the ring until it is killed.
fn drain(ring: &str) -> ! {
    let mut publisher = PublisherRing::attach(ring, None).unwrap();
    let acker = publisher.consumer.acker();
    let mut payload = Vec::new();
    loop {
        let mut end = None;
        for _ in 0..BATCH {
            let Some(entry) = publisher.consumer.next(&mut payload).unwrap() else { break };
            end = Some(entry.end);
            black_box(&payload);
        }
        match end {
            Some(end) => acker.ack(end),
            None => publisher.consumer.wait(Duration::from_millis(100)),
        }
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|argument| argument == "drain").is_some() {
        drain(&arguments.next().expect("a ring's name"));
    }
    let arguments = Arguments::parse(arguments);
    let root = Root::new();
    let subjects = subject::all(&root.0, &arguments.peers, &arguments.agents, arguments.pinned);
    let works: Vec<Work> =
        work::all().into_iter().filter(|work| work.name().contains(&arguments.only)).collect();
    let mut figures = vec![vec![Vec::new(); subjects.len()]; works.len()];
    for round in 0..arguments.rounds {
        eprintln!("round {} of {}", round + 1, arguments.rounds);
        for (work, figures) in works.iter().zip(&mut figures) {
            for turn in 0..subjects.len() {
                // Whoever comes first finds another machine than whoever comes last.
                let i = (turn + round) % subjects.len();
                figures[i].push(work.measure(&subjects[i]));
            }
        }
    }
    let medians: Vec<Vec<f64>> = figures
        .into_iter()
        .map(|line| line.into_iter().map(|mut figures| median(&mut figures)).collect())
        .collect();
    if !works.is_empty() {
        print_tables(&subjects, &works, &medians);
    }
    if bonnie::NAME.contains(&arguments.only) {
        bonnie::run(&subjects);
    }
    for subject in &subjects {
        if let Some(memory) = subject.memory_bytes() {
            println!(
                "{}: {:.1} MiB of its own memory after all of it",
                subject.name,
                memory as f64 / 1048576.0
            );
        }
    }
}

/// Microseconds for each operation, and how fast the overlay is beside the others.
fn print_tables(subjects: &[Subject], works: &[Work], medians: &[Vec<f64>]) {
    let ours = subjects.iter().position(|subject| subject.name == subject::OVERLAY).expect("the overlay");
    let rows = |cell: fn(f64, f64) -> f64| {
        works.iter().zip(medians).map(move |(work, line)| {
            (work.name(), line.iter().map(|figure| format!("{:.2}", cell(*figure, line[ours]))).collect())
        })
    };
    table::print("microseconds for one operation, medians", subjects, rows(|figure, _| figure));
    let title = format!("speed of {} in that of the others", subject::OVERLAY);
    table::print(&title, subjects, rows(|figure, ours| figure / ours));
    println!();
}

/// Where everything happens; removed at the end. `make clean-up` knows the name.
struct Root(PathBuf);

impl Root {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("bywash-test-{}-bench", std::process::id()));
        std::fs::create_dir(&path).expect("a new directory");
        Self(path)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
