//! Keeps floods out of the log.

use std::time::{Duration, Instant};

/// Lets one line through in each interval and counts the others.
pub struct LogRate {
    interval: Duration,
    last: Option<Instant>,
    held_back: u64,
}

/// How many lines were held back since the last one, for the end of the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldBack(u64);

impl std::fmt::Display for HeldBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => Ok(()),
            n => write!(f, " ({n} more like it since the last line)"),
        }
    }
}

impl LogRate {
    /// At most one line in `interval`.
    pub fn new(interval: Duration) -> Self {
        Self { interval, last: None, held_back: 0 }
    }

    /// Whether a line may be written now; it should end with what this gives.
    pub fn pass(&mut self) -> Option<HeldBack> {
        if self.last.is_some_and(|last| last.elapsed() < self.interval) {
            self.held_back += 1;
            return None;
        }
        self.last = Some(Instant::now());
        Some(HeldBack(std::mem::take(&mut self.held_back)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_passes_and_the_next_says_how_many_did_not() {
        let mut rate = LogRate::new(Duration::from_secs(3600));
        assert_eq!(rate.pass(), Some(HeldBack(0)));
        assert_eq!((rate.pass(), rate.pass()), (None, None));
        rate.interval = Duration::ZERO;
        assert_eq!(rate.pass(), Some(HeldBack(2)));
        assert_eq!(rate.pass(), Some(HeldBack(0)));
    }
}
