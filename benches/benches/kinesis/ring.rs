//! A ring full of writes, and the publisher that drains it.

use std::{path::Path, time::Instant};

use bywash_benches::FilledRing;
use bywash_tests::harness::{FaultProxy, Kinesis, Process, program, temporary_directory, wait};
use nix::sys::signal::Signal;

use crate::{Case, bare::CREDENTIALS};

/// The stream of ours.
pub const STREAM: &str = "ours";

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
    let ring = FilledRing::new("kinesis", case.writes(events));
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
    ring.wait_until_drained(&mut publisher, 10);
    let seconds = begin.elapsed().as_secs_f64();
    publisher.terminate(wait::TIMEOUT);
    seconds
}
