#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)] // A benchmark that cannot measure has to stop.
//! What bywash costs and captures, beside what people use instead, as one page: `make report`.
//!
//! ```text
//! cargo bench --bench report -- [--seconds N] [--only PART]... [--directory DIRECTORY]
//! ```
//!
//! `--seconds` is about how long the whole may take; parts take their shares of it, with as many rounds and shorter ones. The page
//! (`benchmarks.html`), the raw figures (`benchmarks.json`) and a chart of each part (`PART.svg`) are written to `--directory`.
//! A page is made anew from its figures by `--page DIRECTORY`.

mod capture;
mod delivery;
mod loggers;
mod machine;
mod overlay;
mod run;
mod stalls;

use std::{
    any::Any,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bywash_benches::report::{
    chart,
    data::{Part, Report},
    page, summary,
};
use jiff::{Timestamp, Unit};
use run::Run;

/// How long the whole takes about, in seconds, if nobody says otherwise.
const SECONDS: u64 = 900;
/// Its scale is the smallest at which each part still measures something.
const SECONDS_MIN: u64 = 30;
/// Where the page goes if nobody says otherwise.
const DIRECTORY: &str = "report";
const FIGURES: &str = "benchmarks.json";
const PAGE: &str = "benchmarks.html";

/// What measures a part.
type Measure = fn(&mut Run) -> Part;

/// A part's id, and what measures it.
const PARTS: [(&str, Measure); 4] = [
    ("stalls", stalls::measure),
    ("overlay", overlay::measure),
    ("delivery", delivery::measure),
    ("capture", capture::measure),
];

/// What the command line says.
struct Arguments {
    seconds: u64,
    only: Vec<String>,
    directory: PathBuf,
    page_alone: bool,
}

impl Arguments {
    fn parse() -> Self {
        let mut parsed =
            Self { seconds: SECONDS, only: Vec::new(), directory: DIRECTORY.into(), page_alone: false };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
            match argument.as_str() {
                // From cargo.
                "--bench" => {}
                "--seconds" => parsed.seconds = value().parse().expect("a number of seconds"),
                "--only" => parsed.only.push(value()),
                "--directory" => parsed.directory = value().into(),
                "--page" => (parsed.directory, parsed.page_alone) = (value().into(), true),
                other => panic!("{other} is no option"),
            }
        }
        assert!(parsed.seconds >= SECONDS_MIN, "--seconds {}: at least {SECONDS_MIN}", parsed.seconds);
        for only in &parsed.only {
            let ids = PARTS.map(|(id, _)| id);
            assert!(ids.contains(&only.as_str()), "--only {only}: the parts are {ids:?}");
        }
        parsed
    }

    fn wants(&self, id: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == id)
    }
}

fn main() {
    bywash_benches::overlay::drain_if_told();
    let arguments = Arguments::parse();
    if arguments.page_alone {
        let text = fs::read_to_string(arguments.directory.join(FIGURES)).expect("figures");
        return write(&arguments.directory, &serde_json::from_str(&text).expect("figures of a run"));
    }
    fs::create_dir_all(&arguments.directory).expect("a directory for the page");
    let report = measure(&arguments);
    write(&arguments.directory, &report);
    println!("{}", summary::text(&report));
    println!("the page: {}", arguments.directory.join(PAGE).display());
}

fn measure(arguments: &Arguments) -> Report {
    let began = Instant::now();
    let mut run = Run::new(f64::from(u32::try_from(arguments.seconds).unwrap()) / SECONDS as f64);
    let mut report = Report {
        began: Timestamp::now().round(Unit::Second).expect("a time").to_string(),
        command: command(arguments),
        source: machine::source(),
        scale_seconds: arguments.seconds,
        machine: machine::describe(),
        ..Report::default()
    };
    let wanted: Vec<_> = PARTS.into_iter().filter(|(id, _)| arguments.wants(id)).collect();
    for (i, (id, part)) in wanted.iter().enumerate() {
        run.part = format!("{} of {}, {id}", i + 1, wanted.len());
        // What one part meets must not take what the others have measured.
        match catch_unwind(AssertUnwindSafe(|| part(&mut run))) {
            Ok(part) => report.parts.push(part),
            Err(panic) => run.skip(id, &said(panic.as_ref())),
        }
        report.took_seconds = began.elapsed().as_secs();
        report.skipped.clone_from(&run.skipped);
        write_figures(&arguments.directory, &report);
    }
    report
}

/// What makes such a page again.
fn command(arguments: &Arguments) -> String {
    match arguments.seconds {
        SECONDS => "make report".to_owned(),
        seconds => format!("make report REPORT_SECONDS={seconds}"),
    }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it failed").to_owned()
}

fn write_figures(directory: &Path, report: &Report) {
    let figures = serde_json::to_string_pretty(report).expect("figures as JSON");
    fs::write(directory.join(FIGURES), figures + "\n").expect("room for the figures");
}

fn write(directory: &Path, report: &Report) {
    fs::write(directory.join(PAGE), page::html(report).expect("a page")).expect("room for the page");
    for part in &report.parts {
        let drawn = part.tables.iter().find_map(|table| chart::file(table, page::OURS).expect("a chart"));
        if let Some(svg) = drawn {
            fs::write(directory.join(format!("{}.svg", part.id)), svg).expect("room for a chart");
        }
    }
}

/// Times of one operation in a round, as microseconds at p50, p99, p99.9 and the longest.
fn quantiles(mut times: Vec<Duration>) -> [f64; 4] {
    times.sort_unstable();
    [0.5, 0.99, 0.999, 1.0].map(|p| bywash_benches::percentile(&times, p).as_secs_f64() * 1e6)
}
