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

mod table;

use std::path::PathBuf;

use bywash_benches::{
    median,
    overlay::{self, OVERLAY, Subject, Work, bonnie},
};

/// Rounds of each measurement; the tables show medians.
const ROUNDS: usize = 7;

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

fn main() {
    overlay::drain_if_told();
    let arguments = Arguments::parse(std::env::args().skip(1));
    let root = Root::new();
    let subjects = overlay::subjects(&root.0, &arguments.peers, &arguments.agents, arguments.pinned);
    let works: Vec<Work> =
        overlay::works().into_iter().filter(|work| work.name().contains(&arguments.only)).collect();
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
        print_bonnie(&subjects);
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
    let ours = subjects.iter().position(|subject| subject.name == OVERLAY).expect("the overlay");
    let rows = |cell: fn(f64, f64) -> f64| {
        works.iter().zip(medians).map(move |(work, line)| {
            (work.name(), line.iter().map(|figure| format!("{:.2}", cell(*figure, line[ours]))).collect())
        })
    };
    table::print("microseconds for one operation, medians", subjects, rows(|figure, _| figure));
    let title = format!("speed of {} in that of the others", OVERLAY);
    table::print(&title, subjects, rows(|figure, ours| figure / ours));
    println!();
}

/// Runs bonnie++ once in each directory, and prints what it says.
fn print_bonnie(subjects: &[Subject]) {
    if let Some(why) = bonnie::missing() {
        return println!("skipped {}: {why}", bonnie::NAME);
    }
    let measured = subjects.iter().map(|subject| {
        eprintln!("{}: {}", bonnie::NAME, subject.name);
        bonnie::measure(subject)
    });
    let all: Vec<_> = measured.collect();
    let rows = bonnie::columns().enumerate().map(|(i, (name, unit))| {
        let cell = |figures: &Vec<Option<f64>>| figures[i].map_or("-".to_owned(), |f| format!("{f:.0}"));
        (format!("{name}, {unit}"), all.iter().map(cell).collect())
    });
    table::print("bonnie++, more is better; `-` is too quick for it to tell", subjects, rows);
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
