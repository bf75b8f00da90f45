//! What a program has in a directory, all at once, and keeps using.

mod mapping;
mod threads;

use std::{
    fs,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// The most errors that are reported of one thread.
const ERRORS_MAX: usize = 20;

/// What a resident shall do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it lives. Has to be empty.
    pub directory: PathBuf,
    /// Threads that append, and as many that write at places.
    pub writers: u64,
    /// Files that stay open.
    pub files: u64,
    /// Microseconds between a thread's operations.
    pub pause_us: u64,
}

/// An operation that takes so long has waited for something.
pub const WAIT_MIN: Duration = Duration::from_millis(1);

/// One operation that waited.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Wait {
    /// When it was begun, in microseconds of CLOCK_MONOTONIC.
    pub begin_us: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

/// Microseconds of CLOCK_MONOTONIC, which is the same for all processes.
///
/// # Panics
/// On a system without that clock.
pub fn now_us() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock");
    u64::try_from(Duration::from(now).as_micros()).expect("fewer microseconds than a u64 counts")
}

/// What one of its threads did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Part {
    /// Which.
    pub name: String,
    /// How many operations.
    pub operations: u64,
    /// How many writes, and how many bytes: each has to be captured once.
    pub writes: u64,
    /// See `writes`.
    pub bytes: u64,
    /// The longest operation, in milliseconds.
    pub longest_ms: u64,
    /// Operations of [`WAIT_MIN`] and longer.
    pub waits: Vec<Wait>,
    /// Operations that failed, or gave another thing than they had to.
    pub errors: Vec<String>,
}

/// What a resident did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Each of its threads.
    pub parts: Vec<Part>,
}

impl Report {
    /// All errors, with the names of the threads that met them.
    pub fn errors(&self) -> Vec<String> {
        let named = |part: &Part| {
            let name = part.name.clone();
            part.errors.clone().into_iter().map(move |error| format!("{name}: {error}"))
        };
        self.parts.iter().flat_map(named).collect()
    }

    /// How many writes it did, and how many bytes.
    pub fn written(&self) -> (u64, u64) {
        self.parts.iter().fold((0, 0), |(writes, bytes), part| (writes + part.writes, bytes + part.bytes))
    }

    /// The longest operation, in milliseconds, and whose it was.
    pub fn longest(&self) -> (u64, &str) {
        let longest = self.parts.iter().max_by_key(|part| part.longest_ms);
        longest.map_or((0, "nobody"), |part| (part.longest_ms, &part.name))
    }
}

impl Part {
    /// Does one operation, which must succeed.
    fn time<T>(&mut self, what: &str, work: impl FnOnce() -> std::io::Result<T>) -> Option<T> {
        let begin_us = now_us();
        let done = work();
        let took_us = now_us() - begin_us;
        self.operations += 1;
        self.longest_ms = self.longest_ms.max(took_us / 1_000);
        if Duration::from_micros(took_us) >= WAIT_MIN {
            self.waits.push(Wait { begin_us, took_us });
        }
        match done {
            Ok(value) => Some(value),
            Err(error) => {
                self.fail(format!("{what} (operation {}): {error}", self.operations));
                None
            }
        }
    }

    /// As [`Self::time`], for a write of so many bytes, all of which must be written.
    fn write(&mut self, what: &str, len: usize, work: impl FnOnce() -> std::io::Result<usize>) -> bool {
        let Some(written) = self.time(what, work) else { return false };
        self.writes += 1;
        self.bytes += written as u64;
        if written != len {
            self.fail(format!("{what} (operation {}): {written} of {len} bytes", self.operations));
        }
        written == len
    }

    fn fail(&mut self, error: String) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(error);
        }
    }

    /// Something has to hold.
    fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(what());
        }
    }
}

/// What all threads go by.
pub(super) struct Life {
    settings: Settings,
    /// Each thread has made what it needs.
    settled: Barrier,
    over: AtomicBool,
}

impl Life {
    fn path(&self, name: &str) -> PathBuf {
        self.settings.directory.join(name)
    }

    /// Does `work` again and again, until the end.
    fn repeat(&self, mut work: impl FnMut(u64)) {
        self.settled.wait();
        let mut round = 0;
        while !self.over.load(Ordering::Relaxed) {
            work(round);
            round += 1;
            thread::sleep(Duration::from_micros(self.settings.pause_us));
        }
    }
}

type Task = fn(&Life, &mut Part, u64);

/// Lives in the directory until SIGTERM.
///
/// # Panics
/// If it cannot begin.
pub fn live(settings: &Settings) -> Report {
    fs::create_dir(settings.directory.join("cwd")).expect("a directory to work in");
    std::env::set_current_dir(settings.directory.join("cwd")).expect("a working directory");
    let each = settings.writers;
    let tasks: Vec<(&str, Task, u64)> = [
        ("append", threads::append as Task, each),
        ("place", threads::place, each),
        ("keep", threads::keep, 1),
        ("lock", threads::lock, 1),
        ("follow", threads::follow, 1),
        ("here", threads::work_here, 1),
        ("names", threads::change_names, 1),
        ("visit", threads::visit, 1),
        ("map", mapping::map, 1),
        ("apart", threads::live_apart, 1),
    ]
    .into_iter()
    .flat_map(|(name, task, count)| (0..count).map(move |i| (name, task, i)))
    .collect();
    let life = Arc::new(Life {
        settings: settings.clone(),
        settled: Barrier::new(tasks.len() + 1),
        over: AtomicBool::new(false),
    });
    let over = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&over)).expect("a signal handler");
    let threads: Vec<_> = tasks
        .into_iter()
        .map(|(name, task, i)| {
            let life = Arc::clone(&life);
            thread::spawn(move || {
                let mut part = Part { name: format!("{name}-{i}"), ..Part::default() };
                task(&life, &mut part, i);
                part
            })
        })
        .collect();
    life.settled.wait();
    // Says that it lives.
    fs::File::create("../settled").and_then(|file| file.write_all_at(b"", 0)).expect("a mark");
    while !over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(10));
    }
    life.over.store(true, Ordering::Relaxed);
    Report { parts: threads.into_iter().map(|thread| thread.join().expect("a thread that ends")).collect() }
}
