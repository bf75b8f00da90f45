//! Streams share the requests that there may be at a time.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bywash_tests::harness::{Bywash, Fault, FaultProxy, Kinesis, Settings};

use super::SMALL;
use crate::append;

#[test]
fn a_stream_with_a_backlog_leaves_the_others_their_turn() {
    const FILES: usize = 40;
    const LINES: usize = 5;
    let kinesis = Kinesis::start();
    kinesis.create_stream("logs", 1);
    kinesis.create_stream("quiet", 1);
    let proxy = FaultProxy::start(&kinesis);
    let settings = Settings { directories: &["a", "b"], kinesis: "requests_max = 2", ..SMALL };
    let mut bywash = Bywash::for_kinesis(&proxy.url(), &settings);
    let b = bywash.root().join("b");
    bywash.edit(&format!("path = {b:?}"), &format!("path = {b:?}\ntopic = \"quiet\""));
    bywash.start_agent();
    for line in 0..LINES {
        for file in 0..FILES {
            append(&bywash.file(&format!("f{file}")), format!("{line}\n").as_bytes());
        }
    }
    append(&b.join("f"), b"quiet\n");
    let streams = Arc::new(Mutex::new(Vec::new()));
    let plan_streams = Arc::clone(&streams);
    proxy.plan(move |put| {
        plan_streams.lock().unwrap().push(put.stream.clone());
        Fault::Slow(Duration::from_millis(100))
    });
    bywash.start_publisher();
    assert_eq!(kinesis.read("quiet").events(1).len(), 1);
    let streams = streams.lock().unwrap().clone();
    let turn = streams.iter().position(|stream| stream == "quiet").unwrap();
    // The backlog alone takes FILES * LINES / 5 requests.
    assert!(turn < FILES * LINES / 5 / 2, "it came after {turn} requests of the other");
    kinesis.read("logs").events(FILES * LINES);
}
