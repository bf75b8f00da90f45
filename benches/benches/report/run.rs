//! What all parts of a run share: its scale, what it says meanwhile, and what it cannot measure.

use std::time::{Duration, Instant};

use bywash_benches::report::data::Skipped;
use bywash_tests::harness::Process;

/// A run under way.
pub struct Run {
    /// Shares of the times that a run takes if nobody says otherwise.
    pub scale: f64,
    /// Which part, for those who wait.
    pub part: String,
    /// What cannot be measured here.
    pub skipped: Vec<Skipped>,
    began: Instant,
}

impl Run {
    pub fn new(scale: f64) -> Self {
        Self { scale, part: String::new(), skipped: Vec::new(), began: Instant::now() }
    }

    /// So much of the time that something takes at the usual scale.
    pub fn scaled(&self, time: Duration) -> Duration {
        time.mul_f64(self.scale)
    }

    /// So many of what is done at the usual scale, at least `least`.
    pub fn count(&self, usual: usize, least: usize) -> usize {
        ((usual as f64 * self.scale).round() as usize).max(least)
    }

    /// Says what happens.
    pub fn say(&self, what: &str) {
        let seconds = self.began.elapsed().as_secs();
        eprintln!("{:>3}:{:02}  part {}: {what}", seconds / 60, seconds % 60, self.part);
    }

    /// Notes what is missing, once, and says so.
    pub fn skip(&mut self, what: &str, why: &str) {
        let skipped = Skipped { what: what.to_owned(), why: why.to_owned() };
        if !self.skipped.contains(&skipped) {
            self.say(&format!("not measured: {what}: {why}"));
            self.skipped.push(skipped);
        }
    }
}

/// Memory that a process has for itself, in bytes: shared memory, as the ring, is not in it.
pub fn own_memory(process: &Process) -> u64 {
    memory_of(process.pid().as_raw())
}

/// The same by a process's id; 0 if there is none.
pub fn memory_of(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10
}

/// As MiB.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
