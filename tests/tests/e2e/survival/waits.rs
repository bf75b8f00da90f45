//! How long callers waited for an agent that was killed or restarted.

use std::fmt;

use bywash_tests::resident::{Report, now_us};

/// From when an agent was told to end until the next one listened.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    begin_us: u64,
    end_us: u64,
}

impl Gap {
    /// The agent is about to be told to end.
    pub fn begin() -> Self {
        Self { begin_us: now_us(), end_us: u64::MAX }
    }

    /// The next one listens.
    pub fn end(self) -> Self {
        Self { end_us: now_us(), ..self }
    }
}

/// How long each thread waited at most in each gap, the shortest first, in microseconds.
pub struct Waits(Vec<u64>);

impl Waits {
    /// Those of the threads in `report`. A thread that did not ask for anything in a gap has not waited.
    pub fn of(report: &Report, gaps: &[Gap]) -> Self {
        let mut waits = Vec::new();
        for part in &report.parts {
            for gap in gaps {
                let overlaps = |begin_us: u64, took_us: u64| {
                    begin_us <= gap.end_us && begin_us + took_us >= gap.begin_us
                };
                let longest = part
                    .waits
                    .iter()
                    .filter(|wait| overlaps(wait.begin_us, wait.took_us))
                    .map(|wait| wait.took_us);
                waits.extend(longest.max());
            }
        }
        waits.sort_unstable();
        Self(waits)
    }

    /// What so many of a hundred waited at most, in microseconds.
    pub fn percentile(&self, percent: usize) -> u64 {
        let rank = (self.0.len() * percent).div_ceil(100);
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or(0)
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |percent| self.percentile(percent) / 1_000;
        write!(f, "{} waits: p50 {} ms, p99 {} ms, longest {} ms", self.0.len(), ms(50), ms(99), ms(100))
    }
}
