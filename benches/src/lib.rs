#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A benchmark that cannot measure has to stop.
//! What the benchmarks share: figures measured side by side in one run, and what is measured.

pub mod overlay;
pub mod report;
mod writes;

use std::time::Duration;

use nix::{time::ClockId, unistd::Pid};

pub use writes::{FilledRing, Writes};

/// The median of the figures, of an even number the mean of the two in the middle; 0 for none.
pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = |place: usize| figures.get(place).copied().unwrap_or(0.0);
    let upper = figures.len() / 2;
    if figures.len() % 2 == 1 {
        middle(upper)
    } else {
        f64::midpoint(middle(upper.saturating_sub(1)), middle(upper))
    }
}

/// The figure below which the share `p` of the sorted figures lies.
pub fn percentile(sorted: &[Duration], p: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    let index = (last as f64 * p).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}

/// Processor time that a process has taken so far, with all its threads; nothing if there is no such process.
pub fn cpu_time(pid: i32) -> Duration {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid));
    clock.and_then(ClockId::now).map_or(Duration::ZERO, Duration::from)
}
