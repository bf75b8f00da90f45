//! A ring full of writes, and the publisher that drains it.

use std::{path::Path, time::Instant};

use bywash_common::{
    config::RingConfig,
    record::{Origin, Write},
    ring::{AgentRing, Kind, SEGMENT_DIR, Weight, inspect},
    units::ByteSize,
};
use bywash_tests::harness::{FaultProxy, Kinesis, PREFIX, Process, program, temporary_directory, wait};
use nix::sys::signal::Signal;

use crate::{Case, bare::CREDENTIALS};

/// The stream of ours.
pub const STREAM: &str = "ours";
/// What a record adds to its message at most.
const RECORD_OVERHEAD_BYTES: usize = 256;

/// Seconds to drain as many writes to Kinesis.
pub fn measure(kinesis: &Kinesis, case: Case, events: usize) -> f64 {
    drain(&format!("http://{}", kinesis.address()), case, events)
}

/// Events in a request, on the average; the proxy holds each to Kinesis' limits, too.
pub fn events_per_request(case: Case, events: usize) -> f64 {
    let kinesis = Kinesis::start();
    kinesis.create_stream(STREAM, 1);
    let proxy = FaultProxy::start(&kinesis);
    if case.kinesis.contains("strict_order = false") {
        proxy.allow_shared_requests();
    }
    drain(&proxy.url(), case, events);
    events as f64 / proxy.seen().puts as f64
}

fn drain(url: &str, case: Case, events: usize) -> f64 {
    let ring = Filled::new(case, events);
    let directory = temporary_directory();
    let config = directory.path().join("bywash.toml");
    let text = format!(
        "[ring]\nname = {:?}\n[publisher]\nsink = \"kinesis\"\n[failed]\nsize_max = 0\n[spool]\nsize_max = 0\n[kinesis]\nendpoint_url = {url:?}\n\
         region = \"us-east-1\"\nstream_name = {STREAM:?}\n{}\n",
        ring.name, case.kinesis
    );
    std::fs::write(&config, text).expect("a configuration file");
    let publisher = program("publisher");
    let run = [publisher.as_os_str(), "run".as_ref(), "--config".as_ref(), config.as_os_str()];
    let arguments = CREDENTIALS.iter().map(AsRef::as_ref).chain(run);
    let begin = Instant::now();
    let mut publisher =
        Process::spawn("publisher", Path::new("env"), arguments, directory.path(), Signal::SIGKILL);
    wait::until("the ring to be drained", wait::PATIENCE * 10, || {
        assert!(publisher.ended().is_none(), "the publisher ended: {}", publisher.log());
        let left = inspect(&ring.name).map_err(|e| e.to_string())?.used_records;
        if left == 0 { Ok(()) } else { Err(format!("{left} records left")) }
    });
    let seconds = begin.elapsed().as_secs_f64();
    publisher.terminate(wait::PATIENCE);
    seconds
}

/// The path of the `i`-th write.
pub fn path(i: usize, files: usize) -> String {
    format!("/var/log/application/server-{}.log", i % files)
}

/// What each write says: lines as logs have them.
pub fn message(i: usize, size: usize) -> Vec<u8> {
    let line = format!("2026-01-01T00:00:00.000Z INFO request={i} method=GET path=/api/v1/items status=200 ");
    let mut message: Vec<u8> = line.bytes().cycle().take(size - 1).collect();
    message.push(b'\n');
    message
}

/// A ring that holds all the writes.
struct Filled {
    name: String,
    _agent: AgentRing,
}

impl Filled {
    fn new(case: Case, events: usize) -> Self {
        let name = format!("{PREFIX}-{}-kinesis", std::process::id());
        let bytes = ((case.size + RECORD_OVERHEAD_BYTES) * events).max(1 << 20) as u64;
        let config = RingConfig { name: name.clone(), size: ByteSize(bytes), group: None };
        let agent = AgentRing::open(&config).expect("a ring");
        let mut description = Vec::new();
        for i in 0..events {
            let path = path(i, case.files);
            let write = Write {
                path: path.as_bytes(),
                pid: 4711,
                uid: 0,
                gid: 0,
                time_ns: 1_767_225_600_000_000_000 + i as u64 * 1000,
                command: b"/usr/bin/server --config /etc/server.conf ",
                offset: (i / case.files * case.size) as u64,
                handle: (i % case.files) as u64,
                origin: Origin::Write,
                part: 0,
                parts: 1,
            };
            description.clear();
            write.encode_into(&mut description);
            let weight = Weight { bytes: case.size as u64, time_ns: write.time_ns };
            agent.producer.push(Kind::Write, &[&description, &message(i, case.size)], weight).expect("room");
        }
        Self { name, _agent: agent }
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        for end in ["1.ring", "1.ack"] {
            drop(std::fs::remove_file(format!("{SEGMENT_DIR}/{}.{end}", self.name)));
        }
    }
}
