//! The publisher as a process: what it does between its start and its end, however that comes.
#![allow(clippy::unwrap_used, reason = "clippy.toml's exception for tests does not reach their helpers")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use bywash_common::{
    config::RingConfig,
    record::{Origin, Write},
    ring::{AgentRing, Kind, SEGMENT_DIR, Weight},
    units::ByteSize,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

const PUBLISHER: &str = env!("CARGO_BIN_EXE_publisher");
/// A port where nobody listens.
const DEAD_BROKER: &str = "127.0.0.1:1";

/// A ring of its own for each test, removed with it.
struct TestRing {
    agent: AgentRing,
    name: String,
}

impl TestRing {
    fn new(test: &str) -> Self {
        let name = format!("bywash-test-{}-{test}", std::process::id());
        let config = RingConfig { name: name.clone(), size: ByteSize(1 << 20), group: None };
        Self { agent: AgentRing::open(&config).unwrap(), name }
    }

    fn push(&self, data: &[u8]) {
        let write = Write {
            path: b"/log/app",
            pid: 1,
            uid: 0,
            gid: 0,
            time_ns: 1_410_445_149_000_000_000,
            command: b"cat ",
            offset: 0,
            handle: 1,
            origin: Origin::Write,
            part: 0,
            parts: 1,
        };
        let mut description = Vec::new();
        write.encode_into(&mut description);
        let weight = Weight { bytes: data.len() as u64, time_ns: write.time_ns };
        self.agent.producer.push(Kind::Write, &[&description, data], weight).unwrap();
    }

    fn command(&self, command: &str, args: &[&str]) -> Command {
        let mut publisher = publisher(command, args);
        publisher.args(["--ring", &self.name]);
        publisher
    }
}

impl Drop for TestRing {
    fn drop(&mut self) {
        for role in ["ring", "ack"] {
            let _ = std::fs::remove_file(format!("{SEGMENT_DIR}/{}.1.{role}", self.name));
        }
    }
}

/// A command whose environment says nothing about bywash but that nothing is kept where others would find it.
fn publisher(command: &str, args: &[&str]) -> Command {
    let mut publisher = Command::new(PUBLISHER);
    publisher.arg(command).args(args).env_remove("SELECT").env_remove("RUST_LOG");
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("BYWASH_") {
            publisher.env_remove(variable);
        }
    }
    publisher.env("BYWASH_CONFIG", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/process.toml"));
    publisher
}

/// A running publisher, killed with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    fn lines(&mut self) -> Lines<BufReader<ChildStdout>> {
        BufReader::new(self.0.stdout.take().unwrap()).lines()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }

    fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.0.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn event(line: &str) -> (u64, String) {
    let event: Value = serde_json::from_str(line).unwrap();
    (event["sequence"].as_u64().unwrap(), event["event_id"].as_str().unwrap().to_owned())
}

