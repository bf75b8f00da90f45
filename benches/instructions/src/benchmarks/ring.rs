//! The ring alone, both ends in one process.

use anyhow::{Result, ensure};
use bywash_common::{
    config::RingConfig,
    record::{Origin, Write},
    ring::{Acker, AgentRing, Kind, PublisherRing, SEGMENT_DIR, Weight},
    units::ByteSize,
};

use super::{Bench, Counted};

/// When all is written, in nanoseconds since the epoch.
pub const TIME_NS: u64 = 1_767_225_600_000_000_000;

/// A ring of this process's own, removed at the end.
pub struct Ring(RingConfig);

impl Ring {
    /// Large enough for all that is counted.
    pub fn new() -> Self {
        let name = format!("bywash-test-instructions-{}", std::process::id());
        Self(RingConfig { name, size: ByteSize(64 << 20), group: None })
    }

    /// For whoever opens it.
    pub fn config(&self) -> &RingConfig {
        &self.0
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        for end in ["1.ring", "1.ack"] {
            // It may not have been made.
            let _ = std::fs::remove_file(format!("{SEGMENT_DIR}/{}.{end}", self.0.name));
        }
    }
}

/// A record's description, as the agent makes it.
pub fn description() -> Vec<u8> {
    let mut description = Vec::new();
    let write = Write {
        path: b"/var/log/application/server.log",
        pid: 4711,
        uid: 0,
        gid: 0,
        time_ns: TIME_NS,
        command: b"/usr/bin/server --config /etc/server.conf ",
        offset: 123_456,
        handle: 17,
        origin: Origin::Write,
        part: 0,
        parts: 1,
    };
    write.encode_into(&mut description);
    description
}

/// `len` bytes of text.
pub fn text(len: usize) -> Vec<u8> {
    b"2026-01-01T00:00:00.000Z INFO request=17 method=GET path=\"/api/v1/items\" status=200\n"
        .iter()
        .copied()
        .cycle()
        .take(len)
        .collect()
}

struct Both {
    agent: AgentRing,
    publisher: PublisherRing,
    acker: Acker,
    description: Vec<u8>,
    data: Vec<u8>,
    payload: Vec<u8>,
    counts_push: bool,
    _ring: Ring,
}

/// A write of `len` bytes, put into the ring.
pub fn push(len: usize) -> Result<Box<dyn Bench>> {
    both(len, true)
}

/// A write of `len` bytes, taken out of the ring.
pub fn pop(len: usize) -> Result<Box<dyn Bench>> {
    both(len, false)
}

fn both(len: usize, counts_push: bool) -> Result<Box<dyn Bench>> {
    let ring = Ring::new();
    let agent = AgentRing::open(ring.config())?;
    let publisher = PublisherRing::attach(&ring.config().name, None)?;
    let acker = publisher.consumer.acker();
    let (description, data, payload) = (description(), text(len), Vec::new());
    Ok(Box::new(Both { agent, publisher, acker, description, data, payload, counts_push, _ring: ring }))
}

impl Bench for Both {
    fn round(&mut self, counted: Counted<'_>) -> Result<()> {
        let Self { agent, publisher, acker, description, data, payload, counts_push, .. } = self;
        let weight = Weight { bytes: data.len() as u64, time_ns: TIME_NS };
        let (mut pushed, mut popped) = (None, None);
        let mut push = || pushed = Some(agent.producer.push(Kind::Write, &[description, data], weight));
        let mut pop = || popped = Some(publisher.consumer.next(payload));
        if *counts_push {
            counted(&mut push);
            pop();
        } else {
            push();
            counted(&mut pop);
        }
        ensure!(matches!(pushed, Some(Ok(()))), "{pushed:?}");
        let entry = popped.transpose()?.flatten();
        ensure!(payload.ends_with(data), "another payload");
        if let Some(entry) = entry {
            acker.ack(entry.end);
        }
        Ok(())
    }
}
