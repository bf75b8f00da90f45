//! `publisher consume` on streams.

use std::{path::Path, sync::mpsc, time::Duration};

use bywash_tests::harness::{
    Bywash, Fault, FaultProxy, Kinesis, Process, program,
    wait::{self, TIMEOUT},
};
use nix::sys::signal::Signal;

use super::SMALL;

/// Kinesis with a stream, a proxy before it, and a running `consume`.
struct Consumer {
    kinesis: Kinesis,
    proxy: FaultProxy,
    _bywash: Bywash,
    process: Process,
}

impl Consumer {
    /// With a stream of that many shards, each with a record `old SHARD`.
    fn start(shards: u32, arguments: &[&str]) -> Self {
        let kinesis = Kinesis::start();
        kinesis.create_stream("logs", shards);
        for shard in 0..shards {
            kinesis.put("logs", shard, shards, format!("old {shard} ").as_bytes());
        }
        let proxy = FaultProxy::start(&kinesis);
        let bywash = Bywash::for_kinesis(&proxy.url(), &SMALL);
        bywash.edit("encoder = \"logstash_base64\"", "encoder = \"raw\"");
        let process = {
            let publisher = program("publisher");
            let fixed =
                [publisher.as_os_str(), "consume".as_ref(), "--config".as_ref(), bywash.config.as_os_str()];
            let words = bywash.environment.iter().map(AsRef::as_ref).chain(fixed);
            let words = words.chain(arguments.iter().map(AsRef::as_ref));
            Process::spawn("consume", Path::new("env"), words, bywash.root(), Signal::SIGKILL)
        };
        Self { kinesis, proxy, _bywash: bywash, process }
    }

    /// Waits until it has printed that.
    #[track_caller]
    fn await_output(&self, text: &str) {
        wait::until(&format!("{text:?} to be printed"), TIMEOUT, || {
            let printed = self.process.stdout();
            if printed.contains(text) { Ok(()) } else { Err(printed) }
        });
    }

    #[track_caller]
    fn await_log(&self, text: &str) {
        wait::until(&format!("{text:?} in the log"), TIMEOUT, || {
            let log = self.process.log();
            if log.contains(text) { Ok(()) } else { Err(log) }
        });
    }
}

#[test]
fn no_shard_starves_where_reading_all_takes_longer_than_they_may_wait() {
    const SHARDS: u32 = 12;
    let consumer = Consumer::start(SHARDS, &["--from-beginning"]);
    consumer.proxy.plan_reads(|| Fault::Slow(Duration::from_millis(50)));
    for shard in 0..SHARDS {
        consumer.await_output(&format!("old {shard}\n"));
    }
}

#[test]
fn what_comes_while_reading_fails_is_read_afterwards_and_nothing_older() {
    let consumer = Consumer::start(2, &[]);
    let (seen, reads) = mpsc::channel();
    consumer.proxy.plan_reads(move || {
        // The test may be through.
        let _ = seen.send(());
        Fault::Call(400, "ProvisionedThroughputExceededException", "slow down")
    });
    // A read of each shard has failed, or is failing.
    for _ in 0..3 {
        reads.recv_timeout(TIMEOUT).unwrap();
    }
    for shard in 0..2 {
        consumer.kinesis.put("logs", shard, 2, format!("during {shard} ").as_bytes());
    }
    consumer.proxy.plan_reads(|| Fault::None);
    for shard in 0..2 {
        consumer.await_output(&format!("during {shard}\n"));
    }
    assert!(!consumer.process.stdout().contains("old"), "{}", consumer.process.stdout());
}

#[test]
fn a_stream_that_is_made_again_is_noticed_and_read_from_its_beginning() {
    let consumer = Consumer::start(1, &["--from-beginning"]);
    consumer.await_output("old 0\n");
    consumer.kinesis.delete_stream("logs");
    consumer.await_log("stream logs was deleted: waiting for it");
    consumer.kinesis.create_stream("logs", 1);
    consumer.kinesis.put("logs", 0, 1, b"new 0 ");
    consumer.await_output("new 0\n");
    // At once, so that nobody sees that there was none in between.
    consumer.kinesis.delete_stream("logs");
    consumer.kinesis.create_stream("logs", 1);
    consumer.kinesis.put("logs", 0, 1, b"newest 0 ");
    consumer.await_output("newest 0\n");
}

#[test]
fn each_signal_that_ends_a_program_ends_it() {
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        let mut consumer = Consumer::start(1, &["--from-beginning"]);
        consumer.await_output("old 0\n");
        consumer.process.signal(signal);
        consumer.process.wait(TIMEOUT);
    }
}
