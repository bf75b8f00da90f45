//! The writes that the delivery benchmarks send: as records in a ring for the publisher, and ready-made for the bare client.

use std::path::PathBuf;

use bywash_common::{
    config::{Config, RingConfig},
    record::{Origin, Write},
    ring::{AgentRing, Kind, SEGMENT_DIR, Weight, inspect},
    units::ByteSize,
};
use bywash_tests::harness::{PREFIX, Process, wait};
use publisher::encode::{WriteEvent, Writer, encoder};

/// Who writes them all, beside root.
const PID: u32 = 4711;
const COMMAND: &[u8] = b"/usr/bin/server --config /etc/server.conf ";
/// What a record adds to its message at most.
const RECORD_OVERHEAD_BYTES: usize = 256;
/// The smallest ring, in bytes.
const RING_BYTES_MIN: usize = 1 << 20;

/// Writes of one size, spread over files.
#[derive(Clone, Copy, Debug)]
pub struct Writes {
    /// Bytes of each.
    pub size: usize,
    /// How many files.
    pub files: usize,
    /// How many writes.
    pub count: usize,
}

impl Writes {
    /// What the publisher makes of them by default, each with its path.
    pub fn payloads(self) -> Vec<(String, Vec<u8>)> {
        let mut encoder = encoder(&Config::default().event);
        let encode = |i| {
            let mut payload = Vec::new();
            let path = self.path(i);
            let event = WriteEvent {
                path: path.as_bytes(),
                writer: Some(Writer {
                    pid: PID,
                    uid: 0,
                    gid: 0,
                    user: "root",
                    group: "root",
                    command: COMMAND,
                }),
                unattributed: false,
                time_ns: time_ns(i),
                offset: self.offset(i),
                event_id: &Self::event_id(i),
                sequence: i as u64,
                part: None,
                piece: None,
                message: &self.message(i),
            };
            encoder.write(&event, &mut payload);
            (path, payload)
        };
        (0..self.count).map(encode).collect()
    }

    /// The event id of the `i`-th, of a ring whose uuid is nothing.
    pub fn event_id(i: usize) -> String {
        format!("00000000-0000-0000-0000-000000000000-{i}")
    }

    fn path(self, i: usize) -> String {
        format!("/var/log/application/server-{}.log", i % self.files)
    }

    fn offset(self, i: usize) -> u64 {
        (i / self.files * self.size) as u64
    }

    /// What each write says: lines as logs have them.
    fn message(self, i: usize) -> Vec<u8> {
        let line =
            format!("2026-01-01T00:00:00.000Z INFO request={i} method=GET path=/api/v1/items status=200 ");
        let mut message: Vec<u8> = line.bytes().cycle().take(self.size - 1).collect();
        message.push(b'\n');
        message
    }
}

fn time_ns(i: usize) -> u64 {
    1_767_225_600_000_000_000 + i as u64 * 1000
}

/// A ring that holds all the writes; its objects go with it.
pub struct FilledRing {
    /// Its name, for the publisher's configuration.
    pub name: String,
    _agent: AgentRing,
}

impl FilledRing {
    /// Makes the ring of the benchmark `of`.
    ///
    /// # Panics
    /// If there is no room for it.
    pub fn new(of: &str, writes: Writes) -> Self {
        let name = format!("{PREFIX}-{}-{of}", std::process::id());
        let bytes = ((writes.size + RECORD_OVERHEAD_BYTES) * writes.count).max(RING_BYTES_MIN) as u64;
        let config = RingConfig { name: name.clone(), size: ByteSize(bytes), group: None };
        let agent = AgentRing::open(&config).expect("a ring");
        agent.populate();
        let mut description = Vec::new();
        for i in 0..writes.count {
            let path = writes.path(i);
            let write = Write {
                path: path.as_bytes(),
                pid: PID,
                uid: 0,
                gid: 0,
                time_ns: time_ns(i),
                command: COMMAND,
                offset: writes.offset(i),
                handle: (i % writes.files) as u64,
                origin: Origin::Write,
                part: 0,
                parts: 1,
            };
            description.clear();
            write.encode_into(&mut description);
            let weight = Weight { bytes: writes.size as u64, time_ns: write.time_ns };
            agent.producer.push(Kind::Write, &[&description, &writes.message(i)], weight).expect("room");
        }
        Self { name, _agent: agent }
    }

    /// Waits until the publisher has delivered everything.
    ///
    /// # Panics
    /// If the publisher ends before, or takes `patience` times the harness's patience.
    pub fn wait_until_drained(&self, publisher: &mut Process, patience: u32) {
        wait::until("the ring to be drained", wait::TIMEOUT * patience, || {
            assert!(publisher.ended().is_none(), "the publisher ended: {}", publisher.log());
            let left = inspect(&self.name).map_err(|e| e.to_string())?.used_records;
            if left == 0 { Ok(()) } else { Err(format!("{left} records left")) }
        });
    }
}

impl Drop for FilledRing {
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
