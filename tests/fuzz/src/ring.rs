//! Hostile segments: whatever bytes a peer puts into header, control words, records or the consumer's page, both ends
//! give an error or go on; they never crash, hang, read out of bounds or allocate without bound.
//!
//! An input is a list of patches, each 3 bytes of place, 1 byte of length, and the bytes; they are laid over a good ring.

#![no_main]
// What a fuzz target says of a broken property, it says by panicking.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    sync::OnceLock,
};

use bywash_common::{
    config::{Config, RingConfig},
    record::{Loss, Origin, Write},
    ring::{AgentRing, CAPACITY_MIN, Kind, PublisherRing, SEGMENT_DIR, Weight, inspect},
    units::ByteSize,
};
use libfuzzer_sys::fuzz_target;

/// More records than fit would be a loop.
const RECORDS_MAX: u64 = CAPACITY_MIN / 24 + 1;

/// The objects of the ring under attack, and their good bytes.
struct Target {
    config: RingConfig,
    objects: [(File, Vec<u8>); 2],
}

fn target() -> &'static Target {
    static TARGET: OnceLock<Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = format!("bywash-test-{}-fuzz", std::process::id());
        let config = RingConfig { name, size: ByteSize(CAPACITY_MIN), ..Config::default().ring };
        let agent = AgentRing::open(&config).unwrap();
        let mut description = Vec::new();
        let write = Write {
            path: b"/a",
            pid: 1,
            uid: 2,
            gid: 3,
            time_ns: 4,
            command: b"c ",
            offset: 5,
            handle: 6,
            origin: Origin::Write,
            part: 0,
            parts: 1,
        };
        write.encode_into(&mut description);
        for _ in 0..600 {
            agent
                .producer
                .push(Kind::Write, &[&description, b"data"], Weight { bytes: 4, time_ns: 1 })
                .unwrap();
        }
        drop(agent);
        let objects = ["ring", "ack"].map(|role| {
            let path = format!("{SEGMENT_DIR}/{}.1.{role}", config.name);
            let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let good = std::fs::read(&path).unwrap();
            (file, good)
        });
        Target { config, objects }
    })
}

/// Lays the input's patches over the good bytes. Places go on from the data segment into the consumer segment.
fn patch(target: &Target, mut input: &[u8]) {
    for (file, good) in &target.objects {
        file.write_all_at(good, 0).unwrap();
    }
    let [(data, data_good), (ack, ack_good)] = &target.objects;
    while let Some(([a, b, c, len], rest)) = input.split_first_chunk().map(|(head, rest)| (*head, rest)) {
        let (bytes, rest) = rest.split_at(usize::from(len).min(rest.len()));
        let at = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let at = at % (data_good.len() + ack_good.len());
        let (file, at, end) = match at.checked_sub(data_good.len()) {
            Some(at) => (ack, at, ack_good.len()),
            None => (data, at, data_good.len()),
        };
        let fitting = bytes.len().min(end - at);
        file.write_all_at(&bytes[..fitting], at as u64).unwrap();
        input = rest;
    }
}

fuzz_target!(|input: &[u8]| {
    let target = target();
    patch(target, input);
    let _ = inspect(&target.config.name);
    if let Ok(mut publisher) = PublisherRing::attach(&target.config.name, None) {
        let mut payload = Vec::new();
        let mut read = 0;
        while let Ok(Some(entry)) = publisher.consumer.next(&mut payload) {
            read += 1;
            assert!(read <= RECORDS_MAX, "the reader does not come to an end");
            assert!(payload.capacity() as u64 <= CAPACITY_MIN, "more memory than the ring has");
            let _ = Write::decode(&payload);
            let _ = Loss::decode(&payload);
            publisher.consumer.acker().ack(entry.end);
        }
        publisher.consumer.skip_damage();
    }
    // The agent goes on with it, or makes a new generation, which is removed so that the next input meets the first.
    if let Ok(agent) = AgentRing::open(&target.config) {
        for _ in 0..4 {
            let _ = agent.producer.push(Kind::Write, &[&[0; 4000]], Weight { bytes: 4000, time_ns: 1 });
        }
        agent.producer.announce_losses();
        for role in ["ring", "ack"] {
            let _ = std::fs::remove_file(format!("{SEGMENT_DIR}/{}.2.{role}", target.config.name));
        }
    }
});
