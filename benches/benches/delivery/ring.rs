//! A ring full of writes, and the publisher that drains it.

use std::{path::PathBuf, time::Instant};

use bywash_benches::cpu_time;
use bywash_common::{
    config::RingConfig,
    record::{Origin, Write},
    ring::{AgentRing, Kind, SEGMENT_DIR, Weight, inspect},
    units::ByteSize,
};
use bywash_tests::harness::{Broker, Process, program, temporary_directory, wait};
use nix::sys::signal::Signal;

use crate::Taken;

/// How many files the writes are spread over.
pub const FILES: usize = 8;
/// The topic of ours.
const TOPIC: &str = "ours";
/// What a record adds to its message at most.
const RECORD_OVERHEAD_BYTES: usize = 256;
/// Smallest ring.
const RING_BYTES_MIN: usize = 1 << 20;

/// Drains as many writes to the broker.
pub fn measure(broker: &Broker, size: usize, events: usize) -> Taken {
    let ring = Filled::new(size, events);
    let directory = temporary_directory();
    let config = directory.path().join("bywash.toml");
    let text = format!(
        "[ring]\nname = {:?}\n[kafka]\nbrokers = [{:?}]\ntopic = {TOPIC:?}\n",
        ring.name,
        broker.address()
    );
    std::fs::write(&config, text).expect("a configuration file");
    let begin = Instant::now();
    let arguments = ["run".as_ref(), "--config".as_ref(), config.as_os_str()];
    let mut publisher =
        Process::spawn("publisher", &program("publisher"), arguments, directory.path(), Signal::SIGKILL);
    wait::until("the ring to be drained", wait::PATIENCE * 4, || {
        assert!(publisher.ended().is_none(), "the publisher ended");
        let left = inspect(&ring.name).map_err(|e| e.to_string())?.used_records;
        if left == 0 { Ok(()) } else { Err(format!("{left} records left")) }
    });
    let wall = begin.elapsed();
    let cpu = cpu_time(publisher.pid().as_raw());
    publisher.terminate(wait::PATIENCE);
    Taken { wall, cpu }
}

/// The path of the `i`-th write.
pub fn path(i: usize) -> String {
    format!("/var/log/application/server-{}.log", i % FILES)
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
    fn new(size: usize, events: usize) -> Self {
        let name = format!("bywash-test-{}-delivery", std::process::id());
        let bytes = ((size + RECORD_OVERHEAD_BYTES) * events).max(RING_BYTES_MIN) as u64;
        let config = RingConfig { name: name.clone(), size: ByteSize(bytes), group: None };
        let agent = AgentRing::open(&config).expect("a ring");
        let mut description = Vec::new();
        for i in 0..events {
            let path = path(i);
            let write = Write {
                path: path.as_bytes(),
                pid: 4711,
                uid: 0,
                gid: 0,
                time_ns: 1_767_225_600_000_000_000 + i as u64 * 1000,
                command: b"/usr/bin/server --config /etc/server.conf ",
                offset: (i / FILES * size) as u64,
                handle: (i % FILES) as u64,
                origin: Origin::Write,
                part: 0,
                parts: 1,
            };
            description.clear();
            write.encode_into(&mut description);
            let weight = Weight { bytes: size as u64, time_ns: write.time_ns };
            agent.producer.push(Kind::Write, &[&description, &message(i, size)], weight).expect("room");
        }
        Self { name, _agent: agent }
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let of_ring = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with(&format!("{}.", self.name))
        };
        let listing = std::fs::read_dir(SEGMENT_DIR).into_iter().flatten().flatten();
        for path in listing.map(|entry| entry.path()).filter(of_ring) {
            drop(std::fs::remove_file(path));
        }
    }
}
