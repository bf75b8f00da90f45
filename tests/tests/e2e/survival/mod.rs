//! Nobody notices that the agent dies, stops or is replaced (G8): a resident with all that programs have in a directory goes on as
//! if nothing had been, and each of its writes is in the ring once. `make survival` tries the same at length, and with daemons.

mod daemons;
mod waits;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bywash_tests::{
    harness::{
        Bywash, Capture, Captured, Process, Settings, program,
        wait::{self, TIMEOUT},
    },
    resident::Report,
};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::{Signal, kill},
};

use crate::supervise::Supervised;
use waits::{Gap, Waits};

/// How often the agent is killed.
const KILLS: u32 = 20;
/// How often it is restarted.
const RESTARTS: u32 = 5;
/// Files that are open meanwhile.
const FILES: u32 = 400;
/// How often it is killed, and restarted, at length; `TEST_KILLS` and `TEST_RESTARTS` say otherwise.
const KILLS_AT_LENGTH: u32 = 1_000;
const RESTARTS_AT_LENGTH: u32 = 100;
/// Files that are open at length; `TEST_FILES` says otherwise.
const FILES_AT_LENGTH: u32 = 10_000;
/// Descriptors of a resident beside those of its files.
const OTHER_DESCRIPTORS: u64 = 100;
/// A supervisor gives up an agent that ends more often in the long run: 200 times in a minute.
const KILL_INTERVAL: Duration = Duration::from_millis(310);
/// How long all but one of a hundred waits take at most: for an agent that is restarted, and for one that is killed.
const RESTART_P99_MAX: Duration = Duration::from_millis(50);
const KILL_P99_MAX: Duration = Duration::from_millis(300);
/// How long a restarted agent may keep a caller waiting.
const LONGEST_RESTART_MAX: Duration = Duration::from_secs(1);
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
    /// How many bytes were written under which path.
    lens: BTreeMap<PathBuf, usize>,
}

impl Books {
    /// Takes what has come since.
    fn take(&mut self, capture: &mut Capture) {
        for Captured { path, offset, data, .. } in capture.take() {
            let path = PathBuf::from(String::from_utf8(path).expect("a path"));
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            // Pages of mappings come as often as the kernel writes them.
            if name.starts_with("mapped-") {
                continue;
            }
            self.writes += 1;
            self.bytes += data.len() as u64;
            *self.lens.entry(path.clone()).or_default() += data.len();
            let content = self.contents.entry(path).or_default();
            let (begin, end) =
                (usize::try_from(offset).unwrap(), usize::try_from(offset).unwrap() + data.len());
            if name.starts_with("append-") {
                let is_there = content.get(begin..end) == Some(&*data);
                let len = data.len();
                assert_eq!(
                    begin,
                    content.len(),
                    "{name}: an append is missing, or there twice; {len} bytes, there already: {is_there}"
                );
            }
            content.resize(content.len().max(end), 0);
            content[begin..end].copy_from_slice(&data);
        }
    }

