//! What the benchmarks share: figures measured side by side in one run, and tables of them.

use std::time::Duration;

/// The median of the figures; 0 for none.
pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}

/// The figure below which the share `p` of the sorted figures lies.
pub fn percentile(sorted: &[Duration], p: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    let index = (last as f64 * p).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}