#[test]
fn events_come_out_as_lines_and_sigterm_ends_it_well() {
    let ring = TestRing::new("lines");
    ring.push(b"hello");
    let mut running = Running::start(&mut ring.command("run", &["--sink", "stdout", "--encoder", "text"]));
    let mut lines = running.lines();
    assert_eq!(lines.next().unwrap().unwrap(), "2014-09-11T14:19:09.000+0000: /log/app: hello");
    ring.push(b"more");
    assert_eq!(lines.next().unwrap().unwrap(), "2014-09-11T14:19:09.000+0000: /log/app: more");

    let status = ring.command("status", &["--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((status.status.code(), &report["running"]), (Some(0), &true.into()));
    assert_eq!(running.stop().code(), Some(0));

    let status = ring.command("status", &["--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((status.status.code(), &report["running"]), (Some(3), &false.into()));
    assert_eq!((&report["lag_records"], &report["delivered_records"]), (&0.into(), &2.into()));
}

#[test]
fn whenever_it_is_killed_every_event_comes_out_under_one_id() {
    const RECORDS: u64 = 2000;
    let ring = TestRing::new("killed");
    for i in 0..RECORDS {
        ring.push(format!("line {i}").as_bytes());
    }
    let mut seen = BTreeMap::new();
    for kill_after in [1, 7, 100, 500] {
        let mut running = Running::start(&mut ring.command("run", &["--sink", "stdout"]));
        let mut lines = running.lines();
        for line in lines.by_ref().take(kill_after) {
            let (sequence, id) = event(&line.unwrap());
            assert_eq!(*seen.entry(sequence).or_insert_with(|| id.clone()), id);
        }
        running.signal(Signal::SIGKILL);
        // What the pipe still holds was delivered; a line that was cut off was not.
        for (sequence, id) in lines.map_while(Result::ok).filter(|l| l.ends_with('}')).map(|l| event(&l)) {
            assert_eq!(*seen.entry(sequence).or_insert_with(|| id.clone()), id);
        }
    }
    if seen.len() < RECORDS as usize {
        let mut running = Running::start(&mut ring.command("run", &["--sink", "stdout"]));
        for line in running.lines() {
            let (sequence, id) = event(&line.unwrap());
            assert_eq!(*seen.entry(sequence).or_insert_with(|| id.clone()), id);
            if seen.len() == RECORDS as usize {
                break;
            }
        }
    }
    assert!(seen.keys().copied().eq(0..RECORDS));
}

#[test]
fn without_brokers_it_ends_within_its_bound_and_the_ring_keeps_everything() {
    let ring = TestRing::new("dead");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bywash.toml");
    std::fs::write(
        &path,
        "[publisher]\nshutdown_timeout = \"200ms\"\n[failed]\nsize_max = 0\n[spool]\nsize_max = 0\n",
    )
    .unwrap();
    let args = ["--brokers", DEAD_BROKER, "--config", path.to_str().unwrap()];
    ring.push(b"kept");
    let mut running = Running::start(&mut ring.command("run", &args));
    let in_flight = || {
        let status = ring.command("status", &["--json"]).output().unwrap();
        let report: Value = serde_json::from_slice(&status.stdout).unwrap();
        report["in_flight_records"] == 1
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while !in_flight() {
        assert!(Instant::now() < deadline, "the record was never read");
    }
    let begun = Instant::now();
    assert_eq!(running.stop().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(ring.agent.producer.fill().0 > 0);
}

#[test]
fn a_ring_that_does_not_exist_yet_is_waited_for() {
    let name = format!("bywash-test-{}-late", std::process::id());
    let mut running = Running::start(&mut publisher("run", &["--sink", "stdout", "--ring", &name]));
    let ring = TestRing::new("late");
    assert_eq!(ring.name, name);
    ring.push(b"x");
    assert!(running.lines().next().unwrap().unwrap().contains("\"@message\":\"eA==\""));
    assert_eq!(running.stop().code(), Some(0));
}

#[test]
fn a_second_publisher_is_refused() {
    let ring = TestRing::new("second");
    ring.push(b"x");
    let mut running = Running::start(&mut ring.command("run", &["--sink", "stdout"]));
    running.lines().next().unwrap().unwrap();
    let second = ring.command("run", &["--sink", "stdout"]).output().unwrap();
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{message}");
    assert!(message.contains("held by another publisher"), "{message}");
}

/// Runs `publisher discard` and gives its exit code and what it prints.
fn discard(ring: &TestRing, args: &[&str]) -> (Option<i32>, String) {
    let output = ring.command("discard", args).output().unwrap();
    let both = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&both).into_owned())
}

#[test]
fn what_an_operator_discards_is_counted_and_the_next_event_tells_of_it() {
    let ring = TestRing::new("discard");
    for data in [&b"one"[..], b"second", b"3"] {
        ring.push(data);
    }
    let (code, said) = discard(&ring, &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("3 records wait") && said.contains("--yes"), "{said}");
    assert!(ring.agent.producer.fill().0 > 0, "nothing is discarded without --yes");

    let mut running = Running::start(&mut ring.command("run", &["--sink", "stdout", "--encoder", "ecs"]));
    let mut lines = running.lines();
    assert!(lines.next().unwrap().unwrap().contains("one"));
    let (code, said) = discard(&ring, &["--yes"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("stop it first") && said.contains("held by another publisher"), "{said}");
    assert_eq!(running.stop().code(), Some(0));

    for data in [&b"fourth"[..], b"fifth"] {
        ring.push(data);
    }
    let (code, said) = discard(&ring, &["--yes"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("2 writes (11 bytes)"), "{said}");
    ring.push(b"sixth");
    let (code, said) = discard(&ring, &["--yes"]);
    assert!(code == Some(0) && said.contains("1 writes (5 bytes)"), "{said}");

    ring.push(b"after");
    let mut running = Running::start(&mut ring.command("run", &["--sink", "stdout"]));
    let mut lines = running.lines();
    let news: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(news["lost"]["reason"], "discarded_by_operator", "{news}");
    assert_eq!((&news["lost"]["events"], &news["lost"]["bytes"]), (&3.into(), &16.into()), "{news}");
    assert_eq!(event(&lines.next().unwrap().unwrap()).0, 6);
    let status = ring.command("status", &["--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(report["discarded_records"], 3, "{report}");
    assert_eq!(running.stop().code(), Some(0));

    ring.push(b"last");
    let mut running = Running::start(&mut ring.command("run", &["--sink", "stdout"]));
    assert_eq!(event(&running.lines().next().unwrap().unwrap()).0, 7, "it is told of once");
    assert_eq!(running.stop().code(), Some(0));
}

/// A configuration with a spool, and a broker that nobody reaches.
fn with_spool(dir: &std::path::Path) -> String {
    let path = dir.join("bywash.toml");
    let text =
        "[publisher]\nshutdown_timeout = \"10s\"\n[failed]\nsize_max = 0\n[spool]\ndir = \"DIR/spool\"\n";
    std::fs::write(&path, text.replace("DIR", dir.to_str().unwrap())).unwrap();
    path.display().to_string()
}

#[test]
fn a_spool_is_discarded_with_the_ring_and_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = with_spool(dir.path());
    let into_the_spool = |ring: &TestRing, in_flight: u64| {
        ring.push(b"kept");
        let args = ["--brokers", DEAD_BROKER, "--config", &config];
        let mut running = Running::start(&mut ring.command("run", &args));
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let status = ring.command("status", &["--json"]).output().unwrap();
            let report: Value = serde_json::from_slice(&status.stdout).unwrap();
            if report["in_flight_records"] == in_flight {
                break;
            }
            assert!(Instant::now() < deadline, "{report}");
        }
        assert_eq!(running.stop().code(), Some(0));
        assert_eq!(ring.agent.producer.fill().0, 0, "it is in the spool");
    };
    let ring = TestRing::new("discard-spool");
    into_the_spool(&ring, 1);
    let (code, said) = discard(&ring, &["--yes", "--config", &config]);
    assert!(code == Some(0) && said.contains("1 writes (4 bytes)"), "{said}");

    // The news of what was discarded are on their way too.
    into_the_spool(&ring, 2);
    drop(ring);
    let gone = TestRing::new("discard-spool");
    drop(std::fs::remove_file(format!("{SEGMENT_DIR}/{}.1.ring", gone.name)));
    drop(std::fs::remove_file(format!("{SEGMENT_DIR}/{}.1.ack", gone.name)));
    let (code, said) = discard(&gone, &["--yes", "--config", &config]);
    assert!(code == Some(0) && said.contains("1 records") && said.contains("no event will say so"), "{said}");
    let (code, said) = discard(&gone, &["--config", &config]);
    assert!(code == Some(0) && said.contains("nothing waits"), "{said}");
}

#[test]
fn what_waits_for_another_sink_is_named_once_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let config = with_spool(dir.path());
    let ring = TestRing::new("elsewhere");
    let run = |args: &[&str]| {
        let mut command = ring.command("run", &["--config", &config]);
        let mut running = Running::start(command.args(args).stderr(Stdio::piped()));
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut log = String::new();
        for line in BufReader::new(running.0.stderr.take().unwrap()).lines().map_while(Result::ok) {
            assert!(Instant::now() < deadline, "{log}");
            log.push_str(&line);
            log.push('\n');
            if line.contains("sending to Kafka") {
                break;
            }
        }
        running.stop();
        log
    };
    run(&["--brokers", DEAD_BROKER]);
    ring.push(b"for Kafka");
    let said = run(&["--brokers", DEAD_BROKER]);
    assert!(!said.contains("publisher discard"), "{said}");
    let said = run(&["--brokers", DEAD_BROKER, "--topic", "other"]);
    for word in ["topic logs", "topic other", "publisher discard", "in the ring"] {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
    let said = run(&["--brokers", DEAD_BROKER, "--topic", "other"]);
    assert!(!said.contains("publisher discard"), "{said}");
}

#[test]
fn a_wrong_configuration_is_78_and_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bywash.toml");
    std::fs::write(&path, "[kafka]\nproperties = { acks = 1 }\n").unwrap();
    for command in ["check", "run"] {
        let output = publisher(command, &["--config", path.to_str().unwrap()]).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{message}");
        let place = format!("{}:2: kafka.properties.acks: ", path.display());
        assert!(message.contains(&place), "{message}");
    }
    let output = publisher("check", &["--sink", "fax"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(publisher("check", &[]).output().unwrap().status.code(), Some(0));
    assert_eq!(publisher("dance", &[]).output().unwrap().status.code(), Some(2));
}

#[test]
fn an_unreachable_broker_is_named_with_the_reason() {
    let output = publisher("check", &["--connect", "--brokers", DEAD_BROKER]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains(DEAD_BROKER) && message.contains("Connection refused"), "{message}");
}

#[test]
fn the_generated_texts_are_there() {
    for (command, args, word) in [("man", &[][..], "publisher"), ("completions", &["bash"], "_publisher")] {
        let output = publisher(command, args).output().unwrap();
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains(word));
    }
}