    /// How many bytes were written to files whose names begin with `prefix`.
    fn written_below(&self, prefix: &str) -> usize {
        let begins =
            |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
        self.lens.iter().filter(|(path, _)| begins(path)).map(|(_, len)| len).sum()
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
    wait::until("the resident to settle", TIMEOUT, || {
        if mark.exists() { Ok(()) } else { Err("it does not live yet".to_owned()) }
    });
    resident
}

#[track_caller]
fn report(resident: &mut Process) -> Report {
    resident.signal(Signal::SIGTERM);
    let status = resident.wait(TIMEOUT * 4);
    assert!(status.success(), "the resident ended with {status}");
    serde_json::from_str(&resident.stdout()).expect("a report")
}

#[track_caller]
fn assert_nothing_was_noticed(report: &Report) {
    let errors = report.errors();
    assert!(errors.is_empty(), "{} errors: {errors:#?}", errors.len());
}

#[track_caller]
fn assert_nobody_waited_long(report: &Report, longest_max: Duration) {
    let (longest_ms, whose) = report.longest();
    println!("longest wait: {longest_ms} ms, of {whose}; writes: {:?}", report.written());
    assert!(u128::from(longest_ms) <= longest_max.as_millis(), "{whose} waited {longest_ms} ms");
}

/// A microsecond between 20 and 80 ms, another one each time.
fn moment(round: u32) -> Duration {
    Duration::from_micros(20_000 + u64::from(round) * 7_919 % 60_000)
}

/// Has a resident with so many files live in the directory while the agent gets `signal` so many times, at least `interval` apart.
/// Gives what it did, and how long it waited.
fn live_through(signal: Signal, times: u32, files: u32, interval: Duration, longest_max: Duration) -> Waits {
    let supervised = Supervised::over(Bywash::new("localhost:9", &Settings::default()), "");
    let mut capture = Capture::attach(&supervised.bywash.ring);
    let mut books = Books::default();
    let mut resident =
        settle(&supervised.bywash, &[format!("--files={files}"), "--pause-us=1000".to_owned()]);
    let mut gaps = Vec::new();
    let mut next = Instant::now();
    for round in 0..times {
        // At any moment: what it is in the middle of differs each time.
        let until = (Instant::now() + moment(round)).max(next);
        while Instant::now() < until {
            capture.wait(until.saturating_duration_since(Instant::now()));
            books.take(&mut capture);
        }
        next = Instant::now() + interval + moment(round + 1);
        let agent = supervised.agent_pid();
        let gap = Gap::begin();
        kill(agent, signal).unwrap();
        // The first has the number 1.
        supervised.wait_for_agent(u64::from(round) + 2);
        gaps.push(gap.end());
    }
    let report = report(&mut resident);
    books.take(&mut capture);
    let waits = Waits::of(&report, &gaps);
    println!("{signal} {times} times, {files} files open: {waits}");
    assert_nothing_was_noticed(&report);
    books.assert_complete(&report, supervised.bywash.directory());
    println!("0 errors, 0 writes lost, 0 captured twice");
    assert_nobody_waited_long(&report, longest_max);
    waits
}

// Guarantee: G8
#[test]
fn no_program_notices_that_the_agent_is_killed() {
    live_through(Signal::SIGKILL, KILLS, FILES, Duration::ZERO, LONGEST_WAIT_MAX);
}

// Guarantee: G8
#[test]
fn no_program_notices_that_the_agent_is_restarted() {
    live_through(Signal::SIGTERM, RESTARTS, FILES, Duration::ZERO, LONGEST_WAIT_MAX);
}

/// How many of so many files can be open here under an overlay, after the limit was raised as far as it goes: the agent has two
/// descriptors for each, and keeps a quarter for itself.
fn files_possible(wanted: u32) -> u32 {
    let enough = (u64::from(wanted) + OTHER_DESCRIPTORS).div_ceil(3) * 8;
    let hard = || getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
    if hard() < enough {
        // With the privilege for that.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, enough, enough);
    }
    let possible = u32::try_from((hard() / 8 * 3).saturating_sub(OTHER_DESCRIPTORS)).unwrap_or(u32::MAX);
    if possible < wanted {
        println!("RLIMIT_NOFILE, {}, allows {possible} of {wanted} open files", hard());
    }
    possible.min(wanted)
}

#[track_caller]
fn assert_p99(waits: &Waits, p99_max: Duration) {
    let p99 = Duration::from_micros(waits.percentile(99));
    assert!(p99 <= p99_max, "{p99:?} instead of {p99_max:?} at the 99th percentile");
}

#[test]
#[ignore = "make survival: 10 minutes"]
fn no_program_notices_that_the_agent_is_killed_at_length() {
    let (kills, files) =
        (number("TEST_KILLS", KILLS_AT_LENGTH), files_possible(number("TEST_FILES", FILES_AT_LENGTH)));
    let waits = live_through(Signal::SIGKILL, kills, files, KILL_INTERVAL, LONGEST_WAIT_MAX);
    assert_p99(&waits, KILL_P99_MAX);
}

#[test]
#[ignore = "make survival: a minute"]
fn no_program_notices_that_the_agent_is_restarted_at_length() {
    let (restarts, files) =
        (number("TEST_RESTARTS", RESTARTS_AT_LENGTH), files_possible(number("TEST_FILES", FILES_AT_LENGTH)));
    let waits = live_through(Signal::SIGTERM, restarts, files, KILL_INTERVAL, LONGEST_RESTART_MAX);
    assert_p99(&waits, RESTART_P99_MAX);
}
