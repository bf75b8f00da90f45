//! Nobody notices that the agent dies, stops or is replaced (G8): a resident with all that programs have in a directory goes on as
//! if nothing had been, and each of its writes is in the ring once.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bywash_tests::{
    harness::{
        Bywash, Capture, Captured, Process, Settings, program,
        wait::{self, PATIENCE},
    },
    resident::Report,
};
use nix::sys::signal::Signal;

use crate::supervise::Supervised;

/// How often the agent is killed; `TEST_KILLS` says otherwise.
const KILLS: u32 = 20;
/// How often it is restarted; `TEST_RESTARTS` says otherwise.
const RESTARTS: u32 = 5;
/// Files that are open meanwhile; `TEST_FILES` says otherwise.
const FILES: u32 = 400;
/// How long a killed agent may keep a caller waiting.
const LONGEST_WAIT_MAX: Duration = Duration::from_secs(2);

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// What the ring has of a resident's writes.
#[derive(Default)]
struct Books {
    writes: u64,
    bytes: u64,
    /// The contents of files, made again from their records.
    contents: BTreeMap<PathBuf, Vec<u8>>,
}

impl Books {
    /// Takes what has come since.
    fn take(&mut self, capture: &mut Capture) {
        for Captured { path, offset, data, .. } in capture.take() {
            let path = PathBuf::from(String::from_utf8(path).expect("a path"));
            self.writes += 1;
            self.bytes += data.len() as u64;
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let content = self.contents.entry(path).or_default();
            let (begin, end) =
                (usize::try_from(offset).unwrap(), usize::try_from(offset).unwrap() + data.len());
            if name.starts_with("append-") {
                assert_eq!(begin, content.len(), "{name}: an append is missing, or there twice");
            }
            content.resize(content.len().max(end), 0);
            content[begin..end].copy_from_slice(&data);
        }
    }

    /// All that the resident has written is there, once.
    fn assert_complete(&self, report: &Report, directory: &Path) {
        assert_eq!((self.writes, self.bytes), report.written(), "captured, and written");
        let of_writers = |path: &Path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with("append-") || name.starts_with("place-")
        };
        for (path, content) in self.contents.iter().filter(|(path, _)| of_writers(path)) {
            assert!(fs::read(path).unwrap() == *content, "{} differs from its records", path.display());
        }
        assert!(self.contents.contains_key(&directory.join("append-0")));
    }
}

/// Has a resident live in the watched directory.
#[track_caller]
fn settle(bywash: &Bywash, arguments: &[String]) -> Process {
    let directory = bywash.directory();
    let mut all = arguments.to_vec();
    all.push(directory.to_str().unwrap().to_owned());
    let resident = Process::spawn("resident", &program("resident"), all, bywash.root(), Signal::SIGKILL);
    let mark = directory.join("settled");
    wait::until("the resident to settle", PATIENCE, || {
        if mark.exists() { Ok(()) } else { Err("it does not live yet".to_owned()) }
    });
    resident
}

#[track_caller]
fn report(resident: &mut Process) -> Report {
    resident.signal(Signal::SIGTERM);
    let status = resident.wait(PATIENCE * 4);
    assert!(status.success(), "the resident ended with {status}");
    serde_json::from_str(&resident.stdout()).expect("a report")
}

#[track_caller]
fn assert_nothing_was_noticed(report: &Report, longest_max: Duration) {
    let errors = report.errors();
    assert!(errors.is_empty(), "{} errors: {errors:#?}", errors.len());
    let (longest_ms, whose) = report.longest();
    println!("longest wait: {longest_ms} ms, of {whose}; writes: {:?}", report.written());
    assert!(u128::from(longest_ms) <= longest_max.as_millis(), "{whose} waited {longest_ms} ms");
}

/// Has a resident live in the directory while the agent gets `signal` so many times.
fn live_through(signal: Signal, times: u32) {
    let supervised = Supervised::over(Bywash::new("localhost:9", &Settings::default()), "");
    let mut capture = Capture::attach(&supervised.bywash.ring);
    let mut books = Books::default();
    let files = number("TEST_FILES", FILES);
    let mut resident =
        settle(&supervised.bywash, &[format!("--files={files}"), "--pause-us=1000".to_owned()]);
    for round in 0..times {
        // At any moment: what it is in the middle of differs each time.
        let until = Instant::now() + Duration::from_micros(20_000 + u64::from(round) * 7_919 % 60_000);
        while Instant::now() < until {
            books.take(&mut capture);
        }
        supervised.tell_agent(signal);
        // The first has the number 1.
        supervised.agent_in_a_row(u64::from(round) + 2);
    }
    let report = report(&mut resident);
    books.take(&mut capture);
    assert_nothing_was_noticed(&report, LONGEST_WAIT_MAX);
    books.assert_complete(&report, supervised.bywash.directory());
}

#[test]
fn no_program_notices_that_the_agent_is_killed() {
    live_through(Signal::SIGKILL, number("TEST_KILLS", KILLS));
}

#[test]
fn no_program_notices_that_the_agent_is_restarted() {
    live_through(Signal::SIGTERM, number("TEST_RESTARTS", RESTARTS));
}
