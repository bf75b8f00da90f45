//! What bywash promises, tried with real processes, real mounts and a real broker.
//!
//! A name is the property that its test checks. Each test has its own services, ring, directory and broker.

// A test says that something does not hold by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod as_below;
mod cleanup;
mod commands;
mod content;
mod control;
mod crash;
mod directories;
mod ecs;
mod exactly_once;
mod exclude;
mod failed;
mod failed_topic;
mod faults;
mod fifo;
mod fifo_delivery;
mod fifo_producers;
mod format;
mod harness;
mod hostile;
mod kill;
mod kinesis;
mod kubernetes;
mod legacy;
mod lines;
mod load;
mod loss;
mod metrics;
mod monitoring;
mod moving;
mod multiline;
mod names;
mod overlay;
mod placed;
mod privileges;
mod quota;
mod record_time;
mod recovery;
mod reload;
mod reload_publisher;
mod replaced_ring;
mod resources;
mod security;
mod shutdown;
mod sleep;
mod spool;
mod status;
mod strangers;
mod submounts;
mod supervise;
mod survival;
mod systemd;
mod templates;
mod terminal;
mod tokens;
mod tools;
mod topics;
mod units;
mod writers;
mod zookeepers;

use std::{fs::File, io::Write, path::Path};

/// One `write(2)` of all the bytes at the end of a file.
#[track_caller]
fn append(path: &Path, bytes: &[u8]) {
    let mut file = File::options().create(true).append(true).open(path).expect("a file to append to");
    write_once(&mut file, bytes);
}

/// One `write(2)` of all the bytes.
#[track_caller]
fn write_once(file: &mut File, bytes: &[u8]) {
    let written = file.write(bytes).expect("a write");
    assert_eq!(written, bytes.len(), "a short write");
}
