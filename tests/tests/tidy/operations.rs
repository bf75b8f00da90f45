//! The tables of docs/operations.md are what the formats of ring and spool say.

use std::fs;

use bywash_common::{
    record::{Origin, Write},
    ring::record_size,
    units::{human_bytes, human_seconds},
};

use super::root;

/// Events a second, and bytes of each, of the rows.
const LOADS: [(u64, u64); 5] = [(100, 200), (1_000, 200), (1_000, 4_096), (10_000, 200), (50_000, 200)];
const RING_BYTES: u64 = 64 << 20;
const SPOOL_BYTES: u64 = 1 << 30;

/// The bytes of a write's description in a record, for the path and the command line that the page names.
fn description() -> usize {
    let write = Write {
        path: b"/var/log/app/access.log",
        pid: 41_234,
        uid: 33,
        gid: 33,
        time_ns: 1_800_000_000_000_000_000,
        command: b"nginx: worker process ",
        offset: 1 << 28,
        handle: 1 << 20,
        origin: Origin::Write,
        part: 0,
        parts: 1,
    };
    let mut encoded = Vec::new();
    write.encode_into(&mut encoded);
    encoded.len()
}

/// The bytes of a spool record beside its payload, as the spool's source has it.
fn spool_header() -> usize {
    let source = fs::read_to_string(root().join("publisher/src/spool/segment.rs")).unwrap();
    let (_, behind) = source.split_once("pub const RECORD_HEADER_BYTES: usize = ").unwrap();
    behind.split(';').next().unwrap().parse().unwrap()
}

fn row((events, bytes): (u64, u64)) -> String {
    let payload = description() + bytes as usize;
    let ring = events * record_size(payload);
    let spool = events * (spool_header() + payload).next_multiple_of(8) as u64;
    format!(
        "| {events} | {bytes} B | {}/s | {} | {} | {} | {} |",
        human_bytes(ring),
        human_seconds(RING_BYTES as f64 / ring as f64),
        human_seconds(SPOOL_BYTES as f64 / spool as f64),
        human_bytes(spool * 3_600),
        human_bytes(spool * 86_400),
    )
}

#[test]
fn the_sizes_for_an_outage_are_those_of_the_formats() {
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let wanted: Vec<String> = LOADS.map(row).into();
    assert!(page.contains(&wanted.join("\n")), "docs/operations.md lacks:\n{}", wanted.join("\n"));
    let description = format!("{} bytes of description", description());
    assert!(page.contains(&description), "docs/operations.md does not say `{description}`");
}
