//! The script of writers, `writers.py`: what it does and how often.

use std::{path::Path, process::Command};

use bywash_benches::report::score::Event;
use bywash_tests::harness::process::must_run;
use serde::Deserialize;

const SCRIPT: &str = include_str!("writers.py");

/// One way to write: its name in the script, for people, and how many events.
pub struct Writer {
    pub name: &'static str,
    pub title: &'static str,
    pub events: usize,
}

const fn writer(name: &'static str, title: &'static str, events: usize) -> Writer {
    Writer { name, title, events }
}

/// The first one is that by which processor time is measured.
pub const WRITERS: [Writer; 10] = [
    writer("append", "append", 10_000),
    writer("overwrite", "overwrite in place", 500),
    writer("copytruncate", "copytruncate", 1_000),
    writer("rename", "rename and create", 1_000),
    writer("short", "create, write, unlink", 300),
    writer("mapped", "mmap", 300),
    writer("sendfile", "sendfile", 500),
    writer("direct", "O_DIRECT", 300),
    writer("many", "many small files", 1_000),
    writer("exits", "a process that exits", 200),
];

/// What a writer says that it did.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case", untagged)]
enum Said {
    Done { cpu_seconds: f64, events: Vec<(String, u64, u64, u32)> },
    Skipped { skipped: String },
}

/// What a writer did.
pub struct Done {
    /// Processor time of the writing.
    pub cpu_seconds: f64,
    pub events: Vec<Event>,
}

/// Every name that a file to be captured has.
pub fn names() -> impl Iterator<Item = String> {
    WRITERS.iter().flat_map(|writer| match writer.name {
        "short" => (0..writer.events).map(|i| format!("short-{i}.log")).collect(),
        "many" => (0..writer.events / 2).map(|i| format!("many-{i}.log")).collect(),
        name => vec![format!("{name}.log")],
    })
}

/// Runs a writer; the `Err` is why it cannot write so here.
pub fn write(writer: &Writer, directory: &Path, elsewhere: &Path) -> Result<Done, String> {
    let mut command = Command::new("python3");
    command.args(["-c", SCRIPT, writer.name, &writer.events.to_string()]).arg(directory).arg(elsewhere);
    let text = must_run(&mut command);
    match serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}: {text}", writer.name)) {
        Said::Skipped { skipped } => Err(skipped),
        Said::Done { cpu_seconds, events } => {
            let each = |(group, first, count, pid): (String, u64, u64, u32)| {
                (first..first + count).map(move |number| Event {
                    group: group.clone(),
                    number,
                    pid: Some(pid),
                })
            };
            Ok(Done { cpu_seconds, events: events.into_iter().flat_map(each).collect() })
        }
    }
}
