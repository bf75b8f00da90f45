//! How the demo talks.

use std::{panic::PanicHookInfo, time::Duration};

use bywash_tests::harness::{LoadReport, wait};

/// Begins a step.
pub fn step(number: u32, title: &str) {
    println!("\n{number}. {title}");
}

/// A command as a person would type it.
pub fn command(line: &str) {
    println!("   $ {line}");
}

/// What a command printed.
pub fn output(text: &str) {
    text.lines().for_each(|line| println!("     {line}"));
}

/// What happens.
pub fn say(text: &str) {
    println!("   {text}");
}

/// Something that must hold.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn holds(what: &str, held: bool) {
    println!("   {} {what}", if held { "ok:" } else { "NOT SO:" });
    assert!(held, "{what}");
}

/// Says what did not hold, and where that was found.
pub fn failed(panic: &PanicHookInfo<'_>) {
    if !wait::is_interrupted() {
        let what = panic.payload_as_str().unwrap_or("a panic without words");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        println!("\n   FAILED: {what}\n   ({place})");
    }
}

/// A line of latencies.
pub fn latencies(of: &str, report: &LoadReport) {
    let [p50, p99, max] = [report.p50, report.p99, report.max].map(time);
    println!("   {of:<16} {:>6} writes   p50 {p50:>9}   p99 {p99:>9}   max {max:>9}", report.written);
}

/// Microseconds or milliseconds, whichever a person reads more easily.
pub fn time(time: Duration) -> String {
    let us = time.as_micros();
    if us < 10_000 { format!("{us} us") } else { format!("{:.1} ms", time.as_secs_f64() * 1e3) }
}
